//! The answers that a model ranks by their words: the labels, as the tokenizer gives them.

use std::collections::HashMap;
use std::sync::Arc;

use unimo_batch::ConfigError;
use unimo_data::TextTokenizer;
use unimo_objectives::tasks::answers::Candidates;

use crate::error::TrainError;
use crate::model::Model;
use crate::recipe::Recipe;
use crate::tasks::labels::Labels;

/// Gives a model with `[objectives.answers]` the answers that it ranks. Returns a line if some of them are the same words to the
/// tokenizer, since of those the first one is always given.
///
/// # Errors
///
/// There are no labels, or a question of the greatest length leaves no room for the longest answer.
pub(crate) fn give(
    model: &mut Model,
    recipe: &Recipe,
    tokenizer: &TextTokenizer,
    labels: Option<&Labels>,
) -> Result<Option<String>, TrainError> {
    let positions = model.backbone.text.longest_text();
    let Some(answers) = &mut model.objectives.answers else {
        return Ok(None);
    };
    let Some(labels) = labels else {
        return Err(TrainError::Check(
            "[objectives.answers] ranks the labels of its task, and there are none: a run and an export have them in labels.json"
                .to_owned(),
        ));
    };
    let words = labels.names().iter().map(|name| {
        let mut ids = tokenizer.encode(name, usize::MAX).ids;
        // An answer follows a question, which has the begin token.
        ids.remove(0);
        ids
    });
    let candidates = Candidates::new(words.collect());
    let question = recipe.data.max_text_length;
    let room = positions.saturating_sub(question);
    let mut lengths = candidates.words().iter().map(Vec::len);
    let longest = lengths.position(|length| length == candidates.longest());
    let longest = longest.and_then(|at| labels.name(at)).unwrap_or_default();
    let most = positions.saturating_sub(candidates.longest());
    let advice = match most {
        0 => "leave it out of the labels",
        _ => "or leave it out of the labels",
    };
    ConfigError::unless(
        candidates.longest() <= room,
        "data.max_text_length",
        question,
        format_args!(
            "must be at most {most}: the longest answer, {:?}, has {} tokens with its end, question and answer are one text, and the text \
             encoder has {positions} positions; {advice}",
            shortened(longest),
            candidates.longest()
        ),
    )
    .map_err(TrainError::of_recipe)?;
    let mut seen: HashMap<&[i32], usize> = HashMap::new();
    let mut same = Vec::new();
    for (at, words) in candidates.words().iter().enumerate() {
        let first = *seen.entry(words).or_insert(at);
        if first != at {
            same.push((first, at));
        }
    }
    let line = same.first().map(|(first, at)| {
        let name = |at: &usize| labels.name(*at).unwrap_or_default();
        format!(
            "{} of {} answers are the same tokens as an earlier one, which is given in their place, as {:?} for {:?}",
            same.len(),
            labels.len(),
            name(first),
            name(at)
        )
    });
    answers.candidates = Some(Arc::new(candidates));
    Ok(line)
}
/// The begin of a text, for a message.
fn shortened(text: &str) -> String {
    const SHOWN: usize = 60;
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}

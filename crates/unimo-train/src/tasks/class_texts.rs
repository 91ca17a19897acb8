//! The texts of classes that a model reads: the labels in the template of `[objectives.prompts]`, as the tokenizer gives them.

use std::collections::HashMap;

use unimo_batch::ConfigError;
use unimo_data::{Pad, TextTokenizer};
use unimo_encoders::text::TextInput;
use unimo_objectives::tasks::prompts::Prompts;

use crate::error::TrainError;
use crate::model::Model;
use crate::recipe::Recipe;
use crate::tasks::labels::Labels;
use crate::tasks::listed;

/// Gives a model with `[objectives.prompts]` the texts of its classes. Returns a line if some are cut.
///
/// # Errors
///
/// There are no labels, or two classes are the same text to the model.
pub(crate) fn give(
    model: &mut Model,
    recipe: &Recipe,
    tokenizer: &TextTokenizer,
    labels: Option<&Labels>,
) -> Result<Option<String>, TrainError> {
    let Some(prompts) = &model.objectives.prompts else {
        return Ok(None);
    };
    let Some(labels) = labels else {
        return Err(TrainError::Check(
            "[objectives.prompts] reads the labels of its task, and there are none: a run and an export have them in labels.json"
                .to_owned(),
        ));
    };
    let (input, line) = read((model, prompts), recipe, tokenizer, labels.names())?;
    if let Some(prompts) = &mut model.objectives.prompts {
        prompts.know(&model.backbone, &input);
    }
    Ok(line)
}

/// The texts of classes, with a line if some are cut.
///
/// # Errors
///
/// Two classes are the same text to the model, which could not tell them apart.
pub(crate) fn read(
    (model, prompts): (&Model, &Prompts),
    recipe: &Recipe,
    tokenizer: &TextTokenizer,
    classes: &[String],
) -> Result<(TextInput, Option<String>), TrainError> {
    let longest = recipe.data.max_text_length;
    let texts = classes.iter().map(|class| prompts.config.text(class));
    let whole: Vec<_> = texts
        .map(|text| tokenizer.encode(&text, usize::MAX))
        .collect();
    let cut = classes.iter().zip(&whole);
    let cut = cut.filter(|(_, text)| text.ids.len() > longest);
    let cut: Vec<String> = cut.map(|(class, _)| format!("{class:?}")).collect();
    let texts = classes.iter().map(|class| {
        let text = prompts.config.text(class);
        tokenizer.encode(&text, longest)
    });
    let texts: Vec<_> = texts.collect();
    let mut seen: HashMap<&[i32], &str> = HashMap::new();
    for (class, text) in classes.iter().zip(&texts) {
        if let Some(first) = seen.insert(&text.ids, class) {
            return Err(TrainError::of_recipe(ConfigError {
                key: "objectives.prompts.template".to_owned(),
                value: format!("{:?}", prompts.config.template),
                allowed: format!(
                    "must give every class a text of its own within data.max_text_length = {longest} tokens; the classes {first:?} and \
                     {class:?} are the same to the model"
                ),
            }));
        }
    }
    let line = (!cut.is_empty()).then(|| {
        format!(
            "the texts of {} of {} classes are cut to data.max_text_length = {longest} tokens: {}",
            cut.len(),
            classes.len(),
            listed(&cut)
        )
    });
    let text = &model.backbone.text;
    let device = text.word_embedding.weight.device();
    let padded = tokenizer.pad(&texts, longest, Pad::Longest);
    let input = text.input(&padded.ids, &padded.lengths, padded.length, &device);
    Ok((input, line))
}

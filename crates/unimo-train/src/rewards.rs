//! The reward of self-critical training: CIDEr-D, with the document frequencies of the training captions.

use std::sync::Arc;

use unimo_batch::TextRole;
use unimo_data::{Source, Split, TextTokenizer, readable};
use unimo_eval::captions::DocumentFrequencies;
use unimo_objectives::pretraining::lm::self_critical::Reward;

use crate::error::TrainError;
use crate::model::Model;

/// CIDEr-D over token ids.
#[derive(Debug)]
struct CiderD(DocumentFrequencies);

impl Reward for CiderD {
    fn of(&self, caption: &[i32], references: &[&[i32]]) -> f64 {
        let names = |ids: &[i32]| -> Vec<String> { ids.iter().map(i32::to_string).collect() };
        let references: Vec<Vec<String>> = references.iter().map(|ids| names(ids)).collect();
        let score = self.0.cider_d(&names(caption), &references);
        score.expect("invariant: an image has a caption")
    }
}

/// Gives a model that learns from captions of its own what they are scored by. Returns a line that says on how many images document
/// frequencies were counted; `None` if the recipe asks for no reward.
///
/// # Errors
///
/// The training captions cannot be read, or there are none.
pub(crate) fn give(
    model: &mut Model,
    source: &dyn Source,
    tokenizer: &TextTokenizer,
    longest: usize,
) -> Result<Option<String>, TrainError> {
    let Some(lm) = model.objectives.lm.as_mut() else {
        return Ok(None);
    };
    let Some(config) = &lm.config.self_critical else {
        return Ok(None);
    };
    let all = source.len(Split::Train);
    let count = config.documents.min(all);
    let names: Vec<String> = (0..tokenizer.vocab_size())
        .map(|id| id.to_string())
        .collect();
    let mut documents: Vec<Vec<Vec<&str>>> = Vec::with_capacity(count);
    for number in 0..count {
        // The product of two sizes may need more than 64 bits.
        let index = (number as u128 * all as u128 / count as u128) as usize;
        let captions = readable(source.captions(Split::Train, index))?;
        let roles = readable(source.roles(Split::Train, index))?;
        let describes = |at: usize| {
            roles
                .get(at)
                .is_none_or(|role| *role == TextRole::Describes)
        };
        let tokens = captions.iter().enumerate().filter(|(at, _)| describes(*at));
        let tokens = tokens.map(|(_, caption)| {
            let ids = tokenizer.encode(caption, longest).ids;
            let words = ids.into_iter().skip(1);
            words.map(|id| names[id as usize].as_str()).collect()
        });
        let tokens: Vec<Vec<&str>> = tokens.collect();
        // The texts of a damaged sample are left out.
        if !tokens.is_empty() {
            documents.push(tokens);
        }
    }
    let frequencies = DocumentFrequencies::new(documents.iter().map(Vec::as_slice));
    let frequencies = frequencies
        .map_err(|error| TrainError::Check(format!("objectives.lm.self_critical: {error}")))?;
    let line = format!(
        "captions of the model's own are scored by CIDEr-D, with the document frequencies of {} of {all} training images",
        frequencies.images()
    );
    lm.reward = Some(Arc::new(CiderD(frequencies)));
    Ok(Some(line))
}

//! `unimo fill-mask`: the likeliest words for a masked caption, given a picture.

use std::path::PathBuf;

use burn::tensor::activation::softmax;
use serde::Serialize;
use unimo_core::layers::cast;
use unimo_encoders::fusion::Keep;

use super::{Matcher, ModelArgs, Predictor};
use crate::error::TrainError;
use crate::model::host;

/// `unimo fill-mask`.
#[derive(Debug, clap::Args)]
pub struct FillMaskArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// The picture.
    #[arg(long, value_name = "FILE")]
    image: PathBuf,
    /// The caption, with the tokenizer's mask token (`<mask>` or `[MASK]`) in place of each word that is asked for.
    #[arg(long)]
    text: String,
    /// How many words for each mask.
    #[arg(long, default_value_t = 5)]
    top: usize,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// A word for a mask.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Candidate {
    /// The token as the vocabulary spells it.
    pub token: String,
    /// Its id.
    pub id: i32,
    /// Its probability.
    pub score: f64,
    /// The caption with the word in the mask's place and other masks left out.
    pub text: String,
}

/// Runs the command.
///
/// # Errors
///
/// The model or the picture cannot be read, the model has no language head, or the caption has no mask.
pub fn run(args: &FillMaskArgs) -> Result<(), TrainError> {
    let predictor = Predictor::open(&args.model)?;
    let found = fill(&predictor, &args.image, &args.text, args.top)?;
    if args.json {
        let json = serde_json::to_string_pretty(&found)
            .map_err(|e| TrainError::Check(format!("the words cannot be written: {e}")))?;
        println!("{json}");
        return Ok(());
    }
    for (mask, words) in found.iter().enumerate() {
        if found.len() > 1 {
            println!("mask {}", mask + 1);
        }
        for word in words {
            println!("{:6.2}%  {}", 100.0 * word.score, word.text);
        }
    }
    Ok(())
}

/// The likeliest words for every mask, in order.
///
/// # Errors
///
/// As [`run`].
pub fn fill(
    predictor: &Predictor,
    image: &std::path::Path,
    text: &str,
    top: usize,
) -> Result<Vec<Vec<Candidate>>, TrainError> {
    let Matcher::Pair(model) = &predictor.matcher else {
        return Err(predictor.lacks("language head", "CLIP has none"));
    };
    let mlm = model.objectives.mlm.as_ref().ok_or_else(|| {
        predictor.lacks("language head", "it was not trained with [objectives.mlm]")
    })?;
    let tokenizer = &predictor.tokenizer;
    let Some(mask) = tokenizer.specials().mask else {
        return Err(predictor.lacks("mask token", "its tokenizer has none"));
    };
    let encoded = tokenizer.encode_with_masks(text, predictor.max_text_length);
    let masks: Vec<usize> = (0..encoded.ids.len())
        .filter(|at| encoded.ids[*at] == mask)
        .collect();
    if masks.is_empty() {
        return Err(TrainError::Check(format!(
            "--text holds no {}, which is the mask of this model",
            tokenizer.token(mask).unwrap_or_default()
        )));
    }
    let pixels = predictor
        .picture(image)
        .map_err(|error| TrainError::Check(error.reason))?;
    let images = model.backbone.encode_images(predictor.pixels(pixels));
    let texts = predictor.text_features(model, std::slice::from_ref(&encoded));
    let fused = model.backbone.fuse(&texts, &images, Keep::Nothing);
    let states = fused.text().clone();
    let [_, length, width] = states.dims();
    let words = &model.backbone.text.word_embedding;
    let logits = mlm.logits(words, states.reshape([length, width]));
    let logits = cast(logits, burn::tensor::FloatDType::F32);
    masks
        .iter()
        .map(|at| {
            let shares = host(softmax(logits.clone().narrow(0, *at, 1), 1));
            let mut order: Vec<usize> = (0..shares.len().min(tokenizer.vocab_size())).collect();
            order.sort_by(|a, b| shares[*b].total_cmp(&shares[*a]));
            let candidate = |id: &usize| {
                let mut ids = encoded.ids.clone();
                ids[*at] = *id as i32;
                Candidate {
                    token: tokenizer.token(*id as i32).unwrap_or_default(),
                    id: *id as i32,
                    score: f64::from(shares[*id]),
                    text: tokenizer.decode(&ids),
                }
            };
            Ok(order.iter().take(top).map(candidate).collect())
        })
        .collect()
}

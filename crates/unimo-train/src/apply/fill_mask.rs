//! `unimo fill-mask`: the likeliest words for a masked caption, given an image, or for a masked text, from a text encoder alone.

use std::path::{Path, PathBuf};

use burn::tensor::Tensor;
use burn::tensor::activation::softmax;
use serde::Serialize;
use unimo_core::dtype::cast;
use unimo_data::Encoded;
use unimo_encoders::joint::View;
use unimo_encoders::output::Keep;

use super::{Matcher, ModelArgs, Predictor};
use crate::error::TrainError;
use crate::model::host;

/// `unimo fill-mask`.
#[derive(Debug, clap::Args)]
pub struct FillMaskArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// The image; a BERT or RoBERTa alone takes none.
    #[arg(long, value_name = "FILE")]
    image: Option<PathBuf>,
    /// The caption, with the tokenizer's mask token (`<mask>` or `[MASK]`) in place of each word to fill in.
    #[arg(long)]
    text: String,
    /// How many words per mask.
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
    /// The caption with the word in place of the mask, without the other masks.
    pub text: String,
}

/// Runs the command.
///
/// # Errors
///
/// The model or the image cannot be read, the model has no language head, or the caption has no mask.
pub fn run(args: &FillMaskArgs) -> Result<(), TrainError> {
    let predictor = Predictor::open(&args.model)?;
    let found = fill(&predictor, args.image.as_deref(), &args.text, args.top)?;
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
    image: Option<&Path>,
    text: &str,
    top: usize,
) -> Result<Vec<Vec<Candidate>>, TrainError> {
    if top == 0 {
        return Err(TrainError::Check("--top must be at least 1".to_owned()));
    }
    let tokenizer = predictor.tokenizer()?;
    let Some(mask) = tokenizer.specials().mask else {
        return Err(predictor.lacks("mask token", "its tokenizer has none"));
    };
    let spelt = tokenizer.token(mask).unwrap_or_default();
    let encoded = tokenizer.encode_with_masks(text, predictor.max_text_length);
    let masks: Vec<usize> = (0..encoded.ids.len())
        .filter(|at| encoded.ids[*at] == mask)
        .collect();
    let given = text.matches(&spelt).count();
    if masks.len() < given && tokenizer.is_cut(text, predictor.max_text_length) {
        return Err(TrainError::Check(format!(
            "--text is longer than the {} tokens that the model reads, and {} of its {given} {spelt} lie beyond them",
            predictor.max_text_length,
            given - masks.len()
        )));
    }
    if masks.is_empty() {
        return Err(TrainError::Check(format!(
            "--text holds no {spelt}, which is the mask of this model"
        )));
    }
    let logits = logits(predictor, image, &encoded)?;
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

/// Logits over the vocabulary at every position of one text.
///
/// # Shapes
///
/// - output: `[L, V]`
fn logits(
    predictor: &Predictor,
    image: Option<&Path>,
    encoded: &Encoded,
) -> Result<Tensor<2>, TrainError> {
    let one = std::slice::from_ref(encoded);
    let rows = |states: Tensor<3>| {
        let [_, length, width] = states.dims();
        states.reshape([length, width])
    };
    if let Matcher::Text(encoder, head) = &predictor.matcher {
        let head = head.as_ref().ok_or_else(|| {
            predictor.lacks(
                "language head",
                "its checkpoint holds neither cls.predictions nor lm_head",
            )
        })?;
        if image.is_some() {
            return Err(predictor.lacks(
                "image encoder",
                "it is a text encoder alone; leave --image out",
            ));
        }
        let length = encoded.ids.len();
        let input = encoder.input(&encoded.ids, &[length], length, &predictor.device);
        let states = encoder.forward(&input, 1).remove(0);
        return Ok(head.logits(&encoder.word_embedding, rows(states)));
    }
    let model = predictor.pair("language head")?;
    let mlm = model.objectives.mlm.as_ref().ok_or_else(|| {
        predictor.lacks("language head", "it was not trained with [objectives.mlm]")
    })?;
    let words = &model.backbone.text.word_embedding;
    let Some(image) = image else {
        if !mlm.config.texts_alone {
            return Err(TrainError::Check(format!(
                "--image is missing: {} fills masks in captions of images",
                predictor.given
            )));
        }
        let texts = predictor.text_features(model, one)?;
        let view = View::default();
        let fused = model
            .backbone
            .fuse_parts(Some(&texts), None, &view, Keep::Nothing);
        return Ok(mlm.logits(words, rows(fused.text().clone())));
    };
    if !model.backbone.reads_pixels() {
        return Err(predictor.lacks(
            "encoder of pixels",
            "it reads no image files; leave --image out",
        ));
    }
    let pixels = predictor
        .picture(image)
        .map_err(|error| TrainError::Check(error.reason))?;
    let images = model.backbone.encode_images(predictor.pixels(pixels)?);
    let texts = predictor.text_features(model, one)?;
    let fused = model.backbone.fuse(&texts, &images, Keep::Nothing);
    Ok(mlm.logits(words, rows(fused.text().clone())))
}

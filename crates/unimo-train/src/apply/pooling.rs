//! One vector for a text or an image, from an encoder alone.

use std::path::Path;

use burn::tensor::{Tensor, TensorData};
use unimo_encoders::public::{PublicConfigError, read_json};

use crate::error::TrainError;

/// How the states of all positions become one vector.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Pooling {
    /// The state of the first position: `[CLS]`, `<s>`, the class token.
    #[default]
    Class,
    /// The mean over all tokens of a text, begin and end included, or over all patches of an image.
    Mean,
}

/// The file in which sentence-transformers says it.
const FILE: &str = "1_Pooling/config.json";

impl Pooling {
    /// Parses the value of `--pooling`.
    ///
    /// # Errors
    ///
    /// The word is not one of those that are allowed.
    pub fn parse(given: &str) -> Result<Self, String> {
        match given {
            "class" => Ok(Self::Class),
            "mean" => Ok(Self::Mean),
            _ => Err("allowed: class, mean".to_owned()),
        }
    }

    /// Reads the pooling of a sentence-transformers folder; the first position if it says nothing.
    ///
    /// # Errors
    ///
    /// It asks for a pooling that is not supported.
    pub fn of_folder(folder: &Path) -> Result<Self, TrainError> {
        let file = folder.join(FILE);
        if !file.is_file() {
            return Ok(Self::default());
        }
        let json = read_json(&file)?;
        let modes: Vec<&str> = json
            .as_object()
            .into_iter()
            .flatten()
            .filter(|(key, value)| key.starts_with("pooling_mode_") && **value == true)
            .map(|(key, _)| key.as_str())
            .chain(json["pooling_mode"].as_str())
            .collect();
        match modes.as_slice() {
            ["pooling_mode_cls_token" | "cls"] => Ok(Self::Class),
            ["pooling_mode_mean_tokens" | "mean"] => Ok(Self::Mean),
            other => Err(TrainError::from(PublicConfigError::Content {
                path: file,
                reason: format!(
                    "asks for {}; supported are pooling_mode_cls_token and pooling_mode_mean_tokens, one of them",
                    match other {
                        [] => "no way of pooling".to_owned(),
                        modes => modes.join(" and "),
                    }
                ),
            })),
        }
    }

    /// What it takes from a text and from an image, for messages.
    pub fn describe(self) -> [&'static str; 2] {
        match self {
            Self::Class => [
                "the last state of the first token",
                "the last state of the class token",
            ],
            Self::Mean => [
                "the mean of the last states of all tokens",
                "the mean of the last states of all patches",
            ],
        }
    }

    /// # Shapes
    ///
    /// - states: `[B, L, D]`, of which `lengths` are text
    /// - output: `[B, D]`
    pub(super) fn of_texts(self, states: Tensor<3>, lengths: &[usize]) -> Tensor<2> {
        let [rows, length, _] = states.dims();
        match self {
            Self::Class => states.narrow(1, 0, 1).squeeze_dim(1),
            Self::Mean => {
                let shares: Vec<f32> = lengths
                    .iter()
                    .flat_map(|real| {
                        let share = 1.0 / (*real).max(1) as f32;
                        (0..length).map(move |at| if at < *real { share } else { 0.0 })
                    })
                    .collect();
                let shape = [rows, length, 1];
                let shares =
                    Tensor::<3>::from_data(TensorData::new(shares, shape), &states.device());
                (states * shares).sum_dim(1).squeeze_dim(1)
            }
        }
    }

    /// # Shapes
    ///
    /// - states: `[B, N, D]`, class tokens first
    /// - output: `[B, D]`
    pub(super) fn of_pictures(self, states: Tensor<3>, class_tokens: usize) -> Tensor<2> {
        let [_, positions, _] = states.dims();
        match self {
            Self::Class => states.narrow(1, 0, 1).squeeze_dim(1),
            Self::Mean => states
                .narrow(1, class_tokens, positions - class_tokens)
                .mean_dim(1)
                .squeeze_dim(1),
        }
    }
}

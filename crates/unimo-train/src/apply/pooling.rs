//! One vector for a text or a picture, of an encoder alone.

use std::path::Path;

use burn::tensor::{Tensor, TensorData};
use unimo_encoders::public::{PublicConfigError, read_json};

use crate::error::TrainError;

/// How the states of all positions become one vector.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Pooling {
    /// The first: `[CLS]`, `<s>`, the class token.
    #[default]
    Class,
    /// The mean of all tokens of a text, begin and end included, or of all patches of a picture.
    Mean,
}

/// Where sentence-transformers says it.
const FILE: &str = "1_Pooling/config.json";

impl Pooling {
    /// What `--pooling` says.
    ///
    /// # Errors
    ///
    /// Another word than those that are allowed.
    pub fn parse(given: &str) -> Result<Self, String> {
        match given {
            "class" => Ok(Self::Class),
            "mean" => Ok(Self::Mean),
            _ => Err("allowed: class, mean".to_owned()),
        }
    }

    /// What a folder of sentence-transformers says; the first position where it says nothing.
    ///
    /// # Errors
    ///
    /// It asks for what is not supported.
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

    /// What it takes of a text and of a picture, for messages.
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

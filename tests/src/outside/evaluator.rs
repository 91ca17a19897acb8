//! `[eval.nearest]`: the share of held-out images whose nearest other image, by the class tokens of the image encoder, has the same
//! answer.
//!
//! Shape legend: `B` images, `D` width of the image encoder.

use std::collections::BTreeMap;
use std::sync::Arc;

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};
use unimo_batch::{ConfigError, config};
use unimo_core::layers::normalise;
use unimo_data::{Source, Split, readable};
use unimo_encoders::features::Pictures;
use unimo_report::record::{EvalRecord, ScalarRecord};
use unimo_train::error::TrainError;
use unimo_train::evaluators::registry::EvaluatorConfig;
use unimo_train::evaluators::{Evaluator, HeldOut, Weights};
use unimo_train::recipe::Recipe;

/// Its settings.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NearestConfig {
    /// Number of images: the first ones.
    pub images: usize,
}

impl EvaluatorConfig for NearestConfig {
    fn validate(&self) -> Result<(), ConfigError> {
        config::positive("images", self.images)
    }

    fn open(
        &self,
        _recipe: &Recipe,
        held_out: &HeldOut<'_>,
    ) -> Result<Box<dyn Evaluator>, TrainError> {
        Ok(Box::new(Nearest {
            images: self.images,
            source: Arc::clone(held_out.source),
            split: held_out.split,
        }))
    }
}

struct Nearest {
    images: usize,
    source: Arc<dyn Source>,
    split: Split,
}

impl Evaluator for Nearest {
    fn name(&self) -> &'static str {
        "nearest"
    }

    fn scalars(&self) -> Vec<String> {
        vec!["nearest.share".to_owned()]
    }

    fn evaluate(
        &self,
        weights: &Weights<'_>,
        say: &mut dyn FnMut(String),
    ) -> Result<Vec<EvalRecord>, TrainError> {
        let spec = weights.recipe.data.image_spec();
        let count = self.images.min(self.source.len(self.split));
        let (mut levels, mut answers) = (Vec::new(), Vec::new());
        for index in 0..count {
            let picture = readable(self.source.image(self.split, index))?;
            let picture = picture.unwrap_or_default();
            let square = spec.square(&picture).map_err(TrainError::Check)?;
            spec.planes(&square, &mut levels);
            let labels = readable(self.source.labels(self.split, index))?;
            answers.push(labels.first().and_then(|label| label.answer.clone()));
        }
        let pixels = Pictures::of_pixels(&spec.batch(Vec::new()), &levels, weights.device);
        let images = weights.model.backbone.encode_pictures(&pixels, None, 0);
        let class: Tensor<2> = normalise(images.class);
        let scores = class.clone().matmul(class.transpose()).into_data();
        let scores: Vec<f32> = scores.iter::<f32>().collect();
        let same = |row: usize| {
            let others = (0..count).filter(|other| *other != row);
            let nearest = others.max_by(|a, b| {
                let score = |other: usize| scores[row * count + other];
                score(*a).total_cmp(&score(*b))
            });
            nearest.is_some_and(|other| answers[other] == answers[row])
        };
        let value = (0..count).filter(|row| same(*row)).count() as f64 / count as f64;
        say(format!("step {}: nearest.share {value}", weights.step));
        let scalar = ScalarRecord {
            value,
            chance: None,
            interval: None,
        };
        Ok(vec![EvalRecord {
            evaluator: self.name().to_owned(),
            step: weights.step,
            selects: false,
            scalars: BTreeMap::from([("nearest.share".to_owned(), scalar)]),
            split: self.split.name().to_owned(),
            images: count as u64,
            texts: count as u64,
            ..EvalRecord::default()
        }])
    }
}

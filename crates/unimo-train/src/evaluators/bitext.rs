//! Retrieval of translations: of held-out texts of two languages, the nearest of the other language should be the translation.
//!
//! Source: the Tatoeba task of XTREME, which InfoXLM is judged by. A text is the mean of its positions after one of the middle layers of
//! the text encoder (or its class token), and texts are compared by cosines.
//!
//! | number | what | chance, of `N` pairs |
//! |---|---|---|
//! | `bitext.accuracy` | mean of the numbers below | their mean |
//! | `bitext.A_B` | share of the texts in A whose translation is the nearest text in B | `1 / N` |
//!
//! Shape legend: `B` texts, `L` text length, `D` width of the text encoder.

use std::collections::{BTreeMap, BTreeSet};

use burn::tensor::Tensor;
use unimo_data::{Bitext, Bitexts, Pad, SkipList};
use unimo_eval::{BitextReport, Embeddings, bitext};
use unimo_report::record::{EvalRecord, ScalarRecord};

use crate::error::TrainError;
use crate::evaluators::section::{EvalSection, Selectable};
use crate::evaluators::{Evaluator, HeldOut, Weights};
use crate::interrupt;
use crate::model::host;
use crate::recipe::eval::Pooling;
use crate::recipe::{BitextConfig, Recipe};

/// The name of this evaluator.
pub const NAME: &str = "bitext";

/// Held-out texts with their translations.
pub struct Translations {
    pairs: Bitexts,
    layer: usize,
    pooling: Pooling,
    split: String,
    unusable: usize,
}

impl Translations {
    /// Finds the pairs of a held-out split.
    ///
    /// # Errors
    ///
    /// It has none, or cannot be read.
    pub fn open(
        config: &BitextConfig,
        recipe: &Recipe,
        held_out: &HeldOut<'_>,
    ) -> Result<Self, TrainError> {
        let skip = SkipList::in_memory(recipe.data.max_skipped);
        let (source, split) = (held_out.source, held_out.split);
        let pairs = Bitexts::new(&**source, split, config.limit, &skip)?;
        if pairs.by_languages.is_empty() {
            return Err(TrainError::Check(format!(
                "eval.bitext compares translations, of which the split `{}` has none: {}. Parallel texts with `languages` have them, lists \
                 with `language_columns`, and scenes with language = \"both\" or held_out_language = \"both\"",
                split.name(),
                source.describe()
            )));
        }
        Ok(Self {
            pairs,
            layer: config.layer_of(recipe.model.text.layers),
            pooling: config.pooling,
            split: split.name().to_owned(),
            unusable: skip.count(),
        })
    }

    /// Each text as a row: the mean of its positions, or its class token.
    ///
    /// # Shapes
    ///
    /// - output: `[N, D]`
    fn embed(&self, weights: &Weights<'_>, texts: &[String]) -> Result<Embeddings, TrainError> {
        let (model, data) = (weights.model, &weights.recipe.data);
        let text = &model.backbone.text;
        let [_, width] = text.word_embedding.weight.dims();
        let layers = BTreeSet::from([self.layer]);
        let mut rows = Vec::with_capacity(texts.len() * width);
        for part in texts.chunks(weights.recipe.eval.batch_size) {
            interrupt::check()?;
            let encode = |text: &String| weights.tokenizer.encode(text, data.max_text_length);
            let encoded: Vec<_> = part.iter().map(encode).collect();
            let padded = weights
                .tokenizer
                .pad(&encoded, data.max_text_length, Pad::Longest);
            let input = text.input(&padded.ids, &padded.lengths, padded.length, weights.device);
            let mut features = model.backbone.encode_texts_at(&input, &layers);
            let states = features.layers.remove(&self.layer);
            let states = states.expect("invariant: the layer was asked for");
            rows.extend(match self.pooling {
                Pooling::Mean => means(states, &padded.lengths),
                Pooling::Class => host(states.narrow(1, 0, 1)),
            });
        }
        Ok(Embeddings::new(width, rows)?)
    }

    fn report(&self, weights: &Weights<'_>, pairs: &Bitext) -> Result<BitextReport, TrainError> {
        let [first, second] = &pairs.texts;
        let (first, second) = (self.embed(weights, first)?, self.embed(weights, second)?);
        Ok(bitext(&first, &second)?)
    }

    /// The names of the numbers of both directions between two languages.
    fn names([first, second]: &[String; 2]) -> [String; 2] {
        let tag = |tag: &String| {
            if tag.is_empty() {
                "unknown".to_owned()
            } else {
                tag.clone()
            }
        };
        let (first, second) = (tag(first), tag(second));
        [
            format!("{NAME}.{first}_{second}"),
            format!("{NAME}.{second}_{first}"),
        ]
    }
}

/// The means over the positions of each text, without padding, on the host.
///
/// # Shapes
///
/// - states: `[B, L, D]`
/// - output: `[B, D]`, row-major
fn means(states: Tensor<3>, lengths: &[usize]) -> Vec<f32> {
    let [_, length, width] = states.dims();
    let values = host(states);
    let rows = values.chunks(length * width).zip(lengths);
    let of_row = |(row, &real): (&[f32], &usize)| -> Vec<f32> {
        let mut sums = vec![0.0f64; width];
        for position in row.chunks(width).take(real) {
            for (sum, value) in sums.iter_mut().zip(position) {
                *sum += f64::from(*value);
            }
        }
        sums.into_iter()
            .map(|sum| (sum / real as f64) as f32)
            .collect()
    };
    rows.flat_map(of_row).collect()
}

impl EvalSection for BitextConfig {
    fn key(&self) -> &'static str {
        NAME
    }

    fn selectable(&self, _recipe: &Recipe) -> Selectable {
        // The others have the names of the languages in the data.
        Selectable {
            names: vec!["accuracy"],
            others: true,
        }
    }

    fn open(
        &self,
        recipe: &Recipe,
        held_out: &HeldOut<'_>,
        _say: &mut dyn FnMut(String),
    ) -> Result<Option<Box<dyn Evaluator>>, TrainError> {
        Ok(Some(Box::new(Translations::open(self, recipe, held_out)?)))
    }
}

impl Evaluator for Translations {
    fn name(&self) -> &'static str {
        NAME
    }

    fn scalars(&self) -> Vec<String> {
        let each = self.pairs.by_languages.keys().flat_map(Self::names);
        std::iter::once(format!("{NAME}.accuracy"))
            .chain(each)
            .collect()
    }

    fn says(&self, _recipe: &Recipe) -> Vec<String> {
        let each = self.pairs.by_languages.iter();
        let each = each.map(|([first, second], pairs)| {
            format!("{} pairs of {first} and {second}", pairs.texts[0].len())
        });
        let left_out = match self.pairs.repeated {
            0 => String::new(),
            count => format!("; {count} are left out, since one of their texts is in another pair"),
        };
        vec![format!(
            "translations: {} in {}, compared after layer {}{left_out}",
            each.collect::<Vec<_>>().join(", "),
            self.split,
            self.layer
        )]
    }

    fn evaluate(
        &self,
        weights: &Weights<'_>,
        say: &mut dyn FnMut(String),
    ) -> Result<Vec<EvalRecord>, TrainError> {
        let mut scalars = BTreeMap::new();
        let mut texts = 0;
        for (languages, pairs) in &self.pairs.by_languages {
            let report = self.report(weights, pairs)?;
            texts += 2 * report.pairs as u64;
            for (name, value) in Self::names(languages).into_iter().zip(report.accuracy()) {
                let chance = Some(report.chance());
                let interval = None;
                scalars.insert(
                    name,
                    ScalarRecord {
                        value,
                        chance,
                        interval,
                    },
                );
            }
        }
        let mean = |of: &dyn Fn(&ScalarRecord) -> f64| {
            scalars.values().map(of).sum::<f64>() / scalars.len() as f64
        };
        let accuracy = ScalarRecord {
            value: mean(&|scalar| scalar.value),
            chance: Some(mean(&|scalar| scalar.chance.unwrap_or_default())),
            interval: None,
        };
        let each = scalars.iter().map(|(name, scalar)| {
            let name = name.trim_start_matches(NAME).trim_start_matches('.');
            format!("{name} {:.1}%", 100.0 * scalar.value)
        });
        say(format!(
            "step {}: translations found: {:.1}% (chance {:.1}%): {}",
            weights.step,
            100.0 * accuracy.value,
            100.0 * accuracy.chance.unwrap_or_default(),
            each.collect::<Vec<_>>().join(", ")
        ));
        scalars.insert(format!("{NAME}.accuracy"), accuracy);
        let left_out = [
            ("unusable", self.unusable),
            ("repeated", self.pairs.repeated),
        ];
        let left_out = left_out.into_iter().filter(|(_, count)| *count > 0);
        Ok(vec![EvalRecord {
            evaluator: NAME.to_owned(),
            step: weights.step,
            selects: false,
            scalars,
            split: self.split.clone(),
            left_out: left_out
                .map(|(why, count)| (why.to_owned(), count as u64))
                .collect(),
            texts,
            ..EvalRecord::default()
        }])
    }
}

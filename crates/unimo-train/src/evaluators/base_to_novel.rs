//! Known and new classes of held-out images (base-to-novel): what was learned of some classes, and what that did to the others.
//!
//! Images of the labels are told among the labels, by both features of `[objectives.prompts]`; images of other classes among these, by the
//! class token. Texts are those of the part's classes alone. Beside both stands CLIP as it is, without tokens.
//!
//! Source: Guo and Gu 2025 (MMRL), section 4.1, as CoOp's successors do it; `trainers/mmrl.py`.
//!
//! | number | what | chance, of `C` classes of the part |
//! |---|---|---|
//! | `base_to_novel.base` | share of images of labels that are told right, by both features | `1 / C` |
//! | `base_to_novel.novel` | the same of new classes, by the class token | `1 / C` |
//! | `base_to_novel.harmonic` | harmonic mean of the two | that of the two |
//! | `base_to_novel.zero_shot_base`, `zero_shot_novel`, `zero_shot_harmonic` | the same by CLIP as it is | the same |
//! | `base_to_novel.base_by_class`, `novel_by_both` | each part by what the other is told by | `1 / C` |

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use burn::tensor::Tensor;
use unimo_batch::{Batch, ConfigError};
use unimo_data::{SkipList, TaskSet};
use unimo_encoders::features::ImageFeatures;
use unimo_eval::harmonic_mean;
use unimo_objectives::tasks::prompts::{ClassTexts, Prompts};
use unimo_report::record::{EvalRecord, ScalarRecord};

use crate::error::TrainError;
use crate::evaluators::section::{EvalSection, Selectable, named};
use crate::evaluators::{Evaluator, HeldOut, Weights, left_out};
use crate::model::host;
use crate::recipe::task::{ClassPart, LabelsConfig};
use crate::recipe::{BaseToNovelConfig, Recipe};
use crate::tasks::labels::Labels;
use crate::tasks::predict::read_ahead;
use crate::tasks::{Judged, class_texts, listed};

const NAME: &str = "base_to_novel";

/// Its numbers.
const NUMBERS: [&str; 8] = [
    "base",
    "novel",
    "harmonic",
    "zero_shot_base",
    "zero_shot_novel",
    "zero_shot_harmonic",
    "base_by_class",
    "novel_by_both",
];

/// Held-out images of known and of new classes.
pub struct BaseToNovel {
    base: Half,
    novel: Half,
    skip: Arc<SkipList>,
}

/// The images of some classes, which are told among these.
struct Half {
    classes: Vec<String>,
    numbers: HashMap<String, usize>,
    set: TaskSet,
    /// Classes without a held-out image.
    empty: Vec<String>,
}

impl BaseToNovel {
    /// The images of a recipe's `[eval.base_to_novel]`.
    ///
    /// # Errors
    ///
    /// There are no labels or no other classes, a class is in both parts or named twice, or a part has no image.
    pub fn open(
        config: &BaseToNovelConfig,
        recipe: &Recipe,
        held_out: &HeldOut<'_>,
    ) -> Result<Self, TrainError> {
        let labels = held_out.targets.and_then(|targets| targets.labels.as_ref());
        let labels = labels.ok_or_else(|| {
            TrainError::Check("eval.base_to_novel needs the labels of a task".to_owned())
        })?;
        let wrong = |allowed: String| {
            TrainError::of_recipe(ConfigError {
                key: "eval.base_to_novel.novel".to_owned(),
                value: format!("{:?}", config.novel),
                allowed,
            })
        };
        let part = ClassPart::All;
        let (all, _) = Labels::make(&LabelsConfig::Classes { part }, &**held_out.source)?;
        let novel = if config.novel.is_empty() {
            let names = all.names().iter();
            let others = names.filter(|name| labels.number(name).is_none());
            others.cloned().collect()
        } else {
            config.novel.clone()
        };
        let mut seen = BTreeSet::new();
        for class in &novel {
            let reason = if labels.number(class).is_some() {
                "is a label too, so it is no new one"
            } else if all.number(class).is_none() {
                "is no class of the training data"
            } else if !seen.insert(class) {
                "is named twice"
            } else {
                continue;
            };
            return Err(wrong(format!(
                "must name classes of the data that are no labels, each once; {class:?} {reason}"
            )));
        }
        if novel.len() < 2 {
            return Err(wrong(format!(
                "must be two classes or more that are no labels; of {} classes of the data {} are labels: task.labels = {{ kind = \
                 \"classes\", part = \"base\" }} takes half of them",
                all.len(),
                labels.len()
            )));
        }
        let skip = Arc::new(SkipList::in_memory(recipe.data.max_skipped));
        let judged = Judged {
            recipe,
            source: held_out.source,
            tokenizer: held_out.tokenizer,
            concepts: held_out.concepts.as_ref(),
            skip: &skip,
            targets: held_out.targets,
        };
        let half = |classes: Vec<String>| -> Result<Half, TrainError> {
            let numbers = classes.iter().cloned().zip(0..).collect();
            let set = judged.answered(held_out.split, &numbers)?;
            let there: BTreeSet<String> = set.answers().collect();
            let empty = classes.iter().filter(|class| !there.contains(*class));
            Ok(Half {
                empty: empty.map(|class| format!("{class:?}")).collect(),
                classes,
                numbers,
                set,
            })
        };
        Ok(Self {
            base: half(labels.names().to_vec())?,
            novel: half(novel)?,
            skip,
        })
    }
}

/// How many images are told right, and by what.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Right {
    images: usize,
    class: usize,
    both: usize,
    frozen: usize,
}

impl Right {
    fn share(self, right: usize) -> f64 {
        right as f64 / self.images.max(1) as f64
    }
}

impl Half {
    fn chance(&self) -> f64 {
        1.0 / self.classes.len() as f64
    }

    fn judge(&self, weights: &Weights<'_>, prompts: &Prompts) -> Result<Right, TrainError> {
        let model = weights.model;
        let (input, _) = class_texts::read(
            (model, prompts),
            weights.recipe,
            weights.tokenizer,
            &self.classes,
        )?;
        let texts = prompts.texts(&model.backbone, &model.backbone.texts_below(&input));
        let mut all = Right::default();
        let size = weights.recipe.eval.batch_size;
        read_ahead(&self.set, size, &mut |_, read| {
            if let Some(batch) = &read.batch {
                let answers = read.rows.iter().map(|row| row.label.answer.as_ref());
                let right = answers.map(|answer| self.numbers.get(answer?).copied());
                let right: Vec<Option<usize>> = right.collect();
                self.count(weights, (prompts, &texts), (batch, &right), &mut all)?;
            }
            Ok(())
        })?;
        Ok(all)
    }

    fn count(
        &self,
        weights: &Weights<'_>,
        (prompts, texts): (&Prompts, &ClassTexts),
        (batch, right): (&Batch, &[Option<usize>]),
        all: &mut Right,
    ) -> Result<(), TrainError> {
        let backbone = &weights.model.backbone;
        let Some(pictures) = backbone.pictures(batch, weights.device) else {
            return Err(TrainError::Check(
                "eval.base_to_novel reads images, which the data lacks".to_owned(),
            ));
        };
        let layers = BTreeSet::new();
        let states = backbone.image_states_with_below(&pictures, &layers);
        let images: ImageFeatures = backbone.features_with_tokens(states, 0, &layers);
        let scores = prompts.scores(&prompts.images(&images), texts);
        let both = scores.fused(prompts.config.alpha);
        all.images += right.len();
        all.class += told(scores.class, right)?;
        all.both += told(both, right)?;
        all.frozen += told(scores.frozen, right)?;
        Ok(())
    }
}

/// How many rows have the highest score at the right class. Among equal scores the right class comes last.
///
/// # Shapes
///
/// - scores: `[B, C]`; right: `[B]`
fn told(scores: Tensor<2>, right: &[Option<usize>]) -> Result<usize, TrainError> {
    let [_, classes] = scores.dims();
    let scores = host(scores);
    if scores.iter().any(|score| !score.is_finite()) {
        return Err(TrainError::Check(
            "a score of [objectives.prompts] is not finite; has the model diverged?".to_owned(),
        ));
    }
    let rows = scores.chunks(classes.max(1)).zip(right);
    let best = |(scores, right): &(&[f32], &Option<usize>)| {
        let Some(right) = **right else {
            return false;
        };
        let others = scores.iter().enumerate().filter(|(at, _)| *at != right);
        others.into_iter().all(|(_, score)| *score < scores[right])
    };
    Ok(rows.filter(best).count())
}

impl EvalSection for BaseToNovelConfig {
    fn key(&self) -> &'static str {
        NAME
    }

    fn selectable(&self, _recipe: &Recipe) -> Selectable {
        Selectable::of(&NUMBERS)
    }

    fn open(
        &self,
        recipe: &Recipe,
        held_out: &HeldOut<'_>,
        _say: &mut dyn FnMut(String),
    ) -> Result<Option<Box<dyn Evaluator>>, TrainError> {
        Ok(Some(Box::new(BaseToNovel::open(self, recipe, held_out)?)))
    }
}

impl Evaluator for BaseToNovel {
    fn name(&self) -> &'static str {
        NAME
    }

    fn scalars(&self) -> Vec<String> {
        named(NAME, &NUMBERS)
    }

    fn says(&self, _recipe: &Recipe) -> Vec<String> {
        let part = |half: &Half, word: &str| {
            let empty = match half.empty.len() {
                0 => String::new(),
                count => format!(" ({count} without an image: {})", listed(&half.empty)),
            };
            format!(
                "{} images of {} {word} classes{empty}",
                half.set.len(),
                half.classes.len()
            )
        };
        vec![format!(
            "base to novel: {} and {}",
            part(&self.base, "known"),
            part(&self.novel, "new")
        )]
    }

    fn evaluate(
        &self,
        weights: &Weights<'_>,
        say: &mut dyn FnMut(String),
    ) -> Result<Vec<EvalRecord>, TrainError> {
        let prompts = weights.model.objectives.prompts.as_ref();
        let prompts = prompts.ok_or_else(|| {
            TrainError::Check(
                "eval.base_to_novel tells classes by [objectives.prompts], which this run has not"
                    .to_owned(),
            )
        })?;
        let base = self.base.judge(weights, prompts)?;
        let novel = self.novel.judge(weights, prompts)?;
        let chances = (self.base.chance(), self.novel.chance());
        let both = harmonic_mean(chances.0, chances.1);
        let (own_base, own_novel) = (base.share(base.both), novel.share(novel.class));
        let (was_base, was_novel) = (base.share(base.frozen), novel.share(novel.frozen));
        let values = [
            (own_base, chances.0),
            (own_novel, chances.1),
            (harmonic_mean(own_base, own_novel), both),
            (was_base, chances.0),
            (was_novel, chances.1),
            (harmonic_mean(was_base, was_novel), both),
            (base.share(base.class), chances.0),
            (novel.share(novel.both), chances.1),
        ];
        let scalars = values.map(|(value, chance)| ScalarRecord {
            value,
            chance: Some(chance),
            interval: None,
        });
        let scalars: BTreeMap<String, ScalarRecord> =
            self.scalars().into_iter().zip(scalars).collect();
        let percent = |value: f64| 100.0 * value;
        say(format!(
            "step {}: known classes {:.1}%, new ones {:.1}%, harmonic mean {:.1}%; CLIP as it is {:.1}%, {:.1}%, {:.1}% (chance {:.1}%, \
             {:.1}%)",
            weights.step,
            percent(own_base),
            percent(own_novel),
            percent(values[2].0),
            percent(was_base),
            percent(was_novel),
            percent(values[5].0),
            percent(chances.0),
            percent(chances.1)
        ));
        let unusable = self.skip.count() as u64;
        let images = (base.images + novel.images) as u64;
        Ok(vec![EvalRecord {
            evaluator: NAME.to_owned(),
            step: weights.step,
            selects: false,
            scalars,
            split: self.base.set.label(),
            left_out: left_out(unusable),
            images,
            texts: (self.base.classes.len() + self.novel.classes.len()) as u64,
            ..EvalRecord::default()
        }])
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;

    #[test]
    fn of_equal_scores_the_right_class_comes_last() {
        let device = Device::default().without_autodiff();
        let scores = Tensor::<2>::from_floats([[0.1, 0.9], [0.5, 0.5], [0.9, 0.1]], &device);
        let right = [Some(1), Some(1), None];
        assert_eq!(told(scores, &right).unwrap(), 1);
    }
}

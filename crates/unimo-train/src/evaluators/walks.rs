//! An agent that follows instructions, on held-out episodes: what it decides of recorded ones, and where it arrives when it walks by itself.
//!
//! Of **recorded** episodes:
//!
//! | number | what | chance |
//! |---|---|---|
//! | `walks.waypoint_error` | how far way-points are from the right ones, in cells of the map | the mean way-point for all |
//! | `walks.progress_error` | how far the progress is off | the mean progress for all |
//! | `walks.near_path` | share of the attention to the map within `eval.walks.radius` cells of the path | attention to all places alike |
//! | `walks.iou_seen`, `walks.iou_unseen` | the classes of cells that were seen, and of those that were not: mean intersection over union | the class that is there most often for all |
//!
//! In the **closed loop** of generated houses (`closed.rs`) an agent goes to its way-points, sees what comes of it, and stops by its progress:
//!
//! | number | what | chance |
//! |---|---|---|
//! | `walks.success` | share of the episodes that end within 3 m of the goal, by a stop | a random agent's |
//! | `walks.oracle_success` | share of those that ever came so near | the same |
//! | `walks.spl` | success by how direct the way was | the same |
//! | `walks.ndtw` | how near the whole way was to the path | the same |
//! | `walks.goal_error` | metres from the end to the goal | the same |
//! | `walks.expert_success`, `walks.expert_spl` | those of an agent that decides as it should | |
//!
//! `walks.shuffled_NAME` are the same numbers of agents that are told the instruction of another episode: what the agent has of the text is the
//! difference.
//!
//! Shape legend: `T` decisions, `M` cells on a side of the map, `N` of the semantic layer, `P` tokens, `K` classes.

mod closed;
mod recorded;

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use unimo_batch::{ConfigError, Texts};
use unimo_data::sources::houses::Houses;
use unimo_data::walks::WalkConfig;
use unimo_data::{Pad, SourceKind, Split, TextTokenizer};
use unimo_report::record::{EvalRecord, ScalarRecord, WalksRecord};

use crate::error::TrainError;
use crate::evaluators::section::{EvalSection, Selectable, named};
use crate::evaluators::walks::closed::{Baselines, Told};
use crate::evaluators::{Evaluator, HeldOut, Weights};
use crate::recipe::Recipe;
use crate::recipe::eval::WalksEvalConfig;

/// The name of this evaluator.
pub const NAME: &str = "walks";

/// Its numbers that may select weights: the higher, the better.
const NUMBERS: [&str; 4] = ["success", "oracle_success", "spl", "ndtw"];

/// Its numbers that are no shares: in cells of the map, in metres, and in shares of the path.
pub(crate) const MEASURED: [&str; 5] = [
    "walks.waypoint_error",
    "walks.shuffled_waypoint_error",
    "walks.progress_error",
    "walks.goal_error",
    "walks.shuffled_goal_error",
];

/// The file of what the report shows.
const FILE: &str = "walks.json";

/// Held-out episodes.
pub struct Walks {
    source: Arc<dyn unimo_data::Source>,
    split: Split,
    /// How recorded episodes become decisions.
    map: WalkConfig,
    /// Recorded episodes.
    episodes: usize,
    /// The houses of the closed loop, and how many episodes are walked; `None`: the data has none.
    houses: Option<(Houses, usize)>,
    /// What does not depend on weights.
    baselines: OnceLock<Baselines>,
    config: WalksEvalConfig,
    seed: u64,
}

impl Walks {
    /// Opens the held-out episodes.
    ///
    /// # Errors
    ///
    /// The split has none.
    pub fn open(
        config: &WalksEvalConfig,
        recipe: &Recipe,
        held_out: &HeldOut<'_>,
        say: &mut dyn FnMut(String),
    ) -> Result<Self, TrainError> {
        possible(recipe).map_err(TrainError::of_recipe)?;
        let (source, split) = (held_out.source, held_out.split);
        let there = source.len(split);
        let known = source.offers().walks.is_some_and(|walks| walks.paths);
        if there == 0 || !known {
            return Err(TrainError::Check(format!(
                "eval.walks needs held-out episodes whose paths are known, which the split `{}` has not: {}",
                split.name(),
                source.describe()
            )));
        }
        let limited = |most: usize| if most > 0 { there.min(most) } else { there };
        let houses = recipe.data.houses.unwrap_or_default();
        let generated = recipe.data.source == SourceKind::Houses;
        let houses =
            (generated && config.walked > 0).then(|| (Houses::new(houses), limited(config.walked)));
        if houses.is_none() {
            say(
                "eval.walks: nothing is walked in a closed loop: data.source is no generated houses, or eval.walks.walked is 0"
                    .to_owned(),
            );
        }
        Ok(Self {
            source: Arc::clone(source),
            split,
            map: recipe.data.walk_config(),
            episodes: limited(if config.limit > 0 {
                config.limit
            } else {
                recipe.eval.limit
            }),
            houses,
            baselines: OnceLock::new(),
            config: config.clone(),
            seed: recipe.seed,
        })
    }
}

/// Instructions as a batch of texts.
fn instructions(texts: &[String], tokenizer: &TextTokenizer, longest: usize) -> Texts {
    let encoded: Vec<_> = texts
        .iter()
        .map(|text| tokenizer.encode(text, longest))
        .collect();
    tokenizer.pad(&encoded, longest, Pad::Longest)
}

/// Instructions of other episodes: those of the next ones.
fn shuffled(texts: &[String]) -> Vec<String> {
    let mut turned = texts.to_vec();
    turned.rotate_left(1.min(texts.len()));
    turned
}

/// Why a model walks nowhere.
fn no_agent() -> TrainError {
    TrainError::Check(
        "eval.walks needs an agent, [model.map] with [objectives.walk], whose sizes are those of the episodes".to_owned(),
    )
}

/// Numbers by their names.
#[derive(Default)]
struct Numbers(BTreeMap<String, ScalarRecord>);

impl Numbers {
    /// Adds one; nothing if it is not known.
    fn add(&mut self, name: &str, value: Option<f64>, chance: Option<f64>) {
        if let Some(value) = value {
            let scalar = ScalarRecord {
                value,
                chance,
                interval: None,
            };
            self.0.insert(format!("{NAME}.{name}"), scalar);
        }
    }

    /// Names and values as a line has them, with chance in brackets.
    fn told(&self) -> String {
        let each = self.0.iter().map(|(name, scalar)| {
            let short = name.trim_start_matches(NAME).trim_start_matches('.');
            match scalar.chance {
                Some(chance) => format!("{short} {:.3} ({chance:.3})", scalar.value),
                None => format!("{short} {:.3}", scalar.value),
            }
        });
        let each: Vec<String> = each.collect();
        each.join(", ")
    }
}

impl EvalSection for WalksEvalConfig {
    fn key(&self) -> &'static str {
        NAME
    }

    fn possible(&self, recipe: &Recipe) -> Result<(), ConfigError> {
        possible(recipe)
    }

    fn selectable(&self, _recipe: &Recipe) -> Selectable {
        Selectable::of(&NUMBERS)
    }

    fn open(
        &self,
        recipe: &Recipe,
        held_out: &HeldOut<'_>,
        say: &mut dyn FnMut(String),
    ) -> Result<Option<Box<dyn Evaluator>>, TrainError> {
        Ok(Some(Box::new(Walks::open(self, recipe, held_out, say)?)))
    }
}

impl Evaluator for Walks {
    fn name(&self) -> &'static str {
        NAME
    }

    fn scalars(&self) -> Vec<String> {
        if self.houses.is_some() {
            named(NAME, &NUMBERS)
        } else {
            Vec::new()
        }
    }

    fn says(&self, _recipe: &Recipe) -> Vec<String> {
        let walked = match &self.houses {
            Some((_, walked)) => format!(", and {walked} are walked in a closed loop"),
            None => String::new(),
        };
        vec![format!(
            "walks: the decisions of {} episodes of {} are judged{walked}",
            self.episodes,
            self.split.name()
        )]
    }

    fn evaluate(
        &self,
        weights: &Weights<'_>,
        say: &mut dyn FnMut(String),
    ) -> Result<Vec<EvalRecord>, TrainError> {
        let mut numbers = Numbers::default();
        let unusable = self.judge_recorded(weights, &mut numbers)?;
        let mut left_out = BTreeMap::from([("unusable".to_owned(), unusable as u64)]);
        if let Some((houses, walked)) = &self.houses {
            let baselines = match self.baselines.get() {
                Some(baselines) => baselines,
                None => {
                    let found = self.baselines(houses, *walked)?;
                    self.baselines.get_or_init(|| found)
                }
            };
            let own = self.walk(weights, (houses, *walked), Told::Own)?;
            let other = self.walk(weights, (houses, *walked), Told::Others)?;
            baselines.add_to(&mut numbers, &own, &other)?;
            left_out.insert("outside the map".to_owned(), own.unusable as u64);
            if let Some(run) = weights.run {
                let record = WalksRecord {
                    step: weights.step,
                    within: unimo_eval::navigation::SUCCESS,
                    examples: own.examples,
                };
                run.write_json(FILE, &record)?;
            }
        }
        left_out.retain(|_, count| *count > 0);
        say(format!(
            "step {}: {} episodes (chance): {}",
            weights.step,
            self.episodes,
            numbers.told()
        ));
        let episodes = (self.episodes - unusable) as u64;
        Ok(vec![EvalRecord {
            evaluator: NAME.to_owned(),
            step: weights.step,
            selects: false,
            scalars: numbers.0,
            split: self.split.name().to_owned(),
            left_out,
            texts: episodes,
            images: episodes,
            ..EvalRecord::default()
        }])
    }
}

/// Checks the section against the rest of a recipe.
///
/// # Errors
///
/// The recipe trains no agent.
pub(super) fn possible(recipe: &Recipe) -> Result<(), ConfigError> {
    let fits = ConfigError::of_section(
        recipe.model.map.is_some() && recipe.objectives.walk.is_some(),
        "needs an agent, [model.map] with [objectives.walk]",
    );
    fits.map_err(|error| error.within(NAME).within("eval"))
}

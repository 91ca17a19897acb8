//! Stages of a training: each has its own objectives, data, schedule and trained parameters.
//!
//! ```toml
//! [[stage]]
//! name = "uni-modal"
//! share = 0.4                      # of train.steps
//! objectives = ["mcr"]             # of those in [objectives]; absent: all
//! train = ["backbone.text", "backbone.image", "objectives"]   # absent: everything
//!
//! [[stage]]
//! name = "cross-modal"
//! share = 0.6
//! data = { source = "pairs", pairs = { path = "pairs.jsonl" } }   # keys of [data] that differ
//! schedule = { warmup = 0.1, decay = "linear", last = 0.0 }       # absent: train.schedule
//! ```
//!
//! A stage starts as a new run would from the current weights: with a new optimiser, at the start of its schedule and of its data.
//! The step alone determines the position in a stage, so a run resumes at any step of any stage.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use toml::{Table, Value};
use unimo_batch::{ConfigError, config};
use unimo_data::DataConfig;
use unimo_encoders::names::covers;
use unimo_objectives::partners::Between;

use crate::recipe::{Recipe, ScheduleConfig};
use crate::seeds::{Purpose, seed_of};

/// `[[stage]]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StageConfig {
    /// Its name in reports.
    pub name: String,
    /// Share of `train.steps`; the shares of all stages add up to 1.
    pub share: f64,
    /// Keys of `[objectives]` that are trained; absent: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub objectives: Option<Vec<String>>,
    /// Parameters that are trained: names or prefixes of names, `*` for any one part; absent: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub train: Option<Vec<String>>,
    /// Peak learning rate; absent: the optimiser's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lr: Option<f64>,
    /// Learning rate over its steps; absent: `train.schedule`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schedule: Option<ScheduleConfig>,
    /// Its samples. A recipe gives only the keys that differ from `[data]`; absent: the recipe's samples.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<DataConfig>,
}

/// A stage as the loop runs it.
#[derive(Debug, Clone, PartialEq)]
pub struct Stage {
    /// Its index among the stages, from 0.
    pub index: usize,
    /// Its name; empty if the recipe has no stages.
    pub name: String,
    /// The step before its first step.
    pub before: u64,
    /// Its last step.
    pub last: u64,
    /// Keys of the objectives that are trained; `None`: all.
    pub objectives: Option<Vec<String>>,
    /// The share of the steps that each of them is trained in; empty: each step trains all.
    pub tasks: BTreeMap<String, f64>,
    /// Parameters that are trained; `None`: all.
    pub train: Option<Vec<String>>,
    /// Peak learning rate.
    pub lr: f64,
    /// Learning rate over its steps.
    pub schedule: ScheduleConfig,
    /// Its samples.
    pub data: DataConfig,
}

impl Stage {
    /// Its number of steps.
    pub fn steps(&self) -> u64 {
        self.last - self.before
    }

    /// Whether an objective is trained.
    pub fn trains(&self, objective: &str) -> bool {
        let named = |keys: &Vec<String>| keys.iter().any(|key| key == objective);
        self.objectives.as_ref().is_none_or(named)
    }

    /// The objective that a step trains, of those that can `run` on its batches; `None`: the step trains all. It follows from the seed and
    /// the step alone.
    pub(crate) fn task(&self, seed: u64, step: u64, run: &dyn Fn(&str) -> bool) -> Option<&str> {
        let able = || self.tasks.iter().filter(|(key, _)| run(key.as_str()));
        let sum: f64 = able().map(|(_, share)| share).sum();
        let draw = seed_of(seed, step, 0, Purpose::Task);
        let mut left = sum * (draw >> 11) as f64 / (1u64 << 53) as f64;
        let drawn = able().find(|(_, share)| {
            left -= *share;
            left < 0.0
        });
        let drawn = drawn.or_else(|| able().next_back());
        drawn.map(|(key, _)| key.as_str())
    }

    /// Whether a parameter is trained.
    pub fn learns(&self, parameter: &str) -> bool {
        let named = |patterns: &Vec<String>| patterns.iter().any(|p| covers(p, parameter));
        self.train.as_ref().is_none_or(named)
    }
}

/// Fills in the `data` of each stage from the recipe's `[data]`, so that a stage names only the keys that differ.
pub fn complete(recipe: &mut Table) {
    let Some(data) = recipe.get("data").cloned() else {
        return;
    };
    let stages = recipe.get_mut("stage").and_then(Value::as_array_mut);
    for stage in stages.into_iter().flatten().filter_map(Value::as_table_mut) {
        if let Some(own) = stage.get_mut("data") {
            let mut all = data.clone();
            merge(&mut all, own.clone());
            *own = all;
        }
    }
}

/// Merges tables key by key; any other value is replaced.
fn merge(below: &mut Value, above: Value) {
    match (below, above) {
        (Value::Table(below), Value::Table(above)) => {
            for (key, value) in above {
                match below.get_mut(&key) {
                    Some(old) => merge(old, value),
                    None => {
                        below.insert(key, value);
                    }
                }
            }
        }
        (below, above) => *below = above,
    }
}

/// Tolerance of the sum of all shares, for the rounding of a few decimal fractions.
const SHARES: f64 = 1e-6;

impl Recipe {
    /// The stages in order; a single one if the recipe names none.
    pub fn stages(&self) -> Vec<Stage> {
        let train = &self.train;
        let whole = || Stage {
            index: 0,
            name: String::new(),
            before: 0,
            last: train.steps,
            objectives: None,
            tasks: train.tasks.clone(),
            train: None,
            lr: train.optimizer.lr,
            schedule: train.schedule.clone(),
            data: self.data.clone(),
        };
        if self.stage.is_empty() {
            return vec![whole()];
        }
        let mut shares = 0.0;
        let mut before = 0;
        let count = self.stage.len();
        self.stage
            .iter()
            .enumerate()
            .map(|(index, config)| {
                shares += config.share;
                let last = if index + 1 == count {
                    train.steps
                } else {
                    ((shares * train.steps as f64).round() as u64).min(train.steps)
                };
                let stage = Stage {
                    index,
                    name: config.name.clone(),
                    before,
                    last,
                    objectives: config.objectives.clone(),
                    tasks: {
                        let mut tasks = train.tasks.clone();
                        let own = config.objectives.as_ref();
                        tasks.retain(|key, _| own.is_none_or(|own| own.contains(key)));
                        tasks
                    },
                    train: config.train.clone(),
                    lr: config.lr.unwrap_or(train.optimizer.lr),
                    schedule: config.schedule.clone().unwrap_or(train.schedule.clone()),
                    data: config.data.clone().unwrap_or_else(|| self.data.clone()),
                };
                before = last;
                stage
            })
            .collect()
    }

    /// Checks that every entry of a stage's `train` is the name of a parameter of the model, or a prefix of one.
    pub(crate) fn check_patterns(&self, parameters: &[String]) -> Result<(), ConfigError> {
        let first = self.wrong_patterns(parameters).into_iter().next();
        first.map_or(Ok(()), Err)
    }

    /// Patterns of parameters that cover none, and `train.freeze` if it covers all.
    pub(crate) fn wrong_patterns(&self, parameters: &[String]) -> Vec<ConfigError> {
        let train = &self.train;
        let of_stages = self.stage.iter().enumerate().flat_map(|(index, stage)| {
            let own = stage.train.iter().flatten();
            own.map(move |pattern| (format!("stage[{index}].train"), pattern, "backbone.text"))
        });
        let frozen = train.freeze.iter();
        let frozen = frozen.map(|p| ("train.freeze".to_owned(), p, "backbone.text"));
        let also = train.lora.iter().flat_map(|lora| &lora.also);
        let also = also.map(|p| ("train.lora.also".to_owned(), p, "objectives"));
        let factors = train.optimizer.lr_factors.keys();
        let factors =
            factors.map(|p| ("train.optimizer.lr_factors".to_owned(), p, "backbone.text"));
        let all = of_stages.chain(frozen).chain(also).chain(factors);
        let mut found: Vec<ConfigError> = all
            .filter(|(_, pattern, _)| !parameters.iter().any(|name| covers(pattern, name)))
            .map(|(key, pattern, such)| ConfigError {
                key,
                value: format!("\"{pattern}\""),
                allowed: format!(
                    "must be the name of a parameter or its beginning, such as \"{such}\""
                ),
            })
            .collect();
        let freezes = |name: &String| train.freeze.iter().any(|p| covers(p, name));
        let leaves = ConfigError::unless(
            !parameters.iter().all(freezes),
            "train.freeze",
            format_args!("{:?}", train.freeze),
            "must leave a parameter to train",
        );
        found.extend(leaves.err());
        found
    }

    /// Checks that one objective a step can be trained, if the recipe says so.
    pub(crate) fn check_tasks(&self) -> Result<(), ConfigError> {
        let tasks = &self.train.tasks;
        let given = self.objectives.given();
        for key in tasks.keys() {
            ConfigError::unless(
                given.contains(&key.as_str()),
                "train.tasks",
                format_args!("\"{key}\""),
                format_args!("must be of [objectives]: {}", given.join(", ")),
            )?;
        }
        for (key, settings) in self.objectives.each() {
            ConfigError::unless(
                tasks.is_empty() || tasks.contains_key(key),
                "train.tasks",
                format_args!("{:?}", tasks.keys().collect::<Vec<_>>()),
                format_args!("must have a share for {key} too, which would never be trained"),
            )?;
            ConfigError::unless(
                tasks.is_empty() || settings.asks_similarity().is_none(),
                "train.tasks",
                format_args!("\"{key}\""),
                "has hard negatives, which are chosen by similarities that another objective gives in the same step",
            )?;
        }
        Ok(())
    }

    /// The samples of the recipe and those of stages that have their own, each with its section.
    pub(crate) fn each_data(&self) -> Vec<(String, &DataConfig)> {
        let stages = self.stage.iter().enumerate();
        let own = stages.filter_map(|(index, stage)| {
            let data = stage.data.as_ref()?;
            Some((format!("stage[{index}].data"), data))
        });
        std::iter::once(("data".to_owned(), &self.data))
            .chain(own)
            .collect()
    }

    /// Checks that no stage has a tokenizer of its own.
    ///
    /// # Errors
    ///
    /// One has.
    pub(super) fn check_tokenizers(&self) -> Result<(), ConfigError> {
        for (index, stage) in self.stage.iter().enumerate() {
            let data = stage.data.as_ref();
            ConfigError::unless(
                data.is_none_or(|data| data.tokenizer == self.data.tokenizer),
                &format!("stage[{index}].data.tokenizer"),
                "{}",
                "must be absent: the tokens of all stages are those of [data.tokenizer]",
            )?;
        }
        Ok(())
    }

    /// Checks every value of the stages, alone and against the rest of the recipe.
    pub(crate) fn check_stages(&self) -> Result<(), ConfigError> {
        let given = self.objectives.given();
        for (index, stage) in self.stage.iter().enumerate() {
            let check = || {
                ConfigError::unless(
                    stage.share > 0.0 && stage.share <= 1.0,
                    "share",
                    stage.share,
                    "must be above 0 and at most 1",
                )?;
                if let Some(lr) = stage.lr {
                    config::above_zero("lr", lr)?;
                }
                if let Some(schedule) = &stage.schedule {
                    config::probability("schedule.warmup", schedule.warmup)?;
                    ConfigError::unless(
                        (0.0..=1.0).contains(&schedule.last),
                        "schedule.last",
                        schedule.last,
                        "must be in [0, 1]",
                    )?;
                }
                for key in stage.objectives.iter().flatten() {
                    ConfigError::unless(
                        given.contains(&key.as_str()),
                        "objectives",
                        format_args!("\"{key}\""),
                        format_args!("must be of [objectives]: {}", given.join(", ")),
                    )?;
                }
                ConfigError::unless(
                    stage
                        .objectives
                        .as_ref()
                        .is_none_or(|keys| !keys.is_empty()),
                    "objectives",
                    "[]",
                    format_args!("name at least one of {}", given.join(", ")),
                )?;
                let trains = |key: &str| {
                    let named = |keys: &Vec<String>| keys.iter().any(|k| k == key);
                    given.contains(&key) && stage.objectives.as_ref().is_none_or(named)
                };
                for (key, settings) in self.objectives.each() {
                    let asked = settings.asks_similarity().filter(|_| trains(key));
                    let gives = |between| self.objectives.similarity_of(between, &trains);
                    ConfigError::unless(
                        asked.is_none_or(|between| gives(between).is_some()),
                        "objectives",
                        format_args!("\"{key}\""),
                        format_args!(
                            "has hard negatives, which are chosen by the similarities of {}: train it in the same stage",
                            match asked {
                                Some(Between::TextsAndTexts) => "ttc",
                                _ => "itc",
                            }
                        ),
                    )?;
                }
                for pattern in stage.train.iter().flatten() {
                    let first = pattern.split('.').next().unwrap_or_default();
                    ConfigError::unless(
                        ["backbone", "objectives"].contains(&first),
                        "train",
                        format_args!("\"{pattern}\""),
                        "must begin with backbone or objectives",
                    )?;
                }
                if let Some(data) = &stage.data {
                    let base = &self.data;
                    ConfigError::unless(
                        data.image_size == base.image_size
                            && (data.mean, data.std) == (base.mean, base.std)
                            && data.concepts == base.concepts
                            && data.codes == base.codes
                            && data.region_features() == base.region_features(),
                        "data",
                        "another image_size, mean or std, concepts, codes of patches or features of regions",
                        "must have those of [data]: the model is the same",
                    )?;
                    ConfigError::unless(
                        data.max_text_length <= base.max_text_length,
                        "data.max_text_length",
                        data.max_text_length,
                        format_args!("must be at most that of [data], {}", base.max_text_length),
                    )?;
                }
                Ok(())
            };
            check().map_err(|e: ConfigError| e.within(&format!("stage[{index}]")))?;
        }
        let sum: f64 = self.stage.iter().map(|stage| stage.share).sum();
        ConfigError::unless(
            self.stage.is_empty() || (sum - 1.0).abs() < SHARES,
            "stage.share",
            sum,
            "of all stages must add up to 1",
        )?;
        for stage in self.stages() {
            ConfigError::unless(
                stage.steps() > 0,
                "train.steps",
                self.train.steps,
                format_args!("leaves stage \"{}\" without a step", stage.name),
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recipe::Overrides;

    const STAGES: &str = r#"
[[stage]]
name = "words"
share = 0.25
objectives = ["mlm"]
train = ["backbone.text", "objectives.mlm"]
lr = 1e-4

[[stage]]
name = "all"
share = 0.75
data = { scenes = { train = 7 } }
"#;

    fn parse(stages: &str, set: &[&str]) -> Result<Recipe, crate::error::TrainError> {
        let built_in = crate::recipe::BUILT_IN
            .iter()
            .find(|b| b.name == "unimo3-tiny");
        let text = format!("{}{stages}", built_in.unwrap().text);
        let overrides = Overrides {
            data: None,
            set: set.iter().map(|s| (*s).to_owned()).collect(),
        };
        Recipe::parse("staged.toml", &text, None, &overrides)
    }

    /// One task a step, by the shares; the same for the same seed and step, whatever was before.
    #[test]
    fn tasks_are_drawn_by_their_shares() {
        const STEPS: u64 = 33_000;
        let recipe = Recipe::load("uc2-tiny", &Overrides::default()).unwrap();
        let stage = &recipe.stages()[0];
        let mut counts = BTreeMap::new();
        for step in 1..=STEPS {
            let task = stage.task(7, step, &|_| true).unwrap();
            assert_eq!(stage.task(7, step, &|_| true), Some(task));
            *counts.entry(task).or_insert(0.0) += 1.0;
        }
        for (task, parts) in [("itm", 9.0), ("mlm", 12.0), ("mrtm", 9.0), ("tlm", 3.0)] {
            let share = parts / 33.0;
            let deviation = (STEPS as f64 * share * (1.0 - share)).sqrt();
            let difference: f64 = counts[task] - STEPS as f64 * share;
            assert!(difference.abs() < 3.0 * deviation, "{task}: {difference}");
        }
        // Of those that can run.
        for step in 1..100 {
            assert_eq!(stage.task(7, step, &|task| task == "tlm"), Some("tlm"));
            assert_eq!(stage.task(7, step, &|_| false), None);
        }
        let others =
            (1..100).any(|step| stage.task(7, step, &|_| true) != stage.task(8, step, &|_| true));
        assert!(others, "another seed draws others");
    }

    #[test]
    fn what_a_stage_says_of_its_data_counts_or_is_refused() {
        let of = |set: &str| parse(STAGES, &[set]).map_err(|error| error.to_string());
        for (set, said) in [
            (
                "stage[1].data.tokenizer.vocab_size=300",
                "stage[1].data.tokenizer",
            ),
            (
                "stage[1].data.mean=[0.1, 0.1, 0.1]",
                "another image_size, mean or std",
            ),
            ("stage[1].data.walks={}", "stage[1].data.walks"),
            ("stage[1].data.scenes.size=0", "`stage[1].data.scenes.size`"),
        ] {
            let error = of(set).unwrap_err();
            assert!(error.contains(said), "{set}: {error}");
        }
        // What [data] says wrongly is said once.
        let error = of("data.max_skipped=2.0").unwrap_err();
        assert!(!error.contains("stage[1]"), "{error}");
        assert_eq!(of("data.tokenizer.vocab_size=300").unwrap().stage.len(), 2);

        let task = r#"
extends = "unimo3-vqa-tiny"
description = "questions in two stages"
[[stage]]
name = "first"
share = 0.5
[stage.data]
source = "mixture"
[[stage.data.mixture.parts]]
source = "scenes"
texts = "questions"
weight = 2.0
[[stage.data.mixture.parts]]
source = "scenes"
texts = "questions"
seed = 1
weight = 1.0
[[stage]]
name = "second"
share = 0.5
"#;
        let error = Recipe::parse("task.toml", task, None, &Overrides::default());
        let error = error.unwrap_err().to_string();
        assert!(error.contains("stage[0].data.mixture"), "{error}");
    }

    #[test]
    fn tasks_that_mean_nothing_are_refused() {
        for (tasks, said) in [
            ("{ itm = 1, mlm = 1, mrtm = 1, tlm = 0 }", "train.tasks.tlm"),
            ("{ itm = 1, mlm = 1, mrtm = 1 }", "a share for tlm too"),
            (
                "{ itm = 1, mlm = 1, mrtm = 1, tlm = 1, vtlm = 1 }",
                "\"vtlm\"",
            ),
        ] {
            let overrides = Overrides {
                data: None,
                set: vec![format!("train.tasks={tasks}")],
            };
            let message = Recipe::load("uc2-tiny", &overrides)
                .unwrap_err()
                .to_string();
            assert!(message.contains(said), "{said}: {message}");
        }
        let hard = "train.tasks={ mlm = 1, itm = 1, itc = 1 }";
        let message = parse("", &[hard, "objectives.itm.negatives=hard_argmax"]).unwrap_err();
        assert!(message.to_string().contains("hard negatives"), "{message}");
    }

    #[test]
    fn stages_follow_each_other_and_name_what_differs() {
        let recipe = parse(STAGES, &["train.steps=10"]).unwrap();
        let [words, all] = <[Stage; 2]>::try_from(recipe.stages()).unwrap();
        assert_eq!(
            (words.before, words.last, all.before, all.last),
            (0, 3, 3, 10)
        );
        assert!(words.trains("mlm") && !words.trains("itc") && all.trains("itc"));
        assert!(words.learns("backbone.text.layers.0.attention.query.weight"));
        assert!(!words.learns("backbone.image.class_embedding"));
        assert_eq!((words.lr, all.lr), (1e-4, 1e-3));
        assert_eq!(all.data.scenes.unwrap().train, 7);
        assert_eq!(
            all.data.scenes.unwrap().val,
            recipe.data.scenes.unwrap().val
        );
        assert_eq!(words.data, recipe.data);
        let text = recipe.to_toml().unwrap();
        let again = Recipe::parse("resolved", &text, None, &Overrides::default()).unwrap();
        assert_eq!(recipe, again);
        assert!(parse(STAGES, &["stage=none"]).unwrap().stage.is_empty());
    }

    #[test]
    fn what_is_wrong_with_a_stage_is_named() {
        for (from, to, expected) in [
            ("share = 0.75", "share = 0.5", "stage.share"),
            ("share = 0.25", "share = 0", "stage[0].share"),
            ("[\"mlm\"]", "[\"mlmm\"]", "mlmm"),
            ("[\"mlm\"]", "[]", "stage[0].objectives"),
            ("\"backbone.text\"", "\"text\"", "stage[0].train"),
            ("train = 7", "trian = 7", "trian"),
            ("lr = 1e-4", "lr = -1", "stage[0].lr"),
        ] {
            let error = parse(&STAGES.replace(from, to), &[])
                .unwrap_err()
                .to_string();
            assert!(error.contains(expected), "{to}: {error}");
        }
        let error = parse(STAGES, &["train.steps=1"]).unwrap_err().to_string();
        assert!(error.contains("train.steps"), "{error}");
    }
}

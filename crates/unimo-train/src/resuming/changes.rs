//! Which settings of a run that has begun may change, which may not and why, and which of those that may are used by what is left of it.

use std::path::Path;

use toml::Value;

use crate::error::TrainError;
use crate::loss_scale::LossScaleConfig;
use crate::recipe::Recipe;
use crate::recipe::stages::Stage;

/// A value that differs.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Difference {
    pub key: String,
    pub old: Option<Value>,
    pub new: Option<Value>,
}

impl Difference {
    pub fn line(&self) -> String {
        let said = |value: &Option<Value>| match value {
            Some(value) => value.to_string(),
            None => "absent".to_owned(),
        };
        format!("{}: {} -> {}", self.key, said(&self.old), said(&self.new))
    }

    /// The setting that would produce the new value.
    pub fn setting(&self) -> String {
        let value = self
            .new
            .as_ref()
            .map_or("none".to_owned(), Value::to_string);
        format!("--set '{}={value}'", self.key)
    }
}

/// Settings that change neither the meaning of the weights nor the samples that come next.
const MAY_CHANGE: &[&str] = &[
    "description",
    "train.steps",
    "train.dtype",
    "train.gradient_checkpointing",
    "train.clip_norm",
    "train.loss_scale.grow_after",
    "train.log_every",
    "train.eval_every",
    "train.checkpoint_every",
    "train.keep_last",
    "train.cache",
    "train.cache_gb",
    "train.optimizer.lr",
    "train.optimizer.fusion_lr_factor",
    "train.optimizer.lr_factors",
    "train.optimizer.layer_decay",
    "train.optimizer.weight_decay",
    "train.schedule",
    "lr",
    "schedule",
    "eval",
    "log",
    "data.workers",
    "data.prefetch",
    "data.max_skipped",
];

/// Reasons why other settings may not change, by the prefix of their keys.
const MAY_NOT_CHANGE: &[(&str, &str)] = &[
    ("seed", "order, masks and dropout follow from it"),
    ("init", "it was read before the first step"),
    ("model", "the weights are those of this model"),
    (
        "objectives",
        "the heads and their queues are those of these objectives",
    ),
    ("train.batch_size", "the place in the data follows from it"),
    (
        "train.accumulation",
        "the place in the data follows from it",
    ),
    ("train.ema", "the checkpoint has the average, or has none"),
    (
        "train.loss_scale.initial",
        "a checkpoint in f16 has the factor of its own step, which goes on",
    ),
    (
        "train.lora",
        "the checkpoint has these adapters, or has none",
    ),
    ("train.optimizer", "the moments were gathered with it"),
    ("data.tokenizer", "the run has its own copy, tokenizer.json"),
    ("data.concepts", "the run has its own copy, concepts.json"),
    (
        "data.codes",
        "the run has its own copy of a codebook, codebook.safetensors",
    ),
    (
        "task",
        "the run has its own copy of the labels, labels.json",
    ),
    ("data", "the samples and their order follow from it"),
    ("stage", "the stages and their steps follow from it"),
];

/// The reason why a setting may not change in a run that has begun; `None` if it may.
pub(super) fn may_not_change(difference: &Difference) -> Option<&'static str> {
    let key = of_stage(&difference.key);
    if lies_elsewhere(difference)
        || is_written_out(difference)
        || MAY_CHANGE.iter().any(|may| begins(key, may))
    {
        return None;
    }
    let reason = MAY_NOT_CHANGE.iter().find(|(with, _)| begins(key, with));
    Some(reason.map_or("the run was begun with it", |(_, reason)| *reason))
}

/// Whether a key is this one, or in its table or list.
pub(super) fn begins(key: &str, with: &str) -> bool {
    let rest = key.strip_prefix(with);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
}

/// Whether a value only comes to be written that was counted with before: another value of the table `train.loss_scale` is given for the first
/// time.
fn is_written_out(difference: &Difference) -> bool {
    let usual = Value::Float(LossScaleConfig::default().initial);
    difference.key == "train.loss_scale.initial"
        && difference.old.is_none()
        && difference.new == Some(usual)
}

/// Whether only the place of the data changes, or how shards are fetched, and not which ones.
fn lies_elsewhere(difference: &Difference) -> bool {
    let key = of_stage(&difference.key);
    let data = begins(key, "data");
    let copied =
        begins(key, "data.tokenizer") || begins(key, "data.concepts") || key == "data.codes.path";
    let moved = !copied
        && difference.old.as_ref().is_some_and(is_place)
        && difference.new.as_ref().is_some_and(is_place);
    data && (moved || key.contains(".remote.") || key.contains(".cache"))
}

/// Settings that are read beside the steps of a training: by the folder's reports, or by whatever reads the data later.
const READ_ALWAYS: &[&str] = &["description", "log", "train.steps"];

/// Settings that an evaluation after the last step reads, or what is done after it.
pub(super) const READ_BY_EVALUATIONS: &[&str] = &[
    "eval",
    "train.keep_last",
    "data.workers",
    "data.prefetch",
    "data.max_skipped",
];

/// Whether a change is used by a run of which these stages are left, before the change and with it. Whether an evaluation is left is not
/// known here.
pub(super) fn is_used(change: &Difference, old: &[Stage], now: &[Stage]) -> bool {
    let key = change.key.as_str();
    let one_of = |keys: &[&str]| keys.iter().any(|own| begins(key, own));
    if lies_elsewhere(change) || one_of(READ_ALWAYS) || one_of(READ_BY_EVALUATIONS) {
        return true;
    }
    if key == "train.optimizer.lr" || begins(key, "train.schedule") {
        // Stages may have their own.
        return now.iter().any(|stage| {
            let before = old.iter().find(|before| before.index == stage.index);
            before.is_none_or(|b| b.lr != stage.lr || b.schedule != stage.schedule)
        });
    }
    match stage_of(key) {
        Some(index) => now.iter().any(|stage| stage.index == index),
        None => !now.is_empty(),
    }
}

/// The number of the stage that a key belongs to.
fn stage_of(key: &str) -> Option<usize> {
    let (index, _) = key.strip_prefix("stage[")?.split_once(']')?;
    index.parse().ok()
}

/// The error of changes that a finished run would do nothing with.
pub(crate) fn nothing_uses(run: &Path, done: u64, changes: &[String]) -> TrainError {
    TrainError::Run {
        path: run.to_owned(),
        reason: format!(
            "is finished at step {done}: nothing would be trained or evaluated with {}. Give more steps too, --set train.steps=N, or \
             leave it out",
            changes.join("; ")
        ),
    }
}

/// A key without its stage, for the keys that each stage has itself: `data`, `lr` and `schedule`.
pub(super) fn of_stage(key: &str) -> &str {
    let within = key
        .strip_prefix("stage[")
        .and_then(|rest| rest.split_once("]."));
    match within {
        Some((_, rest))
            if ["data", "lr", "schedule"]
                .iter()
                .any(|own| rest.starts_with(own)) =>
        {
            rest
        }
        _ => key,
    }
}

/// Whether a value is a location: in a resolved recipe such paths are absolute.
pub(super) fn is_place(value: &Value) -> bool {
    match value {
        Value::String(text) => Path::new(text).is_absolute() || text.contains("://"),
        Value::Array(values) => !values.is_empty() && values.iter().all(is_place),
        _ => false,
    }
}

/// The reason why the number of steps may not change in this way; `None` if it may.
pub(super) fn steps_may_not(
    difference: &Difference,
    own: &Recipe,
    new: &Recipe,
    done: u64,
) -> Option<&'static str> {
    if difference.key != "train.steps" {
        return None;
    }
    if new.train.steps < done {
        return Some("the run has done more");
    }
    let begun = |recipe: &Recipe| -> Vec<(u64, u64)> {
        let stages = recipe.stages();
        let begun = stages.iter().filter(|stage| stage.before < done);
        begun.map(|stage| (stage.before, stage.last)).collect()
    };
    // The end of the last stage may move while it runs. Moving the end of an earlier stage would make another training.
    let (mut old, mut now) = (begun(own), begun(new));
    if let (Some(old), Some(now)) = (old.last_mut(), now.last_mut())
        && old.1 == own.train.steps
        && now.1 == new.train.steps
    {
        (old.1, now.1) = (0, 0);
    }
    (old != now).then_some("it moves the ends of stages that have begun")
}

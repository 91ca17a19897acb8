//! `[train]`: the loop, the optimiser and the learning rate over time.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use unimo_batch::{ConfigError, config};
use unimo_core::lora::LoraSpec;
use unimo_core::world::Wire;
use unimo_encoders::names::covers;

use crate::loss_scale::{LossScale, LossScaleConfig};

/// The dtype of activations; parameters, optimiser and losses are always f32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ComputeDtype {
    /// Single precision.
    #[default]
    F32,
    /// Half precision with the range of f32, for GPUs that support it.
    Bf16,
    /// Half precision with a small range, whose losses are scaled ([`LossScaleConfig`]).
    F16,
}

/// How the gradients of a micro-batch travel between ranks, and their sum.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WireDtype {
    /// As they are.
    #[default]
    F32,
    /// Rounded to 8 binary digits, in half the bytes.
    Bf16,
}

impl WireDtype {
    pub(crate) fn of_world(self) -> Wire {
        match self {
            Self::F32 => Wire::F32,
            Self::Bf16 => Wire::Bf16,
        }
    }
}

/// `[train]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainConfig {
    /// Optimiser steps.
    pub steps: u64,
    /// Pairs per forward pass.
    pub batch_size: usize,
    /// Forward passes per optimiser step: the effective batch is `batch_size * accumulation`.
    #[serde(default = "one")]
    pub accumulation: usize,
    /// The dtype of activations.
    #[serde(default)]
    pub dtype: ComputeDtype,
    /// How the gradients of a micro-batch travel between ranks, and their sum; absent: `"f32"`. `"bf16"` halves what is exchanged. It changes the numbers: what
    /// a micro-batch adds is rounded, summed in f32, and the sum is rounded, in one process too. So all numbers of ranks give the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wire: Option<WireDtype>,
    /// How losses are scaled with dtype = "f16"; absent: from 65536 on, doubled after 2,000 steps, halved where a gradient overflows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss_scale: Option<LossScaleConfig>,
    /// Whether less is kept for the backward pass, and computed again in it. On the CPU in f32 these are whole blocks of all encoders, which
    /// keep their inputs alone: a step takes about a third more time, and its results are the same but for the order of sums. On other
    /// devices and in other dtypes these are burn's element-wise operations.
    #[serde(default)]
    pub gradient_checkpointing: bool,
    /// Largest norm of the gradient over all parameters; absent: no clipping.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clip_norm: Option<f64>,
    /// Share of the old value in a moving average of the weights, which is then evaluated instead of them; absent: no average.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ema: Option<f64>,
    /// Steps between lines in `metrics.jsonl`.
    #[serde(default = "log_every")]
    pub log_every: u64,
    /// Steps between evaluations; 0: only at the end.
    #[serde(default)]
    pub eval_every: u64,
    /// Steps between checkpoints; the last step is always kept.
    #[serde(default = "checkpoint_every")]
    pub checkpoint_every: u64,
    /// How many of the newest checkpoints are kept, in addition to the best one.
    #[serde(default = "keep_last")]
    pub keep_last: usize,
    /// A share for each objective: each step trains one of them, drawn by these, for all of its micro-batches. If no batch of a step has what
    /// the drawn one needs, it is drawn among the others. Absent: each step trains all.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tasks: BTreeMap<String, f64>,
    /// Parameters that stay as they are: names or prefixes of names, such as `"backbone.image"`, where `*` stands for any one part. They
    /// track no gradient, are not decayed and have no moments.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub freeze: Vec<String>,
    /// Whether parameters that never learn are written once, into a file of their own beside the checkpoints, which then hold what learns
    /// alone. It needs `freeze` or `lora`, and no `ema`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub frozen_apart: bool,
    /// Whether what frozen encoders give for an image or a text is computed once and kept, in the run's folder `features`. Losses are the
    /// same to the last bit on a CPU. It needs an encoder in which nothing learns, without dropout, and inputs that do not change: no
    /// augmentation of images, no hidden words. A text is kept for each length that its batches are padded to: with `data.pad = "max"`
    /// for one.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub cache: bool,
    /// Gigabytes (10^9 bytes) that `cache` may take on the disk, above 0; absent: 20. What is beyond is computed in each step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache_gb: Option<f64>,
    /// Low-rank adapters, which learn in the place of the weights; absent: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lora: Option<LoraConfig>,
    /// The optimiser.
    pub optimizer: OptimizerConfig,
    /// The learning rate over the steps.
    #[serde(default)]
    pub schedule: ScheduleConfig,
}

/// `[train.lora]`: LoRA (Hu et al. 2022). The adapters of linear layers learn, and of all other parameters only what `also` names.
/// Evaluations and exports have the adapters added to the weights.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoraConfig {
    /// The linear layers: names or prefixes of names, such as `"backbone.*.layers.*.attention.query"`, where `*` stands for any one part.
    /// A prefix covers all linear layers below it.
    pub layers: Vec<String>,
    /// Rank of the adapters.
    pub rank: usize,
    /// What an adapter adds is multiplied by `alpha / rank`.
    pub alpha: f64,
    /// Dropout on the adapters' inputs, in [0, 1).
    #[serde(default, skip_serializing_if = "config::is_zero")]
    pub dropout: f64,
    /// Other parameters that learn, in the same notation, such as a new head: `"objectives"`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub also: Vec<String>,
}

impl LoraConfig {
    /// The adapters' sizes.
    pub fn spec(&self) -> LoraSpec {
        LoraSpec {
            rank: self.rank,
            alpha: self.alpha,
            dropout: self.dropout,
        }
    }

    /// Whether a linear layer has an adapter.
    pub fn adapts(&self, layer: &str) -> bool {
        self.layers.iter().any(|pattern| covers(pattern, layer))
    }
}

/// `[train.optimizer]`: AdamW.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OptimizerConfig {
    /// Peak learning rate of the uni-modal encoders.
    pub lr: f64,
    /// Factor of the learning rate for the cross-modal encoder and the heads (5 in METER).
    #[serde(default = "same")]
    pub fusion_lr_factor: f64,
    /// Factors of the learning rate by parameter: a name or a prefix, such as `"objectives.itm" = 10.0`, where `*` stands for any
    /// one part. The pattern with the most parts applies, and replaces `fusion_lr_factor`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub lr_factors: BTreeMap<String, f64>,
    /// Factor from each layer to the one below it (layer-wise decay, as in BEiT and timm), above 0 and at most 1: what is the nearer to the
    /// input, the slower it learns. It multiplies the factors above. Heads are not slowed; embeddings are slowed most. The layers of the
    /// cross-modal encoder and of the text or image encoder below it count as one path. `rates.txt` of a run lists what came of it.
    #[serde(default = "undecayed", skip_serializing_if = "is_undecayed")]
    pub layer_decay: f64,
    /// Decay rate of the first moment.
    #[serde(default = "beta1")]
    pub beta1: f64,
    /// Decay rate of the second moment.
    #[serde(default = "beta2")]
    pub beta2: f64,
    /// Added to the root of the second moment.
    #[serde(default = "eps")]
    pub eps: f64,
    /// Decoupled weight decay of matrices; vectors (biases, norms, the class token) are not decayed.
    #[serde(default = "weight_decay")]
    pub weight_decay: f64,
}

fn undecayed() -> f64 {
    1.0
}

fn is_undecayed(decay: &f64) -> bool {
    *decay == 1.0
}

/// How the learning rate falls after the warm-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Decay {
    /// Linearly.
    #[default]
    Linear,
    /// As half a cosine wave.
    Cosine,
    /// Not at all.
    Constant,
}

/// `[train.schedule]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScheduleConfig {
    /// Share of the steps in which the rate rises linearly from 0.
    #[serde(default = "warmup")]
    pub warmup: f64,
    /// How it falls afterwards.
    #[serde(default)]
    pub decay: Decay,
    /// The rate at the last step, as a share of the peak.
    #[serde(default)]
    pub last: f64,
}

fn one() -> usize {
    1
}

fn log_every() -> u64 {
    10
}

fn checkpoint_every() -> u64 {
    1000
}

fn keep_last() -> usize {
    2
}

fn same() -> f64 {
    1.0
}

fn beta1() -> f64 {
    0.9
}

fn beta2() -> f64 {
    0.999
}

fn eps() -> f64 {
    1e-8
}

fn weight_decay() -> f64 {
    0.01
}

fn warmup() -> f64 {
    0.1
}

impl Default for ScheduleConfig {
    /// BERT's and METER's: a tenth of the steps up, then down to 0.
    fn default() -> Self {
        Self {
            warmup: warmup(),
            decay: Decay::Linear,
            last: 0.0,
        }
    }
}

impl TrainConfig {
    /// How losses are scaled at the start of a run, if they are.
    pub fn first_scale(&self) -> Option<LossScale> {
        let scaled = self.dtype == ComputeDtype::F16;
        scaled.then(|| LossScale::new(&self.loss_scale.unwrap_or_default()))
    }

    pub(crate) fn validate(&self) -> Result<(), ConfigError> {
        ConfigError::unless(self.steps > 0, "steps", self.steps, "must be at least 1")?;
        config::positive("batch_size", self.batch_size)?;
        config::positive("accumulation", self.accumulation)?;
        config::positive("keep_last", self.keep_last)?;
        for (key, value) in [
            ("log_every", self.log_every),
            ("checkpoint_every", self.checkpoint_every),
        ] {
            ConfigError::unless(value > 0, key, value, "must be at least 1")?;
        }
        if let Some(norm) = self.clip_norm {
            config::above_zero("clip_norm", norm)?;
        }
        if let Some(scale) = self.loss_scale {
            scale.validate().map_err(|e| e.within("loss_scale"))?;
            ConfigError::unless(
                self.dtype == ComputeDtype::F16,
                "loss_scale",
                format_args!("initial = {}", scale.initial),
                "changes nothing without train.dtype = \"f16\"",
            )?;
        }
        if let Some(decay) = self.ema {
            config::probability("ema", decay)?;
        }
        if self.frozen_apart {
            let frozen = !self.freeze.is_empty() || self.lora.is_some();
            ConfigError::unless(
                frozen && self.ema.is_none(),
                "frozen_apart",
                true,
                "needs train.freeze or train.lora, and no train.ema, whose averages are of all parameters",
            )?;
        }
        if let Some(gigabytes) = self.cache_gb {
            config::above_zero("cache_gb", gigabytes)?;
            ConfigError::unless(
                self.cache,
                "cache_gb",
                gigabytes,
                "changes nothing without train.cache = true",
            )?;
        }
        if let Some(lora) = &self.lora {
            lora.spec().validate().map_err(|e| e.within("lora"))?;
            ConfigError::unless(
                !lora.layers.is_empty(),
                "lora.layers",
                "[]",
                "must name linear layers, such as \"backbone.*.layers.*.attention\"",
            )?;
        }
        for (task, share) in &self.tasks {
            config::above_zero(&format!("tasks.{task}"), *share)?;
        }
        let o = &self.optimizer;
        for (key, value) in [
            ("optimizer.lr", o.lr),
            ("optimizer.fusion_lr_factor", o.fusion_lr_factor),
            ("optimizer.eps", o.eps),
        ] {
            config::above_zero(key, value)?;
        }
        for (pattern, factor) in &o.lr_factors {
            let at_least_0 = factor.is_finite() && *factor >= 0.0;
            ConfigError::unless(
                at_least_0,
                &format!("optimizer.lr_factors.\"{pattern}\""),
                factor,
                "must be a finite number of at least 0",
            )?;
        }
        ConfigError::unless(
            o.layer_decay > 0.0 && o.layer_decay <= 1.0,
            "optimizer.layer_decay",
            o.layer_decay,
            "must be above 0 and at most 1",
        )?;
        config::probability("optimizer.beta1", o.beta1)?;
        config::probability("optimizer.beta2", o.beta2)?;
        config::probability("optimizer.weight_decay", o.weight_decay)?;
        config::probability("schedule.warmup", self.schedule.warmup)?;
        let last = self.schedule.last;
        ConfigError::unless(
            (0.0..=1.0).contains(&last),
            "schedule.last",
            last,
            "must be in [0, 1]",
        )
    }
}

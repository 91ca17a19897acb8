//! `[eval]`: what a model is judged by.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use unimo_batch::{ConfigError, config};
use unimo_eval::RetrievalConfig;

/// `[eval]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EvalConfig {
    /// Images of the held-out split, drawn at random where there are more; 0: all.
    pub limit: usize,
    /// What evaluations before the last step score: `auto`, `contrast`, `part` or `full`.
    #[serde(default)]
    pub during: During,
    /// What they may cost: a share of the passes that training makes between two of them.
    #[serde(default = "default_share")]
    pub share: f64,
    /// Gigabytes of features of pictures and texts that are kept at once; what is beyond is encoded again, block by block.
    #[serde(default = "default_memory")]
    pub memory_gb: f64,
    /// Texts or images per forward pass of an encoder, and pairs per pass of the cross-modal encoder.
    pub batch_size: usize,
    /// Candidates that the contrastive score leaves to the matching score, in each direction.
    pub shortlist: usize,
    /// Score every text with every image by the matching score too.
    pub full_itm: bool,
    /// Images shown in the report.
    pub gallery: usize,
    /// The number that the best weights of a run are chosen by, such as `prompts.top1`; absent: the mean of R@1, R@5 and R@10 in both
    /// directions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub select: Option<String>,
    /// Classes by prompts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompts: Option<PromptsConfig>,
}

fn default_share() -> f64 {
    0.05
}

fn default_memory() -> f64 {
    2.0
}

impl EvalConfig {
    pub(crate) fn validate(&self) -> Result<(), ConfigError> {
        config::positive("batch_size", self.batch_size)?;
        ConfigError::unless(
            self.share > 0.0 && self.share <= 1.0,
            "share",
            self.share,
            "must be above 0 and at most 1",
        )?;
        config::above_zero("memory_gb", self.memory_gb)?;
        match &self.prompts {
            Some(prompts) => prompts.validate().map_err(|e| e.within("prompts")),
            None => Ok(()),
        }
    }

    /// As the evaluation takes it.
    pub fn retrieval(&self) -> RetrievalConfig {
        RetrievalConfig {
            shortlist: self.shortlist,
            full_itm: self.full_itm,
            batch: self.batch_size,
            top: 5,
        }
    }
}

/// `eval.during`: what is scored by an evaluation during training. After the last step all is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum During {
    /// `full` where it costs no more than `eval.share`, else `contrast` where the model has it, else `part`.
    #[default]
    Auto,
    /// The contrast alone, of as many held-out pictures as `eval.share` allows.
    Contrast,
    /// All methods, of as many held-out pictures as `eval.share` allows.
    Part,
    /// All methods and pictures, whatever it costs.
    Full,
}

/// Where a class's name stands in a template.
pub(crate) const PLACE: &str = "{}";

/// `[eval.prompts]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PromptsConfig {
    /// A folder with a folder of images for each class, whose name, with `_` read as a space, is the class's.
    pub folder: PathBuf,
    /// Texts with `{}` where the class's name stands.
    pub templates: Vec<String>,
}

impl PromptsConfig {
    /// Every value on its own.
    pub fn validate(&self) -> Result<(), ConfigError> {
        ConfigError::unless(
            !self.templates.is_empty(),
            "templates",
            "[]",
            "name at least one, such as \"a photo of a {}.\"",
        )?;
        for template in &self.templates {
            ConfigError::unless(
                template.matches(PLACE).count() == 1,
                "templates",
                format_args!("\"{template}\""),
                "must have one {} where the class's name stands",
            )?;
        }
        Ok(())
    }
}

//! Which matrices the parts of one stream have: image, names of its objects (concepts), text. The attention itself is
//! [`unimo_core::split`].
//!
//! Source: DiMBERT (Liu et al. 2021, arXiv 2210.16431): separate attention spaces for vision and language, and visual concepts beside them.
//! Whose matrices concepts have is not said; by default those of texts, since they are words.

use burn::tensor::{Int, Tensor};
use serde::{Deserialize, Serialize};
use unimo_batch::ConfigError;
use unimo_core::attention::KeyValues;
use unimo_core::split::{Memory, Spaces, Split};

use crate::joint::{JointConfig, JointEncoder};

/// `[model.joint.split]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SplitConfig {
    /// Which positions share projections: `modality`, `pair` or `query`.
    #[serde(default)]
    pub spaces: Spaces,
    /// Whether image and text also have feed-forward layers of their own. They share the norms in any case.
    #[serde(default)]
    pub feed_forward: Sharing,
    /// Whose matrices concepts have, with `model.joint.concepts`; absent: those of texts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concepts: Option<ConceptSpace>,
}

/// Whether parts share a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sharing {
    /// One for all.
    #[default]
    Shared,
    /// One for each part.
    Separate,
}

/// Whose matrices concepts have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ConceptSpace {
    /// Those of texts.
    #[default]
    Language,
    /// Those of images.
    Vision,
    /// Matrices of their own.
    Own,
}

/// What texts that are read word by word see in a layer.
#[derive(Debug, Clone)]
#[expect(clippy::large_enum_variant, reason = "there is one for each layer")]
pub(super) enum Before {
    /// Keys and values by the matrices that all parts share.
    Shared(Option<KeyValues>),
    /// By those of each part.
    Split(Memory),
}

impl Before {
    /// The given rows, in that order.
    pub(super) fn select(&self, rows: &Tensor<1, Int>) -> Self {
        match self {
            Self::Shared(keys) => Self::Shared(keys.as_ref().map(|keys| keys.select(rows))),
            Self::Split(memory) => Self::Split(memory.select(rows)),
        }
    }
}

impl SplitConfig {
    /// Whose matrices concepts have.
    fn concept_space(self) -> ConceptSpace {
        self.concepts.unwrap_or_default()
    }

    /// Parts with matrices.
    pub fn parts(self) -> usize {
        match self.concept_space() {
            ConceptSpace::Own => 3,
            ConceptSpace::Language | ConceptSpace::Vision => 2,
        }
    }
}

impl JointConfig {
    /// Checks parts against each other.
    pub(super) fn check_split(&self) -> Result<(), ConfigError> {
        ConfigError::unless(
            self.grounding.is_none() || (self.split.is_none() && !self.concepts),
            "grounding",
            "{}",
            "must be absent with joint.split and joint.concepts: grounded tokens are neither image nor text, and stand where concepts do",
        )?;
        let Some(space) = self.split.and_then(|split| split.concepts) else {
            return Ok(());
        };
        ConfigError::unless(
            self.concepts,
            "split.concepts",
            format_args!("{space:?}"),
            "must be absent without joint.concepts = true: there are no concepts to have matrices",
        )
    }

    /// How many times as many numbers a block has.
    pub fn sets(&self) -> usize {
        self.split.map_or(1, |split| match split.spaces {
            Spaces::Modality | Spaces::Query => split.parts(),
            Spaces::Pair => split.parts() * split.parts(),
        })
    }
}

impl JointEncoder {
    /// The same with further matrices that are copies of the blocks', so that it is the plain encoder exactly (`modality`), or up to rounding
    /// (`pair`). Without `split` it is as it was. To be called when the blocks have been given other weights before the first step.
    #[must_use]
    pub fn split_anew(mut self) -> Self {
        let Some(config) = self.config.split else {
            return self;
        };
        let separate = config.feed_forward == Sharing::Separate;
        let layers = self.layers.iter();
        let of = |layer| Split::of(layer, config.spaces, config.parts(), separate);
        self.split = layers.map(of).collect();
        self
    }

    /// The first parameter of a part that differs from the text's own, by its name; `None` if the encoder is a plain one.
    pub fn differs_by_part(&self) -> Option<String> {
        let each = self.layers.iter().zip(&self.split).enumerate();
        let mut differing = each.filter_map(|(number, (layer, split))| {
            Some(format!("split.{number}.{}", split.differs(layer)?))
        });
        differing.next()
    }

    /// How many positions have the matrices of each part, of `v` of the image, `k` concepts and `t` of the text.
    pub(super) fn spans(&self, [v, k, t]: [usize; 3]) -> Vec<usize> {
        let space = self.config.split.map(SplitConfig::concept_space);
        match space.unwrap_or_default() {
            ConceptSpace::Language => vec![v, k + t],
            ConceptSpace::Vision => vec![v + k, t],
            ConceptSpace::Own => vec![v, k, t],
        }
    }
}

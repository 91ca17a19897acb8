//! Images as the regions that a detector found, and which of them are hidden.
//!
//! Shape legend: `B` samples, `R` regions, `F` numbers of a region, `M` hidden regions of a batch, `W` tokens of names.

use serde::{Deserialize, Serialize};

use crate::config::{self, ConfigError};

/// Detector features and boxes, padded to a common number of regions.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Regions {
    /// `[B, R, F]`, row-major.
    pub features: Vec<f32>,
    /// `[B, R, 4]`: x1, y1, x2, y2 as shares of width and height.
    pub boxes: Vec<f32>,
    /// `R`.
    pub count: usize,
    /// `[B]`: how many leading regions of each row are real.
    pub counts: Vec<usize>,
    /// Which regions are to be predicted, if the loader was asked for it by a [`RegionMaskSpec`].
    #[serde(default)]
    pub hidden: Option<HiddenRegions>,
}

impl Regions {
    /// `F`: numbers of a region.
    pub fn width(&self) -> usize {
        self.features.len() / (self.counts.len() * self.count).max(1)
    }
}

/// The regions that are to be predicted, and what they are. Labels are there if the loader was asked for them by [`RegionLabels`].
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct HiddenRegions {
    /// `[B, R]`: which regions are to be predicted.
    pub chosen: Vec<bool>,
    /// `[B, R]`: which of them the model reads without their feature. The others stay as they are.
    pub blank: Vec<bool>,
    /// `[B, R]`: the class of each region that is to be predicted, else [`NO_CLASS`].
    pub classes: Option<Vec<i32>>,
    /// `[B, R]`: a token of the name of each region that is to be predicted, else [`NO_CLASS`].
    pub words: Option<Vec<i32>>,
    /// `[W]`: the ids of all tokens of names, ascending.
    pub vocabulary: Option<Vec<i32>>,
    /// `[M, W]`: for each region that is to be predicted, in the order of the rows, the share of each of these tokens.
    pub shares: Option<Vec<f32>>,
}

impl HiddenRegions {
    /// The positions in `[B, R]` of the regions that are to be predicted.
    pub fn positions(&self) -> Vec<i32> {
        let chosen = (0..).zip(&self.chosen).filter(|(_, chosen)| **chosen);
        chosen.map(|(at, _)| at).collect()
    }
}

/// How regions of an image are hidden for masked region modelling. Each is chosen by itself, and at least one of an image's.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RegionMaskSpec {
    /// Share of an image's regions that are to be predicted, in (0, 1).
    pub rate: f64,
    /// Share of these that the model reads as they are, in [0, 1): 0 in UC2, 0.1 in M3P. Of the others it reads the box alone.
    #[serde(default, skip_serializing_if = "config::is_zero")]
    pub kept: f64,
    /// Share of the samples whose words are hidden and no region, in (0, 1), 0.5 in M3P; of the others, regions are hidden and no word.
    /// Absent: both are hidden in every sample.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub either: Option<f64>,
}

impl RegionMaskSpec {
    /// Checks every value; errors call the section `key`.
    ///
    /// # Errors
    ///
    /// A share is out of range.
    pub fn validate(&self, key: &str) -> Result<(), ConfigError> {
        config::open_share(&format!("{key}.rate"), self.rate)?;
        ConfigError::unless(
            (0.0..1.0).contains(&self.kept),
            &format!("{key}.kept"),
            self.kept,
            "must be at least 0 and below 1",
        )?;
        match self.either {
            Some(either) => config::open_share(&format!("{key}.either"), either),
            None => Ok(()),
        }
    }
}

/// What is told of hidden regions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RegionLabels {
    /// Their classes, of which there are so many.
    pub classes: Option<usize>,
    /// A token of the name of each, drawn anew each time.
    pub words: bool,
    /// All tokens of names.
    pub vocabulary: bool,
    /// The share that each token of names has in each region's name, or in its names by the detector's probabilities.
    pub shares: bool,
}

impl RegionLabels {
    /// Whether something is told.
    pub fn any(self) -> bool {
        self.classes.is_some() || self.named()
    }

    /// Whether names are needed.
    pub fn named(self) -> bool {
        self.words || self.vocabulary || self.shares
    }

    /// What either of them tells.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            classes: match (self.classes, other.classes) {
                (Some(own), Some(other)) => Some(own.min(other)),
                (own, other) => own.or(other),
            },
            words: self.words || other.words,
            vocabulary: self.vocabulary || other.vocabulary,
            shares: self.shares || other.shares,
        }
    }

    /// Whether hidden regions tell all of this.
    pub fn are_in(self, hidden: &HiddenRegions) -> bool {
        (self.classes.is_none() || hidden.classes.is_some())
            && (!self.words || hidden.words.is_some())
            && (!self.vocabulary || hidden.vocabulary.is_some())
            && (!self.shares || hidden.shares.is_some())
    }
}

/// The class of a region that is not known, and the label of one that is not to be predicted: what every loss ignores.
pub const NO_CLASS: i32 = -100;

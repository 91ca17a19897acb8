//! What is known of a sample that is a story: its slices, and how it was changed.

use image::RgbImage;
use serde::{Deserialize, Serialize};

/// An image or a sentence of a story.
#[derive(Debug, Clone, PartialEq)]
pub enum StorySlice {
    /// An image, upright.
    Image(RgbImage),
    /// A sentence.
    Text(String),
}

/// Which story a sample tells, and with which change. Samples of one story differ by their changes alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Telling {
    /// The story: equal for all of its tellings.
    pub story: u64,
    /// The change.
    pub change: Change,
}

/// How a telling differs from its story.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, Default, PartialOrd, Ord, Serialize, Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// Not at all: it is the story.
    #[default]
    None,
    /// Other words and drawings of the same scenes, in the same order.
    Retold,
    /// The scenes are in another order.
    Order,
    /// A scene is missing.
    Dropped,
    /// A scene comes twice.
    Repeated,
    /// One attribute of one scene is another.
    Attribute,
}

impl Change {
    /// Every change.
    pub const ALL: [Self; 6] = [
        Self::None,
        Self::Retold,
        Self::Order,
        Self::Dropped,
        Self::Repeated,
        Self::Attribute,
    ];

    /// Its name in files.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Retold => "retold",
            Self::Order => "order",
            Self::Dropped => "dropped",
            Self::Repeated => "repeated",
            Self::Attribute => "attribute",
        }
    }
}

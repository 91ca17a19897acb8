//! Stories: samples that are sequences of images and sentences.

use serde::{Deserialize, Serialize};

use super::{Images, Texts};

/// The sequences of a batch. Each sample is a story: images and sentences in order. The images of all stories are one table, and so are the
/// sentences.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Slices {
    /// `[B]`: the slices of each sample, in order; at least one.
    pub stories: Vec<Vec<Slice>>,
    /// The images of all stories; `None` if they have none.
    pub images: Option<Images>,
    /// The sentences of all stories; `None` if they have none.
    pub texts: Option<Texts>,
}

/// An element of a story, by its row in the table of its kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Slice {
    /// A row of [`Slices::images`].
    Image(usize),
    /// A row of [`Slices::texts`].
    Text(usize),
}

impl Slices {
    /// Number of images of all stories.
    pub fn image_count(&self) -> usize {
        let all = self.stories.iter().flatten();
        all.filter(|slice| matches!(slice, Slice::Image(_))).count()
    }

    /// The slices of each story as numbers: images are counted first, then sentences.
    pub fn numbered(&self) -> Vec<Vec<usize>> {
        let images = self.image_count();
        let number = |slice: &Slice| match *slice {
            Slice::Image(row) => row,
            Slice::Text(row) => images + row,
        };
        let stories = self.stories.iter();
        stories
            .map(|story| story.iter().map(number).collect())
            .collect()
    }
}

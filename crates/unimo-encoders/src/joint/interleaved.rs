//! Stories in one stream: images and sentences one after the other, read from left to right (Sugar, arXiv 2411.00304; masks and places are this
//! project's reading).
//!
//! The stories of a batch share a row of **slots**, each for an image or for a sentence. A story puts each of its slices into the next slot of the
//! slice's kind, so that their order stays; what a story leaves empty is padding. So all stories have their images and sentences at the same
//! positions, and one mask says who sees whom:
//!
//! | | sees |
//! |---|---|
//! | a word | itself and everything before it |
//! | a patch | everything before its image, and all patches of its image; with `patches = "causal"` no later patch |
//!
//! Each slice has a learned embedding of its place in the story, which joins its states.
//!
//! Shape legend: `B` stories, `L` positions, `Ni` and `Nt` images and sentences of all stories, `Lv` and `Lt` their positions, `D` width, `S`
//! slices.

use burn::tensor::{Device, Int, Tensor, TensorData, assert_shape};
use serde::{Deserialize, Serialize};
use unimo_batch::{ConfigError, Slice, Slices, config};
use unimo_core::dtype::same_dtype;
use unimo_core::mask::{Hidden, PaddingMask, PairMask};

use super::JointEncoder;

/// `[model.joint.interleaved]`: the encoder reads stories too.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InterleavedConfig {
    /// `S`: slices of a story at most.
    pub slices: usize,
    /// Which patches of its image a patch sees.
    #[serde(default, skip_serializing_if = "Patches::is_default")]
    pub patches: Patches,
}

/// Which patches of its image a patch sees.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Patches {
    /// All of them.
    #[default]
    Together,
    /// Itself and those before it.
    Causal,
}

impl Patches {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// Slices of a story at most: more would be a mistake.
const MOST_SLICES: usize = 1024;

impl InterleavedConfig {
    /// Checks every value.
    pub fn validate(&self) -> Result<(), ConfigError> {
        config::positive("slices", self.slices)?;
        ConfigError::unless(
            self.slices <= MOST_SLICES,
            "slices",
            self.slices,
            format_args!("must be at most {MOST_SLICES}"),
        )
    }
}

/// Where the slices of a batch's stories stand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// In the order of their positions.
    pub slots: Vec<Slot>,
    /// `L`.
    pub length: usize,
    /// `B`.
    pub stories: usize,
}

/// Positions for a slice of each story.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slot {
    /// Whether it is for images; else for sentences.
    pub image: bool,
    /// Its first position.
    pub first: usize,
    /// Its number of positions.
    pub length: usize,
    /// `[B]`: the slice of each story; `None` if it has none here.
    pub slices: Vec<Option<Placed>>,
}

/// A slice in its slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Placed {
    /// Its row in the table of its kind.
    pub row: usize,
    /// Its place in the story, from 0.
    pub place: usize,
    /// How many positions it fills.
    pub length: usize,
}

impl Layout {
    /// The layout of these stories, where images have `patches` positions each.
    pub fn of(slices: &Slices, patches: usize) -> Self {
        let lengths = slices.texts.as_ref().map(|texts| texts.lengths.as_slice());
        let count = slices.stories.len();
        let mut slots: Vec<Slot> = Vec::new();
        for (number, story) in slices.stories.iter().enumerate() {
            let mut next = 0usize;
            for (place, slice) in story.iter().enumerate() {
                let (image, row, length) = match *slice {
                    Slice::Image(row) => (true, row, patches),
                    Slice::Text(row) => (false, row, lengths.map_or(0, |all| all[row])),
                };
                // Slots alternate, an image first.
                next += usize::from(next.is_multiple_of(2) != image);
                while slots.len() <= next {
                    slots.push(Slot {
                        image: slots.len().is_multiple_of(2),
                        first: 0,
                        length: 0,
                        slices: vec![None; count],
                    });
                }
                let slot = &mut slots[next];
                slot.slices[number] = Some(Placed { row, place, length });
                slot.length = slot.length.max(length);
                next += 1;
            }
        }
        slots.retain(|slot| slot.length > 0);
        let mut length = 0;
        for slot in &mut slots {
            slot.first = length;
            length += slot.length;
        }
        Self {
            slots,
            length,
            stories: count,
        }
    }

    /// `[B, L]`, row-major: which positions a story fills.
    pub fn filled(&self) -> Vec<bool> {
        let mut filled = vec![false; self.stories * self.length];
        for slot in &self.slots {
            for (story, placed) in slot.slices.iter().enumerate() {
                let first = story * self.length + slot.first;
                let real = placed.map_or(0, |placed| placed.length);
                filled[first..first + real].fill(true);
            }
        }
        filled
    }

    /// The positions that predict their next word, of `[B, L]`, row-major, and where in the table of sentences that word is, of `[Nt, Lt]`.
    /// The begin token of a sentence predicts its first word.
    pub fn next_words(&self, text_length: usize) -> (Vec<i32>, Vec<usize>) {
        let (mut positions, mut words) = (Vec::new(), Vec::new());
        for story in 0..self.stories {
            for slot in self.slots.iter().filter(|slot| !slot.image) {
                let Some(placed) = slot.slices[story] else {
                    continue;
                };
                for at in 0..placed.length.saturating_sub(1) {
                    positions.push((story * self.length + slot.first + at) as i32);
                    words.push(placed.row * text_length + at + 1);
                }
            }
        }
        (positions, words)
    }

    /// The padding mask, `[B, L]`.
    fn mask(&self, device: &Device) -> PaddingMask {
        let hidden: Vec<bool> = self.filled().into_iter().map(|filled| !filled).collect();
        let data = TensorData::new(hidden, [self.stories, self.length]);
        PaddingMask::from_hidden(Tensor::from_data(data, device))
    }

    /// Who may not see whom, `[L, L]`.
    fn pairs(&self, patches: Patches, device: &Device) -> PairMask {
        // The last position that each position sees.
        let last = self.slots.iter().flat_map(|slot| {
            let end = slot.first + slot.length;
            let together = slot.image && patches == Patches::Together;
            (slot.first..end).map(move |at| if together { end - 1 } else { at })
        });
        let last: Vec<usize> = last.collect();
        PairMask::new([self.length; 2], device, |query, key| key > last[query])
    }
}

impl JointEncoder {
    /// Positions of an image of a story, whose encoder gives `positions` of them.
    pub fn patches_of(&self, positions: usize) -> usize {
        if self.config.image_class {
            positions
        } else {
            positions - self.class_tokens
        }
    }

    /// Reads stories.
    ///
    /// # Shapes
    ///
    /// - images: `[Ni, Lv, D]`; texts: `[Nt, Lt, D]`
    /// - output: `[B, L, D]`
    ///
    /// # Panics
    ///
    /// Panics if the configuration has no `interleaved`, or a story has more slices than it allows.
    pub fn read_stories(
        &self,
        images: Option<&Tensor<3>>,
        texts: Option<&Tensor<3>>,
        layout: &Layout,
    ) -> Tensor<3> {
        let config = self.config.interleaved.as_ref();
        let config = config.expect("invariant: validation finds model.joint.interleaved");
        let places = self.slice_embedding.as_ref().map(|places| places.val());
        let places = places.expect("invariant: validation finds model.joint.interleaved");
        let (stories, width) = (layout.stories, self.config.width);
        let images = images.map(|images| {
            let [_, positions, _] = images.dims();
            let count = self.patches_of(positions);
            images.clone().narrow(1, positions - count, count)
        });
        let parts = layout.slots.iter().map(|slot| {
            let table = if slot.image { images.as_ref() } else { texts };
            let table = table.expect("invariant: slots are of tables that are there");
            let device = table.device();
            assert_shape!(table, [_, _, width]);
            // A story without a slice here gets any row: its positions are padding.
            let row = |of: fn(&Placed) -> usize| {
                let all = slot.slices.iter();
                let rows: Vec<i32> = all
                    .map(|placed| placed.as_ref().map_or(0, of) as i32)
                    .collect();
                Tensor::<1, Int>::from_data(TensorData::new(rows, [stories]), &device)
            };
            let states = table.clone().narrow(1, 0, slot.length);
            let states = states.select(0, row(|placed| placed.row));
            let places = places.clone().select(0, row(|placed| placed.place));
            let places = same_dtype(places, &states).reshape([stories, 1, width]);
            states + places
        });
        let mut x = Tensor::cat(parts.collect::<Vec<_>>(), 1);
        let device = x.device();
        let (keys, pairs) = (layout.mask(&device), layout.pairs(config.patches, &device));
        let hidden = Hidden {
            keys: Some(&keys),
            pairs: Some(&pairs),
        };
        for layer in &self.layers {
            x = layer.forward(x, hidden);
        }
        x
    }
}

#[cfg(test)]
mod tests;

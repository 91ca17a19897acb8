//! What ranks tell each other of the batches of a step.
//!
//! The batches of a step are dealt to the ranks in turn: of `R` ranks, rank `r` has the batches `r`, `r + R`, `r + 2R`, ... A batch is
//! known by its number over all ranks. Every rank must find the same objectives for each batch, contrast the features of all samples,
//! and may pair its images with captions of any of them.
//!
//! Shape legend: `N` samples, `E` width of the features.

use burn::tensor::{Device, Tensor, TensorData};
use serde::{Deserialize, Serialize};
use unimo_batch::{Batch, TAGS};
use unimo_core::world::{Lost, World};

use crate::encode::{pictures_of, texts_of};
use crate::features::Features;

/// What all ranks know of a batch before it is encoded.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Outline {
    /// Number of its samples.
    pub samples: usize,
    /// Whether its images have tags.
    pub has_tags: bool,
    /// For each objective that is trained, in their order, how many samples count; `None` if the batch lacks something for it.
    pub counts: Vec<Option<usize>>,
}

/// What a contrast takes from a batch.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct PartData {
    /// The objective, by its place among those that are contrasted.
    pub contrast: usize,
    /// The batch.
    pub batch: usize,
    /// The samples that take part.
    pub rows: Vec<usize>,
    /// The images that they show.
    pub pictures: Vec<Option<u64>>,
    /// Their features, and those that the loss does not learn from.
    pub features: FeatureData,
    /// Those that the loss does not learn from.
    pub fixed: FeatureData,
}

/// Features on the host, in the dtype that they were computed in.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct FeatureData(Vec<(String, TensorData)>);

impl FeatureData {
    /// Fetches features from their device.
    pub fn of(features: &Features) -> Self {
        let each = features.each();
        let fetched = |(name, x): (&str, &Tensor<2>)| {
            (name.to_owned(), x.clone().without_autodiff().into_data())
        };
        Self(each.map(fetched).collect())
    }

    /// Brings them to a device.
    ///
    /// # Shapes
    ///
    /// - output: `[N, E]` each
    pub fn on(self, device: &Device) -> Features {
        let each = self.0.into_iter();
        Features::named(each.map(|(name, data)| {
            let dtype = data.dtype();
            (name, Tensor::from_data(data, (device, dtype)))
        }))
    }
}

/// Which rank has a batch, and where in its list.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Dealt {
    rank: usize,
    ranks: usize,
}

impl Dealt {
    pub fn among(world: &World) -> Self {
        Self {
            rank: world.rank(),
            ranks: world.size(),
        }
    }

    /// The number over all ranks of the batch at this place of the own list.
    pub fn number(self, own: usize) -> usize {
        own * self.ranks + self.rank
    }

    /// The place of a batch in the own list; `None` if another rank has it.
    pub fn own(self, number: usize) -> Option<usize> {
        (number % self.ranks == self.rank).then_some(number / self.ranks)
    }

    /// The lists of all ranks as one, in the order of the batches. All have the same length.
    pub fn together<T>(lists: Vec<Vec<T>>) -> Vec<T> {
        let mut lists: Vec<_> = lists.into_iter().map(Vec::into_iter).collect();
        let mut all = Vec::new();
        loop {
            let before = all.len();
            all.extend(lists.iter_mut().filter_map(Iterator::next));
            if all.len() == before {
                return all;
            }
        }
    }
}

/// Samples of other batches, each as its batch and row.
pub(crate) type Places = Vec<(usize, usize)>;

/// What a batch reads of other batches' samples.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Asked {
    /// Texts.
    pub texts: Places,
    /// Images with tags.
    pub tagged: Places,
    /// Images without tags.
    pub plain: Places,
    /// Whether tags are to be hidden as in their own batch.
    pub hides_tags: bool,
}

/// The same as batches on this rank.
#[derive(Debug, Default)]
pub(crate) struct Answered {
    pub texts: Option<Batch>,
    pub tagged: Option<Batch>,
    pub plain: Option<Batch>,
}

/// The parts of an answer that one rank has.
type Letter = (Option<Batch>, Option<Batch>, Option<Batch>);

impl Asked {
    /// Makes batches of the samples. Each rank gives those that it has; `pad` is the token of padding.
    pub fn answer(self, world: &World, batches: &[Batch], pad: i32) -> Result<Answered, Lost> {
        let hides = self.hides_tags;
        let texts = |batches: &[Batch], places: &Places| {
            (!places.is_empty()).then(|| texts_of(batches, places, pad))
        };
        let pictures = |batches: &[Batch], places: &Places, hides: bool| {
            (!places.is_empty()).then(|| pictures_of(batches, places, pad, hides))
        };
        if world.is_alone() {
            return Ok(Answered {
                texts: texts(batches, &self.texts),
                tagged: pictures(batches, &self.tagged, hides),
                plain: pictures(batches, &self.plain, hides),
            });
        }
        let dealt = Dealt::among(world);
        let own = |places: &Places| -> Places {
            let own = |&(batch, row): &(usize, usize)| Some((dealt.own(batch)?, row));
            places.iter().filter_map(own).collect()
        };
        let asked = world.gather("samples that are asked for", self.clone())?;
        let to = asked.iter().map(|asked| -> Letter {
            (
                texts(batches, &own(&asked.texts)),
                pictures(batches, &own(&asked.tagged), asked.hides_tags),
                pictures(batches, &own(&asked.plain), asked.hides_tags),
            )
        });
        let letters = world.exchange("samples that were asked for", to.collect())?;
        // The rows of each rank are in the order of the places, so that the next row of the rank that has a place is its row.
        let ordered = |places: &Places| -> Places {
            let mut next = vec![0; world.size()];
            let found = |&(batch, _): &(usize, usize)| {
                let rank = batch % world.size();
                next[rank] += 1;
                (rank, next[rank] - 1)
            };
            places.iter().map(found).collect()
        };
        let (mut of_texts, mut of_tagged, mut of_plain) = (Vec::new(), Vec::new(), Vec::new());
        for (texts, tagged, plain) in letters {
            of_texts.push(texts.unwrap_or_default());
            of_tagged.push(tagged.unwrap_or_default());
            of_plain.push(plain.unwrap_or_default());
        }
        Ok(Answered {
            texts: texts(&of_texts, &ordered(&self.texts)),
            tagged: pictures(&of_tagged, &ordered(&self.tagged), false),
            plain: pictures(&of_plain, &ordered(&self.plain), false),
        })
    }
}

/// Whether the images of a batch have tags.
pub(crate) fn has_tags(batch: &Batch) -> bool {
    batch.further_texts.contains_key(TAGS)
}

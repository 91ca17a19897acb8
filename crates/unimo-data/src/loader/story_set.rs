//! Held-out stories with their tellings, to judge a model by.

use std::collections::BTreeMap;
use std::sync::Arc;

use unimo_batch::Slices;

use crate::error::{DataError, SampleError};
use crate::images::ImageSpec;
use crate::loader::skip::SkipList;
use crate::loader::slices;
use crate::sources::source::Source;
use crate::sources::splits::Split;
use crate::sources::telling::{Change, StorySlice};
use crate::text::tokens::{Encoded, TextTokenizer};
use crate::threads::parallel;

/// The stories of a split that are told again, with tellings that differ by their order or by an attribute.
pub struct StorySet {
    source: Arc<dyn Source>,
    split: Split,
    images: ImageSpec,
    most: usize,
    stories: Vec<HeldStory>,
}

/// A story with its tellings, by their numbers in the split.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldStory {
    /// The story as it is.
    pub original: usize,
    /// The same in other words and drawings.
    pub retold: usize,
    /// Those with a change, which are not it.
    pub changed: Vec<(usize, Change)>,
}

impl StorySet {
    /// The stories of a split. Those that are not told again, or that have no telling with a change, are left out, as are stories of which a
    /// telling cannot be used; `skip` counts these.
    ///
    /// # Errors
    ///
    /// Too much of the source is unusable.
    pub fn new(
        source: Arc<dyn Source>,
        split: Split,
        images: ImageSpec,
        most: usize,
        skip: &SkipList,
    ) -> Result<Self, DataError> {
        skip.adopt(&*source)?;
        let mut set = Self {
            source,
            split,
            images,
            most,
            stories: Vec::new(),
        };
        let mut by_story: BTreeMap<u64, Vec<(usize, Change)>> = BTreeMap::new();
        for index in 0..set.source.len(split) {
            let known = set.source.annotations(split, index);
            match known {
                Ok(known) => {
                    if let Some(telling) = known.telling {
                        let own = by_story.entry(telling.story).or_default();
                        own.push((index, telling.change));
                    }
                }
                Err(reason) => {
                    skip.add(&reason)?;
                }
            }
        }
        for tellings in by_story.into_values() {
            let first = |change| tellings.iter().find(|(_, own)| *own == change);
            let (Some((original, _)), Some((retold, _))) =
                (first(Change::None), first(Change::Retold))
            else {
                continue;
            };
            let changed = tellings.iter();
            let changed = changed.filter(|(_, c)| !matches!(c, Change::None | Change::Retold));
            let changed: Vec<_> = changed.copied().collect();
            if changed.is_empty() {
                continue;
            }
            let mut usable = true;
            for (index, _) in &tellings {
                if let Err(reason) = set.read(*index) {
                    skip.add(&reason)?;
                    usable = false;
                }
            }
            skip.check(set.source.items())?;
            if usable {
                set.stories.push(HeldStory {
                    original: *original,
                    retold: *retold,
                    changed,
                });
            }
        }
        Ok(set)
    }

    /// The stories.
    pub fn stories(&self) -> &[HeldStory] {
        &self.stories
    }

    /// The slices of a telling, as the source has them.
    ///
    /// # Errors
    ///
    /// Why it cannot be read.
    pub fn told(&self, index: usize) -> Result<Vec<StorySlice>, SampleError> {
        Ok(self.source.sample(self.split, index)?.slices)
    }

    fn read(&self, index: usize) -> Result<Vec<StorySlice>, SampleError> {
        let place = || self.source.place(self.split, index);
        let slices = self.told(index)?;
        let square = |_, picture| self.images.square(&picture);
        // Whether a text can be read does not depend on its tokens.
        let encode = |_: &str| Encoded {
            ids: Vec::new(),
            word_ids: Vec::new(),
            concepts: 0,
            first: 0,
        };
        slices::made(slices.clone(), self.most, &self.images, &square, &encode)
            .map_err(|reason| SampleError::new(place(), reason))?;
        Ok(slices)
    }

    /// Tellings as the stories of a batch, read on all cores.
    ///
    /// # Errors
    ///
    /// A telling that could be read before can no longer be read.
    pub fn batch(
        &self,
        tellings: &[usize],
        tokenizer: &TextTokenizer,
        max_length: usize,
    ) -> Result<Slices, DataError> {
        let one = |at: usize| {
            let slices = self.told(tellings[at])?;
            let square = |_, picture| self.images.square(&picture);
            let encode = |text: &str| tokenizer.encode(text, max_length);
            let place = || self.source.place(self.split, tellings[at]);
            slices::made(slices, self.most, &self.images, &square, &encode)
                .map_err(|reason| SampleError::new(place(), reason))
        };
        let read: Result<Vec<_>, SampleError> =
            parallel(0..tellings.len(), one).into_iter().collect();
        let read = read.map_err(|error| DataError::unavailable(&error))?;
        Ok(slices::batch(read, &self.images, tokenizer, max_length))
    }
}

impl std::fmt::Debug for StorySet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StorySet")
            .field("source", &self.source.describe())
            .field("split", &self.split)
            .field("stories", &self.stories.len())
            .finish_non_exhaustive()
    }
}

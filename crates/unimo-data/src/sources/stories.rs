//! An endless generated corpus of stories: scenes in order, each an image and a caption.
//!
//! ```toml
//! [data]
//! source = "stories"
//! shuffle = { shards = 8 }         # the tellings of a story meet in a batch
//!
//! [data.stories]
//! tellings = 4
//! scenes = [2, 4]
//! ```
//!
//! A sample tells a story of two to five [scenes](crate::sources::scenes). Each story has `tellings` samples one after another, which are a shard: the
//! story, and changes of it. Every telling has drawings and words of its own, so that the same scene never looks the same twice.
//!
//! | split | tellings after the first |
//! |---|---|
//! | training | retold, in another order, with a scene dropped or repeated, or with one attribute changed, drawn at random |
//! | held out | retold once; then by turns in another order and with one attribute changed |
//!
//! Stories are a pure function of seed, split and index. As in scenes, a hash of its description decides whether a scene may be held out: the scenes
//! of held-out stories, changed or not, are all such scenes, and training has none of them. As a pair of image and caption, a sample is its first
//! scene.

use std::path::PathBuf;
use std::sync::Arc;

use image::RgbImage;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::error::{DataError, Place, SampleError};
use crate::images::Limits;
use crate::order::draws::{Stream, below, hash};
use crate::settings::range;
use crate::sources::scenes::story::Story;
use crate::sources::source::{Annotations, Offers, Sample, Source, SourceConfig};
use crate::sources::splits::Split;
use crate::sources::telling::{Change, StorySlice, Telling};

/// `[data.stories]`: generated stories.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StoriesConfig {
    /// Selects the endless corpus; another seed gives other stories.
    pub seed: u64,
    /// Number of stories in a training epoch.
    pub train: usize,
    /// Number of held-out stories. None of their scenes is in any training split of any seed.
    pub val: usize,
    /// Number of test stories: as for `val`, and none is in `val`.
    pub test: usize,
    /// Samples of each story: the story itself, and changes of it.
    pub tellings: usize,
    /// Fewest and most scenes of a story.
    pub scenes: [usize; 2],
    /// Side of the drawn images in pixels.
    pub size: u32,
}

impl Default for StoriesConfig {
    fn default() -> Self {
        Self {
            seed: 0,
            train: 4096,
            val: 64,
            test: 0,
            tellings: 4,
            scenes: [2, 4],
            size: 64,
        }
    }
}

/// Slices of a scene.
const SLICES: usize = 2;

impl SourceConfig for StoriesConfig {
    fn validate(&self, table: &str) -> Result<(), DataError> {
        range(&format!("{table}.train"), self.train, 1, 1 << 40)?;
        range(&format!("{table}.val"), self.val, 0, 20_000)?;
        range(&format!("{table}.test"), self.test, 0, 20_000)?;
        range(&format!("{table}.tellings"), self.tellings, 1, 64)?;
        range(&format!("{table}.size"), self.size as usize, 32, 4096)?;
        let [least, most] = self.scenes;
        if (2..=most).contains(&least) && most <= 32 {
            return Ok(());
        }
        let allowed = "the fewest and the most scenes of a story: two numbers from 2 to 32, the smaller one first";
        let found = format!("{:?}", self.scenes);
        Err(DataError::config(format!("{table}.scenes"), found, allowed))
    }

    fn paths(&mut self) -> Vec<&mut PathBuf> {
        Vec::new()
    }

    fn open(&self, _limits: &Limits) -> Result<Arc<dyn Source>, DataError> {
        Ok(Arc::new(Stories { config: *self }))
    }

    fn without_table() -> Option<Self> {
        Some(Self::default())
    }
}

/// Generated stories. See the [module](self).
#[derive(Debug)]
struct Stories {
    config: StoriesConfig,
}

/// What is drawn for a story or a telling, so that their random numbers are apart.
#[derive(Clone, Copy)]
enum Draw {
    Story,
    Change,
    Telling,
}

impl Stories {
    /// The source's name in places.
    const NAME: &'static str = "stories";

    fn random(&self, draw: Draw, split: Split, parts: [u64; 2]) -> ChaCha8Rng {
        let parts = [
            self.config.seed,
            split as u64,
            draw as u64,
            parts[0],
            parts[1],
        ];
        ChaCha8Rng::seed_from_u64(hash(Stream::Story, &parts))
    }

    /// The number of a sample's story, and of its telling.
    fn numbers(&self, index: usize) -> [u64; 2] {
        let tellings = self.config.tellings;
        [(index / tellings) as u64, (index % tellings) as u64]
    }

    fn story(&self, split: Split, number: u64) -> Story {
        let [least, most] = self.config.scenes;
        let drawn = |attempt| {
            let random = &mut self.random(Draw::Story, split, [number, attempt]);
            Story::draw(least..=most, split != Split::Train, random)
        };
        // Of held-out stories, one half is for each split.
        let fits = |story: &Story| match split {
            Split::Train => true,
            Split::Val => story.key().is_multiple_of(2),
            Split::Test => !story.key().is_multiple_of(2),
        };
        let mut attempt = 0;
        loop {
            let story = drawn(attempt);
            if fits(&story) {
                return story;
            }
            attempt += 1;
        }
    }

    /// What a sample tells, and with which change.
    fn telling(&self, split: Split, index: usize) -> (Story, Telling) {
        let [number, telling] = self.numbers(index);
        let story = self.story(split, number);
        let wanted = match (split, telling) {
            (_, 0) => Change::None,
            (Split::Train, telling) => {
                let draw = hash(
                    Stream::Story,
                    &[self.config.seed, number, telling, Draw::Change as u64],
                );
                let changes = &Change::ALL[1..];
                changes[below(draw, changes.len())]
            }
            (_, 1) => Change::Retold,
            (_, telling) if telling % 2 == 0 => Change::Order,
            _ => Change::Attribute,
        };
        let random = &mut self.random(Draw::Change, split, [number, telling]);
        let most = self.config.scenes[1];
        // A story of as many scenes as there may be repeats none: another order is always possible.
        let (changed, change) = match story.changed(wanted, most, random) {
            Some(changed) => (Some(changed), wanted),
            None => (story.changed(Change::Order, most, random), Change::Order),
        };
        let known = Telling {
            story: number,
            change,
        };
        (changed.unwrap_or(story), known)
    }

    /// The random numbers of a sample's drawings and words.
    fn drawings(&self, split: Split, index: usize) -> ChaCha8Rng {
        self.random(Draw::Telling, split, self.numbers(index))
    }
}

impl Source for Stories {
    fn len(&self, split: Split) -> usize {
        let stories = match split {
            Split::Train => self.config.train,
            Split::Val => self.config.val,
            Split::Test => self.config.test,
        };
        stories * self.config.tellings
    }

    fn describe(&self) -> String {
        let config = &self.config;
        let test = match config.test {
            0 => String::new(),
            stories => format!(", {stories} to test on"),
        };
        let [least, most] = config.scenes;
        format!(
            "generated stories of seed {}: {} for training, {} held out{test}, each told {} times, {least} to {most} scenes, {} × {} pixels",
            config.seed, config.train, config.val, config.tellings, config.size, config.size
        )
    }

    fn place(&self, split: Split, index: usize) -> Place {
        Place {
            file: format!("{}-{}", Self::NAME, split.name()),
            line: index as u64,
        }
    }

    fn offers(&self) -> Offers {
        Offers {
            slices: SLICES * self.config.scenes[1],
            ..Offers::default()
        }
    }

    /// The tellings of a story lie together.
    fn shards(&self, split: Split) -> Vec<usize> {
        let tellings = self.config.tellings;
        vec![tellings; self.len(split) / tellings]
    }

    fn annotations(&self, split: Split, index: usize) -> Result<Annotations, SampleError> {
        let (_, telling) = self.telling(split, index);
        Ok(Annotations {
            telling: Some(telling),
            ..Annotations::default()
        })
    }

    fn captions(&self, split: Split, index: usize) -> Result<Vec<String>, SampleError> {
        let (story, _) = self.telling(split, index);
        let captions = story.captions(&mut self.drawings(split, index));
        Ok(captions.into_iter().take(1).collect())
    }

    /// What a telling is drawn from: to tell all stories of an epoch would take minutes when a run begins.
    fn identify(
        &self,
        split: Split,
        index: usize,
        give: &mut dyn FnMut(&[u8]),
    ) -> Result<(), SampleError> {
        let config = &self.config;
        let [number, telling] = self.numbers(index);
        let [least, most] = config.scenes.map(|scenes| scenes as u64);
        let size = u64::from(config.size);
        for part in [
            config.seed,
            split as u64,
            number,
            telling,
            least,
            most,
            size,
        ] {
            give(&part.to_le_bytes());
        }
        Ok(())
    }

    fn picture_id(&self, split: Split, index: usize) -> Result<u64, SampleError> {
        let of = [self.config.seed, split as u64, index as u64];
        Ok(hash(Stream::Picture, &of))
    }

    fn image(&self, split: Split, index: usize) -> Result<Option<RgbImage>, SampleError> {
        Ok(self.sample(split, index)?.image)
    }

    fn sample(&self, split: Split, index: usize) -> Result<Sample, SampleError> {
        let (story, _) = self.telling(split, index);
        let told = story.told(self.config.size, &mut self.drawings(split, index));
        let first = told.first().cloned();
        let (image, caption) = first.unzip();
        let slices = told.into_iter();
        let slices =
            slices.flat_map(|(image, text)| [StorySlice::Image(image), StorySlice::Text(text)]);
        Ok(Sample {
            name: self.place(split, index).to_string(),
            image,
            captions: caption.into_iter().collect(),
            slices: slices.collect(),
            ..Sample::default()
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn stories() -> Stories {
        Stories {
            config: StoriesConfig {
                seed: 3,
                train: 60,
                val: 40,
                test: 40,
                tellings: 6,
                scenes: [2, 5],
                size: 32,
            },
        }
    }

    #[test]
    fn tellings_are_what_they_say() {
        let stories = stories();
        let mut met = HashSet::new();
        for split in Split::ALL {
            for index in 0..stories.len(split) {
                let (told, telling) = stories.telling(split, index);
                let original = stories.story(split, telling.story);
                met.insert((split == Split::Train, telling.change));
                let (own, all) = (told.keys(), original.keys());
                let set = |keys: &[u64]| keys.iter().copied().collect::<HashSet<u64>>();
                let (own_set, all_set) = (set(&own), set(&all));
                match telling.change {
                    Change::None | Change::Retold => assert_eq!(own, all),
                    Change::Order => {
                        assert!(own != all && own_set == all_set && own.len() == all.len());
                    }
                    Change::Dropped => {
                        assert!(own.len() + 1 == all.len() && own_set.is_subset(&all_set));
                    }
                    Change::Repeated => {
                        assert!(own.len() == all.len() + 1 && own_set == all_set);
                    }
                    Change::Attribute => {
                        let apart = own.iter().zip(&all).filter(|(a, b)| a != b).count();
                        assert!(own.len() == all.len() && apart == 1);
                    }
                }
                let sample = stories.sample(split, index).unwrap();
                assert_eq!(sample.slices.len(), 2 * own.len());
                assert_eq!(sample.captions, stories.captions(split, index).unwrap());
                assert!(
                    matches!(&sample.slices[1], StorySlice::Text(text) if *text == sample.captions[0])
                );
            }
        }
        let held = [
            Change::None,
            Change::Retold,
            Change::Order,
            Change::Attribute,
        ];
        assert!(held.iter().all(|change| met.contains(&(false, *change))));
        assert!(
            Change::ALL
                .iter()
                .all(|change| met.contains(&(true, *change)))
        );
    }

    #[test]
    fn no_scene_of_a_held_out_story_is_trained_on() {
        let stories = stories();
        let keys = |split: Split| -> HashSet<u64> {
            let all =
                (0..stories.len(split)).flat_map(|index| stories.telling(split, index).0.keys());
            all.collect()
        };
        let train = keys(Split::Train);
        for split in [Split::Val, Split::Test] {
            assert!(train.is_disjoint(&keys(split)));
        }
        let whole = |split: Split| -> HashSet<u64> {
            (0..40)
                .map(|number| stories.story(split, number).key())
                .collect()
        };
        assert!(whole(Split::Val).is_disjoint(&whole(Split::Test)));
    }

    #[test]
    fn a_retold_story_has_other_drawings() {
        let stories = stories();
        let of = |index| stories.sample(Split::Val, index).unwrap().slices;
        assert_eq!(of(1), of(1));
        let images = |slices: Vec<StorySlice>| -> Vec<StorySlice> {
            slices.into_iter().step_by(2).collect()
        };
        assert_ne!(images(of(0)), images(of(1)));
    }

    #[test]
    fn one_scene_is_no_story() {
        let config = StoriesConfig {
            scenes: [1, 4],
            ..StoriesConfig::default()
        };
        let error = config.validate("data.stories").unwrap_err().to_string();
        assert!(error.contains("data.stories.scenes"), "{error}");
    }
}

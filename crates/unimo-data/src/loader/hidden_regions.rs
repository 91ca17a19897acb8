//! Hides regions of images for masked region modelling, and says what they are.
//!
//! Sources: UNITER and UC2 (Zhou et al. 2021): each region by itself, at least one of an image's, always without its feature. UC2's labels:
//! one of the tokens of the name that the region has in the caption's language, drawn anew each time; or a share for each token of names.
//! M3P (Ni et al. 2021): some keep their feature, and either words or regions of a sample are hidden.
//!
//! Shape legend: `R` regions of an image, `M` of them hidden, `W` tokens of names.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use unimo_batch::{HiddenRegions, MaskedTexts, NO_CLASS, RegionLabels, RegionMaskSpec};

use crate::error::DataError;
use crate::images::regions::PictureRegions;
use crate::order::draws::{Stream, hash, unit};
use crate::sources::regions::RegionClasses;
use crate::text::tokens::TextTokenizer;

/// Which regions a loader hides, and what it says of them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct HideRegions {
    /// How regions are hidden.
    pub mask: RegionMaskSpec,
    /// What is told of them.
    pub labels: RegionLabels,
}

/// Hides regions by a [`HideRegions`].
pub(super) struct RegionHider {
    hide: HideRegions,
    classes: Option<Arc<RegionClasses>>,
    /// By language, the tokens of each class's name.
    tokens: BTreeMap<String, Vec<Vec<i32>>>,
    /// `[W]`: all of them, ascending.
    vocabulary: Vec<i32>,
    seed: u64,
}

/// The regions of a sample.
pub(super) struct OfSample<'a> {
    pub regions: &'a PictureRegions,
    /// The language of its caption, if that is known.
    pub language: Option<&'a str>,
    /// Its position in the run.
    pub position: u64,
}

impl RegionHider {
    /// # Errors
    ///
    /// A share is out of range, or classes or names are to be told and there are none.
    pub fn new(
        hide: HideRegions,
        classes: Option<Arc<RegionClasses>>,
        tokenizer: &TextTokenizer,
        seed: u64,
    ) -> Result<Self, DataError> {
        let checked = hide.mask.validate("mask");
        checked.map_err(|error| {
            DataError::config("regions.mask", format!("{hide:?}"), error.to_string())
        })?;
        if hide.labels.any() && classes.is_none() {
            return Err(DataError::config(
                "data.regions",
                "without classes",
                "regions with classes, of which objectives predict hidden ones: of files with labels = true, or boxes with names",
            ));
        }
        let names = classes.as_ref().filter(|_| hide.labels.named());
        let names = names.map(|classes| classes.names());
        if names.is_some_and(BTreeMap::is_empty) {
            return Err(DataError::config(
                "data.regions.names",
                "absent",
                "a file of names for each language of the captions, of which objectives predict tokens",
            ));
        }
        let ids = |name: &String| -> Vec<i32> {
            let encoded = tokenizer.encode(name, usize::MAX);
            let of_name = encoded.ids.into_iter();
            of_name.filter(|id| !tokenizer.is_special(*id)).collect()
        };
        let tokens: BTreeMap<String, Vec<Vec<i32>>> = names
            .into_iter()
            .flatten()
            .map(|(language, names)| (language.clone(), names.iter().map(ids).collect()))
            .collect();
        let vocabulary: BTreeSet<i32> = tokens.values().flatten().flatten().copied().collect();
        Ok(Self {
            hide,
            classes,
            tokens,
            vocabulary: vocabulary.into_iter().collect(),
            seed,
        })
    }

    /// Whether words of a sample with regions are hidden.
    pub fn hides_words(&self, position: u64) -> bool {
        let draw = || unit(hash(Stream::WordsOrRegions, &[self.seed, position]));
        self.hide.mask.either.is_none_or(|share| draw() < share)
    }

    fn hides_regions(&self, position: u64) -> bool {
        self.hide.mask.either.is_none() || !self.hides_words(position)
    }

    /// Checks that regions have names in a caption's language, and classes that are asked for.
    ///
    /// # Errors
    ///
    /// They have none, the language is not known and names are in several, or there are fewer classes.
    pub fn check(&self, regions: &PictureRegions, language: Option<&str>) -> Result<(), String> {
        if let Some(count) = self.hide.labels.classes {
            let beyond = |class: &i32| usize::try_from(*class).is_ok_and(|class| class >= count);
            if let Some(row) = regions.classes.iter().position(beyond) {
                return Err(format!(
                    "the class of region {row} is {}, and objectives.regions.classes.count is {count}",
                    regions.classes[row]
                ));
            }
        }
        if !self.hide.labels.named() || self.names(language).is_some() {
            return Ok(());
        }
        let known: Vec<&str> = self.tokens.keys().map(String::as_str).collect();
        let known = known.join(", ");
        Err(match language {
            Some(language) => format!(
                "its caption is in {language:?}, and the names of regions are in {known}: data.regions.names"
            ),
            None => format!(
                "the language of its caption is not known, and the names of regions are in {known}: data.regions.names"
            ),
        })
    }

    /// The tokens of names in a language.
    fn names(&self, language: Option<&str>) -> Option<&Vec<Vec<i32>>> {
        match language {
            Some(language) => self.tokens.get(language),
            None if self.tokens.len() == 1 => self.tokens.values().next(),
            None => None,
        }
    }

    /// The hidden regions of a batch, each image padded to `count` regions.
    pub fn hide(&self, samples: &[OfSample<'_>], count: usize) -> HiddenRegions {
        let labels = self.hide.labels;
        let mut all = HiddenRegions {
            classes: labels.classes.map(|_| Vec::new()),
            words: labels.words.then(Vec::new),
            vocabulary: (labels.vocabulary || labels.shares).then(|| self.vocabulary.clone()),
            shares: labels.shares.then(Vec::new),
            ..HiddenRegions::default()
        };
        for sample in samples {
            let rows = all.chosen.len() + count;
            self.hide_in(sample, &mut all);
            all.chosen.resize(rows, false);
            all.blank.resize(rows, false);
            for labels in [&mut all.classes, &mut all.words].into_iter().flatten() {
                labels.resize(rows, MaskedTexts::IGNORE);
            }
        }
        all
    }

    fn hide_in(&self, sample: &OfSample<'_>, all: &mut HiddenRegions) {
        let regions = sample.regions;
        let class = |at: usize| regions.classes.get(at).copied().unwrap_or(NO_CLASS);
        let draw = hash(Stream::RegionMask, &[self.seed, sample.position]);
        let mut random = ChaCha8Rng::seed_from_u64(draw);
        let may_be = |at: &usize| match &self.classes {
            Some(classes) => classes.is_object(class(*at)),
            None => true,
        };
        let may_be: Vec<usize> = (0..regions.boxes.len()).filter(may_be).collect();
        let mut chosen: Vec<usize> = may_be
            .iter()
            .copied()
            .filter(|_| random.random_bool(self.hide.mask.rate))
            .collect();
        if chosen.is_empty() && !may_be.is_empty() {
            chosen.push(may_be[random.random_range(0..may_be.len())]);
        }
        if !self.hides_regions(sample.position) {
            chosen.clear();
        }
        let draw = hash(Stream::RegionName, &[self.seed, sample.position]);
        let mut names = ChaCha8Rng::seed_from_u64(draw);
        let tokens = self.names(sample.language);
        for at in 0..regions.boxes.len() {
            let hidden = chosen.contains(&at);
            let kept = hidden && random.random::<f64>() < self.hide.mask.kept;
            all.chosen.push(hidden);
            all.blank.push(hidden && !kept);
            let told = |label: i32| if hidden { label } else { MaskedTexts::IGNORE };
            if let Some(classes) = &mut all.classes {
                classes.push(told(class(at)));
            }
            let name = usize::try_from(class(at)).ok();
            let name = tokens.zip(name).and_then(|(tokens, at)| tokens.get(at));
            if let Some(words) = &mut all.words {
                let name = name.filter(|name| hidden && !name.is_empty());
                let word = name.map(|name| name[names.random_range(0..name.len())]);
                words.push(word.unwrap_or(MaskedTexts::IGNORE));
            }
            if let (Some(shares), true) = (&mut all.shares, hidden) {
                shares.extend(self.shares(tokens, regions, at));
            }
        }
    }

    /// The share of each token of names in a region's name, or in its names by the detector's probabilities, `[W]`.
    fn shares(
        &self,
        tokens: Option<&Vec<Vec<i32>>>,
        regions: &PictureRegions,
        at: usize,
    ) -> Vec<f32> {
        let classes = regions.probabilities.len() / regions.boxes.len().max(1);
        let likely = &regions.probabilities[at * classes..(at + 1) * classes];
        let mut shares = vec![0.0; self.vocabulary.len()];
        let mut add = |class: usize, share: f32| {
            let name = tokens.and_then(|tokens| tokens.get(class));
            // A token that a name has twice is still one of its tokens.
            let name: BTreeSet<i32> = name.into_iter().flatten().copied().collect();
            for token in name {
                if let Ok(place) = self.vocabulary.binary_search(&token) {
                    shares[place] += share;
                }
            }
        };
        for (class, share) in likely.iter().enumerate().filter(|(_, share)| **share > 0.0) {
            add(class, *share);
        }
        if likely.is_empty()
            && let Some(Ok(class)) = regions.classes.get(at).map(|class| usize::try_from(*class))
        {
            add(class, 1.0);
        }
        let sum: f32 = shares.iter().sum();
        if sum > 0.0 {
            shares.iter_mut().for_each(|share| *share /= sum);
        }
        shares
    }
}

#[cfg(test)]
mod tests;

//! One sample per text, for tasks: every question is answered, every statement judged, once per epoch.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use image::RgbImage;

use crate::error::{DataError, Place, SampleError};
use crate::images::regions::PictureRegions;
use crate::order::draws::{Permutation, Stream, hash};
use crate::order::plan::Shuffle;
use crate::sources::label::Label;
use crate::sources::languages::Languages;
use crate::sources::regions::RegionClasses;
use crate::sources::source::{Annotations, Holds, Offers, Sample, Source, SplitFacts};
use crate::sources::splits::{BySplit, Split};
use crate::walks::Recorded;

/// Whether a text is used for a task, given what is known of it.
///
/// An `Err` says why it is wrong; it is listed with the unusable items.
pub type Choose<'a> = &'a dyn Fn(&Label) -> Result<bool, String>;

/// What samples are taken for.
#[derive(Debug, Clone, Copy)]
pub struct Wanted {
    /// What a text must have, such as `a box`, for the error where none has it.
    pub what: &'static str,
    /// Whether an image without a text and without a label is asked too, as [`Label::default`] is.
    pub images_alone: bool,
}

/// A source with one sample for each text that is used, or for each image without texts.
pub struct Each {
    source: Arc<dyn Source>,
    rows: BySplit<Vec<Row>>,
    /// Number of samples in each shard.
    shards: BySplit<Vec<usize>>,
    rejected: Vec<SampleError>,
    left_out: usize,
}

/// A text of a sample.
#[derive(Debug, Clone, Copy)]
struct Row {
    sample: u32,
    text: u32,
}

impl Each {
    /// The texts of `splits` that `choose` takes.
    ///
    /// # Errors
    ///
    /// A row cannot be read now, or no text is used.
    pub fn new(
        source: Arc<dyn Source>,
        splits: &[Split],
        choose: Choose<'_>,
        wanted: Wanted,
    ) -> Result<Self, DataError> {
        let mut each = Self {
            rejected: source.rejected().to_vec(),
            source,
            rows: BySplit::default(),
            shards: BySplit::default(),
            left_out: 0,
        };
        for split in splits {
            each.read(*split, choose, wanted)
                .map_err(|error| DataError::unavailable(&error))?;
        }
        let used: usize = splits.iter().map(|split| each.rows[*split].len()).sum();
        let samples: usize = splits.iter().map(|split| each.source.len(*split)).sum();
        if used == 0 && samples > 0 {
            return Err(DataError::NothingToPredict {
                wanted: wanted.what,
                source_name: each.source.describe(),
                left_out: each.left_out,
                rejected: each.rejected.first().map(ToString::to_string),
            });
        }
        Ok(each)
    }

    fn read(
        &mut self,
        split: Split,
        choose: Choose<'_>,
        wanted: Wanted,
    ) -> Result<(), SampleError> {
        let mut first = 0;
        for size in self.source.shards(split) {
            let before = self.rows[split].len();
            for sample in first..first + size {
                self.take((split, sample), choose, wanted)?;
            }
            first += size;
            let now = self.rows[split].len();
            self.shards[split].push(now - before);
        }
        Ok(())
    }

    fn take(
        &mut self,
        (split, sample): (Split, usize),
        choose: Choose<'_>,
        wanted: Wanted,
    ) -> Result<(), SampleError> {
        let row = |text: usize| Row {
            sample: sample as u32,
            text: text as u32,
        };
        // A damaged sample stays, so that it is met and listed as elsewhere.
        let Some(mut labels) = SampleError::known(self.source.labels(split, sample))? else {
            self.rows[split].push(row(0));
            return Ok(());
        };
        if wanted.images_alone && labels.is_empty() && self.source.holds(split, sample).images {
            labels.push(Label::default());
        }
        for (text, label) in labels.iter().enumerate() {
            match choose(label) {
                Ok(true) => self.rows[split].push(row(text)),
                Ok(false) => self.left_out += 1,
                Err(reason) => {
                    let place = exact(self.source.place(split, sample), label);
                    self.rejected.push(SampleError::new(place, reason));
                }
            }
        }
        Ok(())
    }

    /// Keeps `shots` random samples of each class of a split, always the same for a seed. `class` gives the class of a label. Returns the
    /// number of samples of each class that are kept.
    ///
    /// # Errors
    ///
    /// A row cannot be read now.
    pub fn keep(
        &mut self,
        split: Split,
        (shots, seed): (usize, u64),
        class: &dyn Fn(&Label) -> Option<u32>,
    ) -> Result<BTreeMap<u32, usize>, DataError> {
        let mut classes: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
        for index in 0..self.len(split) {
            let label = SampleError::known(self.label(split, index))
                .map_err(|error| DataError::unavailable(&error))?;
            // A damaged sample has no class, so that it is none of the few.
            if let Some(class) = label.as_ref().and_then(class) {
                classes.entry(class).or_default().push(index);
            }
        }
        let mut kept = vec![false; self.len(split)];
        let mut counts = BTreeMap::new();
        for (class, rows) in classes {
            let order = Permutation::new(rows.len(), hash(Stream::Shots, &[seed]), class.into());
            let chosen = shots.min(rows.len());
            (0..chosen).for_each(|at| kept[rows[order.at(at)]] = true);
            counts.insert(class, chosen);
        }
        let mut first = 0;
        for size in &mut self.shards[split] {
            let rows = first..first + *size;
            first += *size;
            *size = kept[rows].iter().filter(|kept| **kept).count();
        }
        let mut kept = kept.into_iter();
        self.rows[split].retain(|_| kept.next().unwrap_or(false));
        Ok(counts)
    }

    /// Number of texts that were not taken.
    pub fn left_out(&self) -> usize {
        self.left_out
    }

    /// What is known of a sample.
    ///
    /// # Errors
    ///
    /// Why the sample cannot be used.
    pub fn label(&self, split: Split, index: usize) -> Result<Label, SampleError> {
        let known = self
            .source
            .annotations(split, self.sample_of(split, index))?;
        Ok(self.label_of(split, index, known))
    }

    fn label_of(&self, split: Split, index: usize, known: Annotations) -> Label {
        let own = self.own(split, index, known.labels());
        own.into_iter().next().unwrap_or_default()
    }

    fn sample_of(&self, split: Split, index: usize) -> usize {
        self.rows[split][index].sample as usize
    }

    /// The element of a list that belongs to a sample's text.
    fn own<T>(&self, split: Split, index: usize, all: Vec<T>) -> Vec<T> {
        let text = self.rows[split][index].text as usize;
        all.into_iter().skip(text).take(1).collect()
    }

    /// The language of the text; its translations are samples of their own.
    fn own_languages(&self, split: Split, index: usize, all: &Languages) -> Languages {
        Languages {
            tags: self.own(split, index, all.tags.clone()),
            meanings: Vec::new(),
            alignments: Vec::new(),
        }
    }
}

/// The place of a text, if it is known more exactly than its sample's.
fn exact(place: Place, label: &Label) -> Place {
    Place {
        line: label.line.unwrap_or(place.line),
        ..place
    }
}

impl Source for Each {
    fn len(&self, split: Split) -> usize {
        self.rows[split].len()
    }

    fn describe(&self) -> String {
        self.source.describe()
    }

    fn notes(&self) -> Vec<String> {
        self.source.notes()
    }

    fn place(&self, split: Split, index: usize) -> Place {
        let place = self.source.place(split, self.sample_of(split, index));
        match self.label(split, index) {
            Ok(label) => exact(place, &label),
            Err(_) => place,
        }
    }

    fn region_classes(&self) -> Option<Arc<RegionClasses>> {
        self.source.region_classes()
    }

    fn offers(&self) -> Offers {
        self.source.offers()
    }

    fn facts(&self, split: Split) -> SplitFacts {
        SplitFacts {
            repeats_pictures: true,
            ..self.source.facts(split)
        }
    }

    fn annotations(&self, split: Split, index: usize) -> Result<Annotations, SampleError> {
        let known = self
            .source
            .annotations(split, self.sample_of(split, index))?;
        Ok(Annotations {
            roles: self.own(split, index, known.roles.clone()),
            phrases: self.own(split, index, known.phrases.clone()),
            tags: known.tags.clone(),
            languages: self.own_languages(split, index, &known.languages),
            telling: known.telling,
            labels: vec![self.label_of(split, index, known)],
        })
    }

    fn holds(&self, split: Split, index: usize) -> Holds {
        self.source.holds(split, self.sample_of(split, index))
    }

    fn shards(&self, split: Split) -> Vec<usize> {
        self.shards[split].clone()
    }

    fn captions(&self, split: Split, index: usize) -> Result<Vec<String>, SampleError> {
        let all = self.source.captions(split, self.sample_of(split, index))?;
        Ok(self.own(split, index, all))
    }

    fn picture_id(&self, split: Split, index: usize) -> Result<u64, SampleError> {
        self.source.picture_id(split, self.sample_of(split, index))
    }

    fn image(&self, split: Split, index: usize) -> Result<Option<RgbImage>, SampleError> {
        self.source.image(split, self.sample_of(split, index))
    }

    fn image_name(&self, split: Split, index: usize) -> Result<Option<String>, SampleError> {
        self.source.image_name(split, self.sample_of(split, index))
    }

    fn regions(&self, split: Split, index: usize) -> Result<Option<PictureRegions>, SampleError> {
        self.source.regions(split, self.sample_of(split, index))
    }

    fn walk(&self, split: Split, index: usize) -> Result<Option<Box<dyn Recorded>>, SampleError> {
        self.source.walk(split, self.sample_of(split, index))
    }

    fn sample(&self, split: Split, index: usize) -> Result<Sample, SampleError> {
        let sample = self.source.sample(split, self.sample_of(split, index))?;
        let label = self.label(split, index)?;
        let place = self.source.place(split, self.sample_of(split, index));
        Ok(Sample {
            name: exact(place, &label).to_string(),
            captions: self.own(split, index, sample.captions),
            roles: self.own(split, index, sample.roles),
            phrases: self.own(split, index, sample.phrases),
            second_texts: self.own(split, index, sample.second_texts),
            languages: self.own_languages(split, index, &sample.languages),
            labels: vec![label],
            ..sample
        })
    }

    fn siblings(&self, split: Split, _index: usize) -> Range<usize> {
        0..self.len(split)
    }

    fn ahead(&self, split: Split, indices: &[usize], shuffle: Shuffle) {
        let mut samples: Vec<usize> = Vec::with_capacity(indices.len());
        for index in indices {
            let sample = self.sample_of(split, *index);
            if samples.last() != Some(&sample) {
                samples.push(sample);
            }
        }
        self.source.ahead(split, &samples, shuffle);
    }

    fn rejected(&self) -> &[SampleError] {
        &self.rejected
    }

    fn left_out(&self) -> BTreeMap<String, u64> {
        self.source.left_out()
    }
}

//! Concepts of a source: the phrases of its captions, and which of them are frequent.

use unimo_phrases::{Counter, Uncounted};

use crate::error::{DataError, SampleError, readable};
use crate::sources::source::{Sample, Source};
use crate::sources::splits::Split;
use crate::text::concepts::{Concepts, ConceptsConfig, PhraseSource, Phrases};

impl Phrases {
    /// For each caption of a sample, its phrases; the image is not read.
    ///
    /// # Errors
    ///
    /// Why the sample cannot be used.
    pub fn of(
        &self,
        source: &dyn Source,
        split: Split,
        index: usize,
    ) -> Result<Vec<Vec<String>>, SampleError> {
        if let Self::Source = self {
            return source.phrases(split, index);
        }
        let captions = source.captions(split, index)?;
        Ok(captions.iter().map(|text| self.of_text(text)).collect())
    }

    /// The phrases of one caption of a sample that has been read.
    pub fn of_sample(&self, sample: &Sample, caption: usize) -> Vec<String> {
        match self {
            Self::Source => sample.phrases.get(caption).cloned().unwrap_or_default(),
            Self::Parser | Self::Tuples(_) => sample
                .captions
                .get(caption)
                .map(|text| self.of_text(text))
                .unwrap_or_default(),
        }
    }
}

impl Concepts {
    /// The vocabulary of a recipe: loaded, or counted over the training split.
    ///
    /// # Errors
    ///
    /// See [`load`](Self::load) and [`build`](Self::build).
    pub fn open(
        config: &ConceptsConfig,
        source: &dyn Source,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<Self, DataError> {
        match &config.vocabulary {
            Some(path) => Self::load(path),
            None => Self::build(
                source,
                Split::Train,
                &config.phrases,
                config.min_count,
                config.limit,
                progress,
            ),
        }
    }

    /// Counts in how many texts of a split each phrase occurs. Texts are all captions and, for each image, its tags as one more
    /// text. Unreadable samples are skipped. `progress` receives the number of finished samples and the number of all samples.
    ///
    /// Memory is bounded, see [`Counter`].
    ///
    /// # Errors
    ///
    /// The split is empty, a file of tuples cannot be used, there are no phrases, or no phrase occurs often enough.
    pub fn build(
        source: &dyn Source,
        split: Split,
        phrases_of: &PhraseSource,
        min_count: usize,
        limit: usize,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<Self, DataError> {
        let samples = source.len(split);
        if samples == 0 {
            return Err(DataError::Empty {
                split: split.name(),
                source_name: source.describe(),
                hint: String::new(),
            });
        }
        let phrases = phrases_of.open()?;
        let mut counter = Counter::new();
        for index in 0..samples {
            for caption in readable(phrases.of(source, split, index))? {
                counter.caption(&caption);
            }
            counter.tags(&readable(source.tags(split, index))?);
            progress(index + 1, samples);
        }
        let counted = counter.finish(min_count as u64, limit);
        counted.map(Self).map_err(|error| match error {
            Uncounted::NoPhrases { captions } => DataError::config(
                "phrases",
                format!("of a kind that gives none for {captions} captions"),
                "\"source\" where the source knows phrases, \"parser\", \"tuples\" with these captions",
            ),
            Uncounted::TooRare { min_count, most } => {
                let allowed = format!("at most {most}, as no phrase occurs in more texts");
                DataError::config("min_count", min_count, allowed)
            }
        })
    }
}

#[cfg(test)]
mod tests;

//! A model that writes captions: encoders with the head of `[objectives.lm]`.

use burn::tensor::Tensor;
use unimo_encoders::backbone::Backbone;
use unimo_encoders::features::ImageFeatures;
use unimo_encoders::reading::{NextWords, Reading};

use super::{Generated, GenerationConfig, NotFinite, Reader, Vocabulary, generate};
use crate::tied::TiedHead;

/// A model that writes captions.
#[derive(Debug, Clone, Copy)]
pub struct Writer<'a> {
    /// The encoders.
    pub backbone: &'a Backbone,
    /// The head of `[objectives.lm]`.
    pub head: &'a TiedHead,
}

/// What is written, beside the images.
#[derive(Debug, Clone, Copy)]
pub struct Written<'a> {
    /// The tokens that every caption begins with, the begin token first.
    pub prompt: &'a [i32],
    /// The tokens that the search knows by their meaning.
    pub vocabulary: &'a Vocabulary,
    /// How captions are searched.
    pub config: &'a GenerationConfig,
}

impl Writer<'_> {
    /// A caption for each image. `streams` gives each image the number of its random numbers.
    ///
    /// # Errors
    ///
    /// The model gives scores that are not finite.
    ///
    /// # Panics
    ///
    /// Panics if prompt and caption together are longer than the text encoder's positions, or the prompt is empty.
    pub fn captions(
        &self,
        images: &ImageFeatures,
        streams: &[u64],
        written: &Written<'_>,
    ) -> Result<Vec<Generated>, NotFinite> {
        let reading = self.backbone.begin_reading(Some(images), streams.len());
        self.go_on(reading, streams, written)
    }

    /// Texts without images, one for each of `streams`, by a model without a cross-modal encoder.
    ///
    /// # Errors
    ///
    /// As [`captions`](Self::captions).
    ///
    /// # Panics
    ///
    /// As [`captions`](Self::captions), and if there is a cross-modal encoder.
    pub fn texts(
        &self,
        streams: &[u64],
        written: &Written<'_>,
    ) -> Result<Vec<Generated>, NotFinite> {
        let reading = self.backbone.begin_reading(None, streams.len());
        self.go_on(reading, streams, written)
    }

    fn go_on(
        &self,
        reading: Reading,
        streams: &[u64],
        written: &Written<'_>,
    ) -> Result<Vec<Generated>, NotFinite> {
        let mut cached = Cached {
            writer: *self,
            reading,
        };
        let Written {
            prompt,
            vocabulary,
            config,
        } = written;
        generate(&mut cached, prompt, vocabulary, streams, config)
    }

    /// The longest caption after a prompt of so many tokens, its end token included.
    pub fn longest(&self, prompt: usize) -> usize {
        (self.backbone.text.longest_text() + 1).saturating_sub(prompt)
    }
}

/// Keeps what was read.
struct Cached<'a> {
    writer: Writer<'a>,
    reading: Reading,
}

impl Reader for Cached<'_> {
    fn read(&mut self, next: &NextWords<'_>) -> Tensor<2> {
        let backbone = self.writer.backbone;
        let states = backbone.read_on(&mut self.reading, next);
        let words = backbone.text.word_embedding.weight.val();
        self.writer.head.logits(states, words)
    }
}

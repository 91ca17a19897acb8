//! Texts that are written word by word, through all encoders: what generation calls at each step.
//!
//! The words before are not read again: every layer keeps their keys and values, and what it reads of the images. The states are those
//! of [`Backbone::fuse_parts`] with a [`View`](crate::joint::View) from left to right, up to rounding.
//!
//! Shape legend: `B` images, `R` texts, as many for each image, `D` width of the cross-modal encoder.

use burn::tensor::{Device, Int, Tensor, TensorData};
use unimo_core::attention::KeyValues;

use crate::backbone::Backbone;
use crate::features::ImageFeatures;
use crate::fusion::reading::FusionReading;
use crate::joint::JointReading;

/// Texts that are being read.
#[derive(Debug, Clone)]
pub struct Reading {
    text: Vec<Option<KeyValues>>,
    cross: Cross,
    /// Number of words of each text so far.
    length: usize,
    /// `B`; without images the texts themselves stand for them.
    images: usize,
    /// `R`.
    rows: usize,
}

#[derive(Debug, Clone)]
enum Cross {
    /// The text encoder alone.
    None,
    Streams(FusionReading),
    Joint(JointReading),
}

/// The next words of texts.
#[derive(Debug, Clone, Copy)]
pub struct NextWords<'a> {
    /// `R`: the text of the call before that each of these goes on with. The first call has one text for each image.
    pub parents: &'a [usize],
    /// `R`: their next words.
    pub words: &'a [i32],
    /// How many texts there are for each image; they stand one after the other.
    pub per_image: usize,
}

impl Reading {
    /// How many words were read of each text.
    pub fn length(&self) -> usize {
        self.length
    }

    /// Keeps the texts that are read on, and their images.
    fn keep(&mut self, next: &NextWords<'_>, device: &Device) {
        let rows = next.words.len();
        assert!(
            next.parents.len() == rows && rows > 0 && rows.is_multiple_of(next.per_image),
            "as many texts for each image"
        );
        let per_image = self.rows / self.images;
        let firsts = next.parents.iter().step_by(next.per_image);
        let images: Vec<usize> = firsts.map(|parent| parent / per_image).collect();
        let is_all = |kept: &[usize], of: usize| kept.iter().copied().eq(0..of);
        if !is_all(next.parents, self.rows) {
            let texts = indices(next.parents, device);
            for block in &mut self.text {
                *block = block.as_ref().map(|keys| keys.select(&texts));
            }
            match &mut self.cross {
                Cross::None => {}
                Cross::Streams(streams) => streams.select_texts(&texts),
                Cross::Joint(joint) => joint.select(&texts),
            }
        }
        if let Cross::Streams(streams) = &mut self.cross
            && !is_all(&images, self.images)
        {
            streams.select_images(&indices(&images, device));
        }
        (self.images, self.rows) = (images.len(), rows);
    }
}

fn indices(rows: &[usize], device: &Device) -> Tensor<1, Int> {
    let rows: Vec<i32> = rows.iter().map(|row| *row as i32).collect();
    let count = rows.len();
    Tensor::from_data(TensorData::new(rows, [count]), device)
}

impl Backbone {
    /// Begins one text for each image, or `count` texts without images. Nothing of them is read yet.
    ///
    /// # Shapes
    ///
    /// - images: `B` rows, `B = count`
    ///
    /// # Panics
    ///
    /// Panics if a cross-modal encoder is there and images are not.
    pub fn begin_reading(&self, images: Option<&ImageFeatures>, count: usize) -> Reading {
        let last = |images: &ImageFeatures| images.states[images.states.len() - 1].clone();
        let cross = match (&self.fusion, &self.joint, images) {
            (Some(fusion), _, Some(images)) => {
                Cross::Streams(fusion.begin_reading(&images.states, images.mask.as_ref()))
            }
            (_, Some(joint), Some(images)) => {
                let concepts = images.concepts.as_ref();
                let concepts = concepts.map(|concepts| (&concepts.states, &concepts.mask));
                Cross::Joint(joint.begin_reading(&last(images), images.mask.as_ref(), concepts))
            }
            (None, None, _) => Cross::None,
            (_, _, None) => {
                unreachable!("invariant: a cross-modal encoder reads words with images")
            }
        };
        Reading {
            text: vec![None; self.text.layers.len()],
            cross,
            length: 0,
            images: count,
            rows: count,
        }
    }

    /// Reads one more word of each text; gives its states after all encoders, which predict the word after it.
    ///
    /// # Shapes
    ///
    /// - next: `R` words
    /// - output: `[R, D]`
    ///
    /// # Panics
    ///
    /// Panics if the texts become longer than the text encoder's positions.
    pub fn read_on(&self, reading: &mut Reading, next: &NextWords<'_>) -> Tensor<2> {
        reading.keep(next, &self.text.word_embedding.weight.device());
        let keep = self
            .fusion
            .as_ref()
            .map_or(1, |fusion| fusion.config.uni_modal_states());
        let states = self
            .text
            .read_on(next.words, reading.length, keep, &mut reading.text);
        reading.length += 1;
        let state = match (&self.fusion, &self.joint, &mut reading.cross) {
            (Some(fusion), _, Cross::Streams(streams)) => {
                fusion.read_on(&fusion.project_texts(states), reading.images, streams)
            }
            (_, Some(joint), Cross::Joint(own)) => joint.read_on(&states[0], own),
            _ => states[0].clone(),
        };
        state.squeeze_dim::<2>(1)
    }
}

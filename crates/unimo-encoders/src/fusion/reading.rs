//! The text stream of two streams, word by word: what it reads of the images is computed once, and so are the keys and values of the
//! words before. It gives what [`CrossModalEncoder::from_left_to_right`] gives for whole texts, up to rounding.
//!
//! Several texts may be read with one image, as beam search does. What belongs to an image is kept once, and the texts stand side by
//! side as the queries of one attention.
//!
//! Shape legend: `B` images, `T` texts for each image, `R = B T` texts, `Lv` positions of an image, `D` width.

use burn::tensor::{Int, Tensor};
use unimo_core::attention::KeyValues;
use unimo_core::levels::LevelMemory;
use unimo_core::mask::PaddingMask;

use super::{CrossModalEncoder, crossed};
use crate::managers::ManagerMemory;
use crate::output::{Keep, Read};

/// What the text stream has read so far, and what it reads of the images.
#[derive(Debug, Clone)]
pub struct FusionReading {
    layers: Vec<LayerReading>,
    /// `[B, Lv]`, if some of it is padding.
    mask: Option<PaddingMask>,
}

#[derive(Debug, Clone)]
struct LayerReading {
    /// The words so far, `R` rows.
    own: Option<KeyValues>,
    /// The image stream's state before the layer, `B` rows.
    in_layer: Option<KeyValues>,
    /// The levels, `B` rows.
    levels: Levels,
    /// What the layer's manager reads, `B` rows.
    manager: Option<ManagerMemory>,
}

/// The levels of one layer.
#[derive(Debug, Clone)]
enum Levels {
    /// As they are, until the first word decides how they are weighed: `S` times `[B, Lv, D]`.
    Unread(Vec<Tensor<3>>),
    Read(LevelMemory),
}

impl FusionReading {
    /// Keeps these texts, in that order; a text may be given several times.
    pub fn select_texts(&mut self, texts: &Tensor<1, Int>) {
        for layer in &mut self.layers {
            layer.own = layer.own.as_ref().map(|own| own.select(texts));
        }
    }

    /// Keeps these images, in that order.
    pub fn select_images(&mut self, images: &Tensor<1, Int>) {
        self.mask = self.mask.as_ref().map(|mask| mask.select(images.clone()));
        for layer in &mut self.layers {
            layer.in_layer = layer.in_layer.as_ref().map(|keys| keys.select(images));
            layer.manager = layer.manager.as_ref().map(|keys| keys.select(images));
            layer.levels = match &layer.levels {
                Levels::Read(levels) => Levels::Read(levels.select(images)),
                Levels::Unread(levels) => {
                    let of = |level: &Tensor<3>| level.clone().select(0, images.clone());
                    Levels::Unread(levels.iter().map(of).collect())
                }
            };
        }
    }
}

impl CrossModalEncoder {
    /// Runs the image stream, which sees no text, and keeps what the text stream will read of it.
    ///
    /// # Shapes
    ///
    /// - image: the last [`FusionConfig::uni_modal_states`](super::FusionConfig::uni_modal_states) projected states of the image encoder,
    ///   `[B, Lv, D]` each
    /// - mask: `[B, Lv]`, if some of it is padding
    pub fn begin_reading(&self, image: &[Tensor<3>], mask: Option<&PaddingMask>) -> FusionReading {
        let image = &image[image.len() - self.config.uni_modal_states()..];
        let mut v = image[image.len() - 1].clone();
        let mut states = vec![v.clone()];
        let mut layers = Vec::new();
        for layer in 0..self.config.layers {
            let y = match &self.image {
                None => v.clone(),
                Some(stream) => stream.enter(layer, image, &v, None, None),
            };
            let cross_attention = self.text.layers[layer].cross_attention.as_ref();
            layers.push(LayerReading {
                own: None,
                in_layer: cross_attention.map(|attention| attention.remember(y.clone())),
                levels: Levels::Unread(self.memory(image, &states)),
                manager: self.text.remember(layer, &v),
            });
            // Nothing reads the states after the last layer.
            if layer + 1 == self.config.layers {
                break;
            }
            if let Some(stream) = &self.image {
                let own = (y, mask.into(), Read::Whole.of(v.dims()[1]));
                (v, _, _) = stream.layers[layer].forward(own, None, Keep::Nothing);
            }
            states.push(v.clone());
        }
        FusionReading {
            layers,
            mask: mask.cloned(),
        }
    }

    /// Reads one more word of each text. Texts of one image stand one after the other, as many for each image.
    ///
    /// # Shapes
    ///
    /// - text: the last [`FusionConfig::uni_modal_states`](super::FusionConfig::uni_modal_states) projected states of the word,
    ///   `[R, 1, D]` each
    /// - images: `B`
    /// - output: `[R, 1, D]`
    pub fn read_on(
        &self,
        text: &[Tensor<3>],
        images: usize,
        reading: &mut FusionReading,
    ) -> Tensor<3> {
        let text = &text[text.len() - self.config.uni_modal_states()..];
        let [rows, _, width] = text[text.len() - 1].dims();
        let by_text = |x: Tensor<3>| x.reshape([rows, 1, width]);
        let by_image = |x: Tensor<3>| x.reshape([images, rows / images, width]);
        let text: Vec<Tensor<3>> = text.iter().cloned().map(by_image).collect();
        let mut t = text[text.len() - 1].clone();
        let mask = reading.mask.as_ref();
        for (at, (layer, reading)) in self.text.layers.iter().zip(&mut reading.layers).enumerate() {
            let x = self
                .text
                .enter(at, &text, &t, reading.manager.as_ref(), mask);
            let alone = by_text(x.clone());
            let attended = layer.self_attention.read_on(alone, &mut reading.own, None);
            let attended = layer.dropout.forward(by_image(attended));
            let a = layer.self_norm.forward(x + attended);
            let both = layer
                .cross_attention
                .as_ref()
                .zip(reading.in_layer.as_ref());
            let in_layer = both.map(|(attention, keys)| {
                let queries = attention.queries(a.clone());
                let heads = attention.attend_to(queries, keys.clone(), mask, None);
                layer.dropout.forward(attention.output.forward(heads))
            });
            let across = layer.level_attention.as_ref().map(|attention| {
                let memory = match &reading.levels {
                    Levels::Read(memory) => memory.clone(),
                    Levels::Unread(levels) => attention.remember(&a, levels),
                };
                let read = attention.recall(a.clone(), &memory, mask);
                reading.levels = Levels::Read(memory);
                layer.merged(read).0
            });
            t = layer.finish(a, Some(crossed(in_layer, across)));
        }
        by_text(t)
    }
}

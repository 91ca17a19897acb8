//! What stands before the first layer: a linear layer to the encoder's width, and the embedding of the modality.
//!
//! Shape legend: `B` rows, `Lt` and `Lv` positions of text and image, `D` width.

use burn::tensor::Tensor;
use unimo_core::dtype::same_dtype;
use unimo_core::layers::Linear;

use super::{CrossModalEncoder, IMAGE, TEXT};

impl CrossModalEncoder {
    /// Projects a text encoder's last states, as many as [`FusionConfig::uni_modal_states`](super::FusionConfig::uni_modal_states).
    ///
    /// # Shapes
    ///
    /// - states: `[B, Lt, text width]` each
    /// - output: `[B, Lt, D]` each
    pub fn project_texts(&self, states: Vec<Tensor<3>>) -> Vec<Tensor<3>> {
        let (first, further) = (self.text_transform.as_ref(), &self.further_text_transforms);
        self.project(first, further, states, TEXT)
    }

    /// Projects an image encoder's last states; `picture` counts the images of a sample from 0.
    ///
    /// # Shapes
    ///
    /// - states: `[B, Lv, image width]` each
    /// - output: `[B, Lv, D]` each
    ///
    /// # Panics
    ///
    /// Panics if the encoder has no embedding for that image, see [`FusionConfig::pictures`](super::FusionConfig::pictures).
    pub fn project_images(&self, states: Vec<Tensor<3>>, picture: usize) -> Vec<Tensor<3>> {
        assert!(
            picture < self.config.pictures,
            "no type for image {picture}"
        );
        let (first, further) = (
            self.image_transform.as_ref(),
            &self.further_image_transforms,
        );
        self.project(first, further, states, IMAGE + picture)
    }

    fn project(
        &self,
        first: Option<&Linear>,
        further: &[Linear],
        states: Vec<Tensor<3>>,
        modality: usize,
    ) -> Vec<Tensor<3>> {
        let (Some(first), Some(types)) = (first, &self.type_embedding) else {
            return states;
        };
        // If each state has its own, there are as many as states; else the first serves all.
        let transforms = std::iter::once(first).chain(further).cycle();
        states
            .into_iter()
            .zip(transforms)
            .map(|(state, transform)| {
                let projected = transform.forward(state);
                let kind = same_dtype(types.entry(modality), &projected);
                projected + kind
            })
            .collect()
    }
}

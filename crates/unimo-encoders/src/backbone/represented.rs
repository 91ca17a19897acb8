//! Images and texts read with representation tokens, beside CLIP as it is.
//!
//! Shape legend: `B` images, `N` texts, `L` positions, `K` tokens, `D` width of a tower.

use std::collections::BTreeSet;

use burn::module::Module;
use burn::tensor::{Tensor, assert_shape};
use unimo_core::mask::{Hidden, PaddingMask, PairMask};

use super::Backbone;
use crate::features::{ImageFeatures, Pictures, Represented};
use crate::frozen;
use crate::representation::{Representation, TextsBelow};
use crate::text::{TextInput, last_of_each};

impl Backbone {
    /// The texts that [`represent_texts`](Self::represent_texts) reads, without autodiff.
    ///
    /// # Shapes
    ///
    /// - input: `[N, L]`
    ///
    /// # Panics
    ///
    /// Panics if there are no representation tokens.
    pub fn texts_below(&self, input: &TextInput) -> TextsBelow {
        let input = input.without_autodiff();
        let states = self.text.valid().forward(&input, self.text.depth() + 1);
        let [rows, length] = input.ids.dims();
        let class = states
            .last()
            .map(|last| self.text.summary(last, &input.mask));
        TextsBelow {
            class: class.expect("invariant: an encoder keeps at least its last state"),
            states: states[self.tokens().below].clone(),
            mask: PaddingMask::join(vec![
                input.mask.narrow(0, 1),
                PaddingMask::none(rows, self.tokens().tokens.dims()[0], &input.ids.device()),
                input.mask.narrow(1, length - 1),
            ]),
        }
    }

    /// What stands for each text with the tokens read, after the final norm.
    ///
    /// # Shapes
    ///
    /// - output: `[N, D]`
    ///
    /// # Panics
    ///
    /// Panics if there are no representation tokens.
    pub fn represent_texts(&self, below: &TextsBelow) -> Tensor<2> {
        let tokens = self.tokens();
        let clip = self.text.clip.as_ref();
        let clip = clip.expect("invariant: validation finds CLIP's text tower");
        let own = self.text.word_embedding.weight.val();
        let x = frozen::beside(below.states.clone(), &own);
        let [_, length] = below.mask.dims();
        let causal = PairMask::causal(length, &below.states.device());
        let mask = Hidden {
            keys: Some(&below.mask),
            pairs: Some(&causal),
        };
        let blocks = &clip.layers[tokens.below..];
        let state = tokens.through(blocks, &tokens.text, x, mask);
        assert_shape!(state, [_, length, _]);
        clip.final_norm.forward(last_of_each(state, &below.mask))
    }

    /// What stands for each text without tokens, after the final norm, as a constant.
    ///
    /// # Shapes
    ///
    /// - output: `[N, D]`
    pub fn texts_as_they_are(&self, below: &TextsBelow) -> Tensor<2> {
        frozen::beside(below.class.clone(), &self.text.word_embedding.weight.val())
    }

    /// The states of images as CLIP reads them, after its final norm, and behind them those below the first layer that gets tokens, as they
    /// are; without autodiff.
    ///
    /// # Shapes
    ///
    /// - images: `B` rows of pixels
    /// - output: `[B, L, D]` each
    ///
    /// # Panics
    ///
    /// Panics if there are no representation tokens.
    pub fn image_states_with_below(
        &self,
        pictures: &Pictures,
        layers: &BTreeSet<usize>,
    ) -> Vec<Tensor<3>> {
        let (Pictures::Pixels(pixels), Some(encoder)) = (pictures, &self.image) else {
            unreachable!("invariant: validation finds an encoder of pixels");
        };
        let encoder = encoder.valid();
        let depth = encoder.layers.len();
        let keep = self.image_states(layers);
        let most = keep.max(depth + 1 - self.tokens().below);
        let states = encoder.forward(pixels.clone().without_autodiff(), most);
        let below = states[states.len() - (depth + 1 - self.tokens().below)].clone();
        let own = states.into_iter().skip(most - keep);
        let own = own.map(|state| encoder.finish(state));
        own.chain(std::iter::once(below)).collect()
    }

    /// Features from [`image_states_with_below`](Self::image_states_with_below), with what comes of the tokens. If a sample has several
    /// images, `picture` counts them from 0.
    ///
    /// # Shapes
    ///
    /// - states: `[B, L, D]` each
    ///
    /// # Panics
    ///
    /// Panics if there are no representation tokens, or no states.
    pub fn features_with_tokens(
        &self,
        mut states: Vec<Tensor<3>>,
        picture: usize,
        layers: &BTreeSet<usize>,
    ) -> ImageFeatures {
        let below = states.pop();
        let below = below.expect("invariant: the states below come last");
        let represented = self.represent_images(below);
        ImageFeatures {
            represented: Some(represented),
            ..self.features_of_constant_images(states, picture, layers)
        }
    }

    /// # Shapes
    ///
    /// - below: `[B, L, D]`
    fn represent_images(&self, below: Tensor<3>) -> Represented {
        let (tokens, encoder) = (self.tokens(), self.image.as_ref());
        let encoder = encoder.expect("invariant: validation finds an encoder of pixels");
        let x = frozen::beside(below, &encoder.class_embedding.val());
        let blocks = &encoder.layers[tokens.below..];
        let state = tokens.through(blocks, &tokens.image, x, Hidden::default());
        let [count, _] = tokens.tokens.dims();
        let read = encoder.finish(state.narrow(1, 0, 1 + count));
        Represented {
            class: read.clone().narrow(1, 0, 1).squeeze_dim(1),
            tokens: read.narrow(1, 1, count).mean_dim(1).squeeze_dim(1),
        }
    }

    fn tokens(&self) -> &Representation {
        let tokens = self.representation.as_ref();
        tokens.expect("invariant: validation finds [model.representation]")
    }
}

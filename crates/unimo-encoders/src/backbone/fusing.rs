//! The pass of texts and images, or of texts and other texts, through the cross-modal encoder.
//!
//! Shape legend: `B` rows.

use super::{Backbone, last};
use crate::features::{ImageFeatures, TextFeatures};
use crate::fusion::CrossModalEncoder;
use crate::joint::View;
use crate::output::{FusionOutput, Keep, Read};

impl Backbone {
    /// Fuses row `i` of the texts with row `i` of the images.
    ///
    /// # Shapes
    ///
    /// - texts, images: `B` rows each
    pub fn fuse(&self, texts: &TextFeatures, images: &ImageFeatures, keep: Keep) -> FusionOutput {
        self.fuse_parts(Some(texts), Some(images), &View::default(), keep)
    }

    /// As [`fuse`](Self::fuse), where nothing but the class tokens is read: what scores pairs.
    ///
    /// # Shapes
    ///
    /// - texts, images: `B` rows each
    pub fn fuse_class_tokens(&self, texts: &TextFeatures, images: &ImageFeatures) -> FusionOutput {
        let view = View {
            read: Read::ClassTokens,
            ..View::default()
        };
        self.fuse_parts(Some(texts), Some(images), &view, Keep::Nothing)
    }

    /// As [`fuse`](Self::fuse), with another [`View`] or with one modality alone. Without a cross-modal encoder the uni-modal states
    /// stand for the fused ones.
    ///
    /// # Shapes
    ///
    /// - texts, images: `B` rows each
    ///
    /// # Panics
    ///
    /// Panics if there is neither text nor image, or if a dual-stream encoder is given anything but pairs.
    pub fn fuse_parts(
        &self,
        texts: Option<&TextFeatures>,
        images: Option<&ImageFeatures>,
        view: &View,
        keep: Keep,
    ) -> FusionOutput {
        if let Some(joint) = &self.joint {
            let texts = texts.map(|texts| (last(&texts.states), &texts.mask));
            let concepts = images.and_then(|images| images.concepts.as_ref());
            let concepts = concepts.map(|concepts| (&concepts.states, &concepts.mask));
            let images = images.map(|images| (last(&images.states), images.mask.as_ref()));
            return joint.forward_beside(texts, images, concepts, view);
        }
        let Some(fusion) = &self.fusion else {
            return FusionOutput::of_states(
                texts.map(|texts| last(&texts.states).clone()),
                images.map(|images| last(&images.states).clone()),
            );
        };
        assert!(
            view.hidden_tokens.is_empty() && view.layers.is_none(),
            "two streams have no grounded tokens and run all their layers"
        );
        let (Some(texts), Some(images)) = (texts, images) else {
            unreachable!("invariant: two streams take pairs");
        };
        if let Some(fusion) = self.shared() {
            assert!(
                view.prefix.is_none(),
                "shared layers read texts in both directions"
            );
            return self.fuse_shared(fusion, texts, images, view, keep);
        }
        let (text, image) = (&texts.mask, images.mask.as_ref());
        let states = (texts.states.as_slice(), images.states.as_slice());
        match view.prefix {
            None => fusion.forward_reading(states, (text, image), view.read, keep),
            Some(prefix) => {
                fusion.from_left_to_right(states, (text, image), (prefix, view.read), keep)
            }
        }
    }

    /// Whether a pass computes less where less is read ([`View::read`]): that of two streams, and of one without grounded tokens and matrices
    /// of each modality.
    pub fn narrows(&self) -> bool {
        match &self.joint {
            Some(joint) => joint.narrows(),
            None => self.fusion.is_some() && self.shared().is_none(),
        }
    }

    /// The cross-modal encoder whose layers are the text encoder's own blocks, if it is one.
    pub(super) fn shared(&self) -> Option<&CrossModalEncoder> {
        self.fusion.as_ref().filter(|fusion| fusion.config.shared)
    }

    /// Fuses row `i` of the texts with row `i` of the images through the text encoder's blocks, once for each side that is wanted.
    fn fuse_shared(
        &self,
        fusion: &CrossModalEncoder,
        texts: &TextFeatures,
        images: &ImageFeatures,
        view: &View,
        keep: Keep,
    ) -> FusionOutput {
        let (words, patches) = (last(&texts.states), last(&images.states));
        let (blocks, image_mask) = (&self.text.layers, images.mask.as_ref());
        let text = view.sides.text.then(|| {
            let query = (words.clone(), (&texts.mask).into());
            let kept = (keep, view.class_attention);
            fusion.through_blocks(blocks, query, (patches, image_mask), kept)
        });
        let image = view.sides.image.then(|| {
            let query = (self.text.embed_states(patches.clone()), image_mask.into());
            let memory = (words, Some(&texts.mask));
            let (states, _) = fusion.through_blocks(blocks, query, memory, (Keep::Nothing, false));
            states
        });
        let (text, kept) = text.unzip();
        let kept = kept.unwrap_or_default();
        FusionOutput {
            text,
            image,
            grounded: None,
            gates: Vec::new(),
            attention: kept.attention,
            class_attention: kept.class,
            text_attention: kept.text,
        }
    }

    /// As [`fuse`](Self::fuse), with other texts in the place of images: row `i` of the texts reads row `i` of the others, through the same
    /// layers (CCLM). The others stay as they are.
    ///
    /// # Shapes
    ///
    /// - texts, others: `B` rows each
    ///
    /// # Panics
    ///
    /// Panics if the cross-modal encoder is no text stream alone.
    pub fn fuse_texts(
        &self,
        texts: &TextFeatures,
        others: &TextFeatures,
        keep: Keep,
    ) -> FusionOutput {
        if let Some(fusion) = self.shared() {
            let query = (last(&texts.states).clone(), (&texts.mask).into());
            let memory = (last(&others.states), Some(&others.mask));
            let blocks = &self.text.layers;
            let (text, kept) = fusion.through_blocks(blocks, query, memory, (keep, false));
            return FusionOutput {
                attention: kept.attention,
                ..FusionOutput::of_states(Some(text), None)
            };
        }
        let alone = self.fusion.as_ref().filter(|fusion| fusion.image.is_none());
        let fusion = alone.expect("invariant: validation finds a text stream alone");
        let masks = (&texts.mask, Some(&others.mask));
        fusion.forward(&texts.states, &others.states, masks.0, masks.1, keep)
    }
}

//! Stories after the uni-modal encoders, and after the stream that reads them.
//!
//! Shape legend: `B` stories, `L` positions of the stream, `Ni` and `Nt` images and sentences of all stories, `D` width.

use std::collections::{BTreeMap, BTreeSet};

use burn::tensor::{Device, Tensor, TensorData};
use unimo_batch::Slices;
use unimo_core::layers::normalise;
use unimo_encoders::backbone::Backbone;
use unimo_encoders::features::{ImageFeatures, Pictures, TextFeatures};
use unimo_encoders::joint::interleaved::Layout;
use unimo_encoders::output::FusionOutput;

use crate::request::SliceForm;
use crate::single_precision;

/// The slices of a batch's stories.
#[derive(Debug, Clone)]
pub struct StoryFeatures {
    /// `Ni` rows; `None` if the stories have no images.
    pub images: Option<ImageFeatures>,
    /// `Nt` rows; `None` if the stories have no sentences.
    pub texts: Option<TextFeatures>,
    /// Where they stand in the stream.
    pub layout: Layout,
}

/// Reads the slices of stories. Images are encoded once for all forms.
pub(crate) fn read(
    backbone: &Backbone,
    slices: &Slices,
    forms: &BTreeSet<SliceForm>,
    device: &Device,
) -> BTreeMap<SliceForm, StoryFeatures> {
    let images = slices.images.as_ref().map(|images| {
        let pixels = Pictures::of_pixels(images, &images.pixels, device);
        backbone.encode_pictures(&pixels, None, 0)
    });
    let positions = images.as_ref().and_then(|images| images.states.last());
    let positions = positions.map_or(0, |states| states.dims()[1]);
    let joint = backbone.joint.as_ref();
    let patches = joint.map_or(positions, |joint| joint.patches_of(positions));
    let layout = Layout::of(slices, patches);
    let read = |form: &SliceForm| {
        let texts = slices.texts.as_ref().map(|texts| {
            let encoder = &backbone.text;
            let input = encoder.input(&texts.ids, &texts.lengths, texts.length, device);
            backbone.encode_texts(&match form {
                SliceForm::InOrder => input.from_left_to_right(1),
                SliceForm::Each => input,
            })
        });
        let features = StoryFeatures {
            images: images.clone(),
            texts,
            layout: layout.clone(),
        };
        (*form, features)
    };
    forms.iter().map(read).collect()
}

impl StoryFeatures {
    /// The states of the stream that reads the stories, in the place of a text's.
    ///
    /// # Shapes
    ///
    /// - output: `[B, L, D]`
    pub(crate) fn fuse(&self, backbone: &Backbone) -> FusionOutput {
        let joint = backbone.joint.as_ref();
        let joint = joint.expect("invariant: validation finds [model.joint.interleaved]");
        let images = self.images.as_ref().and_then(|images| images.states.last());
        let texts = self.texts.as_ref().and_then(|texts| texts.states.last());
        let states = joint.read_stories(images, texts, &self.layout);
        FusionOutput::of_states(Some(states), None)
    }
}

/// How the states of a story become one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StoryPooling {
    /// The mean over all of its positions, patches and words alike (Sugar).
    #[default]
    Mean,
    /// The last position.
    Last,
}

/// Each story as one state.
///
/// # Shapes
///
/// - states: `[B, L, D]`
/// - output: `[B, D]`, in f32
pub fn pool(states: Tensor<3>, layout: &Layout, pooling: StoryPooling) -> Tensor<2> {
    let filled = layout.filled();
    let mut shares = Vec::with_capacity(filled.len());
    for story in filled.chunks(layout.length.max(1)) {
        let count = story.iter().filter(|filled| **filled).count().max(1);
        let last = story.iter().rposition(|filled| *filled);
        shares.extend(story.iter().enumerate().map(|(at, filled)| match pooling {
            StoryPooling::Mean if *filled => 1.0 / count as f32,
            StoryPooling::Last if Some(at) == last => 1.0,
            StoryPooling::Mean | StoryPooling::Last => 0.0,
        }));
    }
    let data = TensorData::new(shares, [layout.stories, 1, layout.length]);
    let shares = Tensor::<3>::from_data(data, &states.device());
    shares.matmul(single_precision(states)).squeeze_dim(1)
}

/// Stories as rows to compare, without a gradient.
#[derive(Debug, Clone)]
pub struct ReadStories {
    /// `[B, E]`: each story after the stream, of length 1.
    pub stories: Tensor<2>,
    /// `[Ni + Nt, E]`: each image, then each sentence, in the common space of `[objectives.itc]`, of length 1; `None` without it.
    pub slices: Option<Tensor<2>>,
}

/// A story after the stream that nothing projects: the mean of its states, of length 1.
///
/// # Shapes
///
/// - states: `[B, L, D]`
/// - output: `[B, D]`
pub(crate) fn plain(states: Tensor<3>, layout: &Layout) -> Tensor<2> {
    normalise(pool(states, layout, StoryPooling::Mean))
}

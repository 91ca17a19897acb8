//! Grad-CAM over attention: which patches a score comes from.
//!
//! ```text
//! cam = mean over heads of A * max(0, dS/dA)       A: weights of the text stream's attention to the image stream, S: the score
//! ```
//!
//! Source: Selvaraju et al. 2017, as ALBEF (Li et al. 2021) takes it to attention. The weights and their gradients are outputs of a
//! pass ([`Keep::Attention`]); nothing is stored in the model. Encoders of one stream have no attention of one stream to the other.
//!
//! Shape legend: `B` rows, `H` heads, `Lt` and `Lv` positions of text and image, `P` patches.

use burn::module::Module;
use burn::tensor::{Device, Gradients, Int, Tensor, TensorData, assert_shape};
use unimo_batch::Batch;
use unimo_core::attention::Weights;
use unimo_core::parameters;
use unimo_encoders::backbone::Backbone;
use unimo_encoders::features::{ImageFeatures, TextFeatures};
use unimo_encoders::output::{FusionOutput, Keep, LayerAttention};
use unimo_objectives::Objectives;

use crate::model::{Model, host};
use crate::recipe::Recipe;

/// A model that is looked into. Its parameters are constants, so gradients reach the attention weights alone.
pub(crate) struct Glass {
    pub backbone: Backbone,
    pub objectives: Objectives,
}

impl Glass {
    /// A model that has no dropout.
    pub(crate) fn new(model: &Model) -> Self {
        Self {
            backbone: model.backbone.clone().train().no_grad(),
            objectives: model.objectives.clone().train().no_grad(),
        }
    }

    /// A model of a recipe, whose dropout is left out: it would be active where gradients are tracked. The weights are shared.
    pub(crate) fn without_dropout(model: &Model, recipe: &Recipe, device: &Device) -> Self {
        let mut recipe = recipe.without_dropout();
        // Adapters are added to the weights, as in a model that is evaluated.
        recipe.train.lora = None;
        let merged = model.clone().materialize();
        let blank = Model::blank(&recipe, &device.clone().without_autodiff());
        Self::new(&parameters::with_values_of(blank, &merged))
    }

    /// The pass of pairs whose features were computed without a tape, with its attention.
    pub(crate) fn fuse(&self, texts: TextFeatures, images: ImageFeatures) -> FusionOutput {
        let tracked = |states: &[Tensor<3>]| -> Vec<Tensor<3>> {
            let states = states.iter();
            states.map(|state| state.clone().autodiff()).collect()
        };
        let texts = TextFeatures {
            states: tracked(&texts.states),
            ..texts
        };
        let images = ImageFeatures {
            states: tracked(&images.states),
            ..images
        };
        self.backbone.fuse(&texts, &images, Keep::Attention)
    }
}

/// What a task's prediction looked at: a map for each image of a sample and each row, Grad-CAM of the score that `chosen` names of the row,
/// over all layers. `None` where there is no attention of text to patches, as in encoders of one stream, of regions or of one modality, or
/// where the batch lacks what the task reads.
pub(crate) fn of_predictions(
    glass: &Glass,
    key: &str,
    batch: &Batch,
    device: &Device,
    chosen: &[u32],
) -> Option<Vec<Vec<Vec<f32>>>> {
    let grid = glass.backbone.image.as_ref()?.grid();
    let lengths = &batch.texts.as_ref()?.lengths;
    let device = device.clone().autodiff();
    let (scores, attention) =
        glass
            .objectives
            .predict_looking(key, &glass.backbone, batch, &device)?;
    if attention.is_empty() || attention.iter().any(Vec::is_empty) {
        return None;
    }
    let chosen: Vec<i32> = chosen.iter().map(|class| *class as i32).collect();
    let [rows, _] = scores.dims();
    let chosen = Tensor::<2, Int>::from_data(TensorData::new(chosen, [rows, 1]), &device);
    let gradients = scores.gather(1, chosen).sum().backward();
    let of_image = |layers: &Vec<LayerAttention>| maps(layers, &gradients, lengths, grid * grid);
    Some(attention.iter().map(of_image).collect())
}

/// Grad-CAM of one attention, the mean over its heads. A score that does not depend on it has gradient 0.
///
/// # Shapes
///
/// - weights: `[B, H, Lt, Lv]`
/// - output: `[B, Lt, Lv]`
pub(crate) fn cam(weights: &Weights, gradients: &Gradients) -> Tensor<3> {
    let values = weights.values().without_autodiff();
    let seen = match weights.gradient(gradients) {
        Some(gradient) => values * gradient.without_autodiff().clamp_min(0.0),
        None => values.zeros_like(),
    };
    seen.mean_dim(1).squeeze_dim(1)
}

/// A map over the patches for each row: Grad-CAM summed over layers, and over the attentions of each that reads several states, as a
/// mean over the positions of the text. ALBEF takes the mean over padded positions too, which scales a map and changes nothing else.
///
/// # Shapes
///
/// - attention: layers of `B` rows, whose images end with `P` patches
/// - lengths: `B`, how many positions of each text are no padding
/// - output: `B` maps of `P` values, row by row
pub(crate) fn maps(
    attention: &[LayerAttention],
    gradients: &Gradients,
    lengths: &[usize],
    patches: usize,
) -> Vec<Vec<f32>> {
    let of_layers = attention.iter().flat_map(|layer| {
        let in_layer = layer.text.in_layer.iter();
        in_layer.chain(&layer.text.cross_layer)
    });
    let sum = of_layers
        .map(|weights| cam(weights, gradients))
        .reduce(|a, b| a + b);
    let Some(sum) = sum else {
        return vec![vec![0.0; patches]; lengths.len()];
    };
    let [rows, words, positions] = sum.dims();
    assert_shape!(sum, [lengths.len(), _, _]);
    let values = host(sum.narrow(2, positions - patches, patches));
    let of_row = |row: usize| {
        let real = lengths[row].min(words);
        let mut map = vec![0.0; patches];
        for word in 0..real {
            let first = (row * words + word) * patches;
            for (sum, value) in map.iter_mut().zip(&values[first..first + patches]) {
                *sum += value / real as f32;
            }
        }
        map
    };
    (0..rows).map(of_row).collect()
}

#[cfg(all(test, feature = "flex"))]
mod tests;

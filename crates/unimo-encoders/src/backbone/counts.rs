//! How many values the matrices of a model hold, by its configuration alone: nothing is made for it.
//!
//! Shape legend: `D` width, `F` inner width of the feed-forward layers.

use super::BackboneConfig;

impl BackboneConfig {
    /// Each part, by its table in a recipe, with the number of values of its matrices. Biases and norms are not counted, nor what another
    /// crate adds.
    pub fn matrix_values(&self) -> Vec<(&'static str, f64)> {
        let text = &self.text;
        let words = product(&[text.vocab_size + text.max_positions, text.width]);
        let mut parts = vec![(
            "model.text",
            words + blocks(text.layers, 1, (text.width, text.feed_forward)),
        )];
        parts.extend(self.image.as_ref().map(|image| {
            let patches = product(&[3, image.patch_size, image.patch_size, image.width]);
            let sizes = (image.width, image.feed_forward);
            ("model.image", patches + blocks(image.layers, 1, sizes))
        }));
        parts.extend(self.regions.as_ref().map(|regions| {
            let features = product(&[regions.features, regions.width]);
            let sizes = (regions.width, regions.feed_forward);
            ("model.regions", features + blocks(regions.layers, 1, sizes))
        }));
        parts.extend(self.fusion.as_ref().map(|fusion| {
            let streams = if fusion.image_stream { 2 } else { 1 };
            let sizes = (fusion.width, fusion.feed_forward);
            let each = blocks(fusion.layers, 2, sizes);
            ("model.fusion", f64::from(streams) * each)
        }));
        parts.extend(self.joint.as_ref().map(|joint| {
            let sizes = (joint.width, joint.feed_forward);
            ("model.joint", blocks(joint.layers, 1, sizes))
        }));
        parts
    }
}

/// Values of the matrices of so many blocks: four of `D x D` for each attention, two of `D x F`.
fn blocks(layers: usize, attentions: usize, (width, inner): (usize, usize)) -> f64 {
    let attention = product(&[attentions, 4, width, width]);
    layers as f64 * (attention + product(&[2, width, inner]))
}

fn product(sizes: &[usize]) -> f64 {
    sizes.iter().map(|size| *size as f64).product()
}

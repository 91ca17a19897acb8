//! One stream over embeddings as a BERT: the way back of `init.joint`.

use unimo_encoders::backbone::{Backbone, BackboneConfig};
use unimo_encoders::text::{TextEncoder, TextEncoderConfig};

use crate::error::TrainError;

/// A text encoder of the embeddings of words and the blocks of the stream, with its configuration. `given` names the model in errors.
///
/// # Errors
///
/// There is no such stream, it reads more than embeddings, or its parts have matrices of their own that are no longer equal.
pub(super) fn as_bert(
    given: &str,
    backbone: &Backbone,
    config: &BackboneConfig,
) -> Result<(TextEncoder, TextEncoderConfig), TrainError> {
    let refused = |reason: String| TrainError::Check(format!("{given} is no BERT: {reason}"));
    let (Some(joint), Some(sizes)) = (&backbone.joint, &config.joint) else {
        return Err(refused(
            "it has no single-stream cross-modal encoder, [model.joint]".to_owned(),
        ));
    };
    if config.text.layers > 0 {
        let layers = config.text.layers;
        return Err(refused(format!(
            "model.text.layers = {layers}, and the stream reads what comes of them; it must be 0"
        )));
    }
    if sizes.grounding.is_some() {
        return Err(refused(
            "grounded tokens stand between image and text, [model.joint.grounding]".to_owned(),
        ));
    }
    if config.text.layer_norm_eps != sizes.layer_norm_eps {
        return Err(refused(format!(
            "model.text.layer_norm_eps = {} and model.joint.layer_norm_eps = {}, and BERT has one for both",
            config.text.layer_norm_eps, sizes.layer_norm_eps
        )));
    }
    if let Some(name) = joint.differs_by_part() {
        return Err(refused(format!(
            "image and text have matrices of their own (model.joint.split), which differ: backbone.joint.{name}, for one. The model is exported \
             as a whole, without --part"
        )));
    }
    let mut encoder = backbone.text.clone();
    encoder.layers = joint.layers.clone();
    let config = TextEncoderConfig {
        layers: sizes.layers,
        heads: sizes.heads,
        feed_forward: sizes.feed_forward,
        activation: sizes.activation,
        dropout: sizes.dropout,
        drop_path: sizes.drop_path,
        ..config.text.clone()
    };
    Ok((encoder, config))
}

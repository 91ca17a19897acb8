//! OpenCLIP's `open_clip_config.json`, for what the shapes of the tensors do not say.
//!
//! Every key of `model_cfg` is known here: it is read, has no meaning for a trained model, or is supported at one value alone.
//! Another key or value is an error, so that no variant of CLIP passes for CLIP.

use serde_json::Value;
use unimo_core::layers::Activation;

use super::clip;
use crate::clip::ClipConfig;
use crate::weights::Weights;

/// Keys of a section of `model_cfg`.
struct Section {
    /// Keys that are read here, or follow from shapes.
    read: &'static [&'static str],
    /// Keys that matter only for training or saving.
    idle: &'static [&'static str],
    /// Keys that are supported at one value, as JSON.
    only: &'static [(&'static str, &'static str)],
}

const MODEL: Section = Section {
    read: &["embed_dim", "quick_gelu", "vision_cfg", "text_cfg"],
    idle: &[
        "init_logit_scale",
        "output_dict",
        "cast_dtype",
        "custom_text",
    ],
    only: &[("nonscalar_logit_scale", "false")],
};

const VISION: Section = Section {
    read: &[
        "image_size",
        "patch_size",
        "width",
        "layers",
        "head_width",
        "mlp_ratio",
        "norm_kwargs",
    ],
    idle: &[
        "patch_dropout",
        "output_tokens",
        "attn_pooler_queries",
        "attn_pooler_heads",
    ],
    only: &[
        ("attentional_pool", "false"),
        ("no_ln_pre", "false"),
        ("pos_embed_type", "\"learnable\""),
        ("final_ln_after_pool", "false"),
        ("pool_type", "\"tok\""),
        ("input_patchnorm", "false"),
        ("global_average_pool", "false"),
        ("act_kwargs", "{}"),
    ],
};

const TEXT: Section = Section {
    read: &[
        "context_length",
        "vocab_size",
        "width",
        "heads",
        "layers",
        "mlp_ratio",
        "norm_kwargs",
    ],
    idle: &["output_tokens", "pad_id"],
    only: &[
        ("embed_cls", "false"),
        ("no_causal_mask", "false"),
        ("final_ln_after_pool", "false"),
        ("pool_type", "\"argmax\""),
        ("proj_type", "\"linear\""),
        ("proj_bias", "false"),
        ("act_kwargs", "{}"),
    ],
};

impl Section {
    fn check(&self, name: &str, json: &Value) -> Result<(), String> {
        let Some(entries) = json.as_object() else {
            return Err(format!("{name} is missing or no object"));
        };
        for (key, value) in entries {
            let known = |keys: &[&str]| keys.contains(&key.as_str());
            if known(self.read) || known(self.idle) {
                continue;
            }
            match self.only.iter().find(|(other, _)| other == key) {
                Some((_, only))
                    if serde_json::from_str(only).is_ok_and(|only: Value| only == *value) => {}
                Some((_, only)) => {
                    return Err(format!(
                        "{name}.{key} = {value} is not supported, only {only}"
                    ));
                }
                None => return Err(format!("{name}.{key} = {value} is not supported")),
            }
        }
        Ok(())
    }
}

/// OpenCLIP's own defaults.
const HEAD_WIDTH: u64 = 64;
const TEXT_HEADS: u64 = 8;

/// The configuration of a checkpoint, and a line for each thing that its file leaves open.
///
/// # Errors
///
/// The file asks for something that is not supported, or a tensor that says a size is not there.
pub fn config(json: &Value, weights: &Weights) -> Result<(ClipConfig, Vec<String>), String> {
    let model = &json["model_cfg"];
    MODEL.check("model_cfg", model)?;
    VISION.check("model_cfg.vision_cfg", &model["vision_cfg"])?;
    TEXT.check("model_cfg.text_cfg", &model["text_cfg"])?;
    let mut notes = Vec::new();
    let activation = match &model["quick_gelu"] {
        Value::Bool(true) => Activation::QuickGelu,
        Value::Bool(false) => Activation::Gelu,
        Value::Null => {
            notes.push(
                "model_cfg says nothing of quick_gelu: the activation is GELU, OpenCLIP's default"
                    .to_owned(),
            );
            Activation::Gelu
        }
        other => {
            return Err(format!(
                "model_cfg.quick_gelu = {other}: must be true or false"
            ));
        }
    };
    let whole = |section: &str, key: &str, default: u64| -> Result<u64, String> {
        let value = &model[section][key];
        match value {
            Value::Null => Ok(default),
            _ => value.as_u64().filter(|number| *number > 0).ok_or_else(|| {
                format!("model_cfg.{section}.{key} = {value}: must be a whole number above 0")
            }),
        }
    };
    let head_width = whole("vision_cfg", "head_width", HEAD_WIDTH)? as usize;
    let text_heads = whole("text_cfg", "heads", TEXT_HEADS)? as usize;
    let mut config = clip::sizes_from_shapes(weights, activation, head_width, Some(text_heads))?;
    if let Some(eps) = epsilon("vision_cfg", &model["vision_cfg"])? {
        config.image.layer_norm_eps = eps;
    }
    if let Some(eps) = epsilon("text_cfg", &model["text_cfg"])? {
        config.text.layer_norm_eps = eps;
    }
    // OpenCLIP interpolates the positions of another grid too.
    let size = &model["vision_cfg"]["image_size"];
    let sides: Vec<u64> = match size {
        Value::Array(sides) => sides.iter().filter_map(Value::as_u64).collect(),
        other => other.as_u64().into_iter().collect(),
    };
    match (size, sides.as_slice()) {
        (Value::Null, _) => {}
        (_, [side]) => config.image.image_size = *side as usize,
        (_, [height, width]) if height == width => config.image.image_size = *height as usize,
        _ => {
            return Err(format!(
                "model_cfg.vision_cfg.image_size = {size} is not supported, only a square"
            ));
        }
    }
    for (key, there, here) in [
        ("embed_dim", model["embed_dim"].as_u64(), config.width),
        (
            "vision_cfg.width",
            model["vision_cfg"]["width"].as_u64(),
            config.image.width,
        ),
        (
            "vision_cfg.layers",
            model["vision_cfg"]["layers"].as_u64(),
            config.image.layers,
        ),
        (
            "vision_cfg.patch_size",
            model["vision_cfg"]["patch_size"].as_u64(),
            config.image.patch_size,
        ),
        (
            "text_cfg.width",
            model["text_cfg"]["width"].as_u64(),
            config.text.width,
        ),
        (
            "text_cfg.layers",
            model["text_cfg"]["layers"].as_u64(),
            config.text.layers,
        ),
    ] {
        if let Some(there) = there
            && there != here as u64
        {
            return Err(format!(
                "model_cfg.{key} = {there}, and the weights are of {here}"
            ));
        }
    }
    Ok((config, notes))
}

/// The epsilon of a tower's layer norms, if the file differs from PyTorch.
fn epsilon(name: &str, section: &Value) -> Result<Option<f64>, String> {
    let Some(entries) = section["norm_kwargs"].as_object() else {
        return Ok(None);
    };
    match entries.iter().find(|(key, _)| *key != "eps") {
        Some((key, value)) => Err(format!(
            "model_cfg.{name}.norm_kwargs.{key} = {value} is not supported, only eps"
        )),
        None => Ok(entries.get("eps").and_then(Value::as_f64)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_is_known_or_named() {
        let good =
            serde_json::json!({"width": 64, "layers": 2, "pool_type": "tok", "act_kwargs": {}});
        VISION.check("vision_cfg", &good).unwrap();
        for (key, value, says) in [
            (
                "timm_model_name",
                serde_json::json!("vit"),
                "timm_model_name",
            ),
            ("pool_type", serde_json::json!("avg"), "only \"tok\""),
            ("no_ln_pre", serde_json::json!(true), "only false"),
            (
                "a_key_of_tomorrow",
                serde_json::json!(1),
                "a_key_of_tomorrow = 1",
            ),
        ] {
            let mut bad = good.clone();
            bad[key] = value;
            let reason = VISION.check("vision_cfg", &bad).unwrap_err();
            assert!(reason.contains(says), "{reason}");
        }
    }
}

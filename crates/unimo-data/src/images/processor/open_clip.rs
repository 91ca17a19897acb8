//! `open_clip_config.json`.

use serde_json::{Map, Value, json};

use crate::images::processor::hugging_face::filter_of;
use crate::images::processor::keys::{Keys, Notes, Size, channels};
use crate::images::processor::{CLIP_MEAN, CLIP_STD, Pictures};
use crate::images::{Filter, ImageSpec, Resize};

/// Reads OpenCLIP's `preprocess_cfg`.
pub(super) fn open_clip(
    mut json: Map<String, Value>,
    model_size: Option<usize>,
    notes: &mut Notes,
) -> Result<Pictures, String> {
    json.retain(|_, value| !value.is_null());
    let mut keys = Keys {
        json,
        seen: Vec::new(),
    };
    let size = match (keys.take("size"), model_size) {
        (Some(value), _) => Size::parse("preprocess_cfg.size", &value)?.side(),
        (None, Some(size)) => size,
        (None, None) => return Err("preprocess_cfg does not say size".to_owned()),
    };
    if let Some(mode) = keys.take("mode")
        && mode != json!("RGB")
    {
        return Err(format!(
            "preprocess_cfg.mode = {mode} is not supported, only \"RGB\""
        ));
    }
    let mut three = |key: &str, default: [f32; 3]| match keys.take(key) {
        Some(value) => channels(&format!("preprocess_cfg.{key}"), &value),
        None => {
            notes
                .absent
                .push(format!("preprocess_cfg.{key} ({default:?})"));
            Ok(default)
        }
    };
    let (mean, std) = (three("mean", CLIP_MEAN)?, three("std", CLIP_STD)?);
    let filter = match keys.take("interpolation") {
        None => {
            notes
                .absent
                .push("preprocess_cfg.interpolation (bicubic)".to_owned());
            Filter::Bicubic
        }
        Some(value) if value.is_string() => filter_of(&value).map_err(|_| {
            format!(
                "preprocess_cfg.interpolation = {value} is not supported, only bicubic and bilinear"
            )
        })?,
        Some(value) => {
            return Err(format!(
                "preprocess_cfg.interpolation = {value}: must be a word"
            ));
        }
    };
    let resize = match keys.take("resize_mode") {
        None => {
            notes
                .absent
                .push("preprocess_cfg.resize_mode (shortest)".to_owned());
            Resize::Crop
        }
        Some(Value::String(mode)) if mode == "shortest" => Resize::Crop,
        Some(Value::String(mode)) if mode == "squash" => Resize::Squash,
        Some(other) => {
            return Err(format!(
                "preprocess_cfg.resize_mode = {other} is not supported, only \"shortest\" and \"squash\""
            ));
        }
    };
    // Neither resize mode fills anything.
    keys.take("fill_color");
    notes.ignored = keys.rest();
    Ok(Pictures::from(ImageSpec {
        size,
        resize,
        filter,
        mean,
        std,
    }))
}

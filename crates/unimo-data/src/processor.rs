//! Hugging Face's `preprocessor_config.json`: how a published model wants its pictures.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::DataError;
use crate::images::{Filter, ImageSpec, Resize};

/// The file, with the keys that decide what a picture becomes. Others are left aside.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
struct Processor {
    #[serde(alias = "feature_extractor_type")]
    image_processor_type: String,
    do_resize: bool,
    size: Option<Size>,
    resample: u32,
    do_center_crop: bool,
    crop_size: Option<Size>,
    do_rescale: bool,
    rescale_factor: f64,
    do_normalize: bool,
    image_mean: [f32; 3],
    image_std: [f32; 3],
    size_divisor: u32,
}

/// A side, or named sides.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
enum Size {
    Side(usize),
    Edge { shortest_edge: usize },
    Both { height: usize, width: usize },
}

/// OpenAI's means and deviations, CLIP's and BridgeTower's defaults.
pub const CLIP_MEAN: [f32; 3] = [0.481_454_66, 0.457_827_5, 0.408_210_73];
/// As [`CLIP_MEAN`], deviations.
pub const CLIP_STD: [f32; 3] = [0.268_629_54, 0.261_302_6, 0.275_777_1];

/// Pillow's numbers of filters.
const BILINEAR: u32 = 2;
const BICUBIC: u32 = 3;

impl Default for Processor {
    fn default() -> Self {
        Self {
            image_processor_type: String::new(),
            do_resize: true,
            size: None,
            resample: BICUBIC,
            do_center_crop: true,
            crop_size: None,
            do_rescale: true,
            rescale_factor: 1.0 / 255.0,
            do_normalize: true,
            image_mean: CLIP_MEAN,
            image_std: CLIP_STD,
            size_divisor: 32,
        }
    }
}

/// Reads a `preprocessor_config.json`.
///
/// # Errors
///
/// It cannot be read or asks for something that is not supported.
pub fn read(path: &Path) -> Result<ImageSpec, DataError> {
    let text =
        std::fs::read_to_string(path).map_err(|error| DataError::file("read", path, error))?;
    parse(&text).map_err(|reason| DataError::Processor {
        path: path.to_owned(),
        reason,
    })
}

fn parse(text: &str) -> Result<ImageSpec, String> {
    let json: serde_json::Value = serde_json::from_str(text).map_err(|e| e.to_string())?;
    let kind = json["image_processor_type"]
        .as_str()
        .or(json["feature_extractor_type"].as_str())
        .unwrap_or("CLIPImageProcessor");
    let kind = kind
        .trim_end_matches("Fast")
        .trim_end_matches("Pil")
        .to_owned();
    let mut json = json.clone();
    let is_vit = match kind.as_str() {
        "CLIPImageProcessor" | "CLIPFeatureExtractor" | "BridgeTowerImageProcessor" => false,
        "ViTImageProcessor"
        | "ViTFeatureExtractor"
        | "DeiTImageProcessor"
        | "DeiTFeatureExtractor" => true,
        other => {
            return Err(format!(
                "the processor {other} is not supported; supported are those of CLIP, BridgeTower, ViT and DeiT"
            ));
        }
    };
    if is_vit {
        let deit = kind.starts_with("DeiT");
        for (key, value) in [
            ("resample", if deit { BICUBIC } else { BILINEAR }.into()),
            ("do_center_crop", deit.into()),
            (
                "image_mean",
                if deit { IMAGENET_MEAN } else { [0.5; 3] }.to_vec().into(),
            ),
            (
                "image_std",
                if deit { IMAGENET_STD } else { [0.5; 3] }.to_vec().into(),
            ),
        ] {
            if json.get(key).is_none() {
                json[key] = value;
            }
        }
    }
    let p: Processor = serde_json::from_value(json).map_err(|e| e.to_string())?;
    let must = |holds: bool, what: &str| match holds {
        true => Ok(()),
        false => Err(format!("{what} is not supported")),
    };
    must(p.do_resize, "do_resize = false")?;
    must(p.do_rescale, "do_rescale = false")?;
    must(
        (p.rescale_factor * 255.0 - 1.0).abs() < 1e-6,
        "a rescale_factor other than 1 / 255",
    )?;
    let filter = match p.resample {
        BILINEAR => Filter::Bilinear,
        BICUBIC => Filter::Bicubic,
        other => return Err(format!("resample = {other} is not supported, only 2 and 3")),
    };
    let side = |size: Size| match size {
        Size::Side(side)
        | Size::Edge {
            shortest_edge: side,
        } => Ok(side),
        Size::Both { height, width } if height == width => Ok(height),
        Size::Both { height, width } => Err(format!(
            "a picture of {height} x {width} is not supported, only squares"
        )),
    };
    let bridgetower = kind == "BridgeTowerImageProcessor";
    let size = side(p.size.unwrap_or(Size::Side(match bridgetower {
        true => 288,
        false => 224,
    })))?;
    let square = matches!(p.size, Some(Size::Both { .. })) || is_vit && !p.do_center_crop;
    let crop = p.crop_size.map(side).transpose()?.unwrap_or(size);
    let resize = if bridgetower {
        must(p.size_divisor == 32, "a size_divisor other than 32")?;
        must(p.do_center_crop, "do_center_crop = false")?;
        must(crop == size, "a crop_size other than size")?;
        Resize::BridgetowerProcessor
    } else if square && (!p.do_center_crop || crop == size) {
        Resize::Squash
    } else {
        must(
            p.do_center_crop,
            "do_center_crop = false without a square size",
        )?;
        must(crop == size && !square, "a crop_size other than size")?;
        Resize::ClipProcessor
    };
    let (mean, std) = match p.do_normalize {
        true => (p.image_mean, p.image_std),
        false => ([0.0; 3], [1.0; 3]),
    };
    Ok(ImageSpec {
        size,
        resize,
        filter,
        mean,
        std,
    })
}

const IMAGENET_MEAN: [f32; 3] = [0.485, 0.456, 0.406];
const IMAGENET_STD: [f32; 3] = [0.229, 0.224, 0.225];

/// The text of a `preprocessor_config.json` that asks for the same.
pub fn to_json(spec: &ImageSpec) -> serde_json::Value {
    let size = spec.size;
    let both = serde_json::json!({"height": size, "width": size});
    let edge = serde_json::json!({"shortest_edge": size});
    let (kind, size, crop) = match spec.resize {
        Resize::Squash => ("ViTImageProcessor", both, serde_json::Value::Null),
        Resize::Crop | Resize::ClipProcessor => ("CLIPImageProcessor", edge, both),
        Resize::BridgetowerProcessor => ("BridgeTowerImageProcessor", edge.clone(), edge),
    };
    serde_json::json!({
        "image_processor_type": kind,
        "do_resize": true,
        "size": size,
        "resample": match spec.filter { Filter::Bilinear => BILINEAR, Filter::Bicubic => BICUBIC },
        "do_center_crop": !crop.is_null(),
        "crop_size": crop,
        "do_rescale": true,
        "rescale_factor": 1.0 / 255.0,
        "do_normalize": true,
        "image_mean": spec.mean,
        "image_std": spec.std,
        "do_convert_rgb": true,
        "do_pad": spec.resize == Resize::BridgetowerProcessor,
        "size_divisor": 32,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn published_files_are_understood() {
        // As in openai/clip-vit-base-patch16, google/vit-base-patch16-224, facebook/deit-base-distilled-patch16-224 and
        // BridgeTower/bridgetower-base, and as an old release wrote CLIP's.
        let clip = r#"{"crop_size": 224, "do_center_crop": true, "do_normalize": true, "do_resize": true,
            "feature_extractor_type": "CLIPFeatureExtractor", "resample": 3, "size": 224,
            "image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711]}"#;
        let vit = r#"{"do_normalize": true, "do_resize": true, "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5],
            "size": 224}"#.replacen('{', r#"{"image_processor_type": "ViTImageProcessor", "#, 1);
        let deit = r#"{"crop_size": 224, "do_center_crop": true, "do_normalize": true, "do_resize": true,
            "feature_extractor_type": "DeiTFeatureExtractor", "resample": 3, "size": 224}"#;
        let bridgetower = r#"{"do_center_crop": true, "do_normalize": true, "do_pad": true, "do_rescale": true, "do_resize": true,
            "image_processor_type": "BridgeTowerImageProcessor", "resample": 3, "rescale_factor": 0.00392156862745098,
            "size": {"shortest_edge": 288}, "size_divisor": 32, "crop_size": {"shortest_edge": 288}}"#;
        for (text, size, resize, filter) in [
            (clip, 224, Resize::ClipProcessor, Filter::Bicubic),
            (&vit, 224, Resize::Squash, Filter::Bilinear),
            (deit, 224, Resize::ClipProcessor, Filter::Bicubic),
            (
                bridgetower,
                288,
                Resize::BridgetowerProcessor,
                Filter::Bicubic,
            ),
        ] {
            let spec = parse(text).unwrap();
            assert_eq!(
                (spec.size, spec.resize, spec.filter),
                (size, resize, filter),
                "{text}"
            );
            assert_eq!(parse(&to_json(&spec).to_string()).unwrap(), spec);
        }
    }

    #[test]
    fn what_is_not_supported_is_named() {
        for (text, says) in [
            (
                r#"{"image_processor_type": "BlipImageProcessor"}"#,
                "BlipImageProcessor",
            ),
            (r#"{"resample": 0}"#, "resample = 0"),
            (r#"{"do_resize": false}"#, "do_resize"),
            (r#"{"size": {"height": 224, "width": 112}}"#, "224 x 112"),
            ("{", "EOF"),
        ] {
            let reason = parse(text).unwrap_err();
            assert!(reason.contains(says), "{reason}");
        }
    }
}

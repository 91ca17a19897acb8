//! `preprocessor_config.json` and `processor_config.json` of Hugging Face's image processors, old and new.

use serde_json::{Map, Value, json};

use crate::images::processor::keys::{Defaults, Keys, Notes, Size, pixels};
use crate::images::processor::{
    BICUBIC, BILINEAR, CLIP_MEAN, CLIP_STD, Family, IMAGENET_MEAN, IMAGENET_STD, OWN_RESIZE,
    Pictures, STANDARD,
};
use crate::images::{Filter, ImageSpec, Resize};

impl Family {
    /// The name of its image processor in transformers.
    fn processor(self) -> &'static str {
        match self {
            Self::Clip | Self::Torchvision => "CLIPImageProcessor",
            Self::BridgeTower => "BridgeTowerImageProcessor",
            Self::Vit | Self::Albef => "ViTImageProcessor",
            Self::Deit => "DeiTImageProcessor",
        }
    }

    /// The family and defaults of an image processor, under any of its names.
    fn of_processor(name: &str) -> Option<(Self, Defaults)> {
        let extractor = name.ends_with("FeatureExtractor");
        let kind = name
            .trim_end_matches("Fast")
            .trim_end_matches("Pil")
            .trim_end_matches("ImageProcessor")
            .trim_end_matches("FeatureExtractor");
        let clip = |size| Defaults {
            size: Size::Shorter(size),
            square: false,
            crop: Some(size),
            filter: BICUBIC,
            mean: CLIP_MEAN,
            std: CLIP_STD,
        };
        let known = name.len() > kind.len();
        match kind {
            "CLIP" if known => Some((Self::Clip, clip(224))),
            "BridgeTower" if known => Some((Self::BridgeTower, clip(288))),
            "ViT" if known => Some((
                Self::Vit,
                Defaults {
                    size: Size::Both(224),
                    square: true,
                    crop: None,
                    filter: BILINEAR,
                    mean: STANDARD,
                    std: STANDARD,
                },
            )),
            "DeiT" if known => Some((
                Self::Deit,
                Defaults {
                    size: Size::Both(256),
                    square: true,
                    crop: Some(224),
                    filter: BICUBIC,
                    mean: if extractor { IMAGENET_MEAN } else { STANDARD },
                    std: if extractor { IMAGENET_STD } else { STANDARD },
                },
            )),
            _ => None,
        }
    }
}

/// Keys that change no pixel of an image with three channels.
const IDLE: [&str; 13] = [
    "processor_class",
    "image_processor_type",
    "feature_extractor_type",
    "_valid_processor_keys",
    "data_format",
    "input_data_format",
    "return_tensors",
    "device",
    "disable_grouping",
    "do_convert_rgb",
    "auto_map",
    "transformers_version",
    "image_seq_length",
];

/// Reads the settings of an image processor of transformers.
pub(super) fn hugging_face(
    mut json: Map<String, Value>,
    family: Option<Family>,
    model_size: Option<usize>,
    notes: &mut Notes,
) -> Result<Pictures, String> {
    json.retain(|_, value| !value.is_null());
    let text = |key: &str| json.get(key).and_then(Value::as_str).map(str::to_owned);
    let named = text("image_processor_type").or_else(|| text("feature_extractor_type"));
    let kind = match (named, family) {
        (Some(kind), _) => kind,
        (None, Some(family)) => {
            notes
                .absent
                .push(format!("its image_processor_type ({})", family.processor()));
            family.processor().to_owned()
        }
        (None, None) => return Err("does not say its image_processor_type".to_owned()),
    };
    let (family, defaults) = Family::of_processor(&kind).ok_or_else(|| {
        format!(
            "the processor {kind} is not supported; supported are those of CLIP, BridgeTower, ViT and DeiT"
        )
    })?;
    let mut keys = Keys {
        json,
        seen: IDLE.map(str::to_owned).to_vec(),
    };

    let flag = |keys: &mut Keys, key: &str, default: bool| match keys.take(key) {
        None => Ok(default),
        Some(Value::Bool(flag)) => Ok(flag),
        Some(other) => Err(format!("{key} = {other}: must be true, false or null")),
    };
    if !flag(&mut keys, "do_resize", true)? {
        return Err(
            "do_resize = false is not supported: images would have to be of the model's size"
                .to_owned(),
        );
    }
    let filter = match keys.take("resample") {
        None => {
            notes.absent.push(format!("resample ({})", defaults.filter));
            filter_of(&defaults.filter.into())?
        }
        Some(value) => filter_of(&value)?,
    };
    let squares_numbers = flag(&mut keys, "default_to_square", defaults.square)?;
    let size = match keys.take("size") {
        Some(value) => Size::parse("size", &value)?,
        None => {
            let size = match (model_size, defaults.size) {
                // DeiT's margin around its own default of 224.
                (Some(own), Size::Both(_)) if family == Family::Deit => {
                    Size::Both(family.default_pictures(own).resized)
                }
                (Some(own), Size::Both(_)) => Size::Both(own),
                (Some(own), _) => Size::Shorter(own),
                (None, size) => size,
            };
            notes.absent.push(format!("size ({})", size.side()));
            size
        }
    };
    let size = match size {
        Size::Side(side) if squares_numbers => Size::Both(side),
        Size::Side(side) => Size::Shorter(side),
        other => other,
    };
    let crops = flag(&mut keys, "do_center_crop", defaults.crop.is_some())?;
    let crop = match keys.take("crop_size") {
        Some(value) => Some(Size::parse("crop_size", &value)?.side()),
        None => {
            let own = model_size.filter(|_| family == Family::Deit);
            own.or(defaults.crop.filter(|_| family == Family::Deit))
        }
    };
    if crops && crop.is_none() {
        notes.absent.push(format!("crop_size ({})", size.side()));
    }
    let crop = crop.filter(|_| crops).unwrap_or(size.side());
    let (mean, std) = pixels(&mut keys, &defaults, notes)?;
    if let Some(divisor) = keys.take("size_divisor")
        && family == Family::BridgeTower
        && divisor != json!(32)
    {
        return Err(format!(
            "size_divisor = {divisor} is not supported, only 32"
        ));
    }
    // BridgeTower pads to the largest image of a batch; after the crop all have the same size.
    let pads = flag(&mut keys, "do_pad", family == Family::BridgeTower)?;
    if pads && family != Family::BridgeTower {
        return Err("do_pad = true is not supported".to_owned());
    }
    let own = keys.take(OWN_RESIZE);
    let resize = match (own, size) {
        (Some(own), _) => serde_json::from_value(own.clone())
            .map_err(|_| format!("{OWN_RESIZE} = {own} is no way to a square"))?,
        (None, Size::Both(_)) if family != Family::BridgeTower => Resize::Squash,
        (None, _) if !crops => {
            return Err(
                "do_center_crop = false without a square size is not supported: the images would not be square"
                    .to_owned(),
            );
        }
        (None, _) if family == Family::BridgeTower => {
            if crop != size.side() {
                return Err(format!(
                    "a crop_size of {crop} with a size of {} is not supported for BridgeTower",
                    size.side()
                ));
            }
            Resize::BridgetowerProcessor
        }
        (None, _) => Resize::ClipProcessor,
    };
    notes.ignored = keys.rest();
    with_margin(
        ImageSpec {
            size: crop,
            resize,
            filter,
            mean,
            std,
        },
        size.side(),
    )
}

/// A crop that is smaller than the resized image.
fn with_margin(spec: ImageSpec, resized: usize) -> Result<Pictures, String> {
    let crop = spec.size;
    if crop > resized {
        return Err(format!(
            "a crop_size of {crop} is not supported with a size of {resized}: it would have to be filled up"
        ));
    }
    if !(resized - crop).is_multiple_of(2) {
        return Err(format!(
            "a crop_size of {crop} is not supported with a size of {resized}: the margins would not be equal"
        ));
    }
    Ok(Pictures { spec, resized })
}

pub(super) fn filter_of(value: &Value) -> Result<Filter, String> {
    let word = value.as_str().map(str::to_ascii_lowercase);
    match (value.as_u64(), word.as_deref()) {
        (Some(BILINEAR), _) | (_, Some("bilinear")) => Ok(Filter::Bilinear),
        (Some(BICUBIC), _) | (_, Some("bicubic")) => Ok(Filter::Bicubic),
        _ => Err(format!(
            "resample = {value} is not supported, only {BILINEAR} (bilinear) and {BICUBIC} (bicubic)"
        )),
    }
}

//! How a published model wants its pictures, as its folder says it: `preprocessor_config.json`, the `image_processor` within
//! `processor_config.json` (transformers 5), or OpenCLIP's `preprocess_cfg`.
//!
//! Nothing is taken for granted without a word: a default, a key that is not followed, a second file that says otherwise is a note,
//! and what cannot be followed is an error.

use std::path::{Path, PathBuf};

use image::RgbImage;
use serde_json::{Map, Value, json};

use crate::error::DataError;
use crate::images::{Filter, ImageSpec, Resize};

/// OpenAI's means and deviations, CLIP's and BridgeTower's defaults.
pub const CLIP_MEAN: [f32; 3] = [0.481_454_66, 0.457_827_5, 0.408_210_73];
/// As [`CLIP_MEAN`], deviations.
pub const CLIP_STD: [f32; 3] = [0.268_629_54, 0.261_302_6, 0.275_777_1];
/// ViT's and DeiT's means and deviations.
const STANDARD: [f32; 3] = [0.5; 3];
/// Means of the feature extractor that DeiT was published with.
const IMAGENET_MEAN: [f32; 3] = [0.485, 0.456, 0.406];
/// As [`IMAGENET_MEAN`], deviations.
const IMAGENET_STD: [f32; 3] = [0.229, 0.224, 0.225];

/// Pillow's numbers of filters.
const BILINEAR: u64 = 2;
/// As [`BILINEAR`].
const BICUBIC: u64 = 3;

/// Where Hugging Face says it, in a file of its own.
const PREPROCESSOR: &str = "preprocessor_config.json";
/// Where transformers 5 says it, beside what else a processor has.
const PROCESSOR: &str = "processor_config.json";
/// Where OpenCLIP says it.
const OPEN_CLIP: &str = "open_clip_config.json";
/// Our own key in [`PREPROCESSOR`], for what Hugging Face has no word for.
const OWN_RESIZE: &str = "unimo_resize";

/// Kinds of models, by how their pictures are prepared where no file says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// CLIP of Hugging Face.
    Clip,
    /// CLIP of OpenAI and OpenCLIP, METER: torchvision's transforms.
    Torchvision,
    /// BridgeTower.
    BridgeTower,
    /// ViT.
    Vit,
    /// DeiT.
    Deit,
}

/// How pictures become the model's pixels: as [`ImageSpec`], maybe with a margin that is cut off.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pictures {
    /// What the model gets.
    pub spec: ImageSpec,
    /// The side that a picture is brought to before its centre, of the model's size, is cut out; the model's size: no margin.
    pub resized: usize,
}

impl From<ImageSpec> for Pictures {
    fn from(spec: ImageSpec) -> Self {
        Self {
            spec,
            resized: spec.size,
        }
    }
}

impl Pictures {
    /// Normalised pixels of one picture, appended to `pixels`.
    ///
    /// # Shapes
    ///
    /// `H x W` to `[3, S, S]`.
    ///
    /// # Errors
    ///
    /// Why the picture cannot be used.
    pub fn append(&self, picture: &RgbImage, pixels: &mut Vec<f32>) -> Result<(), String> {
        self.spec.normalise(&self.square(picture)?, pixels);
        Ok(())
    }

    /// The square that the model sees.
    ///
    /// # Shapes
    ///
    /// `H x W` to `S x S`.
    ///
    /// # Errors
    ///
    /// Why the picture cannot be used.
    pub fn square(&self, picture: &RgbImage) -> Result<RgbImage, String> {
        if self.resized == self.spec.size {
            return self.spec.square(picture);
        }
        let large = ImageSpec {
            size: self.resized,
            ..self.spec
        };
        let large = large.square(picture)?;
        let margin = ((self.resized - self.spec.size) / 2) as u32;
        let size = self.spec.size as u32;
        Ok(image::imageops::crop_imm(&large, margin, margin, size, size).to_image())
    }

    /// What the model sees of a picture, to look at: in the picture's own proportions and with a longer side of `side` pixels.
    ///
    /// # Shapes
    ///
    /// `H x W` to `side x side`, or to `side` by less where nothing is cut off.
    ///
    /// # Errors
    ///
    /// Why the picture cannot be used.
    pub fn view(&self, picture: &RgbImage, side: u32) -> Result<RgbImage, String> {
        let margin = self.resized - self.spec.size;
        if margin == 0 {
            return self.spec.view(picture, side);
        }
        let scaled = |pixels: usize| (pixels * side as usize).div_ceil(self.spec.size);
        let large = self.spec.view(picture, scaled(self.resized) as u32)?;
        let (width, height) = large.dimensions();
        let cut = |of: u32| (u64::from(of) * margin as u64 / self.resized as u64 / 2) as u32;
        let (left, top) = (cut(width), cut(height));
        let (width, height) = (width - 2 * left, height - 2 * top);
        Ok(image::imageops::crop_imm(&large, left, top, width, height).to_image())
    }

    /// Whether two files ask for the same, but for the rounding of where the centre begins, which goes with the library.
    fn is_like(&self, other: &Self) -> bool {
        let like = |pictures: &Self| {
            let mut pictures = *pictures;
            if pictures.spec.resize == Resize::Crop {
                pictures.spec.resize = Resize::ClipProcessor;
            }
            pictures
        };
        like(self) == like(other)
    }

    fn describe(&self) -> String {
        let ImageSpec {
            size,
            resize,
            filter,
            mean,
            std,
        } = &self.spec;
        let resize = match resize {
            Resize::Squash => "both sides brought to size",
            Resize::Crop | Resize::ClipProcessor => {
                "the shorter side brought to size and the centre cut out"
            }
            Resize::BridgetowerProcessor => "BridgeTower's way to a square",
        };
        let filter = match filter {
            Filter::Bilinear => "bilinear",
            Filter::Bicubic => "bicubic",
        };
        format!("{size} pixels, {resize}, {filter}, mean {mean:?}, deviation {std:?}")
    }
}

/// How pictures are prepared, and what there is to say about it.
#[derive(Debug, Clone, PartialEq)]
pub struct Prepared {
    /// How.
    pub pictures: Pictures,
    /// The file that says so; none where no file does.
    pub file: Option<PathBuf>,
    /// One line each: defaults that were taken, keys that were not followed, files that say otherwise.
    pub notes: Vec<String>,
}

/// Looks in a model's folder for how pictures are prepared.
///
/// Of several files the one counts that transformers takes: `image_processor` in `processor_config.json`, then
/// `preprocessor_config.json`, then OpenCLIP's, which goes first for [`Family::Torchvision`]. `size` is the model's own, for files that
/// do not say it.
///
/// # Errors
///
/// The file that counts cannot be read or asks for something that is not supported.
pub fn find(folder: &Path, family: Family, size: usize) -> Result<Prepared, DataError> {
    let mut found: Vec<Prepared> = Vec::new();
    let mut notes = Vec::new();
    let order = match family {
        Family::Torchvision => [OPEN_CLIP, PROCESSOR, PREPROCESSOR],
        _ => [PROCESSOR, PREPROCESSOR, OPEN_CLIP],
    };
    for name in order {
        let file = folder.join(name);
        if !file.is_file() {
            continue;
        }
        let prepared = read_file(&file, Some(family), Some(size));
        match prepared {
            Ok(None) => {}
            Ok(Some(prepared)) => found.push(prepared),
            Err(error) if found.is_empty() => return Err(error),
            Err(error) => notes.push(format!("left aside: {error}")),
        }
    }
    let mut others = found.split_off(found.len().min(1)).into_iter();
    let Some(mut first) = found.pop() else {
        let pictures = family.default_pictures(size);
        notes.push(format!(
            "no file says how pictures are prepared (looked for {PREPROCESSOR}, {PROCESSOR} with `image_processor` and {OPEN_CLIP} \
             with `preprocess_cfg`): {} is taken, the default of {}",
            pictures.describe(),
            family.name()
        ));
        return Ok(Prepared {
            pictures,
            file: None,
            notes,
        });
    };
    let taken = file_name(first.file.as_deref());
    notes.extend(
        others
            .by_ref()
            .filter(|other| !other.pictures.is_like(&first.pictures))
            .map(|other| {
                format!(
                    "{} says otherwise ({}); {taken} is taken",
                    file_name(other.file.as_deref()),
                    other.pictures.describe()
                )
            }),
    );
    first.notes.extend(notes);
    Ok(first)
}

/// Reads one of the files.
///
/// # Errors
///
/// It cannot be read, does not say how pictures are prepared, or asks for something that is not supported.
pub fn read(path: &Path) -> Result<Prepared, DataError> {
    read_file(path, None, None)?.ok_or_else(|| DataError::Processor {
        path: path.to_owned(),
        reason: "does not say how pictures are prepared".to_owned(),
    })
}

fn file_name(path: Option<&Path>) -> String {
    path.and_then(Path::file_name)
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default()
}

/// What a file says; none if it is about something else.
fn read_file(
    path: &Path,
    family: Option<Family>,
    size: Option<usize>,
) -> Result<Option<Prepared>, DataError> {
    let text =
        std::fs::read_to_string(path).map_err(|error| DataError::file("read", path, error))?;
    let wrong = |reason: String| DataError::Processor {
        path: path.to_owned(),
        reason,
    };
    let json: Value = serde_json::from_str(&text).map_err(|e| wrong(e.to_string()))?;
    let Value::Object(mut json) = json else {
        return Err(wrong("is no JSON object".to_owned()));
    };
    json.retain(|_, value| !value.is_null());
    let mut notes = Notes::default();
    let name = file_name(Some(path));
    let nested = json.remove("image_processor");
    let preprocess = json.remove("preprocess_cfg");
    let pictures = if let Some(Value::Object(nested)) = nested {
        hugging_face(nested, family, size, &mut notes).map_err(wrong)?
    } else if let Some(Value::Object(preprocess)) = preprocess {
        open_clip(preprocess, size, &mut notes).map_err(wrong)?
    } else if name == PROCESSOR || name == OPEN_CLIP {
        return Ok(None);
    } else {
        hugging_face(json, family, size, &mut notes).map_err(wrong)?
    };
    Ok(Some(Prepared {
        pictures,
        file: Some(path.to_owned()),
        notes: notes.lines(&name),
    }))
}

/// What is said about one file.
#[derive(Debug, Default)]
struct Notes {
    /// Keys that it lacks, with what is taken.
    absent: Vec<String>,
    /// Keys that are not followed.
    ignored: Vec<String>,
    /// Whole lines.
    other: Vec<String>,
}

impl Notes {
    fn lines(self, file: &str) -> Vec<String> {
        let mut lines = Vec::new();
        if !self.absent.is_empty() {
            lines.push(format!(
                "{file} does not say {}: the default is taken",
                self.absent.join(", ")
            ));
        }
        if !self.ignored.is_empty() {
            lines.push(format!(
                "{file}: not followed here: {}",
                self.ignored.join(", ")
            ));
        }
        lines.extend(self.other.into_iter().map(|line| format!("{file} {line}")));
        lines
    }
}

/// What the keys of a file mean where they are absent.
struct Defaults {
    size: Size,
    /// Whether a size that is one number is that of both sides.
    square: bool,
    crop: Option<usize>,
    filter: u64,
    mean: [f32; 3],
    std: [f32; 3],
}

impl Family {
    /// What its kind of model is called.
    fn name(self) -> &'static str {
        match self {
            Self::Clip => "CLIP",
            Self::Torchvision => "OpenAI's CLIP, OpenCLIP and METER",
            Self::BridgeTower => "BridgeTower",
            Self::Vit => "ViT",
            Self::Deit => "DeiT",
        }
    }

    /// Its image processor in transformers.
    fn processor(self) -> &'static str {
        match self {
            Self::Clip | Self::Torchvision => "CLIPImageProcessor",
            Self::BridgeTower => "BridgeTowerImageProcessor",
            Self::Vit => "ViTImageProcessor",
            Self::Deit => "DeiTImageProcessor",
        }
    }

    /// That of an image processor, under any of its names.
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

    /// How its pictures are prepared where no file says it.
    fn default_pictures(self, size: usize) -> Pictures {
        let (resize, filter, mean, std) = match self {
            Self::Clip => (Resize::ClipProcessor, Filter::Bicubic, CLIP_MEAN, CLIP_STD),
            Self::Torchvision => (Resize::Crop, Filter::Bicubic, CLIP_MEAN, CLIP_STD),
            Self::BridgeTower => (
                Resize::BridgetowerProcessor,
                Filter::Bicubic,
                CLIP_MEAN,
                CLIP_STD,
            ),
            Self::Vit => (Resize::Squash, Filter::Bilinear, STANDARD, STANDARD),
            Self::Deit => (Resize::Squash, Filter::Bicubic, STANDARD, STANDARD),
        };
        let margin = match self {
            // 256 for pictures of 224.
            Self::Deit => size / 14 * 2,
            _ => 0,
        };
        Pictures {
            spec: ImageSpec {
                size,
                resize,
                filter,
                mean,
                std,
            },
            resized: size + margin,
        }
    }
}

/// A size in one of the forms that files have.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Size {
    /// The shorter side is brought to it.
    Shorter(usize),
    /// Both sides are.
    Both(usize),
    /// One number: which of the two it means depends on the processor.
    Side(usize),
}

impl Size {
    fn side(self) -> usize {
        match self {
            Self::Shorter(side) | Self::Both(side) | Self::Side(side) => side,
        }
    }

    fn parse(key: &str, value: &Value) -> Result<Self, String> {
        let unsupported = || {
            format!(
                "{key} = {value} is not supported, only one number, {{\"shortest_edge\": N}} and {{\"height\": N, \"width\": N}}"
            )
        };
        let side = |value: &Value| {
            let whole = value.as_u64().and_then(|side| usize::try_from(side).ok());
            whole.filter(|side| *side > 0).ok_or_else(unsupported)
        };
        let Value::Object(sides) = value else {
            let list = value.as_array().map(Vec::as_slice);
            return match list {
                Some([height, width]) if height == width => Ok(Self::Both(side(height)?)),
                Some(_) => Err(unsupported()),
                None => Ok(Self::Side(side(value)?)),
            };
        };
        let given: Vec<(&str, &Value)> = sides
            .iter()
            .filter(|(_, value)| !value.is_null())
            .map(|(key, value)| (key.as_str(), value))
            .collect();
        match given.as_slice() {
            [("shortest_edge", edge)] => Ok(Self::Shorter(side(edge)?)),
            [("height", height), ("width", width)] | [("width", width), ("height", height)] => {
                let (height, width) = (side(height)?, side(width)?);
                if height == width {
                    return Ok(Self::Both(height));
                }
                Err(format!(
                    "{key} of {height} x {width} is not supported, only squares"
                ))
            }
            _ => Err(unsupported()),
        }
    }
}

/// Keys that change no pixel of a picture of three channels.
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

/// An image processor of transformers.
fn hugging_face(
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
            "do_resize = false is not supported: pictures would have to be of the model's size"
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
    // BridgeTower pads to the largest picture of a batch, and after the crop all are of one size.
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
                "do_center_crop = false without a square size is not supported: the pictures would not be square"
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

/// A crop that is smaller than what it is taken from.
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

/// The keys of a file that are still to be read.
struct Keys {
    json: Map<String, Value>,
    seen: Vec<String>,
}

impl Keys {
    fn take(&mut self, key: &str) -> Option<Value> {
        self.json.remove(key)
    }

    /// Those that nobody asked for.
    fn rest(self) -> Vec<String> {
        let known = |key: &str| self.seen.iter().any(|seen| seen == key);
        let rest = self.json.iter().filter(|(key, _)| !known(key));
        rest.map(|(key, value)| format!("{key} = {value}"))
            .collect()
    }
}

fn filter_of(value: &Value) -> Result<Filter, String> {
    let word = value.as_str().map(str::to_ascii_lowercase);
    match (value.as_u64(), word.as_deref()) {
        (Some(BILINEAR), _) | (_, Some("bilinear")) => Ok(Filter::Bilinear),
        (Some(BICUBIC), _) | (_, Some("bicubic")) => Ok(Filter::Bicubic),
        _ => Err(format!(
            "resample = {value} is not supported, only {BILINEAR} (bilinear) and {BICUBIC} (bicubic)"
        )),
    }
}

/// Mean and deviation of values in 0..1, whatever the values are scaled to there.
fn pixels(
    keys: &mut Keys,
    defaults: &Defaults,
    notes: &mut Notes,
) -> Result<([f32; 3], [f32; 3]), String> {
    let flag = |keys: &mut Keys, key: &str| match keys.take(key) {
        None | Some(Value::Bool(true)) => Ok(true),
        Some(Value::Bool(false)) => Ok(false),
        Some(other) => Err(format!("{key} = {other}: must be true, false or null")),
    };
    let (rescale, normalise) = (flag(keys, "do_rescale")?, flag(keys, "do_normalize")?);
    let factor = keys.take("rescale_factor");
    let factor = match &factor {
        _ if !rescale => 1.0,
        None => 1.0 / 255.0,
        Some(value) => value
            .as_f64()
            .filter(|factor| *factor > 0.0)
            .ok_or_else(|| format!("rescale_factor = {value}: must be a number above 0"))?,
    };
    let mut three = |key: &str, default: [f32; 3]| -> Result<[f32; 3], String> {
        match keys.take(key) {
            Some(value) => channels(key, &value),
            None => {
                if normalise {
                    notes.absent.push(format!("{key} ({default:?})"));
                }
                Ok(default)
            }
        }
    };
    let (mean, std) = (
        three("image_mean", defaults.mean)?,
        three("image_std", defaults.std)?,
    );
    let (mean, std) = match normalise {
        true => (mean, std),
        false => ([0.0; 3], [1.0; 3]),
    };
    // (level * factor - mean) / std = (level / 255 - mean / scale) / (std / scale)
    let scale = factor * 255.0;
    /// What a file's decimal digits of 1 / 255 may be off.
    const ROUNDING: f64 = 1e-6;
    if (scale - 1.0).abs() < ROUNDING {
        return Ok((mean, std));
    }
    let scaled = |values: [f32; 3]| values.map(|value| (f64::from(value) / scale) as f32);
    Ok((scaled(mean), scaled(std)))
}

/// A number per channel; one number is that of all.
fn channels(key: &str, value: &Value) -> Result<[f32; 3], String> {
    let wrong = || format!("{key} = {value}: must be three numbers");
    let number = |value: &Value| value.as_f64().map(|number| number as f32);
    let values: Vec<f32> = match value {
        Value::Array(values) => values.iter().filter_map(number).collect(),
        one => vec![number(one).ok_or_else(wrong)?; 3],
    };
    let values: [f32; 3] = values.try_into().map_err(|_| wrong())?;
    if key.ends_with("std") && values.iter().any(|value| *value <= 0.0) {
        return Err(format!("{key} = {value}: must be above 0"));
    }
    Ok(values)
}

/// OpenCLIP's `preprocess_cfg`.
fn open_clip(
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
    // Nothing is filled up by these two.
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

/// The text of a `preprocessor_config.json` that asks for the same.
pub fn to_json(pictures: &Pictures) -> Value {
    let spec = &pictures.spec;
    let both = |size: usize| json!({"height": size, "width": size});
    let edge = |size: usize| json!({"shortest_edge": size});
    let cuts = pictures.resized != spec.size;
    let (kind, size, crop) = match spec.resize {
        Resize::Squash if cuts => (
            "DeiTImageProcessor",
            both(pictures.resized),
            Some(both(spec.size)),
        ),
        Resize::Squash => ("ViTImageProcessor", both(spec.size), None),
        Resize::Crop | Resize::ClipProcessor => (
            "CLIPImageProcessor",
            edge(pictures.resized),
            Some(both(spec.size)),
        ),
        Resize::BridgetowerProcessor => (
            "BridgeTowerImageProcessor",
            edge(spec.size),
            Some(edge(spec.size)),
        ),
    };
    let mut json = json!({
        "image_processor_type": kind,
        "do_resize": true,
        "size": size,
        "resample": match spec.filter { Filter::Bilinear => BILINEAR, Filter::Bicubic => BICUBIC },
        "do_center_crop": crop.is_some(),
        "do_rescale": true,
        "rescale_factor": 1.0 / 255.0,
        "do_normalize": true,
        "image_mean": spec.mean,
        "image_std": spec.std,
        "do_convert_rgb": true,
    });
    if let Some(crop) = crop {
        json["crop_size"] = crop;
    }
    match spec.resize {
        // Hugging Face's CLIP rounds where the centre begins otherwise.
        Resize::Crop => json[OWN_RESIZE] = json!(spec.resize),
        Resize::BridgetowerProcessor => {
            json["do_pad"] = true.into();
            json["size_divisor"] = 32.into();
        }
        Resize::Squash | Resize::ClipProcessor => {}
    }
    json
}

#[cfg(test)]
mod tests;

//! The image preprocessing of a published model, from its folder: `preprocessor_config.json`, the `image_processor` within
//! `processor_config.json` (transformers 5), or OpenCLIP's `preprocess_cfg`.
//!
//! Nothing is assumed silently. A default, an ignored key or a second file that disagrees is a note; an unsupported setting is an
//! error.

mod hugging_face;
mod keys;
mod open_clip;

use std::path::{Path, PathBuf};

use image::RgbImage;
use serde_json::{Value, json};

use crate::error::DataError;
use crate::formats::json::read_json;
use crate::images::processor::hugging_face::hugging_face;
use crate::images::processor::keys::Notes;
use crate::images::processor::open_clip::open_clip;
use crate::images::{Filter, ImageSpec, Resize};

/// OpenAI's means; defaults of CLIP and BridgeTower.
pub const CLIP_MEAN: [f32; 3] = [0.481_454_66, 0.457_827_5, 0.408_210_73];
/// Standard deviations that go with [`CLIP_MEAN`].
pub const CLIP_STD: [f32; 3] = [0.268_629_54, 0.261_302_6, 0.275_777_1];
/// Means and standard deviations of ViT and DeiT.
const STANDARD: [f32; 3] = [0.5; 3];
/// Means of the feature extractor that DeiT was published with.
const IMAGENET_MEAN: [f32; 3] = [0.485, 0.456, 0.406];
/// Standard deviations that go with [`IMAGENET_MEAN`].
const IMAGENET_STD: [f32; 3] = [0.229, 0.224, 0.225];

/// Pillow's number of the bilinear filter.
const BILINEAR: u64 = 2;
/// Pillow's number of the bicubic filter.
const BICUBIC: u64 = 3;

/// Hugging Face's file for image preprocessing.
const PREPROCESSOR: &str = "preprocessor_config.json";
/// The file of transformers 5, which also holds the rest of a processor.
const PROCESSOR: &str = "processor_config.json";
/// OpenCLIP's file.
const OPEN_CLIP: &str = "open_clip_config.json";
/// Our own key in [`PREPROCESSOR`], for settings that Hugging Face has no key for.
const OWN_RESIZE: &str = "unimo_resize";

/// Families of models, by their image preprocessing if no file gives it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// Hugging Face's CLIP.
    Clip,
    /// CLIP of OpenAI and OpenCLIP, METER: torchvision's transforms.
    Torchvision,
    /// BridgeTower.
    BridgeTower,
    /// ViT.
    Vit,
    /// DeiT.
    Deit,
    /// ALBEF.
    Albef,
}

/// How images become the model's pixels: an [`ImageSpec`], with an optional margin that is cut off.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pictures {
    /// The model's input.
    pub spec: ImageSpec,
    /// Side to which an image is resized before its centre, of the model's size, is cut out. If it is the model's size, there is no
    /// margin.
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
    /// Normalised pixels of one image, appended to `pixels`.
    ///
    /// # Shapes
    ///
    /// `H x W` to `[3, S, S]`.
    ///
    /// # Errors
    ///
    /// Why the image cannot be used.
    pub fn append(&self, picture: &RgbImage, pixels: &mut Vec<f32>) -> Result<(), String> {
        self.spec.normalise(&self.square(picture)?, pixels);
        Ok(())
    }

    /// The square that the model reads.
    ///
    /// # Shapes
    ///
    /// `H x W` to `S x S`.
    ///
    /// # Errors
    ///
    /// Why the image cannot be used.
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

    /// The part of an image that the model reads, for display: in the image's own proportions, with a longer side of `side` pixels.
    ///
    /// # Shapes
    ///
    /// `H x W` to `side x side`, or to `side` by less if nothing is cut off.
    ///
    /// # Errors
    ///
    /// Why the image cannot be used.
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

    /// Whether two files ask for the same, except for the rounding of the crop's offset, which depends on the library.
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

/// The image preprocessing, with notes about it.
#[derive(Debug, Clone, PartialEq)]
pub struct Prepared {
    /// The preprocessing.
    pub pictures: Pictures,
    /// The file that gives it; `None` if no file does.
    pub file: Option<PathBuf>,
    /// One line each: defaults taken, keys ignored, files that disagree.
    pub notes: Vec<String>,
}

/// Finds the image preprocessing in a model's folder.
///
/// If there are several files, the one that transformers uses counts: `image_processor` in `processor_config.json`, then
/// `preprocessor_config.json`, then OpenCLIP's. For [`Family::Torchvision`], OpenCLIP's comes first. `size` is the model's own, for
/// files without a size.
///
/// # Errors
///
/// The file that counts cannot be read or asks for something unsupported.
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
            "no file says how images are prepared (looked for {PREPROCESSOR}, {PROCESSOR} with `image_processor` and {OPEN_CLIP} \
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
/// It cannot be read, does not describe image preprocessing, or asks for something unsupported.
pub fn read(path: &Path) -> Result<Prepared, DataError> {
    read_file(path, None, None)?.ok_or_else(|| DataError::Processor {
        path: path.to_owned(),
        reason: "does not say how images are prepared".to_owned(),
    })
}

fn file_name(path: Option<&Path>) -> String {
    path.and_then(Path::file_name)
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default()
}

/// The preprocessing in a file; `None` if the file is about something else.
fn read_file(
    path: &Path,
    family: Option<Family>,
    size: Option<usize>,
) -> Result<Option<Prepared>, DataError> {
    let bytes = std::fs::read(path).map_err(|error| DataError::file("read", path, error))?;
    let wrong = |reason: String| DataError::Processor {
        path: path.to_owned(),
        reason,
    };
    let json = read_json(&bytes).map_err(wrong)?;
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

impl Family {
    /// The name of this family of models.
    fn name(self) -> &'static str {
        match self {
            Self::Clip => "CLIP",
            Self::Torchvision => "OpenAI's CLIP, OpenCLIP and METER",
            Self::BridgeTower => "BridgeTower",
            Self::Vit => "ViT",
            Self::Deit => "DeiT",
            Self::Albef => "ALBEF",
        }
    }

    /// Its image preprocessing if no file gives it.
    fn default_pictures(self, size: usize) -> Pictures {
        let (resize, filter, mean, std) = match self {
            Self::Clip => (Resize::ClipProcessor, Filter::Bicubic, CLIP_MEAN, CLIP_STD),
            Self::Torchvision => (Resize::Crop, Filter::Bicubic, CLIP_MEAN, CLIP_STD),
            Self::Albef => (Resize::Squash, Filter::Bicubic, CLIP_MEAN, CLIP_STD),
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
            // 256 for images of 224.
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

/// The text of a `preprocessor_config.json` with the same preprocessing.
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
        // Hugging Face's CLIP rounds the crop's offset differently.
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

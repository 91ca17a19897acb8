//! Random changes of training images: a random crop, flip, colours and geometric operations.
//!
//! Source: torchvision's `RandomResizedCrop`, `RandomHorizontalFlip`, `ColorJitter` and `RandAugment`, and METER's list of
//! operations. The result is a pure function of the image and the draw, so a resumed run sees the same augmentations.

pub mod colour_jitter;
pub mod operations;
pub mod rand_augment;

use std::borrow::Cow;

use image::RgbImage;
use serde::{Deserialize, Serialize};

use self::colour_jitter::ColourJitter;
use self::rand_augment::{RandAugment, When};
use crate::error::DataError;
use crate::images::{ImageSpec, Part, Resize};
use crate::order::draws::{Stream, below, hash, unit};

/// `[data.augment]`. Evaluation never augments.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AugmentConfig {
    /// Area of the random crop relative to the image, `[smallest, largest]`; `[1.0, 1.0]` keeps the image.
    pub scale: [f64; 2],
    /// Width over height of the random crop, `[narrowest, widest]`, drawn evenly on a logarithmic scale. It is in pixels for
    /// `resize = "crop"`, as in torchvision, and relative to the image's own shape for `resize = "squash"`.
    pub ratio: [f64; 2],
    /// Probability of flipping an image left to right, 0 to 1. Captions that say "left" are then no longer true.
    pub flip: f64,
    /// Random colours, applied after resizing; `None`: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub colour_jitter: Option<ColourJitter>,
    /// Random operations from a list; `None`: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rand_augment: Option<RandAugment>,
}

/// The [`AugmentConfig::scale`] that keeps the image.
const WHOLE: [f64; 2] = [1.0, 1.0];

/// What a random number of [`AugmentConfig::apply`] decides. Add new ones at the end: a run must resume as it began.
#[derive(Debug, Clone, Copy)]
enum Choice {
    Area,
    Ratio,
    Left,
    Top,
    Flip,
    Operation,
    Sign,
    Jitter,
    Order,
}

impl AugmentConfig {
    /// How often a crop that does not fit is drawn again, as in torchvision.
    const ATTEMPTS: u64 = 10;

    pub(crate) fn validate(&self) -> Result<(), DataError> {
        let [low, high] = self.scale;
        if !(low > 0.0 && low <= high && high <= 1.0) {
            return Err(DataError::config(
                "data.augment.scale",
                format!("{:?}", self.scale),
                "[smallest, largest] with 0 < smallest <= largest <= 1",
            ));
        }
        let [low, high] = self.ratio;
        if !(low > 0.0 && low <= high && high.is_finite()) {
            return Err(DataError::config(
                "data.augment.ratio",
                format!("{:?}", self.ratio),
                "[narrowest, widest] with 0 < narrowest <= widest",
            ));
        }
        if !(0.0..=1.0).contains(&self.flip) {
            return Err(DataError::config(
                "data.augment.flip",
                self.flip,
                "a number from 0 to 1",
            ));
        }
        if let Some(jitter) = &self.colour_jitter {
            jitter.validate("data.augment.colour_jitter")?;
        }
        if let Some(augment) = &self.rand_augment {
            augment.validate("data.augment.rand_augment")?;
        }
        Ok(())
    }

    /// Whether it may move what an image shows, so that a box no longer fits: a crop, a flip, operations from a list.
    pub fn moves(&self) -> bool {
        self.scale != WHOLE || self.flip > 0.0 || self.rand_augment.is_some()
    }

    /// The shorter side of the smallest possible crop, relative to the image's shorter side.
    pub(crate) fn least_side(&self) -> f64 {
        let [smallest, _] = self.scale;
        let [narrowest, widest] = self.ratio;
        if self.scale == WHOLE {
            1.0
        } else {
            (smallest * narrowest.min(1.0 / widest)).sqrt()
        }
    }

    /// Changes an image at random and makes it a square of the model's size.
    ///
    /// # Shapes
    ///
    /// `H x W` to `S x S`, with `S` the side that `spec` names.
    ///
    /// # Errors
    ///
    /// The reason, as listed for the skipped sample.
    pub fn apply(
        &self,
        spec: &ImageSpec,
        picture: &RgbImage,
        draw: u64,
    ) -> Result<RgbImage, String> {
        self.apply_to(spec, Cow::Borrowed(picture), draw)
    }

    /// As [`apply`](Self::apply), for an image that may be modified in place.
    pub(crate) fn apply_to(
        &self,
        spec: &ImageSpec,
        mut picture: Cow<'_, RgbImage>,
        draw: u64,
    ) -> Result<RgbImage, String> {
        let operations = |when| self.rand_augment.filter(|augment| augment.when == when);
        let part = self.part(picture.dimensions(), spec.resize, draw);
        if let Some(augment) = operations(When::BeforeCrop) {
            let shown = part.unwrap_or(Part::whole(&picture));
            augment.apply(picture.to_mut(), shown, draw);
        }
        let mut square = match part {
            Some(part) => spec.square_of(&picture, part)?,
            None => spec.square(&picture)?,
        };
        if random(draw, 0, Choice::Flip) < self.flip {
            image::imageops::flip_horizontal_in_place(&mut square);
        }
        if let Some(jitter) = &self.colour_jitter {
            jitter.apply(&mut square, draw);
        }
        if let Some(augment) = operations(When::AfterCrop) {
            let whole = Part::whole(&square);
            augment.apply(&mut square, whole, draw);
        }
        Ok(square)
    }

    /// The part that is shown; `None`: the image as in evaluation.
    fn part(&self, (width, height): (u32, u32), resize: Resize, draw: u64) -> Option<Part> {
        if self.scale == WHOLE {
            return None;
        }
        let (w, h) = (f64::from(width), f64::from(height));
        let between = |[low, high]: [f64; 2], at: f64| low + (high - low) * at;
        (0..Self::ATTEMPTS).find_map(|attempt| {
            let at = |choice| random(draw, attempt, choice);
            let area = w * h * between(self.scale, at(Choice::Area));
            let ratio = between(self.ratio.map(f64::ln), at(Choice::Ratio)).exp();
            let ratio = match resize {
                Resize::Crop | Resize::ClipProcessor | Resize::BridgetowerProcessor => ratio,
                Resize::Squash => ratio * w / h,
            };
            let part_w = (area * ratio).sqrt().round() as u32;
            let part_h = (area / ratio).sqrt().round() as u32;
            let fits = (1..=width).contains(&part_w) && (1..=height).contains(&part_h);
            let offset =
                |room: u32, choice| below(bits(draw, attempt, choice), room as usize + 1) as u32;
            fits.then(|| Part {
                left: offset(width - part_w, Choice::Left),
                top: offset(height - part_h, Choice::Top),
                width: part_w,
                height: part_h,
            })
        })
    }
}

/// A number in 0..1.
fn random(draw: u64, attempt: u64, choice: Choice) -> f64 {
    unit(bits(draw, attempt, choice))
}

fn bits(draw: u64, attempt: u64, choice: Choice) -> u64 {
    hash(Stream::Augment, &[draw, attempt, choice as u64])
}

#[cfg(test)]
mod tests {
    use super::rand_augment::OperationList;
    use super::*;
    use crate::images::Filter;
    use image::Rgb;

    const CONFIG: AugmentConfig = AugmentConfig {
        scale: [0.3, 0.8],
        ratio: [0.75, 4.0 / 3.0],
        flip: 0.5,
        colour_jitter: None,
        rand_augment: None,
    };

    const JITTER: ColourJitter = ColourJitter {
        brightness: 0.4,
        contrast: 0.4,
        saturation: 0.4,
        hue: 0.1,
    };

    const METER: RandAugment = RandAugment {
        list: OperationList::Meter,
        operations: 2,
        magnitude: 9,
        when: When::BeforeCrop,
    };

    fn spec(resize: Resize) -> ImageSpec {
        ImageSpec {
            size: 8,
            resize,
            filter: Filter::Bicubic,
            mean: [0.5; 3],
            std: [0.5; 3],
        }
    }

    /// Red increases to the right, green downwards.
    fn ramp(width: u32, height: u32) -> RgbImage {
        RgbImage::from_fn(width, height, |x, y| {
            Rgb([(x * 255 / width) as u8, (y * 255 / height) as u8, 0])
        })
    }

    #[test]
    fn parts_lie_inside_and_keep_to_their_limits() {
        // Rounding to whole pixels moves a side by up to half a pixel of at least 30.
        const ROUNDING: f64 = 0.04;
        for resize in [Resize::Crop, Resize::Squash] {
            let mut seen = std::collections::HashSet::new();
            for draw in 0..2000 {
                let (width, height) = (120, 80);
                let part = CONFIG.part((width, height), resize, draw).unwrap();
                let (left, top, w, h) = (part.left, part.top, part.width, part.height);
                assert!(left + w <= width && top + h <= height);
                let area = f64::from(w * h) / f64::from(width * height);
                assert!((0.3 - ROUNDING..0.8 + ROUNDING).contains(&area), "{area}");
                let own = if resize == Resize::Squash { 1.5 } else { 1.0 };
                let ratio = f64::from(w) / f64::from(h) / own;
                assert!(
                    (0.75 - ROUNDING..1.34 + ROUNDING).contains(&ratio),
                    "{ratio}"
                );
                seen.insert((left, top, w, h));
            }
            assert!(seen.len() > 1900, "parts repeat: {}", seen.len());
        }
    }

    #[test]
    fn parts_of_what_is_enough_are_no_smaller_than_what_the_model_sees() {
        for (scale, ratio) in [
            ([0.08, 1.0], [0.75, 4.0 / 3.0]),
            ([0.5, 0.5], [0.5, 2.0]),
            ([0.1, 1.0], [0.5, 0.6]),
        ] {
            let config = AugmentConfig {
                scale,
                ratio,
                ..CONFIG
            };
            let size = 20;
            let enough = (f64::from(size) / config.least_side()).ceil() as u32;
            let mut least = u32::MAX;
            for (resize, long) in [
                (Resize::Crop, enough),
                (Resize::Crop, 3 * enough),
                (Resize::Squash, 2 * enough),
            ] {
                for draw in 0..2000 {
                    let parts = [(enough, long), (long, enough)]
                        .map(|sides| config.part(sides, resize, draw));
                    for part in parts.into_iter().flatten() {
                        least = least.min(part.width).min(part.height);
                    }
                }
            }
            assert!((size..size + 3).contains(&least), "{scale:?}: {least}");
        }
        assert_eq!(
            AugmentConfig {
                scale: WHOLE,
                ..CONFIG
            }
            .least_side(),
            1.0
        );
    }

    #[test]
    fn a_draw_decides_everything_and_half_of_the_pictures_are_mirrored() {
        let picture = ramp(60, 40);
        let spec = spec(Resize::Crop);
        let mirrored = (0..1000)
            .filter(|&draw| {
                let square = CONFIG.apply(&spec, &picture, draw).unwrap();
                assert_eq!(square, CONFIG.apply(&spec, &picture, draw).unwrap());
                square.get_pixel(0, 4)[0] > square.get_pixel(7, 4)[0]
            })
            .count();
        assert!((430..570).contains(&mirrored), "{mirrored} of 1000");
    }

    #[test]
    fn no_change_asked_for_is_the_picture_of_evaluation() {
        let same = AugmentConfig {
            scale: [1.0, 1.0],
            ratio: [1.0, 1.0],
            flip: 0.0,
            ..CONFIG
        };
        for resize in [Resize::Crop, Resize::Squash] {
            let picture = ramp(37, 19);
            assert_eq!(
                same.apply(&spec(resize), &picture, 7),
                spec(resize).square(&picture)
            );
        }
    }

    #[test]
    fn recipes_without_the_newer_tables_are_read() {
        let old = "scale = [0.3, 0.8]\nratio = [0.75, 1.25]\nflip = 0.5\n";
        let config: AugmentConfig = toml::from_str(old).unwrap();
        assert_eq!((config.colour_jitter, config.rand_augment), (None, None));
        let new = format!(
            "{old}colour_jitter = {{ brightness = 0.4, contrast = 0.4, saturation = 0.4, hue = 0.1 }}\n\
             rand_augment = {{ list = \"meter\", operations = 2, magnitude = 9 }}\n"
        );
        let config: AugmentConfig = toml::from_str(&new).unwrap();
        assert_eq!(
            (config.colour_jitter, config.rand_augment),
            (Some(JITTER), Some(METER))
        );
        let again = toml::from_str(&toml::to_string(&config).unwrap()).unwrap();
        assert_eq!(config, again);
    }

    #[test]
    fn colours_and_operations_leave_part_and_mirroring_as_they_are() {
        let picture = ramp(60, 40);
        let spec = spec(Resize::Crop);
        let jittered = AugmentConfig {
            colour_jitter: Some(JITTER),
            ..CONFIG
        };
        let mut differ = 0;
        for draw in 0..100 {
            let mut square = CONFIG.apply(&spec, &picture, draw).unwrap();
            let changed = jittered.apply(&spec, &picture, draw).unwrap();
            differ += usize::from(square != changed);
            JITTER.apply(&mut square, draw);
            assert_eq!(square, changed);
        }
        assert!(differ > 90, "{differ}");
    }

    #[test]
    fn operations_come_before_the_crop_or_after_it() {
        let picture = ramp(60, 40);
        let spec = spec(Resize::Crop);
        for draw in 0..50 {
            let with = |when| AugmentConfig {
                rand_augment: Some(RandAugment { when, ..METER }),
                ..CONFIG
            };
            let mut first = picture.clone();
            METER.apply(&mut first, Part::whole(&picture), draw);
            assert_eq!(
                with(When::BeforeCrop).apply(&spec, &picture, draw),
                CONFIG.apply(&spec, &first, draw)
            );
            let mut square = CONFIG.apply(&spec, &picture, draw).unwrap();
            let whole = Part::whole(&square);
            METER.apply(&mut square, whole, draw);
            assert_eq!(
                with(When::AfterCrop).apply(&spec, &picture, draw),
                Ok(square)
            );
        }
    }

    #[test]
    fn strips_that_no_part_fits_are_shown_whole() {
        let strip = ramp(1, 3000);
        let square = CONFIG.apply(&spec(Resize::Crop), &strip, 0).unwrap();
        assert_eq!(square.dimensions(), (8, 8));
    }

    #[test]
    fn settings_out_of_range_are_named() {
        for (config, key) in [
            (
                AugmentConfig {
                    scale: [0.0, 1.0],
                    ..CONFIG
                },
                "scale",
            ),
            (
                AugmentConfig {
                    scale: [0.5, 1.5],
                    ..CONFIG
                },
                "scale",
            ),
            (
                AugmentConfig {
                    ratio: [2.0, 1.0],
                    ..CONFIG
                },
                "ratio",
            ),
            (
                AugmentConfig {
                    ratio: [1.0, f64::INFINITY],
                    ..CONFIG
                },
                "ratio",
            ),
            (
                AugmentConfig {
                    flip: f64::NAN,
                    ..CONFIG
                },
                "flip",
            ),
            (
                AugmentConfig {
                    colour_jitter: Some(ColourJitter { hue: 0.6, ..JITTER }),
                    ..CONFIG
                },
                "colour_jitter.hue",
            ),
            (
                AugmentConfig {
                    colour_jitter: Some(ColourJitter {
                        contrast: -0.1,
                        ..JITTER
                    }),
                    ..CONFIG
                },
                "colour_jitter.contrast",
            ),
            (
                AugmentConfig {
                    rand_augment: Some(RandAugment {
                        magnitude: 31,
                        ..METER
                    }),
                    ..CONFIG
                },
                "rand_augment.magnitude",
            ),
            (
                AugmentConfig {
                    rand_augment: Some(RandAugment {
                        operations: 0,
                        ..METER
                    }),
                    ..CONFIG
                },
                "rand_augment.operations",
            ),
        ] {
            let error = config.validate().unwrap_err().to_string();
            assert!(error.contains(&format!("data.augment.{key}")), "{error}");
        }
        CONFIG.validate().unwrap();
    }
}

//! RandAugment: operations drawn from a list, all of one magnitude (Cubuk et al. 2020).

use image::RgbImage;
use serde::{Deserialize, Serialize};

use super::operations::Operation;
use super::{Choice, bits, random};
use crate::error::DataError;
use crate::images::Part;
use crate::order::draws::below;
use crate::settings::range;

/// `rand_augment` in `[data.augment]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RandAugment {
    /// The list of operations, and the meaning of the magnitude for each.
    pub list: OperationList,
    /// Number of operations per image, 1 to 16; one may be drawn twice.
    pub operations: usize,
    /// Strength of all of them, 0 to 30.
    pub magnitude: usize,
    /// Whether the stored image or the model's square is changed.
    #[serde(default)]
    pub when: When,
}

/// A list of operations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OperationList {
    /// `randaug.py` of ViLT, METER and BridgeTower: all operations of the paper except inversion and cut-out, with translations in
    /// pixels. Enhancements range from 0.1 to 1.9 and are one-sided: at magnitude 9 they weaken to 0.64. METER uses 2 operations of
    /// magnitude 9 before the resize, BridgeTower 2 of magnitude 7 after the random crop.
    Meter,
    /// torchvision's `RandAugment` with its 31 magnitudes.
    Torchvision,
}

/// When operations are applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum When {
    /// On the whole image, before the crop (METER).
    #[default]
    BeforeCrop,
    /// On the square, after crop, resize and flip (BridgeTower, torchvision's own recipes).
    AfterCrop,
}

impl RandAugment {
    const MOST_OPERATIONS: usize = 16;
    const LARGEST: usize = 30;

    pub(crate) fn validate(&self, table: &str) -> Result<(), DataError> {
        range(
            &format!("{table}.operations"),
            self.operations,
            1,
            Self::MOST_OPERATIONS,
        )?;
        range(
            &format!("{table}.magnitude"),
            self.magnitude,
            0,
            Self::LARGEST,
        )
    }

    /// Changes an image of which only a part is used afterwards.
    pub(crate) fn apply(&self, picture: &mut RgbImage, part: Part, draw: u64) {
        let whole = Part::whole(picture);
        // Torchvision's translations depend on the size, which no operation changes.
        let all = self.list.operations(self.magnitude, picture.dimensions());
        // From the last operation backwards: the last has to make the part correct, and each one what the next reads.
        let mut part = part;
        let mut chosen = Vec::with_capacity(self.operations);
        for turn in (0..self.operations as u64).rev() {
            let operation = all[below(bits(draw, turn, Choice::Operation), all.len())];
            let mirrored = random(draw, turn, Choice::Sign) < 0.5;
            let operation = if mirrored {
                self.list.mirrored(operation)
            } else {
                operation
            };
            chosen.push((operation, part));
            part = operation.reads(part, whole);
        }
        for (operation, part) in chosen.into_iter().rev() {
            operation.apply_within(picture, part);
        }
    }
}

impl OperationList {
    /// The operations at a magnitude of 0 to 30 for an image of `(width, height)`, before a sign is drawn.
    pub fn operations(self, magnitude: usize, (width, height): (u32, u32)) -> Vec<Operation> {
        let share = magnitude as f64 / 30.0;
        match self {
            Self::Meter => {
                let enhanced = share * (1.9 - 0.1) + 0.1;
                vec![
                    Operation::AutoContrast,
                    Operation::Equalize,
                    Operation::Rotate(share * 30.0),
                    // From 4 bits down to 1: a greater magnitude changes less.
                    Operation::Posterize(((share * 4.0) as u32).max(1)),
                    Operation::Solarize(share * 256.0),
                    Operation::SolarizeAdd(share * 110.0),
                    Operation::Saturation(enhanced),
                    Operation::Contrast(enhanced),
                    Operation::Brightness(enhanced),
                    Operation::Sharpness(enhanced),
                    Operation::ShearX(share * 0.3),
                    Operation::ShearY(share * 0.3),
                    Operation::TranslateX(share * 100.0),
                    Operation::TranslateY(share * 100.0),
                ]
            }
            Self::Torchvision => {
                let step = |last: f64| f64::from(linspace(0.0, last as f32, magnitude));
                let pixels = |side: u32| step(150.0 / 331.0 * f64::from(side)).trunc();
                let enhanced = 1.0 + step(0.9);
                let bits = 8 - (magnitude as f64 / 7.5).round_ties_even() as u32;
                vec![
                    Operation::Identity,
                    Operation::ShearX(step(0.3)),
                    Operation::ShearY(step(0.3)),
                    Operation::TranslateX(pixels(width)),
                    Operation::TranslateY(pixels(height)),
                    Operation::Rotate(step(30.0)),
                    Operation::Brightness(enhanced),
                    Operation::Saturation(enhanced),
                    Operation::Contrast(enhanced),
                    Operation::Sharpness(enhanced),
                    Operation::Posterize(bits),
                    Operation::Solarize(f64::from(linspace(255.0, 0.0, magnitude))),
                    Operation::AutoContrast,
                    Operation::Equalize,
                ]
            }
        }
    }

    /// The operation with the opposite sign, if the list draws a sign.
    fn mirrored(self, operation: Operation) -> Operation {
        use Operation::{
            Brightness, Contrast, Rotate, Saturation, Sharpness, ShearX, ShearY, TranslateX,
            TranslateY,
        };
        match (operation, self) {
            (ShearX(by), _) => ShearX(-by),
            (ShearY(by), _) => ShearY(-by),
            (TranslateX(by), _) => TranslateX(-by),
            (TranslateY(by), _) => TranslateY(-by),
            (Rotate(by), _) => Rotate(-by),
            (Brightness(factor), Self::Torchvision) => Brightness(2.0 - factor),
            (Contrast(factor), Self::Torchvision) => Contrast(2.0 - factor),
            (Saturation(factor), Self::Torchvision) => Saturation(2.0 - factor),
            (Sharpness(factor), Self::Torchvision) => Sharpness(2.0 - factor),
            (other, _) => other,
        }
    }
}

/// Element `at` of 31 from `first` to `last`, with the roundings of `torch.linspace`: from both ends to the middle.
fn linspace(first: f32, last: f32, at: usize) -> f32 {
    let step = (last - first) / 30.0;
    match at {
        0..15 => first + step * at as f32,
        _ => last - step * (30 - at.min(30)) as f32,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::Rgb;

    /// Larger than METER's translations.
    fn picture() -> RgbImage {
        RgbImage::from_fn(40, 50, |x, y| {
            Rgb([(x * 6) as u8, (y * 5) as u8, ((x * y) % 256) as u8])
        })
    }

    #[test]
    fn every_operation_of_a_list_is_drawn_and_a_draw_decides() {
        for list in [OperationList::Meter, OperationList::Torchvision] {
            let augment = RandAugment {
                list,
                operations: 1,
                magnitude: 9,
                when: When::BeforeCrop,
            };
            let mut seen: Vec<RgbImage> = Vec::new();
            for draw in 0..600 {
                let (mut once, mut twice) = (picture(), picture());
                let whole = Part::whole(&once);
                augment.apply(&mut once, whole, draw);
                augment.apply(&mut twice, whole, draw);
                assert!(once == twice);
                if !seen.contains(&once) {
                    seen.push(once);
                }
            }
            // 14 operations. Both signs: METER's 5 geometric ones; in torchvision also 4 enhancements.
            let expected = match list {
                OperationList::Meter => 14 + 5,
                OperationList::Torchvision => 14 + 9,
            };
            assert_eq!(seen.len(), expected, "{list:?}");
        }
    }

    #[test]
    fn two_operations_are_one_after_the_other() {
        let augment = |operations| RandAugment {
            list: OperationList::Meter,
            operations,
            magnitude: 9,
            when: When::AfterCrop,
        };
        let changed = (0..50)
            .filter(|&draw| {
                let (mut one, mut two) = (picture(), picture());
                let whole = Part::whole(&one);
                augment(1).apply(&mut one, whole, draw);
                augment(2).apply(&mut two, whole, draw);
                one != two
            })
            .count();
        // A few second operations change nothing, such as equalising twice.
        assert!(changed > 40, "{changed}");
    }
}

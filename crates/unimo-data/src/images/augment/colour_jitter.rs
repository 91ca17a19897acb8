//! Random brightness, contrast, saturation and hue, in a random order.
//!
//! Source: torchvision's `ColorJitter`.

use image::RgbImage;
use serde::{Deserialize, Serialize};

use super::operations::Operation;
use super::{Choice, bits, random};
use crate::error::DataError;
use crate::order::draws::below;

/// `colour_jitter` in `[data.augment]`; 0 turns a change off.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ColourJitter {
    /// Brightness is multiplied by a factor from 1 - this to 1 + this, at least 0.
    pub brightness: f64,
    /// The same for contrast.
    pub contrast: f64,
    /// The same for saturation.
    pub saturation: f64,
    /// The hue circle is rotated by up to this share of it in both directions, at most 0.5.
    pub hue: f64,
}

impl ColourJitter {
    pub(crate) fn validate(&self, table: &str) -> Result<(), DataError> {
        for (key, value) in [
            ("brightness", self.brightness),
            ("contrast", self.contrast),
            ("saturation", self.saturation),
        ] {
            if !(value >= 0.0 && value.is_finite()) {
                let key = format!("{table}.{key}");
                return Err(DataError::config(key, value, "a number of 0 or more"));
            }
        }
        if !(0.0..=0.5).contains(&self.hue) {
            return Err(DataError::config(
                format!("{table}.hue"),
                self.hue,
                "a number from 0 to 0.5",
            ));
        }
        Ok(())
    }

    pub(crate) fn apply(&self, picture: &mut RgbImage, draw: u64) {
        for operation in self.operations(draw).into_iter().flatten() {
            operation.apply(picture);
        }
    }

    /// The operations in order; `None` for one that is turned off.
    fn operations(&self, draw: u64) -> [Option<Operation>; 4] {
        let between = |low: f64, high: f64, part: u64| {
            low + (high - low) * random(draw, part, Choice::Jitter)
        };
        let factor =
            |by: f64, part| (by > 0.0).then(|| between((1.0 - by).max(0.0), 1.0 + by, part));
        let mut all = [
            factor(self.brightness, 0).map(Operation::Brightness),
            factor(self.contrast, 1).map(Operation::Contrast),
            factor(self.saturation, 2).map(Operation::Saturation),
            (self.hue > 0.0).then(|| Operation::Hue(between(-self.hue, self.hue, 3))),
        ];
        for last in (1..all.len()).rev() {
            all.swap(
                last,
                below(bits(draw, last as u64, Choice::Order), last + 1),
            );
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    const JITTER: ColourJitter = ColourJitter {
        brightness: 0.4,
        contrast: 1.5,
        saturation: 0.2,
        hue: 0.1,
    };

    #[test]
    fn strengths_fill_their_ranges_in_every_order() {
        let mut orders = HashSet::new();
        let mut ranges = [[f64::INFINITY, f64::NEG_INFINITY]; 4];
        for draw in 0..2000 {
            let order = JITTER.operations(draw).map(|operation| {
                let (which, value) = match operation {
                    Some(Operation::Brightness(value)) => (0, value),
                    Some(Operation::Contrast(value)) => (1, value),
                    Some(Operation::Saturation(value)) => (2, value),
                    Some(Operation::Hue(value)) => (3, value),
                    other => panic!("{other:?}"),
                };
                let [low, high] = &mut ranges[which];
                (*low, *high) = (low.min(value), high.max(value));
                which
            });
            orders.insert(order);
        }
        assert_eq!(orders.len(), 24);
        let expected = [[0.6, 1.4], [0.0, 2.5], [0.8, 1.2], [-0.1, 0.1]];
        for ([low, high], [from, to]) in ranges.into_iter().zip(expected) {
            // The outermost of 2,000 even draws are within a hundredth of the ends, except once in 10^8 times.
            let near = (to - from) / 100.0;
            assert!((from..from + near).contains(&low), "{low} for {from}");
            assert!((to - near..=to).contains(&high), "{high} for {to}");
        }
    }

    #[test]
    fn zero_leaves_out() {
        let none = ColourJitter {
            brightness: 0.0,
            contrast: 0.0,
            saturation: 0.0,
            hue: 0.0,
        };
        assert_eq!(none.operations(3), [None; 4]);
    }
}

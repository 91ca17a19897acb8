//! Where an agent stands, and how places look from there.

use std::f64::consts::TAU;

/// Where an agent stands and looks.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Pose {
    /// Metres to the right.
    pub x: f64,
    /// Metres ahead.
    pub y: f64,
    /// Radians to the left of ahead.
    pub heading: f64,
}

impl Pose {
    /// Its place.
    pub fn place(self) -> [f64; 2] {
        [self.x, self.y]
    }

    /// How far a place is to its right, and ahead of it, in metres.
    pub fn sees(self, [x, y]: [f64; 2]) -> [f64; 2] {
        let (sin, cos) = self.heading.sin_cos();
        let (x, y) = (x - self.x, y - self.y);
        [x * cos + y * sin, y * cos - x * sin]
    }

    /// The place that is so many metres to its right and ahead of it.
    pub fn place_of(self, [right, ahead]: [f64; 2]) -> [f64; 2] {
        let (sin, cos) = self.heading.sin_cos();
        [
            self.x + right * cos - ahead * sin,
            self.y + right * sin + ahead * cos,
        ]
    }

    /// The same after a turn to the left, by radians.
    #[must_use]
    pub fn turned(self, by: f64) -> Self {
        Self {
            heading: (self.heading + by).rem_euclid(TAU),
            ..self
        }
    }

    /// Whether all of its numbers are finite.
    pub fn is_finite(self) -> bool {
        self.x.is_finite() && self.y.is_finite() && self.heading.is_finite()
    }
}

#[cfg(test)]
mod tests {
    use std::f64::consts::FRAC_PI_2;

    use super::*;

    #[test]
    fn left_of_ahead_is_to_the_left() {
        let pose = Pose {
            x: 1.0,
            y: 2.0,
            heading: 0.0,
        }
        .turned(FRAC_PI_2);
        // It looks to smaller x; what was ahead is to its right.
        let [right, ahead] = pose.sees([0.0, 5.0]);
        assert!((right - 3.0).abs() < 1e-9 && (ahead - 1.0).abs() < 1e-9);
        let [x, y] = pose.place_of([right, ahead]);
        assert!(x.abs() < 1e-9 && (y - 5.0).abs() < 1e-9);
    }
}

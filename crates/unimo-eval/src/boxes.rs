//! How well boxes overlap: IoU, its form for inclusive pixels, and generalised IoU.
//!
//! Referring expressions (RefCOCO, RefCOCO+, RefCOCOg) count a chosen box as found where its IoU with the right one is at least 0.5.

use crate::{EvalError, checks};

/// The least IoU of a box that counts as found; 0.5 itself does.
pub const FOUND_AT: f64 = 0.5;

/// The largest coordinate. Areas stay finite below it.
const LARGEST: f64 = 1e100;

/// An upright box, in pixels or in shares of width and height.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BoundingBox {
    /// x1, y1, x2, y2.
    corners: [f64; 4],
    /// Kept beside the corners, because `x + w - x` is not always `w`.
    size: [f64; 2],
}

impl BoundingBox {
    /// A box by its corners x1, y1, x2, y2. It may have no area.
    ///
    /// # Errors
    /// If a number is NaN or beyond 1e100, or if x2 < x1 or y2 < y1.
    pub fn new(corners: [f64; 4]) -> Result<Self, EvalError> {
        let [x1, y1, x2, y2] = corners;
        Self::checked(corners, [x2 - x1, y2 - y1], corners)
    }

    /// A box by its corner, width and height: x, y, w, h, as in COCO's files.
    ///
    /// # Errors
    /// If a number is NaN or beyond 1e100, or if the width or height is negative.
    pub fn from_xywh(given: [f64; 4]) -> Result<Self, EvalError> {
        let [x, y, w, h] = given;
        Self::checked([x, y, x + w, y + h], [w, h], given)
    }

    /// The boxes of rows, by [`new`](Self::new) or [`from_xywh`](Self::from_xywh).
    ///
    /// # Errors
    /// As `make`; the error names the row.
    pub fn rows(
        rows: &[[f64; 4]],
        make: fn([f64; 4]) -> Result<Self, EvalError>,
    ) -> Result<Vec<Self>, EvalError> {
        let of = |(row, given): (usize, &[f64; 4])| {
            make(*given).map_err(|_| EvalError::BadBox {
                row: Some(row),
                given: *given,
            })
        };
        rows.iter().enumerate().map(of).collect()
    }

    fn checked(corners: [f64; 4], size: [f64; 2], given: [f64; 4]) -> Result<Self, EvalError> {
        // False for NaN, too.
        let bounded = corners.iter().all(|number| number.abs() <= LARGEST);
        if bounded && size.iter().all(|length| *length >= 0.0) {
            Ok(Self { corners, size })
        } else {
            Err(EvalError::BadBox { row: None, given })
        }
    }

    /// x1, y1, x2, y2.
    pub fn corners(&self) -> [f64; 4] {
        self.corners
    }

    fn area(&self) -> f64 {
        self.size[0] * self.size[1]
    }
}

/// Intersection over union, in [0, 1]. Boxes that only touch have 0, and so have two boxes without area.
pub fn iou(a: &BoundingBox, b: &BoundingBox) -> f64 {
    let common = intersection(a, b);
    over(common, a.area() + b.area() - common)
}

/// IoU as MAttNet, ALBEF and X-VLM compute it, for boxes in pixels: the last pixel of a box belongs to it, at `x + w - 1`. It equals
/// [`iou`] but for overlaps that are one pixel wide or high, or less, which count as none.
pub fn inclusive_iou(a: &BoundingBox, b: &BoundingBox) -> f64 {
    let [x1, y1, x2, y2] = common(a, b);
    let (last_x, last_y) = (x2 - 1.0, y2 - 1.0);
    let common = if x1 < last_x && y1 < last_y {
        (last_x - x1 + 1.0) * (last_y - y1 + 1.0)
    } else {
        0.0
    };
    over(common, a.area() + b.area() - common)
}

/// Generalised IoU (Rezatofighi et al. 2019), in [-1, 1]: IoU less the share of the smallest box around both that neither covers. The
/// loss of boxes is 1 less this value. Two equal boxes without area have 0.
pub fn giou(a: &BoundingBox, b: &BoundingBox) -> f64 {
    let common = intersection(a, b);
    let union = a.area() + b.area() - common;
    let ([ax1, ay1, ax2, ay2], [bx1, by1, bx2, by2]) = (a.corners, b.corners);
    let hull = (ax2.max(bx2) - ax1.min(bx1)) * (ay2.max(by2) - ay1.min(by1));
    // Rounding could make the hull smaller than the union, where one box is in the other.
    over(common, union) - over((hull - union).max(0.0), hull)
}

/// The share of rows whose chosen box has an IoU of at least [`FOUND_AT`] with the right one; `None` without rows. `overlap` is [`iou`] or
/// [`inclusive_iou`].
///
/// # Errors
/// If there is not one chosen box per right one.
pub fn share_found(
    chosen: &[BoundingBox],
    right: &[BoundingBox],
    overlap: fn(&BoundingBox, &BoundingBox) -> f64,
) -> Result<Option<f64>, EvalError> {
    checks::count(
        "chosen boxes (one per right box)",
        right.len(),
        chosen.len(),
    )?;
    let pairs = chosen.iter().zip(right);
    let found = pairs.filter(|(chosen, right)| overlap(chosen, right) >= FOUND_AT);
    let found = found.count() as f64;
    Ok((!right.is_empty()).then(|| found / right.len() as f64))
}

/// The corners of what both boxes cover; x2 < x1 or y2 < y1 where they do not meet.
fn common(a: &BoundingBox, b: &BoundingBox) -> [f64; 4] {
    let ([ax1, ay1, ax2, ay2], [bx1, by1, bx2, by2]) = (a.corners, b.corners);
    [ax1.max(bx1), ay1.max(by1), ax2.min(bx2), ay2.min(by2)]
}

fn intersection(a: &BoundingBox, b: &BoundingBox) -> f64 {
    let [x1, y1, x2, y2] = common(a, b);
    (x2 - x1).max(0.0) * (y2 - y1).max(0.0)
}

fn over(part: f64, of: f64) -> f64 {
    if of > 0.0 { part / of } else { 0.0 }
}

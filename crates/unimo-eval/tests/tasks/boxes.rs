use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use unimo_eval::BoundingBox;
use unimo_eval::boxes::{giou, inclusive_iou, iou, share_found};

use crate::{ROUNDING, close, fixture, list, rows};

fn corners(x1: f64, y1: f64, x2: f64, y2: f64) -> BoundingBox {
    BoundingBox::new([x1, y1, x2, y2]).unwrap()
}

#[test]
fn overlaps_are_those_of_the_references() {
    for case in rows(&fixture(include_str!("../fixtures/boxes.json")), "cases") {
        let of = |at: usize| {
            let given: [f64; 4] = list(&case[at]).try_into().unwrap();
            BoundingBox::from_xywh(given).unwrap()
        };
        let (a, b) = (of(0), of(1));
        close(iou(&a, &b), case[2].as_f64().unwrap(), ROUNDING);
        close(inclusive_iou(&a, &b), case[3].as_f64().unwrap(), ROUNDING);
        close(giou(&a, &b), case[4].as_f64().unwrap(), ROUNDING);
    }
}

#[test]
fn overlap_is_symmetric_and_1_with_itself_and_0_where_boxes_touch() {
    let mut rng = ChaCha8Rng::seed_from_u64(9);
    let mut draw = || {
        let numbers: [f64; 4] = std::array::from_fn(|_| rng.random_range(0.0..100.0));
        BoundingBox::from_xywh(numbers).unwrap()
    };
    for _ in 0..1000 {
        let (a, b) = (draw(), draw());
        assert_eq!((iou(&a, &b), giou(&a, &b)), (iou(&b, &a), giou(&b, &a)));
        assert!((0.0..=1.0).contains(&iou(&a, &b)));
        assert!(giou(&a, &b) <= iou(&a, &b) && giou(&a, &b) >= -1.0);
        close(iou(&a, &a), 1.0, ROUNDING);
        close(giou(&a, &a), 1.0, ROUNDING);
        let [_, y1, x2, y2] = a.corners();
        let beside = corners(x2, y1, x2 + 1.0, y2);
        assert_eq!(iou(&a, &beside), 0.0);
    }
}

#[test]
fn an_overlap_of_one_pixel_is_none_for_inclusive_pixels() {
    let a = corners(0.0, 0.0, 10.0, 10.0);
    let two = corners(8.0, 0.0, 18.0, 10.0);
    assert_eq!(inclusive_iou(&a, &two), iou(&a, &two));
    let one = corners(9.0, 0.0, 19.0, 10.0);
    assert_eq!(
        (inclusive_iou(&a, &one), iou(&a, &one)),
        (0.0, 10.0 / 190.0)
    );
}

#[test]
fn boxes_without_area_overlap_nothing() {
    let (point, other) = (corners(1.0, 1.0, 1.0, 1.0), corners(3.0, 1.0, 3.0, 1.0));
    assert_eq!((iou(&point, &point), giou(&point, &point)), (0.0, 0.0));
    assert_eq!(
        (iou(&point, &other), inclusive_iou(&point, &other)),
        (0.0, 0.0)
    );
    let around = corners(0.0, 0.0, 2.0, 2.0);
    assert_eq!((iou(&point, &around), giou(&point, &around)), (0.0, 0.0));
}

#[test]
fn half_an_overlap_is_found() {
    let right = corners(0.0, 0.0, 2.0, 1.0);
    let half = corners(0.0, 0.0, 1.0, 1.0);
    let less = corners(0.0, 0.0, 0.999, 1.0);
    let found = share_found(&[half, less, right], &[right; 3], iou).unwrap();
    assert_eq!(found, Some(2.0 / 3.0));
    assert_eq!(share_found(&[], &[], inclusive_iou).unwrap(), None);
    assert!(share_found(&[half], &[], iou).is_err());
}

#[test]
fn bad_boxes_are_named() {
    let bad = [
        [2.0, 0.0, 1.0, 1.0],
        [0.0, f64::NAN, 1.0, 1.0],
        [0.0, 0.0, f64::INFINITY, 1.0],
        [0.0, 0.0, 1e101, 1.0],
    ];
    for given in bad {
        assert!(BoundingBox::new(given).is_err(), "{given:?}");
    }
    assert!(BoundingBox::from_xywh([5.0, 5.0, -1.0, 1.0]).is_err());
    assert!(BoundingBox::from_xywh([f64::NEG_INFINITY, 0.0, f64::INFINITY, 1.0]).is_err());
    let given = [[0.0, 0.0, 1.0, 1.0], [0.0, 0.0, -1.0, 1.0]];
    let error = BoundingBox::rows(&given, BoundingBox::from_xywh).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the box [0.0, 0.0, -1.0, 1.0] of row 1 must have numbers up to 1e100, and its width and height must not be negative"
    );
    assert_eq!(
        BoundingBox::rows(&given[..1], BoundingBox::new)
            .unwrap()
            .len(),
        1
    );
}

//! How good predicted boxes are: the share that counts as found, and the mean IoU, both in the whole image. Where boxes are chosen from
//! regions, also `recall`: the share of samples of which some region counts, which is the most that can be found.
//!
//! Source: the evaluation of RefCOCO ([`unimo_eval::boxes`]), with IoU as MVP computes it. The chance is the best of three constant
//! boxes: the mean of the right ones, the median of each of their edges, and the whole image; or a random region, where that reaches more.

use unimo_eval::boxes::{BoundingBox, FOUND_AT, iou};

use crate::tasks::judge::{Judged, Number, by_kind, interval, mean};
use crate::tasks::predict::Predicted;

/// Names of the numbers.
pub(super) const NAMES: [&str; 2] = ["accuracy", "iou"];

/// Judges the predictions of samples whose boxes are known. How right one is, is its IoU.
pub(super) fn judge(all: &[Predicted]) -> Judged {
    let right: Vec<Option<BoundingBox>> = all
        .iter()
        .map(|predicted| bounding(predicted.row.label.bounds?))
        .collect();
    let overlaps = |given: &dyn Fn(usize) -> Option<BoundingBox>| -> Vec<f64> {
        let right = right.iter().enumerate();
        let overlap = |(row, right): (usize, &Option<BoundingBox>)| {
            let given = given(row);
            let pair = given.as_ref().zip(right.as_ref());
            pair.map_or(0.0, |(given, right)| iou(given, right))
        };
        right.map(overlap).collect()
    };
    let reached = overlaps(&|row| bounding(all[row].bounds?));
    let constants = constants(&right);
    let constants = constants.iter().map(|constant| overlaps(&|_| *constant));
    let constants: Vec<Vec<f64>> = constants.collect();
    let number = |name: &str, of: fn(&f64) -> f64| {
        let values: Vec<f64> = reached.iter().map(of).collect();
        let chances = constants.iter().map(|own| mean(own.iter().map(of)));
        Number {
            name: name.to_owned(),
            value: mean(values.iter().copied()),
            chance: chances.chain(by_chance(all, of)).reduce(f64::max),
            interval: interval(&values),
        }
    };
    let [accuracy, mean_iou] = NAMES;
    let found: Vec<f64> = reached.iter().map(found).collect();
    let mut numbers = vec![number(accuracy, self::found), number(mean_iou, |iou| *iou)];
    if all.iter().any(|predicted| !predicted.candidates.is_empty()) {
        let reach: Vec<f64> = all.iter().map(within_reach).collect();
        numbers.push(Number {
            name: "recall".to_owned(),
            value: mean(reach.iter().copied()),
            chance: None,
            interval: interval(&reach),
        });
    }
    Judged {
        numbers,
        kinds: by_kind(all, &found),
        right: reached,
        confusion: None,
    }
}

/// The IoU of a prediction with the right box; `None` if one of them is not known.
pub(crate) fn overlap(predicted: &Predicted) -> Option<f64> {
    let given = bounding(predicted.bounds?)?;
    Some(iou(&given, &bounding(predicted.row.label.bounds?)?))
}

/// What a random one of the candidates reaches; `None` if boxes are not chosen.
fn by_chance(all: &[Predicted], of: fn(&f64) -> f64) -> Option<f64> {
    let each = all.iter().filter(|one| !one.candidates.is_empty());
    let expected: Vec<f64> = each
        .map(|one| {
            let right = one.row.label.bounds.and_then(bounding);
            mean(one.candidates.iter().map(|candidate| {
                let candidate = bounding(*candidate);
                let pair = candidate.as_ref().zip(right.as_ref());
                pair.map_or(0.0, |(candidate, right)| of(&iou(candidate, right)))
            }))
        })
        .collect();
    (!expected.is_empty()).then(|| mean(expected.into_iter()))
}

/// 1 if one of the boxes that the prediction was chosen from counts as found, else 0.
fn within_reach(predicted: &Predicted) -> f64 {
    let right = predicted.row.label.bounds.and_then(bounding);
    let near = |candidate: &[f32; 4]| {
        let candidate = bounding(*candidate);
        let pair = candidate.as_ref().zip(right.as_ref());
        pair.is_some_and(|(candidate, right)| iou(candidate, right) >= FOUND_AT)
    };
    f64::from(predicted.candidates.iter().any(near))
}

/// 1 if a box with this IoU counts as found, else 0.
fn found(iou: &f64) -> f64 {
    f64::from(*iou >= FOUND_AT)
}

/// The mean box, the box of median edges and the whole image; the first two only if boxes are known.
fn constants(right: &[Option<BoundingBox>]) -> [Option<BoundingBox>; 3] {
    let known: Vec<[f64; 4]> = right.iter().flatten().map(BoundingBox::corners).collect();
    let edges = |of: &dyn Fn(Vec<f64>) -> f64| {
        let edge = |at: usize| of(known.iter().map(|corners| corners[at]).collect());
        let corners = std::array::from_fn(edge);
        BoundingBox::new(corners).ok()
    };
    let median = |mut edge: Vec<f64>| {
        edge.sort_unstable_by(f64::total_cmp);
        edge.get(edge.len() / 2).copied().unwrap_or(f64::NAN)
    };
    [
        edges(&|edge| mean(edge.into_iter())),
        edges(&median),
        BoundingBox::new([0.0, 0.0, 1.0, 1.0]).ok(),
    ]
}

fn bounding(corners: [f32; 4]) -> Option<BoundingBox> {
    BoundingBox::new(corners.map(f64::from)).ok()
}

#[cfg(test)]
mod tests {
    use unimo_data::{Label, TaskRow};

    use super::*;

    fn predicted(right: [f32; 4], given: [f32; 4], kind: &str) -> Predicted {
        Predicted {
            row: TaskRow {
                number: 0,
                name: String::new(),
                text: None,
                label: Label {
                    bounds: Some(right),
                    kinds: vec![("split".to_owned(), kind.to_owned())],
                    ..Label::default()
                },
            },
            best: Vec::new(),
            bounds: Some(given),
            candidates: Vec::new(),
        }
    }

    const LEFT: [f32; 4] = [0.0, 0.0, 0.5, 1.0];

    /// A box with an IoU of exactly one half is found. The whole image has one half with each of them, too, and finds all.
    #[test]
    fn boxes_are_found_from_one_half_on_and_judged_by_kind() {
        let all = [
            predicted(LEFT, LEFT, "testA"),
            predicted(LEFT, [0.0, 0.0, 0.5, 0.5], "testA"),
            predicted([0.5, 0.0, 1.0, 1.0], [0.5, 0.0, 1.0, 0.25], "testB"),
            predicted(LEFT, [0.5, 0.0, 1.0, 1.0], "testB"),
        ];
        let judged = judge(&all);
        assert_eq!(judged.right, [1.0, 0.5, 0.25, 0.0]);
        let told = judged.numbers.iter().map(|n| (&*n.name, n.value, n.chance));
        let told: Vec<_> = told.collect();
        // The median box is the left half, which is right for three of four.
        let expected = [("accuracy", 0.5, Some(1.0)), ("iou", 0.4375, Some(0.75))];
        assert_eq!(told, expected);
        let kind = |name: &str| judged.kinds[&("split".to_owned(), name.to_owned())];
        assert_eq!((kind("testA"), kind("testB")), ((1.0, 2), (0.0, 2)));
        assert!(judged.numbers.iter().all(|n| n.interval.is_some()));
        assert_eq!(overlap(&all[1]), Some(0.5));
    }

    #[test]
    fn recall_is_what_the_regions_hold() {
        let of = |candidates: &[[f32; 4]]| Predicted {
            candidates: candidates.to_vec(),
            ..predicted(LEFT, LEFT, "val")
        };
        let half = [0.0, 0.0, 0.5, 0.5];
        let judged = judge(&[of(&[half]), of(&[[0.5, 0.0, 1.0, 1.0]])]);
        let recall = &judged.numbers[2];
        assert_eq!((recall.name.as_str(), recall.value), ("recall", 0.5));
        // Two of three regions count; always the same box reaches all here.
        let three = of(&[half, LEFT, [0.5, 0.0, 1.0, 1.0]]);
        let found = |iou: &f64| super::found(iou);
        assert_eq!(by_chance(&[three], found), Some(2.0 / 3.0));
    }

    #[test]
    fn the_mean_box_is_a_chance() {
        let at = |x: f32| [x, 0.25, x + 0.5, 0.75];
        let all = [0.2, 0.25, 0.3].map(|x| predicted(at(x), [0.0, 0.0, 1.0, 1.0], "val"));
        let judged = judge(&all);
        assert_eq!(judged.numbers[0].chance, Some(1.0));
        assert_eq!(judged.numbers[0].value, 0.0);
    }
}

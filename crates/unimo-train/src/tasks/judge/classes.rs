//! How good predicted classes are.
//!
//! | number | what it is | given |
//! |---|---|---|
//! | `accuracy` | share of right classes | always |
//! | `top5` | share of samples whose right class is among the five best | of more than five classes |
//! | `mean_class` | mean over the classes of the share that is right | of classes that the data names |
//! | `f1` | F1 of the second of two classes | of two classes that the data names |
//! | `matthews` | Matthews' correlation; 0 where only one class is predicted | of two classes that the data names |

use unimo_eval::classification::{Confusion, top_k};
use unimo_objectives::Predicts;

use crate::tasks::judge::Number;
use crate::tasks::labels::Labels;
use crate::tasks::predict::Predicted;

/// The class that counts as positive for F1: of "not equivalent" and "equivalent" the second.
const POSITIVE: usize = 1;

/// Names of the numbers beside the accuracy.
pub(super) fn names(predicts: Predicts) -> Vec<&'static str> {
    let Predicts::Class { classes, names } = predicts else {
        return Vec::new();
    };
    let classes = classes.unwrap_or_default();
    let mut all = Vec::new();
    if classes > 5 {
        all.push("top5");
    }
    if names.is_empty() {
        all.push("mean_class");
        if classes == 2 {
            all.extend(["f1", "matthews"]);
        }
    }
    all
}

/// The numbers beside the accuracy, and how often each class was taken for each. Samples without a known class are left out.
pub(super) fn judge(
    predicts: Predicts,
    labels: &Labels,
    all: &[Predicted],
) -> (Vec<Number>, Confusion) {
    let known = all.iter().filter_map(|predicted| {
        let answer = predicted.row.label.answer.as_deref()?;
        let label = labels.number(answer)?;
        let (first, _) = predicted.best.first()?;
        Some((label as usize, *first as usize, rank(predicted, label)))
    });
    let (mut right, mut given, mut ranks) = (Vec::new(), Vec::new(), Vec::new());
    for (label, prediction, rank) in known {
        right.push(label);
        given.push(prediction);
        ranks.push(rank);
    }
    let confusion = Confusion::new(labels.len(), &right, &given)
        .expect("invariant: a head has as many classes as there are labels");
    let classes = labels.len() as f64;
    let mut numbers = Vec::new();
    for name in names(predicts) {
        let (value, chance) = match name {
            "top5" => (top_k(&ranks, 5), Some(always(&confusion, 5))),
            "mean_class" => (confusion.mean_accuracy(), Some(1.0 / classes)),
            "f1" => {
                let share = right.iter().filter(|label| **label == POSITIVE).count() as f64
                    / right.len().max(1) as f64;
                let f1 = confusion.f1(POSITIVE);
                (f1.ok(), Some(2.0 * share / (1.0 + share)))
            }
            _ => (confusion.matthews(), Some(0.0)),
        };
        numbers.extend(value.map(|value| Number {
            name: name.to_owned(),
            value,
            chance,
            interval: None,
        }));
    }
    (numbers, confusion)
}

/// The rank of the right class among the best that are kept, from 1; a wrong class with the same score stands before it. A class that is
/// not kept has the largest rank.
fn rank(predicted: &Predicted, label: u32) -> usize {
    let own = predicted.best.iter().find(|(class, _)| *class == label);
    own.map_or(usize::MAX, |(_, own)| {
        let before = predicted.best.iter().filter(|(_, score)| score >= own);
        before.count()
    })
}

/// What naming always the same `k` classes reaches: the share of the samples that belong to the `k` largest.
fn always(confusion: &Confusion, k: usize) -> f64 {
    let rows = confusion.counts().chunks(confusion.classes().max(1));
    let mut sizes: Vec<u64> = rows.map(|row| row.iter().sum()).collect();
    let all: u64 = sizes.iter().sum();
    sizes.sort_unstable_by(|a, b| b.cmp(a));
    sizes.iter().take(k).sum::<u64>() as f64 / all.max(1) as f64
}

#[cfg(test)]
mod tests {
    use unimo_data::{Label, TaskRow};

    use super::*;

    fn predicted(answer: &str, best: &[(u32, f32)]) -> Predicted {
        Predicted {
            row: TaskRow {
                number: 0,
                name: String::new(),
                text: None,
                label: Label {
                    answer: Some(answer.to_owned()),
                    ..Label::default()
                },
            },
            best: best.to_vec(),
            bounds: None,
            candidates: Vec::new(),
        }
    }

    fn labels(names: &[&str]) -> Labels {
        Labels::new(names.iter().map(|name| (*name).to_owned()).collect()).unwrap()
    }

    const fn class(classes: usize) -> Predicts {
        Predicts::Class {
            classes: Some(classes),
            names: &[],
        }
    }

    /// scikit-learn: `f1_score` and `matthews_corrcoef` of these, 0.8 and 1/3 * sqrt(3) = 0.57735.
    #[test]
    fn two_classes_have_f1_and_matthews() {
        let all = [
            predicted("yes", &[(1, 0.9), (0, 0.1)]),
            predicted("yes", &[(1, 0.6), (0, 0.4)]),
            predicted("no", &[(1, 0.7), (0, 0.3)]),
            predicted("no", &[(0, 0.8), (1, 0.2)]),
        ];
        let (numbers, confusion) = judge(class(2), &labels(&["no", "yes"]), &all);
        let told: Vec<(&str, f64)> = numbers.iter().map(|n| (&*n.name, n.value)).collect();
        assert_eq!(told[0], ("mean_class", 0.75));
        assert!((told[1].1 - 0.8).abs() < 1e-12 && told[1].0 == "f1");
        assert!((told[2].1 - 1.0 / 3f64.sqrt()).abs() < 1e-12 && told[2].0 == "matthews");
        assert_eq!(confusion.counts(), [1, 1, 0, 2]);
        assert_eq!(names(class(2)), ["mean_class", "f1", "matthews"]);
    }

    #[test]
    fn more_than_five_classes_have_their_five_best() {
        let six = labels(&["a", "b", "c", "d", "e", "f"]);
        let best = [(0, 0.5), (1, 0.2), (2, 0.1), (3, 0.1), (4, 0.06)];
        let all = [
            predicted("a", &best),
            predicted("e", &best),
            predicted("f", &best),
            predicted("f", &best),
        ];
        let (numbers, _) = judge(class(6), &six, &all);
        assert_eq!((&*numbers[0].name, numbers[0].value), ("top5", 0.5));
        // The five largest classes are all that occur.
        assert_eq!(numbers[0].chance, Some(1.0));
        assert_eq!(rank(&all[0], 3), 4);
        assert_eq!(names(class(6)), ["top5", "mean_class"]);
    }
}

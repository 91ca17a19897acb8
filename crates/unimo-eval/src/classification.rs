//! Classification: top-k accuracy from scores, and what a table of confusions gives.
//!
//! **Ties count against the right class**, as in retrieval: a model that gives every class the same score is right nowhere. With
//! [`ClassScores::predictions`] the table of confusions says the same as top-1.
//!
//! F1, Matthews' correlation and the mean accuracy of classes agree with `f1_score`, `matthews_corrcoef` and
//! `balanced_accuracy_score` of scikit-learn, where what is undefined counts as 0.
//!
//! Shape legend: `N` rows, `C` classes.

use serde::{Deserialize, Serialize};

use crate::{EvalError, checks};

/// The harmonic mean of two accuracies, by which known and new classes are judged together; 0 where both are 0.
///
/// ```
/// assert_eq!(unimo_eval::harmonic_mean(0.5, 1.0 / 6.0), 0.25);
/// assert_eq!(unimo_eval::harmonic_mean(0.0, 0.0), 0.0);
/// ```
pub fn harmonic_mean(base: f64, novel: f64) -> f64 {
    if base + novel == 0.0 {
        return 0.0;
    }
    2.0 * base * novel / (base + novel)
}

/// A score for every row and class; higher is more likely.
#[derive(Debug, Clone, PartialEq)]
pub struct ClassScores {
    classes: usize,
    values: Vec<f32>,
}

impl ClassScores {
    /// `values`: `[N, C]`, row-major, with `C = classes`. Infinities are allowed, they compare as usual.
    ///
    /// # Errors
    /// If `classes` is 0, if `values` are not whole rows, or if one of them is NaN.
    pub fn new(classes: usize, values: Vec<f32>) -> Result<Self, EvalError> {
        if classes == 0 || !values.len().is_multiple_of(classes) {
            return Err(EvalError::Count {
                what: "scores beyond the last whole row of classes",
                expected: 0,
                got: values.len().checked_rem(classes).unwrap_or(values.len()),
            });
        }
        match values.iter().position(|score| score.is_nan()) {
            Some(at) => Err(EvalError::NanClassScore {
                row: at / classes,
                class: at % classes,
            }),
            None => Ok(Self { classes, values }),
        }
    }

    /// `N`.
    pub fn rows(&self) -> usize {
        self.values.len() / self.classes
    }

    /// `C`.
    pub fn classes(&self) -> usize {
        self.classes
    }

    /// `[N]`: the rank of the right class of each row: 1 + the number of other classes that score at least as high.
    ///
    /// # Errors
    /// If there is not one label per row, or if a label is not below `C`.
    pub fn ranks(&self, labels: &[usize]) -> Result<Vec<usize>, EvalError> {
        self.check(labels)?;
        let rank = |(row, label): (&[f32], &usize)| {
            // The right class itself is the one that makes ranks start at 1.
            row.iter().filter(|score| **score >= row[*label]).count()
        };
        Ok(self.rows_with(labels).map(rank).collect())
    }

    /// `[N]`: the class with the highest score of each row. Of several it is the first wrong one.
    ///
    /// # Errors
    /// As [`ranks`](Self::ranks).
    pub fn predictions(&self, labels: &[usize]) -> Result<Vec<usize>, EvalError> {
        self.check(labels)?;
        let predict = |(row, label): (&[f32], &usize)| {
            let better = |best: usize, class: usize| {
                let tie = row[class] == row[best] && best == *label;
                if row[class] > row[best] || tie {
                    class
                } else {
                    best
                }
            };
            (1..row.len()).fold(0, better)
        };
        Ok(self.rows_with(labels).map(predict).collect())
    }

    fn rows_with<'a>(
        &'a self,
        labels: &'a [usize],
    ) -> impl Iterator<Item = (&'a [f32], &'a usize)> {
        self.values.chunks_exact(self.classes).zip(labels)
    }

    fn check(&self, labels: &[usize]) -> Result<(), EvalError> {
        checks::count("labels (one per row of scores)", self.rows(), labels.len())?;
        in_range("label", labels, self.classes)
    }
}

fn in_range(what: &'static str, all: &[usize], classes: usize) -> Result<(), EvalError> {
    match all.iter().position(|class| *class >= classes) {
        Some(row) => Err(EvalError::NoSuchClass {
            what,
            row,
            class: all[row],
            classes,
        }),
        None => Ok(()),
    }
}

/// The share of rows whose right class is among the `k` best; `None` without rows. `ranks` is what [`ClassScores::ranks`] gives.
pub fn top_k(ranks: &[usize], k: usize) -> Option<f64> {
    let found = ranks.iter().filter(|rank| **rank <= k).count();
    share(found as f64, ranks.len() as f64)
}

/// How often each class was taken for each.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Confusion {
    classes: usize,
    /// `[C, C]`: a row per label, a column per prediction.
    counts: Vec<u64>,
}

impl Confusion {
    /// Counts `[N]` labels and `[N]` predictions.
    ///
    /// # Errors
    /// If there is not one prediction per label, or if one of either is not below `classes`.
    pub fn new(classes: usize, labels: &[usize], predictions: &[usize]) -> Result<Self, EvalError> {
        checks::count(
            "predictions (one per label)",
            labels.len(),
            predictions.len(),
        )?;
        in_range("label", labels, classes)?;
        in_range("prediction", predictions, classes)?;
        let mut counts = vec![0; classes * classes];
        for (label, prediction) in labels.iter().zip(predictions) {
            counts[label * classes + prediction] += 1;
        }
        Ok(Self { classes, counts })
    }

    /// `C`.
    pub fn classes(&self) -> usize {
        self.classes
    }

    /// `[C, C]`, row-major: how many rows of a label (row) were predicted as a class (column).
    pub fn counts(&self) -> &[u64] {
        &self.counts
    }

    /// Share of all rows that are right; `None` without rows.
    pub fn accuracy(&self) -> Option<f64> {
        share(self.right(), self.rows())
    }

    /// `[C]`: share of each class's rows that are right; `None` for a class without rows.
    pub fn accuracies(&self) -> Vec<Option<f64>> {
        let of = |class| share(self.hits(class), self.labelled(class));
        (0..self.classes).map(of).collect()
    }

    /// The mean accuracy over the classes that have rows; `None` without rows.
    pub fn mean_accuracy(&self) -> Option<f64> {
        mean(self.accuracies().into_iter().flatten())
    }

    /// Matthews' correlation for any number of classes (Gorodkin 2004, the R_K statistic), in [-1, 1]; `None` without rows. It is 0 where
    /// only one class was labelled, or only one predicted.
    pub fn matthews(&self) -> Option<f64> {
        let (rows, classes) = (self.rows(), 0..self.classes);
        let sum = |term: &dyn Fn(usize) -> f64| classes.clone().map(term).sum::<f64>();
        let both = sum(&|class| self.labelled(class) * self.predicted(class));
        let labelled = sum(&|class| self.labelled(class).powi(2));
        let predicted = sum(&|class| self.predicted(class).powi(2));
        let spread = (rows * rows - labelled) * (rows * rows - predicted);
        let covariance = self.right() * rows - both;
        (rows > 0.0).then(|| {
            if spread == 0.0 {
                0.0
            } else {
                covariance / spread.sqrt()
            }
        })
    }

    /// F1 of one class against all others, `2 tp / (2 tp + fp + fn)`, which is the binary F1 of a positive class. It is 0 if the class was
    /// neither labelled nor predicted.
    ///
    /// # Errors
    /// If there is no such class.
    pub fn f1(&self, class: usize) -> Result<f64, EvalError> {
        if class >= self.classes {
            return Err(EvalError::Setting {
                key: "class of F1",
                got: class.to_string(),
                allowed: format!("below {}", self.classes),
            });
        }
        Ok(self.f1_or_none(class).unwrap_or(0.0))
    }

    /// The mean F1 of the classes that were labelled or predicted; `None` without rows.
    pub fn macro_f1(&self) -> Option<f64> {
        mean((0..self.classes).filter_map(|class| self.f1_or_none(class)))
    }

    /// F1 of the counts of all classes together; `None` without rows. With one class per row it equals the accuracy.
    pub fn micro_f1(&self) -> Option<f64> {
        // Each wrong row is a false positive of one class and a false negative of another: 2 tp / (2 tp + 2 wrong).
        self.accuracy()
    }

    fn f1_or_none(&self, class: usize) -> Option<f64> {
        let all = self.labelled(class) + self.predicted(class);
        share(2.0 * self.hits(class), all)
    }

    fn hits(&self, class: usize) -> f64 {
        self.counts[class * self.classes + class] as f64
    }

    fn labelled(&self, class: usize) -> f64 {
        let row = &self.counts[class * self.classes..][..self.classes];
        row.iter().sum::<u64>() as f64
    }

    fn predicted(&self, class: usize) -> f64 {
        let column = self.counts[class..].iter().step_by(self.classes);
        column.sum::<u64>() as f64
    }

    fn right(&self) -> f64 {
        (0..self.classes).map(|class| self.hits(class)).sum()
    }

    fn rows(&self) -> f64 {
        self.counts.iter().sum::<u64>() as f64
    }
}

fn share(part: f64, of: f64) -> Option<f64> {
    (of > 0.0).then(|| part / of)
}

fn mean(values: impl Iterator<Item = f64>) -> Option<f64> {
    let (count, sum) = values.fold((0.0, 0.0), |(count, sum), value| (count + 1.0, sum + value));
    share(sum, count)
}

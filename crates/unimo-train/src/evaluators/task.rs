//! A task's predictions on the held-out samples, by its official numbers.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value, json};
use unimo_data::{SkipList, TaskSet};
use unimo_eval::classification::Confusion;
use unimo_report::record::{EvalRecord, ScalarRecord};

use crate::error::TrainError;
use crate::evaluators::{Evaluator, Weights};
use crate::recipe::Recipe;
use crate::tasks::Targets;
use crate::tasks::judge::{self, Judged};
use crate::tasks::predict::{Predicted, predict};

/// The predictions of the newest evaluation, for the report.
pub const FILE_NAME: &str = "predictions.json";

/// The held-out samples of a recipe's task.
pub struct Predictions {
    set: TaskSet,
    targets: Arc<Targets>,
    skip: Arc<SkipList>,
}

impl Predictions {
    /// An evaluator over these samples; `skip` counts those that are unusable.
    pub fn new(set: TaskSet, targets: Arc<Targets>, skip: Arc<SkipList>) -> Self {
        Self { set, targets, skip }
    }
}

impl Evaluator for Predictions {
    fn name(&self) -> &'static str {
        self.targets.task.key
    }

    fn scalars(&self) -> Vec<String> {
        let names = judge::names(self.targets.task.predicts).into_iter();
        names
            .map(|name| format!("{}.{name}", self.name()))
            .collect()
    }

    fn says(&self, _recipe: &Recipe) -> Vec<String> {
        vec![format!(
            "{}: {} held-out samples are predicted at each evaluation",
            self.name(),
            self.set.len()
        )]
    }

    fn evaluate(
        &self,
        weights: &Weights<'_>,
        say: &mut dyn FnMut(String),
    ) -> Result<Vec<EvalRecord>, TrainError> {
        let task = self.targets.task;
        let mut all: Vec<Predicted> = Vec::with_capacity(self.set.len());
        let size = weights.recipe.eval.batch_size;
        predict(
            (weights.model, task, weights.device),
            &self.set,
            size,
            &mut |batch| {
                all.extend(batch);
                Ok(())
            },
        )?;
        let judged = judge::judge(&self.targets, &all)?;
        let mut scalars = BTreeMap::new();
        for number in &judged.numbers {
            let scalar = ScalarRecord {
                value: number.value,
                chance: number.chance,
            };
            scalars.insert(format!("{}.{}", task.key, number.name), scalar);
        }
        if let Some(first) = judged.numbers.first() {
            let chance = first
                .chance
                .map(|chance| format!(" (always the same answer: {:.1}%)", 100.0 * chance));
            say(format!(
                "step {}: {} {} of {} samples of {}: {:.2}%{}",
                weights.step,
                task.key,
                first.name,
                all.len(),
                self.set.split().name(),
                100.0 * first.value,
                chance.unwrap_or_default()
            ));
        }
        if let Some(run) = weights.run {
            run.write_json(FILE_NAME, &self.examples(&all, &judged))?;
        }
        let unusable = self.skip.count() as u64;
        let left_out = [
            ("unusable", unusable),
            ("without an answer", self.set.left_out() as u64),
        ];
        let left_out = left_out.into_iter().filter(|(_, count)| *count > 0);
        Ok(vec![EvalRecord {
            evaluator: task.key.to_owned(),
            step: weights.step,
            selects: false,
            scalars,
            split: self.set.label(),
            left_out: left_out
                .map(|(name, count)| (name.to_owned(), count))
                .collect(),
            images: all.len() as u64,
            texts: all.len() as u64,
            ..EvalRecord::default()
        }])
    }
}

/// `[label, prediction, how often]` of every pair of classes that occurs: with a thousand classes, most do not.
fn counts(confusion: &Confusion) -> Vec<[u64; 3]> {
    let classes = confusion.classes().max(1);
    let all = (0..).zip(confusion.counts());
    all.filter(|(_, count)| **count > 0)
        .map(|(at, count): (usize, &u64)| [(at / classes) as u64, (at % classes) as u64, *count])
        .collect()
}

impl Predictions {
    /// Some right and wrong predictions, spread over the set.
    fn examples(&self, all: &[Predicted], judged: &Judged) -> Value {
        const SHOWN: usize = 12;
        let some = |good: bool| {
            let rows: Vec<usize> = (0..all.len())
                .filter(|row| (judged.right[*row] >= 0.5) == good)
                .collect();
            let every = rows.len().div_ceil(SHOWN).max(1);
            let rows = rows.into_iter().step_by(every);
            rows.map(|row| self.example(&all[row]))
                .collect::<Vec<Value>>()
        };
        let mut told =
            json!({ "task": self.targets.task.key, "right": some(true), "wrong": some(false) });
        if let (Some(confusion), Some(labels)) = (&judged.confusion, &self.targets.labels) {
            told["confusion"] = json!({ "labels": labels.names(), "counts": counts(confusion) });
        }
        told
    }

    fn example(&self, predicted: &Predicted) -> Value {
        let name = |label: u32| {
            let labels = self.targets.labels.as_ref();
            labels.and_then(|labels| labels.name(label as usize))
        };
        let best: Vec<Value> = predicted
            .best
            .iter()
            .map(|(label, score)| json!({ "label": name(*label), "score": score }))
            .collect();
        json!({
            "sample": predicted.row.name,
            "number": predicted.row.number,
            "text": predicted.row.text,
            "answers": predicted.row.label.given(),
            "best": best,
        })
    }
}

//! The predictions of a task, batch by batch.

use std::ops::Range;
use std::sync::mpsc::sync_channel;

use burn::tensor::{Device, Tensor, activation};
use serde::{Deserialize, Serialize};
use unimo_core::world::World;
use unimo_data::{SampleError, TaskBatch, TaskRow, TaskSet};
use unimo_objectives::{AnsweredBy, Predicts};

use crate::error::TrainError;
use crate::interrupt;
use crate::model::{Model, host};
use crate::ranks;
use crate::recipe::Task;

/// Labels that are kept of each sample.
pub const KEPT: usize = 5;

/// What a task predicts of a sample.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Predicted {
    /// The sample.
    pub row: TaskRow,
    /// The best labels with their probabilities, the best first; for a number, the number itself with label 0. Where answers are compared
    /// by their words, these are shares of the answers that were read whole.
    pub best: Vec<(u32, f32)>,
    /// The box, if one is predicted: x1, y1, x2, y2 as shares of the width and height of the whole image.
    pub bounds: Option<[f32; 4]>,
    /// The boxes that it was chosen from, if the model reads regions; else empty.
    pub candidates: Vec<[f32; 4]>,
}

/// The predictions of a batch, and the samples that could not be used, with the reasons.
pub type Batch = (Vec<Predicted>, Vec<(TaskRow, SampleError)>);

/// Predicts every sample of `set` and hands the predictions on, batch by batch. While one batch is computed, the next is read. The ranks of
/// `world` share the batches, and `take` of each gets all of them.
///
/// # Errors
///
/// The data cannot be read, or a score is not finite.
pub fn predict(
    (model, task, device): (&Model, Task, &Device),
    world: &World,
    set: &TaskSet,
    size: usize,
    take: &mut dyn FnMut(Batch) -> Result<(), TrainError>,
) -> Result<(), TrainError> {
    let all = batches(set, size);
    let rounds = all.len().div_ceil(world.size());
    let own = ranks::share(world, &all);
    let mut done = 0;
    let mut hear = |own: Result<Option<Batch>, TrainError>| {
        done += 1;
        let round = ranks::gather(world, "predictions", own)?;
        round.into_iter().flatten().try_for_each(&mut *take)
    };
    read_batches(set, own, &mut |range, read| {
        let made = read.and_then(|read| of_batch((model, task, device), range, read));
        hear(made.map(Some))
    })?;
    // The last round may have fewer batches than there are ranks.
    if ranks::share(world, &all).len() < rounds {
        hear(Ok(None))?;
    }
    debug_assert_eq!(done, rounds);
    Ok(())
}

/// The samples of a set in batches.
fn batches(set: &TaskSet, size: usize) -> Vec<Range<usize>> {
    let all = set.len();
    let starts = (0..all).step_by(size);
    starts.map(|first| first..all.min(first + size)).collect()
}

/// Hands the samples of a set on, batch by batch. While one batch is used, the next is read.
///
/// # Errors
///
/// The data cannot be read, or `take` fails.
pub(crate) fn read_ahead(
    set: &TaskSet,
    size: usize,
    take: &mut dyn FnMut(Range<usize>, TaskBatch) -> Result<(), TrainError>,
) -> Result<(), TrainError> {
    let all = batches(set, size);
    read_batches(set, all, &mut |range, read| take(range, read?))
}

/// Hands these batches of a set on, or why one cannot be read. While one is used, the next is read.
fn read_batches(
    set: &TaskSet,
    ranges: Vec<Range<usize>>,
    take: &mut dyn FnMut(Range<usize>, Result<TaskBatch, TrainError>) -> Result<(), TrainError>,
) -> Result<(), TrainError> {
    std::thread::scope(|scope| {
        let (sender, receiver) = sync_channel(1);
        let reads = ranges.clone();
        scope.spawn(move || {
            for range in reads {
                // It fails if the receiver is gone.
                if sender.send(set.read(range)).is_err() {
                    return;
                }
            }
        });
        for (range, read) in ranges.into_iter().zip(receiver) {
            let read = interrupt::check().and_then(|()| Ok(read?));
            take(range, read)?;
        }
        Ok(())
    })
}

fn of_batch(
    (model, task, device): (&Model, Task, &Device),
    range: Range<usize>,
    read: TaskBatch,
) -> Result<Batch, TrainError> {
    let TaskBatch {
        batch,
        rows,
        windows,
        boxes,
        unusable,
    } = read;
    let Some(batch) = batch else {
        return Ok((Vec::new(), unusable));
    };
    let scores = model
        .objectives
        .predict(task.key, &model.backbone, &batch, device)
        .ok_or_else(|| {
            TrainError::Check(format!(
                "the data lacks what [objectives.{}] reads (texts, images or second images): {} to {}",
                task.key,
                rows.first().map_or("", |row| row.name.as_str()),
                rows.last().map_or("", |row| row.name.as_str()),
            ))
        })?;
    let [count, classes] = scores.dims();
    let values = host(probabilities(task.predicts, scores));
    if values.iter().any(|value| !value.is_finite()) {
        return Err(TrainError::Check(format!(
            "a score of [objectives.{}] is not finite in samples {} to {}; has the model diverged?",
            task.key,
            range.start,
            range.end - 1
        )));
    }
    debug_assert_eq!(count, rows.len());
    let chosen = task.predicts == Predicts::Box && batch.regions.is_some();
    let known = rows.into_iter().zip(windows).zip(boxes);
    let scored = known.zip(values.chunks(classes.max(1)));
    let predicted = scored.map(|(((row, window), boxes), scores)| {
        let bounds = match (task.predicts, scores) {
            (Predicts::Box, [x1, y1, x2, y2]) => Some(window.original([*x1, *y1, *x2, *y2])),
            _ => None,
        };
        let best = match bounds {
            Some(_) => Vec::new(),
            None => best(scores),
        };
        Predicted {
            row,
            best,
            bounds,
            candidates: if chosen { boxes } else { Vec::new() },
        }
    });
    Ok((predicted.collect(), unusable))
}

/// # Shapes
///
/// - scores, output: `[B, C]`
fn probabilities(predicts: Predicts, scores: Tensor<2>) -> Tensor<2> {
    let scores = scores.cast(burn::tensor::FloatDType::F32);
    match predicts {
        Predicts::Answers {
            by: AnsweredBy::Class,
            ..
        } => activation::sigmoid(scores),
        Predicts::Answers {
            by: AnsweredBy::Words,
            ..
        }
        | Predicts::Class { .. } => activation::softmax(scores, 1),
        Predicts::Number | Predicts::Box => scores,
    }
}

/// The best of a row, the best first; of equals the first.
fn best(scores: &[f32]) -> Vec<(u32, f32)> {
    let mut all: Vec<(u32, f32)> = (0..).zip(scores.iter().copied()).collect();
    let order = |a: &(u32, f32), b: &(u32, f32)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
    if all.len() > KEPT {
        all.select_nth_unstable_by(KEPT, order);
        all.truncate(KEPT);
    }
    all.sort_unstable_by(order);
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_come_first_and_the_first_of_equals() {
        let scores = [0.1, 0.9, 0.3, 0.9, 0.2, 0.8, 0.0];
        assert_eq!(
            best(&scores),
            [(1, 0.9), (3, 0.9), (5, 0.8), (2, 0.3), (4, 0.2)]
        );
        assert_eq!(best(&[2.5]), [(0, 2.5)]);
    }
}

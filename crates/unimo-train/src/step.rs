//! One optimiser step up to the gradients: forward and backward through its micro-batches, and one fetch of all its numbers. The
//! device is read once per step, because every read waits until the device has finished its work.

use std::collections::BTreeMap;
use std::path::PathBuf;

use burn::optim::{GradientsAccumulator, GradientsParams};
use burn::tensor::{Device, FloatDType, Tensor};
use unimo_batch::Batch;
use unimo_core::dtype::cast;
use unimo_core::kernels::SumOfSquares;
use unimo_objectives::Carry;
use unimo_objectives::{Draws, ObjectiveResult};

use crate::error::TrainError;
use crate::model::Model;
use crate::optimizer;
use crate::recipe::stages::Stage;
use crate::seeds::{Purpose, seed_of};

/// Largest number of samples that an error names.
const SAMPLES_NAMED: usize = 64;

/// The settings of a step.
pub(crate) struct Forward<'a> {
    pub model: &'a Model,
    pub stage: &'a Stage,
    pub device: &'a Device,
    /// The recipe's seed.
    pub seed: u64,
    /// The step, counted from 1.
    pub step: u64,
    /// The checkpoint to go back to if a number is not finite.
    pub last_good: &'a Option<PathBuf>,
}

/// The result of a step's micro-batches.
pub(crate) struct Accumulated {
    pub gradients: GradientsParams,
    pub grad_norm: f64,
    /// The weighted sum of the objectives' means.
    pub loss: f64,
    /// The sums of the objectives, in the order of the recipe's list.
    pub losses: Vec<ObjectiveSum>,
    /// Micro-batches that lacked an objective's input, by objective.
    pub skipped: BTreeMap<String, u64>,
    pub carries: Vec<(&'static str, Carry)>,
    /// There was a loss, and nothing that learns has a gradient of it.
    pub learns_nothing: bool,
}

/// One objective over the micro-batches of a step.
#[derive(Debug, Clone, Default)]
pub(crate) struct ObjectiveSum {
    pub name: &'static str,
    /// Sum over the micro-batches that it ran on; a contrast over all of them counts as one.
    loss: f64,
    micro_batches: usize,
    /// Its other metrics: sum and count by name.
    pub metrics: BTreeMap<&'static str, (f64, usize)>,
    /// Samples that were left out because their text does not describe their image.
    pub left_out: usize,
    /// Samples that found no negative, because all others show the same image.
    pub without_negative: usize,
}

impl ObjectiveSum {
    /// Mean over the micro-batches that it ran on. A batch that lacks an objective's input does not count.
    pub fn mean_loss(&self) -> f64 {
        self.loss / self.micro_batches.max(1) as f64
    }
}

impl Forward<'_> {
    /// Forward and backward through all micro-batches.
    pub fn accumulate(&self, batches: &[Batch]) -> Result<Accumulated, TrainError> {
        let model = self.model;
        let chosen = |key: &str| self.stage.trains(key);
        let seed = |micro: usize| {
            let seed = seed_of(self.seed, self.step, micro, Purpose::Dropout);
            self.device.seed(seed);
        };
        let mut together = model
            .objectives
            .together(&chosen, &model.backbone, batches, self.device)
            .with_teacher(model.teacher.as_ref())
            .seeded(&seed);
        let objectives = model.objectives.each();
        let trained = || objectives.iter().filter(|(key, _)| chosen(key));
        if trained().all(|(key, _)| together.runs_of(key) == 0) {
            let keys: Vec<&str> = trained().map(|(key, _)| *key).collect();
            return Err(TrainError::NothingToTrain {
                step: self.step,
                objectives: keys.join(", "),
            });
        }
        let mut accumulator = GradientsAccumulator::new();
        let mut carries = Vec::new();
        let mut has_loss = false;
        // Each with its micro-batch; `None` for all micro-batches.
        let mut results: Vec<(Option<usize>, ObjectiveResult)> = Vec::new();
        let mut skipped: BTreeMap<String, u64> = BTreeMap::new();
        if let Some(over) = together.contrast() {
            accumulator.accumulate(model, over.gradients);
            carries.extend(over.step.carries);
            let of_all = over.step.results.into_iter();
            results.extend(of_all.map(|result| (None, result)));
        }
        for micro in 0..batches.len() {
            let negatives = seed_of(self.seed, self.step, micro, Purpose::Negatives);
            let result = together.batch(micro, Draws::new(negatives));
            for name in result.skipped {
                *skipped.entry(name.to_owned()).or_default() += 1;
            }
            carries.extend(result.carries);
            let of_micro = |result| (Some(micro), result);
            results.extend(result.results.into_iter().map(of_micro));
            if let Some(loss) = result.loss {
                has_loss = true;
                let gradients = GradientsParams::from_grads(loss.backward(), model);
                accumulator.accumulate(model, gradients);
            }
        }
        let gradients = accumulator.grads();
        let squares = optimizer::squares(model, &gradients);
        let learns_nothing = has_loss && squares.is_empty();
        let (numbers, grad_norm) = fetch(&results, squares);
        self.check(batches, &results, &numbers, grad_norm)?;

        let mut losses = Vec::new();
        let mut loss = 0.0;
        for (key, objective) in &objectives {
            let mut sum = ObjectiveSum {
                name: key,
                ..ObjectiveSum::default()
            };
            let own = results.iter().zip(&numbers);
            for ((_, result), numbers) in own.filter(|((_, result), _)| result.objective == *key) {
                sum.loss += numbers.loss;
                sum.micro_batches += 1;
                for (metric, value) in result.metrics.iter().zip(&numbers.metrics) {
                    let (total, count) = sum.metrics.entry(metric.name).or_default();
                    *total += value;
                    *count += metric.count;
                }
                sum.left_out += result.left_out;
                sum.without_negative += result.without_negative;
            }
            if sum.micro_batches > 0 {
                loss += objective.settings().weight() * sum.mean_loss();
                losses.push(sum);
            }
        }
        Ok(Accumulated {
            gradients,
            grad_norm,
            loss,
            losses,
            skipped,
            carries,
            learns_nothing,
        })
    }

    /// Checks that every number is finite.
    fn check(
        &self,
        batches: &[Batch],
        results: &[(Option<usize>, ObjectiveResult)],
        numbers: &[Numbers],
        grad_norm: f64,
    ) -> Result<(), TrainError> {
        let all = results.iter().zip(numbers);
        let mut wrong = all
            .filter(|(_, numbers)| !numbers.loss.is_finite())
            .peekable();
        let first = wrong.peek().map(|((micro, _), _)| *micro);
        let (what, micro) = match first {
            Some(micro) => {
                let same = wrong.filter(|((other, _), _)| *other == micro);
                let what = same.map(|((_, result), _)| format!("the {} loss", result.objective));
                (what.collect::<Vec<_>>().join(" and "), micro)
            }
            None if grad_norm.is_finite() => return Ok(()),
            None => ("the gradient".to_owned(), None),
        };
        let at = |batch: &usize| micro.is_none_or(|micro| micro == *batch);
        let names = (0..batches.len()).filter(at);
        let names: Vec<&str> = names
            .flat_map(|batch| batches[batch].samples.iter().map(String::as_str))
            .collect();
        let mut samples = names[..names.len().min(SAMPLES_NAMED)].join(", ");
        if names.len() > SAMPLES_NAMED {
            samples += &format!(" and {} more", names.len() - SAMPLES_NAMED);
        }
        Err(TrainError::NotFinite {
            step: self.step,
            what,
            samples,
            last_good: self.last_good.clone(),
        })
    }
}

/// The numbers of an objective on a batch, on the host.
pub(crate) struct Numbers {
    pub loss: f64,
    /// The sums of its metrics.
    pub metrics: Vec<f64>,
}

/// Reads all numbers of a step from the device at once, including the norm of the gradient.
pub(crate) fn fetch(
    results: &[(Option<usize>, ObjectiveResult)],
    squares: Vec<SumOfSquares>,
) -> (Vec<Numbers>, f64) {
    let single = |x: Tensor<1>| cast(x.without_autodiff(), FloatDType::F32);
    let losses = results
        .iter()
        .map(|(_, result)| single(result.loss.clone()));
    let metrics = results.iter().flat_map(|(_, result)| &result.metrics);
    let metrics = metrics.map(|metric| single(metric.sum.clone()));
    let on_device = squares.iter().filter_map(|sum| match sum {
        SumOfSquares::Device(sum) => Some(single(sum.clone())),
        SumOfSquares::Host(_) => None,
    });
    let all: Vec<Tensor<1>> = losses.chain(metrics).chain(on_device).collect();
    let values: Vec<f64> = if all.is_empty() {
        Vec::new()
    } else {
        Tensor::cat(all, 0).into_data().iter::<f64>().collect()
    };
    let (losses, mut rest) = values.split_at(results.len());
    let mut numbers = Vec::with_capacity(results.len());
    for ((_, result), loss) in results.iter().zip(losses) {
        let (metrics, after) = rest.split_at(result.metrics.len());
        numbers.push(Numbers {
            loss: *loss,
            metrics: metrics.to_vec(),
        });
        rest = after;
    }
    let mut fetched = rest.iter().copied();
    let squares = squares.into_iter().map(|sum| match sum {
        SumOfSquares::Host(sum) => sum,
        SumOfSquares::Device(_) => fetched
            .next()
            .expect("invariant: each sum on the device was fetched"),
    });
    let norm = optimizer::norm(&squares.collect::<Vec<_>>());
    (numbers, norm)
}

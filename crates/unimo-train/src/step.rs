//! One optimiser step up to the gradients: forward and backward through its micro-batches, and one fetch of all its numbers. The
//! device is read once per step, because every read waits until the device has finished its work.
//!
//! Several ranks go through a step together: each takes its share of the micro-batches, and afterwards all know the same gradients and
//! the same numbers, in the order of the micro-batches, as one process would.

use std::collections::BTreeMap;
use std::path::PathBuf;

use burn::optim::GradientsParams;
use burn::tensor::{Device, FloatDType, Tensor};
use serde::{Deserialize, Serialize};
use unimo_batch::Batch;
use unimo_core::dtype::cast;
use unimo_core::kernels::SumOfSquares;
use unimo_core::part;
use unimo_core::world::{Wire, World};
use unimo_objectives::kept::FeatureCache;
use unimo_objectives::{Carry, CarryData};
use unimo_objectives::{Draws, ObjectiveResult};

use crate::error::TrainError;
use crate::interrupt;
use crate::loss_scale::{can_be_lowered, unscaled};
use crate::model::Model;
use crate::optimizer;
use crate::ranks::plan::Plan;
use crate::ranks::sending::Adding;
use crate::ranks::sums::{Order, Sum};
use crate::recipe::stages::Stage;
use crate::seeds::{Purpose, seed_of};

/// Largest number of samples that an error names.
const SAMPLES_NAMED: usize = 64;

/// The settings of a step.
pub(crate) struct Forward<'a> {
    pub model: &'a Model,
    pub stage: &'a Stage,
    pub device: &'a Device,
    /// The ranks that take the step.
    pub world: &'a World,
    /// The order in which their gradients are added.
    pub order: Order,
    /// How their gradients travel.
    pub wire: Wire,
    /// The order in which they are sent.
    pub plan: &'a Plan,
    /// Whether the ranks compute while gradients are exchanged.
    pub overlap: bool,
    /// Values in what is exchanged at once.
    pub bucket: usize,
    /// The recipe's seed.
    pub seed: u64,
    /// The step, counted from 1.
    pub step: u64,
    /// Where features of frozen encoders are kept, if they are.
    pub kept: Option<&'a dyn FeatureCache>,
    /// What losses are multiplied by, if they are scaled.
    pub scale: Option<f64>,
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
    pub carries: Vec<Carried>,
    /// There was a loss, and nothing that learns has a gradient of it.
    pub learns_nothing: bool,
    /// Whether a signal has asked this rank or another one to end.
    pub asked_to_end: bool,
    /// The objective that was drawn, if a step trains one.
    pub task: Option<String>,
    /// The order in which gradients are sent from here on, if it changes.
    pub plan: Option<Plan>,
}

/// An objective's numbers on a micro-batch, on the host.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Reported {
    /// The micro-batch; `None`: all of them.
    micro: Option<usize>,
    objective: String,
    loss: f64,
    /// Name, sum and count.
    metrics: Vec<(String, f64, usize)>,
    left_out: usize,
    without_negative: usize,
}

/// A carry with its objective's key.
type Carried = (&'static str, Carry);

/// What a rank tells the others of its micro-batches.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Told {
    reported: Vec<Reported>,
    skipped: BTreeMap<String, u64>,
    /// Each with its micro-batch and its objective's key.
    carries: Vec<(usize, String, CarryData)>,
    has_loss: bool,
    grad_norm: f64,
    asked_to_end: bool,
}

/// One objective over the micro-batches of a step.
#[derive(Debug, Clone, Default)]
pub(crate) struct ObjectiveSum {
    pub name: &'static str,
    /// Sum over the micro-batches that it ran on; a contrast over all of them counts as one.
    loss: f64,
    micro_batches: usize,
    /// Its other metrics: sum and count by name.
    pub metrics: BTreeMap<String, (f64, usize)>,
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
    /// Forward and backward through all micro-batches, of which `batches` are this rank's.
    pub fn accumulate(&self, batches: &[Batch]) -> Result<Accumulated, TrainError> {
        let (model, world) = (self.model, self.world);
        let chosen = |key: &str| self.stage.trains(key);
        let seed = |micro: usize| {
            let seed = seed_of(self.seed, self.step, micro, Purpose::Dropout);
            self.device.seed(seed);
        };
        // It hears what is done with the parameters from here on.
        let mut sum = Sum::new(
            model,
            self.order,
            Adding {
                world,
                wire: self.wire,
                micro: batches.len(),
                plan: self.plan,
                // Scaled losses have gradients that are not what is sent.
                early: self.scale.is_none(),
                overlap: self.overlap,
                bucket: self.bucket,
            },
        );
        let mut together = model
            .objectives
            .together(&chosen, &model.backbone, batches, self.device)
            .with_teacher(model.teacher.as_ref())
            .with_kept(self.kept)
            .seeded(&seed)
            .among(world)?;
        let runs = |key: &str| together.runs_of(key) > 0;
        let task = self.stage.task(self.seed, self.step, &runs);
        let task = task.map(str::to_owned);
        if let Some(task) = &task {
            together.keep_only(task);
        }
        let objectives = model.objectives.each();
        let trained = || objectives.iter().filter(|(key, _)| chosen(key));
        if trained().all(|(key, _)| together.runs_of(key) == 0) {
            let keys: Vec<&str> = trained().map(|(key, _)| *key).collect();
            return Err(TrainError::NothingToTrain {
                step: self.step,
                objectives: keys.join(", "),
            });
        }
        let mut carries = Vec::new();
        let mut own_carries = Vec::new();
        let mut has_loss = false;
        // Each with its micro-batch; `None` for all micro-batches.
        let mut results: Vec<(Option<usize>, ObjectiveResult)> = Vec::new();
        let mut skipped: BTreeMap<String, u64> = BTreeMap::new();
        if let Some(over) = together.contrast()? {
            sum.add_common(over.gradients);
            carries.extend(over.step.carries);
            let of_all = over.step.results.into_iter();
            // All ranks have the same.
            let told = of_all.filter(|_| world.is_first());
            results.extend(told.map(|result| (None, result)));
        }
        for own in 0..batches.len() {
            let micro = together.number(own);
            let negatives = seed_of(self.seed, self.step, micro, Purpose::Negatives);
            let forward = part!(Some(self.device.clone()), "forward", micro_batch = micro);
            let result = together.batch(own, Draws::new(negatives))?;
            drop(forward);
            for name in result.skipped {
                *skipped.entry(name.to_owned()).or_default() += 1;
            }
            let of_micro = |carried| (micro, carried);
            own_carries.extend(result.carries.into_iter().map(of_micro));
            let of_micro = |result| (Some(micro), result);
            results.extend(result.results.into_iter().map(of_micro));
            has_loss |= result.loss.is_some();
            // What learns may be no part of it.
            let tracked = result.loss.filter(|loss| loss.is_tracked());
            sum.begin()?;
            let gradients = tracked.map(|loss| {
                let _part = part!(Some(self.device.clone()), "backward", micro_batch = micro);
                let Some(factor) = self.scale else {
                    return GradientsParams::from_grads(loss.backward(), model);
                };
                let gradients = loss.mul_scalar(factor).backward();
                let gradients = GradientsParams::from_grads(gradients, model);
                unscaled(model, gradients, factor)
            });
            sum.add(gradients)?;
        }
        let (gradients, plan) = sum.whole()?;
        let squares = optimizer::squares(model, &gradients);
        let is_empty = squares.is_empty();
        let reading = part!(None, "numbers of the step");
        let (numbers, grad_norm) = fetch(&results, squares);
        drop(reading);
        let told = Told {
            reported: reported(&results, numbers),
            skipped,
            carries: Vec::new(),
            has_loss,
            grad_norm,
            asked_to_end: interrupt::asked(),
        };
        let (told, of_micro) = self.hear(told, own_carries)?;
        carries.extend(of_micro);
        self.check(batches, &told)?;

        let mut losses = Vec::new();
        let mut loss = 0.0;
        for (key, objective) in &objectives {
            let mut sum = ObjectiveSum {
                name: key,
                ..ObjectiveSum::default()
            };
            for result in told.reported.iter().filter(|r| r.objective == *key) {
                sum.loss += result.loss;
                sum.micro_batches += 1;
                for (metric, value, count) in &result.metrics {
                    let (total, counted) = sum.metrics.entry(metric.clone()).or_default();
                    *total += value;
                    *counted += count;
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
            grad_norm: told.grad_norm,
            loss,
            losses,
            skipped: told.skipped,
            carries,
            learns_nothing: told.has_loss && is_empty,
            asked_to_end: told.asked_to_end,
            task,
            plan,
        })
    }

    /// What all ranks tell, as one process would: in the order of the micro-batches, with the carries of all.
    fn hear(
        &self,
        mut own: Told,
        carries: Vec<(usize, Carried)>,
    ) -> Result<(Told, Vec<Carried>), TrainError> {
        if self.world.is_alone() {
            let carries = carries.into_iter().map(|(_, carried)| carried);
            return Ok((own, carries.collect()));
        }
        own.carries = carries
            .iter()
            .map(|(micro, (key, carry))| (*micro, (*key).to_owned(), carry.data()))
            .collect();
        let mut all = self.world.gather("the numbers of a step", own)?.into_iter();
        let mut told = all.next().expect("invariant: rank 0 tells something");
        for other in all {
            told.reported.extend(other.reported);
            for (name, count) in other.skipped {
                *told.skipped.entry(name).or_default() += count;
            }
            told.carries.extend(other.carries);
            told.has_loss |= other.has_loss;
            told.asked_to_end |= other.asked_to_end;
        }
        // Stable: what belongs to one micro-batch keeps its order. `None` comes first.
        told.reported.sort_by_key(|result| result.micro);
        told.carries.sort_by_key(|(micro, ..)| *micro);
        let objectives = self.model.objectives.each();
        let known = |(_, key, carry): (usize, String, CarryData)| {
            let (key, _) = objectives.iter().find(|(own, _)| *own == key)?;
            Some((*key, carry.on(self.device)))
        };
        let carries = std::mem::take(&mut told.carries);
        let carries = carries.into_iter().filter_map(known).collect();
        Ok((told, carries))
    }

    /// Checks that every number is finite.
    fn check(&self, batches: &[Batch], told: &Told) -> Result<(), TrainError> {
        let all = told.reported.iter();
        let mut wrong = all.filter(|result| !result.loss.is_finite()).peekable();
        let first = wrong.peek().map(|result| result.micro);
        let (what, micro) = match first {
            Some(micro) => {
                let same = wrong.filter(|other| other.micro == micro);
                let what = same.map(|result| {
                    let of = result.metrics.iter();
                    let also = of.filter(|(_, sum, _)| !sum.is_finite());
                    let also: Vec<&str> = also.map(|(name, ..)| name.as_str()).collect();
                    match also.as_slice() {
                        [] => format!("the {} loss", result.objective),
                        also => format!(
                            "the {} loss, with its {},",
                            result.objective,
                            also.join(", ")
                        ),
                    }
                });
                (what.collect::<Vec<_>>().join(" and "), micro)
            }
            // The scale is lowered, and the step is left out.
            None if told.grad_norm.is_finite() || self.scale.is_some_and(can_be_lowered) => {
                return Ok(());
            }
            None => ("the gradient".to_owned(), None),
        };
        let (rank, ranks) = (self.world.rank(), self.world.size());
        let own = batches.iter().enumerate();
        let own: Vec<(usize, Vec<String>)> = own
            .map(|(own, batch)| (own * ranks + rank, batch.samples.clone()))
            .collect();
        let all = self.world.gather("names of samples", own)?;
        let mut all: Vec<(usize, Vec<String>)> = all.into_iter().flatten().collect();
        all.sort();
        let names = all.into_iter();
        let names = names.filter(|(batch, _)| micro.is_none_or(|micro| micro == *batch));
        let names: Vec<String> = names.flat_map(|(_, names)| names).collect();
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

/// Results with their numbers.
fn reported(results: &[(Option<usize>, ObjectiveResult)], numbers: Vec<Numbers>) -> Vec<Reported> {
    let report = |((micro, result), numbers): (&(Option<usize>, ObjectiveResult), Numbers)| {
        let metrics = result.metrics.iter().zip(numbers.metrics);
        Reported {
            micro: *micro,
            objective: result.objective.to_owned(),
            loss: numbers.loss,
            metrics: metrics
                .map(|(metric, sum)| (metric.name.to_owned(), sum, metric.count))
                .collect(),
            left_out: result.left_out,
            without_negative: result.without_negative,
        }
    };
    results.iter().zip(numbers).map(report).collect()
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

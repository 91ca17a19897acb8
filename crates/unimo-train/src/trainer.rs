//! The training loop.

mod evaluating;
mod frozen;
mod opening;
mod recording;
mod saving;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use burn::tensor::Device;
use serde_json::json;
use unimo_batch::{Batch, ConfigError};
use unimo_core::average;
use unimo_core::parameters;
use unimo_core::part;
use unimo_core::world::World;
use unimo_data::{
    Batches, ConceptReader, DataConfig, Loader, LoaderSpec, PatchCodes, Place, SampleError,
    SkipList, Source, TextTokenizer,
};
use unimo_encoders::names::covers;
use unimo_objectives::ACCURACY;
use unimo_objectives::kept::FeatureCache;
use unimo_report::record::{EvalRecord, StepRecord};

use crate::checkpoint::State;
use crate::device::DeviceChoice;
use crate::error::TrainError;
use crate::evaluators::Evaluator;
use crate::fingerprint::{self, Fingerprint, Given};
use crate::first_captions;
use crate::freezing::Freezing;
use crate::interrupt;
use crate::kept::Features;
use crate::model::Model;
use crate::observers::{Observers, StepEvent};
use crate::optimizer::{self, Optimizer};
use crate::prepare::{for_objectives, for_switch};
use crate::ranks::moments::Owners;
use crate::ranks::plan::Plan;
use crate::ranks::sums::{BUCKET, Order};
use crate::ranks::{self, sharing};
use crate::recipe::Recipe;
use crate::recipe::stages::Stage;
use crate::resuming::{self, Asked};
use crate::run::{Best, RunFolder};
use crate::seeds::{Purpose, seed_of};
use crate::starting::Started;
use crate::step::{Accumulated, Forward, ObjectiveSum};
use crate::tasks::labels::Labels;
use crate::tasks::{self, Targets};
pub(crate) use crate::trainer::recording::Session;
use crate::trainer::recording::Unrecorded;

/// How to run a recipe.
#[derive(Debug, Clone)]
pub struct Options {
    /// The device; `None`: the CPU for a new run, the previous device for a resumed one.
    pub device: Option<DeviceChoice>,
    /// Whether to show no progress line.
    pub quiet: bool,
    /// Whether to stop after training, without evaluation and report.
    pub train_only: bool,
    /// Whether SIGTERM and SIGINT save and end with [`TrainError::Stopped`] instead of ending the process.
    pub signals: bool,
    /// What a new run's recipe was made from, to compare with the arguments when it is resumed.
    pub given: Option<Given>,
    /// The changes requested for a resumed run.
    pub asked: Asked,
    /// The ranks that train together.
    pub world: World,
    /// Whether each of them keeps the optimiser's moments of a share of the parameters alone.
    pub share_moments: bool,
    /// The order in which their gradients are added.
    pub order: Order,
    /// Whether they compute nothing while gradients are exchanged.
    pub no_overlap: bool,
    /// The gradients that they exchange at once, as a number of values.
    pub bucket: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            device: None,
            quiet: false,
            train_only: false,
            signals: false,
            given: None,
            asked: Asked::default(),
            world: World::ALONE,
            share_moments: false,
            order: Order::default(),
            no_overlap: false,
            bucket: BUCKET,
        }
    }
}

/// Steps of a stage that were taken to measure them.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Tried {
    /// The stage; empty if the recipe has none.
    pub stage: String,
    /// Number of the model's parameters.
    pub parameters: usize,
    /// Seconds of each step, with the wait for its batches.
    pub seconds: Vec<f64>,
    /// Seconds of each step that it waited for its batches.
    pub waits: Vec<f64>,
    /// The loss of the last step.
    pub loss: f64,
}

/// Everything that a training needs, opened and checked.
pub(crate) struct Opened {
    pub recipe: Recipe,
    pub run: RunFolder,
    /// The fingerprint that the run began with.
    pub begun: Fingerprint,
    /// What this session changes on purpose.
    pub session: Session,
    pub source: Arc<dyn Source>,
    pub tokenizer: TextTokenizer,
    pub concepts: Option<ConceptReader>,
    /// Gives patches their codes.
    pub codes: Option<Arc<PatchCodes>>,
    /// The labels of the recipe's task, if it predicts labels.
    pub labels: Option<Labels>,
    pub device: Device,
    pub choice: DeviceChoice,
    /// The model before its first step, if it has been made already.
    pub fresh: Option<(Model, Option<Started>)>,
    /// The evaluations so far, on another rank than the one that has the run's folder.
    pub before: Option<Vec<EvalRecord>>,
}

pub(crate) struct Trainer {
    /// The ranks that train together. Rank 0 has the run's folder and the observers.
    world: World,
    recipe: Recipe,
    run: RunFolder,
    /// The fingerprint that the run began with, which is stored in its checkpoints.
    begun: Fingerprint,
    /// What is to be written into the folder before the first step.
    unrecorded: Option<Unrecorded>,
    /// The source of the current stage, or of the recipe.
    source: Arc<dyn Source>,
    /// The configuration of `source`.
    opened: DataConfig,
    /// The data whose first captions were looked at.
    looked_at: Option<DataConfig>,
    /// Number of training samples in an epoch of the current stage.
    samples: usize,
    tokenizer: Arc<TextTokenizer>,
    concepts: Option<ConceptReader>,
    codes: Option<Arc<PatchCodes>>,
    labels: Option<Labels>,
    /// What the recipe's task predicts.
    targets: Option<Arc<Targets>>,
    skip: Arc<SkipList>,
    /// Empty if nothing is to be evaluated.
    evaluators: Vec<Box<dyn Evaluator>>,
    /// The unusable samples that the other ranks know of.
    told: HashSet<Place>,
    /// Whether a signal has asked any of several ranks to end.
    asked_to_end: bool,
    device: Device,
    choice: DeviceChoice,
    /// `None` only while the optimiser owns the weights.
    state: Option<State<Model>>,
    freezing: Freezing,
    /// Features of frozen encoders, if the current stage keeps them.
    features: Option<Features>,
    /// Which rank updates which parameter, if ranks share the optimiser's moments.
    owners: Option<Owners>,
    share_moments: bool,
    order: Order,
    overlap: bool,
    bucket: usize,
    /// The order in which several ranks send gradients.
    plan: Plan,
    observers: Observers,
    last_good: Option<PathBuf>,
    best: Option<Best>,
    /// Seconds of training in earlier sessions of the run.
    before: f64,
    began: Instant,
    train_only: bool,
    quiet: bool,
    signals: bool,
    /// Steps that were left out since the last line of the record, because a gradient was too large for f16.
    overflows: u64,
    /// Steps of each task since the last line of the record.
    tasks: BTreeMap<String, u64>,
    /// Messages that have been printed already, by objective.
    said: BTreeSet<(&'static str, &'static str)>,
    /// Why rank 0 of several could not write a step's record. All ranks end with it at the next checkpoint.
    failed: Option<TrainError>,
}

/// A list of unusable samples. Rank 0 alone writes it: all ranks tell each other of them.
fn skip_list(run: &RunFolder, name: &str, data: &DataConfig) -> Result<SkipList, TrainError> {
    if run.is_elsewhere() {
        return Ok(SkipList::in_memory(data.max_skipped));
    }
    Ok(SkipList::open(run.join(name), data.max_skipped)?)
}

/// The values of an optimiser step on the host.
struct StepResult {
    loss: f64,
    losses: Vec<ObjectiveSum>,
    /// Micro-batches that lacked an objective's input, by objective.
    skipped: BTreeMap<String, u64>,
    grad_norm: f64,
    rate: f64,
    wait: f64,
    /// Seconds of waiting for exchanges between ranks, if there are several.
    exchange: Option<f64>,
}

impl Trainer {
    fn state(&self) -> &State<Model> {
        self.state
            .as_ref()
            .expect("invariant: the state is back after every step")
    }

    /// Gives all ranks what rank 0 goes on with.
    fn share(&mut self) -> Result<(), TrainError> {
        let state = self.state.take();
        let state = state.expect("invariant: the state is back after every step");
        let device = self.device.clone().without_autodiff();
        let mut state = sharing::state(&self.world, state, &device)?;
        if !self.world.is_first() {
            // What a model keeps of its labels' words was computed with weights that were not rank 0's.
            for model in std::iter::once(&mut state.model).chain(&mut state.ema) {
                // Rank 0 prints the lines.
                tasks::give(model, &self.recipe, &self.tokenizer, self.labels.as_ref())?;
            }
        }
        self.state = Some(state);
        Ok(())
    }

    /// Whether a signal has asked for the end: this process, or any of several.
    fn is_asked_to_end(&self) -> bool {
        if self.world.is_alone() {
            interrupt::asked()
        } else {
            self.asked_to_end
        }
    }

    pub(crate) fn train(mut self) -> Result<PathBuf, TrainError> {
        self.share()?;
        let world = self.world.clone();
        let config = self.recipe.train.clone();
        let done = self.state().step;
        if self.signals {
            ranks::all(&world, "signals", interrupt::listen())?;
        }
        // If a run was killed between a checkpoint and its evaluation, it is evaluated now.
        let last = done == config.steps;
        let owed = ranks::first(&world, "what is still to be evaluated", || {
            let evaluated = self.run.evaluations()?;
            let mut evaluators = self.evaluators.iter();
            Ok(evaluators.any(|e| e.is_owed(&evaluated, done, last)))
        })?;
        let used = self.check_used(owed);
        ranks::all(&world, "what this session changes", used)?;
        if done > 0 && self.is_due(done) && owed {
            self.record()?;
            let owed = self.evaluate_unless_stopped(last)?;
            self.prune()?;
            self.end_if_asked(owed)?;
        }
        for stage in self.recipe.stages() {
            let done = self.state().step;
            if done >= stage.last {
                continue;
            }
            if done == stage.before {
                self.begin(&stage)?;
            }
            let frozen = self.freeze(&stage);
            ranks::all(&world, "features of frozen encoders", frozen)?;
            let loader = self.loader(&stage, done - stage.before);
            let mut loader = ranks::all(&world, "the data of a stage", loader)?;
            self.record()?;
            for step in done + 1..=stage.last {
                let began = Instant::now();
                world.at_step(step);
                let result = self.step(&stage, step, &mut loader)?;
                let logged = self.log(&stage, step, &result, began.elapsed().as_secs_f64());
                // What cannot be written shows again where the checkpoint is written, and stops all ranks there.
                if world.is_alone() {
                    logged?;
                } else if let Err(error) = logged {
                    self.failed.get_or_insert(error);
                }
                let (last, evaluate) = (step == config.steps, self.is_due(step));
                // Saved first: whatever goes wrong in an evaluation, the weights are safe.
                let saved = last
                    || evaluate
                    || step == stage.last
                    || step.is_multiple_of(config.checkpoint_every)
                    || self.is_asked_to_end();
                if saved {
                    self.save()?;
                }
                if interrupt::asked()
                    && let Some(features) = &self.features
                {
                    features.write();
                }
                let owed = evaluate && self.evaluate_unless_stopped(last)?;
                if saved {
                    // After the evaluation, which may have found a new best checkpoint.
                    self.prune()?;
                    self.end_if_asked(!last || owed)?;
                }
            }
            self.close_features();
        }
        self.record()?;
        self.finish()
    }

    /// Takes `steps` steps of each stage, which are not logged.
    pub(crate) fn try_out(mut self, steps: u64) -> Result<Vec<Tried>, TrainError> {
        let mut tried = Vec::new();
        for stage in self.recipe.stages() {
            self.begin(&stage)?;
            self.freeze(&stage)?;
            let mut loader = self.loader(&stage, 0)?;
            let mut of_stage = Tried {
                stage: stage.name.clone(),
                parameters: parameters::list(&self.state().model)
                    .iter()
                    .map(|p| p.shape.iter().product::<usize>())
                    .sum(),
                ..Tried::default()
            };
            for step in stage.before + 1..=stage.before + steps {
                let began = Instant::now();
                let result = self.step(&stage, step, &mut loader)?;
                of_stage.seconds.push(began.elapsed().as_secs_f64());
                of_stage.waits.push(result.wait);
                of_stage.loss = result.loss;
            }
            self.close_features();
            tried.push(of_stage);
        }
        Ok(tried)
    }

    /// Ends the training if a signal asked for it and work remains. The step has been saved.
    fn end_if_asked(&self, left: bool) -> Result<(), TrainError> {
        if !left || !self.is_asked_to_end() {
            return Ok(());
        }
        Err(TrainError::Stopped {
            step: self.state().step,
            steps: self.recipe.train.steps,
            run: self.run.path().to_owned(),
        })
    }

    /// Starts a stage with new moments, as a run of its own would.
    fn begin(&mut self, stage: &Stage) -> Result<(), TrainError> {
        let names = || parameters::list(&self.state().model).into_iter();
        for pattern in stage.train.iter().flatten() {
            ConfigError::unless(
                names().any(|p| covers(pattern, &p.name)),
                &format!("stage[{}].train", stage.index),
                format_args!("\"{pattern}\""),
                "must be the name of a parameter or its beginning, such as \"backbone.text\"",
            )
            .map_err(TrainError::of_recipe)?;
        }
        if let Some(state) = &mut self.state {
            state.optimizer = Optimizer::new(&self.recipe.train.optimizer, &self.recipe.model);
        }
        if !stage.name.is_empty() {
            self.observers.message(format_args!(
                "stage \"{}\": steps {} to {}",
                stage.name,
                stage.before + 1,
                stage.last
            ));
        }
        Ok(())
    }

    /// The batches of a stage, after its first `done` steps.
    fn loader(&mut self, stage: &Stage, done: u64) -> Result<Loader, TrainError> {
        let config = &self.recipe.train;
        if stage.data != self.opened {
            self.source = unimo_data::open(&stage.data)?;
            self.opened = stage.data.clone();
            // A list per stage: the limit on unusable items is a share of this data set.
            let list = format!("skipped-{}.jsonl", stage.index);
            self.skip = Arc::new(skip_list(&self.run, &list, &stage.data)?);
            self.told.clear();
        }
        let own = self.recipe.stage.get(stage.index);
        if own.is_some_and(|own| own.data.is_some()) {
            let place = format!("stage[{}].data", stage.index);
            let new = resuming::check_stage(&self.run, &mut self.begun, place, &*self.source)?;
            // Before the first step it is written with the rest.
            if new && self.unrecorded.is_none() {
                self.run.write_json(fingerprint::FILE_NAME, &self.begun)?;
            }
        }
        // The first stage has the order of a run without stages.
        let seed = match stage.index {
            0 => self.recipe.seed,
            index => seed_of(self.recipe.seed, index as u64, 0, Purpose::Order),
        };
        let mut spec = LoaderSpec::new(
            &stage.data,
            Arc::clone(&self.source),
            Arc::clone(&self.tokenizer),
            Arc::clone(&self.skip),
            Batches {
                size: config.batch_size,
                seed,
            },
        );
        spec.rank = self.world.rank();
        spec.ranks = self.world.size();
        spec.concepts = self.concepts.clone();
        spec.codes = self.codes.clone();
        for_objectives(&mut spec, &self.recipe, stage)?;
        let observers = &mut self.observers;
        for_switch(&mut spec, stage, &mut |line| observers.message(line))?;
        if !self.quiet && self.looked_at.as_ref() != Some(&stage.data) {
            let room = stage.data.room_for_words();
            first_captions::look(&spec, room, &mut |line| observers.message(line));
            self.looked_at = Some(stage.data.clone());
        }
        tasks::for_task(&mut spec, self.targets.as_ref(), &mut |line| {
            observers.message(line)
        })?;
        // A task has one sample for each text, or a few of each class.
        self.samples = spec.source.len(spec.split);
        let (samples, together) = (self.samples, config.batch_size * config.accumulation);
        if samples < together {
            self.observers.message(format_args!(
                "the data has {samples} training samples, fewer than the {together} of a step: they come several times in it, and an \
                 image is no negative of itself"
            ));
        }
        spec.first_batch = done * config.accumulation as u64;
        Ok(Loader::new(spec)?)
    }

    /// Whether the weights of a step are evaluated.
    fn is_due(&self, step: u64) -> bool {
        let config = &self.recipe.train;
        let every = config.eval_every > 0 && step.is_multiple_of(config.eval_every);
        !self.evaluators.is_empty() && (every || step == config.steps)
    }

    /// This rank's micro-batches of a step, and the seconds that it waited for them.
    fn own_batches(&self, step: u64, loader: &mut Loader) -> Result<(Vec<Batch>, f64), TrainError> {
        let count = self.recipe.train.accumulation / self.world.size();
        let mut batches = Vec::with_capacity(count);
        let mut wait = 0.0;
        for _ in 0..count {
            let Some(batch) = loader.next() else {
                return Err(TrainError::NothingToTrain {
                    step,
                    objectives: "the loader has ended".to_owned(),
                });
            };
            batches.push(batch?);
            wait += loader.last_wait_seconds();
        }
        Ok((batches, wait))
    }

    /// As [`own_batches`](Self::own_batches), if all ranks have theirs. All ranks then know of the samples that any of them left out, so
    /// that `data.max_skipped` limits those of all.
    fn batches(&mut self, step: u64, loader: &mut Loader) -> Result<(Vec<Batch>, f64), TrainError> {
        let own = self.own_batches(step, loader);
        if self.world.is_alone() {
            return own;
        }
        let entries = self.skip.entries().into_iter();
        let new = entries.filter(|entry| !self.told.contains(&entry.place));
        let new: Vec<(String, u64, String)> = new
            .map(|entry| (entry.place.file, entry.place.line, entry.reason))
            .collect();
        let left_out = self.world.gather("samples that are left out", new)?;
        let own = ranks::all(&self.world, "the batches of a step", own)?;
        let left_out: Vec<(String, u64, String)> = left_out.into_iter().flatten().collect();
        if !left_out.is_empty() {
            let listed = self.list(left_out);
            ranks::all(&self.world, "samples that are left out", listed)?;
        }
        Ok(own)
    }

    /// Lists samples that some rank has left out.
    fn list(&mut self, left_out: Vec<(String, u64, String)>) -> Result<(), TrainError> {
        for (file, line, reason) in left_out {
            let place = Place { file, line };
            self.told.insert(place.clone());
            self.skip.add(&SampleError::new(place, reason))?;
        }
        Ok(self.skip.check(self.source.items())?)
    }

    /// One optimiser step.
    fn step(
        &mut self,
        stage: &Stage,
        step: u64,
        loader: &mut Loader,
    ) -> Result<StepResult, TrainError> {
        let _part = part!(None, "step", step = step);
        let waited = self.world.waited();
        let waiting = part!(None, "wait for the loader");
        let (batches, wait) = self.batches(step, loader)?;
        drop(waiting);
        let forward = Forward {
            model: &self.state().model,
            stage,
            device: &self.device,
            world: &self.world,
            order: self.order,
            wire: self.recipe.train.wire.unwrap_or_default().of_world(),
            plan: &self.plan,
            overlap: self.overlap,
            bucket: self.bucket,
            seed: self.recipe.seed,
            step,
            scale: self.state().scale.map(|scale| scale.factor),
            kept: self
                .features
                .as_ref()
                .map(|features| features as &dyn FeatureCache),
            last_good: &self.last_good,
        };
        let Accumulated {
            gradients,
            grad_norm,
            loss,
            losses,
            skipped,
            carries,
            learns_nothing,
            asked_to_end,
            task,
            plan,
        } = forward.accumulate(&batches)?;
        drop(batches);
        self.asked_to_end |= asked_to_end;
        if let Some(plan) = plan {
            self.plan = plan;
        }
        if let Some(task) = task {
            *self.tasks.entry(task).or_default() += 1;
        }
        self.say_of_features();
        self.say_once(&losses);
        if learns_nothing && self.said.insert(("", "learns nothing")) {
            self.observers.message(format_args!(
                "step {step}: no parameter that learns has a gradient of this batch's losses; the others are frozen by train.freeze or by \
                 `train` of the stage"
            ));
        }
        let overflowed = !grad_norm.is_finite();
        self.scale(step, overflowed);
        let config = &self.recipe.train;
        let grad_scale = match config.clip_norm {
            Some(limit) if grad_norm > limit => limit / grad_norm,
            _ => 1.0,
        };
        let within = step - stage.before;
        let rate = stage.lr * optimizer::schedule(&stage.schedule, within, stage.steps());
        let decay = config.ema;
        if overflowed {
            if let Some(state) = &mut self.state {
                state.step = step;
            }
            return Ok(StepResult {
                loss,
                losses,
                skipped,
                grad_norm,
                rate,
                wait,
                exchange: self.exchanged(waited),
            });
        }
        let State {
            model,
            mut optimizer,
            ema,
            scale,
            step: _,
        } = self
            .state
            .take()
            .expect("invariant: the state is back after every step");
        let clipped = grad_scale as f32;
        let update = part!(Some(self.device.clone()), "optimiser");
        let mut model = match &self.owners {
            None => optimizer.step(model, gradients, rate, within, clipped),
            Some(owners) => {
                let own = owners.own_gradients(&model, gradients);
                let model = optimizer.step(model, own, rate, within, clipped);
                owners.updated(&self.world, model)?
            }
        };
        drop(update);
        let _after = part!(Some(self.device.clone()), "after the step");
        model.after_step(carries);
        let ema = match (ema, decay) {
            (Some(average), Some(decay)) => Some(average::update(average, &model, decay)),
            (ema, _) => ema,
        };
        self.state = Some(State {
            model,
            optimizer,
            ema,
            scale,
            step,
        });
        Ok(StepResult {
            loss,
            losses,
            skipped,
            grad_norm,
            rate,
            wait,
            exchange: self.exchanged(waited),
        })
    }

    /// Seconds of a step that this rank has waited for exchanges.
    fn exchanged(&self, before: Duration) -> Option<f64> {
        let among = !self.world.is_alone();
        among.then(|| (self.world.waited() - before).as_secs_f64())
    }

    /// Changes the loss scale after a step. A gradient that is not finite where nothing is scaled has ended the step with an error.
    fn scale(&mut self, step: u64, overflowed: bool) {
        let Some(state) = &mut self.state else {
            return;
        };
        let Some(after) = state.scale.and_then(|scale| scale.after(overflowed)) else {
            return;
        };
        state.scale = Some(after);
        if overflowed {
            self.overflows += 1;
            let factor = after.factor;
            self.observers.message(format_args!(
                "step {step}: a gradient is too large for f16. The step changes nothing, and losses are multiplied by {factor} from here on"
            ));
        }
    }

    /// Reports once per objective that samples are left out, and why.
    fn say_once(&mut self, losses: &[ObjectiveSum]) {
        for sum in losses {
            let name = sum.name;
            if sum.left_out > 0 && self.said.insert((name, "left out")) {
                self.observers.message(format_args!(
                    "{name} leaves out samples whose text does not describe their image; left_out in metrics.jsonl counts them"
                ));
            }
            if sum.without_negative > 0 && self.said.insert((name, "without negative")) {
                self.observers.message(format_args!(
                    "{name} finds no negative for samples whose batch shows one image alone; without_negative in metrics.jsonl \
                     counts them"
                ));
            }
        }
    }

    fn log(
        &mut self,
        stage: &Stage,
        step: u64,
        result: &StepResult,
        seconds: f64,
    ) -> Result<(), TrainError> {
        let config = &self.recipe.train;
        let pairs = (config.batch_size * config.accumulation) as f64;
        let speed = pairs / seconds;
        let logged = step.is_multiple_of(config.log_every) || step == 1 || step == config.steps;
        // A loss without predictions has no accuracy.
        let predictions = |s: &ObjectiveSum| match s.metrics.get(ACCURACY) {
            None | Some((_, 0)) => (f64::NAN, 0),
            Some((correct, count)) => (correct / *count as f64, *count),
        };
        let others = |s: &ObjectiveSum| -> Vec<(String, f64)> {
            let said = s.metrics.iter();
            let said = said.filter(|(name, (_, count))| *name != ACCURACY && *count > 0);
            said.map(|(name, (sum, count))| (name.clone(), sum / *count as f64))
                .collect()
        };
        let losses = result.losses.iter().map(|s| {
            let (accuracy, count) = predictions(s);
            let mut value = json!({ "loss": s.mean_loss(), "accuracy": accuracy, "count": count });
            for (name, mean) in others(s) {
                value[name] = json!(mean);
            }
            for (key, count) in [
                ("left_out", s.left_out),
                ("without_negative", s.without_negative),
            ] {
                if count > 0 {
                    value[key] = json!(count);
                }
            }
            (s.name.to_owned(), value)
        });
        let record = StepRecord {
            step,
            stage: stage.name.clone(),
            epoch: (step - stage.before) as f64 * pairs / self.samples.max(1) as f64,
            loss: result.loss,
            lr: result.rate,
            grad_norm: result.grad_norm,
            pairs_per_second: speed,
            step_seconds: seconds,
            wait_seconds: result.wait,
            exchange_seconds: result.exchange,
            losses: losses.collect(),
            skipped: result.skipped.clone(),
            loss_scale: self.state().scale.map(|scale| scale.factor),
            overflows: if logged {
                std::mem::take(&mut self.overflows)
            } else {
                0
            },
            tasks: if logged {
                std::mem::take(&mut self.tasks)
            } else {
                BTreeMap::new()
            },
            elapsed_seconds: self.before + self.began.elapsed().as_secs_f64(),
        };
        self.observers.step(&StepEvent {
            record: &record,
            logged,
        })
    }
}

/// The version of burn that this crate is pinned to.
pub const BURN_VERSION: &str = "0.22.1";

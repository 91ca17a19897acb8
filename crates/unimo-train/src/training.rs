//! The training loop.
//!
//! Everything random at a step (order, masks, negatives, dropout) is a function of the recipe's seed and the step, so a
//! run can be cut anywhere and goes on as if it had not been.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use burn::module::Module;
use burn::tensor::Device;
use serde_json::json;
use unimo_batch::ConfigError;
use unimo_core::average;
use unimo_core::parameters;
use unimo_data::{
    ConceptReader, Concepts, DataConfig, DataError, EvalSet, Loader, LoaderSpec, Readable,
    SecondView, SkipList, Source, Split, TextTokenizer, TokenizerConfig,
};
use unimo_encoders::names::covers;
use unimo_report::numbers::{duration, grouped};
use unimo_report::record::{EvalRecord, SessionRecord, StepRecord, scored_otherwise};

use crate::checkpoint::{self, State};
use crate::clock::now;
use crate::data::concepts::count;
use crate::device::DeviceChoice;
use crate::error::TrainError;
use crate::evaluation::plan::{Plan, Protocol};
use crate::evaluation::{self, Evaluated};
use crate::fingerprint::{self, Fingerprint, Given};
use crate::hub;
use crate::interrupt;
use crate::model::Model;
use crate::optimizer::{self, Optimizer};
use crate::progress::Progress;
use crate::recipe::Recipe;
use crate::report;
use crate::resuming::{self, Asked};
use crate::run::{Best, NewRun, RunFolder};
use crate::stages::Stage;
use crate::starting::{self, Started};
use crate::step::{Accumulated, Forward, ObjectiveSum};
use crate::tensorboard::EventWriter;

/// How to run a recipe.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Where to compute; none: the CPU for a new run, and for a resumed one where it computed before.
    pub device: Option<DeviceChoice>,
    /// No progress line.
    pub quiet: bool,
    /// Stop after training: no evaluation, no report.
    pub train_only: bool,
    /// SIGTERM and SIGINT save and end with [`TrainError::Stopped`], instead of ending the process.
    pub signals: bool,
    /// What a new run's recipe was made of, to compare with what is given when it is resumed.
    pub given: Option<Given>,
    /// What is asked of a run that is resumed.
    pub asked: Asked,
}

/// Most captions that a tokenizer is trained on; more do not change a vocabulary of some thousand tokens.
const TOKENIZER_CAPTIONS: usize = 100_000;

/// Captions that are looked at to tell how many are too long.
const CAPTIONS_LOOKED_AT: usize = 1000;
/// Share of cut captions from which on it is said.
const CUT_WORTH_SAYING: f64 = 0.05;

/// An evaluation of more pairs shows how far it is; a small model scores so many in a minute on a CPU.
const LONG_EVALUATION: usize = 50_000;

/// What differs between the random numbers of a step.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Purpose {
    Dropout,
    Negatives,
    Order,
}

/// Starts a run in a new folder.
pub fn start(recipe: &Recipe, folder: &Path, options: &Options) -> Result<PathBuf, TrainError> {
    start_in(recipe, &NewRun::At(folder.to_owned()), options)
}

/// Starts a run in a new folder, which may be chosen among several.
pub fn start_in(recipe: &Recipe, place: &NewRun, options: &Options) -> Result<PathBuf, TrainError> {
    if let NewRun::At(folder) = place {
        RunFolder::check_free(folder)?;
    }
    let (device, choice) = options.device.unwrap_or_default().open()?;
    check_dtype(recipe, &device, choice)?;
    let source = unimo_data::open(&recipe.data)?;
    let tokenizer = tokenizer(recipe, &*source)?;
    check_tokenizer(recipe, &tokenizer)?;
    // Weights that cannot be had should not leave a folder behind.
    let fresh = starting::model(recipe, &training_device(recipe, &device))?;
    let concepts = count_concepts(recipe, &*source, options.quiet)?;
    let reader = concept_reader(recipe, concepts.as_ref(), &tokenizer)?;
    let run = RunFolder::begin(place, recipe)?;
    run.write("tokenizer.json", tokenizer.to_json()?.as_bytes())?;
    if let Some(concepts) = &concepts {
        concepts.save(&run.join(CONCEPTS))?;
    }
    let begun = Fingerprint {
        given: options.given.clone(),
        ..resuming::found(&run, recipe, &*source)?
    };
    run.write_json(fingerprint::FILE_NAME, &begun)?;
    Trainer::new(
        recipe.clone(),
        run,
        begun,
        Vec::new(),
        source,
        tokenizer,
        reader,
        device,
        choice,
        options,
        Some(fresh),
    )?
    .train()
}

/// Goes on with a run from its newest checkpoint.
pub fn resume(folder: &Path, options: &Options) -> Result<PathBuf, TrainError> {
    let (run, own) = RunFolder::open_to_train(folder)?;
    let resumed = resuming::recipe(&run, own, &options.asked)?;
    for line in resumed.notes.iter().chain(&resumed.changed) {
        eprintln!("{line}");
    }
    let recipe = resumed.recipe.clone();
    let before: Option<DeviceChoice> = run.sessions()?.pop().and_then(|s| s.device.parse().ok());
    let (device, choice) = match (options.device, before) {
        (None, Some(before)) => before.open().map_err(|error| TrainError::Device {
            given: before.to_string(),
            reason: format!(
                "the run computed there before, which fails now ({error}); name it to build it in (--device {before}), \
                 or another one, such as --device flex"
            ),
        })?,
        (given, _) => given.unwrap_or_default().open()?,
    };
    check_dtype(&recipe, &device, choice)?;
    let source = unimo_data::open(&recipe.data)?;
    let saved = run.join("tokenizer.json");
    // A run killed before it had saved its tokenizer makes the same one again.
    let tokenizer = if saved.is_file() {
        TextTokenizer::load(&saved, false)?
    } else {
        let tokenizer = tokenizer(&recipe, &*source)?;
        run.write("tokenizer.json", tokenizer.to_json()?.as_bytes())?;
        tokenizer
    };
    check_tokenizer(&recipe, &tokenizer)?;
    let saved = run.join(CONCEPTS);
    let concepts = match saved.is_file() {
        true => Some(Concepts::load(&saved)?),
        false => {
            let concepts = count_concepts(&recipe, &*source, options.quiet)?;
            if let Some(concepts) = &concepts {
                concepts.save(&saved)?;
            }
            concepts
        }
    };
    let reader = concept_reader(&recipe, concepts.as_ref(), &tokenizer)?;
    let begun = resumed.check(&run, resuming::found(&run, &recipe, &*source)?)?;
    Trainer::new(
        recipe,
        run,
        begun,
        resumed.changed,
        source,
        tokenizer,
        reader,
        device,
        choice,
        options,
        None,
    )?
    .train()
}

/// The tokenizer that a recipe names, trained on the captions if it says so.
pub fn tokenizer(recipe: &Recipe, source: &dyn Source) -> Result<TextTokenizer, TrainError> {
    Ok(match &recipe.data.tokenizer {
        TokenizerConfig::Train { vocab_size } => {
            let mut texts = Readable::new(source.texts(Split::Train).take(TOKENIZER_CAPTIONS));
            let trained = TextTokenizer::train(&mut texts, *vocab_size);
            texts.whole(trained)??
        }
        TokenizerConfig::File { path, lowercase } => {
            let given = path.to_string_lossy();
            // What is no id is left to the loader, whose message says what it looked for.
            let path = match hub::is_id(&given) {
                true => hub::resolve(&given)?,
                false => path.clone(),
            };
            TextTokenizer::load(&path, *lowercase)?
        }
    })
}

/// The phrases and tags of a run, beside its tokenizer.
pub const CONCEPTS: &str = "concepts.json";

/// The vocabulary of concepts that a recipe names, counted on the captions if it says so; none where it has none.
pub fn count_concepts(
    recipe: &Recipe,
    source: &dyn Source,
    quiet: bool,
) -> Result<Option<Concepts>, TrainError> {
    recipe
        .data
        .concepts
        .as_ref()
        .map(|config| count(config, source, quiet))
        .transpose()
}

/// Puts concepts into batches. Their ids must fit the word embedding.
pub fn concept_reader(
    recipe: &Recipe,
    concepts: Option<&Concepts>,
    tokenizer: &TextTokenizer,
) -> Result<Option<ConceptReader>, TrainError> {
    let (Some(config), Some(concepts)) = (&recipe.data.concepts, concepts) else {
        return Ok(None);
    };
    let reader = ConceptReader::new(config, concepts, tokenizer)?;
    check_concepts(recipe, &reader, tokenizer)?;
    Ok(Some(reader))
}

/// Whether a model reads concepts as a vocabulary and a tokenizer give them.
pub fn check_concepts(
    recipe: &Recipe,
    reader: &ConceptReader,
    tokenizer: &TextTokenizer,
) -> Result<(), TrainError> {
    let vocab_size = recipe.model.text.vocab_size;
    ConfigError::unless(
        recipe.objectives.mcr.is_none() || tokenizer.specials().mask.is_some(),
        "objectives.mcr",
        "{}",
        "needs a tokenizer with a mask token",
    )
    .and_then(|()| {
    ConfigError::unless(
        reader.rows() <= vocab_size,
        "model.text.vocab_size",
        vocab_size,
        format_args!(
            "must be at least {}: the tokenizer's {} and a row for each phrase that is no token; data.concepts.min_count and \
             .limit say how many phrases there are",
            reader.rows(),
            tokenizer.vocab_size()
        ),
    )
    })
    .map_err(|error| TrainError::Value {
        file: "recipe".to_owned(),
        error,
    })
}

/// The vocabulary must fit the word embedding, and both must agree on padding.
pub fn check_tokenizer(recipe: &Recipe, tokenizer: &TextTokenizer) -> Result<(), TrainError> {
    let text = &recipe.model.text;
    let pad = tokenizer.specials().pad;
    ConfigError::unless(
        tokenizer.vocab_size() <= text.vocab_size,
        "model.text.vocab_size",
        text.vocab_size,
        format_args!(
            "must be at least the tokenizer's {}",
            tokenizer.vocab_size()
        ),
    )
    .and_then(|()| {
        ConfigError::unless(
            pad as usize == text.pad_id,
            "model.text.pad_id",
            text.pad_id,
            format_args!("must be the tokenizer's {pad}"),
        )
    })
    .map_err(|error| TrainError::Value {
        file: "recipe".to_owned(),
        error,
    })
}

/// The device must compute in the dtype that the recipe asks for.
fn check_dtype(recipe: &Recipe, device: &Device, choice: DeviceChoice) -> Result<(), TrainError> {
    let dtype = crate::model::float_dtype(recipe.train.dtype);
    if device.supports_dtype(dtype) {
        return Ok(());
    }
    Err(TrainError::Device {
        given: choice.to_string(),
        reason: format!(
            "does not compute in train.dtype = {dtype:?}; train with --set train.dtype=f32"
        ),
    })
}

/// The device with gradients, and with recomputation if the recipe asks for it.
pub fn training_device(recipe: &Recipe, device: &Device) -> Device {
    let device = device.clone().autodiff();
    if recipe.train.gradient_checkpointing {
        device.gradient_checkpointing()
    } else {
        device
    }
}

/// A seed of its own for every step, micro-batch and purpose.
pub(crate) fn seed_of(seed: u64, step: u64, micro: usize, purpose: Purpose) -> u64 {
    // SplitMix64's finaliser over the parts in turn.
    [step, micro as u64, purpose as u64]
        .into_iter()
        .fold(seed, |state, part| {
            let mut z = (state ^ part).wrapping_add(0x9e37_79b9_7f4a_7c15);
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^ (z >> 31)
        })
}

struct Trainer {
    recipe: Recipe,
    run: RunFolder,
    /// What the run was begun with, which its checkpoints say.
    begun: Fingerprint,
    /// Of the stage that runs, or of the recipe.
    source: Arc<dyn Source>,
    /// What `source` was opened from.
    opened: DataConfig,
    tokenizer: Arc<TextTokenizer>,
    concepts: Option<ConceptReader>,
    skip: Arc<SkipList>,
    /// None where the data has no held-out split or nothing is to be evaluated.
    held_out: Option<EvalSet>,
    /// What evaluations before the last step score, and on which of the held-out pictures; none: everything on all.
    during: Option<(Plan, EvalSet)>,
    device: Device,
    /// Absent only while the optimiser owns the weights.
    state: Option<State<Model>>,
    events: EventWriter,
    progress: Progress,
    last_good: Option<PathBuf>,
    best: Option<Best>,
    /// Seconds trained in earlier sessions of the run.
    before: f64,
    began: Instant,
    train_only: bool,
    quiet: bool,
    signals: bool,
    /// What has been said once, by objective.
    said: BTreeSet<(&'static str, &'static str)>,
}

/// The host's view of an optimiser step.
struct StepResult {
    loss: f64,
    losses: Vec<ObjectiveSum>,
    /// Micro-batches that lacked what an objective needs, by objective.
    skipped: BTreeMap<String, u64>,
    grad_norm: f64,
    rate: f64,
    wait: f64,
}

impl Trainer {
    fn new(
        recipe: Recipe,
        run: RunFolder,
        begun: Fingerprint,
        changed: Vec<String>,
        source: Arc<dyn Source>,
        tokenizer: TextTokenizer,
        concepts: Option<ConceptReader>,
        device: Device,
        choice: DeviceChoice,
        options: &Options,
        fresh: Option<(Model, Option<Started>)>,
    ) -> Result<Self, TrainError> {
        let device = training_device(&recipe, &device);
        let steps = checkpoint::steps(&run.checkpoints())?;
        // A run that has a checkpoint goes on from it, wherever it started from.
        let model = match steps.last() {
            Some(_) => Model::blank(&recipe, &device),
            None => {
                let (model, started) = match fresh {
                    Some(fresh) => fresh,
                    None => starting::model(&recipe, &device)?,
                };
                if let Some(started) = started {
                    let account = started.to_string();
                    run.write("init.txt", account.as_bytes())?;
                    if !options.quiet {
                        eprint!("{account}");
                    }
                }
                model
            }
        };
        let count: usize = parameters::list(&model)
            .iter()
            .map(|p| p.shape.iter().product::<usize>())
            .sum();
        let ema = recipe.train.ema.map(|_| average::frozen_copy(&model));
        let mut state = State {
            optimizer: Optimizer::new(&recipe.train.optimizer),
            model,
            ema,
            step: 0,
        };
        let folder = run.checkpoints();
        let mut last_good = None;
        if let Some(step) = steps.last() {
            let path = checkpoint::path(&folder, *step);
            state = checkpoint::load(&path, state, &device.clone().without_autodiff())?;
            last_good = Some(path);
        }
        let step = state.step;
        let before = run.rewind(step)?;
        let sessions = run.sessions()?;
        let events = if sessions.is_empty() {
            EventWriter::create(run.path())
        } else {
            EventWriter::resume(run.path(), step + 1)
        }
        .map_err(TrainError::file("write", run.path()))?;
        if step == 0 {
            run.write_json(
                "run.json",
                &json!({
                    "name": run.path().file_name().map(|n| n.to_string_lossy().into_owned()),
                    "recipe": recipe.description,
                    "seed": recipe.seed,
                    "device": choice.to_string(),
                    "started": now(),
                    "versions": {
                        "unimo": env!("CARGO_PKG_VERSION"),
                        "burn": BURN_VERSION,
                        "os": std::env::consts::OS,
                        "architecture": std::env::consts::ARCH,
                    },
                    "parameters": count,
                    "data": source.describe(),
                }),
            )?;
        }
        run.append(
            "sessions.jsonl",
            &SessionRecord {
                after_step: step,
                at: now(),
                device: choice.to_string(),
                version: env!("CARGO_PKG_VERSION").to_owned(),
                changed,
            },
        )?;
        let skip = SkipList::open(run.join("skipped.jsonl"), recipe.data.max_skipped)?;
        // Opened before any work, because a held-out split that cannot be used should not show after hours.
        let held_out = if options.train_only {
            None
        } else {
            let opened =
                evaluation::open_set(&recipe, &source, &[Split::Val], &skip, concepts.clone());
            match opened {
                // Questions and statements can be learned from without being retrieved.
                Err(TrainError::Data(error @ DataError::NothingDescribes { .. })) => {
                    if !options.quiet {
                        eprintln!("nothing will be evaluated: {error}");
                    }
                    None
                }
                opened => opened?,
            }
        };
        // A run that an older version began chooses its best weights by all methods.
        let all_along = run.evaluations()?.iter().any(|e| e.score.is_none());
        let during = held_out.as_ref().and_then(|set| {
            let (pictures, texts) = (set.items().len(), set.captions().len());
            let plan = Plan::new(&recipe, pictures, texts).filter(|_| !all_along)?;
            Some((plan, set.part(plan.pictures)))
        });
        let progress = if options.quiet {
            Progress::silent()
        } else {
            Progress::new(recipe.train.steps, step, "training")
        };
        let mut trainer = Self {
            best: run.best()?,
            tokenizer: Arc::new(tokenizer),
            concepts,
            skip: Arc::new(skip),
            held_out,
            during,
            train_only: options.train_only,
            quiet: options.quiet,
            signals: options.signals,
            opened: recipe.data.clone(),
            recipe,
            run,
            begun,
            source,
            device,
            state: Some(state),
            events,
            progress,
            last_good,
            before,
            began: Instant::now(),
            said: BTreeSet::new(),
        };
        let line = format!(
            "{}: {} parameters on {choice}, {}; run folder {}",
            if step == 0 {
                "starting".to_owned()
            } else {
                format!("resuming after step {step}")
            },
            grouped(count as f64),
            trainer.source.describe(),
            trainer.run.path().display()
        );
        trainer.progress.message(line);
        for note in trainer.source.notes() {
            trainer.progress.message(note);
        }
        // No objective reads it: what NLVR2's pairs say of two pictures is learned from the left one alone.
        if trainer.source.has_second_images(Split::Train) {
            trainer.progress.message(
                "samples have two pictures: the objectives of this recipe read the first one (the left) alone",
            );
        }
        if !trainer.quiet
            && let Some(line) = trainer.cut_captions()
        {
            trainer.progress.message(line);
        }
        if trainer.held_out.is_none() && !trainer.train_only {
            trainer
                .progress
                .message("the data has no held-out split: nothing will be evaluated");
        }
        if let (Some((plan, _)), Some(set)) = (&trainer.during, &trainer.held_out) {
            let (pictures, texts) = (set.items().len(), set.captions().len());
            let line = plan.says(&trainer.recipe, pictures, texts);
            trainer.progress.message(line);
        }
        Ok(trainer)
    }

    /// How many captions the text encoder has no room for, if they are many.
    fn cut_captions(&self) -> Option<String> {
        let room = self.recipe.data.room_for_words();
        let (mut looked, mut cut) = (0usize, 0usize);
        // A text that cannot be read now is not worth stopping for here: training will say so.
        let texts = self.source.texts(Split::Train).flatten();
        for text in texts.take(CAPTIONS_LOOKED_AT) {
            looked += 1;
            cut += usize::from(self.tokenizer.encode(&text, usize::MAX).ids.len() > room);
        }
        let share = cut as f64 / looked.max(1) as f64;
        (share >= CUT_WORTH_SAYING).then(|| {
            format!(
                "{:.0}% of the captions are longer than the {room} tokens that data.max_text_length leaves for words, and are cut",
                100.0 * share
            )
        })
    }

    fn state(&self) -> &State<Model> {
        self.state
            .as_ref()
            .expect("invariant: the state is back after every step")
    }

    fn train(mut self) -> Result<PathBuf, TrainError> {
        let config = self.recipe.train.clone();
        let done = self.state().step;
        if self.signals {
            interrupt::listen()?;
        }
        // A run killed between a checkpoint and its evaluation evaluates it now.
        // After the last step that of all comes last.
        let all = self.held_out.as_ref().map(EvalSet::label);
        let ends = |e: &EvalRecord| {
            let of_all = all.as_ref() == Some(&e.split) && e.protocol != Protocol::Contrast.name();
            done < config.steps || of_all
        };
        let evaluated = self.run.evaluations()?;
        let evaluated = evaluated.iter().any(|e| e.step == done && ends(e));
        if done > 0 && self.is_due(done) && !evaluated {
            let owed = self.evaluate_unless_stopped(done == config.steps)?;
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
            let mut loader = self.loader(&stage, done - stage.before)?;
            for step in done + 1..=stage.last {
                let began = Instant::now();
                let result = self.step(&stage, step, &mut loader)?;
                self.log(&stage, step, &result, began.elapsed().as_secs_f64())?;
                let (last, evaluate) = (step == config.steps, self.is_due(step));
                // Saved first: whatever an evaluation meets, the weights are safe.
                let saved = last
                    || evaluate
                    || step == stage.last
                    || step.is_multiple_of(config.checkpoint_every)
                    || interrupt::asked();
                if saved {
                    self.save()?;
                }
                let owed = evaluate && self.evaluate_unless_stopped(last)?;
                if saved {
                    // After the evaluation, which may have found a new best.
                    self.prune()?;
                    self.end_if_asked(!last || owed)?;
                }
            }
        }
        self.finish()
    }

    /// Evaluates, unless a signal asks for the end before or meanwhile; says whether the evaluation is still to be done.
    fn evaluate_unless_stopped(&mut self, last: bool) -> Result<bool, TrainError> {
        if interrupt::asked() {
            return Ok(true);
        }
        match self.evaluate(last) {
            Err(_) if interrupt::asked() => Ok(true),
            result => result.map(|()| false),
        }
    }

    /// Ends a training that a signal asked to end, where something is left to do. The step is saved.
    fn end_if_asked(&self, left: bool) -> Result<(), TrainError> {
        if !left || !interrupt::asked() {
            return Ok(());
        }
        Err(TrainError::Stopped {
            step: self.state().step,
            steps: self.recipe.train.steps,
            run: self.run.path().to_owned(),
        })
    }

    /// A stage begins as a run of its own would: with new moments.
    fn begin(&mut self, stage: &Stage) -> Result<(), TrainError> {
        let names = || parameters::list(&self.state().model).into_iter();
        for pattern in stage.train.iter().flatten() {
            ConfigError::unless(
                names().any(|p| covers(pattern, &p.name)),
                &format!("stage[{}].train", stage.index),
                format_args!("\"{pattern}\""),
                "must be the name of a parameter or its beginning, such as \"backbone.text\"",
            )
            .map_err(|error| TrainError::Value {
                file: "recipe".to_owned(),
                error,
            })?;
        }
        if let Some(state) = &mut self.state {
            state.optimizer = Optimizer::new(&self.recipe.train.optimizer);
        }
        if !stage.name.is_empty() {
            self.progress.message(format_args!(
                "stage \"{}\": steps {} to {}",
                stage.name,
                stage.before + 1,
                stage.last
            ));
        }
        Ok(())
    }

    /// The batches of a stage from its step `done` on.
    fn loader(&mut self, stage: &Stage, done: u64) -> Result<Loader, TrainError> {
        let config = &self.recipe.train;
        if stage.data != self.opened {
            self.source = unimo_data::open(&stage.data)?;
            self.opened = stage.data.clone();
            // A list of its own: what is too much is a share of this data set's items.
            let list = self.run.join(&format!("skipped-{}.jsonl", stage.index));
            self.skip = Arc::new(SkipList::open(list, stage.data.max_skipped)?);
        }
        let own = self.recipe.stage.get(stage.index);
        if own.is_some_and(|own| own.data.is_some()) {
            let place = format!("stage[{}].data", stage.index);
            resuming::check_stage(&self.run, &mut self.begun, place, &*self.source)?;
        }
        let (samples, together) = (
            self.source.len(Split::Train),
            config.batch_size * config.accumulation,
        );
        if samples < together {
            self.progress.message(format_args!(
                "the data has {samples} training samples, fewer than the {together} of a step: they come several times in it, and a \
                 picture is no negative of itself"
            ));
        }
        // The first stage has the order that a run without stages has.
        let seed = match stage.index {
            0 => self.recipe.seed,
            index => seed_of(self.recipe.seed, index as u64, 0, Purpose::Order),
        };
        let mut spec = LoaderSpec::new(
            &stage.data,
            Arc::clone(&self.source),
            Arc::clone(&self.tokenizer),
            Arc::clone(&self.skip),
            config.batch_size,
            seed,
        );
        spec.concepts = self.concepts.clone();
        for_objectives(&mut spec, &self.recipe, stage);
        spec.first_batch = done * config.accumulation as u64;
        Ok(Loader::new(spec)?)
    }

    /// Whether the weights of a step are to be evaluated.
    fn is_due(&self, step: u64) -> bool {
        let config = &self.recipe.train;
        let every = config.eval_every > 0 && step.is_multiple_of(config.eval_every);
        self.held_out.is_some() && (every || step == config.steps)
    }

    /// One optimiser step.
    fn step(
        &mut self,
        stage: &Stage,
        step: u64,
        loader: &mut Loader,
    ) -> Result<StepResult, TrainError> {
        let config = &self.recipe.train;
        let mut batches = Vec::with_capacity(config.accumulation);
        let mut wait = 0.0;
        for _ in 0..config.accumulation {
            let Some(batch) = loader.next() else {
                return Err(TrainError::NothingToTrain {
                    step,
                    objectives: "the loader has ended".to_owned(),
                });
            };
            batches.push(batch?);
            wait += loader.last_wait_seconds();
        }
        let forward = Forward {
            model: &self.state().model,
            stage,
            device: &self.device,
            seed: self.recipe.seed,
            step,
            last_good: &self.last_good,
        };
        let Accumulated {
            gradients,
            grad_norm,
            loss,
            losses,
            skipped,
            carries,
        } = forward.accumulate(&batches)?;
        drop(batches);
        self.say_once(&losses);
        let config = &self.recipe.train;
        let grad_scale = match config.clip_norm {
            Some(limit) if grad_norm > limit => limit / grad_norm,
            _ => 1.0,
        };
        let within = step - stage.before;
        let rate = stage.lr * optimizer::schedule(&stage.schedule, within, stage.steps());
        let decay = config.ema;
        let State {
            model,
            mut optimizer,
            ema,
            step: _,
        } = self
            .state
            .take()
            .expect("invariant: the state is back after every step");
        let mut model = optimizer.step(model, gradients, rate, within, grad_scale as f32);
        model.backbone.after_step();
        model.objectives.after_step(&model.backbone, carries);
        let ema = match (ema, decay) {
            (Some(average), Some(decay)) => Some(average::update(average, &model, decay)),
            (ema, _) => ema,
        };
        self.state = Some(State {
            model,
            optimizer,
            ema,
            step,
        });
        Ok(StepResult {
            loss,
            losses,
            skipped,
            grad_norm,
            rate,
            wait,
        })
    }

    /// Says once of each objective that samples have no part in it, and why.
    fn say_once(&mut self, losses: &[ObjectiveSum]) {
        for sum in losses {
            let name = sum.name;
            if sum.left_out > 0 && self.said.insert((name, "left out")) {
                self.progress.message(format_args!(
                    "{name} leaves out samples whose text does not describe their picture; left_out in metrics.jsonl counts them"
                ));
            }
            if sum.without_negative > 0 && self.said.insert((name, "without negative")) {
                self.progress.message(format_args!(
                    "{name} finds no negative for samples whose batch shows one picture alone; without_negative in metrics.jsonl \
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
        self.progress.update(step, Some(result.loss), speed);
        if !step.is_multiple_of(config.log_every) && step != 1 && step != config.steps {
            return Ok(());
        }
        // Of a loss that predicts nothing there is no share of right answers.
        let share = |s: &ObjectiveSum| match s.count {
            0 => f64::NAN,
            count => s.correct as f64 / count as f64,
        };
        let losses = result.losses.iter().map(|s| {
            let mut value =
                json!({ "loss": s.mean_loss(), "accuracy": share(s), "count": s.count });
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
            epoch: (step - stage.before) as f64 * pairs
                / self.source.len(Split::Train).max(1) as f64,
            loss: result.loss,
            lr: result.rate,
            grad_norm: result.grad_norm,
            pairs_per_second: speed,
            step_seconds: seconds,
            wait_seconds: result.wait,
            losses: losses.collect(),
            skipped: result.skipped.clone(),
            elapsed_seconds: self.before + self.began.elapsed().as_secs_f64(),
        };
        self.run.log(&record)?;
        let path = self.events.path().to_owned();
        let mut scalars = vec![
            ("train/loss".to_owned(), result.loss),
            ("train/lr".to_owned(), result.rate),
            ("train/grad_norm".to_owned(), result.grad_norm),
            ("speed/pairs_per_second".to_owned(), speed),
            ("speed/wait_seconds".to_owned(), result.wait),
        ];
        for s in &result.losses {
            scalars.push((format!("loss/{}", s.name), s.mean_loss()));
            if s.count > 0 {
                scalars.push((format!("accuracy/{}", s.name), share(s)));
            }
        }
        scalars
            .iter()
            .try_for_each(|(tag, value)| self.events.scalar(step, tag, *value as f32))
            .and_then(|()| self.events.flush())
            .map_err(TrainError::file("write", path))
    }

    fn save(&mut self) -> Result<(), TrainError> {
        let folder = self.run.checkpoints();
        let saved = checkpoint::save(&folder, self.state(), &self.begun).map_err(|error| {
            TrainError::Unsaved {
                step: self.state().step,
                error: Box::new(error),
                last_good: self.last_good.clone(),
                run: self.run.path().to_owned(),
            }
        })?;
        self.last_good = Some(saved);
        Ok(())
    }

    /// Removes the checkpoints that the recipe does not keep.
    fn prune(&self) -> Result<(), TrainError> {
        let best = self.best.map(|b| b.step);
        checkpoint::prune(&self.run.checkpoints(), self.recipe.train.keep_last, best)
    }

    /// Evaluates the current weights. What goes wrong ends the run only after its last step: a training of days is worth
    /// more than a look at it.
    fn evaluate(&mut self, last: bool) -> Result<(), TrainError> {
        match self.try_evaluate(last) {
            Err(error) if !last && !interrupt::asked() => {
                let step = self.state().step;
                self.progress.message(format_args!(
                    "step {step} could not be evaluated, training goes on: {error}"
                ));
                Ok(())
            }
            result => result,
        }
    }

    fn try_evaluate(&mut self, last: bool) -> Result<(), TrainError> {
        let Some(all) = self.held_out.clone() else {
            return Ok(());
        };
        let during = self.during.clone();
        let records = match during {
            // Everything on all, always; or nothing but the last one.
            None => vec![self.score(Protocol::Full, &all, true)?.0],
            Some((plan, part)) if !last => vec![self.score(plan.protocol, &part, true)?.0],
            Some((plan, part)) => {
                // Whatever the last evaluation scores beyond the others, the best weights are chosen by what all of them score.
                let whole = plan.pictures == all.items().len();
                let mut records = Vec::new();
                let mut score = None;
                if !whole {
                    let (record, evaluated) = self.score(plan.protocol, &part, false)?;
                    records.push(record);
                    score = Some(evaluated.score());
                }
                let (mut full, evaluated) = self.score(Protocol::Full, &all, true)?;
                full.score = Some(match (score, plan.protocol) {
                    (Some(score), _) => score,
                    (None, Protocol::Contrast) => evaluated.score_of_contrast(),
                    (None, Protocol::Full) => evaluated.score(),
                });
                full.scored = format!("{} on {}", plan.protocol.name(), part.label());
                records.push(full);
                records
            }
        };
        if let Some(line) = scored_otherwise(&self.run.evaluations()?, &records) {
            self.progress.message(line);
        }
        for record in &records {
            self.run.append("evals.jsonl", record)?;
        }
        self.best = self.run.best()?;
        // The first is of what every evaluation scores: its figures make a curve with those before.
        let Some(record) = records.first() else {
            return Ok(());
        };
        let path = self.events.path().to_owned();
        self.events
            .evaluation(record)
            .map_err(TrainError::file("write", path))
    }

    /// Evaluates the current weights, says so and, if `write`, writes what the report shows beside the numbers.
    fn score(
        &mut self,
        protocol: Protocol,
        set: &EvalSet,
        write: bool,
    ) -> Result<(EvalRecord, Evaluated), TrainError> {
        let began = Instant::now();
        let state = self.state();
        let step = state.step;
        let model = state.ema.as_ref().unwrap_or(&state.model).valid();
        let device = self.device.clone().without_autodiff();
        // A bar of its own only where an evaluation takes long enough to wonder.
        let long = if self.quiet {
            usize::MAX
        } else {
            LONG_EVALUATION
        };
        let (recipe, progress) = (&self.recipe, &mut self.progress);
        let last = step == recipe.train.steps;
        let evaluated = evaluation::evaluate(
            (&model, &device),
            set,
            &self.tokenizer,
            recipe,
            protocol,
            &mut evaluation::scoring_bar(long, last, |line| progress.message(line)),
        )?;
        let seconds = began.elapsed().as_secs_f64();
        let summary = evaluation::summary(step, &evaluated);
        let took = duration(seconds);
        self.progress
            .message(format_args!("{summary}; evaluated in {took}"));
        if write {
            evaluation::write(&self.run, set, &self.recipe, &evaluated)?;
        }
        Ok((evaluation::record(step, set, &evaluated), evaluated))
    }

    fn finish(self) -> Result<PathBuf, TrainError> {
        let folder = self.run.path().to_owned();
        let report = if self.train_only {
            None
        } else {
            Some(report::write(&folder)?)
        };
        let mut progress = self.progress;
        for (list, count) in self.run.skipped()? {
            progress.message(format_args!(
                "{count} samples were skipped: {}",
                list.display()
            ));
        }
        if let Some(report) = report {
            progress.message(format_args!("report: {}", report.display()));
        }
        progress.finish();
        Ok(folder)
    }
}

/// What the objectives of a stage need of a batch: hidden words, hidden concepts, a second view.
pub fn for_objectives(spec: &mut LoaderSpec, recipe: &Recipe, stage: &Stage) {
    let objectives = &recipe.objectives;
    let mlm = objectives.mlm.as_ref().filter(|_| stage.trains("mlm"));
    let mcr = objectives.mcr.as_ref().filter(|_| stage.trains("mcr"));
    let views = objectives.views.as_ref().filter(|_| stage.trains("views"));
    spec.mask = mlm.map(|mlm| mlm.mask);
    spec.concept_rate = mcr.map(|mcr| mcr.rate);
    spec.second_view = match views {
        Some(views) if views.images_alone => SecondView::WithoutTexts,
        Some(_) => SecondView::All,
        None => SecondView::None,
    };
}

/// The burn that this crate is pinned to.
pub const BURN_VERSION: &str = "0.22.1";

//! A trainer from what was opened: weights, moments, data, evaluators and observers.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Instant;

use serde_json::json;
use unimo_core::average;
use unimo_core::parameters;
use unimo_data::Split;
use unimo_report::numbers::grouped;

use super::{BURN_VERSION, Opened, Options, Trainer, Unrecorded, skip_list};
use crate::checkpoint::{self, State};
use crate::clock::now;
use crate::error::TrainError;
use crate::evaluators::{self, check_select};
use crate::freezing::Freezing;
use crate::model::Model;
use crate::observers::{Observer, Observers, Terminal};
use crate::optimizer::Optimizer;
use crate::prepare::training_device;
use crate::progress::Progress;
use crate::ranks::plan::Plan;
use crate::rates::Rates;
use crate::rewards;
use crate::run::RunFolder;
use crate::starting;
use crate::tasks::{self, Targets};

/// Whether a version began the run in which all objectives drew from one stream. It did not write the objectives into `run.json`.
fn drew_in_turn(run: &RunFolder) -> bool {
    let text = std::fs::read_to_string(run.join("run.json")).unwrap_or_default();
    let facts: Option<serde_json::Value> = serde_json::from_str(&text).ok();
    facts.is_some_and(|facts| facts.get("objectives").is_none())
}

impl Trainer {
    pub(crate) fn new(opened: Opened, options: &Options) -> Result<Self, TrainError> {
        let Opened {
            recipe,
            run,
            begun,
            session,
            source,
            tokenizer,
            concepts,
            codes,
            labels,
            device,
            choice,
            fresh,
            before: before_rank,
        } = opened;
        let tokenizer = Arc::new(tokenizer);
        let device = training_device(&recipe, &device);
        let steps = if run.is_elsewhere() {
            Vec::new()
        } else {
            checkpoint::steps(&run.checkpoints())?
        };
        let mut init = None;
        // A run with a checkpoint continues from it, whatever it started from.
        let model = match steps.last() {
            Some(_) => Model::blank(&recipe, &device),
            None => {
                let (model, started) = match fresh {
                    Some(fresh) => fresh,
                    None => {
                        if !run.is_elsewhere() {
                            eprintln!(
                                "{}: there is no checkpoint; the run begins again with step 1",
                                run.path().display()
                            );
                        }
                        starting::model(&recipe, &device)?
                    }
                };
                if let Some(started) = started {
                    let account = started.to_string();
                    if !options.quiet {
                        eprint!("{account}");
                    }
                    init = Some(account);
                }
                model
            }
        };
        if !steps.is_empty() {
            // A new model's names were checked when it was made.
            let names = starting::names_of(&model);
            recipe
                .check_patterns(&names)
                .and_then(|()| recipe.check_cache(&names))
                .map_err(TrainError::of_recipe)?;
        }
        let freezing = Freezing::of(&model, &recipe);
        let model = freezing.apply(model, None);
        let count: usize = parameters::list(&model)
            .iter()
            .map(|p| p.shape.iter().product::<usize>())
            .sum();
        let ema = recipe.train.ema.map(|_| average::frozen_copy(&model));
        let mut state = State {
            optimizer: Optimizer::new(&recipe.train.optimizer, &recipe.model),
            model,
            ema,
            scale: recipe.train.first_scale(),
            step: 0,
        };
        let folder = run.checkpoints();
        let mut last_good = None;
        if let Some(step) = steps.last() {
            let path = checkpoint::path(&folder, *step);
            let loaded = checkpoint::load(&path, state, &device.clone().without_autodiff());
            state = loaded.map_err(|error| checkpoint::or_older(&folder, *step, error))?;
            last_good = Some(path);
        }
        let longest = recipe.data.max_text_length;
        let reward = rewards::give(&mut state.model, &*source, &tokenizer, longest)?;
        let mut same = Vec::new();
        for model in std::iter::once(&mut state.model).chain(&mut state.ema) {
            same = tasks::give(model, &recipe, &tokenizer, labels.as_ref())?;
        }
        let targets = Targets::of(&recipe, labels.clone()).map(Arc::new);
        let step = state.step;
        let facts = (step == 0).then(|| {
            let each = recipe.objectives.each().into_iter();
            let titles: BTreeMap<&str, &str> = each
                .map(|(key, settings)| (key, settings.title()))
                .collect();
            json!({
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
                "objectives": titles,
                "data": source.describe(),
                "unusable_when_opened": source.rejected().len(),
            })
        });
        let rates = Rates::new(&recipe.train.optimizer, &recipe.model);
        let learning = parameters::list(&state.model);
        let unrecorded = Unrecorded {
            session,
            init,
            facts,
            rates: rates.account(&learning),
        };
        let skip = skip_list(&run, "skipped.jsonl", &recipe.data)?;
        // Opened before any work: a held-out split that cannot be used should fail now, not after hours.
        let given = reward.into_iter().chain(same);
        let mut lines: Vec<String> = given.chain(rates.note(&learning)).collect();
        let evaluators = if options.train_only {
            Vec::new()
        } else {
            let held_out = evaluators::HeldOut {
                source: &source,
                skip: &skip,
                concepts: concepts.clone(),
                codes: codes.clone(),
                tokenizer: &tokenizer,
                targets: targets.as_ref(),
                split: Split::Val,
            };
            let before = match before_rank {
                Some(before) => before,
                None => run.evaluations()?,
            };
            evaluators::open(&recipe, &held_out, &before, &mut |line| lines.push(line))?
        };
        check_select(&recipe, &evaluators)?;
        let quiet = options.quiet || run.is_elsewhere();
        let mut all: Vec<Box<dyn Observer>> = Vec::new();
        if !run.is_elsewhere() {
            let progress = if quiet {
                Progress::silent()
            } else {
                Progress::new(recipe.train.steps, step, "training").at_speed_of("samples")
            };
            all.push(Box::new(Terminal(progress)));
        }
        let mut observers = Observers::new(all);
        for line in lines {
            observers.message(line);
        }
        let mut trainer = Self {
            best: None,
            unrecorded: Some(unrecorded),
            tokenizer,
            concepts,
            codes,
            targets,
            skip: Arc::new(skip),
            evaluators,
            told: HashSet::new(),
            asked_to_end: false,
            world: options.world.clone(),
            train_only: options.train_only,
            quiet,
            signals: options.signals,
            opened: recipe.data.clone(),
            looked_at: None,
            samples: 0,
            recipe,
            run,
            begun,
            source,
            device,
            choice,
            state: Some(state),
            freezing,
            features: None,
            owners: None,
            share_moments: options.share_moments && !options.world.is_alone(),
            order: options.order,
            labels,
            overlap: !options.no_overlap,
            bucket: options.bucket,
            plan: Plan::default(),
            observers,
            last_good,
            before: 0.0,
            began: Instant::now(),
            overflows: 0,
            tasks: BTreeMap::new(),
            said: BTreeSet::new(),
            failed: None,
        };
        let line = format!(
            "{}: {} parameters on {choice}{}, {}; run folder {}",
            match (step, trainer.recipe.train.steps) {
                (0, _) => "starting".to_owned(),
                (step, last) if step >= last => format!("finished, all {last} steps are done"),
                (step, _) => format!("resuming after step {step}"),
            },
            grouped(count as f64),
            match trainer.world.size() {
                1 => String::new(),
                ranks => format!(" in {ranks} ranks"),
            },
            trainer.source.describe(),
            trainer.run.path().display()
        );
        trainer.observers.message(line);
        if step > 0 && drew_in_turn(&trainer.run) {
            trainer.observers.message(
                "an earlier version began this run: its objectives drew their random numbers in turn. From here on each draws its own, so \
                 other wrong partners are drawn than that version would have drawn",
            );
        }
        for note in trainer.source.notes() {
            trainer.observers.message(note);
        }
        // If no objective reads the right image of an NLVR2 pair, the statement is learned from the left image alone.
        let inputs = trainer.recipe.objectives.inputs(&|_| true);
        let inputs = inputs.map_err(|error| TrainError::of_recipe(error.within("objectives")))?;
        if !inputs.second && trainer.source.has_second_images(Split::Train) {
            trainer.observers.message(
                "samples have two images: the objectives of this recipe read the first one (the left) alone",
            );
        }
        let image = trainer.recipe.model.image.as_ref();
        if inputs.patch_mask.is_none() && image.is_some_and(|image| image.mask_embedding) {
            trainer.observers.message(
                "model.image.mask_embedding = true changes nothing: no objective of this recipe hides patches",
            );
        }
        let says = trainer.evaluators.iter();
        for line in says
            .flat_map(|e| e.says(&trainer.recipe))
            .collect::<Vec<_>>()
        {
            trainer.observers.message(line);
        }
        Ok(trainer)
    }
}

//! Starting and resuming a run.

use std::path::{Path, PathBuf};

use unimo_data::{Concepts, TextTokenizer};

use crate::device::DeviceChoice;
use crate::error::TrainError;
use crate::fingerprint::{self, Fingerprint};
use crate::prepare::{
    check_dtype, check_tokenizer, concept_reader, count_concepts, tokenizer, training_device,
};
use crate::recipe::Recipe;
use crate::resuming;
use crate::run::{CONCEPTS, NewRun, RunFolder};
use crate::starting;
use crate::tasks::{self, labels};
pub use crate::trainer::Options;
use crate::trainer::{Opened, Trainer};

/// Starts a run in a new folder.
pub fn start(recipe: &Recipe, folder: &Path, options: &Options) -> Result<PathBuf, TrainError> {
    start_in(recipe, &NewRun::At(folder.to_owned()), options)
}

/// Starts a run in a new folder, which may be one of several.
pub fn start_in(recipe: &Recipe, place: &NewRun, options: &Options) -> Result<PathBuf, TrainError> {
    if let NewRun::At(folder) = place {
        RunFolder::check_free(folder)?;
    }
    let (device, choice) = options.device.unwrap_or_default().open()?;
    check_dtype(recipe, &device, choice)?;
    let source = unimo_data::open(&recipe.data)?;
    let mut recipe = recipe.clone();
    let labels = tasks::prepare(&mut recipe, &*source, &mut |line| {
        if !options.quiet {
            eprintln!("{line}");
        }
    })?;
    let recipe = &recipe;
    let tokenizer = tokenizer(recipe, &*source)?;
    check_tokenizer(recipe, &tokenizer)?;
    // Unavailable weights must not leave a folder behind.
    let fresh = starting::model(recipe, &training_device(recipe, &device))?;
    let concepts = count_concepts(recipe, &*source, options.quiet)?;
    let reader = concept_reader(recipe, concepts.as_ref(), &tokenizer)?;
    let run = RunFolder::begin(place, recipe)?;
    run.write("tokenizer.json", tokenizer.to_json()?.as_bytes())?;
    if let Some(concepts) = &concepts {
        concepts.save(&run.join(CONCEPTS))?;
    }
    if let Some(labels) = &labels {
        labels.save(&run.join(labels::FILE_NAME))?;
    }
    let begun = Fingerprint {
        given: options.given.clone(),
        ..resuming::found(&run, recipe, &*source)?
    };
    run.write_json(fingerprint::FILE_NAME, &begun)?;
    Trainer::new(
        Opened {
            recipe: recipe.clone(),
            run,
            begun,
            changed: Vec::new(),
            source,
            tokenizer,
            concepts: reader,
            labels,
            device,
            choice,
            fresh: Some(fresh),
        },
        options,
    )?
    .train()
}

/// Continues a run from its newest checkpoint.
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
    // A run killed before it saved its tokenizer makes the same one again.
    let tokenizer = if saved.is_file() {
        TextTokenizer::load(&saved, false)?
    } else {
        let tokenizer = tokenizer(&recipe, &*source)?;
        run.write("tokenizer.json", tokenizer.to_json()?.as_bytes())?;
        tokenizer
    };
    check_tokenizer(&recipe, &tokenizer)?;
    let saved = run.join(CONCEPTS);
    let concepts = if saved.is_file() {
        Some(Concepts::load(&saved)?)
    } else {
        let concepts = count_concepts(&recipe, &*source, options.quiet)?;
        if let Some(concepts) = &concepts {
            concepts.save(&saved)?;
        }
        concepts
    };
    let reader = concept_reader(&recipe, concepts.as_ref(), &tokenizer)?;
    let labels = match run.labels()? {
        Some(labels) => Some(labels),
        None => {
            let labels = tasks::prepare(&mut recipe.clone(), &*source, &mut |_| {})?;
            if let Some(labels) = &labels {
                labels.save(&run.join(labels::FILE_NAME))?;
            }
            labels
        }
    };
    let begun = resumed.check(&run, resuming::found(&run, &recipe, &*source)?)?;
    Trainer::new(
        Opened {
            recipe,
            run,
            begun,
            changed: resumed.changed,
            source,
            tokenizer,
            concepts: reader,
            labels,
            device,
            choice,
            fresh: None,
        },
        options,
    )?
    .train()
}

//! Starting and resuming a run.
//!
//! Of several ranks, rank 0 prepares the run: its folder, tokenizer, concepts, labels and weights. The others get them from it, and open
//! data and device by themselves.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use toml::Table;
use unimo_core::world::World;
use unimo_data::{Codebook, Concepts, DataError, PatchCodes, Split, TextTokenizer};
use unimo_report::record::EvalRecord;

use crate::device::DeviceChoice;
use crate::error::TrainError;
use crate::fingerprint::{self, Fingerprint};
use crate::model::Model;
use crate::prepare::{
    check_data, check_dtype, check_tokenizer, concept_reader, count_concepts, keep_codes,
    patch_codes, tokenizer, training_device, without_names,
};
use crate::ranks;
use crate::ranks::sums::Order;
use crate::recipe::overrides::flat;
use crate::recipe::{Overrides, Recipe};
use crate::resuming;
use crate::run::{CODEBOOK, CONCEPTS, NewRun, RunFolder};
use crate::starting;
use crate::starting::own::OwnRun;
use crate::tasks::labels::Labels;
use crate::tasks::{self, labels};
use crate::trainer::{Opened, Session, Trainer};
pub use crate::trainer::{Options, Tried};

/// Starts a run in a new folder.
pub fn start(recipe: &Recipe, folder: &Path, options: &Options) -> Result<PathBuf, TrainError> {
    start_in(recipe, &NewRun::At(folder.to_owned()), options)
}

/// Starts a run in a new folder, which may be one of several.
///
/// # Errors
///
/// Of several ranks: they were given different recipes, cannot share its micro-batches, or one of them fails.
pub fn start_in(recipe: &Recipe, place: &NewRun, options: &Options) -> Result<PathBuf, TrainError> {
    agree_on_program(options)?;
    let world = &options.world;
    let table: Table = recipe.to_toml()?.parse().unwrap_or_default();
    let values = flat(&table).into_iter();
    let values = values.map(|(key, value)| (key, value.to_string()));
    ranks::agree(world, "the recipe", values.collect())?;
    let (NewRun::At(folder) | NewRun::Free(folder)) = place;
    let folder = vec![("the folder".to_owned(), folder.display().to_string())];
    ranks::agree(world, "the run", folder)?;
    ranks::all(world, "the micro-batches", check_share(recipe, world))?;
    begin(options, || new(recipe, place, options))
}

/// Takes `steps` steps of each stage of a new run, to measure them. There is no checkpoint and no evaluation.
///
/// # Errors
///
/// The recipe cannot be trained here.
pub fn try_out(
    recipe: &Recipe,
    folder: &Path,
    steps: u64,
    options: &Options,
) -> Result<Vec<Tried>, TrainError> {
    let opened = new(recipe, &NewRun::At(folder.to_owned()), options)?;
    Trainer::new(opened, options)?.try_out(steps)
}

/// Continues a run from its newest checkpoint.
///
/// # Errors
///
/// Of several ranks: they were given different arguments, cannot share the recipe's micro-batches, or one of them fails.
pub fn resume(folder: &Path, options: &Options) -> Result<PathBuf, TrainError> {
    agree_on_program(options)?;
    let run = ("--resume".to_owned(), folder.display().to_string());
    let recipe = options.asked.recipe.iter();
    let recipe = recipe.map(|recipe| ("RECIPE".to_owned(), recipe.clone()));
    let set = ("--set".to_owned(), options.asked.set.join(" "));
    let data = options
        .asked
        .line
        .iter()
        .filter_map(|line| line.data.as_ref());
    let data = data.map(|data| ("--data".to_owned(), data.display().to_string()));
    let given = [run, set].into_iter().chain(recipe).chain(data);
    ranks::agree(&options.world, "arguments", given.collect())?;
    begin(options, || earlier(folder, options))
}

/// Checks that all ranks are the same program and compute on the same kind of device.
fn agree_on_program(options: &Options) -> Result<(), TrainError> {
    let given = |is: bool| if is { "given" } else { "absent" };
    let bucket = format!("{} values", options.bucket);
    let device = options.device.map(DeviceChoice::of_any);
    let device = device.map_or("none".to_owned(), |device| device.to_string());
    let own = [
        ("the version of unimo", env!("CARGO_PKG_VERSION")),
        ("--device", &device),
        ("--train-only", given(options.train_only)),
        ("--share-moments", given(options.share_moments)),
        ("--sum-once", given(options.order == Order::Ranks)),
        ("--no-overlap", given(options.no_overlap)),
        ("--bucket", &bucket),
        ("the processor", std::env::consts::ARCH),
    ];
    let own = own.map(|(name, value)| (name.to_owned(), value.to_owned()));
    ranks::agree(&options.world, "the program", own.to_vec())
}

/// What rank 0 has prepared.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Prepared {
    folder: PathBuf,
    recipe: String,
    begun: Fingerprint,
    device: String,
    /// The text of `tokenizer.json`.
    tokenizer: Vec<u8>,
    /// The text of `concepts.json`.
    concepts: Option<Vec<u8>>,
    /// The bytes of `codebook.safetensors`.
    codebook: Option<Vec<u8>>,
    labels: Option<Vec<String>>,
    evaluations: Vec<EvalRecord>,
}

impl Prepared {
    fn of(opened: &Opened) -> Result<Self, TrainError> {
        let run = &opened.run;
        let read = |name: &str| {
            let path = run.join(name);
            std::fs::read(&path).map_err(TrainError::file("read", &path))
        };
        let there = |name: &str| run.join(name).is_file();
        Ok(Self {
            folder: run.path().to_owned(),
            recipe: opened.recipe.to_toml()?,
            begun: opened.begun.clone(),
            device: opened.choice.to_string(),
            tokenizer: read("tokenizer.json")?,
            concepts: there(CONCEPTS).then(|| read(CONCEPTS)).transpose()?,
            codebook: there(CODEBOOK).then(|| read(CODEBOOK)).transpose()?,
            labels: opened.labels.as_ref().map(|labels| labels.names().to_vec()),
            evaluations: run.evaluations()?,
        })
    }
}

/// Trains what rank 0 opens.
fn begin(
    options: &Options,
    open: impl FnOnce() -> Result<Opened, TrainError>,
) -> Result<PathBuf, TrainError> {
    let world = &options.world;
    if world.is_alone() {
        let opened = open()?;
        // A run that had begun before has no fresh model.
        let new = opened.fresh.is_some().then(|| opened.run.clone());
        let ended = Trainer::new(opened, options).and_then(Trainer::train);
        leave(ended.as_ref().err(), new)?;
        return ended;
    }
    let mut own = None;
    let prepared = ranks::first(world, "what rank 0 prepares", || {
        let opened = open()?;
        check_share(&opened.recipe, world)?;
        let prepared = Prepared::of(&opened)?;
        own = Some(opened);
        Ok(prepared)
    })?;
    let new = own.as_ref().filter(|opened| opened.fresh.is_some());
    let run = new.map(|opened| opened.run.clone());
    let opened = match own {
        Some(opened) => Ok(opened),
        None => follow(&prepared, options),
    };
    let ended = go(opened, options);
    leave(ended.as_ref().err(), run)?;
    ended
}

/// Takes away the folder of a new run that failed before its first step. A list of unusable samples is left for who is to mend them.
fn leave(failed: Option<&TrainError>, new: Option<RunFolder>) -> Result<(), TrainError> {
    match (failed, new) {
        (None | Some(TrainError::Data(DataError::TooManySkipped { .. })), _) | (_, None) => Ok(()),
        (Some(_), Some(run)) => run.remove_unless_begun(),
    }
}

/// Trains what this rank of several has opened.
fn go(opened: Result<Opened, TrainError>, options: &Options) -> Result<PathBuf, TrainError> {
    let world = &options.world;
    let opened = ranks::all(world, "opening data and device", opened)?;
    let rows = opened.begun.data.get("data").into_iter().flatten();
    let rows = rows.map(|(split, rows)| {
        let value = format!("{} rows ({} {})", rows.rows, rows.identity, rows.order);
        (split.clone(), value)
    });
    ranks::agree(world, "the data", rows.collect())?;
    let kind = opened.choice.feature().to_owned();
    ranks::agree(world, "the device", vec![("its kind".to_owned(), kind)])?;
    let trainer = Trainer::new(opened, options);
    ranks::all(world, "the start of the training", trainer)?.train()
}

/// Checks that the ranks can share the micro-batches of a step.
fn check_share(recipe: &Recipe, world: &World) -> Result<(), TrainError> {
    let (micro, ranks) = (recipe.train.accumulation, world.size());
    if micro.is_multiple_of(ranks) {
        return Ok(());
    }
    Err(TrainError::Ranks(format!(
        "train.accumulation = {micro} micro-batches of a step, over all ranks, cannot be shared by {ranks} ranks: it must be a multiple of \
         their number. Set train.accumulation={} with a smaller train.batch_size, or start {} ranks",
        micro.next_multiple_of(ranks),
        (1..=micro.min(ranks))
            .rev()
            .find(|n| micro.is_multiple_of(*n))
            .unwrap_or(1),
    )))
}

/// What another rank than rank 0 trains with.
fn follow(prepared: &Prepared, options: &Options) -> Result<Opened, TrainError> {
    let folder = &prepared.folder;
    let name = "the recipe of rank 0";
    let recipe = Recipe::parse(name, &prepared.recipe, Some(folder), &Overrides::default())?;
    // Of another rank on this machine, rank 0 may have another GPU.
    let of_first = prepared.device.parse().ok().map(DeviceChoice::of_any);
    let choice = options.device.or(of_first).unwrap_or_default();
    let (device, choice) = choice.of_rank(options.world.local_rank()).open()?;
    check_dtype(&recipe, &device, choice)?;
    let source = unimo_data::open(&recipe.data)?;
    let tokenizer = TextTokenizer::parse(&prepared.tokenizer, "the tokenizer of rank 0")?;
    let concepts = prepared.concepts.as_ref();
    let concepts = concepts
        .map(|bytes| Concepts::parse(bytes, &folder.join(CONCEPTS)))
        .transpose()?;
    let reader = concept_reader(&recipe, concepts.as_ref(), &tokenizer)?;
    let codes = match (&prepared.codebook, &recipe.data.codes) {
        (Some(bytes), Some(config)) => {
            let path = folder.join(CODEBOOK);
            let book = Codebook::parse(bytes, &path)?;
            Some(Arc::new(PatchCodes::of_book(book, config, &path)?))
        }
        _ => patch_codes(&recipe, &*source, None, true)?,
    };
    let labels = prepared.labels.clone().map(Labels::new).transpose();
    let labels = labels.map_err(|reason| TrainError::Labels {
        path: folder.join(labels::FILE_NAME),
        reason,
    })?;
    let rows = fingerprint::of_source(&*source)?;
    let begun = Fingerprint {
        data: BTreeMap::from([("data".to_owned(), rows)]),
        ..prepared.begun.clone()
    };
    let blank = Model::blank(&recipe, &training_device(&recipe, &device));
    Ok(Opened {
        recipe,
        run: RunFolder::elsewhere(folder),
        begun,
        session: Session::default(),
        source,
        tokenizer,
        concepts: reader,
        codes,
        labels,
        device,
        choice,
        fresh: Some((blank, None)),
        before: Some(prepared.evaluations.clone()),
    })
}

/// A new run, opened.
fn new(recipe: &Recipe, place: &NewRun, options: &Options) -> Result<Opened, TrainError> {
    if let NewRun::At(folder) = place {
        RunFolder::check_free(folder)?;
    }
    let choice = own_device(options.device.unwrap_or_default(), &options.world);
    let (device, choice) = choice.open()?;
    check_dtype(recipe, &device, choice)?;
    let source = unimo_data::open(&recipe.data)?;
    let mut recipe = recipe.clone();
    let say = |line: &str| {
        if !options.quiet {
            eprintln!("{line}");
        }
    };
    if let (true, Some(first)) = (source.is_empty(Split::Train), source.rejected().first()) {
        return Err(TrainError::Check(format!(
            "nothing of {} can be trained on; {} rows are unusable, the first: {first}",
            source.describe(),
            source.rejected().len()
        )));
    }
    let labels = tasks::prepare(&mut recipe, &*source, &mut |line| say(&line))?;
    let own = OwnRun::of(&recipe)?;
    if let Some(own) = &own {
        own.check_labels(&recipe, labels.as_ref())?;
    }
    check_data(&recipe, &*source)?;
    if let Some(line) = without_names(&recipe, &*source) {
        say(&line);
    }
    let tokenizer = tokenizer(&recipe, &*source)?;
    check_tokenizer(&recipe, &tokenizer)?;
    // Unavailable weights must not leave a folder behind.
    let fresh = starting::model(&recipe, &training_device(&recipe, &device))?;
    let concepts = count_concepts(&recipe, &*source, options.quiet)?;
    // The run's recipe says what is trained, and so what the weights have in place of what was asked for.
    if let Some(own) = own {
        say(&own.give_tokenizer(&mut recipe, &tokenizer));
        if concepts.is_some() {
            say(&format!(
                "phrases and tags: those of {}; what data.concepts says of finding and counting them is not used",
                own.path().display()
            ));
        }
    }
    let taken = fresh.1.as_ref().map(|started| started.values.as_slice());
    let taken = within_ranges(&recipe, taken.unwrap_or_default())?;
    if !taken.is_empty() {
        recipe = recipe.with_values(&taken)?;
    }
    let recipe = &recipe;
    let reader = concept_reader(recipe, concepts.as_ref(), &tokenizer)?;
    let codes = patch_codes(recipe, &*source, None, options.quiet)?;
    let run = RunFolder::begin(place, recipe)?;
    keep_codes(codes.as_ref(), run.path())?;
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
    Ok(Opened {
        recipe: recipe.clone(),
        run,
        begun,
        session: Session::default(),
        source,
        tokenizer,
        concepts: reader,
        codes,
        labels,
        device,
        choice,
        fresh: Some(fresh),
        before: None,
    })
}

/// Loaded values, within the ranges that the recipe's `KEY_range` says: that is where the first step brings them.
fn within_ranges(
    recipe: &Recipe,
    values: &[(String, f64)],
) -> Result<Vec<(String, f64)>, TrainError> {
    let table: Table = recipe.to_toml()?.parse().unwrap_or_default();
    let all = flat(&table);
    let range = |key: &str| -> Option<(f64, f64)> {
        let range = all.get(&format!("{key}_range"))?.as_array()?;
        Some((range.first()?.as_float()?, range.get(1)?.as_float()?))
    };
    let values = values.iter().map(|(key, value)| {
        let within = range(key).map_or(*value, |(low, high)| value.clamp(low, high));
        (key.clone(), within)
    });
    Ok(values.collect())
}

/// The device of this rank.
fn own_device(choice: DeviceChoice, world: &World) -> DeviceChoice {
    if world.is_alone() {
        choice
    } else {
        choice.of_rank(world.local_rank())
    }
}

/// A run that has begun, opened.
fn earlier(folder: &Path, options: &Options) -> Result<Opened, TrainError> {
    let (run, own) = RunFolder::open_to_train(folder)?;
    let resumed = resuming::recipe(&run, own, &options.asked)?;
    for line in resumed.notes.iter().chain(&resumed.changed) {
        eprintln!("{line}");
    }
    let recipe = resumed.recipe.clone();
    let before: Option<DeviceChoice> = run.sessions()?.pop().and_then(|s| s.device.parse().ok());
    let (device, choice) = match (options.device, before) {
        (None, Some(before)) if options.world.is_alone() => before.open().map_err(|error| TrainError::Device {
            given: before.to_string(),
            reason: format!(
                "the run computed there before, which fails now ({error}); name it to build it in (--device {before}), \
                 or another one, such as --device flex"
            ),
        })?,
        (given, before) => {
            // Every rank has a GPU of its own, whichever was computed on before.
            let before = before.map(DeviceChoice::of_any);
            let choice = given.or(before).unwrap_or_default();
            own_device(choice, &options.world).open()?
        }
    };
    check_dtype(&recipe, &device, choice)?;
    let source = unimo_data::open(&recipe.data)?;
    let saved = run.join("tokenizer.json");
    // A run killed before it saved its tokenizer makes the same one again.
    let tokenizer = if saved.is_file() {
        TextTokenizer::load(&saved, false)?
    } else {
        eprintln!(
            "{} is not there: it is made again as the recipe says",
            saved.display()
        );
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
    let codes = patch_codes(&recipe, &*source, Some(run.path()), options.quiet)?;
    if !run.join(CODEBOOK).is_file() {
        keep_codes(codes.as_ref(), run.path())?;
    }
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
    Ok(Opened {
        recipe,
        run,
        begun,
        session: Session {
            for_evaluations: resumed.of_evaluations(),
            changed: resumed.changed,
            replaced: resumed.replaced,
        },
        source,
        tokenizer,
        concepts: reader,
        codes,
        labels,
        device,
        choice,
        fresh: None,
        before: None,
    })
}

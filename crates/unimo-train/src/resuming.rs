//! What a resumed run may change, and what must be unchanged.
//!
//! A run continues with the recipe, the data, the tokenizer and the concepts that it began with. Differences are named and refused.
//! Some settings change neither the meaning of the weights nor the samples that come next: they can be changed on purpose, by
//! `--set` with `--resume`, and `sessions.jsonl` records it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use toml::{Table, Value};
use unimo_data::{CodesConfig, Source};

use crate::checkpoint;
use crate::error::TrainError;
use crate::fingerprint::{self, Fingerprint, Given};
use crate::recipe::Task;
use crate::recipe::overrides::flat;
use crate::recipe::{Overrides, Recipe};
use crate::run::{CODEBOOK, CONCEPTS, RunFolder};
use crate::tasks::labels;

/// Arguments of the command line in addition to `--resume`.
#[derive(Debug, Clone, Default)]
pub struct Asked {
    /// A recipe, which must be the run's own.
    pub recipe: Option<String>,
    /// `--set`.
    pub set: Vec<String>,
}

/// The recipe of a resumed run.
pub struct Resumed {
    /// The recipe.
    pub recipe: Recipe,
    /// Values that are changed on purpose, `key: old -> new`.
    pub changed: Vec<String>,
    /// Notes on settings without effect.
    pub notes: Vec<String>,
    /// What the run began with, as far as it is known.
    begun: Option<Fingerprint>,
    /// What the newest checkpoint says that the run began with.
    newest: Option<Fingerprint>,
    /// Its step; 0 without one.
    done: u64,
    /// What the recipe was made from, with this session's changes.
    given: Option<Given>,
    /// The recipe that is replaced, in TOML.
    replaced: Option<String>,
}

/// A value that differs.
#[derive(Debug, Clone, PartialEq)]
struct Difference {
    key: String,
    old: Option<Value>,
    new: Option<Value>,
}

impl Difference {
    fn line(&self) -> String {
        let said = |value: &Option<Value>| match value {
            Some(value) => value.to_string(),
            None => "absent".to_owned(),
        };
        format!("{}: {} -> {}", self.key, said(&self.old), said(&self.new))
    }

    /// The setting that would produce the new value.
    fn setting(&self) -> String {
        let value = self
            .new
            .as_ref()
            .map_or("none".to_owned(), Value::to_string);
        format!("--set '{}={value}'", self.key)
    }
}

/// Checks that a run's recipe is the one that it began with, and applies the requested changes that are allowed.
///
/// # Errors
///
/// The recipe was edited, or a requested change is not allowed; each is named.
pub fn recipe(run: &RunFolder, own: Recipe, asked: &Asked) -> Result<Resumed, TrainError> {
    let steps = checkpoint::steps(&run.checkpoints())?;
    let done = steps.last().copied().unwrap_or(0);
    let newest = match done {
        0 => None,
        step => checkpoint::begun(&checkpoint::path(&run.checkpoints(), step))?,
    };
    let begun = match Fingerprint::read(run.path())? {
        Some(begun) => Some(begun),
        None => newest.clone(),
    };
    let mut own = own;
    if let Some(begun) = &begun {
        let recorded = parse(&begun.recipe, run.path());
        let differs = differences(recorded.as_ref(), &begun.recipe, &own)?;
        let replaced = begun.replaced.as_ref();
        let replaced = replaced.is_some_and(|text| parse(text, run.path()).as_ref() == Some(&own));
        match recorded {
            // The process was killed between two files: the change had been accepted.
            Some(recorded) if replaced => own = recorded,
            _ => refuse(
                run.path(),
                "recipe.toml was edited since the run began",
                &differs,
                done,
            )?,
        }
    }
    if let Some(newest) = &newest {
        // The checkpoint may be from before a change made on purpose, so settings that may change are not compared.
        let recorded = parse(&newest.recipe, run.path());
        let mut differs = differences(recorded.as_ref(), &newest.recipe, &own)?;
        differs.retain(|d| may_not_change(d).is_some());
        refuse(
            run.path(),
            "the newest checkpoint was made with another recipe than recipe.toml",
            &differs,
            done,
        )?;
    }
    let given = begun.as_ref().and_then(|begun| begun.given.clone());
    if let Some(recipe) = &asked.recipe {
        same_recipe(run.path(), recipe, given.as_ref(), &own)?;
    }
    let mut resumed = Resumed {
        recipe: own,
        changed: Vec::new(),
        notes: Vec::new(),
        begun,
        newest,
        done,
        given,
        replaced: None,
    };
    if !asked.set.is_empty() {
        resumed.change(run, &asked.set)?;
    }
    Ok(resumed)
}

impl Resumed {
    /// Changes settings on purpose.
    fn change(&mut self, run: &RunFolder, set: &[String]) -> Result<(), TrainError> {
        let text = self.recipe.to_toml()?;
        let overrides = Overrides {
            data: None,
            set: set.to_vec(),
        };
        let (recipe, notes) = Recipe::parse_noting("--resume", &text, None, &overrides)?;
        let changes = differences(Some(&self.recipe), &text, &recipe)?;
        let refused: Vec<String> = changes
            .iter()
            .filter_map(|change| {
                let steps = || steps_may_not(change, &self.recipe, &recipe, self.done);
                let reason = may_not_change(change).or_else(steps)?;
                Some(format!("{} ({reason})", change.line()))
            })
            .collect();
        if !refused.is_empty() {
            return Err(TrainError::Run {
                path: run.path().to_owned(),
                reason: format!(
                    "cannot be changed in a run that has begun: {}. Begin a new run for it",
                    refused.join("; ")
                ),
            });
        }
        if let Some(given) = &mut self.given {
            given.set.extend(set.iter().cloned());
        }
        self.notes.extend(notes);
        self.changed.extend(changes.iter().map(Difference::line));
        if !self.changed.is_empty() {
            self.replaced = Some(text);
            self.recipe = recipe;
        }
        Ok(())
    }

    /// Checks that data, tokenizer and concepts are those that the run began with, and records what it continues with.
    ///
    /// # Errors
    ///
    /// One of them differs; each difference is named. Or the run's folder cannot be written.
    pub fn check(&self, run: &RunFolder, found: Fingerprint) -> Result<Fingerprint, TrainError> {
        if let Some(begun) = &self.begun {
            same(run, "the run was begun with something else", begun, &found)?;
        }
        if let Some(newest) = &self.newest {
            same(
                run,
                "the newest checkpoint was made with something else",
                newest,
                &found,
            )?;
        }
        if self.begun.is_none() && self.done > 0 {
            eprintln!(
                "{}: begun by an older version, which recorded nothing of its recipe, data and tokenizer: nothing could be compared,                  and what is there now counts from here on",
                run.path().display()
            );
        }
        let mut found = Fingerprint {
            given: self.given.clone(),
            replaced: self.replaced.clone(),
            ..found
        };
        // The data of stages that are not open now.
        for known in self.newest.iter().chain(&self.begun) {
            for (place, rows) in &known.data {
                found
                    .data
                    .entry(place.clone())
                    .or_insert_with(|| rows.clone());
            }
        }
        if self.begun.as_ref() != Some(&found) {
            run.write_json(fingerprint::FILE_NAME, &found)?;
        }
        let text = self.recipe.to_toml()?;
        let path = run.join("recipe.toml");
        let there = std::fs::read_to_string(&path).map_err(TrainError::file("read", &path))?;
        if there != text {
            run.write("recipe.toml", text.as_bytes())?;
        }
        if found.replaced.take().is_some() {
            run.write_json(fingerprint::FILE_NAME, &found)?;
        }
        Ok(found)
    }
}

/// The recipe, data, tokenizer and concepts that are there now.
///
/// # Errors
///
/// The run's tokenizer or concepts cannot be read.
pub fn found(
    run: &RunFolder,
    recipe: &Recipe,
    source: &dyn Source,
) -> Result<Fingerprint, TrainError> {
    let digest = |name: &str| -> Result<String, TrainError> {
        let path = run.join(name);
        let bytes = std::fs::read(&path).map_err(TrainError::file("read", &path))?;
        Ok(fingerprint::of_bytes(&bytes))
    };
    let concepts = run.join(CONCEPTS).is_file();
    let labels = run.join(labels::FILE_NAME).is_file();
    Ok(Fingerprint {
        recipe: recipe.to_toml()?,
        data: BTreeMap::from([("data".to_owned(), fingerprint::of_source(source)?)]),
        tokenizer: digest("tokenizer.json")?,
        concepts: concepts.then(|| digest(CONCEPTS)).transpose()?,
        labels: labels.then(|| digest(labels::FILE_NAME)).transpose()?,
        dictionaries: fingerprint::of_dictionaries(recipe)?,
        codes: codes_of(run, recipe)?,
        ..Fingerprint::default()
    })
}

/// The digest of a run's codebook, or of the table of codes that its recipe names.
fn codes_of(run: &RunFolder, recipe: &Recipe) -> Result<Option<String>, TrainError> {
    let own = run.join(CODEBOOK);
    let path = match &recipe.data.codes {
        Some(CodesConfig::Files { path, .. }) => path,
        Some(CodesConfig::KMeans { .. }) if own.is_file() => &own,
        _ => return Ok(None),
    };
    let bytes = std::fs::read(path).map_err(TrainError::file("read", path))?;
    Ok(Some(fingerprint::of_bytes(&bytes)))
}

/// The differences between a run's data and the data that it began with; empty if the latter is not known.
///
/// # Errors
///
/// The record of what the run began with cannot be read.
pub fn other_data(run: &RunFolder, source: &dyn Source) -> Result<Vec<String>, TrainError> {
    let Some(begun) = Fingerprint::read(run.path())? else {
        return Ok(Vec::new());
    };
    let mut found = begun.clone();
    let rows = fingerprint::of_source(source)?;
    found.data.insert("data".to_owned(), rows);
    Ok(begun.differences(&found))
}

/// Checks a stage's own data when it is opened, or records it when the stage begins.
///
/// # Errors
///
/// The data is not what the stage had before.
pub fn check_stage(
    run: &RunFolder,
    begun: &mut Fingerprint,
    place: String,
    source: &dyn Source,
) -> Result<(), TrainError> {
    let mut found = begun.clone();
    found.data.insert(place, fingerprint::of_source(source)?);
    same(
        run,
        "the stage was begun with something else",
        begun,
        &found,
    )?;
    if *begun != found {
        *begun = found;
        run.write_json(fingerprint::FILE_NAME, begun)?;
    }
    Ok(())
}

fn same(
    run: &RunFolder,
    what: &str,
    begun: &Fingerprint,
    found: &Fingerprint,
) -> Result<(), TrainError> {
    let differs = begun.differences(found);
    if differs.is_empty() {
        return Ok(());
    }
    Err(TrainError::Run {
        path: run.path().to_owned(),
        reason: format!(
            "{what}: {}. A run goes on with what it was begun with: put it back, or begin a new run",
            differs.join("; ")
        ),
    })
}

/// An error that names the differences, if there are any. If nothing has been trained yet, nothing is lost, but the run is not what
/// was asked for.
fn refuse(run: &Path, what: &str, differs: &[Difference], done: u64) -> Result<(), TrainError> {
    if differs.is_empty() {
        return Ok(());
    }
    let lines: Vec<String> = differs
        .iter()
        .map(|d| match may_not_change(d) {
            Some(reason) => format!("{} ({reason})", d.line()),
            None => d.line(),
        })
        .collect();
    let may: Vec<String> = differs
        .iter()
        .filter(|d| may_not_change(d).is_none())
        .map(Difference::setting)
        .collect();
    let how = if may.is_empty() {
        String::new()
    } else {
        format!(
            "; what may change on purpose is given beside --resume: {}",
            may.join(" ")
        )
    };
    let after = match done {
        0 => String::new(),
        done => format!(", which has done {done} steps"),
    };
    Err(TrainError::Run {
        path: run.to_owned(),
        reason: format!("{what}{after}: {}. Put it back{how}", lines.join("; ")),
    })
}

fn parse(text: &str, run: &Path) -> Option<Recipe> {
    let none = Overrides::default();
    Recipe::parse("the recorded recipe", text, Some(run), &none).ok()
}

/// Every value that differs in `new`. A recipe of another version that cannot be read any more is compared as text.
fn differences(
    old: Option<&Recipe>,
    text: &str,
    new: &Recipe,
) -> Result<Vec<Difference>, TrainError> {
    let table = |text: &str| -> Table { text.parse().unwrap_or_default() };
    let old = match old {
        Some(old) => table(&old.to_toml()?),
        None => table(text),
    };
    let (old, new) = (flat(&old), flat(&table(&new.to_toml()?)));
    let keys: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    let value = |all: &BTreeMap<String, Value>, key: &str| all.get(key).cloned();
    Ok(keys
        .into_iter()
        .map(|key| Difference {
            key: key.clone(),
            old: value(&old, key),
            new: value(&new, key),
        })
        .filter(|difference| difference.old != difference.new)
        .collect())
}

/// Settings that change neither the meaning of the weights nor the samples that come next.
const MAY_CHANGE: &[&str] = &[
    "description",
    "train.steps",
    "train.dtype",
    "train.gradient_checkpointing",
    "train.clip_norm",
    "train.log_every",
    "train.eval_every",
    "train.checkpoint_every",
    "train.keep_last",
    "train.cache",
    "train.cache_gb",
    "train.optimizer.lr",
    "train.optimizer.fusion_lr_factor",
    "train.optimizer.lr_factors",
    "train.optimizer.layer_decay",
    "train.optimizer.weight_decay",
    "train.schedule",
    "lr",
    "schedule",
    "eval",
    "log",
    "data.workers",
    "data.prefetch",
    "data.max_skipped",
];

/// Reasons why other settings may not change, by the prefix of their keys.
const MAY_NOT_CHANGE: &[(&str, &str)] = &[
    ("seed", "order, masks and dropout follow from it"),
    ("init", "it was read before the first step"),
    ("model", "the weights are those of this model"),
    (
        "objectives",
        "the heads and their queues are those of these objectives",
    ),
    ("train.batch_size", "the place in the data follows from it"),
    (
        "train.accumulation",
        "the place in the data follows from it",
    ),
    ("train.ema", "the checkpoint has the average, or has none"),
    (
        "train.lora",
        "the checkpoint has these adapters, or has none",
    ),
    ("train.optimizer", "the moments were gathered with it"),
    ("data.tokenizer", "the run has its own copy, tokenizer.json"),
    ("data.concepts", "the run has its own copy, concepts.json"),
    (
        "data.codes",
        "the run has its own copy of a codebook, codebook.safetensors",
    ),
    (
        "task",
        "the run has its own copy of the labels, labels.json",
    ),
    ("data", "the samples and their order follow from it"),
    ("stage", "the stages and their steps follow from it"),
];

/// The reason why a setting may not change in a run that has begun; `None` if it may.
fn may_not_change(difference: &Difference) -> Option<&'static str> {
    let key = of_stage(&difference.key);
    let begins = |with: &str| {
        let rest = key.strip_prefix(with);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
    };
    let copied = begins("data.tokenizer") || begins("data.concepts") || key == "data.codes.path";
    let moved = begins("data")
        && !copied
        && difference.old.as_ref().is_some_and(is_place)
        && difference.new.as_ref().is_some_and(is_place);
    // These say how shards are fetched, not which ones.
    let fetched = begins("data") && (key.contains(".remote.") || key.contains(".cache"));
    if moved || fetched || MAY_CHANGE.iter().any(|may| begins(may)) {
        return None;
    }
    let reason = MAY_NOT_CHANGE.iter().find(|(with, _)| begins(with));
    Some(reason.map_or("the run was begun with it", |(_, reason)| *reason))
}

/// A key without its stage, for the keys that each stage has itself: `data`, `lr` and `schedule`.
fn of_stage(key: &str) -> &str {
    let within = key
        .strip_prefix("stage[")
        .and_then(|rest| rest.split_once("]."));
    match within {
        Some((_, rest))
            if ["data", "lr", "schedule"]
                .iter()
                .any(|own| rest.starts_with(own)) =>
        {
            rest
        }
        _ => key,
    }
}

/// Whether a value is a location: in a resolved recipe such paths are absolute.
fn is_place(value: &Value) -> bool {
    match value {
        Value::String(text) => Path::new(text).is_absolute() || text.contains("://"),
        Value::Array(values) => !values.is_empty() && values.iter().all(is_place),
        _ => false,
    }
}

/// The reason why the number of steps may not change in this way; `None` if it may.
fn steps_may_not(
    difference: &Difference,
    own: &Recipe,
    new: &Recipe,
    done: u64,
) -> Option<&'static str> {
    if difference.key != "train.steps" {
        return None;
    }
    if new.train.steps < done {
        return Some("the run has done more");
    }
    let begun = |recipe: &Recipe| -> Vec<(u64, u64)> {
        let stages = recipe.stages();
        let begun = stages.iter().filter(|stage| stage.before < done);
        begun.map(|stage| (stage.before, stage.last)).collect()
    };
    // The end of the last stage may move while it runs. Moving the end of an earlier stage would make another training.
    let (mut old, mut now) = (begun(own), begun(new));
    if let (Some(old), Some(now)) = (old.last_mut(), now.last_mut())
        && old.1 == own.train.steps
        && now.1 == new.train.steps
    {
        (old.1, now.1) = (0, 0);
    }
    (old != now).then_some("it moves the ends of stages that have begun")
}

/// Gives a recipe the number of classes that a run took from its data.
fn take_classes(recipe: &mut Recipe, own: &Recipe) {
    if let (Some(named), Some(of_run)) = (Task::of(recipe), Task::of(own))
        && let (None, Some(classes)) = (named.predicts.classes(), of_run.predicts.classes())
    {
        recipe.objectives.set_classes(named.key, classes);
    }
}

/// What differs between a run and the recipe that is asked for, one `key: old -> new` each. Data that lies elsewhere now is the same data
/// if its rows are.
///
/// # Errors
///
/// The data cannot be read.
pub fn other_than(
    run: &RunFolder,
    own: &Recipe,
    begun: Option<&Fingerprint>,
    asked: &Recipe,
) -> Result<Vec<String>, TrainError> {
    let mut asked = asked.clone();
    take_classes(&mut asked, own);
    let differs = differences(Some(own), "", &asked)?;
    let is_moved = |d: &Difference| {
        let place = |value: &Option<Value>| value.as_ref().is_some_and(is_place);
        d.key.starts_with("data.") && place(&d.old) && place(&d.new)
    };
    let (moved, others): (Vec<Difference>, Vec<Difference>) =
        differs.into_iter().partition(is_moved);
    let mut lines: Vec<String> = others.iter().map(Difference::line).collect();
    if !moved.is_empty() {
        let source = unimo_data::open(&asked.data)?;
        let same = begun.is_some() && other_data(run, &*source)?.is_empty();
        if !same {
            lines.extend(moved.iter().map(Difference::line));
        }
    }
    Ok(lines)
}

/// A recipe that is named with `--resume` must be the run's own, with the settings that the run began with.
fn same_recipe(
    run: &Path,
    named: &str,
    given: Option<&Given>,
    own: &Recipe,
) -> Result<(), TrainError> {
    let overrides = given.map(Given::overrides).unwrap_or_default();
    let (mut recipe, _) = Recipe::load_quietly(named, &overrides)?;
    take_classes(&mut recipe, own);
    if recipe.description != own.description {
        return Err(TrainError::Run {
            path: run.to_owned(),
            reason: format!(
                "is a run of \"{}\", not of {named}; leave the recipe out to go on with it",
                own.description
            ),
        });
    }
    let Some(_) = given else {
        eprintln!(
            "{named}: the run does not say what it was begun with besides a recipe: {named} is not compared with it, and the run's \
             own recipe.toml counts"
        );
        return Ok(());
    };
    let mut differs = differences(Some(own), "", &recipe)?;
    // Relative paths may be from another working directory; the data itself is compared.
    differs.retain(|d| {
        let place = |value: &Option<Value>| value.as_ref().is_some_and(is_place);
        !(place(&d.old) && place(&d.new))
    });
    refuse(
        run,
        &format!("{named} is not what the run was begun with"),
        &differs,
        0,
    )
}

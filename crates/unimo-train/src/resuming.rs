//! What a resumed run may change, and what must be unchanged.
//!
//! A run continues with the recipe, the data, the tokenizer and the concepts that it began with. Differences are named and refused.
//! Some settings change neither the meaning of the weights nor the samples that come next: they can be changed on purpose, by
//! `--set` with `--resume`, and `sessions.jsonl` records it.

mod changes;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use toml::{Table, Value};
use unimo_data::{CodesConfig, Source};

use crate::checkpoint;
use crate::error::TrainError;
use crate::fingerprint::{self, Fingerprint, Given};
use crate::recipe::Task;
use crate::recipe::overrides::flat;
use crate::recipe::stages::Stage;
use crate::recipe::{Overrides, Recipe};
pub(crate) use crate::resuming::changes::nothing_uses;
use crate::resuming::changes::{
    Difference, READ_BY_EVALUATIONS, begins, is_place, is_used, may_not_change, of_stage,
    steps_may_not,
};
use crate::run::{CODEBOOK, CONCEPTS, RunFolder};
use crate::tasks::labels;

/// Arguments of the command line in addition to `--resume`.
#[derive(Debug, Clone, Default)]
pub struct Asked {
    /// A recipe, which must be the run's own.
    pub recipe: Option<String>,
    /// `--set`.
    pub set: Vec<String>,
    /// What the run would be begun with if it were not there, by `--or-resume`: its data must be the run's own.
    pub line: Option<Given>,
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
    pub replaced: Option<String>,
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
        step => {
            let folder = run.checkpoints();
            let begun = checkpoint::begun(&checkpoint::path(&folder, step));
            begun.map_err(|error| checkpoint::or_older(&folder, step, error))?
        }
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
    if let (Some(line), Some(given)) = (&asked.line, &given) {
        same_data(run.path(), line, given)?;
    }
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
        self.check_used(run, &changes, &recipe)?;
        if let Some(given) = &mut self.given
            && !changes.is_empty()
        {
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

    /// Checks that what is changed is used from here on: what no step is trained with must not be recorded.
    fn check_used(
        &self,
        run: &RunFolder,
        changes: &[Difference],
        new: &Recipe,
    ) -> Result<(), TrainError> {
        let left = |recipe: &Recipe| -> Vec<Stage> {
            let stages = recipe.stages().into_iter();
            stages.filter(|stage| stage.last > self.done).collect()
        };
        let (old, now) = (left(&self.recipe), left(new));
        let unused: Vec<String> = changes
            .iter()
            .filter(|change| !is_used(change, &old, &now))
            .map(Difference::line)
            .collect();
        if unused.is_empty() {
            return Ok(());
        }
        if now.is_empty() {
            return Err(nothing_uses(run.path(), self.done, &unused));
        }
        Err(TrainError::Run {
            path: run.path().to_owned(),
            reason: format!(
                "has done {} steps, and none of those that are left would be trained with {}: stages that are over stay as they were, \
                 and a stage's own lr and schedule count for it. Leave it out, or change that of a later stage",
                self.done,
                unused.join("; ")
            ),
        })
    }

    /// Of the changes, those that only an evaluation reads.
    pub fn of_evaluations(&self) -> Vec<String> {
        let read = |line: &&String| {
            let key = line.split(':').next().unwrap_or_default();
            READ_BY_EVALUATIONS.iter().any(|own| begins(key, own))
        };
        self.changed.iter().filter(read).cloned().collect()
    }

    /// Checks that data, tokenizer and concepts are those that the run began with. Returns what it continues with, which is written before the first step.
    ///
    /// # Errors
    ///
    /// One of them differs; each difference is named.
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
        Ok(found)
    }
}

/// Records what a run continues with. `replaced` is the recipe that is changed on purpose: a kill between the two files is no edit.
///
/// # Errors
///
/// The run's folder cannot be written.
pub(crate) fn record(
    run: &RunFolder,
    recipe: &Recipe,
    begun: &Fingerprint,
    replaced: Option<String>,
) -> Result<(), TrainError> {
    let replacing = Fingerprint {
        replaced,
        ..begun.clone()
    };
    if Fingerprint::read(run.path())?.as_ref() != Some(&replacing) {
        run.write_json(fingerprint::FILE_NAME, &replacing)?;
    }
    let text = recipe.to_toml()?;
    let path = run.join("recipe.toml");
    let there = std::fs::read_to_string(&path).map_err(TrainError::file("read", &path))?;
    if there != text {
        run.write("recipe.toml", text.as_bytes())?;
    }
    if replacing.replaced.is_some() {
        run.write_json(fingerprint::FILE_NAME, begun)?;
    }
    Ok(())
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

/// Checks a stage's own data when it is opened, or takes it up when the stage begins. Returns whether it is new.
///
/// # Errors
///
/// The data is not what the stage had before.
pub fn check_stage(
    run: &RunFolder,
    begun: &mut Fingerprint,
    place: String,
    source: &dyn Source,
) -> Result<bool, TrainError> {
    let mut found = begun.clone();
    found.data.insert(place, fingerprint::of_source(source)?);
    same(
        run,
        "the stage was begun with something else",
        begun,
        &found,
    )?;
    let new = *begun != found;
    *begun = found;
    Ok(new)
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

/// The recipe that a step of a run was trained with. `None` if an earlier version wrote the checkpoint, or a recipe that cannot be read
/// any more.
///
/// # Errors
///
/// The checkpoint cannot be read.
pub(crate) fn of_step(run: &RunFolder, step: u64) -> Result<Option<Recipe>, TrainError> {
    let begun = checkpoint::begun(&checkpoint::path(&run.checkpoints(), step))?;
    Ok(begun.and_then(|begun| parse(&begun.recipe, run.path())))
}

/// What was edited in a run's recipe since it began, one `key: old -> new` each.
///
/// # Errors
///
/// The record of what the run began with cannot be read.
pub(crate) fn edited(run: &RunFolder, there: &Recipe) -> Result<Vec<String>, TrainError> {
    let known = Fingerprint::read(run.path())?;
    let known = known.and_then(|known| parse(&known.recipe, run.path()));
    let edited = match known {
        Some(known) => differences(Some(&known), "", there)?,
        None => Vec::new(),
    };
    Ok(edited.iter().map(Difference::line).collect())
}

/// Tells what was edited in a run's recipe since it began, where a command reads the run for something else than to go on with it.
///
/// # Errors
///
/// The record of what the run began with cannot be read.
pub(crate) fn say_edited(run: &RunFolder, there: &Recipe) -> Result<(), TrainError> {
    let edited = edited(run, there)?;
    if !edited.is_empty() {
        eprintln!("{}: {}", run.path().display(), edited_line(&edited));
    }
    Ok(())
}

/// The values of a recipe that was edited, as a line.
pub(crate) fn edited_line(edited: &[String]) -> String {
    format!(
        "recipe.toml was edited since the run began, which --resume refuses: {}",
        edited.join("; ")
    )
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

/// Whether a run took a value from the weights that it started from, in place of its recipe's.
fn is_taken(difference: &Difference, own: &Recipe) -> bool {
    let init = own.init.as_ref();
    init.is_some_and(|init| init.gives(of_stage(&difference.key)))
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
    let mut differs = differences(Some(own), "", &asked)?;
    differs.retain(|d| !is_taken(d, own));
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

/// Checks that `--data` is what the run was begun with.
fn same_data(run: &Path, line: &Given, given: &Given) -> Result<(), TrainError> {
    if line.data == given.data {
        return Ok(());
    }
    let shown = |given: &Given| match &given.data {
        Some(data) => format!("--data {}", data.display()),
        None => "no --data".to_owned(),
    };
    Err(TrainError::Run {
        path: run.to_owned(),
        reason: format!(
            "was begun with {}, and is asked to go on with {}. Give what it was begun with, or another --out",
            shown(given),
            shown(line)
        ),
    })
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
        let moved = place(&d.old) && place(&d.new);
        !moved && !is_taken(d, own)
    });
    refuse(
        run,
        &format!("{named} is not what the run was begun with"),
        &differs,
        0,
    )
}

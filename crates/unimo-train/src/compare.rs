//! `unimo compare`: several runs side by side.
//!
//! What can be compared is decided here, since it needs recipes and fingerprints: a recipe is read as this version reads it, so that a key
//! which an older version did not have does not differ from its default. What is made of it is in [`unimo_report::compare`].

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use clap::Args;
use toml::Table;
use unimo_report::compare::{Candidate, Comparison};

use crate::error::TrainError;
use crate::files;
use crate::fingerprint::{Fingerprint, Rows};
use crate::outputs;
use crate::recipe::overrides::flat;
use crate::recipe::{Overrides, Recipe, Task};
use crate::resuming;
use crate::run::RunFolder;

/// Arguments of `unimo compare`.
#[derive(Debug, Args)]
pub struct CompareArgs {
    /// Run folders, or folders that hold runs, such as a sweep's.
    #[arg(required = true, value_name = "RUN")]
    runs: Vec<PathBuf>,
    /// Write a page with curves, scores and what differs; it needs nothing from elsewhere.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Write the same as data.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write the tables as Markdown, for a document.
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
}

/// Prints the comparison, and writes it where that is asked for.
///
/// # Errors
///
/// A folder is no run and holds none; each is named. Or a file cannot be written.
pub fn run(args: &CompareArgs) -> Result<(), TrainError> {
    let found = runs(&args.runs)?;
    let folders: Vec<&Path> = found.folders.iter().map(PathBuf::as_path).collect();
    let outs = [&args.html, &args.json, &args.markdown].map(Option::as_deref);
    outputs::replace_nothing(&outs, &[], &folders)?;
    let comparison = compared(found)?;
    if let Some(path) = &args.html {
        write_page(path, &comparison)?;
    }
    if let Some(path) = &args.json {
        write_json(path, &comparison)?;
    }
    if let Some(path) = &args.markdown {
        files::write(path, comparison.markdown().as_bytes())?;
    }
    print!("{}", comparison.table());
    Ok(())
}

/// Writes the page.
///
/// # Errors
///
/// The file cannot be written.
pub fn write_page(path: &Path, comparison: &Comparison) -> Result<(), TrainError> {
    files::write(path, comparison.page().as_bytes())
}

/// Writes the comparison as JSON.
///
/// # Errors
///
/// The file cannot be written.
pub fn write_json(path: &Path, comparison: &Comparison) -> Result<(), TrainError> {
    let mut text = serde_json::to_vec_pretty(comparison).map_err(|error| TrainError::Run {
        path: path.to_owned(),
        reason: error.to_string(),
    })?;
    text.push(b'\n');
    files::write(path, &text)
}

/// Runs side by side.
///
/// # Errors
///
/// A folder is no run and holds none; each is named.
pub fn compare(given: &[PathBuf]) -> Result<Comparison, TrainError> {
    compared(runs(given)?)
}

fn compared(found: Found) -> Result<Comparison, TrainError> {
    let names = names(&found.folders);
    let candidates = found.folders.iter().zip(names);
    let candidates: Result<Vec<Candidate>, TrainError> = candidates
        .map(|(folder, name)| candidate(folder, name))
        .collect();
    let mut comparison = Comparison::new(&candidates?)?;
    comparison.notes.extend(found.notes);
    Ok(comparison)
}

/// Folders of runs.
struct Found {
    folders: Vec<PathBuf>,
    /// What was passed over.
    notes: Vec<String>,
}

fn is_run(folder: &Path) -> bool {
    folder.join("recipe.toml").is_file()
}

/// The runs that arguments name, each once.
fn runs(given: &[PathBuf]) -> Result<Found, TrainError> {
    let (mut all, mut notes, mut wrong) = (Vec::new(), Vec::new(), Vec::new());
    let mut files = Vec::new();
    for path in given {
        if is_run(path) {
            all.push(path.clone());
            continue;
        }
        if !path.exists() {
            wrong.push(format!("{}: there is no such folder", path.display()));
            continue;
        }
        if !path.is_dir() {
            files.push(path.display());
            continue;
        }
        let entries = std::fs::read_dir(path).map_err(TrainError::file("list", path))?;
        let mut folders = Vec::new();
        for entry in entries {
            let entry = entry.map_err(TrainError::file("list", path))?.path();
            if entry.is_dir() {
                folders.push(entry);
            }
        }
        folders.sort();
        let (runs, others): (Vec<PathBuf>, Vec<PathBuf>) =
            folders.into_iter().partition(|folder| is_run(folder));
        if runs.is_empty() {
            wrong.push(format!(
                "{}: is no run and holds none: there is no recipe.toml, which every run has, in it or in its folders",
                path.display()
            ));
        } else {
            let no_run = |folder: &PathBuf| {
                format!(
                    "{}: is no run, and is passed over: no recipe.toml",
                    folder.display()
                )
            };
            notes.extend(others.iter().map(no_run));
        }
        all.extend(runs);
    }
    // `compare runs/sw/*` names what an earlier comparison wrote there, too.
    for file in files {
        if all.is_empty() || !wrong.is_empty() {
            wrong.push(format!(
                "{file}: is no run, but a file: name the run's folder"
            ));
        } else {
            notes.push(format!("{file}: is no run, but a file, and is passed over"));
        }
    }
    if !wrong.is_empty() {
        return Err(TrainError::NotRuns(wrong));
    }
    let mut seen = BTreeSet::new();
    let mut folders = Vec::with_capacity(all.len());
    for folder in all {
        let real = folder
            .canonicalize()
            .map_err(TrainError::file("find", &folder))?;
        if seen.insert(real) {
            folders.push(folder);
        } else {
            notes.push(format!(
                "{}: is named twice and counts once",
                folder.display()
            ));
        }
    }
    Ok(Found { folders, notes })
}

/// The folders' names, with as many of the folders above them as make them different.
fn names(folders: &[PathBuf]) -> Vec<String> {
    let whole: Vec<PathBuf> = folders
        .iter()
        .map(|folder| folder.canonicalize().unwrap_or_else(|_| folder.clone()))
        .collect();
    let short = |path: &Path, parts: usize| -> String {
        let all: Vec<String> = path
            .iter()
            .map(|part| part.to_string_lossy().into_owned())
            .collect();
        all[all.len().saturating_sub(parts)..].join("/")
    };
    let deepest = whole.iter().map(|path| path.iter().count()).max();
    for parts in 1..deepest.unwrap_or(1) {
        let names: Vec<String> = whole.iter().map(|path| short(path, parts)).collect();
        if names.iter().collect::<BTreeSet<_>>().len() == names.len() {
            return names;
        }
    }
    whole
        .iter()
        .map(|path| path.display().to_string())
        .collect()
}

fn candidate(folder: &Path, name: String) -> Result<Candidate, TrainError> {
    let path = folder.join("recipe.toml");
    let text = std::fs::read_to_string(&path).map_err(TrainError::file("read", &path))?;
    let file = path.display().to_string();
    let table = |text: &str| -> Result<Table, TrainError> {
        text.parse()
            .map_err(|error: toml::de::Error| TrainError::Recipe {
                file: file.clone(),
                reason: error.to_string(),
            })
    };
    let mut of_run = Candidate {
        folder: folder.to_owned(),
        name,
        ..Candidate::default()
    };
    let number = |table: &Table, key: &str| -> u64 {
        let of_train = table.get("train").and_then(|train| train.get(key));
        let number = of_train.and_then(toml::Value::as_integer);
        number
            .and_then(|number| u64::try_from(number).ok())
            .unwrap_or(1)
    };
    let resolved = match Recipe::parse(&file, &text, Some(folder), &Overrides::default()) {
        Ok(recipe) => {
            let (run, _) = RunFolder::open(folder)?;
            let edited = resuming::edited(&run, &recipe)?;
            if !edited.is_empty() {
                of_run.notes.push(resuming::edited_line(&edited));
            }
            of_run.task = match Task::of(&recipe) {
                Some(task) => format!("task {}", task.key),
                None => "pre-training".to_owned(),
            };
            table(&recipe.to_toml()?)?
        }
        // A run of another version can still be looked at.
        Err(error) => {
            of_run.task = "not known".to_owned();
            of_run.notes.push(format!(
                "this version cannot read its recipe, which is compared as it was written: {error}"
            ));
            table(&text)?
        }
    };
    of_run.steps = number(&resolved, "steps");
    of_run.samples = number(&resolved, "batch_size") * number(&resolved, "accumulation");
    of_run.recipe = flat(&resolved)
        .into_iter()
        .map(|(key, value)| (key, value.to_string()))
        .collect();
    match Fingerprint::read(folder)? {
        Some(begun) => {
            of_run.held_out = begun
                .data
                .get("data")
                .and_then(|splits| splits.get("val"))
                .map(rows);
            of_run.data = data(&begun);
        }
        None => of_run.notes.push(
            "there is no fingerprint.json, so the rows that it is trained and evaluated on are not known".to_owned(),
        ),
    }
    Ok(of_run)
}

/// The rows that a run was begun with, by place and split.
fn data(begun: &Fingerprint) -> BTreeMap<String, String> {
    let splits = begun.data.iter().flat_map(|(place, splits)| {
        let of = move |(split, found): (&String, &Rows)| {
            (format!("rows of {place} ({split})"), rows(found))
        };
        splits.iter().map(of)
    });
    splits.collect()
}

fn rows(rows: &Rows) -> String {
    let labels = rows.labels.as_ref();
    let labels = labels.map_or(String::new(), |labels| format!(", labels {labels}"));
    format!(
        "{} rows, {}, order {}{labels}",
        rows.rows, rows.identity, rows.order
    )
}

#[cfg(test)]
mod tests;

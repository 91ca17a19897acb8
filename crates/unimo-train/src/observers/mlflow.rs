//! MLflow's file store, written directly: `mlflow ui --backend-store-uri mlruns` shows the run beside others. MLflow 3 reads it with
//! `MLFLOW_ALLOW_FILE_STORE=true`, and `mlflow migrate-filestore` takes it into a database.
//!
//! ```text
//! mlruns/EXPERIMENT/meta.yaml
//! mlruns/EXPERIMENT/RUN/meta.yaml       name, times, status
//!                       metrics/NAME    a line per value: milliseconds since 1970, value, step
//!                       params/KEY      a value of the recipe
//!                       tags/KEY
//!                       artifacts/
//! ```
//!
//! (`mlflow/store/tracking/file_store.py`.) The run's own `metrics.jsonl` and `evals.jsonl` stay what counts: whenever a run starts or
//! goes on, its metrics are written anew from them, and then each value is appended. So nothing is there twice after a kill, and a run
//! that is given MLflow later has all its past there. Weights & Biases is left out: its offline files are an internal log that no
//! document describes and no kept crate writes.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use unimo_data::digest::{Digest, hex};
use unimo_report::record::{EvalRecord, StepRecord};

use crate::curves;
use crate::error::TrainError;
use crate::files;
use crate::observers::{Observer, StepEvent};
use crate::recipe::Recipe;
use crate::recipe::overrides::flat;
use crate::run::RunFolder;

/// The file in a run's folder that says where its MLflow run is.
const FILE_NAME: &str = "mlflow.json";
/// MLflow's numbers of states.
const RUNNING: u8 = 1;
const FINISHED: u8 = 3;
/// MLflow's number for a run that was started locally.
const LOCAL: u8 = 4;
/// Longest value of a parameter that MLflow takes, in characters.
const LONGEST_VALUE: usize = 6000;
/// Digits of an experiment's id, as MLflow makes them.
const ID_DIGITS: usize = 18;

/// Where a run is in a store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Place {
    /// The store's folder.
    store: PathBuf,
    experiment: String,
    run: String,
}

impl Place {
    fn folder(&self) -> PathBuf {
        self.store.join(&self.experiment).join(&self.run)
    }
}

/// Writes a run into a file store.
pub struct MlFlow {
    place: Place,
    name: String,
    /// Milliseconds since 1970.
    began: i64,
    /// Seconds of training at the last step.
    elapsed: f64,
}

impl MlFlow {
    /// Begins the run in the store, or goes on with it, with all that its records hold.
    ///
    /// # Errors
    ///
    /// The store cannot be written, or a file in it is not MLflow's.
    pub fn open(run: &RunFolder, recipe: &Recipe) -> Result<Option<Self>, TrainError> {
        let Some(log) = &recipe.log else {
            return Ok(None);
        };
        let Some(store) = &log.mlflow else {
            return Ok(None);
        };
        let place = place(store, &log.experiment, run)?;
        let mut own = Self {
            name: run
                .path()
                .canonicalize()
                .ok()
                .and_then(|path| Some(path.file_name()?.to_string_lossy().into_owned()))
                .unwrap_or_else(|| "run".to_owned()),
            began: began(run)?,
            elapsed: 0.0,
            place,
        };
        let folder = own.place.folder();
        for name in ["metrics", "params", "tags", "artifacts"] {
            let path = folder.join(name);
            fs::create_dir_all(&path).map_err(TrainError::file("create", &path))?;
        }
        own.write_meta(RUNNING, None)?;
        own.write_params(recipe)?;
        let tags = [
            ("mlflow.runName", own.name.clone()),
            (
                "mlflow.source.name",
                format!("unimo {}", env!("CARGO_PKG_VERSION")),
            ),
            ("mlflow.source.type", "LOCAL".to_owned()),
            ("mlflow.note.content", recipe.description.clone()),
            ("unimo.folder", run.path().display().to_string()),
        ];
        for (key, value) in tags {
            files::write(&folder.join("tags").join(key), value.as_bytes())?;
        }
        own.write_past(&run.steps()?, &run.evaluations()?)?;
        run.write_json(FILE_NAME, &own.place)?;
        Ok(Some(own))
    }

    /// The folder of the run in the store.
    pub fn folder(&self) -> PathBuf {
        self.place.folder()
    }

    fn write_meta(&self, status: u8, end: Option<i64>) -> Result<(), TrainError> {
        let Place {
            experiment, run, ..
        } = &self.place;
        let artifacts = address(&self.folder().join("artifacts"));
        let user = std::env::var("USER").unwrap_or_else(|_| "unimo".to_owned());
        let text = [
            ("artifact_uri", quoted(&artifacts)),
            (
                "end_time",
                end.map_or("null".to_owned(), |end| end.to_string()),
            ),
            ("entry_point_name", quoted("")),
            ("experiment_id", quoted(experiment)),
            ("lifecycle_stage", "active".to_owned()),
            ("run_id", quoted(run)),
            ("run_name", quoted(&self.name)),
            ("run_uuid", quoted(run)),
            ("source_name", quoted("")),
            ("source_type", LOCAL.to_string()),
            ("source_version", quoted("")),
            ("start_time", self.began.to_string()),
            ("status", status.to_string()),
            ("tags", "[]".to_owned()),
            ("user_id", quoted(&user)),
        ];
        write_yaml(&self.folder().join("meta.yaml"), &text)
    }

    fn write_params(&self, recipe: &Recipe) -> Result<(), TrainError> {
        let table = recipe.to_toml()?.parse().unwrap_or_default();
        for (key, value) in flat(&table) {
            let value = match value {
                toml::Value::String(text) => text,
                other => other.to_string(),
            };
            let value: String = value.chars().take(LONGEST_VALUE).collect();
            let path = self.folder().join("params").join(param_name(&key));
            files::write(&path, value.as_bytes())?;
        }
        Ok(())
    }

    /// Writes the metrics anew from what the run recorded.
    fn write_past(&mut self, steps: &[StepRecord], evals: &[EvalRecord]) -> Result<(), TrainError> {
        let metrics = self.folder().join("metrics");
        fs::remove_dir_all(&metrics).map_err(TrainError::file("remove", &metrics))?;
        fs::create_dir_all(&metrics).map_err(TrainError::file("create", &metrics))?;
        let mut lines: BTreeMap<String, String> = BTreeMap::new();
        let mut add = |time: i64, step: u64, numbers: Vec<(String, f64)>| {
            for (name, value) in numbers {
                let lines = lines.entry(name).or_default();
                lines.push_str(&format!("{}\n", line(time, value, step)));
            }
        };
        for step in steps {
            add(
                self.time(step.elapsed_seconds),
                step.step,
                curves::of_step(step),
            );
        }
        for eval in first_of_each(evals) {
            let before = steps.partition_point(|step| step.step <= eval.step);
            let before = before.checked_sub(1).and_then(|at| steps.get(at));
            let elapsed = before.map_or(0.0, |step| step.elapsed_seconds);
            add(self.time(elapsed), eval.step, curves::of_evaluation(eval));
        }
        for (name, lines) in lines {
            let path = self.metric(&name)?;
            files::write(&path, lines.as_bytes())?;
        }
        self.elapsed = steps.last().map_or(0.0, |step| step.elapsed_seconds);
        Ok(())
    }

    /// The file of a metric, in a folder that is there.
    fn metric(&self, name: &str) -> Result<PathBuf, TrainError> {
        let path = self.folder().join("metrics").join(metric_name(name));
        let folder = path.parent().unwrap_or(&path);
        fs::create_dir_all(folder).map_err(TrainError::file("create", folder))?;
        Ok(path)
    }

    fn append(&self, step: u64, numbers: &[(String, f64)]) -> Result<(), TrainError> {
        let time = self.time(self.elapsed);
        for (name, value) in numbers {
            files::append_line(&self.metric(name)?, &line(time, *value, step))?;
        }
        Ok(())
    }

    /// Milliseconds since 1970, after so many seconds of training.
    fn time(&self, elapsed: f64) -> i64 {
        let elapsed = if elapsed.is_finite() { elapsed } else { 0.0 };
        self.began + (1000.0 * elapsed) as i64
    }
}

impl Observer for MlFlow {
    fn step(&mut self, event: &StepEvent<'_>) -> Result<(), TrainError> {
        if !event.logged {
            return Ok(());
        }
        self.elapsed = event.record.elapsed_seconds;
        self.append(event.record.step, &curves::of_step(event.record))
    }

    fn evaluation(&mut self, records: &[EvalRecord]) -> Result<(), TrainError> {
        for record in first_of_each(records) {
            self.append(record.step, &curves::of_evaluation(record))?;
        }
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<(), TrainError> {
        self.write_meta(FINISHED, Some(self.time(self.elapsed)))
    }
}

/// The first record of each evaluator and step: the evaluation of all images after the last step is no curve.
fn first_of_each(records: &[EvalRecord]) -> impl Iterator<Item = &EvalRecord> {
    let mut seen = BTreeSet::new();
    let first = move |record: &&EvalRecord| seen.insert((record.step, record.evaluator.clone()));
    records.iter().filter(first)
}

fn line(time: i64, value: f64, step: u64) -> String {
    // As Python writes them: MLflow reads them by `float`.
    let value = if value.is_nan() {
        "nan".to_owned()
    } else if value.is_infinite() {
        if value > 0.0 { "inf" } else { "-inf" }.to_owned()
    } else {
        format!("{value:?}")
    };
    format!("{time} {value} {step}")
}

/// Where the run is in the store, or will be: in the experiment of that name.
fn place(store: &Path, experiment: &str, run: &RunFolder) -> Result<Place, TrainError> {
    let path = run.join(FILE_NAME);
    if path.is_file() {
        let text = fs::read(&path).map_err(TrainError::file("read", &path))?;
        let known: Option<Place> = serde_json::from_slice(&text).ok();
        // The recipe may name another store since.
        if let Some(known) = known.filter(|known| known.store == store && known.folder().is_dir()) {
            return Ok(known);
        }
    }
    let experiment = experiment_id(store, experiment)?;
    let real = run.path().canonicalize();
    let real = real.map_err(TrainError::file("find", run.path()))?;
    let id = Digest::of(format!("{} {}", real.display(), Timestamp::now()).as_bytes());
    Ok(Place {
        store: store.to_owned(),
        experiment,
        run: hex(&id[..16]),
    })
}

/// The id of the experiment of this name, which is begun if it is not there.
fn experiment_id(store: &Path, name: &str) -> Result<String, TrainError> {
    fs::create_dir_all(store).map_err(TrainError::file("create", store))?;
    for entry in fs::read_dir(store).map_err(TrainError::file("list", store))? {
        let folder = entry.map_err(TrainError::file("list", store))?.path();
        let meta = folder.join("meta.yaml");
        if !meta.is_file() {
            continue;
        }
        let text = fs::read_to_string(&meta).map_err(TrainError::file("read", &meta))?;
        let mut names = text.lines().filter_map(|line| line.strip_prefix("name: "));
        let id = folder
            .file_name()
            .map(|id| id.to_string_lossy().into_owned());
        if let (true, Some(id)) = (names.any(|found| unquoted(found) == name), id) {
            return Ok(id);
        }
    }
    // A function of the name, so that two runs that start at once begin one experiment.
    let digest = Digest::of(name.as_bytes());
    let digits = digest.iter().map(|byte| char::from(b'0' + byte % 10));
    let id: String = std::iter::once('1')
        .chain(digits.take(ID_DIGITS - 1))
        .collect();
    let folder = store.join(&id);
    fs::create_dir_all(&folder).map_err(TrainError::file("create", &folder))?;
    let now = Timestamp::now().as_millisecond().to_string();
    let text = [
        ("artifact_location", quoted(&address(&folder))),
        ("creation_time", now.clone()),
        ("experiment_id", quoted(&id)),
        ("last_update_time", now),
        ("lifecycle_stage", "active".to_owned()),
        ("name", quoted(name)),
    ];
    write_yaml(&folder.join("meta.yaml"), &text)?;
    Ok(id)
}

/// When the run began, from its `run.json`.
fn began(run: &RunFolder) -> Result<i64, TrainError> {
    let path = run.join("run.json");
    let text = fs::read(&path).map_err(TrainError::file("read", &path))?;
    let facts: serde_json::Value =
        serde_json::from_slice(&text).map_err(|error| TrainError::Run {
            path,
            reason: error.to_string(),
        })?;
    let started = facts.get("started").and_then(serde_json::Value::as_str);
    let started: Option<Timestamp> = started.and_then(|text| text.parse().ok());
    Ok(started.unwrap_or_else(Timestamp::now).as_millisecond())
}

/// A name of MLflow: letters, digits, `_`, `.`, `-`, `:`, space, and `/` between its parts.
fn metric_name(name: &str) -> String {
    let known = |c: char| c.is_ascii_alphanumeric() || "_.-/ ".contains(c);
    let parts = name
        .split('/')
        .filter(|part| !part.trim_matches('.').is_empty());
    let plain = |part: &str| -> String {
        part.chars()
            .map(|c| if known(c) { c } else { '_' })
            .collect()
    };
    parts.map(plain).collect::<Vec<_>>().join("/")
}

/// A recipe's key as a parameter: `stage[0].lr` is `stage.0.lr`.
fn param_name(key: &str) -> String {
    let plain = key
        .replace('[', ".")
        .replace([']', '"'], "")
        .replace('/', "_");
    metric_name(&plain)
}

/// A folder as a URI.
fn address(path: &Path) -> String {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let mut uri = "file://".to_owned();
    for byte in absolute.to_string_lossy().bytes() {
        let plain = byte.is_ascii_alphanumeric() || b"/-_.~".contains(&byte);
        if plain {
            uri.push(char::from(byte));
        } else {
            uri.push_str(&format!("%{byte:02X}"));
        }
    }
    uri
}

/// A text in YAML: a string of JSON is one, too.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// The text of a scalar as YAML writers quote them, or leave them unquoted.
fn unquoted(text: &str) -> String {
    let text = text.trim();
    if let Ok(read) = serde_json::from_str::<String>(text) {
        return read;
    }
    match text
        .strip_prefix('\'')
        .and_then(|rest| rest.strip_suffix('\''))
    {
        Some(inside) => inside.replace("''", "'"),
        None => text.to_owned(),
    }
}

fn write_yaml(path: &Path, lines: &[(&str, String)]) -> Result<(), TrainError> {
    let lines = lines.iter().map(|(key, value)| format!("{key}: {value}\n"));
    files::write(path, lines.collect::<String>().as_bytes())
}

#[cfg(test)]
mod tests;

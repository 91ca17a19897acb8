//! A run's folder: its recipe, its records and its checkpoints.
//!
//! ```text
//! recipe.toml      the resolved recipe: train it again with `unimo train RUN/recipe.toml`
//! fingerprint.json what the run was begun with: the recipe, and digests of data, tokenizer and concepts
//! run.json         versions, device, start, size
//! sessions.jsonl   a line per start and resume: from which step, when, on which device, what was changed on purpose
//! tokenizer.json   as trained or given
//! labels.json      the labels of its task, in the order of the head
//! init.txt         what became of every tensor of the weights that `init` names
//! rates.txt        which parameters learn at which factor of the learning rate
//! metrics.jsonl    a line per logged step        events.out.tfevents.*  the same for TensorBoard
//! evals.jsonl      a line per evaluation during training
//! evaluations.jsonl  a line per `unimo eval`
//! gates.json, gallery.json, gallery/             from the last evaluation
//! skipped.jsonl    samples that could not be used; skipped-N.jsonl those of stage N's own data
//! checkpoints/     step-00000100.safetensors, ...
//! report.html
//! mlflow.json      where it is in MLflow's store, if `[log]` names one
//! run.lock         held by the process that trains the run
//! ```
//!
//! Only one process at a time trains a run; of several ranks it is rank 0. `unimo eval` and `unimo report` may run meanwhile: each writes one complete line or one
//! complete file.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;
use unimo_data::{TextTokenizer, atomic};
use unimo_report::record::{self, EvalRecord, SessionRecord, SkippedRecord, StepRecord};

use crate::checkpoint;
use crate::error::TrainError;
use crate::files;
use crate::fingerprint::{self, Fingerprint};
use crate::lock::RunLock;
use crate::recipe::{Overrides, Recipe, Task};
use crate::tasks::labels::{self, Labels};

/// A run's folder.
#[derive(Debug, Clone)]
pub struct RunFolder {
    path: PathBuf,
    /// Whether rank 0 has it. This process then writes nothing into it and reads nothing of it: another machine may not see it.
    elsewhere: bool,
    /// Held while the run is trained; `None` if it is only read.
    _lock: Option<Arc<RunLock>>,
}

/// The folder of a new run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NewRun {
    /// This folder, which may exist but must not hold a run.
    At(PathBuf),
    /// This folder or, if it is taken, the first free one of NAME-2, NAME-3, ...
    Free(PathBuf),
}

/// The files of a run that are there before its first step; the recipe, which makes the folder a run, goes first.
const UNBEGUN: [&str; 11] = [
    "recipe.toml",
    fingerprint::FILE_NAME,
    "tokenizer.json",
    CONCEPTS,
    CODEBOOK,
    labels::FILE_NAME,
    "init.txt",
    "run.json",
    "rates.txt",
    "skipped.jsonl",
    "run.lock",
];

/// The file of a run's phrases and tags, beside its tokenizer.
pub const CONCEPTS: &str = "concepts.json";

/// The file of a run's codes of patches, if they are a k-means.
pub const CODEBOOK: &str = "codebook.safetensors";

/// Quality of the weights of a step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Best {
    /// The step.
    pub step: u64,
    /// Their score, see [`EvalRecord::goodness`].
    pub score: f64,
}

/// What a new run would write over, in a folder without a recipe.
const OF_OTHERS: [&str; 7] = [
    "tokenizer.json",
    "labels.json",
    "concepts.json",
    "run.json",
    METRICS,
    "evals.jsonl",
    "report.html",
];

/// The folder of a run's checkpoints.
pub(crate) const CHECKPOINTS: &str = "checkpoints";

/// The losses of logged steps.
const METRICS: &str = "metrics.jsonl";

impl RunFolder {
    /// Starts a new run. It chooses and takes the folder in one operation: if two processes start at once, each gets its own
    /// folder, or one of them gets an error.
    ///
    /// # Errors
    ///
    /// The folder already holds a run, which `--resume` continues, or cannot be written.
    pub fn begin(place: &NewRun, recipe: &Recipe) -> Result<Self, TrainError> {
        match place {
            NewRun::At(path) => Self::create(path, recipe),
            NewRun::Free(path) => {
                if let Some(above) = path.parent() {
                    fs::create_dir_all(above).map_err(TrainError::file("create", above))?;
                }
                let mut number = 1;
                loop {
                    let path = numbered(path, number);
                    match fs::create_dir(&path) {
                        Ok(()) => return Self::create(&path, recipe),
                        Err(error) if error.kind() == ErrorKind::AlreadyExists => number += 1,
                        Err(error) => return Err(TrainError::file("create", &path)(error)),
                    }
                }
            }
        }
    }

    /// Starts a new run in this folder. It is an error if the folder already holds a run, which `--resume` continues.
    pub fn create(path: &Path, recipe: &Recipe) -> Result<Self, TrainError> {
        Self::check_free(path)?;
        fs::create_dir_all(path).map_err(TrainError::file("create", path))?;
        let run = Self::locked(path)?;
        // Another process may have started and ended a run meanwhile.
        Self::check_free(path)?;
        run.write("recipe.toml", recipe.to_toml()?.as_bytes())?;
        Ok(run)
    }

    /// An error, before any work, if a folder already holds a run.
    pub fn check_free(path: &Path) -> Result<(), TrainError> {
        if path.join("recipe.toml").exists() {
            let reason = if checkpoint::steps(&path.join(CHECKPOINTS))?.is_empty() {
                "holds a run that has no checkpoint, so that nothing is lost with it: remove the folder to begin anew, go on with it by \
                 --resume, which begins again with step 1, or give another --out"
            } else {
                "holds a run already: go on with it by --resume, or give another --out"
            };
            return Err(TrainError::Run {
                path: path.to_owned(),
                reason: reason.to_owned(),
            });
        }
        // A run begins with its recipe, so these are another's.
        let foreign = OF_OTHERS.iter().find(|name| path.join(name).exists());
        match foreign {
            None => Ok(()),
            Some(name) => Err(TrainError::Run {
                path: path.to_owned(),
                reason: format!(
                    "holds {name} and no run: a run would replace it; give another --out, or a folder without it"
                ),
            }),
        }
    }

    /// Takes away what a start wrote that failed before its first step. A run with a session is kept.
    ///
    /// # Errors
    ///
    /// A file cannot be removed.
    pub(crate) fn remove_unless_begun(&self) -> Result<(), TrainError> {
        let kept = self.elsewhere
            || self.join("sessions.jsonl").exists()
            || !checkpoint::steps(&self.checkpoints())?.is_empty();
        if kept {
            return Ok(());
        }
        for name in UNBEGUN {
            let path = self.join(name);
            if path.is_file() {
                fs::remove_file(&path).map_err(TrainError::file("remove", &path))?;
            }
        }
        // A folder with files of others stays.
        let _ = fs::remove_dir(&self.path);
        Ok(())
    }

    /// The run's folder and all folders in it, whichever evaluator made them.
    fn folders(&self) -> Result<Vec<PathBuf>, TrainError> {
        let list = |error| TrainError::file("list", &self.path)(error);
        let mut all = vec![self.path.clone()];
        for entry in fs::read_dir(&self.path).map_err(list)? {
            let entry = entry.map_err(list)?;
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                all.push(entry.path());
            }
        }
        Ok(all)
    }

    /// Takes the run for this process, and removes files that dead processes left half-written.
    fn locked(path: &Path) -> Result<Self, TrainError> {
        let run = Self {
            path: path.to_owned(),
            elsewhere: false,
            _lock: Some(Arc::new(RunLock::take(path)?)),
        };
        for folder in run.folders()? {
            atomic::sweep(&folder).map_err(TrainError::file("list", &folder))?;
        }
        checkpoint::sweep_older(&run.checkpoints())?;
        Ok(run)
    }

    /// Opens an existing run with its recipe to train it. No other process may do so meanwhile.
    ///
    /// # Errors
    ///
    /// The folder is not a run, or another process trains it.
    pub fn open_to_train(path: &Path) -> Result<(Self, Recipe), TrainError> {
        // Nothing is written into a folder that is not a run.
        Self::open(path)?;
        let run = Self::locked(path)?;
        let (_, recipe) = Self::open(path)?;
        Ok((run, recipe))
    }

    /// Opens an existing run with its recipe.
    pub fn open(path: &Path) -> Result<(Self, Recipe), TrainError> {
        let run = Self {
            path: path.to_owned(),
            elsewhere: false,
            _lock: None,
        };
        let file = run.recipe_path();
        if !file.is_file() {
            return Err(TrainError::Run {
                path: path.to_owned(),
                reason: "is no run: it holds no recipe.toml".to_owned(),
            });
        }
        let text = fs::read_to_string(&file).map_err(TrainError::file("read", &file))?;
        let name = file.display().to_string();
        let recipe = Recipe::parse(&name, &text, Some(path), &Overrides::default())?;
        Ok((run, recipe))
    }

    /// The folder of a run that rank 0 of several writes, on the other ranks: nothing is written into it, and it seems empty.
    pub fn elsewhere(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            elsewhere: true,
            _lock: None,
        }
    }

    /// Whether another rank writes it.
    pub fn is_elsewhere(&self) -> bool {
        self.elsewhere
    }

    /// The path of the folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The path of a file or folder in it.
    pub fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    fn recipe_path(&self) -> PathBuf {
        self.join("recipe.toml")
    }

    /// The run's tokenizer.
    ///
    /// # Errors
    ///
    /// It cannot be read, or it is not the tokenizer that the run began with: its ids would mean other words.
    pub fn tokenizer(&self) -> Result<TextTokenizer, TrainError> {
        let path = self.join("tokenizer.json");
        if let Some(begun) = Fingerprint::read(&self.path)? {
            let bytes = fs::read(&path).map_err(TrainError::file("read", &path))?;
            let found = fingerprint::of_bytes(&bytes);
            if found != begun.tokenizer {
                return Err(TrainError::Run {
                    path: self.path.clone(),
                    reason: format!(
                        "tokenizer.json is not the one that the run was begun with: {} -> {found}",
                        begun.tokenizer
                    ),
                });
            }
        }
        Ok(TextTokenizer::load(&path, false)?)
    }

    /// The labels of the run's task; `None` if it has none.
    ///
    /// # Errors
    ///
    /// They cannot be read.
    pub fn labels(&self) -> Result<Option<Labels>, TrainError> {
        let path = self.join(labels::FILE_NAME);
        path.exists().then(|| Labels::read(&path)).transpose()
    }

    /// The labels of the task of this run's recipe, which must be those that it was begun with: the head has an output for each, in
    /// their order.
    ///
    /// # Errors
    ///
    /// They cannot be read, are not there though the task needs them, or are others.
    pub fn labels_of(&self, recipe: &Recipe) -> Result<Option<Labels>, TrainError> {
        let path = self.join(labels::FILE_NAME);
        let wrong = |reason: String| TrainError::Run {
            path: path.clone(),
            reason,
        };
        let task = Task::of(recipe).filter(|task| task.asks_labels());
        let Some(labels) = self.labels()? else {
            return match task {
                Some(task) => Err(wrong(format!(
                    "is not there, and alone says what the outputs of the head of [objectives.{}] mean: bring it back from a copy of the run",
                    task.key
                ))),
                None => Ok(None),
            };
        };
        let begun = Fingerprint::read(self.path())?.and_then(|begun| begun.labels);
        let bytes = fs::read(&path).map_err(TrainError::file("read", &path))?;
        let now = fingerprint::of_bytes(&bytes);
        match begun {
            Some(begun) if begun != now => Err(wrong(format!(
                "is not the file that the run was begun with ({begun}, now {now}): its {} labels would be taken for others",
                labels.len()
            ))),
            _ => Ok(Some(labels)),
        }
    }

    /// The folder of the checkpoints.
    pub fn checkpoints(&self) -> PathBuf {
        self.join(CHECKPOINTS)
    }

    /// Writes a file completely or not at all.
    pub fn write(&self, name: &str, content: &[u8]) -> Result<(), TrainError> {
        if self.elsewhere {
            return Ok(());
        }
        files::write(&self.join(name), content)
    }

    /// Writes a value as JSON.
    pub fn write_json(&self, name: &str, value: &impl Serialize) -> Result<(), TrainError> {
        let mut text = serde_json::to_vec_pretty(value).map_err(|e| self.json(name, &e))?;
        text.push(b'\n');
        self.write(name, &text)
    }

    /// Appends a value to a JSON lines file.
    pub fn append(&self, name: &str, value: &impl Serialize) -> Result<(), TrainError> {
        if self.elsewhere {
            return Ok(());
        }
        files::append_json(&self.join(name), value)
    }

    /// Removes what was logged after `step`: a killed run logged it, and a resumed run logs it again. Also removes a partial last
    /// line. Returns the seconds of training up to `step`.
    pub fn rewind(&self, step: u64) -> Result<f64, TrainError> {
        let mut seconds = 0.0;
        for name in [METRICS, "evals.jsonl"] {
            let path = self.join(name);
            if self.elsewhere {
                continue;
            }
            if !path.exists() {
                // Every step is logged, and not every run is evaluated.
                if step > 0 && name == METRICS {
                    eprintln!(
                        "{} is not there: curves and report begin at step {}",
                        path.display(),
                        step + 1
                    );
                }
                continue;
            }
            let bytes = fs::read(&path).map_err(TrainError::file("read", &path))?;
            let text = String::from_utf8_lossy(&bytes);
            let mut kept = String::new();
            let mut damaged = 0;
            for line in text.split_inclusive('\n').filter(|l| l.ends_with('\n')) {
                let Ok(value) = serde_json::from_str::<serde_json::Value>(line) else {
                    damaged += 1;
                    continue;
                };
                if value["step"].as_u64().is_some_and(|s| s <= step) {
                    kept.push_str(line);
                    seconds = value["elapsed_seconds"].as_f64().unwrap_or(seconds);
                }
            }
            if damaged > 0 {
                eprintln!(
                    "{}: {damaged} lines are no JSON and are taken out",
                    path.display()
                );
            }
            if kept.as_bytes() != bytes {
                self.write(name, kept.as_bytes())?;
            }
        }
        Ok(seconds)
    }

    /// The best evaluation so far, chosen by [`record::best`].
    pub fn best(&self) -> Result<Option<Best>, TrainError> {
        let evaluations = self.evaluations()?;
        Ok(record::best(&evaluations).map(|(eval, score)| Best {
            step: eval.step,
            score,
        }))
    }

    /// The lists of unusable samples, with the length of each; empty lists are left out.
    pub fn skipped(&self) -> Result<Vec<(PathBuf, usize)>, TrainError> {
        let mut lists = Vec::new();
        for name in record::skip_lists(&self.path) {
            let count = self.lines::<SkippedRecord>(&name)?.len();
            if count > 0 {
                lists.push((self.join(&name), count));
            }
        }
        Ok(lists)
    }

    /// Every logged step, in order.
    pub fn steps(&self) -> Result<Vec<StepRecord>, TrainError> {
        self.lines(METRICS)
    }

    /// Every evaluation during training, in order.
    pub fn evaluations(&self) -> Result<Vec<EvalRecord>, TrainError> {
        self.lines("evals.jsonl")
    }

    /// Every evaluation by `unimo eval`, in order.
    pub fn later_evaluations(&self) -> Result<Vec<EvalRecord>, TrainError> {
        self.lines("evaluations.jsonl")
    }

    /// Every start and resume so far, in order.
    pub fn sessions(&self) -> Result<Vec<SessionRecord>, TrainError> {
        self.lines("sessions.jsonl")
    }

    /// The values in a JSON lines file; empty if there is no file. A partial last line is left out.
    fn lines<T: DeserializeOwned>(&self, name: &str) -> Result<Vec<T>, TrainError> {
        let path = self.join(name);
        if self.elsewhere || !path.exists() {
            return Ok(Vec::new());
        }
        let text = fs::read_to_string(&path).map_err(TrainError::file("read", &path))?;
        Ok(text
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect())
    }

    fn json(&self, name: &str, error: &serde_json::Error) -> TrainError {
        TrainError::Run {
            path: self.join(name),
            reason: error.to_string(),
        }
    }
}

/// `NAME`, `NAME-2`, `NAME-3`, ...
fn numbered(path: &Path, number: usize) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    if number > 1 {
        name.push(format!("-{number}"));
    }
    path.with_file_name(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recipe::BUILT_IN;

    #[test]
    fn rewinding_cuts_later_steps_and_half_a_line() {
        let folder = tempfile::tempdir().unwrap();
        let recipe = Recipe::load(BUILT_IN[0].name, &Overrides::default()).unwrap();
        let run = RunFolder::create(folder.path(), &recipe).unwrap();
        let lines =
            "{\"step\":10,\"elapsed_seconds\":1.5}\n{\"step\":20,\"elapsed_seconds\":3}\n{\"st";
        fs::write(run.join("metrics.jsonl"), lines).unwrap();
        assert_eq!(run.rewind(10).unwrap(), 1.5);
        let left = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
        assert_eq!(left, "{\"step\":10,\"elapsed_seconds\":1.5}\n");
    }

    #[test]
    fn the_best_is_the_first_of_equals() {
        let folder = tempfile::tempdir().unwrap();
        let recipe = Recipe::load(BUILT_IN[0].name, &Overrides::default()).unwrap();
        let run = RunFolder::create(folder.path(), &recipe).unwrap();
        assert_eq!(run.best().unwrap(), None);
        let recall = |r1: f64| format!("{{\"r1\":{r1},\"r5\":1,\"r10\":1,\"median_rank\":1}}");
        let lines: String = [(10, 0.1), (20, 0.3), (30, 0.2), (40, 0.3)]
            .iter()
            .map(|(step, r1)| {
                let r = recall(*r1);
                format!(
                    "{{\"step\":{step},\"split\":\"val\",\"images\":1,\"texts\":1,\"retrieval\":[{{\"method\":\"itc\",\"text_to_image\":{r},\"image_to_text\":{r}}}]}}\n"
                )
            })
            .collect();
        fs::write(run.join("evals.jsonl"), lines).unwrap();
        assert_eq!(run.best().unwrap().unwrap().step, 20);
        let evaluated = |step| run.evaluations().unwrap().iter().any(|e| e.step == step);
        assert!(evaluated(40) && !evaluated(50));
    }

    #[test]
    fn two_that_begin_at_once_get_two_folders_or_one_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let recipe = Recipe::load(BUILT_IN[0].name, &Overrides::default()).unwrap();
        const AT_ONCE: usize = 8;
        let all = |place: &NewRun| -> Vec<Result<RunFolder, TrainError>> {
            std::thread::scope(|scope| {
                let threads: Vec<_> = (0..AT_ONCE)
                    .map(|_| scope.spawn(|| RunFolder::begin(place, &recipe)))
                    .collect();
                threads.into_iter().map(|t| t.join().unwrap()).collect()
            })
        };
        let free = all(&NewRun::Free(folder.path().join("runs/free")));
        let mut names: Vec<_> = free
            .iter()
            .map(|run| run.as_ref().unwrap().path().file_name().unwrap().to_owned())
            .collect();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), AT_ONCE);
        assert_eq!(names[..2], ["free", "free-2"]);

        let at = all(&NewRun::At(folder.path().join("at")));
        let (begun, refused): (Vec<_>, Vec<_>) = at.into_iter().partition(Result::is_ok);
        assert_eq!(begun.len(), 1);
        for error in refused {
            let error = error.unwrap_err().to_string();
            let clear = error.contains("another process") || error.contains("--resume");
            assert!(clear, "{error}");
        }
    }

    #[test]
    fn a_run_is_trained_by_one_and_looked_at_by_others() {
        let folder = tempfile::tempdir().unwrap();
        let recipe = Recipe::load(BUILT_IN[0].name, &Overrides::default()).unwrap();
        let run = RunFolder::create(folder.path(), &recipe).unwrap();
        let left = [
            "checkpoints/step-00000002.safetensors.part",
            "checkpoints/.tmpAb3dEf",
            "checkpoints/.step-00000002.safetensors.4000000-3.part",
            ".recipe.toml.4000000-1.part",
            "patches/.0.webp.4000000-7.part",
        ];
        fs::create_dir(run.checkpoints()).unwrap();
        fs::create_dir(run.join("patches")).unwrap();
        for name in left {
            fs::write(run.join(name), "half").unwrap();
        }
        let second = RunFolder::open_to_train(folder.path()).unwrap_err();
        assert!(second.to_string().contains("another process"), "{second}");
        assert!(run.join(left[0]).exists());
        RunFolder::open(folder.path()).unwrap();
        drop(run);
        let (run, _) = RunFolder::open_to_train(folder.path()).unwrap();
        for name in left {
            assert!(!run.join(name).exists(), "{name}");
        }
    }

    #[test]
    fn a_run_is_not_overwritten_and_a_folder_is_no_run() {
        let folder = tempfile::tempdir().unwrap();
        let recipe = Recipe::load(BUILT_IN[0].name, &Overrides::default()).unwrap();
        assert!(RunFolder::open(folder.path()).is_err());
        RunFolder::create(folder.path(), &recipe).unwrap();
        let error = RunFolder::create(folder.path(), &recipe).unwrap_err();
        assert!(error.to_string().contains("--resume"));
        assert_eq!(RunFolder::open(folder.path()).unwrap().1, recipe);
    }
}

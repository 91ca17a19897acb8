//! A recipe's downstream task: the objective that predicts, and `[task]`, which says what its labels are.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use unimo_batch::{ConfigError, config};
use unimo_data::SourceKind;
use unimo_objectives::Predicts;

use crate::recipe::Recipe;

/// A recipe's task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Task {
    /// The objective's key.
    pub key: &'static str,
    /// What it predicts.
    pub predicts: Predicts,
}

impl Task {
    /// A recipe's task, if it has one.
    pub fn of(recipe: &Recipe) -> Option<Self> {
        let each = recipe.objectives.each().into_iter();
        let mut tasks = each.filter_map(|(key, settings)| {
            let predicts = settings.predicts()?;
            Some(Self { key, predicts })
        });
        tasks.next()
    }

    /// Whether its labels depend on the data.
    pub(crate) fn asks_labels(self) -> bool {
        match self.predicts {
            Predicts::Answers { .. } => true,
            Predicts::Class { names, .. } => names.is_empty(),
            Predicts::Number | Predicts::Box => false,
        }
    }
}

/// Checks a recipe's task against its `[task]` table.
///
/// # Errors
///
/// There are two tasks, the table is absent and needed, or it is there and changes nothing.
pub(crate) fn check(recipe: &Recipe) -> Result<(), ConfigError> {
    let each = recipe.objectives.each().into_iter();
    let keys: Vec<&str> = each
        .filter(|(_, settings)| settings.predicts().is_some())
        .map(|(key, _)| key)
        .collect();
    ConfigError::unless(
        keys.len() <= 1,
        "objectives",
        keys.join(" and "),
        "must have one task at most: the labels of a run are those of one task",
    )?;
    for (section, data) in recipe.each_data() {
        let mixture = data.mixture.as_ref();
        let mixture = mixture.filter(|_| data.source == SourceKind::Mixture);
        let weighted = mixture.is_some_and(|mixture| mixture.is_weighted());
        ConfigError::unless(
            keys.is_empty() || !weighted,
            &format!("{section}.mixture"),
            "weights or a temperature",
            "must have neither for a task, whose epochs have every text once",
        )?;
    }
    if let Some(task) = Task::of(recipe)
        && task.predicts == Predicts::Box
    {
        check_still(recipe, task)?;
    }
    let asks = Task::of(recipe).is_some_and(Task::asks_labels);
    match &recipe.task {
        Some(task) => {
            ConfigError::unless(
                asks,
                "task",
                "{}",
                "must be absent: no objective of this recipe takes its labels from the data",
            )?;
            task.validate().map_err(|e| e.within("task"))?;
            fits(task, Task::of(recipe)).map_err(|e| e.within("task"))
        }
        None => ConfigError::unless(
            !asks,
            "task",
            "absent",
            format_args!(
                "is needed by [objectives.{}]: it says what the labels are, such as labels = {{ kind = \"count\", least = 9 }}",
                keys.first().copied().unwrap_or_default()
            ),
        ),
    }
}

/// Checks that nothing moves what an image shows, where a box in it is to be predicted.
fn check_still(recipe: &Recipe, task: Task) -> Result<(), ConfigError> {
    let mut all = recipe.each_data().into_iter();
    let moves = all.any(|(_, data)| data.augment.is_some_and(|augment| augment.moves()));
    ConfigError::unless(
        !moves,
        "data.augment",
        "a crop, a flip or rand_augment",
        format_args!(
            "must be absent or leave the image in its place (scale = [1.0, 1.0], flip = 0.0, no rand_augment): \
             [objectives.{}] predicts boxes, which would no longer fit, and expressions say left and right",
            task.key
        ),
    )
}

/// Checks that a task's labels are of the kind that it predicts.
fn fits(config: &TaskConfig, task: Option<Task>) -> Result<(), ConfigError> {
    let class = task.is_some_and(|task| matches!(task.predicts, Predicts::Class { .. }));
    ConfigError::unless(
        class || config.shots.is_none(),
        "shots",
        config.shots.unwrap_or_default(),
        "must be absent: only samples of classes are counted by class",
    )?;
    match &config.labels {
        LabelsConfig::Classes { .. } => ConfigError::unless(
            class,
            "labels.kind",
            "\"classes\"",
            "must be \"count\", \"list\" or \"file\": the task predicts answers",
        ),
        LabelsConfig::Count { .. } => ConfigError::unless(
            !class,
            "labels.kind",
            "\"count\"",
            "must be \"classes\", \"list\" or \"file\": the task predicts a class, and every class counts",
        ),
        LabelsConfig::List { .. } | LabelsConfig::File { .. } => Ok(()),
    }
}

/// `[task]`: what the labels of a task are. A task whose labels are the same for all data needs no such table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TaskConfig {
    /// Where the labels come from.
    pub labels: LabelsConfig,
    /// Whether the answers of people are looked up as they were written, and only then normalised to be counted, as METER does.
    /// Otherwise they are normalised first, as BridgeTower does.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub raw_answers: bool,
    /// Number of random training samples of each class; absent: all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shots: Option<usize>,
}

/// Where the labels of a task come from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum LabelsConfig {
    /// From the answers of the training data, in the order of their first occurrence (METER's `write_vqa.py`).
    Count {
        /// How often an answer occurs at least (METER: 9).
        least: usize,
        /// Whether the held-out questions are counted too, as in the papers. Their answers then decide what can be answered.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        held_out: bool,
    },
    /// The classes of the training data: in the order of a benchmark whose labels are numbered, else sorted by name as `ImageFolder`
    /// does.
    Classes {
        /// Which of them are labels.
        #[serde(default, skip_serializing_if = "ClassPart::is_default")]
        part: ClassPart,
    },
    /// As they stand here.
    List {
        /// The labels in the order of the head.
        names: Vec<String>,
    },
    /// From a file: a JSON list of labels, a JSON object of labels with their numbers, or one label per line.
    File {
        /// The file.
        path: PathBuf,
    },
}

/// Which classes of the data are labels.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClassPart {
    /// All of them.
    #[default]
    All,
    /// The first half of them in their order, rounded up: those that are learned when others are to be told too (base-to-novel). Images of
    /// the others are not trained on, and counted.
    Base,
}

impl ClassPart {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

impl TaskConfig {
    /// Checks every value.
    ///
    /// # Errors
    ///
    /// A value is out of range, or a label stands twice.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let checked = match &self.labels {
            LabelsConfig::Count { least, .. } => config::positive("least", *least),
            LabelsConfig::Classes { .. } => Ok(()),
            LabelsConfig::List { names } => {
                numbered(names).map(drop).map_err(|reason| ConfigError {
                    key: "names".to_owned(),
                    value: format!("{names:?}"),
                    allowed: reason,
                })
            }
            LabelsConfig::File { path } => ConfigError::unless(
                !path.as_os_str().is_empty(),
                "path",
                "\"\"",
                "must be the path of a file",
            ),
        };
        checked.map_err(|e| e.within("labels"))?;
        self.shots
            .map_or(Ok(()), |shots| config::positive("shots", shots))
    }

    /// Makes a relative path relative to `folder`.
    pub(crate) fn rebase(&mut self, folder: &Path) {
        if let LabelsConfig::File { path } = &mut self.labels {
            *path = folder.join(&*path);
        }
    }
}

/// The number of each label.
///
/// # Errors
///
/// There are fewer than two, or one stands twice; says what is allowed.
pub(crate) fn numbered(names: &[String]) -> Result<HashMap<String, u32>, String> {
    if names.len() < 2 {
        return Err(format!("must be two labels or more, not {}", names.len()));
    }
    let mut numbers = HashMap::with_capacity(names.len());
    for (number, name) in (0..).zip(names) {
        if let Some(before) = numbers.insert(name.clone(), number) {
            return Err(format!(
                "must have every label once; {name:?} is number {before} and number {number}"
            ));
        }
    }
    Ok(numbers)
}

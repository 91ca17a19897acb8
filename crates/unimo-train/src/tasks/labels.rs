//! The labels of a task: the answers or classes that a head gives, in its order.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;

use unimo_data::{Readable, SampleError, Source, Split};
use unimo_eval::vqa::normalise;
use unimo_objectives::Predicts;

use crate::error::TrainError;
use crate::files;
use crate::recipe::task::{ClassPart, LabelsConfig, Task, numbered};

/// The file of a run's labels, beside its tokenizer: a JSON list.
pub const FILE_NAME: &str = "labels.json";

/// Labels in the order of a head.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Labels {
    names: Vec<String>,
    numbers: HashMap<String, u32>,
}

impl Labels {
    /// The labels of these names.
    ///
    /// # Errors
    ///
    /// There are fewer than two, or one stands twice; says what is allowed.
    pub fn new(names: Vec<String>) -> Result<Self, String> {
        let numbers = numbered(&names)?;
        Ok(Self { names, numbers })
    }

    /// The labels of a task that has the same for all data; `None` for other tasks.
    pub(crate) fn fixed(task: Task) -> Result<Option<Self>, TrainError> {
        let Predicts::Class { names, .. } = task.predicts else {
            return Ok(None);
        };
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let labels = (!names.is_empty()).then(|| Self::new(names));
        labels.transpose().map_err(TrainError::Check)
    }

    /// Reads labels from a file; see [`LabelsConfig::File`].
    ///
    /// # Errors
    ///
    /// The file cannot be read or holds something else.
    pub fn read(path: &Path) -> Result<Self, TrainError> {
        let text = std::fs::read_to_string(path).map_err(TrainError::file("read", path))?;
        let wrong = |reason: String| TrainError::Labels {
            path: path.to_owned(),
            reason,
        };
        let names = match text.trim_start().chars().next() {
            Some('[') => serde_json::from_str(&text).map_err(|e| wrong(e.to_string()))?,
            Some('{') => {
                let numbered: HashMap<String, usize> =
                    serde_json::from_str(&text).map_err(|e| wrong(e.to_string()))?;
                by_number(numbered).map_err(wrong)?
            }
            _ => {
                let lines = text.lines().map(str::trim_end);
                lines
                    .filter(|line| !line.is_empty())
                    .map(str::to_owned)
                    .collect()
            }
        };
        Self::new(names).map_err(wrong)
    }

    /// The labels that a recipe asks for, with a line that says how many there are.
    ///
    /// # Errors
    ///
    /// A file or the data cannot be read, or there are fewer than two labels.
    pub fn make(config: &LabelsConfig, source: &dyn Source) -> Result<(Self, String), TrainError> {
        let (labels, mut line) = Self::asked(config, source)?;
        if let Some(alike) = labels.alike() {
            line += &format!("; {alike}");
        }
        Ok((labels, line))
    }

    /// What is said of labels that differ in capitals or spaces alone, and so may be meant to be one.
    fn alike(&self) -> Option<String> {
        let mut seen: HashMap<String, &str> = HashMap::new();
        let mut found: Vec<(&str, &str)> = Vec::new();
        for name in &self.names {
            let plain = name.split_whitespace().collect::<Vec<_>>().join(" ");
            if let Some(before) = seen.get(&plain.to_lowercase()) {
                found.push((before, name));
            } else {
                seen.insert(plain.to_lowercase(), name);
            }
        }
        let (first, again) = found.first()?;
        Some(format!(
            "{} differ from another in capitals or spaces alone, such as {first:?} and {again:?}, and are labels of their own",
            found.len()
        ))
    }

    fn asked(config: &LabelsConfig, source: &dyn Source) -> Result<(Self, String), TrainError> {
        match config {
            LabelsConfig::List { names } => {
                let labels = Self::new(names.clone()).map_err(TrainError::Check)?;
                let line = format!("{} labels, from the recipe", labels.len());
                Ok((labels, line))
            }
            LabelsConfig::File { path } => {
                let labels = Self::read(path)?;
                let line = format!("{} labels, from {}", labels.len(), path.display());
                Ok((labels, line))
            }
            LabelsConfig::Classes { part } => Self::classes(source, *part),
            LabelsConfig::Count { least, held_out } => {
                let mut splits = vec![Split::Train];
                splits.extend(held_out.then_some(Split::Val));
                Self::count(source, &splits, *least)
            }
        }
    }

    /// The classes of the training split, or some of them.
    fn classes(source: &dyn Source, part: ClassPart) -> Result<(Self, String), TrainError> {
        let (mut all, line) = Self::all_classes(source)?;
        let count = all.len();
        if part == ClassPart::All {
            return Ok((all, line));
        }
        all.names.truncate(count.div_ceil(2));
        let base = Self::new(all.names).map_err(|reason| {
            TrainError::Check(format!(
                "task.labels.part = \"base\" {reason}: it takes the first half of {count} classes; the data is {}",
                source.describe()
            ))
        })?;
        let line = format!("{}; the first {} of {count} are learned", line, base.len());
        Ok((base, line))
    }

    /// Every class of the training split.
    fn all_classes(source: &dyn Source) -> Result<(Self, String), TrainError> {
        let wrong = |reason: String| {
            TrainError::Check(format!(
                "task.labels of kind \"classes\" {reason}; the data is {}",
                source.describe()
            ))
        };
        let own = source.classes();
        if !own.is_empty() {
            let line = format!("{} labels, in the order of the benchmark", own.len());
            return Ok((Self::new(own).map_err(wrong)?, line));
        }
        let mut answers = Readable::new(answers_of(source, &[Split::Train]));
        let found: BTreeSet<String> = answers.by_ref().collect();
        let found: Vec<String> = answers.whole(found.into_iter().collect())?;
        // A label must stand on a line of its own in files and reports.
        let unusable = |label: &&String| label.trim().is_empty() || label.contains(['\n', '\t']);
        if let Some(label) = found.iter().find(unusable) {
            return Err(wrong(format!(
                "must have labels that are not empty and hold neither tabs nor line breaks; {label:?} is one"
            )));
        }
        let line = format!("{} labels: the classes of the training data", found.len());
        Ok((Self::new(found).map_err(wrong)?, line))
    }

    /// Counts answers, normalised.
    fn count(
        source: &dyn Source,
        splits: &[Split],
        least: usize,
    ) -> Result<(Self, String), TrainError> {
        let mut answers = Readable::new(answers_of(source, splits));
        let mut seen: HashMap<String, usize> = HashMap::new();
        let mut counts: Vec<(String, usize)> = Vec::new();
        for answer in &mut answers {
            let answer = normalise(&answer);
            match seen.get(&answer) {
                Some(at) => counts[*at].1 += 1,
                None => {
                    seen.insert(answer.clone(), counts.len());
                    counts.push((answer, 1));
                }
            }
        }
        let all = answers.whole(counts.len())?;
        let kept: Vec<String> = counts
            .into_iter()
            .filter(|(_, count)| *count >= least)
            .map(|(answer, _)| answer)
            .collect();
        let line = format!(
            "{} labels: the answers that occur {least} times or more, of {all} different ones",
            kept.len()
        );
        let labels = Self::new(kept).map_err(|reason| {
            TrainError::Check(format!(
                "task.labels of kind \"count\" {reason}: {all} different answers were found, kept are those that occur {least} times or \
                 more, in {}",
                source.describe()
            ))
        })?;
        Ok((labels, line))
    }

    /// Writes them as a JSON list.
    ///
    /// # Errors
    ///
    /// The file cannot be written.
    pub fn save(&self, path: &Path) -> Result<(), TrainError> {
        let text = serde_json::to_string_pretty(&self.names)
            .map_err(|e| TrainError::file("write", path)(e.into()))?;
        files::write(path, text.as_bytes())
    }

    /// Number of labels.
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// Whether there is none, which no constructor gives.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// The label of a number.
    pub fn name(&self, number: usize) -> Option<&str> {
        self.names.get(number).map(String::as_str)
    }

    /// All labels in order.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// The number of a label.
    pub fn number(&self, name: &str) -> Option<u32> {
        self.numbers.get(name).copied()
    }
}

/// Every answer of some splits. If one only cannot be read, its error takes its place.
fn answers_of<'a>(
    source: &'a dyn Source,
    splits: &'a [Split],
) -> impl Iterator<Item = Result<String, SampleError>> + 'a {
    splits.iter().flat_map(move |split| {
        (0..source.len(*split)).flat_map(move |index| {
            let (labels, error) = match source.labels(*split, index) {
                Ok(labels) => (labels, None),
                Err(error) => (Vec::new(), Some(error).filter(SampleError::is_unavailable)),
            };
            let answers = labels.into_iter().filter_map(|label| label.answer);
            answers.map(Ok).chain(error.map(Err))
        })
    })
}

/// Labels given with their numbers, in order.
fn by_number(numbered: HashMap<String, usize>) -> Result<Vec<String>, String> {
    let count = numbered.len();
    let mut names = vec![None; count];
    for (name, number) in numbered {
        match names.get_mut(number) {
            Some(place @ None) => *place = Some(name),
            Some(Some(other)) => {
                return Err(format!("{name:?} and {other:?} have the number {number}"));
            }
            None => {
                return Err(format!(
                    "{name:?} has the number {number}; {count} labels have the numbers 0 to {}",
                    count - 1
                ));
            }
        }
    }
    Ok(names.into_iter().flatten().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Labels, TrainError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("labels");
        std::fs::write(&path, text).unwrap();
        Labels::read(&path)
    }

    #[test]
    fn three_kinds_of_file_give_the_same_labels() {
        for text in ["[\"a\", \"b b\"]", "{\"b b\": 1, \"a\": 0}", "a\nb b\r\n\n"] {
            let labels = read(text).unwrap();
            assert_eq!(labels.names(), ["a", "b b"], "{text}");
            assert_eq!(labels.number("b b"), Some(1));
            assert_eq!(labels.number("c"), None);
        }
    }

    #[test]
    fn what_are_no_labels_is_an_error() {
        for (text, part) in [
            ("[\"a\", \"a\"]", "\"a\" is number 0 and number 1"),
            ("[\"a\"]", "two labels or more, not 1"),
            ("[\"a\", 5]", "invalid type"),
            ("{\"a\": 0, \"b\": 2}", "\"b\" has the number 2"),
            ("{\"a\": 0, \"b\": 0}", "have the number 0"),
            ("", "not 0"),
        ] {
            let error = read(text).unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}

//! GLUE: tasks about one English sentence or two, as the benchmark ships its files.
//!
//! ```toml
//! [data]
//! source = "glue"
//!
//! [data.glue]
//! task = "sst2"
//! path = "glue/SST-2"
//! ```
//!
//! | task | sentences | labels, in the order of Hugging Face |
//! |---|---|---|
//! | `sst2` | one | negative, positive |
//! | `cola` | one | unacceptable, acceptable |
//! | `stsb` | two | a number, 0 to 5 |
//! | `mnli` | two | entailment, neutral, contradiction |
//! | `mrpc` | two | not_equivalent, equivalent |
//! | `qqp` | two | not_duplicate, duplicate |
//! | `qnli` | two | entailment, not_entailment |
//! | `rte` | two | entailment, not_entailment |
//!
//! The folder holds `train.tsv`, `dev.tsv` and `test.tsv`, each where it is there; MNLI has `dev_matched.tsv` and `dev_mismatched.tsv`
//! (and the same for `test`), MRPC may have `msr_paraphrase_train.txt` and `msr_paraphrase_test.txt`, and CoLA the files of its own
//! release, `in_domain_train.tsv`, `in_domain_dev.tsv` and `out_of_domain_dev.tsv`. Cells are separated by tabs, and quotes are text.
//!
//! Columns are found by the header line. A file without a header is one of CoLA (source, label, mark, sentence), or sentence and label;
//! the notes say so. The labels of a test file are not known, unless it has them.

use std::path::PathBuf;
use std::sync::Arc;

use image::RgbImage;
use serde::{Deserialize, Serialize};

use crate::error::{DataError, Place, SampleError};
use crate::formats::encoding::NOT_UTF8;
use crate::formats::rows::{Span, Spans, each_line};
use crate::images::Limits;
use crate::sources::given::given;
use crate::sources::label::Label;
use crate::sources::source::{Annotations, Offers, Sample, Source, SourceConfig, TextsOf};
use crate::sources::splits::{BySplit, Split};
use crate::text::spaced;

/// `[data.glue]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GlueConfig {
    /// The task.
    pub task: GlueTask,
    /// The folder of its files.
    pub path: PathBuf,
}

/// A task of GLUE.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GlueTask {
    /// Stanford Sentiment Treebank: is a sentence positive?
    Sst2,
    /// Corpus of Linguistic Acceptability: is a sentence grammatical?
    Cola,
    /// Semantic Textual Similarity Benchmark: how similar are two sentences?
    Stsb,
    /// Multi-genre natural language inference.
    Mnli,
    /// Microsoft Research Paraphrase Corpus.
    Mrpc,
    /// Quora Question Pairs.
    Qqp,
    /// Question-answering natural language inference.
    Qnli,
    /// Recognising textual entailment.
    Rte,
}

/// What a label's cell holds.
enum Cells {
    /// The number of the class.
    Numbers,
    /// The name of the class.
    Names,
    /// The label itself, a number.
    Score,
}

impl GlueTask {
    /// The labels in the order of Hugging Face; empty for a number.
    pub fn labels(self) -> &'static [&'static str] {
        match self {
            Self::Sst2 => &["negative", "positive"],
            Self::Cola => &["unacceptable", "acceptable"],
            Self::Stsb => &[],
            Self::Mnli => &["entailment", "neutral", "contradiction"],
            Self::Mrpc => &["not_equivalent", "equivalent"],
            Self::Qqp => &["not_duplicate", "duplicate"],
            Self::Qnli | Self::Rte => &["entailment", "not_entailment"],
        }
    }

    /// Names of the columns with the first sentence, the second one and the label.
    fn columns(self) -> (&'static str, Option<&'static str>, &'static str) {
        match self {
            Self::Sst2 | Self::Cola => ("sentence", None, "label"),
            Self::Stsb => ("sentence1", Some("sentence2"), "score"),
            Self::Mnli => ("sentence1", Some("sentence2"), "gold_label"),
            Self::Mrpc => ("#1 String", Some("#2 String"), "Quality"),
            Self::Qqp => ("question1", Some("question2"), "is_duplicate"),
            Self::Qnli => ("question", Some("sentence"), "label"),
            Self::Rte => ("sentence1", Some("sentence2"), "label"),
        }
    }

    fn cells(self) -> Cells {
        match self {
            Self::Sst2 | Self::Cola | Self::Mrpc | Self::Qqp => Cells::Numbers,
            Self::Mnli | Self::Qnli | Self::Rte => Cells::Names,
            Self::Stsb => Cells::Score,
        }
    }

    /// The label of a cell.
    fn label(self, cell: &str) -> Result<String, String> {
        let labels = self.labels();
        let found = match self.cells() {
            Cells::Numbers => {
                let number = cell.parse::<usize>().ok();
                number.and_then(|number| labels.get(number)).copied()
            }
            Cells::Names => labels.iter().find(|label| **label == cell).copied(),
            Cells::Score => {
                let score = cell.parse::<f64>().ok();
                score.filter(|s| (0.0..=5.0).contains(s)).map(|_| cell)
            }
        };
        found.map(str::to_owned).ok_or_else(|| {
            let allowed = match self.cells() {
                Cells::Numbers => format!("0 to {}", labels.len() - 1),
                Cells::Names => labels.join(", "),
                Cells::Score => "a number from 0 to 5".to_owned(),
            };
            format!("the label is {cell:?}; allowed: {allowed}")
        })
    }

    /// A line of a submission's file, without its line end: the id of a test sample, a tab, and the predicted label or number. The first
    /// line of the file is `index\tprediction`. GLUE's server takes the names of labels where the training file has names, else their
    /// numbers.
    ///
    /// # Errors
    ///
    /// The prediction is no label of the task; says what is allowed.
    pub fn line(self, id: &str, prediction: &str) -> Result<String, String> {
        let told = match self.cells() {
            Cells::Numbers => {
                let labels = self.labels();
                let number = labels.iter().position(|label| *label == prediction);
                let number = number.ok_or_else(|| {
                    format!("{prediction:?} is no label; allowed: {}", labels.join(", "))
                })?;
                number.to_string()
            }
            Cells::Names => self.label(prediction)?,
            // A regression may leave the scale.
            Cells::Score => prediction.to_owned(),
        };
        Ok(format!("{id}\t{told}"))
    }
}

/// Files of a split: the first row of names of which one is there. The second name says what part of the split a file is.
type Names = &'static [&'static [(&'static str, &'static str)]];

const TRAIN: Names = &[
    &[("train.tsv", "")],
    &[("in_domain_train.tsv", "")],
    &[("msr_paraphrase_train.txt", "")],
];
const VAL: Names = &[
    &[("dev.tsv", "")],
    &[
        ("dev_matched.tsv", "matched"),
        ("dev_mismatched.tsv", "mismatched"),
    ],
    &[
        ("in_domain_dev.tsv", "in domain"),
        ("out_of_domain_dev.tsv", "out of domain"),
    ],
];
const TEST: Names = &[
    &[("test.tsv", "")],
    &[
        ("test_matched.tsv", "matched"),
        ("test_mismatched.tsv", "mismatched"),
    ],
    &[("msr_paraphrase_test.txt", "")],
];

impl SourceConfig for GlueConfig {
    fn validate(&self, table: &str) -> Result<(), DataError> {
        given(table, "path", &self.path, "a folder with GLUE's files")
    }

    fn paths(&mut self) -> Vec<&mut PathBuf> {
        vec![&mut self.path]
    }

    fn open(&self, _: &Limits) -> Result<Arc<dyn Source>, DataError> {
        let mut glue = Glue {
            task: self.task,
            folder: self.path.clone(),
            files: Vec::new(),
            rows: BySplit::default(),
            rejected: Vec::new(),
        };
        for (split, names) in [
            (Split::Train, TRAIN),
            (Split::Val, VAL),
            (Split::Test, TEST),
        ] {
            let there = |(name, _): &&(&str, &str)| self.path.join(name).is_file();
            let found = names
                .iter()
                .find(|names| names.iter().any(|name| there(&name)));
            for (name, part) in found
                .into_iter()
                .flat_map(|names| names.iter())
                .filter(there)
            {
                glue.read(split, name, part)?;
            }
        }
        if Split::ALL.into_iter().all(|split| glue.is_empty(split)) {
            let first = glue.rejected.first();
            return Err(DataError::Manifest {
                path: self.path.clone(),
                reason: first.map_or(
                    "none of train.tsv, dev.tsv and test.tsv in it; data.glue says which other names are known".to_owned(),
                    |first| format!("no row can be used, the first: {first}"),
                ),
            });
        }
        Ok(Arc::new(glue))
    }
}

/// The places of a file's columns.
#[derive(Debug, Clone, Copy)]
struct Columns {
    first: usize,
    second: Option<usize>,
    label: Option<usize>,
    id: Option<usize>,
    /// Number of cells of a row.
    cells: usize,
}

impl Columns {
    /// The columns of a file whose first line has these cells, and whether that line is a header.
    fn of(task: GlueTask, line: &[&str]) -> Result<(Self, bool), String> {
        let at = |name: &str| line.iter().position(|cell| *cell == name);
        let (first, second, label) = task.columns();
        let twice = |name: &&str| line.iter().filter(|cell| *cell == name).count() > 1;
        if let Some(twice) = [Some(first), second, Some(label)]
            .into_iter()
            .flatten()
            .find(twice)
        {
            return Err(format!("column `{twice}` is there more than once"));
        }
        if let Some(found) = at(first) {
            let second =
                match second {
                    None => None,
                    Some(name) => Some(at(name).ok_or_else(|| {
                        format!("no column `{name}`; there are {}", line.join(", "))
                    })?),
                };
            let columns = Self {
                first: found,
                second,
                label: at(label),
                id: at("index").or_else(|| at("id")),
                cells: line.len(),
            };
            return Ok((columns, true));
        }
        let without = |first: usize, label: usize| Self {
            first,
            second: None,
            label: Some(label),
            id: None,
            cells: line.len(),
        };
        match (task, line.len()) {
            (GlueTask::Cola, 4) => Ok((without(3, 1), false)),
            (GlueTask::Sst2 | GlueTask::Cola, 2) => Ok((without(0, 1), false)),
            _ => Err(format!(
                "the first line has no column `{first}`, and {} cells; it is no file of this task",
                line.len()
            )),
        }
    }
}

/// A file of a task.
#[derive(Debug)]
struct File {
    path: PathBuf,
    columns: Columns,
    has_header: bool,
    /// What part of its split it is; empty: the whole.
    part: &'static str,
    /// The line of its first row, by which rows without an id are numbered from 0.
    first_line: u32,
}

/// GLUE. See the [module](self).
#[derive(Debug)]
struct Glue {
    task: GlueTask,
    folder: PathBuf,
    files: Vec<File>,
    /// File and location of each row.
    rows: BySplit<Vec<(u32, Span)>>,
    rejected: Vec<SampleError>,
}

/// A row of a file.
struct Row {
    first: String,
    second: Option<String>,
    label: Label,
}

impl Glue {
    fn read(&mut self, split: Split, name: &str, part: &'static str) -> Result<(), DataError> {
        let path = self.folder.join(name);
        let shown = path.display().to_string();
        let number = self.files.len() as u32;
        let mut file: Option<File> = None;
        let mut wrong = None;
        each_line(&path, &mut |span, line| {
            if wrong.is_some() {
                return;
            }
            let reject = |reason: String| {
                let place = Place {
                    file: shown.clone(),
                    line: u64::from(span.line),
                };
                SampleError::new(place, reason)
            };
            let text = match line.and_then(text_of) {
                Ok(text) if text.trim().is_empty() => return,
                Ok(text) => text,
                Err(reason) => {
                    self.rejected.push(reject(reason));
                    return;
                }
            };
            let file = match &file {
                Some(file) => file,
                None => {
                    let cells: Vec<&str> = cells_of(&text).collect();
                    match Columns::of(self.task, &cells) {
                        Ok((columns, has_header)) => {
                            let opened = file.insert(File {
                                path: path.clone(),
                                columns,
                                has_header,
                                part,
                                first_line: span.line + u32::from(has_header),
                            });
                            if has_header {
                                return;
                            }
                            opened
                        }
                        Err(reason) => {
                            wrong = Some(reason);
                            return;
                        }
                    }
                }
            };
            match file.row(self.task, &text, span) {
                Ok(_) => self.rows[split].push((number, span)),
                Err(reason) => self.rejected.push(reject(reason)),
            }
        })?;
        if let Some(reason) = wrong {
            return Err(DataError::Manifest { path, reason });
        }
        self.files.extend(file);
        Ok(())
    }

    fn at(&self, split: Split, index: usize) -> (&File, Span) {
        let (file, span) = self.rows[split][index];
        (&self.files[file as usize], span)
    }

    fn row(&self, split: Split, index: usize) -> Result<Row, SampleError> {
        let (file, span) = self.at(split, index);
        let again = |reason: &str| format!("the file cannot be read again: {reason}");
        let list = Spans::reopen(&file.path)
            .map_err(|error| SampleError::new(self.place(split, index), error.told(again)))?;
        let text = text_of(list.line(span)?).map_err(|reason| list.bad(span, reason))?;
        file.row(self.task, &text, span)
            .map_err(|_| list.changed(span))
    }
}

fn text_of(line: Vec<u8>) -> Result<String, String> {
    String::from_utf8(line).map_err(|_| NOT_UTF8.to_owned())
}

fn cells_of(line: &str) -> impl Iterator<Item = &str> {
    let line = line.strip_prefix('\u{feff}').unwrap_or(line);
    line.split('\t').map(str::trim)
}

impl File {
    fn row(&self, task: GlueTask, line: &str, span: Span) -> Result<Row, String> {
        let cells: Vec<&str> = cells_of(line).collect();
        let columns = &self.columns;
        // Rows of MNLI and STS-B have further cells at their end now and then; a row with fewer is cut off.
        if cells.len() < columns.cells {
            return Err(format!(
                "{} cells, {} are needed",
                cells.len(),
                columns.cells
            ));
        }
        let sentence = |at: usize| spaced(cells[at]).ok_or("an empty sentence");
        let answer = columns.label.map(|at| task.label(cells[at]));
        let kinds = match self.part {
            "" => Vec::new(),
            part => vec![("part".to_owned(), part.to_owned())],
        };
        Ok(Row {
            first: sentence(columns.first)?,
            second: columns.second.map(sentence).transpose()?,
            label: Label {
                id: match columns.id {
                    Some(at) => cells[at].to_owned(),
                    None => (span.line - self.first_line).to_string(),
                },
                answer: answer.transpose()?,
                kinds,
                ..Label::default()
            },
        })
    }
}

impl Source for Glue {
    fn len(&self, split: Split) -> usize {
        self.rows[split].len()
    }

    fn describe(&self) -> String {
        let test = match self.len(Split::Test) {
            0 => String::new(),
            rows => format!(", {rows} to test on"),
        };
        let what = match self.task.columns().1 {
            Some(_) => "pairs of sentences",
            None => "sentences",
        };
        format!(
            "{}: {} training {what}, {} held out{test}, {} unusable",
            self.folder.display(),
            self.len(Split::Train),
            self.len(Split::Val),
            self.rejected.len()
        )
    }

    fn notes(&self) -> Vec<String> {
        // GLUE's own files of CoLA have no header.
        let own = |file: &File| self.task == GlueTask::Cola && file.columns.cells == 4;
        let others = self
            .files
            .iter()
            .filter(|file| !file.has_header && !own(file));
        let note = |file: &File| {
            format!(
                "{}: no header; its lines are read as sentence and label",
                file.path.display()
            )
        };
        others.map(note).collect()
    }

    fn place(&self, split: Split, index: usize) -> Place {
        let (file, span) = self.at(split, index);
        Place {
            file: file.path.display().to_string(),
            line: u64::from(span.line),
        }
    }

    fn offers(&self) -> Offers {
        Offers {
            images: false,
            ..Offers::default()
        }
    }

    fn captions(&self, split: Split, index: usize) -> Result<Vec<String>, SampleError> {
        self.row(split, index).map(|row| vec![row.first])
    }

    fn annotations(&self, split: Split, index: usize) -> Result<Annotations, SampleError> {
        let row = self.row(split, index)?;
        Ok(Annotations {
            labels: vec![row.label],
            ..Annotations::default()
        })
    }

    fn classes(&self) -> Vec<String> {
        let labels = self.task.labels().iter();
        labels.map(|label| (*label).to_owned()).collect()
    }

    fn image(&self, _: Split, _: usize) -> Result<Option<RgbImage>, SampleError> {
        Ok(None)
    }

    fn sample(&self, split: Split, index: usize) -> Result<Sample, SampleError> {
        let row = self.row(split, index)?;
        Ok(Sample {
            name: self.place(split, index).to_string(),
            captions: vec![row.first],
            second_texts: row.second.into_iter().collect(),
            labels: vec![row.label],
            ..Sample::default()
        })
    }

    /// Both sentences, and the answer: another labelling is other data.
    fn identify(
        &self,
        split: Split,
        index: usize,
        give: &mut dyn FnMut(&[u8]),
    ) -> Result<(), SampleError> {
        if let Some(row) = SampleError::known(self.row(split, index))? {
            give(row.first.as_bytes());
            give(row.second.unwrap_or_default().as_bytes());
            give(row.label.answer.unwrap_or_default().as_bytes());
        }
        Ok(())
    }

    fn texts(&self, split: Split) -> TextsOf<'_> {
        Box::new((0..self.len(split)).flat_map(move |index| {
            let (texts, error) = match self.row(split, index) {
                Ok(row) => (
                    [Some(row.first), row.second]
                        .into_iter()
                        .flatten()
                        .collect(),
                    None,
                ),
                Err(error) => (Vec::new(), Some(error).filter(SampleError::is_unavailable)),
            };
            let texts: Vec<String> = texts;
            texts.into_iter().map(Ok).chain(error.map(Err))
        }))
    }

    fn rejected(&self) -> &[SampleError] {
        &self.rejected
    }
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;
    use crate::sources::fixtures::{assert_rejected, folder, message, open};

    /// A task of these files, and their folder, which is removed with its value.
    fn glue(task: &str, files: &[(&str, &str)]) -> (TempDir, Result<Arc<dyn Source>, DataError>) {
        let files: Vec<(String, &str)> = files
            .iter()
            .map(|(name, text)| (format!("g/{name}"), *text))
            .collect();
        let files: Vec<(&str, &str)> = files.iter().map(|(n, t)| (n.as_str(), *t)).collect();
        let folder = folder(&files);
        let data = format!("source = \"glue\"\n[glue]\ntask = \"{task}\"\npath = \"g\"\n");
        let opened = open(&folder, &data);
        (folder, opened)
    }

    #[track_caller]
    fn message_of((_folder, opened): (TempDir, Result<Arc<dyn Source>, DataError>)) -> String {
        message(opened)
    }

    /// Sentences, id and answer of a sample.
    fn told(source: &dyn Source, split: Split, index: usize) -> [String; 4] {
        let sample = source.sample(split, index).unwrap();
        let label = sample.labels[0].clone();
        [
            sample.captions[0].clone(),
            sample.second_texts.first().cloned().unwrap_or_default(),
            label.id,
            label.answer.unwrap_or_default(),
        ]
    }

    #[test]
    fn one_sentence_with_a_header_and_quotes_as_text() {
        let (_folder, source) = glue(
            "sst2",
            &[
                ("train.tsv", "sentence\tlabel\na \"good one \t1\n\"bad\t0\n"),
                ("dev.tsv", "sentence\tlabel\nfine\t2\nfine\t1\n"),
                ("test.tsv", "index\tsentence\n7\tunknown\n"),
            ],
        );
        let source = source.unwrap();
        assert_eq!(
            told(&*source, Split::Train, 0),
            ["a \"good one", "", "0", "positive"]
        );
        assert_eq!(
            told(&*source, Split::Train, 1),
            ["\"bad", "", "1", "negative"]
        );
        assert_eq!(told(&*source, Split::Test, 0), ["unknown", "", "7", ""]);
        assert_eq!(source.labels(Split::Test, 0).unwrap()[0].answer, None);
        assert_eq!(source.classes(), ["negative", "positive"]);
        assert_rejected(&*source, &[("dev.tsv", 2, "allowed: 0 to 1")]);
        assert!(source.notes().is_empty() && !source.has_images());
    }

    #[test]
    fn files_without_a_header_are_read_and_said() {
        let (_folder, source) = glue("sst2", &[("train.tsv", "good\t1\nbad\t0\n")]);
        let source = source.unwrap();
        assert_eq!(
            told(&*source, Split::Train, 0),
            ["good", "", "0", "positive"]
        );
        assert!(source.notes()[0].ends_with("no header; its lines are read as sentence and label"));
        let (_folder, source) = glue(
            "cola",
            &[
                (
                    "in_domain_train.tsv",
                    "gj04\t1\t\tIt is so.\ngj04\t0\t*\tIs so it it.\n",
                ),
                ("in_domain_dev.tsv", "gj04\t1\t\tSo it is.\n"),
                ("out_of_domain_dev.tsv", "clc95\t1\t\tSo is it.\n"),
            ],
        );
        let source = source.unwrap();
        assert_eq!(told(&*source, Split::Train, 1)[3], "unacceptable");
        assert_eq!(source.len(Split::Val), 2);
        let part = |index| {
            source.labels(Split::Val, index).unwrap()[0].kinds[0]
                .1
                .clone()
        };
        assert_eq!([part(0), part(1)], ["in domain", "out of domain"]);
        assert!(source.notes().is_empty());
    }

    #[test]
    fn two_sentences_and_scores() {
        let stsb = "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore\n\
                    0\tg\tf\ty\t1\ts\ts\tA plane.\tA jet.\t4.5\textra\n1\tg\tf\ty\t1\ts\ts\tA\tB\t5.5\n2\tg\tf\n";
        let (_folder, source) = glue("stsb", &[("train.tsv", stsb)]);
        let source = source.unwrap();
        assert_eq!(
            told(&*source, Split::Train, 0),
            ["A plane.", "A jet.", "0", "4.5"]
        );
        assert_rejected(
            &*source,
            &[("train.tsv", 3, "from 0 to 5"), ("train.tsv", 4, "3 cells")],
        );
        let texts: Vec<String> = source.texts(Split::Train).map(Result::unwrap).collect();
        assert_eq!(texts, ["A plane.", "A jet."]);
        let mrpc = "\u{feff}Quality\t#1 ID\t#2 ID\t#1 String\t#2 String\n1\t7\t8\t\"A\tB\"\n";
        let (_folder, source) = glue("mrpc", &[("msr_paraphrase_train.txt", mrpc)]);
        let source = source.unwrap();
        assert_eq!(
            told(&*source, Split::Train, 0),
            ["\"A", "B\"", "0", "equivalent"]
        );
    }

    #[test]
    fn inference_has_parts_and_names() {
        let mnli = |label: &str| {
            format!(
                "index\tpromptID\tsentence1\tsentence2\tlabel1\tgold_label\n4\tp\tA.\tB.\tx\t{label}\n"
            )
        };
        let (_folder, source) = glue(
            "mnli",
            &[
                ("train.tsv", &mnli("neutral")),
                ("dev_matched.tsv", &mnli("contradiction")),
                ("dev_mismatched.tsv", &mnli("-")),
            ],
        );
        let source = source.unwrap();
        assert_eq!(
            told(&*source, Split::Train, 0),
            ["A.", "B.", "4", "neutral"]
        );
        assert_eq!(source.len(Split::Val), 1);
        assert_rejected(
            &*source,
            &[(
                "dev_mismatched.tsv",
                2,
                "entailment, neutral, contradiction",
            )],
        );
    }

    #[test]
    fn files_of_another_task_and_absent_ones_are_errors() {
        let wrong = message_of(glue("qqp", &[("train.tsv", "sentence\tlabel\na\t1\n")]));
        assert!(wrong.contains("`question1`"), "{wrong}");
        let second = message_of(glue("qqp", &[("train.tsv", "id\tquestion1\n1\ta\n")]));
        assert!(
            second.contains("no column `question2`; there are id, question1"),
            "{second}"
        );
        let absent = message_of(glue("rte", &[("x.md", "")]));
        assert!(absent.contains("none of train.tsv"), "{absent}");
        let unusable = message_of(glue("sst2", &[("train.tsv", "sentence\tlabel\na\t3\n")]));
        assert!(unusable.contains("no row can be used"), "{unusable}");
    }

    #[test]
    fn submissions_have_numbers_or_names() {
        assert_eq!(GlueTask::Cola.line("3", "acceptable").unwrap(), "3\t1");
        assert_eq!(GlueTask::Mnli.line("4", "neutral").unwrap(), "4\tneutral");
        assert_eq!(GlueTask::Stsb.line("5", "2.25").unwrap(), "5\t2.25");
        assert!(GlueTask::Rte.line("6", "neutral").is_err());
        assert!(
            GlueTask::Sst2
                .line("6", "1")
                .unwrap_err()
                .contains("negative, positive")
        );
    }
}

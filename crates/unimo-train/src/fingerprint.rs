//! What a run began with, to check that it continues with the same.
//!
//! A run's folder (`fingerprint.json`) and every checkpoint contain
//!
//! - the resolved recipe, as it is written in `recipe.toml`,
//! - of each split of the data the number of rows, a digest of which rows there are and one of their order,
//! - digests of `tokenizer.json` and `concepts.json`, and of the codes of patches.
//!
//! A row's digest covers what its source knows without reading images: its line, the image's name as the list spells it, and the
//! captions; for shards the names of their files and the positions in them, for Parquet the captions. Answers, boxes and names of objects
//! of annotation files have a digest of their own. Neither covers pixels, nor where files are or when they were changed: data that was
//! moved is the same data.

use std::collections::BTreeMap;
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use unimo_data::digest::{Digest, hex};
use unimo_data::{SampleError, Source, Split, Switch};

use crate::error::TrainError;
use crate::recipe::{Overrides, Recipe};

/// The key in a checkpoint's metadata.
pub const NAME: &str = "fingerprint";

/// The file in a run's folder.
pub const FILE_NAME: &str = "fingerprint.json";

/// Number of rows that a thread takes at a time.
const BLOCK: usize = 4096;

/// Number of bytes that are kept of a digest: enough to distinguish any two data sets, and short enough to read.
const KEPT: usize = 16;

/// What a run began with.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Fingerprint {
    /// The resolved recipe, in TOML.
    pub recipe: String,
    /// Rows by place in the recipe, `data` or `stage[1].data`, and by split.
    pub data: BTreeMap<String, BTreeMap<String, Rows>>,
    /// Digest of `tokenizer.json`.
    pub tokenizer: String,
    /// Digest of `concepts.json`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concepts: Option<String>,
    /// Digest of `labels.json`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub labels: Option<String>,
    /// Digest of the dictionaries of `data.switch`, of the recipe and of its stages.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dictionaries: Option<String>,
    /// Digest of `codebook.safetensors`, or of the table of codes that the recipe names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub codes: Option<String>,
    /// What the recipe was made from, if that is known. Not in checkpoints.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub given: Option<Given>,
    /// The recipe that is being replaced, during the replacement: after a kill, `recipe.toml` may hold either. Not in checkpoints.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replaced: Option<String>,
}

/// The rows of a split.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rows {
    /// Number of rows.
    pub rows: usize,
    /// Digest of which rows there are, in any order.
    pub identity: String,
    /// Digest of their order, and of their shards.
    pub order: String,
    /// Digest of answers, boxes and what else the rows are judged by, if that is no part of their identity. Older versions did not have it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub labels: Option<String>,
}

/// The arguments that made the recipe.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Given {
    /// The recipe's name or file.
    pub recipe: String,
    /// `--data`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<PathBuf>,
    /// Every `--set` so far, including those of resumes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub set: Vec<String>,
}

impl Given {
    /// The arguments as overrides of a recipe.
    pub fn overrides(&self) -> Overrides {
        Overrides {
            data: self.data.clone(),
            set: self.set.clone(),
        }
    }
}

impl Fingerprint {
    /// Reads the fingerprint in a run's folder, if there is one.
    ///
    /// # Errors
    ///
    /// It cannot be read.
    pub fn read(run: &Path) -> Result<Option<Self>, TrainError> {
        let path = run.join(FILE_NAME);
        if !path.exists() {
            return Ok(None);
        }
        let text = std::fs::read(&path).map_err(TrainError::file("read", &path))?;
        let read = serde_json::from_slice(&text).map_err(|error| TrainError::Run {
            path,
            reason: format!(
                "is damaged ({error}): what the run was begun with cannot be compared. Remove it to go on with what its newest \
                 checkpoint says"
            ),
        })?;
        Ok(Some(read))
    }

    /// The text that a checkpoint holds.
    pub fn note(&self) -> String {
        let own = Self {
            given: None,
            replaced: None,
            ..self.clone()
        };
        serde_json::to_string(&own).unwrap_or_default()
    }

    /// The fingerprint that a checkpoint holds, if it has one.
    pub fn of_note(note: Option<&str>) -> Option<Self> {
        serde_json::from_str(note?).ok()
    }

    /// The differences in data, tokenizer and concepts, one per line. Only what both have is compared.
    pub fn differences(&self, now: &Self) -> Vec<String> {
        let mut found = Vec::new();
        for (place, splits) in &self.data {
            let Some(others) = now.data.get(place) else {
                continue;
            };
            for (split, rows) in splits {
                if let Some(other) = others.get(split) {
                    found.extend(
                        rows.difference(other)
                            .map(|what| format!("{place} ({split}): {what}")),
                    );
                }
            }
        }
        if self.tokenizer != now.tokenizer {
            found.push(format!(
                "tokenizer.json: {} -> {}",
                self.tokenizer, now.tokenizer
            ));
        }
        for (file, then, now) in [
            ("concepts.json", &self.concepts, &now.concepts),
            ("labels.json", &self.labels, &now.labels),
            (
                "dictionaries of data.switch",
                &self.dictionaries,
                &now.dictionaries,
            ),
            ("codes of patches", &self.codes, &now.codes),
        ] {
            let said = |digest: &Option<String>| digest.clone().unwrap_or("none".to_owned());
            if then != now {
                found.push(format!("{file}: {} -> {}", said(then), said(now)));
            }
        }
        found
    }
}

impl Rows {
    /// The difference, as text.
    fn difference(&self, now: &Self) -> Option<String> {
        if self.rows != now.rows {
            Some(format!("{} rows, now {}", self.rows, now.rows))
        } else if self.identity != now.identity {
            Some(format!("{} rows, now as many, but others", self.rows))
        } else if self.order != now.order {
            Some(format!("the same {} rows, now in another order", self.rows))
        } else if self.labels.is_some() && now.labels.is_some() && self.labels != now.labels {
            Some(format!(
                "the same {} rows, now with other answers, boxes or names of objects",
                self.rows
            ))
        } else {
            None
        }
    }
}

/// The digest of a file's content.
pub fn of_bytes(bytes: &[u8]) -> String {
    short(&Digest::of(bytes))
}

/// The words of all dictionaries of a recipe; `None` if it has none.
///
/// # Errors
///
/// A dictionary cannot be read.
pub fn of_dictionaries(recipe: &Recipe) -> Result<Option<String>, TrainError> {
    let of_stages = recipe.stage.iter().filter_map(|stage| stage.data.as_ref());
    let mut sum = Digest::default();
    let mut some = false;
    for switch in std::iter::once(&recipe.data)
        .chain(of_stages)
        .filter_map(|data| data.switch.as_ref())
    {
        sum.add(&Switch::open(switch)?.digest());
        some = true;
    }
    Ok(some.then(|| short(&sum.finish())))
}

/// The rows of the splits that a run uses.
///
/// # Errors
///
/// A list cannot be read this time.
pub fn of_source(source: &dyn Source) -> Result<BTreeMap<String, Rows>, TrainError> {
    [Split::Train, Split::Val]
        .into_iter()
        .map(|split| Ok((split.name().to_owned(), of_split(source, split)?)))
        .collect()
}

/// Of a block of rows: the digest of their order, the sum of their digests, and that of their digests with labels.
type Block = ([u8; 32], u128, Option<u128>);

/// Digests of the rows, computed on all cores: the sum of their digests, without labels and with them, and a digest of their digests in order.
fn of_split(source: &dyn Source, split: Split) -> Result<Rows, TrainError> {
    let rows = source.len(split);
    let blocks = rows.div_ceil(BLOCK);
    let next = AtomicUsize::new(0);
    let done: Mutex<BTreeMap<usize, Block>> = Mutex::default();
    let failed: Mutex<Option<SampleError>> = Mutex::default();
    let work = || {
        loop {
            let block = next.fetch_add(1, Ordering::Relaxed);
            if block >= blocks {
                return;
            }
            let mut order = Digest::default();
            let (mut sum, mut labels) = (0u128, None);
            for index in block * BLOCK..rows.min((block + 1) * BLOCK) {
                let mut row = Digest::default();
                let identified = source.identify(split, index, &mut |part| {
                    row.add_sized(part);
                });
                let mut labelled = row.clone();
                let mut any = false;
                let identified = identified.and_then(|()| {
                    source.identify_labels(split, index, &mut |part| {
                        labelled.add_sized(part);
                        any = true;
                    })
                });
                if let Err(error) = identified {
                    let mut failed = failed.lock().unwrap_or_else(PoisonError::into_inner);
                    failed.get_or_insert(error);
                    return;
                }
                let row = row.finish();
                let (first, _) = row.split_at(KEPT);
                sum = sum.wrapping_add(number(&row));
                if any {
                    labels = Some(number(&labelled.finish()).wrapping_add(labels.unwrap_or(0)));
                }
                order.add(first);
            }
            let mut done = done.lock().unwrap_or_else(PoisonError::into_inner);
            done.insert(block, (order.finish(), sum, labels));
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, NonZero::get);
    std::thread::scope(|scope| {
        for _ in 0..threads.min(blocks) {
            scope.spawn(work);
        }
    });
    if let Some(error) = failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
        return Err(
            unimo_data::readable::<()>(Err(error)).map_or_else(TrainError::from, |()| {
                TrainError::Check("the data cannot be read".to_owned())
            }),
        );
    }
    let mut order = Digest::default();
    for shard in source.shards(split) {
        order.add(&(shard as u64).to_le_bytes());
    }
    let (mut sum, mut labels) = (0u128, None);
    for (digest, part, known) in done
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner)
        .values()
    {
        order.add(digest);
        sum = sum.wrapping_add(*part);
        labels = known
            .map(|known| known.wrapping_add(labels.unwrap_or(0)))
            .or(labels);
    }
    Ok(Rows {
        rows,
        identity: short(&sum.to_le_bytes()),
        order: short(&order.finish()),
        labels: labels.map(|sum| short(&sum.to_le_bytes())),
    })
}

/// The first bytes of a digest, to be added to those of other rows.
fn number(digest: &[u8; 32]) -> u128 {
    let (first, _) = digest.split_at(KEPT);
    first.try_into().map_or(0, u128::from_le_bytes)
}

/// The first bytes of a digest.
fn short(digest: &[u8]) -> String {
    hex(&digest[..KEPT.min(digest.len())])
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::recipe::Recipe;

    fn open(folder: &Path, lines: &[String]) -> Arc<dyn Source> {
        let list = folder.join("pairs.jsonl");
        std::fs::write(&list, lines.join("\n")).unwrap();
        let overrides = Overrides {
            data: Some(list),
            set: vec!["data.pairs.val_fraction=0.0".to_owned()],
        };
        let recipe = Recipe::load("unimo3-tiny", &overrides).unwrap();
        unimo_data::open(&recipe.data).unwrap()
    }

    #[test]
    fn rows_and_their_order_count_and_where_they_lie_does_not() {
        const ROWS: usize = 2 * BLOCK + 3;
        let lines: Vec<String> = (0..ROWS)
            .map(|at| format!("{{\"image\":\"{at}.png\",\"caption\":\"number {at}\"}}"))
            .collect();
        let rows = |lines: &[String]| {
            let folder = tempfile::tempdir().unwrap();
            of_source(&*open(folder.path(), lines))
                .unwrap()
                .remove("train")
                .unwrap()
        };
        let first = rows(&lines);
        assert_eq!(first.rows, ROWS);
        assert_eq!(first.difference(&rows(&lines)), None, "another folder");

        let mut grown = lines.clone();
        grown.push("{\"image\":\"new.png\",\"caption\":\"new\"}".to_owned());
        let said = first.difference(&rows(&grown)).unwrap();
        assert_eq!(said, format!("{ROWS} rows, now {}", ROWS + 1));

        let mut other = lines.clone();
        other[BLOCK] = other[BLOCK].replace("number", "nmuber");
        let said = first.difference(&rows(&other)).unwrap();
        assert!(said.contains("others"), "{said}");

        let mut picture = lines.clone();
        picture[7] = picture[7].replace("7.png", "8.png");
        assert!(first.difference(&rows(&picture)).is_some());
    }

    #[test]
    fn other_answers_to_the_same_questions_are_other_data() {
        let rows = |answer: &str| {
            let folder = tempfile::tempdir().unwrap();
            let list = folder.path().join("questions.jsonl");
            let line = |at: usize| {
                let answer = if at == 1 { answer } else { "no" };
                format!(r#"{{"image":"{at}.png","question":"is it red?","answer":"{answer}"}}"#)
            };
            std::fs::write(&list, (0..3).map(line).collect::<Vec<_>>().join("\n")).unwrap();
            std::fs::write(folder.path().join("0.png"), "").unwrap();
            let overrides = Overrides {
                data: Some(list),
                set: vec!["data.vqa.val_fraction=0.0".to_owned()],
            };
            let recipe = Recipe::load("unimo3-vqa-tiny", &overrides).unwrap();
            let source = unimo_data::open(&recipe.data).unwrap();
            of_source(&*source).unwrap().remove("train").unwrap()
        };
        let first = rows("yes");
        assert_eq!(first.difference(&rows("yes")), None);
        let said = first.difference(&rows("no")).unwrap();
        assert!(said.contains("other answers"), "{said}");
        // What an older version wrote is not compared.
        let old = Rows {
            labels: None,
            ..first
        };
        assert_eq!(old.difference(&rows("no")), None);
    }

    #[test]
    fn another_order_of_the_same_rows_is_told_as_such() {
        let rows = |order: &str| Rows {
            rows: 3,
            identity: "1".to_owned(),
            order: order.to_owned(),
            labels: None,
        };
        let said = rows("1").difference(&rows("2")).unwrap();
        assert!(said.contains("another order"), "{said}");
    }

    #[test]
    fn a_checkpoint_holds_what_it_was_made_with() {
        let begun = Fingerprint {
            recipe: "seed = 1".to_owned(),
            data: BTreeMap::from([("data".to_owned(), BTreeMap::new())]),
            tokenizer: of_bytes(b"a"),
            given: Some(Given::default()),
            replaced: Some("seed = 0".to_owned()),
            ..Fingerprint::default()
        };
        let read = Fingerprint::of_note(Some(&begun.note())).unwrap();
        assert_eq!((read.given.clone(), read.replaced.clone()), (None, None));
        assert!(begun.differences(&read).is_empty());
        let swapped = Fingerprint {
            tokenizer: of_bytes(b"b"),
            concepts: Some(of_bytes(b"c")),
            ..read
        };
        let found = begun.differences(&swapped);
        assert_eq!(found.len(), 2);
        assert!(found[0].contains("tokenizer.json") && found[1].contains("concepts.json: none ->"));
        assert_eq!(Fingerprint::of_note(None), None);
    }
}

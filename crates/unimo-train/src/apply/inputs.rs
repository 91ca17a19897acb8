//! Inputs of the commands: lists of pairs, of images, of texts.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use unimo_data::paths;
use unimo_data::sources::images::pictures_in;
use unimo_data::sources::pairs::{ListRow, caption_columns, image_columns, read_rows_noting};
use unimo_data::{DataConfig, DataError, Source, SourceKind, Split, readable};

use crate::error::TrainError;
use crate::recipe::{Overrides, Recipe};

/// The columns of a list that are read.
#[derive(Debug, Clone, clap::Args)]
pub struct ColumnArgs {
    /// The column of a list that holds the image's path [default: image, or another usual name].
    #[arg(long, value_name = "COLUMN")]
    pub image_column: Option<String>,
    /// The column of a list that holds the text [default: caption, or another usual name].
    #[arg(long, value_name = "COLUMN")]
    pub text_column: Option<String>,
}

impl ColumnArgs {
    /// The column of a list that holds the image's path.
    fn image(&self, list: &Path, rows: &[ListRow]) -> Column {
        let usual = image_columns().collect();
        Column::of(self.image_column.as_ref(), list, rows, ("image", usual))
    }

    /// The column of a list that holds the text.
    fn text(&self, list: &Path, rows: &[ListRow]) -> Column {
        let usual = caption_columns().collect();
        Column::of(self.text_column.as_ref(), list, rows, ("text", usual))
    }

    /// Checks that columns that are named are those of a list that is read.
    ///
    /// # Errors
    ///
    /// A column is named, and nothing of its kind is a list.
    pub fn fit(&self, images: &[&Path], texts: &[&Path]) -> Result<(), TrainError> {
        let both = [
            ("--image-column", &self.image_column, images, "images"),
            ("--text-column", &self.text_column, texts, "texts"),
        ];
        for (option, column, given, what) in both {
            let Some(column) = column else { continue };
            if given.iter().any(|path| is_list(path)) {
                continue;
            }
            let found = match given.first() {
                Some(path) => format!("{} is none", path.display()),
                None => format!("no {what} are read from a file"),
            };
            return Err(TrainError::Check(format!(
                "{option} {column} is for lists (JSON lines, JSON, CSV, TSV), and {found}"
            )));
        }
        Ok(())
    }
}

/// A column of a list that is read.
struct Column {
    /// `image` or `text`.
    what: &'static str,
    name: String,
}

impl Column {
    /// The column that is named, else the first of the usual names that a row has. Another name than the first is said.
    fn of(
        named: Option<&String>,
        list: &Path,
        rows: &[ListRow],
        (what, usual): (&'static str, Vec<&'static str>),
    ) -> Self {
        let mut rows = rows.iter().filter_map(|(_, row)| row.as_ref().ok());
        let there = rows.find_map(|row| usual.iter().find(|column| row.contains_key(**column)));
        let name = match (named, there) {
            (Some(named), _) => named.clone(),
            (None, Some(there)) => {
                if *there != usual[0] {
                    eprintln!("{}: {what}s by the column `{there}`", list.display());
                }
                (*there).to_owned()
            }
            (None, None) => usual[0].to_owned(),
        };
        Self { what, name }
    }

    /// Why a row cannot be used.
    fn lacking(&self, row: &serde_json::Map<String, serde_json::Value>) -> String {
        let there: Vec<&str> = row.keys().map(String::as_str).collect();
        format!(
            "no {} in column `{}` (--{}-column names another); there are {}",
            self.what,
            self.name,
            self.what,
            there.join(", ")
        )
    }
}

/// Whether a path is read as a list. What cannot be recognised is: the reader says what is wrong with it.
fn is_list(path: &Path) -> bool {
    let text = path.extension().is_some_and(|e| e == "txt" || e == "toml");
    if text || path.is_dir() || paths::is_picture(path) {
        return false;
    }
    let mut config = DataConfig::default();
    match config.take_from(path.to_owned()) {
        Ok(()) => config.source == SourceKind::Pairs,
        Err(_) => true,
    }
}

/// Reads the name of a split.
///
/// # Errors
///
/// It is none; the text says which there are.
pub fn split(name: &str) -> Result<Split, String> {
    Split::of_name(name).ok_or_else(|| "allowed: train, val or test".to_owned())
}

/// Reads a text that is asked for.
///
/// # Errors
///
/// It holds no word.
pub fn words(text: &str) -> Result<String, String> {
    if text.trim().is_empty() {
        return Err("allowed: a text of at least one word".to_owned());
    }
    Ok(text.to_owned())
}

/// A row of a list of pairs.
#[derive(Debug, Clone, PartialEq)]
pub struct PairRow {
    /// Its line, counted from 1.
    pub line: u64,
    /// The image's path as the list spells it.
    pub image: String,
    /// The path of the image, resolved relative to the list.
    pub path: PathBuf,
    /// The text.
    pub text: String,
}

/// A row that cannot be used.
#[derive(Debug, Clone, PartialEq)]
pub struct BadRow {
    /// Its line, counted from 1.
    pub line: u64,
    /// Why.
    pub reason: String,
}

/// The error of a file that is read as a list.
fn no_list(given: &Path, error: DataError) -> TrainError {
    match error {
        DataError::Config { .. } => TrainError::Check(format!(
            "{} is no list (JSON lines, JSON, CSV, TSV), no file of texts (.txt), no image and no data set that is recognised",
            given.display()
        )),
        other => other.into(),
    }
}

/// The rows of a list, whose note is printed.
fn said((rows, note): (Vec<ListRow>, Option<String>)) -> Vec<ListRow> {
    if let Some(note) = note {
        eprintln!("{note}");
    }
    rows
}

/// Reads a list of pairs: JSON lines, a JSON array, CSV or TSV. A row with a list of texts gives one pair per text.
///
/// # Errors
///
/// The list cannot be read.
pub fn pairs(
    list: &Path,
    columns: &ColumnArgs,
) -> Result<Vec<Result<PairRow, BadRow>>, TrainError> {
    let folder = list.parent().unwrap_or(Path::new(""));
    let rows = said(read_rows_noting(list)?);
    let (images, texts) = (columns.image(list, &rows), columns.text(list, &rows));
    let mut all = Vec::new();
    for (line, row) in rows {
        let bad = |reason: String| Err(BadRow { line, reason });
        let row = match row {
            Ok(row) => row,
            Err(reason) => {
                all.push(bad(reason));
                continue;
            }
        };
        let Some(image) = row.get(&images.name).and_then(|v| v.as_str()) else {
            all.push(bad(images.lacking(&row)));
            continue;
        };
        let path = match paths::resolve(folder, image) {
            Ok(path) => path,
            Err(reason) => {
                all.push(bad(reason));
                continue;
            }
        };
        let found: Vec<&str> = match row.get(&texts.name) {
            Some(serde_json::Value::Array(all)) => {
                all.iter().filter_map(|text| text.as_str()).collect()
            }
            Some(text) => text.as_str().into_iter().collect(),
            None => Vec::new(),
        };
        if found.is_empty() {
            all.push(bad(texts.lacking(&row)));
        }
        all.extend(found.into_iter().map(|text| {
            Ok(PairRow {
                line,
                image: image.to_owned(),
                path: path.clone(),
                text: text.to_owned(),
            })
        }));
    }
    Ok(all)
}

/// Rows of a list that are not used, to be reported once.
#[derive(Debug, Default)]
struct LeftOut {
    count: usize,
    first: Option<String>,
}

impl LeftOut {
    fn add(&mut self, line: u64, reason: String) {
        self.count += 1;
        self.first.get_or_insert(format!("line {line}, {reason}"));
    }

    /// Prints one line if rows were not used.
    fn say(&self, given: &Path) {
        if let Some(first) = &self.first {
            eprintln!(
                "{}: {} rows left out, the first: {first}",
                given.display(),
                self.count
            );
        }
    }
}

/// Opens what is neither a folder or file of images nor a list: tar shards, Parquet, COCO's captions and others that `--data` of a
/// training recognises, or the `[data]` of a recipe's .toml file. `None` for folders, images and lists, where `split` means nothing.
///
/// # Errors
///
/// It cannot be read, or is no data set although a split of it is asked for.
pub fn data_set(given: &Path, split: Option<Split>) -> Result<Option<Arc<dyn Source>>, TrainError> {
    let is = |end: &str| given.extension().is_some_and(|e| e == end);
    let config = if is("toml") {
        Some(Recipe::load(&given.display().to_string(), &Overrides::default())?.data)
    } else if is("txt") || paths::is_picture(given) {
        None
    } else {
        let mut config = DataConfig::default();
        match config.take_from(given.to_owned()) {
            Ok(()) => Some(config),
            // A folder whose parts have lists of their own is a folder of images here.
            Err(_) if given.is_dir() => None,
            Err(error) if given.is_file() => {
                return Err(TrainError::Check(format!(
                    "{} is no .txt file of texts, no list (.jsonl, .json, .csv, .tsv) and no data set that is recognised: {error}",
                    given.display()
                )));
            }
            Err(error) => return Err(error.into()),
        }
    };
    let plain = [SourceKind::Images, SourceKind::Pairs];
    let config = config.filter(|config| is("toml") || !plain.contains(&config.source));
    let Some(config) = config else {
        return match split {
            None => Ok(None),
            Some(split) => Err(TrainError::Check(format!(
                "--split {} is for data sets (shards, Parquet, COCO's captions, the [data] of a recipe), and {} is a folder, an image \
                 or a list, all of which is read",
                split.name(),
                given.display()
            ))),
        };
    };
    let source = unimo_data::open(&config)?;
    for note in source.notes() {
        eprintln!("{}: {note}", given.display());
    }
    Ok(Some(source))
}

/// Each text once, in order, without empty ones. What is left out is counted.
fn distinct(given: &Path, mut all: Vec<String>) -> Vec<String> {
    let given_texts = all.len();
    all.retain(|text| !text.trim().is_empty());
    let empty = given_texts - all.len();
    let mut seen = std::collections::HashSet::new();
    all.retain(|text| seen.insert(text.clone()));
    let again = given_texts - empty - all.len();
    if empty + again > 0 {
        eprintln!(
            "{}: {empty} empty texts and {again} that occur again are left out",
            given.display()
        );
    }
    all
}

/// The captions of a data set, each once, in order.
fn captions(
    given: &Path,
    source: &dyn Source,
    split: Option<Split>,
) -> Result<Vec<String>, TrainError> {
    let mut all = Vec::new();
    for split in Split::ALL
        .into_iter()
        .filter(|s| split.is_none_or(|of| of == *s))
    {
        for at in 0..source.len(split) {
            all.extend(readable(source.captions(split, at))?);
        }
    }
    let all = distinct(given, all);
    if all.is_empty() {
        return Err(TrainError::Check(format!(
            "{} holds no texts",
            given.display()
        )));
    }
    Ok(all)
}

/// Images: one file, all in a folder and its subfolders, or those that a list names; each once, in order.
///
/// # Errors
///
/// The folder or list cannot be read, or holds none.
pub fn images(given: &Path, columns: &ColumnArgs) -> Result<Vec<(String, PathBuf)>, TrainError> {
    let mut found = Vec::new();
    if given.is_dir() {
        let (pictures, left_out) = pictures_in(given)?;
        if let Some(left_out) = left_out {
            eprintln!("{}: {left_out}", given.display());
        }
        found.extend(pictures.into_iter().map(|inside| {
            let path = given.join(&inside);
            (inside.display().to_string(), path)
        }));
    } else if paths::is_picture(given) {
        found.push((given.display().to_string(), given.to_owned()));
    } else {
        let folder = given.parent().unwrap_or(Path::new(""));
        let mut seen = std::collections::HashSet::new();
        let mut again = 0;
        let mut left_out = LeftOut::default();
        let rows = said(read_rows_noting(given).map_err(|error| no_list(given, error))?);
        let column = columns.image(given, &rows);
        for (line, row) in rows {
            let row = match row {
                Ok(row) => row,
                Err(reason) => {
                    left_out.add(line, reason);
                    continue;
                }
            };
            let Some(image) = row.get(&column.name).and_then(|v| v.as_str()) else {
                left_out.add(line, column.lacking(&row));
                continue;
            };
            if seen.insert(image.to_owned()) {
                let path = paths::resolve(folder, image).map_err(TrainError::Check)?;
                found.push((image.to_owned(), path));
            } else {
                again += 1;
            }
        }
        left_out.say(given);
        if again > 0 {
            eprintln!(
                "{}: {again} rows name an image of a row before and are read once",
                given.display()
            );
        }
    }
    if found.is_empty() {
        Err(TrainError::Check(format!(
            "{} names no image (.jpg, .jpeg, .jpe, .jfif, .png or .webp; in a list by the column `image`, or --image-column)",
            given.display()
        )))
    } else {
        Ok(found)
    }
}

/// Texts: the lines of a .txt file, the texts of a list, or the captions of a [data set](data_set); each once, in order.
///
/// # Errors
///
/// The file cannot be read or holds none.
pub fn texts(
    given: &Path,
    columns: &ColumnArgs,
    split: Option<Split>,
) -> Result<Vec<String>, TrainError> {
    if let Some(source) = data_set(given, split)? {
        return captions(given, &*source, split);
    }
    let mut all = Vec::new();
    if given.extension().is_some_and(|e| e == "txt") {
        let file = std::fs::File::open(given).map_err(TrainError::file("open", given))?;
        for line in BufReader::new(file).lines() {
            let line = line.map_err(TrainError::file("read", given))?;
            // A byte order mark is not part of the text.
            all.push(line.trim_start_matches('\u{feff}').to_owned());
        }
    } else {
        let mut left_out = LeftOut::default();
        let rows = said(read_rows_noting(given).map_err(|error| no_list(given, error))?);
        let column = columns.text(given, &rows);
        for (line, row) in rows {
            let row = match row {
                Ok(row) => row,
                Err(reason) => {
                    left_out.add(line, reason);
                    continue;
                }
            };
            let before = all.len();
            match row.get(&column.name) {
                Some(serde_json::Value::Array(texts)) => {
                    all.extend(texts.iter().filter_map(|t| t.as_str()).map(str::to_owned));
                }
                Some(text) => all.extend(text.as_str().map(str::to_owned)),
                None => {}
            }
            if all.len() == before {
                left_out.add(line, column.lacking(&row));
            }
        }
        left_out.say(given);
    }
    let all = distinct(given, all);
    if all.is_empty() {
        Err(TrainError::Check(format!(
            "{} holds no text (one a line in a .txt file; in a list by the column `caption`, or --text-column)",
            given.display()
        )))
    } else {
        Ok(all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn columns() -> ColumnArgs {
        ColumnArgs {
            image_column: None,
            text_column: None,
        }
    }

    #[test]
    fn columns_are_those_of_a_list() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let list = file("list.jsonl", "{\"image\":\"a.png\",\"alt\":\"x\"}\n");
        let lines = file("lines.txt", "x\n");
        let named = ColumnArgs {
            image_column: Some("image".to_owned()),
            text_column: Some("alt".to_owned()),
        };
        named.fit(&[folder.path(), &list], &[&list]).unwrap();
        columns().fit(&[folder.path()], &[&lines]).unwrap();
        let wrong =
            |images: &[&Path], texts: &[&Path]| named.fit(images, texts).unwrap_err().to_string();
        let error = wrong(&[folder.path()], &[&list]);
        assert!(
            error.contains("--image-column image is for lists"),
            "{error}"
        );
        let error = wrong(&[&list], &[&lines]);
        assert!(error.contains("lines.txt is none"), "{error}");
        let error = wrong(&[&list], &[]);
        assert!(error.contains("no texts are read"), "{error}");
    }

    #[test]
    fn lists_folders_and_text_files_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let list = folder.path().join("list.jsonl");
        std::fs::write(
            &list,
            "{\"image\":\"a.png\",\"caption\":[\"x\",\"y\"]}\n{\"image\":\"a.png\",\"caption\":\"x\"}\nno json\n{\"image\":\"b.png\"}\n",
        )
        .unwrap();
        let rows = pairs(&list, &columns()).unwrap();
        let lines: Vec<_> = rows
            .iter()
            .map(|row| match row {
                Ok(row) => (row.line, row.text.clone()),
                Err(bad) => (bad.line, "bad".to_owned()),
            })
            .collect();
        let expected = [(1, "x"), (1, "y"), (2, "x"), (3, "bad"), (4, "bad")];
        assert_eq!(lines, expected.map(|(line, text)| (line, text.to_owned())));
        assert_eq!(texts(&list, &columns(), None).unwrap(), ["x", "y"]);
        assert_eq!(images(&list, &columns()).unwrap().len(), 2);
        // Columns of other names that trainings read, and what a row lacks.
        std::fs::write(
            &list,
            "{\"file_name\":\"a.png\",\"text\":\"x\"}\n{\"file_name\":\"a.png\"}\n",
        )
        .unwrap();
        let rows = pairs(&list, &columns()).unwrap();
        assert_eq!(rows[0].as_ref().unwrap().text, "x");
        let bad = rows[1].as_ref().unwrap_err();
        let reason = "no text in column `text` (--text-column names another); there are file_name";
        assert_eq!(bad.reason, reason);
        let named = ColumnArgs {
            image_column: Some("foo".to_owned()),
            text_column: None,
        };
        let rows = pairs(&list, &named).unwrap();
        let bad = rows[0].as_ref().unwrap_err();
        assert!(
            bad.reason.starts_with("no image in column `foo`"),
            "{}",
            bad.reason
        );

        std::fs::create_dir(folder.path().join("sub")).unwrap();
        std::fs::write(folder.path().join("sub/c.JPG"), b"").unwrap();
        std::fs::write(folder.path().join("b.webp"), b"").unwrap();
        let found = images(folder.path(), &columns()).unwrap();
        let names: Vec<_> = found.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["b.webp", "sub/c.JPG"]);

        let text = folder.path().join("t.txt");
        std::fs::write(&text, "one\n\n two\none\n").unwrap();
        assert_eq!(texts(&text, &columns(), None).unwrap(), ["one", " two"]);
        std::fs::write(&text, "\n").unwrap();
        assert!(texts(&text, &columns(), None).is_err());
    }
}

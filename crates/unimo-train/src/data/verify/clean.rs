//! The list of usable samples, which `--data` reads.

use std::collections::BTreeMap;
use std::iter::repeat;
use std::path::Path;

use serde_json::{Map, Value};
use unimo_batch::TextRole;
use unimo_data::{Annotations, DataConfig, Label, Source, SourceKind, Split, readable};

use super::Kept;
use crate::error::TrainError;
use crate::files;

/// Names of the list's columns. The list always has the usual ones, `image`, `caption` and `split`, so that it is read right without any
/// setting. A recipe's own columns stand beside them, so that it is read right with the recipe's settings too.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Columns {
    /// The recipe's column with the image, if it is not `image`.
    image: Option<String>,
    /// The recipe's columns with captions. All captions are in one of them: `caption`, or else the first.
    texts: Vec<String>,
    /// For each of `texts`, the column with the language of its captions. Empty: there are none.
    languages: Vec<String>,
    /// The column with the label.
    label: Option<String>,
    /// The recipe's column with the split, if it is not `split`.
    split: Option<String>,
    /// The recipe's names of the splits, if they are not the usual ones.
    names: BTreeMap<Split, String>,
    /// The values that the recipe's filter requires.
    filter: BTreeMap<String, String>,
}

/// The column with the split.
const SPLIT: &str = "split";

/// Texts of a sample that are one row of the list.
type Row = (Label, String, Vec<String>);

impl Columns {
    /// The column names of a recipe's lists.
    pub(super) fn of(data: &DataConfig) -> Self {
        let Some(pairs) = data
            .pairs
            .as_ref()
            .filter(|_| data.source == SourceKind::Pairs)
        else {
            return Self::default();
        };
        let given = [
            (Split::Train, &pairs.train_split),
            (Split::Val, &pairs.val_split),
            (Split::Test, &pairs.test_split),
        ];
        let names = given.into_iter().filter_map(|(split, names)| {
            let usual = names.iter().find(|n| Split::of_name(n) == Some(split));
            let name = usual.or(names.first())?;
            Some((split, name.clone()))
        });
        Self {
            image: Some(pairs.image_column.clone()).filter(|column| column != "image"),
            texts: pairs.text_columns.clone(),
            languages: pairs.language_columns.clone(),
            label: pairs.label_column.clone(),
            split: pairs.split_column.clone().filter(|column| column != SPLIT),
            names: names.collect(),
            filter: pairs.filter.clone(),
        }
    }

    /// The recipe's own name of a split.
    fn own(&self, split: Split) -> &str {
        self.names.get(&split).map_or(split.name(), String::as_str)
    }

    /// What the column `split` says: `train`, `val` or `test`, or the recipe's spelling of it if everybody reads that alike.
    fn usual(&self, split: Split) -> &str {
        let own = self.own(split);
        if self.split.is_none() && Split::of_name(own) == Some(split) {
            own
        } else {
            split.name()
        }
    }

    /// The settings that the recipe's own lists need and this one must be read without.
    fn without(&self) -> Vec<String> {
        if self.split.is_some() {
            return Vec::new();
        }
        let mut keys: Vec<String> = Split::ALL
            .into_iter()
            .filter(|split| Split::of_name(self.own(*split)) != Some(*split))
            .map(|split| format!("data.pairs.{}_split", split.name()))
            .collect();
        if let Some(wanted) = self.filter.get(SPLIT)
            && Split::of_name(wanted).is_none()
        {
            keys.push("data.pairs.filter.split".to_owned());
        }
        keys
    }

    /// The texts of a sample, with one label and one language to a row.
    fn rows(&self, captions: Vec<String>, known: Annotations) -> Vec<Row> {
        let mut rows: Vec<Row> = Vec::new();
        let labels = known.labels.into_iter().chain(repeat(Label::default()));
        let languages = known
            .languages
            .tags
            .into_iter()
            .chain(repeat(String::new()));
        for ((caption, label), language) in captions.into_iter().zip(labels).zip(languages) {
            let label = Some(label).filter(|_| self.label.is_some());
            let label = label.unwrap_or_default();
            let same = |row: &&mut Row| row.0.answer == label.answer && row.1 == language;
            match rows.iter_mut().find(same) {
                Some((.., captions)) => captions.push(caption),
                None => rows.push((label, language, vec![caption])),
            }
        }
        rows
    }

    fn row(&self, image: &str, (label, language, captions): Row, split: Split) -> Value {
        let mut row = Map::new();
        for (column, wanted) in &self.filter {
            row.insert(column.clone(), wanted.clone().into());
        }
        let mut put = |column: &str, value: Value| row.insert(column.to_owned(), value);
        put("image", image.into());
        if let Some(column) = &self.image {
            put(column, image.into());
        }
        // Every column that the recipe names is in the list, which is an error otherwise.
        let caption = self.texts.iter().position(|column| column == "caption");
        let all = caption.unwrap_or(0);
        for (at, column) in self.texts.iter().enumerate() {
            let here = if at == all {
                captions.clone()
            } else {
                Vec::new()
            };
            put(column, here.into());
        }
        put("caption", captions.into());
        for (at, column) in self.languages.iter().enumerate() {
            let here = (at == all).then(|| language.clone());
            put(column, here.into());
        }
        if let Some(column) = &self.label {
            put(column, label.answer.into());
        }
        if let Some(column) = &self.split {
            put(column, self.own(split).into());
        }
        put(SPLIT, self.usual(split).into());
        row.into()
    }
}

fn refused(source: &dyn Source, why: &str) -> TrainError {
    TrainError::Check(format!("--clean: {why}: {}", source.describe()))
}

/// Images inside another file, or cut out of one.
const NO_FILES: &str = "images that are no files of their own cannot be listed; `unimo data pack` writes shards without what \
                        cannot be used";

/// Checks whether a list can express this source, as far as its first samples show.
///
/// # Errors
///
/// The reason why it cannot.
pub(super) fn check(source: &dyn Source) -> Result<(), TrainError> {
    if !source.has_captions() {
        return Err(refused(source, "images without texts cannot be listed"));
    }
    if source.offers().translations {
        return Err(refused(
            source,
            "a list of usable samples would not say which texts are translations of each other; `unimo data pack` keeps it",
        ));
    }
    for split in Split::ALL
        .into_iter()
        .filter(|split| !source.is_empty(*split))
    {
        if readable(source.image_path(split, 0))?.is_none() {
            return Err(refused(source, NO_FILES));
        }
        let roles = readable(source.roles(split, 0))?;
        if roles.iter().any(|role| *role != TextRole::Describes) {
            return Err(refused(
                source,
                "a list would make captions of texts that do not describe their images (questions, statements, hypotheses); \
                 `unimo data pack` keeps what they are",
            ));
        }
    }
    Ok(())
}

/// The written list.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Written {
    /// Number of samples.
    pub samples: usize,
    /// Its columns. Others of the lists that were read are not in it.
    pub columns: Vec<String>,
    /// Notes on samples that are not in the list.
    pub lines: Vec<String>,
}

/// Writes the list of usable samples.
///
/// # Errors
///
/// An image is not a separate file, or the list cannot be written; then no list is written.
pub(super) fn write(
    source: &dyn Source,
    columns: &Columns,
    kept: &Kept,
    path: &Path,
) -> Result<Written, TrainError> {
    let mut written = Written::default();
    let (mut unnamed, mut tagged, mut labelled) = (Vec::new(), 0usize, 0usize);
    let (mut no_files, mut spoken) = (0usize, 0usize);
    for (split, kept) in kept.iter() {
        for index in (0..kept.len()).filter(|index| kept[*index]) {
            no_files += usize::from(readable(source.image_path(split, index))?.is_none());
        }
    }
    if no_files > 0 {
        return Err(refused(source, &format!("{no_files} samples: {NO_FILES}")));
    }
    files::try_write_with(path, |file| {
        for (split, kept) in kept.iter() {
            for index in (0..kept.len()).filter(|index| kept[*index]) {
                let Some(image) = readable(source.image_path(split, index))? else {
                    continue;
                };
                let image = std::path::absolute(&image).unwrap_or(image);
                // JSON is text, so a name that is not valid text cannot be in it.
                let Some(image) = image.to_str() else {
                    unnamed.push(image.display().to_string());
                    continue;
                };
                let captions = readable(source.captions(split, index))?;
                let known = readable(source.annotations(split, index))?;
                let lost = |label: &Label| label.bounds.is_some() || !label.given().is_empty();
                tagged += usize::from(!known.tags.is_empty());
                labelled += usize::from(columns.label.is_none() && known.labels.iter().any(lost));
                let in_languages = known.languages.tags.iter().any(|tag| !tag.is_empty());
                spoken += usize::from(columns.languages.is_empty() && in_languages);
                for row in columns.rows(captions, known) {
                    let row = columns.row(image, row, split);
                    if written.columns.is_empty() {
                        let names = row.as_object().into_iter().flat_map(Map::keys);
                        written.columns = names.cloned().collect();
                    }
                    writeln!(file, "{row}").map_err(TrainError::file("write", path))?;
                }
                written.samples += 1;
            }
        }
        Ok(())
    })?;
    if let Some(first) = unnamed.first() {
        written.lines.push(format!(
            "left out {} whose names are no UTF-8, which JSON cannot hold; the first: {first}",
            unnamed.len()
        ));
    }
    for (count, what) in [
        (tagged, "names and boxes of objects"),
        (labelled, "labels"),
        (spoken, "languages of the captions"),
    ] {
        if count > 0 {
            written.lines.push(format!(
                "the list holds images, captions and splits; {what}, which {count} samples have, stay behind"
            ));
        }
    }
    let without = columns.without();
    if !without.is_empty() {
        written.lines.push(format!(
            "the column `split` of the list says train, val or test: read it without {}",
            without.join(", ")
        ));
    }
    Ok(written)
}

//! The list of usable samples, which `--data` reads.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, Value};
use unimo_batch::TextRole;
use unimo_data::{DataConfig, Source, SourceKind, Split, readable};

use super::Kept;
use crate::error::TrainError;
use crate::files;

/// Names of the list's columns. The list can be read with the recipe's own settings and without any.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Columns {
    /// Name of a second column with the image, beside `image`.
    image: Option<String>,
    /// Name of a second column with the caption, beside `caption`.
    text: Option<String>,
    /// Name of the column with the split, instead of `split`.
    split: Option<String>,
    /// The recipe's names of the splits, if they are not the usual ones.
    names: BTreeMap<Split, String>,
    /// The values that the recipe's filter requires.
    filter: BTreeMap<String, String>,
}

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
        let caption = |column: &String| column == "caption";
        Self {
            image: Some(pairs.image_column.clone()).filter(|column| column != "image"),
            text: if pairs.text_columns.iter().any(caption) {
                None
            } else {
                pairs.text_columns.first().cloned()
            },
            split: pairs.split_column.clone(),
            names: names.collect(),
            filter: pairs.filter.clone(),
        }
    }

    fn row(&self, image: &str, captions: Vec<String>, split: Split) -> Value {
        let name = self.names.get(&split).map_or(split.name(), String::as_str);
        let mut row = Map::new();
        for (column, wanted) in &self.filter {
            row.insert(column.clone(), wanted.clone().into());
        }
        row.insert("image".to_owned(), image.into());
        row.extend(
            self.image
                .iter()
                .map(|column| (column.clone(), image.into())),
        );
        let captions: Value = captions.into();
        row.extend(
            self.text
                .iter()
                .map(|column| (column.clone(), captions.clone())),
        );
        row.insert("caption".to_owned(), captions);
        let split = self.split.as_deref().unwrap_or("split");
        row.insert(split.to_owned(), name.into());
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
    /// Number of rows.
    pub samples: usize,
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
    let (mut unnamed, mut tagged, mut no_files) = (Vec::new(), 0usize, 0usize);
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
                tagged += usize::from(!readable(source.tags(split, index))?.is_empty());
                let row = columns.row(image, captions, split);
                writeln!(file, "{row}").map_err(TrainError::file("write", path))?;
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
    if tagged > 0 {
        written.lines.push(format!(
            "the list holds images, captions and splits; names and boxes of objects, which {tagged} samples have, stay behind"
        ));
    }
    Ok(written)
}

//! The samples of a list.

use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;

use image::RgbImage;

use crate::error::{Place, SampleError};
use crate::formats::rows::key_of;
use crate::images;
use crate::sources::label::Label;
use crate::sources::languages::{Alignment, Languages};
use crate::sources::pairs::listing::same_path;
use crate::sources::pairs::{IMAGE_COLUMNS, Pairs, TEXT_COLUMNS};
use crate::sources::source::{Annotations, Offers, Source, SplitFacts};
use crate::sources::splits::{Split, drawn, not_drawn};

/// A text of a sample, and what is known of it.
struct Told {
    caption: String,
    label: Option<String>,
    /// The tag of its language; empty: not known.
    language: String,
    /// The row that it is of.
    row: usize,
    /// The first text of its row, and words of both that stand for each other.
    aligned: Option<(String, Vec<(u32, u32)>)>,
}

impl Pairs {
    /// Each text of a sample with its label, each pair of them once. Of images without texts, the text is empty.
    fn told(&self, split: Split, index: usize) -> Result<Vec<Told>, SampleError> {
        let spans = self.rows(split).of(index);
        let first = self.row(spans[0])?;
        let mut rows = vec![first];
        for span in &spans[1..] {
            let row = self.row(*span)?;
            // Rows were grouped by a hash of 64 bits, so this is practically certain.
            if same_path(&row.image, &rows[0].image) {
                rows.push(row);
            }
        }
        let mut seen = HashSet::new();
        let mut told = Vec::new();
        for (number, row) in rows.into_iter().enumerate() {
            let mut captions = row.captions;
            let base = captions.first().cloned().unwrap_or_default();
            let alignments = row.alignments.into_iter().map(Some);
            let mut alignments = std::iter::once(None).chain(alignments);
            if !self.has_captions() {
                captions.push(String::new());
            }
            let mut languages = row.languages.into_iter();
            for caption in captions {
                let language = languages.next().unwrap_or_default();
                let words = alignments.next().flatten();
                if seen.insert(key_of((&caption, &row.label))) {
                    told.push(Told {
                        caption,
                        label: row.label.clone(),
                        language,
                        row: number,
                        aligned: words.map(|words| (base.clone(), words)),
                    });
                }
            }
        }
        Ok(told)
    }

    fn has_images(&self) -> bool {
        self.holds.is_none_or(|holds| holds.images)
    }

    /// Whether it is known which words of texts stand for each other.
    fn is_aligned(&self) -> bool {
        self.has_captions() && !self.config.alignment_columns.is_empty()
    }

    /// Whether texts of a row are translations of each other.
    fn has_translations(&self) -> bool {
        self.is_aligned() || (self.has_captions() && self.config.translations)
    }

    fn has_captions(&self) -> bool {
        self.holds.is_none_or(|holds| holds.captions)
    }
}

impl Source for Pairs {
    fn len(&self, split: Split) -> usize {
        self.rows(split).len()
    }

    fn describe(&self) -> String {
        let test = match self.rows[Split::Test].len() {
            0 => String::new(),
            images => format!(", {images} to test on with {}", self.captions[Split::Test]),
        };
        let what = if self.has_images() { "images" } else { "texts" };
        let mut text = format!(
            "{}: {} training {what} with {} captions, {} held out with {}{test}, {}, {} unusable",
            self.list.name,
            self.rows[Split::Train].len(),
            self.captions[Split::Train],
            self.rows[Split::Val].len(),
            self.captions[Split::Val],
            self.left_out,
            self.rejected.len()
        );
        if IMAGE_COLUMNS.contains(&self.config.image_column.as_str()) {
            text += &format!(", images by the column `{}`", self.config.image_column);
        }
        if let [column] = self.config.text_columns.as_slice()
            && TEXT_COLUMNS.contains(&column.as_str())
        {
            text += &format!(", texts by the column `{column}`");
        }
        if let Some(column) = &self.config.label_column {
            text += &format!(", labels by the column `{column}`");
        }
        text
    }

    fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        let (of, held) = self.drawn;
        let fraction = self.config.val_fraction;
        if of > 0 && fraction > 0.0 {
            notes.push(drawn(&self.list.name, held, of, "images", fraction));
        }
        if of == 0 {
            let why = "every row says which split it is of";
            notes.extend(not_drawn(&self.list.name, fraction, why));
        }
        if let Some(column) = self.config.label_column.as_ref().filter(|_| !self.labelled) {
            notes.push(format!(
                "{}: it has no column `{column}` (data.pairs.label_column), so that no label of its rows is known",
                self.list.name
            ));
        }
        notes.extend(self.repeated.note(&self.list.name));
        if self.config.split_column.is_none() {
            notes.extend(self.elsewhere.note(&self.list.name));
        }
        // With labels, the same text may be said of an image again.
        if self.doubled > 0 && self.config.label_column.is_none() {
            notes.push(format!(
                "{}: {} captions repeat one of the same image, and are read once",
                self.list.name, self.doubled
            ));
        }
        if self.torn > 0 {
            notes.push(format!(
                "{}: {} images are in several splits, as their rows say; `unimo data verify` names them",
                self.list.name, self.torn
            ));
        }
        notes
    }

    fn place(&self, split: Split, index: usize) -> Place {
        self.list.place(self.rows(split).of(index)[0])
    }

    fn captions(&self, split: Split, index: usize) -> Result<Vec<String>, SampleError> {
        if !self.has_captions() {
            return Ok(Vec::new());
        }
        let told = self.told(split, index)?.into_iter();
        Ok(told.map(|told| told.caption).collect())
    }

    fn facts(&self, _: Split) -> SplitFacts {
        SplitFacts {
            languages: self.has_captions() && !self.config.language_columns.is_empty(),
            ..SplitFacts::default()
        }
    }

    fn offers(&self) -> Offers {
        Offers {
            images: self.has_images(),
            captions: self.has_captions(),
            translations: self.has_translations(),
            alignments: self.is_aligned(),
            ..Offers::default()
        }
    }

    fn annotations(&self, split: Split, index: usize) -> Result<Annotations, SampleError> {
        let in_languages = self.has_captions() && !self.config.language_columns.is_empty();
        if self.config.label_column.is_none() && !in_languages {
            return Ok(Annotations::default());
        }
        let told = self.told(split, index)?;
        let tags = told.iter().filter(|_| in_languages);
        let in_words = || told.iter().filter(|_| self.is_aligned());
        let alignment = |told_of: &Told| {
            let (base, words) = told_of.aligned.clone()?;
            let base = told.iter().position(|told| told.caption == base)?;
            Some(Alignment { base, words })
        };
        let languages = Languages {
            tags: tags.map(|told| told.language.clone()).collect(),
            meanings: told
                .iter()
                .filter(|_| self.has_translations())
                .map(|told| told.row)
                .collect(),
            alignments: in_words().map(alignment).collect(),
        };
        if self.config.label_column.is_none() {
            return Ok(Annotations {
                languages,
                ..Annotations::default()
            });
        }
        if !self.has_captions() && told.len() > 1 {
            let labels: Vec<&str> = told.iter().filter_map(|t| t.label.as_deref()).collect();
            return Err(SampleError::new(
                self.place(split, index),
                format!(
                    "rows of the image have several labels: {}",
                    labels.join(", ")
                ),
            ));
        }
        let of = |told: Told| Label {
            answer: told.label,
            ..Label::default()
        };
        Ok(Annotations {
            labels: told.into_iter().map(of).collect(),
            languages,
            ..Annotations::default()
        })
    }

    /// The image, its texts and their labels: another labelling is other data.
    fn identify(
        &self,
        split: Split,
        index: usize,
        give: &mut dyn FnMut(&[u8]),
    ) -> Result<(), SampleError> {
        if self.has_images()
            && let Some(name) = self.image_name(split, index)?
        {
            give(name.as_bytes());
        }
        let told = SampleError::known(self.told(split, index))?.unwrap_or_default();
        for Told {
            caption,
            label,
            language,
            aligned,
            ..
        } in &told
        {
            give(caption.as_bytes());
            if !language.is_empty() {
                give(language.as_bytes());
            }
            for (a, b) in aligned.iter().flat_map(|(_, words)| words) {
                give(&a.to_le_bytes());
                give(&b.to_le_bytes());
            }
            if self.config.label_column.is_some() {
                give(label.as_deref().unwrap_or_default().as_bytes());
            }
        }
        if told.is_empty() {
            give(&self.place(split, index).line.to_le_bytes());
        }
        Ok(())
    }

    fn image(&self, split: Split, index: usize) -> Result<Option<RgbImage>, SampleError> {
        if !self.has_images() {
            return Ok(None);
        }
        let path = self.picture_path(split, index)?;
        images::read(&path, self.limits)
            .map(Some)
            .map_err(|reason| SampleError::new(self.place(split, index), reason))
    }

    fn image_bytes(
        &self,
        split: Split,
        index: usize,
    ) -> Result<Option<(Vec<u8>, &'static str)>, SampleError> {
        if !self.has_images() {
            return Ok(None);
        }
        let path = self.picture_path(split, index)?;
        images::read_file(&path, self.limits.max_pixels)
            .map(Some)
            .map_err(|reason| SampleError::new(self.place(split, index), reason))
    }

    fn image_name(&self, split: Split, index: usize) -> Result<Option<String>, SampleError> {
        if !self.has_images() {
            return Ok(None);
        }
        let spans = self.rows(split).of(index);
        Ok(SampleError::known(self.row(spans[0]))?.map(|row| row.image))
    }

    fn image_path(&self, split: Split, index: usize) -> Result<Option<PathBuf>, SampleError> {
        if !self.has_images() {
            return Ok(None);
        }
        SampleError::known(self.picture_path(split, index))
    }

    fn rejected(&self) -> &[SampleError] {
        &self.rejected
    }

    fn left_out(&self) -> BTreeMap<String, u64> {
        self.left_out.counts()
    }
}

//! The samples of a finished table.

use std::collections::BTreeMap;
use std::path::PathBuf;

use image::RgbImage;
use unimo_batch::TextRole;

use crate::error::{Place, SampleError};
use crate::order::draws::{Stream, hash};
use crate::sources::label::Label;
use crate::sources::listed::{Listed, NONE};
use crate::sources::source::{Annotations, Sample, Source, SplitFacts};
use crate::sources::splits::{BESIDE_VAL, Split, drawn, not_drawn};

impl Source for Listed {
    fn len(&self, split: Split) -> usize {
        self.splits[split].len()
    }

    fn describe(&self) -> String {
        let texts =
            |rows: &[u32]| -> usize { rows.iter().map(|row| self.captions.of(*row).len()).sum() };
        let (train, val) = (&self.splits[Split::Train], &self.splits[Split::Val]);
        let mut text = format!(
            "{}: {} training images with {} texts, {} held out with {}",
            self.title(),
            train.len(),
            texts(train),
            val.len(),
            texts(val),
        );
        let test = &self.splits[Split::Test];
        if !test.is_empty() {
            text += &format!(", {} to test on with {}", test.len(), texts(test));
        }
        if !self.objects.items.is_empty() {
            text += &format!(
                ", {} boxes, {} of them cut at the image's edge",
                self.objects.items.len(),
                self.clamped
            );
        }
        text + &format!(", {}, {} unusable", self.left_out, self.rejected.len())
    }

    fn notes(&self) -> Vec<String> {
        let unused = not_drawn(&self.title(), self.unused, BESIDE_VAL);
        let mut notes: Vec<String> = unused.into_iter().collect();
        if self.fraction > 0.0 {
            let by_hash = |split: Split| {
                let rows = self.splits[split].iter();
                rows.filter(|row| !self.rows[**row as usize].named).count()
            };
            let held = by_hash(Split::Val);
            let of = held + by_hash(Split::Train);
            if of > 0 {
                notes.push(drawn(&self.title(), held, of, "images", self.fraction));
            }
        }
        let shared = self.in_several_splits();
        if shared > 0 {
            notes.push(format!(
                "{}: {shared} images are in several splits, so that what is held out was seen in training or is tested on",
                self.title()
            ));
        }
        notes
    }

    fn place(&self, split: Split, index: usize) -> Place {
        let row = &self.rows[self.index(split, index) as usize];
        self.place_of(row.file, row.line)
    }

    fn captions(&self, split: Split, index: usize) -> Result<Vec<String>, SampleError> {
        let texts = self.captions.of(self.index(split, index));
        Ok(texts
            .iter()
            .map(|said| self.texts.get(said.text).to_owned())
            .collect())
    }

    fn facts(&self, split: Split) -> SplitFacts {
        let rows = || self.splits[split].iter();
        let mut texts = rows().flat_map(|row| self.captions.of(*row));
        SplitFacts {
            all_describe: texts.all(|said| said.role == TextRole::Describes),
            repeats_pictures: true,
            second_images: rows().any(|row| self.rows[*row as usize].second != NONE),
            ..SplitFacts::default()
        }
    }

    fn annotations(&self, split: Split, index: usize) -> Result<Annotations, SampleError> {
        let number = self.index(split, index);
        let texts = self.captions.of(number);
        let describe = texts.iter().all(|said| said.role == TextRole::Describes);
        let roles = texts.iter().map(|said| said.role);
        let objects = self.objects.of(number).iter();
        Ok(Annotations {
            roles: roles.filter(|_| !describe).collect(),
            labels: texts.iter().map(|said| self.label(said)).collect(),
            tags: objects
                .map(|object| self.texts.get(object.name).to_owned())
                .collect(),
            ..Annotations::default()
        })
    }

    fn identify_labels(
        &self,
        split: Split,
        index: usize,
        give: &mut dyn FnMut(&[u8]),
    ) -> Result<(), SampleError> {
        let number = self.index(split, index);
        for said in self.captions.of(number) {
            let label = Label {
                // Where it stands in the file is no part of what it says.
                line: None,
                ..self.label(said)
            };
            if label == Label::default() && said.role == TextRole::Describes {
                continue;
            }
            give(format!("{:?} {label:?}", said.role).as_bytes());
        }
        for object in self.objects.of(number) {
            give(self.texts.get(object.name).as_bytes());
            give(format!("{:?}", object.bounds).as_bytes());
        }
        Ok(())
    }

    fn picture_id(&self, split: Split, index: usize) -> Result<u64, SampleError> {
        let row = &self.rows[self.index(split, index) as usize];
        let whole = self.identity(row, row.image);
        // Another crop, or another second image, makes another image to look at.
        Ok(match (row.crop, row.second) {
            (NONE, NONE) => whole,
            (NONE, second) => hash(Stream::Picture, &[whole, self.identity(row, second)]),
            (crop, _) => {
                let bounds = self.crops[crop as usize];
                let edges = bounds.map(|edge| u64::from(edge.to_bits()));
                hash(Stream::Picture, &[&[whole], &edges[..]].concat())
            }
        })
    }

    fn image(&self, split: Split, index: usize) -> Result<Option<RgbImage>, SampleError> {
        self.shown(self.index(split, index)).map(Some)
    }

    fn image_bytes(
        &self,
        split: Split,
        index: usize,
    ) -> Result<Option<(Vec<u8>, &'static str)>, SampleError> {
        let row = &self.rows[self.index(split, index) as usize];
        if row.crop != NONE {
            return Ok(None);
        }
        self.stored(row, row.image)
    }

    fn second_image_bytes(
        &self,
        split: Split,
        index: usize,
    ) -> Result<Option<(Vec<u8>, &'static str)>, SampleError> {
        let row = &self.rows[self.index(split, index) as usize];
        if row.second == NONE {
            return Ok(None);
        }
        self.stored(row, row.second)
    }

    fn image_name(&self, split: Split, index: usize) -> Result<Option<String>, SampleError> {
        let row = &self.rows[self.index(split, index) as usize];
        Ok((row.crop == NONE).then(|| self.texts.get(row.image).to_owned()))
    }

    fn image_path(&self, split: Split, index: usize) -> Result<Option<PathBuf>, SampleError> {
        let row = &self.rows[self.index(split, index) as usize];
        if row.crop != NONE {
            return Ok(None);
        }
        Ok(self.path(row, row.image).ok())
    }

    fn sample(&self, split: Split, index: usize) -> Result<Sample, SampleError> {
        let number = self.index(split, index);
        let row = &self.rows[number as usize];
        let picture = self.shown(number)?;
        let objects = self.objects.of(number);
        let boxes: Result<Vec<_>, _> = objects
            .iter()
            .map(|object| self.shares(row, object.bounds, &picture))
            .collect();
        let captions = self.captions(split, index)?;
        let Annotations {
            labels,
            roles,
            tags,
            ..
        } = self.annotations(split, index)?;
        let said = || captions.iter().zip(&labels).zip(&roles);
        let questions: Vec<(&String, &Label)> = said()
            .filter(|(_, role)| **role == TextRole::Question)
            .map(|(said, _)| said)
            .filter(|(_, label)| label.answer.is_some())
            .collect();
        let several = questions.iter().any(|(_, label)| !label.answers.is_empty());
        let statement = |((text, _), role): ((&String, _), &TextRole)| match role {
            TextRole::Statement { holds } => Some((text.clone(), *holds)),
            _ => None,
        };
        let hypothesis = |((text, _), role): ((&String, _), &TextRole)| match role {
            TextRole::Hypothesis(label) => Some((text.clone(), *label)),
            _ => None,
        };
        Ok(Sample {
            name: self.place(split, index).to_string(),
            tags,
            boxes: boxes?,
            questions: questions
                .iter()
                .map(|(text, label)| ((*text).clone(), label.answer.clone().unwrap_or_default()))
                .collect(),
            answers: if several {
                let answers = questions.iter().map(|(_, label)| label.answers.clone());
                answers.collect()
            } else {
                Vec::new()
            },
            statements: said().filter_map(statement).collect(),
            hypotheses: said().filter_map(hypothesis).collect(),
            second_image: if row.second == NONE {
                None
            } else {
                Some(self.picture(row, row.second, self.limits)?)
            },
            image: Some(picture),
            captions,
            roles,
            labels,
            ..Sample::default()
        })
    }

    fn rejected(&self) -> &[SampleError] {
        &self.rejected
    }

    fn left_out(&self) -> BTreeMap<String, u64> {
        self.left_out.counts()
    }
}

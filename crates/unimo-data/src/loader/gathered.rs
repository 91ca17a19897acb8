//! Groups texts by image for retrieval: each image with all the texts that describe it.

use std::collections::BTreeMap;
use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;

use image::RgbImage;
use unimo_batch::TextRole;

use crate::error::{DataError, Place, SampleError};
use crate::images::regions::PictureRegions;
use crate::sources::languages::Languages;
use crate::sources::regions::RegionClasses;
use crate::sources::source::{Annotations, Holds, Offers, Sample, Source, SplitFacts};
use crate::sources::splits::{BySplit, Split};
use crate::walks::Recorded;

/// A source in which every sample is a different image, with all texts that describe it. A source that is already so is returned
/// unchanged.
///
/// # Errors
///
/// The splits have samples but no text describes its image, or a row could not be read now, so its image is unknown.
pub(crate) fn gather(
    source: Arc<dyn Source>,
    splits: &[Split],
) -> Result<Arc<dyn Source>, DataError> {
    let repeats = |split: &Split| source.repeats_pictures(*split);
    let describe = |split: &Split| source.all_describe(*split);
    if splits.iter().all(describe) && !splits.iter().any(repeats) {
        return Ok(source);
    }
    let mut gathered = Gathered {
        pictures: BySplit::default(),
        languages: BySplit::default(),
        source,
    };
    let mut samples = 0;
    for split in splits {
        let read = gathered.read(*split);
        read.map_err(|error| DataError::unavailable(&error))?;
        gathered.languages[*split] = gathered.source.facts(*split).languages;
        samples += gathered.source.len(*split);
    }
    if samples > 0 && splits.iter().all(|split| gathered.is_empty(*split)) {
        return Err(DataError::NothingDescribes {
            samples,
            source_name: gathered.source.describe(),
        });
    }
    Ok(Arc::new(gathered))
}

/// Joins the samples of each image. See [`gather`].
struct Gathered {
    source: Arc<dyn Source>,
    /// The samples of each image.
    pictures: BySplit<Vec<Vec<usize>>>,
    /// Whether the source knows the languages of texts.
    languages: BySplit<bool>,
}

/// Indices of a sample's texts that describe its image.
fn describing(roles: &[TextRole], texts: usize) -> Vec<usize> {
    let describes = |at: &usize| matches!(roles.get(*at), None | Some(TextRole::Describes));
    (0..texts).filter(describes).collect()
}

impl Gathered {
    fn read(&mut self, split: Split) -> Result<(), SampleError> {
        let all_describe = self.source.all_describe(split);
        let mut numbers: HashMap<u64, usize> = HashMap::new();
        let pictures = &mut self.pictures[split];
        for index in 0..self.source.len(split) {
            // An unreadable sample stays, so that it is met and listed as elsewhere.
            if !all_describe {
                let roles =
                    SampleError::known(self.source.roles(split, index))?.unwrap_or_default();
                if !roles.is_empty() && roles.iter().all(|role| *role != TextRole::Describes) {
                    continue;
                }
            }
            let picture = self.source.picture_id(split, index)?;
            let number = *numbers.entry(picture).or_insert(pictures.len());
            match pictures.get_mut(number) {
                Some(samples) => samples.push(index),
                None => pictures.push(vec![index]),
            }
        }
        Ok(())
    }

    fn first(&self, split: Split, index: usize) -> usize {
        self.pictures[split][index][0]
    }

    /// Values that belong to an image's texts, each text once.
    fn of_texts<T: Clone + Default>(
        &self,
        split: Split,
        index: usize,
        of: &dyn Fn(usize) -> Result<Vec<T>, SampleError>,
    ) -> Result<Vec<T>, SampleError> {
        let mut seen = HashSet::new();
        let mut all = Vec::new();
        for sample in &self.pictures[split][index] {
            let texts = self.source.captions(split, *sample)?;
            let roles = self.source.roles(split, *sample)?;
            let found = of(*sample)?;
            for at in describing(&roles, texts.len()) {
                if seen.insert(texts[at].clone()) {
                    all.push(found.get(at).cloned().unwrap_or_default());
                }
            }
        }
        Ok(all)
    }

    fn phrases(&self, split: Split, index: usize) -> Result<Vec<Vec<String>>, SampleError> {
        let phrases = self.of_texts(split, index, &|sample| self.source.phrases(split, sample))?;
        if phrases.iter().all(Vec::is_empty) {
            Ok(Vec::new())
        } else {
            Ok(phrases)
        }
    }

    /// The languages of an image's texts, if the source knows them. Texts of several samples are no translations of each other.
    fn languages(&self, split: Split, index: usize) -> Result<Languages, SampleError> {
        if !self.languages[split] {
            return Ok(Languages::default());
        }
        let of = |sample| Ok(self.source.annotations(split, sample)?.languages.tags);
        Ok(Languages {
            tags: self.of_texts(split, index, &of)?,
            meanings: Vec::new(),
            alignments: Vec::new(),
        })
    }

    fn tags(&self, split: Split, index: usize) -> Result<Vec<String>, SampleError> {
        let samples = &self.pictures[split][index];
        let mut all = Vec::new();
        for sample in samples {
            for tag in self.source.tags(split, *sample)? {
                // Two objects with the same name count twice within one sample, but not across samples.
                if samples.len() == 1 || !all.contains(&tag) {
                    all.push(tag);
                }
            }
        }
        Ok(all)
    }
}

impl Source for Gathered {
    fn len(&self, split: Split) -> usize {
        self.pictures[split].len()
    }

    fn describe(&self) -> String {
        self.source.describe()
    }

    fn notes(&self) -> Vec<String> {
        self.source.notes()
    }

    fn place(&self, split: Split, index: usize) -> Place {
        self.source.place(split, self.first(split, index))
    }

    fn region_classes(&self) -> Option<Arc<RegionClasses>> {
        self.source.region_classes()
    }

    fn offers(&self) -> Offers {
        Offers {
            reads_ahead: false,
            ..self.source.offers()
        }
    }

    fn holds(&self, split: Split, index: usize) -> Holds {
        self.source.holds(split, self.first(split, index))
    }

    fn captions(&self, split: Split, index: usize) -> Result<Vec<String>, SampleError> {
        self.of_texts(split, index, &|sample| self.source.captions(split, sample))
    }

    fn annotations(&self, split: Split, index: usize) -> Result<Annotations, SampleError> {
        Ok(Annotations {
            phrases: self.phrases(split, index)?,
            tags: self.tags(split, index)?,
            languages: self.languages(split, index)?,
            ..Annotations::default()
        })
    }

    fn facts(&self, split: Split) -> SplitFacts {
        SplitFacts {
            languages: self.languages[split],
            ..SplitFacts::default()
        }
    }

    fn picture_id(&self, split: Split, index: usize) -> Result<u64, SampleError> {
        self.source.picture_id(split, self.first(split, index))
    }

    fn image(&self, split: Split, index: usize) -> Result<Option<RgbImage>, SampleError> {
        self.source.image(split, self.first(split, index))
    }

    fn image_bytes(
        &self,
        split: Split,
        index: usize,
    ) -> Result<Option<(Vec<u8>, &'static str)>, SampleError> {
        self.source.image_bytes(split, self.first(split, index))
    }

    fn image_name(&self, split: Split, index: usize) -> Result<Option<String>, SampleError> {
        self.source.image_name(split, self.first(split, index))
    }

    fn image_path(&self, split: Split, index: usize) -> Result<Option<PathBuf>, SampleError> {
        self.source.image_path(split, self.first(split, index))
    }

    fn regions(&self, split: Split, index: usize) -> Result<Option<PictureRegions>, SampleError> {
        self.source.regions(split, self.first(split, index))
    }

    fn walk(&self, split: Split, index: usize) -> Result<Option<Box<dyn Recorded>>, SampleError> {
        self.source.walk(split, self.first(split, index))
    }

    fn sample(&self, split: Split, index: usize) -> Result<Sample, SampleError> {
        let first = self.source.sample(split, self.first(split, index))?;
        // Boxes belong to the tags of one sample.
        let alone = self.pictures[split][index].len() == 1;
        Ok(Sample {
            captions: self.captions(split, index)?,
            phrases: self.phrases(split, index)?,
            tags: self.tags(split, index)?,
            languages: self.languages(split, index)?,
            boxes: if alone { first.boxes } else { Vec::new() },
            roles: Vec::new(),
            ..first
        })
    }

    fn rejected(&self) -> &[SampleError] {
        self.source.rejected()
    }

    fn left_out(&self) -> BTreeMap<String, u64> {
        self.source.left_out()
    }

    fn items(&self) -> usize {
        self.source.items()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sources::fixtures::{captions, folder, open};

    const REFS: &str = r#"[
        {"ref_id": 1, "ann_id": 1, "split": "val", "sentences": [{"sent": "left cat"}, {"sent": "the cat"}]},
        {"ref_id": 2, "ann_id": 2, "split": "val", "sentences": [{"sent": "a dog"}]},
        {"ref_id": 3, "ann_id": 3, "split": "val", "sentences": [{"sent": "the cat"}, {"sent": "right cat"}]}]"#;

    const INSTANCES: &str = r#"{"images": [{"id": 5, "file_name": "5.jpg", "width": 40, "height": 20},
        {"id": 6, "file_name": "6.jpg", "width": 40, "height": 20}],
        "annotations": [{"id": 1, "image_id": 5, "category_id": 3, "bbox": [0, 5, 10, 10]},
        {"id": 2, "image_id": 6, "category_id": 4, "bbox": [0, 5, 10, 10]},
        {"id": 3, "image_id": 5, "category_id": 3, "bbox": [20, 5, 10, 10]}],
        "categories": [{"id": 3, "name": "cat"}, {"id": 4, "name": "dog"}]}"#;

    #[test]
    fn references_of_a_picture_are_its_captions() {
        let folder = folder(&[("r.json", REFS), ("i.json", INSTANCES), ("i/5.jpg", "4x2")]);
        let data = "source = \"refcoco\"\n[refcoco]\nrefs = \"r.json\"\ninstances = \"i.json\"\nimages = \"i\"\n";
        let source = open(&folder, data).unwrap();
        assert_eq!(source.len(Split::Val), 3);
        let gathered = gather(source, &[Split::Val]).unwrap();
        assert_eq!(
            captions(&*gathered, Split::Val),
            [vec!["left cat", "the cat", "right cat"], vec!["a dog"]]
        );
        assert_eq!(gathered.tags(Split::Val, 0).unwrap(), ["cat"]);
        let sample = gathered.sample(Split::Val, 0).unwrap();
        assert_eq!(sample.captions.len(), 3);
        assert_eq!(sample.image.unwrap().dimensions(), (4, 2));
    }

    #[test]
    fn what_asks_and_claims_is_not_retrieved() {
        let folder = folder(&[
            ("q.json", r#"[["what?", "one", "0"]]"#),
            (
                "c.jsonl",
                r#"{"image": "0.png", "caption": "one", "split": "val"}"#,
            ),
            ("0.png", "2x2"),
        ]);
        let vqa = "source = \"vqa\"\nval_fraction = 1.0\n[MIXED.train]\nquestions = \"q.json\"\nimages = \".\"\nimage = \"{id}.png\"\n";
        let alone = "source = \"vqa\"\n[vqa]\nval_fraction = 1.0\n[vqa.train]\nquestions = \"q.json\"\nimages = \".\"\n\
                     image = \"{id}.png\"\n";
        let source = open(&folder, alone).unwrap();
        let message = gather(source, &[Split::Val]).err().unwrap().to_string();
        assert!(message.contains("nothing to retrieve"), "{message}");
        let mixed = format!(
            "source = \"mixture\"\n[[mixture.parts]]\nsource = \"pairs\"\npath = \"c.jsonl\"\n[[mixture.parts]]\n{}",
            vqa.replace("MIXED", "mixture.parts")
        );
        let gathered = gather(open(&folder, &mixed).unwrap(), &[Split::Val]).unwrap();
        assert_eq!(captions(&*gathered, Split::Val), [["one"]]);
    }

    #[test]
    fn what_is_gathered_already_stays_as_it_is() {
        let folder = folder(&[(
            "c.jsonl",
            r#"{"image": "0.png", "caption": "one", "split": "val"}"#,
        )]);
        let source = open(&folder, "source = \"pairs\"\n[pairs]\npath = \"c.jsonl\"\n").unwrap();
        let same = gather(Arc::clone(&source), &[Split::Val]).unwrap();
        assert!(Arc::ptr_eq(&source, &same));
    }
}

//! Several sources as one.
//!
//! ```toml
//! [data]
//! source = "mixture"
//!
//! [data.mixture]
//! batches = "mixed"
//!
//! [[data.mixture.parts]]
//! source = "pairs"
//! path = "coco.jsonl"
//! weight = 2.0
//!
//! [[data.mixture.parts]]
//! source = "scenes"
//! keep = "images"
//! weight = 1.0
//! ```
//!
//! `keep` turns a source that has both modalities into unaligned images or plain texts. If another part has pairs, such parts and
//! single-modality sources are trained on but never evaluated.
//!
//! Without weights and temperature, every sample of every part comes once per epoch of the whole. With them, a part comes as often
//! as its weight says, and each of its samples comes once per epoch of the part.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use image::RgbImage;
use serde::{Deserialize, Serialize};

use crate::error::{DataError, Place, SampleError};
use crate::images::Limits;
use crate::order::plan::{Plan, Shuffle};
use crate::sources::AnySource;
use crate::sources::regions::RegionClasses;
use crate::sources::source::{
    Annotations, Holds, Offers, Sample, Source, SourceConfig, SplitFacts,
};
use crate::sources::splits::Split;
use crate::walks::Recorded;

/// `[data.mixture]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MixtureConfig {
    /// Its parts.
    pub parts: Vec<PartConfig>,
    /// Temperature `T`: a part of `n` samples is drawn in proportion to `n^(1/T)`. 1 draws by size; larger values draw more evenly.
    /// Excludes weights.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f64>,
    /// What a batch is made of.
    #[serde(default)]
    pub batches: Batches,
}

/// `[[data.mixture.parts]]`: a source with its settings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PartConfig {
    /// How often it is drawn, relative to the other weights. Either all parts have a weight or none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<f64>,
    /// Which modality of its samples is kept.
    #[serde(default, skip_serializing_if = "is_all")]
    pub keep: Kept,
    /// The source, with the settings of its table.
    #[serde(flatten)]
    pub source: AnySource,
}

/// Which modality of a part's samples is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kept {
    /// Everything.
    #[default]
    All,
    /// Images without texts.
    Images,
    /// Texts without images.
    Texts,
}

fn is_all(kept: &Kept) -> bool {
    *kept == Kept::All
}

/// What a batch is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Batches {
    /// Samples of all parts.
    #[default]
    Mixed,
    /// Samples of one part, for parts that lack images or texts.
    Single,
}

impl MixtureConfig {
    /// Whether parts are drawn more or less often than their sizes say.
    pub fn is_weighted(&self) -> bool {
        self.temperature.is_some() || self.parts.iter().any(|part| part.weight.is_some())
    }
}

impl SourceConfig for MixtureConfig {
    fn validate(&self, table: &str) -> Result<(), DataError> {
        if self.parts.is_empty() {
            return Err(DataError::config(
                format!("{table}.parts"),
                "empty",
                "one or more tables, each with `source` and its settings",
            ));
        }
        let weighted = self.parts.iter().filter(|part| part.weight.is_some());
        let weighted = weighted.count();
        for (at, part) in self.parts.iter().enumerate() {
            let table = format!("{table}.parts[{at}]");
            part.source.validate(&table)?;
            match part.weight {
                Some(weight) if !(weight > 0.0 && weight.is_finite()) => {
                    return Err(DataError::config(
                        format!("{table}.weight"),
                        weight,
                        "a number above 0",
                    ));
                }
                None if weighted > 0 => {
                    return Err(DataError::config(
                        format!("{table}.weight"),
                        "absent",
                        "a number above 0, since other parts have one",
                    ));
                }
                _ => {}
            }
        }
        match self.temperature {
            Some(_) if weighted > 0 => Err(DataError::config(
                format!("{table}.temperature"),
                "given",
                "weights or a temperature, not both",
            )),
            Some(temperature) if !(temperature > 0.0 && temperature.is_finite()) => {
                Err(DataError::config(
                    format!("{table}.temperature"),
                    temperature,
                    "a number above 0",
                ))
            }
            _ => Ok(()),
        }
    }

    fn paths(&mut self) -> Vec<&mut PathBuf> {
        self.parts
            .iter_mut()
            .flat_map(|part| part.source.paths())
            .collect()
    }

    fn open(&self, limits: &Limits) -> Result<Arc<dyn Source>, DataError> {
        let parts: Vec<Arc<dyn Source>> = self
            .parts
            .iter()
            .zip(0..)
            .map(|(part, at)| keep(part, at, part.source.open(limits)?))
            .collect::<Result<_, _>>()?;
        let of = |part: &Arc<dyn Source>| (part.has_images(), part.has_captions());
        if self.batches == Batches::Mixed && parts.iter().any(|part| of(part) != of(&parts[0])) {
            return Err(DataError::config(
                "data.mixture.batches",
                "mixed",
                "\"single\", where some parts have no images or no captions",
            ));
        }
        let empty = |part: &Arc<dyn Source>| part.len(Split::Train) == 0;
        if let (true, Some(at)) = (self.is_weighted(), parts.iter().position(empty)) {
            return Err(DataError::config(
                format!("data.mixture.parts[{at}]"),
                parts[at].describe(),
                "a source with training samples: it has none, so its weight would mean nothing",
            ));
        }
        Ok(Arc::new(Mixture {
            rejected: parts
                .iter()
                .flat_map(|part| part.rejected().to_vec())
                .collect(),
            parts,
            config: self.clone(),
        }))
    }
}

/// The source of a part, reduced to what is kept.
fn keep(
    part: &PartConfig,
    at: usize,
    source: Arc<dyn Source>,
) -> Result<Arc<dyn Source>, DataError> {
    let (has, what) = match part.keep {
        Kept::All => return Ok(source),
        Kept::Images => (source.has_images(), "images"),
        Kept::Texts => (source.has_captions(), "texts"),
    };
    if !has {
        return Err(DataError::config(
            format!("data.mixture.parts[{at}].keep"),
            what,
            format!("something that the source has, and it has no {what}"),
        ));
    }
    let keep = part.keep;
    Ok(Arc::new(OneModality { source, keep }))
}

/// A source reduced to one modality.
struct OneModality {
    source: Arc<dyn Source>,
    keep: Kept,
}

impl Source for OneModality {
    fn len(&self, split: Split) -> usize {
        // Translations among held-out texts can be judged; of images alone there is nothing to judge.
        match (split, self.keep) {
            (Split::Train, _) | (_, Kept::All | Kept::Texts) => self.source.len(split),
            (Split::Val | Split::Test, Kept::Images) => 0,
        }
    }

    fn describe(&self) -> String {
        let what = match self.keep {
            Kept::Images => "images",
            Kept::All | Kept::Texts => "texts",
        };
        format!("{what} alone of {}", self.source.describe())
    }

    fn place(&self, split: Split, index: usize) -> Place {
        self.source.place(split, index)
    }

    fn offers(&self) -> Offers {
        Offers {
            images: self.keep == Kept::Images,
            captions: self.keep == Kept::Texts,
            regions: None,
            slices: 0,
            walks: None,
            ..self.source.offers()
        }
    }

    fn facts(&self, split: Split) -> SplitFacts {
        SplitFacts {
            second_images: false,
            ..self.source.facts(split)
        }
    }

    /// The roles and phrases of texts, or the tags of an image.
    fn annotations(&self, split: Split, index: usize) -> Result<Annotations, SampleError> {
        let known = self.source.annotations(split, index)?;
        Ok(match self.keep {
            Kept::Images => Annotations {
                tags: known.tags,
                ..Annotations::default()
            },
            Kept::All | Kept::Texts => Annotations {
                roles: known.roles,
                phrases: known.phrases,
                languages: known.languages,
                ..Annotations::default()
            },
        })
    }

    fn siblings(&self, split: Split, index: usize) -> Range<usize> {
        self.source.siblings(split, index)
    }

    fn region_classes(&self) -> Option<Arc<RegionClasses>> {
        self.source.region_classes()
    }

    fn shards(&self, split: Split) -> Vec<usize> {
        self.source.shards(split)
    }

    fn plan(&self, split: Split, shuffle: Shuffle, batch_size: usize) -> Plan {
        self.source.plan(split, shuffle, batch_size)
    }

    fn captions(&self, split: Split, index: usize) -> Result<Vec<String>, SampleError> {
        match self.keep {
            Kept::Images => Ok(Vec::new()),
            Kept::All | Kept::Texts => self.source.captions(split, index),
        }
    }

    fn notes(&self) -> Vec<String> {
        self.source.notes()
    }

    fn picture_id(&self, split: Split, index: usize) -> Result<u64, SampleError> {
        self.source.picture_id(split, index)
    }

    fn sample(&self, split: Split, index: usize) -> Result<Sample, SampleError> {
        let whole = match self.keep {
            // If images are not kept, they are not read.
            Kept::Texts => Sample::default(),
            Kept::All | Kept::Images => self.source.sample(split, index)?,
        };
        let known = self.annotations(split, index)?;
        Ok(Sample {
            name: self.place(split, index).to_string(),
            captions: self.captions(split, index)?,
            roles: known.roles,
            phrases: known.phrases,
            languages: known.languages,
            second_texts: whole.second_texts,
            picture_id: whole.picture_id,
            image: whole.image,
            tags: whole.tags,
            boxes: whole.boxes,
            ..Sample::default()
        })
    }

    fn image(&self, split: Split, index: usize) -> Result<Option<RgbImage>, SampleError> {
        match self.keep {
            Kept::Texts => Ok(None),
            Kept::All | Kept::Images => self.source.image(split, index),
        }
    }

    fn image_bytes(
        &self,
        split: Split,
        index: usize,
    ) -> Result<Option<(Vec<u8>, &'static str)>, SampleError> {
        match self.keep {
            Kept::Texts => Ok(None),
            Kept::All | Kept::Images => self.source.image_bytes(split, index),
        }
    }

    fn identify(
        &self,
        split: Split,
        index: usize,
        give: &mut dyn FnMut(&[u8]),
    ) -> Result<(), SampleError> {
        self.source.identify(split, index, give)
    }

    fn identify_labels(
        &self,
        split: Split,
        index: usize,
        give: &mut dyn FnMut(&[u8]),
    ) -> Result<(), SampleError> {
        self.source.identify_labels(split, index, give)
    }

    fn image_name(&self, split: Split, index: usize) -> Result<Option<String>, SampleError> {
        let name = self.source.image_name(split, index)?;
        Ok(name.filter(|_| self.keep != Kept::Texts))
    }

    fn image_path(&self, split: Split, index: usize) -> Result<Option<PathBuf>, SampleError> {
        let path = self.source.image_path(split, index)?;
        Ok(path.filter(|_| self.keep == Kept::Images))
    }

    fn ahead(&self, split: Split, indices: &[usize], shuffle: Shuffle) {
        self.source.ahead(split, indices, shuffle);
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

/// Several sources as one. See the [module](self).
struct Mixture {
    parts: Vec<Arc<dyn Source>>,
    rejected: Vec<SampleError>,
    config: MixtureConfig,
}

impl Mixture {
    /// Number of samples of a part. If there are pairs, only pairs are evaluated, since retrieval needs aligned images and texts.
    fn samples(&self, part: &Arc<dyn Source>, split: Split) -> usize {
        let is_pair = |part: &Arc<dyn Source>| part.has_images() && part.has_captions();
        let left_out = split != Split::Train && !is_pair(part) && self.parts.iter().any(is_pair);
        if left_out { 0 } else { part.len(split) }
    }

    /// The part that holds a sample, and the sample's index in the part.
    fn part(&self, split: Split, mut index: usize) -> (&dyn Source, usize) {
        for part in &self.parts {
            let samples = self.samples(part, split);
            if index < samples {
                return (&**part, index);
            }
            index -= samples;
        }
        // As for any source, an index beyond the end is the caller's mistake.
        (&*self.parts[self.parts.len() - 1], index)
    }

    fn weights(&self, split: Split) -> Option<Vec<f64>> {
        let temperature = self.config.temperature;
        self.config
            .parts
            .iter()
            .zip(&self.parts)
            .map(|(config, part)| {
                let samples = self.samples(part, split) as f64;
                let drawn = temperature.map(|t| samples.powf(1.0 / t));
                let weight = config.weight.or(drawn);
                if self.config.batches == Batches::Single {
                    // Batches of one part have to be drawn; the default weight is the part's size.
                    return weight.or(Some(samples));
                }
                weight
            })
            .collect()
    }
}

impl Source for Mixture {
    fn len(&self, split: Split) -> usize {
        self.parts
            .iter()
            .map(|part| self.samples(part, split))
            .sum()
    }

    fn describe(&self) -> String {
        let parts: Vec<String> = self.parts.iter().map(|part| part.describe()).collect();
        format!("a mixture of: {}", parts.join("; "))
    }

    fn place(&self, split: Split, index: usize) -> Place {
        let (part, index) = self.part(split, index);
        part.place(split, index)
    }

    fn offers(&self) -> Offers {
        let any = |of: fn(&Offers) -> bool| self.parts.iter().any(|part| of(&part.offers()));
        Offers {
            images: any(|part| part.images),
            captions: any(|part| part.captions),
            regions: None,
            reads_ahead: any(|part| part.reads_ahead),
            translations: any(|part| part.translations),
            alignments: any(|part| part.alignments),
            slices: self
                .parts
                .iter()
                .map(|part| part.offers().slices)
                .max()
                .unwrap_or(0),
            // Episodes of two kinds are no batch, which the loader says.
            walks: self.parts.iter().find_map(|part| part.offers().walks),
        }
    }

    /// Those of the first part that knows them.
    fn region_classes(&self) -> Option<Arc<RegionClasses>> {
        self.parts.iter().find_map(|part| part.region_classes())
    }

    fn batch_parts(&self) -> Vec<Arc<dyn Source>> {
        match self.config.batches {
            Batches::Single => self.parts.clone(),
            Batches::Mixed => Vec::new(),
        }
    }

    fn facts(&self, split: Split) -> SplitFacts {
        let parts = self.parts.iter();
        let with = parts.filter(|part| self.samples(part, split) > 0);
        let facts: Vec<SplitFacts> = with.map(|part| part.facts(split)).collect();
        SplitFacts {
            all_describe: facts.iter().all(|part| part.all_describe),
            // Two parts may share an image.
            repeats_pictures: facts.len() > 1 || facts.iter().any(|part| part.repeats_pictures),
            second_images: facts.iter().any(|part| part.second_images),
            languages: facts.iter().any(|part| part.languages),
        }
    }

    fn annotations(&self, split: Split, index: usize) -> Result<Annotations, SampleError> {
        let (part, index) = self.part(split, index);
        part.annotations(split, index)
    }

    fn holds(&self, split: Split, index: usize) -> Holds {
        let (part, index) = self.part(split, index);
        part.holds(split, index)
    }

    fn siblings(&self, split: Split, index: usize) -> Range<usize> {
        let (part, within) = self.part(split, index);
        let inner = part.siblings(split, within);
        let offset = index - within;
        offset + inner.start..offset + inner.end
    }

    fn shards(&self, split: Split) -> Vec<usize> {
        self.parts
            .iter()
            .filter(|part| self.samples(part, split) > 0)
            .flat_map(|part| part.shards(split))
            .collect()
    }

    fn plan(&self, split: Split, shuffle: Shuffle, batch_size: usize) -> Plan {
        let Some(weights) = self.weights(split) else {
            return Plan::new(&self.shards(split), shuffle);
        };
        let unit = match self.config.batches {
            Batches::Mixed => 1,
            Batches::Single => batch_size,
        };
        let parts = self.parts.iter().zip(weights);
        let parts =
            parts
                .filter(|(part, _)| self.samples(part, split) > 0)
                .map(|(part, weight)| {
                    let plan = part.plan(split, shuffle, batch_size);
                    (weight, part.len(split), plan)
                });
        Plan::parts(parts.collect(), unit)
    }

    fn captions(&self, split: Split, index: usize) -> Result<Vec<String>, SampleError> {
        let (part, index) = self.part(split, index);
        part.captions(split, index)
    }

    fn notes(&self) -> Vec<String> {
        let mut notes: Vec<String> = self.parts.iter().flat_map(|part| part.notes()).collect();
        for split in [Split::Val, Split::Test] {
            let unused =
                |part: &&Arc<dyn Source>| self.samples(part, split) == 0 && part.len(split) > 0;
            notes.extend(self.parts.iter().filter(unused).map(|part| {
                format!(
                    "{} samples of the {} split are not evaluated, since they are no pairs: {}",
                    part.len(split),
                    split.name(),
                    part.describe()
                )
            }));
        }
        notes
    }

    fn walk(&self, split: Split, index: usize) -> Result<Option<Box<dyn Recorded>>, SampleError> {
        let (part, index) = self.part(split, index);
        part.walk(split, index)
    }

    fn picture_id(&self, split: Split, index: usize) -> Result<u64, SampleError> {
        let (part, index) = self.part(split, index);
        part.picture_id(split, index)
    }

    fn image(&self, split: Split, index: usize) -> Result<Option<RgbImage>, SampleError> {
        let (part, index) = self.part(split, index);
        part.image(split, index)
    }

    fn image_bytes(
        &self,
        split: Split,
        index: usize,
    ) -> Result<Option<(Vec<u8>, &'static str)>, SampleError> {
        let (part, index) = self.part(split, index);
        part.image_bytes(split, index)
    }

    fn second_image_bytes(
        &self,
        split: Split,
        index: usize,
    ) -> Result<Option<(Vec<u8>, &'static str)>, SampleError> {
        let (part, index) = self.part(split, index);
        part.second_image_bytes(split, index)
    }

    fn identify(
        &self,
        split: Split,
        index: usize,
        give: &mut dyn FnMut(&[u8]),
    ) -> Result<(), SampleError> {
        let (part, index) = self.part(split, index);
        part.identify(split, index, give)
    }

    fn identify_labels(
        &self,
        split: Split,
        index: usize,
        give: &mut dyn FnMut(&[u8]),
    ) -> Result<(), SampleError> {
        let (part, index) = self.part(split, index);
        part.identify_labels(split, index, give)
    }

    fn image_name(&self, split: Split, index: usize) -> Result<Option<String>, SampleError> {
        let (part, index) = self.part(split, index);
        part.image_name(split, index)
    }

    fn image_path(&self, split: Split, index: usize) -> Result<Option<PathBuf>, SampleError> {
        let (part, index) = self.part(split, index);
        part.image_path(split, index)
    }

    fn sample(&self, split: Split, index: usize) -> Result<Sample, SampleError> {
        let (part, index) = self.part(split, index);
        part.sample(split, index)
    }

    fn ahead(&self, split: Split, indices: &[usize], shuffle: Shuffle) {
        // Consecutive samples of one part are announced together.
        let mut run: Vec<usize> = Vec::new();
        for (at, index) in indices.iter().enumerate() {
            let (part, inside) = self.part(split, *index);
            run.push(inside);
            let next = indices.get(at + 1).map(|next| self.part(split, *next).0);
            if !next.is_some_and(|next| std::ptr::addr_eq(next, part)) {
                part.ahead(split, &run, shuffle);
                run.clear();
            }
        }
    }

    fn rejected(&self) -> &[SampleError] {
        &self.rejected
    }

    fn left_out(&self) -> BTreeMap<String, u64> {
        let mut counts = BTreeMap::new();
        for (name, count) in self.parts.iter().flat_map(|part| part.left_out()) {
            *counts.entry(name).or_default() += count;
        }
        counts
    }

    fn items(&self) -> usize {
        self.parts.iter().map(|part| part.items()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{DataConfig, open};

    fn config(text: &str) -> DataConfig {
        toml::from_str(text).unwrap()
    }

    const TWO: &str = r#"
        source = "mixture"
        [[mixture.parts]]
        source = "scenes"
        train = 10
        val = 3
        seed = 1
        weight = 1.0
        [[mixture.parts]]
        source = "scenes"
        train = 30
        val = 2
        seed = 2
        weight = 3
    "#;

    #[test]
    fn parts_follow_each_other() {
        let source = open(&config(TWO)).unwrap();
        assert_eq!((source.len(Split::Train), source.len(Split::Val)), (40, 5));
        let alone = config("[scenes]\nseed = 2\ntrain = 30\nval = 2");
        let alone = open(&alone).unwrap();
        for index in [0, 29] {
            let sample = alone.sample(Split::Train, index).unwrap();
            assert_eq!(source.sample(Split::Train, 10 + index).unwrap(), sample);
            assert_eq!(
                source.phrases(Split::Train, 10 + index).unwrap(),
                sample.phrases
            );
            assert_eq!(source.tags(Split::Train, 10 + index).unwrap(), sample.tags);
        }
        let again: DataConfig = toml::from_str(&toml::to_string(&config(TWO)).unwrap()).unwrap();
        assert_eq!(again, config(TWO));
    }

    #[test]
    fn weights_say_how_often_a_part_comes() {
        let source = open(&config(TWO)).unwrap();
        let plan = source.plan(Split::Train, Shuffle::Global, 8);
        let first = (0..4096).filter(|p| plan.at(5, *p) < 10).count();
        assert_eq!(first, 1024);
    }

    #[test]
    fn without_weights_each_comes_once() {
        let text = TWO.replace("weight = 1.0", "").replace("weight = 3", "");
        let source = open(&config(&text)).unwrap();
        let plan = source.plan(Split::Train, Shuffle::Global, 8);
        let mut seen: Vec<usize> = (40..80).map(|p| plan.at(5, p)).collect();
        seen.sort_unstable();
        assert_eq!(seen, (0..40).collect::<Vec<_>>());
        let even = text.replace(
            "source = \"mixture\"",
            "source = \"mixture\"\n[mixture]\ntemperature = 1e9",
        );
        let even = open(&config(&even)).unwrap();
        let plan = even.plan(Split::Train, Shuffle::Global, 8);
        assert_eq!((0..4096).filter(|p| plan.at(5, *p) < 10).count(), 2048);
    }

    #[test]
    fn one_modality_is_kept() {
        let text = TWO
            .replace("seed = 2", "seed = 2\nkeep = \"images\"")
            .replace(
                "source = \"mixture\"",
                "source = \"mixture\"\n[mixture]\nbatches = \"single\"",
            );
        let source = open(&config(&text)).unwrap();
        assert_eq!((source.len(Split::Train), source.len(Split::Val)), (40, 3));
        let pair = source.sample(Split::Train, 9).unwrap();
        assert!(pair.image.is_some() && !pair.captions.is_empty());
        let image = source.sample(Split::Train, 10).unwrap();
        assert!(image.image.is_some() && image.captions.is_empty());
        let holds = source.holds(Split::Train, 10);
        assert!(holds.images && !holds.captions);
        let again: DataConfig = toml::from_str(&toml::to_string(&config(&text)).unwrap()).unwrap();
        assert_eq!(again, config(&text));
        assert_eq!(source.captions(Split::Val, 2).unwrap().len(), 2);
        let mixed = text.replace("single", "mixed");
        assert!(open(&config(&mixed)).is_err());
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (from, to, key) in [
            ("weight = 3", "", "data.mixture.parts[1].weight"),
            ("weight = 3", "weight = -1", "data.mixture.parts[1].weight"),
            ("train = 30", "train = 0", "data.mixture.parts[1].train"),
            (
                "source = \"mixture\"",
                "source = \"mixture\"\n[mixture]\ntemperature = 2.0",
                "data.mixture.temperature",
            ),
        ] {
            let message = config(&TWO.replace(from, to))
                .validate()
                .unwrap_err()
                .to_string();
            assert!(message.contains(&format!("`{key}`")), "{message}");
        }
        let unknown = TWO.replace("train = 30", "trian = 30");
        let message = toml::from_str::<DataConfig>(&unknown)
            .unwrap_err()
            .to_string();
        assert!(message.contains("trian"), "{message}");
        let value = TWO.replace("train = 30", "train = \"many\"");
        let message = toml::from_str::<DataConfig>(&value)
            .unwrap_err()
            .to_string();
        assert!(message.contains("train: invalid type"), "{message}");
    }
}

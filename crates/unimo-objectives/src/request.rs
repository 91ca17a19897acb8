//! What an objective requests: which inputs are encoded, by which model, and which samples count.
//!
//! An objective names its inputs as a list of [`Request`]s. The step encodes each distinct one once for all objectives. Three
//! things follow from the requests alone: what a batch lacks for an objective, what the loader must put into a batch, and which
//! objectives contradict each other.

use unimo_batch::{
    Batch, ConfigError, JOINED, JoinSpec, KEY, MaskSpec, PatchMaskSpec, QUERY, RegionLabels,
    RegionMaskSpec, SecondViews, SidesSpec, TAGS, TRANSLATION, Target,
};
use unimo_encoders::backbone::Backbone;

/// One input that an objective wants encoded.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// The input.
    pub what: What,
    /// The model whose encoders read it.
    pub by: By,
    /// A layer whose states are kept as well as the last one's. Layers count from 0, the embeddings.
    pub layer: Option<usize>,
    /// Whether the objective also runs on a batch without it.
    pub optional: bool,
}

/// An input of a sample.
#[derive(Debug, Clone, PartialEq)]
pub enum What {
    /// Its text.
    Text(TextForm),
    /// Its image.
    Image(ImageForm),
    /// Its text as words on the host: nothing is encoded.
    Words,
    /// Every caption of its image, on the host: nothing is encoded.
    References,
    /// The codes of its image's patches, on the host: nothing is encoded.
    Codes,
    /// What the hidden regions of its image are, on the host: nothing is encoded.
    Regions(RegionLabels),
    /// Its images and sentences in order, [`Batch::slices`].
    Slices(SliceForm),
    /// Its episode with what is to be learned of each decision, [`Batch::walks`], and its text as the instruction.
    Walks,
    /// The classes of the cells of its map, on the host: nothing is encoded.
    CellClasses,
}

/// How the sentences of a story are read; its images are read as they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SliceForm {
    /// From left to right, for a stream that reads the story.
    InOrder,
    /// Each by itself, for a vector of each slice.
    Each,
}

/// How a text is read.
#[derive(Debug, Clone, PartialEq)]
pub enum TextForm {
    /// As it is.
    Plain,
    /// As it is, with its phrases after the words (MVP).
    WithPhrases,
    /// With words hidden.
    Masked(MaskSpec),
    /// With this share of its phrases hidden (MVP).
    MaskedPhrases(f64),
    /// From left to right.
    LeftToRight,
    /// With words hidden, from left to right.
    MaskedLeftToRight(MaskSpec),
    /// Masked if another objective of the step reads it so, else as it is: it costs nothing extra.
    AsOthers,
    /// The text in another language, as it is.
    Translation,
    /// The text and its translation as one text, without phrases.
    Joined(JoinSpec),
    /// The same with words of both hidden.
    MaskedJoined(JoinSpec, MaskSpec),
    /// One side of a contrast of translations.
    Side(SidesSpec, Side),
    /// A further text of the sample, by its name in [`Batch::further_texts`].
    Further(String),
}

/// The sides of a contrast of translations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The texts that it learns to embed.
    Query,
    /// Their translations, which it compares them with.
    Key,
}

impl Side {
    /// Its name in [`Batch::further_texts`].
    pub fn name(self) -> &'static str {
        match self {
            Self::Query => QUERY,
            Self::Key => KEY,
        }
    }

    /// The kind under which it is stored.
    pub fn kind(self) -> TextKind {
        TextKind::Further(self.name().to_owned())
    }
}

/// How an image is read.
#[derive(Debug, Clone, PartialEq)]
pub enum ImageForm {
    /// As it is. If another objective hides tags, the student reads it with the same tags hidden, so that it is encoded once (MVP's
    /// release).
    Plain,
    /// With this share of its tags hidden (MVP).
    MaskedTags(f64),
    /// With patches hidden.
    MaskedPatches(PatchMaskSpec),
    /// With regions hidden.
    MaskedRegions(RegionMaskSpec),
    /// A second random augmentation of it.
    SecondView,
    /// The second image of a sample that has two (NLVR2).
    Second,
    /// As it is, and also with representation tokens (MMRL). The encoder is frozen; what lies below the tokens is computed once for both.
    Represented,
}

/// The model whose encoders read an input.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum By {
    /// The model that is trained.
    #[default]
    Student,
    /// Its moving average ([`crate::teacher`]), which gets no gradient.
    Teacher,
}

/// The kind under which encoded texts are stored: one table per kind, whatever hid their words.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum TextKind {
    /// As they are.
    #[default]
    Plain,
    /// With words, phrases or both hidden.
    Masked,
    /// From left to right.
    LeftToRight,
    /// With words hidden, from left to right.
    MaskedLeftToRight,
    /// In another language, as they are.
    Translation,
    /// Joined with their translations, as they are.
    Joined,
    /// Joined with their translations, with words of both hidden.
    MaskedJoined,
    /// Further texts.
    Further(String),
}

/// Texts of one length that are encoded together, so that pairs of them go through one pass of the cross-modal encoder.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Table {
    /// Plain texts, masked texts and translations.
    BothDirections,
    /// Joined texts, as they are and with words hidden.
    Joined,
    /// Texts that are read from left to right, as they are and with words hidden.
    LeftToRight,
    /// Further texts.
    Further(String),
}

impl TextKind {
    /// The table that holds it.
    pub(crate) fn table(&self) -> Table {
        match self {
            Self::Plain | Self::Masked | Self::Translation => Table::BothDirections,
            Self::Joined | Self::MaskedJoined => Table::Joined,
            Self::LeftToRight | Self::MaskedLeftToRight => Table::LeftToRight,
            Self::Further(name) => Table::Further(name.clone()),
        }
    }
}

/// The kind under which encoded images are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum ImageKind {
    /// As they are, or with tags hidden.
    #[default]
    Plain,
    /// With patches hidden.
    MaskedPatches,
    /// With regions hidden.
    MaskedRegions,
    /// The second views.
    SecondView,
    /// The second images.
    Second,
}

impl TextForm {
    /// The kind under which it is stored; `None` for that of other objectives.
    pub fn kind(&self) -> Option<TextKind> {
        Some(match self {
            Self::Plain | Self::WithPhrases => TextKind::Plain,
            Self::Masked(_) | Self::MaskedPhrases(_) => TextKind::Masked,
            Self::LeftToRight => TextKind::LeftToRight,
            Self::MaskedLeftToRight(_) => TextKind::MaskedLeftToRight,
            Self::Translation => TextKind::Translation,
            Self::Joined(_) => TextKind::Joined,
            Self::MaskedJoined(..) => TextKind::MaskedJoined,
            Self::Side(_, side) => side.kind(),
            Self::Further(name) => TextKind::Further(name.clone()),
            Self::AsOthers => return None,
        })
    }

    /// Whether it is made of the text in another language.
    pub fn needs_translation(&self) -> bool {
        matches!(
            self,
            Self::Translation | Self::Joined(_) | Self::MaskedJoined(..) | Self::Side(..)
        )
    }
}

impl ImageForm {
    /// The table that holds it.
    pub fn kind(&self) -> ImageKind {
        match self {
            Self::Plain | Self::MaskedTags(_) | Self::Represented => ImageKind::Plain,
            Self::MaskedPatches(_) => ImageKind::MaskedPatches,
            Self::MaskedRegions(_) => ImageKind::MaskedRegions,
            Self::SecondView => ImageKind::SecondView,
            Self::Second => ImageKind::Second,
        }
    }
}

impl Request {
    /// A text, read by the student.
    pub fn text(form: TextForm) -> Self {
        Self::of(What::Text(form))
    }

    /// An image, read by the student.
    pub fn image(form: ImageForm) -> Self {
        Self::of(What::Image(form))
    }

    /// A text that the objective has read by itself.
    pub fn words() -> Self {
        Self::of(What::Words)
    }

    /// Every caption of a sample's image, [`Batch::references`].
    pub fn references() -> Self {
        Self::of(What::References)
    }

    /// The codes of an image's patches, [`Images::codes`](unimo_batch::Images::codes).
    pub fn codes() -> Self {
        Self::of(What::Codes)
    }

    /// What hidden regions are, [`Regions::hidden`](unimo_batch::Regions::hidden).
    pub fn regions(labels: RegionLabels) -> Self {
        Self::of(What::Regions(labels))
    }

    /// A story, read by the student.
    pub fn slices(form: SliceForm) -> Self {
        Self::of(What::Slices(form))
    }

    /// An episode, whose instruction is the text, followed by the student.
    pub fn walks() -> Self {
        Self::of(What::Walks)
    }

    /// The classes of the cells of an episode's map, [`WalkTargets::classes`](unimo_batch::WalkTargets::classes).
    pub fn cell_classes() -> Self {
        Self::of(What::CellClasses)
    }

    fn of(what: What) -> Self {
        Self {
            what,
            by: By::Student,
            layer: None,
            optional: false,
        }
    }

    /// The same, read by the teacher.
    pub fn by_teacher(self) -> Self {
        Self {
            by: By::Teacher,
            ..self
        }
    }

    /// The same, with the states of a layer kept.
    pub fn at(self, layer: usize) -> Self {
        Self {
            layer: Some(layer),
            ..self
        }
    }

    /// The same, for an input that a batch may lack.
    pub fn optional(self) -> Self {
        self.optional_if(true)
    }

    /// The same; a batch may lack the input if `optional` is true.
    pub fn optional_if(self, optional: bool) -> Self {
        Self { optional, ..self }
    }

    /// Whether the batch holds the input.
    pub fn is_there(&self, backbone: &Backbone, batch: &Batch) -> bool {
        match &self.what {
            What::Text(form) => form.is_there(batch),
            What::Image(form) => form.is_there(backbone, batch),
            What::Words => batch.texts.is_some(),
            What::References => !batch.references.is_empty(),
            What::Codes => batch.images.as_ref().is_some_and(|i| i.codes.is_some()),
            What::Regions(labels) => {
                let hidden = batch.regions.as_ref().and_then(|r| r.hidden.as_ref());
                hidden.is_some_and(|hidden| labels.are_in(hidden))
            }
            What::Slices(_) => {
                let slices = batch.slices.as_ref();
                slices.is_some_and(|s| s.images.is_none() || backbone.reads_pixels())
            }
            What::Walks => {
                let map = backbone.map.as_ref().zip(batch.walks.as_ref());
                let taken = map.is_some_and(|(map, w)| w.targets.is_some() && map.takes(w));
                taken && batch.texts.is_some()
            }
            What::CellClasses => {
                let map = backbone.map.as_ref().zip(batch.walks.as_ref());
                map.is_some_and(|(map, walks)| map.knows_classes(walks))
            }
        }
    }
}

impl TextForm {
    fn is_there(&self, batch: &Batch) -> bool {
        let Some(texts) = &batch.texts else {
            return matches!(self, Self::Further(name) if batch.further_texts.contains_key(name));
        };
        match self {
            Self::Plain | Self::LeftToRight | Self::AsOthers => true,
            Self::WithPhrases => texts.concepts.is_some(),
            Self::Masked(_) | Self::MaskedLeftToRight(_) => texts.masked.is_some(),
            Self::MaskedPhrases(_) => {
                let masked = texts.masked.as_ref();
                masked.is_some_and(|masked| masked.concept_labels.is_some())
            }
            Self::Translation => batch.further_texts.contains_key(TRANSLATION),
            Self::Joined(_) => batch.further_texts.contains_key(JOINED),
            Self::MaskedJoined(..) => {
                let joined = batch.further_texts.get(JOINED);
                joined.is_some_and(|joined| joined.masked.is_some())
            }
            Self::Side(_, side) => batch.further_texts.contains_key(side.name()),
            Self::Further(name) => batch.further_texts.contains_key(name),
        }
    }
}

impl ImageForm {
    fn is_there(&self, backbone: &Backbone, batch: &Batch) -> bool {
        let images = batch.images.as_ref();
        match self {
            Self::Plain | Self::Represented => backbone.sees(batch),
            Self::MaskedTags(_) => {
                let tags = batch.further_texts.get(TAGS);
                backbone.sees(batch) && tags.is_some_and(|tags| tags.masked.is_some())
            }
            Self::MaskedPatches(_) => images.is_some_and(|i| i.patch_mask.is_some()),
            Self::MaskedRegions(_) => {
                let regions = batch.regions.as_ref();
                backbone.sees(batch) && regions.is_some_and(|r| r.hidden.is_some())
            }
            Self::SecondView => images.is_some_and(|i| i.second_view.is_some()),
            Self::Second => batch.second_images.is_some(),
        }
    }
}

/// Which samples of a batch count for an objective, and how many it needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Samples {
    /// The smallest number of samples. An objective that compares samples finds them in all batches of a step.
    pub least: usize,
    /// Whether only samples whose text describes its image count; the others are left out and counted.
    pub describing: bool,
    /// Whether the batch must hold no modality but those requested: unaligned images, or plain text.
    pub alone: bool,
    /// Whether only samples whose label is known count; the batch must have labels.
    pub labelled: bool,
}

impl Samples {
    /// Every sample on its own.
    pub const EACH: Self = Self {
        least: 1,
        describing: false,
        alone: false,
        labelled: false,
    };
    /// Every caption of an image by itself.
    pub const DESCRIBING: Self = Self {
        least: 1,
        describing: true,
        alone: false,
        labelled: false,
    };
    /// Captions with their images, compared with each other.
    pub const CAPTIONED: Self = Self {
        least: 2,
        describing: true,
        alone: false,
        labelled: false,
    };

    /// Every sample with a known label on its own.
    pub const LABELLED: Self = Self {
        labelled: true,
        ..Self::EACH
    };

    /// Number of samples of a batch that count.
    pub(crate) fn count(self, batch: &Batch) -> usize {
        if self.labelled {
            let known = |target: &&Target| **target != Target::Unknown;
            batch.targets.iter().filter(known).count()
        } else if self.describing {
            describing(batch).len()
        } else {
            batch.len()
        }
    }
}

/// The rows whose text describes its image.
pub(crate) fn describing(batch: &Batch) -> Vec<usize> {
    let describes = |row: &usize| batch.texts.as_ref().is_none_or(|t| t.describes(*row));
    (0..batch.len()).filter(describes).collect()
}

/// Whether the batch holds the modalities that an objective requests, whatever its number of samples.
pub(crate) fn holds(
    requests: &[Request],
    samples: Samples,
    backbone: &Backbone,
    batch: &Batch,
) -> bool {
    let there = |request: &Request| request.optional || request.is_there(backbone, batch);
    requests.iter().all(there) && !(samples.alone && backbone.sees(batch) && batch.texts.is_some())
}

/// What the loader must put into a batch besides plain images and texts.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Inputs {
    /// How words are hidden.
    pub mask: Option<MaskSpec>,
    /// Share of the phrases and tags that are hidden.
    pub concept_rate: Option<f64>,
    /// Whether batches hold phrases or tags.
    pub concepts: bool,
    /// How patches are hidden.
    pub patch_mask: Option<PatchMaskSpec>,
    /// How regions are hidden.
    pub region_mask: Option<RegionMaskSpec>,
    /// What is told of hidden regions.
    pub region_labels: RegionLabels,
    /// Which images have a second view.
    pub second_view: SecondViews,
    /// Whether texts are read from left to right.
    pub left_to_right: bool,
    /// Whether samples have a second image.
    pub second: bool,
    /// Whether batches hold all captions of their images.
    pub references: bool,
    /// Whether images have the codes of their patches.
    pub codes: bool,
    /// Names of the further texts.
    pub further: Vec<String>,
    /// How texts are joined with their translations.
    pub joined: Option<JoinSpec>,
    /// How words of joined texts are hidden.
    pub joined_mask: Option<MaskSpec>,
    /// How texts and translations become the two sides of a contrast.
    pub sides: Option<SidesSpec>,
    /// Whether samples are read as stories.
    pub slices: bool,
    /// Whether samples are read as episodes.
    pub walks: bool,
}

impl Inputs {
    /// The inputs of these objectives, given by key, requests and samples.
    ///
    /// # Errors
    ///
    /// Two objectives want an input in two ways and a batch holds it in one; both are named.
    pub fn of<'a>(
        asked: impl IntoIterator<Item = (&'a str, Vec<Request>, Samples)>,
    ) -> Result<Self, ConfigError> {
        let mut all = Self::default();
        let mut said = Said::default();
        for (key, requests, samples) in asked {
            for request in requests {
                match request.what {
                    What::Text(TextForm::Masked(spec) | TextForm::MaskedLeftToRight(spec)) => {
                        said.mask.one(key, "mask", spec, &mut all.mask)?;
                    }
                    What::Text(TextForm::MaskedPhrases(rate))
                    | What::Image(ImageForm::MaskedTags(rate)) => {
                        said.rate.one(key, "rate", rate, &mut all.concept_rate)?;
                        all.concepts = true;
                    }
                    What::Text(TextForm::WithPhrases) => all.concepts = true,
                    What::Text(TextForm::LeftToRight) => all.left_to_right = true,
                    What::Text(TextForm::Translation) => all.add_further(TRANSLATION.to_owned()),
                    What::Text(TextForm::Joined(spec)) => {
                        said.joined.one(key, "joined", spec, &mut all.joined)?;
                    }
                    What::Text(TextForm::MaskedJoined(spec, mask)) => {
                        said.joined.one(key, "joined", spec, &mut all.joined)?;
                        said.joined_mask
                            .one(key, "mask", mask, &mut all.joined_mask)?;
                    }
                    What::Text(TextForm::Side(spec, _)) => {
                        said.sides.one(key, "mixup", spec, &mut all.sides)?;
                    }
                    What::Text(TextForm::Further(name)) => all.add_further(name),
                    What::Image(ImageForm::MaskedPatches(spec)) => {
                        said.patches
                            .one(key, "patches", spec, &mut all.patch_mask)?;
                    }
                    What::Image(ImageForm::MaskedRegions(spec)) => {
                        said.regions.one(key, "mask", spec, &mut all.region_mask)?;
                    }
                    What::Regions(labels) => all.region_labels = all.region_labels.and(labels),
                    What::Image(ImageForm::SecondView) => {
                        all.second_view = match all.second_view {
                            SecondViews::All => SecondViews::All,
                            _ if samples.alone => SecondViews::WithoutTexts,
                            _ => SecondViews::All,
                        };
                    }
                    What::Image(ImageForm::Second) => all.second = true,
                    What::References => all.references = true,
                    What::Codes => all.codes = true,
                    What::Slices(_) => all.slices = true,
                    What::Walks | What::CellClasses => all.walks = true,
                    What::Text(TextForm::Plain | TextForm::AsOthers)
                    | What::Words
                    | What::Image(ImageForm::Plain | ImageForm::Represented) => {}
                }
            }
        }
        Ok(all)
    }

    fn add_further(&mut self, name: String) {
        if !self.further.contains(&name) {
            self.further.push(name);
        }
    }
}

/// The objective that asked first.
#[derive(Default)]
struct Said {
    mask: First,
    rate: First,
    patches: First,
    regions: First,
    joined: First,
    joined_mask: First,
    sides: First,
}

#[derive(Default)]
struct First(Option<String>);

impl First {
    /// Takes `value` if none is set; a different value is an error.
    fn one<T: PartialEq + std::fmt::Debug>(
        &mut self,
        key: &str,
        setting: &str,
        value: T,
        into: &mut Option<T>,
    ) -> Result<(), ConfigError> {
        if let (Some(before), Some(first)) = (into.as_ref(), &self.0) {
            return ConfigError::unless(
                *before == value,
                &format!("{key}.{setting}"),
                format_args!("{value:?}"),
                format_args!(
                    "must be as [objectives.{first}] has it, {before:?}: a batch holds one of them"
                ),
            );
        }
        self.0 = Some(key.to_owned());
        *into = Some(value);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn masked(rate: f64) -> Vec<Request> {
        let spec = MaskSpec {
            rate,
            ..MaskSpec::default()
        };
        vec![Request::text(TextForm::Masked(spec))]
    }

    #[test]
    fn two_ways_of_hiding_words_are_an_error_that_names_both() {
        let same = Inputs::of([
            ("mlm", masked(0.15), Samples::EACH),
            ("mrm", masked(0.15), Samples::EACH),
        ]);
        assert_eq!(same.unwrap().mask.unwrap().rate, 0.15);
        let error = Inputs::of([
            ("mlm", masked(0.15), Samples::EACH),
            ("mrm", masked(0.25), Samples::EACH),
        ]);
        let error = error.unwrap_err().to_string();
        assert!(error.contains("mrm.mask"), "{error}");
        assert!(error.contains("[objectives.mlm]"), "{error}");
        assert!(error.contains("0.15") && error.contains("0.25"), "{error}");
    }

    #[test]
    fn second_views_are_of_all_images_if_one_objective_reads_all() {
        let view = || vec![Request::image(ImageForm::SecondView)];
        let alone = Samples {
            alone: true,
            ..Samples::EACH
        };
        let of = |asked: Vec<(&str, Vec<Request>, Samples)>| Inputs::of(asked).unwrap().second_view;
        assert_eq!(of(vec![("a", view(), alone)]), SecondViews::WithoutTexts);
        let both = vec![("a", view(), Samples::EACH), ("b", view(), alone)];
        assert_eq!(of(both), SecondViews::All);
        assert_eq!(of(Vec::new()), SecondViews::None);
    }
}

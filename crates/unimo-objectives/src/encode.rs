//! Runs the uni-modal encoders over a batch, once for all objectives.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use burn::tensor::{Bool, Device, Tensor, TensorData};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use unimo_batch::{Batch, Images, JOINED, Regions, TAGS, TRANSLATION, Texts};
use unimo_core::mask::PaddingMask;
use unimo_core::part;
use unimo_encoders::backbone::Backbone;
use unimo_encoders::features::{ImageFeatures, Pictures, TextFeatures, widen, widen_mask};
use unimo_encoders::region::RegionInput;
use unimo_encoders::text::TextInput;

use crate::encoded::{Encoded, Tables};
use crate::kept::{FeatureCache, Kept, Rows};
use crate::labels::ints;
use crate::request::{By, ImageForm, ImageKind, Request, SliceForm, TextKind, What};
use crate::stories;

/// The inputs of a batch that each model encodes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Wanted {
    student: Readings,
    teacher: Readings,
    /// Number of leading positions that see each other in texts read from left to right.
    prefix: Option<usize>,
    /// Whether images that are the same to the last pixel are encoded once.
    shares_images: bool,
}

/// The inputs that one model encodes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Readings {
    texts: BTreeSet<TextKind>,
    images: BTreeSet<ImageKind>,
    /// Whether images are read with the tags hidden that are to be predicted.
    hides_tags: bool,
    /// Whether images are also read with representation tokens.
    represents: bool,
    /// Layers whose states are kept.
    text_layers: BTreeSet<usize>,
    image_layers: BTreeSet<usize>,
    /// How the sentences of stories are read.
    slices: BTreeSet<SliceForm>,
    /// Whether episodes are followed.
    walks: bool,
}

/// Range of the share of a text without an image that is given as the prefix.
const PREFIX_SHARES: std::ops::Range<f64> = 0.1..0.5;

/// The kinds of texts that are read from left to right.
const READ_ON: [TextKind; 2] = [TextKind::LeftToRight, TextKind::MaskedLeftToRight];

impl Wanted {
    /// All requests that the batch can serve. `rng` draws how much of a text without an image is given.
    pub fn of(
        requests: &[Request],
        backbone: &Backbone,
        batch: &Batch,
        rng: &mut ChaCha8Rng,
    ) -> Self {
        let mut wanted = Self::fixed(requests, backbone, batch);
        let reads_on = READ_ON
            .iter()
            .any(|kind| wanted.student.texts.contains(kind));
        if let Some(texts) = batch.texts.as_ref().filter(|_| reads_on) {
            wanted.prefix = Some(if backbone.sees(batch) {
                1
            } else {
                let share = rng.random_range(PREFIX_SHARES);
                (share * texts.length as f64).round().max(2.0) as usize
            });
        }
        wanted
    }

    /// The same for requests that draw nothing at random, which contrasts make.
    pub fn fixed(requests: &[Request], backbone: &Backbone, batch: &Batch) -> Self {
        let mut wanted = Self::default();
        let mut as_others = BTreeSet::new();
        for request in requests.iter().filter(|r| r.is_there(backbone, batch)) {
            let of_model = match request.by {
                By::Student => &mut wanted.student,
                By::Teacher => &mut wanted.teacher,
            };
            match &request.what {
                What::Text(form) => {
                    match form.kind() {
                        Some(kind) => {
                            of_model.texts.insert(kind);
                        }
                        None => {
                            as_others.insert(request.by);
                        }
                    }
                    of_model.text_layers.extend(request.layer);
                }
                What::Image(form) => {
                    of_model.images.insert(form.kind());
                    of_model.hides_tags |= matches!(form, ImageForm::MaskedTags(_));
                    of_model.represents |= matches!(form, ImageForm::Represented);
                    of_model.image_layers.extend(request.layer);
                }
                What::Slices(form) => {
                    of_model.slices.insert(*form);
                }
                What::Walks => {
                    of_model.walks = true;
                    of_model.texts.insert(TextKind::Plain);
                }
                What::Words
                | What::References
                | What::Codes
                | What::Regions(_)
                | What::CellClasses => {}
            }
        }
        for by in as_others {
            let texts = match by {
                By::Student => &mut wanted.student.texts,
                By::Teacher => &mut wanted.teacher.texts,
            };
            if !texts.contains(&TextKind::Masked) {
                texts.insert(TextKind::Plain);
            }
        }
        wanted
    }

    /// Whether images are read with tags hidden.
    pub fn hides_tags(&self) -> bool {
        self.student.hides_tags
    }

    /// The same with tags hidden, or not: images are encoded once for all objectives.
    pub fn hiding_tags(mut self, hides: bool) -> Self {
        self.student.hides_tags = hides;
        self
    }

    /// The same with equal images encoded once, where nobody learns from them: several questions about an image stand beside each
    /// other when they are answered.
    pub fn sharing_images(mut self) -> Self {
        self.shares_images = true;
        self
    }

    /// The inputs that the student reads.
    pub fn by_student(self) -> Self {
        Self {
            teacher: Readings::default(),
            ..self
        }
    }

    /// What remains once `done` is encoded.
    pub fn without(mut self, done: &Self) -> Self {
        let rest = |own: &mut Readings, done: &Readings| {
            own.texts.retain(|kind| !done.texts.contains(kind));
            own.images.retain(|kind| !done.images.contains(kind));
            own.slices.retain(|form| !done.slices.contains(form));
            own.walks &= !done.walks;
        };
        rest(&mut self.student, &done.student);
        rest(&mut self.teacher, &done.teacher);
        self
    }
}

/// What is encoded of other batches' texts that pairs use.
pub(crate) fn plain_texts() -> Wanted {
    let mut wanted = Wanted::default();
    wanted.student.texts.insert(TextKind::Plain);
    wanted
}

/// The same for images.
pub(crate) fn plain_images() -> Wanted {
    let mut wanted = Wanted::default();
    wanted.student.images.insert(ImageKind::Plain);
    wanted
}

/// The models that read a batch.
#[derive(Clone, Copy)]
pub(crate) struct Models<'a> {
    pub student: &'a Backbone,
    pub teacher: Option<&'a Backbone>,
    /// Where features of the student's frozen encoders are kept, if they are.
    pub kept: Option<&'a dyn FeatureCache>,
}

impl<'a> Models<'a> {
    /// The student alone.
    pub fn of(student: &'a Backbone) -> Self {
        Self {
            student,
            teacher: None,
            kept: None,
        }
    }
}

/// Runs each uni-modal encoder on the inputs that are not encoded yet, the student's first, then the teacher's.
pub(crate) fn encode(
    models: Models<'_>,
    batch: &Batch,
    wanted: &Wanted,
    device: &Device,
    into: &mut Encoded,
) {
    into.set_prefix(wanted.prefix.unwrap_or(into.prefix()));
    let prefix = into.prefix();
    let student = Reader {
        backbone: models.student,
        kept: models.kept,
        batch,
        device,
        prefix,
        shares_images: wanted.shares_images,
    };
    let reading = part!(Some(device.clone()), "encoders", by = "student");
    student.read(&wanted.student, into.tables_mut(By::Student));
    drop(reading);
    if let Some(backbone) = models.teacher {
        let _part = part!(Some(device.clone()), "encoders", by = "teacher");
        let teacher = Reader {
            backbone,
            kept: None,
            ..student
        };
        teacher.read(&wanted.teacher, into.tables_mut(By::Teacher));
    }
}

/// One model over one batch.
struct Reader<'a> {
    backbone: &'a Backbone,
    kept: Option<&'a dyn FeatureCache>,
    batch: &'a Batch,
    device: &'a Device,
    prefix: usize,
    shares_images: bool,
}

impl Reader<'_> {
    fn read(&self, wanted: &Readings, into: &mut Tables) {
        // Copied to the device before anything is computed there.
        let plain = wanted.images.contains(&ImageKind::Plain);
        let kept = self.batch.images.as_ref().filter(|_| plain);
        let kept = kept.filter(|_| self.tags(wanted).is_none());
        let kept = kept.and_then(|images| {
            let kept = self.kept(&wanted.image_layers)?;
            kept.images(images, 0, wanted.represents)
        });
        let plain = plain && kept.is_none();
        let distinct = self.distinct(self.batch.images.as_ref().filter(|_| plain));
        let images = plain.then(|| match (&distinct, &self.batch.images) {
            (Some(distinct), Some(images)) => {
                Some(Pictures::of_pixels(images, &distinct.levels, self.device))
            }
            _ => self.backbone.pictures(self.batch, self.device),
        });
        let images = images.flatten();
        let tags = self.tags(wanted).filter(|_| images.is_some());
        if wanted.images.contains(&ImageKind::SecondView) {
            self.second_view(wanted, into);
        }
        self.left_to_right(wanted, into);
        self.both_directions(wanted, into);
        self.joined(wanted, into);
        let computed = || {
            let features = self.images(images.as_ref()?, tags.as_ref(), 0, wanted);
            Some(self.for_all_rows(features, distinct))
        };
        if let Some(features) = kept.or_else(computed) {
            into.put_images(ImageKind::Plain, features);
        }
        if wanted.images.contains(&ImageKind::MaskedPatches) {
            self.masked_patches(wanted, into);
        }
        if wanted.images.contains(&ImageKind::MaskedRegions) {
            self.masked_regions(wanted, into);
        }
        if wanted.images.contains(&ImageKind::Second) {
            self.second_images(wanted, into);
        }
        self.further(wanted, into);
        if let Some(slices) = self
            .batch
            .slices
            .as_ref()
            .filter(|_| !wanted.slices.is_empty())
        {
            let read = stories::read(self.backbone, slices, &wanted.slices, self.device);
            into.put_stories(read);
        }
        if wanted.walks {
            self.walks(into);
        }
    }

    /// Follows the batch's episodes by the texts, which are encoded already.
    fn walks(&self, into: &mut Tables) {
        let map = self.backbone.map.as_ref();
        let Some((map, walks)) = map.zip(self.batch.walks.as_ref()) else {
            return;
        };
        let Some(texts) = into.texts_of(&TextKind::Plain, walks.steps.len()) else {
            return;
        };
        let _part = part!(Some(self.device.clone()), "agent");
        into.put_walks(map.forward(&texts, &map.input(walks, self.device)));
    }

    /// The names of the images' objects. They are hidden before the image encoder, so that images are encoded once (MVP's release).
    fn tags(&self, wanted: &Readings) -> Option<TextInput> {
        let tags = self.batch.further_texts.get(TAGS);
        let tags = tags.filter(|_| self.backbone.reads_tags())?;
        let hidden = tags.masked.as_ref().filter(|_| wanted.hides_tags);
        let ids = hidden.map_or(&tags.ids, |masked| &masked.ids);
        Some(self.input(ids, &tags.lengths, tags.length))
    }

    /// The same images with the names of their objects beside them, if one stream reads those.
    fn with_concepts(&self, images: ImageFeatures, wanted: &Readings) -> ImageFeatures {
        self.backbone
            .with_concepts(images, self.tags(wanted).as_ref())
    }

    /// The place of features of frozen encoders, if they are kept.
    fn kept<'a>(&'a self, layers: &'a BTreeSet<usize>) -> Option<Kept<'a>> {
        Some(Kept {
            cache: self.kept?,
            backbone: self.backbone,
            layers,
            device: self.device,
        })
    }

    fn input(&self, ids: &[i32], lengths: &[usize], length: usize) -> TextInput {
        self.backbone.text.input(ids, lengths, length, self.device)
    }

    fn texts(&self, input: &TextInput, wanted: &Readings) -> TextFeatures {
        let _part = part!(Some(self.device.clone()), "text encoder");
        self.backbone.encode_texts_at(input, &wanted.text_layers)
    }

    /// Texts whose positions all see each other, as they are kept, or computed.
    fn rows(&self, rows: &Rows<'_>, wanted: &Readings) -> TextFeatures {
        let kept = self.kept(&wanted.text_layers);
        let kept = kept.and_then(|kept| kept.texts(rows));
        kept.unwrap_or_else(|| {
            let input = self.input(rows.ids, rows.lengths, rows.length);
            let text = &self.backbone.text;
            let input = text.with_segments(input, rows.segments.to_vec());
            let input = text.with_restarts(input, rows.lengths, rows.restarts);
            self.texts(&input, wanted)
        })
    }

    fn images(
        &self,
        images: &Pictures,
        tags: Option<&TextInput>,
        picture: usize,
        wanted: &Readings,
    ) -> ImageFeatures {
        let _part = part!(Some(self.device.clone()), "image encoder");
        let layers = &wanted.image_layers;
        if wanted.represents {
            let states = self.backbone.image_states_with_below(images, layers);
            return self.backbone.features_with_tokens(states, picture, layers);
        }
        self.backbone
            .encode_pictures_at(images, tags, picture, layers)
    }

    fn second_view(&self, wanted: &Readings, into: &mut Tables) {
        let images = self.batch.images.as_ref();
        let both = images.and_then(|images| Some((images, images.second_view.as_ref()?)));
        if let Some((images, levels)) = both {
            let images = Pictures::of_pixels(images, levels, self.device);
            let features = self.with_concepts(self.images(&images, None, 0, wanted), wanted);
            into.put_images(ImageKind::SecondView, features);
        }
    }

    /// Encodes texts that are read from left to right, as they are and with words hidden, in one pass.
    fn left_to_right(&self, wanted: &Readings, into: &mut Tables) {
        let Some(texts) = &self.batch.texts else {
            return;
        };
        let masked = texts.masked.as_ref().map(|masked| &masked.ids);
        let forms = READ_ON.into_iter().zip([Some(&texts.ids), masked]);
        let forms = forms.filter_map(|(kind, ids)| Some((kind, ids?)));
        let (kinds, forms): (Vec<_>, Vec<_>) = forms
            .filter(|(kind, _)| wanted.texts.contains(kind))
            .unzip();
        if kinds.is_empty() {
            return;
        }
        let count = kinds.len();
        let ids: Vec<i32> = forms.into_iter().flatten().copied().collect();
        let input = self.input(&ids, &texts.lengths.repeat(count), texts.length);
        let segments: Vec<i32> = texts.segments.iter().flatten().copied().collect();
        let input = self
            .backbone
            .text
            .with_segments(input, segments.repeat(count));
        let input = input.from_left_to_right(self.prefix);
        into.put_texts(kinds, self.texts(&input, wanted));
    }

    /// Encodes plain texts, masked texts and translations in one pass.
    fn both_directions(&self, wanted: &Readings, into: &mut Tables) {
        let Some(texts) = &self.batch.texts else {
            return;
        };
        let mut ids = Vec::new();
        let mut lengths = Vec::new();
        let mut segments = Vec::new();
        let mut kinds = Vec::new();
        let masked = texts.masked.as_ref().map(|masked| &masked.ids);
        for (kind, form) in [
            (TextKind::Plain, Some(&texts.ids)),
            (TextKind::Masked, masked),
        ] {
            if let Some(form) = form.filter(|_| wanted.texts.contains(&kind)) {
                ids.extend_from_slice(form);
                lengths.extend_from_slice(&texts.lengths);
                segments.extend(texts.segments.iter().flatten());
                kinds.push(kind);
            }
        }
        let translations = self.batch.further_texts.get(TRANSLATION);
        let translations = translations.filter(|_| wanted.texts.contains(&TextKind::Translation));
        if let Some(translations) = translations {
            assert_eq!(
                translations.length, texts.length,
                "texts and their translations are padded to one length"
            );
            ids.extend_from_slice(&translations.ids);
            lengths.extend_from_slice(&translations.lengths);
            if texts.segments.is_some() {
                segments.resize(ids.len(), 0);
            }
            kinds.push(TextKind::Translation);
        }
        if !kinds.is_empty() {
            let rows = Rows {
                ids: &ids,
                lengths: &lengths,
                length: texts.length,
                segments: &segments,
                restarts: &[],
            };
            into.put_texts(kinds, self.rows(&rows, wanted));
        }
    }

    /// Encodes joined texts as they are and with words hidden, in one pass.
    fn joined(&self, wanted: &Readings, into: &mut Tables) {
        let Some(texts) = self.batch.further_texts.get(JOINED) else {
            return;
        };
        let masked = texts.masked.as_ref().map(|masked| &masked.ids);
        let forms = [
            (TextKind::Joined, Some(&texts.ids)),
            (TextKind::MaskedJoined, masked),
        ];
        let forms = forms
            .into_iter()
            .filter_map(|(kind, ids)| Some((kind, ids?)));
        let (kinds, forms): (Vec<_>, Vec<_>) = forms
            .filter(|(kind, _)| wanted.texts.contains(kind))
            .unzip();
        if kinds.is_empty() {
            return;
        }
        let count = kinds.len();
        let segments: Vec<i32> = texts.segments.iter().flatten().copied().collect();
        let rows = Rows {
            ids: &forms.into_iter().flatten().copied().collect::<Vec<_>>(),
            lengths: &texts.lengths.repeat(count),
            length: texts.length,
            segments: &segments.repeat(count),
            restarts: &texts.restarts.repeat(count),
        };
        into.put_texts(kinds, self.rows(&rows, wanted));
    }

    fn masked_patches(&self, wanted: &Readings, into: &mut Tables) {
        let images = self.batch.images.as_ref();
        let both = images.and_then(|images| Some((images, images.patch_mask.as_ref()?)));
        if let Some((images, hidden)) = both {
            let rows = self.batch.len();
            let data = TensorData::new(hidden.clone(), [rows, hidden.len() / rows.max(1)]);
            let hidden = Tensor::<2, Bool>::from_data(data, self.device);
            let pixels = Pictures::of_pixels(images, &images.pixels, self.device);
            let features = self
                .backbone
                .encode_masked(&pixels, &hidden, &wanted.image_layers);
            let features = self.with_concepts(features, wanted);
            into.put_images(ImageKind::MaskedPatches, features);
        }
    }

    fn masked_regions(&self, wanted: &Readings, into: &mut Tables) {
        let regions = self.batch.regions.as_ref();
        if let Some(regions) = regions.filter(|regions| regions.hidden.is_some()) {
            let pictures = Pictures::Regions(RegionInput::hiding(regions, self.device));
            let features = self.with_concepts(self.images(&pictures, None, 0, wanted), wanted);
            into.put_images(ImageKind::MaskedRegions, features);
        }
    }

    fn second_images(&self, wanted: &Readings, into: &mut Tables) {
        if let Some(images) = &self.batch.second_images {
            let kept = self.kept(&wanted.image_layers);
            let kept = kept.and_then(|kept| kept.images(images, 1, wanted.represents));
            let features = kept.unwrap_or_else(|| {
                let distinct = self.distinct(Some(images));
                let levels = distinct.as_ref().map_or(&images.pixels, |d| &d.levels);
                let pixels = Pictures::of_pixels(images, levels, self.device);
                self.for_all_rows(self.images(&pixels, None, 1, wanted), distinct)
            });
            into.put_images(ImageKind::Second, features);
        }
    }

    /// The different ones of some images, if equal ones are encoded once and the model reads nothing beside their pixels.
    fn distinct(&self, images: Option<&Images>) -> Option<Distinct> {
        let shares = self.shares_images && self.backbone.reads_pixels();
        Distinct::of(images.filter(|_| shares && !self.backbone.reads_tags())?)
    }

    /// The features of each row's image.
    fn for_all_rows(&self, features: ImageFeatures, distinct: Option<Distinct>) -> ImageFeatures {
        match distinct {
            Some(distinct) => features.select(&ints(distinct.rows, self.device)),
            None => features,
        }
    }

    fn further(&self, wanted: &Readings, into: &mut Tables) {
        for kind in &wanted.texts {
            let TextKind::Further(name) = kind else {
                continue;
            };
            if let Some(texts) = self.batch.further_texts.get(name) {
                let rows = Rows {
                    ids: &texts.ids,
                    lengths: &texts.lengths,
                    length: texts.length,
                    segments: texts.segments.as_deref().unwrap_or_default(),
                    restarts: &[],
                };
                into.put_texts(vec![kind.clone()], self.rows(&rows, wanted));
            }
        }
    }
}

/// The different images of a batch.
struct Distinct {
    /// Their levels, one after the other.
    levels: Vec<u8>,
    /// Which of them each row of the batch shows.
    rows: Vec<i32>,
}

impl Distinct {
    /// `None` if no two are the same.
    fn of(images: &Images) -> Option<Self> {
        let size = Images::CHANNELS * images.height * images.width;
        let mut numbers: HashMap<&[u8], i32> = HashMap::new();
        let mut levels = Vec::new();
        let mut rows = Vec::new();
        for image in images.pixels.chunks_exact(size.max(1)) {
            let next = numbers.len() as i32;
            rows.push(*numbers.entry(image).or_insert_with(|| {
                levels.extend_from_slice(image);
                next
            }));
        }
        (numbers.len() < rows.len()).then_some(Self { levels, rows })
    }
}

/// Captions of several batches as one batch, padded to the longest of them.
///
/// # Panics
///
/// Panics if one of the batches has no texts.
pub(crate) fn texts_of(batches: &[Batch], rows: &[(usize, usize)], pad: i32) -> Batch {
    let texts = |batch: usize| {
        let texts = batches[batch].texts.as_ref();
        texts.expect("invariant: only batches with texts are paired")
    };
    let parts: Vec<(&Texts, usize)> = rows.iter().map(|&(b, row)| (texts(b), row)).collect();
    Batch {
        samples: names(batches, rows),
        texts: Some(padded(&parts, pad, |texts| &texts.ids)),
        ..Batch::default()
    }
}

/// Rows of texts as one batch, padded to the longest of them.
fn padded(rows: &[(&Texts, usize)], pad: i32, ids: impl Fn(&Texts) -> &Vec<i32>) -> Texts {
    let lengths: Vec<usize> = rows
        .iter()
        .map(|(texts, row)| texts.lengths[*row])
        .collect();
    let length = lengths.iter().copied().max().unwrap_or(0);
    let mut all = Vec::with_capacity(rows.len() * length);
    for ((texts, row), real) in rows.iter().zip(&lengths) {
        let first = row * texts.length;
        all.extend_from_slice(&ids(texts)[first..first + real]);
        all.resize(all.len() + length - real, pad);
    }
    Texts {
        ids: all,
        length,
        lengths,
        ..Texts::default()
    }
}

fn names(batches: &[Batch], rows: &[(usize, usize)]) -> Vec<String> {
    let name = |&(batch, row): &(usize, usize)| batches[batch].samples[row].clone();
    rows.iter().map(name).collect()
}

/// Images of several batches as one batch, with their tags. `hides_tags` hides tags as in their own batch. Either all of these
/// batches have tags or none has.
pub(crate) fn pictures_of(
    batches: &[Batch],
    rows: &[(usize, usize)],
    pad: i32,
    hides_tags: bool,
) -> Batch {
    let tags: Option<Vec<(&Texts, usize)>> = rows
        .iter()
        .map(|&(b, row)| Some((batches[b].further_texts.get(TAGS)?, row)))
        .collect();
    let tags = tags.map(|rows| {
        padded(&rows, pad, |tags| match &tags.masked {
            Some(masked) if hides_tags => &masked.ids,
            _ => &tags.ids,
        })
    });
    Batch {
        samples: names(batches, rows),
        images: images_of(batches, rows),
        regions: regions_of(batches, rows),
        further_texts: tags
            .map(|tags| (TAGS.to_owned(), tags))
            .into_iter()
            .collect(),
        ..Batch::default()
    }
}

fn images_of(batches: &[Batch], rows: &[(usize, usize)]) -> Option<Images> {
    let of = |batch: usize| batches[batch].images.as_ref();
    let first = of(rows.first()?.0)?;
    let count = Images::CHANNELS * first.height * first.width;
    let mut pixels = Vec::with_capacity(rows.len() * count);
    for &(batch, row) in rows {
        pixels.extend_from_slice(&of(batch)?.pixels[row * count..(row + 1) * count]);
    }
    Some(Images {
        pixels,
        height: first.height,
        width: first.width,
        mean: first.mean,
        std: first.std,
        second_view: None,
        patch_mask: None,
        codes: None,
    })
}

fn regions_of(batches: &[Batch], rows: &[(usize, usize)]) -> Option<Regions> {
    let of = |batch: usize| batches[batch].regions.as_ref();
    let all: Option<Vec<(&Regions, usize)>> =
        rows.iter().map(|&(b, row)| Some((of(b)?, row))).collect();
    let all = all?;
    let counts: Vec<usize> = all.iter().map(|(r, row)| r.counts[*row]).collect();
    let count = counts.iter().copied().max()?;
    let mut regions = Regions {
        count,
        counts,
        ..Regions::default()
    };
    for (part, row) in all {
        let width = part.features.len() / (part.counts.len() * part.count).max(1);
        let real = part.counts[row];
        let copy = |to: &mut Vec<f32>, from: &[f32], width: usize| {
            let first = row * part.count * width;
            to.extend_from_slice(&from[first..first + real * width]);
            to.resize(to.len() + (count - real) * width, 0.0);
        };
        copy(&mut regions.features, &part.features, width);
        copy(&mut regions.boxes, &part.boxes, 4);
    }
    Some(regions)
}

/// Appends the rows of `other` to `own`, padded to one length; the states of single layers are dropped.
pub(crate) fn join_texts(own: &TextFeatures, other: TextFeatures) -> TextFeatures {
    let length = own.mask.dims()[1].max(other.mask.dims()[1]);
    let widened = |texts: TextFeatures| TextFeatures {
        states: texts.states.into_iter().map(|s| widen(s, length)).collect(),
        mask: widen_mask(texts.mask, length),
        class: texts.class,
        layers: BTreeMap::new(),
    };
    TextFeatures::cat(vec![widened(own.clone()), widened(other)])
}

/// The same for images, whose tags are dropped.
pub(crate) fn join_images(parts: Vec<ImageFeatures>) -> ImageFeatures {
    let positions = |images: &ImageFeatures| images.states.first().map_or(0, |s| s.dims()[1]);
    let length = parts.iter().map(positions).max().unwrap_or(0);
    let masks = parts
        .iter()
        .any(|images| images.mask.is_some() || positions(images) != length);
    let widened = |images: ImageFeatures| {
        let rows = images.class.dims()[0];
        let device = images.class.device();
        let mask = images
            .mask
            .clone()
            .unwrap_or_else(|| PaddingMask::none(rows, positions(&images), &device));
        ImageFeatures {
            mask: masks.then(|| widen_mask(mask, length)),
            states: images
                .states
                .into_iter()
                .map(|s| widen(s, length))
                .collect(),
            class: images.class,
            tags: None,
            concepts: images.concepts,
            layers: BTreeMap::new(),
            represented: images.represented,
        }
    };
    ImageFeatures::cat(parts.into_iter().map(widened).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn images(levels: &[u8]) -> Images {
        let pixels = levels.iter().flat_map(|level| [*level; Images::CHANNELS]);
        Images {
            pixels: pixels.collect(),
            height: 1,
            width: 1,
            mean: [0.5; 3],
            std: [0.5; 3],
            second_view: None,
            patch_mask: None,
            codes: None,
        }
    }

    #[test]
    fn equal_images_are_one() {
        assert!(Distinct::of(&images(&[3, 1, 2])).is_none());
        let distinct = Distinct::of(&images(&[3, 3, 1, 3, 1])).unwrap();
        assert_eq!(distinct.rows, [0, 0, 1, 0, 1]);
        assert_eq!(distinct.levels, images(&[3, 1]).pixels);
    }
}

//! Pairs of texts and images, or of texts and other texts, for the cross-modal encoder. Pairs that are read in the same way go through it as one batch.

use std::collections::HashMap;

use unimo_encoders::backbone::Backbone;
use unimo_encoders::features::{ImageFeatures, TextFeatures};
use unimo_encoders::joint::{Sides, View};
use unimo_encoders::output::{FusionOutput, Keep};

use crate::encoded::Encoded;
use crate::labels::ints;
use crate::request::{By, ImageKind, SliceForm, Table, TextKind};

/// Samples to send through the cross-modal encoder together: the text of sample `texts[i]` with the image of sample `images[i]`. If
/// the batch lacks a modality, its list is empty.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pairs {
    /// Samples whose texts are paired, numbered as in [`Encoded::partners`].
    pub texts: Vec<usize>,
    /// Samples whose images are paired.
    pub images: Vec<usize>,
    /// Whether the two parts of each pair belong together.
    pub matched: Vec<bool>,
    /// How the texts were read.
    pub text: TextKind,
    /// How the images were read.
    pub image: ImageKind,
    /// How other texts were read that stand in the place of the images; `None`: images. Then `images` are the samples of these texts.
    pub second: Option<TextKind>,
    /// The model whose encoders read and fuse them.
    pub by: By,
    /// Grounded tokens that are hidden, to be predicted, `[B, K]`, row-major; empty if none is hidden.
    pub hidden_tokens: Vec<bool>,
    /// How many layers of the cross-modal encoder they go through; `None`: all.
    pub layers: Option<usize>,
    /// Whose states are read, of an encoder that gives those of one side at a time.
    pub sides: Sides,
    /// Whether the first position's attention within its text is read, [`FusionOutput::class_attention`].
    pub class_attention: bool,
    /// The layer of the cross-modal encoder whose attention of texts to images is read, [`FusionOutput::text_attention`].
    pub text_attention: Option<usize>,
    /// Whether they are no pairs but stories, which one stream reads from left to right: `texts` are the samples.
    pub stories: bool,
    /// Samples for which a wrong partner was wanted and not found, because all others show the same image.
    pub without_negative: usize,
}

impl Pairs {
    /// Pairs each sample's text with its own image.
    pub fn matched(samples: usize) -> Self {
        Self::of_rows((0..samples).collect())
    }

    /// The stories of a batch, all of its samples.
    pub fn stories(samples: usize) -> Self {
        Self {
            images: Vec::new(),
            stories: true,
            ..Self::matched(samples)
        }
    }

    /// Pairs the text of each of these samples with its own image.
    pub fn of_rows(rows: Vec<usize>) -> Self {
        Self {
            matched: vec![true; rows.len()],
            images: rows.clone(),
            texts: rows,
            ..Self::default()
        }
    }

    /// Pairs each sample with itself, in the form that other objectives read, which costs nothing extra. A modality that the batch
    /// lacks is left out.
    pub fn as_others(encoded: &Encoded) -> Self {
        let text = encoded.as_others();
        Self::present(encoded, (text.unwrap_or_default(), ImageKind::Plain))
    }

    /// Pairs each sample with itself, its text and its image read as these kinds. A modality that the batch lacks is left out.
    pub fn present(encoded: &Encoded, (text, image): (TextKind, ImageKind)) -> Self {
        let all = Self::matched(encoded.samples);
        let has_text = encoded.has_text(By::Student, &text);
        let has_image = encoded.images(By::Student, image).is_some();
        Self {
            texts: if has_text { all.texts } else { Vec::new() },
            images: if has_image { all.images } else { Vec::new() },
            matched: all.matched,
            text,
            image,
            ..Self::default()
        }
    }

    /// Adds a pair of a sample's text and a sample's image.
    pub fn push(&mut self, text: usize, image: usize, matched: bool) {
        self.texts.push(text);
        self.images.push(image);
        self.matched.push(matched);
    }

    /// The same, of which states of the images are read, and states of the texts if `text` is set.
    #[must_use]
    pub fn reading_images(self, text: bool) -> Self {
        let sides = Sides { text, image: true };
        Self { sides, ..self }
    }

    /// Number of pairs.
    pub fn len(&self) -> usize {
        self.matched.len()
    }

    /// Whether there are no pairs.
    pub fn is_empty(&self) -> bool {
        self.matched.is_empty()
    }
}

/// The output of the cross-modal encoder for an objective's pairs.
#[derive(Debug)]
pub struct Fused {
    /// The requested pairs.
    pub pairs: Pairs,
    /// The output, one row for each pair; `None` without pairs.
    pub output: Option<FusionOutput>,
}

impl Fused {
    /// The pairs and their output; `None` without pairs.
    pub fn some(&self) -> Option<(&Pairs, &FusionOutput)> {
        Some((&self.pairs, self.output.as_ref()?))
    }

    /// The pairs and their output, for an objective that always has some.
    ///
    /// # Panics
    ///
    /// Panics if nothing was requested, or no pair.
    pub fn only(fused: &[Self]) -> (&Pairs, &FusionOutput) {
        let first = fused.first();
        first
            .and_then(Self::some)
            .expect("invariant: the step fuses the pairs asked for")
    }
}

/// Sends all pairs through the cross-modal encoder, each pair only once and all that are read in the same way in one pass. Then
/// splits the output by objective, in the order of its pairs.
pub(crate) fn fuse(
    backbone: &Backbone,
    teacher: Option<&Backbone>,
    encoded: &Encoded,
    pairs: Vec<Vec<Pairs>>,
) -> Vec<Vec<Fused>> {
    fuse_keeping((backbone, teacher), encoded, pairs, Keep::Nothing)
}

/// As [`fuse`]. What the passes keep is handed on with pairs that have a pass of their own.
pub(crate) fn fuse_keeping(
    (backbone, teacher): (&Backbone, Option<&Backbone>),
    encoded: &Encoded,
    pairs: Vec<Vec<Pairs>>,
    keep: Keep,
) -> Vec<Vec<Fused>> {
    let mut passes: Vec<Pass> = Vec::new();
    // The pass of each objective's pairs, and their rows in it.
    let places: Vec<Vec<Option<Place>>> = pairs
        .iter()
        .map(|pairs| {
            pairs
                .iter()
                .map(|pairs| place(&mut passes, pairs))
                .collect()
        })
        .collect();
    let outputs: Vec<FusionOutput> = passes
        .iter()
        .map(|pass| match (pass.by, teacher) {
            (By::Student, _) => pass.run(backbone, encoded, keep),
            (By::Teacher, Some(teacher)) => pass.run(teacher, encoded, keep).detach(),
            (By::Teacher, None) => unreachable!("invariant: validation finds a teacher"),
        })
        .collect();
    let of = |place: Option<Place>| place.map(|(at, rows)| outputs[at].rows(&rows));
    let each = pairs.into_iter().zip(places);
    each.map(|(pairs, places)| {
        let each = pairs.into_iter().zip(places);
        let fused = each.map(|(pairs, place)| Fused {
            pairs,
            output: of(place),
        });
        fused.collect()
    })
    .collect()
}

/// The pass that pairs go through, and their rows in it.
type Place = (usize, Vec<usize>);

/// The pass of these pairs and their rows in it; `None` without pairs.
fn place(passes: &mut Vec<Pass>, pairs: &Pairs) -> Option<Place> {
    if pairs.is_empty() {
        return None;
    }
    let found = passes.iter().position(|pass| pass.takes(pairs));
    let at = found.unwrap_or_else(|| {
        passes.push(Pass::new(pairs));
        passes.len() - 1
    });
    Some((at, passes[at].add(pairs)))
}

/// Rows that go through the cross-modal encoder together.
struct Pass {
    by: By,
    /// The table of the texts; `None` without texts.
    text: Option<Table>,
    image: Option<ImageKind>,
    /// The table of the texts in the place of images.
    second: Option<Table>,
    hidden_tokens: Vec<bool>,
    layers: Option<usize>,
    /// What any of the pairs reads.
    sides: Sides,
    class_attention: bool,
    text_attention: Option<usize>,
    stories: bool,
    /// The rows of text and image in their tables.
    rows: Vec<Row>,
    places: HashMap<Row, usize>,
}

/// A text with an image, or with another text.
type Row = (Option<(TextKind, usize)>, Option<(Option<TextKind>, usize)>);

impl Pass {
    fn new(pairs: &Pairs) -> Self {
        Self {
            by: pairs.by,
            text: (!pairs.texts.is_empty() && !pairs.stories).then(|| pairs.text.table()),
            image: (!pairs.images.is_empty() && pairs.second.is_none()).then_some(pairs.image),
            second: pairs.second.as_ref().map(TextKind::table),
            hidden_tokens: pairs.hidden_tokens.clone(),
            layers: pairs.layers,
            sides: pairs.sides,
            class_attention: pairs.class_attention,
            text_attention: pairs.text_attention,
            stories: pairs.stories,
            rows: Vec::new(),
            places: HashMap::new(),
        }
    }

    fn takes(&self, pairs: &Pairs) -> bool {
        let other = Self::new(pairs);
        // Hidden tokens are given by row, so these rows are not merged with others.
        self.hidden_tokens.is_empty()
            && other.hidden_tokens.is_empty()
            && self.by == other.by
            && self.layers == other.layers
            && self.text == other.text
            && self.image == other.image
            && self.second == other.second
            && (self.text_attention.is_none()
                || other.text_attention.is_none()
                || self.text_attention == other.text_attention)
            && self.stories == other.stories
    }

    /// Adds the pairs that are not there yet; returns the row of each pair.
    fn add(&mut self, pairs: &Pairs) -> Vec<usize> {
        self.sides = self.sides.and(pairs.sides);
        self.class_attention |= pairs.class_attention;
        self.text_attention = self.text_attention.or(pairs.text_attention);
        (0..pairs.len())
            .map(|i| {
                let text = pairs.texts.get(i).map(|text| (pairs.text.clone(), *text));
                let image = pairs.images.get(i);
                let image = image.map(|image| (pairs.second.clone(), *image));
                let row = (text, image);
                *self.places.entry(row.clone()).or_insert_with(|| {
                    self.rows.push(row);
                    self.rows.len() - 1
                })
            })
            .collect()
    }

    fn run(&self, backbone: &Backbone, encoded: &Encoded, keep: Keep) -> FusionOutput {
        let by = match self.by {
            By::Student => "student",
            By::Teacher => "teacher",
        };
        let _part = unimo_core::part!(None, "cross-modal encoder", by = by);
        if self.stories {
            return encoded.stories(self.by, SliceForm::InOrder).fuse(backbone);
        }
        let keep = match (keep, self.text_attention) {
            (Keep::Nothing, Some(layer)) => Keep::TextAttention(layer),
            (keep, _) => keep,
        };
        let texts = self.texts(encoded);
        let second = self.second(encoded);
        let images = self.images(encoded);
        let view = View {
            prefix: match self.text {
                Some(Table::LeftToRight) => Some(encoded.prefix()),
                _ => None,
            },
            hidden_tokens: self.hidden_tokens.clone(),
            layers: self.layers,
            sides: self.sides,
            class_attention: self.class_attention,
        };
        let fused = match (&texts, &second) {
            (Some(texts), Some(second)) => {
                assert!(
                    view.prefix.is_none() && view.hidden_tokens.is_empty() && view.layers.is_none(),
                    "texts over texts are read in both directions, by all layers"
                );
                backbone.fuse_texts(texts, second, keep)
            }
            _ => backbone.fuse_parts(texts.as_ref(), images.as_ref(), &view, keep),
        };
        // Texts of other batches may be longer. Beyond the class token, objectives look only at the batch's own texts.
        let own = match self.text {
            Some(Table::BothDirections) => encoded.text_length(self.by),
            _ => None,
        };
        match (fused.text, own) {
            (Some(text), Some(own)) if text.dims()[1] > own => FusionOutput {
                text: Some(text.narrow(1, 0, own)),
                class_attention: fused.class_attention.map(|w| w.narrow(2, 0, own)),
                text_attention: fused.text_attention.map(|w| w.narrow(1, 0, own)),
                ..fused
            },
            (text, _) => FusionOutput { text, ..fused },
        }
    }

    fn texts(&self, encoded: &Encoded) -> Option<TextFeatures> {
        self.text.as_ref()?;
        let texts = self.rows.iter().filter_map(|(text, _)| text.as_ref());
        self.texts_of(encoded, texts.map(|(kind, sample)| (kind, *sample)))
    }

    /// The texts in the place of images.
    fn second(&self, encoded: &Encoded) -> Option<TextFeatures> {
        self.second.as_ref()?;
        let texts = self.rows.iter().filter_map(|(_, second)| second.as_ref());
        let texts = texts.filter_map(|(kind, sample)| Some((kind.as_ref()?, *sample)));
        self.texts_of(encoded, texts)
    }

    fn texts_of<'a>(
        &self,
        encoded: &Encoded,
        texts: impl Iterator<Item = (&'a TextKind, usize)>,
    ) -> Option<TextFeatures> {
        let mut table = None;
        let rows: Vec<i32> = texts
            .map(|(kind, sample)| {
                let (features, row) = encoded.text_of_pair(self.by, kind, sample);
                table = Some(features);
                row as i32
            })
            .collect();
        table.map(|table| table.select(&ints(rows, &table.class.device())))
    }

    fn images(&self, encoded: &Encoded) -> Option<ImageFeatures> {
        let kind = self.image?;
        let images = self.rows.iter().filter_map(|(_, image)| image.as_ref());
        let samples = images.map(|(_, sample)| *sample);
        let mut table = None;
        let rows: Vec<i32> = samples
            .map(|sample| {
                let (features, row) = encoded.image_of_pair(self.by, kind, sample);
                table = Some(features);
                row as i32
            })
            .collect();
        table.map(|table| table.select(&ints(rows, &table.class.device())))
    }
}

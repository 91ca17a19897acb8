//! Pairs of texts and images, or of texts and other texts, for the cross-modal encoder. Pairs that are read in the same way go through it as one batch.

use std::collections::HashMap;

use unimo_encoders::backbone::Backbone;
use unimo_encoders::features::{ImageFeatures, TextFeatures};
use unimo_encoders::joint::{Sides, View};
use unimo_encoders::output::{FusionOutput, Keep, Read};

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
    /// What is read of the output. Others may have the rest computed, so that there may be more of it.
    pub read: Read,
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

    /// The same, of which no more than this is read.
    #[must_use]
    pub fn reading(self, read: Read) -> Self {
        Self { read, ..self }
    }

    /// Number of pairs.
    pub fn len(&self) -> usize {
        self.matched.len()
    }

    /// Whether there are no pairs.
    pub fn is_empty(&self) -> bool {
        self.matched.is_empty()
    }

    /// What a pair is of.
    fn row(&self, i: usize) -> Row {
        let text = self.texts.get(i).map(|text| (self.text.clone(), *text));
        let image = self.images.get(i);
        let image = image.map(|image| (self.second.clone(), *image));
        (text, image)
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
    mut pairs: Vec<Vec<Pairs>>,
    keep: Keep,
) -> Vec<Vec<Fused>> {
    let narrows = keep == Keep::Nothing && backbone.narrows();
    for pairs in pairs.iter_mut().flatten() {
        if !narrows || pairs.second.is_some() {
            // A pass of its own would cost something and save nothing.
            pairs.read = Read::Whole;
        }
    }
    let mut passes: Vec<Pass> = Vec::new();
    // The passes of each objective's pairs, and their rows in them. Class tokens come last: those of rows that are in another pass are there.
    let mut places: Vec<Vec<Vec<Place>>> = pairs
        .iter()
        .map(|pairs| vec![Vec::new(); pairs.len()])
        .collect();
    for class_tokens in [false, true] {
        for (places, pairs) in places.iter_mut().zip(&pairs) {
            for (places, pairs) in places.iter_mut().zip(pairs) {
                if (pairs.read == Read::ClassTokens) == class_tokens {
                    *places = place(&mut passes, pairs);
                }
            }
        }
    }
    let outputs: Vec<FusionOutput> = passes
        .iter()
        .map(|pass| match (pass.by, teacher) {
            (By::Student, _) => pass.run(backbone, encoded, keep),
            (By::Teacher, Some(teacher)) => pass.run(teacher, encoded, keep).detach(),
            (By::Teacher, None) => unreachable!("invariant: validation finds a teacher"),
        })
        .collect();
    let of = |places: &[Place]| gathered(&outputs, places);
    let each = pairs.into_iter().zip(places);
    each.map(|(pairs, places)| {
        let each = pairs.into_iter().zip(places);
        let fused = each.map(|(pairs, places)| Fused {
            pairs,
            output: of(&places),
        });
        fused.collect()
    })
    .collect()
}

/// The pass that a pair goes through, and its row in it.
type Place = (usize, usize);

/// The pass and the row of each of these pairs. Those of class tokens may be in several passes, others are in one.
fn place(passes: &mut Vec<Pass>, pairs: &Pairs) -> Vec<Place> {
    let class_tokens = pairs.read == Read::ClassTokens;
    let takes: Vec<usize> = (0..passes.len())
        .filter(|at| passes[*at].takes(pairs))
        .collect();
    let of_its_kind = |at: &usize| passes[*at].is_of_class_tokens() == class_tokens;
    let mut own = takes.iter().copied().find(of_its_kind);
    let mut places = Vec::with_capacity(pairs.len());
    for i in 0..pairs.len() {
        let row = pairs.row(i);
        // Where the whole pair is read, its class tokens are too.
        let mut elsewhere = takes.iter().copied().filter(|_| class_tokens);
        let there = elsewhere.find(|at| passes[*at].has(&row));
        let at = there.or(own).unwrap_or_else(|| {
            passes.push(Pass::new(pairs));
            passes.len() - 1
        });
        if there.is_none() {
            own = Some(at);
        }
        places.push((at, passes[at].add(pairs, row)));
    }
    places
}

/// The outputs of pairs, in their order; `None` without pairs.
fn gathered(outputs: &[FusionOutput], places: &[Place]) -> Option<FusionOutput> {
    let (first, _) = places.first()?;
    let rows_in = |pass: usize| -> Vec<usize> {
        let own = places.iter().filter(|(at, _)| *at == pass);
        own.map(|(_, row)| *row).collect()
    };
    if places.iter().all(|(at, _)| at == first) {
        return Some(outputs[*first].rows(&rows_in(*first)));
    }
    // Only class tokens are of several passes.
    let passes: Vec<usize> = (0..outputs.len())
        .filter(|pass| places.iter().any(|(at, _)| at == pass))
        .collect();
    let parts = passes.iter();
    let parts: Vec<FusionOutput> = parts
        .map(|pass| outputs[*pass].class_tokens().rows(&rows_in(*pass)))
        .collect();
    // The pairs of each pass, one pass after the other.
    let joined = passes.iter().flat_map(|pass| {
        let all = places.iter().enumerate();
        all.filter(move |(_, (at, _))| at == pass).map(|(i, _)| i)
    });
    let mut rows = vec![0; places.len()];
    joined.enumerate().for_each(|(row, i)| rows[i] = row);
    Some(FusionOutput::joined(&parts).rows(&rows))
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
    /// What any of the pairs reads.
    read: Read,
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
            read: pairs.read,
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

    /// Whether the pass is of pairs of which nothing but the class tokens is read.
    fn is_of_class_tokens(&self) -> bool {
        self.read == Read::ClassTokens
    }

    fn has(&self, row: &Row) -> bool {
        self.places.contains_key(row)
    }

    /// Adds a pair if it is not there yet; returns its row.
    fn add(&mut self, pairs: &Pairs, row: Row) -> usize {
        self.sides = self.sides.and(pairs.sides);
        self.class_attention |= pairs.class_attention;
        self.text_attention = self.text_attention.or(pairs.text_attention);
        self.read = self.read.and(pairs.read);
        *self.places.entry(row.clone()).or_insert_with(|| {
            self.rows.push(row);
            self.rows.len() - 1
        })
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
            read: self.read,
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

#[cfg(all(test, feature = "flex"))]
mod tests {
    use burn::tensor::{Device, Tensor, TensorData};

    use super::*;

    const POSITIONS: usize = 3;

    /// What a pass would give: the state of a position says which text, which image and which position it is of.
    fn output(pass: &Pass) -> FusionOutput {
        let positions = if pass.is_of_class_tokens() {
            1
        } else {
            POSITIONS
        };
        let rows = pass.rows.iter().flat_map(|(text, image)| {
            let text = text.as_ref().map_or(0, |(_, sample)| *sample);
            let image = image.as_ref().map_or(0, |(_, sample)| *sample);
            (0..positions).map(move |at| (100 * text + 10 * image + at) as f32)
        });
        let data = TensorData::new(rows.collect::<Vec<_>>(), [pass.rows.len(), positions, 1]);
        FusionOutput::of_states(Some(Tensor::from_data(data, &Device::flex())), None)
    }

    fn pairs(of: &[(usize, usize)], read: Read) -> Pairs {
        let mut pairs = Pairs::default().reading(read);
        of.iter()
            .for_each(|(text, image)| pairs.push(*text, *image, true));
        pairs
    }

    fn first_numbers(fused: &FusionOutput) -> Vec<f32> {
        let firsts = fused.text().clone().narrow(1, 0, 1).into_data();
        firsts.iter::<f32>().collect()
    }

    /// Pairs whose class tokens alone are read take them from where all is read, or from a pass of their own; each pair is computed once.
    #[test]
    fn class_tokens_come_from_where_they_are() {
        let whole = pairs(&[(0, 0), (1, 1), (2, 2)], Read::Whole);
        let firsts = pairs(&[(2, 1), (1, 1), (0, 2), (2, 1), (0, 0)], Read::ClassTokens);
        let mut passes = Vec::new();
        let of_whole = place(&mut passes, &whole);
        let of_firsts = place(&mut passes, &firsts);
        let counts: Vec<usize> = passes.iter().map(|pass| pass.rows.len()).collect();
        assert_eq!(counts, [3, 2]);
        let outputs: Vec<FusionOutput> = passes.iter().map(output).collect();
        let all = gathered(&outputs, &of_whole).unwrap();
        assert_eq!(all.text().dims(), [3, POSITIONS, 1]);
        assert_eq!(first_numbers(&all), [0.0, 110.0, 220.0]);
        let read = gathered(&outputs, &of_firsts).unwrap();
        assert_eq!(read.text().dims(), [5, 1, 1]);
        assert_eq!(first_numbers(&read), [210.0, 110.0, 20.0, 210.0, 0.0]);
        assert!(gathered(&outputs, &[]).is_none());
    }

    /// A pass in which a text's states are read, and class tokens of both, computes everything.
    #[test]
    fn a_pass_computes_what_any_of_its_pairs_reads() {
        let mut passes = Vec::new();
        place(&mut passes, &pairs(&[(0, 0)], Read::Text));
        assert_eq!(passes[0].read, Read::Text);
        place(&mut passes, &pairs(&[(1, 1)], Read::ClassTokens));
        assert_eq!((passes.len(), passes[0].read), (2, Read::Text));
        place(&mut passes, &pairs(&[(0, 0)], Read::ClassTokens));
        assert_eq!((passes.len(), passes[0].read), (2, Read::Whole));
    }
}

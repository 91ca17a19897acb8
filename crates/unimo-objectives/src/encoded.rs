//! A batch after the uni-modal encoders: what objectives read.
//!
//! Shape legend: `B` samples, `L` text length, `D` width of an encoder.

use std::collections::BTreeMap;

use burn::tensor::Tensor;
use unimo_batch::Batch;
use unimo_core::mask::PaddingMask;
use unimo_encoders::features::{ImageFeatures, TextFeatures};
use unimo_encoders::map::WalkFeatures;

use crate::partners::{Partners, Similarity};
use crate::request::{By, ImageKind, SliceForm, Table, TextKind, describing};
use crate::stories::StoryFeatures;

/// Features of a batch by request. Each distinct request was encoded once for all objectives.
#[derive(Debug, Clone, Default)]
pub struct Encoded {
    /// Number of samples in the batch, `B`.
    pub samples: usize,
    /// `[B]`: the image that each sample shows, if that is known.
    pub pictures: Vec<Option<u64>>,
    /// The samples whose text describes its image.
    pub describing: Vec<usize>,
    /// The samples that pairs of texts and images are made of.
    pub partners: Partners,
    /// The samples that pairs of texts and translations are made of: those of the batch alone.
    pub text_partners: Partners,
    /// Number of leading positions that see each other in texts read from left to right; the rest is predicted.
    prefix: usize,
    student: Tables,
    teacher: Tables,
    /// The texts of pairs, if pairs also use texts of other batches.
    pair_texts: Option<WithFurther<TextFeatures>>,
    /// The images of pairs, if pairs also use images of other batches.
    pair_images: Option<WithFurther<ImageFeatures>>,
}

/// The features that one model computed from the batch.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tables {
    /// The rows of the kinds of each table, one kind after the other.
    texts: BTreeMap<Table, TextFeatures>,
    /// The first row of each kind in its table.
    first: BTreeMap<TextKind, usize>,
    images: BTreeMap<ImageKind, ImageFeatures>,
    /// The slices of stories, by the way their sentences were read.
    stories: BTreeMap<SliceForm, StoryFeatures>,
    /// The decisions of episodes.
    walks: Option<WalkFeatures>,
}

/// A batch's own rows, followed by samples of other batches.
#[derive(Debug, Clone)]
pub(crate) struct WithFurther<T> {
    pub features: T,
    /// The row of each further sample, by its number among [`Encoded::partners`].
    pub rows: BTreeMap<usize, usize>,
}

impl Encoded {
    /// A batch of which nothing is encoded yet.
    pub fn new(batch: &Batch) -> Self {
        Self {
            samples: batch.len(),
            pictures: if batch.pictures.is_empty() {
                vec![None; batch.len()]
            } else {
                batch.pictures.iter().copied().map(Some).collect()
            },
            describing: describing(batch),
            ..Self::default()
        }
    }

    /// The same with wrong partners from the batch itself, chosen by these similarities if there are any.
    pub fn with_partners(mut self, similarity: Option<Similarity>) -> Self {
        self.set_partners(similarity);
        self
    }

    pub(crate) fn set_partners(&mut self, similarity: Option<Similarity>) {
        self.partners = Partners::of_batch(&self.describing, &self.pictures, similarity);
    }

    /// The same with wrong translations from the batch itself, chosen by these similarities if there are any.
    pub fn with_text_partners(mut self, similarity: Option<Similarity>) -> Self {
        self.set_text_partners(similarity);
        self
    }

    pub(crate) fn set_text_partners(&mut self, similarity: Option<Similarity>) {
        self.text_partners = Partners::of_batch(&self.describing, &self.pictures, similarity);
    }

    /// The same with texts that the student has read.
    pub fn with_texts(mut self, kind: TextKind, texts: TextFeatures) -> Self {
        self.student.put_texts(vec![kind], texts);
        self
    }

    /// The same with images that the student has read.
    pub fn with_images(mut self, kind: ImageKind, images: ImageFeatures) -> Self {
        self.student.images.insert(kind, images);
        self
    }

    /// Texts of the batch's samples, `B` rows; `None` if they were not requested or the batch has none.
    pub fn texts(&self, by: By, kind: &TextKind) -> Option<TextFeatures> {
        self.tables(by).texts_of(kind, self.samples)
    }

    /// The last layer's states of the texts, as the cross-modal encoder reads them: `[B, L, D]`.
    ///
    /// # Panics
    ///
    /// Panics if they were not requested.
    pub fn text_states(&self, by: By, kind: &TextKind) -> Tensor<3> {
        let found = self.tables(by).texts(kind);
        let (table, first) = found.expect("invariant: the step gives what was requested");
        let last = table.states.last();
        let last = last.expect("invariant: an encoder keeps at least its last state");
        last.clone().narrow(0, first, self.samples)
    }

    /// Whether texts of this kind are encoded.
    pub fn has_text(&self, by: By, kind: &TextKind) -> bool {
        self.tables(by).texts(kind).is_some()
    }

    /// Images of the batch's samples, `B` rows; `None` if they were not requested or the batch has none.
    pub fn images(&self, by: By, kind: ImageKind) -> Option<&ImageFeatures> {
        self.tables(by).images.get(&kind)
    }

    /// The slices of the batch's stories.
    ///
    /// # Panics
    ///
    /// Panics if they were not requested.
    pub fn stories(&self, by: By, form: SliceForm) -> &StoryFeatures {
        let found = self.tables(by).stories.get(&form);
        found.expect("invariant: the step gives what was requested")
    }

    /// The decisions of the batch's episodes.
    ///
    /// # Panics
    ///
    /// Panics if they were not requested.
    pub fn walks(&self, by: By) -> &WalkFeatures {
        let found = self.tables(by).walks.as_ref();
        found.expect("invariant: the step gives what was requested")
    }

    /// The kind of bidirectional texts that the student has read: masked texts if there are any, else plain ones.
    pub fn as_others(&self) -> Option<TextKind> {
        [TextKind::Masked, TextKind::Plain]
            .into_iter()
            .find(|kind| self.has_text(By::Student, kind))
    }

    /// Number of leading positions that see each other in texts read from left to right.
    pub fn prefix(&self) -> usize {
        self.prefix
    }

    /// Number of positions of the batch's own texts.
    pub(crate) fn text_length(&self, by: By) -> Option<usize> {
        let texts = self.tables(by).both_directions()?;
        Some(texts.mask.dims()[1])
    }

    pub(crate) fn tables(&self, by: By) -> &Tables {
        match by {
            By::Student => &self.student,
            By::Teacher => &self.teacher,
        }
    }

    pub(crate) fn tables_mut(&mut self, by: By) -> &mut Tables {
        match by {
            By::Student => &mut self.student,
            By::Teacher => &mut self.teacher,
        }
    }

    pub(crate) fn set_prefix(&mut self, prefix: usize) {
        self.prefix = prefix;
    }

    pub(crate) fn set_pair_texts(&mut self, texts: WithFurther<TextFeatures>) {
        self.pair_texts = Some(texts);
    }

    pub(crate) fn set_pair_images(&mut self, images: WithFurther<ImageFeatures>) {
        self.pair_images = Some(images);
    }

    /// The table of a sample's text and its row there.
    pub(crate) fn text_of_pair(
        &self,
        by: By,
        kind: &TextKind,
        sample: usize,
    ) -> (&TextFeatures, usize) {
        let further = self.pair_texts.as_ref().filter(|_| by == By::Student);
        let further = further.filter(|_| kind.table() == Table::BothDirections);
        if let Some(further) = further {
            let row = match further.rows.get(&sample) {
                Some(row) => *row,
                None => self
                    .student
                    .first
                    .get(kind)
                    .map_or(0, |first| first + sample),
            };
            return (&further.features, row);
        }
        let found = self.tables(by).texts(kind);
        let (table, first) = found.expect("invariant: pairs are made of what was requested");
        (table, first + sample)
    }

    /// The table of a sample's image and its row there.
    pub(crate) fn image_of_pair(
        &self,
        by: By,
        kind: ImageKind,
        sample: usize,
    ) -> (&ImageFeatures, usize) {
        let further = self.pair_images.as_ref();
        let further = further.filter(|_| by == By::Student && kind == ImageKind::Plain);
        if let Some(further) = further {
            let row = further.rows.get(&sample).copied().unwrap_or(sample);
            return (&further.features, row);
        }
        let found = self.tables(by).images.get(&kind);
        let table = found.expect("invariant: pairs are made of what was requested");
        (table, sample)
    }

    /// The padding mask of the images that the student's pairs are made of, with each sample's row in it; `None` if no position is
    /// padding.
    pub fn image_padding(&self, samples: &[usize]) -> Option<(&PaddingMask, Vec<i32>)> {
        let first = samples.first()?;
        let (table, _) = self.image_of_pair(By::Student, ImageKind::Plain, *first);
        let mask = table.mask.as_ref()?;
        let row = |sample: &usize| {
            let (_, row) = self.image_of_pair(By::Student, ImageKind::Plain, *sample);
            row as i32
        };
        Some((mask, samples.iter().map(row).collect()))
    }
}

impl Tables {
    fn texts(&self, kind: &TextKind) -> Option<(&TextFeatures, usize)> {
        let first = self.first.get(kind)?;
        Some((self.texts.get(&kind.table())?, *first))
    }

    /// The texts of this kind of so many samples.
    pub fn texts_of(&self, kind: &TextKind, samples: usize) -> Option<TextFeatures> {
        let (table, first) = self.texts(kind)?;
        Some(table.narrow(first, samples))
    }

    /// Rows in the table of bidirectional texts.
    pub fn rows(&self) -> usize {
        self.rows_of(&Table::BothDirections)
    }

    fn rows_of(&self, table: &Table) -> usize {
        let texts = self.texts.get(table);
        texts.map_or(0, |texts| texts.class.dims()[0])
    }

    /// The table of bidirectional texts.
    pub fn both_directions(&self) -> Option<&TextFeatures> {
        self.texts.get(&Table::BothDirections)
    }

    /// The plain images.
    pub fn plain_images(&self) -> Option<&ImageFeatures> {
        self.images.get(&ImageKind::Plain)
    }

    /// Adds texts of these kinds, which are of one table; each kind has the same number of rows.
    pub fn put_texts(&mut self, kinds: Vec<TextKind>, texts: TextFeatures) {
        let Some(table) = kinds.first().map(TextKind::table) else {
            return;
        };
        let [rows, _] = texts.class.dims();
        let before = self.rows_of(&table);
        let of_each = rows / kinds.len();
        for (at, kind) in kinds.into_iter().enumerate() {
            self.first.insert(kind, before + at * of_each);
        }
        let all = match self.texts.remove(&table) {
            None => texts,
            Some(before) => TextFeatures::cat(vec![before, texts]),
        };
        self.texts.insert(table, all);
    }

    /// Adds the slices of stories.
    pub fn put_stories(&mut self, read: BTreeMap<SliceForm, StoryFeatures>) {
        self.stories.extend(read);
    }

    /// Adds the decisions of episodes.
    pub fn put_walks(&mut self, walks: WalkFeatures) {
        self.walks = Some(walks);
    }

    /// Adds images of a kind to the tables.
    pub fn put_images(&mut self, kind: ImageKind, images: ImageFeatures) {
        self.images.insert(kind, images);
    }
}

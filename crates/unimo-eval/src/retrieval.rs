//! Zero-shot image-text retrieval of a model.
//!
//! A [`RetrievalModel`] has features of texts and images, so only the cross-modal encoder runs per pair. Three methods are
//! reported, if the model can do them:
//!
//! - `itc`: the dot product of the dual encoder's embeddings (CLIP, ALBEF).
//! - `itc+itm`: the best `k` candidates of `itc` are re-ranked by the matching head; the others follow them, in the
//!   order of `itc` (ALBEF, section 4: k = 128 for Flickr30K and 256 for COCO). With `united` a pair on the list of either direction is
//!   re-ranked in both (BridgeTower).
//! - `itm`: the matching head scores every pair (METER, ViLT).
//!
//! Shape legend: `N` texts, `M` images, `E` features of an embedding, `k` candidates of a shortlist.

use std::cmp::Ordering;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::metrics::{
    ChanceRecall, Direction, Directions, GroundTruth, Pair, Recall, Scores, chance, rank,
};
use crate::{EvalError, ModelError};

/// How to evaluate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RetrievalConfig {
    /// `k`: how many candidates of each query the matching head re-ranks. 0 leaves `itc+itm` out.
    pub shortlist: usize,
    /// Whether a pair on the list of one direction is re-ranked in the other direction too (BridgeTower, ManagerTower). Otherwise each
    /// direction has its own lists (ALBEF). No further pair is scored.
    pub united: bool,
    /// Also score every pair with the matching head, which costs `N * M` passes of the cross-modal encoder. A model
    /// without embeddings is evaluated this way whatever is set here.
    pub full_itm: bool,
    /// How many pairs are scored at a time; at least 1.
    pub batch: usize,
    /// How many of the best candidates of every query the report lists.
    pub top: usize,
}

impl Default for RetrievalConfig {
    fn default() -> Self {
        Self {
            shortlist: 128,
            united: false,
            full_itm: false,
            batch: 64,
            top: 10,
        }
    }
}

/// How many images and texts a model keeps the features of at a time. Image `i` is in block `i / images`, text `t` in block
/// `t / texts`; a pair of blocks is a tile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Blocks {
    /// Images in a block; at least 1.
    pub images: usize,
    /// Texts in a block; at least 1.
    pub texts: usize,
}

impl Default for Blocks {
    /// One block for everything.
    fn default() -> Self {
        Self {
            images: usize::MAX,
            texts: usize::MAX,
        }
    }
}

impl Blocks {
    /// The tile of a pair. Tiles are ordered by images first.
    fn tile(self, pair: Pair) -> (usize, usize) {
        (pair.image / self.images, pair.text / self.texts)
    }
}

/// A model together with the uni-modal features of texts and images.
///
/// An implementation may keep all features, so that `itm_scores` only gathers rows of them, or those of a block at a time.
pub trait RetrievalModel {
    /// `N`: how many texts were encoded.
    fn texts(&self) -> usize;

    /// `M`: how many images were encoded.
    fn images(&self) -> usize;

    /// The dual encoder's embeddings of all texts and images; `None` if the model was not trained with ITC.
    ///
    /// # Errors
    /// Whatever keeps the model from computing them.
    fn embeddings(&self) -> Result<Option<DualEmbeddings>, ModelError>;

    /// Whether the model has a matching head. A pure dual encoder returns `false` and is asked for no pairs.
    fn has_itm(&self) -> bool {
        true
    }

    /// The blocks that group the pairs of calls of [`itm_scores`](Self::itm_scores).
    fn blocks(&self) -> Blocks {
        Blocks::default()
    }

    /// One score per pair in the order of `pairs`, higher for a better match. Prefer logits: probabilities saturate, and ties
    /// count as mistakes. Pairs come tile by tile. The pairs of one call are of one tile of [`blocks`](Self::blocks) and sorted
    /// by image; there are 1 to `batch` of them. Tiles of the same images follow each other.
    ///
    /// # Errors
    /// Whatever keeps the model from scoring them.
    fn itm_scores(&self, pairs: &[Pair]) -> Result<Vec<f32>, ModelError>;

    /// How many batches of pairs it scores at once: as many as there are processes that share them.
    fn at_once(&self) -> usize {
        1
    }

    /// As [`itm_scores`](Self::itm_scores), for up to [`at_once`](Self::at_once) batches.
    ///
    /// # Errors
    ///
    /// Whatever keeps the model from scoring them.
    fn itm_scores_of(&self, batches: &[Vec<Pair>]) -> Result<Vec<Vec<f32>>, ModelError> {
        batches.iter().map(|batch| self.itm_scores(batch)).collect()
    }
}

/// Rows of equal size, each of length 1.
#[derive(Debug, Clone, PartialEq)]
pub struct Embeddings {
    features: usize,
    values: Vec<f32>,
}

impl Embeddings {
    /// Normalises every row to length 1.
    ///
    /// # Shapes
    /// `values`: `[N, E]` or `[M, E]`, row-major, with `E = features`.
    ///
    /// # Errors
    /// If `values` are not whole rows, or if the length of a row is zero or not finite.
    pub fn new(features: usize, mut values: Vec<f32>) -> Result<Self, EvalError> {
        if features == 0 || !values.len().is_multiple_of(features) {
            return Err(EvalError::Count {
                what: "values beyond the last whole embedding",
                expected: 0,
                got: values.len().checked_rem(features).unwrap_or(values.len()),
            });
        }
        for (row, embedding) in values.chunks_exact_mut(features).enumerate() {
            // f64 cannot overflow on squares of f32.
            let norm = embedding
                .iter()
                .map(|&value| f64::from(value).powi(2))
                .sum::<f64>()
                .sqrt();
            if !(norm > 0.0 && norm.is_finite()) {
                return Err(EvalError::BadEmbedding {
                    row,
                    norm: norm as f32,
                });
            }
            embedding
                .iter_mut()
                .for_each(|value| *value = (f64::from(*value) / norm) as f32);
        }
        Ok(Self { features, values })
    }

    /// How many rows there are.
    pub fn rows(&self) -> usize {
        self.values.len() / self.features
    }

    /// `E`.
    pub fn features(&self) -> usize {
        self.features
    }
}

/// The embeddings of both modalities, in one space.
#[derive(Debug, Clone, PartialEq)]
pub struct DualEmbeddings {
    /// `[N, E]`.
    pub texts: Embeddings,
    /// `[M, E]`.
    pub images: Embeddings,
}

impl DualEmbeddings {
    /// The cosine of every text and image, `[N, M]`.
    ///
    /// # Errors
    /// If the two do not have the same number of features, or if one of them has no rows.
    pub fn similarity(&self) -> Result<Scores, EvalError> {
        if self.texts.features != self.images.features {
            return Err(EvalError::Count {
                what: "features of the image embeddings (those of the texts)",
                expected: self.texts.features,
                got: self.images.features,
            });
        }
        /// Image rows that stay in the cache while all texts are read.
        const BLOCK: usize = 64;
        let (texts, images, features) =
            (self.texts.rows(), self.images.rows(), self.texts.features);
        let mut values = vec![0.0; texts * images];
        for (block, rows) in self.images.values.chunks(BLOCK * features).enumerate() {
            for (text, embedding) in self.texts.values.chunks_exact(features).enumerate() {
                let start = text * images + block * BLOCK;
                for (score, row) in values[start..].iter_mut().zip(rows.chunks_exact(features)) {
                    *score = dot(embedding, row);
                }
            }
        }
        Scores::from_source("ITC", texts, images, values)
    }
}

/// How the scores were computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Method {
    /// Dual encoder.
    #[serde(rename = "itc")]
    Itc,
    /// Dual encoder, with its shortlist re-ranked by the matching head.
    #[serde(rename = "itc+itm")]
    ItcItm,
    /// Matching head on every pair.
    #[serde(rename = "itm")]
    Itm,
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Itc => "itc",
            Self::ItcItm => "itc+itm",
            Self::Itm => "itm",
        })
    }
}

/// One of the best candidates of a query.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Candidate {
    /// Index of the text or image.
    pub index: usize,
    /// Its score: the matching head's if `by_itm`, else the cosine.
    pub score: f32,
    /// Whether the matching head gave the score.
    pub by_itm: bool,
    /// Whether it belongs to the query.
    pub is_match: bool,
}

/// The numbers of one method.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MethodReport {
    /// Which method.
    pub method: Method,
    /// Every text ranks all images.
    pub text_to_image: Recall,
    /// Every image ranks all texts.
    pub image_to_text: Recall,
    /// `[M][top]`: the best texts of every image, best first. Not part of the serialised report.
    #[serde(skip)]
    pub captions_of_image: Vec<Vec<Candidate>>,
    /// `[N][top]`: the best images of every text, best first. Not part of the serialised report.
    #[serde(skip)]
    pub images_of_text: Vec<Vec<Candidate>>,
}

impl MethodReport {
    /// The field's "rsum": R@1, R@5 and R@10 in both directions, added up; 6 at best.
    pub fn rsum(&self) -> f64 {
        let sum = |r: &Recall| r.r1 + r.r5 + r.r10;
        sum(&self.text_to_image) + sum(&self.image_to_text)
    }
}

/// The result of [`evaluate`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RetrievalReport {
    /// `N`.
    pub texts: usize,
    /// `M`.
    pub images: usize,
    /// How many pairs the matching head scored.
    pub pairs_scored: usize,
    /// What a random ranking is expected to reach.
    pub chance: Directions<ChanceRecall>,
    /// The methods that the model supports, in the order `itc`, `itc+itm`, `itm`.
    pub methods: Vec<MethodReport>,
}

impl RetrievalReport {
    /// The entry of a method, if it was evaluated.
    pub fn method(&self, method: Method) -> Option<&MethodReport> {
        self.methods.iter().find(|report| report.method == method)
    }
}

/// Evaluates a model on all its texts and images. `progress` is called at the start and after every batch, with the number of
/// pairs that the matching head has scored and their total.
///
/// Ties at the edge of a shortlist leave the right items out, since ties count against them everywhere.
///
/// # Errors
/// If the ground truth and the model differ in their numbers of texts or images, if a setting is outside its range, if the model
/// has neither embeddings nor a matching head, if a score is NaN, or if the model fails.
pub fn evaluate<M: RetrievalModel + ?Sized>(
    model: &M,
    truth: &GroundTruth,
    config: &RetrievalConfig,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<RetrievalReport, EvalError> {
    check_counts([
        ("texts of the model", truth.texts(), model.texts()),
        ("images of the model", truth.images(), model.images()),
    ])?;
    if config.batch == 0 {
        return Err(EvalError::Config {
            key: "batch",
            got: 0,
            allowed: "1 or more",
        });
    }
    if config.full_itm && !model.has_itm() {
        return Err(EvalError::Unsupported(
            "`full_itm` = true asks for a matching head, which this model does not have",
        ));
    }

    let itc = match model.embeddings().map_err(EvalError::Model)? {
        Some(embeddings) => {
            check_counts([
                (
                    "text embeddings of the model",
                    truth.texts(),
                    embeddings.texts.rows(),
                ),
                (
                    "image embeddings of the model",
                    truth.images(),
                    embeddings.images.rows(),
                ),
            ])?;
            Some(embeddings.similarity()?)
        }
        None if !model.has_itm() => {
            return Err(EvalError::Unsupported(
                "the model has neither dual-encoder embeddings (ITC) nor a matching head (ITM): nothing ranks its pairs",
            ));
        }
        None => None,
    };

    let all = config.full_itm || itc.is_none();
    let shortlists = match &itc {
        Some(itc) if config.shortlist > 0 && model.has_itm() => {
            let of = |direction| shortlists(direction, itc, truth, config.shortlist);
            let lists = Directions {
                text_to_image: of(Direction::TextToImage),
                image_to_text: of(Direction::ImageToText),
            };
            Some(if config.united { united(&lists) } else { lists })
        }
        _ => None,
    };
    let itm = match &shortlists {
        _ if all => Some(score_all(model, truth, config.batch, progress)?),
        Some(lists) => Some(score_listed(model, lists, config.batch, progress)?),
        None => None,
    };

    let mut methods = Vec::new();
    if let Some(itc) = &itc {
        methods.push(method_report(
            Method::Itc,
            truth,
            config.top,
            |direction, query| keys_of(direction, query, truth, |pair| Key(false, itc.get(pair))),
        )?);
        if let (Some(lists), Some(itm)) = (&shortlists, &itm) {
            methods.push(method_report(
                Method::ItcItm,
                truth,
                config.top,
                |direction, query| {
                    let mut keys =
                        keys_of(direction, query, truth, |pair| Key(false, itc.get(pair)));
                    let list = match direction {
                        Direction::TextToImage => &lists.text_to_image[query],
                        Direction::ImageToText => &lists.image_to_text[query],
                    };
                    for &candidate in list {
                        keys[candidate] = Key(true, itm.get(direction.pair(query, candidate)));
                    }
                    keys
                },
            )?);
        }
    }
    if let (true, Some(itm)) = (all, &itm) {
        methods.push(method_report(
            Method::Itm,
            truth,
            config.top,
            |direction, query| keys_of(direction, query, truth, |pair| Key(true, itm.get(pair))),
        )?);
    }
    Ok(RetrievalReport {
        texts: truth.texts(),
        images: truth.images(),
        pairs_scored: itm.as_ref().map_or(0, ItmScores::count),
        chance: chance(truth),
        methods,
    })
}

/// The sort key of a candidate: those that the matching head has scored come first.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd)]
struct Key(bool, f32);

fn keys_of(
    direction: Direction,
    query: usize,
    truth: &GroundTruth,
    key: impl Fn(Pair) -> Key,
) -> Vec<Key> {
    (0..direction.candidates(truth))
        .map(|candidate| key(direction.pair(query, candidate)))
        .collect()
}

/// The best `count` candidates of a query, best first. Right candidates come after equal wrong ones; then the smaller index comes
/// first.
fn best<K: PartialOrd + Copy>(
    direction: Direction,
    query: usize,
    keys: &[K],
    truth: &GroundTruth,
    count: usize,
) -> Vec<usize> {
    let by_key = |&a: &usize, &b: &usize| {
        let is_match = |candidate| truth.is_match(direction.pair(query, candidate));
        // Keys hold no NaN (`Scores` and `score` refuse it), so they always compare.
        let order = keys[b].partial_cmp(&keys[a]).unwrap_or(Ordering::Equal);
        order
            .then_with(|| is_match(a).cmp(&is_match(b)))
            .then(a.cmp(&b))
    };
    let mut order: Vec<usize> = (0..keys.len()).collect();
    if count < order.len() {
        order.select_nth_unstable_by(count, by_key);
        // `truncate` would keep the memory of all candidates for every query.
        order = order[..count].to_vec();
    }
    order.sort_unstable_by(by_key);
    order
}

fn shortlists(
    direction: Direction,
    itc: &Scores,
    truth: &GroundTruth,
    k: usize,
) -> Vec<Vec<usize>> {
    (0..direction.queries(truth))
        .map(|query| {
            let keys = keys_of(direction, query, truth, |pair| Key(false, itc.get(pair)));
            best(direction, query, &keys, truth, k)
        })
        .collect()
}

/// The candidates of every query that are on its own list, or on whose list it is.
fn united(lists: &Directions<Vec<Vec<usize>>>) -> Directions<Vec<Vec<usize>>> {
    let with = |own: &[Vec<usize>], other: &[Vec<usize>]| {
        let mut all = own.to_vec();
        for (candidate, queries) in other.iter().enumerate() {
            for query in queries {
                all[*query].push(candidate);
            }
        }
        for list in &mut all {
            list.sort_unstable();
            list.dedup();
        }
        all
    };
    Directions {
        text_to_image: with(&lists.text_to_image, &lists.image_to_text),
        image_to_text: with(&lists.image_to_text, &lists.text_to_image),
    }
}

fn method_report(
    method: Method,
    truth: &GroundTruth,
    top: usize,
    keys: impl Fn(Direction, usize) -> Vec<Key>,
) -> Result<MethodReport, EvalError> {
    let of = |direction: Direction| {
        let queries = direction.queries(truth);
        let (mut ranks, mut lists) = (Vec::with_capacity(queries), Vec::with_capacity(queries));
        for query in 0..queries {
            let keys = keys(direction, query);
            ranks.push(rank(direction, query, &keys, truth));
            let list = best(direction, query, &keys, truth, top)
                .into_iter()
                .map(|index| Candidate {
                    index,
                    score: keys[index].1,
                    by_itm: keys[index].0,
                    is_match: truth.is_match(direction.pair(query, index)),
                });
            lists.push(list.collect());
        }
        let recall = Recall::from_ranks(&ranks).ok_or(EvalError::Empty {
            texts: truth.texts(),
            images: truth.images(),
        })?;
        Ok::<_, EvalError>((recall, lists))
    };
    let (text_to_image, images_of_text) = of(Direction::TextToImage)?;
    let (image_to_text, captions_of_image) = of(Direction::ImageToText)?;
    Ok(MethodReport {
        method,
        text_to_image,
        image_to_text,
        captions_of_image,
        images_of_text,
    })
}

/// The matching head's scores, of all pairs or of the shortlisted ones.
enum ItmScores {
    All(Scores),
    /// Sorted by pair.
    Listed(Vec<(Pair, f32)>),
}

impl ItmScores {
    fn get(&self, pair: Pair) -> f32 {
        match self {
            Self::All(scores) => scores.get(pair),
            // A pair on no shortlist is behind all pairs that are on one.
            Self::Listed(scored) => scored
                .binary_search_by_key(&pair, |&(scored, _)| scored)
                .map_or(f32::NEG_INFINITY, |at| scored[at].1),
        }
    }

    fn count(&self) -> usize {
        match self {
            Self::All(scores) => scores.texts() * scores.images(),
            Self::Listed(scored) => scored.len(),
        }
    }
}

fn score_all<M: RetrievalModel + ?Sized>(
    model: &M,
    truth: &GroundTruth,
    batch: usize,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<ItmScores, EvalError> {
    let (texts, images) = (truth.texts(), truth.images());
    let blocks = model.blocks();
    let mut values = vec![0.0; texts * images];
    let of = |block: usize, size: usize, all: usize| {
        let first = block * size;
        first..first.saturating_add(size).min(all)
    };
    let pairs = (0..images.div_ceil(blocks.images)).flat_map(|block| {
        let images = of(block, blocks.images, images);
        (0..texts.div_ceil(blocks.texts)).flat_map(move |block| {
            let texts = of(block, blocks.texts, texts);
            let of_image = move |image| texts.clone().map(move |text| Pair { image, text });
            images.clone().flat_map(of_image)
        })
    });
    score(
        model,
        pairs,
        (texts * images, batch),
        progress,
        |pair, score| {
            values[pair.text * images + pair.image] = score;
        },
    )?;
    Ok(ItmScores::All(Scores::from_source(
        "ITM", texts, images, values,
    )?))
}

fn score_listed<M: RetrievalModel + ?Sized>(
    model: &M,
    lists: &Directions<Vec<Vec<usize>>>,
    batch: usize,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<ItmScores, EvalError> {
    let of = |direction: Direction, lists: &[Vec<usize>]| -> Vec<Pair> {
        let named = lists.iter().enumerate();
        named
            .flat_map(|(query, list)| {
                list.iter()
                    .map(move |&candidate| direction.pair(query, candidate))
            })
            .collect()
    };
    let mut pairs = of(Direction::TextToImage, &lists.text_to_image);
    pairs.extend(of(Direction::ImageToText, &lists.image_to_text));
    let blocks = model.blocks();
    pairs.sort_unstable_by_key(|pair| (blocks.tile(*pair), *pair));
    // A pair on the lists of both directions is scored once.
    pairs.dedup();
    let total = pairs.len();
    let mut scored = Vec::with_capacity(total);
    score(
        model,
        pairs.into_iter(),
        (total, batch),
        progress,
        |pair, score| scored.push((pair, score)),
    )?;
    scored.sort_unstable_by_key(|(pair, _)| *pair);
    Ok(ItmScores::Listed(scored))
}

/// Scores `total` pairs in batches of `batch` and checks the scores.
fn score<M: RetrievalModel + ?Sized>(
    model: &M,
    pairs: impl Iterator<Item = Pair>,
    (total, batch): (usize, usize),
    progress: &mut dyn FnMut(usize, usize),
    mut keep: impl FnMut(Pair, f32),
) -> Result<(), EvalError> {
    let blocks = model.blocks();
    let mut pairs = pairs.peekable();
    let mut next = || {
        let mut buffer: Vec<Pair> = Vec::with_capacity(batch.min(total));
        while buffer.len() < batch {
            let first = buffer.first().copied();
            let fits = |pair: &Pair| first.is_none_or(|f| blocks.tile(f) == blocks.tile(*pair));
            let Some(pair) = pairs.next_if(fits) else {
                break;
            };
            buffer.push(pair);
        }
        (!buffer.is_empty()).then_some(buffer)
    };
    let mut done = 0;
    progress(done, total);
    loop {
        let batches: Vec<Vec<Pair>> = (0..model.at_once()).map_while(|_| next()).collect();
        if batches.is_empty() {
            return Ok(());
        }
        let scores = model.itm_scores_of(&batches).map_err(EvalError::Model)?;
        check_counts([(
            "batches of ITM scores of the model",
            batches.len(),
            scores.len(),
        )])?;
        for (pairs, scores) in batches.iter().zip(scores) {
            check_counts([(
                "ITM scores of the model for a batch of pairs",
                pairs.len(),
                scores.len(),
            )])?;
            for (&pair, score) in pairs.iter().zip(scores) {
                if score.is_nan() {
                    return Err(EvalError::NanScore {
                        source_of_score: "ITM",
                        text: pair.text,
                        image: pair.image,
                    });
                }
                keep(pair, score);
            }
            done += pairs.len();
        }
        progress(done, total);
    }
}

fn check_counts<const C: usize>(
    counts: [(&'static str, usize, usize); C],
) -> Result<(), EvalError> {
    for (what, expected, got) in counts {
        if expected != got {
            return Err(EvalError::Count {
                what,
                expected,
                got,
            });
        }
    }
    Ok(())
}

/// Eight sums side by side, which the compiler turns into vector instructions; the order is fixed, so that equal rows
/// have equal scores.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    const LANES: usize = 8;
    let (mut a, mut b) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let mut sums = [0.0f32; LANES];
    for (a, b) in a.by_ref().zip(b.by_ref()) {
        for lane in 0..LANES {
            sums[lane] += a[lane] * b[lane];
        }
    }
    let rest: f32 = a
        .remainder()
        .iter()
        .zip(b.remainder())
        .map(|(a, b)| a * b)
        .sum();
    sums.iter().sum::<f32>() + rest
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::seq::SliceRandom;
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;
    use std::cell::RefCell;
    use std::collections::HashSet;

    /// A sum of up to 19 products of numbers below 1 in f32.
    const F32_DOT: f32 = 1e-5;

    /// Scores from tables, and a record of the pairs that were asked for.
    #[derive(Default)]
    struct Table {
        texts: usize,
        images: usize,
        embeddings: Option<DualEmbeddings>,
        /// `[N, M]`; empty: no matching head.
        itm: Vec<f32>,
        batches: RefCell<Vec<Vec<Pair>>>,
        blocks: Blocks,
    }

    impl RetrievalModel for Table {
        fn texts(&self) -> usize {
            self.texts
        }
        fn images(&self) -> usize {
            self.images
        }
        fn embeddings(&self) -> Result<Option<DualEmbeddings>, ModelError> {
            Ok(self.embeddings.clone())
        }
        fn has_itm(&self) -> bool {
            !self.itm.is_empty()
        }
        fn blocks(&self) -> Blocks {
            self.blocks
        }
        fn itm_scores(&self, pairs: &[Pair]) -> Result<Vec<f32>, ModelError> {
            self.batches.borrow_mut().push(pairs.to_vec());
            Ok(pairs
                .iter()
                .map(|pair| self.itm[pair.text * self.images + pair.image])
                .collect())
        }
    }

    impl Table {
        fn asked(&self) -> Vec<Pair> {
            self.batches.borrow().concat()
        }
    }

    fn embed(features: usize, values: &[f32]) -> Embeddings {
        Embeddings::new(features, values.to_vec()).unwrap()
    }

    fn random(rng: &mut ChaCha8Rng, images: usize, per_image: usize) -> (GroundTruth, Table) {
        let texts = images * per_image;
        let mut numbers =
            |count: usize| -> Vec<f32> { (0..count).map(|_| rng.random::<f32>() - 0.5).collect() };
        let table = Table {
            texts,
            images,
            embeddings: Some(DualEmbeddings {
                texts: embed(19, &numbers(texts * 19)),
                images: embed(19, &numbers(images * 19)),
            }),
            itm: numbers(texts * images),
            ..Table::default()
        };
        let truth =
            GroundTruth::new((0..texts).map(|text| text / per_image).collect(), images).unwrap();
        (truth, table)
    }

    fn config(shortlist: usize, full_itm: bool) -> RetrievalConfig {
        RetrievalConfig {
            shortlist,
            united: false,
            full_itm,
            batch: 7,
            top: 3,
        }
    }

    fn run(
        model: &Table,
        truth: &GroundTruth,
        config: RetrievalConfig,
    ) -> Result<RetrievalReport, EvalError> {
        evaluate(model, truth, &config, &mut |_, _| {})
    }

    /// Four texts of three images on a circle; the angles give the cosines, the matching head corrects them.
    fn circle() -> (GroundTruth, Table) {
        let rows = |degrees: &[f32]| -> Vec<f32> {
            degrees
                .iter()
                .flat_map(|d| [d.to_radians().cos(), d.to_radians().sin()])
                .collect()
        };
        let model = Table {
            texts: 4,
            images: 3,
            embeddings: Some(DualEmbeddings {
                texts: embed(2, &rows(&[0.0, 50.0, 42.0, 100.0])),
                images: embed(2, &rows(&[5.0, 40.0, 80.0])),
            }),
            #[rustfmt::skip]
            itm: vec![
                5.0, 1.0, 9.0,
                4.0, 3.0, 0.0,
                2.0, 6.0, 7.0,
                0.0, 8.0, 1.0,
            ],
            ..Table::default()
        };
        (GroundTruth::new(vec![0, 0, 1, 2], 3).unwrap(), model)
    }

    #[test]
    fn hand_computed_case() {
        let (truth, model) = circle();
        let report = run(&model, &truth, config(2, true)).unwrap();

        // ITC: text 1 (50 degrees) prefers images 1 (40), 2 (80), 0 (5): its own is third.
        let itc = report.method(Method::Itc).unwrap();
        assert_eq!(
            itc.text_to_image,
            Recall {
                r1: 0.75,
                r5: 1.0,
                r10: 1.0,
                median_rank: 1.0
            }
        );
        // Image 2 (80) prefers texts 3 (100), 1 (50), 2 (42), 0: all images find a caption first.
        assert_eq!(itc.image_to_text.r1, 1.0);

        // Shortlists of two images: text 0: 0, 1; text 1: 1, 2; text 2: 1, 0; text 3: 2, 1. Re-ranked:
        // text 0: 5 > 1, rank 1; text 1: its own is not on the list, rank 3; text 2: 6 > 2, rank 1; text 3: 1 < 8, rank 2.
        // Shortlists of two texts: image 0: 0, 2; image 1: 2, 1; image 2: 3, 1. Re-ranked:
        // image 0: 5 > 2, rank 1; image 1: 6 > 3, rank 1; image 2: 1 > 0, rank 1.
        let both = report.method(Method::ItcItm).unwrap();
        assert_eq!(
            both.text_to_image,
            Recall {
                r1: 0.5,
                r5: 1.0,
                r10: 1.0,
                median_rank: 1.5
            }
        );
        assert_eq!(both.image_to_text.r1, 1.0);
        let order = |list: &[Candidate]| {
            list.iter()
                .map(|c| (c.index, c.by_itm, c.is_match))
                .collect::<Vec<_>>()
        };
        assert_eq!(
            order(&both.images_of_text[1]),
            [(1, true, false), (2, true, false), (0, false, true)]
        );
        assert_eq!(both.images_of_text[1][0].score, 3.0);
        assert!((both.images_of_text[1][2].score - 45f32.to_radians().cos()).abs() < F32_DOT);
        // Behind image 0's list (texts 0 and 2) comes text 1, which is nearer to it than text 3.
        assert_eq!(
            order(&both.captions_of_image[0]),
            [(0, true, true), (2, true, false), (1, false, true)]
        );

        // ITM: ranks of the texts 2, 1, 2, 2. Image 0: 5 is first. Image 1: 6 behind 8. Image 2: 1 behind 9 and 7.
        let itm = report.method(Method::Itm).unwrap();
        assert_eq!(
            itm.text_to_image,
            Recall {
                r1: 0.25,
                r5: 1.0,
                r10: 1.0,
                median_rank: 2.0
            }
        );
        assert_eq!(
            itm.image_to_text,
            Recall {
                r1: 1.0 / 3.0,
                r5: 1.0,
                r10: 1.0,
                median_rank: 2.0
            }
        );
    }

    #[test]
    fn every_pair_is_scored_once_and_only_if_listed() {
        let (truth, model) = circle();
        let report = run(&model, &truth, config(2, false)).unwrap();
        // By image: texts of its own list, and texts that list it.
        let expected = [
            (0, 0),
            (0, 2),
            (1, 0),
            (1, 1),
            (1, 2),
            (1, 3),
            (2, 1),
            (2, 3),
        ];
        assert_eq!(
            model.asked(),
            expected.map(|(image, text)| Pair { image, text })
        );
        assert_eq!(report.pairs_scored, 8);
        assert_eq!(
            model
                .batches
                .borrow()
                .iter()
                .map(Vec::len)
                .collect::<Vec<_>>(),
            [7, 1]
        );
        assert!(report.method(Method::Itm).is_none());

        let (truth, model) = random(&mut ChaCha8Rng::seed_from_u64(3), 9, 4);
        let full = run(&model, &truth, config(5, true)).unwrap();
        let asked = model.asked();
        assert_eq!(asked.len(), 36 * 9);
        assert_eq!(asked.iter().collect::<HashSet<_>>().len(), asked.len());
        assert_eq!(full.pairs_scored, 36 * 9);
    }

    #[test]
    fn a_shortlist_of_everything_is_the_full_ranking() {
        let mut rng = ChaCha8Rng::seed_from_u64(4);
        for _ in 0..10 {
            let (truth, model) = random(&mut rng, 8, 3);
            let report = run(&model, &truth, config(1000, true)).unwrap();
            let (both, itm) = (
                report.method(Method::ItcItm).unwrap(),
                report.method(Method::Itm).unwrap(),
            );
            assert_eq!(both.text_to_image, itm.text_to_image);
            assert_eq!(both.image_to_text, itm.image_to_text);
            assert_eq!(both.captions_of_image, itm.captions_of_image);
            assert_ne!(
                both.text_to_image,
                report.method(Method::Itc).unwrap().text_to_image
            );
        }
    }

    #[test]
    fn scoring_the_listed_pairs_only_changes_nothing() {
        let (truth, model) = random(&mut ChaCha8Rng::seed_from_u64(5), 12, 5);
        let listed = run(&model, &truth, config(4, false)).unwrap();
        let all = run(&model, &truth, config(4, true)).unwrap();
        assert_eq!(listed.method(Method::ItcItm), all.method(Method::ItcItm));
        assert!(listed.pairs_scored < all.pairs_scored);
    }

    #[test]
    fn re_ranking_cannot_find_what_the_shortlist_left_out() {
        // The matching head is perfect; recall at 1 is then the share of the queries whose own item is listed.
        let (truth, mut model) = random(&mut ChaCha8Rng::seed_from_u64(6), 30, 2);
        model.itm = (0..60 * 30)
            .map(|at| if at / 30 / 2 == at % 30 { 1.0 } else { -1.0 })
            .collect();
        let report = run(&model, &truth, config(5, true)).unwrap();
        let (itc, both) = (
            report.method(Method::Itc).unwrap(),
            report.method(Method::ItcItm).unwrap(),
        );
        assert_eq!(both.text_to_image.r1, itc.text_to_image.r5);
        assert_eq!(both.image_to_text.r1, itc.image_to_text.r5);
        assert!(both.text_to_image.r1 < 1.0);
        let itm = report.method(Method::Itm).unwrap();
        assert_eq!((itm.text_to_image.r1, itm.image_to_text.r1), (1.0, 1.0));
    }

    /// BridgeTower's evaluation: one matrix for both directions, with the matching head's score of what is on the list of either, and
    /// nothing elsewhere.
    #[test]
    fn united_shortlists_are_one_matrix_for_both_directions() {
        let (truth, model) = random(&mut ChaCha8Rng::seed_from_u64(16), 30, 2);
        let united = RetrievalConfig {
            united: true,
            ..config(5, false)
        };
        let report = run(&model, &truth, united).unwrap();
        let own = run(&model, &truth, config(5, false)).unwrap();
        assert_eq!(report.pairs_scored, own.pairs_scored, "no further pair");
        let itc = model.embeddings.as_ref().unwrap().similarity().unwrap();
        let mut values = vec![f32::NEG_INFINITY; 60 * 30];
        for direction in [Direction::TextToImage, Direction::ImageToText] {
            let lists = shortlists(direction, &itc, &truth, 5);
            for (query, list) in lists.iter().enumerate() {
                for candidate in list {
                    let pair = direction.pair(query, *candidate);
                    let at = pair.text * 30 + pair.image;
                    values[at] = model.itm[at];
                }
            }
        }
        let matrix = Scores::new(60, 30, values).unwrap();
        let found = report.method(Method::ItcItm).unwrap();
        // No rank up to 5 depends on what stands behind the lists, which have that many at least.
        let expected = crate::metrics::recall(&matrix, &truth).unwrap();
        assert_eq!(found.text_to_image.r1, expected.text_to_image.r1);
        assert_eq!(found.text_to_image.r5, expected.text_to_image.r5);
        assert_eq!(found.image_to_text.r1, expected.image_to_text.r1);
        assert_eq!(found.image_to_text.r5, expected.image_to_text.r5);
        let alone = own.method(Method::ItcItm).unwrap();
        assert_ne!(alone.images_of_text, found.images_of_text);
        assert_ne!(alone.captions_of_image, found.captions_of_image);
    }

    #[test]
    fn the_order_of_the_items_does_not_matter() {
        let mut rng = ChaCha8Rng::seed_from_u64(7);
        let (truth, model) = random(&mut rng, 10, 3);
        let (mut text_order, mut image_order): (Vec<usize>, Vec<usize>) =
            ((0..30).collect(), (0..10).collect());
        text_order.shuffle(&mut rng);
        image_order.shuffle(&mut rng);
        let moved_rows = |rows: &Embeddings, order: &[usize]| {
            embed(
                19,
                &order
                    .iter()
                    .flat_map(|&at| rows.values[at * 19..][..19].to_vec())
                    .collect::<Vec<_>>(),
            )
        };
        let embeddings = model.embeddings.as_ref().unwrap();
        let moved = Table {
            embeddings: Some(DualEmbeddings {
                texts: moved_rows(&embeddings.texts, &text_order),
                images: moved_rows(&embeddings.images, &image_order),
            }),
            itm: text_order
                .iter()
                .flat_map(|&t| image_order.iter().map(move |&i| t * 10 + i))
                .map(|at| model.itm[at])
                .collect(),
            texts: 30,
            images: 10,
            ..Table::default()
        };
        let place = |image: usize| image_order.iter().position(|&at| at == image).unwrap();
        let text_image = text_order
            .iter()
            .map(|&text| place(truth.text_image()[text]))
            .collect();
        let moved_truth = GroundTruth::new(text_image, 10).unwrap();
        let before = run(
            &model,
            &truth,
            RetrievalConfig {
                top: 0,
                ..config(4, true)
            },
        )
        .unwrap();
        let after = run(
            &moved,
            &moved_truth,
            RetrievalConfig {
                top: 0,
                ..config(4, true)
            },
        )
        .unwrap();
        for (before, after) in before.methods.iter().zip(&after.methods) {
            assert_eq!(before.text_to_image, after.text_to_image);
            assert_eq!(before.image_to_text, after.image_to_text);
        }
    }

    #[test]
    fn blocks_change_the_order_of_the_pairs_and_nothing_else() {
        let (truth, mut model) = random(&mut ChaCha8Rng::seed_from_u64(13), 10, 3);
        for config in [config(4, false), config(4, true), config(0, true)] {
            model.blocks = Blocks::default();
            let expected = run(&model, &truth, config).unwrap();
            let mut pairs = model.asked();
            pairs.sort_unstable();
            for (images, texts) in [(1, 1), (3, 7), (4, 30), (10, 4), (usize::MAX, 11)] {
                model.blocks = Blocks { images, texts };
                model.batches.borrow_mut().clear();
                assert_eq!(run(&model, &truth, config).unwrap(), expected);
                let mut last = None;
                let mut seen = HashSet::new();
                for batch in model.batches.borrow().iter() {
                    let tile = model.blocks.tile(batch[0]);
                    assert!(batch.iter().all(|pair| model.blocks.tile(*pair) == tile));
                    assert!(batch.is_sorted() && batch.len() <= config.batch);
                    // A tile does not come again after it was left; nor does a block of images.
                    assert!(last == Some(tile) || seen.insert(tile));
                    assert!(last.is_none_or(|last: (usize, usize)| last.0 <= tile.0));
                    last = Some(tile);
                }
                let mut asked = model.asked();
                asked.sort_unstable();
                assert_eq!(asked, pairs);
            }
            model.batches.borrow_mut().clear();
        }
    }

    #[test]
    fn equal_embeddings_list_nothing_right() {
        // A collapsed dual encoder: its shortlist cannot hold the right items, whatever the matching head knows.
        let (truth, mut model) = random(&mut ChaCha8Rng::seed_from_u64(8), 6, 2);
        model.embeddings = Some(DualEmbeddings {
            texts: embed(2, &[1.0; 24]),
            images: embed(2, &[1.0; 12]),
        });
        model.itm = (0..12 * 6)
            .map(|at| if at / 6 / 2 == at % 6 { 1.0 } else { -1.0 })
            .collect();
        let report = run(&model, &truth, config(3, false)).unwrap();
        for method in &report.methods {
            assert_eq!(
                (method.text_to_image.r1, method.image_to_text.r1),
                (0.0, 0.0),
                "{}",
                method.method
            );
        }
    }

    #[test]
    fn methods_follow_what_the_model_has() {
        let methods = |model: &Table, truth: &GroundTruth, config| -> Vec<Method> {
            run(model, truth, config)
                .unwrap()
                .methods
                .iter()
                .map(|report| report.method)
                .collect()
        };
        let (truth, mut model) = random(&mut ChaCha8Rng::seed_from_u64(9), 5, 2);
        assert_eq!(
            methods(&model, &truth, config(2, true)),
            [Method::Itc, Method::ItcItm, Method::Itm]
        );
        assert_eq!(
            methods(&model, &truth, config(2, false)),
            [Method::Itc, Method::ItcItm]
        );
        assert_eq!(
            methods(&model, &truth, config(0, true)),
            [Method::Itc, Method::Itm]
        );
        model.batches.borrow_mut().clear();
        assert_eq!(methods(&model, &truth, config(0, false)), [Method::Itc]);
        assert!(model.asked().is_empty());

        let embeddings = model.embeddings.take();
        assert_eq!(methods(&model, &truth, config(2, false)), [Method::Itm]);
        model.embeddings = embeddings;
        model.itm.clear();
        assert_eq!(methods(&model, &truth, config(2, false)), [Method::Itc]);
        let error = run(&model, &truth, config(2, true))
            .unwrap_err()
            .to_string();
        assert!(error.contains("`full_itm`"), "{error}");
        model.embeddings = None;
        let error = run(&model, &truth, config(2, false))
            .unwrap_err()
            .to_string();
        assert!(error.contains("neither"), "{error}");
    }

    #[test]
    fn progress_runs_from_nothing_to_all() {
        let (truth, model) = random(&mut ChaCha8Rng::seed_from_u64(10), 5, 2);
        let mut heard = Vec::new();
        evaluate(&model, &truth, &config(2, true), &mut |done, total| {
            heard.push((done, total))
        })
        .unwrap();
        let expected: Vec<_> = [0, 7, 14, 21, 28, 35, 42, 49, 50]
            .map(|done| (done, 50))
            .to_vec();
        assert_eq!(heard, expected);
    }

    #[test]
    fn similarity_is_the_cosine() {
        // More rows than a block, and a number of features that no vector length divides.
        let (_, model) = random(&mut ChaCha8Rng::seed_from_u64(11), 150, 1);
        let embeddings = model.embeddings.unwrap();
        let scores = embeddings.similarity().unwrap();
        for (text, image) in [(0, 0), (3, 63), (4, 64), (149, 149), (77, 130)] {
            let (a, b) = (
                &embeddings.texts.values[text * 19..][..19],
                &embeddings.images.values[image * 19..][..19],
            );
            let expected: f32 = a.iter().zip(b).map(|(a, b)| a * b).sum();
            assert!((scores.get(Pair { image, text }) - expected).abs() < F32_DOT);
        }
        let own = DualEmbeddings {
            texts: embeddings.texts.clone(),
            images: embeddings.texts.clone(),
        };
        assert!((own.similarity().unwrap().get(Pair { image: 5, text: 5 }) - 1.0).abs() < F32_DOT);
    }

    #[test]
    fn bad_models_are_named() {
        let message = |result: Result<RetrievalReport, EvalError>| result.unwrap_err().to_string();
        let (truth, model) = random(&mut ChaCha8Rng::seed_from_u64(12), 4, 2);
        let small = GroundTruth::new(vec![0, 1], 2).unwrap();
        assert_eq!(
            message(run(&model, &small, config(2, false))),
            "texts of the model: expected 2, got 8"
        );
        let no_batch = RetrievalConfig {
            batch: 0,
            ..config(2, false)
        };
        assert_eq!(
            message(run(&model, &truth, no_batch)),
            "retrieval setting `batch` = 0: allowed is 1 or more"
        );

        let (truth, mut model) = random(&mut ChaCha8Rng::seed_from_u64(12), 4, 2);
        model.itm[5 * 4 + 2] = f32::NAN;
        assert_eq!(
            message(run(&model, &truth, config(2, true))),
            "the ITM score of text 5 and image 2 is NaN; has the model diverged?"
        );
        model.embeddings = Some(DualEmbeddings {
            texts: embed(1, &[1.0; 7]),
            images: embed(1, &[1.0; 4]),
        });
        assert_eq!(
            message(run(&model, &truth, config(2, true))),
            "text embeddings of the model: expected 8, got 7"
        );
        model.embeddings = Some(DualEmbeddings {
            texts: embed(1, &[1.0; 8]),
            images: embed(2, &[1.0; 8]),
        });
        assert!(
            message(run(&model, &truth, config(2, true)))
                .contains("features of the image embeddings")
        );

        let error = |features, values: &[f32]| {
            Embeddings::new(features, values.to_vec())
                .unwrap_err()
                .to_string()
        };
        assert!(
            error(2, &[1.0, 0.0, 0.0, 0.0])
                .starts_with("embedding 1 cannot be normalised: its length is 0")
        );
        assert!(
            error(2, &[f32::NAN, 0.0])
                .starts_with("embedding 0 cannot be normalised: its length is NaN")
        );
        assert!(error(2, &[1.0, 0.0, 1.0]).ends_with("expected 0, got 1"));
        assert!(error(0, &[1.0]).ends_with("expected 0, got 1"));
    }

    struct Broken {
        short: bool,
    }

    impl RetrievalModel for Broken {
        fn texts(&self) -> usize {
            2
        }
        fn images(&self) -> usize {
            2
        }
        fn embeddings(&self) -> Result<Option<DualEmbeddings>, ModelError> {
            Ok(None)
        }
        fn itm_scores(&self, pairs: &[Pair]) -> Result<Vec<f32>, ModelError> {
            if self.short {
                Ok(vec![0.0; pairs.len() - 1])
            } else {
                Err("out of device memory".into())
            }
        }
    }

    #[test]
    fn a_failing_model_is_reported() {
        let truth = GroundTruth::new(vec![0, 1], 2).unwrap();
        let message = |short| {
            evaluate(&Broken { short }, &truth, &config(2, false), &mut |_, _| {})
                .unwrap_err()
                .to_string()
        };
        assert_eq!(
            message(false),
            "the model failed during retrieval: out of device memory"
        );
        assert!(message(true).ends_with("expected 4, got 3"));
    }

    #[test]
    fn the_json_has_the_documented_form() {
        let (truth, model) = circle();
        let report = run(&model, &truth, config(2, true)).unwrap();
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(
            json["methods"][1],
            serde_json::json!({
                "method": "itc+itm",
                "text_to_image": {"r1": 0.5, "r5": 1.0, "r10": 1.0, "median_rank": 1.5},
                "image_to_text": {"r1": 1.0, "r5": 1.0, "r10": 1.0, "median_rank": 1.0},
            })
        );
        let names: Vec<_> = json["methods"]
            .as_array()
            .unwrap()
            .iter()
            .map(|method| &method["method"])
            .collect();
        assert_eq!(names, ["itc", "itc+itm", "itm"]);
        assert_eq!(json["chance"]["text_to_image"]["r1"], 1.0 / 3.0);
        for report in &report.methods {
            assert_eq!(
                serde_json::to_value(report.method).unwrap(),
                report.method.to_string()
            );
        }
        let back: RetrievalReport = serde_json::from_value(json).unwrap();
        assert_eq!(
            back.methods[2].text_to_image,
            report.methods[2].text_to_image
        );
        let config: RetrievalConfig = serde_json::from_str(r#"{"shortlist": 16}"#).unwrap();
        assert_eq!(
            config,
            RetrievalConfig {
                shortlist: 16,
                ..RetrievalConfig::default()
            }
        );
        assert!(serde_json::from_str::<RetrievalConfig>(r#"{"short_list": 16}"#).is_err());
    }
}

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

    /// Each row, of length 1.
    pub(crate) fn each(&self) -> impl Iterator<Item = &[f32]> {
        self.values.chunks_exact(self.features)
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
mod tests;

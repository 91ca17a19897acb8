//! Scores of generated captions against references: BLEU, ROUGE-L, CIDEr and CIDEr-D, as COCO's evaluation computes them.
//!
//! [`score`] takes captions as they are and gives the scores of every image and of all of them. It splits them into the
//! tokens that published scores are over ([`ptb`]); [`score_tokens`] takes tokens of any other kind. The numbers are those
//! of `pycocoevalcap` 1.2, which papers report. Its CIDEr is CIDEr-D: here both have their own name.
//!
//! METEOR and SPICE are no part of it, for the reasons that [`Unsupported`] gives.
//!
//! Every score is a share between 0 and 1, but CIDEr and CIDEr-D, which go up to 10. Papers write all of them times 100.

mod bleu;
mod cider;
mod ngrams;
pub mod ptb;
mod rouge_l;

pub use cider::DocumentFrequencies;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use bleu::BleuCounts;
use cider::Frequencies;
use ngrams::{Caption, Vocabulary};

/// A generated caption and what people wrote about the same image.
///
/// `T` is a text, or a list of tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Case<T = String> {
    /// At least one.
    pub references: Vec<T>,
    /// The generated caption. An empty one scores 0.
    pub hypothesis: T,
}

/// The scores of one caption, or of all of them.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scores {
    /// BLEU-1 to BLEU-4, without smoothing.
    pub bleu: [f64; 4],
    /// ROUGE-L, with a weight of 1.2 for recall.
    pub rouge_l: f64,
    /// CIDEr as its paper defines it first: no clipping, no penalty for a length.
    pub cider: f64,
    /// CIDEr-D, which COCO's evaluation prints as `CIDEr` and papers report.
    pub cider_d: f64,
}

/// The scores of a set of captions.
#[derive(Debug, Clone, PartialEq)]
pub struct CaptionScores {
    /// Of all captions. BLEU is computed from the counts of all of them, the others are means.
    pub corpus: Scores,
    /// Of every caption, in the order given. Their BLEU is no smoothed one, so BLEU-4 is often nearly 0.
    pub each: Vec<Scores>,
}

/// Why captions have no score.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum CaptionError {
    /// There is nothing to score.
    #[error("there is no caption to score")]
    Empty,
    /// A caption has nothing to be compared with.
    #[error("caption {case} (counted from 0) has no reference: each needs at least one")]
    NoReference {
        /// Index of the case.
        case: usize,
    },
    /// There are no images to count documents in.
    #[error("document frequencies need the references of at least one image")]
    NoDocuments,
}

/// A score that is asked for by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Metric {
    /// BLEU of single words.
    Bleu1,
    /// BLEU of up to two words.
    Bleu2,
    /// BLEU of up to three words.
    Bleu3,
    /// BLEU of up to four words, which papers report.
    Bleu4,
    /// ROUGE-L.
    RougeL,
    /// Plain CIDEr.
    Cider,
    /// CIDEr-D.
    CiderD,
}

/// Why a metric of captions is not computed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Unsupported {
    /// METEOR 1.5.
    #[error(
        "METEOR is not computed: its program needs Java and a table of paraphrases of 62 MB, and without that table it \
         would be another metric of the same name"
    )]
    Meteor,
    /// SPICE.
    #[error(
        "SPICE is not computed: its program needs Java and the parser of Stanford CoreNLP, which it downloads when it first \
         runs"
    )]
    Spice,
    /// Anything else.
    #[error(
        "no metric of captions is called `{0}`: allowed are bleu-1, bleu-2, bleu-3, bleu-4, rouge-l, cider and cider-d"
    )]
    Unknown(String),
}

impl Metric {
    /// All of them, in the order of tables.
    pub const ALL: [Self; 7] = [
        Self::Bleu1,
        Self::Bleu2,
        Self::Bleu3,
        Self::Bleu4,
        Self::RougeL,
        Self::Cider,
        Self::CiderD,
    ];
}

impl std::fmt::Display for Metric {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Bleu1 => "BLEU-1",
            Self::Bleu2 => "BLEU-2",
            Self::Bleu3 => "BLEU-3",
            Self::Bleu4 => "BLEU-4",
            Self::RougeL => "ROUGE-L",
            Self::Cider => "CIDEr",
            Self::CiderD => "CIDEr-D",
        })
    }
}

impl std::str::FromStr for Metric {
    type Err = Unsupported;

    /// By its name as [`Display`](std::fmt::Display) writes it, in any case; `_` may stand for `-`.
    fn from_str(name: &str) -> Result<Self, Unsupported> {
        let plain = name.to_lowercase().replace('_', "-");
        let known = Self::ALL
            .into_iter()
            .find(|metric| metric.to_string().to_lowercase() == plain);
        match (known, plain.as_str()) {
            (Some(metric), _) => Ok(metric),
            (None, "meteor") => Err(Unsupported::Meteor),
            (None, "spice") => Err(Unsupported::Spice),
            (None, _) => Err(Unsupported::Unknown(name.to_owned())),
        }
    }
}

impl Scores {
    /// One of them.
    pub fn get(&self, metric: Metric) -> f64 {
        match metric {
            Metric::Bleu1 => self.bleu[0],
            Metric::Bleu2 => self.bleu[1],
            Metric::Bleu3 => self.bleu[2],
            Metric::Bleu4 => self.bleu[3],
            Metric::RougeL => self.rouge_l,
            Metric::Cider => self.cider,
            Metric::CiderD => self.cider_d,
        }
    }
}

/// The scores of captions, by the tokens of [`ptb`].
///
/// The cases should be in the order of the references' file, as the reference has them: the end of a caption can be read
/// differently before another one (see [`ptb`]). CIDEr depends on which images are scored, since words count less that
/// many of them have. With one image it is 0.
///
/// # Errors
/// If there is no case, or one without a reference.
pub fn score(cases: &[Case]) -> Result<CaptionScores, CaptionError> {
    check(cases)?;
    let hypotheses: Vec<&str> = cases.iter().map(|case| case.hypothesis.as_str()).collect();
    let references: Vec<&str> = cases
        .iter()
        .flat_map(|case| &case.references)
        .map(String::as_str)
        .collect();
    let mut references = ptb::tokenize_all(&references).into_iter();
    let tokenized: Vec<Case<Vec<String>>> = cases
        .iter()
        .zip(ptb::tokenize_all(&hypotheses))
        .map(|(case, hypothesis)| Case {
            references: references.by_ref().take(case.references.len()).collect(),
            hypothesis,
        })
        .collect();
    score_tokens(&tokenized)
}

/// The scores of captions that are split into tokens already, by any tokeniser.
///
/// # Errors
/// As [`score`].
pub fn score_tokens(cases: &[Case<Vec<String>>]) -> Result<CaptionScores, CaptionError> {
    check(cases)?;
    let mut vocabulary = Vocabulary::default();
    let mut frequencies = Frequencies::default();
    let mut counted = Vec::with_capacity(cases.len());
    for case in cases {
        let hypothesis = vocabulary.caption(&case.hypothesis);
        let references: Vec<Caption> = case
            .references
            .iter()
            .map(|reference| vocabulary.caption(reference))
            .collect();
        frequencies.add(&references);
        counted.push((hypothesis, references));
    }
    let mut total = BleuCounts::default();
    let mut corpus = Scores {
        bleu: [0.0; 4],
        rouge_l: 0.0,
        cider: 0.0,
        cider_d: 0.0,
    };
    let share = 1.0 / cases.len() as f64;
    let mut each = Vec::with_capacity(cases.len());
    for (hypothesis, references) in &counted {
        let counts = BleuCounts::of(hypothesis, references);
        total.add(&counts);
        let consensus = frequencies.consensus(hypothesis, references);
        let scores = Scores {
            bleu: counts.scores(),
            rouge_l: rouge_l::score(hypothesis, references),
            cider: consensus.cider,
            cider_d: consensus.cider_d,
        };
        corpus.rouge_l += share * scores.rouge_l;
        corpus.cider += share * scores.cider;
        corpus.cider_d += share * scores.cider_d;
        each.push(scores);
    }
    corpus.bleu = total.scores();
    Ok(CaptionScores { corpus, each })
}

fn check<T>(cases: &[Case<T>]) -> Result<(), CaptionError> {
    if cases.is_empty() {
        return Err(CaptionError::Empty);
    }
    match cases.iter().position(|case| case.references.is_empty()) {
        Some(case) => Err(CaptionError::NoReference { case }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests;

#![doc = include_str!("../README.md")]

pub mod bitext;
pub mod boxes;
pub mod captions;
mod checks;
pub mod classification;
pub mod correlation;
mod error;
pub mod grounding;
pub mod interval;
pub mod metrics;
pub mod navigation;
pub mod nlvr;
pub mod patch_map;
pub mod precision;
pub mod retrieval;
pub mod stories;
pub mod vqa;

pub use bitext::{BitextReport, bitext};
pub use boxes::BoundingBox;
pub use classification::{ClassScores, Confusion, harmonic_mean};
pub use error::{EvalError, Ids, ModelError};
pub use interval::{Bootstrap, Interval};
pub use metrics::{ChanceRecall, Direction, Directions, GroundTruth, Pair, Recall, Scores};
pub use nlvr::{Labelled, NlvrReport};
pub use retrieval::{
    Blocks, Candidate, DualEmbeddings, Embeddings, Method, MethodReport, RetrievalConfig,
    RetrievalModel, RetrievalReport, evaluate,
};
pub use vqa::{VqaPrediction, VqaQuestion, VqaReport, VqaRule};

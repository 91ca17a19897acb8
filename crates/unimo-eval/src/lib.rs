#![doc = include_str!("../README.md")]

pub mod boxes;
pub mod captions;
pub mod classification;
pub mod correlation;
mod coverage;
mod error;
pub mod grounding;
pub mod interval;
pub mod metrics;
pub mod nlvr;
pub mod retrieval;
pub mod vqa;

pub use boxes::BoundingBox;
pub use classification::{ClassScores, Confusion};
pub use coverage::Ids;
pub use error::{EvalError, ModelError};
pub use interval::{Bootstrap, Interval};
pub use metrics::{ChanceRecall, Direction, Directions, GroundTruth, Pair, Recall, Scores};
pub use nlvr::{Labelled, NlvrReport};
pub use retrieval::{
    Blocks, Candidate, DualEmbeddings, Embeddings, Method, MethodReport, RetrievalConfig,
    RetrievalModel, RetrievalReport, evaluate,
};
pub use vqa::{VqaPrediction, VqaQuestion, VqaReport, VqaRule};

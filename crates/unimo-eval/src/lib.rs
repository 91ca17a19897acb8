#![doc = include_str!("../README.md")]

mod error;
pub mod grounding;
pub mod metrics;
pub mod retrieval;
pub mod vqa;

pub use error::{EvalError, ModelError};
pub use metrics::{ChanceRecall, Direction, Directions, GroundTruth, Pair, Recall, Scores};
pub use retrieval::{
    Blocks, Candidate, DualEmbeddings, Embeddings, Method, MethodReport, RetrievalConfig,
    RetrievalModel, RetrievalReport, evaluate,
};

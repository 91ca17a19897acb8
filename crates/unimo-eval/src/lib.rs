#![doc = include_str!("../README.md")]

pub mod captions;
mod error;
pub mod grounding;
pub mod metrics;
pub mod retrieval;

pub use error::{EvalError, ModelError};
pub use metrics::{ChanceRecall, Direction, Directions, GroundTruth, Pair, Recall, Scores};
pub use retrieval::{
    Blocks, Candidate, DualEmbeddings, Embeddings, Method, MethodReport, RetrievalConfig,
    RetrievalModel, RetrievalReport, evaluate,
};

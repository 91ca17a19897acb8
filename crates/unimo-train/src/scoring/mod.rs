//! Scoring results that are in files already, made by any model: `score-captions`.

pub mod captions;

#![doc = include_str!("../README.md")]

mod counting;
pub mod parser;
mod spelling;
mod tuples;
mod vocabulary;
mod words;

pub use counting::{Counter, Uncounted};
pub use parser::{LONGEST_CAPTION, LONGEST_PHRASE, MOST_PHRASES, phrases};
pub use spelling::spaced;
pub use tuples::{Tuples, TuplesBuilder};
pub use vocabulary::{ConceptIds, MOST_CONCEPTS, Vocabulary};

//! The error of an exchange.

use std::fmt;

/// The processes could not exchange something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lost {
    /// The rank that says so.
    pub rank: usize,
    /// The step in which it happened, counted from 1; 0: before the first.
    pub step: u64,
    /// What was exchanged.
    pub what: &'static str,
    /// Why it failed, in the engine's words.
    pub reason: String,
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rank {}, ", self.rank)?;
        if self.step > 0 {
            write!(f, "step {}, ", self.step)?;
        }
        write!(f, "{}: {}", self.what, self.reason)
    }
}

impl std::error::Error for Lost {}

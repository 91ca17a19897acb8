//! Captions that are changed before they become tokens.

/// Changes captions as they are loaded, as code switching does ([`Switch`](crate::Switch)). The same draw must give the same text.
pub trait Rewrite: Send + Sync {
    /// The caption that the model reads. `draw` is different for every position of the run.
    fn rewrite(&self, caption: &str, draw: u64) -> String;

    /// Whether captions in this language are changed at all. Where languages are not known, all are.
    fn reads(&self, _language: &str) -> bool {
        true
    }
}

//! Opens the tokenizer of a recipe. Its vocabulary may come from the texts of a source.

use crate::error::DataError;
use crate::sources::source::{Readable, Source};
use crate::sources::splits::Split;
use crate::text::tokens::{TextTokenizer, TokenizerConfig};

impl TextTokenizer {
    /// Loads or trains the tokenizer of a recipe.
    ///
    /// # Errors
    ///
    /// See [`load`](Self::load) and [`train`](Self::train).
    pub fn open(config: &TokenizerConfig, source: &dyn Source) -> Result<Self, DataError> {
        match config {
            TokenizerConfig::File { path, lowercase } => Self::load(path, *lowercase),
            TokenizerConfig::Train { vocab_size } => {
                let mut texts = Readable::new(source.texts(Split::Train));
                let trained = Self::train(&mut texts, *vocab_size);
                texts.whole(trained)?
            }
        }
    }
}

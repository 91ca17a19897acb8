//! Why an evaluation can fail.

use thiserror::Error;

/// What a [`RetrievalModel`](crate::RetrievalModel) reports when it fails: any error of its own.
pub type ModelError = Box<dyn std::error::Error + Send + Sync>;

/// Why an evaluation gave no numbers.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum EvalError {
    /// There is nothing to rank.
    #[error(
        "retrieval needs at least one text and one image, got {texts} texts and {images} images"
    )]
    Empty {
        /// Number of texts.
        texts: usize,
        /// Number of images.
        images: usize,
    },
    /// A text names an image that does not exist.
    #[error("text {text} belongs to image {image}, but there are only {images} images (0 to {})", images - 1)]
    NoSuchImage {
        /// Index of the text.
        text: usize,
        /// The image it names.
        image: usize,
        /// Number of images.
        images: usize,
    },
    /// An image that no text belongs to cannot be found by any text.
    #[error(
        "image {image} has no caption: every image needs at least one to be a query of image-to-text retrieval"
    )]
    NoCaption {
        /// Index of the image.
        image: usize,
    },
    /// Two parts of the input disagree on a number of items.
    #[error("{what}: expected {expected}, got {got}")]
    Count {
        /// What was counted.
        what: &'static str,
        /// The number it has to be.
        expected: usize,
        /// The number it is.
        got: usize,
    },
    /// A score is not a number, so it has no rank.
    #[error(
        "the {source_of_score} score of text {text} and image {image} is NaN; has the model diverged?"
    )]
    NanScore {
        /// Where the score came from: `given`, `ITC` or `ITM`.
        source_of_score: &'static str,
        /// Index of the text.
        text: usize,
        /// Index of the image.
        image: usize,
    },
    /// An embedding has no direction.
    #[error("embedding {row} cannot be normalised: its length is {norm}; has the model diverged?")]
    BadEmbedding {
        /// Row of the embedding.
        row: usize,
        /// Its Euclidean length.
        norm: f32,
    },
    /// A setting is outside its range.
    #[error("retrieval setting `{key}` = {got}: allowed is {allowed}")]
    Config {
        /// The key of [`RetrievalConfig`](crate::RetrievalConfig).
        key: &'static str,
        /// The value given.
        got: usize,
        /// What is allowed.
        allowed: &'static str,
    },
    /// The model can neither embed nor score pairs, or cannot do what was asked for.
    #[error("{0}")]
    Unsupported(&'static str),
    /// The model failed.
    #[error("the model failed during retrieval: {0}")]
    Model(#[source] ModelError),
}

//! Why an evaluation can fail.

use std::fmt;

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
    /// A path that an agent walked cannot be judged.
    #[error("path {row} {reason}")]
    Path {
        /// Index of the path.
        row: usize,
        /// What is wrong with it.
        reason: &'static str,
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
    /// There is nothing to score.
    #[error("there is no {what} to score: at least one is needed")]
    NoRows {
        /// What was counted: `question`, `identifier`.
        what: &'static str,
    },
    /// Two rows have the same id.
    #[error("every {what} must be annotated once; annotated again: {ids}")]
    Twice {
        /// What has ids: `question`, `identifier`.
        what: &'static str,
        /// The ids that came again.
        ids: Ids,
    },
    /// The predictions are not one per row.
    #[error(
        "each of the {rows} annotated rows needs exactly one prediction; by {what}: without a prediction {missing}, with several {double}, predicted but not annotated {unknown}"
    )]
    Coverage {
        /// What has ids: `question`, `identifier`.
        what: &'static str,
        /// Number of rows.
        rows: usize,
        /// Rows without a prediction.
        missing: Ids,
        /// Rows with several predictions.
        double: Ids,
        /// Predictions for no row.
        unknown: Ids,
    },
    /// A question has too few answers.
    #[error("question {question} has {answers} answers: {allowed}")]
    Answers {
        /// Id of the question.
        question: u64,
        /// Number of its answers.
        answers: usize,
        /// What is allowed.
        allowed: &'static str,
    },
    /// An identifier cannot be used.
    #[error("identifier {got:?}: allowed is {allowed}")]
    Identifier {
        /// The identifier.
        got: String,
        /// What is allowed.
        allowed: &'static str,
    },
    /// A label cannot be read.
    #[error("label {got:?}: allowed is {allowed}")]
    Label {
        /// The text.
        got: String,
        /// What is allowed.
        allowed: &'static str,
    },
    /// A score of a class is not a number, so it has no rank.
    #[error("the score of row {row} and class {class} is NaN; has the model diverged?")]
    NanClassScore {
        /// The row.
        row: usize,
        /// The class.
        class: usize,
    },
    /// A class does not exist.
    #[error(
        "the {what} of row {row} is class {class}, but there are {classes} classes, counted from 0"
    )]
    NoSuchClass {
        /// `label` or `prediction`.
        what: &'static str,
        /// The row.
        row: usize,
        /// The class it names.
        class: usize,
        /// Number of classes.
        classes: usize,
    },
    /// A number is NaN or infinite.
    #[error("the {what} of row {row} is {got}: allowed are finite numbers")]
    NotFinite {
        /// What the number is.
        what: &'static str,
        /// The row.
        row: usize,
        /// The number.
        got: f64,
    },
    /// A box is no box.
    #[error(
        "the box {given:?}{} must have numbers up to 1e100, and its width and height must not be negative",
        row.map_or_else(String::new, |row| format!(" of row {row}"))
    )]
    BadBox {
        /// The row; `None` for a single box.
        row: Option<usize>,
        /// The numbers as given.
        given: [f64; 4],
    },
    /// A setting of a metric is outside its range.
    #[error("{key} = {got}: allowed is {allowed}")]
    Setting {
        /// What is set.
        key: &'static str,
        /// The value given.
        got: String,
        /// What is allowed.
        allowed: String,
    },
    /// The model can neither embed nor score pairs, or cannot do what was asked for.
    #[error("{0}")]
    Unsupported(&'static str),
    /// The model failed.
    #[error("the model failed during retrieval: {0}")]
    Model(#[source] ModelError),
}

/// How many ids an error names.
const NAMED: usize = 5;

/// Some ids of a file, for an error: how many there are, and the first of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ids {
    /// How many there are.
    pub count: usize,
    /// The first five of them, in the order of their file.
    pub first: Vec<String>,
}

impl Ids {
    pub(crate) fn new<K: fmt::Display>(ids: &[K]) -> Self {
        Self {
            count: ids.len(),
            first: ids.iter().take(NAMED).map(K::to_string).collect(),
        }
    }
}

impl fmt::Display for Ids {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.count)?;
        if self.first.is_empty() {
            return Ok(());
        }
        let more = if self.count > self.first.len() {
            ", ..."
        } else {
            ""
        };
        write!(f, " ({}{more})", self.first.join(", "))
    }
}

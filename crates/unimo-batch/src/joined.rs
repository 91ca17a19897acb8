//! How a text and its translation are put together as one text.

use serde::{Deserialize, Serialize};

use crate::batch::MaskSpec;

/// The key of joined texts in [`Batch::further_texts`](crate::Batch::further_texts).
pub const JOINED: &str = "joined";

/// How a text and its translation are put together as one text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JoinSpec {
    /// What stands between the two.
    #[serde(default)]
    pub form: JoinForm,
    /// How positions are numbered in the second part.
    #[serde(default)]
    pub positions: JoinPositions,
}

/// What stands between the two parts of a joined text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JoinForm {
    /// What the vocabulary's own rules put between two sentences: `[CLS] a [SEP] b [SEP]` (BERT), `<s> a </s></s> b </s>` (RoBERTa).
    #[default]
    Vocabulary,
    /// One begin token for both: `<s> a </s> b </s>` (InfoXLM).
    OneBegin,
    /// Each part as it is by itself: `<s> a </s> <s> b </s>` (UC2).
    TwoBegins,
}

/// How positions are numbered in the second part of a joined text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JoinPositions {
    /// On from those of the first part (InfoXLM).
    #[default]
    RunOn,
    /// Anew, so that both parts have the same positions (UC2).
    Restart,
}

/// The key of the texts that a contrast of translations learns to embed in [`Batch::further_texts`](crate::Batch::further_texts).
pub const QUERY: &str = "query";

/// The key of their translations, which it compares them with.
pub const KEY: &str = "key";

/// How texts and their translations become the two sides of a contrast.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SidesSpec {
    /// Whether a text is joined with another one of the batch, and its translation with that one's, each in any order (mixup contrast).
    pub mixup: bool,
    /// How words of both sides are hidden, not to be predicted; `None`: none is.
    pub mask: Option<MaskSpec>,
}

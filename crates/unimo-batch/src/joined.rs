//! How a text and its translation are put together as one text.

use serde::{Deserialize, Serialize};

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

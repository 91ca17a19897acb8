//! What is known of a text for a task: its right answers, and what an evaluation needs besides.

use serde::{Deserialize, Serialize};
use unimo_batch::{Entailment, TextRole};

/// What is known of a text about an image, or of an image without texts.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Label {
    /// Its id in the original files, such as a question id; empty if it has none. Results are submitted under it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub id: String,
    /// The answer that counts where only one can: the most common one. `None` if no answer is known, as in a test set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub answer: Option<String>,
    /// All answers that people gave, in their order (VQAv2: ten); empty if there is only [`answer`](Self::answer).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub answers: Vec<String>,
    /// The line, or the number of the element, where the text is defined, if its sample has several.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<u64>,
    /// The kinds that results are also given for, such as `question type` with `what color is the`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub kinds: Vec<(String, String)>,
    /// The box of what the text refers to: x1, y1, x2, y2 as shares of the width and height of the whole image. `None` if it is not
    /// known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bounds: Option<[f32; 4]>,
}

/// The answer to a statement that is true.
pub const TRUE: &str = "True";
/// The answer to a statement that is false.
pub const FALSE: &str = "False";

impl Label {
    /// The label of a text that says nothing but its role.
    pub fn of_role(role: TextRole) -> Self {
        let answer = match role {
            TextRole::Describes | TextRole::Question => None,
            TextRole::Statement { holds: true } => Some(TRUE),
            TextRole::Statement { holds: false } => Some(FALSE),
            TextRole::Hypothesis(Entailment::Entailed) => Some("entailment"),
            TextRole::Hypothesis(Entailment::Neutral) => Some("neutral"),
            TextRole::Hypothesis(Entailment::Contradicted) => Some("contradiction"),
        };
        Self {
            answer: answer.map(str::to_owned),
            ..Self::default()
        }
    }

    /// Everything that people answered: [`answers`](Self::answers), or the one answer.
    pub fn given(&self) -> Vec<&str> {
        if self.answers.is_empty() {
            self.answer.as_deref().into_iter().collect()
        } else {
            self.answers.iter().map(String::as_str).collect()
        }
    }
}

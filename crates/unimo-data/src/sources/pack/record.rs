//! The `.json` member of a packed sample.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use unimo_batch::{Entailment, TextRole};

use crate::sources::label::Label;
use crate::sources::languages::Languages;
use crate::sources::source::Sample;

/// The `.json` member of a packed sample: everything in a [`Sample`] except its images.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Record {
    /// Distinguishes it from a `.json` of other programs; its value is the version.
    unimo_sample: u32,
    name: String,
    pub(crate) captions: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    second_texts: Vec<String>,
    #[serde(skip_serializing_if = "is_unknown")]
    pub(crate) languages: Languages,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) phrases: Vec<Vec<String>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) tags: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    boxes: Vec<[f32; 4]>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    questions: Vec<(String, String)>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    answers: Vec<Vec<String>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) statements: Vec<(String, bool)>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    hypotheses: Vec<(String, Entailment)>,
    /// Whether each of `captions` describes the image; empty: all do except questions, statements and hypotheses.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    describes: Vec<bool>,
    /// What is known of each of `captions` for a task; empty: what its role says.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    labels: Vec<Label>,
}

fn is_unknown(languages: &Languages) -> bool {
    *languages == Languages::default()
}

impl Record {
    const VERSION: u32 = 1;

    pub(super) fn new(sample: Sample) -> Self {
        let roles = sample.roles.iter().copied().map(Label::of_role);
        // A line of the file that was packed says nothing of the shard.
        let own = sample.labels.into_iter();
        let labels: Vec<Label> = own
            .map(|label| Label {
                line: None,
                ..label
            })
            .collect();
        let told = !roles.eq(labels.iter().cloned());
        Self {
            unimo_sample: Self::VERSION,
            // Only this distinguishes questions without answers from captions.
            describes: if sample.roles.contains(&TextRole::Question) {
                sample
                    .roles
                    .iter()
                    .map(|role| *role == TextRole::Describes)
                    .collect()
            } else {
                Vec::new()
            },
            name: sample.name,
            captions: sample.captions,
            second_texts: sample.second_texts,
            languages: sample.languages,
            phrases: sample.phrases,
            tags: sample.tags,
            boxes: sample.boxes,
            questions: sample.questions,
            answers: sample.answers,
            statements: sample.statements,
            hypotheses: sample.hypotheses,
            labels: if told { labels } else { Vec::new() },
        }
    }

    /// What is known of each caption for a task.
    pub(crate) fn labels(&self) -> Vec<Label> {
        if !self.labels.is_empty() {
            return self.labels.clone();
        }
        // Records of an older version have the answers beside their questions.
        let mut questions = self.questions.iter().zip(0..).peekable();
        let of = |(text, role): (&String, TextRole)| {
            let asked = questions.next_if(|((known, _), _)| known == text);
            match asked {
                Some(((_, answer), at)) => Label {
                    answer: Some(answer.clone()),
                    answers: self.answers.get::<usize>(at).cloned().unwrap_or_default(),
                    ..Label::default()
                },
                None => Label::of_role(role),
            }
        };
        self.captions.iter().zip(self.roles()).map(of).collect()
    }

    /// The record in a `.json`; `None` if another program wrote it.
    pub(crate) fn of(value: &Value) -> Option<Result<Self, String>> {
        let version = value.get("unimo_sample")?;
        Some(match version.as_u64() {
            Some(version) if version == u64::from(Self::VERSION) => {
                Self::deserialize(value).map_err(|error| error.to_string())
            }
            _ => Err(format!(
                "`unimo_sample` is {version}, this version reads {}",
                Self::VERSION
            )),
        })
    }

    /// What each caption says about the image; empty: all describe it.
    pub(crate) fn roles(&self) -> Vec<TextRole> {
        // Statements among the captions stand there in the same order.
        let mut statements = self.statements.iter().peekable();
        let mut hypotheses = self.hypotheses.iter().peekable();
        let mut questions = self.questions.iter().peekable();
        let of = |text: &String| {
            if let Some((_, holds)) = statements.next_if(|(known, _)| known == text) {
                TextRole::Statement { holds: *holds }
            } else if let Some((_, label)) = hypotheses.next_if(|(known, _)| known == text) {
                TextRole::Hypothesis(*label)
            } else if questions.next_if(|(known, _)| known == text).is_some() {
                TextRole::Question
            } else {
                TextRole::Describes
            }
        };
        let mut roles: Vec<TextRole> = self.captions.iter().map(of).collect();
        for (role, describes) in roles.iter_mut().zip(&self.describes) {
            if !describes && *role == TextRole::Describes {
                *role = TextRole::Question;
            }
        }
        if roles.iter().all(|role| *role == TextRole::Describes) {
            Vec::new()
        } else {
            roles
        }
    }

    /// The sample without its images.
    pub(crate) fn into_sample(self) -> Sample {
        Sample {
            roles: self.roles(),
            labels: self.labels(),
            name: self.name,
            captions: self.captions,
            second_texts: self.second_texts,
            languages: self.languages,
            phrases: self.phrases,
            tags: self.tags,
            boxes: self.boxes,
            questions: self.questions,
            answers: self.answers,
            statements: self.statements,
            hypotheses: self.hypotheses,
            ..Sample::default()
        }
    }
}

//! What is to be predicted of each sample.

use std::collections::BTreeMap;

use unimo_batch::Target;
use unimo_data::{Label, MakeTarget};
use unimo_eval::vqa::{normalise, soft_score};
use unimo_objectives::{AnsweredBy, Predicts};

use crate::recipe::Recipe;
use crate::recipe::Task;
use crate::recipe::task::{ClassPart, LabelsConfig};
use crate::tasks::labels::Labels;

/// Makes targets of labels, for one task.
#[derive(Debug, Clone)]
pub struct Targets {
    /// The task.
    pub task: Task,
    /// Its labels; `None` if it predicts a number or a box.
    pub labels: Option<Labels>,
    /// Whether answers are looked up as they were written.
    pub raw_answers: bool,
    /// Whether the data has classes beside the labels, whose samples are left out.
    pub partial: bool,
    /// Whether images are asked without a text, so that one without a label is asked too.
    pub images_alone: bool,
    /// How many samples of each class are trained on, and the seed that chooses them; `None`: all.
    pub shots: Option<(usize, u64)>,
}

impl MakeTarget for Targets {
    fn target(&self, label: &Label) -> Target {
        self.made(label).unwrap_or_default()
    }
}

impl Targets {
    /// What a recipe's task predicts; `None` without a task.
    pub fn of(recipe: &Recipe, labels: Option<Labels>) -> Option<Self> {
        let task = Task::of(recipe)?;
        Some(Self {
            task,
            labels,
            raw_answers: recipe.task.as_ref().is_some_and(|task| task.raw_answers),
            partial: is_partial(recipe),
            images_alone: !recipe.reads_texts(),
            shots: recipe
                .task
                .as_ref()
                .and_then(|task| Some((task.shots?, recipe.seed))),
        })
    }

    /// The class of a label; `None` if it has none.
    pub(crate) fn class(&self, label: &Label) -> Option<u32> {
        match self.target(label) {
            Target::Labels(labels) => labels.first().map(|(label, _)| *label),
            Target::Unknown | Target::Number(_) | Target::Box(_) => None,
        }
    }

    /// The labels of which fewer than `shots` samples are trained on, each with its number.
    pub(crate) fn fewer(&self, counts: &BTreeMap<u32, usize>, shots: usize) -> Vec<String> {
        let names = self.labels.iter().flat_map(|labels| labels.names());
        let counted = (0..).zip(names).map(|(label, name)| {
            let count = counts.get(&label).copied().unwrap_or(0);
            (name, count)
        });
        let fewer = counted.filter(|(_, count)| *count < shots);
        fewer
            .map(|(name, count)| format!("{name:?} ({count})"))
            .collect()
    }

    /// The target of a label.
    ///
    /// # Errors
    ///
    /// The answer is none that the task can give; says what is allowed.
    fn made(&self, label: &Label) -> Result<Target, String> {
        if self.task.predicts == Predicts::Box {
            return Ok(label.bounds.map_or(Target::Unknown, Target::Box));
        }
        let Some(answer) = &label.answer else {
            return Ok(Target::Unknown);
        };
        match (self.task.predicts, &self.labels) {
            (Predicts::Answers { by, .. }, Some(labels)) => {
                let of = label.given().len();
                let shares = self.answers(label, labels, |count| match by {
                    AnsweredBy::Class => score(count, of),
                    AnsweredBy::Words => count as f32 / of as f32,
                });
                Ok(if shares.is_empty() {
                    Target::Unknown
                } else {
                    Target::Labels(shares)
                })
            }
            (Predicts::Class { .. }, Some(labels)) => match labels.number(answer) {
                Some(number) => Ok(Target::Labels(vec![(number, 1.0)])),
                None if self.partial => Ok(Target::Unknown),
                None => Err(format!("the label {answer:?} is none of {}", some(labels))),
            },
            (Predicts::Number, _) => match answer.trim().parse::<f32>() {
                Ok(number) if number.is_finite() => Ok(Target::Number(number)),
                _ => Err(format!("the label {answer:?} is no number")),
            },
            (Predicts::Answers { .. } | Predicts::Class { .. }, None) | (Predicts::Box, _) => {
                Ok(Target::Unknown)
            }
        }
    }

    /// VQA's score of each answer that is a label, whatever is learned of it.
    pub(crate) fn scores(&self, label: &Label) -> Vec<(u32, f32)> {
        let of = label.given().len();
        let labels = self.labels.as_ref();
        labels.map_or_else(Vec::new, |labels| {
            self.answers(label, labels, |count| score(count, of))
        })
    }

    /// Each answer that is a label, in the order of their first mention, with what `value` makes of the number of people who gave it.
    fn answers(
        &self,
        label: &Label,
        labels: &Labels,
        value: impl Fn(usize) -> f32,
    ) -> Vec<(u32, f32)> {
        let given = label.given();
        let mut counts: Vec<(String, usize)> = Vec::new();
        for answer in &given {
            let answer = if self.raw_answers {
                (*answer).to_owned()
            } else {
                normalise(answer)
            };
            match counts.iter_mut().find(|(known, _)| *known == answer) {
                Some((_, count)) => *count += 1,
                None => counts.push((answer, 1)),
            }
        }
        let known =
            |(answer, count): (String, usize)| Some((labels.number(&answer)?, value(count)));
        counts.into_iter().filter_map(known).collect()
    }

    /// Whether a text is trained on.
    ///
    /// # Errors
    ///
    /// Its label is none that the task can give.
    pub(crate) fn learns(&self, label: &Label) -> Result<bool, String> {
        self.made(label).map(|target| target != Target::Unknown)
    }

    /// Whether a text is judged: its answer is known, or all texts are.
    ///
    /// # Errors
    ///
    /// Its label is none that the task can give. An answer that is none of many is judged: it cannot be given, and counts as wrong.
    pub(crate) fn judges(&self, label: &Label, all: bool) -> Result<bool, String> {
        // What is predicted may have answers that the model does not know.
        if all {
            return Ok(true);
        }
        let made = self.made(label)?;
        let known = match self.task.predicts {
            Predicts::Box => label.bounds.is_some(),
            // A sample of a class that is no label is judged elsewhere.
            Predicts::Class { .. } if self.partial => made != Target::Unknown,
            _ => label.answer.is_some(),
        };
        Ok(known)
    }
}

/// Whether a recipe's labels are only some classes of its data.
fn is_partial(recipe: &Recipe) -> bool {
    let labels = recipe.task.as_ref().map(|task| &task.labels);
    let base = LabelsConfig::Classes {
        part: ClassPart::Base,
    };
    labels == Some(&base) || recipe.eval.base_to_novel.is_some()
}

/// VQA's score of an answer that `count` of the people gave. A set with one answer per question says that it is right.
fn score(count: usize, of: usize) -> f32 {
    if of == 1 {
        1.0
    } else {
        soft_score(count) as f32
    }
}

/// Some labels, for a message.
fn some(labels: &Labels) -> String {
    const SHOWN: usize = 8;
    let names: Vec<String> = labels
        .names()
        .iter()
        .take(SHOWN)
        .map(|n| format!("{n:?}"))
        .collect();
    let more = labels.len().saturating_sub(SHOWN);
    if more > 0 {
        format!("{} and {more} more labels", names.join(", "))
    } else {
        names.join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn targets(predicts: Predicts, names: &[&str]) -> Targets {
        let names = names.iter().map(|name| (*name).to_owned()).collect();
        Targets {
            task: Task {
                key: "vqa",
                predicts,
            },
            labels: Some(Labels::new(names).unwrap()),
            raw_answers: false,
            partial: false,
            images_alone: false,
            shots: None,
        }
    }

    fn label(answers: &[&str]) -> Label {
        Label {
            answer: Some(answers[0].to_owned()),
            answers: answers.iter().map(|answer| (*answer).to_owned()).collect(),
            ..Label::default()
        }
    }

    /// BridgeTower normalises before it counts, METER does not: "two" and "2" are one answer or two.
    #[test]
    fn answers_have_the_scores_of_meter_and_bridgetower() {
        let answers = ["2", "two", "two", "Two", "3", "x", "x", "x", "x", "x"];
        let predicts = |by| Predicts::Answers { classes: None, by };
        let mut targets = targets(predicts(AnsweredBy::Class), &["2", "3", "4"]);
        let of = |targets: &Targets| targets.target(&label(&answers));
        assert_eq!(of(&targets), Target::Labels(vec![(0, 1.0), (1, 0.3)]));
        targets.raw_answers = true;
        assert_eq!(of(&targets), Target::Labels(vec![(0, 0.3), (1, 0.3)]));
        assert_eq!(
            targets.target(&label(&["4"])),
            Target::Labels(vec![(2, 1.0)])
        );
        let unknown = label(&["x", "y"]);
        assert_eq!(targets.target(&unknown), Target::Unknown);
        assert!(!targets.learns(&unknown).unwrap() && targets.judges(&unknown, false).unwrap());

        // By words the share of the people counts, also for those whose answer is no label; judged is by the same scores.
        targets.raw_answers = false;
        targets.task.predicts = predicts(AnsweredBy::Words);
        assert_eq!(of(&targets), Target::Labels(vec![(0, 0.4), (1, 0.1)]));
        assert_eq!(targets.scores(&label(&answers)), [(0, 1.0), (1, 0.3)]);
    }

    #[test]
    fn a_label_that_is_none_is_an_error() {
        let class = Predicts::Class {
            classes: None,
            names: &[],
        };
        let targets = targets(class, &["cat", "dog"]);
        assert_eq!(
            targets.target(&label(&["dog"])),
            Target::Labels(vec![(1, 1.0)])
        );
        let error = targets.learns(&label(&["cow"])).unwrap_err();
        assert_eq!(error, "the label \"cow\" is none of \"cat\", \"dog\"");
        assert!(!targets.learns(&Label::default()).unwrap());
        assert!(targets.judges(&Label::default(), true).unwrap());
    }
}

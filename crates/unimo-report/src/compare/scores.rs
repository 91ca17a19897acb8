//! The scores of a run: what was evaluated when, on what, by which method.

use std::collections::BTreeSet;

use serde::Serialize;

use crate::interval::wilson;
use crate::record::{EvalRecord, RecallRecord, RunFolder};
use crate::sections::method_name;

/// When weights were evaluated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Moment {
    /// The best weights, when they were evaluated during training.
    Best,
    /// The weights after the last step that was evaluated.
    Last,
    /// Weights that `unimo eval` evaluated later.
    Later,
}

impl Moment {
    /// What is evaluated, for a heading.
    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Best => "Best weights",
            Self::Last => "Last weights",
            Self::Later => "By unimo eval",
        }
    }
}

/// What a number is of. Numbers of the same place can be compared.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Place {
    /// When it was evaluated.
    pub weights: Moment,
    /// Letter of the held-out data.
    pub held_out: String,
    /// The part of that data: its split, how much of it was drawn, and numbers of images and texts.
    pub set: String,
    /// The method or evaluator.
    pub by: String,
    /// The number's name.
    pub number: String,
}

/// A score of a run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Score {
    /// What it is of.
    #[serde(flatten)]
    pub place: Place,
    /// The step of the weights.
    pub step: u64,
    /// Its value.
    pub value: f64,
    /// What chance would reach, if that is known.
    pub chance: Option<f64>,
    /// Its confidence interval of 95%, from the number of samples alone, if it has one.
    pub interval: Option<[f64; 2]>,
    /// Whether it is a share, from 0 to 1.
    pub share: bool,
}

/// All scores of a run, in the order in which they were recorded.
pub(super) fn scores(folder: &RunFolder, letter: &str, best: Option<u64>) -> Vec<Score> {
    let last = folder.evals.iter().map(|eval| eval.step).max();
    let at = |step: u64| folder.evals.iter().filter(move |eval| eval.step == step);
    let mut all = Vec::new();
    for eval in best.into_iter().flat_map(at) {
        all.extend(of_record(eval, Moment::Best, letter));
    }
    for eval in last.into_iter().flat_map(at) {
        all.extend(of_record(eval, Moment::Last, letter));
    }
    // Of several evaluations of a set the one of the best weights counts, or the one of the latest.
    let mut later: Vec<&EvalRecord> = folder.later_evals.iter().collect();
    later.sort_by_key(|eval| (Some(eval.step) == best, eval.step));
    for eval in later.into_iter().rev() {
        all.extend(of_record(eval, Moment::Later, letter));
    }
    let mut seen = BTreeSet::new();
    all.retain(|score| seen.insert(score.place.clone()));
    all
}

/// Whether what `score` is of, `METHODS on SPLIT`, is the split of the record.
fn is_of_the_record(eval: &EvalRecord) -> bool {
    let scored = eval.scored.split_once(" on ");
    scored.is_some_and(|(_, split)| split == eval.split)
}

pub(super) fn of_record(eval: &EvalRecord, weights: Moment, letter: &str) -> Vec<Score> {
    let pool = match (eval.images, eval.texts) {
        (0, 0) => eval.split.clone(),
        (images, texts) => format!("{}: {images} images, {texts} texts", eval.split),
    };
    let score = |set: &str, by: &str, number: &str, value: f64| Score {
        place: Place {
            weights,
            held_out: letter.to_owned(),
            set: set.to_owned(),
            by: by.to_owned(),
            number: number.to_owned(),
        },
        step: eval.step,
        value,
        chance: None,
        interval: None,
        share: true,
    };
    let mut all = Vec::new();
    let chance = eval.chance.as_ref();
    if eval.is_retrieval()
        && let Some(value) = eval.scalar("retrieval.mean_recall")
    {
        // What the score is of may be less than what the record is of.
        let set = if eval.score.is_some() && !eval.scored.is_empty() {
            &eval.scored
        } else {
            &pool
        };
        let sum = |recall: &RecallRecord| recall.r1 + recall.r5 + recall.r10;
        let chance = chance.filter(|_| set == &pool || is_of_the_record(eval));
        all.push(Score {
            chance: chance.map(|c| (sum(&c.text_to_image) + sum(&c.image_to_text)) / 6.0),
            ..score(set, "retrieval", "mean recall", value)
        });
    }
    for method in &eval.retrieval {
        let by = method_name(&method.method);
        for (direction, recall, chance, queries) in [
            (
                "text → image",
                &method.text_to_image,
                chance.map(|chance| &chance.text_to_image),
                eval.texts,
            ),
            (
                "image → text",
                &method.image_to_text,
                chance.map(|chance| &chance.image_to_text),
                eval.images,
            ),
        ] {
            let at = |recall: &RecallRecord| [recall.r1, recall.r5, recall.r10];
            let chance = chance.map(at);
            for (rank, (name, value)) in ["R@1", "R@5", "R@10"]
                .into_iter()
                .zip(at(recall))
                .enumerate()
            {
                let interval = (queries > 0 && value.is_finite()).then(|| wilson(value, queries));
                all.push(Score {
                    chance: chance.map(|chance| chance[rank]),
                    interval: interval.map(|(from, to)| [from, to]),
                    ..score(&pool, &by, &format!("{direction} {name}"), value)
                });
            }
            all.push(Score {
                share: false,
                ..score(
                    &pool,
                    &by,
                    &format!("{direction} median rank"),
                    recall.median_rank,
                )
            });
        }
    }
    for (name, scalar) in &eval.scalars {
        all.push(Score {
            chance: scalar.chance,
            interval: scalar.interval,
            share: false,
            ..score(&pool, &eval.evaluator, name, scalar.value)
        });
    }
    all.retain(|score| score.value.is_finite());
    all
}

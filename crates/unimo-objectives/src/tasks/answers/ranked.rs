//! How likely answers are: questions are read once, word by word, and then the answers that may follow them.
//!
//! Shape legend: `B` questions, `C` candidates, `K` of them that are read whole, `V` vocabulary.

use std::collections::BTreeSet;

use burn::tensor::Tensor;
use burn::tensor::activation::log_softmax;
use unimo_core::kernels;
use unimo_encoders::backbone::Backbone;
use unimo_encoders::features::ImageFeatures;
use unimo_encoders::reading::{NextWords, Reading};

use super::Candidates;
use crate::labels::ints;
use crate::single_precision;
use crate::tied::TiedHead;

/// Answers that are read at once, which bounds the memory that their words' scores take.
const AT_ONCE: usize = 256;

/// What ranks answers.
pub(super) struct Ranker<'a> {
    pub backbone: &'a Backbone,
    pub head: &'a TiedHead,
    pub candidates: &'a Candidates,
    /// How many answers are read whole.
    pub shortlist: usize,
}

impl Ranker<'_> {
    /// The logarithm of the likelihood of each answer; `-inf` for those that are not read whole.
    ///
    /// # Shapes
    ///
    /// - questions: `B`, of one length
    /// - images: `B` rows
    /// - output: `B * C`
    pub fn scores(&self, questions: &[&[i32]], images: &ImageFeatures) -> Vec<f32> {
        let count = questions.len();
        let all: Vec<usize> = (0..count).collect();
        let mut reading = self.backbone.begin_reading(Some(images), count);
        let mut after = None;
        for at in 0..questions.first().map_or(0, |question| question.len()) {
            let words: Vec<i32> = questions.iter().map(|question| question[at]).collect();
            let next = NextWords {
                parents: &all,
                words: &words,
                per_image: 1,
            };
            after = Some(self.backbone.read_on(&mut reading, &next));
        }
        let Some(after) = after else {
            unreachable!("invariant: a question has begin and end tokens");
        };
        let answers = self.candidates.words().len();
        let firsts = self.first_words(after);
        let kept = self.shortlist.min(answers);
        let chosen: Vec<Vec<usize>> = firsts
            .chunks(answers)
            .map(|firsts| likeliest(firsts, kept))
            .collect();
        let mut scores = vec![f32::NEG_INFINITY; firsts.len()];
        for (question, chosen) in chosen.iter().enumerate() {
            for answer in chosen {
                let at = question * answers + answer;
                scores[at] = firsts[at];
            }
        }
        for questions in all.chunks((AT_ONCE / kept).max(1)) {
            self.read_answers(reading.clone(), questions, &chosen, &mut scores);
        }
        scores
    }

    /// The logarithm of the probability of each answer's first word.
    ///
    /// # Shapes
    ///
    /// - after: `[B, D]`, the states of the questions' last words
    /// - output: `B * C`
    fn first_words(&self, after: Tensor<2>) -> Vec<f32> {
        let first = |words: &Vec<i32>| words[0];
        let words: BTreeSet<i32> = self.candidates.words().iter().map(first).collect();
        let words: Vec<i32> = words.into_iter().collect();
        let places: Vec<usize> = self
            .candidates
            .words()
            .iter()
            .map(|answer| words.partition_point(|word| *word < answer[0]))
            .collect();
        let device = after.device();
        let scores = log_softmax(self.logits(after), 1);
        let scores = host(scores.select(1, ints(words.clone(), &device)));
        let each = scores.chunks(words.len());
        each.flat_map(|row| places.iter().map(|place| row[*place]))
            .collect()
    }

    /// Adds the words after the first one to the scores of these questions' chosen answers. All are read as far as the longest; what
    /// comes after an answer's end is not used.
    fn read_answers(
        &self,
        mut reading: Reading,
        questions: &[usize],
        chosen: &[Vec<usize>],
        scores: &mut [f32],
    ) {
        let all = self.candidates.words();
        let of = |question: &usize| {
            let question = *question;
            let answers = chosen[question].iter();
            answers.map(move |answer| (question, *answer))
        };
        let texts: Vec<(usize, usize)> = questions.iter().flat_map(of).collect();
        let longest = texts.iter().map(|(_, answer)| all[*answer].len()).max();
        let mut parents: Vec<usize> = texts.iter().map(|(question, _)| *question).collect();
        for at in 1..longest.unwrap_or(0) {
            let word = |at: usize| -> Vec<i32> {
                let word = |(_, answer): &(usize, usize)| {
                    let words = &all[*answer];
                    words[at.min(words.len() - 1)]
                };
                texts.iter().map(word).collect()
            };
            let words = word(at - 1);
            let next = NextWords {
                parents: &parents,
                words: &words,
                per_image: texts.len() / questions.len(),
            };
            let states = self.backbone.read_on(&mut reading, &next);
            let device = states.device();
            let losses = kernels::cross_entropy(self.logits(states), ints(word(at), &device));
            for ((question, answer), loss) in texts.iter().zip(host(losses)) {
                if at < all[*answer].len() {
                    scores[question * all.len() + answer] -= loss;
                }
            }
            parents = (0..texts.len()).collect();
        }
    }

    fn logits(&self, states: Tensor<2>) -> Tensor<2> {
        let table = self.backbone.text.word_embedding.weight.val();
        single_precision(self.head.logits(states, table))
    }
}

/// The indices of the `count` largest scores, the largest first, of equals the first.
fn likeliest(scores: &[f32], count: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_unstable_by(|a, b| scores[*b].total_cmp(&scores[*a]).then(a.cmp(b)));
    order.truncate(count);
    order
}

fn host<const D: usize>(x: Tensor<D>) -> Vec<f32> {
    let data = x.without_autodiff().into_data();
    data.convert::<f32>().iter::<f32>().collect()
}

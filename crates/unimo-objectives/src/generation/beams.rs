//! Beam search by either rule; with one beam it is greedy.

use super::{Generated, GenerationConfig, Hypothesis, LengthRule, Search, largest};

/// The beams of one image.
pub(super) struct Beams {
    /// How many are kept.
    count: usize,
    rule: LengthRule,
    penalty: f64,
    max_length: usize,
    end: i32,
    running: Vec<Hypothesis>,
    /// The best finished texts, the best first, `count` at most.
    finished: Vec<Finished>,
}

struct Finished {
    text: Hypothesis,
    score: f64,
}

impl Beams {
    pub(super) fn new(config: &GenerationConfig, end: i32) -> Self {
        Self {
            count: config.beams,
            rule: config.rule,
            penalty: config.length_penalty,
            max_length: config.max_length,
            end,
            running: vec![Hypothesis::default()],
            finished: Vec::new(),
        }
    }

    fn score(&self, text: &Hypothesis) -> f64 {
        self.rule.score(text.sum, text.tokens.len(), self.penalty)
    }

    /// Adds a finished text behind those that are as good.
    fn finish(&mut self, text: Hypothesis) {
        let score = self.score(&text);
        let at = self.finished.partition_point(|other| other.score >= score);
        self.finished.insert(at, Finished { text, score });
        self.finished.truncate(self.count);
    }

    /// The `count` likeliest texts that are one word longer, each with the number of the text that it goes on with.
    fn longer(&self, scores: &[Vec<f32>], count: usize) -> Vec<(usize, Hypothesis)> {
        let width = scores.first().map_or(0, Vec::len);
        let each = self.running.iter().zip(scores);
        let sums: Vec<f64> = each
            .flat_map(|(text, scores)| scores.iter().map(|score| text.sum + f64::from(*score)))
            .collect();
        let best = largest(&sums, count).into_iter();
        best.map(|at| {
            let (parent, word) = (at / width, at % width);
            let text = self.running[parent].followed_by(word as i32, sums[at]);
            (parent, text)
        })
        .collect()
    }

    /// One step of transformers' beam search. A text can finish only if it is among the `count` likeliest; `count` further ones are
    /// looked at so that as many go on.
    fn step_finished(&mut self, scores: &[Vec<f32>]) -> Vec<(usize, Hypothesis)> {
        let mut running = Vec::new();
        for (rank, (parent, text)) in self.longer(scores, 2 * self.count).into_iter().enumerate() {
            let ends = text.tokens.last() == Some(&self.end);
            if !ends && text.tokens.len() < self.max_length {
                running.push((parent, text));
            } else if rank < self.count {
                self.finish(text);
            }
        }
        running.truncate(self.count);
        // Whether an unfinished text, as long as it is now, is better than the worst finished one.
        let best = running.first().map(|(_, text)| self.score(text));
        let worst = self.finished.last().map(|text| text.score);
        let full = self.finished.len() == self.count;
        let hopeless = full && best.zip(worst).is_some_and(|(best, worst)| best <= worst);
        if hopeless { Vec::new() } else { running }
    }

    /// One step of UNIMO-2's: finished and unfinished texts compete for the same places.
    fn step_every(&mut self, scores: &[Vec<f32>]) -> Vec<(usize, Hypothesis)> {
        let mut all: Vec<(Option<usize>, Hypothesis, f64)> = std::mem::take(&mut self.finished)
            .into_iter()
            .map(|finished| (None, finished.text, finished.score))
            .collect();
        for (parent, text) in self.longer(scores, self.count) {
            let score = self.score(&text);
            all.push((Some(parent), text, score));
        }
        all.sort_by(|(_, _, a), (_, _, b)| b.total_cmp(a));
        all.truncate(self.count);
        let mut running = Vec::new();
        for (parent, text, score) in all {
            let ends = text.tokens.last() == Some(&self.end);
            match parent {
                Some(parent) if !ends && text.tokens.len() < self.max_length => {
                    running.push((parent, text));
                }
                _ => self.finished.push(Finished { text, score }),
            }
        }
        running
    }
}

impl Search for Beams {
    fn texts(&self) -> &[Hypothesis] {
        &self.running
    }

    fn step(&mut self, scores: &[Vec<f32>], parents: &mut Vec<usize>) {
        let longer = match self.rule {
            LengthRule::Finished => self.step_finished(scores),
            LengthRule::EveryStep => self.step_every(scores),
        };
        if longer.is_empty() && self.finished.is_empty() {
            // Every word is forbidden: what there is stays as it is.
            return;
        }
        let running;
        (*parents, running) = longer.into_iter().unzip();
        self.running = running;
    }

    fn best(self: Box<Self>) -> Generated {
        let end = self.end;
        let (rule, penalty) = (self.rule, self.penalty);
        let Self {
            finished, running, ..
        } = *self;
        let best = finished.into_iter().next().unwrap_or_else(|| {
            let text = running.into_iter().next().unwrap_or_default();
            let score = rule.score(text.sum, text.tokens.len().max(1), penalty);
            Finished { text, score }
        });
        best.text.generated(best.score, end)
    }
}

impl Hypothesis {
    /// The text without its end token.
    pub(super) fn generated(mut self, score: f64, end: i32) -> Generated {
        let ended = self.tokens.last() == Some(&end);
        if ended {
            self.tokens.pop();
        }
        Generated {
            tokens: self.tokens,
            score,
            ended,
        }
    }
}

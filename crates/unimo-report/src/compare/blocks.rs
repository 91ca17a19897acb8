//! Scores arranged as tables: one for each method on each set, with a column for each number.

use super::Comparison;
use super::scores::{Moment, Place, Score};
use super::statistics::{Aggregate, Paired};

/// Scores that belong into one table.
pub(super) struct Block<'a> {
    comparison: &'a Comparison,
    /// The place of its first number.
    place: &'a Place,
    /// The numbers, in order of appearance.
    pub numbers: Vec<&'a str>,
}

/// The tables of a comparison.
pub(super) fn blocks(comparison: &Comparison) -> Vec<Block<'_>> {
    let mut all: Vec<Block<'_>> = Vec::new();
    for score in comparison.runs.iter().flat_map(|run| &run.scores) {
        let place = &score.place;
        match all.iter_mut().find(|block| block.has(place)) {
            Some(block) if block.numbers.contains(&&*place.number) => {}
            Some(block) => block.numbers.push(&place.number),
            None => all.push(Block {
                comparison,
                place,
                numbers: vec![&place.number],
            }),
        }
    }
    all.sort_by_key(|block| (block.place.weights, block.place.held_out.clone()));
    all
}

impl<'a> Block<'a> {
    fn has(&self, place: &Place) -> bool {
        let key = |place: &'_ Place| {
            let Place {
                weights,
                held_out,
                set,
                by,
                ..
            } = place.clone();
            (weights, held_out, set, by)
        };
        key(self.place) == key(place)
    }

    fn is(&self, place: &Place, number: &str) -> bool {
        place.number == number && self.has(place)
    }

    /// Which weights, which method, on what.
    pub(super) fn title(&self) -> String {
        let Place {
            weights,
            held_out,
            set,
            by,
            ..
        } = self.place;
        let data = if self
            .comparison
            .runs
            .iter()
            .all(|run| run.held_out == *held_out)
        {
            String::new()
        } else {
            format!("data {held_out}, ")
        };
        let weights = match weights {
            // One evaluation is both where no run was better before its end.
            Moment::Best if self.comparison.best_is_last => "Best weights, which are the last",
            weights => weights.title(),
        };
        format!("{weights} · {by} · {data}{set}")
    }

    /// A run's score.
    pub(super) fn score(&self, run: usize, number: &str) -> Option<&'a Score> {
        let scores = &self.comparison.runs[run].scores;
        scores.iter().find(|score| self.is(&score.place, number))
    }

    /// What chance reaches, the same for all runs.
    pub(super) fn chance(&self, number: &str) -> Option<f64> {
        let runs = 0..self.comparison.runs.len();
        runs.filter_map(|run| self.score(run, number)?.chance)
            .next()
    }

    /// Mean and deviation of a set-up.
    pub(super) fn aggregate(&self, setup: &str, number: &str) -> Option<&'a Aggregate> {
        let mut all = self.comparison.aggregates.iter();
        all.find(|aggregate| aggregate.setup == setup && self.is(&aggregate.place, number))
    }

    /// The pairs of set-ups with a difference in some number.
    pub(super) fn pairs(&self) -> Vec<(&'a str, &'a str)> {
        let own = self.comparison.paired.iter();
        let own = own.filter(|paired| self.has(&paired.place));
        let mut pairs: Vec<(&str, &str)> = own.map(|p| (&*p.setup, &*p.minus)).collect();
        pairs.dedup();
        pairs
    }

    /// The difference between two set-ups.
    pub(super) fn paired(&self, (setup, minus): (&str, &str), number: &str) -> Option<&'a Paired> {
        let mut all = self.comparison.paired.iter();
        all.find(|paired| {
            paired.setup == setup && paired.minus == minus && self.is(&paired.place, number)
        })
    }
}

/// A value with the digits of a table: shares in per cent.
pub(super) fn value(value: f64, share: bool) -> String {
    if share {
        format!("{:.2}", 100.0 * value)
    } else {
        crate::numbers::number(value)
    }
}

/// A value with its sign.
pub(super) fn signed(number: f64, share: bool) -> String {
    let text = value(number, share);
    if number > 0.0 {
        format!("+{text}")
    } else {
        text
    }
}

/// Mean and deviation: `12.34 ± 0.56 (n 3)`.
pub(super) fn spread(mean: String, deviation: Option<f64>, n: usize, share: bool) -> String {
    match deviation {
        Some(deviation) => format!("{mean} ± {} (n {n})", value(deviation, share)),
        None => format!("{mean} (n {n})"),
    }
}

/// The interval of a score: `[10.00, 14.70]`.
pub(super) fn interval(score: &Score) -> String {
    match score.interval {
        Some([from, to]) => format!("[{}, {}]", value(from, score.share), value(to, score.share)),
        None => String::new(),
    }
}

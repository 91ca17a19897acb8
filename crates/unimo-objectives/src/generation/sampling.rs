//! Words drawn at random.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{Generated, GenerationConfig, Hypothesis, SamplingConfig, Search, largest};

/// A caption of one image that is drawn word by word.
pub(super) struct Drawn {
    config: GenerationConfig,
    sampling: SamplingConfig,
    end: i32,
    text: [Hypothesis; 1],
    rng: ChaCha8Rng,
}

impl Drawn {
    pub(super) fn new(
        config: &GenerationConfig,
        sampling: &SamplingConfig,
        end: i32,
        stream: u64,
    ) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(sampling.seed);
        rng.set_stream(stream);
        Self {
            config: config.clone(),
            sampling: sampling.clone(),
            end,
            text: [Hypothesis::default()],
            rng,
        }
    }
}

/// The words that may be drawn with their probabilities, the likeliest first.
fn choices(scores: &[f32], sampling: &SamplingConfig) -> Vec<(usize, f64)> {
    let tempered: Vec<f64> = scores
        .iter()
        .map(|score| f64::from(*score) / sampling.temperature)
        .collect();
    let count = match sampling.top_k {
        0 => tempered.len(),
        count => count,
    };
    let words = largest(&tempered, count);
    let highest = words.first().map_or(0.0, |word| tempered[*word]);
    let mut shares: Vec<(usize, f64)> = words
        .into_iter()
        .map(|word| (word, (tempered[word] - highest).exp()))
        .collect();
    let total: f64 = shares.iter().map(|(_, share)| share).sum();
    let mut reached = 0.0;
    // The word that reaches `top_p` is the last one.
    let kept = shares.iter().take_while(|(_, share)| {
        let goes_on = reached < sampling.top_p;
        reached += share / total;
        goes_on
    });
    let kept = kept.count();
    shares.truncate(kept);
    let total: f64 = shares.iter().map(|(_, share)| share).sum();
    let part = |(word, share)| (word, share / total);
    shares.into_iter().map(part).collect()
}

impl Search for Drawn {
    fn texts(&self) -> &[Hypothesis] {
        &self.text
    }

    fn step(&mut self, scores: &[Vec<f32>], parents: &mut Vec<usize>) {
        let choices = choices(&scores[0], &self.sampling);
        let mut left: f64 = self.rng.random();
        let drawn = choices.iter().find(|(_, share)| {
            left -= share;
            left < 0.0
        });
        // Rounding may leave a little of 1 behind the last word; if every word is forbidden, there is none.
        let Some((word, _)) = drawn.or(choices.last()) else {
            return;
        };
        let sum = self.text[0].sum + f64::from(scores[0][*word]);
        self.text[0] = self.text[0].followed_by(*word as i32, sum);
        let ended = *word as i32 == self.end;
        if !ended && self.text[0].tokens.len() < self.config.max_length {
            parents.push(0);
        }
    }

    fn best(self: Box<Self>) -> Generated {
        let [text] = self.text;
        let length = text.tokens.len().max(1);
        let penalty = self.config.length_penalty;
        let score = self.config.rule.score(text.sum, length, penalty);
        text.generated(score, self.end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sampling(temperature: f64, top_k: usize, top_p: f64) -> SamplingConfig {
        SamplingConfig {
            temperature,
            top_k,
            top_p,
            seed: 0,
        }
    }

    /// The shares 1/2, 1/4, 1/8, 1/8, and one word that is forbidden.
    fn scores() -> Vec<f32> {
        let of = |share: f32| share.ln();
        vec![of(0.25), f32::NEG_INFINITY, of(0.5), of(0.125), of(0.125)]
    }

    fn near(choices: &[(usize, f64)], expected: &[(usize, f64)]) {
        assert_eq!(choices.len(), expected.len(), "{choices:?}");
        for ((word, share), (wanted, of)) in choices.iter().zip(expected) {
            assert!(word == wanted && (share - of).abs() < 1e-6, "{choices:?}");
        }
    }

    #[test]
    fn the_likeliest_words_share_what_the_others_leave() {
        let of =
            |temperature, top_k, top_p| choices(&scores(), &sampling(temperature, top_k, top_p));
        near(
            &of(1.0, 0, 1.0),
            &[(2, 0.5), (0, 0.25), (3, 0.125), (4, 0.125)],
        );
        near(&of(1.0, 2, 1.0), &[(2, 2.0 / 3.0), (0, 1.0 / 3.0)]);
        near(&of(1.0, 0, 0.5), &[(2, 1.0)]);
        near(&of(1.0, 0, 0.51), &[(2, 2.0 / 3.0), (0, 1.0 / 3.0)]);
        // Half the temperature squares the shares.
        near(&of(0.5, 2, 1.0), &[(2, 0.8), (0, 0.2)]);
    }

    /// Four thousand draws of one word: the shares are met within four standard deviations.
    #[test]
    fn words_are_drawn_by_their_shares() {
        const DRAWS: u64 = 4000;
        let config = GenerationConfig {
            beams: 1,
            max_length: 1,
            ..GenerationConfig::default()
        };
        let mut counts = [0.0; 5];
        for stream in 0..DRAWS {
            let mut drawn = Drawn::new(&config, &sampling(1.0, 0, 1.0), 9, stream);
            drawn.step(&[scores()], &mut Vec::new());
            counts[drawn.text[0].tokens[0] as usize] += 1.0;
        }
        for (count, share) in counts.into_iter().zip([0.25, 0.0, 0.5, 0.125, 0.125]) {
            let (mean, variance) = (DRAWS as f64 * share, DRAWS as f64 * share * (1.0 - share));
            assert!((count - mean).abs() <= 4.0 * variance.sqrt(), "{counts:?}");
        }
    }
}

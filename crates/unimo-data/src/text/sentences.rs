//! Two sentences or texts as one text: what stands between them, and how they are cut.

use tokenizers::{Encoding, Token, Tokenizer};
use unimo_batch::{JoinForm, MaskedTexts};

/// How two sentences are put together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PairForm {
    /// The ids between them: `[SEP]` (BERT), `</s></s>` (RoBERTa).
    pub(super) between: Vec<i32>,
    /// The type of the second sentence and of the end token: 1 (BERT) or 0.
    pub(super) second: i32,
}

impl PairForm {
    /// The form that a vocabulary's own rules give two sentences. Without rules, that of BERT if a text begins with `[CLS]`, else
    /// RoBERTa's.
    pub(super) fn of(inner: &Tokenizer, (begin, end): (i32, i32)) -> Self {
        /// Ids that no vocabulary has.
        const SENTENCES: [u32; 2] = [u32::MAX - 1, u32::MAX - 2];
        let sentence = |id: u32| {
            let token = Token::new(id, String::new(), (0, 0));
            Encoding::from_tokens(vec![token], 0)
        };
        let [first, second] = SENTENCES.map(sentence);
        let whole = inner.post_process(first, Some(second), true).ok();
        let found = whole.and_then(|whole| {
            let ids = whole.get_ids();
            let at = SENTENCES.map(|id| ids.iter().position(|own| *own == id));
            let [Some(a), Some(b)] = at else {
                return None;
            };
            let between: Vec<i32> = ids.get(a + 1..b)?.iter().map(|id| *id as i32).collect();
            let second = *whole.get_type_ids().get(b)? as i32;
            (!between.is_empty()).then_some(Self { between, second })
        });
        let is_bert = inner.token_to_id("[CLS]") == u32::try_from(begin).ok();
        found.unwrap_or(Self {
            between: vec![end; if is_bert { 1 } else { 2 }],
            second: i32::from(is_bert),
        })
    }
}

/// What becomes of two texts, each between begin and end tokens, in one that joins them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seam {
    /// Leading tokens of the first text that stay.
    kept: usize,
    /// The ids between both.
    between: Vec<i32>,
    /// Leading tokens of the second text that are left out.
    dropped: usize,
    /// Whether the second part is of type 1.
    marked: bool,
}

impl Seam {
    /// The seam behind a first text of `length` tokens.
    pub(super) fn new(form: JoinForm, pair: &PairForm, length: usize) -> Self {
        let (kept, between, dropped) = match form {
            JoinForm::Vocabulary => (length.saturating_sub(1), pair.between.clone(), 1),
            JoinForm::OneBegin => (length, Vec::new(), 1),
            JoinForm::TwoBegins => (length, Vec::new(), 0),
        };
        Self {
            kept,
            between,
            dropped,
            marked: pair.second != 0,
        }
    }

    /// Where the second part begins.
    pub(crate) fn second(&self) -> usize {
        self.kept + self.between.len()
    }

    fn both<T: Copy>(&self, first: &[T], second: &[T], between: impl Iterator<Item = T>) -> Vec<T> {
        let first = first.iter().take(self.kept).copied();
        let second = second.iter().skip(self.dropped).copied();
        first.chain(between).chain(second).collect()
    }

    /// Ids of both as those of one text.
    pub(crate) fn ids(&self, first: &[i32], second: &[i32]) -> Vec<i32> {
        self.both(first, second, self.between.iter().copied())
    }

    /// Labels of both as those of one text; what stands between has none.
    pub(crate) fn labels(&self, first: &[i32], second: &[i32]) -> Vec<i32> {
        let between = self.between.iter().map(|_| MaskedTexts::IGNORE);
        self.both(first, second, between)
    }

    /// Words of both as those of one text. Words of the second part are other words than those of the first.
    pub(super) fn words(&self, first: &[Option<u32>], second: &[Option<u32>]) -> Vec<Option<u32>> {
        let last = first.iter().flatten().max();
        let words = last.map_or(0, |last| last + 1);
        let moved = second.iter().map(|word| Some((*word)? + words));
        let moved: Vec<Option<u32>> = moved.collect();
        self.both(first, &moved, self.between.iter().map(|_| None))
    }

    /// Number of leading tokens of type 0 in a joined text of `length` tokens.
    pub(super) fn first(&self, length: usize) -> usize {
        if self.marked { self.second() } else { length }
    }
}

/// How many tokens of each of two sentences fit into `room`: the longer one is cut first, then both are cut to one half each.
pub(super) fn longest_first((first, second): (usize, usize), room: usize) -> (usize, usize) {
    if first + second <= room {
        return (first, second);
    }
    let (shorter, longer) = (first.min(second), first.max(second));
    let half = room / 2;
    let (shorter, longer) = if shorter <= half {
        (shorter, longer.min(room - shorter))
    } else {
        (half, room - half)
    };
    if first <= second {
        (shorter, longer)
    } else {
        (longer, shorter)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longer_sentence_is_cut_first() {
        assert_eq!(longest_first((3, 4), 7), (3, 4));
        assert_eq!(longest_first((9, 3), 7), (4, 3));
        assert_eq!(longest_first((3, 9), 7), (3, 4));
        assert_eq!(longest_first((9, 9), 7), (3, 4));
        assert_eq!(longest_first((8, 9), 7), (3, 4));
        assert_eq!(longest_first((5, 0), 0), (0, 0));
    }
}

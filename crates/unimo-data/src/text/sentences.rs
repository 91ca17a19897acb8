//! Two sentences as one text: what stands between them, and how they are cut.

use tokenizers::{Encoding, Token, Tokenizer};

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

//! Captions and their translations as one text each.

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use unimo_batch::{JoinPositions, MaskedTexts, Texts};

use crate::loader::spec::{Joining, LoaderSpec};
use crate::order::draws::{Stream, hash};
use crate::text::masking::Masker;
use crate::text::masking::aligned::Spaced;
use crate::text::sentences::Seam;
use crate::text::tokens::Encoded;

/// A caption and its translation, of the sample at a position.
pub(super) struct Parts {
    pub position: u64,
    pub first: Encoded,
    pub second: Encoded,
    /// Which of their words stand for each other, if words are hidden by it.
    pub aligned: Option<AlignedWords>,
    /// The tags of their languages; empty: not known.
    pub languages: [String; 2],
}

/// Words of two texts that stand for each other.
pub(super) struct AlignedWords {
    /// For each token of both texts, its word.
    pub words: [Vec<Option<u32>>; 2],
    /// Pairs of a word of the first and a word of the second.
    pub pairs: Vec<(u32, u32)>,
}

/// Makes the joined texts of a batch.
///
/// # Shapes
///
/// `B` pairs to ids `[B, L]`.
pub(super) fn texts(
    spec: &LoaderSpec,
    joining: Joining,
    masker: Option<&Masker>,
    parts: &[Parts],
) -> Texts {
    let tokenizer = &spec.tokenizer;
    let seams: Vec<Seam> = parts
        .iter()
        .map(|parts| tokenizer.seam(joining.spec.form, &parts.first))
        .collect();
    let both = || parts.iter().zip(&seams);
    let joined: Vec<Encoded> = both()
        .map(|(parts, seam)| parts.first.joined(&parts.second, seam))
        .collect();
    let mut texts = tokenizer.pad(&joined, 2 * spec.max_text_length, spec.pad);
    if joining.spec.positions == JoinPositions::Restart {
        texts.restarts = seams.iter().map(Seam::second).collect();
    }
    texts.masked = masker.map(|masker| {
        let mut masked = MaskedTexts::default();
        for (parts, seam) in both() {
            let [first, second] = hidden(spec.seed, masker, parts);
            masked.ids.extend(seam.ids(&first.0, &second.0));
            masked.labels.extend(seam.labels(&first.1, &second.1));
            let length = masked.ids.len().next_multiple_of(texts.length.max(1));
            masked.ids.resize(length, tokenizer.specials().pad);
            masked.labels.resize(length, MaskedTexts::IGNORE);
        }
        masked
    });
    texts
}

/// Ids that the model reads and labels that it predicts.
type Hidden = (Vec<i32>, Vec<i32>);

/// Hides words of both parts. Each part is a text of its own to the rule, so that at least one word of each is hidden; but a rule of aligned
/// words sees both.
fn hidden(seed: u64, masker: &Masker, parts: &Parts) -> [Hidden; 2] {
    if let Some(aligned) = &parts.aligned {
        let draw = hash(Stream::Joined, &[seed, parts.position]);
        let [first, second] = &aligned.words;
        let texts = [(&parts.first, first), (&parts.second, second)];
        let texts = texts.map(|(text, words)| Spaced { text, words });
        let mut random = ChaCha8Rng::seed_from_u64(draw);
        return masker.apply_aligned(texts, &aligned.pairs, &mut random);
    }
    let of = |part: u64, text: &Encoded| {
        masker.apply(text, hash(Stream::Joined, &[seed, parts.position, part]))
    };
    [of(0, &parts.first), of(1, &parts.second)]
}

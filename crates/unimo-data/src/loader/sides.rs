//! The two sides of a contrast of translations: texts, and what they are compared with.
//!
//! Source: InfoXLM's mixup contrast. There, four lines of a file are two pairs. Here, the second pair of a row is another row of its batch,
//! a drawn number of rows behind it, so that a batch of `B` pairs gives `B` rows.

use unimo_batch::{JoinForm, SidesSpec, Texts};

use crate::loader::joined::Parts;
use crate::loader::spec::LoaderSpec;
use crate::order::draws::{Stream, below, hash};
use crate::text::masking::Masker;
use crate::text::tokens::Encoded;

/// A text and its translation.
type Lines = [Encoded; 2];

/// What is drawn: of a batch, how far the second pair of a row is; of a row, the mode of its mixup.
const DISTANCE: u64 = 2;
const MODE: u64 = 3;
/// Bits of a mode: the two texts change places, the two translations do, and both sides.
const MODES: usize = 8;

/// The queries and the keys of a batch.
///
/// # Shapes
///
/// `B` pairs to ids `[B, L]` and `[B, L']`.
pub(super) fn texts(
    spec: &LoaderSpec,
    sides: SidesSpec,
    masker: Option<&Masker>,
    parts: &[Parts],
) -> [Texts; 2] {
    let lines: Vec<Lines> = parts.iter().map(|of| read(spec.seed, masker, of)).collect();
    let distance = distance(spec.seed, parts);
    let rows = (0..parts.len()).map(|row| {
        if !sides.mixup {
            return lines[row].clone();
        }
        let other = (row + distance) % parts.len();
        // Each side is in one language where both pairs are of the same two.
        let turned = parts[row].languages[0] == parts[other].languages[1];
        let turned = turned && parts[row].languages[0] != parts[row].languages[1];
        let [first, second] = lines[other].clone();
        let other = if turned {
            [second, first]
        } else {
            [first, second]
        };
        let mode = below(
            hash(Stream::Sides, &[spec.seed, parts[row].position, MODE]),
            MODES,
        );
        mixed(spec, mode, [lines[row].clone(), other])
    });
    let (queries, keys): (Vec<_>, Vec<_>) = rows.map(|[query, key]| (query, key)).unzip();
    let longest = spec.max_text_length * if sides.mixup { 2 } else { 1 };
    [queries, keys].map(|side| spec.tokenizer.pad(&side, longest, spec.pad))
}

/// Both texts of a pair as the model reads them.
fn read(seed: u64, masker: Option<&Masker>, parts: &Parts) -> Lines {
    let of = |part: u64, text: &Encoded| match masker {
        None => text.clone(),
        Some(masker) => {
            let draw = hash(Stream::Sides, &[seed, parts.position, part]);
            let (ids, _) = masker.apply(text, draw);
            Encoded {
                ids,
                ..text.clone()
            }
        }
    };
    [of(0, &parts.first), of(1, &parts.second)]
}

/// How many rows behind a row its second pair is.
fn distance(seed: u64, parts: &[Parts]) -> usize {
    let first = parts.first().map_or(0, |parts| parts.position);
    let others = parts.len().saturating_sub(1);
    1 + below(hash(Stream::Sides, &[seed, first, DISTANCE]), others)
}

/// Two pairs as one: the texts of both with the translations of both.
fn mixed(spec: &LoaderSpec, mode: usize, [one, other]: [Lines; 2]) -> Lines {
    let tokenizer = &spec.tokenizer;
    let join = |[first, second]: [&Encoded; 2]| {
        first.joined(second, &tokenizer.seam(JoinForm::OneBegin, first))
    };
    let order = |bit: usize, side: usize| {
        if mode & bit == 0 {
            [&one[side], &other[side]]
        } else {
            [&other[side], &one[side]]
        }
    };
    let (query, key) = (join(order(1, 0)), join(order(2, 1)));
    if mode & 4 == 0 {
        [query, key]
    } else {
        [key, query]
    }
}

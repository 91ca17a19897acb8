//! How the codes of a grounded dictionary are used: how evenly, by which modality, and by which patches and words.
//!
//! Every patch and every word of some held-out pairs chooses its most similar code. In addition, each pair has the codes of its
//! grounded tokens.

use std::collections::BTreeMap;

use burn::tensor::{Int, Tensor};
use unimo_data::{EvalSet, TextTokenizer};
use unimo_encoders::features::{ImageFeatures, TextFeatures};
use unimo_encoders::image::ImageEncoder;
use unimo_encoders::output::Keep;
use unimo_report::record::{ChosenWord, CodeRecord, CodesRecord};

use crate::error::TrainError;
use crate::files;
use crate::model::Model;
use crate::recipe::Recipe;
use crate::run::RunFolder;

/// Number of pairs that are inspected.
pub const PAIRS: usize = 256;
/// Number of codes that are shown, with this many patches and words each.
const SHOWN: usize = 12;
const PATCHES_SHOWN: usize = 6;
const WORDS_SHOWN: usize = 5;
/// Side of a patch in the report, in pixels.
const PATCH_SIDE: u32 = 48;

/// A patch of a held-out image, or a region, as the only row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Patch {
    image: usize,
    row: usize,
    column: usize,
}

/// How codes are used, and where the patches are that the report shows.
#[derive(Debug, Clone)]
pub struct Codes {
    record: CodesRecord,
    patches: Vec<Vec<Patch>>,
    /// Patches along each side; 0 if images are known by regions.
    grid: usize,
}

/// Uses of the codes, accumulated over batches.
#[derive(Debug, Default)]
struct Uses {
    given: Vec<u64>,
    patches: BTreeMap<usize, Vec<Patch>>,
    words: BTreeMap<usize, BTreeMap<String, u64>>,
    pairs: usize,
}

/// Counts how pairs use the codes; `None` if the model has no dictionary. `pairs` gives the features of a range of pairs, with each
/// pair's image and caption.
pub(crate) fn codes(
    model: &Model,
    set: &EvalSet,
    tokenizer: &TextTokenizer,
    recipe: &Recipe,
    mut features: impl FnMut(&[(usize, usize)]) -> Result<(TextFeatures, ImageFeatures), TrainError>,
) -> Option<Result<Codes, TrainError>> {
    let joint = model.backbone.joint.as_ref()?;
    let quantiser = joint.quantiser.as_ref()?;
    // If images are known by regions, no patch is shown.
    let grid = model.backbone.image.as_ref().map_or(0, ImageEncoder::grid);
    let mut uses = Uses {
        given: vec![0; quantiser.config.codes],
        ..Uses::default()
    };
    let all: Vec<(usize, usize)> = set
        .captions()
        .iter()
        .enumerate()
        .map(|(text, caption)| (text, caption.image))
        .take(PAIRS)
        .collect();
    for pairs in all.chunks(recipe.eval.batch_size) {
        let (texts, images) = match features(pairs) {
            Ok(features) => features,
            Err(error) => return Some(Err(error)),
        };
        let fused = model.backbone.fuse(&texts, &images, Keep::Nothing);
        let grounded = fused.grounded?;
        let none: Vec<bool> = match &grounded.quantised.hidden {
            Some(hidden) => hidden.hidden().into_data().iter::<bool>().collect(),
            None => Vec::new(),
        };
        for (at, code) in whole(grounded.quantised.codes).into_iter().enumerate() {
            if !none.get(at).is_some_and(|none| *none) {
                uses.given[code] += 1;
            }
        }
        let image = images.states.last()?.clone();
        let positions = image.dims()[1];
        let count = match (grid, set.source().region_shape()) {
            (0, shape) => shape?.most,
            (grid, _) => grid * grid,
        };
        let columns = if grid == 0 { count } else { grid };
        let first = positions - count;
        let padding: Vec<bool> = match &images.mask {
            Some(mask) => {
                let hidden = mask.narrow(first, count).hidden();
                hidden.into_data().iter::<bool>().collect()
            }
            None => Vec::new(),
        };
        let patches = quantiser.nearest_codes(image.narrow(1, first, count));
        for (at, code) in whole(patches).into_iter().enumerate() {
            if padding.get(at).is_some_and(|none| *none) {
                continue;
            }
            let (pair, patch) = (at / count, at % count);
            uses.patches.entry(code).or_default().push(Patch {
                image: pairs[pair].1,
                row: patch / columns,
                column: patch % columns,
            });
        }
        let text = texts.states.last()?.clone();
        let [_, length, _] = text.dims();
        let words = whole(quantiser.nearest_codes(text));
        for (pair, (caption, _)) in pairs.iter().enumerate() {
            let encoded = set.encode(*caption, tokenizer, recipe.data.max_text_length);
            let encoded = match encoded {
                Ok(encoded) => encoded,
                Err(error) => return Some(Err(error.into())),
            };
            // Begin and end tokens are left out.
            for at in 1..encoded.ids.len().saturating_sub(1) {
                let word = tokenizer.decode(&encoded.ids[at..=at]).trim().to_owned();
                let of_code = uses.words.entry(words[pair * length + at]).or_default();
                *of_code.entry(word).or_default() += 1;
            }
        }
        uses.pairs += pairs.len();
    }
    Some(Ok(uses.summary(quantiser.config.tokens, grid)))
}

impl Uses {
    fn summary(self, tokens: usize, grid: usize) -> Codes {
        let total: u64 = self.given.iter().sum();
        let entropy: f64 = self
            .given
            .iter()
            .filter(|count| **count > 0)
            .map(|count| {
                let share = *count as f64 / total.max(1) as f64;
                -share * share.ln()
            })
            .sum();
        let by_patches: Vec<usize> = self.patches.keys().copied().collect();
        let by_words: Vec<usize> = self.words.keys().copied().collect();
        let both = by_patches.iter().filter(|c| by_words.contains(c)).count();
        let used = by_patches.len() + by_words.len() - both;
        let word_count = |code: usize| -> u64 {
            let words = self.words.get(&code).into_iter();
            words.flat_map(BTreeMap::values).sum()
        };
        let patch_count =
            |code: usize| -> u64 { self.patches.get(&code).map_or(0, |p| p.len() as u64) };
        // Codes that both modalities choose come first: they are the purpose of the dictionary.
        let mut order: Vec<usize> = (0..self.given.len())
            .filter(|code| word_count(*code) + patch_count(*code) > 0)
            .collect();
        order.sort_by_key(|code| {
            let (words, patches) = (word_count(*code), patch_count(*code));
            std::cmp::Reverse((words.min(patches), words + patches))
        });
        order.truncate(SHOWN);
        let mut shown = Vec::new();
        let mut patches = Vec::new();
        for code in order {
            let mut words: Vec<ChosenWord> = self
                .words
                .get(&code)
                .into_iter()
                .flatten()
                .map(|(word, count)| ChosenWord {
                    word: word.clone(),
                    count: *count,
                })
                .collect();
            words.sort_by(|a, b| b.count.cmp(&a.count).then(a.word.cmp(&b.word)));
            words.truncate(WORDS_SHOWN);
            let all = self.patches.get(&code).map_or(&[][..], Vec::as_slice);
            // Spread over the images, whose patches are in order.
            let count = all.len().min(PATCHES_SHOWN);
            patches.push((0..count).map(|i| all[i * all.len() / count]).collect());
            shown.push(CodeRecord {
                code: code as u64,
                patches: patch_count(code),
                words: word_count(code),
                chosen_by: words,
                pictures: Vec::new(),
            });
        }
        Codes {
            record: CodesRecord {
                pairs: self.pairs as u64,
                codes: self.given.len() as u64,
                tokens: tokens as u64,
                perplexity: entropy.exp(),
                dead: self.given.iter().filter(|count| **count == 0).count() as u64,
                by_patches: by_patches.len() as u64,
                by_words: by_words.len() as u64,
                shared: both as f64 / used.max(1) as f64,
                shown,
            },
            patches,
            grid,
        }
    }
}

impl Codes {
    /// Writes `codes.json` and the images of patches next to it.
    pub(crate) fn write(&self, run: &RunFolder, set: &EvalSet) -> Result<(), TrainError> {
        let folder = run.join("codes");
        std::fs::create_dir_all(&folder).map_err(TrainError::file("create", &folder))?;
        let mut record = self.record.clone();
        for (number, (shown, patches)) in record.shown.iter_mut().zip(&self.patches).enumerate() {
            let patches = patches.iter().filter(|_| self.grid > 0);
            for (index, patch) in patches.enumerate() {
                let Some(picture) = set.picture(patch.image)? else {
                    continue;
                };
                let square = set
                    .image_spec()
                    .square(&picture)
                    .map_err(TrainError::Check)?;
                // With its surroundings, without which nobody could tell what it shows.
                let side = square.width() as usize / self.grid;
                let (x, y) = (patch.column * side, patch.row * side);
                let (left, top) = (x.saturating_sub(side / 2), y.saturating_sub(side / 2));
                let width = (2 * side).min(square.width() as usize - left);
                let height = (2 * side).min(square.height() as usize - top);
                let cut = image::imageops::crop_imm(
                    &square,
                    left as u32,
                    top as u32,
                    width as u32,
                    height as u32,
                );
                let cut = image::imageops::resize(
                    &cut.to_image(),
                    PATCH_SIDE,
                    PATCH_SIDE,
                    image::imageops::FilterType::Nearest,
                );
                let name = format!("codes/{number}-{index}.png");
                let path = run.join(&name);
                files::write_picture(&path, &cut)?;
                shown.pictures.push(name);
            }
        }
        run.write_json("codes.json", &record)
    }
}

fn whole(codes: Tensor<2, Int>) -> Vec<usize> {
    let codes = codes.into_data();
    codes.iter::<i64>().map(|code| code as usize).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uses_are_counted() {
        let patch = |image| Patch {
            image,
            row: 0,
            column: 0,
        };
        let uses = Uses {
            given: vec![2, 2, 0, 0],
            patches: [(0, vec![patch(0), patch(1)]), (1, vec![patch(1)])].into(),
            words: [
                (0, [("red".to_owned(), 3)].into()),
                (3, [("a".to_owned(), 9)].into()),
            ]
            .into(),
            pairs: 2,
        };
        let found = uses.summary(2, 4).record;
        assert!((found.perplexity - 2.0).abs() < 1e-12);
        assert_eq!((found.dead, found.by_patches, found.by_words), (2, 2, 2));
        assert!((found.shared - 1.0 / 3.0).abs() < 1e-12);
        let order: Vec<u64> = found.shown.iter().map(|c| c.code).collect();
        assert_eq!(order, [0, 3, 1]);
        assert_eq!(found.shown[0].chosen_by[0].word, "red");
    }
}

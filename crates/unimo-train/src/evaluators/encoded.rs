//! A model with held-out images and texts, whose features are kept as far as memory allows.
//!
//! The contrast needs one row of numbers per image or text; these rows are all kept. The cross-modal encoder needs every position
//! of one or several states: a megabyte per image at base size, seven for BridgeTower. If all of them do not fit into
//! `eval.memory_gb`, pairs are scored tile by tile, a block of images with a block of texts. A block of images stays while all
//! blocks of texts pass, so images are encoded at most twice, and texts once per block of images.

use std::cell::RefCell;
use std::ops::Range;
use std::sync::mpsc::sync_channel;

use burn::tensor::{Device, Int, Tensor, TensorData};
use unimo_batch::{Images, Regions, Texts};
use unimo_core::world::World;
use unimo_data::{DataError, EvalSet, Pad, TextTokenizer};
use unimo_encoders::features::{ImageFeatures, Pictures, TextFeatures};
use unimo_encoders::region::RegionInput;
use unimo_eval::retrieval::{Blocks, DualEmbeddings, Embeddings};
use unimo_eval::{ModelError, Pair, RetrievalModel};

use crate::error::TrainError;
use crate::evaluators::Weights;
use crate::interrupt;
use crate::model::{Model, host};
use crate::ranks;
use crate::recipe::Recipe;

/// A model with its features of a held-out set.
pub(crate) struct Encoded<'a> {
    model: &'a Model,
    set: &'a EvalSet,
    tokenizer: &'a TextTokenizer,
    recipe: &'a Recipe,
    device: &'a Device,
    world: &'a World,
    /// All captions, padded to the length of the longest, so that any two fit into one batch.
    ids: Texts,
    embeddings: Option<DualEmbeddings>,
    blocks: Blocks,
    images: RefCell<Kept<ImageFeatures>>,
    texts: RefCell<Kept<TextFeatures>>,
}

/// Features of a range of consecutive rows.
struct Kept<F> {
    of: Range<usize>,
    features: Option<F>,
}

impl<F> Kept<F> {
    const NOTHING: Self = Self {
        of: 0..0,
        features: None,
    };

    /// The features of these rows, if they are kept.
    fn get(&self, wanted: &Range<usize>) -> Option<&F> {
        let there = self.of.start <= wanted.start && wanted.end <= self.of.end;
        self.features.as_ref().filter(|_| there)
    }
}

/// An image as it was read.
enum Read {
    Pixels(Images),
    Regions(Regions),
}

const GIGABYTE: f64 = 1e9;

/// How many images and texts are kept at once. While the parts of a block are joined, the block is in memory twice, so a budget has
/// room for both blocks and the larger one once more.
///
/// - `count`, `bytes`: number of images and of texts, and the bytes of one of each
/// - `least`: smallest size of a block
fn blocks(count: [usize; 2], bytes: [usize; 2], budget: f64, least: usize) -> Blocks {
    let of = |count: usize, bytes: usize| count as f64 * bytes as f64;
    let [pictures, texts] = [of(count[0], bytes[0]), of(count[1], bytes[1])];
    if pictures + texts + pictures.max(texts) <= budget {
        return Blocks::default();
    }
    // Texts are encoded again for every block of images, so images get the larger part.
    let for_texts = texts.min(budget / 5.0);
    let for_pictures = (budget - for_texts) / 2.0;
    let rows = |bytes: usize, room: f64| ((room / bytes.max(1) as f64) as usize).max(least);
    Blocks {
        images: rows(bytes[0], for_pictures),
        texts: rows(bytes[1], for_texts),
    }
}

impl<'a> Encoded<'a> {
    /// Encodes all images and texts of a set for the contrast, if the model has one. If pairs are to be scored, keeps what fits into
    /// memory for the matching head.
    ///
    /// Several ranks share the batches. Where features are kept, each encodes all, since its pairs may be any.
    pub(crate) fn new(
        weights: &Weights<'a>,
        set: &'a EvalSet,
        pairs: bool,
    ) -> Result<Self, TrainError> {
        let &Weights {
            model,
            tokenizer,
            recipe,
            device,
            world,
            ..
        } = weights;
        let (pictures, texts) = (set.items().len(), set.captions().len());
        let length = recipe.data.max_text_length;
        let mut encoded = Self {
            model,
            set,
            tokenizer,
            recipe,
            device,
            world,
            ids: set.texts(0..texts, tokenizer, length, Pad::Longest)?,
            embeddings: None,
            blocks: Blocks::default(),
            images: RefCell::new(Kept::NOTHING),
            texts: RefCell::new(Kept::NOTHING),
        };
        let step = recipe.eval.batch_size;
        // The size of one is known once some are encoded.
        let mut of_first = 0;
        let first = encoded.encode_images(0..pictures.min(1), |features| {
            of_first = features.bytes();
            Ok(())
        });
        ranks::all(world, "the first image", first)?;
        let of_text = encoded.encode_texts(0..texts.min(1))?.bytes();
        let budget = recipe.eval.memory_gb * GIGABYTE;
        encoded.blocks = blocks([pictures, texts], [of_first, of_text], budget, step);
        let keep = pairs && encoded.has_itm() && encoded.blocks == Blocks::default();
        let Some(itc) = &model.objectives.itc else {
            return Ok(encoded);
        };
        let width = |rows: &[f32], count: usize| (rows.len() / count.max(1)).max(1);
        let mut parts = Vec::new();
        let rows = encoded.shared("embeddings of images", pictures, keep, |batches| {
            let mut rows = Vec::new();
            encoded.held_out().encode_batches(batches, |_, features| {
                rows.push(host(itc.embed_images(&features)));
                if keep {
                    parts.push(features);
                }
                Ok(())
            })?;
            Ok(rows)
        })?;
        let kept = (keep && !parts.is_empty()).then(|| ImageFeatures::cat(parts));
        if let Some(features) = kept {
            encoded.images.replace(Kept {
                of: 0..pictures,
                features: Some(features),
            });
        }
        let mut parts = Vec::new();
        let text_rows = encoded.shared("embeddings of texts", texts, keep, |batches| {
            let mut rows = Vec::new();
            for batch in batches {
                let features = encoded.encode_texts(batch)?;
                rows.push(host(itc.embed_texts(&features)));
                if keep {
                    parts.push(features);
                }
            }
            Ok(rows)
        })?;
        let kept = (keep && !parts.is_empty()).then(|| TextFeatures::cat(parts));
        if let Some(features) = kept {
            encoded.texts.replace(Kept {
                of: 0..texts,
                features: Some(features),
            });
        }
        let widths = (width(&rows, pictures), width(&text_rows, texts));
        encoded.embeddings = Some(DualEmbeddings {
            images: Embeddings::new(widths.0, rows)?,
            texts: Embeddings::new(widths.1, text_rows)?,
        });
        Ok(encoded)
    }

    /// What `compute` makes of `count` things batch by batch, one after the other. Each rank computes its share of the batches, or all of
    /// them with `whole`.
    fn shared(
        &self,
        what: &'static str,
        count: usize,
        whole: bool,
        compute: impl FnOnce(Vec<Range<usize>>) -> Result<Vec<Vec<f32>>, TrainError>,
    ) -> Result<Vec<f32>, TrainError> {
        let batches = in_batches(0..count, self.recipe.eval.batch_size);
        if whole {
            let computed = ranks::all(self.world, what, compute(batches))?;
            return Ok(computed.concat());
        }
        let own = compute(ranks::share(self.world, &batches));
        Ok(ranks::in_turn(ranks::gather(self.world, what, own)?).concat())
    }

    /// The features of pairs, row by row. If they are not kept, all images and texts from the first to the last are encoded, so
    /// pairs should be near each other.
    pub(crate) fn rows(&self, pairs: &[Pair]) -> Result<(TextFeatures, ImageFeatures), TrainError> {
        let images = span(pairs.iter().map(|pair| pair.image));
        let texts = span(pairs.iter().map(|pair| pair.text));
        self.rows_of(pairs, (images, texts), false)
    }

    /// The features of pairs, from those of `images` and `texts`, which are kept for the next call if `keep` is set.
    fn rows_of(
        &self,
        pairs: &[Pair],
        (images, texts): (Range<usize>, Range<usize>),
        keep: bool,
    ) -> Result<(TextFeatures, ImageFeatures), TrainError> {
        let rows = |of: fn(&Pair) -> usize, first: usize| -> Tensor<1, Int> {
            let rows: Vec<i32> = pairs.iter().map(|p| (of(p) - first) as i32).collect();
            Tensor::from_data(TensorData::new(rows, [pairs.len()]), self.device)
        };
        let image_rows = |first| rows(|p| p.image, first);
        let text_rows = |first| rows(|p| p.text, first);
        let image_features = {
            let mut kept = self.images.borrow_mut();
            match kept.get(&images) {
                Some(features) => features.select(&image_rows(kept.of.start)),
                None => {
                    if keep {
                        // Freed before the next block is in memory.
                        *kept = Kept::NOTHING;
                    }
                    let mut parts = Vec::new();
                    self.encode_images(images.clone(), |features| {
                        parts.push(features);
                        Ok(())
                    })?;
                    let features = ImageFeatures::cat(parts);
                    let chosen = features.select(&image_rows(images.start));
                    if keep {
                        *kept = Kept {
                            of: images,
                            features: Some(features),
                        };
                    }
                    chosen
                }
            }
        };
        let mut kept = self.texts.borrow_mut();
        let text_features = match kept.get(&texts) {
            Some(features) => features.select(&text_rows(kept.of.start)),
            None => {
                if keep {
                    *kept = Kept::NOTHING;
                }
                let step = self.recipe.eval.batch_size;
                let starts = texts.clone().step_by(step);
                let parts =
                    starts.map(|first| self.encode_texts(first..texts.end.min(first + step)));
                let features = TextFeatures::cat(parts.collect::<Result<_, _>>()?);
                let chosen = features.select(&text_rows(texts.start));
                if keep {
                    *kept = Kept {
                        of: texts,
                        features: Some(features),
                    };
                }
                chosen
            }
        };
        Ok((text_features, image_features))
    }

    fn encode_images(
        &self,
        range: Range<usize>,
        mut take: impl FnMut(ImageFeatures) -> Result<(), TrainError>,
    ) -> Result<(), TrainError> {
        self.held_out().encode(range, |_, features| take(features))
    }

    fn held_out(&self) -> HeldOutImages<'_> {
        HeldOutImages {
            model: self.model,
            set: self.set,
            tokenizer: self.tokenizer,
            device: self.device,
            batch_size: self.recipe.eval.batch_size,
            max_text_length: self.recipe.data.max_text_length,
        }
    }

    fn encode_texts(&self, range: Range<usize>) -> Result<TextFeatures, TrainError> {
        interrupt::check()?;
        let backbone = &self.model.backbone;
        let length = self.ids.length;
        let ids = &self.ids.ids[range.start * length..range.end * length];
        let lengths = &self.ids.lengths[range];
        let input = backbone.text.input(ids, lengths, length, self.device);
        Ok(backbone.encode_texts(&input))
    }
}

/// The images of a held-out set, on their way through the image encoder.
pub(crate) struct HeldOutImages<'a> {
    pub model: &'a Model,
    pub set: &'a EvalSet,
    pub tokenizer: &'a TextTokenizer,
    pub device: &'a Device,
    pub batch_size: usize,
    /// Longest text in tokens, which names of an image's objects are, too.
    pub max_text_length: usize,
}

impl HeldOutImages<'_> {
    /// Encodes images batch by batch, while the next ones are read.
    pub(crate) fn encode(
        &self,
        range: Range<usize>,
        take: impl FnMut(Range<usize>, ImageFeatures) -> Result<(), TrainError>,
    ) -> Result<(), TrainError> {
        self.encode_batches(in_batches(range, self.batch_size), take)
    }

    /// Encodes these batches of images, while the next ones are read.
    fn encode_batches(
        &self,
        batches: Vec<Range<usize>>,
        mut take: impl FnMut(Range<usize>, ImageFeatures) -> Result<(), TrainError>,
    ) -> Result<(), TrainError> {
        let set = self.set;
        std::thread::scope(|scope| {
            let (sender, receiver) = sync_channel(0);
            let ranges = batches.clone();
            scope.spawn(move || {
                for range in ranges {
                    // It fails if the receiver is gone.
                    if sender.send(read(set, range)).is_err() {
                        return;
                    }
                }
            });
            for (range, read) in batches.into_iter().zip(receiver) {
                interrupt::check()?;
                take(range.clone(), self.encode_read(range, &read?)?)?;
            }
            Ok(())
        })
    }

    fn encode_read(&self, range: Range<usize>, read: &Read) -> Result<ImageFeatures, TrainError> {
        let backbone = &self.model.backbone;
        let pictures = match read {
            Read::Regions(regions) => Pictures::Regions(RegionInput::new(regions, self.device)),
            Read::Pixels(images) => Pictures::of_pixels(images, &images.pixels, self.device),
        };
        let tags = match (backbone.reads_tags(), self.set.concepts()) {
            (false, _) => None,
            (true, None) if backbone.joint.is_some() && !backbone.image_tags => {
                let longest = self.max_text_length;
                Some(self.set.tags_as_texts(range, self.tokenizer, longest)?)
            }
            (true, _) => self.set.tags(range, self.tokenizer)?,
        };
        let tags = tags.map(|tags| {
            let text = &backbone.text;
            text.input(&tags.ids, &tags.lengths, tags.length, self.device)
        });
        // Tags, whose number differs between batches, are not scored.
        Ok(ImageFeatures {
            tags: None,
            ..backbone.encode_pictures(&pictures, tags.as_ref(), 0)
        })
    }
}

/// A range in batches of `size`, but for the last.
fn in_batches(range: Range<usize>, size: usize) -> Vec<Range<usize>> {
    let end = range.end;
    let starts = range.step_by(size);
    starts.map(|first| first..end.min(first + size)).collect()
}

fn read(set: &EvalSet, range: Range<usize>) -> Result<Read, DataError> {
    Ok(match set.regions(range.clone())? {
        Some(regions) => Read::Regions(regions),
        None => Read::Pixels(set.images(range)?),
    })
}

/// The range from the first to the last.
fn span(of: impl Iterator<Item = usize> + Clone) -> Range<usize> {
    let last = of.clone().max();
    of.min().unwrap_or(0)..last.map_or(0, |last| last + 1)
}

impl RetrievalModel for Encoded<'_> {
    fn texts(&self) -> usize {
        self.set.captions().len()
    }

    fn images(&self) -> usize {
        self.set.items().len()
    }

    fn embeddings(&self) -> Result<Option<DualEmbeddings>, ModelError> {
        Ok(self.embeddings.clone())
    }

    fn has_itm(&self) -> bool {
        self.recipe.objectives.scores_pairs()
    }

    fn blocks(&self) -> Blocks {
        self.blocks
    }

    fn itm_scores(&self, pairs: &[Pair]) -> Result<Vec<f32>, ModelError> {
        let Some(first) = pairs.first() else {
            return Ok(Vec::new());
        };
        interrupt::check()?;
        let block = |at: usize, size: usize, all: usize| {
            let first = at / size * size;
            first..first.saturating_add(size).min(all)
        };
        let Blocks { images, texts } = self.blocks;
        let images = block(first.image, images, self.images());
        let texts = block(first.text, texts, self.texts());
        let (texts, images) = self.rows_of(pairs, (images, texts), true)?;
        let fused = self.model.backbone.fuse_class_tokens(&texts, &images);
        let heads = &self.model.objectives;
        let scores = heads.match_scores(&self.model.backbone, &fused);
        Ok(host(scores.ok_or("the model has no matching head")?))
    }

    fn at_once(&self) -> usize {
        self.world.size()
    }

    fn itm_scores_of(&self, batches: &[Vec<Pair>]) -> Result<Vec<Vec<f32>>, ModelError> {
        let own = batches.get(self.world.rank());
        let own = own.map_or(Ok(Vec::new()), |own| self.itm_scores(own));
        let own = own.map_err(|error| TrainError::Check(error.to_string()));
        let mut all = ranks::gather(self.world, "scores of pairs", own)?;
        all.truncate(batches.len());
        Ok(all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 5,000 images with 25,000 captions at base size: METER's one state of 577 positions, and BridgeTower's seven of 325.
    #[test]
    fn blocks_keep_within_the_budget() {
        const BUDGET: f64 = 2e9;
        for (states, positions) in [(1, 577), (7, 325)] {
            let bytes = [positions, 50].map(|count| states * count * 768 * 4);
            let Blocks { images, texts } = blocks([5000, 25_000], bytes, BUDGET, 64);
            let (pictures, captions) = ((images * bytes[0]) as f64, (texts * bytes[1]) as f64);
            assert!(pictures + captions + pictures.max(captions) <= BUDGET);
            // The budget is used: texts are encoded once per block of images.
            assert!(pictures > 0.35 * BUDGET && captions > 0.19 * BUDGET);
        }
        // A set that fits is one block, and a block is at least one batch.
        assert_eq!(
            blocks([500, 1000], [1000, 1000], 2.5e6, 64),
            Blocks::default()
        );
        assert_ne!(
            blocks([500, 1000], [1000, 1000], 2.4e6, 64),
            Blocks::default()
        );
        let least = Blocks {
            images: 64,
            texts: 64,
        };
        assert_eq!(blocks([500, 1000], [1000, 1000], 1.0, 64), least);
    }
}

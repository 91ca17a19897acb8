//! Held-out retrieval of a trained model, its gates, and the pictures that the report shows.
//!
//! Every image and every text is encoded once; pairs are then made from the kept features.

use std::sync::Arc;

use burn::tensor::{Device, Int, Tensor, TensorData};
use unimo_data::config::Pad;
use unimo_data::images::{self, Limits};
use unimo_data::{
    ConceptReader, Concepts, EvalSet, RegionsConfig, SkipList, Source, Split, TextTokenizer,
};
use unimo_encoders::backbone::{ImageFeatures, Pictures, TextFeatures};
use unimo_encoders::fusion::{FusionConfig, Keep, LayerGates};
use unimo_encoders::region::RegionInput;
use unimo_encoders::text::TextInput;
use unimo_eval::retrieval::{DualEmbeddings, Embeddings, MethodReport, RetrievalReport};
use unimo_eval::{Directions, GroundTruth, ModelError, Pair, Recall, RetrievalModel};

use crate::checkpoint;
use crate::device::DeviceChoice;
use crate::diagnostics::codes::{self, Codes};
use crate::diagnostics::phrases::{self, Phrases};
use crate::error::TrainError;
use crate::model::{Model, host};
use crate::progress::Progress;
use crate::recipe::Recipe;
use crate::report::record::{
    ChanceRecord, EvalRecord, GalleryItem, GalleryRecord, GatesRecord, RankedCaption, RecallRecord,
    RetrievalRecord, StreamGates, WordGates,
};
use crate::run::RunFolder;
use crate::training;

/// A run's weights, evaluated by `unimo eval`.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where to compute.
    pub device: DeviceChoice,
    /// The checkpoint's step; none: the best, or the newest where nothing was evaluated.
    pub step: Option<u64>,
    /// Images; none: as the recipe says, 0: all.
    pub limit: Option<usize>,
    /// Score every text with every image by the matching head too.
    pub full_itm: bool,
    /// Another list of pairs instead of the recipe's data.
    pub data: Option<std::path::PathBuf>,
    /// Features of its pictures' regions, where the model reads regions from files.
    pub regions: Option<std::path::PathBuf>,
    /// Which split.
    pub split: Split,
}

/// Evaluates a run's checkpoint and adds the result to the run's `evaluations.jsonl`. What training itself found stays
/// as it is: the best checkpoint is chosen by that.
pub fn run(folder: &std::path::Path, options: &Options) -> Result<EvalRecord, TrainError> {
    let (device, _) = options.device.open()?;
    let (run, mut recipe) = RunFolder::open(folder)?;
    if let Some(limit) = options.limit {
        recipe.eval.limit = limit;
    }
    recipe.eval.full_itm |= options.full_itm && recipe.objectives.itm.is_some();
    let mut data = recipe.data.clone();
    if let Some(path) = &options.data {
        data.take_from(path.clone())?;
    }
    if let Some(features) = &options.regions {
        let Some(RegionsConfig::Files { path, .. }) = &mut data.regions else {
            return Err(TrainError::Check(format!(
                "--regions {}: the model does not read regions from files; it was trained without [data.regions] of that kind",
                features.display()
            )));
        };
        *path = features.clone();
    }
    let source = unimo_data::open(&data)?;
    let tokenizer = TextTokenizer::load(&run.join("tokenizer.json"), false)?;
    training::check_tokenizer(&recipe, &tokenizer)?;

    let step = chosen_step(&run, options.step)?;
    let model = load_model(&run, &recipe, step, &device)?;

    let skip = SkipList::in_memory(recipe.data.max_skipped);
    let concepts = open_concepts(&run, &recipe, &tokenizer)?;
    let Some(set) = open_set(&recipe, &source, options.split, &skip, concepts)? else {
        return Err(TrainError::Run {
            path: folder.to_owned(),
            reason: format!(
                "its data has no {} split to evaluate on",
                options.split.name()
            ),
        });
    };
    let mut bar = scoring_bar(0);
    let evaluated = evaluate(&model, &set, &tokenizer, &recipe, &device, &mut bar)?;
    drop(bar);
    let record = record(step, &label(options), &evaluated);
    run.append("evaluations.jsonl", &record)?;
    Ok(record)
}

/// A run's concepts, where it has some.
fn open_concepts(
    run: &RunFolder,
    recipe: &Recipe,
    tokenizer: &TextTokenizer,
) -> Result<Option<ConceptReader>, TrainError> {
    let concepts = recipe
        .data
        .concepts
        .as_ref()
        .map(|_| Concepts::load(&run.join(training::CONCEPTS)))
        .transpose()?;
    training::concept_reader(recipe, concepts.as_ref(), tokenizer)
}

/// A run's model as it is evaluated: the moving average of its weights where there is one.
///
/// # Errors
///
/// The folder is no run or has no such checkpoint.
pub fn open_model(
    folder: &std::path::Path,
    step: Option<u64>,
    device: &Device,
) -> Result<(RunFolder, Recipe, u64, Model), TrainError> {
    let (run, recipe) = RunFolder::open(folder)?;
    let step = chosen_step(&run, step)?;
    let model = load_model(&run, &recipe, step, device)?;
    Ok((run, recipe, step, model))
}

/// The step asked for, or the best, or the newest where nothing was evaluated.
fn chosen_step(run: &RunFolder, asked: Option<u64>) -> Result<u64, TrainError> {
    let checkpoints = run.checkpoints();
    let newest = checkpoint::steps(&checkpoints)?.last().copied();
    let best = run.best()?.map(|best| best.step);
    let best = best.filter(|step| checkpoint::path(&checkpoints, *step).is_file());
    asked.or(best).or(newest).ok_or_else(|| TrainError::Run {
        path: run.path().to_owned(),
        reason: "has no checkpoint yet".to_owned(),
    })
}

fn load_model(
    run: &RunFolder,
    recipe: &Recipe,
    step: u64,
    device: &Device,
) -> Result<Model, TrainError> {
    let mut recipe = recipe.clone();
    recipe.model = recipe.model.without_dropout();
    let mut reader = checkpoint::Reader::open(&checkpoint::path(&run.checkpoints(), step))?;
    let section = if recipe.train.ema.is_some() {
        "ema"
    } else {
        "model"
    };
    reader.module(section, Model::blank(&recipe, device))
}

/// Shows the progress of an evaluation, as [`evaluate`] tells it, if it scores more than `from` pairs. Ends when dropped.
pub fn scoring_bar(from: usize) -> impl FnMut(usize, usize) {
    let mut bar: Option<Progress> = None;
    let began = std::time::Instant::now();
    move |done, total| {
        if total <= from {
            return;
        }
        let bar = bar.get_or_insert_with(|| Progress::new(total as u64, 0, "scoring pairs"));
        if done > 0 {
            let speed = done as f64 / began.elapsed().as_secs_f64();
            bar.update(done as u64, None, speed);
        }
    }
}

/// What was evaluated, in words: not the run's own held-out set as a whole, maybe.
fn label(options: &Options) -> String {
    let mut label = options.split.name().to_owned();
    if let Some(name) = options.data.as_ref().and_then(|path| path.file_name()) {
        label.push_str(&format!(" of {}", name.display()));
    }
    match options.limit {
        Some(limit) if limit > 0 => label.push_str(&format!(", first {limit}")),
        _ => {}
    }
    label.push_str(" (unimo eval)");
    label
}

/// The held-out set, or none where the data has no such split.
pub fn open_set(
    recipe: &Recipe,
    source: &Arc<dyn Source>,
    split: Split,
    skip: &SkipList,
    concepts: Option<ConceptReader>,
) -> Result<Option<EvalSet>, TrainError> {
    if source.is_empty(split) {
        return Ok(None);
    }
    let limit = (recipe.eval.limit > 0).then_some(recipe.eval.limit);
    let set = EvalSet::new(
        Arc::clone(source),
        split,
        limit,
        recipe.data.image_spec(),
        skip,
    )?;
    Ok(Some(set.with_concepts(concepts)))
}

/// A model with the features of a whole held-out set.
struct Encoded<'a> {
    model: &'a Model,
    texts: TextFeatures,
    images: ImageFeatures,
    device: &'a Device,
}

impl Encoded<'_> {
    /// The features of pairs, row by row.
    fn rows(&self, pairs: &[Pair]) -> (TextFeatures, ImageFeatures) {
        let rows = |of: fn(&Pair) -> usize| -> Tensor<1, Int> {
            let rows: Vec<i32> = pairs.iter().map(|p| of(p) as i32).collect();
            Tensor::from_data(TensorData::new(rows, [pairs.len()]), self.device)
        };
        (
            self.texts.select(&rows(|p| p.text)),
            self.images.select(&rows(|p| p.image)),
        )
    }
}

impl RetrievalModel for Encoded<'_> {
    fn texts(&self) -> usize {
        self.texts.class.dims()[0]
    }

    fn images(&self) -> usize {
        self.images.class.dims()[0]
    }

    fn embeddings(&self) -> Result<Option<DualEmbeddings>, ModelError> {
        let Some(itc) = &self.model.objectives.itc else {
            return Ok(None);
        };
        let host = |x: Tensor<2>| {
            let [_, features] = x.dims();
            Embeddings::new(features, host(x))
        };
        Ok(Some(DualEmbeddings {
            texts: host(itc.embed_texts(&self.texts))?,
            images: host(itc.embed_images(&self.images))?,
        }))
    }

    fn has_itm(&self) -> bool {
        self.model.objectives.itm.is_some()
    }

    fn itm_scores(&self, pairs: &[Pair]) -> Result<Vec<f32>, ModelError> {
        let Some(itm) = &self.model.objectives.itm else {
            return Err("the model has no matching head".into());
        };
        let (texts, images) = self.rows(pairs);
        let fused = self.model.backbone.fuse(&texts, &images, Keep::Nothing);
        Ok(host(itm.scores(&self.model.backbone, &fused)))
    }
}

/// What an evaluation found, with what a report needs beside the numbers.
pub struct Evaluated {
    /// The numbers.
    pub retrieval: RetrievalReport,
    /// Mean gates per layer, where the model has gates.
    gates: Option<GatesRecord>,
    /// How codes are used, where the model has a grounded dictionary.
    codes: Option<Codes>,
    /// Where phrases are found, where texts have concepts.
    phrases: Option<Phrases>,
}

/// Retrieval over a held-out set.
pub fn evaluate(
    model: &Model,
    set: &EvalSet,
    tokenizer: &TextTokenizer,
    recipe: &Recipe,
    device: &Device,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Evaluated, TrainError> {
    let encoded = encode(model, set, tokenizer, recipe, device)?;
    let text_image = set.captions().iter().map(|c| c.image).collect();
    let truth = GroundTruth::new(text_image, set.items().len())?;
    let retrieval = unimo_eval::evaluate(&encoded, &truth, &recipe.eval.retrieval(), progress)?;
    let features = |pairs: &[(usize, usize)]| {
        let pair = |(text, image): &(usize, usize)| Pair {
            image: *image,
            text: *text,
        };
        encoded.rows(&pairs.iter().map(pair).collect::<Vec<_>>())
    };
    Ok(Evaluated {
        gates: gates(&encoded, set, tokenizer, recipe),
        codes: codes::codes(model, set, tokenizer, recipe, &features),
        phrases: phrases::phrases(model, set, tokenizer, recipe, &features),
        retrieval,
    })
}

fn encode<'a>(
    model: &'a Model,
    set: &EvalSet,
    tokenizer: &TextTokenizer,
    recipe: &Recipe,
    device: &'a Device,
) -> Result<Encoded<'a>, TrainError> {
    let step = recipe.eval.batch_size;
    let backbone = &model.backbone;
    let mut images = Vec::new();
    for first in (0..set.items().len()).step_by(step) {
        let pictures = match set.regions(first..first + step)? {
            Some(regions) => Pictures::Regions(RegionInput::new(&regions, device)),
            None => {
                let images = set.images(first..first + step)?;
                Pictures::of_pixels(&images, &images.pixels, device)
            }
        };
        let tags = set
            .tags(first..first + step, tokenizer)
            .filter(|_| backbone.image_tags)
            .map(|tags| {
                backbone
                    .text
                    .input(&tags.ids, &tags.lengths, tags.length, device)
            });
        images.push(backbone.encode_pictures(&pictures, tags.as_ref(), 0));
    }
    // One length for all, so that any two texts fit one batch: that of the longest caption.
    let all = set.texts(
        0..set.captions().len(),
        tokenizer,
        recipe.data.max_text_length,
        Pad::Longest,
    );
    let mut texts = Vec::new();
    for (ids, lengths) in all
        .ids
        .chunks(step * all.length)
        .zip(all.lengths.chunks(step))
    {
        let input: TextInput = backbone.text.input(ids, lengths, all.length, device);
        texts.push(backbone.encode_texts(&input));
    }
    Ok(Encoded {
        model,
        texts: TextFeatures::cat(texts),
        images: ImageFeatures::cat(images),
        device,
    })
}

/// Mean of the gates over some true pairs, and the gates of the words of one caption.
fn gates(
    encoded: &Encoded<'_>,
    set: &EvalSet,
    tokenizer: &TextTokenizer,
    recipe: &Recipe,
) -> Option<GatesRecord> {
    let config = recipe.model.fusion.as_ref()?;
    let pairs: Vec<Pair> = set
        .captions()
        .iter()
        .enumerate()
        .take(recipe.eval.batch_size)
        .map(|(text, caption)| Pair {
            image: caption.image,
            text,
        })
        .collect();
    let (texts, images) = encoded.rows(&pairs);
    let fused = encoded.model.backbone.fuse(&texts, &images, Keep::Gates);
    let tokens: Vec<Vec<i32>> = pairs
        .iter()
        .map(|pair| {
            let length = recipe.data.max_text_length;
            set.encode(pair.text, tokenizer, length).ids
        })
        .collect();
    gates_record(config, &fused.gates, &tokens, tokenizer)
}

/// Mean of the gates over rows whose texts are `tokens`, and the gates of the words of the first; none without gates.
pub(crate) fn gates_record(
    config: &FusionConfig,
    gates: &[LayerGates],
    tokens: &[Vec<i32>],
    tokenizer: &TextTokenizer,
) -> Option<GatesRecord> {
    let layers = gates.len();
    if layers == 0 {
        return None;
    }
    let lengths: Vec<usize> = tokens.iter().map(Vec::len).collect();
    let stream = |of: fn(&LayerGates) -> &Tensor<3>, lengths: Option<&[usize]>| StreamGates {
        levels: config.level_names(layers - 1),
        layers: gates.iter().map(|g| mean_gates(of(g), lengths)).collect(),
    };
    let words = tokens.first().and_then(|ids| {
        let per_word = gates.iter().all(|g| g.text.dims()[1] > 1);
        per_word.then(|| WordGates {
            caption: ids
                .iter()
                .map(|id| tokenizer.decode(&[*id]).trim().to_owned())
                .collect(),
            layers: gates
                .iter()
                .map(|g| {
                    let levels = g.text.dims()[2];
                    let first = g.text.clone().narrow(0, 0, 1);
                    let values = host(first);
                    let rows = values.chunks(levels).take(ids.len());
                    rows.map(|row| row.iter().map(|v| Some(f64::from(*v))).collect())
                        .collect()
                })
                .collect(),
        })
    });
    Some(GatesRecord {
        text: Some(stream(|g| &g.text, Some(&lengths))),
        image: Some(stream(|g| &g.image, None)),
        words,
    })
}

/// # Shapes
///
/// - gates: `[B, R, S]`; positions beyond `lengths` do not count where `R` is the text's length
/// - output: `[S]`
fn mean_gates(gates: &Tensor<3>, lengths: Option<&[usize]>) -> Vec<Option<f64>> {
    let [rows, positions, levels] = gates.dims();
    let values = host(gates.clone());
    let mut sums = vec![0.0; levels];
    let mut count = 0usize;
    for row in 0..rows {
        let real = lengths.map_or(positions, |l| l[row].min(positions));
        for position in 0..real {
            let at = (row * positions + position) * levels;
            for (sum, value) in sums.iter_mut().zip(&values[at..at + levels]) {
                *sum += f64::from(*value);
            }
            count += 1;
        }
    }
    sums.iter()
        .map(|sum| Some(sum / count.max(1) as f64))
        .collect()
}

/// The entry of the method that ranks best.
fn headline(report: &RetrievalReport) -> Option<&MethodReport> {
    report
        .methods
        .iter()
        .max_by(|a, b| a.rsum().total_cmp(&b.rsum()))
}

/// One line for the terminal.
pub fn summary(step: u64, evaluated: &Evaluated) -> String {
    let report = &evaluated.retrieval;
    let Some(best) = headline(report) else {
        return format!("step {step}: nothing to retrieve with");
    };
    let percent = |share: f64| 100.0 * share;
    format!(
        "step {step}: {} images, {} texts, {}: text to image R@1 {:.1}% R@10 {:.1}%, \
         image to text R@1 {:.1}% R@10 {:.1}% (chance R@1 {:.2}% and {:.2}%)",
        report.images,
        report.texts,
        best.method,
        percent(best.text_to_image.r1),
        percent(best.text_to_image.r10),
        percent(best.image_to_text.r1),
        percent(best.image_to_text.r10),
        percent(report.chance.text_to_image.r1),
        percent(report.chance.image_to_text.r1),
    ) + &evaluated
        .phrases
        .as_ref()
        .and_then(Phrases::summary)
        .map(|phrases| format!("; {phrases}"))
        .unwrap_or_default()
}

/// Writes an evaluation during training into the run: gates, gallery and, last, a line of `evals.jsonl`.
pub fn write(
    run: &RunFolder,
    step: u64,
    set: &EvalSet,
    recipe: &Recipe,
    evaluated: &Evaluated,
) -> Result<(), TrainError> {
    if let Some(gates) = &evaluated.gates {
        run.write_json("gates.json", gates)?;
    }
    if let Some(codes) = &evaluated.codes {
        codes.write(run, set)?;
    }
    if let Some(phrases) = &evaluated.phrases {
        phrases.write(run, set)?;
    }
    if let Some(best) = headline(&evaluated.retrieval) {
        run.write_json("gallery.json", &gallery(run, set, recipe, best)?)?;
    }
    run.append(
        "evals.jsonl",
        &record(step, set.source().1.name(), evaluated),
    )
}

/// An evaluation as a line of JSON.
fn record(step: u64, split: &str, evaluated: &Evaluated) -> EvalRecord {
    let report = &evaluated.retrieval;
    let recall = |r: &Recall| RecallRecord {
        r1: r.r1,
        r5: r.r5,
        r10: r.r10,
        median_rank: r.median_rank,
    };
    let Directions {
        text_to_image,
        image_to_text,
    } = &report.chance;
    let chance = |c: &unimo_eval::ChanceRecall| RecallRecord {
        r1: c.r1,
        r5: c.r5,
        r10: c.r10,
        median_rank: f64::NAN,
    };
    EvalRecord {
        step,
        split: split.to_owned(),
        images: report.images as u64,
        texts: report.texts as u64,
        retrieval: report
            .methods
            .iter()
            .map(|m| RetrievalRecord {
                method: m.method.to_string(),
                text_to_image: recall(&m.text_to_image),
                image_to_text: recall(&m.image_to_text),
            })
            .collect(),
        chance: Some(ChanceRecord {
            text_to_image: chance(text_to_image),
            image_to_text: chance(image_to_text),
        }),
    }
}

/// Longest side of a picture in the gallery, in pixels: the report shows none larger.
const GALLERY_SIDE: u32 = 320;

/// Some held-out images with the captions that the model ranks first, spread over the set.
fn gallery(
    run: &RunFolder,
    set: &EvalSet,
    recipe: &Recipe,
    best: &MethodReport,
) -> Result<GalleryRecord, TrainError> {
    let folder = run.join("gallery");
    std::fs::create_dir_all(&folder).map_err(TrainError::file("create", &folder))?;
    let (source, split) = set.source();
    let count = set.items().len();
    let shown = recipe.eval.gallery.min(count);
    let mut items = Vec::new();
    for number in 0..shown {
        let index = number * count / shown;
        // In full size, even if the model reads less of it.
        let stored = source.image_bytes(split, set.items()[index].index);
        let full = stored.ok().flatten().and_then(|(bytes, _)| {
            images::decode(&bytes, Limits::full_size(recipe.data.max_pixels)).ok()
        });
        let picture = match full {
            Some(picture) => Some(picture),
            None => set.picture(index)?,
        };
        let Some(picture) = picture else {
            continue;
        };
        // Photographs are scaled down and become JPEG; a small picture, such as a generated scene, stays exact.
        let large = picture.width().max(picture.height()) > GALLERY_SIDE;
        let picture = if large {
            images::thumbnail(&picture, GALLERY_SIDE)
        } else {
            picture
        };
        let name = format!("gallery/{number}.{}", if large { "jpg" } else { "png" });
        let path = run.join(&name);
        picture.save(&path).map_err(|e| TrainError::Run {
            path,
            reason: e.to_string(),
        })?;
        let captions = set.captions();
        let item = &set.items()[index];
        let ranked = best.captions_of_image.get(index).map_or(&[][..], |c| c);
        items.push(GalleryItem {
            image: name,
            truth: captions[item.captions.clone()]
                .iter()
                .map(|c| c.text.clone())
                .collect(),
            captions: ranked
                .iter()
                .map(|candidate| {
                    let score = f64::from(candidate.score);
                    RankedCaption {
                        text: captions[candidate.index].text.clone(),
                        // The matching head's score is a logit, shown as a probability.
                        score: if candidate.by_itm {
                            1.0 / (1.0 + (-score).exp())
                        } else {
                            score
                        },
                        right: candidate.is_match,
                    }
                })
                .collect(),
        });
    }
    Ok(GalleryRecord { items })
}

/// An evaluation as a table for the terminal.
pub fn table(record: &EvalRecord) -> String {
    let mut out = format!(
        "step {}, {}: {} images, {} texts\n{:<10}{:>34}{:>34}\n",
        record.step,
        record.split,
        record.images,
        record.texts,
        "",
        "text to image R@1/5/10 (median)",
        "image to text R@1/5/10 (median)"
    );
    let cell = |r: &RecallRecord| {
        let median = if r.median_rank.is_nan() {
            String::new()
        } else {
            format!(" ({})", r.median_rank)
        };
        format!(
            "{:.1} / {:.1} / {:.1}{median}",
            100.0 * r.r1,
            100.0 * r.r5,
            100.0 * r.r10
        )
    };
    let mut row = |name: &str, a: &RecallRecord, b: &RecallRecord| {
        out.push_str(&format!("{name:<10}{:>34}{:>34}\n", cell(a), cell(b)));
    };
    for r in &record.retrieval {
        row(&r.method, &r.text_to_image, &r.image_to_text);
    }
    if let Some(chance) = &record.chance {
        row("chance", &chance.text_to_image, &chance.image_to_text);
    }
    out
}

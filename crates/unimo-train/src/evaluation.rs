//! Held-out retrieval of a trained model, its gates, and the pictures that the report shows.

mod encoded;
pub mod plan;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use burn::tensor::{Device, Tensor};
use unimo_data::images::{self, Limits};
use unimo_data::{
    ConceptReader, Concepts, EvalSet, RegionsConfig, SkipList, Source, Split, TextTokenizer,
};
use unimo_encoders::fusion::{FusionConfig, Keep, LayerGates};
use unimo_eval::retrieval::{MethodReport, RetrievalReport};
use unimo_eval::{Directions, GroundTruth, Method, Pair, Recall};
use unimo_report::numbers::duration;
use unimo_report::record::{
    ChanceRecord, EvalRecord, GalleryItem, GalleryRecord, GatesRecord, RankedCaption, RecallRecord,
    RetrievalRecord, StreamGates, WordGates,
};

use crate::checkpoint;
use crate::device::DeviceChoice;
use crate::diagnostics::codes::{self, Codes};
use crate::diagnostics::phrases::{self, Phrases};
use crate::error::TrainError;
use crate::files;
use crate::model::{Model, host};
use crate::progress::Progress;
use crate::recipe::Recipe;
use crate::resuming;
use crate::run::RunFolder;
use crate::training;

use encoded::Encoded;
use plan::Protocol;

/// A run's weights, evaluated by `unimo eval`.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where to compute.
    pub device: DeviceChoice,
    /// The checkpoint's step; none: the best, or the newest where nothing was evaluated.
    pub step: Option<u64>,
    /// Images, drawn at random where there are more; none: as the recipe says, 0: all.
    pub limit: Option<usize>,
    /// Score every text with every image by the matching head too.
    pub full_itm: bool,
    /// Another list of pairs instead of the recipe's data.
    pub data: Option<PathBuf>,
    /// Features of its pictures' regions, where the model reads regions from files.
    pub regions: Option<PathBuf>,
    /// Which split; none: the held-out one of the run's data, all of other data.
    pub split: Option<Split>,
}

/// Evaluates a run's checkpoint and adds the result to the run's `evaluations.jsonl`. What training itself found stays
/// as it is: the best checkpoint is chosen by that. The run's folder may be given, or the file of one of its checkpoints.
pub fn run(given: &Path, options: &Options) -> Result<(PathBuf, EvalRecord), TrainError> {
    let (folder, step) = run_of(given, options.step)?;
    let (device, _) = options.device.open()?;
    let (run, mut recipe) = RunFolder::open(&folder)?;
    if let Some(limit) = options.limit {
        recipe.eval.limit = limit;
    } else if options.data.is_some() {
        // The recipe's limit is of its own held-out split.
        recipe.eval.limit = 0;
    }
    recipe.eval.full_itm |= options.full_itm && recipe.objectives.itm.is_some();
    let mut data = recipe.data.clone();
    if let Some(path) = &options.data {
        data.forget_files();
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
    for note in source.notes() {
        eprintln!("{note}");
    }
    if options.data.is_none() {
        for line in resuming::other_data(&run, &*source)? {
            eprintln!("not the data that the run was begun with: {line}");
        }
    }
    let tokenizer = run.tokenizer()?;
    training::check_tokenizer(&recipe, &tokenizer)?;

    let step = chosen_step(&run, step)?;
    let model = load_model(&run, &recipe, step, &device)?;

    let skip = SkipList::in_memory(recipe.data.max_skipped);
    let concepts = open_concepts(&run, &recipe, &tokenizer)?;
    let splits: Vec<Split> = match (options.split, &options.data) {
        (Some(split), _) => vec![split],
        (None, Some(_)) => Split::ALL
            .into_iter()
            .filter(|s| !source.is_empty(*s))
            .collect(),
        (None, None) => vec![Split::Val],
    };
    let Some(set) = open_set(&recipe, &source, &splits, &skip, concepts)? else {
        return Err(TrainError::Run {
            path: folder,
            reason: format!(
                "its data has nothing to evaluate on in split {}; it has {}",
                splits.first().map_or("val", |split| split.name()),
                named(&lengths(&source, &|_| true))
            ),
        });
    };
    let say = |line: String| eprintln!("{line}");
    let mut bar = scoring_bar(0, true, say);
    let evaluated = evaluate(
        (&model, &device),
        &set,
        &tokenizer,
        &recipe,
        Protocol::Full,
        &mut bar,
    )?;
    drop(bar);
    let mut left_out = lengths(&source, &|split| !splits.contains(&split));
    if skip.count() > 0 {
        left_out.insert("unusable".to_owned(), skip.count() as u64);
    }
    let record = EvalRecord {
        split: label(&set, options),
        left_out,
        ..record(step, &set, &evaluated)
    };
    run.append("evaluations.jsonl", &record)?;
    Ok((folder, record))
}

/// How many samples there are in those of a source's splits that are asked for and not empty, by name.
fn lengths(source: &Arc<dyn Source>, of: &dyn Fn(Split) -> bool) -> BTreeMap<String, u64> {
    let splits = Split::ALL.into_iter().filter(|split| of(*split));
    splits
        .map(|split| (split.name().to_owned(), source.len(split) as u64))
        .filter(|(_, length)| *length > 0)
        .collect()
}

/// Counts by name, in words.
fn named(counts: &BTreeMap<String, u64>) -> String {
    let each = counts
        .iter()
        .map(|(name, count)| format!("{count} of {name}"));
    match counts.is_empty() {
        true => "nothing".to_owned(),
        false => each.collect::<Vec<_>>().join(", "),
    }
}

/// The run that is meant, and the step, by a run's folder or the file of one of its checkpoints.
fn run_of(given: &Path, step: Option<u64>) -> Result<(PathBuf, Option<u64>), TrainError> {
    if !given.is_file() {
        return Ok((given.to_owned(), step));
    }
    let wrong = |reason: &str| TrainError::Run {
        path: given.to_owned(),
        reason: reason.to_owned(),
    };
    let file = std::path::absolute(given).map_err(TrainError::file("find", given))?;
    let own = file.parent().and_then(|checkpoints| {
        let mut steps = checkpoint::steps(checkpoints).ok()?.into_iter();
        let of_file = steps.find(|step| checkpoint::path(checkpoints, *step) == file)?;
        Some((checkpoints.parent()?.to_owned(), of_file))
    });
    let Some((run, of_file)) = own else {
        return Err(wrong(
            "is no run and no checkpoint of one, such as RUN/checkpoints/step-00000100.safetensors",
        ));
    };
    if step.is_some_and(|step| step != of_file) {
        return Err(wrong("is the checkpoint of another step than --step"));
    }
    Ok((run, Some(of_file)))
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
    folder: &Path,
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

/// Shows the progress of an evaluation, as [`evaluate`] tells it, if it scores more than `from` pairs. With `cost`, says after the first
/// batches how many pairs there are and how long they take at that speed. Ends when dropped.
pub fn scoring_bar(
    from: usize,
    cost: bool,
    mut say: impl FnMut(String),
) -> impl FnMut(usize, usize) {
    let mut bar: Option<Progress> = None;
    let began = std::time::Instant::now();
    // The first batch, which waits for features too, and when it was done.
    let mut first: Option<(usize, f64)> = None;
    let mut said = !cost;
    move |done, total| {
        let now = began.elapsed().as_secs_f64();
        if done > 0 && !said {
            match first {
                None => first = Some((done, now)),
                Some((before, then)) => {
                    said = true;
                    let each = (now - then) / (done - before) as f64;
                    let left = duration(each * (total - done) as f64);
                    say(format!(
                        "{total} pairs through the matching head, {:.1} ms each: about {left}",
                        1000.0 * each
                    ));
                }
            }
        }
        if total <= from {
            return;
        }
        let bar = bar.get_or_insert_with(|| Progress::new(total as u64, 0, "scoring pairs"));
        if done > 0 {
            bar.update(done as u64, None, done as f64 / now);
        }
    }
}

/// What was evaluated, in words: not the run's own held-out set as a whole, maybe.
fn label(set: &EvalSet, options: &Options) -> String {
    let mut label = set.label();
    if let Some(name) = options.data.as_ref().and_then(|path| path.file_name()) {
        label.push_str(&format!(" of {}", name.display()));
    }
    label.push_str(" (unimo eval)");
    label
}

/// Held-out pictures and texts, or none where the data has no such split.
pub fn open_set(
    recipe: &Recipe,
    source: &Arc<dyn Source>,
    splits: &[Split],
    skip: &SkipList,
    concepts: Option<ConceptReader>,
) -> Result<Option<EvalSet>, TrainError> {
    if splits.iter().all(|split| source.is_empty(*split)) {
        return Ok(None);
    }
    let limit = (recipe.eval.limit > 0).then_some(recipe.eval.limit);
    let set = EvalSet::new(
        Arc::clone(source),
        splits,
        limit,
        recipe.data.image_spec(),
        skip,
    )?;
    Ok(Some(set.with_concepts(concepts)))
}

/// What an evaluation found, with what a report needs beside the numbers.
pub struct Evaluated {
    /// The numbers.
    pub retrieval: RetrievalReport,
    /// By which methods.
    pub protocol: Protocol,
    /// Mean gates per layer, where the model has gates.
    gates: Option<GatesRecord>,
    /// How codes are used, where the model has a grounded dictionary.
    codes: Option<Codes>,
    /// Where phrases are found, where texts have concepts.
    phrases: Option<Phrases>,
}

/// Retrieval over held-out pictures and texts.
pub fn evaluate(
    (model, device): (&Model, &Device),
    set: &EvalSet,
    tokenizer: &TextTokenizer,
    recipe: &Recipe,
    protocol: Protocol,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Evaluated, TrainError> {
    let mut config = recipe.eval.retrieval();
    if protocol == Protocol::Contrast {
        config.shortlist = 0;
        config.full_itm = false;
    }
    let pairs = plan::pairs(recipe, protocol, set.items().len(), set.captions().len());
    let encoded = Encoded::new(model, set, tokenizer, recipe, (device, pairs > 0))?;
    let text_image = set.captions().iter().map(|c| c.image).collect();
    let truth = GroundTruth::new(text_image, set.items().len())?;
    let retrieval = unimo_eval::evaluate(&encoded, &truth, &config, progress)?;
    let features = |pairs: &[(usize, usize)]| {
        let pair = |(text, image): &(usize, usize)| Pair {
            image: *image,
            text: *text,
        };
        encoded.rows(&pairs.iter().map(pair).collect::<Vec<_>>())
    };
    Ok(Evaluated {
        gates: gates(model, &encoded, set, tokenizer, recipe)?,
        codes: codes::codes(model, set, tokenizer, recipe, features).transpose()?,
        phrases: phrases::phrases(model, set, tokenizer, recipe, features).transpose()?,
        protocol,
        retrieval,
    })
}

impl Evaluated {
    /// How good the weights are, by what this evaluation scored: a mean of recalls by the best method, as
    /// [`EvalRecord::goodness`] compares them.
    pub fn score(&self) -> f64 {
        self.score_by(|_| true)
    }

    /// As [`score`](Self::score), by the contrast alone.
    pub fn score_of_contrast(&self) -> f64 {
        self.score_by(|method| method == Method::Itc)
    }

    fn score_by(&self, method: impl Fn(Method) -> bool) -> f64 {
        let methods = self.retrieval.methods.iter();
        let sums = methods.filter(|m| method(m.method)).map(|m| m.rsum());
        sums.fold(0.0, f64::max) / 6.0
    }
}

/// Mean of the gates over some true pairs, and the gates of the words of one caption.
fn gates(
    model: &Model,
    encoded: &Encoded<'_>,
    set: &EvalSet,
    tokenizer: &TextTokenizer,
    recipe: &Recipe,
) -> Result<Option<GatesRecord>, TrainError> {
    let Some(config) = &recipe.model.fusion else {
        return Ok(None);
    };
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
    let (texts, images) = encoded.rows(&pairs)?;
    let fused = model.backbone.fuse(&texts, &images, Keep::Gates);
    let tokens: Vec<Vec<i32>> = pairs
        .iter()
        .map(|pair| {
            let length = recipe.data.max_text_length;
            Ok(set.encode(pair.text, tokenizer, length)?.ids)
        })
        .collect::<Result<_, TrainError>>()?;
    Ok(gates_record(config, &fused.gates, &tokens, tokenizer))
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

/// The entry of the method that finds most, as [`EvalRecord::headline`] chooses it.
fn headline(report: &RetrievalReport) -> Option<&MethodReport> {
    let found = report.methods.iter().filter(|m| m.rsum().is_finite());
    found.reduce(|best, next| {
        if next.rsum() > best.rsum() {
            next
        } else {
            best
        }
    })
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

/// Writes what an evaluation during training found beside its numbers into the run: gates, codes, phrases, gallery.
pub fn write(
    run: &RunFolder,
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
    Ok(())
}

/// An evaluation as a line of JSON.
pub fn record(step: u64, set: &EvalSet, evaluated: &Evaluated) -> EvalRecord {
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
        split: set.label(),
        protocol: evaluated.protocol.name().to_owned(),
        score: Some(evaluated.score()),
        scored: format!("{} on {}", evaluated.protocol.name(), set.label()),
        left_out: BTreeMap::new(),
        images: report.images as u64,
        texts: report.texts as u64,
        pairs: report.pairs_scored as u64,
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
    let count = set.items().len();
    let shown = recipe.eval.gallery.min(count);
    let mut items = Vec::new();
    for number in 0..shown {
        let index = number * count / shown;
        // In full size, even if the model reads less of it.
        let item = &set.items()[index];
        let stored = set.source().image_bytes(item.split, item.index);
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
        files::write_picture(&path, &picture)?;
        let captions = set.captions();
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
    if !record.left_out.is_empty() {
        out.push_str(&format!("left out: {}\n", named(&record.left_out)));
    }
    out
}

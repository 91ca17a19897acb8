//! `unimo eval`: runs a run's evaluators on its own held-out set or on other data, and finds the run's weights.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use burn::tensor::Device;
use unimo_data::{
    ConceptReader, Concepts, EvalSet, RegionsConfig, SkipList, Source, Split, TextTokenizer,
};
use unimo_report::record::{EvalRecord, RecallRecord};

use crate::checkpoint;
use crate::device::DeviceChoice;
use crate::error::TrainError;
use crate::evaluators::captions::Captions;
use crate::evaluators::prompts::Prompts;
use crate::evaluators::retrieval::{self, Retrieval};
use crate::evaluators::{Evaluator, Weights};
use crate::model::Model;
use crate::prepare;
use crate::recipe::Recipe;
use crate::resuming;
use crate::run::RunFolder;

/// Settings of `unimo eval` for a run's weights.
#[derive(Debug, Clone)]
pub struct Options {
    /// The device that it computes on.
    pub device: DeviceChoice,
    /// The checkpoint's step; `None`: the best, or the newest if nothing was evaluated.
    pub step: Option<u64>,
    /// Number of images, drawn at random if there are more; `None`: as the recipe says; 0: all.
    pub limit: Option<usize>,
    /// Whether the matching head also scores every text with every image.
    pub full_itm: bool,
    /// A list of pairs to use instead of the recipe's data.
    pub data: Option<PathBuf>,
    /// Features of its images' regions, if the model reads regions from files.
    pub regions: Option<PathBuf>,
    /// The split; `None`: the held-out one of the run's data, or all of other data.
    pub split: Option<Split>,
}

/// Evaluates a run's checkpoint and appends the result to the run's `evaluations.jsonl`. The evaluations made during training stay
/// as they are, since they select the best checkpoint. `given` is a run's folder or the file of one of its checkpoints.
pub fn run(given: &Path, options: &Options) -> Result<(PathBuf, EvalRecord), TrainError> {
    let (folder, step) = run_of(given, options.step)?;
    let (device, _) = options.device.open()?;
    let (run, mut recipe) = RunFolder::open(&folder)?;
    if let Some(limit) = options.limit {
        recipe.eval.limit = limit;
    } else if options.data.is_some() {
        // The recipe's limit is meant for its own held-out split.
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
    prepare::check_tokenizer(&recipe, &tokenizer)?;

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
    let Some(set) = retrieval::open_set(&recipe, &source, &splits, &skip, concepts)? else {
        return Err(TrainError::Run {
            path: folder,
            reason: format!(
                "its data has nothing to evaluate on in split {}; it has {}",
                splits.first().map_or("val", |split| split.name()),
                named(&lengths(&source, &|_| true))
            ),
        });
    };
    let weights = Weights {
        model: &model,
        device: &device,
        recipe: &recipe,
        tokenizer: &tokenizer,
        step,
        last: true,
        run: None,
        quiet: false,
    };
    let say = &mut |line: String| eprintln!("{line}");
    // What else the recipe is judged by does not depend on the data of its pairs.
    let prompts = recipe.eval.prompts.as_ref();
    let prompts = prompts.filter(|_| options.data.is_none());
    let captions = recipe.eval.captions.as_ref();
    let mut found = Vec::new();
    if retrieval::is_possible(&recipe) {
        let records = Retrieval::whole(set.clone()).evaluate(&weights, say)?;
        let split = label(&set, options);
        found.extend(
            records
                .into_iter()
                .next()
                .map(|r| EvalRecord { split, ..r }),
        );
    } else if captions.is_none() {
        return Err(TrainError::Run {
            path: folder,
            reason: "has nothing to retrieve with: it was trained with neither [objectives.itc] nor [objectives.itm]"
                .to_owned(),
        });
    }
    if let Some(config) = captions {
        let captions = Captions::of(config, &set);
        let split = label(captions.set(), options);
        let records = captions.evaluate(&weights, say)?.into_iter();
        found.extend(records.map(|r| EvalRecord {
            split: split.clone(),
            ..r
        }));
    }
    let mut left_out = lengths(&source, &|split| !splits.contains(&split));
    if skip.count() > 0 {
        left_out.insert("unusable".to_owned(), skip.count() as u64);
    }
    for record in &mut found {
        record.left_out.clone_from(&left_out);
        run.append("evaluations.jsonl", record)?;
    }
    let record = found.into_iter().next().ok_or_else(|| TrainError::Run {
        path: folder.clone(),
        reason: "was not evaluated".to_owned(),
    })?;
    if let Some(config) = prompts {
        for record in Prompts::open(config, &recipe)?.evaluate(&weights, say)? {
            run.append("evaluations.jsonl", &record)?;
        }
    }
    Ok((folder, record))
}

/// Number of samples in each non-empty split that `of` selects, by the split's name.
fn lengths(source: &Arc<dyn Source>, of: &dyn Fn(Split) -> bool) -> BTreeMap<String, u64> {
    let splits = Split::ALL.into_iter().filter(|split| of(*split));
    splits
        .map(|split| (split.name().to_owned(), source.len(split) as u64))
        .filter(|(_, length)| *length > 0)
        .collect()
}

/// Counts by name, as text.
fn named(counts: &BTreeMap<String, u64>) -> String {
    let each = counts
        .iter()
        .map(|(name, count)| format!("{count} of {name}"));
    if counts.is_empty() {
        "nothing".to_owned()
    } else {
        each.collect::<Vec<_>>().join(", ")
    }
}

/// The run and the step, from a run's folder or the file of one of its checkpoints.
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

/// A run's concepts, if it has any.
fn open_concepts(
    run: &RunFolder,
    recipe: &Recipe,
    tokenizer: &TextTokenizer,
) -> Result<Option<ConceptReader>, TrainError> {
    let concepts = recipe
        .data
        .concepts
        .as_ref()
        .map(|_| Concepts::load(&run.join(prepare::CONCEPTS)))
        .transpose()?;
    prepare::concept_reader(recipe, concepts.as_ref(), tokenizer)
}

/// A run's model for evaluation: the moving average of its weights if there is one.
///
/// # Errors
///
/// The folder is not a run or has no such checkpoint.
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

/// The requested step, or the best, or the newest if nothing was evaluated.
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

/// What was evaluated, as text, since it may not be the run's whole held-out set.
fn label(set: &EvalSet, options: &Options) -> String {
    let mut label = set.label();
    if let Some(name) = options.data.as_ref().and_then(|path| path.file_name()) {
        label.push_str(&format!(" of {}", name.display()));
    }
    label.push_str(" (unimo eval)");
    label
}

/// An evaluation that is not retrieval as a table for the terminal.
fn numbers(record: &EvalRecord) -> String {
    let EvalRecord {
        step,
        split,
        images,
        ..
    } = record;
    let mut out = format!(
        "step {step}, {split}: {images} images\n{:<24}{:>10}{:>10}\n",
        "", "value", "chance"
    );
    for (name, scalar) in &record.scalars {
        let chance = scalar.chance.map_or(String::new(), |c| format!("{c:.4}"));
        out.push_str(&format!("{name:<24}{:>10.4}{chance:>10}\n", scalar.value));
    }
    if !record.left_out.is_empty() {
        out.push_str(&format!("left out: {}\n", named(&record.left_out)));
    }
    out
}

/// An evaluation as a table for the terminal.
pub fn table(record: &EvalRecord) -> String {
    if record.retrieval.is_empty() {
        return numbers(record);
    }
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

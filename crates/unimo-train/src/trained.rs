//! The weights of a run: which of its checkpoints is meant, and the model in it.

use std::path::Path;

use burn::module::Module;
use burn::tensor::Device;

use crate::checkpoint;
use crate::error::TrainError;
use crate::model::Model;
use crate::recipe::Recipe;
use crate::resuming;
use crate::run::RunFolder;
use crate::tasks;

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
    resuming::say_edited(&run, &recipe)?;
    let model = load_model(&run, &recipe, step, device)?;
    Ok((run, recipe, step, model))
}

/// The requested step, or the best, or the newest if nothing was evaluated.
pub(crate) fn chosen_step(run: &RunFolder, asked: Option<u64>) -> Result<u64, TrainError> {
    let checkpoints = run.checkpoints();
    let steps = checkpoint::steps(&checkpoints)?;
    if let Some(step) = asked {
        if steps.contains(&step) {
            return Ok(step);
        }
        let there: Vec<String> = steps.iter().map(u64::to_string).collect();
        return Err(TrainError::Checkpoint {
            path: checkpoint::path(&checkpoints, step),
            reason: match there.as_slice() {
                [] => "is not there; the run has no checkpoint yet".to_owned(),
                there => format!(
                    "is not there; the run has checkpoints of these steps: {}",
                    there.join(", ")
                ),
            },
        });
    }
    let newest = steps.last().copied();
    let best = run.best()?.map(|best| best.step);
    if let Some(gone) = best.filter(|step| !steps.contains(step))
        && let Some(newest) = newest
    {
        eprintln!(
            "{}: the checkpoint of its best step, {gone}, is gone; the newest, of step {newest}, is taken",
            run.path().display()
        );
    }
    let best = best.filter(|step| steps.contains(step));
    best.or(newest).ok_or_else(|| TrainError::Run {
        path: run.path().to_owned(),
        reason: "has no checkpoint yet".to_owned(),
    })
}

/// A run's model at a step, for evaluation. Adapters are added to the weights.
pub(crate) fn load_model(
    run: &RunFolder,
    recipe: &Recipe,
    step: u64,
    device: &Device,
) -> Result<Model, TrainError> {
    let recipe = recipe.without_dropout();
    let folder = run.checkpoints();
    let damaged = |error| checkpoint::or_others(&folder, step, error);
    let reader = checkpoint::Reader::open(&checkpoint::path(&folder, step));
    let mut reader = reader.map_err(damaged)?;
    let section = if recipe.train.ema.is_some() {
        "ema"
    } else {
        "model"
    };
    let mut model = reader
        .module(section, Model::blank(&recipe, device))
        .map_err(damaged)?
        .materialize();
    if model.objectives.answers.is_some() || model.objectives.prompts.is_some() {
        let labels = run.labels_of(&recipe)?;
        tasks::give(&mut model, &recipe, &run.tokenizer()?, labels.as_ref())?;
    }
    Ok(model)
}

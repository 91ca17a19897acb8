//! `unimo recipes`: lists, shows, explains and checks recipes. Nothing is trained and no weights are read.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::device::DeviceChoice;
use crate::error::{Problem, TrainError};
use crate::evaluators;
use crate::model::Model;
use crate::prepare::training_device;
use crate::recipe::{BUILT_IN, InitConfig, Overrides, Recipe, keys};
use crate::starting::own::OwnRun;
use crate::starting::{self, fits};

/// What `unimo recipes` does.
#[derive(Debug, Subcommand)]
pub enum RecipesCommand {
    /// Print a recipe as TOML, whole: with what it extends, what is set and every default.
    Show(OneRecipe),
    /// Say what a key of a recipe means: type, default, meaning; of a table, all of its keys. docs/RECIPES.md has them all.
    Explain {
        /// The key, such as train.optimizer.lr, a table, such as train.optimizer, or a name alone; absent: the tables of a recipe.
        #[arg(default_value = "")]
        key: String,
    },
    /// Say everything that is wrong with a recipe, each with its line, also beside the weights that `init` names, and what is not there;
    /// neither data nor weights are loaded.
    Check(OneRecipe),
}

/// A recipe with its changes.
#[derive(Debug, Args)]
pub struct OneRecipe {
    /// A recipe's name (see `unimo recipes`) or the path of a .toml file.
    pub recipe: String,
    /// Data in place of the recipe's, as for `unimo train`.
    #[arg(long, value_name = "FILE")]
    pub data: Option<PathBuf>,
    /// Change a value of the recipe, as for `unimo train`; may be given several times.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub set: Vec<String>,
}

impl OneRecipe {
    /// The recipe; notes on it are printed on stderr.
    ///
    /// # Errors
    ///
    /// Everything that is wrong with it.
    pub fn load(&self) -> Result<Recipe, TrainError> {
        let overrides = Overrides {
            data: self.data.clone(),
            set: self.set.clone(),
        };
        Recipe::load(&self.recipe, &overrides)
    }

    /// The setting of the command line that gives a key its value.
    fn place(&self, key: &str) -> Option<String> {
        let gives = |set: &&String| {
            let set = set.split('=').next().unwrap_or_default();
            let below = |of: &str, part: &str| {
                let rest = of.strip_prefix(part);
                rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
            };
            below(key, set) || below(set, key)
        };
        let set = self.set.iter().rev().find(gives)?;
        Some(format!("--set {set}"))
    }
}

/// Runs `unimo recipes`; without a command the recipes are listed.
///
/// # Errors
///
/// A recipe does not exist or is wrong.
pub fn run(command: Option<&RecipesCommand>) -> Result<(), TrainError> {
    match command {
        None => {
            for built_in in BUILT_IN {
                let recipe = Recipe::load(built_in.name, &Overrides::default())?;
                println!("{:<20} {}", built_in.name, recipe.description);
            }
        }
        Some(RecipesCommand::Show(given)) => print!("{}", given.load()?.to_toml()?),
        Some(RecipesCommand::Explain { key }) => print!("{}", keys::explain(key)?),
        Some(RecipesCommand::Check(given)) => print!("{}", check(given)?),
    }
    Ok(())
}

/// Says that a recipe is right, or everything that is wrong with it, as far as that shows without data and weights.
///
/// # Errors
///
/// Everything that is wrong with it.
pub fn check(given: &OneRecipe) -> Result<String, TrainError> {
    let recipe = given.load()?;
    let wrong = wrong_together(&recipe)?;
    if wrong.is_empty() {
        return Ok(checked(given, &recipe));
    }
    let problems = wrong.into_iter().map(|error| match error {
        TrainError::Value { error, .. } => Problem {
            place: given.place(&error.key),
            told: error.to_string(),
        },
        error => Problem {
            place: None,
            told: error.to_string(),
        },
    });
    Err(TrainError::Problems {
        file: given.recipe.clone(),
        problems: problems.collect(),
    })
}

/// What the start of a training would refuse of a recipe that is right by itself: names of its parameters, its evaluators, and the run
/// that it starts from. The parameters have names without weights.
fn wrong_together(recipe: &Recipe) -> Result<Vec<TrainError>, TrainError> {
    let (device, _) = DeviceChoice::Flex.open()?;
    let bare = {
        let mut recipe = recipe.clone();
        recipe.teacher = None;
        recipe.train.lora = None;
        recipe
    };
    let model = Model::blank(&bare, &training_device(recipe, &device));
    let mut found = starting::wrong_names(recipe, &model);
    found.extend(evaluators::wrong(recipe));
    let mut found: Vec<TrainError> = found.into_iter().map(TrainError::of_recipe).collect();
    if let Some(init) = &recipe.init {
        if init.missing().is_empty()
            && let Some(own) = OwnRun::of(recipe)?
        {
            found.extend(own.wrong(recipe, init));
        }
        found.extend(fits::wrong(recipe, init));
    }
    Ok(found)
}

/// What is said of a recipe without errors.
fn checked(given: &OneRecipe, recipe: &Recipe) -> String {
    let mut text = format!(
        "{} is right: {} steps of {} samples, data.source = \"{}\", objectives: {}\n",
        given.recipe,
        recipe.train.steps,
        recipe.train.batch_size * recipe.train.accumulation,
        recipe.data.source.name(),
        recipe.objectives.given().join(", "),
    );
    let stages = recipe.stage.iter().filter_map(|stage| stage.data.as_ref());
    let all = std::iter::once(&recipe.data).chain(stages);
    let mut missing: Vec<PathBuf> = all.flat_map(|data| data.missing()).collect();
    missing.dedup();
    for path in missing {
        text += &format!("not there now: {}\n", path.display());
    }
    for path in recipe.init.iter().flat_map(InitConfig::missing) {
        text += &format!(
            "not there now: {path}, which `init` names: a training needs it, and whether the recipe fits it was not checked\n"
        );
    }
    text
}

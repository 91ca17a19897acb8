//! `unimo recipes`: lists, shows, explains and checks recipes. Nothing is trained and no weights are read.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::error::TrainError;
use crate::recipe::{BUILT_IN, Overrides, Recipe, keys};

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
    /// Say everything that is wrong with a recipe, each with its line; nothing is loaded.
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
        Some(RecipesCommand::Check(given)) => print!("{}", checked(given, &given.load()?)),
    }
    Ok(())
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
    text
}

//! The file of a sweep.
//!
//! ```toml
//! recipes = ["unimo3-tiny"]             # names, or files beside this one
//! seeds = [0, 1, 2]
//! set = ["train.steps=150"]             # of all runs, as --set
//!
//! [[variant]]
//! name = "cross"
//!
//! [[variant]]
//! name = "in-layer"
//! set = ["model.fusion.levels=none"]
//! ```

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::error::TrainError;
use crate::fingerprint::Given;
use crate::recipe::{BUILT_IN, Overrides, Recipe};

/// The file as it is written.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    /// Names of recipes, or files relative to this one.
    recipes: Vec<String>,
    /// Seeds; each gives a run of every recipe and variant.
    seeds: Vec<u64>,
    /// What changes in all recipes, as `--set`.
    #[serde(default)]
    set: Vec<String>,
    /// Data, as `--data`, relative to this file.
    #[serde(default)]
    data: Option<PathBuf>,
    /// The folder of the runs, relative to this file.
    #[serde(default)]
    out: Option<PathBuf>,
    /// What changes between set-ups; without any, each recipe is one.
    #[serde(default)]
    variant: Vec<Variant>,
}

/// A named change of recipes.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Variant {
    /// Its name, a part of the names of its runs.
    name: String,
    /// What it changes, as `--set`.
    #[serde(default)]
    set: Vec<String>,
    /// The recipes that it is a variant of; absent: all.
    #[serde(default)]
    recipes: Option<Vec<String>>,
}

/// A sweep, read and checked.
#[derive(Debug)]
pub struct Sweep {
    file: PathBuf,
    /// The folder of the runs.
    pub out: PathBuf,
    /// The runs, in the order in which they are trained: recipe by recipe, variant by variant, seed by seed.
    pub runs: Vec<Planned>,
    /// Lines on settings without effect.
    pub notes: Vec<String>,
}

/// A run of a sweep.
#[derive(Debug, Clone)]
pub struct Planned {
    /// The name of its folder.
    pub name: String,
    /// Its folder.
    pub folder: PathBuf,
    /// Its recipe.
    pub recipe: Recipe,
    /// What the recipe is made from.
    pub given: Given,
}

impl Sweep {
    /// Reads a sweep and all its recipes. `out` is the folder of the runs, if another one than the file's is asked for.
    ///
    /// # Errors
    ///
    /// The file or a recipe cannot be read, or two runs have one name.
    pub fn read(file: &Path, out: Option<&Path>) -> Result<Self, TrainError> {
        let text = std::fs::read_to_string(file).map_err(TrainError::file("read", file))?;
        let absolute = std::path::absolute(file).map_err(TrainError::file("find", file))?;
        let beside = absolute.parent().unwrap_or(Path::new("")).to_owned();
        let mut sweep = Self {
            file: file.to_owned(),
            out: PathBuf::new(),
            runs: Vec::new(),
            notes: Vec::new(),
        };
        let written: Written =
            toml::from_str(&text).map_err(|error| sweep.wrong(error.to_string()))?;
        sweep.out = match (out, &written.out) {
            (Some(out), _) => out.to_owned(),
            (None, Some(out)) => beside.join(out),
            (None, None) => {
                let name = file.file_stem().unwrap_or(file.as_os_str());
                Path::new("runs").join(name)
            }
        };
        sweep.check(&written)?;
        sweep.plan(&written, &beside)?;
        Ok(sweep)
    }

    /// An error of the file.
    pub fn wrong(&self, reason: impl Into<String>) -> TrainError {
        TrainError::Recipe {
            file: self.file.display().to_string(),
            reason: reason.into(),
        }
    }

    fn check(&self, written: &Written) -> Result<(), TrainError> {
        for (key, empty) in [
            ("recipes", written.recipes.is_empty()),
            ("seeds", written.seeds.is_empty()),
        ] {
            if empty {
                return Err(self.wrong(format!("`{key}` is [], and must name at least one")));
            }
        }
        let sets = written.variant.iter().flat_map(|variant| &variant.set);
        for set in written.set.iter().chain(sets) {
            let key = set.split_once('=').map(|(key, _)| key.trim());
            if key == Some("seed") {
                return Err(self.wrong(format!("`set` has \"{set}\": name seeds by `seeds`")));
            }
        }
        let mut names = BTreeSet::new();
        for variant in &written.variant {
            let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
            let name = &variant.name;
            if name.is_empty() || name.starts_with('.') || !name.chars().all(plain) {
                return Err(self.wrong(format!(
                    "the variant's name \"{name}\" is a part of folders' names: letters, digits, `-`, `_` and `.` are allowed"
                )));
            }
            if !names.insert(name) {
                return Err(self.wrong(format!("two variants are named \"{name}\"")));
            }
            for recipe in variant.recipes.iter().flatten() {
                if !written.recipes.contains(recipe) {
                    return Err(self.wrong(format!(
                        "the variant \"{name}\" is of the recipe \"{recipe}\", which is none of `recipes`: {}",
                        written.recipes.join(", ")
                    )));
                }
            }
        }
        Ok(())
    }

    fn plan(&mut self, written: &Written, beside: &Path) -> Result<(), TrainError> {
        let plain = [Variant {
            name: String::new(),
            set: Vec::new(),
            recipes: None,
        }];
        let variants: &[Variant] = if written.variant.is_empty() {
            &plain
        } else {
            &written.variant
        };
        let data = written.data.as_ref().map(|data| {
            if data.to_string_lossy().contains("://") {
                data.clone()
            } else {
                beside.join(data)
            }
        });
        let mut names = BTreeSet::new();
        for recipe in &written.recipes {
            let built_in = BUILT_IN.iter().any(|built_in| built_in.name == recipe);
            let given = if built_in {
                recipe.clone()
            } else {
                beside.join(recipe).display().to_string()
            };
            let stem = Path::new(recipe).file_stem().unwrap_or_default();
            let stem = stem.to_string_lossy();
            for variant in variants {
                if variant
                    .recipes
                    .as_ref()
                    .is_some_and(|of| !of.contains(recipe))
                {
                    continue;
                }
                let set: Vec<String> = written.set.iter().chain(&variant.set).cloned().collect();
                let overrides = Overrides {
                    data: data.clone(),
                    set: set.clone(),
                };
                let (loaded, notes) = Recipe::load_quietly(&given, &overrides)?;
                let own = match variant.name.as_str() {
                    "" => stem.to_string(),
                    name => format!("{stem}-{name}"),
                };
                self.notes
                    .extend(notes.iter().map(|note| format!("{own}: {note}")));
                for seed in &written.seeds {
                    let name = format!("{own}-seed{seed}");
                    if !names.insert(name.clone()) {
                        return Err(self.wrong(format!(
                            "two runs are named {name}: recipes need different names, and seeds stand once"
                        )));
                    }
                    let mut recipe = loaded.clone();
                    recipe.seed = *seed;
                    let seed = format!("seed={seed}");
                    let set = set.iter().cloned().chain([seed]).collect();
                    self.runs.push(Planned {
                        folder: self.out.join(&name),
                        name,
                        recipe,
                        given: Given {
                            recipe: given.clone(),
                            data: data.clone(),
                            set,
                        },
                    });
                }
            }
        }
        self.say_equal();
        if self.runs.is_empty() {
            return Err(self.wrong("no variant is of any of the recipes, so nothing is trained"));
        }
        Ok(())
    }

    /// Notes on runs that are the same run under two names.
    fn say_equal(&mut self) {
        for (later, run) in self.runs.iter().enumerate() {
            let equal = self.runs[..later]
                .iter()
                .find(|other| other.recipe == run.recipe);
            if let Some(other) = equal {
                self.notes.push(format!(
                    "{} is the same recipe with the same seed as {}: it is trained twice and compared once",
                    run.name, other.name
                ));
            }
        }
    }
}

#[cfg(test)]
mod tests;

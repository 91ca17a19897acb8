//! `extends = "meter-base"`: a recipe that contains only what it changes in another one.
//!
//! Tables are merged key by key; every other value replaces the other recipe's. So does a table with another `kind`. `"none"`
//! removes a key of the other recipe, as `--set KEY=none` does.

use std::path::{Component, Path, PathBuf};

use toml::{Table, Value};

use crate::error::TrainError;
use crate::recipe::BUILT_IN;
use crate::recipe::overrides::{self, NONE};

/// The key at the top of a recipe.
pub(crate) const KEY: &str = "extends";

/// Whether a recipe's file says what it changes in another one.
pub(crate) fn is_based(table: &Table) -> bool {
    table.contains_key(KEY)
}

/// The key that holds a table's kind.
const KIND: &str = "kind";

/// A recipe's table without `extends`: the recipe that it extends, with its changes. `file` is the recipe's name in errors,
/// `folder` the folder that it is in.
///
/// # Errors
///
/// The other recipe is not known, cannot be read, or extends this one.
pub(crate) fn complete(
    file: &str,
    table: Table,
    folder: Option<&Path>,
) -> Result<Table, TrainError> {
    let mut chain = vec![file.to_owned()];
    inherit(table, folder, &mut chain)
}

fn inherit(
    mut table: Table,
    folder: Option<&Path>,
    chain: &mut Vec<String>,
) -> Result<Table, TrainError> {
    let Some(of) = table.remove(KEY) else {
        return Ok(table);
    };
    let wrong = |reason: String| TrainError::Recipe {
        file: chain.last().cloned().unwrap_or_default(),
        reason,
    };
    let names: Vec<&str> = BUILT_IN.iter().map(|built_in| built_in.name).collect();
    let allowed = format!(
        "allowed: the name of a recipe ({}) or of a .toml file in the same folder",
        names.join(", ")
    );
    let Value::String(name) = of else {
        return Err(wrong(format!("`{KEY}` is {of}, {allowed}")));
    };
    let built_in = BUILT_IN.iter().find(|built_in| built_in.name == name);
    let (text, folder) = match built_in {
        Some(built_in) => (built_in.text.to_owned(), None),
        None => {
            // Makes relative paths of both files relative to one folder.
            let mut parts = Path::new(&name).components();
            let plain =
                matches!(parts.next(), Some(Component::Normal(_))) && parts.next().is_none();
            let path: PathBuf = folder.unwrap_or(Path::new("")).join(&name);
            if !plain || !path.is_file() {
                return Err(wrong(format!("`{KEY}` is {name:?}, {allowed}")));
            }
            let text = std::fs::read_to_string(&path).map_err(TrainError::file("read", &path))?;
            (text, folder)
        }
    };
    if chain.contains(&name) {
        return Err(wrong(format!(
            "`{KEY}` goes round in a circle: {} -> {name}",
            chain.join(" -> ")
        )));
    }
    chain.push(name.clone());
    let parsed: Result<Table, toml::de::Error> = text.parse();
    let base = parsed.map_err(|error| TrainError::Recipe {
        file: name,
        reason: error.to_string(),
    })?;
    let mut base = inherit(base, folder, chain)?;
    chain.pop();
    let mut removed = Vec::new();
    merge(&mut base, table, "", &mut removed);
    let removed: Vec<String> = removed
        .into_iter()
        .map(|key| format!("{key}={NONE}"))
        .collect();
    match overrides::apply(&mut base, &removed) {
        Ok(_) => Ok(base),
        Err(TrainError::Override { given, reason }) => Err(TrainError::Recipe {
            file: chain.last().cloned().unwrap_or_default(),
            reason: format!("`{given}`: {reason}"),
        }),
        Err(error) => Err(error),
    }
}

/// Merges a table into another one. Keys whose value is "none" are resolved last, when the rest of the recipe is known.
fn merge(base: &mut Table, own: Table, above: &str, removed: &mut Vec<String>) {
    for (name, value) in own {
        let key = format!("{above}{}", in_key(&name));
        match (base.get_mut(&name), value) {
            (_, Value::String(text)) if text == NONE => removed.push(key),
            (Some(Value::Table(there)), Value::Table(own)) if same_kind(there, &own) => {
                merge(there, own, &format!("{key}."), removed);
            }
            (_, value) => {
                base.insert(name, value);
            }
        }
    }
}

/// A name as it is written in a key.
fn in_key(name: &str) -> String {
    let bare = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if name.chars().all(bare) {
        name.to_owned()
    } else {
        format!("{name:?}")
    }
}

fn same_kind(there: &Table, own: &Table) -> bool {
    own.get(KIND)
        .is_none_or(|kind| there.get(KIND) == Some(kind))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recipe::{Overrides, Recipe};

    fn load(folder: &Path, name: &str) -> Result<Recipe, TrainError> {
        let path = folder.join(name);
        Recipe::load(&path.to_string_lossy(), &Overrides::default())
    }

    #[test]
    fn a_recipe_is_another_one_with_what_it_changes() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text);
        write(
            "a.toml",
            "extends = \"unimo3-tiny\"\nseed = 7\n[objectives]\nitc = \"none\"\n[model.fusion]\nlevels = \"none\"\n[train.schedule]\nlast = 0.5\n",
        )
        .unwrap();
        write(
            "b.toml",
            "extends = \"a.toml\"\n[data.tokenizer]\nkind = \"file\"\npath = \"words.json\"\n[objectives.mlm]\nweight = 0.5\n",
        )
        .unwrap();
        let tiny = Recipe::load("unimo3-tiny", &Overrides::default()).unwrap();
        let a = load(folder.path(), "a.toml").unwrap();
        let set = [
            "seed=7",
            "objectives.itc=none",
            "model.fusion.levels=none",
            "train.schedule.last=0.5",
        ];
        let overrides = Overrides {
            data: None,
            set: set.map(str::to_owned).to_vec(),
        };
        assert_eq!(a, Recipe::load("unimo3-tiny", &overrides).unwrap());
        assert!(tiny.objectives.itc.is_some() && a.objectives.itc.is_none());

        let b = load(folder.path(), "b.toml").unwrap();
        let weight = b.objectives.mlm.as_ref().map(|mlm| mlm.weight);
        assert_eq!((b.seed, weight), (7, Some(0.5)));
        let tokenizer = format!("{:?}", b.data.tokenizer);
        let words = folder.path().join("words.json");
        assert!(tokenizer.contains(&*words.to_string_lossy()), "{tokenizer}");
    }

    #[test]
    fn what_cannot_be_extended_is_named() {
        let folder = tempfile::tempdir().unwrap();
        for (name, text, expected) in [
            (
                "a.toml",
                "extends = \"meter-bass\"",
                "\"meter-bass\", allowed: the name of a recipe (unimo3-tiny",
            ),
            ("b.toml", "extends = \"../b.toml\"", "in the same folder"),
            ("c.toml", "extends = 3", "`extends` is 3"),
            ("d.toml", "extends = \"e.toml\"", "goes round in a circle"),
            ("e.toml", "extends = \"d.toml\"", "d.toml -> e.toml"),
            ("f.toml", "extends = \"g.toml\"", "g.toml"),
            ("g.toml", "seed = ", "g.toml"),
            (
                "h.toml",
                "extends = \"unimo3-tiny\"\n[model.fusionn]\nwidth = 3",
                "unknown field `fusionn`",
            ),
            (
                "i.toml",
                "extends = \"unimo3-tiny\"\n[model]\nfusionn = \"none\"",
                "unknown field `fusionn`",
            ),
        ] {
            std::fs::write(folder.path().join(name), text).unwrap();
            if name != "d.toml" && name != "f.toml" {
                let message = load(folder.path(), name).unwrap_err().to_string();
                assert!(message.contains(expected), "{name}: {message}");
            }
        }
        let message = load(folder.path(), "d.toml").unwrap_err().to_string();
        assert!(message.contains("goes round in a circle"), "{message}");
        let message = load(folder.path(), "f.toml").unwrap_err().to_string();
        assert!(message.contains("g.toml"), "{message}");
    }
}

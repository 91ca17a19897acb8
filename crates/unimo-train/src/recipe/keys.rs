//! `unimo recipes explain`: what the keys of a recipe mean.
//!
//! `keys.json` is made of the doc comments of the configurations (`tests/tests/keys.rs`), like `docs/RECIPES.md`.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::error::TrainError;
use crate::recipe::nearest::nearest;
use crate::recipe::overrides::{Part, parse_key};

/// What is known of all keys.
const JSON: &str = include_str!("keys.json");

#[derive(Debug, Deserialize)]
struct Keys {
    root: String,
    tables: BTreeMap<String, Table>,
}

#[derive(Debug, Deserialize)]
struct Table {
    doc: String,
    #[serde(default)]
    keys: Vec<Key>,
    #[serde(default)]
    values: Vec<Choice>,
    tag: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Choice {
    name: String,
    doc: String,
    holds: Option<String>,
    #[serde(default)]
    keys: Vec<Key>,
    of: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Key {
    name: String,
    #[serde(rename = "type")]
    kind: String,
    default: Option<String>,
    doc: String,
    of: Option<String>,
    #[serde(default)]
    list: bool,
}

/// Columns of a line of text.
const WIDTH: usize = 100;
/// Most keys that are listed for a name that several tables have.
const SHOWN: usize = 20;

/// What a key means, or what keys a table has.
///
/// # Errors
///
/// No recipe has such a key; says which is the nearest.
pub fn explain(given: &str) -> Result<String, TrainError> {
    let keys: Keys = serde_json::from_str(JSON)
        .map_err(|error| TrainError::Check(format!("keys.json: {error}")))?;
    let unknown = |reason: String| TrainError::Recipe {
        file: format!("recipes explain {given}"),
        reason,
    };
    // As sections are written in a file, `[train.optimizer]` and `[[stage]]`.
    let plain = given.trim().trim_start_matches('[').trim_end_matches(']');
    if plain.is_empty() {
        return Ok(keys.told_table("", &keys.root));
    }
    let key = parse_key(plain).map_err(unknown)?;
    let mut at = keys.root.as_str();
    let mut path = String::new();
    let mut parts = key.parts().iter().peekable();
    while let Some(part) = parts.next() {
        let Part::Name(name) = part else {
            return Err(unknown(format!("`{path}` is no list")));
        };
        let Some(found) = keys.inside(at).into_iter().find(|key| key.name == *name) else {
            // A name alone is looked for in all tables.
            let alone = path.is_empty() && parts.peek().is_none();
            let named = alone.then(|| keys.named(name)).flatten();
            return named.ok_or_else(|| unknown(keys.lacks(&path, at, name)));
        };
        if !path.is_empty() {
            path.push('.');
        }
        path += name;
        if found.list {
            path += "[]";
            parts.next_if(|part| part.index().is_some());
        }
        if parts.peek().is_none() {
            return Ok(keys.told(&path, found));
        }
        match &found.of {
            Some(of) => at = of,
            // The names in a table of numbers or texts are the user's.
            None if found.kind.starts_with("table") => return Ok(keys.told(&path, found)),
            None => {
                return Err(unknown(format!(
                    "`{path}` is a {}, not a table",
                    found.kind
                )));
            }
        }
    }
    Ok(keys.told_table(&path, at))
}

/// The words of other tools for what a key of ours says.
const OF_OTHERS: [(&str, &str); 10] = [
    ("learning_rate", "lr"),
    ("max_steps", "steps"),
    ("num_steps", "steps"),
    ("warmup_steps", "warmup"),
    ("num_workers", "workers"),
    ("grad_clip", "clip_norm"),
    ("max_grad_norm", "clip_norm"),
    ("gradient_accumulation_steps", "accumulation"),
    ("precision", "dtype"),
    ("random_seed", "seed"),
];

/// Most keys that are proposed for a name in the wrong table.
const PROPOSED: usize = 3;

/// The keys of other tables that have this name, or the name that is ours for it; those of the same section come first.
pub(crate) fn elsewhere(section: &str, name: &str) -> Vec<String> {
    let Ok(keys) = serde_json::from_str::<Keys>(JSON) else {
        return Vec::new();
    };
    let ours = OF_OTHERS.iter().find(|(theirs, _)| *theirs == name);
    let ours = ours.map_or(name, |(_, ours)| ours);
    let all = keys.all().into_iter();
    let mut found: Vec<String> = all
        .filter(|(_, key)| key.name == ours)
        .map(|(path, _)| path)
        .collect();
    // Of what belongs in no section of its own, most is how a model is trained.
    let first = section.split(['.', '[']).next().filter(|s| !s.is_empty());
    let near = format!("{}.", first.unwrap_or("train"));
    let is_near = |path: &String| path.starts_with(&near);
    found.sort_by_key(|path| !is_near(path));
    if found.first().is_some_and(is_near) {
        found.retain(is_near);
    }
    found.truncate(PROPOSED);
    found
}

impl Keys {
    /// The keys of a table, whatever it says by its tag.
    fn inside(&self, table: &str) -> Vec<&Key> {
        let Some(table) = self.tables.get(table) else {
            return Vec::new();
        };
        let of_values = table.values.iter().flat_map(|value| {
            let other = value.of.as_ref().map(|of| self.inside(of));
            value.keys.iter().chain(other.unwrap_or_default())
        });
        table.keys.iter().chain(of_values).collect()
    }

    /// A key with its type, its default and its meaning; if it is a table, with the keys of it.
    fn told(&self, path: &str, key: &Key) -> String {
        let default = match &key.default {
            None => "required".to_owned(),
            Some(default) if default == "absent" => "may be left out".to_owned(),
            Some(default) => format!("default {default}"),
        };
        let mut text = format!("{path}: {}, {default}\n", key.kind);
        text += &wrapped(&key.doc, 2);
        if let Some(of) = &key.of {
            text += &self.told_table(path, of);
        }
        text
    }

    /// The keys of a table, or the names that a value may have.
    fn told_table(&self, path: &str, name: &str) -> String {
        let Some(table) = self.tables.get(name) else {
            return String::new();
        };
        let mut text = String::new();
        if path.is_empty() {
            text += &wrapped(&table.doc, 0);
        }
        let dot = if path.is_empty() { "" } else { "." };
        let rows = |keys: &[Key], text: &mut String| {
            for key in keys {
                let default = match &key.default {
                    None => "required".to_owned(),
                    Some(default) => default.clone(),
                };
                let own = if key.list { "[]" } else { "" };
                *text += &format!(
                    "\n  {path}{dot}{}{own}: {}, {default}\n",
                    key.name, key.kind
                );
                *text += &wrapped(&key.doc, 6);
            }
        };
        rows(&table.keys, &mut text);
        for value in &table.values {
            let written = match (&table.tag, &value.holds) {
                (Some(tag), _) => format!("{tag} = \"{}\"", value.name),
                (None, Some(holds)) => format!("{{ {} = {holds} }}", value.name),
                (None, None) if !value.keys.is_empty() => {
                    format!("{{ {} = {{ ... }} }}", value.name)
                }
                (None, None) => format!("\"{}\"", value.name),
            };
            text += &format!("\n  {written}\n{}", wrapped(&value.doc, 6));
            rows(&value.keys, &mut text);
        }
        text
    }

    /// The keys of any table that have a name.
    fn named(&self, name: &str) -> Option<String> {
        let found: Vec<(String, &Key)> = self
            .all()
            .into_iter()
            .filter(|(_, k)| k.name == name)
            .collect();
        match &found[..] {
            [] => None,
            [(path, key)] => Some(self.told(path, key)),
            _ => {
                let mut text = format!("{} keys are called {name}:\n", found.len());
                for (path, key) in found.iter().take(SHOWN) {
                    text += &format!("\n  {path}: {}\n{}", key.kind, wrapped(&key.doc, 6));
                }
                Some(text)
            }
        }
    }

    /// Every key by its full path, each table by the first path that leads to it.
    fn all(&self) -> Vec<(String, &Key)> {
        let mut open = vec![(String::new(), self.root.as_str())];
        let mut seen = Vec::new();
        let mut all = Vec::new();
        while !open.is_empty() {
            let mut next = Vec::new();
            for (path, table) in open {
                if seen.contains(&table) {
                    continue;
                }
                seen.push(table);
                let dot = if path.is_empty() { "" } else { "." };
                for key in self.inside(table) {
                    let own = if key.list { "[]" } else { "" };
                    let path = format!("{path}{dot}{}{own}", key.name);
                    next.extend(key.of.as_ref().map(|of| (path.clone(), of.as_str())));
                    all.push((path, key));
                }
            }
            open = next;
        }
        all
    }

    /// What is said of a key that is not there.
    fn lacks(&self, path: &str, table: &str, name: &str) -> String {
        let here: Vec<&str> = self
            .inside(table)
            .iter()
            .map(|key| key.name.as_str())
            .collect();
        let all = self.all();
        let place = if path.is_empty() {
            "a recipe has".to_owned()
        } else {
            format!("[{path}] has")
        };
        let meant = match nearest(name, here.iter().copied()) {
            Some(near) if path.is_empty() => format!("; did you mean `{near}`?"),
            Some(near) => format!("; did you mean `{path}.{near}`?"),
            None => {
                let near = nearest(name, all.iter().map(|(_, key)| key.name.as_str()));
                let near = near.and_then(|near| all.iter().find(|(_, key)| key.name == near));
                match near {
                    Some((near, _)) => format!("; did you mean `{near}`?"),
                    None => format!(", but {}", here.join(", ")),
                }
            }
        };
        format!("{place} no key `{name}`{meant}")
    }
}

/// A text in lines, each with a margin.
fn wrapped(text: &str, margin: usize) -> String {
    let mut lines = String::new();
    let mut line = String::new();
    for word in text.split_whitespace() {
        if !line.is_empty() && margin + line.chars().count() + 1 + word.chars().count() > WIDTH {
            lines += &format!("{:margin$}{line}\n", "");
            line.clear();
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line += word;
    }
    if !line.is_empty() {
        lines += &format!("{:margin$}{line}\n", "");
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_tables_and_names_are_explained() {
        for (key, parts) in [
            (
                "train.steps",
                &["train.steps: whole number, required", "Optimiser steps"][..],
            ),
            (
                "train.optimizer",
                &[
                    "train.optimizer.lr: number",
                    "train.optimizer.beta1",
                    "weight decay",
                ],
            ),
            ("[train.optimizer]", &["train.optimizer.lr: number"]),
            ("train.schedule.decay", &["\"cosine\"", "half a cosine"]),
            ("stage[0].share", &["stage[].share: number", "Share of"]),
            ("stage.lr", &["stage[].lr: number, may be left out"]),
            (
                "data.tokenizer",
                &["kind = \"file\"", "data.tokenizer.vocab_size"],
            ),
            ("data.tokenizer.path", &["path, required"]),
            ("data.shuffle", &["{ shards = whole number }"]),
            (
                "data.pairs.filter.lang",
                &["data.pairs.filter: table of texts"],
            ),
            ("objectives.itc.temperature", &["Initial temperature"]),
            ("clip_norm", &["train.clip_norm: number"]),
            (
                "lr",
                &["keys are called lr", "train.optimizer.lr", "stage[].lr"],
            ),
            ("", &["description: text", "train: table"]),
        ] {
            let told = explain(key).unwrap();
            for part in parts {
                assert!(told.contains(part), "{key}: {told}");
            }
        }
    }

    #[test]
    fn a_key_of_another_table_is_found_by_its_name_and_by_that_of_other_tools() {
        for (section, name, paths) in [
            ("train", "lr", &["train.optimizer.lr"][..]),
            ("", "steps", &["train.steps"]),
            ("", "optimizer", &["train.optimizer"]),
            ("train.optimizer", "learning_rate", &["train.optimizer.lr"]),
            ("train", "nonsense", &[]),
        ] {
            assert_eq!(elsewhere(section, name), paths, "{section} {name}");
        }
    }

    #[test]
    fn a_misspelt_key_gets_the_nearest() {
        for (key, meant) in [
            ("train.stepz", "did you mean `train.steps`?"),
            ("trian.steps", "did you mean `train`?"),
            (
                "train.optimizer.weight_dcay",
                "did you mean `train.optimizer.weight_decay`?",
            ),
            ("clip_nrom", "did you mean `train.clip_norm`?"),
            ("train.qqq", "[train] has no key `qqq`, but steps"),
            (
                "train.steps.more",
                "`train.steps` is a whole number, not a table",
            ),
            ("train..steps", "an empty key"),
        ] {
            let error = explain(key).unwrap_err().to_string();
            assert!(error.contains(meant), "{key}: {error}");
        }
    }
}

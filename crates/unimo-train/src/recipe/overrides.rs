//! `--set KEY=VALUE`: what the command line changes in a recipe.
//!
//! No setting is silently without effect. A key that no recipe can have is an error, even with the value `none`. A table of a
//! source that is not read is an error. A value that changes nothing, or that a later `--set` replaces, gets a note.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use toml::{Table, Value};
use unimo_data::SourceKind;
use unimo_encoders::names::covers;

use crate::error::TrainError;
use crate::recipe::Recipe;
use crate::recipe::{idle, stages, taken};

/// The value that removes a section or an optional value, unless it is a valid value itself.
pub(crate) const NONE: &str = "none";

/// A string that is in no enumeration.
const BOGUS: &str = "\u{1}";

/// A part of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Part {
    /// A key of a table.
    Name(String),
    /// An index of an array, `[2]`.
    At(usize),
}

/// A key, such as `stage[0].data.pairs.path`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Key(Vec<Part>);

impl Part {
    /// The index that it may be: `stage.0` means `stage[0]`.
    pub(crate) fn index(&self) -> Option<usize> {
        match self {
            Self::At(index) => Some(*index),
            Self::Name(name) => name.parse().ok(),
        }
    }
}

impl Key {
    /// Its parts, the outermost first.
    pub(crate) fn parts(&self) -> &[Part] {
        &self.0
    }

    /// A key of the table at this key.
    pub(crate) fn inside(&self, name: &str) -> Self {
        let mut parts = self.0.clone();
        parts.push(Part::Name(name.to_owned()));
        Self(parts)
    }

    /// A key of the same table.
    pub(crate) fn beside(&self, name: &str) -> Self {
        let above = self.0.split_last().map_or(&[][..], |(_, above)| above);
        Self(above.to_vec()).inside(name)
    }

    /// Whether this is the other key, or a table that holds it.
    pub(crate) fn holds(&self, other: &Self) -> bool {
        other.0.starts_with(&self.0)
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, part) in self.0.iter().enumerate() {
            match part {
                Part::Name(name) if at == 0 => write!(f, "{name}")?,
                // `stage.1.lr` is `stage[1].lr`: no table of a recipe has numeric keys.
                Part::Name(name) if name.parse::<usize>().is_ok() => write!(f, "[{name}]")?,
                Part::Name(name) => write!(f, ".{name}")?,
                Part::At(index) => write!(f, "[{index}]")?,
            }
        }
        Ok(())
    }
}

/// One `--set`.
#[derive(Debug, Clone)]
pub(crate) struct Setting {
    given: String,
    key: Key,
    /// The value, or `None` to remove the key.
    value: Option<Value>,
}

impl Setting {
    fn wrong(&self, reason: impl Into<String>) -> TrainError {
        wrong(&self.given, reason)
    }

    /// Its key.
    pub(crate) fn key(&self) -> &Key {
        &self.key
    }

    /// As it was given, `KEY=VALUE`.
    pub(crate) fn given(&self) -> &str {
        &self.given
    }
}

fn wrong(given: &str, reason: impl Into<String>) -> TrainError {
    TrainError::Override {
        given: given.to_owned(),
        reason: reason.into(),
    }
}

/// Applies every `KEY=VALUE` to a recipe's table, in order.
pub(crate) fn apply(table: &mut Table, given: &[String]) -> Result<Vec<Setting>, TrainError> {
    let base = table.clone();
    let mut settings = Vec::with_capacity(given.len());
    for given in given {
        let setting = read(given, &base, table)?;
        match &setting.value {
            Some(value) => {
                put(table, &setting.key, value.clone()).map_err(|reason| setting.wrong(reason))?
            }
            None => take(table, &setting.key),
        }
        settings.push(setting);
    }
    Ok(settings)
}

/// Whether a setting sets this key, or one under or above it, in the recipe's own tables or in a stage's.
pub(crate) fn is_set(settings: &[Setting], key: &[&str]) -> bool {
    settings.iter().any(|setting| {
        let names = setting.key.0.iter().filter_map(|part| match part {
            Part::Name(name) => Some(name.as_str()),
            Part::At(_) => None,
        });
        let names: Vec<&str> = names.skip_while(|name| *name != key[0]).collect();
        let common = names.len().min(key.len());
        common > 0 && names[..common] == key[..common]
    })
}

/// The notes on settings without effect. `base` is the recipe before the settings, if it can be read, and `recipe` the recipe after
/// them. Both have the paths as they were given.
pub(crate) fn notes(
    settings: &[Setting],
    base: Option<&Table>,
    table: &Table,
    recipe: &Table,
) -> Vec<String> {
    let before = base.map(flat);
    let now = flat(recipe);
    let mut notes = Vec::new();
    let mut new_tables = BTreeSet::new();
    for (at, setting) in settings.iter().enumerate() {
        let Setting { given, key, value } = setting;
        if get(table, key) != value.as_ref() {
            let later = settings[at + 1..].iter().rfind(|later| {
                let (short, long) = if later.key.0.len() < key.0.len() {
                    (&later.key, key)
                } else {
                    (key, &later.key)
                };
                long.0.starts_with(&short.0)
            });
            if let Some(later) = later {
                notes.push(format!(
                    "--set {given}: --set {} comes later and counts",
                    later.given
                ));
                continue;
            }
        }
        let Some(before) = &before else { continue };
        let name = key.to_string();
        if under(before, &name).eq(under(&now, &name)) {
            let what = match value {
                None => "it is not there".to_owned(),
                Some(_) => "it has this value already".to_owned(),
            };
            notes.push(format!("--set {given} changes nothing: {what}"));
        } else if let (Some(_), Some((_, above))) = (value, key.0.split_last()) {
            let above = Key(above.to_vec()).to_string();
            let data = above.is_empty() || above.starts_with("data.");
            if !data && under(before, &above).next().is_none() && new_tables.insert(above.clone()) {
                notes.push(format!(
                    "--set {given}: the recipe had no [{above}] and has one now, with what else is in it by default"
                ));
            }
        }
    }
    notes
}

/// The notes on settings of keys that nothing reads.
pub(crate) fn idle(settings: &[Setting], recipe: &Recipe) -> Vec<String> {
    let idle = idle::of(recipe);
    let mut notes = Vec::new();
    for setting in settings {
        let Some(value) = &setting.value else {
            continue;
        };
        let key = setting.key.to_string();
        let set = flat(&Table::from_iter([(key.clone(), value.clone())]));
        for found in &idle {
            let Setting { given, .. } = setting;
            let why = found.why;
            if covers(&found.key, &key) {
                notes.push(format!("--set {given} changes nothing: {why}"));
            } else if set.keys().any(|key| covers(&found.key, key)) {
                // A table that is set whole, of which this is a part.
                notes.push(format!(
                    "--set {given}: {} changes nothing: {why}",
                    found.key
                ));
            }
        }
    }
    notes
}

/// Keys of a recipe's file that nothing reads.
pub(crate) fn idle_keys(table: &Table, recipe: &Recipe) -> Vec<String> {
    let given = flat(table);
    let idle = idle::of(recipe).into_iter();
    let idle = idle.filter(|idle| given.keys().any(|key| covers(&idle.key, key)));
    idle.map(|idle| format!("{} changes nothing: {}", idle.key, idle.why))
        .collect()
}

/// The error of a setting for a source that is not read.
pub(crate) fn unread(settings: &[Setting], recipe: &Recipe) -> Result<(), TrainError> {
    for setting in settings.iter().filter(|setting| setting.value.is_some()) {
        let names: Vec<&str> = setting
            .key
            .0
            .iter()
            .filter_map(|part| match part {
                Part::Name(name) => Some(name.as_str()),
                Part::At(_) => None,
            })
            .collect();
        let data = names.iter().position(|name| *name == "data");
        let Some(name) = data.and_then(|at| names.get(at + 1)) else {
            continue;
        };
        let Some(kind) = SourceKind::named(name) else {
            continue;
        };
        // The keys of `[data]` also count for the data of every stage.
        let mut read = recipe.each_data().into_iter();
        if !read.any(|(_, data)| data.source == kind) {
            return Err(setting.wrong(format!(
                "is not read, because data.source is \"{}\": add --set data.source={name}, or give the data by --data",
                recipe.data.source.name()
            )));
        }
    }
    Ok(())
}

/// Tables of a recipe's file for sources that are not read.
pub(crate) fn unread_tables(table: &Table, recipe: &Recipe) -> Vec<String> {
    let Some(data) = table.get("data").and_then(Value::as_table) else {
        return Vec::new();
    };
    let read = recipe.each_data().into_iter();
    let read: Vec<SourceKind> = read.map(|(_, data)| data.source).collect();
    // `"none"` in its place removes one that the recipe would have from another.
    data.iter()
        .filter(|(_, value)| value.is_table())
        .filter(|(name, _)| SourceKind::named(name).is_some_and(|kind| !read.contains(&kind)))
        .map(|(name, _)| {
            format!(
                "[data.{name}] is not read, because data.source is \"{}\"",
                recipe.data.source.name()
            )
        })
        .collect()
}

/// Every value of a table by its full key. A table or an array is listed by its contents, or as itself if it is empty.
pub(crate) fn flat(table: &Table) -> BTreeMap<String, Value> {
    fn add(all: &mut BTreeMap<String, Value>, key: &str, value: &Value) {
        match value {
            Value::Table(table) if !table.is_empty() => {
                for (name, value) in table {
                    let key = if key.is_empty() {
                        name.clone()
                    } else {
                        format!("{key}.{name}")
                    };
                    add(all, &key, value);
                }
            }
            Value::Array(values) if values.iter().any(Value::is_table) => {
                for (at, value) in values.iter().enumerate() {
                    add(all, &format!("{key}[{at}]"), value);
                }
            }
            value => {
                all.insert(key.to_owned(), value.clone());
            }
        }
    }
    let mut all = BTreeMap::new();
    add(&mut all, "", &Value::Table(table.clone()));
    all
}

/// The entries at a key and below it.
fn under<'a>(
    all: &'a BTreeMap<String, Value>,
    key: &'a str,
) -> impl Iterator<Item = (&'a String, &'a Value)> {
    all.iter().filter(move |(name, _)| {
        let rest = name.strip_prefix(key);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
    })
}

/// Reads `KEY=VALUE`. The value is read as TOML, or as a string if it is not valid TOML.
fn read(given: &str, base: &Table, now: &Table) -> Result<Setting, TrainError> {
    let Some((key, text)) = split(given) else {
        return Err(wrong(given, "must be key=value"));
    };
    let key = parse_key(key).map_err(|reason| wrong(given, reason))?;
    let value = format!("v = {text}")
        .parse::<Table>()
        .ok()
        .filter(|table| table.len() == 1)
        .and_then(|mut table| table.remove("v"))
        .unwrap_or_else(|| Value::String(text.to_owned()));
    let mut setting = Setting {
        given: given.to_owned(),
        key,
        value: Some(value),
    };
    // In quotes, it is a string like any other.
    if text.trim() == NONE {
        // A recipe that cannot be read until later settings are applied does not tell its keys; before the first `--set` it did.
        let base = if is_recipe(now) { now } else { base };
        setting.value = none(&setting, base, now)?;
    }
    Ok(setting)
}

/// Splits at the first `=` that is not in quotes.
fn split(given: &str) -> Option<(&str, &str)> {
    let mut quoted = false;
    let at = given.char_indices().find_map(|(at, character)| {
        quoted ^= character == '"';
        (character == '=' && !quoted).then_some(at)
    })?;
    Some((&given[..at], &given[at + 1..]))
}

/// Parses `a.b[0]."c.d"`.
pub(crate) fn parse_key(text: &str) -> Result<Key, String> {
    let empty = || "an empty key".to_owned();
    let mut parts = Vec::new();
    let mut rest = text.trim();
    loop {
        if let Some(quoted) = rest.strip_prefix('"') {
            let (name, behind) = quoted.split_once('"').ok_or("a quote without its end")?;
            parts.push(Part::Name(name.to_owned()));
            rest = behind;
        } else {
            let end = rest.find(['.', '[']).unwrap_or(rest.len());
            let name = rest[..end].trim();
            if name.is_empty() {
                return Err(empty());
            }
            parts.push(Part::Name(name.to_owned()));
            rest = &rest[end..];
        }
        while let Some(inside) = rest.trim_start().strip_prefix('[') {
            let (index, behind) = inside.split_once(']').ok_or("a `[` without its `]`")?;
            let index = index.trim().parse();
            parts.push(Part::At(
                index.map_err(|_| "between `[` and `]` must be a number, from 0")?,
            ));
            rest = behind;
        }
        rest = rest.trim();
        match rest.strip_prefix('.') {
            Some(behind) => rest = behind.trim_start(),
            None if rest.is_empty() => return Ok(Key(parts)),
            None => return Err(format!("`{rest}` behind a part of the key")),
        }
    }
}

/// The meaning of `none` for a key: the value "none" if the key's enumeration has it, as `model.fusion.levels` does; else the
/// removal of a section or an optional value.
fn none(setting: &Setting, base: &Table, now: &Table) -> Result<Option<Value>, TrainError> {
    let literal = Value::String(NONE.to_owned());
    let takes =
        |value: &str| read_with(base, &setting.key, Value::String(value.to_owned())).is_ok();
    if takes(NONE) && !takes(BOGUS) {
        return Ok(Some(literal));
    }
    match get(now, &setting.key) {
        None => {
            put(&mut now.clone(), &setting.key, literal).map_err(|reason| setting.wrong(reason))?;
            known(setting, base)?;
            Ok(None)
        }
        Some(Value::String(_)) if !is_recipe(base) => Ok(Some(literal)),
        Some(_) => Ok(None),
    }
}

/// An error if no recipe can have a key that is not in this one.
fn known(setting: &Setting, base: &Table) -> Result<(), TrainError> {
    let probe = |base: &Table| read_with(base, &setting.key, Value::Boolean(true)).err();
    let unknown = |message: &String| {
        let field = message.strip_prefix("unknown field `")?.split('`').next()?;
        let named = |part: &Part| matches!(part, Part::Name(name) if name == field);
        setting.key.0.iter().any(named).then(|| message.clone())
    };
    let Some(error) = probe(base) else {
        return Ok(());
    };
    if let Some(message) = unknown(&error.message) {
        return Err(setting.wrong(message));
    }
    // The table is absent and its keys depend on its tag: some tag must allow the key.
    let Some(tag) = error.message.strip_prefix("missing field `") else {
        return Ok(());
    };
    let tag = tag.split('`').next().unwrap_or_default();
    let Ok(table) = parse_key(&error.path) else {
        return Ok(());
    };
    let tagged = |kind: &str| {
        let mut base = base.clone();
        let mut key = table.clone();
        key.0.push(Part::Name(tag.to_owned()));
        let put = put(&mut base, &key, Value::String(kind.to_owned()));
        put.ok().map(|()| base)
    };
    let kinds = tagged(BOGUS).and_then(|base| probe(&base));
    let Some(kinds) = kinds.filter(|error| error.message.starts_with("unknown variant")) else {
        return Ok(());
    };
    let mut messages = Vec::new();
    for kind in kinds.message.split('`').skip(3).step_by(2) {
        let error = tagged(kind).and_then(|base| probe(&base));
        match error.and_then(|error| unknown(&error.message)) {
            Some(message) => messages.push(format!("{message} where {tag} is \"{kind}\"")),
            None => return Ok(()),
        }
    }
    if messages.is_empty() {
        Ok(())
    } else {
        Err(setting.wrong(messages.join("; ")))
    }
}

/// The reason why a table is not a recipe.
struct Unreadable {
    path: String,
    message: String,
}

/// Reads a recipe with a value replaced.
fn read_with(base: &Table, key: &Key, value: Value) -> Result<Recipe, Unreadable> {
    let mut table = base.clone();
    put(&mut table, key, value).map_err(|message| Unreadable {
        path: key.to_string(),
        message,
    })?;
    serde_path_to_error::deserialize(completed(&table)).map_err(|error| Unreadable {
        path: error.path().to_string(),
        message: error.inner().message().to_owned(),
    })
}

/// Whether a table is a complete recipe.
fn is_recipe(table: &Table) -> bool {
    // Read as everywhere else, so that the compiler generates the readers of all settings once.
    serde_path_to_error::deserialize::<_, Recipe>(completed(table)).is_ok()
}

fn completed(table: &Table) -> Value {
    let mut table = table.clone();
    taken::stand_in(&mut table);
    stages::complete(&mut table);
    Value::Table(table)
}

pub(crate) fn get<'a>(table: &'a Table, key: &Key) -> Option<&'a Value> {
    let (first, rest) = key.0.split_first()?;
    let Part::Name(first) = first else {
        return None;
    };
    rest.iter()
        .try_fold(table.get(first)?, |at, part| step(at, part))
}

fn step<'a>(at: &'a Value, part: &Part) -> Option<&'a Value> {
    match (at, part) {
        (Value::Table(table), Part::Name(name)) => table.get(name),
        (Value::Array(values), part) => values.get(part.index()?),
        _ => None,
    }
}

/// Puts a value at a key. Creates missing sections.
pub(crate) fn put(table: &mut Table, key: &Key, value: Value) -> Result<(), String> {
    let mut whole = Value::Table(std::mem::take(table));
    let result = put_into(&mut whole, &key.0, String::new(), value);
    if let Value::Table(back) = whole {
        *table = back;
    }
    result
}

fn put_into(at: &mut Value, key: &[Part], name: String, value: Value) -> Result<(), String> {
    let Some((first, rest)) = key.split_first() else {
        *at = value;
        return Ok(());
    };
    match (at, first) {
        (Value::Table(table), Part::Name(part)) => {
            if matches!(rest.first(), Some(Part::At(_))) && !table.contains_key(part) {
                return Err(format!("the recipe has no `{part}`"));
            }
            let below = table
                .entry(part.clone())
                .or_insert_with(|| Value::Table(Table::new()));
            put_into(below, rest, part.clone(), value)
        }
        (Value::Array(values), part) => {
            let count = values.len();
            let index = part.index().ok_or_else(|| {
                format!("`{name}` is a list: name one of its entries, `{name}[0]`")
            })?;
            let below = values.get_mut(index).ok_or_else(|| match count {
                0 => format!("`{name}` is empty"),
                _ => format!("`{name}` has the entries 0 to {}", count - 1),
            })?;
            put_into(below, rest, format!("{name}[{index}]"), value)
        }
        (Value::Table(_), Part::At(_)) => Err(format!("`{name}` is a section, not a list")),
        _ => Err(format!("`{name}` is a value, not a section")),
    }
}

/// Removes the value at a key, if there is one.
pub(crate) fn take(table: &mut Table, key: &Key) {
    let Some((last, above)) = key.0.split_last() else {
        return;
    };
    let Some((first, rest)) = above.split_first() else {
        if let Part::Name(last) = last {
            table.remove(last);
        }
        return;
    };
    let Part::Name(first) = first else {
        return;
    };
    let Some(mut at) = table.get_mut(first) else {
        return;
    };
    for part in rest {
        let next = match (at, part) {
            (Value::Table(table), Part::Name(name)) => table.get_mut(name),
            (Value::Array(values), part) => part.index().and_then(|at| values.get_mut(at)),
            _ => None,
        };
        let Some(next) = next else {
            return;
        };
        at = next;
    }
    match (at, last) {
        (Value::Table(table), Part::Name(last)) => {
            table.remove(last);
        }
        (Value::Array(values), last) => {
            if let Some(at) = last.index().filter(|at| *at < values.len()) {
                values.remove(at);
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recipe::Overrides;

    fn with(recipe: &str, set: &[&str]) -> Result<(Recipe, Vec<String>), String> {
        let overrides = Overrides {
            data: None,
            set: set.iter().map(|s| (*s).to_owned()).collect(),
        };
        Recipe::load_quietly(recipe, &overrides).map_err(|error| error.to_string())
    }

    #[test]
    fn a_key_that_no_recipe_has_is_an_error_also_where_it_is_set_to_none() {
        for (recipe, set, named) in [
            ("unimo3-tiny", "model.fusion.level=none", "`levels`"),
            ("unimo3-tiny", "train.clip_nrom=none", "clip_nrom"),
            ("unimo3-tiny", "trainn.ema=none", "trainn"),
            ("unimo3-tiny", "objectives.vqq=none", "vqq"),
            ("unimo3-tiny", "objectives.mlm.mask.untit=none", "untit"),
            // In absent sections.
            ("unimo3-tiny", "model.joint.groundingg=none", "groundingg"),
            ("unimo3-tiny", "objectives.views.widht=none", "widht"),
            ("unimo3-tiny", "data.augment.scael=none", "scael"),
            ("unimo3-tiny", "data.regions.paht=none", "paht"),
            ("unimo3-tiny", "data.pairs.filtre=none", "filtre"),
            ("unimo3-tiny", "stage[0].lr=none", "no `stage`"),
            ("mvp-tiny", "stage[0].lrr=none", "lrr"),
            ("mvp-tiny", "stage[7].lr=none", "0 to 1"),
            ("mvp-tiny", "stage[7].lr=1e-4", "0 to 1"),
            ("mvp-tiny", "stage.lr=1e-4", "`stage[0]`"),
            ("mvp-tiny", "stage[x].lr=1e-4", "number"),
            ("unimo3-tiny", "train.steps[0]=1", "steps"),
            ("unimo3-tiny", "train.steps.more=none", "steps"),
            ("unimo3-tiny", ".steps=1", "empty key"),
            ("unimo3-tiny", "train.=1", "empty key"),
        ] {
            let error = with(recipe, &[set]).unwrap_err();
            assert!(error.contains(named), "{set}: {error}");
            assert!(error.contains("--set"), "{set}: {error}");
        }
    }

    #[test]
    fn none_is_a_value_where_there_is_one_and_removes_elsewhere() {
        let (recipe, _) = with("unimo3-tiny", &["model.fusion.levels=none"]).unwrap();
        let levels = recipe.model.fusion.unwrap().levels;
        assert_eq!(levels, unimo_encoders::fusion::Levels::None);
        // An optional string.
        let (recipe, _) = with(
            "mvp-base",
            &["init.image=none", "init.new=[\"objectives\"]"],
        )
        .unwrap();
        assert_eq!(recipe.init.unwrap().image, None);
        let (recipe, _) = with("unimo3-base", &["init=none"]).unwrap();
        assert!(recipe.init.is_none());
        // In quotes it is a string.
        let (recipe, _) = with("unimo3-tiny", &["description=\"none\""]).unwrap();
        assert_eq!(recipe.description, "none");
        // An absent section is not created.
        let (recipe, notes) = with("unimo3-tiny", &["objectives.vq.weight=none"]).unwrap();
        assert!(recipe.objectives.vq.is_none());
        assert!(notes[0].contains("changes nothing"), "{notes:?}");
    }

    #[test]
    fn stages_are_set_one_by_one() {
        for key in ["stage[1].lr", "stage.1.lr"] {
            let (recipe, notes) = with("mvp-tiny", &[&format!("{key}=2e-4")]).unwrap();
            assert_eq!(recipe.stage[1].lr, Some(2e-4));
            assert_ne!(recipe.stage[0].lr, Some(2e-4));
            assert!(notes.is_empty(), "{notes:?}");
        }
        let set = ["stage[0]=none", "stage[0].share=1.0"];
        let (recipe, _) = with("mvp-tiny", &set).unwrap();
        assert_eq!(recipe.stage.len(), 1);
    }

    #[test]
    fn what_changes_nothing_is_said() {
        let (recipe, _) = with("unimo3-tiny", &[]).unwrap();
        let same = format!("train.steps={}", recipe.train.steps);
        let prefetch = format!("data.prefetch={}", recipe.data.prefetch);
        for (set, said) in [
            (vec![same.as_str()], "this value already"),
            // A default that the file leaves out.
            (vec![prefetch.as_str()], "this value already"),
            (vec!["stage=none"], "not there"),
            (vec!["train.ema=none"], "not there"),
            (
                vec!["train.steps=7", "train.steps=8"],
                "--set train.steps=8 comes later",
            ),
            (
                vec![
                    "train.optimizer.lr=1e-9",
                    "model.text.heads=2",
                    "train.optimizer.lr=1e-4",
                ],
                "comes later",
            ),
            (
                vec!["objectives.mlm.weight=2.0", "objectives.mlm=none"],
                "comes later",
            ),
        ] {
            let (_, notes) = with("unimo3-tiny", &set).unwrap();
            assert_eq!(notes.len(), 1, "{set:?}: {notes:?}");
            assert!(notes[0].contains(said), "{set:?}: {notes:?}");
        }
        let (recipe, notes) = with("unimo3-tiny", &["train.steps=7", "train.ema=0.9"]).unwrap();
        assert_eq!((recipe.train.steps, recipe.train.ema), (7, Some(0.9)));
        assert!(notes.is_empty(), "{notes:?}");
    }

    #[test]
    fn settings_of_a_source_that_is_not_read_are_an_error() {
        for set in [
            "data.pairs.path=p.jsonl",
            "data.pairs={ path = \"p.jsonl\" }",
        ] {
            let error = with("unimo3-tiny", &[set]).unwrap_err();
            assert!(error.contains("data.source=pairs"), "{error}");
            with("unimo3-tiny", &[set, "data.source=pairs"]).unwrap();
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("mine.toml");
        let text = crate::recipe::BUILT_IN[0].text;
        std::fs::write(&path, format!("{text}\n[data.pairs]\npath = \"p.jsonl\"\n")).unwrap();
        let (_, notes) = with(&path.display().to_string(), &[]).unwrap();
        assert!(notes[0].contains("[data.pairs] is not read"), "{notes:?}");
    }

    #[test]
    fn keys_may_be_quoted() {
        let key = parse_key("data.pairs.filter.\"a.b\"").unwrap();
        assert_eq!(key.0.last(), Some(&Part::Name("a.b".to_owned())));
        assert_eq!(split("a.\"b=c\"=d=e"), Some(("a.\"b=c\"", "d=e")));
        assert_eq!(
            parse_key("stage[2].data").unwrap().to_string(),
            "stage[2].data"
        );
        assert!(parse_key("a.\"b").is_err() && parse_key("a[1").is_err());
    }
}

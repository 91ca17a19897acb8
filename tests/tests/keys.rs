//! `docs/RECIPES.md` and what `unimo recipes explain` says are true: they are made of the sources, and the sources' keys are those that
//! are read.
//!
//! `UNIMO_RENEW_KEYS=1 cargo test --release -p unimo-tests --test keys` writes both files anew and fails.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value as Json;
use toml::{Table, Value};
use unimo_tests::keys;
use unimo_train::recipe::{BUILT_IN, Overrides, Recipe};

/// Set to 1, the files are written instead of compared; the test fails in any case, so that no CI passes with it.
const RENEW: &str = "UNIMO_RENEW_KEYS";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

#[test]
fn the_page_and_what_is_explained_are_made_of_the_sources() {
    let made = keys::read(&root());
    let renew = std::env::var(RENEW).is_ok_and(|value| value == "1");
    for (file, text) in [
        ("docs/RECIPES.md", made.page()),
        ("crates/unimo-train/src/recipe/keys.json", made.json()),
    ] {
        let path = root().join(file);
        if renew {
            fs::write(&path, &text).unwrap();
        }
        let kept = fs::read_to_string(&path).unwrap_or_default();
        let differs = kept
            .lines()
            .zip(text.lines())
            .find(|(kept, made)| kept != made);
        assert!(
            kept == text,
            "{file} is not what the sources say{}; {RENEW}=1 makes it anew",
            differs
                .map(|(kept, made)| format!(":\n- {kept}\n+ {made}"))
                .unwrap_or_default()
        );
    }
    assert!(
        !renew,
        "the files are written; look at the difference and commit it"
    );
}

/// A recipe of every kind of section, so that its tables can be probed.
fn whole() -> Table {
    let mut whole = Table::new();
    for built_in in BUILT_IN {
        let data = Some(PathBuf::from("pairs.jsonl"));
        let set = vec![];
        let data = (!built_in.name.ends_with("-tiny"))
            .then_some(data)
            .flatten();
        let recipe = Recipe::load(built_in.name, &Overrides { data, set }).unwrap();
        let table: Table = recipe.to_toml().unwrap().parse().unwrap();
        merge(&mut whole, table);
    }
    whole
}

fn merge(below: &mut Table, above: Table) {
    for (key, value) in above {
        match (below.get_mut(&key), value) {
            (Some(Value::Table(below)), Value::Table(above)) => merge(below, above),
            (Some(_), _) => {}
            (None, value) => {
                below.insert(key, value);
            }
        }
    }
}

/// The keys that are read in a table of a recipe, by the error for one that is not.
fn read_keys(whole: &Table, path: &[&str]) -> Option<BTreeSet<String>> {
    let mut table = whole.clone();
    let mut at = &mut table;
    for part in path {
        let value = at.get_mut(*part)?;
        at = match value {
            Value::Table(table) => table,
            Value::Array(values) => values.first_mut()?.as_table_mut()?,
            _ => return None,
        };
    }
    at.insert("no_such_key".to_owned(), Value::Boolean(true));
    let text = toml::to_string(&table).unwrap();
    let error = toml::from_str::<Recipe>(&text).err()?;
    let (_, expected) = error
        .message()
        .split_once("unknown field `no_such_key`, expected ")?;
    let expected = expected.split(", or an objective").next()?;
    Some(
        expected
            .split('`')
            .skip(1)
            .step_by(2)
            .map(str::to_owned)
            .collect(),
    )
}

/// The names of the keys of a table that is no choice.
fn names(table: &Json) -> BTreeSet<String> {
    let keys = table["keys"].as_array().into_iter().flatten();
    keys.map(|key| key["name"].as_str().unwrap().to_owned())
        .collect()
}

/// What serde says that it expects in a table is what is documented of it.
#[test]
fn documented_keys_are_those_that_are_read() {
    let path = root().join("crates/unimo-train/src/recipe/keys.json");
    let json: Json = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    let whole = whole();
    let mut open: Vec<(Vec<&str>, &str)> = vec![(Vec::new(), json["root"].as_str().unwrap())];
    let mut compared = BTreeSet::new();
    while let Some((path, of)) = open.pop() {
        let table = &json["tables"][of];
        if path.len() > 5 || !compared.insert((of, path.len())) {
            continue;
        }
        // Keys of a table that stand among those of another are read with it.
        let keys = table["keys"].as_array().into_iter().flatten();
        let flat = keys.clone().any(|key| {
            let (name, kind) = (key["name"].as_str(), key["type"].as_str());
            name.is_some_and(|name| kind == Some(&format!("table with `{name}`")))
        });
        if table["values"].is_null() && !flat {
            if let Some(read) = read_keys(&whole, &path) {
                assert_eq!(names(table), read, "{}", path.join("."));
            } else {
                compared.remove(&(of, path.len()));
            }
        }
        for key in table["keys"].as_array().into_iter().flatten() {
            if let Some(of) = key["of"].as_str() {
                let mut path = path.clone();
                path.push(key["name"].as_str().unwrap());
                open.push((path, of));
            }
        }
    }
    assert!(
        compared.len() > 30,
        "only {} tables could be compared",
        compared.len()
    );
}

/// A default is what is there if the key is left out.
#[test]
fn documented_defaults_are_those_that_are_taken() {
    let path = root().join("crates/unimo-train/src/recipe/keys.json");
    let json: Json = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    let mut compared = 0;
    for (section, of) in [
        ("data", "DataConfig"),
        ("train", "TrainConfig"),
        ("eval", "EvalConfig"),
    ] {
        let keys = json["tables"][of]["keys"].as_array().unwrap();
        for key in keys {
            let (Some(name), Some(default)) = (key["name"].as_str(), key["default"].as_str())
            else {
                continue;
            };
            if default == "absent" {
                continue;
            }
            let mut table: Table = BUILT_IN[0].text.parse().unwrap();
            table[section].as_table_mut().unwrap().remove(name);
            let text = toml::to_string(&table).unwrap();
            let Ok(recipe) = toml::from_str::<Recipe>(&text) else {
                panic!("{section}.{name} cannot be left out")
            };
            let written: Table = recipe.to_toml().unwrap().parse().unwrap();
            let taken = written[section].as_table().unwrap().get(name).cloned();
            let documented: Table = format!("v = {default}").parse().unwrap();
            let documented = &documented["v"];
            let same = match (&taken, documented) {
                (Some(Value::Float(taken)), Value::Integer(told)) => *taken == *told as f64,
                (Some(taken), told) => taken == told,
                // What is not written out is empty.
                (None, Value::Array(told)) => told.is_empty(),
                (None, Value::Table(told)) => told.is_empty(),
                (None, told) => *told == Value::Boolean(false),
            };
            // f32 values are written with their own digits.
            let close = match (&taken, documented) {
                (Some(Value::Array(taken)), Value::Array(told)) => taken.len() == told.len(),
                _ => false,
            };
            assert!(
                same || close,
                "{section}.{name}: {taken:?}, documented as {documented}"
            );
            compared += 1;
        }
    }
    assert!(compared > 15, "only {compared} defaults could be compared");
}

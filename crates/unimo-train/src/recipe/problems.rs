//! Everything that is wrong with a recipe, instead of what is found first.
//!
//! What is wrong is noted and mended: an unknown key is removed, another value replaced by one of a recipe that ships. Then the rest is
//! read. Several replacements are tried, and what only one of them brings about is no error of the file.

use std::collections::BTreeSet;
use std::path::Path;

use toml::{Table, Value};

use crate::error::{Problem, TrainError};
use crate::recipe::lines::Lines;
use crate::recipe::nearest::{is_misspelt, nearest};
use crate::recipe::overrides::{self, Key, Setting, get, parse_key, put, take};
use crate::recipe::{BUILT_IN, Overrides, Recipe, Wrong, extends, keys, own_data, taken};

/// Most errors that are told, and most attempts to mend one.
const MOST: usize = 50;
/// How many replacements of a wrong value are tried.
const VARIANTS: usize = 3;

/// A recipe's text and what the command line changes in it.
pub(crate) struct Text<'a> {
    /// The name in errors.
    pub file: &'a str,
    pub text: &'a str,
    /// The folder of the file; `None` for a recipe that ships.
    pub folder: Option<&'a Path>,
    pub overrides: &'a Overrides,
}

/// Every error of a recipe that cannot be used.
pub(crate) fn all(given: &Text<'_>) -> Vec<Problem> {
    let lines = match Lines::of(given.text) {
        Ok(lines) => lines,
        Err(errors) => {
            let told = |(line, told): (usize, String)| Problem {
                place: Some(format!("line {line}")),
                told,
            };
            return errors.into_iter().map(told).collect();
        }
    };
    let mut search = Search {
        given,
        lines,
        settings: Vec::new(),
        donors: donors(),
        found: Vec::new(),
        mended: Vec::new(),
    };
    search.run();
    search
        .found
        .sort_by_key(|(line, _)| line.unwrap_or(usize::MAX));
    search
        .found
        .into_iter()
        .map(|(_, problem)| problem)
        .collect()
}

/// The recipes that ship, as tables.
fn donors() -> Vec<Table> {
    let tables = BUILT_IN.iter().filter_map(|built_in| {
        let table: Table = built_in.text.parse().ok()?;
        extends::complete(built_in.name, table, None).ok()
    });
    tables.collect()
}

/// A key whose value was wrong, with values that are read in its place; `None` removes it.
type Mended = (Key, Vec<Option<Value>>);

struct Search<'a> {
    given: &'a Text<'a>,
    lines: Lines<'a>,
    settings: Vec<Setting>,
    donors: Vec<Table>,
    /// What was found, with its line in the file.
    found: Vec<(Option<usize>, Problem)>,
    mended: Vec<Mended>,
}

impl Search<'_> {
    fn run(&mut self) {
        let Ok(table) = self.given.text.parse::<Table>() else {
            return;
        };
        let table = self.with_extends(table);
        let mut table = match extends::complete(self.given.file, table, self.given.folder) {
            Ok(table) => table,
            Err(TrainError::Recipe { file, reason }) if file == self.given.file => {
                return self.tell(None, reason);
            }
            Err(error) => return self.tell(None, error.to_string()),
        };
        for set in &self.given.overrides.set {
            match overrides::apply(&mut table, std::slice::from_ref(set)) {
                Ok(settings) => self.settings.extend(settings),
                Err(error) => self.tell(None, error.to_string()),
            }
        }
        if self.given.overrides.data.is_some() {
            own_data::make_way(&mut table, &self.settings);
        }
        if let Err(error) = taken::take(&mut table, self.given.folder) {
            self.tell(None, error.to_string());
            taken::stand_in(&mut table);
        }
        if self.structure(&mut table) {
            self.values(&table);
        }
    }

    /// Notes a misspelt `extends`, without which everything else would be missing.
    fn with_extends(&mut self, mut table: Table) -> Table {
        let near = |name: &&String| nearest(name, [extends::KEY]).is_some();
        let name = table.keys().find(near).cloned();
        let is_known = |name: &String| !keys::elsewhere("", name).is_empty();
        let Some(name) = name.filter(|name| !extends::is_based(&table) && !is_known(name)) else {
            return table;
        };
        if let (Ok(key), Some(value)) = (parse_key(&name), table.remove(&name)) {
            let told = format!(
                "`{name}`: there is no such key; did you mean `{}`?",
                extends::KEY
            );
            self.tell(Some(&key), told);
            table.insert(extends::KEY.to_owned(), value);
        }
        table
    }

    fn tell(&mut self, key: Option<&Key>, told: String) {
        let set = key.and_then(|key| self.set_at(key));
        let line = match (key, set, self.given.folder) {
            // The lines of a recipe that ships are not the user's.
            (Some(key), None, Some(_)) => self.lines.of_key(key),
            _ => None,
        };
        let place = match (set, line) {
            (Some(set), _) => Some(format!("--set {}", set.given())),
            (None, Some(line)) => Some(format!("line {line}")),
            (None, None) => None,
        };
        let problem = Problem { place, told };
        if !self.found.iter().any(|(_, found)| *found == problem) {
            self.found.push((line, problem));
        }
    }

    /// The last setting of a key, or of one above or below it.
    fn set_at(&self, key: &Key) -> Option<&Setting> {
        let mut set = self.settings.iter().rev();
        set.find(|set| set.key().holds(key) || key.holds(set.key()))
    }

    /// Notes keys that no recipe has, that are missing, and values of another type. Whether the table is a recipe afterwards.
    fn structure(&mut self, table: &mut Table) -> bool {
        for _ in 0..MOST {
            let wrong = match Recipe::read(table.clone()) {
                Ok(_) => return true,
                Err(wrong) => wrong,
            };
            let Ok(mut key) = parse_key(&wrong.key) else {
                self.tell(None, wrong.to_string());
                return false;
            };
            let field = quoted_behind(&wrong.reason, "unknown field `");
            let elsewhere = field
                .filter(|field| !is_misspelt(field, allowed(&wrong.reason)))
                .map(|field| keys::elsewhere(&section(&key, field), field));
            let elsewhere = elsewhere.unwrap_or_default();
            // What is read by its tag is named as a whole.
            if let Some(field) = field {
                let inside = key.inside(field);
                if get(table, &inside).is_some() {
                    key = inside;
                }
            }
            let reason = match &elsewhere[..] {
                [] => told(&wrong.reason),
                paths => format!("there is no such key here; did you mean {}?", quoted(paths)),
            };
            self.tell(Some(&key), format!("`{key}`: {reason}"));
            let before = table.clone();
            if let Some(field) = field {
                // Read under the name that was meant, what is in it is judged too.
                let meant = nearest(field, allowed(&wrong.reason)).filter(|_| elsewhere.is_empty());
                let meant = meant.map(|meant| key.beside(meant));
                let value = get(table, &key).cloned();
                take(table, &key);
                if let (Some(meant), Some(value)) = (meant, value)
                    && get(table, &meant).is_none()
                {
                    replace(table, &meant, Some(&Some(value)));
                }
            } else if let Some(works) = self.mend(table, &wrong, &key) {
                replace(table, &key, works.first());
                self.mended.push((key, works));
            }
            if *table == before {
                return false;
            }
        }
        false
    }

    /// Values with which a recipe is read beyond a key.
    fn mend(&self, table: &Table, wrong: &Wrong, key: &Key) -> Option<Vec<Option<Value>>> {
        let names = wrong.reason.split('`').skip(1).step_by(2);
        let names = names.map(|name| Value::String(name.to_owned()));
        let plain = [
            Value::Integer(1),
            Value::Float(0.5),
            Value::Boolean(true),
            Value::String("x".to_owned()),
            Value::Array(Vec::new()),
            Value::Table(Table::new()),
        ];
        let all = self.of_others(key).into_iter().chain(names).chain(plain);
        let reads = |value: &Option<Value>| {
            let mut table = table.clone();
            replace(&mut table, key, Some(value));
            Recipe::read(table)
                .err()
                .is_none_or(|error| error.key != wrong.key)
        };
        let works: Vec<_> = all
            .map(Some)
            .chain([None])
            .filter(reads)
            .take(VARIANTS)
            .collect();
        (!works.is_empty()).then_some(works)
    }

    /// The values that the recipes that ship have at a key.
    fn of_others(&self, key: &Key) -> Vec<Value> {
        let mut values: Vec<Value> = Vec::new();
        for value in self.donors.iter().filter_map(|donor| get(donor, key)) {
            if !values.contains(value) {
                values.push(value.clone());
            }
        }
        values
    }

    /// Notes values that are not allowed, alone or beside others.
    fn values(&mut self, table: &Table) {
        let mut told: BTreeSet<String> = BTreeSet::new();
        for _ in 0..MOST {
            let mut common: Option<Vec<Wrong>> = None;
            for variant in 0..VARIANTS {
                let Some(wrong) = self.wrong_in(&self.variant(table, variant)) else {
                    continue;
                };
                common = Some(match common {
                    None => wrong,
                    Some(before) => before.into_iter().filter(|w| wrong.contains(w)).collect(),
                });
            }
            let mut mended = false;
            let mut news = false;
            for wrong in common.unwrap_or_default() {
                let key = parse_key(&wrong.key).ok();
                let known = |key: &Key| self.mended.iter().any(|(mended, _)| mended.holds(key));
                if key.as_ref().is_some_and(known) || !told.insert(wrong.to_string()) {
                    continue;
                }
                news = true;
                self.tell(key.as_ref(), wrong.to_string());
                let Some(key) = key else { continue };
                let base = self.variant(table, 0);
                let others = self.of_others(&key).into_iter().map(Some).chain([None]);
                let works: Vec<_> = others
                    .filter(|value| {
                        let mut table = base.clone();
                        replace(&mut table, &key, Some(value));
                        let left = self.wrong_in(&table);
                        left.is_some_and(|left| left.iter().all(|w| w.key != wrong.key))
                    })
                    .take(VARIANTS)
                    .collect();
                if !works.is_empty() {
                    self.mended.push((key, works));
                    mended = true;
                }
            }
            if !news || !mended {
                return;
            }
        }
    }

    /// The table with one of the replacements of everything that was wrong.
    fn variant(&self, table: &Table, number: usize) -> Table {
        let mut table = table.clone();
        for (key, values) in &self.mended {
            replace(&mut table, key, values.get(number % values.len()));
        }
        table
    }

    /// The values of a table that are not allowed; `None` if it is no recipe.
    fn wrong_in(&self, table: &Table) -> Option<Vec<Wrong>> {
        let recipe = Recipe::read(table.clone()).ok()?;
        let data = self.given.overrides.data.as_deref();
        match recipe.placed(self.given.folder, data) {
            Ok(recipe) => {
                let mut wrong = recipe.wrong();
                if let Err(error) = overrides::unread(&self.settings, &recipe) {
                    wrong.push(Wrong {
                        key: String::new(),
                        reason: error.to_string(),
                    });
                }
                Some(wrong)
            }
            Err(error) => Some(vec![Wrong {
                key: String::new(),
                reason: error.to_string(),
            }]),
        }
    }
}

/// Puts a value at a key, or removes the key.
fn replace(table: &mut Table, key: &Key, value: Option<&Option<Value>>) {
    match value {
        Some(Some(value)) => {
            // What cannot be put there is not read with it either.
            let _ = put(table, key, value.clone());
        }
        Some(None) => take(table, key),
        None => {}
    }
}

/// The table that an unknown key is in. What is read by its tag is named as a whole.
fn section(key: &Key, field: &str) -> String {
    let key = key.to_string();
    let without = key.strip_suffix(field).map(|of| of.trim_end_matches('.'));
    without.unwrap_or(&key).to_owned()
}

/// Keys one after the other.
fn quoted(keys: &[String]) -> String {
    let each: Vec<String> = keys.iter().map(|key| format!("`{key}`")).collect();
    each.join(" or ")
}

/// The name behind these words.
fn quoted_behind<'a>(text: &'a str, words: &str) -> Option<&'a str> {
    text.strip_prefix(words)?.split('`').next()
}

/// The names that a reason says are expected.
fn allowed(reason: &str) -> impl Iterator<Item = &str> {
    reason.split('`').skip(3).step_by(2)
}

/// Types as the reader calls them, and as they are called in a recipe.
const TYPES: [(&str, &str); 9] = [
    ("usize", "a whole number"),
    ("u64", "a whole number"),
    ("u32", "a whole number"),
    ("i64", "a whole number"),
    ("f64", "a number"),
    ("f32", "a number"),
    ("a boolean", "true or false"),
    ("a sequence", "a list"),
    ("a map", "a table"),
];

/// A reason in the words of a recipe, with the name that a misspelt one may have been meant to be.
fn told(reason: &str) -> String {
    if let Some((given, expected)) = reason.rsplit_once(", expected ") {
        let known = TYPES.iter().find(|(reader, _)| *reader == expected);
        let table = expected.starts_with("struct ").then_some("a table");
        if let Some(words) = known.map(|(_, words)| *words).or(table) {
            return format!("{given}, expected {words}");
        }
    }
    let misspelt = ["unknown field `", "unknown variant `"]
        .iter()
        .find_map(|words| quoted_behind(reason, words));
    let Some((misspelt, meant)) = misspelt.and_then(|m| Some((m, nearest(m, allowed(reason))?)))
    else {
        return reason.to_owned();
    };
    let behind = format!("`{misspelt}`");
    reason.replacen(&behind, &format!("{behind} (did you mean `{meant}`?)"), 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(text: &str, set: &[&str]) -> Vec<String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("mine.toml");
        std::fs::write(&path, text).unwrap();
        let overrides = Overrides {
            data: None,
            set: set.iter().map(|s| (*s).to_owned()).collect(),
        };
        match Recipe::load_quietly(&path.display().to_string(), &overrides) {
            Ok(_) => Vec::new(),
            Err(TrainError::Problems { problems, .. }) => {
                problems.iter().map(ToString::to_string).collect()
            }
            Err(error) => panic!("{error}"),
        }
    }

    fn tiny() -> String {
        BUILT_IN[0].text.to_owned()
    }

    fn line_of(text: &str, part: &str) -> usize {
        1 + text.lines().position(|line| line.contains(part)).unwrap()
    }

    #[test]
    fn every_error_of_a_file_is_told_with_its_line() {
        let text = tiny()
            .replace("clip_norm = ", "clip_nrom = ")
            .replace("batch_size = 32", "batch_size = \"many\"")
            .replace("gate = \"cls\"", "gate = \"clss\"")
            .replace("pre_norm = true\n", "")
            .replace("lr = 1e-3", "lr = -1e-3")
            .replace("weight_decay = 0.01", "weight_decay = 2.0")
            .replace("patch_size = 8", "patch_size = 7")
            .replace("max_skipped = 0.01", "max_skipped = 7.0")
            .replace("[data.scenes]\n", "[data.scenes]\nsizes = 3\n");
        let found = problems(&text, &["eval.gallary=3"]);
        let expected = [
            ("clip_nrom = ", "did you mean `clip_norm`?"),
            (
                "batch_size = \"many\"",
                "`train.batch_size`: invalid type: string \"many\", expected a whole number",
            ),
            ("gate = \"clss\"", "did you mean `cls`?"),
            ("[model.image]", "missing field `pre_norm`"),
            ("lr = -1e-3", "`train.optimizer.lr = -0.001`"),
            ("weight_decay = 2.0", "`train.optimizer.weight_decay = 2`"),
            ("patch_size = 7", "`model.image.patch_size = 7`"),
            ("max_skipped = 7.0", "`data.max_skipped` is 7"),
            ("sizes = 3", "did you mean `size`?"),
        ];
        for (at, told) in expected {
            let line = format!("line {}: ", line_of(&text, at));
            assert!(
                found
                    .iter()
                    .any(|f| f.starts_with(&line) && f.contains(told)),
                "{line}{told}\n{found:#?}"
            );
        }
        assert!(
            found
                .iter()
                .any(|f| f.starts_with("--set eval.gallary=3: "))
        );
        assert_eq!(found.len(), expected.len() + 1, "{found:#?}");
    }

    /// An error that a replaced value brings about is not the file's.
    #[test]
    fn nothing_is_told_of_values_that_are_right() {
        let rights = [
            ("source = \"scenes\"", "source = \"scene\""),
            ("image_size = 64", "image_size = \"64\""),
            ("heads = 4", "heads = 5"),
            ("levels = \"cross_prev\"", "levels = \"cross_previous\""),
            ("kind = \"train\"", "kind = \"training\""),
            ("steps = 600", "steps = 0"),
            ("[objectives.itc]", "[objectives.itcc]"),
        ];
        for (right, wrong) in rights {
            let text = tiny().replacen(right, wrong, 1);
            let found = problems(&text, &[]);
            assert_eq!(found.len(), 1, "{wrong}: {found:#?}");
        }
    }

    #[test]
    fn what_is_extended_and_what_is_set_have_their_places() {
        let text = "extends = \"unimo3-tiny\"\n[train]\nsteps = 0\n[model.text]\nwidht = 3\n";
        let found = problems(text, &["train.optimizer.lr=-1.0", "model.image.heads=5"]);
        let starts = [
            "line 5: ",
            "line 3: ",
            "--set train.optimizer.lr=-1.0: ",
            "--set model.image.heads=5: ",
        ];
        for start in starts {
            assert!(
                found.iter().any(|f| f.starts_with(start)),
                "{start}: {found:#?}"
            );
        }
        assert_eq!(found.len(), starts.len(), "{found:#?}");
        assert!(problems(&tiny(), &[]).is_empty());
    }

    /// A key in the wrong table, or with another tool's name, is one error, which says where it belongs.
    #[test]
    fn keys_of_other_tables_are_one_error() {
        for (set, meant) in [
            ("train.lr=0.1", "`train.optimizer.lr`"),
            ("steps=3", "`train.steps`"),
            ("train.optimizer.learning_rate=0.1", "`train.optimizer.lr`"),
            ("optimizer.lr=0.1", "`train.optimizer`"),
        ] {
            let found = problems(&tiny(), &[set]);
            assert_eq!(found.len(), 1, "{set}: {found:#?}");
            assert!(
                found[0].starts_with(&format!("--set {set}: "))
                    && found[0].contains(&format!("did you mean {meant}?")),
                "{set}: {found:#?}"
            );
        }
        let found = problems("extend = \"unimo3-tiny\"\n[train]\nsteps = 3\n", &[]);
        assert_eq!(
            found,
            ["line 1: `extend`: there is no such key; did you mean `extends`?"]
        );
    }

    #[test]
    fn errors_of_toml_have_lines() {
        let text = tiny()
            .replace("steps = 600", "steps = ")
            .replace("beta1 = 0.9", "beta1 0.9");
        let found = problems(&text, &[]);
        for part in ["steps = \n", "beta1 0.9"] {
            let line = 1 + text[..text.find(part).unwrap()].matches('\n').count();
            let line = format!("line {line}: ");
            assert!(
                found.iter().any(|f| f.starts_with(&line)),
                "{line}: {found:#?}"
            );
        }
    }
}

//! What a command needs of `unimo` besides a device: readers whose dependencies take minutes to build.
//!
//! Parquet files and shards behind URLs are cargo features of `unimo`. A command that names neither is built without them.
//! What is overlooked here ends in an error of `unimo` that names the feature, never in other data.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

/// The feature that reads Parquet files.
const PARQUET: &str = "parquet";
/// The feature that reads what lies behind URLs.
const REMOTE: &str = "remote";
/// What URLs begin with that `unimo` reads.
const SCHEMES: &[&str] = &["http://", "https://", "s3://", "gs://", "az://"];
/// How far down a folder is looked into.
const DEEPEST_FOLDER: usize = 2;
/// Entries of a folder that are looked at. Parquet files lie in folders of their own.
const MOST_ENTRIES: usize = 10_000;

/// The features that the data of a command needs; `args` are those of `unimo`.
pub fn of(args: &[OsString]) -> Vec<&'static str> {
    let mut found = Found::default();
    for arg in args {
        let arg = arg.to_string_lossy();
        // `--option=value` and `key=value` say as much by their value as `--option value`.
        let value = arg.split_once('=').map_or(&*arg, |(_, value)| value);
        if arg.ends_with("data.source=parquet") {
            found.parquet = true;
        }
        found.value(unquoted(value));
    }
    found.features()
}

#[derive(Debug, Default)]
struct Found {
    parquet: bool,
    remote: bool,
}

impl Found {
    fn features(&self) -> Vec<&'static str> {
        let all = [(self.parquet, PARQUET), (self.remote, REMOTE)];
        all.into_iter()
            .filter_map(|(needed, feature)| needed.then_some(feature))
            .collect()
    }

    /// An argument: a URL, a file, a folder, a run or a recipe.
    fn value(&mut self, value: &str) {
        if SCHEMES.iter().any(|scheme| value.starts_with(scheme)) {
            self.remote = true;
            // Its end says what is behind it.
            self.parquet |= is_parquet(Path::new(value));
            return;
        }
        let path = Path::new(value);
        self.parquet |= is_parquet(path);
        if path.is_dir() {
            self.parquet |= holds_parquet(path, DEEPEST_FOLDER);
        }
        if let Some(recipe) = recipe_of(path) {
            // What cannot be read is for `unimo` to say.
            self.recipe(&fs::read_to_string(recipe).unwrap_or_default());
        }
    }

    /// A recipe's text. Only its lines are looked at: reading TOML whole would take a dependency that has to be built first.
    fn recipe(&mut self, text: &str) {
        for line in text.lines() {
            let Some((key, value)) = line.split_once('=') else {
                self.strings(line);
                continue;
            };
            if key.trim_start().starts_with('#') {
                continue;
            }
            self.strings(value);
            let value = value.trim();
            let source = key.trim() == "source" || key.trim().ends_with(".source");
            self.parquet |= source && strings(value).first().is_some_and(|v| *v == PARQUET);
        }
    }

    /// The strings of a line of a recipe.
    fn strings(&mut self, line: &str) {
        if line.trim_start().starts_with('#') {
            return;
        }
        for text in strings(line) {
            self.remote |= SCHEMES.iter().any(|scheme| text.starts_with(scheme));
            self.parquet |= is_parquet(Path::new(text));
        }
    }
}

/// What stands between quotation marks.
fn strings(line: &str) -> Vec<&str> {
    line.split(['"', '\'']).skip(1).step_by(2).collect()
}

fn unquoted(value: &str) -> &str {
    value.trim_matches(['"', '\''])
}

fn is_parquet(path: &Path) -> bool {
    path.extension()
        .is_some_and(|extension| extension.eq_ignore_ascii_case(PARQUET))
}

/// Whether a folder holds a Parquet file, `depth` folders down at most.
fn holds_parquet(folder: &Path, depth: usize) -> bool {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.take(MOST_ENTRIES).any(|entry| {
        let path = entry.path();
        is_parquet(&path)
            || (depth > 0
                && entry.file_type().is_ok_and(|kind| kind.is_dir())
                && holds_parquet(&path, depth - 1))
    })
}

/// The recipe that an argument names: a TOML file, or that of a run or of a file in its folders.
fn recipe_of(path: &Path) -> Option<PathBuf> {
    if path
        .extension()
        .is_some_and(|extension| extension == "toml")
    {
        return Some(path.to_owned());
    }
    /// A checkpoint's file lies in a folder of a run.
    const FOLDERS_UP: usize = 3;
    if !path.exists() {
        return None;
    }
    path.ancestors()
        .take(FOLDERS_UP)
        .map(|folder| folder.join("recipe.toml"))
        .find(|recipe| recipe.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_line(line: &str) -> Vec<&'static str> {
        of(&line.split(' ').map(OsString::from).collect::<Vec<_>>())
    }

    #[test]
    fn arguments_say_what_is_read() {
        for (line, expected) in [
            ("train unimo3-tiny", &[] as &[_]),
            ("train unimo3-tiny --data pairs.jsonl", &[]),
            ("train unimo3-tiny --data train.parquet", &[PARQUET]),
            ("train unimo3-tiny --data=train.PARQUET", &[PARQUET]),
            ("train x --set data.source=parquet", &[PARQUET]),
            ("train x --data https://host/shards/index.json", &[REMOTE]),
            ("train x --data s3://bucket/a.parquet", &[PARQUET, REMOTE]),
            ("train x --set init.text=FacebookAI/roberta-base", &[]),
            ("train x --set data.webdataset.urls=[\"x\"]", &[]),
        ] {
            assert_eq!(of_line(line), expected, "{line}");
        }
    }

    #[test]
    fn recipes_and_runs_say_what_is_read() {
        for (text, expected) in [
            (
                "# https://arxiv.org\n[data]\nsource = \"pairs\"",
                &[] as &[_],
            ),
            (
                "[data]\nsource = \"parquet\" # as the hub has it",
                &[PARQUET],
            ),
            ("data.source = 'parquet'", &[PARQUET]),
            ("urls = [\n  \"gs://bucket/{00..99}.tar\",\n]", &[REMOTE]),
            ("urls = [\"a.tar\", \"http://host/b.tar\"]", &[REMOTE]),
            ("path = \"a.parquet\"", &[PARQUET]),
        ] {
            let mut found = Found::default();
            found.recipe(text);
            assert_eq!(found.features(), expected, "{text}");
        }
    }

    #[test]
    fn folders_and_runs_are_looked_into() {
        let folder = env!("CARGO_MANIFEST_DIR");
        assert_eq!(recipe_of(Path::new(folder)), None);
        let here = std::env::temp_dir().join(format!("xtask-needs-{}", std::process::id()));
        let deep = here.join("set").join("data");
        fs::create_dir_all(&deep).unwrap();
        fs::write(deep.join("train-00000-of-00001.parquet"), "").unwrap();
        let run = here.join("run").join("checkpoints");
        fs::create_dir_all(&run).unwrap();
        fs::write(
            here.join("run").join("recipe.toml"),
            "urls = [\"s3://b/x.tar\"]",
        )
        .unwrap();
        let asked = |path: &Path| of(&["train".into(), "--data".into(), path.into()]);
        let found = (
            asked(&here.join("set")),
            asked(&run),
            asked(&here.join("run")),
        );
        fs::remove_dir_all(&here).unwrap();
        assert_eq!(found, (vec![PARQUET], vec![REMOTE], vec![REMOTE]));
    }
}

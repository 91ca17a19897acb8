//! What a command needs from `unimo` besides a device: readers whose dependencies take minutes to build.
//!
//! Reading Parquet files, shards behind URLs and checkpoints of the Hugging Face hub are cargo features of `unimo`. A command that
//! names none of them is built without them. If this module overlooks one, `unimo` ends with an error that names the feature; it
//! never reads other data.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

/// The feature that reads Parquet files.
const PARQUET: &str = "parquet";
/// The feature that reads files from URLs.
const REMOTE: &str = "remote";
/// The feature that fetches checkpoints by their Hugging Face id.
const HUB: &str = "hub";
/// The command whose `.toml` file names recipes and is none itself.
const SWEEP: &str = "sweep";
/// Options whose value may be or contain such an id. The values of other options are files, folders and numbers.
const OF_CHECKPOINTS: &[&str] = &["--set", "--tokenizer"];
/// Commands that only read recipes: they open no data and no weights.
const OF_RECIPES: [&str; 2] = ["recipes", "names"];
/// Beginnings of the URLs that `unimo` reads.
const SCHEMES: &[&str] = &["http://", "https://", "s3://", "gs://", "az://"];
/// Largest number of recipes extending each other that are followed.
const DEEPEST_RECIPE: usize = 16;
/// Deepest level of a folder that is searched.
const DEEPEST_FOLDER: usize = 2;
/// Largest number of entries of a folder that are inspected. Parquet files are usually in separate folders.
const MOST_ENTRIES: usize = 10_000;

/// The features that the data of a command needs; `args` are those of the program.
pub fn of(args: &[OsString]) -> Vec<&'static str> {
    if args
        .first()
        .is_some_and(|command| OF_RECIPES.iter().any(|name| command == name))
    {
        return Vec::new();
    }
    let mut found = Found {
        sweep: args.first().is_some_and(|command| command == SWEEP),
        ..Found::default()
    };
    // The option whose value the next argument may be.
    let mut option = None;
    for arg in args {
        let arg = arg.to_string_lossy();
        // The value counts the same in `--option=value`, `key=value` and `--option value`.
        let (key, value) = match arg.split_once('=') {
            Some((key, value)) => (Some(key), value),
            None => (None, &*arg),
        };
        if arg.ends_with("data.source=parquet") {
            found.parquet = true;
        }
        let own = key.filter(|key| key.starts_with("--")).map(str::to_owned);
        let of: Option<String> = own.or(option);
        if of.is_none_or(|of| OF_CHECKPOINTS.contains(&&*of)) {
            found.hub |= is_id(unquoted(value));
        }
        found.value(unquoted(value));
        option = (key.is_none() && arg.starts_with("--")).then(|| arg.into_owned());
    }
    found.features()
}

#[derive(Debug, Default)]
struct Found {
    parquet: bool,
    remote: bool,
    hub: bool,
    /// Number of recipes that were followed by their `extends`.
    extended: usize,
    /// Whether the next `.toml` file is that of a sweep.
    sweep: bool,
}

impl Found {
    fn features(&self) -> Vec<&'static str> {
        let all = [
            (self.parquet, PARQUET),
            (self.remote, REMOTE),
            (self.hub, HUB),
        ];
        all.into_iter()
            .filter_map(|(needed, feature)| needed.then_some(feature))
            .collect()
    }

    /// An argument: a URL, a file, a folder, a run or a recipe.
    fn value(&mut self, value: &str) {
        if SCHEMES.iter().any(|scheme| value.starts_with(scheme)) {
            self.remote = true;
            // The file name's extension gives the format behind the URL.
            self.parquet |= is_parquet(Path::new(value));
            return;
        }
        let path = Path::new(value);
        self.parquet |= is_parquet(path);
        if path.is_dir() {
            self.parquet |= holds_parquet(path, DEEPEST_FOLDER);
        }
        if let Some(recipe) = recipe_of(path) {
            // `unimo` reports what cannot be read.
            let text = fs::read_to_string(&recipe).unwrap_or_default();
            let folder = recipe.parent().unwrap_or(Path::new(""));
            let is_file = recipe == path;
            if std::mem::take(&mut self.sweep) && is_file {
                self.sweep_file(&text, folder);
            } else {
                self.recipe(&text, folder);
            }
        }
    }

    /// Reads a recipe's text, line by line: a TOML parser would be a dependency that has to be built first.
    fn recipe(&mut self, text: &str, folder: &Path) {
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
            if key.trim() == "extends" {
                // `unimo` reports recipes that extend each other in a circle.
                self.extended += 1;
                if let (Some(name), true) = (strings(value).first(), self.extended < DEEPEST_RECIPE)
                {
                    let beside = folder.join(name);
                    let beside = beside.to_str().filter(|_| beside.is_file());
                    self.value(beside.unwrap_or(name));
                }
                continue;
            }
            let source = key.trim() == "source" || key.trim().ends_with(".source");
            self.parquet |= source && strings(value).first().is_some_and(|v| *v == PARQUET);
        }
    }

    /// A sweep's file: names of recipes, data, and settings as `--set` has them.
    fn sweep_file(&mut self, text: &str, folder: &Path) {
        let lines = text
            .lines()
            .filter(|line| !line.trim_start().starts_with('#'));
        // Also what stands between two strings, since a setting may have a string of its own.
        let pieces = lines.flat_map(|line| line.split(['"', '\'']).skip(1));
        for piece in pieces {
            let piece = piece.trim();
            let (key, value) = match piece.split_once('=') {
                Some((key, value)) => (Some(key.trim()), value.trim()),
                None => (None, piece),
            };
            self.parquet |= key == Some("data.source") && value == PARQUET;
            self.hub |= is_id(value);
            let beside = folder.join(value);
            match beside
                .to_str()
                .filter(|_| !value.is_empty() && beside.exists())
            {
                Some(beside) => self.value(beside),
                None => self.value(value),
            }
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
            self.hub |= is_id(text);
        }
    }
}

/// Whether it could be a checkpoint's Hugging Face id, `OWNER/NAME` or `OWNER/NAME@REVISION`, and is not an existing path.
fn is_id(value: &str) -> bool {
    let (repository, _) = value.split_once('@').unwrap_or((value, ""));
    let plain = |part: &str| {
        let known = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        !part.is_empty() && !part.starts_with('.') && part.chars().all(known)
    };
    let parts: Vec<&str> = repository.split('/').collect();
    parts.len() == 2 && parts.into_iter().all(plain) && !Path::new(value).exists()
}

/// The strings between quotation marks.
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

/// Whether a folder holds a Parquet file, at most `depth` folders down.
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

/// The recipe that an argument names: a built-in one, a TOML file, or the recipe of a run or of a file in its folders.
fn recipe_of(path: &Path) -> Option<PathBuf> {
    let built_in = Path::new(env!("CARGO_MANIFEST_DIR"))
        .with_file_name("crates")
        .join("unimo-train/recipes")
        .join(path.with_extension("toml"));
    if path.components().count() == 1 && built_in.is_file() {
        return Some(built_in);
    }
    if path
        .extension()
        .is_some_and(|extension| extension == "toml")
    {
        return Some(path.to_owned());
    }
    /// A checkpoint's file is in a subfolder of a run.
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
            ("train unimo3-base", &[HUB]),
            ("train managertower-base", &[HUB]),
            ("train meter-tiny", &[]),
            ("train x --set init.text=FacebookAI/roberta-base", &[HUB]),
            (
                "embed google/vit-base-patch16-224 --images a/b --out c/d",
                &[HUB],
            ),
            ("embed runs/x --tokenizer=a/b@main", &[HUB]),
            ("recipes show unimo3-base", &[]),
            ("names unimo3-base --data s3://bucket/a.parquet", &[]),
            ("train x --run runs/x --data a/b", &[]),
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
            ("text = \"FacebookAI/roberta-base\"", &[HUB]),
        ] {
            let mut found = Found::default();
            found.recipe(text, Path::new(""));
            assert_eq!(found.features(), expected, "{text}");
        }
    }

    #[test]
    fn a_sweep_says_what_its_recipes_read() {
        let here = std::env::temp_dir().join(format!("xtask-needs-sweep-{}", std::process::id()));
        fs::create_dir_all(&here).unwrap();
        fs::write(here.join("mine.toml"), "urls = [\"s3://b/x.tar\"]").unwrap();
        let file = here.join("levels.toml");
        let of_sweep = |text: &str| {
            fs::write(&file, text).unwrap();
            of(&["sweep".into(), (&file).into()])
        };
        let found = [
            "recipes = [\"unimo3-tiny\"]\n# \"s3://b\"\nset = [\"train.steps=150\"]",
            "recipes = [\n  \"unimo3-base\",\n]",
            "recipes = [\"mine.toml\", \"unimo3-tiny\"]",
            "recipes = [\"unimo3-tiny\"]\ndata = \"train.parquet\"",
            "set = [\"data.source=parquet\"]",
            "set = ['init.text=\"FacebookAI/roberta-base\"']",
        ]
        .map(of_sweep);
        fs::remove_dir_all(&here).unwrap();
        let expected: [&[&str]; 6] = [&[], &[HUB], &[REMOTE], &[PARQUET], &[PARQUET], &[HUB]];
        assert_eq!(found, expected);
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

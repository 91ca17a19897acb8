//! What a recipe leaves out and the files say that `init` names: sizes and settings of encoders, the tokenizer, how images are
//! normalised.
//!
//! Only what the recipe does not say is taken, and a line says what was taken from where. A recipe that says everything has no file
//! opened. Weights are not read here, nor fetched.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use toml::{Table, Value};
use unimo_batch::ConfigError;
use unimo_data::processor;
use unimo_encoders::image::ImageEncoderConfig;
use unimo_encoders::public::{self, EncoderConfig, folder_of};
use unimo_encoders::text::TextEncoderConfig;

use crate::error::TrainError;
use crate::family;
use crate::hub;
use crate::recipe::BUILT_IN;
use crate::recipe::init::{InitConfig, Whole};

/// A run's file with its recipe, whole.
const RECIPE: &str = "recipe.toml";
/// A file of a run lies at most so many folders below it.
const FOLDERS_UP: usize = 3;
/// Sections of `[model]` that a run or a checkpoint of a whole model says.
const SECTIONS: [&str; 5] = ["text", "image", "regions", "fusion", "joint"];
/// Keys of `[data]` that belong to a model: what it reads and how.
const OF_MODEL: [&str; 5] = ["tokenizer", "mean", "std", "resize", "max_text_length"];

/// Fills in what a recipe leaves out; returns what was taken, a line each.
///
/// # Errors
///
/// `init` names something that is not there or is described in a way that is not supported, and the recipe depends on it.
pub(crate) fn take(table: &mut Table, folder: Option<&Path>) -> Result<Vec<String>, TrainError> {
    let mut taken = Taken {
        table,
        lines: Vec::new(),
    };
    // What is wrong with `init` itself is said when the recipe is read.
    let init = taken.table.get("init").cloned();
    if let Some(mut init) = init.and_then(|init| InitConfig::deserialize(init).ok()) {
        let here = std::env::current_dir().map_err(TrainError::file("find", "."))?;
        init.rebase(&folder.map_or(here.clone(), |folder| here.join(folder)));
        match init.whole.as_deref().map(Whole::parse) {
            Some(Ok((Whole::Unimo, path))) => taken.run(path)?,
            Some(Ok((Whole::BridgeTower, path))) => taken.bridgetower(path)?,
            _ => {}
        }
        if let Some(given) = &init.text {
            taken.text(given)?;
        }
        if let Some(given) = &init.image {
            taken.image(given)?;
        }
    }
    taken.image_size();
    Ok(taken.lines)
}

/// Fills in anything in place of what [`take`] may take, to find out whether a table is a recipe but for that.
pub(crate) fn stand_in(table: &mut Table) {
    if !table.contains_key("init") {
        return;
    }
    let other: Option<Table> = BUILT_IN[0].text.parse().ok();
    let other = other
        .as_ref()
        .and_then(|other| other.get("model")?.as_table());
    let (Some(other), Some(model)) = (other, inside(table, &["model"])) else {
        return;
    };
    for (name, value) in other {
        if name == "text" {
            model
                .entry(name.clone())
                .or_insert_with(|| Table::new().into());
        }
        let own = model.get_mut(name).and_then(Value::as_table_mut);
        if let (Some(own), Value::Table(value)) = (own, value) {
            for (key, value) in value {
                own.entry(key.clone()).or_insert_with(|| value.clone());
            }
        }
    }
}

struct Taken<'a> {
    table: &'a mut Table,
    lines: Vec<String>,
}

impl Taken<'_> {
    fn get(&self, section: &[&str]) -> Option<&Value> {
        let (first, rest) = section.split_first()?;
        let first = self.table.get(*first)?;
        rest.iter().try_fold(first, |at, name| at.get(*name))
    }

    /// Whether a section says everything.
    fn is_whole<T: for<'de> Deserialize<'de>>(&self, section: &[&str]) -> bool {
        let value = self.get(section).cloned();
        value.is_some_and(|value| T::deserialize(value).is_ok())
    }

    /// Takes the keys that a section lacks.
    fn fill(&mut self, section: &[&str], theirs: Table, from: &str) {
        let Some(own) = inside(self.table, section) else {
            return;
        };
        let mut names = Vec::new();
        for (name, value) in theirs {
            if !own.contains_key(&name) {
                own.insert(name.clone(), value);
                names.push(name);
            }
        }
        if !names.is_empty() {
            let (section, names) = (section.join("."), names.join(", "));
            self.lines.push(format!("[{section}] {names}: from {from}"));
        }
    }

    /// Takes keys of `[data]` that are absent.
    fn fill_data(&mut self, theirs: impl IntoIterator<Item = (&'static str, Value)>, from: &str) {
        let theirs = theirs.into_iter();
        let theirs = theirs.map(|(name, value)| (name.to_owned(), value));
        self.fill(&["data"], theirs.collect(), from);
    }

    fn lacks_data(&self, names: &[&str]) -> bool {
        names.iter().any(|name| self.get(&["data", name]).is_none())
    }

    /// A text encoder's `config.json`, and its tokenizer.
    fn text(&mut self, given: &str) -> Result<(), TrainError> {
        let section = ["model", "text"];
        if !self.is_whole::<TextEncoderConfig>(&section) {
            let path = hub::resolve_description(given)?;
            let described = public::describe(&path, None)?;
            let EncoderConfig::Text(theirs) = &described.config else {
                return Err(wrong_kind(
                    "init.text",
                    given,
                    "a text encoder",
                    described.kind,
                ));
            };
            self.fill(&section, written(theirs)?, &config_of(&path));
        }
        let tokenizer = Table::from_iter([
            ("kind".to_owned(), Value::from("file")),
            ("path".to_owned(), Value::from(given)),
        ]);
        self.fill_data([("tokenizer", Value::Table(tokenizer))], given);
        Ok(())
    }

    /// An image encoder's `config.json`, and how its images are normalised.
    fn image(&mut self, given: &str) -> Result<(), TrainError> {
        let section = ["model", "image"];
        let whole = self.is_whole::<ImageEncoderConfig>(&section);
        if whole && !self.lacks_data(&["mean", "std"]) {
            return Ok(());
        }
        let path = hub::resolve_description(given)?;
        let described = public::describe(&path, None)?;
        let theirs = match &described.config {
            EncoderConfig::Image(image) => image,
            EncoderConfig::Clip(clip) => &clip.image,
            _ => {
                return Err(wrong_kind(
                    "init.image",
                    given,
                    "an image encoder",
                    described.kind,
                ));
            }
        };
        if !whole {
            self.fill(&section, written(theirs)?, &config_of(&path));
        }
        self.pixels(&path, described.kind, theirs.image_size)
    }

    /// Mean and deviation of pixels, if a file beside the weights says them.
    fn pixels(&mut self, path: &Path, kind: public::Kind, size: usize) -> Result<(), TrainError> {
        if !self.lacks_data(&["mean", "std"]) {
            return Ok(());
        }
        let prepared = processor::find(&folder_of(path), family::of(kind), size)?;
        let Some(file) = prepared.file else {
            return Ok(());
        };
        let spec = prepared.pictures.spec;
        let numbers = |values: [f32; 3]| Value::Array(values.map(|v| f64::from(v).into()).to_vec());
        let found = [("mean", numbers(spec.mean)), ("std", numbers(spec.std))];
        self.fill_data(found, &file.display().to_string());
        Ok(())
    }

    /// The recipe of a run of one's own.
    fn run(&mut self, path: &str) -> Result<(), TrainError> {
        let above = Path::new(path).ancestors().take(FOLDERS_UP);
        let file = above
            .map(|folder| folder.join(RECIPE))
            .find(|file| file.is_file());
        // That there is no such run is said where its weights are read.
        let Some(file) = file else { return Ok(()) };
        let text = std::fs::read_to_string(&file).map_err(TrainError::file("read", &file))?;
        let mut theirs: Table =
            text.parse()
                .map_err(|error: toml::de::Error| TrainError::Recipe {
                    file: file.display().to_string(),
                    reason: error.message().to_owned(),
                })?;
        let from = file.display().to_string();
        if let Some(Value::Table(model)) = theirs.remove("model") {
            self.model(model, &from);
        }
        if let Some(Value::Table(mut data)) = theirs.remove("data") {
            let found = OF_MODEL.map(|name| (name, data.remove(name)));
            let found = found
                .into_iter()
                .filter_map(|(name, value)| Some((name, value?)));
            self.fill_data(found, &from);
        }
        Ok(())
    }

    /// A BridgeTower's `config.json`.
    fn bridgetower(&mut self, path: &str) -> Result<(), TrainError> {
        if self.get(&["model", "text"]).is_some() && !self.lacks_data(&["tokenizer", "mean", "std"])
        {
            return Ok(());
        }
        let path = hub::resolve_description(path)?;
        let folder = folder_of(&path);
        if !folder.join("config.json").is_file() {
            return Ok(());
        }
        let described = public::describe(&folder, None)?;
        let EncoderConfig::Backbone(theirs) = &described.config else {
            return Err(wrong_kind(
                "init",
                &path.display().to_string(),
                "a BridgeTower",
                described.kind,
            ));
        };
        self.model(written(&**theirs)?, &config_of(&path));
        let size = theirs.image.as_ref().map_or(0, |image| image.image_size);
        self.pixels(&path, described.kind, size)?;
        let tokenizer = Table::from_iter([
            ("kind".to_owned(), Value::from("file")),
            ("path".to_owned(), Value::from(folder.display().to_string())),
        ]);
        let from = folder.display().to_string();
        self.fill_data([("tokenizer", Value::Table(tokenizer))], &from);
        Ok(())
    }

    /// A whole `[model]`, or what its sections lack that the recipe has, and its text encoder.
    fn model(&mut self, mut theirs: Table, from: &str) {
        if !self.table.contains_key("model") {
            return self.fill(&["model"], theirs, from);
        }
        for name in SECTIONS {
            let has = name == "text" || self.get(&["model", name]).is_some_and(Value::is_table);
            if let (true, Some(Value::Table(theirs))) = (has, theirs.remove(name)) {
                self.fill(&["model", name], theirs, from);
            }
        }
    }

    /// The size of the images that the loader makes is that of the encoder's.
    fn image_size(&mut self) {
        let size = self.get(&["model", "image", "image_size"]);
        if let Some(Value::Integer(size)) = size
            && self.lacks_data(&["image_size"])
        {
            let size = Value::Integer(*size);
            self.fill_data([("image_size", size)], "model.image.image_size");
        }
    }
}

/// A table of a table, made if it is absent; `None` if something else is there.
fn inside<'a>(table: &'a mut Table, section: &[&str]) -> Option<&'a mut Table> {
    let mut at = table;
    for name in section {
        let value = at
            .entry(*name)
            .or_insert_with(|| Value::Table(Table::new()));
        at = value.as_table_mut()?;
    }
    Some(at)
}

fn written<T: serde::Serialize>(config: &T) -> Result<Table, TrainError> {
    Table::try_from(config).map_err(|error| TrainError::Check(error.to_string()))
}

fn config_of(path: &Path) -> String {
    let file: PathBuf = folder_of(path).join("config.json");
    file.display().to_string()
}

fn wrong_kind(key: &str, given: &str, needed: &str, kind: public::Kind) -> TrainError {
    TrainError::of_recipe(ConfigError {
        key: key.to_owned(),
        value: format!("\"{given}\""),
        allowed: format!("must be {needed}, and it is {}", kind.name()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recipe::{Overrides, Recipe};

    /// A BERT and a ViT as their files describe them.
    fn files(folder: &Path) {
        let write = |name: &str, text: &str| {
            let path = folder.join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        write(
            "bert/config.json",
            r#"{"model_type": "bert", "vocab_size": 600, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4,
                "intermediate_size": 64, "max_position_embeddings": 40, "layer_norm_eps": 1e-7, "pad_token_id": 3}"#,
        );
        write(
            "vit/config.json",
            r#"{"model_type": "vit", "hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64,
                "image_size": 32, "patch_size": 8}"#,
        );
        write(
            "vit/preprocessor_config.json",
            r#"{"image_processor_type": "ViTImageProcessor", "do_resize": true, "size": {"height": 32, "width": 32}, "resample": 2,
                "do_rescale": true, "rescale_factor": 0.00392156862745098, "do_normalize": true, "image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]}"#,
        );
    }

    const SHORT: &str = r#"
        [init]
        text = "bert"
        image = "vit"
        new = ["backbone.fusion", "objectives"]
        [train]
        steps = 2
        batch_size = 4
        optimizer = { lr = 1e-4 }
        [model.fusion]
        width = 16
        layers = 1
        heads = 2
        feed_forward = 32
        activation = "gelu"
        layer_norm_eps = 1e-12
        dropout = 0.0
        [objectives]
        mlm = {}
        itm = {}
        itc = {}
        [data]
        source = "scenes"
        max_text_length = 40
    "#;

    fn load(folder: &Path, text: &str, set: &[&str]) -> Result<(Recipe, Vec<String>), String> {
        let path = folder.join("mine.toml");
        std::fs::write(&path, text).unwrap();
        let overrides = Overrides {
            data: None,
            set: set.iter().map(|s| (*s).to_owned()).collect(),
        };
        Recipe::load_quietly(&path.display().to_string(), &overrides).map_err(|e| e.to_string())
    }

    #[test]
    fn what_a_recipe_leaves_out_is_taken_from_what_init_names() {
        let folder = tempfile::tempdir().unwrap();
        files(folder.path());
        let (recipe, notes) = load(folder.path(), SHORT, &[]).unwrap();
        let text = &recipe.model.text;
        assert_eq!((text.width, text.layers, text.heads), (32, 3, 4));
        assert_eq!(
            (text.vocab_size, text.pad_id, text.layer_norm_eps),
            (600, 3, 1e-7)
        );
        let image = recipe.model.image.as_ref().unwrap();
        assert_eq!(
            (image.width, image.image_size, image.patch_size),
            (48, 32, 8)
        );
        assert_eq!(recipe.data.image_size, 32);
        assert_eq!(
            (recipe.data.mean, recipe.data.std),
            ([0.1, 0.2, 0.3], [0.4, 0.5, 0.6])
        );
        let tokenizer = format!("{:?}", recipe.data.tokenizer);
        assert!(tokenizer.contains("bert"), "{tokenizer}");
        for part in [
            "[model.text] activation, dropout",
            "bert/config.json",
            "vit/config.json",
            "[data] mean, std: from",
            "preprocessor_config.json",
            "[data] tokenizer: from",
            "[data] image_size: from model.image.image_size",
        ] {
            assert!(
                notes.iter().any(|note| note.contains(part)),
                "{part}: {notes:#?}"
            );
        }
        // Written out, it says everything and takes nothing.
        let whole = recipe.to_toml().unwrap();
        let (again, notes) = load(folder.path(), &whole, &[]).unwrap();
        assert_eq!((again, notes), (recipe, Vec::new()));
    }

    #[test]
    fn what_a_recipe_says_itself_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        files(folder.path());
        let set = [
            "model.text.layers=2",
            "model.text.dropout=0.3",
            "model.image.image_size=64",
            "data.mean=[0.0, 0.0, 0.0]",
            "train.clip_norm=none",
        ];
        let (recipe, notes) = load(folder.path(), SHORT, &set).unwrap();
        let text = &recipe.model.text;
        assert_eq!((text.layers, text.dropout, text.width), (2, 0.3, 32));
        let image = recipe.model.image.as_ref().unwrap();
        assert_eq!((image.image_size, recipe.data.image_size), (64, 64));
        assert_eq!(
            (recipe.data.mean, recipe.data.std),
            ([0.0; 3], [0.4, 0.5, 0.6])
        );
        assert!(
            notes
                .iter()
                .any(|n| n.contains("train.clip_norm=none changes nothing")),
            "{notes:?}"
        );
        // A misspelt key of a section that is filled in is one, still.
        let error = load(folder.path(), SHORT, &["model.text.widht=3"]).unwrap_err();
        assert!(error.contains("did you mean `width`"), "{error}");
        let error = load(folder.path(), SHORT, &["model.text.widht=none"]).unwrap_err();
        assert!(error.contains("unknown field `widht`"), "{error}");
    }

    #[test]
    fn the_model_of_a_run_is_taken_whole_or_by_sections() {
        let folder = tempfile::tempdir().unwrap();
        let run = Recipe::load("unimo3-tiny", &Overrides::default()).unwrap();
        std::fs::create_dir(folder.path().join("run")).unwrap();
        std::fs::write(
            folder.path().join("run/recipe.toml"),
            run.to_toml().unwrap(),
        )
        .unwrap();
        let text = "init = \"unimo:run\"\n[train]\nsteps = 2\nbatch_size = 4\noptimizer = { lr = 1e-4 }\n[objectives]\nitc = {}\n\
                    [data]\nsource = \"scenes\"\n";
        let (recipe, notes) = load(folder.path(), text, &[]).unwrap();
        assert_eq!(recipe.model, run.model);
        assert_eq!(recipe.data.tokenizer, run.data.tokenizer);
        assert_eq!(recipe.data.max_text_length, run.data.max_text_length);
        assert!(
            notes.iter().any(|note| note.contains("[model] ")),
            "{notes:?}"
        );
        let towers = format!("{text}[model.image]\nimage_size = 32\n");
        let (recipe, _) = load(folder.path(), &towers, &[]).unwrap();
        assert!(recipe.model.fusion.is_none());
        assert_eq!(
            recipe.model.image.unwrap().width,
            run.model.image.unwrap().width
        );
        assert_eq!(recipe.data.image_size, 32);
    }

    #[test]
    fn what_is_not_there_or_of_another_kind_is_said() {
        let folder = tempfile::tempdir().unwrap();
        files(folder.path());
        let swapped = SHORT.replace("text = \"bert\"", "text = \"vit\"");
        let error = load(folder.path(), &swapped, &[]).unwrap_err();
        assert!(
            error.contains("init.text") && error.contains("ViT"),
            "{error}"
        );
        let nowhere = SHORT.replace("text = \"bert\"", "text = \"weights/of/bert\"");
        let error = load(folder.path(), &nowhere, &["train.steps=0"]).unwrap_err();
        assert!(
            error.contains("weights/of/bert") && error.contains("train.steps"),
            "{error}"
        );
    }
}

//! Recipes: a paper as data. One TOML file, read strictly, has encoders, fusion, objectives, data and schedule.

mod cache;
pub mod eval;
mod extends;
pub(crate) mod idle;
pub mod init;
mod inputs;
pub mod keys;
mod lines;
pub mod log;
mod nearest;
pub mod outside;
pub(crate) mod overrides;
mod own_data;
pub(crate) mod problems;
pub mod stages;
mod taken;
pub(crate) mod task;
pub mod train;

use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use toml::{Table, Value};
use unimo_batch::{ConfigError, JoinPositions, SecondViews};
use unimo_data::{DataConfig, DataError, TokenizerConfig};
use unimo_encoders::backbone::BackboneConfig;
use unimo_objectives::ObjectivesConfig;
use unimo_objectives::request::Inputs;
use unimo_objectives::teacher::TeacherConfig;

use crate::error::TrainError;
use crate::hub;
pub use crate::recipe::eval::{
    BaseToNovelConfig, BitextConfig, During, EvalConfig, LossesConfig, PromptsConfig,
};
pub use crate::recipe::init::InitConfig;
pub use crate::recipe::log::LogConfig;
use crate::recipe::nearest::nearest;
use crate::recipe::problems::Text;
pub use crate::recipe::stages::StageConfig;
pub use crate::recipe::task::{LabelsConfig, Task, TaskConfig};
pub use crate::recipe::train::{
    ComputeDtype, Decay, LoraConfig, OptimizerConfig, ScheduleConfig, TrainConfig,
};

/// A recipe that ships with the crate.
#[derive(Debug, Clone, Copy)]
pub struct BuiltIn {
    /// Its name on the command line.
    pub name: &'static str,
    /// The file's text.
    pub text: &'static str,
}

macro_rules! built_in {
    ($($name:literal),+ $(,)?) => {
        /// Every recipe that ships with the crate.
        pub const BUILT_IN: &[BuiltIn] = &[
            $(BuiltIn { name: $name, text: include_str!(concat!("../recipes/", $name, ".toml")) }),+
        ];
    };
}

built_in![
    "unimo3-tiny",
    "unimo3-small",
    "unimo3-base",
    "unimo3-vqa-tiny",
    "unimo3-answers-tiny",
    "vit-classes-tiny",
    "clip-tiny",
    "mmrl-tiny",
    "mmrl-base",
    "bert-sst2-minilm",
    "unimo3-vqa-small",
    "unimo3-statements-tiny",
    "unimo3-caption-tiny",
    "unimo3-grounding-tiny",
    "unimo3-grounding-base",
    "mvp-grounding-tiny",
    "mvp-grounding-base",
    "unimo2-tiny",
    "unimo2-base",
    "mvp-tiny",
    "cclm-tiny",
    "infoxlm-base",
    "infoxlm-tiny",
    "cclm-base",
    "mvp-base",
    "meter-tiny",
    "meter-base",
    "bridgetower-tiny",
    "bridgetower-base",
    "managertower-tiny",
    "managertower-base",
    "albef-tiny",
    "albef-base",
    "mamo-tiny",
    "mamo-base",
    "simla-tiny",
    "simla-base",
    "uc2-tiny",
    "uc2-base",
    "uc2-retrieval-base",
    "m3p-tiny",
    "m3p-base",
    "dimbert-tiny",
    "dimbert-base",
    "sugar-tiny",
    "sugar-base",
    "wsmgmap-tiny",
    "wsmgmap-base",
    "unimo3-vqa-base",
    "unimo3-nlvr2-base",
    "unimo3-snli-ve-base",
    "unimo3-retrieval-tiny",
    "unimo3-retrieval-base",
    "meter-retrieval-base",
    "bridgetower-retrieval-base",
    "managertower-retrieval-base",
    "meter-vqa-base",
    "meter-nlvr2-base",
    "meter-snli-ve-base",
    "bridgetower-vqa-base",
    "bridgetower-nlvr2-base",
    "bridgetower-snli-ve-base",
    "managertower-vqa-base",
    "managertower-nlvr2-base",
    "managertower-snli-ve-base",
    "unimo2-vqa-base",
    "unimo2-snli-ve-base",
    "unimo2-sst2-base",
    "unimo2-mnli-base",
    "mvp-vqa-base",
    "mvp-snli-ve-base",
];

/// Everything that decides a training run.
///
/// A recipe's file may start with `extends = "NAME"`; it then has only what it changes in that recipe.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// One line that describes it.
    #[serde(default)]
    pub description: String,
    /// Seed of weights, order, masks, negatives and dropout.
    #[serde(default)]
    pub seed: u64,
    /// Public weights to start from; absent: random weights.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub init: Option<InitConfig>,
    /// The training loop.
    pub train: TrainConfig,
    /// Evaluation on held-out data.
    #[serde(default)]
    pub eval: EvalConfig,
    /// Where the run is written besides its own folder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log: Option<LogConfig>,
    /// Encoders.
    pub model: BackboneConfig,
    /// The moving average of the encoders, if an objective uses its features.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub teacher: Option<TeacherConfig>,
    /// The losses.
    pub objectives: ObjectivesConfig,
    /// The labels of the task, if the recipe has one whose labels depend on the data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<TaskConfig>,
    /// The samples.
    pub data: DataConfig,
    /// Parts of the training, one after the other; empty if it has only one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stage: Vec<StageConfig>,
}

/// What the command line changes in a recipe.
#[derive(Debug, Clone, Default)]
pub struct Overrides {
    /// `--data`: a list of pairs, shards, Parquet files or a folder of images.
    pub data: Option<PathBuf>,
    /// `--set key=value`, in order.
    pub set: Vec<String>,
}

/// Something that is wrong at a key of a recipe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wrong {
    /// The key; empty for the recipe as a whole.
    pub(crate) key: String,
    /// What is wrong and what is allowed.
    pub(crate) reason: String,
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

impl From<ConfigError> for Wrong {
    fn from(error: ConfigError) -> Self {
        Self {
            reason: error.to_string(),
            key: error.key,
        }
    }
}

impl From<DataError> for Wrong {
    fn from(error: DataError) -> Self {
        let reason = error.to_string();
        let key = match error {
            DataError::Config { key, .. } => key,
            _ => "data".to_owned(),
        };
        Self { key, reason }
    }
}

impl Wrong {
    /// The same at a key of a section.
    fn within(self, section: &str) -> Self {
        let key = format!("{section}.{}", self.key);
        let (own, whole) = (format!("`{}`", self.key), format!("`{key}`"));
        Self {
            reason: self.reason.replacen(&own, &whole, 1),
            key,
        }
    }
}

impl Recipe {
    /// A built-in recipe by name, or a file by path, with overrides, validated.
    ///
    /// # Errors
    ///
    /// There is no such recipe, or it is wrong: then [`TrainError::Problems`] has all that is.
    pub fn load(given: &str, overrides: &Overrides) -> Result<Self, TrainError> {
        let (recipe, notes) = Self::load_quietly(given, overrides)?;
        for note in notes {
            eprintln!("{given}: {note}");
        }
        Ok(recipe)
    }

    /// The same without dropout in encoders and heads, for a model that is looked at and not trained.
    pub(crate) fn without_dropout(&self) -> Self {
        let mut recipe = self.clone();
        recipe.model = recipe.model.without_dropout();
        recipe.objectives = recipe.objectives.without_dropout();
        recipe
    }

    /// As [`load`](Self::load), but returns the notes on overrides without effect instead of printing them.
    ///
    /// # Errors
    ///
    /// As [`load`](Self::load).
    pub fn load_quietly(
        given: &str,
        overrides: &Overrides,
    ) -> Result<(Self, Vec<String>), TrainError> {
        let path = Path::new(given);
        if let Some(built_in) = BUILT_IN.iter().find(|b| b.name == given) {
            return Self::parse_whole(&Text {
                file: built_in.name,
                text: built_in.text,
                folder: None,
                overrides,
            });
        }
        if !path.is_file() {
            let names = BUILT_IN.iter().map(|b| b.name);
            let known: Vec<_> = names.clone().collect();
            return Err(TrainError::UnknownRecipe {
                given: given.to_owned(),
                meant: nearest(given, names)
                    .map(|name| format!(" (did you mean `{name}`?)"))
                    .unwrap_or_default(),
                known: known.join(", "),
            });
        }
        let text = std::fs::read_to_string(path).map_err(TrainError::file("read", path))?;
        let (recipe, mut notes) = Self::parse_whole(&Text {
            file: given,
            text: &text,
            folder: path.parent(),
            overrides,
        })?;
        let table: Table = text.parse().unwrap_or_default();
        // With `--data`, it is on purpose that the recipe's own source is not read.
        if overrides.data.is_none() {
            notes.extend(overrides::unread_tables(&table, &recipe));
        }
        // A file that stands by itself has to have some of these keys.
        if extends::is_based(&table) {
            notes.extend(overrides::idle_keys(&table, &recipe));
        }
        Ok((recipe, notes))
    }

    /// As [`parse_noting`](Self::parse_noting), with every error of the text.
    fn parse_whole(given: &Text<'_>) -> Result<(Self, Vec<String>), TrainError> {
        let parsed = Self::parse_noting(given.file, given.text, given.folder, given.overrides);
        parsed.map_err(|first| {
            let problems = problems::all(given);
            if problems.is_empty() {
                return first;
            }
            TrainError::Problems {
                file: given.file.to_owned(),
                problems,
            }
        })
    }

    /// Reads a recipe's text. Its paths and that of `--data` are relative to `folder`, or to the working directory without one;
    /// they are made absolute.
    pub fn parse(
        file: &str,
        text: &str,
        folder: Option<&Path>,
        overrides: &Overrides,
    ) -> Result<Self, TrainError> {
        Self::parse_noting(file, text, folder, overrides).map(|(recipe, _)| recipe)
    }

    /// As [`parse`](Self::parse), with a note for every override without effect.
    pub fn parse_noting(
        file: &str,
        text: &str,
        folder: Option<&Path>,
        overrides: &Overrides,
    ) -> Result<(Self, Vec<String>), TrainError> {
        let wrong = |reason: String| TrainError::Recipe {
            file: file.to_owned(),
            reason,
        };
        let table: Table = text
            .parse()
            .map_err(|e: toml::de::Error| wrong(e.to_string()))?;
        let mut table = extends::complete(file, table, folder)?;
        let base = table.clone();
        let settings = overrides::apply(&mut table, &overrides.set)?;
        let set = table.clone();
        // `--data`, below, gives the path to a section that `--set data.pairs.filter.lang=en` has started.
        if overrides.data.is_some() {
            own_data::make_way(&mut table, &settings);
        }
        let taken = taken::take(&mut table, folder)?;
        let recipe = Self::read(table)
            .map_err(|Wrong { key, reason }| wrong(format!("`{key}`: {reason}")))?;
        let mut notes = Vec::new();
        if !settings.is_empty() {
            let mut base = base;
            // What cannot be taken for it gives no notes.
            let _ = taken::take(&mut base, folder);
            // Both sides have the paths as they were given.
            let written = |recipe: &Self| Table::try_from(recipe).ok();
            let base = Self::read(base).ok().as_ref().and_then(written);
            let now = written(&recipe).unwrap_or_default();
            notes = overrides::notes(&settings, base.as_ref(), &set, &now);
        }
        let recipe = recipe.placed(folder, overrides.data.as_deref())?;
        overrides::unread(&settings, &recipe)?;
        recipe.validate(file)?;
        notes.extend(overrides::idle(&settings, &recipe));
        notes.extend(taken);
        let given = |source: &str| overrides::is_set(&settings, &["data", source]);
        if let (Some(_), Some((list, images))) = (&overrides.data, recipe.data.looked_for())
            && list.parent().is_some_and(|own| own != images)
            && !given(recipe.data.source.name())
        {
            notes.push(format!(
                "images are read from {}, where the first ones of {} are",
                images.display(),
                list.display()
            ));
        }
        if recipe.init.is_none() && !recipe.train.freeze.is_empty() {
            notes.push(format!(
                "train.freeze = {:?} holds new, random weights still: the recipe has no `init`",
                recipe.train.freeze
            ));
        }
        for (pattern, factor) in &recipe.train.optimizer.lr_factors {
            if *factor == 0.0 {
                notes.push(format!(
                    "train.optimizer.lr_factors.\"{pattern}\" = 0 holds it still, but its gradients are computed: \
                     train.freeze = [\"{pattern}\"] saves them"
                ));
            }
        }
        Ok((recipe, notes))
    }

    /// The same with other values at some keys.
    ///
    /// # Errors
    ///
    /// One of them is not allowed.
    pub(crate) fn with_values(&self, values: &[(String, f64)]) -> Result<Self, TrainError> {
        let set = values.iter().map(|(key, value)| format!("{key}={value:?}"));
        let overrides = Overrides {
            data: None,
            set: set.collect(),
        };
        Self::parse("the resolved recipe", &self.to_toml()?, None, &overrides)
    }

    /// Reads a recipe's table, without checking its values.
    fn read(mut table: Table) -> Result<Self, Wrong> {
        stages::complete(&mut table);
        serde_path_to_error::deserialize(Value::Table(table)).map_err(|error| {
            let reason = reason_for(error.inner()).to_owned();
            let at = error.path().to_string();
            let at = if at == "." { String::new() } else { at };
            let key = match reason.strip_prefix("missing field `") {
                Some(field) => {
                    let field = field.split('`').next().unwrap_or_default();
                    let dot = if at.is_empty() { "" } else { "." };
                    format!("{at}{dot}{field}")
                }
                None => at,
            };
            Wrong { key, reason }
        })
    }

    /// The same with absolute paths, which were relative to a folder, and with the data of `--data`.
    fn placed(mut self, folder: Option<&Path>, data: Option<&Path>) -> Result<Self, TrainError> {
        // Absolute, since the run's copy of the recipe is in another folder.
        let here = std::env::current_dir().map_err(TrainError::file("find", "."))?;
        let base = folder.map_or(here.clone(), |folder| here.join(folder));
        let hub_tokenizer = self.hub_tokenizer(&base);
        self.check_tokenizers().map_err(TrainError::of_recipe)?;
        self.data.rebase(&base);
        if let (Some(id), TokenizerConfig::File { path, .. }) =
            (hub_tokenizer, &mut self.data.tokenizer)
        {
            *path = id;
        }
        for data in self.stage.iter_mut().filter_map(|s| s.data.as_mut()) {
            data.rebase(&base);
            data.tokenizer = self.data.tokenizer.clone();
        }
        if let Some(init) = &mut self.init {
            init.rebase(&base);
        }
        if let Some(task) = &mut self.task {
            task.rebase(&base);
        }
        if let Some(log) = &mut self.log {
            log.rebase(&base);
        }
        if let Some(prompts) = &mut self.eval.prompts {
            prompts.folder = base.join(&prompts.folder);
        }
        if let Some(path) = data {
            let is_url = path.to_string_lossy().contains("://");
            let absolute = if is_url {
                path.to_owned()
            } else {
                std::path::absolute(path).map_err(TrainError::file("find", path))?
            };
            // Stages that name another source keep it.
            let source = self.data.source;
            let stages = self.stage.iter_mut().filter_map(|s| s.data.as_mut());
            for data in stages.filter(|data| data.source == source) {
                data.take_from(absolute.clone())?;
            }
            self.data.take_from(absolute)?;
        }
        Ok(self)
    }

    /// The tokenizer's path, if no such file exists and it may be a Hugging Face id.
    fn hub_tokenizer(&self, base: &Path) -> Option<PathBuf> {
        let TokenizerConfig::File { path, .. } = &self.data.tokenizer else {
            return None;
        };
        let is_id = !base.join(path).exists() && hub::is_id(path.to_str()?);
        is_id.then(|| path.clone())
    }

    /// Checks every value, alone and against the others, before anything is loaded.
    pub fn validate(&self, file: &str) -> Result<(), TrainError> {
        match self.wrong().into_iter().next() {
            None => Ok(()),
            Some(Wrong { reason, .. }) => Err(TrainError::Recipe {
                file: file.to_owned(),
                reason,
            }),
        }
    }

    /// What is not allowed: of each section what is found first, and only then what is found first of all sections together.
    fn wrong(&self) -> Vec<Wrong> {
        let mut found = Vec::new();
        let mut note = |checked: Result<(), ConfigError>| {
            found.extend(checked.err().map(Wrong::from));
        };
        if let Some(init) = &self.init {
            note(init.validate());
        }
        note(self.train.validate().map_err(|e| e.within("train")));
        note(self.eval.validate().map_err(|e| e.within("eval")));
        note(
            self.model
                .text
                .validate()
                .map_err(|e| e.within("model.text")),
        );
        if let Some(image) = &self.model.image {
            note(image.validate().map_err(|e| e.within("model.image")));
        }
        for (key, settings) in self.objectives.each() {
            let checked = settings.validate();
            note(checked.map_err(|e| e.within(key).within("objectives")));
        }
        // What is wrong by itself cannot be judged beside others.
        if found.is_empty() {
            found.extend(self.check().err().map(Wrong::from));
        }
        found.extend(self.data.validate().err().map(Wrong::from));
        for (index, stage) in self.stage.iter().enumerate() {
            let data = stage.data.as_ref();
            let wrong = data.and_then(|data| data.validate().err().map(Wrong::from));
            // What a stage takes over from [data] is said once.
            let own = wrong.filter(|wrong| !found.contains(wrong));
            found.extend(own.map(|wrong| wrong.within(&format!("stage[{index}]"))));
        }
        found
    }

    fn check(&self) -> Result<(), ConfigError> {
        if let Some(init) = &self.init {
            init.validate()?;
        }
        self.train.validate().map_err(|e| e.within("train"))?;
        self.eval.validate().map_err(|e| e.within("eval"))?;
        if let Some(log) = &self.log {
            log.validate().map_err(|e| e.within("log"))?;
        }
        self.model.validate().map_err(|e| e.within("model"))?;
        self.objectives
            .validate()
            .map_err(|e| e.within("objectives"))?;
        self.objectives
            .validate_with(&self.model)
            .map_err(|e| e.within("objectives"))?;
        self.objectives.validate_teacher(self.teacher.as_ref())?;
        let inputs = self.objectives.inputs(&|_| true);
        let inputs = inputs.map_err(|e| e.within("objectives"))?;
        task::check(self)?;
        self.check_tasks()?;
        self.check_stages()?;
        self.check_pictures()?;
        if let TokenizerConfig::Train { vocab_size } = self.data.tokenizer {
            ConfigError::unless(
                vocab_size <= self.model.text.vocab_size,
                "data.tokenizer.vocab_size",
                vocab_size,
                format_args!(
                    "must be at most model.text.vocab_size = {}",
                    self.model.text.vocab_size
                ),
            )?;
        }
        let longest = self.model.text.longest_text();
        ConfigError::unless(
            self.data.max_text_length <= longest,
            "data.max_text_length",
            self.data.max_text_length,
            format_args!(
                "must be at most {longest}, which model.text.max_positions = {} has room for",
                self.model.text.max_positions
            ),
        )?;
        let joined = inputs.joined;
        let runs_on = joined.is_some_and(|joined| joined.positions == JoinPositions::RunOn);
        let runs_on = runs_on || inputs.sides.is_some_and(|sides| sides.mixup);
        ConfigError::unless(
            !runs_on || 2 * self.data.max_text_length <= longest,
            "data.max_text_length",
            self.data.max_text_length,
            format_args!(
                "must be at most {}, half of what model.text.max_positions = {} has room for: two texts are joined, and positions run on",
                longest / 2,
                self.model.text.max_positions
            ),
        )?;
        self.check_concepts(longest, &inputs)?;
        self.check_codes(&inputs)?;
        self.check_walks(&inputs)?;
        let each = self.objectives.each();
        let compare = each.iter().find(|(_, s)| s.samples().least > 1);
        ConfigError::unless(
            compare.is_none() || self.train.batch_size >= 2,
            "train.batch_size",
            self.train.batch_size,
            format_args!(
                "must be at least 2: objectives.{} needs several samples of a batch",
                compare.map_or("", |(key, _)| *key)
            ),
        )?;
        let samples = self.train.batch_size * self.train.accumulation;
        for (objective, settings) in &each {
            let Some((key, queue)) = settings.queue() else {
                continue;
            };
            ConfigError::unless(
                queue >= samples,
                &format!("objectives.{objective}.{key}"),
                queue,
                format_args!(
                    "must be at least train.batch_size * train.accumulation = {samples}: a step's features replace the oldest"
                ),
            )?;
        }
        ConfigError::unless(
            inputs.second_view == SecondViews::None || self.data.augment.is_some(),
            "data.augment",
            "absent",
            "is needed by [objectives.views], which contrasts two views of an image",
        )?;
        ConfigError::unless(
            self.eval.during != During::Contrast || self.objectives.itc.is_some(),
            "eval.during",
            "contrast",
            "needs [objectives.itc]",
        )?;
        let lm = self.objectives.lm.as_ref();
        let draws_captions = lm.is_some_and(|lm| lm.self_critical.is_some());
        ConfigError::unless(
            self.eval.losses.is_none() || !draws_captions,
            "eval.losses",
            "{}",
            "must be absent with objectives.lm.self_critical, whose loss is that of captions which it draws: [eval.captions] judges them",
        )?;
        ConfigError::unless(
            self.eval.captions.is_none() || !lm.is_some_and(|lm| lm.stories),
            "eval.captions",
            "{}",
            "must be absent with objectives.lm.stories = true, which learns no captions of single images: [eval.stories] judges it",
        )?;
        ConfigError::unless(
            self.eval.prompts.is_none() || self.objectives.itc.is_some(),
            "eval.prompts",
            "{}",
            "needs [objectives.itc], which compares images with the texts of classes",
        )?;
        ConfigError::unless(
            self.eval.prompts.is_none() || self.model.regions.is_none(),
            "eval.prompts",
            "{}",
            "must be absent with [model.regions]: it reads images",
        )?;
        ConfigError::unless(
            self.eval.key_words.is_none() || self.objectives.psl.is_some(),
            "eval.key_words",
            "{}",
            "needs [objectives.psl], which predicts words of an image",
        )?;
        ConfigError::unless(
            self.eval.patches.is_none() || self.objectives.mim.is_some(),
            "eval.patches",
            "{}",
            "needs [objectives.mim], which fills in hidden patches",
        )?;
        ConfigError::unless(
            self.eval.base_to_novel.is_none() || self.objectives.prompts.is_some(),
            "eval.base_to_novel",
            "{}",
            "needs [objectives.prompts], which tells classes by their names",
        )?;
        ConfigError::unless(
            self.eval.stories.is_none() || self.model.reads_stories(),
            "eval.stories",
            "{}",
            "needs a stream that reads stories, [model.joint.interleaved], and an image encoder of pixels, [model.image]",
        )?;
        self.check_representation()?;
        if let Some(config) = &self.eval.bitext {
            let fits = config.validate_with(&self.model);
            fits.map_err(|e| e.within("bitext").within("eval"))?;
        }
        if let Some(config) = &self.eval.grad_cam {
            let fits = config.validate_with(&self.model, &self.objectives);
            fits.map_err(|e| e.within("grad_cam").within("eval"))?;
        }
        ConfigError::unless(
            !self.eval.full_itm || self.objectives.scores_pairs(),
            "eval.full_itm",
            self.eval.full_itm,
            "needs [objectives.itm] or [objectives.ranking]",
        )
    }

    /// Checks phrases and tags against the encoder that reads them and the objectives that need them.
    fn check_concepts(&self, longest: usize, inputs: &Inputs) -> Result<(), ConfigError> {
        ConfigError::unless(
            !self.model.reads_concepts() || !inputs.second,
            "model.joint.concepts",
            true,
            "must be false with an objective that reads second images: the names of their objects are not known",
        )?;
        let Some(concepts) = &self.data.concepts else {
            let alone = |key: &str| self.objectives.inputs(&|k| k == key);
            let each = self.objectives.given().into_iter();
            let mut needs = each.filter(|key| alone(key).is_ok_and(|inputs| inputs.concepts));
            return ConfigError::unless(
                !inputs.concepts,
                "data.concepts",
                "absent",
                format_args!(
                    "is needed by [objectives.{}]",
                    needs.next().unwrap_or_default()
                ),
            );
        };
        /// The begin and end tokens and a few words.
        const LEAST_WORDS: usize = 6;
        let room = self.data.max_text_length;
        ConfigError::unless(
            room >= concepts.max_phrases + LEAST_WORDS,
            "data.concepts.max_phrases",
            concepts.max_phrases,
            format_args!("leaves too little of data.max_text_length = {room} for words"),
        )?;
        ConfigError::unless(
            !self.model.reads_tags() || concepts.max_tags + 2 <= longest,
            "data.concepts.max_tags",
            concepts.max_tags,
            format_args!(
                "must be at most {}, which model.text.max_positions has room for",
                longest.saturating_sub(2)
            ),
        )?;
        ConfigError::unless(
            !inputs.left_to_right,
            "objectives.lm",
            "{}",
            "cannot be trained with data.concepts: the phrases behind a caption would be predicted as its words",
        )
    }

    /// As TOML, with every value written out.
    pub fn to_toml(&self) -> Result<String, TrainError> {
        toml::to_string(self).map_err(|e| TrainError::Recipe {
            file: "the resolved recipe".to_owned(),
            reason: e.to_string(),
        })
    }
}

/// The reason for an error, in the terms of someone who writes recipes.
fn reason_for(error: &toml::de::Error) -> &str {
    match error.message() {
        // The message of toml for a number in place of one of several names.
        "invalid type: unit variant, expected string only" => {
            "expected a name in quotes, or `{ name = value }`"
        }
        reason => reason.trim_end(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use unimo_data::SourceKind;

    fn with(set: &[&str]) -> Result<Recipe, TrainError> {
        let overrides = Overrides {
            data: None,
            set: set.iter().map(|s| (*s).to_owned()).collect(),
        };
        Recipe::load("unimo3-tiny", &overrides)
    }

    #[test]
    fn every_recipe_parses_and_survives_writing_out() {
        for built_in in BUILT_IN {
            let recipe = Recipe::load(built_in.name, &Overrides::default()).unwrap();
            let text = recipe.to_toml().unwrap();
            let again = Recipe::parse("resolved", &text, None, &Overrides::default()).unwrap();
            assert_eq!(recipe, again, "{}", built_in.name);
        }
    }

    #[test]
    fn overrides_reach_every_kind_of_value() {
        let recipe = with(&[
            "train.steps=7",
            "train.optimizer.lr=1e-3",
            "model.fusion.gate=token",
            "objectives.itm.negatives=\"uniform\"",
            "data.tokenizer={ kind = \"train\", vocab_size = 300 }",
        ])
        .unwrap();
        assert_eq!(recipe.train.steps, 7);
        assert_eq!(recipe.train.optimizer.lr, 1e-3);
        assert_eq!(
            recipe.model.fusion.unwrap().gate,
            unimo_core::levels::GateKind::Token
        );
        assert!(
            with(&["objectives.mlm=none"])
                .unwrap()
                .objectives
                .mlm
                .is_none()
        );
    }

    #[test]
    fn a_value_of_another_type_names_its_key_and_what_is_allowed() {
        for (given, expected) in [
            (
                "data.shuffle=3",
                "`data.shuffle`: expected a name in quotes, or `{ name = value }`",
            ),
            (
                "data.shuffle=\"x\"",
                "`data.shuffle`: unknown variant `x`, expected `global` or `shards`",
            ),
            (
                "train.steps=\"many\"",
                "`train.steps`: invalid type: string \"many\", expected",
            ),
        ] {
            let message = with(&[given]).unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
            assert_eq!(message.lines().count(), 1, "{message}");
        }
    }

    #[test]
    fn none_takes_out_what_may_be_absent() {
        let recipe = with(&["train.clip_norm=none", "model.fusion.levels=none"]).unwrap();
        assert_eq!(recipe.train.clip_norm, None);
        assert_eq!(
            recipe.model.fusion.unwrap().levels,
            unimo_encoders::fusion::Levels::None
        );
        assert!(with(&["train.ema=none"]).unwrap().train.ema.is_none());
    }

    #[test]
    fn a_list_given_on_the_command_line_takes_settings_beside_it() {
        let overrides = Overrides {
            data: Some("pairs.csv".into()),
            set: vec!["data.pairs.filter.lang=en".to_owned()],
        };
        let recipe = Recipe::load("unimo3-tiny", &overrides).unwrap();
        assert_eq!(recipe.data.source, SourceKind::Pairs);
        let pairs = recipe.data.pairs.unwrap();
        assert_eq!(pairs.filter["lang"], "en");
        assert!(pairs.path.is_absolute() && pairs.path.ends_with("pairs.csv"));
    }

    #[test]
    fn a_run_copies_the_recipe_to_another_folder_and_its_paths_still_hold() {
        let text = BUILT_IN[0].text.replace(
            "source = \"scenes\"",
            "source = \"pairs\"\npairs = { path = \"pairs.jsonl\" }",
        );
        let none = Overrides::default();
        let parse = |text: &str, folder| Recipe::parse("mine.toml", text, folder, &none).unwrap();
        for folder in [Some(Path::new("conf")), Some(Path::new("")), None] {
            let recipe = parse(&text, folder);
            let copied = parse(&recipe.to_toml().unwrap(), Some(Path::new("runs/mine")));
            assert_eq!(recipe, copied);
        }
    }

    #[test]
    fn wrong_keys_and_values_are_named() {
        for (set, expected) in [
            ("train.stepz=7", "stepz"),
            ("train.steps=\"many\"", "`train.steps`"),
            ("train.steps=0", "`train.steps = 0`"),
            ("model.text.heads=5", "`model.text.heads = 5`"),
            ("model.fusion.gate=soft", "`model.fusion.gate`"),
            ("data.image_size=32", "model.image.image_size"),
            ("data.tokenizer.vocab_size=100000", "model.text.vocab_size"),
            ("train.steps=none", "steps"),
            ("nonsense", "key=value"),
        ] {
            let error = with(&[set]).unwrap_err().to_string();
            assert!(error.contains(expected), "{set}: {error}");
        }
        let hard = "objectives.itm.negatives=hard_argmax";
        let error = with(&[hard, "objectives.itc=none"]).unwrap_err();
        assert!(error.to_string().contains("itm.negatives"), "{error}");
        let error = Recipe::load("unimo4", &Overrides::default()).unwrap_err();
        assert!(error.to_string().contains("unimo3-tiny"), "{error}");
    }
}

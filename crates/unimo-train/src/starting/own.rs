//! `init = "unimo:RUN"`: the weights of an earlier run or of an export, whole or by parts.
//!
//! A model starts from the run's best weights, or from those of the checkpoint that is named. Tokenizer, phrases and tags are the
//! run's own, since the rows of the word embedding mean its words. Only objectives and representation tokens that the run does not have
//! are new.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use burn::module::Module;
use toml::{Table, Value};
use unimo_batch::ConfigError;
use unimo_core::init::Init;
use unimo_core::lora;
use unimo_data::{Concepts, TextTokenizer, TokenizerConfig, processor, published};
use unimo_encoders::import::{Allow, import};
use unimo_encoders::joint::JointEncoder;
use unimo_encoders::names::{Form, Names, Rule, covers, rule};
use unimo_encoders::public::{Kind, folder_of};
use unimo_encoders::weights::Weights;
use unimo_objectives::pretraining::itm::Head;
use unimo_objectives::tasks::summary::Pooling;
use unimo_objectives::tasks::{prompts, ranking};

use crate::checkpoint;
use crate::error::TrainError;
use crate::given::{self, Given};
use crate::model::Model;
use crate::pretrained::{self, NetworkConfig};
use crate::recipe::init::{INITIALIZER_RANGE, InitConfig, Layers, Whole};
use crate::recipe::{Overrides, Recipe, Task};
use crate::resuming;
use crate::run::{CONCEPTS, RunFolder};
use crate::starting::fits::agree;
use crate::starting::{Started, names_of, stream};
use crate::tasks::labels::{self, Labels};
use crate::trained;

/// The run, or its export, that a recipe starts from.
pub(crate) struct OwnRun {
    place: Place,
    recipe: Recipe,
    /// The file of the weights.
    checkpoint: PathBuf,
}

/// Where a model of this project lies.
enum Place {
    Run(RunFolder),
    /// The folder that `unimo export` wrote.
    Export(PathBuf),
}

/// The recipe whose other values stand for those that an export does not have.
const SMALLEST: &str = "unimo3-tiny";

/// Positions of patches are interpolated for images of another size; the type of a second image starts as that of the first.
const FITTED: &[Rule] = &[
    rule(
        "image.position_embedding",
        "image.position_embedding",
        Form::Grid(0),
    ),
    rule(
        "fusion.type_embedding",
        "fusion.type_embedding",
        Form::Types,
    ),
];

/// Sections of `[model]`, with the parameters that they belong to.
const SECTIONS: [(&str, &str); 6] = [
    ("text", "backbone.text"),
    ("image", "backbone.image"),
    ("regions", "backbone.regions"),
    ("fusion", "backbone.fusion"),
    ("joint", "backbone.joint"),
    ("map", "backbone.map"),
];

/// Settings that another run may have differently: they change no weight, or weights that are made to fit. Another number of layers must
/// be stated ([`OwnRun::depths`]).
const MAY_DIFFER: [&str; 6] = [
    "dropout",
    "drop_path",
    "image_size",
    "pictures",
    "layers",
    "concepts",
];

/// Further matrices of one stream.
const SPLIT: &str = "backbone.joint.split";

/// Lists of blocks in the sections of `[model]`, below the section's parameters.
const BLOCKS: [(&str, &[&str]); 5] = [
    ("text", &["layers", "clip.layers"]),
    ("image", &["layers"]),
    ("regions", &["layers"]),
    ("fusion", &["text.layers", "image.layers"]),
    ("joint", &["layers", "split"]),
];

/// An encoder that has fewer blocks than the run's.
struct Depth {
    /// The lists of its blocks.
    lists: Vec<String>,
    /// Which of the run's blocks are taken.
    taken: Vec<usize>,
    /// How many the run has.
    of: usize,
}

impl OwnRun {
    /// The run that `init` names; `None` if it names something else.
    ///
    /// # Errors
    ///
    /// There is no such run, or it has no checkpoint.
    pub(crate) fn of(recipe: &Recipe) -> Result<Option<Self>, TrainError> {
        let Some(given) = recipe.init.as_ref().and_then(|init| init.whole.as_ref()) else {
            return Ok(None);
        };
        let (kind, path) = Whole::parse(given).map_err(TrainError::of_recipe)?;
        if kind != Whole::Unimo {
            return Ok(None);
        }
        match given::find(path, None)? {
            Given::Run { folder, step } => {
                let (run, recipe) = RunFolder::open(&folder)?;
                let step = trained::chosen_step(&run, step)?;
                // The file may have been edited since.
                let recipe = resuming::of_step(&run, step)?.unwrap_or(recipe);
                Ok(Some(Self {
                    checkpoint: checkpoint::path(&run.checkpoints(), step),
                    place: Place::Run(run),
                    recipe,
                }))
            }
            Given::Public(path) => Self::of_export(&path).map(Some),
        }
    }

    /// What `unimo export` wrote: its description says as much of the model as a run's recipe.
    fn of_export(path: &Path) -> Result<Self, TrainError> {
        let public = pretrained::describe(path, None)?;
        let own = public.kind == Kind::Own.name();
        let (
            true,
            NetworkConfig::Pair {
                model, objectives, ..
            },
        ) = (own, public.config)
        else {
            return Err(TrainError::Run {
                path: path.to_owned(),
                reason: format!(
                    "is {}: `init = \"unimo:...\"` names a run, a checkpoint in it, or an export with unimo's own names; other public \
                     weights have their own words, such as bridgetower:FOLDER",
                    public.kind
                ),
            });
        };
        let folder = folder_of(path);
        let mut recipe = Recipe::load(SMALLEST, &Overrides::default())?;
        if let Some(image) = &model.image {
            let spec = processor::find(&folder, public.family, image.image_size)?
                .pictures
                .spec;
            (recipe.data.mean, recipe.data.std) = (spec.mean, spec.std);
        }
        recipe.model = *model;
        recipe.objectives = *objectives;
        recipe.train.ema = None;
        recipe.train.lora = None;
        Ok(Self {
            place: Place::Export(folder),
            recipe,
            checkpoint: public.weights,
        })
    }

    /// The run's tokenizer.
    ///
    /// # Errors
    ///
    /// It cannot be read, or the recipe names another one.
    pub(crate) fn tokenizer(
        &self,
        named: Option<&TextTokenizer>,
    ) -> Result<TextTokenizer, TrainError> {
        let own = match &self.place {
            Place::Run(run) => run.tokenizer()?,
            Place::Export(folder) => published::load(folder)?.tokenizer,
        };
        if let Some(named) = named {
            let same = named.to_json()? == own.to_json()?;
            ConfigError::unless(
                same,
                "data.tokenizer",
                "another tokenizer",
                format_args!(
                    "must be that of {}, whose weights `init` names, or {{ kind = \"train\", ... }}, which takes that one",
                    self.path().display()
                ),
            )
            .map_err(TrainError::of_recipe)?;
        }
        Ok(own)
    }

    /// The run's phrases and tags, if it has some.
    ///
    /// # Errors
    ///
    /// They cannot be read.
    pub(crate) fn concepts(&self) -> Result<Option<Concepts>, TrainError> {
        let path = self.path().join(CONCEPTS);
        Ok(path.is_file().then(|| Concepts::load(&path)).transpose()?)
    }

    /// The folder of the run, or of the export.
    pub(crate) fn path(&self) -> &Path {
        match &self.place {
            Place::Run(run) => run.path(),
            Place::Export(folder) => folder,
        }
    }

    /// Gives a new model the run's weights.
    ///
    /// # Errors
    ///
    /// The run's model differs from the recipe's.
    pub(crate) fn fill(
        &self,
        model: Model,
        recipe: &Recipe,
        init: &InitConfig,
    ) -> Result<(Model, Started), TrainError> {
        let read =
            |name: &str| init.parts.is_empty() || init.parts.iter().any(|part| covers(part, name));
        let splits = self.is_split(recipe) && !init.new.iter().any(|new| covers(new, SPLIT));
        let mut found = self.contradictions(recipe, &read)?;
        found.retain(|(key, ..)| !(splits && key == "model.joint.split"));
        agree(&found, &self.checkpoint)?;
        let section = match (&self.place, &self.recipe.train.ema) {
            (Place::Export(_), _) => None,
            (Place::Run(_), Some(_)) => Some("ema"),
            (Place::Run(_), None) => Some("model"),
        };
        let mut weights = match section {
            Some(section) => {
                let own = Weights::open_section(&self.checkpoint, section)?;
                match checkpoint::frozen_beside(&self.checkpoint)? {
                    Some(frozen) => own.and_section(&frozen, section)?,
                    None => own,
                }
            }
            None => Weights::open(&self.checkpoint)?,
        };
        let (model, merged) = self.with_its_adapters(model, &weights, &read);
        let ours = names_of(&model);
        let mut names = Names::own().and(Names::new([("backbone", "backbone", FITTED)], &[]));
        let ranks = self.ranks_by_matching(recipe);
        if ranks {
            let rules = ranking::OWN_MATCHING_NAMES;
            names = names.and(Names::new(
                [("objectives.ranking", "objectives.itm", rules)],
                &[],
            ));
        }
        let projects = recipe.objectives.prompts.is_some()
            && self.recipe.objectives.prompts.is_none()
            && self.recipe.objectives.itc.is_some();
        if projects {
            let rules = prompts::OWN_CONTRAST_NAMES;
            names = names.and(Names::new(
                [("objectives.prompts", "objectives.itc", rules)],
                &[],
            ));
        }
        let depths = self
            .depths(recipe, init, &read)
            .map_err(TrainError::of_recipe)?;
        for depth in &depths {
            for list in &depth.lists {
                names = names.numbering(list, &depth.taken);
            }
        }
        let (own, theirs) = (recipe.objectives.given(), self.recipe.objectives.given());
        let heads = |all: &[&str], others: &[&str]| -> Vec<String> {
            let new = all.iter().filter(|key| !others.contains(key));
            new.map(|key| format!("objectives.{key}")).collect()
        };
        // What is asked to be new is so even if the run has it.
        let mut left = init.new.clone();
        left.extend(ours.into_iter().filter(|name| !read(name)));
        let stored = weights.infos().map(|(name, _)| name.to_owned());
        let mut unexpected: Vec<String> = stored.filter(|name| !read(name)).collect();
        unexpected.extend(init.new.iter().chain(&init.unused).cloned());
        unexpected.extend(heads(&theirs, &own));
        for depth in &depths {
            let left = (0..depth.of).filter(|layer| !depth.taken.contains(layer));
            let left = left.flat_map(|layer| {
                depth
                    .lists
                    .iter()
                    .map(move |list| format!("{list}.{layer}"))
            });
            unexpected.extend(left);
        }
        // A teacher starts as a copy of the encoders.
        unexpected.push("teacher".to_owned());
        let mut missing = heads(&own, &theirs);
        missing.extend(splits.then(|| SPLIT.to_owned()));
        // Tokens are what is learned beside a run's encoders.
        if self.recipe.model.representation.is_none() {
            missing.push("backbone.representation".to_owned());
        }
        let allow = Allow {
            missing,
            unexpected,
            left,
        };
        let (model, mut report) = import(model, &mut weights, &names, &allow)?;
        if report.used.is_empty() {
            return Err(TrainError::of_recipe(ConfigError {
                key: "init.parts".to_owned(),
                value: format!("{:?}", init.parts),
                allowed: format!(
                    "must name something that {} has, and nothing of it is read",
                    self.path().display()
                ),
            }));
        }
        let mut model = model.materialize();
        let mut notes = vec![match section {
            Some(section) => format!(
                "{section} weights of its step {}",
                checkpoint::step_of(&self.checkpoint).unwrap_or_default()
            ),
            None => "an export, with its tokenizer".to_owned(),
        }];
        if splits && read(SPLIT) {
            model.backbone.joint = model.backbone.joint.map(JointEncoder::split_anew);
            notes.extend(stream::account_for_copies(&model, &mut report));
        }
        if merged > 0 {
            notes.push(format!(
                "that run had adapters on {merged} of these linear layers, which are added to the weights"
            ));
        }
        if projects {
            notes.push(
                "the projections of [objectives.prompts] are those of the run's [objectives.itc]"
                    .to_owned(),
            );
        }
        if ranks {
            notes.push(
                "the score of [objectives.ranking] starts as the matching head's logit of \"yes\""
                    .to_owned(),
            );
        }
        notes.extend(depths.iter().map(|depth| {
            format!(
                "{}: of the run's {} layers, from 0, these are taken: {:?}",
                depth.lists.join(", "),
                depth.of,
                depth.taken
            )
        }));
        if recipe.data.mean != self.recipe.data.mean || recipe.data.std != self.recipe.data.std {
            notes.push(format!(
                "images are normalised by mean {:?} and std {:?}; that run had {:?} and {:?}",
                recipe.data.mean, recipe.data.std, self.recipe.data.mean, self.recipe.data.std
            ));
        }
        let mut values = Vec::new();
        let (range, own) = (
            recipe.model.initializer_range,
            self.recipe.model.initializer_range,
        );
        if matches!(self.place, Place::Run(_)) && range != own {
            if report.new.is_empty() {
                notes.push(format!(
                    "{INITIALIZER_RANGE} = {range} is not used: no parameter is new, and those of the run began with {own}"
                ));
                values.push((INITIALIZER_RANGE.to_owned(), own));
            } else {
                notes.push(format!(
                    "{INITIALIZER_RANGE} = {range} is of the parameters that are new alone; those of the run began with {own}"
                ));
            }
        }
        Ok((
            model,
            Started {
                from: vec![("the model".to_owned(), self.checkpoint.clone())],
                notes,
                report,
                values,
            },
        ))
    }

    /// Checks that the outputs of a head that is read mean what they meant in the run. A head of another number of labels is refused where it is
    /// read.
    ///
    /// # Errors
    ///
    /// The labels are as many, but others, or in another order.
    pub(crate) fn check_labels(
        &self,
        recipe: &Recipe,
        labels: Option<&Labels>,
    ) -> Result<(), TrainError> {
        let (Some(init), Some(task), Some(now)) = (&recipe.init, Task::of(recipe), labels) else {
            return Ok(());
        };
        let head = format!("objectives.{}", task.key);
        // A part of the head that begins anew may be its outputs.
        let new = init
            .new
            .iter()
            .any(|part| covers(part, &head) || covers(&head, part));
        let read = init.parts.is_empty()
            || init
                .parts
                .iter()
                .any(|part| covers(part, &head) || covers(&head, part));
        let same_task = Task::of(&self.recipe).is_some_and(|own| own.key == task.key);
        if new || !read || !same_task || !task.asks_labels() {
            return Ok(());
        }
        let (path, then) = match &self.place {
            Place::Run(run) => (run.join(labels::FILE_NAME), run.labels_of(&self.recipe)?),
            Place::Export(folder) => {
                let path = folder.join(labels::FILE_NAME);
                let there = path.is_file().then(|| Labels::read(&path));
                (path, there.transpose()?)
            }
        };
        let Some(then) = then.filter(|then| then.len() == now.len()) else {
            return Ok(());
        };
        let pairs = then.names().iter().zip(now.names()).enumerate();
        let mut others = pairs.filter(|(_, (then, now))| then != now);
        let Some((at, (was, is))) = others.next() else {
            return Ok(());
        };
        Err(TrainError::of_recipe(ConfigError {
            key: "init".to_owned(),
            value: format!("\"{}\"", self.path().display()),
            allowed: format!(
                "must have the labels of this recipe in their order, since the head of [{head}] is read with the rest: {} of {} differ, the \
                 first is output {at}, \"{was}\" there and \"{is}\" here. task.labels = {{ kind = \"file\", path = \"{}\" }} takes the \
                 run's, and init.new = [\"{head}\"] begins with a new head",
                1 + others.count(),
                then.len(),
                path.display()
            ),
        }))
    }

    /// What is wrong with a recipe that starts from this run, as far as the run's recipe tells.
    pub(crate) fn wrong(&self, recipe: &Recipe, init: &InitConfig) -> Vec<TrainError> {
        let read =
            |name: &str| init.parts.is_empty() || init.parts.iter().any(|part| covers(part, name));
        let contradictions = self.contradictions(recipe, &read);
        let agrees = contradictions.and_then(|found| agree(&found, &self.checkpoint));
        let depths = self.depths(recipe, init, &read);
        let depths = depths.map_err(TrainError::of_recipe);
        agrees.err().into_iter().chain(depths.err()).collect()
    }

    /// Takes the run's tokenizer into a new run's recipe. Returns a line that says so.
    pub(crate) fn give_tokenizer(&self, recipe: &mut Recipe, tokenizer: &TextTokenizer) -> String {
        let tokens = tokenizer.vocab_size();
        let mut line = format!(
            "tokenizer: that of {}, whose weights `init` names, with {tokens} tokens",
            self.path().display()
        );
        let TokenizerConfig::Train { vocab_size } = recipe.data.tokenizer else {
            return line;
        };
        let own = match &self.place {
            Place::Run(_) => self.recipe.data.tokenizer.clone(),
            Place::Export(_) => TokenizerConfig::Train { vocab_size: tokens },
        };
        if own != recipe.data.tokenizer {
            line += &format!("; data.tokenizer.vocab_size = {vocab_size} is not used");
            let stages = recipe.stage.iter_mut().filter_map(|s| s.data.as_mut());
            for data in stages.chain([&mut recipe.data]) {
                data.tokenizer = own.clone();
            }
        }
        line
    }

    /// The model with the adapters that the run's weights have, blank, on the layers that are read, and their number.
    fn with_its_adapters(
        &self,
        model: Model,
        weights: &Weights,
        read: &dyn Fn(&str) -> bool,
    ) -> (Model, usize) {
        let Some(config) = &self.recipe.train.lora else {
            return (model, 0);
        };
        let stored: BTreeSet<&str> = weights.infos().map(|(name, _)| name).collect();
        let has = |layer: &str| {
            let name = format!("{layer}.weight.lora.a");
            stored.contains(name.as_str()) && read(&name)
        };
        let layers = lora::linear_layers(&model);
        let count = layers.iter().filter(|layer| has(layer)).count();
        let device = model.backbone.text.word_embedding.weight.device();
        let mut init = Init::blank(&device);
        (lora::attach(model, &mut init, &config.spec(), &has), count)
    }

    /// Whether parts of the stream have matrices of their own in the recipe, and share them in the run.
    fn is_split(&self, recipe: &Recipe) -> bool {
        let split = |recipe: &Recipe| Some(recipe.model.joint.as_ref()?.split.is_some());
        split(recipe) == Some(true) && split(&self.recipe) == Some(false)
    }

    /// Whether the recipe ranks texts, and the run does not but has a matching head that reads pairs in the same way.
    fn ranks_by_matching(&self, recipe: &Recipe) -> bool {
        let theirs = &self.recipe.objectives;
        match (&recipe.objectives.ranking, &theirs.itm) {
            (Some(ranking), Some(itm)) if theirs.ranking.is_none() => matches!(
                (ranking.pooling, itm.head),
                (Pooling::Pair, Head::Pair)
                    | (Pooling::Product, Head::Product)
                    | (Pooling::Text, Head::Text)
            ),
            _ => false,
        }
    }

    /// The encoders that are read and have another number of blocks than the run's.
    ///
    /// # Errors
    ///
    /// The recipe does not say which blocks are taken, or has more, or says it where nothing differs.
    fn depths(
        &self,
        recipe: &Recipe,
        init: &InitConfig,
        read: &dyn Fn(&str) -> bool,
    ) -> Result<Vec<Depth>, ConfigError> {
        let layers = |recipe: &Recipe, section: &str| match section {
            "text" => Some(recipe.model.text.layers),
            "image" => recipe.model.image.as_ref().map(|image| image.layers),
            "regions" => recipe.model.regions.as_ref().map(|regions| regions.layers),
            "fusion" => recipe.model.fusion.as_ref().map(|fusion| fusion.layers),
            _ => recipe.model.joint.as_ref().map(|joint| joint.layers),
        };
        let joint = self.recipe.model.joint.as_ref();
        let has_split = joint.is_some_and(|joint| joint.split.is_some());
        let mut depths = Vec::new();
        for (section, blocks) in BLOCKS {
            let key = format!("model.{section}.layers");
            let (Some(ours), Some(theirs)) =
                (layers(recipe, section), layers(&self.recipe, section))
            else {
                continue;
            };
            let lists = blocks
                .iter()
                .map(|list| format!("backbone.{section}.{list}"));
            let there = |list: &String| list != SPLIT || has_split;
            let lists = lists.filter(there);
            let lists: Vec<String> = lists.filter(|list| read(&format!("{list}.0."))).collect();
            if ours == theirs || lists.is_empty() {
                continue;
            }
            let Some(layers) = init.layers else {
                return ConfigError::unless(
                    false,
                    &key,
                    ours,
                    format_args!(
                        "must be {theirs} as in the run that `init` names, or, if it is fewer, init.layers must say which are taken: \
                         \"first\" or \"every_second\""
                    ),
                )
                .map(|()| Vec::new());
            };
            depths.push(Depth {
                lists,
                taken: layers.of(&key, ours, theirs)?,
                of: theirs,
            });
        }
        ConfigError::unless(
            init.layers.is_none() || !depths.is_empty(),
            "init.layers",
            format_args!("\"{}\"", init.layers.map_or("none", Layers::name)),
            "must be absent: every encoder that is read has as many layers as the run's",
        )?;
        Ok(depths)
    }

    /// Settings of the encoders that are read in which the recipe differs from the run: key, own value, the run's value.
    fn contradictions(
        &self,
        recipe: &Recipe,
        read: &dyn Fn(&str) -> bool,
    ) -> Result<Vec<(String, String, String)>, TrainError> {
        let table = |recipe: &Recipe| -> Result<Table, TrainError> {
            Table::try_from(&recipe.model).map_err(|error| TrainError::Check(error.to_string()))
        };
        let (ours, theirs) = (table(recipe)?, table(&self.recipe)?);
        let mut found = Vec::new();
        let sections = SECTIONS.map(|(section, parameters)| (section, parameters.to_owned()));
        let outside = recipe.model.outside.as_ref();
        let outside = outside.map(|o| (o.key(), format!("backbone.outside.{}", o.key())));
        for (section, parameters) in sections.into_iter().chain(outside) {
            if !read(&format!("{parameters}.")) {
                continue;
            }
            if let (Some(ours), Some(theirs)) = (ours.get(section), theirs.get(section)) {
                differences(&format!("model.{section}"), ours, theirs, &mut found);
            }
        }
        Ok(found)
    }
}

/// The values that differ, but for those that may.
fn differences(key: &str, ours: &Value, theirs: &Value, found: &mut Vec<(String, String, String)>) {
    if let (Value::Table(ours), Value::Table(theirs)) = (ours, theirs) {
        let keys: BTreeSet<&String> = ours.keys().chain(theirs.keys()).collect();
        let absent = Value::String("absent".to_owned());
        for name in keys
            .into_iter()
            .filter(|name| !MAY_DIFFER.contains(&name.as_str()))
        {
            let value = |table: &Table| table.get(name).unwrap_or(&absent).clone();
            differences(
                &format!("{key}.{name}"),
                &value(ours),
                &value(theirs),
                found,
            );
        }
    } else if ours != theirs {
        found.push((key.to_owned(), ours.to_string(), theirs.to_string()));
    }
}

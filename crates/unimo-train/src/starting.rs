//! `init` in a recipe: public weights to start from.
//!
//! ```toml
//! init = "meter:meter_clip16_288_roberta_pretrain.ckpt"    # a whole checkpoint, or
//!
//! [init]
//! text = "FacebookAI/roberta-base"                         # a folder, or a Hugging Face id, maybe with @revision
//! image = "openai/clip-vit-base-patch16"
//! joint = "google-bert/bert-base-uncased"                  # its blocks become those of one stream
//! new = ["backbone.fusion", "objectives"]                  # what may start from random weights
//! ```
//!
//! `init = "unimo:RUN"` starts from a run of one's own (`starting/own.rs`).
//!
//! What the recipe does not say of the encoders has been taken from these files before (`recipe/taken.rs`). An encoder of fewer layers than
//! the file's takes the first ones, or those that `init.layers` names.
//!
//! Every parameter is read or covered by `new`. Every tensor of the files is used or known to be useless. Sizes, epsilons,
//! activations and normalisation must agree with the files. A wrong path never means random weights, and an entry of `new` or
//! `unused` that matches nothing is an error.

mod adapters;
pub(crate) mod fits;
pub(crate) mod own;
mod stream;

use std::fmt;
use std::path::PathBuf;

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use toml::{Table, Value};
use unimo_batch::ConfigError;
use unimo_core::lora;
use unimo_core::parameters;
use unimo_data::TokenizerConfig;
use unimo_encoders::backbone::BackboneConfig;
use unimo_encoders::import::{Allow, Report, import};
use unimo_encoders::names::{Names, covers};
use unimo_encoders::public::{best, clip, meter};
use unimo_encoders::weights::Weights;

use crate::error::TrainError;
use crate::hub;
use crate::memory;
use crate::model::Model;
use crate::pretrained::{self, Public};
use crate::recipe::Recipe;
use crate::recipe::init::{InitConfig, LOGIT_SCALE, Layers, Whole};
use crate::recipe::overrides::flat;
use crate::starting::own::OwnRun;

/// The ways in which such a checkpoint may spell its names.
fn spellings(kind: Whole, model: &BackboneConfig) -> Vec<Names> {
    let all: Vec<Names> = match kind {
        Whole::Unimo => Vec::new(),
        Whole::Meter => vec![pretrained::meter_names().leaving(meter::TASK_HEADS)],
        Whole::BridgeTower => [true, false]
            .into_iter()
            .flat_map(pretrained::bridgetower_names)
            .collect(),
        Whole::Albef => vec![pretrained::albef_names(model)],
        Whole::Clip => ["objectives.prompts", "objectives.itc"]
            .into_iter()
            .flat_map(clip::backbone_spellings)
            .collect(),
    };
    // Of two spellings that give as much, the first is taken: a head for ranking, if there is one.
    let matching = all.clone().into_iter().map(pretrained::ranking_by_matching);
    all.iter().cloned().chain(matching).collect()
}

/// A teacher's copies of heads, its queue and its ramp: no public checkpoint is read for them, and they begin as copies of the heads.
const OF_TEACHERS: [&str; 4] = [
    "objectives.itc.momentum",
    "objectives.mlm.distil",
    "objectives.mim.distil",
    "objectives.psl.distil",
];

/// What is learned beside a frozen CLIP, which no checkpoint of CLIP has.
const LEARNED_BESIDE_CLIP: [&str; 2] = [
    "backbone.representation",
    "objectives.prompts.token_projection",
];

/// Parameters that such a checkpoint cannot have, since its model has no such part.
fn lacks(kind: Whole) -> Vec<String> {
    let own: Vec<String> = match kind {
        Whole::Meter => meter::NOT_IN_METER
            .iter()
            .map(|pattern| format!("backbone.{pattern}"))
            .chain(["objectives.itc".to_owned()])
            .collect(),
        Whole::Unimo => return Vec::new(),
        Whole::BridgeTower | Whole::Albef => Vec::new(),
        Whole::Clip => LEARNED_BESIDE_CLIP.map(str::to_owned).to_vec(),
    };
    let of_teachers = OF_TEACHERS.into_iter().map(str::to_owned);
    own.into_iter().chain(of_teachers).collect()
}

/// What a model started from.
#[derive(Debug, Clone, PartialEq)]
pub struct Started {
    /// Each part, with its folder or file.
    pub from: Vec<(String, PathBuf)>,
    /// Assumptions that were made, one per line.
    pub notes: Vec<String>,
    /// Every tensor.
    pub report: Report,
    /// Values of the recipe that the weights have otherwise, by their keys.
    pub values: Vec<(String, f64)>,
}

impl fmt::Display for Started {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (part, path) in &self.from {
            writeln!(f, "weights of {part} from {}", path.display())?;
        }
        for note in &self.notes {
            writeln!(f, "  note        {note}")?;
        }
        write!(f, "{}", self.report)
    }
}

/// A recipe's model before its first step: new weights, and public ones if the recipe names them.
///
/// # Errors
///
/// A file does not exist, cannot be read, or does not fit the recipe; or the machine cannot hold the weights.
pub fn model(recipe: &Recipe, device: &Device) -> Result<(Model, Option<Started>), TrainError> {
    memory::check_weights(&recipe.model)?;
    let mut model = Model::new(recipe, device);
    // No checkpoint that is read here has a teacher: it starts as a copy of the loaded encoders.
    let teacher = model.teacher.take();
    refuse(wrong_names(recipe, &model))?;
    let Some(init) = &recipe.init else {
        model.teacher = teacher;
        return Ok((model.adapted(recipe, device), None));
    };
    let allow = Allow {
        missing: init.new.clone(),
        unexpected: init.unused.clone(),
        left: Vec::new(),
    };
    let own = OwnRun::of(recipe)?;
    let is_own = own.is_some();
    let (mut model, started) = match (own, &init.whole) {
        (Some(run), _) => run.fill(model, recipe, init)?,
        (None, Some(given)) => whole(model, recipe, given, allow)?,
        (None, None) => parts(model, recipe, init, &allow)?,
    };
    model.teacher = teacher;
    model.adopt();
    let mut started = started;
    started.learned(recipe, &model)?;
    started.doubtful(recipe, is_own);
    Ok((model.adapted(recipe, device), Some(started)))
}

/// The first of some errors.
fn refuse(wrong: Vec<ConfigError>) -> Result<(), TrainError> {
    let first = wrong.into_iter().next();
    first.map_or(Ok(()), |error| Err(TrainError::of_recipe(error)))
}

/// What a recipe names of its model that the model does not have. Weights do not matter, and the model has neither teacher nor adapters.
pub(crate) fn wrong_names(recipe: &Recipe, model: &Model) -> Vec<ConfigError> {
    let ours = names_of(model);
    let mut found = recipe.wrong_patterns(&ours);
    found.extend(recipe.check_cache(&ours).err());
    if let Some(config) = &recipe.train.lora {
        let layers = lora::linear_layers(model);
        found.extend(config.layers.iter().filter_map(|pattern| {
            let checked = ConfigError::unless(
                layers.iter().any(|layer| covers(pattern, layer)),
                "train.lora.layers",
                format_args!("\"{pattern}\""),
                format_args!(
                    "is the name of no linear layer, nor a beginning; there are {}",
                    of_any_block(&layers).join(", ")
                ),
            );
            checked.err()
        }));
        found.extend(adapters::idle(recipe, config, &layers, &ours));
    }
    let init = recipe.init.iter();
    let named = init.flat_map(|init| {
        let new = init.new.iter().map(|pattern| ("init.new", pattern));
        new.chain(init.parts.iter().map(|pattern| ("init.parts", pattern)))
    });
    found.extend(named.filter_map(|(key, pattern)| {
        let checked = ConfigError::unless(
            ours.iter().any(|name| covers(pattern, name)),
            key,
            format_args!("\"{pattern}\""),
            format_args!(
                "is the name of no parameter, nor a beginning; there are {}",
                beginnings(&ours)
            ),
        );
        checked.err()
    }));
    found
}

impl Started {
    /// Notes what is new and never learns, and a tokenizer that is not that of the weights.
    fn doubtful(&mut self, recipe: &Recipe, brings_its_tokenizer: bool) {
        let train = &recipe.train;
        let covered = |all: &[String], name: &str| all.iter().any(|one| covers(one, name));
        let beside = train.lora.as_ref().map(|lora| &lora.also);
        let never = |name: &String| {
            covered(&train.freeze, name) || beside.is_some_and(|also| !covered(also, name))
        };
        let new = self.report.new.iter();
        let still: Vec<String> = new.filter(|name| never(name)).cloned().collect();
        if !still.is_empty() {
            self.notes.push(format!(
                "{} of the new tensors never learn and stay random, those of {}",
                still.len(),
                beginnings(&still)
            ));
        }
        let words = recipe.init.as_ref().is_some_and(|init| {
            let named = init.text.is_some() || init.whole.is_some();
            named && !init.new.iter().any(|new| covers(new, WORDS))
        });
        let trained = matches!(recipe.data.tokenizer, TokenizerConfig::Train { .. });
        if words && trained && !brings_its_tokenizer && recipe.reads_texts() {
            self.notes.push(
                "data.tokenizer is trained on the captions, and its tokens are not those that the word embeddings of these weights were \
                 learned for: name theirs, such as data.tokenizer = { kind = \"file\", path = \"FOLDER\" }"
                    .to_owned(),
            );
        }
    }

    /// Notes settings that only say how a parameter begins, of parameters that were loaded.
    fn learned(&mut self, recipe: &Recipe, model: &Model) -> Result<(), TrainError> {
        let table: Table = recipe.to_toml()?.parse().unwrap_or_default();
        let given = flat(&table);
        for handle in parameters::handles(model) {
            let Some(section) = handle.name.strip_suffix(LOGIT_SCALE) else {
                continue;
            };
            let key = format!("{section}.temperature");
            let used = self
                .report
                .used
                .iter()
                .any(|(ours, _)| *ours == handle.name);
            let (true, Some(given)) = (used, given.get(&key).and_then(Value::as_float)) else {
                continue;
            };
            let values: Vec<f32> = handle.fetch().iter().collect();
            let Some(scale) = values.first() else {
                continue;
            };
            let learned = f64::from((-scale).exp());
            if (learned - given).abs() > SAME_TEMPERATURE * given {
                // As many digits as f32 has.
                let learned: f64 = format!("{learned:.6e}").parse().unwrap_or(learned);
                self.notes.push(format!(
                    "{key} = {given} is not used: the weights have learned {learned}, which the training begins with"
                ));
                self.values.push((key, learned));
            }
        }
        Ok(())
    }
}

/// The table of word embeddings.
const WORDS: &str = "backbone.text.word_embedding.weight";

/// Share by which a loaded temperature differs from the recipe's at least: f32 keeps no more of its logarithm.
const SAME_TEMPERATURE: f64 = 1e-5;

/// Names with `*` in the place of numbers, each once.
fn of_any_block(names: &[String]) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    for name in names {
        let parts = name.split('.').map(|part| match part.parse::<usize>() {
            Ok(_) => "*",
            Err(_) => part,
        });
        let name = parts.collect::<Vec<_>>().join(".");
        if !found.contains(&name) {
            found.push(name);
        }
    }
    found
}

/// The first two parts of the parameters' names.
fn beginnings(names: &[String]) -> String {
    let mut found: Vec<String> = Vec::new();
    for name in names {
        let first: Vec<&str> = name.split('.').take(2).collect();
        let first = first.join(".");
        if !found.contains(&first) {
            found.push(first);
        }
    }
    found.join(", ")
}

/// A whole model from one checkpoint.
fn whole(
    model: Model,
    recipe: &Recipe,
    given: &str,
    mut allow: Allow,
) -> Result<(Model, Started), TrainError> {
    let (kind, path) = Whole::parse(given).map_err(TrainError::of_recipe)?;
    let path = hub::resolve(path)?;
    let mut notes = fits::whole(recipe, kind, given, &path)?;
    let mut weights = Weights::open(&path)?;
    matches_something(&allow.unexpected, &mut [&weights].into_iter())?;
    let ours = names_of(&model);
    let names = best(spellings(kind, &recipe.model), &ours, &weights);
    allow.missing.extend(lacks(kind));
    let theirs = meter::pictures_from_shapes(&weights);
    let ours = recipe.model.fusion.as_ref().map_or(1, |f| f.pictures);
    // A second image that the file does not know starts as the first; a type of an image that is not read is lost silently.
    if let (Whole::Meter, Ok(theirs)) = (kind, theirs)
        && ours < theirs
    {
        let key = "model.fusion.pictures".to_owned();
        fits::agree(&[(key, ours.to_string(), theirs.to_string())], &path)?;
    }
    let (model, report) = import(model, &mut weights, &names, &allow)?;
    let ranks = |(ours, theirs): &(String, String)| {
        ours == "objectives.ranking.score.weight" && theirs.starts_with("itm_score")
    };
    if report.used.iter().any(ranks) {
        notes.push(
            "the file has no head for ranking: [objectives.ranking] starts as its matching head's logit of \"yes\", row 1 of itm_score.fc"
                .to_owned(),
        );
    }
    let from = vec![("the model".to_owned(), path)];
    Ok((
        model,
        Started {
            from,
            notes,
            report,
            values: Vec::new(),
        },
    ))
}

/// Checks that every entry of `init.unused` matches a tensor.
fn matches_something(
    patterns: &[String],
    files: &mut dyn Iterator<Item = &Weights>,
) -> Result<(), TrainError> {
    let names: Vec<String> = files
        .flat_map(|weights| weights.infos().map(|(name, _)| name.to_owned()))
        .collect();
    for pattern in patterns {
        ConfigError::unless(
            names.iter().any(|name| covers(pattern, name)),
            "init.unused",
            format_args!("\"{pattern}\""),
            format_args!(
                "is the name of no tensor of the files, nor a beginning; there are {}",
                beginnings(&names)
            ),
        )
        .map_err(TrainError::of_recipe)?;
    }
    Ok(())
}

pub(crate) fn names_of<M: Module>(module: &M) -> Vec<String> {
    parameters::list(module)
        .into_iter()
        .map(|p| p.name)
        .collect()
}

/// Text and image encoder from separate files.
fn parts(
    mut model: Model,
    recipe: &Recipe,
    init: &InitConfig,
    allow: &Allow,
) -> Result<(Model, Started), TrainError> {
    let mut from = Vec::new();
    let mut notes = Vec::new();
    let mut files = Vec::new();
    let mut report = Report::default();
    if let Some(given) = &init.text {
        let path = hub::resolve(given)?;
        let (public, theirs) = fits::text(recipe, given, &path)?;
        let ours = &recipe.model.text;
        let text_layers = blocks(init, "text", ours.layers, theirs.layers, &mut notes)?;
        files.push(Weights::open(&public.weights)?);
        // Rows of concepts follow the rows of words and are not changed.
        let mut encoder = model.backbone.text;
        let concepts = ours.vocab_size.saturating_sub(theirs.vocab_size);
        let mut rows_of_concepts = None;
        if concepts > 0 {
            let all = encoder.word_embedding.weight;
            rows_of_concepts = Some(all.val().narrow(0, theirs.vocab_size, concepts).detach());
            encoder.word_embedding.weight =
                parameters::update(all, |all| all.narrow(0, 0, theirs.vocab_size));
        }
        let (mut encoder, account) = part(encoder, &public, allow, "backbone.text", &text_layers)?;
        if let Some(rows) = rows_of_concepts {
            let words = encoder.word_embedding.weight;
            encoder.word_embedding.weight = parameters::update(words, |words| {
                Tensor::cat(vec![words, rows.without_autodiff()], 0)
            });
        }
        model.backbone.text = encoder;
        report = report.and(account);
        from.push(("the text encoder".to_owned(), path));
    }
    if let Some(given) = &init.image {
        let path = hub::resolve(given)?;
        let (public, theirs, said) = fits::image(recipe, given, &path)?;
        let (Some(ours), Some(encoder)) = (&recipe.model.image, model.backbone.image.take()) else {
            return Err(fits::no_image_encoder(given));
        };
        notes.extend(said);
        let image_layers = blocks(init, "image", ours.layers, theirs.layers, &mut notes)?;
        files.push(Weights::open(&public.weights)?);
        let (encoder, account) = part(encoder, &public, allow, "backbone.image", &image_layers)?;
        model.backbone.image = Some(encoder);
        report = report.and(account);
        from.push(("the image encoder".to_owned(), path));
    }
    if let Some(given) = &init.joint {
        let begun = stream::begin(model, recipe, (init, given), allow)?;
        model = begun.model;
        files.push(begun.weights);
        notes.extend(begun.notes);
        report = report.and(begun.report);
        from.push(("the single stream".to_owned(), begun.path));
    }
    matches_something(&allow.unexpected, &mut files.iter())?;
    let read = |name: &str| report.used.iter().any(|(ours, _)| ours == name);
    let unread: Vec<String> = names_of(&model).into_iter().filter(|n| !read(n)).collect();
    let unnamed = unread
        .iter()
        .find(|name| !allow.missing.iter().any(|pattern| covers(pattern, name)));
    if let Some(name) = unnamed {
        return Err(TrainError::of_recipe(ConfigError {
            key: "init.new".to_owned(),
            value: format!("{:?}", init.new),
            allowed: format!(
                "must name everything that starts from random weights; nothing gives `{name}`"
            ),
        }));
    }
    report.new = unread;
    Ok((
        model,
        Started {
            from,
            notes,
            report,
            values: Vec::new(),
        },
    ))
}

/// Which blocks of a public encoder become ours, with a line about those that do not.
fn blocks(
    init: &InitConfig,
    section: &str,
    ours: usize,
    theirs: usize,
    notes: &mut Vec<String>,
) -> Result<Blocks, TrainError> {
    let layers = init.layers.unwrap_or(Layers::First);
    let taken = layers.of(&format!("model.{section}.layers"), ours, theirs);
    let taken = taken.map_err(TrainError::of_recipe)?;
    if ours < theirs {
        notes.push(format!(
            "backbone.{section}.layers: of {theirs} layers, from 0, these are taken: {taken:?}"
        ));
    }
    Ok(Blocks { taken, of: theirs })
}

/// The blocks of a public encoder that become ours.
struct Blocks {
    taken: Vec<usize>,
    of: usize,
}

impl Blocks {
    /// What the file may call the tensors of the blocks that are not taken.
    fn left(&self, spelled: &Names) -> Vec<String> {
        let rules = spelled.sections.iter().flat_map(|section| section.rules);
        let of_block: Vec<&str> = rules
            .filter_map(|rule| rule.ours.strip_prefix("layers.{}."))
            .collect();
        let left = (0..self.of).filter(|layer| !self.taken.contains(layer));
        let names = left.flat_map(|layer| {
            let each = of_block.iter();
            each.flat_map(move |rest| {
                ["", ".weight", ".bias"].map(|param| format!("layers.{layer}.{rest}{param}"))
            })
        });
        let targets = names.filter_map(|name| spelled.target(&name));
        targets.map(|target| target.name).collect()
    }
}

/// Loads one encoder; the blocks that are not taken are left unused.
fn part<M: Module>(
    module: M,
    public: &Public,
    allow: &Allow,
    field: &str,
    blocks: &Blocks,
) -> Result<(M, Report), TrainError> {
    let mut weights = Weights::open(&public.weights)?;
    let parameters = names_of(&module);
    let names = best(public.spellings.clone(), &parameters, &weights);
    // What the file calls a block of any number.
    let spelled = names.clone();
    let names = names.numbering("layers", &blocks.taken);
    let mut allow = Allow {
        missing: allow
            .missing
            .iter()
            .filter_map(|pattern| pattern.strip_prefix(field)?.strip_prefix('.'))
            .map(str::to_owned)
            .collect(),
        unexpected: allow.unexpected.clone(),
        left: Vec::new(),
    };
    allow.unexpected.extend(blocks.left(&spelled));
    let (module, mut report) = import(module, &mut weights, &names, &allow)?;
    for (own, _) in &mut report.used {
        *own = format!("{field}.{own}");
    }
    Ok((module, report))
}

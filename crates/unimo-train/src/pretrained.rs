//! Public checkpoints as models: what a folder holds, made and filled.

use std::path::{Path, PathBuf};

use burn::module::Module;
use burn::tensor::{Device, FloatDType};
use serde_json::Value;
use unimo_batch::{ConfigError, MaskSpec};
use unimo_core::init::Init;
use unimo_core::layers::Activation;
use unimo_core::levels::GateKind;
use unimo_core::parameters;
use unimo_data::processor::Family;
use unimo_encoders::backbone::BackboneConfig;
use unimo_encoders::clip::{Clip, ClipConfig};
use unimo_encoders::image::{ImageEncoder, ImageEncoderConfig};
use unimo_encoders::import::{Allow, Report, import};
use unimo_encoders::names::Names;
use unimo_encoders::public::{
    PublicConfigError, bert, best, bridgetower, clip, meter, open_clip, read_json, vit,
};
use unimo_encoders::region::RegionEncoderConfig;
use unimo_encoders::tasks::{self, TasksConfig};
use unimo_encoders::text::{TextEncoder, TextEncoderConfig};
use unimo_encoders::weights::Weights;
use unimo_objectives::ObjectivesConfig;
use unimo_objectives::itc::{self, ItcConfig, Normalised, Projection, Views};
use unimo_objectives::itm::{self, Head, ItmConfig, Layout, Negatives};
use unimo_objectives::mlm::{self, MlmConfig};

use crate::bench::{self, Size};
use crate::error::TrainError;
use crate::given;
use crate::model::Model;

/// What a checkpoint describes.
#[derive(Debug, Clone, PartialEq)]
pub enum NetworkConfig {
    /// BERT, RoBERTa, XLM-R.
    Text(TextEncoderConfig),
    /// ViT, DeiT, CLIP's image tower.
    Image(ImageEncoderConfig),
    /// CLIP.
    Clip(ClipConfig),
    /// BridgeTower, METER, UNIMO-3: three encoders and the heads that the checkpoint has.
    Pair {
        /// Encoders.
        model: Box<BackboneConfig>,
        /// Heads.
        objectives: Box<ObjectivesConfig>,
        /// Heads of fine-tuned models.
        tasks: TasksConfig,
    },
}

/// A model that came from a checkpoint.
#[derive(Debug)]
pub enum Network {
    /// BERT, RoBERTa, XLM-R.
    Text(Box<TextEncoder>),
    /// ViT, DeiT, CLIP's image tower.
    Image(Box<ImageEncoder>),
    /// CLIP.
    Clip(Box<Clip>),
    /// BridgeTower, METER, UNIMO-3.
    Pair(Box<Model>),
}

/// A checkpoint's description: what it is and what its tensors are called.
pub struct Public {
    /// The kind's name.
    pub kind: &'static str,
    /// Sizes.
    pub config: NetworkConfig,
    /// All ways in which this kind spells its names.
    pub spellings: Vec<Names>,
    /// Where the weights are.
    pub weights: PathBuf,
    /// How its kind prepares pictures where no file says it.
    pub family: Family,
    /// Whether the decoder of a language head is the word embedding.
    pub tied: bool,
    /// What was taken for granted, one line each.
    pub notes: Vec<String>,
}

/// A model with its weights.
pub struct Pretrained {
    /// The model.
    pub network: Network,
    /// Its sizes, with the heads that there are.
    pub config: NetworkConfig,
    /// What became of every tensor.
    pub report: Report,
}

/// Reads what a folder or a file holds.
///
/// A folder says it in its `config.json`, or in OpenCLIP's `open_clip_config.json`; a file's description is looked for beside it. A
/// METER checkpoint and CLIP in OpenAI's naming are understood without. `weights` names another file than the folder's own.
///
/// # Errors
///
/// There is no such file, or it describes something that is not supported.
pub fn describe(path: &Path, weights: Option<&Path>) -> Result<Public, TrainError> {
    if path.is_dir() {
        from_folder(path, weights.unwrap_or(path))
    } else {
        from_file(path)
    }
}

fn from_folder(folder: &Path, weights: &Path) -> Result<Public, TrainError> {
    let file = folder.join(CONFIG);
    let open_clip = folder.join(OPEN_CLIP_CONFIG);
    if !file.is_file() && open_clip.is_file() {
        return from_open_clip(&Weights::open(weights)?, &open_clip);
    }
    if !file.is_file() {
        return Err(unsupported(
            folder,
            format!(
                "holds neither {CONFIG} nor {OPEN_CLIP_CONFIG}, which say what a model is, and no recipe.toml of a run{}",
                files_beside(folder)
            ),
        ));
    }
    let json = read_json(&file)?;
    let unsupported = |reason: String| unsupported(&file, reason);
    let weights = weights.to_owned();
    let kind = json["model_type"].as_str();
    let ties = json["tie_word_embeddings"].as_bool();
    let (kind, config, spellings, family) = match kind {
        Some("bert" | "roberta" | "xlm-roberta") => {
            let mut spellings = bert::spellings();
            if ties == Some(false) {
                spellings.iter_mut().for_each(|names| names.tied.clear());
            }
            let config = bert::config(&json).map_err(unsupported)?;
            (
                "BERT, RoBERTa or XLM-R",
                NetworkConfig::Text(config),
                spellings,
                Family::Torchvision,
            )
        }
        Some(name @ ("vit" | "deit")) => (
            "ViT or DeiT",
            NetworkConfig::Image(vit::config(&json).map_err(unsupported)?),
            vit::spellings(),
            match name {
                "vit" => Family::Vit,
                _ => Family::Deit,
            },
        ),
        Some("clip_vision_model") => (
            "CLIP's image tower",
            NetworkConfig::Image(clip::image_config(&json).map_err(unsupported)?),
            clip::image_spellings(),
            Family::Clip,
        ),
        Some("clip") => (
            "CLIP",
            NetworkConfig::Clip(clip::config(&json).map_err(unsupported)?),
            clip::spellings(),
            Family::Clip,
        ),
        Some(OWN) => {
            let own: Own = serde_json::from_value(json).map_err(|e| unsupported(e.to_string()))?;
            own.model
                .validate()
                .and_then(|()| own.objectives.validate())
                .and_then(|()| own.objectives.validate_with(&own.model))
                .map_err(|e| unsupported(e.to_string()))?;
            let config = NetworkConfig::Pair {
                model: Box::new(own.model),
                objectives: Box::new(own.objectives),
                tasks: own.tasks,
            };
            (
                "a model of unimo's own",
                config,
                vec![Names::own()],
                Family::Torchvision,
            )
        }
        Some("bridgetower") => {
            let model = bridgetower::config(&json).map_err(unsupported)?;
            let shared = model.fusion.as_ref().is_none_or(|f| f.shared_transforms);
            let mut spellings = bridgetower_names(shared);
            if ties == Some(true) {
                spellings = ["bridgetower.", ""]
                    .into_iter()
                    .zip(spellings)
                    .map(|(prefix, names)| {
                        let words = format!("{prefix}text_model.embeddings.word_embeddings.weight");
                        names.tying("mlm_score.decoder.weight", &words)
                    })
                    .collect();
            }
            (
                "BridgeTower",
                pair(model, TasksConfig::default()),
                spellings,
                Family::BridgeTower,
            )
        }
        None if json["model"] == "meter" || json["model"] == "unimo3" => {
            let mut model = twin_config(&json).map_err(unsupported)?;
            let spellings = vec![twin_names(), meter_names()];
            let opened = Weights::open(&weights)?;
            let tasks = meter::tasks_from_shapes(&opened).map_err(unsupported)?;
            let pictures = meter::pictures_from_shapes(&opened).map_err(unsupported)?;
            if let Some(fusion) = &mut model.fusion {
                fusion.pictures = pictures;
            }
            (
                "a twin of METER or UNIMO-3",
                pair(model, tasks),
                spellings,
                Family::Torchvision,
            )
        }
        None if json["architecture"].is_string() => {
            return Err(unsupported(format!(
                "is of timm's {}, and timm's names are not read: transformers' conversion of it is, with model_type vit or deit",
                json["architecture"]
            )));
        }
        other => {
            return Err(unsupported(format!(
                "model_type is {}; supported are bert, roberta, xlm-roberta, vit, deit, clip, clip_vision_model, bridgetower and unimo",
                match (other, json.get("model_type")) {
                    (None, None) => "missing".to_owned(),
                    (None, Some(given)) => given.to_string(),
                    (Some(kind), _) => format!("\"{kind}\""),
                }
            )));
        }
    };
    config.validate().map_err(|e| unsupported(e.to_string()))?;
    Ok(Public {
        kind,
        config,
        spellings,
        weights,
        family,
        tied: ties != Some(false),
        notes: Vec::new(),
    })
}

/// What Hugging Face calls the description of a model.
const CONFIG: &str = "config.json";
/// The `model_type` of a model that is none of Hugging Face's, in this project's own format.
pub const OWN: &str = "unimo";

/// The `config.json` of that format.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Own {
    #[serde(rename = "model_type")]
    _kind: String,
    model: BackboneConfig,
    objectives: ObjectivesConfig,
    #[serde(default)]
    tasks: TasksConfig,
}

/// What METER's checkpoints are called in messages.
const METER: &str = "METER";
/// What OpenCLIP calls it.
const OPEN_CLIP_CONFIG: &str = "open_clip_config.json";

fn unsupported(path: &Path, reason: String) -> TrainError {
    TrainError::from(PublicConfigError::Content {
        path: path.to_owned(),
        reason,
    })
}

/// A file of weights: METER, CLIP in OpenAI's or OpenCLIP's naming, or what a description beside it says.
fn from_file(path: &Path) -> Result<Public, TrainError> {
    let weights = Weights::open(path)?;
    let folder = given::folder_of(path);
    let has = |name: &str| weights.info(name).is_some();
    if has("vit_model.visual.conv1.weight") && has("cross_modal_text_transform.weight") {
        let model = meter::config_from_shapes(&weights).map_err(|e| unsupported(path, e))?;
        model
            .validate()
            .map_err(|e| unsupported(path, e.to_string()))?;
        let tasks = meter::tasks_from_shapes(&weights).map_err(|e| unsupported(path, e))?;
        return Ok(Public {
            kind: METER,
            config: pair(model, tasks),
            spellings: vec![meter_names()],
            weights: path.to_owned(),
            family: Family::Torchvision,
            tied: false,
            notes: Vec::new(),
        });
    }
    let open_clip = folder.join(OPEN_CLIP_CONFIG);
    let described = folder.join(CONFIG).is_file();
    if has("visual.conv1.weight") && (open_clip.is_file() || !described) {
        return match open_clip.is_file() {
            true => from_open_clip(&weights, &open_clip),
            false => from_openai(&weights),
        };
    }
    if described {
        return from_folder(&folder, path);
    }
    Err(unsupported(
        path,
        format!(
            "is neither METER nor CLIP in OpenAI's naming, and there is no {CONFIG} beside it: other models need their {CONFIG}"
        ),
    ))
}

/// CLIP as OpenCLIP stores it.
fn from_open_clip(weights: &Weights, file: &Path) -> Result<Public, TrainError> {
    let (config, notes) = open_clip::config(&read_json(file)?, weights)
        .map_err(|reason| unsupported(file, reason))?;
    clip_of(weights, config, notes)
}

/// CLIP in OpenAI's naming, of which no file says more than the tensors do.
fn from_openai(weights: &Weights) -> Result<Public, TrainError> {
    let config = clip::config_from_shapes(weights, Activation::QuickGelu)
        .map_err(|e| unsupported(weights.path(), e))?;
    let note = format!(
        "nothing beside it says its activation and heads: QuickGELU and heads 64 wide are taken, as in every CLIP that OpenAI \
         published; an {OPEN_CLIP_CONFIG} beside it says otherwise"
    );
    clip_of(weights, config, vec![note])
}

fn clip_of(
    weights: &Weights,
    config: ClipConfig,
    notes: Vec<String>,
) -> Result<Public, TrainError> {
    let path = weights.path();
    config
        .validate()
        .map_err(|e| unsupported(path, e.to_string()))?;
    Ok(Public {
        kind: "CLIP",
        config: NetworkConfig::Clip(config),
        spellings: clip::spellings(),
        weights: path.to_owned(),
        family: Family::Torchvision,
        tied: false,
        notes,
    })
}

/// The first files of a folder, as the end of a sentence.
fn files_beside(folder: &Path) -> String {
    const SHOWN: usize = 8;
    let mut names: Vec<String> = std::fs::read_dir(folder)
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.file_name().to_string_lossy().into_owned()))
        .collect();
    names.sort();
    let more = if names.len() > SHOWN { ", ..." } else { "" };
    names.truncate(SHOWN);
    if names.is_empty() {
        return ": it is empty".to_owned();
    }
    format!("; it holds {}{more}", names.join(", "))
}

/// Longest text that METER reads; its checkpoints do not say it.
const METER_LENGTH: usize = 50;

impl Public {
    /// The longest text that is read of it, in tokens, where the files beside it say `said`.
    pub fn text_length(&self, said: Option<usize>) -> usize {
        let positions = self.config.longest_text().unwrap_or(0);
        let default = match self.kind {
            METER => METER_LENGTH,
            _ => positions,
        };
        said.unwrap_or(default).min(positions)
    }

    /// The same without dropout: for a model whose outputs or gradients are looked at.
    pub fn without_dropout(mut self) -> Self {
        match &mut self.config {
            NetworkConfig::Text(text) => text.dropout = 0.0,
            NetworkConfig::Image(image) => image.dropout = 0.0,
            NetworkConfig::Clip(clip) => clip.image.dropout = 0.0,
            NetworkConfig::Pair { model, .. } => **model = model.clone().without_dropout(),
        }
        self
    }

    /// The model with its weights. Heads that the checkpoint lacks are left out.
    ///
    /// # Errors
    ///
    /// The weights cannot be read or do not fit.
    pub fn load(&self, device: &Device) -> Result<Pretrained, TrainError> {
        let mut weights = Weights::open(&self.weights)?;
        // Sizes are data from elsewhere: a model is made only if the file can fill it.
        let held: u128 = weights
            .infos()
            .map(|(_, info)| info.shape.iter().map(|n| *n as u128).product::<u128>())
            .sum();
        let needed = self.config.matrix_weights();
        if needed > held {
            return Err(unsupported(
                &self.weights,
                format!(
                    "holds {held} numbers, and the description is of a model that needs {needed} at least"
                ),
            ));
        }
        let config = self.config.with_heads_of(&weights, &self.spellings);
        let mut init = Init::blank(device);
        let (network, report) = match &config {
            NetworkConfig::Text(config) => {
                let (encoder, report) = self.fill(config.init(&mut init), &mut weights)?;
                (Network::Text(Box::new(encoder)), report)
            }
            NetworkConfig::Image(config) => {
                let (encoder, report) = self.fill(config.init(&mut init), &mut weights)?;
                (Network::Image(Box::new(encoder)), report)
            }
            NetworkConfig::Clip(config) => {
                let (clip, report) = self.fill(config.init(&mut init), &mut weights)?;
                (Network::Clip(Box::new(clip)), report)
            }
            NetworkConfig::Pair {
                model,
                objectives,
                tasks,
            } => {
                let mut blank = Model::assemble(&mut init, model, objectives, FloatDType::F32);
                blank.tasks = tasks.init(&mut init, model.cross_width());
                let (model, report) = self.fill(blank, &mut weights)?;
                (Network::Pair(Box::new(model)), report)
            }
        };
        Ok(Pretrained {
            network,
            config,
            report,
        })
    }

    fn fill<M: Module>(&self, blank: M, weights: &mut Weights) -> Result<(M, Report), TrainError> {
        let ours: Vec<String> = parameters::list(&blank)
            .into_iter()
            .map(|p| p.name)
            .collect();
        let names = best(self.spellings.clone(), &ours, weights);
        Ok(import(blank, weights, &names, &Allow::default())?)
    }
}

impl NetworkConfig {
    /// The same network, which drops nothing.
    pub fn without_dropout(&self) -> Self {
        let mut config = self.clone();
        match &mut config {
            Self::Text(text) => text.dropout = 0.0,
            Self::Image(image) => image.dropout = 0.0,
            Self::Clip(clip) => clip.image.dropout = 0.0,
            Self::Pair { model, .. } => **model = model.as_ref().clone().without_dropout(),
        }
        config
    }

    /// The longest text that its positions hold, in tokens; none where it reads no texts.
    pub fn longest_text(&self) -> Option<usize> {
        match self {
            Self::Text(config) => Some(config.longest_text()),
            Self::Image(_) => None,
            Self::Clip(config) => Some(config.text.max_positions),
            Self::Pair { model, .. } => Some(model.text.longest_text()),
        }
    }

    /// Every value on its own and against the others.
    fn validate(&self) -> Result<(), ConfigError> {
        match self {
            Self::Text(config) => config.validate(),
            Self::Image(config) => config.validate(),
            Self::Clip(config) => config.validate(),
            Self::Pair { model, .. } => model.validate(),
        }
    }

    /// The weights of embeddings and blocks: a little less than all that the model has.
    fn matrix_weights(&self) -> u128 {
        let product = |sizes: &[usize]| {
            let wide = sizes.iter().map(|n| *n as u128);
            wide.reduce(u128::saturating_mul).unwrap_or(0)
        };
        // Four matrices of attention and two of the feed-forward layer.
        let blocks = |layers: usize, width: usize, inner: usize, attentions: usize| {
            product(&[4, attentions, layers, width, width])
                .saturating_add(product(&[2, layers, width, inner]))
        };
        let text = |c: &TextEncoderConfig| {
            blocks(c.layers, c.width, c.feed_forward, 1)
                .saturating_add(product(&[c.vocab_size, c.width]))
                .saturating_add(product(&[c.max_positions, c.width]))
                .saturating_add(product(&[c.token_types, c.width]))
        };
        let image = |c: &ImageEncoderConfig| {
            blocks(c.layers, c.width, c.feed_forward, 1)
                .saturating_add(product(&[c.grid(), c.grid(), c.width]))
                .saturating_add(product(&[3, c.patch_size, c.patch_size, c.width]))
        };
        let regions = |c: &RegionEncoderConfig| {
            blocks(c.layers, c.width, c.feed_forward, 1)
                .saturating_add(product(&[c.features, c.width]))
        };
        match self {
            Self::Text(config) => text(config),
            Self::Image(config) => image(config),
            Self::Clip(config) => blocks(
                config.text.layers,
                config.text.width,
                config.text.feed_forward,
                1,
            )
            .saturating_add(product(&[config.text.vocab_size, config.text.width]))
            .saturating_add(product(&[config.text.max_positions, config.text.width]))
            .saturating_add(product(&[config.text.width, config.width]))
            .saturating_add(image(&config.image)),
            Self::Pair { model, .. } => {
                let streams = model.fusion.as_ref().map_or(0, |fusion| {
                    blocks(fusion.layers, fusion.width, fusion.feed_forward, 1).saturating_mul(2)
                });
                let stream = model.joint.as_ref().map_or(0, |joint| {
                    let codes = joint
                        .grounding
                        .as_ref()
                        .map_or(0, |grounding| grounding.codes);
                    blocks(joint.layers, joint.width, joint.feed_forward, 1)
                        .saturating_add(product(&[codes, joint.width]))
                });
                text(&model.text)
                    .saturating_add(model.image.as_ref().map_or(0, image))
                    .saturating_add(model.regions.as_ref().map_or(0, regions))
                    .saturating_add(streams)
                    .saturating_add(stream)
            }
        }
    }

    /// Only the heads that the checkpoint has.
    fn with_heads_of(&self, weights: &Weights, spellings: &[Names]) -> Self {
        let mut config = self.clone();
        if let NetworkConfig::Pair { objectives, .. } = &mut config {
            let stored = |parameter: &str| {
                spellings.iter().find_map(|names| {
                    let target = names.target(&format!("objectives.{parameter}"))?;
                    weights.info(&target.name)
                })
            };
            if stored("mlm.dense.weight").is_none() {
                objectives.mlm = None;
            }
            if stored("itm.classifier.weight").is_none() {
                objectives.itm = None;
            }
            // Only ALBEF's projection is in public checkpoints; other kinds come with their configuration.
            let public = |itc: &ItcConfig| itc.projection == Projection::Linear;
            let width = stored("itc.text_projection.bias").map(|info| info.shape[0]);
            match (&mut objectives.itc, width) {
                (Some(itc), Some(width)) => itc.width = width,
                (Some(itc), None) if !public(itc) => {}
                (itc, _) => *itc = None,
            }
        }
        config
    }
}

/// A model with every head that a public checkpoint may have; the values that only matter for training are METER's and
/// BridgeTower's.
fn pair(model: BackboneConfig, tasks: TasksConfig) -> NetworkConfig {
    let objectives = ObjectivesConfig {
        mlm: Some(MlmConfig {
            weight: 1.0,
            mask: MaskSpec::default(),
            tied: false,
            texts_alone: false,
        }),
        itm: Some(ItmConfig {
            weight: 1.0,
            negatives: Negatives::Uniform,
            layout: Layout::Half,
            head: Head::Pair,
        }),
        itc: Some(ItcConfig {
            weight: 1.0,
            views: Views::Three,
            width: 0,
            temperature: 0.07,
            temperature_range: [0.001, 0.5],
            projection: Projection::Linear,
            normalised: Normalised::Both,
            momentum: None,
        }),
        ..ObjectivesConfig::default()
    };
    NetworkConfig::Pair {
        model: Box::new(model),
        objectives: Box::new(objectives),
        tasks,
    }
}

/// Names of heads as METER and BridgeTower have them.
fn heads() -> Names {
    Names::new(
        [
            ("objectives.mlm", "", mlm::PUBLIC_NAMES),
            ("objectives.itm", "", itm::PUBLIC_NAMES),
            ("objectives.itc", "", itc::PUBLIC_NAMES),
        ],
        &[],
    )
}

/// Names of a [`Model`] in BridgeTower, by whether its uni-modal layers share the layer to the cross-modal encoder.
pub fn bridgetower_names(shared: bool) -> Vec<Names> {
    bridgetower::spellings(shared)
        .into_iter()
        .map(|names| names.within("backbone").and(heads()))
        .collect()
}

/// Names of a [`Model`] in METER.
pub fn meter_names() -> Names {
    let tasks = Names::new([("tasks", "", tasks::METER_NAMES)], &[]);
    meter::names().within("backbone").and(heads()).and(tasks)
}

/// Names of a [`Model`] in this project's PyTorch twin.
fn twin_names() -> Names {
    let heads = Names::new(
        [
            ("objectives.mlm", "", mlm::TWIN_NAMES),
            ("objectives.itm", "", itm::PUBLIC_NAMES),
        ],
        &[],
    );
    meter::twin_names().within("backbone").and(heads)
}

/// The sizes in a twin's `config.json`: the program that `unimo bench` is measured against, so its model at other sizes.
fn twin_config(json: &Value) -> Result<BackboneConfig, String> {
    // No size of a model is beyond 32 bits.
    let number = |key: &str| {
        let given = json[key].as_u64().and_then(|n| u32::try_from(n).ok());
        given
            .map(|n| n as usize)
            .ok_or_else(|| format!("{key} = {} cannot be: must be a size", json[key]))
    };
    let size = Size {
        name: "twin",
        width: number("width")?,
        heads: number("heads")?,
        feed_forward: number("ffn")?,
        text_layers: number("text_layers")?,
        image_layers: number("image_layers")?,
        cross_layers: number("cross_layers")?,
        image_size: number("image_px")?,
        patch_size: number("patch_px")?,
        vocabulary: number("vocab")?,
        text_length: number("text_length")?,
    };
    let family = match json["model"] == "unimo3" {
        true => bench::Family::Unimo3,
        false => bench::Family::Meter,
    };
    let mut model = bench::backbone(&size, family);
    let given = &json["layer_norm_eps"];
    let layer_norm_eps = given
        .as_f64()
        .ok_or_else(|| format!("layer_norm_eps = {given} cannot be: must be a number"))?;
    model.text.layer_norm_eps = layer_norm_eps;
    if let Some(image) = &mut model.image {
        image.layer_norm_eps = layer_norm_eps;
    }
    model.text.pad_id = number("pad_id")?;
    if let Some(fusion) = &mut model.fusion {
        fusion.layer_norm_eps = layer_norm_eps;
        fusion.gate = match &json["gate"] {
            Value::Null => fusion.gate,
            Value::String(gate) if gate == "cls" => GateKind::Cls,
            Value::String(gate) if gate == "token" => GateKind::Token,
            other => {
                return Err(format!(
                    "gate = {other} cannot be: must be \"cls\" or \"token\""
                ));
            }
        };
    }
    // The reference was computed without.
    Ok(model.without_dropout())
}

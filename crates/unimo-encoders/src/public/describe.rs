//! What a folder or a file of a public checkpoint holds: its kind, its sizes, and how its tensors may be called.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;
use unimo_batch::ConfigError;
use unimo_core::layers::Activation;

use super::{
    LoadError, PublicConfigError, albef, bert, bridgetower, clip, meter, open_clip, read_json, vit,
};
use crate::backbone::BackboneConfig;
use crate::clip::ClipConfig;
use crate::image::ImageEncoderConfig;
use crate::names::Names;
use crate::text::TextEncoderConfig;
use crate::weights::Weights;

/// Hugging Face's name of a model's description.
const CONFIG: &str = "config.json";
/// OpenCLIP's name of it.
const OPEN_CLIP_CONFIG: &str = "open_clip_config.json";
/// The `model_type` of this project's own format, for models that Hugging Face does not have.
pub const OWN: &str = "unimo";

/// A kind of checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// BERT, RoBERTa, XLM-R.
    Bert,
    /// ViT.
    Vit,
    /// DeiT: a ViT with other image preprocessing.
    Deit,
    /// CLIP's image tower alone.
    ClipImage,
    /// CLIP of Hugging Face.
    Clip,
    /// CLIP of OpenAI and OpenCLIP.
    OpenClip,
    /// METER.
    Meter,
    /// BridgeTower.
    BridgeTower,
    /// ALBEF.
    Albef,
    /// A model of this project's own format.
    Own,
}

impl Kind {
    /// Its name in messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bert => "BERT, RoBERTa or XLM-R",
            Self::Vit | Self::Deit => "ViT or DeiT",
            Self::ClipImage => "CLIP's image tower",
            Self::Clip | Self::OpenClip => "CLIP",
            Self::Meter => "METER",
            Self::BridgeTower => "BridgeTower",
            Self::Albef => "ALBEF",
            Self::Own => "a model of unimo's own",
        }
    }
}

/// The sizes of what a checkpoint holds.
#[derive(Debug, Clone, PartialEq)]
pub enum EncoderConfig {
    /// BERT, RoBERTa, XLM-R.
    Text(TextEncoderConfig),
    /// ViT, DeiT, CLIP's image tower.
    Image(ImageEncoderConfig),
    /// CLIP.
    Clip(ClipConfig),
    /// METER, BridgeTower, ALBEF, a model of this project: text, image and cross-modal encoder.
    Backbone(Box<BackboneConfig>),
}

impl EncoderConfig {
    /// Checks every value, alone and against the others.
    fn validate(&self) -> Result<(), ConfigError> {
        match self {
            Self::Text(config) => config.validate(),
            Self::Image(config) => config.validate(),
            Self::Clip(config) => config.validate(),
            Self::Backbone(config) => config.validate(),
        }
    }
}

/// A checkpoint's description: its kind and the names of its tensors.
#[derive(Debug, Clone)]
pub struct Description {
    /// What it is.
    pub kind: Kind,
    /// Its sizes.
    pub config: EncoderConfig,
    /// All spellings of this kind's encoder names. Its heads are known to be unused.
    pub spellings: Vec<Names>,
    /// Where the weights are: a file, or the folder that holds them.
    pub weights: PathBuf,
    /// Whether the decoder of a language head is the word embedding, if the description says it.
    pub tied: Option<bool>,
    /// What a description of [`Kind::Own`] says of the heads that the model was trained with; null for others.
    pub objectives: Value,
    /// Assumptions that were made, one line each.
    pub notes: Vec<String>,
}

impl Description {
    /// For a kind without heads of its own.
    fn new(kind: Kind, config: EncoderConfig, spellings: Vec<Names>, weights: &Path) -> Self {
        Self {
            kind,
            config,
            spellings,
            weights: weights.to_owned(),
            tied: None,
            objectives: Value::Null,
            notes: Vec::new(),
        }
    }

    /// Checks that all values agree.
    fn checked(self, file: &Path) -> Result<Self, LoadError> {
        match self.config.validate() {
            Ok(()) => Ok(self),
            Err(error) => Err(unsupported(file, error.to_string())),
        }
    }
}

/// The `config.json` of this project's own format.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Own {
    #[serde(rename = "model_type")]
    _kind: String,
    model: BackboneConfig,
    objectives: Value,
    /// Heads of fine-tuned models, which earlier versions kept beside the objectives.
    #[serde(default)]
    tasks: serde_json::Map<String, Value>,
}

/// What transformers reads and writes in any `config.json`: where the code of the model is, and who wrote the file.
const OF_TRANSFORMERS: [&str; 5] = [
    "architectures",
    "auto_map",
    "dtype",
    "torch_dtype",
    "transformers_version",
];

/// Reads what a folder or a file holds.
///
/// A folder says it in its `config.json` or in OpenCLIP's `open_clip_config.json`. A file's description is looked for beside it.
/// METER's and ALBEF's checkpoints and CLIP in OpenAI's naming need none. `weights` names another file than the folder's own.
///
/// # Errors
///
/// There is no such file, or it describes something unsupported.
pub fn describe(path: &Path, weights: Option<&Path>) -> Result<Description, LoadError> {
    if path.is_dir() {
        from_folder(path, weights.unwrap_or(path))
    } else {
        from_file(path)
    }
}

/// The folder of a checkpoint: the path itself, or the folder of a file.
pub fn folder_of(path: &Path) -> PathBuf {
    match path.parent() {
        _ if path.is_dir() => path.to_owned(),
        Some(parent) if parent.as_os_str().is_empty() => PathBuf::from("."),
        Some(parent) => parent.to_owned(),
        None => path.join(".."),
    }
}

fn from_folder(folder: &Path, weights: &Path) -> Result<Description, LoadError> {
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
    let ties = json["tie_word_embeddings"].as_bool();
    let kind = json["model_type"].as_str();
    let described = match kind {
        Some("bert" | "roberta" | "xlm-roberta") => {
            let mut spellings = bert::spellings();
            if ties == Some(false) {
                spellings.iter_mut().for_each(|names| names.tied.clear());
            }
            let config = EncoderConfig::Text(bert::config(&json).map_err(unsupported)?);
            Description::new(Kind::Bert, config, spellings, weights)
        }
        Some(name @ ("vit" | "deit")) => {
            let kind = match name {
                "vit" => Kind::Vit,
                _ => Kind::Deit,
            };
            let config = EncoderConfig::Image(vit::config(&json).map_err(unsupported)?);
            Description::new(kind, config, vit::spellings(), weights)
        }
        Some("clip_vision_model") => {
            let config = EncoderConfig::Image(clip::image_config(&json).map_err(unsupported)?);
            Description::new(Kind::ClipImage, config, clip::image_spellings(), weights)
        }
        Some("clip") => {
            let config = EncoderConfig::Clip(clip::config(&json).map_err(unsupported)?);
            Description::new(Kind::Clip, config, clip::spellings(), weights)
        }
        Some(OWN) => {
            let mut json = json;
            if let Value::Object(entries) = &mut json {
                entries.retain(|key, _| !OF_TRANSFORMERS.contains(&key.as_str()));
            }
            let own: Own = serde_json::from_value(json).map_err(|e| unsupported(e.to_string()))?;
            if !own.tasks.is_empty() {
                return Err(unsupported(
                    "`tasks` holds heads of fine-tuned models, as an earlier version wrote them: export the original checkpoint anew"
                        .to_owned(),
                ));
            }
            let spelling = Names::own().under("backbone").leaving(&["objectives"]);
            let config = EncoderConfig::Backbone(Box::new(own.model));
            Description {
                objectives: own.objectives,
                ..Description::new(Kind::Own, config, vec![spelling], weights)
            }
        }
        Some("bridgetower") => {
            let model = bridgetower::config(&json).map_err(unsupported)?;
            let shared = model.fusion.as_ref().is_none_or(|f| f.shared_transforms);
            let spellings = bridgetower::spellings(shared)
                .into_iter()
                .map(|names| names.leaving(bridgetower::HEADS))
                .collect();
            let config = EncoderConfig::Backbone(Box::new(model));
            Description::new(Kind::BridgeTower, config, spellings, weights)
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
    let described = Description {
        tied: ties,
        ..described
    };
    described.checked(&file)
}

/// A file of weights: METER, ALBEF, CLIP in OpenAI's or OpenCLIP's naming, or what a description beside it says.
fn from_file(path: &Path) -> Result<Description, LoadError> {
    let weights = Weights::open(path)?;
    let folder = folder_of(path);
    let has = |name: &str| weights.info(name).is_some();
    if has("vit_model.visual.conv1.weight") && has("cross_modal_text_transform.weight") {
        let model = meter::config_from_shapes(&weights).map_err(|e| unsupported(path, e))?;
        let config = EncoderConfig::Backbone(Box::new(model));
        let spelling = meter::names_without_heads();
        let described = Description::new(Kind::Meter, config, vec![spelling], path);
        return Ok(Description {
            tied: Some(false),
            ..described.checked(path)?
        });
    }
    if albef::is(&weights) {
        let model = albef::config_from_shapes(&weights).map_err(|e| unsupported(path, e))?;
        let cross = model.fusion.as_ref().map_or(0, |fusion| fusion.layers);
        let spelling = albef::names_without_heads(model.text.layers, cross);
        let config = EncoderConfig::Backbone(Box::new(model));
        let described = Description::new(Kind::Albef, config, vec![spelling], path);
        return Ok(Description {
            tied: Some(true),
            ..described.checked(path)?
        });
    }
    let open_clip = folder.join(OPEN_CLIP_CONFIG);
    let described = folder.join(CONFIG).is_file();
    if has("visual.conv1.weight") && (open_clip.is_file() || !described) {
        return if open_clip.is_file() {
            from_open_clip(&weights, &open_clip)
        } else {
            from_openai(&weights)
        };
    }
    if described {
        return from_folder(&folder, path);
    }
    Err(unsupported(
        path,
        format!(
            "is neither METER nor ALBEF nor CLIP in OpenAI's naming, and there is no {CONFIG} beside it: other models need their {CONFIG}"
        ),
    ))
}

/// CLIP as OpenCLIP stores it.
fn from_open_clip(weights: &Weights, file: &Path) -> Result<Description, LoadError> {
    let (config, notes) = open_clip::config(&read_json(file)?, weights)
        .map_err(|reason| unsupported(file, reason))?;
    clip_of(weights, config, notes)
}

/// CLIP in OpenAI's naming, described by its tensors alone.
fn from_openai(weights: &Weights) -> Result<Description, LoadError> {
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
) -> Result<Description, LoadError> {
    let path = weights.path();
    let config = EncoderConfig::Clip(config);
    let described = Description::new(Kind::OpenClip, config, clip::spellings(), path);
    Ok(Description {
        tied: Some(false),
        notes,
        ..described.checked(path)?
    })
}

fn unsupported(path: &Path, reason: String) -> LoadError {
    LoadError::from(PublicConfigError::Content {
        path: path.to_owned(),
        reason,
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

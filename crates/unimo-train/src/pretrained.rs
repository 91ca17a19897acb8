//! Public checkpoints as models: those that `unimo_encoders::public` describes, with their heads. `unimo_encoders::load` loads the
//! encoders alone.

use std::path::{Path, PathBuf};

use burn::tensor::{Device, FloatDType};
use serde_json::Value;
use unimo_batch::MaskSpec;
use unimo_core::init::Init;
use unimo_core::levels::GateKind;
use unimo_data::processor::Family;
use unimo_encoders::backbone::BackboneConfig;
use unimo_encoders::clip::{Clip, ClipConfig};
use unimo_encoders::image::{ImageEncoder, ImageEncoderConfig};
use unimo_encoders::import::Report;
use unimo_encoders::load::fill;
use unimo_encoders::names::Names;
use unimo_encoders::public::{
    self, EncoderConfig, Kind, PublicConfigError, albef, bridgetower, meter, read_json,
};
use unimo_encoders::text::{TextEncoder, TextEncoderConfig};
use unimo_encoders::weights::Weights;
use unimo_objectives::ObjectivesConfig;
use unimo_objectives::pretraining::itc::{self, ItcConfig, Normalised, Projection, Views};
use unimo_objectives::pretraining::itm::{self, Head, ItmConfig, Layout, Negatives};
use unimo_objectives::pretraining::mlm::{self, MlmConfig};
use unimo_objectives::tasks::head::HeadConfig;
use unimo_objectives::tasks::nlvr2::{self, Nlvr2Config};
use unimo_objectives::tasks::ranking::{self, RankingConfig};
use unimo_objectives::tasks::snli_ve::{self, SnliVeConfig};
use unimo_objectives::tasks::summary::Pooling;
use unimo_objectives::tasks::vqa::{self, VqaConfig};

use crate::error::TrainError;
use crate::family;
use crate::model::Model;
use crate::sizes::{self, Size};

/// The configuration of a checkpoint's model.
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
        /// The encoders.
        model: Box<BackboneConfig>,
        /// The objectives, for their heads.
        objectives: Box<ObjectivesConfig>,
    },
}

/// A model from a checkpoint.
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

/// A checkpoint's description: its kind, and the names of its tensors.
pub struct Public {
    /// The kind's name.
    pub kind: &'static str,
    /// Sizes of the model.
    pub config: NetworkConfig,
    /// All spellings of the names in this kind of checkpoint.
    pub spellings: Vec<Names>,
    /// The file of the weights.
    pub weights: PathBuf,
    /// The image preparation of its kind, if no file says it.
    pub family: Family,
    /// Whether the decoder of a language head is the word embedding.
    pub tied: bool,
    /// Assumptions that were made, one per line.
    pub notes: Vec<String>,
}

/// A model with its weights.
pub struct Pretrained {
    /// The model.
    pub network: Network,
    /// Its sizes, with the heads that it has.
    pub config: NetworkConfig,
    /// How every tensor was used.
    pub report: Report,
}

/// Reads the description of a folder or a file, by [`unimo_encoders::public::describe`] or the twin's `config.json`. `weights`
/// names another file of weights than the folder's own.
///
/// # Errors
///
/// There is no such file, or the model is not supported.
pub fn describe(path: &Path, weights: Option<&Path>) -> Result<Public, TrainError> {
    if let Some(twin) = twin(path, weights)? {
        return Ok(twin);
    }
    let described = public::describe(path, weights)?;
    let kind = described.kind;
    let (config, spellings) = match described.config {
        EncoderConfig::Text(config) => (NetworkConfig::Text(config), described.spellings),
        EncoderConfig::Image(config) => (NetworkConfig::Image(config), described.spellings),
        EncoderConfig::Clip(config) => (NetworkConfig::Clip(config), described.spellings),
        EncoderConfig::Backbone(model) => match kind {
            Kind::Own => {
                let objectives = heads_of_own(&model, described.objectives)
                    .map_err(|e| unsupported(&public::folder_of(path).join(CONFIG), e))?;
                let config = NetworkConfig::Pair {
                    model,
                    objectives: Box::new(objectives),
                };
                (config, vec![Names::own()])
            }
            Kind::BridgeTower => {
                let shared = model.fusion.as_ref().is_none_or(|f| f.shared_transforms);
                let mut spellings = bridgetower_names(shared);
                if described.tied == Some(true) {
                    spellings = ["bridgetower.", ""]
                        .into_iter()
                        .zip(spellings)
                        .map(|(prefix, names)| {
                            let words =
                                format!("{prefix}text_model.embeddings.word_embeddings.weight");
                            names.tying("mlm_score.decoder.weight", &words)
                        })
                        .collect();
                }
                (pair(*model), spellings)
            }
            Kind::Albef => {
                let spellings = vec![albef_names(&model)];
                (albef_pair(*model), spellings)
            }
            _ => (pair(*model), vec![meter_names()]),
        },
    };
    Ok(Public {
        kind: kind.name(),
        config,
        spellings,
        weights: described.weights,
        family: family::of(kind),
        tied: described.tied != Some(false),
        notes: described.notes,
    })
}

/// The objectives that a model in this project's own format was trained with.
fn heads_of_own(model: &BackboneConfig, given: Value) -> Result<ObjectivesConfig, String> {
    let objectives: ObjectivesConfig = serde_json::from_value(given).map_err(|e| e.to_string())?;
    objectives
        .validate()
        .and_then(|()| objectives.validate_with(model))
        .map_err(|e| e.to_string())?;
    Ok(objectives)
}

/// The twin in a folder, or in the folder of a file; `None` if it holds another model.
fn twin(path: &Path, weights: Option<&Path>) -> Result<Option<Public>, TrainError> {
    let file = public::folder_of(path).join(CONFIG);
    // Errors in the description of another model are reported when it is read.
    let Ok(json) = read_json(&file) else {
        return Ok(None);
    };
    if json["model_type"].is_string() || !(json["model"] == "meter" || json["model"] == "unimo3") {
        return Ok(None);
    }
    let unsupported = |reason: String| unsupported(&file, reason);
    let weights = weights.unwrap_or(path);
    let mut model = twin_config(&json).map_err(unsupported)?;
    let opened = Weights::open(weights)?;
    let pictures = meter::pictures_from_shapes(&opened).map_err(unsupported)?;
    if let Some(fusion) = &mut model.fusion {
        fusion.pictures = pictures;
    }
    model.validate().map_err(|e| unsupported(e.to_string()))?;
    Ok(Some(Public {
        kind: "a twin of METER or UNIMO-3",
        config: pair(model),
        spellings: vec![twin_names(), meter_names()],
        weights: weights.to_owned(),
        family: Family::Torchvision,
        tied: json["tie_word_embeddings"].as_bool() != Some(false),
        notes: Vec::new(),
    }))
}

/// The file that describes a model.
const CONFIG: &str = "config.json";

fn unsupported(path: &Path, reason: String) -> TrainError {
    TrainError::from(PublicConfigError::Content {
        path: path.to_owned(),
        reason,
    })
}

/// Longest text that METER reads; its checkpoints do not give it.
const METER_LENGTH: usize = 50;

impl Public {
    /// The length of the longest text that is read, in tokens; `said` is the length that the files next to it give.
    pub fn text_length(&self, said: Option<usize>) -> usize {
        let positions = self.config.longest_text().unwrap_or(0);
        let default = if self.kind == Kind::Meter.name() {
            METER_LENGTH
        } else {
            positions
        };
        said.unwrap_or(default).min(positions)
    }

    /// The same without dropout, for inspecting outputs or gradients.
    pub fn without_dropout(mut self) -> Self {
        self.config = self.config.without_dropout();
        self
    }

    /// The model with its weights. Heads that the checkpoint lacks are left out.
    ///
    /// # Errors
    ///
    /// The weights cannot be read or do not fit.
    pub fn load(&self, device: &Device) -> Result<Pretrained, TrainError> {
        let mut weights = self.config.encoders().open(&self.weights)?;
        let config = self.config.with_heads_of(&weights, &self.spellings);
        let mut init = Init::blank(device);
        let (network, report) = match &config {
            NetworkConfig::Text(config) => {
                let (encoder, report) =
                    fill(config.init(&mut init), &mut weights, &self.spellings)?;
                (Network::Text(Box::new(encoder)), report)
            }
            NetworkConfig::Image(config) => {
                let (encoder, report) =
                    fill(config.init(&mut init), &mut weights, &self.spellings)?;
                (Network::Image(Box::new(encoder)), report)
            }
            NetworkConfig::Clip(config) => {
                let (clip, report) = fill(config.init(&mut init), &mut weights, &self.spellings)?;
                (Network::Clip(Box::new(clip)), report)
            }
            NetworkConfig::Pair { model, objectives } => {
                let blank = Model::assemble(&mut init, model, objectives, None, FloatDType::F32);
                let (model, report) = fill(blank, &mut weights, &self.spellings)?;
                (Network::Pair(Box::new(model)), report)
            }
        };
        Ok(Pretrained {
            network,
            config,
            report,
        })
    }
}

impl NetworkConfig {
    /// The same network without dropout.
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

    /// The length of the longest text that its positions hold, in tokens; `None` if it reads no texts.
    pub fn longest_text(&self) -> Option<usize> {
        match self {
            Self::Text(config) => Some(config.longest_text()),
            Self::Image(_) => None,
            Self::Clip(config) => Some(config.text.max_positions),
            Self::Pair { model, .. } => Some(model.text.longest_text()),
        }
    }

    /// The encoders alone.
    fn encoders(&self) -> EncoderConfig {
        match self {
            Self::Text(config) => EncoderConfig::Text(config.clone()),
            Self::Image(config) => EncoderConfig::Image(config.clone()),
            Self::Clip(config) => EncoderConfig::Clip(config.clone()),
            Self::Pair { model, .. } => EncoderConfig::Backbone(model.clone()),
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
            // Public checkpoints have only ALBEF's projection; other kinds come with their own configuration.
            let public = |itc: &ItcConfig| itc.projection == Projection::Linear;
            let width = stored("itc.text_projection.bias").map(|info| info.shape[0]);
            match (&mut objectives.itc, width) {
                (Some(itc), Some(width)) => itc.width = width,
                (Some(itc), None) if !public(itc) => {}
                (itc, _) => *itc = None,
            }
            let classifier = |key: &str| {
                let rows = |layer: &str| {
                    let bias = stored(&format!("{key}.classifier.head.{layer}.bias"))?;
                    bias.shape.first().copied()
                };
                Some((rows("inner")?, rows("outer")?))
            };
            match (&mut objectives.vqa, classifier("vqa")) {
                (Some(vqa), Some((hidden, classes))) => {
                    vqa.head.hidden = Some(hidden);
                    vqa.classes = Some(classes);
                }
                (vqa, _) => *vqa = None,
            }
            match (&mut objectives.nlvr2, classifier("nlvr2")) {
                (Some(nlvr2), Some((hidden, _))) => nlvr2.head.hidden = Some(hidden),
                (nlvr2, _) => *nlvr2 = None,
            }
            match (&mut objectives.snli_ve, classifier("snli_ve")) {
                (Some(snli_ve), Some((hidden, _))) => snli_ve.head.hidden = Some(hidden),
                (snli_ve, _) => *snli_ve = None,
            }
            if stored("ranking.score.weight").is_none() {
                objectives.ranking = None;
            }
        }
        config
    }
}

/// A model with every head that a public checkpoint may have. Values that only matter for training are METER's and BridgeTower's.
fn pair(model: BackboneConfig) -> NetworkConfig {
    let (weight, pooling, head) = (1.0, Pooling::Pair, HeadConfig::default());
    let objectives = ObjectivesConfig {
        mlm: Some(MlmConfig {
            left_to_right: 0.0,
            weight: 1.0,
            mask: MaskSpec::default(),
            tied: false,
            texts_alone: false,
            patches: None,
            regions: None,
            distil: None,
        }),
        itm: Some(ItmConfig {
            weight: 1.0,
            negatives: Negatives::Uniform,
            layout: Layout::Half,
            head: Head::Pair,
            epsilon: None,
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
        vqa: Some(VqaConfig {
            weight,
            classes: None,
            pooling,
            head: head.clone(),
        }),
        nlvr2: Some(Nlvr2Config {
            weight,
            images: 2,
            pooling,
            head: head.clone(),
        }),
        snli_ve: Some(SnliVeConfig {
            weight,
            pooling,
            head,
        }),
        ranking: Some(RankingConfig {
            weight,
            negatives: 15,
            pooling,
            images: false,
            cross_entropy: 1.0,
            binary: 0.0,
            triplet: 0.0,
            margin: None,
        }),
        ..ObjectivesConfig::default()
    };
    NetworkConfig::Pair {
        model: Box::new(model),
        objectives: Box::new(objectives),
    }
}

/// As [`pair`], with ALBEF's heads.
fn albef_pair(model: BackboneConfig) -> NetworkConfig {
    let mut config = pair(model);
    if let NetworkConfig::Pair { objectives, .. } = &mut config {
        if let Some(mlm) = &mut objectives.mlm {
            mlm.tied = true;
        }
        if let Some(itm) = &mut objectives.itm {
            itm.head = Head::Class;
        }
        if let Some(itc) = &mut objectives.itc {
            itc.views = Views::Two;
        }
    }
    config
}

/// Names of a [`Model`] in ALBEF.
pub fn albef_names(model: &BackboneConfig) -> Names {
    let cross = model.fusion.as_ref().map_or(0, |fusion| fusion.layers);
    let heads = Names::new(
        [
            ("objectives.mlm", "", mlm::ALBEF_NAMES),
            ("objectives.itm", "", itm::ALBEF_NAMES),
            ("objectives.itc", "", itc::ALBEF_NAMES),
        ],
        // The word embedding and the head's bias once more.
        &["text_encoder.cls.predictions.decoder"],
    );
    let encoders = albef::names(model.text.layers, cross);
    encoders.within("backbone").and(heads)
}

/// The names of heads in METER and BridgeTower.
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

/// Names of a [`Model`] in BridgeTower; `shared`: its uni-modal layers share the layer to the cross-modal encoder.
pub fn bridgetower_names(shared: bool) -> Vec<Names> {
    bridgetower::spellings(shared)
        .into_iter()
        .map(|names| names.within("backbone").and(heads()))
        .collect()
}

/// Names of a [`Model`] in METER.
pub fn meter_names() -> Names {
    let tasks = Names::new(
        [
            ("objectives.vqa", "", vqa::METER_NAMES),
            ("objectives.nlvr2", "", nlvr2::METER_NAMES),
            ("objectives.snli_ve", "", snli_ve::METER_NAMES),
            ("objectives.ranking", "", ranking::METER_NAMES),
        ],
        &[],
    );
    meter::names().within("backbone").and(heads()).and(tasks)
}

/// The same names for a checkpoint without a head for ranking: it starts from the matching head.
pub(crate) fn ranking_by_matching(names: Names) -> Names {
    Names::new([("objectives.ranking", "", ranking::MATCHING_NAMES)], &[]).and(names)
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

/// The sizes in a twin's `config.json`. The twin is the program that `unimo-dev bench` is compared with, with its model at other
/// sizes.
fn twin_config(json: &Value) -> Result<BackboneConfig, String> {
    // No size of a model exceeds 32 bits.
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
    let family = if json["model"] == "unimo3" {
        sizes::Family::Unimo3
    } else {
        sizes::Family::Meter
    };
    let mut model = sizes::backbone(&size, family);
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
    // The reference was computed without dropout.
    Ok(model.without_dropout())
}

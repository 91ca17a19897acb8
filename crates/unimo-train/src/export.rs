//! `unimo export`: a model as a folder that Hugging Face transformers reads, and unimo by its path.

use std::path::{Path, PathBuf};

use burn::module::Module;
use serde_json::{Value, json};
use unimo_data::images::ImageSpec;
use unimo_data::{TextTokenizer, processor};
use unimo_encoders::backbone::BackboneConfig;
use unimo_encoders::export;
use unimo_encoders::names::Names;
use unimo_encoders::public::{bert, bridgetower, clip, vit};
use unimo_encoders::tasks::TasksConfig;
use unimo_encoders::weights::Dtype;
use unimo_objectives::ObjectivesConfig;

use crate::checkpoint::write_atomically;
use crate::device::DeviceChoice;
use crate::error::TrainError;
use crate::evaluation;
use crate::hub;
use crate::pretrained::{self, Network, NetworkConfig};

/// `unimo export`.
#[derive(Debug, clap::Args)]
pub struct ExportArgs {
    /// A run's folder, a checkpoint's folder or file, or a Hugging Face id.
    pub model: String,
    /// The new folder.
    #[arg(long, value_name = "FOLDER")]
    pub out: PathBuf,
    /// The whole model, or one of its encoders: whole, text, image.
    #[arg(long, default_value = "whole", value_parser = part)]
    pub part: Part,
    /// How numbers are stored: f32, f16, bf16.
    #[arg(long, default_value = "f32", value_parser = dtype)]
    pub dtype: Dtype,
    /// Of a run, which checkpoint, by its step; default: the best.
    #[arg(long)]
    pub step: Option<u64>,
}

/// What is exported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Everything.
    Whole,
    /// The text encoder.
    Text,
    /// The image encoder.
    Image,
}

fn part(given: &str) -> Result<Part, String> {
    match given {
        "whole" => Ok(Part::Whole),
        "text" => Ok(Part::Text),
        "image" => Ok(Part::Image),
        _ => Err("allowed: whole, text, image".to_owned()),
    }
}

fn dtype(given: &str) -> Result<Dtype, String> {
    match given {
        "f32" => Ok(Dtype::F32),
        "f16" => Ok(Dtype::F16),
        "bf16" => Ok(Dtype::Bf16),
        _ => Err("allowed: f32, f16, bf16".to_owned()),
    }
}

/// A model with what stands beside its weights.
struct Source {
    network: Network,
    config: NetworkConfig,
    tokenizer: Option<String>,
    pictures: Option<ImageSpec>,
}

/// Runs the command; returns the folder.
///
/// # Errors
///
/// The model cannot be read, has no such part, or the folder cannot be written.
pub fn run(args: &ExportArgs) -> Result<PathBuf, TrainError> {
    if args.out.join("config.json").exists() {
        return Err(TrainError::Run {
            path: args.out.clone(),
            reason: "holds a model already: give another --out".to_owned(),
        });
    }
    let source = open(args)?;
    let wrong =
        |what: &str| TrainError::Check(format!("{} has no {what} encoder of its own", args.model));
    let write = |json: Value, tensors| -> Result<(), TrainError> {
        std::fs::create_dir_all(&args.out).map_err(TrainError::file("create", &args.out))?;
        let weights = args.out.join("model.safetensors");
        let tensors: Vec<export::Exported> = tensors;
        write_atomically(&weights, |temporary| {
            Ok(export::write(temporary, &tensors)?)
        })?;
        beside(args, &source)?;
        // The description comes last: a folder that holds it is whole.
        write_json(&args.out.join("config.json"), &json)
    };
    match (args.part, &source.network, &source.config) {
        (Part::Text, Network::Pair(model), NetworkConfig::Pair { model: config, .. }) => write(
            bert::to_json(&config.text),
            named(&model.backbone.text, &bert::spellings()[0], args)?,
        )?,
        (Part::Text | Part::Whole, Network::Text(encoder), NetworkConfig::Text(config)) => write(
            bert::to_json(config),
            named(&**encoder, &bert::spellings()[0], args)?,
        )?,
        (Part::Image, Network::Pair(model), NetworkConfig::Pair { model: config, .. }) => {
            let (Some(config), Some(encoder)) = (&config.image, &model.backbone.image) else {
                return Err(wrong("image encoder that reads pixels, and so no image"));
            };
            let (json, names) = image_format(config);
            write(json, named(encoder, &names, args)?)?;
        }
        (Part::Image, Network::Clip(clip), NetworkConfig::Clip(config)) => {
            let (json, names) = image_format(&config.image);
            write(json, named(&clip.image, &names, args)?)?;
        }
        (Part::Image | Part::Whole, Network::Image(encoder), NetworkConfig::Image(config)) => {
            let (json, names) = image_format(config);
            write(json, named(&**encoder, &names, args)?)?;
        }
        (Part::Whole, Network::Clip(clip), NetworkConfig::Clip(config)) => write(
            clip::to_json(config),
            named(&**clip, &clip::hugging_face(), args)?,
        )?,
        (
            Part::Whole,
            Network::Pair(network),
            NetworkConfig::Pair {
                model,
                objectives,
                tasks,
            },
        ) => {
            let (json, names) = pair_format(model, objectives, tasks);
            write(json, named(&**network, &names, args)?)?;
        }
        (Part::Text, ..) => return Err(wrong("text")),
        (Part::Image, ..) => return Err(wrong("image")),
        (Part::Whole, ..) => {
            return Err(TrainError::Check(format!(
                "{} does not hold what its description says",
                args.model
            )));
        }
    }
    Ok(args.out.clone())
}

fn open(args: &ExportArgs) -> Result<Source, TrainError> {
    let (device, _) = DeviceChoice::default().open()?;
    let given = Path::new(&args.model);
    if given.join("recipe.toml").is_file() {
        let (run, recipe, _, model) = evaluation::open_model(given, args.step, &device)?;
        if recipe.data.concepts.is_some() {
            return Err(TrainError::Check(format!(
                "{} was trained with phrases and tags, [data.concepts], which no format of exports holds; embed, score and the \
                 other commands take the run itself",
                args.model
            )));
        }
        let file = run.join("tokenizer.json");
        return Ok(Source {
            network: Network::Pair(Box::new(model)),
            config: NetworkConfig::Pair {
                model: Box::new(recipe.model.clone()),
                objectives: Box::new(recipe.objectives.clone()),
                tasks: TasksConfig::default(),
            },
            tokenizer: Some(TextTokenizer::load(&file, true)?.to_json()?),
            pictures: Some(recipe.data.image_spec()),
        });
    }
    let path = hub::resolve(&args.model)?;
    let loaded = pretrained::describe(&path, None)?.load(&device)?;
    let beside = |name: &str| Some(path.join(name)).filter(|file| file.is_file());
    Ok(Source {
        network: loaded.network,
        config: loaded.config,
        tokenizer: match beside("tokenizer.json") {
            Some(file) => {
                Some(std::fs::read_to_string(&file).map_err(TrainError::file("read", &file))?)
            }
            None => None,
        },
        pictures: match beside("preprocessor_config.json") {
            Some(file) => Some(processor::read(&file)?),
            None => None,
        },
    })
}

/// Tokenizer and picture processor, where the part takes texts or pictures.
fn beside(args: &ExportArgs, source: &Source) -> Result<(), TrainError> {
    if let (Some(tokenizer), true) = (&source.tokenizer, args.part != Part::Image) {
        write_atomically(&args.out.join("tokenizer.json"), |temporary| {
            std::fs::write(temporary, tokenizer).map_err(TrainError::file("write", temporary))
        })?;
    }
    if let (Some(pictures), true) = (&source.pictures, args.part != Part::Text) {
        let json = processor::to_json(pictures);
        write_json(&args.out.join("preprocessor_config.json"), &json)?;
    }
    Ok(())
}

fn write_json(path: &Path, json: &Value) -> Result<(), TrainError> {
    let text = format!("{json:#}\n");
    write_atomically(path, |temporary| {
        std::fs::write(temporary, &text).map_err(TrainError::file("write", temporary))
    })
}

fn named<M: Module>(
    module: &M,
    names: &Names,
    args: &ExportArgs,
) -> Result<Vec<export::Exported>, TrainError> {
    export::export(module, names, args.dtype).map_err(|nameless| {
        TrainError::Check(format!(
            "the format has no name for {} of the parameters, among them `{}`",
            nameless.len(),
            nameless.first().map_or("", String::as_str)
        ))
    })
}

/// CLIP's image tower has a norm before its blocks, ViT has none.
fn image_format(config: &unimo_encoders::image::ImageEncoderConfig) -> (Value, Names) {
    if !config.pre_norm {
        return (vit::to_json(config), vit::spellings().remove(0));
    }
    let mut json = clip::image_to_json(config);
    json["architectures"] = json!(["CLIPVisionModel"]);
    (json, clip::image_spellings().remove(0))
}

/// BridgeTower where the model is one; else this project's own format, which keeps our names.
fn pair_format(
    model: &BackboneConfig,
    objectives: &ObjectivesConfig,
    tasks: &TasksConfig,
) -> (Value, Names) {
    let momentum = objectives
        .itc
        .as_ref()
        .is_some_and(|itc| itc.momentum.is_some());
    let three = objectives
        .itc
        .as_ref()
        .is_none_or(|itc| itc.views == unimo_objectives::itc::Views::Three);
    let further = momentum || !tasks.is_empty();
    if let (Ok(mut json), true, false) = (bridgetower::to_json(model), three, further) {
        let architecture = match (&objectives.itc, &objectives.itm) {
            (Some(itc), _) => {
                json["contrastive_hidden_size"] = itc.width.into();
                json["logit_scale_init_value"] = itc.temperature.recip().ln().into();
                "BridgeTowerForContrastiveLearning"
            }
            (None, Some(_)) => "BridgeTowerForImageAndTextRetrieval",
            (None, None) => "BridgeTowerForMaskedLM",
        };
        json["architectures"] = json!([architecture]);
        return (json, pretrained::bridgetower_names().remove(0));
    }
    let json = json!({
        "model_type": pretrained::OWN,
        "model": model,
        "objectives": objectives,
        "tasks": tasks,
    });
    (json, Names::own())
}

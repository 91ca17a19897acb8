//! `unimo export`: a model as a folder that Hugging Face transformers reads, and that unimo reads by its path.
//!
//! Next to the weights is everything that decides their input: the tokenizer with its longest text (`tokenizer_config.json`), the
//! preparation of images (`preprocessor_config.json`), and the files of sentence-transformers. `unimo score` gives the same for a
//! run and for its export. A model that transformers does not know comes with [its code](python). `README.md` is the [`card`] that
//! the Hugging Face hub shows.

pub mod card;
pub mod python;
mod stream;

use std::path::{Path, PathBuf};

use burn::module::Module;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};
use unimo_data::images::Resize;
use unimo_data::processor::{self, Pictures};
use unimo_data::published;
use unimo_encoders::backbone::BackboneConfig;
use unimo_encoders::export;
use unimo_encoders::names::Names;
use unimo_encoders::public::{OWN, bert, bridgetower, clip, folder_of, vit};
use unimo_encoders::text::TextTower;
use unimo_encoders::weights::Dtype;
use unimo_objectives::ObjectivesConfig;
use unimo_report::record::{EvalRecord, Figure, PredictionsRecord};

use crate::device::DeviceChoice;
use crate::error::TrainError;
use crate::export::card::{Card, Readers, Trained};
use crate::files;
use crate::given::{self, Given};
use crate::pretrained::{self, Network, NetworkConfig};
use crate::recipe::Recipe;
use crate::resuming;
use crate::run::RunFolder;
use crate::tasks::labels::{self, Labels};
use crate::trained;

/// `unimo export`.
#[derive(Debug, clap::Args)]
pub struct ExportArgs {
    /// A run's folder, a checkpoint's folder or file, or a Hugging Face id.
    pub model: String,
    /// The new folder.
    #[arg(long, value_name = "FOLDER")]
    pub out: PathBuf,
    /// The whole model, one of its encoders, or embeddings of words with the blocks of one stream, as a BERT: whole, text, image, stream.
    #[arg(long, default_value = "whole", value_parser = part)]
    pub part: Part,
    /// How numbers are stored: f32, f16, bf16.
    #[arg(long, default_value = "f32", value_parser = dtype)]
    pub dtype: Dtype,
    /// The step of a run's checkpoint; default: the best.
    #[arg(long)]
    pub step: Option<u64>,
    /// The licence that the model card names, by its SPDX identifier, such as Apache-2.0; default: the card names none.
    #[arg(long, value_name = "ID", value_parser = card::licence)]
    pub licence: Option<String>,
}

/// The part to export.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Everything.
    Whole,
    /// The text encoder.
    Text,
    /// The image encoder.
    Image,
    /// The text encoder's embeddings with the blocks of one stream, whose matrices must be the same for image and text.
    Stream,
}

impl Part {
    /// Whether what is written is an encoder of texts.
    fn reads_texts_alone(self) -> bool {
        matches!(self, Self::Text | Self::Stream)
    }
}

fn part(given: &str) -> Result<Part, String> {
    match given {
        "whole" => Ok(Part::Whole),
        "text" => Ok(Part::Text),
        "image" => Ok(Part::Image),
        "stream" => Ok(Part::Stream),
        _ => Err("allowed: whole, text, image, stream".to_owned()),
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

/// A model with the files that belong to its weights.
struct Source {
    network: Network,
    config: NetworkConfig,
    tokenizer: Option<Tokenizer>,
    pictures: Option<Pictures>,
    /// Files that are copied with a text encoder: names and contents.
    further: Vec<(&'static str, Vec<u8>)>,
    /// The labels of the task's head.
    labels: Option<Labels>,
    /// The run that it was trained in.
    run: Option<Run>,
}

/// What a run's files tell of its weights.
struct Run {
    recipe: Recipe,
    step: u64,
    facts: Map<String, Value>,
    evaluations: Vec<EvalRecord>,
    figures: Vec<Figure>,
}

/// How texts become tokens.
struct Tokenizer {
    /// `tokenizer.json`.
    json: String,
    /// `tokenizer_config.json`.
    config: Value,
}

/// Files of sentence-transformers next to a text encoder.
const SENTENCES: [&str; 3] = [
    "modules.json",
    "1_Pooling/config.json",
    "sentence_bert_config.json",
];

/// The weights of an export.
const WEIGHTS: &str = "model.safetensors";

/// A file in the folder, unless an export was begun there and interrupted: it goes on.
fn foreign(folder: &Path) -> Result<Option<String>, TrainError> {
    let list = || TrainError::file("list", folder);
    // The weights are written first.
    if !folder.exists() || folder.join(WEIGHTS).exists() {
        return Ok(None);
    }
    let mut first = None;
    for entry in std::fs::read_dir(folder).map_err(list())? {
        let name = entry.map_err(list())?.file_name();
        let name = name.to_string_lossy().into_owned();
        // Hidden ones are what a killed process left of a file, and those of systems.
        if !name.starts_with('.') && first.as_ref().is_none_or(|first| name < *first) {
            first = Some(name);
        }
    }
    Ok(first)
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
    if let Some(name) = foreign(&args.out)? {
        return Err(TrainError::Run {
            path: args.out.clone(),
            reason: format!(
                "holds {name}, and an export is a folder of its own: give a new or an empty one as --out"
            ),
        });
    }
    let source = open(args)?;
    let wrong =
        |what: &str| TrainError::Check(format!("{} has no {what} encoder of its own", args.model));
    let write_as = |json: Value, tensors, readers| -> Result<(), TrainError> {
        std::fs::create_dir_all(&args.out).map_err(TrainError::file("create", &args.out))?;
        let weights = args.out.join(WEIGHTS);
        let tensors: Vec<export::Exported> = tensors;
        files::write_with(&weights, |out| export::write(out, &tensors))?;
        beside(args, &source)?;
        if readers == Readers::Code {
            python::write(&args.out)?;
        }
        let parameters = tensors.iter().map(|t| t.shape.iter().product::<usize>());
        let card = describe(args, &source, parameters.sum(), readers);
        files::write(&args.out.join(CARD), card.text().as_bytes())?;
        if card.licence.is_none() {
            eprintln!("{CARD} names no licence: --licence ID does, such as --licence Apache-2.0");
        }
        // The description comes last: a folder that has it is complete.
        write_json(&args.out.join("config.json"), &json)
    };
    let write =
        |json, tensors| write_as(json, tensors, Readers::Transformers("AutoModel".to_owned()));
    match (args.part, &source.network, &source.config) {
        (Part::Text, Network::Pair(_), NetworkConfig::Pair { model: config, .. })
            if config.text.tower == TextTower::Clip =>
        {
            return Err(TrainError::Check(
                "no format of exports holds CLIP's text tower by itself; the whole model is exported, and embed and the other commands \
                 take the run"
                    .to_owned(),
            ));
        }
        (Part::Text, Network::Pair(_), NetworkConfig::Pair { model: config, .. })
            if config.text.outside.is_some() =>
        {
            return Err(TrainError::Check(
                "the blocks of the text encoder are those of another crate, which no format of exports has; the whole model is exported, \
                 and embed and the other commands take the run"
                    .to_owned(),
            ));
        }
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
            let (json, names) = image_format(config)?;
            let mut encoder = encoder.clone();
            if encoder.mask_embedding.take().is_some() {
                eprintln!(
                    "the embedding of hidden patches is left out: no format of image encoders has it, and only training reads it"
                );
            }
            write(json, named(&encoder, &names, args)?)?;
        }
        (Part::Image, Network::Clip(clip), NetworkConfig::Clip(config)) => {
            let (json, names) = image_format(&config.image)?;
            write(json, named(&clip.image, &names, args)?)?;
        }
        (Part::Image | Part::Whole, Network::Image(encoder), NetworkConfig::Image(config)) => {
            let (json, names) = image_format(config)?;
            write(json, named(&**encoder, &names, args)?)?;
        }
        (Part::Whole, Network::Clip(clip), NetworkConfig::Clip(config)) => write(
            clip::to_json(config).map_err(no_format)?,
            named(&**clip, &clip::hugging_face(), args)?,
        )?,
        (Part::Whole, Network::Pair(network), NetworkConfig::Pair { model, objectives }) => {
            let (mut json, names) = pair_format(model, objectives);
            let tensors = named(&**network, &names, args)?;
            let readers = match json["architectures"][0].as_str() {
                Some(class) => Readers::Transformers(class.to_owned()),
                None if offers_python(model, objectives) => {
                    python::point_to(&mut json, args.dtype);
                    Readers::Code
                }
                None => Readers::Unimo,
            };
            write_as(json, tensors, readers)?;
        }
        (Part::Stream, Network::Pair(model), NetworkConfig::Pair { model: config, .. }) => {
            let (encoder, config) = stream::as_bert(&args.model, &model.backbone, config)?;
            write(
                bert::to_json(&config),
                named(&encoder, &bert::spellings()[0], args)?,
            )?;
        }
        (Part::Stream, ..) => return Err(wrong("single-stream cross-modal")),
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
    match given::find(&args.model, args.step)? {
        Given::Run { folder, step } => {
            let (run, recipe, step, mut model) = trained::open_model(&folder, step, &device)?;
            if model.teacher.take().is_some() {
                eprintln!(
                    "the teacher, a moving average of the encoders, is left out: only training reads it"
                );
            }
            if recipe.data.concepts.is_some() {
                return Err(TrainError::Check(format!(
                    "{} was trained with phrases and tags, [data.concepts], which no format of exports holds; embed, score and \
                     the other commands take the run itself",
                    args.model
                )));
            }
            // What a run's recipe.toml says may have been edited, or changed on purpose for later steps.
            let recipe = resuming::of_step(&run, step)?.unwrap_or(recipe);
            let tokenizer = run.tokenizer()?;
            let pixels = recipe.model.reads_pixels();
            Ok(Source {
                network: Network::Pair(Box::new(model)),
                config: NetworkConfig::Pair {
                    model: Box::new(recipe.model.clone()),
                    objectives: Box::new(recipe.objectives.clone()),
                },
                tokenizer: Some(Tokenizer {
                    json: tokenizer.to_json()?,
                    config: published::to_config(&tokenizer, recipe.data.max_text_length)?,
                }),
                pictures: pixels.then(|| recipe.data.image_spec().into()),
                further: Vec::new(),
                labels: run.labels_of(&recipe)?,
                run: Some(of_run(&run, recipe, step)?),
            })
        }
        Given::Public(path) => of_public(args, &path, &device),
    }
}

/// A public checkpoint with the files that belong to it.
fn of_public(
    args: &ExportArgs,
    path: &Path,
    device: &burn::tensor::Device,
) -> Result<Source, TrainError> {
    let folder = folder_of(path);
    let public = pretrained::describe(path, None)?;
    let mut notes = public.notes.clone();
    let loaded = public.load(device)?;
    let size = match &loaded.config {
        NetworkConfig::Text(_) => None,
        NetworkConfig::Image(config) => Some(config.image_size),
        NetworkConfig::Clip(config) => Some(config.image.image_size),
        NetworkConfig::Pair { model, .. } => model.image.as_ref().map(|image| image.image_size),
    };
    let pictures = match size.filter(|_| !args.part.reads_texts_alone()) {
        Some(size) => {
            let prepared = processor::find(&folder, public.family, size)?;
            notes.extend(prepared.notes);
            Some(prepared.pictures)
        }
        None => None,
    };
    let reads_texts = loaded.config.longest_text().is_some() && args.part != Part::Image;
    let tokenizer = if reads_texts {
        beside_weights(&folder, &public, &mut notes)?
    } else {
        None
    };
    for note in &notes {
        eprintln!("{}: {note}", args.model);
    }
    eprint!("{}", loaded.report);
    let mut further = Vec::new();
    if matches!(loaded.network, Network::Text(_)) {
        for name in SENTENCES {
            let file = folder.join(name);
            if file.is_file() {
                let bytes = std::fs::read(&file).map_err(TrainError::file("read", &file))?;
                further.push((name, bytes));
            }
        }
    }
    Ok(Source {
        network: loaded.network,
        config: loaded.config,
        tokenizer,
        pictures,
        further,
        labels: None,
        run: None,
    })
}

/// What a run's files tell of the weights of a step.
fn of_run(run: &RunFolder, recipe: Recipe, step: u64) -> Result<Run, TrainError> {
    let mut evaluations = run.evaluations()?;
    evaluations.extend(run.later_evaluations()?);
    let predictions: PredictionsRecord = json_of(run, "predictions.json")?.unwrap_or_default();
    Ok(Run {
        recipe,
        step,
        facts: json_of(run, "run.json")?.unwrap_or_default(),
        evaluations,
        figures: if predictions.step == step {
            predictions.figures
        } else {
            Vec::new()
        },
    })
}

/// A JSON file of a run; `None` if it has none.
fn json_of<T: DeserializeOwned>(run: &RunFolder, name: &str) -> Result<Option<T>, TrainError> {
    let path = run.join(name);
    if !path.is_file() {
        return Ok(None);
    }
    let text = std::fs::read_to_string(&path).map_err(TrainError::file("read", &path))?;
    serde_json::from_str(&text)
        .map(Some)
        .map_err(|error| TrainError::Run {
            path,
            reason: error.to_string(),
        })
}

/// The file of the card.
const CARD: &str = "README.md";

/// The card of an export.
fn describe<'a>(
    args: &'a ExportArgs,
    source: &'a Source,
    parameters: usize,
    readers: Readers,
) -> Card<'a> {
    let name = args.out.file_name().map(|name| name.to_string_lossy());
    let given = Path::new(&args.model)
        .file_name()
        .map_or_else(|| args.model.clone().into(), |name| name.to_string_lossy());
    let tokenizer = source
        .tokenizer
        .as_ref()
        .filter(|_| args.part != Part::Image);
    Card {
        name: name.unwrap_or_default().into_owned(),
        part: match args.part {
            Part::Whole => None,
            Part::Text | Part::Stream => Some("text"),
            Part::Image => Some("image"),
        },
        licence: args.licence.as_deref(),
        source: given.into_owned(),
        run: source.run.as_ref().map(|run| Trained {
            recipe: &run.recipe,
            step: run.step,
            facts: &run.facts,
            evaluations: &run.evaluations,
            figures: &run.figures,
        }),
        config: &source.config,
        parameters,
        dtype: match args.dtype {
            Dtype::F16 => "f16",
            Dtype::Bf16 => "bf16",
            Dtype::F64 | Dtype::F32 | Dtype::Other => "f32",
        },
        readers,
        reads: (
            tokenizer.is_some(),
            source.pictures.is_some() && !args.part.reads_texts_alone(),
        ),
        longest: tokenizer.and_then(|t| t.config["model_max_length"].as_u64()),
        labels: source.labels.as_ref().map(|labels| labels.names().len()),
    }
}

/// The tokenizer of a public checkpoint, with the length of the longest text that unimo reads.
fn beside_weights(
    folder: &Path,
    public: &pretrained::Public,
    notes: &mut Vec<String>,
) -> Result<Option<Tokenizer>, TrainError> {
    let found = ["tokenizer.json", "vocab.txt", "vocab.json"]
        .iter()
        .any(|name| folder.join(name).is_file());
    if !found {
        notes.push(format!(
            "there is no tokenizer in {}: the export has none, and the commands that read texts need --tokenizer",
            folder.display()
        ));
        return Ok(None);
    }
    let published = published::load(folder)?;
    notes.extend(published.notes);
    let max_length = public.text_length(published.max_length);
    let config = match (published.config, &published.json) {
        (Some(mut config), Some(_)) => {
            config.insert("model_max_length".to_owned(), max_length.into());
            Value::Object(config)
        }
        _ => published::to_config(&published.tokenizer, max_length)?,
    };
    let json = match published.json {
        Some(json) => json,
        None => published.tokenizer.to_json()?,
    };
    Ok(Some(Tokenizer { json, config }))
}

/// Writes the tokenizer and the image processor, if the part reads texts or images.
fn beside(args: &ExportArgs, source: &Source) -> Result<(), TrainError> {
    let write = |name: &str, bytes: &[u8]| files::write(&args.out.join(name), bytes);
    if let (Some(tokenizer), true) = (&source.tokenizer, args.part != Part::Image) {
        write("tokenizer.json", tokenizer.json.as_bytes())?;
        write_json(&args.out.join("tokenizer_config.json"), &tokenizer.config)?;
        for (name, bytes) in &source.further {
            write(name, bytes)?;
        }
    }
    if let (Some(labels), Part::Whole) = (&source.labels, args.part) {
        labels.save(&args.out.join(labels::FILE_NAME))?;
    }
    if let (Some(pictures), true) = (&source.pictures, !args.part.reads_texts_alone()) {
        if pictures.spec.resize == Resize::Crop {
            eprintln!(
                "images: transformers' CLIPImageProcessor begins the centre of an odd rest a pixel off; unimo reads \
                 `unimo_resize` in preprocessor_config.json and does not"
            );
        }
        let json = processor::to_json(pictures);
        write_json(&args.out.join("preprocessor_config.json"), &json)?;
    }
    Ok(())
}

fn write_json(path: &Path, json: &Value) -> Result<(), TrainError> {
    let text = format!("{json:#}\n");
    files::write(path, text.as_bytes())
}

fn named<M: Module>(
    module: &M,
    names: &Names,
    args: &ExportArgs,
) -> Result<Vec<export::Exported>, TrainError> {
    let exported = export::export(module, names, args.dtype).map_err(|nameless| {
        TrainError::Check(format!(
            "the format has no name for {} of the parameters, among them `{}`",
            nameless.len(),
            nameless.first().map_or("", String::as_str)
        ))
    })?;
    match export::out_of_range(&exported) {
        None => Ok(exported),
        Some((name, value)) => Err(TrainError::Check(format!(
            "`{name}` holds {value}, which would be infinite in this --dtype; allowed here: f32 or bf16 where it fits"
        ))),
    }
}

/// CLIP's image tower has a norm before its blocks; ViT has none.
fn image_format(
    config: &unimo_encoders::image::ImageEncoderConfig,
) -> Result<(Value, Names), TrainError> {
    if !config.pre_norm {
        let json = vit::to_json(config).map_err(no_format)?;
        return Ok((json, vit::spellings().remove(0)));
    }
    let mut json = clip::image_to_json(config).map_err(no_format)?;
    json["architectures"] = json!(["CLIPVisionModel"]);
    Ok((json, clip::image_spellings().remove(0)))
}

/// The error for a model that is neither a ViT nor a CLIP.
fn no_format(reason: String) -> TrainError {
    TrainError::Check(format!(
        "transformers has no format for this image encoder: {reason}"
    ))
}

/// Whether PyTorch's code of a model is written; prints why not, or what it leaves out.
fn offers_python(model: &BackboneConfig, objectives: &ObjectivesConfig) -> bool {
    if let Some(reason) = python::refusal(model) {
        eprintln!(
            "no modeling_unimo.py is written, since it cannot express this model: {reason}; unimo reads the export"
        );
        return false;
    }
    for line in python::left_out(model, objectives) {
        eprintln!("{line}");
    }
    true
}

/// BridgeTower's format if the model is one; else this project's own format, which keeps our names.
fn pair_format(model: &BackboneConfig, objectives: &ObjectivesConfig) -> (Value, Names) {
    let momentum = objectives
        .itc
        .as_ref()
        .is_some_and(|itc| itc.momentum.is_some());
    let three = objectives
        .itc
        .as_ref()
        .is_none_or(|itc| itc.views == unimo_objectives::pretraining::itc::Views::Three);
    // transformers has names for these heads alone.
    let known = |key: &&str| ["mlm", "itm", "itc"].contains(key);
    let further = momentum || !objectives.given().iter().all(known);
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
        let shared = model.fusion.as_ref().is_none_or(|f| f.shared_transforms);
        return (json, pretrained::bridgetower_names(shared).remove(0));
    }
    let json = json!({
        "model_type": OWN,
        "model": model,
        "objectives": objectives,
    });
    (json, Names::own())
}

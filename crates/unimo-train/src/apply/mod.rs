//! Using a trained model: `embed`, `score`, `search`, `fill-mask`, `explain`, on a run's folder or an imported checkpoint.
//!
//! [`Predictor`] is a model with all that it needs to take files and strings: tokenizer, picture size and normalisation,
//! longest text. Each command is one file on top of it.

pub mod embed;
pub mod explain;
pub mod fill_mask;
pub mod inputs;
pub mod score;
pub mod search;

use std::path::{Path, PathBuf};

use burn::tensor::{Device, Tensor, TensorData};
use unimo_core::batch::{Images, Texts};
use unimo_data::config::Pad;
use unimo_data::error::ReadError;
use unimo_data::images::{self, Filter, ImageSpec, Limits, Resize};
use unimo_data::processor;
use unimo_data::tokens::Encoded;
use unimo_data::{ConceptReader, Concepts, TextTokenizer};
use unimo_encoders::backbone::{ImageFeatures, TextFeatures};
use unimo_encoders::clip::Clip;
use unimo_encoders::fusion::Keep;

use crate::checkpoint::write_atomically;
use crate::device::DeviceChoice;
use crate::error::TrainError;
use crate::evaluation;
use crate::hub;
use crate::model::{Model, host};
use crate::pretrained::{self, Network, NetworkConfig};
use crate::training;

/// Which model a command uses.
#[derive(Debug, Clone, clap::Args)]
pub struct ModelArgs {
    /// A run's folder, a checkpoint's folder or file, or a Hugging Face id.
    pub model: String,
    /// The tokenizer's folder or file; default: the one beside the weights.
    #[arg(long, value_name = "PATH")]
    pub tokenizer: Option<PathBuf>,
    /// Of a run, which checkpoint, by its step; default: the best.
    #[arg(long)]
    pub step: Option<u64>,
    /// Texts and pictures per forward pass.
    #[arg(long, default_value_t = 32)]
    pub batch_size: usize,
    /// Where to compute: flex (the CPU), wgpu, wgpu:N, cuda, cuda:N or auto.
    #[arg(long, default_value = "flex")]
    pub device: DeviceChoice,
}

/// A model that compares texts with pictures.
#[derive(Debug)]
pub enum Matcher {
    /// Three encoders with heads.
    Pair(Box<Model>),
    /// CLIP.
    Clip(Box<Clip>),
}

/// A model with all that it needs to take files and strings.
pub struct Predictor {
    /// The model.
    pub matcher: Matcher,
    /// Its tokenizer.
    pub tokenizer: TextTokenizer,
    /// Its phrases, where it was trained with concepts: those that a source knew are found by the parser, those of a file of tuples
    /// are looked up there. Pictures have no tags here.
    pub concepts: Option<ConceptReader>,
    /// What it wants pictures to be.
    pub pictures: ImageSpec,
    /// Longest text in tokens.
    pub max_text_length: usize,
    /// Texts and pictures per forward pass.
    pub batch_size: usize,
    /// Where it is.
    pub device: Device,
    /// What was given, for messages.
    pub given: String,
}

/// Pictures that are read.
const PICTURES: Limits = Limits::full_size(50_000_000);
/// Longest text that METER and BridgeTower read, where a checkpoint does not say it.
const TEXT_LENGTH: usize = 50;

impl Predictor {
    /// Opens a run, a checkpoint or a Hugging Face id.
    ///
    /// # Errors
    ///
    /// It cannot be read, or lacks a tokenizer or a description of its pictures.
    pub fn open(args: &ModelArgs) -> Result<Self, TrainError> {
        if args.batch_size == 0 {
            return Err(TrainError::Check(
                "--batch-size must be at least 1".to_owned(),
            ));
        }
        let (device, _) = args.device.open()?;
        if Path::new(&args.model).join("recipe.toml").is_file() {
            return Self::of_run(args, device);
        }
        if args.step.is_some() {
            return Err(TrainError::Check(format!(
                "--step is for runs, and {} is none",
                args.model
            )));
        }
        let path = hub::resolve(&args.model)?;
        let mut public = pretrained::describe(&path, None)?;
        if let NetworkConfig::Pair { model, .. } = &mut public.config {
            **model = model.as_ref().clone().without_dropout();
        }
        let loaded = public.load(&device)?;
        let (matcher, max_text_length, size) = match (loaded.network, &loaded.config) {
            (Network::Pair(model), NetworkConfig::Pair { model: config, .. }) => (
                Matcher::Pair(model),
                TEXT_LENGTH.min(config.text.longest_text()),
                config
                    .image
                    .as_ref()
                    .map(|image| image.image_size)
                    .ok_or_else(|| reads_regions(&args.model))?,
            ),
            (Network::Clip(clip), NetworkConfig::Clip(config)) => (
                Matcher::Clip(clip),
                config.text.max_positions,
                config.image.image_size,
            ),
            _ => {
                return Err(TrainError::Check(format!(
                    "{} is {}, which knows only one of text and picture; a model of both is needed here",
                    args.model, public.kind
                )));
            }
        };
        let folder = match path.is_dir() {
            true => path.clone(),
            false => path.parent().unwrap_or(Path::new(".")).to_owned(),
        };
        let file = folder.join("preprocessor_config.json");
        let pictures = match file.is_file() {
            true => processor::read(&file)?,
            false => default_pictures(size),
        };
        if pictures.size != size {
            return Err(TrainError::Check(format!(
                "{} gives pictures of {} pixels, the model takes {size}",
                file.display(),
                pictures.size
            )));
        }
        let tokenizer = match &args.tokenizer {
            Some(given) => hub::resolve(&given.to_string_lossy())?,
            None => folder,
        };
        Ok(Self {
            concepts: None,
            matcher,
            tokenizer: TextTokenizer::load(&tokenizer, true)?,
            pictures,
            max_text_length,
            batch_size: args.batch_size,
            device,
            given: args.model.clone(),
        })
    }

    fn of_run(args: &ModelArgs, device: Device) -> Result<Self, TrainError> {
        let folder = Path::new(&args.model);
        let (run, recipe, _, model) = evaluation::open_model(folder, args.step, &device)?;
        if recipe.model.regions.is_some() {
            return Err(reads_regions(&args.model));
        }
        let tokenizer = match &args.tokenizer {
            Some(given) => hub::resolve(&given.to_string_lossy())?,
            None => run.join("tokenizer.json"),
        };
        let tokenizer = TextTokenizer::load(&tokenizer, true)?;
        let concepts = recipe
            .data
            .concepts
            .as_ref()
            .map(|config| {
                let concepts = Concepts::load(&run.join(training::CONCEPTS))?;
                let reader = ConceptReader::for_free_texts(config, &concepts, &tokenizer)?;
                training::check_concepts(&recipe, &reader, &tokenizer)?;
                Ok::<_, TrainError>(reader)
            })
            .transpose()?;
        Ok(Self {
            matcher: Matcher::Pair(Box::new(model)),
            tokenizer,
            concepts,
            pictures: recipe.data.image_spec(),
            max_text_length: recipe.data.max_text_length,
            batch_size: args.batch_size,
            device,
            given: args.model.clone(),
        })
    }

    /// A picture as the model wants it, `[3, S, S]` in one row.
    ///
    /// # Errors
    ///
    /// Why the file cannot be used.
    pub fn picture(&self, path: &Path) -> Result<Vec<f32>, ReadError> {
        let mut pixels = Vec::new();
        self.pictures
            .append(&images::read(path, PICTURES)?, &mut pixels)?;
        Ok(pixels)
    }

    /// The same where a picture that cannot be used is only noted, with the reason.
    ///
    /// # Errors
    ///
    /// The file could not be read now: a line that says so would count as a result.
    pub fn picture_or_reason(&self, path: &Path) -> Result<Result<Vec<f32>, String>, TrainError> {
        match self.picture(path) {
            Err(error) if error.is_unavailable() => Err(TrainError::Check(error.reason)),
            read => Ok(read.map_err(|error| error.reason)),
        }
    }

    /// Pictures on the device, `[B, 3, S, S]`.
    pub fn pixels(&self, pictures: Vec<f32>) -> Tensor<4> {
        let size = self.pictures.size;
        let rows = pictures.len() / self.pictures.values();
        let shape = [rows, Images::CHANNELS, size, size];
        Tensor::from_data(TensorData::new(pictures, shape), &self.device)
    }

    /// A text as tokens.
    pub fn tokens(&self, text: &str) -> Encoded {
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        match &self.concepts {
            None => self.tokenizer.encode(&text, self.max_text_length),
            Some(reader) => {
                let phrases = reader.phrases_of_text(&text);
                reader.encode(&self.tokenizer, &text, &phrases, self.max_text_length)
            }
        }
    }

    /// Texts under each other, padded to `length`, or to the longest.
    pub fn block(&self, texts: &[Encoded]) -> Texts {
        self.tokenizer
            .pad(texts, self.max_text_length, Pad::Longest)
    }

    /// Texts in the common space.
    ///
    /// # Shapes
    ///
    /// - output: `[B, E]`
    ///
    /// # Errors
    ///
    /// The model has no common space.
    pub fn embed_texts(&self, texts: &[Encoded]) -> Result<Tensor<2>, TrainError> {
        match &self.matcher {
            Matcher::Pair(model) => {
                let itc = self.itc(model)?;
                Ok(itc.embed_texts(&self.text_features(model, texts)))
            }
            Matcher::Clip(clip) => {
                let block = self.block(texts);
                let input = clip
                    .text
                    .input(&block.ids, &block.lengths, block.length, &self.device);
                Ok(clip.embed_texts(&input))
            }
        }
    }

    /// Pictures in the common space.
    ///
    /// # Shapes
    ///
    /// - pixels: `[B, 3, S, S]`
    /// - output: `[B, E]`
    ///
    /// # Errors
    ///
    /// The model has no common space.
    pub fn embed_images(&self, pixels: Tensor<4>) -> Result<Tensor<2>, TrainError> {
        match &self.matcher {
            Matcher::Pair(model) => {
                let itc = self.itc(model)?;
                Ok(itc.embed_images(&model.backbone.encode_images(pixels)))
            }
            Matcher::Clip(clip) => Ok(clip.embed_images(pixels)),
        }
    }

    /// Texts after their own encoder.
    pub fn text_features(&self, model: &Model, texts: &[Encoded]) -> TextFeatures {
        let block = self.block(texts);
        let text = &model.backbone.text;
        let input = text.input(&block.ids, &block.lengths, block.length, &self.device);
        model.backbone.encode_texts(&input)
    }

    /// Log-odds of "they belong together" for row `i` of the texts with row `i` of the images.
    ///
    /// # Errors
    ///
    /// The model has no matching head.
    pub fn match_scores(
        &self,
        model: &Model,
        texts: &TextFeatures,
        images: &ImageFeatures,
    ) -> Result<Vec<f32>, TrainError> {
        let itm = model.objectives.itm.as_ref().ok_or_else(|| {
            self.lacks("matching head", "it was not trained with [objectives.itm]")
        })?;
        let fused = model.backbone.fuse(texts, images, Keep::Nothing);
        Ok(host(itm.scores(&model.backbone, &fused)))
    }

    fn itc<'a>(&self, model: &'a Model) -> Result<&'a unimo_objectives::itc::Itc, TrainError> {
        model.objectives.itc.as_ref().ok_or_else(|| {
            self.lacks(
                "common space of texts and pictures",
                "it was not trained with [objectives.itc]",
            )
        })
    }

    /// An error that says what a model cannot do.
    pub fn lacks(&self, what: &str, why: &str) -> TrainError {
        TrainError::Check(format!("{} has no {what}: {why}", self.given))
    }
}

/// A model whose pictures are no pixels.
fn reads_regions(model: &str) -> TrainError {
    TrainError::Check(format!(
        "{model} reads regions that a detector found, [model.regions], and this command takes pictures; \
         `unimo eval` evaluates it on data with regions"
    ))
}

/// As METER and BridgeTower take pictures, where a checkpoint comes without a description.
fn default_pictures(size: usize) -> ImageSpec {
    ImageSpec {
        size,
        resize: Resize::Crop,
        filter: Filter::Bicubic,
        mean: processor::CLIP_MEAN,
        std: processor::CLIP_STD,
    }
}

/// Writes a file whole or not at all.
pub(crate) fn write_text(path: &Path, text: &str) -> Result<(), TrainError> {
    write_atomically(path, |temporary| {
        std::fs::write(temporary, text).map_err(TrainError::file("write", temporary))
    })
}

/// The probability that log-odds mean.
pub(crate) fn probability(score: f32) -> f64 {
    1.0 / (1.0 + (-f64::from(score)).exp())
}

//! Using a trained model: `embed`, `score`, `search`, `fill-mask`, `explain`, `caption`, on a run's folder or an imported checkpoint.
//!
//! [`Predictor`] is a model with all that it needs to read files and strings: tokenizer, image size and normalisation, longest
//! text. Each command is one file on top of it.

pub mod caption;
pub mod embed;
pub mod explain;
pub mod fill_mask;
pub mod index;
pub mod inputs;
pub mod nearest;
pub mod pictures;
pub mod predict;
pub mod score;
pub mod search;

mod pooling;

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use burn::tensor::{Device, Tensor, TensorData};
use image::RgbImage;
use unimo_batch::{Images, Texts};
use unimo_core::layers::normalise;
use unimo_core::world::World;
use unimo_data::images;
use unimo_data::processor::{self, Pictures};
use unimo_data::{ConceptReader, Concepts, Encoded, Pad, ReadError, TextTokenizer, published};
use unimo_encoders::clip::Clip;
use unimo_encoders::features::{ImageFeatures, TextFeatures};
use unimo_encoders::image::ImageEncoder;
use unimo_encoders::public::folder_of;
use unimo_encoders::text::TextEncoder;
use unimo_objectives::pretraining::mlm::Mlm;

pub use pooling::Pooling;

use self::pictures::PictureList;
use crate::device::DeviceChoice;
use crate::error::TrainError;
use crate::files;
use crate::given::{self, Given};
use crate::hub;
use crate::language_head;
use crate::model::{Model, host};
use crate::numbers;
use crate::prepare;
use crate::pretrained::{self, Network, NetworkConfig};
use crate::ranks;
use crate::run::CONCEPTS;
use crate::trained;

/// The model that a command uses.
#[derive(Debug, Clone, clap::Args)]
pub struct ModelArgs {
    /// A run's folder, a checkpoint's folder or file, or a Hugging Face id.
    pub model: String,
    /// The tokenizer's folder or file; default: the one beside the weights.
    #[arg(long, value_name = "PATH")]
    pub tokenizer: Option<PathBuf>,
    /// The step of a run's checkpoint; default: the best.
    #[arg(long)]
    pub step: Option<u64>,
    /// Device: cpu (or flex), wgpu, wgpu:N, cuda, cuda:N or auto.
    #[arg(long, default_value = "flex")]
    pub device: DeviceChoice,
}

/// The batches of a command that reads many texts or images.
#[derive(Debug, Clone, Copy, clap::Args)]
pub struct BatchArgs {
    /// Texts and images per forward pass.
    #[arg(long, default_value_t = BATCH_SIZE, value_parser = numbers::at_least_one)]
    pub batch_size: usize,
}

/// Texts and images per forward pass unless it is said otherwise.
const BATCH_SIZE: usize = 32;

/// The kinds of models that commands use.
#[derive(Debug)]
pub enum Matcher {
    /// Three encoders with heads.
    Pair(Box<Model>),
    /// CLIP.
    Clip(Box<Clip>),
    /// A text encoder alone, with its language head if it has one.
    Text(Box<TextEncoder>, Option<Box<Mlm>>),
    /// An image encoder alone.
    Image(Box<ImageEncoder>),
}

impl Matcher {
    /// Number of tokens that the model knows; `None` if it reads no texts.
    fn vocabulary(&self) -> Option<usize> {
        let table = match self {
            Self::Pair(model) => &model.backbone.text.word_embedding,
            Self::Clip(clip) => &clip.text.word_embedding,
            Self::Text(encoder, _) => &encoder.word_embedding,
            Self::Image(_) => return None,
        };
        let [rows, _] = table.weight.dims();
        Some(rows)
    }
}

/// A model with all that it needs to read files and strings.
pub struct Predictor {
    /// The model.
    pub matcher: Matcher,
    /// Its tokenizer; `None` for an image encoder alone.
    tokenizer: Option<TextTokenizer>,
    /// Its phrases, if it was trained with concepts. Phrases that came from the source are found by the parser here, and those from
    /// a file of tuples are looked up there. Images have no tags here.
    pub concepts: Option<ConceptReader>,
    /// How images are prepared for it; `None` for a text encoder alone.
    pictures: Option<Pictures>,
    /// Longest text in tokens.
    pub max_text_length: usize,
    /// How an encoder alone makes one vector of a text or an image.
    pub pooling: Pooling,
    /// Texts and images per forward pass.
    pub batch_size: usize,
    /// The device that it is on.
    pub device: Device,
    /// The argument that named the model, for messages.
    pub given: String,
    /// The kind of model, for messages.
    kind: &'static str,
    /// Hashes of the texts that were truncated.
    cut: Mutex<HashSet<u64>>,
}

impl Predictor {
    /// This one, with batches of this size.
    pub fn in_batches(self, args: BatchArgs) -> Self {
        Self {
            batch_size: args.batch_size,
            ..self
        }
    }

    /// Opens a run, a checkpoint or a Hugging Face id. Prints the assumptions that it makes on standard error.
    ///
    /// # Errors
    ///
    /// It cannot be read, lacks a tokenizer, or prepares images in a way that is not supported.
    pub fn open(args: &ModelArgs) -> Result<Self, TrainError> {
        Self::open_in(args, &World::ALONE)
    }

    /// The same on every rank of `world`, each on a device of its own. Rank 0 looks for the files first, since it may have to fetch
    /// them, and is the one that prints.
    ///
    /// # Errors
    ///
    /// As of [`open`](Self::open), on all ranks.
    pub fn open_in(args: &ModelArgs, world: &World) -> Result<Self, TrainError> {
        ranks::first(world, "the model's files at rank 0", || {
            given::find(&args.model, args.step).map(|_| ())
        })?;
        let (predictor, notes) =
            ranks::all(world, "the model", Self::of_rank(args, world.local_rank()))?;
        if world.is_first() {
            for note in notes {
                eprintln!("{}: {note}", args.model);
            }
        }
        Ok(predictor)
    }

    fn of_rank(args: &ModelArgs, local_rank: usize) -> Result<(Self, Vec<String>), TrainError> {
        let (device, _) = args.device.of_rank(local_rank).open()?;
        match given::find(&args.model, args.step)? {
            Given::Run { folder, step } => {
                Ok((Self::of_run(args, &folder, step, device)?, Vec::new()))
            }
            Given::Public(path) => Self::of_public(args, &path, device),
        }
    }

    fn of_public(
        args: &ModelArgs,
        path: &Path,
        device: Device,
    ) -> Result<(Self, Vec<String>), TrainError> {
        let folder = folder_of(path);
        let mut public = pretrained::describe(path, None)?;
        public.config = public.config.without_dropout();
        let mut notes = std::mem::take(&mut public.notes);
        let size = match &public.config {
            NetworkConfig::Text(_) => None,
            NetworkConfig::Image(config) => Some(config.image_size),
            NetworkConfig::Clip(config) => Some(config.image.image_size),
            NetworkConfig::Pair { model, .. } => Some(
                model
                    .image
                    .as_ref()
                    .map(|image| image.image_size)
                    .ok_or_else(|| reads_regions(&args.model))?,
            ),
        };
        let pictures = size
            .map(|size| {
                let prepared = processor::find(&folder, public.family, size)?;
                fits(&prepared, size)?;
                notes.extend(prepared.notes);
                Ok::<_, TrainError>(prepared.pictures)
            })
            .transpose()?;
        let mut max_text_length = 0;
        let mut tokenizer = None;
        if public.config.longest_text().is_none() && args.tokenizer.is_some() {
            notes.push("--tokenizer is not used: the model reads no texts".to_owned());
        }
        if public.config.longest_text().is_some() {
            let place = match &args.tokenizer {
                Some(given) => hub::resolve(&given.to_string_lossy())?,
                None => folder.clone(),
            };
            let published = published::load(&place)?;
            max_text_length = public.text_length(published.max_length);
            notes.extend(published.notes);
            tokenizer = Some(published.tokenizer);
        }
        let loaded = public.load(&device)?;
        notes.extend(loaded.report.notes.iter().cloned());
        let tied = loaded.report.tied.iter();
        notes.extend(tied.map(|(name, stored)| format!("`{name}` is stored as `{stored}`")));
        let mut pooling = Pooling::Class;
        let matcher = match loaded.network {
            Network::Pair(model) => Matcher::Pair(model),
            Network::Clip(clip) => Matcher::Clip(clip),
            Network::Image(encoder) => Matcher::Image(encoder),
            Network::Text(encoder) => {
                pooling = Pooling::of_folder(&folder)?;
                let head = language_head::load(&public, &device)?;
                Matcher::Text(encoder, head.map(Box::new))
            }
        };
        let predictor = Self {
            concepts: None,
            matcher,
            tokenizer,
            pictures,
            max_text_length,
            pooling,
            batch_size: BATCH_SIZE,
            device,
            given: args.model.clone(),
            kind: public.kind,
            cut: Mutex::default(),
        };
        Ok((predictor, notes))
    }

    fn of_run(
        args: &ModelArgs,
        folder: &Path,
        step: Option<u64>,
        device: Device,
    ) -> Result<Self, TrainError> {
        let (run, recipe, _, model) = trained::open_model(folder, step, &device)?;
        if recipe.model.regions.is_some() {
            return Err(reads_regions(&args.model));
        }
        if recipe.model.reads_concepts() {
            eprintln!(
                "{}: images are read without the names of their objects, which it was trained with (model.joint.concepts): files of images have \
                 none",
                args.model
            );
        }
        let tokenizer = match &args.tokenizer {
            Some(given) => TextTokenizer::load(&hub::resolve(&given.to_string_lossy())?, true)?,
            None => run.tokenizer()?,
        };
        let concepts = recipe
            .data
            .concepts
            .as_ref()
            .map(|config| {
                let concepts = Concepts::load(&run.join(CONCEPTS))?;
                let reader = ConceptReader::for_free_texts(config, &concepts, &tokenizer)?;
                prepare::check_concepts(&recipe, &reader, &tokenizer)?;
                Ok::<_, TrainError>(reader)
            })
            .transpose()?;
        // A run of texts alone is a text encoder, with the head of hidden words if it has one.
        let parts = &model.backbone;
        let alone = !recipe.model.reads_images() && parts.fusion.is_none() && parts.joint.is_none();
        let matcher = if alone {
            let head = model.objectives.mlm.clone();
            Matcher::Text(Box::new(model.backbone.text), head.map(Box::new))
        } else {
            Matcher::Pair(Box::new(model))
        };
        Ok(Self {
            matcher,
            tokenizer: Some(tokenizer),
            concepts,
            pictures: (!alone).then(|| recipe.data.image_spec().into()),
            max_text_length: recipe.data.max_text_length,
            pooling: Pooling::Class,
            batch_size: BATCH_SIZE,
            device,
            given: args.model.clone(),
            kind: "a run",
            cut: Mutex::default(),
        })
    }

    /// The tokenizer.
    ///
    /// # Errors
    ///
    /// The model reads no texts.
    pub fn tokenizer(&self) -> Result<&TextTokenizer, TrainError> {
        self.tokenizer
            .as_ref()
            .ok_or_else(|| self.lacks("text encoder", &format!("it is {}", self.kind)))
    }

    /// How images are prepared for it.
    ///
    /// # Errors
    ///
    /// The model reads no images.
    pub fn pictures(&self) -> Result<&Pictures, TrainError> {
        self.pictures
            .as_ref()
            .ok_or_else(|| self.lacks("image encoder", &format!("it is {}", self.kind)))
    }

    /// The three encoders with heads, for commands that need them.
    ///
    /// # Errors
    ///
    /// The model is of another kind and has no `what`.
    pub fn pair(&self, what: &str) -> Result<&Model, TrainError> {
        let why = match &self.matcher {
            Matcher::Pair(model) => return Ok(model),
            Matcher::Clip(_) => {
                "CLIP's towers meet in a cosine only; use `unimo embed` or `unimo search`"
                    .to_owned()
            }
            Matcher::Text(..) | Matcher::Image(_) => format!(
                "it is {}, which knows only one of text and image",
                self.kind
            ),
        };
        Err(self.lacks(what, &why))
    }

    /// Checks that it makes vectors of texts or images.
    ///
    /// # Errors
    ///
    /// It has no common space.
    pub fn check_space(&self) -> Result<(), TrainError> {
        match &self.matcher {
            Matcher::Pair(model) => self.itc(model).map(drop),
            Matcher::Clip(_) | Matcher::Text(..) | Matcher::Image(_) => Ok(()),
        }
    }

    /// Prints how many texts were truncated by all ranks of `world`, if any.
    ///
    /// # Errors
    ///
    /// A rank is lost.
    pub fn say_what_was_cut(&self, world: &World) -> Result<(), TrainError> {
        let own = self.cut.lock().unwrap_or_else(PoisonError::into_inner);
        let own: Vec<u64> = own.iter().copied().collect();
        let all = world.gather("texts that were cut", own)?;
        let cut: HashSet<u64> = all.into_iter().flatten().collect();
        if !world.is_first() {
            return Ok(());
        }
        match cut.len() {
            0 => {}
            1 => eprintln!(
                "1 text is longer than the {} tokens that are read of a text; its end is left out",
                self.max_text_length
            ),
            count => eprintln!(
                "{count} texts are longer than the {} tokens that are read of a text; their ends are left out",
                self.max_text_length
            ),
        }
        Ok(())
    }

    /// An image as the model reads it, `[3, S, S]` in one row.
    ///
    /// # Errors
    ///
    /// The reason why the file cannot be used.
    pub fn picture(&self, path: &Path) -> Result<Vec<f32>, ReadError> {
        self.prepared(&images::read(path, pictures::LIMITS)?)
    }

    /// An image as the model reads it, `[3, S, S]` in one row.
    fn prepared(&self, picture: &RgbImage) -> Result<Vec<f32>, ReadError> {
        let pictures = self.pictures().map_err(|error| error.to_string())?;
        let mut pixels = Vec::new();
        pictures.append(picture, &mut pixels)?;
        Ok(pixels)
    }

    /// As [`picture_or_reason`](Self::picture_or_reason), for an image of a list.
    ///
    /// # Errors
    ///
    /// It could not be read this time.
    pub fn listed_or_reason(
        &self,
        list: &PictureList,
        at: usize,
    ) -> Result<Result<Vec<f32>, String>, TrainError> {
        or_reason(list.read(at).and_then(|picture| self.prepared(&picture)))
    }

    /// The same, but returns the reason for an image that cannot be used.
    ///
    /// # Errors
    ///
    /// The file could not be read this time: a line that says so would count as a result.
    pub fn picture_or_reason(&self, path: &Path) -> Result<Result<Vec<f32>, String>, TrainError> {
        or_reason(self.picture(path))
    }

    /// Images on the device, `[B, 3, S, S]`.
    ///
    /// # Errors
    ///
    /// The model reads no images.
    pub fn pixels(&self, pictures: Vec<f32>) -> Result<Tensor<4>, TrainError> {
        let spec = &self.pictures()?.spec;
        let rows = pictures.len() / spec.values();
        let shape = [rows, Images::CHANNELS, spec.size, spec.size];
        Ok(Tensor::from_data(
            TensorData::new(pictures, shape),
            &self.device,
        ))
    }

    /// A text as tokens. A text that is too long is truncated and counted.
    ///
    /// # Errors
    ///
    /// The model reads no texts, or a token is none of its vocabulary.
    pub fn tokens(&self, text: &str) -> Result<Encoded, TrainError> {
        let tokenizer = self.tokenizer()?;
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        let length = self.max_text_length;
        let (encoded, room) = match &self.concepts {
            None => (tokenizer.encode(&text, length), length),
            Some(reader) => {
                let phrases = reader.phrases_of_text(&text);
                (
                    reader.encode(tokenizer, &text, &phrases, length),
                    reader.room_for_words(length),
                )
            }
        };
        let known = self.matcher.vocabulary().unwrap_or(0);
        if let Some(id) = encoded.ids.iter().find(|id| **id as usize >= known) {
            let token = tokenizer.token(*id).unwrap_or_default();
            return Err(TrainError::Check(format!(
                "{}: the tokenizer is of another model: {token:?} of {text:?} is its token {id}, and the model knows {known} tokens",
                self.given
            )));
        }
        if tokenizer.is_cut(&text, room) {
            let mut hash = DefaultHasher::new();
            text.hash(&mut hash);
            let mut cut = self.cut.lock().unwrap_or_else(PoisonError::into_inner);
            cut.insert(hash.finish());
        }
        Ok(encoded)
    }

    /// Several texts as tokens.
    ///
    /// # Errors
    ///
    /// The model reads no texts.
    pub fn all_tokens<'a>(
        &self,
        texts: impl IntoIterator<Item = &'a str>,
    ) -> Result<Vec<Encoded>, TrainError> {
        texts.into_iter().map(|text| self.tokens(text)).collect()
    }

    /// Texts as one batch, padded to the longest.
    fn block(&self, texts: &[Encoded]) -> Result<Texts, TrainError> {
        Ok(self
            .tokenizer()?
            .pad(texts, self.max_text_length, Pad::Longest))
    }

    /// Texts in the common space, or as vectors of an encoder alone, of length 1.
    ///
    /// # Shapes
    ///
    /// - output: `[B, E]`
    ///
    /// # Errors
    ///
    /// The model has no common space, or reads no texts.
    pub fn embed_texts(&self, texts: &[Encoded]) -> Result<Tensor<2>, TrainError> {
        let block = self.block(texts)?;
        match &self.matcher {
            Matcher::Pair(model) => {
                let itc = self.itc(model)?;
                Ok(itc.embed_texts(&self.text_features(model, texts)?))
            }
            Matcher::Clip(clip) => {
                let input = clip
                    .text
                    .input(&block.ids, &block.lengths, block.length, &self.device);
                Ok(clip.embed_texts(&input))
            }
            Matcher::Text(encoder, _) => {
                let input = encoder.input(&block.ids, &block.lengths, block.length, &self.device);
                let states = encoder.forward(&input, 1).remove(0);
                Ok(normalise(self.pooling.of_texts(states, &block.lengths)))
            }
            Matcher::Image(_) => Err(self.lacks("text encoder", &format!("it is {}", self.kind))),
        }
    }

    /// Images in the common space, or as vectors of an encoder alone, of length 1.
    ///
    /// # Shapes
    ///
    /// - pixels: `[B, 3, S, S]`
    /// - output: `[B, E]`
    ///
    /// # Errors
    ///
    /// The model has no common space, or reads no images.
    pub fn embed_images(&self, pixels: Tensor<4>) -> Result<Tensor<2>, TrainError> {
        match &self.matcher {
            Matcher::Pair(model) => {
                let itc = self.itc(model)?;
                Ok(itc.embed_images(&model.backbone.encode_images(pixels)))
            }
            Matcher::Clip(clip) => Ok(clip.embed_images(pixels)),
            Matcher::Image(encoder) => {
                let states = encoder.finish(encoder.forward(pixels, 1).remove(0));
                let [_, positions, _] = states.dims();
                let patches = encoder.grid() * encoder.grid();
                Ok(normalise(
                    self.pooling.of_pictures(states, positions - patches),
                ))
            }
            Matcher::Text(..) => Err(self.lacks("image encoder", &format!("it is {}", self.kind))),
        }
    }

    /// Texts after the text encoder.
    ///
    /// # Errors
    ///
    /// The model reads no texts.
    pub fn text_features(
        &self,
        model: &Model,
        texts: &[Encoded],
    ) -> Result<TextFeatures, TrainError> {
        let block = self.block(texts)?;
        let text = &model.backbone.text;
        let input = text.input(&block.ids, &block.lengths, block.length, &self.device);
        Ok(model.backbone.encode_texts(&input))
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
        let itm = self.itm(model)?;
        let fused = model.backbone.fuse_class_tokens(texts, images);
        Ok(host(itm.scores(&model.backbone, &fused)))
    }

    fn itm<'a>(
        &self,
        model: &'a Model,
    ) -> Result<&'a unimo_objectives::pretraining::itm::Itm, TrainError> {
        model
            .objectives
            .itm
            .as_ref()
            .ok_or_else(|| self.lacks("matching head", "it was not trained with [objectives.itm]"))
    }

    fn itc<'a>(
        &self,
        model: &'a Model,
    ) -> Result<&'a unimo_objectives::pretraining::itc::Itc, TrainError> {
        model.objectives.itc.as_ref().ok_or_else(|| {
            self.lacks(
                "common space of texts and images",
                "it was not trained with [objectives.itc]",
            )
        })
    }

    /// The error that says what a model cannot do.
    pub fn lacks(&self, what: &str, why: &str) -> TrainError {
        TrainError::Check(format!("{} has no {what}: {why}", self.given))
    }
}

/// An image, or why it cannot be used; an error if it could not be read this time.
fn or_reason(read: Result<Vec<f32>, ReadError>) -> Result<Result<Vec<f32>, String>, TrainError> {
    match read {
        Err(error) if error.is_unavailable() => Err(TrainError::Check(error.reason)),
        read => Ok(read.map_err(|error| error.reason)),
    }
}

/// The error for a model that reads regions instead of pixels.
fn reads_regions(model: &str) -> TrainError {
    TrainError::Check(format!(
        "{model} reads regions that a detector found, [model.regions], and this command takes images; \
         `unimo eval` evaluates it on data with regions"
    ))
}

/// Checks that prepared images have the model's size.
fn fits(prepared: &processor::Prepared, size: usize) -> Result<(), TrainError> {
    let given = prepared.pictures.spec.size;
    if given == size {
        return Ok(());
    }
    let file = prepared.file.as_deref().unwrap_or(Path::new(""));
    Err(TrainError::Check(format!(
        "{} gives images of {given} pixels, the model takes {size}",
        file.display()
    )))
}

/// Writes a file completely or not at all.
pub(crate) fn write_text(path: &Path, text: &str) -> Result<(), TrainError> {
    files::write(path, text.as_bytes())
}

/// The probability for log-odds.
pub(crate) fn probability(score: f32) -> f64 {
    1.0 / (1.0 + (-f64::from(score)).exp())
}

//! Loads a public checkpoint as an encoder in one call: [`load()`].

use std::path::{Path, PathBuf};

use burn::module::Module;
use burn::tensor::Device;
use unimo_core::init::Init;
use unimo_core::parameters;

use crate::backbone::Backbone;
use crate::clip::Clip;
use crate::image::{ImageEncoder, ImageEncoderConfig};
use crate::import::{Allow, ImportError, Report, import};
use crate::names::Names;
use crate::public::{
    Description, EncoderConfig, Kind, LoadError, PublicConfigError, best, describe, folder_of,
};
use crate::region::RegionEncoderConfig;
use crate::text::{TextEncoder, TextEncoderConfig};
use crate::weights::Weights;

/// An encoder that came from a checkpoint.
#[derive(Debug)]
pub enum Encoder {
    /// BERT, RoBERTa, XLM-R.
    Text(Box<TextEncoder>),
    /// ViT, DeiT, CLIP's image tower.
    Image(Box<ImageEncoder>),
    /// CLIP.
    Clip(Box<Clip>),
    /// METER, BridgeTower, a model of this project, without their heads.
    Backbone(Box<Backbone>),
}

/// The result of [`load()`].
#[derive(Debug)]
pub struct Loaded {
    /// The encoder with its weights.
    pub encoder: Encoder,
    /// Its sizes.
    pub config: EncoderConfig,
    /// What kind of checkpoint it was.
    pub kind: Kind,
    /// The tokenizer's file, if the encoder reads texts and the file lies beside the weights.
    pub tokenizer: Option<PathBuf>,
    /// What became of every tensor.
    pub report: Report,
    /// Assumptions that were made, one line each.
    pub notes: Vec<String>,
}

/// Files that describe a tokenizer, the most complete first.
const TOKENIZERS: [&str; 4] = [
    "tokenizer.json",
    "vocab.txt",
    "vocab.json",
    "bpe_simple_vocab_16e6.txt.gz",
];

/// Loads the encoder in a folder or file of a public checkpoint: BERT, RoBERTa, XLM-R, ViT, DeiT, CLIP, METER, BridgeTower, and what
/// `unimo export` wrote. Nothing in it is executed, and every tensor is accounted for.
///
/// ```no_run
/// use burn::tensor::Device;
/// use unimo_encoders::Encoder;
///
/// # #[cfg(feature = "flex")]
/// # fn run() -> Result<(), unimo_encoders::LoadError> {
/// let loaded = unimo_encoders::load("bert-base-uncased", &Device::flex())?;
/// let Encoder::Text(bert) = loaded.encoder else { panic!("not BERT") };
/// println!("{} layers, tokens by {:?}", bert.layers.len(), loaded.tokenizer);
/// # Ok(())
/// # }
/// ```
///
/// # Errors
///
/// The description is missing or unsupported, or the weights cannot be read or do not fit it.
pub fn load(path: impl AsRef<Path>, device: &Device) -> Result<Loaded, LoadError> {
    let path = path.as_ref();
    let Description {
        kind,
        config,
        spellings,
        weights,
        notes,
        ..
    } = describe(path, None)?;
    let (encoder, report) = config.load(&weights, &spellings, device)?;
    let folder = folder_of(path);
    let tokenizer = TOKENIZERS
        .iter()
        .map(|name| folder.join(name))
        .find(|file| file.is_file() && !matches!(encoder, Encoder::Image(_)));
    Ok(Loaded {
        encoder,
        config,
        kind,
        tokenizer,
        report,
        notes,
    })
}

/// Fills a module from weights whose names follow one of several spellings.
///
/// # Errors
///
/// A tensor is missing, unexpected or of another shape.
pub fn fill<M: Module>(
    blank: M,
    weights: &mut Weights,
    spellings: &[Names],
) -> Result<(M, Report), ImportError> {
    let ours: Vec<String> = parameters::list(&blank)
        .into_iter()
        .map(|p| p.name)
        .collect();
    let names = best(spellings.to_vec(), &ours, weights);
    import(blank, weights, &names, &Allow::default())
}

impl EncoderConfig {
    /// The encoder, filled from `weights`. `spellings` lists how their names may be spelt.
    ///
    /// # Errors
    ///
    /// The weights cannot be read or do not fit.
    pub fn load(
        &self,
        weights: &Path,
        spellings: &[Names],
        device: &Device,
    ) -> Result<(Encoder, Report), LoadError> {
        let mut weights = self.open(weights)?;
        let mut init = Init::blank(device);
        Ok(match self {
            Self::Text(config) => {
                let (encoder, report) = fill(config.init(&mut init), &mut weights, spellings)?;
                (Encoder::Text(Box::new(encoder)), report)
            }
            Self::Image(config) => {
                let (encoder, report) = fill(config.init(&mut init), &mut weights, spellings)?;
                (Encoder::Image(Box::new(encoder)), report)
            }
            Self::Clip(config) => {
                let (clip, report) = fill(config.init(&mut init), &mut weights, spellings)?;
                (Encoder::Clip(Box::new(clip)), report)
            }
            Self::Backbone(config) => {
                let (backbone, report) = fill(config.init(&mut init), &mut weights, spellings)?;
                (Encoder::Backbone(Box::new(backbone)), report)
            }
        })
    }

    /// Opens weights, if they are large enough for the model.
    ///
    /// # Errors
    ///
    /// They cannot be read, or hold less than the model needs.
    pub fn open(&self, weights: &Path) -> Result<Weights, LoadError> {
        let opened = Weights::open(weights)?;
        // Sizes are data from elsewhere, so a model is made only if the file can fill it.
        let held: u128 = opened
            .infos()
            .map(|(_, info)| info.shape.iter().map(|n| *n as u128).product::<u128>())
            .sum();
        let needed = self.matrix_weights();
        if needed > held {
            return Err(LoadError::from(PublicConfigError::Content {
                path: weights.to_owned(),
                reason: format!(
                    "holds {held} numbers, and the description is of a model that needs {needed} at least"
                ),
            }));
        }
        Ok(opened)
    }

    /// The weights of embeddings and blocks: slightly fewer than the model has.
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
            Self::Backbone(model) => {
                let streams = model.fusion.as_ref().map_or(0, |fusion| {
                    blocks(fusion.layers, fusion.width, fusion.feed_forward, 1).saturating_mul(2)
                });
                let stream = model.joint.as_ref().map_or(0, |joint| {
                    let codes = joint
                        .grounding
                        .as_ref()
                        .map_or(0, |grounding| grounding.codes);
                    blocks(joint.layers, joint.width, joint.feed_forward, 1)
                        .saturating_mul(joint.sets() as u128)
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
}

//! A model that writes captions, with its tokenizer: what `unimo caption` and the evaluation of captions share.

use unimo_batch::ConfigError;
use unimo_data::TextTokenizer;
use unimo_encoders::features::ImageFeatures;
use unimo_objectives::generation::{Generated, GenerationConfig, Vocabulary, Writer, Written};

use crate::error::TrainError;
use crate::model::Model;

/// A model that writes captions.
pub struct Captioner<'a> {
    writer: Writer<'a>,
    tokenizer: &'a TextTokenizer,
    vocabulary: Vocabulary,
    config: GenerationConfig,
}

/// A caption as text.
#[derive(Debug, Clone, PartialEq)]
pub struct Caption {
    /// What it says.
    pub text: String,
    /// How the search found it.
    pub generated: Generated,
}

/// The tokens before a caption: the begin token.
const PROMPT: usize = 1;

impl<'a> Captioner<'a> {
    /// A model's captioner; `None` if it was not trained with `[objectives.lm]` on captions (stories are no captions), or has no cross-modal
    /// encoder to see images with.
    ///
    /// # Errors
    ///
    /// A setting of the search is not allowed, or asks for longer captions than the text encoder has positions.
    pub fn new(
        model: &'a Model,
        tokenizer: &'a TextTokenizer,
        config: &GenerationConfig,
    ) -> Result<Option<Self>, ConfigError> {
        let backbone = &model.backbone;
        let sees = backbone.fusion.is_some() || backbone.joint.is_some();
        let lm = model.objectives.lm.as_ref().filter(|_| sees);
        let Some(lm) = lm.filter(|lm| !lm.config.stories) else {
            return Ok(None);
        };
        let writer = Writer {
            backbone,
            head: &lm.head,
        };
        config.validate()?;
        let longest = writer.longest(PROMPT);
        ConfigError::unless(
            config.max_length <= longest,
            "max_length",
            config.max_length,
            format_args!("must be at most {longest}, the positions of the text encoder"),
        )?;
        let [rows, _] = backbone.text.word_embedding.weight.dims();
        Ok(Some(Self {
            writer,
            vocabulary: vocabulary(tokenizer, rows),
            tokenizer,
            config: config.clone(),
        }))
    }

    /// A caption for each image. `numbers` counts them among all that are captioned: what is drawn at random for an image follows from
    /// its number.
    ///
    /// # Errors
    ///
    /// The model gives scores that are not finite.
    pub fn captions(
        &self,
        images: &ImageFeatures,
        numbers: &[usize],
    ) -> Result<Vec<Caption>, TrainError> {
        let streams: Vec<u64> = numbers.iter().map(|image| *image as u64).collect();
        let written = Written {
            prompt: &[self.tokenizer.specials().bos],
            vocabulary: &self.vocabulary,
            config: &self.config,
        };
        let found = self.writer.captions(images, &streams, &written);
        let found = found.map_err(|error| TrainError::Check(error.to_string()))?;
        let caption = |generated: Generated| Caption {
            text: self.tokenizer.decode(&generated.tokens),
            generated,
        };
        Ok(found.into_iter().map(caption).collect())
    }
}

/// What a caption may hold: every token of the tokenizer that is no special one. An embedding may have further rows.
fn vocabulary(tokenizer: &TextTokenizer, rows: usize) -> Vocabulary {
    let end = tokenizer.specials().eos;
    let is_none = |id: i32| id as usize >= tokenizer.vocab_size() || tokenizer.is_special(id);
    let forbidden = (0..rows as i32).filter(|id| *id != end && is_none(*id));
    Vocabulary {
        end,
        forbidden: forbidden.collect(),
    }
}

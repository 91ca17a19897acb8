//! BERT and RoBERTa, and CLIP's text tower.
//!
//! Source: Devlin et al. 2019, Liu et al. 2019; layout as Hugging Face's `BertModel` and `RobertaModel` without pooler. CLIP's tower
//! (Radford et al. 2021) has its norms before each layer and reads from left to right. It has no types of tokens, and its state at the
//! last token stands for the text. [`crate::clip`] is the whole of CLIP as public checkpoints hold it; here is the tower that is trained.
//!
//! Shape legend: `B` rows, `L` positions, `D` width.

use burn::module::Module;
use burn::tensor::{Device, FloatDType, Int, Tensor, TensorData, assert_shape};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use unimo_batch::registry::{Beside, fields_of};
use unimo_batch::{ConfigError, config};
use unimo_core::attention::KeyValues;
use unimo_core::blocks::{self, BlockConfig, Draws, PostNormBlock, PreNormBlock};
use unimo_core::dtype::{cast, same_dtype};
use unimo_core::init::Init;
use unimo_core::layers::{Activation, Dropout, Embedding, LayerNorm};
use unimo_core::mask::{Hidden, PaddingMask, PairMask};
use unimo_core::outside::Outside;

use crate::registry;
use crate::registry::text::{OutsideText, TextModel, TextModelConfig};
use crate::sizes;

/// How positions are numbered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Positions {
    /// BERT: 0, 1, 2, ...
    FromZero,
    /// RoBERTa: text counts from `pad_id + 1`; padding has position `pad_id`.
    AfterPad,
}

impl Positions {
    /// How many rows of a position embedding text can use.
    fn leave(self, rows: usize, pad_id: usize) -> usize {
        match self {
            Self::FromZero => rows,
            Self::AfterPad => rows.saturating_sub(pad_id + 1),
        }
    }
}

/// What kind of text encoder it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TextTower {
    /// BERT or RoBERTa: words see all others, and the first token stands for the text.
    #[default]
    Bert,
    /// CLIP's tower: words see those before them, and the last token stands for the text.
    Clip,
}

impl TextTower {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// A text encoder.
// The derived reader and writer know no registered blocks; those below do, and are the ones that serde calls.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(remote = "Self", deny_unknown_fields)]
pub struct TextEncoderConfig {
    /// What kind of encoder it is: `bert` (RoBERTa too), or `clip`, CLIP's text tower.
    #[serde(default, skip_serializing_if = "TextTower::is_default")]
    pub tower: TextTower,
    /// Rows of the word embedding; at least the tokenizer's vocabulary.
    pub vocab_size: usize,
    /// `D`: numbers of a state.
    pub width: usize,
    /// Number of blocks.
    pub layers: usize,
    /// Attention heads; the width is a multiple of them.
    pub heads: usize,
    /// Inner width of the feed-forward layers.
    pub feed_forward: usize,
    /// Rows of the position embedding. RoBERTa needs `pad_id + 1` more than the longest text.
    pub max_positions: usize,
    /// How positions are numbered.
    pub positions: Positions,
    /// Rows of the token-type embedding: 2 for BERT, 1 for RoBERTa.
    pub token_types: usize,
    /// The id of the padding token.
    pub pad_id: usize,
    /// Activation of the feed-forward layers.
    pub activation: Activation,
    /// Epsilon of every layer norm: 1e-12 for BERT, 1e-5 for RoBERTa.
    pub layer_norm_eps: f64,
    /// Share of dropout on embeddings, attention weights and residual branches, in [0, 1).
    pub dropout: f64,
    /// Drop-path (stochastic depth) on the residual branches of the last block, in [0, 1); it rises linearly from 0 in the first one.
    #[serde(default, skip_serializing_if = "config::is_zero")]
    pub drop_path: f64,
    /// Blocks of another crate, in place of its own.
    #[serde(flatten, skip_deserializing)]
    pub outside: Option<OutsideText>,
}

impl Serialize for TextEncoderConfig {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        TextEncoderConfig::serialize(self, serializer)
    }
}

impl<'de> Deserialize<'de> for TextEncoderConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut found = Vec::new();
        let mut config = TextEncoderConfig::deserialize(Beside {
            deserializer,
            registry: &registry::text::REGISTRY,
            found: &mut found,
        })?;
        config.outside = registry::text::read(found)?;
        Ok(config)
    }
}

/// Makes the blocks of a text encoder of another crate known as `[model.text.KEY]`, in place of its own.
///
/// # Errors
///
/// Others have the key already, or it is a key of `[model.text]`.
pub fn register<C: TextModelConfig>(key: &'static str) -> Result<(), ConfigError> {
    registry::text::add::<C>(key, &fields_of::<TextEncoderConfig>())
}

impl TextEncoderConfig {
    /// Checks every value, alone and against the others.
    pub fn validate(&self) -> Result<(), ConfigError> {
        self.block().validate()?;
        config::positive("vocab_size", self.vocab_size)?;
        sizes::layers(self.layers)?;
        config::positive("token_types", self.token_types)?;
        config::positive("max_positions", self.max_positions)?;
        if self.tower == TextTower::Clip {
            ConfigError::unless(
                self.token_types == 1,
                "token_types",
                self.token_types,
                "must be 1 with tower = \"clip\": CLIP's tower knows no types of tokens",
            )?;
            ConfigError::unless(
                self.positions == Positions::FromZero,
                "positions",
                "after_pad",
                "must be \"from_zero\" with tower = \"clip\"",
            )?;
        }
        if let Some(outside) = &self.outside {
            let key = outside.key();
            ConfigError::unless(
                self.tower == TextTower::Bert,
                "tower",
                "clip",
                format_args!(
                    "must be \"bert\" with [model.text.{key}], whose first state stands for the text"
                ),
            )?;
            ConfigError::unless(
                self.layers > 0,
                "layers",
                self.layers,
                format_args!("must be at least 1: the blocks are those of [model.text.{key}]"),
            )?;
            outside.validate(&self.block())?;
        }
        ConfigError::unless(
            self.pad_id < self.vocab_size,
            "pad_id",
            self.pad_id,
            format_args!("must be below vocab_size = {}", self.vocab_size),
        )?;
        ConfigError::unless(
            self.longest_text() > 0,
            "max_positions",
            self.max_positions,
            "leaves no room for text",
        )
    }

    /// The longest text that the positions hold, in tokens.
    pub fn longest_text(&self) -> usize {
        self.positions.leave(self.max_positions, self.pad_id)
    }

    /// The blocks' sizes.
    fn block(&self) -> BlockConfig {
        BlockConfig {
            width: self.width,
            heads: self.heads,
            feed_forward: self.feed_forward,
            activation: self.activation,
            layer_norm_eps: self.layer_norm_eps,
            dropout: self.dropout,
            drop_path: self.drop_path,
        }
    }

    /// A new encoder.
    pub fn init(&self, init: &mut Init) -> TextEncoder {
        let block = self.block();
        let bert = self.tower == TextTower::Bert;
        let own = self.outside.is_none();
        let count = |is: bool| if is && own { self.layers } else { 0 };
        TextEncoder {
            word_embedding: Embedding::new(init, self.vocab_size, self.width),
            position_embedding: Embedding::new(init, self.max_positions, self.width),
            type_embedding: bert.then(|| Embedding::new(init, self.token_types, self.width)),
            embedding_norm: bert.then(|| LayerNorm::new(init, self.width, self.layer_norm_eps)),
            dropout: Dropout::new(self.dropout),
            layers: (0..count(bert))
                .map(|layer| PostNormBlock::new(init, &block.at(layer, self.layers)))
                .collect(),
            clip: (!bert).then(|| ClipLayers {
                layers: (0..self.layers)
                    .map(|layer| PreNormBlock::new(init, &block.at(layer, self.layers)))
                    .collect(),
                final_norm: LayerNorm::new(init, self.width, self.layer_norm_eps),
            }),
            outside: self
                .outside
                .as_ref()
                .map(|outside| outside.init(&block, self.layers, init)),
            positions: self.positions,
            pad_id: self.pad_id,
            dtype: FloatDType::F32,
        }
    }
}

/// The layers of CLIP's text tower.
#[derive(Module, Debug)]
pub struct ClipLayers {
    /// Blocks.
    pub layers: Vec<PreNormBlock>,
    /// Norm after the blocks.
    pub final_norm: LayerNorm,
}

/// BERT, RoBERTa or CLIP's text tower.
#[derive(Module, Debug)]
pub struct TextEncoder {
    /// `[vocabulary, D]`.
    pub word_embedding: Embedding,
    /// `[positions, D]`.
    pub position_embedding: Embedding,
    /// `[types, D]`; CLIP has none.
    pub type_embedding: Option<Embedding>,
    /// Norm of the sum of the three; CLIP has none.
    pub embedding_norm: Option<LayerNorm>,
    /// Dropout on the embeddings.
    pub dropout: Dropout,
    /// Blocks; CLIP has others.
    pub layers: Vec<PostNormBlock>,
    /// The layers of CLIP, in the place of those blocks.
    pub clip: Option<ClipLayers>,
    /// Those of another crate, in the place of both.
    pub outside: Option<Outside<dyn TextModel>>,
    #[module(skip)]
    positions: Positions,
    pad_id: usize,
    /// The blocks compute in this dtype; parameters stay f32.
    #[module(skip)]
    pub dtype: FloatDType,
}

/// Texts on a device, with positions numbered as the encoder needs them.
#[derive(Debug, Clone)]
pub struct TextInput {
    /// `[B, L]`.
    pub ids: Tensor<2, Int>,
    /// `[B, L]`.
    pub positions: Tensor<2, Int>,
    /// `[B, L]`.
    pub mask: PaddingMask,
    /// `[L, L]`, if not every position may see every other.
    pub pairs: Option<PairMask>,
    /// `[B, L]`: the type of each position; `None`: one type for all, which the reader of the input chooses.
    pub types: Option<Tensor<2, Int>>,
}

impl TextInput {
    /// The same texts for a model without autodiff.
    #[must_use]
    pub fn without_autodiff(&self) -> Self {
        Self {
            ids: self.ids.clone().without_autodiff(),
            positions: self.positions.clone().without_autodiff(),
            mask: self.mask.without_autodiff(),
            pairs: self.pairs.as_ref().map(PairMask::without_autodiff),
            types: self.types.clone().map(Tensor::without_autodiff),
        }
    }

    /// The same texts, read from left to right after their first `prefix` positions.
    pub fn from_left_to_right(self, prefix: usize) -> Self {
        let [_, length] = self.ids.dims();
        let device = self.ids.device();
        Self {
            pairs: Some(PairMask::prefix(length, prefix, &device)),
            ..self
        }
    }
}

impl TextEncoder {
    /// Whether it draws random numbers while autodiff is on: dropout or drop-path is above 0.
    pub fn draws(&self) -> bool {
        let clip = self.clip.as_ref();
        let outside = self.outside.as_ref();
        self.dropout.probability > 0.0
            || self.layers.iter().any(Draws::draws)
            || clip.is_some_and(|clip| clip.layers.iter().any(Draws::draws))
            || outside.is_some_and(|outside| outside.get().draws())
    }

    /// Number of blocks.
    pub fn depth(&self) -> usize {
        let clip = self.clip.as_ref().map(|clip| clip.layers.len());
        let outside = self.outside.as_ref().map(|outside| outside.get().layers());
        clip.or(outside).unwrap_or(self.layers.len())
    }

    /// The state that stands for each text: the first one, or CLIP's at the last token.
    ///
    /// # Shapes
    ///
    /// - state: `[B, L, D]`
    /// - mask: `[B, L]`
    /// - output: `[B, D]`
    pub fn summary(&self, state: &Tensor<3>, mask: &PaddingMask) -> Tensor<2> {
        match &self.clip {
            None => state.clone().narrow(1, 0, 1).squeeze_dim(1),
            Some(_) => last_of_each(state.clone(), mask),
        }
    }

    /// The id of padding.
    pub fn pad_id(&self) -> usize {
        self.pad_id
    }

    /// The longest text that the positions hold, in tokens.
    pub fn longest_text(&self) -> usize {
        let [positions, _] = self.position_embedding.weight.dims();
        self.positions.leave(positions, self.pad_id)
    }

    /// Moves texts to a device.
    ///
    /// # Shapes
    ///
    /// - ids: `[B, L]`, row-major, with `L = length`
    /// - lengths: `[B]`, the leading positions of each row that are text
    pub fn input(
        &self,
        ids: &[i32],
        lengths: &[usize],
        length: usize,
        device: &Device,
    ) -> TextInput {
        let rows = lengths.len();
        let positions = self.numbers(lengths, length, &[]);
        TextInput {
            ids: Tensor::from_data(TensorData::new(ids.to_vec(), [rows, length]), device),
            positions: Tensor::from_data(TensorData::new(positions, [rows, length]), device),
            mask: PaddingMask::from_lengths(lengths, length, device),
            pairs: None,
            types: None,
        }
    }

    /// The number of each position, `[B, L]`, row-major. Behind the place in `restarts` numbers begin anew.
    fn numbers(&self, lengths: &[usize], length: usize, restarts: &[usize]) -> Vec<i32> {
        let offset = match self.positions {
            Positions::FromZero => 0,
            Positions::AfterPad => self.pad_id + 1,
        };
        let mut numbers = Vec::with_capacity(lengths.len() * length);
        for (row, &real) in lengths.iter().enumerate() {
            let restart = restarts.get(row).copied().unwrap_or(length);
            numbers.extend((0..length).map(|i| match self.positions {
                Positions::AfterPad if i >= real => self.pad_id as i32,
                _ if i >= restart => (i - restart + offset) as i32,
                _ => (i + offset) as i32,
            }));
        }
        numbers
    }

    /// The same texts with positions numbered anew from a place in each of them on, for texts whose two parts share positions. No places
    /// are no change.
    ///
    /// # Shapes
    ///
    /// - lengths: `[B]`, as [`input`](Self::input) was given them
    /// - restarts: `[B]`, or empty
    pub fn with_restarts(
        &self,
        input: TextInput,
        lengths: &[usize],
        restarts: &[usize],
    ) -> TextInput {
        if restarts.is_empty() {
            return input;
        }
        let [rows, length] = input.ids.dims();
        let numbers = TensorData::new(self.numbers(lengths, length, restarts), [rows, length]);
        TextInput {
            positions: Tensor::from_data(numbers, &input.ids.device()),
            ..input
        }
    }

    /// Gives each position its type, for pairs of sentences. An encoder with one type (RoBERTa) marks none of them, and no types given
    /// are no change.
    ///
    /// # Shapes
    ///
    /// - segments: `[B, L]`, row-major, or empty
    pub fn with_segments(&self, input: TextInput, segments: Vec<i32>) -> TextInput {
        let types = self.type_embedding.as_ref();
        let types = types.map_or(1, |types| types.weight.dims()[0]);
        if segments.is_empty() || types < 2 {
            return input;
        }
        let segments = TensorData::new(segments, input.ids.dims());
        TextInput {
            types: Some(Tensor::from_data(segments, &input.ids.device())),
            ..input
        }
    }

    /// The input of the blocks: words, their types, which are `kind` for all if the input does not say them, and their positions.
    ///
    /// # Shapes
    ///
    /// - ids, positions: `[B, L]`
    /// - output: `[B, L, D]`
    ///
    /// # Panics
    ///
    /// Panics if there is no type `kind`.
    pub fn embed(&self, input: &TextInput, kind: usize) -> Tensor<3> {
        let [rows, length] = input.ids.dims();
        assert_shape!(input.positions, [rows, length]);
        let words = self.word_embedding.forward(input.ids.clone());
        let words = match (&self.type_embedding, &input.types) {
            (None, _) => words,
            (Some(own), Some(types)) => words + own.forward(types.clone()),
            (Some(own), None) => words + own.entry(kind),
        };
        let embedded = words + self.position_embedding.forward(input.positions.clone());
        let embedded = self.normed(embedded);
        cast(self.dropout.forward(embedded), self.dtype)
    }

    /// States of another encoder as the input of the blocks, numbered like words: their positions, without a word and a type.
    ///
    /// # Shapes
    ///
    /// - states, output: `[B, L, D]`
    ///
    /// # Panics
    ///
    /// Panics if there are more positions than [`longest_text`](Self::longest_text).
    pub fn embed_states(&self, states: Tensor<3>) -> Tensor<3> {
        let [_, length, width] = states.dims();
        assert!(
            length <= self.longest_text(),
            "there are no {length} positions"
        );
        let first = match self.positions {
            Positions::FromZero => 0,
            Positions::AfterPad => self.pad_id + 1,
        };
        let rows = self.position_embedding.weight.val();
        let rows = rows.narrow(0, first, length).reshape([1, length, width]);
        let embedded = self.normed(states.clone() + same_dtype(rows, &states));
        cast(self.dropout.forward(embedded), self.dtype)
    }

    /// The norm of the embeddings, if there is one.
    fn normed(&self, embedded: Tensor<3>) -> Tensor<3> {
        match &self.embedding_norm {
            Some(norm) => norm.forward(embedded),
            None => embedded,
        }
    }

    /// The states after the last `keep` blocks, in order. If `keep` exceeds the number of blocks, the embeddings come
    /// first. CLIP's last state is after its final norm.
    ///
    /// # Shapes
    ///
    /// - ids, positions, mask: `[B, L]`
    /// - output: `keep` times `[B, L, D]`
    pub fn forward(&self, input: &TextInput, keep: usize) -> Vec<Tensor<3>> {
        let x = self.embed(input, 0);
        if let Some(clip) = &self.clip {
            let [_, length] = input.ids.dims();
            let causal = PairMask::causal(length, &input.ids.device());
            let hidden = Hidden {
                keys: Some(&input.mask),
                pairs: Some(&causal),
            };
            let mut states =
                blocks::last_states(&clip.layers, x, keep, |block, x| block.forward(x, hidden));
            if let Some(last) = states.last_mut() {
                *last = clip.final_norm.forward(last.clone());
            }
            return states;
        }
        let hidden = Hidden {
            keys: Some(&input.mask),
            pairs: input.pairs.as_ref(),
        };
        if let Some(outside) = &self.outside {
            let states = outside.get().forward(x, hidden, keep);
            assert_eq!(states.len(), keep, "states of `{}`", outside.key());
            return states;
        }
        blocks::last_states(&self.layers, x, keep, |block, x| block.forward(x, hidden))
    }

    /// Reads one more word of each text; it sees the words `before`, which it joins. The states are those of
    /// [`forward`](Self::forward) for texts that are read from left to right, up to rounding.
    ///
    /// # Shapes
    ///
    /// - words: `R`, each the word at `position` of its text, counted from 0
    /// - before: one entry per block, none of them read if `position` is 0
    /// - output: `keep` times `[R, 1, D]`
    ///
    /// # Panics
    ///
    /// Panics if there is no such position, see [`longest_text`](Self::longest_text).
    pub fn read_on(
        &self,
        words: &[i32],
        position: usize,
        keep: usize,
        before: &mut [Option<KeyValues>],
    ) -> Vec<Tensor<3>> {
        assert!(
            position < self.longest_text(),
            "there is no position {position}"
        );
        let device = self.word_embedding.weight.device();
        let rows = words.len();
        let mut input = self.input(words, &vec![1; rows], 1, &device);
        input.positions = input.positions.add_scalar(position as i64);
        let mut before = before.iter_mut();
        let x = self.embed(&input, 0);
        blocks::last_states(&self.layers, x, keep, |block, x| {
            let before = before
                .next()
                .expect("invariant: there is one for each block");
            block.read_on(x, before, None)
        })
    }
}

/// The state at the last position of each row that is not hidden.
///
/// # Shapes
///
/// - state: `[B, L, D]`
/// - mask: `[B, L]`
/// - output: `[B, D]`
pub(crate) fn last_of_each(state: Tensor<3>, mask: &PaddingMask) -> Tensor<2> {
    let [rows, length, width] = state.dims();
    let device = state.device();
    let shown = mask.hidden().bool_not().int().sum_dim(1).reshape([rows]);
    let first: Vec<i32> = (0..rows).map(|row| (row * length) as i32 - 1).collect();
    let first = Tensor::<1, Int>::from_data(TensorData::new(first, [rows]), &device);
    state
        .reshape([rows * length, width])
        .select(0, first + shown)
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    use burn::tensor::Tolerance;

    use super::*;

    /// f32 rounding over two blocks of width 8.
    const TOLERANCE: f64 = 1e-5;

    pub(crate) fn config() -> TextEncoderConfig {
        TextEncoderConfig {
            tower: TextTower::Bert,
            vocab_size: 20,
            width: 8,
            layers: 2,
            heads: 2,
            feed_forward: 16,
            max_positions: 12,
            positions: Positions::AfterPad,
            token_types: 1,
            pad_id: 1,
            activation: Activation::Gelu,
            layer_norm_eps: 1e-5,
            dropout: 0.0,
            drop_path: 0.0,
            outside: None,
        }
    }

    #[test]
    fn padding_changes_nothing() {
        let device = Device::flex();
        for positions in [Positions::FromZero, Positions::AfterPad] {
            let config = TextEncoderConfig {
                positions,
                ..config()
            };
            let encoder = config.init(&mut Init::new(&device, 1));
            let short = encoder.input(&[0, 7, 2], &[3], 3, &device);
            let long = encoder.input(&[0, 7, 2, 1, 1], &[3], 5, &device);
            let short = encoder.forward(&short, 1).remove(0);
            let long = encoder.forward(&long, 1).remove(0).narrow(1, 0, 3);
            short
                .into_data()
                .assert_approx_eq::<f32>(&long.into_data(), Tolerance::absolute(TOLERANCE));
        }
    }

    #[test]
    fn keeps_the_states_asked_for() {
        let device = Device::flex();
        let encoder = config().init(&mut Init::new(&device, 1));
        let input = encoder.input(&[0, 7, 2], &[3], 3, &device);
        let all = encoder.forward(&input, 3);
        assert_eq!(all.len(), 3);
        let last = encoder.forward(&input, 1);
        assert_eq!(last.len(), 1);
        last[0].to_data().assert_eq(&all[2].to_data(), true);
    }

    #[test]
    fn validation_names_the_key() {
        let wrong = TextEncoderConfig {
            max_positions: 2,
            ..config()
        };
        assert_eq!(wrong.validate().unwrap_err().key, "max_positions");
    }
}

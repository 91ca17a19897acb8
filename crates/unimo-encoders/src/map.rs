//! An agent that follows an instruction over a map of what it has seen (WS-MGMap, Chen et al. 2022).
//!
//! The map is egocentric: the agent stands in its middle. It is read in two granularities. The **fine layer** is the map itself, in patches
//! of cells. The **semantic layer** is hallucinated: the classes of all cells, seen or not, as they are predicted from the fine tokens.
//! Together they are the tokens `G`. At each decision the state looks up what the instruction says now, and that looks up where it is:
//!
//! ```text
//! s = Memory(W [mean of the view, mean of G] + step)        causal over the decisions of the episode
//! t = sum_l softmax_l((Wq s) · (Wk I_l) / sqrt(D)) I_l      I: states of the instruction, padding hidden
//! a = softmax_p((Wq t) · (Wk G_p) / sqrt(D))                no token is hidden, those never seen neither
//! m = sum_p a_p G_p
//! x = Memory'(ReLU(W [s, t, m]))                            what the heads of objectives read
//! ```
//!
//! Source: the paper's released code, read as `docs/SYSTEMS.md` says. Ours: patches and blocks of a ViT in the place of convolutions, causal
//! attention over decisions in the place of the two GRUs, places added to `G` (convolutions see the border), the text encoder in the place of
//! the LSTM, and a view that is read by blocks that learn.
//!
//! Shape legend: `B` episodes, `T` decisions of all episodes, `S` decisions of the longest, `L` text length, `C` channels, `M` cells on a side,
//! `P` tokens of the map, `N` cells on a side of the semantic layer, `K` classes, `H x W` pixels of a view, `D` width, `Dt` width of the text.

mod episodes;
mod patches;

use burn::module::{Module, Param};
use burn::tensor::{DType, Device, FloatDType, Int, Tensor, TensorData, activation, assert_shape};
use serde::{Deserialize, Serialize};
use unimo_batch::{ConfigError, Walks, config};
use unimo_core::blocks::{BlockConfig, PreNormBlock};
use unimo_core::dtype::{cast, same_dtype};
use unimo_core::init::Init;
use unimo_core::layers::{Activation, LayerNorm, Linear};
use unimo_core::lookup::Lookup;

pub use self::episodes::Memory;
pub use self::patches::{Grid, PatchEncoder};
use crate::features::TextFeatures;
use crate::map::episodes::Episodes;

/// Channels of a view: red, green, blue and depth.
const VIEW_CHANNELS: usize = 4;

/// `[model.map]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MapConfig {
    /// `M`: cells on a side of the map; 100 in WS-MGMap.
    pub cells: usize,
    /// `C`: channels of a cell; 64 in WS-MGMap.
    pub channels: usize,
    /// Cells on a side of a patch, which becomes a token; divides the cells.
    pub patch_size: usize,
    /// Whether the fine layer is among the tokens.
    #[serde(default = "yes", skip_serializing_if = "is_yes")]
    pub fine: bool,
    /// Blocks that read the map's patches.
    pub fine_layers: usize,
    /// The semantic layer; absent: there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub semantic: Option<SemanticConfig>,
    /// What the agent sees now; absent: it is not read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub view: Option<ViewConfig>,
    /// Blocks of each of the two memories over decisions.
    pub memory_layers: usize,
    /// The most decisions of an episode.
    pub steps: usize,
    /// `D`: numbers of a token and of a state; 256 and 512 in WS-MGMap.
    pub width: usize,
    /// Attention heads of all blocks; the width is a multiple of them.
    pub heads: usize,
    /// Inner width of the feed-forward layers.
    pub feed_forward: usize,
    /// Activation of the feed-forward layers.
    pub activation: Activation,
    /// Epsilon of every layer norm.
    pub layer_norm_eps: f64,
    /// Share of dropout on embeddings, attention weights and residual branches, in [0, 1).
    pub dropout: f64,
}

/// `[model.map.semantic]`: the classes of the map's cells.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SemanticConfig {
    /// `K`: classes of a cell, void among them; 27 in WS-MGMap.
    pub classes: usize,
    /// `N`: cells on a side of the layer, a multiple of the map's patches on a side; 48 in WS-MGMap.
    pub cells: usize,
    /// Blocks between the fine tokens and the classes.
    pub layers: usize,
    /// Whether cells that were never seen have classes too (hallucination). If not, they have none, and are not learned.
    #[serde(default = "yes", skip_serializing_if = "is_yes")]
    pub unseen: bool,
}

/// `[model.map.view]`: what the agent sees now, in colour and depth.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ViewConfig {
    /// `H` and `W`: rows and columns of pixels.
    pub image_size: [usize; 2],
    /// Pixels on a side of a patch; divides both.
    pub patch_size: usize,
    /// Blocks that read the patches.
    pub layers: usize,
}

fn yes() -> bool {
    true
}

fn is_yes(value: &bool) -> bool {
    *value
}

impl MapConfig {
    /// Checks every value, alone and against the others.
    pub fn validate(&self) -> Result<(), ConfigError> {
        self.block().validate()?;
        for (key, value) in [
            ("cells", self.cells),
            ("channels", self.channels),
            ("patch_size", self.patch_size),
            ("steps", self.steps),
            ("memory_layers", self.memory_layers),
        ] {
            config::positive(key, value)?;
        }
        ConfigError::unless(
            self.width.is_multiple_of(2),
            "width",
            self.width,
            "must be even: each layer of the map is half of it",
        )?;
        ConfigError::unless(
            self.cells.is_multiple_of(self.patch_size),
            "patch_size",
            self.patch_size,
            format_args!("must divide cells = {}", self.cells),
        )?;
        if let Some(semantic) = &self.semantic {
            let grid = self.grid();
            ConfigError::unless(
                semantic.classes > 1,
                "semantic.classes",
                semantic.classes,
                "must be at least 2: void is one of them",
            )?;
            ConfigError::unless(
                semantic.cells > 0 && semantic.cells.is_multiple_of(grid),
                "semantic.cells",
                semantic.cells,
                format_args!("must be a multiple of {grid}, the patches on a side of the map"),
            )?;
        }
        if let Some(view) = &self.view {
            config::positive("view.patch_size", view.patch_size)?;
            for pixels in view.image_size {
                ConfigError::unless(
                    pixels > 0 && pixels.is_multiple_of(view.patch_size),
                    "view.image_size",
                    format_args!("{:?}", view.image_size),
                    format_args!(
                        "must be two multiples of view.patch_size = {}",
                        view.patch_size
                    ),
                )?;
            }
        }
        Ok(())
    }

    /// Patches on a side of the map.
    pub fn grid(&self) -> usize {
        self.cells / self.patch_size
    }

    /// Whether the agent reads its map, in one granularity or in both.
    pub fn reads_map(&self) -> bool {
        self.fine || self.semantic.is_some()
    }

    fn block(&self) -> BlockConfig {
        BlockConfig {
            width: self.width,
            heads: self.heads,
            feed_forward: self.feed_forward,
            activation: self.activation,
            layer_norm_eps: self.layer_norm_eps,
            dropout: self.dropout,
            drop_path: 0.0,
        }
    }

    /// A new agent over texts of this width.
    pub fn init(&self, init: &mut Init, text_width: usize) -> MapEncoder {
        let (width, block) = (self.width, self.block());
        let tokens = self.reads_map().then(|| {
            let size = Grid {
                channels: self.channels,
                sides: [self.cells; 2],
                patch: self.patch_size,
            };
            let fine = PatchEncoder::new(init, &block, size, self.fine_layers);
            let semantic = self.semantic.as_ref();
            let semantic = semantic.map(|semantic| semantic.init(init, &block, self.grid()));
            let parts = usize::from(self.fine) + usize::from(semantic.is_some());
            MapTokens {
                fine,
                semantic,
                fine_half: self.fine.then(|| Linear::new(init, width, width / 2, true)),
                both: Linear::new(init, parts * (width / 2), width, true),
                places: init.normal([self.grid() * self.grid(), width]),
            }
        });
        let view = self.view.as_ref().map(|view| {
            let size = Grid {
                channels: VIEW_CHANNELS,
                sides: view.image_size,
                patch: view.patch_size,
            };
            PatchEncoder::new(init, &block, size, view.layers)
        });
        let senses = usize::from(tokens.is_some()) + usize::from(view.is_some());
        let found = if tokens.is_some() { width } else { 0 };
        MapEncoder {
            sensed: (senses > 0).then(|| Linear::new(init, senses * width, width, true)),
            step_embedding: init.normal([self.steps, width]),
            state: Memory::new(init, &block, self.memory_layers),
            words: Lookup::new(init, [width, text_width], width),
            places: tokens
                .is_some()
                .then(|| Lookup::new(init, [text_width, width], width)),
            joined: Linear::new(init, width + text_width + found, width, true),
            output: Memory::new(init, &block, self.memory_layers),
            tokens,
            view,
            dtype: FloatDType::F32,
            config: self.clone(),
        }
    }
}

impl SemanticConfig {
    fn init(&self, init: &mut Init, block: &BlockConfig, grid: usize) -> SemanticLayer {
        let side = self.cells / grid;
        let width = block.width;
        SemanticLayer {
            layers: (0..self.layers)
                .map(|_| PreNormBlock::new(init, block))
                .collect(),
            norm: LayerNorm::new(init, width, block.layer_norm_eps),
            classes: Linear::new(init, width, side * side * self.classes, true),
            half: Linear::new(init, self.classes, width / 2, true),
        }
    }
}

/// The two granularities of the map.
#[derive(Module, Debug)]
pub struct MapTokens {
    /// Reads the map's patches.
    pub fine: PatchEncoder,
    /// Predicts the classes of all cells.
    pub semantic: Option<SemanticLayer>,
    /// `D -> D / 2`, of the fine tokens; `None` if they are no layer of their own.
    pub fine_half: Option<Linear>,
    /// `D / 2` of each layer `-> D`.
    pub both: Linear,
    /// `[P, D]`: where each token is.
    pub places: Param<Tensor<2>>,
}

/// The semantic layer.
#[derive(Module, Debug)]
pub struct SemanticLayer {
    /// Blocks over the fine tokens.
    pub layers: Vec<PreNormBlock>,
    /// Norm after the blocks.
    pub norm: LayerNorm,
    /// `D -> n * n * K`, the cells of a patch row by row.
    pub classes: Linear,
    /// `K -> D / 2`.
    pub half: Linear,
}

/// An agent that follows an instruction over a map.
#[derive(Module, Debug)]
pub struct MapEncoder {
    /// The map; `None` if it is not read.
    pub tokens: Option<MapTokens>,
    /// What is seen now; `None` if it is not read.
    pub view: Option<PatchEncoder>,
    /// `D` of each sense `-> D`; `None` if the agent has none.
    pub sensed: Option<Linear>,
    /// `[steps, D]`.
    pub step_embedding: Param<Tensor<2>>,
    /// The state: a memory of what was sensed.
    pub state: Memory,
    /// What the instruction says now.
    pub words: Lookup,
    /// Where that is on the map; `None` without one.
    pub places: Option<Lookup>,
    /// State, words and place `-> D`.
    pub joined: Linear,
    /// A memory of all three.
    pub output: Memory,
    /// The blocks compute in this dtype; parameters stay f32.
    #[module(skip)]
    pub dtype: FloatDType,
    /// The configuration that it was made from.
    #[module(skip)]
    pub config: MapConfig,
}

/// Decisions on a device, as far as the agent reads them.
#[derive(Debug, Clone)]
pub struct WalkInput {
    /// `[B]`: the decisions of each episode.
    pub steps: Vec<usize>,
    /// `[T, C, M, M]`, from 0 to 1.
    maps: Option<Tensor<4>>,
    /// `[T, N * N, 1]`: 1 where a cell was seen, or 0.
    seen: Option<Tensor<3>>,
    /// `[T, 4, H, W]`, from -1 to 1.
    views: Option<Tensor<4>>,
}

/// What comes of each decision.
#[derive(Debug, Clone)]
pub struct WalkFeatures {
    /// `[T, D]`: what heads read.
    pub states: Tensor<2>,
    /// `[T, P]`: where the agent looks on the map, rows sum to 1; `None` without a map.
    pub attention: Option<Tensor<2>>,
    /// `[T, N * N, K]`: the classes of all cells before a softmax, row by row; `None` without a semantic layer.
    pub semantic: Option<Tensor<3>>,
}

/// What an agent remembers of its earlier decisions, for one more.
#[derive(Debug, Clone, Default)]
pub struct History {
    /// `[B, S, D]`: what it sensed; `None` before the first decision.
    sensed: Option<Tensor<3>>,
    /// `[B, S, D]`: state, words and place.
    joined: Option<Tensor<3>>,
}

impl History {
    /// The number of decisions.
    pub fn steps(&self) -> usize {
        self.sensed.as_ref().map_or(0, |x| x.dims()[1])
    }

    /// The given episodes, in that order.
    pub fn select(&mut self, rows: &Tensor<1, Int>) {
        for part in [&mut self.sensed, &mut self.joined] {
            *part = part.take().map(|x| x.select(0, rows.clone()));
        }
    }
}

/// What is known of decisions by themselves, whatever came before.
struct Perceived {
    /// `[T, P, D]`: the tokens of the map.
    tokens: Option<Tensor<3>>,
    /// `[T, N * N, K]`.
    semantic: Option<Tensor<3>>,
    /// `[T, D]`: what the memory is told.
    sensed: Option<Tensor<2>>,
}

impl MapEncoder {
    /// Whether it can read these episodes: they are of its sizes, and none is longer than it allows.
    pub fn takes(&self, walks: &Walks) -> bool {
        let config = &self.config;
        let map = !config.reads_map()
            || (walks.cells == config.cells && walks.channels == config.channels);
        let view = config.view.as_ref();
        let view = view.is_none_or(|view| view.image_size == [walks.height, walks.width]);
        let most = walks.steps.iter().copied().max().unwrap_or(0);
        map && view && walks.decisions() > 0 && most <= config.steps
    }

    /// Whether what is told of the cells of these episodes are the classes of its semantic layer.
    pub fn knows_classes(&self, walks: &Walks) -> bool {
        let both = self.config.semantic.as_ref().zip(walks.targets.as_ref());
        both.is_some_and(|(own, given)| own.classes == given.class_count)
    }

    /// Moves decisions to a device.
    ///
    /// # Shapes
    ///
    /// - walks: `T` decisions
    pub fn input(&self, walks: &Walks, device: &Device) -> WalkInput {
        let decisions = walks.decisions();
        let config = &self.config;
        let maps = config.reads_map().then(|| {
            let shape = [decisions, walks.channels, walks.cells, walks.cells];
            shares(&walks.maps, shape, device)
        });
        let unseen = config.semantic.as_ref().filter(|semantic| !semantic.unseen);
        let seen = unseen.map(|semantic| {
            let to = semantic.cells;
            let seen = nearest(&walks.seen, walks.cells, to).map(f32::from);
            let seen = TensorData::new(seen.collect(), [decisions, to * to, 1]);
            Tensor::from_data(seen, device)
        });
        let views = config.view.as_ref().map(|_| {
            let shape = [decisions, VIEW_CHANNELS, walks.height, walks.width];
            shares(&walks.views, shape, device) * 2.0 - 1.0
        });
        WalkInput {
            steps: walks.steps.clone(),
            maps,
            seen,
            views,
        }
    }

    /// All decisions of episodes that are known to their end. A decision depends on none that follow it.
    ///
    /// # Shapes
    ///
    /// - texts: `B` rows
    /// - input: `T` decisions
    pub fn forward(&self, texts: &TextFeatures, input: &WalkInput) -> WalkFeatures {
        let (words, mask) = (instruction(texts), &texts.mask);
        let [episodes, length, _] = words.dims();
        assert_eq!(
            input.steps.len(),
            episodes,
            "an instruction for each episode"
        );
        assert_eq!(mask.dims(), [episodes, length], "mask must be [rows, keys]");
        let perceived = self.perceive(input);
        let episodes = Episodes::new(&input.steps, &words.device());
        let steps = self.step_embedding.val().select(0, episodes.numbers());
        let sensed = self.at_step(perceived.sensed, steps);
        let hidden = episodes.mask();
        let states = self.state.forward(episodes.padded(sensed), Some(&hidden));
        let (read, _) = self.words.forward(states.clone(), words, Some(mask));
        let read = episodes.flat(read);
        let (joined, attention) = self.join(episodes.flat(states), read, perceived.tokens);
        let states = self.output.forward(episodes.padded(joined), Some(&hidden));
        WalkFeatures {
            states: episodes.flat(states),
            attention,
            semantic: perceived.semantic,
        }
    }

    /// One more decision of each of some episodes that have made as many before, which are kept in `history`. It is what
    /// [`forward`](Self::forward) makes of the last one.
    ///
    /// # Shapes
    ///
    /// - texts: `B` rows
    /// - input: `B` decisions, one of each episode
    ///
    /// # Panics
    ///
    /// Panics if there were as many decisions as the configuration allows.
    pub fn decide(
        &self,
        texts: &TextFeatures,
        input: &WalkInput,
        history: &mut History,
    ) -> WalkFeatures {
        let words = instruction(texts);
        let [rows, _, _] = words.dims();
        assert_eq!(input.steps, vec![1; rows], "one decision of each episode");
        let step = history.steps();
        assert!(step < self.config.steps, "decision {step} of an episode");
        let perceived = self.perceive(input);
        let of_step = self.step_embedding.val().narrow(0, step, 1);
        let of_step = of_step.expand([rows, self.config.width]);
        let sensed = self.at_step(perceived.sensed, of_step);
        let states = last(&self.state, sensed, &mut history.sensed);
        let query = states.clone().unsqueeze_dim(1);
        let (read, _) = self.words.forward(query, words, Some(&texts.mask));
        let (joined, attention) = self.join(states, read.squeeze_dim(1), perceived.tokens);
        WalkFeatures {
            states: last(&self.output, joined, &mut history.joined),
            attention,
            semantic: perceived.semantic,
        }
    }

    /// The map and the view of each decision.
    fn perceive(&self, input: &WalkInput) -> Perceived {
        let (mut tokens, mut semantic, mut senses) = (None, None, Vec::new());
        if let (Some(view), Some(views)) = (&self.view, &input.views) {
            senses.push(mean(view.forward(cast(views.clone(), self.dtype))));
        }
        if let (Some(own), Some(maps)) = (&self.tokens, &input.maps) {
            let fine = own.fine.forward(cast(maps.clone(), self.dtype));
            let mut parts = Vec::new();
            if let Some(half) = &own.fine_half {
                parts.push(half.forward(fine.clone()));
            }
            if let Some(layer) = &own.semantic {
                let grid = self.config.grid();
                let (logits, half) = layer.forward(fine, grid, input.seen.as_ref());
                parts.push(half);
                semantic = Some(logits);
            }
            let both = self.config.activation.forward(Tensor::cat(parts, 2));
            let both = own.both.forward(both);
            let places = same_dtype(own.places.val(), &both).unsqueeze::<3>();
            let both = both + places;
            senses.push(mean(both.clone()));
            tokens = Some(both);
        }
        let sensed = self.sensed.as_ref();
        Perceived {
            tokens,
            semantic,
            sensed: sensed.map(|sensed| sensed.forward(Tensor::cat(senses, 1))),
        }
    }

    /// What was sensed, with the number of the step.
    ///
    /// # Shapes
    ///
    /// - sensed, steps, output: `[T, D]`
    fn at_step(&self, sensed: Option<Tensor<2>>, steps: Tensor<2>) -> Tensor<2> {
        let steps = cast(steps, self.dtype);
        match sensed {
            Some(sensed) => sensed + steps,
            None => steps,
        }
    }

    /// Looks up on the map what the words say, and joins it with state and words.
    ///
    /// # Shapes
    ///
    /// - states: `[T, D]`
    /// - words: `[T, Dt]`
    /// - tokens: `[T, P, D]`
    /// - output: `[T, D]` and `[T, P]`
    fn join(
        &self,
        states: Tensor<2>,
        words: Tensor<2>,
        tokens: Option<Tensor<3>>,
    ) -> (Tensor<2>, Option<Tensor<2>>) {
        let [decisions, _] = states.dims();
        assert_shape!(words, [decisions, _]);
        let mut parts = vec![states, words.clone()];
        let mut attention = None;
        if let (Some(places), Some(tokens)) = (&self.places, tokens) {
            let (found, weights) = places.forward(words.unsqueeze_dim(1), tokens, None);
            parts.push(found.squeeze_dim(1));
            attention = Some(weights.squeeze_dim(1));
        }
        let joined = self.joined.forward(Tensor::cat(parts, 1));
        (activation::relu(joined), attention)
    }
}

impl SemanticLayer {
    /// The classes of all cells, and the layer that they make.
    ///
    /// # Shapes
    ///
    /// - fine: `[T, P, D]` with `P = grid * grid`
    /// - seen: `[T, N * N, 1]`
    /// - output: `[T, N * N, K]` and `[T, P, D / 2]`
    fn forward(
        &self,
        fine: Tensor<3>,
        grid: usize,
        seen: Option<&Tensor<3>>,
    ) -> (Tensor<3>, Tensor<3>) {
        let [rows, tokens, _] = fine.dims();
        assert_shape!(fine, [rows, grid * grid, _]);
        let read = self
            .layers
            .iter()
            .fold(fine, |x, block| block.forward(x, None));
        let logits = self.classes.forward(self.norm.forward(read));
        let [classes, _] = self.half.weight.dims();
        let [_, _, outputs] = logits.dims();
        let side = (outputs / classes).isqrt();
        let cells = grid * side;
        // [T, G, G, n, n, K] -> [T, G, n, G, n, K]
        let logits = logits
            .reshape([rows, grid, grid, side, side, classes])
            .swap_dims(2, 3)
            .reshape([rows, cells * cells, classes]);
        let shown = match seen {
            Some(seen) => logits.clone() * cast(seen.clone(), logits.dtype().into()),
            None => logits.clone(),
        };
        let of_patch = shown
            .reshape([rows, grid, side, grid, side, classes])
            .swap_dims(2, 3)
            .reshape([rows, tokens, side * side, classes])
            .mean_dim(2)
            .squeeze_dim::<3>(2);
        (logits, self.half.forward(of_patch))
    }
}

/// The states of the instruction's words.
fn instruction(texts: &TextFeatures) -> Tensor<3> {
    let last = texts.states.last();
    last.cloned()
        .expect("invariant: an encoder keeps at least its last state")
}

/// Adds a decision to what is remembered, and reads the last one.
///
/// # Shapes
///
/// - x, output: `[B, D]`
/// - before: `[B, S, D]`
fn last(memory: &Memory, x: Tensor<2>, before: &mut Option<Tensor<3>>) -> Tensor<2> {
    let x = x.unsqueeze_dim::<3>(1);
    let all = match before.take() {
        Some(before) => Tensor::cat(vec![before, x], 1),
        None => x,
    };
    *before = Some(all.clone());
    let [_, length, _] = all.dims();
    let read = memory.forward(all, None);
    read.narrow(1, length - 1, 1).squeeze_dim(1)
}

/// The mean over tokens.
///
/// # Shapes
///
/// - x: `[T, P, D]`
/// - output: `[T, D]`
fn mean(x: Tensor<3>) -> Tensor<2> {
    x.mean_dim(1).squeeze_dim(1)
}

/// Levels as shares of the largest, on a device.
fn shares(levels: &[u8], shape: [usize; 4], device: &Device) -> Tensor<4> {
    if !device.supports_dtype(DType::U8) {
        let shares = levels.iter().map(|level| f32::from(*level) / 255.0);
        return Tensor::from_data(TensorData::new(shares.collect(), shape), device);
    }
    let levels = TensorData::new(levels.to_vec(), shape);
    let levels = Tensor::<4, Int>::from_data(levels, (device, DType::U8));
    levels.float().div_scalar(255.0)
}

/// Maps of another size, each cell as the one that its upper left corner lies in: PyTorch's `interpolate(mode = "nearest")`.
///
/// # Shapes
///
/// - maps: `[T, from, from]`
/// - output: `[T, to, to]`
pub fn nearest<'a, V: Copy>(maps: &'a [V], from: usize, to: usize) -> impl Iterator<Item = V> + 'a {
    maps.chunks(from * from).flat_map(move |map| {
        (0..to * to).map(move |at| {
            let (row, column) = (at / to * from / to, at % to * from / to);
            map[row * from + column]
        })
    })
}

#[cfg(all(test, feature = "flex"))]
mod tests;

//! The grounded dictionary: a codebook from which patches and words choose the codes that they share.
//!
//! Source: UNIMO-2 (Li et al. 2022), section 2.2. For the states `h` of one sample:
//!
//! ```text
//! s_ic = sigmoid(tau h_i·e_c)        a_c = sum_i s_ic        idx = the K codes with the highest a        g_k = e_idx_k
//! L_e  = MSE(sg(g_k), sum_i s_ik h_i / a_k)                  L_q = MSE(sg(h_i), sum_k s_ik g_k / sum_k s_ik)
//! ```
//!
//! With [`Choice::Nearest`] a state chooses its one nearest code instead (van den Oord et al. 2017). `a` counts the states
//! that chose a code, and both losses compare a state with its code.
//!
//! Shape legend: `B` rows, `N` states, `D` width, `C` codes, `K` codes of a sample.

use burn::module::{Module, Param};
use burn::tensor::activation::sigmoid;
use burn::tensor::{Bool, FloatDType, Int, Tensor, assert_shape};
use serde::{Deserialize, Serialize};
use unimo_batch::{ConfigError, config};
use unimo_core::dtype::cast;
use unimo_core::init::Init;
use unimo_core::mask::PaddingMask;
use unimo_core::parameters;

use crate::rows::Rows;

/// How the codes of a sample are chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Choice {
    /// The codes that all states together are most similar to.
    TopK,
    /// The codes that are nearest to some state.
    Nearest,
}

/// `[model.joint.grounding]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QuantiserConfig {
    /// `C`: number of codes, 2,048 in UNIMO-2.
    pub codes: usize,
    /// `K`: grounded tokens of a sample, 100 in UNIMO-2.
    pub tokens: usize,
    /// How they are chosen.
    pub choice: Choice,
    /// `tau` at the start, 100 in UNIMO-2.
    pub scale: f64,
    /// Bounds of `tau`, [1, 10,000] in UNIMO-2.
    pub scale_range: [f64; 2],
}

impl QuantiserConfig {
    /// Checks every value, alone and against the others.
    pub fn validate(&self) -> Result<(), ConfigError> {
        config::positive("codes", self.codes)?;
        ConfigError::unless(
            (1..=self.codes).contains(&self.tokens),
            "tokens",
            self.tokens,
            format_args!("must be 1 to codes = {}", self.codes),
        )?;
        let [low, high] = self.scale_range;
        ConfigError::unless(
            low > 0.0 && low < high && high.is_finite(),
            "scale_range",
            format_args!("[{low}, {high}]"),
            "must be [low, high] with 0 < low < high",
        )?;
        ConfigError::unless(
            (low..=high).contains(&self.scale),
            "scale",
            self.scale,
            format_args!("must be within scale_range = [{low}, {high}]"),
        )
    }

    /// A new codebook for states of width `width`.
    pub fn init(&self, init: &mut Init, width: usize) -> Quantiser {
        Quantiser {
            codebook: init.uniform([self.codes, width], 1.0 / self.codes as f32),
            tau: init.constant([1], self.scale as f32),
            config: self.clone(),
        }
    }
}

/// The codebook. See the [module](self).
#[derive(Module, Debug)]
pub struct Quantiser {
    /// `e`, `[C, D]`.
    pub codebook: Param<Tensor<2>>,
    /// `[1]`.
    pub tau: Param<Tensor<1>>,
    /// What it was made from.
    #[module(skip)]
    pub config: QuantiserConfig,
}

/// The codebook's output for some samples. Everything is f32.
#[derive(Debug, Clone)]
pub struct Quantised {
    /// `g`, `[B, K, D]`.
    pub tokens: Tensor<3>,
    /// The chosen codes, `[B, K]`, the most chosen first.
    pub codes: Tensor<2, Int>,
    /// Tokens that are empty because fewer codes were chosen, `[B, K]`. `None` with [`Choice::TopK`].
    pub hidden: Option<PaddingMask>,
    /// Sum over a sample's states of the squares in `L_q`, `[B]`.
    pub to_states: Tensor<1>,
    /// Sum over a sample's tokens, or with [`Choice::Nearest`] over its states, of the squares in `L_e`, `[B]`.
    pub to_codes: Tensor<1>,
    /// How many states took part, `[B]`.
    pub states: Tensor<1>,
}

impl Quantised {
    pub(crate) fn rows(&self, rows: &Rows<'_>) -> Self {
        Self {
            tokens: rows.of(&self.tokens),
            codes: rows.of_ints(&self.codes),
            hidden: self.hidden.as_ref().map(|mask| rows.of_mask(mask)),
            to_states: rows.of(&self.to_states),
            to_codes: rows.of(&self.to_codes),
            states: rows.of(&self.states),
        }
    }
}

/// Keeps divisions by a sum of similarities finite, as in the release.
const EPSILON: f64 = 1e-18;

impl Quantiser {
    /// Chooses each sample's codes.
    ///
    /// # Shapes
    ///
    /// - states: `[B, N, D]`
    /// - hidden: `[B, N]`, the states that take no part
    pub fn forward(&self, states: Tensor<3>, hidden: &PaddingMask) -> Quantised {
        let [_, width] = self.codebook.dims();
        let [rows, count] = hidden.dims();
        assert_shape!(states, [rows, count, width]);
        let states = cast(states, FloatDType::F32);
        let hidden = hidden.hidden();
        let seen = hidden.clone().bool_not().float().unsqueeze_dim::<3>(2);
        let quantised = match self.config.choice {
            Choice::TopK => self.top_k(states, hidden),
            Choice::Nearest => self.nearest(states, hidden),
        };
        Quantised {
            states: seen.sum_dim(1).reshape([rows]),
            ..quantised
        }
    }

    fn top_k(&self, states: Tensor<3>, hidden: Tensor<2, Bool>) -> Quantised {
        let [rows, count, width] = states.dims();
        let [codes, tokens] = [self.config.codes, self.config.tokens];
        let book = self.codebook.val();
        let scores = states
            .clone()
            .matmul(book.clone().transpose().unsqueeze::<3>());
        let scores = scores * self.tau.val().reshape([1, 1, 1]);
        let none = hidden.clone().unsqueeze_dim::<3>(2);
        let similarity = sigmoid(scores).mask_fill(none.clone().expand([rows, count, codes]), 0.0);
        let chosen = similarity
            .clone()
            .without_autodiff()
            .sum_dim(1)
            .reshape([rows, codes])
            .argtopk(tokens, 1);
        let g = look_up(&book, &chosen);
        let at = chosen
            .clone()
            .unsqueeze_dim::<3>(1)
            .expand([rows, count, tokens]);
        let s = similarity.gather(2, at);
        let per_code = s.clone().sum_dim(1).add_scalar(EPSILON).swap_dims(1, 2);
        let mixed = s.clone().swap_dims(1, 2).matmul(states.clone()) / per_code;
        let to_codes = squares(g.clone().detach() - mixed, rows);
        let per_state = s.clone().sum_dim(2).add_scalar(EPSILON);
        let rebuilt = s.matmul(g.clone()) / per_state;
        let error = states.detach() - rebuilt;
        let error = error.mask_fill(none.expand([rows, count, width]), 0.0);
        Quantised {
            tokens: g,
            codes: chosen,
            hidden: None,
            to_states: squares(error, rows),
            to_codes,
            states: Tensor::zeros([rows], &self.codebook.device()),
        }
    }

    fn nearest(&self, states: Tensor<3>, hidden: Tensor<2, Bool>) -> Quantised {
        let [rows, count, width] = states.dims();
        let [codes, tokens] = [self.config.codes, self.config.tokens];
        let book = self.codebook.val();
        let nearest = self.nearest_codes(states.clone());
        let none = hidden.unsqueeze_dim::<3>(2);
        let order: Tensor<1, Int> = Tensor::arange(0..codes as i64, &book.device());
        let order = order.reshape([1, 1, codes]).expand([rows, count, codes]);
        let hits = nearest
            .clone()
            .unsqueeze_dim::<3>(2)
            .expand([rows, count, codes])
            .equal(order.clone())
            .float()
            .mask_fill(none.clone().expand([rows, count, codes]), 0.0)
            .sum_dim(1)
            .reshape([rows, codes]);
        // The most chosen code first, of equals the smaller number. This is exact, as counts and numbers are small.
        let rank = order.float().narrow(1, 0, 1).reshape([rows, codes]);
        let key = hits.clone().mul_scalar(codes as f64) - rank;
        let chosen = key.argtopk(tokens, 1);
        let unused = hits.gather(1, chosen.clone()).equal_scalar(0.0);
        let chosen = chosen.mask_fill(unused.clone(), 0);
        let own = look_up(&book, &nearest);
        let none = none.expand([rows, count, width]);
        let error =
            |a: Tensor<3>, b: Tensor<3>| squares((a - b).mask_fill(none.clone(), 0.0), rows);
        Quantised {
            tokens: look_up(&book, &chosen),
            codes: chosen,
            hidden: Some(PaddingMask::from_hidden(unused)),
            to_states: error(own.clone(), states.clone().detach()),
            to_codes: error(states, own.detach()),
            states: Tensor::zeros([rows], &book.device()),
        }
    }

    /// The code that each state is most similar to, or, with [`Choice::Nearest`], nearest to.
    ///
    /// # Shapes
    ///
    /// - states: `[B, N, D]`
    /// - output: `[B, N]`
    pub fn nearest_codes(&self, states: Tensor<3>) -> Tensor<2, Int> {
        let [rows, count, _] = states.dims();
        let states = cast(states.without_autodiff(), FloatDType::F32);
        let book = self.codebook.val().without_autodiff();
        let products = states.matmul(book.clone().transpose().unsqueeze::<3>());
        let closeness = match self.config.choice {
            Choice::TopK => products,
            // |h - e|^2 without |h|^2, which is the same for every code.
            Choice::Nearest => {
                let squares = book.clone().powi_scalar(2).sum_dim(1);
                products.mul_scalar(2.0) - squares.reshape([1, 1, self.config.codes])
            }
        };
        closeness.argmax(2).reshape([rows, count])
    }

    /// Brings `tau` back into its range, after the optimiser's step.
    pub fn after_step(&mut self) {
        let [low, high] = self.config.scale_range;
        self.tau = parameters::update(self.tau.clone(), |tau| tau.clamp(low, high));
    }
}

/// # Shapes
///
/// - book: `[C, D]`; codes: `[B, K]`
/// - output: `[B, K, D]`
fn look_up(book: &Tensor<2>, codes: &Tensor<2, Int>) -> Tensor<3> {
    let [rows, tokens] = codes.dims();
    let [_, width] = book.dims();
    book.clone()
        .select(0, codes.clone().reshape([rows * tokens]))
        .reshape([rows, tokens, width])
}

/// The sum of squares of each row.
fn squares(x: Tensor<3>, rows: usize) -> Tensor<1> {
    let [_, a, b] = x.dims();
    (x.clone() * x)
        .reshape([rows, a * b])
        .sum_dim(1)
        .reshape([rows])
}

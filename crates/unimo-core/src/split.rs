//! A block of one stream whose parts have matrices of their own: vision reads and is read by other matrices than language (DiMBERT).
//!
//! Source: DiMBERT (Liu et al. 2021, arXiv 2210.16431) says that vision and language have separate attention spaces, and gives no formula.
//! These are three readings of it. `m(i)` is the part of position `i`; what stands in one line is a softmax over all keys `j` that
//! the query may see.
//!
//! ```text
//! modality   q_i = Wq[m(i)] x_i   k_j = Wk[m(j)] x_j   v_j = Wv[m(j)] x_j
//!            y_i = Wo[m(i)] sum_j softmax_j(q_i·k_j / sqrt(d)) v_j
//! pair       the same with Wq[m(i), m(j)], Wk[m(i), m(j)], Wv[m(i), m(j)]; y_i = sum_m Wo[m(i), m] (the sum over the keys j of part m)
//! query      y_i = sum_m of whole attentions with the matrices of m, each over the keys of part m alone, with a softmax of its own
//! ```
//!
//! With equal matrices everywhere the first is plain attention exactly, and the second up to rounding. The third is not: it has a softmax
//! for each part.
//!
//! The matrices of the last part are those of the block, so a plain model's names and weights are also those of a model with parts. A [`Split`]
//! holds the others.
//!
//! Shape legend: `B` rows, `L` positions, `D` width, `H` heads, `N` parts. Positions of a part stand together, in the order of the parts; a
//! part may have none.

use std::ops::Range;

use burn::module::Module;
use burn::tensor::{FloatDType, Int, Tensor, assert_shape};
use serde::{Deserialize, Serialize};

use crate::attention::{
    Attention, KeyValues, attention_weights, join_heads, scaled_dot_product, split_heads,
};
use crate::blocks::{FeedForward, PostNormBlock, only};
use crate::device::is_cpu;
use crate::dtype::cast;
use crate::kernels::recomputed;
use crate::layers::Linear;
use crate::mask::{Hidden, PaddingMask};
use crate::parameters::{self, copy};

/// Which positions share matrices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Spaces {
    /// Those of one part, whoever reads them; one softmax over all.
    #[default]
    Modality,
    /// Matrices for each part that reads and each that is read; one softmax over all.
    Pair,
    /// Those of the part that is read; one softmax for each part, and the results are added.
    Query,
}

/// The matrices of a block's parts but the last, whose matrices are the block's own.
#[derive(Module, Debug)]
pub struct Split {
    /// `modality` and `query`: one for each part but the last. `pair`: part by part that reads, one for each part that is read, without the
    /// last part that reads itself.
    pub attention: Vec<Attention>,
    /// One for each part but the last; empty if all parts share the block's.
    pub feed_forward: Vec<FeedForward>,
    /// `N`.
    pub parts: usize,
    /// Which positions share matrices.
    #[module(skip)]
    pub spaces: Spaces,
}

/// A block with its further matrices, as what runs again for the backward pass.
#[derive(Module, Debug)]
struct Whole {
    block: PostNormBlock,
    split: Split,
}

/// What further positions of the last part see of those before.
#[derive(Debug, Clone)]
pub struct Memory {
    /// `query`: one for each part, `None` for one without positions. Else one for all parts.
    kept: Vec<Option<KeyValues>>,
}

impl Memory {
    /// The given rows, in that order; a row may be given several times.
    #[must_use]
    pub fn select(&self, rows: &Tensor<1, Int>) -> Self {
        Self {
            kept: self
                .kept
                .iter()
                .map(|kept| Some(kept.as_ref()?.select(rows)))
                .collect(),
        }
    }
}

impl Split {
    /// Copies of a block's own matrices for all parts but the last, so that all parts begin with the same weights. Nothing is drawn.
    ///
    /// The output of an attention that is added to another one has no bias: it would count twice.
    ///
    /// # Panics
    ///
    /// Panics if there are fewer than two parts.
    pub fn of(block: &PostNormBlock, spaces: Spaces, parts: usize, feed_forward: bool) -> Self {
        assert!(parts > 1, "{parts} parts");
        let attention = match spaces {
            Spaces::Modality | Spaces::Query => parts - 1,
            Spaces::Pair => parts * parts - 1,
        };
        let attention = (0..attention).map(|at| {
            let mut own = copy(&block.attention);
            let adds = match spaces {
                Spaces::Modality => false,
                Spaces::Query => true,
                Spaces::Pair => at / parts != at % parts,
            };
            if adds {
                own.output.bias = None;
            }
            own
        });
        let feed_forward = 0..if feed_forward { parts - 1 } else { 0 };
        Self {
            attention: attention.collect(),
            feed_forward: feed_forward.map(|_| copy(&block.feed_forward)).collect(),
            parts,
            spaces,
        }
    }

    /// The first parameter that differs from the block's own; `None` if every part has the same matrices.
    pub fn differs(&self, block: &PostNormBlock) -> Option<String> {
        let attention = parameters::values(&block.attention);
        let feed_forward = parameters::values(&block.feed_forward);
        let of = |name: &str, at: usize, own: &[_], others: Vec<(String, _)>| {
            let other = |(name, _): &(String, _)| others.iter().find(|(other, _)| other == name);
            let equal = |own: &&(String, _)| other(own).is_none_or(|(_, value)| *value == own.1);
            let first = own.iter().find(|own| !equal(own));
            first.map(|(param, _)| format!("{name}.{at}.{param}"))
        };
        let each = self.attention.iter().enumerate();
        let mut differing = each
            .filter_map(|(at, other)| of("attention", at, &attention, parameters::values(other)));
        differing.next().or_else(|| {
            let each = self.feed_forward.iter().enumerate();
            let mut differing = each.filter_map(|(at, other)| {
                of("feed_forward", at, &feed_forward, parameters::values(other))
            });
            differing.next()
        })
    }

    /// As [`PostNormBlock::forward`], with the matrices of each part.
    ///
    /// # Shapes
    ///
    /// - x, output: `[B, L, D]`
    /// - spans: `N` numbers of positions, `L` together
    /// - mask: `[B, L]` and `[L, L]`
    pub fn forward<'a>(
        &self,
        block: &PostNormBlock,
        x: Tensor<3>,
        spans: &[usize],
        mask: impl Into<Hidden<'a>>,
    ) -> Tensor<3> {
        let length = spans.iter().sum::<usize>();
        assert_shape!(x, [_, length, _]);
        assert_eq!(spans.len(), self.parts, "a span for each part");
        let mask = mask.into().into_owned();
        let spans = ranges(spans);
        let whole = Whole {
            block: block.clone(),
            split: self.clone(),
        };
        recomputed(&whole, vec![x], move |whole, inputs| {
            let x = only(inputs);
            let Whole { block, split } = whole;
            let attended = split.attend(&block.attention, &x, &spans, mask.as_ref());
            block.finish_by(x, attended, |x| split.feed(&block.feed_forward, &x, &spans))
        })
    }

    /// As [`forward`](Self::forward), where nobody sees the last part, which has no position yet. It also gives what positions of the last part
    /// see of these.
    ///
    /// # Shapes
    ///
    /// As [`forward`](Self::forward).
    pub fn begin_reading(
        &self,
        block: &PostNormBlock,
        x: Tensor<3>,
        spans: &[usize],
        mask: &PaddingMask,
    ) -> (Tensor<3>, Memory) {
        let own = &block.attention;
        let of = ranges(spans);
        let kept = match self.spaces {
            Spaces::Modality => vec![Some(self.keys_by_span(own, &x, &of))],
            Spaces::Pair => vec![Some(self.keys_for(own, self.parts - 1, &x, &of))],
            Spaces::Query => self.keys_of_each(own, &x, &of),
        };
        (self.forward(block, x, spans, mask), Memory { kept })
    }

    /// Reads further positions of the last part: they see those of `before`, and all of themselves. Their keys and values join `before`.
    ///
    /// # Shapes
    ///
    /// - x, output: `[B, Q, D]`
    /// - mask: `[B, K + Q]`, with `K` the positions before
    pub fn read_on(
        &self,
        block: &PostNormBlock,
        x: Tensor<3>,
        before: &mut Memory,
        mask: &PaddingMask,
    ) -> Tensor<3> {
        let own = &block.attention;
        let [_, count, _] = x.dims();
        // Positions of the last part alone.
        let mut spans = vec![0; self.parts];
        spans[self.parts - 1] = count;
        let of = ranges(&spans);
        let further = match self.spaces {
            Spaces::Modality | Spaces::Query => own.remember(x.clone()),
            Spaces::Pair => self.keys_for(own, self.parts - 1, &x, &of),
        };
        let all = match before.kept.pop().flatten() {
            Some(last) => last.followed_by(further),
            None => further,
        };
        before.kept.push(Some(all.clone()));
        let attended = match self.spaces {
            Spaces::Modality => {
                let heads = own.attend_to(own.queries(x.clone()), all, mask, None);
                own.output.forward(heads)
            }
            Spaces::Pair => self.read_by(own, self.parts - 1, x.clone(), all, mask.into()),
            Spaces::Query => self.each_its_softmax(own, &x, &before.kept, mask.into()),
        };
        block.finish_by(x, attended, |x| block.feed_forward.forward(x))
    }

    /// The attention by which part `reader` reads part `read`.
    fn reader<'a>(&'a self, own: &'a Attention, reader: usize, read: usize) -> &'a Attention {
        let at = match self.spaces {
            Spaces::Modality | Spaces::Query => read,
            Spaces::Pair => reader * self.parts + read,
        };
        self.attention.get(at).unwrap_or(own)
    }

    /// Self-attention of all positions.
    fn attend(
        &self,
        own: &Attention,
        x: &Tensor<3>,
        spans: &[Range<usize>],
        mask: Hidden<'_>,
    ) -> Tensor<3> {
        match self.spaces {
            Spaces::Modality => {
                let queries = self.by_span(own, x, spans, |part| &part.query);
                let queries = split_heads(queries, own.heads);
                let all = self.keys_by_span(own, x, spans);
                let heads = own.attend_to(queries, all, mask, None);
                self.by_span(own, &heads, spans, |part| &part.output)
            }
            Spaces::Pair => {
                let keys = 0..x.dims()[1];
                let read = spans
                    .iter()
                    .enumerate()
                    .filter(|(_, span)| !span.is_empty());
                let read = read.map(|(part, span)| {
                    let mask = mask.narrow(span.clone(), keys.clone());
                    let all = self.keys_for(own, part, x, spans);
                    self.read_by(own, part, within(x, span), all, mask.as_ref())
                });
                joined(read.collect(), 1)
            }
            Spaces::Query => {
                let kept = self.keys_of_each(own, x, spans);
                self.each_its_softmax(own, x, &kept, mask)
            }
        }
    }

    /// The feed-forward layers.
    fn feed(&self, own: &FeedForward, x: &Tensor<3>, spans: &[Range<usize>]) -> Tensor<3> {
        if self.feed_forward.is_empty() {
            return own.forward(x.clone());
        }
        let each = spans
            .iter()
            .enumerate()
            .filter(|(_, span)| !span.is_empty());
        let fed = each.map(|(part, span)| {
            let of_part = self.feed_forward.get(part).unwrap_or(own);
            of_part.forward(within(x, span))
        });
        joined(fed.collect(), 1)
    }

    /// A layer of each part over its positions, with `modality`.
    fn by_span(
        &self,
        own: &Attention,
        x: &Tensor<3>,
        spans: &[Range<usize>],
        layer: impl Fn(&Attention) -> &Linear,
    ) -> Tensor<3> {
        let each = spans
            .iter()
            .enumerate()
            .filter(|(_, span)| !span.is_empty());
        let read = each.map(|(part, span)| {
            let of_part = self.reader(own, part, part);
            layer(of_part).forward(within(x, span))
        });
        joined(read.collect(), 1)
    }

    /// Keys and values of each part, with `modality`.
    fn keys_by_span(&self, own: &Attention, x: &Tensor<3>, spans: &[Range<usize>]) -> KeyValues {
        let of = |layer: fn(&Attention) -> &Linear| {
            split_heads(self.by_span(own, x, spans, layer), own.heads)
        };
        KeyValues {
            keys: of(|part| &part.key),
            values: of(|part| &part.value),
        }
    }

    /// Keys and values as part `reader` reads them, with `pair`. A head has a place for each part: what is read of a part stands in its place,
    /// and zeros in the others, so that one product gives the scores of all.
    ///
    /// # Shapes
    ///
    /// - x: `[B, K, D]`
    /// - output: `[B, H, K, N D / H]`
    fn keys_for(
        &self,
        own: &Attention,
        reader: usize,
        x: &Tensor<3>,
        spans: &[Range<usize>],
    ) -> KeyValues {
        let each = spans
            .iter()
            .enumerate()
            .filter(|(_, span)| !span.is_empty());
        let placed = |part: usize, of: Tensor<4>| {
            let [rows, heads, count, depth] = of.dims();
            let beside = |places: usize| {
                let zeros = Tensor::zeros([rows, heads, count, places * depth], &of.device());
                (places > 0).then(|| cast(zeros, FloatDType::from(of.dtype())))
            };
            let (before, after) = (beside(part), beside(self.parts - 1 - part));
            let all = before.into_iter().chain([of]).chain(after);
            joined(all.collect(), 3)
        };
        let (keys, values) = each
            .map(|(part, span)| {
                let read = self.reader(own, reader, part).remember(within(x, span));
                (placed(part, read.keys), placed(part, read.values))
            })
            .unzip();
        KeyValues {
            keys: joined(keys, 2),
            values: joined(values, 2),
        }
    }

    /// Keys and values of each part, with `query`; `None` for one without positions.
    fn keys_of_each(
        &self,
        own: &Attention,
        x: &Tensor<3>,
        spans: &[Range<usize>],
    ) -> Vec<Option<KeyValues>> {
        let of = |(part, span): (usize, &Range<usize>)| {
            let read = || self.reader(own, part, part).remember(within(x, span));
            (!span.is_empty()).then(read)
        };
        spans.iter().enumerate().map(of).collect()
    }

    /// What part `reader` reads, with `pair`.
    ///
    /// # Shapes
    ///
    /// - x, output: `[B, Q, D]`
    /// - all: `K` positions, as [`keys_for`](Self::keys_for) gives them
    /// - mask: `[B, K]` and `[Q, K]`
    fn read_by(
        &self,
        own: &Attention,
        reader: usize,
        x: Tensor<3>,
        all: KeyValues,
        mask: Hidden<'_>,
    ) -> Tensor<3> {
        let of = |part: usize| self.reader(own, reader, part);
        let queries = (0..self.parts).map(|part| of(part).queries(x.clone()));
        // The scores are divided by the root of all places, and a query meets a key in one of them.
        let queries = joined(queries.collect(), 3) * (self.parts as f64).sqrt();
        let KeyValues { keys, values } = all;
        let heads = scaled_dot_product(queries, keys, values, mask, &own.dropout);
        let depth = heads.dims()[3] / self.parts;
        let read = (0..self.parts).map(|part| {
            let place = heads.clone().narrow(3, part * depth, depth);
            of(part).output.forward(join_heads(place))
        });
        sum(read)
    }

    /// What all positions read of each part, with `query`.
    ///
    /// # Shapes
    ///
    /// - x, output: `[B, Q, D]`
    /// - kept: `N` parts, `K` positions together
    /// - mask: `[B, K]` and `[Q, K]`
    fn each_its_softmax(
        &self,
        own: &Attention,
        x: &Tensor<3>,
        kept: &[Option<KeyValues>],
        mask: Hidden<'_>,
    ) -> Tensor<3> {
        let count = |kept: &Option<KeyValues>| kept.as_ref().map_or(0, |all| all.keys.dims()[2]);
        let counts: Vec<usize> = kept.iter().map(count).collect();
        let each = kept.iter().zip(ranges(&counts)).enumerate();
        let read = each.filter_map(|(part, (kept, span))| {
            let of_part = self.reader(own, part, part);
            let Some(kept) = kept else {
                // What reads nothing adds the bias of its output.
                let nothing = || of_part.output.forward(x.zeros_like());
                return of_part.output.bias.is_some().then(nothing);
            };
            let mask = mask.narrow(0..x.dims()[1], span);
            let heads = read_or_nothing(of_part, of_part.queries(x.clone()), kept, mask.as_ref());
            Some(of_part.output.forward(join_heads(heads)))
        });
        sum(read)
    }
}

/// Attention of queries that may see no key at all, which then read zeros. burn's fused attention has no such case.
fn read_or_nothing(
    attention: &Attention,
    queries: Tensor<4>,
    kept: &KeyValues,
    mask: Hidden<'_>,
) -> Tensor<4> {
    let KeyValues { keys, values } = kept.clone();
    if is_cpu(&queries.device()) {
        return scaled_dot_product(queries, keys, values, mask, &attention.dropout);
    }
    let weights = attention_weights(queries, keys, mask);
    attention.dropout.forward(weights).matmul(values)
}

/// The ranges of parts that stand one after the other.
fn ranges(spans: &[usize]) -> Vec<Range<usize>> {
    let ends = spans.iter().scan(0, |end, count| {
        *end += count;
        Some(*end)
    });
    ends.zip(spans)
        .map(|(end, count)| end - count..end)
        .collect()
}

/// Some positions; all of them are not copied.
fn within(x: &Tensor<3>, span: &Range<usize>) -> Tensor<3> {
    if span.len() == x.dims()[1] {
        return x.clone();
    }
    x.clone().narrow(1, span.start, span.len())
}

/// The parts side by side; a single one is not copied.
fn joined<const D: usize>(mut parts: Vec<Tensor<D>>, dim: usize) -> Tensor<D> {
    match (parts.len(), parts.pop()) {
        (1, Some(only)) => only,
        (_, last) => Tensor::cat(parts.into_iter().chain(last).collect(), dim),
    }
}

fn sum(parts: impl Iterator<Item = Tensor<3>>) -> Tensor<3> {
    let all = parts.reduce(|all, part| all + part);
    all.expect("invariant: there are parts, and the last one always reads")
}

#[cfg(all(test, feature = "flex"))]
mod tests;

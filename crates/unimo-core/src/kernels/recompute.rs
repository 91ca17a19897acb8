//! Blocks whose activations are computed again for the backward pass (Chen et al. 2016, "Training deep nets with sublinear memory cost").
//!
//! The forward pass of a block keeps its inputs alone. When its gradient arrives, the block runs once more, with the same random numbers,
//! and its backward pass follows at once. It costs one more forward pass of time. Results and gradients are those of a block that keeps
//! everything, to the bit, as long as nothing else reads the block's inputs: where something does, the parts of their gradient are added up in
//! another order.
//!
//! burn has strategies of its own (`Device::gradient_checkpointing`), which recompute what costs little, operation by operation. Where a device
//! has that strategy, blocks on the CPU in f32 are recomputed as a whole; other devices and float types keep burn's strategy.

use burn::module::Module;
use burn::tensor::Tensor;

/// `run(module, inputs)`, computed again in the backward pass where the device's strategy asks for it.
///
/// `run` must follow from its arguments, what it has captured and the random numbers of dropout and drop-path.
///
/// # Shapes
///
/// - inputs: `[B, L, D]` each, of any lengths
/// - output: `[B, L, D]`
pub fn recomputed<M, F>(module: &M, inputs: Vec<Tensor<3>>, run: F) -> Tensor<3>
where
    M: Module + 'static,
    F: Fn(&M, Vec<Tensor<3>>) -> Tensor<3> + Send + Sync + 'static,
{
    #[cfg(feature = "flex")]
    if fused::takes(module, &inputs) {
        return fused::recomputed(module, inputs, run);
    }
    run(module, inputs)
}

#[cfg(feature = "flex")]
mod fused {
    use std::fmt;
    use std::sync::{Arc, Mutex, PoisonError};

    use burn::backend::autodiff::NodeId;
    use burn::backend::autodiff::checkpoint::base::Checkpointer;
    use burn::backend::autodiff::checkpoint::strategy::BalancedCheckpointing;
    use burn::backend::autodiff::grads::Gradients;
    use burn::backend::autodiff::ops::{Backward, NodeGuard, Ops, OpsKind};
    use burn::backend::flex::FlexTensor;
    use burn::backend::tensor::FloatTensor;
    use burn::backend::{Autodiff, Flex};
    use burn::module::{Module, Param};
    use burn::tensor::{GradientCheckpointingStrategy, Tensor};

    use crate::kernels::drawn::{self, Drawn};
    use crate::kernels::early::{self, Use};
    use crate::parameters::{self, Change, See};

    /// The backend of tensors on a device with burn's strategy.
    type Recorded = Autodiff<Flex, BalancedCheckpointing>;

    pub(super) fn takes<M: Module>(module: &M, inputs: &[Tensor<3>]) -> bool {
        let asked = |x: &Tensor<3>| {
            let strategy = x.gradient_checkpointing_strategy();
            strategy == Some(GradientCheckpointingStrategy::Balanced)
        };
        let mut parameters = Asked(true);
        inputs
            .iter()
            .all(|x| asked(x) && crate::kernels::is_fused(x))
            && inputs.len() <= MOST
            && {
                parameters::see(module, &mut parameters);
                parameters.0
            }
    }

    /// Whether every parameter is on a device with the strategy.
    struct Asked(bool);

    impl See for Asked {
        fn see<const D: usize>(&mut self, _: &str, param: &Param<Tensor<D>>) {
            let strategy = param.base().gradient_checkpointing_strategy();
            self.0 &= strategy == Some(GradientCheckpointingStrategy::Balanced);
        }
    }

    pub(super) fn recomputed<M, F>(module: &M, inputs: Vec<Tensor<3>>, run: F) -> Tensor<3>
    where
        M: Module + 'static,
        F: Fn(&M, Vec<Tensor<3>>) -> Tensor<3> + Send + Sync + 'static,
    {
        let mut nodes = Nodes::default();
        parameters::see(module, &mut nodes);
        let tracked = inputs.iter().map(Tensor::is_tracked).collect();
        let guards: Vec<NodeGuard> = inputs.iter().map(guard).collect();
        let block = Block {
            module: parameters::change(module.clone(), &mut Kept),
            inputs: inputs.into_iter().map(Tensor::without_autodiff).collect(),
            run,
            learns: nodes.learns,
            tracked,
        };
        let (output, drawn) = drawn::noting(|| block.forward(false).0);
        let output = primitive(output.without_autodiff());
        let state = Again {
            block: Arc::new(Mutex::new(block)),
            drawn,
            uses: nodes.ids.iter().flat_map(|id| early::uses([*id])).collect(),
            parameters: nodes.ids,
        };
        // Where nothing of the inputs learns, a parameter stands for them all.
        let anchor = nodes.first;
        Tensor::from_primitive::<Recorded>(record(guards, anchor, state, output))
    }

    /// The node of a tensor, held until the block is recorded.
    fn guard<const D: usize>(x: &Tensor<D>) -> NodeGuard {
        let recorded = x.clone().try_into_primitive::<Recorded>();
        recorded
            .expect("invariant: `takes` has seen the strategy")
            .node()
    }

    fn primitive<const D: usize>(x: Tensor<D>) -> FlexTensor {
        let flex = x.try_into_primitive::<Flex>();
        flex.expect("invariant: `takes` has seen a tensor of the CPU")
    }

    /// The nodes of the parameters that learn, in the module's order.
    #[derive(Default)]
    struct Nodes {
        ids: Vec<NodeId>,
        /// For each parameter, whether it learns.
        learns: Vec<bool>,
        first: Option<NodeGuard>,
    }

    impl See for Nodes {
        fn see<const D: usize>(&mut self, _: &str, param: &Param<Tensor<D>>) {
            let learns = param.is_require_grad();
            self.learns.push(learns);
            if learns {
                let guard = guard(&param.val());
                self.ids.push(guard.id());
                self.first.get_or_insert(guard);
            }
        }
    }

    /// Parameters as they are kept: outside of any graph.
    struct Kept;

    impl Change for Kept {
        fn change<const D: usize>(&mut self, _: &str, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            param.map(Tensor::without_autodiff)
        }
    }

    /// Parameters in a graph of their own.
    struct Live<'a> {
        learns: std::slice::Iter<'a, bool>,
        /// Whether they track gradients, as far as they learn.
        tracks: bool,
    }

    impl Change for Live<'_> {
        fn change<const D: usize>(&mut self, _: &str, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            let learns = self.learns.next().is_some_and(|learns| *learns) && self.tracks;
            param.map(|value| {
                let value = value.autodiff();
                if learns { value.require_grad() } else { value }
            })
        }
    }

    /// A block with its inputs.
    struct Block<M, F> {
        module: M,
        inputs: Vec<Tensor<3>>,
        run: F,
        learns: Vec<bool>,
        /// Which inputs want a gradient.
        tracked: Vec<bool>,
    }

    impl<M: Module, F: Fn(&M, Vec<Tensor<3>>) -> Tensor<3>> Block<M, F> {
        /// Runs the block in a graph of its own, or, without `tracks`, in none. Autodiff is on in both cases, as in training, so that dropout is.
        fn forward(&self, tracks: bool) -> (Tensor<3>, M, Vec<Tensor<3>>) {
            let mut live = Live {
                learns: self.learns.iter(),
                tracks,
            };
            let module = parameters::change(self.module.clone(), &mut live);
            let inputs = self.inputs.iter().zip(&self.tracked);
            let inputs: Vec<Tensor<3>> = inputs
                .map(|(x, tracked)| {
                    let x = x.clone().autodiff();
                    if tracks && *tracked {
                        x.require_grad()
                    } else {
                        x
                    }
                })
                .collect();
            let output = (self.run)(&module, inputs.clone());
            (output, module, inputs)
        }
    }

    /// What a block gives when it runs again: gradients of the inputs, and of the parameters that learn.
    type Gathered = (Vec<Option<FlexTensor>>, Vec<Option<FlexTensor>>);

    /// A block of any type.
    trait Rerun: Send {
        fn rerun(&self, drawn: Vec<Drawn>, grad: FlexTensor) -> Gathered;
    }

    impl<M, F> Rerun for Block<M, F>
    where
        M: Module,
        F: Fn(&M, Vec<Tensor<3>>) -> Tensor<3> + Send + Sync,
    {
        fn rerun(&self, drawn: Vec<Drawn>, grad: FlexTensor) -> Gathered {
            let (output, module, inputs) = drawn::again(drawn, || self.forward(true));
            let grad = Tensor::<3>::from_primitive::<Flex>(grad).autodiff();
            // The gradient of this sum with respect to the output is `grad`, to the bit.
            let gradients = (output * grad).sum().backward();
            let of = inputs.iter().zip(&self.tracked);
            let of = of.map(|(x, tracked)| tracked.then(|| x.grad(&gradients)).flatten());
            let of_inputs = of.map(|grad| grad.map(primitive)).collect();
            let mut learned = Learned {
                gradients: &gradients,
                found: Vec::new(),
            };
            parameters::see(&module, &mut learned);
            (of_inputs, learned.found)
        }
    }

    /// Gradients of the parameters that learn, in the module's order.
    struct Learned<'a> {
        gradients: &'a burn::tensor::Gradients,
        found: Vec<Option<FlexTensor>>,
    }

    impl See for Learned<'_> {
        fn see<const D: usize>(&mut self, _: &str, param: &Param<Tensor<D>>) {
            if param.is_require_grad() {
                let grad = param.val().grad(self.gradients);
                self.found.push(grad.map(primitive));
            }
        }
    }

    /// What the backward pass needs.
    #[derive(Clone)]
    struct Again {
        block: Arc<Mutex<dyn Rerun>>,
        drawn: Vec<Drawn>,
        parameters: Vec<NodeId>,
        uses: Vec<Use>,
    }

    impl fmt::Debug for Again {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.debug_struct("Again").finish_non_exhaustive()
        }
    }

    /// Most inputs of a block: a layer that reads all levels below it has many.
    const MOST: usize = 32;

    /// Records the block behind its inputs.
    fn record(
        inputs: Vec<NodeGuard>,
        anchor: Option<NodeGuard>,
        state: Again,
        output: FlexTensor,
    ) -> FloatTensor<Recorded> {
        let nodes = inputs.into_iter().chain(anchor);
        let nodes: Vec<NodeGuard> = nodes.collect();
        match nodes.len() {
            ..=2 => record_of::<2>(nodes, state, output),
            3..=4 => record_of::<4>(nodes, state, output),
            5..=8 => record_of::<8>(nodes, state, output),
            9..=16 => record_of::<16>(nodes, state, output),
            _ => record_of::<{ MOST + 1 }>(nodes, state, output),
        }
    }

    /// As [`record`], for at most `N` nodes. An operation has a fixed number of parents; the rest are constants.
    fn record_of<const N: usize>(
        nodes: Vec<NodeGuard>,
        state: Again,
        output: FlexTensor,
    ) -> FloatTensor<Recorded> {
        let mut nodes = nodes.into_iter();
        let constant = || {
            let nothing = Tensor::<1>::zeros([1], &burn::tensor::Device::flex());
            guard(
                &nothing
                    .autodiff()
                    .with_gradient_checkpointing_strategy(GradientCheckpointingStrategy::Balanced),
            )
        };
        let nodes: [NodeGuard; N] = std::array::from_fn(|_| nodes.next().unwrap_or_else(constant));
        let prepared = Backward::<Flex, N>::prepare::<BalancedCheckpointing>(Derivative, nodes);
        match prepared.compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish(state, output),
            OpsKind::UnTracked(prep) => prep.finish(output),
        }
    }

    #[derive(Debug)]
    struct Derivative;

    impl<const N: usize> Backward<Flex, N> for Derivative {
        type State = Again;

        fn backward(self, ops: Ops<Again, N>, grads: &mut Gradients, _: &mut Checkpointer) {
            let _part = crate::part!(None, "block, forward again and backward");
            let grad = grads.consume::<Flex>(&ops.node);
            let Again {
                block,
                drawn,
                parameters,
                uses,
            } = ops.state;
            let block = block.lock().unwrap_or_else(PoisonError::into_inner);
            let (inputs, learned) = block.rerun(drawn, grad);
            for (node, grad) in ops.parents.into_iter().zip(inputs) {
                if let (Some(node), Some(grad)) = (node, grad) {
                    grads.register::<Flex>(node.id, grad);
                }
            }
            // Parameters are leaves, so that nothing waits for their gradients, and they need not be parents.
            for (id, grad) in parameters.into_iter().zip(learned) {
                if let Some(grad) = grad {
                    grads.register::<Flex>(id, grad);
                }
            }
            early::done(uses, grads);
        }
    }
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    use burn::optim::GradientsParams;
    use burn::tensor::{Device, TensorData};

    use super::*;
    use crate::blocks::{BlockConfig, PostNormBlock, PreNormBlock};
    use crate::init::Init;
    use crate::kernels::testing::{alone, assert_close, values as values_of};
    use crate::layers::Activation;
    use crate::lora::{self, LoraSpec};
    use crate::mask::PaddingMask;
    use crate::parameters;

    const CONFIG: BlockConfig = BlockConfig {
        width: 16,
        heads: 2,
        feed_forward: 32,
        activation: Activation::Gelu,
        layer_norm_eps: 1e-5,
        dropout: 0.2,
        drop_path: 0.3,
    };

    /// Output, gradients of the input and of all parameters of two blocks, one after the other.
    fn run(
        device: &Device,
        learns: bool,
    ) -> (TensorData, Option<TensorData>, Vec<(String, TensorData)>) {
        let mut init = Init::new(device, 1);
        let blocks = (
            PostNormBlock::new(&mut init, &CONFIG),
            PreNormBlock::new(&mut init, &CONFIG),
        );
        let values = Init::new(&Device::flex(), 2).uniform([3, 5, 16], 1.0).val();
        let x = Tensor::<3>::from_data(values.into_data(), device);
        let x = if learns { x.require_grad() } else { x };
        let mask = PaddingMask::from_lengths(&[5, 4, 2], 5, device);
        device.seed(7);
        let out = blocks
            .1
            .forward(blocks.0.forward(x.clone(), Some(&mask)), Some(&mask));
        let weights = Init::new(&Device::flex(), 3).uniform([3, 5, 16], 1.0).val();
        let weights = Tensor::<3>::from_data(weights.into_data(), device);
        let mut gradients = (out.clone() * weights).sum().backward();
        let of_input = x.grad(&gradients).map(Tensor::into_data);
        let first = GradientsParams::from_module(&mut gradients, &blocks.0);
        let second = GradientsParams::from_module(&mut gradients, &blocks.1);
        let mut of_parameters = parameters::gradients(&blocks.0, &first);
        of_parameters.extend(parameters::gradients(&blocks.1, &second));
        (out.into_data(), of_input, of_parameters)
    }

    /// Also where the input learns nothing, as behind frozen embeddings.
    #[test]
    fn a_recomputed_block_gives_the_same_bits() {
        let _alone = alone();
        for learns in [true, false] {
            let kept = run(&Device::flex().autodiff(), learns);
            let recomputed = run(&Device::flex().autodiff().gradient_checkpointing(), learns);
            assert_eq!(kept.2.len(), 32);
            assert_eq!(kept.1.is_some(), learns);
            assert_eq!(kept, recomputed);
        }
    }

    /// Adapters learn, and what they adapt does not.
    #[test]
    fn adapters_have_their_gradients() {
        let _alone = alone();
        let run = |device: Device| {
            let mut init = Init::new(&device, 1);
            let block = PostNormBlock::new(&mut init, &CONFIG);
            let spec = LoraSpec {
                rank: 2,
                alpha: 4.0,
                dropout: 0.0,
            };
            let block = lora::attach(block, &mut init, &spec, &|_| true);
            let values = Init::new(&Device::flex(), 2).uniform([3, 5, 16], 1.0).val();
            let x = Tensor::<3>::from_data(values.into_data(), &device);
            device.seed(7);
            let mut gradients = block.forward(x, None).sum().backward();
            let gradients = GradientsParams::from_module(&mut gradients, &block);
            parameters::gradients(&block, &gradients)
        };
        let kept = run(Device::flex().autodiff());
        assert!(kept.len() > 16, "{}", kept.len());
        assert_eq!(
            kept,
            run(Device::flex().autodiff().gradient_checkpointing())
        );
    }

    /// Sums of three gradients of values around 1, in another order.
    const TOLERANCE: f64 = 1e-6;

    /// An input that is read several times, by others too, and an input that wants no gradient.
    #[test]
    fn inputs_have_their_gradients_whatever_is_read_of_them() {
        let _alone = alone();
        let run = |device: Device| {
            let block = PostNormBlock::new(&mut Init::new(&device, 1), &CONFIG);
            let values = |seed| {
                let values = Init::new(&Device::flex(), seed)
                    .uniform([2, 3, 16], 1.0)
                    .val();
                Tensor::<3>::from_data(values.into_data(), &device)
            };
            let (a, b, c) = (
                values(2).require_grad(),
                values(3).require_grad(),
                values(4),
            );
            device.seed(3);
            let shared = a.clone() * 2.0;
            let out = recomputed(
                &block,
                vec![shared.clone(), b.clone(), c, shared.clone()],
                |block, inputs| {
                    let [a, b, c, again] = inputs.try_into().unwrap();
                    block.forward(a * b + c, None) + again
                },
            );
            let gradients = (out * shared).sum().backward();
            [a, b].map(|x| values_of(&x.grad(&gradients).unwrap()))
        };
        let kept = run(Device::flex().autodiff());
        let again = run(Device::flex().autodiff().gradient_checkpointing());
        for (kept, again) in kept.iter().zip(&again) {
            assert_close("gradient", again, kept, TOLERANCE, 1.0);
        }
    }
}

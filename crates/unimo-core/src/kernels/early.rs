//! Gradients that are whole before the backward pass ends.
//!
//! While somebody listens, every operation on a parameter notes that it uses it. When the backward pass has gone through the last of
//! these operations the parameter's gradient is whole, and the listener hears it while gradients of earlier layers are still computed
//! (Li et al. 2020, "PyTorch Distributed", section 3.2.3). Nothing is added to the graph, so all gradients keep their bits. burn has a
//! hook of this kind for its own communication alone, and an operation of ours on a parameter would come last in the backward pass,
//! which goes by depth.
//!
//! The fused kernels of the CPU note what they use: [`linear`](super::linear()) with a bias, [`layer_norm`](super::layer_norm()), and
//! blocks that are computed again. Where another operation reads the same parameter as well, its gradient is heard too early: the
//! listener must find out, by looking at what there is after the backward pass.

use burn::module::Module;

/// Hears gradients.
pub trait Listener {
    /// Is given a gradient that is whole, and the number of its parameter among those that learn, in the module's order. Says whether it
    /// takes it: it is then no longer among the gradients that the backward pass gives.
    fn hear(&mut self, parameter: usize, gradient: &[f32]) -> bool;
}

/// As long as it lives, a listener hears the gradients of this thread's backward passes.
#[must_use]
pub struct Listening {
    /// Uses are noted by thread.
    _of_thread: std::marker::PhantomData<*const ()>,
}

/// Begins to listen to the gradients of a module's parameters on the CPU, in place of whoever did before. On other devices it hears nothing.
pub fn listen<M: Module>(module: &M, listener: impl Listener + 'static) -> Listening {
    #[cfg(feature = "flex")]
    noted::begin(module, Box::new(listener));
    #[cfg(not(feature = "flex"))]
    let _ = (module, listener);
    Listening {
        _of_thread: std::marker::PhantomData,
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        #[cfg(feature = "flex")]
        noted::end();
    }
}

#[cfg(feature = "flex")]
pub(super) use noted::{Use, done, uses};

#[cfg(feature = "flex")]
mod noted {
    use std::cell::RefCell;
    use std::collections::HashMap;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use burn::backend::autodiff::NodeId;
    use burn::backend::autodiff::checkpoint::strategy::BalancedCheckpointing;
    use burn::backend::autodiff::grads::Gradients;
    use burn::backend::tensor::FloatTensor;
    use burn::backend::{Autodiff, Flex};
    use burn::module::{Module, Param};
    use burn::tensor::{GradientCheckpointingStrategy, Tensor};

    use super::Listener;
    use crate::kernels::buffers::{contiguous, floats};
    use crate::parameters::{self, See};

    thread_local! {
        static HEARD: RefCell<Option<Heard>> = const { RefCell::new(None) };
    }

    /// Who listens, and to what.
    struct Heard {
        listener: Box<dyn Listener>,
        leaves: HashMap<NodeId, (Arc<Leaf>, FloatTensor<Autodiff<Flex>>)>,
    }

    /// A parameter that learns.
    #[derive(Debug)]
    struct Leaf {
        id: NodeId,
        number: usize,
        /// Operations on it that the backward pass has not gone through.
        open: AtomicUsize,
    }

    /// Ends with the operation, or with a graph that nobody goes through.
    #[derive(Debug)]
    struct Open(Arc<Leaf>);

    impl Drop for Open {
        fn drop(&mut self) {
            self.0.open.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// An operation's use of a parameter; none if nobody listens or it is no parameter.
    #[derive(Debug, Clone)]
    pub(in crate::kernels) struct Use(Option<Arc<Open>>);

    pub(super) fn begin<M: Module>(module: &M, listener: Box<dyn Listener>) {
        let mut leaves = Leaves {
            next: 0,
            found: HashMap::new(),
        };
        parameters::see(module, &mut leaves);
        let leaves = leaves.found;
        HEARD.set(Some(Heard { listener, leaves }));
    }

    pub(super) fn end() {
        HEARD.set(None);
    }

    struct Leaves {
        next: usize,
        found: HashMap<NodeId, (Arc<Leaf>, FloatTensor<Autodiff<Flex>>)>,
    }

    impl See for Leaves {
        fn see<const D: usize>(&mut self, _: &str, param: &Param<Tensor<D>>) {
            if !param.is_require_grad() {
                return;
            }
            let number = self.next;
            self.next += 1;
            let value = param.val();
            if !crate::kernels::is_fused(&value) {
                return;
            }
            let balanced = Some(GradientCheckpointingStrategy::Balanced);
            let recorded = if value.gradient_checkpointing_strategy() == balanced {
                value
                    .try_into_primitive::<Autodiff<Flex, BalancedCheckpointing>>()
                    .ok()
            } else {
                value.try_into_primitive::<Autodiff<Flex>>().ok()
            };
            let Some(tensor) = recorded else {
                return;
            };
            let id = tensor.id();
            let leaf = Leaf {
                id,
                number,
                open: AtomicUsize::new(0),
            };
            self.found.insert(id, (Arc::new(leaf), tensor));
        }
    }

    /// Notes that an operation uses what may be parameters. It keeps what it gets until its backward pass.
    pub(in crate::kernels) fn uses<const N: usize>(nodes: [NodeId; N]) -> [Use; N] {
        HEARD.with_borrow(|heard| {
            nodes.map(|id| {
                let found = heard.as_ref().and_then(|heard| heard.leaves.get(&id));
                Use(found.map(|(leaf, _)| {
                    leaf.open.fetch_add(1, Ordering::Relaxed);
                    Arc::new(Open(Arc::clone(leaf)))
                }))
            })
        })
    }

    /// Says that an operation has given its part of the gradients.
    pub(in crate::kernels) fn done(uses: impl IntoIterator<Item = Use>, grads: &mut Gradients) {
        for Use(open) in uses {
            let Some(open) = open else {
                continue;
            };
            let leaf = Arc::clone(&open.0);
            drop(open);
            if leaf.open.load(Ordering::Relaxed) == 0 {
                HEARD.with_borrow_mut(|heard| {
                    if let Some(heard) = heard {
                        heard.tell(&leaf, grads);
                    }
                });
            }
        }
    }

    impl Heard {
        fn tell(&mut self, leaf: &Leaf, grads: &mut Gradients) {
            let Some((_, tensor)) = self.leaves.get(&leaf.id) else {
                return;
            };
            let Some(gradient) = grads.get::<Flex>(tensor) else {
                return;
            };
            let gradient = contiguous(gradient);
            if self.listener.hear(leaf.number, floats(&gradient)) {
                grads.remove::<Flex>(tensor);
            }
        }
    }
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;

    use burn::optim::GradientsParams;
    use burn::tensor::{Device, Tensor};

    use super::*;
    use crate::blocks::{BlockConfig, PostNormBlock};
    use crate::init::Init;
    use crate::kernels::testing::alone;
    use crate::layers::Activation;
    use crate::parameters;

    /// Gradients with their parameters, in the order in which they were heard.
    type InOrder = Vec<(usize, Vec<f32>)>;

    /// What was heard, and whether the listener takes it.
    struct Notes {
        heard: Rc<RefCell<InOrder>>,
        takes: bool,
    }

    impl Listener for Notes {
        fn hear(&mut self, parameter: usize, gradient: &[f32]) -> bool {
            self.heard.borrow_mut().push((parameter, gradient.to_vec()));
            self.takes
        }
    }

    fn blocks(device: &Device) -> Vec<PostNormBlock> {
        let config = BlockConfig {
            width: 16,
            heads: 2,
            feed_forward: 32,
            activation: Activation::Gelu,
            layer_norm_eps: 1e-5,
            dropout: 0.0,
            drop_path: 0.0,
        };
        let mut init = Init::new(device, 1);
        (0..2)
            .map(|_| PostNormBlock::new(&mut init, &config))
            .collect()
    }

    /// The gradients after a backward pass through the blocks, the first of them `passes` times.
    fn run(
        device: &Device,
        (passes, drops): (usize, bool),
        takes: Option<bool>,
    ) -> (Vec<Vec<f32>>, InOrder) {
        let blocks = blocks(device);
        let heard = Rc::new(RefCell::new(Vec::new()));
        let listening = takes.map(|takes| {
            let heard = Rc::clone(&heard);
            listen(&blocks, Notes { heard, takes })
        });
        let values = Init::new(&Device::flex(), 2).uniform([3, 5, 16], 1.0).val();
        let mut x = Tensor::<3>::from_data(values.into_data(), device);
        for _ in 0..passes {
            x = blocks[0].forward(x, None);
        }
        if drops {
            drop(blocks[1].forward(x.clone(), None));
        }
        let mut gradients = blocks[1].forward(x, None).powi_scalar(2).sum().backward();
        drop(listening);
        let gradients = GradientsParams::from_module(&mut gradients, &blocks);
        let all = parameters::gradients(&blocks, &gradients);
        let all = all
            .into_iter()
            .map(|(_, data)| data.try_into_vec().unwrap());
        (all.collect(), heard.take())
    }

    /// Each gradient is heard once, as it is in the end, that of the last block first, whether blocks are computed again or not.
    #[test]
    fn gradients_are_heard_when_they_are_whole() {
        let _alone = alone();
        for device in [
            Device::flex().autodiff(),
            Device::flex().autodiff().gradient_checkpointing(),
        ] {
            for passes in [1, 3] {
                let (expected, nothing) = run(&device, (passes, false), None);
                assert!(nothing.is_empty());
                let (gradients, heard) = run(&device, (passes, false), Some(false));
                assert_eq!(gradients, expected);
                assert_eq!(heard.len(), expected.len());
                for (parameter, gradient) in &heard {
                    assert_eq!(*gradient, expected[*parameter], "{parameter}");
                }
                let each = expected.len() / 2;
                let (last, first) = heard.split_at(each);
                assert!(last.iter().all(|(parameter, _)| *parameter >= each));
                assert!(first.iter().all(|(parameter, _)| *parameter < each));
                let (left, taken) = run(&device, (passes, false), Some(true));
                assert!(left.is_empty());
                assert_eq!(taken, heard);
            }
        }
    }

    /// As long as a graph is there that nobody goes through, its parameters count as used: they are not heard, and are there in the end.
    #[test]
    fn what_a_dropped_graph_uses_is_not_heard_too_early() {
        let _alone = alone();
        let device = Device::flex().autodiff();
        let (expected, _) = run(&device, (2, false), None);
        let (gradients, heard) = run(&device, (2, true), Some(false));
        assert_eq!(gradients, expected);
        assert!(heard.len() >= expected.len() / 2);
        for (parameter, gradient) in &heard {
            assert_eq!(*gradient, expected[*parameter], "{parameter}");
        }
    }
}

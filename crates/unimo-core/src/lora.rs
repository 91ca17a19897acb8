//! Puts LoRA's adapters ([`LowRank`]) onto the linear layers of any module, by the layers' names.
//!
//! An adapter belongs to the layer's weight. So the module's type stays as it is, and its parameters `LAYER.weight.lora.a` and `.b` are
//! there only where one was put on. [`burn::module::Module::materialize`] adds it to the weight.

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param, Reparameterizer};
use burn::tensor::Tensor;
use unimo_batch::{ConfigError, config};

use crate::init::Init;
use crate::layers::{Dropout, LowRank};

/// Sizes of adapters.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LoraSpec {
    /// `R`.
    pub rank: usize,
    /// What an adapter adds is multiplied by `alpha / rank`.
    pub alpha: f64,
    /// Dropout on an adapter's input, in [0, 1).
    pub dropout: f64,
}

impl LoraSpec {
    /// Checks every value.
    pub fn validate(&self) -> Result<(), ConfigError> {
        config::positive("rank", self.rank)?;
        config::above_zero("alpha", self.alpha)?;
        config::probability("dropout", self.dropout)
    }
}

/// The path of a walk through a module.
#[derive(Debug, Default)]
struct Path(Vec<(String, String)>);

impl Path {
    fn enter(&mut self, name: &str, container: &str) {
        self.0.push((name.to_owned(), container.to_owned()));
    }

    fn exit(&mut self) {
        self.0.pop();
    }

    /// The name of the linear layer whose weight this is.
    fn layer(&self) -> Option<String> {
        let (last, above) = self.0.split_last()?;
        let (field, container) = last;
        // What derives `Module` names the struct of a field so.
        let is_weight = field == "weight" && container == "Struct:Linear";
        let names: Vec<&str> = above.iter().map(|(name, _)| name.as_str()).collect();
        is_weight.then(|| names.join("."))
    }
}

/// Names of a module's linear layers, in its order.
pub fn linear_layers<M: Module>(module: &M) -> Vec<String> {
    #[derive(Default)]
    struct Find {
        path: Path,
        found: Vec<String>,
    }
    impl ModuleVisitor for Find {
        fn enter_module(&mut self, name: &str, container: &str) {
            self.path.enter(name, container);
        }
        fn exit_module(&mut self, _name: &str, _container: &str) {
            self.path.exit();
        }
        fn visit_float<const D: usize>(&mut self, _param: &Param<Tensor<D>>) {
            self.found.extend(self.path.layer());
        }
    }
    let mut find = Find::default();
    module.visit(&mut find);
    find.found
}

/// Puts a new adapter onto every linear layer whose name `adapts`; they change nothing yet. As in Hu et al. 2022 and peft, `A` is drawn
/// uniformly from `±1 / sqrt(in)` and `B` is 0. A layer that has an adapter already gets a new one.
#[must_use]
pub fn attach<M: Module>(
    module: M,
    init: &mut Init,
    spec: &LoraSpec,
    adapts: &dyn Fn(&str) -> bool,
) -> M {
    struct Attach<'a> {
        path: Path,
        init: &'a mut Init,
        spec: &'a LoraSpec,
        adapts: &'a dyn Fn(&str) -> bool,
    }
    struct New(Option<LowRank>);
    impl Reparameterizer for New {
        type Reparam = LowRank;

        fn reparameterize<const D: usize>(
            &mut self,
            _path: &str,
            param: Param<Tensor<D>>,
        ) -> (Param<Tensor<D>>, Option<LowRank>) {
            (param, self.0.take())
        }
    }
    impl ModuleMapper for Attach<'_> {
        fn enter_module(&mut self, name: &str, container: &str) {
            self.path.enter(name, container);
        }
        fn exit_module(&mut self, _name: &str, _container: &str) {
            self.path.exit();
        }
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            let adapted = self.path.layer().is_some_and(|layer| (self.adapts)(&layer));
            let &[d_in, d_out] = param.dims().as_slice() else {
                return param;
            };
            if !adapted {
                return param;
            }
            let LoraSpec {
                rank,
                alpha,
                dropout,
            } = *self.spec;
            let bound = (d_in as f32).sqrt().recip();
            param.apply_reparameterization(New(Some(LowRank {
                a: self.init.uniform([d_in, rank], bound),
                b: self.init.constant([rank, d_out], 0.0),
                scale: alpha / rank as f64,
                dropout: Dropout::new(dropout),
            })))
        }
    }
    module.map(&mut Attach {
        path: Path::default(),
        init,
        spec,
        adapts,
    })
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    use burn::tensor::{Device, Tolerance};

    use super::*;
    use crate::blocks::{BlockConfig, PostNormBlock};
    use crate::layers::{Activation, Embedding};
    use crate::parameters;

    #[derive(Module, Debug)]
    struct Two {
        words: Embedding,
        block: PostNormBlock,
    }

    fn two(device: &Device) -> Two {
        let config = BlockConfig {
            width: 8,
            heads: 2,
            feed_forward: 16,
            activation: Activation::Gelu,
            layer_norm_eps: 1e-5,
            dropout: 0.0,
            drop_path: 0.0,
        };
        let mut init = Init::new(device, 1).with_deviation(0.3);
        Two {
            words: Embedding::new(&mut init, 5, 8),
            block: PostNormBlock::new(&mut init, &config),
        }
    }

    const SPEC: LoraSpec = LoraSpec {
        rank: 2,
        alpha: 6.0,
        dropout: 0.0,
    };

    #[test]
    fn linear_layers_are_found_and_no_others() {
        let device = Device::flex().autodiff();
        let two = two(&device);
        let layers = linear_layers(&two);
        let expected = [
            "block.attention.query",
            "block.attention.key",
            "block.attention.value",
            "block.attention.output",
            "block.feed_forward.inner",
            "block.feed_forward.outer",
        ];
        assert_eq!(layers, expected);
        let before = parameters::values(&two);
        let adapted = attach(two, &mut Init::new(&device, 2), &SPEC, &|layer| {
            layer.ends_with("value")
        });
        let mut names: Vec<String> = parameters::values(&adapted)
            .into_iter()
            .map(|(n, _)| n)
            .collect();
        let lora = "block.attention.value.weight.lora";
        let at = names
            .iter()
            .position(|n| n == &format!("{lora}.a"))
            .unwrap();
        assert_eq!(names.remove(at), format!("{lora}.a"));
        assert_eq!(names.remove(at), format!("{lora}.b"));
        // All else is there under its old name, with its old values.
        let base: Vec<_> = parameters::values(&adapted)
            .into_iter()
            .filter(|(name, _)| !name.contains(".lora."))
            .collect();
        assert_eq!(base, before);
    }

    /// What is new changes nothing, what has learned does, and added to the weight it is the same.
    #[test]
    fn an_adapter_begins_as_nothing_and_can_be_merged() {
        let device = Device::flex();
        let plain = two(&device);
        let mut numbers = Init::new(&device, 3);
        let x = numbers.uniform([2, 3, 8], 1.0).val();
        let run = |two: &Two| two.block.forward(x.clone(), None).into_data();
        let adapted = attach(plain.clone(), &mut Init::new(&device, 2), &SPEC, &|_| true);
        run(&adapted).assert_eq(&run(&plain), true);
        let learned = parameters::replace(adapted, |name, shape| {
            name.ends_with("lora.b").then(|| {
                let values = numbers.uniform([shape[0], shape[1]], 0.5).val();
                values.into_data()
            })
        });
        assert_ne!(run(&learned), run(&plain));
        let merged = learned.clone().materialize();
        assert_eq!(
            parameters::list(&merged).len(),
            parameters::list(&plain).len()
        );
        /// A few roundings of numbers around 1.
        const TOLERANCE: f64 = 1e-6;
        run(&merged).assert_approx_eq::<f32>(&run(&learned), Tolerance::absolute(TOLERANCE));
    }
}

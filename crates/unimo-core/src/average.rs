//! Exponential moving averages of a module's parameters, for momentum encoders and for evaluating a smoothed model.
//!
//! Averages are updated between steps, never inside a forward pass.

use std::any::Any;
use std::collections::HashMap;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param, ParamId};
use burn::tensor::Tensor;

use crate::parameters;

/// A frozen copy: its parameters have ids of their own and track no gradient.
pub fn frozen_copy<M: Module>(module: &M) -> M {
    struct Freeze;
    impl ModuleMapper for Freeze {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            let value = param.val().detach().set_require_grad(false);
            Param::initialized(ParamId::new(), value).set_require_grad(false)
        }
    }
    module.clone().map(&mut Freeze)
}

/// `average * decay + source * (1 - decay)`, parameter by parameter. Parameters are matched by path.
///
/// # Panics
///
/// Panics if `source` lacks a parameter of `average`: both are the same module type, made from one configuration.
pub fn update<M: Module>(average: M, source: &M, decay: f64) -> M {
    struct Collect {
        path: Vec<String>,
        found: HashMap<String, Box<dyn Any>>,
    }
    impl ModuleVisitor for Collect {
        fn enter_module(&mut self, name: &str, _container: &str) {
            self.path.push(name.to_owned());
        }
        fn exit_module(&mut self, _name: &str, _container: &str) {
            self.path.pop();
        }
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let value = param.val().without_autodiff();
            self.found.insert(self.path.join("."), Box::new(value));
        }
    }
    struct Blend {
        path: Vec<String>,
        sources: HashMap<String, Box<dyn Any>>,
        decay: f64,
    }
    impl ModuleMapper for Blend {
        fn enter_module(&mut self, name: &str, _container: &str) {
            self.path.push(name.to_owned());
        }
        fn exit_module(&mut self, _name: &str, _container: &str) {
            self.path.pop();
        }
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            let source = self
                .sources
                .remove(&self.path.join("."))
                .and_then(|boxed| boxed.downcast::<Tensor<D>>().ok())
                .expect("invariant: both modules have the same parameters");
            let decay = self.decay;
            parameters::update(param, |average| {
                average.mul_scalar(decay) + source.mul_scalar(1.0 - decay)
            })
        }
    }
    let mut collect = Collect {
        path: Vec::new(),
        found: HashMap::new(),
    };
    source.visit(&mut collect);
    average.map(&mut Blend {
        path: Vec::new(),
        sources: collect.found,
        decay,
    })
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    use burn::tensor::Device;

    use super::*;
    use crate::init::Init;
    use crate::layers::Linear;

    #[test]
    fn blends_and_stays_frozen() {
        let device = Device::flex().autodiff();
        let source = Linear::new(&mut Init::new(&device, 1), 3, 2, true);
        let start = Linear::new(&mut Init::new(&device, 2), 3, 2, true);
        let average = update(frozen_copy(&start), &source, 0.75);
        let values = |m: &Linear| -> Vec<f32> { m.weight.val().into_data().iter().collect() };
        for ((a, s), o) in values(&average)
            .iter()
            .zip(values(&source))
            .zip(values(&start))
        {
            assert_eq!(*a, o * 0.75 + s * 0.25);
        }
        assert!(parameters::list(&average).iter().all(|p| !p.trainable));
        assert!(parameters::list(&source).iter().all(|p| p.trainable));
        assert_ne!(average.weight.id, start.weight.id);
    }
}

//! Exponential moving averages of a module's parameters, for momentum encoders and for evaluating a smoothed model.
//!
//! Averages are updated between steps, never inside a forward pass.

use std::any::Any;
use std::collections::HashMap;

use burn::module::{Module, Param, ParamId};
use burn::tensor::Tensor;

use crate::parameters::{self, Change, See};

/// A frozen copy: its parameters have ids of their own and track no gradient.
pub fn frozen_copy<M: Module>(module: &M) -> M {
    struct Freeze;
    impl Change for Freeze {
        fn change<const D: usize>(&mut self, _: &str, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            let value = param.val().detach().set_require_grad(false);
            Param::initialized(ParamId::new(), value).set_require_grad(false)
        }
    }
    parameters::change(module.clone(), &mut Freeze)
}

/// `average * decay + source * (1 - decay)`, parameter by parameter. Parameters are matched by path.
///
/// # Panics
///
/// Panics if `source` lacks a parameter of `average`: both are the same module type, made from one configuration.
pub fn update<M: Module>(average: M, source: &M, decay: f64) -> M {
    struct Collect(HashMap<String, Box<dyn Any>>);
    impl See for Collect {
        fn see<const D: usize>(&mut self, name: &str, param: &Param<Tensor<D>>) {
            let value = param.val().without_autodiff();
            self.0.insert(name.to_owned(), Box::new(value));
        }
    }
    struct Blend {
        sources: HashMap<String, Box<dyn Any>>,
        decay: f64,
    }
    impl Change for Blend {
        fn change<const D: usize>(
            &mut self,
            name: &str,
            param: Param<Tensor<D>>,
        ) -> Param<Tensor<D>> {
            let source = self
                .sources
                .remove(name)
                .and_then(|boxed| boxed.downcast::<Tensor<D>>().ok())
                .expect("invariant: both modules have the same parameters");
            let decay = self.decay;
            parameters::update(param, |average| {
                average.mul_scalar(decay) + source.mul_scalar(1.0 - decay)
            })
        }
    }
    let mut collect = Collect(HashMap::new());
    parameters::see(source, &mut collect);
    let mut blend = Blend {
        sources: collect.0,
        decay,
    };
    parameters::change(average, &mut blend)
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

//! A module's parameters by name: `encoder.layers.0.attention.query.weight`.
//!
//! Checkpoints, parameter groups, freezing, moving averages, the optimiser and the import of other projects' weights all go through
//! here: [`See`] looks at parameters, [`Change`] gives new ones. Only adapters ([`crate::lora`]), which look for layers, walk by themselves.

use std::any::Any;
use std::collections::HashMap;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param, ParamId};
use burn::optim::GradientsParams;
use burn::tensor::{FloatDType, Tensor, TensorData};

/// Looks at each float parameter.
pub trait See {
    /// Is called with every float parameter and its name, in the module's order.
    fn see<const D: usize>(&mut self, name: &str, param: &Param<Tensor<D>>);
}

/// Changes each float parameter.
pub trait Change {
    /// Gives what takes the place of a float parameter. It is called in the module's order.
    fn change<const D: usize>(&mut self, name: &str, param: Param<Tensor<D>>) -> Param<Tensor<D>>;
}

/// Shows every float parameter of a module.
pub fn see<M: Module>(module: &M, see: &mut impl See) {
    module.visit(&mut Walk::new(see));
}

/// Changes every float parameter of a module.
pub fn change<M: Module>(module: M, change: &mut impl Change) -> M {
    module.map(&mut Walk::new(change))
}

/// Keeps the path to where burn's walk over a module is.
struct Walk<'a, T> {
    path: Vec<String>,
    each: &'a mut T,
}

impl<'a, T> Walk<'a, T> {
    fn new(each: &'a mut T) -> Self {
        Self {
            path: Vec::new(),
            each,
        }
    }
}

impl<T: See> ModuleVisitor for Walk<'_, T> {
    fn enter_module(&mut self, name: &str, _container: &str) {
        self.path.push(name.to_owned());
    }
    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.pop();
    }
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.each.see(&self.path.join("."), param);
    }
}

impl<T: Change> ModuleMapper for Walk<'_, T> {
    fn enter_module(&mut self, name: &str, _container: &str) {
        self.path.push(name.to_owned());
    }
    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.pop();
    }
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        self.each.change(&self.path.join("."), param)
    }
}

/// One parameter, without its values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParameterInfo {
    /// Path of field names and indices, joined by dots.
    pub name: String,
    /// burn's key for it in gradients.
    pub id: ParamId,
    /// Shape as stored: linear weights are `[in, out]`.
    pub shape: Vec<usize>,
    /// Whether it takes part in training.
    pub trainable: bool,
}

/// Every float parameter, in the module's order.
pub fn list<M: Module>(module: &M) -> Vec<ParameterInfo> {
    let mut found = Vec::new();
    visit(module, |name, param| found.push(param.info(name)));
    found
}

/// Every float parameter with its values as f32, in the module's order.
pub fn values<M: Module>(module: &M) -> Vec<(String, TensorData)> {
    let mut found = Vec::new();
    visit(module, |name, param| found.push((name, param.data())));
    found
}

/// The gradient of every float parameter that has one, as f32, in the module's order.
pub fn gradients<M: Module>(module: &M, gradients: &GradientsParams) -> Vec<(String, TensorData)> {
    let mut found = Vec::new();
    visit(module, |name, param| {
        found.extend(param.gradient(gradients).map(|data| (name, data)));
    });
    found
}

/// Replaces every float parameter by what `give` returns for its name and shape; `None` leaves it.
///
/// Identity, device and trainability stay. The values must have the parameter's shape: callers check it where they can
/// still name the file.
///
/// # Panics
///
/// Panics if a value has another shape.
pub fn replace<M: Module>(module: M, give: impl FnMut(&str, &[usize]) -> Option<TensorData>) -> M {
    struct Replace<F>(F);
    impl<F: FnMut(&str, &[usize]) -> Option<TensorData>> Change for Replace<F> {
        fn change<const D: usize>(
            &mut self,
            name: &str,
            param: Param<Tensor<D>>,
        ) -> Param<Tensor<D>> {
            let shape: Vec<usize> = param.dims().to_vec();
            match (self.0)(name, &shape) {
                None => param,
                Some(data) => {
                    assert_eq!(data.shape().as_slice(), shape, "shape of `{name}`");
                    update(param, |old| Tensor::<D>::from_data(data, &old.device()))
                }
            }
        }
    }
    change(module, &mut Replace(give))
}

/// The module with the values of `source`, parameter by parameter, by name. The values are shared, not copied, and `module` keeps what is
/// no parameter, such as its dropout.
///
/// # Panics
///
/// Panics if `source` lacks a parameter of `module`: both are the same module type, of the same sizes.
pub fn with_values_of<M: Module>(module: M, source: &M) -> M {
    struct Collect(HashMap<String, Box<dyn Any>>);
    impl See for Collect {
        fn see<const D: usize>(&mut self, name: &str, param: &Param<Tensor<D>>) {
            let value = param.val().without_autodiff();
            self.0.insert(name.to_owned(), Box::new(value));
        }
    }
    impl Change for Collect {
        fn change<const D: usize>(
            &mut self,
            name: &str,
            param: Param<Tensor<D>>,
        ) -> Param<Tensor<D>> {
            let value = self.0.remove(name);
            let value = value.and_then(|boxed| boxed.downcast::<Tensor<D>>().ok());
            let value = *value.expect("invariant: both modules have the same parameters");
            update(param, |_| value)
        }
    }
    let mut values = Collect(HashMap::new());
    see(source, &mut values);
    change(module, &mut values)
}

/// A copy with the same values: its parameters have ids of their own, and learn where those of the original do.
pub fn copy<M: Module>(module: &M) -> M {
    struct Copy;
    impl Change for Copy {
        fn change<const D: usize>(&mut self, _: &str, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            let (_, value, _) = update(param, |value| value).consume();
            Param::initialized(ParamId::new(), value)
        }
    }
    change(module.clone(), &mut Copy)
}

/// New values for a parameter, computed outside the autodiff graph; identity and training state stay.
pub fn update<const D: usize>(
    param: Param<Tensor<D>>,
    new: impl FnOnce(Tensor<D>) -> Tensor<D>,
) -> Param<Tensor<D>> {
    param.map(|old| {
        let tracks = old.is_require_grad();
        let strategy = old.gradient_checkpointing_strategy();
        let autodiff = old.is_autodiff();
        let new = new(old.without_autodiff());
        if !autodiff {
            return new;
        }
        let mut new = new.autodiff();
        if let Some(strategy) = strategy {
            new = new.with_gradient_checkpointing_strategy(strategy);
        }
        if tracks { new.require_grad() } else { new }
    })
}

/// A parameter whose values are fetched from its device only when they are written out.
pub struct Handle {
    /// Path of field names and indices, joined by dots.
    pub name: String,
    /// Shape as stored.
    pub shape: Vec<usize>,
    fetch: Box<dyn Fn() -> TensorData>,
}

impl Handle {
    /// The values as f32.
    pub fn fetch(&self) -> TensorData {
        (self.fetch)()
    }

    /// Any f32 tensor under a name.
    pub fn new<const D: usize>(name: String, tensor: Tensor<D>) -> Self {
        Self {
            name,
            shape: tensor.dims().to_vec(),
            fetch: Box::new(move || single(tensor.clone())),
        }
    }
}

/// Every float parameter, in the module's order, to be fetched one at a time.
pub fn handles<M: Module>(module: &M) -> Vec<Handle> {
    let mut found = Vec::new();
    visit(module, |name, param| found.push(param.handle(name)));
    found
}

/// A parameter of any rank, as [`visit`] hands it out.
pub trait AnyParameter {
    /// Name and shape.
    fn info(&self, name: String) -> ParameterInfo;
    /// Values as f32.
    fn data(&self) -> TensorData;
    /// Its gradient as f32, if it has one.
    fn gradient(&self, gradients: &GradientsParams) -> Option<TensorData>;
    /// Values as f32, later.
    fn handle(&self, name: String) -> Handle;
}

impl<const D: usize> AnyParameter for Param<Tensor<D>> {
    fn info(&self, name: String) -> ParameterInfo {
        ParameterInfo {
            name,
            id: self.id,
            shape: self.dims().to_vec(),
            trainable: self.is_require_grad(),
        }
    }
    fn data(&self) -> TensorData {
        single(self.val())
    }
    fn gradient(&self, gradients: &GradientsParams) -> Option<TensorData> {
        gradients.get::<D>(self.id).map(single)
    }
    fn handle(&self, name: String) -> Handle {
        Handle::new(name, self.val())
    }
}

fn single<const D: usize>(tensor: Tensor<D>) -> TensorData {
    crate::dtype::cast(tensor.without_autodiff(), FloatDType::F32).into_data()
}

/// Calls `see` with the name of every float parameter, in the module's order.
pub fn visit<M: Module>(module: &M, see: impl FnMut(String, &dyn AnyParameter)) {
    struct Visit<F>(F);
    impl<F: FnMut(String, &dyn AnyParameter)> See for Visit<F> {
        fn see<const D: usize>(&mut self, name: &str, param: &Param<Tensor<D>>) {
            (self.0)(name.to_owned(), param);
        }
    }
    self::see(module, &mut Visit(see));
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    use burn::tensor::Device;

    use super::*;
    use crate::blocks::{BlockConfig, PostNormBlock};
    use crate::init::Init;
    use crate::layers::Activation;

    fn block(seed: u64) -> PostNormBlock {
        let config = BlockConfig {
            width: 4,
            heads: 2,
            feed_forward: 8,
            activation: Activation::Gelu,
            layer_norm_eps: 1e-5,
            dropout: 0.0,
            drop_path: 0.0,
        };
        PostNormBlock::new(&mut Init::new(&Device::flex().autodiff(), seed), &config)
    }

    #[test]
    fn names_are_paths_and_values_travel() {
        let from = block(1);
        let names: Vec<_> = list(&from).into_iter().map(|p| p.name).collect();
        assert!(
            names.contains(&"attention.query.weight".to_owned()),
            "{names:?}"
        );
        assert!(
            names.contains(&"feed_forward_norm.bias".to_owned()),
            "{names:?}"
        );
        assert_eq!(names.len(), 16);

        let source: std::collections::HashMap<_, _> = values(&from).into_iter().collect();
        let to = replace(block(2), |name, _| source.get(name).cloned());
        assert_eq!(values(&from), values(&to));
        assert!(list(&to).iter().all(|p| p.trainable));
    }
}

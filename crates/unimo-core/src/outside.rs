//! Modules of other crates, whose types are not known here: a program registers an objective or an encoder of its own, and the model
//! holds it as a module like any other.

use std::any::Any;
use std::fmt::{self, Debug};

use burn::module::{
    Content, Devices, Flag, Module, ModuleDisplay, ModuleDisplayDefault, ModuleMapper,
    ModuleVisitor, Param,
};
use burn::tensor::{Bool, Device, Int, Tensor};

/// A module of another crate that is used as a `T`, such as `dyn Objective`. Its parameters are stored under its key.
pub struct Outside<T: ?Sized + 'static> {
    key: &'static str,
    module: Box<dyn AnyModule>,
    view: View<T>,
}

/// A module as a `T`.
struct View<T: ?Sized + 'static> {
    of: fn(&dyn Any) -> &T,
    of_mut: fn(&mut dyn Any) -> &mut T,
}

impl<T: ?Sized + 'static> Clone for View<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T: ?Sized + 'static> Copy for View<T> {}

impl<T: ?Sized + 'static> Outside<T> {
    /// Holds a module. `of` and `of_mut` give the module as a `T`.
    pub fn new<M: Module + 'static>(
        key: &'static str,
        module: M,
        of: fn(&dyn Any) -> &T,
        of_mut: fn(&mut dyn Any) -> &mut T,
    ) -> Self {
        Self {
            key,
            module: Box::new(module),
            view: View { of, of_mut },
        }
    }

    /// The key.
    pub fn key(&self) -> &'static str {
        self.key
    }

    /// The module as its own type.
    pub fn downcast<M: Module + 'static>(&self) -> Option<&M> {
        self.module.as_any().downcast_ref()
    }

    /// The module.
    pub fn get(&self) -> &T {
        (self.view.of)(self.module.as_any())
    }

    /// The same, to be changed.
    pub fn get_mut(&mut self) -> &mut T {
        (self.view.of_mut)(self.module.as_any_mut())
    }

    fn with(&self, module: Box<dyn AnyModule>) -> Self {
        Self {
            key: self.key,
            module,
            view: self.view,
        }
    }
}

impl<T: ?Sized + 'static> Debug for Outside<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {:?}", self.key, self.module)
    }
}

impl<T: ?Sized + 'static> Clone for Outside<T> {
    fn clone(&self) -> Self {
        self.with(self.module.copy())
    }
}

/// The methods of burn's `Module`, without type parameters.
trait AnyModule: Debug + Send {
    fn as_any(&self) -> &dyn Any;
    fn as_any_mut(&mut self) -> &mut dyn Any;
    fn copy(&self) -> Box<dyn AnyModule>;
    fn devices(&self, devices: Devices) -> Devices;
    fn fork(&self, device: &Device) -> Box<dyn AnyModule>;
    fn to_device(&self, device: &Device) -> Box<dyn AnyModule>;
    fn train(&self) -> Box<dyn AnyModule>;
    fn valid(&self) -> Box<dyn AnyModule>;
    fn materialize(&self) -> Box<dyn AnyModule>;
    fn visit(&self, visitor: &mut dyn AnyVisitor);
    fn map(&self, mapper: &mut dyn AnyMapper) -> Box<dyn AnyModule>;
}

impl<T: Module + 'static> AnyModule for T {
    fn as_any(&self) -> &dyn Any {
        self
    }
    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }
    fn copy(&self) -> Box<dyn AnyModule> {
        Box::new(self.clone())
    }
    fn devices(&self, devices: Devices) -> Devices {
        Module::collect_devices(self, devices)
    }
    fn fork(&self, device: &Device) -> Box<dyn AnyModule> {
        Box::new(Module::fork(self.clone(), device))
    }
    fn to_device(&self, device: &Device) -> Box<dyn AnyModule> {
        Box::new(Module::to_device(self.clone(), device))
    }
    fn train(&self) -> Box<dyn AnyModule> {
        Box::new(Module::train(self.clone()))
    }
    fn valid(&self) -> Box<dyn AnyModule> {
        Box::new(Module::valid(self))
    }
    fn materialize(&self) -> Box<dyn AnyModule> {
        Box::new(Module::materialize(self.clone()))
    }
    fn visit(&self, visitor: &mut dyn AnyVisitor) {
        Module::visit(self, &mut ToAny(visitor));
    }
    fn map(&self, mapper: &mut dyn AnyMapper) -> Box<dyn AnyModule> {
        Box::new(Module::map(self.clone(), &mut ToAny(mapper)))
    }
}

/// A visitor without type parameters: parameters come as [`Any`].
trait AnyVisitor {
    fn see(&mut self, param: &dyn Any);
    fn enter(&mut self, name: &str, container: &str);
    fn exit(&mut self, name: &str, container: &str);
}

/// The same for a mapper.
trait AnyMapper {
    fn change(&mut self, param: Box<dyn Any>) -> Box<dyn Any>;
    fn enter(&mut self, name: &str, container: &str);
    fn exit(&mut self, name: &str, container: &str);
}

/// A visitor or mapper with type parameters, in front of one without.
struct ToAny<'a, T: ?Sized>(&'a mut T);

impl ModuleVisitor for ToAny<'_, dyn AnyVisitor + '_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.0.see(param);
    }
    fn visit_int<const D: usize>(&mut self, param: &Param<Tensor<D, Int>>) {
        self.0.see(param);
    }
    fn visit_bool<const D: usize>(&mut self, param: &Param<Tensor<D, Bool>>) {
        self.0.see(param);
    }
    fn visit_flag(&mut self, flag: &Param<Flag>) {
        self.0.see(flag);
    }
    fn enter_module(&mut self, name: &str, container: &str) {
        self.0.enter(name, container);
    }
    fn exit_module(&mut self, name: &str, container: &str) {
        self.0.exit(name, container);
    }
}

impl ToAny<'_, dyn AnyMapper + '_> {
    fn change<P: Any>(&mut self, param: P) -> P {
        let changed = self.0.change(Box::new(param)).downcast::<P>();
        *changed.expect("invariant: a mapper gives back what it was given")
    }
}

impl ModuleMapper for ToAny<'_, dyn AnyMapper + '_> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        self.change(param)
    }
    fn map_int<const D: usize>(&mut self, param: Param<Tensor<D, Int>>) -> Param<Tensor<D, Int>> {
        self.change(param)
    }
    fn map_bool<const D: usize>(
        &mut self,
        param: Param<Tensor<D, Bool>>,
    ) -> Param<Tensor<D, Bool>> {
        self.change(param)
    }
    fn map_flag(&mut self, flag: Param<Flag>) -> Param<Flag> {
        self.change(flag)
    }
    fn enter_module(&mut self, name: &str, container: &str) {
        self.0.enter(name, container);
    }
    fn exit_module(&mut self, name: &str, container: &str) {
        self.0.exit(name, container);
    }
}

/// A visitor or mapper without type parameters, in front of one with them.
struct FromAny<'a, T>(&'a mut T);

impl<V: ModuleVisitor> AnyVisitor for FromAny<'_, V> {
    fn see(&mut self, param: &dyn Any) {
        macro_rules! ranks {
            ($($rank:literal),+) => {$(
                if let Some(param) = param.downcast_ref::<Param<Tensor<$rank>>>() {
                    return self.0.visit_float(param);
                }
                if let Some(param) = param.downcast_ref::<Param<Tensor<$rank, Int>>>() {
                    return self.0.visit_int(param);
                }
                if let Some(param) = param.downcast_ref::<Param<Tensor<$rank, Bool>>>() {
                    return self.0.visit_bool(param);
                }
            )+};
        }
        ranks!(1, 2, 3, 4, 5, 6);
        match param.downcast_ref::<Param<Flag>>() {
            Some(flag) => self.0.visit_flag(flag),
            None => unreachable!("invariant: parameters have one to six axes"),
        }
    }
    fn enter(&mut self, name: &str, container: &str) {
        self.0.enter_module(name, container);
    }
    fn exit(&mut self, name: &str, container: &str) {
        self.0.exit_module(name, container);
    }
}

impl<M: ModuleMapper> AnyMapper for FromAny<'_, M> {
    fn change(&mut self, mut param: Box<dyn Any>) -> Box<dyn Any> {
        macro_rules! ranks {
            ($($rank:literal),+) => {$(
                param = match param.downcast::<Param<Tensor<$rank>>>() {
                    Ok(param) => return Box::new(self.0.map_float(*param)),
                    Err(other) => other,
                };
                param = match param.downcast::<Param<Tensor<$rank, Int>>>() {
                    Ok(param) => return Box::new(self.0.map_int(*param)),
                    Err(other) => other,
                };
                param = match param.downcast::<Param<Tensor<$rank, Bool>>>() {
                    Ok(param) => return Box::new(self.0.map_bool(*param)),
                    Err(other) => other,
                };
            )+};
        }
        ranks!(1, 2, 3, 4, 5, 6);
        match param.downcast::<Param<Flag>>() {
            Ok(flag) => Box::new(self.0.map_flag(*flag)),
            Err(_) => unreachable!("invariant: parameters have one to six axes"),
        }
    }
    fn enter(&mut self, name: &str, container: &str) {
        self.0.enter_module(name, container);
    }
    fn exit(&mut self, name: &str, container: &str) {
        self.0.exit_module(name, container);
    }
}

const CONTAINER: &str = "Struct:Outside";

impl<T: ?Sized + 'static> Module for Outside<T> {
    fn collect_devices(&self, devices: Devices) -> Devices {
        self.module.devices(devices)
    }
    fn fork(self, device: &Device) -> Self {
        self.with(self.module.fork(device))
    }
    fn to_device(self, device: &Device) -> Self {
        self.with(self.module.to_device(device))
    }
    fn train(self) -> Self {
        self.with(self.module.train())
    }
    fn valid(&self) -> Self {
        self.with(self.module.valid())
    }
    fn materialize(self) -> Self {
        self.with(self.module.materialize())
    }
    fn visit<V: ModuleVisitor>(&self, visitor: &mut V) {
        visitor.enter_module(self.key, CONTAINER);
        self.module.visit(&mut FromAny(visitor));
        visitor.exit_module(self.key, CONTAINER);
    }
    fn map<M: ModuleMapper>(self, mapper: &mut M) -> Self {
        mapper.enter_module(self.key, CONTAINER);
        let mapped = self.with(self.module.map(&mut FromAny(mapper)));
        mapper.exit_module(self.key, CONTAINER);
        mapped
    }
}

impl<T: ?Sized + 'static> ModuleDisplay for Outside<T> {}

impl<T: ?Sized + 'static> ModuleDisplayDefault for Outside<T> {
    fn content(&self, content: Content) -> Option<Content> {
        content.set_top_level_type(self.key).optional()
    }
}

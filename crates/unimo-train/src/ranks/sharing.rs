//! What rank 0 has and the others get: the state that a training goes on with.

use std::collections::BTreeMap;

use burn::module::Module;
use burn::tensor::{Device, TensorData};
use unimo_core::parameters;
use unimo_core::world::World;

use crate::checkpoint::State;
use crate::error::TrainError;
use crate::model::Model;
use crate::ranks::agree;

const WEIGHTS: &str = "the weights of rank 0";
const MOMENTS: &str = "the optimiser's moments of rank 0";

/// Rank 0's state on all ranks. The states must have the same shape, which is checked. `device` is that of the moments.
pub(crate) fn state(
    world: &World,
    state: State<Model>,
    device: &Device,
) -> Result<State<Model>, TrainError> {
    if world.is_alone() {
        return Ok(state);
    }
    let shapes = parameters::list(&state.model).into_iter().map(|p| {
        let learns = if p.trainable { "learns" } else { "fixed" };
        (p.name, format!("{:?} ({learns})", p.shape))
    });
    agree(world, "the parameters", shapes.collect())?;
    let step = world.from_first("the step of rank 0", || state.step)?;
    let note = || state.scale.map(|scale| scale.note());
    let note = world.from_first("the loss scale of rank 0", note)?;
    let scale = state
        .scale
        .map(|own| note.and_then(|note| own.of_note(&note)).unwrap_or(own));
    let model = module(world, state.model)?;
    let ema = state.ema.map(|ema| module(world, ema)).transpose()?;
    let mut optimizer = state.optimizer;
    let own = optimizer.handles();
    let moments: Vec<(String, usize)> = world.from_first(MOMENTS, || {
        let count = |shape: &[usize]| shape.iter().product();
        own.iter()
            .map(|handle| (handle.name.clone(), count(&handle.shape)))
            .collect()
    })?;
    let mut values = BTreeMap::new();
    for (at, (name, count)) in moments.into_iter().enumerate() {
        let mut moment = if world.is_first() {
            own[at].fetch().iter::<f32>().collect()
        } else {
            vec![0.0; count]
        };
        world.broadcast_values(MOMENTS, &mut moment)?;
        if !world.is_first() {
            values.insert(name, TensorData::new(moment, [count]));
        }
    }
    if !world.is_first() {
        optimizer.load(&model, device, |name, _| {
            Ok::<_, TrainError>(values.remove(name))
        })?;
    }
    Ok(State {
        model,
        optimizer,
        ema,
        scale,
        step,
    })
}

/// A module with rank 0's values.
fn module<M: Module>(world: &World, module: M) -> Result<M, TrainError> {
    let mut own = parameters::values(&module).into_iter();
    let mut lost = None;
    let module = parameters::replace(module, |_, shape| {
        let (_, data) = own.next()?;
        let mut values: Vec<f32> = data.iter::<f32>().collect();
        if lost.is_none() {
            lost = world.broadcast_values(WEIGHTS, &mut values).err();
        }
        // Rank 0 keeps its own.
        (!world.is_first()).then(|| TensorData::new(values, shape.to_vec()))
    });
    match lost {
        Some(lost) => Err(lost.into()),
        None => Ok(module),
    }
}

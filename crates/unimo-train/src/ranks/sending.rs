//! Gradients on their way to the other ranks, bucket by bucket.

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use burn::module::{Param, ParamId};
use burn::optim::GradientsParams;
use burn::tensor::{Device, FloatDType, Tensor, TensorData};
use unimo_core::dtype::cast;
use unimo_core::kernels::early::{self, Listener, Listening};
use unimo_core::parameters::{self, See};
use unimo_core::world::{Lost, Pending, Wire, World};

use crate::error::TrainError;
use crate::model::Model;
use crate::ranks::plan::{Heard, Plan};

/// What changes no number that it is added to.
const NOTHING: f32 = -0.0;

/// Micro-batches whose gradients may wait to be sent. Each is a copy of all gradients.
const WAITING: usize = 1;

const SENT: &str = "the sum of gradients";
const GATHERED: &str = "the parts of the sum of gradients";
const TOLD: &str = "which gradients there are";

/// How the gradients of a step are sent.
#[derive(Clone, Copy)]
pub(crate) struct Adding<'a> {
    pub world: &'a World,
    /// How the gradients of a micro-batch travel, and their sum.
    pub wire: Wire,
    /// This rank's micro-batches.
    pub micro: usize,
    /// The order of the buckets.
    pub plan: &'a Plan,
    /// Whether gradients are sent as the backward pass gives them, so that they may be sent before it ends.
    pub early: bool,
    /// Whether ranks compute while gradients are exchanged.
    pub overlap: bool,
    /// Values in a bucket.
    pub bucket: usize,
}

/// A parameter that learns.
struct Learning {
    id: ParamId,
    name: String,
    shape: Vec<usize>,
    device: Device,
    /// Reads, gives and takes away its gradient, whatever its rank as a tensor.
    read: fn(&GradientsParams, ParamId) -> Option<Vec<f32>>,
    give: fn(&mut GradientsParams, &Learning, Vec<f32>),
    forget: fn(&mut GradientsParams, ParamId),
}

impl Learning {
    fn count(&self) -> usize {
        self.shape.iter().product()
    }
}

/// The parameters that learn, in the module's order.
fn learning(model: &Model) -> Vec<Learning> {
    fn read<const D: usize>(gradients: &GradientsParams, id: ParamId) -> Option<Vec<f32>> {
        let gradient = gradients.get::<D>(id)?;
        let data = cast(gradient.without_autodiff(), FloatDType::F32).into_data();
        Some(data.try_into_vec().expect("invariant: it is f32"))
    }
    fn give<const D: usize>(gradients: &mut GradientsParams, own: &Learning, values: Vec<f32>) {
        let data = TensorData::new(values, own.shape.clone());
        gradients.register(own.id, Tensor::<D>::from_data(data, &own.device));
    }
    fn forget<const D: usize>(gradients: &mut GradientsParams, id: ParamId) {
        gradients.remove::<D>(id);
    }
    struct List(Vec<Learning>);
    impl See for List {
        fn see<const D: usize>(&mut self, name: &str, param: &Param<Tensor<D>>) {
            if param.is_require_grad() {
                self.0.push(Learning {
                    id: param.id,
                    name: name.to_owned(),
                    shape: param.dims().to_vec(),
                    device: param.val().device().without_autodiff(),
                    read: read::<D>,
                    give: give::<D>,
                    forget: forget::<D>,
                });
            }
        }
    }
    let mut list = List(Vec::new());
    parameters::see(model, &mut list);
    list.0
}

/// The gradients of a step, of all ranks.
pub(crate) struct Sending<'a> {
    world: &'a World,
    learning: Vec<Learning>,
    /// The parameters, in the order in which they are sent.
    order: Vec<usize>,
    /// Exchanges that are left.
    left: usize,
    overlap: bool,
    row: Rc<RefCell<Row>>,
    /// The last bucket of each micro-batch that is on its way.
    waiting: VecDeque<Pending<Vec<f32>>>,
    /// Which parameters have a gradient on this rank.
    present: Vec<bool>,
    _listening: Option<Listening>,
}

impl<'a> Sending<'a> {
    pub fn new(model: &Model, adding: Adding<'a>, exchanges: usize) -> Self {
        let learning = learning(model);
        let (order, early) = adding.plan.order(learning.len());
        let mut place = vec![0; order.len()];
        for (at, parameter) in order.iter().enumerate() {
            place[*parameter] = at;
        }
        let row = Rc::new(RefCell::new(Row {
            world: adding.world.clone(),
            wire: adding.wire,
            size: adding.bucket.next_multiple_of(adding.world.size()),
            early: early.unwrap_or(0),
            place,
            taken: vec![false; order.len()],
            pieces: order.iter().map(|_| None).collect(),
            looking: early.is_none().then(Looking::default),
            next: 0,
            bucket: Vec::new(),
            buckets: 0,
            gathers: false,
            parts: Arc::default(),
            gathered: VecDeque::new(),
            last: None,
            failed: None,
        }));
        // By a plan in which nothing is sent early there is nothing to hear.
        let hears = adding.overlap && adding.early && early != Some(0);
        let listening = hears.then(|| early::listen(model, Ear(Rc::clone(&row))));
        Self {
            world: adding.world,
            present: vec![false; learning.len()],
            learning,
            order,
            left: exchanges,
            overlap: adding.overlap,
            row,
            waiting: VecDeque::new(),
            _listening: listening,
        }
    }

    /// Adds gradients that all ranks have.
    pub fn add_common(&mut self, gradients: &GradientsParams) {
        let row = self.row.borrow();
        let (ranks, rank) = (self.world.size(), self.world.rank());
        let mut all = Vec::new();
        for parameter in &self.order {
            let own = &self.learning[*parameter];
            match (own.read)(gradients, own.id) {
                Some(values) => {
                    self.present[*parameter] = true;
                    all.extend(values);
                }
                None => all.resize(all.len() + own.count(), NOTHING),
            }
        }
        let mut parts = lock(&row.parts);
        for (number, bucket) in all.chunks(row.size).enumerate() {
            let part = bucket.len().div_ceil(ranks);
            let begin = (rank * part).min(bucket.len());
            let end = (begin + part).min(bucket.len());
            parts.add(number, part, &bucket[begin..end]);
        }
    }

    /// Is called before a backward pass.
    pub fn begin(&mut self) -> Result<(), TrainError> {
        self.wait(WAITING)?;
        self.left = self.left.saturating_sub(1);
        self.row.borrow_mut().begin(self.left == 0);
        Ok(())
    }

    /// Waits until at most `left` micro-batches are on their way.
    fn wait(&mut self, left: usize) -> Result<(), Lost> {
        while self.waiting.len() > left {
            if let Some(oldest) = self.waiting.pop_front() {
                self.world.wait_for(oldest)?;
            }
        }
        Ok(())
    }

    /// Sends what has not been sent of a micro-batch.
    pub fn finish(&mut self, gradients: Option<&GradientsParams>) -> Result<(), TrainError> {
        let mut row = self.row.borrow_mut();
        for (place, parameter) in self.order.iter().enumerate() {
            let own = &self.learning[*parameter];
            let gradient = gradients.and_then(|all| (own.read)(all, own.id));
            if row.taken[*parameter] {
                self.present[*parameter] = true;
                if gradient.is_some() {
                    return Err(TrainError::Check(format!(
                        "the gradient of {} was sent before it was whole: this step reads the parameter otherwise than the first step of \
                         this session did. --no-overlap sends gradients after the backward pass alone",
                        own.name
                    )));
                }
                continue;
            }
            self.present[*parameter] |= gradient.is_some();
            if let Some(looking) = &mut row.looking {
                looking.compare(*parameter, gradient.as_deref());
            }
            row.put(
                place,
                gradient.unwrap_or_else(|| vec![NOTHING; own.count()]),
            );
        }
        row.send_the_rest();
        if let Some(failed) = row.failed.take() {
            return Err(failed.into());
        }
        self.waiting.extend(row.last.take());
        drop(row);
        if !self.overlap {
            self.wait(0)?;
        }
        Ok(())
    }

    /// The whole sum, and the plan if there was none.
    pub fn whole(self) -> Result<(GradientsParams, Option<Plan>), TrainError> {
        let mut row = self.row.borrow_mut();
        let heard = row.looking.take().map(|looking| looking.heard);
        let told = (self.present, heard);
        let telling = move |world: &World| world.gather(TOLD, told);
        let told = self.world.in_background(TOLD, telling)?;
        let mut gradients = GradientsParams::new();
        let (mut bucket, mut at) = (Vec::new(), 0);
        for parameter in &self.order {
            let own = &self.learning[*parameter];
            let count = own.count();
            let mut values = Vec::with_capacity(count);
            while values.len() < count {
                if at == bucket.len() {
                    let next = row.gathered.pop_front();
                    let next = next.expect("invariant: the buckets hold all values");
                    (bucket, at) = (self.world.wait_for(next)?, 0);
                }
                let end = bucket.len().min(at + count - values.len());
                values.extend_from_slice(&bucket[at..end]);
                at = end;
            }
            (own.give)(&mut gradients, own, values);
        }
        let told = self.world.wait_for(told)?;
        for (at, own) in self.learning.iter().enumerate() {
            let is_there = told
                .iter()
                .any(|(present, _)| present.get(at) == Some(&true));
            if !is_there {
                (own.forget)(&mut gradients, own.id);
            }
        }
        let heard: Option<Vec<Heard>> = told.into_iter().map(|(_, heard)| heard).collect();
        let plan = heard.map(|heard| Plan::of(self.learning.len(), &heard));
        Ok((gradients, plan))
    }
}

/// Hears gradients while the backward pass goes on.
struct Ear(Rc<RefCell<Row>>);

impl Listener for Ear {
    fn hear(&mut self, parameter: usize, gradient: &[f32]) -> bool {
        self.0.borrow_mut().hear(parameter, gradient)
    }
}

/// What is noted while there is no plan.
#[derive(Default)]
struct Looking {
    heard: Heard,
    /// The gradients of a micro-batch as they were heard.
    values: HashMap<usize, Vec<f32>>,
}

impl Looking {
    fn hear(&mut self, parameter: usize, gradient: &[f32]) {
        if !self.heard.order.contains(&parameter) {
            self.heard.order.push(parameter);
        }
        if self.values.insert(parameter, gradient.to_vec()).is_some() {
            self.heard.too_early.push(parameter);
        }
    }

    /// Compares with what a gradient is after the backward pass.
    fn compare(&mut self, parameter: usize, gradient: Option<&[f32]>) {
        let Some(heard) = self.values.remove(&parameter) else {
            return;
        };
        let bits = |values: &[f32]| -> Vec<u32> { values.iter().map(|x| x.to_bits()).collect() };
        if gradient.is_none_or(|gradient| bits(gradient) != bits(&heard)) {
            self.heard.too_early.push(parameter);
        }
    }
}

/// This rank's parts of the sums, by bucket.
#[derive(Default)]
struct Parts {
    sums: Vec<Vec<f32>>,
    lost: Option<Lost>,
}

impl Parts {
    /// Adds values to the part of a bucket, which has `length` of them.
    fn add(&mut self, bucket: usize, length: usize, values: &[f32]) {
        if self.sums.len() == bucket {
            self.sums.push(vec![NOTHING; length]);
        }
        for (sum, value) in self.sums[bucket].iter_mut().zip(values) {
            *sum += value;
        }
    }
}

/// A thread that panicked while it held the lock has ended the exchange.
fn lock(parts: &Mutex<Parts>) -> MutexGuard<'_, Parts> {
    parts.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The gradients of a micro-batch, in the order in which they are sent.
struct Row {
    world: World,
    wire: Wire,
    /// Values in a bucket, a multiple of the number of ranks. The last one may have fewer.
    size: usize,
    /// How many parameters may be sent early, the first of the order.
    early: usize,
    /// Where each parameter is in the order.
    place: Vec<usize>,
    /// Which parameters have been taken from the backward pass.
    taken: Vec<bool>,
    /// What is there and waits for what comes before it, by its place.
    pieces: Vec<Option<Vec<f32>>>,
    /// `None`: there is a plan.
    looking: Option<Looking>,
    /// The place that comes next.
    next: usize,
    bucket: Vec<f32>,
    buckets: usize,
    /// Whether the parts are gathered, since it is the last micro-batch.
    gathers: bool,
    parts: Arc<Mutex<Parts>>,
    /// The sums of the buckets.
    gathered: VecDeque<Pending<Vec<f32>>>,
    /// The last bucket, if its sum is not gathered.
    last: Option<Pending<Vec<f32>>>,
    failed: Option<Lost>,
}

impl Row {
    fn begin(&mut self, gathers: bool) {
        self.gathers = gathers;
        self.taken.fill(false);
        self.next = 0;
        self.buckets = 0;
    }

    fn hear(&mut self, parameter: usize, gradient: &[f32]) -> bool {
        if let Some(looking) = &mut self.looking {
            looking.hear(parameter, gradient);
            return false;
        }
        let place = self.place[parameter];
        if place >= self.early || self.taken[parameter] {
            return false;
        }
        self.taken[parameter] = true;
        self.put(place, gradient.to_vec());
        true
    }

    /// Sends values, or keeps them until all before them are there.
    fn put(&mut self, place: usize, values: Vec<f32>) {
        self.pieces[place] = Some(values);
        while let Some(values) = self.pieces.get_mut(self.next).and_then(Option::take) {
            self.next += 1;
            if self.bucket.is_empty() {
                self.bucket = values;
            } else {
                self.bucket.extend(values);
            }
            while self.bucket.len() >= self.size {
                let rest = self.bucket.split_off(self.size);
                self.send(rest);
            }
        }
    }

    fn send_the_rest(&mut self) {
        if !self.bucket.is_empty() {
            self.send(Vec::new());
        }
    }

    /// Sends the bucket; `rest` begins the next one.
    fn send(&mut self, rest: Vec<f32>) {
        let mut bucket = std::mem::replace(&mut self.bucket, rest);
        let number = self.buckets;
        self.buckets += 1;
        let (ranks, count) = (self.world.size(), bucket.len());
        bucket.resize(count.next_multiple_of(ranks), NOTHING);
        let (shared, wire, gathers) = (Arc::clone(&self.parts), self.wire, self.gathers);
        let work = move |world: &World| {
            let mut parts = lock(&shared);
            if let Some(lost) = &parts.lost {
                return Err(lost.clone());
            }
            let part = bucket.len() / ranks;
            let exchange = || {
                world.meet(SENT)?;
                let all = world.exchange_values(SENT, bucket, wire)?;
                for values in all.chunks(part.max(1)) {
                    parts.add(number, part, values);
                }
                if !gathers {
                    return Ok(Vec::new());
                }
                let own = std::mem::take(&mut parts.sums[number]);
                let mut sum = world.gather_values(GATHERED, own, wire)?;
                sum.truncate(count);
                Ok(sum)
            };
            let exchanged = exchange();
            parts.lost = exchanged.as_ref().err().cloned();
            exchanged
        };
        match self.world.in_background(SENT, work) {
            Ok(pending) if self.gathers => self.gathered.push_back(pending),
            Ok(pending) => self.last = Some(pending),
            Err(lost) => self.failed = Some(lost),
        }
    }
}

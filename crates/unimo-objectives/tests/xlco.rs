//! Cross-lingual contrast: what its loss depends on, and how its queue is filled.
#![cfg(feature = "flex")]

mod small;

use burn::tensor::{Device, TensorData};
use unimo_batch::{Batch, KEY, QUERY, Texts};
use unimo_core::init::Init;
use unimo_core::parameters;
use unimo_encoders::backbone::{Backbone, BackboneConfig};
use unimo_objectives::pretraining::itc::Projection;
use unimo_objectives::pretraining::xlco::{FILLED, Reduction, XlcoConfig};
use unimo_objectives::teacher::{Teacher, TeacherConfig};
use unimo_objectives::{Draws, Objectives, ObjectivesConfig, Step};

/// f32 sums over a few rows in another order.
const TOLERANCE: f64 = 1e-5;

const QUEUE: usize = 5;
const LENGTH: usize = 4;

fn xlco() -> XlcoConfig {
    XlcoConfig {
        weight: 1.0,
        layer: 1,
        temperature: 1.0,
        projection: Projection::LinearNoBias,
        normalised: false,
        queue: QUEUE,
        fill_first: true,
        reduction: Reduction::Mean,
        mixup: false,
        mask: None,
    }
}

struct Model {
    backbone: Backbone,
    teacher: Teacher,
    heads: Objectives,
    device: Device,
}

fn of_texts() -> BackboneConfig {
    BackboneConfig {
        image: None,
        ..small::towers()
    }
}

fn config(xlco: XlcoConfig) -> ObjectivesConfig {
    ObjectivesConfig {
        xlco: Some(xlco),
        ..ObjectivesConfig::default()
    }
}

fn build(xlco: XlcoConfig) -> Model {
    let device = Device::flex().autodiff();
    let config = config(xlco);
    config.validate().unwrap();
    config.validate_with(&of_texts()).unwrap();
    let mut init = Init::new(&device, 3).with_deviation(0.3);
    let backbone = of_texts().init(&mut init);
    // A model other than the student, as after some steps.
    let teacher = TeacherConfig { decay: 0.9 }.init(&of_texts().init(&mut init));
    Model {
        heads: config.init(&mut init, &of_texts()),
        backbone,
        teacher,
        device,
    }
}

impl Model {
    fn run(&self, batch: &Batch) -> Step {
        let batches = std::slice::from_ref(batch);
        let together = self
            .heads
            .together(&|_| true, &self.backbone, batches, &self.device)
            .with_teacher(Some(&self.teacher));
        together.batch(0, Draws::new(1)).unwrap()
    }

    /// A step in which no weight changes.
    fn after(&mut self, step: Step) {
        self.heads.after_step(Some(&self.teacher), step.carries);
    }

    fn queue(&self) -> Vec<Vec<f32>> {
        let queue = self.heads.xlco.as_ref().unwrap().queue.features[0].val();
        let values: Vec<f32> = queue.into_data().iter::<f32>().collect();
        values.chunks(small::WIDTH).map(<[f32]>::to_vec).collect()
    }
}

fn texts(rows: &[[i32; LENGTH]]) -> Texts {
    let real = |row: &[i32; LENGTH]| row.iter().filter(|id| **id != 1).count();
    Texts {
        lengths: rows.iter().map(real).collect(),
        ids: rows.concat(),
        length: LENGTH,
        ..Texts::default()
    }
}

const QUERIES: [[i32; LENGTH]; 2] = [[0, 5, 6, 2], [0, 7, 2, 1]];
const KEYS: [[i32; LENGTH]; 2] = [[0, 10, 2, 1], [0, 11, 12, 2]];

fn batch(queries: &[[i32; LENGTH]], keys: &[[i32; LENGTH]]) -> Batch {
    Batch {
        samples: vec![String::new(); queries.len()],
        texts: Some(texts(queries)),
        further_texts: [
            (QUERY.to_owned(), texts(queries)),
            (KEY.to_owned(), texts(keys)),
        ]
        .into(),
        ..Batch::default()
    }
}

fn loss(step: &Step) -> f64 {
    f64::from(step.results[0].loss.clone().into_scalar::<f32>())
}

/// Without a full queue there is no loss and nothing learns; how full it is, is told. Then no row is left that it began with.
#[test]
fn the_queue_is_filled_first() {
    let mut model = build(xlco());
    let first = model.queue();
    let names = parameters::list(&model.heads);
    assert!(
        names
            .iter()
            .any(|p| p.name == "xlco.filled" && !p.trainable)
    );
    for filled in [0.0, 0.4, 0.8] {
        let step = model.run(&batch(&QUERIES, &KEYS));
        assert!(step.loss.is_none() && loss(&step) == 0.0);
        let metrics = &step.results[0].metrics;
        let told = metrics.iter().find(|metric| metric.name == FILLED).unwrap();
        let told = told.sum.clone().into_scalar::<f32>() / told.count as f32;
        assert!((told - filled).abs() < 1e-6, "{told} {filled}");
        model.after(step);
    }
    // Six keys in five rows: the last one stands where the first was.
    let queue = model.queue();
    assert!(queue.iter().all(|row| !first.contains(row)));
    let step = model.run(&batch(&QUERIES, &KEYS));
    assert!(step.loss.is_some() && loss(&step) > 0.0);
    assert!(!step.results[0].metrics.iter().any(|m| m.name == FILLED));
}

/// What is known of a full queue is in its parameters: a model that is made anew from them goes on alike.
#[test]
fn a_full_queue_is_full_after_a_resume() {
    let mut model = build(xlco());
    for _ in 0..3 {
        let step = model.run(&batch(&QUERIES, &KEYS));
        model.after(step);
    }
    let values = parameters::values(&model.heads);
    let mut other = build(xlco());
    other.heads = parameters::replace(other.heads, |name, _| {
        let found = values.iter().find(|(own, _)| own == name);
        found.map(|(_, data)| data.clone())
    });
    let [own, again] = [&model, &other].map(|model| loss(&model.run(&batch(&QUERIES, &KEYS))));
    assert_eq!(own.to_bits(), again.to_bits());
    assert!(own > 0.0);
}

fn without_filling() -> XlcoConfig {
    XlcoConfig {
        fill_first: false,
        ..xlco()
    }
}

/// The keys of a step are no negatives of it: a text alone has the loss that it has beside another one.
#[test]
fn negatives_come_from_the_queue_alone() {
    let model = build(without_filling());
    let both = loss(&model.run(&batch(&QUERIES, &KEYS)));
    let alone = [0, 1].map(|at| loss(&model.run(&batch(&QUERIES[at..=at], &KEYS[at..=at]))));
    assert!((both - (alone[0] + alone[1]) / 2.0).abs() < TOLERANCE);
    let sum = XlcoConfig {
        reduction: Reduction::Sum,
        ..without_filling()
    };
    let sum = loss(&build(sum).run(&batch(&QUERIES, &KEYS)));
    assert!((sum - alone[0] - alone[1]).abs() < TOLERANCE);
}

#[test]
fn the_order_of_the_queue_changes_nothing() {
    let mut model = build(without_filling());
    let before = loss(&model.run(&batch(&QUERIES, &KEYS)));
    let mut rows = model.queue();
    rows.rotate_left(2);
    rows.swap(0, 3);
    model.heads = parameters::replace(model.heads, |name, shape| {
        let new = || TensorData::new(rows.concat(), shape.to_vec());
        (name == "xlco.queue.features.0").then(new)
    });
    let after = loss(&model.run(&batch(&QUERIES, &KEYS)));
    assert!((before - after).abs() < TOLERANCE);
}

#[test]
fn a_batch_without_sides_skips_and_is_told() {
    let model = build(without_filling());
    let mut alone = batch(&QUERIES, &KEYS);
    alone.further_texts.clear();
    let step = model.run(&alone);
    assert!(step.results.is_empty() && step.skipped == ["xlco"]);
}

#[test]
fn what_cannot_be_contrasted_is_refused() {
    let error = |xlco: XlcoConfig| {
        let config = config(xlco);
        let checked = config
            .validate()
            .and_then(|()| config.validate_with(&of_texts()));
        checked.unwrap_err().to_string()
    };
    for layer in [0, 2] {
        let told = error(XlcoConfig { layer, ..xlco() });
        assert!(
            told.contains("xlco.layer") && told.contains("1 to model.text.layers = 1"),
            "{told}"
        );
    }
    let told = error(XlcoConfig { queue: 0, ..xlco() });
    assert!(told.contains("xlco.queue"), "{told}");
    let told = error(XlcoConfig {
        temperature: 0.0,
        ..xlco()
    });
    assert!(told.contains("xlco.temperature"), "{told}");
    let told = config(xlco()).validate_teacher(None).unwrap_err();
    assert!(told.to_string().contains("[objectives.xlco]"), "{told}");
}

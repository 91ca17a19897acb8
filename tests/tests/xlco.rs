//! InfoXLM's contrast against an independent PyTorch reference, `reference/xlco.py`: loss, gradients, queue and slow weights of two steps.

use burn::optim::GradientsParams;
use burn::tensor::TensorData;
use unimo_batch::{Batch, KEY, QUERY, Texts};
use unimo_core::init::Init;
use unimo_core::parameters;
use unimo_encoders::backbone::Backbone;
use unimo_objectives::teacher::{Teacher, TeacherConfig};
use unimo_objectives::{Draws, Objectives};
use unimo_tests::fixture::Reference;
use unimo_train::recipe::{Overrides, Recipe};

const LENGTH: usize = 6;
const DECAY: f64 = 0.9;
const RATE: f32 = 0.05;

/// Encoder, teacher and head of infoxlm-tiny at the reference's size, with its weights.
fn model(reference: &Reference) -> (Backbone, Teacher, Objectives) {
    let set = [
        "model.text.width=8",
        "model.text.layers=2",
        "model.text.heads=2",
        "model.text.feed_forward=16",
        "model.text.max_positions=8",
        "model.text.positions=from_zero",
        "objectives.mlm=none",
        "objectives.tlm=none",
        "objectives.xlco.layer=1",
        "objectives.xlco.temperature=2.0",
        "objectives.xlco.queue=6",
        "objectives.xlco.fill_first=false",
        "train.batch_size=4",
        "data.max_text_length=4",
    ];
    let overrides = Overrides {
        data: None,
        set: set.map(str::to_owned).into(),
    };
    let mut recipe = Recipe::load("infoxlm-tiny", &overrides).expect("a recipe that ships");
    // No tokenizer has so few words.
    recipe.model.text.vocab_size = 20;
    let init = &mut Init::new(&reference.device, 0);
    let backbone = recipe.model.init(init);
    let heads = recipe.objectives.init(init, &recipe.model);
    let mut teacher = TeacherConfig { decay: DECAY }.init(&backbone);
    teacher.backbone.text = reference.fill(teacher.backbone.text, "slow.text.");
    let heads = parameters::replace(heads, |name, _| match name {
        "xlco.projection.weight" => reference.known(name),
        "xlco.slow.weight" => reference.known("slow.xlco.projection.weight"),
        "xlco.queue.features.0" => reference.known("queue"),
        _ => None,
    });
    let text = reference.fill(backbone.text, "text.");
    (Backbone { text, ..backbone }, teacher, heads)
}

fn texts(reference: &Reference, name: &str) -> Texts {
    const PAD: i32 = 1;
    let ids = reference.numbers(name).into_iter();
    let ids: Vec<i32> = ids.map(|id| id as i32).collect();
    let real = |row: &[i32]| row.iter().filter(|id| **id != PAD).count();
    Texts {
        lengths: ids.chunks(LENGTH).map(real).collect(),
        ids,
        length: LENGTH,
        ..Texts::default()
    }
}

fn batch(reference: &Reference, step: usize) -> Batch {
    let query = texts(reference, &format!("queries_{step}"));
    let key = texts(reference, &format!("keys_{step}"));
    Batch {
        samples: (0..4).map(|row| row.to_string()).collect(),
        texts: Some(query.clone()),
        further_texts: [(QUERY.to_owned(), query), (KEY.to_owned(), key)].into(),
        ..Batch::default()
    }
}

/// A step against the gradient.
fn moved<M: burn::module::Module>(module: M, gradients: &GradientsParams) -> M {
    let gradients = parameters::gradients(&module, gradients);
    let values = parameters::values(&module);
    parameters::replace(module, |name, shape| {
        let of = |all: &[(String, TensorData)]| {
            let found = all.iter().find(|(own, _)| own == name);
            found.map(|(_, data)| data.iter::<f32>().collect::<Vec<f32>>())
        };
        let old = of(&values)?.into_iter().zip(of(&gradients)?);
        let new = old.map(|(value, gradient)| value - RATE * gradient);
        Some(TensorData::new(new.collect(), shape.to_vec()))
    })
}

/// Embeddings with their norm, one layer of 16 parameters, and the projection. Nothing slow has a gradient.
const LEARNS: usize = 5 + 16 + 1;

#[test]
fn two_steps_equal_the_reference() {
    let reference = Reference::open("xlco", "xlco");
    let (mut backbone, mut teacher, mut heads) = model(&reference);
    for number in [1, 2] {
        let batch = batch(&reference, number);
        let step = heads
            .together(
                &|_| true,
                &backbone,
                std::slice::from_ref(&batch),
                &reference.device,
            )
            .with_teacher(Some(&teacher))
            .batch(0, Draws::new(0))
            .unwrap();
        reference.output(&format!("loss_{number}"), &step.results[0].loss);
        let mut gradients = step.loss.unwrap().backward();
        let of_head = GradientsParams::from_module(&mut gradients, &heads);
        let of_encoder = GradientsParams::from_module(&mut gradients, &backbone);
        if number == 1 {
            let mut all = parameters::gradients(&heads, &of_head);
            all.extend(parameters::gradients(&backbone, &of_encoder));
            assert_eq!(all.len(), LEARNS);
            for (name, values) in all {
                reference.gradient_values(&format!("grad.{name}"), &values);
            }
        }
        backbone = moved(backbone, &of_encoder);
        heads = moved(heads, &of_head);
        teacher.after_step(&backbone);
        heads.after_step(Some(&teacher), step.carries);

        let xlco = heads.xlco.as_ref().unwrap();
        reference.output(&format!("queue_{number}"), &xlco.queue.features[0].val());
        let cursor = xlco.queue.cursor.val().into_scalar::<f32>() as i64;
        assert_eq!([cursor][..], reference.numbers(&format!("cursor_{number}")));
        let slow = parameters::values(&teacher.backbone.text).into_iter();
        let slow = slow.map(|(name, values)| (format!("text.{name}"), values));
        let projection = xlco.slow.as_ref().unwrap().weight.val().into_data();
        let projection = ("xlco.projection.weight".to_owned(), projection);
        for (name, values) in slow.chain([projection]) {
            reference.values(&format!("slow_{number}.{name}"), &values);
        }
    }
}

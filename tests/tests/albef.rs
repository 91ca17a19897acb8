//! ALBEF against an independent PyTorch reference (`reference/albef.py`): its checkpoint's names, the losses with their gradients, and
//! teacher, queue and ramp over three steps.

use std::collections::BTreeMap;

use burn::optim::GradientsParams;
use burn::tensor::{FloatDType, Gradients, TensorData};
use unimo_batch::{Batch, Images, MaskSpec, MaskedTexts, Texts};
use unimo_core::init::Init;
use unimo_core::layers::Activation;
use unimo_core::levels::GateKind;
use unimo_core::parameters;
use unimo_encoders::backbone::BackboneConfig;
use unimo_encoders::fusion::{FusionConfig, Levels, Link};
use unimo_encoders::image::ImageEncoderConfig;
use unimo_encoders::import::{Allow, ImportError, Report, import, invert};
use unimo_encoders::names::{Conversion, Names};
use unimo_encoders::public::albef;
use unimo_encoders::text::{Positions, TextEncoderConfig, TextTower};
use unimo_encoders::weights::Weights;
use unimo_objectives::pretraining::itc::{
    ItcConfig, MomentumConfig, Normalised, Projection, Views,
};
use unimo_objectives::pretraining::itm::{Head, ItmConfig, Layout, Negatives};
use unimo_objectives::pretraining::mlm::{Axis, DistilConfig, MlmConfig};
use unimo_objectives::ramp::ALPHA;
use unimo_objectives::teacher::TeacherConfig;
use unimo_objectives::{Draws, ObjectivesConfig, Step};
use unimo_tests::fixture::{self, Reference};
use unimo_train::model::Model;
use unimo_train::pretrained::albef_names;

const SAMPLES: usize = 4;
const LENGTH: usize = 5;
const LENGTHS: [usize; SAMPLES] = [5, 4, 5, 3];
const SIDE: usize = 8;
const STEPS: usize = 3;
const RATE: f32 = 0.05;
const DECAY: f64 = 0.9;
const TEMPERATURE: f32 = 0.07;
/// The share of soft targets in each step.
const ALPHAS: [f32; STEPS] = [0.0, 0.2, 0.4];
/// The counter and the share are exact but for one rounding.
const EXACT: f32 = 1e-7;

fn model() -> BackboneConfig {
    BackboneConfig {
        initializer_range: 0.02,
        text: TextEncoderConfig {
            tower: TextTower::Bert,
            vocab_size: 30,
            width: 8,
            layers: 1,
            heads: 2,
            feed_forward: 16,
            max_positions: 12,
            positions: Positions::FromZero,
            token_types: 2,
            pad_id: 0,
            activation: Activation::Gelu,
            layer_norm_eps: 1e-12,
            dropout: 0.0,
            drop_path: 0.0,
            outside: None,
        },
        image: Some(ImageEncoderConfig {
            image_size: SIDE,
            patch_size: 4,
            width: 8,
            layers: 2,
            heads: 2,
            feed_forward: 16,
            activation: Activation::Gelu,
            layer_norm_eps: 1e-6,
            pre_norm: false,
            patch_bias: true,
            distillation_token: false,
            qkv_bias: true,
            stem: None,
            mask_embedding: false,
            dropout: 0.0,
            drop_path: 0.0,
        }),
        regions: None,
        outside: None,
        image_tags: false,
        representation: None,
        map: None,
        fusion: Some(FusionConfig {
            width: 8,
            layers: 2,
            heads: 2,
            feed_forward: 16,
            activation: Activation::Gelu,
            layer_norm_eps: 1e-12,
            dropout: 0.0,
            drop_path: 0.0,
            in_layer: true,
            levels: Levels::None,
            uni_levels: 0,
            gate: GateKind::Cls,
            gate_beta: 1.0,
            link: Link::None,
            pictures: 1,
            shared_transforms: true,
            image_stream: false,
            shared: false,
        }),
        joint: None,
    }
}

fn objectives(axis: Axis) -> ObjectivesConfig {
    ObjectivesConfig {
        mlm: Some(MlmConfig {
            left_to_right: 0.0,
            weight: 1.0,
            mask: MaskSpec::default(),
            tied: true,
            texts_alone: false,
            patches: None,
            regions: None,
            distil: Some(DistilConfig {
                alpha: 0.4,
                alpha_ramp: 2,
                axis,
            }),
        }),
        itm: Some(ItmConfig {
            weight: 1.0,
            negatives: Negatives::HardArgmax,
            layout: Layout::OneToTwo,
            head: Head::Class,
            epsilon: None,
        }),
        itc: Some(ItcConfig {
            weight: 1.0,
            views: Views::Two,
            width: 6,
            temperature: TEMPERATURE.into(),
            temperature_range: [0.001, 0.5],
            projection: Projection::Linear,
            normalised: Normalised::Both,
            momentum: Some(MomentumConfig {
                queue: 8,
                alpha: 0.4,
                alpha_ramp: 2,
            }),
        }),
        ..ObjectivesConfig::default()
    }
}

/// A new model with a teacher, of zeros.
fn blank(reference: &Reference, axis: Axis) -> Model {
    let (model, objectives) = (model(), objectives(axis));
    model.validate().unwrap();
    objectives.validate().unwrap();
    objectives.validate_with(&model).unwrap();
    let teacher = TeacherConfig { decay: DECAY };
    objectives.validate_teacher(Some(&teacher)).unwrap();
    let mut init = Init::blank(&reference.device);
    Model::assemble(
        &mut init,
        &model,
        &objectives,
        Some(&teacher),
        FloatDType::F32,
    )
}

/// What no file has: the teacher's parts.
const OF_TEACHER: [&str; 3] = [
    "teacher",
    "objectives.itc.momentum",
    "objectives.mlm.distil",
];

fn loaded(model: Model) -> Result<(Model, Report), ImportError> {
    let file = fixture::folder().join("albef/albef.pth");
    let mut weights = Weights::open(&file).expect("a PyTorch file, parsed as data");
    let allow = Allow {
        missing: OF_TEACHER.map(str::to_owned).to_vec(),
        ..Allow::default()
    };
    import(model, &mut weights, &names(), &allow)
}

fn names() -> Names {
    albef_names(&model())
}

/// The fixture's model before its first step, with the fixture's queues.
fn started(reference: &Reference, axis: Axis) -> Model {
    let (mut model, _) = loaded(blank(reference, axis)).unwrap_or_else(|e| panic!("{e}"));
    model.adopt();
    let mut momentum = model.objectives.itc.as_mut().unwrap().momentum.as_mut();
    for (at, name) in ["text", "image"].into_iter().enumerate() {
        let queue = &mut momentum.as_mut().unwrap().queue.features[at];
        let value = reference.tensor::<2>(&format!("start.{name}_queue"));
        *queue = parameters::update(queue.clone(), |_| value.without_autodiff());
    }
    model
}

fn batch(reference: &Reference, step: usize) -> Batch {
    let of = |name: &str| reference.numbers(&format!("{step}.{name}"));
    let ids = |name: &str| of(name).into_iter().map(|id| id as i32).collect();
    Batch {
        samples: (0..SAMPLES).map(|i| i.to_string()).collect(),
        images: Some(Images {
            pixels: of("levels").into_iter().map(|level| level as u8).collect(),
            height: SIDE,
            width: SIDE,
            mean: [0.5; 3],
            std: [0.5; 3],
            second_view: None,
            patch_mask: None,
            codes: None,
        }),
        texts: Some(Texts {
            ids: ids("ids"),
            length: LENGTH,
            lengths: LENGTHS.to_vec(),
            masked: Some(MaskedTexts {
                ids: ids("masked"),
                labels: ids("labels"),
                concept_labels: None,
            }),
            ..Texts::default()
        }),
        ..Batch::default()
    }
}

fn run(model: &Model, batch: &Batch, reference: &Reference) -> Step {
    let batches = std::slice::from_ref(batch);
    model
        .objectives
        .together(&|_| true, &model.backbone, batches, &reference.device)
        .with_teacher(model.teacher.as_ref())
        .batch(0, Draws::new(1))
        .unwrap()
}

/// Our values by the names of the file, in its layout. The temperature is left out: ours is the logarithm of its inverse.
fn theirs(ours: &[(String, TensorData)], names: &Names) -> BTreeMap<String, Vec<f32>> {
    let mut parts: BTreeMap<String, BTreeMap<usize, Vec<f32>>> = BTreeMap::new();
    for (name, values) in ours {
        let target = names.target(name).expect("a name in the file");
        if target.conversion == Conversion::Temperature {
            continue;
        }
        let part = match target.conversion {
            Conversion::Third(part) => part,
            _ => 0,
        };
        let shape: Vec<usize> = values.shape().to_vec();
        let values: Vec<f32> = values.iter().collect();
        let there = invert(&values, &shape, target.conversion);
        parts.entry(target.name).or_default().insert(part, there);
    }
    let joined = |parts: BTreeMap<usize, Vec<f32>>| parts.into_values().flatten().collect();
    parts.into_iter().map(|(n, p)| (n, joined(p))).collect()
}

fn data(values: Vec<f32>) -> TensorData {
    let count = values.len();
    TensorData::new(values, [count])
}

/// Gradients of all parameters; then plain gradient descent of all but the temperature.
fn descend(model: Model, gradients: Gradients) -> (Model, Vec<(String, TensorData)>) {
    let found = GradientsParams::from_grads(gradients, &model);
    let found = parameters::gradients(&model, &found);
    let values: BTreeMap<String, TensorData> = parameters::values(&model).into_iter().collect();
    let moved: BTreeMap<String, TensorData> = found
        .iter()
        .filter(|(name, _)| !name.ends_with("logit_scale"))
        .map(|(name, gradient)| {
            let old = &values[name];
            let pairs = old.iter::<f32>().zip(gradient.iter::<f32>());
            let new: Vec<f32> = pairs.map(|(value, slope)| value - RATE * slope).collect();
            (name.clone(), TensorData::new(new, old.shape().to_vec()))
        })
        .collect();
    let model = parameters::replace(model, |name, _| moved.get(name).cloned());
    (model, found)
}

#[test]
fn three_steps_equal_the_reference() {
    let reference = Reference::open("albef", "steps");
    let mut model = started(&reference, Axis::Vocabulary);
    let names = names();
    for (step, share) in ALPHAS.into_iter().enumerate() {
        let batch = batch(&reference, step);
        let result = run(&model, &batch, &reference);
        assert!(result.skipped.is_empty());
        for objective in &result.results {
            let name = format!("{step}.{}", objective.objective);
            reference.output(&name, &objective.loss);
            let alpha = objective.metrics.iter().find(|m| m.name == ALPHA);
            if let Some(alpha) = alpha {
                let alpha = alpha.sum.clone().into_scalar::<f32>();
                assert!((alpha - share).abs() <= EXACT, "{alpha} {share}");
            }
        }
        let gradients = result.loss.unwrap().backward();
        let (moved, found) = descend(model, gradients);
        model = moved;
        assert!(
            found.iter().all(|(name, _)| !name.contains("teacher")),
            "the teacher has a gradient"
        );
        let scale = found.iter().find(|(name, _)| name.ends_with("logit_scale"));
        // By the chain rule.
        let slope = scale.unwrap().1.iter::<f32>().next().unwrap() / -TEMPERATURE;
        reference.gradient_values(&format!("{step}.grad.temp"), &data(vec![slope]));
        let found = theirs(&found, &names);
        assert_eq!(found.len(), 114, "{:?}", found.keys());
        for (name, values) in found {
            reference.gradient_values(&format!("{step}.grad.{name}"), &data(values));
        }
        model.after_step(result.carries);
    }
    let momentum = model.objectives.itc.as_ref().unwrap().momentum.as_ref();
    let momentum = momentum.unwrap();
    reference.output("end.text_queue", &momentum.queue.features[0].val());
    reference.output("end.image_queue", &momentum.queue.features[1].val());
    let count = |steps: Option<&burn::module::Param<burn::tensor::Tensor<1>>>| {
        steps.unwrap().val().into_scalar::<f32>()
    };
    assert_eq!(count(momentum.ramp.steps.as_ref()), STEPS as f32);
    let cursor = momentum.queue.cursor.val().into_scalar::<f32>();
    assert_eq!(cursor, (STEPS * SAMPLES % 8) as f32);
    let all = parameters::values(&model);
    // The teacher's encoders and its copies of the heads by the student's names.
    let of_teacher = [
        ("teacher.backbone", "backbone"),
        ("objectives.itc.momentum", "objectives.itc"),
        ("objectives.mlm.distil", "objectives.mlm"),
    ];
    let state = ["queue", "ramp"].map(|part| format!(".{part}."));
    let mine = |(name, values): &(String, TensorData)| {
        let (teacher, student) = of_teacher.iter().find(|(t, _)| name.starts_with(*t))?;
        let is_state = state.iter().any(|part| name.contains(part));
        (!is_state).then(|| (name.replacen(teacher, student, 1), values.clone()))
    };
    let teacher: Vec<_> = all.iter().filter_map(mine).collect();
    let teacher = theirs(&teacher, &names);
    assert_eq!(teacher.len(), 112, "{:?}", teacher.keys());
    for (name, values) in teacher {
        reference.values(&format!("teacher.{name}"), &data(values));
    }
}

/// The slip of the release: student's scores are compared over the positions of a text.
#[test]
fn distillation_over_positions_equals_the_release() {
    let reference = Reference::open("albef", "steps");
    let model = started(&reference, Axis::Sequence);
    let mut model = model;
    let mut of = |step: usize| {
        let result = run(&model, &batch(&reference, step), &reference);
        let mlm = result.results.iter().find(|r| r.objective == "mlm");
        let loss = mlm.unwrap().loss.clone();
        model.after_step(Vec::new());
        loss
    };
    // The share is 0 in the first step, and the model is not moved, so the first step alone is the reference's.
    reference.output("0.mlm_sequence", &of(0));
    let over_positions = of(1).into_scalar::<f32>();
    let mut model = started(&reference, Axis::Vocabulary);
    model.after_step(Vec::new());
    let result = run(&model, &batch(&reference, 1), &reference);
    let mlm = result.results.iter().find(|r| r.objective == "mlm");
    let over_words = mlm.unwrap().loss.clone().into_scalar::<f32>();
    assert!((over_positions - over_words).abs() > 0.01);
}

#[test]
fn every_name_of_the_file_is_accounted_for() {
    let reference = Reference::open("albef", "steps");
    let (_, report) = loaded(blank(&reference, Axis::Vocabulary)).unwrap();
    let covered = |name: &String| OF_TEACHER.iter().any(|part| name.starts_with(part));
    assert!(report.new.iter().all(covered), "{:?}", report.new);
    let kinds = [
        "visual_encoder_m",
        "text_encoder_m",
        "vision_proj_m",
        "text_proj_m",
        "image_queue",
        "text_queue",
        "queue_ptr",
    ];
    for kind in kinds {
        assert!(
            report.unused.iter().any(|name| name.starts_with(kind)),
            "{kind}"
        );
    }
    let known = |name: &&String| {
        let also = [
            "text_encoder.bert.embeddings.position_ids",
            "text_encoder.cls.predictions.decoder",
        ];
        !kinds.iter().chain(&also).any(|kind| name.starts_with(kind))
    };
    assert_eq!(report.unused.iter().find(known), None);
    // One text layer more than the file has below its image layers: both kinds of layers are missed by name.
    let mut deeper = model();
    deeper.text.layers = 2;
    let file = fixture::folder().join("albef/albef.pth");
    let mut weights = Weights::open(&file).unwrap();
    let blank = deeper.init(&mut Init::blank(&reference.device));
    let names = albef::names_without_heads(2, 2);
    let error = import(blank, &mut weights, &names, &Allow::default()).unwrap_err();
    let message = error.to_string();
    assert!(
        message.contains("text_encoder.bert.encoder.layer.3"),
        "{message}"
    );
    assert!(
        message.contains("text_encoder.bert.encoder.layer.1.crossattention"),
        "{message}"
    );
}

//! SIMLA's shared layers, its losses and their gradients against an independent PyTorch reference, `reference/simla.py`; and what its losses
//! do not depend on.

use burn::tensor::{Tensor, TensorData};
use unimo_batch::{Batch, Images, MaskedTexts, Texts};
use unimo_core::init::Init;
use unimo_core::parameters;
use unimo_encoders::backbone::Backbone;
use unimo_encoders::features::Pictures;
use unimo_encoders::joint::{Sides, View};
use unimo_encoders::output::Keep;
use unimo_objectives::pretraining::psl::{PslConfig, key_words};
use unimo_objectives::teacher::{Teacher, TeacherConfig};
use unimo_objectives::{Draws, Objectives, Step};
use unimo_tests::fixture::{self, Reference};
use unimo_train::recipe::Recipe;

const SIDE: usize = 8;
const LENGTH: usize = 5;
const HEADS: usize = 2;
const VOCABULARY: usize = 20;
/// The total weighs key words, a mean over the vocabulary, like the other losses.
const OF_KEY_WORDS: f64 = 20.0;
/// f32 sums in another order over two layers of width 8.
const ROUNDING: f32 = 1e-5;

/// `simla-tiny` at the reference's size.
fn recipe(set: &[&str]) -> Recipe {
    let sizes = [
        "model.fusion.width=8",
        "model.fusion.layers=2",
        "model.fusion.heads=2",
        "model.fusion.feed_forward=16",
        "objectives.itc.width=4",
        "objectives.mlm.distil.alpha_ramp=0",
        "objectives.mim.distil.alpha_ramp=0",
        "objectives.mim.codes=6",
        "objectives.psl.width=4",
        "objectives.psl.per_head=2",
        "objectives.psl.words=2",
        "objectives.psl.distil.alpha_ramp=0",
        "data.image_size=8",
        "data.max_text_length=8",
        "data.codes.patch_size=4",
        "data.codes.codes=6",
    ];
    fixture::recipe("simla-tiny", &[&sizes[..], set].concat(), VOCABULARY)
}

struct Toy {
    reference: Reference,
    student: Backbone,
    teacher: Teacher,
    heads: Objectives,
}

impl Toy {
    fn new(set: &[&str]) -> Self {
        let reference = Reference::open("simla", "simla");
        let recipe = recipe(set);
        let init = &mut Init::new(&reference.device, 0);
        let student = reference.fill(recipe.model.init(init), "backbone.");
        let teacher = reference.fill(recipe.model.init(init), "teacher.");
        let heads = recipe.objectives.init(init, &recipe.model);
        Self {
            student,
            teacher: TeacherConfig { decay: 0.9 }.init(&teacher),
            heads: parameters::replace(heads, |name, _| reference.known(name)),
            reference,
        }
    }

    fn batch(&self) -> Batch {
        let of = |name: &str| self.reference.numbers(name).into_iter();
        let ids = |name: &str| of(name).map(|id| id as i32).collect();
        Batch {
            samples: vec!["one".to_owned(), "two".to_owned()],
            images: Some(Images {
                pixels: of("levels").map(|level| level as u8).collect(),
                height: SIDE,
                width: SIDE,
                mean: [0.5; 3],
                std: [0.5; 3],
                second_view: None,
                patch_mask: Some(of("hidden").map(|hidden| hidden == 1).collect()),
                codes: Some(of("codes").map(|code| code as u32).collect()),
            }),
            texts: Some(Texts {
                ids: ids("ids"),
                length: LENGTH,
                lengths: vec![5, 4],
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

    fn run(&self, only: &str) -> Step {
        self.run_on(self.batch(), only)
    }

    fn run_on(&self, batch: Batch, only: &str) -> Step {
        self.heads
            .together(
                &|key| key == only,
                &self.student,
                &[batch],
                &self.reference.device,
            )
            .with_teacher(Some(&self.teacher))
            .batch(0, Draws::new(1))
            .unwrap()
    }

    fn loss(&self, only: &str) -> f32 {
        self.run(only).results[0].loss.clone().into_scalar()
    }

    /// What the first position of texts becomes where they are read alone.
    fn text_class(&self) -> Tensor<2> {
        let batch = self.batch();
        let texts = batch.texts.as_ref().unwrap();
        let device = &self.reference.device;
        let input = self
            .student
            .text
            .input(&texts.ids, &texts.lengths, LENGTH, device);
        self.student.encode_texts(&input).class
    }
}

#[test]
fn shared_layers_and_losses_equal_the_reference() {
    let toy = Toy::new(&[]);
    let reference = &toy.reference;
    let class = toy.text_class();
    reference.output("text_class", &class);
    let mut total = (class * reference.tensor::<2>("w_class")).sum();
    for (key, factor) in [("mlm", 1.0), ("mim", 1.0), ("psl", OF_KEY_WORDS)] {
        let step = toy.run(key);
        reference.output(key, &step.results[0].loss);
        total = total + step.loss.unwrap() * factor;
    }
    reference.output("total", &total);
    let mut gradients = total.backward();
    let none: &[&str] = &[];
    let of_teacher = reference.known_gradients(&toy.teacher, "teacher.", &mut gradients, none);
    assert_eq!(of_teacher, 0, "the teacher has a gradient");
    let of_student = reference.known_gradients(&toy.student, "backbone.", &mut gradients, none);
    let heads = &toy.heads;
    let of_heads = [
        reference.known_gradients(heads.mlm.as_ref().unwrap(), "mlm.", &mut gradients, none),
        reference.known_gradients(heads.mim.as_ref().unwrap(), "mim.", &mut gradients, none),
        reference.known_gradients(heads.psl.as_ref().unwrap(), "psl.", &mut gradients, none),
        reference.known_gradients(heads.itc.as_ref().unwrap(), "itc.", &mut gradients, none),
    ];
    assert_eq!(of_student, 96);
    assert_eq!(of_heads, [5, 2, 2, 2]);
}

#[test]
fn key_words_are_those_of_the_reference() {
    let toy = Toy::new(&[]);
    let batch = toy.batch();
    let texts = batch.texts.as_ref().unwrap();
    let device = &toy.reference.device;
    let teacher = &toy.teacher.backbone;
    let input = teacher
        .text
        .input(&texts.ids, &texts.lengths, LENGTH, device);
    let images = batch.images.as_ref().unwrap();
    let Pictures::Pixels(pixels) = Pictures::of_pixels(images, &images.pixels, device) else {
        panic!("pixels");
    };
    let view = View {
        class_attention: true,
        ..View::default()
    };
    let fused = teacher.fuse_parts(
        Some(&teacher.encode_texts(&input)),
        Some(&teacher.encode_images(pixels)),
        &view,
        Keep::Nothing,
    );
    let weights = fused.class_attention.unwrap();
    toy.reference.output("class_attention", &weights);
    let weights: Vec<f32> = weights.into_data().iter::<f32>().collect();
    let config: PslConfig = recipe(&[]).objectives.psl.unwrap();
    let words = key_words(&weights, HEADS, (texts, &[0, 1]), &config);
    let y = toy.reference.tensor::<2>("y").into_data();
    let y: Vec<f32> = y.iter::<f32>().collect();
    for (row, words) in words.iter().enumerate() {
        let own = &y[row * VOCABULARY..][..VOCABULARY];
        let expected = (0..VOCABULARY as i32).filter(|id| own[*id as usize] == 1.0);
        let mut words = words.clone();
        words.sort_unstable();
        assert_eq!(words, expected.collect::<Vec<_>>());
    }
}

/// The attention to images is no part of the encoder of texts alone.
#[test]
fn a_text_that_is_read_alone_does_not_see_the_attention_to_images() {
    let mut toy = Toy::new(&[]);
    let (before, fused) = (toy.text_class().into_data(), toy.loss("mlm"));
    let fusion = toy.student.fusion.take().unwrap();
    toy.student.fusion = Some(parameters::replace(fusion, |_, shape| {
        let values = vec![0.3f32; shape.iter().product()];
        Some(TensorData::new(values, shape.to_vec()))
    }));
    toy.text_class().into_data().assert_eq(&before, true);
    assert_ne!(toy.loss("mlm"), fused);
}

/// Padding of a text changes nothing, whether the text is read or is what an image reads.
#[test]
fn padding_changes_nothing() {
    let toy = Toy::new(&[]);
    for key in ["mlm", "mim", "psl"] {
        let before = toy.loss(key);
        let mut batch = toy.batch();
        let texts = batch.texts.as_mut().unwrap();
        texts.widen(LENGTH + 2, 1);
        let after: f32 = toy.run_on(batch, key).results[0].loss.clone().into_scalar();
        assert!((before - after).abs() < ROUNDING, "{key}: {before} {after}");
    }
}

/// Without soft targets a loss does not see the teacher, but for the choice of key words.
#[test]
fn without_soft_targets_only_key_words_see_the_teacher() {
    let set = ["objectives.mim.distil=none", "objectives.mlm.distil=none"];
    let mut toy = Toy::new(&[&set[..], &["objectives.psl.distil=none"]].concat());
    let losses = |toy: &Toy| ["mlm", "mim"].map(|key| toy.loss(key));
    let before = losses(&toy);
    toy.teacher = TeacherConfig { decay: 0.9 }.init(&toy.student);
    assert_eq!(losses(&toy), before);
    let with = Toy::new(&[]);
    let mut other = Toy::new(&[]);
    other.teacher = TeacherConfig { decay: 0.9 }.init(&other.student);
    for key in ["mlm", "mim", "psl"] {
        assert_ne!(with.loss(key), other.loss(key), "{key}");
    }
}

/// What is hidden reaches the student nowhere: other pixels in hidden patches change nothing.
#[test]
fn hidden_pixels_are_not_seen() {
    let toy = Toy::new(&["objectives.mim.distil=none"]);
    let before = toy.loss("mim");
    let mut batch = toy.batch();
    let images = batch.images.as_mut().unwrap();
    let mask = images.patch_mask.clone().unwrap();
    for (at, level) in images.pixels.iter_mut().enumerate() {
        let (image, y, x) = (at / (3 * SIDE * SIDE), at / SIDE % SIDE, at % SIDE);
        if mask[image * 4 + y / 4 * 2 + x / 4] {
            *level = 255 - *level;
        }
    }
    let after: f32 = toy.run_on(batch, "mim").results[0]
        .loss
        .clone()
        .into_scalar();
    assert_eq!(before, after);
}

/// Of each side only what is asked for is computed.
#[test]
fn an_image_reads_a_text_only_where_it_is_asked_to() {
    let toy = Toy::new(&[]);
    let batch = toy.batch();
    let texts = batch.texts.as_ref().unwrap();
    let device = &toy.reference.device;
    let student = &toy.student;
    let input = student
        .text
        .input(&texts.ids, &texts.lengths, LENGTH, device);
    let images = batch.images.as_ref().unwrap();
    let pixels = Pictures::of_pixels(images, &images.pixels, device);
    let (texts, images) = (
        student.encode_texts(&input),
        student.encode_pictures(&pixels, None, 0),
    );
    let both = |text: bool, image: bool| {
        let view = View {
            sides: Sides { text, image },
            ..View::default()
        };
        let fused = student.fuse_parts(Some(&texts), Some(&images), &view, Keep::Nothing);
        (fused.text.is_some(), fused.image.is_some())
    };
    for sides in [(true, false), (false, true), (true, true)] {
        assert_eq!(both(sides.0, sides.1), sides);
    }
}

//! Texts joined with their translations: what translation language modelling of them is, alone and beside an image.
#![cfg(feature = "flex")]

mod small;

use burn::tensor::Device;
use unimo_batch::{
    Batch, Images, JOINED, JoinForm, JoinPositions, JoinSpec, MaskSpec, MaskedTexts, Texts,
};
use unimo_core::init::Init;
use unimo_encoders::backbone::{Backbone, BackboneConfig};
use unimo_encoders::fusion::{FusionConfig, Levels};
use unimo_objectives::pretraining::mlm::MlmConfig;
use unimo_objectives::pretraining::tlm::TlmConfig;
use unimo_objectives::{Draws, Objectives, ObjectivesConfig, Step};

/// f32 sums in another order over three layers of width 8.
const TOLERANCE: f64 = 1e-5;

/// Masked language modelling of texts, and of joined texts.
fn objectives(texts_alone: bool, image: bool) -> ObjectivesConfig {
    ObjectivesConfig {
        mlm: Some(MlmConfig {
            left_to_right: 0.0,
            weight: 1.0,
            mask: MaskSpec::default(),
            tied: true,
            texts_alone,
            patches: None,
            regions: None,
            distil: None,
        }),
        tlm: Some(TlmConfig {
            weight: 1.0,
            mask: MaskSpec::default(),
            joined: Some(JoinSpec {
                form: JoinForm::OneBegin,
                positions: JoinPositions::RunOn,
            }),
            image,
            own: None,
        }),
        ..ObjectivesConfig::default()
    }
}

fn of_texts() -> BackboneConfig {
    BackboneConfig {
        image: None,
        ..small::towers()
    }
}

struct Model {
    backbone: Backbone,
    heads: Objectives,
    device: Device,
}

impl Model {
    fn new(model: &BackboneConfig, config: &ObjectivesConfig) -> Self {
        let device = Device::flex().autodiff();
        let mut init = Init::new(&device, 3).with_deviation(0.2);
        model.validate().unwrap();
        config.validate().unwrap();
        config.validate_with(model).unwrap();
        Self {
            backbone: model.init(&mut init),
            heads: config.init(&mut init, model),
            device,
        }
    }

    fn run(&self, batch: &Batch) -> Step {
        self.heads
            .step(&self.backbone, batch, &self.device, Draws::new(1))
    }
}

fn loss(step: &Step, key: &str) -> f32 {
    let found = step.results.iter().find(|result| result.objective == key);
    found.unwrap().loss.clone().into_scalar::<f32>()
}

const LENGTH: usize = 7;

/// Two texts of two parts each, of which the second is padded.
fn two_parts() -> Texts {
    let ids = [[0, 5, 6, 2, 10, 11, 2], [0, 7, 2, 12, 2, 1, 1]];
    let hidden = [[0, 4, 6, 2, 10, 4, 2], [0, 4, 2, 4, 2, 1, 1]];
    let none = MaskedTexts::IGNORE;
    let labels = [
        [none, 5, none, none, none, 11, none],
        [none, 7, none, 12, none, none, none],
    ];
    Texts {
        ids: ids.concat(),
        length: LENGTH,
        lengths: vec![7, 5],
        masked: Some(MaskedTexts {
            ids: hidden.concat(),
            labels: labels.concat(),
            concept_labels: None,
        }),
        ..Texts::default()
    }
}

fn images() -> Images {
    Images {
        pixels: (0..2 * 3 * 8 * 8).map(|p| (p * 7 % 13) as u8).collect(),
        height: 8,
        width: 8,
        // The levels are 0 to 12, which become -1 to 1.
        mean: [6.0 / 255.0; 3],
        std: [6.0 / 255.0; 3],
        second_view: None,
        patch_mask: None,
        codes: None,
    }
}

/// The texts as ordinary ones and as joined ones.
fn batch(texts: Texts, joined: Texts, images: Option<Images>) -> Batch {
    Batch {
        samples: vec![String::new(); 2],
        texts: Some(texts),
        further_texts: [(JOINED.to_owned(), joined)].into(),
        images,
        ..Batch::default()
    }
}

/// TLM of a joined text is MLM of the same words as one text, whatever reads them and with an image or without.
#[test]
fn it_is_masked_language_modelling_of_both_texts_as_one() {
    let stream = BackboneConfig {
        fusion: Some(FusionConfig {
            image_stream: false,
            levels: Levels::None,
            ..small::fusion()
        }),
        ..small::towers()
    };
    let cases = [
        (of_texts(), false),
        (small::one_stream(), false),
        (small::one_stream(), true),
        (small::two_streams(), true),
        (stream, true),
    ];
    for (at, (model, image)) in cases.into_iter().enumerate() {
        let model = Model::new(&model, &objectives(!image, image));
        let images = image.then(images);
        let step = model.run(&batch(two_parts(), two_parts(), images));
        let [alone, joined] = ["mlm", "tlm"].map(|key| loss(&step, key));
        assert_eq!(alone.to_bits(), joined.to_bits(), "{at}: {alone} {joined}");
    }
}

/// The length of joined texts is their own.
#[test]
fn padding_changes_nothing() {
    let model = Model::new(&small::one_stream(), &objectives(false, true));
    let short = model.run(&batch(two_parts(), two_parts(), Some(images())));
    let mut wide = two_parts();
    wide.widen(LENGTH + 1, 1);
    let long = model.run(&batch(two_parts(), wide, Some(images())));
    let [short, long] = [short, long].map(|step| loss(&step, "tlm"));
    assert!(
        f64::from((short - long).abs()) < TOLERANCE,
        "{short} {long}"
    );
}

/// Positions that begin anew are other positions, and those of the first part stay.
#[test]
fn the_second_part_may_share_the_positions_of_the_first() {
    let model = Model::new(&of_texts(), &objectives(true, false));
    let mut restarted = two_parts();
    restarted.restarts = vec![4, 3];
    let text = &model.backbone.text;
    let input = text.input(&restarted.ids, &restarted.lengths, LENGTH, &model.device);
    let input = text.with_restarts(input, &restarted.lengths, &restarted.restarts);
    let numbers: Vec<i32> = input.positions.into_data().iter::<i32>().collect();
    // After padding's number, 1.
    assert_eq!(
        numbers,
        [[2, 3, 4, 5, 2, 3, 4], [2, 3, 4, 2, 3, 1, 1]].concat()
    );
    let run_on = model.run(&batch(two_parts(), two_parts(), None));
    let anew = model.run(&batch(two_parts(), restarted, None));
    assert_ne!(loss(&run_on, "tlm"), loss(&anew, "tlm"));
    assert_eq!(loss(&run_on, "mlm"), loss(&anew, "mlm"));
}

#[test]
fn a_batch_without_joined_texts_skips_and_is_told() {
    let model = Model::new(&of_texts(), &objectives(true, false));
    let mut alone = batch(two_parts(), two_parts(), None);
    alone.further_texts.clear();
    let step = model.run(&alone);
    assert_eq!(step.skipped, ["tlm"]);
    assert_eq!(step.results.len(), 1);
}

#[test]
fn what_cannot_be_read_is_refused() {
    let error = |config: &ObjectivesConfig, model: &BackboneConfig| {
        let checked = config.validate().and_then(|()| config.validate_with(model));
        checked.unwrap_err().to_string()
    };
    let mut own = objectives(true, true);
    own.mlm = None;
    let told = error(&own, &of_texts());
    assert!(told.contains("tlm") && told.contains("own ="), "{told}");
    let told = error(&objectives(true, true), &of_texts());
    assert!(
        told.contains("tlm") && told.contains("image encoder"),
        "{told}"
    );
    let told = error(&objectives(false, false), &small::two_streams());
    assert!(
        told.contains("tlm.image") && told.contains("true"),
        "{told}"
    );
    let mut over_memory = objectives(false, true);
    over_memory.tlm.as_mut().unwrap().joined = None;
    let told = error(&over_memory, &small::two_streams());
    assert!(
        told.contains("tlm.image") && told.contains("false"),
        "{told}"
    );
}

//! Generation against Hugging Face transformers, `reference/generation.py`: the same texts token for token.

use burn::tensor::Device;
use unimo_encoders::backbone::Backbone;
use unimo_encoders::frozen::Frozen;
use unimo_objectives::generation::Writer;
use unimo_objectives::tied::TiedHead;
use unimo_tests::fixture;
use unimo_tests::generated::Case;
use unimo_train::language_head;
use unimo_train::pretrained::{self, Network};

/// The end token of the fixture.
const END: i32 = 2;

/// The fixture's encoder and language head.
fn model() -> (Backbone, TiedHead) {
    let device = Device::flex();
    let folder = fixture::folder().join("generation");
    let public = pretrained::describe(&folder, None).unwrap();
    let head = language_head::load(&public, &device).unwrap().unwrap();
    let Network::Text(text) = public.load(&device).unwrap().network else {
        panic!("a text encoder");
    };
    let backbone = Backbone {
        text: *text,
        image: None,
        regions: None,
        outside: None,
        fusion: None,
        joint: None,
        image_tags: false,
        representation: None,
        map: None,
        frozen: Frozen::default(),
    };
    let head = TiedHead {
        dense: head.dense,
        norm: head.norm,
        bias: head.bias.unwrap(),
    };
    (backbone, head)
}

#[test]
fn texts_are_those_of_transformers() {
    let (backbone, head) = model();
    let cases = Case::read("generation");
    assert_eq!(cases.len(), 72);
    let writer = Writer {
        backbone: &backbone,
        head: &head,
    };
    for case in &cases {
        // Several at once, which must be the same.
        let found = case.written(END, |written| writer.texts(&[0, 1, 2], written));
        for text in found.unwrap() {
            case.compare(&[text]);
        }
    }
}

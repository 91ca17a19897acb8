//! Generation against Hugging Face transformers, `reference/generation.py`: the same texts token for token.

use burn::tensor::Device;
use serde::Deserialize;
use unimo_encoders::backbone::Backbone;
use unimo_encoders::frozen::Frozen;
use unimo_objectives::generation::{GenerationConfig, LengthRule, Vocabulary, Writer, Written};
use unimo_objectives::tied::TiedHead;
use unimo_tests::fixture;
use unimo_train::language_head;
use unimo_train::pretrained::{self, Network};

/// Sums of ten f32 log-probabilities over two blocks, divided by 1 or more.
const TOLERANCE: f64 = 2e-4;
/// The end token of the fixture.
const END: i32 = 2;

/// A text of transformers, and the settings that it was written with.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    num_beams: usize,
    max_new_tokens: usize,
    #[serde(default)]
    length_penalty: f64,
    #[serde(default)]
    no_repeat_ngram_size: usize,
    #[serde(default)]
    min_new_tokens: usize,
    prompt: Vec<i32>,
    tokens: Vec<i32>,
    ended: bool,
    score: Option<f64>,
}

impl Case {
    fn config(&self) -> GenerationConfig {
        GenerationConfig {
            beams: self.num_beams,
            rule: LengthRule::Finished,
            length_penalty: self.length_penalty,
            // Ours counts the end token.
            min_length: self.min_new_tokens + 1,
            max_length: self.max_new_tokens,
            no_repeat: self.no_repeat_ngram_size,
            sampling: None,
        }
    }
}

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
    let cases = fixture::folder().join("generation/cases.json");
    let cases: Vec<Case> = serde_json::from_slice(&std::fs::read(cases).unwrap()).unwrap();
    assert_eq!(cases.len(), 72);
    let writer = Writer {
        backbone: &backbone,
        head: &head,
    };
    for case in &cases {
        let config = case.config();
        config.validate().unwrap();
        let written = Written {
            prompt: &case.prompt,
            vocabulary: &Vocabulary {
                end: END,
                forbidden: Vec::new(),
            },
            config: &config,
        };
        // Several at once, which must be the same.
        for text in writer.texts(&[0, 1, 2], &written).unwrap() {
            assert_eq!(
                (&text.tokens, text.ended),
                (&case.tokens, case.ended),
                "{case:?}"
            );
            if let Some(score) = case.score {
                assert!(
                    (text.score - score).abs() < TOLERANCE,
                    "{} {case:?}",
                    text.score
                );
            }
        }
    }
}

//! Classification of one sentence or two equals transformers': tokens of pairs, outputs, loss and gradients.
//!
//! `reference/sentences.py` wrote what is expected, with transformers 5.24.

use std::path::Path;

use burn::module::Module;
use burn::optim::GradientsParams;
use burn::tensor::{Device, TensorData};
use serde_json::Value;
use unimo_batch::{Batch, Target, Texts};
use unimo_core::init::Init;
use unimo_core::parameters;
use unimo_data::TextTokenizer;
use unimo_encoders::backbone::{Backbone, BackboneConfig};
use unimo_encoders::import::{Allow, import};
use unimo_encoders::names::Names;
use unimo_encoders::public::{bert, best, read_json};
use unimo_encoders::text::TextEncoder;
use unimo_encoders::weights::Weights;
use unimo_objectives::tasks::sentences::{
    BERT_NAMES, ROBERTA_NAMES, SentenceEncoder, SentenceHead, SentenceTarget, Sentences,
    SentencesConfig,
};
use unimo_objectives::{Draws, ObjectivesConfig};
use unimo_tests::fixture;

/// f32 rounding over two blocks of width 8, of values around 1.
const TOLERANCE: f32 = 2e-5;

fn read(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn numbers(value: &Value) -> Vec<f32> {
    let values = value.as_array().unwrap().iter();
    values.map(|v| v.as_f64().unwrap() as f32).collect()
}

fn ints(value: &Value) -> Vec<i32> {
    numbers(value).into_iter().map(|v| v as i32).collect()
}

#[test]
fn pairs_have_hugging_faces_tokens_and_types() {
    let Some(shared) = fixture::shared("pairs_have_hugging_faces_tokens_and_types") else {
        return;
    };
    let rows = read(&fixture::folder().join("sentences/pairs.json"));
    let mut cut = 0;
    for (name, lowercase) in [("bert", true), ("roberta", false)] {
        let folder = shared.join("tokenizers").join(name);
        for file in ["", "vocab.json"] {
            let path = folder.join(file);
            if !path.exists() {
                continue;
            }
            let tokenizer = TextTokenizer::load(&path, lowercase).unwrap();
            for row in rows.as_array().unwrap() {
                if row["vocabulary"] != name {
                    continue;
                }
                let length = row["length"].as_u64().unwrap() as usize;
                let text = |key: &str| row[key].as_str().unwrap();
                let pair = tokenizer.encode_pair(text("first"), text("second"), length);
                assert_eq!(pair.ids, ints(&row["ids"]), "{row}");
                let types = (0..pair.ids.len()).map(|at| i32::from(at >= pair.first));
                assert_eq!(types.collect::<Vec<_>>(), ints(&row["types"]), "{row}");
                assert_eq!(pair.word_ids.len(), pair.ids.len());
                cut += usize::from(pair.ids.len() == length);
            }
        }
    }
    assert!(cut > 40, "{cut}");
}

/// A text encoder and a head of a model of transformers; with the gradients' file, its gradients.
fn import_both(
    (encoder, head): (TextEncoder, Sentences),
    table: &'static [unimo_encoders::names::Rule],
    file: &Path,
) -> (TextEncoder, Sentences) {
    let mut weights = Weights::open(file).unwrap();
    let ours: Vec<String> = parameters::list(&encoder)
        .into_iter()
        .map(|parameter| parameter.name)
        .collect();
    let names = best(bert::spellings(), &ours, &weights);
    let (encoder, report) = import(encoder, &mut weights, &names, &Allow::default()).unwrap();
    assert!(report.missing.is_empty());
    let allow = Allow {
        unexpected: ["bert", "roberta"].map(str::to_owned).to_vec(),
        ..Allow::default()
    };
    let names = Names::new([("", "", table)], &[]);
    let (head, report) = import(head, &mut weights, &names, &allow).unwrap();
    assert!(report.missing.is_empty());
    (encoder, head)
}

fn assert_close(found: &TensorData, expected: &[f32], what: &str) {
    let found: Vec<f32> = found.iter::<f32>().collect();
    assert_eq!(found.len(), expected.len(), "{what}");
    for (found, expected) in found.iter().zip(expected) {
        assert!(
            (found - expected).abs() < TOLERANCE,
            "{what}: {found} {expected}"
        );
    }
}

fn compare(name: &str, head: SentenceHead, labels: usize) {
    let folder = fixture::folder().join("sentences").join(name);
    let io = read(&folder.join("io.json"));
    let device = Device::flex().autodiff();
    let text = bert::config(&read_json(&folder.join("config.json")).unwrap()).unwrap();
    let config = BackboneConfig {
        initializer_range: 0.02,
        text,
        image: None,
        regions: None,
        outside: None,
        image_tags: false,
        representation: None,
        map: None,
        fusion: None,
        joint: None,
    };
    let predicts = match labels {
        1 => SentenceTarget::Number,
        _ => SentenceTarget::Class,
    };
    let settings = SentencesConfig {
        weight: 1.0,
        head,
        reads: SentenceEncoder::Text,
        predicts,
        classes: (labels > 1).then_some(labels),
        dropout: 0.0,
    };
    let all = ObjectivesConfig {
        sentences: Some(settings),
        ..ObjectivesConfig::default()
    };
    all.validate().unwrap();
    let mut init = Init::new(&device, 0);
    let mut backbone: Backbone = config.init(&mut init);
    let mut objectives = all.init(&mut init, &config);
    let table = match head {
        SentenceHead::Pooler | SentenceHead::Relu => BERT_NAMES,
        SentenceHead::Classifier => ROBERTA_NAMES,
    };
    let made = (backbone.text, objectives.sentences.clone().unwrap());
    let (text, own) = import_both(made.clone(), table, &folder.join("model.safetensors"));
    backbone.text = text;
    objectives.sentences = Some(own);

    let lengths = ints(&io["lengths"]);
    let targets = numbers(&io["labels"]).into_iter();
    let batch = Batch {
        samples: vec![String::new(); lengths.len()],
        texts: Some(Texts {
            ids: ints(&io["ids"]),
            length: 10,
            lengths: lengths.iter().map(|length| *length as usize).collect(),
            segments: Some(ints(&io["types"])),
            ..Texts::default()
        }),
        targets: targets
            .map(|target| match predicts {
                SentenceTarget::Class => Target::Labels(vec![(target as u32, 1.0)]),
                SentenceTarget::Number => Target::Number(target),
            })
            .collect(),
        ..Batch::default()
    };
    let logits = objectives.predict("sentences", &backbone, &batch, &device);
    let logits = logits.unwrap().into_data();
    assert_close(&logits, &numbers(&io["logits"]), name);

    let step = objectives.step(&backbone, &batch, &device, Draws::new(0));
    let loss = step.loss.unwrap();
    let expected = io["loss"].as_f64().unwrap() as f32;
    assert_close(&loss.to_data(), &[expected], name);
    let module = (backbone.text, objectives.sentences.clone().unwrap());
    let mut gradients = loss.backward();
    let (text, own) = import_both(made, table, &folder.join("gradients.safetensors"));
    let mut compared = 0;
    let of_text = GradientsParams::from_module(&mut gradients, &module.0);
    let of_head = GradientsParams::from_module(&mut gradients, &module.1);
    compared += gradients_agree(name, &module.0, &of_text, &text);
    compared += gradients_agree(name, &module.1, &of_head, &own);
    assert!(compared > 30, "{name}: {compared}");
}

/// Compares gradients with those that a module holds as its values.
fn gradients_agree<M: Module>(
    name: &str,
    module: &M,
    found: &GradientsParams,
    expected: &M,
) -> usize {
    let expected = parameters::values(expected);
    let found = parameters::gradients(module, found);
    assert_eq!(parameters::list(module).len(), expected.len());
    for (parameter, values) in &found {
        let (_, expected) = expected.iter().find(|(own, _)| own == parameter).unwrap();
        let expected: Vec<f32> = expected.iter::<f32>().collect();
        assert_close(values, &expected, &format!("{name}: {parameter}"));
    }
    found.len()
}

#[test]
fn bert_classifies_pairs_as_transformers_does() {
    compare("bert", SentenceHead::Pooler, 3);
}

#[test]
fn one_output_is_a_regression() {
    compare("bert-number", SentenceHead::Pooler, 1);
}

#[test]
fn roberta_classifies_as_transformers_does() {
    compare("roberta", SentenceHead::Classifier, 2);
}

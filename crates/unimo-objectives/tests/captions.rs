//! `[objectives.lm]` and its captions, with a cross-modal encoder of two streams and of one.
#![cfg(feature = "flex")]

mod small;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use burn::optim::GradientsParams;
use burn::tensor::{Device, Tensor, activation};
use unimo_batch::{Batch, Images, Texts};
use unimo_core::init::Init;
use unimo_core::parameters;
use unimo_encoders::backbone::{Backbone, BackboneConfig};
use unimo_encoders::features::{ImageFeatures, Pictures};
use unimo_encoders::joint::View;
use unimo_encoders::output::Keep;
use unimo_encoders::reading::NextWords;
use unimo_encoders::text::TextEncoderConfig;
use unimo_objectives::generation::{
    GenerationConfig, LengthRule, Reader, SamplingConfig, Vocabulary, Writer, Written, generate,
};
use unimo_objectives::pretraining::lm::LmConfig;
use unimo_objectives::pretraining::lm::self_critical::{Baseline, Reward, SelfCriticalConfig};
use unimo_objectives::tied::TiedHead;
use unimo_objectives::{Draws, Objectives, ObjectivesConfig, Settings};

/// Sums of f32 log-probabilities of up to 8 words, over five layers of width 8.
const TOLERANCE: f64 = 1e-4;
const SAMPLES: usize = 3;
const LENGTH: usize = 5;
const BEGIN: i32 = 0;
const END: i32 = 2;
const IDS: [i32; SAMPLES * LENGTH] = [0, 5, 6, 7, 2, 0, 7, 2, 1, 1, 0, 9, 8, 2, 1];
const LENGTHS: [usize; SAMPLES] = [5, 3, 4];

fn model(two_streams: bool) -> BackboneConfig {
    BackboneConfig {
        initializer_range: 0.5,
        text: TextEncoderConfig {
            vocab_size: 12,
            layers: 2,
            max_positions: 14,
            ..small::text()
        },
        fusion: two_streams.then(small::fusion),
        joint: (!two_streams).then(small::joint),
        ..small::towers()
    }
}

fn lm(label_smoothing: f64) -> LmConfig {
    LmConfig {
        weight: 1.0,
        texts_alone: false,
        stories: false,
        label_smoothing,
        self_critical: None,
    }
}

fn build(two_streams: bool, device: &Device, label_smoothing: f64) -> (Backbone, Objectives) {
    let model = model(two_streams);
    let objectives = ObjectivesConfig {
        lm: Some(lm(label_smoothing)),
        ..ObjectivesConfig::default()
    };
    model.validate().unwrap();
    objectives.validate().unwrap();
    let mut init = Init::new(device, 3).with_deviation(model.initializer_range as f32);
    let backbone = model.init(&mut init);
    let objectives = objectives.init(&mut init, &model);
    // The cross-layer parts have weight, as in a trained model.
    let backbone = parameters::replace(backbone, |name, shape| {
        let merge = name.ends_with("merge");
        merge.then(|| burn::tensor::TensorData::new(vec![0.7f32], shape.to_vec()))
    });
    (backbone, objectives)
}

fn batch() -> Batch {
    let count = 3 * 8 * 8;
    Batch {
        samples: (0..SAMPLES).map(|i| format!("sample {i}")).collect(),
        images: Some(Images {
            pixels: (0..SAMPLES * count)
                .map(|p| ((p * 37) % 13) as u8)
                .collect(),
            height: 8,
            width: 8,
            mean: [6.0 / 255.0; 3],
            std: [6.0 / 255.0; 3],
            second_view: None,
            patch_mask: None,
            codes: None,
        }),
        texts: Some(Texts {
            ids: IDS.to_vec(),
            length: LENGTH,
            lengths: LENGTHS.to_vec(),
            ..Texts::default()
        }),
        ..Batch::default()
    }
}

fn images(backbone: &Backbone, device: &Device) -> ImageFeatures {
    let images = batch().images.unwrap();
    let pixels = Pictures::of_pixels(&images, &images.pixels, device);
    backbone.encode_pictures(&pixels, None, 0)
}

/// Reads every text from its beginning at each step.
struct Whole<'a> {
    backbone: &'a Backbone,
    head: &'a TiedHead,
    images: &'a ImageFeatures,
    texts: Vec<(usize, Vec<i32>)>,
}

impl Whole<'_> {
    /// Logits after each position of texts of one length, `[R, L, V]` as rows.
    fn logits(&self, texts: &[(usize, Vec<i32>)]) -> Tensor<2> {
        let device = self.images.class.device();
        let length = texts[0].1.len();
        let ids: Vec<i32> = texts.iter().flat_map(|(_, text)| text.clone()).collect();
        let rows: Vec<i32> = texts.iter().map(|(image, _)| *image as i32).collect();
        let lengths = vec![length; rows.len()];
        let text = &self.backbone.text;
        let input = text.input(&ids, &lengths, length, &device);
        let texts = self.backbone.encode_texts(&input.from_left_to_right(1));
        let shown = self
            .images
            .select(&Tensor::from_data(rows.as_slice(), &device));
        let view = View {
            prefix: Some(1),
            ..View::default()
        };
        let fused = self
            .backbone
            .fuse_parts(Some(&texts), Some(&shown), &view, Keep::Nothing);
        let [count, length, width] = fused.text().dims();
        let states = fused.text().clone().reshape([count * length, width]);
        self.head.logits(states, text.word_embedding.weight.val())
    }
}

impl Reader for Whole<'_> {
    fn read(&mut self, next: &NextWords<'_>) -> Tensor<2> {
        let longer = next.parents.iter().zip(next.words).map(|(parent, word)| {
            let (image, mut text) = self.texts[*parent].clone();
            text.push(*word);
            (image, text)
        });
        self.texts = longer.collect();
        let (rows, length) = (self.texts.len(), self.texts[0].1.len());
        let all = self.logits(&self.texts);
        let [_, words] = all.dims();
        let last = all.reshape([rows, length, words]).narrow(1, length - 1, 1);
        last.squeeze_dim::<2>(1)
    }
}

/// The loss is the mean over all words of all captions of what the model gives for each, image and words before it given.
#[test]
fn the_loss_is_the_mean_over_words() {
    let device = Device::flex().autodiff();
    for two_streams in [true, false] {
        for smoothing in [0.0, 0.1] {
            let (backbone, objectives) = build(two_streams, &device, smoothing);
            let step = objectives.step(&backbone, &batch(), &device, Draws::new(1));
            assert!(step.skipped.is_empty());
            assert_eq!(step.results[0].predictions(), 4 + 2 + 3);
            let loss = f64::from(step.results[0].loss.clone().into_scalar::<f32>());
            assert!(step.loss.is_some());
            let images = images(&backbone, &device);
            let whole = Whole {
                backbone: &backbone,
                head: &objectives.lm.as_ref().unwrap().head,
                images: &images,
                texts: Vec::new(),
            };
            let mut sum = 0.0;
            for (row, length) in LENGTHS.iter().enumerate() {
                let text = IDS[row * LENGTH..][..*length].to_vec();
                let logits = whole.logits(&[(row, text.clone())]);
                let scores = activation::log_softmax(logits, 1);
                let [_, words] = scores.dims();
                let scores: Vec<f32> = scores.into_data().iter::<f32>().collect();
                for (scores, word) in scores.chunks(words).zip(&text[1..]) {
                    let all: f32 = scores.iter().sum();
                    let own = f64::from(scores[*word as usize]);
                    sum -= (1.0 - smoothing) * own + smoothing * f64::from(all) / words as f64;
                }
            }
            let expected = sum / 9.0;
            assert!((loss - expected).abs() < TOLERANCE, "{loss} {expected}");
        }
    }
}

fn searches() -> Vec<GenerationConfig> {
    let of = |beams, rule, length_penalty| GenerationConfig {
        beams,
        rule,
        length_penalty,
        min_length: 3,
        max_length: 8,
        no_repeat: 2,
        sampling: None,
    };
    let drawn = GenerationConfig {
        sampling: Some(SamplingConfig {
            temperature: 0.8,
            top_k: 6,
            top_p: 0.9,
            seed: 4,
        }),
        ..of(1, LengthRule::Finished, 1.0)
    };
    vec![
        of(1, LengthRule::Finished, 1.0),
        of(3, LengthRule::Finished, 1.0),
        of(4, LengthRule::EveryStep, 0.6),
        drawn,
    ]
}

/// Captions with what was read kept are those of reading every text anew. Each is the same without the other images of the batch.
#[test]
fn what_was_read_is_kept() {
    let device = Device::flex();
    for two_streams in [true, false] {
        let (backbone, objectives) = build(two_streams, &device, 0.0);
        let head = &objectives.lm.as_ref().unwrap().head;
        let images = images(&backbone, &device);
        let writer = Writer {
            backbone: &backbone,
            head,
        };
        let vocabulary = Vocabulary {
            end: END,
            forbidden: vec![BEGIN, 1],
        };
        let mut different = std::collections::BTreeSet::new();
        for config in searches() {
            let written = Written {
                prompt: &[BEGIN],
                vocabulary: &vocabulary,
                config: &config,
            };
            let streams: Vec<u64> = (0..SAMPLES as u64).collect();
            let kept = writer.captions(&images, &streams, &written).unwrap();
            let mut whole = Whole {
                backbone: &backbone,
                head,
                images: &images,
                texts: (0..SAMPLES).map(|image| (image, Vec::new())).collect(),
            };
            let anew = generate(&mut whole, &[BEGIN], &vocabulary, &streams, &config).unwrap();
            for (at, (kept, anew)) in kept.iter().zip(&anew).enumerate() {
                assert_eq!(kept.tokens, anew.tokens, "{config:?}");
                assert!((kept.score - anew.score).abs() < TOLERANCE);
                let row = Tensor::from_data([at as i32], &device);
                let alone = writer
                    .captions(&images.select(&row), &[at as u64], &written)
                    .unwrap();
                assert_eq!(alone[0].tokens, kept.tokens, "{config:?}");
                assert!((alone[0].score - kept.score).abs() < TOLERANCE);
                different.insert(kept.tokens.clone());
            }
        }
        assert!(different.len() > SAMPLES, "{different:?}");
        assert_eq!(writer.longest(1), 12);
    }
}

/// Words are predicted by their embeddings, which must be as wide as what they are compared with.
#[test]
fn a_narrower_text_encoder_is_named() {
    let mut narrow = model(true);
    narrow.fusion.as_mut().unwrap().width = 16;
    let error = lm(0.0).validate_with(&narrow).unwrap_err().to_string();
    assert!(error.contains("as wide as"), "{error}");
    let alone = LmConfig {
        texts_alone: true,
        stories: false,
        ..lm(0.0)
    };
    let error = alone.validate_with(&model(true)).unwrap_err();
    assert_eq!(error.key, "texts_alone");
    assert_eq!(lm(1.0).validate().unwrap_err().key, "label_smoothing");
}

/// The word that is worth something.
const GOOD: i32 = 7;

/// The share of a caption's tokens that are [`GOOD`]; it remembers the captions.
#[derive(Debug, Default)]
struct Share(Mutex<Vec<Vec<i32>>>);

fn share(caption: &[i32]) -> f64 {
    let good = caption.iter().filter(|word| **word == GOOD).count();
    good as f64 / caption.len() as f64
}

impl Reward for Share {
    fn of(&self, caption: &[i32], references: &[&[i32]]) -> f64 {
        assert!(references.iter().all(|text| text.last() == Some(&END)));
        self.0.lock().unwrap().push(caption.to_vec());
        share(caption)
    }
}

/// The model of [`build`] with two streams, which learns from captions of its own.
fn self_critical(baseline: Baseline, device: &Device) -> (Backbone, Objectives, Arc<Share>) {
    let (backbone, mut objectives) = build(true, device, 0.0);
    let lm = objectives.lm.as_mut().unwrap();
    let config = SelfCriticalConfig {
        samples: 4,
        baseline,
        max_length: 6,
        ..SelfCriticalConfig::default()
    };
    lm.config.self_critical = Some(config);
    lm.config.validate().unwrap();
    lm.config.validate_with(&model(true)).unwrap();
    let reward = Arc::new(Share::default());
    lm.reward = Some(reward.clone());
    (backbone, objectives, reward)
}

/// Each image with two captions; of the second one nobody said anything.
fn described() -> Batch {
    let texts = vec![vec![BEGIN, 5, 6, END], vec![BEGIN, GOOD, END]];
    Batch {
        texts: None,
        references: vec![texts.clone(), Vec::new(), texts],
        ..batch()
    }
}

/// The loss is the formula, over the captions that were drawn. Images without captions take no part.
#[test]
fn captions_that_score_more_than_others_become_likelier() {
    let device = Device::flex().autodiff();
    for baseline in [Baseline::Others, Baseline::Greedy] {
        device.seed(3);
        let (backbone, objectives, reward) = self_critical(baseline, &device);
        let step = objectives.step(&backbone, &described(), &device, Draws::new(1));
        assert!(step.skipped.is_empty());
        let loss = f64::from(step.loss.unwrap().into_scalar::<f32>());
        let mut captions = reward.0.lock().unwrap().clone();
        let likeliest = captions.split_off(8);
        let baselines: Vec<f64> = match baseline {
            Baseline::Others => (0..8)
                .map(|own| {
                    let first = own / 4 * 4;
                    let others = (first..first + 4).filter(|at| *at != own);
                    others.map(|at| share(&captions[at])).sum::<f64>() / 3.0
                })
                .collect(),
            Baseline::Greedy => (0..8).map(|own| share(&likeliest[own / 4])).collect(),
        };
        let images = images(&backbone, &device);
        let whole = Whole {
            backbone: &backbone,
            head: &objectives.lm.as_ref().unwrap().head,
            images: &images,
            texts: Vec::new(),
        };
        let (mut sum, mut tokens) = (0.0, 0);
        for (own, caption) in captions.iter().enumerate() {
            let mut text = vec![BEGIN];
            text.extend_from_slice(caption);
            let image = [0, 2][own / 4];
            let scores = activation::log_softmax(whole.logits(&[(image, text)]), 1);
            let [_, words] = scores.dims();
            let scores: Vec<f32> = scores.into_data().iter::<f32>().collect();
            let each = scores.chunks(words).zip(caption);
            let likely: f64 = each.map(|(row, word)| f64::from(row[*word as usize])).sum();
            sum -= (share(caption) - baselines[own]) * likely;
            tokens += caption.len();
        }
        let expected = sum / tokens as f64;
        assert!((loss - expected).abs() < TOLERANCE, "{loss} {expected}");
        let reported = &step.results[0].metrics[0];
        assert_eq!((reported.name, reported.count), ("reward", 8));
    }
}

/// Plain gradient descent finds the word that is worth something.
#[test]
fn the_reward_rises() {
    const STEPS: usize = 40;
    const RATE: f32 = 1.0;
    let device = Device::flex().autodiff();
    device.seed(5);
    let (mut backbone, mut objectives, reward) = self_critical(Baseline::Others, &device);
    let mut rewards = Vec::new();
    for _ in 0..STEPS {
        let step = objectives.step(&backbone, &described(), &device, Draws::new(1));
        let gradients = step.loss.unwrap().backward();
        let gradients = GradientsParams::from_grads(gradients, &backbone);
        let changes: HashMap<String, Vec<f32>> = parameters::gradients(&backbone, &gradients)
            .into_iter()
            .map(|(name, data)| (name, data.iter::<f32>().collect()))
            .collect();
        let before: HashMap<String, Vec<f32>> = parameters::values(&backbone)
            .into_iter()
            .map(|(name, data)| (name, data.iter::<f32>().collect()))
            .collect();
        backbone = parameters::replace(backbone, |name, shape| {
            let change = changes.get(name)?;
            let new = before[name].iter().zip(change).map(|(x, g)| x - RATE * g);
            Some(burn::tensor::TensorData::new(
                new.collect::<Vec<f32>>(),
                shape.to_vec(),
            ))
        });
        objectives.after_step(None, Vec::new());
        let drawn = std::mem::take(&mut *reward.0.lock().unwrap());
        rewards.push(drawn.iter().map(|c| share(c)).sum::<f64>() / drawn.len() as f64);
    }
    let mean = |of: &[f64]| of.iter().sum::<f64>() / of.len() as f64;
    let (first, last) = (mean(&rewards[..2]), mean(&rewards[STEPS - 5..]));
    assert!(first < 0.4 && last > 0.9, "{first} {last}");
}

//! Text that is read from left to right, for every kind of cross-modal encoder: no word reveals what stands before it, and the
//! image stream sees no words.
#![cfg(feature = "flex")]

mod small;

use burn::tensor::{Device, Tensor};
use unimo_core::init::Init;
use unimo_core::layers::Activation;
use unimo_core::levels::GateKind;
use unimo_core::parameters;
use unimo_core::split::Spaces;
use unimo_encoders::backbone::{Backbone, BackboneConfig};
use unimo_encoders::features::ImageFeatures;
use unimo_encoders::fusion::{FusionConfig, Levels, Link};
use unimo_encoders::image::ImageEncoderConfig;
use unimo_encoders::joint::split::{ConceptSpace, Sharing, SplitConfig};
use unimo_encoders::joint::{JointConfig, View};
use unimo_encoders::output::Keep;
use unimo_encoders::quantiser::{Choice, QuantiserConfig};
use unimo_encoders::reading::NextWords;
use unimo_encoders::text::{Positions, TextEncoderConfig, TextTower};

const WIDTH: usize = 8;
const LAYERS: usize = 3;
/// Samples with captions of these lengths.
const LENGTHS: [usize; 2] = [6, 4];
const LENGTH: usize = 6;
const IDS: [i32; 2 * LENGTH] = [0, 5, 6, 7, 8, 2, 0, 9, 10, 2, 1, 1];
/// f32 sums in another order over six layers of width 8: longer texts take other kernels of matrix products.
const TOLERANCE: f32 = 2e-5;
/// A word that is in no caption.
const OTHER: i32 = 13;

fn model() -> BackboneConfig {
    BackboneConfig {
        initializer_range: 0.3,
        text: TextEncoderConfig {
            tower: TextTower::Bert,
            vocab_size: 20,
            width: WIDTH,
            layers: LAYERS,
            heads: 2,
            feed_forward: 16,
            max_positions: 40,
            positions: Positions::AfterPad,
            token_types: 1,
            pad_id: 1,
            activation: Activation::Gelu,
            layer_norm_eps: 1e-5,
            dropout: 0.0,
            drop_path: 0.0,
            outside: None,
        },
        image: Some(ImageEncoderConfig {
            image_size: 8,
            patch_size: 4,
            width: WIDTH,
            layers: LAYERS,
            heads: 2,
            feed_forward: 16,
            activation: Activation::Gelu,
            layer_norm_eps: 1e-5,
            pre_norm: true,
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
        fusion: None,
        joint: None,
    }
}

fn joint(grounding: Option<Choice>) -> JointConfig {
    JointConfig {
        width: WIDTH,
        layers: LAYERS,
        heads: 2,
        feed_forward: 16,
        activation: Activation::Gelu,
        layer_norm_eps: 1e-5,
        dropout: 0.0,
        drop_path: 0.0,
        image_class: true,
        interleaved: None,
        grounding: grounding.map(|choice| QuantiserConfig {
            codes: 12,
            tokens: 3,
            choice,
            scale: 1.5,
            scale_range: [1.0, 10.0],
        }),
        concepts: false,
        split: None,
    }
}

/// METER, UNIMO-3 with every gate and level, with and without in-layer attention, every link, and one stream with and without the
/// dictionary.
fn every_kind() -> Vec<BackboneConfig> {
    // Flat gates, so that every level counts.
    let streams = small::every_kind(0.2);
    let streams = streams.into_iter().map(|fusion| BackboneConfig {
        fusion: Some(fusion),
        ..model()
    });
    let joints = [None, Some(Choice::TopK), Some(Choice::Nearest)].map(|grounding| {
        let joint = Some(joint(grounding));
        BackboneConfig { joint, ..model() }
    });
    // Matrices of their own for image, names of its objects and text.
    let own = [
        (Spaces::Modality, Some(ConceptSpace::Own)),
        (Spaces::Modality, Some(ConceptSpace::Vision)),
        (Spaces::Pair, None),
        (Spaces::Query, None),
    ];
    let split = own.map(|(spaces, concepts)| {
        let mut config = model();
        config.text.token_types = 2;
        config.joint = Some(JointConfig {
            concepts: true,
            split: Some(SplitConfig {
                spaces,
                feed_forward: Sharing::Separate,
                concepts,
            }),
            ..joint(None)
        });
        config
    });
    let all = streams.chain(joints).chain(split).chain([model()]);
    all.collect()
}

/// New encoders whose cross-layer parts have weight, as those of a trained model do.
fn build(config: &BackboneConfig, device: &Device) -> Backbone {
    config.validate().unwrap();
    let mut init = Init::new(device, 1).with_deviation(config.initializer_range as f32);
    let backbone = config.init(&mut init);
    parameters::replace(backbone, |name, shape| {
        if name.contains("split.") {
            // They begin as copies of the text's.
            let values = (0..shape.iter().product::<usize>()).map(|at| 0.3 * (at as f32).sin());
            let values: Vec<f32> = values.collect();
            return Some(burn::tensor::TensorData::new(values, shape.to_vec()));
        }
        let merge = name.ends_with("merge");
        merge.then(|| burn::tensor::TensorData::new(vec![0.7f32], shape.to_vec()))
    })
}

fn images(backbone: &Backbone, device: &Device) -> ImageFeatures {
    let pixels = Init::new(device, 2).uniform([2, 3, 8, 8], 1.0).val();
    let names = backbone
        .text
        .input(&[0, 3, 4, 2, 0, 5, 2, 1], &[4, 3], 4, device);
    backbone.with_concepts(backbone.encode_images(pixels), Some(&names))
}

fn numbers(x: Tensor<3>) -> Vec<f32> {
    x.into_data().iter::<f32>().collect()
}

/// The states of text and image, read from left to right after `prefix` positions.
struct Reader<'a> {
    backbone: &'a Backbone,
    images: &'a ImageFeatures,
    prefix: usize,
}

impl Reader<'_> {
    fn states(&self, ids: &[i32], length: usize) -> (Vec<f32>, Vec<f32>) {
        let device = self.images.class.device();
        let input = self.backbone.text.input(ids, &LENGTHS, length, &device);
        let input = input.from_left_to_right(self.prefix);
        let texts = self.backbone.encode_texts(&input);
        let view = View {
            prefix: Some(self.prefix),
            ..View::default()
        };
        let fused = self
            .backbone
            .fuse_parts(Some(&texts), Some(self.images), &view, Keep::Nothing);
        (
            numbers(fused.text().clone()),
            numbers(fused.image().clone()),
        )
    }
}

/// The state of one position of one sample.
fn at(states: &[f32], length: usize, row: usize, position: usize) -> &[f32] {
    &states[(row * length + position) * WIDTH..][..WIDTH]
}

#[test]
fn no_word_reveals_what_stands_before_it() {
    let device = Device::flex();
    for config in every_kind() {
        let backbone = build(&config, &device);
        let images = images(&backbone, &device);
        for prefix in [1, 2] {
            let reader = Reader {
                backbone: &backbone,
                images: &images,
                prefix,
            };
            let (plain, picture) = reader.states(&IDS, LENGTH);
            assert!(plain.iter().all(|x| x.is_finite()), "{config:?}");
            for changed in prefix..LENGTH {
                let mut ids = IDS;
                for (row, length) in LENGTHS.iter().enumerate() {
                    if changed < *length {
                        ids[row * LENGTH + changed] = OTHER;
                    }
                }
                let (other, same_picture) = reader.states(&ids, LENGTH);
                assert_eq!(picture, same_picture, "{config:?}");
                for (row, length) in LENGTHS.iter().enumerate() {
                    let of = |x, position| at(x, LENGTH, row, position).to_vec();
                    for position in 0..changed.min(*length) {
                        assert_eq!(of(&plain, position), of(&other, position), "{config:?}");
                    }
                    if changed < *length {
                        assert_ne!(of(&plain, changed), of(&other, changed), "{config:?}");
                    }
                }
            }
        }
    }
}

fn near(a: &[f32], b: &[f32]) -> bool {
    let mut both = a.iter().zip(b);
    a.len() == b.len() && both.all(|(a, b)| (a - b).abs() <= TOLERANCE)
}

/// The image stream of two streams is the same to the bit, whatever the length of the texts.
#[test]
fn padding_changes_nothing() {
    let device = Device::flex();
    for config in every_kind() {
        let backbone = build(&config, &device);
        let images = images(&backbone, &device);
        let reader = Reader {
            backbone: &backbone,
            images: &images,
            prefix: 1,
        };
        let (plain, picture) = reader.states(&IDS, LENGTH);
        for length in [LENGTH + 1, LENGTH + 3, LENGTH + 20] {
            let mut ids = Vec::new();
            for row in IDS.chunks(LENGTH) {
                ids.extend_from_slice(row);
                ids.resize(ids.len() + length - LENGTH, 1);
            }
            let (padded, same_picture) = reader.states(&ids, length);
            assert!(near(&picture, &same_picture), "{config:?}");
            assert!(
                picture == same_picture || config.joint.is_some(),
                "{config:?}"
            );
            for (row, real) in LENGTHS.iter().enumerate() {
                for position in 0..*real {
                    let expected = at(&plain, LENGTH, row, position);
                    let padded = at(&padded, length, row, position);
                    assert!(near(expected, padded), "{length} {config:?}");
                }
            }
        }
    }
}

/// One step of reading word by word: the texts that are gone on with, their next words, and how many there are for each image.
type Next = (&'static [usize], &'static [i32], usize);

/// One text for each of two images, then two, another choice of them, one of each, and at last the second image alone.
const STEPS: [Next; 6] = [
    (&[0, 1], &[0, 0], 1),
    (&[0, 0, 1, 1], &[5, 6, 7, 8], 2),
    (&[1, 1, 2, 3], &[9, 10, 11, 12], 2),
    (&[0, 1, 3, 2], &[5, 5, 6, 7], 2),
    (&[1, 2], &[9, 2], 1),
    (&[1, 1, 1], &[3, 4, 5], 3),
];

/// Word by word, with everything else kept from the steps before, gives the states of whole texts.
#[test]
fn word_by_word_is_as_whole_texts() {
    let device = Device::flex();
    for config in every_kind() {
        let backbone = build(&config, &device);
        let images = images(&backbone, &device);
        let mut reading = backbone.begin_reading(Some(&images), 2);
        // Each text with the number of its image.
        let mut texts: Vec<(usize, Vec<i32>)> = vec![(0, Vec::new()), (1, Vec::new())];
        for (step, (parents, words, per_image)) in STEPS.into_iter().enumerate() {
            let next = NextWords {
                parents,
                words,
                per_image,
            };
            let states = backbone.read_on(&mut reading, &next);
            let longer = parents.iter().zip(words).map(|(parent, word)| {
                let (image, mut text) = texts[*parent].clone();
                text.push(*word);
                (image, text)
            });
            texts = longer.collect();
            let ids: Vec<i32> = texts.iter().flat_map(|(_, text)| text.clone()).collect();
            let rows: Vec<i32> = texts.iter().map(|(image, _)| *image as i32).collect();
            let length = step + 1;
            let input = backbone
                .text
                .input(&ids, &vec![length; rows.len()], length, &device);
            let whole = backbone.encode_texts(&input.from_left_to_right(1));
            let shown = Tensor::from_data(rows.as_slice(), &device);
            let view = View {
                prefix: Some(1),
                ..View::default()
            };
            let fused = backbone.fuse_parts(
                Some(&whole),
                Some(&images.select(&shown)),
                &view,
                Keep::Nothing,
            );
            let expected = numbers(fused.text().clone().narrow(1, length - 1, 1));
            let states: Vec<f32> = states.into_data().iter::<f32>().collect();
            assert!(near(&expected, &states), "step {step} of {config:?}");
        }
    }
}

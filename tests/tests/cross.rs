//! CCLM's losses against an independent PyTorch reference, `reference/cross.py`: the same layers and heads over an image as memory, and
//! over another text.

use std::collections::BTreeMap;

use burn::tensor::Tensor;
use unimo_batch::{Batch, MaskedTexts, TRANSLATION, Texts};
use unimo_core::init::Init;
use unimo_core::parameters;
use unimo_encoders::backbone::Backbone;
use unimo_encoders::features::{ImageFeatures, TextFeatures};
use unimo_encoders::output::{FusionOutput, Keep};
use unimo_objectives::contrast::Contrast;
use unimo_objectives::encoded::Encoded;
use unimo_objectives::partners::Similarity;
use unimo_objectives::request::{ImageKind, TextKind};
use unimo_objectives::{Draws, Fused, Objective, Objectives, Pairs};
use unimo_tests::fixture::{self, Reference};
use unimo_train::recipe::{Overrides, Recipe};

/// Encoders and heads of cclm-tiny at the reference's size, with its weights.
fn model(reference: &Reference) -> (Backbone, Objectives) {
    let set = [
        "model.text.width=8",
        "model.text.heads=2",
        "model.text.feed_forward=16",
        "model.text.max_positions=8",
        "model.text.positions=from_zero",
        "model.image.width=8",
        "model.image.heads=2",
        "model.fusion.width=8",
        "model.fusion.heads=2",
        "model.fusion.feed_forward=16",
        "objectives.itc.width=4",
        "objectives.itm.negatives=hard_argmax",
        "objectives.itm.epsilon=none",
        "objectives.ttm.negatives=hard_argmax",
        "objectives.ttm.epsilon=none",
        "data.max_text_length=8",
    ];
    let overrides = Overrides {
        data: None,
        set: set.map(str::to_owned).into(),
    };
    let mut recipe = Recipe::load("cclm-tiny", &overrides).expect("a recipe that ships");
    // No tokenizer has so few words.
    recipe.model.text.vocab_size = 20;
    let init = &mut Init::new(&reference.device, 0);
    let backbone = recipe.model.init(init);
    let objectives = recipe.objectives.init(init, &recipe.model);
    (
        Backbone {
            text: reference.fill(backbone.text, "text."),
            fusion: backbone
                .fusion
                .map(|fusion| reference.fill(fusion, "fusion.")),
            ..backbone
        },
        // The text's file has nothing that reads images.
        parameters::replace(objectives, |name, _| reference.known(name)),
    )
}

fn ints(reference: &Reference, name: &str) -> Vec<i32> {
    let numbers = reference.numbers(name).into_iter();
    numbers.map(|number| number as i32).collect()
}

fn texts(reference: &Reference, name: &str) -> Texts {
    const LENGTH: usize = 5;
    const PAD: i32 = 1;
    let ids = ints(reference, name);
    let real = |row: &[i32]| row.iter().filter(|id| **id != PAD).count();
    Texts {
        lengths: ids.chunks(LENGTH).map(real).collect(),
        ids,
        length: LENGTH,
        ..Texts::default()
    }
}

/// The texts of the file with their translations.
fn batch(reference: &Reference) -> Batch {
    let plain = texts(reference, "texts");
    Batch {
        samples: (0..plain.lengths.len()).map(|i| i.to_string()).collect(),
        texts: Some(Texts {
            masked: Some(MaskedTexts {
                ids: ints(reference, "masked_texts"),
                labels: ints(reference, "labels"),
                concept_labels: None,
            }),
            ..plain
        }),
        further_texts: [(TRANSLATION.to_owned(), texts(reference, "translations"))].into(),
        ..Batch::default()
    }
}

/// The gradients of encoders and heads.
fn same_gradients(
    reference: &Reference,
    (backbone, objectives): (&Backbone, &Objectives),
    loss: &Tensor<1>,
) -> usize {
    let mut gradients = loss.backward();
    let of_heads = reference.known_gradients(objectives, "", &mut gradients, &[]);
    of_heads + reference.known_gradients(backbone, "", &mut gradients, &[])
}

/// Parameters of the text encoder with its embeddings, of the cross layers, and of the heads that texts need.
const TEXT: usize = 5 + 2 * 16;
const CROSS: usize = 2 * 26;
const HEADS: usize = 3 + 6 + 5;

/// The whole step: both texts through the encoder as one batch, all pairs through the cross layers as one, heads shared.
#[test]
fn a_text_as_memory_equals_the_reference() {
    let reference = Reference::open("cross", "text");
    let (backbone, objectives) = model(&reference);
    let batch = batch(&reference);
    let step = objectives.step(&backbone, &batch, &reference.device, Draws::new(0));
    assert_eq!(step.skipped, ["mlm", "itm", "itc"], "there is no image");
    for (key, name) in [("ttc", "contrast"), ("ttm", "matching"), ("tlm", "masked")] {
        let found = step.results.iter().find(|result| result.objective == key);
        reference.output(name, &found.unwrap().loss);
    }
    let loss = step.loss.unwrap();
    let found = same_gradients(&reference, (&backbone, &objectives), &loss);
    assert_eq!(found, TEXT + CROSS + HEADS);
}

fn encode(backbone: &Backbone, texts: &Texts, ids: &[i32]) -> TextFeatures {
    let device = backbone.text.word_embedding.weight.device();
    let input = backbone
        .text
        .input(ids, &texts.lengths, texts.length, &device);
    backbone.encode_texts(&input)
}

/// What the cross layers make of these pairs.
fn fuse(backbone: &Backbone, encoded: &Encoded, pairs: Pairs, kind: &TextKind) -> Fused {
    let by = pairs.by;
    let device = backbone.text.word_embedding.weight.device();
    let rows = |rows: &[usize]| {
        let rows: Vec<i32> = rows.iter().map(|row| *row as i32).collect();
        Tensor::from_data(
            burn::tensor::TensorData::new(rows.clone(), [rows.len()]),
            &device,
        )
    };
    let texts = encoded.texts(by, kind).unwrap().select(&rows(&pairs.texts));
    let images = encoded.images(by, ImageKind::Plain).unwrap();
    let images = images.select(&rows(&pairs.images));
    let output: FusionOutput = backbone.fuse(&texts, &images, Keep::Nothing);
    Fused {
        pairs,
        output: Some(output),
    }
}

#[test]
fn an_image_as_memory_equals_the_reference() {
    let reference = Reference::open("cross", "image");
    let (backbone, objectives) = model(&reference);
    let batch = batch(&reference);
    let plain = batch.texts.clone().unwrap();
    let masked = plain.masked.clone().unwrap();
    let image = reference.tensor::<3>("image");
    let [rows, _, width] = image.dims();
    let images = ImageFeatures {
        states: vec![image.clone()],
        class: image.clone().narrow(1, 0, 1).reshape([rows, width]),
        tags: None,
        concepts: None,
        mask: None,
        layers: BTreeMap::new(),
        represented: None,
    };
    let encoded = Encoded::new(&batch)
        .with_texts(TextKind::Plain, encode(&backbone, &plain, &plain.ids))
        .with_texts(TextKind::Masked, encode(&backbone, &plain, &masked.ids))
        .with_images(ImageKind::Plain, images);
    let context = fixture::context(&backbone, &batch, &encoded, &reference.device);
    let heads = (&objectives.itc, &objectives.itm, &objectives.mlm);
    let (Some(itc), Some(itm), Some(mlm)) = heads else {
        panic!("the recipe has all three");
    };
    let similarity = itc.similarity(&itc.features(&context, &[])).unwrap();
    let paired = encoded
        .clone()
        .with_partners(Some(Similarity::fetch(similarity)));
    let rng = &mut Draws::new(0).of("itm");
    let pairs = itm.pairs(&paired, rng).remove(0);
    let numbers = |rows: &[usize]| rows.iter().map(|row| *row as i64).collect::<Vec<_>>();
    assert_eq!(
        numbers(&pairs.texts[2 * rows..]),
        reference.numbers("negative_texts")
    );
    assert_eq!(
        numbers(&pairs.images[rows..2 * rows]),
        reference.numbers("negative_memories")
    );

    let contrast = itc.loss(&context, &[]).loss;
    reference.output("contrast", &contrast);
    let matched = fuse(&backbone, &encoded, pairs, &TextKind::Plain);
    let matching = itm.loss(&context, &[matched]).loss;
    reference.output("matching", &matching);
    let words = mlm.pairs(&encoded, rng).remove(0);
    let words = fuse(&backbone, &encoded, words, &TextKind::Masked);
    reference.output("fused", words.output.as_ref().unwrap().text());
    let masked = mlm.loss(&context, &[words]).loss;
    reference.output("masked", &masked);
    let loss = contrast + matching + masked;
    let mut gradients = loss.backward();
    reference.gradient("image", &image, &gradients);
    let of_heads = reference.known_gradients(&objectives, "", &mut gradients, &[]);
    let of_encoders = reference.known_gradients(&backbone, "", &mut gradients, &[]);
    // Those of the images' projection are two more.
    assert_eq!((of_heads, of_encoders), (HEADS + 2, TEXT + CROSS));
}

//! Regions and words in one stream against independent PyTorch references: UC2's losses by `reference/uc2.py`, M3P's by
//! `reference/m3p.py`; and what hidden regions do not tell.

use std::collections::BTreeSet;

use burn::tensor::Tensor;
use unimo_batch::{Batch, HiddenRegions, JOINED, MaskedTexts, Regions, Texts};
use unimo_core::init::Init;
use unimo_core::parameters;
use unimo_data::aligned::hidden_with;
use unimo_encoders::backbone::Backbone;
use unimo_objectives::{Draws, Objectives, Step};
use unimo_tests::fixture::{self, Reference};
use unimo_train::recipe::{Overrides, Recipe};
use unimo_train::training;

const LENGTH: usize = 5;
const ROWS: usize = 3;
const REGIONS: usize = 3;
const FEATURES: usize = 5;

/// A recipe at the references' size, with their weights.
fn model(reference: &Reference, name: &str, set: &[&str]) -> (Backbone, Objectives) {
    let sizes = [
        "model.text.width=8",
        "model.text.heads=2",
        "model.text.feed_forward=16",
        "model.text.max_positions=16",
        "model.regions.features=11",
        "model.regions.width=8",
        "model.regions.heads=2",
        "model.regions.feed_forward=16",
        "model.joint.width=8",
        "model.joint.layers=2",
        "model.joint.heads=2",
        "model.joint.feed_forward=16",
        "data.max_text_length=8",
        "data.regions={ kind = \"files\", path = \"none\", features = 11, labels = true }",
    ];
    let all = sizes.iter().chain(set).map(|set| (*set).to_owned());
    let overrides = Overrides {
        data: None,
        set: all.collect(),
    };
    let mut recipe = Recipe::load(name, &overrides).unwrap_or_else(|e| panic!("{e}"));
    // No tokenizer has so few words.
    recipe.model.text.vocab_size = 20;
    let init = &mut Init::new(&reference.device, 0);
    let backbone = recipe.model.init(init);
    let objectives = recipe.objectives.init(init, &recipe.model);
    let known = |name: &str| reference.known(name);
    (
        parameters::replace(backbone, |name, _| known(name)),
        parameters::replace(objectives, |name, _| known(name)),
    )
}

fn ints(reference: &Reference, name: &str) -> Vec<i32> {
    let numbers = reference.numbers(name).into_iter();
    numbers.map(|number| number as i32).collect()
}

fn truths(reference: &Reference, name: &str) -> Vec<bool> {
    let numbers = reference.numbers(name).into_iter();
    numbers.map(|number| number == 1).collect()
}

fn texts(ids: Vec<i32>, length: usize) -> Texts {
    const PAD: i32 = 1;
    let real = |row: &[i32]| row.iter().filter(|id| **id != PAD).count();
    Texts {
        lengths: ids.chunks(length).map(real).collect(),
        ids,
        length,
        ..Texts::default()
    }
}

fn floats(reference: &Reference, name: &str) -> Vec<f32> {
    reference.known(name).unwrap().iter::<f32>().collect()
}

/// Regions with their boxes behind the features, as the loader gives them.
fn regions(reference: &Reference, hidden: HiddenRegions) -> Regions {
    let (given, boxes) = (floats(reference, "features"), floats(reference, "boxes"));
    let mut features = Vec::new();
    for (feature, bounds) in given.chunks(FEATURES).zip(boxes.chunks(4)) {
        let [x1, y1, x2, y2] = bounds else {
            panic!("four edges");
        };
        features.extend_from_slice(feature);
        features.extend([*x1, *y1, *x2, *y2, x2 - x1, y2 - y1]);
    }
    let counts = reference.numbers("counts").into_iter();
    Regions {
        features,
        boxes,
        count: REGIONS,
        counts: counts.map(|count| count as usize).collect(),
        hidden: Some(hidden),
    }
}

fn batch(reference: &Reference, hidden: HiddenRegions) -> Batch {
    Batch {
        samples: (0..ROWS).map(|i| i.to_string()).collect(),
        texts: Some(texts(ints(reference, "texts"), LENGTH)),
        regions: Some(regions(reference, hidden)),
        ..Batch::default()
    }
}

fn loss<'a>(step: &'a Step, key: &str) -> &'a Tensor<1> {
    let found = step.results.iter().find(|result| result.objective == key);
    &found
        .unwrap_or_else(|| panic!("{key}: {:?}", step.skipped))
        .loss
}

/// The gradients of encoders and heads; how many there were.
fn same_gradients(
    reference: &Reference,
    (backbone, objectives): (&Backbone, &Objectives),
    loss: &Tensor<1>,
) -> usize {
    let mut gradients = loss.backward();
    let of_heads = reference.known_gradients(objectives, "", &mut gradients, &[]);
    // It takes no part.
    let class = ["regions.class_embedding"];
    of_heads + reference.known_gradients(backbone, "", &mut gradients, &class)
}

fn hidden(reference: &Reference) -> HiddenRegions {
    HiddenRegions {
        chosen: truths(reference, "hidden"),
        blank: truths(reference, "hidden"),
        words: Some(ints(reference, "tokens")),
        vocabulary: Some(ints(reference, "vocabulary")),
        ..HiddenRegions::default()
    }
}

const VTLM: &[&str] = &[
    "train.tasks=none",
    "objectives.itm=none",
    "objectives.tlm={ weight = 1.0, joined = { form = \"two_begins\", positions = \"restart\" }, image = true }",
];

/// Embeddings of words and regions, the stream's layers, the head.
const OF_TEXT: usize = 5;
const OF_STREAM: usize = 2 * 16;
const OF_HEAD: usize = 5;

#[test]
fn words_of_hidden_regions_and_of_joined_texts_beside_images_equal_the_reference() {
    let reference = Reference::open("uc2", "sampled");
    let joined = |batch: Batch| {
        let restarts = reference.numbers("restarts").into_iter();
        let masked = MaskedTexts {
            ids: ints(&reference, "joined"),
            labels: ints(&reference, "labels"),
            concept_labels: None,
        };
        const JOINED_LENGTH: usize = 9;
        let texts = Texts {
            restarts: restarts.map(|at| at as usize).collect(),
            masked: Some(masked),
            ..texts(ints(&reference, "joined"), JOINED_LENGTH)
        };
        Batch {
            further_texts: [(JOINED.to_owned(), texts)].into(),
            ..batch
        }
    };
    let model = model(&reference, "uc2-tiny", VTLM);
    let batch = joined(batch(&reference, hidden(&reference)));
    let step = model
        .1
        .step(&model.0, &batch, &reference.device, Draws::new(0));
    assert_eq!(step.skipped, ["mlm"], "no text alone has words hidden");
    reference.output("sampled", loss(&step, "mrtm"));
    reference.output("vtlm", loss(&step, "tlm"));
    let found = same_gradients(&reference, (&model.0, &model.1), &step.loss.unwrap());
    // Two norms, two layers, the kind of a region and the feature of hidden ones.
    assert_eq!(found, OF_TEXT + OF_STREAM + OF_HEAD + 2 * 2 + 2 * 2 + 2 + 2);
}

/// UC2 with the parts of this loss alone.
fn alone(reference: &Reference, mrtm: &str) -> (Backbone, Objectives) {
    let mrtm = format!("objectives.mrtm={{ weight = 1.0, mask = {{ rate = 0.15 }}, {mrtm} }}");
    let set = [
        "train.tasks=none",
        "objectives.itm=none",
        "objectives.tlm=none",
        &mrtm,
    ];
    model(reference, "uc2-tiny", &set)
}

#[test]
fn words_among_names_and_their_shares_equal_the_reference() {
    let reference = Reference::open("uc2", "sampled");
    let batch_of_words = batch(&reference, hidden(&reference));
    let names = alone(&reference, "vocabulary = \"names\"");
    let run = |(backbone, objectives): &(Backbone, Objectives), batch: &Batch| {
        objectives.step(backbone, batch, &reference.device, Draws::new(0))
    };
    reference.output("among_names", loss(&run(&names, &batch_of_words), "mrtm"));

    let reference = Reference::open("uc2", "soft");
    let hidden = HiddenRegions {
        shares: Some(floats(&reference, "shares")),
        ..hidden(&reference)
    };
    let batch = batch(&reference, hidden);
    let soft = "labels = \"soft\", vocabulary = \"names\"";
    let by_element = alone(&reference, &format!("{soft}, mean = \"elements\""));
    reference.output("by_element", loss(&run(&by_element, &batch), "mrtm"));
    let model = alone(&reference, soft);
    let step = run(&model, &batch);
    reference.output("by_region", loss(&step, "mrtm"));
    let found = same_gradients(&reference, (&model.0, &model.1), &step.loss.unwrap());
    assert_eq!(found, OF_TEXT + OF_STREAM + OF_HEAD + 2 * 2 + 2 * 2 + 2 + 2);
}

/// Whatever feature a hidden region has, and whatever a padded one has, nothing changes; a shown one does change something.
#[test]
fn hidden_regions_carry_nothing_of_their_feature() {
    let reference = Reference::open("uc2", "sampled");
    let model = alone(&reference, "vocabulary = \"all\"");
    let batch = batch(&reference, hidden(&reference));
    let found = |change: &dyn Fn(&mut Regions)| {
        let mut batch = batch.clone();
        change(batch.regions.as_mut().unwrap());
        let step = model
            .1
            .step(&model.0, &batch, &reference.device, Draws::new(0));
        loss(&step, "mrtm").clone().into_scalar::<f32>()
    };
    let with = |at: usize| {
        move |regions: &mut Regions| {
            let first = at * (FEATURES + 6);
            regions.features[first..first + FEATURES].fill(3.0);
        }
    };
    let as_it_is = found(&|_| {});
    // Hidden, hidden, padding.
    for at in [0, 4, 5] {
        assert_eq!(found(&with(at)), as_it_is, "region {at}");
    }
    assert_ne!(found(&with(1)), as_it_is);
}

const M3P: &[&str] = &[
    "objectives.regions.classes.count=7",
    "objectives.regions.features.weight=0.5",
    "objectives.ranking.negatives=2",
    "objectives.ranking.cross_entropy=1.0",
    "objectives.ranking.triplet=1.0",
];

#[test]
fn words_classes_features_and_ranks_equal_the_reference() {
    let reference = Reference::open("m3p", "step");
    let hidden = HiddenRegions {
        chosen: truths(&reference, "hidden"),
        blank: truths(&reference, "blank"),
        classes: Some(ints(&reference, "classes")),
        ..HiddenRegions::default()
    };
    let mut batch = batch(&reference, hidden);
    batch.texts.as_mut().unwrap().masked = Some(MaskedTexts {
        ids: ints(&reference, "masked_texts"),
        labels: ints(&reference, "labels"),
        concept_labels: None,
    });
    let model = model(&reference, "m3p-tiny", M3P);
    let step = model
        .1
        .step(&model.0, &batch, &reference.device, Draws::new(0));
    assert!(step.skipped.is_empty(), "{:?}", step.skipped);
    reference.output("words", loss(&step, "mlm"));
    let of = |name: &str| floats(&reference, name)[0];
    let regions = loss(&step, "regions").clone().into_scalar::<f32>();
    let expected = of("classes_loss") + 0.5 * of("features_error");
    assert!(
        f64::from((regions - expected).abs()) < fixture::OUTPUTS * f64::from(expected),
        "{regions} {expected}"
    );
    let ranking = loss(&step, "ranking").clone().into_scalar::<f32>();
    let expected = of("binary") + of("over_all") + of("triplet");
    assert!(
        f64::from((ranking - expected).abs()) < fixture::OUTPUTS * f64::from(expected),
        "{ranking} {expected}"
    );
    let found = same_gradients(&reference, (&model.0, &model.1), &step.loss.unwrap());
    // Regions: a layer and a norm. Heads: classes, features, the pooler and the score.
    let of_heads = OF_HEAD + 6 + 2 + 2 + 2;
    assert_eq!(found, OF_TEXT + OF_STREAM + 2 + 2 + of_heads);
}

/// A line of `fixtures/aligned.jsonl`, which `reference/aligned.py` writes.
#[derive(serde::Deserialize)]
struct Aligned {
    words: [Vec<Option<u32>>; 2],
    alignment: Vec<(u32, u32)>,
    whole: bool,
    chosen: Vec<usize>,
    numbers: Vec<f64>,
    hidden: [Vec<usize>; 2],
}

#[test]
fn tokens_are_hidden_with_their_partners_as_the_reference_hides_them() {
    let lines = std::fs::read_to_string(fixture::folder().join("aligned.jsonl")).unwrap();
    let mut count = 0;
    for line in lines.lines() {
        let case: Aligned = serde_json::from_str(line).unwrap();
        let mut numbers = case.numbers.iter();
        let mut pick = |count: usize| (numbers.next().unwrap() * count as f64) as usize;
        let mut hidden: [BTreeSet<usize>; 2] = Default::default();
        let words = [case.words[0].as_slice(), case.words[1].as_slice()];
        for at in case.chosen {
            if hidden[0].contains(&at) {
                continue;
            }
            let found = hidden_with(at, words, &case.alignment, case.whole, &mut pick);
            for (all, found) in hidden.iter_mut().zip(found) {
                all.extend(found);
            }
        }
        assert_eq!(hidden.map(Vec::from_iter), case.hidden, "{line}");
        count += 1;
    }
    assert_eq!(count, 1000);
}

/// What the data can never give is said before there are weights, by the objective's key and what gives it.
#[test]
fn what_the_data_cannot_give_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    for (name, set, said) in [
        (
            "uc2-tiny",
            "data.scenes.language=english",
            "objectives.tlm reads translations",
        ),
        (
            "uc2-tiny",
            "data.switch={ dictionaries = { xx = \"scenes\" } }",
            "objectives.tlm.mask.unit",
        ),
        (
            "m3p-tiny",
            "objectives.regions.classes.count=63",
            "objectives.regions reads 63 classes of regions",
        ),
    ] {
        let overrides = Overrides {
            data: None,
            set: vec![set.to_owned()],
        };
        let recipe = Recipe::load(name, &overrides).unwrap();
        let options = training::Options {
            quiet: true,
            ..training::Options::default()
        };
        let error = training::start(&recipe, &folder.path().join("run"), &options).unwrap_err();
        let error = error.to_string();
        assert!(error.contains(said), "{said}: {error}");
        assert!(!folder.path().join("run").exists());
    }
    for (set, said) in [
        ("objectives.mrtm.labels=soft", "vocabulary"),
        ("objectives.mrtm.mean=elements", "mean"),
        ("objectives.mrtm.mask.rate=1", "mask.rate"),
        ("objectives.mlm.mask.unit=aligned_mix", "mask.unit"),
        ("objectives.mlm=none", "[objectives.mlm]"),
        ("model.regions.features=6", "features"),
    ] {
        let overrides = Overrides {
            data: None,
            set: vec![set.to_owned(), "train.tasks=none".to_owned()],
        };
        let error = Recipe::load("uc2-tiny", &overrides)
            .unwrap_err()
            .to_string();
        assert!(error.contains(said), "{said}: {error}");
    }
}

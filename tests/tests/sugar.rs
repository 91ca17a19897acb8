//! The alignment kernel against a sum over all alignments, and Sugar's losses over stories with their gradients against an independent PyTorch
//! reference, `reference/alignment.py`; and what they do not depend on.

use std::path::Path;

use image::{Rgb, RgbImage};
use serde::Deserialize;
use unimo_batch::{Batch, Images, Slice, Slices, Texts};
use unimo_core::alignment::{Kernel, Temper};
use unimo_core::init::Init;
use unimo_core::parameters;
use unimo_encoders::backbone::Backbone;
use unimo_objectives::pretraining::alignment::{AlignmentConfig, AlignmentLoss, Targets};
use unimo_objectives::{Draws, Objectives, Step};
use unimo_tests::fixture::{self, Reference};
use unimo_train::device::DeviceChoice;
use unimo_train::recipe::{Overrides, Recipe};
use unimo_train::training;

const SIDE: usize = 8;
const LENGTHS: [usize; 7] = [4, 3, 5, 4, 3, 4, 5];
const VOCABULARY: usize = 20;
/// The sums of the reference in f64, in another order.
const EXACT: f64 = 1e-12;
/// f32 sums in another order over two layers of width 8.
const ROUNDING: f32 = 1e-5;

#[derive(Deserialize)]
struct Case {
    n: usize,
    m: usize,
    sigma: f64,
    band: Option<usize>,
    cosines: Vec<f64>,
    log: Option<f64>,
    expected: Vec<f64>,
}

#[test]
fn the_recursion_is_the_sum_over_all_alignments() {
    let path = fixture::folder().join("alignment/kernel.json");
    let text = std::fs::read_to_string(path).unwrap();
    let cases: Vec<Case> = serde_json::from_str(&text).unwrap();
    assert_eq!(cases.len(), 150);
    for case in &cases {
        let kernel = Kernel {
            sigma: case.sigma,
            band: case.band,
            temper: Temper::None,
        };
        let local = kernel.local([case.n, case.m], |i, j| case.cosines[i * case.m + j]);
        let log = local.log_kernel();
        match case.log {
            None => assert_eq!(log, f64::NEG_INFINITY),
            Some(expected) => assert!((log - expected).abs() < EXACT, "{log} {expected}"),
        }
        for (ours, theirs) in local.expected().iter().zip(&case.expected) {
            assert!((ours - theirs).abs() < EXACT, "{ours} {theirs}");
        }
    }
}

/// `sugar-tiny` at the reference's size.
fn recipe() -> Recipe {
    let sizes = [
        "model.joint.width=8",
        "model.joint.layers=2",
        "model.joint.heads=2",
        "model.joint.feed_forward=16",
        "model.joint.interleaved.slices=5",
        "objectives.itc.width=4",
        "data.image_size=8",
        "data.max_text_length=8",
        "data.stories.scenes=[2, 2]",
    ];
    fixture::recipe("sugar-tiny", &sizes, VOCABULARY)
}

/// The alignments of the reference, by their names in it.
fn alignments(own: &AlignmentConfig) -> [(&'static str, AlignmentConfig); 4] {
    let own = |sigma, band, loss| AlignmentConfig {
        sigma,
        band,
        loss,
        ..own.clone()
    };
    let kl = AlignmentConfig {
        temperatures: Some([0.3, 0.2]),
        ..own(1.2, None, AlignmentLoss::Kl)
    };
    let learned = AlignmentConfig {
        projection: Some(6),
        targets: Targets::Learned(4),
        ..own(0.9, Some(3), AlignmentLoss::Bce)
    };
    [
        ("mse", own(1.0, None, AlignmentLoss::Mse)),
        ("bce", own(0.8, Some(3), AlignmentLoss::Bce)),
        ("kl", kl),
        ("learned", learned),
    ]
}

struct Toy {
    reference: Reference,
    recipe: Recipe,
    backbone: Backbone,
}

impl Toy {
    fn new() -> Self {
        let reference = Reference::open("alignment", "stories");
        let recipe = recipe();
        let backbone = recipe.model.init(&mut Init::new(&reference.device, 0));
        Self {
            backbone: reference.fill(backbone, "backbone."),
            reference,
            recipe,
        }
    }

    /// The heads of the recipe with this alignment.
    fn heads(&self, alignment: &AlignmentConfig) -> Objectives {
        let mut config = self.recipe.objectives.clone();
        config.alignment = Some(alignment.clone());
        config.validate().unwrap();
        let heads = config.init(
            &mut Init::new(&self.reference.device, 0),
            &self.recipe.model,
        );
        parameters::replace(heads, |name, _| self.reference.known(name))
    }

    fn batch(&self) -> Batch {
        use Slice::{Image, Text};
        let of = |name: &str| self.reference.numbers(name).into_iter();
        let slices = Slices {
            stories: vec![
                vec![Image(0), Text(0), Image(1), Text(1)],
                vec![Text(2), Image(2), Text(3)],
                vec![Image(3), Text(4), Text(5)],
                vec![Text(6), Image(4)],
            ],
            images: Some(Images {
                pixels: of("levels").map(|level| level as u8).collect(),
                height: SIDE,
                width: SIDE,
                mean: [0.5; 3],
                std: [0.5; 3],
                second_view: None,
                patch_mask: None,
                codes: None,
            }),
            texts: Some(Texts {
                ids: of("ids").map(|id| id as i32).collect(),
                length: 5,
                lengths: LENGTHS.to_vec(),
                ..Texts::default()
            }),
        };
        Batch {
            samples: vec![String::new(); 4],
            slices: Some(slices),
            ..Batch::default()
        }
    }

    fn run(&self, heads: &Objectives, batch: Batch, only: &str) -> Step {
        heads
            .together(
                &|key| key == only,
                &self.backbone,
                &[batch],
                &self.reference.device,
            )
            .batch(0, Draws::new(1))
            .unwrap()
    }
}

#[test]
fn losses_over_stories_equal_the_reference() {
    let toy = Toy::new();
    let reference = &toy.reference;
    let own = toy.recipe.objectives.alignment.clone().unwrap();
    let all = alignments(&own).map(|(name, config)| (name, toy.heads(&config)));
    let lm = &all[0].1;
    let step = toy.run(lm, toy.batch(), "lm");
    reference.output("lm", &step.results[0].loss);
    let mut total = step.loss.unwrap();
    for (name, heads) in &all {
        let step = toy.run(heads, toy.batch(), "alignment");
        reference.output(name, &step.results[0].loss);
        // Weights of the recipe.
        total = total + step.loss.unwrap() / own.weight;
    }
    reference.output("total", &total);
    let read = lm.read_stories(&toy.backbone, &toy.batch(), &reference.device);
    reference.output("pooled", &read.unwrap().stories);
    let mut gradients = total.backward();
    let none: &[&str] = &[];
    let of_backbone = reference.known_gradients(&toy.backbone, "backbone.", &mut gradients, none);
    let of_lm = reference.known_gradients(lm.lm.as_ref().unwrap(), "lm.", &mut gradients, none);
    let learned = all[3].1.alignment.as_ref().unwrap();
    let of_learned = reference.known_gradients(learned, "alignment.", &mut gradients, none);
    let of_itc = reference.known_gradients(lm.itc.as_ref().unwrap(), "itc.", &mut gradients, none);
    assert_eq!((of_backbone, of_lm, of_learned, of_itc), (108, 5, 2, 0));
}

/// The targets are those of the kernel over the slices' vectors; each similarity is compared with its own.
#[test]
fn other_stories_and_padding_change_nothing() {
    let toy = Toy::new();
    let own = toy.recipe.objectives.alignment.clone().unwrap();
    let heads = toy.heads(&own);
    let loss = |batch: Batch, key: &str| -> f32 {
        toy.run(&heads, batch, key).results[0]
            .loss
            .clone()
            .into_scalar()
    };
    for key in ["lm", "alignment"] {
        let before = loss(toy.batch(), key);
        let mut padded = toy.batch();
        let slices = padded.slices.as_mut().unwrap();
        slices.texts.as_mut().unwrap().widen(7, 1);
        let after = loss(padded, key);
        assert!((before - after).abs() < ROUNDING, "{key}: {before} {after}");
        let mut turned = toy.batch();
        turned.slices.as_mut().unwrap().stories.reverse();
        let after = loss(turned, key);
        assert!((before - after).abs() < ROUNDING, "{key}: {before} {after}");
    }
}

/// A batch of pairs has no stories, and one story has none to be compared with.
#[test]
fn what_a_batch_lacks_is_skipped() {
    let toy = Toy::new();
    let own = toy.recipe.objectives.alignment.clone().unwrap();
    let heads = toy.heads(&own);
    let pairs = Batch {
        slices: None,
        ..toy.batch()
    };
    for key in ["lm", "alignment"] {
        assert_eq!(toy.run(&heads, pairs.clone(), key).skipped, [key]);
    }
    let mut one = toy.batch();
    one.samples.truncate(1);
    one.slices.as_mut().unwrap().stories.truncate(1);
    assert_eq!(
        toy.run(&heads, one.clone(), "alignment").skipped,
        ["alignment"]
    );
    assert_eq!(toy.run(&heads, one, "lm").results.len(), 1);
}

#[test]
fn settings_that_do_nothing_are_refused() {
    let refused = |set: &[&str]| {
        let overrides = Overrides {
            data: None,
            set: set.iter().map(|set| (*set).to_owned()).collect(),
        };
        Recipe::load("sugar-tiny", &overrides)
            .unwrap_err()
            .to_string()
    };
    for (set, key) in [
        (
            vec!["objectives.alignment.temperatures=[0.1, 0.1]"],
            "temperatures",
        ),
        (vec!["objectives.alignment.loss=kl"], "temperatures"),
        (
            vec!["objectives.alignment.targets={ learned = 7 }"],
            "targets.learned",
        ),
        (vec!["model.joint.interleaved=none"], "interleaved"),
        (vec!["objectives.lm.texts_alone=true"], "stories"),
        (vec!["objectives.alignment.sigma=0"], "sigma"),
        (vec!["eval.stories.pool=1"], "eval.stories.pool"),
        (vec!["data.stories.scenes=[1, 3]"], "data.stories.scenes"),
    ] {
        let message = refused(&set);
        assert!(message.contains(key), "{set:?}: {message}");
    }
}

/// A story of a file: two scenes of one shade each. `shades` are also what its images are called.
fn line(shades: [usize; 2], rest: &str) -> String {
    let scene =
        |shade| format!(r#"{{"image": "{shade}.png"}}, {{"text": "a picture of shade {shade}"}}"#);
    let slices = shades.map(scene).join(", ");
    format!("{{\"slices\": [{slices}]{rest}}}\n")
}

/// Files of stories with damaged rows: `train.jsonl`, and `val.jsonl` with tellings that are looked for.
fn write_stories(folder: &Path) {
    for shade in 0..12 {
        let level = (shade * 20) as u8;
        let picture = RgbImage::from_pixel(8, 8, Rgb([level, 255 - level, 100]));
        picture.save(folder.join(format!("{shade}.png"))).unwrap();
    }
    let mut train: String = (0..10).map(|at| line([at, at + 1], "")).collect();
    // No image of this name; a single slice; more than `most`.
    train += &line([1, 99], "");
    train += "{\"slices\": [{\"text\": \"alone\"}]}\n";
    train += "{\"slices\": [{\"image\": \"1.png\"}, {\"text\": \"1\"}, {\"text\": \"2\"}, {\"text\": \"3\"}, {\"text\": \"4\"}]}\n";
    std::fs::write(folder.join("train.jsonl"), train).unwrap();
    let told = |(story, change, shades): (usize, &str, [usize; 2])| {
        line(
            shades,
            &format!(", \"story\": {story}, \"change\": \"{change}\""),
        )
    };
    let tellings = (0..4).flat_map(|story| {
        let (a, b) = (2 * story, 2 * story + 1);
        [
            (story, "none", [a, b]),
            (story, "retold", [a, b]),
            (story, "order", [b, a]),
        ]
    });
    let val: String = tellings.map(told).collect();
    std::fs::write(folder.join("val.jsonl"), val).unwrap();
}

/// `sugar-tiny` on files, smaller still.
fn of_files(folder: &Path, set: &[&str]) -> Recipe {
    let data = [
        format!(
            "data.interleaved={{ train = [\"{0}/train.jsonl\"], val = [\"{0}/val.jsonl\"], most = 4 }}",
            folder.display()
        ),
        "data.source=interleaved".to_owned(),
        "data.stories=none".to_owned(),
        "data.shuffle=global".to_owned(),
        "data.max_skipped=0.5".to_owned(),
        "data.tokenizer={ kind = \"train\", vocab_size = 300 }".to_owned(),
    ];
    let small = [
        "train.steps=6",
        "train.batch_size=4",
        "train.log_every=1",
        "train.eval_every=0",
        "train.checkpoint_every=6",
        "eval.losses=none",
        "eval.stories.pool=4",
        "data.scenes.train=100",
        "data.scenes.val=8",
    ];
    let set = small.iter().chain(set).map(|set| (*set).to_owned());
    let overrides = Overrides {
        data: None,
        set: data.into_iter().chain(set).collect(),
    };
    Recipe::load("sugar-tiny", &overrides).unwrap_or_else(|e| panic!("{e}"))
}

fn lines(path: &Path) -> Vec<serde_json::Value> {
    let text = std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[test]
fn stories_of_files_are_trained_on_and_damaged_rows_are_listed() {
    let folder = tempfile::tempdir().unwrap();
    write_stories(folder.path());
    let run = folder.path().join("run");
    let options = training::Options {
        device: Some(DeviceChoice::Flex),
        quiet: true,
        ..training::Options::default()
    };
    training::start(&of_files(folder.path(), &[]), &run, &options).unwrap();
    let steps = lines(&run.join("metrics.jsonl"));
    let of_last = &steps[5]["losses"];
    assert!(
        of_last["lm"]["loss"].is_f64() && of_last["alignment"]["loss"].is_f64(),
        "{of_last}"
    );
    let skipped = lines(&run.join("skipped.jsonl"));
    let reason = |line: u64| {
        let own = skipped.iter().find(|row| row["line"] == line);
        own.map(|row| row["reason"].as_str().unwrap().to_owned())
    };
    assert!(reason(12).unwrap().contains("allowed: 2 to 4"));
    assert!(reason(13).unwrap().contains("a story of 5 slices"));
    // The row is only met if its story is drawn.
    assert!(reason(11).is_none_or(|reason| reason.contains("99.png")));
    let found = lines(&run.join("evals.jsonl"));
    let found = found
        .iter()
        .find(|found| found["evaluator"] == "stories")
        .unwrap();
    let scalar = |name: &str| &found["scalars"][format!("stories.{name}")];
    assert_eq!(scalar("order")["chance"], 0.5);
    assert!(scalar("r1")["value"].is_f64() && scalar("kernel_order")["value"].is_f64());
    assert!(found["scalars"].get("stories.attribute").is_none());
    let report = std::fs::read_to_string(run.join("report.html")).unwrap();
    assert!(report.contains("Soft alignments of held-out stories"));
}

#[test]
fn stories_that_do_not_fit_are_refused_before_a_step() {
    let folder = tempfile::tempdir().unwrap();
    write_stories(folder.path());
    for (set, told) in [
        (
            vec!["model.joint.interleaved.slices=3"],
            "model.joint.interleaved.slices = 3",
        ),
        (vec!["eval.stories.pool=400"], "eval.stories.pool is 400"),
    ] {
        let recipe = of_files(folder.path(), &set);
        let options = training::Options {
            device: Some(DeviceChoice::Flex),
            quiet: true,
            ..training::Options::default()
        };
        let run = folder.path().join("refused");
        let error = training::start(&recipe, &run, &options)
            .unwrap_err()
            .to_string();
        assert!(error.contains(told), "{error}");
        let _ = std::fs::remove_dir_all(&run);
    }
}

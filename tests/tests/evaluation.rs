//! Evaluations cost what they say, score what they say, and give the same numbers however much memory they have.

use std::fs;
use std::path::{Path, PathBuf};

use burn::tensor::Device;
use unimo_data::{SkipList, Split};
use unimo_eval::{Candidate, RetrievalReport};
use unimo_report::record::EvalRecord;
use unimo_train::device::DeviceChoice;
use unimo_train::evaluators::plan::Protocol;
use unimo_train::evaluators::{Weights, retrieval};
use unimo_train::model::Model;
use unimo_train::recipe::{Overrides, Recipe};
use unimo_train::run::RunFolder;
use unimo_train::{checkpoint, evaluation, prepare, training};

/// Matrix products of other numbers of rows round differently.
const F32: f32 = 1e-5;

fn small(name: &str, more: &[&str]) -> Recipe {
    let changes = [
        "train.steps=4",
        "train.batch_size=4",
        "train.checkpoint_every=2",
        "train.eval_every=2",
        "eval.batch_size=16",
        "eval.shortlist=8",
        "eval.gallery=2",
        "model.text.width=32",
        "model.image.image_size=32",
        "model.image.width=32",
        "objectives.itc.width=32",
        "data.image_size=32",
        "data.scenes.size=32",
        "data.scenes.train=60",
        "data.scenes.val=50",
        "data.tokenizer.vocab_size=300",
    ];
    let set = changes.iter().chain(more).map(|s| (*s).to_owned());
    let overrides = Overrides {
        data: None,
        set: set.collect(),
    };
    Recipe::load(name, &overrides).unwrap()
}

const UNIMO3: &str = "model.fusion.width=32";
const JOINT: &str = "model.joint.width=32";

/// Retrieval of a model that nobody has trained, on the recipe's held-out images.
fn scored(recipe: &Recipe) -> RetrievalReport {
    let device = Device::flex();
    let source = unimo_data::open(&recipe.data).unwrap();
    let tokenizer = prepare::tokenizer(recipe, &*source).unwrap();
    let concepts = prepare::count_concepts(recipe, &*source, true).unwrap();
    let concepts = prepare::concept_reader(recipe, concepts.as_ref(), &tokenizer).unwrap();
    let skip = SkipList::in_memory(0.0);
    let set = retrieval::open_set(recipe, &source, &[Split::Val], &skip, concepts);
    let set = set.unwrap().unwrap();
    let mut recipe = recipe.clone();
    recipe.model = recipe.model.without_dropout();
    let model = Model::new(&recipe, &device);
    let weights = Weights {
        model: &model,
        device: &device,
        recipe: &recipe,
        tokenizer: &tokenizer,
        step: 0,
        last: true,
        run: None,
        quiet: true,
        world: &unimo_core::world::World::ALONE,
    };
    let found = retrieval::evaluate(&weights, Protocol::Full, &set, &mut |_, _| {});
    found.unwrap().retrieval
}

/// The best candidates of every query are the same, their scores up to rounding.
fn same(a: &[Vec<Candidate>], b: &[Vec<Candidate>]) {
    assert_eq!(a.len(), b.len());
    for (a, b) in a.iter().flatten().zip(b.iter().flatten()) {
        assert_eq!((a.index, a.by_itm), (b.index, b.by_itm));
        let difference = (a.score - b.score).abs();
        assert!(difference < F32 * a.score.abs().max(1.0), "{a:?} {b:?}");
    }
}

/// With memory for all features, for a batch of each, and for some batches, in two streams that read several levels, in one stream with
/// codes, and with concepts and tags.
#[test]
fn blocks_of_features_give_what_all_at_once_give() {
    let regions = "model.regions={ features = 54, width = 32, layers = 1, heads = 4, feed_forward = 64, activation = \"gelu\", layer_norm_eps = 1e-12, dropout = 0.1 }";
    for (name, more) in [
        (
            "unimo3-tiny",
            &[
                UNIMO3,
                "eval.full_itm=true",
                "model.fusion.levels=both",
                "model.fusion.uni_levels=2",
            ][..],
        ),
        ("unimo3-tiny", &[UNIMO3, "objectives.itc=none"][..]),
        ("unimo2-tiny", &[JOINT][..]),
        (
            "mvp-tiny",
            &[
                JOINT,
                "stage=none",
                "data.concepts.min_count=5",
                "model.image=none",
                regions,
                "data.regions={ kind = \"boxes\", side = 4, limit = 3 }",
            ][..],
        ),
    ] {
        let all = scored(&small(name, more));
        for memory in ["eval.memory_gb=1e-9", "eval.memory_gb=0.002"] {
            let tiles = scored(&small(name, &[more, &[memory]].concat()));
            assert_eq!(tiles.pairs_scored, all.pairs_scored);
            assert_eq!(tiles.methods.len(), all.methods.len());
            for (tiles, all) in tiles.methods.iter().zip(&all.methods) {
                assert_eq!(tiles.text_to_image, all.text_to_image, "{name} {memory}");
                assert_eq!(tiles.image_to_text, all.image_to_text, "{name} {memory}");
                same(&tiles.captions_of_image, &all.captions_of_image);
                same(&tiles.images_of_text, &all.images_of_text);
            }
        }
    }
}

fn records(run: &Path, name: &str) -> Vec<EvalRecord> {
    let text = fs::read_to_string(run.join(name)).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn train(recipe: &Recipe, run: &Path) {
    let options = training::Options {
        device: Some(DeviceChoice::Flex),
        quiet: true,
        train_only: false,
        ..training::Options::default()
    };
    training::start(recipe, run, &options).unwrap();
}

/// By what all evaluations of a run score the best weights are chosen, whatever the last one scores beside.
#[test]
fn the_best_is_chosen_by_what_every_evaluation_scores() {
    let folder = tempfile::tempdir().unwrap();
    let part = "val, 32 of 50 images at random";
    for (during, expected) in [
        // In 2 steps of 4 pairs a twentieth is nothing, so the least that says something.
        (
            "auto",
            [("contrast", part), ("contrast", part), ("full", "val")].as_slice(),
        ),
        ("part", &[("full", part), ("full", part), ("full", "val")]),
        ("full", &[("full", "val"), ("full", "val")]),
    ] {
        let run = folder.path().join(during);
        let during = format!("eval.during={during}");
        train(&small("unimo3-tiny", &[UNIMO3, &during]), &run);
        let found = records(&run, "evals.jsonl");
        let kinds: Vec<_> = found
            .iter()
            .map(|e| (e.protocol.as_str(), e.split.as_str()))
            .collect();
        assert_eq!(kinds, expected, "{during}");
        let last = found.last().unwrap();
        assert_eq!((last.step, last.images, last.texts), (4, 50, 100));
        assert_eq!(last.retrieval.len(), 2, "the contrast, and re-ranked");
        // The same weights have the same score.
        assert!(
            found
                .iter()
                .filter(|e| e.step == 4)
                .all(|e| e.score == last.score)
        );
        let best = RunFolder::open(&run).unwrap().0.best().unwrap().unwrap();
        let highest = found.iter().filter_map(|e| e.score).fold(0.0, f64::max);
        assert_eq!(best.score, highest);

        // A finished run is not evaluated again.
        let options = training::Options {
            device: Some(DeviceChoice::Flex),
            quiet: true,
            train_only: false,
            ..training::Options::default()
        };
        let lines = || fs::read_to_string(run.join("evals.jsonl")).unwrap();
        let before = lines();
        training::resume(&run, &options).unwrap();
        assert_eq!(lines(), before);
        // One that was killed before its last evaluation was whole is.
        let whole = before.lines().filter(|line| line.contains("\"step\":2"));
        let cut: String = whole.map(|line| format!("{line}\n")).collect();
        fs::write(run.join("evals.jsonl"), cut).unwrap();
        training::resume(&run, &options).unwrap();
        assert_eq!(lines(), before);
    }
}

/// Images and a list of them, `splits` names each row's; empty: the list has no such column.
fn list(folder: &Path, name: &str, splits: &[&str]) -> PathBuf {
    let rows = splits.iter().enumerate().map(|(row, split)| {
        let picture = image::RgbImage::from_pixel(32, 32, image::Rgb([20 * row as u8; 3]));
        picture.save(folder.join(format!("{row}.png"))).unwrap();
        let split = if split.is_empty() {
            String::new()
        } else {
            format!(", \"split\": \"{split}\"")
        };
        format!("{{\"image\": \"{row}.png\", \"caption\": \"picture {row}\"{split}}}\n")
    });
    let path = folder.join(name);
    fs::write(&path, rows.collect::<String>()).unwrap();
    path
}

#[test]
fn other_data_is_evaluated_whole_and_what_is_left_out_is_counted() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    train(
        &small(
            "unimo3-tiny",
            &[UNIMO3, "data.scenes.val=6", "eval.limit=4"],
        ),
        &run,
    );
    let look = |data: Option<&Path>| evaluation::Options {
        data: data.map(Path::to_owned),
        ..evaluation::Options::default()
    };
    let counts = |record: &EvalRecord| -> Vec<(String, u64)> {
        record.left_out.clone().into_iter().collect()
    };
    let eval = |given: &Path, options| {
        evaluation::run(given, &options).map(|(run, mut records)| (run, records.remove(0)))
    };

    // A list without splits: every row of it, and not the 5% that training would hold out; the recipe's limit is not of it.
    let plain = list(folder.path(), "plain.jsonl", &[""; 12]);
    let (_, record) = eval(&run, look(Some(&plain))).unwrap();
    assert_eq!((record.images, record.texts), (12, 12));
    assert!(record.left_out.is_empty());
    assert!(
        record.split.ends_with("of plain.jsonl (unimo eval)"),
        "{}",
        record.split
    );

    let splits = ["train", "val", "train", "val", "train", "train", "train"];
    let mixed = list(folder.path(), "mixed.jsonl", &splits);
    let (_, record) = eval(&run, look(Some(&mixed))).unwrap();
    assert_eq!((record.images, counts(&record)), (7, Vec::new()));
    let of_val = evaluation::Options {
        split: Some(Split::Val),
        ..look(Some(&mixed))
    };
    let (_, record) = eval(&run, of_val).unwrap();
    assert_eq!(
        (record.images, counts(&record)),
        (2, vec![("train".to_owned(), 5)])
    );
    assert!(evaluation::table(&record).contains("left out: 5 of train"));

    // Its own data: the held-out split, as the recipe limits it. A limit draws at random, always alike, and says so.
    let (_, record) = eval(&run, look(None)).unwrap();
    assert_eq!(
        (record.images, counts(&record)),
        (4, vec![("train".to_owned(), 60)])
    );
    assert_eq!(record.split, "val, 4 of 6 images at random (unimo eval)");
    let few = || evaluation::Options {
        limit: Some(5),
        ..look(Some(&plain))
    };
    let (_, record) = eval(&run, few()).unwrap();
    let label = ", 5 of 12 images at random of plain.jsonl (unimo eval)";
    assert!(record.split.ends_with(label), "{}", record.split);
    // The median rank of chance is not a number, which equals nothing.
    let again = eval(&run, few()).unwrap().1;
    assert_eq!(again.retrieval, record.retrieval);

    // A checkpoint's file is its run at its step.
    let file = checkpoint::path(&run.join("checkpoints"), 4);
    let (of_file, record) = eval(&file, look(None)).unwrap();
    assert_eq!(
        (record.step, of_file.unwrap().canonicalize().unwrap()),
        (4, run.canonicalize().unwrap())
    );
    let other = evaluation::Options {
        step: Some(2),
        ..look(None)
    };
    assert!(
        eval(&file, other)
            .unwrap_err()
            .to_string()
            .contains("--step")
    );
    let none = eval(&plain, look(None)).unwrap_err().to_string();
    assert!(
        none.contains("is neither a safetensors nor a PyTorch file"),
        "{none}"
    );

    // A split that is not there is named, with what is.
    let only = list(folder.path(), "only.jsonl", &["train"; 5]);
    let of_val = evaluation::Options {
        split: Some(Split::Val),
        ..look(Some(&only))
    };
    let error = eval(&run, of_val).unwrap_err().to_string();
    assert!(error.contains("split val; it has 5 of train"), "{error}");
}

/// COCO's 1K is the mean over five parts of its 5K. Here the three parts of a list are its splits, so each can be evaluated by itself.
#[test]
fn the_mean_over_folds_is_that_of_their_own_evaluations() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    train(&small("unimo3-tiny", &[UNIMO3]), &run);
    let splits = [
        "train", "train", "train", "val", "val", "val", "test", "test", "test",
    ];
    let data = list(folder.path(), "nine.jsonl", &splits);
    let look = || evaluation::Options {
        data: Some(data.clone()),
        shortlist: Some(2),
        ..evaluation::Options::default()
    };
    let eval = |options| evaluation::run(&run, &options).map(|(_, records)| records);
    let folds = evaluation::Options {
        folds: Some(3),
        united_shortlists: true,
        ..look()
    };
    let records = eval(folds).unwrap();
    assert_eq!(
        (records.len(), records[0].images, records[1].images),
        (2, 9, 3)
    );
    assert!(
        records[1].split.contains("mean over 3 folds"),
        "{}",
        records[1].split
    );
    let each: Vec<EvalRecord> = [Split::Train, Split::Val, Split::Test]
        .into_iter()
        .map(|split| {
            let options = evaluation::Options {
                split: Some(split),
                united_shortlists: true,
                ..look()
            };
            eval(options).unwrap().remove(0)
        })
        .collect();
    assert_eq!(
        records[1].pairs,
        each.iter().map(|fold| fold.pairs).sum::<u64>()
    );
    let methods = &records[1].retrieval;
    assert_eq!(methods.len(), 2, "the contrast, and re-ranked");
    for (at, method) in methods.iter().enumerate() {
        let mean = each.iter().map(|fold| fold.retrieval[at].text_to_image.r1);
        let mean = mean.sum::<f64>() / 3.0;
        assert!((method.text_to_image.r1 - mean).abs() < 1e-12);
        let mean = each
            .iter()
            .map(|fold| fold.retrieval[at].image_to_text.median_rank);
        assert!((method.image_to_text.median_rank - mean.sum::<f64>() / 3.0).abs() < 1e-12);
    }
    let too_many = evaluation::Options {
        folds: Some(10),
        ..look()
    };
    let error = eval(too_many).unwrap_err().to_string();
    assert!(
        error.contains("--folds") && error.contains("2 to 9"),
        "{error}"
    );
}

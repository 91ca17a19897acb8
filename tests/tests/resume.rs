//! A run is a function of its recipe: twice the same bits, and the same bits however often it was stopped.

use std::fs;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use unimo_dev::torture::tensors_differ;
use unimo_train::device::DeviceChoice;
use unimo_train::recipe::{Overrides, Recipe};
use unimo_train::run::RunFolder;
use unimo_train::{checkpoint, evaluation, training};

/// Dropout draws from burn's generator, of which a process has one: trainings side by side would take each other's
/// numbers.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// Sums of a few numbers in f64.
const SUM_TOLERANCE: f64 = 1e-12;

/// Relative difference of the gradient's norm between f16, which has 11 binary digits, and f32, over some twenty operations.
const NORM_IN_F16: f64 = 0.02;

const STEPS: u64 = 6;
const STOP: u64 = 3;

/// All that a run carries from step to step: moments, moving average, momentum encoder, ramps of its soft targets, and a queue that wraps around
/// (6 steps of 2 batches of 4 in 20 rows); dropout, drop-path and accumulation make the random numbers matter.
fn recipe(more: &[&str]) -> Recipe {
    let changes = [
        "train.steps=6",
        "train.batch_size=4",
        "train.accumulation=2",
        "train.ema=0.9",
        "train.log_every=1",
        "train.checkpoint_every=3",
        "model.text.vocab_size=300",
        "model.text.width=32",
        "model.text.dropout=0.1",
        "model.text.drop_path=0.2",
        "model.image.image_size=32",
        "model.image.width=32",
        "model.image.dropout=0.1",
        "model.image.drop_path=0.2",
        "model.fusion.width=32",
        "model.fusion.dropout=0.1",
        "model.fusion.drop_path=0.2",
        "objectives.itc.width=16",
        "objectives.itc.momentum={ queue = 20, alpha = 0.4, alpha_ramp = 5 }",
        "objectives.mlm.distil={ alpha = 0.4, alpha_ramp = 4 }",
        "teacher={ decay = 0.9 }",
        "data.image_size=32",
        "data.max_text_length=32",
        "data.scenes.size=32",
        "data.scenes.train=300",
        "data.tokenizer.vocab_size=300",
    ];
    let set = changes.iter().chain(more).map(|s| (*s).to_owned());
    let overrides = Overrides {
        data: None,
        set: set.collect(),
    };
    Recipe::load("unimo3-tiny", &overrides).unwrap()
}

fn options() -> training::Options {
    training::Options {
        device: Some(DeviceChoice::Flex),
        quiet: true,
        train_only: true,
        ..training::Options::default()
    }
}

/// Step, loss, gradient norm and learning rate of every line, as bits.
fn curve(run: &Path) -> Vec<(u64, [u64; 3])> {
    let text = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    let number = |line: &serde_json::Value, key: &str| line[key].as_f64().unwrap().to_bits();
    text.lines()
        .map(|line| {
            let line: serde_json::Value = serde_json::from_str(line).unwrap();
            let values = ["loss", "grad_norm", "lr"].map(|key| number(&line, key));
            (line["step"].as_u64().unwrap(), values)
        })
        .collect()
}

fn last(run: &Path) -> std::path::PathBuf {
    checkpoint::path(&run.join("checkpoints"), STEPS)
}

#[test]
fn a_run_stopped_and_resumed_ends_as_one_that_was_not() {
    let _one = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let folder = tempfile::tempdir().unwrap();
    let whole = folder.path().join("whole");
    training::start(&recipe(&[]), &whole, &options()).unwrap();
    let steps: Vec<u64> = curve(&whole).iter().map(|(step, _)| *step).collect();
    assert_eq!(steps, (1..=STEPS).collect::<Vec<_>>());

    // What a run leaves that is killed at step 5: the checkpoint of step 3, a later one half-written, and lines up to
    // step 5, the last one cut.
    let stopped = folder.path().join("stopped");
    fs::create_dir_all(stopped.join("checkpoints")).unwrap();
    for name in ["recipe.toml", "tokenizer.json"] {
        fs::copy(whole.join(name), stopped.join(name)).unwrap();
    }
    let checkpoint = |run: &Path, step| checkpoint::path(&run.join("checkpoints"), step);
    fs::copy(checkpoint(&whole, STOP), checkpoint(&stopped, STOP)).unwrap();
    let half = checkpoint(&stopped, STEPS).with_extension("safetensors.part");
    fs::write(&half, b"half").unwrap();
    let lines = fs::read_to_string(whole.join("metrics.jsonl")).unwrap();
    let mut lines: Vec<&str> = lines.split_inclusive('\n').take(5).collect();
    lines[4] = &lines[4][..20];
    fs::write(stopped.join("metrics.jsonl"), lines.concat()).unwrap();

    training::resume(&stopped, &options()).unwrap();
    assert_eq!(
        tensors_differ(&last(&whole), &last(&stopped)).unwrap(),
        None
    );
    assert_eq!(curve(&whole), curve(&stopped));
    assert!(!half.exists());

    // A finished run that is resumed stays as it is.
    training::resume(&stopped, &options()).unwrap();
    assert_eq!(
        tensors_differ(&last(&whole), &last(&stopped)).unwrap(),
        None
    );
    assert_eq!(curve(&whole), curve(&stopped));
}

/// A factor whose gradients overflow at first: steps are left out and counted until it fits, and it is where it was after a resume.
#[test]
fn the_loss_scale_of_f16_is_in_checkpoints() {
    let _one = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let folder = tempfile::tempdir().unwrap();
    let scaled = |initial: u64| {
        let scale = format!("train.loss_scale={{ initial = {initial}, grow_after = 2 }}");
        recipe(&["train.dtype=f16", &scale])
    };
    let whole = folder.path().join("whole");
    training::start(&scaled(1 << 30), &whole, &options()).unwrap();
    let lines = |run: &Path| -> Vec<serde_json::Value> {
        let text = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
        let lines = text.lines();
        lines
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    };
    let mut factor = f64::from(1 << 30);
    let mut good = 0;
    for line in lines(&whole) {
        let overflowed = line["overflows"].as_u64().unwrap_or_default() == 1;
        assert_eq!(overflowed, line["grad_norm"].is_null(), "{line}");
        good = if overflowed { 0 } else { good + 1 };
        if overflowed {
            factor /= 2.0;
        } else if good == 2 {
            (factor, good) = (2.0 * factor, 0);
        }
        assert_eq!(line["loss_scale"], factor, "{line}");
    }
    assert!(
        lines(&whole)[0]["overflows"] == 1,
        "the first step overflows"
    );

    let stopped = folder.path().join("stopped");
    fs::create_dir_all(stopped.join("checkpoints")).unwrap();
    for name in ["recipe.toml", "tokenizer.json"] {
        fs::copy(whole.join(name), stopped.join(name)).unwrap();
    }
    let checkpoint = |run: &Path, step| checkpoint::path(&run.join("checkpoints"), step);
    fs::copy(checkpoint(&whole, STOP), checkpoint(&stopped, STOP)).unwrap();
    training::resume(&stopped, &options()).unwrap();
    assert_eq!(
        tensors_differ(&last(&whole), &last(&stopped)).unwrap(),
        None
    );

    // What is scaled is divided again: the gradient is that of f32, up to f16's rounding.
    let norm = |recipe: Recipe, name: &str| {
        let run = folder.path().join(name);
        training::start(&recipe, &run, &options()).unwrap();
        lines(&run)[0]["grad_norm"].as_f64().unwrap()
    };
    let (half, single) = (norm(scaled(1024), "half"), norm(recipe(&[]), "single"));
    assert!((half / single - 1.0).abs() < NORM_IN_F16, "{half} {single}");
}

/// The systems of other papers, small, each with all that it carries from step to step.
fn system(name: &str, more: &[&str]) -> Recipe {
    let changes = [
        "train.steps=6",
        "train.batch_size=4",
        "train.log_every=1",
        "train.checkpoint_every=2",
        "train.keep_last=9",
        "model.text.width=32",
        "model.text.dropout=0.1",
        "model.image.image_size=32",
        "model.image.width=32",
        "model.joint.width=32",
        "model.joint.dropout=0.1",
        "objectives.itc.width=32",
        "data.image_size=32",
        "data.tokenizer.vocab_size=300",
    ];
    // A table that the source does not read would be an error.
    let scenes: &[&str] = if more.contains(&"data.source=mixture") {
        &[]
    } else {
        &["data.scenes.size=32", "data.scenes.train=300"]
    };
    let set = changes.iter().chain(scenes).chain(more);
    let set = set.map(|s| (*s).to_owned());
    let overrides = Overrides {
        data: None,
        set: set.collect(),
    };
    Recipe::load(name, &overrides).unwrap()
}

/// MVP in two stages of three steps, the second on other data and with a part of the model that stays as it is; UNIMO-2 on pairs,
/// images alone and texts alone; MVP jointly on regions; InfoXLM, whose queue of 20 is filled by 8 keys a step.
fn systems() -> [Recipe; 4] {
    const PARTS: &str = r#"{ batches = "single", parts = [
        { source = "scenes", size = 32, train = 40, val = 4, weight = 1.0 },
        { source = "scenes", size = 32, train = 40, val = 0, seed = 1, keep = "images", weight = 1.0 },
        { source = "scenes", size = 32, train = 40, val = 0, seed = 2, keep = "texts", weight = 1.0 },
    ] }"#;
    const STAGES: &str = r#"[
        { name = "uni-modal", share = 0.5, objectives = ["mcr"], train = ["backbone.text", "backbone.image", "objectives.mcr"] },
        { name = "cross-modal", share = 0.5, lr = 5e-4, data = { scenes = { train = 77, seed = 5 } } },
    ]"#;
    const LANGUAGES: &str = r#"{ batches = "single", parts = [
        { source = "scenes", size = 32, train = 40, val = 4, keep = "texts", language = "both", weight = 1.0 },
    ] }"#;
    let one_line = |text: &str| text.replace('\n', " ");
    let languages = format!("data.mixture={}", one_line(LANGUAGES));
    const REGIONS: &str = r#"model.regions={ features = 54, width = 32, layers = 1, heads = 4, feed_forward = 64,
        activation = "gelu", layer_norm_eps = 1e-12, dropout = 0.1 }"#;
    let stages = format!("stage={}", one_line(STAGES));
    let parts = format!("data.mixture={}", one_line(PARTS));
    [
        system("mvp-tiny", &[&stages, "data.concepts.min_count=5"]),
        system(
            "unimo2-tiny",
            &[
                &parts,
                "data.source=mixture",
                "data.augment={ scale = [0.5, 1.0], ratio = [0.75, 1.333], flip = 0.5 }",
                "train.accumulation=3",
                "model.joint.grounding.codes=24",
                "model.joint.grounding.tokens=4",
                "objectives.codes={ weight = 1.0, rate = 0.3 }",
                "objectives.lm={ weight = 1.0, texts_alone = true }",
                "objectives.views={ weight = 1.0, width = 8, temperature = 0.07, temperature_range = [0.001, 0.5], images_alone = true }",
            ],
        ),
        system(
            "mvp-tiny",
            &[
                "stage=none",
                "model.image=none",
                &one_line(REGIONS),
                "data.regions={ kind = \"boxes\", side = 4, limit = 3 }",
                "eval.limit=20",
                "data.concepts.min_count=5",
            ],
        ),
        system(
            "infoxlm-tiny",
            &[
                &languages,
                "data.source=mixture",
                "model.image=none",
                "model.joint=none",
                "objectives.itc=none",
                "objectives.xlco.queue=20",
                "train.accumulation=2",
            ],
        ),
    ]
}

/// Goes on with what a run would have left that was killed after each of these checkpoints: the same numbers, the same weights.
fn resumes_at(whole: &Path, steps: &[u64]) {
    for stop in steps {
        let stopped = whole.with_extension(format!("stopped-{stop}"));
        fs::create_dir_all(stopped.join("checkpoints")).unwrap();
        for name in [
            "recipe.toml",
            "tokenizer.json",
            "concepts.json",
            "metrics.jsonl",
        ] {
            if whole.join(name).exists() {
                fs::copy(whole.join(name), stopped.join(name)).unwrap();
            }
        }
        let checkpoint = |run: &Path| checkpoint::path(&run.join("checkpoints"), *stop);
        fs::copy(checkpoint(whole), checkpoint(&stopped)).unwrap();
        training::resume(&stopped, &options()).unwrap();
        assert_eq!(curve(whole), curve(&stopped), "stopped at {stop}");
        let differ = tensors_differ(&last(whole), &last(&stopped)).unwrap();
        assert_eq!(differ, None, "stopped at {stop}");
    }
}

#[test]
fn texts_over_texts_resume_at_any_step() {
    let _one = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let folder = tempfile::tempdir().unwrap();
    const PARTS: &str = r#"data.mixture={ batches = "single", parts = [ { source = "scenes", keep = "texts", language = "both", seed = 1, size = 32, train = 60, val = 0, weight = 1.0 }, { source = "scenes", held_out_language = "both", size = 32, train = 60, val = 20, weight = 1.0 } ] }"#;
    let changes = [
        "train.steps=6",
        "train.batch_size=4",
        "train.accumulation=2",
        "train.log_every=1",
        "train.checkpoint_every=2",
        "train.keep_last=9",
        "model.text.vocab_size=300",
        "model.text.width=32",
        "model.text.dropout=0.1",
        "model.image.image_size=32",
        "model.image.width=32",
        "model.fusion.width=32",
        "model.fusion.dropout=0.1",
        "objectives.itc.width=16",
        "data.image_size=32",
        "data.tokenizer.vocab_size=300",
        PARTS,
    ];
    let whole = folder.path().join("whole");
    resumes("cclm-tiny", &changes, &whole);
    // Batches of both kinds came, each for the objectives that it has something for.
    let lines = fs::read_to_string(whole.join("metrics.jsonl")).unwrap();
    for key in ["itc", "itm", "mlm", "ttc", "ttm", "tlm"] {
        assert!(
            lines.contains(&format!("\"{key}\":{{\"loss\"")),
            "{key}: {lines}"
        );
    }
}

/// A run of this recipe with these changes goes on from its second and its fourth step as it went on itself.
fn resumes(name: &str, changes: &[&str], whole: &Path) {
    let overrides = Overrides {
        data: None,
        set: changes.iter().map(|change| (*change).to_owned()).collect(),
    };
    let recipe = Recipe::load(name, &overrides).unwrap();
    training::start(&recipe, whole, &options()).unwrap();
    resumes_at(whole, &[2, 4]);
}

/// Matrices of each modality, and how each sample is read, which is drawn.
#[test]
fn matrices_of_each_modality_resume_at_any_step() {
    let _one = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let folder = tempfile::tempdir().unwrap();
    let changes = [
        "train.steps=6",
        "train.batch_size=4",
        "train.accumulation=2",
        "train.log_every=1",
        "train.checkpoint_every=2",
        "train.keep_last=9",
        "model.text.width=32",
        "model.text.dropout=0.1",
        "model.regions.width=32",
        "model.joint.width=32",
        "model.joint.layers=2",
        "model.joint.dropout=0.1",
        "model.joint.split.spaces=pair",
        "model.joint.split.feed_forward=separate",
        "objectives.mlm.left_to_right=0.5",
        "data.scenes.size=32",
        "data.scenes.train=300",
        "data.scenes.val=8",
        "eval.losses=none",
    ];
    let whole = folder.path().join("whole");
    resumes("dimbert-tiny", &changes, &whole);
    let lines = fs::read_to_string(whole.join("metrics.jsonl")).unwrap();
    assert!(lines.contains("accuracy_left_to_right"), "{lines}");
}

/// Episodes of different lengths, with dropout in the text encoder and in the agent.
#[test]
fn walks_resume_at_any_step() {
    let _one = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let folder = tempfile::tempdir().unwrap();
    let small = unimo_tests::small::WALKS;
    let changes = [
        "train.steps=6",
        "train.accumulation=2",
        "train.log_every=1",
        "train.checkpoint_every=2",
        "train.keep_last=9",
        "model.text.dropout=0.1",
        "model.map.dropout=0.1",
    ];
    let whole = folder.path().join("whole");
    let changes: Vec<&str> = small.iter().chain(&changes).copied().collect();
    resumes("wsmgmap-tiny", &changes, &whole);
    let lines = fs::read_to_string(whole.join("metrics.jsonl")).unwrap();
    for key in ["walk", "path", "hallucinate"] {
        assert!(
            lines.contains(&format!("\"{key}\":{{\"loss\"")),
            "{key}: {lines}"
        );
    }
}

#[test]
fn stages_and_unaligned_data_resume_at_any_step() {
    let _one = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let folder = tempfile::tempdir().unwrap();
    for (number, recipe) in systems().into_iter().enumerate() {
        let whole = folder.path().join(format!("whole-{number}"));
        training::start(&recipe, &whole, &options()).unwrap();
        let saved = checkpoint::steps(&whole.join("checkpoints")).unwrap();
        // The last step of a stage is saved whatever else is.
        let expected = if number == 0 {
            vec![2, 3, 4, 6]
        } else {
            vec![2, 4, 6]
        };
        assert_eq!(saved, expected);
        resumes_at(&whole, &saved[..saved.len() - 1]);
        let lines = fs::read_to_string(whole.join("metrics.jsonl")).unwrap();
        let lines: Vec<serde_json::Value> = lines
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        let trained = |line: &serde_json::Value, key: &str| line["losses"].get(key).is_some();
        if number == 0 {
            for line in &lines {
                let first = line["step"].as_u64().unwrap() <= 3;
                assert_eq!(
                    line["stage"],
                    if first { "uni-modal" } else { "cross-modal" }
                );
                assert!(trained(line, "mcr"));
                assert_eq!(trained(line, "wpg"), !first);
            }
            // What the first stage leaves alone is as it was drawn.
            let after = checkpoint::path(&whole.join("checkpoints"), 3);
            let fresh = unimo_train::model::Model::new(&recipe, &burn::tensor::Device::flex());
            let mut reader = checkpoint::Reader::open(&after).unwrap();
            let blank = unimo_train::model::Model::blank(&recipe, &burn::tensor::Device::flex());
            let after = reader.module("model", blank).unwrap();
            let (mut same, mut changed) = (0, 0);
            let values = unimo_core::parameters::values;
            for ((name, before), (_, after)) in values(&fresh).iter().zip(&values(&after)) {
                let learns = ["backbone.text.", "backbone.image.", "objectives.mcr."]
                    .iter()
                    .any(|part| name.starts_with(part));
                if !learns {
                    assert_eq!(before, after, "{name}");
                    same += 1;
                } else if before != after {
                    changed += 1;
                }
            }
            assert!(same > 30 && changed > 60, "{same} {changed}");
        } else if number == 2 {
            for key in ["mlm", "itm", "itc", "mcr", "wpg"] {
                assert!(lines.iter().all(|line| trained(line, key)), "{key}");
            }
            // Phrases point at regions, and the report draws where.
            let evaluated = folder.path().join("evaluated");
            let options = training::Options {
                train_only: false,
                ..options()
            };
            training::start(&recipe, &evaluated, &options).unwrap();
            let phrases = fs::read_to_string(evaluated.join("phrases.json")).unwrap();
            let phrases: serde_json::Value = serde_json::from_str(&phrases).unwrap();
            let chance = phrases["chance"].as_f64().unwrap();
            assert!((0.2..=1.0).contains(&chance), "{chance}");
            assert!(evaluated.join("phrases/0-0.png").is_file());
        } else if number == 3 {
            for key in ["mlm", "tlm", "xlco"] {
                assert!(lines.iter().all(|line| trained(line, key)), "{key}");
            }
            // Stopped while the queue is filled, and when it is full.
            let fills = |line: &serde_json::Value| line["losses"]["xlco"].get("filled").is_some();
            let filling = lines.iter().filter(|line| fills(line));
            assert_eq!(filling.count(), 3);
            assert!(!fills(&lines[3]) && lines[3]["losses"]["xlco"]["loss"] != 0.0);
        } else {
            // Each kind of batch came, and trained what it can. Every weight is 1: the parts add up to the whole.
            for line in &lines {
                let parts = line["losses"].as_object().unwrap().values();
                let sum: f64 = parts.map(|part| part["loss"].as_f64().unwrap()).sum();
                let loss = line["loss"].as_f64().unwrap();
                assert!((sum - loss).abs() < SUM_TOLERANCE * loss, "{sum} {loss}");
            }
            for key in ["mlm", "itm", "itc", "lm", "vq", "codes", "views"] {
                assert!(lines.iter().any(|line| trained(line, key)), "{key}");
            }
            let skipped = |key: &str| lines.iter().any(|line| line["skipped"].get(key).is_some());
            assert!(skipped("itm") && skipped("views") && skipped("mlm"));
            assert!(!skipped("vq") && !skipped("codes"));
        }
    }
}

#[test]
fn a_recipe_gives_the_same_bits_twice_and_another_seed_gives_others() {
    let _one = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let folder = tempfile::tempdir().unwrap();
    let run = |name: &str, more: &[&str]| {
        let run = folder.path().join(name);
        training::start(&recipe(more), &run, &options()).unwrap();
        run
    };
    // Neither the number of loader threads nor how far they run ahead matters.
    let first = run("first", &["data.workers=1", "data.prefetch=1"]);
    let second = run("second", &["data.workers=3", "data.prefetch=5"]);
    assert_eq!(curve(&first), curve(&second));
    assert_eq!(tensors_differ(&last(&first), &last(&second)).unwrap(), None);

    let other = run("other", &["seed=1"]);
    assert_ne!(curve(&first), curve(&other));
}

/// Blocks that are computed again for the backward pass drop the same elements again. Levels are read by several layers, whose gradients are added
/// up in another order.
#[test]
fn recomputed_blocks_train_as_those_that_are_kept() {
    /// Six steps of AdamW, which makes rounding errors of small gradients as large as those of others.
    const TOLERANCE: f64 = 1e-4;
    let _one = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let folder = tempfile::tempdir().unwrap();
    let [kept, again] = ["false", "true"].map(|set| {
        let run = folder.path().join(set);
        let set = format!("train.gradient_checkpointing={set}");
        training::start(&recipe(&[&set]), &run, &options()).unwrap();
        curve(&run)
    });
    assert_eq!(kept.len(), again.len());
    for ((step, kept), (_, again)) in kept.iter().zip(&again) {
        for (kept, again) in kept.iter().zip(again) {
            let (kept, again) = (f64::from_bits(*kept), f64::from_bits(*again));
            let error = (kept - again).abs();
            assert!(
                error <= TOLERANCE * kept.abs(),
                "step {step}: {kept}, {again}"
            );
        }
    }
}

/// bf16 keeps 8 bits of a number and f16 11; over a dozen layers a loss of about 8 stays this close to that in f32.
const HALF_PRECISION_TOLERANCE: f64 = 0.02;

#[test]
fn half_precision_trains_as_single_does() {
    let _one = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let folder = tempfile::tempdir().unwrap();
    let losses = |dtype: &str| -> Vec<f64> {
        let run = folder.path().join(dtype);
        let dtype = format!("train.dtype={dtype}");
        // Dropout draws differ between dtypes, since only f32 has the fused kernel.
        let none = [
            "model.text.dropout=0",
            "model.image.dropout=0",
            "model.fusion.dropout=0",
            "model.text.drop_path=0",
            "model.image.drop_path=0",
            "model.fusion.drop_path=0",
            "train.steps=4",
        ];
        // A factor that no gradient overflows with, so that no step is left out.
        let scale = dtype.ends_with("=f16");
        let scale = scale.then_some("train.loss_scale={ initial = 64, grow_after = 100 }");
        let more: Vec<&str> = none
            .into_iter()
            .chain([dtype.as_str()])
            .chain(scale)
            .collect();
        training::start(&recipe(&more), &run, &options()).unwrap();
        let bits = curve(&run).into_iter().map(|(_, values)| values[0]);
        bits.map(f64::from_bits).collect()
    };
    let single = losses("f32");
    for dtype in ["bf16", "f16"] {
        for (half, single) in losses(dtype).iter().zip(&single) {
            let off = (half - single).abs() / single;
            assert!(off < HALF_PRECISION_TOLERANCE, "{dtype}: {half} {single}");
            assert_ne!(half, single, "{dtype} was not used");
        }
    }
}

#[test]
fn a_loss_that_is_no_number_names_step_samples_and_checkpoint() {
    let _one = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    let wild = [
        "train.optimizer.lr=1e38",
        "train.schedule.warmup=0",
        "train.clip_norm=none",
        "train.checkpoint_every=1",
    ];
    let error = training::start(&recipe(&wild), &run, &options()).unwrap_err();
    let text = error.to_string();
    assert!(text.contains("step 2") && text.contains("scenes"), "{text}");
    assert!(text.contains("step-00000001.safetensors"), "{text}");
}

/// A teacher that gives no numbers is named by the loss whose targets it gives.
#[test]
fn targets_that_are_no_numbers_name_step_and_samples() {
    let _one = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    let masked = [
        "model.image.mask_embedding=true",
        "objectives.mim={ target = \"teacher\", patches = { rate = 0.5, kind = \"block\" } }",
        "objectives.itc.momentum=none",
        "objectives.mlm.distil=none",
    ];
    training::start(&recipe(&masked), &run, &options()).unwrap();
    let path = checkpoint::path(&run.join("checkpoints"), STOP);
    let bytes = fs::read(&path).unwrap();
    // Written as such, since a byte that is changed afterwards is found by the checksums.
    let (_, header) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
    let notes = header.metadata().clone().unwrap().into_iter().collect();
    let infinite: Vec<u8> = f32::INFINITY.to_le_bytes().repeat(1 << 16);
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let tensors = tensors
        .iter()
        .filter(|(name, _)| *name != "unimo.checksums");
    let tensors = tensors.map(|(name, view)| {
        let all = view.data();
        let data = match name {
            "model.teacher.backbone.image.post_norm.bias" => &infinite[..all.len()],
            _ => all,
        };
        let shape = view.shape().to_vec();
        let view = safetensors::tensor::TensorView::new(view.dtype(), shape, data).unwrap();
        (name, view)
    });
    let mut broken = Vec::new();
    unimo_encoders::weights::write_safetensors(&mut broken, tensors.collect(), &notes).unwrap();
    fs::write(&path, broken).unwrap();
    fs::remove_file(checkpoint::path(&run.join("checkpoints"), STEPS)).unwrap();
    let error = training::resume(&run, &options()).unwrap_err().to_string();
    assert!(
        error.contains("step 4") && error.contains("scenes"),
        "{error}"
    );
    assert!(
        error.contains("the mim loss, with its") && error.contains("target_spread"),
        "{error}"
    );
}

/// An evaluation's record without what a clock or a name decides.
fn evaluations(run: &Path) -> Vec<String> {
    let text = fs::read_to_string(run.join("evals.jsonl")).unwrap();
    text.lines().map(str::to_owned).collect()
}

#[test]
fn evaluations_survive_a_kill_and_leave_the_best_weights() {
    let _one = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let folder = tempfile::tempdir().unwrap();
    let options = training::Options {
        train_only: false,
        ..options()
    };
    let recipe = recipe(&[
        "train.eval_every=2",
        "train.keep_last=1",
        "data.scenes.val=10",
        "eval.shortlist=4",
        "eval.gallery=3",
    ]);
    let whole = folder.path().join("whole");
    training::start(&recipe, &whole, &options).unwrap();
    assert_eq!(evaluations(&whole).len(), 3);
    assert!(whole.join("report.html").is_file());
    let best = RunFolder::open(&whole).unwrap().0.best().unwrap().unwrap();
    let kept = |run: &Path| checkpoint::steps(&run.join("checkpoints")).unwrap();
    let mut expected = vec![best.step, STEPS];
    expected.dedup();
    assert_eq!(kept(&whole), expected, "the best and the last");

    // Killed after the checkpoint of step 4 and before its evaluation was written.
    const CUT: u64 = 4;
    let stopped = folder.path().join("stopped");
    training::start(&recipe, &stopped, &options).unwrap();
    for step in kept(&stopped) {
        fs::remove_file(checkpoint::path(&stopped.join("checkpoints"), step)).unwrap();
    }
    let early = folder.path().join("early");
    let mut keeps_all = recipe.clone();
    keeps_all.train.keep_last = 10;
    training::start(&keeps_all, &early, &options).unwrap();
    let file = |run: &Path, step| checkpoint::path(&run.join("checkpoints"), step);
    for step in [2, CUT] {
        fs::copy(file(&early, step), file(&stopped, step)).unwrap();
    }
    let first = evaluations(&whole)[0].clone() + "\n";
    fs::write(stopped.join("evals.jsonl"), first + "{\"step\":4,\"sp").unwrap();
    training::resume(&stopped, &options).unwrap();
    assert_eq!(evaluations(&stopped), evaluations(&whole));
    assert_eq!(
        tensors_differ(&last(&whole), &last(&stopped)).unwrap(),
        None
    );
    assert_eq!(kept(&stopped), kept(&whole));

    // A look at a run changes nothing that training found.
    let look = evaluation::Options {
        limit: Some(4),
        full_itm: true,
        split: Some(unimo_data::Split::Train),
        ..evaluation::Options::default()
    };
    let (_, mut records) = evaluation::run(&whole, &look).unwrap();
    let record = records.remove(0);
    assert_eq!((record.step, record.images), (best.step, 4));
    assert_eq!(record.retrieval.len(), 3, "itc, re-ranked, full");
    assert_eq!(evaluations(&stopped), evaluations(&whole));
    assert_eq!(
        RunFolder::open(&whole).unwrap().0.best().unwrap(),
        Some(best)
    );
}

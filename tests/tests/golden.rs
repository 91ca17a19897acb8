//! What every recipe computes is what it computed before, bit for bit: the golden files of `tests/golden`.
//!
//! A change that must change a number comes in a commit of its own, which renews the files (`UNIMO_RENEW_GOLDEN=1`) and says why.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use burn::tensor::Device;
use serde_json::Value;
use unimo_dev::parity;
use unimo_encoders::text::TextTower;
use unimo_encoders::weights::Dtype;
use unimo_tests::fixture;
use unimo_tests::golden::{self, Golden};
use unimo_train::device::DeviceChoice;
use unimo_train::export::{self, ExportArgs, Part};
use unimo_train::recipe::Task;
use unimo_train::recipe::{BUILT_IN, Overrides, Recipe};
use unimo_train::{checkpoint, training};

/// Dropout draws from burn's generator, of which a process has one: trainings side by side would take each other's numbers.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

const STEPS: u64 = 20;

/// Sizes of every recipe, so that all of them train in a minute. What is not a size stays as it ships.
const SIZES: &[&str] = &[
    "train.steps=20",
    "train.batch_size=4",
    "train.log_every=1",
    "train.checkpoint_every=20",
    "train.eval_every=0",
    "eval.limit=0",
    "eval.batch_size=16",
    "eval.shortlist=4",
    "eval.gallery=4",
    "model.text.vocab_size=300",
    "model.text.width=32",
    "model.text.layers=2",
    "model.text.heads=4",
    "model.text.feed_forward=64",
    "model.image.image_size=32",
    "model.image.patch_size=8",
    "model.image.width=32",
    "model.image.layers=2",
    "model.image.heads=4",
    "model.image.feed_forward=64",
    "data.image_size=32",
    "data.tokenizer={ kind = \"train\", vocab_size = 300 }",
];

const TWO_STREAMS: &[&str] = &[
    "model.fusion.width=32",
    "model.fusion.layers=2",
    "model.fusion.heads=4",
    "model.fusion.feed_forward=64",
];

const ONE_STREAM: &[&str] = &[
    "model.joint.width=32",
    "model.joint.layers=2",
    "model.joint.heads=4",
    "model.joint.feed_forward=64",
    "objectives.itc.width=32",
];

const SCENES: &[&str] = &[
    "data.scenes.size=32",
    "data.scenes.train=300",
    "data.scenes.val=20",
];

/// Pairs, images alone and texts alone, as `unimo2-base` has them of three files.
const UNALIGNED: &str = "data.mixture={ batches = \"single\", parts = [\
    { source = \"scenes\", size = 32, train = 300, val = 20, weight = 2.0 }, \
    { source = \"scenes\", size = 32, train = 100, val = 0, seed = 1, keep = \"images\", weight = 1.0 }, \
    { source = \"scenes\", size = 32, train = 100, val = 0, seed = 2, keep = \"texts\", weight = 1.0 } ] }";

/// Texts in two languages, and images with captions in one of them.
const LANGUAGES: &str = "data.mixture={ batches = \"single\", parts = [\
    { source = \"scenes\", size = 32, train = 100, val = 0, seed = 1, keep = \"texts\", language = \"both\", weight = 1.0 }, \
    { source = \"scenes\", size = 32, train = 300, val = 20, held_out_language = \"both\", weight = 1.0 } ] }";

/// Texts in two languages alone. Of 300 words, few fit into a text: no pair of texts must be cut to the same.
const TEXTS: &str = "data.mixture={ batches = \"single\", parts = [\
    { source = \"scenes\", size = 32, train = 300, val = 20, keep = \"texts\", language = \"both\", weight = 1.0 } ] }";

/// What makes a recipe tiny, and has it read generated scenes and start from random weights.
fn changes(name: &str) -> Vec<&'static str> {
    let (family, size) = name.rsplit_once('-').expect("FAMILY-SIZE");
    let mut set = SIZES.to_vec();
    match family {
        "unimo3" | "unimo3-retrieval" | "albef" => {
            set.extend(TWO_STREAMS);
            set.push("objectives.itc.width=32");
        }
        "meter" | "meter-retrieval" | "unimo3-caption" => set.extend(TWO_STREAMS),
        "bridgetower" | "managertower" => {
            set.extend(TWO_STREAMS);
            set.push("model.fusion.uni_levels=2");
        }
        "bridgetower-retrieval" | "managertower-retrieval" => {
            set.extend(TWO_STREAMS);
            set.extend(["model.fusion.uni_levels=2", "objectives.itc.width=32"]);
        }
        "mamo" => set.extend(ONE_STREAM),
        "simla" => {
            set.extend(TWO_STREAMS);
            // The sizes of the text encoder, whose blocks are the cross layers too.
            set.extend([
                "objectives.itc.width=32",
                "objectives.psl.width=32",
                "objectives.mim.codes=8",
                "data.codes.codes=8",
                "data.codes.cells=1",
                "data.codes.images=50",
                "data.codes.patch_size=8",
            ]);
        }
        "unimo2" => {
            set.extend(ONE_STREAM);
            set.extend([
                "model.joint.grounding.codes=24",
                "model.joint.grounding.tokens=4",
            ]);
        }
        "mvp" => {
            set.extend(ONE_STREAM);
            // Words and phrases.
            set.extend(["model.text.vocab_size=900", "data.concepts.min_count=5"]);
        }
        "cclm" => {
            set.extend(TWO_STREAMS);
            set.extend(["objectives.itc.width=32", LANGUAGES]);
        }
        "uc2" | "uc2-retrieval" | "m3p" | "dimbert" => {
            // One stream over embeddings alone, of regions and not of pixels.
            set.retain(|set| !set.starts_with("model.image."));
            set.extend(ONE_STREAM.iter().filter(|set| !set.contains("itc")));
            set.extend([
                "model.text.layers=0",
                "model.regions.features=198",
                "model.regions.width=32",
                "model.regions.heads=4",
                "model.regions.feed_forward=64",
                "data.regions={ kind = \"boxes\", side = 8, limit = 8 }",
            ]);
        }
        "clip" => set.push("objectives.itc.width=32"),
        "sugar" => {
            // Retrieval of pairs alone is recorded, so no evaluator of stories.
            set.extend(ONE_STREAM);
            set.extend([
                "eval.losses=none",
                "data.source=stories",
                "data.interleaved=none",
                "data.shuffle={ shards = 2 }",
                "data.stories={ train = 60, val = 10, tellings = 3, scenes = [2, 3], size = 32 }",
                "stage=[{ name = \"slices\", share = 0.5, objectives = [\"itc\"], data = { source = \"scenes\" } }, \
                 { name = \"stories\", share = 0.5, objectives = [\"lm\", \"alignment\"], \
                 train = [\"backbone.joint\", \"objectives.lm\"] }]",
            ]);
        }
        "wsmgmap" => set.extend([
            "model.image=none",
            "eval.walks={ limit = 3, walked = 2, batch_size = 2 }",
            "model.map.cells=16",
            "model.map.width=32",
            "model.map.feed_forward=64",
            "model.map.fine_layers=1",
            "model.map.semantic={ classes = 16, cells = 8, layers = 1 }",
            "model.map.view={ image_size = [16, 16], patch_size = 8, layers = 1 }",
            "model.map.memory_layers=1",
            "data.walks={ cells = 16, cell = 0.75, world = 48, reach = 4.0 }",
            "data.houses={ train = 8, val = 2, paths = 2, sides = [24, 32], rooms = [2, 3], size = 16 }",
        ]),
        "infoxlm" => set.extend([
            TEXTS,
            "model.image=none",
            "objectives.xlco.layer=1",
            "objectives.xlco.queue=10",
            "eval.bitext.layer=1",
        ]),
        _ => panic!("{name}: say here how it becomes tiny, and renew the golden files"),
    }
    if size == "base" {
        // Two micro-batches, so that contrast and negatives go over both.
        set.extend(["init=none", "train.accumulation=2"]);
        // One stream and UNIMO-3 have a tiny recipe in f32; of these f32 would be seen nowhere, which shows smaller changes.
        if ["meter", "bridgetower", "managertower"].contains(&family) {
            set.push("train.dtype=f32");
        }
    }
    match name {
        "unimo2-base" => set.extend([UNALIGNED, "objectives.views.width=32"]),
        "unimo3-retrieval-tiny" => set.push("init=none"),
        // Retrieval alone is recorded.
        "simla-tiny" => set.extend([
            "eval.losses=none",
            "eval.key_words=none",
            "eval.patches=none",
        ]),
        "mamo-tiny" => set.push("eval.patches=none"),
        "sugar-tiny" => set.extend(["eval.stories=none", "eval.select=none"]),
        // The row that a tokenizer trained here pads with.
        "mvp-base" | "albef-base" | "mamo-base" | "simla-base" | "dimbert-base" | "sugar-base" => {
            set.push("model.text.pad_id=1");
        }
        "uc2-base" | "uc2-retrieval-base" | "m3p-base" => {
            set.extend(["model.text.pad_id=1", "data.scenes.language=both"])
        }
        _ => {}
    }
    if family == "dimbert" {
        // Retrieval is none of it: its held-out losses are recorded.
        set.push("eval.losses.limit=20");
    }
    if name == "m3p-base" {
        set.extend([
            "data.switch.dictionaries={ qaa = \"scenes\" }",
            "data.mixture=none",
            "data.scenes.language=english",
        ]);
    }
    if name != "unimo2-base" && !["cclm", "infoxlm", "wsmgmap"].contains(&family) {
        set.extend(SCENES);
        if size != "tiny" && family != "sugar" {
            set.push("data.source=scenes");
        }
    }
    set
}

fn tiny(name: &str) -> Recipe {
    let overrides = Overrides {
        data: None,
        set: changes(name).into_iter().map(str::to_owned).collect(),
    };
    // Of some recipes a size is what it was, which is nothing to note.
    let (recipe, _) =
        Recipe::load_quietly(name, &overrides).unwrap_or_else(|e| panic!("{name}: {e}"));
    recipe
}

/// A value of a line of JSON: a whole number as it is, another one with its bits.
fn value(value: &Value) -> String {
    match value {
        Value::Number(number) if number.is_f64() => golden::number(number.as_f64().unwrap()),
        // JSON has no NaN.
        Value::Null => golden::number(f64::NAN),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// The members of a JSON object that `names` names, or all.
fn values(of: &Value, names: Option<&[&str]>) -> Vec<(String, String)> {
    let members = of.as_object().unwrap().iter();
    let named =
        members.filter(|(name, _)| names.is_none_or(|names| names.contains(&name.as_str())));
    named
        .map(|(name, found)| (name.clone(), value(found)))
        .collect()
}

fn lines(file: &Path) -> Vec<Value> {
    let text = fs::read_to_string(file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// Trains a recipe and records what comes of it.
fn trained(name: &str, folder: &Path) -> Golden {
    let recipe = tiny(name);
    let run = folder.join(name);
    let options = training::Options {
        device: Some(DeviceChoice::Flex),
        quiet: true,
        ..training::Options::default()
    };
    training::start(&recipe, &run, &options).unwrap_or_else(|e| panic!("{name}: {e}"));

    let mut golden = Golden::default();
    let steps = lines(&run.join("metrics.jsonl"));
    assert_eq!(steps.len() as u64, STEPS, "{name}");
    for line in &steps {
        let step = line["step"].as_u64().unwrap();
        // Nothing that a clock decides.
        let whole = values(line, Some(&["stage", "loss", "grad_norm", "lr"]));
        golden.add(format!("step {step}"), whole);
        for (objective, part) in line["losses"].as_object().unwrap() {
            golden.add(format!("step {step} {objective}"), values(part, None));
        }
        if let Some(skipped) = line.get("skipped") {
            golden.add(format!("step {step} skipped"), values(skipped, None));
        }
    }
    let mut evaluations = lines(&run.join("evals.jsonl"));
    // What is found in each language alone is a part of what is found in all.
    evaluations.retain(|found| found.get("language").is_none());
    assert_eq!(evaluations.len(), 1, "{name}");
    let found = &evaluations[0];
    let whole = values(found, Some(&["score", "pairs", "images", "texts"]));
    golden.add(found["evaluator"].as_str().unwrap_or("retrieval"), whole);
    for (name, scalar) in found["scalars"].as_object().into_iter().flatten() {
        golden.add(name, values(scalar, None));
    }
    for method in found["retrieval"].as_array().unwrap() {
        for direction in ["text_to_image", "image_to_text"] {
            let place = format!(
                "retrieval {} {direction}",
                method["method"].as_str().unwrap()
            );
            golden.add(place, values(&method[direction], None));
        }
    }
    let weights = checkpoint::path(&run.join("checkpoints"), STEPS);
    for section in ["model", "optimizer"] {
        let hash = golden::tensors(&weights, &format!("{section}."));
        golden.add(format!("weights {section}"), hash);
    }
    // The scores of the best candidates are in the gallery.
    for file in [
        "tokenizer.json",
        "concepts.json",
        "gallery.json",
        "gates.json",
        "codes.json",
        "phrases.json",
        "captions.jsonl",
    ] {
        if run.join(file).is_file() {
            golden.add(format!("file {file}"), golden::bytes(&run.join(file)));
        }
    }
    for (part, part_name) in [
        (Part::Whole, "whole"),
        (Part::Text, "text"),
        (Part::Image, "image"),
    ] {
        let out = folder.join(format!("{name}-{part_name}"));
        let exported = export::run(&ExportArgs {
            model: run.display().to_string(),
            out: out.clone(),
            part,
            dtype: Dtype::F32,
            step: None,
            licence: None,
        });
        match exported {
            Ok(_) => {
                let hash = golden::tensors(&out.join("model.safetensors"), "");
                golden.add(format!("export {part_name}"), hash);
            }
            // No format holds phrases and tags, none an encoder of regions or CLIP's text tower by itself, and a model of texts has no
            // image encoder.
            Err(_)
                if recipe.data.concepts.is_some()
                    || (part == Part::Text && recipe.model.text.tower == TextTower::Clip)
                    || (part == Part::Image
                        && (recipe.model.regions.is_some() || !recipe.model.reads_images())) =>
            {
                let refused = ("refused".to_owned(), "yes".to_owned());
                golden.add(format!("export {part_name}"), vec![refused]);
            }
            Err(error) => panic!("{name}, {part_name}: {error}"),
        }
    }
    golden
}

/// The table of `unimo-dev parity`.
fn compared(folder: &Path, reference: Option<&Path>, weights: Option<&Path>) -> Golden {
    let device = Device::flex().autodiff();
    let compared = parity::compare(folder, reference, weights, &device);
    let compared = compared.unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let mut golden = Golden::default();
    let mut times: BTreeMap<String, usize> = BTreeMap::new();
    for row in compared.rows {
        // Queries, keys and values are one tensor in some references and three here.
        let times = times.entry(row.tensor.clone()).or_default();
        *times += 1;
        let place = match times {
            1 => row.tensor,
            times => format!("{} ({times})", row.tensor),
        };
        golden.add(place, vec![("error".to_owned(), golden::number(row.error))]);
    }
    golden
}

/// The tables of all fixtures, by the names of their files.
fn parity_tables() -> Vec<(String, Golden)> {
    let mut tables = Vec::new();
    for part in ["hf", "twin"] {
        let entries = fs::read_dir(fixture::folder().join(part)).unwrap();
        let mut folders: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
        folders.sort();
        for folder in folders {
            let name = folder.file_name().unwrap().to_str().unwrap().to_owned();
            let golden = if folder.join("io.safetensors").is_file() {
                compared(&folder, None, None)
            } else {
                // Only what it has beside another fixture's weights.
                let whole = tempfile::tempdir().unwrap();
                fixture::linked_bridgetower(&name, whole.path());
                compared(
                    whole.path(),
                    Some(&folder.join("reference.safetensors")),
                    None,
                )
            };
            tables.push((format!("{part}-{name}"), golden));
        }
    }
    let checkpoint = fixture::folder().join("spellings/meter.ckpt");
    let meter = compared(
        &fixture::folder().join("twin/meter"),
        None,
        Some(&checkpoint),
    );
    tables.push(("spellings-meter".to_owned(), meter));
    tables
}

#[track_caller]
fn assert_nothing(differences: &[String]) {
    let lines = differences.join("\n");
    assert!(differences.is_empty(), "not as recorded\n{lines}\n");
}

#[test]
fn every_recipe_trains_as_recorded() {
    let _one = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let folder = tempfile::tempdir().unwrap();
    let names = BUILT_IN.iter().map(|built_in| built_in.name);
    // Fine-tuning is `tests/tasks.rs`'s.
    let pretrains = |name: &&str| {
        let recipe = Recipe::load(name, &Overrides::default()).unwrap();
        Task::of(&recipe).is_none()
    };
    let names = names.filter(pretrains);
    let runs = names.map(|name| (name.to_owned(), trained(name, folder.path())));
    assert_nothing(&golden::check("recipes", &runs.collect::<Vec<_>>()));
}

#[test]
fn parity_is_as_recorded() {
    let _one = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    assert_nothing(&golden::check("parity", &parity_tables()));
}

fn one(loss: f64, hash: &str) -> Golden {
    let mut golden = Golden::default();
    let values = [("loss", golden::number(loss)), ("count", "12".to_owned())];
    let values = values.map(|(name, value)| (name.to_owned(), value));
    golden.add("step 7 mlm", values.to_vec());
    let hash = ("sha256".to_owned(), hash.to_owned());
    golden.add("weights model", vec![hash]);
    golden
}

#[test]
fn a_difference_says_where_it_is_and_both_numbers() {
    let text = one(6.25, "8f").text("here");
    let compared = |golden: &Golden| golden.differences("unimo3-tiny", Some(&text), "here");
    assert_eq!(compared(&one(6.25, "8f")), (Vec::new(), false));
    let next = f64::from_bits(6.25_f64.to_bits() + 1);
    assert_eq!(
        compared(&one(next, "90")).0,
        [
            "unimo3-tiny: step 7 mlm, loss: recorded 6.25 0x4019000000000000, found 6.250000000000001 0x4019000000000001",
            "unimo3-tiny: weights model, sha256: recorded 8f, found 90",
        ]
    );
    let mut more = one(6.25, "8f");
    more.add("step 8", vec![("loss".to_owned(), golden::number(6.0))]);
    let found = "unimo3-tiny: step 8, loss: not recorded, found 6.0 0x4018000000000000";
    assert_eq!(compared(&more).0, [found]);
    let (absent, _) = Golden::default().differences("unimo3-tiny", Some(&text), "here");
    assert_eq!(absent.len(), 3, "{absent:?}");
    assert!(absent[2].ends_with("recorded 8f, now absent"), "{absent:?}");
}

#[test]
fn other_vector_units_give_losses_within_a_tolerance() {
    let text = one(6.25, "8f").text("there");
    let compared = |golden: &Golden| golden.differences("a", Some(&text), "here");
    assert_eq!(compared(&one(6.25 * 1.009, "90")), (Vec::new(), true));
    for loss in [6.25 * 1.011, f64::NAN] {
        let (lines, other) = compared(&one(loss, "90"));
        assert!(other && lines.len() == 1, "{lines:?}");
    }
}

#[test]
fn a_file_that_is_not_there_or_damaged_is_a_difference() {
    for text in [None, Some(""), Some("written on: here\nstep 7")] {
        let (lines, _) = one(6.25, "8f").differences("a", text, "here");
        assert_eq!(lines.len(), 1, "{text:?}");
    }
}

//! What a user can give wrong: the message says what, where and what is allowed, and nothing is lost.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use image::{Rgb, RgbImage};
use unimo_train::device::DeviceChoice;
use unimo_train::recipe::{BUILT_IN, Overrides, Recipe};
use unimo_train::{checkpoint, training};

fn options() -> training::Options {
    training::Options {
        device: Some(DeviceChoice::Flex),
        quiet: true,
        train_only: true,
        ..training::Options::default()
    }
}

fn overrides(data: Option<&Path>, set: &[&str]) -> Overrides {
    Overrides {
        data: data.map(Path::to_owned),
        set: set.iter().map(|s| (*s).to_owned()).collect(),
    }
}

/// A recipe over a list of pairs that trains in a second.
fn recipe(pairs: &Path, more: &[&str]) -> Recipe {
    let small = [
        "train.steps=12",
        "train.batch_size=4",
        "model.text.width=32",
        "model.image.image_size=32",
        "model.image.width=32",
        "model.fusion.width=32",
        "data.image_size=32",
        "data.pairs.val_fraction=0.0",
    ];
    let set = [&small[..], more].concat();
    Recipe::load("unimo3-tiny", &overrides(Some(pairs), &set)).unwrap()
}

/// Masks, queues, ramps, and heads that ask an encoder for what it does not give.
#[test]
fn what_teachers_and_masks_cannot_be_is_told_by_key_and_what_is_allowed() {
    for (name, set, key, allowed) in [
        (
            "albef-tiny",
            "objectives.itc.momentum.queue=31",
            "objectives.itc.momentum.queue",
            "at least train.batch_size * train.accumulation = 32",
        ),
        (
            "albef-tiny",
            "objectives.itc.momentum.alpha=0",
            "objectives.itc.momentum.alpha_ramp",
            "must be 0 or absent with alpha = 0",
        ),
        (
            "albef-tiny",
            "objectives.mlm.distil.alpha=1",
            "objectives.mlm.distil.alpha",
            "[0, 1)",
        ),
        ("albef-tiny", "teacher=none", "teacher", "is needed by"),
        (
            "albef-tiny",
            "objectives.itm.head=pair",
            "objectives.itm.head",
            "image_stream = true",
        ),
        (
            "albef-tiny",
            "model.fusion.levels=cross_prev",
            "model.fusion.image_stream",
            "without it the text stream reads one image",
        ),
        (
            "mamo-tiny",
            "objectives.mim.patches.rate=1",
            "objectives.mim.patches.rate",
            "between 0 and 1",
        ),
        (
            "mamo-tiny",
            "objectives.mrm.patches.rate=0",
            "objectives.mrm.patches.rate",
            "between 0 and 1",
        ),
        (
            "mamo-tiny",
            "objectives.mim.patches.rate=0.5",
            "objectives.mim.patches",
            "a batch holds one of them",
        ),
        (
            "mamo-tiny",
            "model.image.mask_embedding=false",
            "patches",
            "model.image.mask_embedding = true",
        ),
        (
            "dimbert-tiny",
            "model.joint.split.spaces=none_of_them",
            "model.joint.split.spaces",
            "modality",
        ),
        (
            "dimbert-tiny",
            "model.joint.concepts=false",
            "model.joint.split.concepts",
            "must be absent without joint.concepts = true",
        ),
        (
            "dimbert-tiny",
            "model.text.token_types=1",
            "model.joint.concepts",
            "token_types of at least 2",
        ),
        (
            "dimbert-tiny",
            "model.image_tags=true",
            "model.joint.concepts",
            "must be false with image_tags = true",
        ),
        (
            "dimbert-tiny",
            "model.joint.grounding={ codes = 24, tokens = 4, choice = \"top_k\", scale = 1.0, scale_range = [1.0, 10.0] }",
            "model.joint.grounding",
            "neither image nor text",
        ),
        (
            "dimbert-tiny",
            "objectives.mlm.left_to_right=1.5",
            "objectives.mlm.left_to_right",
            "from 0 to 1",
        ),
        (
            "dimbert-tiny",
            "objectives.mlm.texts_alone=true",
            "objectives.mlm.left_to_right",
            "which has no image to read first",
        ),
        (
            "dimbert-tiny",
            "objectives.mlm.mask.unit=span",
            "objectives.mlm.mask.end",
            "the other units are runs of words",
        ),
        (
            "mamo-tiny",
            "objectives.mim=none",
            "eval.patches",
            "needs [objectives.mim]",
        ),
        (
            "unimo3-tiny",
            "data.walks={ cells = 32 }",
            "data.walks",
            "no objective of this recipe reads the episodes",
        ),
        (
            "simla-tiny",
            "data.codes=none",
            "data.codes",
            "is needed by [objectives.mim]",
        ),
        (
            "simla-tiny",
            "objectives.mim=none",
            "data.codes",
            "no objective of this recipe reads codes",
        ),
        (
            "simla-tiny",
            "objectives.mim.codes=32",
            "objectives.mim.codes",
            "data.codes.codes = 64",
        ),
        (
            "simla-tiny",
            "objectives.mim.codes=none",
            "objectives.mim.codes",
            "must be the number of codes",
        ),
        (
            "simla-tiny",
            "objectives.mim.normalised=false",
            "objectives.mim.normalised",
            "a code is not scaled",
        ),
        (
            "simla-tiny",
            "objectives.mim.patches.rate=1",
            "objectives.mim.patches.rate",
            "between 0 and 1",
        ),
        (
            "simla-tiny",
            "data.codes.patch_size=16",
            "data.codes.patch_size",
            "model.image.patch_size = 8",
        ),
        (
            "simla-tiny",
            "model.fusion.layers=2",
            "model.fusion.layers",
            "the layers are the text encoder's own",
        ),
        (
            "simla-tiny",
            "model.fusion.image_stream=true",
            "model.fusion.shared",
            "no blocks for a stream of the image",
        ),
        (
            "simla-tiny",
            "model.text.max_positions=64",
            "model.text.max_positions",
            "room for the 65 positions of an image",
        ),
        (
            "simla-tiny",
            "model.fusion.shared=false",
            "objectives.",
            "shared = true",
        ),
        (
            "simla-tiny",
            "objectives.psl.width=32",
            "objectives.psl.width",
            "objectives.itc.width = 64",
        ),
        (
            "simla-tiny",
            "objectives.lm.weight=1.0",
            "objectives.lm",
            "texts in both directions",
        ),
        (
            "simla-tiny",
            "objectives.psl=none",
            "eval.key_words",
            "needs [objectives.psl]",
        ),
        ("infoxlm-tiny", "teacher=none", "teacher", "is needed by"),
        (
            "infoxlm-tiny",
            "objectives.xlco.layer=4",
            "objectives.xlco.layer",
            "must be 1 to model.text.layers = 3",
        ),
        (
            "infoxlm-tiny",
            "objectives.xlco.queue=0",
            "objectives.xlco.queue",
            "at least 1",
        ),
        (
            "infoxlm-tiny",
            "objectives.xlco.queue=31",
            "objectives.xlco.queue",
            "at least train.batch_size * train.accumulation = 32",
        ),
        (
            "infoxlm-tiny",
            "train.batch_size=1",
            "train.batch_size",
            "objectives.xlco needs several samples",
        ),
        (
            "infoxlm-tiny",
            "data.max_text_length=50",
            "data.max_text_length",
            "two texts are joined",
        ),
        (
            "infoxlm-tiny",
            "objectives.itc={ width = 8 }",
            "objectives.itc",
            "needs an image encoder",
        ),
        (
            "infoxlm-tiny",
            "objectives.mlm.texts_alone=false",
            "objectives.mlm",
            "needs an image encoder",
        ),
        (
            "infoxlm-tiny",
            "objectives.tlm.image=true",
            "objectives.tlm",
            "needs an image encoder",
        ),
        (
            "infoxlm-tiny",
            "eval.bitext.layer=4",
            "eval.bitext.layer",
            "must be 1 to model.text.layers = 3",
        ),
    ] {
        let error = Recipe::load(name, &overrides(None, &[set])).unwrap_err();
        let message = error.to_string();
        let named = message.contains(name) && message.contains(key) && message.contains(allowed);
        assert!(named, "{set}: {message}");
    }
}

#[test]
fn a_wrong_recipe_is_told_by_file_key_and_what_is_allowed() {
    let folder = tempfile::tempdir().unwrap();
    let text = BUILT_IN[0].text;
    let path = folder.path().join("mine.toml");
    let file_error = |text: &str| {
        fs::write(&path, text).unwrap();
        let error = Recipe::load(&path.display().to_string(), &overrides(None, &[]));
        error.unwrap_err().to_string()
    };
    let steps = text.lines().find(|line| line.starts_with("steps = "));
    let steps = steps.expect("the recipe says how many steps");
    for (found, wrong, named) in [
        ("clip_norm", "clip_nrom", "clip_nrom"),
        (steps, "steps = \"many\"", "train.steps"),
        (steps, "steps = 0", "train.steps"),
        ("[objectives.itm]", "[objectives.wpa]", "wpa"),
        ("gate = \"cls\"", "gate = \"clss\"", "token"),
        ("resize = \"squash\"", "resize = ", "resize"),
        ("patch_size = 8", "patch_size = 7", "model.image.patch_size"),
    ] {
        assert!(text.contains(found), "the recipe has {found}");
        let message = file_error(&text.replacen(found, wrong, 1));
        assert!(message.contains("mine.toml"), "{message}");
        assert!(message.contains(named), "{wrong}: {message}");
    }
    for (set, named) in [
        ("train.stepz=3", "stepz"),
        ("train.steps", "key=value"),
        ("train.steps.more=1", "steps"),
        ("train.ema=1.5", "train.ema"),
    ] {
        let error = Recipe::load("unimo3-tiny", &overrides(None, &[set])).unwrap_err();
        assert!(error.to_string().contains(named), "{set}: {error}");
    }
    let error = Recipe::load("unimo4", &overrides(None, &[])).unwrap_err();
    assert!(error.to_string().contains("unimo3-tiny"), "{error}");
}

#[test]
fn files_that_are_not_there_are_named_before_anything_is_made() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    let missing = folder.path().join("missing.jsonl");
    let error = training::start(&recipe(&missing, &[]), &run, &options()).unwrap_err();
    assert!(error.to_string().contains("missing.jsonl"), "{error}");

    let (pairs, _) = Damaged::write(folder.path());
    let tokenizer = "data.tokenizer={ kind = \"file\", path = \"/no/such/tokenizer.json\" }";
    let error = training::start(&recipe(&pairs, &[tokenizer]), &run, &options()).unwrap_err();
    assert!(error.to_string().contains("tokenizer.json"), "{error}");
    assert!(!run.exists(), "a run that cannot start leaves no folder");

    let error = training::resume(&run, &options()).unwrap_err();
    assert!(error.to_string().contains("recipe.toml"), "{error}");
}

/// Objectives that would run in no step, parts of a mixture that none could use, and parts without samples.
#[test]
fn what_the_data_cannot_give_is_refused_before_there_is_a_run() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    let scenes = "data.mixture={ batches = \"single\", parts = [\
        { source = \"scenes\", size = 32, train = 20, val = 4, weight = 1.0 }, \
        { source = \"scenes\", train = 20, val = 0, keep = \"images\", weight = 1.0 } ] }";
    let texts = folder.path().join("texts.tsv");
    fs::write(&texts, "one\teins\n").unwrap();
    let empty = format!(
        "data.mixture={{ batches = \"single\", parts = [\
         {{ source = \"scenes\", size = 32, train = 20, val = 4, weight = 1.0 }}, \
         {{ source = \"parallel\", train = [{:?}], val_fraction = 1.0, weight = 1.0 }} ] }}",
        texts.display().to_string()
    );
    let mixture: &[&str] = &["data.source=mixture", "data.scenes=none"];
    // Columns of two texts, of which no row has both.
    let languages = folder.path().join("languages.jsonl");
    let lines = (0..8).map(|number| {
        let language = ["en", "de"][number % 2];
        format!(
            "{{\"image\": \"{number}.png\", \"caption\": \"{number}\", \"in\": \"{language}\", \"alt\": null, \"alt_in\": null}}\n"
        )
    });
    fs::write(&languages, lines.collect::<String>()).unwrap();
    let languages = format!(
        "data.pairs={{ path = {:?}, text_columns = [\"caption\", \"alt\"], language_columns = [\"in\", \"alt_in\"], translations = true }}",
        languages.display().to_string()
    );
    let pixels = "model.image={ image_size = 64, patch_size = 8, width = 96, layers = 0, heads = 4, feed_forward = 256, \
                  activation = \"gelu\", layer_norm_eps = 1e-5, pre_norm = true, patch_bias = true, distillation_token = false, dropout = 0.0 }";
    for (name, set, told) in [
        (
            "dimbert-tiny",
            vec![
                pixels,
                "model.regions=none",
                "data.regions=none",
                "data.source=pairs",
                "data.scenes=none",
                &languages,
            ],
            "model.joint.concepts reads the names of objects, and no training sample of the data has one",
        ),
        (
            "albef-tiny",
            vec!["objectives.tlm.weight=1.0", "data.scenes.train=20"],
            "objectives.tlm reads translations, of which the data has none",
        ),
        (
            "albef-tiny",
            vec![
                "objectives.tlm.weight=1.0",
                "data.source=pairs",
                "data.scenes=none",
                &languages,
            ],
            "no training sample of the data has two texts that are translations of each other",
        ),
        (
            "mamo-tiny",
            [mixture, &[scenes]].concat(),
            "data.mixture.parts[1]: no objective can learn from its samples",
        ),
        (
            "mamo-tiny",
            [mixture, &[&empty]].concat(),
            "a source with training samples: it has none",
        ),
    ] {
        let recipe = Recipe::load(name, &overrides(None, &set)).unwrap();
        let error = training::start(&recipe, &run, &options()).unwrap_err();
        assert!(error.to_string().contains(told), "{error}");
        assert!(!run.exists(), "{told}");
    }
}

/// A list of 40 good pairs and 6 bad ones among them.
struct Damaged;

impl Damaged {
    const GOOD: usize = 40;

    /// The list's path and the numbers of its bad lines.
    fn write(folder: &Path) -> (PathBuf, BTreeSet<u64>) {
        let mut lines = Vec::new();
        for i in 0..Self::GOOD {
            let shade = (i * 6) as u8;
            let name = format!("{i}.png");
            RgbImage::from_pixel(40, 30, Rgb([shade, 255 - shade, 128]))
                .save(folder.join(&name))
                .unwrap();
            lines.push(format!(
                "{{\"image\": \"{name}\", \"caption\": \"a plain picture of shade {i}\"}}"
            ));
        }
        let whole = fs::read(folder.join("0.png")).unwrap();
        let mut noise = whole.clone();
        noise[8..].iter_mut().for_each(|byte| *byte ^= 0x5a);
        fs::write(folder.join("empty.png"), b"").unwrap();
        fs::write(folder.join("cut.png"), &whole[..whole.len() / 2]).unwrap();
        fs::write(folder.join("text.png"), b"404 not found").unwrap();
        fs::write(folder.join("noise.png"), noise).unwrap();
        let bad = [
            "{\"image\": \"empty.png\", \"caption\": \"nothing\"}",
            "{\"image\": \"cut.png\", \"caption\": \"half of a picture\"}",
            "{\"image\": \"text.png\", \"caption\": \"a page\"}",
            "{\"image\": \"noise.png\", \"caption\": \"noise\"}",
            "{\"image\": \"nowhere.png\", \"caption\": \"not there\"}",
            "{\"image\": \"1.png\", \"caption\": ",
        ];
        let mut numbers = BTreeSet::new();
        for (i, line) in bad.iter().enumerate() {
            let at = 3 + 7 * i;
            lines.insert(at, (*line).to_owned());
            numbers.insert(at as u64 + 1);
        }
        let list = folder.join("pairs.jsonl");
        fs::write(&list, lines.join("\n")).unwrap();
        (list, numbers)
    }
}

/// The line numbers in a run's `skipped.jsonl`, each with its reason.
fn skipped(run: &Path) -> Vec<(u64, String)> {
    let text = fs::read_to_string(run.join("skipped.jsonl")).unwrap();
    text.lines()
        .map(|line| {
            let entry: serde_json::Value = serde_json::from_str(line).unwrap();
            assert!(entry["file"].as_str().unwrap().contains("pairs.jsonl"));
            let reason = entry["reason"].as_str().unwrap().to_owned();
            (entry["line"].as_u64().unwrap(), reason)
        })
        .collect()
}

#[test]
fn training_goes_on_without_damaged_images_and_lists_each_once() {
    let folder = tempfile::tempdir().unwrap();
    let (pairs, bad) = Damaged::write(folder.path());
    let run = folder.path().join("run");
    // 30 steps of 4 are more than two epochs of 46 lines.
    let recipe = recipe(&pairs, &["data.max_skipped=0.2", "train.steps=30"]);
    training::start(&recipe, &run, &options()).unwrap();
    assert_eq!(
        checkpoint::steps(&run.join("checkpoints")).unwrap().last(),
        Some(&30)
    );
    let listed = skipped(&run);
    let numbers: BTreeSet<u64> = listed.iter().map(|(line, _)| *line).collect();
    assert_eq!(numbers, bad);
    assert_eq!(listed.len(), bad.len(), "each once: {listed:?}");
    assert!(listed.iter().all(|(_, reason)| !reason.is_empty()));

    // Resumed, nothing is listed again.
    training::resume(&run, &options()).unwrap();
    assert_eq!(skipped(&run), listed);
}

#[test]
fn too_many_damaged_images_stop_the_training_and_say_which() {
    let folder = tempfile::tempdir().unwrap();
    let (pairs, _) = Damaged::write(folder.path());
    let run = folder.path().join("run");
    let recipe = recipe(&pairs, &["data.max_skipped=0.05", "train.steps=30"]);
    let error = training::start(&recipe, &run, &options()).unwrap_err();
    let message = error.to_string();
    for named in [
        "data.max_skipped",
        "0.05",
        "pairs.jsonl:",
        "skipped.jsonl",
        "data verify --clean",
    ] {
        assert!(message.contains(named), "{named}: {message}");
    }
    // The folder keeps the list of what cannot be used; the next start says how to get rid of it.
    let again = training::start(&recipe, &run, &options()).unwrap_err();
    let again = again.to_string();
    assert!(again.contains("remove the folder"), "{again}");
    // 3 of 46 are more than 5%; which 3 depends on the order, and threads may list some more before they stop.
    assert!(skipped(&run).len() >= 3, "{message}");
}

/// A start that fails before the first step takes away what it wrote, and nothing else.
#[test]
fn a_start_that_is_refused_leaves_no_run() {
    let folder = tempfile::tempdir().unwrap();
    let (pairs, _) = Damaged::write(folder.path());
    let set = [
        "data.max_skipped=0.5",
        "data.pairs.val_fraction=0.3",
        "eval.select=foo",
    ];
    let recipe = recipe(&pairs, &set);
    let options = training::Options {
        train_only: false,
        ..options()
    };
    let (new, used) = (folder.path().join("new"), folder.path().join("used"));
    fs::create_dir(&used).unwrap();
    fs::write(used.join("notes.txt"), "mine").unwrap();
    for run in [&new, &used] {
        let error = training::start(&recipe, run, &options).unwrap_err();
        assert!(error.to_string().contains("eval.select"), "{error}");
    }
    assert!(!new.exists());
    let left: Vec<_> = fs::read_dir(&used).unwrap().collect();
    assert_eq!(left.len(), 1, "{left:?}");
}

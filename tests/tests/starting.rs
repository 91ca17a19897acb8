//! Recipes that start from public weights.

use std::path::Path;

use burn::tensor::{Device, Tensor};
use unimo_core::layers::Linear;
use unimo_core::parameters;
use unimo_encoders::output::Keep;
use unimo_encoders::weights::Weights;
use unimo_tests::{fixture, small};
use unimo_train::recipe::{BUILT_IN, Overrides, Recipe};
use unimo_train::recipes::{self, OneRecipe};
use unimo_train::run::RunFolder;
use unimo_train::starting;
use unimo_train::training;

/// unimo3-tiny with the sizes of the twin's fixture.
fn twin_sized(more: &[&str]) -> Result<Recipe, String> {
    let set = [
        "model.text.vocab_size=61",
        "model.text.width=16",
        "model.text.layers=2",
        "model.text.heads=2",
        "model.text.feed_forward=32",
        "model.text.max_positions=40",
        "model.image.image_size=32",
        "model.image.patch_size=16",
        "model.image.width=16",
        "model.image.layers=2",
        "model.image.heads=2",
        "model.image.feed_forward=32",
        "model.fusion.width=16",
        "model.fusion.layers=3",
        "model.fusion.heads=2",
        "model.fusion.feed_forward=32",
        "data.image_size=32",
        "data.max_text_length=20",
        "data.tokenizer.kind=file",
        "data.tokenizer.path=nowhere",
        "data.tokenizer.vocab_size=none",
    ];
    recipe(&set, more)
}

fn recipe(set: &[&str], more: &[&str]) -> Result<Recipe, String> {
    let overrides = Overrides {
        data: None,
        set: set.iter().chain(more).map(|s| (*s).to_owned()).collect(),
    };
    Recipe::load(BUILT_IN[0].name, &overrides).map_err(|e| e.to_string())
}

fn started(recipe: &Recipe) -> Result<(unimo_train::model::Model, String), String> {
    let (model, started) =
        starting::model(recipe, &Device::flex()).map_err(|error| error.to_string())?;
    Ok((model, started.map(|s| s.to_string()).unwrap_or_default()))
}

fn from(path: &str) -> String {
    fixture::folder().join(path).display().to_string()
}

/// The paper's premise: cross-layer attention is added to what METER is.
#[test]
fn unimo3_from_a_meter_checkpoint_is_meter_exactly() {
    let init = format!("init=meter:{}", from("spellings/meter.ckpt"));
    let outputs = |levels: &str| {
        let levels = format!("model.fusion.levels={levels}");
        let (model, account) = started(&twin_sized(&[&init, &levels]).unwrap()).unwrap();
        let backbone = &model.backbone;
        let device = Device::flex();
        let input = backbone
            .text
            .input(&[0, 9, 14, 2, 0, 33, 2, 1], &[4, 3], 4, &device);
        let pixels: Vec<f32> = (0..2 * 3 * 32 * 32)
            .map(|i| (i % 97) as f32 / 97.0)
            .collect();
        let pixels = Tensor::<1>::from_floats(pixels.as_slice(), &device).reshape([2, 3, 32, 32]);
        let fused = backbone.fuse(
            &backbone.encode_texts(&input),
            &backbone.encode_images(pixels),
            Keep::Nothing,
        );
        let itm = model.objectives.itm.as_ref().unwrap();
        let logits = itm.logits(backbone, &fused).into_data();
        (
            fused.text().to_data(),
            fused.image().to_data(),
            logits,
            account,
        )
    };
    let (meter, unimo3) = (outputs("none"), outputs("cross_prev"));
    meter.0.assert_eq(&unimo3.0, true);
    meter.1.assert_eq(&unimo3.1, true);
    meter.2.assert_eq(&unimo3.2, true);
    assert!(unimo3.3.contains("level_attention"), "{}", unimo3.3);
    assert!(
        unimo3.3.contains("unused      rank_output.weight"),
        "{}",
        unimo3.3
    );
}

/// A METER that was trained on NLVR2 tells two images of a sample apart.
#[test]
fn another_number_of_pictures_is_a_contradiction() {
    let folder = tempfile::tempdir().unwrap();
    let weights = fixture::meter_of_two_pictures(folder.path());
    let init = format!("init=meter:{}", weights.display());
    started(&twin_sized(&[&init, "model.fusion.pictures=2"]).unwrap()).unwrap();
    let message = started(&twin_sized(&[&init]).unwrap()).unwrap_err();
    assert!(
        message.contains("`model.fusion.pictures = 1`, the weights have 2"),
        "{message}"
    );
}

/// The heads of a fine-tuned METER are read by the objectives of their tasks. A type of a second image that the file lacks starts as
/// that of the first, and the account says so.
#[test]
fn heads_of_tasks_come_with_a_meter_and_a_second_image_starts_as_the_first() {
    let init = format!("init=meter:{}", from("spellings/meter.ckpt"));
    let tasks = [
        init.as_str(),
        "model.fusion.pictures=2",
        "objectives.nlvr2={ weight = 1.0, images = 2, pooling = \"pair\" }",
        "objectives.ranking={ weight = 1.0, negatives = 15, pooling = \"pair\" }",
    ];
    let (model, account) = started(&twin_sized(&tasks).unwrap()).unwrap();
    let fusion = model.backbone.fusion.as_ref().unwrap();
    let types = fusion.type_embedding.as_ref().unwrap().weight.val();
    let row = |at: usize| types.clone().narrow(0, at, 1).into_data();
    assert_eq!(types.dims()[0], 3);
    row(2).assert_eq(&row(1), true);
    assert!(
        account.contains("repeated    token_type_embeddings.weight [2, 16], here [3, 16]"),
        "{account}"
    );
    let mut file = Weights::open(&fixture::folder().join("spellings/meter.ckpt")).unwrap();
    let mut is_read = |ours: Tensor<2>, theirs: &str| {
        let ours: Vec<f32> = ours.transpose().into_data().iter().collect();
        assert_eq!(ours, file.read(theirs).unwrap(), "{theirs}");
    };
    let nlvr2 = model.objectives.nlvr2.as_ref().unwrap();
    is_read(
        nlvr2.classifier.head.outer.weight.val(),
        "nlvr2_classifier.3.weight",
    );
    let ranking = model.objectives.ranking.as_ref().unwrap();
    is_read(ranking.score.weight.val(), "rank_output.weight");
    assert!(
        !account.contains("starts as its matching head"),
        "{account}"
    );
    assert!(account.contains("unused      vqa_classifier"), "{account}");
}

/// METER's `rank_output` begins as the row of its matching head that says yes.
#[test]
fn ranking_starts_as_the_matching_head() {
    let folder = tempfile::tempdir().unwrap();
    let weights = fixture::meter_with(folder.path(), |name, _, _| !name.starts_with("rank_output"));
    let init = format!("init=meter:{}", weights.display());
    let ranking = "objectives.ranking={ weight = 1.0, negatives = 15, pooling = \"pair\" }";
    let (model, account) = started(&twin_sized(&[&init, ranking]).unwrap()).unwrap();
    let ranking = &model.objectives.ranking.as_ref().unwrap().score;
    let itm = &model.objectives.itm.as_ref().unwrap().classifier;
    let yes = itm.weight.val().narrow(1, 1, 1).into_data();
    ranking.weight.val().into_data().assert_eq(&yes, true);
    let bias = |layer: &Linear| layer.bias.as_ref().unwrap().val();
    let yes = bias(itm).narrow(0, 1, 1).into_data();
    bias(ranking).into_data().assert_eq(&yes, true);
    assert!(account.contains("row 1 of itm_score.fc"), "{account}");
}

/// RoBERTa and CLIP's image tower of the fixtures under a fusion of its own.
fn parts(more: &[&str]) -> Result<Recipe, String> {
    let text = format!("init.text={}", from("hf/xlm-roberta"));
    let image = format!("init.image={}", from("hf/clip-vision"));
    let set = [
        text.as_str(),
        image.as_str(),
        "init.new=[\"backbone.fusion\", \"objectives\"]",
        "model.text.vocab_size=43",
        "model.text.width=16",
        "model.text.layers=2",
        "model.text.heads=2",
        "model.text.feed_forward=24",
        "model.text.max_positions=20",
        "model.text.token_types=2",
        "model.image.image_size=32",
        "model.image.patch_size=8",
        "model.image.width=16",
        "model.image.layers=1",
        "model.image.heads=2",
        "model.image.feed_forward=24",
        "model.image.activation=quick_gelu",
        "data.image_size=32",
        "data.max_text_length=16",
        "data.tokenizer.kind=file",
        "data.tokenizer.path=nowhere",
        "data.tokenizer.vocab_size=none",
    ];
    recipe(&set, more)
}

#[test]
fn encoders_come_from_files_of_their_own() {
    let recipe = parts(&[
        "objectives.itc.momentum={ queue = 64, alpha = 0.4 }",
        "teacher={ decay = 0.9 }",
    ]);
    let (model, account) = started(&recipe.unwrap()).unwrap();
    // Half of the blocks, four times the patches.
    assert!(
        account.contains("reshaped    embeddings.position_embedding.weight [5, 16], here [17, 16]"),
        "{account}"
    );
    assert!(
        account.contains("unused      encoder.layers.1, all 16 tensors"),
        "{account}"
    );
    // The teacher equals the encoders; `init.new` need not name it.
    let teacher = model.teacher.as_ref().unwrap();
    assert_eq!(
        parameters::values(&teacher.backbone),
        parameters::values(&model.backbone)
    );
    let itc = model.objectives.itc.as_ref().unwrap();
    let momentum = itc.momentum.as_ref().unwrap();
    assert_eq!(
        parameters::values(&momentum.text_projection),
        parameters::values(&itc.text_projection)
    );
}

/// A vocabulary with concepts has more rows than the file: words come from there, concepts start from random weights.
#[test]
fn rows_of_concepts_follow_those_of_words() {
    let concepts = "data.concepts={ min_count = 1 }";
    let words = parts(&[]).unwrap();
    let more = parts(&[concepts, "model.text.vocab_size=50"]).unwrap();
    let rows = |recipe: &Recipe| {
        let (model, _) = started(recipe).unwrap();
        let weight = model.backbone.text.word_embedding.weight.val();
        let values: Vec<f32> = weight.into_data().iter::<f32>().collect();
        values.chunks(16).map(<[f32]>::to_vec).collect::<Vec<_>>()
    };
    let (words, more) = (rows(&words), rows(&more));
    assert_eq!((words.len(), more.len()), (43, 50));
    assert_eq!(more[..43], words[..]);
    assert!(more[43..].iter().flatten().any(|value| *value != 0.0));
    let message = match parts(&["model.text.vocab_size=50"]) {
        Ok(recipe) => started(&recipe).map(drop).unwrap_err(),
        Err(message) => message,
    };
    assert!(message.contains("model.text.vocab_size"), "{message}");
}

#[test]
fn nothing_starts_from_random_weights_silently() {
    let error = |more: &[&str]| match parts(more) {
        Ok(recipe) => started(&recipe).map(drop).unwrap_err(),
        Err(message) => message,
    };
    let message = error(&["init.new=[\"objectives\"]"]);
    assert!(
        message.contains("init.new") && message.contains("backbone.fusion"),
        "{message}"
    );
    let message = error(&["model.text.layer_norm_eps=1e-12"]);
    assert!(
        message.contains("`model.text.layer_norm_eps = 1e-12`, the weights have 1e-5"),
        "{message}"
    );
    let message = error(&["model.text.layers=3"]);
    assert!(
        message.contains("`model.text.layers = 3`, the weights have 2"),
        "{message}"
    );
    let message = error(&["init.text=no/such/folder"]);
    assert!(message.contains("no such file or folder"), "{message}");
    let message = error(&[&format!("init.text={}", from("hf/vit"))]);
    assert!(message.contains("must be a text encoder"), "{message}");
    let message = error(&["init=bert:x"]);
    assert!(message.contains("meter:PATH"), "{message}");
    let message = error(&["init.texts=x"]);
    assert!(message.contains("texts"), "{message}");
}

/// An entry that is the name of nothing is a slip of the pen, and what it was to allow would fail later or not at all.
#[test]
fn patterns_that_match_nothing_are_errors() {
    let error = |more: &[&str]| match parts(more) {
        Ok(recipe) => started(&recipe).map(drop).unwrap_err(),
        Err(message) => message,
    };
    for (set, key, entry) in [
        (
            "init.new=[\"backbone.fusion\", \"objectives\", \"backbone.fusoin\"]",
            "init.new",
            "backbone.fusoin",
        ),
        ("init.unused=[\"poler\"]", "init.unused", "poler"),
        (
            "stage=[{ name = \"a\", share = 0.5 }, { name = \"b\", share = 0.5, train = [\"backbone.txt\"] }]",
            "stage[1].train",
            "backbone.txt",
        ),
    ] {
        let message = error(&[set]);
        assert!(
            message.contains(key) && message.contains(entry),
            "{set}: {message}"
        );
    }
    let message = error(&["init.new=[\"backbone.fusoin\"]"]);
    assert!(message.contains("backbone.fusion"), "allowed: {message}");
}

/// What is new and frozen, tokens that are not those of the weights, and adapters that are held still: each is said.
#[test]
fn what_will_not_learn_is_said() {
    let frozen = parts(&["train.freeze=[\"backbone.fusion\"]"]);
    let (_, account) = started(&frozen.unwrap()).unwrap();
    assert!(
        account
            .contains("of the new tensors never learn and stay random, those of backbone.fusion"),
        "{account}"
    );
    let (_, account) = started(&parts(&[]).unwrap()).unwrap();
    assert!(!account.contains("never learn"), "{account}");
    assert!(!account.contains("data.tokenizer is trained"), "{account}");

    let lora = "train.lora={ layers = [\"backbone.text\"], rank = 2, alpha = 4.0, also = [\"objectives.itc\"] }";
    parts(&[lora])
        .map(|recipe| started(&recipe))
        .unwrap()
        .unwrap();
    for (freeze, key) in [
        ("backbone.text", "train.lora.layers"),
        ("objectives", "train.lora.also"),
    ] {
        let recipe = parts(&[lora, &format!("train.freeze=[\"{freeze}\"]")]);
        let error = started(&recipe.unwrap()).map(drop).unwrap_err();
        assert!(
            error.contains(key) && error.contains("holds all of it still"),
            "{error}"
        );
    }
}

/// Where the files say nothing of images, the account says what was taken.
#[test]
fn unknown_normalisation_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let clip = fixture::folder().join("hf/clip-vision");
    for name in ["config.json", "model.safetensors"] {
        std::fs::copy(clip.join(name), folder.path().join(name)).unwrap();
    }
    let image = format!("init.image={}", folder.path().display());
    let (_, account) = started(&parts(&[&image]).unwrap()).unwrap();
    assert!(account.contains("no file beside"), "{account}");
    let other = r#"{"image_processor": {"image_processor_type": "CLIPImageProcessor", "size": 16, "crop_size": 16,
        "resample": 3, "image_mean": [0.1, 0.2, 0.3], "image_std": [0.5, 0.5, 0.5]}}"#;
    std::fs::write(folder.path().join("processor_config.json"), other).unwrap();
    let message = started(&parts(&[&image]).unwrap()).map(drop).unwrap_err();
    assert!(message.contains("data.mean"), "{message}");
}

#[test]
fn a_start_that_fails_leaves_no_folder() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    let recipe = recipe(&["init=meter:nowhere.ckpt"], &[]).unwrap();
    let options = training::Options {
        quiet: true,
        ..training::Options::default()
    };
    let error = training::start(&recipe, &run, &options)
        .unwrap_err()
        .to_string();
    assert!(error.contains("nowhere.ckpt"), "{error}");
    assert!(!Path::new(&run).exists());
}

/// What the weights of a run have in place of the recipe's: said, and so recorded, whether the run is whole or not.
#[test]
fn settings_that_a_run_overrules_are_said_and_not_recorded() {
    let folder = tempfile::tempdir().unwrap();
    let first = folder.path().join("first");
    small::train(
        &first,
        &["train.optimizer.lr=0.05", "train.schedule.warmup=0.0"],
    );
    let init = format!("init=unimo:{}", first.display());
    let account = |set: &[&str]| {
        let recipe = small::recipe(&[&[init.as_str()], set].concat());
        let (_, started) = starting::model(&recipe, &Device::flex()).unwrap();
        started.unwrap()
    };
    let told = account(&["objectives.itc.temperature=0.3"]);
    let (key, learned) = told.values[0].clone();
    assert_eq!(key, "objectives.itc.temperature");
    let line = format!("{key} = 0.3 is not used: the weights have learned {learned}");
    assert!(told.to_string().contains(&line), "{told}");
    let told = account(&["model.initializer_range=0.5"]).to_string();
    assert!(
        told.contains("model.initializer_range = 0.5 is not used"),
        "{told}"
    );
    let new = format!(
        "init={{ whole = \"unimo:{}\", new = [\"objectives.itc\"] }}",
        first.display()
    );
    let set = [
        "objectives.itc.temperature=0.3",
        "model.initializer_range=0.5",
    ];
    let recipe = small::recipe(&[&[new.as_str()], &set[..]].concat());
    let (_, started) = starting::model(&recipe, &Device::flex()).unwrap();
    let started = started.unwrap();
    assert!(started.values.is_empty(), "{started}");
    assert!(started.to_string().contains("new alone"), "{started}");

    // Trained, the recipe of the new run has what it began with.
    let second = folder.path().join("second");
    let set = [
        init.as_str(),
        "objectives.itc.temperature=0.3",
        "data.tokenizer.vocab_size=290",
    ];
    small::train(&second, &set);
    let (run, recipe) = RunFolder::open(&second).unwrap();
    assert_eq!(recipe.objectives.itc.as_ref().unwrap().temperature, learned);
    assert_eq!(recipe.data.tokenizer, small::recipe(&[]).data.tokenizer);
    let text = std::fs::read_to_string(run.join("init.txt")).unwrap();
    assert!(text.contains("temperature = 0.3 is not used"), "{text}");
    training::resume(&second, &small::options()).unwrap();
}

/// `recipes check` names what a training would refuse, without data and weights.
#[test]
fn checks_of_recipes_say_what_a_training_refuses() {
    let folder = tempfile::tempdir().unwrap();
    let check = |set: &[&str]| {
        recipes::check(&OneRecipe {
            recipe: "unimo3-tiny".to_owned(),
            data: None,
            set: set.iter().map(|s| (*s).to_owned()).collect(),
        })
    };
    for (set, named) in [
        ("train.freeze=[\"backbone.imag\"]", "backbone.imag"),
        (
            "train.optimizer.lr_factors={ \"objectives.itx\" = 10.0 }",
            "objectives.itx",
        ),
        (
            "train.lora={ layers = [\"backbone.txt\"], rank = 2, alpha = 4.0 }",
            "backbone.txt",
        ),
        ("eval.select=foo.bar", "retrieval.mean_recall"),
        ("eval.captions={}", "objectives.lm"),
        (
            "init={ whole = \"meter:nosuch\", layers = \"first\" }",
            "`init.layers = \"first\"`",
        ),
        (
            "init={ whole = \"unimo:nosuch\", new = [\"objectives.itx\"] }",
            "objectives.itx",
        ),
    ] {
        let error = check(&[set]).unwrap_err().to_string();
        assert!(error.contains(named), "{set}: {error}");
        assert!(error.contains("--set"), "{set}: {error}");
    }
    // All of them together.
    let all = [
        "train.freeze=[\"backbone.imag\", \"backbone.txt\"]",
        "eval.select=foo.bar",
    ];
    let error = check(&all).unwrap_err().to_string();
    for named in ["backbone.imag", "backbone.txt", "foo.bar"] {
        assert!(error.contains(named), "{named}: {error}");
    }
    let right = check(&["eval.select=retrieval.mean_recall"]).unwrap();
    assert!(right.contains("is right"), "{right}");
    let right = check(&["init=unimo:nosuch"]).unwrap();
    assert!(right.contains("not there now: nosuch"), "{right}");
    // A run that is there is compared.
    let run = folder.path().join("run");
    small::train(&run, &[]);
    let error = check(&[&format!("init=unimo:{}", run.display())]).unwrap_err();
    let error = error.to_string();
    assert!(error.contains("`model.text.width = "), "{error}");
    // So are public weights that are on this machine, by their description.
    let error = check(&[
        &format!("init.text={}", from("hf/xlm-roberta")),
        "init.new=[\"backbone.image\", \"backbone.fusion\", \"objectives\"]",
    ]);
    let error = error.unwrap_err().to_string();
    for named in [
        "contradicts",
        "`model.text.heads = 4`, the weights have 2",
        "`model.text.width = 96`",
    ] {
        assert!(error.contains(named), "{named}: {error}");
    }
    let right = check(&["init.text=no/such/folder"]).unwrap();
    assert!(
        right.contains("whether the recipe fits it was not checked"),
        "{right}"
    );
    for built_in in BUILT_IN {
        let given = OneRecipe {
            recipe: built_in.name.to_owned(),
            data: None,
            set: Vec::new(),
        };
        recipes::check(&given).unwrap_or_else(|error| panic!("{}: {error}", built_in.name));
    }
}

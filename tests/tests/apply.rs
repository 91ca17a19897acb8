//! A trained model in use: scores, embeddings, masked words, and the same from its exported folder.

use std::path::{Path, PathBuf};

use unimo_core::world::World;
use unimo_tests::fixture;
use unimo_tests::small::{columns, train};
use unimo_train::apply::index::{self, Part as Embeddings, What};
use unimo_train::apply::pictures::PictureList;
use unimo_train::apply::score::{self, ScoreArgs};
use unimo_train::apply::{BatchArgs, ModelArgs, Pooling, Predictor, embed, explain, fill_mask};
use unimo_train::device::DeviceChoice;
use unimo_train::export::{self, ExportArgs, Part};

/// Rounding of texts that were padded to another length.
const TOLERANCE: f32 = 1e-5;

const BATCH: BatchArgs = BatchArgs { batch_size: 2 };

fn model(path: &Path) -> ModelArgs {
    ModelArgs {
        model: path.display().to_string(),
        tokenizer: None,
        step: None,
        device: DeviceChoice::Flex,
    }
}

/// Three images, five rows, of which one names an image that is not there and one is no JSON.
fn list(folder: &Path) -> PathBuf {
    for (name, colour) in [
        ("r", [200, 20, 20]),
        ("g", [20, 200, 20]),
        ("b", [20, 20, 200]),
    ] {
        // Wider by an odd number of pixels after resizing, and nowhere alike, so that a crop that is a pixel off shows.
        let shade = |x: u32, y: u32| colour.map(|c: u8| c.wrapping_add((5 * x + 3 * y) as u8));
        let picture = image::RgbImage::from_fn(41, 30, |x, y| image::Rgb(shade(x, y)));
        picture.save(folder.join(format!("{name}.png"))).unwrap();
    }
    let rows = [
        r#"{"image": "r.png", "caption": "a small red circle"}"#,
        r#"{"image": "nowhere.png", "caption": "a small red circle"}"#,
        r#"{"image": "g.png", "caption": "a large green square left of a blue one and above a small yellow circle"}"#,
        "no json",
        r#"{"image": "b.png", "caption": "blue"}"#,
    ];
    let path = folder.join("list.jsonl");
    std::fs::write(&path, rows.join("\n")).unwrap();
    path
}

fn scores(model: ModelArgs, list: &Path, out: &Path) -> Vec<serde_json::Value> {
    let args = ScoreArgs {
        model,
        batch: BATCH,
        data: list.to_owned(),
        columns: columns(),
        out: Some(out.to_owned()),
    };
    score::run(&args).unwrap();
    let text = std::fs::read_to_string(out).unwrap();
    text.lines()
        .map(|l| serde_json::from_str(l).unwrap())
        .collect()
}

#[test]
fn a_run_and_its_export_give_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let list = list(folder.path());
    let run = folder.path().join("run");
    // Shorter than some captions are.
    let limit = "data.max_text_length=9";
    train(&run, &[limit]);
    let bridgetower = folder.path().join("bridgetower");
    train(
        &bridgetower,
        &[
            limit,
            "model.fusion.levels=none",
            "model.fusion.link=add_norm",
            "model.fusion.layers=2",
            "model.fusion.uni_levels=2",
            "model.text.width=64",
            "model.text.layers=3",
            "model.image.width=64",
            "model.fusion.width=64",
            "model.image.heads=1",
            "model.image.feed_forward=256",
            "model.image.layer_norm_eps=1e-5",
            "model.fusion.feed_forward=48",
            "model.text.feed_forward=48",
            "model.fusion.heads=4",
            "model.text.heads=4",
            "objectives.itc.views=three",
        ],
    );
    for (run, kind) in [(run, "unimo"), (bridgetower, "bridgetower")] {
        let exported = folder.path().join(format!("exported-{kind}"));
        let args = ExportArgs {
            model: run.display().to_string(),
            out: exported.clone(),
            part: Part::Whole,
            dtype: unimo_encoders::weights::Dtype::F32,
            step: None,
            licence: None,
        };
        export::run(&args).unwrap();
        let config = std::fs::read_to_string(exported.join("config.json")).unwrap();
        let config: serde_json::Value = serde_json::from_str(&config).unwrap();
        assert_eq!(config["model_type"], kind);
        assert!(export::run(&args).is_err(), "a model is not overwritten");
        // Its encoders alone, by the crate that knows no heads.
        let encoders = unimo_encoders::load(&exported, &burn::tensor::Device::flex()).unwrap();
        assert!(encoders.report.fits(), "{}", encoders.report);
        assert!(encoders.tokenizer.is_some_and(|file| file.is_file()));

        let ours = scores(model(&run), &list, &folder.path().join("a.jsonl"));
        let predictor = Predictor::open(&model(&exported)).unwrap();
        assert_eq!(predictor.max_text_length, 9);
        let long = "a large green square left of a blue one and above a small yellow circle";
        let of_run = Predictor::open(&model(&run)).unwrap();
        assert_eq!(
            predictor.tokens(long).unwrap(),
            of_run.tokens(long).unwrap()
        );
        // The run, its checkpoints and the export, each by its folder and by its file, are one model.
        let checkpoints = run.join("checkpoints");
        for other in [
            exported.clone(),
            exported.join("model.safetensors"),
            checkpoints.join("step-00000002.safetensors"),
            checkpoints,
        ] {
            let theirs = scores(model(&other), &list, &folder.path().join("b.jsonl"));
            assert_eq!(ours, theirs, "{}", other.display());
        }
        // An export of an export is the same, and the same bytes.
        let again = folder.path().join(format!("again-{kind}"));
        let args = ExportArgs {
            model: exported.display().to_string(),
            out: again.clone(),
            ..args
        };
        export::run(&args).unwrap();
        for name in [
            "model.safetensors",
            "config.json",
            "tokenizer.json",
            "tokenizer_config.json",
            "preprocessor_config.json",
        ] {
            let bytes = |folder: &Path| std::fs::read(folder.join(name)).unwrap();
            assert!(bytes(&exported) == bytes(&again), "{kind}: {name}");
        }
        let lines: Vec<_> = ours
            .iter()
            .map(|row| row["line"].as_u64().unwrap())
            .collect();
        assert_eq!(lines, [1, 2, 3, 4, 5]);
        for (row, good) in ours.iter().zip([true, false, true, false, true]) {
            assert_eq!(row["score"].is_number(), good, "{row}");
            assert_eq!(row["error"].is_string(), !good, "{row}");
        }
    }
}

#[test]
fn batches_and_padding_change_no_embedding() {
    let folder = tempfile::tempdir().unwrap();
    list(folder.path());
    let run = folder.path().join("run");
    train(&run, &[]);
    let texts = [
        "red",
        "a large green square left of a small blue circle",
        "two",
    ];
    let texts: Vec<String> = texts.map(str::to_owned).to_vec();
    let pictures: Vec<_> = ["r", "g", "b"]
        .map(|n| (n.to_owned(), folder.path().join(format!("{n}.png"))))
        .to_vec();
    let embed = |batch_size: usize| {
        let predictor = Predictor::open(&model(&run)).unwrap();
        let predictor = predictor.in_batches(BatchArgs { batch_size });
        (
            embed::texts(&predictor, texts.clone(), &World::ALONE).unwrap(),
            embed::images(
                &predictor,
                &PictureList::of_files(pictures.clone()),
                &World::ALONE,
            )
            .unwrap(),
        )
    };
    let (one, all) = (embed(1), embed(8));
    for (a, b) in [(&one.0, &all.0), (&one.1, &all.1)] {
        assert_eq!((a.ids.len(), &a.ids), (3, &b.ids));
        for (x, y) in a.values.iter().zip(&b.values) {
            assert!((x - y).abs() < TOLERANCE, "{x} {y}");
        }
        let length: f32 = a.row(0).iter().map(|v| v * v).sum();
        assert!((length - 1.0).abs() < TOLERANCE);
    }
}

#[test]
fn masked_words_are_named_with_their_probability() {
    let folder = tempfile::tempdir().unwrap();
    list(folder.path());
    let run = folder.path().join("run");
    train(&run, &[]);
    let predictor = Predictor::open(&model(&run)).unwrap();
    let picture = folder.path().join("r.png");
    let picture = Some(picture.as_path());
    let found = fill_mask::fill(&predictor, picture, "a <mask> circle and <mask>", 400).unwrap();
    assert_eq!(found.len(), 2);
    for words in &found {
        assert!(words.is_sorted_by(|a, b| a.score >= b.score));
        let sum: f64 = words.iter().map(|word| word.score).sum();
        assert!(sum > 0.9 && sum < 1.0 + f64::from(TOLERANCE), "{sum}");
    }
    let error = |picture: Option<&Path>, text: &str, top: usize| {
        let found = fill_mask::fill(&predictor, picture, text, top);
        found.unwrap_err().to_string()
    };
    let message = error(picture, "no mask", 5);
    assert!(message.contains("holds no <mask>"), "{message}");
    let message = error(picture, &format!("{}<mask>", "circle ".repeat(50)), 5);
    assert!(message.contains("lie beyond"), "{message}");
    let message = error(None, "a <mask>", 5);
    assert!(message.contains("--image is missing"), "{message}");
    let message = error(picture, "a <mask>", 0);
    assert!(message.contains("--top"), "{message}");
}

/// Maps of every word, with each kind of fusion: the pass that looks gives the score of the pass that does not (nothing is
/// dropped or noisy), attention is shares, and words, first position and whole caption fit together.
#[test]
fn an_explanation_is_of_the_score_that_is_given() {
    let folder = tempfile::tempdir().unwrap();
    list(folder.path());
    let kinds: [(&str, usize, &[&str]); 4] = [
        ("meter", 1, &["model.fusion.levels=none"]),
        ("cls", 2, &[]),
        ("token", 2, &["model.fusion.gate=token"]),
        (
            "managers",
            1,
            &[
                "model.fusion.levels=none",
                "model.fusion.link=managers",
                "model.fusion.uni_levels=2",
                "model.fusion.dropout=0.1",
            ],
        ),
    ];
    for (kind, reads, set) in kinds {
        let run = folder.path().join(kind);
        train(&run, set);
        let predictor = Predictor::open(&model(&run)).unwrap();
        let text = "a small red circle and a large one";
        let picture = folder.path().join("r.png");
        let explained = explain::explain(&predictor, &picture, text).unwrap();
        assert_eq!(explained.text, text);

        let unimo_train::apply::Matcher::Pair(pair) = &predictor.matcher else {
            panic!("three encoders");
        };
        let tokens = predictor.tokens(text).unwrap();
        let texts = predictor.text_features(pair, &[tokens]).unwrap();
        let pixels = predictor.picture(&picture).unwrap();
        let pixels = predictor.pixels(pixels).unwrap();
        let images = pair.backbone.encode_images(pixels);
        let score = predictor.match_scores(pair, &texts, &images).unwrap()[0];
        let probability = 1.0 / (1.0 + (-f64::from(score)).exp());
        let error = explained.probability.unwrap() - probability;
        assert!(error.abs() < f64::from(TOLERANCE), "{kind}: {error}");

        let words: Vec<&str> = explained.parts[2..]
            .iter()
            .map(|p| p.name.as_str())
            .collect();
        assert_eq!(words.join(" "), text);
        let patches = explained.grid * explained.grid;
        assert_eq!(explained.gates.is_some(), reads > 1, "{kind}");
        let strength =
            |part: &explain::Part| -> f32 { part.total.grad_cam.as_ref().unwrap().iter().sum() };
        for part in &explained.parts {
            let layers = pair.backbone.fusion.as_ref().unwrap().config.layers;
            assert_eq!(part.layers.len(), layers * reads, "{kind}");
            for maps in part.layers.iter().map(|l| &l.maps).chain([&part.total]) {
                assert_eq!(maps.attention.len(), patches);
                let sum: f32 = maps.attention.iter().sum();
                assert!(maps.attention.iter().all(|v| *v >= 0.0) && sum > 0.0);
                assert!(sum <= 1.0 + TOLERANCE, "{kind}: {sum}");
                let cam = maps.grad_cam.as_ref().unwrap();
                assert!(cam.len() == patches && cam.iter().all(|v| *v >= 0.0));
            }
        }
        // The whole caption is its first position, its words and the end token, whose part is not shown on its own.
        let [whole, rest @ ..] = explained.parts.as_slice() else {
            panic!("parts");
        };
        let sum: f32 = rest.iter().map(strength).sum();
        assert!(strength(whole) > 0.0, "{kind}");
        assert!(strength(whole) >= sum * (1.0 - TOLERANCE), "{kind}");
    }
}

#[test]
fn without_a_matching_head_there_is_attention_alone() {
    let folder = tempfile::tempdir().unwrap();
    list(folder.path());
    let run = folder.path().join("run");
    train(&run, &["objectives.itm=none"]);
    let args = explain::ExplainArgs {
        model: model(&run),
        image: folder.path().join("g.png"),
        text: "a <b> & two".to_owned(),
        html: folder.path().join("e.html"),
        picture: Some(folder.path().join("e.svg")),
        json: Some(folder.path().join("e.json")),
    };
    explain::run(&args).unwrap();
    let json = std::fs::read_to_string(folder.path().join("e.json")).unwrap();
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert!(json.get("probability").is_none());
    assert!(json["parts"][0].get("grad_cam").is_none());
    assert!(json["parts"][0]["attention"].is_array());
    let page = std::fs::read_to_string(folder.path().join("e.html")).unwrap();
    assert!(page.contains("attention") && !page.contains("Grad-CAM"));
    let wrong = explain::ExplainArgs {
        picture: Some(folder.path().join("e.png")),
        ..args
    };
    let message = explain::run(&wrong).unwrap_err().to_string();
    assert!(message.contains("ends in .svg"), "{message}");
}

#[test]
fn what_a_model_cannot_do_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let list = list(folder.path());
    let run = folder.path().join("run");
    train(&run, &["objectives.itm=none"]);
    let args = ScoreArgs {
        model: model(&run),
        batch: BATCH,
        data: list,
        columns: columns(),
        out: None,
    };
    let message = score::run(&args).unwrap_err().to_string();
    assert!(message.contains("matching head"), "{message}");
    let roberta = fixture::folder().join("alone/roberta");
    let predictor = Predictor::open(&model(&roberta)).unwrap();
    let explained = explain::explain(&predictor, Path::new("r.png"), "a map");
    let nowhere = PictureList::of_files(vec![("r".to_owned(), "r.png".into())]);
    for message in [
        predictor.pair("matching head").err(),
        predictor.pictures().err(),
        explained.err(),
        embed::images(&predictor, &nowhere, &World::ALONE).err(),
    ] {
        let message = message.unwrap().to_string();
        assert!(
            message.contains("it is BERT, RoBERTa or XLM-R"),
            "{message}"
        );
    }
    let message = Predictor::open(&model(folder.path())).err().unwrap();
    assert!(message.to_string().contains("config.json"), "{message}");
}

/// The vectors of a text encoder alone, and the words of its language head, are those of transformers.
#[test]
fn text_encoders_alone_equal_transformers() {
    for name in ["bert", "roberta"] {
        let folder = fixture::folder().join("alone").join(name);
        let expected = std::fs::read_to_string(folder.join("expected.json")).unwrap();
        let expected: serde_json::Value = serde_json::from_str(&expected).unwrap();
        let texts: Vec<String> = serde_json::from_value(expected["texts"].clone()).unwrap();
        let mut predictor = Predictor::open(&model(&folder)).unwrap();
        for (text, ids) in texts.iter().zip(expected["ids"].as_array().unwrap()) {
            let ours = predictor.tokens(text).unwrap().ids;
            assert_eq!(serde_json::json!(ours), *ids, "{name}: {text}");
        }
        assert_eq!(predictor.pooling, Pooling::Class);
        for (pooling, key) in [(Pooling::Class, "class"), (Pooling::Mean, "mean")] {
            predictor.pooling = pooling;
            let ours = embed::texts(&predictor, texts.clone(), &World::ALONE).unwrap();
            let theirs: Vec<Vec<f32>> = serde_json::from_value(expected[key].clone()).unwrap();
            for (a, b) in ours.values.iter().zip(theirs.iter().flatten()) {
                assert!((a - b).abs() < TOLERANCE, "{name}, {key}: {a} {b}");
            }
            assert_eq!(ours.values.len(), theirs.len() * ours.width);
        }
        let masked = expected["masked"].as_str().unwrap();
        let found = fill_mask::fill(&predictor, None, masked, 5).unwrap();
        for (ours, theirs) in found[0].iter().zip(expected["words"].as_array().unwrap()) {
            assert_eq!(ours.id, theirs["id"], "{name}");
            let score = theirs["score"].as_f64().unwrap();
            assert!((ours.score - score).abs() < f64::from(TOLERANCE));
        }
        let picture = Some(Path::new("r.png"));
        let message = fill_mask::fill(&predictor, picture, masked, 5).unwrap_err();
        assert!(message.to_string().contains("--image"), "{message}");
        // Exported, it gives the same vectors and words of the same ids.
        let scratch = tempfile::tempdir().unwrap();
        let out = scratch.path().join("exported");
        export::run(&ExportArgs {
            model: folder.display().to_string(),
            out: out.clone(),
            part: Part::Text,
            dtype: unimo_encoders::weights::Dtype::F32,
            step: None,
            licence: None,
        })
        .unwrap();
        predictor.pooling = Pooling::Class;
        let exported = Predictor::open(&model(&out)).unwrap();
        assert_eq!(
            embed::texts(&predictor, texts.clone(), &World::ALONE).unwrap(),
            embed::texts(&exported, texts, &World::ALONE).unwrap()
        );
    }
}

/// How sentence-transformers makes one vector of a text is followed, or refused by name.
#[test]
fn pooling_is_read_from_its_file() {
    let scratch = tempfile::tempdir().unwrap();
    let bert = fixture::folder().join("alone/bert");
    for name in [
        "config.json",
        "model.safetensors",
        "vocab.txt",
        "tokenizer_config.json",
    ] {
        std::fs::copy(bert.join(name), scratch.path().join(name)).unwrap();
    }
    let pooling = |text: &str| {
        let folder = scratch.path().join("1_Pooling");
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("config.json"), text).unwrap();
        Predictor::open(&model(scratch.path())).map(|predictor| predictor.pooling)
    };
    let mean = r#"{"pooling_mode_cls_token": false, "pooling_mode_mean_tokens": true}"#;
    assert_eq!(pooling(mean).unwrap(), Pooling::Mean);
    let class = r#"{"pooling_mode_cls_token": true, "pooling_mode_mean_tokens": null}"#;
    assert_eq!(pooling(class).unwrap(), Pooling::Class);
    for bad in [
        r#"{"pooling_mode_max_tokens": true}"#,
        r#"{"pooling_mode_cls_token": true, "pooling_mode_mean_tokens": true}"#,
        "{}",
        "no json",
    ] {
        let message = pooling(bad).unwrap_err().to_string();
        assert!(message.contains("1_Pooling"), "{message}");
    }
    // A limit of its own goes before the tokenizer's.
    std::fs::remove_dir_all(scratch.path().join("1_Pooling")).unwrap();
    let sentence = r#"{"max_seq_length": 6, "do_lower_case": false}"#;
    std::fs::write(scratch.path().join("sentence_bert_config.json"), sentence).unwrap();
    let predictor = Predictor::open(&model(scratch.path())).unwrap();
    let tokens = predictor
        .tokens("the red circle left of the square")
        .unwrap();
    assert_eq!(tokens.ids, [2, 5, 6, 7, 11, 3]);
}

/// How images are prepared comes from whichever file says it, and gives the same vectors.
#[test]
fn pictures_are_prepared_as_any_of_the_files_says() {
    let scratch = tempfile::tempdir().unwrap();
    list(scratch.path());
    let pictures: Vec<_> = ["r", "g"]
        .map(|n| (n.to_owned(), scratch.path().join(format!("{n}.png"))))
        .to_vec();
    let vit = fixture::folder().join("hf/vit");
    let says = r#"{"image_processor_type": "ViTImageProcessorFast", "size": {"height": 16, "width": 16}, "resample": 3,
        "image_mean": [0.2, 0.5, 0.7], "image_std": [0.1, 0.2, 0.3], "do_center_crop": null, "crop_size": null}"#;
    let nested = format!(r#"{{"processor_class": null, "image_processor": {says}}}"#);
    let embed = |file: Option<(&str, &str)>| {
        let folder = tempfile::tempdir().unwrap();
        for name in ["config.json", "model.safetensors"] {
            std::fs::copy(vit.join(name), folder.path().join(name)).unwrap();
        }
        if let Some((name, text)) = file {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        let predictor = Predictor::open(&model(folder.path())).unwrap();
        embed::images(
            &predictor,
            &PictureList::of_files(pictures.clone()),
            &World::ALONE,
        )
        .unwrap()
        .values
    };
    let old = embed(Some(("preprocessor_config.json", says)));
    assert_eq!(old, embed(Some(("processor_config.json", &nested))));
    assert!(old != embed(None), "the default is another");
}

/// The same state is the same file, whatever the order in which a process hashes.
#[test]
fn equal_embeddings_are_equal_files() {
    let scratch = tempfile::tempdir().unwrap();
    let bert = fixture::folder().join("alone/bert");
    let mut files = Vec::new();
    let texts = ["the red circle", "a square"].map(str::to_owned).to_vec();
    for at in 0..8 {
        let predictor = Predictor::open(&model(&bert)).unwrap();
        let embedded = embed::texts(&predictor, texts.clone(), &World::ALONE).unwrap();
        let path = scratch.path().join(format!("{at}.safetensors"));
        let part = |what| Embeddings {
            what,
            rows: embedded.clone(),
            model: String::new(),
            data: String::new(),
            cells: None,
        };
        index::write(&path, &[part(What::Images), part(What::Texts)]).unwrap();
        files.push(std::fs::read(path).unwrap());
    }
    assert!(files.iter().all(|file| *file == files[0]));
}

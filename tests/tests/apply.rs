//! A trained model in use: scores, embeddings, masked words, and the same from its exported folder.

use std::path::{Path, PathBuf};

use unimo_train::apply::inputs::ColumnArgs;
use unimo_train::apply::score::{self, ScoreArgs};
use unimo_train::apply::{ModelArgs, Predictor, embed, explain, fill_mask};
use unimo_train::device::DeviceChoice;
use unimo_train::export::{self, ExportArgs, Part};
use unimo_train::recipe::{Overrides, Recipe};
use unimo_train::training;

/// Rounding of texts that were padded to another length.
const TOLERANCE: f32 = 1e-5;

fn train(out: &Path, more: &[&str]) {
    let changes = [
        "train.steps=2",
        "train.batch_size=4",
        "model.text.vocab_size=300",
        "model.text.width=32",
        "model.image.image_size=32",
        "model.image.width=32",
        "model.fusion.width=32",
        "objectives.itc.width=16",
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
    let recipe = Recipe::load("unimo3-tiny", &overrides).unwrap();
    let options = training::Options {
        device: Some(DeviceChoice::Flex),
        quiet: true,
        train_only: true,
    };
    training::start(&recipe, out, &options).unwrap();
}

fn model(path: &Path) -> ModelArgs {
    ModelArgs {
        model: path.display().to_string(),
        tokenizer: None,
        step: None,
        batch_size: 2,
        device: DeviceChoice::Flex,
    }
}

fn columns() -> ColumnArgs {
    ColumnArgs {
        image_column: "image".to_owned(),
        text_column: "caption".to_owned(),
    }
}

/// Three pictures of one colour, five rows, of which one names a picture that is not there and one is no JSON.
fn list(folder: &Path) -> PathBuf {
    for (name, colour) in [
        ("r", [200, 20, 20]),
        ("g", [20, 200, 20]),
        ("b", [20, 20, 200]),
    ] {
        let picture = image::RgbImage::from_pixel(40, 30, image::Rgb(colour));
        picture.save(folder.join(format!("{name}.png"))).unwrap();
    }
    let rows = [
        r#"{"image": "r.png", "caption": "a small red circle"}"#,
        r#"{"image": "nowhere.png", "caption": "a small red circle"}"#,
        r#"{"image": "g.png", "caption": "a large green square left of a blue one"}"#,
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
    train(&run, &[]);
    let bridgetower = folder.path().join("bridgetower");
    train(
        &bridgetower,
        &[
            "model.fusion.levels=none",
            "model.fusion.link=add_norm",
            "model.fusion.layers=2",
            "model.fusion.uni_levels=2",
            "model.text.width=64",
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
        };
        export::run(&args).unwrap();
        let config = std::fs::read_to_string(exported.join("config.json")).unwrap();
        let config: serde_json::Value = serde_json::from_str(&config).unwrap();
        assert_eq!(config["model_type"], kind);
        assert!(export::run(&args).is_err(), "a model is not overwritten");

        let ours = scores(model(&run), &list, &folder.path().join("a.jsonl"));
        let theirs = scores(model(&exported), &list, &folder.path().join("b.jsonl"));
        assert_eq!(ours, theirs);
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
        let args = ModelArgs {
            batch_size,
            ..model(&run)
        };
        let predictor = Predictor::open(&args).unwrap();
        (
            embed::texts(&predictor, texts.clone()).unwrap(),
            embed::images(&predictor, &pictures).unwrap(),
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
    let found = fill_mask::fill(&predictor, &picture, "a <mask> circle and <mask>", 400).unwrap();
    assert_eq!(found.len(), 2);
    for words in &found {
        assert!(words.is_sorted_by(|a, b| a.score >= b.score));
        let sum: f64 = words.iter().map(|word| word.score).sum();
        assert!(sum > 0.9 && sum < 1.0 + f64::from(TOLERANCE), "{sum}");
    }
    let message = fill_mask::fill(&predictor, &picture, "no mask", 5)
        .unwrap_err()
        .to_string();
    assert!(message.contains("<mask>"), "{message}");
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
        let texts = predictor.text_features(pair, &[predictor.tokens(text)]);
        let pixels = predictor.pixels(predictor.picture(&picture).unwrap());
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
        data: list,
        columns: columns(),
        out: None,
    };
    let message = score::run(&args).unwrap_err().to_string();
    assert!(message.contains("matching head"), "{message}");
    let roberta = unimo_tests::fixture::folder().join("hf/roberta");
    let message = Predictor::open(&model(&roberta)).err().unwrap().to_string();
    assert!(
        message.contains("only one of text and picture"),
        "{message}"
    );
}

//! The model card that an export has: what it says is what the run's files say.

use std::path::{Path, PathBuf};

use unimo_encoders::weights::Dtype;
use unimo_tests::fixture;
use unimo_train::device::DeviceChoice;
use unimo_train::export::{self, ExportArgs, Part, card};
use unimo_train::recipe::{Overrides, Recipe};
use unimo_train::training;

fn trained(out: &Path, name: &str, set: &[&str], train_only: bool) {
    let sizes = [
        "train.steps=2",
        "train.batch_size=4",
        "train.eval_every=2",
        "eval.limit=20",
        "eval.gallery=0",
        "data.scenes.train=300",
    ];
    let set = sizes.iter().chain(set).map(|s| (*s).to_owned()).collect();
    let recipe = Recipe::load(name, &Overrides { data: None, set }).unwrap();
    let options = training::Options {
        device: Some(DeviceChoice::Flex),
        quiet: true,
        train_only,
        ..training::Options::default()
    };
    training::start(&recipe, out, &options).unwrap();
}

fn card_of(model: &Path, out: &Path, part: Part, licence: Option<&str>) -> String {
    export::run(&ExportArgs {
        model: model.display().to_string(),
        out: out.to_owned(),
        part,
        dtype: Dtype::F32,
        step: None,
        licence: licence.map(|id| card::licence(id).unwrap()),
    })
    .unwrap_or_else(|e| panic!("{}: {e}", model.display()));
    std::fs::read_to_string(out.join("README.md")).unwrap()
}

/// The lines between the two `---` at the top.
fn header(card: &str) -> Vec<&str> {
    let mut lines = card.lines();
    assert_eq!(lines.next(), Some("---"));
    lines.take_while(|line| *line != "---").collect()
}

#[test]
fn a_card_says_what_the_run_says() {
    let folder = tempfile::tempdir().unwrap();
    let run: PathBuf = folder.path().join("run");
    trained(&run, "unimo3-tiny", &[], false);
    let card = card_of(
        &run,
        &folder.path().join("mine"),
        Part::Whole,
        Some("Apache-2.0"),
    );
    assert_eq!(
        header(&card),
        [
            "license: apache-2.0",
            "language:",
            "- en",
            "library_name: transformers",
            "pipeline_tag: feature-extraction",
            "tags:",
            "- unimo",
            "- unimo3",
            "- vision-language",
        ]
    );
    for said in [
        "# mine\n",
        "after 2 of 2 steps",
        "cross-layer attention to `cross_prev`, gate `cls`",
        "Generated scenes",
        "| losses | `mlm` x 1, `itm` x 1, `itc` x 1 |",
        "20 images",
        "| chance | text to image | 5.0 |",
        "unimo score mine --data pairs.jsonl",
        "AutoModel.from_pretrained(\"mine\", trust_remote_code=True)",
        "load_file(\"mine/model.safetensors\")",
        "knows nothing of photographs",
    ] {
        assert!(card.contains(said), "{said}\n{card}");
    }
    // Every method and direction has a score with its interval.
    let line = std::fs::read_to_string(run.join("evals.jsonl")).unwrap();
    let record: serde_json::Value = serde_json::from_str(line.lines().last().unwrap()).unwrap();
    for method in record["retrieval"].as_array().unwrap() {
        let name = method["method"].as_str().unwrap();
        let r1 = 100.0 * method["text_to_image"]["r1"].as_f64().unwrap();
        let row = format!("| {name} | text to image | {r1:.1} [");
        assert!(card.contains(&row), "{row}\n{card}");
    }
    let home = folder.path().display().to_string();
    assert!(!card.contains(&home), "{card}");
}

#[test]
fn what_is_not_known_is_not_said() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    trained(&run, "unimo3-tiny", &[], true);
    let card = card_of(&run, &folder.path().join("text"), Part::Text, None);
    let header_lines = header(&card);
    assert!(!header_lines.iter().any(|line| line.starts_with("license")));
    assert!(card.contains("No licence was given"), "{card}");
    assert!(card.contains("These weights were not evaluated."), "{card}");
    assert!(card.contains("The text encoder of a model"), "{card}");
    assert!(!card.contains("image encoder"), "{card}");

    let bert = fixture::folder().join("alone/bert");
    let card = card_of(&bert, &folder.path().join("bert"), Part::Whole, None);
    assert!(!header(&card).contains(&"language:"), "{card}");
    for said in [
        "written by [unimo](https://github.com/unimo-rs/unimo) from `bert`",
        "is not told by the files",
        "AutoModel.from_pretrained(\"bert\")",
    ] {
        assert!(card.contains(said), "{said}\n{card}");
    }
}

/// The card says what the weights were trained with, whatever recipe.toml says since.
#[test]
fn an_edited_recipe_is_no_news_to_a_card() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    trained(&run, "unimo3-tiny", &["seed=7"], true);
    let before = card_of(&run, &folder.path().join("mine"), Part::Whole, None);
    let path = run.join("recipe.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    let edited = text.replacen("seed = 7", "seed = 8", 1);
    let edited = edited.replacen("steps = 2", "steps = 900", 1);
    assert_ne!(edited, text);
    std::fs::write(&path, edited).unwrap();
    std::fs::remove_dir_all(folder.path().join("mine")).unwrap();
    let after = card_of(&run, &folder.path().join("mine"), Part::Whole, None);
    assert_eq!(after, before);
}

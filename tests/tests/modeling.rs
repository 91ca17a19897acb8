//! The PyTorch code that an export has for a model that transformers does not know: outputs and gradients against what it gives, and
//! what of it can be checked without Python.
//!
//! `reference/modeling.py` wrote the fixtures by this very code, loaded by `AutoModel.from_pretrained(.., trust_remote_code=True)`.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use burn::tensor::Device;
use sha2::{Digest, Sha256};
use unimo_core::parameters;
use unimo_dev::parity::compare;
use unimo_encoders::weights::{Dtype, SafetensorsFile};
use unimo_objectives::ObjectivesConfig;
use unimo_tests::fixture;
use unimo_train::device::DeviceChoice;
use unimo_train::export::{self, ExportArgs, Part, python};
use unimo_train::recipe::{Overrides, Recipe};
use unimo_train::{prepare, starting, training};

/// Every fixture with the number of its outputs and of its gradients.
const MODELS: [(&str, usize, usize); 12] = [
    ("unimo3-cls", 13, 173),
    ("unimo3-token", 12, 168),
    ("unimo3-static", 12, 153),
    ("meter", 6, 136),
    ("bridge-scaled", 8, 143),
    ("bridge-interpolate", 9, 146),
    ("manager", 8, 169),
    ("unimo2", 9, 87),
    ("unimo2-nearest", 9, 80),
    ("mvp", 10, 93),
    ("mamo", 8, 85),
    ("towers", 7, 64),
];

fn model(name: &str) -> PathBuf {
    fixture::folder().join("modeling").join(name)
}

fn names(weights: &Path) -> BTreeSet<String> {
    let file = SafetensorsFile::open(weights).unwrap();
    file.infos().into_iter().map(|(name, _)| name).collect()
}

fn json(path: &Path) -> serde_json::Value {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn export(model: &Path, out: &Path, dtype: Dtype) {
    export_as(model, out, Part::Whole, dtype);
}

fn export_part(model: &Path, out: &Path, part: Part) {
    export_as(model, out, part, Dtype::F32);
}

fn export_as(model: &Path, out: &Path, part: Part, dtype: Dtype) {
    export::run(&ExportArgs {
        model: model.display().to_string(),
        out: out.to_owned(),
        part,
        dtype,
        step: None,
        licence: None,
    })
    .unwrap_or_else(|e| panic!("{}: {e}", model.display()));
}

#[test]
fn outputs_and_gradients_equal_the_code_beside_an_export() {
    let device = Device::flex().autodiff();
    for (name, outputs, gradients) in MODELS {
        let compared = compare(&model(name), None, None, &device).unwrap_or_else(|e| panic!("{e}"));
        let bad: Vec<_> = compared.rows.iter().filter(|row| !row.holds()).collect();
        assert!(bad.is_empty(), "{name}: {bad:#?}");
        let of_gradients = compared
            .rows
            .iter()
            .filter(|row| row.tensor.starts_with("grad."));
        let found = of_gradients.count();
        assert_eq!(
            (compared.rows.len() - found, found),
            (outputs, gradients),
            "{name}"
        );
    }
}

/// A fixture of other code would compare nothing.
#[test]
fn the_fixtures_are_of_this_code() {
    let code: String = Sha256::digest(python::MODELING)
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect();
    for (name, ..) in MODELS {
        let io = SafetensorsFile::open(&model(name).join("io.safetensors")).unwrap();
        assert_eq!(
            io.note("modeling"),
            Some(code.as_str()),
            "{name}: modeling_unimo.py has changed since: run tests/reference/modeling.py"
        );
    }
}

/// The fixtures' names are those of the code's `state_dict`.
#[test]
fn an_export_has_the_tensors_that_the_code_expects() {
    let scratch = tempfile::tempdir().unwrap();
    for (name, ..) in MODELS {
        let out = scratch.path().join(name);
        export(&model(name), &out, Dtype::F32);
        let weights = |folder: &Path| names(&folder.join("model.safetensors"));
        assert_eq!(weights(&out), weights(&model(name)), "{name}");
        assert_eq!(
            json(&out.join("config.json")),
            json(&model(name).join("config.json")),
            "{name}"
        );
    }
}

fn trained(folder: &Path, name: &str, set: &[&str]) -> PathBuf {
    let sizes = [
        "train.steps=2",
        "train.batch_size=4",
        "data.scenes.train=300",
    ];
    let set = sizes.iter().chain(set).map(|s| (*s).to_owned()).collect();
    let recipe = Recipe::load(name, &Overrides { data: None, set }).unwrap();
    let out = folder.join(format!("run-{name}"));
    let options = training::Options {
        device: Some(DeviceChoice::Flex),
        quiet: true,
        train_only: true,
        ..training::Options::default()
    };
    training::start(&recipe, &out, &options).unwrap();
    out
}

#[test]
fn a_run_that_transformers_does_not_know_goes_out_with_its_code() {
    let folder = tempfile::tempdir().unwrap();
    let run = trained(folder.path(), "unimo2-tiny", &[]);
    for (dtype, named) in [(Dtype::F32, "float32"), (Dtype::Bf16, "bfloat16")] {
        let out = folder.path().join(named);
        export(&run, &out, dtype);
        let config = json(&out.join("config.json"));
        assert_eq!(config["architectures"], serde_json::json!(["UnimoModel"]));
        assert_eq!(config["dtype"], named);
        for (class, code) in config["auto_map"].as_object().unwrap() {
            let (file, found) = code.as_str().unwrap().split_once('.').unwrap();
            let text = std::fs::read_to_string(out.join(format!("{file}.py"))).unwrap();
            assert!(text.contains(&format!("class {found}(")), "{class}: {code}");
        }
        let text = std::fs::read_to_string(out.join("modeling_unimo.py")).unwrap();
        assert_eq!(text, python::MODELING);
        // A second export, of the first, has the same files.
        let again = folder.path().join(format!("again-{named}"));
        export(&out, &again, dtype);
        for file in [
            "config.json",
            "model.safetensors",
            "modeling_unimo.py",
            "configuration_unimo.py",
        ] {
            let bytes = |folder: &Path| std::fs::read(folder.join(file)).unwrap();
            assert!(bytes(&out) == bytes(&again), "{file}");
        }
    }
}

/// The teacher is for training. A file with it would not be the model that its description says.
#[test]
fn the_teacher_stays_behind() {
    let folder = tempfile::tempdir().unwrap();
    let set = [
        "teacher={ decay = 0.995 }",
        "objectives.itc.momentum={ queue = 64, alpha = 0.4 }",
    ];
    let run = trained(folder.path(), "unimo3-tiny", &set);
    let out = folder.path().join("out");
    export(&run, &out, Dtype::F32);
    let names = names(&out.join("model.safetensors"));
    assert!(!names.iter().any(|name| name.starts_with("teacher")));
    let public = unimo_train::pretrained::describe(&out, None).unwrap();
    public.load(&Device::flex()).unwrap();
}

/// What transformers writes around a description does not keep unimo from reading it.
#[test]
fn a_description_that_transformers_saved_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = json(&model("unimo3-cls").join("config.json"));
    config["transformers_version"] = "5.24.0".into();
    std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    let weights = model("unimo3-cls").join("model.safetensors");
    std::fs::copy(weights, folder.path().join("model.safetensors")).unwrap();
    export(folder.path(), &folder.path().join("out"), Dtype::F32);
    config["further"] = 1.into();
    std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    let read = unimo_train::pretrained::describe(folder.path(), None);
    let message = read.err().unwrap().to_string();
    assert!(message.contains("further"), "{message}");
}

/// transformers warns of tensors that it does not know; those of heads that only unimo has are no reason to. An objective that is added
/// is in one of the two lists.
#[test]
fn the_code_passes_over_every_head_that_it_does_not_have() {
    let list = python::MODELING
        .split_once("r\"^objectives\\.(")
        .and_then(|(_, rest)| rest.split_once(")\\.\""))
        .map(|(list, _)| list)
        .unwrap();
    let ignored: BTreeSet<&str> = list.split('|').collect();
    let has: BTreeSet<&str> = python::HEADS.into_iter().collect();
    let known: BTreeSet<&str> = ObjectivesConfig::KEYS.iter().copied().collect();
    assert!(ignored.is_disjoint(&has));
    let both: BTreeSet<&str> = ignored.union(&has).copied().collect();
    assert_eq!(both, known, "left: modeling_unimo.py, right: [objectives]");
}

/// An export is a start as good as its run: the same weights, tokenizer and heads, by whole and by parts.
#[test]
fn a_training_starts_from_an_export_as_from_its_run() {
    let folder = tempfile::tempdir().unwrap();
    let run = trained(folder.path(), "unimo3-tiny", &[]);
    let out = folder.path().join("out");
    export(&run, &out, Dtype::F32);
    let device = Device::flex();
    let from = |init: String| {
        let set = vec![init, "data.tokenizer.vocab_size=290".to_owned()];
        let recipe = Recipe::load("unimo3-tiny", &Overrides { data: None, set }).unwrap();
        let (model, started) = starting::model(&recipe, &device).unwrap();
        let source = unimo_data::open(&recipe.data).unwrap();
        let tokenizer = prepare::tokenizer(&recipe, &*source).unwrap();
        let account = started.unwrap().to_string();
        (
            parameters::values(&model),
            tokenizer.to_json().unwrap(),
            account,
        )
    };
    let (weights, tokenizer, _) = from(format!("init=unimo:{}", run.display()));
    let (same, own, account) = from(format!("init=unimo:{}", out.display()));
    assert!(weights == same && tokenizer == own);
    assert!(
        account.contains("an export, with its tokenizer"),
        "{account}"
    );
    let file = out.join("model.safetensors");
    let (same, ..) = from(format!("init=unimo:{}", file.display()));
    assert!(weights == same);

    let parts = |place: &Path| {
        let parts = "parts = [\"backbone.text\"]";
        format!("init={{ whole = \"unimo:{}\", {parts} }}", place.display())
    };
    let ((of_run, ..), (of_export, _, account)) = (from(parts(&run)), from(parts(&out)));
    assert!(of_run == of_export && of_run != weights);
    assert!(account.contains("new         backbone.image"), "{account}");

    // An export under other names says what it is.
    let text = folder.path().join("text");
    export_part(&run, &text, Part::Text);
    let set = vec![format!("init=unimo:{}", text.display())];
    let recipe = Recipe::load("unimo3-tiny", &Overrides { data: None, set }).unwrap();
    let error = starting::model(&recipe, &device).unwrap_err().to_string();
    assert!(error.contains("is BERT, RoBERTa or XLM-R"), "{error}");
}

/// A model that reads regions has no code, and nothing in its description leads to any.
#[test]
fn what_the_code_cannot_express_goes_out_without_it() {
    let recipe = Recipe::load(
        "unimo3-tiny",
        &Overrides {
            data: None,
            set: vec![
                "model.image=none".to_owned(),
                "data.image_size=64".to_owned(),
                "model.regions={ features = 198, width = 96, layers = 1, heads = 4, feed_forward = 64, activation = \"gelu\", layer_norm_eps = 1e-12, dropout = 0.0 }".to_owned(),
                "data.regions={ kind = \"boxes\", side = 8, limit = 8 }".to_owned(),
            ],
        },
    )
    .unwrap();
    assert!(python::refusal(&recipe.model).unwrap().contains("regions"));
    let device = Device::flex();
    let model = unimo_train::model::Model::new(&recipe, &device);
    let folder = tempfile::tempdir().unwrap();
    let config = serde_json::json!({"model_type": "unimo", "model": recipe.model, "objectives": recipe.objectives});
    std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    let tensors =
        unimo_encoders::export::export(&model, &unimo_encoders::names::Names::own(), Dtype::F32)
            .unwrap();
    let mut file = std::fs::File::create(folder.path().join("model.safetensors")).unwrap();
    unimo_encoders::export::write(&mut file, &tensors).unwrap();
    let out = folder.path().join("out");
    export(folder.path(), &out, Dtype::F32);
    assert!(!out.join("modeling_unimo.py").exists());
    assert!(json(&out.join("config.json")).get("auto_map").is_none());
}

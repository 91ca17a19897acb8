//! The layout of the store: that of `mlflow` 2 and 3, whose client reads it (`mlflow.tracking.MlflowClient`).

use unimo_report::record::RecallRecord;
use unimo_report::record::RetrievalRecord;

use super::*;
use crate::recipe::Overrides;

fn begun(folder: &Path, store: &Path, more: &[&str]) -> (RunFolder, Recipe) {
    let mlflow = format!("log={{ mlflow = {:?} }}", store.display().to_string());
    let set = std::iter::once(mlflow).chain(more.iter().map(|set| (*set).to_owned()));
    let overrides = Overrides {
        data: None,
        set: set.collect(),
    };
    let recipe = Recipe::load("unimo3-tiny", &overrides).unwrap();
    let run = RunFolder::create(folder, &recipe).unwrap();
    run.write("run.json", b"{\"started\":\"2026-01-02T03:04:05Z\"}")
        .unwrap();
    (run, recipe)
}

/// 2026-01-02T03:04:05Z.
const STARTED: i64 = 1_767_323_045_000;

fn step(step: u64, loss: f64) -> StepRecord {
    let text = format!(
        "{{\"step\":{step},\"loss\":{loss},\"lr\":0.001,\"elapsed_seconds\":{},\"losses\":{{\"itc\":{{\"loss\":1.5,\"accuracy\":0.25,\"count\":4}}}}}}",
        step as f64 / 2.0
    );
    serde_json::from_str(&text).unwrap()
}

fn evaluation(step: u64) -> EvalRecord {
    let recall = RecallRecord {
        r1: 0.5,
        r5: 0.75,
        r10: 1.0,
        median_rank: 2.0,
    };
    EvalRecord {
        evaluator: "retrieval".to_owned(),
        step,
        selects: true,
        retrieval: vec![RetrievalRecord {
            method: "itc".to_owned(),
            text_to_image: recall,
            image_to_text: recall,
        }],
        ..EvalRecord::default()
    }
}

fn tell(mlflow: &mut MlFlow, record: &StepRecord) {
    mlflow
        .step(&StepEvent {
            record,
            logged: true,
        })
        .unwrap();
}

#[test]
fn a_run_is_laid_out_as_mlflow_reads_it() {
    let root = tempfile::tempdir().unwrap();
    let store = root.path().join("ml runs");
    let (run, recipe) = begun(&root.path().join("my-run"), &store, &[]);
    let mut mlflow = MlFlow::open(&run, &recipe).unwrap().unwrap();
    let folder = mlflow.folder();
    tell(&mut mlflow, &step(1, 7.5));
    tell(&mut mlflow, &step(2, 1e-7));
    mlflow.evaluation(&[evaluation(2)]).unwrap();
    let read = |name: &str| fs::read_to_string(folder.join(name)).unwrap();
    assert!(
        read("meta.yaml").contains("status: 1\n") && read("meta.yaml").contains("end_time: null\n")
    );
    Box::new(mlflow).finish().unwrap();

    assert_eq!(
        read("metrics/train/loss"),
        format!("{} 7.5 1\n{} 1e-7 2\n", STARTED + 500, STARTED + 1000)
    );
    assert_eq!(
        read("metrics/eval_itc/text_to_image_r1"),
        format!("{} 0.5 2\n", STARTED + 1000)
    );
    assert_eq!(
        read("metrics/eval/score"),
        format!("{} 0.75 2\n", STARTED + 1000)
    );
    assert_eq!(read("params/train.steps"), "600");
    assert_eq!(read("params/model.fusion.gate"), "cls");
    assert_eq!(read("tags/mlflow.runName"), "my-run");
    assert!(folder.join("artifacts").is_dir());
    let id = folder.file_name().unwrap().to_string_lossy().into_owned();
    assert!(
        id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit()),
        "{id}"
    );
    let meta = read("meta.yaml");
    for line in [
        format!("run_id: \"{id}\""),
        format!("run_uuid: \"{id}\""),
        "run_name: \"my-run\"".to_owned(),
        format!("start_time: {STARTED}"),
        format!("end_time: {}", STARTED + 1000),
        "status: 3".to_owned(),
        "source_type: 4".to_owned(),
        "lifecycle_stage: active".to_owned(),
    ] {
        assert!(meta.lines().any(|found| found == line), "{line}: {meta}");
    }
    assert!(meta.contains("/ml%20runs/"), "{meta}");
    let experiment = fs::read_to_string(folder.parent().unwrap().join("meta.yaml")).unwrap();
    let number = folder
        .parent()
        .unwrap()
        .file_name()
        .unwrap()
        .to_string_lossy();
    assert!(number.len() == ID_DIGITS && number.bytes().all(|byte| byte.is_ascii_digit()));
    for line in [
        "name: \"unimo\"".to_owned(),
        format!("experiment_id: \"{number}\""),
    ] {
        assert!(
            experiment.lines().any(|found| found == line),
            "{line}: {experiment}"
        );
    }
}

#[test]
fn a_resumed_run_goes_on_in_its_place_without_what_was_lost() {
    let root = tempfile::tempdir().unwrap();
    let store = root.path().join("mlruns");
    let (run, recipe) = begun(&root.path().join("run"), &store, &[]);
    let mut mlflow = MlFlow::open(&run, &recipe).unwrap().unwrap();
    let folder = mlflow.folder();
    for number in 1..=4 {
        tell(&mut mlflow, &step(number, 4.0));
    }
    // Killed while it wrote; the run goes on after step 2.
    let path = folder.join("metrics/train/loss");
    let text = fs::read_to_string(&path).unwrap() + "17673";
    fs::write(&path, text).unwrap();
    drop(mlflow);
    for number in 1..=2 {
        run.append("metrics.jsonl", &step(number, 4.0)).unwrap();
    }
    run.append("evals.jsonl", &evaluation(2)).unwrap();
    let mut mlflow = MlFlow::open(&run, &recipe).unwrap().unwrap();
    assert_eq!(mlflow.folder(), folder);
    tell(&mut mlflow, &step(3, f64::from(3u8)));
    let steps: Vec<String> = fs::read_to_string(&path)
        .unwrap()
        .lines()
        .map(|line| line.split(' ').nth(2).unwrap().to_owned())
        .collect();
    assert_eq!(steps, ["1", "2", "3"]);
    assert!(folder.join("metrics/eval_itc/image_to_text_r10").is_file());
    // The store was thrown away: all of it comes back.
    fs::remove_dir_all(&store).unwrap();
    let mlflow = MlFlow::open(&run, &recipe).unwrap().unwrap();
    let text = fs::read_to_string(mlflow.folder().join("metrics/loss/itc")).unwrap();
    assert_eq!(text.lines().count(), 2);
}

#[test]
fn runs_share_an_experiment_of_mlflows_own() {
    let root = tempfile::tempdir().unwrap();
    let store = root.path().join("mlruns");
    fs::create_dir_all(store.join("123")).unwrap();
    // As MLflow's Python client writes it.
    let meta = "artifact_location: file:///x/123\nexperiment_id: '123'\nlifecycle_stage: active\nname: it's mine\n";
    fs::write(store.join("123/meta.yaml"), meta).unwrap();
    let named = "log.experiment=it's mine";
    let open = |name: &str, more: &[&str]| {
        let (run, recipe) = begun(&root.path().join(name), &store, more);
        let folder = MlFlow::open(&run, &recipe).unwrap().unwrap().folder();
        folder
            .parent()
            .unwrap()
            .file_name()
            .unwrap()
            .to_string_lossy()
            .into_owned()
    };
    assert_eq!([open("a", &[named]), open("b", &[named])], ["123", "123"]);
    let own = open("c", &[]);
    assert!(own != "123" && own == open("d", &[]));
}

#[test]
fn names_are_those_that_mlflow_takes() {
    assert_eq!(param_name("stage[0].lr"), "stage.0.lr");
    assert_eq!(
        param_name("data.pairs.filter.\"a/b\""),
        "data.pairs.filter.a_b"
    );
    assert_eq!(metric_name("eval_itc+itm/r1"), "eval_itc_itm/r1");
    assert_eq!(metric_name("a/../b"), "a/b");
    let long = line(5, f64::NEG_INFINITY, 7);
    assert_eq!(
        (long, line(5, f64::NAN, 7)),
        ("5 -inf 7".to_owned(), "5 nan 7".to_owned())
    );
    for (text, read) in [
        ("'a''b'", "a'b"),
        ("\"a\\\"b\"", "a\"b"),
        ("plain", "plain"),
    ] {
        assert_eq!(unquoted(text), read);
    }
}

//! Run folders as they are found.

use super::*;

fn folder(files: &[(&str, &str)]) -> RunFolder {
    let run = tempfile::tempdir().unwrap();
    for (name, text) in [&("recipe.toml", "name = \"x\"\n")]
        .into_iter()
        .chain(files)
    {
        std::fs::write(run.path().join(name), text).unwrap();
    }
    RunFolder::read(run.path()).unwrap()
}

#[test]
fn only_the_recipe_has_to_be_there() {
    let read = folder(&[]);
    assert_eq!(read.recipe, "name = \"x\"\n");
    assert!(
        read.steps.is_empty()
            && read.evals.is_empty()
            && read.problems.is_empty()
            && read.gates.is_none()
    );
    let empty = tempfile::tempdir().unwrap();
    assert_eq!(
        RunFolder::read(empty.path()).unwrap_err().kind(),
        io::ErrorKind::NotFound
    );
}

#[test]
fn a_resumed_run_keeps_what_its_weights_have_seen() {
    let text = "{\"step\":10,\"loss\":5}\n{\"step\":20,\"loss\":4}\n{\"step\":30,\"loss\":3}\n{\"step\":20,\"loss\":4.5}\n{\"step\":25,\"loss\":3.5}\n";
    let sessions = "{\"after_step\":0}\n{\"after_step\":0}\n{\"after_step\":10}\n";
    let read = folder(&[("metrics.jsonl", text), ("sessions.jsonl", sessions)]);
    let steps: Vec<(u64, f64)> = read
        .steps
        .iter()
        .map(|record| (record.step, record.loss))
        .collect();
    assert_eq!(steps, [(10, 5.0), (20, 4.5), (25, 3.5)]);
    assert_eq!(read.resumes, [10]);
}

#[test]
fn lists_of_stages_are_lists_of_the_run() {
    let line = |file: &str| format!("{{\"file\":\"{file}\",\"line\":1,\"reason\":\"cut\"}}\n");
    let read = folder(&[
        ("skipped.jsonl", ""),
        ("skipped-10.jsonl", &line("c")),
        ("skipped-2.jsonl", &(line("a") + &line("b"))),
        ("skipped-x.jsonl", &line("d")),
    ]);
    assert_eq!(read.skipped_count, 3);
    assert_eq!(read.skipped_lists, ["skipped-2.jsonl", "skipped-10.jsonl"]);
    let files: Vec<&str> = read.skipped.iter().map(|s| s.file.as_str()).collect();
    assert_eq!(files, ["a", "b", "c"]);
}

#[test]
fn the_best_is_the_first_of_equals_by_its_best_method() {
    let eval = |step: u64, methods: &[f64]| -> EvalRecord {
        let recall = |r1: f64| serde_json::json!({"r1": r1, "r5": r1, "r10": r1});
        let retrieval: Vec<Value> = methods
            .iter()
            .map(|r1| {
                serde_json::json!({"method": "itc", "text_to_image": recall(*r1), "image_to_text": recall(*r1)})
            })
            .collect();
        let eval = serde_json::json!({"step": step, "retrieval": retrieval});
        serde_json::from_value(eval).unwrap()
    };
    let evals = [
        eval(10, &[]),
        eval(20, &[0.25, 0.5, f64::NAN]),
        eval(30, &[0.5]),
        eval(40, &[f64::NAN]),
    ];
    let (found, score) = best(&evals).unwrap();
    assert_eq!((found.step, score), (20, 0.5));
    assert_eq!(best(&evals[..1]), None);
    assert_eq!(evals[3].goodness(), None);

    // The score that all evaluations share counts, whatever else the last one scores.
    let mut evals = [eval(10, &[0.5]), eval(20, &[0.25, 0.75]), eval(30, &[])];
    for (eval, score) in evals.iter_mut().zip([0.5, 0.25, 1.0]) {
        eval.score = Some(score);
    }
    let (found, score) = best(&evals).unwrap();
    assert_eq!((found.step, score), (10, 0.5));

    // If something else is scored from the second on, the first does not compete.
    evals[0].score = Some(2.0);
    for eval in &mut evals[1..] {
        eval.scored = "contrast on val".to_owned();
    }
    let (found, score) = best(&evals).unwrap();
    assert_eq!((found.step, score), (20, 0.25));
}

#[test]
fn a_cut_off_last_line_is_ignored_and_others_are_noted() {
    let read = folder(&[(
        "metrics.jsonl",
        "{\"step\":1,\"loss\":null}\n{\"step\":2,\"lo",
    )]);
    assert_eq!(read.steps.len(), 1);
    assert!(read.steps[0].loss.is_nan() && read.steps[0].lr.is_nan());
    assert!(read.problems.is_empty());

    let read = folder(&[(
        "metrics.jsonl",
        "{\"step\":1}\n{\"step\":2,\"lo{\"step\":3}\n\nx\n{\"step\":4}",
    )]);
    assert_eq!(
        read.steps
            .iter()
            .map(|record| record.step)
            .collect::<Vec<_>>(),
        [1, 4]
    );
    assert_eq!(read.problems.len(), 1);
    assert!(
        read.problems[0].starts_with("metrics.jsonl, line 2 (and 1 more)"),
        "{:?}",
        read.problems
    );
}

#[test]
fn an_evaluation_replaces_that_of_its_step_and_split() {
    let text = "{\"step\":20,\"split\":\"val\",\"images\":1}\n{\"step\":20,\"split\":\"test\",\"images\":2}\n{\"step\":20,\"split\":\"val\",\"images\":3}\n{\"step\":10,\"split\":\"val\",\"images\":4}\n";
    let read = folder(&[("evals.jsonl", text)]);
    let mut found: Vec<(u64, &str, u64)> = read
        .evals
        .iter()
        .map(|record| (record.step, record.split.as_str(), record.images))
        .collect();
    found.sort_unstable();
    assert_eq!(found, [(10, "val", 4), (20, "test", 2), (20, "val", 3)]);
}

#[test]
fn broken_optional_files_are_noted() {
    let read = folder(&[
        ("gates.json", "{"),
        ("gallery.json", "3"),
        ("run.json", "{\"new\": [1, {}], \"name\": \"n\"}"),
    ]);
    assert_eq!(read.facts.len(), 2);
    assert_eq!(read.problems.len(), 2);
    assert!(
        read.problems[0].starts_with("gates.json cannot be read"),
        "{:?}",
        read.problems
    );
}

#[test]
fn skipped_items_are_counted_and_the_first_kept() {
    let text: String = (1..=25)
        .map(|line| format!("{{\"file\":\"a.jsonl\",\"line\":{line},\"reason\":\"r\"}}\n"))
        .collect();
    let read = folder(&[("skipped.jsonl", &text)]);
    assert_eq!(
        (read.skipped_count, read.skipped.len(), read.skipped[9].line),
        (25, SKIPPED_SHOWN, Some(10))
    );
}

/// The loop writes what the report reads, NaN included.
#[test]
fn records_survive_being_written() {
    let losses =
        serde_json::json!({"mlm": ObjectiveRecord { loss: 5.1, accuracy: 0.12, count: 33.0 }});
    let record = StepRecord {
        stage: String::new(),
        step: 10,
        epoch: 0.12,
        loss: f64::NAN,
        lr: 1e-4,
        grad_norm: f64::INFINITY,
        pairs_per_second: 31.0,
        step_seconds: 0.5,
        wait_seconds: 0.01,
        exchange_seconds: None,
        losses: losses.as_object().cloned().unwrap_or_default(),
        skipped: BTreeMap::new(),
        loss_scale: None,
        overflows: 0,
        tasks: BTreeMap::new(),
        elapsed_seconds: 5.0,
    };
    let text = serde_json::to_string(&record).unwrap();
    let read: StepRecord = serde_json::from_str(&text).unwrap();
    assert!(read.loss.is_nan() && read.grad_norm.is_nan());
    assert_eq!((read.step, read.lr, read.elapsed_seconds), (10, 1e-4, 5.0));
    assert_eq!(
        read.objective("mlm"),
        Some(ObjectiveRecord {
            loss: 5.1,
            accuracy: 0.12,
            count: 33.0
        })
    );
    assert_eq!(read.objective("itm"), None);
}

//! Runs as they are found, set side by side. The expected numbers are Python's (`statistics.mean`, `stdev`).

use std::fs;
use std::path::Path;

use serde_json::json;

use super::*;

/// Sums of a few doubles in another order than Python's.
const ROUNDING: f64 = 1e-12;

/// A finished run of 20 steps with two evaluations, the later one better.
fn write_run(folder: &Path, r1: f64) {
    fs::create_dir_all(folder).unwrap();
    fs::write(folder.join("recipe.toml"), "seed = 0\n").unwrap();
    let lines = |values: Vec<Value>| -> String {
        values.iter().map(|value| format!("{value}\n")).collect()
    };
    let steps = (1..=20).map(|step| {
        json!({
            "step": step, "loss": 5.0 - f64::from(step) * 0.1, "elapsed_seconds": f64::from(step) * 2.0,
            "losses": { "itc": { "loss": 3.0, "accuracy": 0.5, "count": 8 } },
        })
    });
    fs::write(folder.join("metrics.jsonl"), lines(steps.collect())).unwrap();
    let eval = |step: u64, r1: f64| {
        let recall = json!({ "r1": r1, "r5": 0.5, "r10": 0.8, "median_rank": 4.0 });
        let chance = json!({ "r1": 0.01, "r5": 0.05, "r10": 0.1 });
        json!({
            "step": step, "split": "val", "images": 100, "texts": 100, "protocol": "full",
            "score": (2.0 * r1 + 2.6) / 6.0, "scored": "full on val",
            "retrieval": [{ "method": "itc", "text_to_image": recall, "image_to_text": recall }],
            "chance": { "text_to_image": chance, "image_to_text": chance },
        })
    };
    let evals = lines(vec![eval(10, r1 / 2.0), eval(20, r1)]);
    fs::write(folder.join("evals.jsonl"), evals).unwrap();
}

fn candidate(folder: &Path, seed: u64, levels: &str) -> Candidate {
    let recipe = [
        ("seed", seed.to_string()),
        ("description", format!("\"{seed}\"")),
        ("log.mlflow", format!("\"{seed}\"")),
        ("model.fusion.levels", format!("\"{levels}\"")),
        ("train.steps", "20".to_owned()),
    ];
    Candidate {
        folder: folder.to_owned(),
        name: folder.file_name().unwrap().to_string_lossy().into_owned(),
        recipe: recipe.map(|(key, value)| (key.to_owned(), value)).into(),
        steps: 20,
        samples: 32,
        task: "pre-training".to_owned(),
        held_out: Some("100 rows, ab".to_owned()),
        ..Candidate::default()
    }
}

/// Three seeds of `cross` and three of `in`, of which two are common.
fn two_setups(root: &Path) -> Vec<Candidate> {
    let runs = [
        ("cross-seed0", 0, "cross_prev", 0.30),
        ("cross-seed1", 1, "cross_prev", 0.36),
        ("cross-seed2", 2, "cross_prev", 0.33),
        ("in-seed0", 0, "none", 0.20),
        ("in-seed1", 1, "none", 0.29),
        ("in-seed7", 7, "none", 0.25),
    ];
    let of = |(name, seed, levels, r1): (&str, u64, &str, f64)| {
        let folder = root.join(name);
        write_run(&folder, r1);
        candidate(&folder, seed, levels)
    };
    runs.map(of).to_vec()
}

#[track_caller]
fn close(found: f64, expected: f64) {
    assert!((found - expected).abs() < ROUNDING, "{found} {expected}");
}

#[test]
fn seeds_are_averaged_and_setups_are_compared_seed_by_seed() {
    let root = tempfile::tempdir().unwrap();
    let comparison = Comparison::new(&two_setups(root.path())).unwrap();
    assert!(comparison.notes.is_empty(), "{:?}", comparison.notes);
    let names: Vec<&str> = comparison.setups.iter().map(|setup| &*setup.name).collect();
    assert_eq!(names, ["cross", "in"]);
    let keys: Vec<&String> = comparison.differences.keys().collect();
    assert_eq!(keys, ["model.fusion.levels"]);

    let r1 = |place: &Place| place.number == "text → image R@1" && place.weights == Moment::Best;
    let of = |setup: &str| {
        let mut all = comparison.aggregates.iter();
        all.find(|a| a.setup == setup && r1(&a.place)).unwrap()
    };
    // stdev([0.30, 0.36, 0.33]), stdev([0.20, 0.29, 0.25])
    close(of("cross").mean, 0.33);
    close(of("cross").deviation.unwrap(), 0.03);
    close(of("in").mean, 0.246_666_666_666_666_67);
    close(of("in").deviation.unwrap(), 0.045_092_497_528_228_94);

    let paired: Vec<&Paired> = comparison.paired.iter().filter(|p| r1(&p.place)).collect();
    assert_eq!(paired.len(), 1);
    let paired = paired[0];
    assert_eq!((&*paired.setup, &*paired.minus), ("in", "cross"));
    assert_eq!((paired.n, paired.seeds.join(" ")), (2, "0 1".to_owned()));
    // d = [0.20 - 0.30, 0.29 - 0.36]: mean, and stdev(d) / sqrt(2)
    close(paired.mean, -0.085);
    close(paired.error.unwrap(), 0.015);
}

/// The best weights of one seed are those of step 10, where the contrast of fewer images was scored.
#[test]
fn best_weights_that_were_scored_in_part_are_named() {
    let root = tempfile::tempdir().unwrap();
    let candidates = two_setups(root.path());
    let path = candidates[1].folder.join("evals.jsonl");
    let mut evals: Vec<Value> = fs::read_to_string(&path)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    evals[0]["images"] = json!(50);
    evals[0]["score"] = json!(0.9);
    let lines: String = evals.iter().map(|eval| format!("{eval}\n")).collect();
    fs::write(&path, lines).unwrap();
    let comparison = Comparison::new(&candidates).unwrap();
    let said = |name: &str| {
        let mut notes = comparison.notes.iter();
        notes.any(|note| note.starts_with(name) && note.contains("its best weights, of step"))
    };
    assert!(said("cross-seed1: "), "{:?}", comparison.notes);
    // Those of the last step are whole.
    assert!(
        !said("cross-seed0") && !said("in-seed0"),
        "{:?}",
        comparison.notes
    );
}

#[test]
fn scores_have_intervals_and_chance() {
    let root = tempfile::tempdir().unwrap();
    let comparison = Comparison::new(&two_setups(root.path())).unwrap();
    // The best weights are the last ones: their scores are given once.
    assert!(comparison.best_is_last);
    let scores = &comparison.runs[0].scores;
    assert!(
        scores
            .iter()
            .all(|score| score.place.weights == Moment::Best && score.step == 20)
    );
    let of = |number: &str| {
        scores
            .iter()
            .find(|score| score.place.number == number)
            .unwrap()
    };
    let mean = of("mean recall");
    close(mean.value, (2.0 * 0.3 + 2.6) / 6.0);
    close(mean.chance.unwrap(), 0.32 / 6.0);
    // Wilson's interval of 30 of 100, as statsmodels' proportion_confint(30, 100, method="wilson") gives it.
    let [from, to] = of("image → text R@1").interval.unwrap();
    assert!(
        (from - 0.218_949).abs() < 1e-6 && (to - 0.395_849).abs() < 1e-6,
        "{from} {to}"
    );
}

#[test]
fn the_best_may_be_earlier_than_the_last() {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("run");
    write_run(&folder, 0.4);
    let text = fs::read_to_string(folder.join("evals.jsonl")).unwrap();
    let lines: Vec<String> = text.lines().map(str::to_owned).collect();
    let swapped = lines[0].replace("\"step\":10", "\"step\":20");
    let swapped = lines[1].replace("\"step\":20", "\"step\":10") + "\n" + &swapped + "\n";
    fs::write(folder.join("evals.jsonl"), swapped).unwrap();
    let comparison = Comparison::new(&[candidate(&folder, 0, "none")]).unwrap();
    let run = &comparison.runs[0];
    assert_eq!((run.best_step, comparison.best_is_last), (Some(10), false));
    let steps: BTreeSet<(Moment, u64)> = run
        .scores
        .iter()
        .map(|score| (score.place.weights, score.step))
        .collect();
    assert_eq!(
        steps,
        BTreeSet::from([(Moment::Best, 10), (Moment::Last, 20)])
    );
    assert!(comparison.table().contains("Last weights"));
}

#[test]
fn curves_run_over_steps_samples_and_seconds() {
    let root = tempfile::tempdir().unwrap();
    let comparison = Comparison::new(&two_setups(root.path())).unwrap();
    let of = |name: &str| -> Vec<&Curve> {
        let all = comparison.curves.iter();
        all.filter(|curve| curve.subject.name == name).collect()
    };
    let loss = of("total loss");
    assert_eq!(loss.len(), 6);
    let last = loss[5].points.last().unwrap();
    assert_eq!((last.step, last.samples, last.seconds), (20, 640, 40.0));
    let evaluated = of("ITC: text → image R@1");
    let points: Vec<(u64, f64, f64)> = evaluated[0]
        .points
        .iter()
        .map(|point| (point.step, point.seconds, point.value))
        .collect();
    assert_eq!(points, [(10, 20.0, 0.15), (20, 40.0, 0.3)]);
}

#[test]
fn what_cannot_be_compared_is_said() {
    let root = tempfile::tempdir().unwrap();
    let mut candidates = two_setups(root.path());
    // Killed while it wrote, before its end.
    let killed = root.path().join("cross-seed1/metrics.jsonl");
    let text = fs::read_to_string(&killed).unwrap();
    let kept: String = text
        .lines()
        .take(15)
        .map(|line| format!("{line}\n"))
        .collect();
    fs::write(&killed, kept + "{\"step\":16,\"lo").unwrap();
    // Other rows, another task, a repeated seed.
    candidates[5].held_out = Some("90 rows, cd".to_owned());
    candidates[4].task = "task vqa".to_owned();
    candidates[2]
        .recipe
        .insert("seed".to_owned(), "0".to_owned());
    let comparison = Comparison::new(&candidates).unwrap();
    for said in [
        "cross-seed1: the last line of metrics.jsonl breaks off",
        "cross-seed1: is unfinished, at step 15 of 20",
        "data A (100 rows, ab): cross-seed0, cross-seed1, cross-seed2, in-seed0, in-seed1; data B (90 rows, cd): in-seed7",
        "task vqa: in-seed1",
        "cross-seed2: has the recipe and the seed of cross-seed0",
    ] {
        let notes = &comparison.notes;
        assert!(
            notes.iter().any(|note| note.contains(said)),
            "{said}: {notes:#?}"
        );
    }
    let mean = |setup: &str, data: &str| {
        let all = comparison.aggregates.iter();
        all.filter(|a| a.setup == setup && a.place.held_out == data)
            .map(|a| a.n)
            .max()
    };
    assert_eq!(
        (mean("cross", "A"), mean("in", "A"), mean("in", "B")),
        (Some(1), Some(2), Some(1))
    );
    // Seed 0 alone is common, finished and of the same data.
    assert!(
        comparison
            .paired
            .iter()
            .all(|p| p.n == 1 && p.error.is_none())
    );
    let page = comparison.page();
    assert!(page.contains("Not comparable") && page.contains("15 of 20, unfinished"));
}

#[test]
fn rows_that_were_not_recorded_are_like_no_others() {
    let root = tempfile::tempdir().unwrap();
    let mut candidates = two_setups(root.path());
    for candidate in &mut candidates[..2] {
        candidate.held_out = None;
    }
    let comparison = Comparison::new(&candidates).unwrap();
    let letters: Vec<&str> = comparison.runs.iter().map(|run| &*run.held_out).collect();
    assert_eq!(letters, ["unknown 1", "unknown 2", "A", "A", "A", "A"]);

    // They make no set-up of their own. Known rows do.
    let rows = |rows: &str| BTreeMap::from([("rows of data (train)".to_owned(), rows.to_owned())]);
    candidates[2].data = rows("5 rows");
    let comparison = Comparison::new(&candidates).unwrap();
    assert_eq!(comparison.setups[0].runs, [0, 1, 2]);
    candidates[1].data = rows("6 rows");
    let comparison = Comparison::new(&candidates).unwrap();
    assert_eq!(comparison.setups.len(), 3);
    let rows = &comparison.differences["rows of data (train)"];
    assert_eq!(
        rows[..2],
        [Some("6 rows".to_owned()), Some("5 rows".to_owned())]
    );
}

#[test]
fn a_folder_without_a_recipe_is_no_run() {
    let root = tempfile::tempdir().unwrap();
    let error = Comparison::new(&[candidate(root.path(), 0, "none")]).unwrap_err();
    let message = error.to_string();
    assert!(
        message.contains("recipe.toml") && message.contains(&*root.path().to_string_lossy()),
        "{message}"
    );
}

#[test]
fn the_page_needs_nothing_from_elsewhere_and_escapes_names() {
    let root = tempfile::tempdir().unwrap();
    let mut candidates = two_setups(root.path());
    candidates[0]
        .recipe
        .insert("init.text".to_owned(), "\"<b>\"".to_owned());
    candidates[0].name = "<i>".to_owned();
    let comparison = Comparison::new(&candidates).unwrap();
    let page = comparison.page();
    assert!(page.starts_with("<!DOCTYPE html>") && page.contains("default-src 'none'"));
    assert!(!page.contains("<b>\"") && !page.contains("<i>") && page.contains("&lt;i&gt;"));
    for other in ["src=", "url(", "@import", "<link"] {
        assert!(!page.contains(other), "{other}");
    }
    let links = page.match_indices("href=\"");
    for (at, found) in links {
        assert!(page[at + found.len()..].starts_with('#'));
    }
    for said in [
        "in − cross",
        "by samples",
        "by time",
        "model.fusion.levels",
        "mean recall",
    ] {
        assert!(page.contains(said), "{said}");
    }
    let table = comparison.table();
    assert!(
        table.contains("in − cross") && table.contains("±"),
        "{table}"
    );
}

#[test]
fn names_of_setups_are_what_runs_have_in_common() {
    for (names, expected) in [
        (&["tiny-a-seed0", "tiny-a-seed1"][..], "tiny-a"),
        (&["tiny3_seed_10", "tiny3_seed_12"], "tiny3"),
        (&["run", "run-2"], "run"),
        (&["a", "b"], ""),
        (&["é0", "é1"], "é"),
        (&["alone-seed0"], "alone-seed0"),
    ] {
        assert_eq!(common(names), expected, "{names:?}");
    }
}

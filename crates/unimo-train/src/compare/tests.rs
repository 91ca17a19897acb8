//! Which folders are compared, and what is said of those that are no runs.

use super::*;
use crate::run::RunFolder;

fn begun(folder: &Path, set: &[&str]) {
    let overrides = Overrides {
        data: None,
        set: set.iter().map(|set| (*set).to_owned()).collect(),
    };
    let recipe = Recipe::load("unimo3-tiny", &overrides).unwrap();
    RunFolder::create(folder, &recipe).unwrap();
}

#[test]
fn folders_of_runs_are_taken_apart_and_others_are_said() {
    let root = tempfile::tempdir().unwrap();
    let at = |name: &str| root.path().join(name);
    begun(&at("sweep/b"), &[]);
    begun(&at("sweep/a"), &["seed=1"]);
    std::fs::create_dir(at("sweep/other")).unwrap();
    begun(&at("alone"), &["model.fusion.levels=none"]);
    let comparison = compare(&[at("sweep"), at("alone"), at("sweep/a")]).unwrap();
    let names: Vec<&str> = comparison.runs.iter().map(|run| &*run.name).collect();
    assert_eq!(names, ["a", "b", "alone"]);
    assert_eq!(comparison.setups.len(), 2);
    let keys: Vec<&String> = comparison.differences.keys().collect();
    assert_eq!(keys, ["model.fusion.levels"]);
    assert_eq!(
        (
            comparison.runs[0].steps,
            comparison.runs[0].samples_per_step
        ),
        (600, 32)
    );
    let notes = comparison.notes.join("\n");
    for said in [
        "other: is no run, and is passed over",
        "is named twice",
        "a: there is no fingerprint.json",
        "b: has no line of metrics.jsonl yet",
    ] {
        assert!(notes.contains(said), "{said}: {notes}");
    }
}

#[test]
fn what_is_no_run_is_named_and_nothing_is_compared() {
    let root = tempfile::tempdir().unwrap();
    let at = |name: &str| root.path().join(name);
    begun(&at("run"), &[]);
    std::fs::create_dir(at("empty")).unwrap();
    std::fs::write(at("file"), "").unwrap();
    let error = compare(&[at("run"), at("empty"), at("file"), at("absent")]).unwrap_err();
    let error = error.to_string();
    for said in [
        "empty: is no run and holds none",
        "file: is no run, but a file",
        "absent: there is no such",
    ] {
        assert!(error.contains(said), "{said}: {error}");
    }
    assert!(!error.contains("/run:"), "{error}");
}

#[test]
fn a_key_that_an_older_version_left_out_does_not_differ_from_its_default() {
    let root = tempfile::tempdir().unwrap();
    let at = |name: &str| root.path().join(name);
    begun(&at("new"), &[]);
    begun(&at("old"), &["seed=1"]);
    let path = at("old").join("recipe.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    let kept: Vec<&str> = text
        .lines()
        .filter(|line| !line.starts_with("prefetch"))
        .collect();
    assert!(kept.len() < text.lines().count());
    std::fs::write(&path, kept.join("\n")).unwrap();
    let comparison = compare(&[at("new"), at("old")]).unwrap();
    assert_eq!(comparison.setups.len(), 1, "{:?}", comparison.differences);
    // A recipe that cannot be read is compared as it stands.
    std::fs::write(&path, "seed = 1\n[train]\nsteps = 3\nflux = 2\n").unwrap();
    let comparison = compare(&[at("new"), at("old")]).unwrap();
    assert!(comparison.differences.contains_key("train.flux"));
    assert!(
        comparison
            .notes
            .iter()
            .any(|note| note.contains("cannot read its recipe"))
    );
}

#[test]
fn names_are_as_long_as_they_must_be() {
    let paths = ["/x/a/run", "/x/b/run", "/x/b/other"].map(PathBuf::from);
    assert_eq!(names(&paths), ["a/run", "b/run", "b/other"]);
    assert_eq!(names(&paths[1..]), ["run", "other"]);
}

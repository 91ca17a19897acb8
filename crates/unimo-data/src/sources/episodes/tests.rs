use std::fs;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;
use crate::sources::fixtures::{assert_rejected, folder, message, open};
use crate::sources::houses::{Houses, HousesConfig};
use crate::walks::{WalkConfig, made};

/// An episode that goes ahead by 4 m from 1, -2, at 5 points.
fn episode(id: &str) -> Value {
    let path: Vec<_> = (0..5)
        .map(|at| json!([1.0, 0.2, 2.0 - f64::from(at)]))
        .collect();
    json!({
        "episode_id": id,
        "scene_id": "mp3d/a/a.glb",
        "start_position": [1.0, 0.2, 2.0],
        "start_rotation": [0.0, 0.0, 0.0, 1.0],
        "goals": [{ "position": [1.0, 0.2, -2.0], "radius": 3.0 }],
        "instruction": { "instruction_text": "Go  straight on." },
        "reference_path": path,
    })
}

fn files(episodes: &[Value]) -> TempDir {
    let text = json!({ "episodes": episodes, "instruction_vocab": {} }).to_string();
    folder(&[("e.json", &text)])
}

const PLAIN: &str = "source = \"episodes\"\n[episodes]\ntrain = [\"e.json\"]\nval_fraction = 0.0\n";

fn config() -> WalkConfig {
    WalkConfig {
        cells: 20,
        cell: 0.5,
        world: 40,
        reach: 4.0,
        ..WalkConfig::default()
    }
}

#[test]
fn without_frames_there_are_instructions_and_paths() {
    let folder = files(&[episode("7")]);
    let source = open(&folder, PLAIN).unwrap();
    assert_eq!(
        source.captions(Split::Train, 0).unwrap(),
        ["Go straight on."]
    );
    assert!(
        source
            .notes()
            .iter()
            .any(|note| note.contains("see nothing"))
    );
    let offers = source.offers().walks.unwrap();
    assert_eq!((offers.paths, offers.classes), (true, 0));
    let recorded = source.walk(Split::Train, 0).unwrap().unwrap();
    let walks = made(&*recorded, &config()).unwrap();
    // 16 steps of 0.25 m: decisions at 0, 3, ..., 15 and 16.
    assert_eq!(walks.steps, [7]);
    assert!(
        walks
            .maps
            .iter()
            .chain(&walks.views)
            .all(|level| *level == 0)
    );
    let targets = walks.targets.unwrap();
    // 4 cells of 0.5 m ahead, where half of the map is 5 m.
    assert_eq!(targets.waypoints[0], [0.0, 0.4]);
    assert_eq!(targets.waypoints[6], [0.0, 0.0]);
    assert_eq!((targets.progress[0], targets.progress[6]), (0.0, 1.0));
    assert!((targets.progress[1] - 0.75 / 4.0).abs() < 1e-6);
    assert_eq!(targets.class_count, 0);
}

#[test]
fn locations_beside_the_file_are_the_path() {
    let folder = files(&[episode("7")]);
    let locations =
        json!({ "7": { "locations": [[1.0, 0.0, 2.0], [3.0, 0.0, 2.0]], "actions": [1] } });
    fs::write(folder.path().join("e_gt.json"), locations.to_string()).unwrap();
    let source = open(&folder, PLAIN).unwrap();
    assert!(source.notes().iter().any(|note| note.contains("e_gt.json")));
    let path = source
        .walk(Split::Train, 0)
        .unwrap()
        .unwrap()
        .path(0)
        .unwrap();
    // Then on to the goal.
    assert_eq!(path, [[1.0, -2.0], [3.0, -2.0], [1.0, 2.0]]);
}

#[test]
fn bad_rows_are_set_aside_with_their_number() {
    let with = |key: &str, value: Value| {
        let mut row = episode(key);
        row[key.split('-').next().unwrap()] = value;
        row
    };
    let folder = files(&[
        episode("1"),
        with("start_position", json!([1.0, null, 2.0])),
        with("start_position-2", json!([1.0, 2.0])),
        with("start_rotation", json!([0.0, 0.0, 0.0, 0.0])),
        with("instruction", json!({ "instruction_text": "  " })),
        with("reference_path", json!([[0.0, 0.0, 0.0], [0.0, "x", 0.0]])),
        episode("1"),
        episode("../up"),
        with("goals", json!([{ "position": [1.0, 2.0, null] }])),
        json!(7),
    ]);
    // NaN, as Python writes it.
    let path = folder.path().join("e.json");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replacen("[1.0,null,2.0]", "[1.0, NaN, 2.0]", 1)).unwrap();
    let source = open(&folder, PLAIN).unwrap();
    assert_eq!(source.len(Split::Train), 1);
    assert_rejected(
        &*source,
        &[
            ("e.json", 2, "start_position: [1, no number, 2]"),
            ("e.json", 3, "start_position: [1, 2]"),
            ("e.json", 4, "start_rotation: [0, 0, 0, 0]"),
            ("e.json", 5, "instruction_text is empty"),
            ("e.json", 6, "expected f64"),
            ("e.json", 7, "a second episode with the id 1"),
            ("e.json", 8, "episode_id \"../up\""),
            ("e.json", 9, "goals[0].position"),
            ("e.json", 10, "invalid type"),
        ],
    );
}

#[test]
fn episodes_that_are_too_short_or_too_long_are_counted() {
    let mut long = episode("2");
    long["reference_path"] = json!([[1.0, 0.2, 90.0]]);
    let mut still = episode("3");
    still["reference_path"] = json!([]);
    still["goals"] = json!([{ "position": [1.0, 0.2, 2.0] }]);
    let folder = files(&[episode("1"), long, still]);
    let source = open(&folder, PLAIN).unwrap();
    let counts = source.left_out();
    assert_eq!(counts["less than 25 steps"], 1);
    assert_eq!(counts["more than 200 steps"], 1);
    assert!(
        source
            .notes()
            .iter()
            .any(|note| note.contains("2 episodes left out"))
    );
}

#[test]
fn a_file_that_is_none_says_so() {
    let folder = folder(&[("e.json", "[]"), ("t.json.gz", "")]);
    assert!(message(open(&folder, PLAIN)).contains("episodes"));
    let packed = PLAIN.replace("e.json", "t.json.gz");
    assert!(message(open(&folder, &packed)).contains("gunzip"));
    let empty = files(&[]);
    assert!(message(open(&empty, PLAIN)).contains("no episode"));
}

#[test]
fn an_episode_that_leaves_the_map_says_where() {
    let folder = files(&[episode("1")]);
    let source = open(&folder, PLAIN).unwrap();
    let recorded = source.walk(Split::Train, 0).unwrap().unwrap();
    let narrow = WalkConfig {
        cells: 8,
        world: 8,
        ..config()
    };
    let error = made(&*recorded, &narrow).unwrap_err().reason;
    assert!(
        error.contains("step 8") && error.contains("leaves the map"),
        "{error}"
    );
}

/// Two written episodes, and the houses that they are of.
fn written() -> (TempDir, Houses) {
    let houses = Houses::new(HousesConfig {
        seed: 3,
        train: 1,
        val: 1,
        paths: 1,
        sides: [32, 36],
        rooms: [2, 3],
        size: 16,
        ..HousesConfig::default()
    });
    let folder = folder(&[]);
    for split in [Split::Train, Split::Val] {
        let names = Houses::classes();
        let count = writing::write(&houses, split, folder.path(), &names, &mut |_| {}).unwrap();
        assert_eq!(count, 1);
    }
    (folder, houses)
}

const WRITTEN: &str = "source = \"episodes\"\n[episodes]\ntrain = [\"train.json\"]\nval = [\"val.json\"]\nframes = \"frames\"\n";

#[test]
fn what_is_written_is_read_back() {
    let (folder, houses) = written();
    let source = open(&folder, WRITTEN).unwrap();
    let config = WalkConfig {
        world: 80,
        ..config()
    };
    for split in [Split::Train, Split::Val] {
        assert_eq!(source.captions(split, 0), houses.captions(split, 0));
        let own = made(&*houses.walk(split, 0).unwrap().unwrap(), &config).unwrap();
        let read = made(&*source.walk(split, 0).unwrap().unwrap(), &config).unwrap();
        assert_eq!(own.steps, read.steps);
        // Depths are rounded to millimetres, so a pixel at the edge of a cell may be in the next.
        let same = |a: &[u8], b: &[u8]| {
            let equal = a
                .iter()
                .zip(b)
                .filter(|(a, b)| a.abs_diff(**b) <= 1)
                .count();
            equal as f64 / a.len() as f64
        };
        assert!(same(&own.maps, &read.maps) > 0.98);
        assert!(same(&own.views, &read.views) > 0.999);
        let (own, read) = (own.targets.unwrap(), read.targets.unwrap());
        assert_eq!(
            (own.classes, own.class_count),
            (read.classes, read.class_count)
        );
        // Beside its path, an agent of the houses knows the shortest way; one of a file goes back to the path. The agent is never far from it.
        let mean = |a: &[f32], b: &[f32]| {
            let sum: f32 = a.iter().zip(b).map(|(a, b)| (a - b).abs()).sum();
            sum / a.len() as f32
        };
        let (a, b) = (own.waypoints.as_flattened(), read.waypoints.as_flattened());
        assert!(mean(a, b) < 0.1, "{}", mean(a, b));
        let (a, b) = (&own.progress, &read.progress);
        assert!(mean(a, b) < 0.1, "{}", mean(a, b));
        assert_eq!((a[0], b[0]), (0.0, 0.0));
    }
    assert_eq!(source.offers().walks, houses.offers().walks);
}

#[test]
fn damaged_frames_are_named() {
    let damaged = |change: fn(&Path), words: &[&str]| {
        let (folder, _) = written();
        change(&folder.path().join("frames/train-000000"));
        let source = open(&folder, WRITTEN).unwrap();
        let error = source
            .walk(Split::Train, 0)
            .map(|walk| made(&*walk.unwrap(), &config()));
        let error = error.unwrap().unwrap_err().reason;
        assert!(words.iter().all(|word| error.contains(word)), "{error}");
    };
    damaged(
        |at| fs::remove_file(at.join("rgb/003.png")).unwrap(),
        &["rgb/003.png"],
    );
    damaged(
        |at| fs::remove_file(at.join("depth/003.png")).unwrap(),
        &["depth/003.png"],
    );
    damaged(
        |at| fs::write(at.join("rgb/001.png"), "no image").unwrap(),
        &["rgb/001.png"],
    );
    damaged(
        |at| {
            fs::copy(at.join("rgb/001.png"), at.join("depth/001.png")).unwrap();
        },
        &["depth/001.png", "16 bits"],
    );
    for level in [0, u16::MAX] {
        let blind =
            image::ImageBuffer::<image::Luma<u16>, _>::from_pixel(16, 16, image::Luma([level]));
        let (folder, _) = written();
        blind
            .save(folder.path().join("frames/train-000000/depth/002.png"))
            .unwrap();
        let source = open(&folder, WRITTEN).unwrap();
        let recorded = source.walk(Split::Train, 0).unwrap().unwrap();
        let error = made(&*recorded, &config()).unwrap_err().reason;
        assert!(
            error.contains("depth/002.png") && error.contains("no pixel has a depth"),
            "{error}"
        );
    }
    damaged(
        |at| {
            image::RgbImage::new(8, 16)
                .save(at.join("rgb/004.png"))
                .unwrap();
        },
        &["rgb/004.png", "8 × 16 pixels"],
    );
    damaged(
        |at| {
            image::GrayImage::from_pixel(4, 4, image::Luma([99]))
                .save(at.join("semantic/ground.png"))
                .unwrap();
        },
        &["ground.png", "class 99"],
    );
}

#[test]
fn a_damaged_record_is_set_aside_when_the_list_is_read() {
    let damaged = |change: fn(&Path), words: &str| {
        let (folder, _) = written();
        change(&folder.path().join("frames/train-000000"));
        let source = open(&folder, WRITTEN).unwrap();
        assert_rejected(&*source, &[("train.json", 1, words)]);
        assert_eq!(source.len(Split::Val), 1);
    };
    damaged(|at| fs::remove_dir_all(at).unwrap(), "pose.json");
    damaged(
        |at| fs::write(at.join("pose.json"), "{").unwrap(),
        "pose.json",
    );
    let poses = |change: fn(&mut Value)| {
        let (folder, _) = written();
        let path = folder.path().join("frames/train-000000/pose.json");
        let mut value: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        change(&mut value);
        fs::write(&path, value.to_string()).unwrap();
        let source = open(&folder, WRITTEN).unwrap();
        source.rejected()[0].reason.clone()
    };
    assert!(poses(|all| all["poses"] = json!([])).contains("no steps"));
    assert!(
        poses(|all| all["poses"][3]["position"][0] = Value::Null).contains("poses[3].position")
    );
    assert!(poses(|all| all["depth"] = json!(0.0)).contains("depth 0"));
    assert!(poses(|all| all["camera"]["height"] = json!(0)).contains("camera"));
}

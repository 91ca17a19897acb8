//! `unimo data`, called as from a shell.

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use image::{Rgb, RgbImage};

fn unimo(folder: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_unimo"))
        .args(arguments)
        .current_dir(folder)
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn picture(path: &Path, shade: u8) {
    RgbImage::from_pixel(9, 7, Rgb([shade, 255 - shade, 90]))
        .save(path)
        .unwrap();
}

/// Images `0.png` to `9.png` and a list that spells their splits in the usual ways; one image has two files.
fn list(folder: &Path) {
    let mut rows = String::new();
    let splits = [
        "train",
        "Train",
        "TRAIN",
        "val",
        "validation",
        "test",
        "dev",
        "valid",
        "test2015",
        "extra",
    ];
    for (number, split) in (0u8..).zip(splits) {
        // The last image of the test split is also trained on.
        let shade = if number == 8 { 0 } else { number };
        picture(&folder.join(format!("{number}.png")), 20 * shade);
        rows += &format!(
            "{{\"image\": \"{number}.png\", \"caption\": \"caption {number}\", \"split\": \"{split}\"}}\n"
        );
    }
    fs::write(folder.join("list.jsonl"), rows).unwrap();
}

#[test]
fn verify_finds_leaks_between_three_splits_and_its_clean_list_is_read_again() {
    let folder = tempfile::tempdir().unwrap();
    list(folder.path());
    let verify = |data: &str, more: &[&str]| {
        let given = [&["data", "verify", "--data", data], more].concat();
        unimo(folder.path(), &given)
    };
    let found = verify("list.jsonl", &["--clean", "clean.jsonl"]);
    let said = text(&found.stdout);
    assert!(found.status.success(), "{said}{}", text(&found.stderr));
    for part in [
        "1 rows left out (1 of the split \"extra\")",
        "images trained on and held out: 1",
        "list.jsonl:9\n",
        "8 samples in clean.jsonl",
        "without 0 that are unusable and 1 whose image is also held out (training)",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    let counts = |said: &str| -> Vec<(String, String)> {
        let words = said.lines().map(|line| line.split_whitespace());
        words
            .filter_map(|mut words| Some((words.next()?.to_owned(), words.next()?.to_owned())))
            .filter(|(split, _)| ["train", "val", "test"].contains(&split.as_str()))
            .collect()
    };
    let again = text(&verify("clean.jsonl", &[]).stdout);
    let clean = [("test", "2"), ("train", "2"), ("val", "4")];
    let clean = clean.map(|(split, count)| (split.to_owned(), count.to_owned()));
    assert_eq!(counts(&again), clean, "{again}");
    assert_eq!(counts(&said).len(), 3, "{said}");
    assert!(
        again.contains("images trained on and held out: 0"),
        "{again}"
    );
    let dropped = verify(
        "list.jsonl",
        &["--clean", "less.jsonl", "--drop-duplicates"],
    );
    assert!(text(&dropped.stdout).contains("8 samples in less.jsonl"));

    // The clean list can be read by a recipe's own column names and by the usual ones.
    let renamed = fs::read_to_string(folder.path().join("list.jsonl")).unwrap();
    let renamed = renamed
        .replace("\"caption\":", "\"alt\":")
        .replace("\"image\":", "\"lang\": \"en\", \"file\":");
    fs::write(folder.path().join("renamed.jsonl"), renamed).unwrap();
    let own = [
        "--set",
        "data.pairs.text_columns=alt",
        "--set",
        "data.pairs.image_column=file",
        "--set",
        "data.pairs.filter.lang=en",
    ];
    let found = verify(
        "renamed.jsonl",
        &[&own[..], &["--clean", "own.jsonl"]].concat(),
    );
    assert!(found.status.success(), "{}", text(&found.stderr));
    for settings in [&own[..], &[]] {
        let again = verify("own.jsonl", settings);
        assert_eq!(
            counts(&text(&again.stdout)),
            clean,
            "{}",
            text(&again.stderr)
        );
    }
}

/// The list with own columns and own names of splits, labels and languages.
#[test]
fn the_clean_list_says_train_val_and_test_whatever_a_list_calls_them() {
    let folder = tempfile::tempdir().unwrap();
    let names = ["mytrain", "mytrain", "mydev", "mytest"];
    for column in ["fold", "split"] {
        let rows = (0u8..).zip(names).map(|(number, split)| {
            picture(&folder.path().join(format!("{number}.png")), 20 * number);
            format!(
                "{{\"image\": \"{number}.png\", \"a\": \"a {number}\", \"b\": \"b {number}\", \"la\": \"en\", \"lb\": \"de\", \
                 \"kind\": \"k{number}\", \"{column}\": \"{split}\"}}\n"
            )
        });
        fs::write(folder.path().join("own.jsonl"), rows.collect::<String>()).unwrap();
        let columns = [
            "data.pairs.text_columns=[\"a\", \"b\"]",
            "data.pairs.language_columns=[\"la\", \"lb\"]",
            "data.pairs.label_column=kind",
        ];
        let split_column = format!("data.pairs.split_column={column}");
        let own_names = [
            &*split_column,
            "data.pairs.train_split=mytrain",
            "data.pairs.val_split=mydev",
            "data.pairs.test_split=mytest",
        ];
        let verify = |data: &str, sets: &[&str], more: &[&str]| {
            let sets = sets.iter().flat_map(|set| ["--set", *set]);
            let given = ["data", "verify", "--data", data];
            let given: Vec<&str> = given
                .into_iter()
                .chain(sets)
                .chain(more.iter().copied())
                .collect();
            let output = unimo(folder.path(), &given);
            assert!(output.status.success(), "{}", text(&output.stderr));
            text(&output.stdout)
        };
        let all = [&columns[..], &own_names].concat();
        let said = verify("own.jsonl", &all, &["--clean", "clean.jsonl"]);
        let told = said.contains(
            "read it without data.pairs.train_split, data.pairs.val_split, data.pairs.test_split",
        );
        assert_eq!(told, column == "split", "{said}");
        let clean = fs::read_to_string(folder.path().join("clean.jsonl")).unwrap();
        // A row for each language of a sample.
        let rows: Vec<serde_json::Value> = clean
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        let splits: Vec<&str> = rows
            .iter()
            .map(|row| row["split"].as_str().unwrap())
            .collect();
        let usual = [
            "train", "train", "train", "train", "val", "val", "test", "test",
        ];
        assert_eq!(splits, usual);
        assert_eq!(
            (&rows[1]["caption"][0], &rows[1]["la"], &rows[1]["kind"]),
            (&"b 0".into(), &"de".into(), &"k0".into())
        );
        // It is read without settings, with the columns, and with all that the own list needs where another column holds the own names.
        let mut settings = vec![&[][..], &columns[..]];
        if column == "fold" {
            assert_eq!(rows[7]["fold"], "mytest");
            settings.push(&all);
        }
        for sets in settings {
            let again = verify("clean.jsonl", sets, &[]);
            let found = "2 training images with 4 captions, 1 held out with 2, 1 to test on with 2, 0 rows left out, 0 unusable";
            assert!(again.contains(found), "{sets:?}: {again}");
        }
    }
}

#[test]
fn what_cannot_be_listed_or_used_is_refused_with_an_error_code() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    list(folder.path());
    let failed = |given: &[&str], part: &str| {
        let output = unimo(folder.path(), given);
        let said = text(&output.stderr);
        assert!(
            !output.status.success() && said.contains(part),
            "{part}: {said}"
        );
        assert!(!said.contains("panicked"), "{said}");
    };
    failed(
        &["data", "verify", "--clean", "scenes.jsonl"],
        "cannot be listed",
    );
    assert!(!at("scenes.jsonl").exists());
    fs::create_dir(at("photos")).unwrap();
    picture(&at("photos/a.png"), 3);
    failed(
        &[
            "data",
            "verify",
            "--data",
            "photos",
            "--clean",
            "photos.jsonl",
        ],
        "images without texts",
    );
    fs::write(at("questions.json"), r#"[["what?", "one", "0"]]"#).unwrap();
    failed(
        &[
            "data",
            "verify",
            "--clean",
            "vqa.jsonl",
            "--set",
            "data.source=vqa",
            "--set",
            "data.vqa={ train = { questions = \"questions.json\", images = \".\", image = \"{id}.png\" } }",
        ],
        "do not describe their images",
    );
    let rows = "{\"image\": \"gone.png\", \"caption\": \"a\"}\n{\"image\": \"too.png\", \"caption\": \"b\"}\n";
    fs::write(at("gone.jsonl"), rows).unwrap();
    failed(
        &["data", "verify", "--data", "gone.jsonl"],
        "nothing of it can be used",
    );
}

#[cfg(unix)]
#[test]
fn names_that_are_no_utf_8_are_named_and_nothing_panics() {
    use std::os::unix::ffi::OsStrExt;
    let folder = tempfile::tempdir().unwrap();
    let odd = std::ffi::OsStr::from_bytes(b"odd \xff\xfe.png");
    fs::create_dir(folder.path().join("photos")).unwrap();
    picture(&folder.path().join("photos/good.png"), 3);
    let whole = fs::read(folder.path().join("photos/good.png")).unwrap();
    fs::write(folder.path().join("photos").join(odd), &whole).unwrap();
    let mut rows = b"{\"image\": \"photos/good.png\", \"caption\": \"good\"}\n".to_vec();
    rows.extend(b"{\"image\": \"photos/odd \xff\xfe.png\", \"caption\": \"odd\"}\n");
    fs::write(folder.path().join("list.jsonl"), rows).unwrap();
    for command in ["verify", "stats", "pack"] {
        for data in ["photos", "list.jsonl"] {
            let mut given = vec!["data", command, "--data", data];
            if command == "pack" {
                given.extend(["--out", if data == "photos" { "a" } else { "b" }]);
            }
            let output = unimo(folder.path(), &given);
            let said = text(&output.stderr) + &text(&output.stdout);
            assert!(!said.contains("panicked"), "{command} {data}: {said}");
            if command == "verify" && data == "list.jsonl" {
                assert!(said.contains("list.jsonl:2: not valid UTF-8"), "{said}");
            }
        }
    }
}

#[cfg(unix)]
#[test]
fn a_closed_pipe_ends_quietly() {
    let folder = tempfile::tempdir().unwrap();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = Command::new(env!("CARGO_BIN_EXE_unimo"))
        .args(["recipes"])
        .current_dir(folder.path())
        .stdout(writer)
        .stderr(Stdio::piped())
        .output()
        .unwrap();
    assert_eq!(text(&output.stderr), "");
    // A shell's exit code for a program that SIGPIPE ended.
    assert_eq!(output.status.code(), Some(141));
}

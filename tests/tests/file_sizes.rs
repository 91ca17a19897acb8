//! Files that one reads in a sitting: how long the code of a file is, and where its tests stand.

use std::fs;
use std::path::{Path, PathBuf};

/// Lines of code of one file: neither blank, nor a comment, nor in its module of tests.
const MOST_CODE: usize = 700;

/// Lines of a module of tests inside the file that it tests. A longer one has a file of its own.
const MOST_TESTS: usize = 300;

/// What opens a module of tests at the end of a file.
const TESTS: &str = "#[cfg(test)]\nmod tests {\n";

#[test]
fn files_are_read_in_a_sitting() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut files = Vec::new();
    for entry in fs::read_dir(root.join("crates")).unwrap() {
        rust_files(&entry.unwrap().path().join("src"), &mut files);
    }
    rust_files(&root.join("xtask/src"), &mut files);
    assert!(
        files.len() > 300,
        "{} files: the sources are not where they were",
        files.len()
    );
    let found: Vec<String> = files
        .iter()
        .filter(|file| !file.ends_with("tests.rs"))
        .flat_map(|file| {
            let text = fs::read_to_string(file).unwrap().replace("\r\n", "\n");
            let name = file.strip_prefix(root).unwrap().display();
            too_long(&text)
                .into_iter()
                .map(move |what| format!("{name}: {what}"))
        })
        .collect();
    assert!(found.is_empty(), "{found:#?}");
}

/// What is too long in a file.
fn too_long(text: &str) -> Vec<String> {
    let (code, tests) = text.split_once(TESTS).unwrap_or((text, ""));
    let lines = code
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with("//"))
        .count();
    let tests = tests.lines().count();
    let mut found = Vec::new();
    if lines > MOST_CODE {
        found.push(format!(
            "{lines} lines of code, and {MOST_CODE} are allowed: which part is a file of its own?"
        ));
    }
    if tests > MOST_TESTS {
        found.push(format!(
            "{tests} lines of tests, and {MOST_TESTS} are allowed: move them to tests.rs"
        ));
    }
    found
}

fn rust_files(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            rust_files(&path, files);
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            files.push(path);
        }
    }
}

#[test]
fn long_files_are_found() {
    let code = "fn a() {}\n".repeat(MOST_CODE);
    let aside = "// A comment.\n\n".repeat(100);
    assert!(too_long(&format!("{code}{aside}")).is_empty());
    let one_more = too_long(&format!("{code}{aside}fn b() {{}}\n"));
    assert!(
        one_more.len() == 1 && one_more[0].starts_with("701 lines of code"),
        "{one_more:?}"
    );
    let short = "    a();\n".repeat(MOST_TESTS - 1);
    assert!(too_long(&format!("{code}{TESTS}{short}}}\n")).is_empty());
    let long = too_long(&format!("{code}{TESTS}{short}    a();\n}}\n"));
    assert!(
        long.len() == 1 && long[0].starts_with("301 lines of tests"),
        "{long:?}"
    );
}

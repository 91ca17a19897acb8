//! `docs/TUTORIAL.md` does what it says: its commands are run in order, as a shell runs them, in a folder of their own.
//!
//! What is changed is that a program named `unimo` stands before the real one and asks for less: [`FEWER`] images, and [`SHORTER`] runs.

#![cfg(unix)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

/// Images that are made in the place of thousands.
const FEWER: &str = "--train 60 --val 16 --size 64";

/// Settings of each training, after its own.
const SHORTER: [&str; 6] = [
    "train.steps=4",
    "train.batch_size=8",
    "train.eval_every=2",
    "train.log_every=1",
    "eval.gallery=4",
    "data.workers=1",
];

/// Files that the page's commands write, by which they are known to have done their work.
const WRITTEN: [&str; 12] = [
    "scenes/clean.jsonl",
    "stats.html",
    "show.html",
    "runs/cross/report.html",
    "runs/in-layer/report.html",
    "compare.html",
    "runs/levels/compare.html",
    "runs/frozen/features",
    "found.html",
    "pictures.safetensors",
    "explain.html",
    "my-model/README.md",
];

/// The blocks of a page whose fence says `sh`.
fn blocks(page: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut open: Option<String> = None;
    for line in page.lines() {
        match (&mut open, line) {
            (None, "```sh") => open = Some(String::new()),
            (Some(_), "```") => found.extend(open.take()),
            (Some(block), line) => *block += &format!("{line}\n"),
            (None, _) => {}
        }
    }
    found
}

/// A program named `unimo` that runs the real one with less to do.
fn shorter(folder: &Path) {
    let set = SHORTER.map(|set| format!(" --set '{set}'")).concat();
    let in_file = SHORTER.map(|set| format!("\"{set}\"")).join(", ");
    let script = format!(
        "#!/bin/sh\n\
         case \"$1 $2\" in\n\
         'data scenes') exec \"$REAL\" data scenes --out \"$4\" {FEWER} ;;\n\
         train\\ *) exec \"$REAL\" \"$@\"{set} ;;\n\
         sweep\\ *) sed -i.long 's/^set = \\[\"train.steps.*/set = [{in_file}]/' \"$2\" ;;\n\
         esac\n\
         exec \"$REAL\" \"$@\"\n"
    );
    let path = folder.join("unimo");
    fs::write(&path, script).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn every_command_of_the_tutorial_does_what_it_says() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/TUTORIAL.md");
    let blocks = blocks(&fs::read_to_string(page).unwrap());
    let commands = blocks.iter().flat_map(|block| block.lines());
    let commands = commands.filter(|line| line.starts_with("unimo ")).count();
    // A page whose fences were written otherwise would be passed over in silence.
    assert!(
        commands > 15,
        "{commands} commands in {} blocks",
        blocks.len()
    );

    let folder = tempfile::tempdir().unwrap();
    let programs = tempfile::tempdir().unwrap();
    shorter(programs.path());
    let path = std::env::var("PATH").unwrap_or_default();
    for block in &blocks {
        let output = Command::new("sh")
            .args(["-eu", "-c", block])
            .current_dir(folder.path())
            .env("PATH", format!("{}:{path}", programs.path().display()))
            .env("REAL", env!("CARGO_BIN_EXE_unimo"))
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{block}\n{}\n{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }
    for file in WRITTEN {
        assert!(folder.path().join(file).exists(), "{file} was not written");
    }
}

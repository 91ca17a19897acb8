//! Files that a command is to write, checked before its work: none of them replaces what it reads, a file of a model, or another of them.

use std::collections::BTreeSet;
use std::io::Read;
use std::path::{Path, PathBuf};

use image::ImageFormat;
use unimo_data::{is_parquet, is_tar};

use crate::error::TrainError;
use crate::run::CHECKPOINTS;

/// Checks the files that a command is to write, against the files that it `reads` and the folders of its `models`.
///
/// # Errors
///
/// A folder does not exist, or as of [`replace_nothing`].
pub(crate) fn check(
    outs: &[Option<&Path>],
    reads: &[Option<&Path>],
    models: &[&Path],
) -> Result<(), TrainError> {
    for path in outs.iter().flatten() {
        if let Some(folder) = path.parent()
            && !folder.as_os_str().is_empty()
            && !folder.is_dir()
        {
            return Err(TrainError::Check(format!(
                "{} cannot be written: there is no folder {}",
                path.display(),
                folder.display()
            )));
        }
    }
    replace_nothing(outs, reads, models)
}

/// As [`check`], where folders that are not there are made.
///
/// # Errors
///
/// One of them would replace a file that the command reads or one of a model, or two of them are the same.
pub(crate) fn replace_nothing(
    outs: &[Option<&Path>],
    reads: &[Option<&Path>],
    models: &[&Path],
) -> Result<(), TrainError> {
    let mut seen: BTreeSet<PathBuf> = BTreeSet::new();
    for path in outs.iter().flatten() {
        let folder = match path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        let whole = folder.canonicalize().unwrap_or_else(|_| folder.to_owned());
        let whole = path
            .file_name()
            .map_or(whole.clone(), |name| whole.join(name));
        if !seen.insert(whole) {
            return Err(TrainError::Check(format!(
                "{} cannot be written: it is named twice, for two of the files that this command writes",
                path.display()
            )));
        }
        let of_run = |folder: &Path| {
            let run = folder.parent();
            folder.file_name().is_some_and(|name| name == CHECKPOINTS)
                && run.is_some_and(|run| run.join("recipe.toml").is_file())
        };
        if folder.canonicalize().is_ok_and(|folder| of_run(&folder)) {
            return Err(TrainError::Check(format!(
                "{} cannot be written: among the checkpoints of a run only checkpoints may lie; give another name",
                path.display()
            )));
        }
        let Ok(there) = path.canonicalize() else {
            continue;
        };
        let refused = |reason: String| {
            Err(TrainError::Check(format!(
                "{} cannot be written: it is there, {reason}; give another name",
                path.display()
            )))
        };
        // A list may name it, and no command writes any of these.
        if let Some(kind) = kind_of_data(&there) {
            return refused(format!("and is {kind}"));
        }
        for read in reads.iter().flatten() {
            if would_replace_read(&there, read) {
                return refused(format!("and {} is read by this command", read.display()));
            }
        }
        for model in models {
            if let Ok(model) = model.canonicalize()
                && would_replace_part(&there, &model)
            {
                return refused(format!("in the model's folder {}", model.display()));
            }
        }
    }
    Ok(())
}

/// What a file of data is that is no result of a command, by its first bytes; `None` for others.
fn kind_of_data(path: &Path) -> Option<&'static str> {
    let mut start = Vec::new();
    let file = std::fs::File::open(path).ok()?;
    file.take(START).read_to_end(&mut start).ok()?;
    let image = matches!(
        image::guess_format(&start),
        Ok(ImageFormat::Jpeg
            | ImageFormat::Png
            | ImageFormat::WebP
            | ImageFormat::Gif
            | ImageFormat::Tiff)
    );
    if image {
        Some("an image")
    } else if is_tar(&start) {
        Some("a tar file")
    } else if is_parquet(&start) {
        Some("a Parquet file")
    } else {
        None
    }
}

/// As many bytes of a file as tell its kind: a header of a tar file.
const START: u64 = 512;

/// Kinds of files that results are, and neither images nor weights nor descriptions of a model.
const RESULTS: [&str; 5] = ["html", "jsonl", "npy", "csv", "svg"];

/// What a run itself writes of these kinds.
const RUN_FILES: [&str; 7] = [
    "metrics.jsonl",
    "evals.jsonl",
    "evaluations.jsonl",
    "captions.jsonl",
    "sessions.jsonl",
    "skipped.jsonl",
    "report.html",
];

/// Whether a file is one that a command reads, or lies in a folder that it reads and is no result.
fn would_replace_read(there: &Path, read: &Path) -> bool {
    let Ok(full) = read.canonicalize() else {
        return false;
    };
    let embeddings = there.extension().is_some_and(|kind| kind == "safetensors");
    there == full || (there.starts_with(&full) && !is_result(there) && !embeddings)
}

/// Whether a file is part of the model in a folder.
fn would_replace_part(there: &Path, model: &Path) -> bool {
    // A stage with data of its own has a list of what it skipped.
    let of_stage = |name: &Path| name.to_string_lossy().starts_with("skipped-");
    let of_run =
        |name: &Path| RUN_FILES.iter().any(|file| Path::new(file) == name) || of_stage(name);
    there
        .strip_prefix(model)
        .is_ok_and(|name| !is_result(there) || name.components().count() > 1 || of_run(name))
}

fn is_result(path: &Path) -> bool {
    let kind = path.extension().and_then(|kind| kind.to_str());
    kind.is_some_and(|kind| RESULTS.contains(&kind))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_read_is_not_written() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::fs::create_dir_all(at("run/checkpoints")).unwrap();
        std::fs::create_dir(at("photos")).unwrap();
        for name in [
            "list.jsonl",
            "photos/a.png",
            "photos/found.jsonl",
            "run/checkpoints/step-00000001.safetensors",
            "run/recipe.toml",
            "run/metrics.jsonl",
            "run/answers.jsonl",
        ] {
            std::fs::write(at(name), "").unwrap();
        }
        let model = at("run");
        let (list, photos) = (at("list.jsonl"), at("photos"));
        let check = |name: &str| {
            let reads = [Some(list.as_path()), Some(photos.as_path())];
            replace_nothing(&[Some(&at(name))], &reads, &[&model])
        };
        for name in [
            "list.jsonl",
            "photos/../list.jsonl",
            "photos/a.png",
            "run/checkpoints/step-00000001.safetensors",
            "run/recipe.toml",
            "run/metrics.jsonl",
        ] {
            let message = check(name).unwrap_err().to_string();
            assert!(message.contains("give another name"), "{message}");
        }
        let nowhere = at("nowhere/new.jsonl");
        assert!(super::check(&[Some(&nowhere)], &[], &[]).is_err());
        replace_nothing(&[Some(&nowhere)], &[], &[]).unwrap();
        for name in [
            "new.jsonl",
            "photos/found.jsonl",
            "photos/b.png",
            "run/answers.jsonl",
        ] {
            check(name).unwrap();
        }
    }

    /// What only a list names, or nothing that the command knows.
    #[test]
    fn data_and_checkpoints_are_not_written_over() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let picture = image::RgbImage::new(2, 2);
        picture.save(at("a.png")).unwrap();
        std::fs::rename(at("a.png"), at("a.json")).unwrap();
        std::fs::write(at("b.parquet"), b"PAR1....").unwrap();
        let mut tar = vec![0; 600];
        tar[257..262].copy_from_slice(b"ustar");
        std::fs::write(at("c.tar"), tar).unwrap();
        std::fs::create_dir_all(at("run/checkpoints")).unwrap();
        std::fs::write(at("run/recipe.toml"), "").unwrap();
        for (name, reason) in [
            ("a.json", "an image"),
            ("b.parquet", "a Parquet file"),
            ("c.tar", "a tar file"),
            ("run/checkpoints/new.json", "only checkpoints"),
        ] {
            let error = check(&[Some(&at(name))], &[], &[]).unwrap_err().to_string();
            assert!(error.contains(reason), "{error}");
        }
        std::fs::write(at("d.json"), "{}").unwrap();
        check(&[Some(&at("d.json"))], &[], &[]).unwrap();
    }

    #[test]
    fn one_file_does_not_replace_another_of_the_same_command() {
        let folder = tempfile::tempdir().unwrap();
        let (one, other) = (folder.path().join("a.html"), folder.path().join("b.json"));
        check(&[Some(&one), Some(&other), None], &[], &[]).unwrap();
        let twice = folder.path().join(".").join("a.html");
        let error = check(&[Some(&one), None, Some(&twice)], &[], &[]).unwrap_err();
        assert!(error.to_string().contains("twice"), "{error}");
        std::fs::write(&one, "").unwrap();
        let error = check(&[Some(&one)], &[Some(&one)], &[]).unwrap_err();
        assert!(
            error.to_string().contains("read by this command"),
            "{error}"
        );
        // A file of a run is none of the results of another command.
        let run = folder.path().join("run");
        std::fs::create_dir(&run).unwrap();
        std::fs::write(run.join("recipe.toml"), "").unwrap();
        let recipe = run.join("recipe.toml");
        let error = check(&[Some(&recipe)], &[], &[&run]).unwrap_err();
        assert!(error.to_string().contains("the model's folder"), "{error}");
    }
}

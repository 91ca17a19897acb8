//! The report of a training run: one HTML file that shows everything the run folder holds and needs nothing else.
//!
//! [`render`] reads the folder (the structs are in [`record`](crate::record)) and makes a page of it: a summary, loss and accuracy
//! curves, learning rate and throughput, retrieval against chance, gates as heat maps, a gallery of held-out images, skipped
//! items and the resolved recipe. Images are inside the file, style and script too; a content security policy in the page
//! forbids every request, so the file can be mailed or archived as it is. Only `recipe.toml` has to exist: the report shows
//! what there is, also of a run that is still going or was killed.

use std::io;
use std::path::{Path, PathBuf};

use maud::html;
use thiserror::Error;

use crate::page::{Section, document};
use crate::record::RunFolder;
use crate::sections::files::{recipe, skipped};
use crate::sections::gates::gates;
use crate::sections::grad_cam::grad_cam;
use crate::sections::key_words::key_words;
use crate::sections::losses::{dynamics, losses};
use crate::sections::patches::patches;
use crate::sections::pictures::{codes, gallery, phrases};
use crate::sections::predictions::predictions;
use crate::sections::retrieval::retrieval;
use crate::sections::scores::scores;
use crate::sections::stories::stories;
use crate::sections::walks::walks;
use crate::summary::{header, plain, problems, summary};

#[cfg(test)]
mod tests;

/// Why a run has no report.
#[derive(Debug, Error)]
pub enum ReportError {
    /// The folder holds no recipe.
    #[error("{} is not a run folder: there is no recipe.toml in it (a training run writes one when it starts)", .0.display())]
    NotARun(PathBuf),
    /// The recipe could not be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What went wrong.
        source: io::Error,
    },
}

/// The report of the run in the folder `run`, as HTML.
///
/// Files that cannot be read and lines that are damaged are left out and named in the report.
///
/// # Errors
/// The folder has no readable `recipe.toml`.
pub fn render(run: &Path) -> Result<String, ReportError> {
    Ok(page(run, read(run)?))
}

/// What of the files in a run's folder is damaged and left out of its report, a line each.
///
/// # Errors
/// The folder has no readable `recipe.toml`.
pub fn damaged(run: &Path) -> Result<Vec<String>, ReportError> {
    let folder = read(run)?;
    let torn = folder.torn.iter();
    let torn = torn.map(|file| format!("the last line of {file} breaks off and is left out"));
    Ok(folder.problems.iter().cloned().chain(torn).collect())
}

/// All that the folder holds.
///
/// # Errors
/// The folder has no readable `recipe.toml`.
pub(crate) fn read(run: &Path) -> Result<RunFolder, ReportError> {
    RunFolder::read(run).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => {
            ReportError::NotARun(run.to_owned())
        }
        _ => ReportError::Read {
            path: run.join("recipe.toml"),
            source,
        },
    })
}

fn page(run: &Path, mut folder: RunFolder) -> String {
    let gallery = gallery(run, &mut folder);
    let codes = codes(run, &mut folder);
    let patches = patches(run, &mut folder);
    let phrases = phrases(run, &mut folder);
    let predictions = predictions(run, &mut folder);
    let grad_cam = grad_cam(run, &mut folder);
    let sections: Vec<Section> = [
        losses(&folder),
        retrieval(&folder),
        scores(&folder),
        predictions,
        grad_cam,
        folder.gates.as_ref().and_then(gates),
        codes,
        patches,
        folder.key_words.as_ref().and_then(key_words),
        folder.stories.as_ref().and_then(stories),
        folder.walks.as_ref().and_then(walks),
        phrases,
        gallery,
        dynamics(&folder),
        skipped(&folder),
        Some(recipe(&folder)),
    ]
    .into_iter()
    .flatten()
    .collect();

    let folder_name = || {
        run.canonicalize()
            .ok()
            .and_then(|path| Some(path.file_name()?.to_string_lossy().into_owned()))
    };
    let name = folder
        .facts
        .get("name")
        .map(plain)
        .filter(|name| !name.is_empty())
        .or_else(folder_name)
        .unwrap_or_else(|| "run".to_owned());
    let body = html! {
        (header(&name, &folder, &sections))
        main {
            (problems(&folder))
            (summary(&folder))
            @for section in &sections { (section.to_html()) }
        }
    };
    document(&format!("{name} – unimo run report"), "", &body)
}

//! The report of a run, written into its folder.

use std::path::{Path, PathBuf};

use unimo_data::atomic;

use crate::error::TrainError;

/// Name of the report in the run folder.
pub const FILE_NAME: &str = "report.html";

/// Writes the report of the run in the folder `run` to `report.html` in it, and returns its path. The file is written completely or
/// not at all.
///
/// # Errors
///
/// The folder has no readable `recipe.toml`, or the report cannot be written; an earlier report is unchanged.
pub fn write(run: &Path) -> Result<PathBuf, TrainError> {
    let page = unimo_report::render(run)?;
    let path = run.join(FILE_NAME);
    match atomic::write(&path, page.as_bytes()) {
        Ok(()) => Ok(path),
        Err(source) => Err(TrainError::File {
            action: "write",
            path,
            source,
        }),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_report_is_replaced_whole() {
        let run = tempfile::tempdir().unwrap();
        fs::write(run.path().join("recipe.toml"), "a = 1\n").unwrap();
        fs::write(run.path().join(FILE_NAME), "old").unwrap();
        assert_eq!(write(run.path()).unwrap(), run.path().join(FILE_NAME));
        let mut names: Vec<_> = fs::read_dir(run.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        names.sort();
        assert_eq!(names, ["recipe.toml", FILE_NAME]);
        let page = fs::read_to_string(run.path().join(FILE_NAME)).unwrap();
        assert!(page.ends_with("</html>"));
    }
}

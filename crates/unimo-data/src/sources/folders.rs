//! Files in folders, at any depth.

use std::collections::{HashSet, VecDeque};
use std::path::{Path, PathBuf};

use crate::error::DataError;
use crate::sources::left_out::LeftOut;
use crate::store::paths::{foreign_picture, is_hidden};

/// What a folder holds.
pub(crate) struct Found {
    /// Paths inside the folder, in the order of their names.
    pub files: Vec<PathBuf>,
    /// Files that look like wanted ones but are left out.
    pub left_out: LeftOut,
}

/// Whether the file may be the caption of an image beside it.
fn is_text(path: &Path) -> bool {
    let extension = path.extension();
    extension.is_some_and(|e| e.eq_ignore_ascii_case("txt") || e.eq_ignore_ascii_case("caption"))
}

/// Whether the file may be a list that names the images beside it.
fn is_list(path: &Path) -> bool {
    let extension = path.extension();
    extension.is_some_and(|found| {
        ["jsonl", "json", "csv", "tsv"]
            .iter()
            .any(|e| found.eq_ignore_ascii_case(e))
    })
}

/// Whether following a link failed because its target does not exist.
fn leads_nowhere(error: &std::io::Error) -> bool {
    use std::io::ErrorKind;
    /// `ELOOP`: links that lead to each other. The standard library has no stable name for it yet.
    const LOOP: i32 = if cfg!(target_os = "linux") { 40 } else { 62 };
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
        || error.raw_os_error() == Some(LOOP)
}

/// Files of a folder that satisfy `wanted`. Hidden files and folders are left out. Links to folders are followed; each folder is
/// visited once, however many links lead to it.
///
/// # Errors
///
/// A folder cannot be read.
pub(crate) fn files_in(folder: &Path, wanted: &dyn Fn(&Path) -> bool) -> Result<Found, DataError> {
    let mut found = Found {
        files: Vec::new(),
        left_out: LeftOut::new("files"),
    };
    let mut seen = HashSet::new();
    let mut folders = vec![PathBuf::new()];
    // A folder that lies inside is known by its own name, so links come last.
    let mut links = VecDeque::new();
    while let Some(inside) = folders.pop().or_else(|| links.pop_front()) {
        let path = folder.join(&inside);
        let io = |error| DataError::file("read", &path, error);
        if !seen.insert(std::fs::canonicalize(&path).map_err(io)?) {
            found
                .left_out
                .add("links to folders that are looked through already");
            continue;
        }
        let entries: std::io::Result<Vec<_>> = std::fs::read_dir(&path).map_err(io)?.collect();
        let mut entries = entries.map_err(io)?;
        entries.sort_unstable_by_key(std::fs::DirEntry::file_name);
        for entry in entries {
            let inside = inside.join(entry.file_name());
            let kind = entry.file_type().map_err(io)?;
            let hidden = is_hidden(&entry.file_name().to_string_lossy());
            // The target of a link; `None` if it does not exist. A target that could not be inspected is an error: it would
            // otherwise be missing silently.
            let target = match std::fs::metadata(entry.path()) {
                Ok(target) => Some(target),
                Err(error) if hidden || (kind.is_symlink() && leads_nowhere(&error)) => None,
                Err(error) => return Err(io(error)),
            };
            let is_folder = target.as_ref().is_some_and(std::fs::Metadata::is_dir);
            if hidden {
                if is_folder || wanted(&inside) {
                    found.left_out.add("hidden or of the system");
                }
            } else if kind.is_dir() {
                folders.push(inside);
            } else if is_folder {
                links.push_back(inside);
            } else if wanted(&inside) {
                match target {
                    Some(target) if target.is_file() => found.files.push(inside),
                    Some(_) => found.left_out.add("that are no regular files"),
                    None => found.left_out.add("links that lead nowhere"),
                }
            } else if let Some(format) = foreign_picture(&inside) {
                found
                    .left_out
                    .add(format!(".{format}, a format that is not read"));
            } else if is_text(&inside) {
                found
                    .left_out
                    .add("texts, which a list of pairs has to name beside their images");
            } else if is_list(&inside) {
                found.left_out.add(
                    "lists, each of which can be given instead of the folder if it names images",
                );
            }
        }
    }
    found.files.sort_unstable();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sources::fixtures::folder;
    use crate::store::paths::is_picture;

    #[test]
    fn what_is_left_out_is_counted() {
        let folder = folder(&[
            ("a/0.jpg", "1x1"),
            ("a/1.JPEG", "1x1"),
            ("a/2.jfif", "1x1"),
            ("a/._0.jpg", "of macOS"),
            (".thumbnails/0.jpg", "1x1"),
            ("__MACOSX/a/._1.jpg", "of macOS"),
            ("@eaDir/0.jpg", "1x1"),
            ("Thumbs.db", "x"),
            (".DS_Store", "x"),
            ("b/3.HEIC", "x"),
            ("b/4.gif", "x"),
            ("b/5.gif", "x"),
            ("b/notes.txt", "x"),
            ("Metadata.JSONL", "x"),
        ]);
        let found = files_in(folder.path(), &is_picture).unwrap();
        let expected = ["a/0.jpg", "a/1.JPEG", "a/2.jfif"].map(PathBuf::from);
        assert_eq!(found.files, expected);
        assert_eq!(
            found.left_out.to_string(),
            "9 files left out (4 hidden or of the system, 2 .gif, a format that is not read, 1 .heic, a format that is not read, \
             1 lists, each of which can be given instead of the folder if it names images, \
             1 texts, which a list of pairs has to name beside their images)"
        );
    }

    #[cfg(unix)]
    #[test]
    fn links_are_followed_and_lead_in_no_circles() {
        use std::os::unix::fs::symlink;
        let outside = folder(&[("2.png", "1x1"), ("deep/3.png", "1x1")]);
        let folder = folder(&[("a/1.png", "1x1")]);
        let root = folder.path();
        symlink(root, root.join("a/up")).unwrap();
        symlink(outside.path(), root.join("linked")).unwrap();
        symlink(outside.path(), root.join("linked_again")).unwrap();
        symlink(root, outside.path().join("deep/back")).unwrap();
        symlink(root.join("a/1.png"), root.join("0.png")).unwrap();
        symlink(root.join("nothing"), root.join("b.png")).unwrap();
        symlink(root.join("c.png"), root.join("c.png")).unwrap();
        let found = files_in(root, &is_picture).unwrap();
        let expected = ["0.png", "a/1.png", "linked/2.png", "linked/deep/3.png"].map(PathBuf::from);
        assert_eq!(found.files, expected);
        assert_eq!(
            found.left_out.to_string(),
            "5 files left out (3 links to folders that are looked through already, 2 links that lead nowhere)"
        );
    }
}

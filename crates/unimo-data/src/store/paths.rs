//! Paths of images as written in lists.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// An image's path as written on this machine: Windows separators become `/`, unless a file with the original name exists.
pub(crate) fn spelled(root: &Path, name: &str) -> String {
    if cfg!(windows) || !name.contains('\\') || root.join(name).exists() {
        name.to_owned()
    } else {
        name.replace('\\', "/")
    }
}

/// The file named by a list in (or about) the folder `root`: a path, relative to `root` unless it is absolute, or a `file://` URL.
///
/// # Errors
///
/// It names no local file: another kind of URL, or a Windows drive.
pub fn resolve(root: &Path, name: &str) -> Result<PathBuf, String> {
    if let Some(rest) = name.strip_prefix("file:") {
        return of_url(name, rest);
    }
    if name.contains("://") {
        return Err(format!("image {name}: only local files are read"));
    }
    let path = root.join(spelled(root, name));
    let elsewhere = has_drive(name) || name.starts_with(r"\\");
    if cfg!(not(windows)) && elsewhere && !path.exists() {
        return Err(format!(
            "image {name}: a path of Windows, which this machine does not have; give paths relative to the list"
        ));
    }
    Ok(path)
}

/// Whether a name begins with `C:\` or `C:/`.
fn has_drive(name: &str) -> bool {
    let mut bytes = name.bytes();
    bytes
        .next()
        .is_some_and(|letter| letter.is_ascii_alphabetic())
        && bytes.next() == Some(b':')
        && matches!(bytes.next(), Some(b'\\' | b'/'))
}

/// Parses what follows `file:` (RFC 8089): a path with no host or this machine as host, with bytes as `%20`.
fn of_url(name: &str, rest: &str) -> Result<PathBuf, String> {
    let path = match rest.strip_prefix("//") {
        None => rest,
        Some(behind) => {
            let (host, _) = behind.split_once('/').unwrap_or((behind, ""));
            if !(host.is_empty() || host == "localhost") {
                return Err(format!("image {name}: a file of another machine"));
            }
            &behind[host.len()..]
        }
    };
    let drive = path.strip_prefix('/').filter(|path| has_drive(path));
    if drive.is_some() && cfg!(not(windows)) {
        return Err(format!(
            "image {name}: a path of Windows, which this machine does not have; give paths relative to the list"
        ));
    }
    let path = drive.unwrap_or(path);
    if path.is_empty() {
        return Err(format!("image {name}: a URL without a path"));
    }
    let mut bytes = Vec::new();
    let mut left = path.as_bytes();
    while let Some((byte, rest)) = left.split_first() {
        let digits = rest
            .get(..2)
            .and_then(|digits| std::str::from_utf8(digits).ok());
        let coded = digits
            .filter(|digits| *byte == b'%' && digits.bytes().all(|b| b.is_ascii_hexdigit()))
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        bytes.push(coded.unwrap_or(*byte));
        left = if coded.is_some() { &rest[2..] } else { rest };
    }
    String::from_utf8(bytes)
        .map(PathBuf::from)
        .map_err(|_| format!("image {name}: a path that is not UTF-8"))
}

/// An image's path within its folder, preceded by the folder's own name if there are several folders.
pub(crate) fn name_within<'a>(
    path: &Path,
    folders: impl Iterator<Item = &'a Path>,
) -> Option<String> {
    let folders: BTreeSet<&Path> = folders.collect();
    let folder = folders.iter().find(|folder| path.starts_with(folder))?;
    let inside = path.strip_prefix(folder).ok()?;
    let name = match folders.len() {
        1 => inside.to_owned(),
        _ => Path::new(folder.file_name()?).join(inside),
    };
    Some(name.to_str()?.to_owned())
}

/// Extensions of supported image files.
const PICTURES: [&str; 7] = ["jpg", "jpeg", "jpe", "jfif", "pjpeg", "png", "webp"];
/// Extensions of unsupported image files.
const FOREIGN: [&str; 13] = [
    "gif", "bmp", "dib", "tif", "tiff", "heic", "heif", "avif", "jxl", "jp2", "svg", "ico", "psd",
];

/// Whether a path has an image extension.
pub fn is_picture(path: &Path) -> bool {
    ends_in(path, &PICTURES).is_some()
}

/// The extension of an unsupported image file, in lower case; `None` for other files.
pub(crate) fn foreign_picture(path: &Path) -> Option<&'static str> {
    ends_in(path, &FOREIGN)
}

fn ends_in(path: &Path, known: &[&'static str]) -> Option<&'static str> {
    let extension = path.extension()?;
    known
        .iter()
        .find(|known| extension.eq_ignore_ascii_case(known))
        .copied()
}

/// Whether a file or folder with this name is not part of the data set: hidden ones, and those that macOS, Windows and storage
/// devices add.
pub(crate) fn is_hidden(name: &str) -> bool {
    const OF_SYSTEMS: [&str; 6] = [
        "__MACOSX",
        "@eaDir",
        "$RECYCLE.BIN",
        "System Volume Information",
        "Thumbs.db",
        "desktop.ini",
    ];
    // `.` and `..` are ordinary folders.
    (name.starts_with('.') && !name.trim_matches('.').is_empty())
        || OF_SYSTEMS
            .iter()
            .any(|system| name.eq_ignore_ascii_case(system))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_to_files() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        std::fs::create_dir(root.join("img")).unwrap();
        for name in ["img/0.jpg", "a b.jpg"] {
            std::fs::write(root.join(name), "").unwrap();
        }
        let found = |name: &str| resolve(root, name).unwrap();
        assert_eq!(found("img/0.jpg"), root.join("img/0.jpg"));
        assert!(found("img\\0.jpg").is_file());
        assert_eq!(spelled(root, "img\\1.jpg"), "img/1.jpg");
        let url = format!("file://{}/a%20b.jpg", root.display());
        assert!(found(&url).is_file());
        assert!(found(&url.replace("file://", "file:")).is_file());
        assert!(found(&url.replace("file://", "file://localhost")).is_file());
        for (name, part) in [
            ("http://e.org/1.jpg", "only local files"),
            ("s3://b/1.jpg", "only local files"),
            ("file://server/1.jpg", "another machine"),
            ("file://", "without a path"),
        ] {
            let reason = resolve(root, name).unwrap_err();
            assert!(reason.contains(part) && reason.contains(name), "{reason}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn names_of_windows_are_told_from_names_with_backslashes() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        std::fs::write(root.join("odd\\name.jpg"), "").unwrap();
        assert_eq!(spelled(root, "odd\\name.jpg"), "odd\\name.jpg");
        for name in [
            "C:\\data\\1.jpg",
            "d:/data/1.jpg",
            "\\\\server\\share\\1.jpg",
            "file:///C:/1.jpg",
        ] {
            let reason = resolve(root, name).unwrap_err();
            assert!(reason.contains("Windows"), "{reason}");
        }
    }

    #[test]
    fn what_systems_put_beside_files_is_hidden() {
        for name in [
            ".DS_Store",
            "._0.jpg",
            "__MACOSX",
            "@eaDir",
            "thumbs.db",
            ".git",
        ] {
            assert!(is_hidden(name), "{name}");
        }
        for name in [".", "..", "a.jpg", "_a.jpg", "__a__"] {
            assert!(!is_hidden(name), "{name}");
        }
        assert!(is_picture(Path::new("a/b.JPE")) && !is_picture(Path::new("b.gif")));
        assert_eq!(foreign_picture(Path::new("b.HEIC")), Some("heic"));
        assert_eq!(foreign_picture(Path::new("b.txt")), None);
    }
}

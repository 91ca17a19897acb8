//! Files of runs and of what commands write: whole or not at all, and lists that grow line by line.

use std::fs::{File, OpenOptions};
use std::io::{self, Cursor, Read, Seek, SeekFrom, Write};
use std::path::Path;

use image::{ImageFormat, RgbImage};
use unimo_data::atomic::{self, AtomicFile};

use crate::error::TrainError;

/// Writes a whole file, or nothing.
///
/// # Errors
///
/// The file cannot be written; what was there before is as it was.
pub fn write(path: &Path, content: &[u8]) -> Result<(), TrainError> {
    atomic::write(path, content).map_err(TrainError::file("write", path))
}

/// As [`write()`], of what `fill` writes piece by piece.
///
/// # Errors
///
/// Those of `fill`, and those of [`write()`].
pub fn write_with(
    path: &Path,
    fill: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> Result<(), TrainError> {
    let write = || {
        let mut file = AtomicFile::create(path)?;
        fill(&mut file)?;
        file.commit()
    };
    write().map_err(TrainError::file("write", path))
}

/// As [`write_with`], of what may fail for other reasons than the file.
///
/// # Errors
///
/// Those of `fill`, and those of [`write()`].
pub fn try_write_with(
    path: &Path,
    fill: impl FnOnce(&mut dyn Write) -> Result<(), TrainError>,
) -> Result<(), TrainError> {
    let mut file = AtomicFile::create(path).map_err(TrainError::file("write", path))?;
    fill(&mut file)?;
    file.commit().map_err(TrainError::file("write", path))
}

/// As [`write()`], of a picture in the format that its name says.
///
/// # Errors
///
/// The format is not known, and those of [`write()`].
pub fn write_picture(path: &Path, picture: &RgbImage) -> Result<(), TrainError> {
    let mut bytes = Cursor::new(Vec::new());
    ImageFormat::from_path(path)
        .and_then(|format| picture.write_to(&mut bytes, format))
        .map_err(|error| TrainError::Run {
            path: path.to_owned(),
            reason: error.to_string(),
        })?;
    write(path, bytes.get_ref())
}

/// Adds a line to a list. Processes that add to one list at a time wait for each other; half a line that a kill left is cut
/// off first, and a line for which there is no room leaves the list as it was.
///
/// # Errors
///
/// The file cannot be written.
pub fn append_line(path: &Path, line: &str) -> Result<(), TrainError> {
    let append = || {
        let mut file = OpenOptions::new()
            .create(true)
            .read(true)
            .append(true)
            .open(path)?;
        // A file system without locks takes lines as well.
        let _ = file.lock();
        let end = whole_lines(&mut file)?;
        let written = file.write_all(format!("{line}\n").as_bytes());
        if written.is_err() {
            file.set_len(end)?;
        }
        written
    };
    append().map_err(TrainError::file("write", path))
}

/// Cuts what is behind the last line's end; returns the length that is left.
fn whole_lines(file: &mut File) -> io::Result<u64> {
    let mut end = file.metadata()?.len();
    let length = end;
    let mut byte = [0];
    while end > 0 {
        file.seek(SeekFrom::Start(end - 1))?;
        file.read_exact(&mut byte)?;
        if byte == *b"\n" {
            break;
        }
        end -= 1;
    }
    if end < length {
        file.set_len(end)?;
    }
    Ok(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("list.jsonl");
        append_line(&path, "{\"a\":1}").unwrap();
        let mut text = std::fs::read(&path).unwrap();
        text.extend(b"{\"cut");
        std::fs::write(&path, text).unwrap();
        append_line(&path, "{\"a\":2}").unwrap();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..25 {
                        append_line(&path, "{\"a\":3}").unwrap();
                    }
                });
            }
        });
        let text = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 102);
        assert_eq!(lines[..2], ["{\"a\":1}", "{\"a\":2}"]);
        assert!(lines[2..].iter().all(|line| *line == "{\"a\":3}"));
    }

    #[test]
    fn pictures_are_in_the_format_of_their_name() {
        let folder = tempfile::tempdir().unwrap();
        let picture = RgbImage::from_pixel(3, 2, image::Rgb([9, 8, 7]));
        let path = folder.path().join("a.png");
        write_picture(&path, &picture).unwrap();
        assert_eq!(image::open(&path).unwrap().to_rgb8(), picture);
        assert!(write_picture(&folder.path().join("a.xyz"), &picture).is_err());
    }
}

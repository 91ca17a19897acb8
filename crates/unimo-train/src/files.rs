//! Files of runs and outputs of commands: written completely or not at all, or lists that grow line by line.

use std::fs::{File, OpenOptions};
use std::io::{self, Cursor, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use image::{ImageFormat, RgbImage};
use serde::Serialize;
use unimo_data::atomic::{self, AtomicFile};

use crate::error::TrainError;

/// Writes a file completely or not at all.
///
/// # Errors
///
/// The file cannot be written; an earlier file is unchanged.
pub fn write(path: &Path, content: &[u8]) -> Result<(), TrainError> {
    atomic::write(path, content).map_err(TrainError::file("write", path))
}

/// As [`write()`], with content that `fill` writes piece by piece.
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

/// As [`write_with`], if `fill` may fail for reasons other than the file.
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

/// Where a command writes its results: a file, which is written completely or not at all, or standard output.
pub struct Output {
    target: PathBuf,
    to: To,
}

enum To {
    File(AtomicFile),
    Standard(io::StdoutLock<'static>),
    Nowhere(io::Sink),
}

impl Output {
    /// Begins the file, or takes standard output if none is named.
    ///
    /// # Errors
    ///
    /// The file cannot be created.
    pub fn open(path: Option<&Path>) -> Result<Self, TrainError> {
        Ok(match path {
            Some(path) => Self {
                target: path.to_owned(),
                to: To::File(AtomicFile::create(path).map_err(TrainError::file("create", path))?),
            },
            None => Self {
                target: PathBuf::from("standard output"),
                to: To::Standard(io::stdout().lock()),
            },
        })
    }

    /// Results that are written nowhere, since another rank writes them.
    pub fn nowhere() -> Self {
        Self {
            target: PathBuf::new(),
            to: To::Nowhere(io::sink()),
        }
    }

    /// Writes text.
    ///
    /// # Errors
    ///
    /// It cannot be written.
    pub fn put(&mut self, text: &str) -> Result<(), TrainError> {
        let out: &mut dyn Write = match &mut self.to {
            To::File(file) => file,
            To::Standard(out) => out,
            To::Nowhere(out) => out,
        };
        out.write_all(text.as_bytes())
            .map_err(TrainError::file("write", &self.target))
    }

    /// Ends the output. A file has its name from now on; without this call an earlier file of that name stays as it is.
    ///
    /// # Errors
    ///
    /// It cannot be written.
    pub fn finish(self) -> Result<(), TrainError> {
        match self.to {
            To::File(file) => file.commit(),
            To::Standard(mut out) => out.flush(),
            To::Nowhere(_) => Ok(()),
        }
        .map_err(TrainError::file("write", self.target))
    }
}

/// As [`write()`], for an image in the format that its name says.
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

/// Appends a value to a JSON lines file, as [`append_line`] does.
///
/// # Errors
///
/// The value is no JSON, or the file cannot be written.
pub fn append_json(path: &Path, value: &impl Serialize) -> Result<(), TrainError> {
    let line = serde_json::to_string(value).map_err(|error| TrainError::Run {
        path: path.to_owned(),
        reason: error.to_string(),
    })?;
    append_line(path, &line)
}

/// Appends a line to a list. Processes that append to one list at the same time wait for each other. A partial line that a killed
/// process left is cut off first. If there is no room for the line, the list is unchanged.
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
        // A file system without locks can be written to as well.
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

/// Cuts off what follows the last newline; returns the remaining length.
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

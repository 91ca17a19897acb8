//! One process trains a run at a time.
//!
//! A process that trains a run holds a lock on its file `run.lock`. The system frees it when the process ends in any way, so
//! nothing is left to clean up after a kill. The file stays and names the last holder.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::TrainError;

/// The file in a run's folder.
pub const FILE_NAME: &str = "run.lock";

/// The right to train a run, released when dropped.
#[derive(Debug)]
pub struct RunLock {
    _file: File,
}

/// The holder of the lock.
#[derive(Debug, Serialize, Deserialize)]
struct Holder {
    process: u32,
    host: String,
    since: String,
}

impl RunLock {
    /// Takes the lock of a run's folder.
    ///
    /// # Errors
    ///
    /// Another process holds it, which the error names. Or the folder cannot be written.
    pub fn take(folder: &Path) -> Result<Self, TrainError> {
        let path = folder.join(FILE_NAME);
        let mut file = OpenOptions::new()
            .create(true)
            .read(true)
            .write(true)
            .truncate(false)
            .open(&path)
            .map_err(TrainError::file("open", &path))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(TrainError::Run {
                    path: folder.to_owned(),
                    reason: format!(
                        "{} trains this run; a run has one process at a time. Wait for it, or stop it and go on by --resume",
                        holder(&mut file)
                    ),
                });
            }
            // A run without a lock is better than none, but it is reported.
            Err(TryLockError::Error(error)) => eprintln!(
                "{} cannot be locked ({error}): nothing keeps a second process from this run",
                path.display()
            ),
        }
        let holder = Holder {
            process: std::process::id(),
            host: crate::tensorboard::host(),
            since: crate::clock::now(),
        };
        let text = serde_json::to_string(&holder).unwrap_or_default() + "\n";
        file.set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| file.write_all(text.as_bytes()))
            .map_err(TrainError::file("write", &path))?;
        Ok(Self { _file: file })
    }
}

/// Whether another process trains the run in a folder.
///
/// # Errors
///
/// The lock's file cannot be opened.
pub fn is_taken(folder: &Path) -> Result<bool, TrainError> {
    let path = folder.join(FILE_NAME);
    match File::open(&path) {
        // Freed at once, since the file is closed.
        Ok(file) => Ok(matches!(file.try_lock(), Err(TryLockError::WouldBlock))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(TrainError::file("open", path)(error)),
    }
}

/// The holder of a lock, as far as the file says.
fn holder(file: &mut File) -> String {
    let mut text = String::new();
    let read = file.rewind().and_then(|()| file.read_to_string(&mut text));
    match read.ok().and_then(|_| serde_json::from_str(&text).ok()) {
        Some(Holder {
            process,
            host,
            since,
        }) => format!("another process ({process} on {host}, since {since})"),
        None => "another process".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_holds_it_until_it_ends() {
        let folder = tempfile::tempdir().unwrap();
        let first = RunLock::take(folder.path()).unwrap();
        let error = RunLock::take(folder.path()).unwrap_err().to_string();
        assert!(error.contains(&std::process::id().to_string()), "{error}");
        assert!(error.contains("another process"), "{error}");
        assert!(is_taken(folder.path()).unwrap());
        drop(first);
        assert!(!is_taken(folder.path()).unwrap());
        RunLock::take(folder.path()).unwrap();
    }
}

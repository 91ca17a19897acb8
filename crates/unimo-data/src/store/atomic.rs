//! Files that are written completely or not at all.
//!
//! Everything that this workspace writes for others to read goes through here. A file is filled under a hidden name beside its
//! target, synced and renamed. After a full disk, an error or a kill, the old file is still there. The leftovers of a killed
//! process are removed by the next process that writes into the folder.
//!
//! ```
//! use std::io::Write;
//!
//! let folder = std::env::temp_dir().join(format!("unimo-atomic-{}", std::process::id()));
//! let path = folder.join("notes.txt");
//! let mut file = unimo_data::atomic::AtomicFile::create(&path)?;
//! writeln!(file, "whole")?;
//! assert!(!path.exists());
//! file.commit()?;
//! assert_eq!(std::fs::read_to_string(&path)?, "whole\n");
//! # std::fs::remove_dir_all(&folder)?;
//! # Ok::<(), std::io::Error>(())
//! ```

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use crate::error::DataError;

/// Ending of the hidden names: `.NAME.PROCESS-NUMBER.part`.
const END: &str = ".part";

/// Number of characters of the target's name in the hidden name: names have a limit, often 255 bytes.
const NAME: usize = 60;

/// Number of names tried before giving up. Only files of other machines can occupy a name.
const TRIES: usize = 100;

/// Size of one write to the system, in bytes.
const BUFFER: usize = 256 << 10;

/// Folders that this process has searched for leftovers.
static SWEPT: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

/// Distinguishes the files of one process.
static NUMBER: AtomicU64 = AtomicU64::new(0);

/// A file that gets its name when it is complete. Dropped without [`commit`](Self::commit), it leaves nothing.
#[derive(Debug)]
pub struct AtomicFile {
    out: BufWriter<File>,
    /// `None` if the target is a device or a pipe, which is written to directly.
    temporary: Option<PathBuf>,
    target: PathBuf,
}

impl AtomicFile {
    /// Begins a file; the folder is created if needed. The file's permissions follow the user's umask.
    ///
    /// # Errors
    ///
    /// The folder cannot be written, or the target is a folder.
    pub fn create(target: &Path) -> io::Result<Self> {
        match fs::metadata(target) {
            Ok(about) if about.is_dir() => {
                return Err(io::Error::new(
                    io::ErrorKind::IsADirectory,
                    "a folder has this name",
                ));
            }
            // `--out /dev/stdout` must not be replaced by a file.
            Ok(about) if !about.is_file() => {
                let file = OpenOptions::new().write(true).open(target)?;
                return Ok(Self {
                    out: BufWriter::with_capacity(BUFFER, file),
                    temporary: None,
                    target: target.to_owned(),
                });
            }
            _ => {}
        }
        // A link stays a link; its target is replaced.
        let target = match fs::symlink_metadata(target) {
            Ok(about) if about.is_symlink() => {
                fs::canonicalize(target).unwrap_or_else(|_| target.to_owned())
            }
            _ => target.to_owned(),
        };
        let folder = folder_of(&target);
        fs::create_dir_all(&folder)?;
        sweep_once(&folder)?;
        let (file, temporary) = hidden(&folder, &target)?;
        Ok(Self {
            out: BufWriter::with_capacity(BUFFER, file),
            temporary: Some(temporary),
            target,
        })
    }

    /// Gives the file its name. On return it is on the disk.
    ///
    /// # Errors
    ///
    /// The disk is full or fails; the old file is unchanged.
    pub fn commit(mut self) -> io::Result<()> {
        self.out.flush()?;
        let Some(temporary) = &self.temporary else {
            return Ok(());
        };
        self.out.get_ref().sync_all()?;
        fs::rename(temporary, &self.target)?;
        self.temporary = None;
        // The name itself must survive a power cut. Not every file system allows syncing a folder.
        if let Ok(folder) = File::open(folder_of(&self.target)) {
            let _ = folder.sync_all();
        }
        Ok(())
    }
}

impl Write for AtomicFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.out.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

impl Drop for AtomicFile {
    fn drop(&mut self) {
        if let Some(temporary) = &self.temporary {
            // It is useless and may occupy the space that is missing.
            let _ = fs::remove_file(temporary);
        }
    }
}

/// Writes a complete file, or nothing.
///
/// # Errors
///
/// The file cannot be written; the old file is unchanged.
pub fn write(target: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = AtomicFile::create(target)?;
    file.write_all(bytes)?;
    file.commit()
}

/// Removes half-written files of dead processes from a folder and returns their number. Files of living processes stay.
///
/// # Errors
///
/// The folder cannot be read.
pub fn sweep(folder: &Path) -> io::Result<usize> {
    let mut removed = 0;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        let ours = is_hidden_name(&name.to_string_lossy());
        if !ours || !entry.file_type().is_ok_and(|kind| kind.is_file()) {
            continue;
        }
        let path = entry.path();
        // Its writer holds a lock, which the system releases however the process ends.
        let Ok(file) = OpenOptions::new().write(true).open(&path) else {
            continue;
        };
        if file.try_lock().is_ok() && fs::remove_file(&path).is_ok() {
            removed += 1;
        }
    }
    Ok(removed)
}

/// Writes a complete file, or nothing.
pub(crate) fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), DataError> {
    write(path, bytes).map_err(|error| DataError::file("write", path, error))
}

/// Age after which a half-written file counts as abandoned.
pub(crate) const ABANDONED: Duration = Duration::from_secs(3600);

/// Removes half-written files of killed processes.
pub(crate) fn remove_leftovers(folder: &Path) -> Result<(), DataError> {
    let list = |error| DataError::file("list", folder, error);
    for entry in fs::read_dir(folder).map_err(list)? {
        let path = entry.map_err(list)?.path();
        let is_part = path
            .extension()
            .is_some_and(|extension| extension == "part");
        let changed = || fs::metadata(&path).and_then(|about| about.modified());
        let old = |changed| {
            SystemTime::now()
                .duration_since(changed)
                .is_ok_and(|age| age > ABANDONED)
        };
        if is_part && changed().is_ok_and(old) {
            // Another process may have been faster.
            let _ = fs::remove_file(&path);
        }
    }
    Ok(())
}

/// Sweeps a folder when this process first writes there.
fn sweep_once(folder: &Path) -> io::Result<()> {
    let known = fs::canonicalize(folder)?;
    let mut swept = SWEPT.lock().unwrap_or_else(PoisonError::into_inner);
    if swept.insert(known) {
        // A folder may be writable but not listable.
        let _ = sweep(folder);
    }
    Ok(())
}

fn folder_of(target: &Path) -> PathBuf {
    match target.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
        _ => PathBuf::from("."),
    }
}

/// Whether a name was made by [`hidden`].
fn is_hidden_name(name: &str) -> bool {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    name.strip_prefix('.')
        .and_then(|name| name.strip_suffix(END))
        .and_then(|name| name.rsplit_once('.'))
        .and_then(|(_, numbers)| numbers.split_once('-'))
        .is_some_and(|(process, number)| digits(process) && digits(number))
}

/// A new file beside the target, locked by this process.
fn hidden(folder: &Path, target: &Path) -> io::Result<(File, PathBuf)> {
    let name = target.file_name().unwrap_or_default().to_string_lossy();
    let name: String = name.chars().take(NAME).collect();
    for _ in 0..TRIES {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = folder.join(format!(".{name}.{}-{number}{END}", std::process::id()));
        let file = match OpenOptions::new().write(true).create_new(true).open(&path) {
            Ok(file) => file,
            // A file of a process with this number on another machine, or of a dead one.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
            Err(error) => return Err(error),
        };
        match file.try_lock() {
            // A sweeping process holds the lock while it removes a file. So a file that exists under our lock stays.
            Ok(()) if path.exists() => return Ok((file, path)),
            Ok(()) | Err(TryLockError::WouldBlock) => {}
            // On a file system without locks nothing is swept either.
            Err(TryLockError::Error(_)) => return Ok((file, path)),
        }
    }
    Err(io::Error::new(
        io::ErrorKind::AlreadyExists,
        "no free name for a temporary file",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_is_whole_or_not_there() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new/a.txt");
        write(&path, b"one").unwrap();
        let mut file = AtomicFile::create(&path).unwrap();
        file.write_all(&[0; BUFFER * 2]).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"one");
        assert_eq!(names(path.parent().unwrap()).len(), 2);
        drop(file);
        assert_eq!(names(path.parent().unwrap()), ["a.txt"]);
        let mut file = AtomicFile::create(&path).unwrap();
        file.write_all(b"two").unwrap();
        file.commit().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(names(path.parent().unwrap()), ["a.txt"]);
        assert!(write(folder.path(), b"x").is_err(), "a folder");
    }

    #[cfg(unix)]
    #[test]
    fn permissions_are_those_of_a_plain_file() {
        use std::os::unix::fs::PermissionsExt;

        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("plain"), b"x").unwrap();
        write(&folder.path().join("atomic"), b"x").unwrap();
        let mode = |name: &str| {
            let about = fs::metadata(folder.path().join(name)).unwrap();
            about.permissions().mode() & 0o777
        };
        assert_eq!(mode("atomic"), mode("plain"));
    }

    #[cfg(unix)]
    #[test]
    fn devices_and_links_stay_what_they_are() {
        let folder = tempfile::tempdir().unwrap();
        write(Path::new("/dev/null"), b"x").unwrap();
        assert!(!fs::metadata("/dev/null").unwrap().is_file());
        let (real, link) = (folder.path().join("real"), folder.path().join("link"));
        fs::write(&real, b"one").unwrap();
        std::os::unix::fs::symlink(&real, &link).unwrap();
        write(&link, b"two").unwrap();
        assert_eq!(fs::read(&real).unwrap(), b"two");
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_full_disk_is_an_error() {
        let error = write(Path::new("/dev/full"), b"x").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    }

    #[test]
    fn leftovers_of_the_dead_go_and_those_of_the_living_stay() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        // No process holds a lock on the first two.
        for name in [
            ".a.txt.123-0.part",
            ".step-00000001.safetensors.4000000-17.part",
            "a.part",
            ".a.part",
            ".a.12-x.part",
            ".a.txt.123-0.part.txt",
        ] {
            fs::write(at(name), b"x").unwrap();
        }
        let living = AtomicFile::create(&at("b.txt")).unwrap();
        assert_eq!(sweep(folder.path()).unwrap(), 0, "swept when it was begun");
        let left = names(folder.path());
        assert_eq!(left.len(), 5, "{left:?}");
        assert!(
            left.iter()
                .all(|name| !name.contains("123-0.part") || name.ends_with("txt"))
        );
        living.commit().unwrap();
        assert!(at("b.txt").is_file());
    }

    #[test]
    fn long_names_fit() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x".repeat(250));
        write(&path, b"x").unwrap();
        assert_eq!(names(folder.path()).len(), 1);
    }
}

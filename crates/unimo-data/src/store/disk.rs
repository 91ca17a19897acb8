//! Local files, read in ranges of bytes.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::error::{ReadError, ReadKind, may_pass};
use crate::store::object::Object;

/// Pauses before a local file is tried again, in milliseconds: about four seconds in all.
const PAUSES: [u64; 6] = [10, 50, 200, 500, 1000, 2000];

/// Retries after an error that may pass by itself, such as too many open files or a restarting file server.
pub(crate) fn patiently<T>(mut work: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    for pause in PAUSES {
        match work() {
            Err(error) if may_pass(&error) => std::thread::sleep(Duration::from_millis(pause)),
            done => return done,
        }
    }
    work()
}

/// Folders that were read from most recently, each with one of its files.
static READ_BEFORE: Mutex<VecDeque<(PathBuf, PathBuf)>> = Mutex::new(VecDeque::new());
/// Number of remembered folders; `LOOKED_AT` of them are checked again.
const REMEMBERED: usize = 64;
const LOOKED_AT: usize = 4;

/// The part of a file's path that still exists. It is the same for two files on one missing disk.
fn left(path: &Path) -> Option<&Path> {
    path.ancestors().skip(1).find(|above| above.exists())
}

/// Reads a file that a list names. If it does not exist, the list is damaged. But if files that were read before no longer exist
/// either, their disk or share is missing.
pub(crate) fn read_listed(path: &Path, limit: u64) -> Result<Vec<u8>, ReadError> {
    let before = || READ_BEFORE.lock().unwrap_or_else(PoisonError::into_inner);
    match read_file(path, limit) {
        Ok(bytes) => {
            if let Some(folder) = path.parent() {
                let mut before = before();
                if !before.iter().any(|(known, _)| known == folder) {
                    before.truncate(REMEMBERED - 1);
                    before.push_front((folder.to_owned(), path.to_owned()));
                }
            }
            Ok(bytes)
        }
        Err(error) if error.kind == ReadKind::Missing => {
            let here = left(path);
            let mut others: Vec<PathBuf> = before()
                .iter()
                .filter(|(folder, file)| {
                    here.is_some_and(|h| folder.starts_with(h)) && file != path
                })
                .map(|(_, file)| file.clone())
                .collect();
            others.truncate(LOOKED_AT);
            let gone = |file: &PathBuf| !may_be_file(file) && left(file) == here;
            match others.first() {
                Some(other) if others.iter().all(gone) => Err(ReadError::unavailable(format!(
                    "{}; nor is {} there any more, which was read before",
                    error.reason,
                    other.display()
                ))),
                _ => Err(error),
            }
        }
        Err(error) => Err(error),
    }
}

/// Whether there is a regular file, or may be one: if the system does not say, reading it will give the reason.
pub(crate) fn may_be_file(path: &Path) -> bool {
    match patiently(|| std::fs::metadata(path)) {
        Ok(about) => about.is_file(),
        Err(error) => ReadError::from(error).is_unavailable(),
    }
}

/// Reads a regular file of at most `limit` bytes.
pub(crate) fn read_file(path: &Path, limit: u64) -> Result<Vec<u8>, ReadError> {
    let bytes = patiently(|| {
        // Opening a pipe would wait for a writer, so the file type is checked first.
        if !std::fs::metadata(path)?.is_file() {
            return Err(io::Error::other("not a regular file"));
        }
        let mut bytes = Vec::new();
        File::open(path)?.take(limit + 1).read_to_end(&mut bytes)?;
        Ok(bytes)
    })?;
    if bytes.len() as u64 > limit {
        return Err(format!("the file is larger than {limit} bytes").into());
    }
    Ok(bytes)
}

/// Opens a file. Opening a pipe would wait for a writer, so the file type is checked first.
pub(crate) fn open_regular(path: &Path) -> std::io::Result<File> {
    if !std::fs::metadata(path)?.is_file() {
        return Err(std::io::Error::other("not a regular file"));
    }
    File::open(path)
}

/// A local file. It is opened for every read: a process may not hold thousands of shards open.
#[derive(Debug)]
pub struct LocalFile {
    path: PathBuf,
    name: String,
    size: u64,
    changed: Option<std::time::SystemTime>,
}

impl LocalFile {
    /// The file at `path`.
    ///
    /// # Errors
    ///
    /// It does not exist or is not a regular file; the error does not name it.
    pub fn open(path: &Path) -> Result<Self, ReadError> {
        let name = path.display().to_string();
        let about = patiently(|| std::fs::metadata(path))?;
        // Opening a pipe would wait for a writer.
        if !about.is_file() {
            return Err("not a regular file".into());
        }
        Ok(Self {
            path: path.to_owned(),
            name,
            size: about.len(),
            changed: about.modified().ok(),
        })
    }
}

impl Object for LocalFile {
    fn name(&self) -> &str {
        &self.name
    }

    fn size(&self) -> u64 {
        self.size
    }

    fn version(&self) -> String {
        self.changed
            .map_or_else(String::new, |time| format!("{time:?}"))
    }

    fn read(&self, offset: u64, length: usize) -> Result<Vec<u8>, ReadError> {
        let wrong =
            |reason: &str| format!("{} at byte {offset}, {length} bytes: {reason}", self.name);
        if offset
            .checked_add(length as u64)
            .is_none_or(|end| end > self.size)
        {
            return Err(wrong(&format!("the file has {} bytes", self.size)).into());
        }
        let read = || {
            let file = File::open(&self.path)?;
            let size = file.metadata()?.len();
            if size != self.size {
                return Ok(Err(size));
            }
            let mut bytes = vec![0; length];
            read_exact_at(&file, &mut bytes, offset)?;
            Ok(Ok(bytes))
        };
        match patiently(read) {
            Ok(Ok(bytes)) => Ok(bytes),
            Ok(Err(size)) => Err(ReadError::unavailable(wrong(&format!(
                "the file was changed after it was opened: it has {size} bytes, it had {}",
                self.size
            )))),
            Err(error) => Err(ReadError::from(error).of_opened().told(wrong)),
        }
    }
}

#[cfg(unix)]
fn read_exact_at(file: &File, bytes: &mut [u8], offset: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, bytes, offset)
}

#[cfg(not(unix))]
fn read_exact_at(mut file: &File, bytes: &mut [u8], offset: u64) -> io::Result<()> {
    use std::io::{Seek, SeekFrom};
    file.seek(SeekFrom::Start(offset))?;
    file.read_exact(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::object::{Stream, read_all};
    use crate::store::remote_config::RemoteConfig;
    use crate::store::storage::Storage;

    #[test]
    fn pieces_of_a_file_and_what_is_not_there() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.bin");
        let bytes: Vec<u8> = (0..3_000_000u32).map(|i| (i / 7) as u8).collect();
        std::fs::write(&path, &bytes).unwrap();
        let storage = Storage::new(&RemoteConfig::default());
        let object = storage.open(&path).unwrap();
        assert_eq!(object.size(), bytes.len() as u64);
        assert_eq!(
            object.read(1_234_567, 89).unwrap(),
            bytes[1_234_567..][..89]
        );
        let mut all = Vec::new();
        Stream::new(&*object).read_to_end(&mut all).unwrap();
        assert!(all == bytes && read_all(&*object, 3_000_000).unwrap() == bytes);
        assert!(read_all(&*object, 2_999_999).is_err());

        let error = object.read(2_999_990, 11).unwrap_err();
        assert!(error.reason.contains("a.bin at byte 2999990"), "{error}");
        assert!(!error.is_unavailable(), "{error}");

        // A file that existed when it was opened is not damaged by being replaced or removed.
        std::fs::write(&path, &bytes[1..]).unwrap();
        let error = object.read(0, 1).unwrap_err();
        assert!(
            error.is_unavailable() && error.reason.contains("changed"),
            "{error}"
        );
        std::fs::remove_file(&path).unwrap();
        let error = object.read(0, 1).unwrap_err();
        assert!(
            error.is_unavailable() && error.reason.contains("a.bin"),
            "{error}"
        );
        let error = storage.open(&path).err().unwrap();
        assert!(
            error.kind == ReadKind::Missing && error.reason.starts_with("No such file"),
            "{error}"
        );
        let error = storage.open(folder.path()).err().unwrap();
        assert!(
            error.kind == ReadKind::Damaged && error.reason.contains("regular"),
            "{error}"
        );
    }

    /// Linux error numbers, and what they say about a file.
    #[cfg(target_os = "linux")]
    #[test]
    fn what_the_system_says_of_a_file() {
        for (number, name, kind) in [
            (2, "ENOENT", ReadKind::Missing),
            (20, "ENOTDIR", ReadKind::Missing),
            (21, "EISDIR", ReadKind::Damaged),
            (36, "ENAMETOOLONG", ReadKind::Damaged),
            (40, "ELOOP", ReadKind::Damaged),
            (1, "EPERM", ReadKind::Unavailable),
            (4, "EINTR", ReadKind::Unavailable),
            (5, "EIO", ReadKind::Unavailable),
            (11, "EAGAIN", ReadKind::Unavailable),
            (12, "ENOMEM", ReadKind::Unavailable),
            (13, "EACCES", ReadKind::Unavailable),
            (23, "ENFILE", ReadKind::Unavailable),
            (24, "EMFILE", ReadKind::Unavailable),
            (28, "ENOSPC", ReadKind::Unavailable),
            (107, "ENOTCONN", ReadKind::Unavailable),
            (110, "ETIMEDOUT", ReadKind::Unavailable),
            (116, "ESTALE", ReadKind::Unavailable),
            (121, "EREMOTEIO", ReadKind::Unavailable),
            (122, "EDQUOT", ReadKind::Unavailable),
        ] {
            let error = ReadError::from(io::Error::from_raw_os_error(number));
            assert_eq!(error.kind, kind, "{name}: {error}");
            // Through a decoder and back.
            let wrapped = ReadError::from(io::Error::from(error.clone()));
            assert_eq!(wrapped, error, "{name}");
        }
        // Errors that a decoder itself reports about its input.
        for kind in [io::ErrorKind::UnexpectedEof, io::ErrorKind::InvalidData] {
            let error = ReadError::from(io::Error::new(kind, "corrupt"));
            assert_eq!(error.kind, ReadKind::Damaged);
        }
    }

    /// A file on Linux that gives EIO where nothing is mapped.
    #[cfg(target_os = "linux")]
    #[test]
    fn a_disk_that_gives_an_error_does_not_damage_a_file() {
        let error = read_file(Path::new("/proc/self/mem"), 100).unwrap_err();
        assert!(error.is_unavailable(), "{error}");
    }

    /// A missing image is damage of the list; a missing disk is not damage.
    #[test]
    fn a_folder_that_went_away_is_no_damage() {
        let folder = tempfile::tempdir().unwrap();
        let disk = folder.path().join("disk");
        let (one, two) = (disk.join("a/1.png"), disk.join("b/2.png"));
        for file in [&one, &two] {
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(file, b"x").unwrap();
        }
        let kind = |path: &Path| read_listed(path, 10).err().map(|error| error.kind);
        assert_eq!(kind(&one), None);
        assert_eq!(kind(&disk.join("a/3.png")), Some(ReadKind::Missing));
        let away = folder.path().join("away");
        std::fs::rename(&disk, &away).unwrap();
        // Also as an empty mount point.
        assert_eq!(kind(&two), Some(ReadKind::Unavailable));
        std::fs::create_dir(&disk).unwrap();
        assert_eq!(kind(&two), Some(ReadKind::Unavailable));
        std::fs::remove_dir(&disk).unwrap();
        std::fs::rename(&away, &disk).unwrap();
        assert_eq!(kind(&two), None);
        assert_eq!(kind(&disk.join("b/4.png")), Some(ReadKind::Missing));
    }

    #[test]
    fn what_may_pass_is_tried_again_and_what_may_not_is_not() {
        let tried = |number: i32, good_after: usize| {
            let mut tries = 0;
            let result = patiently(|| {
                tries += 1;
                if tries > good_after {
                    Ok(())
                } else {
                    Err(io::Error::from_raw_os_error(number))
                }
            });
            (tries, result.is_ok())
        };
        // EIO passes after two failures; a missing permission and a missing file do not.
        assert_eq!(tried(5, 2), (3, true));
        assert_eq!(tried(13, 2), (1, false));
        assert_eq!(tried(2, 2), (1, false));
    }
}

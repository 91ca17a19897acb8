//! The list of skipped items.

use std::collections::HashSet;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::error::{DataError, Place, SampleError};
use crate::sources::source::Source;

/// Counts and lists every unusable item once, across threads and resumed runs.
///
/// The file holds one JSON object per line: `file`, `line`, `reason`.
#[derive(Debug)]
pub struct SkipList {
    max_share: f64,
    path: Option<PathBuf>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    known: HashSet<Place>,
    entries: Vec<SampleError>,
    file: Option<File>,
}

/// Longest line that is read from an existing list; a longer one was not written here.
const LONGEST_LINE: u64 = 1 << 20;

impl SkipList {
    /// A list in memory only.
    pub fn in_memory(max_skipped: f64) -> Self {
        Self {
            max_share: max_skipped,
            path: None,
            state: Mutex::default(),
        }
    }

    /// A list in a file, usually `skipped.jsonl` in the run's folder. Items in an existing file count and are not listed again. A
    /// line that a crash cut short is dropped.
    ///
    /// # Errors
    ///
    /// The file cannot be read or written.
    pub fn open(path: impl Into<PathBuf>, max_skipped: f64) -> Result<Self, DataError> {
        let path = path.into();
        let mut state = State::default();
        let mut file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .open(&path)
            .map_err(|error| DataError::file("open", &path, error))?;
        let mut whole = 0;
        let mut reader = BufReader::new(&file);
        let mut line = Vec::new();
        loop {
            line.clear();
            let read = reader
                .by_ref()
                .take(LONGEST_LINE)
                .read_until(b'\n', &mut line)
                .map_err(|error| DataError::file("read", &path, error))?;
            if read == 0 || line.last() != Some(&b'\n') {
                break;
            }
            whole += read as u64;
            if let Ok(entry) = serde_json::from_slice::<SampleError>(&line)
                && state.known.insert(entry.place.clone())
            {
                state.entries.push(entry);
            }
        }
        file.set_len(whole)
            .and_then(|()| file.seek(SeekFrom::End(0)))
            .map_err(|error| DataError::file("write", &path, error))?;
        state.file = Some(file);
        Ok(Self {
            max_share: max_skipped,
            path: Some(path),
            state: Mutex::new(state),
        })
    }

    /// Lists an item unless it is already listed. Returns whether it is new.
    ///
    /// # Errors
    ///
    /// [`DataError::Unavailable`] if the item only could not be read; it is then neither listed nor counted. Or the list's file
    /// cannot be written.
    pub fn add(&self, entry: &SampleError) -> Result<bool, DataError> {
        if entry.is_unavailable() {
            return Err(DataError::unavailable(entry));
        }
        let mut state = self.lock();
        if !state.known.insert(entry.place.clone()) {
            return Ok(false);
        }
        state.entries.push(entry.clone());
        if let (Some(file), Some(path)) = (&mut state.file, &self.path) {
            // One write per line, so that a crash cuts at most the last one.
            let mut line = serde_json::to_string(entry)
                .map_err(|error| DataError::file("write", path, error.into()))?;
            line.push('\n');
            file.write_all(line.as_bytes())
                .map_err(|error| DataError::file("write", path, error))?;
        }
        Ok(true)
    }

    /// Lists the items that a source found unusable when it was opened, and checks the share.
    ///
    /// # Errors
    ///
    /// The file cannot be written, or too much was skipped.
    pub fn adopt(&self, source: &dyn Source) -> Result<(), DataError> {
        for entry in source.rejected() {
            self.add(entry)?;
        }
        self.check(source.items())
    }

    /// Checks that the listed items are not too large a share of `items`, the number of items in the data set.
    ///
    /// # Errors
    ///
    /// [`DataError::TooManySkipped`].
    pub fn check(&self, items: usize) -> Result<(), DataError> {
        let state = self.lock();
        let skipped = state.known.len();
        let share = skipped as f64 / items.max(1) as f64;
        match state.entries.first() {
            Some(first) if share > self.max_share => Err(DataError::TooManySkipped {
                skipped,
                items,
                share,
                allowed: self.max_share,
                first: first.to_string(),
                list: self.path.clone(),
            }),
            _ => Ok(()),
        }
    }

    /// Number of listed items.
    pub fn count(&self) -> usize {
        self.lock().known.len()
    }

    /// The listed items, in order.
    pub fn entries(&self) -> Vec<SampleError> {
        self.lock().entries.clone()
    }

    /// The file, if any.
    pub fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    /// A thread that panicked while it held the lock left at most one item unlisted, so the others continue.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(line: u64) -> SampleError {
        let place = Place {
            file: "list \"a\".jsonl".to_owned(),
            line,
        };
        SampleError::new(place, "zeile\nmit Umbruch")
    }

    #[test]
    fn what_could_only_not_be_read_is_neither_listed_nor_counted() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("skipped.jsonl");
        let list = SkipList::open(&path, 0.0).unwrap();
        let error = std::io::Error::from_raw_os_error(5);
        let error = SampleError::new(entry(1).place, error);
        let refused = list.add(&error).unwrap_err();
        assert!(
            matches!(refused, DataError::Unavailable { .. }),
            "{refused}"
        );
        assert_eq!(list.count(), 0);
        list.check(1).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"");
    }

    #[test]
    fn items_are_listed_once_over_threads_and_runs() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("skipped.jsonl");
        for run in 0..3 {
            let list = SkipList::open(&path, 1.0).unwrap();
            std::thread::scope(|scope| {
                for _ in 0..4 {
                    scope.spawn(|| {
                        for line in 0..20 + run {
                            list.add(&entry(line)).unwrap();
                        }
                    });
                }
            });
            assert_eq!(list.count() as u64, 20 + run);
        }
        let text = std::fs::read_to_string(&path).unwrap();
        let lines: HashSet<_> = text
            .lines()
            .map(|line| serde_json::from_str::<SampleError>(line).unwrap().place)
            .collect();
        assert_eq!((text.lines().count(), lines.len()), (22, 22));
    }

    #[test]
    fn a_line_cut_by_a_crash_is_dropped() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("skipped.jsonl");
        SkipList::open(&path, 1.0).unwrap().add(&entry(1)).unwrap();
        let mut text = std::fs::read(&path).unwrap();
        text.extend(b"{\"file\":\"x");
        std::fs::write(&path, text).unwrap();
        let list = SkipList::open(&path, 1.0).unwrap();
        assert_eq!(list.count(), 1);
        list.add(&entry(2)).unwrap();
        drop(list);
        assert_eq!(
            SkipList::open(&path, 1.0).unwrap().entries(),
            [entry(1), entry(2)]
        );
    }

    #[test]
    fn the_share_is_of_the_whole_data_set() {
        let list = SkipList::in_memory(0.01);
        list.add(&entry(1)).unwrap();
        list.check(100).unwrap();
        list.add(&entry(1)).unwrap();
        list.check(100).unwrap();
        list.add(&entry(2)).unwrap();
        let message = list.check(100).unwrap_err().to_string();
        assert!(
            message.contains("2 of 100") && message.contains("max_skipped"),
            "{message}"
        );
        list.check(200).unwrap();
    }
}

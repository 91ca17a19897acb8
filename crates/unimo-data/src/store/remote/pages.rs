//! The cache: pages of objects. If several threads want a page, one of them fetches it.
//!
//! Not `moka`: it fetches entry by entry, and here one request fetches all missing pages beside each other.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use bytes::Bytes;

use crate::error::ReadError;

/// Page size in bytes. A read of a single sample fetches at most two pages more than needed.
pub(super) const PAGE: u64 = 32 << 10;

/// Number of an object and of a page in it.
type Key = (u64, u64);

pub(super) struct Pages {
    state: Mutex<State>,
    /// Signals that a page came or will not come.
    changed: Condvar,
    most: u64,
}

#[derive(Default)]
struct State {
    pages: HashMap<Key, Page>,
    /// Cached pages, least recently used first.
    by_use: BTreeMap<u64, Key>,
    bytes: u64,
    clock: u64,
    /// The last pages that could not be fetched, with the time and the reason.
    failed: Option<(u64, Range<u64>, Instant, ReadError)>,
}

enum Page {
    /// A thread fetches it.
    Awaited,
    Here {
        bytes: Bytes,
        used: u64,
    },
}

pub(super) enum Found {
    Ready(Bytes),
    /// It is neither cached nor being fetched.
    Absent,
}

/// The right and duty to fill in pages. If dropped without filling, other threads may try.
pub(super) struct Place {
    cache: Arc<Pages>,
    object: u64,
    pages: Range<u64>,
}

impl Pages {
    pub(super) fn new(most: u64) -> Self {
        Self {
            state: Mutex::default(),
            changed: Condvar::new(),
            most,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A page; waits if it is being fetched.
    ///
    /// # Errors
    ///
    /// The page was waited for and could not be fetched. Trying again would double the bound on the wait.
    pub(super) fn get(&self, object: u64, page: u64) -> Result<Found, ReadError> {
        let began = Instant::now();
        let key = (object, page);
        let mut state = self.lock();
        loop {
            state.clock += 1;
            let now = state.clock;
            let State { pages, by_use, .. } = &mut *state;
            match pages.get_mut(&key) {
                Some(Page::Here { bytes, used }) => {
                    by_use.remove(used);
                    by_use.insert(now, key);
                    *used = now;
                    return Ok(Found::Ready(bytes.clone()));
                }
                Some(Page::Awaited) => {
                    state = self
                        .changed
                        .wait(state)
                        .unwrap_or_else(PoisonError::into_inner);
                }
                None => {
                    return match &state.failed {
                        Some((of, pages, at, error))
                            if *of == object && pages.contains(&page) && *at >= began =>
                        {
                            Err(error.clone())
                        }
                        _ => Ok(Found::Absent),
                    };
                }
            }
        }
    }

    /// The right to fetch the pages of a range that are neither cached nor being fetched, run by run.
    pub(super) fn claim(self: &Arc<Self>, object: u64, pages: Range<u64>) -> Vec<Place> {
        let mut state = self.lock();
        let mut places: Vec<Place> = Vec::new();
        for page in pages {
            if state.pages.contains_key(&(object, page)) {
                continue;
            }
            state.pages.insert((object, page), Page::Awaited);
            match places.last_mut() {
                Some(last) if last.pages.end == page => last.pages.end += 1,
                _ => places.push(Place {
                    cache: Arc::clone(self),
                    object,
                    pages: page..page + 1,
                }),
            }
        }
        places
    }

    /// The right to fetch the first page of a range and those that follow, up to one that is cached or being fetched; `None` if the
    /// first page is.
    pub(super) fn claim_from(self: &Arc<Self>, object: u64, pages: Range<u64>) -> Option<Place> {
        let mut state = self.lock();
        let free = pages.clone();
        let free = free.take_while(|page| !state.pages.contains_key(&(object, *page)));
        let end = pages.start + free.count() as u64;
        if end == pages.start {
            return None;
        }
        for page in pages.start..end {
            state.pages.insert((object, page), Page::Awaited);
        }
        Some(Place {
            cache: Arc::clone(self),
            object,
            pages: pages.start..end,
        })
    }
}

impl Place {
    pub(super) fn pages(&self) -> &Range<u64> {
        &self.pages
    }

    /// Fills in the pages. The least recently used pages make room.
    pub(super) fn fill(self, all: &Bytes) {
        let mut state = self.cache.lock();
        for (page, piece) in self.pages.clone().zip(all.chunks(PAGE as usize)) {
            state.clock += 1;
            let used = state.clock;
            // A copy, so that an evicted page frees its memory.
            let bytes = Bytes::copy_from_slice(piece);
            state.bytes += bytes.len() as u64;
            state.by_use.insert(used, (self.object, page));
            let page = (self.object, page);
            state.pages.insert(page, Page::Here { bytes, used });
        }
        while state.bytes > self.cache.most {
            let Some((_, key)) = state.by_use.pop_first() else {
                break;
            };
            if let Some(Page::Here { bytes, .. }) = state.pages.remove(&key) {
                state.bytes -= bytes.len() as u64;
            }
        }
    }

    /// Tells waiting threads why the pages do not come.
    pub(super) fn fail(self, error: &ReadError) {
        let pages = self.pages.clone();
        self.cache.lock().failed = Some((self.object, pages, Instant::now(), error.clone()));
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.cache.lock();
        for page in self.pages.clone() {
            let key = (self.object, page);
            if matches!(state.pages.get(&key), Some(Page::Awaited)) {
                state.pages.remove(&key);
            }
        }
        drop(state);
        self.cache.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(value: u8) -> Bytes {
        Bytes::from(vec![value; PAGE as usize])
    }

    fn ready(pages: &Pages, at: u64) -> Option<u8> {
        match pages.get(0, at).unwrap() {
            Found::Ready(bytes) => Some(bytes[0]),
            Found::Absent => None,
        }
    }

    #[test]
    fn what_was_used_longest_ago_makes_room() {
        let pages = Arc::new(Pages::new(3 * PAGE));
        for at in 0..3 {
            pages
                .claim_from(0, at..at + 1)
                .unwrap()
                .fill(&page(at as u8));
        }
        assert_eq!(ready(&pages, 0), Some(0));
        pages.claim_from(0, 3..4).unwrap().fill(&page(3));
        let there: Vec<_> = (0..4).map(|at| ready(&pages, at)).collect();
        assert_eq!(there, [Some(0), None, Some(2), Some(3)]);
        assert_eq!(pages.lock().bytes, 3 * PAGE);
    }

    #[test]
    fn only_what_is_missing_is_claimed() {
        let pages = Arc::new(Pages::new(100 * PAGE));
        pages.claim_from(0, 2..3).unwrap().fill(&page(2));
        let runs: Vec<_> = pages
            .claim(0, 0..5)
            .iter()
            .map(|p| p.pages.clone())
            .collect();
        assert_eq!(runs, [0..2, 3..5]);
        // They were dropped without being filled.
        let place = pages.claim_from(0, 0..5).unwrap();
        assert_eq!(place.pages, 0..2);
        assert!(pages.claim_from(0, 1..2).is_none());
        drop(place);
        assert!(pages.claim_from(0, 2..5).is_none());
    }

    #[test]
    fn who_waits_is_told_why_nothing_comes_and_who_comes_later_tries() {
        let pages = Arc::new(Pages::new(100 * PAGE));
        let place = pages.claim_from(0, 0..1).unwrap();
        let told = std::thread::scope(|scope| {
            let waits = scope.spawn(|| pages.get(0, 0).map(drop));
            // It waits, or finds the failure afterwards; either way `began` is before it.
            std::thread::sleep(std::time::Duration::from_millis(50));
            place.fail(&ReadError::unavailable("gone"));
            waits.join().unwrap()
        });
        assert_eq!(told.unwrap_err().reason, "gone");
        assert_eq!(ready(&pages, 0), None);
    }
}

//! Decoded pages, kept while there is room: a page holds many images and is decoded as a whole.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arrow_array::{Array, ArrayRef};

use crate::error::ReadError;

/// File, row group and page.
pub(crate) type Key = (usize, usize, usize);

/// The pages.
pub(crate) struct Decoded {
    most: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    slots: HashMap<Key, Slot>,
    bytes: usize,
    clock: u64,
}

struct Slot {
    page: Arc<Mutex<Option<ArrayRef>>>,
    bytes: usize,
    used: u64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Decoded {
    pub(crate) fn new(most: usize) -> Self {
        Self {
            most,
            state: Mutex::default(),
        }
    }

    /// A page. If several threads want it at once, one of them decodes it.
    pub(crate) fn get(
        &self,
        key: Key,
        decode: impl FnOnce() -> Result<ArrayRef, ReadError>,
    ) -> Result<ArrayRef, ReadError> {
        let page = {
            let mut state = lock(&self.state);
            state.clock += 1;
            let used = state.clock;
            let slot = state.slots.entry(key).or_insert_with(|| Slot {
                page: Arc::default(),
                bytes: 0,
                used,
            });
            slot.used = used;
            Arc::clone(&slot.page)
        };
        let mut held = lock(&page);
        if let Some(column) = &*held {
            return Ok(Arc::clone(column));
        }
        let decoded = decode();
        let mut state = lock(&self.state);
        let Ok(column) = &decoded else {
            state.slots.remove(&key);
            return decoded;
        };
        *held = Some(Arc::clone(column));
        let bytes = column.get_array_memory_size();
        // It may have been evicted meanwhile, or decoded by a thread that came later.
        if let Some(slot) = state.slots.get_mut(&key)
            && Arc::ptr_eq(&slot.page, &page)
        {
            slot.bytes = bytes;
            state.bytes += bytes;
        }
        while state.bytes > self.most {
            let full = state.slots.iter().filter(|(_, slot)| slot.bytes > 0);
            let oldest = full.min_by_key(|(_, slot)| slot.used).map(|(key, _)| *key);
            let Some(slot) = oldest.and_then(|key| state.slots.remove(&key)) else {
                break;
            };
            state.bytes -= slot.bytes;
        }
        decoded
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow_array::BinaryArray;
    use std::sync::atomic::{AtomicUsize, Ordering};

    fn page(bytes: usize) -> ArrayRef {
        Arc::new(BinaryArray::from_iter_values([vec![7u8; bytes]]))
    }

    #[test]
    fn pages_are_decoded_once_while_there_is_room() {
        let decoded = Decoded::new(250_000);
        let made = AtomicUsize::new(0);
        let get = |at: usize| {
            let make = || {
                made.fetch_add(1, Ordering::Relaxed);
                Ok(page(100_000))
            };
            decoded.get((0, 0, at), make).unwrap()
        };
        for at in [0, 1, 0, 1, 0] {
            assert_eq!(get(at).len(), 1);
        }
        assert_eq!(made.load(Ordering::Relaxed), 2);
        // There is room for two; page 1 is the least recently used.
        for (at, times) in [(2, 3), (0, 3), (2, 3), (1, 4), (2, 4), (0, 5)] {
            get(at);
            assert_eq!(made.load(Ordering::Relaxed), times, "{at}");
        }
        let state = lock(&decoded.state);
        assert!(state.bytes <= 250_000 && state.slots.len() == 2);
    }

    #[test]
    fn what_cannot_be_decoded_is_tried_again_and_what_is_too_large_is_not_kept() {
        let decoded = Decoded::new(1000);
        let error = decoded
            .get((0, 0, 0), || Err("damaged".into()))
            .unwrap_err();
        assert_eq!(error.reason, "damaged");
        assert_eq!(decoded.get((0, 0, 0), || Ok(page(5000))).unwrap().len(), 1);
        assert!(lock(&decoded.state).slots.is_empty());
        let made = &AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                let decoded = &decoded;
                scope.spawn(move || {
                    let make = || {
                        made.fetch_add(1, Ordering::Relaxed);
                        Ok(page(10))
                    };
                    decoded.get((0, 0, 1), make).unwrap();
                    assert_eq!(made.load(Ordering::Relaxed), 1);
                });
            }
        });
    }
}

//! Texts stored one after another, and items that belong to rows.

use std::collections::HashMap;

/// Texts one after another.
#[derive(Debug, Default)]
pub(super) struct Texts {
    all: String,
    ends: Vec<u64>,
    /// Numbers of texts that repeat often, such as names.
    pub(super) known: HashMap<String, u32>,
    pub(super) full: bool,
}

impl Texts {
    pub(super) fn push(&mut self, text: &str) -> u32 {
        self.all += text;
        self.ends.push(self.all.len() as u64);
        u32::try_from(self.ends.len() - 1).unwrap_or_else(|_| {
            self.full = true;
            0
        })
    }

    pub(super) fn name(&mut self, text: &str) -> u32 {
        if let Some(known) = self.known.get(text) {
            return *known;
        }
        let number = self.push(text);
        self.known.insert(text.to_owned(), number);
        number
    }

    pub(super) fn get(&self, number: u32) -> &str {
        let number = number as usize;
        let start = match number {
            0 => 0,
            _ => self.ends[number - 1],
        };
        &self.all[start as usize..self.ends[number] as usize]
    }
}

/// Items that belong to rows, in any order while they are collected.
#[derive(Debug)]
pub(super) struct Grouped<T> {
    pending: Vec<(u32, T)>,
    starts: Vec<u32>,
    pub(super) items: Vec<T>,
}

impl<T> Default for Grouped<T> {
    fn default() -> Self {
        Self {
            pending: Vec::new(),
            starts: Vec::new(),
            items: Vec::new(),
        }
    }
}

impl<T: Copy> Grouped<T> {
    pub(super) fn push(&mut self, row: u32, item: T) {
        self.pending.push((row, item));
    }

    /// Groups the items by row, in the order in which they came. False if there are too many.
    pub(super) fn finish(&mut self, rows: usize) -> bool {
        let mut pending = std::mem::take(&mut self.pending);
        if u32::try_from(pending.len()).is_err() {
            return false;
        }
        if pending.is_empty() {
            return true;
        }
        pending.sort_by_key(|(row, _)| *row);
        self.starts = vec![0; rows + 1];
        for (row, _) in &pending {
            self.starts[*row as usize + 1] += 1;
        }
        for row in 0..rows {
            self.starts[row + 1] += self.starts[row];
        }
        self.items = pending.into_iter().map(|(_, item)| item).collect();
        true
    }

    pub(super) fn of(&self, row: u32) -> &[T] {
        let row = row as usize;
        match (self.starts.get(row), self.starts.get(row + 1)) {
            (Some(start), Some(end)) => &self.items[*start as usize..*end as usize],
            _ => &[],
        }
    }
}

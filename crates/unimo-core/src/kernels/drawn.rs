//! Random numbers that are drawn once and used twice.
//!
//! A block whose activations are computed again for its backward pass ([`super::recompute`]) must drop the same elements again. While a block runs
//! for the first time, what it draws is noted; while it runs again, it is given the notes in their order. A thread runs one block at a
//! time, so the notes are the thread's own. Outside of [`noting`] and [`again`] every number is drawn as ever.

use std::cell::RefCell;
use std::collections::VecDeque;

use burn::tensor::{Device, Tensor, TensorData};

/// What was drawn at one place.
#[derive(Debug, Clone)]
pub(crate) enum Drawn {
    /// The seed of a mask of dropout.
    Seed(u64),
    /// Which rows of a residual branch are kept, and the shape of the tensor that says so.
    Rows(Vec<f32>, Vec<usize>),
}

#[derive(Default)]
enum Notes {
    #[default]
    None,
    Taken(Vec<Drawn>),
    Given(VecDeque<Drawn>),
}

thread_local! {
    static NOTES: RefCell<Notes> = RefCell::default();
}

/// Runs `run`, and returns what was drawn meanwhile beside its result.
pub(super) fn noting<T>(run: impl FnOnce() -> T) -> (T, Vec<Drawn>) {
    let (result, notes) = with(Notes::Taken(Vec::new()), run);
    match notes {
        Notes::Taken(drawn) => (result, drawn),
        Notes::None | Notes::Given(_) => {
            unreachable!("invariant: `with` gives back what it was given")
        }
    }
}

/// Runs `run` with what was drawn before in the place of new numbers.
pub(super) fn again<T>(drawn: Vec<Drawn>, run: impl FnOnce() -> T) -> T {
    with(Notes::Given(drawn.into()), run).0
}

/// Runs `run` with these notes, and returns them as they are then. Those of before are put back, also where `run` panics.
fn with<T>(notes: Notes, run: impl FnOnce() -> T) -> (T, Notes) {
    struct Back(Option<Notes>);
    impl Drop for Back {
        fn drop(&mut self) {
            if let Some(before) = self.0.take() {
                NOTES.with(|cell| *cell.borrow_mut() = before);
            }
        }
    }
    let mut back = Back(Some(NOTES.with(|cell| cell.replace(notes))));
    let result = run();
    let before = back.0.take().unwrap_or_default();
    let notes = NOTES.with(|cell| cell.replace(before));
    (result, notes)
}

/// What `draw` gives, or what it gave when the block ran first.
///
/// # Panics
///
/// Panics if the block draws otherwise than it did: its code depends on something that has changed.
pub(crate) fn draw(draw: impl FnOnce() -> Drawn) -> Drawn {
    NOTES.with(|cell| match &mut *cell.borrow_mut() {
        Notes::None => draw(),
        Notes::Taken(all) => {
            let drawn = draw();
            all.push(drawn.clone());
            drawn
        }
        Notes::Given(all) => {
            let drawn = all.pop_front();
            drawn.expect("invariant: a block draws the same numbers again")
        }
    })
}

/// Rows that `drawn` chooses, or chose when the block ran first. Outside of a block the tensor is handed on as it is.
///
/// # Shapes
/// - output: as `drawn` gives it
pub(crate) fn rows<const D: usize>(drawn: impl FnOnce() -> Tensor<D>) -> Tensor<D> {
    if NOTES.with(|cell| matches!(*cell.borrow(), Notes::None)) {
        return drawn();
    }
    let mut fresh = None;
    let noted = draw(|| {
        let rows = drawn();
        let values = rows.to_data().convert::<f32>();
        fresh = Some(rows);
        Drawn::Rows(
            values.iter::<f32>().collect(),
            fresh
                .as_ref()
                .map(|r| r.dims().to_vec())
                .unwrap_or_default(),
        )
    });
    match (fresh, noted) {
        (Some(rows), _) => rows,
        (None, Drawn::Rows(values, shape)) => {
            Tensor::from_data(TensorData::new(values, shape), &Device::flex())
        }
        (None, Drawn::Seed(_)) => unreachable!("invariant: a block draws in the same order again"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number() -> u64 {
        match draw(|| Drawn::Seed(7)) {
            Drawn::Seed(seed) => seed,
            Drawn::Rows(..) => 0,
        }
    }

    #[test]
    fn notes_are_given_in_their_order_and_end_with_the_run() {
        let given = vec![Drawn::Seed(1), Drawn::Seed(2), Drawn::Seed(3)];
        let (inner, outer) = again(given, || {
            let first = number();
            // A block within a block has notes of its own.
            let (_, drawn) = noting(number);
            (drawn.len(), [first, number(), number()])
        });
        assert_eq!((inner, outer), (1, [1, 2, 3]));
        assert_eq!(number(), 7);
    }

    #[test]
    fn a_panic_leaves_no_notes() {
        let failed =
            std::panic::catch_unwind(|| again(vec![Drawn::Seed(1)], || panic!("on purpose")));
        assert!(failed.is_err());
        assert_eq!(number(), 7);
    }
}

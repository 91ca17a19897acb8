//! Exchanges that a thread of its own does while the process computes.

use std::io;
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use crate::world::lost::Lost;

/// Something to exchange.
type Work = Box<dyn FnOnce() + Send>;

/// The thread, from the first exchange on that it is given.
#[derive(Debug, Default)]
pub(super) struct Background {
    state: Mutex<State>,
    is_idle: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Exchanges that are not done.
    open: usize,
    thread: Option<(Sender<Work>, JoinHandle<()>)>,
}

impl Background {
    /// Adds work to what the thread does, in the order in which it is given.
    pub fn give(self: &Arc<Self>, work: impl FnOnce() + Send + 'static) -> io::Result<()> {
        let mut state = self.lock();
        let weak = Arc::downgrade(self);
        let work = move || {
            work();
            if let Some(own) = weak.upgrade() {
                own.lock().open -= 1;
                own.is_idle.notify_all();
            }
        };
        if state.thread.is_none() {
            let (sender, given) = mpsc::channel::<Work>();
            let thread = thread::Builder::new().name("unimo-exchange".to_owned());
            let thread = thread.spawn(move || given.into_iter().for_each(|work| work()))?;
            state.thread = Some((sender, thread));
        }
        state.open += 1;
        if let Some((sender, _)) = &state.thread {
            // It has not ended: it does so when the sender is gone.
            let _ = sender.send(Box::new(work));
        }
        Ok(())
    }

    /// Waits until everything is done.
    pub fn wait(&self) {
        let mut state = self.lock();
        while state.open > 0 {
            let waited = self.is_idle.wait(state);
            state = waited.unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// A thread that panicked while it held the lock has only counted.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Background {
    /// The engine is used no more when this is gone.
    fn drop(&mut self) {
        if let Some((sender, thread)) = self.lock().thread.take() {
            drop(sender);
            // What it says has been heard, or nobody waits for it.
            let _ = thread.join();
        }
    }
}

/// What an exchange in the background will give.
#[derive(Debug)]
pub struct Pending<T>(pub(super) Receiver<Result<T, Lost>>, pub(super) Lost);

impl<T> Pending<T> {
    /// Waits for it.
    ///
    /// # Errors
    ///
    /// A rank is lost.
    pub fn wait(self) -> Result<T, Lost> {
        let Self(result, ended) = self;
        // Only a panic ends the thread before.
        result.recv().unwrap_or(Err(ended))
    }
}

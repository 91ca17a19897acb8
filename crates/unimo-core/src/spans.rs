//! Parts of a step by name, for those who want to see where its time goes.
//!
//! Where nobody listens, a part costs the reading of a flag. The crate `tracing` would do as much, but its features differ between builds with
//! and without readers of URLs, so that everything from here on would be built twice.

use std::fmt::{Debug, Display, Formatter};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use burn::tensor::Device;

/// A part that has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    /// What was done.
    pub name: &'static str,
    /// What else is to be known of it: names and values.
    pub fields: Vec<(&'static str, String)>,
    /// From the beginning of [`listen`] until it began.
    pub began: Duration,
    /// How long it took.
    pub took: Duration,
}

/// Gets every part when it ends, from the thread that it ran on.
pub type Listener = Box<dyn FnMut(Span) + Send>;

static LISTENS: AtomicBool = AtomicBool::new(false);
static LISTENER: Mutex<Option<(Instant, Listener)>> = Mutex::new(None);

fn listener() -> MutexGuard<'static, Option<(Instant, Listener)>> {
    LISTENER.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Listens until this is dropped.
#[must_use = "nothing is heard after it is dropped"]
#[derive(Debug)]
pub struct Listening(());

impl Drop for Listening {
    fn drop(&mut self) {
        LISTENS.store(false, Ordering::Relaxed);
        *listener() = None;
    }
}

/// Hands every part of this process to `heard`. `None`: somebody listens already.
pub fn listen(heard: Listener) -> Option<Listening> {
    let mut place = listener();
    if place.is_some() {
        return None;
    }
    *place = Some((Instant::now(), heard));
    LISTENS.store(true, Ordering::Relaxed);
    Some(Listening(()))
}

/// Whether somebody listens.
pub fn is_heard() -> bool {
    LISTENS.load(Ordering::Relaxed)
}

/// A part of a step; it ends when this is dropped. See [`part!`](crate::part).
#[must_use = "a part ends when it is dropped"]
pub struct Part(Option<Begun>);

struct Begun {
    name: &'static str,
    fields: Vec<(&'static str, String)>,
    began: Instant,
    device: Option<Device>,
}

impl Part {
    /// Begins a part. `about` gives its fields, and what it computes on, if it computes.
    pub fn begin(
        name: &'static str,
        about: impl FnOnce() -> (Vec<(&'static str, String)>, Option<Device>),
    ) -> Self {
        if !is_heard() {
            return Self(None);
        }
        let (fields, device) = about();
        Self(Some(Begun {
            name,
            fields,
            began: Instant::now(),
            device,
        }))
    }
}

impl Debug for Part {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        let name = self.0.as_ref().map(|begun| begun.name);
        f.debug_tuple("Part").field(&name).finish()
    }
}

impl Drop for Part {
    /// A GPU computes later than it is told to, so its work is waited for. What follows then starts later than it would.
    fn drop(&mut self) {
        let Some(begun) = self.0.take() else {
            return;
        };
        let failed = begun.device.and_then(|device| device.sync().err());
        let ended = Instant::now();
        let mut fields = begun.fields;
        fields.extend(failed.map(|error| field("failed", error)));
        if let Some((start, heard)) = listener().as_mut() {
            heard(Span {
                name: begun.name,
                fields,
                began: begun.began.saturating_duration_since(*start),
                took: ended.saturating_duration_since(begun.began),
            });
        }
    }
}

/// A field of a part.
pub fn field(name: &'static str, value: impl Display) -> (&'static str, String) {
    (name, value.to_string())
}

/// Begins a part of a step: the device of what it computes, or none, its name, and fields as `name = value`.
///
/// ```
/// # #[cfg(feature = "flex")] {
/// use burn::tensor::{Device, Tensor};
///
/// let x = Tensor::<1>::zeros([1], &Device::flex());
/// let _part = unimo_core::part!(Some(x.device()), "block", at = 3);
/// # }
/// ```
#[macro_export]
macro_rules! part {
    ($device:expr, $name:literal $(, $field:ident = $value:expr)*) => {
        $crate::spans::Part::begin($name, || {
            (vec![$($crate::spans::field(stringify!($field), $value)),*], $device)
        })
    };
}

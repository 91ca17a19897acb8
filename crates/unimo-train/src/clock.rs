//! The time as the records of a run give it.

use jiff::Timestamp;

/// The current time as RFC 3339, in UTC, to the second.
pub(crate) fn now() -> String {
    format!("{:.0}", Timestamp::now())
}

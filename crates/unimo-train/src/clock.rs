//! The time, as records of a run say it.

use jiff::Timestamp;

/// The current time as RFC 3339, in UTC, to the second.
pub(crate) fn now() -> String {
    format!("{:.0}", Timestamp::now())
}

//! A span of time, as messages show it.

use core::fmt;
use core::time::Duration;

/// A time for people to read. No floating point is used, because formatting it would take 20 KB.
pub(crate) struct Seconds(pub(crate) Duration);

impl fmt::Display for Seconds {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(to, "{}.{} s", self.0.as_secs(), self.0.subsec_millis() / 100)
    }
}

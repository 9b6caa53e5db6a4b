//! Stands in for `patch.rs` on systems where the library cannot redirect functions.
//!
//! There the library knows neither the processor's jumps nor how to make the system's threads stand still.

use core::fmt;

pub(crate) struct Why;

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(concat!(
            "the library redirects functions on Linux on x86-64 and aarch64 only, and was built for ",
            env!("PEP788_TARGET"),
        ))
    }
}

/// Another copy of the library that could redirect functions. There is none.
pub(crate) enum Copy {}

impl Copy {
    pub(crate) fn function(&self, _: usize) -> usize {
        match *self {}
    }
}

pub(crate) enum Runners {
    AnyThread,
}

pub(crate) fn redirect(_: &[(usize, usize)], _: &[usize], _: Runners) -> Result<Option<Copy>, Why> {
    Err(Why)
}

//! Allocations that fail instead of ending the process.
//!
//! The library promises its callers that out of memory is a result.

use alloc::boxed::Box;
use alloc::string::String;
use core::alloc::Layout;
#[cfg(not(loom))]
use core::ffi::CStr;
use core::fmt;
#[cfg(not(loom))]
use core::fmt::Write as _;

#[cfg(not(loom))]
use crate::os::Place;

pub(crate) fn try_box<T>(value: T) -> Option<Box<T>> {
    const { assert!(size_of::<T>() != 0) };
    // SAFETY: the layout is not empty. What was allocated with it is initialized, and it becomes the box that frees
    // it.
    unsafe {
        let place = alloc::alloc::alloc(Layout::new::<T>()).cast::<T>();
        if place.is_null() {
            return None;
        }
        place.write(value);
        Some(Box::from_raw(place))
    }
}

/// Text that is built as far as there is memory for it.
#[derive(Default, PartialEq)]
pub(crate) struct Text(String);

impl Text {
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Write for Text {
    fn write_str(&mut self, more: &str) -> fmt::Result {
        self.0.try_reserve(more.len()).map_err(|_| fmt::Error)?;
        self.0.push_str(more);
        Ok(())
    }
}

/// The name of a thing that each copy of the library has for itself. Several extensions may have a copy each, so the
/// name contains the address of a variable of this copy.
#[cfg(not(loom))]
pub(crate) struct OwnName([u8; OwnName::ROOM]);

#[cfg(not(loom))]
impl OwnName {
    const ROOM: usize = 48;

    pub(crate) fn new<T>(name: &str, variable: &'static T) -> OwnName {
        let mut text = [0; OwnName::ROOM];
        // What does not fit is cut off. The last byte stays NUL.
        let _ = write!(Place(&mut text[..OwnName::ROOM - 1]), "{name}@{variable:p}");
        OwnName(text)
    }

    pub(crate) fn as_c_str(&self) -> &CStr {
        CStr::from_bytes_until_nul(&self.0).unwrap_or_default()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_name_of_ones_own_has_an_address() {
        static VARIABLE: u8 = 0;
        let name = OwnName::new("pep788", &VARIABLE);
        assert_eq!(name.as_c_str().to_str().unwrap(), format!("pep788@{:p}", &VARIABLE));
    }
}

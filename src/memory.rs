//! Allocations that fail instead of ending the process: out of memory is a result that callers
//! are promised.

use std::alloc::Layout;

pub(crate) fn try_box<T>(value: T) -> Option<Box<T>> {
    const { assert!(size_of::<T>() != 0) };
    // SAFETY: the layout is not empty; what was allocated with it is initialized, and becomes the
    // box that frees it.
    unsafe {
        let place = std::alloc::alloc(Layout::new::<T>()).cast::<T>();
        if place.is_null() {
            return None;
        }
        place.write(value);
        Some(Box::from_raw(place))
    }
}

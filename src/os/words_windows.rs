//! Words of the calling thread, on Windows: the values of keys, of which one is the library's own.
//!
//! CPython's variables are not read here: they are in storage of another kind.

use core::ffi::c_void;
use core::ops::Range;
use core::sync::atomic::{AtomicU32, Ordering};

use windows_sys::Win32::System::Threading::{
    TlsAlloc, TlsFree, TlsGetValue, TlsSetValue, TLS_OUT_OF_INDEXES,
};

/// A thread-specific key, also one that is not the library's.
pub(crate) type Key = u32;

/// Returns what the calling thread has under this key. A key that does not exist has no value.
#[inline(always)]
pub(crate) fn value_of(key: Key) -> *mut c_void {
    // SAFETY: any key may be asked for.
    unsafe { TlsGetValue(key) }
}

/// Returns `false` if there is no such key, or no memory.
pub(crate) fn set_value(key: Key, value: *mut c_void) -> bool {
    // SAFETY: the call changes thread-local storage only. What a value means is between its owner and the caller.
    unsafe { TlsSetValue(key, value) != 0 }
}

/// The key of the library's own word.
static KEY: AtomicU32 = AtomicU32::new(TLS_OUT_OF_INDEXES);

/// Returns the library's own word of the calling thread, or null.
#[inline]
pub(crate) fn own() -> *mut c_void {
    // Relaxed: a number. A thread that has a word has read it before.
    value_of(KEY.load(Ordering::Relaxed))
}

/// Sets the library's own word of the calling thread, which [has one](has_own).
pub(crate) fn set_own(word: *mut c_void) {
    set_value(KEY.load(Ordering::Relaxed), word);
}

/// Sees to it that the calling thread has a word. Returns `false` if there is no memory.
pub(super) fn has_own() -> bool {
    // Relaxed: a number, and no memory belongs to it.
    if KEY.load(Ordering::Relaxed) == TLS_OUT_OF_INDEXES {
        // SAFETY: no preconditions.
        let made = unsafe { TlsAlloc() };
        let none = TLS_OUT_OF_INDEXES;
        if KEY.compare_exchange(none, made, Ordering::Relaxed, Ordering::Relaxed).is_err() {
            // SAFETY: the key was made above, and never used.
            unsafe { TlsFree(made) };
        }
    }
    // A thread gets the room for its values at the first one, if the key is not one of the first.
    set_value(KEY.load(Ordering::Relaxed), own())
}

pub(crate) fn storage_of(_code: usize) -> Option<Range<usize>> {
    None
}

pub(crate) fn place_of(_word: usize) -> Option<isize> {
    None
}

pub(crate) fn find_specific(_key: Key, _value: *mut c_void) -> Option<isize> {
    None
}

pub(crate) unsafe fn read(_place: isize) -> *mut c_void {
    core::ptr::null_mut()
}

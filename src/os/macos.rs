//! macOS: what it does in its own way.

use alloc::borrow::ToOwned;
use alloc::ffi::CString;
use alloc::vec::Vec;
use core::ffi::{c_char, c_int, c_void, CStr};
use core::ops::Range;

use super::posix::{self, object_at, read_through_pipe, Object};

/// Has a function called when the library is loaded.
macro_rules! at_load {
    ($function:path) => {
        #[used]
        #[link_section = "__DATA,__mod_init_func"]
        static AT_LOAD: extern "C" fn() = $function;
    };
}
pub(crate) use at_load;

// --- Barriers -------------------------------------------------------------------------------------

/// Returns `false`: the system has no such barriers. So each light fence is a processor fence (`gate/fence.rs`).
pub(crate) fn register_barriers() -> bool {
    false
}

pub(crate) fn barrier() -> bool {
    false
}

// --- Threads --------------------------------------------------------------------------------------

/// Returns the calling thread's number, by which debuggers and `threading.Thread.native_id` know the thread.
pub(crate) fn this_id() -> u64 {
    let mut id = 0;
    // SAFETY: `id` is a valid place, and 0 stands for the calling thread.
    unsafe { libc::pthread_threadid_np(0, &mut id) };
    id
}

/// Returns zeros, because there is nothing that [`is_gone`] could ask about.
pub(crate) fn this_ids() -> [i32; 2] {
    [0; 2]
}

/// Returns `false`: a thread does not end without its destructors here.
pub(crate) fn is_gone(_ids: [i32; 2]) -> bool {
    false
}

/// Returns `false`: the library does not know how to tell.
pub(crate) fn another_runs(_is_left_out: impl Fn(u64) -> bool) -> bool {
    false
}

/// Returns 0: the library does not know how to tell.
pub(crate) fn how_often_this_thread_waited() -> i64 {
    0
}

/// Returns `None`: the library does not know how to tell.
pub(crate) fn how_often_others_ran() -> Option<u64> {
    None
}

pub(crate) fn prepare_to_end_threads() {}

/// Lets the calling thread sleep without end. The system has no way to end a thread without its destructors for which the
/// C library is prepared.
pub(crate) fn end_this_thread() -> ! {
    posix::sleep_for_ever()
}

// --- Memory ---------------------------------------------------------------------------------------

/// Copies memory that may have been freed, or even unmapped, in the meantime.
pub(crate) fn read_without_faulting(from: *const c_void, to: &mut [usize]) -> bool {
    read_through_pipe(from, to)
}

/// Returns whether the address is on the calling thread's stack.
pub(crate) fn is_on_this_stack(address: usize) -> bool {
    // SAFETY: both functions take any live thread.
    let (top, size) = unsafe {
        let this = libc::pthread_self();
        (libc::pthread_get_stackaddr_np(this) as usize, libc::pthread_get_stacksize_np(this))
    };
    (top - size..top).contains(&address)
}

// --- Loaded objects -------------------------------------------------------------------------------

extern "C" {
    fn _dyld_image_count() -> u32;
    fn _dyld_get_image_name(index: u32) -> *const c_char;
    fn _dyld_get_image_header(index: u32) -> *const c_void;
}

/// Returns where the executable is in memory.
pub(crate) fn executable() -> usize {
    // SAFETY: the first image is the executable, and it is always there.
    unsafe { _dyld_get_image_header(0) as usize }
}

/// Calls `use_it` with the path of the object's file.
pub(crate) fn with_path(object: &Object, use_it: impl FnOnce(&CStr)) {
    if let Some(path) = object.path {
        use_it(path);
    }
}

/// Tells nothing: the library does not know how to read the files of this system.
pub(crate) fn functions(
    _object: &Object,
    _tell: impl for<'a> FnMut(Range<usize>, &dyn Fn() -> Option<&'a CStr>),
) {
}

/// Returns whether a library of this path may be CPython's. In a framework its file is `Python`.
pub(crate) fn may_be_python(path: &[u8]) -> bool {
    path.windows(9).any(|part| part == b"libpython") || path.ends_with(b"/Python")
}

/// Returns the paths of the loaded libraries that `is_wanted` says yes to.
pub(crate) fn libraries(is_wanted: fn(&[u8]) -> bool) -> Vec<CString> {
    // SAFETY: the calls have no preconditions. A name exists as long as its library, and is copied at once. The list may
    // become shorter meanwhile; there is no name beyond its end.
    let names = (0..unsafe { _dyld_image_count() }).filter_map(|index| unsafe {
        let name = _dyld_get_image_name(index);
        (!name.is_null()).then(|| CStr::from_ptr(name))
    });
    names.filter(|name| is_wanted(name.to_bytes())).map(CStr::to_owned).collect()
}

/// Exit callbacks, pending calls and fork handlers point into the library, so it must stay. The linker has no option for
/// that here.
extern "C" fn stay_loaded() {
    const MODE: c_int = libc::RTLD_LAZY | libc::RTLD_NOLOAD | libc::RTLD_NODELETE;
    let own = object_at(stay_loaded as *const () as usize);
    if let Some(path) = own.and_then(|own| own.path) {
        // SAFETY: the path is a C string. Nothing is loaded: the call finds what is there. The handle is never closed.
        unsafe { libc::dlopen(path.as_ptr(), MODE) };
    }
}

at_load!(stay_loaded);

// --- The process ----------------------------------------------------------------------------------

/// Returns the time of [`clock`](super::clock). There is no clock that is quicker.
pub(crate) fn coarse_clock() -> u64 {
    posix::clock()
}

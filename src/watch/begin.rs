//! Takes the file for the notes, when the library is loaded.

use core::ffi::{c_int, CStr};
use core::ptr::null_mut;
use core::sync::atomic::Ordering;

use super::file::{now, File, Module, Slot, FILE, MARK, MODULES, THREADS};
use super::{disturb, maps, stops};
use crate::os::process_id;
use crate::support::settings;

/// Begins to watch the process, if that is asked for. Returns whether this copy of the library is the one that has CPython's
/// functions redirected for it. This is called once, when the library is loaded.
pub(crate) fn begin(python: u16) -> bool {
    let taken = take(python);
    if taken.is_some() {
        disturb::begin();
    }
    if taken == Some(Taken::First) {
        stops::watch();
    }
    taken == Some(Taken::First)
}

/// Who takes the file.
#[derive(Clone, Copy, PartialEq)]
enum Taken {
    First,
    /// Another copy of the library in this process has taken it, and notes what both have in common.
    AfterAnother,
}

/// Takes the file that `PEP788_WATCH` names, if it names one, and no other process has taken it. Returns `None` if this
/// process is not watched.
fn take(python: u16) -> Option<Taken> {
    let path = settings::watch()?;
    // The process may have become another program (`execve`): then its number is in the file, but the file is not mapped.
    let is_mapped = maps::has(path.to_bytes());
    let file = map(path)?;
    // SAFETY: the mapping is as long as a `File`, stays, and consists of atomics.
    let noted = unsafe { &*file };
    let own = process_id();
    // Relaxed: the number decides who writes, and publishes nothing.
    let taken = noted.process.compare_exchange(0, own, Ordering::Relaxed, Ordering::Relaxed);
    if taken == Err(own) && is_mapped {
        // Release: as below.
        FILE.store(file, Ordering::Release);
        return Some(Taken::AfterAnother);
    }
    if taken.is_err() {
        // SAFETY: nobody has a reference to the mapping after this.
        unsafe { libc::munmap(file.cast(), size_of::<File>()) };
        return None;
    }
    let sizes = [size_of::<Module>(), MODULES, size_of::<Slot>(), THREADS];
    for (place, size) in noted.sizes.iter().zip(sizes) {
        place.store(size as u64, Ordering::Relaxed);
    }
    noted.python.store(u32::from(python), Ordering::Relaxed);
    noted.began.store(now(), Ordering::Relaxed);
    noted.mark.store(MARK, Ordering::Relaxed);
    // Release: pairs with the `Acquire` in `file`.
    FILE.store(file, Ordering::Release);
    Some(Taken::First)
}

fn map(path: &CStr) -> Option<*mut File> {
    // SAFETY: the path is a C string, and the descriptor is this function's own.
    unsafe {
        let descriptor = libc::open(path.as_ptr(), libc::O_RDWR | libc::O_CLOEXEC);
        if descriptor < 0 {
            return None;
        }
        let size = size_of::<File>();
        let is_sized = libc::ftruncate(descriptor, size as libc::off_t) == 0;
        let access: c_int = libc::PROT_READ | libc::PROT_WRITE;
        let mapped = libc::mmap(null_mut(), size, access, libc::MAP_SHARED, descriptor, 0);
        libc::close(descriptor);
        (is_sized && mapped != libc::MAP_FAILED).then_some(mapped.cast())
    }
}

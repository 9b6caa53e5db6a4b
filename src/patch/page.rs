//! Pages of the library's own memory for code, within reach of a jump from a function.

use alloc::vec::Vec;
use core::ffi::c_void;

#[cfg(target_arch = "aarch64")]
use super::aarch64::REACH;
use super::change::Why;
#[cfg(target_arch = "x86_64")]
use super::x86_64::REACH;
use crate::os::last_error;

/// Places code of the library within reach of a jump from `origin`, for good. `code` returns the code for the
/// address that it is given. Returns `None` if `code` returns none, or if there is no memory.
pub(super) fn place(origin: usize, code: impl FnOnce(usize) -> Option<Vec<u8>>) -> Option<usize> {
    let page = Page::near(origin).ok()?;
    let code = code(page.address).filter(|code| code.len() <= page_size())?;
    // SAFETY: nobody knows the page yet, and it is at least as long as the code.
    unsafe { (page.address as *mut u8).copy_from_nonoverlapping(code.as_ptr(), code.len()) };
    page.make_executable().ok()?;
    let address = page.address;
    core::mem::forget(page);
    Some(address)
}

/// Makes new code known to processors whose caches of code do not follow the memory.
pub(super) unsafe fn clear_cache(at: usize, length: usize) {
    extern "C" {
        // This is in `calls.c`, where the compiler knows how to do it.
        fn pep788_clear_cache(begin: *mut c_void, end: *mut c_void);
    }
    // SAFETY: the addresses were written to a moment ago.
    unsafe { pep788_clear_cache(at as *mut c_void, (at + length) as *mut c_void) }
}

pub(super) fn page_size() -> usize {
    // SAFETY: `sysconf` has no preconditions.
    unsafe { libc::sysconf(libc::_SC_PAGESIZE) as usize }
}

/// A page of the library's own. It is unmapped when dropped.
#[derive(Debug)]
pub(super) struct Page {
    pub(super) address: usize,
}

impl Page {
    /// Returns a page within reach of a jump from `origin`, with room to spare for the functions around `origin`.
    pub(super) fn near(origin: usize) -> Result<Page, Why> {
        const STEP: usize = 1 << 18;
        /// libpython is shorter than this.
        const SPARE: usize = 1 << 25;
        let origin = origin & !(STEP - 1);
        for distance in (STEP..REACH.saturating_sub(SPARE)).step_by(STEP) {
            for address in [origin.checked_sub(distance), origin.checked_add(distance)] {
                let Some(page) = address.filter(|address| *address != 0).and_then(Page::at) else {
                    continue;
                };
                return Ok(page);
            }
        }
        Err(Why::NoPage(libc::ENOMEM))
    }

    fn at(address: usize) -> Option<Page> {
        // SAFETY: this makes a new mapping, which replaces nothing.
        let got = unsafe {
            libc::mmap(
                address as *mut c_void,
                page_size(),
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE,
                -1,
                0,
            )
        };
        if got == libc::MAP_FAILED {
            return None;
        }
        let page = Page { address: got as usize };
        // An old kernel takes the address only as a hint, and may choose another one.
        (page.address == address).then_some(page)
    }

    pub(super) fn make_executable(&self) -> Result<(), Why> {
        // SAFETY: the page is the library's own.
        let refused = unsafe {
            clear_cache(self.address, page_size());
            let how = libc::PROT_READ | libc::PROT_EXEC;
            libc::mprotect(self.address as *mut c_void, page_size(), how) != 0
        };
        if refused {
            Err(Why::NoPage(last_error()))
        } else {
            Ok(())
        }
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        // SAFETY: the page is the library's own, and nothing refers to it.
        unsafe { libc::munmap(self.address as *mut c_void, page_size()) };
    }
}

//! The names of threads on Windows.

use windows_sys::Win32::Foundation::{CloseHandle, LocalFree, HANDLE};
use windows_sys::Win32::System::LibraryLoader::{GetModuleHandleA, GetProcAddress};
use windows_sys::Win32::System::Threading::{OpenThread, THREAD_QUERY_LIMITED_INFORMATION};

/// `GetThreadDescription`, which Windows 8 does not have.
type Describe = unsafe extern "system" fn(HANDLE, *mut *mut u16) -> i32;

/// Writes the name of the thread of this number, as far as it fits. What is left of the place stays as it is.
pub(super) fn write(id: u32, place: &mut [u8]) {
    // SAFETY: the names are C strings, and this library is always there. The function has this type. The handle and the text
    // are this function's own; the text ends with a NUL.
    unsafe {
        let library = GetModuleHandleA(c"kernel32".as_ptr().cast());
        let Some(found) = GetProcAddress(library, c"GetThreadDescription".as_ptr().cast()) else {
            return;
        };
        let describe =
            core::mem::transmute::<unsafe extern "system" fn() -> isize, Describe>(found);
        let thread = OpenThread(THREAD_QUERY_LIMITED_INFORMATION, 0, id);
        let mut text = core::ptr::null_mut();
        if !thread.is_null() && describe(thread, &mut text) >= 0 && !text.is_null() {
            let length = (0..).take_while(|at| *text.add(*at) != 0).count();
            write_as_utf8(core::slice::from_raw_parts(text, length), place);
            LocalFree(text.cast());
        }
        if !thread.is_null() {
            CloseHandle(thread);
        }
    }
}

fn write_as_utf8(text: &[u16], mut place: &mut [u8]) {
    for character in char::decode_utf16(text.iter().copied()) {
        let character = character.unwrap_or(char::REPLACEMENT_CHARACTER);
        let length = character.len_utf8();
        // One byte is left for the NUL.
        if length >= place.len() {
            return;
        }
        let (now, later) = place.split_at_mut(length);
        character.encode_utf8(now);
        place = later;
    }
}

//! What the kernel says of the memory that code is in.

use alloc::string::String;
use alloc::vec::Vec;
use core::ffi::{c_int, CStr};

use crate::os::last_error;

/// Returns what the kernel says of all mappings, on the processor that has such a guard (see [`guard_of`]).
pub(super) fn mappings() -> String {
    if cfg!(target_arch = "aarch64") {
        String::from_utf8_lossy(&contents_of(c"/proc/self/smaps")).into_owned()
    } else {
        String::new()
    }
}

/// Returns what can be read of a file of `/proc`, which has no size before it is read.
fn contents_of(path: &CStr) -> Vec<u8> {
    const PIECE: usize = 64 * 1024;
    let mut contents: Vec<u8> = Vec::new();
    // SAFETY: the path is a C string. What is read goes to memory that the vector has reserved, and counts only once
    // it is read.
    unsafe {
        let file = libc::open(path.as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC);
        while file >= 0 && contents.try_reserve(PIECE).is_ok() {
            let place = contents.as_mut_ptr().add(contents.len()).cast();
            match usize::try_from(libc::read(file, place, PIECE)) {
                Ok(0) => break,
                Ok(read) => contents.set_len(contents.len() + read),
                Err(_) if last_error() == libc::EINTR => {}
                Err(_) => break,
            }
        }
        if file >= 0 {
            libc::close(file);
        }
    }
    contents
}

/// Returns `PROT_BTI` if indirect jumps into the page at `address` have to meet a landing pad. A change of the
/// page's protection that does not name this flag takes it away.
///
/// If the kernel says nothing of the mappings, this returns no flag.
pub(super) fn guard_of(mappings: &str, address: usize) -> c_int {
    const PROT_BTI: c_int = 0x10;
    let bound = |digits| usize::from_str_radix(digits, 16).ok();
    let mut is_there = false;
    for line in mappings.lines() {
        let word = line.split(' ').next().and_then(|word| word.split_once('-'));
        if let Some((Some(begin), Some(end))) = word.map(|(begin, end)| (bound(begin), bound(end)))
        {
            is_there = (begin..end).contains(&address);
        } else if let (true, Some(flags)) = (is_there, line.strip_prefix("VmFlags:")) {
            let is_guarded = flags.split(' ').any(|flag| flag == "bt");
            return if is_guarded { PROT_BTI } else { 0 };
        }
    }
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_to_its_end() {
        let maps = contents_of(c"/proc/self/maps");
        assert!(maps.ends_with(b"\n") && maps.windows(7).any(|bytes| bytes == b"[stack]"));
        assert!(contents_of(c"/proc/self/nothing").is_empty());
    }

    #[test]
    fn aarch64_knows_which_pages_are_guarded() {
        // The text is as the kernel prints it, shortened.
        let mappings = "\
            ffff8a000000-ffff8a2c0000 r-xp 00000000 fe:01 1234    /usr/lib/libpython3-13.so.1.0\n\
            Size:               2816 kB\n\
            THPeligible:           0\n\
            VmFlags: rd ex mr mw me bt\n\
            ffff8a2c0000-ffff8a2d0000 rw-p 002c0000 fe:01 1234    /usr/lib/libpython3-13.so.1.0\n\
            VmFlags: rd wr mr mw me ac\n\
            ffff8a2d0000-ffff8a2e0000 r-xp 00000000 00:00 0\n\
            VmFlags: rd ex mr mw me\n";
        assert_eq!(guard_of(mappings, 0xffff_8a00_0000), 0x10);
        assert_eq!(guard_of(mappings, 0xffff_8a2b_ffff), 0x10);
        assert_eq!(guard_of(mappings, 0xffff_8a2c_0000), 0);
        assert_eq!(guard_of(mappings, 0xffff_8a2d_0000), 0);
        assert_eq!(guard_of(mappings, 0x1000), 0);
    }
}

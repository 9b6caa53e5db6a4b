//! Notes which files the process has mapped as code, so that addresses can be told when it is gone.
//!
//! The kernel is asked, not the loader: a thread that waits for the GIL may have the loader's lock. This allocates
//! nothing, so that it can be done in a signal handler.

use core::sync::atomic::{AtomicBool, Ordering};
use core::time::Duration;

use super::file::{File, Module};
use crate::os;

/// Sees to it that the modules of these addresses are noted.
pub(super) fn note(file: &File, addresses: &[usize]) {
    if addresses.iter().all(|address| is_known(file, *address)) {
        return;
    }
    // A thread that crashed in the middle of this does not come to the end of it. So nobody waits for long.
    for _ in 0..100 {
        // Acquire and Release: only one thread adds modules.
        if !IS_TAKEN.swap(true, Ordering::Acquire) {
            read(file);
            IS_TAKEN.store(false, Ordering::Release);
            return;
        }
        os::sleep(Duration::from_millis(1));
    }
}

/// Whether a thread adds modules.
static IS_TAKEN: AtomicBool = AtomicBool::new(false);

fn known(file: &File) -> &[Module] {
    // Acquire: pairs with the `Release` in `add`.
    let count = file.modules_noted.load(Ordering::Acquire) as usize;
    &file.modules[..count.min(file.modules.len())]
}

fn is_known(file: &File, address: usize) -> bool {
    known(file).iter().any(|module| {
        let [begin, end] = [&module.begin, &module.end].map(|it| it.load(Ordering::Relaxed));
        (begin..end).contains(&(address as u64))
    })
}

/// Notes all modules that there are now. Only one thread at a time calls this.
pub(super) fn read(file: &File) {
    each_line(|line| {
        let _ = add(file, line);
    });
}

/// Returns whether a file is mapped. Only one thread at a time calls this.
pub(super) fn has(path: &[u8]) -> bool {
    let mut is_mapped = false;
    each_line(|line| is_mapped |= line.ends_with(path));
    is_mapped
}

/// Calls `take` with each line in which the kernel tells of a mapping.
fn each_line(mut take: impl FnMut(&[u8])) {
    // SAFETY: the path is a C string. The descriptor is this function's own, and the buffer is as long as it says.
    unsafe {
        let maps = libc::open(c"/proc/self/maps".as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC);
        if maps < 0 {
            return;
        }
        let mut buffer = [0u8; 4096];
        let mut filled = 0;
        loop {
            let rest = &mut buffer[filled..];
            let length = libc::read(maps, rest.as_mut_ptr().cast(), rest.len());
            if length <= 0 {
                break;
            }
            filled += length as usize;
            let mut begin = 0;
            while let Some(end) = buffer[begin..filled].iter().position(|byte| *byte == b'\n') {
                take(&buffer[begin..begin + end]);
                begin += end + 1;
            }
            buffer.copy_within(begin..filled, 0);
            filled -= begin;
            if filled == buffer.len() {
                // No path is as long as that.
                break;
            }
        }
        libc::close(maps);
    }
}

/// Adds the module of one line: `BEGIN-END PERMISSIONS OFFSET DEVICE INODE PATH`.
fn add(file: &File, line: &[u8]) -> Option<()> {
    let hex = |digits: &[u8]| u64::from_str_radix(core::str::from_utf8(digits).ok()?, 16).ok();
    let mut words = line.split(|byte| *byte == b' ').filter(|word| !word.is_empty());
    let mut range = words.next()?.split(|byte| *byte == b'-');
    let (begin, end) = (hex(range.next()?)?, hex(range.next()?)?);
    if words.next()?.get(2) != Some(&b'x') || is_known(file, begin as usize) {
        return None;
    }
    let offset = hex(words.next()?)?;
    let path = &line[line.iter().position(|byte| *byte == b'/')?..];
    // Relaxed: only one thread adds modules.
    let count = file.modules_noted.load(Ordering::Relaxed);
    let module = file.modules.get(count as usize)?;
    module.begin.store(begin, Ordering::Relaxed);
    module.end.store(end, Ordering::Relaxed);
    module.offset.store(offset, Ordering::Relaxed);
    module.path.set(path);
    // Release: pairs with the `Acquire` in `known`.
    file.modules_noted.store(count + 1, Ordering::Release);
    Some(())
}

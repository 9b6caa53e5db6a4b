//! The threads of this process, as the kernel tells (`/proc`). Without allocations and locks, for [`super::stop`].

use std::ffi::c_int;
use std::ops::Range;

pub(super) fn this_thread() -> libc::pid_t {
    // SAFETY: no preconditions.
    unsafe { libc::gettid() }
}

/// Whether it runs, or is about to: it does not wait for anything.
pub(super) fn runs(id: libc::pid_t) -> bool {
    let mut buffer = [0; 512];
    let status = read(id, "status", &mut buffer);
    status.and_then(|status| field(status, b"State:")).is_some_and(|state| state.starts_with(b"R"))
}

/// What is said of a thread under that name, in its file `status`.
pub(super) fn field<'a>(status: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let mut lines = status.split(|byte| *byte == b'\n');
    lines.find_map(|line| line.strip_prefix(name)).map(<[u8]>::trim_ascii)
}

/// The beginning of a file in `/proc/self/task`. `None`: the thread is gone.
pub(super) fn read<'a>(id: libc::pid_t, name: &str, buffer: &'a mut [u8]) -> Option<&'a [u8]> {
    use std::io::Write;
    let mut path = [0; 64];
    // Ends in the NULs that are there.
    write!(&mut path[..63], "/proc/self/task/{id}/{name}").ok()?;
    // SAFETY: a C string, and a buffer that is as long as it says.
    unsafe {
        let file = libc::open(path.as_ptr().cast(), libc::O_RDONLY | libc::O_CLOEXEC);
        if file < 0 {
            return None;
        }
        let length = libc::read(file, buffer.as_mut_ptr().cast(), buffer.len());
        libc::close(file);
        buffer.get(..usize::try_from(length).ok()?)
    }
}

/// The threads of this process, by their numbers.
pub(super) struct Tasks {
    folder: c_int,
    entries: [u8; 4096],
    /// Which part of the entries is yet to be looked at.
    rest: Range<usize>,
}

impl Tasks {
    pub(super) fn open() -> Option<Tasks> {
        let flags = libc::O_RDONLY | libc::O_DIRECTORY | libc::O_CLOEXEC;
        // SAFETY: a C string.
        let folder = unsafe { libc::open(c"/proc/self/task".as_ptr(), flags) };
        (folder >= 0).then_some(Tasks { folder, entries: [0; 4096], rest: 0..0 })
    }

    fn fill(&mut self) -> bool {
        let (buffer, size) = (self.entries.as_mut_ptr(), self.entries.len());
        // SAFETY: a buffer that is as long as it says.
        let length = unsafe { libc::syscall(libc::SYS_getdents64, self.folder, buffer, size) };
        self.rest = 0..usize::try_from(length).unwrap_or(0);
        !self.rest.is_empty()
    }
}

impl Iterator for Tasks {
    type Item = libc::pid_t;

    fn next(&mut self) -> Option<libc::pid_t> {
        // Of an entry: its length, and its name, which ends in a NUL.
        const LENGTH: usize = 16;
        const NAME: usize = 19;
        loop {
            if self.rest.is_empty() && !self.fill() {
                return None;
            }
            let entry = self.entries.get(self.rest.clone())?;
            let length =
                usize::from(u16::from_ne_bytes([*entry.get(LENGTH)?, *entry.get(LENGTH + 1)?]));
            self.rest.start += length.max(1);
            let name = entry.get(NAME..)?.split(|byte| *byte == 0).next()?;
            // Others are `.` and `..`.
            if let Some(id) = std::str::from_utf8(name).ok().and_then(|name| name.parse().ok()) {
                return Some(id);
            }
        }
    }
}

impl Drop for Tasks {
    fn drop(&mut self) {
        // SAFETY: opened by `open`.
        unsafe { libc::close(self.folder) };
    }
}

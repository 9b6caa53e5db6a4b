//! Lists the threads of this process and tells their states, as the kernel shows them in `/proc`.
//!
//! This file allocates nothing and takes no locks, because `patch::stop` uses it.

use core::ffi::c_int;
use core::fmt::Write as _;
use core::ops::Range;

use super::place::Place;
use super::posix::last_error;

pub(crate) fn this_thread() -> libc::pid_t {
    // SAFETY: this system call has no preconditions. `gettid` is not used, because glibc has it only from 2.30 on.
    unsafe { libc::syscall(libc::SYS_gettid) as libc::pid_t }
}

/// Returns whether the thread runs code of this process, or is about to: it does not wait for anything.
pub(crate) fn runs(id: libc::pid_t) -> bool {
    let mut buffer = [0; 512];
    let status = read(id, "status", &mut buffer).ok();
    let state = status.and_then(|status| field(status, b"State:"));
    state.is_some_and(|state| state.starts_with(b"R")) && !is_the_kernels(id)
}

/// Returns whether the thread is one of the kernel's own (of io_uring). Such a thread runs nothing of this process,
/// and takes no signals.
pub(crate) fn is_the_kernels(id: libc::pid_t) -> bool {
    const IO_WORKER: u64 = 0x10;
    /// The index of the flags among the fields after the name. The name is in brackets, and may have any characters.
    const FLAGS: usize = 6;
    let mut buffer = [0; 512];
    let stat = read(id, "stat", &mut buffer).ok();
    let fields = stat.and_then(|stat| stat.rsplit(|byte| *byte == b')').next());
    let flags = fields.and_then(|it| it.trim_ascii().split(|byte| *byte == b' ').nth(FLAGS));
    let flags = flags.and_then(|digits| core::str::from_utf8(digits).ok()?.parse::<u64>().ok());
    flags.is_some_and(|flags| flags & IO_WORKER != 0)
}

/// Returns what the file `status` of a thread says under that name.
pub(crate) fn field<'a>(status: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let mut lines = status.split(|byte| *byte == b'\n');
    lines.find_map(|line| line.strip_prefix(name)).map(<[u8]>::trim_ascii)
}

/// Why the kernel told nothing about a thread.
pub(crate) enum Unread {
    /// The thread has ended.
    Gone,
    /// The thread may still be there: its file cannot be read, with this error.
    Error(c_int),
}

/// Returns why the last call failed.
fn unread() -> Unread {
    match last_error() {
        libc::ENOENT | libc::ESRCH => Unread::Gone,
        error => Unread::Error(error),
    }
}

/// Reads the beginning of a file of a thread in `/proc/self/task`.
pub(crate) fn read<'a>(
    id: libc::pid_t,
    name: &str,
    buffer: &'a mut [u8],
) -> Result<&'a [u8], Unread> {
    let mut path = [0; 64];
    // The path ends in the NULs that are already there.
    let written = write!(Place(&mut path[..63]), "/proc/self/task/{id}/{name}");
    written.map_err(|_| Unread::Error(libc::ENAMETOOLONG))?;
    // SAFETY: the path is a C string, and the buffer is as long as it says.
    let length = unsafe {
        let file = libc::open(path.as_ptr().cast(), libc::O_RDONLY | libc::O_CLOEXEC);
        if file < 0 {
            return Err(unread());
        }
        let length = libc::read(file, buffer.as_mut_ptr().cast(), buffer.len());
        let read = usize::try_from(length).map_err(|_| unread());
        libc::close(file);
        read?
    };
    buffer.get(..length).ok_or(Unread::Error(libc::EIO))
}

/// The threads of this process, by their numbers.
pub(crate) struct Tasks {
    folder: c_int,
    entries: [u8; 4096],
    /// The part of the entries that is still to be looked at.
    rest: Range<usize>,
    /// The error, if the list broke off.
    pub(crate) error: Option<c_int>,
}

impl Tasks {
    /// Opens the list. Fails with an error of the system.
    pub(crate) fn open() -> Result<Tasks, c_int> {
        let flags = libc::O_RDONLY | libc::O_DIRECTORY | libc::O_CLOEXEC;
        // SAFETY: the path is a C string.
        let folder = unsafe { libc::open(c"/proc/self/task".as_ptr(), flags) };
        if folder < 0 {
            return Err(last_error());
        }
        Ok(Tasks { folder, entries: [0; 4096], rest: 0..0, error: None })
    }

    fn fill(&mut self) -> bool {
        let (buffer, size) = (self.entries.as_mut_ptr(), self.entries.len());
        // SAFETY: the buffer is as long as `size` says.
        let length = unsafe { libc::syscall(libc::SYS_getdents64, self.folder, buffer, size) };
        if length < 0 {
            self.error = Some(last_error());
        }
        self.rest = 0..usize::try_from(length).unwrap_or(0);
        !self.rest.is_empty()
    }
}

impl Iterator for Tasks {
    type Item = libc::pid_t;

    fn next(&mut self) -> Option<libc::pid_t> {
        // Where an entry has its length, and its name. The name ends in a NUL.
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
            // The other entries are `.` and `..`.
            if let Some(id) = core::str::from_utf8(name).ok().and_then(|name| name.parse().ok()) {
                return Some(id);
            }
        }
    }
}

impl Drop for Tasks {
    fn drop(&mut self) {
        // SAFETY: `open` opened it.
        unsafe { libc::close(self.folder) };
    }
}

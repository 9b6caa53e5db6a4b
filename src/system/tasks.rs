//! The threads of this process, as the kernel tells (`/proc`). Without allocations and locks, for `patch::stop`.

use std::ffi::c_int;
use std::ops::Range;

pub(crate) fn this_thread() -> libc::pid_t {
    // SAFETY: no preconditions. Not by `gettid`, which glibc has from 2.30 on only.
    unsafe { libc::syscall(libc::SYS_gettid) as libc::pid_t }
}

/// Whether it runs code of this process, or is about to: it does not wait for anything.
pub(crate) fn runs(id: libc::pid_t) -> bool {
    let mut buffer = [0; 512];
    let status = read(id, "status", &mut buffer).ok();
    let state = status.and_then(|status| field(status, b"State:"));
    state.is_some_and(|state| state.starts_with(b"R")) && !is_the_kernels(id)
}

/// Whether it is one of the kernel's own (io_uring's), which runs nothing of this process, and takes no signals.
pub(crate) fn is_the_kernels(id: libc::pid_t) -> bool {
    const IO_WORKER: u64 = 0x10;
    /// Of the fields after the name, which is in brackets and may have any characters.
    const FLAGS: usize = 6;
    let mut buffer = [0; 512];
    let stat = read(id, "stat", &mut buffer).ok();
    let fields = stat.and_then(|stat| stat.rsplit(|byte| *byte == b')').next());
    let flags = fields.and_then(|it| it.trim_ascii().split(|byte| *byte == b' ').nth(FLAGS));
    let flags = flags.and_then(|digits| std::str::from_utf8(digits).ok()?.parse::<u64>().ok());
    flags.is_some_and(|flags| flags & IO_WORKER != 0)
}

/// What is said of a thread under that name, in its file `status`.
pub(crate) fn field<'a>(status: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let mut lines = status.split(|byte| *byte == b'\n');
    lines.find_map(|line| line.strip_prefix(name)).map(<[u8]>::trim_ascii)
}

/// Why nothing is told of a thread.
pub(crate) enum Unread {
    /// It has ended.
    Gone,
    /// It may be there: its file cannot be read, with this error.
    Error(c_int),
}

/// Of the call that just failed.
fn unread() -> Unread {
    match last_error() {
        libc::ENOENT | libc::ESRCH => Unread::Gone,
        error => Unread::Error(error),
    }
}

pub(crate) fn last_error() -> c_int {
    // SAFETY: the calling thread's own.
    unsafe { *libc::__errno_location() }
}

/// The beginning of a file in `/proc/self/task`.
pub(crate) fn read<'a>(
    id: libc::pid_t,
    name: &str,
    buffer: &'a mut [u8],
) -> Result<&'a [u8], Unread> {
    use std::io::Write;
    let mut path = [0; 64];
    // Ends in the NULs that are there.
    let written = write!(&mut path[..63], "/proc/self/task/{id}/{name}");
    written.map_err(|_| Unread::Error(libc::ENAMETOOLONG))?;
    // SAFETY: a C string, and a buffer that is as long as it says.
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
    /// Which part of the entries is yet to be looked at.
    rest: Range<usize>,
    /// Of a list that broke off.
    pub(crate) error: Option<c_int>,
}

impl Tasks {
    /// Fails with an error of the system.
    pub(crate) fn open() -> Result<Tasks, c_int> {
        let flags = libc::O_RDONLY | libc::O_DIRECTORY | libc::O_CLOEXEC;
        // SAFETY: a C string.
        let folder = unsafe { libc::open(c"/proc/self/task".as_ptr(), flags) };
        if folder < 0 {
            return Err(last_error());
        }
        Ok(Tasks { folder, entries: [0; 4096], rest: 0..0, error: None })
    }

    fn fill(&mut self) -> bool {
        let (buffer, size) = (self.entries.as_mut_ptr(), self.entries.len());
        // SAFETY: a buffer that is as long as it says.
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

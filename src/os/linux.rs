//! Linux: what it does in its own way, or is the only one to do.

use alloc::borrow::ToOwned;
use alloc::ffi::CString;
use alloc::vec::Vec;
use core::ffi::{c_int, c_long, c_void, CStr};
use core::ops::Range;
use core::sync::atomic::AtomicU32;
use core::time::Duration;

use super::elf;
use super::posix::{clock_of, last_error, object_at, read_through_pipe, Object};
use super::tasks::{self, Tasks, Unread};

/// Has a function called when the library is loaded.
macro_rules! at_load {
    ($function:path) => {
        #[used]
        #[link_section = ".init_array"]
        static AT_LOAD: extern "C" fn() = $function;
    };
}
pub(crate) use at_load;

/// Has a function called when the process ends, and its libraries are taken down.
macro_rules! at_end {
    ($function:path) => {
        #[used]
        #[link_section = ".fini_array"]
        static AT_END: extern "C" fn() = $function;
    };
}
pub(crate) use at_end;

// --- Barriers -------------------------------------------------------------------------------------

fn membarrier(command: c_int) -> bool {
    // SAFETY: the system call takes numbers, and touches no memory.
    unsafe { libc::syscall(libc::SYS_membarrier, command, 0, 0) == 0 }
}

/// Asks the kernel for [barriers](barrier). Returns `false` if it has none.
pub(crate) fn register_barriers() -> bool {
    const REGISTER_PRIVATE_EXPEDITED: c_int = 1 << 4;
    membarrier(REGISTER_PRIVATE_EXPEDITED)
}

/// Has all threads of the process pass a memory barrier. Returns `false` if they do not.
pub(crate) fn barrier() -> bool {
    const PRIVATE_EXPEDITED: c_int = 1 << 3;
    // A forked child may have to register again.
    membarrier(PRIVATE_EXPEDITED) || register_barriers() && membarrier(PRIVATE_EXPEDITED)
}

// --- Threads --------------------------------------------------------------------------------------

/// Returns the calling thread's number, by which debuggers and `threading.Thread.native_id` know the thread.
pub(crate) fn this_id() -> u64 {
    tasks::this_thread() as u64
}

/// Returns the kernel's numbers of this process and this thread, for [`is_gone`].
pub(crate) fn this_ids() -> [i32; 2] {
    // SAFETY: `getpid` has no preconditions.
    [unsafe { libc::getpid() }, tasks::this_thread()]
}

/// Returns whether that process does not have that thread any more.
pub(crate) fn is_gone([process, id]: [i32; 2]) -> bool {
    // SAFETY: the system call takes numbers, and sends no signal.
    unsafe { libc::syscall(libc::SYS_tgkill, process, id, 0) != 0 && last_error() == libc::ESRCH }
}

/// Returns whether a thread of the process runs, or is about to run, that is neither this one nor left out.
pub(crate) fn another_runs(is_left_out: impl Fn(u64) -> bool) -> bool {
    let this = tasks::this_thread();
    let mut all = Tasks::open().into_iter().flatten();
    all.any(|id| id != this && !is_left_out(id as u64) && tasks::runs(id))
}

/// Returns how often the thread gave up its processor by itself: for a lock, or in a system call.
pub(crate) fn how_often_this_thread_waited() -> i64 {
    let mut usage = core::mem::MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: `usage` is a valid place. If the call fails, the zeroes say that nothing was used.
    let usage = unsafe {
        libc::getrusage(libc::RUSAGE_THREAD, usage.as_mut_ptr());
        usage.assume_init()
    };
    usage.ru_nvcsw as i64
}

/// Returns how often the other threads of the process have been given a processor so far, all together. Returns `None`
/// where the kernel does not tell.
pub(crate) fn how_often_others_ran() -> Option<u64> {
    let mut sum = 0_u64;
    let mut all = Tasks::open().ok()?;
    for id in all.by_ref().filter(|id| *id != tasks::this_thread()) {
        let mut buffer = [0; 128];
        match tasks::read(id, "schedstat", &mut buffer) {
            // The times for which the thread ran and waited to run, and how often it was given a processor.
            Ok(line) => {
                let count = line.trim_ascii().rsplit(|byte| *byte == b' ').next()?;
                sum = sum.wrapping_add(core::str::from_utf8(count).ok()?.parse::<u64>().ok()?);
            }
            Err(Unread::Gone) => {}
            Err(Unread::Error(_)) => return None,
        }
    }
    // Each of them ran at least once. 0 means that the kernel does not count, or has no such files.
    (all.error.is_none() && sum != 0).then_some(sum)
}

#[cfg(target_env = "gnu")]
mod end {
    use core::ffi::c_void;
    use core::sync::atomic::{AtomicPtr, AtomicU32, Ordering};

    use crate::os::posix::forget_values;

    /// glibc's count of the threads of the process. It is null if it is not known. The last thread to end ends the
    /// process.
    static THREADS: AtomicPtr<c_void> = AtomicPtr::new(core::ptr::null_mut());

    /// Looks up what is needed to end a thread. This is not done when the thread ends: a thread that has the loader's
    /// lock may be waiting for it then.
    pub(crate) fn prepare_to_end_threads() {
        // SAFETY: passes a constant of `dlsym`, and a C string.
        let found = unsafe { libc::dlsym(libc::RTLD_DEFAULT, c"__nptl_nthreads".as_ptr()) };
        // Relaxed: the address of a variable that exists from the beginning.
        THREADS.store(found, Ordering::Relaxed);
    }

    /// Ends the calling thread at once, by the bare system call. Nothing is unwound, no destructor runs, and whoever joins
    /// the thread goes on.
    ///
    /// When another thread has joined it, glibc gives its stack to the next thread that is started, and what is under the
    /// keys with it. So that is taken away.
    pub(crate) fn end_this_thread() -> ! {
        forget_values();
        // Relaxed: the address never changes once it is known.
        // SAFETY: null, or the address of glibc's variable, which glibc changes by atomic operations only.
        let threads = unsafe { THREADS.load(Ordering::Relaxed).cast::<AtomicU32>().as_ref() };
        // SeqCst: as in glibc. glibc has counted this thread, because it started the thread, or because this is the main
        // thread.
        if threads.is_some_and(|threads| threads.fetch_sub(1, Ordering::SeqCst) == 1) {
            // SAFETY: does what glibc does when the last thread ends.
            unsafe { libc::exit(0) };
        }
        loop {
            // SAFETY: ends this thread. Only code that knows that the thread may end at any time still uses anything of
            // the thread.
            unsafe { libc::syscall(libc::SYS_exit, 0) };
        }
    }
}

#[cfg(target_env = "gnu")]
pub(crate) use end::{end_this_thread, prepare_to_end_threads};

/// Sleeps while the word has this value, at most for that time. May also return for nothing.
pub(super) fn sleep_on(word: &AtomicU32, value: u32, time: Option<Duration>) {
    // The kernel's own type for this call.
    let time = time.map(|time| {
        [c_long::try_from(time.as_secs()).unwrap_or(c_long::MAX), time.subsec_nanos() as c_long]
    });
    let time = time.as_ref().map_or(core::ptr::null(), core::ptr::from_ref);
    let wait = libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG;
    // SAFETY: the word and the time outlive the call.
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), wait, value, time) };
}

/// Wakes up to so many threads that sleep on the word.
pub(super) fn wake(word: &AtomicU32, threads: i32) {
    let wake = libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG;
    let none = core::ptr::null_mut::<c_long>();
    // SAFETY: the call touches no memory.
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), wake, threads, none) };
}

// --- Memory ---------------------------------------------------------------------------------------

/// Copies memory that may have been freed, or even unmapped, in the meantime.
pub(crate) fn read_without_faulting(from: *const c_void, to: &mut [usize]) -> bool {
    let bytes = core::mem::size_of_val(to);
    let local = libc::iovec { iov_base: to.as_mut_ptr().cast(), iov_len: bytes };
    let remote = libc::iovec { iov_base: from.cast_mut(), iov_len: bytes };
    // SAFETY: the kernel checks `remote`. It writes only to `local`, which is this function's own.
    let read = unsafe { libc::process_vm_readv(libc::getpid(), &local, 1, &remote, 1, 0) };
    if read == bytes as isize {
        return true;
    }
    // Otherwise the call is forbidden, as in some sandboxes. So the memory is read in another way.
    last_error() != libc::EFAULT && read_through_pipe(from, to)
}

/// Returns whether the address is on the calling thread's stack. Returns `true` if that cannot be told.
pub(crate) fn is_on_this_stack(address: usize) -> bool {
    // SAFETY: the attributes are initialized by the call that fills them, and they are destroyed afterwards.
    unsafe {
        let mut attributes: libc::pthread_attr_t = core::mem::zeroed();
        if libc::pthread_getattr_np(libc::pthread_self(), &mut attributes) != 0 {
            return true;
        }
        let (mut low, mut size) = (core::ptr::null_mut(), 0);
        libc::pthread_attr_getstack(&attributes, &mut low, &mut size);
        libc::pthread_attr_destroy(&mut attributes);
        (low as usize..low as usize + size).contains(&address)
    }
}

// --- Loaded objects -------------------------------------------------------------------------------

/// Returns where the executable is in memory.
pub(crate) fn executable() -> usize {
    // SAFETY: the call reads what the kernel passed to the process.
    let headers = unsafe { libc::getauxval(libc::AT_PHDR) } as usize;
    object_at(headers).map_or(0, |object| object.base)
}

/// Calls `use_it` with the path of the object's file.
pub(crate) fn with_path(object: &Object, use_it: impl FnOnce(&CStr)) {
    // For the executable, the loader has only the name that it was called by.
    if object.base == executable() {
        let mut place = [0u8; libc::PATH_MAX as usize];
        let link = c"/proc/self/exe".as_ptr();
        // The last byte is left out, so it stays NUL.
        // SAFETY: `link` is a C string, and the place is valid.
        unsafe { libc::readlink(link, place.as_mut_ptr().cast(), place.len() - 1) };
        use_it(CStr::from_bytes_until_nul(&place).unwrap_or_default());
    } else if let Some(path) = object.path {
        use_it(path);
    }
}

/// Tells the address and the name of each function in the object's file, if the table of symbols was left in it. The name
/// is looked up only if it is asked for.
pub(crate) fn functions(
    object: &Object,
    tell: impl for<'a> FnMut(Range<usize>, &dyn Fn() -> Option<&'a CStr>),
) {
    with_path(object, |path| elf::functions(path, object.base, tell));
}

/// Returns whether a library of this path may be CPython's.
pub(crate) fn may_be_python(path: &[u8]) -> bool {
    path.windows(9).any(|part| part == b"libpython")
}

/// Returns the paths of the loaded libraries that `is_wanted` says yes to.
pub(crate) fn libraries(is_wanted: fn(&[u8]) -> bool) -> Vec<CString> {
    struct Search {
        is_wanted: fn(&[u8]) -> bool,
        found: Vec<CString>,
    }
    unsafe extern "C" fn visit(
        info: *mut libc::dl_phdr_info,
        _size: libc::size_t,
        search: *mut c_void,
    ) -> c_int {
        // SAFETY: the loader passes a valid record, and the `Search` given below.
        unsafe {
            let name = (*info).dlpi_name;
            let search = &mut *search.cast::<Search>();
            if !name.is_null() && (search.is_wanted)(CStr::from_ptr(name).to_bytes()) {
                search.found.push(CStr::from_ptr(name).to_owned());
            }
        }
        0
    }
    let mut search = Search { is_wanted, found: Vec::new() };
    // SAFETY: `visit` has the type that the loader asks for, and `search` outlives the call.
    unsafe { libc::dl_iterate_phdr(Some(visit), core::ptr::from_mut(&mut search).cast()) };
    search.found
}

// --- The process ----------------------------------------------------------------------------------

/// Whether [`at_exit`] tells the exit status.
#[cfg(target_env = "gnu")]
pub(crate) const TELLS_EXIT_STATUS: bool = true;

/// Has `exits` called with the exit status when the process calls `exit`. The other function is for C libraries that do not
/// tell the status. None is called if there is no memory.
#[cfg(target_env = "gnu")]
pub(crate) fn at_exit(exits: extern "C" fn(c_int, *mut c_void), _: extern "C" fn()) {
    extern "C" {
        fn on_exit(function: extern "C" fn(c_int, *mut c_void), argument: *mut c_void) -> c_int;
    }
    // SAFETY: the function stays loaded.
    unsafe { on_exit(exits, core::ptr::null_mut()) };
}

/// Returns the time of [`clock`](super::clock) in steps of a few milliseconds, and takes a few nanoseconds.
pub(crate) fn coarse_clock() -> u64 {
    clock_of(libc::CLOCK_MONOTONIC_COARSE)
}

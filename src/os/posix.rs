//! What Linux and macOS do in the same way: threads, keys, the loader's objects, clocks.

use core::ffi::{c_char, c_int, c_void, CStr};
use core::fmt;
use core::sync::atomic::{AtomicUsize, Ordering};
use core::time::Duration;

// --- Threads --------------------------------------------------------------------------------------

/// Returns the number by which the C library knows the calling thread. A thread state of CPython has it as its
/// `thread_id`.
pub(crate) fn this_handle() -> usize {
    // SAFETY: `pthread_self` has no preconditions.
    unsafe { libc::pthread_self() as usize }
}

/// Writes the name of a thread. What is left of the place stays as it is.
///
/// # Safety
/// The thread is alive, and has this handle.
pub(crate) unsafe fn write_name(handle: usize, place: &mut [u8]) {
    let thread = handle as libc::pthread_t;
    // SAFETY: the thread is alive, by this function's contract. The place is valid, and has this size.
    unsafe { libc::pthread_getname_np(thread, place.as_mut_ptr().cast(), place.len()) };
}

/// Starts a thread that takes no signals. Returns `false` if no thread can be started.
pub(crate) fn start_thread(body: fn()) -> bool {
    extern "C" fn run(body: *mut c_void) -> *mut c_void {
        // SAFETY: the argument is the function given below.
        let body = unsafe { core::mem::transmute::<*mut c_void, fn()>(body) };
        body();
        core::ptr::null_mut()
    }
    // SAFETY: the places are valid, and they are filled in before they are read. The thread is never joined.
    unsafe {
        let (mut all, mut before) = core::mem::zeroed::<(libc::sigset_t, libc::sigset_t)>();
        libc::sigfillset(&mut all);
        libc::pthread_sigmask(libc::SIG_BLOCK, &all, &mut before);
        let mut thread = core::mem::zeroed();
        let failed =
            libc::pthread_create(&mut thread, core::ptr::null(), run, body as *mut c_void) != 0;
        libc::pthread_sigmask(libc::SIG_SETMASK, &before, core::ptr::null_mut());
        if !failed {
            libc::pthread_detach(thread);
        }
        !failed
    }
}

/// From now on no signal handler runs in the calling thread.
pub(crate) fn block_signals() {
    // SAFETY: the set is a valid place, and it is filled in before it is read.
    unsafe {
        let mut all = core::mem::zeroed();
        libc::sigfillset(&mut all);
        libc::pthread_sigmask(libc::SIG_BLOCK, &all, core::ptr::null_mut());
    }
}

#[cfg(not(target_env = "gnu"))]
pub(super) fn sleep_for_ever() -> ! {
    loop {
        // SAFETY: no preconditions.
        unsafe { libc::pause() };
    }
}

/// Has `end` called with `value` when the calling thread ends, after the destructors of C++ and of Rust. If the thread asks
/// for it again after that, `end` is called once more. If `value` is null, it is not called. Returns `false` if there is no
/// memory. All callers give the same `end`.
pub(crate) fn at_thread_end(value: *mut c_void, end: unsafe extern "C" fn(*mut c_void)) -> bool {
    /// The key plus one, or 0.
    static KEY: AtomicUsize = AtomicUsize::new(0);
    // Relaxed, both: a number. The C library has a lock for what it knows of the key.
    if KEY.load(Ordering::Relaxed) == 0 {
        let mut made = 0;
        // SAFETY: `made` is a valid place, and the library is never unloaded.
        if unsafe { libc::pthread_key_create(&mut made, Some(end)) } != 0 {
            return false;
        }
        let made_by_us = made as usize + 1;
        if KEY.compare_exchange(0, made_by_us, Ordering::Relaxed, Ordering::Relaxed).is_err() {
            // SAFETY: the key was made above, and never used.
            unsafe { libc::pthread_key_delete(made) };
        }
    }
    set_value((KEY.load(Ordering::Relaxed) - 1) as Key, value)
}

/// A thread-specific key, also one that is not the library's.
pub(crate) type Key = u32;

/// Returns what the calling thread has under this key. A key that does not exist has no value.
#[inline(always)]
pub(crate) fn value_of(key: Key) -> *mut c_void {
    // SAFETY: any key may be asked for.
    unsafe { libc::pthread_getspecific(key as libc::pthread_key_t) }
}

/// Returns `false` if there is no such key, or no memory.
pub(crate) fn set_value(key: Key, value: *mut c_void) -> bool {
    // SAFETY: the call changes thread-local storage only. What a value means is between its owner and the caller.
    unsafe { libc::pthread_setspecific(key as libc::pthread_key_t, value) == 0 }
}

/// Takes away what the calling thread has under all keys. Nothing is freed, and no destructor runs.
#[cfg(target_os = "linux")]
pub(super) fn forget_values() {
    // SAFETY: no preconditions.
    let keys = unsafe { libc::sysconf(libc::_SC_THREAD_KEYS_MAX) };
    for key in 0..keys {
        // SAFETY: any key may be set. In musl every thread has a place for each key, also for a key that nobody has
        // made. In glibc a key that nobody has made is refused, and NULL needs no place.
        unsafe { libc::pthread_setspecific(key as libc::pthread_key_t, core::ptr::null()) };
    }
}

// --- Memory ---------------------------------------------------------------------------------------

/// What CPython calls `PyCOND_T` and `PyMUTEX_T`, in 3.9 to 3.11.
pub(crate) type CCondition = libc::pthread_cond_t;
pub(crate) type CMutex = libc::pthread_mutex_t;

/// Copies the memory by way of a pipe: on every system, `write` checks the memory that it reads from.
pub(super) fn read_through_pipe(from: *const c_void, to: &mut [usize]) -> bool {
    let bytes = core::mem::size_of_val(to);
    let mut ends = [0; 2];
    // SAFETY: `ends` has room for two descriptors, and both are closed below. A few hundred bytes fit into any pipe,
    // so neither call blocks.
    unsafe {
        if libc::pipe(ends.as_mut_ptr()) != 0 {
            return false;
        }
        let copied = libc::write(ends[1], from, bytes) == bytes as isize
            && libc::read(ends[0], to.as_mut_ptr().cast(), bytes) == bytes as isize;
        libc::close(ends[0]);
        libc::close(ends[1]);
        copied
    }
}

// --- Loaded objects -------------------------------------------------------------------------------

/// The executable or a library, as the loader knows it.
pub(crate) struct Object {
    /// Where it is in memory.
    pub(crate) base: usize,
    /// The path of its file, as far as the loader knows it; see [`with_path`](super::with_path).
    pub(crate) path: Option<&'static CStr>,
    /// The exported function that contains the address that was asked about, or is the last one before it.
    pub(crate) function: Option<&'static CStr>,
}

/// Returns the object that contains an address.
pub(crate) fn object_at(address: usize) -> Option<Object> {
    // SAFETY: an all-zero `Dl_info` is valid, and `dladdr` fills it.
    let mut info: libc::Dl_info = unsafe { core::mem::zeroed() };
    // SAFETY: any address may be asked about, and `info` is a valid place for the answer.
    if unsafe { libc::dladdr(address as *const c_void, &mut info) } == 0 {
        return None;
    }
    // SAFETY: the loader's strings are NUL-terminated, and they exist as long as the library. The addresses are those of
    // Python, of this library, and of frames on a stack. No program may unload a library of these at this moment.
    let text = |text: *const c_char| (!text.is_null()).then(|| unsafe { CStr::from_ptr(text) });
    let (path, function) = (text(info.dli_fname), text(info.dli_sname));
    Some(Object { base: info.dli_fbase as usize, path, function })
}

/// Where all names of the process are found that libraries show to each other.
pub(crate) const EVERYWHERE: *mut c_void = libc::RTLD_DEFAULT;

/// Returns a handle of the library or the executable that contains an address. The object stays loaded from now on.
pub(crate) fn handle_at(address: usize) -> Option<*mut c_void> {
    handle_of(object_at(address)?.path).or_else(|| handle_of(None))
}

/// Returns a handle of a loaded library, or of the executable, which has no path here. Loads and runs nothing. The object
/// stays loaded from now on.
pub(crate) fn handle_of(path: Option<&CStr>) -> Option<*mut c_void> {
    let path = path.map_or(core::ptr::null(), CStr::as_ptr);
    // SAFETY: `path` is null, or a C string.
    let handle = unsafe { libc::dlopen(path, libc::RTLD_LAZY | libc::RTLD_NOLOAD) };
    (!handle.is_null()).then_some(handle)
}

/// Returns the address of a function or a variable by its name, or null.
///
/// # Safety
/// The handle is from [`handle_of`], or [`EVERYWHERE`].
pub(crate) unsafe fn find(handle: *mut c_void, name: &CStr) -> *mut c_void {
    // SAFETY: the handle is valid, by this function's contract, and the name is a C string.
    unsafe { libc::dlsym(handle, name.as_ptr()) }
}

// --- The process ----------------------------------------------------------------------------------

/// Returns why the last call of the calling thread failed.
pub(crate) fn last_error() -> c_int {
    #[cfg(target_os = "linux")]
    use libc::__errno_location as place;
    #[cfg(target_os = "macos")]
    use libc::__error as place;
    // SAFETY: this is the calling thread's own variable.
    unsafe { *place() }
}

/// An error as people read it: the system's words, and the number.
#[cfg_attr(not(pep788_redirects), allow(dead_code))]
pub(crate) struct OsError(pub(crate) c_int);

impl fmt::Display for OsError {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut words = [0u8; 128];
        // The last byte is left out, so it stays NUL.
        let (place, room) = (words.as_mut_ptr().cast::<c_char>(), words.len() - 1);
        // SAFETY: the place has that much room.
        let failed = unsafe { libc::strerror_r(self.0, place, room) } != 0;
        let known = CStr::from_bytes_until_nul(&words).unwrap_or_default().to_str();
        let words = known.ok().filter(|words| !failed && !words.is_empty());
        write!(to, "{} (os error {})", words.unwrap_or("unknown error"), self.0)
    }
}

pub(crate) fn process_id() -> u32 {
    // SAFETY: `getpid` has no preconditions.
    unsafe { libc::getpid() }.unsigned_abs()
}

/// Has these functions called when the process forks: `before` it, and after it in both processes. Returns `false` if there
/// is no memory.
///
/// # Safety
/// The functions may be called in any thread that forks.
pub(crate) unsafe fn at_fork(
    before: unsafe extern "C" fn(),
    in_parent: unsafe extern "C" fn(),
    in_child: unsafe extern "C" fn(),
) -> bool {
    // SAFETY: the functions may be called, by this function's contract. They stay loaded, as the library does.
    unsafe { libc::pthread_atfork(Some(before), Some(in_parent), Some(in_child)) == 0 }
}

/// Returns the time by a clock that never goes back, to the nanosecond.
pub(crate) fn now() -> Duration {
    let time = time_of(libc::CLOCK_MONOTONIC);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Returns the time of the same clock in milliseconds. It is never 0.
pub(crate) fn clock() -> u64 {
    clock_of(libc::CLOCK_MONOTONIC)
}

pub(super) fn clock_of(clock: libc::clockid_t) -> u64 {
    let time = time_of(clock);
    time.tv_sec as u64 * 1000 + time.tv_nsec as u64 / 1_000_000 + 1
}

fn time_of(clock: libc::clockid_t) -> libc::timespec {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a valid place.
    unsafe { libc::clock_gettime(clock, &mut time) };
    time
}

/// Makes the calling thread sleep for that time, signals or not.
pub(crate) fn sleep(time: Duration) {
    let until = now() + time;
    loop {
        let left = until.saturating_sub(now());
        if left.is_zero() {
            return;
        }
        let wanted =
            libc::timespec { tv_sec: left.as_secs() as _, tv_nsec: left.subsec_nanos() as _ };
        // SAFETY: the time is a valid one, and nobody asks for what is left of it.
        unsafe { libc::nanosleep(&wanted, core::ptr::null_mut()) };
    }
}

/// Ends the process by SIGABRT.
pub(crate) fn abort() -> ! {
    // SAFETY: the call has no preconditions.
    unsafe { libc::abort() }
}

/// Ends the process as Ctrl-C does by default.
pub(crate) fn end_by_interrupt() -> ! {
    // SAFETY: the default action ends the process.
    unsafe {
        libc::signal(libc::SIGINT, libc::SIG_DFL);
        libc::raise(libc::SIGINT);
        // If the signal is blocked, the process ends with the status that a shell would report.
        libc::_exit(128 + libc::SIGINT)
    }
}

/// Returns the value of an environment variable.
pub(crate) fn variable(name: &CStr) -> Option<&'static CStr> {
    // SAFETY: the name is a C string, and the value is used at once. A program that changes the environment while
    // other threads run has worse problems.
    unsafe {
        let value = libc::getenv(name.as_ptr());
        (!value.is_null()).then(|| CStr::from_ptr(value))
    }
}

/// Calls `tell` with the name of each environment variable.
pub(crate) fn variables(mut tell: impl FnMut(&[u8])) {
    extern "C" {
        static environ: *const *const c_char;
    }
    // SAFETY: `environ` is NULL, or it has C strings up to a NULL. A program that changes the environment while other
    // threads run has worse problems.
    unsafe {
        let mut place = environ;
        while !place.is_null() && !(*place).is_null() {
            let text = CStr::from_ptr(*place).to_bytes();
            tell(text.split(|byte| *byte == b'=').next().unwrap_or_default());
            place = place.add(1);
        }
    }
}

/// Frees text that a function of the process has allocated by `malloc`.
///
/// # Safety
/// The text is used no more.
pub(crate) unsafe fn free_text(text: *mut c_char) {
    // SAFETY: the memory is that of `malloc`, by this function's contract.
    unsafe { libc::free(text.cast()) };
}

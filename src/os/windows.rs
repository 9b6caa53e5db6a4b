//! Windows: what of it the library uses.
//!
//! There is no fork here, and no signal that interrupts a thread. What has to do with these does nothing.

use alloc::vec::Vec;
use core::ffi::{c_int, c_void, CStr};
use core::ptr::{null, null_mut};
use core::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use core::time::Duration;

use windows_sys::Win32::Foundation::{
    CloseHandle, GetLastError, ERROR_INVALID_PARAMETER, STATUS_CONTROL_C_EXIT, STILL_ACTIVE,
};
use windows_sys::Win32::Storage::FileSystem::WriteFile;
use windows_sys::Win32::System::Console::{GetStdHandle, STD_ERROR_HANDLE};
use windows_sys::Win32::System::Diagnostics::Debug::ReadProcessMemory;
use windows_sys::Win32::System::Environment::{
    FreeEnvironmentStringsA, GetEnvironmentStrings, GetEnvironmentVariableA,
};
use windows_sys::Win32::System::LibraryLoader::{
    GetModuleHandleExA, GET_MODULE_HANDLE_EX_FLAG_FROM_ADDRESS, GET_MODULE_HANDLE_EX_FLAG_PIN,
};
use windows_sys::Win32::System::Performance::{QueryPerformanceCounter, QueryPerformanceFrequency};
use windows_sys::Win32::System::SystemInformation::GetTickCount64;
use windows_sys::Win32::System::Threading::{
    CreateThread, ExitThread, FlsAlloc, FlsFree, FlsSetValue, FlushProcessWriteBuffers,
    GetCurrentProcess, GetCurrentProcessId, GetCurrentThreadId, GetCurrentThreadStackLimits,
    GetExitCodeThread, OpenThread, Sleep, TerminateProcess, WaitOnAddress, WakeByAddressAll,
    WakeByAddressSingle, FLS_OUT_OF_INDEXES, INFINITE, THREAD_QUERY_LIMITED_INFORMATION,
};

use super::words_windows as words;

/// Has a function called when the library is loaded.
macro_rules! at_load {
    ($function:path) => {
        #[used]
        #[link_section = ".CRT$XCU"]
        static AT_LOAD: extern "C" fn() = $function;
    };
}
pub(crate) use at_load;

at_load!(stay_loaded);

/// Keeps the library loaded: exit callbacks, pending calls and the ends of threads point into it.
extern "C" fn stay_loaded() {
    let flags = GET_MODULE_HANDLE_EX_FLAG_FROM_ADDRESS | GET_MODULE_HANDLE_EX_FLAG_PIN;
    let own = stay_loaded as *const () as *const u8;
    let mut module = null_mut();
    // SAFETY: the address is in this library, and `module` is a valid place.
    unsafe { GetModuleHandleExA(flags, own, &mut module) };
}

// --- Barriers -------------------------------------------------------------------------------------

/// Returns `true`: there always are [barriers](barrier).
pub(crate) fn register_barriers() -> bool {
    true
}

/// Has all threads of the process pass a memory barrier.
pub(crate) fn barrier() -> bool {
    // SAFETY: no preconditions.
    unsafe { FlushProcessWriteBuffers() };
    true
}

// --- Threads --------------------------------------------------------------------------------------

/// Returns the number by which the system knows the calling thread. A thread state of CPython has it as its `thread_id`.
pub(crate) fn this_handle() -> usize {
    this_id() as usize
}

/// Returns the same number, by which debuggers and `threading.Thread.native_id` know the thread.
pub(crate) fn this_id() -> u64 {
    // SAFETY: no preconditions.
    u64::from(unsafe { GetCurrentThreadId() })
}

/// Writes the name of a thread, if it has one. What is left of the place stays as it is.
///
/// # Safety
/// The thread is alive, and has this handle.
pub(crate) unsafe fn write_name(handle: usize, place: &mut [u8]) {
    super::names::write(handle as u32, place);
}

/// Returns the system's numbers of this process and this thread, for [`is_gone`].
pub(crate) fn this_ids() -> [i32; 2] {
    // SAFETY: no preconditions.
    unsafe { [GetCurrentProcessId() as i32, GetCurrentThreadId() as i32] }
}

/// Returns whether the thread has ended. The library is not told of it if `TerminateThread` ended it.
pub(crate) fn is_gone([_, id]: [i32; 2]) -> bool {
    // SAFETY: the handle is this function's own, and `code` is a valid place.
    unsafe {
        let thread = OpenThread(THREAD_QUERY_LIMITED_INFORMATION, 0, id as u32);
        if thread.is_null() {
            return GetLastError() == ERROR_INVALID_PARAMETER;
        }
        let mut code = STILL_ACTIVE as u32;
        let is_told = GetExitCodeThread(thread, &mut code) != 0;
        CloseHandle(thread);
        is_told && code != STILL_ACTIVE as u32
    }
}

/// Returns `false`: the library does not know how to tell.
pub(crate) fn another_runs(_is_left_out: impl Fn(u64) -> bool) -> bool {
    false
}

/// Returns 0: the library does not know how to tell.
pub(crate) fn how_often_this_thread_waited() -> i64 {
    0
}

/// Returns `None`: the library does not know how to tell.
pub(crate) fn how_often_others_ran() -> Option<u64> {
    None
}

pub(crate) fn prepare_to_end_threads() {}

/// Ends the calling thread as CPython does: nothing is unwound.
pub(crate) fn end_this_thread() -> ! {
    // SAFETY: the thread holds nothing of the library.
    unsafe { ExitThread(0) }
}

/// Starts a thread. Returns `false` if no thread can be started.
pub(crate) fn start_thread(body: fn()) -> bool {
    unsafe extern "system" fn run(body: *mut c_void) -> u32 {
        // SAFETY: the argument is the function given below.
        let body = unsafe { core::mem::transmute::<*mut c_void, fn()>(body) };
        body();
        0
    }
    // SAFETY: the thread takes no more than the function. The handle is this function's own.
    unsafe {
        let thread = CreateThread(null(), 0, Some(run), body as *const c_void, 0, null_mut());
        if !thread.is_null() {
            CloseHandle(thread);
        }
        !thread.is_null()
    }
}

/// Sleeps while the word has this value, at most for that time. May also return for nothing.
pub(super) fn sleep_on(word: &AtomicU32, value: u32, time: Option<Duration>) {
    // At least as long, and at most as long as can be said.
    let limit = u128::from(INFINITE - 1);
    let time = time.map_or(INFINITE, |time| time.as_micros().div_ceil(1000).min(limit) as u32);
    let (word, value) = (word.as_ptr().cast(), core::ptr::from_ref(&value).cast());
    // SAFETY: both words outlive the call.
    unsafe { WaitOnAddress(word, value, size_of::<u32>(), time) };
}

/// Wakes up to so many threads that sleep on the word: one, or all.
pub(super) fn wake(word: &AtomicU32, threads: i32) {
    // SAFETY: the calls touch no memory.
    unsafe {
        match threads {
            1 => WakeByAddressSingle(word.as_ptr().cast()),
            _ => WakeByAddressAll(word.as_ptr().cast()),
        }
    }
}

/// Does nothing: no signal handler runs in a thread that did not ask for it.
pub(crate) fn block_signals() {}

#[link(name = "ntdll")]
extern "system" {
    fn RtlDllShutdownInProgress() -> u8;
}

/// Has `end` called with `value` when the calling thread ends. It comes before the destructors of C++. If one of these uses
/// the library again, nothing is called, but the thread [is gone](is_gone) then. If `value` is null, `end` is not called.
/// Returns `false` if there is no memory. All callers give the same `end`.
pub(crate) fn at_thread_end(value: *mut c_void, end: unsafe extern "C" fn(*mut c_void)) -> bool {
    static INDEX: AtomicU32 = AtomicU32::new(FLS_OUT_OF_INDEXES);
    static END: AtomicUsize = AtomicUsize::new(0);
    unsafe extern "system" fn end_of_thread(value: *const c_void) {
        // While the process ends, its last thread comes here too. The others are gone, with the locks that they had.
        // SAFETY: no preconditions. `END` has the function of that type, which was stored before any value was set.
        unsafe {
            if RtlDllShutdownInProgress() == 0 {
                let end = END.load(Ordering::Relaxed);
                let end = core::mem::transmute::<usize, unsafe extern "C" fn(*mut c_void)>(end);
                end(value.cast_mut());
            }
        }
    }
    END.store(end as usize, Ordering::Relaxed);
    // Relaxed: a number, and no memory belongs to it.
    if INDEX.load(Ordering::Relaxed) == FLS_OUT_OF_INDEXES {
        // SAFETY: the function stays loaded, as the library does.
        let made = unsafe { FlsAlloc(Some(end_of_thread)) };
        if made == FLS_OUT_OF_INDEXES {
            return false;
        }
        let none = FLS_OUT_OF_INDEXES;
        if INDEX.compare_exchange(none, made, Ordering::Relaxed, Ordering::Relaxed).is_err() {
            // SAFETY: the index was made above, and never used.
            unsafe { FlsFree(made) };
        }
    }
    // SAFETY: the index is this library's own.
    words::has_own() && unsafe { FlsSetValue(INDEX.load(Ordering::Relaxed), value) != 0 }
}

// --- Memory ---------------------------------------------------------------------------------------

/// What CPython calls `PyCOND_T` and `PyMUTEX_T`, in 3.9 to 3.11: a semaphore with a count, and a critical section.
pub(crate) type CMutex = windows_sys::Win32::System::Threading::CRITICAL_SECTION;
#[repr(C)]
pub(crate) struct CCondition(*mut c_void, c_int);

/// Copies memory that may have been freed, or even unmapped, in the meantime.
pub(crate) fn read_without_faulting(from: *const c_void, to: &mut [usize]) -> bool {
    let bytes = core::mem::size_of_val(to);
    let mut read = 0;
    // SAFETY: the system checks the memory that it reads from. It writes only to `to` and `read`.
    let is_read = unsafe {
        ReadProcessMemory(GetCurrentProcess(), from, to.as_mut_ptr().cast(), bytes, &mut read)
    };
    is_read != 0 && read == bytes
}

/// Returns whether the address is on the calling thread's stack.
pub(crate) fn is_on_this_stack(address: usize) -> bool {
    let (mut low, mut high) = (0, 0);
    // SAFETY: both places are valid.
    unsafe { GetCurrentThreadStackLimits(&mut low, &mut high) };
    (low..high).contains(&address)
}

// --- The process ----------------------------------------------------------------------------------

pub(crate) fn process_id() -> u32 {
    // SAFETY: no preconditions.
    unsafe { GetCurrentProcessId() }
}

/// Does nothing, and returns `true`: a process cannot fork.
pub(crate) unsafe fn at_fork(
    _before: unsafe extern "C" fn(),
    _in_parent: unsafe extern "C" fn(),
    _in_child: unsafe extern "C" fn(),
) -> bool {
    true
}

/// Ends the process as Ctrl-C does by default.
pub(crate) fn end_by_interrupt() -> ! {
    // SAFETY: ends this process.
    unsafe { TerminateProcess(GetCurrentProcess(), STATUS_CONTROL_C_EXIT as u32) };
    abort()
}

/// Ends the process as CPython's fatal errors do.
pub(crate) fn abort() -> ! {
    // SAFETY: the call has no preconditions.
    unsafe { libc::abort() }
}

/// Returns the value of an environment variable. What it returns is never freed. The system is asked, and not the C library:
/// each C library of a process has variables of its own.
pub(crate) fn variable(name: &CStr) -> Option<&'static CStr> {
    let name = name.as_ptr().cast();
    // SAFETY: the name is a C string, and no place is given.
    let room = unsafe { GetEnvironmentVariableA(name, null_mut(), 0) };
    let mut text = Vec::new();
    if room == 0 || text.try_reserve_exact(room as usize).is_err() {
        return None;
    }
    text.resize(room as usize, 0u8);
    // The last byte stays NUL, even if the variable was changed meanwhile.
    // SAFETY: the name is a C string, and the place has this size.
    unsafe { GetEnvironmentVariableA(name, text.as_mut_ptr(), room) };
    CStr::from_bytes_until_nul(text.leak()).ok()
}

/// Calls `tell` with the name of each environment variable.
pub(crate) fn variables(mut tell: impl FnMut(&[u8])) {
    // SAFETY: the system gives a block of C strings, which ends with an empty one. It is freed afterwards.
    unsafe {
        let block = GetEnvironmentStrings();
        let mut place = block;
        while !place.is_null() && *place != 0 {
            let text = CStr::from_ptr(place.cast()).to_bytes();
            // Some names of the system's own begin with `=`.
            tell(text.split(|byte| *byte == b'=').next().unwrap_or_default());
            place = place.add(text.len() + 1);
        }
        FreeEnvironmentStringsA(block);
    }
}

/// Frees text that a function of the process has allocated by its C library's `malloc`. Nothing is freed here: which C
/// library that is, is not known.
pub(crate) unsafe fn free_text(_text: *mut core::ffi::c_char) {}

/// Returns the time in milliseconds, by a clock that never goes back. It is never 0.
pub(crate) fn clock() -> u64 {
    // SAFETY: no preconditions.
    unsafe { GetTickCount64() + 1 }
}

/// Returns the time by a clock that never goes back, as exactly as the system knows it.
pub(crate) fn now() -> Duration {
    let (mut ticks, mut of_a_second) = (0, 0);
    // SAFETY: the places are valid.
    unsafe {
        QueryPerformanceCounter(&mut ticks);
        QueryPerformanceFrequency(&mut of_a_second);
    }
    let (ticks, of_a_second) = (ticks.unsigned_abs(), of_a_second.unsigned_abs().max(1));
    let rest = ticks % of_a_second * 1_000_000_000 / of_a_second;
    Duration::new(ticks / of_a_second, rest as u32)
}

/// Makes the calling thread sleep for that time.
pub(crate) fn sleep(time: Duration) {
    let until = now() + time;
    loop {
        let left = until.saturating_sub(now());
        if left.is_zero() {
            return;
        }
        // For less than a millisecond, other threads may run, and the loop goes on.
        // SAFETY: no preconditions.
        unsafe { Sleep(left.as_millis().min(1000) as u32) };
    }
}

/// Returns the time of [`clock`], which takes a few nanoseconds.
pub(crate) fn coarse_clock() -> u64 {
    clock()
}

/// Writes to the process's stderr. Python's own `sys.stderr` may be another file by now. Nobody can be asked whether a pipe
/// has room: this waits for whoever reads it.
pub(crate) fn say(text: &[u8]) {
    let mut rest = text;
    while !rest.is_empty() {
        let mut written = 0;
        let length = rest.len().min(1 << 16) as u32;
        // SAFETY: the bytes come from a valid slice, and `written` is a valid place. A handle that is not one is refused.
        let is_written = unsafe {
            let stderr = GetStdHandle(STD_ERROR_HANDLE);
            WriteFile(stderr, rest.as_ptr(), length, &mut written, null_mut())
        };
        if is_written == 0 || written == 0 {
            return;
        }
        rest = &rest[written as usize..];
    }
}

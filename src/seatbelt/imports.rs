//! Ends the threads that CPython itself finds to be too late.
//!
//! Such a thread comes back by `PyEval_RestoreThread`, `PyEval_AcquireLock`, `PyThreadState_Swap`, or by CPython's
//! evaluation loop, which takes the GIL back. Up to 3.13 CPython calls `pthread_exit` for such a thread, and from
//! 3.14 on `pause`. Both calls come here (`patch/slots.rs`), and `exit/late.rs` ends the thread.
//!
//! `pthread_create` comes here too. A program whose only threads are Python's calls nothing else that is redirected,
//! but its exit is to be bounded as well. So when such a program starts a thread, the exit callback is asked for.
//!
//! Other callers of `pthread_exit` and `pause` through the same slots are left alone: a thread that ends as it
//! should, `signal.pause()`, and the code of a program that CPython is linked into.

use core::ffi::{c_int, c_void, CStr};
use core::sync::atomic::{AtomicPtr, Ordering};

use super::call::request_install;
use crate::exit::{bound, late};
use crate::gate::registry::{main, registry};
use crate::patch::slots;
use crate::python::{self, states};
use crate::support::kept::Kept;
use crate::support::memory::Text;
use crate::system::stack;
use crate::system::symbols::Symbols;
use crate::thread::thread::Thread;
use crate::watch::file::is_only_watched;
use crate::watch::phases;
use crate::watch::threads::{self, Fate};

extern "C" {
    // These are in `calls.c`, which is linked into this library.
    fn pep788_pthread_exit(result: *mut c_void);
    fn pep788_pause() -> c_int;
    fn pep788_pthread_create();
    static pep788_is_too_late: AtomicPtr<c_void>;
    static pep788_thread_is_started: AtomicPtr<c_void>;
}

/// Redirects CPython's calls to this file. This is done again and again: the loader may write the slots when it has
/// just loaded CPython, or when a function is called for the first time.
pub(super) fn redirect() {
    late::prepare(bound::begin_unannounced);
    look_up();
    // SAFETY: these are pointers to functions, which C reads as a whole. Relaxed: the pointers are stored before the
    // slots lead to the code that reads them, and they are always the same.
    unsafe {
        pep788_is_too_late.store(is_too_late as *mut c_void, Ordering::Relaxed);
        pep788_thread_is_started.store(thread_is_started as *mut c_void, Ordering::Relaxed);
    }
    let inside = python::address_of(c"PyGILState_Ensure") as usize;
    if inside != 0 {
        slots::replace(
            inside,
            &[
                (c"pthread_exit", pep788_pthread_exit as *const () as usize),
                (c"pause", pep788_pause as *const () as usize),
                (c"pthread_create", pep788_pthread_create as *const () as usize),
            ],
        );
    }
}

unsafe extern "C" fn thread_is_started() {
    if let Some(py) = python::get() {
        request_install(py);
        phases::request(py);
    }
}

unsafe extern "C" fn is_too_late(sleeps: c_int) -> c_int {
    let Some(py) = python::get() else { return 0 };
    let main = main();
    if Thread::known().is_some_and(|thread| thread.legacy.finalizes(main)) {
        return 0;
    }
    // SAFETY: `Py_IsInitialized` needs no thread state.
    let is_gone = states::get().are_going() || unsafe { py.Py_IsInitialized() } == 0;
    let one_is_ending = || {
        let registry = registry();
        let ending = registry.live().any(|record| !record.is_main() && record.gate.is_closed());
        ending
    };
    let is_late = (is_gone || one_is_ending()) && is_called_by_python();
    if is_late && is_only_watched() {
        threads::is_late(py, if sleeps != 0 { Fate::Sleeps } else { Fate::Unwound });
    }
    c_int::from(is_late && !is_only_watched())
}

/// Functions of CPython that wait for the GIL, or that end a thread. If CPython finds a thread to be too late, one
/// of these functions is on the stack of that thread.
const WAITS: [&CStr; 9] = [
    c"PyEval_RestoreThread",
    c"PyEval_AcquireThread",
    c"PyEval_AcquireLock",
    c"PyThreadState_Swap",
    c"PyGILState_Ensure",
    c"_PyEval_EvalFrameDefault",
    c"PyThread_exit_thread",
    c"PyThreadState_Ensure",
    c"PyThreadState_EnsureFromView",
];

/// The addresses of these functions, if CPython is linked into the executable. In such an executable other code
/// calls `pthread_exit` and `pause` through the same slots. The addresses are looked up beforehand: a thread that
/// has the loader's lock may wait for the end of the late thread.
static IN_EXECUTABLE: Kept<Option<[usize; WAITS.len()]>> = Kept::new();

fn look_up() {
    let found =
        python::is_in_executable().then(|| WAITS.map(|name| python::address_of(name) as usize));
    IN_EXECUTABLE.keep(found);
}

fn is_called_by_python() -> bool {
    let Some(Some(waits)) = IN_EXECUTABLE.get() else { return true };
    if bound::is_of_pythons_own_program() {
        return true;
    }
    let mut addresses = [0; 16];
    let depth = stack::walk(&mut addresses);
    let stack = &addresses[..depth];
    let exported = |address: &usize| {
        let function = stack::function_of(*address) as usize;
        function != 0 && waits.contains(&function)
    };
    // A call at the end of a function may have taken the function's place on the stack. Then the executable's own
    // table of symbols may know the function that was called there.
    stack.iter().any(exported) || {
        let symbols = Symbols::look_up(stack.iter().copied());
        let names = stack.iter().filter_map(|address| symbols.get(*address)?.function.as_ref());
        let is_behind = |name: &Text| BEHIND.iter().any(|begin| name.as_str().starts_with(begin));
        names.into_iter().any(is_behind)
    }
}

const BEHIND: [&str; 3] = ["take_gil", "_PyThreadState_Attach", "PyThread_hang_thread"];

//! Views, guards and attaching from Rust. A failed assertion ends the process.

use pep788::{Guard, View};
use std::ffi::{c_char, c_int, CStr};
use std::sync::{Condvar, Mutex, OnceLock};
use std::thread;

extern "C" {
    fn PyRun_SimpleString(code: *const c_char) -> c_int;
    fn PyGILState_Check() -> c_int;
    fn atexit(function: extern "C" fn()) -> c_int;
}

static VIEW: OnceLock<View> = OnceLock::new();
static EXITING: Mutex<bool> = Mutex::new(false);
static CHANGED: Condvar = Condvar::new();

fn run(code: &CStr) {
    assert!(is_attached());
    // SAFETY: attached, and a C string.
    assert_eq!(unsafe { PyRun_SimpleString(code.as_ptr()) }, 0);
}

fn run_in(view: &View, code: &CStr) {
    let _attached = view.attach().unwrap();
    run(code);
}

fn is_attached() -> bool {
    // SAFETY: needs nothing.
    unsafe { PyGILState_Check() != 0 }
}

/// Called attached. At exit its threads print what they have to say.
#[no_mangle]
pub extern "C" fn begin() {
    let view = VIEW.get_or_init(|| View::current().unwrap());
    let guard = Guard::current().unwrap();
    let by_view = view.guard().unwrap();
    thread::spawn(move || {
        nest(view, &by_view);
        drop(by_view);
        drop(CHANGED.wait_while(EXITING.lock().unwrap(), |exiting| !*exiting).unwrap());
        let attached = guard.attach().unwrap();
        run(c"print('guarded')");
        drop(attached);
        assert!(!is_attached());
        // The exit goes on when the guard is dropped, here.
    });
    // SAFETY: a function that may be called at any time.
    unsafe { atexit(refused) };
}

fn nest(view: &View, guard: &Guard) {
    assert!(!is_attached());
    if pep788::keep(true) {
        run_in(view, c"import threading; local = threading.local(); local.x = 1");
        run_in(view, c"assert local.x == 1");
        assert!(pep788::keep(false));
    }
    run_in(view, c"import threading; local = threading.local()");
    {
        let _outer = view.attach().unwrap();
        run(c"x = 1");
        {
            let _inner = guard.attach().unwrap();
            run(c"x += 1");
        }
        run(c"assert x == 2");
    }
    assert!(!is_attached());
    {
        // It stays attached when the view is gone.
        let _attached = View::main().attach().unwrap();
        run(c"x += 1");
    }
    let raw = View::main().into_raw();
    // SAFETY: just given up.
    let view = unsafe { View::from_raw(raw) }.unwrap();
    let raw = view.guard().unwrap().into_raw();
    // SAFETY: just given up.
    drop(unsafe { Guard::from_raw(raw) }.unwrap());
    // SAFETY: NULL is none.
    assert!(unsafe { Guard::from_raw(std::ptr::null_mut()) }.is_none());
}

/// Called in the exit, before it waits.
#[no_mangle]
pub extern "C" fn exiting() {
    *EXITING.lock().unwrap() = true;
    CHANGED.notify_one();
}

/// At the end of the process, when Python is gone.
extern "C" fn refused() {
    let view = VIEW.get().unwrap();
    assert!(view.attach().is_none());
    assert!(view.guard().is_none());
    println!("refused");
}

//! The accepted API for Rust: views, guards and attaching, with the rules of the C functions in types.
//!
//! It does what the C functions do. So on 3.15 the interpreter's own functions serve here too.

use core::marker::PhantomData;
use core::num::NonZeroUsize;
use core::ptr::NonNull;

use crate::capi::{self, PyInterpreterGuard, PyInterpreterView};

/// Names an interpreter without keeping it from finalizing.
///
/// ```no_run
/// // This thread is attached. `View::main()` needs no attached thread.
/// let view = pep788::View::current().expect("memory");
/// std::thread::spawn(move || {
///     while let Some(_attached) = view.attach() {
///         // Call Python here: the exit waits for it.
///     }
///     // Python is exiting, or gone.
/// });
/// ```
#[derive(Debug)]
pub struct View(NonNull<PyInterpreterView>);

// SAFETY: a view may be used and closed by any thread, and by several at once.
unsafe impl Send for View {}
// SAFETY: the functions that take a view may be called by several threads at once.
unsafe impl Sync for View {}

impl View {
    /// Makes a view of the current interpreter. If the thread has no attached thread state, this is a fatal error.
    ///
    /// Returns `None`, with a Python exception set, if there is no memory, or if a hook refuses the import of `atexit` at the
    /// first use.
    pub fn current() -> Option<View> {
        // SAFETY: the function ends the process if the thread is not attached. Otherwise it may always be called.
        NonNull::new(unsafe { capi::view_from_current() }).map(View)
    }

    /// Makes a view of the main interpreter. Any thread may call this at any time. Code that uses it cannot work in
    /// subinterpreters. The process ends if it has no Python, or no memory.
    pub fn main() -> View {
        // SAFETY: any thread may call this function.
        let view = NonNull::new(unsafe { capi::view_from_main() });
        View(view.unwrap_or_else(|| {
            alloc::alloc::handle_alloc_error(core::alloc::Layout::new::<*const ()>())
        }))
    }

    /// Guards the interpreter. Returns `None` if the interpreter is finalizing or gone.
    pub fn guard(&self) -> Option<Guard> {
        // SAFETY: the view is open.
        NonNull::new(unsafe { capi::guard_from_view(self.as_ptr()) }).map(Guard)
    }

    /// Attaches this thread, and guards the interpreter until the result is dropped. Returns `None` if the
    /// interpreter is finalizing or gone. The view may be dropped before the result.
    #[must_use = "the thread is attached only as long as the result is there"]
    pub fn attach(&self) -> Option<Attached<'static>> {
        // SAFETY: the view is open.
        Attached::new(unsafe { capi::ensure_of_view(self.as_ptr() as usize) })
    }

    /// Returns the view for C code. This object keeps the view, and closes it.
    pub fn as_ptr(&self) -> *mut PyInterpreterView {
        self.0.as_ptr()
    }

    /// Gives the view to C code, which closes it.
    pub fn into_raw(self) -> *mut PyInterpreterView {
        core::mem::ManuallyDrop::new(self).as_ptr()
    }

    /// Takes over a view from C code. Returns `None` for NULL.
    ///
    /// # Safety
    /// The view is open, and no other code closes it.
    pub unsafe fn from_raw(view: *mut PyInterpreterView) -> Option<View> {
        NonNull::new(view).map(View)
    }
}

impl Drop for View {
    fn drop(&mut self) {
        // SAFETY: the view is open, and it is closed only here.
        unsafe { capi::view_close(self.as_ptr()) }
    }
}

/// Keeps its interpreter from finalizing until the guard is dropped.
///
/// ```no_run
/// let guard = pep788::Guard::current().expect("an interpreter that is not exiting");
/// std::thread::spawn(move || {
///     let attached = guard.attach().expect("memory");
///     // Call Python here. The exit waits until the guard is dropped, at the end of this scope.
/// });
/// ```
///
/// The result of [`attach`](Guard::attach) must be dropped before the guard:
///
/// ```compile_fail,E0505
/// let guard = pep788::Guard::current().unwrap();
/// let attached = guard.attach();
/// drop(guard);
/// drop(attached);
/// ```
#[derive(Debug)]
pub struct Guard(NonNull<PyInterpreterGuard>);

// SAFETY: a guard may be used and closed by any thread, and used by several at once.
unsafe impl Send for Guard {}
// SAFETY: the functions that take a guard may be called by several threads at once.
unsafe impl Sync for Guard {}

impl Guard {
    /// Guards the current interpreter. If the thread has no attached thread state, this is a fatal error.
    ///
    /// Returns `None`, with a Python exception set, once the interpreter gives no more guards.
    pub fn current() -> Option<Guard> {
        // SAFETY: the function ends the process if the thread is not attached. Otherwise it may always be called.
        NonNull::new(unsafe { capi::guard_from_current() }).map(Guard)
    }

    /// Attaches this thread until the result is dropped. Returns `None` only if there is no memory.
    #[must_use = "the thread is attached only as long as the result is there"]
    pub fn attach(&self) -> Option<Attached<'_>> {
        // SAFETY: the guard is open, and stays open as long as the result is there.
        Attached::new(unsafe { capi::ensure_of_guard(self.as_ptr() as usize) })
    }

    /// Returns the guard for C code. This object keeps the guard, and closes it.
    pub fn as_ptr(&self) -> *mut PyInterpreterGuard {
        self.0.as_ptr()
    }

    /// Gives the guard to C code, which closes it.
    pub fn into_raw(self) -> *mut PyInterpreterGuard {
        core::mem::ManuallyDrop::new(self).as_ptr()
    }

    /// Takes over a guard from C code. Returns `None` for NULL.
    ///
    /// # Safety
    /// The guard is open, and no other code closes it.
    pub unsafe fn from_raw(guard: *mut PyInterpreterGuard) -> Option<Guard> {
        NonNull::new(guard).map(Guard)
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        // SAFETY: the guard is open, and it is closed only here.
        unsafe { capi::guard_close(self.as_ptr()) }
    }
}

/// Keeps this thread attached. When the value is dropped, exactly what was attached before is attached again.
///
/// If there are several of these values, the latest must be dropped first. What it attached must still be attached
/// then. Otherwise the process ends with a fatal error. If a value is forgotten (`core::mem::forget`), the thread
/// stays attached and the exit waits.
///
/// The value cannot leave its thread:
///
/// ```compile_fail,E0277
/// let attached = pep788::View::main().attach();
/// std::thread::spawn(move || drop(attached));
/// ```
///
/// Views and guards may be sent to any thread:
///
/// ```
/// fn goes_anywhere<T: Send + Sync>() {}
/// goes_anywhere::<pep788::View>();
/// goes_anywhere::<pep788::Guard>();
/// ```
#[derive(Debug)]
pub struct Attached<'guard> {
    token: NonZeroUsize,
    /// Binds the value to one thread, and to the lifetime of the guard.
    bound: PhantomData<(*const (), &'guard Guard)>,
}

impl Attached<'_> {
    /// Takes the result of an Ensure, which is zero for a refusal.
    fn new(token: usize) -> Option<Self> {
        NonZeroUsize::new(token).map(|token| Attached { token, bound: PhantomData })
    }
}

impl Drop for Attached<'_> {
    fn drop(&mut self) {
        // SAFETY: the function ends the process if this is not the thread's innermost Ensure.
        unsafe { capi::release(self.token.get()) }
    }
}

/// Says whether this thread keeps the thread state that an attach makes for it. A thread that attaches often is served
/// faster then, and what Python code put into a `threading.local` is still there the next time. When the thread ends, it
/// attaches once more to delete the thread state. So the thread that joins it must not hold the GIL meanwhile.
///
/// Returns `false` if nothing is kept: from CPython 3.15 on, or if there is no memory. `include/pep788_keep.h` says more.
///
/// ```
/// // In a process with Python: pep788::keep(true);
/// let _: fn(bool) -> bool = pep788::keep;
/// ```
pub fn keep(keep: bool) -> bool {
    // SAFETY: the function may always be called.
    unsafe { capi::Pep788_KeepThreadState(keep.into()) == 0 }
}

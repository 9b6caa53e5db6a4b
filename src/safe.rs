//! The accepted API for Rust: views, guards and attaching, with the rules of the C functions in
//! types. It does what those functions do; so on 3.15 the interpreter's own serve here too.

use std::marker::PhantomData;
use std::num::NonZeroUsize;
use std::ptr::NonNull;

use crate::capi::{self, PyInterpreterGuard, PyInterpreterView};

/// Names an interpreter without keeping it from finalizing.
///
/// ```no_run
/// // While attached; or `View::main()`, at any time.
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
    /// A view of the current interpreter. Without an attached thread state this is a fatal error.
    ///
    /// `None`, with a Python exception set, only when out of memory.
    pub fn current() -> Option<View> {
        // SAFETY: ends the process if the thread is not attached; otherwise always allowed.
        NonNull::new(unsafe { capi::view_from_current() }).map(View)
    }

    /// A view of the main interpreter, for any thread at any time. Code that uses it cannot work
    /// in subinterpreters. A process without Python, or without memory, is ended.
    pub fn main() -> View {
        // SAFETY: any thread may call it.
        let view = NonNull::new(unsafe { capi::view_from_main() });
        View(view.unwrap_or_else(|| {
            std::alloc::handle_alloc_error(std::alloc::Layout::new::<*const ()>())
        }))
    }

    /// Guards the interpreter; `None` if it is finalizing or gone.
    pub fn guard(&self) -> Option<Guard> {
        // SAFETY: the view is open.
        NonNull::new(unsafe { capi::guard_from_view(self.as_ptr()) }).map(Guard)
    }

    /// Attaches this thread, and guards the interpreter until the result is dropped; `None` if it is
    /// finalizing or gone. The view need not stay.
    #[must_use = "the thread is attached only as long as the result is there"]
    pub fn attach(&self) -> Option<Attached<'static>> {
        // SAFETY: the view is open.
        Attached::new(unsafe { capi::ensure_of_view(self.as_ptr() as usize) })
    }

    /// The view for C code. It stays this object's.
    pub fn as_ptr(&self) -> *mut PyInterpreterView {
        self.0.as_ptr()
    }

    /// Gives the view to C code, which closes it.
    pub fn into_raw(self) -> *mut PyInterpreterView {
        std::mem::ManuallyDrop::new(self).as_ptr()
    }

    /// Takes over a view of C code; `None` for NULL.
    ///
    /// # Safety
    /// It is open, and nobody else closes it.
    pub unsafe fn from_raw(view: *mut PyInterpreterView) -> Option<View> {
        NonNull::new(view).map(View)
    }
}

impl Drop for View {
    fn drop(&mut self) {
        // SAFETY: the view is open, and closed only here.
        unsafe { capi::view_close(self.as_ptr()) }
    }
}

/// Keeps its interpreter from finalizing until it is dropped.
///
/// ```no_run
/// let guard = pep788::Guard::current().expect("an interpreter that is not exiting");
/// std::thread::spawn(move || {
///     let attached = guard.attach().expect("memory");
///     // Call Python here. The exit waits until the guard is dropped, at the end of this scope.
/// });
/// ```
///
/// What is attached by a guard must be released while the guard is there:
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
    /// Guards the current interpreter. Without an attached thread state this is a fatal error.
    ///
    /// `None`, with a Python exception set, once the interpreter gives no more guards.
    pub fn current() -> Option<Guard> {
        // SAFETY: ends the process if the thread is not attached; otherwise always allowed.
        NonNull::new(unsafe { capi::guard_from_current() }).map(Guard)
    }

    /// Attaches this thread until the result is dropped; `None` only when out of memory.
    #[must_use = "the thread is attached only as long as the result is there"]
    pub fn attach(&self) -> Option<Attached<'_>> {
        // SAFETY: the guard is open, and stays so as long as the result is there.
        Attached::new(unsafe { capi::ensure_of_guard(self.as_ptr() as usize) })
    }

    /// The guard for C code. It stays this object's.
    pub fn as_ptr(&self) -> *mut PyInterpreterGuard {
        self.0.as_ptr()
    }

    /// Gives the guard to C code, which closes it.
    pub fn into_raw(self) -> *mut PyInterpreterGuard {
        std::mem::ManuallyDrop::new(self).as_ptr()
    }

    /// Takes over a guard of C code; `None` for NULL.
    ///
    /// # Safety
    /// It is open, and nobody else closes it.
    pub unsafe fn from_raw(guard: *mut PyInterpreterGuard) -> Option<Guard> {
        NonNull::new(guard).map(Guard)
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        // SAFETY: the guard is open, and closed only here.
        unsafe { capi::guard_close(self.as_ptr()) }
    }
}

/// This thread is attached; when this is dropped, exactly what was attached before is again.
///
/// To be dropped the latest first, and with what it attached still attached; otherwise the process
/// ends with a fatal error. Forgotten, it keeps the thread attached and the exit waiting.
///
/// It belongs to its thread:
///
/// ```compile_fail,E0277
/// let attached = pep788::View::main().attach();
/// std::thread::spawn(move || drop(attached));
/// ```
///
/// Views and guards go anywhere:
///
/// ```
/// fn goes_anywhere<T: Send + Sync>() {}
/// goes_anywhere::<pep788::View>();
/// goes_anywhere::<pep788::Guard>();
/// ```
#[derive(Debug)]
pub struct Attached<'guard> {
    token: NonZeroUsize,
    /// Of one thread, and no longer there than the guard.
    bound: PhantomData<(*const (), &'guard Guard)>,
}

impl Attached<'_> {
    /// Of the result of an Ensure, zero for a refusal.
    fn new(token: usize) -> Option<Self> {
        NonZeroUsize::new(token).map(|token| Attached { token, bound: PhantomData })
    }
}

impl Drop for Attached<'_> {
    fn drop(&mut self) {
        // SAFETY: ends the process if this is not the thread's innermost Ensure.
        unsafe { capi::release(self.token.get()) }
    }
}

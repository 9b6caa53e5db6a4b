//! Finds CPython in this process, and looks up its functions.

use alloc::borrow::ToOwned;
use alloc::ffi::CString;
use alloc::format;
use alloc::string::String;
use core::ffi::{c_char, c_void, CStr};
use core::sync::atomic::{AtomicPtr, Ordering};

use super::api::Api;
use crate::os;
use crate::support::kept::Kept;

/// Only success is remembered, because a program may load the library first and Python later.
static API: Kept<Api> = Kept::new();

/// Returns a function of CPython by its name, or null.
pub(crate) type Finder = fn(&CStr) -> *mut c_void;

/// A CPython that came late. `seatbelt/arrival.rs` says what that is.
pub(crate) struct Late {
    /// Finds names in this CPython.
    pub(crate) find: Finder,
    /// Does what remains to be done at the first call that comes to the library.
    pub(crate) complete: fn(),
}

/// This is not behind a lock, because another thread could have that lock while this thread forks.
static LATE: AtomicPtr<Late> = AtomicPtr::new(core::ptr::null_mut());

/// Looks up names in this CPython from now on, and not where the loader looks.
pub(crate) fn look_in(late: Option<&'static Late>) {
    let late = late.map_or(core::ptr::null_mut(), |late| core::ptr::from_ref(late).cast_mut());
    // Release: pairs with `late`. What was done with that CPython comes before.
    LATE.store(late, Ordering::Release);
}

pub(super) fn late() -> Option<&'static Late> {
    // SAFETY: NULL, or what `look_in` stored.
    // Acquire: pairs with the store in `look_in`.
    unsafe { LATE.load(Ordering::Acquire).as_ref() }
}

/// Returns whether CPython is known. Once known, it stays known. A CPython that came late stays loaded from then on.
pub(crate) fn is_found() -> bool {
    API.get().is_some()
}

/// Returns the version of a CPython that has everything the library needs. Calls nothing in that CPython, and leaves
/// nothing behind.
pub(crate) fn usable_version(find: Finder) -> Option<u16> {
    let scope = Scope::Late(find);
    let number = version(&scope)?;
    functions(&scope, number).is_ok().then_some(number)
}

enum Absent {
    NoPython,
    TooOld(String),
    Incomplete(&'static CStr),
}

impl Absent {
    fn explain(&self) -> String {
        match self {
            Absent::NoPython => "there is no CPython in this process; \
                call it from an extension module, or in a program that has loaded libpython"
                .into(),
            Absent::TooOld(version) => {
                format!("this process runs Python {version}; CPython 3.9 or later is needed")
            }
            Absent::Incomplete(name) => format!(
                "the Python in this process has no function {}; is it CPython?",
                name.to_string_lossy()
            ),
        }
    }
}

/// Returns CPython's functions, or `None` in a process without CPython.
pub(crate) fn get() -> Option<&'static Api> {
    obtain().ok()
}

/// Returns CPython's functions. If there are none, ends the process with a fatal error that says why.
#[inline]
pub(crate) fn get_or_fatal(function: &str) -> &'static Api {
    match API.get() {
        Some(api) => api,
        None => find_or_fatal(function),
    }
}

#[cold]
fn find_or_fatal(function: &str) -> &'static Api {
    match obtain() {
        Ok(api) => api,
        Err(absent) => fatal(function, &absent.explain()),
    }
}

/// Looks the functions up twice if two threads come at the same time. There is no lock against that: the lookup takes
/// the loader's lock, and a thread that comes here from the constructor of a library may hold that one already.
fn obtain() -> Result<&'static Api, Absent> {
    match API.get() {
        Some(api) => Ok(api),
        None => {
            let found = load()?;
            Ok(API.get_or_keep(|| found))
        }
    }
}

fn load() -> Result<Api, Absent> {
    let scope = Scope::of_python().ok_or(Absent::NoPython)?;
    let number = version(&scope).ok_or_else(|| Absent::TooOld(long_version(&scope)))?;
    if matches!(scope, Scope::Late(_)) {
        // The handle is kept. What follows does not need the loader's lock again.
        let _ = scope.of_interpreter_alone();
    }
    functions(&scope, number).map_err(Absent::Incomplete)
}

/// Looks up the functions of a CPython of this version.
fn functions(scope: &Scope, number: u16) -> Result<Api, &'static CStr> {
    // SAFETY: the names are looked up in CPython, and its version was checked before.
    unsafe { Api::load(number, |name| scope.find(name)) }
}

/// Returns a function of CPython, or null.
pub(crate) fn address_of(name: &CStr) -> *mut c_void {
    Scope::of_python().map_or(core::ptr::null_mut(), |scope| scope.find(name))
}

/// Returns the version as in [`Api::version`], or `None` if it is older than 3.9. Does not use `Py_GetVersion`: up to
/// 3.10 that function writes its answer anew at each call, into one buffer for all threads.
fn version(scope: &Scope) -> Option<u16> {
    let number = scope.find(c"Py_Version").cast::<core::ffi::c_ulong>();
    if !number.is_null() {
        // SAFETY: since 3.11 this is a constant of this type, equal to `PY_VERSION_HEX`.
        return Some((unsafe { *number } >> 16) as u16);
    }
    let has = |name| !scope.find(name).is_null();
    match (has(c"Py_NewRef"), has(c"PyThreadState_GetInterpreter")) {
        (true, _) => Some(0x030a),
        (false, true) => Some(0x0309),
        (false, false) => None,
    }
}

/// Returns the version as text for a message.
fn long_version(scope: &Scope) -> String {
    // SAFETY: this is the documented signature. The function needs neither an attached thread nor initialization.
    unsafe {
        let get_version = core::mem::transmute::<
            *mut c_void,
            unsafe extern "C" fn() -> *const c_char,
        >(scope.find(c"Py_GetVersion"));
        let text = CStr::from_ptr(get_version()).to_string_lossy();
        text.split_whitespace().next().unwrap_or_default().to_owned()
    }
}

/// Returns the address at which the object that contains `address` is loaded, or 0 if there is none.
pub(super) fn object_of(address: *mut c_void) -> usize {
    os::object_at(address as usize).map_or(0, |object| object.base)
}

/// Returns whether CPython is linked into the executable, and is not in a library.
pub(crate) fn is_in_executable() -> bool {
    object_of(address_of(c"Py_GetVersion")) == os::executable()
}

/// Where CPython's names are looked up.
pub(super) enum Scope {
    Handle(*mut c_void),
    Late(Finder),
}

impl Scope {
    /// Returns the process's global scope. If a plugin host loaded libpython privately (`RTLD_LOCAL`), returns that
    /// library instead.
    pub(super) fn of_python() -> Option<Scope> {
        if let Some(late) = late() {
            return Some(Scope::Late(late.find));
        }
        let global = Scope::Handle(os::EVERYWHERE);
        if !global.find(c"Py_GetVersion").is_null() {
            return Some(global);
        }
        private_libpython()
    }

    /// Returns the object that contains the interpreter itself, whatever was preloaded over it.
    pub(super) fn of_interpreter_alone(&self) -> Option<Scope> {
        os::handle_at(self.find(c"Py_GetVersion") as usize).map(Scope::Handle)
    }

    pub(super) fn find(&self, name: &CStr) -> *mut c_void {
        match self {
            // SAFETY: the handle is `EVERYWHERE`, or from `handle_of`.
            Scope::Handle(handle) => unsafe { os::find(*handle, name) },
            Scope::Late(find) => find(name),
        }
    }
}

fn private_libpython() -> Option<Scope> {
    let paths = os::libraries(os::may_be_python);
    paths.into_iter().find_map(|path| {
        let scope = Scope::Handle(os::handle_of(Some(&path))?);
        (!scope.find(c"Py_GetVersion").is_null()).then_some(scope)
    })
}

/// Ends the process as CPython's own fatal errors do. Prints the function, the rule that was broken, and the
/// traceback if there is one, and calls `abort()`. Finds CPython by itself, because it also reports that CPython is
/// missing.
#[cold]
pub(crate) fn fatal(function: &str, rule: &str) -> ! {
    let (c_function, c_rule) = (c_string(function), c_string(rule));
    if let Some(scope) = API.get().and_then(|_| Scope::of_python()) {
        let report = scope.find(c"_Py_FatalErrorFunc");
        if !report.is_null() {
            // SAFETY: CPython has exported this function with this signature since 3.9. It does not return.
            unsafe {
                let report = core::mem::transmute::<
                    *mut c_void,
                    unsafe extern "C" fn(*const c_char, *const c_char) -> !,
                >(report);
                report(c_function.as_ptr(), c_rule.as_ptr())
            }
        }
    }
    for piece in ["Fatal Python error: ", function, ": ", rule, "\n"] {
        os::say(piece.as_bytes());
    }
    os::abort()
}

/// Makes a text for C. The library's own messages have no interior NULs, which would end the text.
fn c_string(text: &str) -> CString {
    CString::new(text.replace('\0', " ")).unwrap_or_default()
}

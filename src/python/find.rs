//! Finding the interpreter in this process.

use std::ffi::{c_char, c_int, c_void, CStr, CString};
use std::io::Write;
use std::sync::atomic::{AtomicPtr, Ordering};

use super::api::Api;
use crate::support::kept::Kept;

/// Only success is remembered: a program may load the library first and Python later.
static API: Kept<Api> = Kept::new();

/// A function of CPython's by its name, or null.
pub(crate) type Finder = fn(&CStr) -> *mut c_void;

/// A CPython that came late. `seatbelt/arrival.rs` says what it is.
pub(crate) struct Late {
    /// Where it has its names.
    pub(crate) find: Finder,
    /// What is yet to be done at the first call that comes to the library.
    pub(crate) complete: fn(),
}

/// Not behind a lock, which another thread could have while this one forks.
static LATE: AtomicPtr<Late> = AtomicPtr::new(std::ptr::null_mut());

/// From now on in this one, rather than where the loader looks.
pub(crate) fn look_in(late: Option<&'static Late>) {
    let late = late.map_or(std::ptr::null_mut(), |late| std::ptr::from_ref(late).cast_mut());
    // Release: what was done with that CPython comes before.
    LATE.store(late, Ordering::Release);
}

pub(super) fn late() -> Option<&'static Late> {
    // SAFETY: NULL, or what `look_in` stored. Acquire: pairs with that.
    unsafe { LATE.load(Ordering::Acquire).as_ref() }
}

/// Whether it is known, which it stays. One that came late stays loaded then.
pub(crate) fn is_found() -> bool {
    API.get().is_some()
}

/// The version of a CPython that has all that is needed. Calls nothing in it, and leaves nothing behind.
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

/// CPython's functions, or `None` in a process without it.
pub(crate) fn get() -> Option<&'static Api> {
    obtain().ok()
}

/// CPython's functions, or a fatal error that says why there are none.
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

/// Twice if two threads come at once: the lookup takes the loader's lock, which a thread may hold that comes here, in the
/// constructor of a library.
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
        // Its handle is kept. The loader's lock is not needed again for what follows.
        let _ = scope.of_interpreter_alone();
    }
    functions(&scope, number).map_err(Absent::Incomplete)
}

/// Of a CPython of this version.
fn functions(scope: &Scope, number: u16) -> Result<Api, &'static CStr> {
    // SAFETY: the names are looked up in CPython, whose version was just checked.
    unsafe { Api::load(number, |name| scope.find(name)) }
}

/// A function of CPython's, or null.
pub(crate) fn address_of(name: &CStr) -> *mut c_void {
    Scope::of_python().map_or(std::ptr::null_mut(), |scope| scope.find(name))
}

/// The version as in [`Api::version`]; `None` before 3.9. Not by `Py_GetVersion`, which up to 3.10
/// writes its answer anew at each call, into one buffer for all threads.
fn version(scope: &Scope) -> Option<u16> {
    let number = scope.find(c"Py_Version").cast::<std::ffi::c_ulong>();
    if !number.is_null() {
        // SAFETY: since 3.11 a constant of this type, equal to `PY_VERSION_HEX`.
        return Some((unsafe { *number } >> 16) as u16);
    }
    let has = |name| !scope.find(name).is_null();
    match (has(c"Py_NewRef"), has(c"PyThreadState_GetInterpreter")) {
        (true, _) => Some(0x030a),
        (false, true) => Some(0x0309),
        (false, false) => None,
    }
}

/// For a message.
fn long_version(scope: &Scope) -> String {
    // SAFETY: the documented signature; needs neither an attached thread nor initialization.
    unsafe {
        let get_version = std::mem::transmute::<*mut c_void, unsafe extern "C" fn() -> *const c_char>(
            scope.find(c"Py_GetVersion"),
        );
        let text = CStr::from_ptr(get_version()).to_string_lossy();
        text.split_whitespace().next().unwrap_or_default().to_owned()
    }
}

/// The loaded object, executable or library, that an address is in.
fn object_at(address: *mut c_void) -> Option<libc::Dl_info> {
    // SAFETY: an all-zero Dl_info is valid; dladdr fills it.
    let mut info: libc::Dl_info = unsafe { std::mem::zeroed() };
    // SAFETY: any address may be asked about, `info` is a valid place for the answer.
    (unsafe { libc::dladdr(address, &mut info) } != 0).then_some(info)
}

/// The same as the address it is loaded at; null where there is none.
pub(super) fn object_of(address: *mut c_void) -> *mut c_void {
    object_at(address).map_or(std::ptr::null_mut(), |object| object.dli_fbase)
}

/// Whether CPython is linked into the executable, and not in a library.
pub(crate) fn is_in_executable() -> bool {
    #[cfg(target_os = "linux")]
    {
        // SAFETY: reads what the kernel passed to the process.
        let headers = unsafe { libc::getauxval(libc::AT_PHDR) } as *mut c_void;
        object_of(address_of(c"Py_GetVersion")) == object_of(headers)
    }
    // Nothing tells.
    #[cfg(not(target_os = "linux"))]
    true
}

/// A handle of a loaded object, which loads and runs nothing. The executable has no name but null.
fn loaded(name: *const c_char) -> Option<*mut c_void> {
    // SAFETY: null, or a C string that the loader gave.
    let handle = unsafe { libc::dlopen(name, libc::RTLD_LAZY | libc::RTLD_NOLOAD) };
    (!handle.is_null()).then_some(handle)
}

/// Where CPython's names are looked up.
pub(super) enum Scope {
    Handle(*mut c_void),
    Late(Finder),
}

impl Scope {
    /// The process's global scope; or, for a libpython that a plugin host loaded privately
    /// (`RTLD_LOCAL`), that library.
    pub(super) fn of_python() -> Option<Scope> {
        if let Some(late) = late() {
            return Some(Scope::Late(late.find));
        }
        let global = Scope::Handle(libc::RTLD_DEFAULT);
        if !global.find(c"Py_GetVersion").is_null() {
            return Some(global);
        }
        private_libpython()
    }

    /// The object that holds the interpreter itself, past whatever was preloaded over it.
    pub(super) fn of_interpreter_alone(&self) -> Option<Scope> {
        let name = object_at(self.find(c"Py_GetVersion"))?.dli_fname;
        // The handles are kept: the interpreter is not unloaded.
        loaded(name).or_else(|| loaded(std::ptr::null())).map(Scope::Handle)
    }

    pub(super) fn find(&self, name: &CStr) -> *mut c_void {
        match self {
            // SAFETY: a valid handle, or one of dlsym's constants, and a C string.
            Scope::Handle(handle) => unsafe { libc::dlsym(*handle, name.as_ptr()) },
            Scope::Late(find) => find(name),
        }
    }
}

#[cfg(target_os = "linux")]
fn private_libpython() -> Option<Scope> {
    unsafe extern "C" fn visit(
        info: *mut libc::dl_phdr_info,
        _size: libc::size_t,
        names: *mut c_void,
    ) -> c_int {
        // SAFETY: the loader passes a valid record; `names` is the vector given below.
        unsafe {
            let name = (*info).dlpi_name;
            if !name.is_null() {
                let name = CStr::from_ptr(name);
                if name.to_bytes().windows(9).any(|part| part == b"libpython") {
                    (*names.cast::<Vec<CString>>()).push(name.to_owned());
                }
            }
        }
        0
    }
    let mut names: Vec<CString> = Vec::new();
    // The names are copied first: dlopen must not be called while the loader iterates.
    // SAFETY: `visit` has the type that is asked for, and `names` outlives the call.
    unsafe { libc::dl_iterate_phdr(Some(visit), std::ptr::from_mut(&mut names).cast()) };
    names.into_iter().find_map(|name| {
        let scope = Scope::Handle(loaded(name.as_ptr())?);
        (!scope.find(c"Py_GetVersion").is_null()).then_some(scope)
    })
}

#[cfg(not(target_os = "linux"))]
fn private_libpython() -> Option<Scope> {
    None
}

/// Ends the process as CPython's own fatal errors do: the function, the rule that was broken,
/// the traceback where there is one, `abort()`. Finds its own way to CPython, because it also reports that there is none.
#[cold]
pub(crate) fn fatal(function: &str, rule: &str) -> ! {
    let (c_function, c_rule) = (c_string(function), c_string(rule));
    if let Some(scope) = API.get().and_then(|_| Scope::of_python()) {
        let report = scope.find(c"_Py_FatalErrorFunc");
        if !report.is_null() {
            // SAFETY: exported with this signature since 3.9; it does not return.
            unsafe {
                let report = std::mem::transmute::<
                    *mut c_void,
                    unsafe extern "C" fn(*const c_char, *const c_char) -> !,
                >(report);
                report(c_function.as_ptr(), c_rule.as_ptr())
            }
        }
    }
    let _ = writeln!(std::io::stderr(), "Fatal Python error: {function}: {rule}");
    std::process::abort()
}

/// Text for C. Interior NULs cannot occur in our own messages; they would end the text.
fn c_string(text: &str) -> CString {
    CString::new(text.replace('\0', " ")).unwrap_or_default()
}

//! From 3.15 on: finds CPython's own functions of PEP 788.

use core::ffi::{c_void, CStr};

use super::api::Api;
#[cfg(feature = "c-api")]
use super::find::object_of;
use super::find::Scope;
use crate::support::kept::Kept;
use crate::support::settings;

macro_rules! native {
    ($($name:ident: fn($($arg:ty),*) $(-> $ret:ty)?;)*) => {
        /// CPython's own functions of the accepted API.
        #[allow(non_snake_case)]
        pub(crate) struct Native {
            $(pub(crate) $name: unsafe extern "C" fn($($arg),*) $(-> $ret)?,)*
        }

        impl Native {
            fn find(scope: &Scope) -> Option<Native> {
                Some(Native {
                    $($name: {
                        let name = concat!(stringify!($name), "\0");
                        let name = CStr::from_bytes_with_nul(name.as_bytes()).ok()?;
                        let found = scope.find(name);
                        #[cfg(feature = "c-api")]
                        {
                            extern "C" {
                                /// This library's own function, in `capi`. Only its address is used.
                                fn $name();
                            }
                            if is_ours(scope, found, $name as *const () as *mut c_void) {
                                return None;
                            }
                        }
                        if found.is_null() {
                            return None;
                        }
                        // SAFETY: this is 3.15's signature of this name. Handles and tokens are pointers that the
                        // library only passes on.
                        unsafe {
                            core::mem::transmute::<
                                *mut c_void, unsafe extern "C" fn($($arg),*) $(-> $ret)?,
                            >(found)
                        }
                    },)*
                })
            }
        }
    };
}

/// Returns whether `found` is the library's function `exported`, under whose name it was found. Its address alone
/// does not tell: the library's own reference may be bound to the interpreter's function.
#[cfg(feature = "c-api")]
fn is_ours(scope: &Scope, found: *mut c_void, exported: *mut c_void) -> bool {
    let here = object_of(is_ours as *mut c_void);
    object_of(found) == here
        // In one static executable the address tells, because references are bound for good there.
        && (object_of(scope.find(c"Py_GetVersion")) != here || found == exported)
}

native! {
    PyInterpreterGuard_FromCurrent: fn() -> usize;
    PyInterpreterGuard_FromView: fn(usize) -> usize;
    PyInterpreterGuard_Close: fn(usize);
    PyInterpreterView_FromCurrent: fn() -> usize;
    PyInterpreterView_FromMain: fn() -> usize;
    PyInterpreterView_Close: fn(usize);
    PyThreadState_Ensure: fn(usize) -> usize;
    PyThreadState_EnsureFromView: fn(usize) -> usize;
    PyThreadState_Release: fn(usize);
}

/// Returns CPython's own functions, which serve accepted calls instead of the library's. Returns `None` if the
/// interpreter has none, or if `PEP788_ENGINE` asks for the library's.
#[inline]
pub(crate) fn native(py: &Api) -> Option<&'static Native> {
    if py.version < 0x030f {
        None
    } else {
        chosen()
    }
}

fn chosen() -> Option<&'static Native> {
    static NATIVE: Kept<Option<Native>> = Kept::new();
    let find_out = || if settings::get().backport { None } else { look_up() };
    NATIVE.get_or_keep(find_out).as_ref()
}

fn look_up() -> Option<Native> {
    let scope = Scope::of_python()?;
    // A preloaded library comes before a shared libpython, so its functions are found first. Then the interpreter's
    // own are looked up in the interpreter's object alone.
    Native::find(&scope).or_else(|| Native::find(&scope.of_interpreter_alone()?))
}

//! The interpreter's own PEP 788, from 3.15 on.

use std::ffi::{c_void, CStr};

use super::api::Api;
use super::find::{object_of, Scope};
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
                        extern "C" {
                            /// Ours, of `capi`: for its address alone.
                            fn $name();
                        }
                        if found.is_null() || is_ours(scope, found, $name as *const () as *mut c_void) {
                            return None;
                        }
                        // SAFETY: 3.15's signature of this name; handles and tokens are
                        // pointers that we only pass on.
                        unsafe {
                            std::mem::transmute::<
                                *mut c_void, unsafe extern "C" fn($($arg),*) $(-> $ret)?,
                            >(found)
                        }
                    },)*
                })
            }
        }
    };
}

/// Whether a function that was found under the name of our `exported` one is that. Its address
/// alone does not tell: our own reference to it may be bound to the interpreter's.
fn is_ours(scope: &Scope, found: *mut c_void, exported: *mut c_void) -> bool {
    let here = object_of(is_ours as *mut c_void);
    object_of(found) == here
        // All in one static executable, where references are bound for good.
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

/// The functions that serve accepted calls instead of ours, if the interpreter has them and
/// `PEP788_ENGINE` does not ask for ours.
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
    // A preloaded library comes before a shared libpython: then the names found first are ours,
    // and the interpreter's own are asked of its object alone.
    Native::find(&scope).or_else(|| Native::find(&scope.of_interpreter_alone()?))
}

//! The calling thread's native stack, as addresses. What they mean is found out where it is asked.

use std::ffi::{c_int, c_void};

enum Context {}

extern "C" {
    fn _Unwind_Backtrace(
        visit: unsafe extern "C" fn(*mut Context, *mut c_void) -> c_int,
        argument: *mut c_void,
    ) -> c_int;
    fn _Unwind_GetIP(context: *mut Context) -> usize;
    fn _Unwind_FindEnclosingFunction(address: *const c_void) -> *const c_void;
}

/// Fills in the return addresses of the calls that are under way, innermost first. Returns how many
/// there are.
#[inline(never)]
pub(crate) fn walk(addresses: &mut [usize]) -> usize {
    const GO_ON: c_int = 0;
    const STOP: c_int = 5;
    struct Walk<'a> {
        addresses: &'a mut [usize],
        depth: usize,
    }
    unsafe extern "C" fn visit(context: *mut Context, walk: *mut c_void) -> c_int {
        // SAFETY: `walk` is what is given below, and the context is the unwinder's.
        unsafe {
            let walk = &mut *walk.cast::<Walk>();
            let address = _Unwind_GetIP(context);
            let Some(place) = walk.addresses.get_mut(walk.depth).filter(|_| address != 0) else {
                return STOP;
            };
            *place = address;
            walk.depth += 1;
        }
        GO_ON
    }
    let mut walk = Walk { addresses, depth: 0 };
    // SAFETY: `visit` has the type that is asked for; the record outlives the call.
    unsafe { _Unwind_Backtrace(visit, std::ptr::from_mut(&mut walk).cast()) };
    walk.depth
}

/// Where the function begins that a call, which returns to this address, was made from. Parts that the
/// compiler has put elsewhere ("cold" ones) count as functions of their own.
pub(crate) fn function_of(return_address: usize) -> *const c_void {
    // SAFETY: looks the address up in tables. Less one: still inside the call.
    unsafe { _Unwind_FindEnclosingFunction((return_address - 1) as *const c_void) }
}

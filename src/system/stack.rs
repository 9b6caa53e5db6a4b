//! Reads the calling thread's native stack, as addresses.
//!
//! Callers find out what the addresses mean.

use core::ffi::{c_int, c_void};

enum Context {}

const GO_ON: c_int = 0;
const STOP: c_int = 5;

extern "C" {
    fn _Unwind_Backtrace(
        visit: unsafe extern "C" fn(*mut Context, *mut c_void) -> c_int,
        argument: *mut c_void,
    ) -> c_int;
    #[cfg(not(target_arch = "arm"))]
    fn _Unwind_GetIP(context: *mut Context) -> usize;
    #[cfg(not(target_arch = "arm"))]
    fn _Unwind_GetIPInfo(context: *mut Context, is_before: *mut c_int) -> usize;
    fn _Unwind_GetCFA(context: *mut Context) -> usize;
    fn _Unwind_GetGR(context: *mut Context, register: c_int) -> usize;
    fn _Unwind_FindEnclosingFunction(address: *const c_void) -> *const c_void;
}

/// The unwinder of 32-bit ARM reads registers by a function of its own. For C there is a macro with the name of this one.
#[cfg(target_arch = "arm")]
#[allow(non_snake_case)]
unsafe fn _Unwind_GetIPInfo(context: *mut Context, _is_before: *mut c_int) -> usize {
    extern "C" {
        fn _Unwind_VRS_Get(
            context: *mut Context,
            class: c_int,
            register: u32,
            kind: c_int,
            value: *mut c_void,
        ) -> c_int;
    }
    const CORE: c_int = 0;
    const PROGRAM_COUNTER: u32 = 15;
    const UINT32: c_int = 0;
    let mut address = 0_usize;
    let place = core::ptr::from_mut(&mut address).cast();
    // SAFETY: the context is the unwinder's, by this function's contract. The place has 32 bits.
    unsafe { _Unwind_VRS_Get(context, CORE, PROGRAM_COUNTER, UINT32, place) };
    // The lowest bit tells which of two instruction sets the code is in.
    address & !1
}

/// Fills in the return addresses of the calls that are under way, innermost first. Returns how many
/// there are.
#[inline(never)]
pub(crate) fn walk(addresses: &mut [usize]) -> usize {
    struct Walk<'a> {
        addresses: &'a mut [usize],
        depth: usize,
    }
    unsafe extern "C" fn visit(context: *mut Context, walk: *mut c_void) -> c_int {
        // SAFETY: `walk` is the `Walk` given below, and the context is the unwinder's.
        unsafe {
            let walk = &mut *walk.cast::<Walk>();
            // A signal handler returns to the instruction at which the signal came. A call returns to the one after it,
            // and all who look an address up expect that.
            let mut is_before = 0;
            let mut address = _Unwind_GetIPInfo(context, &mut is_before);
            address += usize::from(is_before != 0 && address != 0);
            let Some(place) = walk.addresses.get_mut(walk.depth).filter(|_| address != 0) else {
                return STOP;
            };
            *place = address;
            walk.depth += 1;
        }
        GO_ON
    }
    let mut walk = Walk { addresses, depth: 0 };
    // SAFETY: `visit` has the type that the unwinder asks for, and the record outlives the call.
    unsafe { _Unwind_Backtrace(visit, core::ptr::from_mut(&mut walk).cast()) };
    walk.depth
}

/// Returns the beginning of the function whose call returns to this address. Parts of a function that the compiler
/// has put elsewhere ("cold" ones) count as functions of their own.
pub(crate) fn function_of(return_address: usize) -> *const c_void {
    // SAFETY: the call only looks the address up in tables. The address less one is still inside the call.
    unsafe { _Unwind_FindEnclosingFunction((return_address - 1) as *const c_void) }
}

/// The registers that a function has kept across a call, by their numbers in DWARF.
#[cfg(target_arch = "x86_64")]
const KEPT: [c_int; 6] = [3, 6, 12, 13, 14, 15];
#[cfg(target_arch = "aarch64")]
const KEPT: [c_int; 12] = [19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30];

/// Where a call that is under way will return to, and the registers that the thread then has.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Return {
    kept: [usize; KEPT.len()],
    stack: usize,
    address: usize,
}

/// A return into a function that was looked for, and the return before it.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
struct Found {
    innermost: Return,
    before: Option<Return>,
}

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
impl Return {
    /// Returns the calling thread's innermost return into one of these functions.
    #[inline(never)]
    pub(crate) fn into_one_of(functions: &[usize]) -> Option<Return> {
        Return::search(functions).map(|found| found.innermost)
    }

    /// Returns the calling thread's innermost return into a function that this one has called.
    #[inline(never)]
    pub(crate) fn into_callee_of(function: usize) -> Option<Return> {
        Return::search(&[function]).and_then(|found| found.before)
    }

    #[inline(always)]
    fn search(functions: &[usize]) -> Option<Found> {
        struct Search<'a> {
            functions: &'a [usize],
            before: Option<Return>,
            found: Option<Found>,
        }
        unsafe extern "C" fn visit(context: *mut Context, search: *mut c_void) -> c_int {
            // SAFETY: `search` is the `Search` given below, and the context is the unwinder's.
            unsafe {
                let search = &mut *search.cast::<Search>();
                let address = _Unwind_GetIP(context);
                if address == 0 {
                    return STOP;
                }
                let kept = KEPT.map(|register| _Unwind_GetGR(context, register));
                let here = Return { kept, stack: _Unwind_GetCFA(context), address };
                if !search.functions.contains(&(function_of(address) as usize)) {
                    search.before = Some(here);
                    return GO_ON;
                }
                search.found = Some(Found { innermost: here, before: search.before });
            }
            STOP
        }
        let mut search = Search { functions, before: None, found: None };
        // SAFETY: `visit` has the type that the unwinder asks for, and the record outlives the call.
        unsafe { _Unwind_Backtrace(visit, core::ptr::from_mut(&mut search).cast()) };
        search.found
    }

    /// Goes on at this return, as if the call had returned 0. Leaves everything that is under way on this stack as it
    /// is.
    ///
    /// # Safety
    /// The function has not returned since, and its thread does not run: this process is a copy that has only the
    /// calling thread.
    pub(crate) unsafe fn take(&self) -> ! {
        // SAFETY: the function has not returned, and its thread does not run, by this function's contract. Of the
        // registers that a call may change, only the one of the result needs a value.
        #[cfg(target_arch = "x86_64")]
        unsafe {
            core::arch::asm!(
                "mov rbx, [rdi]",
                "mov rbp, [rdi + 8]",
                "mov r12, [rdi + 16]",
                "mov r13, [rdi + 24]",
                "mov r14, [rdi + 32]",
                "mov r15, [rdi + 40]",
                "mov rsp, [rdi + 48]",
                "xor eax, eax",
                "jmp [rdi + 56]",
                in("rdi") self,
                options(noreturn),
            )
        }
        // SAFETY: the words belong to a frame of this thread that has not returned, as the unwinder gave them.
        #[cfg(target_arch = "aarch64")]
        unsafe {
            core::arch::asm!(
                "ldp x19, x20, [x0]",
                "ldp x21, x22, [x0, 16]",
                "ldp x23, x24, [x0, 32]",
                "ldp x25, x26, [x0, 48]",
                "ldp x27, x28, [x0, 64]",
                "ldp x29, x30, [x0, 80]",
                "ldp x1, x2, [x0, 96]",
                "mov sp, x1",
                "mov x0, 0",
                "br x2",
                in("x0") self,
                options(noreturn),
            )
        }
    }
}

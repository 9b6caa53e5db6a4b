//! The executable and the libraries that are loaded, on Windows.

use alloc::ffi::CString;
use alloc::vec::Vec;
use core::ffi::{c_void, CStr};
use core::ops::Range;
use core::ptr::{null, null_mut};

use windows_sys::Win32::Foundation::HMODULE;
use windows_sys::Win32::System::Diagnostics::Debug::RtlLookupFunctionEntry;
use windows_sys::Win32::System::LibraryLoader::{
    GetModuleFileNameA, GetModuleHandleA, GetModuleHandleExA, GetProcAddress,
    GET_MODULE_HANDLE_EX_FLAG_FROM_ADDRESS, GET_MODULE_HANDLE_EX_FLAG_UNCHANGED_REFCOUNT,
};
use windows_sys::Win32::System::ProcessStatus::K32EnumProcessModules;
use windows_sys::Win32::System::Threading::GetCurrentProcess;

/// The executable or a library, as the loader knows it.
pub(crate) struct Object {
    /// Where it is in memory.
    pub(crate) base: usize,
    /// The exported function that contains the address that was asked about.
    pub(crate) function: Option<&'static CStr>,
}

/// Returns the object that contains an address.
pub(crate) fn object_at(address: usize) -> Option<Object> {
    let module = module_at(address)?;
    let mut base = 0;
    // SAFETY: any address may be asked about, and `base` is a valid place.
    let entry = unsafe { RtlLookupFunctionEntry(address as u64, &mut base, null_mut()) };
    // SAFETY: null, or the entry of a function of the object, which is not unloaded while it has frames on a stack.
    let function = unsafe { entry.as_ref() }.and_then(|entry| {
        // SAFETY: the object is loaded.
        unsafe { export_at(module as usize, entry.BeginAddress) }
    });
    Some(Object { base: module as usize, function })
}

fn module_at(address: usize) -> Option<HMODULE> {
    let flags =
        GET_MODULE_HANDLE_EX_FLAG_FROM_ADDRESS | GET_MODULE_HANDLE_EX_FLAG_UNCHANGED_REFCOUNT;
    let mut module = null_mut();
    // SAFETY: any address may be asked about, and `module` is a valid place.
    let is_found = unsafe { GetModuleHandleExA(flags, address as *const u8, &mut module) } != 0;
    is_found.then_some(module)
}

/// Where all names of the process are found, in any of its libraries.
pub(crate) const EVERYWHERE: *mut c_void = null_mut();

/// Returns `false`: nobody has to look for CPython in a library of its own.
pub(crate) fn may_be_python(_path: &[u8]) -> bool {
    false
}

/// Returns no library: [`EVERYWHERE`] has them all.
pub(crate) fn libraries(_is_wanted: fn(&[u8]) -> bool) -> Vec<CString> {
    Vec::new()
}

/// Returns a handle of the library or the executable that contains an address.
pub(crate) fn handle_at(address: usize) -> Option<*mut c_void> {
    module_at(address)
}

/// Returns the address of a function or a variable by its name, or null.
///
/// # Safety
/// The handle is from [`handle_at`], or [`EVERYWHERE`].
pub(crate) unsafe fn find(handle: *mut c_void, name: &CStr) -> *mut c_void {
    let find_in = |module: HMODULE| {
        // SAFETY: the module is loaded, and the name is a C string.
        let found = unsafe { GetProcAddress(module, name.as_ptr().cast()) };
        found.map_or(null_mut(), |found| found as *mut c_void)
    };
    if handle != EVERYWHERE {
        return find_in(handle);
    }
    let mut modules = [null_mut(); 1024];
    let mut bytes = 0;
    // SAFETY: the places are valid, and the first one has this size.
    let is_listed = unsafe {
        let room = size_of_val(&modules) as u32;
        K32EnumProcessModules(GetCurrentProcess(), modules.as_mut_ptr(), room, &mut bytes) != 0
    };
    let count = if is_listed { bytes as usize / size_of::<HMODULE>() } else { 0 };
    let found = modules.iter().take(count).map(|module| find_in(*module));
    found.into_iter().find(|found| !found.is_null()).unwrap_or(null_mut())
}

/// Returns a handle of a loaded library, or of the executable, which has no path here.
pub(crate) fn handle_of(path: Option<&CStr>) -> Option<*mut c_void> {
    let path = path.map_or(null(), |path| path.as_ptr().cast());
    // SAFETY: `path` is null, or a C string.
    let module = unsafe { GetModuleHandleA(path) };
    (!module.is_null()).then_some(module)
}

/// Returns where the executable is in memory.
pub(crate) fn executable() -> usize {
    // SAFETY: NULL stands for the executable.
    unsafe { GetModuleHandleA(null()) as usize }
}

/// Calls `use_it` with the path of the object's file. Its folders end with `/`, as elsewhere.
pub(crate) fn with_path(object: &Object, use_it: impl FnOnce(&CStr)) {
    let mut path = [0u8; 1024];
    // The last byte is left out, so it stays NUL.
    // SAFETY: the object is loaded, and the place is valid.
    unsafe {
        GetModuleFileNameA(object.base as HMODULE, path.as_mut_ptr(), path.len() as u32 - 1);
    }
    path.iter_mut().filter(|byte| **byte == b'\\').for_each(|byte| *byte = b'/');
    use_it(CStr::from_bytes_until_nul(&path).unwrap_or_default());
}

/// Tells nothing: the files of this system have names of exported functions only.
pub(crate) fn functions(
    _object: &Object,
    _tell: impl for<'a> FnMut(Range<usize>, &dyn Fn() -> Option<&'a CStr>),
) {
}

/// Returns the name by which the object exports what is at this offset.
///
/// # Safety
/// An object is loaded at `base`, and stays so.
unsafe fn export_at(base: usize, offset: u32) -> Option<&'static CStr> {
    // Where the headers have these fields, and what they mean, the format "PE" says.
    const NEW_HEADER: u32 = 0x3c;
    const EXPORTS: u32 = 4 + 20 + 112;
    const FIELDS: [u32; 4] = [24, 28, 32, 36];
    // SAFETY: the offsets come from the headers of an object that is loaded, which the loader has checked.
    unsafe {
        let word = |at: u32| ((base + at as usize) as *const u32).read_unaligned();
        let exports = word(word(NEW_HEADER) + EXPORTS);
        if exports == 0 {
            return None;
        }
        let [count, functions, names, ordinals] = FIELDS.map(|field| word(exports + field));
        let index = (0..count).find(|index| {
            let at = base + (ordinals + index * 2) as usize;
            let ordinal = (at as *const u16).read_unaligned();
            word(functions + u32::from(ordinal) * 4) == offset
        })?;
        Some(CStr::from_ptr((base + word(names + index * 4) as usize) as *const _))
    }
}

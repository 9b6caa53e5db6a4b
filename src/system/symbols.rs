//! Finds the function and the library that an address of code is in.
//!
//! This is slow. It is for the report of an exit, and works as far as there is memory for it.

use alloc::vec::Vec;
use core::ffi::{c_char, c_int, c_void, CStr};
use core::fmt::{self, Write as _};

use crate::os;
use crate::support::memory::Text;

/// What is known about one address.
pub(crate) struct Symbol {
    address: usize,
    /// Where its library is in memory. 0 if it is in no library.
    base: usize,
    /// The demangled name. `None` if the file says nothing of it.
    pub(crate) function: Option<Text>,
    /// The name of the library's file without its folder, or `?`.
    pub(crate) library: Text,
    /// Whether the address is in this library, or in the program that this library is linked into.
    pub(crate) is_ours: bool,
}

impl Symbol {
    /// Returns where the address is in the library's memory.
    pub(crate) fn offset(&self) -> usize {
        self.address - self.base
    }
}

/// The symbols, sorted by address. So those of one library follow each other.
pub(crate) struct Symbols(Vec<Symbol>);

impl Symbols {
    /// Looks up addresses that were on a stack. Each of them is the address after a call.
    pub(crate) fn look_up(addresses: impl Iterator<Item = usize>) -> Symbols {
        let own_base = os::object_at(demangled as *const () as usize).map_or(0, |own| own.base);
        let mut sorted = Vec::new();
        for address in addresses {
            if sorted.try_reserve(1).is_ok() {
                sorted.push(address);
            }
        }
        sorted.sort_unstable();
        sorted.dedup();
        let mut symbols = Vec::new();
        if symbols.try_reserve_exact(sorted.len()).is_ok() {
            symbols.extend(sorted.into_iter().map(|address| exported(address, own_base)));
        }
        for of_library in symbols.chunk_by_mut(|one, next| one.base == next.base) {
            if of_library.iter().any(|symbol| symbol.base != 0 && symbol.function.is_none()) {
                name_by_file(of_library);
            }
        }
        Symbols(symbols)
    }

    pub(crate) fn get(&self, address: usize) -> Option<&Symbol> {
        let at = self.0.binary_search_by_key(&address, |symbol| symbol.address).ok()?;
        self.0.get(at)
    }
}

/// Asks the loader, which knows the functions that libraries export.
fn exported(address: usize, own_base: usize) -> Symbol {
    let mut symbol =
        Symbol { address, base: 0, function: None, library: Text::default(), is_ours: false };
    let Some(found) = os::object_at(address - 1) else {
        let _ = symbol.library.write_str("?");
        return symbol;
    };
    symbol.base = found.base;
    symbol.is_ours = symbol.base == own_base;
    os::with_path(&found, |path| write_file_name(&mut symbol.library, path));
    symbol.function = found.function.map(demangled);
    symbol
}

/// Writes where an address of a stack is, without memory: the file, the place in it, and the function if it is exported.
#[cfg_attr(not(pep788_c_library), allow(dead_code))]
pub(crate) fn write_place(to: &mut impl fmt::Write, address: usize) -> fmt::Result {
    let Some(found) = os::object_at(address - 1) else { return write!(to, "{address:#x}") };
    os::with_path(&found, |path| write_file_name(to, path));
    write!(to, "+{:#x}", address - found.base)?;
    if let Some(name) = found.function {
        to.write_str(" after the beginning of ")?;
        write_lossily(to, name.to_bytes());
    }
    Ok(())
}

fn write_file_name(to: &mut impl fmt::Write, path: &CStr) {
    let name = path.to_bytes().rsplit(|byte| *byte == b'/').next().unwrap_or_default();
    write_lossily(to, if name.is_empty() { b"?" } else { name });
}

fn write_lossily(to: &mut impl fmt::Write, bytes: &[u8]) {
    for chunk in bytes.utf8_chunks() {
        let _ = to.write_str(chunk.valid());
        if !chunk.invalid().is_empty() {
            let _ = to.write_char(char::REPLACEMENT_CHARACTER);
        }
    }
}

/// Names the functions that the library does not export, if its file tells.
fn name_by_file(symbols: &mut [Symbol]) {
    let Some(object) = symbols.first().and_then(|symbol| os::object_at(symbol.address - 1)) else {
        return;
    };
    os::functions(&object, |place, name| {
        // An address here is the end of a call. So it is after the beginning of the function, and may be at its end.
        let first = symbols.partition_point(|symbol| symbol.address <= place.start);
        let within = symbols[first..].iter_mut().take_while(|symbol| symbol.address <= place.end);
        for symbol in within.filter(|symbol| symbol.function.is_none()) {
            symbol.function = name().map(demangled);
        }
    });
}

/// Demangles a name by the C++ library of the process, if there is one. The names belong to that library.
fn demangled(name: &CStr) -> Text {
    type Demangle =
        unsafe extern "C" fn(*const c_char, *mut c_char, *mut usize, *mut c_int) -> *mut c_char;
    let mut text = Text::default();
    // SAFETY: the handle is `EVERYWHERE`.
    let found = unsafe { os::find(os::EVERYWHERE, c"__cxa_demangle") };
    if !found.is_null() && name.to_bytes().starts_with(b"_Z") {
        // SAFETY: the C++ ABI gives the function this signature. What it returns is memory of malloc.
        unsafe {
            let demangle = core::mem::transmute::<*mut c_void, Demangle>(found);
            let null = core::ptr::null_mut();
            let plain = demangle(name.as_ptr(), null, null.cast(), &mut 0);
            if !plain.is_null() {
                write_lossily(&mut text, CStr::from_ptr(plain).to_bytes());
                os::free_text(plain);
                return text;
            }
        }
    }
    write_lossily(&mut text, name.to_bytes());
    text
}

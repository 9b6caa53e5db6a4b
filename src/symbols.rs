//! Which function an address of code is in, and which library. Slow; for the report of an exit.

use std::collections::HashMap;
use std::ffi::{c_char, c_int, c_void, CStr, CString};
use std::path::{Path, PathBuf};

/// What is known of one address.
pub(crate) struct Symbol {
    /// Demangled; `None`: the file says nothing of it.
    pub(crate) function: Option<String>,
    /// The file's name without its folder, or `?`.
    pub(crate) library: String,
    /// Where in the library's memory.
    pub(crate) offset: usize,
    /// Whether it is in this library, or in the program that it is linked into.
    pub(crate) is_ours: bool,
}

/// Looks addresses up that a stack had: each is that after a call.
pub(crate) fn look_up(addresses: impl Iterator<Item = usize>) -> HashMap<usize, Symbol> {
    let own_base = loaded(demangled as *const () as usize).map_or(0, |own| own.base);
    let mut symbols = HashMap::new();
    // By file, what it does not export.
    let mut unnamed: HashMap<PathBuf, (usize, Vec<usize>)> = HashMap::new();
    for address in addresses {
        if symbols.contains_key(&address) {
            continue;
        }
        let Some(found) = loaded(address - 1) else {
            let library = "?".to_owned();
            let symbol = Symbol { function: None, library, offset: address, is_ours: false };
            symbols.insert(address, symbol);
            continue;
        };
        let symbol = Symbol {
            function: found.function.as_deref().map(demangled),
            library: found
                .file
                .file_name()
                .map_or_else(|| "?".to_owned(), |name| name.to_string_lossy().into_owned()),
            offset: address - found.base,
            is_ours: found.base == own_base,
        };
        if symbol.function.is_none() {
            unnamed.entry(found.file).or_insert((found.base, Vec::new())).1.push(address);
        }
        symbols.insert(address, symbol);
    }
    for (file, (base, addresses)) in unnamed {
        for (address, name) in names_in_file(&file, base, &addresses).unwrap_or_default() {
            if let Some(symbol) = symbols.get_mut(&address) {
                symbol.function = Some(demangled(&name));
            }
        }
    }
    symbols
}

/// What the loader says.
struct Loaded {
    file: PathBuf,
    base: usize,
    /// Only if the library exports it.
    function: Option<CString>,
}

fn loaded(address: usize) -> Option<Loaded> {
    let info = dladdr(address)?;
    let copied = |text: *const c_char| {
        // SAFETY: the loader's strings are NUL-terminated, and there as long as the library. One
        // that is unloaded at this very moment had frames on a stack: nobody may do that.
        (!text.is_null()).then(|| unsafe { CStr::from_ptr(text) }.to_owned())
    };
    let base = info.dli_fbase as usize;
    let file = if is_program(base) {
        // The loader has only what the program was called.
        std::env::current_exe().ok()?
    } else {
        use std::os::unix::ffi::OsStringExt;
        std::ffi::OsString::from_vec(copied(info.dli_fname)?.into_bytes()).into()
    };
    Some(Loaded { file, base, function: copied(info.dli_sname) })
}

fn dladdr(address: usize) -> Option<libc::Dl_info> {
    // SAFETY: an all-zero Dl_info is valid; dladdr fills it.
    let mut info: libc::Dl_info = unsafe { std::mem::zeroed() };
    // SAFETY: any address may be asked about; `info` is a valid place for the answer.
    let found = unsafe { libc::dladdr(address as *const c_void, &mut info) } != 0;
    found.then_some(info)
}

#[cfg(target_os = "linux")]
fn is_program(base: usize) -> bool {
    // SAFETY: reads what the kernel passed to the process.
    let headers = unsafe { libc::getauxval(libc::AT_PHDR) } as usize;
    dladdr(headers).is_some_and(|program| program.dli_fbase as usize == base)
}

#[cfg(not(target_os = "linux"))]
fn is_program(_base: usize) -> bool {
    false
}

/// The functions of an ELF file at these addresses, if its symbol table was left in it.
#[cfg(target_os = "linux")]
fn names_in_file(file: &Path, base: usize, addresses: &[usize]) -> Option<Vec<(usize, CString)>> {
    use object::read::elf::ElfFile64;
    use object::{NativeEndian, Object, ObjectSegment, ObjectSymbol, SymbolKind};
    // Reads only the parts that are asked for.
    let contents = object::ReadCache::new(std::fs::File::open(file).ok()?);
    let file = ElfFile64::<NativeEndian, _>::parse(&contents).ok()?;
    let lowest = file.segments().map(|segment| segment.address()).min()?;
    // The loader's base is the page that the lowest segment begins in.
    let bias = base.wrapping_sub(lowest as usize & !0xfff);
    let names = file.symbols().filter(|symbol| symbol.kind() == SymbolKind::Text);
    let mut found = Vec::new();
    for symbol in names {
        let begin = bias.wrapping_add(symbol.address() as usize);
        let end = begin + symbol.size() as usize;
        // After the call that the address is the end of.
        for address in addresses.iter().filter(|address| (begin + 1..=end).contains(address)) {
            if let Some(name) = symbol.name_bytes().ok().and_then(|name| CString::new(name).ok()) {
                found.push((*address, name));
            }
        }
    }
    Some(found)
}

#[cfg(not(target_os = "linux"))]
fn names_in_file(_: &Path, _: usize, _: &[usize]) -> Option<Vec<(usize, CString)>> {
    None
}

/// By the C++ library, if the process has it: the one whose names these are.
fn demangled(name: &CStr) -> String {
    type Demangle =
        unsafe extern "C" fn(*const c_char, *mut c_char, *mut usize, *mut c_int) -> *mut c_char;
    // SAFETY: a constant of dlsym's, and a C string.
    let found = unsafe { libc::dlsym(libc::RTLD_DEFAULT, c"__cxa_demangle".as_ptr()) };
    if !found.is_null() && name.to_bytes().starts_with(b"_Z") {
        // SAFETY: the C++ ABI gives it this signature; what it returns is malloc's.
        unsafe {
            let demangle = std::mem::transmute::<*mut c_void, Demangle>(found);
            let null = std::ptr::null_mut();
            let text = demangle(name.as_ptr(), null, null.cast(), &mut 0);
            if !text.is_null() {
                let demangled = CStr::from_ptr(text).to_string_lossy().into_owned();
                libc::free(text.cast());
                return demangled;
            }
        }
    }
    name.to_string_lossy().into_owned()
}

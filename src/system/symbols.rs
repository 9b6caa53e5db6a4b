//! Finds the function and the library that an address of code is in.
//!
//! This is slow. It is for the report of an exit, and works as far as there is memory for it.

use std::ffi::{c_char, c_int, c_void, CStr};
use std::fmt::Write as _;

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
        let own_base = dladdr(demangled as *const () as usize).map_or(0, |own| base(&own));
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
    let Some(found) = dladdr(address - 1) else {
        let _ = symbol.library.write_str("?");
        return symbol;
    };
    symbol.base = base(&found);
    symbol.is_ours = symbol.base == own_base;
    with_path(&found, |path| write_file_name(&mut symbol.library, path));
    if !found.dli_sname.is_null() {
        // SAFETY: the loader's strings are NUL-terminated, and they exist as long as the library. A library that is
        // unloaded at this very moment had frames on a stack, and no program may unload such a library.
        symbol.function = Some(demangled(unsafe { CStr::from_ptr(found.dli_sname) }));
    }
    symbol
}

fn base(info: &libc::Dl_info) -> usize {
    info.dli_fbase as usize
}

fn dladdr(address: usize) -> Option<libc::Dl_info> {
    // SAFETY: an all-zero `Dl_info` is valid, and `dladdr` fills it.
    let mut info: libc::Dl_info = unsafe { std::mem::zeroed() };
    // SAFETY: any address may be asked about, and `info` is a valid place for the answer.
    let found = unsafe { libc::dladdr(address as *const c_void, &mut info) } != 0;
    found.then_some(info)
}

/// Calls `use_it` with the path of the library's file.
fn with_path(info: &libc::Dl_info, use_it: impl FnOnce(&CStr)) {
    let mut place = [0u8; libc::PATH_MAX as usize];
    // For the program, the loader has only the name that the program was called by.
    if is_program(base(info)) {
        let link = c"/proc/self/exe".as_ptr();
        // The last byte is left out, so it stays NUL.
        // SAFETY: `link` is a C string, and the place is valid.
        unsafe { libc::readlink(link, place.as_mut_ptr().cast(), place.len() - 1) };
        use_it(CStr::from_bytes_until_nul(&place).unwrap_or_default());
    } else if !info.dli_fname.is_null() {
        // SAFETY: the loader's string exists as long as the library, as in `exported`.
        use_it(unsafe { CStr::from_ptr(info.dli_fname) });
    }
}

fn write_file_name(to: &mut Text, path: &CStr) {
    let name = path.to_bytes().rsplit(|byte| *byte == b'/').next().unwrap_or_default();
    write_lossily(to, if name.is_empty() { b"?" } else { name });
}

fn write_lossily(to: &mut Text, bytes: &[u8]) {
    for chunk in bytes.utf8_chunks() {
        let _ = to.write_str(chunk.valid());
        if !chunk.invalid().is_empty() {
            let _ = to.write_char(char::REPLACEMENT_CHARACTER);
        }
    }
}

#[cfg(target_os = "linux")]
fn is_program(base: usize) -> bool {
    // SAFETY: the call reads what the kernel passed to the process.
    let headers = unsafe { libc::getauxval(libc::AT_PHDR) } as usize;
    dladdr(headers).is_some_and(|program| program.dli_fbase as usize == base)
}

#[cfg(not(target_os = "linux"))]
fn is_program(_base: usize) -> bool {
    false
}

/// Names the functions that the library does not export, if the symbol table was left in its file.
#[cfg(target_os = "linux")]
fn name_by_file(symbols: &mut [Symbol]) {
    let Some(found) = symbols.first().and_then(|symbol| dladdr(symbol.address - 1)) else { return };
    with_path(&found, |path| {
        if let Some(file) = File::map(path) {
            let _ = name_by_elf(symbols, base(&found), file.contents());
        }
    });
}

#[cfg(not(target_os = "linux"))]
fn name_by_file(_: &mut [Symbol]) {}

/// Returns `None` if the file is not the usual kind of ELF file.
#[cfg(target_os = "linux")]
fn name_by_elf(symbols: &mut [Symbol], base: usize, contents: &[u8]) -> Option<()> {
    use object::elf::{FileHeader64, PT_LOAD, SHT_SYMTAB, STT_FUNC, STT_GNU_IFUNC};
    use object::read::elf::{FileHeader, ProgramHeader, Sym};
    use object::NativeEndian;
    // `ElfFile` is not used, because it allocates.
    let header = FileHeader64::<NativeEndian>::parse(contents).ok()?;
    let endian = header.endian().ok()?;
    let segments = header.program_headers(endian, contents).ok()?.iter();
    let lowest = segments
        .filter(|segment| segment.p_type(endian) == PT_LOAD)
        .map(|segment| segment.p_vaddr(endian))
        .min()?;
    // The loader's base is the page in which the lowest segment begins.
    let bias = base.wrapping_sub(lowest as usize & !0xfff);
    let table = header.sections(endian, contents).ok()?;
    let table = table.symbols(endian, contents, SHT_SYMTAB).ok()?;
    let is_function = |kind| kind == STT_FUNC || kind == STT_GNU_IFUNC;
    for entry in table.iter().filter(|entry| is_function(entry.st_type())) {
        let begin = bias.wrapping_add(entry.st_value(endian) as usize);
        let end = begin.wrapping_add(entry.st_size(endian) as usize);
        // An address here is the end of a call. So it is after the beginning of the function, and may be at its end.
        let first = symbols.partition_point(|symbol| symbol.address <= begin);
        let within = symbols[first..].iter_mut().take_while(|symbol| symbol.address <= end);
        for symbol in within.filter(|symbol| symbol.function.is_none()) {
            let Ok(name) = table.symbol_name(endian, entry) else { continue };
            // The name is read again from the file, to have the NUL after it.
            let at = name.as_ptr() as usize - contents.as_ptr() as usize;
            symbol.function = CStr::from_bytes_until_nul(&contents[at..]).ok().map(demangled);
        }
    }
    Some(())
}

/// A file that is mapped into memory. Only the parts that are looked at are read.
#[cfg(target_os = "linux")]
struct File {
    begin: *mut c_void,
    size: usize,
}

#[cfg(target_os = "linux")]
impl File {
    fn map(path: &CStr) -> Option<File> {
        // SAFETY: the path is a C string, and `facts` is a valid place: an all-zero `stat` is valid. The descriptor
        // belongs to this function.
        unsafe {
            let file = libc::open(path.as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC);
            if file < 0 {
                return None;
            }
            let mut facts: libc::stat = std::mem::zeroed();
            let size = match libc::fstat(file, &mut facts) {
                0 => facts.st_size as usize,
                _ => 0,
            };
            let (read, private) = (libc::PROT_READ, libc::MAP_PRIVATE);
            // A file of no bytes cannot be mapped.
            let begin = libc::mmap(std::ptr::null_mut(), size, read, private, file, 0);
            libc::close(file);
            (begin != libc::MAP_FAILED).then_some(File { begin, size })
        }
    }

    fn contents(&self) -> &[u8] {
        // SAFETY: the file is mapped as long as `self` lives. A program that changes the file also changes the
        // library, which is mapped from the same file.
        unsafe { std::slice::from_raw_parts(self.begin.cast(), self.size) }
    }
}

#[cfg(target_os = "linux")]
impl Drop for File {
    fn drop(&mut self) {
        // SAFETY: `map` mapped it, and nothing refers to it any more.
        unsafe { libc::munmap(self.begin, self.size) };
    }
}

/// Demangles a name by the C++ library of the process, if there is one. The names belong to that library.
fn demangled(name: &CStr) -> Text {
    type Demangle =
        unsafe extern "C" fn(*const c_char, *mut c_char, *mut usize, *mut c_int) -> *mut c_char;
    let mut text = Text::default();
    // SAFETY: the handle is a constant of dlsym's, and the name is a C string.
    let found = unsafe { libc::dlsym(libc::RTLD_DEFAULT, c"__cxa_demangle".as_ptr()) };
    if !found.is_null() && name.to_bytes().starts_with(b"_Z") {
        // SAFETY: the C++ ABI gives the function this signature. What it returns is memory of malloc.
        unsafe {
            let demangle = std::mem::transmute::<*mut c_void, Demangle>(found);
            let null = std::ptr::null_mut();
            let plain = demangle(name.as_ptr(), null, null.cast(), &mut 0);
            if !plain.is_null() {
                write_lossily(&mut text, CStr::from_ptr(plain).to_bytes());
                libc::free(plain.cast());
                return text;
            }
        }
    }
    write_lossily(&mut text, name.to_bytes());
    text
}

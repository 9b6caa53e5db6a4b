//! Which function an address of code is in, and which library. Slow; for the report of an exit.

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

/// By address.
pub(crate) struct Symbols(Vec<(usize, Symbol)>);

impl Symbols {
    pub(crate) fn get(&self, address: usize) -> Option<&Symbol> {
        self.0.iter().find(|(known, _)| *known == address).map(|(_, symbol)| symbol)
    }
}

/// Looks addresses up that a stack had: each is that after a call.
pub(crate) fn look_up(addresses: impl Iterator<Item = usize>) -> Symbols {
    let own_base = loaded(demangled as *const () as usize).map_or(0, |own| own.base);
    let mut symbols = Symbols(Vec::new());
    // By file and its base, what it does not export.
    let mut unnamed: Vec<(PathBuf, usize, Vec<usize>)> = Vec::new();
    for address in addresses {
        if symbols.get(address).is_some() {
            continue;
        }
        let Some(found) = loaded(address - 1) else {
            let library = "?".to_owned();
            let symbol = Symbol { function: None, library, offset: address, is_ours: false };
            symbols.0.push((address, symbol));
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
            match unnamed.iter_mut().find(|(_, base, _)| *base == found.base) {
                Some((_, _, addresses)) => addresses.push(address),
                None => unnamed.push((found.file, found.base, vec![address])),
            }
        }
        symbols.0.push((address, symbol));
    }
    for (file, base, addresses) in unnamed {
        let names = names_in_file(&file, base, &addresses).unwrap_or_default();
        for (at, symbol) in &mut symbols.0 {
            if let Some((_, name)) = names.iter().rfind(|(address, _)| address == at) {
                symbol.function = Some(demangled(name));
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
    let contents = Mapped::open(file)?;
    let file = ElfFile64::<NativeEndian>::parse(contents.bytes()).ok()?;
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

/// A file as memory, of which only what is looked at is read.
#[cfg(target_os = "linux")]
struct Mapped {
    address: *mut c_void,
    length: usize,
}

#[cfg(target_os = "linux")]
impl Mapped {
    fn open(file: &Path) -> Option<Mapped> {
        use std::os::fd::AsRawFd;
        let file = std::fs::File::open(file).ok()?;
        let length = usize::try_from(file.metadata().ok()?.len()).ok()?;
        let (null, read, private) = (std::ptr::null_mut(), libc::PROT_READ, libc::MAP_PRIVATE);
        // SAFETY: a new mapping, which outlives the descriptor.
        let address = unsafe { libc::mmap(null, length, read, private, file.as_raw_fd(), 0) };
        (address != libc::MAP_FAILED).then_some(Mapped { address, length })
    }

    fn bytes(&self) -> &[u8] {
        // SAFETY: so much is mapped. The loader has the same file mapped: nobody may change it.
        unsafe { std::slice::from_raw_parts(self.address.cast(), self.length) }
    }
}

#[cfg(target_os = "linux")]
impl Drop for Mapped {
    fn drop(&mut self) {
        // SAFETY: ours, and not used any more.
        unsafe { libc::munmap(self.address, self.length) };
    }
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

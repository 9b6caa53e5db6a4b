//! Reads the table of symbols in a library's file, which has more functions than the loader knows.

use core::ffi::{c_void, CStr};
use core::ops::Range;

#[cfg(target_pointer_width = "32")]
use object::elf::FileHeader32 as Header;
#[cfg(target_pointer_width = "64")]
use object::elf::FileHeader64 as Header;
use object::elf::{PT_LOAD, SHT_SYMTAB, STT_FUNC, STT_GNU_IFUNC};
use object::read::elf::{FileHeader, ProgramHeader, Sym};
use object::NativeEndian;

/// Tells where each function of the file is in memory, if `base` is where the file is loaded. Tells nothing if the file is
/// not the usual kind of ELF file.
pub(super) fn functions(
    path: &CStr,
    base: usize,
    tell: impl for<'a> FnMut(Range<usize>, &dyn Fn() -> Option<&'a CStr>),
) {
    if let Some(file) = File::map(path) {
        let _ = functions_in(file.contents(), base, tell);
    }
}

fn functions_in(
    contents: &[u8],
    base: usize,
    mut tell: impl for<'a> FnMut(Range<usize>, &dyn Fn() -> Option<&'a CStr>),
) -> Option<()> {
    // `ElfFile` is not used, because it allocates.
    let header = Header::<NativeEndian>::parse(contents).ok()?;
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
        tell(begin..end, &|| {
            let name = table.symbol_name(endian, entry).ok()?;
            // The name is read again from the file, to have the NUL after it.
            let at = name.as_ptr() as usize - contents.as_ptr() as usize;
            CStr::from_bytes_until_nul(&contents[at..]).ok()
        });
    }
    Some(())
}

/// A file that is mapped into memory. Only the parts that are looked at are read.
struct File {
    begin: *mut c_void,
    size: usize,
}

impl File {
    fn map(path: &CStr) -> Option<File> {
        // SAFETY: the path is a C string, and the descriptor belongs to this function.
        unsafe {
            let file = libc::open(path.as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC);
            if file < 0 {
                return None;
            }
            // `fstat` would fail where files have numbers that 32 bits are too short for.
            let size = usize::try_from(libc::lseek(file, 0, libc::SEEK_END)).unwrap_or(0);
            let (read, private) = (libc::PROT_READ, libc::MAP_PRIVATE);
            // A file of no bytes cannot be mapped.
            let begin = libc::mmap(core::ptr::null_mut(), size, read, private, file, 0);
            libc::close(file);
            (begin != libc::MAP_FAILED).then_some(File { begin, size })
        }
    }

    fn contents(&self) -> &[u8] {
        // SAFETY: the file is mapped as long as `self` lives. A program that changes the file also changes the
        // library, which is mapped from the same file.
        unsafe { core::slice::from_raw_parts(self.begin.cast(), self.size) }
    }
}

impl Drop for File {
    fn drop(&mut self) {
        // SAFETY: `map` mapped it, and nothing refers to it any more.
        unsafe { libc::munmap(self.begin, self.size) };
    }
}

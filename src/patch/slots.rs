//! Replaces addresses by which CPython calls functions of the C library.
//!
//! CPython calls these functions when a thread comes too late to attach: `pthread_exit` up to 3.13, `pause` from
//! 3.14 on. The calls go through slots of the object that CPython is in. The loader has filled in the slots, and the
//! addresses in them are replaced here. Only data is written, a word at a time, so no thread has to stand still.

use core::ffi::{c_char, c_int, c_void, CStr};
use core::sync::atomic::{AtomicUsize, Ordering};

use object::elf::{self, Dyn64, DynamicTag, Rela64, RelocationType, Sym64};
use object::NativeEndian;

#[cfg(target_arch = "x86_64")]
const KINDS: [RelocationType; 2] = [elf::R_X86_64_JUMP_SLOT, elf::R_X86_64_GLOB_DAT];
#[cfg(target_arch = "aarch64")]
const KINDS: [RelocationType; 2] = [elf::R_AARCH64_JUMP_SLOT, elf::R_AARCH64_GLOB_DAT];

/// A function that an object calls, and the address that it is to call instead.
pub(crate) type Replacement = (&'static CStr, usize);

struct Request<'a> {
    /// An address in the object.
    inside: usize,
    replacements: &'a [Replacement],
    replaced: usize,
}

/// Replaces addresses in the object that has the address `inside`. Returns how many slots there were. It does no
/// harm to call this again and again.
pub(crate) fn replace(inside: usize, replacements: &[Replacement]) -> usize {
    unsafe extern "C" fn visit(
        info: *mut libc::dl_phdr_info,
        _size: libc::size_t,
        request: *mut c_void,
    ) -> c_int {
        // SAFETY: the loader passes a valid record of an object that stays loaded meanwhile. The request is the one
        // that is given below.
        unsafe {
            let request = &mut *request.cast::<Request>();
            let object = Object::of(&*info);
            let is_it = object.contains(request.inside);
            if is_it {
                request.replaced = object.replace(request.replacements);
            }
            c_int::from(is_it)
        }
    }
    let mut request = Request { inside, replacements, replaced: 0 };
    // SAFETY: `visit` has the type that is asked for, and the request outlives the call.
    unsafe { libc::dl_iterate_phdr(Some(visit), core::ptr::from_mut(&mut request).cast()) };
    request.replaced
}

/// A loaded object.
pub(crate) struct Object<'a> {
    base: usize,
    headers: &'a [libc::Elf64_Phdr],
}

impl<'a> Object<'a> {
    /// # Safety
    /// `info` is the loader's record of an object that stays loaded.
    pub(crate) unsafe fn of(info: &'a libc::dl_phdr_info) -> Object<'a> {
        // SAFETY: the caller promises that `info` is the loader's record.
        let headers =
            unsafe { core::slice::from_raw_parts(info.dlpi_phdr, usize::from(info.dlpi_phnum)) };
        Object { base: info.dlpi_addr as usize, headers }
    }

    pub(crate) fn base(&self) -> usize {
        self.base
    }

    fn of_kind(&self, kind: u32) -> impl Iterator<Item = &libc::Elf64_Phdr> {
        self.headers.iter().filter(move |header| header.p_type == kind)
    }

    pub(crate) fn contains(&self, address: usize) -> bool {
        self.of_kind(libc::PT_LOAD).any(|header| {
            let begin = self.base.wrapping_add(header.p_vaddr as usize);
            (begin..begin + header.p_memsz as usize).contains(&address)
        })
    }

    /// Returns the value of an entry of the dynamic section.
    ///
    /// # Safety
    /// The object is loaded.
    pub(crate) unsafe fn entry(&self, tag: DynamicTag) -> Option<usize> {
        let dynamic = self.of_kind(libc::PT_DYNAMIC).next()?;
        let mut entry =
            self.base.wrapping_add(dynamic.p_vaddr as usize) as *const Dyn64<NativeEndian>;
        // SAFETY: the section is loaded, and ends in an entry with the tag 0.
        unsafe {
            loop {
                match (*entry).d_tag.get(NativeEndian) {
                    elf::DT_NULL => return None,
                    found if found == tag => {
                        return Some((*entry).d_val.get(NativeEndian) as usize);
                    }
                    _ => entry = entry.add(1),
                }
            }
        }
    }

    /// Returns an entry that is an address. glibc has added the base to it where it keeps the section writable.
    ///
    /// # Safety
    /// The object is loaded.
    pub(crate) unsafe fn address(&self, tag: DynamicTag) -> Option<usize> {
        // SAFETY: the caller promises that the object is loaded, so its dynamic section can be read.
        let found = unsafe { self.entry(tag) }?;
        Some(if self.contains(found) { found } else { self.base.wrapping_add(found) })
    }

    /// # Safety
    /// The object is loaded.
    unsafe fn replace(&self, replacements: &[Replacement]) -> usize {
        // SAFETY: the caller promises that the object is loaded. The tables are as long as the section says.
        unsafe {
            let (Some(symbols), Some(names)) =
                (self.address(elf::DT_SYMTAB), self.address(elf::DT_STRTAB))
            else {
                return 0;
            };
            let mut replaced = 0;
            let tables = [(elf::DT_JMPREL, elf::DT_PLTRELSZ), (elf::DT_RELA, elf::DT_RELASZ)];
            for (table, size) in tables {
                let (Some(table), Some(size)) = (self.address(table), self.entry(size)) else {
                    continue;
                };
                let length = size / size_of::<Rela64<NativeEndian>>();
                let table = table as *const Rela64<NativeEndian>;
                for relocation in core::slice::from_raw_parts(table, length) {
                    let kind = relocation.r_type(NativeEndian, false);
                    if !KINDS.contains(&kind) {
                        continue;
                    }
                    let symbol = (symbols as *const Sym64<NativeEndian>)
                        .add(relocation.r_sym(NativeEndian, false) as usize);
                    let name = names + (*symbol).st_name.get(NativeEndian) as usize;
                    let name = CStr::from_ptr(name as *const c_char);
                    if let Some((_, to)) = replacements.iter().find(|(wanted, _)| *wanted == name) {
                        let slot = relocation.r_offset.get(NativeEndian) as usize;
                        replaced += usize::from(self.write(self.base.wrapping_add(slot), *to));
                    }
                }
            }
            replaced
        }
    }

    /// Writes an address to a slot. Returns `false` if the system does not allow that.
    ///
    /// # Safety
    /// `slot` is one of the object's slots.
    unsafe fn write(&self, slot: usize, to: usize) -> bool {
        // SAFETY: the format says that a slot is aligned. The loader writes slots too, but before it makes the
        // object known, or a whole word at a time when the function is first called.
        unsafe {
            let word = &*(slot as *const AtomicUsize);
            // Relaxed: this is the address of code that is there from the beginning.
            if word.load(Ordering::Relaxed) == to {
                return true;
            }
            let sealed = self.is_sealed(slot);
            if sealed && !protect(slot, libc::PROT_READ | libc::PROT_WRITE) {
                return false;
            }
            word.store(to, Ordering::Relaxed);
            if sealed {
                protect(slot, libc::PROT_READ);
            }
            true
        }
    }

    /// Returns whether the loader took away the right to write there when it was done.
    fn is_sealed(&self, address: usize) -> bool {
        self.of_kind(libc::PT_GNU_RELRO).any(|header| {
            let begin = self.base.wrapping_add(header.p_vaddr as usize);
            let end = (begin + header.p_memsz as usize) & !(page_size() - 1);
            (begin & !(page_size() - 1)..end).contains(&address)
        })
    }
}

fn protect(address: usize, how: c_int) -> bool {
    let page = address & !(page_size() - 1);
    // SAFETY: this is a page of data of a loaded object. Nothing is taken from the page that others use.
    unsafe { libc::mprotect(page as *mut c_void, page_size(), how) == 0 }
}

fn page_size() -> usize {
    // SAFETY: `sysconf` has no preconditions.
    unsafe { libc::sysconf(libc::_SC_PAGESIZE) as usize }
}

//! Words of the calling thread, read without a call: the library's own, and others in *static* thread-local storage.
//!
//! What is in static storage is as far from the thread pointer in one thread as in any other thread. So once it is
//! known where a thread has a variable, a read takes one instruction.

use core::ffi::c_void;

extern "C" {
    // These are in `words.c`.
    #[allow(dead_code)] // see `own`
    fn pep788_get_thread() -> *mut c_void;
    fn pep788_set_thread(word: *mut c_void);
}

/// Sets the library's own word of the calling thread. The word has no destructor, so that it can be used as long as the
/// thread runs any code: other destructors may call into Python.
pub(crate) fn set_own(word: *mut c_void) {
    // SAFETY: the function writes a thread-local variable.
    unsafe { pep788_set_thread(word) }
}

/// Returns the library's own word of the calling thread. It is read as a compiler would read an initial-exec variable:
/// first its place in the thread's block, which the loader has written down, and then the word in the block.
#[cfg(all(
    target_os = "linux",
    target_env = "gnu",
    target_arch = "x86_64",
    not(feature = "vendored")
))]
#[inline(always)]
pub(crate) fn own() -> *mut c_void {
    let word: *mut c_void;
    // SAFETY: this reads two words that exist as long as the thread.
    unsafe {
        core::arch::asm!(
            "mov {word}, qword ptr [rip + pep788_thread@GOTTPOFF]",
            "mov {word}, qword ptr fs:[{word}]",
            word = out(reg) word,
            options(readonly, nostack, preserves_flags),
        );
    }
    word
}

#[cfg(all(
    target_os = "linux",
    target_env = "gnu",
    target_arch = "aarch64",
    not(feature = "vendored")
))]
#[inline(always)]
pub(crate) fn own() -> *mut c_void {
    let word: *mut c_void;
    // SAFETY: this reads two words that exist as long as the thread.
    unsafe {
        core::arch::asm!(
            "mrs {block}, tpidr_el0",
            "adrp {word}, :gottprel:pep788_thread",
            "ldr {word}, [{word}, #:gottprel_lo12:pep788_thread]",
            "ldr {word}, [{block}, {word}]",
            block = out(reg) _,
            word = out(reg) word,
            options(readonly, nostack, preserves_flags),
        );
    }
    word
}

#[cfg(not(all(
    target_os = "linux",
    target_env = "gnu",
    any(target_arch = "x86_64", target_arch = "aarch64"),
    not(feature = "vendored")
)))]
#[inline]
pub(crate) fn own() -> *mut c_void {
    // SAFETY: the function reads a thread-local variable.
    unsafe { pep788_get_thread() }
}

#[cfg(all(
    target_os = "linux",
    target_env = "gnu",
    any(target_arch = "x86_64", target_arch = "aarch64")
))]
mod imp {
    use core::arch::asm;
    use core::ffi::{c_int, c_void};
    use core::ops::Range;

    use super::super::posix::Key;

    extern "C" {
        /// Returns the address of a thread-local variable of libc.
        fn __ctype_b_loc() -> *const *const u16;
    }

    /// Returns how far from the thread pointer a word of the calling thread's storage is, in bytes. Returns `None` if the
    /// word is not in static storage.
    ///
    /// Static storage is one block next to the thread pointer. libc is never loaded late, so it has its variables in that
    /// block. `errno` is not used here, because some programs put it elsewhere.
    pub(crate) fn place_of(word: usize) -> Option<isize> {
        let base = thread_pointer();
        // SAFETY: `__ctype_b_loc` has no preconditions.
        let libc = unsafe { __ctype_b_loc() } as usize;
        let block = if libc < base { libc..base } else { base..libc };
        block.contains(&word).then(|| word.wrapping_sub(base) as isize)
    }

    /// Returns how far from the thread pointer the value of a thread-specific `key` is. The key has `value` in the
    /// calling thread. Returns `None` if that is not known for sure.
    ///
    /// glibc has the first 32 values in the thread's own record, which is next to the thread pointer on x86-64.
    #[cfg(target_arch = "x86_64")]
    pub(crate) fn find_specific(key: Key, value: *mut c_void) -> Option<isize> {
        const FIRST: Key = 32;
        /// In bytes: the values begin after byte 784, and each of them has 16 bytes. The record is longer than this
        /// range.
        const WHERE: Range<usize> = 512..1536;
        if key >= FIRST {
            return None;
        }
        let places = || WHERE.step_by(size_of::<usize>()).map(|place| place as isize);
        // SAFETY: these are words of the thread's record, which the thread has for its whole life.
        let has = |place: isize, value: *mut c_void| unsafe { read(place) } == value;
        // A value of this library, which no other word has, shows where the values of all keys are.
        let mut own = 0;
        let mark = core::ptr::from_mut(&mut own).cast::<c_void>();
        // SAFETY: the key is made here and deleted here. Nothing else knows it.
        let of_own = unsafe {
            if libc::pthread_key_create(&mut own, None) != 0 {
                return None;
            }
            let is_set = own < FIRST && libc::pthread_setspecific(own, mark) == 0;
            let mut found = places().filter(|place| is_set && has(*place, mark));
            let (first, second) = (found.next(), found.next());
            libc::pthread_key_delete(own);
            first.filter(|_| second.is_none())?
        };
        let apart = 2 * size_of::<usize>() as isize;
        let place = of_own + (key as isize - own as isize) * apart;
        (WHERE.contains(&(place as usize)) && has(place, value)).then_some(place)
    }

    #[cfg(not(target_arch = "x86_64"))]
    pub(crate) fn find_specific(_key: Key, _value: *mut c_void) -> Option<isize> {
        None
    }

    struct Search {
        code: usize,
        found: Option<Range<usize>>,
    }

    /// Returns the addresses of the calling thread's storage for the library or executable that contains this code. Returns
    /// `None` if there is none.
    pub(crate) fn storage_of(code: usize) -> Option<Range<usize>> {
        let mut search = Search { code, found: None };
        // SAFETY: `visit` has the type that the loader asks for, and `search` outlives the call.
        unsafe { libc::dl_iterate_phdr(Some(visit), core::ptr::from_mut(&mut search).cast()) };
        search.found
    }

    unsafe extern "C" fn visit(
        object: *mut libc::dl_phdr_info,
        _size: libc::size_t,
        search: *mut c_void,
    ) -> c_int {
        // SAFETY: the loader passes a valid record, and the `Search` of `storage_of`.
        let (object, search) = unsafe { (&*object, &mut *search.cast::<Search>()) };
        let count = usize::from(object.dlpi_phnum);
        // SAFETY: the object has this number of headers.
        let headers = unsafe { core::slice::from_raw_parts(object.dlpi_phdr, count) };
        let has_it = headers.iter().any(|header| {
            let begin = (object.dlpi_addr + header.p_vaddr) as usize;
            let addresses = begin..begin + header.p_memsz as usize;
            header.p_type == libc::PT_LOAD && addresses.contains(&search.code)
        });
        if !has_it {
            return 0;
        }
        let storage = headers.iter().find(|header| header.p_type == libc::PT_TLS);
        // The address is NULL if this thread has no storage for the object yet.
        if let Some(storage) = storage.filter(|_| !object.dlpi_tls_data.is_null()) {
            let begin = object.dlpi_tls_data as usize;
            search.found = Some(begin..begin + storage.p_memsz as usize);
        }
        1
    }

    #[cfg(target_arch = "x86_64")]
    fn thread_pointer() -> usize {
        let base;
        // SAFETY: the word at the thread pointer contains the thread pointer itself.
        unsafe {
            asm!(
                "mov {base}, qword ptr fs:[0]",
                base = out(reg) base,
                options(pure, readonly, nostack, preserves_flags),
            );
        }
        base
    }

    #[cfg(target_arch = "aarch64")]
    #[inline(always)]
    fn thread_pointer() -> usize {
        let base;
        // SAFETY: the instruction only reads a register.
        unsafe {
            asm!(
                "mrs {base}, tpidr_el0",
                base = out(reg) base,
                options(pure, nomem, nostack, preserves_flags),
            );
        }
        base
    }

    /// Returns what the calling thread has at this place.
    ///
    /// # Safety
    /// `place` comes from [`place_of`] or [`find_specific`].
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    pub(crate) unsafe fn read(place: isize) -> *mut c_void {
        let word;
        // SAFETY: every thread has this word, by this function's contract. Not `pure`, because its owner changes
        // the word.
        unsafe {
            asm!(
                "mov {word}, qword ptr fs:[{place}]",
                place = in(reg) place,
                word = lateout(reg) word,
                options(readonly, nostack, preserves_flags),
            );
        }
        word
    }

    #[cfg(target_arch = "aarch64")]
    #[inline(always)]
    pub(crate) unsafe fn read(place: isize) -> *mut c_void {
        let word = thread_pointer().wrapping_add_signed(place) as *const *mut c_void;
        // SAFETY: every thread has this word, by this function's contract. Volatile, because its owner changes
        // the word.
        unsafe { word.read_volatile() }
    }
}

#[cfg(not(all(
    target_os = "linux",
    target_env = "gnu",
    any(target_arch = "x86_64", target_arch = "aarch64")
)))]
mod imp {
    use core::ffi::c_void;
    use core::ops::Range;

    use super::super::posix::Key;

    pub(crate) fn storage_of(_code: usize) -> Option<Range<usize>> {
        None
    }

    pub(crate) fn place_of(_word: usize) -> Option<isize> {
        None
    }

    pub(crate) fn find_specific(_key: Key, _value: *mut c_void) -> Option<isize> {
        None
    }

    pub(crate) unsafe fn read(_place: isize) -> *mut c_void {
        core::ptr::null_mut()
    }
}

pub(crate) use imp::{find_specific, place_of, read, storage_of};

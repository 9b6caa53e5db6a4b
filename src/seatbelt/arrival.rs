//! Serves a CPython that comes late: a host of plugins loads it when this library is there already.
//!
//! *How the library learns of it.* The host calls `dlopen`. The loader calls a function that does nothing, for
//! debuggers, before and after it maps or unmaps objects (`r_brk` of `<link.h>`). If the seatbelt is asked for and
//! there is no CPython, the library writes a jump there. So it learns of CPython under the loader's lock, before any
//! thread can have called CPython.
//!
//! *CPython's code* is redirected at once. No thread runs it yet, so no thread has to stand still. glibc before 2.41
//! makes the call when objects are not relocated yet. So nothing is called in them, no slot is written, and names
//! are looked up in their own tables, because the loader would not find them.
//!
//! *The rest* follows at the first call that comes to the library, or when the loader maps another object: CPython
//! is relocated by then. From that first call on CPython stays loaded. If it is unloaded before, the library forgets
//! it, and waits for the next one.
//!
//! A CPython in a namespace of its own (`dlmopen`) is not seen here. If the kernel forbids the jump, the library
//! says so at the end of the process.

use alloc::boxed::Box;
use core::ffi::{c_int, c_void, CStr};
use core::ptr::null_mut;
use core::sync::atomic::{AtomicBool, AtomicPtr, Ordering};

use object::elf::{self, Sym64};
use object::NativeEndian;

use super::protect::{for_copies, redirections, say_why_not, Why, TRIED};
use super::{copies, imports, views};
use crate::exit::calls::{are_protected, set_protected};
use crate::exit::{bound, late};
use crate::patch::slots::Object;
use crate::patch::{original, patch};
use crate::python::{self, states, Late};

/// `r_debug` of `<link.h>`.
#[repr(C)]
struct Debug {
    version: c_int,
    objects: *const c_void,
    hook: usize,
    state: c_int,
}

/// No change of the list of objects is under way. In the other states objects are about to come, or to go.
const CONSISTENT: c_int = 0;

static DEBUG: AtomicPtr<Debug> = AtomicPtr::new(null_mut());

/// The tables of the CPython that came, and whose code is redirected.
static FOUND: AtomicPtr<Tables> = AtomicPtr::new(null_mut());

/// Whether protection is asked for, from the beginning.
static IS_WANTED: AtomicBool = AtomicBool::new(false);
static WAS_ON: AtomicBool = AtomicBool::new(false);
/// Why the last CPython that came is not protected. This is not behind a lock, which another thread could have while
/// this thread forks.
static WHY: AtomicPtr<Why> = AtomicPtr::new(null_mut());

fn note(why: Why) {
    // Release: pairs with `at_end`. The old value is not freed, because `at_end` may read it.
    WHY.store(Box::into_raw(Box::new(why)), Ordering::Release);
}

/// Notes that protection is asked for, and begins to wait for a CPython if `is_to_wait` says so. This is called when
/// the library is loaded: so the loader's lock is held, or there is no other thread.
pub(crate) fn ask(is_to_wait: bool) {
    IS_WANTED.store(true, Ordering::Relaxed);
    if is_to_wait {
        wait();
    }
}

fn wait() {
    // The first look takes the loader's lock. So it is done now, and not inside the loader when CPython has come.
    late::prepare(bound::begin_unannounced);
    // SAFETY: these are the loader's own objects, which stay loaded meanwhile.
    let debug = find_object(|object| unsafe { object.entry(elf::DT_DEBUG) }.filter(|at| *at != 0));
    let Some(debug) = debug.map(|at| at as *mut Debug) else { return };
    // Release: pairs with the load in `notified`.
    DEBUG.store(debug, Ordering::Release);
    // SAFETY: this is the loader's record, which the loader has filled in before it loads anything.
    let hook = unsafe { (*debug).hook };
    if let Err(why) = patch::fill_in(hook, notified as *const () as usize) {
        note(Why::Unannounced(why));
    }
}

/// The loader calls this. It holds its lock, which the same thread may take again.
unsafe extern "C" fn notified() {
    // SAFETY: this is the loader's record. Acquire: pairs with the store in `wait`.
    let state = unsafe { (*DEBUG.load(Ordering::Acquire)).state };
    if python::is_found() && state == CONSISTENT {
        // A CPython that was found stays loaded.
        return;
    }
    // SAFETY: the pointer is NULL, or what `arrive` left there for good. Relaxed: it is written under the same lock.
    match unsafe { FOUND.load(Ordering::Relaxed).as_ref() } {
        None if state == CONSISTENT => arrive(),
        None => {}
        Some(found) if !found.is_loaded() => forget(),
        // CPython was complete before any other object could come, or go.
        Some(_) if state != CONSISTENT => {
            imports::redirect();
            // The host is about to ask for the loader's own errors. This call removes the errors of the library's
            // look-ups.
            // SAFETY: `dlerror` has no preconditions.
            unsafe { libc::dlerror() };
        }
        Some(_) => {}
    }
}

fn arrive() {
    // SAFETY: the objects stay loaded meanwhile.
    let Some(tables) = find_object(|object| unsafe { Tables::of_python(object) }) else { return };
    // The tables are never freed: another thread that looks for a name may have them.
    FOUND.store(Box::into_raw(Box::new(tables)), Ordering::Release);
    match redirect_code() {
        Ok(()) => {
            WAS_ON.store(true, Ordering::Relaxed);
            set_protected(true);
            // All is done now, so other threads may find this CPython.
            python::look_in(Some(&LATE));
        }
        Err(why) => {
            note(why);
            FOUND.store(null_mut(), Ordering::Release);
        }
    }
}

/// Does what `switch_on` does, without the locks: nobody else knows this CPython.
fn redirect_code() -> Result<(), Why> {
    let version = python::usable_version(find).ok_or(Why::NoPython)?;
    states::of_version(version, find).map_err(Why::States)?;
    let redirections = redirections(find).ok_or(Why::NoPython)?;
    let copy = patch::redirect(&redirections, &for_copies(), patch::Runners::Nobody);
    match copy.map_err(Why::Patch)? {
        Some(copy) => copies::hand_on_to(&copy),
        None => views::redirect(views::of_late(find), patch::Runners::Nobody),
    }
    Ok(())
}

/// Forgets the CPython. It was unloaded, and no thread had called it.
fn forget() {
    python::look_in(None);
    original::forget();
    set_protected(false);
    FOUND.store(null_mut(), Ordering::Release);
}

static LATE: Late = Late { find, complete };

/// Does what could not be done at once. This is called at the first call that comes to the library.
fn complete() {
    if let Some(py) = python::get() {
        // This version was looked at before, in `redirect_code`.
        let _ = states::look(py);
        imports::redirect();
    }
}

/// Finds a name in the CPython that came.
fn find(name: &CStr) -> *mut c_void {
    // SAFETY: the pointer is NULL, or what `arrive` left there for good. Acquire: pairs with the store in `arrive`,
    // so the tables are complete.
    unsafe { FOUND.load(Ordering::Acquire).as_ref() }
        .map_or(null_mut(), |tables| tables.find(name) as *mut c_void)
}

/// Reports at the end of the process that the seatbelt was asked for and was never on. Says nothing if there was no
/// CPython to protect.
extern "C" fn at_end() {
    // Relaxed, both: these flags only decide what is told to people.
    let is_missing = IS_WANTED.load(Ordering::Relaxed) && !WAS_ON.load(Ordering::Relaxed);
    if !is_missing || are_protected() || TRIED.load(Ordering::Relaxed) {
        return;
    }
    // SAFETY: the objects stay loaded meanwhile.
    let Some(tables) = find_object(|object| unsafe { Tables::of_python(object) }) else { return };
    if patch::is_by_a_copy(tables.find(ENSURE)) {
        return;
    }
    // SAFETY: the pointer is NULL, or what `note` left there for good. Acquire: pairs with the store in `note`, so
    // the value is complete.
    let why = unsafe { WHY.load(Ordering::Acquire).as_ref() };
    say_why_not(why.unwrap_or(&Why::NoPython));
}

#[used]
#[link_section = ".fini_array"]
static AT_END: extern "C" fn() = at_end;

const ENSURE: &CStr = c"PyGILState_Ensure";

/// Where an object has its symbols. A name is found by its hash, in a table that glibc's linkers write
/// (`DT_GNU_HASH`).
struct Tables {
    base: usize,
    symbols: *const Sym64<NativeEndian>,
    names: usize,
    hash: *const u32,
}

impl Tables {
    /// # Safety
    /// The object is loaded, and stays loaded while the tables are used.
    unsafe fn of_python(object: &Object) -> Option<Tables> {
        // SAFETY: the caller promises that the object stays loaded, so its dynamic section can be read.
        let tables = unsafe {
            Tables {
                base: object.base(),
                symbols: object.address(elf::DT_SYMTAB)? as *const _,
                names: object.address(elf::DT_STRTAB)?,
                hash: object.address(elf::DT_GNU_HASH)? as *const u32,
            }
        };
        let has = |name| tables.find(name) != 0;
        (has(ENSURE) && has(c"Py_GetVersion")).then_some(tables)
    }

    /// Returns the address of what the object itself defines under this name, or 0 if it defines nothing under it.
    fn find(&self, name: &CStr) -> usize {
        let hash = name
            .to_bytes()
            .iter()
            .fold(5381_u32, |hash, byte| hash.wrapping_mul(33).wrapping_add(u32::from(*byte)));
        // SAFETY: the format says what is there: four numbers, the filter (words of 64 bits), the buckets, and the
        // hash of each symbol from `first` on. The lowest bit of such a hash says that the symbol is the last one of
        // its bucket.
        unsafe {
            let [buckets, first, filter, _] = *self.hash.cast::<[u32; 4]>();
            if buckets == 0 {
                return 0;
            }
            let bucket = self.hash.add(4 + 2 * filter as usize);
            let chain = bucket.add(buckets as usize);
            let mut index = *bucket.add((hash % buckets) as usize);
            if index < first {
                return 0;
            }
            loop {
                let other = *chain.add((index - first) as usize);
                let symbol = &*self.symbols.add(index as usize);
                if other | 1 == hash | 1 && symbol.st_shndx.get(NativeEndian) != elf::SHN_UNDEF {
                    let its = self.names + symbol.st_name.get(NativeEndian) as usize;
                    if CStr::from_ptr(its as *const _) == name {
                        return self.base.wrapping_add(symbol.st_value.get(NativeEndian) as usize);
                    }
                }
                if other & 1 != 0 {
                    return 0;
                }
                index += 1;
            }
        }
    }

    fn is_loaded(&self) -> bool {
        find_object(|object| object.contains(self.hash as usize).then_some(())).is_some()
    }
}

/// Returns the first answer of `ask` for an object of the process, in the namespace that this library is in.
fn find_object<T, F: FnMut(&Object) -> Option<T>>(ask: F) -> Option<T> {
    struct Search<T, F> {
        ask: F,
        answer: Option<T>,
    }
    unsafe extern "C" fn visit<T, F: FnMut(&Object) -> Option<T>>(
        info: *mut libc::dl_phdr_info,
        _size: libc::size_t,
        search: *mut c_void,
    ) -> c_int {
        // SAFETY: the loader passes a valid record of an object that stays loaded meanwhile. The search is the one
        // that is given below.
        unsafe {
            let search = &mut *search.cast::<Search<T, F>>();
            search.answer = (search.ask)(&Object::of(&*info));
            c_int::from(search.answer.is_some())
        }
    }
    let mut search = Search { ask, answer: None };
    // SAFETY: `visit` has the type that is asked for, and the search outlives the call.
    unsafe {
        libc::dl_iterate_phdr(Some(visit::<T, F>), core::ptr::from_mut(&mut search).cast());
    }
    search.answer
}

//! Redirects functions: writes a jump over the first instructions of each.
//!
//! To preload the library is not enough. In an executable that carries the interpreter, and inside a shared
//! libpython that was linked so, calls of the functions go straight to their addresses.
//!
//! - *What is written* is one jump to a page of the library nearby. From there another jump goes anywhere. The first
//!   jump takes 5 bytes on x86-64, and 4 bytes on aarch64. A direct call takes as many bytes. So no call that is still
//!   under way returns into the bytes that are overwritten. A landing pad (`endbr64`, `bti c`) stays before the jump, or
//!   is put before it.
//! - *Other threads* may run the function meanwhile. They may even be between two of the instructions that are
//!   overwritten. So all other threads stand still, outside of these instructions (`stop.rs`).
//! - *Coherence*: the threads go on by a return from a signal, which serializes a processor. For the processor of a
//!   thread that was in a system call, and for the caches of aarch64, there are a barrier and cache maintenance.
//! - *Policies*: the pages of code are made writable for a moment, and stay executable meanwhile. A system that
//!   forbids both at once (SELinux, a sealed mapping, W^X) says so at the request, before anything is changed. Such
//!   a system might also forbid the way back, from writable to executable. If the system says no, that is the
//!   answer: the library does not try to get around it.

use alloc::vec::Vec;
use core::ffi::{c_int, c_void};

#[cfg(target_arch = "aarch64")]
use super::aarch64::{is_empty, jump, jump_anywhere, target, FIRST};
use super::change::Change;
pub(crate) use super::change::Why;
use super::mappings::{guard_of, mappings};
use super::page::{clear_cache, page_size, Page};
use super::stop;
#[cfg(target_arch = "x86_64")]
use super::x86_64::{is_empty, jump, jump_anywhere, target, FIRST};
use crate::os::last_error;

/// The page that jumps go to begins with this mark. By the mark other copies of the library recognize the page and
/// what follows: a jump for each redirected function, and a jump for each function that other copies may call. The
/// digit changes whenever these jumps change.
const MARK: [u8; 16] = *b"libpep788 jumps1";

fn jump_at(page: usize, index: usize) -> usize {
    page + 16 * (index + 1)
}

/// Another copy of the library in the process, which was first to redirect the functions.
#[derive(Debug)]
pub(crate) struct Copy {
    page: usize,
    redirected: usize,
}

impl Copy {
    /// Returns the copy that has redirected the function at `entry`.
    fn that_took(entry: usize, redirected: usize) -> Option<Copy> {
        // SAFETY: these are the first bytes of a function, which is longer.
        let code = unsafe { (entry as *const [u8; 16]).read_unaligned() };
        let page = target(entry, &code)? & !(page_size() - 1);
        // SAFETY: a function jumps to code, so the page of that code can be read.
        let is_marked = unsafe { (page as *const [u8; 16]).read() == MARK };
        is_marked.then_some(Copy { page, redirected })
    }

    /// Returns the address by which to call the function that the other copy has at this index of its `for_copies`.
    pub(crate) fn function(&self, index: usize) -> usize {
        jump_at(self.page, self.redirected + index)
    }
}

/// Which threads may run the functions that are redirected.
#[derive(PartialEq, Eq)]
pub(crate) enum Runners {
    AnyThread,
    /// The functions were loaded a moment ago.
    Nobody,
}

/// Redirects functions, each to another one. Redirects all or none. Returns another copy of the library if that copy
/// has redirected the functions before.
pub(crate) fn redirect(
    functions: &[(usize, usize)],
    for_copies: &[usize],
    runners: Runners,
) -> Result<Option<Copy>, Why> {
    let mut copies = functions.iter().map(|(entry, _)| Copy::that_took(*entry, functions.len()));
    if let Some(Some(copy)) = copies.next() {
        if copies.all(|other| other.is_some()) {
            return Ok(Some(copy));
        }
    }
    let page = Page::near(functions[0].0)?;
    // SAFETY: nobody knows the page yet, and it is longer than what is written.
    unsafe { (page.address as *mut [u8; 16]).write(MARK) };
    let mut changes = Vec::new();
    let mappings = mappings();
    for (index, &(entry, to)) in functions.iter().enumerate() {
        let stub = jump_at(page.address, index);
        // SAFETY: nobody knows the page yet, and it is longer than what is written. The bytes that are read are the
        // first ones of a function, which is longer.
        let code = unsafe {
            (stub as *mut [u8; 16]).write(jump_anywhere(to));
            (entry as *const [u8; 16]).read_unaligned()
        };
        let mut change = jump(entry, &code, stub)?;
        change.guard = guard_of(&mappings, entry);
        changes.push(change);
    }
    for (index, to) in for_copies.iter().enumerate() {
        let stub = jump_at(page.address, functions.len() + index);
        // SAFETY: nobody knows the page yet, and it is longer than what is written.
        unsafe { (stub as *mut [u8; 16]).write(jump_anywhere(*to)) };
    }
    page.make_executable()?;
    if runners == Runners::Nobody {
        write(&changes)?;
    } else {
        let inside: Vec<_> = changes.iter().map(Change::inside).collect();
        // SAFETY: the functions are there, and their first bytes are not overwritten yet.
        let undoing: Vec<_> = changes.iter().map(|it| unsafe { it.undoing() }).collect();
        // What could be written to a moment ago can be written to again, so the result is dropped.
        let undo = || drop(write(&undoing));
        stop::with_all_stopped(&inside, || write(&changes), undo).map_err(Why::Stop)??;
    }
    // From now on functions jump to the page, so it stays.
    core::mem::forget(page);
    Ok(None)
}

/// Redirects a function that does nothing to another one. No thread runs the function meanwhile, or a thread runs it
/// only in the moment that the write of a single byte takes.
pub(crate) fn fill_in(entry: usize, to: usize) -> Result<(), Why> {
    // SAFETY: these are the first bytes of a function, and what is between it and the next function.
    let code = unsafe { (entry as *const [u8; 16]).read_unaligned() };
    if !is_empty(&code) {
        return Err(Why::Taken);
    }
    let Jump { change, page } = Jump::new(entry, to)?;
    // The first instruction of the function is overwritten last.
    let (first, rest) = change.bytes[..change.length].split_at(change.length.min(FIRST));
    let mut changes = [Change::new(change.at + first.len(), rest), Change::new(change.at, first)];
    changes.iter_mut().for_each(|part| part.guard = change.guard);
    write(&changes)?;
    core::mem::forget(page);
    Ok(())
}

/// A jump to put in place of a function, to another one that may be far away. It is not written yet.
pub(crate) struct Jump {
    change: Change,
    /// From here the jump goes on.
    page: Page,
}

impl Jump {
    pub(crate) fn new(entry: usize, to: usize) -> Result<Jump, Why> {
        // SAFETY: these are the first bytes of a function, and maybe of the next one.
        let code = unsafe { (entry as *const [u8; 16]).read_unaligned() };
        let page = Page::near(entry)?;
        let stub = jump_at(page.address, 0);
        // SAFETY: nobody knows the page yet, and it is longer than what is written. The page has no mark, as it is for
        // no other copy.
        unsafe { (stub as *mut [u8; 16]).write(jump_anywhere(to)) };
        let mut change = jump(entry, &code, stub)?;
        change.guard = guard_of(&mappings(), entry);
        page.make_executable()?;
        Ok(Jump { change, page })
    }

    /// Writes it, for good, in a process that has only the calling thread. Allocates nothing and takes no lock.
    pub(crate) fn write(self) -> Result<(), Why> {
        let result = write(&[self.change]);
        if result.is_ok() {
            core::mem::forget(self.page);
        }
        result
    }
}

/// Returns whether another copy of the library has redirected the function at `entry`.
pub(crate) fn is_by_a_copy(entry: usize) -> bool {
    Copy::that_took(entry, 0).is_some()
}

/// Writes the changes. Allocates nothing and takes no lock: other threads stand still, and may hold the locks.
fn write(changes: &[Change]) -> Result<(), Why> {
    let result = changes.iter().try_for_each(|change| {
        protect(change, libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC)
    });
    if result.is_ok() {
        for change in changes {
            // SAFETY: the code is writable now. No thread runs it, and no call returns into it.
            unsafe {
                change.write();
                clear_cache(change.at, change.length);
            }
        }
    }
    for change in changes {
        // The pages become as they were. If the system refuses that, nothing but a protection is lost.
        let _ = protect(change, libc::PROT_READ | libc::PROT_EXEC);
    }
    result
}

fn protect(change: &Change, how: c_int) -> Result<(), Why> {
    let begin = change.at & !(page_size() - 1);
    let how = how | change.guard;
    // SAFETY: these are pages of code. Nothing is taken from them but the ban on writing.
    let refused = unsafe { libc::mprotect(begin as *mut c_void, change.end() - begin, how) } != 0;
    if refused {
        Err(Why::Sealed(last_error()))
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // A function that spends its time in the bytes that are overwritten. Several short instructions end within these
    // bytes.
    #[cfg(target_arch = "x86_64")]
    core::arch::global_asm!(
        ".text",
        // This is aligned as CPython's functions are. With the landing pad the jump is not within an aligned word.
        ".balign 16",
        ".globl pep788_victim",
        ".hidden pep788_victim",
        "pep788_victim:",
        "endbr64",
        "push rbp",
        "push rbx",
        "push r12",
        "mov eax, 1",
        "pop r12",
        "pop rbx",
        "pop rbp",
        "ret",
    );

    // `paciasp` and `autiasp` are written by their numbers, which any assembler knows.
    #[cfg(target_arch = "aarch64")]
    core::arch::global_asm!(
        ".text",
        ".balign 4",
        ".globl pep788_victim",
        ".hidden pep788_victim",
        "pep788_victim:",
        "hint 25",
        "mov x0, 1",
        "hint 29",
        "ret",
    );

    // SAFETY: the function takes nothing, and returns a number.
    unsafe extern "C" {
        #[link_name = "pep788_victim"]
        safe fn victim() -> usize;
    }

    extern "C" fn replacement() -> usize {
        2
    }

    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    #[test]
    fn a_thousand_times_under_fire() {
        use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
        const THREADS: usize = 8;
        const TIMES: usize = 250;
        let stop = AtomicBool::new(false);
        // Odd while a change is under way. At every other even number, from 0 on, the function is as it was.
        let step = AtomicUsize::new(0);
        let entry = victim as *const () as usize;
        let page = Page::near(entry).expect("a page");
        let stub = page.address + 16;
        // SAFETY: the page is the library's own, and the bytes that are read are the first ones of a function.
        let code = unsafe {
            (stub as *mut [u8; 16]).write(jump_anywhere(replacement as *const () as usize));
            (entry as *const [u8; 16]).read_unaligned()
        };
        assert!(page.make_executable().is_ok());
        let there = jump(entry, &code, stub).unwrap();
        // SAFETY: the function is there, so its bytes can be read.
        let back = unsafe { there.undoing() };
        std::thread::scope(|scope| {
            for _ in 0..THREADS {
                scope.spawn(|| {
                    while !stop.load(Relaxed) {
                        let before = step.load(Relaxed);
                        let got = core::hint::black_box(victim as extern "C" fn() -> usize)();
                        assert!(got == 1 || got == 2, "{got}");
                        // The step is the same before the call and after it, so there was no change meanwhile.
                        if before % 2 == 0 && step.load(Relaxed) == before {
                            assert_eq!(got, if before % 4 == 0 { 1 } else { 2 });
                        }
                    }
                });
            }
            // One thread blocks all signals that `pthread_sigmask` can block.
            scope.spawn(|| {
                // SAFETY: the places are valid, and are filled in before they are read.
                unsafe {
                    let mut all = core::mem::zeroed();
                    libc::sigfillset(&mut all);
                    libc::pthread_sigmask(libc::SIG_BLOCK, &all, core::ptr::null_mut());
                }
                while !stop.load(Relaxed) {
                    let got = core::hint::black_box(victim as extern "C" fn() -> usize)();
                    assert!(got == 1 || got == 2, "{got}");
                }
            });
            // One thread blocks all signals by the bare system call, so that it cannot be stopped. It is in system
            // calls most of the time.
            scope.spawn(|| {
                let all = u64::MAX;
                let none = core::ptr::null::<u64>();
                // SAFETY: the set has as many bytes as the kernel's sets of signals. `usleep` has no preconditions.
                unsafe {
                    let how = libc::SIG_BLOCK;
                    libc::syscall(libc::SYS_rt_sigprocmask, how, &all, none, size_of::<u64>());
                    while !stop.load(Relaxed) {
                        libc::usleep(50);
                    }
                }
            });
            for _ in 0..TIMES {
                for (change, undoing) in [(there, back), (back, there)] {
                    step.fetch_add(1, Relaxed);
                    let make = || {
                        let done = write(&[change]);
                        step.fetch_add(1, Relaxed);
                        done
                    };
                    let undo = || {
                        step.fetch_sub(1, Relaxed);
                        assert!(write(&[undoing]).is_ok());
                    };
                    let done = stop::with_all_stopped(&[change.inside()], make, undo);
                    if !matches!(done, Ok(Ok(()))) {
                        // The scope waits for the threads, so they have to end.
                        stop.store(true, Relaxed);
                        panic!("{done:?}");
                    }
                }
            }
            stop.store(true, Relaxed);
        });
    }
}

//! The end of the process by an error of the library itself: a message, the native stack, and an abort.
//!
//! Nothing is allocated, and the message comes first: what is broken may be the heap.

use core::fmt::{self, Write as _};
use core::panic::PanicInfo;
use core::sync::atomic::{AtomicUsize, Ordering};

use crate::os::{self, say, Place};
#[cfg(pep788_redirects)]
use crate::patch::signal::are_threads_stopped;
use crate::system::stack;
use crate::system::symbols::write_place;

/// How many panics say something. A panic that is met while another one is told must come to an end.
const TOLD: usize = 4;

/// How many calls of the stack are listed.
const DEPTH: usize = 48;

#[panic_handler]
fn end(panic: &PanicInfo) -> ! {
    static PANICS: AtomicUsize = AtomicUsize::new(0);
    // Relaxed: the count says nothing about other data.
    if PANICS.fetch_add(1, Ordering::Relaxed) < TOLD {
        tell(panic);
    }
    os::abort()
}

fn tell(panic: &PanicInfo) {
    let (file, line) = panic.location().map_or(("?", 0), |place| (place.file(), place.line()));
    say_line(format_args!("libpep788: internal error at {file}:{line}: {}", panic.message()));
    // A thread that stands still may have the lock of the loader, which knows the libraries.
    #[cfg(pep788_redirects)]
    if are_threads_stopped() {
        return;
    }
    let mut addresses = [0; DEPTH];
    let depth = stack::walk(&mut addresses);
    for address in &addresses[..depth] {
        say_line(format_args!("libpep788:     {}", At(*address)));
    }
}

/// An address of a stack, as people read it.
struct At(usize);

impl fmt::Display for At {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_place(to, self.0)
    }
}

/// Says a line. What is too long for it is cut off.
fn say_line(text: fmt::Arguments) {
    let mut line = [0; 512];
    let room = line.len() - 1;
    let mut place = Place(&mut line[..room]);
    let _ = place.write_fmt(text);
    let length = room - place.0.len();
    line[length] = b'\n';
    say(&line[..=length]);
}

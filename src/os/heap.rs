//! The memory of the C library, for a library that has no other.

use core::alloc::{GlobalAlloc, Layout};
use core::ptr::null_mut;

struct Heap;

#[global_allocator]
static HEAP: Heap = Heap;

/// What `malloc` aligns to.
const ALIGNED: usize = 2 * size_of::<usize>();

// SAFETY: the C library's memory has the size that was asked for, and `posix_memalign` sees to a higher alignment.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: both calls take any size, and any power of two that a pointer fits in is an alignment.
        unsafe {
            if layout.align() <= ALIGNED {
                return libc::malloc(layout.size()).cast();
            }
            let mut place = null_mut();
            let failed = libc::posix_memalign(&mut place, layout.align(), layout.size()) != 0;
            if failed {
                null_mut()
            } else {
                place.cast()
            }
        }
    }

    unsafe fn dealloc(&self, place: *mut u8, _: Layout) {
        // SAFETY: one of the two calls above returned it, and its owner gives it back.
        unsafe { libc::free(place.cast()) }
    }

    unsafe fn realloc(&self, place: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the place has that layout, so the part that both sizes have in common can be copied. `realloc` keeps
        // only the alignment of `malloc`.
        unsafe {
            if layout.align() <= ALIGNED {
                return libc::realloc(place.cast(), size).cast();
            }
            let new = self.alloc(Layout::from_size_align_unchecked(size, layout.align()));
            if !new.is_null() {
                new.copy_from_nonoverlapping(place, size.min(layout.size()));
                self.dealloc(place, layout);
            }
            new
        }
    }
}

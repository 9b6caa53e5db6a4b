//! The memory of the process, for a library that has no other, on Windows.

use core::alloc::{GlobalAlloc, Layout};
use core::ptr::null_mut;

use windows_sys::Win32::System::Memory::{GetProcessHeap, HeapAlloc, HeapFree};

struct Heap;

#[global_allocator]
static HEAP: Heap = Heap;

/// What the system aligns to.
const ALIGNED: usize = 2 * size_of::<usize>();

// SAFETY: the system's memory has the size that was asked for. For a higher alignment there is more of it, and the word before
// the place says where it begins.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the call takes any size. The place and the word before it are within what it returns.
        unsafe {
            let heap = GetProcessHeap();
            if layout.align() <= ALIGNED {
                return HeapAlloc(heap, 0, layout.size()).cast();
            }
            let begin: *mut u8 = HeapAlloc(heap, 0, layout.size() + layout.align()).cast();
            if begin.is_null() {
                return null_mut();
            }
            // At least the size of a word further, as the system aligns to more.
            let place = begin.add(layout.align() - begin.addr() % layout.align());
            place.cast::<*mut u8>().sub(1).write(begin);
            place
        }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        // SAFETY: `alloc` returned it for this layout, and its owner gives it back.
        unsafe {
            let begin = match layout.align() {
                ..=ALIGNED => place,
                _ => place.cast::<*mut u8>().sub(1).read(),
            };
            HeapFree(GetProcessHeap(), 0, begin.cast());
        }
    }
}

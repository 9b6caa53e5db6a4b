//! Where CPython's structures have the fields that the library reads in some versions.
//!
//! Each structure here has as many fields of the same kinds as CPython's. So the compiler finds the same places for them as C's, on
//! processors of 32 and 64 bits, and on systems with a short `long`. Fields that nobody asks for have made-up names, and
//! neighbours of one kind are an array. The structures are fixed within a minor version, and 3.9 to 3.11 get no new features.

use core::ffi::{c_int, c_ulong};
use core::mem::offset_of;

use crate::os::{CCondition, CMutex, HAS_GLIBC};

type Pointer = usize;

/// The beginning of `struct _ts`, up to `gilstate_counter`: pointers, numbers, and pointers again.
#[repr(C)]
struct State<const POINTERS: usize, const NUMBERS: usize, const MORE: usize> {
    pointers: [Pointer; POINTERS],
    numbers: [c_int; NUMBERS],
    more: [Pointer; MORE],
    counter: c_int,
}

type State39 = State<4, 5, 13>; // 3.9.18: lines 52 to 92. Two numbers of 8 bits count as one of 32.
type State310 = State<4, 4, 14>; // 3.10.13: lines 63 to 103
type State311 = State<3, 7, 10>; // 3.11.7: lines 85 to 129
type State312 = State<3, 7, 8>; // 3.12.1: lines 118 to 178
type State313 = State<4, 9, 8>; // 3.13.0: lines 62 to 142
type State314 = State<4, 9, 8>; // 3.14.10: lines 69 to 149
type State315 = State<4, 10, 11>; // 3.15.2: lines 69 to 162

/// Returns where a thread state has `gilstate_counter`, in bytes. pybind11 and cffi write it too, so it does not move within a
/// minor version. `struct _ts` is in `Include/cpython/pystate.h`. Returns `None` for a version that is not known.
pub(super) fn counter(version: u16) -> Option<usize> {
    match version {
        0x0309 => Some(offset_of!(State39, counter)),
        0x030a => Some(offset_of!(State310, counter)),
        0x030b => Some(offset_of!(State311, counter)),
        0x030c => Some(offset_of!(State312, counter)),
        0x030d => Some(offset_of!(State313, counter)),
        0x030e => Some(offset_of!(State314, counter)),
        0x030f => Some(offset_of!(State315, counter)),
        _ => None,
    }
}

/// 3.9.18: up to line 95.
#[repr(C)]
struct Whole39 {
    state: State39,
    async_exc: Pointer,
    thread_id: c_ulong,
}

/// 3.10.13: up to line 148.
#[repr(C)]
struct Whole310 {
    state: State310,
    async_exc: Pointer,
    thread_id: c_ulong,
    trash_nesting: c_int,
    pointers: [Pointer; 3],
    coroutine_depth: c_int,
    more: [Pointer; 3],
    numbers: [u64; 2],
    root_cframe: Pointer,
}

/// 3.11.7: up to line 202.
#[repr(C)]
struct Whole311 {
    state: State311,
    async_exc: Pointer,
    thread_id: c_ulong,
    native_thread_id: c_ulong,
    trash_nesting: c_int,
    pointers: [Pointer; 3],
    coroutine_depth: c_int,
    more: [Pointer; 3],
    numbers: [u64; 2],
    traced_code: Pointer,
    traced_numbers: [c_int; 3],
    traced_line: Line,
    and_more: [Pointer; 5],
    root_cframe: Pointer,
}

/// 3.11.7: `struct _opaque` in `Include/cpython/code.h`.
#[repr(C)]
struct Line {
    number: c_int,
    pointers: [Pointer; 2],
}

/// The beginning of `_PyRuntime`, in `Include/internal/pycore_runtime.h`: 3.9.18 lines 54 to 99, 3.10.13 lines 63 to 108, 3.11.7
/// lines 64 to 116. Its first fields are flags.
#[repr(C)]
struct Runtime<const FLAGS: usize> {
    flags: [c_int; FLAGS],
    finalizing: Pointer,
    interpreters: Interpreters,
    registry: [Pointer; 2],
    main_thread: c_ulong,
    exit_functions: [Pointer; 32],
    exit_function_count: c_int,
    ceval: Ceval,
    gilstate: Gilstate,
}

type Runtime39 = Runtime<4>; // 3.10 has the same
type Runtime311 = Runtime<5>;

#[repr(C)]
struct Interpreters {
    pointers: [Pointer; 3],
    next_id: i64,
}

#[repr(C)]
struct Ceval {
    signals_pending: c_int,
    gil: Gil,
}

/// `Include/internal/pycore_gil.h`, lines 23 to 45.
#[repr(C)]
struct Gil {
    interval: c_ulong,
    last_holder: Pointer,
    locked: c_int,
    switch_number: c_ulong,
    locks: [Lock; 2],
}

#[repr(C)]
struct Lock {
    condition: CCondition,
    mutex: CMutex,
}

#[repr(C)]
struct Gilstate {
    check_enabled: c_int,
    tstate_current: Pointer,
}

/// Where a thread state of 3.9 to 3.11, and `_PyRuntime`, have what the library reads.
pub(super) struct Layout {
    /// The number of words of `PyThreadState` that are read. The last one is `thread_id`.
    pub(super) words: usize,
    /// Shows where the thread state runs Python code. If a thread runs Python code with it, `cframe` points into the
    /// C stack of that thread. If none does, `cframe` points to the field at byte `own` of the thread state. 3.9 has
    /// nothing like it.
    pub(super) cframe: Option<CFrame>,
    /// Where `gilstate.tstate_current` is in `_PyRuntime`, in bytes.
    pub(super) current: usize,
    /// Where `ceval.gil.last_holder` is there.
    pub(super) last_taker: usize,
}

pub(super) struct CFrame {
    pub(super) word: usize,
    pub(super) own: usize,
}

const WORD: usize = size_of::<usize>();

/// The words from `last_taker` on: who took the GIL last, whether it is taken, and how often it changed hands.
pub(super) const GIL_WORDS: usize =
    (offset_of!(Gil, switch_number) + size_of::<c_ulong>() - offset_of!(Gil, last_holder)) / WORD;

/// Where a thread state has these fields, in words: first `prev`, then `next` (the older thread state of that
/// interpreter), then `interp`.
pub(super) const NEXT: usize = 1;
pub(super) const INTERPRETER: usize = 2;

pub(super) const LONGEST_LAYOUT: usize = words(offset_of!(Whole39, thread_id));

/// Returns the number of words up to and with the one at this byte.
const fn words(byte: usize) -> usize {
    byte / WORD + 1
}

impl Layout {
    /// Returns `None` from 3.12 on: there nothing of this is asked for.
    pub(super) fn of(version: u16) -> Option<Layout> {
        // Where 3.10 and 3.11 have `cframe`, behind their numbers.
        const CFRAME310: usize = offset_of!(State310, more);
        const CFRAME311: usize = offset_of!(State311, more);
        // `gilstate.tstate_current` and `ceval.gil.last_holder`
        const RUNTIME39: [usize; 2] = [
            offset_of!(Runtime39, gilstate.tstate_current),
            offset_of!(Runtime39, ceval.gil.last_holder),
        ];
        const RUNTIME311: [usize; 2] = [
            offset_of!(Runtime311, gilstate.tstate_current),
            offset_of!(Runtime311, ceval.gil.last_holder),
        ];
        let (thread_id, cframe, [current, last_taker]) = match version {
            0x0309 => (offset_of!(Whole39, thread_id), None, RUNTIME39),
            0x030a => (
                offset_of!(Whole310, thread_id),
                Some((CFRAME310, offset_of!(Whole310, root_cframe))),
                RUNTIME39,
            ),
            0x030b => (
                offset_of!(Whole311, thread_id),
                Some((CFRAME311, offset_of!(Whole311, root_cframe))),
                RUNTIME311,
            ),
            _ => return None,
        };
        let cframe = cframe.map(|(byte, own)| CFrame { word: byte / WORD, own });
        Some(Layout { words: words(thread_id), cframe, current, last_taker })
    }
}

/// What C's `offsetof` says, with the headers of these versions and of glibc.
const _: () = {
    /// On ARM a number of 64 bits is at a multiple of 8 bytes, on i386 at one of 4.
    const fn is(place: usize, x86_64: usize, i386: usize, arm: usize) -> bool {
        match () {
            () if !HAS_GLIBC => true,
            () if cfg!(target_arch = "x86_64") => place == x86_64,
            () if cfg!(target_arch = "x86") => place == i386,
            () if cfg!(target_arch = "arm") => place == arm,
            () => true,
        }
    }
    assert!(is(offset_of!(State39, counter), 160, 88, 88));
    assert!(is(offset_of!(State310, counter), 160, 88, 88));
    assert!(is(offset_of!(State311, counter), 136, 80, 80));
    assert!(is(offset_of!(State312, counter), 120, 72, 72));
    assert!(is(offset_of!(State313, counter), 136, 84, 84));
    assert!(is(offset_of!(State314, counter), 136, 84, 84));
    assert!(is(offset_of!(State315, counter), 160, 100, 100));
    assert!(is(offset_of!(Whole39, thread_id), 176, 96, 96));
    assert!(is(offset_of!(Whole310, thread_id), 176, 96, 96));
    assert!(is(offset_of!(Whole311, thread_id), 152, 88, 88));
    assert!(is(offset_of!(State310, more), 48, 32, 32));
    assert!(is(offset_of!(State311, more), 56, 40, 40));
    assert!(is(offset_of!(Whole310, root_cframe), 264, 148, 152));
    assert!(is(offset_of!(Whole311, root_cframe), 336, 192, 192));
    assert!(is(offset_of!(Runtime39, ceval.gil.last_holder), 360, 192, 204));
    assert!(is(offset_of!(Runtime39, gilstate.tstate_current), 568, 352, 364));
    assert!(is(offset_of!(Runtime311, ceval.gil.last_holder), 368, 196, 204));
    assert!(is(offset_of!(Runtime311, gilstate.tstate_current), 576, 356, 364));
};

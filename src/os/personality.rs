//! What unwinders ask Rust's functions, in a library that has no `std` to answer.

use core::ffi::c_int;

/// Is asked what to do when an exception, or the end of a thread, passes a function of `core`. These functions come
/// compiled, and their tables name it. Nothing is to be done, because nothing here is undone by unwinding.
extern "C" fn personality() -> c_int {
    const GO_ON: c_int = 8;
    GO_ON
}

#[cfg(not(target_os = "macos"))]
macro_rules! name {
    () => {
        "rust_eh_personality"
    };
}
#[cfg(target_os = "macos")]
macro_rules! name {
    () => {
        "_rust_eh_personality"
    };
}

// In assembly, because a shared library would export the name of a Rust function. For POWER, Rust has had assembly only of late: it
// is in `words.c`.
#[cfg(any(target_arch = "x86_64", target_arch = "x86"))]
core::arch::global_asm!(
    concat!(".globl ", name!()),
    concat!(name!(), ":"),
    "jmp {}",
    sym personality,
);
#[cfg(any(target_arch = "aarch64", target_arch = "arm"))]
core::arch::global_asm!(
    concat!(".globl ", name!()),
    concat!(name!(), ":"),
    "b {}",
    sym personality,
);
#[cfg(any(target_arch = "riscv64", target_arch = "riscv32"))]
core::arch::global_asm!(
    concat!(".globl ", name!()),
    concat!(name!(), ":"),
    "tail {}",
    sym personality,
);
#[cfg(target_arch = "s390x")]
core::arch::global_asm!(
    concat!(".globl ", name!()),
    concat!(name!(), ":"),
    "jg {}",
    sym personality,
);

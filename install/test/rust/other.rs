//! Another Rust library that is linked into the same binary.

/// 1: a panic was caught in here.
#[no_mangle]
pub extern "C" fn other_catches() -> i32 {
    std::panic::set_hook(Box::new(|_| {}));
    i32::from(std::panic::catch_unwind(|| panic!("caught")).is_err())
}

fn main() {
    println!("cargo:rerun-if-changed=src/python/calls.c");
    println!("cargo:rerun-if-changed=src/thread.c");
    cc::Build::new()
        .file("src/python/calls.c")
        .file("src/thread.c")
        .flag("-fexceptions")
        .warnings(true)
        .extra_warnings(true)
        .compile("pep788_c");

    // Exit callbacks, pending calls and fork handlers point into the library: once loaded it
    // stays.
    if std::env::var("CARGO_CFG_TARGET_OS").as_deref() == Ok("linux") {
        println!("cargo:rustc-cdylib-link-arg=-Wl,-z,nodelete");
    }
}

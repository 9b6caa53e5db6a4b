use std::path::Path;

fn main() {
    println!("cargo:rerun-if-changed=src/python/calls.c");
    println!("cargo:rerun-if-changed=src/os/words.c");
    let mut c = cc::Build::new();
    c.file("src/python/calls.c").warnings(true).extra_warnings(true);
    if std::env::var("CARGO_CFG_TARGET_OS").as_deref() != Ok("windows") {
        c.file("src/os/words.c");
    }
    if std::env::var_os("CARGO_FEATURE_VENDORED").is_some() {
        c.define("VENDORED", None);
        if std::env::var("CARGO_CFG_TARGET_ARCH").as_deref() == Ok("x86_64") {
            // TLS descriptors, which elsewhere are the usual way; see src/os/words.c.
            c.flag_if_supported("-mtls-dialect=gnu2");
        }
    }
    c.compile("pep788_c");

    // Where functions of CPython can be redirected: there the seatbelt can be on (`src/patch`, `src/seatbelt`).
    println!("cargo:rustc-check-cfg=cfg(pep788_redirects)");
    let target = ["CARGO_CFG_TARGET_OS", "CARGO_CFG_TARGET_ARCH"].map(std::env::var);
    // For messages.
    if let [Ok(os), Ok(arch)] = &target {
        println!("cargo:rustc-env=PEP788_TARGET={os} on {arch}");
    }
    if matches!(&target, [Ok(os), Ok(arch)] if os == "linux" && (arch == "x86_64" || arch == "aarch64"))
    {
        println!("cargo:rustc-cfg=pep788_redirects");
    }

    // Exit callbacks, pending calls and fork handlers point into the library: once loaded it
    // stays. On macOS it sees to that itself (`os/macos.rs`).
    if std::env::var("CARGO_CFG_TARGET_OS").as_deref() == Ok("linux") {
        println!("cargo:rustc-cdylib-link-arg=-Wl,-z,nodelete");
        // The library's own names are its own, whoever else has them: where a 3.15 is found first, its
        // functions are not ours (python/native.rs). It exports functions only, and zig's linker knows no
        // `-Bsymbolic-functions`.
        println!("cargo:rustc-cdylib-link-arg=-Wl,-Bsymbolic");
    }

    // Of the unwinder, which only reads stacks here, a copy: so the library needs nothing but libc.
    let mut has_copy = false;
    if std::env::var("CARGO_CFG_TARGET_ENV").as_deref() == Ok("gnu") {
        let cc = cc::Build::new().get_compiler();
        let asked = cc.to_command().arg("-print-file-name=libgcc_eh.a").output();
        let found = asked.ok().and_then(|answer| String::from_utf8(answer.stdout).ok());
        let folder = found.as_deref().map(|file| Path::new(file.trim())).and_then(Path::parent);
        if let Some(folder) = folder.filter(|folder| folder.is_absolute()) {
            println!("cargo:rustc-link-search=native={}", folder.display());
            println!("cargo:rustc-link-lib=static:-bundle=gcc_eh");
            if matches!(&target, [_, Ok(arch)] if arch == "aarch64") {
                // Has `__clear_cache`, which `calls.c` uses.
                println!("cargo:rustc-link-lib=static:-bundle=gcc");
            }
            has_copy = true;
        }
    }
    if !has_copy && matches!(&target, [Ok(os), _] if os == "linux") {
        println!("cargo:rustc-link-lib=gcc_s");
    }

    // The name under which programs look for the library once they are linked with it. Whoever
    // installs it knows (`make install`, the wheel; cargo-c gives its own). In `target` it has none on Linux,
    // and is looked for by its file's. On macOS it would be the path where it was built, so it is one that is looked
    // for in the program's own list of folders.
    println!("cargo:rerun-if-env-changed=PEP788_SONAME");
    let is_macos = std::env::var("CARGO_CFG_TARGET_OS").as_deref() == Ok("macos");
    if is_macos {
        // Rust's library names some of which nothing is used here.
        println!("cargo:rustc-cdylib-link-arg=-Wl,-dead_strip_dylibs");
    }
    let given = std::env::var("PEP788_SONAME").ok();
    let option = if is_macos { "-install_name" } else { "-soname" };
    if let Some(name) = given.or(is_macos.then(|| "@rpath/libpep788.dylib".into())) {
        println!("cargo:rustc-cdylib-link-arg=-Wl,{option},{name}");
    }
}

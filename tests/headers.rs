//! The committed headers are what cbindgen writes. `PEP788_WRITE_HEADERS=1` writes them.

use std::path::Path;

/// Headers, each with its source and its configuration.
const HEADERS: [(&str, &str, &str); 5] = [
    ("include/pep788.h", "src/capi/accepted.rs", "cbindgen.toml"),
    ("include/pep788_draft.h", "src/capi/draft.rs", "cbindgen_draft.toml"),
    ("include/pep788_gilstate.h", "src/capi/gilstate.rs", "cbindgen_gilstate.toml"),
    ("include/pep788_doctor.h", "src/capi/doctor.rs", "cbindgen_doctor.toml"),
    ("include/pep788_keep.h", "src/capi/keep.rs", "cbindgen_keep.toml"),
];

/// What programs compare at compile time.
fn version() -> String {
    let number = |text: &str| text.parse::<u32>().expect("a number");
    let [major, minor, patch] = [
        env!("CARGO_PKG_VERSION_MAJOR"),
        env!("CARGO_PKG_VERSION_MINOR"),
        env!("CARGO_PKG_VERSION_PATCH"),
    ]
    .map(number);
    format!(
        "/* Of these headers, as PY_VERSION_HEX is of Python's: two digits each for major, minor and patch, and two zeros. */\n\
         #ifndef PEP788_VERSION\n\
         #define PEP788_VERSION \"{}\"\n\
         #define PEP788_VERSION_HEX 0x{major:02x}{minor:02x}{patch:02x}00\n\
         #endif\n",
        env!("CARGO_PKG_VERSION")
    )
}

#[test]
fn headers_are_current() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for (header, source, config) in HEADERS {
        let config = cbindgen::Config::from_file(root.join(config)).expect(config);
        // cbindgen looks for the attribute itself, not for a condition around it.
        let text = std::fs::read_to_string(root.join(source)).expect(source);
        let text = text.replace("#[cfg_attr(feature = \"c-api\", no_mangle)]", "#[no_mangle]");
        let exported = Path::new(env!("CARGO_TARGET_TMPDIR")).join(source.replace('/', "_"));
        std::fs::write(&exported, text).expect(source);
        let bindings = cbindgen::Builder::new()
            .with_src(&exported)
            .with_config(config)
            .generate()
            .expect(source);
        let mut generated = Vec::new();
        bindings.write(&mut generated);
        let generated = String::from_utf8(generated).expect("a header is text");
        let generated = generated.replace("@VERSION@", &version());
        let path = root.join(header);
        if std::env::var_os("PEP788_WRITE_HEADERS").is_some() {
            std::fs::write(&path, &generated).expect(header);
        }
        let committed = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(
            committed == generated,
            "{header} is not what cbindgen writes from {source}; run `make headers`"
        );
    }
}

//! The committed headers are what cbindgen writes. `PEP788_WRITE_HEADERS=1` writes them.

use std::path::Path;

/// Headers, each with its source and its configuration.
const HEADERS: [(&str, &str, &str); 4] = [
    ("include/pep788.h", "src/capi/accepted.rs", "cbindgen.toml"),
    ("include/pep788_draft.h", "src/capi/draft.rs", "cbindgen_draft.toml"),
    ("include/pep788_gilstate.h", "src/capi/gilstate.rs", "cbindgen_gilstate.toml"),
    ("include/pep788_doctor.h", "src/capi/doctor.rs", "cbindgen_doctor.toml"),
];

#[test]
fn headers_are_current() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for (header, source, config) in HEADERS {
        let config = cbindgen::Config::from_file(root.join(config)).expect(config);
        let bindings = cbindgen::Builder::new()
            .with_src(root.join(source))
            .with_config(config)
            .generate()
            .expect(source);
        let mut generated = Vec::new();
        bindings.write(&mut generated);
        let generated = String::from_utf8(generated).expect("a header is text");
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

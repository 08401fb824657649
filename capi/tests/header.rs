//! The header that cbindgen makes of the crate is the committed one.
//!
//! `BAGDOT_BLESS=1 cargo test --test header` writes it.

use std::path::Path;

#[test]
fn header_is_that_of_the_crate() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let path = root.join("include/bagdot.h");
    let config = cbindgen::Config::from_file(root.join("cbindgen.toml")).unwrap();
    let mut header = Vec::new();
    let builder = cbindgen::Builder::new().with_crate(root).with_config(config);
    builder.generate().unwrap().write(&mut header);
    let header = String::from_utf8(header).unwrap();
    if std::env::var_os("BAGDOT_BLESS").is_some_and(|bless| bless == "1") {
        std::fs::write(&path, &header).unwrap();
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    if let Some((line, (found, wanted))) = committed
        .lines()
        .zip(header.lines())
        .enumerate()
        .find(|(_, (found, wanted))| found != wanted)
    {
        panic!(
            "include/bagdot.h:{}: {found:?}, but the crate says {wanted:?}: \
             BAGDOT_BLESS=1 cargo test --test header",
            line + 1
        );
    }
    assert_eq!(committed.len(), header.len(), "include/bagdot.h: BAGDOT_BLESS=1 writes it");
}

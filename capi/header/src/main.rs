//! Makes `include/bagdot.h` of the C library by cbindgen: `cargo run -p bagdot-capi-header`.
//!
//! With `--check`, changes nothing, and fails if the header is not that of the library.

use std::error::Error;
use std::path::Path;

fn main() -> Result<(), Box<dyn Error>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let path = root.join("include/bagdot.h");
    let config = cbindgen::Config::from_file(root.join("cbindgen.toml"))?;
    let mut header = Vec::new();
    cbindgen::Builder::new().with_crate(&root).with_config(config).generate()?.write(&mut header);
    let header = String::from_utf8(header)?;
    if !std::env::args().any(|argument| argument == "--check") {
        return Ok(std::fs::write(path, header)?);
    }
    let committed = std::fs::read_to_string(path)?;
    if committed == header {
        return Ok(());
    }
    let differs = |(found, wanted): &(&str, &str)| found != wanted;
    let mut lines = committed.lines().zip(header.lines()).enumerate();
    let (line, (found, wanted)) =
        lines.find(|(_, pair)| differs(pair)).unwrap_or((0, ("shorter or longer", "as it was")));
    Err(format!(
        "include/bagdot.h:{}: {found:?}, but the library says {wanted:?}: \
         cargo run -p bagdot-capi-header",
        line + 1
    )
    .into())
}

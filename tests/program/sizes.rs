//! Tests of sizes that no memory holds, in configurations, manifests and flags.

use std::fs;
use std::process::Command;

use crate::common::*;

/// Checks that a size that no memory holds is an error, which lists what needs memory, before
/// anything is drawn or allocated.
#[test]
fn models_that_do_not_fit_are_refused() {
    let folder = project(300);
    let folder = folder.path();
    let refused = |config: &str, arguments: &[&str]| {
        fs::write(folder.join("large.toml"), config).unwrap();
        let (code, message) =
            fail(folder, &[&["train", "large.toml", "--quiet"], arguments].concat());
        assert_eq!(code, 1, "{message}");
        assert!(message.contains("\ntables ") && message.contains("\nall "), "{message}");
        assert!(message.contains(" bytes of memory are needed, but "), "{message}");
        assert!(!folder.join("runs/large/manifest.json").exists());
    };
    for (layers, sizes) in [
        ("bottom_mlp = [8, 4]", "bottom_mlp = [1000000000000]"),
        ("bottom_mlp = [8, 4]", "bottom_mlp = [4, 100000000000]"),
        ("bottom_mlp = [8, 4]", "bottom_mlp = [9223372036854775807, 4]"),
        ("top_mlp = [8]", "top_mlp = [9223372036854775807]"),
        ("top_mlp = [8]", "top_mlp = [4294967296, 4294967296]"),
        ("members = 2", "members = 1000000000"),
        ("members = 2", "members = 9223372036854775807"),
    ] {
        refused(&CONFIG.replace(layers, sizes), &[]);
    }
    // No batch is larger than the data.
    let config = CONFIG.replace("batch_size = 32", "batch_size = 9223372036854775807");
    fs::write(folder.join("batch.toml"), config).unwrap();
    succeed(folder, &["train", "batch.toml", "--quiet", "--epochs", "1"]);

    // A manifest may claim sizes that its files do not have.
    succeed(folder, &["train", "model.toml", "--quiet", "--epochs", "1"]);
    let path = folder.join("runs/model/manifest.json");
    let whole = manifest(&folder.join("runs/model"));
    for (section, key, value) in [
        ("model", "bottom_mlp", serde_json::json!([1_000_000_000_000_u64])),
        ("model", "top_mlp", serde_json::json!([u64::MAX])),
        ("train", "members", serde_json::json!(u64::MAX)),
    ] {
        let mut claims = whole.clone();
        claims["config"][section][key] = value;
        fs::write(&path, claims.to_string()).unwrap();
        for arguments in [
            &["eval", "runs/model"][..],
            &["predict", "runs/model", "clicks.csv"],
            &["info", "runs/model"],
        ] {
            let (code, message) = fail(folder, arguments);
            assert!(
                code == 1 && !message.contains("panicked"),
                "{arguments:?} with {key}: {message}"
            );
        }
    }
}

/// Checks that a limit of the address space gives an error before an allocation fails and ends the
/// process.
#[cfg(target_os = "linux")]
#[test]
fn a_limit_of_memory_is_told_before_it_is_met() {
    let folder = project(300);
    let folder = folder.path();
    let limited = |kib: u32, config: &str, out: &str| {
        fs::write(folder.join("limited.toml"), config).unwrap();
        let program = env!("CARGO_BIN_EXE_bagdot");
        let script = format!(
            "ulimit -v {kib}; exec {program} train limited.toml --quiet --threads 2 --out {out}"
        );
        let output =
            Command::new("bash").current_dir(folder).args(["-c", &script]).output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let hashed = CONFIG.replace("{ column = \"page\" }", "{ column = \"page\", hash = 50000000 }");
    let joined = CONFIG
        .replace("[8, 4]", "[8, 4096]")
        .replace("epochs = 4", "epochs = 4\neven_decay = false");
    for (kib, config) in
        [(2_000_000, &hashed), (500_000, &hashed), (500_000, &joined.replace("[8]", "[9000]"))]
    {
        let (code, message) = limited(kib, config, "m");
        assert_eq!(code, Some(1), "{message}");
        assert!(
            message.contains(" bytes of memory are needed, but ") && message.contains("\nall "),
            "{message}"
        );
    }
    let (code, message) = limited(500_000, CONFIG, "small");
    assert_eq!(code, Some(0), "{message}");
}

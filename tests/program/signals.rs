//! Tests of signals, of streams that cannot be written, and of exit codes.

use std::fs;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::common::*;

/// Checks that a run goes on if standard error cannot be written.
#[test]
fn a_run_survives_an_unwritable_standard_error() {
    let folder = project(1500);
    let folder = folder.path();
    let program = env!("CARGO_BIN_EXE_bagdot");
    succeed(folder, &["train", "model.toml", "--quiet", "--out", "straight"]);
    let expected = result_of(&folder.join("straight"));
    let scripts = [
        ("full", "train model.toml --out full 2>/dev/full"),
        ("head", "train model.toml --out head 2>&1 >/dev/null | head -1 >/dev/null"),
        ("closed", "train model.toml --out closed 2>&-"),
        ("log", "train model.toml --out log 2>/dev/full"),
    ];
    for (name, script) in scripts {
        let script = format!("set -o pipefail; export BAGDOT_LOG=trace; {program} {script}");
        let status = Command::new("bash")
            .current_dir(folder)
            .args(["-c", &script])
            .stdout(Stdio::null())
            .status();
        assert_eq!(status.unwrap().code(), Some(0), "{name}");
        assert_eq!(result_of(&folder.join(name)), expected, "{name}");
    }
    // Errors still have their exit codes.
    let script = format!("{program} predict nothing clicks.csv 2>/dev/full");
    let status = Command::new("bash").current_dir(folder).args(["-c", &script]).status().unwrap();
    assert_eq!(status.code(), Some(1));
}

/// Checks that the program ends quietly if nobody reads its results, and that an error names the
/// results that it cannot write.
#[test]
fn results_that_cannot_be_written_are_named() {
    let folder = project(9000);
    let folder = folder.path();
    succeed(folder, &["train", "model.toml", "--quiet", "--epochs", "1", "--out", "m"]);
    let program = env!("CARGO_BIN_EXE_bagdot");
    let shell = |script: &str| {
        let script = format!("set -o pipefail; {}", script.replace("bagdot", program));
        let output =
            Command::new("bash").current_dir(folder).args(["-c", &script]).output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    for script in [
        "bagdot predict m clicks.csv | head -1",
        "bagdot generate 100000 | head -1",
        "bagdot --help | true",
    ] {
        assert_eq!(shell(script), (Some(0), String::new()), "{script}");
    }
    for script in ["predict m clicks.csv", "eval m", "info m", "info", "generate 5000"] {
        let (code, said) = shell(&format!("bagdot {script} > /dev/full"));
        assert!(
            code == Some(1) && said.contains("cannot write standard output"),
            "{script}: {said}"
        );
    }
    let (code, said) = shell("bagdot predict m clicks.csv -o /dev/full");
    assert!(code == Some(1) && said.contains("cannot write /dev/full"), "{said}");
}

#[test]
fn signals_have_their_exit_codes() {
    let folder = project(12_000);
    let folder = folder.path();
    succeed(folder, &[&LONG[..], &["straight"]].concat());
    for (name, kind, code) in [("int", "-INT", 130), ("term", "-TERM", 143), ("hup", "-HUP", 129)] {
        let mut wait = 100;
        loop {
            let resume: &[&str] =
                if folder.join(name).join("manifest.json").exists() { &["--resume"] } else { &[] };
            let mut child =
                bagdot(folder).args([&LONG[..], &[name], resume].concat()).spawn().unwrap();
            std::thread::sleep(Duration::from_millis(wait));
            if child.try_wait().unwrap().is_none() {
                signal(&child, kind);
            }
            match child.wait().unwrap().code() {
                Some(0) => break,
                // A signal that comes before the program handles signals ends it without a code.
                ended => assert!(ended == Some(code) || ended.is_none(), "{name}: {ended:?}"),
            }
            wait += 150;
        }
        assert_eq!(result_of(&folder.join(name)), result_of(&folder.join("straight")), "{name}");
    }
}

/// Checks that the program ignores signals that its parent ignores, as under `nohup`.
#[test]
fn signals_that_are_ignored_stay_so() {
    let folder = project(3000);
    let folder = folder.path();
    let script =
        format!("trap '' HUP INT; exec {} {} m", env!("CARGO_BIN_EXE_bagdot"), LONG.join(" "));
    let child = Command::new("bash").current_dir(folder).args(["-c", &script]).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(300));
    for kind in ["-HUP", "-INT"] {
        // The run may have ended.
        let _ = Command::new("kill")
            .args([kind, &child.id().to_string()])
            .stderr(Stdio::null())
            .status();
    }
    assert_eq!(child.wait_with_output().unwrap().status.code(), Some(0));
}

/// Checks that a stopped prediction into a file leaves nothing behind.
#[test]
fn a_stopped_prediction_leaves_no_file() {
    let folder = project(300);
    let folder = folder.path();
    succeed(folder, &["train", "model.toml", "--quiet", "--epochs", "1", "--out", "m"]);
    // Standard input stays open, so that the prediction goes on until it is stopped.
    let mut child = bagdot(folder)
        .args(["predict", "m", "-", "-o", "out.txt"])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    let rows = fs::read(folder.join("clicks.csv")).unwrap();
    std::io::Write::write_all(&mut input, &rows).unwrap();
    let body = &rows[rows.iter().position(|&b| b == b'\n').unwrap() + 1..];
    std::thread::sleep(Duration::from_millis(200));
    signal(&child, "-TERM");
    // The program handles the signal between two batches of rows.
    while child.try_wait().unwrap().is_none() && std::io::Write::write_all(&mut input, body).is_ok()
    {
    }
    drop(input);
    assert_eq!(child.wait().unwrap().code(), Some(143));
    let left = fs::read_dir(folder)
        .unwrap()
        .flatten()
        .filter(|e| e.file_name().to_string_lossy().contains("out.txt"));
    assert_eq!(left.count(), 0);
}

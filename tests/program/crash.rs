//! Tests of a crash, a full disk and a failing disk at every call that changes a file: existing
//! results stay intact, and the resumed run gives the same bits.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use crate::common::*;

/// Builds the library `crash.c`, which counts calls and makes them fail.
fn faults(folder: &Path) -> PathBuf {
    let library = folder.join("libcrash.so");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/program/crash.c");
    let built = Command::new("cc")
        .args(["-shared", "-fPIC", "-O1", "-o"])
        .arg(&library)
        .arg(source)
        .status()
        .unwrap();
    assert!(built.success());
    library
}

/// A project of few rows, and the library for runs with faults.
struct Project {
    folder: tempfile::TempDir,
    library: PathBuf,
}

const ENOSPC: &str = "28";
const EIO: &str = "5";

impl Project {
    fn new() -> Self {
        let folder = project(120);
        let config =
            CONFIG.replace("epochs = 4", "epochs = 2").replace("members = 2", "members = 1");
        fs::write(folder.path().join("model.toml"), config).unwrap();
        let library = faults(folder.path());
        Self { folder, library }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn train(&self, arguments: &[&str], variables: &[(&str, &str)]) -> Output {
        let mut command = bagdot(self.folder.path());
        command
            .args(["train", "model.toml", "--quiet", "--threads", "1", "--json", "--out", "m"])
            .args(arguments);
        command.env("LD_PRELOAD", &self.library).envs(variables.iter().copied());
        command.stdin(Stdio::null()).output().unwrap()
    }

    /// Returns the number of calls that the library counts in a run.
    fn calls(&self, arguments: &[&str]) -> u32 {
        let count = self.path("count");
        let output = self.train(arguments, &[("FAULT_COUNT", count.to_str().unwrap())]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        fs::read_to_string(count).unwrap().parse().unwrap()
    }

    /// Removes the models.
    fn clear(&self) {
        for entry in fs::read_dir(self.folder.path()).unwrap().flatten() {
            if entry.file_name().to_string_lossy().starts_with('m') && entry.path().is_dir() {
                fs::remove_dir_all(entry.path()).unwrap();
            }
        }
    }

    fn predictions(&self, model: &str) -> String {
        succeed(self.folder.path(), &["predict", model, "clicks.csv", "--quiet"])
    }

    /// Resumes a run that a fault may have ended, or starts it anew if there is nothing to resume.
    fn finish(&self, arguments: &[&str]) {
        let resumed = self.train(&[arguments, &["--resume"]].concat(), &[]);
        if !resumed.status.success() {
            let said = String::from_utf8_lossy(&resumed.stderr);
            assert!(
                said.contains("no model here") || said.contains("another configuration"),
                "{said}"
            );
            let output = self.train(arguments, &[]);
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        }
    }
}

/// Checks that a run with a fault ends by itself and does not panic.
fn check_end(output: &Output, error: Option<&str>, at: u32) {
    let said = String::from_utf8_lossy(&output.stderr);
    let expected: &[Option<i32>] =
        if error.is_some() { &[Some(0), Some(1)] } else { &[Some(0), Some(137)] };
    assert!(expected.contains(&output.status.code()), "{error:?} {at}: {:?} {said}", output.status);
    assert!(!said.contains("panicked"), "{error:?} {at}: {said}");
}

#[test]
fn a_run_goes_on_from_a_fault_at_every_call() {
    let project = Project::new();
    let calls = project.calls(&[]);
    let expected = result_of(&project.path("m"));
    // With fewer calls, the program would be bypassing the library.
    assert!(calls > 50, "{calls}");
    for error in [None, Some(ENOSPC), Some(EIO)] {
        for at in 1..=calls {
            project.clear();
            let at_text = at.to_string();
            let variables =
                [("FAULT_AT", at_text.as_str()), ("FAULT_ERRNO", error.unwrap_or_default())];
            let output = project.train(&[], &variables[..1 + usize::from(error.is_some())]);
            check_end(&output, error, at);
            project.finish(&[]);
            assert_eq!(result_of(&project.path("m")), expected, "{error:?} {at}");
            let left: Vec<_> =
                fs::read_dir(project.path("m")).unwrap().flatten().map(|e| e.file_name()).collect();
            assert!(
                !left.iter().any(|name| name.to_string_lossy().ends_with(".partial")),
                "{error:?} {at}: {left:?}"
            );
        }
    }
}

#[test]
fn a_model_is_replaced_whole_or_not_at_all_by_a_fault_at_every_call() {
    let project = Project::new();
    project.calls(&[]);
    let old = (result_of(&project.path("m")), project.predictions("m"));
    let saved = project.path("saved");
    fs::rename(project.path("m"), &saved).unwrap();
    let restore = || {
        project.clear();
        fs::create_dir(project.path("m")).unwrap();
        for entry in fs::read_dir(&saved).unwrap().flatten() {
            fs::copy(entry.path(), project.path("m").join(entry.file_name())).unwrap();
        }
    };
    let again = ["--seed", "7"];
    restore();
    let calls = project.calls(&again);
    let new = (result_of(&project.path("m")), project.predictions("m"));
    assert_ne!(new.1, old.1);
    for error in [None, Some(ENOSPC)] {
        for at in 1..=calls {
            restore();
            let at_text = at.to_string();
            let variables =
                [("FAULT_AT", at_text.as_str()), ("FAULT_ERRNO", error.unwrap_or_default())];
            check_end(
                &project.train(&again, &variables[..1 + usize::from(error.is_some())]),
                error,
                at,
            );
            // The directory has a model that can be served.
            let kept = |model: &str| manifest(&project.path(model))["config"]["train"]["seed"] == 3;
            let is_old = kept("m");
            assert_eq!(project.predictions("m").lines().count(), 120);
            if is_old {
                assert_eq!(
                    (result_of(&project.path("m")), project.predictions("m")),
                    old,
                    "{error:?} {at}"
                );
            }
            project.finish(&again);
            assert_eq!(
                (result_of(&project.path("m")), project.predictions("m")),
                new,
                "{error:?} {at}"
            );
            // The old model is complete in another directory.
            let homes =
                ["m~1", "m~2", "m~3"].into_iter().filter(|home| project.path(home).exists());
            let old_homes: Vec<&str> = homes.filter(|home| kept(home)).collect();
            assert!(!old_homes.is_empty(), "{error:?} {at}");
            assert_eq!(project.predictions(old_homes[0]), old.1, "{error:?} {at}");
        }
    }
}

//! Tests that model directories from untrusted sources do no harm: nothing hangs, links in them are
//! not followed, and sizes in a manifest are not trusted when memory is allocated.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::{Value, json};

use crate::common::*;

/// Runs the program with a limit on its memory and on its time.
fn limited(folder: &Path, mebibytes: u32, arguments: &[&str]) -> Output {
    let limit = format!("ulimit -v {}; exec timeout 20 \"$@\"", mebibytes * 1024);
    let program = env!("CARGO_BIN_EXE_bagdot");
    Command::new("bash")
        .current_dir(folder)
        .args(["-c", &limit, "bash", program])
        .args(arguments)
        .output()
        .unwrap()
}

/// Returns the error of a command that must fail.
fn error_of(output: &Output) -> String {
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert!(!message.contains("panicked"), "{message}");
    message
}

/// Copies a model directory.
fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap().flatten() {
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

fn edit_manifest(model: &Path, edit: impl FnOnce(&mut Value)) {
    let mut value = manifest(model);
    edit(&mut value);
    fs::write(model.join("manifest.json"), value.to_string()).unwrap();
}

/// Returns the path of a file that the manifest names.
fn file_of(model: &Path, kind: &str) -> std::path::PathBuf {
    model.join(manifest(model)["files"][kind]["name"].as_str().unwrap())
}

#[test]
fn configurations_of_manifests_are_checked() {
    let folder = project(300);
    let folder = folder.path();
    succeed(folder, &["train", "model.toml", "--quiet", "--epochs", "1", "--out", "good"]);
    type Edit = fn(&mut Value);
    let edits: [(&str, Edit, &str); 7] = [
        ("members", |m| m["config"]["train"]["members"] = json!(0), "`members` must be 1 or more"),
        (
            "rate",
            |m| m["config"]["train"]["optimizer"]["learning_rate"] = json!(-1.0),
            "`learning_rate` is -1",
        ),
        (
            "wide",
            |m| m["config"]["model"]["top_mlp"] = json!([1_000_000_000_000_u64]),
            "top_mlp.0.weight",
        ),
        ("wider", |m| m["config"]["model"]["bottom_mlp"] = json!([4, u64::MAX / 2]), ""),
        ("many", |m| m["config"]["train"]["members"] = json!(1_000_000_000), "tensor members.2."),
        ("epochs", |m| m["progress"]["epochs_done"] = json!(3), "contradict each other"),
        ("time", |m| m["progress"]["train_seconds"] = json!(-1), "`train_seconds` is -1"),
    ];
    for (name, edit, expected) in edits {
        copy(&folder.join("good"), &folder.join(name));
        edit_manifest(&folder.join(name), edit);
        for command in
            [["predict", name, "clicks.csv"].as_slice(), &["info", name], &["eval", name]]
        {
            let message = error_of(&limited(folder, 600, command));
            assert!(message.contains(expected), "{name}: {message}");
        }
    }
}

#[test]
fn only_regular_files_are_read() {
    let folder = project(300);
    let folder = folder.path();
    succeed(folder, &["train", "model.toml", "--quiet", "--epochs", "1", "--out", "good"]);
    for kind in ["manifest", "encoder", "best"] {
        for (what, expected) in
            [("pipe", "not a regular file"), ("link", "a link"), ("folder", "not a regular file")]
        {
            let name = format!("{kind}-{what}");
            let model = folder.join(&name);
            copy(&folder.join("good"), &model);
            let path = if kind == "manifest" {
                model.join("manifest.json")
            } else {
                file_of(&model, kind)
            };
            fs::remove_file(&path).unwrap();
            match what {
                "pipe" => assert!(Command::new("mkfifo").arg(&path).status().unwrap().success()),
                "link" => std::os::unix::fs::symlink("/dev/zero", &path).unwrap(),
                _ => fs::create_dir(&path).unwrap(),
            }
            let message = error_of(&limited(folder, 600, &["predict", &name, "clicks.csv"]));
            assert!(message.contains(expected), "{name}: {message}");
        }
    }
    // A link to the directory itself comes from the caller and is followed.
    std::os::unix::fs::symlink("good", folder.join("alias")).unwrap();
    succeed(folder, &["predict", "alias", "clicks.csv"]);
}

#[test]
fn lengths_are_compared_before_memory_is_taken() {
    let folder = project(300);
    let folder = folder.path();
    succeed(folder, &["train", "model.toml", "--quiet", "--epochs", "1", "--out", "good"]);
    // A sparse file takes no room on the disk, and would take all memory.
    for (kind, expected) in
        [("best", "damaged: 1099511627776 bytes"), ("encoder", "1099511627776 bytes")]
    {
        for claims_it in [false, true] {
            let name = format!("{kind}-{claims_it}");
            let model = folder.join(&name);
            copy(&folder.join("good"), &model);
            let file = fs::OpenOptions::new().write(true).open(file_of(&model, kind)).unwrap();
            file.set_len(1 << 40).unwrap();
            if claims_it {
                edit_manifest(&model, |m| m["files"][kind]["bytes"] = json!(1_u64 << 40));
            }
            let message = error_of(&limited(folder, 600, &["predict", &name, "clicks.csv"]));
            let expected = if claims_it && kind == "best" {
                "no safetensors file: tensors of"
            } else {
                expected
            };
            assert!(message.contains(expected), "{name}: {message}");
        }
    }
}

#[test]
fn weights_that_are_no_numbers_are_refused() {
    let folder = project(300);
    let folder = folder.path();
    succeed(folder, &["train", "model.toml", "--quiet", "--epochs", "1", "--out", "m"]);
    let path = file_of(&folder.join("m"), "best");
    let mut bytes = fs::read(&path).unwrap();
    let last = bytes.len() - 4;
    bytes[last..].copy_from_slice(&f32::NAN.to_le_bytes());
    fs::write(&path, &bytes).unwrap();
    edit_manifest(&folder.join("m"), |m| {
        m["files"]["best"]["crc32"] = json!(crc32fast::hash(&bytes))
    });
    let message = error_of(&run(folder, &["predict", "m", "clicks.csv"]));
    assert!(message.contains("is not a finite number") && message.contains("element"), "{message}");
}

#[test]
fn contradictory_progress_is_not_resumed() {
    let folder = project(2000);
    let folder = folder.path();
    let mut child =
        bagdot(folder).args(LONG).arg("m").stderr(std::process::Stdio::null()).spawn().unwrap();
    std::thread::sleep(std::time::Duration::from_millis(400));
    signal(&child, "-TERM");
    child.wait().unwrap();
    if !folder.join("m/manifest.json").exists()
        || manifest(&folder.join("m"))["files"]["state"].is_null()
    {
        return;
    }
    for (name, key, value) in [
        ("batches", "batches_done", json!(u64::MAX)),
        ("step", "step", json!(u64::MAX)),
        ("samples", "samples", json!(0)),
        ("rows", "rows", json!([1, 2, 3])),
    ] {
        copy(&folder.join("m"), &folder.join(name));
        edit_manifest(&folder.join(name), |m| m["progress"][key] = value.clone());
        let message = error_of(&limited(folder, 600, &[&LONG[..], &[name, "--resume"]].concat()));
        assert!(
            message.contains("damaged: step") || message.contains("the data have changed"),
            "{name}: {message}"
        );
    }
}

#[test]
fn links_are_not_followed_when_writing() {
    let folder = project(600);
    let folder = folder.path();
    succeed(folder, &["train", "model.toml", "--quiet", "--epochs", "1", "--out", "m"]);
    fs::write(folder.join("victim"), "precious").unwrap();
    for name in
        ["metrics.jsonl", "report.html", "manifest.json.partial", "metrics.jsonl.partial", ".lock"]
    {
        let path = folder.join("m").join(name);
        let _ = fs::remove_file(&path);
        std::os::unix::fs::symlink(folder.join("victim"), &path).unwrap();
        let output = run(
            folder,
            &["train", "model.toml", "--quiet", "--epochs", "1", "--out", "m", "--resume"],
        );
        assert_eq!(
            output.status.success(),
            name != ".lock",
            "{name}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        assert_eq!(fs::read_to_string(folder.join("victim")).unwrap(), "precious", "{name}");
        if name == ".lock" {
            fs::remove_file(&path).unwrap();
        }
    }
}

#[test]
fn a_missing_permission_is_not_a_missing_model() {
    let folder = project(300);
    let folder = folder.path();
    succeed(folder, &["train", "model.toml", "--quiet", "--epochs", "1", "--out", "m"]);
    let program = env!("CARGO_BIN_EXE_bagdot");
    // Root ignores permissions, so that root runs the program as another user.
    let script = format!(
        "chmod 755 . && chmod 000 m && if [ $(id -u) = 0 ]; \
         then setpriv --reuid 65534 --clear-groups {program} info m; else {program} info m; fi"
    );
    let output = Command::new("bash").current_dir(folder).args(["-c", &script]).output().unwrap();
    Command::new("chmod").current_dir(folder).args(["755", "m"]).status().unwrap();
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(1) && message.contains("Permission denied"), "{message}");
    assert!(!message.contains("no model here"), "{message}");
}

/// Collects the paths of all values of a JSON document, and of the first two of each list.
fn leaves(value: &Value, path: String, found: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            map.iter().for_each(|(key, value)| leaves(value, format!("{path}/{key}"), found))
        }
        Value::Array(list) if !list.is_empty() => {
            list.iter()
                .enumerate()
                .take(2)
                .for_each(|(k, value)| leaves(value, format!("{path}/{k}"), found));
        }
        _ => found.push(path),
    }
}

/// Checks that no value in a manifest or an encoder makes the program hang, crash, or exceed its
/// memory.
#[test]
fn any_value_in_any_place_is_survived() {
    let folder = project(200);
    let folder = folder.path();
    succeed(folder, &["train", "model.toml", "--quiet", "--epochs", "1", "--out", "good"]);
    let values = [
        json!(null),
        json!(-1),
        json!(u64::MAX),
        json!(1e300),
        json!("x"),
        json!([]),
        json!({}),
        json!(true),
    ];
    let mut tried = 0;
    for file in ["manifest.json", "encoder.json"] {
        let text = fs::read(folder.join("good").join(file)).unwrap();
        let whole: Value = serde_json::from_slice(&text).unwrap();
        let mut places = Vec::new();
        leaves(&whole, String::new(), &mut places);
        for (k, place) in places.iter().enumerate() {
            // Each place gets half of the values, in turn.
            for value in values.iter().skip(k % 2).step_by(2) {
                let mut changed = whole.clone();
                *changed.pointer_mut(place).unwrap() = value.clone();
                let model = folder.join(format!("m{tried}"));
                copy(&folder.join("good"), &model);
                let bytes = changed.to_string();
                fs::write(model.join(file), &bytes).unwrap();
                if file == "encoder.json" {
                    edit_manifest(&model, |m| {
                        m["files"]["encoder"]["bytes"] = json!(bytes.len());
                        m["files"]["encoder"]["crc32"] = json!(crc32fast::hash(bytes.as_bytes()));
                    });
                }
                let output = limited(
                    folder,
                    1024,
                    &["predict", &format!("m{tried}"), "clicks.csv", "--quiet"],
                );
                let said = String::from_utf8_lossy(&output.stderr);
                assert!(
                    matches!(output.status.code(), Some(0 | 1)),
                    "{file} {place} {value}: {:?} {said}",
                    output.status
                );
                assert!(!said.contains("panicked"), "{file} {place} {value}: {said}");
                fs::remove_dir_all(&model).unwrap();
                tried += 1;
            }
        }
    }
    assert!(tried > 250, "{tried}");
}

/// Checks that predictions take constant memory for any number of rows.
#[test]
fn predictions_take_constant_memory() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    succeed(folder, &["generate", "3000", "--values", "50", "--output", "clicks.tsv"]);
    let config = "[data]\nformat = 'criteo'\ntrain = 'clicks.tsv'\n\
        [model]\nbottom_mlp = [4]\ntop_mlp = [4]\n[train]\nepochs = 1\n";
    fs::write(folder.join("model.toml"), config).unwrap();
    succeed(folder, &["train", "model.toml", "--quiet", "--out", "m"]);
    let program = env!("CARGO_BIN_EXE_bagdot");
    // 300,000 rows are 69 MB of text; the process may take 60 MiB besides the files that it maps.
    let script = format!(
        "{program} generate 300000 --values 50 | \
         (ulimit -d {}; {program} predict m - --threads 1 --quiet) | wc -l",
        60 << 10
    );
    let output = Command::new("bash")
        .current_dir(folder)
        .args(["-o", "pipefail", "-c", &script])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "300000");
}

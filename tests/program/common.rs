//! Calls of the program, and a project to call it in.

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

pub fn bagdot(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bagdot"));
    command.current_dir(folder).env_remove("BAGDOT_LOG");
    command
}

pub fn run(folder: &Path, arguments: &[&str]) -> Output {
    bagdot(folder).args(arguments).stdin(Stdio::null()).output().unwrap()
}

pub fn succeed(folder: &Path, arguments: &[&str]) -> String {
    let output = run(folder, arguments);
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The exit code, and what was said on standard error.
pub fn fail(folder: &Path, arguments: &[&str]) -> (i32, String) {
    let output = run(folder, arguments);
    assert!(!output.status.success(), "{arguments:?} should fail");
    (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
}

pub const CONFIG: &str = r#"
[data]
train = "clicks.csv"
label = "clicked"
dense = [{ column = "age", transform = "zscore" }]
categorical = [{ column = "page" }, { column = "tags", separator = " " }]

[model]
bottom_mlp = [8, 4]
top_mlp = [8]

[train]
epochs = 4
batch_size = 32
patience = 0
seed = 3
members = 2
"#;

/// A folder with `rows` rows whose label depends on page and tags, and a configuration for them.
pub fn project(rows: usize) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let mut random = bagdot::Philox::new(5, 0);
    let mut text = String::from("age,page,tags,clicked\n");
    for _ in 0..rows {
        let (page, age) = (random.below(5), 18 + random.below(50));
        let tags: Vec<u64> = (0..random.below(4)).map(|_| random.below(9)).collect();
        let chance = 0.15 + 0.12 * page as f64 + if tags.contains(&3) { 0.2 } else { 0.0 };
        let tags = tags.iter().map(|tag| format!("t{tag}")).collect::<Vec<_>>().join(" ");
        text += &format!("{age},p{page},{tags},{}\n", u8::from(random.uniform() < chance));
    }
    fs::write(folder.path().join("clicks.csv"), text).unwrap();
    fs::write(folder.path().join("model.toml"), CONFIG).unwrap();
    folder
}

pub fn manifest(model: &Path) -> Value {
    serde_json::from_slice(&fs::read(model.join("manifest.json")).unwrap()).unwrap()
}

/// Returns the checksum of the kept model and the metrics of every epoch without the times, none of
/// which may depend on how the run went.
pub fn result_of(model: &Path) -> (Value, Vec<Value>) {
    let lines = fs::read_to_string(model.join("metrics.jsonl")).unwrap();
    let strip = |line: &str| {
        let mut value: Value = serde_json::from_str(line).unwrap();
        for key in ["seconds", "samples_per_second", "train_seconds"] {
            value.as_object_mut().unwrap().remove(key);
        }
        value
    };
    (manifest(model)["files"]["best"]["crc32"].clone(), lines.lines().map(strip).collect())
}

/// A longer run, so that there is time to disturb it.
pub const LONG: [&str; 6] = ["train", "model.toml", "--quiet", "--epochs", "12", "--out"];

#[cfg(unix)]
pub fn signal(child: &std::process::Child, name: &str) {
    assert!(Command::new("kill").args([name, &child.id().to_string()]).status().unwrap().success());
}

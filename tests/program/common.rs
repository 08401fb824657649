//! Helpers that the tests share: calls of the program, and projects to call it in.

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

/// Returns a call of the program in a folder.
pub fn bagdot(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bagdot"));
    command.current_dir(folder).env_remove("BAGDOT_LOG");
    command
}

/// Runs the program.
pub fn run(folder: &Path, arguments: &[&str]) -> Output {
    bagdot(folder).args(arguments).stdin(Stdio::null()).output().unwrap()
}

/// Runs the program, which must succeed, and returns its standard output.
pub fn succeed(folder: &Path, arguments: &[&str]) -> String {
    let output = run(folder, arguments);
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Runs the program, which must fail, and returns its exit code and its standard error.
pub fn fail(folder: &Path, arguments: &[&str]) -> (i32, String) {
    let output = run(folder, arguments);
    assert!(!output.status.success(), "{arguments:?} should fail");
    (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
}

/// The configuration of [`project`].
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

/// Returns a folder with `rows` rows, whose label depends on page and tags, and a configuration.
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

/// Reads the manifest of a model directory.
pub fn manifest(model: &Path) -> Value {
    serde_json::from_slice(&fs::read(model.join("manifest.json")).unwrap()).unwrap()
}

/// Returns the checksum of the best model and the metrics of every epoch without the times. None of
/// these may depend on interruptions of the run.
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

/// The arguments of a run that is long enough to be disturbed.
pub const LONG: [&str; 6] = ["train", "model.toml", "--quiet", "--epochs", "12", "--out"];

/// Sends a signal to a process.
#[cfg(unix)]
pub fn signal(child: &std::process::Child, name: &str) {
    assert!(Command::new("kill").args([name, &child.id().to_string()]).status().unwrap().success());
}

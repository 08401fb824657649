//! Tests that no files on disk are lost: outputs, models in use, and the files of several runs in
//! one directory.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::common::*;

/// Returns the sorted names of all entries of a folder.
fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// Waits until a condition holds.
fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    let started = Instant::now();
    while !is_so() {
        assert!(started.elapsed() < Duration::from_secs(120), "{what} takes too long");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Starts a run of so many epochs.
fn start(folder: &Path, epochs: &str, arguments: &[&str]) -> Child {
    let train = ["train", "model.toml", "--quiet", "--epochs", epochs];
    bagdot(folder)
        .args(train)
        .args(arguments)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

#[test]
fn an_output_must_not_be_an_input() {
    let folder = project(300);
    let folder = folder.path();
    fs::write(folder.join("pages.csv"), "page,colour\np0,red\np1,blue\np2,red\np3,red\np4,blue\n")
        .unwrap();
    let config =
        CONFIG.replace("[model]", "[[data.join]]\npath = 'pages.csv'\non = 'page'\n[model]");
    let config = config.replace("{ column = \"page\" }", "{ column = \"colour\" }");
    fs::write(folder.join("joined.toml"), config).unwrap();
    succeed(folder, &["train", "joined.toml", "--quiet", "--epochs", "1", "--out", "m"]);
    fs::copy(folder.join("clicks.csv"), folder.join("new.csv")).unwrap();
    let best =
        format!("m/{}", manifest(&folder.join("m"))["files"]["best"]["name"].as_str().unwrap());
    for output in
        ["new.csv", "clicks.csv", "pages.csv", "m/../new.csv", "m/manifest.json", best.as_str()]
    {
        let before = fs::read(folder.join(output)).unwrap();
        let (code, message) = fail(folder, &["predict", "m", "new.csv", "-o", output]);
        assert!(code == 2 && message.contains("is one of the inputs"), "{output}: {message}");
        assert_eq!(fs::read(folder.join(output)).unwrap(), before, "{output}");
    }
    // The input or the output may also be standard input or output.
    let before = fs::read(folder.join("new.csv")).unwrap();
    let open =
        || fs::OpenOptions::new().read(true).append(true).open(folder.join("new.csv")).unwrap();
    let from_stdin =
        bagdot(folder).args(["predict", "m", "-", "-o", "new.csv"]).stdin(open()).output().unwrap();
    let to_stdout =
        bagdot(folder).args(["predict", "m", "new.csv"]).stdout(open()).output().unwrap();
    for output in [from_stdin, to_stdout] {
        let message = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.code() == Some(2) && message.contains("is one of the inputs"),
            "{message}"
        );
    }
    assert_eq!(fs::read(folder.join("new.csv")).unwrap(), before);
    // A file in a model directory could be taken for a part of an earlier model.
    fs::copy(folder.join("clicks.csv"), folder.join("m/clicks.csv")).unwrap();
    fs::write(folder.join("inside.toml"), CONFIG.replace("clicks.csv", "m/clicks.csv")).unwrap();
    let (code, message) = fail(folder, &["train", "inside.toml", "--out", "m"]);
    assert!(
        code == 2 && message.contains("m/clicks.csv is one of the inputs, and lies in"),
        "{message}"
    );
}

#[test]
fn a_prediction_that_fails_leaves_the_old_one() {
    let folder = project(6000);
    let folder = folder.path();
    succeed(folder, &["train", "model.toml", "--quiet", "--epochs", "1", "--out", "m"]);
    fs::write(folder.join("old.txt"), "kept\n").unwrap();
    let mut lines: Vec<String> =
        fs::read_to_string(folder.join("clicks.csv")).unwrap().lines().map(Into::into).collect();
    lines[4000] = "old,p1,t1,1".into();
    fs::write(folder.join("bad.csv"), lines.join("\n")).unwrap();
    let before = names(folder);
    for data in ["nothing.csv", "bad.csv"] {
        let (code, message) = fail(folder, &["predict", "m", data, "--output", "old.txt"]);
        assert!(code == 1 && message.contains(data), "{message}");
        assert_eq!(fs::read_to_string(folder.join("old.txt")).unwrap(), "kept\n");
    }
    assert_eq!(names(folder), before, "nothing is left behind");
    succeed(folder, &["predict", "m", "clicks.csv", "--output", "old.txt"]);
    assert_eq!(fs::read_to_string(folder.join("old.txt")).unwrap().lines().count(), 6000);
    // Standard output has the predictions before the error.
    let output = run(folder, &["predict", "m", "bad.csv"]);
    assert!(output.status.code() == Some(1) && !output.stdout.is_empty());
    let (code, message) = fail(folder, &["generate", "10", "--output", "nowhere/clicks.tsv"]);
    assert!(code == 1 && message.contains("cannot write nowhere/clicks.tsv"), "{message}");
}

#[test]
fn a_model_stays_in_use_until_there_is_a_new_one() {
    let folder = project(20_000);
    let folder = folder.path();
    let quick = ["train", "model.toml", "--quiet", "--epochs", "1", "--out", "serve"];
    succeed(folder, &quick);
    let serve = folder.join("serve");
    let (before, of_old) =
        (succeed(folder, &["predict", "serve", "clicks.csv"]), result_of(&serve));

    // Missing or bad data change nothing.
    let text = fs::read(folder.join("clicks.csv")).unwrap();
    fs::rename(folder.join("clicks.csv"), folder.join("gone.csv")).unwrap();
    fail(folder, &quick);
    fs::write(folder.join("clicks.csv"), "age,page,tags,clicked\n1,p0,t1,perhaps\n").unwrap();
    fail(folder, &quick);
    fs::write(folder.join("clicks.csv"), text).unwrap();
    assert_eq!(
        (succeed(folder, &["predict", "serve", "clicks.csv"]), result_of(&serve)),
        (before.clone(), of_old.clone())
    );
    assert!(!folder.join("serve~1").exists());

    // A run that is stopped before it has a model leaves the old model in use, and can be resumed.
    let straight = ["train", "model.toml", "--quiet", "--epochs", "2", "--seed", "8", "--out"];
    succeed(folder, &[&straight[..], &["straight"]].concat());
    let batches = 20_000 * 3 / 4 / 32;
    let mut child = start(folder, "2", &["--seed", "8", "--out", "serve"]);
    wait_until("reading", || {
        serve.join("manifest.next.json").exists() || result_of_next(&serve).is_some()
    });
    signal(&child, "-TERM");
    let code = child.wait().unwrap().code();
    let next = result_of_next(&serve);
    // On a fast machine the run may end before the signal.
    if let (Some(143), Some(next)) = (code, next) {
        assert!(next["progress"]["batches_done"].as_u64().unwrap() < batches, "{next}");
        assert_eq!(succeed(folder, &["predict", "serve", "clicks.csv"]), before);
        let output = run(folder, &[&straight[..], &["serve", "--resume"]].concat());
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(
            output.status.success()
                && said.contains("the model that was in serve is now in serve~1"),
            "{said}"
        );
        assert_eq!(result_of(&serve), result_of(&folder.join("straight")));
        assert_eq!(result_of(&folder.join("serve~1")), of_old);
        assert_eq!(succeed(folder, &["predict", "serve~1", "clicks.csv"]), before);
    } else {
        assert!(matches!(code, Some(0 | 143)), "{code:?}");
    }
    assert!(!serve.join("manifest.next.json").exists());
}

/// Returns the manifest of a run that has no model yet.
fn result_of_next(model: &Path) -> Option<Value> {
    serde_json::from_slice(&fs::read(model.join("manifest.next.json")).ok()?).ok()
}

#[test]
fn an_interrupted_run_is_kept_when_another_begins() {
    let folder = project(20_000);
    let folder = folder.path();
    succeed(folder, &["train", "model.toml", "--quiet", "--epochs", "1", "--out", "m"]);
    let mut child = start(folder, "3", &["--out", "m"]);
    wait_until("reading", || folder.join("m/manifest.next.json").exists());
    signal(&child, "-INT");
    let code = child.wait().unwrap().code();
    if result_of_next(&folder.join("m")).is_none_or(|next| next["files"]["state"].is_null()) {
        // The first epoch had ended.
        assert_eq!(code, Some(130));
        return;
    }
    let output = run(
        folder,
        &["train", "model.toml", "--quiet", "--epochs", "1", "--seed", "2", "--out", "m"],
    );
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(
        output.status.success() && said.contains("the run that was interrupted in m is now in m~1"),
        "{said}"
    );
    assert!(said.contains("the model that was in m is now in m~2"), "{said}");
    assert!(!manifest(&folder.join("m~1"))["files"]["state"].is_null());
    succeed(
        folder,
        &["train", "model.toml", "--quiet", "--epochs", "3", "--resume", "--out", "m~1"],
    );
}

#[test]
fn two_runs_do_not_meet_in_one_directory() {
    let folder = project(2000);
    let folder = folder.path();
    let mut first = start(folder, "2000", &["--out", "m"]);
    wait_until("the first epoch", || {
        folder.join("m/manifest.json").exists()
            && !manifest(&folder.join("m"))["files"]["best"].is_null()
    });
    for second in [
        ["train", "model.toml", "--out", "m"].as_slice(),
        &["train", "model.toml", "--resume", "--out", "m"],
    ] {
        let (code, message) = fail(folder, second);
        let holder = format!("another training (process {}) writes into m", first.id());
        assert!(code == 1 && message.contains(&holder), "{message}");
    }
    // A reader finds a complete model at any time.
    for _ in 0..20 {
        assert_eq!(
            succeed(folder, &["predict", "m", "clicks.csv", "--quiet"]).lines().count(),
            2000
        );
        let eval: Value =
            serde_json::from_str(&succeed(folder, &["eval", "m", "--json", "--quiet"])).unwrap();
        assert!(eval["auc"].is_f64());
    }
    // A process that dies leaves no lock behind.
    first.kill().unwrap();
    first.wait().unwrap();
    succeed(folder, &["train", "model.toml", "--quiet", "--epochs", "1", "--out", "m"]);
    assert!(folder.join("m~1/manifest.json").exists());
}

#[test]
fn files_of_others_stay_and_orphans_go() {
    let folder = project(600);
    let folder = folder.path();
    succeed(folder, &["train", "model.toml", "--quiet", "--epochs", "2", "--out", "m"]);
    let mine = ["export.safetensors", "thesis.partial", "best.safetensors", "notes.txt"];
    let orphans = [
        "state-0000000009.safetensors",
        "best-0000000009.safetensors.partial",
        "manifest.json.partial",
    ];
    for name in mine.iter().chain(&orphans) {
        fs::write(folder.join("m").join(name), name).unwrap();
    }
    succeed(
        folder,
        &["train", "model.toml", "--quiet", "--epochs", "2", "--out", "m", "--seed", "4"],
    );
    for name in mine {
        assert_eq!(fs::read_to_string(folder.join("m").join(name)).unwrap(), name);
    }
    for name in orphans {
        assert!(!folder.join("m").join(name).exists(), "{name}");
    }
    // Apart from the user's files, only the files that the manifest names and the program's fixed
    // files are left.
    let manifest = manifest(&folder.join("m"));
    let named = manifest["files"]
        .as_object()
        .unwrap()
        .values()
        .map(|file| file["name"].as_str().unwrap().to_owned());
    let ours = [".lock", "manifest.json", "metrics.jsonl", "report.html"].map(String::from);
    let mut expected: Vec<String> = named.chain(ours).chain(mine.map(String::from)).collect();
    expected.sort();
    assert_eq!(names(&folder.join("m")), expected);
    assert!(!folder.join("m~.partial").exists());
}

#[test]
fn metrics_that_were_deleted_come_back_whole() {
    let folder = project(600);
    let folder = folder.path();
    succeed(folder, &["train", "model.toml", "--quiet", "--out", "m"]);
    let path: PathBuf = folder.join("m/metrics.jsonl");
    let before = result_of(&folder.join("m"));
    for damage in [None, Some("x"), Some("{\"epoch\":7}\n{\"epoch\":8}\n")] {
        match damage {
            None => fs::remove_file(&path).unwrap(),
            Some(text) => fs::write(&path, text).unwrap(),
        }
        succeed(folder, &["train", "model.toml", "--quiet", "--out", "m", "--resume"]);
        assert_eq!(result_of(&folder.join("m")), before);
    }
}

#[test]
fn the_best_epoch_minimises_the_selected_metric() {
    let folder = project(3000);
    let folder = folder.path();
    let weighted = "loss = { weighted_bce = { negative = 1, positive = 30 } }";
    for (name, select) in
        [("loss", ""), ("logloss", "select = \"logloss\""), ("auc", "select = \"auc\"")]
    {
        let config = CONFIG.replace("epochs = 4", &format!("epochs = 9\n{weighted}\n{select}"));
        fs::write(folder.join("w.toml"), config).unwrap();
        let outcome = succeed(folder, &["train", "w.toml", "--quiet", "--json", "--out", name]);
        let outcome: Value = serde_json::from_str(&outcome).unwrap();
        let (_, lines) = result_of(&folder.join(name));
        let score = |line: &Value| {
            line["validation"][name].as_f64().unwrap() * if name == "auc" { -1.0 } else { 1.0 }
        };
        let epochs = &lines[..lines.len() - 1];
        let best = epochs.iter().min_by(|a, b| score(a).total_cmp(&score(b))).unwrap();
        assert_eq!(outcome["best_epoch"], best["epoch"], "{name}");
        assert_eq!(outcome["validation"], best["validation"]);
        // The loss has the weights: a positive sample counts as thirty.
        let (loss, logloss) = (
            outcome["test"]["loss"].as_f64().unwrap(),
            outcome["test"]["logloss"].as_f64().unwrap(),
        );
        assert!(loss > logloss, "{loss} {logloss}");
        let eval: Value =
            serde_json::from_str(&succeed(folder, &["eval", name, "--json", "--quiet"])).unwrap();
        assert_eq!(eval["loss"], outcome["test"]["loss"]);
    }
}

#[test]
fn a_worthless_model_is_reported() {
    let folder = project(3000);
    let folder = folder.path();
    for (rate, is_worthless) in [("2.0", true), ("0.01", false)] {
        let optimizer = format!(
            "epochs = 3\noptimizer = {{ learning_rate = {rate}, weight_decay = \"none\" }}"
        );
        fs::write(folder.join("w.toml"), CONFIG.replace("epochs = 4", &optimizer)).unwrap();
        let output = run(folder, &["train", "w.toml", "--quiet", "--json", "--out", rate]);
        let outcome: Value = serde_json::from_slice(&output.stdout).unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(outcome["validation"]["ne"].as_f64().unwrap() >= 1.0, is_worthless, "{outcome}");
        assert_eq!(said.contains("no better than always predicting"), is_worthless, "{said}");
    }
}

#[test]
fn folders_and_patterns_stand_for_files() {
    let folder = project(300);
    let text = fs::read_to_string(folder.path().join("clicks.csv")).unwrap();
    let (header, rows) = text.split_once('\n').unwrap();
    let half = rows.match_indices('\n').nth(149).unwrap().0 + 1;
    fs::create_dir(folder.path().join("days")).unwrap();
    for (name, rows) in [("1.csv", &rows[..half]), ("2.csv", &rows[half..])] {
        fs::write(folder.path().join("days").join(name), format!("{header}\n{rows}")).unwrap();
    }
    let config = CONFIG.replace("train = \"clicks.csv\"", "train = \"days/*.csv\"");
    fs::write(folder.path().join("days.toml"), &config).unwrap();
    let train = |config: &str, out: &str| {
        let arguments = ["train", config, "--quiet", "--epochs", "1", "--out", out];
        succeed(folder.path(), &arguments)
    };
    assert_eq!(train("model.toml", "a"), train("days.toml", "b"));
    assert_eq!(
        manifest(&folder.path().join("b"))["config"]["data"]["train"],
        serde_json::json!(["days/1.csv", "days/2.csv"])
    );
    // A file that comes later is no part of the run.
    fs::write(folder.path().join("days/3.csv"), text.replace(",1\n", ",0\n")).unwrap();
    let measured = succeed(folder.path(), &["eval", "b", "--quiet"]);
    assert_eq!(measured, succeed(folder.path(), &["eval", "a", "--quiet"]));
    let (_, error) = fail(folder.path(), &["train", "days.toml", "--resume", "--out", "b"]);
    assert!(error.contains("another configuration"), "{error}");
    fs::remove_file(folder.path().join("days/3.csv")).unwrap();
    let predict = |data: &str| succeed(folder.path(), &["predict", "b", data]);
    assert_eq!(predict("days"), predict("clicks.csv"));
    assert_eq!(predict("days/*.csv"), predict("clicks.csv"));
    let all = |data: &str| succeed(folder.path(), &["eval", "b", "--data", data]);
    assert_eq!(all("days"), all("clicks.csv"));
    let (code, error) = fail(folder.path(), &["predict", "b", "days/*.tsv"]);
    assert!(code == 1 && error.contains("days/*.tsv: this stands for no file"), "{error}");
    // An output must not be one of the files.
    let (code, error) = fail(folder.path(), &["predict", "b", "days", "--output", "days/2.csv"]);
    assert!(code == 2 && error.contains("2.csv"), "{error}");
}

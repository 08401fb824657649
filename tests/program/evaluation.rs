//! Tests of evaluations within epochs: where they are, what they keep, and when they stop training.

use std::fs;

use serde_json::Value;

use crate::common::*;

/// Trains with further settings, and returns the outcome and the lines of the evaluations.
fn train(folder: &std::path::Path, name: &str, settings: &str) -> (Value, Vec<Value>) {
    let file = format!("{name}.toml");
    fs::write(folder.join(&file), format!("{CONFIG}{settings}")).unwrap();
    let outcome = succeed(folder, &["train", &file, "--quiet", "--json", "--out", name]);
    let (_, mut lines) = result_of(&folder.join(name));
    lines.pop();
    (serde_json::from_str(&outcome).unwrap(), lines)
}

#[test]
fn evaluations_within_epochs_measure_the_same_training() {
    let folder = project(3000);
    let folder = folder.path();
    let (_, plain) = train(folder, "plain", "");
    let (outcome, fine) = train(folder, "fine", "evaluate_every = { steps = 25 }\n");
    let rows = manifest(&folder.join("fine"))["progress"]["rows"][0].as_u64().unwrap();
    let steps = rows.div_ceil(32);
    // The steps of an epoch, and the same in each of them.
    let expected: Vec<u64> = (0..4)
        .flat_map(|epoch| {
            (1..=steps)
                .filter(move |done| done % 25 == 0 || *done == steps)
                .map(move |done| epoch * steps + done)
        })
        .collect();
    let found: Vec<u64> = fine.iter().map(|line| line["step"].as_u64().unwrap()).collect();
    assert_eq!(found, expected);
    assert_eq!(fine[0]["share_of_epoch"].as_f64().unwrap(), 800.0 / rows as f64);
    // Each training row is measured once.
    let learned = |lines: &[Value]| -> u64 {
        lines.iter().map(|line| line["train"]["samples"].as_u64().unwrap()).sum()
    };
    assert_eq!(learned(&fine), 4 * rows);
    // Training itself is not disturbed.
    let ends: Vec<&Value> = fine.iter().filter(|line| line["share_of_epoch"] == 1.0).collect();
    for (a, b) in ends.iter().zip(&plain) {
        assert_eq!((&a["validation"], &a["step"]), (&b["validation"], &b["step"]));
    }
    assert_eq!(ends.len(), plain.len());
    // The best of all evaluations is kept, and the program measures the same model again.
    let score = |line: &Value| line["validation"]["logloss"].as_f64().unwrap();
    let best = fine.iter().min_by(|a, b| score(a).total_cmp(&score(b))).unwrap();
    assert_eq!(outcome["best_step"], best["step"]);
    assert_eq!(outcome["validation"], best["validation"]);
    let eval = succeed(folder, &["eval", "fine", "--json", "--split", "validation"]);
    let eval: Value = serde_json::from_str(&eval).unwrap();
    assert_eq!(eval["logloss"], best["validation"]["logloss"]);

    // A number of rows counts the rows of the steps that complete it.
    let (_, by_rows) = train(folder, "rows", "evaluate_every = { rows = 1000 }\nbag_dropout = 0\n");
    let found: Vec<u64> = by_rows.iter().map(|line| line["step"].as_u64().unwrap()).collect();
    assert_eq!(found[..3], [32, 63, steps]);
}

#[test]
fn patience_counts_evaluations() {
    let folder = project(3000);
    let folder = folder.path();
    // Steps of this size make the model worse before an epoch is over.
    let settings = "evaluate_every = { steps = 5 }\noptimizer = { learning_rate = 0.3 }\n";
    fs::write(folder.join("worse.toml"), CONFIG.replace("patience = 0", "patience = 3") + settings)
        .unwrap();
    let output = run(folder, &["train", "worse.toml", "--json", "--out", "worse"]);
    let said = String::from_utf8(output.stderr).unwrap();
    let outcome: Value = serde_json::from_slice(&output.stdout).unwrap();
    let lines = result_of(&folder.join("worse")).1;
    let (last, lines) = lines.split_last().unwrap();
    let best = lines.iter().rposition(|line| line["best"] == true).unwrap();
    assert_eq!(lines.len() - 1 - best, 3, "{said}");
    assert!(lines.last().unwrap()["share_of_epoch"].as_f64().unwrap() < 1.0, "{said}");
    assert_eq!(outcome["best_step"], lines[best]["step"]);
    assert_eq!((&outcome["test"], &outcome["validation"]), (&last["test"], &last["validation"]));
    assert!(said.contains(&format!("(step {})", lines[best]["step"])), "{said}");
    // The state within the epoch is a whole one: it is read, and its outcome is the same.
    let again = succeed(folder, &["train", "worse.toml", "--json", "--resume", "--out", "worse"]);
    assert_eq!(serde_json::from_str::<Value>(&again).unwrap()["test"], outcome["test"]);
    let info = succeed(folder, &["info", "worse"]);
    assert!(info.contains(&format!("(step {})", lines[best]["step"])), "{info}");
}

/// Checks that a run that is stopped and killed between evaluations ends with the same bits, and
/// with the same evaluations.
#[cfg(unix)]
#[test]
fn disturbed_runs_have_the_same_evaluations() {
    let folder = project(12_000);
    let folder = folder.path();
    let settings = "evaluate_every = { steps = 3 }\ncheckpoint_seconds = 1\n";
    fs::write(folder.join("model.toml"), format!("{CONFIG}{settings}")).unwrap();
    let arguments = ["train", "model.toml", "--quiet", "--epochs", "2", "--out"];
    succeed(folder, &[&arguments[..], &["straight"]].concat());
    let expected = result_of(&folder.join("straight"));
    assert!(expected.1.len() > 150);
    for (name, kinds) in [("a", ["-INT", "-KILL"]), ("b", ["-INT", "-INT"])] {
        let (mut wait, mut disturbed) = (60, 0);
        loop {
            let resume: &[&str] =
                if folder.join(name).join("manifest.json").exists() { &["--resume"] } else { &[] };
            let mut child =
                bagdot(folder).args([&arguments[..], &[name], resume].concat()).spawn().unwrap();
            std::thread::sleep(std::time::Duration::from_millis(wait));
            if child.try_wait().unwrap().is_none() {
                signal(&child, kinds[disturbed % 2]);
            }
            if child.wait().unwrap().code() == Some(0) {
                break;
            }
            disturbed += 1;
            wait += 70;
            assert!(disturbed < 80, "{name} never ends");
        }
        assert!(disturbed >= 2, "{name}: disturbed only {disturbed} times");
        assert_eq!(result_of(&folder.join(name)), expected, "{name}");
    }
}

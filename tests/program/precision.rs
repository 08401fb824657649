//! Tests of the program with layers in 16 bits, on the reviews of `data/clothing`.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::common::succeed;

const CONFIG: &str = include_str!("../../examples/clothing.toml");

/// Trains a single model for two epochs and returns its test AUC.
fn auc(folder: &Path, precision: &str) -> f64 {
    let data = concat!(env!("CARGO_MANIFEST_DIR"), "/data/clothing/reviews.csv.gz");
    let text = CONFIG
        .replace("../data/clothing/reviews.csv.gz", data)
        .replace("members = 3", "members = 1");
    let name = format!("{precision}.toml");
    fs::write(folder.join(&name), text + &format!("\n[model]\nprecision = \"{precision}\"\n"))
        .unwrap();
    let outcome = succeed(folder, &["train", &name, "--epochs", "2", "--json", "--quiet"]);
    serde_json::from_str::<Value>(&outcome).unwrap()["test"]["auc"].as_f64().unwrap()
}

/// Compares the AUC of models in 16 bits with that of a model in f32. Models with different seeds
/// have a standard deviation of 0.001 (over five models, README). The tolerance is ten times that.
#[test]
fn models_in_16_bits_are_as_good() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let f32 = auc(folder, "f32");
    assert!(f32 > 0.9, "an AUC of {f32} is too low for a comparison");
    for precision in ["bf16", "f16"] {
        let other = auc(folder, precision);
        assert!(
            (other - f32).abs() < 0.01 && other != f32,
            "{precision}: {other}, but {f32} in f32"
        );
        let info = succeed(folder, &["info", &format!("runs/{precision}")]);
        assert!(info.contains(&format!("precision {precision}")), "{info}");
    }
    let measured = succeed(folder, &["eval", "runs/bf16", "--json"]);
    let measured = serde_json::from_str::<Value>(&measured).unwrap()["auc"].as_f64().unwrap();
    assert!(
        (measured - auc(folder, "bf16")).abs() < 1e-9,
        "a stored model gives other predictions"
    );
}

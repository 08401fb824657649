//! Tests of the program as a user sees it: commands, flags, streams, exit codes, model directories.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::common::*;

#[test]
fn train_eval_predict_agree() {
    let folder = project(3000);
    let folder = folder.path();
    let outcome: Value =
        serde_json::from_str(&succeed(folder, &["train", "model.toml", "--json", "--quiet"]))
            .unwrap();
    let model = folder.join("runs/model");
    for key in ["auc", "logloss", "ne", "calibration"] {
        assert!(outcome["test"][key].is_f64(), "{key} in {outcome}");
    }
    assert!(
        outcome["best_epoch"].as_u64().unwrap() >= 1
            && outcome["train_seconds"].as_f64().unwrap() > 0.0
    );
    assert!(outcome["samples_per_second"].as_f64().unwrap() > 0.0);
    // A model can learn the labels: the generator's own probabilities give an AUC of about 0.66.
    assert!(outcome["test"]["auc"].as_f64().unwrap() > 0.6, "{outcome}");

    let mut eval: Value =
        serde_json::from_str(&succeed(folder, &["eval", "runs/model", "--json"])).unwrap();
    let unknown = eval.as_object_mut().unwrap().remove("unknown").unwrap();
    assert_eq!(unknown["columns"][0]["unknown"], 0);
    assert_eq!(eval, outcome["test"], "the test rows from text must be those of training");
    let lines = fs::read_to_string(model.join("metrics.jsonl")).unwrap();
    assert_eq!(lines.lines().count(), 5, "four epochs and the outcome");
    let report = fs::read_to_string(model.join("report.html")).unwrap();
    assert_eq!(report.matches("<svg").count(), 7);
    assert!(
        !report.contains("http://") || !report.contains("src="),
        "the report must open anywhere"
    );

    // Predictions are one a line, and the same from a file, from standard input, and without the
    // label's column.
    let predictions = succeed(folder, &["predict", "runs/model", "clicks.csv"]);
    assert_eq!(predictions.lines().count(), 3000);
    assert!(predictions.lines().all(|p| (0.0..=1.0).contains(&p.parse::<f32>().unwrap())));
    let text = fs::read_to_string(folder.join("clicks.csv")).unwrap();
    let unlabelled: String =
        text.lines().map(|line| format!("{}\n", line.rsplit_once(',').unwrap().0)).collect();
    fs::write(folder.join("new.csv"), unlabelled).unwrap();
    assert_eq!(succeed(folder, &["predict", "runs/model", "new.csv"]), predictions);
    let mut child = bagdot(folder)
        .args(["predict", "runs/model", "-", "--output", "out.txt"])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success());
    assert_eq!(fs::read_to_string(folder.join("out.txt")).unwrap(), predictions);

    let all: Value = serde_json::from_str(&succeed(
        folder,
        &["eval", "runs/model", "--data", "clicks.csv", "--json"],
    ))
    .unwrap();
    assert_eq!(all["samples"], 3000);
    let info = succeed(folder, &["info", "runs/model"]);
    assert!(
        info.contains("sparse: page (6 rows, Sum)") && info.contains("finished: 4 epochs"),
        "{info}"
    );
    let info = succeed(folder, &["info"]);
    assert!(
        info.contains(&format!(" threads, {}\n", bagdot::Cpu::on_current_thread().simd())),
        "{info}"
    );
    if cfg!(feature = "cuda") {
        // The output tells whether there is a driver.
        assert!(
            info.contains("cuda: no CUDA driver") || info.contains("cuda: driver for CUDA"),
            "{info}"
        );
        assert!(
            info.contains("kernels of embedding_bag: sm_80, CUDA 13.0; sm_90a, CUDA 13.0; "),
            "{info}"
        );
    } else {
        assert!(info.contains("cuda: built without it"), "{info}");
    }
}

#[test]
fn results_do_not_depend_on_threads_and_runs() {
    let folder = project(1500);
    let folder = folder.path();
    for (name, threads) in [("a", "1"), ("b", "2"), ("c", "3"), ("d", "3")] {
        succeed(folder, &["train", "model.toml", "--quiet", "--out", name, "--threads", threads]);
    }
    let expected = result_of(&folder.join("a"));
    for name in ["b", "c", "d"] {
        assert_eq!(result_of(&folder.join(name)), expected, "{name}");
    }
    succeed(folder, &["train", "model.toml", "--quiet", "--out", "e", "--seed", "4"]);
    assert_ne!(result_of(&folder.join("e")), expected, "another seed must give another model");
}

#[cfg(feature = "cuda")]
#[test]
fn every_command_runs_on_cuda() {
    let folder = project(100);
    let folder = folder.path();
    assert_eq!(fail(folder, &["train", "model.toml", "--device", "gpu"]).0, 2);
    // If there is no real device, the program gets the stand-in driver of the library's tests.
    let emulated = bagdot_emulator::install().unwrap().is_some();
    if emulated {
        let (code, message) = fail(folder, &["train", "model.toml", "--device", "cuda"]);
        assert!(code == 1 && message.starts_with("bagdot: no CUDA d"), "{message}");
    }
    let run = |stand_ins: &[PathBuf], arguments: &[&str]| {
        let mut command = bagdot(folder);
        if emulated {
            command.env("LD_PRELOAD", std::env::join_paths(stand_ins).unwrap());
        }
        let output = command.args(arguments).stdin(Stdio::null()).output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    };
    let [driver, cublaslt] = [bagdot_emulator::library_path(), bagdot_emulator::cublaslt_path()];
    let cuda = |arguments: &[&str]| run(&[driver.clone(), cublaslt.clone()], arguments);
    let done = |arguments: &[&str]| {
        let (code, said, error) = cuda(arguments);
        assert_eq!(code, Some(0), "{arguments:?}: {error}");
        said
    };
    let outcome: Value = serde_json::from_str(&done(&[
        "train",
        "model.toml",
        "--json",
        "--epochs",
        "2",
        "--device",
        "cuda",
    ]))
    .unwrap();
    let mut eval: Value =
        serde_json::from_str(&done(&["eval", "runs/model", "--json", "--device", "cuda:0"]))
            .unwrap();
    eval.as_object_mut().unwrap().remove("unknown");
    assert_eq!(eval, outcome["test"]);
    let on_cuda = done(&["predict", "runs/model", "clicks.csv", "--device", "cuda"]);
    let on_cpu = succeed(folder, &["predict", "runs/model", "clicks.csv"]);
    let numbers =
        |text: &str| text.lines().map(|line| line.parse::<f64>().unwrap()).collect::<Vec<_>>();
    let off = numbers(&on_cuda)
        .into_iter()
        .zip(numbers(&on_cpu))
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, f64::max);
    assert!(on_cuda.lines().count() == 100 && off < 1e-5, "{off} apart");
    assert!(done(&["info"]).contains("  device 0: "));
    if emulated {
        assert!(done(&["info"]).contains(" GiB; kernels: sm_90a, CUDA 13.0\n"));
    }
    assert!(done(&["info", "--gemm", "own"]).contains("  gemm: own kernels\n"));
    if emulated {
        assert!(
            done(&["info"])
                .contains("  gemm: cuBLASLt 13.0.0 where it is faster, else own kernels\n")
        );
        let predict =
            ["predict", "runs/model", "clicks.csv", "--device", "cuda", "--gemm", "cublaslt"];
        let off = numbers(&done(&predict))
            .into_iter()
            .zip(numbers(&on_cpu))
            .map(|(a, b)| (a - b).abs())
            .fold(0.0, f64::max);
        assert!(off < 1e-5, "{off} apart");
        let alone = |arguments: &[&str]| run(std::slice::from_ref(&driver), arguments);
        let (_, info, _) = alone(&["info"]);
        // This machine may have a real cuBLASLt.
        if !info.contains("gemm: cuBLASLt") {
            assert!(
                info.contains("  gemm: own kernels; no cuBLASLt: libcublasLt.so.13: cannot open"),
                "{info}"
            );
            assert_eq!(alone(&["eval", "runs/model", "--device", "cuda"]).0, Some(0));
            let (code, _, error) =
                alone(&["eval", "runs/model", "--device", "cuda", "--gemm", "cublaslt"]);
            assert!(
                code == Some(1) && error.contains("no cuBLASLt: libcublasLt.so.13: cannot open"),
                "{error}"
            );
            assert!(
                error.contains("libcublasLt.so.12: cannot open")
                    && error.contains("LD_LIBRARY_PATH"),
                "{error}"
            );
        }
    }
    let (code, _, error) = cuda(&["eval", "runs/model", "--device", "cuda:99"]);
    assert!(code == Some(1) && error.contains("no CUDA device 99: there are"), "{error}");
}

/// Checks that generated rows depend on the seed alone, are read as Criteo's, follow the
/// distribution of ids, and can be learned.
#[test]
fn generated_rows_are_learned_from() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let rows = |arguments: &[&str]| {
        succeed(folder, &[&["generate", "6000", "--values", "30"], arguments].concat())
    };
    let zipf = rows(&[]);
    assert_eq!(rows(&["--seed", "1", "--ids", "zipf"]), zipf);
    assert_ne!(rows(&["--seed", "2"]), zipf);
    succeed(folder, &["generate", "6000", "--values", "30", "--output", "clicks.tsv"]);
    assert_eq!(fs::read_to_string(folder.join("clicks.tsv")).unwrap(), zipf);
    // The share of the first id of the first category is 1 / H₃₀, with the harmonic number H₃₀, or
    // 1 / 30. The tolerance is five standard deviations.
    let share = |text: &str| {
        let of_rows: Vec<bool> =
            text.lines().map(|line| line.split('\t').nth(14) == Some("00000000")).collect();
        assert_eq!(of_rows.len(), 6000);
        of_rows.iter().filter(|&&is_it| is_it).count() as f64 / 6000.0
    };
    assert!((share(&zipf) - 0.2503).abs() < 0.028, "{}", share(&zipf));
    assert!((share(&rows(&["--ids", "uniform"])) - 0.0333).abs() < 0.012);
    let config = "[data]\nformat = 'criteo'\ntrain = 'clicks.tsv'\n\
        [model]\nbottom_mlp = [16, 8]\ntop_mlp = [16]\n[train]\nepochs = 6\n";
    fs::write(folder.join("model.toml"), config).unwrap();
    let outcome: Value =
        serde_json::from_str(&succeed(folder, &["train", "model.toml", "--json"])).unwrap();
    assert!(outcome["test"]["auc"].as_f64().unwrap() > 0.7, "{outcome}");
    let memory = succeed(folder, &["info", "--memory", "model.toml"]);
    assert!(
        memory.starts_with("tables ") && memory.lines().last().unwrap().starts_with("all "),
        "{memory}"
    );
}

/// Checks the work of a published model beside sizes that can be counted by hand, that of a
/// configuration, and a record of other times.
#[test]
fn the_roofline_counts_bytes_and_operations() {
    let folder = project(600);
    let folder = folder.path();
    let record = r#"{"date": "2026-11-28", "device": "NVIDIA H200", "benchmarks": [
        {"op": "predict", "shape": "kaggle b128 uniform f32", "ns": 1e6}]}"#;
    fs::write(folder.join("record.json"), record).unwrap();
    let options = ["--roofline", "kaggle", "--precision", "f32", "--record", "record.json"];
    let kaggle = succeed(folder, &[&["info"], &options[..]].concat());
    let prediction = kaggle.split("\nprediction ").nth(1).unwrap();
    let line = |start: &str| prediction.lines().find(|line| line.starts_with(start)).unwrap();
    // The first layer takes 13 values of 128 samples to 512.
    let fields: Vec<_> = line("linear_forward").split_whitespace().collect();
    let (m, n, k) = (128, 512, 13);
    let bytes = 4 * (m * k + n * k + m * n + n);
    assert_eq!(fields[1], format!("{:.2}", bytes as f64 / 1e6), "{prediction}");
    assert_eq!(fields[2], format!("{:.2}", (2 * m * n * k) as f64 / 1e9), "{prediction}");
    // Six layers besides the last one, and the lookup.
    let ops = ["linear_forward"; 4].into_iter().chain(["pooled_interaction"]);
    let ops = ops.chain(["linear_forward"; 2]).chain(["head", "all", "at"]);
    let starts = prediction.lines().skip(1).map(|line| line.split(' ').next().unwrap());
    assert!(starts.zip(ops).all(|(got, want)| got == want), "{prediction}");
    // Eight ops of the least time of an op are far from a millisecond.
    assert!(line("measured on NVIDIA H200 on 2026-11-28: 1000.0; predicted 2").ends_with("-98 %"));

    let own = succeed(folder, &["info", "--roofline", "model.toml"]);
    assert!(own.starts_with("32 samples, "), "{own}");
    assert!(own.contains("\nsparse_update ") && own.contains("\nprediction "), "{own}");
    let (code, error) = fail(folder, &["info", "--roofline", "model.toml", "--precision", "f32"]);
    assert!(code == 2 && error.contains("`kaggle`, `mlperf`, `terabyte`"), "{error}");
    let (_, error) = fail(folder, &["info", "--roofline", "no.toml"]);
    assert!(error.contains("no.toml"), "{error}");
}

/// Checks that a batch whose loss or gradient is not finite is named, and that it ends the run or
/// is skipped, as the setting says.
#[test]
fn batches_that_are_not_finite_are_named() {
    let folder = project(600);
    let folder = folder.path();
    let mut text = fs::read_to_string(folder.join("clicks.csv")).unwrap();
    // The numbers are finite, and their squares are not. A feature is multiplied by itself here.
    text += &"3e38,p1,t1,1\n".repeat(3);
    fs::write(folder.join("clicks.csv"), text).unwrap();
    let with = |policy: &str| {
        let config = CONFIG
            .replace("zscore", "none")
            .replace("[train]", "include_self = true\n[train]")
            .replace("members = 2", &format!("non_finite = '{policy}'"));
        fs::write(folder.join("bad.toml"), config).unwrap();
        let output = run(folder, &["train", "bad.toml"]);
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, said) = with("error");
    assert!(
        code == Some(1)
            && said.contains("epoch 1, batch ")
            && said.contains("a gradient is not finite"),
        "{said}"
    );
    let batch = said.split("epoch 1, batch ").nth(1).unwrap().split(':').next().unwrap();
    let (code, said) = with("skip-step");
    assert!(
        code == Some(0) && said.contains("epoch 1: loss or gradients were not finite in"),
        "{said}"
    );
    let [count, last] = ["finite in ", "of them batch "].map(|before| {
        said.split(before)
            .nth(1)
            .unwrap()
            .split(|c: char| !c.is_ascii_digit())
            .next()
            .unwrap()
            .parse::<u32>()
            .unwrap()
    });
    assert!((1..=3).contains(&count) && last >= batch.parse().unwrap(), "{said}");
    assert!(said.contains("epoch 4: training logloss 0."), "{said}");
}

#[test]
fn an_earlier_model_is_kept_aside() {
    let folder = project(300);
    let folder = folder.path();
    let before = (succeed(folder, &["train", "model.toml"]), result_of(&folder.join("runs/model")));
    let output = run(folder, &["train", "model.toml", "--seed", "9"]);
    assert!(output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("is now in runs/model~1"));
    assert_eq!(result_of(&folder.join("runs/model~1")), before.1);
    // The files of a run that was killed before it had a model do not hinder a new run.
    fs::create_dir(folder.join("killed")).unwrap();
    fs::write(folder.join("killed/encoder.json"), "{").unwrap();
    fs::write(folder.join("killed/manifest.json.partial"), "{").unwrap();
    succeed(folder, &["train", "model.toml", "--quiet", "--epochs", "1", "--out", "killed"]);
    assert!(
        !folder.join("killed~1").exists() && !folder.join("killed/manifest.json.partial").exists()
    );
    fs::create_dir(folder.join("other")).unwrap();
    fs::write(folder.join("other/thesis.txt"), "ten years of work").unwrap();
    let (code, message) = fail(folder, &["train", "model.toml", "--out", "other"]);
    assert_eq!(code, 1);
    assert!(message.contains("not empty and holds no model"), "{message}");
    assert_eq!(fs::read_to_string(folder.join("other/thesis.txt")).unwrap(), "ten years of work");
}

#[cfg(unix)]
#[test]
fn killed_and_interrupted_runs_resume_to_the_same_bits() {
    let folder = project(12_000);
    let folder = folder.path();
    succeed(folder, &[&LONG[..], &["straight"]].concat());
    let expected = result_of(&folder.join("straight"));
    for (name, kind) in [("killed", "-KILL"), ("interrupted", "-INT")] {
        let (mut disturbed, mut wait) = (0, 60);
        loop {
            let resume: &[&str] =
                if folder.join(name).join("manifest.json").exists() { &["--resume"] } else { &[] };
            let mut child = bagdot(folder)
                .args([&LONG[..], &[name], resume].concat())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap();
            std::thread::sleep(Duration::from_millis(wait));
            let running = child.try_wait().unwrap().is_none();
            if running {
                signal(&child, kind);
            }
            let output = child.wait_with_output().unwrap();
            let said = String::from_utf8_lossy(&output.stderr);
            match output.status.code() {
                Some(0) => break,
                Some(130) if kind == "-INT" => {
                    let stopped_early = said.contains("continue with --resume");
                    assert!(
                        stopped_early || said.is_empty() || said.contains("checkpoint"),
                        "{said}"
                    );
                    disturbed += 1;
                }
                None if kind == "-KILL" => disturbed += 1,
                code => panic!("{name}: exit code {code:?}: {said}"),
            }
            // Each attempt lasts longer than the one before.
            wait += 37;
            assert!(disturbed < 60, "{name} never ends");
        }
        assert!(disturbed >= 2, "{name}: disturbed only {disturbed} times");
        assert_eq!(result_of(&folder.join(name)), expected, "{name}");
        let partial = fs::read_dir(folder.join(name))
            .unwrap()
            .flatten()
            .any(|e| e.path().extension().is_some_and(|x| x == "partial"));
        assert!(!partial, "nothing half-written is left");
    }
}

#[test]
fn resume_needs_the_same_configuration_and_data() {
    let folder = project(600);
    let folder = folder.path();
    succeed(folder, &["train", "model.toml", "--quiet"]);
    let (code, message) = fail(folder, &["train", "model.toml", "--resume", "--seed", "8"]);
    assert_eq!(code, 1);
    assert!(message.contains("another configuration"), "{message}");
    let (_, message) = fail(folder, &["train", "model.toml", "--resume", "--out", "nowhere"]);
    assert!(message.contains("no model here"), "{message}");
    // Resuming a finished run gives its result again.
    let again = succeed(folder, &["train", "model.toml", "--resume", "--json", "--quiet"]);
    assert!(serde_json::from_str::<Value>(&again).unwrap()["test"]["auc"].is_f64());
    let text = fs::read_to_string(folder.join("clicks.csv")).unwrap();
    fs::write(folder.join("clicks.csv"), text + "30,p1,t1,1\n").unwrap();
    let (_, message) = fail(folder, &["train", "model.toml", "--resume"]);
    assert!(message.contains("the data have changed"), "{message}");
}

/// Checks a limit of the file size, under which writes fail half-way as on a full disk.
#[cfg(unix)]
#[test]
fn a_full_disk_leaves_the_last_checkpoint() {
    let folder = project(600);
    let folder = folder.path();
    // Tables and layers are so large that a checkpoint is much larger than a manifest.
    fs::write(
        folder.join("model.toml"),
        CONFIG.replace("[8, 4]", "[64, 32]").replace("[8]", "[64, 64]"),
    )
    .unwrap();
    succeed(folder, &["train", "model.toml", "--quiet", "--epochs", "1", "--out", "m"]);
    let before = fs::read(folder.join("m/manifest.json")).unwrap();
    let limited = |blocks: u32, out: &str| {
        let program = env!("CARGO_BIN_EXE_bagdot");
        let script = format!(
            "trap '' XFSZ; ulimit -f {blocks}; exec {program} train model.toml --quiet --out {out}"
        );
        Command::new("bash").current_dir(folder).args(["-c", &script]).output().unwrap()
    };
    // With one block of 1024 bytes, not even the encoder fits.
    let output = limited(1, "n");
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert!(message.contains("cannot write n/"), "{message}");
    // With sixteen blocks, encoder and manifest fit, and a checkpoint does not.
    let output = limited(16, "m2");
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(
        message.contains("cannot write m2/best-") && message.contains(".safetensors"),
        "{message}"
    );
    assert!(
        !fs::read_dir(folder.join("m2"))
            .unwrap()
            .flatten()
            .any(|e| e.path().extension().is_some_and(|x| x == "partial"))
    );
    // With enough room, the run resumes to the same result.
    succeed(folder, &["train", "model.toml", "--quiet", "--out", "m2", "--resume"]);
    succeed(folder, &["train", "model.toml", "--quiet", "--out", "straight"]);
    assert_eq!(result_of(&folder.join("m2")), result_of(&folder.join("straight")));
    assert_eq!(fs::read(folder.join("m/manifest.json")).unwrap(), before);
}

#[test]
fn damaged_and_hostile_models_are_refused() {
    let folder = project(300);
    let folder = folder.path();
    succeed(folder, &["train", "model.toml", "--quiet", "--epochs", "1", "--out", "good"]);
    let best = manifest(&folder.join("good"))["files"]["best"]["name"].as_str().unwrap().to_owned();
    // Each case edits a copy. `reseal` corrects length and checksum, so that the next check sees
    // the damage.
    let case = |name: &str, edit: &dyn Fn(&Path), reseal: bool| {
        let model = folder.join(name);
        fs::create_dir(&model).unwrap();
        for file in fs::read_dir(folder.join("good")).unwrap().flatten() {
            fs::copy(file.path(), model.join(file.file_name())).unwrap();
        }
        edit(&model);
        if reseal {
            let mut manifest = manifest(&model);
            for kind in ["best", "encoder"] {
                let bytes = fs::read(model.join(manifest["files"][kind]["name"].as_str().unwrap()))
                    .unwrap();
                manifest["files"][kind]["bytes"] = bytes.len().into();
                manifest["files"][kind]["crc32"] = crc32fast::hash(&bytes).into();
            }
            fs::write(model.join("manifest.json"), manifest.to_string()).unwrap();
        }
        let (code, message) = fail(folder, &["predict", name, "clicks.csv"]);
        assert_eq!(code, 1, "{message}");
        message
    };
    let edit_file = |name: String, edit: fn(Vec<u8>) -> Vec<u8>| {
        move |model: &Path| {
            let path = model.join(&name);
            fs::write(&path, edit(fs::read(&path).unwrap())).unwrap();
        }
    };
    let cut = |bytes: Vec<u8>| bytes[..bytes.len() / 2].to_vec();
    let flip = |mut bytes: Vec<u8>| {
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        bytes
    };
    let huge_header = |mut bytes: Vec<u8>| {
        bytes[..8].copy_from_slice(&u64::MAX.to_le_bytes());
        bytes
    };
    for (name, message) in [
        ("truncated", case("truncated", &edit_file(best.clone(), cut), false)),
        ("flipped", case("flipped", &edit_file(best.clone(), flip), false)),
    ] {
        assert!(message.contains("damaged") && message.contains(&best), "{name}: {message}");
    }
    let message = case("cut-resealed", &edit_file(best.clone(), cut), true);
    assert!(message.contains("no safetensors file"), "{message}");
    let message = case("header", &edit_file(best.clone(), huge_header), true);
    assert!(message.contains("a header of 18446744073709551615 bytes"), "{message}");
    let message = case("encoder", &edit_file("encoder.json".into(), cut), true);
    assert!(message.contains("encoder.json: not an encoder"), "{message}");
    let edit_manifest = |edit: fn(&mut Value)| {
        move |model: &Path| {
            let mut value = manifest(model);
            edit(&mut value);
            fs::write(model.join("manifest.json"), value.to_string()).unwrap();
        }
    };
    let message = case("future", &edit_manifest(|m| m["format"] = 2.into()), false);
    assert!(message.contains("format 2, but this program reads format 1"), "{message}");
    let message =
        case("escape", &edit_manifest(|m| m["files"]["best"]["name"] = "../good/x".into()), false);
    assert!(message.contains("is no file in it"), "{message}");
    let message = case(
        "shape",
        &edit_manifest(|m| m["config"]["model"]["top_mlp"] = serde_json::json!([9])),
        false,
    );
    assert!(message.contains("tensor members.0.top_mlp.0.weight has the shape"), "{message}");
    let message = case("gone", &|model| fs::remove_file(model.join(&best)).unwrap(), false);
    assert!(message.contains("cannot open"), "{message}");
    let message =
        case("garbage", &|model| fs::write(model.join("manifest.json"), "{").unwrap(), false);
    assert!(message.contains("manifest.json: not a manifest"), "{message}");
}

#[test]
fn wrong_arguments_and_configurations_are_explained() {
    let folder = project(50);
    let folder = folder.path();
    assert_eq!(fail(folder, &["train"]).0, 2);
    assert_eq!(fail(folder, &["train", "model.toml", "--threads", "0"]).0, 2);
    assert_eq!(fail(folder, &["frobnicate"]).0, 2);
    assert_eq!(fail(folder, &[]).0, 2);
    let (code, message) = fail(folder, &["train", "absent.toml"]);
    assert_eq!(code, 1);
    assert!(message.contains("cannot read absent.toml"), "{message}");
    let with = |from: &str, to: &str| {
        fs::write(folder.join("bad.toml"), CONFIG.replace(from, to)).unwrap();
        let (code, message) = fail(folder, &["train", "bad.toml"]);
        assert_eq!(code, 1, "{message}");
        message
    };
    let message = with("epochs = 4", "epoch = 4");
    assert!(
        message.contains("bad.toml: line 13, column 1: unknown key `train.epoch`"),
        "{message}"
    );
    assert!(message.contains("did you mean `epochs`?"), "{message}");
    let message = with("column = \"page\"", "column = \"pge\"");
    assert!(
        message.contains("clicks.csv") && message.contains("pge") && message.contains("page"),
        "{message}"
    );
    let message = with("bottom_mlp = [8, 4]", "bottom_mlp = [8, 0]");
    assert!(
        message.contains("`bottom_mlp` is [8, 0], but every size must be 1 or more"),
        "{message}"
    );
    let message = with("clicks.csv", "nothing.csv");
    assert!(message.contains("nothing.csv"), "{message}");
    let message =
        with("seed = 3", "seed = 3\noptimizer = { learning_rate = 1e30, kind = \"sgd\" }");
    assert!(message.contains("the loss is") && message.contains("epoch 1, batch"), "{message}");
}

#[test]
fn a_bad_row_is_named_with_file_line_and_column() {
    let folder = project(200);
    let folder = folder.path();
    succeed(folder, &["train", "model.toml", "--quiet", "--epochs", "1", "--out", "m"]);
    fs::write(folder.join("bad.csv"), "age,page,tags,clicked\n30,p1,t1,1\nold,p1,t1,1\n").unwrap();
    for command in [["eval", "m", "--data", "bad.csv"].as_slice(), &["predict", "m", "bad.csv"]] {
        let (code, message) = fail(folder, command);
        assert_eq!(code, 1);
        assert!(["bad.csv:3", "age", "old"].iter().all(|part| message.contains(part)), "{message}");
    }
    // A category that training has not seen is no error.
    fs::write(folder.join("new.csv"), "age,page,tags\n30,p99,t77 t78\n").unwrap();
    assert_eq!(succeed(folder, &["predict", "m", "new.csv"]).lines().count(), 1);
}

#[test]
fn warnings_are_printed_even_if_quiet() {
    let folder = project(200);
    let folder = folder.path();
    let text = fs::read_to_string(folder.join("clicks.csv")).unwrap();
    let (first, rest) = text.split_at(text.find('\n').unwrap() + 1);
    fs::write(folder.join("clicks.csv"), format!("{first}30,\"p\n1\",t1,1\n{rest}")).unwrap();
    let warning = "bagdot: warning: clicks.csv:2: a quoted field has line ends inside";
    let said = |arguments: &[&str]| {
        let output = run(folder, arguments);
        let message = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{message}");
        message.replace(&format!("{}/", folder.display()), "").replace("./", "")
    };
    for arguments in [
        ["train", "model.toml", "-q", "--epochs", "1", "--out", "m"].as_slice(),
        &["eval", "m", "-q"],
        &["eval", "m", "-q", "--data", "clicks.csv"],
        &["predict", "m", "-q", "clicks.csv"],
    ] {
        let message = said(arguments);
        assert!(
            message.contains(warning) && message.matches("line ends inside").count() == 1,
            "{arguments:?}: {message}"
        );
    }
    // Standard input has a quote that is never closed.
    let mut child = bagdot(folder);
    child
        .args(["predict", "m", "-q", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = child.spawn().unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(format!("{first}30,\"p1,t1,1\n{rest}").as_bytes())
        .unwrap();
    let output = child.wait_with_output().unwrap();
    let message = String::from_utf8(output.stderr).unwrap();
    assert!(
        !output.status.success() && message.contains("standard input:2: a quote opens a field"),
        "{message}"
    );
}

/// Checks that huge rows and headers are refused within 1 GiB of address space, which does not
/// suffice to hold them.
#[test]
#[cfg(target_os = "linux")]
fn a_row_takes_little_memory() {
    let folder = project(200);
    let folder = folder.path();
    succeed(folder, &["train", "model.toml", "-q", "--epochs", "1", "--out", "m"]);
    let mut gzip = flate2::write::GzEncoder::new(vec![], flate2::Compression::best());
    gzip.write_all(b"age,page,tags,clicked\n").unwrap();
    let commas = vec![b','; 1 << 20];
    (0..300).for_each(|_| gzip.write_all(&commas).unwrap());
    fs::write(folder.join("row.gz"), gzip.finish().unwrap()).unwrap();
    fs::write(folder.join("header.csv"), ",".repeat(10_000_000)).unwrap();
    for (file, expected) in [
        ("row.gz", "row.gz:2: expected 4 fields, found far more"),
        ("header.csv", "header.csv:1: a header of more than 100000 columns"),
    ] {
        let program = format!(
            "ulimit -v 1048576; exec {:?} predict m {file} --threads 1",
            env!("CARGO_BIN_EXE_bagdot")
        );
        let output =
            Command::new("sh").args(["-c", &program]).current_dir(folder).output().unwrap();
        let message = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code() == Some(1) && message.contains(expected), "{message}");
    }
}

#[test]
fn help_teaches() {
    let folder = PathBuf::from(".");
    let help = succeed(&folder, &["--help"]);
    assert!(
        help.contains("bagdot train examples/clothing.toml") && help.contains("Exit status"),
        "{help}"
    );
    for command in ["train", "eval", "predict", "info", "generate"] {
        assert!(help.contains(command));
        assert!(succeed(&folder, &[command, "--help"]).contains("Usage: bagdot"), "{command}");
    }
    for flag in [
        "--seed",
        "--epochs",
        "--batch-size",
        "--threads",
        "--device",
        "--out",
        "--resume",
        "--json",
        "--quiet",
    ]
    .into_iter()
    .chain(cfg!(feature = "cuda").then_some("--gemm"))
    {
        assert!(succeed(&folder, &["train", "--help"]).contains(flag), "{flag}");
    }
}

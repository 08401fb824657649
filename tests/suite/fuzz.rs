//! Fuzz tests of the readers of files: no bytes may make them panic or hang, and no invalid file
//! may be accepted.
//!
//! Each target replays its corpus, `tests/corpus/TARGET/*`, and then mutates its samples and the
//! corpus. The number of mutations and their seeds are fixed, unless `BAGDOT_FUZZ_SECONDS` gives a
//! time to spend on other seeds (`scripts/fuzz.sh`). A failing input is added to the corpus.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bagdot::data::{Encoder, LabelUse, Source};
use bagdot::train::{
    Config, Dialect, Import, ModelDir, Observer, RunDir, StoredModel, TrainError, TrainedModel,
    Trainer,
};
use bagdot::{Cpu, Philox};
use rand::RngExt;
use rand::seq::IndexedRandom;

use crate::common::rounds::seeds;
use crate::data::fuzz::{ANY_COLUMNS, encodes, survives};
use crate::data::samples::criteo_line;

/// The number of mutations of a target, unless `BAGDOT_FUZZ_SECONDS` is set.
const MUTATIONS: u64 = 1500;

/// The longest time that an input of a few hundred bytes may take.
const LONGEST: Duration = Duration::from_secs(10);

/// Calls `target` with the corpus called `name`, with `samples` and with mutations of both, some of
/// which insert `tokens`.
fn fuzz(name: &str, samples: &[Vec<u8>], tokens: &[&str], target: impl Fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus").join(name);
    let corpus = fs::read_dir(&folder)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| fs::read(entry.path()).unwrap());
    let inputs: Vec<Vec<u8>> = corpus.chain(samples.iter().cloned()).collect();
    inputs.iter().for_each(|input| call(&folder, input, &target));
    for seed in seeds(MUTATIONS) {
        call(&folder, &mutated(&inputs, tokens, &mut Philox::new(seed, 0)), &target);
    }
}

/// Calls the target. Writes the input to `folder` if the target fails.
fn call(folder: &Path, input: &[u8], target: &impl Fn(&[u8])) {
    let started = Instant::now();
    let result = catch_unwind(AssertUnwindSafe(|| target(input)));
    let is_slow = started.elapsed() > LONGEST;
    if result.is_err() || is_slow {
        fs::create_dir_all(folder).unwrap();
        let path = folder.join(format!("{:08x}", crc32fast::hash(input)));
        fs::write(&path, input).unwrap();
        eprintln!("the input is in {}", path.display());
    }
    result.unwrap_or_else(|panic| resume_unwind(panic));
    assert!(!is_slow, "{:?}", started.elapsed());
}

/// Returns one of the inputs with a few changes.
fn mutated(inputs: &[Vec<u8>], tokens: &[&str], random: &mut Philox) -> Vec<u8> {
    let mut bytes = inputs.choose(random).unwrap().clone();
    for _ in 0..random.random_range(1..=4) {
        let at = random.random_range(0..=bytes.len());
        let end = (at + random.random_range(1..=16)).min(bytes.len());
        match random.random_range(0..8) {
            0 if at < bytes.len() => bytes[at] ^= 1 << random.random_range(0..8),
            1 if at < bytes.len() => bytes[at] = random.random(),
            2 if at < end => drop(bytes.drain(at..end)),
            3 if at < end => {
                let repeated = bytes[at..end].to_vec();
                bytes.splice(at..at, repeated);
            }
            4 => bytes.truncate(at),
            5 => {
                let other = inputs.choose(random).unwrap();
                let from = random.random_range(0..=other.len());
                bytes.truncate(at);
                bytes.extend_from_slice(&other[from..]);
            }
            _ if !tokens.is_empty() => {
                drop(bytes.splice(at..at, tokens.choose(random).unwrap().bytes()))
            }
            _ => bytes.insert(at, random.random()),
        }
    }
    bytes
}

/// Tokens of delimited text.
const CELLS: &[&str] = &[
    ",", "\"", "\"\"", "\n", "\r\n", "\r", " ", "\t", "nan", "1e39", "-0", "é", "\u{feff}", "\0",
    "NA",
];

#[test]
fn delimited_text() {
    let samples = [
        "x,c,y\n1,a,0\n2,b b,1\n,,1\n3,\"c, \"\"d\"\"\ne\",0\n",
        "c,y,x\r\na,1,1.5\r\n\r\nb,0,-2e3\r\n",
        "y,x,c\n0, 1 , \"a b\" \n1,\t2,\"\"\n",
    ];
    fuzz("delimited", &samples.map(|text| text.as_bytes().to_vec()), CELLS, |bytes| {
        survives(ANY_COLUMNS, bytes)
    });
}

#[test]
fn criteo_text() {
    let lines: Vec<String> = (0..6).map(|k| criteo_line(k) + "\n").collect();
    let tokens = ["\t", "\n", "\r\n", "-1", "68fd1e64", "", "\0"];
    fuzz("criteo", &[lines.concat().into_bytes()], &tokens, |bytes| {
        survives("format = 'criteo'", bytes)
    });
}

#[test]
fn packed_text() {
    use std::io::Write;

    use ruzstd::encoding::{CompressionLevel, compress_to_vec};
    let text: String =
        "x,c,y\n".to_owned() + &(0..30).map(|k| format!("{k},a,{}\n", k % 2)).collect::<String>();
    let gzip = |text: &[u8]| {
        let mut gzip = flate2::write::GzEncoder::new(vec![], flate2::Compression::default());
        gzip.write_all(text).unwrap();
        gzip.finish().unwrap()
    };
    let zstd = compress_to_vec(text.as_bytes(), CompressionLevel::Fastest);
    let halves = [gzip(&text.as_bytes()[..60]), gzip(&text.as_bytes()[60..]), vec![0; 9]].concat();
    let tokens = ["\0\0\0\0", "PK\u{3}\u{4}", "BZh9", "PAR1", "x,c,y\n1,a,0\n2,a,1\n"];
    fuzz("packed", &[gzip(text.as_bytes()), zstd, halves], &tokens, |bytes| {
        survives(ANY_COLUMNS, bytes)
    });
}

#[test]
fn configurations() {
    let samples = [
        include_str!("../../examples/clothing.toml"),
        "[data]\ntrain = ['a', 'b']\nlabel = 'y >= 4'\nsplit = { by = 'time', column = 't' }\n\
         delimiter = ';'\n[[data.join]]\npath = 'm'\non = { left = 'a', right = 'b' }\n\
         [[data.categorical]]\ncolumn = 'c'\nseparator = '|'\n\
         [[data.dense]]\ncolumn = 'x'\ntransform = ['log1p', 'zscore']\nmissing = 3\n\
         [model]\nbottom_mlp = [8, 4]\ntable_init = { normal = 0.1 }\n\
         [train]\nloss = { weighted_bce = { negative = 1, positive = 3 } }\n\
         [train.optimizer]\nkind = 'adagrad'\neps = 1e-8\nweight_decay = { l2 = 1e-3 }\n",
    ];
    let tokens = [
        "=",
        "[",
        "]",
        "{",
        "}",
        "'",
        "\"",
        "\n",
        ",",
        "nan",
        "inf",
        "-1",
        "1e400",
        "18446744073709551616",
        "true",
        "data",
        "train",
        "[train.tables]\n",
        "[[data.dense]]\n",
        "column = 'x'\n",
    ];
    fuzz("configurations", &samples.map(|text| text.as_bytes().to_vec()), &tokens, |bytes| {
        let Ok(text) = std::str::from_utf8(bytes) else { return };
        match Config::parse(text) {
            Ok(config) => {
                assert_eq!(config.validate(), Ok(()));
                let stored = serde_json::to_string(&config).unwrap();
                assert_eq!(serde_json::from_str::<Config>(&stored).unwrap(), config);
            }
            Err(message) => assert!(!message.is_empty()),
        }
    });
}

#[test]
fn encoders() {
    let sample = serde_json::to_vec(&crate::data::rich_encoder()).unwrap();
    fuzz("encoders", &[sample], JSON, |bytes| {
        if let Ok(encoder) = serde_json::from_slice::<Encoder>(bytes) {
            encodes(&encoder, b"x,c,y\n1,2 3,0\n0,2 2,1\n3,,1\n".to_vec());
        }
    });
}

/// Tokens of JSON.
const JSON: &[&str] = &[
    "0",
    "9",
    "-",
    "e9",
    "\"",
    ",",
    "null",
    "[]",
    "{}",
    "1e999",
    "18446744073709551615",
    "true",
    "\\u0000",
];

/// Pieces of safetensors files.
const SAFETENSORS: &[&str] = &[
    "F32",
    "F16",
    "F64",
    "[0,4]",
    "[]",
    "18446744073709551615",
    "{",
    "}",
    "\"",
    "__metadata__",
    "\0\0\0\0",
];

struct Quiet;
impl Observer for Quiet {}

/// Trains a small model in the folder and returns its directory.
fn model(folder: &Path) -> PathBuf {
    let rows: String = (0..80).map(|k| format!("{},{},{}\n", k % 7, k % 3, k % 2)).collect();
    fs::write(folder.join("f.csv"), "x,c,y\n".to_owned() + &rows).unwrap();
    let text = "[data]\ntrain = 'f.csv'\nlabel = 'y'\ndense = [{ column = 'x' }]\n\
        categorical = [{ column = 'c' }]\n\
        [model]\nbottom_mlp = [2]\ntop_mlp = [2]\nappend_sparse = false\n[train]\nepochs = 1\n";
    let path = folder.join("m");
    let (run, _) = RunDir::create(&path).unwrap();
    let config = Config::parse(text).unwrap();
    Trainer::new(Cpu::on_current_thread(), config, folder, run, &mut Quiet)
        .unwrap()
        .run(&mut Quiet)
        .unwrap();
    path
}

/// Predicts with a model directory, if it can be opened.
fn predict(folder: &Path, path: &Path) {
    let Ok(mut model) = TrainedModel::open(Cpu::on_current_thread(), path) else { return };
    let visit = |probabilities: &[f32], _: &[f32], _| {
        assert!(probabilities.iter().all(|p| (0.0..=1.0).contains(p)), "{probabilities:?}");
        Ok::<(), TrainError>(())
    };
    // Rows that cannot be encoded are an error.
    let _ = model.predict([Source::from(folder.join("f.csv"))], LabelUse::Optional, None, visit);
}

#[test]
fn manifests() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let path = model(folder);
    let sample = fs::read(path.join("manifest.json")).unwrap();
    fuzz("manifests", &[sample], JSON, |bytes| {
        fs::write(path.join("manifest.json"), bytes).unwrap();
        if let Ok((_, manifest)) = ModelDir::open(&path) {
            assert_eq!(manifest.config.validate(), Ok(()));
            predict(folder, &path);
        }
    });
}

#[test]
fn model_files() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let path = model(folder);
    let (dir, manifest) = ModelDir::open(&path).unwrap();
    let name = manifest.files["best"].name.clone();
    let text = fs::read_to_string(path.join("manifest.json")).unwrap();
    let sample = fs::read(dir.file(&name)).unwrap();
    let entry = |bytes: &[u8]| {
        let mut manifest: serde_json::Value = serde_json::from_str(&text).unwrap();
        manifest["files"]["best"]["bytes"] = bytes.len().into();
        manifest["files"]["best"]["crc32"] = crc32fast::hash(bytes).into();
        manifest.to_string()
    };
    fuzz("model_files", &[sample], SAFETENSORS, |bytes| {
        fs::write(dir.file(&name), bytes).unwrap();
        fs::write(path.join("manifest.json"), entry(bytes)).unwrap();
        predict(folder, &path);
    });
}

#[test]
fn imported_files() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let path = model(folder);
    let stored = StoredModel::open(&path).unwrap();
    let sample = |dialect| {
        let mut bytes = Vec::new();
        stored.to_dialect(dialect, 0).unwrap().write(&mut bytes).unwrap();
        bytes
    };
    let samples = [Dialect::Dlrm, Dialect::TorchRec].map(sample);
    let (file, out) = (folder.join("file"), folder.join("new"));
    fuzz("imported_files", &samples, SAFETENSORS, |bytes| {
        fs::write(&file, bytes).unwrap();
        for dialect in [Dialect::Dlrm, Dialect::TorchRec] {
            let Ok(import) = Import::read(dialect, std::slice::from_ref(&file), &path) else {
                continue;
            };
            let (mut run, _) = RunDir::create(&out).unwrap();
            import.write(&mut run).unwrap();
            drop(run);
            TrainedModel::open(Cpu::on_current_thread(), &out).unwrap();
            predict(folder, &out);
            fs::remove_dir_all(&out).unwrap();
        }
    });
}

//! Tests of `train --from`: training that goes on from a model with new rows.

use std::fs;
use std::path::Path;

use safetensors::SafeTensors;

use crate::common::*;

/// A learning rate of 0 and no decay: parameters stay what they are.
const FROZEN: &str = "optimizer = { kind = \"sgd\", learning_rate = 0, weight_decay = \"none\" }\n";

/// Returns a project with a model in `old` and with rows in `new.csv`, whose pages and tags are
/// partly new, and the configuration `new.toml` for them.
fn project_with_new_rows() -> tempfile::TempDir {
    let folder = project(2000);
    succeed(folder.path(), &["train", "model.toml", "--quiet", "--epochs", "2", "--out", "old"]);
    let text = fs::read_to_string(folder.path().join("clicks.csv")).unwrap();
    let mut lines = text.lines();
    let head = lines.next().unwrap();
    let mut random = bagdot::Philox::new(8, 0);
    // p9 is new, and so is t99, which is in every third row. A click on p9 is likely.
    let rows: String = lines
        .enumerate()
        .map(|(k, line)| {
            let fields: Vec<&str> = line.split(',').collect();
            let age: u32 = fields[0].parse::<u32>().unwrap() + 40;
            let tag = if k % 3 == 0 { " t99" } else { "" };
            match k % 4 {
                0 => {
                    let label = u8::from(random.uniform() < 0.9);
                    format!("{age},p9,{}{tag},{label}\n", fields[2])
                }
                _ => format!("{age},{},{}{tag},{}\n", fields[1], fields[2], fields[3]),
            }
        })
        .collect();
    fs::write(folder.path().join("new.csv"), format!("{head}\n{rows}")).unwrap();
    fs::write(folder.path().join("new.toml"), CONFIG.replace("clicks.csv", "new.csv")).unwrap();
    folder
}

/// Returns the names, shapes and bytes of the tensors of a model.
fn tensors(model: &Path) -> Vec<(String, Vec<usize>, Vec<u8>)> {
    let best = manifest(model)["files"]["best"]["name"].as_str().unwrap().to_owned();
    let bytes = fs::read(model.join(best)).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let mut tensors: Vec<_> = tensors
        .iter()
        .map(|(name, view)| (name.to_owned(), view.shape().to_vec(), view.data().to_vec()))
        .collect();
    tensors.sort();
    tensors
}

#[test]
fn known_values_keep_their_rows() {
    let folder = project_with_new_rows();
    let folder = folder.path();
    let frozen = CONFIG.replace("clicks.csv", "new.csv") + FROZEN;
    fs::write(folder.join("frozen.toml"), frozen).unwrap();
    let arguments = ["train", "frozen.toml", "--quiet", "--epochs", "1", "--from", "old"];
    succeed(folder, &[&arguments[..], &["--out", "same"]].concat());
    let (old, new) = (tensors(&folder.join("old")), tensors(&folder.join("same")));
    assert_eq!(old.len(), new.len());
    let mut grown = Vec::new();
    for ((name, shape, bytes), (of_new, new_shape, new_bytes)) in old.iter().zip(&new) {
        assert_eq!(name, of_new);
        assert_eq!(bytes[..], new_bytes[..bytes.len()], "{name}");
        if shape != new_shape {
            assert_eq!(new_shape[0], shape[0] + 1, "{name}");
            assert!(new_bytes[bytes.len()..].iter().any(|&byte| byte != 0), "{name}");
            grown.push(name.as_str());
        }
    }
    let tables = [0, 1].map(|member| [0, 1].map(|k| format!("members.{member}.tables.{k}.weight")));
    assert_eq!(grown, tables.concat());
    // So nothing changes for rows without new values, and the statistics of numbers are the old
    // ones: the people of the new rows are forty years older.
    let predict = |model| succeed(folder, &["predict", model, "clicks.csv", "--quiet"]);
    assert_eq!(predict("same"), predict("old"));
    fs::write(folder.join("one.csv"), "age,page,tags\n30,p9,t1\n30,zz,t1\n").unwrap();
    let of = |model| succeed(folder, &["predict", model, "one.csv", "--quiet"]);
    let lines = |text: String| text.lines().map(str::to_owned).collect::<Vec<_>>();
    let (before, after) = (lines(of("old")), lines(of("same")));
    assert!(before[0] == before[1] && after[1] == before[1] && after[0] != after[1], "{after:?}");
}

#[test]
fn training_goes_on_as_a_run_of_its_own() {
    let folder = project_with_new_rows();
    let folder = folder.path();
    let arguments = ["train", "new.toml", "--quiet", "--epochs", "3", "--from", "old", "--out"];
    succeed(folder, &[&arguments[..], &["new"]].concat());
    let probability = |model: &str, row: &str| -> f64 {
        fs::write(folder.join("one.csv"), format!("age,page,tags\n{row}\n")).unwrap();
        succeed(folder, &["predict", model, "one.csv", "--quiet"]).trim().parse().unwrap()
    };
    // The new page has been learned; the old model does not know it.
    assert!(probability("new", "30,p9,t1") > probability("old", "30,p9,t1") + 0.2);
    // The result is a model as any other.
    assert!(succeed(folder, &["info", "new"]).contains("sparse: page (7 rows"));
    succeed(folder, &["eval", "new", "--quiet"]);
    succeed(folder, &["export", "new", "--format", "onnx", "--output", "x.onnx"]);
    // It may take the place of the old one, which is kept.
    let before = tensors(&folder.join("old"));
    succeed(folder, &[&arguments[..], &["old"]].concat());
    assert_eq!(tensors(&folder.join("old~1")), before);
    assert_eq!(tensors(&folder.join("old")), tensors(&folder.join("new")));
}

/// Checks that a run that is stopped goes on from the old parameters, also if it has no checkpoint.
#[cfg(unix)]
#[test]
fn a_run_from_a_model_resumes_to_the_same_bits() {
    let folder = project_with_new_rows();
    let folder = folder.path();
    let arguments = ["train", "new.toml", "--quiet", "--epochs", "6", "--from", "old", "--out"];
    succeed(folder, &[&arguments[..], &["straight"]].concat());
    let expected = result_of(&folder.join("straight"));
    // The run is killed when it has written its first model, and before its first checkpoint.
    let mut child = bagdot(folder).args([&arguments[..], &["killed"]].concat()).spawn().unwrap();
    while !folder.join("killed/manifest.json").exists() {
        assert!(child.try_wait().unwrap().is_none());
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let stopped = manifest(&folder.join("killed"));
    assert_eq!((&stopped["progress"]["step"], stopped["files"].get("state")), (&0.into(), None));
    succeed(folder, &[&arguments[..], &["killed", "--resume"]].concat());
    assert_eq!(result_of(&folder.join("killed")), expected);
}

#[test]
fn other_models_and_columns_are_refused() {
    let folder = project_with_new_rows();
    let folder = folder.path();
    for (from, to, expected) in [
        ("bottom_mlp = [8, 4]", "bottom_mlp = [8, 8]", "[model] of the configuration is not that"),
        ("members = 2", "members = 1", "it has 2 members, but `train.members` is 1"),
        ("{ column = \"page\" }, ", "", "data.categorical: this is not the setting of the model"),
        ("zscore", "none", "data.dense: this is not the setting"),
    ] {
        fs::write(folder.join("bad.toml"), CONFIG.replace(from, to)).unwrap();
        let (code, said) = fail(folder, &["train", "bad.toml", "--from", "old", "--out", "x"]);
        assert!(code == 1 && said.contains(expected), "{said}");
    }
    let (code, said) = fail(folder, &["train", "new.toml", "--from", "nothing", "--out", "x"]);
    assert!(code == 1 && said.contains("no model here"), "{said}");
    // A rare value may become frequent enough.
    let config = CONFIG.replace("clicks.csv", "new.csv");
    let config = config.replace("{ column = \"page\" }", "{ column = \"page\", min_count = 1000 }");
    fs::write(folder.join("rare.toml"), config).unwrap();
    succeed(folder, &["train", "rare.toml", "--quiet", "--from", "old", "--out", "rare"]);
    assert!(succeed(folder, &["info", "rare"]).contains("sparse: page (6 rows"));
}

#[test]
fn columns_may_be_named_by_patterns() {
    let folder = project_with_new_rows();
    let named = CONFIG.replace("clicks.csv", "new.csv");
    let by_pattern = named.replace("{ column = \"page\" }", "{ columns = \"pa*\" }");
    assert_ne!(by_pattern, named);
    fs::write(folder.path().join("pattern.toml"), &by_pattern).unwrap();
    let onward = |config| {
        let train = ["train", config, "--from", "old", "--quiet", "--epochs", "1", "--out", "run"];
        succeed(folder.path(), &train)
    };
    assert_eq!(onward("pattern.toml"), onward("new.toml"));
    for (setting, field) in
        [("missing_values = \"NA\"", "missing_values"), ("decimal = \",\"", "decimal")]
    {
        let other = named.replace("[data]\n", &format!("[data]\n{setting}\n"));
        fs::write(folder.path().join("other.toml"), other).unwrap();
        let (_, message) =
            fail(folder.path(), &["train", "other.toml", "--from", "old", "--out", "x"]);
        assert!(message.contains(&format!("data.{field}: this is not the setting")), "{message}");
    }
}

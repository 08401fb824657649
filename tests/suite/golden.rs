//! Tests that replay golden vectors: results of PyTorch, FBGEMM and facebookresearch/dlrm.
//!
//! Every `*.safetensors` file in the directory named by `BAGDOT_GOLDEN_DIR` (without it:
//! `tests/golden`) is replayed, case by case. The start of its name gives its kind. An unknown
//! file, field or value and an unread tensor are failures: a vector that is not compared proves
//! nothing.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use crate::replay::{Case, File, golden_directory};
use bagdot::Cpu;
use safetensors::tensor::{Dtype, TensorView};

#[test]
fn every_file_is_replayed() {
    replay_directory(&golden_directory());
}

#[cfg(feature = "cuda")]
mod cuda {
    #[test]
    fn trajectories_are_replayed() {
        let mut files = super::files(&super::golden_directory());
        files.retain(|file| file.name.starts_with("dlrm_traj"));
        assert!(!files.is_empty(), "there is no trajectory here");
        crate::common::cuda::on_every_schedule(|cuda| {
            files
                .iter()
                .flat_map(super::File::cases)
                .for_each(|case| crate::replay::trajectory::replay(&case, cuda));
        });
    }
}

fn cpu() -> Cpu {
    Cpu::with_threads(2).unwrap()
}

fn files(directory: &Path) -> Vec<File> {
    let entries = std::fs::read_dir(directory)
        .unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "safetensors"));
    paths.sort();
    assert!(!paths.is_empty(), "{}: there is no golden file here", directory.display());
    paths.iter().map(|path| File::read(path)).collect()
}

fn replay_directory(directory: &Path) {
    for file in files(directory) {
        let replay_case = match file.name.as_str() {
            name if name.starts_with("embedding_bag") => crate::replay::embedding_bag::replay,
            name if name.starts_with("interaction") => crate::replay::interaction::replay,
            name if name.starts_with("tbe_fused_optimizers") => {
                crate::replay::fused_optimizers::replay
            }
            name if name.starts_with("dlrm_traj") => {
                |case: &Case<'_>| crate::replay::trajectory::replay(case, &cpu())
            }
            name => panic!("{name}: this is no kind of golden file that is known here"),
        };
        file.cases().for_each(|case| {
            replay_case(&case);
            case.assert_all_fields_read();
        });
        file.assert_all_tensors_read();
        println!("{}: {} cases", file.name, file.num_cases());
    }
}

/// Writes a file with one case and replays it.
fn replay_written(name: &str, case: &str, tensors: &[(&str, Dtype, &[usize], &[u8])]) {
    let directory = tempfile::tempdir().unwrap();
    let views = tensors.iter().map(|&(name, dtype, shape, bytes)| {
        (name.to_string(), TensorView::new(dtype, shape.to_vec(), bytes).unwrap())
    });
    let metadata = HashMap::from([("cases".to_string(), format!("[{case}]"))]);
    let bytes = safetensors::serialize(views, Some(metadata)).unwrap();
    std::fs::write(directory.path().join(name), bytes).unwrap();
    replay_directory(directory.path());
}

const FLOATS: [u8; 64] = [0; 64];

/// Replays an interaction of two features of dimension 1 for one sample, all zeros.
fn replay_interaction(fields: &str, extra: &[(&str, Dtype, &[usize], &[u8])]) {
    let case =
        format!(r#"{{"id": "c00", "batch": 1, "features": 2, "dim": 1, "out_cols": 2, {fields}}}"#);
    let tensor = |name| (name, Dtype::F32, &[1, 1][..], &FLOATS[..4]);
    let (sparse, output) = (&[1, 1, 1][..], &[1, 2][..]);
    let mut tensors = vec![
        tensor("c00.dense"),
        tensor("c00.grad_dense"),
        ("c00.sparse", Dtype::F32, sparse, &FLOATS[..4]),
        ("c00.grad_sparse", Dtype::F32, sparse, &FLOATS[..4]),
        ("c00.out", Dtype::F32, output, &FLOATS[..8]),
        ("c00.grad_out", Dtype::F32, output, &FLOATS[..8]),
    ];
    tensors.extend_from_slice(extra);
    replay_written("interaction_small.safetensors", &case, &tensors);
}

#[test]
fn a_file_of_a_known_kind_may_have_another_name() {
    replay_interaction(r#""op": "dot", "itself": false"#, &[]);
}

#[test]
#[should_panic(expected = r#""op" is "cross", which is not known"#)]
fn an_unknown_value_is_refused() {
    replay_interaction(r#""op": "cross", "itself": false"#, &[]);
}

#[test]
#[should_panic(expected = r#"fields that nobody read: ["dropout"]"#)]
fn an_unknown_field_is_refused() {
    replay_interaction(r#""op": "dot", "itself": false, "dropout": 0.5"#, &[]);
}

#[test]
#[should_panic(expected = r#"tensors that nobody read: ["c00.bias"]"#)]
fn an_unknown_tensor_is_refused() {
    replay_interaction(
        r#""op": "dot", "itself": false"#,
        &[("c00.bias", Dtype::F32, &[2], &FLOATS[..8])],
    );
}

#[test]
#[should_panic(expected = "no tensor \"c00.indices\"")]
fn a_case_without_tensors_is_refused() {
    let case = r#"{"id": "c00", "num_embeddings": 2, "dim": 1, "batch": 1, "nnz": 0,
        "mode": "sum", "weighted": false, "include_last_offset": true, "index_dtype": "int64",
        "padding_idx": null}"#;
    replay_written(
        "embedding_bag_empty.safetensors",
        case,
        &[("c01.weight", Dtype::F32, &[1], &FLOATS[..4])],
    );
}

#[test]
#[should_panic(expected = "this is no kind of golden file that is known here")]
fn an_unknown_file_is_refused() {
    replay_written("attention.safetensors", "{}", &[]);
}

#[test]
#[should_panic(expected = "there is no case in it")]
fn a_file_without_cases_is_refused() {
    replay_written("interaction.safetensors", "", &[]);
}

#[test]
#[should_panic(expected = "there is no golden file here")]
fn an_empty_directory_is_refused() {
    replay_directory(tempfile::tempdir().unwrap().path());
}

//! Hand-written CUDA kernels and a fast CPU backend for deep-learning recommendation models (DLRM):
//! pooled embedding-bag lookup, pairwise dot interaction and sparse updates as single ops, a
//! trainable model made of them, and a program that trains, evaluates and serves click models.
//!
//! It needs no PyTorch, no Python and no GPU. Every op runs on the CPU ([`Cpu`]) and, with the
//! feature `cuda`, on a GPU (`Cuda`), by the same call.
//!
//! - [An op in ten lines](#an-op-in-ten-lines), [a model in twenty](#a-model-in-twenty-lines)
//! - [The modules](#the-modules), [the ops](#the-ops), [features](#features)
//! - [Guarantees](#guarantees): bits, allocation, synchronisation, errors
//! - [Coming from PyTorch, TorchRec, FBGEMM or dlrm](#coming-from-another-library)
//! - [Devices and precision](#devices-and-precision), [the program](#the-program)
//!
//! # An op in ten lines
//!
//! ```
//! use bagdot::ops::{Bags, MatrixMut, Pooling, Table, TableBatch, embedding_bag::Forward};
//!
//! let cpu = bagdot::Cpu::new()?;
//! let table = Table { num_embeddings: 1000, embedding_dim: 8 };
//! let tables = TableBatch::one_feature_each(vec![table; 2], Pooling::Sum)?;
//! let weights = vec![0.5_f32; tables.num_weights()];
//! // Two samples, key-major: the bags [7, 9] and [] of the first table, [7] and [3] of the second.
//! let bags = Bags::new(2, &[7_i64, 9, 7, 3], &[0_i64, 2, 2, 3, 4]);
//! let mut pooled = vec![0.0; 2 * tables.width()];
//! Forward::new(&tables, &weights, bags, MatrixMut::contiguous(&mut pooled, 2, 16)).run(&cpu)?;
//! # assert_eq!(pooled[..8], [1.0; 8]);
//! # Ok::<(), bagdot::Error>(())
//! ```
//!
//! [`ops::guide`] says how to embed the ops: the order of a step, memory, threads, streams, errors.
//! The slices may be anyone's. Large tables are faster in a buffer of the device
//! ([`ops::Device::alloc`]), which on the CPU begins at a cache line and lies in huge pages.
//!
//! # A model in twenty lines
//!
//! ```
//! use bagdot::nn::{BatchView, Dlrm, DlrmConfig, Optimizers};
//! use bagdot::ops::{Bags, Feature, Matrix, Optimizer, Pooling, Table};
//! use bagdot::{Cpu, Jagged};
//!
//! let config = DlrmConfig {
//!     num_dense: 2,
//!     bottom_mlp: vec![16, 8], // the last size is the dimension of the embeddings
//!     tables: vec![Table { num_embeddings: 1000, embedding_dim: 8 }],
//!     features: vec![Feature { table: 0, pooling: Pooling::Sum, padding_idx: None }],
//!     top_mlp: vec![16, 1],
//!     ..DlrmConfig::default()
//! };
//! let mut model = Dlrm::new(Cpu::new()?, config, 42)?;
//! model.optimize_with(Optimizers::same(Optimizer::Adagrad { eps: 1e-8 }, 0.05))?;
//!
//! // Three samples: two dense numbers each, and the bags [7, 9], [], [7] of ids.
//! let (dense, labels) = ([0.1_f32, 0.9, 0.4, 0.2, 0.7, 0.5], [1.0_f32, 0.0, 1.0]);
//! let ids = Jagged::from_lengths(vec![7_i64, 9, 7], &[2, 0, 1], 3)?;
//! let dense = Matrix::contiguous(&dense, 3, 2);
//! let batch = BatchView::new(dense, Bags::from(&ids)).labels(&labels);
//! for _ in 0..100 {
//!     model.train_step(batch)?;
//! }
//! let mut probabilities = [0.0; 3];
//! model.predict(batch, &mut probabilities)?;
//! assert!(probabilities[0] > 0.9 && probabilities[1] < 0.1 && probabilities[2] > 0.9);
//! # Ok::<(), bagdot::Error>(())
//! ```
//!
//! # The modules
//!
//! | module | it has |
//! |---|---|
//! | [`ops`] | each op once: maths, arguments, checks; tables, bags, views, [`ops::Device`] |
//! | [`ops::guide`] | embedding the ops: a step, memory, threads, streams, errors |
//! | [`nn`] | the engine: layers, tables, [`nn::Dlrm`], optimizers, steps, staging of batches |
//! | [`backend`] | the CPU, and CUDA with streams and memory of the caller's own |
//! | `testing` | references, tolerances and cases for tests of kernels (feature `testing`) |
//! | `data` | from text to batches: readers, encoders, splits (feature `train`) |
//! | `train` | training loop, metrics, checkpoints, report (feature `train`) |
//! | `cli` | the `bagdot` program (feature `cli`) |
//!
//! [`Jagged`] is a batch of ids on the host, in the layout of TorchRec's `KeyedJaggedTensor`;
//! [`Philox`] is the counter-based generator that all random numbers come from.
//!
//! # The ops
//!
//! All of them run on the CPU and on CUDA. The page of an op has its formula, source and numerics.
//!
//! - [`ops::embedding_bag`]: pooled vectors of bags, and the gradient of per-sample weights. Tables
//!   of f32, f16 or bf16, ids of i32, i64 or u32, offsets of
//!   another type or of none; sum, mean, max; per-sample weights, padding, empty
//!   bags, shared tables, mixed dimensions, all tables in one call.
//! - [`ops::index_sort`]: the order of the ids of a batch, for every op that needs it.
//! - [`ops::sparse_update`]: gradients of rows, kept or applied at once. SGD, Adagrad, row-wise
//!   Adagrad, Adam; weight decay (L2, decoupled), clamping, stochastic rounding, merging of the
//!   gradients of several batches.
//! - [`ops::interaction`]: dot products of all pairs, forward and backward; both pair orders in
//!   use, with self, with the vectors appended, padded; or the concatenation. Elements of f32, f16
//!   or bf16; on CUDA products of f32 are exact or in tf32. Features in one block or in two.
//! - [`ops::pooled_interaction`]: lookup and interaction at once. On the CPU pooled vectors stay in
//!   the cache; on CUDA it is the two ops.
//! - [`ops::linear`]: a layer, forward and backward, with ReLU and accumulation; f32 (exact or
//!   tf32), f16, bf16, with gradients of parameters in f32. On the CPU weights can be packed once.
//! - [`ops::loss`]: loss and gradient in one pass, with sums in f64. Binary cross-entropy of
//!   logits, weighted or not, squared error; a threshold of probabilities.
//! - [`ops::head`]: the last layer of a model, which has one output; in training with the loss of
//!   its logits and all gradients, in one pass.
//! - [`ops::cast`]: f32, f16, bf16, any to any, with a power of two as a factor.
//! - [`ops::dense_update`]: the same optimizers for layers, with a copy in f16 or bf16.
//! - [`ops::moving_average`]: the average of parameters.
//! - [`ops::finite_check`]: stops or skips a step that is not finite.
//!
//! # Features
//!
//! | feature | default | it adds |
//! |---|---|---|
//! | `cli` | yes | the `bagdot` program; implies `train` |
//! | `cuda` | yes | the CUDA backend; needs a driver at run time only, nvcc at build time only |
//! | `train` | by `cli` | readers, encoders, training loop, checkpoints; implies `serde` |
//! | `serde` | by `train` | `Serialize` and `Deserialize` for what describes ops and models |
//! | `testing` | no | references in f64, tolerances, awkward cases, for tests of your own kernels |
//!
//! With `default-features = false` there are the ops, the CPU backend and the engine, which is all
//! that a trainer of your own needs; on a GPU add `features = ["cuda"]`.
//!
//! # Guarantees
//!
//! **The same bits.** Results are the same bits on every run and for any number of threads: work is
//! split by rows or bags, never inside a sum, and no kernel adds floats by atomics.
//! `embedding_bag`, `index_sort`, `sparse_update`, `dense_update` and `cast` give the same bits on
//! CPU and CUDA. They do not depend on the instruction set either ([`Simd`]), with one exception:
//! matrix products on a CPU that multiplies bf16 (AVX512-BF16, AMX). Where cuBLASLt computes
//! products of layers, their bits depend on its version and on the device.
//!
//! **No allocation.** An op allocates no buffers; on the CPU, `sparse_update` makes a list of its
//! tasks. Outputs and workspace are the caller's;
//! `workspace_len` says how large the latter must be. [`nn::Dlrm`] makes its buffers for the
//! largest batch so far, and a step with a batch no larger allocates nothing. Models that do not
//! fit into memory are refused before anything is allocated.
//!
//! **No synchronisation.** An op never waits for the device. On CUDA ops run in the order of their
//! calls on one stream, the backend's own or yours; [`ops::Device::synchronize`] waits. A step of
//! training becomes one CUDA graph ([`nn::Dlrm::train_staged`]), replayed for each batch while the
//! next one travels.
//!
//! **Errors, not panics.** Wrong shapes and settings are errors before anything is written. Every
//! id is checked: a bad one contributes nothing, and is an error with table, bag, position and
//! value ([`Error::IndexOutOfRange`]), on the CPU from the call, on CUDA from the call or from the
//! next `synchronize`. A step of training with a bad id changes nothing; so does a step with a
//! label outside [0, 1] ([`Error::LabelOutOfRange`]). No input makes the library panic, and no id
//! is bent to another row.
//!
//! # Coming from another library
//!
//! | their call | ours |
//! |---|---|
//! | `torch.nn.EmbeddingBag`, `F.embedding_bag` | [`ops::embedding_bag::Forward`] |
//! | … `offsets`, with `include_last_offset=True` | [`ops::Bags::new`] |
//! | … `offsets` without the last | [`ops::Bags::from_starts`] |
//! | … a 2-D input | [`ops::Bags::of_length`] |
//! | … `mode`, `padding_idx` | [`ops::Feature::pooling`], [`ops::Feature::padding_idx`] |
//! | … `per_sample_weights` | [`ops::Bags::weighted`] |
//! | … their gradient | [`ops::embedding_bag::WeightGrad`] |
//! | … `sparse=True` | [`ops::sparse_update::Reduce`] makes a [`ops::sparse_update::SparseGrad`] |
//! | … `optimizer.step()` on its rows | [`ops::sparse_update::step`] |
//! | TorchRec `KeyedJaggedTensor` | [`Jagged`] on the host, [`ops::Bags`] on a device |
//! | … its `values` and `lengths` | [`Jagged::from_lengths`] |
//! | TorchRec `EmbeddingBagCollection` | [`ops::TableBatch`], [`nn::EmbeddingBagCollection`] |
//! | TorchRec `InteractionArch` | [`ops::interaction`], [`ops::PairOrder::UpperTriangle`] |
//! | TorchRec `DLRM`, dlrm `DLRM_Net` | [`nn::Dlrm`] with [`nn::DlrmConfig`] |
//! | dlrm `interact_features` | [`ops::interaction`], [`ops::PairOrder::LowerTriangle`] |
//! | … `arch_interaction_itself` | `include_self` of [`ops::Interaction::Dot`] |
//! | … `arch_interaction_op="cat"` | [`ops::Interaction::Cat`] |
//! | … tables that are tensors of their own | [`ops::SeparateTables`] |
//! | FBGEMM `SplitTableBatchedEmbeddingBagsCodegen` | [`ops::TableBatch`] and these ops: |
//! | … its forward pass | [`ops::embedding_bag::Forward`] |
//! | … its backward pass and step: the sort of ids | [`ops::index_sort::Sort`] |
//! | … and the rest, fused with the optimizer | [`ops::sparse_update::Update`] |
//! | … `OptimType.EXACT_SGD` | [`ops::Optimizer::Sgd`] |
//! | … `OptimType.EXACT_ADAGRAD` | [`ops::Optimizer::Adagrad`] |
//! | … `OptimType.EXACT_ROWWISE_ADAGRAD` | [`ops::Optimizer::RowwiseAdagrad`] |
//! | … `OptimType.ADAM` | [`ops::Optimizer::Adam`] |
//! | … `WeightDecayMode.L2` | [`ops::WeightDecay::L2`] |
//! | … `WeightDecayMode.DECOUPLE` | [`ops::WeightDecay::Decoupled`] |
//! | … `stochastic_rounding` | [`ops::Rounding::Stochastic`] |
//! | … `max_gradient` | [`ops::sparse_update::PooledGrad::max_gradient`] |
//! | … `bounds_check_indices` | every op that reads ids: [`Error::IndexOutOfRange`] |
//! | `torch.nn.Linear`, `torch.nn.ReLU` | [`ops::linear`] with [`ops::Activation::Relu`] |
//! | `F.binary_cross_entropy_with_logits` | [`ops::loss`] with [`ops::Loss::BceWithLogits`] |
//! | `torch.optim.SGD`, `Adagrad`, `Adam` on layers | [`ops::dense_update`] |
//! | `torch.optim.SparseAdam` | [`ops::Optimizer::Adam`] in [`ops::sparse_update`] |
//! | `torch.optim.AdamW` | [`ops::Optimizer::Adam`] with [`ops::WeightDecay::Decoupled`] |
//! | several batches in one step | [`ops::sparse_update::Merge`], [`nn::Dlrm::apply`] |
//! | `AveragedModel` with an EMA | [`ops::moving_average`], [`nn::Dlrm::average_with`] |
//! | `GradScaler` | `loss_scale` of [`nn::ComputePrecision::F16`] |
//! | … its `found_inf` | [`ops::finite_check`] |
//! | `torch.autocast` | [`nn::ComputePrecision`] |
//! | `torch.cuda.graph` | [`nn::Dlrm::train_staged`] |
//!
//! There is no tensor type and no autograd: a backward pass is an op that you call. `eps` has no
//! default, since these libraries differ; see [`ops::Optimizer`], whose formulas are FBGEMM's.
//!
//! # Devices and precision
//!
//! **The CPU.** Loops are compiled for AVX-512, AVX2 and the baseline; the best that the machine
//! has is chosen at run time ([`Cpu::with_simd`] takes another). Products of bf16 use AVX512-BF16
//! or, where the machine has it, AMX; there each product of f32 runs as six products of bf16, whose
//! sum keeps the error bound of f32.
//!
//! **CUDA.** A GPU of compute capability 8.0 or later and a driver for CUDA 11.4 or later (R470)
//! are all that a program needs. Kernels are compiled for compute capability 8.0, 9.0, 10.0 and
//! 12.0, for 8.0 and 9.0 once more for drivers of CUDA 12 (from R525 on), and as PTX, which the
//! driver compiles, for all other devices and drivers. The build uses nvcc 13.0 if it finds it,
//! else the images that the package carries; without either, the crate builds for the CPU and says
//! so.
//!
//! **Products of layers on CUDA** are computed by bagdot's kernels. If cuBLASLt can be loaded,
//! `Gemm::Auto` (the default, `--gemm auto`) uses it for the products that it was measured to be
//! faster at: with no side below 64, the forward pass in tf32, bf16 and f16, and the backward pass
//! in 16 bits with rows at multiples of 16 bytes, as models have them. `--gemm own` and `--gemm
//! cublaslt` force one of the two.
//!
//! **Precision.** With bf16, f16 (with a loss scale) or tf32 as [`nn::ComputePrecision`]
//! (`precision` in `[model]`), the layers compute in that type, on both devices. The parameters,
//! which are saved, their gradients, the embedding bags and the last layer stay in f32, so that
//! models move between precisions, and between CPU and GPU.
//!
//! # The program
//!
//! `bagdot train CONFIG.toml` trains a model, `eval` measures it on other rows, `predict` prints a
//! probability for each row, `info` says what a model or the machine has (`info --memory` what
//! memory a training needs), and `generate` writes synthetic rows. `--device cuda` runs on a GPU.
//!
//! `export` writes a model as ONNX, or its parameters by the names of facebookresearch/dlrm or
//! TorchRec; `import` takes such parameters back, and `encode` writes rows as the inputs of these
//! models (`StoredModel`, `Import` and `EncodedRows` in `train`).
//!
//! It reads delimited text (quoted; packed with gzip or zstd) and Criteo logs, with dense,
//! categorical and multi-valued columns, joins, derived columns, and splits by hash, time or file.
//! It measures AUC (exact), log-loss, normalised entropy, calibration and accuracy, and writes
//! `report.html`.
//!
//! Ctrl-C leaves a checkpoint; `--resume` continues from it and ends with the same bits as a run
//! that never stopped. On a GPU the host reads losses and predictions every 16 steps.
//!
//! Bad input gives a clear error, and nothing is lost. A bad row gives file, line and column; a
//! quote that is never closed gives its line; a file that is not text, not whole, or changes while
//! it is read is named; a damaged model is refused. A model stays in use until the run that
//! replaces it has one of its own, and an output replaces a file only when it is whole. Values that
//! training has not seen, such as ids in another spelling, and keys that a side table lacks are
//! counted and reported; with `max_unknown` in `[data]` they are an error.
//!
//! Not there yet: quantised tables; several devices.

#![cfg_attr(docsrs, feature(doc_cfg))]

pub mod backend;
#[cfg(feature = "cli")]
pub mod cli;
#[cfg(feature = "train")]
pub mod data;
mod dtype;
mod error;
mod jagged;
pub mod nn;
pub mod ops;
mod philox;
mod simd;
mod size;
#[cfg(feature = "testing")]
pub mod testing;
#[cfg(feature = "train")]
pub mod train;

pub use backend::cpu::{Cpu, Simd};
#[cfg(feature = "cuda")]
pub use backend::cuda::Cuda;
pub use dtype::{DType, Element, Index, Scalar, bf16, f16};
pub use error::{Error, OffsetRule, Result};
pub use jagged::{Jagged, check_offsets};
pub use philox::{Philox, philox4x32};

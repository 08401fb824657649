//! Embedding bagdot: how a trainer of your own calls the ops.
//!
//! # The order of a step
//!
//! | | op | it reads | it writes |
//! |---|---|---|---|
//! | 1 | [`embedding_bag::Forward`] | tables, ids | pooled vectors, sources of maxima |
//! | 2 | [`interaction::Forward`] | dense and pooled vectors | pairs |
//! | 3 | [`linear::Forward`], for each layer | activations, weights | activations |
//! | 4 | [`loss::Forward`] | logits, labels | mean loss, gradient of the logits |
//! | 5 | [`linear::Backward`], [`interaction::Backward`] | what 2 to 4 read and wrote | gradients |
//! | 6 | [`dense_update::Update`] | gradients of layers | parameters and state of layers |
//! | 7 | [`index_sort::Sort`] | ids | the order of the ids |
//! | 8 | [`sparse_update::Update`] | order, ids, gradient of pooled vectors | rows, their state |
//!
//! [`sparse_update::step`] is 7 and 8 in one call. The sort depends on the ids alone: it may run at
//! any time before 8, beside other work. [`pooled_interaction`] is 1 and 2 in one op.
//! [`embedding_bag::WeightGrad`], the gradient of per-sample weights, reads the rows before 8
//! changes them. A trainer may take any of these ops alone and compute the rest itself.
//!
//! ```
//! use bagdot::Cpu;
//! use bagdot::ops::sparse_update::{self, Scratch};
//! use bagdot::ops::{Bags, Optimizer, OptimizerState, Pooling, Table, TableBatch, UpdateRule};
//!
//! let cpu = Cpu::on_current_thread();
//! let optimizer = Optimizer::Adam { beta1: 0.9, beta2: 0.999, eps: 1e-8 };
//! let table = Table { num_embeddings: 3, embedding_dim: 2 };
//! let tables = TableBatch::one_feature_each(vec![table], Pooling::Sum)?;
//! let mut weights = vec![0.5_f32; tables.num_weights()];
//! let mut state = OptimizerState::of_tables(&cpu, optimizer, &tables)?;
//! let mut scratch = Scratch::new(&cpu)?;
//! // Two samples, whose bags are [2] and [0, 2], and the gradient of their pooled vectors.
//! let bags = Bags::new(2, &[2_u32, 0, 2], &[0_i32, 1, 3]);
//! let (grad, rule) = ([1.0, 1.0, 1.0, 1.0], UpdateRule::new(optimizer, 0.1));
//! for _ in 0..3 {
//!     let (w, s) = (&mut weights, &mut state);
//!     sparse_update::step(&cpu, &tables, bags, &grad, rule, w, s, &mut scratch)?;
//! }
//! // The state counts the steps, on which Adam's correction depends. Row 1 has no gradient.
//! assert_eq!((state.steps(), &weights[2..4]), (3, &[0.5, 0.5][..]));
//! # Ok::<(), bagdot::Error>(())
//! ```
//!
//! # Memory
//!
//! An op reads and writes what you pass, and never allocates. On the CPU that is any slice, array,
//! `Vec` or [`Buffer`](crate::backend::cpu::Buffer), by reference. On CUDA it is a
//! `backend::cuda::Buffer`, or an address on the device (`View::from_raw`), as of another library.
//!
//! Rows of a table that begin at a cache line touch the fewest lines, and random rows cost by the
//! line: a row of 64 `f32` is 4 lines, or 5 if it begins elsewhere. Large blocks of glibc's
//! `malloc` begin 16 bytes behind a page, so that every row of a large `Vec` begins elsewhere. A
//! buffer of the device ([`Device::alloc`], [`Device::to_device`]) begins at a cache line and lies
//! in huge pages where the system has them. It derefs to a slice, so that the rest of a program
//! need not know.
//!
//! The tables of a call lie in one block of weights, one table after another
//! ([`TableBatch::weight_offsets`]). State has the same layout; of row-wise state there is a value
//! for each row ([`TableBatch::row_offsets`]). Or each table has memory of its own, with a leading
//! dimension: [`SeparateTables`] take a matrix for each table where an op takes weights, and
//! [`SeparateTablesMut`] where it changes weights or state. One call, and on CUDA one launch, still
//! does for all tables, and nothing is copied.
//!
//! A workspace may be shared by ops that run one after another, on one stream or thread; what it
//! holds before an op does not matter, and afterwards it is unspecified. `workspace_len` gives its
//! size in words of 8 bytes for the largest batch. The order of a batch
//! ([`SortedIndices`](super::index_sort::SortedIndices)) must stay until its updates have run. Its
//! buffers, and those of a [`SparseGrad`](super::sparse_update::SparseGrad), may be memory of
//! yours, too: `Buffer::from_raw` of each backend makes buffers of it for `with_buffers`.
//!
//! # Lifetimes
//!
//! Views and [`Bags`] are `Copy` and borrow as slices do. A batch may be a field of a struct, and
//! several ops may take it. Only an output is borrowed exclusively, for the time of the call; pass
//! `&mut *output` if it is a `&mut [f32]` that you use again.
//!
//! ```
//! use bagdot::Cpu;
//! use bagdot::ops::Bags;
//! struct Batch<'a> {
//!     bags: Bags<'a, Cpu, u32>,
//!     labels: &'a [f32],
//! }
//! ```
//!
//! Code for any device takes `D: Backend`, owns `D::Buffer<T>` and `D::Tables`, and views buffers
//! by [`Device::view`] and [`Device::view_mut`]:
//!
//! ```
//! use bagdot::ops::{Backend, Bags, Device, MatrixMut, embedding_bag};
//! struct Tables<D: Backend> {
//!     tables: D::Tables,
//!     weights: D::Buffer<f32>,
//! }
//! impl<D: Backend> Tables<D> {
//!     fn pool(
//!         &self,
//!         device: &D,
//!         bags: Bags<'_, D, i64>,
//!         out: &mut D::Buffer<f32>,
//!     ) -> bagdot::Result<()> {
//!         let (rows, width) = (bags.batch_size, self.tables.as_ref().width());
//!         let out = MatrixMut::contiguous(D::view_mut(out), rows, width);
//!         embedding_bag::Forward::new(&self.tables, D::view(&self.weights), bags, out).run(device)
//!     }
//! }
//! ```
//! Arguments are checked in `run`; `validate` does the same without running anything.
//!
//! # Checkpoints
//!
//! Weights are yours. [`OptimizerState::view_mut`] gives the state as views: slices on the CPU,
//! buffers for [`Device::download`] and [`Device::upload`] elsewhere. Continue with
//! [`UpdateRule::at_step`], since Adam and stochastic rounding depend on the number of the step.
//!
//! # Threads
//!
//! An op of [`Cpu`](crate::Cpu) runs on its threads and returns when it is done; a small one runs
//! where it is called. `Cpu` is cheap to clone, and its clones share the threads.
//! - [`Cpu::on_global_pool`](crate::Cpu::on_global_pool) takes rayon's global pool, which candle,
//!   burn and polars use, [`Cpu::with_pool`](crate::Cpu::with_pool) another one that you have. Two
//!   pools of busy threads side by side cost both dearly.
//! - [`Cpu::install`](crate::Cpu::install) runs a closure on a thread of the pool; the ops that it
//!   calls start without waking one.
//! - [`Cpu::on_current_thread`](crate::Cpu::on_current_thread) uses the calling thread: many of
//!   them may call ops at once.
//!
//! Results are the same bits in each case.
//!
//! # Streams
//!
//! An op of `Cuda` is launched on its stream and returns at once. `Cuda::on_stream` takes a stream
//! of yours, and `Cuda::on` makes a backend for another one, which shares the loaded kernels; order
//! work on different streams by events. With the feature `cudarc-0_19`, streams and slices of
//! cudarc are taken as they are, and ordered. The context that was current in the thread is
//! current again after a call.
//!
//! [`Device::synchronize`] waits, and reports what the kernels have found. `Cuda::poll` reports
//! what is known by now, without waiting, and `Cuda::fault_count` is the address of the number of
//! faults, for kernels of your own.
//!
//! Ops may be captured in a graph and replayed, with addresses and sizes as they were: let ids have
//! slack ([`Bags::with_slack`]), and values that change be read from the device ([`StepControl`]).
//! Meanwhile calls that wait or allocate are refused
//! ([`Error::Recording`](crate::Error::Recording)), since they would end the capture. Keep tables,
//! [`SeparateTables`] and buffers as long as a graph of yours that names them, and replay graphs of
//! one backend one after another: its kernels share a few counters.
//!
//! # Errors
//!
//! A wrong size, type or setting is an error before anything is written, with the name of the op
//! and of the argument. Ids, offsets and labels are checked where they are read, and their errors
//! give op, position and value. A bad id adds nothing to its bag, all others are pooled, and the
//! error names table and bag, too.
//! On the CPU it is the result of the call, on CUDA that of the next [`Device::synchronize`], after
//! which the device goes on as before. The order of a batch with a bad id is complete for the
//! others: do not update with it if a bad batch is to change nothing.
//!
//! [`Bags`]: super::Bags
//! [`Bags::with_slack`]: super::Bags::with_slack
//! [`Device::alloc`]: super::Device::alloc
//! [`Device::synchronize`]: super::Device::synchronize
//! [`Device::to_device`]: super::Device::to_device
//! [`SeparateTables`]: super::SeparateTables
//! [`SeparateTablesMut`]: super::SeparateTablesMut
//! [`StepControl`]: super::StepControl
//! [`TableBatch::row_offsets`]: super::TableBatch::row_offsets
//! [`TableBatch::weight_offsets`]: super::TableBatch::weight_offsets
//! [`dense_update::Update`]: super::dense_update::Update
//! [`embedding_bag::Forward`]: super::embedding_bag::Forward
//! [`embedding_bag::WeightGrad`]: super::embedding_bag::WeightGrad
//! [`index_sort::Sort`]: super::index_sort::Sort
//! [`interaction::Backward`]: super::interaction::Backward
//! [`interaction::Forward`]: super::interaction::Forward
//! [`linear::Backward`]: super::linear::Backward
//! [`linear::Forward`]: super::linear::Forward
//! [`loss::Forward`]: super::loss::Forward
//! [`pooled_interaction`]: super::pooled_interaction
//! [`sparse_update::Update`]: super::sparse_update::Update
//! [`sparse_update::step`]: super::sparse_update::step
//! [`Device::view`]: super::Device::view
//! [`Device::view_mut`]: super::Device::view_mut
//! [`Device::download`]: super::Device::download
//! [`Device::upload`]: super::Device::upload
//! [`OptimizerState::view_mut`]: super::OptimizerState::view_mut
//! [`UpdateRule::at_step`]: super::UpdateRule::at_step

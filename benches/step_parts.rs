//! The parts of a training step of published models, on batches that are on the device.
//!
//! `step_until` is a step that ends early: after the forward pass, after the backward pass and the
//! sort of the ids, or not at all. The differences are times of parts within a step; the engine
//! offers no finer cut. `step_part` measures the ops of a step one by one, by themselves, at the
//! shapes that the model calls them with: they do not find in the cache what the op before left
//! there, so that their sum is not the time of a step.
#![allow(clippy::unwrap_used)]

mod common;

use bagdot::nn::ComputePrecision;
use bagdot::ops::cast::Cast;
use bagdot::ops::finite_check::{Check, NonFinite, Verdict};
use bagdot::ops::index_sort::{Sort, SortedIndices};
use bagdot::ops::interaction::{self, Features, FeaturesMut};
use bagdot::ops::sparse_update::{self, PooledGrad};
use bagdot::ops::{
    Accum, Activation, Backend, Device, Matrix, MatrixMut, Optimizer, OptimizerStateMut, Precision,
    TableBatch, UpdateRule, dense_update, embedding_bag, linear, loss,
};
use bagdot::{DType, Element, bf16};
use common::model::{DeviceBatch, HostBatch, Model, published};
use common::{Ids, Timed, drawn, group, measure_samples, upload};
use criterion::Criterion;

common::benchmark_on_every_device!(parts);

/// The number of batches that are taken in turn.
const SETS: usize = 4;

fn parts<B: Timed + Backend>(criterion: &mut Criterion, device: &B) {
    for model in published::<B>() {
        for &precision in B::PRECISIONS {
            until(criterion, device, &model, precision);
            // In 16 bits the products of the interaction are of tf32.
            let (full, tf32) = (Precision::Full, Precision::Tf32);
            match precision {
                ComputePrecision::F32 => {
                    single_ops::<B, f32>(criterion, device, &model, precision, [full, full]);
                }
                ComputePrecision::Tf32 => {
                    single_ops::<B, f32>(criterion, device, &model, precision, [tf32, tf32]);
                }
                ComputePrecision::BF16 => {
                    single_ops::<B, bf16>(criterion, device, &model, precision, [full, tf32]);
                }
                ComputePrecision::F16 { .. } => {}
            }
        }
    }
}

fn batches<B: Timed>(device: &B, model: &Model) -> Vec<DeviceBatch<B>> {
    (0..SETS).map(|set| HostBatch::new(model, Ids::Uniform, set).upload(device)).collect()
}

/// The end of a step that ends early.
#[derive(Clone, Copy)]
enum End {
    Forward,
    Backward,
    Step,
}

fn until<B: Timed + Backend>(
    criterion: &mut Criterion,
    device: &B,
    model: &Model,
    precision: ComputePrecision,
) {
    let shape = model.shape(Ids::Uniform, precision);
    let mut inputs = None;
    let ends = [("forward", End::Forward), ("backward", End::Backward), ("step", End::Step)];
    for (name, end) in ends {
        let name = format!("{shape} {name}");
        let mut group = group(criterion, device, "step_until");
        measure_samples(&mut group, device, (&name, model.batch_size), SETS, |set| {
            let (dlrm, batches, logits) = inputs.get_or_insert_with(|| {
                let logits = device.alloc::<f32>(model.batch_size).unwrap();
                (model.build(device, precision), batches(device, model), logits)
            });
            let batch = batches[set].view(model);
            match end {
                End::Forward => dlrm.logits_on_device(batch, B::view_mut(logits)),
                End::Backward => dlrm.loss_and_grad(batch, Accum::Replace),
                End::Step => dlrm.train_step(batch),
            }
            .unwrap();
        });
    }
}

/// An op of a step, or all of its calls of one kind.
#[derive(Clone, Copy)]
enum Part {
    EmbeddingBag,
    InteractionForward,
    LayersForward,
    LogitForward,
    Loss,
    LogitBackward,
    LayersBackward,
    InteractionBackward,
    Casts,
    IndexSort,
    FiniteCheck,
    SparseUpdate,
    DenseUpdate,
}

const PARTS: [(&str, Part); 13] = [
    ("embedding_bag", Part::EmbeddingBag),
    ("interaction_forward", Part::InteractionForward),
    ("layers_forward", Part::LayersForward),
    ("logit_forward", Part::LogitForward),
    ("loss", Part::Loss),
    ("logit_backward", Part::LogitBackward),
    ("layers_backward", Part::LayersBackward),
    ("interaction_backward", Part::InteractionBackward),
    ("casts", Part::Casts),
    ("index_sort", Part::IndexSort),
    ("finite_check", Part::FiniteCheck),
    ("sparse_update", Part::SparseUpdate),
    ("dense_update", Part::DenseUpdate),
];

/// Measures the ops of a step. Layers compute in `E`; the precisions are those of the products of
/// f32 in layers and in the interaction.
fn single_ops<B: Timed + Backend, E: Element>(
    criterion: &mut Criterion,
    device: &B,
    model: &Model,
    precision: ComputePrecision,
    precisions: [Precision; 2],
) {
    let shape = model.shape(Ids::Uniform, precision);
    let mut step = None;
    for (name, part) in PARTS {
        if matches!(part, Part::Casts) && E::DTYPE == DType::F32 {
            continue;
        }
        let name = format!("{shape} {name}");
        let mut group = group(criterion, device, "step_part");
        measure_samples(&mut group, device, (&name, model.batch_size), SETS, |set| {
            let step = step.get_or_insert_with(|| Step::<B, E>::new(device, model, precisions));
            step.run(device, model, part, set);
        });
    }
}

/// The operands of the ops of a step.
struct Step<B: Device, E: Element> {
    precisions: [Precision; 2],
    batches: Vec<DeviceBatch<B>>,
    tables: B::Tables,
    weights: B::Buffer<f32>,
    sorted: Vec<SortedIndices<B>>,
    /// The pooled vectors, and their gradient.
    pooled: [B::Buffer<f32>; 2],
    /// The output of the bottom MLP, and its gradient.
    dense: [B::Buffer<f32>; 2],
    /// The output of the interaction, and its gradient.
    interacted: [B::Buffer<f32>; 2],
    /// The layers of both MLPs but the last one.
    layers: Vec<Layer<B, E>>,
    logit: Layer<B, f32>,
    /// The matrices that are converted to E, and those that are converted from E, of so many
    /// columns.
    casts: [Vec<usize>; 2],
    /// Room for the largest of these.
    cast: (B::Buffer<f32>, B::Buffer<E>),
    /// The parameters of the layers, their gradient and their copy.
    parameters: [B::Buffer<f32>; 2],
    rounded: B::Buffer<E>,
    mean: B::Buffer<f64>,
    verdict: B::Buffer<u64>,
    workspace: B::Buffer<u64>,
}

impl<B: Timed + Backend, E: Element> Step<B, E> {
    fn new(device: &B, model: &Model, precisions: [Precision; 2]) -> Self {
        let (m, config) = (model.batch_size, &model.config);
        let layout = TableBatch::new(config.tables.clone(), config.features.clone()).unwrap();
        let (dim, num_indices) = (layout.max_dim(), m * layout.features().len());
        let sorted = |_| SortedIndices::new(device, num_indices, num_indices).unwrap();
        let (width, pooled) = (config.interaction_width(), layout.width());
        let both = |columns: usize, seed: u64| {
            [seed, seed + 1].map(|seed| drawn::<B, f32>(device, m * columns, seed))
        };

        let bottom: Vec<usize> =
            [config.num_dense].into_iter().chain(config.bottom_mlp.iter().copied()).collect();
        let top: Vec<usize> = [width].into_iter().chain(config.top_mlp.iter().copied()).collect();
        let (&logits, hidden) = top.split_last().unwrap();
        let mut layers: Vec<Layer<B, E>> = vec![];
        for (sizes, is_bottom) in [(&bottom[..], true), (hidden, false)] {
            for (k, pair) in sizes.windows(2).enumerate() {
                let has_grad_input = !is_bottom || k > 0;
                layers.push(Layer::new(device, m, [pair[1], pair[0]], has_grad_input));
            }
        }
        let last = *hidden.last().unwrap();
        let logit: Layer<B, f32> = Layer::new(device, m, [logits, last], true);
        let num_parameters =
            layers.iter().map(Layer::num_parameters).sum::<usize>() + logit.num_parameters();
        let to_layers = vec![config.num_dense, width, last, dim];
        let from_layers = vec![dim, last, width];
        let most = to_layers.iter().chain(&from_layers).max().unwrap() * m;

        let workspace = [
            Sort::<B, i64>::workspace_len(device, &layout, num_indices),
            sparse_update::Update::<B, f32, i64>::workspace_len(device, &layout, num_indices),
            loss::Forward::<B>::workspace_len(device, m),
            layers.iter().map(|layer| layer.workspace_len(device)).max().unwrap_or(0),
            logit.workspace_len(device),
        ];
        let mut step = Self {
            precisions,
            batches: batches(device, model),
            weights: drawn(device, layout.num_weights(), 1),
            sorted: (0..SETS).map(sorted).collect(),
            pooled: both(pooled, 2),
            dense: both(dim, 4),
            interacted: both(width, 6),
            layers,
            logit,
            casts: [to_layers, from_layers],
            cast: (drawn(device, most, 8), device.alloc(most).unwrap()),
            parameters: [9, 10].map(|seed| drawn(device, num_parameters, seed)),
            rounded: device.alloc(num_parameters).unwrap(),
            mean: upload(device, &[0.5_f64]),
            verdict: device.alloc(Verdict::WORDS).unwrap(),
            workspace: device.alloc(workspace.into_iter().max().unwrap_or(0)).unwrap(),
            tables: device.tables(layout).unwrap(),
        };
        (0..SETS).for_each(|set| step.run(device, model, Part::IndexSort, set));
        step
    }

    fn run(&mut self, device: &B, model: &Model, part: Part, set: usize) {
        let (m, config) = (model.batch_size, &model.config);
        let batch = self.batches[set].view(model);
        let dim = config.tables[0].embedding_dim;
        let (pooled_cols, width) = (self.tables.as_ref().width(), config.interaction_width());
        let [of_layers, of_pairs] = self.precisions;
        let [pooled, grad_pooled] = &mut self.pooled;
        let [dense, grad_dense] = &mut self.dense;
        let [interacted, grad_interacted] = &mut self.interacted;
        match part {
            Part::EmbeddingBag => {
                let op = embedding_bag::Forward::new(
                    &self.tables,
                    B::view(&self.weights),
                    batch.bags,
                    MatrixMut::contiguous(B::view_mut(pooled), m, pooled_cols),
                );
                op.run(device).unwrap();
            }
            Part::InteractionForward => {
                let op = interaction::Forward::new(
                    config.interaction,
                    dim,
                    Features::Split {
                        dense: Matrix::contiguous(B::view(dense), m, dim),
                        sparse: Matrix::contiguous(B::view(pooled), m, pooled_cols),
                    },
                    MatrixMut::contiguous(B::view_mut(interacted), m, width),
                )
                .precision(of_pairs);
                op.run(device).unwrap();
            }
            Part::InteractionBackward => {
                let op = interaction::Backward::new(
                    config.interaction,
                    dim,
                    Features::Split {
                        dense: Matrix::contiguous(B::view(dense), m, dim),
                        sparse: Matrix::contiguous(B::view(pooled), m, pooled_cols),
                    },
                    Matrix::contiguous(B::view(grad_interacted), m, width),
                    FeaturesMut::Split {
                        dense: MatrixMut::contiguous(B::view_mut(grad_dense), m, dim),
                        sparse: MatrixMut::contiguous(B::view_mut(grad_pooled), m, pooled_cols),
                    },
                )
                .precision(of_pairs);
                op.run(device).unwrap();
            }
            Part::LayersForward => {
                self.layers.iter_mut().for_each(|layer| layer.forward(device, of_layers));
            }
            Part::LayersBackward => {
                for layer in self.layers.iter_mut().rev() {
                    layer.backward(device, of_layers, &mut self.workspace);
                }
            }
            Part::LogitForward => self.logit.forward(device, Precision::Full),
            Part::LogitBackward => {
                self.logit.backward(device, Precision::Full, &mut self.workspace);
            }
            Part::Loss => {
                let op = loss::Forward::new(
                    config.loss,
                    B::view(&self.logit.output),
                    batch.labels.unwrap(),
                    B::view_mut(&mut self.mean),
                    B::view_mut(&mut self.workspace),
                )
                .threshold(config.loss_threshold)
                .grad_logits(B::view_mut(&mut self.logit.grad_output));
                op.run(device).unwrap();
            }
            Part::Casts => {
                let ([to_layers, from_layers], (wide, narrow)) = (&self.casts, &mut self.cast);
                for &columns in to_layers {
                    let len = m * columns;
                    let op = Cast {
                        factor: 1.0,
                        from: Matrix::contiguous(B::slice(wide, 0..len), 1, len),
                        to: MatrixMut::contiguous(B::slice_mut(narrow, 0..len), 1, len),
                    };
                    op.run(device).unwrap();
                }
                for &columns in from_layers {
                    let len = m * columns;
                    let op = Cast {
                        factor: 1.0,
                        from: Matrix::contiguous(B::slice(narrow, 0..len), 1, len),
                        to: MatrixMut::contiguous(B::slice_mut(wide, 0..len), 1, len),
                    };
                    op.run(device).unwrap();
                }
            }
            Part::IndexSort => {
                let workspace = B::view_mut(&mut self.workspace);
                let op = Sort::new(&self.tables, batch.bags, &mut self.sorted[set], workspace);
                op.run(device).unwrap();
            }
            Part::FiniteCheck => {
                let op = Check::new(
                    NonFinite::Error,
                    1,
                    B::view(&self.mean),
                    [B::view(&self.parameters[1]), B::view(grad_pooled)],
                    B::view_mut(&mut self.verdict),
                );
                op.run(device).unwrap();
            }
            Part::SparseUpdate => {
                let source = PooledGrad::new(
                    &self.tables,
                    batch.bags,
                    &self.sorted[set],
                    Matrix::contiguous(B::view(grad_pooled), m, pooled_cols),
                );
                let op = sparse_update::Update::new(
                    source,
                    UpdateRule::new(Optimizer::Sgd, 1e-6),
                    B::view_mut(&mut self.weights),
                    OptimizerStateMut::None,
                    B::view_mut(&mut self.workspace),
                );
                op.run(device).unwrap();
            }
            Part::DenseUpdate => {
                let [parameters, grad] = &mut self.parameters;
                let is_rounded = E::DTYPE != DType::F32;
                let mut op: dense_update::Update<'_, B, E> = dense_update::Update::new(
                    UpdateRule::new(Optimizer::Sgd, 1e-6),
                    B::view(grad),
                    B::view_mut(parameters),
                    OptimizerStateMut::None,
                );
                if is_rounded {
                    op = op.rounded(B::view_mut(&mut self.rounded));
                }
                op.run(device).unwrap();
            }
        }
    }
}

/// A layer, its operands and their gradients.
struct Layer<B: Device, E: Element> {
    m: usize,
    n: usize,
    /// The inputs, padded to a multiple of 8, as the engine pads them.
    k: usize,
    activation: Activation,
    input: B::Buffer<E>,
    weight: B::Buffer<E>,
    bias: B::Buffer<f32>,
    output: B::Buffer<E>,
    grad_output: B::Buffer<E>,
    /// The gradient of the input; `None` for the first layer of the bottom MLP.
    grad_input: Option<B::Buffer<E>>,
    grad_weight: B::Buffer<f32>,
    grad_bias: B::Buffer<f32>,
}

impl<B: Timed + Backend, E: Element> Layer<B, E> {
    fn new(device: &B, m: usize, [n, inputs]: [usize; 2], has_grad_input: bool) -> Self {
        let k = inputs.next_multiple_of(8);
        Self {
            m,
            n,
            k,
            activation: if n == 1 { Activation::None } else { Activation::Relu },
            input: drawn(device, m * k, 1),
            weight: drawn(device, n * k, 2),
            bias: drawn(device, n, 3),
            output: drawn(device, m * n, 4),
            grad_output: drawn(device, m * n, 5),
            grad_input: has_grad_input.then(|| device.alloc(m * k).unwrap()),
            grad_weight: device.alloc(n * k).unwrap(),
            grad_bias: device.alloc(n).unwrap(),
        }
    }

    fn num_parameters(&self) -> usize {
        self.n * (self.k + 1)
    }

    fn workspace_len(&self, device: &B) -> usize {
        linear::Backward::<B, E>::workspace_len(device, self.m, self.n, self.k)
    }

    fn forward(&mut self, device: &B, precision: Precision) {
        let &mut Self { m, n, k, activation, .. } = self;
        let op = linear::Forward::new(
            Matrix::contiguous(B::view(&self.input), m, k),
            Matrix::contiguous(B::view(&self.weight), n, k),
            B::view(&self.bias),
            MatrixMut::contiguous(B::view_mut(&mut self.output), m, n),
        )
        .activation(activation)
        .precision(precision);
        op.run(device).unwrap();
    }

    fn backward(&mut self, device: &B, precision: Precision, workspace: &mut B::Buffer<u64>) {
        let &mut Self { m, n, k, activation, .. } = self;
        let mut op = linear::Backward::new(
            Matrix::contiguous(B::view(&self.input), m, k),
            Matrix::contiguous(B::view(&self.weight), n, k),
            Matrix::contiguous(B::view(&self.output), m, n),
            MatrixMut::contiguous(B::view_mut(&mut self.grad_output), m, n),
            MatrixMut::contiguous(B::view_mut(&mut self.grad_weight), n, k),
            B::view_mut(&mut self.grad_bias),
            B::view_mut(workspace),
        )
        .activation(activation)
        .precision(precision);
        if let Some(grad) = &mut self.grad_input {
            op = op.grad_input(MatrixMut::contiguous(B::view_mut(grad), m, k));
        }
        op.run(device).unwrap();
    }
}

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
use bagdot::ops::pooled_interaction::{self, Interact};
use bagdot::ops::sparse_update::{self, PooledGrad};
use bagdot::ops::{
    Accum, Activation, Backend, Device, Matrix, MatrixMut, Optimizer, OptimizerStateMut, Precision,
    TableBatch, UpdateRule, dense_update, embedding_bag, head, linear,
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
            let (full, tf32) = (Precision::Full, Precision::Tf32);
            match precision {
                ComputePrecision::F32 => {
                    single_ops::<B, f32>(criterion, device, &model, precision, full);
                }
                ComputePrecision::Tf32 => {
                    single_ops::<B, f32>(criterion, device, &model, precision, tf32);
                }
                ComputePrecision::BF16 => {
                    single_ops::<B, bf16>(criterion, device, &model, precision, full);
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
    Cast,
    EmbeddingBag,
    InteractionForward,
    /// Both of these in one op, which keeps the pooled vectors.
    PooledInteraction,
    LayersForward,
    /// The logits alone, for a prediction.
    Logits,
    Head,
    LayersBackward,
    InteractionBackward,
    IndexSort,
    FiniteCheck,
    SparseUpdate,
    DenseUpdate,
}

const PARTS: [(&str, Part); 13] = [
    ("cast", Part::Cast),
    ("embedding_bag", Part::EmbeddingBag),
    ("interaction_forward", Part::InteractionForward),
    ("pooled_interaction", Part::PooledInteraction),
    ("layers_forward", Part::LayersForward),
    ("logits", Part::Logits),
    ("head", Part::Head),
    ("layers_backward", Part::LayersBackward),
    ("interaction_backward", Part::InteractionBackward),
    ("index_sort", Part::IndexSort),
    ("finite_check", Part::FiniteCheck),
    ("sparse_update", Part::SparseUpdate),
    ("dense_update", Part::DenseUpdate),
];

/// Measures the ops of a step that computes in `E`. `products` is the precision of products of f32.
fn single_ops<B: Timed + Backend, E: Element>(
    criterion: &mut Criterion,
    device: &B,
    model: &Model,
    precision: ComputePrecision,
    products: Precision,
) {
    let shape = model.shape(Ids::Uniform, precision);
    let mut step = None;
    for (name, part) in PARTS {
        if matches!(part, Part::Cast) && E::DTYPE == DType::F32 {
            continue;
        }
        let name = format!("{shape} {name}");
        let mut group = group(criterion, device, "step_part");
        measure_samples(&mut group, device, (&name, model.batch_size), SETS, |set| {
            let step = step.get_or_insert_with(|| Step::<B, E>::new(device, model, products));
            step.run(device, model, part, set);
        });
    }
}

/// The operands of the ops of a step.
struct Step<B: Device, E: Element> {
    products: Precision,
    batches: Vec<DeviceBatch<B>>,
    tables: B::Tables,
    weights: B::Buffer<f32>,
    sorted: Vec<SortedIndices<B>>,
    /// The dense features as the layers read them.
    rounded_dense: B::Buffer<E>,
    /// The pooled vectors, and their gradient.
    pooled: [B::Buffer<E>; 2],
    /// The output of the bottom MLP, and its gradient.
    dense: [B::Buffer<E>; 2],
    /// The output of the interaction, and its gradient.
    interacted: [B::Buffer<E>; 2],
    /// The layers of both MLPs but the last one.
    layers: Vec<Layer<B, E>>,
    head: HeadOperands<B, E>,
    /// The parameters of the layers, their gradient and their copy.
    parameters: [B::Buffer<f32>; 2],
    rounded: B::Buffer<E>,
    mean: B::Buffer<f64>,
    verdict: B::Buffer<u64>,
    workspace: B::Buffer<u64>,
}

/// The last layer's operands and their gradients.
struct HeadOperands<B: Device, E: Element> {
    inputs: usize,
    input: [B::Buffer<E>; 2],
    weight: [B::Buffer<f32>; 2],
    bias: [B::Buffer<f32>; 2],
    bias_before: B::Buffer<f32>,
    logits: [B::Buffer<f32>; 2],
}

impl<B: Timed + Backend, E: Element> HeadOperands<B, E> {
    fn new(device: &B, m: usize, inputs: usize) -> Self {
        let both = |len: usize| [1, 2].map(|seed| drawn(device, len, seed));
        Self {
            inputs,
            input: [1, 2].map(|seed| drawn(device, m * inputs, seed)),
            weight: both(inputs),
            bias: both(1),
            bias_before: device.alloc(inputs).unwrap(),
            logits: both(m),
        }
    }
}

impl<B: Timed + Backend, E: Element> Step<B, E> {
    fn new(device: &B, model: &Model, products: Precision) -> Self {
        let (m, config) = (model.batch_size, &model.config);
        let layout = TableBatch::new(config.tables.clone(), config.features.clone()).unwrap();
        let (dim, num_indices) = (layout.max_dim(), m * layout.features().len());
        let sorted = |_| SortedIndices::new(device, num_indices, num_indices).unwrap();
        let (width, pooled) = (config.interaction_width(), layout.width());
        let both = |columns: usize, seed: u64| {
            [seed, seed + 1].map(|seed| drawn::<B, E>(device, m * columns, seed))
        };

        let bottom: Vec<usize> =
            [config.num_dense].into_iter().chain(config.bottom_mlp.iter().copied()).collect();
        let top: Vec<usize> = [width].into_iter().chain(config.top_mlp.iter().copied()).collect();
        let hidden = &top[..top.len() - 1];
        let mut layers: Vec<Layer<B, E>> = vec![];
        for (sizes, is_bottom) in [(&bottom[..], true), (hidden, false)] {
            for (k, pair) in sizes.windows(2).enumerate() {
                let has_grad_input = !is_bottom || k > 0;
                layers.push(Layer::new(device, m, [pair[1], pair[0]], has_grad_input));
            }
        }
        let head = HeadOperands::new(device, m, *hidden.last().unwrap());
        let num_parameters =
            layers.iter().map(Layer::num_parameters).sum::<usize>() + head.inputs + 1;

        let workspace = [
            Sort::<B, i64>::workspace_len(device, &layout, num_indices),
            sparse_update::Update::<B, f32, i64>::workspace_len(device, &layout, num_indices),
            head::LossAndGrads::<B, E>::workspace_len(device, m, head.inputs),
            layers.iter().map(|layer| layer.workspace_len(device)).max().unwrap_or(0),
        ];
        let mut step = Self {
            products,
            batches: batches(device, model),
            weights: drawn(device, layout.num_weights(), 1),
            sorted: (0..SETS).map(sorted).collect(),
            rounded_dense: device.alloc(m * config.num_dense).unwrap(),
            pooled: both(pooled, 2),
            dense: both(dim, 4),
            interacted: both(width, 6),
            layers,
            head,
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
        let products = self.products;
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
                .precision(products);
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
                .precision(products);
                op.run(device).unwrap();
            }
            Part::LayersForward => {
                self.layers.iter_mut().for_each(|layer| layer.forward(device, products));
            }
            Part::LayersBackward => {
                for layer in self.layers.iter_mut().rev() {
                    layer.backward(device, products, &mut self.workspace);
                }
            }
            Part::PooledInteraction => {
                let lookup = embedding_bag::Forward::new(
                    &self.tables,
                    B::view(&self.weights),
                    batch.bags,
                    MatrixMut::contiguous(B::view_mut(pooled), m, pooled_cols),
                );
                let interact = Interact::new(
                    config.interaction,
                    dim,
                    Matrix::contiguous(B::view(dense), m, dim),
                    MatrixMut::contiguous(B::view_mut(interacted), m, width),
                )
                .precision(products)
                .keeps_pooled(true);
                pooled_interaction::Forward { lookup, interact }.run(device).unwrap();
            }
            Part::Logits => {
                let HeadOperands { inputs, input, weight, bias, logits, .. } = &mut self.head;
                let op = head::Forward::new(
                    Matrix::contiguous(B::view(&input[0]), m, *inputs),
                    B::view(&weight[0]),
                    B::view(&bias[0]),
                    B::view_mut(&mut logits[0]),
                );
                op.run(device).unwrap();
            }
            Part::Head => {
                let head = &mut self.head;
                let [input, grad_input] = &mut head.input;
                let [weight, grad_weight] = &mut head.weight;
                let [bias, grad_bias] = &mut head.bias;
                let [logits, grad_logits] = &mut head.logits;
                let op = head::LossAndGrads::new(
                    config.loss,
                    head::Forward::new(
                        Matrix::contiguous(B::view(input), m, head.inputs),
                        B::view(weight),
                        B::view(bias),
                        B::view_mut(logits),
                    ),
                    batch.labels.unwrap(),
                    B::view_mut(&mut self.mean),
                    head::Grads::new(
                        B::view_mut(grad_logits),
                        MatrixMut::contiguous(B::view_mut(grad_input), m, head.inputs),
                        B::view_mut(grad_weight),
                        B::view_mut(grad_bias),
                    )
                    .through_relu(B::view_mut(&mut head.bias_before)),
                    B::view_mut(&mut self.workspace),
                )
                .threshold(config.loss_threshold);
                op.run(device).unwrap();
            }
            Part::Cast => {
                let to = B::view_mut(&mut self.rounded_dense);
                let to = MatrixMut::contiguous(to, m, config.num_dense);
                Cast { factor: 1.0, from: batch.dense, to }.run(device).unwrap();
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
                    [B::view(&self.parameters[1]), B::slice(&self.parameters[1], 0..0)],
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
            activation: Activation::Relu,
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

//! A test of the ops that train tables on CUDA (lookup, interaction forward and backward, sort,
//! update) as one graph, which is replayed for every batch of a training run.

use crate::common::cases::DeviceBags;
use crate::common::cuda::{capture, on_every_schedule};
use crate::common::*;
use crate::replay::trajectory::{Run, rule};
use crate::replay::{Case, File, golden_directory};
use bagdot::backend::cuda::Buffer;
use bagdot::ops::index_sort::{Sort, SortedIndices};
use bagdot::ops::interaction::{Features, FeaturesMut};
use bagdot::ops::sparse_update::{PooledGrad, Update};
use bagdot::ops::{
    Device, Feature, Interaction, Matrix, MatrixMut, OptimizerStateMut, Pooling, Precision,
    UpdateRule, embedding_bag, interaction,
};
use bagdot::{Cuda, Scalar};

/// The batches of a golden file as the device gets them, and the initial weights.
struct Batches {
    interaction: Interaction,
    rule: UpdateRule,
    dim: usize,
    /// The weights of all tables, one after another.
    weights: Vec<f32>,
    /// The output of the bottom MLP, and the bags. An additional feature fills all batches up to
    /// the same number of ids: its first bag holds padding, and the others are empty.
    batches: Vec<(Vec<f32>, BagCase)>,
    /// The gradient of the interaction's output, the same for all batches.
    grad: Vec<f32>,
}

impl Batches {
    fn read(case: &Case<'_>) -> Self {
        let (run, rule) = (Run::new(case), rule(case));
        let initial = |(table, &rows)| case.floats(&format!("init.emb{table}"), &[rows, run.dim]);
        let drawn: Vec<_> = (0..case.count("steps")).map(|step| run.batch(step)).collect();
        let most = drawn.iter().map(|batch| batch.case.indices.len()).max().unwrap();
        let batch_size = drawn[0].case.batch_size;
        let filled = |mut bags: BagCase| {
            bags.features.push(Feature { padding_idx: Some(0), ..feature(0, Pooling::Sum) });
            bags.indices.resize(most, 0);
            bags.offsets.resize(bags.offsets.len() + batch_size, most);
            bags
        };
        let width = run.interaction.width(true, run.rows.len(), run.dim);
        Self {
            interaction: run.interaction,
            rule,
            dim: run.dim,
            weights: run.rows.iter().enumerate().flat_map(initial).collect(),
            grad: draw(batch_size * width, 5).iter().map(|g| g / batch_size as f32).collect(),
            batches: drawn
                .into_iter()
                .map(|batch| (bottom_mlp(case, &run.bottom, batch.dense), filled(batch.case)))
                .collect(),
        }
    }
}

/// Runs the bottom MLP with its initial parameters, on the host.
fn bottom_mlp(case: &Case<'_>, sizes: &[usize], dense: Vec<f32>) -> Vec<f32> {
    sizes.windows(2).enumerate().fold(dense, |input, (k, pair)| {
        let weight = case.floats(&format!("init.bot{k}.weight"), &[pair[1], pair[0]]);
        let bias = case.floats(&format!("init.bot{k}.bias"), &[pair[1]]);
        let unit = |x: &[f32], (row, bias): (&[f32], f32)| {
            x.iter().zip(row).fold(bias, |sum, (x, w)| sum + x * w).max(0.0)
        };
        let layer = |x: &[f32]| {
            weight.chunks(pair[0]).zip(&bias).map(|(row, &b)| unit(x, (row, b))).collect::<Vec<_>>()
        };
        input.chunks(pair[0]).flat_map(layer).collect()
    })
}

/// The buffers of a step on the device.
struct Step<'a> {
    of: &'a Batches,
    bags: DeviceBags<Cuda, i32>,
    sorted: SortedIndices<Cuda>,
    dense: Buffer<f32>,
    pooled: Buffer<f32>,
    interacted: Buffer<f32>,
    grad: Buffer<f32>,
    grad_dense: Buffer<f32>,
    /// The gradient of the pooled vectors. The columns of the additional feature stay zero.
    grad_pooled: Buffer<f32>,
    weights: Buffer<f32>,
    workspace: Buffer<u64>,
}

/// The results of a step: the output of the interaction, the gradient of the dense vectors, and the
/// weights.
type Outcome = [Vec<f32>; 3];

impl<'a> Step<'a> {
    fn new(cuda: &Cuda, of: &'a Batches) -> Self {
        let (dense, bags) = &of.batches[0];
        let (n, layout) = (bags.indices.len(), bags.layout());
        let sort = Sort::<Cuda, i32>::workspace_len(cuda, &layout, n);
        let update = Update::<Cuda, f32, i32>::workspace_len(cuda, &layout, n);
        let pooled = bags.batch_size * bags.width();
        Self {
            of,
            sorted: SortedIndices::new(cuda, n, bags.features.len() * bags.batch_size).unwrap(),
            bags: bags.upload(cuda),
            dense: upload(cuda, dense),
            pooled: upload(cuda, &poisoned(pooled)),
            interacted: upload(cuda, &poisoned(of.grad.len())),
            grad: upload(cuda, &of.grad),
            grad_dense: upload(cuda, &poisoned(dense.len())),
            grad_pooled: upload(cuda, &vec![0.0; pooled]),
            weights: upload(cuda, &of.weights),
            workspace: upload(cuda, &poisoned(sort.max(update))),
        }
    }

    fn upload(&mut self, cuda: &Cuda, (dense, case): &(Vec<f32>, BagCase)) {
        let ids: Vec<i32> = case.indices.iter().map(|&id| id as i32).collect();
        let offsets: Vec<i32> = case.offsets.iter().map(|&offset| offset as i32).collect();
        replace(cuda, dense, &mut self.dense);
        replace(cuda, &ids, &mut self.bags.indices);
        replace(cuda, &offsets, &mut self.bags.offsets);
    }

    fn launch(&mut self, cuda: &Cuda) {
        let Batches { interaction, rule, dim, .. } = *self.of;
        let tables = &self.bags.tables;
        let (batch_size, precision) = (self.bags.batch_size, Precision::Full);
        let (width, all) = (self.of.grad.len() / batch_size, tables.as_ref().width());
        let sparse = all - dim;
        let lookup = embedding_bag::Forward::new(
            tables,
            Cuda::view(&self.weights),
            self.bags.view(),
            MatrixMut::contiguous(Cuda::view_mut(&mut self.pooled), batch_size, all),
        );
        lookup.run(cuda).unwrap();
        let features = Features::Split {
            dense: Matrix::contiguous(Cuda::view(&self.dense), batch_size, dim),
            sparse: Matrix {
                data: Cuda::view(&self.pooled),
                rows: batch_size,
                cols: sparse,
                ld: all,
            },
        };
        let output = MatrixMut::contiguous(Cuda::view_mut(&mut self.interacted), batch_size, width);
        interaction::Forward::new(interaction, dim, features, output)
            .precision(precision)
            .run(cuda)
            .unwrap();
        let grad_output = Matrix::contiguous(Cuda::view(&self.grad), batch_size, width);
        let data = Cuda::view_mut(&mut self.grad_pooled);
        let grad_features = FeaturesMut::Split {
            dense: MatrixMut::contiguous(Cuda::view_mut(&mut self.grad_dense), batch_size, dim),
            sparse: MatrixMut { data, rows: batch_size, cols: sparse, ld: all },
        };
        interaction::Backward::new(interaction, dim, features, grad_output, grad_features)
            .precision(precision)
            .run(cuda)
            .unwrap();
        let (sorted, workspace) = (&mut self.sorted, Cuda::view_mut(&mut self.workspace));
        Sort::new(tables, self.bags.view(), sorted, workspace).run(cuda).unwrap();
        let update = Update::new(
            PooledGrad::new(
                tables,
                self.bags.view(),
                &self.sorted,
                Matrix::contiguous(Cuda::view(&self.grad_pooled), batch_size, all),
            ),
            rule,
            Cuda::view_mut(&mut self.weights),
            OptimizerStateMut::None,
            Cuda::view_mut(&mut self.workspace),
        );
        update.run(cuda).unwrap();
    }

    fn outcome(&self, cuda: &Cuda) -> Outcome {
        cuda.synchronize().unwrap();
        [&self.interacted, &self.grad_dense, &self.weights].map(|buffer| download(cuda, buffer))
    }
}

fn replace<T: Scalar>(cuda: &Cuda, values: &[T], buffer: &mut Buffer<T>) {
    cuda.upload(values, Cuda::view_mut(buffer)).unwrap();
}

/// Checks a graph of steps with SGD at a constant rate: rate and step number are launch parameters,
/// which the graph fixes.
#[test]
fn a_training_run_is_one_graph_replayed() {
    let file = File::read(&golden_directory().join("dlrm_traj_sgd.safetensors"));
    let case = file.cases().next().unwrap();
    let run = Batches::read(&case);
    assert_eq!(run.batches.len(), 20);
    on_every_schedule(|cuda| {
        let mut eager = Step::new(cuda, &run);
        let mut step = Step::new(cuda, &run);
        let graph = capture(cuda, || step.launch(cuda));
        let mut weights = run.weights.clone();
        for (number, batch) in run.batches.iter().enumerate() {
            eager.upload(cuda, batch);
            eager.launch(cuda);
            let want = eager.outcome(cuda);
            step.upload(cuda, batch);
            graph.replay();
            for (what, (got, want)) in ["interaction", "gradient", "weights"]
                .into_iter()
                .zip(step.outcome(cuda).iter().zip(&want))
            {
                assert_same_bits(&format!("step {number}, {what}"), got, want);
            }
            assert_ne!(want[2], weights, "step {number} changes no weight");
            weights.clone_from(&want[2]);
        }
    });
}

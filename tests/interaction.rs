//! `interaction`: pairwise dot products and concatenation, forward and backward.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use bagdot::ops::interaction::{Backward, Features, FeaturesMut, Forward, InteractionOps};
use bagdot::ops::{Interaction, Matrix, MatrixMut, PairOrder};
use common::*;

backend_suite!(
    cuda: all_dimensions,
    all_numbers_of_features,
    all_batch_sizes,
    all_alignments,
    large_samples,
    cat_takes_any_dimensions,
    nan_stays_with_its_sample,
    wrong_shapes_are_errors,
);

/// How the features lie in memory.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Layout {
    Joined,
    JoinedWithDense,
    Split,
}
const LAYOUTS: [Layout; 3] = [Layout::Joined, Layout::JoinedWithDense, Layout::Split];

/// Features of a batch, side by side for each sample.
struct Case {
    batch_size: usize,
    num_features: usize,
    dim: usize,
    /// Behind each row of every matrix.
    gap: usize,
    features: Vec<f32>,
}

impl Case {
    fn new(batch_size: usize, num_features: usize, dim: usize) -> Self {
        let features = draw(batch_size * num_features * dim, (num_features * 4096 + dim) as u64);
        Self { batch_size, num_features, dim, gap: 3, features }
    }

    fn row(&self) -> usize {
        self.num_features * self.dim
    }

    /// The columns from `start` on, `cols` of them, as a matrix with gaps.
    fn grid(&self, values: &[f32], start: usize, cols: usize) -> Grid<f32> {
        let rows = values.chunks(self.row().max(1)).take(self.batch_size);
        let values: Vec<f32> = rows.flat_map(|row| &row[start..start + cols]).copied().collect();
        Grid::new(self.batch_size, cols, self.gap, &values)
    }

    fn forward<B: InteractionOps>(&self, device: &B, interaction: Interaction, layout: Layout) -> Vec<f32> {
        let (dense, rest) = (self.dim, self.row() - self.dim);
        let grids = [self.grid(&self.features, 0, self.row()), self.grid(&self.features, 0, dense)];
        let sparse = self.grid(&self.features, dense, rest);
        let buffers = [grids[0].upload(device), grids[1].upload(device), sparse.upload(device)];
        let output = Grid::poisoned(self.batch_size, self.width(interaction, layout), self.gap);
        let mut output_buffer = output.upload(device);
        let features = match layout {
            Layout::Split => Features::Split { dense: grids[1].view(&buffers[1]), sparse: sparse.view(&buffers[2]) },
            _ => {
                let has_dense = layout == Layout::JoinedWithDense;
                Features::Joined { block: grids[0].view(&buffers[0]), has_dense }
            }
        };
        let op = Forward { interaction, dim: self.dim, features, output: output.view_mut(&mut output_buffer) };
        assert_eq!(outcome(device, op.run(device)), Ok(()));
        output.download(device, &output_buffer)
    }

    /// The gradient of all features, side by side as they are themselves.
    fn backward<B: InteractionOps>(
        &self,
        device: &B,
        interaction: Interaction,
        layout: Layout,
        grad_output: &[f32],
    ) -> Vec<f32> {
        let (dense, rest) = (self.dim, self.row() - self.dim);
        let whole = self.grid(&self.features, 0, self.row());
        let parts = [self.grid(&self.features, 0, dense), self.grid(&self.features, dense, rest)];
        let buffers = [whole.upload(device), parts[0].upload(device), parts[1].upload(device)];
        let grad = Grid::new(self.batch_size, self.width(interaction, layout), self.gap, grad_output);
        let grad_buffer = grad.upload(device);
        let outputs = [self.row(), dense, rest].map(|cols| Grid::<f32>::poisoned(self.batch_size, cols, self.gap));
        let mut out = outputs.each_ref().map(|grid| grid.upload(device));
        let [out_whole, out_dense, out_sparse] = &mut out;
        let (features, grad_features) = match layout {
            Layout::Split => (
                Features::Split { dense: parts[0].view(&buffers[1]), sparse: parts[1].view(&buffers[2]) },
                FeaturesMut::Split { dense: outputs[1].view_mut(out_dense), sparse: outputs[2].view_mut(out_sparse) },
            ),
            _ => (
                Features::Joined { block: whole.view(&buffers[0]), has_dense: layout == Layout::JoinedWithDense },
                FeaturesMut::Joined { block: outputs[0].view_mut(out_whole) },
            ),
        };
        let op = Backward { interaction, dim: self.dim, features, grad_output: grad.view(&grad_buffer), grad_features };
        assert_eq!(outcome(device, op.run(device)), Ok(()));
        if layout != Layout::Split {
            return outputs[0].download(device, &out[0]);
        }
        let (dense_grads, sparse_grads) = (outputs[1].download(device, &out[1]), outputs[2].download(device, &out[2]));
        let sample = |b: usize| [&dense_grads[b * dense..][..dense], &sparse_grads[b * rest..][..rest]].concat();
        (0..self.batch_size).flat_map(sample).collect()
    }

    fn width(&self, interaction: Interaction, layout: Layout) -> usize {
        let has_dense = layout != Layout::Joined;
        reference::dots(interaction, &vec![Approx::ZERO; self.row()], self.dim, has_dense).len()
    }

    /// Compares all layouts with the reference, forward and backward.
    fn check<B: InteractionOps>(&self, device: &B, interaction: Interaction) {
        for layout in LAYOUTS {
            let what = format!(
                "{interaction:?}, {layout:?}, B = {}, F = {}, D = {}",
                self.batch_size, self.num_features, self.dim
            );
            let (row, width, has_dense) = (self.row(), self.width(interaction, layout), layout != Layout::Joined);
            let counted = interaction.width(has_dense, self.num_features - usize::from(has_dense), self.dim);
            assert_eq!(counted, width, "{what}: width");
            let features = exact(&self.features);
            let samples = || features.chunks(row.max(1)).take(self.batch_size);
            let want: Vec<Approx> =
                samples().flat_map(|sample| reference::dots(interaction, sample, self.dim, has_dense)).collect();
            assert_close(&what, &self.forward(device, interaction, layout), &want);
            let grad = draw(self.batch_size * width, 5);
            let grads = exact(&grad);
            let want: Vec<Approx> = samples()
                .enumerate()
                .flat_map(|(b, sample)| {
                    let grad = &grads[b * width..][..width];
                    reference::dots_backward(interaction, sample, self.dim, has_dense, grad)
                })
                .collect();
            let got = self.backward(device, interaction, layout, &grad);
            assert_close(&format!("{what}, backward"), &got, &want);
        }
    }
}

/// Every kind of interaction.
fn interactions() -> Vec<Interaction> {
    let mut all = vec![Interaction::Cat];
    for order in [PairOrder::LowerTriangle, PairOrder::UpperTriangle] {
        for include_self in [false, true] {
            for pad_to in [1, 8] {
                // Each two of the three settings meet in all ways.
                let append_sparse = include_self != (pad_to == 8);
                all.push(Interaction::Dot { order, include_self, append_sparse, pad_to });
            }
        }
    }
    all
}

fn all_dimensions<B: InteractionOps>(device: &B) {
    for interaction in interactions() {
        DIMS.iter().for_each(|&dim| Case::new(3, 4, dim).check(device, interaction));
    }
}

fn all_numbers_of_features<B: InteractionOps>(device: &B) {
    for interaction in interactions() {
        [1, 2, 27, 64].iter().for_each(|&num_features| Case::new(2, num_features, 17).check(device, interaction));
    }
}

/// Rows that begin at multiples of 16 bytes, as they do in training, and of 4.
fn all_alignments<B: InteractionOps>(device: &B) {
    for interaction in interactions() {
        for (gap, dim) in [(0, 64), (8, 16), (4, 24), (1, 16)] {
            Case { gap, ..Case::new(2, 9, dim) }.check(device, interaction);
        }
    }
}

/// More than a block of a device can hold at once.
fn large_samples<B: InteractionOps>(device: &B) {
    let cases = [(3, 66, 150), (0, 68, 144), (0, 2, 12_000)];
    for (interaction, (gap, num_features, dim)) in interactions().into_iter().zip(cases.into_iter().cycle()) {
        Case { gap, ..Case::new(1, num_features, dim) }.check(device, interaction);
    }
}

fn all_batch_sizes<B: InteractionOps>(device: &B) {
    for interaction in interactions() {
        [0, 1, 33].iter().for_each(|&batch_size| Case::new(batch_size, 5, 8).check(device, interaction));
    }
}

/// The dense vector and the pooled ones need not have the same dimension.
fn cat_takes_any_dimensions<B: InteractionOps>(device: &B) {
    let (interaction, dim) = (Interaction::Cat, 0);
    let halves = [Grid::new(3, 2, 1, &draw(6, 1)), Grid::new(3, 5, 0, &draw(15, 2))];
    let buffers = halves.each_ref().map(|grid| grid.upload(device));
    let output = Grid::poisoned(3, 7, 2);
    let mut output_buffer = output.upload(device);
    let features = Features::Split { dense: halves[0].view(&buffers[0]), sparse: halves[1].view(&buffers[1]) };
    Forward { interaction, dim, features, output: output.view_mut(&mut output_buffer) }.run(device).unwrap();
    let got = output.download(device, &output_buffer);
    for (b, row) in got.chunks(7).enumerate() {
        assert_eq!(row, [&draw(6, 1)[b * 2..][..2], &draw(15, 2)[b * 5..][..5]].concat());
    }

    // What was put together is taken apart.
    let grad_output = Grid::new(3, 7, 2, &got);
    let grad_buffer = grad_output.upload(device);
    let grads = [Grid::poisoned(3, 2, 0), Grid::poisoned(3, 5, 4)];
    let mut grad_buffers = grads.each_ref().map(|grid| grid.upload(device));
    let [dense, sparse] = &mut grad_buffers;
    let op = Backward {
        interaction,
        dim,
        features: Features::Split { dense: halves[0].view(&buffers[0]), sparse: halves[1].view(&buffers[1]) },
        grad_output: grad_output.view(&grad_buffer),
        grad_features: FeaturesMut::Split { dense: grads[0].view_mut(dense), sparse: grads[1].view_mut(sparse) },
    };
    op.run(device).unwrap();
    assert_eq!(grads[0].download(device, &grad_buffers[0]), draw(6, 1));
    assert_eq!(grads[1].download(device, &grad_buffers[1]), draw(15, 2));
}

fn nan_stays_with_its_sample<B: InteractionOps>(device: &B) {
    for interaction in interactions() {
        let mut case = Case::new(3, 4, 5);
        // Sample 1, feature 2.
        case.features[20 + 11] = f32::NAN;
        for layout in LAYOUTS {
            let width = case.width(interaction, layout);
            let output = case.forward(device, interaction, layout);
            let grads = case.backward(device, interaction, layout, &vec![1.0; 3 * width]);
            let has_nan = |row: &[f32]| row.iter().any(|x| x.is_nan());
            assert_eq!(output.chunks(width).map(has_nan).collect::<Vec<_>>(), [false, true, false]);
            let dots = interaction != Interaction::Cat;
            assert_eq!(grads.chunks(20).map(has_nan).collect::<Vec<_>>(), [false, dots, false]);
        }
    }
}

/// A matrix without gaps.
fn matrix<B: InteractionOps>(buffer: &B::Buffer<f32>, rows: usize, cols: usize) -> Matrix<'_, B, f32> {
    Matrix { data: B::view(buffer), rows, cols, ld: cols }
}

/// Each wrong argument gives an error that names it, and nothing is written.
fn wrong_shapes_are_errors<B: InteractionOps>(device: &B) {
    let interaction = Interaction::default();
    let buffer = upload(device, &draw(64, 1));
    // One matrix is a block with a dense vector; two are a dense vector and pooled ones.
    let forward = |dim: usize, parts: &[(usize, usize)], rows: usize, cols: usize| {
        let mut output = upload(device, &poisoned::<f32>(64));
        let features = match parts[..] {
            [(rows, cols)] => Features::Joined { block: matrix::<B>(&buffer, rows, cols), has_dense: true },
            _ => Features::Split {
                dense: matrix::<B>(&buffer, parts[0].0, parts[0].1),
                sparse: matrix::<B>(&buffer, parts[1].0, parts[1].1),
            },
        };
        let view = MatrixMut { data: B::view_mut(&mut output), rows, cols, ld: cols };
        let text = message(Forward { interaction, dim, features, output: view }.run(device));
        assert_same_bits(&text, &download(device, &output), &poisoned(64));
        text
    };
    for (text, want) in [
        (forward(0, &[(2, 12)], 2, 7), "dim: 0, but must be 1 or more"),
        (forward(5, &[(2, 12)], 2, 7), "features.block.cols: 12 is no multiple of the dimension 5"),
        (forward(4, &[(2, 12)], 3, 7), "output.rows is 3, but must be 2"),
        (forward(4, &[(2, 12)], 2, 8), "output.cols is 8, but must be 7"),
        (forward(4, &[(9, 12)], 9, 7), "features.block.data holds 64 elements, but 108 are needed"),
        (forward(4, &[(2, 0)], 2, 4), "features.block.cols: 0, but there is a dense vector"),
        (forward(4, &[(2, 3), (2, 8)], 2, 7), "features.dense.cols is 3, but must be 4"),
        (forward(4, &[(2, 4), (3, 8)], 2, 7), "features.sparse.rows is 3, but must be 2"),
        (forward(4, &[(2, 4), (2, 9)], 2, 7), "features.sparse.cols: 9 is no multiple of the dimension 4"),
    ] {
        assert_eq!(text, format!("interaction.forward: {want}"));
    }

    let backward = |grad: (usize, usize), joined_output: bool, (rows, cols): (usize, usize)| {
        let (mut a, mut b) = (upload(device, &poisoned::<f32>(64)), upload(device, &poisoned::<f32>(64)));
        let view = |data| MatrixMut { data, rows, cols, ld: cols };
        let grad_features = match joined_output {
            true => FeaturesMut::Joined { block: view(B::view_mut(&mut a)) },
            false => FeaturesMut::Split {
                dense: MatrixMut { data: B::view_mut(&mut b), rows: 2, cols: 4, ld: 4 },
                sparse: view(B::view_mut(&mut a)),
            },
        };
        let features = Features::Joined { block: matrix::<B>(&buffer, 2, 12), has_dense: true };
        let grad_output = matrix::<B>(&buffer, grad.0, grad.1);
        let op = Backward { interaction, dim: 4, features, grad_output, grad_features };
        let text = message(op.run(device));
        assert_same_bits(&text, &download(device, &a), &poisoned(64));
        assert_same_bits(&text, &download(device, &b), &poisoned(64));
        text
    };
    for (text, want) in [
        (backward((2, 6), true, (2, 12)), "grad_output.cols is 6, but must be 7"),
        (backward((2, 7), true, (2, 11)), "grad_features.block.cols is 11, but must be 12"),
        (backward((2, 7), false, (2, 8)), "grad_features: it must have the same layout as the features"),
    ] {
        assert_eq!(text, format!("interaction.backward: {want}"));
    }
}

#[test]
fn results_do_not_depend_on_threads() {
    let case = Case::new(130, 27, 65);
    for interaction in [Interaction::default(), Interaction::Cat] {
        for layout in LAYOUTS {
            assert_deterministic("interaction", |cpu| {
                let grad = draw(130 * case.width(interaction, layout), 3);
                let output = case.forward(cpu, interaction, layout);
                [bytes(&output), bytes(&case.backward(cpu, interaction, layout, &grad))].concat()
            });
        }
    }
}

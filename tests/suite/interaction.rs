//! Tests of `interaction`: pairwise dot products and concatenation, forward and backward.

use crate::common::*;
use bagdot::ops::interaction::{Backward, Features, FeaturesMut, Forward, InteractionOps};
use bagdot::ops::{Interaction, Matrix, MatrixMut, PairOrder, Precision};
use bagdot::{DType, Philox, bf16, f16};

backend_suite!(
    cuda: all_dimensions,
    all_numbers_of_features,
    all_batch_sizes,
    all_alignments,
    large_samples,
    f16_features,
    bf16_features,
    tf32_products,
    is_adjoint,
    permuting_the_batch_permutes_results,
    cat_takes_any_dimensions,
    nan_stays_with_its_sample,
    gradients_that_are_not_finite_are_reported,
    wrong_shapes_are_errors,
);

/// The layout of the features in memory.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Layout {
    /// One matrix of feature vectors without a dense one.
    Joined,
    /// One matrix, in which the dense vector comes first.
    JoinedWithDense,
    /// A matrix of dense vectors and a matrix of the other ones.
    Split,
}
const LAYOUTS: [Layout; 3] = [Layout::Joined, Layout::JoinedWithDense, Layout::Split];

/// The features of a batch, side by side for each sample.
struct Case<E> {
    batch_size: usize,
    num_features: usize,
    dim: usize,
    /// The slack behind each row of every matrix, in elements.
    gap: usize,
    precision: Precision,
    features: Vec<E>,
}

impl<E: Stored + Poison> Case<E> {
    fn new(batch_size: usize, num_features: usize, dim: usize) -> Self {
        let features =
            draw_stored(batch_size * num_features * dim, (num_features * 4096 + dim) as u64);
        Self { batch_size, num_features, dim, gap: 3, precision: Precision::Full, features }
    }

    /// Returns the number of elements of a sample.
    fn row(&self) -> usize {
        self.num_features * self.dim
    }

    /// Returns `cols` columns, from `start` on, as a matrix with slack.
    fn grid(&self, values: &[E], start: usize, cols: usize) -> Grid<E> {
        let rows = values.chunks(self.row().max(1)).take(self.batch_size);
        let values: Vec<E> = rows.flat_map(|row| &row[start..start + cols]).copied().collect();
        Grid::new(self.batch_size, cols, self.gap, &values)
    }

    fn forward<B: InteractionOps>(
        &self,
        device: &B,
        interaction: Interaction,
        layout: Layout,
    ) -> Vec<E> {
        let (dense, rest) = (self.dim, self.row() - self.dim);
        let grids = [self.grid(&self.features, 0, self.row()), self.grid(&self.features, 0, dense)];
        let sparse = self.grid(&self.features, dense, rest);
        let buffers = [grids[0].upload(device), grids[1].upload(device), sparse.upload(device)];
        let output = Grid::poisoned(self.batch_size, self.width(interaction, layout), self.gap);
        let mut output_buffer = output.upload(device);
        let features = match layout {
            Layout::Split => Features::Split {
                dense: grids[1].view(&buffers[1]),
                sparse: sparse.view(&buffers[2]),
            },
            _ => {
                let has_dense = layout == Layout::JoinedWithDense;
                Features::Joined { block: grids[0].view(&buffers[0]), has_dense }
            }
        };
        let op = Forward::new(interaction, self.dim, features, output.view_mut(&mut output_buffer))
            .precision(self.precision);
        assert_eq!(outcome(device, op.run(device)), Ok(()));
        output.download(device, &output_buffer)
    }

    /// Returns the gradient of all features, side by side as the features are. Expects the op to
    /// say whether it has a value that is not finite.
    fn backward<B: InteractionOps>(
        &self,
        device: &B,
        interaction: Interaction,
        layout: Layout,
        grad_output: &[E],
    ) -> Vec<E> {
        let (dense, rest) = (self.dim, self.row() - self.dim);
        let whole = self.grid(&self.features, 0, self.row());
        let parts = [self.grid(&self.features, 0, dense), self.grid(&self.features, dense, rest)];
        let buffers = [whole.upload(device), parts[0].upload(device), parts[1].upload(device)];
        let grad =
            Grid::new(self.batch_size, self.width(interaction, layout), self.gap, grad_output);
        let grad_buffer = grad.upload(device);
        let outputs = [self.row(), dense, rest]
            .map(|cols| Grid::<E>::poisoned(self.batch_size, cols, self.gap));
        let mut out = outputs.each_ref().map(|grid| grid.upload(device));
        let [out_whole, out_dense, out_sparse] = &mut out;
        let (features, grad_features) = match layout {
            Layout::Split => (
                Features::Split {
                    dense: parts[0].view(&buffers[1]),
                    sparse: parts[1].view(&buffers[2]),
                },
                FeaturesMut::Split {
                    dense: outputs[1].view_mut(out_dense),
                    sparse: outputs[2].view_mut(out_sparse),
                },
            ),
            _ => (
                Features::Joined {
                    block: whole.view(&buffers[0]),
                    has_dense: layout == Layout::JoinedWithDense,
                },
                FeaturesMut::Joined { block: outputs[0].view_mut(out_whole) },
            ),
        };
        let mut word = upload(device, &[0_u64]);
        let op =
            Backward::new(interaction, self.dim, features, grad.view(&grad_buffer), grad_features)
                .precision(self.precision)
                .non_finite(B::view_mut(&mut word));
        assert_eq!(outcome(device, op.run(device)), Ok(()));
        let grads = if layout == Layout::Split {
            let (dense_grads, sparse_grads) =
                (outputs[1].download(device, &out[1]), outputs[2].download(device, &out[2]));
            let sample = |b: usize| {
                [&dense_grads[b * dense..][..dense], &sparse_grads[b * rest..][..rest]].concat()
            };
            (0..self.batch_size).flat_map(sample).collect()
        } else {
            outputs[0].download(device, &out[0])
        };
        let is_bad = grads.iter().any(|grad| !grad.to_f32().is_finite());
        assert_eq!(download(device, &word), [u64::from(is_bad)], "{interaction:?}, {layout:?}");
        grads
    }

    /// Returns the number of columns of the output.
    fn width(&self, interaction: Interaction, layout: Layout) -> usize {
        let has_dense = layout != Layout::Joined;
        reference::dots(interaction, &vec![Approx::ZERO; self.row()], self.dim, has_dense).len()
    }

    /// Returns the factors of products, with their errors in tf32.
    fn factors(&self, values: &[E]) -> Vec<Approx> {
        let may_round = E::DTYPE == DType::F32 && self.precision == Precision::Tf32;
        exact(values).into_iter().map(|x| if may_round { x.as_tf32() } else { x }).collect()
    }

    /// Returns `want` with the errors of tensor cores, if the device may sum on them. Each sum has
    /// `terms` products, and `magnitudes` holds the sums of their absolute values. An element of
    /// `exactly` without an error is a copy, which must be right to the bit.
    fn expected(
        &self,
        exactly: &[Approx],
        want: &[Approx],
        magnitudes: &[Approx],
        terms: usize,
    ) -> Vec<Approx> {
        let may_cut = E::DTYPE != DType::F32 || self.precision == Precision::Tf32;
        let one = |k: usize| match exactly[k].error {
            0.0 => exactly[k],
            _ if may_cut => want[k].on_tensor_cores(terms, magnitudes[k]),
            _ => want[k],
        };
        (0..want.len()).map(one).collect()
    }

    fn expected_output(&self, interaction: Interaction, has_dense: bool) -> Vec<Approx> {
        let of = |features: &[Approx]| -> Vec<Approx> {
            let samples = features.chunks(self.row().max(1)).take(self.batch_size);
            samples
                .flat_map(|sample| reference::dots(interaction, sample, self.dim, has_dense))
                .collect()
        };
        let factors = self.factors(&self.features);
        self.expected(
            &of(&exact(&self.features)),
            &of(&factors),
            &of(&magnitudes(&factors)),
            self.dim,
        )
    }

    fn expected_grads(&self, interaction: Interaction, has_dense: bool, grad: &[E]) -> Vec<Approx> {
        let of = |features: &[Approx], grad: &[Approx]| -> Vec<Approx> {
            let width = grad.len() / self.batch_size.max(1);
            let sample = |b: usize| {
                let (features, grad) =
                    (&features[b * self.row()..][..self.row()], &grad[b * width..][..width]);
                reference::dots_backward(interaction, features, self.dim, has_dense, grad)
            };
            (0..self.batch_size).flat_map(sample).collect()
        };
        let (features, grads) = (self.factors(&self.features), self.factors(grad));
        let want = of(&features, &grads);
        let magnitudes = of(&magnitudes(&features), &magnitudes(&grads));
        self.expected(
            &of(&exact(&self.features), &exact(grad)),
            &want,
            &magnitudes,
            self.num_features + 1,
        )
    }

    /// Compares all layouts with the reference, forward and backward.
    fn check<B: InteractionOps>(&self, device: &B, interaction: Interaction) {
        for layout in LAYOUTS {
            let what = format!(
                "{interaction:?}, {layout:?}, {} {:?}, B = {}, F = {}, D = {}, slack {}",
                E::DTYPE,
                self.precision,
                self.batch_size,
                self.num_features,
                self.dim,
                self.gap
            );
            let (width, has_dense) = (self.width(interaction, layout), layout != Layout::Joined);
            let counted =
                interaction.width(has_dense, self.num_features - usize::from(has_dense), self.dim);
            assert_eq!(counted, width, "{what}: width");
            let got = self.forward(device, interaction, layout);
            assert_close(&what, &got, &self.expected_output(interaction, has_dense));
            let grad = draw_stored(self.batch_size * width, 5);
            let got = self.backward(device, interaction, layout, &grad);
            assert_close(
                &format!("{what}, backward"),
                &got,
                &self.expected_grads(interaction, has_dense, &grad),
            );
        }
    }
}

fn magnitudes(values: &[Approx]) -> Vec<Approx> {
    values.iter().map(|x| Approx { value: x.value.abs(), ..*x }).collect()
}

/// Returns every kind of interaction.
fn interactions() -> Vec<Interaction> {
    let mut all = vec![Interaction::Cat];
    for order in [PairOrder::LowerTriangle, PairOrder::UpperTriangle] {
        for include_self in [false, true] {
            for pad_to in [1, 8] {
                // All combinations of each two of the three settings occur.
                let append_sparse = include_self != (pad_to == 8);
                all.push(Interaction::Dot { order, include_self, append_sparse, pad_to });
            }
        }
    }
    all
}

fn all_dimensions<B: InteractionOps>(device: &B) {
    for interaction in interactions() {
        DIMS.iter().for_each(|&dim| Case::<f32>::new(3, 4, dim).check(device, interaction));
    }
}

fn all_numbers_of_features<B: InteractionOps>(device: &B) {
    for interaction in interactions() {
        [1, 2, 27, 64].iter().for_each(|&num_features| {
            Case::<f32>::new(2, num_features, 17).check(device, interaction)
        });
    }
}

/// Checks rows that start at multiples of 16 bytes, as in training, and of 4.
fn all_alignments<B: InteractionOps>(device: &B) {
    for interaction in interactions() {
        for (gap, dim) in [(0, 64), (8, 16), (4, 24), (1, 16)] {
            Case { gap, ..Case::<f32>::new(2, 9, dim) }.check(device, interaction);
        }
    }
}

/// Checks samples that are too large for the shared memory of a block.
fn large_samples<B: InteractionOps>(device: &B) {
    let cases = [(3, 66, 150), (0, 68, 144), (0, 2, 12_000)];
    for (interaction, (gap, num_features, dim)) in
        interactions().into_iter().zip(cases.into_iter().cycle())
    {
        Case { gap, ..Case::<f32>::new(1, num_features, dim) }.check(device, interaction);
    }
}

/// Checks samples of all sizes, on tensor cores if the backend has them: F around multiples of 16,
/// D around multiples of 8 and 16, samples that fit a warp, a block, or neither.
fn check_low_precision<E: Stored + Poison>(device: &impl InteractionOps, precision: Precision) {
    let shapes = [
        (3, 4, 1),
        (0, 27, 64),
        (1, 16, 16),
        (8, 17, 40),
        (0, 1, 24),
        (3, 33, 129),
        (0, 64, 32),
        (4, 65, 8),
        (2, 2, 200),
        (0, 31, 128),
    ];
    let interactions = interactions();
    for (k, (gap, num_features, dim)) in shapes.into_iter().enumerate() {
        for interaction in [k, k + 5].map(|k| interactions[k % interactions.len()]) {
            Case::<E> { gap, precision, ..Case::new(3, num_features, dim) }
                .check(device, interaction);
        }
    }
}

fn f16_features<B: InteractionOps>(device: &B) {
    check_low_precision::<f16>(device, Precision::Full);
}

fn bf16_features<B: InteractionOps>(device: &B) {
    check_low_precision::<bf16>(device, Precision::Tf32);
}

fn tf32_products<B: InteractionOps>(device: &B) {
    check_low_precision::<f32>(device, Precision::Tf32);
}

/// Checks `<g, J x> = <Jᵀ g, x>` within the error bounds of both sides. Copied columns of the
/// output have degree one in the features, and dot products degree two, so these count twice.
fn is_adjoint<B: InteractionOps>(device: &B) {
    fn check<E: Stored + Poison>(device: &impl InteractionOps, precision: Precision) {
        for (interaction, (num_features, dim)) in
            interactions().into_iter().zip([(27, 16), (5, 33), (40, 8)].into_iter().cycle())
        {
            let case = Case::<E> { precision, ..Case::new(3, num_features, dim) };
            let layout = Layout::Split;
            let grad = draw_stored(3 * case.width(interaction, layout), 8);
            let (output, want) = (
                case.forward(device, interaction, layout),
                case.expected_output(interaction, true),
            );
            let (grads, want_grads) = (
                case.backward(device, interaction, layout, &grad),
                case.expected_grads(interaction, true, &grad),
            );
            let times = |want: &Approx| if want.error == 0.0 { 1.0 } else { 2.0 };
            let scaled: Vec<f64> =
                grad.iter().zip(&want).map(|(g, want)| times(want) * g.value()).collect();
            let (left, left_error) = inner(&scaled, &output, &want);
            let (right, right_error) = inner(&values(&case.features), &grads, &want_grads);
            let (off, bound) = ((left - right).abs(), left_error + right_error);
            assert!(
                off <= bound,
                "{interaction:?}, {}: {left} and {right}, {off:e} apart, not {bound:e}",
                E::DTYPE
            );
        }
    }
    check::<f32>(device, Precision::Full);
    check::<f32>(device, Precision::Tf32);
    check::<bf16>(device, Precision::Full);
}

/// Returns `Σ a b` with a bound of its error, which comes from `b` alone.
fn inner<E: Stored>(a: &[f64], b: &[E], b_errors: &[Approx]) -> (f64, f64) {
    assert_eq!((a.len(), b.len()), (b.len(), b_errors.len()));
    let product = a.iter().zip(b).map(|(a, b)| a * b.value()).sum();
    let off = |want: &Approx| want.error + ulp::<E>(want.value.abs() + want.error);
    (product, a.iter().zip(b_errors).map(|(a, want)| a.abs() * off(want)).sum())
}

/// Checks that the result of a sample does not depend on its place in the batch.
fn permuting_the_batch_permutes_results<B: InteractionOps>(device: &B) {
    fn check<E: Stored + Poison>(
        device: &impl InteractionOps,
        (num_features, dim): (usize, usize),
    ) {
        let case = Case::<E>::new(11, num_features, dim);
        let mut order: Vec<usize> = (0..11).collect();
        Philox::new(3, 0).shuffle(&mut order);
        let permute = |values: &[E]| -> Vec<E> {
            order
                .iter()
                .flat_map(|&b| &values[b * (values.len() / 11)..][..values.len() / 11])
                .copied()
                .collect()
        };
        let permuted =
            Case { features: permute(&case.features), ..Case::new(11, num_features, dim) };
        let (interaction, layout) = (Interaction::default(), Layout::JoinedWithDense);
        let grad = draw_stored(11 * case.width(interaction, layout), 4);
        let (output, grads) = (
            case.forward(device, interaction, layout),
            case.backward(device, interaction, layout, &grad),
        );
        assert_same_bits(
            "output",
            &permuted.forward(device, interaction, layout),
            &permute(&output),
        );
        let got = permuted.backward(device, interaction, layout, &permute(&grad));
        assert_same_bits("gradient", &got, &permute(&grads));
    }
    check::<f32>(device, (27, 17));
    check::<bf16>(device, (27, 16));
}

fn all_batch_sizes<B: InteractionOps>(device: &B) {
    for interaction in interactions() {
        [0, 1, 33]
            .iter()
            .for_each(|&batch_size| Case::<f32>::new(batch_size, 5, 8).check(device, interaction));
    }
}

/// Checks that the dense vector and the pooled ones may have different dimensions.
fn cat_takes_any_dimensions<B: InteractionOps>(device: &B) {
    let (interaction, dim, precision) = (Interaction::Cat, 0, Precision::Full);
    let halves = [Grid::new(3, 2, 1, &draw(6, 1)), Grid::new(3, 5, 0, &draw(15, 2))];
    let buffers = halves.each_ref().map(|grid| grid.upload(device));
    let output = Grid::poisoned(3, 7, 2);
    let mut output_buffer = output.upload(device);
    let features =
        Features::Split { dense: halves[0].view(&buffers[0]), sparse: halves[1].view(&buffers[1]) };
    Forward::new(interaction, dim, features, output.view_mut(&mut output_buffer))
        .precision(precision)
        .run(device)
        .unwrap();
    let got = output.download(device, &output_buffer);
    for (b, row) in got.chunks(7).enumerate() {
        assert_eq!(row, [&draw(6, 1)[b * 2..][..2], &draw(15, 2)[b * 5..][..5]].concat());
    }

    // The backward pass splits what the forward pass joined.
    let grad_output = Grid::new(3, 7, 2, &got);
    let grad_buffer = grad_output.upload(device);
    let grads = [Grid::poisoned(3, 2, 0), Grid::poisoned(3, 5, 4)];
    let mut grad_buffers = grads.each_ref().map(|grid| grid.upload(device));
    let [dense, sparse] = &mut grad_buffers;
    let op = Backward::new(
        interaction,
        dim,
        Features::Split { dense: halves[0].view(&buffers[0]), sparse: halves[1].view(&buffers[1]) },
        grad_output.view(&grad_buffer),
        FeaturesMut::Split { dense: grads[0].view_mut(dense), sparse: grads[1].view_mut(sparse) },
    )
    .precision(precision);
    op.run(device).unwrap();
    assert_eq!(grads[0].download(device, &grad_buffers[0]), draw(6, 1));
    assert_eq!(grads[1].download(device, &grad_buffers[1]), draw(15, 2));
}

fn nan_stays_with_its_sample<B: InteractionOps>(device: &B) {
    fn check<E: Stored + Poison>(device: &impl InteractionOps) {
        for interaction in interactions() {
            let mut case = Case::<E>::new(3, 4, 5);
            // The NaN is in sample 1, feature 2.
            case.features[20 + 11] = E::store(f64::NAN);
            for layout in LAYOUTS {
                let width = case.width(interaction, layout);
                let output = case.forward(device, interaction, layout);
                let grads =
                    case.backward(device, interaction, layout, &vec![E::store(1.0); 3 * width]);
                let has_nan = |row: &[E]| row.iter().any(|x| x.value().is_nan());
                assert_eq!(
                    output.chunks(width).map(has_nan).collect::<Vec<_>>(),
                    [false, true, false]
                );
                let dots = interaction != Interaction::Cat;
                assert_eq!(grads.chunks(20).map(has_nan).collect::<Vec<_>>(), [false, dots, false]);
            }
        }
    }
    check::<f32>(device);
    check::<bf16>(device);
}

/// [`Case::backward`] compares what the op says with what it wrote. The shapes are those of all
/// kernels, with rows that are vectorised and rows that are not.
fn gradients_that_are_not_finite_are_reported<B: InteractionOps>(device: &B) {
    fn check<E: Stored + Poison>(device: &impl InteractionOps, precision: Precision) {
        for (num_features, dim, gap) in
            [(4, 5, 3), (4, 16, 0), (27, 16, 8), (40, 8, 8), (200, 8, 0)]
        {
            let case = Case::<E> { gap, precision, ..Case::new(2, num_features, dim) };
            for (interaction, layout) in
                [Interaction::default(), Interaction::Cat].into_iter().zip([Layout::Split; 2])
            {
                let width = case.width(interaction, layout);
                let mut grad = vec![E::store(0.5); 2 * width];
                case.backward(device, interaction, layout, &grad);
                grad[2 * width - 1] = E::store(f64::NEG_INFINITY);
                case.backward(device, interaction, layout, &grad);
            }
        }
    }
    check::<f32>(device, Precision::Full);
    check::<f32>(device, Precision::Tf32);
    check::<f16>(device, Precision::Full);
    check::<bf16>(device, Precision::Full);
}

/// Returns a matrix without slack.
fn matrix<B: InteractionOps>(
    buffer: &B::Buffer<f32>,
    rows: usize,
    cols: usize,
) -> Matrix<'_, B, f32> {
    Matrix { data: B::view(buffer), rows, cols, ld: cols }
}

/// Checks that each wrong argument gives an error that names it, and that nothing is written.
fn wrong_shapes_are_errors<B: InteractionOps>(device: &B) {
    let (interaction, precision) = (Interaction::default(), Precision::Full);
    let buffer = upload(device, &draw(64, 1));
    // One part is a matrix that starts with a dense vector. Two parts are the dense vectors and the
    // pooled ones.
    let forward = |dim: usize, parts: &[(usize, usize)], rows: usize, cols: usize| {
        let mut output = upload(device, &poisoned::<f32>(64));
        let features = match parts[..] {
            [(rows, cols)] => {
                Features::Joined { block: matrix::<B>(&buffer, rows, cols), has_dense: true }
            }
            _ => Features::Split {
                dense: matrix::<B>(&buffer, parts[0].0, parts[0].1),
                sparse: matrix::<B>(&buffer, parts[1].0, parts[1].1),
            },
        };
        let view = MatrixMut { data: B::view_mut(&mut output), rows, cols, ld: cols };
        let text = message(
            Forward::new(interaction, dim, features, view).precision(precision).run(device),
        );
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
        (
            forward(4, &[(2, 4), (2, 9)], 2, 7),
            "features.sparse.cols: 9 is no multiple of the dimension 4",
        ),
        (
            forward(4, &[(1 << 31, 12)], 2, 7),
            "features.block.rows: 2147483648 is more than 2^31 - 1",
        ),
        (
            forward(4, &[(2, 1 << 31)], 2, 7),
            "features.block.cols: 2147483648 is more than 2^31 - 1",
        ),
        (
            forward(4, &[(1 << 31, 4), (1 << 31, 8)], 2, 7),
            "features.dense.rows: 2147483648 is more than 2^31 - 1",
        ),
        (
            forward(1 << 31, &[(0, 1 << 31), (0, 0)], 0, 7),
            "features.dense.cols: 2147483648 is more than 2^31 - 1",
        ),
        (
            forward(4, &[(2, 4), (2, 1 << 31)], 2, 7),
            "features.sparse.cols: 2147483648 is more than 2^31 - 1",
        ),
    ] {
        assert_eq!(text, format!("interaction.forward: {want}"));
    }

    let backward = |grad: (usize, usize), joined_output: bool, (rows, cols): (usize, usize)| {
        let (mut a, mut b) =
            (upload(device, &poisoned::<f32>(64)), upload(device, &poisoned::<f32>(64)));
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
        let op = Backward::new(interaction, 4, features, grad_output, grad_features)
            .precision(precision);
        let text = message(op.run(device));
        assert_same_bits(&text, &download(device, &a), &poisoned(64));
        assert_same_bits(&text, &download(device, &b), &poisoned(64));
        text
    };
    for (text, want) in [
        (backward((2, 6), true, (2, 12)), "grad_output.cols is 6, but must be 7"),
        (backward((2, 7), true, (2, 11)), "grad_features.block.cols is 11, but must be 12"),
        (
            backward((2, 7), false, (2, 8)),
            "grad_features: it must have the same layout as the features",
        ),
    ] {
        assert_eq!(text, format!("interaction.backward: {want}"));
    }
}

#[test]
fn results_do_not_depend_on_threads() {
    let case = Case::<f32>::new(130, 27, 65);
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

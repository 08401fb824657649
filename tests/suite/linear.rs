//! Tests of `linear`: a fully connected layer, forward and backward.

use crate::common::*;
use bagdot::ops::linear::{ActivationGrad, Backward, Forward, LinearOps, Pack};
use bagdot::ops::{Accum, Activation, Precision};
use bagdot::{Cpu, DType, bf16, f16};

backend_suite!(
    cuda:
    forward_is_right,
    forward_is_right_in_low_precision,
    backward_is_right,
    backward_is_right_in_low_precision,
    backward_goes_through_relu,
    nan_comes_through,
    wrong_shapes_are_errors,
);

/// The shapes as batch size, outputs and inputs.
const SHAPES: [(usize, usize, usize); 14] = [
    (0, 3, 4),
    (1, 1, 1),
    (4, 0, 3),
    (5, 2, 0),
    (1, 128, 129),
    (33, 1, 17),
    (5, 4, 3),
    (33, 64, 63),
    (33, 127, 1),
    (7, 129, 128),
    (3, 5, 2050),
    (2, 16, 1024),
    (130, 3, 4),
    (64, 64, 64),
];
const ACTIVATIONS: [Activation; 2] = [Activation::None, Activation::Relu];

/// The shapes for types that tensor cores or AMX multiply. Rows start at multiples of 16, 4 and 2
/// bytes. There are fewer and more terms than one instruction adds, and full and partial tiles.
const LOW_PRECISION_SHAPES: [(usize, usize, usize); 9] = [
    (0, 3, 4),
    (4, 0, 3),
    (5, 2, 0),
    (1, 1, 1),
    (33, 64, 63),
    (7, 129, 136),
    (64, 64, 64),
    (130, 3, 70),
    (3, 5, 2050),
];

/// A type that layers compute in.
pub trait Layers: Stored + Poison {
    /// The error bound, as a multiple of the bound of exact products added in `f32`.
    ///
    /// Matrix instructions add exact products, but may truncate where the standard model rounds to
    /// nearest: the unit roundoff of their additions is 2⁻²³ = 2u. For n < 4096 terms γₙ(2u) = 2nu
    /// / (1 - 2nu) ≤ 2.001 γₙ(u).
    const SIDES: f64;
}

impl Layers for f32 {
    const SIDES: f64 = 1.0;
}
impl Layers for f16 {
    const SIDES: f64 = 2.001;
}
impl Layers for bf16 {
    const SIDES: f64 = 2.001;
}

/// The inputs that a device may round before it multiplies.
#[derive(Clone, Copy)]
pub struct Rounded {
    /// The relative error of a factor of tf32, which has 11 bits: 2⁻¹¹ if it is rounded to nearest,
    /// 2⁻¹⁰ if the other bits are cut off.
    pub tf32: f64,
    /// True if the bias may be rounded to the type of a layer.
    pub bias: bool,
}

const ROUNDED: Rounded = Rounded { tf32: 1.0 / 2048.0, bias: false };

impl Rounded {
    /// Returns the factors of a product.
    fn factors<E: Layers>(self, values: &[E], precision: Precision) -> Vec<Approx> {
        let share = if precision == Precision::Tf32 { self.tf32 } else { 0.0 };
        exact(values).into_iter().map(|x| Approx { error: x.value.abs() * share, ..x }).collect()
    }

    /// Returns the bias.
    fn bias<E: Layers>(self, values: &[f32]) -> Vec<Approx> {
        let error = |x: f64| if self.bias { (E::store(x).value() - x).abs() } else { 0.0 };
        exact(values).into_iter().map(|x| Approx { error: error(x.value), ..x }).collect()
    }
}

/// Returns [`Layers::SIDES`], or its value for tf32.
fn sides<E: Layers>(precision: Precision) -> f64 {
    if precision == Precision::Tf32 { 2.001 } else { E::SIDES }
}

/// A layer with a batch of inputs.
struct Case<E> {
    shape: (usize, usize, usize),
    precision: Precision,
    input: Vec<E>,
    weight: Vec<E>,
    bias: Vec<f32>,
}

impl<E: Layers> Case<E> {
    fn new((m, n, k): (usize, usize, usize), precision: Precision) -> Self {
        let seed = (m * 31 + n * 7 + k) as u64;
        let (input, weight) = (draw_stored(m * k, seed), draw_stored(n * k, seed + 1));
        Self { shape: (m, n, k), precision, input, weight, bias: draw(n, seed + 2) }
    }

    fn forward<B: LinearOps>(&self, device: &B, activation: Activation, gap: usize) -> Vec<E> {
        let (m, n, k) = self.shape;
        let (input, weight) =
            (Grid::new(m, k, gap, &self.input), Grid::new(n, k, gap * 2, &self.weight));
        let output = Grid::poisoned(m, n, gap);
        let buffers = [input.upload(device), weight.upload(device)];
        let bias = upload(device, &self.bias);
        let run = |packed: Option<&B::Buffer<u64>>| {
            let mut output_buffer = output.upload(device);
            let mut op = Forward::new(
                input.view(&buffers[0]),
                weight.view(&buffers[1]),
                B::view(&bias),
                output.view_mut(&mut output_buffer),
            )
            .activation(activation)
            .precision(self.precision);
            op.packed_weight = packed.map(B::view);
            assert_eq!(outcome(device, op.run(device)), Ok(()));
            output.download(device, &output_buffer)
        };
        let got = run(None);
        let len = Pack::<B, E>::len(device, n, k);
        if len > 0 {
            let mut packed = upload(device, &poisoned::<u64>(len));
            let pack = Pack::new(weight.view(&buffers[1]), B::view_mut(&mut packed));
            assert_eq!(outcome(device, pack.run(device)), Ok(()));
            assert_same_bits(&format!("{:?}, packed", self.shape), &run(Some(&packed)), &got);
        }
        got
    }

    /// Runs backward. The gradients of weight and bias hold `before`.
    fn backward<B: LinearOps>(
        &self,
        device: &B,
        how: How<'_, E>,
        before: (&[f32], &[f32]),
    ) -> Got<E> {
        let (m, n, k) = self.shape;
        let gap = how.gap;
        let (input, weight) =
            (Grid::new(m, k, gap, &self.input), Grid::new(n, k, gap * 2, &self.weight));
        let (output, grad_output) =
            (Grid::new(m, n, gap, how.output), Grid::new(m, n, gap + 1, how.grad_output));
        let (grad_input, grad_weight) = (Grid::poisoned(m, k, gap), Grid::new(n, k, gap, before.0));
        let inputs = [input.upload(device), weight.upload(device), output.upload(device)];
        let mut outputs = [grad_output.upload(device), grad_input.upload(device)];
        let [z, dx] = &mut outputs;
        let mut dw = grad_weight.upload(device);
        let mut db = upload(device, before.1);
        let mut workspace =
            upload(device, &poisoned::<u64>(Backward::<B, E>::workspace_len(device, m, n, k)));
        let mut op = Backward::new(
            input.view(&inputs[0]),
            weight.view(&inputs[1]),
            output.view(&inputs[2]),
            grad_output.view_mut(z),
            grad_weight.view_mut(&mut dw),
            B::view_mut(&mut db),
            B::view_mut(&mut workspace),
        )
        .activation(how.activation)
        .precision(self.precision)
        .accum(how.accum);
        op.grad_input = how.wants_input.then(|| grad_input.view_mut(dx));
        assert_eq!(outcome(device, op.run(device)), Ok(()));
        Got {
            affine: grad_output.download(device, &outputs[0]),
            input: grad_input.download(device, &outputs[1]),
            weight: grad_weight.download(device, &dw),
            bias: download(device, &db),
        }
    }
}

/// The settings of a backward pass.
#[derive(Clone, Copy)]
struct How<'a, E> {
    output: &'a [E],
    grad_output: &'a [E],
    activation: Activation,
    accum: Accum,
    wants_input: bool,
    gap: usize,
}

/// The results of a backward pass.
struct Got<E> {
    affine: Vec<E>,
    input: Vec<E>,
    weight: Vec<f32>,
    bias: Vec<f32>,
}

fn forward_is_right<B: LinearOps>(device: &B) {
    forward_is_right_of::<B, f32>(device, Precision::Full, &SHAPES, ROUNDED);
}

fn forward_is_right_in_low_precision<B: LinearOps>(device: &B) {
    forward_is_right_of::<B, f32>(device, Precision::Tf32, &LOW_PRECISION_SHAPES, ROUNDED);
    forward_is_right_of::<B, f16>(device, Precision::Full, &LOW_PRECISION_SHAPES, ROUNDED);
    forward_is_right_of::<B, bf16>(device, Precision::Full, &LOW_PRECISION_SHAPES, ROUNDED);
}

pub fn forward_is_right_of<B: LinearOps, E: Layers>(
    device: &B,
    precision: Precision,
    shapes: &[(usize, usize, usize)],
    rounded: Rounded,
) {
    for &shape in shapes {
        let case = Case::<E>::new(shape, precision);
        let (x, w) =
            (rounded.factors(&case.input, precision), rounded.factors(&case.weight, precision));
        for activation in ACTIVATIONS {
            let relu = activation == Activation::Relu;
            let want = reference::linear(&x, &w, &rounded.bias::<E>(&case.bias), shape, relu);
            for gap in [0, 3] {
                let got = case.forward(device, activation, gap);
                let what =
                    format!("{}, {precision:?}, {shape:?}, {activation:?}, gap {gap}", E::DTYPE);
                assert_close_within(&what, &got, &want, sides::<E>(precision));
                assert!(!relu || got.iter().all(|y| y.value() >= 0.0));
            }
        }
    }
}

fn backward_is_right<B: LinearOps>(device: &B) {
    let gaps = [(true, 0), (true, 3), (false, 1)];
    backward_is_right_of::<B, f32>(device, Precision::Full, &SHAPES, &gaps, ROUNDED);
}

fn backward_is_right_in_low_precision<B: LinearOps>(device: &B) {
    let gaps = [(true, 0), (false, 1)];
    backward_is_right_of::<B, f32>(device, Precision::Tf32, &LOW_PRECISION_SHAPES, &gaps, ROUNDED);
    backward_is_right_of::<B, f16>(device, Precision::Full, &LOW_PRECISION_SHAPES, &gaps, ROUNDED);
    backward_is_right_of::<B, bf16>(device, Precision::Full, &LOW_PRECISION_SHAPES, &gaps, ROUNDED);
}

pub fn backward_is_right_of<B: LinearOps, E: Layers>(
    device: &B,
    precision: Precision,
    shapes: &[(usize, usize, usize)],
    gaps: &[(bool, usize)],
    rounded: Rounded,
) {
    for &shape in shapes {
        let ((m, n, k), case) = (shape, Case::<E>::new(shape, precision));
        // An output of ReLU: about half of the values are zeros, which may have a sign.
        let output: Vec<f32> =
            draw(m * n, 8).iter().map(|y| if *y < 0.0 { y * 0.0 } else { *y }).collect();
        let output: Vec<E> = output.iter().map(|&y| E::store(f64::from(y))).collect();
        let grad_output = draw_stored::<E>(m * n, 9);
        let before = (draw(n * k, 10), draw(n, 11));
        for (activation, accum) in
            ACTIVATIONS.iter().flat_map(|&a| [(a, Accum::Replace), (a, Accum::Add)])
        {
            let old = (exact(&before.0), exact(&before.1));
            let reference = |precision: Precision| {
                let matrices = [&case.input, &case.weight, &output, &grad_output]
                    .map(|x| rounded.factors(x, precision));
                let before = (accum == Accum::Add).then_some((&old.0[..], &old.1[..]));
                reference::linear_backward(
                    matrices.each_ref().map(|x| &x[..]),
                    shape,
                    activation,
                    before,
                )
            };
            // Products have rounded factors. The gradients of the affine map and of the bias are
            // not products.
            let (want, products) = (reference(Precision::Full), reference(precision));
            for &(wants_input, gap) in gaps {
                let what = format!(
                    "{}, {precision:?}, {shape:?}, {activation:?}, {accum:?}, gap {gap}",
                    E::DTYPE
                );
                let poison = (poisoned(n * k), poisoned(n));
                let before = if accum == Accum::Add { &before } else { &poison };
                let (output, grad_output) = (&output[..], &grad_output[..]);
                let how = How { output, grad_output, activation, accum, wants_input, gap };
                let got = case.backward(device, how, (&before.0, &before.1));
                assert_eq!(
                    exact(&got.affine),
                    want.affine,
                    "{what}: the gradient of the affine map"
                );
                assert_close_within(
                    &format!("{what}, weight"),
                    &got.weight,
                    &products.weight,
                    sides::<E>(precision),
                );
                assert_close(&format!("{what}, bias"), &got.bias, &want.bias);
                match wants_input {
                    true => {
                        assert_close_within(
                            &format!("{what}, input"),
                            &got.input,
                            &products.input,
                            sides::<E>(precision),
                        );
                    }
                    false => assert_same_bits(&what, &got.input, &poisoned(m * k)),
                }
            }
        }
    }
}

/// Checks the backward pass of a layer whose input is the output of ReLU, and which gets the
/// gradient of its affine map from `ActivationGrad`: two layers without a pass between them.
fn backward_goes_through_relu<B: LinearOps>(device: &B) {
    for shape in [(0, 3, 4), (1, 1, 1), (33, 5, 17), (130, 64, 70), (300, 16, 40)] {
        backward_goes_through_relu_of::<B, f32>(device, shape, Precision::Full);
        backward_goes_through_relu_of::<B, f32>(device, shape, Precision::Tf32);
        backward_goes_through_relu_of::<B, f16>(device, shape, Precision::Full);
        backward_goes_through_relu_of::<B, bf16>(device, shape, Precision::Full);
    }
}

pub fn backward_goes_through_relu_of<B: LinearOps, E: Layers>(
    device: &B,
    (m, n, k): (usize, usize, usize),
    precision: Precision,
) {
    let case = Case::<E>::new((m, n, k), precision);
    let (output, grad_output) = (draw_stored::<E>(m * n, 8), draw_stored::<E>(m * n, 9));
    let (activation, wants_input) = (Activation::Relu, true);
    for (accum, gap) in [(Accum::Replace, 0), (Accum::Add, 3)] {
        let what = format!("{}, {precision:?}, {:?}, gap {gap}", E::DTYPE, (m, n, k));
        let (old_weight, old_bias, old_before) = (draw(n * k, 10), draw(n, 11), draw(k, 12));
        let (output, grad_output) = (&output[..], &grad_output[..]);
        let how = How { output, grad_output, activation, accum, wants_input, gap };
        let want = case.backward(device, how, (&old_weight, &old_bias));

        let z = Grid::new(m, n, gap, grad_output);
        let (x, w, y) = (
            Grid::new(m, k, gap, &case.input),
            Grid::new(n, k, gap, &case.weight),
            Grid::new(m, n, gap, output),
        );
        let (dx, dw) = (Grid::<E>::poisoned(m, k, gap), Grid::new(n, k, gap, &old_weight));
        let inputs = [x.upload(device), w.upload(device), y.upload(device)];
        let mut grads = [z.upload(device), dx.upload(device)];
        let mut dw_buffer = dw.upload(device);
        let [mut db, mut db_before] = [&old_bias, &old_before].map(|of| upload(device, of));
        let len = Backward::<B, E>::workspace_len(device, m, n, k);
        let mut workspace = upload(device, &poisoned::<u64>(len));
        let op = ActivationGrad::new(
            y.view(&inputs[2]),
            activation,
            z.view_mut(&mut grads[0]),
            B::view_mut(&mut db),
            B::view_mut(&mut workspace),
        );
        assert_eq!(outcome(device, op.accum(accum).run(device)), Ok(()));
        let mut unused = device.alloc(n).unwrap();
        let [z_buffer, dx_buffer] = &mut grads;
        let mut op = Backward::new(
            x.view(&inputs[0]),
            w.view(&inputs[1]),
            y.view(&inputs[2]),
            z.view_mut(z_buffer),
            dw.view_mut(&mut dw_buffer),
            B::view_mut(&mut unused),
            B::view_mut(&mut workspace),
        )
        .precision(precision)
        .grad_input(dx.view_mut(dx_buffer))
        .through_relu(B::view_mut(&mut db_before))
        .accum(accum);
        op.grad_bias = None;
        assert_eq!(outcome(device, op.run(device)), Ok(()));

        // All but the bias gradients are the same bits as of the parts one by one.
        assert_same_bits(&what, &z.download(device, &grads[0]), &want.affine);
        assert_same_bits(&what, &dw.download(device, &dw_buffer), &want.weight);
        let got = dx.download(device, &grads[1]);
        let masked = want.input.iter().zip(&case.input);
        let masked: Vec<E> =
            masked.map(|(&g, x)| if x.value() <= 0.0 { E::store(0.0) } else { g }).collect();
        assert_same_bits(&what, &got, &masked);
        let sums = |values: &[E], columns: usize, old: &[f32]| -> Vec<Approx> {
            let values = exact(values);
            let sum_of = |column: usize| {
                let mut terms: Vec<_> =
                    values.iter().skip(column).step_by(columns).copied().collect();
                terms.extend((accum == Accum::Add).then(|| Approx::exact(old[column])));
                Approx::sum(&terms)
            };
            (0..columns).map(sum_of).collect()
        };
        let (db, db_before) = (download(device, &db), download(device, &db_before));
        assert_close(&format!("{what}, bias"), &db, &sums(&want.affine, n, &old_bias));
        assert_close(&format!("{what}, before"), &db_before, &sums(&got, k, &old_before));
        let untouched = download(device, &unused);
        assert!(untouched.iter().all(|x| *x == 0.0), "a bias without a gradient stays");
    }
}

/// Checks that the backward pass of ReLU does not replace a NaN by 0.
fn nan_comes_through<B: LinearOps>(device: &B) {
    nan_comes_through_of::<B, f32>(device, Precision::Full);
    nan_comes_through_of::<B, f32>(device, Precision::Tf32);
    nan_comes_through_of::<B, f16>(device, Precision::Full);
    nan_comes_through_of::<B, bf16>(device, Precision::Full);
}

fn nan_comes_through_of<B: LinearOps, E: Layers>(device: &B, precision: Precision) {
    let mut case = Case::<E>::new((3, 2, 2), precision);
    // All fraction bits are set, as in the NaN that devices compute.
    case.input[2] = E::from_f32(f32::from_bits(0x7fff_ffff));
    for activation in ACTIVATIONS {
        let output = case.forward(device, activation, 1);
        let is_nan: Vec<bool> = output.iter().map(|y| y.value().is_nan()).collect();
        assert_eq!(is_nan, [false, false, true, true, false, false]);
        let (accum, wants_input) = (Accum::Replace, true);
        let grad_output = [E::store(1.0); 6];
        let how = How {
            output: &output,
            grad_output: &grad_output,
            activation,
            accum,
            wants_input,
            gap: 0,
        };
        let got = case.backward(device, how, (&poisoned(4), &poisoned(2)));
        assert_eq!(got.affine[2..4], [E::store(1.0); 2], "a NaN lets the gradient through");
        assert!(got.weight[0].is_nan() && got.weight[2].is_nan() && !got.weight[1].is_nan());
    }
}

/// Checks that each wrong argument gives an error that names it, and that nothing is written.
fn wrong_shapes_are_errors<B: LinearOps>(device: &B) {
    let ones = upload(device, &[1.0_f32; 64]);
    let grid = |rows, cols| Grid::<f32>::poisoned(rows, cols, 0);
    let words = upload(device, &[0_u64; 64]);
    let shapes = |op: &str,
                  [input, weight, output]: [(usize, usize); 3],
                  bias: usize,
                  packed: Option<usize>| {
        let [input, weight, output_grid] =
            [input, weight, output].map(|(rows, cols)| grid(rows, cols));
        let mut out = upload(device, &poisoned::<f32>(64));
        let mut others = [64, 64, 64].map(|len| upload(device, &poisoned::<f32>(len)));
        let [dx, dw, db] = &mut others;
        let mut workspace = device.alloc(64).unwrap();
        let text = match op {
            "forward" => {
                let mut forward = Forward::new(
                    input.view(&ones),
                    weight.view(&ones),
                    B::slice(&ones, 0..bias),
                    output_grid.view_mut(&mut out),
                )
                .activation(Activation::Relu);
                forward.packed_weight = packed.map(|len| B::slice(&words, 0..len));
                message(forward.run(device))
            }
            _ => message(
                Backward::new(
                    input.view(&ones),
                    grid(4, 3).view(&ones),
                    grid(2, 4).view(&ones),
                    grid(2, 4).view_mut(&mut out),
                    weight.view_mut(dw),
                    B::slice_mut(db, 0..bias),
                    B::view_mut(&mut workspace),
                )
                .activation(Activation::Relu)
                .grad_input(output_grid.view_mut(dx))
                .run(device),
            ),
        };
        for buffer in [&out].into_iter().chain(&others) {
            assert_same_bits(&text, &download(device, buffer), &poisoned(64));
        }
        text
    };
    let right = [(2, 3), (4, 3), (2, 4)];
    for (spoilt, bias, want) in [
        ([(3, 3), right[1], right[2]], 4, "input.rows is 3, but must be 2"),
        ([(2, 2), right[1], right[2]], 4, "input.cols is 2, but must be 3"),
        ([right[0], (5, 3), right[2]], 4, "weight.rows is 5, but must be 4"),
        ([right[0], right[1], (2, 40)], 4, "weight.rows is 4, but must be 40"),
        ([(20, 4), (1, 4), (20, 1)], 1, "input.data holds 64 elements, but 80 are needed"),
        (right, 3, "bias is 3, but must be 4"),
    ] {
        assert_eq!(shapes("forward", spoilt, bias, None), format!("linear.forward: {want}"));
    }
    let len = Pack::<B, f32>::len(device, 4, 3);
    let want = format!("packed_weight is {}, but must be {len}", len + 1);
    assert_eq!(shapes("forward", right, 4, Some(len + 1)), format!("linear.forward: {want}"));
    for (rows, len, want) in [
        (4, len + 1, format!("packed is {}, but must be {len}", len + 1)),
        (40, len, "weight.data holds 64 elements, but 120 are needed".into()),
    ] {
        let mut packed = upload(device, &[7_u64; 64]);
        let pack = Pack::new(grid(rows, 3).view(&ones), B::slice_mut(&mut packed, 0..len));
        assert_eq!(message(pack.run(device)), format!("linear.pack: {want}"));
        assert_eq!(download(device, &packed), [7; 64]);
    }
    // The shapes are those of the input, the gradient of the weight and the gradient of the input.
    let right = [(2, 3), (4, 3), (2, 3)];
    for (spoilt, bias, want) in [
        ([(1, 3), right[1], right[2]], 4, "input.rows is 1, but must be 2"),
        ([right[0], (4, 2), right[2]], 4, "grad_weight.cols is 2, but must be 3"),
        ([right[0], right[1], (2, 4)], 4, "grad_input.cols is 4, but must be 3"),
        (right, 5, "grad_bias is 5, but must be 4"),
    ] {
        assert_eq!(shapes("backward", spoilt, bias, None), format!("linear.backward: {want}"));
    }
}

#[test]
fn results_do_not_depend_on_threads() {
    for shape in [(513, 250, 300), (1000, 1, 77), (1, 900, 400), (2, 3, 30_000), (300, 256, 2)] {
        results_do_not_depend_on_threads_of::<f32>(shape);
    }
    results_do_not_depend_on_threads_of::<bf16>((130, 70, 90));
}

fn results_do_not_depend_on_threads_of<E: Layers>(shape: (usize, usize, usize)) {
    let ((m, n, k), case) = (shape, Case::<E>::new(shape, Precision::Full));
    let what = format!("{}, {shape:?}", E::DTYPE);
    let work = |cpu: &Cpu| {
        let output = case.forward(cpu, Activation::Relu, 1);
        let (grad_output, activation, accum) =
            (&draw_stored(m * n, 1)[..], Activation::Relu, Accum::Add);
        let how =
            How { output: &output, grad_output, activation, accum, wants_input: true, gap: 0 };
        let got = case.backward(cpu, how, (&draw(n * k, 2), &draw(n, 3)));
        [bytes(&output), bytes(&got.input), bytes(&got.weight), bytes(&got.bias)].concat()
    };
    match E::DTYPE {
        DType::BF16 => assert_deterministic_on_each_simd(&what, work),
        _ => assert_deterministic_but_for_amx(&what, work),
    }
}

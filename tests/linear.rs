//! `linear`: a fully connected layer, forward and backward.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use bagdot::ops::linear::{Backward, Forward, LinearOps};
use bagdot::ops::{Accum, Activation};
use common::*;

backend_suite!(cuda: forward_is_right, backward_is_right, nan_comes_through, wrong_shapes_are_errors);

/// Batch size, outputs and inputs.
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

/// A layer with the batch that runs through it.
struct Case {
    shape: (usize, usize, usize),
    input: Vec<f32>,
    weight: Vec<f32>,
    bias: Vec<f32>,
}

impl Case {
    fn new((m, n, k): (usize, usize, usize)) -> Self {
        let seed = (m * 31 + n * 7 + k) as u64;
        Self { shape: (m, n, k), input: draw(m * k, seed), weight: draw(n * k, seed + 1), bias: draw(n, seed + 2) }
    }

    fn forward<B: LinearOps>(&self, device: &B, activation: Activation, gap: usize) -> Vec<f32> {
        let (m, n, k) = self.shape;
        let (input, weight) = (Grid::new(m, k, gap, &self.input), Grid::new(n, k, gap * 2, &self.weight));
        let output = Grid::poisoned(m, n, gap);
        let buffers = [input.upload(device), weight.upload(device), upload(device, &self.bias)];
        let mut output_buffer = output.upload(device);
        let op = Forward {
            input: input.view(&buffers[0]),
            weight: weight.view(&buffers[1]),
            bias: B::view(&buffers[2]),
            activation,
            output: output.view_mut(&mut output_buffer),
        };
        assert_eq!(outcome(device, op.run(device)), Ok(()));
        output.download(device, &output_buffer)
    }

    /// Runs backward with `before` in the gradients of weight and bias.
    fn backward<B: LinearOps>(&self, device: &B, how: How<'_>, before: (&[f32], &[f32])) -> Got {
        let (m, n, k) = self.shape;
        let gap = how.gap;
        let (input, weight) = (Grid::new(m, k, gap, &self.input), Grid::new(n, k, gap * 2, &self.weight));
        let (output, grad_output) = (Grid::new(m, n, gap, how.output), Grid::new(m, n, gap + 1, how.grad_output));
        let (grad_input, grad_weight) = (Grid::poisoned(m, k, gap), Grid::new(n, k, gap, before.0));
        let inputs = [input.upload(device), weight.upload(device), output.upload(device)];
        let mut outputs = [grad_output.upload(device), grad_input.upload(device), grad_weight.upload(device)];
        let [z, dx, dw] = &mut outputs;
        let mut db = upload(device, before.1);
        let mut workspace = upload(device, &poisoned::<u64>(Backward::workspace_len(device, m, n, k)));
        let op = Backward {
            input: input.view(&inputs[0]),
            weight: weight.view(&inputs[1]),
            output: output.view(&inputs[2]),
            activation: how.activation,
            grad_output: grad_output.view_mut(z),
            grad_input: how.wants_input.then(|| grad_input.view_mut(dx)),
            grad_weight: grad_weight.view_mut(dw),
            grad_bias: B::view_mut(&mut db),
            accum: how.accum,
            workspace: B::view_mut(&mut workspace),
        };
        assert_eq!(outcome(device, op.run(device)), Ok(()));
        Got {
            affine: grad_output.download(device, &outputs[0]),
            input: grad_input.download(device, &outputs[1]),
            weight: grad_weight.download(device, &outputs[2]),
            bias: download(device, &db),
        }
    }
}

/// The settings of a backward pass.
#[derive(Clone, Copy)]
struct How<'a> {
    output: &'a [f32],
    grad_output: &'a [f32],
    activation: Activation,
    accum: Accum,
    wants_input: bool,
    gap: usize,
}

/// What a backward pass leaves.
struct Got {
    affine: Vec<f32>,
    input: Vec<f32>,
    weight: Vec<f32>,
    bias: Vec<f32>,
}

fn forward_is_right<B: LinearOps>(device: &B) {
    for shape in SHAPES {
        let case = Case::new(shape);
        for activation in ACTIVATIONS {
            let relu = activation == Activation::Relu;
            let want = reference::linear(&exact(&case.input), &exact(&case.weight), &exact(&case.bias), shape, relu);
            for gap in [0, 3] {
                let got = case.forward(device, activation, gap);
                assert_close(&format!("{shape:?}, {activation:?}, gap {gap}"), &got, &want);
                assert!(!relu || got.iter().all(|&y| y >= 0.0));
            }
        }
    }
}

fn backward_is_right<B: LinearOps>(device: &B) {
    for shape in SHAPES {
        let ((m, n, k), case) = (shape, Case::new(shape));
        // As ReLU makes them: about half are zero, and a zero may have a sign.
        let output: Vec<f32> = draw(m * n, 8).iter().map(|y| if *y < 0.0 { y * 0.0 } else { *y }).collect();
        let grad_output = draw(m * n, 9);
        let before = (draw(n * k, 10), draw(n, 11));
        for (activation, accum) in ACTIVATIONS.iter().flat_map(|&a| [(a, Accum::Replace), (a, Accum::Add)]) {
            for (wants_input, gap) in [(true, 0), (true, 3), (false, 1)] {
                let what = format!("{shape:?}, {activation:?}, {accum:?}, gap {gap}");
                let old = (exact(&before.0), exact(&before.1));
                let want = reference::linear_backward(
                    [&case.input, &case.weight, &output, &grad_output].map(|x| exact(x)).each_ref().map(|x| &x[..]),
                    shape,
                    activation,
                    (accum == Accum::Add).then_some((&old.0[..], &old.1[..])),
                );
                let poison = (poisoned(n * k), poisoned(n));
                let before = if accum == Accum::Add { &before } else { &poison };
                let (output, grad_output) = (&output[..], &grad_output[..]);
                let how = How { output, grad_output, activation, accum, wants_input, gap };
                let got = case.backward(device, how, (&before.0, &before.1));
                assert_eq!(exact(&got.affine), want.affine, "{what}: the gradient of the affine map");
                assert_close(&format!("{what}, weight"), &got.weight, &want.weight);
                assert_close(&format!("{what}, bias"), &got.bias, &want.bias);
                match wants_input {
                    true => assert_close(&format!("{what}, input"), &got.input, &want.input),
                    false => assert_same_bits(&what, &got.input, &poisoned(m * k)),
                }
            }
        }
    }
}

/// A NaN must not be mistaken for something that ReLU holds back.
fn nan_comes_through<B: LinearOps>(device: &B) {
    let mut case = Case::new((3, 2, 2));
    case.input[2] = f32::NAN;
    for activation in ACTIVATIONS {
        let output = case.forward(device, activation, 1);
        assert_eq!(output.iter().map(|y| y.is_nan()).collect::<Vec<_>>(), [false, false, true, true, false, false]);
        let (accum, wants_input) = (Accum::Replace, true);
        let grad_output = [1.0; 6];
        let how = How { output: &output, grad_output: &grad_output, activation, accum, wants_input, gap: 0 };
        let got = case.backward(device, how, (&poisoned(4), &poisoned(2)));
        assert_eq!(got.affine[2..4], [1.0; 2], "a NaN lets the gradient through");
        assert!(got.weight[0].is_nan() && got.weight[2].is_nan() && !got.weight[1].is_nan());
    }
}

/// Each wrong argument gives an error that names it, and nothing is written.
fn wrong_shapes_are_errors<B: LinearOps>(device: &B) {
    let ones = upload(device, &[1.0_f32; 64]);
    let grid = |rows, cols| Grid::<f32>::poisoned(rows, cols, 0);
    let shapes = |op: &str, [input, weight, output]: [(usize, usize); 3], bias: usize| {
        let [input, weight, output_grid] = [input, weight, output].map(|(rows, cols)| grid(rows, cols));
        let mut out = upload(device, &poisoned::<f32>(64));
        let mut others = [64, 64, 64].map(|len| upload(device, &poisoned::<f32>(len)));
        let [dx, dw, db] = &mut others;
        let mut workspace = device.alloc(64).unwrap();
        let text = match op {
            "forward" => message(
                Forward {
                    input: input.view(&ones),
                    weight: weight.view(&ones),
                    bias: B::slice(&ones, 0..bias),
                    activation: Activation::Relu,
                    output: output_grid.view_mut(&mut out),
                }
                .run(device),
            ),
            _ => message(
                Backward {
                    input: input.view(&ones),
                    weight: grid(4, 3).view(&ones),
                    output: grid(2, 4).view(&ones),
                    activation: Activation::Relu,
                    grad_output: grid(2, 4).view_mut(&mut out),
                    grad_input: Some(output_grid.view_mut(dx)),
                    grad_weight: weight.view_mut(dw),
                    grad_bias: B::slice_mut(db, 0..bias),
                    accum: Accum::Replace,
                    workspace: B::view_mut(&mut workspace),
                }
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
        assert_eq!(shapes("forward", spoilt, bias), format!("linear.forward: {want}"));
    }
    // Input, gradient of the weight, gradient of the input.
    let right = [(2, 3), (4, 3), (2, 3)];
    for (spoilt, bias, want) in [
        ([(1, 3), right[1], right[2]], 4, "input.rows is 1, but must be 2"),
        ([right[0], (4, 2), right[2]], 4, "grad_weight.cols is 2, but must be 3"),
        ([right[0], right[1], (2, 4)], 4, "grad_input.cols is 4, but must be 3"),
        (right, 5, "grad_bias is 5, but must be 4"),
    ] {
        assert_eq!(shapes("backward", spoilt, bias), format!("linear.backward: {want}"));
    }
}

#[test]
fn results_do_not_depend_on_threads() {
    for shape in [(513, 250, 300), (1000, 1, 77), (1, 900, 400), (2, 3, 30_000), (300, 256, 2)] {
        let ((m, n, k), case) = (shape, Case::new(shape));
        assert_deterministic(&format!("{shape:?}"), |cpu| {
            let output = case.forward(cpu, Activation::Relu, 1);
            let (grad_output, activation, accum) = (&draw(m * n, 1)[..], Activation::Relu, Accum::Add);
            let how = How { output: &output, grad_output, activation, accum, wants_input: true, gap: 0 };
            let got = case.backward(cpu, how, (&draw(n * k, 2), &draw(n, 3)));
            [bytes(&output), bytes(&got.input), bytes(&got.weight), bytes(&got.bias)].concat()
        });
    }
}

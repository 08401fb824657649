//! Tests of `linear` on CUDA: every tile size, the same bits under every schedule, memory traffic
//! and bank conflicts.

use std::cell::RefCell;

use crate::common::cuda::{emulator, on_every_schedule, own};
use crate::common::*;
use crate::linear::backward_goes_through_relu_of;
use bagdot::ops::linear::{Backward, Forward, LinearOps};
use bagdot::ops::{Activation, Matrix, MatrixMut, Precision};
use bagdot::{Cpu, Cuda, Philox, bf16, f16};
use bagdot_emulator::KernelCounts;

/// The results of a layer: output, and gradients of input, weight and bias.
#[derive(Debug, PartialEq)]
pub struct Got<E> {
    output: Vec<E>,
    input: Vec<E>,
    weight: Vec<f32>,
    bias: Vec<f32>,
}

impl<E: Stored + Poison> Got<E> {
    /// Returns the bytes of all results.
    pub fn bytes(&self) -> Vec<u8> {
        [bytes(&self.output), bytes(&self.input), bytes(&self.weight), bytes(&self.bias)].concat()
    }
}

/// Runs a layer `(batch size, outputs, inputs)` with ReLU forward and backward, on values of
/// `draw(len, seed)`.
pub fn run<B: LinearOps, E: Stored + Poison>(
    device: &B,
    (m, n, k): (usize, usize, usize),
    precision: Precision,
    draw: fn(usize, u64) -> Vec<f32>,
) -> Got<E> {
    let stored =
        |len, seed| draw(len, seed).iter().map(|&x| E::store(f64::from(x))).collect::<Vec<E>>();
    let (x, w, b) = (
        upload(device, &stored(m * k, 1)),
        upload(device, &stored(n * k, 2)),
        upload(device, &draw(n, 3)),
    );
    let (mut y, mut z) = (upload(device, &poisoned::<E>(m * n)), upload(device, &stored(m * n, 4)));
    let (mut dx, mut dw) =
        (upload(device, &poisoned::<E>(m * k)), upload(device, &poisoned::<f32>(n * k)));
    let mut db = upload(device, &poisoned::<f32>(n));
    let mut workspace =
        upload(device, &poisoned::<u64>(Backward::<B, E>::workspace_len(device, m, n, k)));
    let activation = Activation::Relu;
    let forward = Forward::new(
        Matrix::contiguous(B::view(&x), m, k),
        Matrix::contiguous(B::view(&w), n, k),
        B::view(&b),
        MatrixMut::contiguous(B::view_mut(&mut y), m, n),
    )
    .activation(activation)
    .precision(precision);
    assert_eq!(outcome(device, forward.run(device)), Ok(()));
    let backward = Backward::new(
        Matrix::contiguous(B::view(&x), m, k),
        Matrix::contiguous(B::view(&w), n, k),
        Matrix::contiguous(B::view(&y), m, n),
        MatrixMut::contiguous(B::view_mut(&mut z), m, n),
        MatrixMut::contiguous(B::view_mut(&mut dw), n, k),
        B::view_mut(&mut db),
        B::view_mut(&mut workspace),
    )
    .activation(activation)
    .precision(precision)
    .grad_input(MatrixMut::contiguous(B::view_mut(&mut dx), m, k));
    assert_eq!(outcome(device, backward.run(device)), Ok(()));
    Got {
        output: download(device, &y),
        input: download(device, &dx),
        weight: download(device, &dw),
        bias: download(device, &db),
    }
}

/// Draws integers from -3 to 3. Every sum of such products in these tests is exact in `f32`, in any
/// order, and every factor is exact in tf32 and in 16 bits. All implementations of a layer must
/// give the same bits.
fn draw_integers(len: usize, seed: u64) -> Vec<f32> {
    let mut random = Philox::new(seed, 0x1e7);
    (0..len).map(|_| random.below(7) as f32 - 3.0).collect()
}

fn is_as_on_the_cpu<E: Stored + Poison>(
    cuda: &Cuda,
    shape: (usize, usize, usize),
    precision: Precision,
) {
    let what = format!("{}, {precision:?}, {shape:?}", E::DTYPE);
    let want = run::<Cpu, E>(&Cpu::on_current_thread(), shape, precision, draw_integers);
    let got = run::<Cuda, E>(cuda, shape, precision, draw_integers);
    assert!(got.output.iter().any(|y| y.value() > 0.0), "{what}: the output is all zeros");
    // `==` accepts a zero of either sign.
    assert!(got == want, "{what}: differs from the CPU");
}

/// Checks layers with enough outputs, or enough inputs, for large tiles to fill a device.
#[test]
fn large_tiles_are_right() {
    for shape in [(1500, 1450, 20), (1450, 20, 1500)] {
        let alone = emulator().map(|emulator| emulator.exclusive());
        let cuda = own();
        is_as_on_the_cpu::<f32>(&cuda, shape, Precision::Full);
        is_as_on_the_cpu::<f32>(&cuda, shape, Precision::Tf32);
        is_as_on_the_cpu::<f16>(&cuda, shape, Precision::Full);
        is_as_on_the_cpu::<bf16>(&cuda, shape, Precision::Full);
        assert!(alone.is_none_or(|alone| alone.report().is_empty()));
    }
}

/// Checks the gradient through ReLU in large tiles.
#[test]
fn large_tiles_go_through_relu() {
    let alone = emulator().map(|emulator| emulator.exclusive());
    backward_goes_through_relu_of::<Cuda, f32>(&own(), (1450, 4, 1500), Precision::Full);
    backward_goes_through_relu_of::<Cuda, bf16>(&own(), (1450, 4, 1500), Precision::Full);
    assert!(alone.is_none_or(|alone| alone.report().is_empty()));
}

/// Checks split-K sums over the batch, in parts that do not end at the end of a tile.
#[test]
fn results_are_the_same_bits_under_every_schedule() {
    let first = RefCell::new(None);
    on_every_schedule(|cuda| {
        let mut all = vec![];
        for shape in [(300, 70, 90), (290, 1, 37), (280, 40, 13)] {
            all.extend(run::<Cuda, f32>(cuda, shape, Precision::Full, draw).bytes());
            all.extend(run::<Cuda, f32>(cuda, shape, Precision::Tf32, draw).bytes());
            all.extend(run::<Cuda, f16>(cuda, shape, Precision::Full, draw).bytes());
            all.extend(run::<Cuda, bf16>(cuda, shape, Precision::Full, draw).bytes());
        }
        let again = run::<Cuda, f32>(cuda, (300, 70, 90), Precision::Full, draw).bytes();
        assert!(all.starts_with(&again), "a second run gives other bits");
        assert!(
            *first.borrow_mut().get_or_insert_with(|| all.clone()) == all,
            "another schedule gives other bits"
        );
    });
}

/// Checks that exact products are chains of fma in the order of the terms, for every tile size.
#[test]
fn exact_products_are_chains_of_fma() {
    on_every_schedule(|cuda| {
        for (m, n, k) in [(70, 65, 37), (520, 580, 20), (130, 5, 33)] {
            let got = run::<Cuda, f32>(cuda, (m, n, k), Precision::Full, draw);
            let (x, w, b) = (draw(m * k, 1), draw(n * k, 2), draw(n, 3));
            let chain = |e: usize| {
                (0..k).fold(0.0, |sum, i| x[e / n * k + i].mul_add(w[e % n * k + i], sum))
            };
            let want: Vec<f32> = (0..m * n).map(|e| (chain(e) + b[e % n]).max(0.0)).collect();
            assert!(got.output == want, "{:?}", (m, n, k));
        }
    });
}

/// Checks that global accesses are whole sectors, that each block reads the rows and columns of its
/// tile once, and that shared memory has no bank conflicts.
#[test]
fn tiles_move_once_in_whole_sectors_and_without_bank_conflicts() {
    let Some(emulator) = emulator() else { return };
    let check =
        |(m, n, k): (usize, usize, usize), size: usize, tiles: [&str; 3], run: &dyn Fn(&Cuda)| {
            let alone = emulator.exclusive();
            let cuda = own();
            alone.reset_counters();
            run(&cuda);
            let counters = alone.counters();
            // The rows, columns and terms of each product, and the bytes of other reads: every
            // element of the output reads the bias, and the last block of a tile all its parts.
            for ((name, [rows, cols, terms], others, part), tile) in [
                ("linear_forward", [m, n, k], m * n * 4, 0),
                ("linear_input_grad", [m, k, n], 0, 0),
                ("linear_weight_grad", [n, k, m], 0, n * k * 4),
            ]
            .into_iter()
            .zip(tiles)
            {
                let side = match tile {
                    "large" => 128_usize,
                    "small" => 64,
                    _ => 32,
                };
                let is_it = |kernel: &&KernelCounts| {
                    kernel.name.starts_with(name) && kernel.name.contains(tile)
                };
                let kernel = counters
                    .iter()
                    .find(is_it)
                    .unwrap_or_else(|| panic!("{name}, {tile}, of {counters:?}"));
                let total = &kernel.total;
                let num_tiles = rows.div_ceil(side) * cols.div_ceil(side);
                let parts = kernel.block_instructions.len() / num_tiles;
                let read = (rows * cols.div_ceil(side) + cols * rows.div_ceil(side)) * terms * size
                    + others
                    + parts * part;
                assert_eq!(total.global_read as usize, read, "{}: {total:?}", kernel.name);
                assert_eq!(total.bank_passes, total.ideal_passes, "{}: {total:?}", kernel.name);
                assert!(
                    total.sectors as f64 <= 1.05 * total.ideal_sectors as f64,
                    "{}: {total:?}",
                    kernel.name
                );
            }
            let kernel = counters
                .iter()
                .find(|kernel| kernel.name.starts_with("linear_activation_grad"))
                .unwrap();
            let runs = n.div_ceil(32 * 16 / size);
            let parts = kernel.block_instructions.len() / runs;
            let read = 2 * m * n * size + parts * n * 4;
            assert_eq!(kernel.total.global_read as usize, read, "{:?}", kernel.total);
            assert_eq!(kernel.total.bank_passes, kernel.total.ideal_passes, "{:?}", kernel.total);
        };
    let run_exact =
        |shape| move |cuda: &Cuda| drop(run::<Cuda, f32>(cuda, shape, Precision::Full, draw));
    let [few, more] = [(256, 128, 192), (2304, 200, 136)];
    check(few, 4, ["tiny"; 3], &run_exact(few));
    check(more, 4, ["small", "small", "large"], &run_exact(more));
    check(few, 4, ["small"; 3], &|cuda| drop(run::<Cuda, f32>(cuda, few, Precision::Tf32, draw)));
    check(few, 2, ["small"; 3], &|cuda| drop(run::<Cuda, f16>(cuda, few, Precision::Full, draw)));
    check(few, 2, ["small"; 3], &|cuda| drop(run::<Cuda, bf16>(cuda, few, Precision::Full, draw)));
}

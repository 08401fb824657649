//! Tests of the products of layers by cuBLASLt: by the real library on a real device, and by a
//! stand-in on the emulator.

use crate::common::cuda::{emulator, with_cublaslt};
use crate::common::*;
use crate::linear::{
    Layers, Rounded, backward_goes_through_relu_of, backward_is_right_of, forward_is_right_of,
};
use crate::linear_cuda::run;
use bagdot::backend::cuda::Gemm;
use bagdot::ops::{Activation, Device, Matrix, MatrixMut, Precision, linear};
use bagdot::{Cuda, bf16, f16};

/// The shapes as batch size, outputs and inputs: products that our own kernels compute, rows that
/// start at multiples of 16 bytes and others, and split-K sums.
const SHAPES: [(usize, usize, usize); 7] =
    [(0, 3, 4), (4, 0, 3), (5, 2, 0), (33, 1, 17), (64, 64, 64), (7, 129, 136), (300, 24, 520)];
/// The roundings that cuBLASLt may do, as the documentation of [`Gemm`] says.
const ROUNDED: Rounded = Rounded { tf32: 1.0 / 1024.0, bias: true };

/// Returns the number of products that cuBLASLt computed, if the emulator counted them.
fn products() -> Option<u64> {
    emulator().map(|emulator| emulator.calls().get("cublasLtMatmul").copied().unwrap_or(0))
}

#[test]
fn layers_are_right() {
    layers_are_right_of::<f32>(Precision::Full);
    layers_are_right_of::<f32>(Precision::Tf32);
    layers_are_right_of::<f16>(Precision::Full);
    layers_are_right_of::<bf16>(Precision::Full);
}

fn layers_are_right_of<E: Layers>(precision: Precision) {
    let alone = emulator().map(|emulator| emulator.exclusive());
    let Some(cuda) = with_cublaslt() else { return };
    forward_is_right_of::<_, E>(&cuda, precision, &SHAPES, ROUNDED);
    // Four of the shapes have two activations and two gaps each.
    assert!(products().is_none_or(|products| products == 16), "{:?}", products());
    backward_is_right_of::<_, E>(&cuda, precision, &SHAPES, &[(true, 0), (false, 1)], ROUNDED);
    // Each of four shapes, two activations and two modes of accumulation takes two products with a
    // gradient of the input, and one without.
    assert!(products().is_none_or(|products| products == 16 + 16 * 3), "{:?}", products());
    backward_goes_through_relu_of::<_, E>(&cuda, (33, 64, 72), precision);
    assert!(alone.is_none_or(|alone| alone.report().is_empty()));
}

#[test]
fn results_are_the_same_bits_in_every_run() {
    fn all<E: Layers>(precision: Precision) -> Option<Vec<u8>> {
        let cuda = with_cublaslt()?;
        let [first, second] =
            [(); 2].map(|()| run::<Cuda, E>(&cuda, (300, 128, 520), precision, draw).bytes());
        assert!(first == second, "{}, {precision:?}: a second call gives other bits", E::DTYPE);
        Some(first)
    }
    let every = || {
        let _alone = emulator().map(|emulator| emulator.exclusive());
        [
            all::<f32>(Precision::Full),
            all::<f32>(Precision::Tf32),
            all::<f16>(Precision::Full),
            all::<bf16>(Precision::Full),
        ]
    };
    assert!(every() == every(), "another device gives other bits");
}

/// Checks that cuBLASLt computes the products at which it is faster, all products that it supports,
/// or none, as the setting says.
#[test]
fn the_setting_says_who_computes() {
    let Some(emulator) = emulator() else { return };
    let count = |gemm, compute: &dyn Fn(&Cuda)| {
        let alone = emulator.exclusive();
        compute(&Cuda::with_gemm(0, gemm).unwrap());
        assert_eq!(alone.report(), "");
        products().unwrap()
    };
    let of =
        |shape, precision| move |cuda: &Cuda| drop(run::<Cuda, f32>(cuda, shape, precision, draw));
    let in_16_bits =
        |shape| move |cuda: &Cuda| drop(run::<Cuda, bf16>(cuda, shape, Precision::Full, draw));
    // The numbers of products with `Auto` and with `CublasLt`.
    for (compute, want) in [
        (&of((64, 96, 72), Precision::Tf32) as &dyn Fn(&Cuda), (1, 3)),
        (&in_16_bits((64, 96, 72)), (3, 3)),
        (&in_16_bits((64, 96, 65)), (1, 3)),
        (&of((64, 96, 65), Precision::Full), (0, 3)),
        (&in_16_bits((64, 1, 96)), (0, 3)),
        (&in_16_bits((128, 64, 13)), (0, 3)),
        (&in_16_bits((1, 64, 64)), (0, 3)),
    ] {
        assert_eq!((count(Gemm::Auto, compute), count(Gemm::CublasLt, compute)), want);
        assert_eq!(count(Gemm::Own, compute), 0);
    }
}

/// Checks that our own kernels compute if a matrix or a bias does not start at a multiple of 16
/// bytes.
#[test]
fn unaligned_matrices_use_our_own_kernels() {
    let alone = emulator().map(|emulator| emulator.exclusive());
    let Some(cuda) = with_cublaslt() else { return };
    let (m, n, k) = (4, 8, 8);
    let (x, w, b) = (
        upload(&cuda, &draw(m * k + 1, 1)),
        upload(&cuda, &draw(n * k, 2)),
        upload(&cuda, &draw(n + 1, 3)),
    );
    let forward = |input: usize, bias: usize| {
        let mut y = upload(&cuda, &poisoned::<f32>(m * n));
        let op = linear::Forward::<Cuda, f32>::new(
            Matrix::contiguous(Cuda::slice(&x, input..input + m * k), m, k),
            Matrix::contiguous(Cuda::view(&w), n, k),
            Cuda::slice(&b, bias..bias + n),
            MatrixMut::contiguous(Cuda::view_mut(&mut y), m, n),
        )
        .activation(Activation::Relu)
        .precision(Precision::Tf32);
        op.run(&cuda).unwrap();
        assert!(download(&cuda, &y).iter().all(|y| !y.is_nan()));
        products()
    };
    assert!([forward(1, 0), forward(0, 1)].into_iter().flatten().all(|products| products == 0));
    assert!(forward(0, 0).is_none_or(|products| products == 1));
    assert!(alone.is_none_or(|alone| alone.report().is_empty()));
}

/// Checks that the workspace is allocated with the device and freed with it.
#[test]
fn memory_is_allocated_once() {
    let Some(emulator) = emulator() else { return };
    let alone = emulator.exclusive();
    let own = Cuda::with_gemm(0, Gemm::Own).unwrap();
    let without = alone.used_bytes(0);
    let cuda = Cuda::with_gemm(0, Gemm::CublasLt).unwrap();
    let with = alone.used_bytes(0);
    assert_eq!(with - 2 * without, 32 << 20);
    drop(run::<Cuda, bf16>(&cuda, (300, 128, 520), Precision::Full, draw));
    assert_eq!(alone.used_bytes(0), with);
    drop(cuda);
    assert_eq!(alone.used_bytes(0), without);
    drop(own);
    // Without room for the workspace, `CublasLt` is an error, and `Auto` is not.
    alone.set_memory(1 << 20);
    assert!(Cuda::with_gemm(0, Gemm::CublasLt).is_err());
    assert!(Cuda::new(0).is_ok());
}

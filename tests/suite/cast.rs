//! Tests of `cast`, which converts matrices to another storage type.

use crate::common::*;
use bagdot::ops::cast::{Cast, CastOps};
use bagdot::{Element, bf16, f16};

backend_suite!(
    cuda:
    casts_are_rounded_once,
    extreme_values_come_through,
    wrong_arguments_are_errors,
);

/// Casts values in rows with slack between them.
fn cast<D: CastOps, A: Poison + Element, B: Poison + Element>(
    device: &D,
    factor: f32,
    (rows, cols, gap): (usize, usize, usize),
    values: &[A],
) -> Vec<B> {
    let (from, to) = (Grid::new(rows, cols, gap, values), Grid::<B>::poisoned(rows, cols, 2 * gap));
    let (input, mut output) = (from.upload(device), to.upload(device));
    let op = Cast { factor, from: from.view(&input), to: to.view_mut(&mut output) };
    assert_eq!(outcome(device, op.run(device)), Ok(()));
    to.download(device, &output)
}

/// Runs `$check::<D, A, B>($device)` for all pairs of types.
macro_rules! for_all_pairs {
    ($check:ident, $device:expr) => {
        for_all_pairs!($check, $device, f32);
        for_all_pairs!($check, $device, f16);
        for_all_pairs!($check, $device, bf16);
    };
    ($check:ident, $device:expr, $A:ty) => {
        $check::<_, $A, f32>($device);
        $check::<_, $A, f16>($device);
        $check::<_, $A, bf16>($device);
    };
}

fn casts_are_rounded_once<D: CastOps>(device: &D) {
    for_all_pairs!(check, device);
}

/// Checks that results are the nearest values, to the bit: the product of an `f32` and a power of
/// two is exact in the normal range.
fn check<D: CastOps, A: Poison + Element, B: Poison + Element>(device: &D) {
    for shape @ (rows, cols, _) in [
        (0, 5, 0),
        (4, 0, 1),
        (1, 1, 0),
        (3, 13, 0),
        (3, 13, 3),
        (5, 16, 8),
        (2, 67, 0),
        (70, 40, 1),
        (1, 5000, 0),
    ] {
        for factor in [1.0, 256.0, 1.0 / 64.0] {
            let values: Vec<A> = draw(rows * cols, 1).iter().map(|&x| A::from_f32(x)).collect();
            let want: Vec<B> = values.iter().map(|x| B::from_f32(x.to_f32() * factor)).collect();
            let what = format!("{} to {}, {shape:?}, times {factor}", A::DTYPE, B::DTYPE);
            assert_same_bits(&what, &cast::<D, A, B>(device, factor, shape, &values), &want);
        }
    }
}

/// Checks that zeros keep their signs, that values that are too large become infinite, that values
/// that are too small are rounded to subnormal numbers, and that a NaN stays a NaN.
fn extreme_values_come_through<D: CastOps>(device: &D) {
    let (large, small) = (65519.996_f32, 2.980_232_6e-8_f32);
    let values =
        [0.0, -0.0, f32::INFINITY, large, 65520.0, -1e30, small, 2.9e-8, -6.0e-8, f32::NAN, 3.4e38];
    let got = cast::<D, f32, f16>(device, 1.0, (1, 11, 0), &values);
    let bits: Vec<u16> = got.iter().map(|x| x.to_bits()).collect();
    assert_eq!(bits[..9], [0, 0x8000, 0x7c00, 0x7bff, 0x7c00, 0xfc00, 1, 0, 0x8001]);
    assert!(got[9].is_nan());
    assert_eq!(bits[10], 0x7c00);
    let got = cast::<D, f32, bf16>(device, 1.0, (1, 11, 0), &values);
    assert_eq!(got[..3].iter().map(|x| x.to_bits()).collect::<Vec<_>>(), [0, 0x8000, 0x7f80]);
    assert!(got[9].is_nan() && got[10] == bf16::INFINITY);
    // The smallest subnormal and the largest f16 are exact in f32.
    let back = cast::<D, f16, f32>(device, 1.0 / 4096.0, (1, 2, 0), &[f16::from_bits(1), f16::MAX]);
    assert_eq!(back, [2f32.powi(-36), 65504.0 / 4096.0]);
}

fn wrong_arguments_are_errors<D: CastOps>(device: &D) {
    let power = "but must be a power of two from 2^-126 to 2^126";
    for (factor, rows, cols, want) in [
        (1.0, 2, 3, "from.rows is 2, but must be 3".to_string()),
        (1.0, 3, 2, "from.cols is 2, but must be 3".into()),
        (0.75, 3, 3, format!("factor: 0.75, {power}")),
        (0.0, 3, 3, format!("factor: 0, {power}")),
        (-1.0, 3, 3, format!("factor: -1, {power}")),
        (f32::NAN, 3, 3, format!("factor: NaN, {power}")),
        (2f32.powi(127), 3, 3, format!("factor: {}, {power}", 2f32.powi(127))),
        (1e-45, 3, 3, format!("factor: {}, {power}", 1e-45_f32)),
    ] {
        let (from, to) =
            (Grid::new(rows, cols, 0, &draw(rows * cols, 1)), Grid::<f16>::poisoned(3, 3, 0));
        let (input, mut output) = (from.upload(device), to.upload(device));
        let op = Cast { factor, from: from.view(&input), to: to.view_mut(&mut output) };
        assert_eq!(message(op.run(device)), format!("cast: {want}"));
        assert_same_bits(&want, &download(device, &output), &poisoned::<f16>(9));
    }
}

#[test]
fn results_do_not_depend_on_threads() {
    let values = draw(1_000_003, 1);
    assert_deterministic("cast", |cpu| {
        bytes(&cast::<_, f32, bf16>(cpu, 2.0, (1, values.len(), 0), &values))
    });
    assert_deterministic("cast", |cpu| {
        bytes(&cast::<_, f32, f16>(cpu, 2.0, (1000, 999, 1), &values[..999_000]))
    });
}

/// Checks that each value is read once and written once, in whole sectors.
#[cfg(feature = "cuda")]
#[test]
fn global_memory_moves_once() {
    let Some(emulator) = crate::common::cuda::emulator() else { return };
    let alone = emulator.exclusive();
    let cuda = bagdot::Cuda::new(0).unwrap();
    let values = draw(64 * 128, 1);
    let narrow: Vec<bf16> = values.iter().map(|&x| bf16::from_f32(x)).collect();
    alone.reset_counters();
    cast::<_, f32, bf16>(&cuda, 1.0, (64, 128, 0), &values);
    cast::<_, bf16, f32>(&cuda, 1.0, (64, 128, 0), &narrow);
    let counters = alone.counters();
    for name in ["cast_f32_bf16", "cast_bf16_f32"] {
        let total = &counters.iter().find(|kernel| kernel.name == name).unwrap().total;
        assert_eq!(total.sectors as usize * 32, values.len() * (4 + 2), "{name}: {total:?}");
    }
}

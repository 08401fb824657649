//! Instructions on floating-point numbers follow the rules of the PTX ISA. The references are plain
//! and share no code with the emulator.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::evaluate::{bits, evaluate, evaluate32, expect32, f, flush, noise_bits, rows};

#[test]
fn single_precision_is_rounded_once() {
    expect32("add.rn.f32", &rows(2), |r| bits(f(r[0]) + f(r[1])));
    expect32("sub.f32", &rows(2), |r| bits(f(r[0]) - f(r[1])));
    expect32("mul.rn.f32", &rows(2), |r| bits(f(r[0]) * f(r[1])));
    expect32("div.rn.f32", &rows(2), |r| bits(f(r[0]) / f(r[1])));
    expect32("sqrt.rn.f32", &rows(1), |r| bits(f(r[0]).sqrt()));
    expect32("rcp.rn.f32", &rows(1), |r| bits(1.0 / f(r[0])));
    expect32("fma.rn.f32", &rows(3), |r| bits(f(r[0]).mul_add(f(r[1]), f(r[2]))));
    expect32("add.ftz.f32", &rows(2), |r| bits(flush(flush(f(r[0])) + flush(f(r[1])))));
    expect32("mul.ftz.f32", &rows(2), |r| bits(flush(flush(f(r[0])) * flush(f(r[1])))));
    expect32("add.sat.f32", &rows(2), |r| {
        let v = f(r[0]) + f(r[1]);
        if v > 0.0 { v.min(1.0).to_bits() } else { 0 }
    });
    expect32("neg.f32", &rows(1), |r| r[0] as u32 ^ 0x8000_0000);
    expect32("abs.f32", &rows(1), |r| r[0] as u32 & 0x7fff_ffff);
    expect32("copysign.f32", &rows(2), |r| f(r[1]).copysign(f(r[0])).to_bits());
}

/// Returns the pattern of the nearest single-precision number below or above an exact value.
fn directed(exact: &Exact, up: bool) -> u32 {
    // The bisection over all finite numbers in order needs exact comparisons only, and no
    // arithmetic.
    let key = |k: i64| if k >= 0 { k as u32 } else { (-k) as u32 | 0x8000_0000 };
    let (mut low, mut high) = (-0x7f80_0000i64, 0x7f80_0000i64);
    while high - low > 1 {
        let middle = (low + high) / 2;
        let order = exact.compare(f32::from_bits(key(middle)));
        if order.is_eq() {
            return key(middle);
        }
        if order.is_gt() { low = middle } else { high = middle }
    }
    key(if up { high } else { low })
}

/// The exact value `(a * b + c) / 2^300` of integers of any length, for numbers between 2^-100 and
/// 2^100. It can be compared without rounding.
struct Exact(i128, i32);

impl Exact {
    fn compare(&self, v: f32) -> std::cmp::Ordering {
        let Exact(mantissa, exponent) = *self;
        let bits = v.to_bits();
        let field = (bits >> 23 & 255) as i32;
        let m = i128::from(bits & 0x7f_ffff) | if field > 0 { 1 << 23 } else { 0 };
        let m = if bits >> 31 == 1 { -m } else { m };
        let e = field.max(1) - 150;
        // Both sides get a common exponent, if 127 bits suffice; if not, the larger exponent
        // decides.
        let shift = exponent - e;
        let fits = |m: i128, by: i32| {
            m == 0 || (by < 127 && m.unsigned_abs().leading_zeros() as i32 > by + 1)
        };
        if shift >= 0 {
            if fits(mantissa, shift) { (mantissa << shift).cmp(&m) } else { mantissa.cmp(&0) }
        } else if fits(m, -shift) {
            mantissa.cmp(&(m << -shift))
        } else {
            0.cmp(&m)
        }
    }
}

#[test]
fn directed_rounding() {
    let finite = |v: f32| v.is_finite() && v != 0.0 && (1e-15..1e15).contains(&v.abs());
    let rows: Vec<Vec<u64>> = (0..3000u64)
        .map(|k| {
            (0..3)
                .map(|j| u64::from((noise_bits(3 * k + j) as u32 & 0x81ff_ffff) + 0x3e00_0000))
                .collect::<Vec<u64>>()
        })
        .filter(|row| row.iter().all(|&v| finite(f(v))))
        .collect();
    let exact = |r: &[u64]| {
        let split = |v: u64| {
            let bits = v as u32;
            let m = i128::from(bits & 0x7f_ffff | 0x80_0000);
            (if bits >> 31 == 1 { -m } else { m }, (bits >> 23 & 255) as i32 - 150)
        };
        let ((a, ea), (b, eb), (c, ec)) = (split(r[0]), split(r[1]), split(r[2]));
        let (product, ep) = (a * b, ea + eb);
        let e = ep.min(ec);
        Exact((product << (ep - e)) + (c << (ec - e)), e)
    };
    for (name, up_if) in [("rm", [false, false]), ("rp", [true, true]), ("rz", [false, true])] {
        expect32(&format!("fma.{name}.f32"), &rows, |r| {
            let exact = exact(r);
            if exact.0 == 0 {
                return if name == "rm" { 0x8000_0000 } else { 0 };
            }
            directed(&exact, up_if[usize::from(exact.0 < 0)])
        });
        expect32(
            &format!("add.{name}.f32"),
            &rows.iter().map(|r| r[..2].to_vec()).collect::<Vec<_>>(),
            |r| {
                let exact = exact(&[u64::from(1f32.to_bits()), r[0], r[1]]);
                if exact.0 == 0 {
                    return if name == "rm" { 0x8000_0000 } else { 0 };
                }
                directed(&exact, up_if[usize::from(exact.0 < 0)])
            },
        );
    }
    // These are known cases of division and roots.
    let one_third = [vec![u64::from(1f32.to_bits()), u64::from(3f32.to_bits())]];
    let down = 0x3eaa_aaaau32;
    assert_eq!(evaluate32("div.rz.f32", &one_third), [down]);
    assert_eq!(evaluate32("div.rm.f32", &one_third), [down]);
    assert_eq!(evaluate32("div.rp.f32", &one_third), [down + 1]);
    let two = [vec![u64::from(2f32.to_bits())]];
    assert_eq!(evaluate32("sqrt.rz.f32", &two), [0x3fb5_04f3]);
    assert_eq!(evaluate32("sqrt.rp.f32", &two), [0x3fb5_04f4]);
    let three = [vec![u64::from(3f32.to_bits())]];
    assert_eq!(evaluate32("rcp.rm.f32", &three), [down]);
    // Rounding to zero never exceeds the largest number.
    let most = [vec![0x7f7f_ffff, 0x7f7f_ffff]];
    assert_eq!(evaluate32("add.rz.f32", &most), [0x7f7f_ffff]);
    assert_eq!(evaluate32("add.rp.f32", &most), [0x7f80_0000]);
    assert_eq!(evaluate32("add.rm.f32", &most), [0x7f7f_ffff]);
}

#[test]
fn minima_and_maxima() {
    let pick = |a: f32, b: f32, least: bool| {
        if a.is_nan() {
            return bits(b);
        }
        if b.is_nan() {
            return bits(a);
        }
        // -0 is below +0.
        let key = |v: f32| (v.to_bits() as i32) ^ (((v.to_bits() as i32) >> 31) as u32 >> 1) as i32;
        bits(if (key(a) <= key(b)) == least { a } else { b })
    };
    expect32("min.f32", &rows(2), |r| pick(f(r[0]), f(r[1]), true));
    expect32("max.f32", &rows(2), |r| pick(f(r[0]), f(r[1]), false));
    expect32("max.NaN.f32", &rows(2), |r| {
        if f(r[0]).is_nan() || f(r[1]).is_nan() {
            0x7fff_ffff
        } else {
            pick(f(r[0]), f(r[1]), false)
        }
    });
}

#[test]
fn functions_are_close() {
    type Function = (&'static str, fn(f64) -> f64);
    let all: [Function; 8] = [
        ("ex2.approx.f32", f64::exp2),
        ("lg2.approx.f32", f64::log2),
        ("rsqrt.approx.f32", |x| 1.0 / x.sqrt()),
        ("sqrt.approx.f32", f64::sqrt),
        ("rcp.approx.f32", |x| 1.0 / x),
        ("sin.approx.f32", f64::sin),
        ("cos.approx.f32", f64::cos),
        ("tanh.approx.f32", f64::tanh),
    ];
    for (name, function) in all {
        expect32(name, &rows(1), |r| bits(function(f64::from(f(r[0]))) as f32));
    }
}

/// Returns pairs or triples of interesting halves.
fn half_rows(operands: usize) -> Vec<Vec<u64>> {
    let edges = [
        0u16, 0x8000, 1, 0x8001, 0x03ff, 0x0400, 0x3c00, 0xbc00, 0x3c01, 0x7bff, 0xfbff, 0x7c00,
        0xfc00, 0x7e00, 0x3f80, 0x7f7f, 0x4248,
    ];
    let mut out = vec![];
    for (i, &a) in edges.iter().enumerate() {
        for (j, &b) in edges.iter().enumerate() {
            out.push(
                [a, b, edges[(i * 5 + j) % edges.len()]]
                    .iter()
                    .take(operands)
                    .map(|&v| u64::from(v))
                    .collect(),
            );
        }
    }
    for k in 0..2000 {
        out.push((0..operands as u64).map(|j| noise_bits(3 * k + j) & 0xffff).collect());
    }
    out
}

#[test]
fn halves_are_rounded_once() {
    use half::{bf16, f16};
    let run = |instruction: &str, rows: &[Vec<u64>]| {
        let moves: String =
            (0..rows[0].len()).map(|k| format!("cvt.u16.u64 %h{}, %x{k};\n", k + 1)).collect();
        let names: Vec<String> = (1..=rows[0].len()).map(|k| format!("%h{k}")).collect();
        evaluate(
            &format!("{moves}{instruction} %h0, {};\ncvt.u64.u16 %d, %h0;", names.join(", ")),
            rows,
        )
    };
    let check = |instruction: &str, operands: usize, reference: &dyn Fn(&[u64]) -> u16| {
        let rows = half_rows(operands);
        for (row, got) in rows.iter().zip(run(instruction, &rows)) {
            let expected = reference(row);
            assert_eq!(
                got as u16, expected,
                "{instruction} of {row:x?}: {got:#x}, not {expected:#x}"
            );
        }
    };
    // Sums and products of two halves are exact in doubles, so that the references round once.
    let to_f16 = |v: f64| if v.is_nan() { 0x7fff } else { f16::from_f64(v).to_bits() };
    let from_f16 = |v: u64| f16::from_bits(v as u16).to_f64();
    check("add.rn.f16", 2, &|r| to_f16(from_f16(r[0]) + from_f16(r[1])));
    check("sub.f16", 2, &|r| to_f16(from_f16(r[0]) - from_f16(r[1])));
    check("mul.rn.f16", 2, &|r| to_f16(from_f16(r[0]) * from_f16(r[1])));
    check("neg.f16", 1, &|r| r[0] as u16 ^ 0x8000);
    let to_bf16 = |v: f64| {
        // A conversion through f32 would round twice.
        if v.is_nan() {
            return 0x7fff;
        }
        let nearest = bf16::from_f32(v as f32).to_bits();
        let distance = |bits: u16| (bf16::from_bits(bits).to_f64() - v).abs();
        if !bf16::from_bits(nearest).is_finite() {
            return nearest;
        }
        let around = [nearest.wrapping_sub(1), nearest, nearest + 1];
        let valid =
            around.into_iter().filter(|b| b & 0x7f80 != 0x7f80 && (b ^ nearest) & 0x8000 == 0);
        valid
            .min_by(|&a, &b| distance(a).total_cmp(&distance(b)).then((a & 1).cmp(&(b & 1))))
            .unwrap()
    };
    let from_bf16 = |v: u64| bf16::from_bits(v as u16).to_f64();
    check("mul.rn.bf16", 2, &|r| to_bf16(from_bf16(r[0]) * from_bf16(r[1])));
    // If the sum of a product and a number needs more than 53 bits, one of the two matters for its
    // sign only.
    check("fma.rn.f16", 3, &|r| {
        let (p, c) = (from_f16(r[0]) * from_f16(r[1]), from_f16(r[2]));
        to_f16(sum_to_odd(p, c))
    });
    check("fma.rn.bf16", 3, &|r| {
        let (p, c) = (from_bf16(r[0]) * from_bf16(r[1]), from_bf16(r[2]));
        to_bf16(sum_to_odd(p, c))
    });
    check("fma.rn.relu.bf16", 3, &|r| {
        let exact = sum_to_odd(from_bf16(r[0]) * from_bf16(r[1]), from_bf16(r[2]));
        if exact < 0.0 { 0 } else { to_bf16(exact) }
    });

    // Packed halves are two halves.
    let rows: Vec<Vec<u64>> = (0..500)
        .map(|k| vec![noise_bits(2 * k) & 0xffff_ffff, noise_bits(2 * k + 1) & 0xffff_ffff])
        .collect();
    for (row, got) in rows.iter().zip(evaluate32("add.rn.f16x2", &rows)) {
        let part = |s: u32| to_f16(from_f16(row[0] >> s & 0xffff) + from_f16(row[1] >> s & 0xffff));
        assert_eq!(got, u32::from(part(0)) | u32::from(part(16)) << 16);
    }
}

/// Returns `a + b` rounded to odd. A shorter format rounds it as it would round the exact sum.
fn sum_to_odd(a: f64, b: f64) -> f64 {
    let sum = a + b;
    let (large, small) = if a.abs() > b.abs() { (a, b) } else { (b, a) };
    let missing = small - (sum - large);
    if missing == 0.0 || !sum.is_finite() || sum.to_bits() & 1 == 1 {
        return sum;
    }
    if (missing > 0.0) == (sum > 0.0) {
        sum.next_up_magnitude()
    } else {
        f64::from_bits(sum.to_bits() - 1)
    }
}

trait NextUp {
    fn next_up_magnitude(self) -> f64;
}

impl NextUp for f64 {
    fn next_up_magnitude(self) -> f64 {
        f64::from_bits(self.to_bits() + 1)
    }
}

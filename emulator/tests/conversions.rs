//! Conversions follow the rules of the PTX ISA. The references are plain and share no code with the
//! emulator.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::evaluate::{bits, evaluate, evaluate32, expect32, f, noise_bits, rows};

#[test]
fn conversions() {
    use half::{bf16, f16};
    let to16 = |name: &str, rows: &[Vec<u64>]| {
        let body = format!(
            "cvt.u32.u64 %r1, %x0; mov.b32 %f1, %r1; cvt.{name}.f32 %h0, %f1; cvt.u64.u16 %d, %h0;"
        );
        evaluate(&body, rows)
    };
    for (row, got) in rows(1).iter().zip(to16("rn.f16", &rows(1))) {
        let v = f(row[0]);
        assert_eq!(
            got as u16,
            if v.is_nan() { 0x7fff } else { f16::from_f32(v).to_bits() },
            "{v:e}"
        );
    }
    for (row, got) in rows(1).iter().zip(to16("rn.bf16", &rows(1))) {
        let v = f(row[0]);
        assert_eq!(
            got as u16,
            if v.is_nan() { 0x7fff } else { bf16::from_f32(v).to_bits() },
            "{v:e}"
        );
    }
    for (row, got) in rows(1).iter().zip(to16("rz.bf16", &rows(1))) {
        let v = f(row[0]);
        assert_eq!(got as u16, if v.is_nan() { 0x7fff } else { (row[0] >> 16) as u16 }, "{v:e}");
    }
    for (row, got) in rows(1).iter().zip(to16("rz.f16", &rows(1))) {
        let v = f(row[0]);
        let nearest = f16::from_f32(v);
        let expected = if v.is_nan() {
            0x7fff
        } else if nearest.to_f32().abs() > v.abs() {
            // The next value toward zero; for infinity this is the largest finite number.
            nearest.to_bits() - 1
        } else {
            nearest.to_bits()
        };
        assert_eq!(got as u16, expected, "{v:e}");
    }
    let back = evaluate(
        "cvt.u16.u64 %h1, %x0; cvt.f32.f16 %f1, %h1; mov.b32 %r1, %f1; cvt.u64.u32 %d, %r1;",
        &all_halves(),
    );
    for (bits, got) in back.iter().enumerate() {
        let v = f16::from_bits(bits as u16).to_f32();
        assert!(
            f(*got).to_bits() == v.to_bits() || (v.is_nan() && f(*got).is_nan()),
            "{bits:#x}: {got:#x}"
        );
    }
    // A tf32 has ten bits of mantissa, and ties round away from zero.
    expect32("cvt.rna.tf32.f32", &rows(1), |r| {
        let v = r[0] as u32;
        if f(r[0]).is_nan() {
            0x7fff_ffff
        } else if v & 0x7f80_0000 == 0x7f80_0000 {
            v
        } else {
            v.wrapping_add(0x1000) & 0xffff_e000
        }
    });
    // A packed conversion puts its first operand into the upper half.
    for (row, got) in rows(2).iter().zip(evaluate32("cvt.rn.bf16x2.f32", &rows(2))) {
        let part = |v: u64| if f(v).is_nan() { 0x7fff } else { bf16::from_f32(f(v)).to_bits() };
        assert_eq!(got, u32::from(part(row[0])) << 16 | u32::from(part(row[1])));
    }
}

fn all_halves() -> Vec<Vec<u64>> {
    (0..0x1_0000).map(|k| vec![k]).collect()
}

#[test]
fn conversions_of_integers() {
    expect32(
        "cvt.rzi.s32.f32",
        &rows(1),
        |r| if f(r[0]).is_nan() { 0 } else { f(r[0]) as i32 as u32 },
    );
    expect32("cvt.rzi.u32.f32", &rows(1), |r| f(r[0]) as u32);
    expect32("cvt.rni.s32.f32", &rows(1), |r| f(r[0]).round_ties_even() as i32 as u32);
    expect32("cvt.rmi.s32.f32", &rows(1), |r| f(r[0]).floor() as i32 as u32);
    expect32("cvt.rpi.f32.f32", &rows(1), |r| bits(f(r[0]).ceil()));
    expect32("cvt.rn.f32.s32", &rows(1), |r| (r[0] as i32 as f32).to_bits());
    expect32("cvt.rn.f32.u32", &rows(1), |r| (r[0] as u32 as f32).to_bits());
    expect32("cvt.rz.f32.u32", &rows(1), |r| {
        let (v, nearest) = (r[0] as u32, r[0] as u32 as f32);
        if f64::from(nearest) > f64::from(v) { nearest.to_bits() - 1 } else { nearest.to_bits() }
    });
    expect32("cvt.sat.f32.f32", &rows(1), |r| {
        if f(r[0]) > 0.0 { f(r[0]).min(1.0).to_bits() } else { 0 }
    });
    expect32("cvt.s32.s8", &rows(1), |r| r[0] as i8 as i32 as u32);
    expect32("cvt.sat.s8.s32", &rows(1), |r| (r[0] as i32).clamp(-128, 127) as u32);
    let wide: Vec<Vec<u64>> = (0..2000).map(|k| vec![noise_bits(k) >> (k % 64)]).collect();
    for (row, got) in wide
        .iter()
        .zip(evaluate("cvt.rn.f32.s64 %f0, %x0; mov.b32 %r0, %f0; cvt.u64.u32 %d, %r0;", &wide))
    {
        assert_eq!(got as u32, (row[0] as i64 as f32).to_bits());
    }
    for (row, got) in wide.iter().zip(evaluate("cvt.rn.f64.u64 %g0, %x0; mov.b64 %d, %g0;", &wide))
    {
        assert_eq!(got, (row[0] as f64).to_bits());
    }
    let doubles: Vec<Vec<u64>> =
        wide.iter().map(|r| vec![((r[0] as i64) as f64 * 1.5).to_bits()]).collect();
    for (row, got) in
        doubles.iter().zip(evaluate("mov.b64 %g0, %x0; cvt.rzi.s64.f64 %d, %g0;", &doubles))
    {
        assert_eq!(got as i64, f64::from_bits(row[0]) as i64);
    }
    for (row, got) in doubles.iter().zip(evaluate(
        "mov.b64 %g0, %x0; cvt.rn.f32.f64 %f0, %g0; mov.b32 %r0, %f0; cvt.u64.u32 %d, %r0;",
        &doubles,
    )) {
        assert_eq!(got as u32, bits(f64::from_bits(row[0]) as f32));
    }
    let nan = [vec![f64::NAN.to_bits()]];
    assert_eq!(evaluate("mov.b64 %g0, %x0; cvt.rzi.s64.f64 %d, %g0;", &nan), [1 << 63]);
}

//! Instructions on integers, and comparisons, follow the rules of the PTX ISA. The references are
//! plain and share no code with the emulator.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::evaluate::{evaluate, expect32, f, noise_bits, rows};

#[test]
fn integers() {
    let s = |v: u64| v as u32 as i32;
    let u = |v: u64| v as u32;
    expect32("mul.hi.s32", &rows(2), |r| ((i64::from(s(r[0])) * i64::from(s(r[1]))) >> 32) as u32);
    expect32("mul.hi.u32", &rows(2), |r| ((u64::from(u(r[0])) * u64::from(u(r[1]))) >> 32) as u32);
    expect32("mad.lo.s32", &rows(3), |r| u(r[0]).wrapping_mul(u(r[1])).wrapping_add(u(r[2])));
    expect32("div.s32", &rows(2), |r| {
        if s(r[1]) == 0 { u32::MAX } else { s(r[0]).wrapping_div(s(r[1])) as u32 }
    });
    expect32("rem.u32", &rows(2), |r| if u(r[1]) == 0 { u(r[0]) } else { u(r[0]) % u(r[1]) });
    expect32("shl.b32", &rows(2), |r| if u(r[1]) > 31 { 0 } else { u(r[0]) << u(r[1]) });
    expect32("shr.s32", &rows(2), |r| (s(r[0]) >> u(r[1]).min(31)) as u32);
    expect32("popc.b32", &rows(1), |r| u(r[0]).count_ones());
    expect32("clz.b32", &rows(1), |r| u(r[0]).leading_zeros());
    expect32("brev.b32", &rows(1), |r| u(r[0]).reverse_bits());
    expect32("bfind.u32", &rows(1), |r| {
        if u(r[0]) == 0 { u32::MAX } else { 31 - u(r[0]).leading_zeros() }
    });
    expect32("bfind.s32", &rows(1), |r| {
        let v = if s(r[0]) < 0 { !u(r[0]) } else { u(r[0]) };
        if v == 0 { u32::MAX } else { 31 - v.leading_zeros() }
    });
    expect32("abs.s32", &rows(1), |r| s(r[0]).wrapping_abs() as u32);
    expect32("sad.s32", &rows(3), |r| u(r[2]).wrapping_add(s(r[0]).abs_diff(s(r[1]))));
    // Bit fields are computed bit by bit, as by the loops in the ISA.
    let fields: Vec<Vec<u64>> = (0..2000)
        .map(|k| vec![noise_bits(k) & 0xffff_ffff, noise_bits(k + 9) % 40, noise_bits(k + 99) % 40])
        .collect();
    let field = |r: &[u64], signed: bool| {
        let (a, position, length) = (u(r[0]), r[1], r[2]);
        let sign =
            if !signed || length == 0 { 0 } else { a >> (position + length - 1).min(31) & 1 };
        (0..32u64).fold(0, |d, i| {
            let bit = if i < length && position + i <= 31 { a >> (position + i) & 1 } else { sign };
            d | bit << i
        })
    };
    expect32("bfe.u32", &fields, |r| field(r, false));
    expect32("bfe.s32", &fields, |r| field(r, true));
    let inserts: Vec<Vec<u64>> =
        fields.iter().map(|r| vec![r[0], noise_bits(r[0]) & 0xffff_ffff, r[1], r[2]]).collect();
    expect32("bfi.b32", &inserts, |r| {
        (0..32u64).fold(0, |d, i| {
            let inside = i >= r[2] && i < r[2] + r[3];
            d | (if inside { u(r[0]) >> (i - r[2]) } else { u(r[1]) >> i } & 1) << i
        })
    });
    expect32("prmt.b32", &rows(3), |r| {
        let bytes = u64::from(u(r[0])) | r[1] << 32;
        (0..4).fold(0, |d, k| {
            let pick = u(r[2]) >> (4 * k) & 15;
            let byte = (bytes >> (8 * (pick & 7))) as u8;
            let byte = if pick & 8 != 0 { ((byte as i8) >> 7) as u8 } else { byte };
            d | u32::from(byte) << (8 * k)
        })
    });
    expect32("shf.l.wrap.b32", &rows(3), |r| {
        ((r[1] << 32 | u64::from(u(r[0]))) << (r[2] & 31) >> 32) as u32
    });
    expect32("shf.r.clamp.b32", &rows(3), |r| {
        ((r[1] << 32 | u64::from(u(r[0]))) >> u(r[2]).min(32)) as u32
    });
    for table in [0x80u32, 0xe8, 0x96, 0x01, 0x6c] {
        let body = format!(
            "cvt.u32.u64 %r1, %x0; cvt.u32.u64 %r2, %x1; cvt.u32.u64 %r3, %x2;\n\
             lop3.b32 %r0, %r1, %r2, %r3, {table}; cvt.u64.u32 %d, %r0;"
        );
        for (row, got) in rows(3).iter().zip(evaluate(&body, &rows(3))) {
            let bit = |i: u32| {
                let index =
                    (u(row[0]) >> i & 1) << 2 | (u(row[1]) >> i & 1) << 1 | u(row[2]) >> i & 1;
                (table >> index & 1) << i
            };
            assert_eq!(got as u32, (0..32).fold(0, |d, i| d | bit(i)));
        }
    }
    let wide: Vec<Vec<u64>> =
        (0..1000).map(|k| vec![noise_bits(k), noise_bits(k + 5), noise_bits(k + 11)]).collect();
    for (row, got) in wide.iter().zip(evaluate("mul.hi.s64 %d, %x0, %x1;", &wide)) {
        assert_eq!(got, ((i128::from(row[0] as i64) * i128::from(row[1] as i64)) >> 64) as u64);
    }
    for (row, got) in wide.iter().zip(evaluate(
        "cvt.u32.u64 %r1, %x0; cvt.u32.u64 %r2, %x1; mad.wide.s32 %d, %r1, %r2, %x2;",
        &wide,
    )) {
        assert_eq!(
            got,
            (i64::from(s(row[0])) * i64::from(s(row[1]))).wrapping_add(row[2] as i64) as u64
        );
    }
}

#[test]
fn comparisons() {
    let check = |name: &str, reference: &dyn Fn(f32, f32) -> bool| {
        let body = format!(
            "cvt.u32.u64 %r1, %x0; cvt.u32.u64 %r2, %x1; mov.b32 %f1, %r1; mov.b32 %f2, %r2;\n\
             setp.{name}.f32 %p1|%p2, %f1, %f2; selp.b64 %d, 1, 0, %p1; selp.b64 %t, 2, 0, %p2;\n\
             or.b64 %d, %d, %t;"
        );
        for (row, got) in rows(2).iter().zip(evaluate(&body, &rows(2))) {
            let holds = reference(f(row[0]), f(row[1]));
            assert_eq!(got, if holds { 1 } else { 2 }, "{name} of {row:x?}");
        }
    };
    check("lt", &|a, b| a < b);
    check("ge", &|a, b| a >= b);
    check("ne", &|a, b| a.partial_cmp(&b).is_some_and(std::cmp::Ordering::is_ne));
    check("neu", &|a, b| a != b);
    check("geu", &|a, b| a.partial_cmp(&b).is_none_or(std::cmp::Ordering::is_ge));
    check("equ", &|a, b| a == b || a.is_nan() || b.is_nan());
    check("num", &|a, b| !a.is_nan() && !b.is_nan());
    check("nan", &|a, b| a.is_nan() || b.is_nan());
    expect32(
        "set.lt.u32.s32",
        &rows(2),
        |r| if (r[0] as i32) < r[1] as i32 { u32::MAX } else { 0 },
    );
    expect32("set.lo.f32.u32", &rows(2), |r| {
        if (r[0] as u32) < r[1] as u32 { 1f32.to_bits() } else { 0 }
    });
}

#[test]
fn carries() {
    let wide: Vec<Vec<u64>> = (0..1000)
        .map(|k| {
            (0..4)
                .map(|j| {
                    if noise_bits(k + j).is_multiple_of(7) {
                        u64::MAX
                    } else {
                        noise_bits(4 * k + j)
                    }
                })
                .collect()
        })
        .collect();
    let whole = |low: u64, high: u64| u128::from(low) | u128::from(high) << 64;
    let parts: [fn(u128) -> u64; 2] = [|v| v as u64, |v| (v >> 64) as u64];
    for (k, part) in parts.into_iter().enumerate() {
        let body = format!(
            "add.cc.u64 %t, %x0, %x2; addc.u64 %a, %x1, %x3; mov.u64 %d, {};",
            ["%t", "%a"][k]
        );
        for (r, got) in wide.iter().zip(evaluate(&body, &wide)) {
            assert_eq!(got, part(whole(r[0], r[1]).wrapping_add(whole(r[2], r[3]))));
        }
        let body = format!(
            "sub.cc.u64 %t, %x0, %x2; subc.u64 %a, %x1, %x3; mov.u64 %d, {};",
            ["%t", "%a"][k]
        );
        for (r, got) in wide.iter().zip(evaluate(&body, &wide)) {
            assert_eq!(got, part(whole(r[0], r[1]).wrapping_sub(whole(r[2], r[3]))));
        }
        // A product of 64 by 64 bits is added to 128 bits.
        let body = format!(
            "mad.lo.cc.u64 %t, %x0, %x2, %x1; madc.hi.u64 %a, %x0, %x2, %x3; mov.u64 %d, {};",
            ["%t", "%a"][k]
        );
        for (r, got) in wide.iter().zip(evaluate(&body, &wide)) {
            assert_eq!(
                got,
                part((u128::from(r[0]) * u128::from(r[2])).wrapping_add(whole(r[1], r[3])))
            );
        }
    }
    // The borrow of three words: a flag that is read and written again, in 32 bits.
    let body = "cvt.u32.u64 %r1, %x0; cvt.u32.u64 %r2, %x1;\n\
                sub.cc.u32 %r0, %r1, %r2; subc.cc.u32 %r3, 0, 0;\n\
                subc.u32 %r4, 0, 0; mov.b64 %d, {%r3, %r4};";
    for (r, got) in rows(2).iter().zip(evaluate(body, &rows(2))) {
        assert_eq!(got, if (r[0] as u32) < r[1] as u32 { u64::MAX } else { 0 });
    }
}

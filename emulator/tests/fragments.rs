//! The layouts of matrix fragments. The place of every element is written out here from the figures
//! of the PTX ISA, and the expected product is a plain one.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use bagdot_emulator::Config;
use common::{Gpu, grid, noise};

const HEAD: &str = ".version 9.0\n.target sm_90\n.address_size 64\n";

/// An element type: its name in the opcode, its bytes, and its conversions.
struct Element {
    name: &'static str,
    bytes: usize,
    bits: fn(f32) -> u32,
    value: fn(u32) -> f64,
}

const ELEMENTS: [Element; 3] = [
    Element {
        name: "f16",
        bytes: 2,
        bits: |v| half::f16::from_f32(v).to_bits().into(),
        value: |b| half::f16::from_bits(b as u16).to_f64(),
    },
    Element {
        name: "bf16",
        bytes: 2,
        bits: |v| half::bf16::from_f32(v).to_bits().into(),
        value: |b| half::bf16::from_bits(b as u16).to_f64(),
    },
    // The low 13 bits are noise that must not matter.
    Element {
        name: "tf32",
        bytes: 4,
        bits: |v| (v.to_bits() & 0xffff_e000) | 0x155,
        value: |b| f64::from(f32::from_bits(b & 0xffff_e000)),
    },
];

/// Returns the row and column of element `i` of a lane's fragment of A (16 x k).
fn place_of_a(bytes: usize, k: usize, lane: usize, i: usize) -> (usize, usize) {
    let (group, thread) = (lane >> 2, lane % 4);
    if bytes == 4 {
        // m16n8k4 and m16n8k8: a0 and a2 are in row groupID, a1 and a3 in row groupID + 8. The
        // column is threadID_in_group, and 4 more from a2 on.
        return (
            if i.is_multiple_of(2) { group } else { group + 8 },
            thread + if i >= 2 { 4 } else { 0 },
        );
    }
    if k == 8 {
        // m16n8k8: a0 and a1 are in row groupID, a2 and a3 in row groupID + 8.
        return (if i < 2 { group } else { group + 8 }, thread * 2 + (i & 1));
    }
    // m16n8k16: the row is groupID for 0 <= i < 2 and 4 <= i < 6, else groupID + 8. The column is 8
    // more from a4 on.
    let row = if (0..2).contains(&i) || (4..6).contains(&i) { group } else { group + 8 };
    (row, thread * 2 + (i & 1) + if i >= 4 { 8 } else { 0 })
}

/// Returns the row and column of element `i` of a lane's fragment of B (k x 8).
fn place_of_b(bytes: usize, lane: usize, i: usize) -> (usize, usize) {
    let (group, thread) = (lane >> 2, lane % 4);
    if bytes == 4 {
        return (thread + 4 * i, group);
    }
    (thread * 2 + (i & 1) + if i >= 2 { 8 } else { 0 }, group)
}

/// Returns the row and column of c0 to c3.
fn place_of_c(lane: usize, i: usize) -> (usize, usize) {
    (if i < 2 { lane >> 2 } else { (lane >> 2) + 8 }, (lane % 4) * 2 + (i & 1))
}

#[test]
fn products() {
    for (element, k) in
        [(0, 8), (0, 16), (1, 8), (1, 16), (2, 4), (2, 8)].map(|(e, k)| (&ELEMENTS[e], k))
    {
        let per_register = 4 / element.bytes;
        let (na, nb) = (16 * k / 32 / per_register, 8 * k / 32 / per_register);
        let a: Vec<u32> = (0..16 * k).map(|i| (element.bits)(noise(i) - 0.5)).collect();
        let b: Vec<u32> = (0..8 * k).map(|i| (element.bits)(noise(i + 999) - 0.5)).collect();
        let c: Vec<f32> = (0..128).map(|i| noise(i + 5000)).collect();
        let pack = |count: usize, element_at: &dyn Fn(usize) -> u32| -> Vec<u32> {
            let part = |r: usize| {
                (0..per_register)
                    .fold(0, |all, h| all | element_at(r * per_register + h) << (16 * h))
            };
            (0..count).map(part).collect()
        };
        let mut input = vec![];
        for lane in 0..32 {
            input.extend(pack(na, &|i| {
                let (row, column) = place_of_a(element.bytes, k, lane, i);
                a[row * k + column]
            }));
            input.extend(pack(nb, &|i| {
                let (row, column) = place_of_b(element.bytes, lane, i);
                b[row * 8 + column]
            }));
            input.extend((0..4).map(|i| {
                let (row, column) = place_of_c(lane, i);
                c[row * 8 + column].to_bits()
            }));
        }
        let per_lane = na + nb + 4;
        let loads: String =
            (0..na + nb).map(|r| format!("ld.global.b32 %r{r}, [%a+{}];\n", 4 * r)).collect();
        let loads_c: String =
            (0..4).map(|r| format!("ld.global.f32 %c{r}, [%a+{}];\n", 4 * (na + nb + r))).collect();
        let list = |from: usize, to: usize| {
            (from..to).map(|r| format!("%r{r}")).collect::<Vec<_>>().join(", ")
        };
        let ptx = format!(
            "{HEAD}.visible .entry go(.param .u64 in, .param .u64 out)\n{{\n\
            .reg .b32 %r<9>; .reg .b32 %i; .reg .b64 %a; .reg .b64 %t;\n\
            .reg .f32 %c<4>; .reg .f32 %d<4>;\n\
            mov.u32 %i, %laneid; ld.param.u64 %a, [in];\n\
            mul.wide.u32 %t, %i, {}; add.s64 %a, %a, %t;\n{loads}{loads_c}\
            mma.sync.aligned.m16n8k{k}.row.col.f32.{e}.{e}.f32 {{%d0, %d1, %d2, %d3}},\n\
            {{{}}}, {{{}}}, {{%c0, %c1, %c2, %c3}};\n\
            ld.param.u64 %a, [out]; mul.wide.u32 %t, %i, 16; add.s64 %a, %a, %t;\n\
            st.global.v4.f32 [%a], {{%d0, %d1, %d2, %d3}};\nret;\n}}",
            4 * per_lane,
            list(0, na),
            list(na, na + nb),
            e = element.name,
        );
        let mut gpu = Gpu::new(&ptx, Config::default());
        let (from, to) = (gpu.upload(&input), gpu.room::<f32>(128));
        gpu.run("go", grid(1, 32), &args![from, to]);
        let got: Vec<f32> = gpu.download(to, 128);
        for (lane, i) in (0..32).flat_map(|lane| (0..4).map(move |i| (lane, i))) {
            let (row, column) = place_of_c(lane, i);
            let products = (0..k)
                .map(|x| (element.value)(a[row * k + x]) * (element.value)(b[x * 8 + column]));
            let expected = f64::from(c[row * 8 + column]) + products.sum::<f64>();
            let error = (f64::from(got[lane * 4 + i]) - expected).abs();
            assert!(
                error < 1e-6,
                "{} k {k}: element ({row}, {column}): off by {error}",
                element.name
            );
        }
    }
}

#[test]
fn loads_of_matrices() {
    for (count, transposed) in [(1, false), (2, false), (4, false), (1, true), (2, true), (4, true)]
    {
        let registers: Vec<String> = (0..count).map(|r| format!("%r{r}")).collect();
        let stores: String =
            (0..count).map(|r| format!("st.global.b32 [%a+{}], %r{r};\n", 4 * r)).collect();
        let trans = if transposed { ".trans" } else { "" };
        // Row r of matrix m is at offset 48 r + 400 m, and lane 8 m + r passes its address.
        let ptx = format!(
            "{HEAD}.visible .entry go(.param .u64 in, .param .u64 out)\n{{\n\
            .reg .b32 %r<9>; .reg .b32 %i; .reg .b64 %a; .reg .b64 %t;\n\
            .reg .b32 %s; .reg .b32 %k; .reg .b32 %m; .reg .pred %p;\n\
            .shared .align 16 .b8 tile[1664];\n\
            mov.u32 %i, %laneid; ld.param.u64 %a, [in]; mul.wide.u32 %t, %i, 4;\n\
            add.s64 %a, %a, %t; mov.u32 %s, tile;\n\
            shl.b32 %k, %i, 2; add.s32 %s, %s, %k; mov.u32 %k, 0;\n\
            AGAIN: ld.global.b32 %m, [%a]; st.shared.b32 [%s], %m;\n\
            add.s64 %a, %a, 128; add.s32 %s, %s, 128; add.s32 %k, %k, 1;\n\
            setp.lt.u32 %p, %k, 13; @%p bra AGAIN;\nbar.warp.sync -1;\n\
            mov.u32 %s, tile; shr.u32 %m, %i, 3; and.b32 %k, %i, 7;\n\
            mad.lo.s32 %s, %m, 400, %s; mad.lo.s32 %s, %k, 48, %s;\n\
            ldmatrix.sync.aligned.m8n8.x{count}{trans}.shared.b16 {{{}}}, [%s];\n\
            ld.param.u64 %a, [out]; mul.wide.u32 %t, %i, {}; add.s64 %a, %a, %t;\n{stores}ret;\n}}",
            registers.join(", "),
            4 * count
        );
        let mut gpu = Gpu::new(&ptx, Config::default());
        let tile: Vec<u16> = (0..832).collect();
        let (from, to) = (gpu.upload(&tile), gpu.room::<u32>(32 * count));
        gpu.run("go", grid(1, 32), &args![from, to]);
        let got: Vec<u32> = gpu.download(to, 32 * count);
        let element = |m: usize, row: usize, column: usize| {
            u32::from(tile[(400 * m + 48 * row) / 2 + column])
        };
        for (lane, m) in (0..32).flat_map(|lane| (0..count).map(move |m| (lane, m))) {
            let (row, column) = (lane / 4, 2 * (lane % 4));
            let expected = if transposed {
                element(m, column, row) | element(m, column + 1, row) << 16
            } else {
                element(m, row, column) | element(m, row, column + 1) << 16
            };
            assert_eq!(
                got[lane * count + m],
                expected,
                "matrix {m} of {count}, lane {lane}, transposed {transposed}"
            );
        }
    }
}

#[test]
fn products_in_half_precision() {
    for k in [8usize, 16] {
        let element = &ELEMENTS[0];
        let (na, nb) = (k / 4, k / 8);
        let a: Vec<u32> = (0..16 * k).map(|i| (element.bits)(noise(i) - 0.5)).collect();
        let b: Vec<u32> = (0..8 * k).map(|i| (element.bits)(noise(i + 999) - 0.5)).collect();
        let c: Vec<u32> = (0..128).map(|i| (element.bits)(noise(i + 5000) * 4.0)).collect();
        let pair = |of: &dyn Fn(usize) -> u32, r: usize| of(2 * r) | of(2 * r + 1) << 16;
        let mut input = vec![];
        for lane in 0..32 {
            let of_a = |i| {
                let (row, column) = place_of_a(2, k, lane, i);
                a[row * k + column]
            };
            let of_b = |i| {
                let (row, column) = place_of_b(2, lane, i);
                b[row * 8 + column]
            };
            let of_c = |i| {
                let (row, column) = place_of_c(lane, i);
                c[row * 8 + column]
            };
            input.extend((0..na).map(|r| pair(&of_a, r)));
            input.extend((0..nb).map(|r| pair(&of_b, r)));
            input.extend((0..2).map(|r| pair(&of_c, r)));
        }
        let count = na + nb + 2;
        let list = |from: usize, to: usize| {
            (from..to).map(|r| format!("%r{r}")).collect::<Vec<_>>().join(", ")
        };
        let loads: String =
            (0..count).map(|r| format!("ld.global.b32 %r{r}, [%a+{}];\n", 4 * r)).collect();
        let ptx = format!(
            "{HEAD}.visible .entry go(.param .u64 in, .param .u64 out)\n{{\n\
            .reg .b32 %r<9>; .reg .b32 %d<2>; .reg .b32 %i; .reg .b64 %a; .reg .b64 %t;\n\
            mov.u32 %i, %laneid; ld.param.u64 %a, [in];\n\
            mul.wide.u32 %t, %i, {}; add.s64 %a, %a, %t;\n{loads}\
            mma.sync.aligned.m16n8k{k}.row.col.f16.f16.f16.f16 {{%d0, %d1}},\n\
            {{{}}}, {{{}}}, {{{}}};\n\
            ld.param.u64 %a, [out]; mul.wide.u32 %t, %i, 8; add.s64 %a, %a, %t;\n\
            st.global.v2.b32 [%a], {{%d0, %d1}};\nret;\n}}",
            4 * count,
            list(0, na),
            list(na, na + nb),
            list(na + nb, count),
        );
        let mut gpu = Gpu::new(&ptx, Config::default());
        let (from, to) = (gpu.upload(&input), gpu.room::<u16>(128));
        gpu.run("go", grid(1, 32), &args![from, to]);
        let got: Vec<u16> = gpu.download(to, 128);
        for (lane, i) in (0..32).flat_map(|lane| (0..4).map(move |i| (lane, i))) {
            let (row, column) = place_of_c(lane, i);
            let products = (0..k)
                .map(|x| (element.value)(a[row * k + x]) * (element.value)(b[x * 8 + column]));
            let expected = (element.value)(c[row * 8 + column]) + products.sum::<f64>();
            let error = ((element.value)(u32::from(got[lane * 4 + i])) - expected).abs();
            assert!(error <= 2f64.powi(-9), "k {k}: element ({row}, {column}): off by {error}");
        }
    }
}

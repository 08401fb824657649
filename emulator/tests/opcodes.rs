//! The other opcodes that nvcc emits: mathematics, halves, integers, warp operations, atomics, and
//! pointers to any memory.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use bagdot_emulator::{Config, LaunchError};
use common::{Gpu, compile, grid, noise, schedules};
use half::{bf16, f16};

fn everywhere(test: impl Fn(&mut Gpu)) {
    for (arch, seeds) in [("80", 3), ("90", 1), ("100", 1), ("120", 1)] {
        let ptx = compile("opcodes", arch);
        schedules(seeds).for_each(|config| test(&mut Gpu::new(&ptx, config)));
    }
}

#[test]
fn everything_is_known() {
    everywhere(|gpu| assert_eq!(gpu.device.unsupported(gpu.module), Vec::<String>::new()));
    for (stem, arch) in
        ["correct", "planted"].iter().flat_map(|s| ["80", "90", "100", "120"].map(|a| (s, a)))
    {
        let gpu = Gpu::new(&compile(stem, arch), Config::default());
        assert_eq!(gpu.device.unsupported(gpu.module), Vec::<String>::new());
    }
}

#[test]
fn mathematics() {
    everywhere(|gpu| {
        let x: Vec<f32> = (0..40).map(|k| noise(k) * 2.0 - 0.99).collect();
        let (dx, y, z) = (gpu.upload(&x), gpu.room::<f32>(40 * 16), gpu.room::<f64>(80));
        gpu.run("mathematics", grid(2, 32), &args![dx, y, z, 40i32]);
        let (y, z): (Vec<f32>, Vec<f64>) = (gpu.download(y, 640), gpu.download(z, 80));
        for (i, &x) in x.iter().enumerate() {
            let v = f64::from(x);
            let expected = [
                v.exp(),
                (v + 2.0).ln(),
                v.tanh(),
                1.0 / (v + 2.0).sqrt(),
                (v + 2.0).powf(2.5),
                v.ln_1p(),
                f64::from(x * 100.0).sin(),
                f64::NAN,
                v / 3.0,
                (v * 8.0).round_ties_even(),
                (v * 8.0).round(),
                v.exp(),
                v.cbrt(),
                v * v - v,
                1.0 / (1.0 + (-v).exp()),
                v.max(0.0),
            ];
            for (k, e) in expected.into_iter().enumerate().filter(|(_, e)| !e.is_nan()) {
                let got = f64::from(y[16 * i + k]);
                assert!(
                    (got - e).abs() < 2e-6 * (1.0 + e.abs()),
                    "function {k} of {x}: {got}, not {e}"
                );
            }
            assert!(
                (z[2 * i] - v.exp() / 3.0).abs() < 1e-15
                    && (z[2 * i + 1] - (z[2 * i].ln() + (2.0 + v).sqrt())).abs() < 1e-14
            );
        }
    });
}

#[test]
fn halves_and_brains() {
    everywhere(|gpu| {
        let a: Vec<u16> = (0..64).map(|k| f16::from_f32(noise(k) * 4.0 - 2.0).to_bits()).collect();
        let b: Vec<u16> =
            (0..64).map(|k| bf16::from_f32(noise(k + 77) * 4.0 - 2.0).to_bits()).collect();
        let (da, db, out) = (gpu.upload(&a), gpu.upload(&b), gpu.room::<f32>(256));
        let sums = (gpu.upload(&[0u16; 2]), gpu.upload(&[0u16; 2]));
        gpu.run("halves_and_brains", grid(1, 32), &args![da, db, out, sums.0, sums.1]);
        let out: Vec<f32> = gpu.download(out, 256);
        for i in 0..32 {
            let h = |k: usize| f16::from_bits(a[2 * i + k]).to_f64();
            let g = |k: usize| bf16::from_bits(b[2 * i + k]).to_f64();
            for k in 0..2 {
                // The inner operation is rounded before the outer one.
                let twice = f16::from_f64(h(k) + h(k)).to_f64();
                assert_eq!(out[8 * i + k], f16::from_f64(h(k) * h(k) + twice).to_f32());
                let square = bf16::from_f64(g(k) * g(k)).to_f64();
                assert_eq!(out[8 * i + 2 + k], bf16::from_f64(g(k) * g(k) + square).to_f32());
            }
            assert_eq!(f64::from(out[8 * i + 4]), h(0).max(h(1)));
            assert_eq!(f64::from(out[8 * i + 5]), g(0).min(g(1)));
            assert_eq!(out[8 * i + 6] == 1.0, h(0) < h(1));
            assert!((f64::from(out[8 * i + 7]) - h(0).exp() - g(0).abs().sqrt()).abs() < 0.02);
        }
        assert_eq!(gpu.download::<u16>(sums.0, 2), [f16::from_f32(16.0).to_bits(); 2]);
        assert_eq!(gpu.download::<u16>(sums.1, 2), [bf16::from_f32(8.0).to_bits(); 2]);
    });
}

#[test]
fn integers() {
    everywhere(|gpu| {
        let x: Vec<i32> = (0..32).map(|k| (k - 16) * 7_777_777 + k * k).collect();
        let (dx, y, z) = (gpu.upload(&x), gpu.room::<u32>(512), gpu.room::<i64>(128));
        let mut sizes = vec![];
        sizes.extend(11i32.to_le_bytes());
        sizes.extend([0; 4]);
        sizes.extend(1_000_003i64.to_le_bytes());
        [3, 1, 4, 1, 5].iter().for_each(|v: &i32| sizes.extend(v.to_le_bytes()));
        sizes.extend([0; 4]);
        let shift = 6;
        let [dx, dy, dz, s] = args![dx, y, z, shift];
        gpu.run("integers", grid(1, 32), &[dx, dy, dz, sizes, s]);
        let (y, z): (Vec<u32>, Vec<i64>) = (gpu.download(y, 512), gpu.download(z, 128));
        for (i, &v) in x.iter().enumerate() {
            let u = (v as u32).wrapping_mul(2_654_435_761);
            let first_set = if v == 0 { 0 } else { v.trailing_zeros() + 1 };
            let bytes = [v as u32, u].iter().flat_map(|w| w.to_le_bytes()).collect::<Vec<_>>();
            let dot: i32 = (0..4)
                .map(|k| i32::from(v.to_le_bytes()[k] as i8) * i32::from(u.to_le_bytes()[k] as i8))
                .sum();
            let halves = |f: fn(u16, u16) -> u16| {
                u32::from(f(u as u16, v as u16))
                    | u32::from(f((u >> 16) as u16, (v as u32 >> 16) as u16)) << 16
            };
            let expected = [
                v.count_ones() + v.leading_zeros() + first_set,
                u.reverse_bits(),
                u32::from_le_bytes([bytes[0], bytes[4], bytes[1], bytes[5]]),
                ((i64::from(v) * 12345) >> 32) as u32,
                ((u64::from(u) * 77777) >> 32) as u32,
                ((u64::from(v as u32) << 32 | u64::from(u)) << shift >> 32) as u32,
                (u / 7).wrapping_add((v % 13) as u32).wrapping_add((v / 11) as u32),
                v.abs_diff(u as i32) + 3,
                (dot + 5) as u32,
                halves(u16::wrapping_add),
                ((i64::from(v) + 3) >> 1) as u32,
                (u & 0xf0f0) | (!(v as u32) ^ shift as u32),
                4,
                v.unsigned_abs().wrapping_add(v.min(3) as u32).wrapping_add(u.max(3)),
                (v as i8 as u32).wrapping_add(u32::from(u as u16)),
                ((i64::from(v) << 40 >> 40) * 3) as u32,
            ];
            for (k, e) in expected.into_iter().enumerate() {
                assert_eq!(y[16 * i + k], e, "function {k} of {v}");
            }
            let w = i64::from(v).wrapping_mul(1_234_567_890_123);
            let high = ((i128::from(w) * 987_654_321_987) >> 64) as i64;
            let expected = [
                high + i64::from(w.count_ones()) + i64::from(w.leading_zeros()),
                w / 7 + w % 1_000_003,
                (w >> shift).wrapping_add(w << 3),
                w.min(i64::from(v).wrapping_mul(i64::from(u))),
            ];
            assert_eq!(z[4 * i..4 * i + 4], expected, "of {v}");
        }
    });
}

#[test]
fn collectives() {
    everywhere(|gpu| {
        let x: Vec<i32> = (0..64).map(|k| k * 37 % 101).collect();
        let (dx, out, wide) = (gpu.upload(&x), gpu.room::<u32>(1024), gpu.room::<f64>(64));
        gpu.run("collectives", grid(1, 64), &args![dx, out, wide]);
        let (out, wide): (Vec<u32>, Vec<f64>) = (gpu.download(out, 1024), gpu.download(wide, 64));
        for t in 0..64 {
            let first = t & 32;
            let lane = t - first;
            let warp = &x[first..first + 32];
            let set =
                |f: &dyn Fn(i32) -> bool| (0..32).fold(0u32, |m, l| m | u32::from(f(warp[l])) << l);
            let within =
                |from: usize, valid: bool| if valid { warp[from] } else { warp[lane] } as u32;
            let expected = [
                u32::from(warp.iter().any(|&v| v > 90)),
                1,
                set(&|v| v & 1 == 1),
                warp.iter().sum::<i32>() as u32,
                *warp.iter().min().unwrap() as u32,
                *warp.iter().max().unwrap() as u32,
                warp.iter().fold(0, |a, b| a ^ b) as u32,
                warp.iter().fold(-1, |a, b| a & (b | 16)) as u32,
                set(&|v| v & 3 == warp[lane] & 3),
                u32::MAX.wrapping_add(1),
                x.iter().filter(|&&v| v & 1 == 1).count() as u32,
                1,
                within(lane.wrapping_sub(3) & 31, lane % 16 >= 3),
                within((lane + 5) & 31, lane % 8 + 5 < 8),
                within(lane / 8 * 8 + 13 % 8, true),
                set(&|v| v & 1 == warp[lane] & 1),
            ];
            for (k, e) in expected.into_iter().enumerate() {
                assert_eq!(out[16 * t + k], e, "operation {k} of thread {t}");
            }
            assert_eq!(wide[t], f64::from(warp[lane ^ 9]));
        }
    });
}

#[test]
fn atomics() {
    everywhere(|gpu| {
        let n = 96u32;
        let i = gpu.upload(&[0i32, 0, -1, 0, 0, 0, 0, 0, 0]);
        let u = gpu.upload(&[10u32, 0, 0, 100]);
        let (f, d) = (gpu.upload(&[0f32, 0.0]), gpu.upload(&[0f64]));
        let (q, olds) = (gpu.upload(&[5u64, 0]), gpu.room::<u32>(n as usize));
        gpu.run("atomics", grid(1, n), &args![i, u, f, d, q, olds]);
        let counts: Vec<i32> = (0..4).map(|k| (0..n as i32).filter(|t| t & 3 == k).sum()).collect();
        assert_eq!(gpu.download::<i32>(i, 5), [-20, 95, 0, -1, 0]);
        assert_eq!(gpu.download::<i32>(i + 20, 4), counts);
        let mut old: Vec<u32> = gpu.download(olds, n as usize);
        old.sort_unstable();
        assert_eq!(old, (10..10 + n).collect::<Vec<_>>());
        // One counts up from 0 to 9 and around, the other down from 0, which goes to 9 first.
        assert_eq!(gpu.download::<u32>(u, 4), [10 + n, n % 10, (10 - n % 10) % 10, 100 + 2 * n]);
        assert_eq!(gpu.download::<f32>(f, 2), [24.0, 48.0]);
        assert_eq!(gpu.download::<f64>(d, 1), [12.0]);
        assert_eq!(gpu.download::<u64>(q, 2), [5 + (96 << 33), 95 << 35]);
    });
}

#[test]
fn pointers_and_variables() {
    everywhere(|gpu| {
        let g = gpu.upload(&(0..68).map(|k| k as f32).collect::<Vec<_>>());
        for c in [2i32, 9] {
            gpu.run("generic_and_switch", grid(1, 32), &args![g, c]);
            let got: Vec<f32> = gpu.download(g, 64);
            for (t, &got) in got[..32].iter().enumerate() {
                let at = (t + c as usize) & 3;
                let expected = match t / 8 {
                    0 => 64.0 + at as f32,
                    1 => at as f32,
                    2 => [1.0, 2.0, 3.0, 4.0][at],
                    _ => [10.0, 20.0, 30.0, c as f32][at],
                };
                assert_eq!(got, expected, "thread {t}");
            }
            let cases = [
                1.0,
                5.0,
                6.0 * c as f32,
                (c as f32).sqrt(),
                3.0,
                192.0,
                7.0,
                c.count_ones() as f32,
                -1.0,
            ];
            assert_eq!(got[32..41], cases);
        }
        let (address, bytes) = gpu.device.variable(gpu.module, "launches").unwrap();
        assert_eq!((bytes, gpu.download::<u32>(address, 1)), (4, vec![5]));
    });
}

#[test]
fn hints() {
    // Every lane stores to the flag in turn. These are strong stores, which do not race.
    everywhere(|gpu| {
        let g = gpu.upload(&(0..128).map(|k| k as f32).collect::<Vec<_>>());
        let (o, flag) = (gpu.room::<f32>(512), gpu.upload(&[0u32]));
        gpu.run("hints", grid(1, 32), &args![g, o, flag]);
        assert_eq!(gpu.download::<f32>(o, 256), gpu.download::<f32>(g, 128).repeat(2));
        assert_eq!(gpu.download::<f32>(o + 1024, 4), [4.0, 5.0, 6.0, 7.0]);
        assert_eq!(gpu.download::<f32>(o + 1536, 2), [0.0, 1.0]);
    });
}

#[test]
fn arguments_are_checked() {
    let mut gpu = Gpu::new(&compile("opcodes", "80"), Config::default());
    let kernel = gpu.kernel("hints");
    let error = gpu.device.launch(kernel, grid(1, 32), &[&[0; 8], &[0; 4]]).unwrap_err();
    let text = "hints takes [8, 8, 8], but was given [8, 4]";
    assert!(matches!(error, LaunchError::Arguments { .. }) && error.to_string() == text, "{error}");
}

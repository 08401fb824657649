//! Kernels without a fault agree with plain loops, and no check reports anything: under 30 seeds in
//! both schedules, and for the PTX of every architecture.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use bagdot_emulator::{Config, Grid};
use common::{Gpu, compile, grid, noise, schedules};

/// Runs a test under every seed on the oldest architecture, and under some on the others.
fn everywhere(test: impl Fn(&mut Gpu)) {
    for (arch, seeds) in [("80", 30), ("90", 2), ("100", 2), ("120", 2)] {
        let ptx = compile("correct", arch);
        for config in schedules(seeds) {
            test(&mut Gpu::new(&ptx, config));
        }
    }
}

fn close(got: &[f32], expected: &[f64], tolerance: f64) {
    assert_eq!(got.len(), expected.len());
    for (k, (g, e)) in got.iter().zip(expected).enumerate() {
        assert!(
            (f64::from(*g) - e).abs() <= tolerance * (1.0 + e.abs()),
            "element {k}: {g}, not {e}"
        );
    }
}

fn floats(count: usize, from: usize) -> Vec<f32> {
    (0..count).map(|k| noise(k + from) * 2.0 - 1.0).collect()
}

#[test]
fn sums() {
    everywhere(|gpu| {
        let x = floats(4 * 1111, 0);
        let expected = [x.iter().map(|&v| f64::from(v)).sum::<f64>()];
        let (dx, out) = (gpu.upload(&x), gpu.upload(&[0f32]));
        gpu.run("reduce_sum", grid(3, 256), &args![dx, out, 1111i32]);
        close(&gpu.download(out, 1), &expected, 1e-4);
        let (partial, done, out) = (gpu.room::<f32>(5), gpu.upload(&[0u32]), gpu.room::<f32>(1));
        gpu.run("reduce_last_block", grid(5, 128), &args![dx, partial, done, out, 4444i32]);
        close(&gpu.download(out, 1), &expected, 1e-4);
    });
}

#[test]
fn sort_and_segments() {
    everywhere(|gpu| {
        let n = 2500usize;
        let keys: Vec<u32> = (0..n).map(|k| (noise(k).powi(3) * 700.0) as u32).collect();
        let positions: Vec<u32> = (0..n as u32).collect();
        let mut a = (gpu.upload(&keys), gpu.upload(&positions));
        let mut b = (gpu.room::<u32>(n), gpu.room::<u32>(n));
        let blocks = n.div_ceil(1024) as u32;
        let histogram = gpu.room::<u32>(256 * blocks as usize);
        for shift in [0, 8] {
            gpu.run("radix_histogram", grid(blocks, 256), &args![a.0, n as i32, shift, histogram]);
            gpu.run("scan_exclusive", grid(1, 1024), &args![histogram, 256 * blocks as i32]);
            let args = args![a.0, a.1, b.0, b.1, n as i32, shift, histogram];
            gpu.run("radix_scatter", grid(blocks, 256), &args);
            std::mem::swap(&mut a, &mut b);
        }
        let mut expected: Vec<(u32, u32)> = keys.iter().copied().zip(positions).collect();
        expected.sort();
        let got: Vec<(u32, u32)> =
            gpu.download(a.0, n).into_iter().zip(gpu.download(a.1, n)).collect();
        assert_eq!(got, expected);

        let n = 300usize;
        let d4 = 5;
        let rows = floats(2500 * 4 * d4, 7);
        let mut sums = vec![0f64; 700 * 4 * d4];
        for &(key, position) in &expected[..n] {
            for c in 0..4 * d4 {
                sums[key as usize * 4 * d4 + c] += f64::from(rows[position as usize * 4 * d4 + c]);
            }
        }
        let (rows, out) = (gpu.upload(&rows), gpu.upload(&vec![0f32; sums.len()]));
        let args = args![a.0, a.1, n as i32, rows, out, d4 as i32];
        gpu.run("segment_sum", grid((n as u32).div_ceil(8), 256), &args);
        close(&gpu.download(out, sums.len()), &sums, 1e-5);
    });
}

#[test]
fn tensor_cores() {
    everywhere(|gpu| {
        let (samples, f, d) = (2usize, 27usize, 48usize);
        let x: Vec<u16> =
            floats(samples * f * d, 3).iter().map(|&v| half::bf16::from_f32(v).to_bits()).collect();
        let value = |k: usize| f64::from(half::bf16::from_bits(x[k]).to_f32());
        let mut expected = vec![];
        for b in 0..samples {
            for (r, q) in (1..f).flat_map(|r| (0..r).map(move |q| (r, q))) {
                expected.push(
                    (0..d).map(|k| value((b * f + r) * d + k) * value((b * f + q) * d + k)).sum(),
                );
            }
        }
        let (dx, out) = (gpu.upload(&x), gpu.room::<f32>(expected.len()));
        let shape = Grid { dynamic_shared: 32 * (d + 8) * 2, ..grid(samples as u32, 128) };
        gpu.run("interact_bf16", shape, &args![dx, out, f as i32, d as i32]);
        close(&gpu.download(out, expected.len()), &expected, 1e-5);

        let x: Vec<f32> = floats(2 * 16 * 24, 5);
        let value = |k: usize| f64::from(f32::from_bits((x[k].to_bits() + 0x1000) & 0xffff_e000));
        let mut expected = vec![];
        for (b, r, q) in
            (0..2).flat_map(|b| (0..16).flat_map(move |r| (0..16).map(move |q| (b, r, q))))
        {
            expected.push(
                (0..24).map(|k| value((b * 16 + r) * 24 + k) * value((b * 16 + q) * 24 + k)).sum(),
            );
        }
        let (dx, out) = (gpu.upload(&x), gpu.room::<f32>(512));
        gpu.run("gram_tf32", grid(2, 32), &args![dx, out, 24i32]);
        close(&gpu.download(out, 512), &expected, 1e-5);
    });
}

#[test]
fn copies_in_a_pipeline() {
    everywhere(|gpu| {
        let tiles = 7usize;
        let x = floats(2 * tiles * 128, 1);
        let expected: Vec<f64> = (0..256)
            .map(|t| {
                (0..tiles)
                    .map(|k| f64::from(x[(t / 128 * tiles + k) * 128 + ((t % 128) ^ 1)]))
                    .sum()
            })
            .collect();
        let (dx, out) = (gpu.upload(&x), gpu.room::<f32>(256));
        gpu.run("pipeline_sum", grid(2, 128), &args![dx, out, tiles as i32]);
        close(&gpu.download(out, 256), &expected, 1e-6);
    });
}

#[test]
fn exchanges_in_a_warp() {
    everywhere(|gpu| {
        let x = floats(64, 2);
        let (dx, out) = (gpu.upload(&x), gpu.room::<f32>(64));
        gpu.run("exchange", grid(1, 64), &args![dx, out]);
        // The slot of lane n holds what the lane four before it wrote.
        let neighbour = |t: usize, by: usize| (t & 32) + ((t + by) & 31);
        let first: Vec<f32> = (0..64).map(|t| x[neighbour(t, 4)] + 1.0).collect();
        let expected: Vec<f64> =
            (0..64).map(|t| f64::from(first[t] + first[neighbour(t, 28)])).collect();
        close(&gpu.download(out, 64), &expected, 0.0);

        let out = gpu.room::<u16>(64);
        gpu.run("halves", grid(1, 64), &args![dx, out]);
        let expected: Vec<u16> =
            (0..64).map(|t| half::bf16::from_f32(x[t ^ 1]).to_bits()).collect();
        assert_eq!(gpu.download::<u16>(out, 64), expected);

        let x: Vec<i32> = (0..64).map(|k| k * k % 37).collect();
        let (dx, out) = (gpu.upload(&x), gpu.room::<i32>(64));
        gpu.run("groups_of_eight", grid(1, 64), &args![dx, out]);
        let mut expected = x.clone();
        for group in 0..8 {
            for _ in 0..=group % 4 {
                let before = expected.clone();
                (8 * group..8 * group + 8).for_each(|t| expected[t] = before[t] + before[t ^ 7]);
            }
        }
        assert_eq!(gpu.download::<i32>(out, 64), expected);
    });
}

#[test]
fn named_barriers() {
    everywhere(|gpu| {
        let x: Vec<i32> = (0..5 * 64).map(|k| k * 31 % 101).collect();
        let (dx, out) = (gpu.upload(&x), gpu.room::<i32>(64));
        gpu.run("producer_consumer", grid(1, 128), &args![dx, out, 5i32]);
        let expected: Vec<i32> =
            (0..64).map(|t| (0..5).map(|k| x[k * 64 + 63 - t]).sum()).collect();
        assert_eq!(gpu.download::<i32>(out, 64), expected);
    });
}

#[test]
fn threads_that_leave_early() {
    everywhere(|gpu| {
        let n = 150usize;
        let x: Vec<i32> = (0..n as i32).collect();
        let (dx, out) = (gpu.upload(&x), gpu.room::<i32>(n));
        // Blocks of 80 threads have a last warp of 16.
        gpu.run("leave_early", grid(2, 80), &args![dx, out, n as i32]);
        let start = |i: usize| i / 80 * 80 + i % 80 / 32 * 32;
        let expected: Vec<i32> = (0..n).map(|i| (start(i)..=i).map(|k| k as i32).sum()).collect();
        assert_eq!(gpu.download::<i32>(out, n), expected);
    });
}

#[test]
fn calls_and_local_memory() {
    everywhere(|gpu| {
        let x = floats(32, 9);
        let (dx, out) = (gpu.upload(&x), gpu.room::<f32>(128));
        let mut shape = vec![];
        shape.extend(3i32.to_le_bytes());
        shape.extend(0.5f32.to_le_bytes());
        [7i64, 11, 13].iter().for_each(|v| shape.extend(v.to_le_bytes()));
        let n = 6i32;
        gpu.run(
            "calls",
            grid(1, 32),
            &[
                common::Plain::to_bytes(dx),
                common::Plain::to_bytes(out),
                shape,
                common::Plain::to_bytes(n),
            ],
        );
        let table = [1.0, 2.0, 4.0, 8.0];
        let expected: Vec<f64> = (0..32)
            .flat_map(|i| {
                let v = f64::from(x[i]);
                let p = (0..i % 5).fold(0.0, |s, k| s * v + table[k & 3]);
                [p * 3.0, p + 0.5, v * ((i + 6) & 7) as f64 + 11.0, v]
            })
            .collect();
        close(&gpu.download(out, 128), &expected, 1e-5);
    });
}

#[test]
fn counters() {
    let mut gpu = Gpu::new(&compile("correct", "80"), Config::default());
    let (dx, out) = (gpu.upload(&floats(4 * 1024, 0)), gpu.upload(&[0f32]));
    gpu.run("reduce_sum", grid(2, 256), &args![dx, out, 1024i32]);
    let all = gpu.device.counters();
    let sum = all.iter().find(|k| k.name == "reduce_sum").unwrap();
    // The kernel reads 16 KiB once in whole sectors, and each block adds one float.
    assert_eq!((sum.launches, sum.block_instructions.len()), (1, 2));
    let source = include_str!("kernels/correct.cu");
    let line = source.lines().position(|l| l.contains("__ldg(x + i)")).unwrap() as u32 + 1;
    let load = sum.lines.iter().filter(|l| l.file.ends_with("correct.cu") && l.line == line);
    let (mut sectors, mut ideal, mut read) = (0, 0, 0);
    for l in sum.lines.iter().filter(|l| l.counts.global_read >= 1024) {
        sectors += l.counts.sectors;
        ideal += l.counts.ideal_sectors;
        read += l.counts.global_read;
    }
    assert!(
        load.count() <= 1 && sectors == 512 && ideal == 512 && read == 16384,
        "{sectors} {ideal} {read}"
    );
    assert_eq!(sum.total.instructions, sum.block_instructions.iter().sum::<u64>());
    assert_eq!(sum.total.bank_passes, sum.total.ideal_passes);
    gpu.device.reset_counters();
    assert!(gpu.device.counters().is_empty());

    // The padded tile has no bank conflicts. Without the padding (D = 0 mod 64 and pitch D) it
    // would have some.
    let (f, d) = (27usize, 64usize);
    let (dx, out) = (gpu.upload(&vec![0u16; f * d]), gpu.room::<f32>(f * (f - 1) / 2));
    let shape = Grid { dynamic_shared: 32 * (d + 8) * 2, ..grid(1, 128) };
    gpu.run("interact_bf16", shape, &args![dx, out, f as i32, d as i32]);
    let all = gpu.device.counters();
    let interact = all.iter().find(|k| k.name == "interact_bf16").unwrap();
    assert_eq!(interact.total.bank_passes, interact.total.ideal_passes);
    assert_eq!(interact.total.global_read, (f * d * 2) as u64);
    assert!(
        interact.total.sectors > interact.total.ideal_sectors,
        "the triangle is stored in pieces"
    );
}

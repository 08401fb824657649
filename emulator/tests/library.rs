//! Kernels that use NVIDIA's own device code compute the right results, and no check gives a false
//! alarm.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use bagdot_emulator::Grid;
use common::{Gpu, compile, grid, noise, schedules};

fn everywhere(test: impl Fn(&mut Gpu)) {
    for (arch, seeds) in [("80", 30), ("90", 2), ("120", 2)] {
        let ptx = compile("library", arch);
        schedules(seeds).for_each(|config| test(&mut Gpu::new(&ptx, config)));
    }
}

fn integers(count: usize, below: f32) -> Vec<i32> {
    (0..count).map(|k| (noise(k) * below) as i32).collect()
}

#[test]
fn cub() {
    everywhere(|gpu| {
        let keys: Vec<u32> = (0..512).map(|k| (noise(k) * 100.0) as u32).collect();
        let values: Vec<u32> = (0..512).collect();
        let (k, v, sk, sv) =
            (gpu.upload(&keys), gpu.upload(&values), gpu.room::<u32>(512), gpu.room::<u32>(512));
        gpu.run("block_sort", grid(1, 128), &args![k, v, sk, sv]);
        let mut expected: Vec<(u32, u32)> = keys.iter().copied().zip(values).collect();
        expected.sort_by_key(|pair| pair.0);
        let got: Vec<(u32, u32)> =
            gpu.download(sk, 512).into_iter().zip(gpu.download(sv, 512)).collect();
        assert_eq!(got, expected);

        let x = integers(256, 50.0);
        let (dx, prefix, total) = (gpu.upload(&x), gpu.room::<i32>(256), gpu.room::<i32>(2));
        gpu.run("block_sums", grid(2, 128), &args![dx, prefix, total]);
        let expected: Vec<i32> = (0..256).map(|i| x[i / 128 * 128..i].iter().sum()).collect();
        assert_eq!(gpu.download::<i32>(prefix, 256), expected);
        assert_eq!(
            gpu.download::<i32>(total, 2),
            [x[..128].iter().sum::<i32>(), x[128..].iter().sum()]
        );
    });
}

#[test]
fn cooperative_groups() {
    everywhere(|gpu| {
        let x = integers(128, 60.0);
        let (dx, out) = (gpu.upload(&x), gpu.upload(&[0i32; 512]));
        gpu.run("groups", grid(1, 128), &args![dx, out]);
        let got: Vec<i32> = gpu.download(out, 512);
        for i in 0..128 {
            let warp = &x[i / 32 * 32..i / 32 * 32 + 32];
            assert_eq!(got[i], warp.iter().sum::<i32>());
            assert_eq!(got[128 + i], x[i / 8 * 8..=i].iter().sum::<i32>());
            // The hardware does not define which lanes a branch leaves together.
            let threes = warp.iter().filter(|v| *v % 3 == 0).sum::<i32>();
            let some = got[256 + i];
            assert!(
                if x[i] % 3 == 0 { (x[i]..=threes).contains(&some) } else { some == 0 },
                "{some} of {threes}"
            );
            assert_eq!(got[384 + i], x[i ^ 5]);
        }
    });
}

#[test]
fn blocks_that_wait_for_each_other() {
    everywhere(|gpu| {
        let x = integers(6, 90.0);
        let (dx, carry, turn, out) =
            (gpu.upload(&x), gpu.upload(&[0i32]), gpu.upload(&[0u32]), gpu.room::<i32>(6));
        let resident = Grid { cooperative: true, ..grid(6, 32) };
        gpu.run("chain", resident, &args![dx, carry, turn, out]);
        assert_eq!(
            gpu.download::<i32>(out, 6),
            (0..6).map(|b| x[..b].iter().sum()).collect::<Vec<i32>>()
        );

        let x = integers(5 * 64, 90.0);
        let (dx, room, arrived, out) =
            (gpu.upload(&x), gpu.room::<i32>(320), gpu.upload(&[0u32]), gpu.room::<i32>(320));
        gpu.run(
            "across_blocks",
            Grid { cooperative: true, ..grid(5, 64) },
            &args![dx, room, arrived, out],
        );
        assert_eq!(
            gpu.download::<i32>(out, 320),
            (0..320).map(|i| 2 * x[(i + 64) % 320]).collect::<Vec<i32>>()
        );
    });
}

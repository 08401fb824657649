//! The speed of the interpreter: `cargo test --test speed -- --ignored --nocapture`. All checks are
//! on, except that of races where the output says so.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use bagdot_emulator::{Config, Grid, Schedule};
use common::{Gpu, compile, grid};

/// Returns the seconds that this thread has run on a processor. Wall time would count other
/// processes too.
fn seconds() -> f64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    text.split(' ').next().unwrap().parse::<f64>().unwrap() / 1e9
}

fn measure(gpu: &mut Gpu, name: &str, shape: Grid, args: &[Vec<u8>]) {
    let start = seconds();
    gpu.run(name, shape, args);
    let seconds = seconds() - start;
    let counters = gpu.device.counters();
    let kernel = counters.iter().find(|k| k.name == name).unwrap();
    let (count, lanes) = (kernel.total.instructions as f64, kernel.total.lane_instructions as f64);
    let Config { schedule, races, .. } = gpu.device.config;
    println!(
        "{schedule:?}, races {races}: {name}: {:.2} M warp instructions/s, \
         {:.0} M lane instructions/s ({count} in {seconds:.3} s)",
        count / seconds / 1e6,
        lanes / seconds / 1e6
    );
}

#[test]
#[ignore = "measures, and asserts nothing that a busy machine could not break"]
fn instructions_per_second() {
    let ptx = compile("correct", "80");
    for (schedule, races) in
        [(Schedule::Lockstep, true), (Schedule::Lockstep, false), (Schedule::Independent, true)]
    {
        let mut gpu = Gpu::new(&ptx, Config { schedule, races, ..Config::default() });
        let n = 1 << 19;
        let floats = gpu.upload(&vec![1f32; n]);
        let halves = gpu.upload(&vec![0u16; n]);
        let keys = gpu.upload(
            &(0..n as u32).map(|k| k.wrapping_mul(2_654_435_761) >> 12).collect::<Vec<_>>(),
        );
        let (a, b, c, sum) =
            (gpu.room::<u32>(n), gpu.room::<u32>(n), gpu.room::<u32>(n), gpu.upload(&[0f32]));
        measure(&mut gpu, "reduce_sum", grid(64, 256), &args![floats, sum, n as i32 / 4]);
        let blocks = n as u32 / 1024;
        measure(&mut gpu, "radix_histogram", grid(blocks, 256), &args![keys, n as i32, 0i32, c]);
        measure(&mut gpu, "scan_exclusive", grid(1, 1024), &args![c, 256 * blocks as i32]);
        measure(
            &mut gpu,
            "radix_scatter",
            grid(blocks, 256),
            &args![keys, keys, a, b, n as i32, 0i32, c],
        );
        let shape = Grid { dynamic_shared: 32 * 72 * 2, ..grid(256, 128) };
        measure(&mut gpu, "interact_bf16", shape, &args![halves, a, 27i32, 64i32]);
        measure(&mut gpu, "pipeline_sum", grid(64, 128), &args![floats, a, 64i32]);
        let rows = gpu.upload(&vec![0u32; 1 << 16]);
        let positions = gpu.upload(&(0..2048u32).collect::<Vec<_>>());
        let ids = gpu.upload(&(0..2048u32).map(|k| k / 16).collect::<Vec<_>>());
        measure(
            &mut gpu,
            "segment_sum",
            grid(256, 256),
            &args![ids, positions, 2048i32, rows, a, 8i32],
        );
    }
}

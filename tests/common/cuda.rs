//! CUDA devices for tests: a real one where there is one, else the emulator.
//!
//! On the emulator a test runs once for each of several schedules, with all checks on: bounds, alignment, uninitialised memory, races, barriers.

use bagdot::Cuda;
use bagdot_emulator::{Config, Emulator, Schedule};

/// The emulator, unless a real device is to be used (`BAGDOT_REQUIRE_CUDA=1` makes a missing one a failure).
pub fn emulator() -> Option<&'static Emulator> {
    bagdot_emulator::install().unwrap()
}

/// Runs a test on a device: on the emulator with warps in two random orders, and with lanes that run on their own.
pub fn on_every_schedule(test: impl Fn(&Cuda)) {
    run(Config::default(), test);
}

/// As [`on_every_schedule`], for tests that pass offsets by which bags overlap: threads then write to one place, in either order, what nobody may
/// use, since the call reports an error.
pub fn on_every_schedule_with_overlaps(test: impl Fn(&Cuda)) {
    run(Config { races: false, ..Config::default() }, test);
}

fn run(config: Config, test: impl Fn(&Cuda)) {
    let Some(emulator) = emulator() else {
        return test(&Cuda::new(0).unwrap());
    };
    let schedules = [(1, Schedule::Lockstep), (2, Schedule::Lockstep), (3, Schedule::Independent)];
    for (seed, schedule) in schedules {
        let alone = emulator.exclusive();
        alone.configure(Config { seed, schedule, ..config });
        test(&Cuda::new(0).unwrap());
        assert_eq!(alone.report(), "", "what the emulator found with seed {seed}, {schedule:?}");
    }
}

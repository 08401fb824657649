//! What the tests share.

pub mod cases;
#[cfg(feature = "cuda")]
pub mod cuda;
pub mod engine;
pub mod memory;
pub mod reference;
pub mod rounds;
pub mod tolerance;
pub mod updates;

pub use cases::{BagCase, DIMS, Id, POOLINGS, draw, feature};
pub use memory::{Grid, Poison, download, download_view, poisoned, upload};
pub use tolerance::{
    Approx, Stored, U, assert_close, assert_close_within, assert_same_bits, exact, ulp, values,
};

use bagdot::ops::Device;
use bagdot::{Cpu, Error, Result, Simd};

/// Stamps functions of the kind `fn(&impl Backend)` onto every backend, as tests; onto CUDA those
/// of `backend_suite!(cuda: …)`, of ops that it has.
macro_rules! backend_suite {
    (cuda: $($test:ident),+ $(,)?) => {
        backend_suite!($($test),+);
        #[cfg(feature = "cuda")]
        mod cuda {
            $(
                #[test]
                fn $test() {
                    crate::common::cuda::on_every_schedule(super::$test);
                }
            )+
        }
    };
    ($($test:ident),+ $(,)?) => {
        stamp!(cpu, bagdot::Cpu::with_threads(3).unwrap(), $($test),+);
        stamp!(cpu_single_threaded, bagdot::Cpu::single_threaded(), $($test),+);
        mod cpu_of_each_simd {
            $(
                #[test]
                fn $test() {
                    crate::common::cpus().iter().for_each(super::$test);
                }
            )+
        }
    };
}
macro_rules! stamp {
    ($backend:ident, $device:expr, $($test:ident),+) => {
        mod $backend {
            $(
                #[test]
                fn $test() {
                    super::$test(&$device);
                }
            )+
        }
    };
}
pub(crate) use {backend_suite, stamp};

/// A CPU for each instruction set of this machine.
pub fn cpus() -> Vec<Cpu> {
    let available = Simd::ALL.into_iter().filter(|simd| simd.is_available());
    available.map(|simd| Cpu::with_threads(2).unwrap().with_simd(simd).unwrap()).collect()
}

/// What an op reports, at once or at the next synchronisation.
pub fn outcome<B: Device>(device: &B, result: Result<()>) -> Result<()> {
    result.and_then(|()| device.synchronize())
}

/// The text of the error that a call must give.
#[track_caller]
pub fn message(result: Result<()>) -> String {
    result.expect_err("this must be an error").to_string()
}

/// CPUs of several sizes.
fn cpus_of_any_size() -> [Cpu; 4] {
    [1, 2, 3, 8].map(|threads| Cpu::with_threads(threads).unwrap())
}

/// Runs `work` on CPUs of several sizes and of each instruction set, and twice on each: all results
/// must be the same bytes.
#[track_caller]
pub fn assert_deterministic(what: &str, work: impl Fn(&Cpu) -> Vec<u8>) {
    assert_same_on(
        what,
        &Cpu::single_threaded(),
        cpus_of_any_size().into_iter().chain(cpus()),
        work,
    );
}

/// As [`assert_deterministic`], for work whose bits depend on the instruction set, as those of
/// products of `bf16` do.
#[track_caller]
pub fn assert_deterministic_on_each_simd(what: &str, work: impl Fn(&Cpu) -> Vec<u8>) {
    for simd in cpus().iter().map(Cpu::simd) {
        let with_simd = |cpu: Cpu| cpu.with_simd(simd).unwrap();
        assert_same_on(
            what,
            &with_simd(Cpu::single_threaded()),
            cpus_of_any_size().into_iter().map(with_simd),
            &work,
        );
    }
}

/// Both: each instruction set for itself, and all but AMX alike, as is so with products of `f32`.
#[track_caller]
pub fn assert_deterministic_but_for_amx(what: &str, work: impl Fn(&Cpu) -> Vec<u8>) {
    assert_deterministic_on_each_simd(what, &work);
    let without_amx = cpus().into_iter().filter(|cpu| cpu.simd() != Simd::Amx);
    assert_same_on(
        what,
        &Cpu::single_threaded().with_simd(Simd::Portable).unwrap(),
        without_amx,
        work,
    );
}

#[track_caller]
fn assert_same_on(
    what: &str,
    first: &Cpu,
    others: impl Iterator<Item = Cpu>,
    work: impl Fn(&Cpu) -> Vec<u8>,
) {
    let expected = work(first);
    assert!(!expected.is_empty(), "{what}: there is nothing to compare");
    for cpu in others {
        for run in 0..2 {
            let got = work(&cpu);
            let first = got.iter().zip(&expected).position(|(a, b)| a != b);
            assert!(
                got == expected,
                "{what}: run {run} with {cpu:?} differs from a single thread at byte {first:?}"
            );
        }
    }
}

/// The bytes of values, to be compared.
pub fn bytes<T: bagdot::Scalar>(values: &[T]) -> Vec<u8> {
    bytemuck::cast_slice(values).to_vec()
}

/// Whether this is the error for these bad ids.
#[track_caller]
pub fn assert_out_of_range(result: Result<()>, want: Error) {
    assert_eq!(result.expect_err("bad ids must be reported"), want);
}

//! Helpers that the tests share: cases, references, tolerances, and the stamping of a test onto
//! every backend.

#[cfg(feature = "cuda")]
pub mod cuda;
pub mod engine;
pub mod rounds;
pub mod updates;

pub use bagdot::testing::*;

use bagdot::ops::Device;
use bagdot::{Cpu, Error, Result, Simd};

/// Makes tests of functions `fn(&impl Backend)`: one for each kind of CPU, and with
/// `backend_suite!(cuda: …)` one on the CUDA device.
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
        stamp!(cpu_single_threaded, bagdot::Cpu::on_current_thread(), $($test),+);
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
/// Makes a module of tests that run the functions on one device.
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

/// Returns a CPU for each instruction set of this machine.
pub fn cpus() -> Vec<Cpu> {
    let available = Simd::ALL.into_iter().filter(|simd| simd.is_available());
    available.map(|simd| Cpu::with_threads(2).unwrap().with_simd(simd).unwrap()).collect()
}

/// Returns the error that an op reports, at once or at the next synchronisation.
pub fn outcome<B: Device>(device: &B, result: Result<()>) -> Result<()> {
    result.and_then(|()| device.synchronize())
}

/// Returns the text of the error that a call must give.
#[track_caller]
pub fn message(result: Result<()>) -> String {
    result.expect_err("this must be an error").to_string()
}

/// Returns CPUs with 1 to 8 threads.
fn cpus_of_all_sizes() -> [Cpu; 4] {
    [1, 2, 3, 8].map(|threads| Cpu::with_threads(threads).unwrap())
}

/// Runs `work` twice on each of several CPUs, with 1 to 8 threads and with each instruction set,
/// and fails unless all results are the same bytes.
#[track_caller]
pub fn assert_deterministic(what: &str, work: impl Fn(&Cpu) -> Vec<u8>) {
    assert_same_on(
        what,
        &Cpu::on_current_thread(),
        cpus_of_all_sizes().into_iter().chain(cpus()),
        work,
    );
}

/// Does what [`assert_deterministic`] does, for each instruction set on its own. The bits of
/// products of `bf16` depend on the instruction set.
#[track_caller]
pub fn assert_deterministic_on_each_simd(what: &str, work: impl Fn(&Cpu) -> Vec<u8>) {
    for simd in cpus().iter().map(Cpu::simd) {
        let with_simd = |cpu: Cpu| cpu.with_simd(simd).unwrap();
        assert_same_on(
            what,
            &with_simd(Cpu::on_current_thread()),
            cpus_of_all_sizes().into_iter().map(with_simd),
            &work,
        );
    }
}

/// Does what [`assert_deterministic_on_each_simd`] does, and fails unless all instruction sets but
/// AMX give the same bytes. Products of `f32` differ on AMX alone.
#[track_caller]
pub fn assert_deterministic_but_for_amx(what: &str, work: impl Fn(&Cpu) -> Vec<u8>) {
    assert_deterministic_on_each_simd(what, &work);
    let without_amx = cpus().into_iter().filter(|cpu| cpu.simd() != Simd::Amx);
    assert_same_on(
        what,
        &Cpu::on_current_thread().with_simd(Simd::Portable).unwrap(),
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
    assert!(!expected.is_empty(), "{what}: there are no bytes to compare");
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

/// Returns the bytes of values.
pub fn bytes<T: bagdot::Scalar>(values: &[T]) -> Vec<u8> {
    bytemuck::cast_slice(values).to_vec()
}

/// Fails unless the result is this error about bad ids.
#[track_caller]
pub fn assert_out_of_range(result: Result<()>, want: Error) {
    assert_eq!(result.expect_err("bad ids must be reported"), want);
}

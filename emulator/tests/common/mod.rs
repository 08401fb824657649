//! Code that the tests share: compiling kernels, and a device that takes slices.

#![allow(dead_code, reason = "each test program uses a part of it")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

pub(crate) mod cuda;
pub(crate) mod evaluate;

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;

use bagdot_emulator::{Config, Device, Fault, Grid, KernelId, LaunchError, ModuleId, Schedule};

const KERNELS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/kernels");

fn nvcc() -> PathBuf {
    if let Some(path) = std::env::var_os("NVCC") {
        return path.into();
    }
    let installed = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.cuda/nvidia/cu13/bin/nvcc");
    assert!(
        installed.is_file(),
        "these tests compile CUDA kernels, and nvcc is not there: run scripts/nvcc.sh, \
         or name it in NVCC"
    );
    installed
}

/// Returns the PTX of a file of tests/kernels for an architecture. It is kept until the file or the
/// header changes.
pub(crate) fn compile(stem: &str, arch: &str) -> String {
    let source = Path::new(KERNELS).join(format!("{stem}.cu"));
    let mut hasher = DefaultHasher::new();
    for file in [&source, &Path::new(KERNELS).join("ptx.cuh")] {
        std::fs::read(file).unwrap().hash(&mut hasher);
    }
    let kept = Path::new(env!("CARGO_TARGET_TMPDIR"))
        .join(format!("{stem}-{arch}-{:016x}.ptx", hasher.finish()));
    if let Ok(text) = std::fs::read_to_string(&kept) {
        return text;
    }
    let unfinished =
        kept.with_extension(format!("{}-{:?}", std::process::id(), std::thread::current().id()));
    let output = Command::new(nvcc())
        .args(["-std=c++17", "-O3", "-lineinfo", "-ptx", "-gencode"])
        .arg(format!("arch=compute_{arch},code=compute_{arch}"))
        .arg("-o")
        .args([&unfinished, &source])
        .output()
        .expect("nvcc cannot be started: run scripts/nvcc.sh, or name it in NVCC");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    std::fs::rename(&unfinished, &kept).unwrap();
    std::fs::read_to_string(kept).unwrap()
}

/// A type whose bytes mean the same on host and device.
pub(crate) trait Plain: Copy {
    fn to_bytes(self) -> Vec<u8>;
    fn of_bytes(bytes: &[u8]) -> Self;
}

macro_rules! plain {
    ($($t:ty),*) => {$(
        impl Plain for $t {
            fn to_bytes(self) -> Vec<u8> {
                self.to_le_bytes().to_vec()
            }
            fn of_bytes(bytes: &[u8]) -> Self {
                Self::from_le_bytes(bytes.try_into().unwrap())
            }
        }
    )*};
}
plain!(u8, u16, i32, u32, i64, u64, f32, f64);

/// A device with one module.
pub(crate) struct Gpu {
    pub(crate) device: Device,
    pub(crate) module: ModuleId,
}

impl Gpu {
    pub(crate) fn new(ptx: &str, config: Config) -> Self {
        let mut device = Device::new(config);
        let module = device.load(ptx).unwrap();
        Self { device, module }
    }

    pub(crate) fn upload<T: Plain>(&mut self, values: &[T]) -> u64 {
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_bytes()).collect();
        let address = self.device.allocate(bytes.len());
        self.device.write(address, &bytes).unwrap();
        address
    }

    pub(crate) fn room<T: Plain>(&mut self, count: usize) -> u64 {
        self.device.allocate(count * size_of::<T>())
    }

    pub(crate) fn download<T: Plain>(&mut self, address: u64, count: usize) -> Vec<T> {
        let mut bytes = vec![0; count * size_of::<T>()];
        self.device.read(address, &mut bytes).unwrap();
        bytes.chunks(size_of::<T>()).map(T::of_bytes).collect()
    }

    pub(crate) fn kernel(&self, name: &str) -> KernelId {
        self.device.kernel(self.module, name).unwrap_or_else(|| panic!("no kernel {name}"))
    }

    pub(crate) fn launch(
        &mut self,
        name: &str,
        grid: Grid,
        args: &[Vec<u8>],
    ) -> Result<(), Vec<Fault>> {
        let args: Vec<&[u8]> = args.iter().map(Vec::as_slice).collect();
        match self.device.launch(self.kernel(name), grid, &args) {
            Ok(()) => Ok(()),
            Err(LaunchError::Faults(faults)) => Err(faults),
            Err(error) => panic!("{error}"),
        }
    }

    pub(crate) fn run(&mut self, name: &str, grid: Grid, args: &[Vec<u8>]) {
        if let Err(faults) = self.launch(name, grid, args) {
            panic!("{name}, {:?}: {}", self.device.config, faults[0]);
        }
    }
}

/// Returns the bytes of each argument.
#[macro_export]
macro_rules! args {
    ($($arg:expr),* $(,)?) => {
        [$($crate::common::Plain::to_bytes($arg)),*]
    };
}

pub(crate) fn grid(blocks: u32, threads: u32) -> Grid {
    Grid { blocks: [blocks, 1, 1], threads: [threads, 1, 1], dynamic_shared: 0, cooperative: false }
}

/// Returns configurations with `count` seeds in both schedules.
pub(crate) fn schedules(count: u64) -> impl Iterator<Item = Config> {
    let both = [Schedule::Lockstep, Schedule::Independent];
    (1..=count).flat_map(move |seed| {
        both.map(|schedule| Config { seed, schedule, step_limit: 20_000_000, ..Config::default() })
    })
}

/// Returns a pseudo-random number from `0.0..1.0`.
pub(crate) fn noise(k: usize) -> f32 {
    let mut x = (k as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    x ^= x >> 29;
    x = x.wrapping_mul(0xbf58_476d_1ce4_e5b9);
    ((x >> 40) as f32) / (1u64 << 24) as f32
}

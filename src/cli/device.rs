//! The options that choose a device.

use crate::Cpu;

/// The options of commands that use a device.
#[derive(clap::Args, Clone, Debug)]
pub(super) struct Common {
    /// Worker threads; results do not depend on them [default: all cores]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub(super) threads: Option<u16>,
    /// The device: `cpu`, `cuda` or `cuda:N`, the CUDA device with the number N
    #[arg(long, default_value = "cpu")]
    pub(super) device: DeviceChoice,
    /// The implementation of matrix products on a CUDA device
    #[cfg(feature = "cuda")]
    #[arg(long, value_enum, default_value_t)]
    pub(super) gemm: GemmChoice,
    /// Print only warnings and errors
    #[arg(long, short)]
    pub(super) quiet: bool,
}

/// The implementation of matrix products; see [`Gemm`](crate::backend::cuda::Gemm).
#[cfg(feature = "cuda")]
#[derive(clap::ValueEnum, Clone, Copy, Debug, Default)]
pub(super) enum GemmChoice {
    /// cuBLASLt, if it can be used, for the products that it is faster at; else our own.
    #[default]
    Auto,
    /// Kernels of our own. cuBLASLt is not even looked for.
    Own,
    /// cuBLASLt for every product that it takes: no side may be zero, and matrices and bias begin
    /// at multiples of 16 bytes.
    #[value(name = "cublaslt")]
    CublasLt,
}

#[cfg(feature = "cuda")]
impl From<GemmChoice> for crate::backend::cuda::Gemm {
    fn from(choice: GemmChoice) -> Self {
        match choice {
            GemmChoice::Auto => Self::Auto,
            GemmChoice::Own => Self::Own,
            GemmChoice::CublasLt => Self::CublasLt,
        }
    }
}

/// The device to run on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DeviceChoice {
    Cpu,
    Cuda(usize),
}

impl std::str::FromStr for DeviceChoice {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once(':') {
            None if text == "cpu" => Ok(Self::Cpu),
            None if text == "cuda" => Ok(Self::Cuda(0)),
            Some(("cuda", number)) => {
                number.parse().map(Self::Cuda).map_err(|_| "expected the number of a device")
            }
            _ => Err("expected `cpu`, `cuda` or `cuda:N`"),
        }
    }
}

impl Common {
    /// Lets the threads that gather batches for a device be as many as are asked for.
    #[cfg(feature = "cuda")]
    pub(super) fn limit_threads(&self) {
        if let Some(threads) = self.threads {
            // This fails only if the pool has started already, which then has all threads.
            let _ = rayon::ThreadPoolBuilder::new().num_threads(threads.into()).build_global();
        }
    }

    /// Returns the CPU backend with the chosen number of threads.
    pub(super) fn cpu(&self) -> crate::Result<Cpu> {
        self.threads.map_or_else(Cpu::new, |threads| Cpu::with_threads(threads.into()))
    }
}

/// Runs `$body` with `$device` bound to the backend that `$common` asks for. No other place chooses
/// the backend.
macro_rules! on_device {
    ($common:expr, $device:ident => $body:expr) => {
        match $common.device {
            $crate::cli::device::DeviceChoice::Cpu => {
                let $device = $common.cpu()?;
                // The body runs on a thread of the pool: from another thread, each op would wake
                // one and wait for it.
                $device.clone().install(|| $body)
            }
            #[cfg(feature = "cuda")]
            $crate::cli::device::DeviceChoice::Cuda(number) => {
                $common.limit_threads();
                let $device = $crate::Cuda::with_gemm(number, $common.gemm.into())?;
                $body
            }
            #[cfg(not(feature = "cuda"))]
            $crate::cli::device::DeviceChoice::Cuda(_) => Err($crate::cli::error::CliError::Usage(
                "this program was built without CUDA (feature `cuda`): --device cpu is all that \
                 it can do"
                    .into(),
            )),
        }
    };
}
pub(super) use on_device;

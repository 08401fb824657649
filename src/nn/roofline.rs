//! The time that work takes a GPU at least, and the time that it is predicted to take.

use super::work::{Unit, Work};

/// The peaks of a GPU, from its maker's data sheet. Those of tensor cores are without sparsity.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Gpu {
    /// The name, in few letters.
    pub name: &'static str,
    /// The bytes that move between memory and the device in a second.
    pub bytes_per_second: f64,
    /// The operations of the `f32` cores in a second.
    pub f32_flops: f64,
    /// The operations of the tensor cores in a second, with factors of tf32.
    pub tf32_flops: f64,
    /// The operations of the tensor cores in a second, with factors of 16 bits.
    pub sixteen_bit_flops: f64,
}

/// GPUs whose times [`StepWork`](super::StepWork) can tell: those of the SXM form.
pub const GPUS: [Gpu; 4] = [
    Gpu {
        name: "A100",
        bytes_per_second: 2.039e12,
        f32_flops: 19.5e12,
        tf32_flops: 156e12,
        sixteen_bit_flops: 312e12,
    },
    Gpu {
        name: "H100",
        bytes_per_second: 3.35e12,
        f32_flops: 66.9e12,
        tf32_flops: 494.7e12,
        sixteen_bit_flops: 989.4e12,
    },
    Gpu {
        name: "H200",
        bytes_per_second: 4.8e12,
        f32_flops: 66.9e12,
        tf32_flops: 494.7e12,
        sixteen_bit_flops: 989.4e12,
    },
    Gpu {
        name: "B200",
        bytes_per_second: 8e12,
        f32_flops: 75e12,
        tf32_flops: 1.125e15,
        sixteen_bit_flops: 2.25e15,
    },
];

/// The shares of a GPU's peaks that ops reach, from benches/record/nvidia-h200. A prediction for
/// another GPU assumes that its kernels come as close to its peaks.
///
/// Memory: lookups reach 0.73 to 0.78 (t26 d128 b65536 l1 uniform, with each distinct row once),
/// the interaction 0.54 to 0.62 (b65536 f27 d128 bf16).
const MEMORY_SHARE: f64 = 0.65;

/// The seconds that an op takes however little it does: a step of Criteo's Kaggle model took 175 us
/// on an H200, and its graph had 61 nodes.
const OP_SECONDS: f64 = 2.9e-6;

/// Returns the share of a unit's peak that products of m 16384, n 1024, k 1024 reach on an H200: 39
/// Tflop/s in f32, 142 in tf32, and 567 in bf16 with cuBLASLt.
const fn unit_share(unit: Unit) -> f64 {
    match unit {
        Unit::F32 => 0.58,
        Unit::Tf32 => 0.29,
        Unit::SixteenBit => 0.57,
    }
}

impl Gpu {
    /// Returns the operations of a unit in a second.
    fn flops_per_second(&self, unit: Unit) -> f64 {
        match unit {
            Unit::F32 => self.f32_flops,
            Unit::Tf32 => self.tf32_flops,
            Unit::SixteenBit => self.sixteen_bit_flops,
        }
    }

    /// Returns the seconds that no implementation of the work can go below: those of the bytes at
    /// the peak of the memory, or those of the operations at the peak of their unit, whichever are
    /// more.
    pub fn least_seconds(&self, work: &Work) -> f64 {
        let moving = work.bytes as f64 / self.bytes_per_second;
        moving.max(work.flops as f64 / self.flops_per_second(work.unit))
    }

    /// Returns the seconds that the work takes if it comes as close to the peaks of this GPU as the
    /// ops that were measured came to those of an H200. This is no measurement.
    pub fn predicted_seconds(&self, work: &Work) -> f64 {
        let moving = work.bytes as f64 / (self.bytes_per_second * MEMORY_SHARE);
        let flops_per_second = self.flops_per_second(work.unit) * unit_share(work.unit);
        moving.max(work.flops as f64 / flops_per_second).max(OP_SECONDS)
    }
}

//! Reference for stochastic rounding, written from its documentation: the random bits of a weight
//! and how they round it.

use crate::{DType, Element};

/// Returns a block of Philox 4x32-10 (Salmon et al., SC'11), computed round by round.
pub fn philox(mut key: [u32; 2], counter: [u32; 4]) -> [u32; 4] {
    let [mut a, mut b, mut c, mut d] = counter;
    for _ in 0..10 {
        let (p, q) = (0xD251_1F53_u64 * u64::from(a), 0xCD9E_8D57_u64 * u64::from(c));
        (a, b, c, d) =
            ((q >> 32) as u32 ^ b ^ key[0], q as u32, (p >> 32) as u32 ^ d ^ key[1], p as u32);
        key = [key[0].wrapping_add(0x9E37_79B9), key[1].wrapping_add(0xBB67_AE85)];
    }
    [a, b, c, d]
}

/// Rounds an `f32` weight of a 16-bit table. The value must be zero or normal in the table's type.
pub fn round_stochastically<E: Element>(
    value: f32,
    seed: u64,
    step: u64,
    table: u64,
    row: u64,
    column: u64,
) -> f32 {
    let key = [seed as u32, ((seed >> 32) ^ (step >> 32)) as u32];
    let counter =
        [(column / 4) as u32, row as u32, ((row >> 32) | (table << 16)) as u32, step as u32];
    let random = philox(key, counter)[(column % 4) as usize];
    let dropped_bits = match E::DTYPE {
        DType::F32 => return value,
        DType::F16 => 13,
        DType::BF16 => 16,
    };
    // In units of the last f32 bit: adds the noise to the magnitude and truncates to the kept bits.
    let step = 1u64 << dropped_bits;
    let magnitude = u64::from(value.abs().to_bits());
    let kept = (magnitude + u64::from(random) % step) / step * step;
    f32::from_bits(kept as u32).copysign(value)
}

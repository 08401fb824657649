//! Integer and bit operations on values of up to 64 bits.

use crate::ir::{Alu, Lanes, PrmtMode, Space, Ty};

/// Computes an expression for each lane.
macro_rules! map {
    ($($v:ident),+ => $e:expr) => {{
        let mut out = [0u64; 32];
        for (i, slot) in out.iter_mut().enumerate() {
            $(let $v = $v[i];)+
            *slot = $e;
        }
        out
    }};
}
pub(super) use map;

/// Returns the results of all lanes, or `None` if the type has no such operation.
pub(super) fn integer(op: Alu, ty: Ty, s: [&Lanes; 4]) -> Option<Lanes> {
    let [x, y, z, w] = s;
    let (bits, mask) = (ty.bits(), ty.mask());
    let value = |v: u64| ty.extend(v);
    Some(match op {
        Alu::Mov => map!(x => x & mask),
        Alu::Add => map!(x, y => x.wrapping_add(y) & mask),
        Alu::Sub => map!(x, y => x.wrapping_sub(y) & mask),
        Alu::Mul => map!(x, y => x.wrapping_mul(y) & mask),
        Alu::Mad => map!(x, y, z => x.wrapping_mul(y).wrapping_add(z) & mask),
        Alu::MulWide => map!(x, y => value(x).wrapping_mul(value(y))),
        Alu::MadWide => map!(x, y, z => value(x).wrapping_mul(value(y)).wrapping_add(z)),
        Alu::MulHi => map!(x, y => high(ty, x, y) & mask),
        Alu::MadHi => map!(x, y, z => high(ty, x, y).wrapping_add(z) & mask),
        Alu::Mul24 => map!(x, y => low24(ty, x).wrapping_mul(low24(ty, y)) & mask),
        Alu::Mad24 => {
            map!(x, y, z => low24(ty, x).wrapping_mul(low24(ty, y)).wrapping_add(z) & mask)
        }
        Alu::And => map!(x, y => x & y & mask),
        Alu::Or => map!(x, y => (x | y) & mask),
        Alu::Xor => map!(x, y => (x ^ y) & mask),
        Alu::Not => map!(x => !x & mask),
        Alu::Cnot => map!(x => u64::from(x & mask == 0)),
        Alu::Neg => map!(x => x.wrapping_neg() & mask),
        Alu::Abs => map!(x => (value(x) as i64).unsigned_abs() & mask),
        Alu::Shl => map!(x, y => if y as u32 >= bits { 0 } else { (x << (y as u32)) & mask }),
        Alu::Shr if ty.signed() => {
            map!(x, y => ((value(x) as i64) >> (y as u32).min(bits - 1)) as u64 & mask)
        }
        Alu::Shr => map!(x, y => if y as u32 >= bits { 0 } else { (x & mask) >> (y as u32) }),
        Alu::Selp => map!(x, y, z => if z != 0 { x & mask } else { y & mask }),
        Alu::Slct => map!(x, y, z => if (z as i32) >= 0 { x & mask } else { y & mask }),
        Alu::Min if ty.signed() => {
            map!(x, y => (value(x) as i64).min(value(y) as i64) as u64 & mask)
        }
        Alu::Min => map!(x, y => (x & mask).min(y & mask)),
        Alu::Max if ty.signed() => {
            map!(x, y => (value(x) as i64).max(value(y) as i64) as u64 & mask)
        }
        Alu::Max => map!(x, y => (x & mask).max(y & mask)),
        // A division by zero is undefined. The hardware returns all bits set.
        Alu::Div => map!(x, y => divide(ty, value(x), value(y)).0 & mask),
        Alu::Rem => map!(x, y => divide(ty, value(x), value(y)).1 & mask),
        Alu::Popc => map!(x => u64::from((x & mask).count_ones())),
        Alu::Clz => map!(x => u64::from((x & mask).leading_zeros() - (64 - bits))),
        Alu::Brev => map!(x => x.reverse_bits() >> (64 - bits)),
        Alu::Bfind => map!(x => find(ty, x).map_or(0xffff_ffff, u64::from)),
        Alu::BfindShift => {
            map!(x => find(ty, x).map_or(0xffff_ffff, |at| u64::from(bits - 1 - at)))
        }
        Alu::Bfe => map!(x, y, z => extract(ty, x, y & 255, z & 255)),
        Alu::Bfi => map!(x, y, z, w => insert(ty, x, y, z & 255, w & 255)),
        Alu::Bmsk => map!(x, y => {
            let (from, length) = (x & 0xffff_ffff, y & 0xffff_ffff);
            if from >= 32 { 0 } else { (ones(length) << from) & 0xffff_ffff }
        }),
        Alu::Prmt(mode) => map!(x, y, z => permute(mode, (x & 0xffff_ffff) | (y << 32), z)),
        Alu::Lop3(table) => map!(x, y, z => lop3(table, x, y, z) & mask),
        Alu::ShfL => map!(x, y, z => funnel(x, y, u64::from(z as u32 & 31), true)),
        Alu::ShfR => map!(x, y, z => funnel(x, y, u64::from(z as u32 & 31), false)),
        Alu::ShfLClamp => map!(x, y, z => funnel(x, y, u64::from((z as u32).min(32)), true)),
        Alu::ShfRClamp => map!(x, y, z => funnel(x, y, u64::from((z as u32).min(32)), false)),
        Alu::Sad if ty.signed() => {
            map!(x, y, z => z.wrapping_add((value(x) as i64).abs_diff(value(y) as i64)) & mask)
        }
        Alu::Sad => map!(x, y, z => z.wrapping_add((x & mask).abs_diff(y & mask)) & mask),
        Alu::Dp4a => map!(x, y, z => dot4(ty, x, y, z)),
        Alu::AddressOf(space) => {
            let base = space.window();
            map!(x => x.wrapping_add(base))
        }
        Alu::AddressIn(space) => {
            let base = space.window();
            map!(x => x.wrapping_sub(base))
        }
        Alu::IsSpace(space) => map!(x => u64::from(Space::of(x) == space)),
        _ => return None,
    })
}

/// Returns the high half of a product.
fn high(ty: Ty, x: u64, y: u64) -> u64 {
    if ty.signed() {
        ((i128::from(ty.extend(x) as i64) * i128::from(ty.extend(y) as i64)) >> ty.bits()) as u64
    } else {
        ((u128::from(ty.extend(x)) * u128::from(ty.extend(y))) >> ty.bits()) as u64
    }
}

/// Returns the low 24 bits as a number.
fn low24(ty: Ty, x: u64) -> u64 {
    if ty.signed() { (((x << 40) as i64) >> 40) as u64 } else { x & 0xff_ffff }
}

/// Returns quotient and remainder.
fn divide(ty: Ty, x: u64, y: u64) -> (u64, u64) {
    if y == 0 {
        (u64::MAX, x)
    } else if ty.signed() {
        let (x, y) = (x as i64, y as i64);
        (x.wrapping_div(y) as u64, x.wrapping_rem(y) as u64)
    } else {
        (x / y, x % y)
    }
}

/// Returns a mask of `count` bits.
fn ones(count: u64) -> u64 {
    if count >= 64 { u64::MAX } else { (1 << count) - 1 }
}

/// Returns the position of the highest bit that differs from the sign (`bfind`).
fn find(ty: Ty, x: u64) -> Option<u32> {
    let value = ty.extend(x);
    let value =
        if ty.signed() && (value as i64) < 0 { !value & ty.mask() } else { value & ty.mask() };
    value.checked_ilog2()
}

/// Returns a bit field (`bfe`).
fn extract(ty: Ty, x: u64, from: u64, length: u64) -> u64 {
    let (bits, x) = (u64::from(ty.bits()), x & ty.mask());
    if length == 0 {
        return 0;
    }
    // Bits beyond the value are copies of the sign: the top bit of the field or of the value.
    let sign = ty.signed() && (x >> (from + length - 1).min(bits - 1)) & 1 == 1;
    let field = if from >= bits { 0 } else { (x >> from) & ones(length) };
    let present = length.min(bits.saturating_sub(from));
    if sign { (field | !ones(present)) & ty.mask() } else { field }
}

/// Inserts a bit field (`bfi`).
fn insert(ty: Ty, x: u64, into: u64, from: u64, length: u64) -> u64 {
    if from >= u64::from(ty.bits()) {
        return into & ty.mask();
    }
    let field = ones(length) << from;
    ((into & !field) | ((x << from) & field)) & ty.mask()
}

/// Selects bytes (`prmt`).
fn permute(mode: PrmtMode, bytes: u64, selector: u64) -> u64 {
    let byte = |k: u64| (bytes >> (8 * (k & 7))) & 255;
    let s = selector & 3;
    let chosen: [u64; 4] = match mode {
        PrmtMode::Index => {
            let one = |k: u64| {
                let pick = (selector >> (4 * k)) & 15;
                let value = byte(pick);
                if pick & 8 == 0 {
                    value
                } else if value & 0x80 == 0 {
                    0
                } else {
                    255
                }
            };
            [one(0), one(1), one(2), one(3)]
        }
        PrmtMode::F4e => std::array::from_fn(|k| byte(s + k as u64)),
        PrmtMode::B4e => std::array::from_fn(|k| byte((s + 8 - k as u64) & 7)),
        PrmtMode::Rc8 => [byte(s); 4],
        PrmtMode::Ecl => std::array::from_fn(|k| byte((k as u64).max(s))),
        PrmtMode::Ecr => std::array::from_fn(|k| byte((k as u64).min(s))),
        PrmtMode::Rc16 => std::array::from_fn(|k| byte((s & 1) * 2 + (k as u64 & 1))),
    };
    chosen.iter().rev().fold(0, |all, byte| (all << 8) | byte)
}

/// Computes a logic function of three inputs, given by its truth table.
fn lop3(table: u8, x: u64, y: u64, z: u64) -> u64 {
    (0..8u32).filter(|k| (table >> k) & 1 == 1).fold(0, |all, k| {
        let pick = |v: u64, bit: u32| if k & bit == 0 { !v } else { v };
        all | (pick(x, 4) & pick(y, 2) & pick(z, 1))
    })
}

/// Shifts two words as one and returns one of them (`shf`).
fn funnel(low: u64, high: u64, by: u64, left: bool) -> u64 {
    let both = (low & 0xffff_ffff) | (high << 32);
    if left {
        ((u128::from(both) << by) >> 32) as u64 & 0xffff_ffff
    } else {
        (both >> by) & 0xffff_ffff
    }
}

/// Returns the dot product of four bytes with four bytes, plus `z`.
fn dot4(ty: Ty, x: u64, y: u64, z: u64) -> u64 {
    let byte = |v: u64, k: u32| {
        let part = (v >> (8 * k)) as u8;
        if ty.signed() { i64::from(part as i8) } else { i64::from(part) }
    };
    let sum: i64 = (0..4).map(|k| byte(x, k) * byte(y, k)).sum();
    z.wrapping_add(sum as u64) & 0xffff_ffff
}

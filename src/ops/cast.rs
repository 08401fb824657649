//! A matrix in another storage type: `to = factor * from`, where `factor` is a power of two.
//!
//! This is what lies between layers that compute in 16 bits and what is kept in `f32`: parameters,
//! their gradients, logits. The factor carries gradients into the range of `f16` and back
//! (Micikevicius et al., *Mixed Precision Training*, 2018).
//!
//! **Numerics.** The product is one of `f32`, and exact unless it is beyond the normal numbers;
//! then it is rounded once to the nearest value, ties to the even one. What is too large becomes
//! infinite.

use super::device::Device;
use super::matrix::{Matrix, MatrixMut, matrix_name};
use crate::dtype::Element;
use crate::error::{Result, invalid};

/// What a backend provides; call it through [`Cast::run`], which validates.
pub trait CastOps: Device {
    /// See [`Cast`].
    fn cast<A: Element, B: Element>(&self, args: Cast<'_, Self, A, B>) -> Result<()>;
}

/// One type to another.
pub struct Cast<'a, D: Device, A: Element, B: Element> {
    /// A power of two from 2⁻¹²⁶ to 2¹²⁶; 1 for the values as they are.
    pub factor: f32,
    /// What is converted, `[rows, cols]`.
    pub from: Matrix<'a, D, A>,
    /// Where it goes, of the same shape; overwritten.
    pub to: MatrixMut<'a, D, B>,
}

impl<D: CastOps, A: Element, B: Element> Cast<'_, D, A, B> {
    /// Validates and runs.
    ///
    /// # Errors
    /// Wrong shapes or a factor that is no power of two, before anything is written.
    pub fn run(self, backend: &D) -> Result<()> {
        self.validate()?;
        backend.cast(self)
    }

    /// Checks shapes and factor; see [`Self::run`].
    ///
    /// # Errors
    /// Wrong shapes or a factor that is no power of two.
    pub fn validate(&self) -> Result<()> {
        const OP: &str = "cast";
        check_power_of_two(OP, "factor", self.factor)?;
        self.from.check(OP, matrix_name!("from"), self.to.rows, self.to.cols)?;
        self.to.check(OP, matrix_name!("to"), self.to.rows, self.to.cols)
    }
}

/// Checks that a factor is a power of two, and its reciprocal a normal number: then neither rounds
/// what it multiplies.
pub(crate) fn check_power_of_two(
    op: &'static str,
    argument: &'static str,
    value: f32,
) -> Result<()> {
    let is_power = value.is_normal()
        && value > 0.0
        && value.to_bits().trailing_zeros() >= f32::MANTISSA_DIGITS - 1;
    match is_power && (1.0 / value).is_normal() {
        true => Ok(()),
        false => Err(invalid(
            op,
            argument,
            format!("{value}, but must be a power of two from 2^-126 to 2^126"),
        )),
    }
}

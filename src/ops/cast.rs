//! Conversion of a matrix to another storage type: `to = factor * from`, where `factor` is a power
//! of two.
//!
//! Models that compute in 16 bits use it for parameters and dense features, which are kept in
//! `f32`. The factor serves trainers that scale gradients into the range of `f16` and back
//! (Micikevicius et al., *Mixed Precision Training*, 2018).
//!
//! **Numerics.** The product is computed in `f32`. It is exact unless it is outside the range of
//! normal numbers. It is then rounded once to the nearest value, ties to the even one. A value that
//! is too large becomes infinite.
//!
//! # Example
//!
//! ```
//! use bagdot::bf16;
//! use bagdot::ops::{Matrix, MatrixMut, cast::Cast};
//!
//! let cpu = bagdot::Cpu::on_current_thread();
//! let (values, mut doubled) = ([1.5_f32, 257.0], [bf16::ZERO; 2]);
//! let (from, to) = (Matrix::contiguous(&values, 1, 2), MatrixMut::contiguous(&mut doubled, 1, 2));
//! Cast { factor: 2.0, from, to }.run(&cpu)?;
//! // 514 lies halfway between 512 and 516, of which 512 is the even one.
//! assert_eq!(doubled.map(bf16::to_f32), [3.0, 512.0]);
//! # Ok::<(), bagdot::Error>(())
//! ```

use super::device::Device;
use super::matrix::{Matrix, MatrixMut, matrix_name};
use crate::dtype::Element;
use crate::error::{Result, invalid};
use crate::size::product;

/// The backend's side of the op. Call it through [`Cast::run`], which validates the arguments.
pub trait CastOps: Device {
    /// Runs [`Cast`] with arguments that are valid.
    fn cast<A: Element, B: Element>(&self, args: Cast<'_, Self, A, B>) -> Result<()>;
}

/// The arguments of a conversion from type `A` to type `B`.
pub struct Cast<'a, D: Device, A: Element, B: Element> {
    /// The factor of every value: a power of two from 2⁻¹²⁶ to 2¹²⁶.
    pub factor: f32,
    /// The source, `[rows, cols]`.
    pub from: Matrix<'a, D, A>,
    /// The target, of the same shape; overwritten.
    pub to: MatrixMut<'a, D, B>,
}

impl<D: CastOps, A: Element, B: Element> Cast<'_, D, A, B> {
    /// Validates the arguments and runs the op.
    ///
    /// # Errors
    /// Returns an error for wrong shapes or a factor that is no power of two, before anything is
    /// written.
    pub fn run(self, backend: &D) -> Result<()> {
        self.validate()?;
        backend.cast(self)
    }

    /// Checks the shapes and the factor, as [`Self::run`] does.
    ///
    /// # Errors
    /// Returns an error for wrong shapes or a factor that is no power of two.
    pub fn validate(&self) -> Result<()> {
        const OP: &str = "cast";
        check_power_of_two(OP, "factor", self.factor)?;
        self.from.check(OP, matrix_name!("from"), self.to.rows, self.to.cols)?;
        self.to.check(OP, matrix_name!("to"), self.to.rows, self.to.cols)
    }

    /// Returns the least number of bytes moved: each value is read once and written once.
    pub fn bytes_moved(&self) -> usize {
        product([self.to.rows, self.to.cols, size_of::<A>() + size_of::<B>()])
    }
}

/// Checks that a factor is a power of two whose reciprocal is a normal number: multiplication by
/// either of them does not round.
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

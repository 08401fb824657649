//! Arguments with their element type erased.
//!
//! A generic function is compiled in each crate that calls it, so generic ops would make every
//! caller compile all loops again, for each instruction set. An op of the CPU therefore erases the
//! types of its arguments and calls a function that is not generic, which is compiled once, in this
//! library. That function restores the types by [`with_elements`] and [`with_indices`], once for
//! each call of an op:
//!
//! ```ignore
//! fn scale<E: Element>(&self, weights: &mut [E]) {
//!     scale(self, ByElement::of(weights));
//! }
//!
//! fn scale(cpu: &Cpu, weights: AnyElementsMut<'_>) {
//!     with_elements!(weights => scale_elements(cpu, weights)) // generic, compiled here
//! }
//! ```

use std::ops::Range;

use bytemuck::{cast_slice, cast_slice_mut};

use crate::Cpu;
use crate::dtype::{DType, Element, Index, Scalar, bf16, f16};
use crate::ops::{Bags, Matrix, MatrixMut, TableValues, TableValuesMut, View, ViewMut};

/// A value that exists for each type of elements: slices, or the arguments of an op.
pub(crate) enum ByElement<A, B, C> {
    /// The value for `f32`.
    F32(A),
    /// The value for [`f16`].
    F16(B),
    /// The value for [`bf16`].
    BF16(C),
}

/// A value that exists for each type of ids. Ids of `u32` become those of `i32` with the same bits.
pub(crate) enum ByIndex<A, B> {
    /// The value for `i32`.
    I32(A),
    /// The value for `i64`.
    I64(B),
}

/// Elements of any type.
pub(crate) type Elements<'a> = ByElement<&'a [f32], &'a [f16], &'a [bf16]>;

/// Elements of any type, for writing.
pub(crate) type ElementsMut<'a> = ByElement<&'a mut [f32], &'a mut [f16], &'a mut [bf16]>;

/// A matrix of elements of any type.
pub(crate) type AnyMatrix<'a> =
    ByElement<Matrix<'a, Cpu, f32>, Matrix<'a, Cpu, f16>, Matrix<'a, Cpu, bf16>>;

/// A matrix of elements of any type, for writing.
pub(crate) type AnyMatrixMut<'a> =
    ByElement<MatrixMut<'a, Cpu, f32>, MatrixMut<'a, Cpu, f16>, MatrixMut<'a, Cpu, bf16>>;

/// The weights of all tables, of any type.
pub(crate) type AnyTables<'a> =
    ByElement<TableValues<'a, Cpu, f32>, TableValues<'a, Cpu, f16>, TableValues<'a, Cpu, bf16>>;

/// The weights of all tables, of any type, for writing.
pub(crate) type AnyTablesMut<'a> = ByElement<
    TableValuesMut<'a, Cpu, f32>,
    TableValuesMut<'a, Cpu, f16>,
    TableValuesMut<'a, Cpu, bf16>,
>;

/// Bags with ids of any type.
pub(crate) type AnyBags<'a> = ByIndex<Bags<'a, Cpu, i32>, Bags<'a, Cpu, i64>>;

impl<A, B, C> ByElement<A, B, C> {
    /// Erases the element type `E` of `args`.
    #[inline]
    pub(crate) fn of<E: Element, X>(args: X) -> Self
    where
        X: Retype<E, f32, Output = A> + Retype<E, f16, Output = B> + Retype<E, bf16, Output = C>,
    {
        match E::DTYPE {
            DType::F32 => Self::F32(Retype::<E, f32>::retype(args)),
            DType::F16 => Self::F16(Retype::<E, f16>::retype(args)),
            DType::BF16 => Self::BF16(Retype::<E, bf16>::retype(args)),
        }
    }
}

impl<A, B> ByIndex<A, B> {
    /// Erases the index type `I` of `args`.
    #[inline]
    pub(crate) fn of<I: Index, X>(args: X) -> Self
    where
        X: Retype<I, i32, Output = A> + Retype<I, i64, Output = B>,
    {
        // The trait is sealed: `i64` is the only type of 8 bytes.
        match size_of::<I>() {
            4 => Self::I32(Retype::<I, i32>::retype(args)),
            _ => Self::I64(Retype::<I, i64>::retype(args)),
        }
    }
}

/// Evaluates an expression in which the names of some [`ByElement`]s stand for the typed values:
/// `with_elements!(weights => sum(weights))`. The expression is compiled for each type.
macro_rules! with_elements {
    ($name:ident => $body:expr) => {
        match $name {
            $crate::backend::cpu::runtime::erased::ByElement::F32($name) => $body,
            $crate::backend::cpu::runtime::erased::ByElement::F16($name) => $body,
            $crate::backend::cpu::runtime::erased::ByElement::BF16($name) => $body,
        }
    };
}
pub(crate) use with_elements;

/// Does for a [`ByIndex`] what [`with_elements`] does for a [`ByElement`].
macro_rules! with_indices {
    ($name:ident => $body:expr) => {
        match $name {
            $crate::backend::cpu::runtime::erased::ByIndex::I32($name) => $body,
            $crate::backend::cpu::runtime::erased::ByIndex::I64($name) => $body,
        }
    };
}
pub(crate) use with_indices;

impl ElementsMut<'_> {
    /// Returns the number of elements.
    #[inline(always)]
    pub(crate) fn len(&self) -> usize {
        let elements = self;
        with_elements!(elements => elements.len())
    }

    /// Borrows a range of the elements.
    #[inline(always)]
    pub(crate) fn part(&mut self, range: Range<usize>) -> ElementsMut<'_> {
        match self {
            Self::F32(all) => ByElement::F32(&mut all[range]),
            Self::F16(all) => ByElement::F16(&mut all[range]),
            Self::BF16(all) => ByElement::BF16(&mut all[range]),
        }
    }
}

/// A value over elements of type `E` that becomes one over elements of type `T` with the same bits.
/// It is called only where both are the same type, which the compiler cannot know in generic code,
/// and for ids of `u32` as `i32`.
pub(crate) trait Retype<E, T> {
    /// The same kind of value over elements of type `T`.
    type Output;

    /// Returns this value over elements of type `T`.
    fn retype(self) -> Self::Output;
}

impl<'a, E: Scalar, T: Scalar> Retype<E, T> for &'a [E] {
    type Output = &'a [T];

    #[inline]
    fn retype(self) -> &'a [T] {
        cast_slice(self)
    }
}

impl<'a, E: Scalar, T: Scalar> Retype<E, T> for &'a mut [E] {
    type Output = &'a mut [T];

    #[inline]
    fn retype(self) -> &'a mut [T] {
        cast_slice_mut(self)
    }
}

impl<E, T, X: Retype<E, T>> Retype<E, T> for Option<X> {
    type Output = Option<X::Output>;

    #[inline]
    fn retype(self) -> Self::Output {
        self.map(X::retype)
    }
}

impl<E, T, X: Retype<E, T>, Y: Retype<E, T>> Retype<E, T> for (X, Y) {
    type Output = (X::Output, Y::Output);

    #[inline]
    fn retype(self) -> Self::Output {
        (self.0.retype(), self.1.retype())
    }
}

impl<'a, E: Scalar, T: Scalar> Retype<E, T> for View<'a, Cpu, E> {
    type Output = View<'a, Cpu, T>;

    #[inline]
    fn retype(self) -> Self::Output {
        View::from(self.as_slice().retype())
    }
}

impl<'a, E: Scalar, T: Scalar> Retype<E, T> for ViewMut<'a, Cpu, E> {
    type Output = ViewMut<'a, Cpu, T>;

    #[inline]
    fn retype(self) -> Self::Output {
        ViewMut::from(self.into_slice().retype())
    }
}

impl<'a, E: Scalar, T: Scalar> Retype<E, T> for Matrix<'a, Cpu, E> {
    type Output = Matrix<'a, Cpu, T>;

    #[inline]
    fn retype(self) -> Self::Output {
        let Self { data, rows, cols, ld } = self;
        Matrix { data: data.retype(), rows, cols, ld }
    }
}

impl<'a, E: Scalar, T: Scalar> Retype<E, T> for MatrixMut<'a, Cpu, E> {
    type Output = MatrixMut<'a, Cpu, T>;

    #[inline]
    fn retype(self) -> Self::Output {
        let Self { data, rows, cols, ld } = self;
        MatrixMut { data: data.retype(), rows, cols, ld }
    }
}

impl<'a, E: Scalar, T: Scalar> Retype<E, T> for TableValues<'a, Cpu, E> {
    type Output = TableValues<'a, Cpu, T>;

    #[inline]
    fn retype(self) -> Self::Output {
        match self {
            Self::Joined(values) => TableValues::Joined(values.retype()),
            Self::Separate(tables) => TableValues::Separate(tables.with_values(Retype::retype)),
        }
    }
}

impl<'a, E: Scalar, T: Scalar> Retype<E, T> for TableValuesMut<'a, Cpu, E> {
    type Output = TableValuesMut<'a, Cpu, T>;

    #[inline]
    fn retype(self) -> Self::Output {
        match self {
            Self::Joined(values) => TableValuesMut::Joined(values.retype()),
            Self::Separate(tables) => TableValuesMut::Separate(tables.with_values(Retype::retype)),
        }
    }
}

impl<'a, I: Index, T: Index> Retype<I, T> for Bags<'a, Cpu, I> {
    type Output = Bags<'a, Cpu, T>;

    #[inline]
    fn retype(self) -> Self::Output {
        let Self { batch_size, indices, offsets, per_sample_weights, has_slack, has_unsigned_ids } =
            self;
        let indices = indices.retype();
        Bags { batch_size, indices, offsets, per_sample_weights, has_slack, has_unsigned_ids }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_element_type_keeps_its_variant_and_values() {
        fn sum<E: Element>(values: &[E]) -> f32 {
            values.iter().map(|value| value.to_f32()).sum()
        }
        let (single, half) = ([1.5_f32, 2.0], [f16::from_f32(1.5), f16::from_f32(3.0)]);
        let brain = [bf16::from_f32(1.5), bf16::from_f32(4.0)];
        let all = [Elements::of(&single[..]), Elements::of(&half[..]), Elements::of(&brain[..])];
        assert!(matches!(all, [ByElement::F32(_), ByElement::F16(_), ByElement::BF16(_)]));
        assert_eq!(all.map(|values| with_elements!(values => sum(values))), [3.5, 4.5, 5.5]);
    }

    #[test]
    fn each_index_type_keeps_its_variant_and_values() {
        fn bags<I: Index>(indices: &[I]) -> AnyBags<'_> {
            AnyBags::of(Bags::new(1, indices, &indices[..1]))
        }
        let all = [bags(&[-1_i32, 5]), bags(&[-1_i64, 6]), bags(&[0_u32, u32::MAX])];
        assert!(matches!(all, [ByIndex::I32(_), ByIndex::I64(_), ByIndex::I32(_)]));
        let last = |bags: AnyBags<'_>| {
            with_indices!(bags => {
                (bags.indices[1].to_i64(), bags.has_unsigned_ids)
            })
        };
        assert_eq!(all.map(last), [(5, false), (6, false), (-1, true)]);
    }
}

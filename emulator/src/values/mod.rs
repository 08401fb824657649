//! The results of instructions: functions of their operands, without any state.

mod arithmetic;
mod carry;
mod compare;
mod convert;
mod float;
mod halves;
mod integer;
mod matrix;

pub(crate) use arithmetic::evaluate;
pub(crate) use carry::with_carry;
pub(crate) use compare::{compare, compare_packed};
pub(crate) use convert::convert;
pub(crate) use float::{narrow, widen};
pub(crate) use matrix::{multiply, transpose_rows};

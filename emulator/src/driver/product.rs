//! A product of matrices: the work that cublasLtMatmul enqueues.

use crate::device::{AccessError, Device};
use crate::ir::Ty;
use crate::values::{narrow, widen};

/// A matrix in column-major order.
#[derive(Clone, Copy, Debug)]
pub(super) struct Matrix {
    pub(super) address: u64,
    pub(super) ty: Ty,
    pub(super) rows: usize,
    pub(super) cols: usize,
    /// The leading dimension: elements from one column to the next.
    pub(super) ld: usize,
}

/// `D = act(alpha op(A) op(B) + beta C + bias)`.
#[derive(Clone, Debug)]
pub(super) struct Product {
    pub(super) a: Matrix,
    pub(super) b: Matrix,
    pub(super) c: Matrix,
    pub(super) d: Matrix,
    pub(super) transposed: [bool; 2],
    /// Set if the factors are truncated to tf32, as by instructions that read them from shared
    /// memory.
    pub(super) is_tf32: bool,
    pub(super) alpha: f32,
    pub(super) beta: f32,
    /// The address of the bias: an element of D's type for each row of D.
    pub(super) bias: Option<u64>,
    pub(super) relu: bool,
    /// The address and the length in bytes.
    pub(super) workspace: (u64, usize),
}

fn size(ty: Ty) -> usize {
    if ty == Ty::F32 { 4 } else { 2 }
}

/// Reads a vector. Elements that nobody has written are NaNs.
fn read(device: &mut Device, ty: Ty, address: u64, len: usize) -> Result<Vec<f64>, AccessError> {
    let mut bytes = vec![0; len * size(ty)];
    device.read(address, &mut bytes)?;
    let bits = |bytes: &[u8]| bytes.iter().rev().fold(0, |bits, &byte| bits << 8 | u64::from(byte));
    Ok(bytes.chunks(size(ty)).map(|bytes| widen(ty, bits(bytes))).collect())
}

impl Matrix {
    /// Returns the address of a column.
    fn column(&self, number: usize) -> u64 {
        self.address + (number * self.ld * size(self.ty)) as u64
    }

    fn read(&self, device: &mut Device) -> Result<Vec<Vec<f64>>, AccessError> {
        (0..self.cols).map(|col| read(device, self.ty, self.column(col), self.rows)).collect()
    }
}

/// Turns a matrix given by its columns into one given by its rows.
fn transpose(columns: &[Vec<f64>]) -> Vec<Vec<f64>> {
    (0..columns.first().map_or(0, Vec::len))
        .map(|row| columns.iter().map(|column| column[row]).collect())
        .collect()
}

impl Product {
    /// Computes the product. A sum is rounded to `f32` once, where hardware rounds after each term.
    pub(super) fn run(&self, device: &mut Device) -> Result<(), AccessError> {
        let (workspace, len) = self.workspace;
        // A product may overwrite all of its workspace.
        device.fill(workspace, &[0xff], len)?;
        let factor = |device: &mut Device, matrix: &Matrix| -> Result<_, AccessError> {
            let mut columns = matrix.read(device)?;
            if self.is_tf32 {
                let cut =
                    |x: &mut f64| *x = f64::from(f32::from_bits((*x as f32).to_bits() & !0x1fff));
                columns.iter_mut().flatten().for_each(cut);
            }
            Ok(columns)
        };
        let (a, b) = (factor(device, &self.a)?, factor(device, &self.b)?);
        let rows = if self.transposed[0] { a } else { transpose(&a) };
        let cols = if self.transposed[1] { transpose(&b) } else { b };
        let before = if self.beta == 0.0 { None } else { Some(self.c.read(device)?) };
        let bias = self.bias.map(|bias| read(device, self.d.ty, bias, self.d.rows)).transpose()?;
        for (col, factors) in cols.iter().enumerate() {
            let mut bytes = vec![];
            for (row, others) in rows.iter().enumerate() {
                let sum: f64 = others.iter().zip(factors).map(|(a, b)| a * b).sum();
                let mut value = self.alpha * sum as f32;
                value += before.as_ref().map_or(0.0, |before| self.beta * before[col][row] as f32);
                value += bias.as_ref().map_or(0.0, |bias| bias[row] as f32);
                // Like fmaxf, this turns a NaN into zero.
                let value = if self.relu { value.max(0.0) } else { value };
                bytes.extend(&narrow(self.d.ty, f64::from(value)).to_le_bytes()[..size(self.d.ty)]);
            }
            device.write(self.d.column(col), &bytes)?;
        }
        Ok(())
    }
}

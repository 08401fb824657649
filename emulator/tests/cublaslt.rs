//! The stand-in for cuBLASLt, loaded by the name of cuBLASLt, computes products and refuses what
//! cuBLASLt refuses.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::ffi::c_int;
use std::sync::Arc;

use common::cuda::{context, emulator};
use cudarc::driver::{CudaStream, DevicePtr};
use libloading::Library;

const INVALID_VALUE: c_int = 7;
const NOT_SUPPORTED: c_int = 15;

const R_32F: c_int = 0;
const R_16BF: c_int = 14;
const COMPUTE_32F: c_int = 68;
const COMPUTE_32F_FAST_TF32: c_int = 77;
const BIAS: u32 = 4;
const RELU_BIAS: u32 = 6;

/// Calls a function of the library by its name.
macro_rules! call {
    ($library:expr, $name:ident($($argument:expr => $ty:ty),*)) => {{
        type Function = unsafe extern "C" fn($($ty),*) -> c_int;
        let name = concat!(stringify!($name), "\0").as_bytes();
        // SAFETY: the function has these arguments, by the documentation of cuBLASLt, and pointers
        // are to values of this test.
        unsafe { $library.get::<Function>(name).unwrap()($($argument),*) }
    }};
}

/// A product `D = op(A) op(B)` with A stored transposed. A gap of one element follows each column.
struct Product {
    library: Library,
    handle: u64,
    operation: u64,
    layouts: [u64; 3],
    algorithm: [u64; 13],
}

/// The product that a test wants. `sizes` are rows, columns and terms.
#[derive(Clone, Copy)]
struct Wish {
    sizes: [u64; 3],
    types: [c_int; 2],
    compute: c_int,
    epilogue: u32,
    workspace: u64,
}

const WISH: Wish =
    Wish { sizes: [3, 2, 4], types: [R_32F; 2], compute: COMPUTE_32F, epilogue: 1, workspace: 0 };

impl Product {
    /// Returns the product with an algorithm for matrices and a bias that are aligned to 16 bytes,
    /// or the status of the heuristic.
    fn new(wish: Wish) -> Result<Self, c_int> {
        // SAFETY: the emulator has loaded its own library under this name.
        let library = unsafe { Library::new("libcublasLt.so.13") }.unwrap();
        let ([rows, cols, terms], [factors, output]) = (wish.sizes, wish.types);
        let (mut handle, mut operation, mut preference, mut count) = (0, 0, 0, 0);
        assert_eq!(call!(library, cublasLtCreate(&mut handle => &mut u64)), 0);
        let (compute, to) = (wish.compute, &mut operation);
        let created = call!(
            library,
            cublasLtMatmulDescCreate(to => &mut u64, compute => c_int, R_32F => c_int)
        );
        assert_eq!(created, 0);
        let set = |attribute: c_int, value: &[u8]| {
            let (value, len) = (value.as_ptr(), value.len());
            call!(library, cublasLtMatmulDescSetAttribute(
                operation => u64, attribute => c_int, value => *const u8, len => usize
            ))
        };
        let statuses = [
            set(3, &1_i32.to_le_bytes()),
            set(7, &wish.epilogue.to_le_bytes()),
            set(8, &16_u64.to_le_bytes()),
        ];
        assert_eq!(
            (statuses, set(99, &[0; 4]), set(7, &[0; 8])),
            ([0; 3], INVALID_VALUE, INVALID_VALUE)
        );
        let shapes = [(factors, terms, rows), (factors, terms, cols), (output, rows, cols)];
        let layouts = shapes.map(|(ty, rows, cols)| {
            let (mut layout, ld) = (0, rows as i64 + 1);
            let to = &mut layout;
            let created = call!(library, cublasLtMatrixLayoutCreate(
                to => &mut u64, ty => c_int, rows => u64, cols => u64, ld => i64
            ));
            assert_eq!(created, 0);
            layout
        });
        assert_eq!(call!(library, cublasLtMatmulPreferenceCreate(&mut preference => &mut u64)), 0);
        let prefer = |attribute: c_int, value: &[u8]| {
            let (value, len) = (value.as_ptr(), value.len());
            let set = call!(library, cublasLtMatmulPreferenceSetAttribute(
                preference => u64, attribute => c_int, value => *const u8, len => usize
            ));
            assert_eq!(set, 0);
        };
        prefer(1, &wish.workspace.to_le_bytes());
        (5..9).for_each(|matrix| prefer(matrix, &16_u32.to_le_bytes()));
        let ([a, b, d], mut algorithm) = (layouts, [0; 13]);
        let found = call!(library, cublasLtMatmulAlgoGetHeuristic(
            handle => u64, operation => u64, a => u64, b => u64, d => u64, d => u64,
            preference => u64, 1 => c_int,
            &mut algorithm => &mut [u64; 13], &mut count => &mut c_int
        ));
        if found == 0 {
            Ok(Self { library, handle, operation, layouts, algorithm })
        } else {
            Err(found)
        }
    }

    /// Enqueues the product. Returns the status.
    fn run(
        &self,
        stream: &Arc<CudaStream>,
        [a, b, d]: [u64; 3],
        bias: u64,
        beta: f32,
        workspace: (u64, usize),
    ) -> c_int {
        let (operation, value) = (self.operation, &bias);
        let set = call!(self.library, cublasLtMatmulDescSetAttribute(
            operation => u64, 8 => c_int, value => &u64, 8 => usize
        ));
        assert_eq!(set, 0);
        let [of_a, of_b, of_d] = self.layouts;
        call!(self.library, cublasLtMatmul(
            self.handle => u64, operation => u64, &2.0 => &f32, a => u64, of_a => u64,
            b => u64, of_b => u64, &beta => &f32, d => u64, of_d => u64, d => u64, of_d => u64,
            &self.algorithm => &[u64; 13], workspace.0 => u64, workspace.1 => usize,
            stream.cu_stream().addr() as u64 => u64
        ))
    }
}

/// Returns columns of values, each followed by a gap of one element.
fn columns(rows: usize, cols: usize, value: impl Fn(usize, usize) -> f32) -> Vec<f32> {
    (0..cols)
        .flat_map(|col| (0..=rows).map(move |row| (row, col)))
        .map(|(row, col)| if row < rows { value(row, col) } else { f32::NAN })
        .collect()
}

#[test]
fn products_are_those_of_column_major_matrices() {
    let emulator = emulator();
    let stream = context().new_stream().unwrap();
    let value = |row: usize, col: usize| (row * 3 + col * 5) as f32 % 7.0 - 3.0;
    for terms in [4, 300] {
        let parts = 2 * 4 * 3 * 2;
        let product = Product::new(Wish {
            sizes: [3, 2, terms as u64],
            epilogue: RELU_BIAS,
            workspace: parts,
            ..WISH
        })
        .unwrap();
        let (a, b) = (
            stream.clone_htod(&columns(terms, 3, value)).unwrap(),
            stream.clone_htod(&columns(terms, 2, |t, c| value(c, t))).unwrap(),
        );
        let d = stream.clone_htod(&columns(3, 2, value)).unwrap();
        let (bias, workspace) = (
            stream.clone_htod(&[1.0_f32, 2.0, 3.0]).unwrap(),
            stream.clone_htod(&[0_u8; 48]).unwrap(),
        );
        let at = |buffer: &cudarc::driver::CudaSlice<f32>| buffer.device_ptr(&stream).0;
        let room = (workspace.device_ptr(&stream).0, 48);
        assert_eq!(product.run(&stream, [at(&a), at(&b), at(&d)], at(&bias), 0.5, room), 0);
        let got = stream.clone_dtoh(&d).unwrap();
        let sum =
            |row: usize, col: usize| (0..terms).map(|t| value(t, row) * value(col, t)).sum::<f32>();
        let want = columns(3, 2, |row, col| {
            (2.0 * sum(row, col) + 0.5 * value(row, col) + row as f32 + 1.0).max(0.0)
        });
        assert!(
            got.iter().zip(&want).all(|(got, want)| got == want || got.is_nan() && want.is_nan()),
            "{got:?}, not {want:?}"
        );
        assert!(want.iter().any(|&d| d > 0.0) && want.contains(&0.0));
        // The split-K partials go there.
        let in_parts = stream.clone_dtoh(&workspace).unwrap() == [0xff; 48];
        assert_eq!(in_parts, terms == 300);
    }
    assert_eq!(emulator.report(), "");
}

#[test]
fn what_cublaslt_refuses_is_refused() {
    let emulator = emulator();
    let stream = context().new_stream().unwrap();
    let refused = |wish| Product::new(wish).map(|_| ()).unwrap_err();
    assert_eq!(refused(Wish { types: [R_32F, R_16BF], ..WISH }), NOT_SUPPORTED);
    assert_eq!(
        refused(Wish { types: [R_16BF; 2], compute: COMPUTE_32F_FAST_TF32, ..WISH }),
        NOT_SUPPORTED
    );
    assert_eq!(refused(Wish { epilogue: 512, ..WISH }), NOT_SUPPORTED);
    assert_eq!(refused(Wish { sizes: [3, 0, 4], ..WISH }), INVALID_VALUE);
    let memory = stream.clone_htod(&[0.0_f32; 4096]).unwrap();
    let at = memory.device_ptr(&stream).0;
    let matrices = [at, at + 8192, at + 12_288];
    let product =
        Product::new(Wish { sizes: [3, 2, 300], epilogue: BIAS, workspace: 48, ..WISH }).unwrap();
    let run = |matrices, bias, workspace| product.run(&stream, matrices, bias, 0.0, workspace);
    let room = (at + 16_000, 48);
    assert_eq!(run(matrices, at + 15_872, room), 0);
    assert_eq!(emulator.report(), "");
    for (matrices, bias, workspace) in [
        ([at + 4, at + 8192, at + 12_288], at, room),
        (matrices, 0, room),
        (matrices, at + 15_876, room),
        (matrices, at + 15_872, (0, 0)),
        (matrices, at + 15_872, (at + 16_000, 47)),
    ] {
        assert_eq!(run(matrices, bias, workspace), INVALID_VALUE);
    }
    let mut other = Product::new(Wish { sizes: [3, 2, 300], ..WISH }).unwrap();
    other.algorithm = product.algorithm;
    assert_eq!(other.run(&stream, matrices, 0, 0.0, room), INVALID_VALUE);
    assert_eq!(emulator.report().lines().count(), 6, "{}", emulator.report());
}

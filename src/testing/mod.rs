//! The references in `f64`, tolerances from error bounds and batches of awkward shapes that
//! bagdot's own suites use, for those who validate kernels of their own (feature `testing`).
//!
//! A reference computes each element together with a bound of the error of any evaluation of the
//! same formula in `f32` ([`Approx`]), so that a test needs no tolerance that somebody has guessed:
//!
//! ```
//! use bagdot::Cpu;
//! use bagdot::ops::Pooling;
//! use bagdot::testing::{BagCase, assert_close, exact, reference};
//!
//! for case in BagCase::all(Pooling::Mean) {
//!     let weights = case.weights::<f32>();
//!     // A kernel of your own takes the place of this call. It reads `case.indices`,
//!     // `case.offsets` and `case.features`.
//!     let got = case.pool::<_, i64>(&Cpu::on_current_thread(), &weights);
//!     let (want, _sources) = reference::embedding_bag(&case, &exact(&weights));
//!     assert_close(&case.name, &got, &want);
//! }
//! ```
//!
//! Functions here panic with a message where a test is to fail, and where a device fails. This
//! module follows the needs of the suites: it may change with any version.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

pub mod cases;
pub mod memory;
pub mod reference;
pub mod tolerance;

pub use cases::{BagCase, DIMS, Id, POOLINGS, draw, draw_stored, feature, uniform, zipf};
pub use memory::{Grid, Poison, download, download_view, poisoned, upload};
pub use tolerance::{
    Approx, Stored, U, assert_close, assert_close_within, assert_same_bits, exact, ulp, values,
};

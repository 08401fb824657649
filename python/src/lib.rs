//! The native module of the Python package `bagdot`: ops on arrays of other libraries, and models
//! of data frames.
//!
//! `unsafe` stands in `array.rs`, `output.rs`, `device.rs` and `ops.rs`, around memory that Python
//! owns, and in `frame.rs`, where a stream of Arrow is taken over.

mod array;
mod device;
mod dlpack;
mod error;
mod frame;
mod model;
mod ops;
mod output;
mod tables;

use pyo3::prelude::*;

#[pymodule]
mod _bagdot {
    #[pymodule_export]
    use crate::device::{_after_fork, cuda_devices, get_num_threads, set_num_threads, synchronize};
    #[pymodule_export]
    use crate::frame::Frame;
    #[pymodule_export]
    use crate::model::{Model, train};
    #[pymodule_export]
    use crate::ops::{
        embedding_bag, embedding_bag_weight_grad, interaction, interaction_backward,
        interaction_pairs, interaction_width, pooled_interaction, sparse_update,
    };
    #[pymodule_export]
    use crate::output::Owned;
    #[pymodule_export]
    use crate::tables::{Optimizer, Tables};
}

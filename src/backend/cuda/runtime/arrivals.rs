//! Counters of the blocks that have arrived at the end of a launch, by which the last one finishes
//! what the others have begun (kernels/common/arrivals.cuh), and others that it clears.

use std::sync::Arc;

use cudarc::driver::{CudaContext, CudaStream, result};

use super::buffer::{Buffer, Owner};
use super::driver::check;
use super::params::index_sort::IndexSortCounters;
use super::pointer::PtrMut;
use crate::error::Result;

// The counters of the branch are aligned, too.
const _: () = assert!(Arrivals::COUNT.is_multiple_of(2));

/// The counters of a backend, in device memory: zeros whenever no kernel that uses them is running.
/// The ops of a backend run one after another, so that kernels of one kind share their counters.
#[derive(Debug)]
pub(crate) struct Arrivals {
    counters: Arc<Buffer<u32>>,
    /// The number of the first counter.
    first: usize,
}

impl Arrivals {
    /// The counter of [`loss`](crate::ops::loss).
    pub(crate) const LOSS: usize = 0;
    /// The counter of [`finite_check`](crate::ops::finite_check).
    pub(crate) const FINITE_CHECK: usize = 1;
    /// The counter of [`head`](crate::ops::head).
    pub(crate) const HEAD: usize = 2;
    /// The first counter of the tiles of a weight gradient ([`linear`](crate::ops::linear)).
    pub(crate) const WEIGHT_GRAD: usize = 3;
    /// The number of counters of such tiles.
    pub(crate) const WEIGHT_TILES: usize = 1024;
    /// The first counter of the runs of columns of a bias gradient.
    pub(crate) const BIAS_GRAD: usize = Self::WEIGHT_GRAD + Self::WEIGHT_TILES;
    /// The number of counters of such runs.
    pub(crate) const BIAS_RUNS: usize = 1024;
    /// The first counter of [`index_sort`](crate::ops::index_sort), at a multiple of 8 bytes.
    pub(crate) const INDEX_SORT: usize = (Self::BIAS_GRAD + Self::BIAS_RUNS).next_multiple_of(2);
    /// The number of counters of a backend, and of its branch.
    const COUNT: usize = Self::INDEX_SORT + size_of::<IndexSortCounters>() / size_of::<u32>();

    /// Allocates the counters of a backend and of its branch, and clears them on a stream that
    /// nothing is recorded on. The context must be bound.
    pub(crate) fn new(context: &Arc<CudaContext>, stream: &CudaStream) -> Result<Self> {
        let mut counters = Buffer::new(context, Owner::ANY, 2 * Self::COUNT)?;
        counters.clear(stream.cu_stream())?;
        // SAFETY: the stream is alive.
        let waited = unsafe { result::stream::synchronize(stream.cu_stream()) };
        check("wait for the stream", waited)?;
        Ok(Self { counters: Arc::new(counters), first: 0 })
    }

    /// Returns the address of a counter.
    pub(crate) fn of(&self, counter: usize) -> PtrMut<u32> {
        let counter = self.first + counter;
        PtrMut::at(self.counters.slice(counter..counter + 1).pointer())
    }

    /// Returns the counters of the branch, whose ops run beside those of the backend.
    pub(crate) fn of_branch(&self) -> Self {
        Self { counters: Arc::clone(&self.counters), first: Self::COUNT }
    }
}

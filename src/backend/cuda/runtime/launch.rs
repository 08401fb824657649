//! Launches of kernels: grids, parameters, and the one function that launches.

use std::alloc::Layout;
use std::ffi::c_void;
use std::fmt;
use std::marker::PhantomData;

use cudarc::driver::{result, sys};

use super::super::Cuda;
use super::driver::check;
use crate::error::Result;

/// The shape of a launch: blocks of the grid, and threads and shared memory of a block.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Grid {
    /// The number of blocks in both dimensions of the grid.
    pub(crate) blocks: (u32, u32),
    /// The number of threads of a block.
    pub(crate) threads: u32,
    /// Bytes of dynamic shared memory of a block.
    pub(crate) shared: u32,
}

impl Grid {
    /// The number of blocks that fills any device.
    pub(crate) const FILLING: usize = 4096;
    /// The limit of the second dimension, in blocks.
    pub(crate) const MAX_Y: usize = 65_535;

    /// Returns a grid of blocks of `threads` threads, without dynamic shared memory.
    pub(crate) fn new(blocks: (u32, u32), threads: usize) -> Self {
        Self { blocks, threads: threads as u32, shared: 0 }
    }

    /// Returns a grid for a kernel with a grid-stride loop: enough blocks for `work` threads, at
    /// most `most`.
    pub(crate) fn looping(work: usize, threads: usize, most: usize) -> Self {
        Self::new((work.div_ceil(threads).min(most) as u32, 1), threads)
    }
}

/// A kernel, identified by the twin of its parameters. `()` stands for the type parameters of its
/// instances.
pub(crate) trait Kernel {
    /// The name of the kernel file without its extension.
    const STEM: &'static str;
    /// The name, without the suffix that distinguishes instances.
    const NAME: &'static str;
}

/// The parameters of a kernel: the twin of the struct that it takes by value. The generated code
/// asserts the layout.
pub(crate) trait Parameters {
    /// The kernel that takes these parameters.
    type Kernel: Kernel;
}

/// The declaration of a kernel.
#[doc(hidden)]
#[derive(Clone, Copy, Debug)]
pub struct KernelInfo {
    /// The name of the kernel file without its extension.
    pub stem: &'static str,
    /// The name, without the suffix that distinguishes instances.
    pub name: &'static str,
    /// The layout of its parameters in Rust.
    pub parameters: Layout,
}

impl KernelInfo {
    pub(super) const fn of<K: Kernel>() -> Self {
        Self { stem: K::STEM, name: K::NAME, parameters: Layout::new::<K>() }
    }
}

/// An instance of the kernel `K`, found in a loaded module.
pub(crate) struct Function<K> {
    handle: sys::CUfunction,
    kernel: PhantomData<fn(K)>,
}

impl<K> Clone for Function<K> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<K> Copy for Function<K> {}

impl<K: Kernel> fmt::Debug for Function<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Function({})", K::NAME)
    }
}

// SAFETY: a function is a handle of the driver, which may be used from any thread with the context
// bound.
unsafe impl<K> Send for Function<K> {}
// SAFETY: as above; a shared reference changes nothing.
unsafe impl<K> Sync for Function<K> {}

impl<K: Kernel> Function<K> {
    pub(super) fn new(handle: sys::CUfunction) -> Self {
        Self { handle, kernel: PhantomData }
    }

    pub(super) fn handle(self) -> sys::CUfunction {
        self.handle
    }

    /// Launches the kernel on the backend's stream. Does nothing if the grid is empty.
    ///
    /// # Safety
    /// The function must be the instance for the types of `parameters`. A pointer may be null only
    /// where the kernel allows that. Any other pointer must point to as many elements as the kernel
    /// reads or writes for these sizes. Nothing else may access the memory that is written until
    /// the launch has run.
    pub(crate) unsafe fn launch<P: Parameters<Kernel = K>>(
        self,
        cuda: &Cuda,
        grid: Grid,
        mut parameters: P,
    ) -> Result<()> {
        let (blocks_x, blocks_y) = grid.blocks;
        if blocks_x == 0 || blocks_y == 0 {
            return Ok(());
        }
        let _bound = cuda.bind()?;
        let mut addresses: [*mut c_void; 1] = [(&raw mut parameters).cast()];
        // SAFETY: the function is loaded. By the assertions beside both declarations it takes one
        // parameter of the layout of `P`, which the driver copies before the call returns. The
        // caller vouches for its fields.
        let launched = unsafe {
            let (blocks, threads) = ((blocks_x, blocks_y, 1), (grid.threads, 1, 1));
            result::launch_kernel(
                self.handle,
                blocks,
                threads,
                grid.shared,
                cuda.raw_stream(),
                &mut addresses,
            )
        };
        check("launch a kernel", launched)
    }
}

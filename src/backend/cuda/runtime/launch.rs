//! Launches of kernels: their shapes, their parameters, and the one place where they happen.

use std::alloc::Layout;
use std::ffi::c_void;
use std::fmt;
use std::marker::PhantomData;

use cudarc::driver::{result, sys};

use super::super::Cuda;
use super::driver::check;
use crate::error::Result;

/// The shape of a launch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Grid {
    /// Blocks.
    pub(crate) blocks: (u32, u32),
    /// Threads of a block.
    pub(crate) threads: u32,
    /// Bytes of dynamic shared memory of a block.
    pub(crate) shared: u32,
}

impl Grid {
    /// Enough blocks to fill any device.
    pub(crate) const FILLING: usize = 4096;
    /// The limit of the second dimension.
    pub(crate) const MAX_Y: usize = 65_535;

    /// Returns a grid of blocks of so many threads, without dynamic shared memory.
    pub(crate) fn new(blocks: (u32, u32), threads: usize) -> Self {
        Self { blocks, threads: threads as u32, shared: 0 }
    }

    /// Returns a grid for a kernel whose blocks, at most `most`, loop over `work` of the threads.
    pub(crate) fn looping(work: usize, threads: usize, most: usize) -> Self {
        Self::new((work.div_ceil(threads).min(most) as u32, 1), threads)
    }
}

/// A kernel, named by the twin of its parameters; `()` stands for the types of its instances.
pub(crate) trait Kernel {
    /// The kernel file that it is in.
    const STEM: &'static str;
    /// Its name, without what its instances differ by.
    const NAME: &'static str;
}

/// The parameters of a kernel: the twin of the struct that it takes by value, whose layout is
/// asserted where it is generated.
pub(crate) trait Parameters {
    /// The kernel.
    type Kernel: Kernel;
}

/// A kernel as its declaration has it.
#[doc(hidden)]
#[derive(Clone, Copy, Debug)]
pub struct KernelInfo {
    /// The kernel file that it is in.
    pub stem: &'static str,
    /// Its name, without what its instances differ by.
    pub name: &'static str,
    /// The layout of its parameters in Rust.
    pub parameters: Layout,
}

impl KernelInfo {
    pub(super) const fn of<K: Kernel>() -> Self {
        Self { stem: K::STEM, name: K::NAME, parameters: Layout::new::<K>() }
    }
}

/// An instance of the kernel `K` that has been found in a module.
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
// SAFETY: as above; nothing is ever changed through it.
unsafe impl<K> Sync for Function<K> {}

impl<K: Kernel> Function<K> {
    pub(super) fn new(handle: sys::CUfunction) -> Self {
        Self { handle, kernel: PhantomData }
    }

    pub(super) fn handle(self) -> sys::CUfunction {
        self.handle
    }

    /// Launches the kernel on the backend's stream. An empty grid is no launch.
    ///
    /// # Safety
    /// The function must be the instance for the types of `parameters`. Each pointer must be null
    /// where the kernel says that it may be, else point to as many elements as the kernel reads or
    /// writes for these sizes, and what is written must be nobody else's until the launch has run.
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
        cuda.bind()?;
        let mut addresses: [*mut c_void; 1] = [(&raw mut parameters).cast()];
        // SAFETY: the function is loaded. It takes one parameter of the layout of `P`, by the
        // assertions beside both declarations; the driver copies it before it returns. The caller
        // vouches for its fields.
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

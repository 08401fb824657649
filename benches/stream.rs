//! `stream`: a read, a write and a copy of 1 GiB by plain loops, in memory that the device
//! allocates as for any op. They are the yardstick of the ops that memory bounds. The row `memcpy`
//! is the copy that the device itself offers, which can be far slower than a loop: on CUDA that of
//! the driver, on the CPU that of one thread.
//!
//! On CUDA each loop is measured with a grid of the blocks that run at once, and with a block for
//! each tile (`tiles`); the faster one counts. On the CPU stores read the line that they write
//! into, which is not counted, unless the C library decides otherwise in a copy.
#![allow(clippy::unwrap_used)]

mod common;

use bagdot::Cpu;
use bagdot::ops::Device;
use common::{Timed, group, measure, upload};
use criterion::Criterion;
use rayon::prelude::*;

common::benchmark_on_every_device!(stream);

const BYTES: usize = 1 << 30;
/// The number of words of a buffer.
const LEN: usize = BYTES / 4;

/// A device that has plain loops.
trait Streams: Timed {
    /// Returns each kind of loops with a suffix for names of benchmarks; none, with a line on
    /// stderr, if there are no kernels.
    fn loops(&self) -> Vec<(&'static str, Box<dyn Loops<Self> + '_>)>;
}

/// The loops over buffers of [`LEN`] words.
trait Loops<B: Device> {
    /// Sums all words.
    fn read(&mut self, from: &B::Buffer<u32>);
    fn write(&mut self, to: &mut B::Buffer<u32>);
    fn copy(&mut self, from: &B::Buffer<u32>, to: &mut B::Buffer<u32>);
    /// Returns the sum of the last read, modulo 2^32.
    fn sum(&self) -> u32;
    /// Returns the word that a write leaves at position `at`.
    fn word(&self, at: usize) -> u32;
}

fn stream<B: Streams>(criterion: &mut Criterion, device: &B) {
    let mut group = group(criterion, device, "stream");
    for (suffix, loops) in device.loops() {
        let name = |work: &str| format!("{work} 1 GiB{suffix}");
        let mut stream = Stream { device, loops, buffers: None };
        measure(&mut group, device, &name("read"), 1, BYTES, |_| {
            let (loops, [from, _]) = stream.checked();
            loops.read(from);
            BYTES
        });
        measure(&mut group, device, &name("write"), 1, BYTES, |_| {
            let (loops, [_, to]) = stream.checked();
            loops.write(to);
            BYTES
        });
        measure(&mut group, device, &name("copy"), 1, 2 * BYTES, |_| {
            let (loops, [from, to]) = stream.checked();
            loops.copy(from, to);
            2 * BYTES
        });
    }
    let mut buffers = None;
    measure(&mut group, device, "memcpy 1 GiB", 1, 2 * BYTES, |_| {
        let (from, to) = buffers.get_or_insert_with(|| {
            (upload(device, &vec![1_u32; LEN]), device.alloc::<u32>(LEN).unwrap())
        });
        device.copy(B::view(from), B::view_mut(to)).unwrap();
        2 * BYTES
    });
}

/// Loops and two buffers, which are made when they are needed for the first time.
struct Stream<'a, B: Device> {
    device: &'a B,
    loops: Box<dyn Loops<B> + 'a>,
    buffers: Option<[B::Buffer<u32>; 2]>,
}

impl<'a, B: Device> Stream<'a, B> {
    /// Returns the loops and the buffers. Checks at the first call what each loop does.
    fn checked(&mut self) -> (&mut (dyn Loops<B> + 'a), &mut [B::Buffer<u32>; 2]) {
        let Self { device, loops, buffers } = self;
        let buffers = buffers.get_or_insert_with(|| {
            let [mut from, mut to] = [(); 2].map(|()| device.alloc::<u32>(LEN).unwrap());
            loops.write(&mut from);
            loops.copy(&from, &mut to);
            loops.read(&to);
            let is_word = |(at, word): (usize, &u32)| *word == loops.word(at);
            let copied = device.to_vec(&to).unwrap();
            assert!(copied.iter().enumerate().all(is_word), "the copy differs");
            let sum = copied.into_iter().fold(0, u32::wrapping_add);
            assert_eq!(loops.sum(), sum, "the read has another sum");
            [from, to]
        });
        (loops.as_mut(), buffers)
    }
}

impl Streams for Cpu {
    fn loops(&self) -> Vec<(&'static str, Box<dyn Loops<Self> + '_>)> {
        let loops: Box<dyn Loops<Self> + '_> = Box::new(OnCpu { cpu: self, sum: 0 });
        vec![("", loops)]
    }
}

/// The loops on the CPU: one piece of a buffer for each thread.
struct OnCpu<'a> {
    cpu: &'a Cpu,
    sum: u32,
}

impl OnCpu<'_> {
    /// The word that a write leaves everywhere.
    const WORD: u32 = 0x9e37_79b9;

    /// Returns the number of words of a thread.
    fn piece(&self) -> usize {
        LEN.div_ceil(self.cpu.num_threads())
    }
}

impl Loops<Cpu> for OnCpu<'_> {
    fn read(&mut self, from: &<Cpu as Device>::Buffer<u32>) {
        let (piece, from) = (self.piece(), &from[..]);
        let sum_of = |words: &[u32]| words.iter().copied().fold(0, u32::wrapping_add);
        self.sum =
            self.cpu.install(|| from.par_chunks(piece).map(sum_of).reduce(|| 0, u32::wrapping_add));
    }

    fn write(&mut self, to: &mut <Cpu as Device>::Buffer<u32>) {
        let (piece, to) = (self.piece(), &mut to[..]);
        self.cpu.install(|| to.par_chunks_mut(piece).for_each(|words| words.fill(Self::WORD)));
    }

    fn copy(&mut self, from: &<Cpu as Device>::Buffer<u32>, to: &mut <Cpu as Device>::Buffer<u32>) {
        let (piece, from, to) = (self.piece(), &from[..], &mut to[..]);
        self.cpu.install(|| {
            to.par_chunks_mut(piece)
                .zip(from.par_chunks(piece))
                .for_each(|(to, from)| to.copy_from_slice(from));
        });
    }

    fn sum(&self) -> u32 {
        self.sum
    }

    fn word(&self, _at: usize) -> u32 {
        Self::WORD
    }
}

#[cfg(feature = "cuda")]
mod cuda {
    //! The kernels of stream.cu.

    use std::ffi::{CStr, c_void};

    use bagdot::Cuda;
    use bagdot::ops::Device;
    use cudarc::driver::{DriverError, result, sys};

    use super::{BYTES, Loops, Streams};

    /// The kernels as PTX, which build.rs writes; empty if there was no nvcc.
    static PTX: &str = include_str!(concat!(env!("OUT_DIR"), "/stream.ptx"));
    /// The number of threads of a block, as stream.cu has it.
    const THREADS: u32 = 256;
    /// The number of tiles of a buffer; a tile has 256 * 4 vectors of 16 bytes.
    const TILES: u32 = (BYTES / (256 * 4 * 16)) as u32;

    impl Streams for Cuda {
        fn loops(&self) -> Vec<(&'static str, Box<dyn Loops<Self> + '_>)> {
            if PTX.is_empty() {
                eprintln!("no plain loops on a CUDA device: built without nvcc");
                return vec![];
            }
            let loops = |is_looping| OnCuda::new(self, is_looping);
            match [loops(true), loops(false)] {
                [Ok(looping), Ok(tiles)] => {
                    let looping: Box<dyn Loops<Self> + '_> = Box::new(looping);
                    let tiles: Box<dyn Loops<Self> + '_> = Box::new(tiles);
                    vec![("", looping), (" tiles", tiles)]
                }
                [Err(error), _] | [_, Err(error)] => {
                    eprintln!("no plain loops on a CUDA device: {error:?}");
                    vec![]
                }
            }
        }
    }

    /// The kernels, and the sums that a read leaves, one for each block.
    struct OnCuda<'a> {
        cuda: &'a Cuda,
        read: Kernel,
        write: Kernel,
        copy: Kernel,
        sums: <Cuda as Device>::Buffer<u32>,
    }

    /// A kernel and the number of blocks of its grid.
    struct Kernel {
        function: sys::CUfunction,
        blocks: u32,
    }

    impl<'a> OnCuda<'a> {
        /// Loads the kernels, which stay loaded until the program ends. With `is_looping` their
        /// grids have as many blocks as run at once, else one for each tile.
        fn new(cuda: &'a Cuda, is_looping: bool) -> Result<Self, DriverError> {
            // The allocation binds the context, too.
            let sums = cuda.alloc(TILES as usize).unwrap();
            let text = [PTX.as_bytes(), &[0]].concat();
            // SAFETY: the context is bound, and the text is PTX that ends with a zero byte.
            let module = unsafe { result::module::load_data(text.as_ptr().cast())? };
            let kernel = |name: &CStr| -> Result<Kernel, DriverError> {
                // SAFETY: the module stays loaded. The driver has the device, since `cuda` exists.
                unsafe {
                    let function = result::module::get_function(module, name.to_owned())?;
                    let blocks = if is_looping {
                        let of_each = result::occupancy::max_active_block_per_multiprocessor(
                            function,
                            THREADS as i32,
                            0,
                        )?;
                        let count =
                            sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT;
                        of_each * result::device::get_attribute(result::device::get(0)?, count)?
                    } else {
                        TILES as i32
                    };
                    Ok(Kernel { function, blocks: blocks as u32 })
                }
            };
            Ok(Self {
                cuda,
                read: kernel(c"stream_read")?,
                write: kernel(c"stream_write")?,
                copy: kernel(c"stream_copy")?,
                sums,
            })
        }

        /// Launches a kernel, whose parameters are addresses and then the number of tiles.
        ///
        /// # Safety
        /// The addresses must be those of buffers that the kernel may access.
        unsafe fn launch<const N: usize>(&self, kernel: &Kernel, mut addresses: [u64; N]) {
            let mut tiles = u64::from(TILES);
            let mut parameters: Vec<*mut c_void> =
                addresses.iter_mut().map(|address| (&raw mut *address).cast()).collect();
            parameters.push((&raw mut tiles).cast());
            let (blocks, threads) = ((kernel.blocks, 1, 1), (THREADS, 1, 1));
            let stream: sys::CUstream = self.cuda.stream().cast();
            // SAFETY: the driver copies the parameters, which are those of the kernel, before the
            // call returns. The caller vouches for the buffers.
            unsafe {
                result::launch_kernel(kernel.function, blocks, threads, 0, stream, &mut parameters)
            }
            .unwrap();
        }
    }

    impl Loops<Cuda> for OnCuda<'_> {
        fn read(&mut self, from: &<Cuda as Device>::Buffer<u32>) {
            let addresses = [Cuda::view(from).pointer(), Cuda::view_mut(&mut self.sums).pointer()];
            // SAFETY: the first buffer has all tiles, the second one a word for each block.
            unsafe { self.launch(&self.read, addresses) }
        }

        fn write(&mut self, to: &mut <Cuda as Device>::Buffer<u32>) {
            // SAFETY: the buffer has all tiles and is borrowed exclusively.
            unsafe { self.launch(&self.write, [Cuda::view_mut(to).pointer()]) }
        }

        fn copy(
            &mut self,
            from: &<Cuda as Device>::Buffer<u32>,
            to: &mut <Cuda as Device>::Buffer<u32>,
        ) {
            let addresses = [Cuda::view(from).pointer(), Cuda::view_mut(to).pointer()];
            // SAFETY: both buffers have all tiles, and the second one is borrowed exclusively.
            unsafe { self.launch(&self.copy, addresses) }
        }

        fn sum(&self) -> u32 {
            self.cuda.to_vec(&self.sums).unwrap().into_iter().fold(0, u32::wrapping_add)
        }

        fn word(&self, at: usize) -> u32 {
            let x = (at as u32 / 4).wrapping_mul(0x9e37_79b9);
            [x, x ^ x >> 15, x.wrapping_add(0x7f4a_7c15), !x][at % 4]
        }
    }
}

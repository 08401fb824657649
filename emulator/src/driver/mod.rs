//! The stand-in driver: the part of the CUDA driver API that cudarc calls, on emulated devices. Its
//! library is loaded in the place of libcuda.so by [`install`](crate::install). `cublaslt` and
//! `product` are what it has of cuBLASLt.
//!
//! It behaves as a driver does, on purpose also where that is unpleasant: work is done late, errors
//! of kernels come at the next wait and stay, captures refuse what they refuse. It differs in
//! these: there is no registers' file, so no launch fails for too many of them; memory that a
//! capture allocates is allocated at once, and freeing it in the graph does nothing; copies out of
//! pageable memory that are captured read the memory at each replay; freeing pinned memory waits
//! for all work; managed memory, 2D copies, textures and other processes' memory are not there.

mod capture;
mod code;
mod context;
mod control;
mod cublaslt;
mod graph;
mod host;
mod launch;
mod memory;
mod occupancy;
mod pinned;
mod pool;
mod product;
mod refused;
mod state;
mod stream;
mod work;

pub(crate) use control::Setting;

/// Defines functions of the driver API: their bodies answer with a `Result`.
macro_rules! api {
    ($(fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $body:block)*) => {$(
        #[unsafe(no_mangle)]
        extern "C" fn $name($($arg: $ty),*) -> i32 {
            $crate::driver::state::count_call(stringify!($name));
            let body = || -> $crate::driver::code::Result<()> { $body };
            $crate::driver::code::answer(body())
        }
    )*};
}
pub(crate) use api;

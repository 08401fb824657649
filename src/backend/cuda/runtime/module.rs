//! Modules: kernel files that are loaded into a context, and the kernels in them.

use std::ffi::CString;
use std::sync::Arc;

use cudarc::driver::{CudaContext, result, sys};

use super::driver::{Quiet, bind, capability, check, driver_version};
use super::images;
use super::launch::{Function, Kernel};
use crate::dtype::{DType, Element, Index};
use crate::error::{Error, Result};

/// The instances of a kernel for every storage type with every type of ids.
#[derive(Debug)]
pub(crate) struct ByTypes<K: Kernel>([[Function<K>; 2]; 3]);

impl<K: Kernel> ByTypes<K> {
    /// Returns the instance for tables of `E` and ids of `I`.
    pub(crate) fn of<E: Element, I: Index>(&self) -> Function<K> {
        self.0[element_number::<E>()][usize::from(size_of::<I>() == 8)]
    }
}

/// The instances of a kernel for every pair of storage types.
#[derive(Debug)]
pub(crate) struct ByPair<K: Kernel>([ByElement<K>; 3]);

impl<K: Kernel> ByPair<K> {
    /// Returns the instance that reads elements of `A` and writes elements of `B`.
    pub(crate) fn of<A: Element, B: Element>(&self) -> Function<K> {
        self.0[element_number::<A>()].of::<B>()
    }
}

/// The instances of a kernel for every storage type.
#[derive(Debug)]
pub(crate) struct ByElement<K: Kernel>([Function<K>; 3]);

impl<K: Kernel> ByElement<K> {
    /// Returns the instance for elements of `E`.
    pub(crate) fn of<E: Element>(&self) -> Function<K> {
        self.0[element_number::<E>()]
    }

    /// Returns all instances.
    pub(crate) fn all(&self) -> [Function<K>; 3] {
        self.0
    }
}

/// The instances of a kernel for types of 32 and of 64 bits.
#[derive(Debug)]
pub(crate) struct ByWidth<K: Kernel>([Function<K>; 2]);

impl<K: Kernel> ByWidth<K> {
    /// Returns the instance for ids or keys of `T`.
    pub(crate) fn of<T>(&self) -> Function<K> {
        self.0[usize::from(size_of::<T>() == 8)]
    }
}

/// The storage types as the names of kernels spell them, in the order of [`element_number`].
const ELEMENTS: [&str; 3] = ["f32", "f16", "bf16"];

fn element_number<E: Element>() -> usize {
    match E::DTYPE {
        DType::F32 => 0,
        DType::F16 => 1,
        DType::BF16 => 2,
    }
}

/// A loaded kernel file. The owner of its functions must keep it too, since dropping it unloads
/// them.
#[derive(Debug)]
pub(crate) struct Module {
    stem: &'static str,
    module: sys::CUmodule,
    context: Quiet<Arc<CudaContext>>,
}

// SAFETY: a module is a handle of the driver, which may be used from any thread with the context
// bound.
unsafe impl Send for Module {}
// SAFETY: as above; a shared reference changes nothing.
unsafe impl Sync for Module {}

impl Module {
    /// Loads the best image of `kernels/{stem}.cu` that the context's device takes and that the
    /// driver can load. The context must be bound. If the device refuses a cubin, as an emulator
    /// does, tries the next best image.
    ///
    /// # Errors
    /// Propagates errors of [`images::candidates`] and of the last image that was tried.
    pub(crate) fn load(context: &Arc<CudaContext>, stem: &'static str) -> Result<Self> {
        let capability = capability(context)?;
        let mut refusal = Err(Error::NoKernelImage { capability });
        for image in images::candidates(stem, capability, driver_version()?)? {
            // PTX must end with a zero byte; a cubin may.
            let bytes = [image.bytes, &[0]].concat();
            // SAFETY: the bytes are a whole image, as the build made it. The driver copies them.
            match unsafe { result::module::load_data(bytes.as_ptr().cast()) } {
                Ok(module) => {
                    return Ok(Self { stem, module, context: Quiet::new(Arc::clone(context)) });
                }
                Err(error) => refusal = check("load a kernel image", Err(error)),
            }
        }
        refusal
    }

    /// Finds the kernel `K`, which has one instance.
    pub(crate) fn function<K: Kernel>(&self) -> Result<Function<K>> {
        self.instance("")
    }

    /// Finds the instance of a kernel whose name ends in `suffix`.
    pub(crate) fn instance<K: Kernel>(&self, suffix: &str) -> Result<Function<K>> {
        debug_assert_eq!(self.stem, K::STEM, "{} is in another kernel file", K::NAME);
        let symbol = CString::new([K::NAME, suffix].concat()).unwrap_or_default();
        // SAFETY: the module is loaded, and stays loaded as long as its owner keeps it.
        let found = unsafe { result::module::get_function(self.module, symbol) };
        Ok(Function::new(check("find a kernel", found)?))
    }

    /// Finds the instances of a kernel for every storage type. Their names end in `suffix` and the
    /// type.
    pub(crate) fn by_element<K: Kernel>(&self, suffix: &str) -> Result<ByElement<K>> {
        let [f32, f16, bf16] =
            ELEMENTS.map(|element| self.instance(&format!("{suffix}_{element}")));
        Ok(ByElement([f32?, f16?, bf16?]))
    }

    /// Finds the instances of a kernel for every pair of storage types.
    pub(crate) fn by_pair<K: Kernel>(&self) -> Result<ByPair<K>> {
        let [f32, f16, bf16] = ELEMENTS.map(|from| self.by_element(&format!("_{from}")));
        Ok(ByPair([f32?, f16?, bf16?]))
    }

    /// Finds the instances of a kernel for two types, of 32 and of 64 bits. Their names end in
    /// `suffix` and the type.
    pub(crate) fn by_width<K: Kernel>(&self, suffix: &str, types: [&str; 2]) -> Result<ByWidth<K>> {
        let [narrow, wide] = types.map(|width| self.instance(&format!("{suffix}_{width}")));
        Ok(ByWidth([narrow?, wide?]))
    }

    /// Finds the instances of a kernel for every storage type with every type of ids.
    pub(crate) fn by_types<K: Kernel>(&self) -> Result<ByTypes<K>> {
        let of_element = |element: &str| {
            let ByWidth(functions) = self.by_width(&format!("_{element}"), ["i32", "i64"])?;
            Ok(functions)
        };
        let [f32, f16, bf16] = ELEMENTS.map(of_element);
        Ok(ByTypes([f32?, f16?, bf16?]))
    }

    /// Sets the limit of a kernel's dynamic shared memory to `bytes`, as a device requires beyond
    /// 48 KB.
    pub(crate) fn allow_shared<K: Kernel>(&self, function: Function<K>, bytes: u32) -> Result<()> {
        let attribute = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        // SAFETY: the function belongs to this module, which is loaded.
        let set = unsafe {
            result::function::set_function_attribute(function.handle(), attribute, bytes as i32)
        };
        check("ask for shared memory", set)
    }

    /// Returns the number of blocks of `threads` threads, without dynamic shared memory, that run
    /// on the device at the same time.
    pub(crate) fn blocks_at_once<K: Kernel>(
        &self,
        function: Function<K>,
        threads: usize,
    ) -> Result<usize> {
        let mut blocks = 0;
        // SAFETY: the function belongs to this module, which is loaded. The driver writes the count
        // before the call returns.
        let asked = unsafe {
            sys::cuOccupancyMaxActiveBlocksPerMultiprocessor(
                &mut blocks,
                function.handle(),
                threads as i32,
                0,
            )
        };
        check("ask for the occupancy of a kernel", asked.result())?;
        let attribute = sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT;
        let multiprocessors = check("ask for an attribute", self.context.attribute(attribute))?;
        Ok((blocks * multiprocessors).max(1) as usize)
    }
}

impl Drop for Module {
    fn drop(&mut self) {
        if let Ok(_bound) = bind(&self.context) {
            // SAFETY: `load` loaded the module, and nothing else unloads it. Functions of it have
            // the same owner and end with it.
            let _ = unsafe { result::module::unload(self.module) };
        }
    }
}

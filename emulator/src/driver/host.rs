//! The host's memory and functions, which the driver is given as bare pointers.

use std::ffi::{CStr, c_char, c_int, c_void};

use super::code::{Code, Result};

/// Writes a result through a pointer of the caller.
pub(super) fn put<T>(to: *mut T, value: T) -> Result<()> {
    if to.is_null() {
        return Err(Code::ERROR_INVALID_VALUE);
    }
    // SAFETY: only this crate's C functions come here, with a pointer that they were given for
    // their answer. By the driver API's contract it is null, which was excluded, or points to room
    // for one value of the type in the function's signature.
    unsafe { to.write(value) };
    Ok(())
}

/// Returns a copy of bytes of the caller.
pub(super) fn bytes_at(from: *const c_void, count: usize) -> Result<Vec<u8>> {
    if count == 0 {
        return Ok(vec![]);
    }
    if from.is_null() {
        return Err(Code::ERROR_INVALID_VALUE);
    }
    // SAFETY: by the contract of the copy or launch that names this pointer, `count` bytes can be
    // read there until the work is done, and nobody writes them meanwhile; a copy out of pageable
    // memory is made before the call returns.
    Ok(unsafe { std::slice::from_raw_parts(from.cast::<u8>(), count) }.to_vec())
}

/// Writes bytes to memory of the caller.
pub(super) fn write_bytes(to: *mut c_void, bytes: &[u8]) -> Result<()> {
    if bytes.is_empty() {
        return Ok(());
    }
    if to.is_null() {
        return Err(Code::ERROR_INVALID_VALUE);
    }
    // SAFETY: by the contract of the copy that names this pointer, as many bytes can be written
    // there until the work is done, and nobody else accesses them meanwhile. They cannot overlap
    // `bytes`, which this crate has just allocated.
    unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to.cast::<u8>(), bytes.len()) };
    Ok(())
}

/// Returns a pointer from the array of a launch's parameters.
pub(super) fn pointer_at(array: *const *const c_void, index: usize) -> Result<*const c_void> {
    if array.is_null() {
        return Err(Code::ERROR_INVALID_VALUE);
    }
    // SAFETY: by cuLaunchKernel's contract the array has one pointer for each parameter, and the
    // callers ask for those only.
    Ok(unsafe { array.add(index).read() })
}

/// Returns the number that a pointer of the caller points to.
pub(super) fn int_at(from: *const c_int) -> Result<c_int> {
    if from.is_null() {
        return Err(Code::ERROR_INVALID_VALUE);
    }
    // SAFETY: only cuThreadExchangeStreamCaptureMode comes here, by whose contract there is an int.
    Ok(unsafe { from.read() })
}

/// Returns a copy of a text of the caller.
pub(super) fn text_at(from: *const c_char) -> Result<Vec<u8>> {
    if from.is_null() {
        return Err(Code::ERROR_INVALID_VALUE);
    }
    // SAFETY: by the contract of the functions that take a name, a path or a PTX module, it is a
    // text that ends with a zero byte.
    Ok(unsafe { CStr::from_ptr(from) }.to_bytes().to_vec())
}

/// Returns the first four bytes of an image, which need not be a text.
pub(super) fn magic_at(image: *const c_void) -> Result<[u8; 4]> {
    let mut magic = [0; 4];
    for (k, byte) in magic.iter_mut().enumerate() {
        // Bytes after the end of a text must not be read.
        *byte = bytes_at(image.wrapping_byte_add(k), 1)?[0];
        if *byte == 0 {
            break;
        }
    }
    Ok(magic)
}

/// Allocates memory for cuMemHostAlloc.
pub(super) fn allocate(bytes: usize) -> Option<(*mut c_void, std::alloc::Layout)> {
    let layout = std::alloc::Layout::from_size_align(bytes.max(1), 4096).ok()?;
    // SAFETY: the layout's size is not zero.
    let pointer = unsafe { std::alloc::alloc_zeroed(layout) };
    (!pointer.is_null()).then(|| (pointer.cast(), layout))
}

/// Frees memory of [`allocate`].
pub(super) fn deallocate(pointer: *mut c_void, layout: std::alloc::Layout) {
    // SAFETY: the driver calls this once for each pointer of `allocate` that is on its list, with
    // the layout that stands beside it, after all work that could name it.
    unsafe { std::alloc::dealloc(pointer.cast(), layout) };
}

/// Calls a function of the host, for cuLaunchHostFunc.
pub(super) fn call(function: extern "C" fn(*mut c_void), data: *mut c_void) {
    function(data);
}

/// Copies a text into a buffer of `room` bytes, with a zero at its end; a text that does not fit is
/// cut. Returns the bytes that the whole text needs.
pub(super) fn put_text(to: *mut c_char, room: usize, text: &str) -> usize {
    if room > 0 && !to.is_null() {
        let mut bytes = text.as_bytes()[..text.len().min(room - 1)].to_vec();
        bytes.push(0);
        // This cannot fail: the buffer is not null.
        _ = write_bytes(to.cast(), &bytes);
    }
    text.len() + 1
}

/// Returns a count that the API passes as an int.
pub(super) fn size(count: c_int) -> usize {
    count.max(0) as usize
}

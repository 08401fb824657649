//! The one call to the system about memory: huge pages. At random rows of large tables a look-up of
//! a small page's address costs as much as the row.

use std::mem::MaybeUninit;

/// Asks for huge pages behind memory that is not in use yet. Nothing happens where there are none,
/// or where it is small.
pub(crate) fn advise<T>(memory: &mut [MaybeUninit<T>]) {
    #[cfg(target_os = "linux")]
    {
        /// What x86-64 and most others have.
        const HUGE_PAGE: usize = 2 << 20;
        let start = memory.as_mut_ptr();
        let skipped = start.cast::<u8>().align_offset(HUGE_PAGE);
        let whole = size_of_val(memory).saturating_sub(skipped) / HUGE_PAGE * HUGE_PAGE;
        if whole > 0 {
            let start = start.wrapping_byte_add(skipped);
            // SAFETY: `start` is aligned to pages, and the `whole` bytes from it on lie within
            // `memory`, which is borrowed exclusively. The advice changes no contents, only how the
            // system will back them.
            unsafe { libc::madvise(start.cast(), whole, libc::MADV_HUGEPAGE) };
        }
    }
    #[cfg(not(target_os = "linux"))]
    let _ = memory;
}

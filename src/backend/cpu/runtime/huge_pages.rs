//! Huge pages. At random rows of large tables, the page-table walk of a small page costs as much as
//! the row.

use std::mem::MaybeUninit;

/// Advises the system to use huge pages for memory that has not been touched yet. It does nothing
/// on other systems than Linux, or if the memory is smaller than a huge page.
pub(crate) fn advise<T>(memory: &mut [MaybeUninit<T>]) {
    #[cfg(target_os = "linux")]
    {
        /// The bytes of a huge page on x86-64 and most other machines.
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

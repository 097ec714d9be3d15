//! Giving memory back that was needed for a moment only.

/// Gives the kernel back what this thread's allocations have left free. glibc keeps it otherwise:
/// a large document's routes leave holes all over the heap.
///
/// It looks at the whole heap, so it is for after large things.
pub(crate) fn give_back() {
    // SAFETY: it takes no pointer and touches only memory that the allocator has free, under the
    // allocator's own locks.
    unsafe {
        nix::libc::malloc_trim(0);
    }
}

//! The allocator of the process: mimalloc, since each worker frees what it allocated, which it does without locks.
//!
//! The crate of that name asks for every allocation's alignment, though nearly all are content with that of a word, which
//! mimalloc gives to all. Asking makes allocations above 1 KiB, such as the future of a request, take a slow path; they
//! cost three times as many instructions.

use std::alloc::{GlobalAlloc, Layout};
use std::ffi::c_void;

use libmimalloc_sys::{
    mi_free, mi_malloc, mi_malloc_aligned, mi_realloc, mi_realloc_aligned, mi_zalloc, mi_zalloc_aligned,
};

/// mimalloc.
pub(crate) struct Allocator;

fn is_natural(layout: Layout) -> bool {
    layout.align() <= size_of::<usize>()
}

// SAFETY: mimalloc keeps the contract of malloc, its blocks are aligned to a word at least, and to more where it is
// asked for; what comes from any of its functions may be passed to any other.
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: neither has a precondition beyond a valid layout.
        let block = unsafe {
            if is_natural(layout) { mi_malloc(layout.size()) } else { mi_malloc_aligned(layout.size(), layout.align()) }
        };
        block.cast()
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as above.
        let block = unsafe {
            if is_natural(layout) { mi_zalloc(layout.size()) } else { mi_zalloc_aligned(layout.size(), layout.align()) }
        };
        block.cast()
    }

    unsafe fn dealloc(&self, block: *mut u8, _layout: Layout) {
        // SAFETY: the caller's `block` came from this allocator.
        unsafe { mi_free(block.cast()) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        let block = block.cast::<c_void>();
        // SAFETY: the caller's `block` came from this allocator.
        let block = unsafe {
            if is_natural(layout) { mi_realloc(block, size) } else { mi_realloc_aligned(block, size, layout.align()) }
        };
        block.cast()
    }
}

//! A test instrument: counts heap allocations of the calling thread, for tests that prove that a
//! path allocates nothing, or how much a thing weighs.
//!
//! A program that measures makes [`CountingAllocator`] its global allocator; this crate's own unit
//! tests do. Nothing is counted without it.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

/// The system's allocator, with a count for each thread.
#[derive(Clone, Copy, Debug, Default)]
pub struct CountingAllocator;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
    /// Bytes allocated less bytes freed; what one thread allocates and another frees is counted
    /// with both.
    static BYTES: Cell<i64> = const { Cell::new(0) };
}

#[cfg(test)]
#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

// The thread-locals have no destructor, so they can be reached as long as the thread runs.

fn count_allocation(bytes: usize) {
    ALLOCATIONS.with(|allocations| allocations.set(allocations.get() + 1));
    BYTES.with(|held| held.set(held.get().wrapping_add(bytes as i64)));
}

fn count_release(bytes: usize) {
    BYTES.with(|held| held.set(held.get().wrapping_sub(bytes as i64)));
}

// SAFETY: every call is passed on unchanged to the system allocator, whose contract is the same.
unsafe impl GlobalAlloc for CountingAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count_allocation(layout.size());
        // SAFETY: the caller's promise about `layout` is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count_allocation(layout.size());
        // SAFETY: the caller's promise about `layout` is passed on.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, len: usize) -> *mut u8 {
        count_release(layout.size());
        count_allocation(len);
        // SAFETY: the caller's promises about `memory`, `layout` and `len` are passed on.
        unsafe { System.realloc(memory, layout, len) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        count_release(layout.size());
        // SAFETY: the caller's promises about `memory` and `layout` are passed on.
        unsafe { System.dealloc(memory, layout) }
    }
}

/// How often the calling thread allocates while it runs `work`.
pub fn allocations_in(work: impl FnOnce()) -> u64 {
    let before = ALLOCATIONS.with(Cell::get);
    work();
    ALLOCATIONS.with(Cell::get) - before
}

/// How many bytes more the calling thread holds after `work` than before, as it asked for them;
/// what the allocator adds is not known.
pub fn bytes_kept_by(work: impl FnOnce()) -> i64 {
    let before = BYTES.with(Cell::get);
    work();
    BYTES.with(Cell::get).wrapping_sub(before)
}

#[cfg(test)]
mod tests {
    use std::hint::black_box;

    use super::{allocations_in, bytes_kept_by};

    #[test]
    fn an_allocation_is_counted_and_arithmetic_is_not() {
        assert_eq!(allocations_in(|| drop(black_box(vec![0_u8; 100]))), 1);
        assert_eq!(allocations_in(|| assert_eq!(black_box(1) + 1, 2)), 0);
    }

    #[test]
    fn what_is_kept_weighs_what_it_asked_for() {
        let mut kept = Vec::new();
        assert_eq!(bytes_kept_by(|| kept.reserve_exact(100)), 100);
        assert_eq!(bytes_kept_by(|| kept.extend([0_u8; 100])), 0);
        assert_eq!(bytes_kept_by(|| kept.reserve_exact(1000)), 1000);
        assert_eq!(bytes_kept_by(|| drop(kept)), -1100);
        assert_eq!(bytes_kept_by(|| drop(black_box(vec![0_u8; 100]))), 0);
    }
}

//! Memory that weighs only what has been touched.
//!
//! A worker's buffers are sized for the worst case and mostly stay empty. A `Vec` of zeros is
//! usually as light, but after big allocations have come and gone the allocator may hand out
//! memory that is already resident and clear it by hand, all of it. A mapping never is.

use std::alloc::{Layout, handle_alloc_error};
use std::ops::{Deref, DerefMut};
use std::ptr::{self, NonNull};
use std::slice;

/// Zeroed bytes in a private mapping of their own, aligned to a page.
#[derive(Debug)]
pub struct Arena {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: the mapping belongs to the arena alone, like the memory of a `Box<[u8]>`.
unsafe impl Send for Arena {}
// SAFETY: a shared arena can only be read, like a `Box<[u8]>`.
unsafe impl Sync for Arena {}

impl Arena {
    /// `len` zero bytes, none of them resident yet.
    ///
    /// # Panics
    /// Like every allocation, ends the process if the kernel has no address space left.
    #[must_use]
    pub fn new(len: usize) -> Self {
        // SAFETY: a fresh anonymous mapping at an address of the kernel's choice touches nothing
        // that exists.
        let start = unsafe {
            libc::mmap(
                ptr::null_mut(),
                Self::mapped_len(len),
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        match NonNull::new(start.cast::<u8>()) {
            Some(start) if start.as_ptr().cast() != libc::MAP_FAILED => Self { start, len },
            _ => handle_alloc_error(Layout::array::<u8>(len).unwrap_or(Layout::new::<u8>())),
        }
    }

    /// An empty mapping cannot be made.
    fn mapped_len(len: usize) -> usize {
        len.max(1)
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        // SAFETY: the mapping was made by `new` with this length, and no borrow of it is left.
        unsafe { libc::munmap(self.start.as_ptr().cast(), Self::mapped_len(self.len)) };
    }
}

impl Deref for Arena {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        // SAFETY: `len` mapped and initialised bytes start there, borrowed as long as `self` is.
        unsafe { slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl DerefMut for Arena {
    #[inline]
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: `len` mapped and initialised bytes start there, borrowed mutably as `self` is.
        unsafe { slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

/// Pages of the arena that are resident.
#[cfg(test)]
pub(crate) fn resident_pages(arena: &Arena) -> usize {
    // SAFETY: sysconf only reads.
    let page_len = usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap();
    let mut resident = vec![0_u8; arena.len.div_ceil(page_len)];
    // SAFETY: the range is a live mapping, and `resident` has a byte for each page of it.
    let result =
        unsafe { libc::mincore(arena.start.as_ptr().cast(), arena.len, resident.as_mut_ptr()) };
    assert_eq!(result, 0);
    resident.iter().filter(|&page| page & 1 != 0).count()
}

#[cfg(test)]
mod tests {
    use super::{Arena, resident_pages};

    #[test]
    fn an_arena_is_zero_and_becomes_resident_where_it_is_touched() {
        let mut arena = Arena::new(100 * 4096 + 1);
        assert_eq!((arena.len(), resident_pages(&arena)), (100 * 4096 + 1, 0));
        arena[50 * 4096] = 1;
        arena[100 * 4096] = 2;
        assert_eq!(resident_pages(&arena), 2);
        assert_eq!(arena.iter().map(|&byte| u64::from(byte)).sum::<u64>(), 3);
    }

    #[test]
    fn an_arena_may_be_empty_and_move_between_threads() {
        assert!(Arena::new(0).is_empty());
        let mut arena = Arena::new(10);
        let arena = std::thread::spawn(move || {
            arena.fill(7);
            arena
        });
        assert_eq!(arena.join().unwrap()[..], [7; 10]);
    }
}

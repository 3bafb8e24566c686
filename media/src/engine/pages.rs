//! Memory that the kernel reads and writes while we do other things: mapped, on page boundaries, never moved.

#![allow(unsafe_code, reason = "memory that is shared with the kernel")]

use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};

/// Zeroed memory; a page of it takes room when it is first touched.
#[derive(Debug)]
pub(super) struct Pages {
    start: NonNull<u8>,
    length: usize,
}

// SAFETY: the memory belongs to this value alone and is reached through it only; no thread is tied to it.
unsafe impl Send for Pages {}

impl Pages {
    pub(super) fn map(length: usize) -> io::Result<Self> {
        let (protection, kind) =
            (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: without an address and a descriptor mmap changes nothing that exists; its result is checked.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), length, protection, kind, -1, 0) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { start, length })
    }

    /// Where the byte at `offset` lies, for the kernel. It stays there for as long as `self` lives.
    pub(super) fn address(&self, offset: usize) -> *mut u8 {
        // Only an offset that lies inside is ever passed; another one must not become an address.
        debug_assert!(offset < self.length);
        self.start.as_ptr().wrapping_add(offset)
    }

    /// Bytes that the kernel has nothing to do with now; empty when they do not lie inside.
    #[inline]
    pub(super) fn bytes(&mut self, offset: usize, length: usize) -> &mut [u8] {
        if offset.checked_add(length).is_none_or(|end| end > self.length) {
            return &mut [];
        }
        // SAFETY: the bytes lie inside the mapping, which lives as long as `self`, are initialised (zero when mapped),
        // and are borrowed by nobody else, because `self` is borrowed mutably for as long. That the kernel is done with
        // them is what the caller keeps account of: see `ring`.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr().add(offset), length) }
    }

    /// Tells the kernel a number at `offset`, after everything that was written before.
    pub(super) fn publish(&mut self, offset: usize, value: u16) {
        if !offset.is_multiple_of(2) || offset.checked_add(2).is_none_or(|end| end > self.length) {
            return;
        }
        // SAFETY: the two bytes lie inside the mapping and on their alignment, and are only ever used as an atomic
        // number, by us and by the kernel.
        let place = unsafe { AtomicU16::from_ptr(self.start.as_ptr().add(offset).cast()) };
        place.store(value, Ordering::Release);
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: this is the mapping that `map` made, and nothing borrows from it any more.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.length) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_lie_inside_is_empty() {
        let mut pages = Pages::map(4096).unwrap();
        assert_eq!(pages.bytes(4090, 6), [0; 6]);
        assert_eq!(pages.bytes(4090, 7), []);
        assert_eq!(pages.bytes(usize::MAX, 7), []);
        pages.bytes(0, 4).copy_from_slice(b"here");
        pages.publish(2, u16::from_ne_bytes(*b"xy"));
        pages.publish(4096, 7);
        pages.publish(3, 7);
        assert_eq!(pages.bytes(0, 5), b"hexy\0");
    }
}

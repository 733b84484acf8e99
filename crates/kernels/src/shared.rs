//! One buffer, written by several threads in disjoint parts.

use std::marker::PhantomData;

/// A borrowed buffer whose parts can be handed to several threads.
#[derive(Clone, Copy)]
pub(crate) struct Shared<'a> {
    start: *mut f32,
    len: usize,
    _borrow: PhantomData<&'a mut [f32]>,
}

// SAFETY: `slice` asks its callers for disjoint parts.
unsafe impl Send for Shared<'_> {}
// SAFETY: as above.
unsafe impl Sync for Shared<'_> {}

impl<'a> Shared<'a> {
    pub(crate) fn new(buffer: &'a mut [f32]) -> Self {
        Self { start: buffer.as_mut_ptr(), len: buffer.len(), _borrow: PhantomData }
    }

    /// The `len` elements from `at` on.
    ///
    /// # Safety
    /// Parts that are alive at the same time must not overlap.
    #[inline(always)]
    pub(crate) unsafe fn slice(&self, at: usize, len: usize) -> &'a mut [f32] {
        assert!(at <= self.len && len <= self.len - at, "{len} elements at {at} of {}", self.len);
        // SAFETY: in bounds, and nobody else has this part.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(at), len) }
    }
}

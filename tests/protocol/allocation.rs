//! How many bytes a test's own thread holds, to show what does not grow.

#![expect(
    unsafe_code,
    reason = "an allocator that counts has to implement GlobalAlloc"
)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

#[global_allocator]
static COUNTING: Counting = Counting;

thread_local! {
    static HELD: Cell<usize> = const { Cell::new(0) };
}

/// Bytes that this thread has taken and not given back, give or take those handed between threads.
pub(crate) fn held() -> usize {
    HELD.get()
}

struct Counting;

fn count(taken: usize, given_back: usize) {
    // A thread that is ending has nothing to count with any more, and nobody asks it.
    let _ = HELD.try_with(|held| held.set(held.get().wrapping_add(taken).wrapping_sub(given_back)));
}

// SAFETY: every call is passed on to the system's allocator as it is; counting touches no memory
// that either of them owns.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size(), 0);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(0, layout.size());
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size, layout.size());
        // SAFETY: the caller's promises are passed on.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

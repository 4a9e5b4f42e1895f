//! An allocator for tests that refuses memory to one thread when it is told to.
#![expect(unsafe_code, reason = "an allocator is unsafe to implement")]

extern crate std;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::thread_local;

/// The most bytes that [`alloc::sync::Arc`] allocates at once for the index: the head of a block of a table.
const HEAD_LEN_MAX: usize = 528;

thread_local! {
    static IS_REFUSED: Cell<bool> = const { Cell::new(false) };
}

struct Refusing;

#[global_allocator]
static ALLOCATOR: Refusing = Refusing;

// SAFETY: every call goes to the system's allocator as it came, or returns null, which means that there is no memory.
unsafe impl GlobalAlloc for Refusing {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if layout.size() > HEAD_LEN_MAX && IS_REFUSED.get() {
            return core::ptr::null_mut();
        }
        // SAFETY: what is asked of this allocator may be asked of that one.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: it came from there, with this layout.
        unsafe { System.dealloc(memory, layout) }
    }
}

/// Gives memory again, also after a panic.
struct Refusal;

impl Drop for Refusal {
    fn drop(&mut self) {
        IS_REFUSED.set(false);
    }
}

/// Runs `act` while this thread gets no memory but for heads of nodes.
pub(super) fn without_memory<T>(act: impl FnOnce() -> T) -> T {
    let _refusal = Refusal;
    IS_REFUSED.set(true);
    act()
}

//! An allocator that shows that nothing is allocated between ARMED and thawed (N8): with it, a process
//! that allocates behind its seccomp filter ends at once, which its supervisor reports.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// Set in the thaw process only.
pub(crate) static STRICT: AtomicBool = AtomicBool::new(false);

pub(crate) struct Allocator;

// SAFETY: the system's allocator does the work.
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: no memory is passed. The filter refuses this call, too.
        if STRICT.load(Relaxed) && unsafe { libc::prctl(libc::PR_GET_SECCOMP) } < 0 {
            // SAFETY: does not return.
            unsafe { libc::_exit(99) }
        }
        // SAFETY: as the caller has promised.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: as the caller has promised.
        unsafe { System.dealloc(memory, layout) }
    }
}

/// The thaw process with this allocator.
pub(crate) fn be_a_thaw_process(socket: &str) {
    STRICT.store(true, Relaxed);
    azdr_thawd::run(socket.as_ref()).unwrap();
}

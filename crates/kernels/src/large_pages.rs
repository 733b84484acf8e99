//! Pages of 2 MiB for weights, where the system gives them to those who ask: fewer faults while a model loads, fewer misses while it runs.

use std::mem::MaybeUninit;

/// Asks for large pages inside `memory`, which was reserved and not touched yet. Nothing is lost where there are none.
pub(crate) fn advise<T>(memory: &mut [MaybeUninit<T>]) {
    #[cfg(target_os = "linux")]
    {
        /// On every architecture that Coffer runs on, with pages of 4 KiB.
        const LARGE: usize = 2 << 20;
        let range = memory.as_mut_ptr_range();
        let begin = range.start.addr().next_multiple_of(LARGE);
        let end = range.end.addr() / LARGE * LARGE;
        if let Some(len) = end.checked_sub(begin).filter(|len| *len > 0) {
            let begin = range.start.with_addr(begin).cast();
            // SAFETY: the range lies inside `memory`; the advice changes what pages hold it, not what it holds.
            let _ = unsafe { rustix::mm::madvise(begin, len, rustix::mm::Advice::LinuxHugepage) };
        }
    }
    #[cfg(not(target_os = "linux"))]
    let _ = memory;
}

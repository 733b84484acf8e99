//! What a process that holds keys or plaintext does to keep them off the disk: no core dump, no swap.

use nix::sys::{
    mman::{MlockAllFlags, mlockall},
    prctl,
    resource::{RLIM_INFINITY, Resource, getrlimit, setrlimit},
    signal::Signal,
};

/// This program, whatever happened to its file.
pub(crate) const THIS_PROGRAM: &str = "/proc/self/exe";

/// Lock pages as they are touched (Linux 4.4); nix has no name for it.
const MCL_ONFAULT: i32 = 4;

/// No core dump of this process nor of those that it starts, and no page of it in swap where the system allows to lock so much.
/// Where it does not, `seal` locks the pages of the keys.
pub(crate) fn protect() {
    // Each step that the system refuses is one that `coffer doctor` shows; the others still help.
    let _ = prctl::set_dumpable(false);
    // Not 0: a limit of 1 is below the smallest dump, and the one value with which the kernel does not start the program of a
    // `|` core pattern either (core(5); fs/coredump.c).
    let _ = setrlimit(Resource::RLIMIT_CORE, 1, 1);
    // Without a limit only: below one, a later allocation would fail.
    if setrlimit(Resource::RLIMIT_MEMLOCK, RLIM_INFINITY, RLIM_INFINITY).is_ok() {
        let on_fault = MlockAllFlags::from_bits_retain(MCL_ONFAULT);
        let _ = mlockall(MlockAllFlags::MCL_CURRENT | MlockAllFlags::MCL_FUTURE | on_fault);
    }
}

/// Has the kernel kill this process when the thread that started it ends, however that ends.
pub(crate) fn die_with_parent() -> nix::Result<()> {
    prctl::set_pdeathsig(Signal::SIGKILL)
}

/// Bytes of memory that an ordinary process may lock; `None`: as much as it likes.
pub(crate) fn lockable() -> nix::Result<Option<u64>> {
    let (_, hard) = getrlimit(Resource::RLIMIT_MEMLOCK)?;
    Ok((hard != RLIM_INFINITY).then_some(hard))
}

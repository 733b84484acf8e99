//! The floating-point environment of the contract: round to nearest even, denormals kept, no traps.

use std::marker::PhantomData;

/// The contract's environment on this thread, until dropped. A host (an audio or Python library, say) may have set another.
pub(crate) struct FloatEnv {
    saved: Control,
    /// The environment belongs to a thread.
    _thread: PhantomData<*const ()>,
}

impl FloatEnv {
    pub(crate) fn enter() -> Self {
        let saved = read();
        if saved != STANDARD {
            write(STANDARD);
        }
        Self { saved, _thread: PhantomData }
    }
}

impl Drop for FloatEnv {
    fn drop(&mut self) {
        if self.saved != STANDARD {
            write(self.saved);
        }
    }
}

#[cfg(all(target_arch = "x86_64", not(miri)))]
use x86_64::{Control, STANDARD, read, write};

#[cfg(all(target_arch = "x86_64", not(miri)))]
mod x86_64 {
    use std::arch::asm;

    /// MXCSR.
    pub(super) type Control = u32;
    /// All exceptions masked, none flagged.
    pub(super) const STANDARD: u32 = 0x1f80;
    /// The sticky flags say what happened, not what will.
    const FLAGS: u32 = 0x3f;

    pub(super) fn read() -> u32 {
        let mut control = 0u32;
        // SAFETY: stores MXCSR into the local.
        unsafe { asm!("stmxcsr [{}]", in(reg) &mut control, options(nostack)) };
        control & !FLAGS
    }

    pub(super) fn write(control: u32) {
        // SAFETY: a value that was read, or the default that Rust presumes; no reserved bit is set.
        unsafe { asm!("ldmxcsr [{}]", in(reg) &control, options(nostack, readonly)) };
    }
}

#[cfg(all(target_arch = "aarch64", not(miri)))]
use aarch64::{Control, STANDARD, read, write};

#[cfg(all(target_arch = "aarch64", not(miri)))]
mod aarch64 {
    use std::arch::asm;

    /// FPCR.
    pub(super) type Control = u64;
    pub(super) const STANDARD: u64 = 0;

    pub(super) fn read() -> u64 {
        let control: u64;
        // SAFETY: reads a register.
        unsafe { asm!("mrs {}, fpcr", out(reg) control, options(nomem, nostack)) };
        control
    }

    pub(super) fn write(control: u64) {
        // SAFETY: a value that was read, or the default that Rust presumes.
        unsafe { asm!("msr fpcr, {}", in(reg) control, options(nomem, nostack)) };
    }
}

#[cfg(any(miri, not(any(target_arch = "x86_64", target_arch = "aarch64"))))]
use other::{Control, STANDARD, read, write};

/// Rust presumes the standard environment; where we cannot look, neither can we mend it. Miri runs no assembly.
#[cfg(any(miri, not(any(target_arch = "x86_64", target_arch = "aarch64"))))]
mod other {
    pub(super) type Control = ();
    pub(super) const STANDARD: () = ();

    pub(super) fn read() {}
    pub(super) fn write((): ()) {}
}

#[cfg(all(test, not(miri), any(target_arch = "x86_64", target_arch = "aarch64")))]
mod tests {
    use super::*;

    #[test]
    fn a_strange_environment_is_replaced_and_put_back() {
        /// Flush to zero, denormals are zero, round up.
        #[cfg(target_arch = "x86_64")]
        const STRANGE: Control = STANDARD | 0x8040 | 0x4000;
        /// Flush to zero, default NaN, round up.
        #[cfg(target_arch = "aarch64")]
        const STRANGE: Control = STANDARD | 1 << 24 | 1 << 25 | 1 << 22;
        write(STRANGE);
        let inside = {
            let _env = FloatEnv::enter();
            read()
        };
        let after = read();
        write(STANDARD);
        assert_eq!((inside, after), (STANDARD, STRANGE));
    }
}

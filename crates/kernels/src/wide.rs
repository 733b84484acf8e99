//! Plain Rust compiled once more for wider vectors. No operation changes: neither fusing nor reordering is allowed to the compiler, so
//! results are equal to the bit.

use crate::Isa;

/// Work whose loops fill vectors. All that `run` calls in them must be `#[inline(always)]`, or is compiled for the narrowest.
pub trait Wide {
    /// What it gives.
    type Output;
    /// Does it; `#[inline(always)]`.
    fn run(self) -> Self::Output;
}

impl Isa {
    /// Runs `work` with the vectors of this instruction set, as far as this machine has them.
    pub fn run<W: Wide>(self, work: W) -> W::Output {
        #[cfg(target_arch = "x86_64")]
        match self {
            // SAFETY: this machine has the features.
            Isa::Avx512 if self.is_available() => return unsafe { avx512(work) },
            // SAFETY: this machine has the features.
            Isa::Avx2 | Isa::Avx2Vnni if self.is_available() => return unsafe { avx2(work) },
            _ => {}
        }
        work.run()
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn avx512<W: Wide>(work: W) -> W::Output {
    work.run()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
unsafe fn avx2<W: Wide>(work: W) -> W::Output {
    work.run()
}

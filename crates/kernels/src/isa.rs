//! Instruction sets, detected once and forced by `COFFER_ISA`.

/// An instruction set that kernels are written for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Isa {
    /// Plain Rust: the definition of every result.
    Scalar,
    /// x86-64 with AVX2 and F16C.
    Avx2,
    /// The same with VNNI for its vectors, which came with AVX-512 and, as AVX-VNNI, to processors without it.
    Avx2Vnni,
    /// x86-64 with AVX-512 F, BW, VL and VNNI.
    Avx512,
    /// aarch64 with NEON.
    Neon,
    /// aarch64 with NEON and the dot product of ARMv8.2.
    NeonDot,
}

impl Isa {
    const ALL: [Isa; 6] = [Isa::Scalar, Isa::Avx2, Isa::Avx2Vnni, Isa::Avx512, Isa::Neon, Isa::NeonDot];

    /// Those that this machine runs, slowest first; never empty.
    pub fn available() -> Vec<Isa> {
        Self::ALL.into_iter().filter(|isa| isa.is_available()).collect()
    }

    /// `COFFER_ISA` if set, else the fastest available.
    ///
    /// # Errors
    /// The variable names no instruction set, or one that this machine lacks.
    pub fn detect() -> Result<Isa, IsaError> {
        match std::env::var_os("COFFER_ISA") {
            Some(asked) if !asked.is_empty() => Self::named(&asked.to_string_lossy()),
            _ => Ok(Self::available().pop().unwrap_or(Isa::Scalar)),
        }
    }

    /// The instruction set called `asked`.
    ///
    /// # Errors
    /// There is none, or this machine lacks it.
    pub fn named(asked: &str) -> Result<Isa, IsaError> {
        let available = Self::available();
        available.iter().copied().find(|isa| isa.name() == asked).ok_or_else(|| IsaError {
            asked: asked.to_owned(),
            available: available.iter().map(|isa| isa.name()).collect::<Vec<_>>().join(", "),
        })
    }

    /// `scalar`, `avx2`, `avx2-vnni`, `avx512`, `neon`, `neon-dot`.
    pub fn name(self) -> &'static str {
        match self {
            Isa::Scalar => "scalar",
            Isa::Avx2 => "avx2",
            Isa::Avx2Vnni => "avx2-vnni",
            Isa::Avx512 => "avx512",
            Isa::Neon => "neon",
            Isa::NeonDot => "neon-dot",
        }
    }

    /// Whether this machine runs it.
    pub fn is_available(self) -> bool {
        match self {
            Isa::Scalar => true,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c"),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2Vnni => {
                let of_avx512 = || is_x86_feature_detected!("avx512vl") && is_x86_feature_detected!("avx512vnni");
                Isa::Avx2.is_available() && (is_x86_feature_detected!("avxvnni") || of_avx512())
            }
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => {
                Isa::Avx2.is_available()
                    && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512vl")
                    && is_x86_feature_detected!("avx512vnni")
            }
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => std::arch::is_aarch64_feature_detected!("neon"),
            #[cfg(target_arch = "aarch64")]
            Isa::NeonDot => Isa::Neon.is_available() && std::arch::is_aarch64_feature_detected!("dotprod"),
            // Those of other machines.
            _ => false,
        }
    }
}

/// `COFFER_ISA` asks for what cannot be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("COFFER_ISA={asked}: this machine runs {available}")]
pub struct IsaError {
    /// Value of the variable.
    pub asked: String,
    /// What could be asked for.
    pub available: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_again_and_strangers_are_refused_with_the_choice() {
        for isa in Isa::available() {
            assert_eq!(Isa::named(isa.name()), Ok(isa));
        }
        for asked in ["", "AVX2", "sse9", "avx512 "] {
            let error = Isa::named(asked).expect_err("no such name").to_string();
            assert!(error.starts_with(&format!("COFFER_ISA={asked}: ")) && error.contains("scalar"), "{error}");
        }
    }
}

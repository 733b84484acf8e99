//! Measures variants of a model against a reference, judges them by a policy, and reports what was found.
//!
//! docs/measures.md defines every figure; [`figures::FIGURES`] is the same list for programs.

pub mod assessment;
pub mod certify;
pub mod difference;
pub mod endpoint;
pub mod error;
pub mod exhibits;
pub mod fidelity;
pub mod figures;
pub mod pairs;
pub mod pareto;
pub mod policy;
pub mod portability;
pub mod report;
pub mod resources;

mod forward;
mod stats;

pub use assessment::{Assessment, Options, Subject, assess};
pub use error::AssessError;
pub use policy::{Policy, Verdict};

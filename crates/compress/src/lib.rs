//! Makes new models out of old ones: quantize, prune, merge.
//!
//! A [`Method`] plans tasks, one for each tensor of the new model, and computes any rows of any task on its own; the
//! [`driver`] runs them on several threads and writes the results in order. Nothing depends on the number of threads.

pub mod adapter;
pub mod calibration;
pub mod driver;
pub mod encode;
pub mod equalize;
pub mod error;
pub mod factor;
pub mod importance;
pub mod layer_inputs;
pub mod merge;
pub mod method;
pub mod moments;
pub mod prune;
pub mod quantize;
mod rows;
pub mod shard;
#[cfg(test)]
mod testing;

pub use calibration::Calibration;
pub use driver::{Made, Plan, Progress, Summary};
pub use equalize::Equalization;
pub use error::CompressError;
pub use factor::Factor;
pub use importance::Importance;
pub use layer_inputs::Curvature;
pub use method::{METHODS, Method, Needs, Task};

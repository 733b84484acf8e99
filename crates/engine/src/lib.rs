//! Runs a language model: loading, forward passes over many sequences at once, sampling, and a scheduler.

pub mod cache;
pub mod engine;
pub mod error;
pub mod generate;
pub mod layerwise;
pub mod observe;
pub mod sampling;
pub mod scheduler;

mod forward;
mod load;
mod mixture;
mod pack;
mod random;
mod rotary;
mod runner;

pub use cache::KvCache;
pub use engine::{Engine, LoadOptions, Span, Want};
pub use error::EngineError;
pub use generate::Generation;
pub use layerwise::{Finished, Layerwise};
pub use observe::Observer;
pub use sampling::{Choice, Sampler, SamplingParams};
pub use scheduler::{Event, FinishReason, Owner, Request, Scheduler};

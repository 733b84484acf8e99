//! Runs a language model: loading, forward passes over many sequences at once, sampling, and a scheduler.

pub mod engine;
pub mod sampling;
pub mod scheduler;

pub use engine::{Engine, EngineError, KvCache, LoadOptions, Span, Want};
pub use sampling::{Sampler, SamplingParams};
pub use scheduler::{Event, FinishReason, Request, Scheduler};

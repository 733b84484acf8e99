//! An OpenAI-compatible server for one loaded model: chat, completions, models, with API keys, encrypted bodies (EHBP),
//! limits and metrics. The only crate with asynchronous code; its own face is blocking: [`start`] runs a server on threads
//! of its own and gives back a handle.

mod access;
mod api;
mod app;
mod body;
mod config;
mod connection;
mod encrypted;
mod error;
mod generation;
mod intake;
pub mod keys;
mod metrics;
mod run;
mod stall;
mod text;

pub use config::{Access, Config, Limits, ServedModel};
pub use run::{ServeError, Server, start};

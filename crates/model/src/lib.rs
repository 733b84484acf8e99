//! What a language model is: architecture, layer graph, names, tokenizer, chat template. No weights.

pub mod chat;
pub mod config;
pub mod graph;
pub mod names;
pub mod tokenizer;

pub use chat::{ChatTemplate, Message};
pub use config::{Architecture, ModelConfig, RopeConfig};
pub use graph::{Axis, LayerGraph, Node, NodeKind};
pub use tokenizer::Tokenizer;

//! What a language model is: architecture, layer graph, names, tokenizer, chat template. No weights.

pub mod chat;
pub mod config;
pub mod family;
pub mod graph;
pub mod names;
pub mod tokenizer;

pub use chat::{ChatTemplate, Message, TemplateError};
pub use config::{ConfigError, Experts, ModelConfig, RopeConfig, RopeScaling};
pub use family::{Activation, Architecture, Family};
pub use graph::{Axis, LayerGraph, Node, NodeKind};
pub use tokenizer::{Tokenizer, TokenizerError};

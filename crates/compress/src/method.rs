//! What every method of compression looks like, and which there are.

use crate::CompressError;
use coffer_checkpoint::TensorInfo;
use std::ops::Range;

/// A method with its parameters and sources. Results depend on the task and the rows alone.
pub trait Method: Send + Sync {
    /// Which method this is.
    fn entry(&self) -> &'static Entry;
    /// One task for each tensor of the new model, in the order in which they are written.
    fn plan(&self) -> Result<Vec<Task>, CompressError>;
    /// How many of the `next` tasks, from the first on, can be worked on at the same time; the others begin when these are done.
    fn together(&self, next: &[Task]) -> usize {
        next.len()
    }
    /// The bytes of `rows` of the task's output; called from several threads at once.
    fn run(&self, task: &Task, rows: Range<u64>) -> Result<Vec<u8>, CompressError>;
}

/// One tensor of the new model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Task {
    /// Name, type and shape to write.
    pub output: TensorInfo,
    /// Rows that are computed in one piece.
    pub unit_rows: u64,
    /// Bytes of memory that one piece takes while it is computed, its result included.
    pub unit_bytes: u64,
}

/// What a method must know beside the weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
#[serde(rename_all = "lowercase")]
pub enum Needs {
    /// Nothing.
    Nothing,
    /// How much each column counts.
    Importance,
    /// How columns vary together.
    Curvature,
}

/// What kind of change a method makes: the command it belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// `quantize`
    Quantize,
    /// `prune`
    Prune,
    /// `merge`
    Merge,
}

/// A line of the registry.
#[derive(Debug, PartialEq, Eq, serde::Serialize)]
pub struct Entry {
    /// Command.
    pub kind: Kind,
    /// Name on the command line and in recipes.
    pub name: &'static str,
    /// Name and version; the version grows whenever the same input gives other bytes.
    pub id: &'static str,
    /// What it must know beside the weights.
    pub needs: Needs,
    /// One line for people.
    pub about: &'static str,
}

/// All methods.
pub static METHODS: &[&Entry] = &[
    &crate::quantize::NEAREST,
    &crate::quantize::WEIGHTED,
    &crate::quantize::gptq::ENTRY,
    &crate::quantize::EQUALIZED,
    &crate::prune::magnitude::ENTRY,
    &crate::merge::linear::ENTRY,
];

/// Names of the methods of one kind, for messages.
pub fn names(kind: Kind) -> String {
    METHODS.iter().filter(|e| e.kind == kind).map(|e| e.name).collect::<Vec<_>>().join(", ")
}

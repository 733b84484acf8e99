//! The engine as its callers see it, on tiny random models.
#![expect(clippy::unwrap_used, reason = "tests and their helpers")]

mod bits;
mod golden;
mod reference;
mod refusals;
mod scheduling;
mod scribe;
mod support;

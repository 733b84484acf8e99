//! A real server on a loopback port with the real demo model, asked by a real HTTP client.

#![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

mod access;
mod chat;
mod completions;
mod encrypted;
mod harness;
mod limits;
mod refusals;
mod shutdown;

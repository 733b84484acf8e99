//! The numeric contract: every instruction set, thread count, batch and cut gives the bits of a plain version, and the
//! plain version is near exact arithmetic.

mod operations;
mod plain;
mod products;

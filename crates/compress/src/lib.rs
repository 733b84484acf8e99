//! coffer-compress

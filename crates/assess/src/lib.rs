//! coffer-assess

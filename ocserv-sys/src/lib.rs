//! Filled in by the first slices.

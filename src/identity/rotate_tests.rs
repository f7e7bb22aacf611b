//! Tests of `rotate`.

//! Tests of `consul`.

//! The data path's clock: that of the runtime, so that a test can stop it and let hours pass at once.

use std::time::Instant;

/// The time now.
pub fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

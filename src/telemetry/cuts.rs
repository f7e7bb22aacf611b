//! Connections that outrigger did not take, or ended against their client's will, counted.

use super::{Direction, Metrics};

/// Why.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CutCause {
    /// `limits.connections` is reached.
    OverCap,
    /// The last places are for other addresses.
    OverShare,
    /// HTTP/2 frames that bring nothing.
    FrameFlood,
    /// HTTP/2 requests that are opened only to be reset.
    ResetFlood,
    /// A head that was not complete in time, the first byte of a connection included.
    SlowHead,
    /// A client that does not take its answers.
    SlowReader,
}

impl CutCause {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::OverCap => "over_cap",
            Self::OverShare => "over_share",
            Self::FrameFlood => "frame_flood",
            Self::ResetFlood => "reset_flood",
            Self::SlowHead => "slow_head",
            Self::SlowReader => "slow_reader",
        }
    }
}

impl Metrics {
    pub fn connection_cut(&self, direction: Direction, cause: CutCause) {
        self.connections_cut.with_label_values(&[direction.as_str(), cause.as_str()]).inc();
    }
}

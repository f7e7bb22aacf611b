//! How many files the process may have open: a connection through us takes two, and the shell's limit of 1,024 is for
//! programs that wait with `select(2)`.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// The limit as it was, for the child.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct OpenFiles(Rlimit);

impl OpenFiles {
    /// Raises the limit to what we may raise it to. Warns where the listeners are allowed more `connections` than that.
    pub(super) fn raise(connections: usize) -> Self {
        let before = getrlimit(Resource::Nofile);
        set(Rlimit { current: before.maximum, maximum: before.maximum });
        let wanted = 2 * connections as u64 + OURS;
        if let Some(most) = getrlimit(Resource::Nofile).current
            && most < wanted
        {
            tracing::warn!(
                most,
                wanted,
                "fewer files may be open than limits.connections would take; raise the limit (ulimit -Hn, LimitNOFILE)"
            );
        }
        Self(before)
    }

    /// Runs `start` under the limit as it was: a child inherits what holds at its start.
    pub(super) fn as_before<T>(&self, start: impl FnOnce() -> T) -> T {
        let ours = getrlimit(Resource::Nofile);
        set(self.0);
        let started = start();
        set(ours);
        started
    }
}

fn set(limit: Rlimit) {
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!(%error, "the limit of open files stays as it is");
    }
}

/// Listeners, Consul, logs, and connections to endpoints that are kept idle.
const OURS: u64 = 256;

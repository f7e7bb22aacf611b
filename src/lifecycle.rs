//! The only place that spawns: every task has a name, an owner and an end.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// A group of tasks that ends together. Clones share the group; `part` makes one that ends with the whole or earlier.
#[derive(Clone)]
pub struct Lifecycle {
    drain: CancellationToken,
    kill: CancellationToken,
    tasks: TaskTracker,
    names: Arc<Mutex<BTreeMap<&'static str, usize>>>,
}

/// How a group of tasks ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stopped {
    Clean,
    /// The names of the tasks that were cut, with how many of each.
    Killed {
        still_running: Vec<(&'static str, usize)>,
    },
}

impl Lifecycle {
    #[must_use]
    pub fn new() -> Self {
        Self {
            drain: CancellationToken::new(),
            kill: CancellationToken::new(),
            tasks: TaskTracker::new(),
            names: Arc::default(),
        }
    }

    /// A part of this group that can be drained or killed by itself. It ends with the whole, and the whole's `stop` waits
    /// for it.
    #[must_use]
    pub fn part(&self) -> Self {
        Self {
            drain: self.drain.child_token(),
            kill: self.kill.child_token(),
            tasks: self.tasks.clone(),
            names: self.names.clone(),
        }
    }

    /// Runs `task` on the current runtime until it returns or the group is killed.
    pub fn spawn(&self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        self.spawn_on(&Handle::current(), name, task);
    }

    /// Runs `task` on another runtime, for what belongs to a worker.
    pub fn spawn_on(&self, runtime: &Handle, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        let counted = Counted::enter(self.names.clone(), name);
        let kill = self.kill.clone();
        let tracked = self.tasks.track_future(async move {
            let _counted = counted;
            // A killed group drops its futures where they stand: sockets close, guards run.
            kill.run_until_cancelled(task).await;
        });
        #[expect(clippy::disallowed_methods, reason = "the one place that spawns")]
        drop(runtime.spawn(tracked));
    }

    /// Resolves when the group is asked to finish what it does and take nothing new.
    pub fn drained(&self) -> impl Future<Output = ()> + Send + 'static {
        self.drain.clone().cancelled_owned()
    }

    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.drain.is_cancelled()
    }

    /// Asks every task to finish; does not wait.
    pub fn begin_drain(&self) {
        self.drain.cancel();
    }

    /// Ends every task where it stands; does not wait.
    pub fn kill(&self) {
        self.drain.cancel();
        self.kill.cancel();
    }

    /// How many tasks of each name run now.
    #[must_use]
    pub fn running(&self) -> Vec<(&'static str, usize)> {
        self.names.lock().iter().filter(|(_, n)| **n > 0).map(|(name, n)| (*name, *n)).collect()
    }

    /// Resolves when every task of the group has ended; to be asked once it drains.
    pub async fn finished(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// Asks all to finish, waits at most `grace`, then kills what is left.
    pub async fn stop(&self, grace: Duration) -> Stopped {
        self.begin_drain();
        self.tasks.close();
        if tokio::time::timeout(grace, self.tasks.wait()).await.is_ok() {
            return Stopped::Clean;
        }
        let still_running = self.running();
        self.kill.cancel();
        self.tasks.wait().await;
        Stopped::Killed { still_running }
    }
}

impl Default for Lifecycle {
    fn default() -> Self {
        Self::new()
    }
}

struct Counted {
    names: Arc<Mutex<BTreeMap<&'static str, usize>>>,
    name: &'static str,
}

impl Counted {
    fn enter(names: Arc<Mutex<BTreeMap<&'static str, usize>>>, name: &'static str) -> Self {
        *names.lock().entry(name).or_default() += 1;
        Self { names, name }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        if std::thread::panicking() {
            tracing::error!(task = self.name, "a task panicked; please report this");
        }
        if let Some(count) = self.names.lock().get_mut(self.name) {
            *count -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_stop_within_grace_is_clean() {
        let group = Lifecycle::new();
        let asked = group.drained();
        group.spawn("good", async move { asked.await });
        assert_eq!(group.running(), [("good", 1)]);
        assert_eq!(group.stop(Duration::from_secs(1)).await, Stopped::Clean);
        assert_eq!(group.running(), []);
    }

    #[tokio::test(start_paused = true)]
    async fn what_outlives_grace_is_cut_and_named() {
        let group = Lifecycle::new();
        group.spawn("stuck", std::future::pending());
        let stopped = group.stop(Duration::from_secs(1)).await;
        assert_eq!(stopped, Stopped::Killed { still_running: vec![("stuck", 1)] });
        assert_eq!(group.running(), []);
    }

    #[tokio::test(start_paused = true)]
    async fn a_part_ends_with_the_whole_but_not_the_other_way_round() {
        let whole = Lifecycle::new();
        let part = whole.part();
        part.begin_drain();
        assert!(!whole.is_draining());
        let other = whole.part();
        other.spawn("stuck", std::future::pending());
        assert!(
            matches!(whole.stop(Duration::from_secs(1)).await, Stopped::Killed { .. }),
            "the whole waits for its parts"
        );
        assert!(other.is_draining());
    }
}

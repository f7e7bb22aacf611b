//! The only place that spawns: every task has a name, an owner and an end.

use std::collections::{BTreeMap, HashMap};
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use parking_lot::Mutex;
use pin_project_lite::pin_project;
use tokio::runtime::Handle;
use tokio::task::AbortHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// A group of tasks that ends together. Clones share the group; `part` makes one that ends with the whole or earlier.
#[derive(Clone)]
pub struct Lifecycle {
    group: Arc<Group>,
    /// Of the whole: `stop` waits for its parts, too.
    tasks: TaskTracker,
}

struct Group {
    drain: CancellationToken,
    cut: CancellationToken,
    running: Mutex<Running>,
    parts: Mutex<Vec<Weak<Self>>>,
}

#[derive(Default)]
struct Running {
    killed: bool,
    next: u64,
    tasks: HashMap<u64, (&'static str, Option<AbortHandle>)>,
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
        Self { group: Group::new(CancellationToken::new(), CancellationToken::new()), tasks: TaskTracker::new() }
    }

    /// A part of this group that can be drained or killed by itself. It ends with the whole, and the whole's `stop` waits
    /// for it.
    #[must_use]
    pub fn part(&self) -> Self {
        let group = Group::new(self.group.drain.child_token(), self.group.cut.child_token());
        let mut parts = self.group.parts.lock();
        parts.retain(|part| part.strong_count() > 0);
        parts.push(Arc::downgrade(&group));
        Self { group, tasks: self.tasks.clone() }
    }

    /// Runs `task` on the current runtime until it returns or the group is killed.
    pub fn spawn(&self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        self.spawn_on(&Handle::current(), name, task);
    }

    /// Runs `task` on another runtime, for what belongs to a worker.
    pub fn spawn_on(&self, runtime: &Handle, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        let member = Member::enter(&self.group, name);
        let id = member.id;
        let tracked = self.tasks.track_future(Task { task, _member: member });
        #[expect(clippy::disallowed_methods, reason = "the one place that spawns")]
        let handle = runtime.spawn(tracked).abort_handle();
        self.group.arm(id, handle);
    }

    /// Resolves when the group is asked to finish what it does and take nothing new.
    pub fn drained(&self) -> impl Future<Output = ()> + Send + 'static {
        self.group.drain.clone().cancelled_owned()
    }

    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.group.drain.is_cancelled()
    }

    /// Asks every task to finish; does not wait.
    pub fn begin_drain(&self) {
        self.group.drain.cancel();
    }

    /// Resolves when time is up: what can end in an orderly way should do so at once.
    pub fn cut_short(&self) -> impl Future<Output = ()> + Send + 'static {
        self.group.cut.clone().cancelled_owned()
    }

    /// Tells every task that time is up; does not wait. What does not heed it is to be killed a moment later.
    pub fn begin_cut(&self) {
        self.group.drain.cancel();
        self.group.cut.cancel();
    }

    /// Ends every task where it stands: its future is dropped, sockets close, guards run. Does not wait.
    pub fn kill(&self) {
        self.group.kill();
    }

    /// How many tasks of each name run now.
    #[must_use]
    pub fn running(&self) -> Vec<(&'static str, usize)> {
        let mut counts = BTreeMap::new();
        self.group.count(&mut counts);
        counts.into_iter().collect()
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
        self.kill();
        self.tasks.wait().await;
        Stopped::Killed { still_running }
    }
}

pin_project! {
    /// A task with its entry in the group. Not an async block: that would keep space for the task twice, and a task lives as
    /// long as a connection.
    struct Task<F> {
        #[pin]
        task: F,
        _member: Member,
    }
}

impl<F: Future<Output = ()>> Future for Task<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.project().task.poll(cx)
    }
}

impl Default for Lifecycle {
    fn default() -> Self {
        Self::new()
    }
}

impl Group {
    fn new(drain: CancellationToken, cut: CancellationToken) -> Arc<Self> {
        Arc::new(Self { drain, cut, running: Mutex::default(), parts: Mutex::default() })
    }

    /// Makes a spawned task one that `kill` reaches. It may have ended already, or the group may have been killed while
    /// it was spawned.
    fn arm(&self, id: u64, handle: AbortHandle) {
        let mut running = self.running.lock();
        if running.killed {
            handle.abort();
        } else if let Some((_, slot)) = running.tasks.get_mut(&id) {
            *slot = Some(handle);
        }
    }

    fn kill(&self) {
        self.drain.cancel();
        let handles: Vec<AbortHandle> = {
            let mut running = self.running.lock();
            running.killed = true;
            running.tasks.values().filter_map(|(_, handle)| handle.clone()).collect()
        };
        // Aborting may drop a future on this thread, whose guards take the lock again.
        handles.iter().for_each(AbortHandle::abort);
        self.parts().for_each(|part| part.kill());
    }

    fn count(&self, counts: &mut BTreeMap<&'static str, usize>) {
        for (name, _) in self.running.lock().tasks.values() {
            *counts.entry(*name).or_default() += 1;
        }
        self.parts().for_each(|part| part.count(counts));
    }

    fn parts(&self) -> impl Iterator<Item = Arc<Self>> {
        let parts: Vec<_> = self.parts.lock().iter().filter_map(Weak::upgrade).collect();
        parts.into_iter()
    }
}

/// A running task's entry in its group.
struct Member {
    group: Arc<Group>,
    id: u64,
}

impl Member {
    fn enter(group: &Arc<Group>, name: &'static str) -> Self {
        let mut running = group.running.lock();
        let id = running.next;
        running.next += 1;
        running.tasks.insert(id, (name, None));
        Self { group: group.clone(), id }
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        let ended = self.group.running.lock().tasks.remove(&self.id);
        if let Some((name, _)) = ended
            && std::thread::panicking()
        {
            tracing::error!(task = name, "a task panicked; please report this");
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
        group.spawn("good", asked);
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

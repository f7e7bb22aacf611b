//! Wakes when files may have changed. Their folders are watched, since Kubernetes swaps a symlink beside them and most
//! tools rename a new file into place; a slow poll covers what no event tells of.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use notify::event::AccessKind;
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout_at};

pub struct FileWatch {
    paths: Vec<PathBuf>,
    stirred: Arc<Notify>,
    /// The folders and what watches them; `None` before the first wait, and where the system refuses.
    watched: Option<(BTreeSet<PathBuf>, RecommendedWatcher)>,
    refusal_said: bool,
}

impl FileWatch {
    pub fn new(paths: Vec<PathBuf>) -> Self {
        let mut watch = Self { paths, stirred: Arc::default(), watched: None, refusal_said: false };
        watch.follow_links();
        watch
    }

    /// Resolves when something moved in a folder of the files and was quiet for 200 ms since, and after `at_most` (30 s
    /// if longer) in any case. What changed, if anything, is for the caller to see. Cancel safe.
    pub async fn changed(&mut self, at_most: Duration) {
        self.follow_links();
        tokio::select! {
            () = sleep(at_most.min(POLL)) => return,
            () = self.stirred.notified() => {}
        }
        let patience = Instant::now() + RESTLESS;
        while timeout_at(patience.min(Instant::now() + QUIET), self.stirred.notified()).await.is_ok() {}
    }

    /// Watches the folders that the files are in by now, seen through symlinks.
    fn follow_links(&mut self) {
        let folders = folders(&self.paths);
        if self.watched.as_ref().is_some_and(|(watched, _)| *watched == folders) {
            return;
        }
        match watcher(&folders, self.stirred.clone()) {
            Ok(watcher) => {
                self.watched = Some((folders, watcher));
                self.refusal_said = false;
                // What happened between the old watcher and the new one.
                self.stirred.notify_one();
            }
            Err(error) if !self.refusal_said => {
                self.refusal_said = true;
                tracing::warn!(%error, "folders cannot be watched; files are looked at every 30 s");
            }
            Err(_) => {}
        }
    }
}

fn folders(paths: &[PathBuf]) -> BTreeSet<PathBuf> {
    let parent = |path: &Path| path.parent().map(|p| if p.as_os_str().is_empty() { ".".into() } else { p.to_owned() });
    let real = |path: &PathBuf| path.canonicalize().ok().and_then(|path| parent(&path));
    let found = paths.iter().flat_map(|path| [parent(path), real(path)]).flatten();
    found.filter(|folder| folder.is_dir()).collect()
}

fn watcher(folders: &BTreeSet<PathBuf>, stirred: Arc<Notify>) -> notify::Result<RecommendedWatcher> {
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        // Our own reading opens files, too. Every other kind counts: tools differ in how they write.
        let opened = event.is_ok_and(|event| matches!(event.kind, EventKind::Access(AccessKind::Open(_))));
        if !opened {
            stirred.notify_one();
        }
    })?;
    for folder in folders {
        watcher.watch(folder, RecursiveMode::NonRecursive)?;
    }
    Ok(watcher)
}

const POLL: Duration = Duration::from_secs(30);
const QUIET: Duration = Duration::from_millis(200);
/// A folder that never rests does not hold us up longer.
const RESTLESS: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn our_own_reading_wakes_nobody_and_a_write_does() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tls.crt");
        std::fs::write(&path, "one").unwrap();
        let mut watch = FileWatch::new(vec![path.clone()]);
        // A new watcher always wakes once.
        watch.changed(POLL).await;
        let before = Instant::now();
        let pause = Duration::from_millis(500);
        assert_eq!(std::fs::read(&path).unwrap(), b"one");
        watch.changed(pause).await;
        assert!(before.elapsed() >= pause, "reading woke us");
        std::fs::write(&path, "two").unwrap();
        watch.changed(POLL).await;
        assert!(before.elapsed() < POLL / 2, "writing did not");
    }
}

//! Where an issuer's keys come from, and the keys as of now. Requests read them here; a control task fetches them, and is
//! told here that a request met a key it does not know.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::keys::{Algorithm, KeySet};
use crate::published::Published;

/// An issuer and where its keys are.
#[derive(Debug, Clone, PartialEq)]
pub struct Source {
    pub issuer: String,
    pub location: Location,
    /// What the keys may be used for.
    pub algorithms: Vec<Algorithm>,
    /// Between two fetches.
    pub refresh: Duration,
    /// How long keys stay good while no fetch succeeds.
    pub stale_for: Duration,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Location {
    Uri {
        uri: String,
        /// PEM roots; the system's when absent.
        ca_file: Option<PathBuf>,
    },
    /// Watched.
    File(PathBuf),
    /// A JWK set as text.
    Inline(String),
}

/// The keys of an issuer as last seen.
#[derive(Clone)]
pub struct Keys {
    pub set: Arc<KeySet>,
    /// Never used for another set, in the whole process.
    pub generation: u64,
    /// When they stop being good; never when `None`.
    pub until: Option<Instant>,
}

/// One source, shared by all filters that name it.
pub struct KeySource {
    pub settings: Source,
    keys: Published<Option<Keys>>,
    /// A request met an unknown key since the task looked last.
    wanted: AtomicBool,
    wake: Published<()>,
    /// From when on a wish is granted at once. Stored at the end of each fetch, so that its versions count these.
    prompt_from: Published<Option<Instant>>,
}

impl KeySource {
    #[must_use]
    pub fn new(settings: Source) -> Self {
        let keys = match &settings.location {
            // The settings were checked with the same reader.
            Location::Inline(text) => KeySet::parse(text.as_bytes(), &settings.algorithms).ok().map(|set| Keys {
                set: Arc::new(set),
                generation: next_generation(),
                until: None,
            }),
            Location::Uri { .. } | Location::File(_) => None,
        };
        Self {
            settings,
            keys: Published::new(keys),
            wanted: AtomicBool::new(false),
            wake: Published::new(()),
            prompt_from: Published::default(),
        }
    }

    /// The keys if they are good at `now`, else `None`: none were ever seen, or not for longer than `stale_for`.
    pub(super) fn with<R>(&self, now: Instant, look: impl FnOnce(&Keys) -> R) -> Option<R> {
        let keys = self.keys.peek();
        keys.as_ref().as_ref().filter(|keys| keys.until.is_none_or(|until| now < until)).map(look)
    }

    /// Of the keys that there are now.
    pub(super) fn generation(&self) -> Option<u64> {
        self.keys.peek().as_ref().as_ref().map(|keys| keys.generation)
    }

    /// Tells the task that a token names a key that the set does not have. Never waits; asking again before the task
    /// woke costs a load.
    pub(super) fn want(&self) {
        if !self.wanted.load(Ordering::Relaxed) && !self.wanted.swap(true, Ordering::AcqRel) {
            self.wake.store(());
        }
    }

    /// As `want`, where the fetch does not have to wait at `now`: resolves when it, or one already under way, has ended,
    /// well or not, and after `PATIENCE` at the latest. `None` where an answer would come too late to wait for.
    pub(super) fn want_now(&self, now: Instant) -> Option<impl Future<Output = ()> + Send + 'static> {
        if !matches!(self.settings.location, Location::Uri { .. })
            || self.prompt_from.peek().is_some_and(|from| now < from)
        {
            return None;
        }
        // Before the wish: what ends in between counts.
        let ended = self.prompt_from.next_within(PATIENCE);
        self.want();
        Some(ended)
    }

    /// A fetch has ended; until `prompt_from` the next one that requests ask for has to wait.
    pub fn fetched(&self, prompt_from: Instant) {
        self.prompt_from.store(Some(prompt_from));
    }

    /// Resolves when a request wanted an unknown key since the last time. Cancel safe.
    pub async fn wanted(&self) {
        let mut woken = self.wake.versions();
        // Looked at after the subscription: what is wanted in between wakes, too.
        while !self.wanted.swap(false, Ordering::AcqRel) {
            if woken.changed().await.is_err() {
                return;
            }
        }
    }

    /// A fetch at `now` brought `set`; the same as before where `None`.
    pub fn store(&self, set: Option<KeySet>, now: Instant) {
        let before = self.keys.snapshot();
        let until = match self.settings.location {
            Location::Uri { .. } => now.checked_add(self.settings.stale_for),
            // Files are looked at every 30 s, however short the keys may be stale.
            Location::File(_) => now.checked_add(self.settings.stale_for.max(Duration::from_secs(60))),
            Location::Inline(_) => None,
        };
        let next = match (set, before.as_ref()) {
            (Some(set), _) => Keys { set: Arc::new(set), generation: next_generation(), until },
            (None, Some(before)) => Keys { until, ..before.clone() },
            (None, None) => return,
        };
        self.keys.store(Some(next));
    }

    /// Whether any key was ever seen.
    pub fn has_keys(&self) -> bool {
        self.keys.peek().as_ref().is_some()
    }
}

/// How long a request with an unknown key waits for the fetch that may bring it.
const PATIENCE: Duration = Duration::from_secs(3);

fn next_generation() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// All sources of the process. Filters that are built with equal settings share one, so that a reload keeps the keys.
#[derive(Default)]
pub struct KeySources {
    open: Mutex<Vec<Weak<KeySource>>>,
    /// Sources that no task follows yet.
    fresh: Mutex<Vec<Weak<KeySource>>>,
    news: Published<()>,
}

impl KeySources {
    pub(super) fn of(&self, settings: &Source) -> Arc<KeySource> {
        let mut open = self.open.lock();
        open.retain(|source| source.strong_count() > 0);
        if let Some(found) = open.iter().filter_map(Weak::upgrade).find(|source| source.settings == *settings) {
            return found;
        }
        let source = Arc::new(KeySource::new(settings.clone()));
        open.push(Arc::downgrade(&source));
        if !matches!(settings.location, Location::Inline(_)) {
            self.fresh.lock().push(Arc::downgrade(&source));
            self.news.store(());
        }
        source
    }

    /// Lets go of a source that no filter has any more. `source` is its task's own, which ends when this is true.
    pub fn release(&self, source: &Arc<KeySource>) -> bool {
        // Locked, so that no filter finds it in between.
        let mut open = self.open.lock();
        let alone = Arc::strong_count(source) == 1;
        if alone {
            open.retain(|other| !std::ptr::eq(other.as_ptr(), Arc::as_ptr(source)));
        }
        alone
    }

    /// The next source whose keys are to be fetched. For one caller; cancel safe.
    pub async fn next(&self) -> Weak<KeySource> {
        let mut news = self.news.versions();
        loop {
            let fresh = self.fresh.lock().pop();
            if let Some(source) = fresh {
                return source;
            }
            // The sender is ours: it does not end while we wait.
            let _ = news.changed().await;
        }
    }
}

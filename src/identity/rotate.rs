//! Keeps our identity fresh for as long as the process lives, and decides which leaf may replace which. A failure never
//! takes away what is installed.

use std::fmt::Display;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::{Current, Identity, IdentityError, Material, Source, check_chain, consul, files};
use crate::consul::{Client, Snapshot};
use crate::names::{ServiceName, SpiffeId};
use crate::telemetry::{CertificateKind, Metrics};

/// Publishes the identity of `service` from `source` into `current`, and each renewal of it. Runs for ever; cancel safe.
/// `consul` is needed by `Source::Consul` only, which alone uses `snapshot`: the last leaf, key and roots are kept
/// there, and serve a start while Consul cannot be reached.
pub async fn keep(
    source: Source,
    service: ServiceName,
    consul: Option<Client>,
    snapshot: Option<Snapshot>,
    current: Arc<Current>,
    metrics: Arc<Metrics>,
) {
    let keeper = Keeper::new(service, current, metrics);
    match (source, consul) {
        (Source::Consul, Some(client)) => consul::follow(client, snapshot, keeper).await,
        (Source::Consul, None) => {
            tracing::error!("identity comes from Consul, and there is no client for it");
            std::future::pending::<()>().await;
        }
        (Source::Files { cert, key, roots }, _) => files::follow_files([cert, key, roots], keeper).await,
        (Source::Ca { dir }, _) => files::follow_ca(&dir, keeper).await,
    }
}

/// What installing changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    Leaf,
    Roots,
    Nothing,
}

/// Why what a source gave is not installed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum InstallError {
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error("the leaf is of {found}, not of service {wanted}")]
    OtherService { wanted: ServiceName, found: SpiffeId },
    #[error("the leaf ended at {}", humantime::format_rfc3339_seconds(*.at))]
    Expired { at: SystemTime },
    #[error("the leaf, which ends at {}, is older than the one that is installed", humantime::format_rfc3339_seconds(*.at))]
    Older { at: SystemTime },
}

/// The one writer of `Current`.
pub(super) struct Keeper {
    pub service: ServiceName,
    pub metrics: Arc<Metrics>,
    current: Arc<Current>,
    installed: Option<(Material, Arc<Identity>)>,
    /// How near the installed leaf's end was when it was last said.
    said: Nearness,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Nearness {
    Far,
    Near,
    Over,
}

impl Keeper {
    pub(super) fn new(service: ServiceName, current: Arc<Current>, metrics: Arc<Metrics>) -> Self {
        Self { service, metrics, current, installed: None, said: Nearness::Far }
    }

    /// Publishes `next` if it may replace what is installed. Roots always may, even where our own leaf no longer leads
    /// to them: somebody took a root away for a reason.
    pub(super) fn install(&mut self, next: Material) -> Result<Change, InstallError> {
        let old = self.installed.as_ref();
        let same_leaf = old.is_some_and(|(old, _)| old.chain == next.chain && old.key == next.key);
        if same_leaf && old.is_some_and(|(old, _)| same_roots(old, &next)) {
            return Ok(Change::Nothing);
        }
        let identity = Identity::new(&next)?;
        if *identity.id.service() != self.service {
            return Err(InstallError::OtherService { wanted: self.service.clone(), found: identity.id });
        }
        let chain = check_chain(&identity, &next.chain, &next.roots);
        if same_leaf {
            if let Err(error) = chain {
                tracing::warn!(%error, "our own leaf does not lead to the new roots; peers may refuse us");
            }
        } else {
            self.may_replace(&identity, &next)?;
            chain?;
        }
        self.publish(next, Arc::new(identity), same_leaf);
        Ok(if same_leaf { Change::Roots } else { Change::Leaf })
    }

    fn may_replace(&self, identity: &Identity, next: &Material) -> Result<(), InstallError> {
        let now = SystemTime::now();
        if identity.not_after <= now {
            return Err(InstallError::Expired { at: identity.not_after });
        }
        let Some((old, installed)) = &self.installed else { return Ok(()) };
        // Serial numbers do not order leaves (many authorities draw them at random); their times do.
        let older = identity.not_before < installed.not_before && identity.not_after <= installed.not_after;
        // After a change of authority any leaf of the new one is better than one that peers refuse.
        let serves = installed.not_after > now
            && installed.id.trust_domain() == next.trust_domain
            && check_chain(installed, &old.chain, &next.roots).is_ok();
        if older && serves { Err(InstallError::Older { at: identity.not_after }) } else { Ok(()) }
    }

    fn publish(&mut self, material: Material, identity: Arc<Identity>, same_leaf: bool) {
        let until = humantime::format_rfc3339_seconds(identity.not_after);
        if same_leaf {
            tracing::info!(roots = material.roots.len(), "roots installed");
        } else {
            tracing::info!(id = %identity.id, serial = %identity.serial, %until, roots = material.roots.len(), "leaf installed");
            self.said = Nearness::Far;
        }
        self.metrics.certificate_expiry(CertificateKind::Leaf, seconds(identity.not_after));
        self.metrics.certificate_expiry(CertificateKind::Root, seconds(identity.roots_not_after));
        // Roots and leaf change in one store, so no connection is made with one of an older world.
        self.current.store(Some(identity.clone()));
        self.installed = Some((material, identity));
    }

    pub(super) fn installed(&self) -> Option<&Material> {
        self.installed.as_ref().map(|(material, _)| material)
    }

    /// How long until the installed leaf should be asked for anew: at two thirds of its life, then ever more often, at
    /// least 30 s apart. `None` while there is no leaf.
    pub(super) fn renew_in(&self) -> Option<Duration> {
        let (_, identity) = self.installed.as_ref()?;
        Some(renew_in(identity.not_before, identity.not_after, SystemTime::now()))
    }

    /// Says, once, that the leaf is near its end without a successor, and that it ended.
    pub(super) fn mind_end(&mut self) {
        let Some((_, identity)) = &self.installed else { return };
        let nearness = nearness(identity.not_before, identity.not_after, SystemTime::now());
        if nearness <= self.said {
            return;
        }
        self.said = nearness;
        let until = humantime::format_rfc3339_seconds(identity.not_after);
        match nearness {
            Nearness::Far => {}
            Nearness::Near => tracing::warn!(%until, "the leaf nears its end and has no successor"),
            Nearness::Over => tracing::error!(%until, "the leaf has ended; peers refuse us until there is a new one"),
        }
    }
}

fn same_roots(old: &Material, next: &Material) -> bool {
    old.trust_domain == next.trust_domain
        && old.roots.len() == next.roots.len()
        && old.roots.iter().all(|root| next.roots.contains(root))
}

fn renew_in(not_before: SystemTime, not_after: SystemTime, now: SystemTime) -> Duration {
    let life = not_after.duration_since(not_before).unwrap_or_default();
    let left = not_after.duration_since(now).unwrap_or_default();
    match left.checked_sub(life / 3) {
        Some(until) if !until.is_zero() => until,
        _ => (left / 4).max(Duration::from_secs(30)),
    }
}

/// Consul renews between 60 % and 90 % of a leaf's life, so only its last tenth is a reason to worry.
fn nearness(not_before: SystemTime, not_after: SystemTime, now: SystemTime) -> Nearness {
    let life = not_after.duration_since(not_before).unwrap_or_default();
    match not_after.duration_since(now) {
        Err(_) => Nearness::Over,
        Ok(left) if left < life / 10 => Nearness::Near,
        Ok(_) => Nearness::Far,
    }
}

fn seconds(time: SystemTime) -> f64 {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

/// Says a trouble when it begins, when its cause changes, and when it is over.
pub(super) struct Trouble {
    what: &'static str,
    cause: Option<String>,
}

impl Trouble {
    pub(super) fn new(what: &'static str) -> Self {
        Self { what, cause: None }
    }

    pub(super) fn is(&mut self, cause: &dyn Display) {
        let cause = cause.to_string();
        if self.cause.as_ref() != Some(&cause) {
            tracing::warn!(cause, "{} failed; what is installed stays", self.what);
            self.cause = Some(cause);
        }
    }

    pub(super) fn over(&mut self) {
        if self.cause.take().is_some() {
            tracing::info!("{} works again", self.what);
        }
    }
}

/// Pauses between tries: doubling from 250 ms to 30 s, each cut by up to half by chance, so that the sidecars of a host
/// do not come back in step.
pub(super) struct Backoff(Duration);

impl Backoff {
    pub(super) fn new() -> Self {
        Self(FIRST)
    }

    pub(super) fn pause(&mut self) -> Duration {
        let pause = self.0.mul_f64(0.5 + fastrand::f64() / 2.0);
        self.0 = (self.0 * 2).min(LONGEST);
        pause
    }

    pub(super) fn reset(&mut self) {
        self.0 = FIRST;
    }
}

const FIRST: Duration = Duration::from_millis(250);
const LONGEST: Duration = Duration::from_secs(30);

#[cfg(test)]
#[path = "rotate_tests.rs"]
mod tests;

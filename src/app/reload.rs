//! Reloads: a good configuration is swapped in whole, a bad one refused with its problems, and the old one stays.

use std::path::Path;
use std::time::Duration;

use super::{Failure, Sidecar, data_path, ready, settings, view};
use crate::config::{Config, RunOptions};
use crate::file_watch::FileWatch;
use crate::listen;
use crate::telemetry::ReloadOutcome;

/// Tells when the configuration file has other content than before.
pub(super) struct Triggers {
    watched: Option<(std::path::PathBuf, FileWatch, Option<Vec<u8>>)>,
}

impl Triggers {
    pub(super) fn new(file: Option<&Path>) -> Self {
        let watched = file.map(|file| {
            let watch = FileWatch::new(vec![file.to_owned()]);
            (file.to_owned(), watch, std::fs::read(file).ok())
        });
        Self { watched }
    }

    /// Resolves when the content changed; never without a file. Cancel safe.
    pub(super) async fn file_changed(&mut self) {
        let Some((file, watch, seen)) = &mut self.watched else { return std::future::pending().await };
        loop {
            watch.changed(Duration::from_secs(30)).await;
            // Gone for a moment while it is replaced: what comes next will tell.
            if let Ok(content) = std::fs::read(&*file)
                && seen.as_ref() != Some(&content)
            {
                *seen = Some(content);
                return;
            }
        }
    }
}

impl Sidecar {
    /// Loads the configuration again and takes it, or says what is wrong with it.
    pub(super) fn reload(&mut self, options: &RunOptions, why: &str) -> Result<(), Vec<String>> {
        if let Ok(now) = sd_notify::NotifyState::monotonic_usec_now() {
            ready::notify(&[sd_notify::NotifyState::Reloading, now]);
        }
        let taken = self.try_reload(options);
        ready::notify(&[sd_notify::NotifyState::Ready]);
        match &taken {
            Ok(()) => {
                tracing::info!(why, "configuration reloaded");
                self.metrics.reload(ReloadOutcome::Applied);
                self.view.config.store(view::of(&self.config, Vec::new()));
            }
            Err(problems) => {
                for problem in problems {
                    tracing::error!(why, problem, "configuration refused; the old one stays in force");
                }
                self.metrics.reload(ReloadOutcome::Refused);
                self.view.config.store(view::of(&self.config, problems.clone()));
            }
        }
        taken
    }

    fn try_reload(&mut self, options: &RunOptions) -> Result<(), Vec<String>> {
        let next = options
            .loader
            .load()
            .map_err(|problems| problems.to_string().lines().map(str::to_owned).collect::<Vec<_>>())?;
        let fixed = needs_restart(&self.config, &next);
        if !fixed.is_empty() {
            return Err(fixed);
        }
        self.take(next).map_err(|error| vec![error.to_string()])
    }

    /// All that can fail comes first; from then on nothing is refused half way.
    fn take(&mut self, next: Config) -> Result<(), Failure> {
        let mut bound = Vec::new();
        for (service, address) in self.data.upstreams.missing_ports(&next.outbound) {
            bound.push((service.clone(), listen::bind(format!("outbound.upstreams[{service}].listen"), address)?));
        }
        let log = if next.access_log == self.config.access_log {
            self.data.access_log.snapshot().as_ref().clone()
        } else {
            data_path::open_log(&next, &self.metrics)?
        };
        let inbound = self.registration.snapshot().port;
        let mut registration = settings::registration(&next, ([0, 0, 0, 0], inbound).into());
        registration.address.clone_from(&self.registration.snapshot().address);
        registration.port = inbound;
        self.data.upstreams.apply(&next)?;
        self.data.reconfigure(&next, log)?;
        self.access.reconfigure(&next);
        for (service, bound) in bound {
            self.data.accept_outbound(bound, Some(service));
        }
        self.data.outbound.routes.store(self.data.upstreams.table());
        if registration != *self.registration.snapshot() {
            self.registration.store(registration);
        }
        self.probing.store(settings::probe(&next.service));
        self.config = next;
        Ok(())
    }
}

/// What changed that only a restart can take up, as problems.
fn needs_restart(old: &Config, new: &Config) -> Vec<String> {
    let file = new.file.as_ref().map_or_else(|| "flags".into(), |file| file.display().to_string());
    let consul = |config: &Config| {
        format!(
            "{:?}",
            (&config.consul, config.consul.token.as_ref().map(|t| secrecy::ExposeSecret::expose_secret(t).to_owned()))
        )
    };
    [
        ("service.name", old.service.name != new.service.name),
        ("service.id", old.service.id != new.service.id),
        ("service.address", old.service.address != new.service.address),
        ("service.port", old.service.port != new.service.port),
        ("consul", consul(old) != consul(new)),
        ("consul.snapshot", old.snapshot != new.snapshot),
        ("identity", old.identity != new.identity),
        ("inbound.listen", old.inbound.listen != new.inbound.listen),
        ("inbound.advertise", old.inbound.advertise != new.inbound.advertise),
        ("inbound.mtls", old.inbound.mtls != new.inbound.mtls),
        ("inbound.header_case", old.inbound.keeps_case != new.inbound.keeps_case),
        ("outbound.header_case", old.outbound.keeps_case != new.outbound.keeps_case),
        ("outbound.listen", old.outbound.listen != new.outbound.listen),
        ("admin.listen", old.admin != new.admin),
        ("metrics.listen", old.metrics != new.metrics),
        ("workers", old.workers != new.workers),
    ]
    .into_iter()
    .filter(|(_, changed)| *changed)
    .map(|(key, _)| {
        format!("{file}: {key}: changed, but is fixed while the sidecar runs; restart it, or put the old value back")
    })
    .collect()
}

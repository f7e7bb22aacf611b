//! Telling others that we are ready: the ready file, and systemd.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;

use serde::Serialize;

use super::{Failure, Sockets};
use crate::config::Config;

/// What the ready file holds: addresses as they are really bound.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Addresses {
    pid: u32,
    service: String,
    id: String,
    pub inbound: String,
    pub outbound: String,
    pub admin: String,
    pub metrics: String,
    /// The upstreams that have a port of their own.
    upstreams: BTreeMap<String, String>,
}

impl Addresses {
    pub(super) fn of(config: &Config, sockets: &Sockets, admin: SocketAddr, metrics: SocketAddr) -> Self {
        Self {
            pid: std::process::id(),
            service: config.service.name.to_string(),
            id: config.service.id.clone(),
            inbound: sockets.inbound.address.to_string(),
            outbound: sockets.outbound.address.to_string(),
            admin: admin.to_string(),
            metrics: metrics.to_string(),
            upstreams: sockets
                .upstreams
                .iter()
                .map(|(name, bound)| (name.to_string(), bound.address.to_string()))
                .collect(),
        }
    }
}

/// Removes what an earlier life left, so that nobody takes it for this one.
pub(super) fn forget(file: &Path) {
    match std::fs::remove_file(file) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            tracing::warn!(file = %file.display(), %error, "the old ready file cannot be removed");
        }
        _ => {}
    }
}

/// Writes the ready file by rename, then tells systemd.
pub(super) fn announce(file: Option<&Path>, addresses: &Addresses) -> Result<(), Failure> {
    tracing::info!(service = addresses.service, id = addresses.id, "ready");
    if let Some(file) = file {
        write(file, addresses).map_err(|error| format!("--ready-file {}: {error}", file.display()))?;
    }
    notify(&[sd_notify::NotifyState::Ready]);
    Ok(())
}

fn write(file: &Path, addresses: &Addresses) -> std::io::Result<()> {
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    let temporary = folder.join(format!(".{name}.{}", addresses.pid));
    let mut text = serde_json::to_vec(addresses)?;
    text.push(b'\n');
    let mut out = std::fs::File::create(&temporary)?;
    out.write_all(&text)?;
    out.sync_all()?;
    std::fs::rename(&temporary, file)
}

/// A note to systemd; without it (no NOTIFY_SOCKET) nothing happens.
pub(super) fn notify(states: &[sd_notify::NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "systemd could not be told");
    }
}

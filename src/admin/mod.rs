//! The admin and metrics listeners (contract: `/livez /readyz /config /endpoints /certs /topology /metrics`, `POST /drain
//! /reload /quit`, a page at `/`). Reads snapshots; knows nothing of the data path's insides.

mod answer;
mod certificates;
mod commands;
mod desk;
mod endpoints;
mod guard;
mod listener;
mod status;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod topology;

pub use listener::{serve_admin, serve_metrics};
pub use status::{Phase, Status};

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

use crate::identity;
use crate::names::ServiceName;
use crate::proxy::{InboundShared, OutboundShared};
use crate::published::Published;
use crate::registry::Watches;
use crate::telemetry::Metrics;

/// What the admin endpoints show and may ask for.
pub struct View {
    pub service: ServiceName,
    pub id: String,
    pub metrics: Arc<Metrics>,
    pub status: Arc<Status>,
    pub identity: Arc<identity::Current>,
    pub outbound: Arc<OutboundShared>,
    pub inbound: Arc<InboundShared>,
    pub watches: Arc<Watches>,
    pub config: Published<ConfigView>,
    pub commands: mpsc::Sender<Command>,
}

/// The configuration in force, and how the last reload went.
#[derive(Debug, Clone, Default, serde::Serialize)]
pub struct ConfigView {
    /// The file, where there is one.
    pub file: Option<String>,
    /// RFC 3339: when the configuration in force was loaded.
    pub loaded: String,
    /// What is in force, without secrets.
    pub config: serde_json::Value,
    /// Problems of the last reload, where it was refused; the old configuration is still in force.
    pub refused: Vec<String>,
}

/// What an operator asks for.
pub enum Command {
    /// Leave the mesh, finish, but stay until told to quit.
    Drain,
    /// Load the file again; answered with the problems where it was refused.
    Reload(oneshot::Sender<Result<(), Vec<String>>>),
    /// As SIGTERM.
    Quit,
}

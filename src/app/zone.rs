//! Our own zone, for upstreams that prefer it: what the service's Meta says, else what the agent's node says once the agent
//! can be asked.

use std::sync::Arc;

use tokio::sync::watch;

use super::watches::Watching;
use crate::config::Config;
use crate::registry::node_zone;

/// Unknown at first.
pub(super) struct Zone {
    configured: Option<Arc<str>>,
    /// `None` where the agent was not asked, has not answered yet, or its node has none.
    of_node: watch::Sender<Option<Arc<str>>>,
    news: watch::Receiver<Option<Arc<str>>>,
    known: Option<Arc<str>>,
    asked: bool,
}

impl Default for Zone {
    fn default() -> Self {
        let (of_node, news) = watch::channel(None);
        Self { configured: None, of_node, news, known: None, asked: false }
    }
}

impl Zone {
    pub(super) fn known(&self) -> Option<&Arc<str>> {
        self.known.as_ref()
    }

    /// Takes what the configuration says. The agent is asked at most once, and only where the answer would be used.
    pub(super) fn configure(&mut self, config: &Config, watching: &Watching) {
        let own = config.service.meta.get("zone").filter(|zone| !zone.is_empty());
        self.configured = own.map(|zone| zone.as_str().into());
        self.settle();
        let wanted = config.outbound.upstreams.iter().any(|upstream| upstream.prefer_zone);
        if wanted && self.configured.is_none() && !std::mem::replace(&mut self.asked, true) {
            watching.control.spawn("zone", ask(watching.client.clone(), self.of_node.clone()));
        }
    }

    /// Resolves when the agent told its node's zone; `known` has it then. Cancel safe.
    pub(super) async fn learned(&mut self) {
        if self.news.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
        self.settle();
    }

    fn settle(&mut self) {
        self.known = self.configured.clone().or_else(|| self.of_node.borrow().clone());
    }
}

async fn ask(client: crate::consul::Client, of_node: watch::Sender<Option<Arc<str>>>) {
    if let Some(zone) = node_zone(client).await {
        tracing::info!(zone, "our zone is that of the agent's node");
        of_node.send_replace(Some(zone.into()));
    } else {
        tracing::warn!(
            "our zone is not known, so prefer_zone has no effect; set service.meta.zone, or zone in the node_meta of the agent"
        );
    }
}

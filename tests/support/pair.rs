//! The smallest mesh: `web` calls `users`, each behind a sidecar, on the embedded registry, mTLS between them.

use serde_json::json;

use super::certs::Authority;
use super::sidecar::{Builder, Sidecar};
use super::{Agent, Answer, App, Ask, Embedded};

pub struct Pair {
    // Dropped in this order: sidecars before what they depend on.
    pub web: Sidecar,
    pub users: Sidecar,
    pub app: App,
    pub authority: Authority,
    pub registry: Embedded,
}

impl Pair {
    pub fn start() -> Self {
        Self::with(|users| users, |web| web)
    }

    /// `web` declares no upstream by itself where `web` does: it has `users` with a port of its own.
    pub fn with(users: impl FnOnce(Builder) -> Builder, web: impl FnOnce(Builder) -> Builder) -> Self {
        let registry = Embedded::start();
        let authority = Authority::new("mesh.test");
        let app = App::start("users-1");
        let users = users(sidecar("users", registry.agent(), &authority).app(&app)).start();
        registry.agent().wait_for("users", users.id(), "passing");
        let web = web(sidecar("web", registry.agent(), &authority).upstream("users", json!({}))).start();
        Self { web, users, app, authority, registry }
    }

    /// Another instance of `users`, ready and passing.
    pub fn another(&self, app: &App) -> Sidecar {
        let users = sidecar("users", self.registry.agent(), &self.authority).app(app).start();
        self.registry.agent().wait_for("users", users.id(), "passing");
        users
    }

    /// `GET path` of users through web's shared outbound port.
    #[track_caller]
    pub fn get(&self, path: &str) -> Answer {
        Ask::get(path).host("users").send(self.web.outbound())
    }
}

/// A sidecar on that registry with a leaf of that authority.
pub fn sidecar(service: &str, agent: Agent, authority: &Authority) -> Builder {
    Sidecar::of(service).consul(agent).authority(authority)
}

//! One sidecar, `web`, whose upstream `users` are endpoints that a test made: plain, and listed in the config.

use std::ops::Deref;

use serde_json::Value;

use super::Embedded;
use super::certs::Authority;
use super::endpoint::{Endpoint, plain};
use super::pair::sidecar;
use super::sidecar::{Builder, Sidecar};

pub struct Lone {
    web: Sidecar,
    _authority: Authority,
    _registry: Embedded,
}

impl Lone {
    /// `more` is merged into the upstream.
    pub fn of(endpoints: &[&Endpoint], more: &Value) -> Self {
        Self::with(endpoints, more, |web| web)
    }

    pub fn with(endpoints: &[&Endpoint], more: &Value, change: impl FnOnce(Builder) -> Builder) -> Self {
        let mut upstream = plain(endpoints);
        for (key, value) in more.as_object().into_iter().flatten() {
            upstream[key] = value.clone();
        }
        let (registry, authority) = (Embedded::start(), Authority::new("mesh.test"));
        let web = change(sidecar("web", registry.agent(), &authority).upstream("users", upstream)).start();
        Self { web, _authority: authority, _registry: registry }
    }
}

impl Deref for Lone {
    type Target = Sidecar;

    fn deref(&self) -> &Sidecar {
        &self.web
    }
}

//! What each plugin is told, by name, and the order in which plugins run.

use std::sync::Arc;

use super::{
    Context, Filter, acl, basic_auth, bot_detection, correlation_id, cors, fault, ip_restriction, jwt, key_auth,
    rate_limiting, request_size_limiting, request_termination, request_transformer, response_transformer,
};

/// A plugin as configured.
#[derive(Debug, Clone, PartialEq)]
pub struct Plugin {
    pub mode: Mode,
    pub settings: Settings,
    /// The part of the configuration that it stands in, by name: what it remembers is that part's.
    pub scope: Arc<str>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Enforce,
    /// Counts what it would have done, and lets the request pass as it came.
    Shadow,
}

/// What each plugin is told. One variant a plugin.
#[derive(Debug, Clone, PartialEq)]
pub enum Settings {
    Acl(acl::Settings),
    BasicAuth(basic_auth::Settings),
    BotDetection(bot_detection::Settings),
    CorrelationId(correlation_id::Settings),
    Cors(Box<cors::Settings>),
    Fault(fault::Settings),
    IpRestriction(ip_restriction::Settings),
    Jwt(jwt::Settings),
    /// `jwt` in Kong's form.
    KongJwt(jwt::kong::Settings),
    KeyAuth(key_auth::Settings),
    RateLimiting(Box<rate_limiting::Settings>),
    RequestSizeLimiting(request_size_limiting::Settings),
    RequestTermination(request_termination::Settings),
    RequestTransformer(Box<request_transformer::Settings>),
    ResponseTransformer(Box<response_transformer::Settings>),
}

impl Settings {
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Acl(_) => "acl",
            Self::BasicAuth(_) => "basic-auth",
            Self::BotDetection(_) => "bot-detection",
            Self::CorrelationId(_) => "correlation-id",
            Self::Cors(_) => "cors",
            Self::Fault(_) => "fault",
            Self::IpRestriction(_) => "ip-restriction",
            Self::Jwt(_) | Self::KongJwt(_) => "jwt",
            Self::KeyAuth(_) => "key-auth",
            Self::RateLimiting(_) => "rate-limiting",
            Self::RequestSizeLimiting(_) => request_size_limiting::NAME,
            Self::RequestTermination(_) => "request-termination",
            Self::RequestTransformer(_) => "request-transformer",
            Self::ResponseTransformer(_) => "response-transformer",
        }
    }

    /// Higher runs first, for requests and answers alike: Kong's numbers where Kong has the plugin. `fault` has none of
    /// Kong's: it stands behind all that decides who may call, as faults are for those who may.
    pub(super) const fn priority(&self) -> u32 {
        match self {
            Self::CorrelationId(_) => 100_001,
            Self::BotDetection(_) => 2500,
            Self::Cors(_) => 2000,
            Self::Jwt(_) | Self::KongJwt(_) => 1450,
            Self::KeyAuth(_) => 1250,
            Self::BasicAuth(_) => 1100,
            Self::IpRestriction(_) => 990,
            Self::RequestSizeLimiting(_) => 951,
            Self::Acl(_) => 950,
            Self::RateLimiting(_) => 910,
            Self::RequestTransformer(_) => 801,
            Self::ResponseTransformer(_) => 800,
            Self::Fault(_) => 5,
            Self::RequestTermination(_) => 2,
        }
    }

    pub(super) fn build(&self, scope: &str, context: &Context) -> Box<dyn Filter> {
        match self {
            Self::Acl(settings) => Box::new(acl::Acl::new(settings.clone())),
            Self::BasicAuth(settings) => Box::new(basic_auth::BasicAuth::new(settings, &context.consumers)),
            Self::BotDetection(settings) => Box::new(bot_detection::BotDetection::new(settings.clone())),
            Self::CorrelationId(settings) => Box::new(correlation_id::CorrelationId::new(settings.clone())),
            Self::Cors(settings) => Box::new(cors::Cors::new(settings)),
            Self::Fault(settings) => Box::new(fault::Fault::new(settings.clone())),
            Self::IpRestriction(settings) => Box::new(ip_restriction::IpRestriction::new(settings.clone())),
            Self::Jwt(settings) => Box::new(context.jwt.filter(settings)),
            Self::KongJwt(settings) => Box::new(jwt::kong::KongJwt::new(settings.clone(), &context.consumers)),
            Self::KeyAuth(settings) => Box::new(key_auth::KeyAuth::new(settings.clone(), &context.consumers)),
            Self::RateLimiting(settings) => {
                Box::new(rate_limiting::RateLimiting::new(settings, scope, &context.limiters, &context.metrics))
            }
            Self::RequestSizeLimiting(settings) => {
                Box::new(request_size_limiting::RequestSizeLimiting::new(settings, &context.metrics))
            }
            Self::RequestTermination(settings) => {
                Box::new(request_termination::RequestTermination::new(settings.clone()))
            }
            Self::RequestTransformer(settings) => {
                Box::new(request_transformer::RequestTransformer::new((**settings).clone()))
            }
            Self::ResponseTransformer(settings) => {
                Box::new(response_transformer::ResponseTransformer::new((**settings).clone()))
            }
        }
    }
}

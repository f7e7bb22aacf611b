//! Every reason for which outrigger itself answers, with its facts in one table. A code is the `x-outrigger-reason`
//! header, the body's `error`, the metric label, the access-log field and a row of `docs/reasons.md`.

use http::StatusCode;

/// Why outrigger answered instead of the service that was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    BadRequest,
    NotIdentified,
    Denied,
    NoRoute,
    RequestTimeout,
    BodyTooLarge,
    HeadTooLarge,
    RateLimited,
    ClientGone,
    InternalBug,
    ConnectFailed,
    WrongPeer,
    UpstreamReset,
    BadResponse,
    UnknownService,
    NoEndpoint,
    AllEjected,
    Overloaded,
    KeysUnavailable,
    Draining,
    Deadline,
    Loop,
}

/// Who would have to act for the reason to go away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blame {
    Client,
    Mesh,
    Upstream,
    Outrigger,
}

impl Blame {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Mesh => "mesh",
            Self::Upstream => "upstream",
            Self::Outrigger => "outrigger",
        }
    }
}

/// All that is fixed about a reason.
#[derive(Debug, Clone, Copy)]
pub struct Facts {
    pub code: &'static str,
    pub status: StatusCode,
    /// gRPC status code (grpc/grpc `doc/statuscodes.md`).
    pub grpc: u8,
    pub blame: Blame,
    /// Seconds for `Retry-After`, where a time is known beforehand.
    pub retry_after: Option<u32>,
    /// One sentence for the client, with the next step. Never an inner address or cause.
    pub message: &'static str,
}

impl Reason {
    pub const ALL: [Self; 22] = [
        Self::BadRequest,
        Self::NotIdentified,
        Self::Denied,
        Self::NoRoute,
        Self::RequestTimeout,
        Self::BodyTooLarge,
        Self::HeadTooLarge,
        Self::RateLimited,
        Self::ClientGone,
        Self::InternalBug,
        Self::ConnectFailed,
        Self::WrongPeer,
        Self::UpstreamReset,
        Self::BadResponse,
        Self::UnknownService,
        Self::NoEndpoint,
        Self::AllEjected,
        Self::Overloaded,
        Self::KeysUnavailable,
        Self::Draining,
        Self::Deadline,
        Self::Loop,
    ];

    /// No wildcard on purpose: a new reason does not compile until it has its facts.
    #[must_use]
    #[expect(clippy::too_many_lines, reason = "one table: a row a reason")]
    pub const fn facts(self) -> Facts {
        use Blame::{Client, Mesh, Outrigger, Upstream};
        match self {
            Self::BadRequest => facts(
                "bad_request",
                StatusCode::BAD_REQUEST,
                13,
                Client,
                "The request is not valid HTTP; correct it before sending it again.",
            ),
            Self::NotIdentified => facts(
                "not_identified",
                StatusCode::UNAUTHORIZED,
                16,
                Client,
                "The caller is not identified; send the credential that this service asks for.",
            ),
            Self::Denied => facts(
                "denied",
                StatusCode::FORBIDDEN,
                7,
                Client,
                "The caller is known but may not do this; ask the service's owner for access.",
            ),
            Self::NoRoute => facts(
                "no_route",
                StatusCode::NOT_FOUND,
                12,
                Client,
                "No route matches; name a declared upstream in Host, or add a route.",
            ),
            Self::RequestTimeout => facts(
                "request_timeout",
                StatusCode::REQUEST_TIMEOUT,
                4,
                Client,
                "The request did not arrive in time; send it again, faster.",
            ),
            Self::BodyTooLarge => facts(
                "body_too_large",
                StatusCode::PAYLOAD_TOO_LARGE,
                8,
                Client,
                "The request body is larger than allowed; send less at once.",
            ),
            Self::HeadTooLarge => facts(
                "head_too_large",
                StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
                8,
                Client,
                "The request head is larger than allowed; send fewer or shorter headers.",
            ),
            Self::RateLimited => facts(
                "rate_limited",
                StatusCode::TOO_MANY_REQUESTS,
                8,
                Client,
                "Too many requests; wait as long as Retry-After says.",
            ),
            Self::ClientGone => facts("client_gone", CLIENT_GONE, 1, Client, "The client went away before the answer."),
            Self::InternalBug => facts(
                "internal_bug",
                StatusCode::INTERNAL_SERVER_ERROR,
                13,
                Outrigger,
                "Outrigger failed; please report it with the request id.",
            ),
            Self::ConnectFailed => facts(
                "connect_failed",
                StatusCode::BAD_GATEWAY,
                14,
                Upstream,
                "No connection to the service could be made; check that it runs and is reachable.",
            ),
            Self::WrongPeer => facts(
                "wrong_peer",
                StatusCode::BAD_GATEWAY,
                14,
                Upstream,
                "The instance did not prove to be the service that was asked for; check its certificate.",
            ),
            Self::UpstreamReset => facts(
                "upstream_reset",
                StatusCode::BAD_GATEWAY,
                14,
                Upstream,
                "The service closed the connection before it answered; check its log, then try again.",
            ),
            Self::BadResponse => facts(
                "bad_response",
                StatusCode::BAD_GATEWAY,
                13,
                Upstream,
                "The service answered with something that is not valid HTTP; check its log.",
            ),
            Self::UnknownService => facts(
                "unknown_service",
                StatusCode::SERVICE_UNAVAILABLE,
                14,
                Mesh,
                "This name is not a declared upstream; add it under outbound.upstreams.",
            ),
            Self::NoEndpoint => facts(
                "no_endpoint",
                StatusCode::SERVICE_UNAVAILABLE,
                14,
                Mesh,
                "No healthy instance of the service is known; check its registration and health in Consul.",
            ),
            Self::AllEjected => facts(
                "all_ejected",
                StatusCode::SERVICE_UNAVAILABLE,
                14,
                Mesh,
                "Every instance of the service failed lately and is left out for a while; wait, then try again.",
            ),
            Self::Overloaded => {
                let mut facts = facts(
                    "overloaded",
                    StatusCode::SERVICE_UNAVAILABLE,
                    14,
                    Mesh,
                    "Too much is under way already; wait as long as Retry-After says.",
                );
                facts.retry_after = Some(1);
                facts
            }
            Self::KeysUnavailable => facts(
                "keys_unavailable",
                StatusCode::SERVICE_UNAVAILABLE,
                14,
                Mesh,
                "The keys to check the token were never seen; check the key set's address.",
            ),
            Self::Draining => {
                let mut facts = facts(
                    "draining",
                    StatusCode::SERVICE_UNAVAILABLE,
                    14,
                    Mesh,
                    "This instance is shutting down; send the request to another one.",
                );
                facts.retry_after = Some(1);
                facts
            }
            Self::Deadline => facts(
                "deadline",
                StatusCode::GATEWAY_TIMEOUT,
                4,
                Upstream,
                "The service did not answer in time; try again, or raise the upstream's timeout.",
            ),
            Self::Loop => facts(
                "loop",
                StatusCode::LOOP_DETECTED,
                13,
                Mesh,
                "The request came back to where it started; check the routes and upstreams for a circle.",
            ),
        }
    }

    #[must_use]
    pub const fn code(self) -> &'static str {
        self.facts().code
    }

    #[must_use]
    pub const fn status(self) -> StatusCode {
        self.facts().status
    }

    /// Position in `ALL`, for tables with one slot a reason.
    #[must_use]
    pub const fn index(self) -> usize {
        self as usize
    }
}

const fn facts(code: &'static str, status: StatusCode, grpc: u8, blame: Blame, message: &'static str) -> Facts {
    Facts { code, status, grpc, blame, retry_after: None, message }
}

/// nginx's 499, which Kong and Envoy's access log use too.
const CLIENT_GONE: StatusCode = match StatusCode::from_u16(499) {
    Ok(status) => status,
    Err(_) => panic!("499 is a valid status"),
};

/// The text of `docs/reasons.md`; a test compares.
#[must_use]
pub fn markdown() -> String {
    let mut page = String::from(
        "# Reasons\n\nWhen outrigger itself answers, `x-outrigger-reason` carries one of these codes. The body is\n\
         `{\"error\":\"CODE\",\"message\":\"…\",\"request_id\":\"…\"}`; gRPC callers get a trailers-only status.\n\
         Generated from `src/reason.rs` by `just docs`.\n\n\
         | code | status | gRPC | who can mend it | message |\n|---|---|---|---|---|\n",
    );
    for reason in Reason::ALL {
        let facts = reason.facts();
        page += &format!(
            "| `{}` | {} | {} | {} | {} |\n",
            facts.code,
            facts.status.as_u16(),
            facts.grpc,
            facts.blame.as_str(),
            facts.message
        );
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_the_contract() {
        let contract = "bad_request 400/13, not_identified 401/16, denied 403/7, no_route 404/12, request_timeout 408/4, \
            body_too_large 413/8, head_too_large 431/8, rate_limited 429/8, client_gone 499/1, internal_bug 500/13, \
            connect_failed 502/14, wrong_peer 502/14, upstream_reset 502/14, bad_response 502/13, unknown_service 503/14, \
            no_endpoint 503/14, all_ejected 503/14, overloaded 503/14, keys_unavailable 503/14, draining 503/14, \
            deadline 504/4, loop 508/13";
        let ours: Vec<String> =
            Reason::ALL.iter().map(|r| format!("{} {}/{}", r.code(), r.status().as_u16(), r.facts().grpc)).collect();
        assert_eq!(ours.join(", "), contract);
    }

    #[test]
    fn a_reason_is_found_at_its_index() {
        for (at, reason) in Reason::ALL.iter().enumerate() {
            assert_eq!(reason.index(), at);
        }
    }
}

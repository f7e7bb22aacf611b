//! What a try's end means: for the metrics, for trying again, for its endpoint's breaker, for the caller.

use std::time::Duration;

use http::{HeaderMap, HeaderName, StatusCode, header};

use super::answer::REASON;
use super::exchange::Exchange;
use super::gather::Gathered;
use super::headers::seconds;
use crate::clock;
use crate::reason::Reason;
use crate::route::{Failure, Route};
use crate::service::{BreakerState, Endpoint, Lease, Transition};
use crate::telemetry::{BreakerChange, Flow, TryOutcome};
use crate::upstream::{AttemptError, BodyFate, Failed};

/// The verdict on a try without an answer.
pub(super) struct Judged {
    pub outcome: TryOutcome,
    pub failure: Failure,
    pub reason: Reason,
}

/// What a failed try means.
pub(super) fn judge(failed: &Failed, exchange: &Exchange) -> Judged {
    let judged = |outcome, failure, reason| Judged { outcome, failure, reason };
    match &failed.error {
        AttemptError::Connect { .. } | AttemptError::NoIdentity => {
            judged(TryOutcome::ConnectFailed, Failure::Unsent, Reason::ConnectFailed)
        }
        AttemptError::WrongPeer { .. } | AttemptError::BadPeer { .. } => {
            judged(TryOutcome::WrongPeer, Failure::Unsent, Reason::WrongPeer)
        }
        AttemptError::Unsent(_) => judged(TryOutcome::Unsent, Failure::Unsent, Reason::UpstreamReset),
        AttemptError::Reset(_) => match exchange.upload_fate() {
            BodyFate::Fine => {
                judged(TryOutcome::Reset, Failure::Reset { reused: failed.reused }, Reason::UpstreamReset)
            }
            fate => judged(TryOutcome::Cancelled, Failure::Final, body_reason(fate)),
        },
        AttemptError::BadRequest(_) => judged(TryOutcome::Cancelled, Failure::Final, Reason::BadRequest),
        // Another endpoint's connections are under the same limit.
        AttemptError::Overloaded => judged(TryOutcome::Unsent, Failure::Final, Reason::Overloaded),
        AttemptError::BadResponse(_) => judged(TryOutcome::BadResponse, Failure::Final, Reason::BadResponse),
        AttemptError::RequestBody(_) => {
            judged(TryOutcome::Cancelled, Failure::Final, body_reason(exchange.upload_fate()))
        }
    }
}

fn body_reason(fate: BodyFate) -> Reason {
    match fate {
        BodyFate::Stalled => Reason::RequestTimeout,
        BodyFate::Broken => Reason::ClientGone,
        BodyFate::TooLong => Reason::BodyTooLarge,
        // Fine as far as it came, yet refused by HTTP/2's own rules.
        BodyFate::Malformed | BodyFate::Fine => Reason::BadRequest,
    }
}

/// What the endpoint's state learns of a failure.
pub(super) fn note_failure(route: &Route, lease: &Lease, error: &AttemptError) {
    let now = clock::now();
    let transition = match error {
        AttemptError::Connect { .. } | AttemptError::WrongPeer { .. } | AttemptError::BadPeer { .. } => {
            lease.unreachable(now)
        }
        AttemptError::Reset(_) | AttemptError::BadResponse(_) => lease.broke(PENALTY, now),
        AttemptError::NoIdentity
        | AttemptError::Overloaded
        | AttemptError::Unsent(_)
        | AttemptError::RequestBody(_)
        | AttemptError::BadRequest(_) => None,
    };
    note_transition(route, lease, transition, error);
}

/// What became of an endpoint's breaker through one request.
pub(super) fn note_transition(
    route: &Route,
    lease: &Lease,
    transition: Option<Transition>,
    cause: &dyn std::fmt::Display,
) {
    if let Some(transition) = transition {
        note_breaker(&route.flow, lease.endpoint(), transition, cause);
    }
}

/// Says once what became of an endpoint's breaker, and counts it.
pub fn note_breaker(flow: &Flow, endpoint: &Endpoint, transition: Transition, cause: &dyn std::fmt::Display) {
    let Transition { to, cause: why, open_for } = transition;
    let (service, endpoint) = (flow.service(), endpoint.listing.address);
    flow.breaker(match to {
        BreakerState::Open => {
            tracing::warn!(service, %endpoint, ?why, %cause, ?open_for, "endpoint ejected");
            BreakerChange::Open
        }
        BreakerState::HalfOpen => {
            tracing::info!(service, %endpoint, "endpoint probed with one request");
            BreakerChange::HalfOpen
        }
        BreakerState::Closed => {
            tracing::info!(service, %endpoint, ?why, "endpoint back in use");
            BreakerChange::Closed
        }
    });
}

/// A reset or a bad answer counts as an answer this slow, so that others are preferred for a while.
pub(super) const PENALTY: Duration = Duration::from_millis(250);

/// How an answer is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Taken {
    /// Its status, or what its gRPC status says.
    pub status: StatusCode,
    /// The endpoint is well but has too much to do, or is on its way out: no failure of its, yet others may do better.
    pub shed: bool,
}

/// Reads an answer's head; `bodiless` where nothing follows it.
pub(super) fn take(status: StatusCode, headers: &HeaderMap, bodiless: bool) -> Taken {
    if status == StatusCode::OK && bodiless {
        let grpc = headers.get(GRPC_STATUS).and_then(|value| value.to_str().ok()?.parse().ok());
        return Taken { status: grpc.map_or(status, grpc_as_http), shed: is_shed(headers) };
    }
    Taken { status, shed: status.is_server_error() && is_shed(headers) }
}

fn is_shed(headers: &HeaderMap) -> bool {
    let by = |reason: Reason| headers.get(REASON).is_some_and(|code| code == reason.code());
    by(Reason::Overloaded) || by(Reason::Draining)
}

/// A gRPC status that came instead of messages ("Trailers-Only"), as Envoy's outlier detection reads it
/// (`Grpc::Utility::grpcToHttpStatus`).
fn grpc_as_http(code: u16) -> StatusCode {
    match code {
        2 | 13 | 15 => StatusCode::INTERNAL_SERVER_ERROR,
        4 => StatusCode::GATEWAY_TIMEOUT,
        8 => StatusCode::TOO_MANY_REQUESTS,
        14 => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::OK,
    }
}

/// How long the answer asks to be left alone (RFC 9110 §10.2.3, the form in seconds).
pub(super) fn retry_after(gathered: &Gathered) -> Option<Duration> {
    let headers = match gathered {
        Gathered::Whole(response) => response.headers(),
        Gathered::Begun(response) => response.headers(),
    };
    seconds(headers.get(header::RETRY_AFTER)?)
}

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn taken(status: u16, pairs: &[(&'static str, &'static str)], bodiless: bool) -> (u16, bool) {
        let headers: HeaderMap =
            pairs.iter().map(|(n, v)| (HeaderName::from_static(n), HeaderValue::from_static(v))).collect();
        let taken = take(StatusCode::from_u16(status).unwrap(), &headers, bodiless);
        (taken.status.as_u16(), taken.shed)
    }

    #[test]
    fn a_grpc_status_without_messages_counts_as_its_http_status() {
        for (code, status) in [("0", 200), ("14", 503), ("4", 504), ("8", 429), ("13", 500), ("5", 200), ("x", 200)] {
            assert_eq!(taken(200, &[("grpc-status", code)], true), (status, false), "{code}");
        }
        assert_eq!(taken(200, &[("grpc-status", "14")], false), (200, false), "messages follow");
    }

    #[test]
    fn a_peer_that_sheds_load_is_not_ill() {
        assert_eq!(taken(503, &[("x-outrigger-reason", "overloaded")], true), (503, true));
        assert_eq!(taken(503, &[("x-outrigger-reason", "draining")], false), (503, true));
        assert_eq!(taken(503, &[("x-outrigger-reason", "no_endpoint")], false), (503, false));
        assert_eq!(taken(503, &[], false), (503, false));
        let grpc = [("grpc-status", "14"), ("x-outrigger-reason", "overloaded")];
        assert_eq!(taken(200, &grpc, true), (503, true));
    }
}

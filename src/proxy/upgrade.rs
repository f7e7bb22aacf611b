//! Requests that leave HTTP: Upgrade (RFC 9110 §7.8), WebSocket as an extended CONNECT (RFC 8441), and CONNECT to a
//! declared TCP upstream (RFC 9110 §9.3.6).

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version, header};
use hyper::ext::Protocol;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;

use super::Refusal;
use super::body::ResponseBody;
use super::exchange::Exchange;
use super::gather::Begun;
use super::headers;
use super::opening::Opening;
use super::outbound::finish;
use super::tries::Answer;
use super::tunnel::Tunnel;
use super::verdict::note_transition;
use crate::clock;
use crate::lifecycle::Lifecycle;
use crate::listen::Connection;
use crate::reason::Reason;
use crate::route::Route;
use crate::service::Lease;
use crate::stream::Stream;
use crate::upstream::{Held, Pool, RequestBody, Switch, Turned, Want, websocket};

/// What a caller asks to switch to.
pub(super) struct Wish {
    /// The caller's stream, once our answer has said that it switches.
    client: OnUpgrade,
    way: Way,
}

enum Way {
    /// `Upgrade`; a WebSocket's key is kept for its answer.
    Http1 { switch: Switch, key: Option<HeaderValue> },
    /// An extended CONNECT for `websocket`.
    Http2,
    /// A plain CONNECT.
    Connect,
}

/// Where a tunnel runs, and for whose connection.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    pub pool: &'a Pool,
    /// Tunnels are its tasks: they take part in its drain.
    pub lifecycle: &'a Lifecycle,
    pub connection: &'a Arc<Connection>,
}

impl Wish {
    /// The wish of a request, where it has one that can be granted. To be asked before anything is stripped.
    ///
    /// # Errors
    /// `BadRequest` for an extended CONNECT to something else than a WebSocket.
    pub(super) fn of<B>(request: &mut Request<B>) -> Result<Option<Self>, Refusal> {
        // hyper puts it there for CONNECT, and for HTTP/1.1's Upgrade.
        let Some(client) = request.extensions_mut().remove::<OnUpgrade>() else { return Ok(None) };
        let way = match request.extensions_mut().remove::<Protocol>() {
            Some(protocol) if protocol.as_str().eq_ignore_ascii_case(websocket::TOKEN) => Way::Http2,
            Some(protocol) => {
                let detail = format!("CONNECT for {:?}: only websocket is carried", protocol.as_str());
                return Err(Refusal::new(Reason::BadRequest, detail));
            }
            None if *request.method() == Method::CONNECT => Way::Connect,
            None => match upgrade_of(request.version(), request.headers()) {
                Some(switch) => Way::Http1 { switch, key: request.headers().get(websocket::KEY).cloned() },
                None => return Ok(None),
            },
        };
        Ok(Some(Self { client, way }))
    }

    pub(super) fn is_connect(&self) -> bool {
        matches!(self.way, Way::Connect)
    }

    /// An extended CONNECT says as a request what Upgrade says in headers: as GET it is the same for both.
    pub(super) fn make_ordinary<B>(&self, request: &mut Request<B>) {
        if matches!(self.way, Way::Http2) {
            *request.method_mut() = Method::GET;
        }
    }

    fn switch(&self) -> Switch {
        match &self.way {
            Way::Http1 { switch, .. } => switch.clone(),
            Way::Http2 | Way::Connect => Switch { tokens: HeaderValue::from_static(websocket::TOKEN), websocket: true },
        }
    }
}

/// The protocols that Upgrade names, without `h2c`: behind it requests would pass unseen.
fn upgrade_of(version: Version, headers: &HeaderMap) -> Option<Switch> {
    let listed = |name| {
        let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
        values.flat_map(|value| value.split(',')).map(str::trim).filter(|token| !token.is_empty())
    };
    // RFC 9110 §7.8: ignored in HTTP/1.0, and where Connection does not name it.
    if version != Version::HTTP_11 || !listed(header::CONNECTION).any(|name| name.eq_ignore_ascii_case("upgrade")) {
        return None;
    }
    let wanted: Vec<&str> = listed(header::UPGRADE).filter(|token| !is_http(token)).collect();
    let websocket = matches!(wanted.as_slice(), [token] if token.eq_ignore_ascii_case(websocket::TOKEN));
    let tokens = HeaderValue::from_str(&wanted.join(", ")).ok()?;
    (!wanted.is_empty()).then_some(Switch { tokens, websocket })
}

/// Other versions of HTTP are each hop's own business.
fn is_http(token: &str) -> bool {
    let name = token.split('/').next().unwrap_or_default();
    ["h2c", "h2", "http", "tls"].iter().any(|other| name.eq_ignore_ascii_case(other))
}

/// What an opened tunnel needs to begin.
pub(super) struct Opened {
    response: Response<()>,
    tunnel: Ends,
}

struct Ends {
    lease: Lease,
    held: Held,
    took: Duration,
    proven: bool,
    endpoint: Box<dyn Stream>,
}

/// What became of a wish.
pub(super) enum Outcome {
    Opened(Box<Opened>),
    /// The endpoint did not switch.
    Answer(Box<Answer>),
}

/// Asks endpoints until one answers.
///
/// # Errors
/// The reason for the caller.
pub(super) async fn ask(
    place: Place<'_>,
    route: &Route,
    request: Request<RequestBody>,
    key: Option<u64>,
    wish: &Wish,
    exchange: &mut Exchange,
) -> Result<Outcome, Refusal> {
    refuse_new(place)?;
    let switch = wish.switch();
    let want = Want {
        http2: route.http2,
        authority: route.authority.as_ref(),
        connect_timeout: route.connect_timeout,
        limit: route.service.connections(),
    };
    let mut opening = Opening::begin(route, key, request.headers(), exchange)?;
    let mut request = request;
    loop {
        let lease = opening.next(exchange)?;
        opening.tell(request.headers_mut());
        let sent = opening.within(&lease, place.pool.switch(lease.endpoint(), request, &switch, want)).await?;
        match sent {
            Ok(Turned::Switched(switched)) => {
                let now = clock::now();
                let response = switched_answer(&switched.head, &wish.way, &switch);
                exchange.answered(response.status(), now);
                note_transition(route, &lease, lease.answered(switched.at, now, true), &"");
                opening.answered();
                let (endpoint, held) = (Box::new(switched.stream), switched.held);
                let took = now.saturating_duration_since(switched.at);
                let tunnel = Ends { lease, held, took, proven: true, endpoint };
                return Ok(Outcome::Opened(Box::new(Opened { response, tunnel })));
            }
            Ok(Turned::Answered(sent)) => {
                let now = clock::now();
                let status = sent.response.status();
                exchange.answered(status, now);
                let transition = lease.answered(sent.at, now, !route.failures.contains(status));
                note_transition(route, &lease, transition, &status);
                opening.answered();
                let response = sent.response.map(|rest| Begun { ahead: Bytes::new(), rest });
                return Ok(Outcome::Answer(Box::new(Answer::Streaming(response, lease))));
            }
            Err(failed) => {
                let at_hand = failed.request.is_some();
                opening.failed(lease, &failed, at_hand, exchange).await?;
                let lost = || Refusal::new(Reason::InternalBug, "a retry without a request");
                request = failed.request.ok_or_else(lost)?;
            }
        }
    }
}

/// Connects to a TCP upstream for CONNECT.
///
/// # Errors
/// The reason for the caller.
pub(super) async fn connect(
    place: Place<'_>,
    route: &Route,
    key: Option<u64>,
    exchange: &mut Exchange,
) -> Result<Outcome, Refusal> {
    refuse_new(place)?;
    let (endpoint, held, lease, took) = super::tcp::open(place.pool, route, key, exchange).await?;
    exchange.answered(StatusCode::OK, clock::now());
    let tunnel = Ends { lease, held, took, proven: false, endpoint };
    Ok(Outcome::Opened(Box::new(Opened { response: Response::new(()), tunnel })))
}

/// During a drain what is open may end; nothing that may last for hours begins.
fn refuse_new(place: Place<'_>) -> Result<(), Refusal> {
    if place.lifecycle.is_draining() {
        return Err(Refusal::new(Reason::Draining, "no new tunnel while draining"));
    }
    Ok(())
}

/// The answer to the caller; the tunnel begins when it is out.
pub(super) fn answer(
    outcome: Outcome,
    wish: Wish,
    place: Place<'_>,
    route: &Arc<Route>,
    exchange: Exchange,
) -> Response<ResponseBody> {
    let opened = match outcome {
        Outcome::Opened(opened) => opened,
        Outcome::Answer(answer) => return finish(*answer, route.idle_timeout, exchange),
    };
    let Opened { response, tunnel: Ends { lease, held, took, proven, endpoint } } = *opened;
    let (hold, route) = (place.connection.hold(), route.clone());
    let tunnel = Tunnel { exchange, route, lease, _held: held, hold, took, proven };
    let lifecycle = place.lifecycle.clone();
    place.lifecycle.spawn("tunnel", async move {
        // An error: the client was gone before it had our answer. The tunnel's record says so when it is dropped.
        if let Ok(client) = wish.client.await {
            tunnel.run(TokioIo::new(client), endpoint, lifecycle).await;
        }
    });
    response.map(|()| ResponseBody::none())
}

/// The answer that switches, in the caller's protocol.
fn switched_answer(head: &http::response::Parts, way: &Way, switch: &Switch) -> Response<()> {
    let mut response = Response::new(());
    *response.headers_mut() = head.headers.clone();
    let headers = response.headers_mut();
    let chosen = headers.get(header::UPGRADE).cloned();
    headers::strip_hop_by_hop(headers);
    headers.remove(header::CONTENT_LENGTH);
    match way {
        Way::Http1 { key, .. } => {
            headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
            headers.insert(header::UPGRADE, chosen.unwrap_or_else(|| switch.tokens.clone()));
            if let (Some(key), true, false) = (key, switch.websocket, headers.contains_key(websocket::ACCEPT)) {
                headers.insert(websocket::ACCEPT, websocket::accept_of(key));
            }
            *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        }
        Way::Http2 | Way::Connect => {
            headers.remove(websocket::ACCEPT);
        }
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(pairs: &[(&'static str, &'static str)], version: Version) -> Option<(String, bool)> {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_static(value));
        }
        upgrade_of(version, &headers).map(|s| (s.tokens.to_str().unwrap().to_owned(), s.websocket))
    }

    #[test]
    fn only_what_connection_names_is_a_wish_and_never_http() {
        let now = Version::HTTP_11;
        let wish = |text: &str, websocket| Some((text.to_owned(), websocket));
        assert_eq!(tokens(&[("connection", "Upgrade"), ("upgrade", "WebSocket")], now), wish("WebSocket", true));
        assert_eq!(tokens(&[("connection", "keep-alive, upgrade"), ("upgrade", "tcp")], now), wish("tcp", false));
        assert_eq!(tokens(&[("connection", "upgrade"), ("upgrade", "h2c, foo/1")], now), wish("foo/1", false));
        assert_eq!(tokens(&[("connection", "upgrade"), ("upgrade", "h2c")], now), None);
        assert_eq!(tokens(&[("connection", "upgrade"), ("upgrade", "TLS/1.2, HTTP/1.1")], now), None);
        assert_eq!(tokens(&[("connection", "close"), ("upgrade", "websocket")], now), None);
        assert_eq!(tokens(&[("upgrade", "websocket")], now), None);
        assert_eq!(tokens(&[("connection", "upgrade"), ("upgrade", "websocket")], Version::HTTP_10), None);
    }
}

//! Rules and plugins on a request's way: one spelling of its path, the plugins of the rule that matched, the answers that
//! rules and plugins give themselves.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderValue};
use http::uri::PathAndQuery;
use http::{Extensions, Response, StatusCode, Uri, request};
use ipnet::IpNet;

use super::answer::Dialect;
use super::body::ResponseBody;
use super::exchange::Exchange;
use super::outbound::refuse;
use super::{Refusal, headers};
use crate::clock;
use crate::filter::request_size_limiting::BodyCap;
use crate::filter::request_transformer::ReplacedHost;
use crate::filter::{self, Call, Caller, Chain, End, Wording};
use crate::listen::Connection;
use crate::reason::Reason;
use crate::route::{self, Reply, Rule, Subject};
use crate::telemetry::trace::X_REQUEST_ID;

/// Why a request ends without an endpoint's answer.
pub(super) enum Ended {
    Refused(Refusal),
    /// With fields that a plugin adds to the refusal, and its words.
    Denied(Box<(Refusal, HeaderMap, Option<Wording>)>),
    /// A rule or a plugin answers: no failure.
    Replied(Box<filter::Answer>),
}

impl From<Refusal> for Ended {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

/// The plugins that a request met, for its answer. Without any it costs a branch each way.
#[derive(Default)]
pub(super) struct Passage {
    filters: Chain,
    stash: Extensions,
}

impl Passage {
    /// Runs the plugins of a route, and awaits what they delay: at most until the route's timeout is over.
    pub(super) async fn request(
        &mut self,
        filters: &Chain,
        head: &mut request::Parts,
        (connection, trusted): (&Connection, &[IpNet]),
        exchange: &mut Exchange,
        timeout: Option<Duration>,
    ) -> Result<(), Ended> {
        if filters.is_empty() {
            return Ok(());
        }
        self.filters = filters.clone();
        // Some plugins go by the path.
        normalise(head)?;
        let (client, entropy) = (client_of(connection, head, trusted), fastrand::u64(..));
        let mut ran = filters.request(self.call(head, (connection, client), entropy));
        if ran.asks.is_some() {
            ran = Box::pin(self.ask(ran, head, (connection, client), entropy)).await;
            exchange.waited();
        }
        exchange.note(&ran.detail);
        if !ran.delay.is_zero() {
            let delay = timeout.map_or(ran.delay, |timeout| ran.delay.min(timeout));
            Box::pin(tokio::time::sleep(delay)).await;
            exchange.waited();
        }
        match ran.end.map(|end| *end) {
            None => {
                if let Some(cap) = self.stash.get::<BodyCap>() {
                    exchange.caps_body(cap.clone());
                }
                Ok(())
            }
            Some(End::Answer(answer)) => Err(Ended::Replied(Box::new(answer))),
            Some(End::Refuse { reason, headers, wording, .. }) => {
                // The detail was noted with the plugin's name.
                Err(Ended::Denied(Box::new((Refusal::from(reason), headers, wording))))
            }
            // What has to be asked was asked above.
            Some(End::Ask(_)) => Err(Refusal::new(Reason::InternalBug, "a plugin asks twice").into()),
        }
    }

    fn call<'a>(
        &'a mut self,
        head: &'a mut request::Parts,
        (connection, client): (&'a Connection, IpAddr),
        entropy: u64,
    ) -> Call<'a> {
        let caller = caller(connection, client);
        let now = clock::now();
        Call { head, caller, stash: &mut self.stash, now, wall: clock::wall(now), entropy }
    }

    /// Asks what plugins have to ask before they decide; each bounds its own time.
    async fn ask(
        &mut self,
        mut ran: filter::Ran,
        head: &mut request::Parts,
        from: (&Connection, IpAddr),
        entropy: u64,
    ) -> filter::Ran {
        let filters = self.filters.clone();
        while let Some((asked, question)) = ran.asks.take() {
            let verdict = question.await;
            ran = filters.told(asked, verdict, ran, self.call(head, from, entropy));
        }
        ran
    }

    /// The client's host, where a plugin put another in its place.
    pub(super) fn replaced_host(&self) -> Option<&HeaderValue> {
        self.stash.get::<ReplacedHost>().map(|host| &host.0)
    }

    /// Shows the answer's head to the plugins that saw the request.
    pub(super) fn response(&mut self, mut response: Response<ResponseBody>) -> Response<ResponseBody> {
        if !self.filters.is_empty() {
            let mut status = response.status();
            self.filters.response(&mut status, response.headers_mut(), &mut self.stash);
            *response.status_mut() = status;
        }
        response
    }
}

fn caller(connection: &Connection, client: IpAddr) -> Caller<'_> {
    Caller {
        address: connection.peer.address.ip().to_canonical(),
        port: connection.peer.address.port(),
        local: connection.local,
        client,
        identity: connection.peer.tls.as_ref().map(|tls| &tls.id),
    }
}

/// Asks the plugins of a service without HTTP whether a connection is let in.
///
/// # Errors
/// `denied`, where one refuses it.
pub(super) fn connection(filters: &Chain, connection: &Connection, exchange: &mut Exchange) -> Result<(), Refusal> {
    if filters.is_empty() {
        return Ok(());
    }
    let (admitted, detail) = filters.connection(&caller(connection, connection.peer.address.ip().to_canonical()));
    exchange.note(&detail);
    if admitted { Ok(()) } else { Err(Reason::Denied.into()) }
}

/// The answer of a request that ends here.
pub(super) fn end(ended: Ended, dialect: Dialect, mut exchange: Exchange) -> Response<ResponseBody> {
    match ended {
        Ended::Refused(refusal) => {
            let cap = exchange.body_cap().filter(|_| refusal.reason == Reason::BodyTooLarge);
            let wording = cap.map(BodyCap::wording);
            refuse(&refusal, dialect, wording.as_ref(), exchange)
        }
        Ended::Denied(denied) => {
            let (refusal, headers, wording) = *denied;
            let mut response = refuse(&refusal, dialect, wording.as_ref(), exchange);
            for (name, value) in &headers {
                response.headers_mut().insert(name, value.clone());
            }
            response
        }
        Ended::Replied(given) => {
            let response = whole(*given, &exchange.request_id, dialect);
            exchange.replied(response.status());
            response.map(|body| ResponseBody::own(body, exchange))
        }
    }
}

fn whole(given: filter::Answer, request_id: &HeaderValue, dialect: Dialect) -> Response<Bytes> {
    let grpc = dialect == Dialect::Grpc;
    let mut response = Response::new(if grpc { Bytes::new() } else { given.body });
    *response.status_mut() = if grpc { StatusCode::OK } else { given.status };
    let headers = response.headers_mut();
    for (name, value) in given.headers {
        headers.append(name, value);
    }
    headers.insert(X_REQUEST_ID, request_id.clone());
    if grpc {
        // gRPC over HTTP/2, "Trailers-Only".
        let status = given.grpc.unwrap_or_else(|| filter::grpc_of(given.status));
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert("grpc-status", HeaderValue::from(u16::from(status)));
    }
    response
}

/// Where a request comes from. A trusted peer's X-Forwarded-For is read from its end: the first address that is not itself
/// trusted is the client's, and what stands before it the client may have made up.
fn client_of(connection: &Connection, head: &request::Parts, trusted: &[IpNet]) -> IpAddr {
    let mut client = connection.peer.address.ip().to_canonical();
    if trusted.is_empty() {
        return client;
    }
    let is_trusted = |address: &IpAddr| trusted.iter().any(|net| net.contains(address));
    let lines: Vec<&HeaderValue> = head.headers.get_all(&headers::XFF).iter().collect();
    let hops = lines.iter().rev().flat_map(|line| line.as_bytes().rsplit(|byte| *byte == b','));
    for hop in hops {
        if !is_trusted(&client) {
            break;
        }
        let address = std::str::from_utf8(hop).ok().and_then(|text| text.trim().parse::<IpAddr>().ok());
        let Some(address) = address else { break };
        client = address.to_canonical();
    }
    client
}

/// The rule for a request, whose path is brought into its normal form first: what matched is what is sent.
pub(super) fn rule_for<'r>(
    rules: &'r [Arc<Rule>],
    head: &mut request::Parts,
    exchange: &mut Exchange,
) -> Result<Option<&'r Arc<Rule>>, Refusal> {
    normalise(head)?;
    let found = route::first(rules, &Subject::of(head, headers::host_of(head)));
    if let Some(rule) = found {
        exchange.follows(&rule.name);
    }
    Ok(found)
}

/// As `rule_for`, where a rule protects something: whoever decodes slashes or cuts parameters off segments must not find
/// another one.
pub(super) fn rule_in_every_reading<'r>(
    rules: &'r [Arc<Rule>],
    head: &mut request::Parts,
    exchange: &mut Exchange,
) -> Result<Option<&'r Arc<Rule>>, Refusal> {
    let found = rule_for(rules, head, exchange)?;
    if let Some(path) = route::widest(head.uri.path()) {
        let widest = route::first(rules, &Subject { path: &path, ..Subject::of(head, headers::host_of(head)) });
        if found.map(Arc::as_ptr) != widest.map(Arc::as_ptr) {
            return Err(bad(
                "the path falls under another rule for who decodes its slashes or cuts off its parameters",
            ));
        }
    }
    Ok(found)
}

/// Brings the path into its normal form.
pub(super) fn normalise(head: &mut request::Parts) -> Result<(), Refusal> {
    let Some(normal) = route::normalised(head.uri.path()) else { return Ok(()) };
    let query = head.uri.query().map_or_else(String::new, |query| format!("?{query}"));
    set_target(&mut head.uri, (normal + &query).try_into().map_err(bad)?)
}

/// Replaces path and query.
pub(super) fn set_target(uri: &mut Uri, target: PathAndQuery) -> Result<(), Refusal> {
    let mut parts = std::mem::take(uri).into_parts();
    parts.path_and_query = Some(target);
    *uri = Uri::from_parts(parts).map_err(bad)?;
    Ok(())
}

fn bad(error: impl std::fmt::Display) -> Refusal {
    Refusal::new(Reason::BadRequest, error.to_string())
}

/// What a rule answers by itself.
pub(super) fn reply(reply: &Reply, request: &Uri) -> Ended {
    let answer = match reply {
        Reply::Respond(answer) => answer.clone(),
        Reply::Redirect(redirect) => {
            let location = HeaderValue::from_str(&redirect.location(request));
            let headers = location.into_iter().map(|location| (header::LOCATION, location)).collect();
            filter::Answer { status: redirect.status, grpc: None, headers, body: Bytes::new(), detail: "" }
        }
    };
    Ended::Replied(Box::new(answer))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_of_ours_fits_its_caller() {
        let given = || filter::Answer {
            status: StatusCode::SERVICE_UNAVAILABLE,
            grpc: None,
            headers: vec![(header::RETRY_AFTER, HeaderValue::from_static("3"))],
            body: Bytes::from_static(b"later"),
            detail: "",
        };
        let id = HeaderValue::from_static("1");
        let http = whole(given(), &id, Dialect::Json);
        assert_eq!(
            (http.status().as_u16(), &http.body()[..], &http.headers()["x-request-id"]),
            (503, &b"later"[..], &id)
        );
        let grpc = whole(given(), &id, Dialect::Grpc);
        assert_eq!(
            (grpc.status().as_u16(), grpc.body().len(), &grpc.headers()["grpc-status"]),
            (200, 0, &HeaderValue::from_static("14"))
        );
        assert_eq!(grpc.headers()["retry-after"], "3");
    }

    #[test]
    fn another_target_keeps_the_rest_of_the_uri() {
        for (uri, wanted) in [("/a/../b?c", "/x?y"), ("http://h:1/a", "http://h:1/x?y")] {
            let mut uri: Uri = uri.parse().unwrap();
            set_target(&mut uri, PathAndQuery::from_static("/x?y")).ok().unwrap();
            assert_eq!(uri.to_string(), wanted);
        }
    }
}

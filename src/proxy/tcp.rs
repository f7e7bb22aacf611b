//! Connections without HTTP: a TCP upstream for our app, a TCP app for the mesh. One connection counts as one request.

use std::sync::Arc;
use std::time::Duration;

use http::HeaderMap;

use super::Refusal;
use super::exchange::Exchange;
use super::opening::Opening;
use super::tunnel::Tunnel;
use crate::clock;
use crate::lifecycle::Lifecycle;
use crate::listen::Connection;
use crate::published::Published;
use crate::route::Route;
use crate::service::Lease;
use crate::stream::Stream;
use crate::telemetry::{AccessLog, Flow};
use crate::upstream::{Failed, Held, Pool};

/// Carries an accepted connection to one of the route's endpoints, to its end.
pub(super) async fn carry<S: Stream>(
    pool: &Pool,
    route: Result<Arc<Route>, Refusal>,
    client: S,
    connection: &Arc<Connection>,
    mut exchange: Exchange,
    lifecycle: Lifecycle,
) {
    let hold = connection.hold();
    let opened = match route {
        Ok(route) => {
            let key = key_of(&route, connection);
            let opened = open(pool, &route, key, &mut exchange).await;
            // Only now: the dialer of a connection that is ours is surely done with it.
            let opened = if pool.made(connection.peer.address) { Err(Refusal::circle()) } else { opened };
            opened.map(|opened| (opened, route))
        }
        Err(refusal) => Err(refusal),
    };
    match opened {
        Ok(((endpoint, held, lease, took), route)) => {
            exchange.answered(http::StatusCode::OK, clock::now());
            let tunnel = Tunnel { exchange, route, lease, _held: held, hold, took, proven: false };
            tunnel.run(client, endpoint, lifecycle).await;
        }
        Err(refusal) => {
            exchange.refused(&refusal);
            exchange.finish();
            // No byte of an answer can say why: a reset at least does not pass for an empty one.
            client.abort();
        }
    }
}

/// Counts and logs a connection that is closed before anything of it was carried.
pub(super) fn refuse(
    flow: &Arc<Flow>,
    access_log: &Published<Option<AccessLog>>,
    connection: &Connection,
    refusal: &Refusal,
) {
    let log = access_log.snapshot();
    let mut exchange = Exchange::begin_raw(flow.clone(), &Arc::new(connection.snapshot()), log.as_ref().as_ref());
    exchange.refused(refusal);
    exchange.finish();
}

/// What a hashing balancer goes by: without a request only its caller's address.
fn key_of(route: &Route, connection: &Connection) -> Option<u64> {
    let nothing = http::Uri::from_static("/");
    route.hash_on.as_ref()?.key(&HeaderMap::new(), &nothing, connection.peer.address.ip())
}

/// A connection to an endpoint, with how long it took to make.
pub(super) type Opened = (Box<dyn Stream>, Held, Lease, Duration);

/// Tries endpoints until one takes a connection: nothing was sent before, so any failure may be tried again.
///
/// # Errors
/// The reason for the caller.
pub(super) async fn open(
    pool: &Pool,
    route: &Route,
    key: Option<u64>,
    exchange: &mut Exchange,
) -> Result<Opened, Refusal> {
    let mut opening = Opening::begin(route, key, &HeaderMap::new(), exchange)?;
    loop {
        let lease = opening.next(exchange)?;
        let began = clock::now();
        let connecting = pool.connect(lease.endpoint(), route.service.connections(), route.connect_timeout);
        match opening.within(&lease, connecting).await? {
            Ok((endpoint, held)) => {
                opening.answered();
                return Ok((endpoint, held, lease, clock::now().saturating_duration_since(began)));
            }
            Err(error) => {
                let failed = Failed { error, request: None, reused: false };
                opening.failed(lease, &failed, true, exchange).await?;
            }
        }
    }
}

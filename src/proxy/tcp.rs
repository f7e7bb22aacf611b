//! Connections without HTTP: a TCP upstream for our app, a TCP app for the mesh. One connection counts as one request.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Refusal;
use super::exchange::Exchange;
use super::opening::Opening;
use super::tunnel::Tunnel;
use crate::lifecycle::Lifecycle;
use crate::listen::Connection;
use crate::published::Published;
use crate::route::Route;
use crate::service::{Lease, Permit};
use crate::stream::Stream;
use crate::telemetry::{AccessLog, Flow};
use crate::upstream::Pool;

/// Carries an accepted connection to one of the route's endpoints, to its end.
pub(super) async fn carry<S: Stream>(
    pool: &Pool,
    route: Result<&Route, Refusal>,
    client: S,
    connection: &Arc<Connection>,
    mut exchange: Exchange,
    lifecycle: Lifecycle,
) {
    let hold = connection.hold();
    let opened = match route {
        Ok(route) => open(pool, route, &mut exchange).await.map(|opened| (opened, route.idle_timeout)),
        Err(refusal) => Err(refusal),
    };
    match opened {
        Ok(((endpoint, lease, permit, took), idle)) => {
            exchange.answered(http::StatusCode::OK, Instant::now());
            let tunnel =
                Tunnel { exchange, lease, _permit: permit, _held: None, _hold: hold, idle, took, proven: false };
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

/// A connection to an endpoint, with how long it took to make.
pub(super) type Opened = (Box<dyn Stream>, Lease, Option<Permit>, Duration);

/// Tries endpoints until one takes a connection: nothing was sent before, so any failure may be tried again.
///
/// # Errors
/// The reason for the caller.
pub(super) async fn open(pool: &Pool, route: &Route, exchange: &mut Exchange) -> Result<Opened, Refusal> {
    let deadline = route.timeout.map(|timeout| exchange.began() + timeout);
    let mut opening = Opening::begin(route, deadline)?;
    loop {
        let lease = opening.next(exchange)?;
        let began = Instant::now();
        match opening.within(&lease, pool.connect(lease.endpoint(), route.connect_timeout)).await? {
            Ok(endpoint) => return Ok((endpoint, lease, opening.opened(), began.elapsed())),
            Err(error) => opening.failed(lease, &error, true, exchange).await?,
        }
    }
}

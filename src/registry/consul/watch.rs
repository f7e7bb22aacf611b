//! One service as Consul's health endpoints list it, by blocking queries.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, join_all, select_all};
use tokio::sync::Mutex;
use tokio::time::timeout;
use tracing::warn;

use super::own::Own;
use super::rows::{Row, Rows};
use super::selection::Selection;
use crate::consul::{Answer, Api, Client, ConsulError, path_segment};
use crate::names::ServiceName;
use crate::registry::known::Known;
use crate::registry::{Mark, Registry, RegistryError, dns};
use crate::service::{Listing, Wire};

/// Which instances are wanted: the upstream's `mtls`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MeshMode {
    /// `required`: native instances and sidecars (`/v1/health/connect/NAME`), all by mTLS.
    Mesh,
    /// `preferred`: these, and the plain instances that no listed sidecar stands before, in plain text.
    Preferred,
    /// `off`: `/v1/health/service/NAME`, all in plain text.
    Plain,
}

/// A registry of the instances of one service, or of a subset of them.
pub struct HealthWatch {
    client: Client,
    service: ServiceName,
    mode: MeshMode,
    selection: Selection,
    state: Mutex<State>,
}

/// What is kept between two calls of `next`.
struct State {
    queries: Vec<Query>,
    /// The last mark handed out; 1 is kept for "began anew".
    mark: u64,
    hosts: Known<Vec<IpAddr>>,
    /// The instances are in another datacenter than the agent; `None` while it has not said where it is.
    far: Option<bool>,
    /// Instances that were already said to be left out, and why.
    left_out: BTreeMap<String, &'static str>,
}

/// One endpoint of Consul's, with its own index.
struct Query {
    api: Api,
    index: u64,
    rows: Vec<Row>,
    /// The call under way; it survives a `next` that was dropped or that another query ended.
    call: Option<BoxFuture<'static, Result<Answer<Rows>, ConsulError>>>,
    /// `rows` are news that no `next` has returned yet: the one that read them was dropped.
    untold: bool,
    went_back: bool,
}

impl HealthWatch {
    #[must_use]
    pub fn new(client: Client, service: ServiceName, mode: MeshMode, selection: Selection) -> Self {
        let apis: &[Api] = match mode {
            MeshMode::Mesh => &[Api::HealthConnect],
            MeshMode::Preferred => &[Api::HealthConnect, Api::HealthService],
            MeshMode::Plain => &[Api::HealthService],
        };
        let queries = apis.iter().map(|api| Query::new(*api)).collect();
        let hosts = Known::new(describe(&service, mode, &selection));
        let far = selection.datacenter().is_none().then_some(false);
        let state = Mutex::new(State { queries, mark: 1, hosts, far, left_out: BTreeMap::new() });
        Self { client, service, mode, selection, state }
    }

    async fn read(&self, seen: Mark) -> Result<(Mark, Vec<Listing>), RegistryError> {
        let mut state = self.state.lock().await;
        if state.far.is_none() {
            state.far = Some(self.is_far().await?);
        }
        if seen.0 != state.mark || seen == Mark::START {
            self.start(&mut state.queries).await?;
        } else if !state.queries.iter().any(|query| query.untold) {
            self.wait(&mut state.queries).await?;
        }
        let listings = self.list(&mut state).await;
        // Two indexes make one mark: a count of our own, which goes back where one of them did.
        state.mark = match () {
            () if state.queries.iter().any(|query| query.went_back) => 1,
            () if state.queries.iter().any(|query| query.index == 0) => 0,
            () => state.mark.max(1) + 1,
        };
        for query in &mut state.queries {
            (query.untold, query.went_back) = (false, false);
        }
        Ok((Mark(state.mark), listings))
    }

    /// Whether another datacenter than the agent's is asked for. Who names one and may not read the agent's own means
    /// another.
    async fn is_far(&self) -> Result<bool, RegistryError> {
        let Some(datacenter) = self.selection.datacenter() else { return Ok(false) };
        match Own::read(&self.client).await {
            Ok(own) => Ok(!own.is_in(datacenter)),
            Err(error) if error.is_denied() => Ok(true),
            Err(error) => Err(error.into()),
        }
    }

    /// Reads every query anew.
    async fn start(&self, queries: &mut [Query]) -> Result<(), RegistryError> {
        for query in queries.iter_mut() {
            *query = Query::new(query.api);
            query.call = Some(self.call(query));
        }
        while queries.iter().any(|query| query.call.is_some()) {
            let (query, answer) = first_answer(queries).await;
            query.take(answer, &self.service, &self.selection)?;
        }
        Ok(())
    }

    /// Waits until one of the queries has an answer, and a moment for the other, since one registration may wake both;
    /// the rest stays under way.
    async fn wait(&self, queries: &mut [Query]) -> Result<(), RegistryError> {
        for query in queries.iter_mut().filter(|query| query.call.is_none()) {
            query.call = Some(self.call(query));
        }
        let (query, answer) = first_answer(queries).await;
        query.take(answer, &self.service, &self.selection)?;
        while queries.iter().any(|query| query.call.is_some())
            && let Ok((query, answer)) = timeout(TOGETHER, first_answer(queries)).await
        {
            query.take(answer, &self.service, &self.selection)?;
        }
        Ok(())
    }

    /// A first or confirming read (index 0) goes to the servers; the long polls go through the agent's cache, so that
    /// all sidecars of a node cost the servers one watch (consul#4984), at the same latency. A cached first read would
    /// confirm an answer with itself. Tried on 1.8.7: a restarted agent's cache is empty and asks the servers; with the
    /// servers away and back, both ways fail and recover alike. From 1.10 on `index` alone uses the agent's shared view.
    ///
    /// Never `?passing`: it hides warning instances, which have a weight of their own
    /// (developer.hashicorp.com/consul/api-docs/health).
    fn call(&self, query: &Query) -> BoxFuture<'static, Result<Answer<Rows>, ConsulError>> {
        let (client, api, index) = (self.client.clone(), query.api, query.index);
        let path = path(api, &self.service);
        let selected = self.selection.query();
        async move {
            let mut options: Vec<(&str, &str)> = selected.iter().map(|(key, value)| (*key, value.as_str())).collect();
            if index > 0 {
                options.push(("cached", ""));
            }
            client.wait_past(api, &path, &options, index).await
        }
        .boxed()
    }

    async fn list(&self, state: &mut State) -> Vec<Listing> {
        let wanted = self.wanted(&state.queries);
        let far = state.far == Some(true);
        let names: BTreeSet<&str> = wanted.iter().map(|(row, _)| row.target(far).0).collect();
        let found = addresses(&names, &mut state.hosts).await;
        let mut listings = Vec::with_capacity(wanted.len());
        let mut left_out = BTreeMap::new();
        if self.mode != MeshMode::Plain {
            for row in rows(&state.queries, Api::HealthConnect).filter(|row| !row.is_mesh_of(&self.service)) {
                left_out.insert(row.service.id.clone(), "it is not the sidecar, or a native instance, of this service");
            }
        }
        for (row, wire) in &wanted {
            let (host, port) = row.target(far);
            let Some(addresses) = found.get(host) else {
                left_out.insert(row.service.id.clone(), "its address is missing or cannot be resolved");
                continue;
            };
            let Some(port) = port else {
                left_out.insert(row.service.id.clone(), "its port is none");
                continue;
            };
            let health = row.health();
            listings.extend(addresses.iter().map(|address| Listing {
                id: row.service.id.as_str().into(),
                address: SocketAddr::new(*address, port),
                weight: row.weight(health),
                health,
                wire: wire.clone(),
                zone: row.zone().map(Into::into),
            }));
        }
        for (id, why) in left_out.iter().filter(|(id, why)| state.left_out.get(*id) != Some(*why)) {
            warn!(watch = %self.describe(), %id, why, "instance left out");
        }
        state.left_out = left_out;
        listings
    }

    /// The instances to list, with how each is spoken to.
    fn wanted<'a>(&self, queries: &'a [Query]) -> Vec<(&'a Row, Wire)> {
        let mesh = |row: &Row| Wire::Mesh { peer: self.service.clone(), ours: row.is_ours() };
        match self.mode {
            MeshMode::Mesh => rows(queries, Api::HealthConnect)
                .filter(|row| row.is_mesh_of(&self.service))
                .map(|row| (row, mesh(row)))
                .collect(),
            MeshMode::Plain => rows(queries, Api::HealthService).map(|row| (row, Wire::Plain)).collect(),
            MeshMode::Preferred => {
                let in_mesh: Vec<&Row> =
                    rows(queries, Api::HealthConnect).filter(|row| row.is_mesh_of(&self.service)).collect();
                // Service ids are unique on one node only.
                let fronted: BTreeSet<(&str, &str)> = in_mesh
                    .iter()
                    .map(|row| (row.node.node.as_str(), row.service.proxy.destination_service_id.as_str()))
                    .collect();
                // A native instance is in both answers; `connect` has it, or will within a moment.
                let plain = rows(queries, Api::HealthService).filter(|row| {
                    row.mesh_peer().is_none() && !fronted.contains(&(row.node.node.as_str(), row.service.id.as_str()))
                });
                let plain = plain.map(|row| (row, Wire::Plain));
                in_mesh.iter().map(|row| (*row, mesh(row))).chain(plain).collect()
            }
        }
    }
}

fn rows(queries: &[Query], api: Api) -> impl Iterator<Item = &Row> {
    queries.iter().filter(move |query| query.api == api).flat_map(|query| &query.rows)
}

/// The first of the calls under way to end; at least one is. Cancel safe: a call that ended is taken out at once.
async fn first_answer(queries: &mut [Query]) -> (&mut Query, Result<Answer<Rows>, ConsulError>) {
    let under_way: Vec<usize> = (0..queries.len()).filter(|at| queries[*at].call.is_some()).collect();
    let calls = queries.iter_mut().filter_map(|query| query.call.as_mut());
    let (answer, which, _) = select_all(calls).await;
    let query = &mut queries[under_way[which]];
    query.call = None;
    (query, answer)
}

impl Query {
    fn new(api: Api) -> Self {
        Self { api, index: 0, rows: Vec::new(), call: None, untold: false, went_back: false }
    }

    fn take(
        &mut self,
        answer: Result<Answer<Rows>, ConsulError>,
        service: &ServiceName,
        selection: &Selection,
    ) -> Result<(), RegistryError> {
        let Answer { index, filtered_by_acls, value: Rows(rows) } =
            answer.map_err(|error| refused_filter(error, selection))?;
        if filtered_by_acls && rows.is_empty() {
            // Not "no instances" but "you may not know" (consul PR #17424).
            return Err(RegistryError::Filtered { path: path(self.api, service) });
        }
        let before = std::mem::replace(&mut self.index, index.unwrap_or(0));
        self.rows = rows;
        self.untold = true;
        self.went_back |= self.index < before;
        Ok(())
    }
}

/// Consul 1.8 answers 500 to a filter that it cannot read, newer ones 400; the text says what is wrong.
fn refused_filter(error: ConsulError, selection: &Selection) -> RegistryError {
    match (error, selection.filter()) {
        (ConsulError::Status { status: 400 | 500, text, .. }, Some(filter)) if text.contains("expression") => {
            RegistryError::Filter { filter: filter.to_owned(), cause: text }
        }
        (error, _) => error.into(),
    }
}

impl Registry for HealthWatch {
    fn next(&self, seen: Mark) -> BoxFuture<'_, Result<(Mark, Vec<Listing>), RegistryError>> {
        self.read(seen).boxed()
    }

    fn describe(&self) -> String {
        describe(&self.service, self.mode, &self.selection)
    }
}

fn describe(service: &ServiceName, mode: MeshMode, selection: &Selection) -> String {
    let endpoint = match mode {
        MeshMode::Mesh => "connect",
        MeshMode::Preferred => "connect+service",
        MeshMode::Plain => "service",
    };
    format!("health/{endpoint}/{service}{}", selection.suffix())
}

fn path(api: Api, service: &ServiceName) -> String {
    let endpoint = if api == Api::HealthConnect { "connect" } else { "service" };
    format!("/v1/health/{endpoint}/{}", path_segment(service.as_str()))
}

/// The addresses of each host, literal or name; a name that DNS fails for keeps what it had. Bounded, since listings
/// with literal addresses wait for it.
async fn addresses(hosts: &BTreeSet<&str>, known: &mut Known<Vec<IpAddr>>) -> BTreeMap<String, Vec<IpAddr>> {
    let mut found = BTreeMap::new();
    let mut names = Vec::new();
    for host in hosts.iter().filter(|host| !host.is_empty()) {
        match dns::literal(host) {
            Some(address) => drop(found.insert((*host).to_owned(), vec![address])),
            None => names.push(*host),
        }
    }
    known.retain(|name| names.contains(&name));
    let outcomes = join_all(names.iter().map(|name| timeout(RESOLVE, dns::host_addresses(name)))).await;
    for (name, outcome) in names.iter().zip(outcomes) {
        let outcome = outcome.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()));
        if let Some(addresses) = known.settle(name, outcome) {
            found.insert((*name).to_owned(), addresses);
        }
    }
    found
}

/// Between the answers of two queries that one change woke.
const TOGETHER: Duration = Duration::from_millis(5);
const RESOLVE: Duration = Duration::from_secs(2);

#[cfg(test)]
#[path = "watch_tests.rs"]
mod tests;

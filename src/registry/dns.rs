//! DNS as a registry, by hickory: SRV records with port and weight, or A and AAAA records with a port of the caller's.
//! Also the way to look up a host: the binary is static and has no NSS.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, join_all};
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig, ResolverOpts};
use hickory_resolver::lookup::Lookup;
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::{Name, RData, RecordType};
use parking_lot::Mutex;
use tokio::time::{Instant, sleep_until, timeout};

use super::known::Known;
use super::{Mark, Registry, RegistryError};
use crate::names::ServiceName;
use crate::service::{Health, Listing, Wire};

/// Whom to ask.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DnsSettings {
    /// Asked by TCP; empty: the servers of `/etc/resolv.conf`.
    pub servers: Vec<SocketAddr>,
}

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Records {
    /// Names whose SRV records give hosts, ports and weights.
    Srv(Vec<String>),
    /// Names whose A and AAAA records are endpoints at the port beside them.
    Address(Vec<(String, u16)>),
}

/// A registry of what one or more DNS names stand for, asked again when their TTL is over (1 s to 60 s).
pub struct DnsWatch {
    settings: DnsSettings,
    questions: Vec<Question>,
    wire: Wire,
    watch: String,
    state: Mutex<State>,
}

struct State {
    mark: u64,
    ask_at: Instant,
    known: Known<Vec<Found>>,
}

/// One name, and the port where its records carry none.
struct Question {
    name: String,
    port: Option<u16>,
}

/// One endpoint that a name stands for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Found {
    address: SocketAddr,
    weight: u32,
}

impl DnsWatch {
    /// `wire` is how all of its endpoints are spoken to: DNS says nothing of it.
    #[must_use]
    pub fn new(service: &ServiceName, records: Records, settings: DnsSettings, wire: Wire) -> Self {
        let questions = match records {
            Records::Srv(names) => names.into_iter().map(|name| Question { name, port: None }).collect(),
            Records::Address(hosts) => {
                hosts.into_iter().map(|(name, port)| Question { name, port: Some(port) }).collect()
            }
        };
        let watch = format!("dns/{service}");
        let known = Known::new(watch.clone());
        let state = Mutex::new(State { mark: 0, ask_at: Instant::now(), known });
        Self { settings, questions, wire, watch, state }
    }

    async fn read(&self, seen: Mark) -> Result<(Mark, Vec<Listing>), RegistryError> {
        if seen != Mark::START {
            let ask_at = self.state.lock().ask_at;
            sleep_until(ask_at).await;
        }
        let answers = join_all(self.questions.iter().map(|question| self.ask(question))).await;
        let mut state = self.state.lock();
        let ttl = answers.iter().map(|answer| answer.as_ref().map_or(REFRESH_MIN, |(ttl, _)| *ttl)).min();
        state.ask_at = Instant::now() + ttl.unwrap_or(REFRESH_MAX).clamp(REFRESH_MIN, REFRESH_MAX);
        let mut failed = None;
        let mut found = Vec::new();
        for (question, answer) in self.questions.iter().zip(answers) {
            match answer {
                Ok((_, answer)) => found.extend(state.known.settle::<Fault>(&question.name, Ok(answer))),
                Err(fault) => {
                    // One of several names that fails keeps its endpoints; where all fail, `follow` must know.
                    failed.get_or_insert(RegistryError::Dns { name: question.name.clone(), cause: fault.to_string() });
                    if self.questions.len() > 1 {
                        found.extend(state.known.settle(&question.name, Err(fault)));
                    }
                }
            }
        }
        if let Some(error) = failed.filter(|_| found.is_empty()) {
            return Err(error);
        }
        state.mark += 1;
        let listings = found.into_iter().flatten().map(|found| self.listing(&found)).collect();
        Ok((Mark(state.mark), listings))
    }

    async fn ask(&self, question: &Question) -> Result<(Duration, Vec<Found>), Fault> {
        let answer = async {
            let resolver = resolver(&self.settings)?;
            match question.port {
                Some(port) => addresses(&resolver, &question.name, port).await,
                None => services(&resolver, &question.name).await,
            }
        };
        timeout(LIMIT, answer).await.map_err(|_| Fault::Timeout)?
    }

    fn listing(&self, found: &Found) -> Listing {
        Listing {
            id: found.address.to_string().into(),
            address: found.address,
            weight: found.weight,
            health: Health::Passing,
            wire: self.wire.clone(),
            zone: None,
        }
    }
}

impl Registry for DnsWatch {
    fn next(&self, seen: Mark) -> BoxFuture<'_, Result<(Mark, Vec<Listing>), RegistryError>> {
        self.read(seen).boxed()
    }

    fn describe(&self) -> String {
        self.watch.clone()
    }
}

/// All addresses of `host`, IPv4 first: a literal, `/etc/hosts` and `localhost` are answered without DNS. At most 5 s.
///
/// # Errors
/// `NotFound` where the name stands for nothing, `TimedOut`, or what the resolver says.
pub async fn resolve(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    if let Some(address) = literal(host) {
        return Ok(vec![SocketAddr::new(address, port)]);
    }
    let lookup = timeout(HOST_LIMIT, crate::consul::addresses(host));
    let addresses = match lookup.await.map_err(|_| io::ErrorKind::TimedOut)? {
        Ok(addresses) => addresses,
        Err(error) if error.is_no_records_found() => Vec::new(),
        Err(error) => return Err(io::Error::other(error)),
    };
    if addresses.is_empty() {
        return Err(io::Error::new(io::ErrorKind::NotFound, format!("{host} has no address")));
    }
    let mut found: Vec<_> = addresses.into_iter().map(|address| SocketAddr::new(address, port)).collect();
    found.sort();
    found.dedup();
    Ok(found)
}

/// The addresses under which `host` is listed as an endpoint: one family, or a host would count twice. IPv4 where it
/// has any.
pub(super) async fn host_addresses(host: &str) -> io::Result<Vec<IpAddr>> {
    let all = resolve(host, 0).await?;
    let v4: Vec<_> = all.iter().map(SocketAddr::ip).filter(IpAddr::is_ipv4).collect();
    Ok(if v4.is_empty() { all.iter().map(SocketAddr::ip).collect() } else { v4 })
}

/// An IP address as text, an IPv6 one with or without brackets.
pub(super) fn literal(host: &str) -> Option<IpAddr> {
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    bare.parse().ok()
}

/// Why a name has no answer; an answer that says "nothing" is none of these.
#[derive(Debug)]
enum Fault {
    Timeout,
    Resolver(NetError),
}

impl From<NetError> for Fault {
    fn from(error: NetError) -> Self {
        Self::Resolver(error)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Timeout => f.write_str("timed out"),
            Self::Resolver(error) => error.fmt(f),
        }
    }
}

/// A resolver for one round of questions. Made anew each time, as the C library does: `/etc/resolv.conf` may change, a
/// kept TCP connection is closed by the server when idle, and a cache would hold what Consul gives a TTL of 0.
///
/// Consul cuts UDP answers without saying so (no TC bit; 3 records without EDNS, hashicorp/consul#788), so servers that
/// were named are asked by TCP. The system's own may not speak TCP: they are asked by UDP with room for 4096 bytes,
/// which Consul honours (60 instances), and by TCP after an error or a truncated answer.
fn resolver(settings: &DnsSettings) -> Result<TokioResolver, NetError> {
    let provider = TokioRuntimeProvider::default();
    let mut builder = if settings.servers.is_empty() {
        TokioResolver::builder_tokio()?
    } else {
        let servers = settings.servers.iter().map(|server| {
            let mut tcp = ConnectionConfig::tcp();
            tcp.port = server.port();
            NameServerConfig::new(server.ip(), true, vec![tcp])
        });
        TokioResolver::builder_with_config(ResolverConfig::from_name_servers(servers.collect()), provider)
    };
    let options: &mut ResolverOpts = builder.options_mut();
    options.timeout = TRY;
    options.attempts = 1;
    options.cache_size = 0;
    options.edns0 = true;
    options.edns_payload_len = 4096;
    options.try_tcp_on_error = true;
    builder.build()
}

/// The A and AAAA records of a name. A server that fails on AAAA (RFC 4074) does not hide the A records; the other way
/// round the answer would lack endpoints, so it is none.
async fn addresses(resolver: &TokioResolver, name: &str, port: u16) -> Result<(Duration, Vec<Found>), Fault> {
    if let Some(address) = literal(name) {
        return Ok((REFRESH_MAX, vec![Found { address: SocketAddr::new(address, port), weight: 1 }]));
    }
    let name = absolute(name)?;
    let (a, aaaa) =
        tokio::join!(records(resolver, name.clone(), RecordType::A), records(resolver, name, RecordType::AAAA),);
    let a = a?;
    let aaaa = match aaaa {
        Err(error) if a.as_ref().is_none_or(|a| a.answers().is_empty()) => return Err(error.into()),
        other => other.ok().flatten(),
    };
    let lookups = [a, aaaa];
    let records = || lookups.iter().flatten().flat_map(Lookup::answers);
    let found = records().filter_map(|record| record.data.ip_addr());
    let found = found.map(|ip| Found { address: SocketAddr::new(ip, port), weight: 1 }).collect();
    Ok((ttl(records().map(|record| record.ttl)), found))
}

/// The targets of the SRV records with the lowest priority (RFC 2782).
async fn services(resolver: &TokioResolver, name: &str) -> Result<(Duration, Vec<Found>), Fault> {
    let Some(lookup) = records(resolver, absolute(name)?, RecordType::SRV).await? else {
        return Ok((REFRESH_MIN, Vec::new()));
    };
    let srv = || {
        lookup.answers().iter().filter_map(|record| match &record.data {
            // RFC 2782: the target "." means that the service is decidedly not available.
            RData::SRV(srv) if !srv.target.is_root() && srv.port > 0 => Some(srv),
            _ => None,
        })
    };
    let first = srv().map(|srv| srv.priority).min();
    let mut found = Vec::new();
    for srv in srv().filter(|srv| Some(srv.priority) == first) {
        let weight = u32::from(srv.weight).max(1);
        for ip in target(resolver, &lookup, &srv.target).await? {
            found.push(Found { address: SocketAddr::new(ip, srv.port), weight });
        }
    }
    found.sort();
    found.dedup_by_key(|found| found.address);
    Ok((ttl(lookup.answers().iter().map(|record| record.ttl)), found))
}

/// The addresses of one SRV target: from the additional section, else asked for, at last as any host of the system:
/// Consul refuses names outside its own domain, and lists an instance's host name as target.
async fn target(resolver: &TokioResolver, lookup: &Lookup, target: &Name) -> Result<Vec<IpAddr>, Fault> {
    let given = lookup.additionals().iter().filter(|record| &record.name == target);
    let given: Vec<IpAddr> = given.filter_map(|record| record.data.ip_addr()).collect();
    if !given.is_empty() {
        return Ok(given);
    }
    let asked = tokio::join!(
        records(resolver, target.clone(), RecordType::A),
        records(resolver, target.clone(), RecordType::AAAA),
    );
    let addresses = |lookup: Lookup| lookup.answers().iter().filter_map(|r| r.data.ip_addr()).collect::<Vec<_>>();
    match asked {
        (Ok(Some(a)), _) if !addresses(a.clone()).is_empty() => Ok(addresses(a)),
        (Ok(_), Ok(Some(aaaa))) => Ok(addresses(aaaa)),
        // Decidedly without an address.
        (Ok(_), Ok(None)) => Ok(Vec::new()),
        (Err(error), _) | (_, Err(error)) => {
            let host = target.to_ascii();
            host_addresses(host.trim_end_matches('.')).await.map_err(|_| error.into())
        }
    }
}

/// `None` where the name, or records of that kind, do not exist.
async fn records(resolver: &TokioResolver, name: Name, kind: RecordType) -> Result<Option<Lookup>, NetError> {
    match resolver.lookup(name, kind).await {
        Ok(lookup) => Ok(Some(lookup)),
        Err(error) if error.is_no_records_found() => Ok(None),
        Err(error) => Err(error),
    }
}

/// Names with a dot are taken as whole: search domains would turn each into several questions, and perhaps into another
/// name's answer. A single label is left to them.
fn absolute(name: &str) -> Result<Name, NetError> {
    let mut name = Name::from_utf8(name)?;
    if name.num_labels() > 1 {
        name.set_fqdn(true);
    }
    Ok(name)
}

/// When to ask again: the shortest TTL, from 1 s (Consul's default TTL is 0) to 60 s.
fn ttl(seconds: impl Iterator<Item = u32>) -> Duration {
    let least = seconds.min().map_or(REFRESH_MIN, |seconds| Duration::from_secs(seconds.into()));
    least.clamp(REFRESH_MIN, REFRESH_MAX)
}

const REFRESH_MIN: Duration = Duration::from_secs(1);
const REFRESH_MAX: Duration = Duration::from_mins(1);
/// One try at one server.
const TRY: Duration = Duration::from_secs(2);
/// One name with all that it leads to.
const LIMIT: Duration = Duration::from_secs(10);
const HOST_LIMIT: Duration = Duration::from_secs(5);

#[cfg(test)]
#[path = "dns_tests.rs"]
mod tests;

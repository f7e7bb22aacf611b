//! Finds Consul's addresses: `/etc/hosts`, then DNS by hickory. The binary is static, so the C library's resolver
//! cannot be relied on.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;

use hickory_resolver::net::NetError;
use hickory_resolver::proto::op::Query;
use hickory_resolver::proto::rr::{Name, RecordType};
use hickory_resolver::{Hosts, TokioResolver};
use reqwest::dns::{Addrs, Resolve, Resolving};

/// Resolves every name as `host`: the URL carries the name to verify, which need not be where Consul is.
pub(super) struct Resolver {
    host: Arc<str>,
}

impl Resolver {
    pub(super) fn new(host: &str) -> Self {
        Self { host: host.into() }
    }
}

impl Resolve for Resolver {
    fn resolve(&self, _: reqwest::dns::Name) -> Resolving {
        let host = self.host.clone();
        Box::pin(async move {
            let found = addresses(&host).await?;
            // Port 0: the URL's port is used.
            let found: Vec<_> = found.into_iter().map(|address| SocketAddr::new(address, 0)).collect();
            Ok(Box::new(found.into_iter()) as Addrs)
        })
    }
}

/// The addresses of a literal, of `/etc/hosts`, or of DNS, without a limit in time. Both system files are read at every
/// call: they may change after our start, and calls are few.
pub async fn addresses(host: &str) -> Result<Vec<IpAddr>, NetError> {
    if let Ok(address) = host.trim_matches(['[', ']']).parse() {
        return Ok(vec![address]);
    }
    // hickory alone would try the search domains by DNS before the bare name in the file.
    let listed = in_hosts(host, &Hosts::from_system().unwrap_or_default());
    if !listed.is_empty() {
        return Ok(listed);
    }
    // RFC 6761 §6.3: localhost is the loopback address; no DNS server is asked.
    if host == "localhost" || host.ends_with(".localhost") {
        return Ok(vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]);
    }
    let dns = TokioResolver::builder_tokio()?.build()?;
    Ok(dns.lookup_ip(host).await?.iter().collect())
}

fn in_hosts(host: &str, hosts: &Hosts) -> Vec<IpAddr> {
    let Ok(name) = Name::from_str(host) else { return Vec::new() };
    [RecordType::A, RecordType::AAAA]
        .into_iter()
        .filter_map(|kind| hosts.lookup_static_host(&Query::query(name.clone(), kind)))
        .flat_map(|lookup| lookup.answers().iter().filter_map(|record| record.data.ip_addr()).collect::<Vec<_>>())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn localhost_and_literal_addresses_need_no_dns() {
        let v4: IpAddr = Ipv4Addr::LOCALHOST.into();
        assert!(addresses("localhost").await.unwrap().contains(&v4));
        assert!(addresses("consul.localhost").await.unwrap().contains(&v4));
        assert_eq!(addresses("127.0.0.1").await.unwrap(), [v4]);
        assert_eq!(addresses("[::1]").await.unwrap(), [IpAddr::from(Ipv6Addr::LOCALHOST)]);
    }

    #[test]
    fn names_of_the_hosts_file_are_found_with_both_families() {
        let mut hosts = Hosts::default();
        hosts.read_hosts_conf(&b"10.0.0.7 consul consul.local\nfd00::7 consul\n"[..]).unwrap();
        assert_eq!(in_hosts("consul", &hosts), ["10.0.0.7".parse::<IpAddr>().unwrap(), "fd00::7".parse().unwrap()]);
        assert_eq!(in_hosts("Consul.local", &hosts).len(), 1);
        assert!(in_hosts("other", &hosts).is_empty());
    }
}

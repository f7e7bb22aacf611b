//! Whose a connection is where load balancers speak the PROXY protocol: trusted sources must begin with a header, all
//! others must not. Neither is ever guessed.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ipnet::IpNet;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use crate::proxy_header::{self, Malformed, Origin, Parsed};
use crate::telemetry::ProxyHeader;

/// The address that counts as the connection's, and what was said of it, if anything had to be.
pub(super) type Heard = (SocketAddr, Option<ProxyHeader>);

/// Why a connection is closed before anything else of it is read.
pub(super) struct Refused {
    pub(super) outcome: ProxyHeader,
    pub(super) cause: String,
}

/// Reads the header of a source in `trusted`, and no byte behind it; looks at the first bytes of any other source and
/// leaves them. `silence`: after that long without a byte an untrusted client waits to be spoken to.
pub(super) async fn origin(
    socket: &mut TcpStream,
    source: SocketAddr,
    trusted: bool,
    limit: Duration,
    silence: Option<Duration>,
) -> Result<Heard, Refused> {
    let heard = async {
        if trusted {
            Box::pin(read(socket, source)).await
        } else {
            look(socket, silence).await.map(|()| (source, None))
        }
    };
    match tokio::time::timeout(limit, heard).await {
        Ok(heard) => heard,
        Err(_) => Err(Refused { outcome: ProxyHeader::TimedOut, cause: format!("no PROXY header within {limit:?}") }),
    }
}

pub(super) fn is_among(trusted: &[IpNet], address: IpAddr) -> bool {
    let address = address.to_canonical();
    trusted.iter().any(|net| net.contains(&address))
}

async fn read(socket: &mut TcpStream, source: SocketAddr) -> Result<Heard, Refused> {
    let (mut have, mut piece) = (Vec::new(), [0; 256]);
    loop {
        let before = have.len();
        let seen = socket.peek(&mut piece).await.map_err(|error| broken(before, &error))?;
        if seen == 0 {
            return Err(broken(before, &"closed"));
        }
        have.extend_from_slice(&piece[..seen]);
        let parsed = proxy_header::parse(&have).map_err(malformed)?;
        let taken = match parsed {
            Parsed::Partial => seen,
            Parsed::Whole { length, .. } => length - before,
        };
        socket.read_exact(&mut piece[..taken]).await.map_err(|error| broken(before, &error))?;
        if let Parsed::Whole { origin, .. } = parsed {
            return Ok(match origin {
                Origin::Client(client) => (client, Some(ProxyHeader::Client)),
                Origin::Sender => (source, Some(ProxyHeader::Sender)),
            });
        }
    }
}

fn malformed(why: Malformed) -> Refused {
    let outcome = if why == Malformed::Absent { ProxyHeader::Missing } else { ProxyHeader::Malformed };
    Refused { outcome, cause: why.to_string() }
}

/// A load balancer that only looks whether we listen closes before its first byte.
fn broken(have: usize, cause: &impl ToString) -> Refused {
    if have == 0 {
        return Refused { outcome: ProxyHeader::Closed, cause: format!("{} before its first byte", cause.to_string()) };
    }
    Refused { outcome: ProxyHeader::Malformed, cause: format!("{} within its PROXY header", cause.to_string()) }
}

/// Nothing that could be a header may come.
async fn look(socket: &TcpStream, silence: Option<Duration>) -> Result<(), Refused> {
    let (mut first, mut before) = ([0; 12], 0);
    loop {
        let peek = socket.peek(&mut first);
        let seen = match silence {
            Some(silence) if before == 0 => match tokio::time::timeout(silence, peek).await {
                Ok(seen) => seen,
                Err(_) => return Ok(()),
            },
            _ => peek.await,
        };
        let seen = seen.map_err(|error| broken(before, &error))?;
        if proxy_header::begins(&first[..seen]) {
            let cause = "it sent a PROXY header, but is not in inbound.trusted_ips".to_owned();
            return Err(Refused { outcome: ProxyHeader::Untrusted, cause });
        }
        if seen == 0 || !proxy_header::may_begin(&first[..seen]) {
            return Ok(());
        }
        // No client but a hostile one sends so little at a time; what was only looked at cannot be waited behind.
        if seen == before {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        before = seen;
    }
}

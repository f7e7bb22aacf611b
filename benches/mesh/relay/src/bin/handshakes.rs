//! A new mTLS connection for each request, straight to an inbound side.
//!
//! --addr ADDR --certificates DIR --seconds N --connections N
//! Prints one line of JSON: how many were done and failed, in how many seconds, and what TLS agreed on.

use std::cell::{Cell, RefCell};
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};

use mesh_bench::{Flags, client, inbound_name};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::LocalSet;
use tokio_rustls::TlsConnector;

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: inbound.mesh\r\nConnection: close\r\n\r\n";
const BODY: usize = 1024;

/// One connection and one answer; gives what was agreed on.
async fn exchange(tls: &TlsConnector, address: &str) -> std::io::Result<String> {
    let socket = TcpStream::connect(address).await?;
    socket.set_nodelay(true)?;
    let mut stream = tls.connect(inbound_name(), socket).await?;
    stream.write_all(REQUEST).await?;
    let (mut answer, mut buffer) = (Vec::new(), [0; 4096]);
    // Whoever closes without close_notify after the whole answer has answered well.
    while !(answer.len() >= BODY && answer.ends_with(b"xxxx")) {
        match stream.read(&mut buffer).await? {
            0 => break,
            read => answer.extend_from_slice(&buffer[..read]),
        }
    }
    if !answer.starts_with(b"HTTP/1.1 200") {
        return Err(std::io::Error::other("not a 200"));
    }
    let session = stream.get_ref().1;
    let version = session.protocol_version().map(|version| format!("{version:?}")).unwrap_or_default();
    let suite = session.negotiated_cipher_suite().map(|suite| format!("{:?}", suite.suite())).unwrap_or_default();
    let group = session.negotiated_key_exchange_group().map(|group| format!("{:?}", group.name())).unwrap_or_default();
    Ok(format!("{version} {suite} {group} {:?}", session.handshake_kind().expect("a handshake")))
}

#[derive(Default)]
struct Tally {
    done: Cell<u64>,
    failed: Cell<u64>,
    agreed: RefCell<String>,
}

fn main() -> std::io::Result<()> {
    let flags = Flags::of_process();
    let address: String = flags.required("addr");
    let until = Duration::from_secs(flags.or("seconds", 4));
    let tls = TlsConnector::from(client(Path::new(&flags.required::<String>("certificates")), "http/1.1"));
    let (tally, tasks) = (Rc::new(Tally::default()), LocalSet::new());
    let start = Instant::now();
    for _ in 0..flags.or("connections", 16) {
        let (tls, address, tally) = (tls.clone(), address.clone(), tally.clone());
        tasks.spawn_local(async move {
            while start.elapsed() < until && tally.failed.get() < 1000 {
                match exchange(&tls, &address).await {
                    Ok(agreed) => {
                        tally.done.set(tally.done.get() + 1);
                        tally.agreed.replace(agreed);
                    }
                    Err(_) => tally.failed.set(tally.failed.get() + 1),
                }
            }
        });
    }
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(tasks);
    println!(
        r#"{{"done":{},"failed":{},"seconds":{:.4},"tls":"{}"}}"#,
        tally.done.get(),
        tally.failed.get(),
        start.elapsed().as_secs_f64(),
        tally.agreed.borrow()
    );
    Ok(())
}

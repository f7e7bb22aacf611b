//! GET requests at a fixed rate over kept HTTP/1.1 connections, evenly spaced, to see latency and not queues.
//!
//! --addr ADDR --rate N --seconds N --connections N
//! Each connection has a thread and its own share of the send times. A request that is late because its connection was
//! still waiting counts from the time it was due, so that a stall is seen by all that it held up. Prints one line of JSON.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use mesh_bench::Flags;

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: inbound.mesh\r\n\r\n";
const BODY: usize = 1024;

/// Sends each request when it is due; gives their times in microseconds.
fn pace(address: &str, mut due: Instant, every: Duration, end: Instant) -> std::io::Result<Vec<u64>> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let (mut times, mut buffer) = (Vec::new(), [0; 16 * 1024]);
    while due < end {
        let wait = due.saturating_duration_since(Instant::now());
        let from = if wait.is_zero() {
            due
        } else {
            thread::sleep(wait);
            Instant::now()
        };
        stream.write_all(REQUEST)?;
        let mut filled = 0;
        while filled < BODY || !buffer[..filled].ends_with(b"xxxx") {
            match stream.read(&mut buffer[filled..])? {
                0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
                read => filled += read,
            }
        }
        if !buffer.starts_with(b"HTTP/1.1 200") {
            return Err(std::io::Error::other("not a 200"));
        }
        times.push(from.elapsed().as_micros() as u64);
        due += every;
    }
    Ok(times)
}

fn main() -> std::io::Result<()> {
    let flags = Flags::of_process();
    let (rate, connections): (u32, u32) = (flags.or("rate", 2000), flags.or("connections", 32));
    let seconds: u64 = flags.or("seconds", 4);
    let address: String = flags.required("addr");
    let start = Instant::now() + Duration::from_millis(100);
    let gap = Duration::from_secs(1) / rate;
    let threads = (0..connections).map(|number| {
        let address = address.clone();
        thread::spawn(move || {
            pace(&address, start + gap * number, gap * connections, start + Duration::from_secs(seconds))
        })
    });
    let mut times = Vec::new();
    for thread in threads.collect::<Vec<_>>() {
        times.extend(thread.join().expect("a thread's times")?);
    }
    times.sort_unstable();
    let at = |share: usize| times[times.len() * share / 100];
    println!(r#"{{"done":{},"p50_us":{},"p99_us":{}}}"#, times.len(), at(50), at(99));
    Ok(())
}

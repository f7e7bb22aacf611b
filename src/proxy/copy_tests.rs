//! Half-close, back-pressure, idleness and breaks of a copy, on pipes in memory.

use super::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

const IDLE: Duration = Duration::from_secs(5);

/// A copy between two pipes, run to its end; the test holds the far ends.
fn tunnel(size: usize) -> (DuplexStream, DuplexStream, impl Future<Output = (End, u64, u64)>) {
    let ((client, near), (endpoint, far)) = (duplex(size), duplex(size));
    let mut copy = Copy::new(near, far, IDLE);
    let run = async move {
        let end = std::future::poll_fn(|cx| copy.poll(cx)).await;
        (end, copy.bytes_up(), copy.bytes_down())
    };
    (client, endpoint, run)
}

#[tokio::test(start_paused = true)]
async fn a_side_that_has_closed_still_hears_the_other() {
    let (mut client, mut endpoint, run) = tunnel(64);
    let talk = async {
        client.write_all(b"all of it").await.unwrap();
        client.shutdown().await.unwrap();
        let mut heard = String::new();
        endpoint.read_to_string(&mut heard).await.unwrap();
        assert_eq!(heard, "all of it");
        endpoint.write_all(b"the answer").await.unwrap();
        endpoint.shutdown().await.unwrap();
        heard.clear();
        client.read_to_string(&mut heard).await.unwrap();
        assert_eq!(heard, "the answer");
    };
    let ((end, up, down), ()) = tokio::join!(run, talk);
    assert!(matches!(end, End::Closed), "{end:?}");
    assert_eq!((up, down), (9, 10));
}

#[tokio::test(start_paused = true)]
async fn more_than_the_pipes_hold_goes_through_both_ways_at_once() {
    let (client, endpoint, run) = tunnel(1000);
    let talk = |stream: DuplexStream, fill: u8| async move {
        let (mut reader, mut writer) = tokio::io::split(stream);
        let say = async {
            writer.write_all(&vec![fill; 300_000]).await.unwrap();
            writer.shutdown().await.unwrap();
        };
        let mut heard = Vec::new();
        tokio::join!(say, async { reader.read_to_end(&mut heard).await.unwrap() });
        heard
    };
    let ((end, up, down), at_client, at_endpoint) = tokio::join!(run, talk(client, 1), talk(endpoint, 2));
    assert!(matches!(end, End::Closed), "{end:?}");
    assert_eq!((up, down), (300_000, 300_000));
    assert!(at_client == vec![2; 300_000] && at_endpoint == vec![1; 300_000]);
}

#[tokio::test(start_paused = true)]
async fn a_byte_either_way_puts_idleness_off() {
    let (mut client, mut endpoint, run) = tunnel(64);
    let began = Instant::now();
    let talk = async {
        tokio::time::sleep(Duration::from_secs(4)).await;
        client.write_all(b"x").await.unwrap();
        tokio::time::sleep(Duration::from_secs(4)).await;
        endpoint.write_all(b"y").await.unwrap();
    };
    let ((end, up, down), ()) = tokio::join!(run, talk);
    assert!(matches!(end, End::Idle), "{end:?}");
    assert_eq!((up, down, began.elapsed().as_secs()), (1, 1, 13));
}

#[tokio::test(start_paused = true)]
async fn a_break_tells_whose_it_was() {
    let broken = || Broken(io::ErrorKind::ConnectionReset);
    let (near, _client) = duplex(64);
    let mut copy = Copy::new(near, broken(), IDLE);
    let end = std::future::poll_fn(|cx| copy.poll(cx)).await;
    assert!(matches!(&end, End::Broke(Side::Endpoint, error) if error.kind() == io::ErrorKind::ConnectionReset));
    let (far, _endpoint) = duplex(64);
    let mut copy = Copy::new(broken(), far, IDLE);
    let end = std::future::poll_fn(|cx| copy.poll(cx)).await;
    assert!(matches!(end, End::Broke(Side::Client, _)));
}

/// A stream whose reads fail.
struct Broken(io::ErrorKind);

impl AsyncRead for Broken {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Err(self.0.into()))
    }
}

impl AsyncWrite for Broken {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

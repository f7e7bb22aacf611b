//! Which protocol a connection begins with, by its first bytes. ALPN alone does not tell: Consul's built-in proxy
//! negotiates `h2` and then passes whatever its app sends.

use std::io;
use std::time::Duration;

use smallvec::SmallVec;
use tokio::io::{AsyncRead, AsyncReadExt};

/// What was read while looking; it has to be served first.
pub(super) type Prefix = SmallVec<[u8; 24]>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Protocol {
    Http1,
    Http2,
}

/// Reads until the bytes are, or cannot be, HTTP/2's preface (RFC 9113 §3.4). An error where nothing comes within `limit`
/// or the peer closes before its first byte.
pub(super) async fn sniff<S: AsyncRead + Unpin>(stream: &mut S, limit: Duration) -> io::Result<(Protocol, Prefix)> {
    match tokio::time::timeout(limit, read_preface(stream)).await {
        Ok(found) => found,
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    }
}

async fn read_preface<S: AsyncRead + Unpin>(stream: &mut S) -> io::Result<(Protocol, Prefix)> {
    let mut buffer = [0u8; PREFACE.len()];
    let mut have = 0;
    loop {
        let read = stream.read(&mut buffer[have..]).await?;
        have += read;
        if !PREFACE.starts_with(&buffer[..have]) || (read == 0 && have > 0) {
            return Ok((Protocol::Http1, Prefix::from_slice(&buffer[..have])));
        }
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if have == PREFACE.len() {
            return Ok((Protocol::Http2, Prefix::from_slice(&buffer)));
        }
    }
}

const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncWriteExt;

    async fn sniffed(pieces: &[&[u8]]) -> io::Result<(Protocol, Prefix)> {
        let (mut client, mut server) = tokio::io::duplex(64);
        for piece in pieces {
            client.write_all(piece).await.unwrap();
        }
        if pieces.is_empty() {
            drop(client);
            return sniff(&mut server, Duration::from_secs(1)).await;
        }
        sniff(&mut server, Duration::from_secs(1)).await
    }

    #[tokio::test(start_paused = true)]
    async fn the_preface_is_found_whole_and_in_pieces() {
        assert_eq!(sniffed(&[PREFACE, b"more"]).await.unwrap().0, Protocol::Http2);
        assert_eq!(sniffed(&[&PREFACE[..5], &PREFACE[5..]]).await.unwrap().0, Protocol::Http2);
    }

    #[tokio::test(start_paused = true)]
    async fn anything_else_is_http1_and_loses_no_byte() {
        let (protocol, prefix) = sniffed(&[b"P", b"RI", b"OR /"]).await.unwrap();
        assert_eq!((protocol, prefix.as_slice()), (Protocol::Http1, b"PRIOR /".as_slice()));
    }

    #[tokio::test(start_paused = true)]
    async fn silence_and_an_early_end_are_errors() {
        assert_eq!(sniffed(&[b"PRI "]).await.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert_eq!(sniffed(&[]).await.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }
}

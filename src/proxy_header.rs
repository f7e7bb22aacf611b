//! The PROXY protocol, versions 1 and 2 (HAProxy's proxy-protocol.txt, revision 2020/03/05): who connected to the load
//! balancer before us, said in front of the connection's first byte. Text to meaning; no sockets.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// What a header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The address of the client that the sender speaks for.
    Client(SocketAddr),
    /// The sender speaks for itself (LOCAL: a health check), or cannot say for whom (UNKNOWN, UNSPEC, UNIX sockets): the
    /// connection's own address counts (§2.1, §2.2).
    Sender,
}

/// How far the bytes so far go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parsed {
    /// They are the beginning of a header: all of them belong to it, and more must come.
    Partial,
    /// They begin with a whole header of so many bytes; what follows is not of it.
    Whole { origin: Origin, length: usize },
}

/// Why bytes are no header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    #[error("it begins with no PROXY header")]
    Absent,
    #[error("its PROXY line is longer than 107 bytes")]
    LongLine,
    #[error("its PROXY line is malformed")]
    Line,
    #[error("the version of its PROXY header is not 2")]
    Version,
    #[error("the command of its PROXY header is neither LOCAL nor PROXY")]
    Command,
    #[error("its PROXY header names a family or protocol that a TCP connection cannot have")]
    Family,
    #[error("its PROXY header is too short for its addresses")]
    Short,
    #[error("its PROXY header is longer than 4096 bytes")]
    Long,
    #[error("a TLV of its PROXY header reaches beyond the header's end")]
    Tlv,
    #[error("the CRC32C of its PROXY header is wrong")]
    Checksum,
}

/// Reads a header at the beginning of `bytes`. Looks at no more than what it needs: a cost that does not grow with the
/// bytes behind the header.
///
/// # Errors
/// As soon as the bytes cannot become a header.
pub fn parse(bytes: &[u8]) -> Result<Parsed, Malformed> {
    match bytes.first() {
        None => Ok(Parsed::Partial),
        Some(b'P') => line(bytes),
        Some(_) => binary(bytes),
    }
}

/// Whether the bytes are, or may become, a header of either version: what nobody else would begin with.
pub fn may_begin(bytes: &[u8]) -> bool {
    let begins = |signature: &[u8]| bytes.iter().zip(signature).all(|(byte, wanted)| byte == wanted);
    begins(LINE) || begins(SIGNATURE)
}

/// Whether the signature of either version is there in full.
pub fn begins(bytes: &[u8]) -> bool {
    bytes.starts_with(LINE) || bytes.starts_with(SIGNATURE)
}

/// Version 1 (§2.1).
fn line(bytes: &[u8]) -> Result<Parsed, Malformed> {
    if !may_begin(bytes) {
        return Err(Malformed::Absent);
    }
    let seen = &bytes[..bytes.len().min(LONGEST_LINE)];
    let Some(end) = seen.iter().position(|byte| *byte == b'\r' || *byte == b'\n') else {
        return if seen.len() < LONGEST_LINE { Ok(Parsed::Partial) } else { Err(Malformed::LongLine) };
    };
    match seen.get(end..end + 2) {
        Some(b"\r\n") => {}
        None if seen[end] == b'\r' && end + 2 <= LONGEST_LINE => return Ok(Parsed::Partial),
        None if seen[end] == b'\r' => return Err(Malformed::LongLine),
        _ => return Err(Malformed::Line),
    }
    let text = std::str::from_utf8(&seen[..end]).map_err(|_| Malformed::Line)?;
    let origin = origin_of_line(text).ok_or(Malformed::Line)?;
    Ok(Parsed::Whole { origin, length: end + 2 })
}

fn origin_of_line(text: &str) -> Option<Origin> {
    let mut words = text.split(' ').skip(1);
    let family = words.next()?;
    if family == "UNKNOWN" {
        // Whatever follows is to be ignored.
        return Some(Origin::Sender);
    }
    let (source, target, source_port, target_port) = (words.next()?, words.next()?, words.next()?, words.next()?);
    if words.next().is_some() {
        return None;
    }
    let address = match family {
        "TCP4" => target.parse::<Ipv4Addr>().ok().and_then(|_| source.parse::<Ipv4Addr>().ok()).map(IpAddr::from),
        "TCP6" => target.parse::<Ipv6Addr>().ok().and_then(|_| source.parse::<Ipv6Addr>().ok()).map(IpAddr::from),
        _ => None,
    }?;
    port(target_port)?;
    Some(client(address, port(source_port)?))
}

/// Decimal, without sign or leading zeroes.
fn port(text: &str) -> Option<u16> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit()) && (text.len() == 1 || !text.starts_with('0'));
    plain.then(|| text.parse().ok()).flatten()
}

/// An IPv4 address in IPv6's clothes is that IPv4 address, as everywhere.
fn client(address: IpAddr, port: u16) -> Origin {
    Origin::Client(SocketAddr::new(address.to_canonical(), port))
}

/// Version 2 (§2.2).
fn binary(bytes: &[u8]) -> Result<Parsed, Malformed> {
    if !may_begin(bytes) {
        return Err(Malformed::Absent);
    }
    if bytes.len() < FIXED {
        return Ok(Parsed::Partial);
    }
    let (version, command, family) = (bytes[12] >> 4, bytes[12] & 0xF, bytes[13]);
    let length = FIXED + usize::from(u16::from_be_bytes([bytes[14], bytes[15]]));
    if version != 2 {
        return Err(Malformed::Version);
    }
    if command > PROXY {
        return Err(Malformed::Command);
    }
    if length > LONGEST {
        return Err(Malformed::Long);
    }
    // All that is said for LOCAL, the family included, is to be discarded.
    let addresses = if command == PROXY { addresses(family)? } else { 0 };
    if length < FIXED + addresses {
        return Err(Malformed::Short);
    }
    let Some(header) = bytes.get(..length) else { return Ok(Parsed::Partial) };
    if command != PROXY {
        return Ok(Parsed::Whole { origin: Origin::Sender, length });
    }
    let body = &header[FIXED..];
    let origin = match family {
        TCP4 => client(Ipv4Addr::from(array::<4>(body, 0)).into(), u16::from_be_bytes(array(body, 8))),
        TCP6 => client(Ipv6Addr::from(array::<16>(body, 0)).into(), u16::from_be_bytes(array(body, 32))),
        _ => Origin::Sender,
    };
    check_extensions(header, FIXED + addresses)?;
    Ok(Parsed::Whole { origin, length })
}

/// Bytes of the addresses of a family and protocol.
fn addresses(family: u8) -> Result<usize, Malformed> {
    match family {
        UNSPEC => Ok(0),
        TCP4 => Ok(12),
        TCP6 => Ok(36),
        UNIX_STREAM => Ok(216),
        // Datagrams are no connection, and other values must be refused.
        _ => Err(Malformed::Family),
    }
}

fn array<const N: usize>(bytes: &[u8], from: usize) -> [u8; N] {
    let mut array = [0; N];
    // The length was checked against the family.
    array.copy_from_slice(&bytes[from..from + N]);
    array
}

/// Walks the TLVs from `from` on. None of them is used; a checksum must be right where there is one (§2.2.4).
fn check_extensions(header: &[u8], from: usize) -> Result<(), Malformed> {
    let mut at = from;
    while at < header.len() {
        let [kind, high, low] = *header.get(at..at + 3).and_then(<[u8]>::as_array).ok_or(Malformed::Tlv)?;
        let value = at + 3;
        at = value + usize::from(u16::from_be_bytes([high, low]));
        if at > header.len() {
            return Err(Malformed::Tlv);
        }
        if kind == CRC32C {
            let said = header[value..at].as_array::<4>().ok_or(Malformed::Tlv)?;
            // It was made with its own bytes as zeroes.
            let summed = crc32c(crc32c(crc32c(!0, &header[..value]), &[0; 4]), &header[at..]);
            if u32::from_be_bytes(*said) != !summed {
                return Err(Malformed::Checksum);
            }
        }
    }
    Ok(())
}

/// Castagnoli's polynomial, reflected, bit by bit: a header is short, and hardly any has a checksum.
fn crc32c(state: u32, bytes: &[u8]) -> u32 {
    bytes.iter().fold(state, |state, byte| {
        (0..8).fold(state ^ u32::from(*byte), |state, _| (state >> 1) ^ (0x82F6_3B78 & (state & 1).wrapping_neg()))
    })
}

const LINE: &[u8] = b"PROXY ";
/// With its CRLF (§2.1).
const LONGEST_LINE: usize = 107;
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// Signature, version and command, family, length.
const FIXED: usize = 16;
/// Bytes of a whole header; nginx's bound, too. Certificates' names and unique ids fit, and an outsider cannot make us
/// hold more.
const LONGEST: usize = 4096;
const PROXY: u8 = 1;
const UNSPEC: u8 = 0x00;
const TCP4: u8 = 0x11;
const TCP6: u8 = 0x21;
const UNIX_STREAM: u8 = 0x31;
const CRC32C: u8 = 0x03;

#[cfg(test)]
#[path = "proxy_header_tests.rs"]
mod tests;

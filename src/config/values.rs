//! From a scalar's text to a value, one function a type. Each says what is wrong and how to mend it.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use super::problems::{Fault, nearest};
use super::tree::{Scalar, Style};
use crate::names::ServiceName;

/// Any text but the empty one. A plain `8080` or `true` is no text: YAML and a reader would disagree on it.
pub(super) fn text(scalar: &Scalar) -> Result<String, Fault> {
    let text = &scalar.text;
    if scalar.style == Style::Plain && (scalar.is_number() || matches!(text.as_str(), "true" | "false")) {
        return Err(Fault::new(
            format!("must be text, but {text} is {}", scalar.kind()),
            format!("put it in quotes: \"{text}\""),
        ));
    }
    if text.is_empty() {
        return Err(Fault::new("the text is empty", "write something, or remove the key"));
    }
    if text.chars().any(char::is_control) {
        return Err(Fault::new("the text holds control characters", "remove line feeds and the like"));
    }
    Ok(text.clone())
}

/// As `text`, or the empty text.
pub(super) fn text_or_empty(scalar: &Scalar) -> Result<String, Fault> {
    if scalar.text.is_empty() { Ok(String::new()) } else { text(scalar) }
}

pub(super) fn service(scalar: &Scalar) -> Result<ServiceName, Fault> {
    let name = text(scalar)?;
    ServiceName::parse(&name).map_err(|error| {
        let example = if name.to_lowercase() == name { "users-v2".into() } else { name.to_lowercase() };
        Fault::new(
            format!("{name:?} is no service name: {}", error.to_string().replace(';', ",")),
            format!("write a name like {example}"),
        )
    })
}

pub(super) fn boolean(scalar: &Scalar) -> Result<bool, Fault> {
    match (scalar.text.as_str(), scalar.style) {
        ("true", Style::Plain | Style::Given) => Ok(true),
        ("false", Style::Plain | Style::Given) => Ok(false),
        (other, _) => {
            Err(Fault::new(format!("must be true or false, but is {other:?}"), "write true or false, without quotes"))
        }
    }
}

pub(super) fn integer(scalar: &Scalar, min: u64, max: u64) -> Result<u64, Fault> {
    let text = &scalar.text;
    let range = || {
        if max == u64::from(u32::MAX) {
            format!("a whole number of at least {min}")
        } else {
            format!("a whole number from {min} to {max}")
        }
    };
    if scalar.style == Style::Quoted {
        return Err(Fault::new(
            format!("must be {}, but {text:?} is text", range()),
            "write the number without quotes",
        ));
    }
    let digits = !text.is_empty() && text.bytes().all(|c| c.is_ascii_digit());
    match text.parse::<u64>() {
        Ok(number) if digits && (min..=max).contains(&number) => Ok(number),
        Ok(_) | Err(_) => {
            Err(Fault::new(format!("must be {}, but is {text:?}", range()), format!("write {}", range())))
        }
    }
}

/// 0.0 to 1.0.
pub(super) fn fraction(scalar: &Scalar) -> Result<f64, Fault> {
    let good = scalar.text.parse::<f64>().ok().filter(|share| (0.0..=1.0).contains(share));
    match good {
        Some(share) if scalar.style != Style::Quoted => Ok(share),
        Some(_) | None => Err(Fault::new(
            format!("must be a number from 0.0 to 1.0, but is {:?}", scalar.text),
            "write a share such as 0.1",
        )),
    }
}

/// 0 to 100, in fractions too.
pub(super) fn percent(scalar: &Scalar) -> Result<f64, Fault> {
    let good = scalar.text.parse::<f64>().ok().filter(|share| (0.0..=100.0).contains(share));
    match good {
        Some(share) if scalar.style != Style::Quoted => Ok(share),
        Some(_) | None => Err(Fault::new(
            format!("must be a number from 0 to 100, but is {:?}", scalar.text),
            "write a percentage such as 5 or 0.1",
        )),
    }
}

/// `250ms`, `5s`, `1m`, `1h`, `1m30s`: above nothing, at most a year.
pub(super) fn duration(scalar: &Scalar) -> Result<Duration, Fault> {
    let text = scalar.text.trim();
    let mend = || {
        if scalar.is_number() {
            format!("add a unit: {text}s or {text}ms")
        } else {
            "write a duration such as 250ms, 5s, 1m or 1m30s".into()
        }
    };
    let time = units(text, &[("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000)]);
    match time {
        Some(millis) if millis > 0 && millis <= 366 * 24 * 3_600_000 => Ok(Duration::from_millis(millis)),
        Some(0) => Err(Fault::new("the duration is zero", "write a duration such as 250ms, 5s or 1m")),
        Some(_) => Err(Fault::new(format!("{text:?} is longer than a year"), "write a shorter duration")),
        None => Err(Fault::new(format!("{text:?} is no duration"), mend())),
    }
}

/// `None` for `off`.
pub(super) fn duration_or_off(scalar: &Scalar) -> Result<Option<Duration>, Fault> {
    if scalar.text == "off" { Ok(None) } else { duration(scalar).map(Some) }
}

/// The sum of the parts of `1m30s`, each unit at most once and from large to small.
fn units(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let mut sum: u64 = 0;
    let mut last = u64::MAX;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let number: u64 = rest[..digits].parse().ok()?;
        let unit_end = rest[digits..].find(|c: char| c.is_ascii_digit()).map_or(rest.len(), |end| digits + end);
        let (_, factor) = units.iter().find(|(unit, _)| *unit == &rest[digits..unit_end])?;
        if *factor >= last {
            return None;
        }
        sum = sum.checked_add(number.checked_mul(*factor)?)?;
        last = *factor;
        rest = &rest[unit_end..];
    }
    (!text.is_empty()).then_some(sum)
}

/// Bytes: `65536`, `64KiB`, `10MB`.
pub(super) fn size(scalar: &Scalar) -> Result<u64, Fault> {
    let text = scalar.text.trim();
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let factor = match text[split..].trim_start() {
        "" | "B" => Some(1),
        "kB" | "KB" => Some(1000),
        "KiB" => Some(1 << 10),
        "MB" => Some(1_000_000),
        "MiB" => Some(1 << 20),
        "GB" => Some(1_000_000_000),
        "GiB" => Some(1 << 30),
        _ => None,
    };
    let bytes = text[..split].parse::<u64>().ok().zip(factor).and_then(|(number, factor)| number.checked_mul(factor));
    bytes.ok_or_else(|| {
        Fault::new(format!("{text:?} is no size"), "write a size such as 64KiB, 10MB or a number of bytes")
    })
}

/// `IP:PORT` to listen on; port 0 takes a free one.
pub(super) fn listen(scalar: &Scalar) -> Result<SocketAddr, Fault> {
    let text = &scalar.text;
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Ok(address);
    }
    let mend = match text.rsplit_once(':') {
        None if text.parse::<IpAddr>().is_ok() => format!("add a port: {text}:20000"),
        None => format!(
            "write an IP address and a port, such as 127.0.0.1:{}",
            if port_of(text).is_ok() { text } else { "20000" }
        ),
        Some(("", port)) if port_of(port).is_ok() => format!("write the address too: 0.0.0.0{text} or 127.0.0.1{text}"),
        Some(("localhost", port)) => format!("write 127.0.0.1:{port}"),
        Some((host, _)) if host.parse::<IpAddr>().is_ok() => "write a port from 0 to 65535".into(),
        Some(_) => "write an IP address and a port, such as 127.0.0.1:20000 or [::1]:20000".into(),
    };
    Err(Fault::new(format!("{text:?} is no address to listen on"), mend))
}

fn port_of(text: &str) -> Result<u16, Fault> {
    let digits = !text.is_empty() && text.bytes().all(|c| c.is_ascii_digit());
    let fault = || Fault::new(format!("{text:?} is no port"), "write a port from 0 to 65535");
    if digits { text.parse().map_err(|_| fault()) } else { Err(fault()) }
}

/// An IP address or a DNS name.
pub(super) fn host(scalar: &Scalar) -> Result<String, Fault> {
    let text = scalar.text.as_str();
    let bare = text.strip_prefix('[').and_then(|inner| inner.strip_suffix(']')).unwrap_or(text);
    if bare.parse::<IpAddr>().is_ok() {
        return Ok(bare.to_owned());
    }
    let label = |label: &str| {
        (1..=63).contains(&label.len()) && label.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_'))
    };
    let trimmed = text.strip_suffix('.').unwrap_or(text);
    // What looks like an IP address but is none is a slip, not a name: no top-level domain is a number (RFC 3696 §2).
    let number = trimmed.rsplit('.').next().is_some_and(|last| last.bytes().all(|c| c.is_ascii_digit()));
    if trimmed.len() <= 253 && trimmed.split('.').all(label) && !number {
        return Ok(text.to_owned());
    }
    Err(Fault::new(format!("{text:?} is no host"), "write an IP address or a DNS name, without port or scheme"))
}

/// `HOST:PORT`.
pub(super) fn host_port(scalar: &Scalar) -> Result<(String, u16), Fault> {
    let text = &scalar.text;
    let Some((name, port)) = text.rsplit_once(':').filter(|(name, _)| !name.contains(':') || name.starts_with('['))
    else {
        return Err(Fault::new(format!("{text:?} has no port"), "write HOST:PORT, such as 10.0.0.5:80 or [::1]:80"));
    };
    let name = host(&Scalar { text: name.to_owned(), style: Style::Given })?;
    Ok((name, port_of(port)?))
}

/// As `host_port`, without port 0.
pub(super) fn target(scalar: &Scalar) -> Result<(String, u16), Fault> {
    match host_port(scalar)? {
        (_, 0) => Err(Fault::new(format!("{:?} has port 0", scalar.text), "write the port that it listens on")),
        target => Ok(target),
    }
}

/// A DNS server: it cannot be asked for its own name.
pub(super) fn name_server(scalar: &Scalar) -> Result<SocketAddr, Fault> {
    let (host, port) = target(scalar)?;
    let host = if host == "localhost" { "127.0.0.1" } else { &host };
    let address = host.parse::<IpAddr>().map_err(|_| {
        Fault::new(format!("{host:?} is a name, and names need a server first"), "write the server's IP address")
    })?;
    Ok(SocketAddr::new(address, port))
}

/// An address or a network: `10.0.0.0/8`.
pub(super) fn network(scalar: &Scalar) -> Result<ipnet::IpNet, Fault> {
    let text = &scalar.text;
    let net = text.parse::<ipnet::IpNet>().ok();
    net.or_else(|| text.parse::<IpAddr>().ok().map(Into::into))
        .ok_or_else(|| Fault::new(format!("{text:?} is no IP address or network"), "write 10.0.0.7 or 10.0.0.0/8"))
}

/// A file or folder as written; `section` makes it relative to the config file.
pub(super) fn path(scalar: &Scalar) -> Result<PathBuf, Fault> {
    text(scalar).map(PathBuf::from)
}

/// The path and query of a request.
pub(super) fn request_path(scalar: &Scalar) -> Result<String, Fault> {
    let path = text(scalar)?;
    let good = path.starts_with('/') && !path.contains('#') && path.parse::<http::uri::PathAndQuery>().is_ok();
    if good {
        Ok(path)
    } else {
        Err(Fault::new(format!("{path:?} is no path"), "write a path that begins with /, such as /healthz"))
    }
}

/// Where Consul is: `http://host:port`, `https://…`, `unix:///path`, or `host:port`.
pub(super) fn consul_address(scalar: &Scalar) -> Result<String, Fault> {
    let address = text(scalar)?;
    let fault = |what: &str| {
        Err(Fault::new(
            format!("{address:?} {what}"),
            "write http://127.0.0.1:8500, https://consul.example:8501 or unix:///run/consul.sock",
        ))
    };
    let (scheme, rest) = address.split_once("://").unwrap_or(("", &address));
    match scheme {
        "unix" if rest.starts_with('/') => return Ok(address.clone()),
        "unix" => return fault("names no absolute path"),
        "" | "http" | "https" => {}
        _ => return fault("has an unknown scheme"),
    }
    let authority = rest.strip_suffix('/').unwrap_or(rest);
    if authority.contains(['/', '?', '#', '@']) {
        return fault("has more than a host and a port");
    }
    let given = |text: &str| Scalar { text: text.to_owned(), style: Style::Given };
    if target(&given(authority)).is_err() && host(&given(authority)).is_err() {
        return fault("is no address of Consul");
    }
    Ok(address[..address.len() - (rest.len() - authority.len())].to_owned())
}

/// One word of a closed set.
pub(super) fn choice(scalar: &Scalar, values: &[&'static str], later: &[&str]) -> Result<&'static str, Fault> {
    let text = scalar.text.as_str();
    if let Some(value) = values.iter().find(|value| **value == text) {
        return Ok(value);
    }
    let list = values.join(", ");
    if later.contains(&text) {
        return Err(not_yet(text, &format!("use one of: {list}")));
    }
    let mend = match nearest(text, values.iter().copied()) {
        Some(near) => format!("did you mean {near}? It is one of: {list}"),
        None => format!("write one of: {list}"),
    };
    Err(Fault::new(format!("{text:?} is not known here"), mend))
}

pub(super) fn not_yet(what: &str, mend: &str) -> Fault {
    Fault::new(format!("not supported yet: {what}"), mend)
}

/// A method in capitals, as RFC 9110 §9.1 has them.
pub(super) fn method(scalar: &Scalar) -> Result<http::Method, Fault> {
    let text = &scalar.text;
    let good = text.bytes().all(|c| c.is_ascii_uppercase() || c == b'-');
    match http::Method::from_bytes(text.as_bytes()) {
        Ok(method) if good => Ok(method),
        Ok(_) | Err(_) => Err(Fault::new(format!("{text:?} is no method"), "write a method in capitals, such as GET")),
    }
}

/// Data-path threads: a number, or `auto` for one a core.
pub(super) fn workers(scalar: &Scalar) -> Result<usize, Fault> {
    if scalar.text == "auto" {
        return Ok(std::thread::available_parallelism().map_or(1, std::num::NonZero::get));
    }
    let number = integer(scalar, 1, 256).ok().and_then(|number| usize::try_from(number).ok());
    number.ok_or_else(|| {
        Fault::new(
            format!("must be a number from 1 to 256, or auto, but is {:?}", scalar.text),
            "write 1, 2, … or auto",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(text: &str) -> Scalar {
        Scalar { text: text.into(), style: Style::Plain }
    }

    #[test]
    fn durations_have_units() {
        for (text, millis) in
            [("250ms", 250), ("5s", 5000), ("1m", 60_000), ("1h", 3_600_000), ("1m30s", 90_000), ("1s500ms", 1500)]
        {
            assert_eq!(duration(&plain(text)), Ok(Duration::from_millis(millis)), "{text}");
        }
        for text in
            ["", "5", "s", "0s", "-5s", "5 s", "5d", "30s1m", "1m1m", "1.5s", "9999999999999999999s", "99999h", "5S"]
        {
            assert!(duration(&plain(text)).is_err(), "{text}");
        }
        assert_eq!(duration(&plain("5")).unwrap_err().mend, "add a unit: 5s or 5ms");
        assert_eq!(duration_or_off(&plain("off")), Ok(None));
    }

    #[test]
    fn sizes_are_bytes_or_have_units() {
        for (text, bytes) in [("0", 0), ("65536", 65536), ("64KiB", 65536), ("10MB", 10_000_000), ("1 GiB", 1 << 30)] {
            assert_eq!(size(&plain(text)), Ok(bytes), "{text}");
        }
        for text in ["", "KiB", "64k", "-1", "1.5MB", "99999999999999999999", "9999999999999999GiB"] {
            assert!(size(&plain(text)).is_err(), "{text}");
        }
    }

    #[test]
    fn addresses_are_ip_and_port_with_help_for_the_usual_slips() {
        assert!(listen(&plain("127.0.0.1:0")).is_ok() && listen(&plain("[::]:80")).is_ok());
        for (text, mend) in [
            (":80", "write the address too: 0.0.0.0:80 or 127.0.0.1:80"),
            ("localhost:80", "write 127.0.0.1:80"),
            ("10.0.0.1", "add a port: 10.0.0.1:20000"),
            ("8080", "write an IP address and a port, such as 127.0.0.1:8080"),
            ("10.0.0.1:70000", "write a port from 0 to 65535"),
        ] {
            assert_eq!(listen(&plain(text)).unwrap_err().mend, mend, "{text}");
        }
    }

    #[test]
    fn hosts_are_addresses_or_names() {
        for text in ["a", "a.b-c.d", "10.0.0.1", "::1", "x.service.consul."] {
            assert!(host(&plain(text)).is_ok(), "{text}");
        }
        for text in ["", "a b", "http://a", "10.0.0", "1.2.3.400", "a..b", "a/b"] {
            assert!(host(&plain(text)).is_err(), "{text}");
        }
        assert_eq!(host_port(&plain("[::1]:80")), Ok(("::1".into(), 80)));
        assert!(
            host_port(&plain("::1")).is_err() && host_port(&plain("a:x")).is_err() && target(&plain("a:0")).is_err()
        );
    }

    #[test]
    fn consuls_address_may_lack_its_scheme() {
        for text in
            ["http://127.0.0.1:8500", "https://c.example:8501", "unix:///run/c.sock", "127.0.0.1:8500", "consul"]
        {
            assert_eq!(consul_address(&plain(text)).as_deref(), Ok(text));
        }
        assert_eq!(consul_address(&plain("http://a:1/")).as_deref(), Ok("http://a:1"));
        for text in ["", "ftp://a", "unix://x", "http://", "http://u:p@a:1", "http://a:1/x", "http://a:99999"] {
            assert!(consul_address(&plain(text)).is_err(), "{text}");
        }
    }

    #[test]
    fn quoted_numbers_are_text_and_plain_numbers_are_not() {
        let quoted = Scalar { text: "8080".into(), style: Style::Quoted };
        assert!(integer(&quoted, 1, 65535).is_err() && text(&quoted).is_ok());
        assert!(integer(&plain("8080"), 1, 65535).is_ok() && text(&plain("8080")).is_err());
        for text in ["0", "65536", "-1", "+1", "1.0", "0x10", "abc", ""] {
            assert!(integer(&plain(text), 1, 65535).is_err(), "{text}");
        }
    }
}

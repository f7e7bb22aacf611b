//! PROXY headers of both versions: good, at their bounds, cut, wrong.

use proptest::prelude::*;

use super::*;

fn whole(bytes: &[u8]) -> (Origin, usize) {
    match parse(bytes) {
        Ok(Parsed::Whole { origin, length }) => (origin, length),
        other => panic!("{:?} is {other:?}", String::from_utf8_lossy(bytes)),
    }
}

fn from(address: &str) -> Origin {
    Origin::Client(address.parse().unwrap())
}

fn v2(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
    let mut header = SIGNATURE.to_vec();
    header.extend([command, family]);
    header.extend(u16::try_from(body.len()).unwrap().to_be_bytes());
    header.extend(body);
    header
}

/// 192.0.2.7:4660 toward 10.0.0.1:443.
const V4: [u8; 12] = [192, 0, 2, 7, 10, 0, 0, 1, 0x12, 0x34, 1, 0xBB];

#[test]
fn lines_are_read() {
    let cases: [(&str, Origin); 8] = [
        ("PROXY TCP4 192.0.2.7 10.0.0.1 4660 443\r\n", from("192.0.2.7:4660")),
        ("PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n", from("255.255.255.255:65535")),
        ("PROXY TCP4 0.0.0.0 0.0.0.0 0 0\r\n", from("0.0.0.0:0")),
        ("PROXY TCP6 2001:db8::1 ::1 4660 443\r\n", from("[2001:db8::1]:4660")),
        ("PROXY TCP6 ::ffff:192.0.2.7 ::1 4660 443\r\n", from("192.0.2.7:4660")),
        ("PROXY UNKNOWN\r\n", Origin::Sender),
        ("PROXY UNKNOWN whatever  it says\r\n", Origin::Sender),
        (
            "PROXY UNKNOWN ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n",
            Origin::Sender,
        ),
    ];
    for (text, origin) in cases {
        let with_more = format!("{text}\r\nGET / HTTP/1.1\r\n");
        assert_eq!(whole(with_more.as_bytes()), (origin, text.len()), "{text:?}");
        for cut in 0..text.len() {
            assert_eq!(parse(&text.as_bytes()[..cut]), Ok(Parsed::Partial), "{text:?} cut at {cut}");
        }
    }
}

#[test]
fn lines_that_say_anything_else_are_malformed() {
    for text in [
        "PROXY TCP4 192.0.2.7 10.0.0.1 4660 443\n",
        "PROXY TCP4 192.0.2.7 10.0.0.1 4660 443\r\r\n",
        "PROXY TCP4 192.0.2.7 10.0.0.1 4660 443 \r\n",
        "PROXY  TCP4 192.0.2.7 10.0.0.1 4660 443\r\n",
        "PROXY TCP4 192.0.2.7 10.0.0.1 4660\r\n",
        "PROXY TCP4 192.0.2.7 10.0.0.1 4660 443 1\r\n",
        "PROXY TCP4 192.0.2.07 10.0.0.1 4660 443\r\n",
        "PROXY TCP4 192.0.2 10.0.0.1 4660 443\r\n",
        "PROXY TCP4 192.0.2.256 10.0.0.1 4660 443\r\n",
        "PROXY TCP4 192.0.2.7 ::1 4660 443\r\n",
        "PROXY TCP4 ::1 10.0.0.1 4660 443\r\n",
        "PROXY TCP6 192.0.2.7 ::1 4660 443\r\n",
        "PROXY TCP6 fe80::1%eth0 ::1 4660 443\r\n",
        "PROXY TCP4 192.0.2.7 10.0.0.1 +1 443\r\n",
        "PROXY TCP4 192.0.2.7 10.0.0.1 01 443\r\n",
        "PROXY TCP4 192.0.2.7 10.0.0.1 65536 443\r\n",
        "PROXY TCP4 192.0.2.7 10.0.0.1 4660 443x\r\n",
        "PROXY TCP4 192.0.2.7 10.0.0.1 4660 \r\n",
        "PROXY UDP4 192.0.2.7 10.0.0.1 4660 443\r\n",
        "PROXY tcp4 192.0.2.7 10.0.0.1 4660 443\r\n",
        "PROXY UNKNOWNX\r\n",
        "PROXY \r\n",
        "PROXY TCP4 \u{e9} 10.0.0.1 4660 443\r\n",
    ] {
        assert_eq!(parse(text.as_bytes()), Err(Malformed::Line), "{text:?}");
    }
    for text in
        ["POST / HTTP/1.1\r\n", "PRI * HTTP/2.0\r\n", "PROXY/", "proxy TCP4", "\x16\x03\x01", "GET /", "\r\nGET /"]
    {
        assert_eq!(parse(text.as_bytes()), Err(Malformed::Absent), "{text:?}");
        assert!(!may_begin(text.as_bytes()), "{text:?}");
    }
}

#[test]
fn a_line_ends_within_107_bytes() {
    let line = |length: usize| {
        let mut line = b"PROXY UNKNOWN ".to_vec();
        line.resize(length - 2, b'x');
        line.extend(b"\r\n");
        line
    };
    assert_eq!(whole(&line(107)).1, 107);
    assert_eq!(parse(&line(107)[..106]), Ok(Parsed::Partial));
    assert_eq!(parse(&line(108)), Err(Malformed::LongLine));
    assert_eq!(parse(&line(109)), Err(Malformed::LongLine));
    assert_eq!(parse(&line(109)[..107]), Err(Malformed::LongLine));
    assert_eq!(parse(&[&b"PROXY "[..], &[b'x'; 10_000]].concat()), Err(Malformed::LongLine));
}

#[test]
fn binary_headers_are_read() {
    let mut v6 = [0; 36];
    v6[..4].copy_from_slice(&[0x20, 1, 0xd, 0xb8]);
    v6[15] = 1;
    v6[32..34].copy_from_slice(&4660u16.to_be_bytes());
    let tlvs = [&V4[..], &[0x04, 0, 2, 0, 0], &[0x02, 0, 3], b"a.b", &[0xEA, 0, 0]].concat();
    for (header, origin) in [
        (v2(0x21, 0x11, &V4), from("192.0.2.7:4660")),
        (v2(0x21, 0x11, &tlvs), from("192.0.2.7:4660")),
        (v2(0x21, 0x21, &v6), from("[2001:db8::1]:4660")),
        (v2(0x21, 0x00, &[]), Origin::Sender),
        (v2(0x21, 0x00, &[0x04, 0, 1, 9]), Origin::Sender),
        (v2(0x21, 0x31, &[7; 216]), Origin::Sender),
        (v2(0x20, 0x00, &[]), Origin::Sender),
        // What LOCAL says besides is discarded, whatever it is.
        (v2(0x20, 0x11, &V4), Origin::Sender),
        (v2(0x20, 0xFF, b"nonsense"), Origin::Sender),
    ] {
        let with_more = [&header[..], b"\x16\x03\x01"].concat();
        assert_eq!(whole(&with_more), (origin, header.len()), "{header:?}");
        for cut in 0..header.len() {
            assert_eq!(parse(&header[..cut]), Ok(Parsed::Partial), "{header:?} cut at {cut}");
        }
    }
}

#[test]
fn binary_headers_that_say_anything_else_are_malformed() {
    for (header, why) in [
        (v2(0x11, 0x11, &V4), Malformed::Version),
        (v2(0x31, 0x11, &V4), Malformed::Version),
        (v2(0x22, 0x11, &V4), Malformed::Command),
        (v2(0x2F, 0x00, &[]), Malformed::Command),
        (v2(0x21, 0x12, &V4), Malformed::Family),
        (v2(0x21, 0x22, &[0; 36]), Malformed::Family),
        (v2(0x21, 0x32, &[0; 216]), Malformed::Family),
        (v2(0x21, 0x10, &V4), Malformed::Family),
        (v2(0x21, 0x01, &V4), Malformed::Family),
        (v2(0x21, 0x41, &V4), Malformed::Family),
        (v2(0x21, 0x11, &V4[..11]), Malformed::Short),
        (v2(0x21, 0x21, &V4), Malformed::Short),
        (v2(0x21, 0x31, &[0; 215]), Malformed::Short),
        (v2(0x21, 0x11, &[&V4[..], &[4]].concat()), Malformed::Tlv),
        (v2(0x21, 0x11, &[&V4[..], &[4, 0]].concat()), Malformed::Tlv),
        (v2(0x21, 0x11, &[&V4[..], &[4, 0, 1]].concat()), Malformed::Tlv),
        (v2(0x21, 0x11, &[&V4[..], &[4, 0xFF, 0xFF, 1]].concat()), Malformed::Tlv),
        (v2(0x21, 0x11, &[&V4[..], &[3, 0, 3, 1, 1, 1]].concat()), Malformed::Tlv),
        (v2(0x21, 0x11, &[0; 4081]), Malformed::Long),
        (v2(0x20, 0x00, &vec![0; 0xFFFF]), Malformed::Long),
    ] {
        assert_eq!(parse(&header), Err(why), "{header:?}");
    }
    // Said before the rest comes.
    assert_eq!(parse(&v2(0x21, 0x11, &[0; 4081])[..16]), Err(Malformed::Long));
    assert_eq!(whole(&v2(0x21, 0x11, &[&V4[..], &[4, 0x0F, 0xE1], &[0; 0xFE1][..]].concat())).1, LONGEST);
}

fn with_checksum(before: &[u8], after: &[u8]) -> Vec<u8> {
    let mut header = v2(0x21, 0x11, &[&V4[..], before, &[3, 0, 4, 0, 0, 0, 0], after].concat());
    let at = FIXED + V4.len() + before.len() + 3;
    let sum = !crc32c(!0, &header);
    header[at..at + 4].copy_from_slice(&sum.to_be_bytes());
    header
}

#[test]
fn a_checksum_must_be_right() {
    // The check value of CRC-32C.
    assert_eq!(!crc32c(!0, b"123456789"), 0xE306_9283);
    for (before, after) in [(&[][..], &[][..]), (&[4, 0, 1, 0], &[0xEA, 0, 2, 1, 2])] {
        let header = with_checksum(before, after);
        assert_eq!(whole(&header).0, from("192.0.2.7:4660"));
        for at in FIXED..FIXED + V4.len() {
            let mut forged = header.clone();
            forged[at] ^= 1;
            assert_eq!(parse(&forged), Err(Malformed::Checksum));
        }
    }
    // Two of them: each must be right, so that none can hide behind the other.
    let twice = with_checksum(&[], &[3, 0, 4, 0, 0, 0, 0]);
    assert_eq!(parse(&twice), Err(Malformed::Checksum));
}

proptest! {
    #[test]
    fn what_is_said_is_what_is_read(address: IpAddr, port: u16, target: IpAddr, target_port: u16) {
        prop_assume!(address.is_ipv4() == target.is_ipv4());
        let wanted = Origin::Client(SocketAddr::new(address.to_canonical(), port));
        let family = if address.is_ipv4() { "TCP4" } else { "TCP6" };
        let text = format!("PROXY {family} {address} {target} {port} {target_port}\r\n");
        prop_assert_eq!(whole(text.as_bytes()), (wanted, text.len()));
        let octets = |address: IpAddr| match address {
            IpAddr::V4(address) => address.octets().to_vec(),
            IpAddr::V6(address) => address.octets().to_vec(),
        };
        let mut body = octets(address);
        body.extend(octets(target));
        body.extend(port.to_be_bytes());
        body.extend(target_port.to_be_bytes());
        let header = v2(0x21, if address.is_ipv4() { TCP4 } else { TCP6 }, &body);
        prop_assert_eq!(whole(&header), (wanted, header.len()));
    }

    /// However the bytes come in pieces, the answer is the same, and a verdict is never taken back.
    #[test]
    fn pieces_do_not_matter(
        version in 0..3, tail in proptest::collection::vec(any::<u8>(), 0..64), line in "[ -~\r\n]{0,120}"
    ) {
        let bytes = match version {
            0 => [LINE, line.as_bytes()].concat(),
            1 => [SIGNATURE, &tail[..]].concat(),
            _ => tail,
        };
        let last = parse(&bytes);
        for cut in 0..bytes.len() {
            match parse(&bytes[..cut]) {
                Ok(Parsed::Partial) => {}
                verdict => prop_assert_eq!(verdict, last),
            }
        }
    }
}

//! TLS as attackers speak it: certificates that are nearly right, old versions, tickets of yesterday. Each is refused at the
//! handshake, counted by kind, and the app sees nothing of it.

use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use rcgen::{CertificateParams, CustomExtension, ExtendedKeyUsagePurpose, IsCa, SanType};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};
use time::{Duration, OffsetDateTime};
use tokio_rustls::TlsAcceptor;

use crate::support::certs::{Authority, Leaf, openssl_get};
use crate::support::client::Connection;
use crate::support::front::Front;
use crate::support::pair::sidecar;
use crate::support::{Ask, Embedded, SOON, eventually, runtime};

fn strict() -> Front {
    Front::with(|users| users.set("inbound.mtls", json!("permissive")))
}

/// Asserts that a client of that leaf is let in.
#[track_caller]
fn assert_let_in(front: &Front, leaf: &Leaf, extra: &[&str]) -> String {
    let said = openssl_get(front.address(), Some(leaf), extra);
    assert!(said.contains("HTTP/1.1 200"), "{said}");
    said
}

/// Asserts that a client is refused at the handshake, and counted so.
#[track_caller]
fn assert_refused(front: &Front, what: &str, leaf: Option<&Leaf>, extra: &[&str], outcome: &str) {
    let (seen, labels) = (front.app.seen("/"), [("direction", "inbound"), ("outcome", outcome)]);
    let before = front.users.metric("outrigger_handshakes_total", &labels);
    let said = openssl_get(front.address(), leaf, extra);
    assert!(!said.contains("HTTP/1.1"), "{what}: {said}");
    // The client may hear of it before it is counted.
    eventually(SOON, &format!("{what} is counted as {outcome}: {said}"), || {
        (front.users.metric("outrigger_handshakes_total", &labels) > before).then_some(())
    });
    assert_eq!(front.app.seen("/"), seen, "{what} reached the app");
}

/// One element of DER.
fn der(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut bytes = vec![tag];
    match u8::try_from(content.len()) {
        Ok(short @ 0..128) => bytes.push(short),
        Ok(long) => bytes.extend_from_slice(&[0x81, long]),
        Err(_) => {
            bytes.push(0x82);
            bytes.extend_from_slice(&u16::try_from(content.len()).unwrap().to_be_bytes());
        }
    }
    bytes.extend_from_slice(content);
    bytes
}

const URI: u8 = 0x86;
const DNS: u8 = 0x82;
const EMAIL: u8 = 0x81;

/// subjectAltName with whatever bytes.
fn alternative_names(params: &mut CertificateParams, names: &[(u8, &[u8])]) {
    let names: Vec<u8> = names.iter().flat_map(|(tag, name)| der(*tag, name)).collect();
    params.subject_alt_names.clear();
    let extension = CustomExtension::from_oid_content(&[2, 5, 29, 17], der(0x30, &names));
    params.custom_extensions.push(extension);
}

/// nameConstraints of URI hosts: `tag` 0xa0 for what is permitted, 0xa1 for what is excluded.
fn constrain(params: &mut CertificateParams, tag: u8, host: &str) {
    let subtrees = der(tag, &der(0x30, &der(URI, host.as_bytes())));
    let mut extension = CustomExtension::from_oid_content(&[2, 5, 29, 30], der(0x30, &subtrees));
    extension.set_criticality(true);
    params.custom_extensions.push(extension);
}

/// URIs that are nearly that of service `web`; `{}` is its name.
const NEARLY: [&str; 24] = [
    "spiffe://mesh.test.evil.test/ns/default/dc/dc1/svc/{}",
    "spiffe://evil-mesh.test/ns/default/dc/dc1/svc/{}",
    "spiffe://evil.mesh.test/ns/default/dc/dc1/svc/{}",
    "spiffe://MESH.test/ns/default/dc/dc1/svc/{}",
    "spiffe://mesh.test\0.evil.test/ns/default/dc/dc1/svc/{}",
    "spiffe://mesh.test/ns/default/dc/dc1/svc/{}\0.evil",
    "spiffe://mesh.test/ns/default/dc/dc1/svc/%77eb",
    "spiffe://mesh.test/ns/default/dc/dc1/svc%2f{}",
    "spiffe://mesh.test/ns/default/dc/dc1/svc/../svc/{}",
    "spiffe://mesh.test/ns/default/dc/dc1/svc/./{}",
    "spiffe://mesh.test/ns/default/dc/dc1/svc//{}",
    "spiffe://mesh.test/ns/default/dc/dc1/svc/{}/",
    "spiffe://mesh.test/ns/default/dc/dc1/svc/{}/svc/{}",
    "spiffe://mesh.test/ns/default/dc/dc1/svc/",
    "spiffe://mesh.test/ns/default/dc/dc1/SVC/{}",
    "spiffe://mesh.test/ns/default/dc/dc1/svc/{}?x=1",
    "spiffe://mesh.test/ns/default/dc/dc1/svc/{}#x",
    "spiffe://mesh.test:443/ns/default/dc/dc1/svc/{}",
    "spiffe://someone@mesh.test/ns/default/dc/dc1/svc/{}",
    "spiffe:///ns/default/dc/dc1/svc/{}",
    "https://mesh.test/ns/default/dc/dc1/svc/{}",
    " spiffe://mesh.test/ns/default/dc/dc1/svc/{}",
    "spiffe://mesh.test/ns/default/dc/dc1/svc/{} ",
    "",
];

#[test]
fn a_name_that_is_nearly_right_is_no_identity() {
    let front = strict();
    assert_let_in(&front, &front.authority.leaf("web"), &[]);
    for form in NEARLY {
        let uri = form.replace("{}", "web");
        let leaf = front.authority.odd_leaf("web", |params| alternative_names(params, &[(URI, uri.as_bytes())]));
        assert_refused(&front, form, Some(&leaf), &[], "wrong_name");
    }
    let id = front.authority.id("web");
    let id = id.as_bytes();
    type Names<'a> = &'a [(u8, &'a [u8])];
    let others: [(&str, Names); 5] = [
        ("the same URI twice", &[(URI, id), (URI, id)]),
        ("two URIs", &[(URI, id), (URI, b"spiffe://mesh.test/ns/default/dc/dc1/svc/admin")]),
        ("an URI of another kind beside it", &[(URI, id), (URI, b"https://web.mesh.test/")]),
        ("a DNS name that looks like it", &[(DNS, id), (DNS, b"web")]),
        ("a mailbox that looks like it", &[(EMAIL, id)]),
    ];
    for (what, names) in others {
        let leaf = front.authority.odd_leaf("web", |params| alternative_names(params, names));
        assert_refused(&front, what, Some(&leaf), &[], "wrong_name");
    }
    let named = front.authority.odd_leaf("web", |params| {
        params.subject_alt_names.clear();
        params.distinguished_name.push(rcgen::DnType::CommonName, front.authority.id("web"));
    });
    assert_refused(&front, "a common name alone", Some(&named), &[], "wrong_name");
    // Beside the one URI other kinds of names are nobody's identity, and do no harm.
    let with_dns = front.authority.odd_leaf("web", |params| {
        params.subject_alt_names.push(SanType::DnsName("admin".try_into().unwrap()));
    });
    assert_let_in(&front, &with_dns, &[]);
}

#[test]
fn a_certificate_for_another_purpose_or_time_is_refused() {
    let front = strict();
    let authority = &front.authority;
    let server_only = authority.odd_leaf("web", |params| {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    });
    assert_refused(&front, "for servers only", Some(&server_only), &[], "malformed");
    let other = authority.odd_leaf("web", |params| {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::CodeSigning];
    });
    assert_refused(&front, "for code", Some(&other), &[], "malformed");
    assert_refused(&front, "expired", Some(&authority.expired_leaf("web")), &[], "expired");
    let early =
        authority.odd_leaf("web", |params| params.not_before = OffsetDateTime::now_utc() + Duration::minutes(30));
    assert_refused(&front, "of the future", Some(&early), &[], "expired");
    let is_ca = authority.odd_leaf("web", |params| params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained));
    assert_refused(&front, "an authority as a leaf", Some(&is_ca), &[], "malformed");
    assert_refused(&front, "none at all", None, &[], "no_certificate");
}

#[test]
fn only_an_authority_of_ours_makes_leaves() {
    let front = strict();
    let with_chain = |leaf: &Leaf| vec!["-cert_chain".to_owned(), leaf.cert.display().to_string()];
    let stranger = Authority::new("mesh.test");
    let foreign = stranger.leaf("web");
    assert_refused(&front, "a foreign root of the same name", Some(&foreign), &[], "foreign_root");
    for (what, leaf) in [
        ("signed by a leaf", front.authority.leaf_signed_by_a_leaf("web")),
        ("behind an intermediate that pathlen forbids", front.authority.leaf_behind_an_intermediate("web")),
    ] {
        let chain = with_chain(&leaf);
        let extra: Vec<&str> = chain.iter().map(String::as_str).collect();
        assert_refused(&front, what, Some(&leaf), &extra, "foreign_root");
    }
    let own = front.authority.odd_leaf("web", |_| {});
    let mut pem = std::fs::read_to_string(&own.cert).unwrap();
    // A signature that is not the authority's: one base64 digit near its end is another.
    let at = pem.rfind("\n-----END").unwrap() - 20;
    let digit = if pem.as_bytes()[at] == b'A' { "B" } else { "A" };
    pem.replace_range(at..=at, digit);
    std::fs::write(&own.cert, pem).unwrap();
    assert_refused(&front, "a broken signature", Some(&own), &[], "foreign_root");
}

#[test]
fn an_authority_that_may_not_name_us_does_not() {
    let good = Authority::new("mesh.test");
    let excluding = Authority::odd("mesh.test", |params| constrain(params, 0xa1, "mesh.test"));
    let permitting = Authority::odd("mesh.test", |params| constrain(params, 0xa0, "other.test"));
    let ours = Authority::odd("mesh.test", |params| constrain(params, 0xa0, "mesh.test"));
    let folder = tempfile::tempdir().unwrap();
    let roots = folder.path().join("roots.pem");
    let all = [&good, &excluding, &permitting, &ours].map(Authority::root).concat();
    std::fs::write(&roots, all).unwrap();
    let own = good.leaf("users");
    let identity = json!({ "files": { "cert": own.cert, "key": own.key, "roots": roots } });
    let front = Front::with(|users| users.set("inbound.mtls", json!("permissive")).set("identity", identity));
    assert_let_in(&front, &good.leaf("web"), &[]);
    assert_refused(&front, "excluded", Some(&excluding.leaf("web")), &[], "foreign_root");
    assert_refused(&front, "not permitted", Some(&permitting.leaf("web")), &[], "foreign_root");
    // Constraints of URIs are not understood (webpki), and what is not understood is not believed (RFC 5280 §4.2).
    assert_refused(&front, "permitted", Some(&ours.leaf("web")), &[], "foreign_root");
}

#[test]
fn old_versions_are_refused() {
    let front = strict();
    let leaf = front.authority.leaf("web");
    for version in ["-tls1_2", "-tls1_3"] {
        assert_let_in(&front, &leaf, &[version]);
    }
    for version in ["-tls1", "-tls1_1"] {
        let said = openssl_get(front.address(), Some(&leaf), &[version, "-cipher", "ALL:@SECLEVEL=0"]);
        assert!(!said.contains("HTTP/1.1"), "{version}: {said}");
    }
    // As an old client says it, whatever OpenSSL still can.
    for version in [[3, 0], [3, 1], [3, 2]] {
        let mut hello = vec![version[0], version[1]];
        hello.extend_from_slice(&[7; 32]);
        hello.extend_from_slice(&[0, 0, 4, 0xc0, 0x13, 0x00, 0x2f, 1, 0, 0, 0]);
        let mut message = vec![1, 0, 0, u8::try_from(hello.len()).unwrap()];
        message.extend_from_slice(&hello);
        let mut record = vec![22, 3, 1, 0, u8::try_from(message.len()).unwrap()];
        record.extend_from_slice(&message);
        let mut old = Connection::to(front.address()).unwrap();
        old.write(&record).unwrap();
        let mut alert = [0; 7];
        std::io::Read::read_exact(&mut old.socket(), &mut alert).unwrap();
        // RFC 8446 §6: an alert (21), fatal (2).
        assert_eq!((alert[0], alert[5]), (21, 2), "{version:?}: {alert:?}");
        assert!(old.closed());
    }
}

/// What `openssl s_client` keeps of a session, where it got any.
fn session_arguments(folder: &Path, how: &str) -> Vec<String> {
    vec![how.to_owned(), folder.join("session").display().to_string()]
}

#[test]
fn nothing_is_resumed_and_nothing_is_sent_early() {
    let front = strict();
    let leaf = front.authority.leaf("web");
    let folder = tempfile::tempdir().unwrap();
    for version in ["-tls1_2", "-tls1_3"] {
        let _ = std::fs::remove_file(folder.path().join("session"));
        let out = session_arguments(folder.path(), "-sess_out");
        let said = assert_let_in(&front, &leaf, &[version, &out[0], &out[1]]);
        assert!(!said.contains("TLS session ticket:"), "{version}: {said}");
        assert!(!said.contains("Post-Handshake New Session Ticket arrived"), "{version}: {said}");
        if folder.path().join("session").exists() {
            let with = session_arguments(folder.path(), "-sess_in");
            let said = assert_let_in(&front, &leaf, &[version, &with[0], &with[1]]);
            assert!(said.contains("New, ") && !said.contains("Reused, "), "{version}: {said}");
        }
    }
}

#[test]
fn a_session_from_before_an_authority_was_withdrawn_opens_nothing() {
    let (old, new) = (Authority::new("mesh.test"), Authority::new("mesh.test"));
    let folder = tempfile::tempdir().unwrap();
    let place = |leaf: &Leaf, roots: &str| {
        // The key first: a pair that does not match is not taken over.
        for (from, name) in [(&leaf.key, "tls.key"), (&leaf.cert, "tls.crt")] {
            std::fs::copy(from, folder.path().join(name)).unwrap();
        }
        std::fs::write(folder.path().join("ca.crt"), roots).unwrap();
    };
    place(&old.leaf("users"), &[old.root(), new.root()].concat());
    let at = |name: &str| folder.path().join(name);
    let identity = json!({ "files": { "cert": at("tls.crt"), "key": at("tls.key"), "roots": at("ca.crt") } });
    let front = Front::with(|users| users.set("inbound.mtls", json!("permissive")).set("identity", identity));
    let client = old.leaf("web");
    let sessions: Vec<_> = ["-tls1_2", "-tls1_3"]
        .map(|version| {
            let folder = tempfile::tempdir().unwrap();
            let out = session_arguments(folder.path(), "-sess_out");
            assert_let_in(&front, &client, &[version, &out[0], &out[1]]);
            (version, folder)
        })
        .into();
    let serial = front.users.serial();
    place(&new.leaf("users"), new.root());
    eventually(SOON, "the new leaf is in use", || (front.users.serial() != serial).then_some(()));
    for (version, folder) in &sessions {
        let with = session_arguments(folder.path(), "-sess_in");
        let extra: Vec<&str> =
            if folder.path().join("session").exists() { vec![version, &with[0], &with[1]] } else { vec![version] };
        assert_refused(&front, version, Some(&client), &extra, "foreign_root");
    }
    assert_let_in(&front, &new.leaf("web"), &[]);
}

/// A TLS server with that leaf that answers everything with 200; where it listens.
fn impostor(leaf: &Leaf) -> std::net::SocketAddr {
    let chain: Vec<_> = CertificateDer::pem_file_iter(&leaf.cert).unwrap().map(Result::unwrap).collect();
    let key = PrivateKeyDer::from_pem_file(&leaf.key).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = builder.with_no_client_auth().with_single_cert(chain, key).unwrap();
    let (listener, acceptor) =
        (std::net::TcpListener::bind("127.0.0.1:0").unwrap(), TlsAcceptor::from(Arc::new(config)));
    let address = listener.local_addr().unwrap();
    runtime().spawn(async move {
        listener.set_nonblocking(true).unwrap();
        let listener = tokio::net::TcpListener::from_std(listener).unwrap();
        while let Ok((socket, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            runtime().spawn(async move {
                use tokio::io::{AsyncReadExt, AsyncWriteExt};
                let Ok(mut stream) = acceptor.accept(socket).await else { return };
                let mut head = [0; 4096];
                if stream.read(&mut head).await.is_ok_and(|read| read > 0) {
                    let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nforged").await;
                }
            });
        }
    });
    address
}

#[test]
fn a_server_whose_name_is_nearly_right_is_the_wrong_peer() {
    let (registry, authority) = (Embedded::start(), Authority::new("mesh.test"));
    let mut web = sidecar("web", registry.agent(), &authority);
    let mut services = Vec::new();
    let upstream = |address: std::net::SocketAddr| -> Value {
        json!({ "endpoints": [address.to_string()], "mtls": "required", "protocol": "http" })
    };
    for (at, form) in NEARLY.iter().enumerate() {
        let service = format!("users-{at}");
        let uri = form.replace("{}", &service).replace("%77eb", &format!("%75sers-{at}"));
        let leaf = authority.odd_leaf(&service, |params| alternative_names(params, &[(URI, uri.as_bytes())]));
        web = web.upstream(&service, upstream(impostor(&leaf)));
        services.push((service, *form));
    }
    let client_only = authority.odd_leaf("for-clients", |params| {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    });
    for (service, what, leaf) in [
        ("for-clients", "for clients only", client_only),
        ("expired", "expired", authority.expired_leaf("expired")),
        ("by-a-leaf", "signed by a leaf", authority.leaf_signed_by_a_leaf("by-a-leaf")),
        ("another", "the leaf of another service", authority.leaf("admin")),
        ("foreign", "of a foreign root", Authority::new("mesh.test").leaf("foreign")),
    ] {
        web = web.upstream(service, upstream(impostor(&leaf)));
        services.push((service.to_owned(), what));
    }
    web = web.upstream("honest", upstream(impostor(&authority.leaf("honest"))));
    let web = web.start();
    for (service, what) in services {
        let answer = Ask::get("/").host(&service).send(web.outbound());
        assert_eq!((answer.status, answer.reason()), (502, "wrong_peer"), "{what}: {answer:?}");
        assert!(!answer.text().contains("forged"));
    }
    assert_eq!(Ask::get("/").host("honest").send(web.outbound()).text(), "forged");
}

#[test]
fn plain_text_where_certificates_are_demanded_is_told_so_and_goes_no_further() {
    let front = strict();
    let users = sidecar("users", front.registry.agent(), &front.authority).app(&front.app).start();
    let answer = Ask::get("/secret").host("users").send(users.inbound());
    assert_eq!((answer.status, answer.reason()), (401, "not_identified"));
    let mut h2 = crate::support::h2raw::Raw::to(users.inbound());
    let _ = h2.send(&crate::support::h2raw::headers(1, &crate::support::h2raw::request("GET", "/secret", &[]), true));
    let mut rest = Vec::new();
    let mut plain = Connection::to(users.inbound()).unwrap();
    plain.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").unwrap();
    let _ = std::io::Read::read_to_end(&mut plain.socket(), &mut rest);
    let _ = plain.socket().flush();
    assert_eq!(front.app.seen("/secret"), 0);
}

//! Tests of `verify`: each hostile certificate is refused by the right side, for the right reason; good ones pass.

use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use rustls::version::{TLS12, TLS13};
use rustls::{CipherSuite, ClientConfig, NamedGroup, ProtocolVersion, ServerConfig, SupportedProtocolVersion};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

use super::*;
use crate::identity::testing::{Authority, Leaf, TRUST_DOMAIN, uri, uri_name, valid};
use crate::identity::{Identity, PROVIDER};

type Accepted = io::Result<server::TlsStream<DuplexStream>>;
type Dialled = io::Result<client::TlsStream<DuplexStream>>;

/// Both ends of one handshake. The dialling side reads a byte, since TLS 1.3 tells it of a refusal only then.
async fn shake(client: Arc<ClientConfig>, server: Arc<ServerConfig>) -> (Dialled, Accepted) {
    let (near, far) = tokio::io::duplex(64 * 1024);
    let dial = async {
        let mut stream = TlsConnector::from(client).connect(ServerName::try_from("any.name").unwrap(), near).await?;
        stream.read_u8().await?;
        Ok(stream)
    };
    let accept = async {
        let mut stream = TlsAcceptor::from(server).accept(far).await?;
        stream.write_u8(1).await?;
        stream.flush().await?;
        Ok(stream)
    };
    tokio::join!(dial, accept)
}

fn identity(authority: &Authority, service: &str) -> Identity {
    Identity::new(&authority.material(service)).unwrap()
}

/// A peer that holds `leaf`, or nothing, and offers one version: it shows what our side alone makes of it.
fn careless_client(leaf: Option<&Leaf>, good: &World, version: Version) -> Arc<ClientConfig> {
    let builder = ClientConfig::builder_with_provider(PROVIDER.clone())
        .with_protocol_versions(&[version])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(good.verifier());
    Arc::new(match leaf {
        Some(leaf) => builder.with_client_cert_resolver(Arc::new(Fixed(certified(leaf)))),
        None => builder.with_no_client_auth(),
    })
}

fn careless_server(leaf: &Leaf, good: &World, version: Version) -> Arc<ServerConfig> {
    let builder = ServerConfig::builder_with_provider(PROVIDER.clone()).with_protocol_versions(&[version]).unwrap();
    let builder = builder.with_client_cert_verifier(good.verifier());
    Arc::new(builder.with_cert_resolver(Arc::new(Fixed(certified(leaf)))))
}

type Version = &'static SupportedProtocolVersion;

/// The good side, and the root that it trusts.
struct World {
    root: Authority,
    good: Identity,
}

impl World {
    fn new() -> Self {
        let root = Authority::root("root");
        let good = identity(&root, "db");
        Self { root, good }
    }

    fn verifier(&self) -> Arc<Verifier> {
        let mut roots = RootCertStore::empty();
        roots.add(self.root.der.clone()).unwrap();
        Arc::new(Verifier::new(self.good.id.clone(), Arc::new(roots), PROVIDER.signature_verification_algorithms))
    }

    /// What our listener says of a client that holds `leaf`, the same in both versions.
    async fn as_client(&self, leaf: Option<&Leaf>) -> HandshakeOutcome {
        let mut outcomes = Vec::new();
        for version in [&TLS12, &TLS13] {
            let (_, accepted) = shake(careless_client(leaf, self, version), self.good.server.clone()).await;
            outcomes.push(accepted.map_or_else(|error| classify(&error), |_| HandshakeOutcome::Accepted));
        }
        assert_eq!(outcomes[0], outcomes[1], "TLS 1.2 and 1.3 agree");
        outcomes[0]
    }

    /// Whether our dialling side takes a server that holds `leaf`; an error must be the peer's fault.
    async fn as_server(&self, leaf: &Leaf) -> bool {
        let mut taken = Vec::new();
        for version in [&TLS12, &TLS13] {
            let (dialled, _) = shake(self.good.client.any.clone(), careless_server(leaf, self, version)).await;
            taken.push(dialled.is_ok());
            assert!(dialled.as_ref().err().is_none_or(is_wrong_peer), "{dialled:?}");
        }
        assert_eq!(taken[0], taken[1], "TLS 1.2 and 1.3 agree");
        taken[0]
    }
}

fn certified(leaf: &Leaf) -> Arc<rustls::sign::CertifiedKey> {
    let key = PROVIDER.key_provider.load_private_key(leaf.key()).unwrap();
    Arc::new(rustls::sign::CertifiedKey::new(leaf.chain.clone(), key))
}

#[derive(Debug)]
struct Fixed(Arc<rustls::sign::CertifiedKey>);

impl rustls::client::ResolvesClientCert for Fixed {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<rustls::sign::CertifiedKey>> {
        Some(self.0.clone())
    }
    fn has_certs(&self) -> bool {
        true
    }
}

impl rustls::server::ResolvesServerCert for Fixed {
    fn resolve(&self, _: rustls::server::ClientHello<'_>) -> Option<Arc<rustls::sign::CertifiedKey>> {
        Some(self.0.clone())
    }
}

#[tokio::test]
async fn good_peers_meet_with_every_offer_and_in_both_versions() {
    let root = Authority::root("root");
    let (web, db) = (identity(&root, "web"), identity(&root, "db"));
    let world = World { good: identity(&root, "web"), root };
    let only = |config: &ClientConfig, version| {
        let mut made = (*careless_client(None, &world, version)).clone();
        made.client_auth_cert_resolver = config.client_auth_cert_resolver.clone();
        made.alpn_protocols.clone_from(&config.alpn_protocols);
        Arc::new(made)
    };
    let mut none = (*web.client.any).clone();
    none.alpn_protocols.clear();
    let offers: [(&ClientConfig, Option<&[u8]>); 4] = [
        (&web.client.any, Some(b"h2")),
        (&web.client.h2, Some(b"h2")),
        (&web.client.http1, Some(b"http/1.1")),
        (&none, None),
    ];
    for (config, chosen) in offers {
        for (version, expected) in [(&TLS12, ProtocolVersion::TLSv1_2), (&TLS13, ProtocolVersion::TLSv1_3)] {
            let (dialled, accepted) = shake(only(config, version), db.server.clone()).await;
            let (dialled, accepted) = (dialled.unwrap(), accepted.unwrap());
            assert_eq!(dialled.get_ref().1.protocol_version(), Some(expected));
            assert_eq!(dialled.get_ref().1.alpn_protocol(), chosen);
            let caller = peer_of(accepted.get_ref().1.peer_certificates().unwrap_or_default()).unwrap();
            assert_eq!(caller.as_str(), uri("web"));
            let certs = dialled.get_ref().1.peer_certificates().unwrap_or_default();
            assert_eq!(check_peer(certs, &ServiceName::parse("db").unwrap()).unwrap().as_str(), uri("db"));
        }
    }
}

#[tokio::test]
async fn a_pair_agrees_on_post_quantum_tls_1_3_and_resumes_nothing() {
    let root = Authority::root("root");
    let (web, db) = (identity(&root, "web"), identity(&root, "db"));
    for _ in 0..2 {
        let (dialled, accepted) = shake(web.client.any.clone(), db.server.clone()).await;
        let (dialled, accepted) = (dialled.unwrap(), accepted.unwrap());
        let group = dialled.get_ref().1.negotiated_key_exchange_group().unwrap().name();
        assert_eq!(group, NamedGroup::X25519MLKEM768);
        assert_eq!(dialled.get_ref().1.protocol_version(), Some(ProtocolVersion::TLSv1_3));
        let suite = dialled.get_ref().1.negotiated_cipher_suite().unwrap().suite();
        assert_eq!(suite, CipherSuite::TLS13_AES_128_GCM_SHA256);
        assert_eq!(dialled.get_ref().1.handshake_kind(), Some(rustls::HandshakeKind::Full));
        assert_eq!(dialled.get_ref().1.tls13_tickets_received(), 0);
        assert_eq!(accepted.get_ref().1.server_name(), None, "no SNI is sent");
    }
}

#[tokio::test]
async fn the_right_service_is_asked_for_by_name_and_nothing_else() {
    let root = Authority::root("root");
    let leaf = root.leaf("orders", |_| ());
    let wanted = |name: &str| check_peer(&leaf.chain, &ServiceName::parse(name).unwrap());
    assert!(wanted("orders").is_ok());
    for other in ["order", "orders2", "o", "web"] {
        let Err(PeerError::WrongPeer { wanted, found }) = wanted(other) else { panic!("{other} must be refused") };
        assert_eq!((wanted.as_str(), found.as_str()), (other, uri("orders").as_str()));
    }
    assert_eq!(check_peer(&[], &ServiceName::parse("orders").unwrap()), Err(PeerError::NoCertificate));
}

/// A bent leaf, and what our listener calls it. Both sides must refuse it.
fn hostile(root: &Authority) -> Vec<(&'static str, Leaf, HandshakeOutcome)> {
    use HandshakeOutcome::{Expired, ForeignRoot, Malformed, WrongName};
    let named = |uri: &str| root.leaf("web", |p| p.subject_alt_names = vec![uri_name(uri)]);
    let twice = |p: &mut CertificateParams| p.subject_alt_names.push(uri_name(&uri("db")));
    let dns_only = |p: &mut CertificateParams| {
        p.subject_alt_names = vec![rcgen::SanType::DnsName("web".try_into().unwrap())];
    };
    let mut stolen = root.leaf("web", |_| ());
    stolen.key = KeyPair::generate().unwrap();
    let mut broken = root.leaf("web", |_| ());
    broken.chain[0] = CertificateDer::from(broken.chain[0][..40].to_vec());
    let authority = |p: &mut CertificateParams| p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let foreign = Authority::root("foreign");
    vec![
        ("expired", root.leaf("web", |p| valid(p, -7200, -3600)), Expired),
        ("not yet valid", root.leaf("web", |p| valid(p, 3600, 7200)), Expired),
        ("foreign root", foreign.leaf("web", |_| ()), ForeignRoot),
        ("same name, other key", Authority::root("root").leaf("web", |_| ()), ForeignRoot),
        ("a leaf as issuer", signed_by_leaf(root), ForeignRoot),
        ("unsent intermediate", root.intermediate("middle").leaf("web", |_| ()), ForeignRoot),
        ("a self-signed root of its own in the chain", with_own_root(&foreign), ForeignRoot),
        ("two URIs", root.leaf("web", twice), WrongName),
        ("no name", root.leaf("web", |p| p.subject_alt_names.clear()), WrongName),
        ("a DNS name only", root.leaf("web", dns_only), WrongName),
        ("a NUL in the URI", named(&format!("{}\0.evil", uri("web"))), WrongName),
        ("upper case in the service", named(&uri("Web")), WrongName),
        ("upper case in the trust domain", named(&uri("web").to_ascii_uppercase()), WrongName),
        ("percent encoding", named(&uri("%77eb")), WrongName),
        ("an agent's id", named(&format!("spiffe://{TRUST_DOMAIN}/agent/client/dc/dc1/id/n")), WrongName),
        ("other trust domain", named("spiffe://other.consul/ns/default/dc/dc1/svc/web"), WrongName),
        ("a longer trust domain", named(&format!("spiffe://{TRUST_DOMAIN}.evil/ns/default/dc/dc1/svc/web")), WrongName),
        ("an authority as a leaf", root.leaf("web", authority), Malformed),
        ("no certificate at all", broken, Malformed),
        ("another's certificate", stolen, Malformed),
    ]
}

/// A good leaf of the service signs a leaf of another name.
fn signed_by_leaf(root: &Authority) -> Leaf {
    let thief = root.leaf("web", |_| ());
    let issuer = Issuer::new(thief.params, thief.key);
    let mut forged = Authority { der: thief.chain[0].clone(), issuer }.leaf("db", |_| ());
    forged.chain.push(thief.chain[0].clone());
    forged
}

fn with_own_root(foreign: &Authority) -> Leaf {
    let mut leaf = foreign.leaf("web", |_| ());
    leaf.chain.push(foreign.der.clone());
    leaf
}

#[tokio::test]
async fn every_hostile_client_is_refused_for_what_it_is() {
    let world = World::new();
    let root = &world.root;
    assert_eq!(world.as_client(Some(&root.leaf("web", |_| ()))).await, HandshakeOutcome::Accepted);
    assert_eq!(world.as_client(None).await, HandshakeOutcome::NoCertificate);
    for (what, leaf, outcome) in hostile(root) {
        assert_eq!(world.as_client(Some(&leaf)).await, outcome, "{what}");
    }
    let one_purpose = root.leaf("web", |p| p.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth]);
    assert_eq!(world.as_client(Some(&one_purpose)).await, HandshakeOutcome::Malformed, "a server's certificate");
    let elsewhere = format!("spiffe://{TRUST_DOMAIN}/ns/other/dc/dc2/svc/web");
    let elsewhere = root.leaf("web", |p| p.subject_alt_names = vec![uri_name(&elsewhere)]);
    assert_eq!(world.as_client(Some(&elsewhere)).await, HandshakeOutcome::Accepted, "who may call is decided later");
}

#[tokio::test]
async fn every_hostile_server_is_refused_before_a_byte_is_sent() {
    let world = World::new();
    let root = &world.root;
    assert!(world.as_server(&root.leaf("web", |_| ())).await);
    for (what, leaf, _) in hostile(root) {
        assert!(!world.as_server(&leaf).await, "{what}");
    }
    let one_purpose = root.leaf("web", |p| p.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth]);
    assert!(!world.as_server(&one_purpose).await, "a client's certificate");
    let elsewhere = format!("spiffe://{TRUST_DOMAIN}/ns/other/dc/dc1/svc/web");
    let elsewhere = root.leaf("web", |p| p.subject_alt_names = vec![uri_name(&elsewhere)]);
    assert!(!world.as_server(&elsewhere).await, "another namespace's service of that name");
}

/// A leaf of `web` with its intermediate behind it.
fn of(middle: &Authority) -> Leaf {
    let mut leaf = middle.leaf("web", |_| ());
    leaf.chain.push(middle.der.clone());
    leaf
}

#[tokio::test]
async fn a_sent_intermediate_leads_to_the_root_and_is_no_anchor_itself() {
    let world = World::new();
    let good = of(&world.root.intermediate("middle"));
    assert_eq!(world.as_client(Some(&good)).await, HandshakeOutcome::Accepted);
    assert!(world.as_server(&good).await);
    // The same name and the same place in the chain, but signed by nobody we know.
    let stranger = of(&Authority::root("foreign").intermediate("middle"));
    assert_eq!(world.as_client(Some(&stranger)).await, HandshakeOutcome::ForeignRoot);
    assert!(!world.as_server(&stranger).await);
}

#[tokio::test]
async fn an_intermediate_cannot_do_more_than_it_was_made_for() {
    let world = World::new();
    let root = &world.root;
    // Name constraints (RFC 5280 §4.2.1.10): URIs of host `x` only, and all but those. RUSTSEC-2026-0098.
    let constraints = |which: u8| {
        let der = vec![0x30, 7, which, 5, 0x30, 3, 0x86, 1, b'x'];
        move |p: &mut CertificateParams| {
            p.custom_extensions = vec![rcgen::CustomExtension::from_oid_content(&[2, 5, 29, 30], der)];
        }
    };
    let last = root.bent_intermediate("last", |p| p.is_ca = IsCa::Ca(BasicConstraints::Constrained(0)));
    let mut too_long = of(&last.intermediate("one more"));
    too_long.chain.push(last.der.clone());
    for (what, leaf) in [
        ("other URIs only", of(&root.bent_intermediate("middle", constraints(0xa0)))),
        ("a rule on URIs that we do not understand", of(&root.bent_intermediate("middle", constraints(0xa1)))),
        ("one authority too many", too_long),
        ("an intermediate that ended", of(&root.bent_intermediate("middle", |p| valid(p, -7200, -3600)))),
    ] {
        assert_ne!(world.as_client(Some(&leaf)).await, HandshakeOutcome::Accepted, "{what}");
        assert!(!world.as_server(&leaf).await, "{what}");
    }
}

#[tokio::test]
async fn plain_text_and_a_hang_up_are_told_from_bad_certificates() {
    let root = Authority::root("root");
    let good = identity(&root, "db");
    for (sent, outcome) in [
        (&b"GET / HTTP/1.1\r\nhost: db\r\n\r\n"[..], HandshakeOutcome::PlainText),
        (&b"\x16\x03\x01"[..], HandshakeOutcome::Malformed),
        (&b""[..], HandshakeOutcome::Malformed),
    ] {
        let (mut near, far) = tokio::io::duplex(1024);
        near.write_all(sent).await.unwrap();
        near.shutdown().await.unwrap();
        let error = TlsAcceptor::from(good.server.clone()).accept(far).await.unwrap_err();
        assert_eq!(classify(&error), outcome, "{error}");
        assert!(!is_wrong_peer(&error));
    }
}

#[test]
fn a_stranger_cannot_write_control_characters_into_our_log() {
    let root = Authority::root("root");
    let leaf = root.leaf("web", |p| p.subject_alt_names = vec![uri_name(&format!("{}\n\x1b[2J", uri("web")))]);
    let text = peer_of(&leaf.chain).unwrap_err().to_string();
    assert!(!text.contains(char::is_control), "{text:?}");
}

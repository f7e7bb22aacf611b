//! What the inbound gate costs a request: keys and limits.

use std::hint::black_box;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use criterion::{Criterion, criterion_group, criterion_main};
use http::{Extensions, HeaderName, HeaderValue, Request, StatusCode, request};
use outrigger::filter::consumers::{Consumer, Consumers, Credential};
use outrigger::filter::rate_limiting::{
    Counters, LimitBy, Limiters, Policy, Quota, RedisSettings, Settings as Limit, SharedCounters, Stores, Unit,
};
use outrigger::filter::{Call, Caller, Chain, Context, Mode, Plugin, Settings, key_auth};
use outrigger::fingerprint::Fingerprint;
use outrigger::telemetry::Metrics;

struct NoStore;

impl Stores for NoStore {
    fn redis(&self, _settings: &RedisSettings) -> Arc<dyn SharedCounters> {
        unreachable!("no limiter here has a store")
    }
}

fn consumers(count: u32) -> Arc<Consumers> {
    let consumer = |n: u32| Consumer {
        id: format!("id-{n}").into(),
        username: Some(format!("user-{n}").into()),
        custom_id: None,
        groups: Vec::new(),
        keys: vec![Credential {
            id: format!("user-{n}-1").into(),
            fingerprint: Fingerprint::of(&[format!("a-key-of-thirty-two-characters-{n:04}").as_bytes()]),
        }],
        passwords: Vec::new(),
        jwt_secrets: Vec::new(),
    };
    Arc::new(Consumers::new(&(0..count).map(consumer).collect::<Vec<_>>()))
}

fn context() -> Context {
    let mut context = Context::new(Metrics::new(), Arc::new(Limiters::new("users", Arc::new(NoStore))));
    context.consumers = consumers(1000);
    context
}

fn chain(settings: Settings, context: &Context) -> Chain {
    Chain::build(&[Plugin { mode: Mode::Enforce, settings, scope: "inbound".into() }], context)
}

/// A head as a browser sends it.
fn head() -> request::Parts {
    let mut request = Request::get("/users/1?b=c");
    for name in ["host", "user-agent", "accept", "accept-language", "accept-encoding", "x-request-id", "traceparent"] {
        request = request.header(name, "some value of a usual length");
    }
    request.body(()).expect("a request").into_parts().0
}

fn run(chain: &Chain, head: &mut request::Parts, client: u32, now: Instant, wall: SystemTime) -> bool {
    let (mut stash, client) = (Extensions::new(), Ipv4Addr::from_bits(client).into());
    let caller =
        Caller { address: client, port: 40_000, local: ([127, 0, 0, 1], 20_000).into(), client, identity: None };
    chain.request(Call { head, caller, stash: &mut stash, now, wall, entropy: 7 }).end.is_none()
}

fn keys(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("keys");
    let (now, wall) = (Instant::now(), SystemTime::now());
    let key_auth = key_auth::Settings {
        key_names: vec![HeaderName::from_static("apikey")],
        key_in_header: true,
        key_in_query: true,
        hide_credentials: true,
        anonymous: None,
        run_on_preflight: true,
        realm: None,
    };
    let chain_of_keys = chain(Settings::KeyAuth(key_auth), &context());
    let key = HeaderValue::from_static("a-key-of-thirty-two-characters-0500");
    let mut request = head();
    group.bench_function("key-auth", |bencher| {
        bencher.iter(|| {
            request.headers.insert("apikey", key.clone());
            assert!(run(&chain_of_keys, &mut request, 1, now, wall));
        });
    });
    group.finish();

    let mut group = criterion.benchmark_group("limits");
    for (name, limits) in [
        ("one window", &[(Unit::Minute, 1_000_000_000)][..]),
        ("two windows", &[(Unit::Minute, 1_000_000_000), (Unit::Hour, 1_000_000_000)]),
    ] {
        let limit = Limit {
            limits: limits.to_vec(),
            limit_by: LimitBy::Ip,
            policy: Policy::Local,
            fault_tolerant: true,
            hide_client_headers: false,
            error_code: StatusCode::TOO_MANY_REQUESTS,
            error_message: None,
        };
        let chain = chain(Settings::RateLimiting(Box::new(limit)), &context());
        let mut client = 0_u32;
        group.bench_function(format!("plugin, {name}, 10000 clients"), |bencher| {
            bencher.iter(|| {
                client = (client + 1) % 10_000;
                assert!(run(&chain, &mut request, client, now, wall));
            });
        });
    }
    let counters = Counters::new(1);
    let at = wall.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs();
    let quota = [Quota { unit: Unit::Minute, limit: 1_000_000_000, window: Unit::Minute.window(at) }];
    for client in 0..1_000_000_u32 {
        counters.take(0, &client.to_le_bytes(), &quota);
    }
    println!("1,000,000 clients in one limiter: {} KiB", counters.bytes() / 1024);
    let mut client = 0_u32;
    group.bench_function("counter, 1000000 clients", |bencher| {
        bencher.iter(|| {
            client = client.wrapping_add(7919) % 1_000_000;
            black_box(counters.take(0, &client.to_le_bytes(), &quota))
        });
    });
    group.finish();
}

/// An issuer with one key of each kind, and tokens by it.
mod issuer {
    use aws_lc_rs::rand::SystemRandom;
    use aws_lc_rs::rsa::KeySize;
    use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair, RSA_PKCS1_SHA256, RsaKeyPair};
    use base64::Engine;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;

    pub const NAME: &str = "https://id.example/realms/shop";

    pub struct Issuer {
        rsa: RsaKeyPair,
        ec: EcdsaKeyPair,
    }

    fn encode(bytes: impl AsRef<[u8]>) -> String {
        URL_SAFE_NO_PAD.encode(bytes)
    }

    impl Issuer {
        pub fn new() -> Self {
            let rsa = RsaKeyPair::generate(KeySize::Rsa2048).expect("a key");
            Self { rsa, ec: EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).expect("a key") }
        }

        pub fn jwks(&self) -> String {
            let rsa = self.rsa.public_key();
            let n = encode(rsa.modulus().big_endian_without_leading_zero());
            let e = encode(rsa.exponent().big_endian_without_leading_zero());
            let (x, y) = self.ec.public_key().as_ref()[1..].split_at(32);
            let (x, y) = (encode(x), encode(y));
            format!(
                r#"{{"keys":[{{"kty":"RSA","kid":"r","alg":"RS256","n":"{n}","e":"{e}"}},{{"kty":"EC","kid":"e","crv":"P-256","x":"{x}","y":"{y}"}}]}}"#
            )
        }

        /// `jti` makes it another token.
        pub fn token(&self, algorithm: &str, jti: u64) -> String {
            let kid = if algorithm == "RS256" { "r" } else { "e" };
            let header = encode(format!(r#"{{"alg":"{algorithm}","typ":"JWT","kid":"{kid}"}}"#));
            let claims = encode(format!(
                r#"{{"iss":"{NAME}","sub":"5f0c8e6a-0d0f-4a52-9a57-5a3b6b0a1f11","aud":["users","account"],"iat":1700000000,"exp":4000000000,"jti":"{jti}","scope":"openid profile email read","realm_access":{{"roles":["offline_access","default-roles-shop"]}},"name":"Alice Example","email":"alice@example.org","email_verified":true}}"#
            ));
            let signed = format!("{header}.{claims}");
            let random = SystemRandom::new();
            let signature = if algorithm == "RS256" {
                let mut signature = vec![0; self.rsa.public_modulus_len()];
                self.rsa.sign(&RSA_PKCS1_SHA256, &random, signed.as_bytes(), &mut signature).expect("a signature");
                signature
            } else {
                self.ec.sign(&random, signed.as_bytes()).expect("a signature").as_ref().to_vec()
            };
            format!("{signed}.{}", encode(signature))
        }
    }
}

fn tokens(c: &mut Criterion) {
    use outrigger::filter::jwt::{Algorithm, Location, Place, Provider, Required, Settings as Jwt, Source, Test};
    let issuer = issuer::Issuer::new();
    let provider = Provider {
        source: Source {
            issuer: issuer::NAME.into(),
            location: Location::Inline(issuer.jwks()),
            algorithms: vec![Algorithm::Rs256, Algorithm::Es256],
            refresh: Duration::from_secs(300),
            stale_for: Duration::from_secs(3600),
        },
        audiences: vec!["users".into()],
        places: vec![Place::Header(http::header::AUTHORIZATION)],
        hide_credentials: false,
        claims: vec![Required { claim: "scope".into(), test: Test::Contains(vec!["read".into()]) }],
        forward_claims: vec![("sub".into(), HeaderName::from_static("x-user-id"))],
        leeway: Duration::from_secs(30),
    };
    let context = context();
    let chain = chain(Settings::Jwt(Jwt { providers: vec![provider], anonymous: false }), &context);
    let mut group = c.benchmark_group("jwt");
    let bearer = |token: &str| HeaderValue::try_from(format!("Bearer {token}")).expect("a header");
    let pass = |head: &mut request::Parts| {
        let mut stash = Extensions::new();
        let caller = Caller {
            address: Ipv4Addr::LOCALHOST.into(),
            port: 40_000,
            local: ([127, 0, 0, 1], 20_000).into(),
            client: Ipv4Addr::LOCALHOST.into(),
            identity: None,
        };
        let (now, wall) = (Instant::now(), SystemTime::now());
        let ran = chain.request(Call { head, caller, stash: &mut stash, now, wall, entropy: 7 });
        assert!(ran.end.is_none(), "{}", ran.detail);
    };
    for algorithm in ["RS256", "ES256"] {
        let repeated = bearer(&issuer.token(algorithm, 0));
        let mut head = head();
        head.headers.insert(http::header::AUTHORIZATION, repeated);
        group.bench_function(format!("{algorithm} repeated"), |b| b.iter(|| pass(black_box(&mut head))));
        // More tokens than are remembered.
        let fresh: Vec<HeaderValue> = (1..20_000).map(|jti| bearer(&issuer.token(algorithm, jti))).collect();
        let mut next = fresh.iter().cycle();
        group.bench_function(format!("{algorithm} fresh"), |b| {
            b.iter(|| {
                head.headers.insert(http::header::AUTHORIZATION, next.next().expect("a cycle").clone());
                pass(black_box(&mut head));
            });
        });
    }
}

criterion_group!(benches, keys, tokens);
criterion_main!(benches);

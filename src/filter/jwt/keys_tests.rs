//! Keys: every kind verifies what it should and nothing else; sets that are bad or hostile.

use aws_lc_rs::rsa::KeySize;
use serde_json::json;

use super::super::testing::{Signer, encode};
use super::*;

fn set(keys: &[Value], allowed: &[Algorithm]) -> Result<KeySet, String> {
    KeySet::parse(json!({ "keys": keys }).to_string().as_bytes(), allowed)
}

#[test]
fn every_algorithm_verifies_its_own_signatures_only() {
    for algorithm in Algorithm::PUBLIC {
        let (signer, other) = (Signer::new(algorithm), Signer::new(algorithm));
        let keys = set(&[signer.jwk()], &Algorithm::PUBLIC).unwrap();
        let signature = signer.sign(algorithm, b"text");
        for (claimed, text, signature, wanted) in [
            (algorithm, &b"text"[..], signature.clone(), Verdict::Good),
            (algorithm, b"texts", signature.clone(), Verdict::Bad),
            (algorithm, b"text", other.sign(algorithm, b"text"), Verdict::Bad),
            (algorithm, b"text", Vec::new(), Verdict::Bad),
            (algorithm, b"text", vec![0; signature.len()], Verdict::Bad),
            (algorithm, b"text", signature[1..].to_vec(), Verdict::Bad),
            (algorithm, b"text", [&signature[..], &[0]].concat(), Verdict::Bad),
        ] {
            assert_eq!(keys.verify(None, claimed, text, &signature), wanted, "{algorithm:?}");
        }
        for claimed in Algorithm::PUBLIC.into_iter().filter(|claimed| *claimed != algorithm) {
            let wanted = if claimed.kind() == algorithm.kind() { Verdict::Bad } else { Verdict::Unknown };
            assert_eq!(keys.verify(None, claimed, b"text", &signature), wanted, "{algorithm:?} as {claimed:?}");
        }
        let pem = Key::from_pem(&signer.pem(), algorithm).unwrap();
        assert!(pem.verifies(algorithm, b"text", &signature) && !pem.verifies(algorithm, b"texts", &signature));
    }
}

#[test]
fn psychic_and_der_signatures_are_bad() {
    let signer = Signer::new(Algorithm::Es256);
    let keys = set(&[signer.jwk()], &Algorithm::PUBLIC).unwrap();
    let good = signer.sign(Algorithm::Es256, b"text");
    let (r, s) = good.split_at(32);
    let number = |bytes: &[u8]| [&[2, 33, 0], bytes].concat();
    let der = [&[0x30, 70][..], &number(r), &number(s)].concat();
    // The group's order: as good as zero.
    let order = "ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551";
    let order: Vec<u8> = (0..32).map(|at| u8::from_str_radix(&order[at * 2..at * 2 + 2], 16).unwrap()).collect();
    for bad in [
        vec![0; 64],
        [r, &[0; 32]].concat(),
        [&[0; 32], s].concat(),
        [&order[..], &order[..]].concat(),
        [r, &order[..]].concat(),
        der,
    ] {
        assert_eq!(keys.verify(None, Algorithm::Es256, b"text", &bad), Verdict::Bad, "{bad:x?}");
    }
    let ed = Signer::new(Algorithm::EdDsa);
    let keys = set(&[ed.jwk()], &Algorithm::PUBLIC).unwrap();
    let mut signature = ed.sign(Algorithm::EdDsa, b"text");
    // S plus the group's order: the same to a lax reader (RFC 8032 §5.1.7).
    let order = [0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde, 0x14];
    let mut carry = 0_u16;
    for (at, byte) in signature[32..].iter_mut().enumerate() {
        let add = match at {
            0..16 => order[at],
            31 => 0x10,
            _ => 0,
        };
        let sum = u16::from(*byte) + add + carry;
        (*byte, carry) = (sum as u8, sum >> 8);
    }
    assert_eq!(keys.verify(None, Algorithm::EdDsa, b"text", &signature), Verdict::Bad);
}

#[test]
fn a_key_is_pinned_to_its_algorithm_its_use_and_the_allowed_ones() {
    let signer = Signer::new(Algorithm::Rs256);
    let fault = |more: Value, allowed: &[Algorithm]| set(&[signer.jwk_with(&more)], allowed).err().unwrap_or_default();
    let pinned = set(&[signer.jwk_with(&json!({ "alg": "PS256" }))], &Algorithm::PUBLIC).unwrap();
    let (rs, ps) = (signer.sign(Algorithm::Rs256, b"text"), signer.sign(Algorithm::Ps256, b"text"));
    assert_eq!(pinned.verify(None, Algorithm::Rs256, b"text", &rs), Verdict::Unknown);
    assert_eq!(pinned.verify(None, Algorithm::Ps256, b"text", &ps), Verdict::Good);
    for (more, allowed, why) in [
        (json!({ "use": "enc" }), &Algorithm::PUBLIC[..], "not for signatures"),
        (json!({ "key_ops": ["encrypt"] }), &Algorithm::PUBLIC, "not for verifying"),
        (json!({ "key_ops": "verify" }), &Algorithm::PUBLIC, "not for verifying"),
        (json!({ "key_ops": [] }), &Algorithm::PUBLIC, "not for verifying"),
        (json!({ "alg": "RSA-OAEP" }), &Algorithm::PUBLIC, "an algorithm that is not used"),
        (json!({ "alg": "ES256" }), &Algorithm::PUBLIC, "no accepted algorithm fits"),
        (json!({ "alg": "HS256" }), &Algorithm::PUBLIC, "no accepted algorithm fits"),
        (json!({ "alg": "none" }), &Algorithm::PUBLIC, "an algorithm that is not used"),
        (json!({ "alg": "RS512" }), &[Algorithm::Rs256], "no accepted algorithm fits"),
        (json!({}), &[Algorithm::Es256, Algorithm::EdDsa], "no accepted algorithm fits"),
        (json!({ "d": "AQAB" }), &Algorithm::PUBLIC, "a key that signs"),
        (json!({ "kid": 7 }), &Algorithm::PUBLIC, "no text"),
    ] {
        let found = fault(more.clone(), allowed);
        assert!(found.contains(why), "{more}: {found}");
    }
    for good in
        [json!({ "use": "sig" }), json!({ "key_ops": ["verify"] }), json!({ "x5c": ["junk"], "x5u": "http://x" })]
    {
        assert_eq!(fault(good, &Algorithm::PUBLIC), "");
    }
}

#[test]
fn keys_that_are_weak_or_no_keys_are_left_out() {
    let small = Signer::rsa(KeySize::Rsa2048).jwk();
    let n = jose::bytes(small["n"].as_str().unwrap()).unwrap();
    let rsa = |n: &[u8], e: &[u8]| json!({ "kty": "RSA", "n": encode(n), "e": encode(e) });
    let (x, y) = ([7_u8; 32], [9_u8; 32]);
    for jwk in [
        rsa(&n[..128], &[1, 0, 1]),
        rsa(&n, &[3]),
        rsa(&n, &[1]),
        rsa(&n, &[]),
        rsa(&n, &[1, 0, 0]),
        rsa(&n, &[1, 0, 0, 0, 1]),
        rsa(&vec![0xff; 1025], &[1, 0, 1]),
        rsa(&[], &[1, 0, 1]),
        json!({ "kty": "RSA", "n": small["n"] }),
        json!({ "kty": "RSA", "n": format!("{}=", small["n"].as_str().unwrap()), "e": "AQAB" }),
        json!({ "kty": "EC", "crv": "P-256", "x": encode(x), "y": encode(y) }),
        json!({ "kty": "EC", "crv": "P-256", "x": encode(&x[1..]), "y": encode(y) }),
        json!({ "kty": "EC", "crv": "secp256k1", "x": encode(x), "y": encode(y) }),
        json!({ "kty": "EC", "crv": "P-384", "x": encode(x), "y": encode(y) }),
        json!({ "kty": "OKP", "crv": "Ed25519", "x": encode(&x[1..]) }),
        json!({ "kty": "OKP", "crv": "X25519", "x": encode(x) }),
        json!({ "kty": "oct", "k": encode("secret") }),
        json!({ "kty": 7 }),
        json!({}),
        json!("key"),
        json!(null),
    ] {
        assert!(set(std::slice::from_ref(&jwk), &Algorithm::PUBLIC).is_err(), "{jwk}");
        // Beside a good one it is left out.
        assert_eq!(set(&[jwk, small.clone()], &Algorithm::PUBLIC).unwrap().len(), 1);
    }
    let padded = rsa(&[&[0], &n[..]].concat(), &[0, 1, 0, 1]);
    assert_eq!(set(&[padded], &Algorithm::PUBLIC).unwrap().len(), 1, "a sign byte is no fault");
}

#[test]
fn a_set_is_strict_json_and_bounded() {
    let jwk = Signer::new(Algorithm::EdDsa).jwk();
    for text in [
        String::new(),
        "<html>".into(),
        "[]".into(),
        "{}".into(),
        r#"{"keys":{}}"#.into(),
        r#"{"keys":[]}"#.into(),
        format!(r#"{{"keys":[{jwk}],"keys":[]}}"#),
        format!(r#"{{"keys":[{jwk}]}} trailing"#),
        json!({ "keys": vec![jwk.clone(); 101] }).to_string(),
    ] {
        assert!(KeySet::parse(text.as_bytes(), &Algorithm::PUBLIC).is_err(), "{text:.80}");
    }
    assert_eq!(set(&vec![jwk; 100], &Algorithm::PUBLIC).unwrap().len(), 100);
}

#[test]
fn a_kid_chooses_among_the_keys_and_is_nothing_else() {
    let (a, b, c) = (Signer::new(Algorithm::Es256), Signer::new(Algorithm::Es256), Signer::new(Algorithm::Es256));
    let named = [a.jwk_with(&json!({ "kid": "a" })), b.jwk_with(&json!({ "kid": "b" }))];
    let keys = set(&named, &Algorithm::PUBLIC).unwrap();
    let sign = |signer: &Signer| signer.sign(Algorithm::Es256, b"text");
    let verify = |kid: Option<&str>, signer: &Signer| keys.verify(kid, Algorithm::Es256, b"text", &sign(signer));
    assert_eq!(verify(Some("a"), &a), Verdict::Good);
    assert_eq!(verify(Some("a"), &b), Verdict::Bad);
    assert_eq!(verify(None, &b), Verdict::Good);
    assert_eq!(verify(None, &c), Verdict::Bad);
    for kid in ["c", "", "A", "../a", "a\0", "' or 1=1 --", "http://127.0.0.1/keys"] {
        assert_eq!(verify(Some(kid), &a), Verdict::Unknown, "{kid}");
    }
    // A set whose keys have no names is tried with every name.
    let unnamed = set(&[a.jwk()], &Algorithm::PUBLIC).unwrap();
    assert_eq!(unnamed.verify(Some("new"), Algorithm::Es256, b"text", &sign(&a)), Verdict::Good);
}

#[test]
fn a_token_without_a_name_is_tried_with_a_few_keys_only() {
    let signers: Vec<Signer> = (0..=MOST_TRIES).map(|_| Signer::new(Algorithm::EdDsa)).collect();
    let jwks: Vec<Value> = signers.iter().map(Signer::jwk).collect();
    let keys = set(&jwks, &Algorithm::PUBLIC).unwrap();
    let verdict = |at: usize| keys.verify(None, Algorithm::EdDsa, b"x", &signers[at].sign(Algorithm::EdDsa, b"x"));
    assert_eq!((verdict(MOST_TRIES - 1), verdict(MOST_TRIES)), (Verdict::Good, Verdict::Bad));
}

#[test]
fn pem_of_another_kind_is_no_key() {
    let (ec, rsa) = (Signer::new(Algorithm::Es256).pem(), Signer::new(Algorithm::Rs256).pem());
    for (pem, algorithm) in [
        (&ec, Algorithm::Rs256),
        (&ec, Algorithm::Es384),
        (&ec, Algorithm::EdDsa),
        (&rsa, Algorithm::Es256),
        (&rsa, Algorithm::Hs256),
        (&"secret".to_owned(), Algorithm::Rs256),
    ] {
        assert!(Key::from_pem(pem, algorithm).is_err(), "{algorithm:?} {pem:.40}");
    }
}

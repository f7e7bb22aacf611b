//! What must hold of any bytes from outside: one function a fuzz target, which panics where it does not. `tests/fuzz`
//! calls them with libFuzzer, and the tests here with its corpora (docs/fuzzing.md).

pub use crate::config::fuzzing::text as config;
pub use crate::filter::jwt::fuzzing::key_set as jwks;
pub use crate::proxy::fuzzing::{head, path};
pub use crate::registry::consul::fuzzing::intentions;

use crate::filter::jwt::fuzzing::Issuer;
use crate::proxy_header::{self, Parsed};

/// The credentials of a request that must prove who it is, as the text of its Authorization header.
pub fn jwt(data: &[u8]) {
    thread_local! {
        static ISSUER: Issuer = Issuer::new();
    }
    ISSUER.with(|issuer| issuer.try_token(data, crate::clock::now()));
}

/// The first bytes of a load balancer's connection.
pub fn proxy_header(data: &[u8]) {
    let verdict = proxy_header::parse(data);
    // Bytes that come in pieces are judged as at once: what is partial stays so until the verdict, which is never taken back.
    for cut in 0..data.len().min(300) {
        match proxy_header::parse(&data[..cut]) {
            Ok(Parsed::Partial) => assert!(proxy_header::may_begin(&data[..cut]), "partial, and no beginning"),
            early => assert_eq!(early, verdict, "after {cut} bytes"),
        }
    }
    match verdict {
        Ok(Parsed::Whole { length, .. }) => {
            assert!((15..=4096).contains(&length) && length <= data.len());
            assert!(proxy_header::begins(data));
            assert_eq!(proxy_header::parse(&data[..length]), verdict, "what stands behind it counts for nothing");
        }
        Ok(Parsed::Partial) => assert!(data.len() < 4096, "it is waited for without end"),
        Err(_) => {}
    }
}

#[cfg(test)]
mod tests;

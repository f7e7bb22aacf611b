//! Why a token is not taken, and how its bearer is told (RFC 6750 §3): what is wrong with a token in the client's own
//! terms, nothing of keys, issuers or claims.

use http::HeaderValue;
use http::header::WWW_AUTHENTICATE;

use super::claims::{Outside, Required, Test};
use crate::filter::{Decision, End};
use crate::reason::Reason;

pub(super) enum Refusal<'a> {
    /// No token at all.
    Missing,
    /// More than one token, or no token where one should be.
    Ambiguous(&'static str),
    Invalid {
        /// For the log.
        detail: &'static str,
        /// For the client, of the characters that RFC 6750 §3 allows.
        description: &'static str,
    },
    /// By a key that the issuer, by its position among the providers, may have added since the last fetch.
    NewKey { issuer: usize, generation: u64, detail: &'static str },
    /// A good token that does not allow this.
    Lacks(&'a Required),
    /// No key of the issuer is known.
    NoKeys,
}

impl Refusal<'_> {
    pub(super) const fn invalid(detail: &'static str) -> Self {
        Self::Invalid { detail, description: "The token is not valid here" }
    }

    pub(super) const fn outside(outside: Outside) -> Self {
        match outside {
            Outside::Early => Self::Invalid { detail: "not valid yet", description: "The token is not valid yet" },
            Outside::Late => Self::Invalid { detail: "expired", description: "The token expired" },
        }
    }

    pub(super) fn decision(&self) -> Decision {
        let (reason, detail, challenge) = match self {
            // RFC 6750 §3.1: no error code where no token was tried.
            Self::Missing => (Reason::NotIdentified, "no token".into(), Some(REALM.to_owned())),
            Self::Ambiguous(detail) => {
                let challenge =
                    format!("{REALM}, error=\"invalid_request\", error_description=\"Send one token, once\"");
                (Reason::NotIdentified, (*detail).to_owned(), Some(challenge))
            }
            Self::NewKey { detail, .. } => return Self::invalid(detail).decision(),
            Self::Invalid { detail, description } => {
                let challenge = format!("{REALM}, error=\"invalid_token\", error_description=\"{description}\"");
                (Reason::NotIdentified, (*detail).to_owned(), Some(challenge))
            }
            Self::Lacks(required) => {
                let challenge = format!("{REALM}, error=\"insufficient_scope\"{}", scope(required));
                (Reason::Denied, format!("the claim {} is not as required", required.claim), Some(challenge))
            }
            Self::NoKeys => (Reason::KeysUnavailable, "no key of the issuer is known".into(), None),
        };
        let mut decision = Decision::refuse(reason, detail);
        let challenge = challenge.and_then(|challenge| HeaderValue::try_from(challenge).ok());
        if let (Some(End::Refuse { headers, .. }), Some(challenge)) = (decision.end.as_deref_mut(), challenge) {
            headers.insert(WWW_AUTHENTICATE, challenge);
        }
        decision
    }
}

/// RFC 6750 §3 asks for a parameter behind the scheme.
const REALM: &str = "Bearer realm=\"outrigger\"";

/// The scopes that would do, where scopes are what is required.
fn scope(required: &Required) -> String {
    let words = match &required.test {
        Test::Contains(words) if matches!(required.claim.as_str(), "scope" | "scp") => words,
        Test::Contains(_) | Test::Equals(_) | Test::AnyOf(_) => return String::new(),
    };
    let is_token = |word: &&str| word.bytes().all(|c| matches!(c, 0x21 | 0x23..=0x5b | 0x5d..=0x7e));
    let words: Vec<&str> = words.iter().filter_map(|word| word.as_str()).filter(is_token).collect();
    if words.is_empty() { String::new() } else { format!(", scope=\"{}\"", words.join(" ")) }
}

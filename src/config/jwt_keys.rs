//! The keys of the plugin jwt: those of one issuer (the native form), and Kong's.

use super::shape::{Key, Leaf, Shape};

const BOOL: Shape = Shape::Leaf(Leaf::Bool);
const TEXT: Shape = Shape::Leaf(Leaf::Text);

/// The algorithms that an issuer's public keys may be used for.
pub(super) const ALGORITHMS: [&str; 10] =
    ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"];

/// The keys of one issuer, and more.
macro_rules! provider {
    ($($more:expr),* $(,)?) => {
        &[
            Key::optional("issuer", TEXT, "What the claim `iss` must be, to the letter. Needed in the native form."),
            Key::optional(
                "jwks_uri",
                TEXT,
                "Where the issuer's key set (RFC 7517) is: https, or http on this machine. Redirects are not followed; at most 1 MiB, within 10 s. Exactly one of `jwks_uri`, `jwks_file` and `jwks`.",
            ),
            Key::optional("jwks_file", Shape::Leaf(Leaf::Path), "A file with the key set; read again when it changes."),
            Key::optional("jwks", Shape::Any, "The key set itself: a section, or its JSON as text."),
            Key::optional(
                "jwks_ca_file",
                Shape::Leaf(Leaf::Path),
                "PEM roots for the certificate at `jwks_uri`; the system's when absent.",
            ),
            Key::new("jwks_allow_http", BOOL, "false", "Whether `jwks_uri` may be http to other machines: whoever stands between may then make tokens."),
            Key::new("audiences", Shape::List(Leaf::Text), "[]", "The claim `aud` must name one of them. Not looked at when empty."),
            Key::new(
                "algorithms",
                Shape::List(Leaf::Choice { values: &ALGORITHMS, later: &[] }),
                "[RS256, ES256, EdDSA]",
                "What tokens may be signed with. A key is used for the algorithms of its kind alone, and for its `alg` alone where it has one.",
            ),
            Key::new("header", TEXT, "authorization", "The header that holds `Bearer TOKEN`; one of another name than Authorization may hold the bare token."),
            Key::optional("cookie", TEXT, "A cookie that may hold the token."),
            Key::optional("query", TEXT, "A query parameter that may hold the token."),
            Key::new("hide_credentials", BOOL, "false", "Whether the app does not see the token."),
            Key::new(
                "claims",
                Shape::Any,
                "{}",
                "What is required of a good token, by claim (`a.b` is b in a): `{ equals: VALUE }`, `{ contains: VALUES }` (all of them in a list, or among the words of a text, as scopes are), `{ any_of: VALUES }`. Else 403 `denied`.",
            ),
            Key::new("forward_claims", Shape::Texts, "{}", "Claims that the app is told, by claim: the name of the request header. What clients send in these headers is dropped."),
            Key::new("leeway", Shape::Leaf(Leaf::Duration { min_ms: 1000, off: true }), "30s", "How far the issuer's clock and ours may be apart, for `exp`, `nbf` and `iat`; at most 10m."),
            Key::new("refresh", Shape::Leaf(Leaf::Duration { min_ms: 1000, off: false }), "5m", "Between two fetches of the key set. A token with an unknown key brings one at once, every 10 s at most."),
            Key::new("stale_for", Shape::Leaf(Leaf::Duration { min_ms: 1000, off: false }), "24h", "How long the last keys stay good while no fetch succeeds; then 503 `keys_unavailable`, as before the first."),
            $($more,)*
        ]
    };
}

const PROVIDER: &[Key] = provider!();

pub(super) const JWT: &[Key] = provider!(
    Key::new("providers", Shape::Sections(PROVIDER), "[]", "Several issuers, each with the keys above."),
    Key::optional(
        "anonymous",
        Shape::Any,
        "Native form: whether requests without a token pass (`false` when absent); bad tokens are refused all the same. Kong's form: who of `consumers` stands for callers without a good token.",
    ),
    Key::new(
        "uri_param_names",
        Shape::List(Leaf::Text),
        "[jwt]",
        "Kong's form: query parameters that may hold the token."
    ),
    Key::new("cookie_names", Shape::List(Leaf::Text), "[]", "Kong's form: cookies that may hold it."),
    Key::new("header_names", Shape::List(Leaf::Text), "[authorization]", "Kong's form: headers that may hold it."),
    Key::new(
        "key_claim_name",
        TEXT,
        "iss",
        "Kong's form: the claim, or member of the token's header, that names the `key` of a consumer's `jwt_secrets`."
    ),
    Key::new("secret_is_base64", BOOL, "false", "Kong's form: whether secrets are base64 of what they stand for."),
    Key::new(
        "claims_to_verify",
        Shape::List(Leaf::Choice { values: &["exp", "nbf"], later: &[] }),
        "[]",
        "Kong's form: times that the token must have and that must hold. Nothing when empty, as in Kong: such tokens never end.",
    ),
    Key::new(
        "maximum_expiration",
        Shape::Leaf(Leaf::Integer { min: 0, max: 31_536_000 }),
        "0",
        "Kong's form: seconds that a token may still be good for; 0: any. Needs `exp` in `claims_to_verify`."
    ),
    Key::new("run_on_preflight", BOOL, "true", "Kong's form: whether OPTIONS requests are asked too."),
    Key::optional("realm", Shape::Leaf(Leaf::Visible), "Kong's form: for WWW-Authenticate."),
);

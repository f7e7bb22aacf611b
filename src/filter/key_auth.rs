//! `key-auth`: who shows a key of one of `consumers` is that consumer, as Kong's plugin does it
//! (`kong/plugins/key-auth/handler.lua`), except that the key is hidden from the app unless told otherwise.

use std::borrow::Cow;
use std::sync::Arc;

use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, request};
use percent_encoding::percent_decode_str;

use super::consumers::{Consumers, Identified, drop_claims};
use super::{Call, Decision, Filter};

#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// Names of the header and of the query parameter, in the order in which they are looked for.
    pub key_names: Vec<HeaderName>,
    pub key_in_header: bool,
    pub key_in_query: bool,
    /// Whether the app sees the key.
    pub hide_credentials: bool,
    /// Who stands for callers without a good key: id, username or custom id.
    pub anonymous: Option<String>,
    /// Whether OPTIONS needs a key too.
    pub run_on_preflight: bool,
    pub realm: Option<String>,
}

pub(super) struct KeyAuth {
    settings: Settings,
    consumers: Arc<Consumers>,
    challenge: HeaderValue,
}

/// What a request shows.
enum Shown<'a> {
    Nothing,
    Key(Cow<'a, [u8]>),
    /// Several values of one name: which one counts would be a guess.
    Several,
}

impl KeyAuth {
    pub(super) fn new(settings: Settings, consumers: &Arc<Consumers>) -> Self {
        let challenge = challenge("Key", settings.realm.as_deref());
        Self { settings, consumers: consumers.clone(), challenge }
    }

    fn identify(&self, head: &request::Parts) -> Result<Identified, Decision> {
        let refuse = |detail, message| Err(Decision::unidentified(&self.challenge, detail, message));
        match self.shown(head) {
            Shown::Key(key) => match self.consumers.by_key(&key) {
                Some(identified) => Ok(identified),
                None => refuse("unknown key", "This API key is not known; send a valid one."),
            },
            Shown::Nothing => refuse("no key", "No API key found in request; send one."),
            Shown::Several => refuse("several keys", "Duplicate API key found; send one."),
        }
    }

    fn shown<'a>(&self, head: &'a request::Parts) -> Shown<'a> {
        for name in &self.settings.key_names {
            if self.settings.key_in_header {
                let mut values = head.headers.get_all(name).iter().filter(|value| !value.is_empty());
                match (values.next(), values.next()) {
                    (Some(_), Some(_)) => return Shown::Several,
                    (Some(value), None) => return Shown::Key(value.as_bytes().into()),
                    (None, _) => {}
                }
            }
            if self.settings.key_in_query
                && let Some(query) = head.uri.query()
            {
                let mut values = values_of(query, name.as_str()).filter(|value| !value.is_empty());
                match (values.next(), values.next()) {
                    (Some(_), Some(_)) => return Shown::Several,
                    (Some(value), None) => return Shown::Key(value),
                    (None, _) => {}
                }
            }
        }
        Shown::Nothing
    }

    /// Under every name: a second copy is as good as the first.
    fn hide(&self, head: &mut request::Parts) {
        let Settings { key_names, key_in_header, key_in_query, .. } = &self.settings;
        if *key_in_header {
            hide_headers(&mut head.headers, key_names);
        }
        if *key_in_query && let Some(query) = head.uri.query() {
            let is_key = |pair: &&str| key_names.iter().any(|name| is_named(name_of(pair), name.as_str()));
            if query.split('&').any(|pair| is_key(&pair)) {
                let kept: Vec<&str> = query.split('&').filter(|pair| !is_key(pair)).collect();
                let target = if kept.is_empty() {
                    head.uri.path().to_owned()
                } else {
                    format!("{}?{}", head.uri.path(), kept.join("&"))
                };
                set_target(&mut head.uri, &target);
            }
        }
    }
}

impl Filter for KeyAuth {
    fn request(&self, call: &mut Call<'_>) -> Decision {
        let proven_before = Identified::is_proven(call.stash);
        if call.head.method == Method::OPTIONS && !self.settings.run_on_preflight {
            if !proven_before {
                drop_claims(&mut call.head.headers);
            }
            return Decision::PASS;
        }
        let identified = self.identify(call.head);
        if self.settings.hide_credentials {
            self.hide(call.head);
        }
        pass_or_refuse(identified, proven_before, self.settings.anonymous.as_deref(), &self.consumers, call)
    }
}

/// What follows from a plugin's finding. With `anonymous` several plugins are alternatives, without it each must hold
/// (Kong, "Multiple authentication").
pub(super) fn pass_or_refuse(
    identified: Result<Identified, Decision>,
    proven_before: bool,
    anonymous: Option<&str>,
    consumers: &Consumers,
    call: &mut Call<'_>,
) -> Decision {
    if anonymous.is_some() && proven_before {
        return Decision::PASS;
    }
    let told = match identified {
        Ok(identified) => identified,
        Err(refusal) => match anonymous.and_then(|name| consumers.anonymous(name)) {
            Some(identified) => identified,
            None => return refusal,
        },
    };
    told.tell(&mut call.head.headers, call.stash);
    Decision::PASS
}

/// `SCHEME`, or `SCHEME realm="…"`.
pub(super) fn challenge(scheme: &'static str, realm: Option<&str>) -> HeaderValue {
    let quoted = |realm: &str| format!("{scheme} realm=\"{}\"", realm.replace('\\', "\\\\").replace('"', "\\\""));
    // A realm with control characters was refused when the configuration was read.
    realm.and_then(|realm| HeaderValue::from_str(&quoted(realm)).ok()).unwrap_or(HeaderValue::from_static(scheme))
}

fn hide_headers(headers: &mut HeaderMap, names: &[HeaderName]) {
    for name in names {
        headers.remove(name);
    }
}

fn name_of(pair: &str) -> &str {
    pair.split_once('=').map_or(pair, |(name, _)| name)
}

/// Percent-decoded, as every server reads it.
fn is_named(raw: &str, name: &str) -> bool {
    raw == name || (raw.contains('%') && percent_decode_str(raw).eq(name.bytes()))
}

fn values_of<'a>(query: &'a str, name: &str) -> impl Iterator<Item = Cow<'a, [u8]>> {
    query.split('&').filter_map(move |pair| {
        let (raw, value) = pair.split_once('=')?;
        is_named(raw, name).then(|| decoded(value))
    })
}

fn decoded(value: &str) -> Cow<'_, [u8]> {
    if value.contains('+') {
        // `application/x-www-form-urlencoded`, as forms and most clients write queries.
        return percent_decode_str(&value.replace('+', " ")).collect::<Vec<u8>>().into();
    }
    percent_decode_str(value).into()
}

fn set_target(uri: &mut Uri, target: &str) {
    let Ok(target) = PathAndQuery::try_from(target) else { return };
    let mut parts = std::mem::take(uri).into_parts();
    parts.path_and_query = Some(target);
    // Parts of a URI with another target are a URI.
    *uri = Uri::from_parts(parts).unwrap_or_default();
}

#[cfg(test)]
#[path = "key_auth_tests.rs"]
mod tests;

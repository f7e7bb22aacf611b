//! What a token claims: its times, its audience, what is required of it, what of it the app is told. A claim of another
//! type than RFC 7519 gives it is a refusal, whether or not anything is asked of it.

use std::time::SystemTime;

use http::HeaderValue;
use serde_json::{Map, Value};

type Claims = Map<String, Value>;

/// When a token is good, in seconds since 1970, leeway included: from `from` to before `until`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Window {
    pub from: i64,
    pub until: i64,
}

/// Why a window does not hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outside {
    Early,
    Late,
}

impl Window {
    /// From `exp`, which must be there, `nbf` and `iat`.
    pub(super) fn of(claims: &Claims, leeway: i64) -> Result<Self, &'static str> {
        let exp = date(claims, "exp")?.ok_or("no exp: a token that never ends")?;
        let nbf = date(claims, "nbf")?.unwrap_or(i64::MIN);
        let iat = date(claims, "iat")?.unwrap_or(i64::MIN);
        Ok(Self { from: nbf.max(iat).saturating_sub(leeway), until: exp.saturating_add(leeway) })
    }

    pub(super) fn check(self, now: i64) -> Result<(), Outside> {
        match now {
            // RFC 7519 §4.1.4: "on or after which".
            _ if now >= self.until => Err(Outside::Late),
            _ if now < self.from => Err(Outside::Early),
            _ => Ok(()),
        }
    }
}

/// Seconds since 1970.
pub(super) fn seconds(wall: SystemTime) -> i64 {
    let since = wall.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

/// A NumericDate (RFC 7519 §2), which may have a fraction; what is beyond an `i64` is its end.
pub(super) fn date(claims: &Claims, name: &str) -> Result<Option<i64>, &'static str> {
    match claims.get(name) {
        None => Ok(None),
        Some(Value::Number(number)) => {
            let whole = number.as_i64().or_else(|| number.as_u64().map(|_| i64::MAX));
            // `as` saturates; JSON has neither infinity nor NaN.
            Ok(whole.or_else(|| number.as_f64().map(|float| float.floor() as i64)))
        }
        Some(_) => Err("a date is no number"),
    }
}

/// A claim that is text if it is there.
pub(super) fn text<'c>(claims: &'c Claims, name: &str) -> Result<Option<&'c str>, &'static str> {
    match claims.get(name) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err("iss, sub or jti is no text"),
    }
}

/// Whether the token is for one of `wanted`; for anybody where none is wanted.
pub(super) fn check_audience(claims: &Claims, wanted: &[String]) -> Result<(), &'static str> {
    let is_wanted = |name: &str| wanted.iter().any(|wanted| wanted == name);
    let found = match claims.get("aud") {
        None => false,
        Some(Value::String(one)) => is_wanted(one),
        Some(Value::Array(all)) => {
            let names: Option<Vec<&str>> = all.iter().map(Value::as_str).collect();
            names.ok_or("aud holds something else than text")?.into_iter().any(is_wanted)
        }
        Some(_) => return Err("aud is neither text nor a list"),
    };
    if found || wanted.is_empty() { Ok(()) } else { Err("the token is for another audience") }
}

/// What a claim must be.
#[derive(Debug, Clone, PartialEq)]
pub struct Required {
    pub claim: String,
    pub test: Test,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Test {
    /// The claim is this value.
    Equals(Value),
    /// All of these are among the claim's words.
    Contains(Vec<Value>),
    /// One of these is among the claim's words, or is the claim.
    AnyOf(Vec<Value>),
}

impl Required {
    pub(super) fn holds(&self, claims: &Claims) -> bool {
        let Some(claim) = find(claims, &self.claim) else { return false };
        match &self.test {
            Test::Equals(value) => same(claim, value),
            Test::Contains(values) => values.iter().all(|value| has(claim, value)),
            Test::AnyOf(values) => values.iter().any(|value| same(claim, value) || has(claim, value)),
        }
    }
}

/// A claim by its name, or, where no claim has it, by a path whose steps are split by dots (`realm_access.roles`). Names
/// may have dots themselves (RFC 7519 §4.2 recommends URIs).
pub(super) fn find<'c>(claims: &'c Claims, name: &str) -> Option<&'c Value> {
    if let Some(claim) = claims.get(name) {
        return Some(claim);
    }
    let (first, rest) = name.split_once('.')?;
    rest.split('.').try_fold(claims.get(first)?, |at, step| at.as_object()?.get(step))
}

/// Equal values; numbers by value, so that 1 is 1.0.
fn same(claim: &Value, value: &Value) -> bool {
    match (claim, value) {
        (Value::Number(a), Value::Number(b)) => a == b || (a.as_f64().is_some() && a.as_f64() == b.as_f64()),
        _ => claim == value,
    }
}

/// Whether `value` is one of a list, or one of the words of a text (RFC 8693 §4.2: scopes split by spaces).
fn has(claim: &Value, value: &Value) -> bool {
    match (claim, value) {
        (Value::Array(all), _) => all.iter().any(|one| same(one, value)),
        (Value::String(words), Value::String(word)) => !word.is_empty() && words.split(' ').any(|one| one == word),
        _ => false,
    }
}

/// A claim as a header's value: texts, numbers, true and false, and lists of texts without commas. `None` where a header
/// would not say the same (RFC 9110 §5.5), or could end it (CWE-113).
pub(super) fn header_value(claim: &Value) -> Option<HeaderValue> {
    let text = match claim {
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        Value::Bool(yes) => yes.to_string(),
        Value::Array(all) => {
            let texts: Option<Vec<&str>> = all.iter().map(Value::as_str).collect();
            let texts = texts.filter(|texts| texts.iter().all(|text| !text.is_empty() && !text.contains(',')));
            texts?.join(",")
        }
        Value::Null | Value::Object(_) => return None,
    };
    if text.is_empty() || text.trim_matches([' ', '\t']).len() != text.len() {
        return None;
    }
    HeaderValue::from_bytes(text.as_bytes()).ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn claims(value: &Value) -> Claims {
        value.as_object().unwrap().clone()
    }

    fn window(value: &Value) -> Result<Window, &'static str> {
        Window::of(&claims(value), 30)
    }

    #[test]
    fn dates_of_another_type_are_refusals_and_none_overflows() {
        for exp in [json!("9999999999"), json!(null), json!(true), json!([1]), json!({"a": 1})] {
            assert_eq!(window(&json!({ "exp": exp })), Err("a date is no number"), "{exp}");
            assert_eq!(window(&json!({ "exp": 99, "nbf": exp })), Err("a date is no number"));
            assert_eq!(window(&json!({ "exp": 99, "iat": exp })), Err("a date is no number"));
        }
        assert_eq!(window(&json!({})), Err("no exp: a token that never ends"));
        for (exp, until) in [
            (json!(u64::MAX), i64::MAX),
            (json!(i64::MAX), i64::MAX),
            (json!(1e300), i64::MAX),
            (json!(-1e300), i64::MIN + 30),
            (json!(i64::MIN), i64::MIN + 30),
            (json!(100.9), 130),
        ] {
            assert_eq!(window(&json!({ "exp": exp })).unwrap().until, until, "{exp}");
        }
        assert_eq!(window(&json!({ "exp": 1, "nbf": u64::MAX })).unwrap().from, i64::MAX - 30);
        assert_eq!(window(&json!({ "exp": 1, "nbf": i64::MIN })).unwrap().from, i64::MIN);
    }

    #[test]
    fn a_token_is_good_from_nbf_and_iat_to_before_exp() {
        let window = window(&json!({ "exp": 2000, "nbf": 1000, "iat": 1100 })).unwrap();
        for (now, wanted) in [
            (1069, Err(Outside::Early)),
            (1070, Ok(())),
            (2029, Ok(())),
            (2030, Err(Outside::Late)),
            (i64::MAX, Err(Outside::Late)),
        ] {
            assert_eq!(window.check(now), wanted, "{now}");
        }
    }

    #[test]
    fn audiences_are_one_text_or_a_list_of_texts() {
        let wanted = ["users".to_owned(), "api".to_owned()];
        for (aud, good) in [
            (json!("users"), true),
            (json!("user"), false),
            (json!("users api"), false),
            (json!(["x", "api"]), true),
            (json!(["x"]), false),
            (json!([]), false),
            (json!(["users", 7]), false),
            (json!({ "users": true }), false),
            (json!(7), false),
            (json!(null), false),
        ] {
            assert_eq!(check_audience(&claims(&json!({ "aud": aud })), &wanted).is_ok(), good, "{aud}");
        }
        assert!(check_audience(&claims(&json!({})), &wanted).is_err());
        assert!(check_audience(&claims(&json!({})), &[]).is_ok());
        assert!(check_audience(&claims(&json!({ "aud": "other" })), &[]).is_ok());
        assert!(check_audience(&claims(&json!({ "aud": 7 })), &[]).is_err(), "a wrong type is no claim at all");
    }

    #[test]
    fn scopes_are_words_of_a_text_or_members_of_a_list() {
        let needs = |test: Test| Required { claim: "scope".into(), test };
        let read = needs(Test::Contains(vec![json!("read")]));
        for (scope, good) in [
            (json!("read"), true),
            (json!("write read"), true),
            (json!(["write", "read"]), true),
            (json!("readonly"), false),
            (json!("write,read"), false),
            (json!(["read write"]), false),
            (json!({ "read": true }), false),
            (json!(null), false),
            (json!(""), false),
        ] {
            assert_eq!(read.holds(&claims(&json!({ "scope": scope }))), good, "{scope}");
        }
        assert!(!read.holds(&claims(&json!({}))));
        let both = needs(Test::Contains(vec![json!("read"), json!("write")]));
        assert!(both.holds(&claims(&json!({ "scope": "write x read" }))));
        assert!(!both.holds(&claims(&json!({ "scope": "read" }))));
        let either = needs(Test::AnyOf(vec![json!("admin"), json!(7)]));
        for (scope, good) in [(json!("x admin"), true), (json!(7), true), (json!([7]), true), (json!("7"), false)] {
            assert_eq!(either.holds(&claims(&json!({ "scope": scope }))), good, "{scope}");
        }
        let exactly = needs(Test::Equals(json!("read")));
        assert!(exactly.holds(&claims(&json!({ "scope": "read" }))));
        assert!(!exactly.holds(&claims(&json!({ "scope": "read write" }))));
        assert!(!exactly.holds(&claims(&json!({ "scope": ["read"] }))));
        let number = needs(Test::Equals(json!(1)));
        assert!(number.holds(&claims(&json!({ "scope": 1.0 }))) && !number.holds(&claims(&json!({ "scope": true }))));
    }

    #[test]
    fn claims_are_found_by_name_first_and_then_by_path() {
        let all = claims(&json!({ "a.b": 1, "a": { "b": 2, "c": { "d": 3 } }, "https://x.y/z": 4 }));
        for (name, found) in [("a.b", Some(1)), ("a.c.d", Some(3)), ("https://x.y/z", Some(4)), ("a.x", None)] {
            assert_eq!(find(&all, name).and_then(Value::as_i64), found, "{name}");
        }
        assert!(find(&all, "a.b.c").is_none() && find(&all, "").is_none() && find(&all, ".").is_none());
    }

    #[test]
    fn a_claim_becomes_a_header_only_where_it_stays_what_it_is() {
        for (claim, header) in [
            (json!("alice"), Some("alice")),
            (json!(7), Some("7")),
            (json!(true), Some("true")),
            (json!(["a", "b"]), Some("a,b")),
            (json!(["a,b"]), None),
            (json!("a\r\nx-admin: 1"), None),
            (json!("a\nb"), None),
            (json!("a\0"), None),
            (json!(" a"), None),
            (json!(""), None),
            (json!({ "a": 1 }), None),
            (json!([1]), None),
            (json!(null), None),
        ] {
            assert_eq!(header_value(&claim).as_ref().map(|v| v.to_str().unwrap()), header, "{claim}");
        }
        assert_eq!(header_value(&json!("Jörg")).unwrap().as_bytes(), "Jörg".as_bytes());
    }
}

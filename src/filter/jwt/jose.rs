//! The compact form of a signed token (RFC 7515 §7.1), read strictly: what two readers could take differently is refused.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::de::{DeserializeSeed, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use super::keys::Algorithm;

/// Bytes of a token. What identity providers issue is a tenth of it.
pub const LONGEST: usize = 16 * 1024;

/// Nesting of a JSON document within a token or a key set.
const DEEPEST: u8 = 16;

/// A token whose form is right; nothing in it is believed yet.
pub(super) struct Token<'t> {
    pub algorithm: Algorithm,
    pub kid: Option<String>,
    pub header: Map<String, Value>,
    pub claims: Map<String, Value>,
    /// What is signed: header and payload as they came.
    pub signed: &'t str,
    pub signature: Vec<u8>,
}

impl<'t> Token<'t> {
    /// # Errors
    /// What is wrong with the form, for the log.
    pub(super) fn parse(text: &'t str) -> Result<Self, &'static str> {
        if text.len() > LONGEST {
            return Err("the token is longer than 16 KiB");
        }
        let mut parts = text.split('.');
        let (Some(header), Some(payload), Some(signature), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err("not three parts");
        };
        if header.is_empty() || payload.is_empty() || signature.is_empty() {
            return Err("an empty part");
        }
        let signed = &text[..header.len() + 1 + payload.len()];
        let header = object(&bytes(header)?)?;
        check_header(&header)?;
        let algorithm = match header.get("alg") {
            Some(Value::String(name)) => Algorithm::named(name).ok_or("an algorithm that is not accepted")?,
            Some(_) | None => return Err("no algorithm"),
        };
        let kid = match header.get("kid") {
            None => None,
            Some(Value::String(kid)) => Some(kid.clone()),
            Some(_) => return Err("kid is no text"),
        };
        let claims = object(&bytes(payload)?)?;
        Ok(Self { algorithm, kid, claims, signed, signature: bytes(signature)?, header })
    }
}

/// Members that change what the rest means, or that bring keys along.
fn check_header(header: &Map<String, Value>) -> Result<(), &'static str> {
    // RFC 7515 §4.1.11: what is critical and not understood is refused, and nothing that could stand there is.
    const REFUSED: [(&str, &str); 8] = [
        ("crit", "a critical extension"),
        ("b64", "an unencoded payload"),
        ("zip", "a compressed payload"),
        ("enc", "an encrypted token"),
        ("jwk", "a key inside the token"),
        ("jku", "a key set's address inside the token"),
        ("x5u", "a certificate's address inside the token"),
        ("x5c", "a certificate inside the token"),
    ];
    if let Some((_, why)) = REFUSED.iter().find(|(name, _)| header.contains_key(*name)) {
        return Err(why);
    }
    let text = |name: &str| match header.get(name) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.as_str())),
        Some(_) => Err("typ or cty is no text"),
    };
    text("typ")?;
    // RFC 7519 §5.2: a token inside the token.
    match text("cty")? {
        Some(kind) if kind.eq_ignore_ascii_case("jwt") || kind.eq_ignore_ascii_case("application/jwt") => {
            Err("a nested token")
        }
        Some(_) | None => Ok(()),
    }
}

/// base64url without padding (RFC 7515 §2). Bits behind the last byte must be zero: two texts are two tokens.
pub(super) fn bytes(text: &str) -> Result<Vec<u8>, &'static str> {
    URL_SAFE_NO_PAD.decode(text).map_err(|_| "not base64url")
}

/// A JSON object, in which no name stands twice at any depth (RFC 7515 §4 and RFC 7519 §4 allow to refuse them).
pub(super) fn object(text: &[u8]) -> Result<Map<String, Value>, &'static str> {
    let mut reader = serde_json::Deserializer::from_slice(text);
    let value = Strict { deeper: DEEPEST }.deserialize(&mut reader).map_err(|_| "not a strict JSON object")?;
    reader.end().map_err(|_| "more than a JSON object")?;
    match value {
        Value::Object(members) => Ok(members),
        _ => Err("not a JSON object"),
    }
}

/// Reads any JSON value, with a limit on nesting and without duplicate names.
struct Strict {
    deeper: u8,
}

impl Strict {
    fn below<E: Error>(&self) -> Result<Self, E> {
        let deeper = self.deeper.checked_sub(1).ok_or_else(|| E::custom("nested too deep"))?;
        Ok(Self { deeper })
    }
}

impl<'de> DeserializeSeed<'de> for Strict {
    type Value = Value;

    fn deserialize<D: serde::Deserializer<'de>>(self, reader: D) -> Result<Value, D::Error> {
        reader.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict {
    type Value = Value;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("no finite number"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut all = Vec::new();
        while let Some(item) = items.next_element_seed(self.below()?)? {
            all.push(item);
        }
        Ok(Value::Array(all))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let mut all = Map::new();
        while let Some(name) = members.next_key::<String>()? {
            let value = members.next_value_seed(self.below()?)?;
            if all.insert(name, value).is_some() {
                return Err(A::Error::custom("a name stands twice"));
            }
        }
        Ok(Value::Object(all))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(header: &str, payload: &str) -> String {
        let encode = |text: &str| URL_SAFE_NO_PAD.encode(text);
        format!("{}.{}.{}", encode(header), encode(payload), encode("signature"))
    }

    fn fault(text: &str) -> &'static str {
        Token::parse(text).err().unwrap_or("accepted")
    }

    #[test]
    fn a_token_in_good_form_is_read() {
        let text = token(r#"{"alg":"ES256","kid":"a","typ":"JWT"}"#, r#"{"sub":"u"}"#);
        let token = Token::parse(&text).unwrap();
        assert_eq!((token.algorithm, token.kid.as_deref()), (Algorithm::Es256, Some("a")));
        assert_eq!((&token.claims["sub"], token.signature.as_slice()), (&Value::from("u"), &b"signature"[..]));
        assert_eq!(token.signed, text.rsplit_once('.').unwrap().0);
    }

    #[test]
    fn headers_that_change_the_meaning_or_bring_keys_are_refused() {
        for (member, why) in [
            (r#""crit":["exp"]"#, "a critical extension"),
            (r#""crit":[]"#, "a critical extension"),
            (r#""b64":false"#, "an unencoded payload"),
            (r#""b64":true"#, "an unencoded payload"),
            (r#""zip":"DEF""#, "a compressed payload"),
            (r#""jwk":{"kty":"oct","k":"AA"}"#, "a key inside the token"),
            (r#""jku":"http://127.0.0.1/""#, "a key set's address inside the token"),
            (r#""x5u":"http://127.0.0.1/""#, "a certificate's address inside the token"),
            (r#""x5c":[]"#, "a certificate inside the token"),
            (r#""cty":"JWT""#, "a nested token"),
            (r#""kid":7"#, "kid is no text"),
            (r#""kid":["a"]"#, "kid is no text"),
            (r#""typ":{}"#, "typ or cty is no text"),
        ] {
            assert_eq!(fault(&token(&format!(r#"{{"alg":"ES256",{member}}}"#), "{}")), why, "{member}");
        }
    }

    #[test]
    fn algorithms_are_named_exactly_and_none_is_none_of_them() {
        for name in ["none", "None", "NONE", "nOnE", "", "es256", "RS256 ", "ES256K", "RS1", "dir", "HS1"] {
            assert_eq!(fault(&token(&format!(r#"{{"alg":"{name}"}}"#), "{}")), "an algorithm that is not accepted");
        }
        for header in [r"{}", r#"{"alg":null}"#, r#"{"alg":["ES256"]}"#, r#"{"Alg":"ES256"}"#] {
            assert_eq!(fault(&token(header, "{}")), "no algorithm", "{header}");
        }
    }

    #[test]
    fn a_name_that_stands_twice_is_refused_at_any_depth() {
        let good = r#"{"alg":"ES256"}"#;
        for header in [r#"{"alg":"none","alg":"ES256"}"#, r#"{"alg":"ES256","kid":"a","k\u0069d":"b"}"#] {
            assert_eq!(fault(&token(header, "{}")), "not a strict JSON object", "{header}");
        }
        for payload in [r#"{"exp":1,"exp":9999999999}"#, r#"{"a":{"b":1,"b":2}}"#, r#"{"a":[{"b":1,"b":2}]}"#] {
            assert_eq!(fault(&token(good, payload)), "not a strict JSON object", "{payload}");
        }
    }

    #[test]
    fn odd_json_is_refused() {
        let good = r#"{"alg":"ES256"}"#;
        let deep = format!(r#"{{"a":{}1{}}}"#, "[".repeat(3000), "]".repeat(3000));
        let edge = format!(r#"{{"a":{}1{}}}"#, "[".repeat(17), "]".repeat(17));
        for payload in [&deep, &edge, r#"{"exp":1e999}"#, r#"{"exp":NaN}"#, "", "{", "{\"a\":\"\x01\"}"] {
            assert_ne!(fault(&token(good, payload)), "accepted", "{payload:.60}");
        }
        assert_eq!(fault(&token(good, "[]")), "not a JSON object");
        assert_eq!(fault(&token(good, "{}{}")), "more than a JSON object");
        assert_eq!(fault(&token(good, r#""text""#)), "not a JSON object");
        assert_eq!(fault(&token(good, r#"{"a":[[[{"b":[1]}]]]} "#)), "accepted");
    }

    #[test]
    fn base64_has_one_spelling() {
        let good = token(r#"{"alg":"ES256"}"#, r#"{"a":1}"#);
        let (signed, signature) = good.rsplit_once('.').unwrap();
        assert_eq!(fault(&good), "accepted");
        // "signature" ends in bits that stand for nothing: `c2lnbmF0dXJl` has none, so one byte more.
        let odd = URL_SAFE_NO_PAD.encode("signatures");
        let (body, last) = odd.split_at(odd.len() - 1);
        let other = if last == "w" { "x" } else { "B" };
        for signature in [
            format!("{body}{other}"),
            format!("{signature}="),
            format!("{signature}=="),
            format!("{signature}\n"),
            format!(" {signature}"),
            signature.replace('l', "+"),
            signature.replace('l', "/"),
            format!("{signature}A"),
        ] {
            assert_eq!(fault(&format!("{signed}.{signature}")), "not base64url", "{signature:?}");
        }
    }

    #[test]
    fn the_number_of_parts_is_three_and_their_size_is_bounded() {
        for text in ["", ".", "..", "a.b", "a.b.c.d", "a.b.c.d.e", "a..c", ".b.c", "a.b."] {
            assert_ne!(fault(text), "accepted", "{text}");
        }
        let long = token(r#"{"alg":"ES256"}"#, &format!(r#"{{"a":"{}"}}"#, "x".repeat(LONGEST)));
        assert_eq!(fault(&long), "the token is longer than 16 KiB");
    }
}

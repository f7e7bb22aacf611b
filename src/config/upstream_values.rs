//! From a scalar's text to a value, for keys that only an upstream or a route has.

use http::{HeaderName, StatusCode};

use super::policy::{HedgeAfter, RetryOn};
use super::problems::Fault;
use super::tree::Scalar;
use super::values;

/// `unsent`, `reset`, or a status from 400 to 599.
pub(super) fn retry_on(scalar: &Scalar) -> Result<RetryOn, Fault> {
    if scalar.is_number() {
        return status(scalar).map(RetryOn::Status);
    }
    Ok(match values::choice(scalar, &["unsent", "reset"], &[])? {
        "unsent" => RetryOn::Unsent,
        _ => RetryOn::Reset,
    })
}

/// A status that says that something failed.
pub(super) fn status(scalar: &Scalar) -> Result<StatusCode, Fault> {
    let code = values::integer(scalar, 400, 599)?;
    let code = u16::try_from(code).ok().and_then(|code| StatusCode::from_u16(code).ok());
    code.ok_or_else(|| Fault::new(format!("{:?} is no status", scalar.text), "write a status from 400 to 599"))
}

pub(super) fn only_true(scalar: &Scalar) -> Result<(), Fault> {
    if values::boolean(scalar)? {
        return Ok(());
    }
    Err(Fault::new("false says nothing here", "write true, or remove the key"))
}

/// A field name (RFC 9110 §5.1), in any case.
pub(super) fn header_name(scalar: &Scalar) -> Result<HeaderName, Fault> {
    let name = values::text(scalar)?;
    HeaderName::from_bytes(name.as_bytes())
        .map_err(|_| Fault::new(format!("{name:?} is no header's name"), "write a name such as x-user"))
}

/// A token (RFC 6265 §4.1.1).
pub(super) fn cookie_name(scalar: &Scalar) -> Result<String, Fault> {
    let name = values::text(scalar)?;
    // Both are tokens of RFC 9110 §5.6.2.
    if HeaderName::from_bytes(name.as_bytes()).is_ok() {
        return Ok(name);
    }
    Err(Fault::new(format!("{name:?} is no cookie's name"), "write a name such as session"))
}

/// Consul takes letters, digits, `-` and `_` and compares without case (agent/config `ValidateDatacenter`).
pub(super) fn datacenter(scalar: &Scalar) -> Result<String, Fault> {
    let name = values::text(scalar)?;
    if name.len() <= 64 && name.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_')) {
        return Ok(name.to_ascii_lowercase());
    }
    Err(Fault::new(format!("{name:?} is no datacenter's name"), "use letters, digits, `-` and `_`, at most 64"))
}

/// An expression of Consul's. Consul alone knows its grammar; what no expression can be is found here.
pub(super) fn filter(scalar: &Scalar) -> Result<String, Fault> {
    let text = values::text(scalar)?;
    if text.len() > 2048 {
        return Err(Fault::new("the expression is longer than 2048 bytes", "write a shorter one"));
    }
    let mut open: usize = 0;
    let mut letters = text.char_indices();
    while let Some((at, letter)) = letters.next() {
        match letter {
            '(' => open += 1,
            ')' if open == 0 => {
                return Err(Fault::new(format!("a `)` at {} closes nothing", at + 1), "remove it, or add a `(`"));
            }
            ')' => open -= 1,
            '"' | '`' => {
                let mut escaped = false;
                let closed = letters.any(|(_, other)| {
                    let closes = other == letter && !escaped;
                    escaped = letter == '"' && other == '\\' && !escaped;
                    closes
                });
                if !closed {
                    return Err(Fault::new(format!("the {letter} at {} is not closed", at + 1), "close the text"));
                }
            }
            _ => {}
        }
    }
    if open > 0 {
        return Err(Fault::new(format!("{open} `(` not closed"), "add as many `)`"));
    }
    Ok(text)
}

/// `p95`, or a duration.
pub(super) fn hedge_after(scalar: &Scalar) -> Result<HedgeAfter, Fault> {
    Ok(match scalar.text.as_str() {
        "p50" => HedgeAfter::Percentile(50),
        "p90" => HedgeAfter::Percentile(90),
        "p95" => HedgeAfter::Percentile(95),
        "p99" => HedgeAfter::Percentile(99),
        other if other.starts_with('p') => {
            return Err(Fault::new(format!("{other:?} is not known here"), "write p50, p90, p95, p99 or a duration"));
        }
        _ => HedgeAfter::Time(values::duration(scalar)?),
    })
}

#[cfg(test)]
mod tests {
    use super::super::tree::Style;
    use super::*;

    fn plain(text: &str) -> Scalar {
        Scalar { text: text.into(), style: Style::Plain }
    }

    #[test]
    fn what_no_expression_can_be_is_found() {
        for text in [
            "Service.Meta.version == \"1\"",
            "(a == b) and (c != `)`)",
            r#"x == "a \" ( b""#,
            r#"x == "a\\""#,
            "\"v1\" in Service.Tags",
        ] {
            assert_eq!(filter(&plain(text)).as_deref(), Ok(text));
        }
        for text in ["", "a == \"b", "(a == b", "a == b)", r#"x == "a\""#, "a == `b"] {
            assert!(filter(&plain(text)).is_err(), "{text}");
        }
    }

    #[test]
    fn a_hedge_comes_after_a_percentile_or_a_time() {
        assert_eq!(hedge_after(&plain("p99")), Ok(HedgeAfter::Percentile(99)));
        assert_eq!(hedge_after(&plain("20ms")), Ok(HedgeAfter::Time(std::time::Duration::from_millis(20))));
        for text in ["p96", "p", "p100", "95", "fast"] {
            assert!(hedge_after(&plain(text)).is_err(), "{text}");
        }
    }

    #[test]
    fn retries_are_on_words_and_failing_statuses() {
        assert_eq!(retry_on(&plain("reset")), Ok(RetryOn::Reset));
        assert_eq!(retry_on(&plain("503")), Ok(RetryOn::Status(StatusCode::SERVICE_UNAVAILABLE)));
        for text in ["200", "399", "600", "5xx", "Unsent"] {
            assert!(retry_on(&plain(text)).is_err(), "{text}");
        }
    }
}

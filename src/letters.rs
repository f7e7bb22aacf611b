//! Sets of bytes as tables: a look-up a byte, where a chain of comparisons would cost a request more than its route.

/// Letters and digits of ASCII, and `others`.
pub const fn alphanumeric_and(others: &[u8]) -> [bool; 256] {
    let mut set = [false; 256];
    let mut at = 0;
    while at < 256 {
        set[at] = (at as u8).is_ascii_alphanumeric();
        at += 1;
    }
    let mut at = 0;
    while at < others.len() {
        set[others[at] as usize] = true;
        at += 1;
    }
    set
}

/// The value of a lower-case hex digit; above 15 for any other byte.
pub const HEX_VALUES: [u8; 256] = {
    let mut values = [u8::MAX; 256];
    let mut at = 0;
    while at < 16 {
        values[b"0123456789abcdef"[at] as usize] = at as u8;
        at += 1;
    }
    values
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_say_what_comparisons_say() {
        let set = alphanumeric_and(b"-~\xff");
        for byte in 0..=u8::MAX {
            let at = usize::from(byte);
            assert_eq!(set[at], byte.is_ascii_alphanumeric() || b"-~\xff".contains(&byte), "{byte}");
            let digit = char::from(byte).to_digit(16).filter(|_| !byte.is_ascii_uppercase());
            assert_eq!(Some(u32::from(HEX_VALUES[at])).filter(|value| *value < 16), digit, "{byte}");
        }
    }
}

//! Repairs what programs write into JSON files although it is not JSON.

/// Repaired JSON text; `None` if nothing had to be repaired.
///
/// - `NaN`, `Infinity`, `-Infinity` (`json.dumps` of Python), `nan`, `-inf` and the like (printf), and numbers too large for an f64
///   become null.
/// - Half of a surrogate pair, such as the `\ud83d` left of an emoji that was cut, becomes U+FFFD.
/// - Whole numbers too large for 64 bits become strings of their digits, so that identifiers that are hashes stay distinct.
pub(crate) fn mended(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut mended = Vec::new();
    // Everything before this is already in `mended`.
    let mut copied = 0;
    let mut at = 0;
    let mut replace = |from: usize, to: usize, by: &[u8]| {
        mended.extend(&bytes[copied..from]);
        mended.extend(by);
        copied = to;
    };
    while let Some(byte) = bytes.get(at) {
        let start = at;
        match byte {
            b'"' => at = text(bytes, at + 1, &mut replace),
            b'+' | b'-' | b'.' | b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' => {
                let word = &bytes[start..];
                let length = word.iter().position(|byte| {
                    !(byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.'))
                });
                let word = &word[..length.unwrap_or(word.len())];
                at += word.len();
                if is_no_number(word) {
                    replace(start, at, b"null");
                } else if is_too_long(word) {
                    replace(start, at, &[b"\"", word, b"\""].concat());
                }
            }
            _ => at += 1,
        }
    }
    if copied == 0 {
        return None;
    }
    mended.extend(&bytes[copied..]);
    Some(mended)
}

fn is_no_number(word: &[u8]) -> bool {
    let bare = word
        .strip_prefix(b"-")
        .or_else(|| word.strip_prefix(b"+"))
        .unwrap_or(word);
    if [&b"nan"[..], b"inf", b"infinity"]
        .iter()
        .any(|name| bare.eq_ignore_ascii_case(name))
    {
        return true;
    }
    let exponent = bare.first().is_some_and(u8::is_ascii_digit)
        && bare.iter().any(|byte| matches!(byte, b'e' | b'E' | b'.'));
    exponent
        && std::str::from_utf8(word)
            .ok()
            .and_then(|word| word.parse::<f64>().ok())
            .is_some_and(f64::is_infinite)
}

/// Whether a word is a whole number of more than 64 bits.
fn is_too_long(word: &[u8]) -> bool {
    let digits = word.strip_prefix(b"-").unwrap_or(word);
    let Ok(word) = std::str::from_utf8(word) else {
        return false;
    };
    !digits.is_empty()
        && digits.iter().all(u8::is_ascii_digit)
        && word.parse::<u64>().is_err()
        && word.parse::<i64>().is_err()
}

/// Skips a string, from after its opening quote to after the closing one.
fn text(bytes: &[u8], mut at: usize, replace: &mut dyn FnMut(usize, usize, &[u8])) -> usize {
    /// Number of bytes of `\uXXXX`.
    const ESCAPE: usize = 6;
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'"' => return at + 1,
            b'\\' => match unit(bytes, at) {
                Some(0xd800..=0xdbff) => {
                    if let Some(0xdc00..=0xdfff) = unit(bytes, at + ESCAPE) {
                        at += 2 * ESCAPE;
                    } else {
                        replace(at, at + ESCAPE, br"\ufffd");
                        at += ESCAPE;
                    }
                }
                Some(0xdc00..=0xdfff) => {
                    replace(at, at + ESCAPE, br"\ufffd");
                    at += ESCAPE;
                }
                Some(_) => at += ESCAPE,
                None => at += 2,
            },
            _ => at += 1,
        }
    }
    bytes.len()
}

/// The UTF-16 unit of `\uXXXX` at this position.
fn unit(bytes: &[u8], at: usize) -> Option<u16> {
    let digits = bytes.get(at..)?.strip_prefix(br"\u")?.get(..4)?;
    let digits = digits
        .iter()
        .all(u8::is_ascii_hexdigit)
        .then(|| std::str::from_utf8(digits).ok())??;
    u16::from_str_radix(digits, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_json_does_not_have_is_put_right() {
        for (text, expected) in [
            (
                r#"{"a": NaN, "b": [Infinity, -Infinity,+inf], "c":nan}"#,
                r#"{"a": null, "b": [null, null,null], "c":null}"#,
            ),
            (
                r#"[-nan, INF, 1e999, -1E+400, 2.5e1]"#,
                r#"[null, null, null, null, 2.5e1]"#,
            ),
            (
                r#"["\ud83d", "\ude00", "x\ud83dy"]"#,
                r#"["\ufffd", "\ufffd", "x\ufffdy"]"#,
            ),
            (r#"["\ud83d\ud83d\ude00"]"#, r#"["\ufffd\ud83d\ude00"]"#),
            (r#"["\uD83D\\ude00"]"#, r#"["\ufffd\\ude00"]"#),
            (
                "[18446744073709551616, -9223372036854775809, 18446744073709551615]",
                "[\"18446744073709551616\", \"-9223372036854775809\", 18446744073709551615]",
            ),
        ] {
            let found = mended(text.as_bytes()).map(|bytes| String::from_utf8(bytes).unwrap());
            assert_eq!(found.as_deref(), Some(expected));
            serde_json::from_str::<serde_json::Value>(expected).unwrap();
            for cut in 0..text.len() {
                let _ = mended(&text.as_bytes()[..cut]);
            }
        }
        for sound in [
            r#"{"NaN": "NaN Infinity \u00e9 \"nan\" \\", "n": [1, -2.5, 1e10, true, false, null]}"#,
            r#"["\ud83d\ude00"]"#,
            r#"["open NaN"#,
            "",
        ] {
            assert_eq!(mended(sound.as_bytes()), None, "{sound}");
        }
    }
}

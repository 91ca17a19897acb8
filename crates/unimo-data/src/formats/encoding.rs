//! Bytes of text files as text: only UTF-8, with or without a byte order mark.

pub(crate) const NOT_UTF8: &str = "not valid UTF-8";
pub(crate) const UTF16: &str = "it is written in UTF-16; only UTF-8 is read";

/// Whether a file begins with the byte order mark of UTF-16.
pub(crate) fn is_utf16(start: &[u8]) -> bool {
    start.starts_with(b"\xff\xfe") || start.starts_with(b"\xfe\xff")
}

/// Bytes as text, without a byte order mark.
///
/// # Errors
///
/// They are not UTF-8.
pub(crate) fn text_of(bytes: &[u8]) -> Result<&str, String> {
    if is_utf16(bytes) {
        return Err(UTF16.to_owned());
    }
    let text = std::str::from_utf8(bytes).map_err(|_| NOT_UTF8.to_owned())?;
    Ok(text.trim_start_matches('\u{feff}'))
}

/// Number of bytes read at once.
pub(crate) const BUFFER: usize = 1 << 16;

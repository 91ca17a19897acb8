//! Text that goes into an HTML page: escaping, images as `data:` addresses, TOML with its syntax marked.

use std::fmt::Write as _;

/// `text` with the characters replaced that mean something in HTML text or in a quoted attribute, and with control
/// characters (which HTML forbids) as the replacement character.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            '\n' | '\t' => out.push(character),
            _ if character.is_control() => out.push('\u{fffd}'),
            _ => out.push(character),
        }
    }
    out
}

/// Base64 with padding (RFC 4648, section 4).
pub fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let group = (0..3).fold(0u32, |group, index| {
            group << 8 | u32::from(chunk.get(index).copied().unwrap_or(0))
        });
        for index in 0..4 {
            if index <= chunk.len() {
                out.push(char::from(
                    ALPHABET[(group >> (18 - 6 * index) & 63) as usize],
                ));
            } else {
                out.push('=');
            }
        }
    }
    out
}

/// The image as a `data:` address, by the signature of its format; `None` if it is neither PNG, JPEG nor WebP.
pub fn data_address(image: &[u8]) -> Option<String> {
    let kind = match image {
        [0x89, b'P', b'N', b'G', b'\r', b'\n', 0x1a, b'\n', ..] => "png",
        [0xff, 0xd8, 0xff, ..] => "jpeg",
        [
            b'R',
            b'I',
            b'F',
            b'F',
            _,
            _,
            _,
            _,
            b'W',
            b'E',
            b'B',
            b'P',
            ..,
        ] => "webp",
        _ => return None,
    };
    Some(format!("data:image/{kind};base64,{}", base64(image)))
}

/// TOML as escaped HTML with tables (`t-table`), keys (`t-key`), strings (`t-string`), other values (`t-value`) and comments
/// (`t-comment`) in spans. A marker for readers, not a parser: it never fails and loses no character.
pub fn toml(text: &str) -> String {
    let mut out = String::new();
    // The quotes that close a string of several lines, while inside one.
    let mut open: Option<&str> = None;
    for line in text.split_inclusive('\n') {
        let mut rest = line;
        if let Some(quotes) = open.take() {
            let end = rest.find(quotes).map(|at| at + quotes.len());
            span(&mut out, "t-string", &rest[..end.unwrap_or(rest.len())]);
            rest = &rest[end.unwrap_or(rest.len())..];
            if end.is_none() {
                open = Some(quotes);
                continue;
            }
        } else if rest.trim_start().starts_with('[')
            && rest.trim_end().ends_with(']')
            && !rest.contains([',', '"', '='])
        {
            span(&mut out, "t-table", rest);
            continue;
        } else if let Some(at) = key_end(rest) {
            span(&mut out, "t-key", &rest[..at]);
            rest = &rest[at..];
        }
        open = values(&mut out, rest);
    }
    out
}

/// Where the `=` of a `key = value` line is; `None` for other lines, such as those inside an array.
fn key_end(line: &str) -> Option<usize> {
    let at = line.find('=')?;
    let key = line[..at].trim();
    let bare = |character: char| character.is_alphanumeric() || "_-. \"'".contains(character);
    (!key.is_empty() && key.chars().all(bare)).then_some(at)
}

/// Marks the values of a line; returns the closing quotes of a string that goes on.
fn values<'a>(out: &mut String, line: &'a str) -> Option<&'a str> {
    let mut rest = line;
    while let Some(first) = rest.chars().next() {
        let length = match first {
            '#' => {
                span(out, "t-comment", rest);
                return None;
            }
            '"' | '\'' => {
                let quotes = if rest.len() >= 3
                    && rest.as_bytes()[..3].iter().all(|byte| *byte == first as u8)
                {
                    3
                } else {
                    1
                };
                match string_end(rest, first, quotes) {
                    Some(end) => {
                        span(out, "t-string", &rest[..end]);
                        end
                    }
                    None => {
                        span(out, "t-string", rest);
                        return (quotes == 3).then(|| &rest[..3]);
                    }
                }
            }
            _ if first.is_alphanumeric() || "+-".contains(first) => {
                let end = rest
                    .find(|character: char| {
                        !(character.is_alphanumeric() || "+-_.:".contains(character))
                    })
                    .unwrap_or(rest.len());
                span(out, "t-value", &rest[..end]);
                end
            }
            _ => {
                out.push_str(&escape(&rest[..first.len_utf8()]));
                first.len_utf8()
            }
        };
        rest = &rest[length..];
    }
    None
}

fn string_end(text: &str, quote: char, quotes: usize) -> Option<usize> {
    let close = &text[..quotes];
    let mut at = quotes;
    while at < text.len() {
        if quote == '"' && text[at..].starts_with('\\') {
            at += 1 + text[at + 1..].chars().next().map_or(0, char::len_utf8);
        } else if text[at..].starts_with(close) {
            return Some(at + quotes);
        } else {
            at += text[at..].chars().next().map_or(1, char::len_utf8);
        }
    }
    None
}

fn span(out: &mut String, class: &str, text: &str) {
    let _ = write!(out, "<span class=\"{class}\">{}</span>", escape(text));
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a browser shows of a fragment: without its tags, with its character references resolved.
    fn shown(html: &str) -> String {
        let mut out = String::new();
        for (index, part) in html.split('<').enumerate() {
            out.push_str(if index == 0 {
                part
            } else {
                part.split_once('>').map_or("", |pair| pair.1)
            });
        }
        let references = [
            ("&lt;", "<"),
            ("&gt;", ">"),
            ("&quot;", "\""),
            ("&#39;", "'"),
            ("&amp;", "&"),
        ];
        references.iter().fold(out, |text, (reference, character)| {
            text.replace(reference, character)
        })
    }

    #[test]
    fn escaped_text_holds_no_markup() {
        assert_eq!(
            escape("<a b='c' d=\"e\">&\u{0}\u{7f}"),
            "&lt;a b=&#39;c&#39; d=&quot;e&quot;&gt;&amp;\u{fffd}\u{fffd}"
        );
        assert_eq!(escape("kraków 猫 🐈\n\t"), "kraków 猫 🐈\n\t");
        let text = "5 < 6 && \"quoted\" 'too' &lt;";
        assert_eq!(shown(&escape(text)), text);
    }

    /// The test vectors of RFC 4648, section 10, and two bytes that need the last two characters of the alphabet.
    #[test]
    fn base64_agrees_with_the_standard() {
        let vectors = [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"),
        ];
        for (text, code) in vectors {
            assert_eq!(base64(text.as_bytes()), code);
        }
        assert_eq!(base64(&[0xfb, 0xff, 0xfe]), "+//+");
    }

    #[test]
    fn images_are_known_by_their_signature() {
        assert_eq!(
            data_address(b"\x89PNG\r\n\x1a\n").as_deref(),
            Some("data:image/png;base64,iVBORw0KGgo=")
        );
        assert!(
            data_address(b"\xff\xd8\xff\xe0")
                .is_some_and(|address| address.starts_with("data:image/jpeg;"))
        );
        assert!(
            data_address(b"RIFF\0\0\0\0WEBP")
                .is_some_and(|address| address.starts_with("data:image/webp;"))
        );
        assert_eq!(data_address(b"<svg onload='alert(1)'/>"), None);
        assert_eq!(data_address(b""), None);
    }

    #[test]
    fn marked_toml_loses_no_character() {
        let texts = [
            "# recipe\nname = \"a <b> # not a comment\"\n\n[model.text]\nlayers = 6 # comment\nrate = 1e-4\n[[task]]\nopen = [\n  1, \"x\",\n]\n",
            "text = \"\"\"\nseveral # lines\n= \\\"\"\"\" \nnext = 'c:\\'\n",
            "broken = \"never closed\nnext = 1",
            "= \n[\n\\",
            "\"quoted key\" = { a = 1, b = '''x''' }\r\nz = 1979-05-27T07:32:00Z",
            "é = \"\\é\"",
        ];
        for text in texts {
            assert_eq!(shown(&toml(text)), text.replace('\r', "\u{fffd}"), "{text}");
        }
        let marked = toml(texts[0]);
        assert!(marked.contains("<span class=\"t-table\">[model.text]\n</span>"));
        assert!(
            marked.contains(
                "<span class=\"t-string\">&quot;a &lt;b&gt; # not a comment&quot;</span>"
            )
        );
        assert!(marked.contains("<span class=\"t-comment\"># comment\n</span>"));
        assert!(marked.contains("<span class=\"t-value\">1e-4</span>"));
        assert!(toml(texts[1]).contains("<span class=\"t-key\">next </span>"));
    }
}

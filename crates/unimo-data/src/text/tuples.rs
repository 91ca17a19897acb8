//! Files of phrases found by another parser, such as SPICE's (Anderson et al. 2016): JSON lines.
//!
//! One line per caption; other keys are ignored:
//!
//! ```json
//! {"caption": "A brown dog chases a ball.", "tuples": [["dog"], ["dog", "brown"], ["dog", "chase", "ball"]]}
//! ```
//!
//! The meaning of the tuples is described at [`unimo_phrases::Tuples`].

use std::io::BufReader;
use std::path::Path;

use serde::Deserialize;
use unimo_phrases::{Tuples, TuplesBuilder};

use crate::error::DataError;
use crate::formats::encoding::BUFFER;
use crate::formats::rows::{Lines, record};
use crate::store::open_regular;

#[derive(Deserialize)]
struct Line {
    caption: String,
    tuples: Vec<Vec<String>>,
}

/// Reads a file of tuples. The first of several lines with the same caption counts. A caption has at most
/// [`MOST_PHRASES`](unimo_phrases::MOST_PHRASES) phrases.
///
/// # Errors
///
/// The file cannot be read or has no line. Or a line, given by its number, is longer than 1 MiB, is not such an object, has an
/// empty caption, or has a tuple with no text, more than three texts or an empty text.
pub(crate) fn read_tuples(path: &Path) -> Result<Tuples, DataError> {
    let io = |error| DataError::file("read", path, error);
    let wrong = |reason: String| DataError::Manifest {
        path: path.to_owned(),
        reason,
    };
    let file = open_regular(path).map_err(io)?;
    let mut lines = Lines::new(BufReader::with_capacity(BUFFER, file));
    let mut tuples = TuplesBuilder::default();
    while let Some((span, line)) = lines.next_line().map_err(io)? {
        let at_line = |reason: String| wrong(format!("line {}: {reason}", span.line));
        // serde would also accept an array of the struct's values.
        let line = line.and_then(|bytes| match bytes.trim_ascii_start().first() {
            Some(b'{') | None => record::<Line>(&bytes),
            Some(_) => Err("no JSON object".to_owned()),
        });
        if let Some(line) = line.map_err(at_line)? {
            tuples.add(&line.caption, &line.tuples).map_err(at_line)?;
        }
    }
    let tuples = tuples.finish();
    if tuples.is_empty() {
        let reason = "no line, allowed: {\"caption\": ..., \"tuples\": [...]} a line";
        return Err(wrong(reason.to_owned()));
    }
    Ok(tuples)
}

#[cfg(test)]
mod tests {
    use unimo_phrases::MOST_PHRASES;

    use super::*;

    fn read(text: impl AsRef<[u8]>) -> Result<Tuples, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tuples.jsonl");
        std::fs::write(&path, text).unwrap();
        read_tuples(&path).map_err(|error| error.to_string())
    }

    #[test]
    fn tuples_become_phrases() {
        let text = r#"{"caption": "A brown  dog chases a ball.", "tuples": [["Dog"], ["dog", "brown"], ["dog", "chase", "ball"], ["dog"]], "id": 3}

            {"caption": "nothing", "tuples": []}
            {"caption": " A brown dog chases a ball. ", "tuples": [["second"]]}"#;
        let tuples = read(text).unwrap();
        assert_eq!(tuples.len(), 2);
        assert_eq!(
            tuples.of("A brown dog chases\ta ball."),
            ["dog", "brown dog", "dog chase ball"]
        );
        for unknown in ["nothing", "a brown dog chases a ball.", "", " "] {
            assert!(tuples.of(unknown).is_empty(), "{unknown}");
        }
    }

    #[test]
    fn bad_lines_are_named() {
        let good = "{\"caption\": \"a\", \"tuples\": []}\n";
        let long = format!(
            "{{\"caption\": \"{}\", \"tuples\": []}}",
            "x".repeat(1 << 20)
        );
        for (line, part) in [
            ("[\"b\", []]", "no JSON object"),
            ("{", "EOF"),
            ("{\"caption\": \"b\"}", "missing field `tuples`"),
            ("{\"caption\": 5, \"tuples\": []}", "invalid type"),
            ("{\"caption\": \" \", \"tuples\": []}", "empty `caption`"),
            (
                "{\"caption\": \"b\", \"tuples\": [\"dog\"]}",
                "invalid type",
            ),
            (
                "{\"caption\": \"b\", \"tuples\": [[]]}",
                "a tuple of 0 texts",
            ),
            (
                "{\"caption\": \"b\", \"tuples\": [[\"a\", \"b\", \"c\", \"d\"]]}",
                "a tuple of 4 texts, allowed: [object]",
            ),
            (
                "{\"caption\": \"b\", \"tuples\": [[\"a\", \" \"]]}",
                "an empty text",
            ),
            (&long, "longer than"),
        ] {
            let message = read(format!("{good}{line}\n{good}")).unwrap_err();
            assert!(
                message.contains("tuples.jsonl: line 2: ") && message.contains(part),
                "{message}"
            );
        }
        assert!(read([good.as_bytes(), b"\xff\xfe"].concat()).is_err());
        assert!(read("").unwrap_err().contains("no line"));
        assert!(read_tuples(Path::new("absent.jsonl")).is_err());
    }

    #[test]
    fn a_long_phrase_is_left_out_and_a_long_list_is_cut() {
        let long = "x".repeat(200);
        let many: Vec<String> = (0..1000).map(|n| format!("[\"word{n}\"]")).collect();
        let text = format!(
            "{{\"caption\": \"a\", \"tuples\": [[\"{long}\"], [\"dog\"]]}}\n{{\"caption\": \"b\", \"tuples\": [{}]}}",
            many.join(",")
        );
        let tuples = read(text).unwrap();
        assert_eq!(tuples.of("a"), ["dog"]);
        assert_eq!(tuples.of("b").len(), MOST_PHRASES);
        assert_eq!(tuples.of("b")[127], "word127");
    }
}

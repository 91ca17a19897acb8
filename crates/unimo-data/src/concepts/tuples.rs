//! Phrases that another parser found, such as SPICE's (Anderson et al. 2016), read from JSON lines.
//!
//! One line per caption; other keys are passed over:
//!
//! ```json
//! {"caption": "A brown dog chases a ball.", "tuples": [["dog"], ["dog", "brown"], ["dog", "chase", "ball"]]}
//! ```
//!
//! One text is an object (`dog`), two an object and its attribute (`brown dog`), three a subject, a relation and an object
//! (`dog chase ball`). The caption is looked up as it stands in the data set, runs of white space aside.

use std::collections::HashMap;
use std::io::BufReader;
use std::path::Path;

use serde::Deserialize;

use super::normal;
use super::parser::MOST_PHRASES;
use crate::error::DataError;
use crate::formats::encoding::BUFFER;
use crate::formats::rows::{Lines, key_of, record};
use crate::store::open_regular;
use crate::text::spaced;

/// Phrases by caption.
///
/// Captions are kept as hashes of 64 bits and each distinct phrase once, so that those of millions of captions fit into memory.
#[derive(Debug, Default)]
pub struct Tuples {
    phrases: Vec<String>,
    /// Numbers of phrases, those of a caption one after another.
    numbers: Vec<u32>,
    /// First and last number of a caption's phrases.
    captions: HashMap<u64, (u32, u32)>,
}

#[derive(Deserialize)]
struct Line {
    caption: String,
    tuples: Vec<Vec<String>>,
}

impl Tuples {
    /// The phrases of a caption, each once, in the order of the file; none where the file does not have it.
    pub fn of(&self, caption: &str) -> Vec<String> {
        let key = spaced(caption).map(key_of);
        let Some((first, end)) = key.and_then(|key| self.captions.get(&key)) else {
            return Vec::new();
        };
        self.numbers[*first as usize..*end as usize]
            .iter()
            .map(|number| self.phrases[*number as usize].clone())
            .collect()
    }

    /// Captions in the file.
    pub fn len(&self) -> usize {
        self.captions.len()
    }

    /// Whether the file has no captions.
    pub fn is_empty(&self) -> bool {
        self.captions.is_empty()
    }
}

/// Reads a file of tuples. Of lines with the same caption the first one counts; of a caption at most [`MOST_PHRASES`] phrases.
///
/// # Errors
///
/// The file cannot be read or has no line; or, with its number, a line that is longer than 1 MiB, is no such object, has an empty
/// caption, or has a tuple of none or more than three texts or with an empty one.
pub fn read_tuples(path: &Path) -> Result<Tuples, DataError> {
    let io = |error| DataError::file("read", path, error);
    let wrong = |reason: String| DataError::Manifest {
        path: path.to_owned(),
        reason,
    };
    let file = open_regular(path).map_err(io)?;
    let mut lines = Lines::new(BufReader::with_capacity(BUFFER, file));
    let mut tuples = Tuples::default();
    let mut known: HashMap<String, u32> = HashMap::new();
    while let Some((span, line)) = lines.next_line().map_err(io)? {
        let at_line = |reason: String| wrong(format!("line {}: {reason}", span.line));
        // serde takes an array of its values for a struct, too.
        let line = line.and_then(|bytes| match bytes.trim_ascii_start().first() {
            Some(b'{') | None => record::<Line>(&bytes),
            Some(_) => Err("no JSON object".to_owned()),
        });
        let Some(line) = line.map_err(at_line)? else {
            continue;
        };
        let caption = spaced(&line.caption).ok_or_else(|| at_line("empty `caption`".to_owned()))?;
        let mut own: Vec<u32> = Vec::new();
        for tuple in &line.tuples {
            let Some(phrase) = phrase(tuple).map_err(at_line)? else {
                continue;
            };
            let next = known.len() as u32;
            let number = *known.entry(phrase).or_insert_with_key(|phrase| {
                tuples.phrases.push(phrase.clone());
                next
            });
            if !own.contains(&number) && own.len() < MOST_PHRASES {
                own.push(number);
            }
        }
        let first = tuples.numbers.len() as u32;
        let end = u32::try_from(tuples.numbers.len() + own.len())
            .map_err(|_| at_line("more than 4294967295 phrases in all".to_owned()))?;
        tuples.captions.entry(key_of(caption)).or_insert_with(|| {
            tuples.numbers.extend(own);
            (first, end)
        });
    }
    if tuples.is_empty() {
        let reason = "no line, allowed: {\"caption\": ..., \"tuples\": [...]} a line";
        return Err(wrong(reason.to_owned()));
    }
    Ok(tuples)
}

/// The phrase of a tuple; none where it is too long to be a concept.
fn phrase(tuple: &[String]) -> Result<Option<String>, String> {
    if tuple.iter().any(|part| part.trim().is_empty()) {
        return Err("an empty text in a tuple".to_owned());
    }
    let joined = match tuple {
        [object] => object.clone(),
        [object, attribute] => format!("{attribute} {object}"),
        [subject, relation, object] => format!("{subject} {relation} {object}"),
        _ => {
            return Err(format!(
                "a tuple of {} texts, allowed: [object], [object, attribute], [subject, relation, object]",
                tuple.len()
            ));
        }
    };
    Ok(normal(&joined))
}

#[cfg(test)]
mod tests {
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

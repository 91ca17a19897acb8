//! On which line of a recipe's file a key stands.

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::recipe::overrides::{Key, Part};

/// The keys of a file with their places.
pub(crate) struct Lines<'a> {
    text: &'a str,
    table: Spanned<DeTable<'a>>,
}

impl<'a> Lines<'a> {
    /// Reads a file's text.
    ///
    /// # Errors
    ///
    /// It is no TOML: every error, with its line.
    pub(crate) fn of(text: &'a str) -> Result<Self, Vec<(usize, String)>> {
        let (table, errors) = DeTable::parse_recoverable(text);
        if errors.is_empty() {
            return Ok(Self { text, table });
        }
        let told = |error: toml::de::Error| {
            let at = error.span().map_or(0, |span| span.start);
            let line = line_at(text, at);
            let written = text.lines().nth(line - 1).unwrap_or_default().trim();
            (line, format!("`{written}`: {}", error.message().trim_end()))
        };
        let mut errors: Vec<_> = errors.into_iter().map(told).collect();
        // What is behind an error on a line often only follows from it.
        errors.sort_by_key(|(line, _)| *line);
        errors.dedup_by_key(|(line, _)| *line);
        Err(errors)
    }

    /// The line of a key, from 1. If the key is not there, the line of the table that it would be in; `None` if the file has not even
    /// that.
    pub(crate) fn of_key(&self, key: &Key) -> Option<usize> {
        let mut at = self.table.get_ref();
        let mut found = None;
        let mut parts = key.parts().iter().peekable();
        while let Some(Part::Name(name)) = parts.next() {
            let entry = at.iter().find(|(own, _)| own.get_ref() == name);
            let Some((own, value)) = entry else { break };
            let mut place = own.span().start;
            let mut value = value.get_ref();
            while let (DeValue::Array(values), Some(index)) =
                (value, parts.peek().and_then(|part| part.index()))
            {
                let Some(next) = values.get(index) else { break };
                parts.next();
                // The place of a table of an array, `[[stage]]`, is that of its header.
                place = next.span().start;
                value = next.get_ref();
            }
            found = Some(line_at(self.text, place));
            let DeValue::Table(below) = value else { break };
            at = below;
        }
        found
    }
}

/// The line of a byte, from 1.
fn line_at(text: &str, at: usize) -> usize {
    let before = text.as_bytes().iter().take(at);
    1 + before.filter(|byte| **byte == b'\n').count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recipe::overrides::parse_key;

    #[test]
    fn keys_have_lines_and_missing_ones_those_of_their_table() {
        let text = "seed = 0\n[train]\nsteps = 3\noptimizer = { lr = 1 }\n\n[[stage]]\nname = \"a\"\n[[stage]]\nlr = 2\n[data.pairs]\n";
        let lines = Lines::of(text).ok().unwrap();
        for (key, line) in [
            ("seed", Some(1)),
            ("train.steps", Some(3)),
            ("train.optimizer.lr", Some(4)),
            ("train.optimizer.beta1", Some(4)),
            ("train.ema", Some(2)),
            ("stage[0].name", Some(7)),
            ("stage[1].lr", Some(9)),
            ("stage[1].share", Some(8)),
            ("data.pairs.path", Some(10)),
            ("model.text", None),
        ] {
            assert_eq!(lines.of_key(&parse_key(key).unwrap()), line, "{key}");
        }
    }

    #[test]
    fn every_error_of_toml_has_its_line() {
        let wrong = Lines::of("a = \nb = 1\nc 3\n").err().unwrap();
        let lines: Vec<usize> = wrong.iter().map(|(line, _)| *line).collect();
        assert_eq!(lines, [1, 3], "{wrong:?}");
    }
}

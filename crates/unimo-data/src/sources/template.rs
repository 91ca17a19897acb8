//! File names with fields: `COCO_train2014_{id:12}.jpg`.

/// A file name with fields. A number after a colon is a width, up to which zeros are put in front.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Template(Vec<Piece>);

#[derive(Debug, Clone, PartialEq)]
enum Piece {
    Text(String),
    /// Index of the value, and its least width.
    Field(usize, usize),
}

/// Largest width of a number.
const WIDEST: usize = 64;

impl Template {
    /// Parses a template with these possible fields.
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    pub fn parse(text: &str, fields: &[&str]) -> Result<Self, String> {
        let allowed = || {
            let fields: Vec<String> = fields.iter().map(|field| format!("{{{field}}}")).collect();
            fields.join(", ")
        };
        let mut pieces = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('{') {
            pieces.push(Piece::Text(before.to_owned()));
            let (field, after) = after
                .split_once('}')
                .ok_or_else(|| "a brace is never closed".to_owned())?;
            let (name, width) = match field.split_once(':') {
                Some((name, width)) => (name, width.parse().unwrap_or(usize::MAX)),
                None => (field, 0),
            };
            if width > WIDEST {
                return Err(format!(
                    "{{{field}}}: the width is no number up to {WIDEST}"
                ));
            }
            let at = fields
                .iter()
                .position(|known| *known == name)
                .ok_or_else(|| format!("{{{name}}} is none of {}", allowed()))?;
            pieces.push(Piece::Field(at, width));
            rest = after;
        }
        if !pieces.iter().any(|piece| matches!(piece, Piece::Field(..))) {
            return Err(format!("it holds none of {}", allowed()));
        }
        pieces.push(Piece::Text(rest.to_owned()));
        Ok(Self(pieces))
    }

    /// The name with these values, in the order of the fields.
    pub fn fill(&self, values: &[&str]) -> String {
        let mut name = String::new();
        for piece in &self.0 {
            match piece {
                Piece::Text(text) => name += text,
                Piece::Field(at, width) => {
                    let value = values.get(*at).copied().unwrap_or_default();
                    let missing = width.saturating_sub(value.len());
                    name.extend(std::iter::repeat_n('0', missing));
                    name += value;
                }
            }
        }
        name
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_filled_up_with_zeros() {
        let template = Template::parse("{a:5}/x{b}_{a}.jpg", &["a", "b"]).unwrap();
        assert_eq!(template.fill(&["17", "yes"]), "00017/xyes_17.jpg");
        assert_eq!(template.fill(&["1234567", ""]), "1234567/x_1234567.jpg");
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (text, part) in [
            ("plain.jpg", "none of {a}"),
            ("{b}.jpg", "{b} is none of {a}"),
            ("{a", "never closed"),
            ("{a:x}", "width"),
            ("{a:999999999999}", "width"),
        ] {
            let reason = Template::parse(text, &["a"]).unwrap_err();
            assert!(reason.contains(part), "{text}: {reason}");
        }
    }
}

//! Settings that many sources share: paths, names, and which samples are held out.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer};

use crate::error::DataError;
use crate::order::draws::{Stream, hash_text, unit};
use crate::settings::{not_empty, share};
use crate::sources::splits::Split;
pub(crate) use crate::sources::splits::val_fraction;

/// Which samples are held out.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Held {
    /// All samples go to this split.
    All(Split),
    /// This share of the images, by a hash of the path.
    Share(f64),
}

impl Held {
    /// For training files: nothing is held out if there are held-out paths, else a share.
    pub(crate) fn beside(val: &[PathBuf], val_fraction: f64) -> Self {
        if val.is_empty() {
            Self::Share(val_fraction)
        } else {
            Self::All(Split::Train)
        }
    }

    /// The split of an image.
    pub(crate) fn of(self, image: &str) -> Split {
        match self {
            Self::All(split) => split,
            Self::Share(share) if unit(hash_text(Stream::Split, image)) < share => Split::Val,
            Self::Share(_) => Split::Train,
        }
    }
}

/// Checks that a recipe gives this path.
pub(crate) fn given(table: &str, key: &str, path: &Path, what: &str) -> Result<(), DataError> {
    not_empty(&format!("{table}.{key}"), &path.to_string_lossy(), what)
}

/// Checks that a recipe gives at least one path.
pub(crate) fn some_paths(key: &str, paths: &[PathBuf]) -> Result<(), DataError> {
    if paths.is_empty() || paths.iter().any(|path| path.as_os_str().is_empty()) {
        let found = format!("{paths:?}");
        return Err(DataError::config(key, found, "one or more paths"));
    }
    Ok(())
}

/// Checks the training paths, and either held-out paths or a share.
pub(crate) fn train_and_held(
    table: &str,
    train: &[PathBuf],
    held_out: [(&str, &[PathBuf]); 2],
    val_fraction: f64,
) -> Result<(), DataError> {
    some_paths(&format!("{table}.train"), train)?;
    for (key, paths) in held_out.iter().filter(|(_, paths)| !paths.is_empty()) {
        some_paths(&format!("{table}.{key}"), paths)?;
    }
    share(&format!("{table}.val_fraction"), val_fraction)
}

/// `"a"` and `["a"]` mean the same.
pub(crate) fn one_or_many<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "expected a string or a list of strings")]
    enum OneOrMany {
        One(String),
        Many(Vec<String>),
    }
    Ok(match OneOrMany::deserialize(deserializer)? {
        OneOrMany::One(one) => vec![one],
        OneOrMany::Many(many) => many,
    })
}

/// The same for paths.
pub(crate) fn one_or_many_paths<'de, D: Deserializer<'de>>(
    input: D,
) -> Result<Vec<PathBuf>, D::Error> {
    let texts = one_or_many(input)?;
    Ok(texts.into_iter().map(PathBuf::from).collect())
}

/// Largest number of shards that patterns may name.
pub(crate) const MOST_SHARDS: usize = 1 << 20;

/// The paths that a pattern stands for: `{000..123}` counts, with the width of its digits; `{a,b}` lists.
///
/// # Errors
///
/// A brace is not closed or holds neither form, or there are more than a million paths.
pub fn expand(pattern: &str) -> Result<Vec<String>, String> {
    let mut paths = vec![String::new()];
    let mut rest = pattern;
    while let Some(open) = rest.find(['{', '}']) {
        let (before, braced) = rest.split_at(open);
        let inner = braced
            .strip_prefix('{')
            .ok_or_else(|| format!("a `}}` without a `{{` in {pattern:?}"))?;
        let close = inner
            .find(['{', '}'])
            .filter(|close| inner[*close..].starts_with('}'))
            .ok_or_else(|| format!("a `{{` that is not closed in {pattern:?}"))?;
        let choices = choices(&inner[..close])?;
        if paths.len().saturating_mul(choices.len()) > MOST_SHARDS {
            return Err(format!(
                "{pattern:?} stands for more than {MOST_SHARDS} paths"
            ));
        }
        paths = paths
            .iter()
            .flat_map(|path| choices.iter().map(move |c| format!("{path}{before}{c}")))
            .collect();
        rest = &inner[close + 1..];
    }
    for path in &mut paths {
        path.push_str(rest);
    }
    Ok(paths)
}

/// The alternatives between two braces.
fn choices(inner: &str) -> Result<Vec<String>, String> {
    let Some((from, to)) = inner.split_once("..") else {
        return if inner.contains(',') {
            Ok(inner.split(',').map(str::to_owned).collect())
        } else {
            Err(format!(
                "{{{inner}}} is neither {{first..last}} nor {{a,b}}"
            ))
        };
    };
    /// Most digits of a number.
    const WIDEST: usize = 20;
    let number = |text: &str| {
        let digits =
            (1..=WIDEST).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
        digits.then(|| text.parse::<u64>().ok()).flatten()
    };
    let (Some(first), Some(last)) = (number(from), number(to)) else {
        return Err(format!("{{{inner}}} does not count from number to number"));
    };
    if first > last || last - first >= MOST_SHARDS as u64 {
        return Err(format!(
            "{{{inner}}} counts down, or over more than {MOST_SHARDS} numbers"
        ));
    }
    let padded = |text: &str| text.len() > 1 && text.starts_with('0');
    let width = if padded(from) || padded(to) {
        from.len().max(to.len())
    } else {
        0
    };
    Ok((first..=last)
        .map(|number| format!("{number:0width$}"))
        .collect())
}

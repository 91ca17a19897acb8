//! A published tokenizer with the files beside it: `tokenizer_config.json`, and `sentence_bert_config.json` of
//! sentence-transformers.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use crate::error::DataError;
use crate::formats::json::read_json;
use crate::text::tokens::{Rules, TextTokenizer};

/// File with the spelling rules and the longest text.
const CONFIG: &str = "tokenizer_config.json";
/// File with the longest text in sentence-transformers.
const SENTENCE_CONFIG: &str = "sentence_bert_config.json";
/// File with a complete tokenizer.
const TOKENIZER: &str = "tokenizer.json";
/// Largest length that counts as a limit: transformers writes 10^30 if there is none.
const LARGEST_LIMIT: f64 = 1e9;

/// A published tokenizer.
#[derive(Debug, Clone)]
pub struct Published {
    /// The tokenizer.
    pub tokenizer: TextTokenizer,
    /// Longest text in tokens, including begin and end tokens, if a file gives it.
    pub max_length: Option<usize>,
    /// One line each: defaults taken, files that contradict each other.
    pub notes: Vec<String>,
    /// The text of its own `tokenizer.json`, if it has one.
    pub json: Option<String>,
    /// Its `tokenizer_config.json`, if it has one.
    pub config: Option<Map<String, Value>>,
}

/// Loads a tokenizer's folder or file.
///
/// # Errors
///
/// There is no tokenizer, or it or a file beside it cannot be read.
pub fn load(path: &Path) -> Result<Published, DataError> {
    let folder = if path.is_dir() {
        path.to_owned()
    } else {
        path.parent().unwrap_or(Path::new("")).to_owned()
    };
    let own = path.file_name().is_some_and(|name| name == TOKENIZER);
    let file: Option<PathBuf> = if path.is_dir() {
        Some(folder.join(TOKENIZER)).filter(|file| file.is_file())
    } else {
        own.then(|| path.to_owned())
    };
    let config = object(&folder.join(CONFIG))?;
    let mut notes = Vec::new();
    let flag = |key: &str| -> Result<Option<bool>, DataError> {
        match config.as_ref().and_then(|config| config.get(key)) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(*flag)),
            Some(other) => Err(DataError::Tokenizer {
                from: folder.join(CONFIG).display().to_string(),
                reason: format!("{key} = {other}: must be true, false or null"),
            }),
        }
    };
    let defaults = Rules::default();
    let rules = Rules {
        lowercase: flag("do_lower_case")?.unwrap_or(defaults.lowercase),
        strip_accents: flag("strip_accents")?,
        split_chinese: flag("tokenize_chinese_chars")?.unwrap_or(defaults.split_chinese),
        prefix_space: flag("add_prefix_space")?.unwrap_or(defaults.prefix_space),
    };
    let tokenizer = TextTokenizer::load_by(path, &rules)?;
    let mut json = None;
    if let Some(file) = &file {
        let text =
            std::fs::read_to_string(file).map_err(|error| DataError::file("read", file, error))?;
        let says = Says::of(&text);
        for (key, config, tokenizer) in [
            ("do_lower_case", flag("do_lower_case")?, says.lowercase),
            (
                "add_prefix_space",
                flag("add_prefix_space")?,
                says.prefix_space,
            ),
        ] {
            if let (Some(config), Some(tokenizer)) = (config, tokenizer)
                && config != tokenizer
            {
                notes.push(format!(
                    "{CONFIG} says {key} = {config}, {TOKENIZER} does as if it were {tokenizer}: {TOKENIZER} is followed"
                ));
            }
        }
        json = Some(text);
    } else if tokenizer_needs_case(path, &folder) && flag("do_lower_case")?.is_none() {
        notes.push(format!(
            "no {TOKENIZER} and no do_lower_case in {CONFIG}: texts are lower-cased, as BERT's tokenizer does by default"
        ));
    }
    let sentence = object(&folder.join(SENTENCE_CONFIG))?;
    if let Some(sentence) = &sentence
        && sentence.get("do_lower_case") == Some(&Value::Bool(true))
        && !tokenizer.lowercases()
    {
        notes.push(format!(
            "{SENTENCE_CONFIG} says do_lower_case = true, and the tokenizer tells capital letters apart: not followed here"
        ));
    }
    let limit = |config: &Option<Map<String, Value>>, key: &str| {
        let number = config.as_ref()?.get(key)?.as_f64()?;
        (1.0..LARGEST_LIMIT)
            .contains(&number)
            .then_some(number as usize)
    };
    let max_length = [
        limit(&sentence, "max_seq_length"),
        limit(&config, "model_max_length"),
    ];
    Ok(Published {
        tokenizer,
        max_length: max_length.into_iter().flatten().min(),
        notes,
        json,
        config,
    })
}

/// Whether the vocabulary is a WordPiece vocabulary without its own rules.
fn tokenizer_needs_case(path: &Path, folder: &Path) -> bool {
    if path.is_dir() {
        folder.join("vocab.txt").is_file()
    } else {
        path.extension().is_some_and(|ending| ending == "txt")
    }
}

/// A JSON object without the keys whose value is null; `None` if there is no such file.
fn object(path: &Path) -> Result<Option<Map<String, Value>>, DataError> {
    if !path.is_file() {
        return Ok(None);
    }
    let bytes = std::fs::read(path).map_err(|error| DataError::file("read", path, error))?;
    let wrong = |reason: String| DataError::Tokenizer {
        from: path.display().to_string(),
        reason,
    };
    match read_json(&bytes) {
        Ok(Value::Object(mut object)) => {
            object.retain(|_, value| !value.is_null());
            Ok(Some(object))
        }
        Ok(_) => Err(wrong("is no JSON object".to_owned())),
        Err(error) => Err(wrong(format!("is no JSON: {error}"))),
    }
}

/// How a `tokenizer.json` treats texts.
#[derive(Debug, Default)]
struct Says {
    lowercase: Option<bool>,
    prefix_space: Option<bool>,
}

impl Says {
    fn of(text: &str) -> Self {
        let json: Value = serde_json::from_str(text).unwrap_or_default();
        let steps = |part: &str, list: &str| -> Vec<Value> {
            match &json[part][list] {
                Value::Array(steps) => steps.clone(),
                _ => vec![json[part].clone()],
            }
        };
        let normalizers = steps("normalizer", "normalizers");
        let bert = normalizers.iter().find(|n| n["type"] == "BertNormalizer");
        let lower = normalizers.iter().any(|n| n["type"] == "Lowercase");
        let spaces = steps("pre_tokenizer", "pretokenizers");
        Self {
            lowercase: match bert {
                Some(bert) => bert["lowercase"].as_bool(),
                None => lower.then_some(true),
            },
            prefix_space: spaces
                .iter()
                .find(|step| step["type"] == "ByteLevel")
                .and_then(|step| step["add_prefix_space"].as_bool()),
        }
    }
}

/// A `tokenizer_config.json` with which transformers tokenizes as this crate does: the rules of its `tokenizer.json`, a longest
/// text, and the special tokens.
pub fn to_config(tokenizer: &TextTokenizer, max_length: usize) -> Result<Value, DataError> {
    let says = Says::of(&tokenizer.to_json()?);
    let specials = tokenizer.specials();
    let token = |id: i32| tokenizer.token(id);
    let mut config = json!({
        // This class uses tokenizer.json as it is; others add their own rules.
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": max_length,
        "bos_token": token(specials.bos),
        "eos_token": token(specials.eos),
        "cls_token": token(specials.bos),
        "sep_token": token(specials.eos),
        "pad_token": token(specials.pad),
        "clean_up_tokenization_spaces": false,
    });
    for (key, id) in [("mask_token", specials.mask), ("unk_token", specials.unk)] {
        if let Some(token) = id.and_then(token) {
            config[key] = token.into();
        }
    }
    if let Some(prefix_space) = says.prefix_space {
        config["add_prefix_space"] = prefix_space.into();
    }
    if let Some(lowercase) = says.lowercase {
        config["do_lower_case"] = lowercase.into();
    }
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    const WORDS: &str = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nThe\nthe\ncafe\ncafé\n";

    fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        folder
    }

    #[test]
    fn a_vocabulary_is_spelt_as_its_config_says() {
        let ids = |config: Option<&str>| {
            let mut files = vec![("vocab.txt", WORDS)];
            files.extend(config.map(|config| (CONFIG, config)));
            let published = load(folder(&files).path()).unwrap();
            let ids = published.tokenizer.encode("The café", 9).ids;
            (ids[1..ids.len() - 1].to_vec(), published.notes)
        };
        let (plain, notes) = ids(None);
        assert_eq!(plain, [6, 7]);
        assert!(notes[0].contains("lower-cased"), "{notes:?}");
        for (config, expected) in [
            (r#"{"do_lower_case": true}"#, [6, 7]),
            (r#"{"do_lower_case": false}"#, [5, 8]),
            (r#"{"do_lower_case": true, "strip_accents": false}"#, [6, 8]),
            (r#"{"do_lower_case": false, "strip_accents": null}"#, [5, 8]),
        ] {
            let (found, notes) = ids(Some(config));
            assert_eq!(found, expected, "{config}");
            assert!(notes.is_empty(), "{notes:?}");
        }
        let bad = folder(&[("vocab.txt", WORDS), (CONFIG, r#"{"do_lower_case": "no"}"#)]);
        let reason = load(bad.path()).unwrap_err().to_string();
        assert!(reason.contains("do_lower_case"), "{reason}");
    }

    #[test]
    fn a_limit_is_the_smallest_that_a_file_says() {
        let limit = |files: &[(&str, &str)]| {
            let all = [&[("vocab.txt", WORDS)], files].concat();
            load(folder(&all).path()).unwrap().max_length
        };
        let none = r#"{"model_max_length": 1000000000000000019884624838656}"#;
        assert_eq!(limit(&[]), None);
        assert_eq!(limit(&[(CONFIG, none)]), None);
        let config = r#"{"model_max_length": 512}"#;
        assert_eq!(limit(&[(CONFIG, config)]), Some(512));
        let sentence = r#"{"max_seq_length": 256, "do_lower_case": false}"#;
        let both = [(CONFIG, config), (SENTENCE_CONFIG, sentence)];
        assert_eq!(limit(&both), Some(256));
    }

    #[test]
    fn what_is_written_is_what_is_read() {
        let texts = ["a small red circle", "a large green square"].map(str::to_owned);
        let trained = TextTokenizer::train(texts.into_iter(), 270).unwrap();
        let json = trained.to_json().unwrap();
        let config = to_config(&trained, 17).unwrap();
        assert_eq!(config["add_prefix_space"], true);
        assert_eq!(config["mask_token"], "<mask>");
        let written = folder(&[(TOKENIZER, &json), (CONFIG, &config.to_string())]);
        let again = load(written.path()).unwrap();
        assert_eq!(again.max_length, Some(17));
        assert!(again.notes.is_empty(), "{:?}", again.notes);
        let text = "a small red square";
        assert_eq!(again.tokenizer.encode(text, 9), trained.encode(text, 9));
        // A config that disagrees is noted.
        let other = config
            .to_string()
            .replace("\"add_prefix_space\":true", "\"add_prefix_space\":false");
        let written = folder(&[(TOKENIZER, &json), (CONFIG, &other)]);
        let notes = load(written.path()).unwrap().notes;
        assert!(notes[0].contains("add_prefix_space = false"), "{notes:?}");
    }
}

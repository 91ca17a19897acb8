//! Tokens equal Hugging Face's: of what `unimo export` writes, and on every caption of real data, where the user has it (UNIMO_SHARED).
//!
//! `reference/exported.py` and `reference/tokens.py` gave what is expected, with transformers 5.23 and tokenizers 0.23.

use serde_json::Value;
use unimo_data::sources::pairs::read_rows;
use unimo_data::{TextTokenizer, published};
use unimo_tests::fixture;

/// Longer than every caption.
const LONGEST: usize = 1 << 16;

/// FNV-1a over little-endian ids, each text followed by -1.
fn digest(texts: &[String], tokenizer: &TextTokenizer) -> (usize, u64) {
    let mut hash = 0xcbf2_9ce4_8422_2325u64;
    let mut count = 0;
    for text in texts {
        let ids = tokenizer.encode(text, LONGEST).ids;
        count += ids.len();
        for byte in ids.iter().chain(&[-1]).flat_map(|id| id.to_le_bytes()) {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
    (count, hash)
}

#[test]
fn every_caption_has_hugging_faces_tokens() {
    let Some(shared) = fixture::shared("every_caption_has_hugging_faces_tokens") else {
        return;
    };
    let mut texts = Vec::new();
    for (_, row) in read_rows(&shared.join("data/openstax_ccby/pairs.jsonl")).unwrap() {
        let row = row.unwrap();
        for column in ["alt", "caption"] {
            let text = row.get(column).and_then(|v| v.as_str()).unwrap_or_default();
            let words: Vec<_> = text.split_whitespace().collect();
            if !words.is_empty() {
                texts.push(words.join(" "));
            }
        }
    }
    assert_eq!(texts.len(), 8105);
    let folder = shared.join("tokenizers");
    for (path, lowercase, count, expected) in [
        ("roberta", false, 777_629, 0xc5d3_6dae_31b5_53d0),
        ("roberta/vocab.json", false, 777_629, 0xc5d3_6dae_31b5_53d0),
        ("clip", true, 752_520, 0x27d3_526b_20eb_32ec),
        ("bert", true, 739_334, 0xc065_35a9_0727_52ef),
    ] {
        let tokenizer = TextTokenizer::load(&folder.join(path), lowercase).unwrap();
        assert_eq!(digest(&texts, &tokenizer), (count, expected), "{path}");
    }
}

/// A run's own tokenizer, RoBERTa's with its `add_prefix_space` and BERT's cased vocabulary, as `unimo export` wrote them. AutoTokenizer
/// reads the files and cuts at the length that they say.
#[test]
fn tokens_of_an_export_are_those_of_auto_tokenizer() {
    for (name, ours) in [("trained", true), ("roberta", false), ("bert", true)] {
        let folder = fixture::folder().join("exported").join(name);
        let read = |file: &str| -> Value {
            serde_json::from_slice(&std::fs::read(folder.join(file)).unwrap()).unwrap()
        };
        let config = read("tokenizer_config.json");
        let longest = config["model_max_length"].as_u64().unwrap() as usize;
        let tokenizer = TextTokenizer::load(&folder, false).unwrap();
        // What is written today is what AutoTokenizer was given; RoBERTa's came with the checkpoint and was copied.
        if ours {
            assert_eq!(published::to_config(&tokenizer, longest).unwrap(), config);
        }
        let rows = read("tokens.json");
        let rows = rows.as_array().unwrap();
        let cut = |row: &&Value| row["ids"].as_array().unwrap().len() == longest;
        assert!(
            rows.iter().filter(cut).count() > 0,
            "{name}: nothing is cut"
        );
        for row in rows {
            let text = row["text"].as_str().unwrap();
            let ids = Value::from(tokenizer.encode(text, longest).ids);
            assert_eq!(ids, row["ids"], "{name}: {text}");
        }
    }
}

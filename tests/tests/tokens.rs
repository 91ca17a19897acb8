//! Tokens equal Hugging Face's on every caption of real data, where the user has it (UNIMO_SHARED).
//!
//! `reference/tokens.py` printed the digests below with transformers 5.23 and tokenizers 0.23.

use unimo_data::TextTokenizer;
use unimo_data::sources::pairs::read_rows;
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

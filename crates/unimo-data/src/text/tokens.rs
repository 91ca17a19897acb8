//! Texts to token ids and back.

use std::collections::HashSet;
use std::io::Read;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tokenizers::models::bpe::{BPE, BpeBuilder, BpeTrainer, Vocab};
use tokenizers::models::wordpiece::WordPiece;
use tokenizers::normalizers::replace::{Replace, ReplacePattern};
use tokenizers::normalizers::{self, BertNormalizer, NFC};
use tokenizers::pre_tokenizers::bert::BertPreTokenizer;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::split::{Split as SplitText, SplitPattern};
use tokenizers::processors::bert::BertProcessing;
use tokenizers::processors::roberta::RobertaProcessing;
use tokenizers::{
    AddedToken, ModelWrapper, ProgressFormat, SplitDelimiterBehavior, Tokenizer, TokenizerBuilder,
    pre_tokenizers,
};
use unimo_batch::{JoinForm, Texts};

use crate::error::{DataError, panic_text};
use crate::store::atomic;
use crate::text::sentences::{PairForm, Seam, longest_first};

/// What the texts of a batch are padded to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pad {
    /// The longest text of the batch.
    #[default]
    Longest,
    /// `max_text_length`, for back ends that compile a kernel per shape.
    Max,
}

/// `[data.tokenizer]`: how texts become token ids.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum TokenizerConfig {
    /// A published tokenizer.
    File {
        /// A `tokenizer.json`, a `vocab.txt` (BERT WordPiece), a `vocab.json` beside a `merges.txt` (RoBERTa byte-level BPE), or a
        /// folder that holds one of them.
        path: PathBuf,
        /// Whether a `vocab.txt` belongs to an uncased model; other files contain this information.
        #[serde(default = "lowercase")]
        lowercase: bool,
    },
    /// Byte-level BPE trained on the training captions.
    Train {
        /// Number of tokens in the vocabulary, including special tokens and the 256 bytes.
        vocab_size: usize,
    },
}

fn lowercase() -> bool {
    true
}

impl Default for TokenizerConfig {
    fn default() -> Self {
        Self::Train { vocab_size: 2048 }
    }
}

/// Smallest vocabulary to train: 256 bytes and 5 special tokens.
pub(crate) const SMALLEST_VOCABULARY: usize = 261;

/// Turns texts into token ids. Shared between threads.
#[derive(Debug, Clone)]
pub struct TextTokenizer {
    inner: Tokenizer,
    special: Specials,
    is_special: Vec<bool>,
    pair: PairForm,
}

/// How texts are normalised before the look-up, if a vocabulary has no `tokenizer.json` that says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// For WordPiece: capital letters become lower case.
    pub lowercase: bool,
    /// For WordPiece: accents are removed; `None`: if letters are lower-cased.
    pub strip_accents: Option<bool>,
    /// For WordPiece: Chinese characters are words of their own.
    pub split_chinese: bool,
    /// For byte-level BPE: a space is put before the first word.
    pub prefix_space: bool,
}

impl Default for Rules {
    /// The rules of transformers' BERT and RoBERTa.
    fn default() -> Self {
        Self {
            lowercase: true,
            strip_accents: None,
            split_chinese: true,
            prefix_space: false,
        }
    }
}

/// The ids of the special tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Specials {
    /// Begins a text: `<s>`, `[CLS]`, `<|startoftext|>`.
    pub bos: i32,
    /// Ends a text: `</s>`, `[SEP]`, `<|endoftext|>`.
    pub eos: i32,
    /// Pads the shorter texts of a batch.
    pub pad: i32,
    /// Stands for a hidden token; CLIP's vocabulary has none.
    pub mask: Option<i32>,
    /// Stands for text that the vocabulary lacks; byte-level vocabularies may have none.
    pub unk: Option<i32>,
}

/// The tokens of one text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Encoded {
    /// Token ids, including begin and end tokens.
    pub ids: Vec<i32>,
    /// For each token, the word that it is a piece of; `None` for begin and end tokens and for concepts.
    pub word_ids: Vec<Option<u32>>,
    /// Number of [concepts](crate::concepts) among them, right before the end token.
    pub concepts: usize,
    /// Number of leading tokens of type 0; those behind them belong to a second sentence and are of type 1.
    pub first: usize,
}

impl Encoded {
    /// The same with its first `words` tokens between begin and end alone.
    fn cut(mut self, words: usize) -> Self {
        let places = 1 + words..self.ids.len() - 1;
        self.ids.drain(places.clone());
        self.word_ids.drain(places);
        self.first = self.ids.len();
        self
    }

    /// This text and one behind it as one.
    pub(crate) fn joined(&self, second: &Self, seam: &Seam) -> Self {
        let ids = seam.ids(&self.ids, &second.ids);
        Self {
            word_ids: seam.words(&self.word_ids, &second.word_ids),
            first: seam.first(ids.len()),
            ids,
            concepts: 0,
        }
    }

    /// The same without its concepts.
    #[must_use]
    pub(crate) fn without_concepts(mut self) -> Self {
        let end = self.ids.len().saturating_sub(1);
        let concepts = end - self.concepts..end;
        self.ids.drain(concepts.clone());
        self.word_ids.drain(concepts);
        self.first = self.ids.len();
        self.concepts = 0;
        self
    }
}

/// Special tokens of a vocabulary trained here: RoBERTa's ids, then the mask token.
const TRAINED_SPECIALS: [&str; 5] = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"];

/// Begin and end tokens of CLIP.
const CLIP_BOS: &str = "<|startoftext|>";
const CLIP_EOS: &str = "<|endoftext|>";

/// Names that published vocabularies use; the first match counts.
const BOS: [&str; 3] = ["<s>", "[CLS]", CLIP_BOS];
const EOS: [&str; 3] = ["</s>", "[SEP]", CLIP_EOS];
const PAD: [&str; 3] = ["<pad>", "[PAD]", "<|pad|>"];
const MASK: [&str; 3] = ["<mask>", "[MASK]", "<|mask|>"];
const UNK: [&str; 3] = ["<unk>", "[UNK]", "<|unk|>"];

impl TextTokenizer {
    /// Loads a `tokenizer.json`, a `vocab.txt` (BERT WordPiece, lower-cased if `lowercase`), a `vocab.json` beside a `merges.txt`
    /// (RoBERTa byte-level BPE or CLIP BPE), or the first of them that a folder holds, in this order.
    ///
    /// # Errors
    ///
    /// The file is absent or malformed, or lacks a begin, end, padding or mask token.
    pub fn load(path: &Path, lowercase: bool) -> Result<Self, DataError> {
        let rules = Rules {
            lowercase,
            ..Rules::default()
        };
        Self::load_by(path, &rules)
    }

    /// As [`load`](Self::load), with all rules for a vocabulary without a `tokenizer.json`.
    ///
    /// # Errors
    ///
    /// As [`load`](Self::load).
    pub fn load_by(path: &Path, rules: &Rules) -> Result<Self, DataError> {
        let bad = |reason: String| DataError::Tokenizer {
            from: path.display().to_string(),
            reason,
        };
        let file: PathBuf = if path.is_dir() {
            [
                "tokenizer.json",
                "vocab.txt",
                "vocab.json",
                "bpe_simple_vocab_16e6.txt.gz",
            ]
            .iter()
            .map(|name| path.join(name))
            .find(|file| file.is_file())
            .ok_or_else(|| {
                bad("the folder holds no tokenizer.json, vocab.txt or vocab.json".to_owned())
            })?
        } else {
            path.to_owned()
        };
        if !file.is_file() {
            return Err(bad("no such file".to_owned()));
        }
        let name = file
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let inner = if name.ends_with(".txt.gz") {
            load_openai(&file)
        } else if name == "vocab.json" {
            load_byte_level(&file, rules.prefix_space)
        } else if name.ends_with(".txt") {
            load_wordpiece(&file, rules)
        } else if name.ends_with(".json") {
            // The parser panics on some damaged files.
            let read = AssertUnwindSafe(|| Tokenizer::from_file(&file));
            match catch_unwind(read) {
                Ok(read) => read.map_err(|error| error.to_string()),
                Err(payload) => Err(panic_text(&*payload)),
            }
        } else {
            Err("allowed: tokenizer.json, vocab.txt, vocab.json, OpenAI's bpe_simple_vocab_16e6.txt.gz or a folder".to_owned())
        };
        Self::new(inner.map_err(bad)?, &path.display().to_string())
    }

    /// A tokenizer from the text of a `tokenizer.json`; `from` names it in messages.
    ///
    /// # Errors
    ///
    /// It is damaged, or lacks a token that a model needs.
    pub fn parse(json: &[u8], from: &str) -> Result<Self, DataError> {
        // The parser panics on some damaged files.
        let read = AssertUnwindSafe(|| Tokenizer::from_bytes(json));
        let read = match catch_unwind(read) {
            Ok(read) => read.map_err(|error| error.to_string()),
            Err(payload) => Err(panic_text(&*payload)),
        };
        let inner = read.map_err(|reason| DataError::Tokenizer {
            from: from.to_owned(),
            reason,
        })?;
        Self::new(inner, from)
    }

    /// Trains byte-level BPE (Radford et al. 2019). The same texts always give the same vocabulary.
    ///
    /// # Errors
    ///
    /// There are no texts, or `vocab_size` is below 261.
    pub fn train(
        mut texts: impl Iterator<Item = String> + Send,
        vocab_size: usize,
    ) -> Result<Self, DataError> {
        Self::train_on(&mut texts, vocab_size)
    }

    /// As [`train`](Self::train). It is no generic code, so that it is compiled here, where it is optimised, and not in the caller's crate.
    fn train_on(
        texts: &mut (dyn Iterator<Item = String> + Send),
        vocab_size: usize,
    ) -> Result<Self, DataError> {
        let from = "trained on the captions";
        let bad = |reason: String| DataError::Tokenizer {
            from: from.to_owned(),
            reason,
        };
        if vocab_size < SMALLEST_VOCABULARY {
            return Err(DataError::config(
                "data.tokenizer.vocab_size",
                vocab_size,
                format!("at least {}", SMALLEST_VOCABULARY),
            ));
        }
        // A space is put before the first word, so that a word has the same tokens at the start and later.
        let pre = ByteLevel::new(true, true, true);
        let mut trainer = BpeTrainer::builder()
            .vocab_size(vocab_size)
            .show_progress(false)
            .progress_format(ProgressFormat::Silent)
            .initial_alphabet(ByteLevel::alphabet().into_iter().collect::<HashSet<char>>())
            .special_tokens(TRAINED_SPECIALS.map(special_token).to_vec())
            .build();
        let mut tokenizer =
            TokenizerBuilder::<BPE, BertNormalizer, ByteLevel, RobertaProcessing, ByteLevel>::new()
                .with_model(BPE::default())
                .with_pre_tokenizer(Some(pre))
                .with_decoder(Some(pre))
                .build()
                .map_err(|error| bad(error.to_string()))?;
        let mut some = false;
        tokenizer
            .train(&mut trainer, texts.inspect(|_| some = true))
            .map_err(|error| bad(error.to_string()))?;
        if !some {
            return Err(bad("there are no training captions".to_owned()));
        }
        let mut inner = Tokenizer::new(ModelWrapper::BPE(tokenizer.get_model().clone()));
        inner.with_pre_tokenizer(Some(pre)).with_decoder(Some(pre));
        finish_roberta(&mut inner, TRAINED_SPECIALS, true).map_err(bad)?;
        Self::new(inner, from)
    }

    fn new(mut inner: Tokenizer, from: &str) -> Result<Self, DataError> {
        // This crate handles lengths and special tokens itself: texts must never contain begin or mask tokens of their own,
        // whatever they spell.
        let plain = |error: tokenizers::Error| DataError::Tokenizer {
            from: from.to_owned(),
            reason: error.to_string(),
        };
        inner.with_truncation(None).map_err(plain)?;
        inner.with_padding(None);
        inner.set_encode_special_tokens(true);
        let find = |names: &[&str]| {
            names
                .iter()
                .find_map(|name| inner.token_to_id(name))
                .map(|id| id as i32)
        };
        let is_clip = inner.token_to_id(CLIP_BOS).is_some();
        let mut missing = Vec::new();
        let mut need = |what: &str, names: &[&str]| {
            find(names).unwrap_or_else(|| {
                missing.push(format!("{what} token ({})", names.join(" or ")));
                -1
            })
        };
        let special = Specials {
            bos: need("begin", &BOS),
            eos: need("end", &EOS),
            // CLIP pads with its end token and hides no words.
            pad: if is_clip {
                find(&PAD).or(find(&EOS)).unwrap_or_default()
            } else {
                need("padding", &PAD)
            },
            mask: if is_clip {
                find(&MASK)
            } else {
                Some(need("mask", &MASK))
            },
            unk: find(&UNK),
        };
        if !missing.is_empty() {
            return Err(DataError::Tokenizer {
                from: from.to_owned(),
                reason: format!("the vocabulary has no {}", missing.join(", no ")),
            });
        }
        let size = inner
            .get_vocab(true)
            .values()
            .max()
            .map_or(0, |id| *id as usize + 1);
        let mut is_special = vec![false; size];
        let added = inner.get_added_tokens_decoder();
        let added = added
            .iter()
            .filter(|(_, token)| token.special)
            .map(|(id, _)| *id as usize);
        let named = [special.bos, special.eos, special.pad];
        let optional = special.mask.into_iter().chain(special.unk);
        let named = named.into_iter().chain(optional).map(|id| id as usize);
        for id in added.chain(named) {
            if let Some(flag) = is_special.get_mut(id) {
                *flag = true;
            }
        }
        Ok(Self {
            pair: PairForm::of(&inner, (special.bos, special.eos)),
            inner,
            special,
            is_special,
        })
    }

    /// Writes a `tokenizer.json` that [`load`](Self::load) and Hugging Face tokenizers read.
    ///
    /// # Errors
    ///
    /// The file cannot be written.
    pub fn save(&self, path: &Path) -> Result<(), DataError> {
        atomic::write(path, self.to_json()?.as_bytes())
            .map_err(|error| DataError::file("write", path, error))
    }

    /// The text of a `tokenizer.json`.
    ///
    /// # Errors
    ///
    /// The tokenizer has a part that cannot be written as JSON.
    pub fn to_json(&self) -> Result<String, DataError> {
        self.inner
            .to_string(true)
            .map_err(|error| DataError::Tokenizer {
                from: "in memory".to_owned(),
                reason: error.to_string(),
            })
    }

    /// The tokens of a text between begin and end tokens, cut to at most `max_length` tokens with both.
    pub fn encode(&self, text: &str, max_length: usize) -> Encoded {
        let room = max_length.saturating_sub(2);
        let mut ids = vec![self.special.bos];
        let mut word_ids = vec![None];
        // Encoding fails only if a vocabulary has no unknown token; such a text has no tokens.
        if let Ok(encoding) = self.inner.encode(text, false) {
            ids.extend(encoding.get_ids().iter().take(room).map(|id| *id as i32));
            word_ids.extend(encoding.get_word_ids().iter().take(room));
        }
        ids.push(self.special.eos);
        word_ids.push(None);
        Encoded {
            first: ids.len(),
            ids,
            word_ids,
            concepts: 0,
        }
    }

    /// For each token of [`encode`](Self::encode), the word between spaces that it is a piece of, counted from 0; `None` for begin and end.
    pub fn spaced_words(&self, text: &str, max_length: usize) -> Vec<Option<u32>> {
        let room = max_length.saturating_sub(2);
        let mut words = vec![None];
        if let Ok(encoding) = self.inner.encode(text, false) {
            // A token may begin with the space before its word, but ends within it. A space alone belongs to the word behind it.
            let word = |(begin, end): &(usize, usize)| {
                let before = text.get(..*end)?.split_whitespace().count() as u32;
                if begin < end {
                    before.checked_sub(1)
                } else {
                    Some(before)
                }
            };
            words.extend(encoding.get_offsets().iter().take(room).map(word));
        }
        words.push(None);
        words
    }

    /// The tokens of two sentences as one text: `[CLS] A [SEP] B [SEP]` or `<s> A </s></s> B </s>`, as the vocabulary's own rules say.
    /// It is cut to at most `max_length` tokens, from the end of the longer sentence, then from both (`longest_first` of Hugging Face).
    pub fn encode_pair(&self, first: &str, second: &str, max_length: usize) -> Encoded {
        let [a, b] = [first, second].map(|text| self.encode(text, usize::MAX));
        let room = max_length.saturating_sub(2 + self.pair.between.len());
        let (kept, rest) = longest_first((a.ids.len() - 2, b.ids.len() - 2), room);
        self.join(&a.cut(kept), &b.cut(rest), JoinForm::Vocabulary)
    }

    /// Two texts, each as [`encode`](Self::encode) gives it, as one.
    pub fn join(&self, first: &Encoded, second: &Encoded, form: JoinForm) -> Encoded {
        first.joined(second, &self.seam(form, first))
    }

    /// What becomes of a text and one behind it in one that joins them.
    pub(crate) fn seam(&self, form: JoinForm, first: &Encoded) -> Seam {
        Seam::new(form, &self.pair, first.ids.len())
    }

    /// Whether it treats capital and small letters alike.
    pub fn lowercases(&self) -> bool {
        let ids = |text: &str| self.encode(text, 8).ids;
        ids("A") == ids("a")
    }

    /// Whether [`encode`](Self::encode) cuts off the end of a text.
    pub fn is_cut(&self, text: &str, max_length: usize) -> bool {
        let room = max_length.saturating_sub(2);
        // A token takes at least one byte, except for a space put before. So most texts need no second look.
        text.len() + 1 > room
            && self
                .inner
                .encode(text, false)
                .is_ok_and(|encoding| encoding.len() > room)
    }

    /// As [`encode`](Self::encode), but a mask token spelt in the text (`<mask>`, `[MASK]`) counts as one.
    pub fn encode_with_masks(&self, text: &str, max_length: usize) -> Encoded {
        let mut open = self.clone();
        open.inner.set_encode_special_tokens(false);
        open.encode(text, max_length)
    }

    /// The text of token ids, without special tokens.
    pub fn decode(&self, ids: &[i32]) -> String {
        let ids: Vec<u32> = ids
            .iter()
            .filter(|id| !self.is_special(**id))
            .filter_map(|id| u32::try_from(*id).ok())
            .collect();
        let text = self.inner.decode(&ids, true).unwrap_or_default();
        text.trim().to_owned()
    }

    /// The spelling of one token in the vocabulary.
    pub fn token(&self, id: i32) -> Option<String> {
        self.inner.id_to_token(u32::try_from(id).ok()?)
    }

    /// Rows that an embedding table needs: the largest id plus one.
    pub fn vocab_size(&self) -> usize {
        self.is_special.len()
    }

    /// The ids of the special tokens.
    pub fn specials(&self) -> Specials {
        self.special
    }

    /// Whether an id is a special token: one of [`Specials`] or another that the file declares.
    pub fn is_special(&self, id: i32) -> bool {
        usize::try_from(id)
            .ok()
            .and_then(|id| self.is_special.get(id).copied())
            .unwrap_or(false)
    }

    /// Many encoded texts as one block.
    ///
    /// # Shapes
    ///
    /// `B` texts to ids `[B, L]`, `L` the longest text or `max_length`, by `pad`.
    pub fn pad(&self, texts: &[Encoded], max_length: usize, pad: Pad) -> Texts {
        let lengths: Vec<usize> = texts.iter().map(|text| text.ids.len()).collect();
        let length = match pad {
            Pad::Longest => lengths.iter().copied().max().unwrap_or(0),
            Pad::Max => max_length.max(2),
        };
        let mut ids = Vec::with_capacity(texts.len() * length);
        for text in texts {
            ids.extend(&text.ids);
            ids.resize(ids.len() + length - text.ids.len(), self.special.pad);
        }
        let marked = texts.iter().any(|text| text.first < text.ids.len());
        let segments = |text: &Encoded| {
            let second = text.first..text.ids.len();
            (0..length).map(move |at| i32::from(second.contains(&at)))
        };
        Texts {
            segments: marked.then(|| texts.iter().flat_map(segments).collect()),
            ids,
            length,
            lengths,
            ..Texts::default()
        }
    }
}

fn special_token(name: &str) -> AddedToken {
    AddedToken::from(name, true).normalized(false)
}

fn finish_roberta(
    inner: &mut Tokenizer,
    specials: [&str; 5],
    add_prefix_space: bool,
) -> Result<(), String> {
    inner
        .add_special_tokens(specials.map(special_token))
        .map_err(|error| error.to_string())?;
    let [bos, _, eos, ..] = specials;
    if let (Some(bos_id), Some(eos_id)) = (inner.token_to_id(bos), inner.token_to_id(eos)) {
        inner.with_post_processor(Some(
            RobertaProcessing::new((eos.to_owned(), eos_id), (bos.to_owned(), bos_id))
                .trim_offsets(true)
                .add_prefix_space(add_prefix_space),
        ));
    }
    Ok(())
}

fn load_byte_level(vocab: &Path, prefix_space: bool) -> Result<Tokenizer, String> {
    let merges = vocab.with_file_name("merges.txt");
    if !merges.is_file() {
        return Err(format!("{} is missing beside it", merges.display()));
    }
    let model = BPE::from_file(&vocab.to_string_lossy(), &merges.to_string_lossy())
        .build()
        .map_err(|error| error.to_string())?;
    let mut inner = Tokenizer::new(ModelWrapper::BPE(model));
    if inner.token_to_id(CLIP_BOS).is_some() {
        let paths = (vocab.to_string_lossy(), merges.to_string_lossy());
        return load_clip(BPE::from_file(&paths.0, &paths.1));
    }
    let pre = ByteLevel::new(prefix_space, true, true);
    inner.with_pre_tokenizer(Some(pre)).with_decoder(Some(pre));
    // Adding missing tokens would give them ids that no checkpoint has rows for.
    let known = TRAINED_SPECIALS.map(|name| inner.token_to_id(name).is_some());
    if known == [true; 5] {
        finish_roberta(&mut inner, TRAINED_SPECIALS, prefix_space)?;
    }
    Ok(inner)
}

/// Number of merges that CLIP uses from OpenAI's list, which has more.
const CLIP_MERGES: usize = 49_152 - 256 - 2;
/// Largest unpacked size of the list, in bytes; OpenAI's has 3 MB.
const LARGEST_LIST: u64 = 64 << 20;

/// `bpe_simple_vocab_16e6.txt.gz`, the list of merges published with OpenAI's CLIP and OpenCLIP. The vocabulary is built from it:
/// bytes, bytes that end a word, merges, begin token and end token.
fn load_openai(path: &Path) -> Result<Tokenizer, String> {
    let text = |error: std::io::Error| error.to_string();
    let file = std::fs::File::open(path).map_err(text)?;
    let mut list = String::new();
    flate2::read::GzDecoder::new(file)
        .take(LARGEST_LIST)
        .read_to_string(&mut list)
        .map_err(text)?;
    let merges: Vec<(String, String)> = list
        .lines()
        .skip(1)
        .take(CLIP_MERGES)
        .filter_map(|line| line.split_once(' '))
        .map(|(a, b)| (a.to_owned(), b.to_owned()))
        .collect();
    if merges.len() != CLIP_MERGES {
        return Err(format!(
            "it lists {} merges, CLIP needs {CLIP_MERGES}",
            merges.len()
        ));
    }
    // Printable bytes first, in order, then the others, as GPT-2 numbers them.
    let mut bytes: Vec<char> = ByteLevel::alphabet().into_iter().collect();
    bytes.sort_unstable();
    let single = bytes.iter().map(char::to_string);
    let last = bytes.iter().map(|byte| format!("{byte}</w>"));
    let merged = merges.iter().map(|(a, b)| format!("{a}{b}"));
    let ends = [CLIP_BOS, CLIP_EOS].map(str::to_owned);
    let vocabulary = single.chain(last).chain(merged).chain(ends);
    let vocabulary: Vocab = vocabulary.zip(0..).collect();
    load_clip(BPE::builder().vocab_and_merges(vocabulary, merges))
}

/// CLIP's BPE (Radford et al. 2021), as Hugging Face builds it: lower-cased, and words end in `</w>`.
fn load_clip(model: BpeBuilder) -> Result<Tokenizer, String> {
    const WORDS: &str = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+";
    let text = |error: tokenizers::Error| error.to_string();
    let model = model
        .unk_token(CLIP_EOS.to_owned())
        .end_of_word_suffix("</w>".to_owned())
        .build()
        .map_err(text)?;
    let mut inner = Tokenizer::new(ModelWrapper::BPE(model));
    let spaces = Replace::new(ReplacePattern::Regex(r"\s+".to_owned()), " ").map_err(text)?;
    let normalizer = normalizers::Sequence::new(vec![
        NFC.into(),
        spaces.into(),
        normalizers::Lowercase.into(),
    ]);
    inner.with_normalizer(Some(normalizer)).map_err(text)?;
    let pattern = SplitPattern::Regex(WORDS.to_owned());
    let split = SplitText::new(pattern, SplitDelimiterBehavior::Removed, true).map_err(text)?;
    let bytes = ByteLevel::new(false, true, true);
    inner
        .with_pre_tokenizer(Some(pre_tokenizers::sequence::Sequence::new(vec![
            split.into(),
            bytes.into(),
        ])))
        .with_decoder(Some(bytes));
    let specials = [CLIP_BOS, CLIP_EOS].map(special_token);
    inner.add_special_tokens(specials).map_err(text)?;
    if let (Some(bos), Some(eos)) = (inner.token_to_id(CLIP_BOS), inner.token_to_id(CLIP_EOS)) {
        let ends = RobertaProcessing::new((CLIP_EOS.to_owned(), eos), (CLIP_BOS.to_owned(), bos));
        inner.with_post_processor(Some(ends.trim_offsets(false).add_prefix_space(false)));
    }
    Ok(inner)
}

fn load_wordpiece(vocab: &Path, rules: &Rules) -> Result<Tokenizer, String> {
    let model = WordPiece::from_file(&vocab.to_string_lossy())
        .build()
        .map_err(|error| error.to_string())?;
    let mut inner = Tokenizer::new(ModelWrapper::WordPiece(model));
    inner
        .with_normalizer(Some(BertNormalizer::new(
            true,
            rules.split_chinese,
            rules.strip_accents,
            rules.lowercase,
        )))
        .map_err(|error| error.to_string())?;
    inner
        .with_pre_tokenizer(Some(BertPreTokenizer))
        .with_decoder(Some(tokenizers::decoders::wordpiece::WordPiece::default()));
    let specials: Vec<_> = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
        .into_iter()
        .filter(|name| inner.token_to_id(name).is_some())
        .map(special_token)
        .collect();
    inner
        .add_special_tokens(specials)
        .map_err(|error| error.to_string())?;
    if let (Some(cls), Some(sep)) = (inner.token_to_id("[CLS]"), inner.token_to_id("[SEP]")) {
        inner.with_post_processor(Some(BertProcessing::new(
            ("[SEP]".to_owned(), sep),
            ("[CLS]".to_owned(), cls),
        )));
    }
    Ok(inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn corpus() -> Vec<String> {
        (0..200)
            .map(|i| {
                format!(
                    "a {} {} to the left of {} stars, naïve façade №{i}",
                    ["small", "large"][i % 2],
                    ["circle", "square", "triangle"][i % 3],
                    i % 7
                )
            })
            .collect()
    }

    fn trained() -> TextTokenizer {
        TextTokenizer::train(corpus().into_iter(), 400).unwrap()
    }

    #[test]
    fn training_is_deterministic_and_survives_saving() {
        let folder = tempfile::tempdir().unwrap();
        let mut texts = Vec::new();
        for name in ["a.json", "b.json"] {
            let path = folder.path().join(name);
            trained().save(&path).unwrap();
            texts.push(std::fs::read_to_string(&path).unwrap());
        }
        assert_eq!(texts[0], texts[1]);
        let (before, after) = (
            trained(),
            TextTokenizer::load(&folder.path().join("a.json"), true).unwrap(),
        );
        assert_eq!(before.specials(), after.specials());
        assert_eq!(before.vocab_size(), after.vocab_size());
        for text in corpus().iter().take(20) {
            assert_eq!(before.encode(text, 64), after.encode(text, 64));
        }
    }

    #[test]
    fn trained_specials_have_robertas_ids() {
        let tokenizer = trained();
        assert_eq!(
            tokenizer.specials(),
            Specials {
                bos: 0,
                pad: 1,
                eos: 2,
                unk: Some(3),
                mask: Some(4)
            }
        );
        assert!(tokenizer.vocab_size() <= 400 && tokenizer.vocab_size() > 261);
        assert!((0..5).all(|id| tokenizer.is_special(id)));
        assert!((5..tokenizer.vocab_size() as i32).all(|id| !tokenizer.is_special(id)));
        assert!(!tokenizer.is_special(-1) && !tokenizer.is_special(1 << 20));
    }

    #[test]
    fn any_text_comes_back() {
        let tokenizer = trained();
        for text in [
            "a small circle",
            "naïve façade №7",
            "日本語 🦀 \u{0}",
            "tab\tand\nline",
        ] {
            assert_eq!(
                tokenizer.decode(&tokenizer.encode(text, 1000).ids),
                text.trim()
            );
        }
    }

    #[test]
    fn texts_cannot_spell_special_tokens() {
        let tokenizer = trained();
        let encoded = tokenizer.encode("a <mask> </s> <pad> b", 100);
        let inner = &encoded.ids[1..encoded.ids.len() - 1];
        assert!(
            inner.iter().all(|id| !tokenizer.is_special(*id)),
            "{inner:?}"
        );
    }

    #[test]
    fn a_mask_can_be_asked_for() {
        let tokenizer = trained();
        let encoded = tokenizer.encode_with_masks("a <mask> b", 100);
        let masks = |ids: &[i32]| ids.iter().filter(|id| **id == 4).count();
        assert_eq!(masks(&encoded.ids), 1);
        assert_eq!(masks(&tokenizer.encode("a <mask> b", 100).ids), 0);
    }

    #[test]
    fn long_and_empty_texts_keep_their_ends() {
        let tokenizer = trained();
        for (text, max_length) in [("", 5), ("a", 3), (&*"large circle ".repeat(5000), 17)] {
            let encoded = tokenizer.encode(text, max_length);
            assert!(encoded.ids.len() <= max_length);
            assert_eq!(encoded.ids.len(), encoded.word_ids.len());
            assert_eq!(encoded.ids.first(), Some(&0));
            assert_eq!(encoded.ids.last(), Some(&2));
        }
        assert_eq!(
            tokenizer
                .encode(&"large circle ".repeat(5000), 17)
                .ids
                .len(),
            17
        );
    }

    #[test]
    fn pieces_of_a_word_share_its_number() {
        let encoded = trained().encode("unseen xylophone", 100);
        let words = &encoded.word_ids[1..encoded.ids.len() - 1];
        assert!(words.len() > 2 && words.iter().all(Option::is_some));
        assert!(words.is_sorted());
        let distinct: HashSet<_> = words.iter().collect();
        assert_eq!(distinct.len(), 2);
    }

    #[test]
    fn padding_fills_with_the_padding_token() {
        let tokenizer = trained();
        let texts = ["a", "a large circle"].map(|text| tokenizer.encode(text, 10));
        let longest = tokenizer.pad(&texts, 10, Pad::Longest);
        assert_eq!(longest.length, longest.lengths[1]);
        assert_eq!(longest.ids.len(), 2 * longest.length);
        assert!(
            longest.ids[longest.lengths[0]..longest.length]
                .iter()
                .all(|id| *id == 1)
        );
        assert_eq!(tokenizer.pad(&texts, 10, Pad::Max).length, 10);
    }

    #[test]
    fn missing_tokens_and_files_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("vocab.txt");
        std::fs::write(&path, "[UNK]\n[CLS]\n[SEP]\na\n##b\n").unwrap();
        let message = TextTokenizer::load(&path, true).unwrap_err().to_string();
        assert!(
            message.contains("[PAD]") && message.contains("[MASK]"),
            "{message}"
        );
        assert!(!message.contains("[CLS]"), "{message}");
        for path in [folder.path().join("none.json"), folder.path().join("empty")] {
            let message = TextTokenizer::load(&path, true).unwrap_err().to_string();
            assert!(message.contains(&path.display().to_string()), "{message}");
        }
        let broken = folder.path().join("tokenizer.json");
        std::fs::write(&broken, "{\"version\": 3").unwrap();
        assert!(TextTokenizer::load(&broken, true).is_err());
        // A control character within a string.
        std::fs::write(&broken, "{\"version\": \"1.0\", \"a\u{1}b\": {}}").unwrap();
        assert!(TextTokenizer::load(&broken, true).is_err());
        assert!(TextTokenizer::train(std::iter::empty(), 300).is_err());
        assert!(TextTokenizer::train(corpus().into_iter(), 100).is_err());
    }

    #[test]
    fn wordpiece_from_a_vocabulary() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("vocab.txt");
        std::fs::write(
            &path,
            "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nplay\n##ing\nthe\n!\n",
        )
        .unwrap();
        let tokenizer = TextTokenizer::load(folder.path(), true).unwrap();
        let encoded = tokenizer.encode("The PLAYING!", 20);
        assert_eq!(encoded.ids, [2, 7, 5, 6, 8, 3]);
        assert_eq!(
            encoded.word_ids,
            [None, Some(0), Some(1), Some(1), Some(2), None]
        );
        assert_eq!(tokenizer.decode(&encoded.ids), "the playing!");
        let cased = TextTokenizer::load(&path, false).unwrap();
        assert_eq!(cased.encode("The the", 20).ids, [2, 1, 7, 3]);
        assert_eq!(cased.specials().unk, Some(1));
    }

    #[test]
    fn two_sentences_are_one_text() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("vocab.txt");
        std::fs::write(&path, "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\nb\nc\nd\n").unwrap();
        let bert = TextTokenizer::load(&path, true).unwrap();
        let pair = bert.encode_pair("a b", "c d d", 20);
        assert_eq!(pair.ids, [2, 5, 6, 3, 7, 8, 8, 3]);
        assert_eq!(pair.first, 4);
        let words = [
            None,
            Some(0),
            Some(1),
            None,
            Some(2),
            Some(3),
            Some(4),
            None,
        ];
        assert_eq!(pair.word_ids, words);
        // The longer sentence is cut first.
        assert_eq!(
            bert.encode_pair("a b", "c d d", 7).ids,
            [2, 5, 6, 3, 7, 8, 3]
        );
        assert_eq!(bert.encode_pair("", "c", 3).ids, [2, 3, 3]);
        let texts = bert.pad(&[pair, bert.encode("a", 9)], 9, Pad::Longest);
        let second = [0, 0, 0, 0, 1, 1, 1, 1];
        assert_eq!(texts.segments.unwrap(), [second, [0; 8]].concat());
        assert!(
            bert.pad(&[bert.encode("a", 9)], 9, Pad::Longest)
                .segments
                .is_none()
        );

        let roberta = trained();
        let pair = roberta.encode_pair("a", "a", 20);
        let [_, a, _] = roberta.encode("a", 20).ids[..] else {
            panic!("one token");
        };
        assert_eq!(pair.ids, [0, a, 2, 2, a, 2]);
        assert_eq!(pair.first, pair.ids.len());
    }
}

//! BERT, RoBERTa and XLM-R as Hugging Face stores them.

use serde::Deserialize;

use super::{activation, epsilon_and_dropout, heads_divide, object, only, parse, sizes};
use crate::names::{Form, Names, Rule, join, rule};
use crate::text::{Positions, TextEncoderConfig, TextTower};

/// Names of [`crate::text::TextEncoder`].
#[rustfmt::skip]
pub const NAMES: &[Rule] = &[
    rule("word_embedding", "embeddings.word_embeddings", Form::Same),
    rule("position_embedding", "embeddings.position_embeddings", Form::Same),
    rule("type_embedding", "embeddings.token_type_embeddings", Form::Same),
    rule("embedding_norm", "embeddings.LayerNorm", Form::Same),
    rule("layers.{}.attention.query", "encoder.layer.{}.attention.self.query", Form::Linear),
    rule("layers.{}.attention.key", "encoder.layer.{}.attention.self.key", Form::Linear),
    rule("layers.{}.attention.value", "encoder.layer.{}.attention.self.value", Form::Linear),
    rule("layers.{}.attention.output", "encoder.layer.{}.attention.output.dense", Form::Linear),
    rule("layers.{}.attention_norm", "encoder.layer.{}.attention.output.LayerNorm", Form::Same),
    rule("layers.{}.feed_forward.inner", "encoder.layer.{}.intermediate.dense", Form::Linear),
    rule("layers.{}.feed_forward.outer", "encoder.layer.{}.output.dense", Form::Linear),
    rule("layers.{}.feed_forward_norm", "encoder.layer.{}.output.LayerNorm", Form::Same),
];

/// Tensors of such a checkpoint that our encoder does not use.
pub const UNUSED: &[&str] = &[
    "pooler",
    "embeddings.position_ids",
    "embeddings.token_type_ids",
];

/// Heads of pre-training and of common tasks, beside the encoder.
const HEADS: &[&str] = &["lm_head", "cls", "classifier", "qa_outputs", "pooler"];

/// All spellings: the encoder alone, or within a model with a head.
pub fn spellings() -> Vec<Names> {
    ["", "bert", "roberta", "xlm_roberta"]
        .into_iter()
        .map(|prefix| {
            let words = join(prefix, "embeddings.word_embeddings.weight");
            DECODERS.iter().fold(
                Names::new([("", "", NAMES)], UNUSED)
                    .under(prefix)
                    .leaving(HEADS),
                |names, decoder| names.tying(&words, decoder),
            )
        })
        .collect()
}

/// The matrices of the language heads. They equal the word embedding unless `tie_word_embeddings` is false.
const DECODERS: [&str; 2] = ["cls.predictions.decoder.weight", "lm_head.decoder.weight"];

/// Names of the language head of a BERT: a dense layer, a norm, a decoder with a bias of its own.
#[rustfmt::skip]
const BERT_HEAD: &[Rule] = &[
    rule("dense", "cls.predictions.transform.dense", Form::Linear),
    rule("norm", "cls.predictions.transform.LayerNorm", Form::Same),
    rule("bias", "cls.predictions.bias", Form::Tensor),
    rule("decoder.bias", "cls.predictions.bias", Form::Tensor),
    rule("decoder", "cls.predictions.decoder", Form::Linear),
];

/// Names of the language head of a RoBERTa.
#[rustfmt::skip]
const ROBERTA_HEAD: &[Rule] = &[
    rule("dense", "lm_head.dense", Form::Linear),
    rule("norm", "lm_head.layer_norm", Form::Same),
    rule("bias", "lm_head.bias", Form::Tensor),
    rule("decoder.bias", "lm_head.bias", Form::Tensor),
    rule("decoder", "lm_head.decoder", Form::Linear),
];

/// All spellings of the language head beside an encoder.
pub fn head_spellings() -> Vec<Names> {
    [(BERT_HEAD, "cls.predictions"), (ROBERTA_HEAD, "lm_head")]
        .into_iter()
        .map(|(rules, head)| {
            Names::new([("", "", rules)], &[])
                .tying(&format!("{head}.bias"), &format!("{head}.decoder.bias"))
        })
        .collect()
}

/// `BertConfig`, `RobertaConfig`, `XLMRobertaConfig`, and BridgeTower's text half.
#[derive(Debug, Deserialize)]
#[serde(default)]
struct Config {
    model_type: String,
    vocab_size: usize,
    hidden_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    intermediate_size: usize,
    hidden_act: String,
    hidden_dropout_prob: f64,
    max_position_embeddings: usize,
    type_vocab_size: usize,
    layer_norm_eps: f64,
    pad_token_id: usize,
    position_embedding_type: String,
    is_decoder: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            model_type: "bert".to_owned(),
            vocab_size: 30522,
            hidden_size: 768,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            intermediate_size: 3072,
            hidden_act: "gelu".to_owned(),
            hidden_dropout_prob: 0.1,
            max_position_embeddings: 512,
            type_vocab_size: 2,
            layer_norm_eps: 1e-12,
            pad_token_id: 0,
            position_embedding_type: "absolute".to_owned(),
            is_decoder: false,
        }
    }
}

/// Hugging Face's defaults of RoBERTa and XLM-R where they differ from BERT's.
const ROBERTA: [(&str, u64); 2] = [("vocab_size", 50265), ("pad_token_id", 1)];
/// Hugging Face's defaults of BridgeTower's text half.
const BRIDGETOWER: [(&str, u64); 4] = [
    ("vocab_size", 50265),
    ("pad_token_id", 1),
    ("max_position_embeddings", 514),
    ("type_vocab_size", 1),
];

/// A `config.json` as our configuration.
///
/// # Errors
///
/// It is of another kind or says something that is not supported.
pub fn config(json: &serde_json::Value) -> Result<TextEncoderConfig, String> {
    let mut given = object(json)?.clone();
    let kind = match given.get("model_type") {
        None | Some(serde_json::Value::Null) => "bert".to_owned(),
        Some(kind) => kind
            .as_str()
            .map_or_else(|| kind.to_string(), str::to_owned),
    };
    let (positions, defaults): (_, &[(&str, u64)]) = match kind.as_str() {
        "bert" => (Positions::FromZero, &[]),
        "roberta" | "xlm-roberta" => (Positions::AfterPad, &ROBERTA),
        "bridgetower_text_model" => (Positions::AfterPad, &BRIDGETOWER),
        other => {
            return Err(format!(
                "model_type is \"{other}\"; text encoders are bert, roberta and xlm-roberta"
            ));
        }
    };
    let mut unless_given = |key: &str, value: serde_json::Value| {
        if given.get(key).is_none_or(serde_json::Value::is_null) {
            given.insert(key.to_owned(), value);
        }
    };
    for (key, value) in defaults {
        unless_given(key, (*value).into());
    }
    if kind == "bridgetower_text_model" {
        unless_given("layer_norm_eps", 1e-5.into());
    }
    let config: Config = parse(&serde_json::Value::Object(given))?;
    heads_divide(
        ("hidden_size", config.hidden_size),
        ("num_attention_heads", config.num_attention_heads),
    )?;
    sizes(&[
        ("vocab_size", config.vocab_size),
        ("num_hidden_layers", config.num_hidden_layers),
        ("intermediate_size", config.intermediate_size),
        ("max_position_embeddings", config.max_position_embeddings),
        ("type_vocab_size", config.type_vocab_size),
    ])?;
    let dropout = config.hidden_dropout_prob;
    epsilon_and_dropout(config.layer_norm_eps, ("hidden_dropout_prob", dropout))?;
    if config.pad_token_id >= config.vocab_size {
        return Err(format!(
            "pad_token_id = {} cannot be: must be below vocab_size = {}",
            config.pad_token_id, config.vocab_size
        ));
    }
    only("is_decoder", &config.is_decoder, &false)?;
    only(
        "position_embedding_type",
        &config.position_embedding_type.as_str(),
        &"absolute",
    )?;
    Ok(TextEncoderConfig {
        tower: TextTower::Bert,
        vocab_size: config.vocab_size,
        width: config.hidden_size,
        layers: config.num_hidden_layers,
        heads: config.num_attention_heads,
        feed_forward: config.intermediate_size,
        max_positions: config.max_position_embeddings,
        positions,
        token_types: config.type_vocab_size,
        pad_id: config.pad_token_id,
        activation: activation(&config.hidden_act)?,
        layer_norm_eps: config.layer_norm_eps,
        dropout,
        drop_path: 0.0,
        outside: None,
    })
}

/// Our configuration as a `config.json`: RoBERTa if positions count from the padding token on, else BERT.
pub fn to_json(config: &TextEncoderConfig) -> serde_json::Value {
    let (kind, architecture) = match config.positions {
        Positions::FromZero => ("bert", "BertModel"),
        Positions::AfterPad => ("roberta", "RobertaModel"),
    };
    serde_json::json!({
        "architectures": [architecture],
        "model_type": kind,
        "vocab_size": config.vocab_size,
        "hidden_size": config.width,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "intermediate_size": config.feed_forward,
        "hidden_act": super::activation_name(config.activation),
        "hidden_dropout_prob": config.dropout,
        "attention_probs_dropout_prob": config.dropout,
        "max_position_embeddings": config.max_positions,
        "type_vocab_size": config.token_types,
        "layer_norm_eps": config.layer_norm_eps,
        "pad_token_id": config.pad_id,
    })
}

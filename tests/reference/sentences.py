"""Writes tests/fixtures/sentences: what transformers makes of one sentence and of two.

Usage: python sentences.py OUT_DIR TOKENIZERS      (pip install torch transformers safetensors; written with torch 2.15, transformers 5.24)

TOKENIZERS holds `bert` (vocab.txt) and `roberta` (vocab.json, merges.txt). OUT_DIR/pairs.json has the ids and types of pairs of
sentences, cut by `longest_first` to several lengths.

OUT_DIR/NAME/ has a tiny random model for sequence classification: config.json, model.safetensors, gradients.safetensors with the
gradient of every parameter under the same name, and io.json with ids, types, labels, logits and loss. float32 on the CPU, dropout off.
"""
import json
import pathlib
import sys

import torch
import transformers as tf
from safetensors.torch import save_file

# An empty second sentence is no pair to transformers; GLUE has none.
PAIRS = [
    ("A plane is taking off.", "An air plane is taking off."),
    ("short", "A much longer second sentence, with commas, that is cut first; it has no end and goes on and on."),
    ("A much longer first sentence, with commas, that is cut first; it has no end and goes on and on.", "short"),
    ("Both of these are rather long, so that each is cut to one half.", "Both of these are rather long, and neither is short."),
    ("", "nothing before it"),
    ("naïve façade №7", "日本語 and 🦀"),
    ("It spells <s> and [SEP].", "So does </s> [CLS] this."),
]
LENGTHS = [8, 13, 24, 64]


def pairs(tokenizers):
    """Ids and types per vocabulary, length and pair."""
    made = {
        "bert": tf.BertTokenizer(vocab=str(tokenizers / "bert/vocab.txt")),
        "roberta": tf.AutoTokenizer.from_pretrained(tokenizers / "roberta", use_fast=True),
    }
    rows = []
    for name, tokenizer in made.items():
        for length in LENGTHS:
            for first, second in PAIRS:
                # A text must not spell special tokens, as in unimo.
                o = tokenizer(first, second, truncation="longest_first", max_length=length, return_token_type_ids=True, split_special_tokens=True)
                rows.append({"vocabulary": name, "length": length, "first": first, "second": second, "ids": o["input_ids"], "types": o["token_type_ids"]})
    return rows


def model(kind, labels):
    """A tiny model with every weight random."""
    common = dict(
        vocab_size=30, hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=12,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, num_labels=labels,
    )
    torch.manual_seed(3)
    if kind == "bert":
        config = tf.BertConfig(max_position_embeddings=12, type_vocab_size=2, pad_token_id=0, layer_norm_eps=1e-12, **common)
        made = tf.BertForSequenceClassification(config)
    else:
        config = tf.RobertaConfig(max_position_embeddings=14, type_vocab_size=1, pad_token_id=1, layer_norm_eps=1e-5, **common)
        made = tf.RobertaForSequenceClassification(config)
    with torch.no_grad():
        for p in made.parameters():
            p.add_(torch.randn(p.shape) * (0.1 if p.ndim < 2 else 0.7 / p.shape[-1] ** 0.5))
    return made.eval()


def write(out, name, kind, labels):
    made = model(kind, labels)
    pad = made.config.pad_token_id
    lengths = [7, 10, 4]
    ids = torch.full((3, 10), pad)
    types = torch.zeros((3, 10), dtype=torch.long)
    mask = torch.zeros((3, 10), dtype=torch.long)
    for row, length in enumerate(lengths):
        ids[row, :length] = torch.randint(4, 30, (length,))
        mask[row, :length] = 1
        if kind == "bert":
            types[row, length // 2 : length] = 1
    targets = torch.tensor([1.5, -0.25, 4.0]) if labels == 1 else torch.tensor([2, 0, 1]) % labels
    o = made(input_ids=ids, attention_mask=mask, token_type_ids=types, labels=targets)
    o.loss.backward()
    folder = out / name
    folder.mkdir(parents=True, exist_ok=True)
    made.save_pretrained(folder)
    save_file({k: p.grad.contiguous() for k, p in made.named_parameters()}, folder / "gradients.safetensors")
    io = {
        "ids": ids.flatten().tolist(), "lengths": lengths, "types": types.flatten().tolist(), "labels": targets.tolist(),
        "logits": o.logits.flatten().tolist(), "loss": o.loss.item(),
    }
    (folder / "io.json").write_text(json.dumps(io) + "\n")


if __name__ == "__main__":
    out = pathlib.Path(sys.argv[1])
    out.mkdir(parents=True, exist_ok=True)
    rows = pairs(pathlib.Path(sys.argv[2]))
    (out / "pairs.json").write_text("[\n" + ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n]\n")
    write(out, "bert", "bert", 3)
    write(out, "bert-number", "bert", 1)
    write(out, "roberta", "roberta", 2)

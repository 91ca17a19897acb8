"""Writes the tokens that transformers' AutoTokenizer gives texts by the files of an exported run, truncated as it says itself.

Usage: python exported.py FOLDER...      (pip install transformers)

FOLDER has tokenizer.json and tokenizer_config.json as `unimo export` wrote them; tokens.json is written beside them.
"""
import json
import pathlib
import sys

import transformers as tf

TEXTS = [
    "A small red circle left of a large blue square.",
    "red",
    " two  spaces\tand a tab ",
    "naïve № 7 — ¿qué? 日本",
    "don't stop: 1,234.5 e-mail@example.org",
    "the picture shows " + "a green triangle above a yellow circle and " * 20 + "nothing else",
]

for folder in map(pathlib.Path, sys.argv[1:]):
    tokenizer = tf.AutoTokenizer.from_pretrained(folder)
    # A text is stripped of runs of white space first, as unimo does.
    texts = [" ".join(text.split()) for text in TEXTS]
    rows = [{"text": text, "ids": tokenizer(text, truncation=True)["input_ids"]} for text in texts]
    lines = ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    (folder / "tokens.json").write_text(f"[\n{lines}\n]\n", encoding="utf-8")
    print(folder, tokenizer.model_max_length, [len(row["ids"]) for row in rows])

"""Prints digests of the token ids that Hugging Face's tokenizers give every caption of a list.

Usage: python tokens.py LIST.jsonl COLUMN,COLUMN NAME=FOLDER...      (pip install transformers tokenizers)

The digest is FNV-1a (64 bits) over the ids as little-endian i32, each text followed by -1; texts are stripped of runs of white
space first. `tests/tests/tokens.rs` computes the same.
"""
import json
import sys

import transformers as tf

texts = []
for line in open(sys.argv[1], encoding="utf-8"):
    row = json.loads(line)
    texts += [" ".join(row[c].split()) for c in sys.argv[2].split(",") if isinstance(row.get(c), str) and row[c].strip()]
for given in sys.argv[3:]:
    name, folder = given.split("=")
    # CLIP: a folder with vocab.json and merges.txt.
    tokenizer = tf.CLIPTokenizer.from_pretrained(folder) if name == "clip" else tf.BertTokenizer(vocab=folder + "/vocab.txt", do_lower_case=True) if name == "bert" else tf.AutoTokenizer.from_pretrained(folder)
    digest, count = 0xCBF29CE484222325, 0
    for text in texts:
        ids = tokenizer(text)["input_ids"]
        count += len(ids)
        for byte in b"".join(i.to_bytes(4, "little", signed=True) for i in [*ids, -1]):
            digest = (digest ^ byte) * 0x100000001B3 % 2**64
    print(f"{name}: {len(texts)} texts, {count} tokens, 0x{digest:016x}")

"""Writes tests/fixtures/generation: a tiny BERT that reads from left to right, and the texts that transformers writes with it.

Usage: python generation.py OUT_DIR      (pip install torch transformers; written with torch 2.15, transformers 5.24)

    config.json, model.safetensors   BertLMHeadModel with is_decoder=True and random weights, as `save_pretrained` writes it
    cases.json      for each case the arguments of `generate`, the `prompt`, the new `tokens` of each text without end and padding, whether
                    the end token closed them (`ended`), and for beam search `score`, which is `sequences_scores`; there is one text

There are no images: what is compared is the search. Greedy cases have one beam. `min_new_tokens` counts tokens before the end token.
"""
import itertools
import json
import pathlib
import sys

import torch
import transformers as tf

OUT = pathlib.Path(sys.argv[1])
PAD, END = 0, 2
PROMPTS = [[1], [1, 17], [1, 30, 8, 8], [1, 5, 6, 5, 6]]

config = tf.BertConfig(
    vocab_size=40, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24, max_position_embeddings=24,
    type_vocab_size=2, pad_token_id=PAD, bos_token_id=1, eos_token_id=END, is_decoder=True,
)
model = tf.BertLMHeadModel(config).eval()
generator = torch.Generator().manual_seed(11)
with torch.no_grad():
    for name, p in model.named_parameters():
        noise = torch.randn(p.shape, generator=generator)
        p.copy_(noise * 0.9 / p.shape[-1] ** 0.5) if p.ndim == 2 else p.add_(noise * 0.3)
    # An end that is likely enough for texts of different lengths.
    model.cls.predictions.bias[END] += 3.2
model.save_pretrained(OUT)
# As the text encoder that it is: our readers of such folders take no decoders.
saved = OUT / "config.json"
saved.write_text(saved.read_text().replace('"is_decoder": true', '"is_decoder": false'))
(OUT / "generation_config.json").unlink()

settings = [dict(num_beams=1)]
settings += [dict(num_beams=b, length_penalty=p) for b, p in itertools.product([3, 5], [0.0, 0.6, 1.0, 2.0])]
settings += [dict(s, no_repeat_ngram_size=n) for s, n in itertools.product([settings[0], settings[3], settings[6]], [1, 2])]
settings += [dict(s, min_new_tokens=6) for s in [settings[0], settings[3], settings[7]]]
cases = []
for prompt, given in itertools.product(PROMPTS, settings):
    given = dict(given, max_new_tokens=10)
    ids = torch.tensor([prompt])
    out = model.generate(
        ids, attention_mask=torch.ones_like(ids), do_sample=False, return_dict_in_generate=True, output_scores=True, **given
    )
    new = out.sequences[0, len(prompt):].tolist()
    ended = END in new
    tokens = new[: new.index(END)] if ended else new
    assert len(tokens) == 10 or ended
    case = dict(given, prompt=prompt, tokens=[tokens], ended=[ended])
    if given["num_beams"] > 1:
        case["score"] = out.sequences_scores.tolist()
    cases.append(case)
lines = ",\n".join(json.dumps(case) for case in cases)
(OUT / "cases.json").write_text(f"[\n{lines}\n]\n")
print(len(cases), "cases;", sum(c["ended"][0] for c in cases), "ended;", len({str(c["tokens"]) for c in cases}), "different")

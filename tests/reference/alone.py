"""Writes tests/fixtures/alone: a tiny BERT and a tiny RoBERTa with their language heads, and what transformers makes of texts.

Usage: python alone.py OUT_DIR      (pip install torch transformers safetensors; written with torch 2.15, transformers 5.24)

    bert/       BertForMaskedLM as `save_pretrained` writes it, with vocab.txt (cased: do_lower_case is false)
    roberta/    RobertaForMaskedLM as `safetensors.torch.save_model` writes it: the word embedding is stored as the decoder, which only
                the file's notes say; a tokenizer that puts a space before the first word
    NAME/expected.json: `texts`, their token `ids`, `class` and `mean`, the first and the mean of the last states at length 1, and
                for `masked` the five likeliest words: ids and probabilities
"""
import json
import pathlib
import sys

import torch
import transformers as tf
from safetensors.torch import save_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

OUT = pathlib.Path(sys.argv[1])
TEXTS = ["the red circle", "A small Square", "two Red squares left of the circle and the circle below the square of the two", ""]
small = dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24)
LENGTH = 12


def randomise(model):
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for p in model.parameters():
            noise = torch.randn(p.shape, generator=generator)
            p.copy_(noise * 0.7 / p.shape[-1] ** 0.5) if p.ndim == 2 else p.add_(noise * 0.3)
    return model.eval()


def expect(folder, model, masked):
    tokenizer = tf.AutoTokenizer.from_pretrained(folder)
    x = tokenizer(TEXTS, padding=True, truncation=True, return_tensors="pt")
    with torch.no_grad():
        states = model.base_model(**x).last_hidden_state
        mask = x["attention_mask"][..., None].float()
        unit = lambda v: torch.nn.functional.normalize(v, dim=-1).tolist()
        y = tokenizer(masked, return_tensors="pt")
        at = (y["input_ids"][0] == tokenizer.mask_token_id).nonzero()[0, 0]
        shares, ids = model(**y).logits[0, at].softmax(-1).topk(5)
    found = {
        "texts": TEXTS,
        "ids": tokenizer(TEXTS, truncation=True)["input_ids"],
        "class": unit(states[:, 0]),
        "mean": unit((states * mask).sum(1) / mask.sum(1)),
        "masked": masked,
        "words": [{"id": i, "score": s} for i, s in zip(ids.tolist(), shares.tolist())],
    }
    (folder / "expected.json").write_text(json.dumps(found))


folder = OUT / "bert"
folder.mkdir(parents=True, exist_ok=True)
words = "[PAD] [UNK] [CLS] [SEP] [MASK] the red circle square small two left of and below A Red Square Small a ##s".split()
(folder / "vocab.txt").write_text("\n".join(words) + "\n")
# transformers 5 wants it; here vocab.txt and tokenizer_config.json must do.
tokenizer = tf.BertTokenizer(vocab=str(folder / "vocab.txt"), do_lower_case=False, model_max_length=LENGTH)
tokenizer.save_pretrained(folder)
config = tf.BertConfig(vocab_size=len(words), max_position_embeddings=20, **small)
model = randomise(tf.BertForMaskedLM(config))
model.save_pretrained(folder)
expect(folder, model, "the [MASK] circle")
(folder / "tokenizer.json").unlink()

folder = OUT / "roberta"
folder.mkdir(parents=True, exist_ok=True)
tokenizer = Tokenizer(models.BPE())
tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
tokenizer.decoder = decoders.ByteLevel()
specials = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
trainer = trainers.BpeTrainer(vocab_size=290, special_tokens=specials, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
tokenizer.train_from_iterator(TEXTS * 3, trainer)
tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=True)
tf.PreTrainedTokenizerFast(
    tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", cls_token="<s>", sep_token="</s>", pad_token="<pad>",
    unk_token="<unk>", mask_token="<mask>", model_max_length=LENGTH, add_prefix_space=True,
).save_pretrained(folder)
config = tf.RobertaConfig(vocab_size=tokenizer.get_vocab_size(), max_position_embeddings=20, **small)
model = randomise(tf.RobertaForMaskedLM(config))
config.save_pretrained(folder)
save_model(model, folder / "model.safetensors", metadata={"format": "pt"})
expect(folder, model, "the <mask> circle")

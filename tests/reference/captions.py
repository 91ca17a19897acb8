"""Writes captions.json: captions, their Penn Treebank tokens and their scores by COCO's evaluation.

Usage: python captions.py OUT_DIR      (pip install pycocoevalcap; written with version 1.2 and Java 17)

- `together`: texts of everything that is hard to split, and the tokens of all of them from one run of `PTBTokenizer`, which
  reads them as one text;
- `alone`: texts that a run each was made for;
- `cases`: captions and references, and their BLEU, ROUGE-L and CIDEr-D by the scorers of pycocoevalcap, which calls the last
  one CIDEr. Plain CIDEr is not in it: it is computed here, from its counts of n-grams and the formula of the paper;
- `training` and `rewards`: CIDEr-D of the same cases by the same scorer, with the document frequencies of other references.
"""

import json
import math
import pathlib
import random
import sys

from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider_scorer import CiderScorer, precook
from pycocoevalcap.rouge.rouge import Rouge
from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

DRAW = random.Random(20240607)

ABBREVIATIONS = """Jan Sept Mon Thurs Ariz Ark ark Del del Ill ill La la Miss miss Tex Va Wash wash Inc Co Cos Corp Pty pty Ltd Rt tel
est ext sq Jr Sr Bros Ed.D Ph.D Ph D Esq etc al seq Bldg Blvd Rd Mr Mrs Dr Drs Prof Sen Gov Capt St Ste Ave Mt Ft Dept vs v Alex a.k.a
U.S U.K e.g p.m ca fig figs no nos art pp op limited Yahoo""".split()
WORDS = """a the He It At About dog Dogs cannot can't CANNOT won't isn't shouldn't y'all o'clock O'Malley d'Avignon 'em 'tis 'Tis gonna
lemme 'twas dunno rock'n'roll 'n' '90s '98 ’98 I'd they've man's dogs' man’s don’t don`t co-ed T-shirt mother-in-law and/or a/b he/she
C++ c# AT&T AT&amp;T R&D S&P-500 S&Ls Cap'n c'est c'mon cont'd nor'easter li'l Dunkin' ol' pro- naïve café Straße ΣΑΣ ΑΣ-Β İstanbul ıx
北京 東京タワー हिन्दी עברית العربية ไทย 한국어 e\u0301 soft\u00adhyphen \u00ad""".split()
MARKS = list(".,;:!?'\"`()[]{}<>-_/\\|@#$%^&*+=~") + """... .... -- --- ----- '' `` !! ?! … – — ― ‘ ’ “ ” « » ‚ „ ‛ ‹ › • · ¡ ¿ ° © ™ § † ½ ¾
⅓ ⅛ ² ₂ € £ ¥ ¢ ₤ ₹ № × → ∀ ★ 、 。 ！ （ ・ ؟ ،""".split()
ENTITIES = "&amp; &lt; &gt; &quot; &apos; &nbsp; &mdash; &MD; &#39; &eacute; &AMP; &copy;".split()
NET = """http://www.example.com/a?b=c&d=e https://x.org/ www.foo.co.uk/bar foo.com bar@baz.com <me@x.com> &lt;me@x.com&gt; @user #tag #1
#tag_2 ftp://x.y/z file.txt IMG_001.jpg a.b.c song.mp3 x.c C:\\Windows""".split()
NUMBERS = """12 1,000 3.14 -5 +7 10:30 5'4 6'2" 50% $5.00 US$5 1990s 12/25/2020 555-1234 (555)\u00a0123-4567 +1-555-123-4567 1-1/2 1½ 2nd
5km ٣٤ １２ 1.2.3.4 no.5 0.5.""".split() + ["1 1/2", "(555) 123-4567", "Pty. Ltd.", ". . . .", "No. 5"]
FACES = "😀 👍🏽 👨‍👩‍👧 🇬🇧 :) :-) ;-P =D ^_^ x_x (^^) -_- <3 >:(".split()
TAGS = ["<b>", "</b>", "<br/>", "<a href='x y'>", '<a href="x">', "<!-- c -->", "<?xml v?>", "< b>", "<1>", "<<", "<a b='"]
SPACES = [" "] * 12 + ["  ", "\t", "\u00a0", "\u2003", "\u3000", "\u200b", "\ufeff", "\u2009", "\n"]
KINDS = [(WORDS, 26), (ABBREVIATIONS, 14), (MARKS, 24), (ENTITIES, 6), (NET, 8), (NUMBERS, 10), (FACES, 5), (TAGS, 4)]


def piece():
    kind = DRAW.choices([kind for kind, _ in KINDS], [weight for _, weight in KINDS])[0]
    text = DRAW.choice(kind)
    text = DRAW.choices([str, str.upper, str.lower, str.title], [12, 3, 2, 2])[0](text)
    return text + DRAW.choice([".", ".", ".", "", ","]) if kind is ABBREVIATIONS else text


def hard_text():
    pieces = []
    for _ in range(DRAW.randint(2, 9)):
        pieces.append(piece())
        if DRAW.random() < 0.6:
            pieces.append(DRAW.choice(SPACES))
    return "".join(pieces)


def tokens(texts):
    """Each text's tokens, joined by spaces; all texts in one run."""
    by_number = PTBTokenizer().tokenize({number: [{"caption": text}] for number, text in enumerate(texts)})
    return [by_number[number][0] for number in range(len(texts))]


def caption():
    who = DRAW.choice(["a man", "a woman", "two dogs", "the children", "a cat", "some people"])
    does = DRAW.choice(["sitting on", "standing near", "looking at", "running past", "riding on", "playing with"])
    what = DRAW.choice(["a bench", "the red bus", "a kite", "an old train", "the table", "a frisbee"])
    where = DRAW.choice(["", " in the park", " on a sunny day", " at night, in New York City", " with the other dogs and the children"])
    return who + DRAW.choice([" ", " is ", " are ", " that is "]) + does + " " + what + where + DRAW.choice(["", ".", " ."])


def plain_cider(hypothesis, references, frequencies, images):
    def vector(counts, length):
        return {
            ngram: times * (math.log(images) - math.log(max(1.0, frequencies.get(ngram, 0.0))))
            for ngram, times in counts.items()
            if len(ngram) == length
        }

    total = 0.0
    for reference in references:
        for length in range(1, 5):
            a, b = vector(precook(hypothesis), length), vector(precook(reference), length)
            norm = math.sqrt(sum(w * w for w in a.values())) * math.sqrt(sum(w * w for w in b.values()))
            total += sum(w * b.get(ngram, 0.0) for ngram, w in a.items()) / norm if norm else 0.0
    return 10.0 * total / 4 / len(references)


class Counted(list):
    """References of cases that are scored, whose number is that of the training images."""

    def __len__(self):
        return self.images


def main():
    together = sorted({hard_text() for _ in range(560)})
    DRAW.shuffle(together)
    alone = ["", " ", "plan B.", "in the U.S.", "Mr.", "etc.", "Jan.", "a dog .", "What?!", "x\u00a0", "'tis", "http://x.org/\u2003", "No. 5"]

    cases = [{"references": [caption() for _ in range(DRAW.randint(1, 6))], "hypothesis": caption()} for _ in range(40)]
    cases[3]["hypothesis"] = cases[3]["references"][0]
    cases[4]["hypothesis"] = ""
    cases[5]["references"][0] = ""
    cases[6] = {"references": ["..."], "hypothesis": "!"}
    cases[7]["hypothesis"] = "a a a a a a a a a a a a a a a a a a a a"
    cases[8]["hypothesis"] = "zebra"
    cases[9]["hypothesis"] = "Call (555) 123-4567, 1 1/2 miles from the U.S. border"
    cases[9]["references"][0] = "Call (555) 123-4567 from 1 1/2 miles in the U.S. The border"
    cases[10]["hypothesis"] = cases[10]["references"][0] + " and \u00ad a man's T-shirt (red) isn't $5.00"

    flat = iter(tokens([reference for case in cases for reference in case["references"]]))
    references = {n: [next(flat) for _ in case["references"]] for n, case in enumerate(cases)}
    hypotheses = {n: [line] for n, line in enumerate(tokens([case["hypothesis"] for case in cases]))}
    bleu, bleus = Bleu(4).compute_score(references, hypotheses, verbose=0)
    rouge, rouges = Rouge().compute_score(references, hypotheses)
    scorer = CiderScorer()
    for n in references:
        scorer += (hypotheses[n][0], references[n])
    cider_d, cider_ds = scorer.compute_score()
    frequencies = dict(scorer.document_frequency)
    ciders = [plain_cider(hypotheses[n][0], references[n], frequencies, len(cases)) for n in references]

    training = [[line + " <end>" for line in tokens([caption() for _ in range(2)])] for _ in range(60)]
    trained = CiderScorer()
    for lines in training:
        trained += ("", lines)
    trained.compute_doc_freq()
    for n in references:
        scorer.ctest[n] = precook(hypotheses[n][0] + " <end>")
        scorer.crefs[n] = [precook(line + " <end>") for line in references[n]]
    scorer.document_frequency = trained.document_frequency
    scorer.crefs = Counted(scorer.crefs)
    scorer.crefs.images = len(training)

    for n, case in enumerate(cases):
        case["bleu"] = [bleus[order][n] for order in range(4)]
        case["rouge_l"], case["cider_d"], case["cider"] = rouges[n], cider_ds[n], ciders[n]
    made = {
        "how": "tests/reference/captions.py",
        "together": [[text, line] for text, line in zip(together, tokens(together))],
        "alone": [[text, tokens([text])[0]] for text in alone],
        "cases": cases,
        "corpus": {"bleu": bleu, "rouge_l": rouge, "cider_d": cider_d, "cider": sum(ciders) / len(ciders)},
        "training": training,
        "rewards": scorer.compute_cider(),
    }
    text = json.dumps(made, ensure_ascii=False, indent=0, separators=(",", ":"), default=float)
    out = pathlib.Path(sys.argv[1]) / "captions.json"
    out.write_text(text.replace("[\n", "[").replace("\n]", "]") + "\n", encoding="utf-8")
    print(f"{out}: {out.stat().st_size} bytes, {len(together)} texts, {len(cases)} cases")


if __name__ == "__main__":
    main()

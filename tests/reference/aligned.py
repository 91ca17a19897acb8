"""Writes tests/fixtures/aligned.jsonl: which tokens of a text and its translation are hidden together, given the draws.

Usage: python aligned.py OUT_FILE

Written from what is known of UC2's released code (arXiv 2104.00332). A line has, for each token of both texts, the word that it is a piece of
(null: of none), the alignment, whether words are hidden whole, the tokens of the first text that are drawn, numbers in [0, 1) that
choose among the tokens of a partner in turn, and the hidden tokens of both. A drawn token that is hidden already draws nothing. A word with
several partners has the first; one without is hidden by itself, which is this project's reading.
"""
import json
import pathlib
import random
import sys


def text(draw):
    words = [None]
    for word in range(draw.randint(1, 9)):
        words += [word] * draw.randint(1, 3)
    return words + [None]


def hide(case, first, second):
    hidden, numbers = [set(), set()], iter(case["numbers"])
    for at in case["chosen"]:
        if at in hidden[0]:
            continue
        word = first[at]
        partner = next((b for a, b in case["alignment"] if a == word), None)
        tokens = [i for i, w in enumerate(second) if w is not None and w == partner]
        if case["whole"]:
            hidden[0] |= {i for i, w in enumerate(first) if w == word}
            hidden[1] |= set(tokens)
            continue
        hidden[0].add(at)
        if tokens:
            hidden[1].add(tokens[int(next(numbers) * len(tokens))])
    return [sorted(tokens) for tokens in hidden]


def main():
    draw, lines = random.Random(7), []
    for _ in range(1000):
        first, second = text(draw), text(draw)
        words = [max(w for w in t if w is not None) + 1 for t in (first, second)]
        pairs = [(draw.randrange(words[0]), draw.randrange(words[1])) for _ in range(draw.randint(0, 10))]
        chosen = [i for i, w in enumerate(first) if w is not None and draw.random() < 0.3]
        case = {"words": [first, second], "alignment": pairs, "whole": draw.random() < 0.5, "chosen": chosen}
        case["numbers"] = [round(draw.random(), 6) for _ in chosen]
        lines.append(json.dumps(case | {"hidden": hide(case, first, second)}))
    pathlib.Path(sys.argv[1]).write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()

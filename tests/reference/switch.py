"""Code switching as M3P's released code does it, for the test of `unimo-data/src/loader/switch.rs`.

    python3 tests/reference/switch.py > tests/fixtures/switch.jsonl

Written from the description of `clag` and `dclag` (microsoft/M3P, src/data/clag.py), with given draws instead of Python's random numbers.
Languages stand in the order of their names, translations in the order of the file.
"""

import json
import random

DICTIONARY = {
    "de": {"dog": ["Hund"], "red": ["rot", "roter"], "two": ["zwei"]},
    "fr": {"dog": ["chien", "chienne"], "grass": ["herbe"], "two": ["deux"], "cats": ["chats"]},
    "pl": {"red": ["czerwony"], "grass": ["trawa"], "on": ["na"]},
}


def languages_of(word):
    return [DICTIONARY[name] for name in sorted(DICTIONARY) if word in DICTIONARY[name]]


def choose(items, number):
    return items[min(int(number * len(items)), len(items) - 1)]


def translate(word, draws):
    language = choose(languages_of(word), next(draws))
    return choose(language[word], next(draws))


def share(caption, sentences, words, draws):
    if next(draws) >= sentences:
        return caption
    said = []
    for word in caption.split(" "):
        if languages_of(word) and next(draws) < words:
            word = translate(word, draws)
        said.append(word)
    return " ".join(said)


def one(caption, sentences, draws):
    if next(draws) >= sentences:
        return caption
    said = caption.split(" ")
    known = [place for place, word in enumerate(said) if languages_of(word)]
    if known:
        place = choose(known, next(draws))
        said[place] = translate(said[place], draws)
    return " ".join(said)


def main():
    rng = random.Random(0)
    print(json.dumps(DICTIONARY))
    vocabulary = ["a", "dog", "Dog,", "red", "grass", "on", "two", "cats", "blue", "", "sees"]
    for number in range(200):
        caption = " ".join(rng.choice(vocabulary) for _ in range(rng.randrange(0, 8)))
        draws = [round(rng.random(), 3) for _ in range(1 + 3 * 8)]
        sentences = rng.choice([0.0, 0.5, 0.8, 1.0])
        words = rng.choice([0.0, 0.3, 0.8, 1.0]) if number % 2 else None
        if words is None:
            switched = one(caption, sentences, iter(draws))
        else:
            switched = share(caption, sentences, words, iter(draws))
        case = {"caption": caption, "sentences": sentences, "words": words, "draws": draws, "switched": switched}
        print(json.dumps(case))


if __name__ == "__main__":
    main()

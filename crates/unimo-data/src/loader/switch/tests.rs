use std::fs;

use serde_json::Value;

use super::*;

fn open(dictionaries: &[(&str, &str)], words: SwitchedWords, exact: bool) -> Switch {
    let folder = tempfile::tempdir().unwrap();
    let files = dictionaries.iter().map(|(language, text)| {
        let path = folder.path().join(format!("en-{language}.txt"));
        fs::write(&path, text).unwrap();
        ((*language).to_owned(), path)
    });
    let config = SwitchConfig {
        dictionaries: files.collect(),
        sentences: 1.0,
        words,
        exact,
    };
    config.validate("data.switch").unwrap();
    Switch::open(&config).unwrap()
}

/// As the released code does it, for the same draws: tests/reference/switch.py.
#[test]
fn sentences_are_those_of_the_reference() {
    let file = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../tests/fixtures/switch.jsonl"
    );
    let text = fs::read_to_string(file).unwrap();
    let mut lines = text.lines().map(|line| serde_json::from_str(line).unwrap());
    let dictionary: BTreeMap<String, BTreeMap<String, Vec<String>>> =
        serde_json::from_value(lines.next().unwrap()).unwrap();
    let files: Vec<(&str, String)> = dictionary
        .iter()
        .map(|(language, words)| {
            let lines = words.iter().flat_map(|(english, translations)| {
                translations
                    .iter()
                    .map(move |translation| format!("{english} {translation}\n"))
            });
            (language.as_str(), lines.collect())
        })
        .collect();
    let files: Vec<(&str, &str)> = files
        .iter()
        .map(|(language, text)| (*language, text.as_str()))
        .collect();
    let mut switch = open(&files, SwitchedWords::One, true);
    let (mut cases, mut changed) = (0, 0);
    for case in lines {
        let case: Value = case;
        switch.sentences = case["sentences"].as_f64().unwrap();
        switch.words = case["words"]
            .as_f64()
            .map_or(SwitchedWords::One, SwitchedWords::Share);
        let draws = case["draws"].as_array().unwrap();
        let mut draws = draws.iter().map(|draw| draw.as_f64().unwrap());
        let caption = case["caption"].as_str().unwrap();
        let found = switch.switched(caption, || draws.next().unwrap());
        assert_eq!(found, case["switched"].as_str().unwrap(), "{case}");
        cases += 1;
        changed += usize::from(found != caption);
    }
    assert_eq!(cases, 200);
    assert!(changed > 50, "{changed}");
}

#[test]
fn all_words_of_the_dictionaries_are_replaced_where_their_share_is_1() {
    let files = [("de", "dog Hund\ngrass Gras\n"), ("fr", "dog chien\n")];
    let switch = open(&files, SwitchedWords::Share(1.0), true);
    let mut german = 0;
    const DRAWS: u64 = 4000;
    for draw in 0..DRAWS {
        let said = switch.rewrite("a dog on grass", draw);
        assert!(
            said == "a Hund on Gras" || said == "a chien on Gras",
            "{said}"
        );
        german += u32::from(said.contains("Hund"));
    }
    // The languages that have the word are equally likely: within four standard deviations of a half.
    let (half, deviation) = (DRAWS as f64 / 2.0, (DRAWS as f64 / 4.0).sqrt());
    assert!(
        (f64::from(german) - half).abs() < 4.0 * deviation,
        "{german}"
    );
}

#[test]
fn a_caption_depends_on_its_draw_alone_and_no_share_changes_nothing() {
    let files = [("de", "dog Hund\ngrass Gras\n")];
    let switch = open(&files, SwitchedWords::Share(0.5), true);
    let said = |draw| switch.rewrite("a dog on grass", draw);
    assert_eq!(
        (0..50).map(said).collect::<Vec<_>>(),
        (0..50).map(said).collect::<Vec<_>>()
    );
    assert!((0..50).any(|draw| said(draw) != said(0)));
    let never = open(&files, SwitchedWords::Share(0.0), true);
    assert!((0..50).all(|draw| never.rewrite("a dog", draw) == "a dog"));
    let other = open(&files, SwitchedWords::Share(1.0), true);
    assert!((0..50).all(|draw| other.rewrite("no  word of it", draw) == "no  word of it"));
}

#[test]
fn dictionaries_translate_english() {
    let switch = open(&[("de", "dog Hund\n")], SwitchedWords::Share(1.0), true);
    assert!(switch.reads("en") && switch.reads("en-GB"));
    assert!(!switch.reads("de") && !switch.reads("enm"));
}

#[test]
fn one_word_is_one_word() {
    let files = [("de", "dog Hund\ngrass Gras\non auf\n")];
    let switch = open(&files, SwitchedWords::One, true);
    let caption = "a dog on grass";
    let mut met = std::collections::BTreeSet::new();
    for draw in 0..100 {
        let said = switch.rewrite(caption, draw);
        let others = said.split(' ').zip(caption.split(' '));
        assert_eq!(others.filter(|(a, b)| a != b).count(), 1, "{said}");
        met.insert(said);
    }
    assert_eq!(met.len(), 3);
}

#[test]
fn case_and_punctuation_count_only_if_words_are_exact() {
    let files = [("de", "dog Hund\ngrass gras\n")];
    let caption = "\"Dog, grass.\" GRASS (dog)";
    let exact = open(&files, SwitchedWords::Share(1.0), true);
    assert_eq!(exact.rewrite(caption, 0), caption);
    let bare = open(&files, SwitchedWords::Share(1.0), false);
    assert_eq!(bare.rewrite(caption, 0), "\"Hund, gras.\" Gras (Hund)");
}

#[test]
fn lines_with_other_columns_are_counted_with_the_first() {
    let text = "\u{feff}dog\tder Hund\r\n\nice cream Eis\ncat Katze\nred\n";
    let read = Lines::of(text.trim_start_matches('\u{feff}'));
    let pair = |english: &str, other: &str| (english.to_owned(), other.to_owned());
    assert_eq!(read.pairs, [pair("dog", "der Hund"), pair("cat", "Katze")]);
    assert_eq!(
        read.note(Path::new("en-de.txt")).unwrap(),
        "en-de.txt: 2 lines that are not a word and its translation are left out; the first is line 3, with 3 columns"
    );
    let switch = open(&[("de", text)], SwitchedWords::Share(1.0), true);
    assert_eq!(switch.notes().len(), 1);
    assert_eq!(switch.rewrite("dog", 0), "der Hund");
}

#[test]
fn a_dictionary_that_cannot_be_used_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("en-de.txt");
    let message = |bytes: Option<&[u8]>| {
        if let Some(bytes) = bytes {
            fs::write(&path, bytes).unwrap();
        }
        let config = SwitchConfig {
            dictionaries: BTreeMap::from([("de".to_owned(), path.clone())]),
            sentences: 1.0,
            words: SwitchedWords::One,
            exact: true,
        };
        let error = Switch::open(&config).unwrap_err().to_string();
        error.replace(&path.display().to_string(), "FILE")
    };
    assert!(message(None).starts_with("cannot read FILE: "));
    let none = "FILE: no line has an English word and its translation between a tab or spaces";
    assert_eq!(message(Some(b"dog\ncat\n")), none);
    assert_eq!(message(Some(b"")), none);
    assert_eq!(
        message(Some(b"dog Hund\ncat \xff\n")),
        "FILE: line 2 is not UTF-8"
    );
}

#[test]
fn settings_are_checked() {
    let read = |text: &str| -> SwitchConfig { toml::from_str(text).unwrap() };
    let config = read("dictionaries = { xx = \"scenes\" }");
    assert_eq!(config.words, SwitchedWords::Share(0.8));
    assert!(config.exact && config.clone().paths().next().is_none());
    assert!(config.validate("data.switch").is_ok());
    let wrong = |text: &str| read(text).validate("data.switch").unwrap_err().to_string();
    assert_eq!(
        wrong("dictionaries = {}"),
        "`data.switch.dictionaries` is empty, allowed: a dictionary for at least one language, such as { de = \"en-de.txt\" }"
    );
    assert_eq!(
        wrong("dictionaries = { xx = \"scenes\" }\nwords = { share = 1.5 }"),
        "`data.switch.words.share` is 1.5, allowed: a number from 0 to 1"
    );
    assert_eq!(
        wrong("dictionaries = { xx = \"scenes\" }\nsentences = -1.0"),
        "`data.switch.sentences` is -1, allowed: a number from 0 to 1"
    );
    assert!(toml::from_str::<SwitchConfig>("dictionaries = {}\nword = 1").is_err());
}

/// What a resumed run compares: the words, not where their file lies.
#[test]
fn a_digest_is_of_the_words() {
    let of = |text: &str| open(&[("de", text)], SwitchedWords::One, true).digest();
    assert_eq!(of("dog Hund\n"), of("dog\tHund\n\n"));
    assert_ne!(of("dog Hund\n"), of("dog Katze\n"));
}

/// The invented language of scenes: every word of a caption is known.
#[test]
fn scenes_need_no_file() {
    let config = SwitchConfig {
        dictionaries: BTreeMap::from([("xx".to_owned(), PathBuf::from(SCENES))]),
        sentences: 1.0,
        words: SwitchedWords::Share(1.0),
        exact: false,
    };
    let switch = Switch::open(&config).unwrap();
    let english = "on a grey background, one sees two large red stars";
    let said = switch.rewrite(english, 0);
    let words = english.split(' ').zip(said.split(' '));
    assert!(words.clone().all(|(a, b)| a != b), "{said}");
    assert!(said.split(' ').nth(3).unwrap().ends_with(','));
}

/// A dictionary in the wrong direction, or of another case, changes nothing.
#[test]
fn dictionaries_that_have_no_word_of_the_captions_are_known() {
    let files = [
        ("de", "dog Hund\n"),
        ("fr", "chien dog\n"),
        ("it", "Dog cane\n"),
    ];
    let captions = || {
        ["a dog, and a cat", "one dog"]
            .map(str::to_owned)
            .into_iter()
    };
    let exact = open(&files, SwitchedWords::One, true);
    assert_eq!(exact.unused(captions()), ["fr", "it"]);
    let loose = open(&files, SwitchedWords::One, false);
    assert_eq!(loose.unused(captions()), ["fr"]);
    assert_eq!(loose.unused(captions().take(0)), ["de", "fr", "it"]);
}

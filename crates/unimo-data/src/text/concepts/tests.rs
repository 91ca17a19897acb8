use super::*;

fn texts(list: &[&str]) -> Vec<String> {
    list.iter().map(|text| (*text).to_owned()).collect()
}

/// A vocabulary of these phrases.
fn concepts(phrases: &[&str]) -> Concepts {
    let phrases: Vec<(&str, u64)> = phrases.iter().map(|phrase| (*phrase, 1)).collect();
    let saved =
        serde_json::json!({ "version": 1, "min_count": 1, "captions": 1, "phrases": phrases });
    Concepts(Vocabulary::parse(saved.to_string().as_bytes()).unwrap())
}

#[test]
fn hostile_files_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("concepts.json");
    let with = |phrases: &str| {
        format!("{{\"version\":1,\"min_count\":2,\"captions\":9,\"phrases\":{phrases}}}")
    };
    let long = format!("[[\"{}\",5]]", "x".repeat(101));
    let many = format!("[{}[\"a\",2]]", "[\"a\",2],".repeat(MOST_CONCEPTS));
    let deep = with(&"[".repeat(100_000));
    for (text, part) in [
        (String::new(), "EOF"),
        ("[1,2,9,0,[[\"a\",2]]]".to_owned(), "an array"),
        ("{\"version\":1}".to_owned(), "missing field"),
        (with("[[\"a\",2]]")[..40].to_owned(), "EOF"),
        (
            with("[[\"a\",2]]").replace(":1,", ":2,"),
            "`version` is 2, allowed: 1",
        ),
        (with("[[\"a\",2]]").replace("captions", "texts"), "texts"),
        (
            with("[[\"a\",2]]").replace(":2,\"c", ":0,\"c"),
            "`min_count` is 0",
        ),
        (with("[]"), "0 `phrases`, allowed: 1 to 1048576"),
        (
            with("[[\"a\",2],[\"a\",2]]"),
            "`phrases[1]`, \"a\", comes a second time",
        ),
        (
            with("[[\"a\",1]]"),
            "has the count 1, allowed: `min_count`, 2",
        ),
        (
            with("[[\"\",2]]"),
            "`phrases[0]` is \"\", allowed: lower case",
        ),
        (with("[[\"Red\",2]]"), "is \"Red\""),
        (with("[[\"a  b\",2]]"), "is \"a  b\""),
        (with("[[\" a\",2]]"), "single spaces"),
        (with(&long), "1 to 100 bytes"),
        (with("[[\"a\",-2]]"), "invalid value"),
        (with("[[\"a\",2.5]]"), "invalid type"),
        (with("[[\"a\",99999999999999999999]]"), "invalid"),
        (with("[[\"a\"]]"), "invalid length"),
        (with("[[\"a\",2,3]]"), "trailing"),
        (with("[[3,2]]"), "invalid type"),
        (with("{\"a\":2}"), "invalid type"),
        (with("[[\"a\",2]]") + "x", "trailing"),
        (with(&many), "1048577 `phrases`"),
        (deep, "concepts"),
    ] {
        std::fs::write(&path, &text).unwrap();
        let message = Concepts::load(&path).unwrap_err().to_string();
        let start = &text[..text.len().min(120)];
        assert!(
            message.contains("concepts.json: ") && message.contains(part),
            "{start}: {message}"
        );
    }
    std::fs::write(&path, b"{\"version\":1,\"min_count\":\xff").unwrap();
    assert!(Concepts::load(&path).is_err());
    // A sparse file: it takes no disk space.
    let file = std::fs::File::create(&path).unwrap();
    file.set_len(Concepts::LARGEST_FILE + 1).unwrap();
    let message = Concepts::load(&path).unwrap_err().to_string();
    assert!(message.contains("more than 268435456 bytes"), "{message}");
    assert!(Concepts::load(folder.path()).is_err());
}

#[test]
fn a_phrase_of_one_token_shares_its_row() {
    let folder = tempfile::tempdir().unwrap();
    let vocabulary = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\nred\ncircle\n##s\ncafe\n";
    std::fs::write(folder.path().join("vocab.txt"), vocabulary).unwrap();
    let tokenizer = TextTokenizer::load(folder.path(), true).unwrap();
    let list = [
        "circle",
        "red circle",
        "circles",
        "zebra",
        "a",
        "café",
        "cafe",
        "[mask]",
    ];
    let ids = concepts(&list).resolve(&tokenizer);
    let of = |phrase: &str| ids.ids(&texts(&[phrase]));
    let expected = [7, 10, 11, 12, 5, 9, 9, 13];
    for (phrase, id) in list.iter().zip(expected) {
        assert_eq!(of(phrase), [id], "{phrase}");
    }
    assert_eq!(ids.rows(), 14);
    assert_eq!(
        ids.ids(&texts(&["Red  Circle", "blue circle", "", "circle"])),
        [10, 7]
    );
    let names = [
        (7, "circle"),
        (10, "red circle"),
        (9, "café"),
        (13, "[mask]"),
    ];
    for (id, name) in names {
        assert_eq!(ids.name(id), Some(name));
    }
    for id in [-1, 0, 6, 14, i32::MAX, i32::MIN] {
        assert_eq!(ids.name(id), None, "{id}");
    }
}

#[test]
fn settings_are_read_written_and_checked() {
    let read = |text: &str| toml::from_str::<ConceptsConfig>(text);
    let mut documented = String::new();
    for line in include_str!("../concepts.rs").lines() {
        match line.strip_prefix("//! ") {
            Some(line) if line.contains(" = ") => documented += &format!("{line}\n"),
            _ => {}
        }
    }
    let config = read(&documented).unwrap();
    let vocabulary = Some("concepts.json".into());
    assert_eq!(
        config,
        ConceptsConfig {
            vocabulary,
            ..ConceptsConfig::default()
        }
    );
    for text in [
        "",
        "phrases = { kind = \"source\" }\nmax_tags = 0",
        "phrases = { kind = \"tuples\", path = \"t.jsonl\" }\nvocabulary = \"v.json\"",
    ] {
        let config = read(text).unwrap();
        config.validate("concepts").unwrap();
        assert_eq!(read(&toml::to_string(&config).unwrap()).unwrap(), config);
    }
    let mut both =
        read("phrases = { kind = \"tuples\", path = \"t\" }\nvocabulary = \"v\"").unwrap();
    assert_eq!(both.paths(), ["t", "v"]);
    assert!(ConceptsConfig::default().paths().is_empty());
    for (text, part) in [
        ("min_cuont = 3", "min_cuont"),
        ("phrases = { kind = \"spice\" }", "spice"),
        (
            "phrases = { kind = \"parser\", path = \"x\" }",
            "`path` belongs to",
        ),
        ("phrases = { kind = \"tuples\" }", "needs a `path`"),
        ("phrases = { kind = \"source\", file = \"x\" }", "file"),
    ] {
        let message = read(text).unwrap_err().to_string();
        assert!(message.contains(part), "{text}: {message}");
    }
    for (text, key) in [
        ("min_count = 0", "min_count"),
        ("limit = 0", "limit"),
        ("limit = 2000000", "limit"),
        ("max_phrases = 1000", "max_phrases"),
        ("max_tags = 1000", "max_tags"),
        (
            "phrases = { kind = \"tuples\", path = \"\" }",
            "phrases.path",
        ),
        ("vocabulary = \"\"", "vocabulary"),
    ] {
        let message = read(text)
            .unwrap()
            .validate("x.concepts")
            .unwrap_err()
            .to_string();
        assert!(
            message.contains(&format!("`x.concepts.{key}`")) && message.contains("allowed"),
            "{text}: {message}"
        );
    }
}

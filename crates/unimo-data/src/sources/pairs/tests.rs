use std::collections::HashSet;

use image::RgbImage;

use super::*;
use crate::formats::rows::{LONGEST_ROW, UNCLOSED};
use crate::sources::fixtures::{
    assert_rejected, captions as captions_of, folder, message, open as open_data,
};

const LIMITS: Limits = Limits::full_size(1_000_000);

fn open(
    name: &str,
    text: impl AsRef<[u8]>,
    change: impl FnOnce(&mut PairsConfig),
) -> Result<Pairs, DataError> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    std::fs::write(&path, text).unwrap();
    let mut config = PairsConfig::new(path);
    config.val_fraction = 0.0;
    change(&mut config);
    Pairs::open(&config, &LIMITS)
}

fn all(pairs: &Pairs, split: Split) -> Vec<(u64, String, Vec<String>)> {
    (0..pairs.len(split))
        .map(|index| {
            let image = pairs.row(pairs.rows(split).of(index)[0]).unwrap().image;
            let captions = pairs.captions(split, index).unwrap();
            (pairs.place(split, index).line, image, captions)
        })
        .collect()
}

fn rejected(pairs: &Pairs) -> Vec<(u64, &str)> {
    pairs
        .rejected
        .iter()
        .map(|error| (error.place.line, error.reason.as_str()))
        .collect()
}

fn row(line: u64, image: &str, captions: &[&str]) -> (u64, String, Vec<String>) {
    let captions = captions
        .iter()
        .map(|caption| (*caption).to_owned())
        .collect();
    (line, image.to_owned(), captions)
}

#[test]
fn captions_come_from_columns_lists_and_rows() {
    let pairs = open(
        "a.jsonl",
        r#"{"image": "1.jpg", "caption": "one", "alt": ["two", " ", "three"]}
{"image": "2.jpg", "alt": "only alt", "caption": null}
{"image": "1.jpg", "caption": "  four\n words "}
{"image": "1.jpg", "caption": "one"}
"#,
        |config| config.text_columns = vec!["caption".into(), "alt".into()],
    )
    .unwrap();
    assert_eq!(
        all(&pairs, Split::Train),
        [
            row(1, "1.jpg", &["one", "two", "three", "four words"]),
            row(2, "2.jpg", &["only alt"]),
        ]
    );
    assert!(rejected(&pairs).is_empty());
    assert!(
        pairs
            .describe()
            .contains("2 training images with 5 captions")
    );
}

#[test]
fn splits_and_filters() {
    let text = r#"{"image": "1", "caption": "a", "split": "train", "lang": "en", "n": 1}
{"image": "2", "caption": "b", "split": "restval", "lang": "en", "n": 1}
{"image": "3", "caption": "c", "split": "val", "lang": "en", "n": 1}
{"image": "4", "caption": "d", "split": "test", "lang": "en", "n": 1}
{"image": "5", "caption": "e", "split": "train", "lang": "es", "n": 1}
{"image": "6", "caption": "f", "split": "train", "lang": "en", "n": 2}
"#;
    let pairs = open("a.jsonl", text, |config| {
        config.filter = [("lang", "en"), ("n", "1")]
            .map(|(k, v)| (k.into(), v.into()))
            .into();
    })
    .unwrap();
    assert_eq!(
        all(&pairs, Split::Train),
        [row(1, "1", &["a"]), row(2, "2", &["b"])]
    );
    assert_eq!(all(&pairs, Split::Val), [row(3, "3", &["c"])]);
    assert_eq!(all(&pairs, Split::Test), [row(4, "4", &["d"])]);
    let left = "2 rows left out (1 whose `lang` is not \"en\", 1 whose `n` is not \"1\")";
    assert!(pairs.describe().contains(left), "{}", pairs.describe());
    assert!(pairs.notes().is_empty());
}

#[test]
fn splits_are_known_by_the_names_of_the_field() {
    let named = [
        ("1", "Train"),
        ("2", "validation"),
        ("3", "TEST"),
        ("4", "dev"),
        ("5", "valid"),
        ("6", "extra"),
        ("7", "extra"),
        ("8", "Gold"),
        ("9", "test2015"),
    ];
    let text: String = named
        .iter()
        .map(|(image, split)| {
            format!("{{\"image\": \"{image}\", \"caption\": \"c\", \"split\": \"{split}\"}}\n")
        })
        .collect();
    let images = |pairs: &Pairs, split| -> Vec<String> {
        all(pairs, split).into_iter().map(|row| row.1).collect()
    };
    let pairs = open("a.jsonl", &text, |_| ()).unwrap();
    assert_eq!(images(&pairs, Split::Train), ["1"]);
    assert_eq!(images(&pairs, Split::Val), ["2", "4", "5"]);
    assert_eq!(images(&pairs, Split::Test), ["3", "9"]);
    let left = "3 rows left out (2 of the split \"extra\", 1 of the split \"Gold\")";
    assert!(pairs.describe().contains(left), "{}", pairs.describe());
    let counts = pairs.left_out();
    assert_eq!(counts["the split \"extra\""], 2);
    assert_eq!(counts["the split \"Gold\""], 1);
    let pairs = open("a.jsonl", &text, |config| {
        config.val_split = vec!["gold".into()];
        config.train_split = vec!["extra".into(), "train".into()];
    })
    .unwrap();
    assert_eq!(images(&pairs, Split::Train), ["1", "6", "7"]);
    assert_eq!(images(&pairs, Split::Val), ["8"]);
}

#[test]
fn all_rows_of_a_picture_are_of_one_split_unless_they_say_otherwise() {
    let text: String = (0..400)
        .map(|i| {
            let (image, split) = (
                i / 4,
                if i % 4 == 3 {
                    ", \"split\": \"test\""
                } else {
                    ""
                },
            );
            let image = match i % 2 {
                0 => format!("a/{image}.jpg"),
                _ => format!("./a//{image}.jpg"),
            };
            let split = if i < 200 { split } else { "" };
            format!("{{\"image\": \"{image}\", \"caption\": \"c{i}\"{split}}}\n")
        })
        .collect();
    let pairs = open("a.jsonl", &text, |config| config.val_fraction = 0.5).unwrap();
    assert_eq!(pairs.len(Split::Test), 50);
    assert_eq!(pairs.len(Split::Train) + pairs.len(Split::Val), 50);
    assert!(pairs.len(Split::Val) > 0 && pairs.len(Split::Train) > 0);
    for split in Split::ALL {
        assert!(all(&pairs, split).iter().all(|row| row.2.len() == 4));
    }
    let ids: HashSet<u64> = Split::ALL
        .into_iter()
        .flat_map(|split| (0..pairs.len(split)).map(move |index| (split, index)))
        .map(|(split, index)| pairs.picture_id(split, index).unwrap())
        .collect();
    assert_eq!(ids.len(), 100);
    assert!(
        pairs.notes()[0].contains("of 50 images"),
        "{:?}",
        pairs.notes()
    );

    let torn = "{\"image\": \"1\", \"caption\": \"a\", \"split\": \"train\"}\n\
                    {\"image\": \"1\", \"caption\": \"b\", \"split\": \"val\"}\n";
    let pairs = open("a.jsonl", torn, |_| ()).unwrap();
    assert_eq!((pairs.len(Split::Train), pairs.len(Split::Val)), (1, 1));
    assert!(pairs.notes()[0].contains("1 images are in several splits"));

    let row = "{\"image\": \"1\", \"caption\": [\"a\", \"b\"], \"split\": \"train\"}\n";
    let pairs = open("a.jsonl", row.repeat(3), |_| ()).unwrap();
    assert_eq!(all(&pairs, Split::Train)[0].2.len(), 2);
    let note = pairs.notes().concat();
    assert!(
        note.contains("4 captions repeat one of the same image"),
        "{note}"
    );
}

#[test]
fn a_share_of_the_images_is_held_out_where_rows_name_no_split() {
    // Two rows per image: both must land in the same split.
    let text: String = (0..4000)
        .map(|i| format!("{{\"image\": \"{}.jpg\", \"caption\": \"c{i}\"}}\n", i / 2))
        .collect();
    let pairs = open("a.jsonl", &text, |config| config.val_fraction = 0.1).unwrap();
    assert_eq!(pairs.len(Split::Train) + pairs.len(Split::Val), 2000);
    // Five standard deviations of a binomial with n = 2,000 and p = 0.1.
    const TOLERANCE: usize = 68;
    assert!(pairs.len(Split::Val).abs_diff(200) < TOLERANCE);
    assert!(
        [Split::Train, Split::Val]
            .into_iter()
            .flat_map(|split| all(&pairs, split))
            .all(|(_, _, captions)| captions.len() == 2)
    );
}

#[test]
fn bad_lines_are_listed_and_reading_goes_on() {
    let mut text = Vec::new();
    let mut lines = 0;
    let mut push = |line: &[u8]| {
        text.extend(line);
        text.push(b'\n');
        lines += 1;
    };
    push(b"\xef\xbb\xbf{\"image\": \"1\", \"caption\": \"good\"}\r");
    push(b"{\"image\": \"2\", \"caption\": ");
    push(b"{\"image\": \"3\", \"caption\": \"\xff\xfe\"}");
    push(b"[1, 2]");
    push(b"{\"image\": \"4\"}");
    push(b"{\"caption\": \"no image\"}");
    push(b"{\"image\": \"5\", \"caption\": \"  \"}");
    push(b"{\"image\": \"\", \"caption\": \"x\"}");
    push(b"{\"image\": 7, \"caption\": \"x\"}");
    push(b"{\"image\": \"8\", \"caption\": 8}");
    push(b"");
    push(
        format!(
            "{{\"image\": \"9\", \"caption\": \"{}\"}}",
            "x".repeat(LONGEST_ROW)
        )
        .as_bytes(),
    );
    push(b"{\"image\": \"10\", \"caption\": \"good too\"}");
    let pairs = open("a.jsonl", &text, |_| ()).unwrap();
    assert_eq!(
        all(&pairs, Split::Train),
        [row(1, "1", &["good"]), row(13, "10", &["good too"])]
    );
    let expected = [
        (2, "malformed JSON"),
        (3, "UTF-8"),
        (4, "not a JSON object"),
        (5, "no column `caption`; there are `image`"),
        (6, "no column `image`"),
        (7, "empty text"),
        (8, "column `image` is empty"),
        (9, "column `image` is no text"),
        (10, "neither a text"),
        (12, "longer than"),
    ];
    let rejected = rejected(&pairs);
    assert_eq!(rejected.len(), expected.len());
    for ((line, reason), (expected_line, part)) in rejected.into_iter().zip(expected) {
        assert_eq!(line, expected_line);
        assert!(reason.contains(part), "{reason}");
    }
    assert_eq!(pairs.items(), 12);
}

#[test]
fn csv_with_quotes_and_line_breaks() {
    let text = "image,caption\r\n1.jpg,\"a, \"\"quoted\"\"\r\ncaption\"\r\n\r\n2.jpg,5\" pipe\r\n3.jpg\r\n4.jpg,\"open\r\n5.jpg,last";
    let pairs = open("a.csv", text, |_| ()).unwrap();
    assert_eq!(
        all(&pairs, Split::Train),
        [
            row(2, "1.jpg", &["a, \"quoted\" caption"]),
            row(5, "2.jpg", &["5\" pipe"]),
            row(8, "5.jpg", &["last"]),
        ]
    );
    assert_eq!(
        rejected(&pairs),
        [(6, "1 columns, but the header has 2"), (7, UNCLOSED)]
    );
}

#[test]
fn quotes_of_tsv_are_those_of_csv_unless_they_are_raw() {
    let text = "caption\timage\n\"a \"\"sign\"\"\"\t1.jpg\nan \"open quote\t2.jpg\n\"two\nlines\"\t3.jpg\n";
    let pairs = open("a.tsv", text, |_| ()).unwrap();
    assert_eq!(
        all(&pairs, Split::Train),
        [
            row(2, "1.jpg", &["a \"sign\""]),
            row(3, "2.jpg", &["an \"open quote"]),
            row(4, "3.jpg", &["two lines"]),
        ]
    );
    let pairs = open("a.tsv", text, |config| config.quotes = Quotes::Raw).unwrap();
    assert_eq!(
        all(&pairs, Split::Train),
        [
            row(2, "1.jpg", &["\"a \"\"sign\"\"\""]),
            row(3, "2.jpg", &["an \"open quote"]),
            row(5, "3.jpg", &["lines\""]),
        ]
    );
    assert_eq!(rejected(&pairs), [(4, "1 columns, but the header has 2")]);
}

#[test]
fn lists_are_told_apart_by_content() {
    let rows = [row(1, "1.jpg", &["a"]), row(2, "2.jpg", &["b", "c"])];
    let lines = "{\"image\": \"1.jpg\", \"caption\": \"a\"}\r\n{\"image\": \"2.jpg\", \"caption\": [\"b\", null, \"c\"]}";
    let array = format!("\u{feff} [{}]", lines.replace("}\r\n{", "}\n, {"));
    for name in ["a.json", "a.jsonl", "a.txt", "list"] {
        for text in [lines, &array] {
            let pairs = open(name, text, |_| ()).unwrap();
            assert_eq!(all(&pairs, Split::Train), rows, "{name} {text}");
        }
    }
    for (text, first) in [
        ("image,caption\n1.jpg,a\n", "1.jpg"),
        ("\u{feff}image;caption\r\n1.jpg;a\r\n", "1.jpg"),
        ("title\tfilepath\na\t1.jpg\n", "1.jpg"),
    ] {
        for name in ["a.csv", "a.tsv", "a.txt"] {
            let pairs = open(name, text, |_| ()).unwrap();
            assert_eq!(all(&pairs, Split::Train), [row(2, first, &["a"])], "{text}");
        }
    }
}

#[test]
fn other_names_of_columns_are_taken_where_the_default_ones_are_not_there() {
    let text = r#"{"file_name": "1.jpg", "text": "a", "path": "x"}
{"file_name": "2.jpg", "text": "b", "image": "other"}"#;
    let pairs = open("metadata.jsonl", text, |_| ()).unwrap();
    assert_eq!(
        all(&pairs, Split::Train),
        [row(1, "1.jpg", &["a"]), row(2, "2.jpg", &["b"])]
    );
    let said = "images by the column `file_name`, texts by the column `text`";
    assert!(pairs.describe().contains(said), "{}", pairs.describe());
    let message = open("metadata.jsonl", text, |config| {
        config.image_column = "photo".into();
    });
    let message = message.unwrap_err().to_string();
    assert!(
        message.contains("data.pairs.image_column") && message.contains("\"photo\""),
        "{message}"
    );
}

#[test]
fn what_python_and_windows_write_is_read() {
    let text = r#"{"image":"img\\0.jpg","caption":"has a score","score":NaN}
{"image":"img/0.jpg","caption":"cut \ud83d"}
{"image":"2.jpg","caption":null}
{"image":"3.jpg","caption":42}
{"image":null,"caption":"x"}
{"image":5,"caption":"x"}
{"image":"4.jpg","caption":["good",NaN],"x":-Infinity,"id":123456789012345678901234567890}
{"image":"5.jpg","caption":"dup","caption":"dup key"}
{"image":"6.jpg","alt":"x"}"#;
    let pairs = open("a.jsonl", text, |_| ()).unwrap();
    assert_eq!(
        all(&pairs, Split::Train),
        [
            row(1, "img/0.jpg", &["has a score", "cut \u{fffd}"]),
            row(7, "4.jpg", &["good"]),
            row(8, "5.jpg", &["dup key"]),
        ]
    );
    assert_eq!(
        rejected(&pairs),
        [
            (3, "column `caption` is null"),
            (4, "column `caption` is neither a text nor a list of texts"),
            (5, "column `image` is null"),
            (6, "column `image` is no text"),
            (9, "no column `caption`; there are `image`, `alt`"),
        ]
    );
}

#[test]
fn unusable_lists_say_what_is_there() {
    let cases: [(&str, &str, &[&str]); 6] = [
        (
            "a.csv",
            "photo,caption\n1,b\n",
            &["data.pairs.image_column", "`photo`, `caption`"],
        ),
        (
            "a.csv",
            "image,words\n1,b\n",
            &["data.pairs.text_columns", "`words`"],
        ),
        ("a.csv", "", &["empty"]),
        (
            "a.jsonl",
            "{\"picture\": \"1\"}\n",
            &["line 1", "`picture`"],
        ),
        (
            "a.jsonl",
            "{\"image\": \"1\", \"caption\": \"a\", \"split\": \"gold\"}\n",
            &["train_split", "1 of the split \"gold\""],
        ),
        ("a.parquet", "PAR1", &["data.pairs.path", ".jsonl"]),
    ];
    for (name, text, parts) in cases {
        let message = open(name, text, |_| ()).unwrap_err().to_string();
        assert!(parts.iter().all(|part| message.contains(part)), "{message}");
    }
    let message = Pairs::open(&PairsConfig::new("absent.jsonl"), &LIMITS)
        .unwrap_err()
        .to_string();
    assert!(message.contains("absent.jsonl"), "{message}");
    let message = open("a.csv", "image,caption\n1,b\n", |config| {
        config.split_column = Some("part".into());
    })
    .unwrap_err()
    .to_string();
    assert!(message.contains("data.pairs.split_column"), "{message}");
}

#[test]
fn unknown_columns_are_named_by_the_separator_that_the_list_has() {
    for (text, separator) in [
        ("picture\ttitle of it\n1.png\tone\n", "tabs"),
        ("picture;title of it\n1.png;one\n", "semicolons"),
    ] {
        let message = open("a.csv", text, |_| {}).unwrap_err().to_string();
        let told = format!("separated by {separator}: `picture`, `title of it`");
        assert!(message.contains(&told), "{message}");
    }
}

/// Two rows as CSV and as JSON lines; the second JSON row lacks what it has no value for.
const TWO: [(&str, &str); 2] = [
    (
        "a.csv",
        "image,the text,other text,fold,l1,l2\n1.jpg,a,b,train,en,de\n2.jpg,c,,val,en,de\n",
    ),
    (
        "a.jsonl",
        "{\"image\": \"1.jpg\", \"the text\": \"a\", \"other text\": \"b\", \"fold\": \"train\", \"l1\": \"en\", \"l2\": \"de\"}\n\
         {\"image\": \"2.jpg\", \"the text\": \"c\", \"fold\": \"val\", \"l1\": \"en\"}\n",
    ),
];

#[test]
fn every_column_that_a_recipe_names_must_be_there() {
    let texts = |columns: [&str; 2]| columns.map(str::to_owned).to_vec();
    type Change = Box<dyn Fn(&mut PairsConfig)>;
    let cases: [(&str, &str, Change); 8] = [
        (
            "image_column",
            "file",
            Box::new(|c| c.image_column = "file".into()),
        ),
        (
            "text_columns",
            "other txt",
            Box::new(move |c| c.text_columns = texts(["the text", "other txt"])),
        ),
        (
            "language_columns",
            "l3",
            Box::new(move |c| c.language_columns = texts(["l1", "l3"])),
        ),
        (
            "alignment_columns",
            "words",
            Box::new(move |c| {
                c.language_columns = texts(["l1", "l2"]);
                c.alignment_columns = vec!["words".into()];
            }),
        ),
        (
            "split_column",
            "fol",
            Box::new(|c| c.split_column = Some("fol".into())),
        ),
        (
            "label_column",
            "class",
            Box::new(|c| c.label_column = Some("class".into())),
        ),
        (
            "text_columns",
            "teh text",
            Box::new(|c| {
                c.label_column = Some("fold".into());
                c.text_columns = vec!["teh text".into()];
            }),
        ),
        (
            "filter",
            "nocol",
            Box::new(|c| c.filter = [("nocol".into(), "zzz".into())].into()),
        ),
    ];
    for (name, text) in TWO {
        let right = |config: &mut PairsConfig| {
            config.text_columns = texts(["the text", "other text"]);
            config.split_column = Some("fold".into());
        };
        let pairs = open(name, text, right).unwrap();
        assert_eq!(
            all(&pairs, Split::Train),
            [row_at(&pairs, "1.jpg", &["a", "b"])]
        );
        assert_eq!(pairs.len(Split::Val), 1);
        for (key, column, change) in &cases {
            let opened = open(name, text, |config| {
                right(config);
                change(config);
            });
            let message = opened.unwrap_err().to_string();
            for part in [
                &format!("data.pairs.{key}`"),
                &format!("{column:?}"),
                "`other text`",
            ] {
                assert!(message.contains(part), "{name} {key}: {message}");
            }
        }
    }
}

/// A row of the training split at the line where it is.
fn row_at(pairs: &Pairs, image: &str, captions: &[&str]) -> (u64, String, Vec<String>) {
    row(pairs.place(Split::Train, 0).line, image, captions)
}

#[test]
fn a_column_that_is_there_twice_is_an_error() {
    for (name, text) in [
        ("a.csv", "image,caption,caption\n1.jpg,a,b\n"),
        ("a.tsv", "image\tcaption\tcaption\n1.jpg\ta\tb\n"),
    ] {
        let message = open(name, text, |_| ()).unwrap_err().to_string();
        assert!(
            message.contains("`caption` is there more than once"),
            "{message}"
        );
    }
    // Columns without a name cannot be asked for.
    let unnamed = open("a.csv", ",image,caption,\n0,1.jpg,a,\n", |_| ()).unwrap();
    assert_eq!(all(&unnamed, Split::Train), [row(2, "1.jpg", &["a"])]);
}

#[test]
fn a_share_that_changes_nothing_is_told() {
    for (name, text) in TWO {
        let notes = |column: Option<&str>, fraction| {
            let opened = open(name, text, |config| {
                config.text_columns = vec!["the text".into()];
                config.split_column = column.map(str::to_owned);
                config.val_fraction = fraction;
            });
            opened.unwrap().notes().concat()
        };
        let told = notes(Some("fold"), 0.5);
        assert!(
            told.contains("val_fraction = 0.5 changes nothing"),
            "{told}"
        );
        assert!(notes(Some("fold"), 0.05).is_empty());
        assert!(!notes(None, 0.5).contains("changes nothing"));
    }
}

#[test]
fn a_list_that_changes_is_an_error_of_its_samples() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.tsv");
    std::fs::write(&path, "image\tcaption\n1.png\tone\n2.png\ttwo\n").unwrap();
    RgbImage::new(2, 1)
        .save(folder.path().join("1.png"))
        .unwrap();
    let mut config = PairsConfig::new(&path);
    config.val_fraction = 0.0;
    let pairs = Pairs::open(&config, &LIMITS).unwrap();
    assert_eq!(pairs.captions(Split::Train, 1).unwrap(), ["two"]);
    let (bytes, extension) = pairs.image_bytes(Split::Train, 0).unwrap().unwrap();
    assert_eq!(extension, "png");
    assert_eq!(bytes, std::fs::read(folder.path().join("1.png")).unwrap());
    std::fs::write(&path, "image\tcaption\n1.png one only\n").unwrap();
    for index in 0..2 {
        let error = pairs.captions(Split::Train, index).unwrap_err();
        assert_eq!(error.place.line, index as u64 + 2);
    }
}

/// Captions and labels of every sample of the training split.
fn labelled(source: &dyn Source) -> Vec<(Vec<String>, Vec<Option<String>>)> {
    let of = |index| {
        let known = source.annotations(Split::Train, index).unwrap();
        let labels = known.labels.into_iter();
        let captions = source.captions(Split::Train, index).unwrap();
        (captions, labels.map(|label| label.answer).collect())
    };
    (0..source.len(Split::Train)).map(of).collect()
}

fn with_labels(list: &str) -> (tempfile::TempDir, Result<Arc<dyn Source>, DataError>) {
    let folder = folder(&[("a.png", "1x1"), ("b.png", "2x1"), ("list", list)]);
    let data = "source = \"pairs\"\n[pairs]\npath = \"list\"\nlabel_column = \"label\"\nval_fraction = 0\n";
    let opened = open_data(&folder, data);
    (folder, opened)
}

#[test]
fn labels_come_with_images_texts_or_both() {
    let some = |label: &str| Some(label.to_owned());
    let (_folder, images) = with_labels("image,label\na.png,cat\nb.png,3\n");
    let images = images.unwrap();
    let offers = images.offers();
    assert!(offers.images && !offers.captions);
    let told = labelled(&*images);
    assert_eq!(
        told,
        [(vec![], vec![some("cat")]), (vec![], vec![some("3")])]
    );
    let sample = images.sample(Split::Train, 1).unwrap();
    assert_eq!(sample.image.unwrap().width(), 2);
    assert!(images.describe().ends_with("labels by the column `label`"));

    let (_folder, texts) =
        with_labels("text\tlabel\nfine\t1\nbad one\t0\nfine\t1\nfine\t0\nunknown\t\n");
    let texts = texts.unwrap();
    let offers = texts.offers();
    assert!(!offers.images && offers.captions);
    let fine = "fine".to_owned();
    assert_eq!(
        labelled(&*texts),
        [
            (vec![fine.clone(), fine], vec![some("1"), some("0")]),
            (vec!["bad one".to_owned()], vec![some("0")]),
            (vec!["unknown".to_owned()], vec![None]),
        ]
    );
    assert!(texts.sample(Split::Train, 0).unwrap().image.is_none());

    let (_folder, both) = with_labels(
        "{\"image\": \"a.png\", \"caption\": \"x\", \"label\": true}\n{\"image\": \"a.png\", \"caption\": \"y\", \"label\": null}\n\
         {\"caption\": \"z\", \"label\": 1}\n{\"image\": \"b.png\", \"caption\": \"z\", \"label\": [1]}\n",
    );
    let both = both.unwrap();
    assert_eq!(
        labelled(&*both),
        [(
            vec!["x".to_owned(), "y".to_owned()],
            vec![some("true"), None]
        )]
    );
    assert_rejected(
        &*both,
        &[("list", 3, "no column `image`"), ("list", 4, "is no label")],
    );
}

#[test]
fn labels_that_contradict_and_columns_that_lack_are_errors() {
    let (_folder, twice) = with_labels("image,label\na.png,cat\na.png,dog\nb.png,cat\nb.png,cat\n");
    let twice = twice.unwrap();
    let error = twice.annotations(Split::Train, 0).unwrap_err();
    assert!(
        error.reason.ends_with("several labels: cat, dog"),
        "{error}"
    );
    assert_eq!(twice.annotations(Split::Train, 1).unwrap().labels.len(), 1);
    let folder = folder(&[("list.csv", "image,class\na.png,cat\n")]);
    let data = "source = \"pairs\"\n[pairs]\npath = \"list.csv\"\nlabel_column = \"label\"\n";
    let lacks = message(open_data(&folder, data));
    assert!(
        lacks.contains("label_column") && lacks.contains("`class`"),
        "{lacks}"
    );
}

#[test]
fn captions_have_the_languages_that_columns_say() {
    let rows = [
        r#"{"image": "1.png", "caption": "a dog", "caption_lang": "en", "alt": ["un perro", "perro"], "alt_lang": "es"}"#,
        r#"{"image": "1.png", "caption": "pies", "caption_lang": "pl"}"#,
        r#"{"image": "2.png", "caption": "a cat", "caption_lang": "english"}"#,
        r#"{"image": "3.png", "caption": "a cow"}"#,
    ];
    let folder = folder(&[("p.jsonl", &rows.join("\n"))]);
    let data = "source = \"pairs\"\n[pairs]\npath = \"p.jsonl\"\nval_fraction = 0.0\ntext_columns = [\"caption\", \"alt\"]\n\
                language_columns = [\"caption_lang\", \"alt_lang\"]";
    let source = open_data(&folder, data).unwrap();
    assert_eq!(
        captions_of(&*source, Split::Train),
        [["a dog", "un perro", "perro", "pies"]]
    );
    let known = source.annotations(Split::Train, 0).unwrap().languages;
    assert_eq!(known.tags, ["en", "es", "es", "pl"]);
    assert!(known.translations(0).is_empty());
    assert!(source.facts(Split::Train).languages);
    assert!(!source.offers().translations);
    // Texts of a row may be translations of each other, those of one language are not.
    let translated = open_data(&folder, &format!("{data}\ntranslations = true")).unwrap();
    assert!(translated.offers().translations);
    let known = translated.annotations(Split::Train, 0).unwrap().languages;
    let found = (0..4).map(|text| known.translations(text));
    assert_eq!(
        found.collect::<Vec<_>>(),
        [vec![1, 2], vec![0], vec![0], vec![]]
    );
    assert_rejected(
        &*source,
        &[
            ("p.jsonl", 3, "no tag of a language"),
            ("p.jsonl", 4, "has no language"),
        ],
    );
    let one = data.replace(", \"alt_lang\"", "");
    let config: crate::DataConfig = toml::from_str(&one).unwrap();
    let message = config.validate().unwrap_err().to_string();
    assert!(
        message.contains("one for each of the 2 text_columns"),
        "{message}"
    );
}

#[test]
fn texts_of_a_row_are_aligned_as_columns_say() {
    let rows = [
        r#"{"image": "1.png", "en": "a dog", "de": "ein Hund", "pl": "pies", "l1": "en", "l2": "de", "l3": "pl", "w2": "0-0 1-1", "w3": "1-0"}"#,
        r#"{"image": "1.png", "en": "a big dog", "de": "ein Hund", "l1": "en", "l2": "de", "w2": "0-0 2-1"}"#,
        r#"{"image": "2.png", "en": "a cat", "de": "eine Katze", "l1": "en", "l2": "de", "w2": "0-0 1-2"}"#,
        r#"{"image": "3.png", "en": "a cow", "de": "eine Kuh", "l1": "en", "l2": "de", "w2": "0:0"}"#,
        r#"{"image": "4.png", "de": "eine Kuh", "l2": "de", "w2": "0-0"}"#,
    ];
    let folder = folder(&[("p.jsonl", &rows.join("\n"))]);
    let data = "source = \"pairs\"\n[pairs]\npath = \"p.jsonl\"\nval_fraction = 0.0\ntext_columns = [\"en\", \"de\", \"pl\"]\n\
                language_columns = [\"l1\", \"l2\", \"l3\"]\nalignment_columns = [\"w2\", \"w3\"]";
    let source = open_data(&folder, data).unwrap();
    assert_eq!(
        captions_of(&*source, Split::Train),
        [["a dog", "ein Hund", "pies", "a big dog"]]
    );
    let known = source.annotations(Split::Train, 0).unwrap().languages;
    assert_eq!(known.translations(0), [1, 2]);
    assert_eq!(known.aligned(0, 1).unwrap(), [(0, 0), (1, 1)]);
    assert_eq!(known.aligned(2, 0).unwrap(), [(0, 1)]);
    assert_eq!(known.aligned(1, 2).unwrap(), [(1, 0)]);
    assert!(source.offers().alignments && source.offers().translations);
    assert_rejected(
        &*source,
        &[
            (
                "p.jsonl",
                3,
                "1-2 points outside of the texts, which have 2 and 2 words",
            ),
            ("p.jsonl", 4, "\"0:0\" is no pair of words"),
            ("p.jsonl", 5, "column `en` and others hold one text each"),
        ],
    );
    let config: crate::DataConfig = toml::from_str(&data.replace(", \"w3\"", "")).unwrap();
    let message = config.validate().unwrap_err().to_string();
    assert!(
        message.contains("one for each of the 2 text_columns"),
        "{message}"
    );
}

#[test]
fn a_key_that_a_row_has_twice_is_said() {
    let text = r#"{"image": "1.jpg", "caption": "alone"}
{"image": "2.jpg", "caption": "first", "caption": "second"}
{"image": "3.jpg", "caption": "same", "caption": "same"}
{"image": "4.jpg", "image": "5.jpg", "caption": NaN, "caption": "read"}
"#;
    let pairs = open("a.jsonl", text, |_| {}).unwrap();
    let said = pairs.repeated.note("a.jsonl").unwrap();
    let expected = "a.jsonl: 2 rows have a key twice with different values, of which the last counts; the first: line 2, `caption`";
    assert_eq!(said, expected);
    assert_eq!(
        all(&pairs, Split::Train),
        [
            row(1, "1.jpg", &["alone"]),
            row(2, "2.jpg", &["second"]),
            row(3, "3.jpg", &["same"]),
            row(4, "5.jpg", &["read"]),
        ]
    );
    let array = r#"[{"image": "1.jpg", "caption": "first", "caption": "second"}]"#;
    let pairs = open("a.json", array, |_| {}).unwrap();
    assert!(pairs.repeated.note("a.json").is_some());
}

#[test]
fn a_split_column_of_another_spelling_is_read_and_one_of_another_name_is_said() {
    let rows = |column: &str, last: &str| {
        let row = |at: usize, name: &str| {
            format!("{{\"image\": \"{at}.jpg\", \"caption\": \"c\", \"{column}\": {name}}}\n")
        };
        [row(0, "\"train\""), row(1, "\"val\""), row(2, last)].concat()
    };
    let counts = |pairs: &Pairs| Split::ALL.map(|split| pairs.len(split));
    for column in ["split", "Split", " SPLIT "] {
        let pairs = open("a.jsonl", rows(column, "\"test\""), |_| {}).unwrap();
        assert_eq!(counts(&pairs), [1, 1, 1], "{column}");
        let csv = format!("image,caption,{column}\n0.jpg,a,train\n1.jpg,b,dev\n");
        let pairs = open("a.csv", csv, |_| {}).unwrap();
        assert_eq!(counts(&pairs), [1, 1, 0], "{column}");
    }
    let set = open("a.jsonl", rows("set", "\"test\""), |_| {}).unwrap();
    assert_eq!(counts(&set), [3, 0, 0]);
    let note = set.notes().pop().unwrap();
    assert!(
        note.contains("`set` names splits and is not read"),
        "{note}"
    );
    let set = open("a.jsonl", rows("set", "\"chess\""), |_| {}).unwrap();
    assert!(!set.notes().concat().contains("`set`"));
    // What cannot name a split costs its row.
    let listed = open("a.jsonl", rows("split", "[\"val\"]"), |_| {}).unwrap();
    assert_eq!(counts(&listed), [1, 1, 0]);
    assert_eq!(rejected(&listed), [(3, "column `split` names no split")]);
}

use std::collections::HashSet;
use std::io::{Cursor, Write};

use image::{ImageFormat, Rgb, RgbImage};

use super::*;
use crate::sources::given::expand;
use crate::store::shards;

const LIMITS: Limits = Limits::full_size(1_000_000);

fn png(shade: u8) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    RgbImage::from_pixel(3, 2, Rgb([shade; 3]))
        .write_to(&mut bytes, ImageFormat::Png)
        .unwrap();
    bytes.into_inner()
}

fn tar_of(members: &[(&str, &[u8])]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (name, bytes) in members {
        let mut header = tar::Header::new_ustar();
        header.set_size(bytes.len() as u64);
        tar.append_data(&mut header, name, *bytes).unwrap();
    }
    tar.into_inner().unwrap()
}

/// Samples `first..last`, each with an image of that shade and a text that names it.
fn shard(first: u8, last: u8) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for number in first..last {
        for (extension, bytes) in [
            ("png", png(number)),
            ("txt", format!("number {number}\n").into_bytes()),
        ] {
            let mut header = tar::Header::new_ustar();
            header.set_size(bytes.len() as u64);
            let name = format!("{number:04}.{extension}");
            tar.append_data(&mut header, name, bytes.as_slice())
                .unwrap();
        }
    }
    tar.into_inner().unwrap()
}

fn urls(pattern: PathBuf) -> WebDatasetConfig {
    WebDatasetConfig {
        urls: vec![pattern],
        val_fraction: 0.0,
        ..WebDatasetConfig::default()
    }
}

fn open(config: &WebDatasetConfig) -> Result<WebDataset, DataError> {
    config.validate("data.webdataset")?;
    WebDataset::open(config, &LIMITS)
}

fn refused(config: &WebDatasetConfig) -> String {
    open(config).err().unwrap().to_string()
}

fn all(source: &WebDataset, split: Split) -> Vec<(String, u8)> {
    (0..source.len(split))
        .map(|at| {
            let picture = source.image(split, at).unwrap().unwrap();
            let captions = source.captions(split, at).unwrap();
            (captions.join("|"), picture.get_pixel(0, 0).0[0])
        })
        .collect()
}

fn numbers(range: std::ops::Range<u8>) -> Vec<(String, u8)> {
    range.map(|n| (format!("number {n}"), n)).collect()
}

#[test]
fn shards_and_folders_that_are_called_as_splits_are_splits() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, first: u8, last: u8| {
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, shard(first, last)).unwrap();
    };
    write("beside/cc-train-0.tar", 0, 3);
    write("beside/cc-train-1.tar", 3, 5);
    write("beside/cc-validation-0.tar", 5, 6);
    write("beside/cc-test-0.tar", 6, 8);
    write("beside/cc-other-0.tar", 8, 9);
    write("within/Train/0.tar", 0, 5);
    write("within/dev/0.tar", 5, 6);
    write("within/test2015/0.tar", 6, 8);
    for (name, left_out) in [
        ("beside", "1 shards left out (1 called \"cc-other-0.tar\")"),
        ("within", ""),
    ] {
        let mut config = urls(folder.path().join(name));
        config.val_fraction = 0.5;
        let source = open(&config).unwrap();
        assert_eq!(all(&source, Split::Train), numbers(0..5));
        assert_eq!(all(&source, Split::Val), numbers(5..6));
        assert_eq!(all(&source, Split::Test), numbers(6..8));
        assert!(
            source.describe().contains(left_out),
            "{}",
            source.describe()
        );
        let notes = source.notes().concat();
        assert!(
            notes.contains("val_fraction = 0.5 changes nothing"),
            "{notes}"
        );
    }
    // If names tell nothing, or only name test shards, a share is held out.
    write("test-only/test-0.tar", 0, 9);
    let mut config = urls(folder.path().join("test-only"));
    config.val_fraction = 0.3;
    let source = open(&config).unwrap();
    assert!(source.is_empty(Split::Test));
    assert!(
        source.notes()[0].contains("of 9 samples"),
        "{:?}",
        source.notes()
    );
}

#[test]
fn a_picture_is_told_by_its_content() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("0.tar");
    let (one, two) = (png(1), png(2));
    let members: [(&str, &[u8]); 6] = [
        ("a.png", &one),
        ("a.txt", b"one"),
        ("b.png", &two),
        ("b.txt", b"two"),
        ("c.png", &one),
        ("c.txt", b"one again"),
    ];
    std::fs::write(&path, tar_of(&members)).unwrap();
    let source = open(&urls(path)).unwrap();
    let id = |index| source.sample(Split::Train, index).unwrap().picture_id;
    assert!(id(0).is_some() && id(0) == id(2) && id(0) != id(1));
}

#[test]
fn patterns_stand_for_paths() {
    let expanded = |pattern| expand(pattern).unwrap();
    assert_eq!(expanded("a.tar"), ["a.tar"]);
    assert_eq!(
        expanded("{8..11}.tar"),
        ["8.tar", "9.tar", "10.tar", "11.tar"]
    );
    assert_eq!(expanded("a{008..010}"), ["a008", "a009", "a010"]);
    assert_eq!(expanded("{x,y}/{1..2}"), ["x/1", "x/2", "y/1", "y/2"]);
    assert_eq!(expanded("a{,b}"), ["a", "ab"]);
    for bad in [
        "{",
        "}",
        "a{b",
        "{a}",
        "{}",
        "{1..}",
        "{..1}",
        "{2..1}",
        "{a..b}",
        "{1..2",
        "{{1..2}}",
        "{-1..2}",
        "{0..18446744073709551615}",
        "{0..99999999999999999999999}",
        "{0..999}{0..999}{0..999}",
    ] {
        assert!(expand(bad).is_err(), "{bad}");
    }
    assert!(expand(&"{0..9}".repeat(1000)).is_err());
    assert!(expand(&format!("{{{}1..2}}", "0".repeat(1 << 20))).is_err());
}

#[test]
fn shards_are_read_in_order() {
    let folder = tempfile::tempdir().unwrap();
    for (at, (first, last)) in [(0, 5), (5, 5), (5, 9)].into_iter().enumerate() {
        std::fs::write(
            folder.path().join(format!("{at:03}.tar")),
            shard(first, last),
        )
        .unwrap();
    }
    let source = open(&urls(folder.path().join("{000..002}.tar"))).unwrap();
    assert_eq!(all(&source, Split::Train), numbers(0..9));
    assert_eq!(source.shards(Split::Train), [5, 4]);
    assert_eq!(source.shards(Split::Val), [0usize; 0]);
    assert!(source.rejected().is_empty(), "{:?}", source.rejected());
    let (bytes, extension) = source.image_bytes(Split::Train, 3).unwrap().unwrap();
    assert_eq!((bytes, extension), (png(3), "png"));
    let place = source.place(Split::Train, 6);
    assert!(
        place.file.ends_with("002.tar") && place.line == 2048,
        "{place}"
    );

    let whole = open(&urls(folder.path().to_owned())).unwrap();
    assert_eq!(all(&whole, Split::Train), numbers(0..9));

    let split = open(&WebDatasetConfig {
        urls: Vec::new(),
        train: vec![folder.path().join("002.tar")],
        val: vec![folder.path().join("000.tar")],
        ..urls(PathBuf::new())
    })
    .unwrap();
    assert_eq!(all(&split, Split::Train), numbers(5..9));
    assert_eq!(all(&split, Split::Val), numbers(0..5));
}

#[test]
fn a_share_is_held_out_within_shards() {
    let folder = tempfile::tempdir().unwrap();
    for (at, first) in [0, 100].into_iter().enumerate() {
        std::fs::write(
            folder.path().join(format!("{at}.tar")),
            shard(first, first + 100),
        )
        .unwrap();
    }
    let mut config = urls(folder.path().join("{0..1}.tar"));
    config.val_fraction = 0.25;
    let source = open(&config).unwrap();
    let (mut train, val) = (all(&source, Split::Train), all(&source, Split::Val));
    // Five standard deviations of a binomial with n = 200 and p = 0.25.
    const TOLERANCE: usize = 31;
    assert!(val.len().abs_diff(50) < TOLERANCE, "{}", val.len());
    for split in [Split::Train, Split::Val] {
        assert_eq!(source.shards(split).len(), 2);
        assert_eq!(
            source.shards(split).iter().sum::<usize>(),
            source.len(split)
        );
    }
    train.extend(val);
    train.sort_by_key(|(_, number)| *number);
    assert_eq!(train, numbers(0..200));
}

#[test]
fn captions_come_from_lines_keys_and_classes() {
    let folder = tempfile::tempdir().unwrap();
    let (path, names) = (folder.path().join("a.tar"), folder.path().join("names.txt"));
    let picture = png(1);
    let members: [(&str, &[u8]); 13] = [
        ("1.png", &picture),
        ("1.txt", b"one\n  two   words\n\none\n"),
        (
            "1.json",
            br#"{"caption": "one", "captions": ["three", 4], "url": "x"}"#,
        ),
        ("2.png", &picture),
        ("2.cls", b"1\n"),
        ("3.png", &picture),
        ("3.json", br#"{"text": "another key"}"#),
        ("4.png", &picture),
        ("4.json", b"{\"caption\": "),
        ("5.png", &picture),
        ("5.txt", b"\xff"),
        ("6.png", &picture),
        ("6.cls", b"9"),
    ];
    std::fs::write(&path, tar_of(&members)).unwrap();
    std::fs::write(&names, "cat\ndog\n").unwrap();
    let mut config = urls(path);
    config.classes = Some(names);
    // Lines are captions only if a setting says so.
    let whole = open(&config).unwrap();
    assert_eq!(
        whole.captions(Split::Train, 0).unwrap(),
        ["one two words one", "one", "three"]
    );
    config.txt = Txt::Lines;
    let source = open(&config).unwrap();
    assert_eq!(source.len(Split::Train), 6);
    let captions = |at| source.captions(Split::Train, at);
    assert_eq!(captions(0).unwrap(), ["one", "two words", "three"]);
    assert_eq!(captions(1).unwrap(), ["a photo of a dog"]);
    for (at, part) in [
        (2, "caption, captions"),
        (3, "its .json"),
        (4, "UTF-8"),
        (5, "class 9"),
    ] {
        let error = captions(at).unwrap_err();
        assert!(error.reason.contains(part), "{error}");
        assert!(source.sample(Split::Train, at).is_err());
    }
}

#[test]
fn samples_that_lack_something_are_counted_unless_it_is_not_wanted() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.tar");
    let picture = png(1);
    let members: [(&str, &[u8]); 4] = [
        ("1.png", &picture),
        ("1.txt", b"one"),
        ("2.png", &picture),
        ("3.txt", b"three"),
    ];
    std::fs::write(&path, tar_of(&members)).unwrap();
    let both = open(&urls(path.clone())).unwrap();
    assert_eq!((both.len(Split::Train), both.items()), (1, 1));
    assert!(both.rejected().is_empty());
    let left = "2 samples left out (1 without a text, 1 without an image), 0 unusable";
    assert!(both.describe().contains(left), "{}", both.describe());

    let mut config = urls(path.clone());
    config.images = false;
    let texts = open(&config).unwrap();
    assert_eq!((texts.len(Split::Train), texts.offers().images), (2, false));
    assert_eq!(texts.image(Split::Train, 0).unwrap(), None);

    let mut config = urls(path);
    config.captions = false;
    let pictures = open(&config).unwrap();
    assert_eq!(
        (pictures.len(Split::Train), pictures.offers().captions),
        (2, false)
    );
    assert!(
        pictures
            .sample(Split::Train, 1)
            .unwrap()
            .captions
            .is_empty()
    );
}

#[test]
fn what_python_writes_and_what_has_no_caption() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.tar");
    let picture = png(1);
    let members: [(&str, &[u8]); 20] = [
        ("0.png", &picture),
        (
            "0.json",
            br#"{"caption": "red", "similarity": NaN, "clip": -Infinity}"#,
        ),
        ("0.txt", b"\xef\xbb\xbfred"),
        ("1.png", &picture),
        ("1.json", b"\xef\xbb\xbf{\"caption\": \"cut \\ud83d\"}"),
        ("2.png", &picture),
        ("2.json", br#"{"caption": null}"#),
        ("2.txt", b""),
        ("3.png", &picture),
        ("3.json", br#"{"caption": NaN}"#),
        ("3.txt", b""),
        ("4.png", &picture),
        ("4.json", br#"{"caption": "only here"}"#),
        ("4.txt", b""),
        ("5.png", &picture),
        ("5.txt", b""),
        ("6.png", &picture),
        ("6.txt", b"\xff\xfea\0"),
        ("7.png", &picture),
        ("7.gif", b"GIF89a"),
    ];
    std::fs::write(&path, tar_of(&members)).unwrap();
    let source = open(&urls(path)).unwrap();
    let captions: Vec<_> = (0..source.len(Split::Train))
        .map(|at| source.captions(Split::Train, at).map_err(|e| e.reason))
        .collect();
    let good = |text: &str| Ok(vec![text.to_owned()]);
    assert_eq!(
        captions[..3],
        [good("red"), good("cut \u{fffd}"), good("only here")]
    );
    let reason = captions[3].as_ref().unwrap_err();
    assert!(reason.contains("UTF-16"), "{reason}");
    assert!(source.rejected().is_empty());
    let said = "4 samples left out (3 with an empty text, 1 without a text), 0 unusable, \
                    extensions that are not read: .gif (1)";
    assert!(source.describe().contains(said), "{}", source.describe());
}

#[test]
fn names_with_dots_and_other_extensions() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.tar");
    let picture = png(1);
    let mut members: Vec<(String, &[u8])> = Vec::new();
    let names = [
        "22.05",
        "dir v2.0/1.1",
        "photo 3.5 (copy)",
        "a.b.c",
        "plain",
    ];
    for name in names {
        members.push((format!("{name}.png"), &picture));
        members.push((format!("{name}.txt"), name.as_bytes()));
    }
    let tar = |members: &[(String, &[u8])]| {
        let members: Vec<_> = members
            .iter()
            .map(|(name, b)| (name.as_str(), *b))
            .collect();
        std::fs::write(&path, tar_of(&members)).unwrap();
    };
    tar(&members);
    let source = open(&urls(path.clone())).unwrap();
    let captions = (0..5).map(|at| source.captions(Split::Train, at).unwrap().concat());
    assert_eq!(captions.collect::<Vec<_>>(), names);
    let places: HashSet<_> = (0..5).map(|at| source.place(Split::Train, at)).collect();
    assert_eq!(places.len(), 5);

    members.clear();
    for number in 0..4 {
        members.push((format!("{number}.input.png"), &picture));
        members.push((format!("{number}.outputs.txt"), b"class"));
    }
    tar(&members);
    let message = refused(&urls(path.clone()));
    for part in [
        ".input.png (4), .outputs.txt (4)",
        "`data.webdataset.image_extensions`",
        "`data.webdataset.text_extensions`",
    ] {
        assert!(message.contains(part), "{message}");
    }
    let mut config = urls(path);
    config.image_extensions = vec!["input.png".to_owned()];
    config.text_extensions = vec![".outputs.txt".to_owned()];
    let source = open(&config).unwrap();
    assert_eq!(all(&source, Split::Train), vec![("class".to_owned(), 1); 4]);
}

#[test]
fn a_damaged_member_costs_its_sample_and_a_vanished_shard_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let (one, two) = (folder.path().join("1.tar"), folder.path().join("2.tar"));
    let picture = png(1);
    let members: [(&str, &[u8]); 4] = [
        ("1.png", b"no image"),
        ("1.txt", b"one"),
        ("2.png", &picture),
        ("2.txt", b"two"),
    ];
    std::fs::write(&one, tar_of(&members)).unwrap();
    std::fs::write(&two, shard(3, 5)).unwrap();
    let source = open(&urls(folder.path().join("{1..2}.tar"))).unwrap();
    let error = source.image(Split::Train, 0).unwrap_err();
    assert!(
        error.reason.contains("its .png") && error.place.line == 0,
        "{error}"
    );
    std::fs::remove_file(&two).unwrap();
    assert!(source.image(Split::Train, 1).is_ok());
    let error = source.image(Split::Train, 2).unwrap_err();
    assert!(error.place.file.ends_with("2.tar"), "{error}");
}

#[test]
fn settings_and_shards_that_cannot_be_used_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.tar");
    let message = refused(&urls(path.clone()));
    assert!(message.contains("a.tar"), "{message}");
    std::fs::write(&path, b"no tar at all").unwrap();
    let message = refused(&urls(path.clone()));
    assert!(
        message.contains("can be used") && message.contains("header"),
        "{message}"
    );
    let empty = tempfile::tempdir().unwrap();
    let message = refused(&urls(empty.path().to_owned()));
    assert!(
        message.contains("neither index.json nor tar files"),
        "{message}"
    );

    type Change = fn(&mut WebDatasetConfig);
    let cases: [(&str, Change); 11] = [
        ("image_extensions", |c| c.image_extensions.push(".".into())),
        ("text_extensions", |c| {
            c.image_extensions.push("x".into());
            c.text_extensions.push("x".into());
        }),
        ("urls", |c| c.urls.clear()),
        ("urls", |c| c.urls.push("a{b".into())),
        ("train", |c| c.train.push("x".into())),
        ("val", |c| c.val.push("x".into())),
        ("val_fraction", |c| c.val_fraction = 2.0),
        ("captions", |c| (c.images, c.captions) = (false, false)),
        ("caption_keys", |c| c.caption_keys.push(String::new())),
        ("class_caption", |c| c.class_caption = "x".into()),
        ("cache_gb", |c| c.cache_gb = f64::NAN),
    ];
    for (key, change) in cases {
        let mut config = urls(path.clone());
        change(&mut config);
        let message = refused(&config);
        assert!(
            message.contains(&format!("`data.webdataset.{key}`")),
            "{message}"
        );
    }
}

#[test]
fn compressed_shards_are_unpacked_once_within_bounds() {
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().join("cache");
    let (one, two) = (shard(0, 20), shard(20, 40));
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&one).unwrap();
    std::fs::write(folder.path().join("1.tar.gz"), gzip.finish().unwrap()).unwrap();
    // Two frames, with one between them that must be skipped.
    let level = ruzstd::encoding::CompressionLevel::Fastest;
    let (left, right) = two.split_at(3000);
    let mut zstd = ruzstd::encoding::compress_to_vec(left, level);
    zstd.extend([0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3]);
    zstd.extend(ruzstd::encoding::compress_to_vec(right, level));
    let second = folder.path().join("2.tar.zst");
    std::fs::write(&second, &zstd).unwrap();

    let mut config = urls(folder.path().to_owned());
    let message = refused(&config);
    assert!(message.contains("data.webdataset.cache`"), "{message}");
    config.cache = Some(cache.clone());
    config.cache_gb = 1e-5;
    let message = refused(&config);
    assert!(
        message.contains("cache_gb") && message.contains("full"),
        "{message}"
    );
    config.cache_gb = 1.0;
    let source = open(&config).unwrap();
    assert_eq!(all(&source, Split::Train), numbers(0..40));
    assert!(source.rejected().is_empty(), "{:?}", source.rejected());
    assert!(source.place(Split::Train, 0).file.ends_with("1.tar.gz"));

    let unpacked = || {
        let files = std::fs::read_dir(&cache).unwrap();
        let mut files: Vec<_> = files
            .map(|file| file.unwrap())
            .map(|file| (file.path(), file.metadata().unwrap().modified().unwrap()))
            .collect();
        files.sort();
        files
    };
    let before = unpacked();
    assert_eq!(before.len(), 4);
    assert_eq!(all(&open(&config).unwrap(), Split::Train), numbers(0..40));
    assert_eq!(unpacked(), before);

    // The part of a damaged shard that can be unpacked is used and the rest is listed, also when it is opened again.
    std::fs::write(&second, &zstd[..zstd.len() - 200]).unwrap();
    for _ in 0..2 {
        let source = open(&config).unwrap();
        let found = source.len(Split::Train);
        assert!((20..40).contains(&found), "{found}");
        let reasons: Vec<String> = source.rejected().iter().map(|e| e.to_string()).collect();
        assert!(
            reasons
                .iter()
                .any(|r| r.contains("2.tar.zst") && r.contains("cannot be unpacked")),
            "{reasons:?}"
        );
    }
}

#[test]
fn an_index_that_does_not_fit_is_listed_and_not_used() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.tar");
    std::fs::write(&path, shard(0, 3)).unwrap();
    std::fs::write(shards::IndexHeader::path(&path), b"{}\n").unwrap();
    let source = open(&urls(path)).unwrap();
    assert_eq!(all(&source, Split::Train), numbers(0..3));
    assert_eq!(source.rejected().len(), 1);
    assert!(
        source.rejected()[0]
            .reason
            .contains("its index is not used")
    );
}

#[test]
fn caption_keys_that_are_nowhere_are_said() {
    let folder = tempfile::tempdir().unwrap();
    let json = br#"{"caption": "in json", "url": "u"}"#;
    let shard = tar_of(&[
        ("0.png", &png(0)),
        ("0.txt", b"in txt"),
        ("0.json", json),
        ("1.png", &png(1)),
        ("1.txt", b"in txt"),
    ]);
    std::fs::write(folder.path().join("0.tar"), shard).unwrap();
    let note = |keys: &[&str]| {
        let source = open(&WebDatasetConfig {
            caption_keys: keys.iter().map(|key| (*key).to_owned()).collect(),
            ..urls(folder.path().to_owned())
        });
        let notes = source.unwrap().notes();
        notes.into_iter().find(|note| note.contains("caption_keys"))
    };
    let said = note(&["caption", "alt", "tilte"]).unwrap();
    let expected =
        "alt, tilte in none of 1 .json that were looked at; keys that they have: caption, url";
    assert!(said.ends_with(expected), "{said}");
    assert_eq!(note(&["url"]), None);
    assert_eq!(
        note(&["caption", "captions"]),
        None,
        "the default asks for either"
    );
}

#[test]
fn a_key_that_is_there_twice_is_damage() {
    let folder = tempfile::tempdir().unwrap();
    let json = br#"{"caption": "first", "caption": "second"}"#;
    let shard = tar_of(&[("0.png", &png(0)), ("0.json", json)]);
    std::fs::write(folder.path().join("0.tar"), shard).unwrap();
    let source = open(&urls(folder.path().to_owned())).unwrap();
    let reason = source.captions(Split::Train, 0).unwrap_err().reason;
    assert!(reason.contains("`caption` is there twice"), "{reason}");
}

#[test]
fn a_damaged_json_takes_no_other_text_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let utf16: Vec<u8> = "\u{feff}{}"
        .encode_utf16()
        .flat_map(u16::to_le_bytes)
        .collect();
    let damaged: [&[u8]; 3] = [b"{\"caption\": \"j\",}", b"", &utf16];
    let members = damaged.iter().enumerate().flat_map(|(at, json)| {
        let name = |extension: &str| format!("{at}.{extension}");
        let text = format!("text {at}").into_bytes();
        [
            (name("png"), png(0)),
            (name("txt"), text),
            (name("json"), json.to_vec()),
        ]
    });
    let members: Vec<(String, Vec<u8>)> = members.collect();
    let members: Vec<(&str, &[u8])> = members.iter().map(|(n, b)| (n.as_str(), &**b)).collect();
    std::fs::write(folder.path().join("0.tar"), tar_of(&members)).unwrap();
    let source = open(&urls(folder.path().to_owned())).unwrap();
    let captions = |at| source.captions(Split::Train, at).unwrap();
    assert_eq!(all(&source, Split::Train).len(), 3);
    assert_eq!(
        [captions(0), captions(1), captions(2)],
        [["text 0"], ["text 1"], ["text 2"]]
    );
    let note = source.notes().pop().unwrap();
    assert!(
        note.contains("2 of 2 .json that were looked at cannot be read"),
        "{note}"
    );
}

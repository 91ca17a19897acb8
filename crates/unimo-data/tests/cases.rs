//! Inputs that other programs were reported to read wrongly or not at all.

use std::path::Path;
use std::sync::Arc;

use image::{DynamicImage, ImageFormat, Rgb, RgbImage};
use tempfile::TempDir;
use unimo_data::images::{Limits, decode};
use unimo_data::{DataConfig, DataError, Source, Split, open};

const MAX: Limits = Limits::full_size(1_000_000);

/// Left half red, right half blue.
fn halves() -> RgbImage {
    RgbImage::from_fn(32, 16, |x, _| {
        if x < 16 {
            Rgb([250, 10, 10])
        } else {
            Rgb([10, 10, 250])
        }
    })
}

fn encoded(format: ImageFormat) -> Vec<u8> {
    let mut bytes = std::io::Cursor::new(Vec::new());
    DynamicImage::from(halves())
        .write_to(&mut bytes, format)
        .unwrap();
    bytes.into_inner()
}

fn png_chunk(kind: &[u8; 4], data: &[u8]) -> Vec<u8> {
    let mut crc = flate2::Crc::new();
    crc.update(kind);
    crc.update(data);
    let length = (data.len() as u32).to_be_bytes();
    [&length[..], kind, data, &crc.sum().to_be_bytes()].concat()
}

/// EXIF whose only entry is orientation 6, stored with this type.
fn exif(kind: u8) -> Vec<u8> {
    let mut exif = b"II*\0\x08\0\0\0\x01\0\x12\x01".to_vec();
    exif.extend([kind, 0, 1, 0, 0, 0, 6, 0, 0, 0, 0, 0, 0, 0]);
    exif
}

fn with_exif(format: ImageFormat, exif: &[u8]) -> Vec<u8> {
    let bytes = encoded(format);
    match format {
        ImageFormat::Jpeg => {
            let exif = [b"Exif\0\0", exif].concat();
            let length = (exif.len() as u16 + 2).to_be_bytes();
            [&bytes[..2], &[0xff, 0xe1], &length, &exif, &bytes[2..]].concat()
        }
        ImageFormat::Png => {
            const HEADER: usize = 33;
            let chunk = png_chunk(b"eXIf", exif);
            [&bytes[..HEADER], &chunk, &bytes[HEADER..]].concat()
        }
        _ => {
            let length = (exif.len() as u32).to_le_bytes();
            [&bytes[..], b"EXIF", &length, exif].concat()
        }
    }
}

#[test]
fn orientation_is_applied_whatever_its_type_and_format() {
    const SHORT: u8 = 3;
    const LONG: u8 = 4;
    for format in [ImageFormat::Jpeg, ImageFormat::Png, ImageFormat::WebP] {
        for kind in [SHORT, LONG] {
            let picture = decode(&with_exif(format, &exif(kind)), MAX).unwrap();
            assert_eq!(picture.dimensions(), (16, 32), "{format:?} {kind}");
            let [top, bottom] = [4, 28].map(|y| picture.get_pixel(8, y).0);
            assert!(
                top[0] > 200 && bottom[2] > 200,
                "{format:?}: {top:?} {bottom:?}"
            );
        }
        let picture = decode(&encoded(format), MAX).unwrap();
        assert_eq!(picture.dimensions(), (32, 16));
    }
}

#[test]
fn checksums_of_png_are_compared_as_pillow_does() {
    let sound = encoded(ImageFormat::Png);
    let at = |kind: &[u8]| sound.windows(4).position(|bytes| bytes == kind).unwrap();
    let length = |at: usize| u32::from_be_bytes(sound[at - 4..at].try_into().unwrap()) as usize;
    let pixels = at(b"IDAT");
    let checksum = pixels + 4 + length(pixels);
    let mut wrong = sound.clone();
    wrong[checksum + 3] ^= 1;
    assert_eq!(decode(&wrong, MAX).unwrap(), halves());
    // The same with damaged pixels.
    wrong[pixels + 4 + length(pixels) / 2] ^= 0x10;
    assert!(decode(&wrong, MAX).is_err());
    let mut header = sound.clone();
    header[at(b"IHDR") + 4 + 13 + 3] ^= 1;
    assert!(decode(&header, MAX).is_err());
    // A damaged orientation would be ignored.
    let mut turned = with_exif(ImageFormat::Png, &exif(4));
    let place = turned
        .windows(4)
        .position(|bytes| bytes == b"eXIf")
        .unwrap();
    turned[place + 10] ^= 1;
    let reason = decode(&turned, MAX).unwrap_err();
    assert!(reason.contains("eXIf"), "{reason}");
}

fn folder(files: &[(&str, &str)]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        match *text {
            "picture" => std::fs::write(path, encoded(ImageFormat::Png)).unwrap(),
            text => std::fs::write(path, text).unwrap(),
        }
    }
    folder
}

/// The source that `--data PATH` opens.
fn data(path: &Path) -> Result<Arc<dyn Source>, DataError> {
    let mut config: DataConfig = toml::from_str(
        "[pairs]\npath = \"\"\nval_fraction = 0\n[images]\ntrain = [\"x\"]\nval_fraction = 0\n",
    )
    .unwrap();
    config.take_from(path.to_owned())?;
    open(&config)
}

fn captions(source: &dyn Source) -> Vec<String> {
    let mut all: Vec<String> = Split::ALL
        .iter()
        .flat_map(|split| source.texts(*split))
        .map(Result::unwrap)
        .collect();
    all.sort();
    all
}

const COCO: &str = r#"{"info": {}, "images": [{"id": 0, "file_name": "a.jpg", "width": null}, {"id": 1, "file_name": "b.jpg"}],
    "annotations": [{"id": 0, "image_id": 0.0, "caption": "one"}, {"id": 0, "image_id": 0, "caption": "two"}]}"#;
const KARPATHY: &str = r#"{"images": [{"filepath": "train2014", "filename": "a.jpg", "split": "train",
    "sentences": [{"raw": "one"}, {"raw": "two"}]}], "dataset": "coco"}"#;
const ARRAY: &str =
    r#"[{"image": "train2014/a.jpg", "caption": ["one", "two"], "image_id": "coco_0"}]"#;

#[test]
fn data_tells_lists_apart_by_content() {
    let lines = ARRAY.trim_matches(['[', ']']);
    let coco_in_one_line = COCO.replace('\n', " ");
    for (name, text) in [
        ("captions.json", COCO),
        ("annotations/captions.json", COCO),
        ("captions.txt", &coco_in_one_line),
        ("captions.jsonl", &coco_in_one_line),
        ("dataset.json", KARPATHY),
        ("albef.json", ARRAY),
        ("albef.jsonl", ARRAY),
        ("lines.json", lines),
        (
            "lines.csv",
            "image;caption\ntrain2014/a.jpg;one\ntrain2014\\a.jpg;two\n",
        ),
        (
            "pandas.csv",
            "filepath\ttitle\ntrain2014/a.jpg\tone\ntrain2014/a.jpg\t\"two\"\n",
        ),
    ] {
        let folder = folder(&[
            (name, text),
            ("train2014/a.jpg", "picture"),
            ("train2014/b.jpg", "picture"),
        ]);
        let source = data(&folder.path().join(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(captions(&*source), ["one", "two"], "{name}");
        assert_eq!(
            source.len(Split::Train) + source.len(Split::Val),
            1,
            "{name}"
        );
        assert!(
            source.rejected().is_empty(),
            "{name}: {:?}",
            source.rejected()
        );
        let split = if source.is_empty(Split::Train) {
            Split::Val
        } else {
            Split::Train
        };
        assert!(source.image(split, 0).unwrap().is_some(), "{name}");
    }
}

#[test]
fn absolute_paths_need_no_folder() {
    let folder = folder(&[("lists/beside/other.jpg", "picture"), ("a.jpg", "picture")]);
    let image = folder.path().join("a.jpg");
    let list = folder.path().join("lists/questions.jsonl");
    for image in [
        image.display().to_string(),
        format!("file://{}", image.display()),
    ] {
        let row = serde_json::json!({ "image": image, "question": "What?", "answer": "that", "split": "train" });
        std::fs::write(&list, format!("{row}\n")).unwrap();
        let source = data(&list).unwrap();
        assert_eq!(source.len(Split::Train), 1, "{image}");
        assert!(source.image(Split::Train, 0).unwrap().is_some(), "{image}");
    }
}

#[test]
fn data_says_which_settings_a_list_needs() {
    for (text, parts) in [
        (
            r#"{"questions": [{"image_id": 1, "question": "?", "question_id": 1}]}"#,
            ["data.source=vqa", "data.vqa.train.questions=FILE"],
        ),
        (
            r#"[["what?", "that", 0]]"#,
            ["data.source=vqa", "data.vqa.train.image="],
        ),
        (
            r#"{"images": [{"id": 1}], "annotations": [{"id": 1, "category_id": 1, "bbox": [1, 2, 3, 4]}]}"#,
            ["COCO's objects", "data.coco.train.instances=FILE"],
        ),
        (
            r#"{"annotations": [{"question_id": 1, "answers": []}]}"#,
            ["answers of VQA", "data.vqa.train.annotations=FILE"],
        ),
        (
            r#"[{"id": 1, "regions": []}]"#,
            ["Visual Genome", "data.source=visual_genome"],
        ),
        (
            r#"[{"ref_id": 1, "ann_id": 1, "sentences": []}]"#,
            ["RefCOCO", "data.refcoco.refs=FILE"],
        ),
        (
            r#"{"sentence": "x", "label": "true", "identifier": "dev-1-1-0"}"#,
            ["NLVR", "data.nlvr.train.path=FILE"],
        ),
        (
            r#"{"Flickr30K_ID": "1", "gold_label": "neutral", "sentence2": "x"}"#,
            ["SNLI-VE", "data.snli_ve.train.path=FILE"],
        ),
        (
            r#"{"data": [{"x": 1}], "other": [1]}"#,
            ["its arrays: data, other", "array of them"],
        ),
        (COCO, ["a.jpg", "data.coco.train.images=FOLDER"]),
        (KARPATHY, ["a.jpg", "data.karpathy.images=FOLDER"]),
    ] {
        let folder = folder(&[("list.json", text)]);
        let message = match data(&folder.path().join("list.json")) {
            Ok(source) => panic!("{text}: {}", source.describe()),
            Err(error) => error.to_string(),
        };
        assert!(parts.iter().all(|part| message.contains(part)), "{message}");
        assert!(
            message.contains("list.json") && !message.contains('\n'),
            "{message}"
        );
    }
    // Settings that name the list instead get an error that says what the list is.
    let folder = folder(&[("list.json", COCO)]);
    let mut config = DataConfig::default();
    config.take_from(folder.path().join("other.json")).unwrap();
    config.pairs.as_mut().unwrap().path = folder.path().join("list.json");
    let message = open(&config).err().unwrap().to_string();
    assert!(message.contains("COCO's captions"), "{message}");
}

#[test]
fn a_folder_with_metadata_is_a_list() {
    for (name, text) in [
        (
            "metadata.jsonl",
            "{\"file_name\":\"0.jpg\",\"text\":\"one\"}\n{\"file_name\":\"1.jpg\",\"text\":\"two\"}\n",
        ),
        ("metadata.csv", "file_name,text\n0.jpg,one\n1.jpg,two\n"),
    ] {
        let folder = folder(&[
            (name, text),
            ("0.jpg", "picture"),
            ("1.jpg", "picture"),
            ("._0.jpg", "x"),
            (".DS_Store", "x"),
            ("Thumbs.db", "x"),
        ]);
        let source = data(folder.path()).unwrap();
        assert_eq!(captions(&*source), ["one", "two"]);
        assert!(source.image(Split::Train, 1).unwrap().is_some());
        assert!(
            source.describe().contains("`file_name`"),
            "{}",
            source.describe()
        );
    }
    let mac = folder(&[
        ("0.jpg", "picture"),
        ("1.JPG", "picture"),
        ("__MACOSX/._0.jpg", "x"),
        ("._1.JPG", "x"),
    ]);
    let source = data(mac.path()).unwrap();
    assert_eq!(source.len(Split::Train) + source.len(Split::Val), 2);
    assert!(
        source.describe().contains("2 files left out"),
        "{}",
        source.describe()
    );
    let parts = folder(&[("train/metadata.jsonl", "{}"), ("train/0.jpg", "picture")]);
    let message = data(parts.path()).err().unwrap().to_string();
    assert!(message.contains("train/metadata.jsonl"), "{message}");
}

#[test]
fn byte_order_marks_are_no_text() {
    let folder = folder(&[
        (
            "a.txt",
            "\u{feff}first line of a book\r\n\r\nsecond line\r\n",
        ),
        ("b.txt", "last without newline"),
    ]);
    for (unit, expected) in [
        (
            "line",
            vec![
                "first line of a book",
                "last without newline",
                "second line",
            ],
        ),
        (
            "paragraph",
            vec![
                "first line of a book",
                "last without newline",
                "second line",
            ],
        ),
    ] {
        let mut config: DataConfig = toml::from_str(&format!(
            "source = \"texts\"\n[texts]\ntrain = [\".\"]\nval_fraction = 0\ntext = \"{unit}\"\n"
        ))
        .unwrap();
        config.rebase(folder.path());
        assert_eq!(captions(&*open(&config).unwrap()), expected);
    }
    let utf16: Vec<u8> = "\u{feff}words"
        .encode_utf16()
        .flat_map(u16::to_le_bytes)
        .collect();
    std::fs::write(folder.path().join("c.txt"), utf16).unwrap();
    let mut config: DataConfig =
        toml::from_str("source = \"texts\"\n[texts]\ntrain = [\".\"]\n").unwrap();
    config.rebase(folder.path());
    let message = open(&config).err().unwrap().to_string();
    assert!(
        message.contains("UTF-16") && message.contains("c.txt"),
        "{message}"
    );
}

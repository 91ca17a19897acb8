use std::sync::Arc;

use unimo_batch::{Entailment, TextRole};

use super::*;
use crate::error::Place;
use crate::images::Limits;
use crate::sources::fixtures::{NLVR, folder, open};
use crate::sources::pack::index::{INDEX, PackFormat, PackSpec, parse_pack};
use crate::sources::pack::verify::verify_pack;
use crate::sources::scenes::ScenesConfig;
use crate::sources::source::{Sample, SourceConfig};
use crate::sources::webdataset::WebDatasetConfig;

const LIMITS: Limits = Limits::full_size(1_000_000);

fn scenes(train: usize) -> Arc<dyn Source> {
    let config = ScenesConfig {
        train,
        val: 8,
        size: 32,
        ..ScenesConfig::default()
    };
    config.open(&LIMITS).unwrap()
}

fn reopened(folder: &Path) -> Arc<dyn Source> {
    let config = WebDatasetConfig {
        train: vec![folder.to_owned()],
        ..WebDatasetConfig::default()
    };
    config.validate("data.webdataset").unwrap();
    config.open(&LIMITS).unwrap()
}

fn small() -> PackSpec {
    PackSpec {
        samples: 7,
        ..PackSpec::default()
    }
}

fn quietly(_: usize, _: usize) {}

/// A sample of packed shards as its source had it. In shards, the image is identified by its content.
fn read(again: &dyn Source, index: usize) -> Sample {
    let sample = again.sample(Split::Train, index).unwrap();
    assert!(sample.picture_id.is_some());
    Sample {
        picture_id: None,
        ..sample
    }
}

fn files(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let mut files: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| {
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            (name, fs::read(&path).unwrap())
        })
        .collect();
    files.sort();
    files
}

/// A source with some broken samples.
struct Broken(Arc<dyn Source>, fn(usize) -> bool);

impl Source for Broken {
    fn len(&self, split: Split) -> usize {
        self.0.len(split)
    }

    fn describe(&self) -> String {
        "partly broken".to_owned()
    }

    fn place(&self, split: Split, index: usize) -> Place {
        self.0.place(split, index)
    }

    fn captions(&self, split: Split, index: usize) -> Result<Vec<String>, SampleError> {
        self.0.captions(split, index)
    }

    fn image(&self, split: Split, index: usize) -> Result<Option<RgbImage>, SampleError> {
        self.0.image(split, index)
    }

    fn sample(&self, split: Split, index: usize) -> Result<Sample, SampleError> {
        if (self.1)(index) {
            return Err(SampleError::new(
                self.place(split, index),
                "broken".to_owned(),
            ));
        }
        self.0.sample(split, index)
    }
}

/// Reading what was packed gives the same samples in the same order, whatever the size of the shards.
#[test]
fn what_is_packed_is_what_is_read() {
    for count in [1, 7, 40] {
        for (samples, bytes) in [(1000, 1 << 30), (7, 1 << 30), (1000, 6000), (1000, 1)] {
            let folder = tempfile::tempdir().unwrap();
            let source = scenes(count.max(8));
            let spec = PackSpec {
                samples,
                bytes,
                ..PackSpec::default()
            };
            let index = pack(&*source, Split::Train, folder.path(), &spec, &mut quietly).unwrap();
            let items = source.len(Split::Train);
            assert_eq!((index.samples, index.skipped.len()), (items, 0));
            let again = reopened(folder.path());
            let sizes: Vec<usize> = index.shards.iter().map(|shard| shard.samples).collect();
            assert_eq!(again.shards(Split::Train), sizes);
            assert!(sizes.iter().all(|size| *size <= samples));
            assert_eq!(bytes == 1, sizes.len() == items);
            assert_eq!((again.len(Split::Train), again.len(Split::Val)), (items, 0));
            for at in 0..items {
                let sample = source.sample(Split::Train, at).unwrap();
                assert_eq!(read(&*again, at), sample);
                assert_eq!(again.captions(Split::Train, at).unwrap(), sample.captions);
                assert_eq!(again.phrases(Split::Train, at).unwrap(), sample.phrases);
                assert_eq!(again.tags(Split::Train, at).unwrap(), sample.tags);
            }
            assert_eq!(verify_pack(folder.path()).unwrap(), index);
        }
    }
}

/// A sample without the lines of its texts, which mean nothing in a shard.
fn without_lines(source: &dyn Source, index: usize) -> Sample {
    let mut sample = source.sample(Split::Train, index).unwrap();
    for label in &mut sample.labels {
        label.line = None;
    }
    sample
}

#[test]
fn both_pictures_of_a_pair_are_packed_as_they_are_stored() {
    let list = r#"{"sentence": "Both have dogs.", "identifier": "dev-1-0-0", "label": "True"}
{"sentence": "One has a cat.", "identifier": "dev-2-0-0", "label": "False"}
{"sentence": "A tower.", "label": "True", "images": ["a.png"]}
"#;
    let pictures = folder(&[
        ("n.json", list),
        ("i/dev-1-0-img0.png", "40x20"),
        ("i/dev-1-0-img1.png", "20x60"),
        ("i/dev-2-0-img0.png", "5x2"),
        ("i/a.png", "2x2"),
    ]);
    let source = open(&pictures, NLVR).unwrap();
    let shrunk = PackSpec {
        shorter_side: Some(8),
        ..PackSpec::default()
    };
    for (spec, sizes) in [
        (PackSpec::default(), [(40, 20), (20, 60)]),
        (shrunk, [(16, 8), (8, 24)]),
    ] {
        let out = tempfile::tempdir().unwrap();
        let index = pack(&*source, Split::Train, out.path(), &spec, &mut quietly).unwrap();
        assert_eq!((index.samples, index.skipped.len()), (2, 1));
        assert!(index.skipped[0].reason.contains("dev-2-0-img1.png"));
        let again = reopened(out.path());
        let pair = again.sample(Split::Train, 0).unwrap();
        let (left, right) = (pair.image.as_ref().unwrap(), pair.second_image.as_ref());
        assert_eq!([left.dimensions(), right.unwrap().dimensions()], sizes);
        if spec.shorter_side.is_none() {
            assert_eq!(read(&*again, 0), without_lines(&*source, 0));
            let file = fs::read(pictures.path().join("i/dev-1-0-img1.png")).unwrap();
            let stored = again.second_image_bytes(Split::Train, 0).unwrap();
            assert_eq!(stored, Some((file, "png")));
        }
        let single = again.sample(Split::Train, 1).unwrap();
        assert_eq!(single.second_image, None);
        assert_eq!(single.statements, [("A tower.".to_owned(), true)]);
        assert_eq!(verify_pack(out.path()).unwrap(), index);
    }
}

#[test]
fn what_texts_say_of_their_pictures_is_packed_too() {
    let questions = r#"{"questions": [
            {"image_id": 1, "question": "What is it?", "question_id": 1},
            {"image_id": 1, "question": "Is it red?", "question_id": 2}]}"#;
    let hypotheses = r#"{"Flickr30K_ID": "1", "gold_label": "neutral", "sentence2": "Two women."}
{"Flickr30K_ID": "1", "gold_label": "entailment", "sentence2": "Women."}
{"Flickr30K_ID": "1", "gold_label": "contradiction", "sentence2": "Women."}
"#;
    let pictures = folder(&[
        ("q.json", questions),
        ("s.json", hypotheses),
        (
            "n.json",
            r#"{"sentence": "A tower.", "label": "False", "images": ["1.jpg"]}"#,
        ),
        ("i/1.jpg", "4x2"),
    ]);
    let part = "path = \"s.json\"\nimages = \"i\"\n";
    let vqa = "questions = \"q.json\"\nimages = \"i\"\nimage = \"{id}.jpg\"\n";
    let all = |kind: &str, part: &str| {
        format!("source = \"{kind}\"\n[{kind}]\nval_fraction = 0\n[{kind}.train]\n{part}")
    };
    for (data, roles) in [
        (NLVR.to_owned(), vec![TextRole::Statement { holds: false }]),
        (all("vqa", vqa), vec![TextRole::Question; 2]),
        (
            all("snli_ve", part),
            vec![
                TextRole::Hypothesis(Entailment::Neutral),
                TextRole::Hypothesis(Entailment::Entailed),
                TextRole::Hypothesis(Entailment::Contradicted),
            ],
        ),
    ] {
        let source = open(&pictures, &data).unwrap();
        assert_eq!(source.roles(Split::Train, 0).unwrap(), roles);
        let out = tempfile::tempdir().unwrap();
        pack(&*source, Split::Train, out.path(), &small(), &mut quietly).unwrap();
        let again = reopened(out.path());
        assert_eq!(again.roles(Split::Train, 0).unwrap(), roles);
        assert_eq!(read(&*again, 0), without_lines(&*source, 0));
    }
}

#[test]
fn classes_of_pictures_without_texts_are_packed_too() {
    let pictures = folder(&[("a/cat/1.png", "2x2"), ("a/dog/2.png", "3x3")]);
    let data =
        "source = \"images\"\n[images]\ntrain = [\"a\"]\nval_fraction = 0\nclasses = \"folders\"\n";
    let source = open(&pictures, data).unwrap();
    let out = tempfile::tempdir().unwrap();
    pack(&*source, Split::Train, out.path(), &small(), &mut quietly).unwrap();
    let again = reopened(out.path());
    assert!(!again.has_captions());
    for (index, class) in ["cat", "dog"].into_iter().enumerate() {
        let labels = again.labels(Split::Train, index).unwrap();
        assert_eq!(labels[0].answer.as_deref(), Some(class));
    }
}

#[test]
fn packing_again_keeps_what_is_whole_and_gives_the_same_bytes() {
    let source = Broken(scenes(40), |index| index % 9 == 2);
    let whole = tempfile::tempdir().unwrap();
    let go = |folder: &Path, progress: &mut dyn FnMut(usize, usize)| {
        pack(&source, Split::Train, folder, &small(), progress).unwrap()
    };
    let index = go(whole.path(), &mut quietly);
    assert_eq!((index.samples, index.skipped.len()), (35, 5));
    assert_eq!(index.skipped[1].place.line, 11);
    let expected = files(whole.path());

    // Interrupted in the third shard of five. The second one is also damaged, and of one there is the index alone, which is written first.
    let other = tempfile::tempdir().unwrap();
    go(other.path(), &mut quietly);
    fs::remove_file(other.path().join(INDEX)).unwrap();
    fs::remove_file(other.path().join("000003.tar")).unwrap();
    let damaged = other.path().join("000001.tar");
    let mut bytes = fs::read(&damaged).unwrap();
    bytes[700] ^= 1;
    fs::write(&damaged, bytes).unwrap();
    let mut steps = Vec::new();
    let again = go(other.path(), &mut |done, _| steps.push(done));
    assert_eq!(again, index);
    assert_eq!(files(other.path()), expected);
    // A shard that is kept is one step; each other item is one step.
    assert_eq!(steps[0], 8);
    assert!(steps.contains(&9) && steps.len() < 40, "{steps:?}");
}

#[test]
fn a_folder_of_something_else_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    pack(
        &*scenes(10),
        Split::Train,
        folder.path(),
        &small(),
        &mut quietly,
    )
    .unwrap();
    let message = pack(
        &*scenes(11),
        Split::Train,
        folder.path(),
        &small(),
        &mut quietly,
    )
    .unwrap_err()
    .to_string();
    assert!(message.contains("something else"), "{message}");
    // What others wrote is not written over: a tar file without an index of ours, and another kind of index.
    for (name, bytes) in [("000000.tar", &b"mine"[..]), (INDEX, b"{\"mine\": 1}")] {
        let foreign = tempfile::tempdir().unwrap();
        fs::write(foreign.path().join(name), bytes).unwrap();
        let error = pack(
            &*scenes(10),
            Split::Train,
            foreign.path(),
            &small(),
            &mut quietly,
        );
        let message = error.unwrap_err().to_string();
        assert!(
            message.contains(name) && message.contains("choose another"),
            "{message}"
        );
        assert_eq!(fs::read(foreign.path().join(name)).unwrap(), bytes);
    }
    let nothing = Broken(scenes(10), |_| true);
    let empty = tempfile::tempdir().unwrap();
    let message = pack(&nothing, Split::Train, empty.path(), &small(), &mut quietly)
        .unwrap_err()
        .to_string();
    assert!(message.contains("broken"), "{message}");
}

#[test]
fn verifying_names_what_is_damaged() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    pack(
        &*scenes(30),
        Split::Train,
        folder.path(),
        &small(),
        &mut quietly,
    )
    .unwrap();
    let flip = |name: &str, byte: usize| {
        let mut bytes = fs::read(at(name)).unwrap();
        bytes[byte] ^= 1;
        fs::write(at(name), bytes).unwrap();
    };
    flip("000000.tar", 600);
    flip("000001.tar.index", 300);
    fs::remove_file(at("000002.tar")).unwrap();
    let cut = fs::read(at("000003.tar")).unwrap();
    fs::write(at("000003.tar"), &cut[..cut.len() - 512]).unwrap();
    let message = verify_pack(folder.path()).unwrap_err().to_string();
    for part in [
        "4 of 5 shards",
        "000000.tar: its checksum",
        "000001.tar: the checksum of its index",
        "000002.tar",
        "000003.tar: ",
    ] {
        assert!(message.contains(part), "{message}");
    }
}

#[test]
fn larger_pictures_are_brought_down() {
    let folder = tempfile::tempdir().unwrap();
    let spec = PackSpec {
        format: PackFormat::Jpeg(90),
        shorter_side: Some(16),
        ..PackSpec::default()
    };
    let source = scenes(8);
    pack(&*source, Split::Train, folder.path(), &spec, &mut quietly).unwrap();
    let again = reopened(folder.path());
    let picture = again.image(Split::Train, 0).unwrap().unwrap();
    assert_eq!(picture.dimensions(), (16, 16));
    assert_eq!(
        again.image_bytes(Split::Train, 0).unwrap().unwrap().1,
        "jpg"
    );
    for (spec, key) in [
        (
            PackSpec {
                samples: 0,
                ..small()
            },
            "pack.samples",
        ),
        (
            PackSpec {
                bytes: 0,
                ..small()
            },
            "pack.bytes",
        ),
        (
            PackSpec {
                format: PackFormat::Jpeg(0),
                ..small()
            },
            "pack.format",
        ),
        (
            PackSpec {
                shorter_side: Some(1),
                ..small()
            },
            "pack.shorter_side",
        ),
    ] {
        let message = spec.validate().unwrap_err().to_string();
        assert!(message.contains(key), "{message}");
    }
}

#[test]
fn an_index_that_leads_out_of_the_folder_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let index = pack(
        &*scenes(8),
        Split::Train,
        folder.path(),
        &small(),
        &mut quietly,
    )
    .unwrap();
    for name in ["../a.tar", "/a.tar", "", "..", "http://a/b.tar", "a\\b.tar"] {
        let mut index = index.clone();
        index.shards[0].file = name.to_owned();
        let bytes = serde_json::to_vec(&index).unwrap();
        assert!(
            parse_pack(&bytes).unwrap_err().contains("no name"),
            "{name}"
        );
    }
}

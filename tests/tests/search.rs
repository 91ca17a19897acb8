//! Searching: over files and over data sets, with and without a saved index.

use std::path::{Path, PathBuf};

use unimo_data::pack::{PackSpec, pack};
use unimo_data::{DataConfig, Split};
use unimo_tests::small::{columns, train};
use unimo_train::apply::embed::{self, EmbedArgs};
use unimo_train::apply::index::{Embedded, LONGEST_NOTE, Part, Saved, What, write};
use unimo_train::apply::pictures::PictureList;
use unimo_train::apply::search::{self, SearchArgs};
use unimo_train::apply::{BatchArgs, ModelArgs, Predictor};
use unimo_train::device::DeviceChoice;

const BATCH: BatchArgs = BatchArgs { batch_size: 4 };

fn model(path: &Path) -> ModelArgs {
    ModelArgs {
        model: path.display().to_string(),
        tokenizer: None,
        step: None,
        device: DeviceChoice::Flex,
    }
}

/// Some images in `photos`, and a list of them with captions.
fn photos(folder: &Path) -> PathBuf {
    let photos = folder.join("photos");
    std::fs::create_dir(&photos).unwrap();
    let mut rows = Vec::new();
    for at in 0..12u32 {
        let shade = |x: u32, y: u32| [20 * at, 255 - 20 * at, 7 * at * (x + y)].map(|c| c as u8);
        let picture = image::RgbImage::from_fn(41, 30, |x, y| image::Rgb(shade(x, y)));
        picture.save(photos.join(format!("{at:02}.png"))).unwrap();
        rows.push(format!(
            r#"{{"image": "photos/{at:02}.png", "caption": "a circle number {at}"}}"#
        ));
    }
    let list = folder.join("list.jsonl");
    std::fs::write(&list, rows.join("\n")).unwrap();
    list
}

/// The same as tar shards, all in one split.
fn shards(list: &Path, folder: &Path) -> PathBuf {
    let mut config = DataConfig::default();
    config.take_from(list.to_owned()).unwrap();
    if let Some(pairs) = &mut config.pairs {
        pairs.val_fraction = 0.0;
    }
    let source = unimo_data::open(&config).unwrap();
    let out = folder.join("shards");
    let spec = PackSpec::default();
    pack(
        &*source,
        Split::Train,
        &out.join("train"),
        &spec,
        &mut |_, _| (),
    )
    .unwrap();
    out
}

fn search_args(run: &Path, out: &Path) -> SearchArgs {
    SearchArgs {
        model: model(run),
        batch: BATCH,
        images: None,
        text: Vec::new(),
        texts: None,
        image: Vec::new(),
        index: None,
        exact: false,
        split: None,
        columns: columns(),
        top: 5,
        shortlist: None,
        out: Some(out.to_owned()),
        html: None,
    }
}

fn embed_args(run: &Path, out: &Path) -> EmbedArgs {
    EmbedArgs {
        model: model(run),
        batch: BATCH,
        images: None,
        texts: None,
        split: None,
        pooling: None,
        columns: columns(),
        out: out.to_owned(),
        recall: None,
    }
}

/// What was found for each query: names, similarities, scores.
fn found(args: &SearchArgs) -> serde_json::Value {
    search::run(args).unwrap_or_else(|e| panic!("{e}"));
    let text = std::fs::read_to_string(args.out.as_ref().unwrap()).unwrap();
    serde_json::from_str(&text).unwrap()
}

/// The numbers of all results, without names.
fn numbers(found: &serde_json::Value) -> Vec<(Option<f64>, Option<f64>)> {
    let queries = found.as_array().unwrap().iter();
    let hits = queries.flat_map(|query| query["results"].as_array().unwrap());
    hits.map(|hit| (hit["similarity"].as_f64(), hit["score"].as_f64()))
        .collect()
}

#[test]
fn a_data_set_gives_what_its_files_give() {
    let folder = tempfile::tempdir().unwrap();
    let list = photos(folder.path());
    let shards = shards(&list, folder.path());
    let run = folder.path().join("run");
    train(&run, &[]);
    let out = folder.path().join("found.json");
    let queries = ["a red circle", "a circle number 3"].map(str::to_owned);
    let of = |images: PathBuf| SearchArgs {
        images: Some(images),
        text: queries.to_vec(),
        html: Some(folder.path().join("found.html")),
        ..search_args(&run, &out)
    };
    let in_folder = found(&of(folder.path().join("photos")));
    assert_eq!(numbers(&in_folder).len(), 10);
    assert_eq!(numbers(&found(&of(shards.clone()))), numbers(&in_folder));
    let page = std::fs::read_to_string(folder.path().join("found.html")).unwrap();
    assert_eq!(page.matches("<img").count(), 10, "an image for each result");
    // Its captions, too.
    let of = |texts: PathBuf| SearchArgs {
        texts: Some(texts),
        image: vec![folder.path().join("photos/03.png")],
        ..search_args(&run, &out)
    };
    assert_eq!(found(&of(shards.clone())), found(&of(list)));
    let wrong = SearchArgs {
        split: Some(Split::Val),
        ..of(shards)
    };
    let message = search::run(&wrong).unwrap_err().to_string();
    assert!(message.contains("holds no texts"), "{message}");
}

/// COCO's captions, and the data of a recipe.
#[test]
fn other_sources_are_opened_as_for_training() {
    let folder = tempfile::tempdir().unwrap();
    photos(folder.path());
    let names: Vec<String> = (0..12).map(|at| format!("{at:02}.png")).collect();
    let images: Vec<_> = names
        .iter()
        .enumerate()
        .map(|(id, name)| serde_json::json!({"id": id, "file_name": name}))
        .collect();
    let annotations: Vec<_> = (0..24)
        .map(|id| serde_json::json!({"id": id, "image_id": id % 12, "caption": format!("shape {id}")}))
        .collect();
    let coco = folder.path().join("photos/captions.json");
    let text = serde_json::json!({"images": images, "annotations": annotations}).to_string();
    std::fs::write(&coco, text).unwrap();
    let list = PictureList::open(&coco, &columns(), None).unwrap();
    let mut found = list.names().to_vec();
    found.sort();
    assert_eq!(found, names);

    let recipe = folder.path().join("scenes.toml");
    let text = "extends = \"unimo3-tiny\"\n[data.scenes]\ntrain = 5\nval = 3\n";
    std::fs::write(&recipe, text).unwrap();
    for (split, count) in [(None, 8), (Some(Split::Val), 3)] {
        let list = PictureList::open(&recipe, &columns(), split).unwrap();
        assert_eq!(list.len(), count);
        assert_eq!(list.read(0).unwrap().dimensions(), (64, 64));
    }
    let photos = folder.path().join("photos");
    let split = PictureList::open(&photos, &columns(), Some(Split::Val));
    let message = split.err().unwrap().to_string();
    assert!(message.contains("--split val"), "{message}");
}

#[test]
fn an_index_gives_what_a_search_without_it_gives() {
    let folder = tempfile::tempdir().unwrap();
    let list = photos(folder.path());
    let photos = folder.path().join("photos");
    let run = folder.path().join("run");
    train(&run, &[]);
    let out = folder.path().join("found.json");
    let text = vec!["a red circle".to_owned(), "blue".to_owned()];
    let plain = SearchArgs {
        images: Some(photos.clone()),
        text: text.clone(),
        ..search_args(&run, &out)
    };
    let of_texts = SearchArgs {
        texts: Some(list.clone()),
        image: vec![photos.join("03.png")],
        ..search_args(&run, &out)
    };
    let (expected, expected_texts) = (found(&plain), found(&of_texts));
    let space = SearchArgs {
        shortlist: Some(0),
        ..plain
    };
    let of_space = found(&space);
    for recall in [None, Some(1.0)] {
        let index = folder.path().join("index.safetensors");
        embed::run(&EmbedArgs {
            images: Some(photos.clone()),
            texts: Some(list.clone()),
            recall,
            ..embed_args(&run, &index)
        })
        .unwrap();
        let indexed = |images: Option<&Path>, shortlist: Option<usize>| SearchArgs {
            images: images.map(Path::to_owned),
            text: text.clone(),
            index: Some(index.clone()),
            shortlist,
            ..search_args(&run, &out)
        };
        // With the images the matching head ranks, without them the common space.
        assert_eq!(found(&indexed(Some(&photos), None)), expected);
        assert_eq!(found(&indexed(None, None)), of_space);
        let exact = SearchArgs {
            exact: true,
            ..indexed(None, Some(0))
        };
        let asked = search::run(&exact);
        let message = asked
            .map(|()| String::new())
            .unwrap_or_else(|e| e.to_string());
        assert!(
            message.is_empty() || message.contains("--shortlist 0"),
            "{message}"
        );
        let texts = SearchArgs {
            image: vec![photos.join("03.png")],
            index: Some(index.clone()),
            ..search_args(&run, &out)
        };
        assert_eq!(found(&texts), expected_texts);
        let message = search::run(&indexed(None, Some(8)))
            .unwrap_err()
            .to_string();
        assert!(message.contains("--images"), "{message}");
    }
}

#[test]
fn an_index_of_another_model_or_other_data_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    photos(folder.path());
    let photos = folder.path().join("photos");
    let (run, other) = (folder.path().join("run"), folder.path().join("other"));
    train(&run, &[]);
    train(&other, &["seed=5"]);
    let index = folder.path().join("index.safetensors");
    embed::run(&EmbedArgs {
        images: Some(photos.clone()),
        ..embed_args(&run, &index)
    })
    .unwrap();
    let out = folder.path().join("found.json");
    let of = |run: &Path, images: Option<PathBuf>| SearchArgs {
        images,
        text: vec!["a map".to_owned()],
        index: Some(index.clone()),
        ..search_args(run, &out)
    };
    let refused = |args: &SearchArgs, says: &str| {
        let message = search::run(args).unwrap_err().to_string();
        assert!(message.contains(says), "{message}");
    };
    search::run(&of(&run, Some(photos.clone()))).unwrap();
    refused(&of(&other, None), "another model");
    std::fs::copy(photos.join("00.png"), photos.join("12.png")).unwrap();
    refused(
        &of(&run, Some(photos.clone())),
        "of 12 then, there are 13 now",
    );
    let texts = SearchArgs {
        text: Vec::new(),
        image: vec![photos.join("00.png")],
        ..of(&run, None)
    };
    refused(&texts, "no embeddings of texts");
    let nowhere = SearchArgs {
        index: None,
        ..of(&run, None)
    };
    refused(&nowhere, "--text needs --images");
}

/// Names that are too long for the notes of a file come back from a tensor.
#[test]
fn many_names_are_kept() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("index.safetensors");
    let ids: Vec<String> = ["a", "\"b\"\n", "ü"]
        .map(|end| format!("{}{end}", "x".repeat(LONGEST_NOTE / 2)))
        .to_vec();
    let part = Part {
        what: What::Images,
        rows: Embedded {
            ids: ids.clone(),
            width: 2,
            values: vec![1.0, 0.0, 0.0, 1.0, 0.6, 0.8],
            skipped: Vec::new(),
        },
        model: "m".to_owned(),
        data: "3 d".to_owned(),
        cells: None,
    };
    write(&path, &[part]).unwrap();
    let mut saved = Saved::open(&path, What::Images, "m", "a run").unwrap();
    assert_eq!(saved.ids(), ids);
    let found = saved.nearest(vec![&[0.0, 1.0]], 2).unwrap();
    let rows: Vec<usize> = found[0].iter().map(|near| near.row).collect();
    assert_eq!(rows, [1, 2]);
    let other = Saved::open(&path, What::Images, "n", "a run");
    assert!(other.err().unwrap().to_string().contains("another model"));
}

/// A run and its export make the same index.
#[test]
fn an_export_reads_the_index_of_its_run() {
    let folder = tempfile::tempdir().unwrap();
    photos(folder.path());
    let run = folder.path().join("run");
    train(&run, &[]);
    let export = folder.path().join("export");
    unimo_train::export::run(&unimo_train::export::ExportArgs {
        model: run.display().to_string(),
        out: export.clone(),
        part: unimo_train::export::Part::Whole,
        dtype: unimo_encoders::weights::Dtype::F32,
        step: None,
        licence: None,
    })
    .unwrap();
    let digest = |path: &Path, what| {
        let predictor = Predictor::open(&model(path)).unwrap();
        unimo_train::apply::index::digest(&predictor, what).unwrap()
    };
    for what in [What::Images, What::Texts] {
        assert_eq!(digest(&run, what), digest(&export, what), "{what:?}");
    }
}

/// A byte of an index that a disk has changed is noticed when its row is read, and a name when the file is opened.
#[test]
fn a_changed_byte_of_an_index_is_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("index.safetensors");
    let part = Part {
        what: What::Images,
        rows: Embedded {
            ids: ["first", "second", "third"].map(str::to_owned).to_vec(),
            width: 2,
            values: vec![1.0, 0.0, 0.0, 1.0, 0.6, 0.8],
            skipped: Vec::new(),
        },
        model: "m".to_owned(),
        data: "3 d".to_owned(),
        cells: None,
    };
    write(&path, &[part]).unwrap();
    let whole = std::fs::read(&path).unwrap();
    let at = |part: &[u8]| {
        let mut windows = whole.windows(part.len());
        windows.position(|bytes| bytes == part).unwrap()
    };
    let value = at(&0.6f32.to_le_bytes());
    let name = at(b"second");
    for (at, says) in [
        (value, "row 3 is not what was written"),
        (name, "is damaged"),
    ] {
        let mut damaged = whole.clone();
        damaged[at] ^= 1;
        std::fs::write(&path, &damaged).unwrap();
        let found = Saved::open(&path, What::Images, "m", "a run")
            .and_then(|mut saved| saved.nearest(vec![&[0.0, 1.0]], 2));
        let error = found.err().unwrap().to_string();
        assert!(error.contains(says), "{error}");
    }
}

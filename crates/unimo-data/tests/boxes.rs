//! Boxes of expressions, from their files to the targets of a batch.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use image::RgbImage;
use unimo_batch::Target;
use unimo_data::images::augment::AugmentConfig;
use unimo_data::images::{Resize, Window};
use unimo_data::sources::refcoco::RefcocoConfig;
use unimo_data::{
    Batches, DataConfig, Each, Label, Loader, LoaderSpec, MakeTarget, SkipList, SourceKind, Split,
    TaskSet, TextTokenizer, Wanted, open,
};

/// A box is the target where it is known.
struct Boxes;

impl MakeTarget for Boxes {
    fn target(&self, label: &Label) -> Target {
        label.bounds.map_or(Target::Unknown, Target::Box)
    }
}

/// Three expressions about an image of 40 x 20 pixels, whose middle 20 columns a centre crop shows.
fn spec(folder: &Path, split: Split, resize: Resize) -> LoaderSpec {
    let references = r#"[
        {"ann_id": 1, "split": "SPLIT", "sentences": [{"sent_id": 4, "sent": "in the middle"}]},
        {"ann_id": 2, "split": "SPLIT", "sentences": [{"sent_id": 5, "sent": "partly seen"}]},
        {"ann_id": 3, "split": "SPLIT", "sentences": [{"sent_id": 6, "sent": "far left"}]}]"#;
    let instances = r#"{"images": [{"id": 5, "file_name": "5.png", "width": 40, "height": 20}],
        "annotations": [{"id": 1, "image_id": 5, "category_id": 3, "bbox": [15, 5, 10, 10]},
        {"id": 2, "image_id": 5, "category_id": 3, "bbox": [25, 0, 10, 20]},
        {"id": 3, "image_id": 5, "category_id": 3, "bbox": [0, 0, 9, 20]}],
        "categories": [{"id": 3, "name": "cat"}]}"#;
    let references = references.replace("SPLIT", split.name());
    fs::write(folder.join("refs.json"), references).unwrap();
    fs::write(folder.join("instances.json"), instances).unwrap();
    RgbImage::new(40, 20).save(folder.join("5.png")).unwrap();
    let config = DataConfig {
        source: SourceKind::Refcoco,
        refcoco: Some(RefcocoConfig {
            refs: folder.join("refs.json"),
            instances: folder.join("instances.json"),
            images: folder.to_owned(),
            train_split: Vec::new(),
            val_split: Vec::new(),
            test_split: Vec::new(),
        }),
        image_size: 8,
        resize,
        workers: Some(1),
        ..DataConfig::default()
    };
    let texts = ["in the middle partly seen far left"; 3].map(str::to_owned);
    let tokenizer = Arc::new(TextTokenizer::train(texts.into_iter(), 280).unwrap());
    let source = open(&config).unwrap();
    let skip = Arc::new(SkipList::in_memory(0.0));
    let batches = Batches { size: 3, seed: 0 };
    LoaderSpec {
        split,
        targets: Some(Arc::new(Boxes)),
        ..LoaderSpec::new(&config, source, tokenizer, skip, batches)
    }
}

fn each(spec: &LoaderSpec) -> Each {
    let known = |label: &Label| Ok(label.bounds.is_some());
    let wanted = Wanted {
        what: "a box",
        images_alone: false,
    };
    Each::new(Arc::clone(&spec.source), &[spec.split], &known, wanted).unwrap()
}

#[test]
fn targets_are_boxes_in_what_the_model_sees() {
    let folder = tempfile::tempdir().unwrap();
    let read = |resize| {
        let spec = spec(folder.path(), Split::Val, resize);
        let each = each(&spec);
        let set = TaskSet::new(spec, each).unwrap();
        set.read(0..set.len()).unwrap()
    };
    let read_squashed = read(Resize::Squash);
    let whole = [
        [0.375, 0.25, 0.625, 0.75],
        [0.625, 0.0, 0.875, 1.0],
        [0.0, 0.0, 0.225, 1.0],
    ];
    assert_eq!(
        read_squashed.batch.unwrap().targets,
        whole.map(Target::Box).to_vec()
    );
    assert_eq!(read_squashed.windows, [Window::WHOLE; 3]);
    let cropped = read(Resize::Crop);
    // The last box is cut away: it is unknown, and what learns counts it as left out.
    assert_eq!(
        cropped.batch.unwrap().targets,
        [
            Target::Box([0.25, 0.25, 0.75, 0.75]),
            Target::Box([0.75, 0.0, 1.0, 1.0]),
            Target::Unknown,
        ]
    );
    // It is judged all the same: the label keeps the box of the whole image.
    let labels = cropped.rows.iter().map(|row| row.label.bounds.unwrap());
    assert_eq!(labels.collect::<Vec<_>>(), whole);
    let back = cropped.windows[0].original([0.25, 0.25, 0.75, 0.75]);
    assert_eq!(back, whole[0]);
    let ids = cropped.rows.iter().map(|row| row.label.id.as_str());
    assert_eq!(ids.collect::<Vec<_>>(), ["4", "5", "6"]);
}

#[test]
fn a_box_in_a_moved_image_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let spec = spec(folder.path(), Split::Train, Resize::Squash);
    let source = Arc::new(each(&spec));
    let flip = |flip| {
        let augment = AugmentConfig {
            scale: [1.0, 1.0],
            ratio: [1.0, 1.0],
            flip,
            colour_jitter: None,
            rand_augment: None,
        };
        let spec = LoaderSpec {
            source: Arc::<Each>::clone(&source),
            augment: Some(augment),
            ..spec.clone()
        };
        Loader::new(spec).unwrap().next().unwrap()
    };
    assert_eq!(flip(0.0).unwrap().targets.len(), 3);
    let error = flip(0.5).unwrap_err().to_string();
    assert!(error.contains("data.augment moves the image"), "{error}");
}

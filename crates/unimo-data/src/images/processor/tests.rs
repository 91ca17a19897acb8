use serde_json::Map;

use super::*;

/// As in openai/clip-vit-base-patch16, google/vit-base-patch16-224, facebook/deit-base-distilled-patch16-224 and
/// BridgeTower/bridgetower-base.
const CLIP: &str = r#"{"crop_size": 224, "do_center_crop": true, "do_normalize": true, "do_resize": true,
    "feature_extractor_type": "CLIPFeatureExtractor", "resample": 3, "size": 224,
    "image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711]}"#;
const VIT: &str = r#"{"image_processor_type": "ViTImageProcessor", "do_normalize": true, "do_resize": true, "size": 224,
    "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5], "resample": 2}"#;
const DEIT: &str = r#"{"crop_size": 224, "do_center_crop": true, "do_normalize": true, "do_resize": true,
    "feature_extractor_type": "DeiTFeatureExtractor", "image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225],
    "resample": 3, "size": 256}"#;
const BRIDGETOWER: &str = r#"{"do_center_crop": true, "do_normalize": true, "do_pad": true, "do_rescale": true,
    "do_resize": true, "image_processor_type": "BridgeTowerImageProcessor", "resample": 3,
    "image_mean": [0.2, 0.5, 0.7], "image_std": [0.1, 0.2, 0.3], "rescale_factor": 0.00392156862745098,
    "size": {"shortest_edge": 288}, "size_divisor": 32, "crop_size": {"shortest_edge": 288}}"#;

fn object(text: &str) -> Map<String, Value> {
    match serde_json::from_str(text).unwrap() {
        Value::Object(object) => object,
        other => panic!("{other}"),
    }
}

/// A text with some keys set, or removed if their value is null.
fn with(text: &str, changes: &[(&str, Value)]) -> Map<String, Value> {
    let mut json = object(text);
    for (key, value) in changes {
        json.insert((*key).to_owned(), value.clone());
    }
    json
}

fn parsed(json: Map<String, Value>) -> Result<(Pictures, Vec<String>), String> {
    let mut notes = Notes::default();
    let pictures = hugging_face(json, None, None, &mut notes)?;
    Ok((pictures, notes.lines("file")))
}

fn pictures(text: &str, changes: &[(&str, Value)]) -> Pictures {
    let (pictures, _) = parsed(with(text, changes)).unwrap();
    pictures
}

#[test]
fn published_files_are_understood() {
    for (text, size, resized, resize, filter) in [
        (CLIP, 224, 224, Resize::ClipProcessor, Filter::Bicubic),
        (VIT, 224, 224, Resize::Squash, Filter::Bilinear),
        (DEIT, 224, 256, Resize::Squash, Filter::Bicubic),
        (
            BRIDGETOWER,
            288,
            288,
            Resize::BridgetowerProcessor,
            Filter::Bicubic,
        ),
    ] {
        let (pictures, notes) = parsed(object(text)).unwrap();
        let spec = pictures.spec;
        assert_eq!(
            (spec.size, pictures.resized, spec.resize, spec.filter),
            (size, resized, resize, filter),
            "{text}"
        );
        assert_eq!(notes, Vec::<String>::new());
        // The written form reads back the same.
        let (again, notes) = parsed(object(&to_json(&pictures).to_string())).unwrap();
        assert_eq!((again, notes), (pictures, Vec::new()));
    }
    let torchvision = Pictures::from(ImageSpec {
        resize: Resize::Crop,
        ..pictures(CLIP, &[]).spec
    });
    let (again, _) = parsed(object(&to_json(&torchvision).to_string())).unwrap();
    assert_eq!(again, torchvision);
}

#[test]
fn sizes_come_in_every_form() {
    let edge = json!({"shortest_edge": 64});
    let both = json!({"height": 64, "width": 64});
    for size in [json!(64), edge.clone()] {
        for crop in [json!(64), edge.clone(), both.clone(), Value::Null] {
            let found = pictures(CLIP, &[("size", size.clone()), ("crop_size", crop)]);
            assert_eq!(
                (found.spec.size, found.resized, found.spec.resize),
                (64, 64, Resize::ClipProcessor)
            );
        }
    }
    for (text, size) in [(CLIP, both.clone()), (VIT, both), (VIT, json!(64))] {
        let found = pictures(text, &[("size", size), ("crop_size", Value::Null)]);
        assert_eq!((found.spec.size, found.spec.resize), (64, Resize::Squash));
    }
    let square = pictures(CLIP, &[("default_to_square", true.into())]);
    assert_eq!(square.spec.resize, Resize::Squash);
    let margin = pictures(CLIP, &[("size", json!({"shortest_edge": 256}))]);
    assert_eq!((margin.spec.size, margin.resized), (224, 256));
    let none: &[(&str, Value)] = &[("do_center_crop", Value::Null), ("crop_size", Value::Null)];
    assert_eq!(pictures(VIT, none), pictures(VIT, &[]));
    for (text, changes, says) in [
        (
            CLIP,
            ("size", json!({"height": 224, "width": 112})),
            "224 x 112",
        ),
        (CLIP, ("size", json!({"longest_edge": 224})), "longest_edge"),
        (
            CLIP,
            ("size", json!({"shortest_edge": 224, "longest_edge": 300})),
            "longest_edge",
        ),
        (CLIP, ("size", json!(0)), "size = 0"),
        (CLIP, ("crop_size", json!(300)), "300"),
        (CLIP, ("crop_size", json!(223)), "223"),
        (CLIP, ("do_center_crop", json!(false)), "do_center_crop"),
        (
            BRIDGETOWER,
            ("size_divisor", json!(16)),
            "size_divisor = 16",
        ),
        (BRIDGETOWER, ("crop_size", json!(256)), "256"),
    ] {
        let reason = parsed(with(text, &[changes])).unwrap_err();
        assert!(reason.contains(says), "{reason}");
    }
}

#[test]
fn what_is_not_supported_is_named() {
    for (text, says) in [
        (
            r#"{"image_processor_type": "BlipImageProcessor"}"#,
            "BlipImageProcessor",
        ),
        (
            r#"{"image_processor_type": "VideoMAEImageProcessor", "size": 224}"#,
            "VideoMAEImageProcessor",
        ),
        (
            r#"{"feature_extractor_type": "ASTFeatureExtractor"}"#,
            "ASTFeatureExtractor",
        ),
        (r#"{"image_processor_type": "ViT"}"#, "ViT"),
        (r#"{"size": 224}"#, "image_processor_type"),
    ] {
        let reason = parsed(object(text)).unwrap_err();
        assert!(reason.contains(says), "{reason}");
    }
    for (key, value) in [
        ("resample", json!(0)),
        ("resample", json!("lanczos")),
        ("do_resize", json!(false)),
        ("do_pad", json!(true)),
        ("do_normalize", json!("yes")),
        ("image_mean", json!([0.5, 0.5])),
        ("image_std", json!([0.5, 0.0, 0.5])),
        ("rescale_factor", json!(0)),
    ] {
        let reason = parsed(with(CLIP, &[(key, value)])).unwrap_err();
        assert!(reason.contains(key), "{key}: {reason}");
    }
}

/// Pixel values follow the file's own formula.
#[test]
fn values_are_scaled_as_the_file_says() {
    let picture = RgbImage::from_fn(4, 4, |x, y| image::Rgb([(16 * (4 * y + x)) as u8, 7, 250]));
    let small: &[(&str, Value)] = &[("size", json!(4)), ("crop_size", json!(4))];
    let values = |changes: &[(&str, Value)]| {
        let changes = [small, changes].concat();
        let mut values = Vec::new();
        pictures(CLIP, &changes)
            .append(&picture, &mut values)
            .unwrap();
        values
    };
    let level = |at: usize| (16 * at) as f32;
    for (changes, formula) in [
        (
            vec![("do_normalize", json!(false))],
            Box::new(|level: f32| level / 255.0) as Box<dyn Fn(f32) -> f32>,
        ),
        (
            vec![("do_normalize", json!(false)), ("do_rescale", json!(false))],
            Box::new(|level| level),
        ),
        (
            vec![
                ("rescale_factor", json!(1.0 / 127.5)),
                ("image_mean", json!([1.0, 1.0, 1.0])),
                ("image_std", json!(1.0)),
            ],
            Box::new(|level| level / 127.5 - 1.0),
        ),
        (
            vec![
                ("do_rescale", json!(false)),
                ("image_mean", json!([100.0, 0.0, 0.0])),
                ("image_std", json!([50.0, 1.0, 1.0])),
            ],
            Box::new(|level| (level - 100.0) / 50.0),
        ),
    ] {
        let found = values(&changes);
        for (at, value) in found.iter().take(16).enumerate() {
            let expected = formula(level(at));
            // Rounding of two f32 divisions.
            assert!(
                (value - expected).abs() <= 1e-5 * expected.abs().max(1.0),
                "{changes:?}: {value}, {expected}"
            );
        }
    }
}

#[test]
fn defaults_and_unknown_keys_are_said() {
    let (_, notes) = parsed(with(
        CLIP,
        &[("image_mean", Value::Null), ("do_thumbnail", true.into())],
    ))
    .unwrap();
    assert_eq!(notes.len(), 2, "{notes:?}");
    assert!(notes[0].contains("image_mean"), "{notes:?}");
    assert!(notes[1].contains("do_thumbnail = true"), "{notes:?}");
    let mut notes = Notes::default();
    let json = object(r#"{"do_resize": true}"#);
    let found = hugging_face(json, Some(Family::Vit), Some(32), &mut notes).unwrap();
    assert_eq!(found, Family::Vit.default_pictures(32));
    let notes = notes.lines("file").join("\n");
    for key in ["image_processor_type", "size (32)", "resample", "image_std"] {
        assert!(notes.contains(key), "{notes}");
    }
}

fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        std::fs::write(folder.path().join(name), text).unwrap();
    }
    folder
}

#[test]
fn every_file_is_looked_for() {
    let nested = format!(
        r#"{{"image_processor": {BRIDGETOWER}, "processor_class": "BridgeTowerProcessor"}}"#
    );
    let find = |files: &[(&str, &str)]| {
        super::find(folder(files).path(), Family::BridgeTower, 288).unwrap()
    };
    let old = find(&[(PREPROCESSOR, BRIDGETOWER)]);
    let new = find(&[(PROCESSOR, &nested)]);
    assert_eq!(old.pictures, new.pictures);
    assert!(new.notes.is_empty(), "{:?}", new.notes);
    // A processor file without images says nothing about them.
    let class = r#"{"processor_class": "BridgeTowerProcessor"}"#;
    let beside = find(&[(PROCESSOR, class), (PREPROCESSOR, BRIDGETOWER)]);
    assert_eq!(beside.pictures, old.pictures);
    // Both files, equal and different.
    let both = find(&[(PROCESSOR, &nested), (PREPROCESSOR, BRIDGETOWER)]);
    assert!(both.notes.is_empty(), "{:?}", both.notes);
    let other = BRIDGETOWER.replace("0.7]", "0.6]");
    let both = find(&[(PROCESSOR, &nested), (PREPROCESSOR, &other)]);
    assert_eq!(both.pictures, new.pictures);
    assert!(both.notes[0].contains("preprocessor_config.json says otherwise"));
    // No file.
    let none = find(&[]);
    assert_eq!(none.file, None);
    assert!(none.notes[0].contains("no file says"), "{:?}", none.notes);
    for bad in [
        "{",
        "[]",
        r#"{"image_processor": {"image_processor_type": "X"}}"#,
    ] {
        let folder = folder(&[(PROCESSOR, bad)]);
        let error = super::find(folder.path(), Family::Vit, 8).unwrap_err();
        assert!(error.to_string().contains(PROCESSOR), "{error}");
    }
}

#[test]
fn open_clips_way_is_followed() {
    let find = |text: &str| {
        let folder = folder(&[(OPEN_CLIP, text)]);
        super::find(folder.path(), Family::Torchvision, 64).map_err(|e| e.to_string())
    };
    let all = r#"{"preprocess_cfg": {"size": 64, "mode": "RGB", "mean": [0.1, 0.2, 0.3], "std": 0.5,
        "interpolation": "bilinear", "resize_mode": "squash", "fill_color": 0}}"#;
    let found = find(all).unwrap();
    assert!(found.notes.is_empty(), "{:?}", found.notes);
    let spec = found.pictures.spec;
    assert_eq!(
        (spec.size, spec.resize, spec.filter),
        (64, Resize::Squash, Filter::Bilinear)
    );
    assert_eq!((spec.mean, spec.std), ([0.1, 0.2, 0.3], [0.5; 3]));
    let found =
        find(r#"{"preprocess_cfg": {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}}"#).unwrap();
    let spec = found.pictures.spec;
    assert_eq!(
        (spec.size, spec.resize, spec.mean),
        (64, Resize::Crop, STANDARD)
    );
    assert!(
        found.notes[0].contains("interpolation"),
        "{:?}",
        found.notes
    );
    let none = find(r#"{"model_cfg": {}}"#).unwrap();
    assert_eq!(none.pictures.spec.mean, CLIP_MEAN);
    assert!(none.notes[0].contains("preprocess_cfg"), "{:?}", none.notes);
    for (key, value) in [
        ("interpolation", "\"random\""),
        ("resize_mode", "\"longest\""),
        ("mode", "\"L\""),
        ("size", "[64, 32]"),
    ] {
        let text = format!(r#"{{"preprocess_cfg": {{"{key}": {value}}}}}"#);
        let reason = find(&text).unwrap_err();
        assert!(reason.contains(key), "{reason}");
    }
}

#[test]
fn four_values_of_which_one_is_a_word_are_no_mean() {
    let mean = json!([0.5, "x", 0.5, 0.5]);
    let reason = parsed(with(VIT, &[("image_mean", mean)])).unwrap_err();
    assert!(reason.contains("must be three numbers"), "{reason}");
}

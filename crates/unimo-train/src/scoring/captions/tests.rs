use super::*;
use serde_json::json;

/// Writes both files into a folder of their own and scores them.
fn scored(results: &Value, references: &Value) -> Result<ScoredCaptions, String> {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, value: &Value| {
        let path = folder.path().join(name);
        std::fs::write(&path, value.to_string()).unwrap();
        path
    };
    let (results, references) = (
        write("results.json", results),
        write("references.json", references),
    );
    of_files(&results, &references).map_err(|error| error.to_string())
}

fn references() -> Value {
    json!({
        "info": {"year": 2014},
        "images": [{"id": 7, "file_name": "7.jpg"}, {"id": 5}, {"id": 9}, {"id": 11}],
        "annotations": [
            {"image_id": 5, "id": 1, "caption": "A dog runs on the grass."},
            {"image_id": 7, "id": 2, "caption": "Two cats sleep on a red sofa."},
            {"image_id": 5, "id": 3, "caption": "A brown dog is running."},
            {"image_id": 9, "id": 4, "caption": "A bus on a street."},
        ],
    })
}

#[test]
fn images_are_scored_in_the_order_of_the_references_and_what_is_left_out_is_counted() {
    let results = json!([
        {"image_id": 5, "caption": "a dog runs on the grass", "id": 1},
        {"image_id": 7, "caption": "Two cats sleep on a red sofa"},
    ]);
    let scored = scored(&results, &references()).unwrap();
    assert_eq!(
        (scored.images_without_result, scored.captions_without_word),
        (2, 0)
    );
    let ids: Vec<&Value> = scored.images.iter().map(|image| &image.image_id).collect();
    assert_eq!(ids, [&json!(7), &json!(5)]);
    assert!(
        scored.images[0].scores.cider_d > 9.999,
        "{:?}",
        scored.images[0]
    );
    assert!(scored.images[1].scores.bleu[3] > 0.999 && scored.images[1].scores.cider_d < 9.0);
    let written = serde_json::to_value(&scored).unwrap();
    for scores in [&written["corpus"], &written["images"][0]] {
        assert_eq!(scores["bleu"].as_array().map(Vec::len), Some(4));
        assert!(["rouge_l", "cider", "cider_d"].map(|key| scores[key].is_f64()) == [true; 3]);
    }
    assert_eq!(written["images"][0]["image_id"], 7);
    let table = table(&scored);
    assert!(
        table.starts_with("images    2\n") && table.contains("CIDEr-D   "),
        "{table}"
    );
}

#[test]
fn identifiers_may_be_written_otherwise_in_the_other_file() {
    let results =
        json!([{"image_id": "5", "caption": "a dog"}, {"image_id": 7.0, "caption": "cats"}]);
    let scored = scored(&results, &references()).unwrap();
    let ids: Vec<&Value> = scored.images.iter().map(|image| &image.image_id).collect();
    assert_eq!(ids, [&json!(7.0), &json!("5")]);
}

#[test]
fn captions_without_a_word_score_nothing_and_are_counted() {
    let results = json!([
        {"image_id": 5, "caption": ""},
        {"image_id": 7, "caption": " ... !"},
        {"image_id": 9, "caption": "a bus"},
    ]);
    let scored = scored(&results, &references()).unwrap();
    assert_eq!(scored.captions_without_word, 2);
    for image in &scored.images[..2] {
        for metric in Metric::ALL {
            assert!(image.scores.get(metric) < 1e-6, "{metric}: {image:?}");
        }
    }
}

#[test]
fn what_cannot_be_scored_is_an_error_with_file_and_row() {
    let good = json!([{"image_id": 5, "caption": "a dog"}]);
    let captions = |annotations: Value| json!({"images": [{"id": 5}], "annotations": annotations});
    let cases = [
        (json!([]), references(), "results.json: the list is empty"),
        (json!({"a": 1}), references(), "allowed is a list of"),
        (
            json!([{"image_id": 6, "caption": "a"}]),
            references(),
            "results.json: row 1: image_id 6 is no `id`",
        ),
        (
            json!([{"image_id": 5, "caption": "a"}, {"image_id": 7, "caption": "b"}, {"image_id": "5", "caption": "c"}]),
            references(),
            "results.json: row 3: image_id \"5\" stands in row 1 already",
        ),
        (
            json!([{"image_id": 5, "caption": 3}]),
            references(),
            "results.json: row 1: `caption` is 3: allowed is a text",
        ),
        (
            json!([{"image_id": 5}]),
            references(),
            "row 1: `caption` is missing or null",
        ),
        (
            json!([{"image_id": 5.5, "caption": "a"}]),
            references(),
            "`image_id` is 5.5: allowed is a whole number",
        ),
        (
            json!([["a dog"]]),
            references(),
            "row 1: the row is a list: allowed is an object",
        ),
        (
            json!([{"image_id": 11, "caption": "a"}]),
            references(),
            "row 1: image 11 has no caption in `annotations`",
        ),
        (
            good.clone(),
            json!([]),
            "allowed is an object with the lists",
        ),
        (
            good.clone(),
            json!({"images": []}),
            "missing field `annotations`",
        ),
        (
            good.clone(),
            json!({"images": [{"id": 5}, {"id": 5}], "annotations": []}),
            "`images`, row 2: id 5 stands",
        ),
        (
            good.clone(),
            json!({"images": [{}], "annotations": []}),
            "references.json: `images`, row 1: `id` is missing",
        ),
        (
            good,
            captions(json!([{"image_id": 5, "caption": "a"}, {"image_id": 5, "caption": null}])),
            "references.json: `annotations`, row 2: `caption` is missing or null",
        ),
    ];
    for (results, references, expected) in cases {
        let error = scored(&results, &references).unwrap_err();
        assert!(error.contains(expected), "{error}\nexpected: {expected}");
    }
    let missing = of_files(Path::new("no/such.json"), Path::new("other.json")).unwrap_err();
    assert!(missing.to_string().contains("no/such.json"), "{missing}");
}

#[test]
fn the_scores_are_written_whole() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let results = json!([{"image_id": 5, "caption": "a dog"}]).to_string();
    // As some editors save it.
    std::fs::write(at("results.json"), format!("\u{FEFF}{results}")).unwrap();
    std::fs::write(at("references.json"), references().to_string()).unwrap();
    let args = ScoreCaptionsArgs {
        results: at("results.json"),
        references: at("references.json"),
        json: Some(at("scores/scores.json")),
    };
    run(&args).unwrap();
    let written: Value =
        serde_json::from_slice(&std::fs::read(at("scores/scores.json")).unwrap()).unwrap();
    assert_eq!(written["images"].as_array().map(Vec::len), Some(1));
    assert_eq!(written["images_without_result"], 3);
}

/// `json.dumps` of Python writes NaN for scores, and a key twice is no caption.
#[test]
fn results_are_read_as_python_writes_them() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    std::fs::write(at("references.json"), references().to_string()).unwrap();
    let of = |results: &str| {
        std::fs::write(at("results.json"), results).unwrap();
        of_files(&at("results.json"), &at("references.json")).map_err(|error| error.to_string())
    };
    let read = of(r#"[{"image_id": 5, "caption": "a dog", "score": NaN}]"#).unwrap();
    assert_eq!(read.images.len(), 1);
    let error = of(r#"[{"image_id": 5, "caption": "a dog", "caption": "b"}]"#)
        .err()
        .unwrap();
    assert!(error.contains("`caption` is there twice"), "{error}");
}

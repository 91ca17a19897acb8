use super::*;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::cell::RefCell;
use std::collections::HashSet;

/// A sum of up to 19 products of numbers below 1 in f32.
const F32_DOT: f32 = 1e-5;

/// Scores from tables, and a record of the pairs that were asked for.
#[derive(Default)]
struct Table {
    texts: usize,
    images: usize,
    embeddings: Option<DualEmbeddings>,
    /// `[N, M]`; empty: no matching head.
    itm: Vec<f32>,
    batches: RefCell<Vec<Vec<Pair>>>,
    blocks: Blocks,
}

impl RetrievalModel for Table {
    fn texts(&self) -> usize {
        self.texts
    }
    fn images(&self) -> usize {
        self.images
    }
    fn embeddings(&self) -> Result<Option<DualEmbeddings>, ModelError> {
        Ok(self.embeddings.clone())
    }
    fn has_itm(&self) -> bool {
        !self.itm.is_empty()
    }
    fn blocks(&self) -> Blocks {
        self.blocks
    }
    fn itm_scores(&self, pairs: &[Pair]) -> Result<Vec<f32>, ModelError> {
        self.batches.borrow_mut().push(pairs.to_vec());
        Ok(pairs
            .iter()
            .map(|pair| self.itm[pair.text * self.images + pair.image])
            .collect())
    }
}

impl Table {
    fn asked(&self) -> Vec<Pair> {
        self.batches.borrow().concat()
    }
}

fn embed(features: usize, values: &[f32]) -> Embeddings {
    Embeddings::new(features, values.to_vec()).unwrap()
}

fn random(rng: &mut ChaCha8Rng, images: usize, per_image: usize) -> (GroundTruth, Table) {
    let texts = images * per_image;
    let mut numbers =
        |count: usize| -> Vec<f32> { (0..count).map(|_| rng.random::<f32>() - 0.5).collect() };
    let table = Table {
        texts,
        images,
        embeddings: Some(DualEmbeddings {
            texts: embed(19, &numbers(texts * 19)),
            images: embed(19, &numbers(images * 19)),
        }),
        itm: numbers(texts * images),
        ..Table::default()
    };
    let truth =
        GroundTruth::new((0..texts).map(|text| text / per_image).collect(), images).unwrap();
    (truth, table)
}

fn config(shortlist: usize, full_itm: bool) -> RetrievalConfig {
    RetrievalConfig {
        shortlist,
        united: false,
        full_itm,
        batch: 7,
        top: 3,
    }
}

fn run(
    model: &Table,
    truth: &GroundTruth,
    config: RetrievalConfig,
) -> Result<RetrievalReport, EvalError> {
    evaluate(model, truth, &config, &mut |_, _| {})
}

/// Four texts of three images on a circle; the angles give the cosines, the matching head corrects them.
fn circle() -> (GroundTruth, Table) {
    let rows = |degrees: &[f32]| -> Vec<f32> {
        degrees
            .iter()
            .flat_map(|d| [d.to_radians().cos(), d.to_radians().sin()])
            .collect()
    };
    let model = Table {
        texts: 4,
        images: 3,
        embeddings: Some(DualEmbeddings {
            texts: embed(2, &rows(&[0.0, 50.0, 42.0, 100.0])),
            images: embed(2, &rows(&[5.0, 40.0, 80.0])),
        }),
        #[rustfmt::skip]
        itm: vec![
            5.0, 1.0, 9.0,
            4.0, 3.0, 0.0,
            2.0, 6.0, 7.0,
            0.0, 8.0, 1.0,
        ],
        ..Table::default()
    };
    (GroundTruth::new(vec![0, 0, 1, 2], 3).unwrap(), model)
}

#[test]
fn hand_computed_case() {
    let (truth, model) = circle();
    let report = run(&model, &truth, config(2, true)).unwrap();

    // ITC: text 1 (50 degrees) prefers images 1 (40), 2 (80), 0 (5): its own is third.
    let itc = report.method(Method::Itc).unwrap();
    assert_eq!(
        itc.text_to_image,
        Recall {
            r1: 0.75,
            r5: 1.0,
            r10: 1.0,
            median_rank: 1.0
        }
    );
    // Image 2 (80) prefers texts 3 (100), 1 (50), 2 (42), 0: all images find a caption first.
    assert_eq!(itc.image_to_text.r1, 1.0);

    // Shortlists of two images: text 0: 0, 1; text 1: 1, 2; text 2: 1, 0; text 3: 2, 1. Re-ranked:
    // text 0: 5 > 1, rank 1; text 1: its own is not on the list, rank 3; text 2: 6 > 2, rank 1; text 3: 1 < 8, rank 2.
    // Shortlists of two texts: image 0: 0, 2; image 1: 2, 1; image 2: 3, 1. Re-ranked:
    // image 0: 5 > 2, rank 1; image 1: 6 > 3, rank 1; image 2: 1 > 0, rank 1.
    let both = report.method(Method::ItcItm).unwrap();
    assert_eq!(
        both.text_to_image,
        Recall {
            r1: 0.5,
            r5: 1.0,
            r10: 1.0,
            median_rank: 1.5
        }
    );
    assert_eq!(both.image_to_text.r1, 1.0);
    let order = |list: &[Candidate]| {
        list.iter()
            .map(|c| (c.index, c.by_itm, c.is_match))
            .collect::<Vec<_>>()
    };
    assert_eq!(
        order(&both.images_of_text[1]),
        [(1, true, false), (2, true, false), (0, false, true)]
    );
    assert_eq!(both.images_of_text[1][0].score, 3.0);
    assert!((both.images_of_text[1][2].score - 45f32.to_radians().cos()).abs() < F32_DOT);
    // Behind image 0's list (texts 0 and 2) comes text 1, which is nearer to it than text 3.
    assert_eq!(
        order(&both.captions_of_image[0]),
        [(0, true, true), (2, true, false), (1, false, true)]
    );

    // ITM: ranks of the texts 2, 1, 2, 2. Image 0: 5 is first. Image 1: 6 behind 8. Image 2: 1 behind 9 and 7.
    let itm = report.method(Method::Itm).unwrap();
    assert_eq!(
        itm.text_to_image,
        Recall {
            r1: 0.25,
            r5: 1.0,
            r10: 1.0,
            median_rank: 2.0
        }
    );
    assert_eq!(
        itm.image_to_text,
        Recall {
            r1: 1.0 / 3.0,
            r5: 1.0,
            r10: 1.0,
            median_rank: 2.0
        }
    );
}

#[test]
fn every_pair_is_scored_once_and_only_if_listed() {
    let (truth, model) = circle();
    let report = run(&model, &truth, config(2, false)).unwrap();
    // By image: texts of its own list, and texts that list it.
    let expected = [
        (0, 0),
        (0, 2),
        (1, 0),
        (1, 1),
        (1, 2),
        (1, 3),
        (2, 1),
        (2, 3),
    ];
    assert_eq!(
        model.asked(),
        expected.map(|(image, text)| Pair { image, text })
    );
    assert_eq!(report.pairs_scored, 8);
    assert_eq!(
        model
            .batches
            .borrow()
            .iter()
            .map(Vec::len)
            .collect::<Vec<_>>(),
        [7, 1]
    );
    assert!(report.method(Method::Itm).is_none());

    let (truth, model) = random(&mut ChaCha8Rng::seed_from_u64(3), 9, 4);
    let full = run(&model, &truth, config(5, true)).unwrap();
    let asked = model.asked();
    assert_eq!(asked.len(), 36 * 9);
    assert_eq!(asked.iter().collect::<HashSet<_>>().len(), asked.len());
    assert_eq!(full.pairs_scored, 36 * 9);
}

#[test]
fn a_shortlist_of_everything_is_the_full_ranking() {
    let mut rng = ChaCha8Rng::seed_from_u64(4);
    for _ in 0..10 {
        let (truth, model) = random(&mut rng, 8, 3);
        let report = run(&model, &truth, config(1000, true)).unwrap();
        let (both, itm) = (
            report.method(Method::ItcItm).unwrap(),
            report.method(Method::Itm).unwrap(),
        );
        assert_eq!(both.text_to_image, itm.text_to_image);
        assert_eq!(both.image_to_text, itm.image_to_text);
        assert_eq!(both.captions_of_image, itm.captions_of_image);
        assert_ne!(
            both.text_to_image,
            report.method(Method::Itc).unwrap().text_to_image
        );
    }
}

#[test]
fn scoring_the_listed_pairs_only_changes_nothing() {
    let (truth, model) = random(&mut ChaCha8Rng::seed_from_u64(5), 12, 5);
    let listed = run(&model, &truth, config(4, false)).unwrap();
    let all = run(&model, &truth, config(4, true)).unwrap();
    assert_eq!(listed.method(Method::ItcItm), all.method(Method::ItcItm));
    assert!(listed.pairs_scored < all.pairs_scored);
}

#[test]
fn re_ranking_cannot_find_what_the_shortlist_left_out() {
    // The matching head is perfect; recall at 1 is then the share of the queries whose own item is listed.
    let (truth, mut model) = random(&mut ChaCha8Rng::seed_from_u64(6), 30, 2);
    model.itm = (0..60 * 30)
        .map(|at| if at / 30 / 2 == at % 30 { 1.0 } else { -1.0 })
        .collect();
    let report = run(&model, &truth, config(5, true)).unwrap();
    let (itc, both) = (
        report.method(Method::Itc).unwrap(),
        report.method(Method::ItcItm).unwrap(),
    );
    assert_eq!(both.text_to_image.r1, itc.text_to_image.r5);
    assert_eq!(both.image_to_text.r1, itc.image_to_text.r5);
    assert!(both.text_to_image.r1 < 1.0);
    let itm = report.method(Method::Itm).unwrap();
    assert_eq!((itm.text_to_image.r1, itm.image_to_text.r1), (1.0, 1.0));
}

/// BridgeTower's evaluation: one matrix for both directions, with the matching head's score of what is on the list of either, and
/// nothing elsewhere.
#[test]
fn united_shortlists_are_one_matrix_for_both_directions() {
    let (truth, model) = random(&mut ChaCha8Rng::seed_from_u64(16), 30, 2);
    let united = RetrievalConfig {
        united: true,
        ..config(5, false)
    };
    let report = run(&model, &truth, united).unwrap();
    let own = run(&model, &truth, config(5, false)).unwrap();
    assert_eq!(report.pairs_scored, own.pairs_scored, "no further pair");
    let itc = model.embeddings.as_ref().unwrap().similarity().unwrap();
    let mut values = vec![f32::NEG_INFINITY; 60 * 30];
    for direction in [Direction::TextToImage, Direction::ImageToText] {
        let lists = shortlists(direction, &itc, &truth, 5);
        for (query, list) in lists.iter().enumerate() {
            for candidate in list {
                let pair = direction.pair(query, *candidate);
                let at = pair.text * 30 + pair.image;
                values[at] = model.itm[at];
            }
        }
    }
    let matrix = Scores::new(60, 30, values).unwrap();
    let found = report.method(Method::ItcItm).unwrap();
    // No rank up to 5 depends on what stands behind the lists, which have that many at least.
    let expected = crate::metrics::recall(&matrix, &truth).unwrap();
    assert_eq!(found.text_to_image.r1, expected.text_to_image.r1);
    assert_eq!(found.text_to_image.r5, expected.text_to_image.r5);
    assert_eq!(found.image_to_text.r1, expected.image_to_text.r1);
    assert_eq!(found.image_to_text.r5, expected.image_to_text.r5);
    let alone = own.method(Method::ItcItm).unwrap();
    assert_ne!(alone.images_of_text, found.images_of_text);
    assert_ne!(alone.captions_of_image, found.captions_of_image);
}

#[test]
fn the_order_of_the_items_does_not_matter() {
    let mut rng = ChaCha8Rng::seed_from_u64(7);
    let (truth, model) = random(&mut rng, 10, 3);
    let (mut text_order, mut image_order): (Vec<usize>, Vec<usize>) =
        ((0..30).collect(), (0..10).collect());
    text_order.shuffle(&mut rng);
    image_order.shuffle(&mut rng);
    let moved_rows = |rows: &Embeddings, order: &[usize]| {
        embed(
            19,
            &order
                .iter()
                .flat_map(|&at| rows.values[at * 19..][..19].to_vec())
                .collect::<Vec<_>>(),
        )
    };
    let embeddings = model.embeddings.as_ref().unwrap();
    let moved = Table {
        embeddings: Some(DualEmbeddings {
            texts: moved_rows(&embeddings.texts, &text_order),
            images: moved_rows(&embeddings.images, &image_order),
        }),
        itm: text_order
            .iter()
            .flat_map(|&t| image_order.iter().map(move |&i| t * 10 + i))
            .map(|at| model.itm[at])
            .collect(),
        texts: 30,
        images: 10,
        ..Table::default()
    };
    let place = |image: usize| image_order.iter().position(|&at| at == image).unwrap();
    let text_image = text_order
        .iter()
        .map(|&text| place(truth.text_image()[text]))
        .collect();
    let moved_truth = GroundTruth::new(text_image, 10).unwrap();
    let before = run(
        &model,
        &truth,
        RetrievalConfig {
            top: 0,
            ..config(4, true)
        },
    )
    .unwrap();
    let after = run(
        &moved,
        &moved_truth,
        RetrievalConfig {
            top: 0,
            ..config(4, true)
        },
    )
    .unwrap();
    for (before, after) in before.methods.iter().zip(&after.methods) {
        assert_eq!(before.text_to_image, after.text_to_image);
        assert_eq!(before.image_to_text, after.image_to_text);
    }
}

#[test]
fn blocks_change_the_order_of_the_pairs_and_nothing_else() {
    let (truth, mut model) = random(&mut ChaCha8Rng::seed_from_u64(13), 10, 3);
    for config in [config(4, false), config(4, true), config(0, true)] {
        model.blocks = Blocks::default();
        let expected = run(&model, &truth, config).unwrap();
        let mut pairs = model.asked();
        pairs.sort_unstable();
        for (images, texts) in [(1, 1), (3, 7), (4, 30), (10, 4), (usize::MAX, 11)] {
            model.blocks = Blocks { images, texts };
            model.batches.borrow_mut().clear();
            assert_eq!(run(&model, &truth, config).unwrap(), expected);
            let mut last = None;
            let mut seen = HashSet::new();
            for batch in model.batches.borrow().iter() {
                let tile = model.blocks.tile(batch[0]);
                assert!(batch.iter().all(|pair| model.blocks.tile(*pair) == tile));
                assert!(batch.is_sorted() && batch.len() <= config.batch);
                // A tile does not come again after it was left; nor does a block of images.
                assert!(last == Some(tile) || seen.insert(tile));
                assert!(last.is_none_or(|last: (usize, usize)| last.0 <= tile.0));
                last = Some(tile);
            }
            let mut asked = model.asked();
            asked.sort_unstable();
            assert_eq!(asked, pairs);
        }
        model.batches.borrow_mut().clear();
    }
}

#[test]
fn equal_embeddings_list_nothing_right() {
    // A collapsed dual encoder: its shortlist cannot hold the right items, whatever the matching head knows.
    let (truth, mut model) = random(&mut ChaCha8Rng::seed_from_u64(8), 6, 2);
    model.embeddings = Some(DualEmbeddings {
        texts: embed(2, &[1.0; 24]),
        images: embed(2, &[1.0; 12]),
    });
    model.itm = (0..12 * 6)
        .map(|at| if at / 6 / 2 == at % 6 { 1.0 } else { -1.0 })
        .collect();
    let report = run(&model, &truth, config(3, false)).unwrap();
    for method in &report.methods {
        assert_eq!(
            (method.text_to_image.r1, method.image_to_text.r1),
            (0.0, 0.0),
            "{}",
            method.method
        );
    }
}

#[test]
fn methods_follow_what_the_model_has() {
    let methods = |model: &Table, truth: &GroundTruth, config| -> Vec<Method> {
        run(model, truth, config)
            .unwrap()
            .methods
            .iter()
            .map(|report| report.method)
            .collect()
    };
    let (truth, mut model) = random(&mut ChaCha8Rng::seed_from_u64(9), 5, 2);
    assert_eq!(
        methods(&model, &truth, config(2, true)),
        [Method::Itc, Method::ItcItm, Method::Itm]
    );
    assert_eq!(
        methods(&model, &truth, config(2, false)),
        [Method::Itc, Method::ItcItm]
    );
    assert_eq!(
        methods(&model, &truth, config(0, true)),
        [Method::Itc, Method::Itm]
    );
    model.batches.borrow_mut().clear();
    assert_eq!(methods(&model, &truth, config(0, false)), [Method::Itc]);
    assert!(model.asked().is_empty());

    let embeddings = model.embeddings.take();
    assert_eq!(methods(&model, &truth, config(2, false)), [Method::Itm]);
    model.embeddings = embeddings;
    model.itm.clear();
    assert_eq!(methods(&model, &truth, config(2, false)), [Method::Itc]);
    let error = run(&model, &truth, config(2, true))
        .unwrap_err()
        .to_string();
    assert!(error.contains("`full_itm`"), "{error}");
    model.embeddings = None;
    let error = run(&model, &truth, config(2, false))
        .unwrap_err()
        .to_string();
    assert!(error.contains("neither"), "{error}");
}

#[test]
fn progress_runs_from_nothing_to_all() {
    let (truth, model) = random(&mut ChaCha8Rng::seed_from_u64(10), 5, 2);
    let mut heard = Vec::new();
    evaluate(&model, &truth, &config(2, true), &mut |done, total| {
        heard.push((done, total))
    })
    .unwrap();
    let expected: Vec<_> = [0, 7, 14, 21, 28, 35, 42, 49, 50]
        .map(|done| (done, 50))
        .to_vec();
    assert_eq!(heard, expected);
}

#[test]
fn similarity_is_the_cosine() {
    // More rows than a block, and a number of features that no vector length divides.
    let (_, model) = random(&mut ChaCha8Rng::seed_from_u64(11), 150, 1);
    let embeddings = model.embeddings.unwrap();
    let scores = embeddings.similarity().unwrap();
    for (text, image) in [(0, 0), (3, 63), (4, 64), (149, 149), (77, 130)] {
        let (a, b) = (
            &embeddings.texts.values[text * 19..][..19],
            &embeddings.images.values[image * 19..][..19],
        );
        let expected: f32 = a.iter().zip(b).map(|(a, b)| a * b).sum();
        assert!((scores.get(Pair { image, text }) - expected).abs() < F32_DOT);
    }
    let own = DualEmbeddings {
        texts: embeddings.texts.clone(),
        images: embeddings.texts.clone(),
    };
    assert!((own.similarity().unwrap().get(Pair { image: 5, text: 5 }) - 1.0).abs() < F32_DOT);
}

#[test]
fn bad_models_are_named() {
    let message = |result: Result<RetrievalReport, EvalError>| result.unwrap_err().to_string();
    let (truth, model) = random(&mut ChaCha8Rng::seed_from_u64(12), 4, 2);
    let small = GroundTruth::new(vec![0, 1], 2).unwrap();
    assert_eq!(
        message(run(&model, &small, config(2, false))),
        "texts of the model: expected 2, got 8"
    );
    let no_batch = RetrievalConfig {
        batch: 0,
        ..config(2, false)
    };
    assert_eq!(
        message(run(&model, &truth, no_batch)),
        "retrieval setting `batch` = 0: allowed is 1 or more"
    );

    let (truth, mut model) = random(&mut ChaCha8Rng::seed_from_u64(12), 4, 2);
    model.itm[5 * 4 + 2] = f32::NAN;
    assert_eq!(
        message(run(&model, &truth, config(2, true))),
        "the ITM score of text 5 and image 2 is NaN; has the model diverged?"
    );
    model.embeddings = Some(DualEmbeddings {
        texts: embed(1, &[1.0; 7]),
        images: embed(1, &[1.0; 4]),
    });
    assert_eq!(
        message(run(&model, &truth, config(2, true))),
        "text embeddings of the model: expected 8, got 7"
    );
    model.embeddings = Some(DualEmbeddings {
        texts: embed(1, &[1.0; 8]),
        images: embed(2, &[1.0; 8]),
    });
    assert!(
        message(run(&model, &truth, config(2, true))).contains("features of the image embeddings")
    );

    let error = |features, values: &[f32]| {
        Embeddings::new(features, values.to_vec())
            .unwrap_err()
            .to_string()
    };
    assert!(
        error(2, &[1.0, 0.0, 0.0, 0.0])
            .starts_with("embedding 1 cannot be normalised: its length is 0")
    );
    assert!(
        error(2, &[f32::NAN, 0.0])
            .starts_with("embedding 0 cannot be normalised: its length is NaN")
    );
    assert!(error(2, &[1.0, 0.0, 1.0]).ends_with("expected 0, got 1"));
    assert!(error(0, &[1.0]).ends_with("expected 0, got 1"));
}

struct Broken {
    short: bool,
}

impl RetrievalModel for Broken {
    fn texts(&self) -> usize {
        2
    }
    fn images(&self) -> usize {
        2
    }
    fn embeddings(&self) -> Result<Option<DualEmbeddings>, ModelError> {
        Ok(None)
    }
    fn itm_scores(&self, pairs: &[Pair]) -> Result<Vec<f32>, ModelError> {
        if self.short {
            Ok(vec![0.0; pairs.len() - 1])
        } else {
            Err("out of device memory".into())
        }
    }
}

#[test]
fn a_failing_model_is_reported() {
    let truth = GroundTruth::new(vec![0, 1], 2).unwrap();
    let message = |short| {
        evaluate(&Broken { short }, &truth, &config(2, false), &mut |_, _| {})
            .unwrap_err()
            .to_string()
    };
    assert_eq!(
        message(false),
        "the model failed during retrieval: out of device memory"
    );
    assert!(message(true).ends_with("expected 4, got 3"));
}

#[test]
fn the_json_has_the_documented_form() {
    let (truth, model) = circle();
    let report = run(&model, &truth, config(2, true)).unwrap();
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!(
        json["methods"][1],
        serde_json::json!({
            "method": "itc+itm",
            "text_to_image": {"r1": 0.5, "r5": 1.0, "r10": 1.0, "median_rank": 1.5},
            "image_to_text": {"r1": 1.0, "r5": 1.0, "r10": 1.0, "median_rank": 1.0},
        })
    );
    let names: Vec<_> = json["methods"]
        .as_array()
        .unwrap()
        .iter()
        .map(|method| &method["method"])
        .collect();
    assert_eq!(names, ["itc", "itc+itm", "itm"]);
    assert_eq!(json["chance"]["text_to_image"]["r1"], 1.0 / 3.0);
    for report in &report.methods {
        assert_eq!(
            serde_json::to_value(report.method).unwrap(),
            report.method.to_string()
        );
    }
    let back: RetrievalReport = serde_json::from_value(json).unwrap();
    assert_eq!(
        back.methods[2].text_to_image,
        report.methods[2].text_to_image
    );
    let config: RetrievalConfig = serde_json::from_str(r#"{"shortlist": 16}"#).unwrap();
    assert_eq!(
        config,
        RetrievalConfig {
            shortlist: 16,
            ..RetrievalConfig::default()
        }
    );
    assert!(serde_json::from_str::<RetrievalConfig>(r#"{"short_list": 16}"#).is_err());
}

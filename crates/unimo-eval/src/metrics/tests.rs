use super::*;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Rounding of a handful of products and sums in f64.
const F64_ROUNDING: f64 = 1e-12;

fn truth(text_image: &[usize], images: usize) -> GroundTruth {
    GroundTruth::new(text_image.to_vec(), images).unwrap()
}

fn random_case(rng: &mut ChaCha8Rng, images: usize, per_image: usize) -> (GroundTruth, Vec<f32>) {
    let text_image: Vec<usize> = (0..images * per_image)
        .map(|text| text / per_image)
        .collect();
    let values = (0..text_image.len() * images)
        .map(|_| rng.random::<f32>())
        .collect();
    (truth(&text_image, images), values)
}

#[test]
fn hand_computed_with_several_captions() {
    // Texts 0, 1 -> image 0; 2 -> image 1; 3, 4 -> image 2.
    let truth = truth(&[0, 0, 1, 2, 2], 3);
    #[rustfmt::skip]
    let scores = Scores::new(5, 3, vec![
        0.9, 0.1, 0.2, // own first
        0.1, 0.8, 0.7, // own third
        0.3, 0.5, 0.6, // own second
        0.4, 0.2, 0.9, // own first
        0.0, 0.3, 0.1, // own second
    ]).unwrap();
    assert_eq!(
        ranks(Direction::TextToImage, &scores, &truth).unwrap(),
        [1, 3, 2, 1, 2]
    );
    // Image 0: best caption 0.9 is first of the column. Image 1: 0.5 behind 0.8. Image 2: best 0.9 is first.
    assert_eq!(
        ranks(Direction::ImageToText, &scores, &truth).unwrap(),
        [1, 2, 1]
    );
    let recall = recall(&scores, &truth).unwrap();
    assert_eq!(
        recall.text_to_image,
        Recall {
            r1: 0.4,
            r5: 1.0,
            r10: 1.0,
            median_rank: 2.0
        }
    );
    assert_eq!(
        recall.image_to_text,
        Recall {
            r1: 2.0 / 3.0,
            r5: 1.0,
            r10: 1.0,
            median_rank: 1.0
        }
    );
}

#[test]
fn an_image_is_found_by_any_caption_and_its_other_captions_do_not_stand_in_the_way() {
    // Both captions of image 0 are ahead of the others: rank 1. Image 1's worse caption is last: rank still 3.
    let truth = truth(&[0, 0, 1, 1], 2);
    let scores = Scores::new(4, 2, vec![0.9, 0.9, 0.8, 0.8, 0.7, 0.7, 0.1, 0.1]).unwrap();
    assert_eq!(
        ranks(Direction::ImageToText, &scores, &truth).unwrap(),
        [1, 3]
    );
}

#[test]
fn constant_scores_have_the_worst_rank() {
    let truth = truth(&[0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5], 6);
    let scores = Scores::new(12, 6, vec![0.5; 72]).unwrap();
    assert_eq!(
        ranks(Direction::TextToImage, &scores, &truth).unwrap(),
        [6; 12]
    );
    // Ten wrong texts, then the best of the two right ones.
    assert_eq!(
        ranks(Direction::ImageToText, &scores, &truth).unwrap(),
        [11; 6]
    );
    let recall = recall(&scores, &truth).unwrap();
    assert_eq!(
        (recall.text_to_image.r1, recall.text_to_image.r5),
        (0.0, 0.0)
    );
    assert_eq!(
        (recall.image_to_text.r1, recall.image_to_text.r10),
        (0.0, 0.0)
    );
}

#[test]
fn a_tie_counts_against_the_right_item_only_with_wrong_ones() {
    let truth = truth(&[0, 0, 1], 2);
    // Image 0: its two captions tie at the top, the wrong text is below. Image 1: its caption ties with text 0.
    let scores = Scores::new(3, 2, vec![0.9, 0.4, 0.9, 0.1, 0.2, 0.4]).unwrap();
    assert_eq!(
        ranks(Direction::ImageToText, &scores, &truth).unwrap(),
        [1, 2]
    );
}

#[test]
fn median_of_odd_and_even_counts() {
    assert_eq!(Recall::from_ranks(&[7, 1, 3]).unwrap().median_rank, 3.0);
    assert_eq!(Recall::from_ranks(&[7, 1, 3, 4]).unwrap().median_rank, 3.5);
    assert_eq!(Recall::from_ranks(&[]), None);
    let recall = Recall::from_ranks(&[1, 2, 5, 6, 10, 11, 12, 13]).unwrap();
    assert_eq!((recall.r1, recall.r5, recall.r10), (0.125, 0.375, 0.625));
}

#[test]
fn chance_is_exact() {
    // Six texts of three images, with 1, 2 and 3 captions.
    let chance = chance(&truth(&[0, 1, 1, 2, 2, 2], 3));
    assert!((chance.text_to_image.r1 - 1.0 / 3.0).abs() < F64_ROUNDING);
    assert_eq!(
        (chance.text_to_image.r5, chance.text_to_image.r10),
        (1.0, 1.0)
    );
    assert!((chance.image_to_text.r1 - (1.0 + 2.0 + 3.0) / 6.0 / 3.0).abs() < F64_ROUNDING);
    // Five of six texts drawn: only the single caption can be the one left out.
    assert!((chance.image_to_text.r5 - (5.0 / 6.0 + 1.0 + 1.0) / 3.0).abs() < F64_ROUNDING);
    assert_eq!(chance.image_to_text.r10, 1.0);
}

/// The expectation by brute force: every one of the 5! rankings of five texts, and the recall of each.
#[test]
fn chance_equals_the_mean_over_all_rankings() {
    let truth = truth(&[0, 0, 0, 1, 1], 2);
    fn permutations(rest: &[usize]) -> Vec<Vec<usize>> {
        if rest.is_empty() {
            return vec![Vec::new()];
        }
        let mut all = Vec::new();
        for (at, &first) in rest.iter().enumerate() {
            let others = [&rest[..at], &rest[at + 1..]].concat();
            for mut tail in permutations(&others) {
                tail.insert(0, first);
                all.push(tail);
            }
        }
        all
    }
    let rankings = permutations(&[0, 1, 2, 3, 4]);
    assert_eq!(rankings.len(), 120);
    let mut sum = 0.0;
    for ranking in &rankings {
        let values = ranking
            .iter()
            .flat_map(|&place| [place as f32; 2])
            .collect();
        sum += recall(&Scores::new(5, 2, values).unwrap(), &truth)
            .unwrap()
            .image_to_text
            .r1;
    }
    assert!((sum / 120.0 - chance(&truth).image_to_text.r1).abs() < F64_ROUNDING);
}

#[test]
fn random_scores_are_at_chance() {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let (truth, values) = random_case(&mut rng, 200, 5);
    let recall = recall(&Scores::new(1000, 200, values).unwrap(), &truth).unwrap();
    let chance = chance(&truth);
    for (queries, got, expected) in [
        (
            1000.0_f64,
            recall.text_to_image.r10,
            chance.text_to_image.r10,
        ),
        (200.0, recall.image_to_text.r10, chance.image_to_text.r10),
    ] {
        // Four standard errors of a share: a correct implementation is outside for one seed in 15 000.
        let tolerance = 4.0 * (expected * (1.0 - expected) / queries).sqrt();
        assert!(
            (got - expected).abs() < tolerance,
            "{got} against {expected} +- {tolerance}"
        );
    }
}

#[test]
fn a_perfect_model_has_recall_one() {
    let text_image: Vec<usize> = (0..60).map(|text| text / 5).collect();
    let values = (0..60 * 12)
        .map(|at| {
            if text_image[at / 12] == at % 12 {
                1.0
            } else {
                0.0
            }
        })
        .collect();
    let recall = recall(
        &Scores::new(60, 12, values).unwrap(),
        &truth(&text_image, 12),
    )
    .unwrap();
    let perfect = Recall {
        r1: 1.0,
        r5: 1.0,
        r10: 1.0,
        median_rank: 1.0,
    };
    assert_eq!(
        (recall.text_to_image, recall.image_to_text),
        (perfect, perfect)
    );
}

#[test]
fn the_order_of_the_items_does_not_matter() {
    let mut rng = ChaCha8Rng::seed_from_u64(2);
    for _ in 0..20 {
        let (truth, mut values) = random_case(&mut rng, 11, 3);
        // Coarse scores, so that ties occur.
        values
            .iter_mut()
            .for_each(|score| *score = (*score * 20.0).round());
        let mut text_order: Vec<usize> = (0..33).collect();
        let mut image_order: Vec<usize> = (0..11).collect();
        text_order.shuffle(&mut rng);
        image_order.shuffle(&mut rng);
        let place = |image: usize| image_order.iter().position(|&at| at == image).unwrap();
        let moved_truth = self::truth(
            &text_order
                .iter()
                .map(|&t| place(truth.text_image()[t]))
                .collect::<Vec<_>>(),
            11,
        );
        let moved = text_order
            .iter()
            .flat_map(|&t| image_order.iter().map(move |&i| t * 11 + i))
            .map(|at| values[at])
            .collect();
        assert_eq!(
            recall(&Scores::new(33, 11, moved).unwrap(), &moved_truth).unwrap(),
            recall(&Scores::new(33, 11, values).unwrap(), &truth).unwrap()
        );
    }
}

#[test]
fn bad_input_is_named() {
    let message = |error: EvalError| error.to_string();
    assert_eq!(
        message(GroundTruth::new(vec![0, 2], 2).unwrap_err()),
        "text 1 belongs to image 2, but there are only 2 images (0 to 1)"
    );
    assert!(
        message(GroundTruth::new(vec![0, 0], 2).unwrap_err()).starts_with("image 1 has no caption")
    );
    assert!(message(GroundTruth::new(vec![], 2).unwrap_err()).contains("got 0 texts and 2 images"));
    assert!(
        message(GroundTruth::new(vec![0], 0).unwrap_err()).contains("got 1 texts and 0 images")
    );
    assert!(
        message(Scores::new(2, 2, vec![0.0, 1.0, f32::NAN, 0.0]).unwrap_err())
            .starts_with("the given score of text 1 and image 0 is NaN")
    );
    assert!(message(Scores::new(2, 2, vec![0.0; 3]).unwrap_err()).ends_with("expected 4, got 3"));
    let scores = Scores::new(2, 3, vec![0.0; 6]).unwrap();
    assert_eq!(
        message(recall(&scores, &truth(&[0, 1], 2)).unwrap_err()),
        "images in the scores: expected 2, got 3"
    );
}

#[test]
fn the_json_has_the_documented_keys() {
    let recall = Recall {
        r1: 0.5,
        r5: 0.75,
        r10: 1.0,
        median_rank: 1.5,
    };
    assert_eq!(
        serde_json::to_string(&recall).unwrap(),
        r#"{"r1":0.5,"r5":0.75,"r10":1.0,"median_rank":1.5}"#
    );
    assert_eq!(
        serde_json::to_string(&chance(&truth(&[0, 1], 2))).unwrap(),
        r#"{"text_to_image":{"r1":0.5,"r5":1.0,"r10":1.0},"image_to_text":{"r1":0.5,"r5":1.0,"r10":1.0}}"#
    );
}

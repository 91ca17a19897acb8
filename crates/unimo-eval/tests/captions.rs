//! Tokens and scores of captions against those of the reference, `pycocoevalcap` 1.2.
//!
//! `fixtures/captions.json` is written by `tests/reference/captions.py` of the repository, which runs the reference's
//! tokeniser (with Java 17) and its scorers. The golden set is real captions with the reference's numbers, in the folder
//! that UNIMO_SHARED names.

use std::io::Write;
use std::path::PathBuf;

use serde::Deserialize;
use serde_json::Value;
use unimo_eval::captions::{Case, DocumentFrequencies, Metric, Scores, ptb, score, score_tokens};

/// Sums of f64 in another order, and powers of them.
const F64_ROUNDING: f64 = 1e-9;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fixture {
    /// The script that wrote it.
    #[expect(dead_code, reason = "for the reader of the file")]
    how: String,
    together: Vec<(String, String)>,
    alone: Vec<(String, String)>,
    cases: Vec<Scored>,
    corpus: Scores,
    training: Vec<Vec<String>>,
    rewards: Vec<f64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Scored {
    references: Vec<String>,
    hypothesis: String,
    bleu: [f64; 4],
    rouge_l: f64,
    cider: f64,
    cider_d: f64,
}

fn fixture() -> Fixture {
    serde_json::from_str(include_str!("fixtures/captions.json")).expect("the fixture")
}

fn cases(fixture: &Fixture) -> Vec<Case> {
    let case = |scored: &Scored| Case {
        references: scored.references.clone(),
        hypothesis: scored.hypothesis.clone(),
    };
    fixture.cases.iter().map(case).collect()
}

fn assert_close(own: &Scores, reference: &Scores, what: &str) {
    for metric in Metric::ALL {
        let (own, reference) = (own.get(metric), reference.get(metric));
        assert!(
            (own - reference).abs() < F64_ROUNDING,
            "{what}: {metric} {own}, reference {reference}"
        );
    }
}

#[test]
fn hard_texts_have_the_tokens_of_the_reference() {
    let fixture = fixture();
    let (texts, expected): (Vec<String>, Vec<String>) = fixture.together.into_iter().unzip();
    for ((text, expected), own) in texts.iter().zip(&expected).zip(ptb::tokenize_all(&texts)) {
        assert_eq!(own.join(" "), *expected, "of {text:?}");
    }
    for (text, expected) in &fixture.alone {
        assert_eq!(
            ptb::tokenize(text).join(" "),
            *expected,
            "of {text:?} alone"
        );
    }
}

#[test]
fn captions_have_the_scores_of_the_reference() {
    let fixture = fixture();
    let own = score(&cases(&fixture)).unwrap();
    for (number, (own, scored)) in own.each.iter().zip(&fixture.cases).enumerate() {
        let reference = Scores {
            bleu: scored.bleu,
            rouge_l: scored.rouge_l,
            cider: scored.cider,
            cider_d: scored.cider_d,
        };
        assert_close(own, &reference, &format!("case {number}"));
    }
    assert_close(&own.corpus, &fixture.corpus, "all");
}

#[test]
fn rewards_are_those_of_the_reference_with_the_frequencies_of_other_captions() {
    let fixture = fixture();
    let ending = |mut tokens: Vec<String>| {
        tokens.push("<end>".to_owned());
        tokens
    };
    let split = |line: &String| line.split(' ').map(str::to_owned).collect::<Vec<_>>();
    let training: Vec<Vec<Vec<String>>> = fixture
        .training
        .iter()
        .map(|lines| lines.iter().map(split).collect())
        .collect();
    let frequencies = DocumentFrequencies::new(training.iter().map(Vec::as_slice)).unwrap();
    assert_eq!(frequencies.images(), training.len());
    let all = cases(&fixture);
    let hypotheses: Vec<&str> = all.iter().map(|case| case.hypothesis.as_str()).collect();
    let references: Vec<&String> = all.iter().flat_map(|case| &case.references).collect();
    let mut references = ptb::tokenize_all(&references).into_iter().map(ending);
    for ((case, hypothesis), reward) in all
        .iter()
        .zip(ptb::tokenize_all(&hypotheses))
        .zip(&fixture.rewards)
    {
        let references: Vec<Vec<String>> =
            references.by_ref().take(case.references.len()).collect();
        let own = frequencies
            .cider_d(&ending(hypothesis), &references)
            .unwrap();
        assert!(
            (own - reward).abs() < F64_ROUNDING,
            "{own}, reference {reward}, of {case:?}"
        );
    }
}

#[test]
fn frequencies_of_the_scored_captions_themselves_change_nothing() {
    let tokens: Vec<Case<Vec<String>>> = cases(&fixture())
        .iter()
        .map(|case| Case {
            references: ptb::tokenize_all(&case.references),
            hypothesis: ptb::tokenize(&case.hypothesis),
        })
        .collect();
    let scores = score_tokens(&tokens).unwrap();
    let frequencies =
        DocumentFrequencies::new(tokens.iter().map(|case| case.references.as_slice())).unwrap();
    for (case, scores) in tokens.iter().zip(&scores.each) {
        let cider_d = frequencies
            .cider_d(&case.hypothesis, &case.references)
            .unwrap();
        let cider = frequencies
            .cider(&case.hypothesis, &case.references)
            .unwrap();
        assert!(
            (cider_d - scores.cider_d).abs() < F64_ROUNDING
                && (cider - scores.cider).abs() < F64_ROUNDING
        );
    }
}

/// The folder of real captions, if the user has it; a line on stderr, past the harness, says that `test` was skipped if not.
fn golden(test: &str) -> Option<PathBuf> {
    let given = std::env::var_os("UNIMO_SHARED").filter(|value| !value.is_empty());
    if given.is_none() {
        let line = format!("SKIPPED: {test}: set UNIMO_SHARED to run it\n");
        // Where stderr is closed nobody could read it anyway.
        let _ = std::io::stderr().write_all(line.as_bytes());
    }
    given.map(|folder| PathBuf::from(folder).join("golden/metrics"))
}

#[test]
fn real_captions_have_the_tokens_and_scores_of_the_reference() {
    let Some(folder) = golden("real_captions_have_the_tokens_and_scores_of_the_reference") else {
        return;
    };
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    let texts = |value: &Value| {
        value
            .as_array()
            .expect("texts")
            .iter()
            .map(text)
            .collect::<Vec<_>>()
    };
    let read = |name: &str| std::fs::read_to_string(folder.join(name)).expect("the golden set");
    let rows: Vec<Value> = read("captions.jsonl")
        .lines()
        .map(|line| serde_json::from_str(line).expect("a row"))
        .collect();
    let cases: Vec<Case> = rows
        .iter()
        .map(|row| Case {
            references: texts(&row["refs"]),
            hypothesis: text(&row["hyp"]),
        })
        .collect();
    for (case, row) in cases.iter().zip(&rows) {
        assert_eq!(ptb::tokenize(&case.hypothesis).join(" "), row["hyp_tok"]);
        let own: Vec<String> = case
            .references
            .iter()
            .map(|line| ptb::tokenize(line).join(" "))
            .collect();
        assert_eq!(own, texts(&row["refs_tok"]));
    }
    let own = score(&cases).unwrap();
    // The reference knows no plain CIDEr.
    let reference = |scores: &Value, cider: f64| Scores {
        bleu: ["Bleu_1", "Bleu_2", "Bleu_3", "Bleu_4"]
            .map(|name| scores[name].as_f64().expect("a score")),
        rouge_l: scores["ROUGE_L"].as_f64().expect("a score"),
        cider,
        cider_d: scores["CIDEr"].as_f64().expect("a score"),
    };
    for (own, row) in own.each.iter().zip(&rows) {
        assert_close(
            own,
            &reference(&row["scores"], own.cider),
            &row["image_id"].to_string(),
        );
    }
    let corpus: Value = serde_json::from_str(&read("corpus.json")).expect("the scores of all");
    assert_close(&own.corpus, &reference(&corpus, own.corpus.cider), "all");
}

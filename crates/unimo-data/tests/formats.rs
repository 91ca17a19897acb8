//! Annotation formats over real data, if it is present.

mod shared;

use std::path::{Path, PathBuf};

use unimo_data::{DataConfig, Split, open};

fn data(test: &str) -> Option<PathBuf> {
    shared::shared(test).map(|shared| shared.join("data"))
}

fn config(text: &str, folder: &Path) -> DataConfig {
    let mut config: DataConfig = toml::from_str(text).unwrap();
    config.rebase(folder);
    config
}

#[test]
fn easy_vqa_is_read_whole() {
    let Some(data) = data("easy_vqa_is_read_whole") else {
        return;
    };
    let part = |name: &str, folder: &str| {
        format!(
            "[vqa.{name}]\nquestions = \"{folder}/questions.json\"\nimages = \"{folder}/images\"\nimage = \"{{id}}.png\"\n"
        )
    };
    let text = format!(
        "source = \"vqa\"\n{}{}",
        part("train", "train"),
        part("val", "test")
    );
    let source = open(&config(&text, &data.join("easy_vqa"))).unwrap();
    assert!(source.rejected().is_empty());
    // The numbers in the data set's own description.
    assert_eq!(
        (source.len(Split::Train), source.len(Split::Val)),
        (4000, 1000)
    );
    for (split, questions) in [(Split::Train, 38_575), (Split::Val, 9673)] {
        assert_eq!(source.texts(split).count(), questions);
    }
    let answers = std::fs::read_to_string(data.join("easy_vqa/answers.txt")).unwrap();
    let answers: Vec<&str> = answers.lines().collect();
    for index in 0..50 {
        let sample = source.sample(Split::Val, index).unwrap();
        assert_eq!(sample.image.unwrap().dimensions(), (64, 64));
        assert_eq!(sample.captions.len(), sample.questions.len());
        for (_, answer) in sample.questions {
            assert!(answers.contains(&answer.as_str()), "{answer}");
        }
    }
}

#[test]
fn nlvr_is_read_whole() {
    let Some(data) = data("nlvr_is_read_whole") else {
        return;
    };
    let text = "source = \"nlvr\"\n[nlvr]\nval_fraction = 0\n[nlvr.train]\npath = \"nlvr.jsonl\"\nimages = \".\"\n";
    let source = open(&config(text, &data.join("nlvr1"))).unwrap();
    assert!(source.rejected().is_empty());
    let rows = std::fs::read_to_string(data.join("nlvr1/nlvr.jsonl")).unwrap();
    let rows: Vec<serde_json::Value> = rows
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(source.texts(Split::Train).count(), rows.len());
    let said = rows.iter().filter(|row| row["label"] == "true").count();
    let mut held = 0;
    for index in 0..source.len(Split::Train) {
        let sample = source.sample(Split::Train, index).unwrap();
        assert!(sample.image.is_some());
        held += sample.statements.iter().filter(|(_, truth)| *truth).count();
    }
    assert_eq!(held, said);
}

//! Questions about images: VQAv2 and everything written like it, or a plain list.
//!
//! ```toml
//! [data]
//! source = "vqa"
//!
//! [data.vqa.train]
//! questions = "v2_OpenEnded_mscoco_train2014_questions.json"
//! annotations = "v2_mscoco_train2014_annotations.json"
//! images = "train2014"
//! image = "COCO_train2014_{id:12}.jpg"
//!
//! [data.vqa.val]
//! questions = "val/questions.json"
//! images = "val/images"
//! image = "{id}.png"
//! ```
//!
//! `questions` has one of these forms: an object with the array `questions`, whose answers are in `annotations`; an object of questions
//! under their ids, each with `question`, `imageId` and maybe `answer` (GQA); a plain list
//! `[[question, answer, image id], ...]`; or objects, in a list or one per line, with `question`, `answers` or `answer`, and `image`
//! (the image's path) or `image_id` (VizWiz, ALBEF); a `split` in them says which split they are of. The same in columns with a header
//! (DAQUAR's CSV) is read too. `image` of the recipe is the image's name, in which `{id:12}` stands for the image id,
//! filled with zeros to 12 digits. A sample is an image with all its questions. The questions are the texts that pre-training
//! reads. None describes its image, so none is a positive of contrast and matching, and none is retrieved
//! ([`TextRole`](unimo_batch::TextRole)). Each question has its most common answer and, if `annotations` gives them, all answers.
//! Without `annotations` questions have no answers. In errors the line is the number of the question or of the annotation, from 1.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::error::DataError;
use crate::formats::json::{MEMBERS, each_of_file, id, or_default, parse};
use crate::formats::layout::{start_of, with_column};
use crate::formats::rows::{Item, each_line, each_row};
use crate::formats::values::Identifier;
use crate::sources::given::{Held, given};
use crate::sources::label::Label;
use crate::sources::listed::{Listed, New};
use crate::sources::parts::{Part, Parts};
use crate::sources::splits::Split;
use crate::sources::template::Template;
use crate::text::spaced;

/// `[data.vqa]`.
pub type VqaConfig = Parts<VqaPart>;

/// `[data.vqa.train]`: the files of one split.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VqaPart {
    /// The questions: JSON, or columns with a header.
    pub questions: PathBuf,
    /// The answers; a plain list contains them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub annotations: Option<PathBuf>,
    /// Folder of the images.
    pub images: PathBuf,
    /// An image's name; `{id}` is its image id. Not needed if the questions name the images.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
}

#[derive(Deserialize)]
struct Asked {
    #[serde(deserialize_with = "id")]
    question_id: String,
    #[serde(deserialize_with = "id")]
    image_id: String,
    question: String,
}

#[derive(Deserialize)]
struct Annotation {
    #[serde(deserialize_with = "id")]
    question_id: String,
    image_id: Option<Identifier>,
    multiple_choice_answer: Option<String>,
    #[serde(default, deserialize_with = "or_default")]
    question_type: String,
    #[serde(default, deserialize_with = "or_default")]
    answer_type: String,
    #[serde(default, deserialize_with = "or_default")]
    answers: Vec<Answer>,
}

#[derive(Deserialize)]
struct Answer {
    #[serde(default, deserialize_with = "or_default")]
    answer: String,
}

/// Objects of VQAv2's files that are no questions.
const ABOUT: [&str; 2] = ["info", "license"];

/// A question under its id (GQA).
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Member {
    question: String,
    #[serde(deserialize_with = "id")]
    image_id: String,
    answer: Option<String>,
    #[serde(default, deserialize_with = "or_default")]
    types: BTreeMap<String, Value>,
}

/// A question of a list of objects.
#[derive(Deserialize)]
struct Whole {
    question: String,
    image: Option<String>,
    image_id: Option<Identifier>,
    question_id: Option<Identifier>,
    split: Option<String>,
    #[serde(default)]
    answers: Value,
    #[serde(default)]
    answer: Value,
}

/// The answers in a value: a string, an object with `answer`, or a list of these.
fn answers_in(value: &Value) -> Result<Vec<String>, String> {
    match value {
        Value::Null => Ok(Vec::new()),
        Value::String(text) => Ok(spaced(text).into_iter().collect()),
        Value::Object(answer) => answers_in(answer.get("answer").unwrap_or(&Value::Null)),
        Value::Array(answers) => {
            let answers: Result<Vec<_>, _> = answers.iter().map(answers_in).collect();
            Ok(answers?.concat())
        }
        Value::Bool(_) | Value::Number(_) => Err("an answer that is no text".to_owned()),
    }
}

#[derive(Deserialize)]
struct Plain(String, String, #[serde(deserialize_with = "id")] String);

/// Answers to a question, and the number of their annotation.
struct Answered {
    number: u64,
    /// The image that the annotation names; `None` if it names none.
    image: Option<String>,
    label: Label,
}

impl Answered {
    /// The label, if the annotation is of this image.
    fn of(self, image: &str) -> Result<Label, String> {
        match self.image {
            Some(other) if other != image => Err(format!(
                "its image id is {image}, and that of its annotation (number {}) is {other}",
                self.number
            )),
            _ => Ok(self.label),
        }
    }
}

impl Part for VqaPart {
    const NAME: &'static str = "questions";

    fn validate(&self, table: &str) -> Result<(), DataError> {
        given(
            table,
            "questions",
            &self.questions,
            "a JSON file, or one of columns",
        )?;
        if let Some(annotations) = &self.annotations {
            given(table, "annotations", annotations, "a JSON file")?;
        }
        given(table, "images", &self.images, "a folder of images")?;
        self.template(table).map(|_| ())
    }

    fn paths(&mut self) -> Vec<&mut PathBuf> {
        let mut paths = vec![&mut self.questions, &mut self.images];
        paths.extend(self.annotations.as_mut());
        paths
    }

    fn read(&self, table: &mut Listed, held: Held) -> Result<(), DataError> {
        let template = self.template("data.vqa")?;
        let named = |id: &String| match &template {
            Some(template) => Ok(template.fill(&[id])),
            None => Err(format!(
                "it names no image, only the image id {id}: `image` of the recipe is needed"
            )),
        };
        let mut answers = self.read_answers(table)?;
        let file = table.file(&self.questions);
        let folders = table.folders(vec![self.images.clone()]);
        let mut rows = HashMap::new();
        let mut read = |key: &str, bytes: Result<&[u8], String>| {
            bytes.and_then(|bytes| {
                if !["", "questions"].contains(&key) {
                    return member(key, parse(bytes)?, &named);
                }
                if key.is_empty() && bytes.first() == Some(&b'{') {
                    return whole(parse(bytes)?, &named);
                }
                if key.is_empty() {
                    let Plain(question, answer, image) = parse(bytes)?;
                    let answer = Some(spaced(&answer).ok_or("empty answer")?);
                    let label = Label {
                        answer,
                        ..Label::default()
                    };
                    return Ok(Found {
                        image: named(&image)?,
                        question,
                        label,
                        split: None,
                    });
                }
                let asked: Asked = parse(bytes)?;
                let label = match &mut answers {
                    None => Label::default(),
                    Some(answers) => {
                        let found = answers.remove(&asked.question_id);
                        let found = found.ok_or_else(|| {
                            format!(
                                "no annotation is left for the question id {}",
                                asked.question_id
                            )
                        })?;
                        found.of(&asked.image_id)?
                    }
                };
                let label = Label {
                    id: asked.question_id,
                    ..label
                };
                Ok(Found {
                    image: named(&asked.image_id)?,
                    question: asked.question,
                    label,
                    split: None,
                })
            })
        };
        let mut take = |number: u64, asked: Result<Found, String>| {
            let used = asked.and_then(
                |Found {
                     question,
                     image,
                     label,
                     split,
                 }| {
                    if spaced(&question).is_none() {
                        return Err("empty question".to_owned());
                    }
                    let named = split.is_some();
                    let split = match split {
                        None => held.of(&image),
                        Some(named) => match Split::of_name(&named) {
                            Some(split) if table.takes(split, held) => split,
                            Some(_) => {
                                table.leave_out(format!(
                                    "of the split {named:?}, where another file is given for a split"
                                ));
                                return Ok(());
                            }
                            None => {
                                table.leave_out(format!("of the split {named:?}"));
                                return Ok(());
                            }
                        },
                    };
                    let image = (image, split);
                    let row = *rows.entry(image).or_insert_with_key(|(image, split)| {
                        table.row(New {
                            file,
                            line: number,
                            folders,
                            image,
                            second: None,
                            size: None,
                            split: *split,
                        })
                    });
                    if named {
                        table.names_split(row);
                    }
                    let label = Label {
                        line: Some(number),
                        ..label
                    };
                    table.question(row, &question, &label)
                },
            );
            if let Err(reason) = used {
                table.reject(file, number, reason);
            }
        };
        let start = start_of(&self.questions)?;
        if let Some(layout) = with_column(&start, "question") {
            each_row(&self.questions, layout, &mut |item| {
                if let Item::Row(span, row) = item
                    && let Some(row) = row.transpose()
                {
                    let number = span.line.into();
                    take(number, row.and_then(|row| of_cells(row, &named)));
                }
                Ok(())
            })?;
        } else if in_lines(&start) {
            each_line(&self.questions, &mut |span, line| {
                let line = line.as_deref().map_err(ToString::to_string);
                if line
                    .as_ref()
                    .is_ok_and(|line| !line.trim_ascii().is_empty())
                    || line.is_err()
                {
                    let asked = read("", line.map(<[u8]>::trim_ascii));
                    take(span.line.into(), asked);
                }
            })?;
        } else {
            let wanted = ["", "questions", MEMBERS];
            each_of_file(&self.questions, &wanted, &mut |key, number, bytes| {
                if !ABOUT.contains(&key) {
                    take(number, read(key, bytes));
                }
            })?;
        }
        if let (Some(path), Some(answers)) = (&self.annotations, answers) {
            let file = table.file(path);
            let mut left: Vec<_> = answers.into_iter().collect();
            left.sort_by_key(|(_, answered)| answered.number);
            for (question, answered) in left {
                let reason = format!("no question has the id {question}");
                table.reject(file, answered.number, reason);
            }
        }
        Ok(())
    }
}

impl VqaPart {
    fn template(&self, table: &str) -> Result<Option<Template>, DataError> {
        let Some(image) = &self.image else {
            return Ok(None);
        };
        Template::parse(image, &["id"]).map(Some).map_err(|reason| {
            DataError::config(
                format!("{table}.image"),
                format!("{image:?}: {reason}"),
                "a name with {id}, such as `COCO_train2014_{id:12}.jpg`",
            )
        })
    }

    fn read_answers(
        &self,
        table: &mut Listed,
    ) -> Result<Option<HashMap<String, Answered>>, DataError> {
        let Some(path) = &self.annotations else {
            return Ok(None);
        };
        let file = table.file(path);
        let mut answers: HashMap<String, Answered> = HashMap::new();
        each_of_file(path, &["annotations"], &mut |_, number, bytes| {
            let used = bytes.and_then(parse::<Annotation>).and_then(|found| {
                // An empty answer is one of the ten that the official score counts.
                let all = found.answers.iter();
                let all: Vec<String> = all
                    .map(|answer| spaced(&answer.answer).unwrap_or_default())
                    .collect();
                let given = found.multiple_choice_answer.as_deref().and_then(spaced);
                let common = || most_common(&all).filter(|answer| !answer.is_empty());
                let answer = given.or_else(common).ok_or("no answer")?;
                if answers.contains_key(&found.question_id) {
                    return Err(format!(
                        "a second annotation of the question id {}",
                        found.question_id
                    ));
                }
                let kinds = [
                    ("question type", found.question_type),
                    ("answer type", found.answer_type),
                ];
                let kinds = kinds.into_iter().filter(|(_, kind)| !kind.is_empty());
                let label = Label {
                    answer: Some(answer),
                    answers: all,
                    kinds: kinds.map(|(name, kind)| (name.to_owned(), kind)).collect(),
                    ..Label::default()
                };
                let answered = Answered {
                    number,
                    image: found.image_id.map(|id| id.0),
                    label,
                };
                answers.insert(found.question_id, answered);
                Ok(())
            });
            if let Err(reason) = used {
                table.reject(file, number, reason);
            }
        })?;
        Ok(Some(answers))
    }
}

/// A question that was found.
struct Found {
    question: String,
    /// The image's path.
    image: String,
    label: Label,
    /// The split, as the file names it.
    split: Option<String>,
}

/// Whether a file that begins so has one question per line.
fn in_lines(start: &[u8]) -> bool {
    let start = start.strip_prefix(b"\xef\xbb\xbf").unwrap_or(start);
    let line = start.trim_ascii_start();
    let line = line.split(|byte| *byte == b'\n').next().unwrap_or(line);
    let row = parse::<Map<String, Value>>(line);
    row.is_ok_and(|row| row.get("question").is_some_and(Value::is_string))
}

/// A row of columns. An empty cell says nothing.
fn of_cells(
    row: Map<String, Value>,
    named: &dyn Fn(&String) -> Result<String, String>,
) -> Result<Found, String> {
    let said = |value: &Value| value.as_str().is_none_or(|text| !text.trim().is_empty());
    let row = row.into_iter().filter(|(_, value)| said(value));
    let row = Value::Object(row.collect());
    whole(
        serde_json::from_value(row).map_err(|error| error.to_string())?,
        named,
    )
}

fn member(
    id: &str,
    asked: Member,
    named: &dyn Fn(&String) -> Result<String, String>,
) -> Result<Found, String> {
    let types = asked.types.into_iter();
    let kinds = types.filter_map(|(name, kind)| {
        let kind = kind.as_str()?.to_owned();
        Some((format!("{name} type"), kind))
    });
    let label = Label {
        id: id.to_owned(),
        answer: asked.answer.as_deref().and_then(spaced),
        kinds: kinds.collect(),
        ..Label::default()
    };
    Ok(Found {
        image: named(&asked.image_id)?,
        question: asked.question,
        label,
        split: None,
    })
}

fn whole(asked: Whole, named: &dyn Fn(&String) -> Result<String, String>) -> Result<Found, String> {
    let image = match (&asked.image, &asked.image_id) {
        (Some(image), _) if !image.trim().is_empty() => image.trim().to_owned(),
        (_, Some(Identifier(id))) => named(id)?,
        _ => return Err("neither `image` nor `image_id`".to_owned()),
    };
    let own = answers_in(&asked.answer)?;
    let mut all = answers_in(&asked.answers)?;
    let chosen = if all.is_empty() {
        all.clone_from(&own);
        None
    } else if let Some(other) = own.iter().find(|answer| !all.contains(answer)) {
        return Err(format!(
            "`answer` is {other:?}, which `answers` does not have"
        ));
    } else {
        // It says which of them to learn, and is not one more of them.
        most_common(&own)
    };
    let label = Label {
        id: asked
            .question_id
            .map(|Identifier(id)| id)
            .unwrap_or_default(),
        answer: chosen.or_else(|| most_common(&all)),
        answers: all,
        ..Label::default()
    };
    Ok(Found {
        question: asked.question,
        image,
        label,
        split: asked.split.filter(|split| !split.trim().is_empty()),
    })
}

/// The first of the most common answers.
fn most_common(all: &[String]) -> Option<String> {
    let count = |answer: &String| all.iter().filter(|other| *other == answer).count();
    // `max_by_key` returns the last of equal elements.
    all.iter().rev().max_by_key(|answer| count(answer)).cloned()
}

#[cfg(test)]
mod tests {
    use crate::sources::fixtures::{assert_rejected, captions, folder, message, open};
    use crate::sources::splits::Split;

    const QUESTIONS: &str = r#"{"task_type": "Open-Ended", "questions": [
        {"image_id": 42, "question": "What is it?", "question_id": 42000},
        {"image_id": 7, "question": "How many?", "question_id": 7000},
        {"image_id": 42, "question": "Is it red?", "question_id": 42001},
        {"image_id": 42, "question": "Unanswered?", "question_id": 42002},
        {"image_id": 42, "question": "", "question_id": 42003},
        {"image_id": [], "question": "x", "question_id": 1},
        {"image_id": 8, "question": "Of which?", "question_id": 8000}]}"#;

    const ANNOTATIONS: &str = r#"{"annotations": [
        {"question_id": 42000, "image_id": 42.0, "multiple_choice_answer": "net", "answer_type": "other",
         "answers": [{"answer": "net", "answer_id": 1}, {"answer": "a net", "answer_id": 2}, {"answer": "net", "answer_id": 3}]},
        {"question_id": 42001, "answers": [{"answer": "no"}, {"answer": "yes"}, {"answer": "yes"}]},
        {"question_id": 7000, "multiple_choice_answer": "2", "answers": []},
        {"question_id": 42003, "multiple_choice_answer": "x", "answers": []},
        {"question_id": 999, "multiple_choice_answer": "x", "answers": []},
        {"question_id": 42001, "multiple_choice_answer": "x", "answers": []},
        {"question_id": 42002, "answers": []},
        {"question_id": 8000, "image_id": 9, "multiple_choice_answer": "x", "answers": []}]}"#;

    const DATA: &str = r#"
        source = "vqa"
        [vqa]
        val_fraction = 0.0
        [vqa.train]
        questions = "q.json"
        images = "i"
        "#;

    #[test]
    fn questions_meet_their_answers() {
        let folder = folder(&[
            ("q.json", QUESTIONS),
            ("a.json", ANNOTATIONS),
            ("i/COCO_000000000042.jpg", "2x2"),
        ]);
        let data = format!("{DATA}annotations = \"a.json\"\nimage = \"COCO_{{id:12}}.jpg\"\n");
        let source = open(&folder, &data).unwrap();
        assert_eq!(
            captions(&*source, Split::Train),
            [vec!["What is it?", "Is it red?"], vec!["How many?"]]
        );
        let sample = source.sample(Split::Train, 0).unwrap();
        let pair = |question: &str, answer: &str| (question.to_owned(), answer.to_owned());
        assert_eq!(
            sample.questions,
            [pair("What is it?", "net"), pair("Is it red?", "yes")]
        );
        assert_eq!(
            sample.answers,
            [["net", "a net", "net"], ["no", "yes", "yes"]]
        );
        assert_rejected(
            &*source,
            &[
                ("a.json", 6, "a second annotation of the question id 42001"),
                ("a.json", 7, "no answer"),
                (
                    "q.json",
                    4,
                    "no annotation is left for the question id 42002",
                ),
                ("q.json", 5, "empty question"),
                ("q.json", 6, "identifier"),
                (
                    "q.json",
                    7,
                    "its image id is 8, and that of its annotation (number 8) is 9",
                ),
                ("a.json", 5, "no question has the id 999"),
            ],
        );
        let unanswered = open(&folder, &format!("{DATA}image = \"{{id}}.jpg\"\n")).unwrap();
        assert_eq!(unanswered.captions(Split::Train, 0).unwrap().len(), 3);
    }

    #[test]
    fn a_plain_list_has_its_answers() {
        let list = r#"[["what?", "triangle", 0], ["where?", "", 0], ["who?", "no", "x"], ["why?", 3, 1], ["how?", "red", 0], 5]"#;
        let folder = folder(&[("q.json", list), ("i/0.png", "2x2")]);
        let source = open(&folder, &format!("{DATA}image = \"{{id}}.png\"\n")).unwrap();
        assert_eq!(
            captions(&*source, Split::Train),
            [vec!["what?", "how?"], vec!["who?"]]
        );
        let sample = source.sample(Split::Train, 0).unwrap();
        assert_eq!(sample.questions[1], ("how?".to_owned(), "red".to_owned()));
        assert!(sample.answers.is_empty());
        assert_rejected(
            &*source,
            &[
                ("q.json", 2, "empty answer"),
                ("q.json", 4, "invalid type"),
                ("q.json", 6, "invalid type"),
            ],
        );
    }

    /// DAQUAR's files.
    #[test]
    fn columns_are_read_as_objects_are() {
        let list =
            "question,answer,image_id\n\"what, and where?\",chair,0\nwho?,,0\nhow?,red\n,x,0\n";
        let folder = folder(&[("q.json", list), ("i/0.png", "2x2")]);
        let source = open(&folder, &format!("{DATA}image = \"{{id}}.png\"\n")).unwrap();
        let sample = source.sample(Split::Train, 0).unwrap();
        let first = ("what, and where?".to_owned(), "chair".to_owned());
        assert_eq!(sample.questions, [first]);
        assert_eq!(captions(&*source, Split::Train)[0].len(), 2);
        assert_rejected(
            &*source,
            &[
                ("q.json", 4, "2 columns, but the header has 3"),
                ("q.json", 5, "missing field `question`"),
            ],
        );
    }

    #[test]
    fn a_list_of_objects_names_its_pictures() {
        let list = r#"[
            {"image": "VizWiz_train_0.jpg", "question": "What is this?", "answers": [{"answer": "cup", "answer_confidence": "yes"},
             {"answer": "a mug", "answer_confidence": "no"}, {"answer": "cup"}, {"answer": null}], "answerable": 1},
            {"image": "VizWiz_train_0.jpg", "question": "Which colour?", "answer": ["red", "red", "blue"], "dataset": "vqa"},
            {"image_id": 7.0, "question": "How many?", "answer": "two", "score": NaN},
            {"image": "VizWiz_test_1.jpg", "question": "Who knows?", "answers": null},
            {"question": "Where?"}, {"image": "x.jpg", "question": "Why?", "answer": 5},
            {"image": "x.jpg", "question": "Which?", "answer": "b", "answers": ["a", "a", "b"]},
            {"image": "x.jpg", "question": "What?", "answer": "c", "answers": ["a", "a", "b"]}]"#;
        let folder = folder(&[("q.json", list), ("i/VizWiz_train_0.jpg", "2x2")]);
        let source = open(&folder, &format!("{DATA}image = \"{{id:3}}.png\"\n")).unwrap();
        assert_eq!(
            captions(&*source, Split::Train),
            [
                vec!["What is this?", "Which colour?"],
                vec!["How many?"],
                vec!["Who knows?"],
                vec!["Which?"]
            ]
        );
        let sample = source.sample(Split::Train, 0).unwrap();
        let pair = |question: &str, answer: &str| (question.to_owned(), answer.to_owned());
        assert_eq!(
            sample.questions,
            [pair("What is this?", "cup"), pair("Which colour?", "red")]
        );
        assert_eq!(
            sample.answers,
            [["cup", "a mug", "cup"], ["red", "red", "blue"]]
        );
        let image = source.image_path(Split::Train, 1).unwrap().unwrap();
        assert!(image.ends_with("i/007.png"), "{}", image.display());
        assert_rejected(
            &*source,
            &[
                ("q.json", 5, "neither `image` nor `image_id`"),
                ("q.json", 6, "an answer that is no text"),
                (
                    "q.json",
                    8,
                    "`answer` is \"c\", which `answers` does not have",
                ),
            ],
        );
        // The most common one is not learned where the file says another.
        let label = &source.labels(Split::Train, 3).unwrap()[0];
        assert_eq!(label.answer.as_deref(), Some("b"));
        assert_eq!(label.answers, ["a", "a", "b"]);
        let unnamed = open(&folder, DATA).unwrap();
        assert_eq!(unnamed.len(Split::Train), 3);
        assert!(
            unnamed.rejected()[0]
                .reason
                .contains("`image` of the recipe")
        );
    }

    #[test]
    fn objects_in_lines_name_their_splits() {
        let list = "{\"image\": \"0.png\", \"question\": \"What?\", \"answer\": \"a\", \"split\": \"train\"}\n\n\
                    {\"image\": \"1.png\", \"question\": \"Who?\", \"answer\": \"b\", \"split\": \"dev\"}\n{\"image\": \"1.png\"\n\
                    {\"image\": \"1.png\", \"question\": \"How?\", \"answer\": \"c\", \"split\": \"extra\"}\n";
        let folder = folder(&[("q.jsonl", list), ("i/0.png", "2x2")]);
        let data = DATA
            .replace("q.json", "q.jsonl")
            .replace("val_fraction = 0.0", "val_fraction = 0.05");
        let source = open(&folder, &data).unwrap();
        assert_eq!(captions(&*source, Split::Train), [vec!["What?"]]);
        assert_eq!(captions(&*source, Split::Val), [vec!["Who?"]]);
        assert_eq!(source.labels(Split::Val, 0).unwrap()[0].line, Some(3));
        let left = "1 items left out (1 of the split \"extra\")";
        assert!(source.describe().contains(left), "{}", source.describe());
        assert_rejected(&*source, &[("q.jsonl", 4, "malformed JSON")]);
        // Nothing is drawn, so no note says it.
        assert_eq!(source.notes(), Vec::<String>::new());

        let unnamed = list.replacen(", \"split\": \"train\"", "", 1);
        std::fs::write(folder.path().join("q.jsonl"), unnamed).unwrap();
        let source = open(&folder, &data).unwrap();
        let notes = source.notes();
        assert!(
            matches!(&*notes, [note] if note.contains("of 1 images which split")),
            "{notes:?}"
        );
    }

    /// A file for a split takes its place: rows of the training file that name it are left out, and counted, and so are rows of other splits in
    /// the file of one.
    #[test]
    fn a_file_of_a_split_stands_for_the_rows_that_name_it() {
        let row = |image: &str, split: &str| {
            format!(
                "{{\"image\": \"{image}\", \"question\": \"{image}?\", \"answer\": \"a\", \"split\": \"{split}\"}}\n"
            )
        };
        let own = row("0.png", "train") + &row("1.png", "test") + &row("2.png", "val");
        let other = row("3.png", "test") + &row("4.png", "train");
        let folder = folder(&[("q.jsonl", &own), ("t.jsonl", &other), ("i/0.png", "2x2")]);
        let alone = DATA.replace("q.json", "q.jsonl");
        let test = "[vqa.test]\nquestions = \"t.jsonl\"\nimages = \"i\"\n";
        let source = open(&folder, &alone).unwrap();
        assert_eq!(captions(&*source, Split::Test), [vec!["1.png?"]]);
        let source = open(&folder, &format!("{alone}{test}")).unwrap();
        assert_eq!(captions(&*source, Split::Test), [vec!["3.png?"]]);
        assert_eq!(captions(&*source, Split::Val), [vec!["2.png?"]]);
        assert_eq!(captions(&*source, Split::Train), [vec!["0.png?"]]);
        let told = source.describe();
        assert!(told.contains("2 items left out"), "{told}");
    }

    #[test]
    fn questions_under_their_ids_are_read() {
        let list = r#"{"201": {"question": "What hangs?", "imageId": "n5", "answer": "picture", "isBalanced": true,
              "types": {"structural": "query", "detailed": null}},
             "202": {"question": "Is it red?", "imageId": 7}, "203": {"question": "Where?"}, "204": 5}"#;
        let folder = folder(&[("q.json", list), ("i/n5.jpg", "2x2")]);
        let source = open(&folder, &format!("{DATA}image = \"{{id}}.jpg\"\n")).unwrap();
        let labels = source.labels(Split::Train, 0).unwrap();
        assert_eq!(
            (labels[0].id.as_str(), labels[0].answer.as_deref()),
            ("201", Some("picture"))
        );
        let kind = ("structural type".to_owned(), "query".to_owned());
        assert_eq!(labels[0].kinds, [kind]);
        let unanswered = source.labels(Split::Train, 1).unwrap();
        assert_eq!(
            (unanswered[0].id.as_str(), &unanswered[0].answer),
            ("202", &None)
        );
        assert_rejected(&*source, &[("q.json", 3, "imageId")]);
    }

    /// Its types, all ten answers with empty ones, and its id are known of a question.
    #[test]
    fn what_an_evaluation_needs_is_known() {
        let answers = r#"{"annotations": [{"question_id": 7000, "multiple_choice_answer": "2", "question_type": "how many",
            "answer_type": "number", "answers": [{"answer": "2"}, {"answer": ""}, {"answer": "two"}]}]}"#;
        let folder = folder(&[("q.json", QUESTIONS), ("a.json", answers)]);
        let data = format!("{DATA}annotations = \"a.json\"\nimage = \"{{id}}.jpg\"\n");
        let source = open(&folder, &data).unwrap();
        let labels = source.labels(Split::Train, 0).unwrap();
        let kinds = [("question type", "how many"), ("answer type", "number")];
        let kinds = kinds.map(|(a, b)| (a.to_owned(), b.to_owned()));
        assert_eq!(labels[0].kinds, kinds);
        assert_eq!(labels[0].answers, ["2", "", "two"]);
        assert_eq!(labels[0].id, "7000");
    }

    #[test]
    fn a_name_without_the_id_is_refused() {
        let folder = folder(&[("q.json", QUESTIONS)]);
        let message = message(open(&folder, &format!("{DATA}image = \"x.jpg\"\n")));
        assert!(message.contains("`data.vqa.train.image`"), "{message}");
    }
}

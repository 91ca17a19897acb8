//! `unimo score-captions`: BLEU, ROUGE-L, CIDEr and CIDEr-D of generated captions, in the two files of COCO's evaluation.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use unimo_eval::captions::{Case, Metric, Scores, ptb, score};

use crate::error::TrainError;
use crate::files;
use crate::outputs;

/// `unimo score-captions`.
#[derive(Debug, Clone, clap::Args)]
pub struct ScoreCaptionsArgs {
    /// The generated captions, one for each image: [{"image_id": 42, "caption": "a dog on grass"}, ...]
    #[arg(value_name = "RESULTS.json")]
    pub results: PathBuf,
    /// The references, as in COCO's annotations: {"images": [{"id": 42}, ...], "annotations": [{"image_id": 42, "caption": "A dog."},
    /// ...]}
    #[arg(long, value_name = "CAPTIONS.json")]
    pub references: PathBuf,
    /// Write the scores of all images and of each one to this file, too.
    #[arg(long, value_name = "SCORES.json")]
    pub json: Option<PathBuf>,
}

/// What `--json` writes.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ScoredCaptions {
    /// Of all images that have a result.
    pub corpus: Scores,
    /// How many images of the references have no result. They are not scored.
    pub images_without_result: usize,
    /// How many captions have no word. They are scored.
    pub captions_without_word: usize,
    /// Of each image that has a result, in the order of the references.
    pub images: Vec<ScoredImage>,
}

/// The scores of one image.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ScoredImage {
    /// A number or a text, as in the results.
    pub image_id: Value,
    /// The scores of its caption.
    #[serde(flatten)]
    pub scores: Scores,
}

/// Runs the command.
///
/// # Errors
///
/// As for [`of_files`], or the scores cannot be written.
pub fn run(args: &ScoreCaptionsArgs) -> Result<(), TrainError> {
    outputs::replace_nothing(
        &[args.json.as_deref()],
        &[Some(&args.results), Some(&args.references)],
        &[],
    )?;
    let scored = of_files(&args.results, &args.references)?;
    for (count, what) in [
        (
            scored.images_without_result,
            "not scored are images of the references without a result",
        ),
        (
            scored.captions_without_word,
            "scored are captions without a word, empty or of punctuation alone",
        ),
    ] {
        if count > 0 {
            eprintln!("{what}: {count}");
        }
    }
    if let Some(path) = &args.json {
        files::write_with(path, |out| {
            serde_json::to_writer(&mut *out, &scored)?;
            out.write_all(b"\n")
        })?;
    }
    print!("{}", table(&scored));
    Ok(())
}

/// The scores as a table.
fn table(scored: &ScoredCaptions) -> String {
    let mut table = format!("{:<8}  {}\n", "images", scored.images.len());
    for metric in Metric::ALL {
        let note = match metric {
            Metric::CiderD => "  called CIDEr by pycocoevalcap and in papers",
            _ => "",
        };
        table += &format!(
            "{:<8}  {:.4}{note}\n",
            metric.to_string(),
            scored.corpus.get(metric)
        );
    }
    table
}

/// Scores the captions of one file against the references of another.
///
/// # Errors
///
/// A file cannot be read or has not the form of COCO's. A result is of no image of the references, or is the second of its
/// image. An image with a result has no reference. There is no result.
pub fn of_files(results: &Path, references: &Path) -> Result<ScoredCaptions, TrainError> {
    let results = Results::read(results)?;
    let references = References::read(references)?;
    let mut found: HashMap<&str, &Captioned> = HashMap::new();
    for result in &results.captions {
        let id = result.id.as_str();
        if !references.of_image.contains_key(id) {
            return Err(results.wrong(
                result.row,
                format!(
                    "image_id {} is no `id` in `images` of {}: allowed are the images there",
                    result.image_id,
                    references.path.display()
                ),
            ));
        }
        if let Some(first) = found.insert(id, result) {
            return Err(results.wrong(
                result.row,
                format!(
                    "image_id {} stands in row {} already: allowed is one caption for each image",
                    result.image_id, first.row
                ),
            ));
        }
    }
    // In the order of the references, which is that of COCO's code: what is scored is the same to the last digit.
    let mut scored = Vec::new();
    let mut cases = Vec::new();
    for id in &references.order {
        let Some(result) = found.get(id.as_str()) else {
            continue;
        };
        let captions = &references.of_image[id];
        if captions.is_empty() {
            return Err(results.wrong(
                result.row,
                format!(
                    "image {} has no caption in `annotations` of {}: each image with a result needs at least one",
                    result.image_id,
                    references.path.display()
                ),
            ));
        }
        scored.push(result.image_id.clone());
        cases.push(Case {
            references: captions.clone(),
            hypothesis: result.caption.clone(),
        });
    }
    let scores = score(&cases).map_err(|error| TrainError::Check(error.to_string()))?;
    let is_wordless = |case: &&Case| ptb::tokenize(&case.hypothesis).is_empty();
    Ok(ScoredCaptions {
        corpus: scores.corpus,
        images_without_result: references.order.len() - cases.len(),
        captions_without_word: cases.iter().filter(is_wordless).count(),
        images: scored
            .into_iter()
            .zip(scores.each)
            .map(|(image_id, scores)| ScoredImage { image_id, scores })
            .collect(),
    })
}

/// A caption of one file.
struct Captioned {
    /// From 1.
    row: usize,
    id: String,
    /// The identifier as it is written.
    image_id: Value,
    caption: String,
}

/// The file of generated captions.
struct Results<'a> {
    path: &'a Path,
    captions: Vec<Captioned>,
}

impl<'a> Results<'a> {
    fn read(path: &'a Path) -> Result<Self, TrainError> {
        let rows: Vec<Value> = parsed(path, "a list of {\"image_id\", \"caption\"}")?;
        if rows.is_empty() {
            return Err(wrong(
                path,
                "the list is empty: it needs at least one caption",
            ));
        }
        let captions = captioned(path, "", rows)?;
        Ok(Self { path, captions })
    }

    /// An error of a row.
    fn wrong(&self, row: usize, reason: String) -> TrainError {
        wrong(self.path, format!("row {row}: {reason}"))
    }
}

/// The file of references.
struct References<'a> {
    path: &'a Path,
    /// The images in the order of the file.
    order: Vec<String>,
    of_image: HashMap<String, Vec<String>>,
}

impl<'a> References<'a> {
    fn read(path: &'a Path) -> Result<Self, TrainError> {
        /// COCO's files have more keys, such as `info`.
        #[derive(Deserialize)]
        struct Annotations {
            images: Vec<Value>,
            annotations: Vec<Value>,
        }
        let file: Annotations =
            parsed(path, "an object with the lists `images` and `annotations`")?;
        let mut order = Vec::with_capacity(file.images.len());
        let mut of_image = HashMap::with_capacity(file.images.len());
        for (at, image) in file.images.iter().enumerate() {
            let id = identifier(image, "id")
                .map_err(|reason| wrong(path, format!("`images`, row {}: {reason}", at + 1)))?;
            if of_image.insert(id.clone(), Vec::new()).is_some() {
                return Err(wrong(
                    path,
                    format!(
                        "`images`, row {}: id {id} stands in a row before it: allowed is one row for each image",
                        at + 1
                    ),
                ));
            }
            order.push(id);
        }
        let mut strangers = 0;
        for caption in captioned(path, "`annotations`, ", file.annotations)? {
            match of_image.get_mut(&caption.id) {
                Some(captions) => captions.push(caption.caption),
                None => strangers += 1,
            }
        }
        if strangers > 0 {
            eprintln!(
                "{}: left out are annotations of images that are not in `images`: {strangers}",
                path.display()
            );
        }
        Ok(Self {
            path,
            order,
            of_image,
        })
    }
}

/// Rows with `image_id` and `caption`. `list` names the list that they are from, in errors.
fn captioned(path: &Path, list: &str, rows: Vec<Value>) -> Result<Vec<Captioned>, TrainError> {
    let read = |(at, mut row): (usize, Value)| {
        let id = identifier(&row, "image_id")?;
        let mut take = |key: &str| row.get_mut(key).map_or(Value::Null, Value::take);
        match take("caption") {
            Value::String(caption) => Ok(Captioned {
                row: at + 1,
                id,
                image_id: take("image_id"),
                caption,
            }),
            other => Err(format!(
                "`caption` is {}: allowed is a text",
                described(&other)
            )),
        }
    };
    rows.into_iter()
        .enumerate()
        .map(|(at, row)| {
            read((at, row)).map_err(|reason| wrong(path, format!("{list}row {}: {reason}", at + 1)))
        })
        .collect()
}

/// The identifier under the key. Files differ in how they write one: 42, 42.0 and "42" are the same image.
fn identifier(row: &Value, key: &str) -> Result<String, String> {
    /// Whole numbers below it are exact in an f64.
    const EXACT: f64 = (1_u64 << 53) as f64;
    if !row.is_object() {
        return Err(format!(
            "the row is {}: allowed is an object",
            described(row)
        ));
    }
    let value = row.get(key).unwrap_or(&Value::Null);
    let found = match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) if number.is_i64() || number.is_u64() => Some(number.to_string()),
        Value::Number(number) => number
            .as_f64()
            .filter(|number| number.fract() == 0.0 && number.abs() < EXACT)
            .map(|number| (number as i64).to_string()),
        _ => None,
    };
    found.ok_or_else(|| {
        format!(
            "`{key}` is {}: allowed is a whole number or a text",
            described(value)
        )
    })
}

/// A value in an error.
fn described(value: &Value) -> String {
    match value {
        Value::Null => "missing or null".to_owned(),
        Value::Bool(value) => value.to_string(),
        Value::Number(number) => number.to_string(),
        Value::String(_) => "a text".to_owned(),
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "an object".to_owned(),
    }
}

/// The content of a JSON file that must be `allowed`.
fn parsed<T: DeserializeOwned>(path: &Path, allowed: &str) -> Result<T, TrainError> {
    let bytes = std::fs::read(path).map_err(TrainError::file("read", path))?;
    let wrong = |reason: String| wrong(path, format!("{reason}: allowed is {allowed}"));
    let value = unimo_data::read_json(&bytes).map_err(wrong)?;
    serde_json::from_value(value).map_err(|error| wrong(error.to_string()))
}

fn wrong(path: &Path, reason: impl Into<String>) -> TrainError {
    TrainError::Run {
        path: path.to_owned(),
        reason: reason.into(),
    }
}

#[cfg(test)]
mod tests;

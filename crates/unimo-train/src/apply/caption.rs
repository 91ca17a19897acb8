//! `unimo caption`: writes captions for images.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::ValueEnum;
use serde::Serialize;
use unimo_objectives::generation::{GenerationConfig, LengthRule, SamplingConfig};

use super::inputs::{self, ColumnArgs};
use super::{BatchArgs, ModelArgs, Predictor};
use crate::captioner::Captioner;
use crate::error::TrainError;
use crate::files::Output;
use crate::outputs;
use crate::progress::Progress;

/// `unimo caption`.
#[derive(Debug, clap::Args)]
pub struct CaptionArgs {
    /// The model.
    #[command(flatten)]
    pub model: ModelArgs,
    /// The batches.
    #[command(flatten)]
    pub batch: BatchArgs,
    /// Images: files, folders with all their subfolders, or lists (JSON lines, CSV, TSV).
    #[arg(required = true, value_name = "IMAGES")]
    pub images: Vec<PathBuf>,
    /// The column of a list that holds the image's path [default: image, or another usual name].
    #[arg(long, value_name = "COLUMN")]
    pub image_column: Option<String>,
    /// Where to write; default: standard output.
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// What to write.
    #[arg(long, value_enum, default_value = "jsonl")]
    pub format: Format,
    /// How captions are searched.
    #[command(flatten)]
    pub search: SearchArgs,
}

/// What is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For each image a line `{"image", "caption", "score"}`, or `{"image", "error"}`.
    Jsonl,
    /// COCO's list of results, `[{"image_id", "caption"}]`; the id is the last number in the file's name.
    Coco,
}

/// How captions are searched.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct SearchArgs {
    /// Number of unfinished captions that are kept; 1: the likeliest word at each step [default: 3, or 1 where words are drawn].
    #[arg(long, value_name = "N")]
    pub beam: Option<usize>,
    /// Exponent of the length that a caption's log-probability is divided by; above 0 long captions gain [default: 1].
    #[arg(long, value_name = "X")]
    pub length_penalty: Option<f64>,
    /// `finished`: length^X, for finished captions (transformers); `every-step`: ((5 + length) / 6)^X at every step (UNIMO-2)
    /// [default: finished].
    #[arg(long, value_name = "RULE", value_parser = rule)]
    pub length_rule: Option<LengthRule>,
    /// Least number of tokens, the end token included [default: 1].
    #[arg(long, value_name = "N")]
    pub min_length: Option<usize>,
    /// Largest number of tokens, the end token included [default: 20].
    #[arg(long, value_name = "N")]
    pub max_length: Option<usize>,
    /// No sequence of so many tokens occurs twice; 0: any may [default: 0].
    #[arg(long, value_name = "N")]
    pub no_repeat: Option<usize>,
    /// Draw from the likeliest words that together have this probability.
    #[arg(long, value_name = "P")]
    pub top_p: Option<f64>,
    /// Draw from so many of the likeliest words.
    #[arg(long, value_name = "K")]
    pub top_k: Option<usize>,
    /// Draw words, by their log-probabilities divided by this.
    #[arg(long, value_name = "T")]
    pub temperature: Option<f64>,
    /// The seed of what is drawn [default: 0].
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
}

fn rule(given: &str) -> Result<LengthRule, String> {
    match given {
        "finished" => Ok(LengthRule::Finished),
        "every-step" => Ok(LengthRule::EveryStep),
        _ => Err("allowed: finished or every-step".to_owned()),
    }
}

impl SearchArgs {
    /// The settings; those that are not given are the defaults.
    ///
    /// # Errors
    ///
    /// A value is not allowed, or a seed is given where nothing is drawn.
    pub fn config(&self) -> Result<GenerationConfig, TrainError> {
        let draws = self.top_p.is_some() || self.top_k.is_some() || self.temperature.is_some();
        if self.seed.is_some() && !draws {
            return Err(TrainError::Check(
                "--seed is for drawn words: give --top-p, --top-k or --temperature with it"
                    .to_owned(),
            ));
        }
        let other = GenerationConfig::default();
        let config = GenerationConfig {
            beams: self.beam.unwrap_or(if draws { 1 } else { other.beams }),
            rule: self.length_rule.unwrap_or(other.rule),
            length_penalty: self.length_penalty.unwrap_or(other.length_penalty),
            min_length: self.min_length.unwrap_or(other.min_length),
            max_length: self.max_length.unwrap_or(other.max_length),
            no_repeat: self.no_repeat.unwrap_or(other.no_repeat),
            sampling: draws.then(|| SamplingConfig {
                temperature: self.temperature.unwrap_or(1.0),
                top_k: self.top_k.unwrap_or(0),
                top_p: self.top_p.unwrap_or(1.0),
                seed: self.seed.unwrap_or(0),
            }),
        };
        config.validate().map_err(not_allowed)?;
        Ok(config)
    }
}

/// The error of a setting, by the name of its option.
fn not_allowed(error: unimo_batch::ConfigError) -> TrainError {
    let key = error.key.rsplit('.').next().unwrap_or_default();
    let option = match key {
        "beams" => "beam".to_owned(),
        key => key.replace('_', "-"),
    };
    TrainError::Check(format!(
        "--{option} {} cannot be: {}",
        error.value,
        error.allowed.replace("max_length", "--max-length")
    ))
}

/// An image and its caption, or the reason why it has none.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Captioned {
    /// The image's name.
    pub image: String,
    /// What is said of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub caption: Option<String>,
    /// The caption's log-probability, divided as the length rule says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub score: Option<f64>,
    /// Why there is no caption.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// An element of COCO's list of results.
#[derive(Debug, Serialize)]
struct CocoResult {
    image_id: u64,
    caption: String,
}

/// Runs the command.
///
/// # Errors
///
/// The model or the images cannot be read, none of the images can be used, the model has no language head, a name has no number where
/// COCO's format needs one, or the file cannot be written.
pub fn run(args: &CaptionArgs) -> Result<(), TrainError> {
    let config = args.search.config()?;
    let reads = args.images.iter().map(|image| Some(image.as_path()));
    outputs::check(
        &[args.out.as_deref()],
        &reads.collect::<Vec<_>>(),
        &[Path::new(&args.model.model)],
    )?;
    let images = images(args)?;
    let ids = match args.format {
        Format::Jsonl => None,
        Format::Coco => Some(image_ids(&images)?),
    };
    let predictor = Predictor::open(&args.model)?.in_batches(args.batch);
    // Checked before a file is written.
    captioner(&predictor, &config)?;
    // A list that was begun and not finished would be no list of captions.
    let mut out = Output::open(args.out.as_deref())?;
    let mut counts = Counts::default();
    captions(&predictor, &config, &images, &mut |at, captioned| {
        counts.add(&captioned);
        match &ids {
            None => out.put(&(json(&captioned)? + "\n")),
            Some(ids) => {
                let Some(caption) = captioned.caption else {
                    return Ok(());
                };
                let before = if counts.written == 1 { "[\n" } else { ",\n" };
                let image_id = ids[at];
                out.put(&(before.to_owned() + &json(&CocoResult { image_id, caption })?))
            }
        }
    })?;
    if counts.written == 0 {
        return Err(TrainError::Check(format!(
            "no image could be read; the first: {}",
            counts.first.unwrap_or_default()
        )));
    }
    if ids.is_some() {
        out.put("\n]\n")?;
    }
    counts.say();
    out.finish()
}

/// How many images have a caption, and how many have none.
#[derive(Debug, Default)]
struct Counts {
    written: usize,
    left_out: usize,
    /// The first image without a caption, with the reason.
    first: Option<String>,
}

impl Counts {
    fn add(&mut self, captioned: &Captioned) {
        match &captioned.error {
            None => self.written += 1,
            Some(reason) => {
                eprintln!("no caption for {}: {reason}", captioned.image);
                self.left_out += 1;
                self.first.get_or_insert_with(|| reason.clone());
            }
        }
    }

    fn say(&self) {
        if self.left_out > 0 {
            let all = self.written + self.left_out;
            eprintln!("{} of {all} images have no caption", self.left_out);
        }
    }
}

fn json(value: &impl Serialize) -> Result<String, TrainError> {
    serde_json::to_string(value)
        .map_err(|e| TrainError::Check(format!("a caption cannot be written: {e}")))
}

/// All images of the arguments, each once. Where there are several arguments, names are paths, so that they differ.
fn images(args: &CaptionArgs) -> Result<Vec<(String, PathBuf)>, TrainError> {
    let columns = ColumnArgs {
        image_column: args.image_column.clone(),
        text_column: None,
    };
    let given: Vec<&Path> = args.images.iter().map(PathBuf::as_path).collect();
    columns.fit(&given, &[])?;
    let mut all = Vec::new();
    let mut again = 0;
    let mut seen = std::collections::HashSet::new();
    for given in &args.images {
        for (name, path) in inputs::images(given, &columns)? {
            if seen.insert(path.clone()) {
                let name = match args.images.len() {
                    1 => name,
                    _ => path.display().to_string(),
                };
                all.push((name, path));
            } else {
                again += 1;
            }
        }
    }
    if again > 0 {
        eprintln!("{again} images are named more than once and get one caption");
    }
    Ok(all)
}

/// The last number in each file's name, as in `COCO_val2014_000000391895.jpg`.
fn image_ids(images: &[(String, PathBuf)]) -> Result<Vec<u64>, TrainError> {
    let mut seen: BTreeMap<u64, &str> = BTreeMap::new();
    let mut ids = Vec::with_capacity(images.len());
    for (name, path) in images {
        let stem = path.file_stem().unwrap_or_default().to_string_lossy();
        let number = stem
            .rsplit(|c: char| !c.is_ascii_digit())
            .find(|digits| !digits.is_empty());
        let id = number.and_then(|digits| digits.parse().ok());
        let id = id.ok_or_else(|| {
            TrainError::Check(format!(
                "--format coco: the name of {name} has no number (of at most 20 digits) that could be its image_id"
            ))
        })?;
        if let Some(other) = seen.insert(id, name) {
            return Err(TrainError::Check(format!(
                "--format coco: {other} and {name} have the same image_id {id}, and COCO's evaluation takes one caption for each"
            )));
        }
        ids.push(id);
    }
    Ok(ids)
}

fn captioner<'a>(
    predictor: &'a Predictor,
    config: &GenerationConfig,
) -> Result<Captioner<'a>, TrainError> {
    let model = predictor.pair("language head that writes captions")?;
    if !model.backbone.reads_pixels() {
        return Err(predictor.lacks("encoder of pixels", "it reads no image files"));
    }
    let found = Captioner::new(model, predictor.tokenizer()?, config).map_err(not_allowed)?;
    found.ok_or_else(|| {
        predictor.lacks(
            "language head that writes captions",
            "it was not trained with [objectives.lm] and a cross-modal encoder",
        )
    })
}

/// Captions for images, batch by batch. `take` gets each with its number, in order; an image that cannot be read comes with the reason.
///
/// # Errors
///
/// The model has no language head, an image could not be read this time, or `take` fails.
pub fn captions(
    predictor: &Predictor,
    config: &GenerationConfig,
    images: &[(String, PathBuf)],
    take: &mut dyn FnMut(usize, Captioned) -> Result<(), TrainError>,
) -> Result<(), TrainError> {
    let captioner = captioner(predictor, config)?;
    let model = predictor.pair("language head that writes captions")?;
    let mut bar = Progress::new(images.len() as u64, 0, "captioning").counting("images");
    let mut first = 0;
    for batch in images.chunks(predictor.batch_size) {
        let (mut pixels, mut numbers) = (Vec::new(), Vec::new());
        let mut captioned = Vec::with_capacity(batch.len());
        for (at, (name, path)) in batch.iter().enumerate() {
            let read = predictor.picture_or_reason(path)?;
            captioned.push(Captioned {
                image: name.clone(),
                caption: None,
                score: None,
                error: read.as_ref().err().cloned(),
            });
            if let Ok(picture) = read {
                pixels.extend(picture);
                numbers.push(first + at);
            }
        }
        if !pixels.is_empty() {
            let features = model.backbone.encode_images(predictor.pixels(pixels)?);
            let found = captioner.captions(&features, &numbers)?;
            for (number, caption) in numbers.into_iter().zip(found) {
                let row = &mut captioned[number - first];
                row.score = Some(caption.generated.score);
                row.caption = Some(caption.text);
            }
        }
        for (at, row) in captioned.into_iter().enumerate() {
            take(first + at, row)?;
        }
        first += batch.len();
        bar.advance(batch.len());
    }
    bar.finish();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(names: &[&str]) -> Result<Vec<u64>, String> {
        let images = names
            .iter()
            .map(|name| ((*name).to_owned(), PathBuf::from(name)));
        image_ids(&images.collect::<Vec<_>>()).map_err(|error| error.to_string())
    }

    #[test]
    fn an_image_id_is_the_last_number_of_the_name() {
        let names = ["a/COCO_val2014_000000391895.jpg", "12/7.png", "x-3y.png"];
        assert_eq!(ids(&names).unwrap(), [391_895, 7, 3]);
        assert!(ids(&["12/cat.png"]).unwrap_err().contains("12/cat.png"));
        assert!(
            ids(&["1.png", "a1.png"])
                .unwrap_err()
                .contains("image_id 1")
        );
        assert!(ids(&["123456789012345678901.png"]).is_err());
    }

    #[test]
    fn options_become_settings() {
        let args = SearchArgs::default();
        assert_eq!(args.config().unwrap(), GenerationConfig::default());
        let drawn = SearchArgs {
            top_p: Some(0.9),
            seed: Some(3),
            ..SearchArgs::default()
        };
        let drawn = drawn.config().unwrap();
        assert_eq!(drawn.beams, 1);
        assert_eq!(drawn.sampling.unwrap().seed, 3);
        let wrong = |args: SearchArgs| args.config().unwrap_err().to_string();
        let seed = SearchArgs {
            seed: Some(3),
            ..SearchArgs::default()
        };
        assert!(wrong(seed).contains("--seed"));
        let long = SearchArgs {
            min_length: Some(30),
            ..SearchArgs::default()
        };
        let long = wrong(long);
        assert!(long.contains("--min-length 30"), "{long}");
        assert!(long.contains("--max-length = 20"), "{long}");
        let both = SearchArgs {
            beam: Some(2),
            temperature: Some(0.5),
            ..SearchArgs::default()
        };
        assert!(wrong(both).contains("--beam 2"));
    }
}

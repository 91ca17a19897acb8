//! `unimo score`: the probability that a text and an image belong together, for every row of a list.

use std::path::{Path, PathBuf};

use serde::Serialize;
use unimo_core::world::World;

use super::inputs::{self, ColumnArgs, PairRow};
use super::{BatchArgs, ModelArgs, Predictor, probability};
use crate::error::TrainError;
use crate::files::Output;
use crate::outputs;
use crate::progress::Progress;

/// `unimo score`.
#[derive(Debug, clap::Args)]
pub struct ScoreArgs {
    /// The model.
    #[command(flatten)]
    pub model: ModelArgs,
    /// The batches.
    #[command(flatten)]
    pub batch: BatchArgs,
    /// The list of pairs: JSON lines, CSV or TSV.
    #[arg(long, value_name = "FILE")]
    pub data: PathBuf,
    /// Columns of the list.
    #[command(flatten)]
    pub columns: ColumnArgs,
    /// Where to write, one JSON object per line; default: standard output.
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
}

/// A line of the output.
#[derive(Debug, Serialize)]
struct Scored {
    line: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    image: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<String>,
    /// The probability of "they belong together".
    #[serde(skip_serializing_if = "Option::is_none")]
    score: Option<f64>,
    /// Its log-odds, which still rank when probabilities are nearly 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    logit: Option<f64>,
    /// The reason why there is no score.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// Runs the command.
///
/// # Errors
///
/// The model or the list cannot be read, or the model has no matching head. A row that cannot be used gets its reason in
/// the output; it is an error if none can.
pub fn run(args: &ScoreArgs) -> Result<(), TrainError> {
    outputs::check(
        &[args.out.as_deref()],
        &[Some(&args.data)],
        &[Path::new(&args.model.model)],
    )?;
    let rows = inputs::pairs(&args.data, &args.columns)?;
    if rows.is_empty() {
        return Err(TrainError::Check(format!(
            "{}: the list has no rows, so that nothing can be scored",
            args.data.display()
        )));
    }
    let predictor = Predictor::open(&args.model)?.in_batches(args.batch);
    let model = predictor.pair("matching head")?;
    // Checked before a file is written: a model without this head can do nothing here.
    predictor.itm(model)?;
    // A list that was begun and not finished would be no list of scores.
    let mut out = Output::open(args.out.as_deref())?;
    let mut bar = Progress::new(rows.len() as u64, 0, "scoring");
    let mut unscored = Unscored::default();
    for batch in rows.chunks(predictor.batch_size) {
        let mut lines: Vec<Scored> = Vec::with_capacity(batch.len());
        let mut used: Vec<(usize, &PairRow)> = Vec::new();
        let mut pixels = Vec::new();
        for row in batch {
            let mut line = Scored {
                line: 0,
                image: None,
                text: None,
                score: None,
                logit: None,
                error: None,
            };
            match row {
                Err(bad) => {
                    line.line = bad.line;
                    line.error = Some(bad.reason.clone());
                }
                Ok(row) => {
                    line.line = row.line;
                    line.image = Some(row.image.clone());
                    line.text = Some(row.text.clone());
                    match predictor.picture_or_reason(&row.path)? {
                        Ok(picture) => {
                            pixels.extend(picture);
                            used.push((lines.len(), row));
                        }
                        Err(reason) => line.error = Some(reason),
                    }
                }
            }
            lines.push(line);
        }
        if !used.is_empty() {
            let tokens = predictor.all_tokens(used.iter().map(|(_, row)| row.text.as_str()))?;
            let texts = predictor.text_features(model, &tokens)?;
            let images = model.backbone.encode_images(predictor.pixels(pixels)?);
            let scores = predictor.match_scores(model, &texts, &images)?;
            for ((at, _), score) in used.iter().zip(scores) {
                lines[*at].score = Some(probability(score));
                lines[*at].logit = Some(f64::from(score));
            }
        }
        for line in &lines {
            unscored.add(line);
            let text = serde_json::to_string(line)
                .map_err(|e| TrainError::Check(format!("a score cannot be written: {e}")))?;
            out.put(&format!("{text}\n"))?;
        }
        bar.advance(batch.len());
    }
    bar.finish();
    predictor.say_what_was_cut(&World::ALONE)?;
    unscored.check(&args.data, rows.len())?;
    out.finish()
}

/// The rows without a score.
#[derive(Debug, Default)]
struct Unscored {
    count: usize,
    /// Line and reason of the first.
    first: Option<(u64, String)>,
}

impl Unscored {
    fn add(&mut self, scored: &Scored) {
        if let Some(reason) = &scored.error {
            self.count += 1;
            self.first
                .get_or_insert_with(|| (scored.line, reason.clone()));
        }
    }

    /// Says how many of `rows` there are.
    ///
    /// # Errors
    ///
    /// No row has a score.
    fn check(&self, list: &Path, rows: usize) -> Result<(), TrainError> {
        let Some((line, reason)) = &self.first else {
            return Ok(());
        };
        if self.count == rows {
            return Err(TrainError::Check(format!(
                "{}: no row can be scored; the first, line {line}: {reason}",
                list.display()
            )));
        }
        eprintln!(
            "{} of {rows} rows have no score; each has a line with the reason. The first, line {line}: {reason}",
            self.count
        );
        Ok(())
    }
}

//! `unimo concepts build`: counts the vocabulary of phrases and tags of a data set once.

use std::path::PathBuf;
use std::time::Instant;

use unimo_data::{Concepts, ConceptsConfig, PhraseSource, Source, Split};

use super::DataArgs;
use crate::error::TrainError;
use crate::progress::Progress;

/// How many of the most frequent concepts are printed.
const PRINTED: usize = 20;

/// `unimo concepts build`.
#[derive(Debug, Clone, clap::Args)]
pub struct ConceptsArgs {
    #[command(flatten)]
    data: DataArgs,
    /// The file to write, for `data.concepts.vocabulary` in a recipe.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Where phrases come from: `parser`, `source` (generated scenes, packed shards), or a JSON lines file of tuples that another
    /// parser made: {"caption": "...", "tuples": [["dog"], ["dog", "brown"], ["dog", "chase", "ball"]]} [default: as the recipe
    /// says, else parser].
    #[arg(long, value_name = "parser|source|FILE")]
    phrases: Option<String>,
    /// In how many captions a phrase must occur [default: as the recipe says, else 50].
    #[arg(long)]
    min_count: Option<usize>,
    /// Largest number of phrases; the most frequent are kept [default: as the recipe says, else 100,000].
    #[arg(long)]
    limit: Option<usize>,
}

/// Counts, saves and prints the vocabulary.
///
/// # Errors
///
/// The data cannot be read, or no phrase occurs often enough.
pub fn build(args: &ConceptsArgs) -> Result<(), TrainError> {
    let (recipe, source) = args.data.open()?;
    args.data.check_outputs(&recipe, &[Some(&args.out)])?;
    let mut config: ConceptsConfig = recipe.data.concepts.unwrap_or_default();
    match args.phrases.as_deref() {
        None => {}
        Some("parser") => config.phrases = PhraseSource::Parser,
        Some("source") => config.phrases = PhraseSource::Source,
        Some(path) => config.phrases = PhraseSource::Tuples(path.into()),
    }
    config.min_count = args.min_count.unwrap_or(config.min_count);
    config.limit = args.limit.unwrap_or(config.limit);
    config.vocabulary = None;
    config.validate("data.concepts")?;
    let concepts = count(&config, &*source, false)?;
    concepts.save(&args.out)?;
    println!("{}: {}", args.out.display(), concepts.describe());
    for (phrase, count) in concepts.phrases().iter().take(PRINTED) {
        println!("{count:>10}  {phrase}");
    }
    if concepts.phrases().len() > PRINTED {
        println!(
            "{:>10}  and {} more",
            "",
            concepts.phrases().len() - PRINTED
        );
    }
    Ok(())
}

/// Samples between two updates of the bar.
const TOLD: usize = 1000;

/// The vocabulary of these settings, loaded or counted; with a bar unless `quiet`.
///
/// # Errors
///
/// As [`Concepts::open`].
pub(crate) fn count(
    config: &ConceptsConfig,
    source: &dyn Source,
    quiet: bool,
) -> Result<Concepts, TrainError> {
    let samples = source.len(Split::Train) as u64;
    let mut bar =
        (!quiet).then(|| Progress::new(samples, 0, "counting phrases").counting("samples"));
    let began = Instant::now();
    let concepts = Concepts::open(config, source, &mut |done, _| {
        if let Some(bar) = &mut bar
            && done.is_multiple_of(TOLD)
        {
            let speed = done as f64 / began.elapsed().as_secs_f64();
            bar.update(done as u64, None, speed);
        }
    })?;
    Ok(concepts)
}

//! `unimo data show`: a page with what the model actually sees: after every transform, with hidden words marked.

use std::path::PathBuf;
use std::sync::Arc;

use maud::{Markup, html};
use unimo_batch::{Batch, Entailment, Images, MaskedTexts, TAGS, TextRole, Texts};
use unimo_data::images;
use unimo_data::{Batches, ConceptReader, Loader, LoaderSpec, SkipList, TextTokenizer};
use unimo_report::page::{self, Section, data_address};

use super::DataArgs;
use crate::apply::write_text;
use crate::error::TrainError;
use crate::prepare;

/// `unimo data show`.
#[derive(Debug, clap::Args)]
pub struct ShowArgs {
    /// The data.
    #[command(flatten)]
    pub data: DataArgs,
    /// How many samples.
    #[arg(long, default_value_t = 24, value_parser = samples)]
    pub samples: usize,
    /// The first batch of the run to show.
    #[arg(long, default_value_t = 0)]
    pub from: u64,
    /// Where to write the page.
    #[arg(long, value_name = "FILE", default_value = "data.html")]
    pub html: PathBuf,
}

/// Reads a number of samples that fit on a page.
fn samples(given: &str) -> Result<usize, String> {
    const MOST: usize = 10_000;
    let number = given.parse().ok();
    let fits = number.filter(|number| (1..=MOST).contains(number));
    fits.ok_or_else(|| format!("allowed: whole numbers from 1 to {MOST}"))
}

/// Runs the command.
///
/// # Errors
///
/// The data cannot be read or the page cannot be written.
pub fn run(args: &ShowArgs) -> Result<(), TrainError> {
    let (recipe, source) = args.data.open_with(|data| data.regions = None)?;
    args.data.check_outputs(&recipe, &[Some(&args.html)])?;
    let stage = super::first_stage(&recipe);
    let tokenizer = prepare::tokenizer(&recipe, &*source)?;
    let concepts = prepare::count_concepts(&recipe, &*source, false)?;
    let reader = prepare::concept_reader(&recipe, concepts.as_ref(), &tokenizer)?;
    let codes = prepare::patch_codes(&recipe, &*source, None, false)?;
    let tokenizer = Arc::new(tokenizer);
    let source = super::source_of(&recipe, &stage, source)?;
    let skip = Arc::new(SkipList::in_memory(recipe.data.max_skipped));
    let batch_size = recipe.train.batch_size;
    let mut spec = LoaderSpec::new(
        &stage.data,
        Arc::clone(&source),
        Arc::clone(&tokenizer),
        skip,
        Batches {
            size: batch_size,
            seed: recipe.seed,
        },
    );
    spec.first_batch = args.from;
    spec.concepts = reader.clone();
    spec.codes = codes;
    prepare::for_objectives(&mut spec, &recipe, &stage)?;
    prepare::for_switch(&mut spec, &stage, &mut |line| eprintln!("{line}"))?;
    let words = Words {
        tokenizer: &tokenizer,
        concepts: reader.as_ref(),
    };
    let mut cards = Vec::new();
    for batch in Loader::new(spec)?.take(args.samples.div_ceil(batch_size)) {
        let batch = batch?;
        let rows = 0..batch.len().min(args.samples - cards.len());
        cards.extend(rows.map(|row| card(&batch, row, &words)));
    }
    let section = Section {
        anchor: "samples",
        title: "Samples",
        lead: "Images after resizing, cutting and every random change, at the model's resolution; captions as tokens, with \
               phrases and tags where the recipe has them. A marked token is hidden: crossed out is what it was, then what the model \
               reads in its place."
            .to_owned(),
        body: html! { div.sheet { @for card in cards { (card) } } },
    };
    let facts = [
        ("data", source.describe()),
        ("recipe", recipe.description.clone()),
        ("from batch", args.from.to_string()),
    ];
    let body = html! {
        (page::header("unimo · data", "What the model sees", &facts, &[]))
        main { (section.to_html()) }
    };
    let page = page::document("What the model sees – unimo data", STYLE, &body);
    write_text(&args.html, &page)?;
    println!("{}", args.html.display());
    Ok(())
}

const STYLE: &str = "\
.sheet { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 230px), 1fr)); gap: 14px; }
.sheet .card { margin: 0; padding: 10px 12px 12px; font-size: 13.5px; overflow-wrap: anywhere; }
.sheet img { display: block; width: 100%; border-radius: 4px; margin-bottom: 8px; }
.sheet small { display: block; color: var(--muted); font-size: 11.5px; margin-top: 6px; }
.sheet mark { background: var(--warn-back); color: inherit; border-radius: 3px; padding: 0 2px; }
.sheet mark s { color: var(--muted); }
.sheet .special { color: var(--muted); }
.sheet .concept { border-bottom: 1px dotted var(--muted); }
";

/// Token ids as a reader sees them.
struct Words<'a> {
    tokenizer: &'a TextTokenizer,
    concepts: Option<&'a ConceptReader>,
}

impl Words<'_> {
    fn of(&self, id: i32) -> Markup {
        let special = self.tokenizer.is_special(id);
        let concept = self.concepts.and_then(|reader| reader.name(id));
        let token = self.tokenizer.token(id);
        html! {
            @if special {
                span.special { (token.unwrap_or_default()) }
            } @else if let (Some(name), None) = (concept, token) {
                // A phrase of several words is one id.
                span.concept { (name) }
            } @else {
                (self.tokenizer.decode(&[id]))
            }
        }
    }

    /// A row of texts, with hidden words and concepts marked.
    fn line(&self, texts: &Texts, row: usize) -> Markup {
        let at = row * texts.length;
        let ids = &texts.ids[at..at + texts.lengths[row]];
        // What the model reads in place of a hidden token.
        let read = |position: usize, id: i32| {
            let masked = texts.masked.as_ref()?;
            let concepts = masked.concept_labels.as_ref();
            let chosen = masked.labels[at + position] != MaskedTexts::IGNORE
                || concepts.is_some_and(|l| l[at + position] != MaskedTexts::IGNORE)
                || masked.ids[at + position] != id;
            chosen.then(|| masked.ids[at + position])
        };
        html! {
            @for (position, id) in ids.iter().copied().enumerate() {
                @match read(position, id) {
                    Some(read) if read == id => { mark { (self.of(id)) } }
                    Some(read) => { mark { s { (self.of(id)) } " " (self.of(read)) } }
                    None => { (self.of(id)) }
                }
                " "
            }
        }
    }
}

/// The kind of a text that does not describe its image.
fn role(texts: &Texts, row: usize) -> Option<&'static str> {
    Some(match texts.roles.get(row)? {
        TextRole::Describes => return None,
        TextRole::Question => "a question",
        TextRole::Statement { holds: true } => "a statement that is true",
        TextRole::Statement { holds: false } => "a statement that is false",
        TextRole::Hypothesis(Entailment::Entailed) => "a hypothesis that is entailed",
        TextRole::Hypothesis(Entailment::Neutral) => "a hypothesis that may be true",
        TextRole::Hypothesis(Entailment::Contradicted) => "a hypothesis that is contradicted",
    })
}

fn card(batch: &Batch, row: usize, words: &Words<'_>) -> Markup {
    let images = [&batch.images, &batch.second_images].into_iter().flatten();
    html! {
        div.card {
            @for address in images.filter_map(|images| picture(images, row)) { img src=(address) alt=""; }
            @if let Some(texts) = &batch.texts {
                (words.line(texts, row))
                @if let Some(role) = role(texts, row) { small { (role) } }
            }
            @if let Some(tags) = batch.further_texts.get(TAGS) { div { (words.line(tags, row)) } }
            small { (batch.samples[row]) }
        }
    }
}

/// The pixels of a row, converted back to an image.
fn picture(images: &Images, row: usize) -> Option<String> {
    let plane = images.height * images.width;
    let levels = &images.pixels[row * Images::CHANNELS * plane..][..Images::CHANNELS * plane];
    let bytes = (0..plane)
        .flat_map(|pixel| (0..Images::CHANNELS).map(move |channel| levels[channel * plane + pixel]))
        .collect();
    let picture = image::RgbImage::from_raw(images.width as u32, images.height as u32, bytes)?;
    data_address(&images::jpeg(&picture)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_shows_what_was_asked_for() {
        let folder = tempfile::tempdir().unwrap();
        let args = ShowArgs {
            data: DataArgs {
                recipe: None,
                data: None,
                set: vec!["train.batch_size=4".to_owned()],
            },
            samples: 6,
            from: 3,
            html: folder.path().join("data.html"),
        };
        run(&args).unwrap();
        let page = std::fs::read_to_string(&args.html).unwrap();
        assert_eq!(page.matches("<img src=\"data:image/jpeg").count(), 6);
        assert_eq!(page.matches("<small>").count(), 6);
        assert!(page.contains("<mark>") && page.contains("&lt;mask&gt;"));
    }
}

//! `unimo data show`: a page with what the model really sees, after every transform, with hidden words marked.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::Arc;

use unimo_core::batch::{Batch, Images, MaskedTexts};
use unimo_data::images::{self, ImageSpec};
use unimo_data::{Loader, LoaderSpec, SkipList, TextTokenizer};

use super::DataArgs;
use crate::apply::write_text;
use crate::error::TrainError;
use crate::report::html::{data_address, escape};
use crate::report::{self, Section};

/// `unimo data show`.
#[derive(Debug, clap::Args)]
pub struct ShowArgs {
    /// The data.
    #[command(flatten)]
    pub data: DataArgs,
    /// How many samples.
    #[arg(long, default_value_t = 24)]
    pub samples: usize,
    /// The run's batch to begin with.
    #[arg(long, default_value_t = 0)]
    pub from: u64,
    /// Where to write the page.
    #[arg(long, value_name = "FILE", default_value = "data.html")]
    pub html: PathBuf,
}

/// Runs the command.
///
/// # Errors
///
/// The data cannot be read or the page cannot be written.
pub fn run(args: &ShowArgs) -> Result<(), TrainError> {
    let (recipe, source) = args.data.open_with(|data| data.regions = None)?;
    let tokenizer = Arc::new(TextTokenizer::open(&recipe.data.tokenizer, &*source)?);
    let skip = Arc::new(SkipList::in_memory(recipe.data.max_skipped));
    let batch_size = recipe.train.batch_size;
    let mut spec = LoaderSpec::new(
        &recipe.data,
        Arc::clone(&source),
        Arc::clone(&tokenizer),
        skip,
        batch_size,
        recipe.seed,
    );
    spec.first_batch = args.from;
    spec.mask = recipe.objectives.mlm.as_ref().map(|mlm| mlm.mask);
    let pictures = spec.images;
    let mut body = String::from("<div class=\"sheet\">\n");
    let mut shown = 0;
    for batch in Loader::new(spec)?.take(args.samples.div_ceil(batch_size)) {
        let batch = batch?;
        for row in 0..batch.len().min(args.samples - shown) {
            card(&mut body, &batch, row, &pictures, &tokenizer);
        }
        shown += batch.len().min(args.samples - shown);
    }
    body.push_str("</div>\n");
    let section = Section {
        anchor: "samples",
        title: "Samples",
        lead: "Pictures after resizing, cutting and every random change, at the model's resolution; captions as tokens. A marked \
               token is to be predicted: crossed out is what it was, then what the model reads in its place."
            .to_owned(),
        body,
    };
    let head = format!(
        "<header>\n<div class=\"kicker\">unimo · data</div>\n<h1>What the model sees</h1>\n<dl class=\"facts\"><div><dt>data</dt>\
         <dd>{}</dd></div><div><dt>recipe</dt><dd>{}</dd></div><div><dt>from batch</dt><dd>{}</dd></div></dl>\n</header>\n",
        escape(&source.describe()),
        escape(&recipe.description),
        args.from
    );
    let page = report::document(
        "What the model sees – unimo data",
        STYLE,
        &format!("{head}<main>\n{}</main>\n", section.to_html()),
    );
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
";

fn card(
    out: &mut String,
    batch: &Batch,
    row: usize,
    pictures: &ImageSpec,
    tokenizer: &TextTokenizer,
) {
    out.push_str("<div class=\"card\">");
    if let Some(images) = &batch.images
        && let Some(address) = picture(images, row, pictures)
    {
        let _ = write!(out, "<img src=\"{address}\" alt=\"\">");
    }
    if let Some(texts) = &batch.texts {
        let at = row * texts.length;
        let ids = &texts.ids[at..at + texts.lengths[row]];
        for (position, id) in ids.iter().enumerate() {
            let word = |id: i32| match tokenizer.is_special(id) {
                true => format!(
                    "<span class=\"special\">{}</span>",
                    escape(&tokenizer.token(id).unwrap_or_default())
                ),
                false => escape(&tokenizer.decode(&[id])),
            };
            let hidden = texts.masked.as_ref().and_then(|masked| {
                let chosen = masked.labels[at + position] != MaskedTexts::IGNORE;
                chosen.then(|| masked.ids[at + position])
            });
            let _ = match hidden {
                Some(read) if read == *id => write!(out, "<mark>{}</mark> ", word(*id)),
                Some(read) => write!(out, "<mark><s>{}</s> {}</mark> ", word(*id), word(read)),
                None => write!(out, "{} ", word(*id)),
            };
        }
    }
    let _ = writeln!(out, "<small>{}</small></div>", escape(&batch.samples[row]));
}

/// The normalised pixels of a row as a picture again.
fn picture(images: &Images, row: usize, spec: &ImageSpec) -> Option<String> {
    let plane = images.height * images.width;
    let values = &images.pixels[row * Images::CHANNELS * plane..][..Images::CHANNELS * plane];
    let bytes: Vec<u8> = (0..plane)
        .flat_map(|pixel| (0..Images::CHANNELS).map(move |channel| (channel, pixel)))
        .map(|(channel, pixel)| {
            let value = values[channel * plane + pixel] * spec.std[channel] + spec.mean[channel];
            (value * 255.0).round().clamp(0.0, 255.0) as u8
        })
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

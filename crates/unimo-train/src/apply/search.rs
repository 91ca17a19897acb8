//! `unimo search`: images for texts and texts for images. The common space gives a shortlist, and the matching head ranks it.

use std::path::{Path, PathBuf};

use maud::{DOCTYPE, Markup, PreEscaped, html};
use serde::Serialize;
use unimo_data::images;
use unimo_report::page::data_address;

use super::embed::{self, Embedded};
use super::inputs::{self, ColumnArgs};
use super::{Matcher, ModelArgs, Predictor, can_be_written, probability, write_text};
use crate::error::TrainError;
use crate::model::{Model, host};
use crate::progress::Progress;

/// `unimo search`.
#[derive(Debug, clap::Args)]
pub struct SearchArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// Where to search for images: a folder with all its subfolders, or a list (JSON lines, CSV, TSV).
    #[arg(
        long,
        value_name = "PATH",
        requires = "text",
        required_unless_present = "texts"
    )]
    images: Option<PathBuf>,
    /// A text to find images for; may be given several times.
    #[arg(long, value_name = "TEXT", requires = "images")]
    text: Vec<String>,
    /// Where to search for texts: a .txt file with one text per line, or a list.
    #[arg(long, value_name = "FILE", requires = "image")]
    texts: Option<PathBuf>,
    /// An image to find texts for; may be given several times.
    #[arg(long, value_name = "FILE", requires = "texts")]
    image: Vec<PathBuf>,
    #[command(flatten)]
    columns: ColumnArgs,
    /// How many results per query.
    #[arg(long, default_value_t = 10, value_parser = at_least_one)]
    top: usize,
    /// How many candidates the common space leaves to the matching head; 0: do not use the matching head; default: 128, or --top if
    /// that is more.
    #[arg(long)]
    shortlist: Option<usize>,
    /// Write the results as JSON here; default: standard output.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Write an HTML page here.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

fn at_least_one(given: &str) -> Result<usize, String> {
    match given.parse() {
        Ok(0) | Err(_) => Err("allowed: whole numbers from 1".to_owned()),
        Ok(number) => Ok(number),
    }
}

/// The results of one query.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Found {
    /// The text, or the image's path.
    pub query: String,
    /// The results, the best first.
    pub results: Vec<Hit>,
    /// Whether the query is an image and the results are texts.
    #[serde(skip)]
    of_picture: bool,
}

/// A result.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Hit {
    /// The image's name, or the text.
    pub id: String,
    /// Cosine in the common space, if the model has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub similarity: Option<f64>,
    /// Probability of "they belong together", if the model has a matching head.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub score: Option<f64>,
    #[serde(skip)]
    path: Option<PathBuf>,
}

/// Runs the command.
///
/// # Errors
///
/// The model, the images or the texts cannot be read, or a file cannot be written.
pub fn run(args: &SearchArgs) -> Result<(), TrainError> {
    for path in [&args.out, &args.html].into_iter().flatten() {
        can_be_written(path)?;
    }
    let pictures = args.images.as_ref();
    let pictures = pictures
        .map(|given| inputs::images(given, &args.columns))
        .transpose()?;
    let texts = args.texts.as_ref();
    let texts = texts
        .map(|given| inputs::texts(given, &args.columns))
        .transpose()?;
    let predictor = Predictor::open(&args.model)?;
    // Both are needed in either direction of search.
    predictor.pictures()?;
    predictor.tokenizer()?;
    let how = How {
        top: args.top,
        shortlist: shortlist(&predictor, args)?,
    };
    let mut found = Vec::new();
    if let Some(pictures) = pictures {
        let queries = args.text.clone();
        found.extend(for_texts(&predictor, queries, &pictures, how)?);
    }
    if let Some(texts) = texts {
        found.extend(for_pictures(&predictor, &args.image, texts, how)?);
    }
    let json = serde_json::to_string_pretty(&found)
        .map_err(|e| TrainError::Check(format!("the results cannot be written: {e}")))?;
    predictor.say_what_was_cut();
    match &args.out {
        Some(path) => write_text(path, &(json + "\n"))?,
        None => println!("{json}"),
    }
    if let Some(path) = &args.html {
        write_text(path, &page(&predictor, &found))?;
    }
    Ok(())
}

/// How many results, and how many candidates the matching head ranks for them: 0 if it is not used.
#[derive(Debug, Clone, Copy)]
struct How {
    top: usize,
    shortlist: usize,
}

impl How {
    /// How many of the nearest rows are kept.
    fn kept(self) -> usize {
        match self.shortlist {
            0 => self.top,
            shortlist => shortlist,
        }
    }
}

/// Default number of candidates for the matching head.
const SHORTLIST: usize = 128;

/// How many candidates the matching head ranks. Something must rank the results, and they must be as many as requested.
fn shortlist(predictor: &Predictor, args: &SearchArgs) -> Result<usize, TrainError> {
    let (space, matching) = (has_space(predictor), matching(predictor).is_some());
    if !space && !matching {
        return Err(predictor.lacks(
            "way to compare texts with pictures",
            "it was trained with neither [objectives.itc] nor [objectives.itm]",
        ));
    }
    let Some(asked) = args.shortlist else {
        return Ok(if matching { SHORTLIST.max(args.top) } else { 0 });
    };
    if !(space && matching) {
        let (lacks, ranks) = if space {
            ("matching head", "common space")
        } else {
            ("common space", "matching head")
        };
        if asked == 0 && !space {
            return Err(TrainError::Check(format!(
                "--shortlist 0 leaves the ranking to the common space, and {} has none: leave --shortlist out",
                predictor.given
            )));
        }
        eprintln!(
            "--shortlist changes nothing: {} has no {lacks}, its {ranks} ranks everything",
            predictor.given
        );
        return Ok(if space { 0 } else { SHORTLIST });
    }
    if asked != 0 && asked < args.top {
        return Err(TrainError::Check(format!(
            "--shortlist {asked} is less than --top {}: allowed are 0 (the common space alone ranks) and whole numbers from {} on",
            args.top, args.top
        )));
    }
    Ok(asked)
}

fn for_texts(
    predictor: &Predictor,
    queries: Vec<String>,
    pictures: &[(String, PathBuf)],
    how: How,
) -> Result<Vec<Found>, TrainError> {
    let space = if has_space(predictor) {
        let collection = embed::images(predictor, pictures)?;
        for (name, reason) in &collection.skipped {
            eprintln!("skipped {name}: {reason}");
        }
        Some((collection, embed::texts(predictor, queries.clone())?))
    } else {
        None
    };
    let path_of: std::collections::HashMap<&str, &PathBuf> = pictures
        .iter()
        .map(|(name, path)| (name.as_str(), path))
        .collect();
    let mut all = Vec::new();
    for (at, query) in queries.into_iter().enumerate() {
        let mut hits: Vec<Hit> = match &space {
            Some((collection, queries)) => nearest(collection, queries.row(at), how.kept()),
            None => unranked(pictures.iter().map(|(name, _)| name.clone())),
        };
        for hit in &mut hits {
            hit.path = path_of.get(hit.id.as_str()).map(|path| (*path).clone());
        }
        if let Some(model) = matching(predictor).filter(|_| how.shortlist > 0) {
            let token = [predictor.tokens(&query)?];
            let mut bar = Progress::new(hits.len() as u64, 0, "matching");
            for batch in hits.chunks_mut(predictor.batch_size) {
                let mut pixels = Vec::new();
                let mut read = Vec::new();
                for (i, hit) in batch.iter().enumerate() {
                    let path = hit.path.as_ref();
                    let picture = path.map(|path| predictor.picture_or_reason(path));
                    if let Some(Ok(picture)) = picture.transpose()? {
                        pixels.extend(picture);
                        read.push(i);
                    }
                }
                if !read.is_empty() {
                    let images = model.backbone.encode_images(predictor.pixels(pixels)?);
                    let text = predictor.text_features(model, &token)?;
                    let text = text.select(&zeros(read.len(), predictor));
                    let scores = predictor.match_scores(model, &text, &images)?;
                    for (i, score) in read.into_iter().zip(scores) {
                        batch[i].score = Some(probability(score));
                    }
                }
                bar.advance(batch.len());
            }
            bar.finish();
        }
        all.push(ranked(query, hits, how.top, false));
    }
    Ok(all)
}

fn for_pictures(
    predictor: &Predictor,
    queries: &[PathBuf],
    texts: Vec<String>,
    how: How,
) -> Result<Vec<Found>, TrainError> {
    let collection = if has_space(predictor) {
        Some(embed::texts(predictor, texts.clone())?)
    } else {
        None
    };
    let mut all = Vec::new();
    for path in queries {
        let pixels = predictor
            .picture(path)
            .map_err(|error| TrainError::Check(error.reason))?;
        let mut hits = match &collection {
            Some(collection) => {
                let query = predictor.embed_images(predictor.pixels(pixels.clone())?)?;
                nearest(collection, &host(query), how.kept())
            }
            None => unranked(texts.iter().cloned()),
        };
        if let Some(model) = matching(predictor).filter(|_| how.shortlist > 0) {
            let image = model.backbone.encode_images(predictor.pixels(pixels)?);
            let mut bar = Progress::new(hits.len() as u64, 0, "matching");
            for batch in hits.chunks_mut(predictor.batch_size) {
                let tokens = predictor.all_tokens(batch.iter().map(|hit| hit.id.as_str()))?;
                let features = predictor.text_features(model, &tokens)?;
                let images = image.select(&zeros(batch.len(), predictor));
                let scores = predictor.match_scores(model, &features, &images)?;
                for (hit, score) in batch.iter_mut().zip(scores) {
                    hit.score = Some(probability(score));
                }
                bar.advance(batch.len());
            }
            bar.finish();
        }
        all.push(ranked(path.display().to_string(), hits, how.top, true));
    }
    Ok(all)
}

/// Row 0, repeated once per partner.
fn zeros(rows: usize, predictor: &Predictor) -> burn::tensor::Tensor<1, burn::tensor::Int> {
    burn::tensor::Tensor::zeros([rows], &predictor.device)
}

fn has_space(predictor: &Predictor) -> bool {
    match &predictor.matcher {
        Matcher::Pair(model) => model.objectives.itc.is_some(),
        Matcher::Clip(_) => true,
        Matcher::Text(..) | Matcher::Image(_) => false,
    }
}

fn matching(predictor: &Predictor) -> Option<&Model> {
    match &predictor.matcher {
        Matcher::Pair(model) if model.objectives.itm.is_some() => Some(model),
        _ => None,
    }
}

/// The nearest rows of a collection, the nearest first.
fn nearest(collection: &Embedded, query: &[f32], count: usize) -> Vec<Hit> {
    let mut hits: Vec<Hit> = collection
        .ids
        .iter()
        .enumerate()
        .map(|(i, id)| {
            let products = collection.row(i).iter().zip(query).map(|(a, b)| a * b);
            Hit {
                id: id.clone(),
                similarity: Some(f64::from(products.sum::<f32>())),
                score: None,
                path: None,
            }
        })
        .collect();
    hits.sort_by(|a, b| {
        b.similarity
            .unwrap_or(0.0)
            .total_cmp(&a.similarity.unwrap_or(0.0))
    });
    hits.truncate(count);
    hits
}

fn unranked(ids: impl Iterator<Item = String>) -> Vec<Hit> {
    ids.map(|id| Hit {
        id,
        similarity: None,
        score: None,
        path: None,
    })
    .collect()
}

/// Ranks by the matching head if it was used, else by the common space; equal scores keep their order.
fn ranked(query: String, mut hits: Vec<Hit>, top: usize, of_picture: bool) -> Found {
    let by = |hit: &Hit| hit.score.unwrap_or(f64::NEG_INFINITY);
    if hits.iter().any(|hit| hit.score.is_some()) {
        hits.sort_by(|a, b| by(b).total_cmp(&by(a)));
    }
    hits.truncate(top);
    Found {
        query,
        results: hits,
        of_picture,
    }
}

/// Side of an image on the page.
const THUMBNAIL: u32 = 220;

fn page(predictor: &Predictor, found: &[Found]) -> String {
    let title = format!("Search with {}", predictor.given);
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width";
                title { (title) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                h1 { (title) }
                @for query in found {
                    section {
                        h2 { (query.query) }
                        @if let Some(address) = query.of_picture.then(|| thumbnail(Path::new(&query.query))).flatten() {
                            img.query src=(address) alt="";
                        }
                        ol class=(if query.of_picture { "texts" } else { "pictures" }) {
                            @for hit in &query.results { li { (result(hit)) } }
                        }
                    }
                }
            }
        }
    };
    page.into_string()
}

fn result(hit: &Hit) -> Markup {
    html! {
        @if let Some(address) = hit.path.as_deref().and_then(thumbnail) { img src=(address) alt=""; }
        span { (hit.id) }
        @if let Some(score) = hit.score {
            meter value=(format!("{score:.4}")) {}
            b { (format!("{:.1}%", 100.0 * score)) }
        }
        @if let Some(similarity) = hit.similarity { small { (format!("cosine {similarity:.3}")) } }
    }
}

const STYLE: &str = "body{font:15px/1.45 system-ui,sans-serif;margin:2rem auto;max-width:78rem;padding:0 1rem;color:#1a1a1a;\
background:#fcfcfc}h1{font-size:1.3rem;font-weight:600}h2{font-size:1.05rem;font-weight:600;margin:2rem 0 .6rem}ol{padding:0;\
list-style:none;counter-reset:n}li{counter-increment:n}.pictures{display:grid;gap:1rem;\
grid-template-columns:repeat(auto-fill,minmax(13rem,1fr))}.pictures li{display:flex;flex-direction:column;gap:.2rem;\
background:#fff;border:1px solid #e3e3e3;border-radius:6px;padding:.6rem}.pictures img{width:100%;height:11rem;\
object-fit:contain;background:#f3f3f3;border-radius:3px}.pictures span{font-size:.8rem;overflow-wrap:anywhere}.texts li{\
display:grid;grid-template-columns:2rem 1fr 8rem 4rem 7rem;gap:.6rem;align-items:baseline;padding:.3rem 0;\
border-bottom:1px solid #eee}.texts li::before,.pictures li::before{content:counter(n);color:#888;font-size:.8rem}meter{\
width:100%}b{font-weight:600}small{color:#666}.query{max-height:15rem;border-radius:6px}";

/// A small image as a `data:` URL.
fn thumbnail(path: &Path) -> Option<String> {
    let picture = images::read(path, super::PICTURES).ok()?;
    let small = images::thumbnail(&picture, THUMBNAIL);
    data_address(&images::jpeg(&small)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hit(id: &str, similarity: f64, score: Option<f64>) -> Hit {
        Hit {
            id: id.to_owned(),
            similarity: Some(similarity),
            score,
            path: None,
        }
    }

    #[test]
    fn the_matching_head_has_the_last_word() {
        let hits = vec![
            hit("a", 0.9, Some(0.1)),
            hit("b", 0.8, Some(0.7)),
            hit("c", 0.7, None),
        ];
        let ids = |found: &Found| {
            found
                .results
                .iter()
                .map(|h| h.id.clone())
                .collect::<Vec<_>>()
        };
        assert_eq!(
            ids(&ranked("q".to_owned(), hits.clone(), 5, false)),
            ["b", "a", "c"]
        );
        let without: Vec<Hit> = hits.into_iter().map(|h| Hit { score: None, ..h }).collect();
        assert_eq!(ids(&ranked("q".to_owned(), without, 2, false)), ["a", "b"]);
    }

    #[test]
    fn the_nearest_come_first() {
        let collection = Embedded {
            ids: ["x", "y", "z"].map(str::to_owned).to_vec(),
            width: 2,
            values: vec![1.0, 0.0, 0.0, 1.0, 0.6, 0.8],
            skipped: Vec::new(),
        };
        let hits = nearest(&collection, &[0.0, 1.0], 2);
        let ids: Vec<_> = hits.iter().map(|h| h.id.as_str()).collect();
        assert_eq!(ids, ["y", "z"]);
    }
}

//! `unimo search`: images for texts and texts for images. The common space gives a shortlist, and the matching head ranks it.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use image::RgbImage;
use maud::{Markup, html};
use serde::Serialize;
use unimo_core::world::World;
use unimo_data::Split;
use unimo_data::images;
use unimo_report::page::{self, data_address};

use super::embed;
use super::index::{self, Embedded, Saved, What};
use super::inputs::{self, ColumnArgs};
use super::nearest::Search;
use super::pictures::{self, PictureList};
use super::{BatchArgs, Matcher, ModelArgs, Predictor, probability, write_text};
use crate::error::TrainError;
use crate::model::{Model, host};
use crate::numbers;
use crate::outputs;
use crate::progress::Progress;

/// `unimo search`.
#[derive(Debug, clap::Args)]
pub struct SearchArgs {
    /// The model.
    #[command(flatten)]
    pub model: ModelArgs,
    /// The batches.
    #[command(flatten)]
    pub batch: BatchArgs,
    /// Where to search for images: a folder with all its subfolders, a list (JSON lines, CSV, TSV), or a data set: tar shards, Parquet,
    /// COCO's captions, Karpathy's splits, or the table `data` of a recipe's .toml file.
    #[arg(long, value_name = "PATH", requires = "text")]
    pub images: Option<PathBuf>,
    /// A text to find images for; may be given several times.
    #[arg(long, value_name = "TEXT", required_unless_present = "image", value_parser = inputs::words)]
    pub text: Vec<String>,
    /// Where to search for texts: a .txt file with one text per line, a list, or the captions of a data set.
    #[arg(long, value_name = "PATH", requires = "image")]
    pub texts: Option<PathBuf>,
    /// An image to find texts for; may be given several times.
    #[arg(long, value_name = "FILE")]
    pub image: Vec<PathBuf>,
    /// Embeddings to search, as `unimo embed --out NAME.safetensors` of the same model wrote them. With --images, which must be those
    /// that were embedded, the matching head ranks the results; without, the common space alone.
    #[arg(long, value_name = "FILE")]
    pub index: Option<PathBuf>,
    /// Read all rows of an index that was written with --recall.
    #[arg(long, requires = "index")]
    pub exact: bool,
    /// The split of a data set: train, val or test; default: all of it.
    #[arg(long, value_parser = inputs::split)]
    pub split: Option<Split>,
    /// Columns of the lists.
    #[command(flatten)]
    pub columns: ColumnArgs,
    /// How many results per query.
    #[arg(long, default_value_t = 10, value_parser = numbers::at_least_one)]
    pub top: usize,
    /// How many candidates the common space leaves to the matching head; 0: do not use the matching head; default: 128, or --top if
    /// that is more.
    #[arg(long)]
    pub shortlist: Option<usize>,
    /// Write the results as JSON here; default: standard output.
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// Write an HTML page here.
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
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
    /// Its number among the images that are searched.
    #[serde(skip)]
    picture: Option<usize>,
}

/// Runs the command.
///
/// # Errors
///
/// The model, the images or the texts cannot be read, or a file cannot be written.
pub fn run(args: &SearchArgs) -> Result<(), TrainError> {
    let reads = [&args.images, &args.texts, &args.index].map(Option::as_deref);
    let images = args.image.iter().map(|image| Some(image.as_path()));
    let reads: Vec<Option<&Path>> = reads.into_iter().chain(images).collect();
    outputs::check(
        &[args.out.as_deref(), args.html.as_deref()],
        &reads,
        &[Path::new(&args.model.model)],
    )?;
    for (asked, given, what) in [
        (!args.text.is_empty(), &args.images, "--text needs --images"),
        (!args.image.is_empty(), &args.texts, "--image needs --texts"),
    ] {
        if asked && given.is_none() && args.index.is_none() {
            return Err(TrainError::Check(format!(
                "{what}, or --index with what was embedded: where to search"
            )));
        }
    }
    let [images, texts] = [&args.images, &args.texts].map(|path| path.as_deref());
    args.columns.fit(images.as_slice(), texts.as_slice())?;
    if let (Some(split), None, None) = (args.split, images, texts) {
        return Err(TrainError::Check(format!(
            "--split {} is for a data set, --images or --texts: an index is searched whole",
            split.name()
        )));
    }
    let list = args.images.as_ref();
    let list = list
        .map(|given| PictureList::open(given, &args.columns, args.split))
        .transpose()?;
    let texts = args.texts.as_ref();
    let texts = texts
        .map(|given| inputs::texts(given, &args.columns, args.split))
        .transpose()?;
    let predictor = Predictor::open(&args.model)?.in_batches(args.batch);
    // Both are needed in either direction of search.
    predictor.pictures()?;
    predictor.tokenizer()?;
    let how = How {
        top: args.top,
        shortlist: shortlist(&predictor, args)?,
    };
    let mut found = Vec::new();
    if !args.text.is_empty() {
        let data = list.as_ref().map(|list| list.names());
        let saved = saved(args, What::Images, &predictor, data, args.images.as_deref())?;
        let shortlist = if list.is_none() && how.shortlist > 0 {
            without_pictures(args)?
        } else {
            how.shortlist
        };
        let how = How { shortlist, ..how };
        found.extend(for_texts(
            &predictor,
            &args.text,
            (saved, list.as_ref()),
            how,
        )?);
    }
    if !args.image.is_empty() {
        let saved = saved(
            args,
            What::Texts,
            &predictor,
            texts.as_deref(),
            args.texts.as_deref(),
        )?;
        found.extend(for_pictures(&predictor, &args.image, (saved, texts), how)?);
    }
    let json = serde_json::to_string_pretty(&found)
        .map_err(|e| TrainError::Check(format!("the results cannot be written: {e}")))?;
    predictor.say_what_was_cut(&World::ALONE)?;
    match &args.out {
        Some(path) => write_text(path, &(json + "\n"))?,
        None => println!("{json}"),
    }
    if let Some(path) = &args.html {
        write_text(path, &page(&predictor, &found, list.as_ref()))?;
    }
    Ok(())
}

/// The index that is searched, if one is given; what was given beside it must be what it was made of.
fn saved(
    args: &SearchArgs,
    what: What,
    predictor: &Predictor,
    names: Option<&[String]>,
    given: Option<&Path>,
) -> Result<Option<Saved>, TrainError> {
    let Some(path) = &args.index else {
        return Ok(None);
    };
    if !has_space(predictor) {
        return Err(predictor.lacks(
            "common space of texts and images, and so no index",
            "it was not trained with [objectives.itc]",
        ));
    }
    let digest = index::digest(predictor, what)?;
    let mut saved = Saved::open(path, what, &digest, &predictor.given)?;
    if let (Some(names), Some(given)) = (names, given) {
        saved.check_data(&pictures::describe(names), given)?;
    }
    if args.exact && !saved.read_all() {
        eprintln!(
            "--exact changes nothing: a search of {} reads all rows anyway",
            path.display()
        );
    }
    eprintln!("{}", saved.describe());
    Ok(Some(saved))
}

/// How many candidates the matching head ranks where the images of an index are not given: none, unless that contradicts
/// `--shortlist`.
fn without_pictures(args: &SearchArgs) -> Result<usize, TrainError> {
    match args.shortlist {
        Some(asked) => Err(TrainError::Check(format!(
            "--shortlist {asked} is for the matching head, which reads the images of the index again: give them by --images, or leave \
             --shortlist out"
        ))),
        None => {
            eprintln!(
                "the common space alone ranks: the matching head reads the images of the index again, which --images names"
            );
            Ok(0)
        }
    }
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
            "way to compare texts with images",
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

/// Where a search looks in the common space.
enum Rows {
    Memory(Embedded),
    Saved(Box<Saved>),
}

impl Rows {
    /// The nearest rows of each query, the nearest first.
    fn nearest(&mut self, queries: &Embedded, count: usize) -> Result<Vec<Vec<Hit>>, TrainError> {
        let each: Vec<&[f32]> = (0..queries.ids.len()).map(|at| queries.row(at)).collect();
        let found = match self {
            Self::Saved(saved) => saved.nearest(each, count)?,
            Self::Memory(rows) => {
                let mut search = Search::new(each, count);
                search.read(&rows.values, 0);
                search.found()
            }
        };
        let ids = match self {
            Self::Saved(saved) => saved.ids(),
            Self::Memory(rows) => &rows.ids,
        };
        let hits = found.into_iter().map(|near| {
            let hits = near.into_iter().map(|near| Hit {
                id: ids[near.row].clone(),
                similarity: Some(f64::from(near.score)),
                score: None,
                picture: None,
            });
            hits.collect()
        });
        Ok(hits.collect())
    }
}

fn for_texts(
    predictor: &Predictor,
    queries: &[String],
    (saved, list): (Option<Saved>, Option<&PictureList>),
    how: How,
) -> Result<Vec<Found>, TrainError> {
    let mut rows = saved.map(|saved| Rows::Saved(Box::new(saved)));
    if let (None, Some(list), true) = (&rows, list, has_space(predictor)) {
        let collection = embed::images(predictor, list, &World::ALONE)?;
        for (name, reason) in &collection.skipped {
            eprintln!("skipped {name}: {reason}");
        }
        rows = Some(Rows::Memory(collection));
    }
    let names = list.map_or(&[][..], |list| list.names());
    let found = match &mut rows {
        Some(rows) => {
            let queries = embed::texts(predictor, queries.to_vec(), &World::ALONE)?;
            rows.nearest(&queries, how.kept())?
        }
        None => vec![unranked(names.iter().cloned()); queries.len()],
    };
    let number_of: HashMap<&str, usize> = names
        .iter()
        .enumerate()
        .map(|(at, name)| (name.as_str(), at))
        .collect();
    let mut all = Vec::new();
    for (query, mut hits) in queries.iter().zip(found) {
        for hit in &mut hits {
            hit.picture = number_of.get(hit.id.as_str()).copied();
        }
        if let (Some(model), Some(list)) = (matching(predictor).filter(|_| how.shortlist > 0), list)
        {
            let token = [predictor.tokens(query)?];
            let mut bar = Progress::new(hits.len() as u64, 0, "matching");
            for batch in hits.chunks_mut(predictor.batch_size) {
                let mut pixels = Vec::new();
                let mut read = Vec::new();
                for (i, hit) in batch.iter().enumerate() {
                    let number = hit.picture;
                    let picture = number.map(|at| predictor.listed_or_reason(list, at));
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
        all.push(ranked(query.clone(), hits, how.top, false));
    }
    Ok(all)
}

fn for_pictures(
    predictor: &Predictor,
    queries: &[PathBuf],
    (saved, texts): (Option<Saved>, Option<Vec<String>>),
    how: How,
) -> Result<Vec<Found>, TrainError> {
    let mut rows = saved.map(|saved| Rows::Saved(Box::new(saved)));
    if let (None, Some(texts), true) = (&rows, &texts, has_space(predictor)) {
        rows = Some(Rows::Memory(embed::texts(
            predictor,
            texts.clone(),
            &World::ALONE,
        )?));
    }
    let mut all = Vec::new();
    for path in queries {
        let pixels = predictor
            .picture(path)
            .map_err(|error| TrainError::Check(error.reason))?;
        let mut hits = match &mut rows {
            Some(rows) => {
                let row = predictor.embed_images(predictor.pixels(pixels.clone())?)?;
                let query = Embedded {
                    ids: vec![path.display().to_string()],
                    width: row.dims()[1],
                    values: host(row),
                    skipped: Vec::new(),
                };
                rows.nearest(&query, how.kept())?.pop().unwrap_or_default()
            }
            None => unranked(texts.iter().flatten().cloned()),
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

fn unranked(ids: impl Iterator<Item = String>) -> Vec<Hit> {
    ids.map(|id| Hit {
        id,
        similarity: None,
        score: None,
        picture: None,
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

fn page(predictor: &Predictor, found: &[Found], list: Option<&PictureList>) -> String {
    let of_file = |path: &str| thumbnail(&images::read(Path::new(path), pictures::LIMITS).ok()?);
    let facts = [
        ("model", predictor.given.clone()),
        ("queries", found.len().to_string()),
    ];
    let body = html! {
        (page::header("unimo · search", "What was found", &facts, &[]))
        main {
            @for query in found {
                section {
                    h2 { (query.query) }
                    @if let Some(address) = query.of_picture.then(|| of_file(&query.query)).flatten() {
                        img.query src=(address) alt=(query.query);
                    }
                    ol class=(if query.of_picture { "found texts" } else { "found pictures" }) {
                        @for hit in &query.results { (result(hit, list)) }
                    }
                }
            }
            p.lead.last {
                "The bar is the matching head's probability that text and image belong together, if the model has such a head; cosine is \
                 their similarity in the common space, by which candidates are found."
            }
        }
    };
    page::document("What was found – unimo search", STYLE, &body)
}

fn result(hit: &Hit, list: Option<&PictureList>) -> Markup {
    let picture = || thumbnail(&list?.read(hit.picture?).ok()?);
    html! {
        li.card {
            @if let Some(address) = picture() { div.frame { img src=(address) alt=(hit.id); } }
            div.hit {
                span.name { (hit.id) }
                @if let Some(score) = hit.score {
                    span.bar { i style=(format!("width:{:.1}%", 100.0 * score)) {} }
                    b { (format!("{:.1} %", 100.0 * score)) }
                }
                @if let Some(similarity) = hit.similarity { small { (format!("cosine {similarity:.3}")) } }
            }
        }
    }
}

const STYLE: &str = "\
.found { list-style: none; counter-reset: n; margin: 14px 0 0; padding: 0; }
.found li.card { counter-increment: n; margin: 0; padding: 0; overflow: hidden; }
.found.pictures { display: grid; gap: 16px; grid-template-columns: repeat(auto-fill, minmax(min(100%, 210px), 1fr)); }
.found.texts { display: grid; gap: 8px; }
.found .frame { height: 180px; }
.hit { display: grid; grid-template-columns: 1fr auto; gap: 4px 10px; padding: 10px 14px 12px; align-items: baseline; }
.hit .name { grid-column: 1 / -1; overflow-wrap: anywhere; font-size: 14px; }
.hit .name::before { content: counter(n) '. '; color: var(--muted); }
.hit .bar { height: 5px; border-radius: 3px; background: var(--line); overflow: hidden; align-self: center; }
.hit .bar i { display: block; height: 100%; background: var(--accent); }
.hit b { font-weight: 600; font-variant-numeric: tabular-nums; }
.hit small { grid-column: 1 / -1; color: var(--muted); font-size: 12.5px; }
.query { max-height: 240px; border-radius: 8px; margin-top: 10px; }
.last { margin-top: 32px; }
@media (max-width: 560px) { .found.pictures { grid-template-columns: 1fr 1fr; gap: 10px; } .found .frame { height: 130px; } }
";

/// A small image as a `data:` URL.
fn thumbnail(picture: &RgbImage) -> Option<String> {
    let small = images::thumbnail(picture, THUMBNAIL);
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
            picture: None,
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
        let query = Embedded {
            ids: vec!["q".to_owned()],
            width: 2,
            values: vec![0.0, 1.0],
            skipped: Vec::new(),
        };
        let found = Rows::Memory(collection).nearest(&query, 2).unwrap();
        let ids: Vec<_> = found[0].iter().map(|h| h.id.as_str()).collect();
        assert_eq!(ids, ["y", "z"]);
    }
}

//! `unimo embed`: writes embeddings of images and texts in the common space to a file.

use std::path::{Path, PathBuf};

use npyz::{WriteOptions, WriterBuilder};
use unimo_data::Split;

use super::index::{self, Embedded, Part, What};
use super::inputs::{self, ColumnArgs};
use super::nearest::CellsConfig;
use super::pictures::{self, PictureList};
use super::{Matcher, ModelArgs, Pooling, Predictor, can_be_written};
use crate::error::TrainError;
use crate::files;
use crate::model::host;
use crate::progress::Progress;

/// `unimo embed`.
#[derive(Debug, clap::Args)]
pub struct EmbedArgs {
    /// The model.
    #[command(flatten)]
    pub model: ModelArgs,
    /// Images: a file, a folder with all its subfolders, a list (JSON lines, CSV, TSV), or a data set: tar shards, Parquet, COCO's
    /// captions, Karpathy's splits, or the table `data` of a recipe's .toml file.
    #[arg(long, value_name = "PATH", required_unless_present = "texts")]
    pub images: Option<PathBuf>,
    /// Texts: a .txt file with one text per line, a list, or the captions of a data set.
    #[arg(long, value_name = "PATH")]
    pub texts: Option<PathBuf>,
    /// The split of a data set: train, val or test; default: all of it.
    #[arg(long, value_parser = inputs::split)]
    pub split: Option<Split>,
    /// How a text or image encoder alone makes one vector: `class`, the state of the first token, or `mean`, the mean over all
    /// tokens or patches; default: as 1_Pooling/config.json of sentence-transformers says, else class.
    #[arg(long, value_name = "HOW", value_parser = Pooling::parse)]
    pub pooling: Option<Pooling>,
    /// Columns of the lists.
    #[command(flatten)]
    pub columns: ColumnArgs,
    /// NAME.safetensors with `images`, `texts` and their ids in its notes, which `unimo search --index` reads; or NAME.npy, which
    /// becomes NAME.images.npy and NAME.texts.npy, with the ids in NAME.images.txt and NAME.texts.txt, one per line.
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
    /// Sort the rows into cells, of which a search reads the nearest alone: so many that this share of the ten nearest rows is found,
    /// such as 0.95. It is measured against exact search, for images with the texts as queries, if both are given. Default: a search
    /// reads all rows.
    #[arg(long, value_name = "SHARE", value_parser = share)]
    pub recall: Option<f64>,
}

fn share(given: &str) -> Result<f64, String> {
    match given.parse::<f64>() {
        Ok(share) if share > 0.0 && share <= 1.0 => Ok(share),
        _ => Err("allowed: above 0, at most 1".to_owned()),
    }
}

/// Runs the command.
///
/// # Errors
///
/// The model, the images or the texts cannot be read, or the file cannot be written.
pub fn run(args: &EmbedArgs) -> Result<(), TrainError> {
    let kind = args.out.extension().and_then(|e| e.to_str());
    let npy = match kind {
        Some("safetensors") => false,
        Some("npy") => true,
        _ => {
            return Err(TrainError::Check(format!(
                "--out {}: must end in .safetensors or .npy",
                args.out.display()
            )));
        }
    };
    if npy && args.recall.is_some() {
        return Err(TrainError::Check(
            "--recall is for --out NAME.safetensors: a .npy file has no place for cells".to_owned(),
        ));
    }
    can_be_written(&args.out)?;
    let pictures = args.images.as_ref();
    let pictures = pictures
        .map(|given| PictureList::open(given, &args.columns, args.split))
        .transpose()?;
    let texts = args.texts.as_ref();
    let texts = texts
        .map(|given| inputs::texts(given, &args.columns, args.split))
        .transpose()?;
    let mut predictor = Predictor::open(&args.model)?;
    choose_pooling(&mut predictor, args.pooling)?;
    // Checked before the first part is computed, since the second may be the one that fails.
    predictor.check_space()?;
    if pictures.is_some() {
        predictor.pictures()?;
    }
    if texts.is_some() {
        predictor.tokenizer()?;
    }
    let mut parts = Vec::new();
    if let Some(pictures) = pictures {
        let rows = images(&predictor, &pictures)?;
        for (name, reason) in &rows.skipped {
            eprintln!("skipped {name}: {reason}");
        }
        parts.push(part(
            &predictor,
            What::Images,
            rows,
            pictures::describe(pictures.names()),
        )?);
    }
    if let Some(all) = texts {
        let data = pictures::describe(&all);
        let rows = self::texts(&predictor, all)?;
        parts.push(part(&predictor, What::Texts, rows, data)?);
    }
    predictor.say_what_was_cut();
    if npy {
        for Part { what, rows, .. } in &parts {
            let file = |end: &str| args.out.with_extension(format!("{}.{end}", what.name()));
            write_npy(&file("npy"), rows)?;
            let ids: Vec<String> = rows.ids.iter().map(|id| id.replace('\n', " ")).collect();
            let text = ids.join("\n") + "\n";
            files::write(&file("txt"), text.as_bytes())?;
        }
        return Ok(());
    }
    if let Some(recall) = args.recall {
        sort(&predictor, &mut parts, recall);
    }
    index::write(&args.out, &parts)
}

fn part(
    predictor: &Predictor,
    what: What,
    rows: Embedded,
    data: String,
) -> Result<Part, TrainError> {
    Ok(Part {
        what,
        rows,
        model: index::digest(predictor, what)?,
        data,
        cells: None,
    })
}

/// Sorts the rows of all parts into cells. The queries of each part are the rows of the other one.
fn sort(predictor: &Predictor, parts: &mut [Part], recall: f64) {
    let config = CellsConfig { recall, seed: 0 };
    let some = |part: &Part| {
        let every = (part.rows.ids.len() / CellsConfig::MEASURED).max(1);
        let rows = (0..part.rows.ids.len()).step_by(every);
        rows.flat_map(|at| part.rows.row(at).to_vec()).collect()
    };
    let queries: Vec<Vec<f32>> = parts.iter().map(some).collect();
    let count = parts.len();
    for (at, part) in parts.iter_mut().enumerate() {
        let other = (count == 2).then(|| queries[1 - at].as_slice());
        let (width, rows) = (part.rows.width, &mut part.rows);
        let (cells, order) = config.sort(&mut rows.values, width, other, &predictor.device);
        let mut ids: Vec<Option<String>> = rows.ids.drain(..).map(Some).collect();
        rows.ids = order.iter().filter_map(|at| ids[*at].take()).collect();
        eprintln!(
            "{}: {} cells, of which a search reads {}: that finds {:.1}% of the ten nearest of {} queries",
            part.what.name(),
            cells.starts.len() - 1,
            cells.probes,
            100.0 * cells.recall,
            cells.measured
        );
        part.cells = Some(cells);
    }
}

/// An encoder alone has no common space: prints what its vectors are.
fn choose_pooling(predictor: &mut Predictor, asked: Option<Pooling>) -> Result<(), TrainError> {
    let alone = matches!(predictor.matcher, Matcher::Text(..) | Matcher::Image(_));
    if !alone {
        return match asked {
            Some(_) => Err(TrainError::Check(format!(
                "--pooling is for text and image encoders alone; {} has a common space of its own",
                predictor.given
            ))),
            None => Ok(()),
        };
    }
    predictor.pooling = asked.unwrap_or(predictor.pooling);
    let [text, picture] = predictor.pooling.describe();
    let (what, how) = match predictor.matcher {
        Matcher::Image(_) => ("image", picture),
        _ => ("text", text),
    };
    eprintln!(
        "{}: each {what} is {how}, brought to length 1",
        predictor.given
    );
    Ok(())
}

/// Embeds images in the common space; those that cannot be read are set aside.
///
/// # Errors
///
/// The model has no common space.
pub fn images(predictor: &Predictor, pictures: &PictureList) -> Result<Embedded, TrainError> {
    predictor.pictures()?;
    let mut found = Embedded::default();
    let mut bar = Progress::new(pictures.len() as u64, 0, "embedding").counting("images");
    let every: Vec<usize> = (0..pictures.len()).collect();
    for batch in every.chunks(predictor.batch_size) {
        let mut pixels = Vec::new();
        for at in batch {
            let name = &pictures.names()[*at];
            match predictor.listed_or_reason(pictures, *at)? {
                Ok(picture) => {
                    pixels.extend(picture);
                    found.ids.push(name.clone());
                }
                Err(reason) => found.skipped.push((name.clone(), reason)),
            }
        }
        if !pixels.is_empty() {
            let rows = predictor.embed_images(predictor.pixels(pixels)?)?;
            found.width = rows.dims()[1];
            found.values.extend(host(rows));
        }
        bar.advance(batch.len());
    }
    bar.finish();
    if found.ids.is_empty() {
        Err(TrainError::Check(format!(
            "no image could be read; the first: {}",
            found
                .skipped
                .first()
                .map_or("none given", |(_, reason)| reason.as_str())
        )))
    } else {
        Ok(found)
    }
}

/// Embeds texts in the common space.
///
/// # Errors
///
/// The model has no common space.
pub fn texts(predictor: &Predictor, texts: Vec<String>) -> Result<Embedded, TrainError> {
    let mut found = Embedded::default();
    let mut bar = Progress::new(texts.len() as u64, 0, "embedding").counting("texts");
    for batch in texts.chunks(predictor.batch_size) {
        let tokens = predictor.all_tokens(batch.iter().map(String::as_str))?;
        let rows = predictor.embed_texts(&tokens)?;
        found.width = rows.dims()[1];
        found.values.extend(host(rows));
        bar.advance(batch.len());
    }
    bar.finish();
    found.ids = texts;
    Ok(found)
}

/// Writes the rows as `numpy.save` does.
fn write_npy(path: &Path, embedded: &Embedded) -> Result<(), TrainError> {
    let shape = [embedded.ids.len() as u64, embedded.width as u64];
    files::write_with(path, |file| {
        let mut rows = WriteOptions::<f32>::new()
            .default_dtype()
            .shape(&shape)
            .writer(file)
            .begin_nd()?;
        rows.extend(embedded.values.iter().copied())?;
        rows.finish()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn embedded() -> Embedded {
        Embedded {
            ids: vec!["a.png".to_owned(), "b \"quoted\".png".to_owned()],
            width: 3,
            values: vec![1.0, 0.0, 0.0, 0.0, -1.0, 0.5],
            skipped: Vec::new(),
        }
    }

    /// NumPy 2.4 reads this header, and pads its own to a multiple of 64 bytes too.
    #[test]
    fn npy_is_numpys() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("e.npy");
        write_npy(&path, &embedded()).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        assert_eq!(&bytes[..8], b"\x93NUMPY\x01\x00");
        assert_eq!(bytes.len() % 64, 24);
        let file = npyz::NpyFile::new(bytes.as_slice()).unwrap();
        assert_eq!((file.shape(), file.order()), (&[2, 3][..], npyz::Order::C));
        assert_eq!(file.dtype().descr(), "'<f4'");
        assert_eq!(file.into_vec::<f32>().unwrap(), embedded().values);
    }
}

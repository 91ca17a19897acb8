//! `unimo embed`: writes embeddings of images and texts in the common space to a file.

use std::path::{Path, PathBuf};

use npyz::{WriteOptions, WriterBuilder};
use unimo_core::world::World;
use unimo_data::Split;

use super::index::{self, Embedded, Part, What};
use super::inputs::{self, ColumnArgs};
use super::nearest::CellsConfig;
use super::pictures::{self, PictureList};
use super::{BatchArgs, Matcher, ModelArgs, Pooling, Predictor};
use crate::error::TrainError;
use crate::files;
use crate::model::host;
use crate::outputs;
use crate::progress::Progress;
use crate::ranks;

/// `unimo embed`.
#[derive(Debug, clap::Args)]
pub struct EmbedArgs {
    /// The model.
    #[command(flatten)]
    pub model: ModelArgs,
    /// The batches.
    #[command(flatten)]
    pub batch: BatchArgs,
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
    run_in(args, &World::ALONE)
}

/// Runs the command on the ranks of `world`, which share the batches. Rank 0 writes.
///
/// # Errors
///
/// As of [`run`].
pub fn run_in(args: &EmbedArgs, world: &World) -> Result<(), TrainError> {
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
    ranks::first(world, "what rank 0 checks", || {
        let reads = [args.images.as_deref(), args.texts.as_deref()];
        let files = if npy {
            let ends = ["images.npy", "images.txt", "texts.npy", "texts.txt"];
            ends.map(|end| args.out.with_extension(end)).to_vec()
        } else {
            vec![args.out.clone()]
        };
        let files: Vec<Option<&Path>> = files.iter().map(|file| Some(file.as_path())).collect();
        outputs::check(&files, &reads, &[Path::new(&args.model.model)])
    })?;
    let inputs = ranks::all(world, "what is embedded", Inputs::open(args))?;
    inputs.agree(world)?;
    let mut predictor = Predictor::open_in(&args.model, world)?.in_batches(args.batch);
    let fits = inputs.fit(&mut predictor, args.pooling);
    let note = ranks::all(world, "whether the model embeds them", fits)?;
    if let (Some(note), true) = (note, world.is_first()) {
        eprintln!("{note}");
    }
    let mut parts = Vec::new();
    if let Some(pictures) = &inputs.pictures {
        let rows = images(&predictor, pictures, world)?;
        if world.is_first() {
            for (name, reason) in &rows.skipped {
                eprintln!("skipped {name}: {reason}");
            }
        }
        let data = pictures::describe(pictures.names());
        parts.push((What::Images, rows, data));
    }
    if let Some(all) = inputs.texts {
        let data = pictures::describe(&all);
        parts.push((What::Texts, texts(&predictor, all, world)?, data));
    }
    predictor.say_what_was_cut(world)?;
    ranks::first(world, "the file of rank 0", || {
        write(args, npy, &predictor, parts)
    })
}

/// What is embedded.
struct Inputs {
    pictures: Option<PictureList>,
    texts: Option<Vec<String>>,
}

impl Inputs {
    fn open(args: &EmbedArgs) -> Result<Self, TrainError> {
        let [images, texts] = [&args.images, &args.texts].map(|path| path.as_deref());
        args.columns.fit(images.as_slice(), texts.as_slice())?;
        if let (Some(tokenizer), None) = (&args.model.tokenizer, texts) {
            return Err(TrainError::Check(format!(
                "--tokenizer {} changes nothing without --texts: images have no words",
                tokenizer.display()
            )));
        }
        let pictures = args.images.as_ref();
        let pictures = pictures.map(|given| PictureList::open(given, &args.columns, args.split));
        let texts = args.texts.as_ref();
        let texts = texts.map(|given| inputs::texts(given, &args.columns, args.split));
        Ok(Self {
            pictures: pictures.transpose()?,
            texts: texts.transpose()?,
        })
    }

    /// Checks that all ranks found the same.
    fn agree(&self, world: &World) -> Result<(), TrainError> {
        let names = self.pictures.as_ref().map(PictureList::names);
        let found = [("the images", names), ("the texts", self.texts.as_deref())];
        let found = found
            .into_iter()
            .filter_map(|(what, all)| Some((what.to_owned(), pictures::describe(all?))));
        ranks::agree(world, "what is embedded", found.collect())
    }

    /// Checks that the model has a place for them, before the first part is computed, since the second may be the one that fails.
    /// Returns what there is to say of the vectors.
    fn fit(
        &self,
        predictor: &mut Predictor,
        pooling: Option<Pooling>,
    ) -> Result<Option<String>, TrainError> {
        let note = choose_pooling(predictor, pooling)?;
        predictor.check_space()?;
        if self.pictures.is_some() {
            predictor.pictures()?;
        }
        if self.texts.is_some() {
            predictor.tokenizer()?;
        }
        Ok(note)
    }
}

fn write(
    args: &EmbedArgs,
    npy: bool,
    predictor: &Predictor,
    rows: Vec<(What, Embedded, String)>,
) -> Result<(), TrainError> {
    if npy {
        for (what, rows, _) in &rows {
            let file = |end: &str| args.out.with_extension(format!("{}.{end}", what.name()));
            write_npy(&file("npy"), rows)?;
            let ids: Vec<String> = rows.ids.iter().map(|id| id.replace('\n', " ")).collect();
            let text = ids.join("\n") + "\n";
            files::write(&file("txt"), text.as_bytes())?;
        }
        let written = |what: &What| rows.iter().any(|(there, ..)| there.name() == what.name());
        for what in [What::Images, What::Texts].iter().filter(|w| !written(w)) {
            let older = args.out.with_extension(format!("{}.npy", what.name()));
            if older.exists() {
                eprintln!(
                    "{} was there before and is left as it is: it does not belong to what was written now",
                    older.display()
                );
            }
        }
        return Ok(());
    }
    let parts = rows.into_iter().map(|(what, rows, data)| {
        Ok(Part {
            what,
            rows,
            model: index::digest(predictor, what)?,
            data,
            cells: None,
        })
    });
    let mut parts = parts.collect::<Result<Vec<_>, TrainError>>()?;
    if let Some(recall) = args.recall {
        sort(predictor, &mut parts, recall);
    }
    index::write(&args.out, &parts)
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

/// An encoder alone has no common space: says what its vectors are.
fn choose_pooling(
    predictor: &mut Predictor,
    asked: Option<Pooling>,
) -> Result<Option<String>, TrainError> {
    let alone = matches!(predictor.matcher, Matcher::Text(..) | Matcher::Image(_));
    if !alone {
        return match asked {
            Some(_) => Err(TrainError::Check(format!(
                "--pooling is for text and image encoders alone; {} has a common space of its own",
                predictor.given
            ))),
            None => Ok(None),
        };
    }
    predictor.pooling = asked.unwrap_or(predictor.pooling);
    let [text, picture] = predictor.pooling.describe();
    let (what, how) = match predictor.matcher {
        Matcher::Image(_) => ("image", picture),
        _ => ("text", text),
    };
    Ok(Some(format!(
        "{}: each {what} is {how}, brought to length 1",
        predictor.given
    )))
}

/// Embeds images in the common space; those that cannot be read are set aside. The ranks of `world` share the batches; rank 0 has the
/// rows, the others the names alone.
///
/// # Errors
///
/// The model has no common space, or no image can be read.
pub fn images(
    predictor: &Predictor,
    pictures: &PictureList,
    world: &World,
) -> Result<Embedded, TrainError> {
    predictor.pictures()?;
    let every: Vec<usize> = (0..pictures.len()).collect();
    let batches: Vec<&[usize]> = every.chunks(predictor.batch_size).collect();
    let mut bar = bar(pictures.len(), "images", world);
    let found = shared(world, &batches, &mut bar, |batch| {
        let mut found = Embedded::default();
        let mut pixels = Vec::new();
        for at in *batch {
            let name = pictures.names()[*at].clone();
            match predictor.listed_or_reason(pictures, *at)? {
                Ok(picture) => {
                    pixels.extend(picture);
                    found.ids.push(name);
                }
                Err(reason) => found.skipped.push((name, reason)),
            }
        }
        if !pixels.is_empty() {
            let rows = predictor.embed_images(predictor.pixels(pixels)?)?;
            found.width = rows.dims()[1];
            found.values = host(rows);
        }
        Ok(found)
    })?;
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

/// Embeds texts in the common space. The ranks of `world` share the batches; rank 0 has the rows, the others the texts alone.
///
/// # Errors
///
/// The model has no common space.
pub fn texts(
    predictor: &Predictor,
    texts: Vec<String>,
    world: &World,
) -> Result<Embedded, TrainError> {
    let batches: Vec<&[String]> = texts.chunks(predictor.batch_size).collect();
    let mut bar = bar(texts.len(), "texts", world);
    let found = shared(world, &batches, &mut bar, |batch| {
        let tokens = predictor.all_tokens(batch.iter().map(String::as_str))?;
        let rows = predictor.embed_texts(&tokens)?;
        Ok(Embedded {
            ids: batch.to_vec(),
            width: rows.dims()[1],
            values: host(rows),
            skipped: Vec::new(),
        })
    })?;
    bar.finish();
    Ok(found)
}

fn bar(count: usize, what: &'static str, world: &World) -> Progress {
    if world.is_first() {
        Progress::new(count as u64, 0, "embedding").counting(what)
    } else {
        Progress::silent()
    }
}

/// The rows of all batches in their order. In each round every rank embeds one of them.
fn shared<B>(
    world: &World,
    batches: &[B],
    bar: &mut Progress,
    embed: impl Fn(&B) -> Result<Embedded, TrainError>,
) -> Result<Embedded, TrainError> {
    let mut found = Embedded::default();
    for round in batches.chunks(world.size()) {
        let own = round.get(world.rank()).map(&embed).transpose();
        for batch in ranks::gather(world, "embeddings", own)?
            .into_iter()
            .flatten()
        {
            bar.advance(batch.ids.len() + batch.skipped.len());
            found.ids.extend(batch.ids);
            found.skipped.extend(batch.skipped);
            found.width = found.width.max(batch.width);
            if world.is_first() {
                found.values.extend(batch.values);
            }
        }
    }
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

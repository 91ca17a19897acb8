//! `unimo embed`: writes embeddings of images and texts in the common space to a file.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use safetensors::Dtype;
use safetensors::tensor::TensorView;
use unimo_encoders::weights;

use super::inputs::{self, ColumnArgs};
use super::{Matcher, ModelArgs, Pooling, Predictor, can_be_written};
use crate::error::TrainError;
use crate::files;
use crate::model::host;
use crate::progress::Progress;

/// `unimo embed`.
#[derive(Debug, clap::Args)]
pub struct EmbedArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// Images: a file, a folder with all its subfolders, or a list (JSON lines, CSV, TSV).
    #[arg(long, value_name = "PATH", required_unless_present = "texts")]
    images: Option<PathBuf>,
    /// Texts: a .txt file with one text per line, or a list.
    #[arg(long, value_name = "FILE")]
    texts: Option<PathBuf>,
    /// How a text or image encoder alone makes one vector: `class`, the state of the first token, or `mean`, the mean over all
    /// tokens or patches; default: as 1_Pooling/config.json of sentence-transformers says, else class.
    #[arg(long, value_name = "HOW", value_parser = Pooling::parse)]
    pooling: Option<Pooling>,
    #[command(flatten)]
    columns: ColumnArgs,
    /// NAME.safetensors with `images`, `texts` and their ids in its notes; or NAME.npy, which becomes NAME.images.npy and
    /// NAME.texts.npy, with the ids in NAME.images.txt and NAME.texts.txt, one per line.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

/// Rows of a common space, with the name of each.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Embedded {
    /// Names of images, or texts.
    pub ids: Vec<String>,
    /// `E`.
    pub width: usize,
    /// `[N, E]`, each row of length 1.
    pub values: Vec<f32>,
    /// Inputs that could not be used, with their reasons.
    pub skipped: Vec<(String, String)>,
}

impl Embedded {
    /// The row with this index.
    pub fn row(&self, index: usize) -> &[f32] {
        &self.values[index * self.width..(index + 1) * self.width]
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
    can_be_written(&args.out)?;
    let pictures = args.images.as_ref();
    let pictures = pictures
        .map(|given| inputs::images(given, &args.columns))
        .transpose()?;
    let texts = args.texts.as_ref();
    let texts = texts
        .map(|given| inputs::texts(given, &args.columns))
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
        let embedded = images(&predictor, &pictures)?;
        for (name, reason) in &embedded.skipped {
            eprintln!("skipped {name}: {reason}");
        }
        parts.push(("images", embedded));
    }
    if let Some(all) = texts {
        parts.push(("texts", self::texts(&predictor, all)?));
    }
    predictor.say_what_was_cut();
    if npy {
        for (what, embedded) in &parts {
            let file = |end: &str| args.out.with_extension(format!("{what}.{end}"));
            write_npy(&file("npy"), embedded)?;
            let ids: Vec<String> = embedded
                .ids
                .iter()
                .map(|id| id.replace('\n', " "))
                .collect();
            let text = ids.join("\n") + "\n";
            files::write(&file("txt"), text.as_bytes())?;
        }
        return Ok(());
    }
    write_safetensors(&args.out, &parts)
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
        Matcher::Image(_) => ("picture", picture),
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
pub fn images(
    predictor: &Predictor,
    pictures: &[(String, PathBuf)],
) -> Result<Embedded, TrainError> {
    predictor.pictures()?;
    let mut found = Embedded::default();
    let mut bar = Progress::new(pictures.len() as u64, 0, "embedding").counting("pictures");
    for batch in pictures.chunks(predictor.batch_size) {
        let mut pixels = Vec::new();
        for (name, path) in batch {
            match predictor.picture_or_reason(path)? {
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
            "no picture could be read; the first: {}",
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

/// Writes vectors and their names; see `--out`.
///
/// # Errors
///
/// The file cannot be written.
pub fn write_safetensors(path: &Path, parts: &[(&str, Embedded)]) -> Result<(), TrainError> {
    let wrong = |reason: String| TrainError::Check(format!("{}: {reason}", path.display()));
    let mut notes = BTreeMap::new();
    let mut tensors = Vec::new();
    let bytes: Vec<Vec<u8>> = parts
        .iter()
        .map(|(_, e)| e.values.iter().flat_map(|v| v.to_le_bytes()).collect())
        .collect();
    for ((what, embedded), bytes) in parts.iter().zip(&bytes) {
        let ids = serde_json::to_string(&embedded.ids).map_err(|e| wrong(e.to_string()))?;
        notes.insert(format!("{what}.ids"), ids);
        let shape = vec![embedded.ids.len(), embedded.width];
        let view = TensorView::new(Dtype::F32, shape, bytes).map_err(|e| wrong(e.to_string()))?;
        tensors.push((*what, view));
    }
    files::write_with(path, |out| weights::write_safetensors(out, tensors, &notes))
}

/// Writes NumPy's format, version 1.0: a magic number, a dictionary padded to 64 bytes, the values.
fn write_npy(path: &Path, embedded: &Embedded) -> Result<(), TrainError> {
    const ALIGNMENT: usize = 64;
    const MAGIC: &[u8] = b"\x93NUMPY\x01\x00";
    let mut header = format!(
        "{{'descr': '<f4', 'fortran_order': False, 'shape': ({}, {}), }}",
        embedded.ids.len(),
        embedded.width
    );
    let unpadded = MAGIC.len() + size_of::<u16>() + header.len() + 1;
    header.push_str(&" ".repeat(unpadded.next_multiple_of(ALIGNMENT) - unpadded));
    header.push('\n');
    let mut bytes = MAGIC.to_vec();
    bytes.extend((header.len() as u16).to_le_bytes());
    bytes.extend(header.as_bytes());
    bytes.extend(embedded.values.iter().flat_map(|v| v.to_le_bytes()));
    files::write(path, &bytes)
}

#[cfg(test)]
mod tests {
    use unimo_encoders::weights::SafetensorsFile;

    use super::*;

    fn embedded() -> Embedded {
        Embedded {
            ids: vec!["a.png".to_owned(), "b \"quoted\".png".to_owned()],
            width: 3,
            values: vec![1.0, 0.0, 0.0, 0.0, -1.0, 0.5],
            skipped: Vec::new(),
        }
    }

    #[test]
    fn safetensors_keep_values_and_ids() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("e.safetensors");
        write_safetensors(&path, &[("images", embedded())]).unwrap();
        let mut file = SafetensorsFile::open(&path).unwrap();
        assert_eq!(file.info("images").unwrap().shape, [2, 3]);
        assert_eq!(file.values("images").unwrap(), embedded().values);
        let ids: Vec<String> = serde_json::from_str(file.note("images.ids").unwrap()).unwrap();
        assert_eq!(ids, embedded().ids);
    }

    /// As `numpy.save` writes it: NumPy 2.4, `np.save(f, np.array([[1, 0, 0], [0, -1, .5]], "f4"))`.
    #[test]
    fn npy_is_numpys() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("e.npy");
        write_npy(&path, &embedded()).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        assert_eq!(&bytes[..10], b"\x93NUMPY\x01\x00v\x00");
        assert_eq!(bytes.len(), 128 + 24);
        let header = std::str::from_utf8(&bytes[10..128]).unwrap();
        assert!(
            header.starts_with("{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }  ")
        );
        assert!(header.ends_with(" \n"));
        assert_eq!(&bytes[128..132], &1.0f32.to_le_bytes());
    }
}

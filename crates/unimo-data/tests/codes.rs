//! Codes of patches in batches: of what the model sees, after every change, or of a table whose holes are counted.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use image::{Rgb, RgbImage};
use npyz::WriterBuilder;
use unimo_batch::Batch;
use unimo_data::{
    Batches, Codebook, DataConfig, Loader, LoaderSpec, PatchCodes, SkipList, TextTokenizer, open,
};

/// Side of the images, and how many there are.
const SIDE: u32 = 32;
const IMAGES: usize = 8;
/// Codes of an image: patches of 8 pixels.
const GRID: usize = 16;

/// A list of images whose pixels say where they are.
fn folder(folder: &Path) {
    let mut list = String::new();
    for number in 0..IMAGES {
        let level = |at: u32| (at * 7 + number as u32 * 5) as u8;
        let picture = RgbImage::from_fn(SIDE, SIDE, |x, y| Rgb([level(x), level(y), number as u8]));
        picture.save(folder.join(format!("{number}.png"))).unwrap();
        list += &format!("{{\"image\": \"{number}.png\", \"caption\": \"number {number}\"}}\n");
    }
    fs::write(folder.join("pairs.jsonl"), list).unwrap();
}

fn config(folder: &Path, more: &str) -> DataConfig {
    let text = format!(
        "source = \"pairs\"\nimage_size = 32\nresize = \"squash\"\nworkers = 1\nmax_skipped = 0.5\n\
         [pairs]\npath = {:?}\nval_fraction = 0.0\n{more}",
        folder.join("pairs.jsonl").display().to_string()
    );
    let config: DataConfig = toml::from_str(&text).unwrap();
    config.validate().unwrap();
    config
}

fn batches(config: &DataConfig, skip: &Arc<SkipList>, codes: Option<PatchCodes>) -> Vec<Batch> {
    let source = open(config).unwrap();
    let texts = ["number 0 1 2 3 4 5 6 7".to_owned()];
    let tokenizer = Arc::new(TextTokenizer::train(texts.into_iter(), 280).unwrap());
    let of = Batches { size: 4, seed: 3 };
    let mut spec = LoaderSpec::new(config, source, tokenizer, Arc::clone(skip), of);
    spec.codes = codes.map(Arc::new);
    let loader = Loader::new(spec).unwrap();
    loader.take(4).map(Result::unwrap).collect()
}

const K_MEANS: &str = "[codes]\nkind = \"k_means\"\npatch_size = 8\ncodes = 16\ncells = 2\n";
const AUGMENT: &str = "[augment]\nscale = [0.3, 1.0]\nratio = [0.75, 1.333]\nflip = 0.5\n";

fn book(config: &DataConfig) -> Codebook {
    let source = open(config).unwrap();
    let codes = config.codes.as_ref().unwrap();
    PatchCodes::make(codes, &config.image_spec(), &*source, 1, &mut |_| {}).unwrap()
}

#[test]
fn codes_are_of_what_the_model_sees_after_crops_and_flips() {
    let at = tempfile::tempdir().unwrap();
    folder(at.path());
    for (more, fits) in [
        (format!("{K_MEANS}{AUGMENT}"), true),
        (format!("{K_MEANS}aligned = false\n{AUGMENT}"), false),
    ] {
        let config = config(at.path(), &more);
        let book = book(&config);
        let codes = config.codes.as_ref().unwrap();
        let given = PatchCodes::of_book(book.clone(), codes, Path::new("book")).unwrap();
        let skip = Arc::new(SkipList::in_memory(0.0));
        let (mut same, mut all) = (0, 0);
        for batch in batches(&config, &skip, Some(given)) {
            let images = batch.images.unwrap();
            let found = images.codes.unwrap();
            assert_eq!(found.len(), 4 * GRID);
            let values = images.pixels.chunks_exact(3 * 32 * 32);
            for (levels, found) in values.zip(found.chunks_exact(GRID)) {
                let own = book.codes(levels, 32);
                same += own.iter().zip(found).filter(|(a, b)| a == b).count();
                all += own.len();
            }
        }
        assert_eq!(same == all, fits, "{same} of {all}");
    }
}

#[test]
fn without_codes_batches_have_none() {
    let at = tempfile::tempdir().unwrap();
    folder(at.path());
    let config = config(at.path(), "");
    let skip = Arc::new(SkipList::in_memory(0.0));
    let batch = batches(&config, &skip, None).remove(0);
    assert!(batch.images.unwrap().codes.is_none());
}

#[test]
fn an_image_with_a_hole_or_without_a_row_is_counted_and_replaced() {
    let at = tempfile::tempdir().unwrap();
    folder(at.path());
    let path = at.path().join("codes.npy");
    let rows = IMAGES - 1;
    let mut bytes = Vec::new();
    let mut writer = npyz::WriteOptions::new()
        .default_dtype()
        .shape(&[rows as u64, GRID as u64])
        .writer(&mut bytes)
        .begin_nd()
        .unwrap();
    // The codes of an image are its number; that of 2 has a hole, and 7 has no row.
    let values = (0..rows * GRID).map(|at| match at {
        at if at == 2 * GRID + 5 => -1,
        at => (at / GRID) as i32,
    });
    writer.extend(values).unwrap();
    writer.finish().unwrap();
    fs::write(&path, bytes).unwrap();
    let index: String = (0..rows)
        .map(|number| format!("{{\"image\": \"{number}.png\"}}\n"))
        .collect();
    fs::write(path.with_extension("jsonl"), index).unwrap();
    let text = format!(
        "[codes]\nkind = \"files\"\ncodes = 8\npath = {:?}\n",
        path.display().to_string()
    );
    let config = config(at.path(), &text);
    let given = PatchCodes::open(config.codes.as_ref().unwrap(), &config.image_spec());
    let skip = Arc::new(SkipList::in_memory(0.5));
    let mut seen = Vec::new();
    for batch in batches(&config, &skip, given.unwrap()) {
        let images = batch.images.unwrap();
        let values = images.pixels.chunks_exact(3 * 32 * 32);
        for (levels, codes) in values.zip(images.codes.unwrap().chunks_exact(GRID)) {
            let number = u32::from(levels[2 * 32 * 32]);
            assert!(
                codes.iter().all(|code| *code == number),
                "{number}: {codes:?}"
            );
            seen.push(number);
        }
    }
    assert!(!seen.contains(&2) && !seen.contains(&7), "{seen:?}");
    assert_eq!(skip.count(), 2);
}

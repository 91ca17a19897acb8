//! The loader and the evaluation set over good and bad data.

mod shared;

use std::collections::{BTreeMap, HashSet};
use std::path::Path;
use std::sync::Arc;

use image::{Rgb, RgbImage};
use unimo_batch::{
    Batch, Entailment, MaskSpec, MaskUnit, MaskedTexts, PatchMaskKind, PatchMaskSpec, TextRole,
};
use unimo_data::sources::pairs::PairsConfig;
use unimo_data::{
    Batches, DataConfig, DataError, EvalSet, FurtherText, Item, Loader, LoaderSpec, Pad, PatchMask,
    Place, Plan, Rewrite, Sample, SampleError, Shuffle, SkipList, Source, SourceKind, Split,
    TextTokenizer, TokenizerConfig, open,
};

/// Numbers as samples. Image and caption both show the number. Some are broken, and one may panic.
struct Numbers {
    count: usize,
    shards: Vec<usize>,
    broken: fn(usize) -> bool,
    panics_at: Option<usize>,
}

impl Numbers {
    fn new(count: usize) -> Self {
        Self {
            count,
            shards: vec![count],
            broken: |_| false,
            panics_at: None,
        }
    }
}

impl Source for Numbers {
    fn len(&self, split: Split) -> usize {
        match split {
            Split::Train => self.count,
            Split::Val | Split::Test => 0,
        }
    }

    fn describe(&self) -> String {
        "numbers".to_owned()
    }

    fn shards(&self, split: Split) -> Vec<usize> {
        match split {
            Split::Train => self.shards.clone(),
            Split::Val | Split::Test => Vec::new(),
        }
    }

    fn place(&self, _: Split, index: usize) -> Place {
        Place {
            file: "numbers".to_owned(),
            line: index as u64,
        }
    }

    fn captions(&self, _: Split, index: usize) -> Result<Vec<String>, SampleError> {
        Ok(vec![
            format!("number {index}"),
            format!("{index} as number"),
        ])
    }

    fn image(&self, split: Split, index: usize) -> Result<Option<RgbImage>, SampleError> {
        assert_ne!(self.panics_at, Some(index), "a bug in a source");
        if (self.broken)(index) {
            return Err(SampleError::new(
                self.place(split, index),
                "broken".to_owned(),
            ));
        }
        Ok(Some(RgbImage::from_pixel(
            1,
            1,
            Rgb([(index % 256) as u8; 3]),
        )))
    }

    fn sample(&self, split: Split, index: usize) -> Result<Sample, SampleError> {
        Ok(Sample {
            name: self.place(split, index).to_string(),
            image: self.image(split, index)?,
            captions: self.captions(split, index)?,
            tags: vec![format!("tag {index}")],
            ..Sample::default()
        })
    }
}

fn tokenizer() -> Arc<TextTokenizer> {
    let texts = ["number 0123456789 as number tag"; 3];
    Arc::new(TextTokenizer::train(texts.iter().map(|text| (*text).to_owned()), 270).unwrap())
}

fn spec(source: impl Source + 'static, tokenizer: &Arc<TextTokenizer>) -> LoaderSpec {
    let config = DataConfig {
        image_size: 1,
        max_text_length: 32,
        workers: Some(1),
        prefetch: 1,
        ..DataConfig::default()
    };
    let skip = Arc::new(SkipList::in_memory(1.0));
    LoaderSpec::new(
        &config,
        Arc::new(source),
        Arc::clone(tokenizer),
        skip,
        Batches { size: 4, seed: 0 },
    )
}

fn take(spec: LoaderSpec, batches: usize) -> Vec<Batch> {
    let batches: Vec<_> = Loader::new(spec).unwrap().take(batches).collect();
    batches.into_iter().map(Result::unwrap).collect()
}

fn numbers(batches: &[Batch]) -> Vec<usize> {
    batches
        .iter()
        .flat_map(|batch| &batch.samples)
        .map(|name| name.trim_start_matches("numbers:").parse().unwrap())
        .collect()
}

/// A small generator of test cases (Numerical Recipes' linear congruence, high bits).
struct Cases(u64);

impl Cases {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) as usize) % n
    }
}

#[test]
fn any_resume_point_and_any_number_of_threads_give_the_same_batches() {
    let tokenizer = tokenizer();
    let mut cases = Cases(1);
    for case in 0..1000 {
        let count = 1 + cases.below(40);
        let source = || Numbers {
            broken: |index| index % 11 == 3,
            ..Numbers::new(count)
        };
        let mut whole = spec(source(), &tokenizer);
        whole.seed = cases.below(1 << 30) as u64;
        whole.batch_size = 1 + cases.below(9);
        whole.mask = Some(MaskSpec {
            unit: [
                MaskUnit::Token,
                MaskUnit::WholeWord,
                MaskUnit::Span,
                MaskUnit::SkipGram,
            ][case % 4],
            ..MaskSpec::default()
        });
        whole.images.size = 8;
        whole.patch_mask = (case % 5 > 0).then_some(PatchMask {
            spec: PatchMaskSpec {
                rate: 0.4,
                kind: PatchMaskKind::Block,
            },
            patch_size: 2,
        });
        whole.pad = if case % 3 == 0 {
            Pad::Max
        } else {
            Pad::Longest
        };
        let resumed_at = cases.below(8);
        let resumed = LoaderSpec {
            first_batch: resumed_at as u64,
            workers: 1 + cases.below(4),
            prefetch: 1 + cases.below(5),
            ..whole.clone()
        };
        let batches = take(whole, 10);
        assert_eq!(
            batches[resumed_at..],
            take(resumed, 10 - resumed_at),
            "case {case}"
        );
    }
}

/// The batches of all ranks, in the run's order: rank after rank, batch after batch.
fn take_together(spec: &LoaderSpec, batches: usize) -> Vec<Batch> {
    let mut loaders: Vec<Loader> = (0..spec.ranks)
        .map(|rank| {
            Loader::new(LoaderSpec {
                rank,
                ..spec.clone()
            })
            .unwrap()
        })
        .collect();
    (0..batches)
        .map(|batch| loaders[batch % spec.ranks].next().unwrap().unwrap())
        .collect()
}

/// Whatever the number of shards, threads and processes, and wherever a run stops and resumes, the order is that of one thread that
/// never stopped. Each epoch holds each sample once.
#[test]
fn any_shards_ranks_and_stops_give_one_order() {
    let tokenizer = tokenizer();
    let mut cases = Cases(5);
    for case in 0..1000 {
        let shards: Vec<usize> = (0..1 + cases.below(6)).map(|_| cases.below(9)).collect();
        let count: usize = shards.iter().sum::<usize>().max(1);
        let shards = if count == 1 { vec![1] } else { shards };
        let source = Numbers {
            shards,
            ..Numbers::new(count)
        };
        let mut whole = spec(source, &tokenizer);
        whole.seed = cases.below(1 << 30) as u64;
        whole.batch_size = 1 + cases.below(5);
        whole.shuffle = match case % 4 {
            0 => Shuffle::Global,
            window => Shuffle::Shards(window),
        };
        whole.bucket = if case % 3 == 0 { 1 + cases.below(4) } else { 1 };
        // Whole windows of batches, over two epochs at least.
        let window = whole.batch_size * whole.bucket;
        let batches = (2 * count).div_ceil(window) * whole.bucket;
        let uninterrupted = take_together(&whole, batches);

        let stop = cases.below(batches);
        let mut parts = Vec::new();
        for (first, length) in [(0, stop), (stop, batches - stop)] {
            let part = LoaderSpec {
                first_batch: first as u64,
                ranks: 1 + cases.below(4),
                workers: 1 + cases.below(3),
                prefetch: 1 + cases.below(3),
                ..whole.clone()
            };
            parts.extend(take_together(&part, length));
        }
        assert_eq!(parts, uninterrupted, "case {case}");

        let order = numbers(&uninterrupted);
        if whole.bucket == 1 {
            for epoch in order.chunks_exact(count) {
                assert_eq!(epoch.iter().collect::<HashSet<_>>().len(), count);
            }
        }
        // Every sample comes equally often, except in the unfinished epoch.
        let mut counts = vec![0usize; count];
        for number in order {
            counts[number] += 1;
        }
        let (low, high) = (counts.iter().min(), counts.iter().max());
        assert!(high.unwrap() - low.unwrap() <= 1, "case {case}: {counts:?}");
    }
}

/// In a window of batches, texts of like lengths share a batch.
#[test]
fn buckets_hold_texts_of_like_lengths() {
    let tokenizer = tokenizer();
    let padded = |bucket: usize| -> usize {
        let mut spec = spec(Numbers::new(12_000), &tokenizer);
        spec.batch_size = 8;
        spec.bucket = bucket;
        let texts = take(spec, 64).into_iter().filter_map(|batch| batch.texts);
        texts
            .map(|texts| texts.ids.len() - texts.lengths.iter().sum::<usize>())
            .sum()
    };
    assert!(2 * padded(16) < padded(1), "{} {}", padded(16), padded(1));
}

#[test]
fn captions_can_be_rewritten_and_come_in_twos() {
    struct Shout;
    impl Rewrite for Shout {
        fn rewrite(&self, caption: &str, draw: u64) -> String {
            match draw % 2 {
                0 => caption.to_uppercase(),
                _ => caption.to_owned(),
            }
        }
    }
    let tokenizer = tokenizer();
    let mut spec = spec(Numbers::new(50), &tokenizer);
    spec.rewrite = Some(Arc::new(Shout));
    spec.further = vec![FurtherText::SecondCaption];
    let batches = take(spec.clone(), 8);
    assert_eq!(batches, take(spec, 8));
    let mut shouted = 0;
    for batch in &batches {
        let texts = batch.texts.as_ref().unwrap();
        let second = &batch.further_texts["second_caption"];
        for row in 0..batch.len() {
            let text = |texts: &unimo_batch::Texts| {
                let ids = &texts.ids[row * texts.length..][..texts.lengths[row]];
                tokenizer.decode(ids)
            };
            let (first, second) = (text(texts), text(second));
            shouted += usize::from(first == first.to_uppercase());
            let number = numbers(std::slice::from_ref(batch))[row];
            let both = HashSet::from([first.to_lowercase(), second]);
            let expected = [format!("number {number}"), format!("{number} as number")];
            assert_eq!(both, HashSet::from(expected));
        }
    }
    assert!((4..28).contains(&shouted), "{shouted} of 32");
}

#[test]
fn every_epoch_holds_every_sample_once_in_an_order_of_its_own() {
    let tokenizer = tokenizer();
    let mut cases = Cases(2);
    for _ in 0..200 {
        let count = 1 + cases.below(50);
        let mut spec = spec(Numbers::new(count), &tokenizer);
        spec.batch_size = 1 + cases.below(9);
        spec.seed = cases.below(1000) as u64;
        spec.workers = 1 + cases.below(3);
        let seed = spec.seed;
        let batches = take(spec.clone(), (3 * count).div_ceil(spec.batch_size));
        let order = numbers(&batches);
        for epoch in order.chunks_exact(count) {
            assert_eq!(epoch.iter().collect::<HashSet<_>>().len(), count);
        }
        let plan = Plan::global(count);
        let promised = (0..order.len()).map(|position| plan.at(seed, position as u64));
        assert!(order.iter().copied().eq(promised));
        if count > 10 {
            assert_ne!(order[..count], order[count..2 * count]);
        }
    }
}

#[test]
fn rows_of_a_batch_belong_together() {
    let tokenizer = tokenizer();
    let mut spec = spec(Numbers::new(100), &tokenizer);
    spec.batch_size = 7;
    spec.mask = Some(MaskSpec::default());
    spec.further = vec![FurtherText::Tags];
    let mut forms = HashSet::new();
    for batch in take(spec, 40) {
        let images = batch.images.as_ref().unwrap();
        let texts = batch.texts.as_ref().unwrap();
        let masked = texts.masked.as_ref().unwrap();
        let tags = &batch.further_texts["tags"];
        assert_eq!(
            (images.height, images.width, images.pixels.len()),
            (1, 1, 21)
        );
        assert_eq!(texts.ids.len(), 7 * texts.length);
        assert_eq!(texts.length, *texts.lengths.iter().max().unwrap());
        for (row, name) in batch.samples.iter().enumerate() {
            let index: usize = name.trim_start_matches("numbers:").parse().unwrap();
            let value = images.pixels[row * 3];
            assert_eq!(usize::from(value), index);
            let cut = |ids: &[i32]| ids[row * texts.length..(row + 1) * texts.length].to_vec();
            let ids = cut(&texts.ids);
            let text = tokenizer.decode(&ids);
            assert!(
                text == format!("number {index}") || text == format!("{index} as number"),
                "{text}"
            );
            forms.insert(text.starts_with('n'));
            assert!(
                ids[texts.lengths[row]..]
                    .iter()
                    .all(|id| *id == tokenizer.specials().pad)
            );
            let (seen, labels) = (cut(&masked.ids), cut(&masked.labels));
            assert!(labels.iter().any(|label| *label != MaskedTexts::IGNORE));
            for ((seen, label), id) in seen.iter().zip(labels).zip(ids) {
                match label {
                    MaskedTexts::IGNORE => assert_eq!(*seen, id),
                    label => assert_eq!(label, id),
                }
            }
            let tag = &tags.ids[row * tags.length..(row + 1) * tags.length];
            assert_eq!(tokenizer.decode(tag), format!("tag {index}"));
        }
    }
    assert_eq!(forms.len(), 2, "both captions take their turns");
}

#[test]
fn broken_samples_are_replaced_and_listed_once() {
    let tokenizer = tokenizer();
    let source = Numbers {
        broken: |index| index % 10 == 0,
        ..Numbers::new(100)
    };
    let mut spec = spec(source, &tokenizer);
    spec.workers = 3;
    let skip = Arc::clone(&spec.skip);
    let order = numbers(&take(spec, 100));
    assert!(order.iter().all(|index| index % 10 != 0));
    // Threads may have looked ahead, but never beyond the broken ones.
    assert_eq!(skip.count(), 10);
}

#[test]
fn too_many_broken_samples_are_an_error() {
    let tokenizer = tokenizer();
    let source = Numbers {
        broken: |index| index % 10 == 0,
        ..Numbers::new(100)
    };
    let mut spec = spec(source, &tokenizer);
    spec.skip = Arc::new(SkipList::in_memory(0.05));
    let mut loader = Loader::new(spec).unwrap();
    let error = loader.find_map(Result::err).unwrap();
    assert!(
        matches!(
            error,
            DataError::TooManySkipped {
                skipped: 6,
                items: 100,
                ..
            }
        ),
        "{error}"
    );
    assert!(loader.next().is_none());
}

#[test]
fn a_split_without_a_usable_sample_is_an_error() {
    let tokenizer = tokenizer();
    let all_broken = Numbers {
        broken: |_| true,
        ..Numbers::new(5)
    };
    let error = Loader::new(spec(all_broken, &tokenizer))
        .unwrap()
        .next()
        .unwrap()
        .unwrap_err();
    assert!(matches!(error, DataError::Empty { .. }), "{error}");
    assert!(Loader::new(spec(Numbers::new(0), &tokenizer)).is_err());
    for change in [
        |spec: &mut LoaderSpec| spec.batch_size = 0,
        |spec: &mut LoaderSpec| spec.workers = 0,
        |spec: &mut LoaderSpec| spec.prefetch = 0,
    ] {
        let mut spec = spec(Numbers::new(5), &tokenizer);
        change(&mut spec);
        assert!(matches!(Loader::new(spec), Err(DataError::Config { .. })));
    }
}

#[test]
fn a_panic_in_a_thread_is_an_error_and_dropping_never_hangs() {
    let tokenizer = tokenizer();
    for workers in 1..4 {
        let source = Numbers {
            panics_at: Some(3),
            ..Numbers::new(20)
        };
        let mut spec = spec(source, &tokenizer);
        spec.workers = workers;
        let mut loader = Loader::new(spec).unwrap();
        let error = loader.find_map(Result::err).unwrap();
        assert!(error.to_string().contains("a bug in a source"), "{error}");
        assert!(loader.next().is_none());
    }
    for taken in 0..5 {
        let mut spec = spec(Numbers::new(20), &tokenizer);
        spec.workers = 4;
        spec.prefetch = 9;
        assert_eq!(Loader::new(spec).unwrap().take(taken).count(), taken);
    }
}

#[test]
fn a_far_batch_comes_as_fast_as_the_first() {
    let tokenizer = tokenizer();
    let mut spec = spec(Numbers::new(1_000_000_007), &tokenizer);
    spec.first_batch = 1 << 40;
    let mut loader = Loader::new(spec).unwrap();
    assert_eq!(loader.next().unwrap().unwrap().samples.len(), 4);
    assert_eq!(loader.next_batch(), (1 << 40) + 1);
    assert!(loader.wait_seconds() >= loader.last_wait_seconds());
}

/// A folder with good and bad images and a list of them. Returns the list's path and the bad lines.
fn bad_data(folder: &Path) -> (DataConfig, BTreeMap<u64, &'static str>) {
    let picture = |value: u8| RgbImage::from_fn(40, 30, |x, y| Rgb([value, x as u8, y as u8]));
    let mut bytes = std::io::Cursor::new(Vec::new());
    picture(200)
        .write_to(&mut bytes, image::ImageFormat::Jpeg)
        .unwrap();
    let jpeg = bytes.into_inner();
    let mut lines: Vec<Vec<u8>> = Vec::new();
    let mut bad = BTreeMap::new();
    let good = |lines: &mut Vec<Vec<u8>>, n: u8| {
        let name = format!("good{n}.png");
        picture(n).save(folder.join(&name)).unwrap();
        lines.push(format!("{{\"image\": \"{name}\", \"caption\": \"good {n}\"}}").into());
    };
    for n in 0..10 {
        good(&mut lines, n);
    }
    for (name, content, reason) in [
        ("truncated.jpg", &jpeg[..jpeg.len() / 2], "truncated"),
        ("zero.jpg", &[][..], "empty"),
        ("text.jpg", b"<html>not found</html>", "not a JPEG"),
        ("bomb.png", &bomb(), "max_pixels"),
    ] {
        std::fs::write(folder.join(name), content).unwrap();
        lines.push(format!("{{\"image\": \"{name}\", \"caption\": \"x\"}}").into());
        bad.insert(lines.len() as u64, reason);
    }
    // A JPEG named PNG is read as JPEG, and an over-long text is cut: neither is skipped.
    std::fs::write(folder.join("mislabelled.png"), &jpeg).unwrap();
    let long = "word ".repeat(20_000);
    lines.push(format!("{{\"image\": \"mislabelled.png\", \"caption\": \"{long}\"}}").into());
    for (line, reason) in [
        (
            &b"{\"image\": \"missing.jpg\", \"caption\": \"x\"}"[..],
            "missing.jpg",
        ),
        (
            b"{\"image\": \"http://a/b.jpg\", \"caption\": \"x\"}",
            "local files",
        ),
        (
            b"{\"image\": \"good1.png\", \"caption\": \" \"}",
            "empty text",
        ),
        (
            b"{\"image\": \"good1.png\", \"caption\": \"\xff\"}",
            "UTF-8",
        ),
        (b"{\"image\": \"good1.png\", ", "malformed"),
        (&vec![b'x'; 2 << 20], "longer than"),
    ] {
        lines.push(line.to_vec());
        bad.insert(lines.len() as u64, reason);
    }
    for n in 10..20 {
        good(&mut lines, n);
    }
    let path = folder.join("list.jsonl");
    std::fs::write(&path, lines.join(&b'\n')).unwrap();
    let mut pairs = PairsConfig::new(path);
    pairs.val_fraction = 0.0;
    let config = DataConfig {
        source: SourceKind::Pairs,
        image_size: 16,
        max_text_length: 12,
        max_skipped: 1.0,
        pairs: Some(pairs),
        tokenizer: TokenizerConfig::Train { vocab_size: 300 },
        ..DataConfig::default()
    };
    (config, bad)
}

/// A PNG header that declares 60,000 x 60,000 pixels, with a valid checksum.
fn bomb() -> Vec<u8> {
    let mut chunk = b"IHDR".to_vec();
    chunk.extend(60_000u32.to_be_bytes());
    chunk.extend(60_000u32.to_be_bytes());
    chunk.extend([8, 2, 0, 0, 0]);
    let mut crc = !0u32;
    for byte in &chunk {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg());
        }
    }
    let mut bytes = b"\x89PNG\r\n\x1a\n\0\0\0\x0d".to_vec();
    bytes.extend(chunk);
    bytes.extend((!crc).to_be_bytes());
    bytes.extend(b"\0\0\0\0IDAT\x35\xaf\x06\x1e");
    bytes
}

#[test]
fn bad_files_and_lines_are_listed_once_and_training_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let (config, bad) = bad_data(folder.path());
    let list = folder.path().join("skipped.jsonl");
    for run in 0..2 {
        let source = open(&config).unwrap();
        let tokenizer = Arc::new(TextTokenizer::open(&config.tokenizer, &*source).unwrap());
        let skip = Arc::new(SkipList::open(&list, config.max_skipped).unwrap());
        let mut spec = LoaderSpec::new(
            &config,
            source,
            tokenizer,
            skip,
            Batches { size: 5, seed: 3 },
        );
        spec.workers = 2;
        spec.first_batch = run * 20;
        let mut seen = HashSet::new();
        for batch in Loader::new(spec).unwrap().take(20) {
            let batch = batch.unwrap();
            assert_eq!(batch.samples.len(), 5);
            assert!(batch.texts.unwrap().length <= config.max_text_length);
            seen.extend(batch.samples);
        }
        assert_eq!(seen.len(), 21);
        let text = std::fs::read_to_string(&list).unwrap();
        let listed: Vec<SampleError> = text
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(listed.len(), bad.len(), "{text}");
        for (line, part) in &bad {
            let entry = listed
                .iter()
                .find(|entry| entry.place.line == *line)
                .unwrap();
            assert!(entry.reason.contains(part), "{entry}");
            assert!(entry.place.file.ends_with("list.jsonl"));
        }
    }
}

#[test]
fn an_evaluation_set_leaves_broken_pictures_out_with_their_captions() {
    let folder = tempfile::tempdir().unwrap();
    let (config, bad) = bad_data(folder.path());
    let source = open(&config).unwrap();
    let tokenizer = TextTokenizer::open(&config.tokenizer, &*source).unwrap();
    let skip = SkipList::in_memory(1.0);
    let new = |limit, skip| {
        EvalSet::new(
            Arc::clone(&source),
            &[Split::Train],
            limit,
            config.image_spec(),
            skip,
        )
    };
    let set = new(None, &skip).unwrap();
    assert_eq!((set.items().len(), set.captions().len()), (21, 21));
    assert_eq!(skip.count(), bad.len());
    for (number, item) in set.items().iter().enumerate() {
        assert!(
            set.captions()[item.captions.clone()]
                .iter()
                .all(|caption| caption.image == number)
        );
        assert!(
            item.name
                .ends_with(&format!(":{}", source.place(Split::Train, item.index).line))
        );
    }
    let all = set.images(0..100).unwrap();
    let some = set.images(12..15).unwrap();
    let one = 3 * 16 * 16;
    assert_eq!(all.pixels.len(), 21 * one);
    assert_eq!(all.pixels[12 * one..15 * one], some.pixels);
    assert_eq!(set.picture(12).unwrap().unwrap().dimensions(), (40, 30));
    let texts = set.texts(11..13, &tokenizer, 10, Pad::Longest).unwrap();
    assert_eq!(tokenizer.decode(&texts.ids[..texts.lengths[0]]), "good 10");
    assert!(
        set.texts(100..200, &tokenizer, 10, Pad::Longest)
            .unwrap()
            .ids
            .is_empty()
    );
    assert!(set.picture(21).is_err());

    // A limit counts usable images. They are drawn from all of them, always the same, and keep their order and captions.
    assert_eq!(set.label(), "train");
    for (part, label) in [
        (new(Some(13), &skip).unwrap(), "train, 13 of "),
        (set.part(13), "train, 13 of 21 images at random"),
    ] {
        let indices = |set: &EvalSet| set.items().iter().map(|i| i.index).collect::<Vec<_>>();
        assert_eq!(part.items().len(), 13);
        assert!(indices(&part).is_sorted());
        assert_ne!(indices(&part), indices(&set)[..13]);
        assert_ne!(indices(&part), indices(&set)[21 - 13..]);
        for (number, item) in part.items().iter().enumerate() {
            let whole = set.items().iter().find(|i| i.index == item.index).unwrap();
            assert_eq!(item.name, whole.name);
            let texts = |set: &EvalSet, item: &Item| {
                let captions = &set.captions()[item.captions.clone()];
                captions.iter().map(|c| c.text.clone()).collect::<Vec<_>>()
            };
            assert_eq!(texts(&part, item), texts(&set, whole));
            assert!(
                part.captions()[item.captions.clone()]
                    .iter()
                    .all(|c| c.image == number)
            );
        }
        assert!(part.label().starts_with(label), "{}", part.label());
    }
    assert_eq!(
        new(Some(13), &skip).unwrap().items(),
        new(Some(13), &skip).unwrap().items()
    );
    assert_eq!(set.part(21).items(), set.items());
    assert!(matches!(
        new(None, &SkipList::in_memory(0.1)),
        Err(DataError::TooManySkipped { .. })
    ));
    assert!(matches!(
        EvalSet::new(
            Arc::clone(&source),
            &[Split::Val],
            None,
            config.image_spec(),
            &skip
        ),
        Err(DataError::Empty { .. })
    ));
}

#[test]
fn real_textbook_figures_load() {
    let Some(shared) = shared::shared("real_textbook_figures_load") else {
        return;
    };
    let mut pairs = PairsConfig::new(shared.join("data/openstax_ccby/pairs.jsonl"));
    pairs.text_columns = vec!["alt".to_owned()];
    pairs.filter = [("alt_lang".to_owned(), "en".to_owned())].into();
    let config = DataConfig {
        source: SourceKind::Pairs,
        image_size: 64,
        pairs: Some(pairs),
        tokenizer: TokenizerConfig::File {
            path: shared.join("tokenizers/roberta"),
            lowercase: false,
        },
        ..DataConfig::default()
    };
    let source = open(&config).unwrap();
    let text = std::fs::read_to_string(shared.join("data/openstax_ccby/pairs.jsonl")).unwrap();
    let rows = text
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    let (with_text, without): (Vec<_>, Vec<_>) = rows
        .filter(|row| row["alt_lang"] == "en")
        .partition(|row| !row["alt"].as_str().unwrap().trim().is_empty());
    assert!(with_text.len() > 3000);
    assert_eq!(
        source.len(Split::Train) + source.len(Split::Val),
        with_text.len()
    );
    assert_eq!(source.rejected().len(), without.len());
    assert!(
        source
            .rejected()
            .iter()
            .all(|error| error.reason.contains("empty text"))
    );
    let tokenizer = Arc::new(TextTokenizer::open(&config.tokenizer, &*source).unwrap());
    let skip = Arc::new(SkipList::in_memory(0.05));
    let mut spec = LoaderSpec::new(
        &config,
        Arc::clone(&source),
        tokenizer,
        Arc::clone(&skip),
        Batches { size: 64, seed: 1 },
    );
    let epoch = source.len(Split::Train);
    spec.workers = 2;
    let names: HashSet<_> = Loader::new(spec)
        .unwrap()
        .take(epoch.div_ceil(64))
        .flat_map(|batch| batch.unwrap().samples)
        .collect();
    assert_eq!(names.len(), epoch);
    // Every image of an epoch could be read.
    assert_eq!(skip.count(), without.len());
}

#[test]
fn published_tokenizers_give_their_published_ids() {
    let Some(shared) = shared::shared("published_tokenizers_give_their_published_ids") else {
        return;
    };
    let folder = shared.join("tokenizers");
    let roberta = TextTokenizer::load(&folder.join("roberta"), false).unwrap();
    let from_vocab = TextTokenizer::load(&folder.join("roberta/vocab.json"), false).unwrap();
    for tokenizer in [&roberta, &from_vocab] {
        assert_eq!(tokenizer.vocab_size(), 50_265);
        // The ids given in Hugging Face's documentation of RoBERTa.
        assert_eq!(tokenizer.encode("Hello world", 9).ids, [0, 31414, 232, 2]);
        assert_eq!(tokenizer.specials().mask, Some(50_264));
    }
    for text in [
        "A map shows naïve routes – № 5.",
        "",
        "<mask> </s>",
        "  spaces   here ",
    ] {
        assert_eq!(roberta.encode(text, 50), from_vocab.encode(text, 50));
    }
    let bert = TextTokenizer::load(&folder.join("bert"), true).unwrap();
    assert_eq!(bert.vocab_size(), 30_522);
    assert_eq!(
        bert.encode("Hello, world!", 9).ids,
        [101, 7592, 1010, 2088, 999, 102]
    );
    assert_eq!(bert.specials().mask, Some(103));
}

/// Batches of a source of files that lie in a folder.
fn of_files(folder: &Path, source: &str, batches: usize) -> Vec<Batch> {
    let text = format!("image_size = 8\n{source}");
    let mut config: DataConfig = toml::from_str(&text).unwrap();
    config.rebase(folder);
    let source = open(&config).unwrap();
    let skip = Arc::new(SkipList::in_memory(0.0));
    let mut spec = LoaderSpec::new(
        &config,
        source,
        tokenizer(),
        skip,
        Batches { size: 4, seed: 3 },
    );
    spec.workers = 1;
    take(spec, batches)
}

fn pictures(folder: &Path, names: &[&str]) {
    for (shade, name) in (0u8..).zip(names) {
        let shade = 40 * shade;
        RgbImage::from_pixel(9, 7, Rgb([shade, 255 - shade, 90]))
            .save(folder.join(name))
            .unwrap();
    }
}

#[test]
fn a_batch_says_which_pictures_are_the_same() {
    let folder = tempfile::tempdir().unwrap();
    pictures(folder.path(), &["a.png", "b.png"]);
    // The path of one image is spelt in two ways, and the batch is larger than the data set.
    let list = "{\"image\": \"a.png\", \"caption\": \"number one\"}\n\
                {\"image\": \"b.png\", \"caption\": \"number two\"}\n\
                {\"image\": \"./a.png\", \"caption\": \"number three\"}\n";
    std::fs::write(folder.path().join("list.jsonl"), list).unwrap();
    let lists = "source = \"pairs\"\n[pairs]\npath = \"list.jsonl\"\nval_fraction = 0.0\n";
    for batch in of_files(folder.path(), lists, 5) {
        assert_eq!(batch.pictures.len(), 4);
        for (name, picture) in batch.samples.iter().zip(&batch.pictures) {
            for (other, same) in batch.samples.iter().zip(&batch.pictures) {
                assert_eq!(name == other, picture == same);
            }
        }
        let texts = batch.texts.unwrap();
        assert!(texts.roles.is_empty() && texts.describes(0));
        assert!(batch.second_images.is_none());
    }
}

#[test]
fn a_batch_says_what_its_texts_are_and_carries_second_pictures() {
    let folder = tempfile::tempdir().unwrap();
    let files = ["a.png", "dev-1-0-img0.png", "dev-1-0-img1.png"];
    pictures(folder.path(), &files);
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    write("q.json", r#"[["what number?", "one", "a"]]"#);
    write(
        "n.json",
        r#"{"sentence": "both are numbers", "label": "False", "identifier": "dev-1-0-0"}"#,
    );
    write(
        "s.jsonl",
        r#"{"Flickr30K_ID": "a", "gold_label": "entailment", "sentence2": "a number"}"#,
    );
    std::fs::copy(folder.path().join("a.png"), folder.path().join("a.jpg")).unwrap();
    let part = |kind: &str, part: &str| {
        format!(
            "source = \"{kind}\"\n[{kind}]\nval_fraction = 0.0\n[{kind}.train]\nimages = \".\"\n{part}\n"
        )
    };
    let questions = part("vqa", "questions = \"q.json\"\nimage = \"{id}.png\"");
    let statements = part("nlvr", "path = \"n.json\"");
    let hypotheses = part("snli_ve", "path = \"s.jsonl\"");
    for (source, role, pair) in [
        (questions, TextRole::Question, false),
        (statements, TextRole::Statement { holds: false }, true),
        (
            hypotheses,
            TextRole::Hypothesis(Entailment::Entailed),
            false,
        ),
    ] {
        for batch in of_files(folder.path(), &source, 1) {
            let texts = batch.texts.unwrap();
            assert_eq!(texts.roles, [role; 4]);
            assert!(!texts.describes(0));
            let first = batch.images.unwrap();
            match batch.second_images {
                Some(second) => {
                    assert!(pair && second.pixels.len() == first.pixels.len());
                    assert_ne!(second.pixels, first.pixels);
                }
                None => assert!(!pair),
            }
        }
    }
}

/// A batch that is asked for references holds every caption of each image, whichever of them it reads.
#[test]
fn references_are_all_captions_of_an_image() {
    let tokenizer = tokenizer();
    let plain = take(spec(Numbers::new(9), &tokenizer), 2);
    assert!(plain.iter().all(|batch| batch.references.is_empty()));
    let mut asked = spec(Numbers::new(9), &tokenizer);
    asked.references = true;
    let batches = take(asked, 2);
    for (batch, number) in batches.iter().flat_map(|b| (0..4).map(move |row| (b, row))) {
        let index = numbers(std::slice::from_ref(batch))[number];
        let of = |text: String| tokenizer.encode(&text, 32).ids;
        let expected = [
            of(format!("number {index}")),
            of(format!("{index} as number")),
        ];
        assert_eq!(batch.references[number], expected);
    }
    // Nothing else changes.
    let without = |batch: &Batch| Batch {
        references: Vec::new(),
        ..batch.clone()
    };
    assert_eq!(batches.iter().map(without).collect::<Vec<_>>(), plain);
}

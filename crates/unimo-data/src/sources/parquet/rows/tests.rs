use std::collections::HashSet;
use std::io::Cursor;
use std::path::Path;
use std::sync::{Arc, Mutex};

use arrow_array::builder::{ListBuilder, StringBuilder};
use arrow_array::{
    ArrayRef, BinaryArray, BooleanArray, Float64Array, Int32Array, RecordBatch, StringArray,
    StructArray, UInt8Array,
};
use arrow_schema::{DataType, Field, Fields};
use image::{ImageFormat, Rgb};
use parquet::arrow::ArrowWriter;
use parquet::basic::Compression;
use parquet::file::properties::WriterProperties;

use super::*;
use crate::sources::parquet::table::read_file;
use crate::sources::source::SourceConfig;
use crate::store::Object;

const LIMITS: Limits = Limits::full_size(1_000_000);

fn png(shade: u8) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    RgbImage::from_pixel(3, 2, Rgb([shade; 3]))
        .write_to(&mut bytes, ImageFormat::Png)
        .unwrap();
    bytes.into_inner()
}

/// Rows `first..last` as on the hub: the image in a struct, and a list of captions.
fn batch(first: u8, last: u8) -> RecordBatch {
    let numbers: Vec<u8> = (first..last).collect();
    let pictures: Vec<Vec<u8>> = numbers.iter().map(|n| png(*n)).collect();
    let pictures: ArrayRef = Arc::new(BinaryArray::from_iter_values(pictures));
    let paths = numbers.iter().map(|n| format!("{n}.png"));
    let paths: ArrayRef = Arc::new(StringArray::from_iter_values(paths));
    let fields = Fields::from(vec![
        Field::new("bytes", DataType::Binary, true),
        Field::new("path", DataType::Utf8, true),
    ]);
    let image = StructArray::new(fields, vec![pictures, paths], None);
    let mut captions = ListBuilder::new(StringBuilder::new());
    for number in &numbers {
        captions.values().append_value(format!("number {number}"));
        captions.values().append_value(" a  shade ");
        captions.append(true);
    }
    let ids = Int32Array::from_iter_values(numbers.iter().map(|n| i32::from(*n)));
    RecordBatch::try_from_iter([
        ("image", Arc::new(image) as ArrayRef),
        ("caption", Arc::new(captions.finish())),
        ("id", Arc::new(ids)),
    ])
    .unwrap()
}

fn write(path: &Path, batch: &RecordBatch, paged: bool, group: usize) {
    let properties = WriterProperties::builder()
        .set_compression(Compression::SNAPPY)
        .set_max_row_group_row_count(Some(group))
        .set_data_page_row_count_limit(3)
        .set_write_batch_size(1)
        .set_offset_index_disabled(!paged)
        .set_statistics_enabled(parquet::file::properties::EnabledStatistics::None)
        .build();
    let file = std::fs::File::create(path).unwrap();
    let mut writer = ArrowWriter::try_new(file, batch.schema(), Some(properties)).unwrap();
    writer.write(batch).unwrap();
    writer.close().unwrap();
}

fn config(path: &Path) -> ParquetConfig {
    ParquetConfig {
        path: Some(path.to_owned()),
        val_fraction: 0.0,
        ..ParquetConfig::default()
    }
}

fn open(config: &ParquetConfig) -> Result<Rows, DataError> {
    config.validate("data.parquet")?;
    Rows::open(config, &LIMITS)
}

fn all(source: &Rows, split: Split) -> Vec<(Vec<String>, u8)> {
    (0..source.len(split))
        .map(|at| {
            let picture = source.image(split, at).unwrap().unwrap();
            let captions = source.captions(split, at).unwrap();
            (captions, picture.get_pixel(0, 0).0[0])
        })
        .collect()
}

fn numbers(range: std::ops::Range<u8>) -> Vec<(Vec<String>, u8)> {
    range
        .map(|n| (vec![format!("number {n}"), "a shade".to_owned()], n))
        .collect()
}

#[test]
fn rows_are_read_in_order_with_and_without_a_page_index() {
    for paged in [true, false] {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        write(
            &at("train-00000-of-00002.parquet"),
            &batch(0, 50),
            paged,
            20,
        );
        write(
            &at("train-00001-of-00002.parquet"),
            &batch(50, 60),
            paged,
            20,
        );
        write(
            &at("validation-00000-of-00001.parquet"),
            &batch(90, 95),
            paged,
            20,
        );
        write(&at("trained.parquet"), &batch(0, 5), paged, 20);
        let source = open(&config(folder.path())).unwrap();
        let index = source.files[0].metadata.metadata().page_index();
        assert_eq!(index.is_some(), paged);
        assert_eq!(all(&source, Split::Train), numbers(0..60));
        assert_eq!(all(&source, Split::Val), numbers(90..95));
        assert_eq!(source.shards(Split::Train), [20, 20, 10, 10]);
        assert_eq!(source.place(Split::Train, 51).line, 2);
        for index in [0, 59, 30, 45, 0, 20, 51] {
            let picture = source.image(Split::Train, index).unwrap().unwrap();
            assert_eq!(usize::from(picture.get_pixel(0, 0).0[0]), index);
        }
        let (bytes, kind) = source.image_bytes(Split::Train, 7).unwrap().unwrap();
        assert_eq!((bytes, kind), (png(7), "png"));
    }
}

#[test]
fn binary_columns_plain_strings_and_what_is_missing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.parquet");
    let picture = images::jpeg(&RgbImage::from_pixel(32, 16, Rgb([90; 3]))).unwrap();
    let images = BinaryArray::from_iter([Some(&*picture), None, Some(b"no image"), None]);
    let texts = StringArray::from_iter([Some("one"), Some("two"), Some("three"), None]);
    let batch = RecordBatch::try_from_iter([
        ("jpg", Arc::new(images) as ArrayRef),
        ("text", Arc::new(texts)),
    ])
    .unwrap();
    write(&path, &batch, true, 100);
    let plain = ParquetConfig {
        path: None,
        train: vec![path],
        image_column: "jpg".to_owned(),
        text_columns: vec!["text".to_owned()],
        ..config(folder.path())
    };
    let source = open(&plain).unwrap();
    assert_eq!((source.len(Split::Train), source.items()), (3, 4));
    assert_eq!(source.rejected()[0].place.line, 4);
    let scaled = Limits {
        enough: Some(8),
        ..LIMITS
    };
    for (limits, size) in [(LIMITS, (32, 16)), (scaled, (16, 8))] {
        let source = Rows::open(&plain, &limits).unwrap();
        let picture = source.image(Split::Train, 0).unwrap().unwrap();
        assert_eq!(picture.dimensions(), size);
    }
    for (index, part) in [(1, "no image in it"), (2, "not a JPEG")] {
        let error = source.image(Split::Train, index).unwrap_err();
        assert!(error.reason.contains(part), "{error}");
        assert_eq!(error.place.line, index as u64 + 1);
    }
    let mut texts = plain.clone();
    texts.images = false;
    let texts = open(&texts).unwrap();
    assert_eq!((texts.offers().images, texts.len(Split::Train)), (false, 3));
    assert_eq!(texts.image(Split::Train, 0).unwrap(), None);
}

/// Pages of any size give the same images, in any order. Each is decoded once while there is room.
#[test]
fn pages_are_kept_whatever_their_size() {
    let folder = tempfile::tempdir().unwrap();
    let all: Vec<u8> = (0..60).collect();
    for (rows_of_page, group, dictionary, paged) in [
        (1000, 1000, false, false),
        (1000, 1000, true, false),
        (7, 1000, true, false),
        (7, 1000, false, true),
        (1, 10, false, false),
    ] {
        let path = folder.path().join("train-0.parquet");
        let properties = WriterProperties::builder()
            .set_compression(Compression::SNAPPY)
            .set_dictionary_enabled(dictionary)
            .set_max_row_group_row_count(Some(group))
            .set_data_page_row_count_limit(rows_of_page)
            .set_write_batch_size(1)
            .set_offset_index_disabled(!paged)
            .set_statistics_enabled(parquet::file::properties::EnabledStatistics::None)
            .build();
        let batch = batch(0, 60);
        let file = std::fs::File::create(&path).unwrap();
        let mut writer = ArrowWriter::try_new(file, batch.schema(), Some(properties)).unwrap();
        writer.write(&batch).unwrap();
        writer.close().unwrap();
        let source = open(&config(folder.path())).unwrap();
        let pages = source.files[0].pages(0, 0).unwrap().len();
        let expected = 60usize.min(group).div_ceil(rows_of_page);
        assert_eq!(pages, expected, "{rows_of_page}, {dictionary}, {paged}");
        for at in (0..60).map(|at| at * 37 % 60) {
            let picture = source.image(Split::Train, at).unwrap().unwrap();
            assert_eq!(picture.get_pixel(0, 0).0[0], all[at]);
        }
    }
}

/// An object that cannot be read from some byte on.
struct Broken {
    inner: crate::store::InMemory,
    error: Mutex<Option<ReadError>>,
}

impl Object for Broken {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn size(&self) -> u64 {
        self.inner.size()
    }

    fn read(&self, offset: u64, length: usize) -> Result<Vec<u8>, ReadError> {
        match &*self.error.lock().unwrap() {
            Some(error) => Err(error.clone()),
            None => self.inner.read(offset, length),
        }
    }
}

/// A failing disk says nothing about the file, wherever it fails. The images are there when it works again.
#[test]
fn what_cannot_be_read_now_is_not_damaged() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.parquet");
    write(&path, &batch(0, 12), false, 5);
    let object = Arc::new(Broken {
        inner: crate::store::InMemory {
            name: "a".to_owned(),
            bytes: std::fs::read(&path).unwrap(),
        },
        error: Mutex::new(None),
    });
    let fails = |error: Option<std::io::Error>| {
        *object.error.lock().unwrap() = error.map(ReadError::from);
    };
    let config = config(folder.path());
    fails(Some(std::io::Error::from_raw_os_error(5)));
    let error = read_file(Arc::clone(&object) as Arc<dyn Object>, &config)
        .err()
        .unwrap();
    assert!(error.is_unavailable(), "{error}");
    fails(None);
    let (table, _) = read_file(Arc::clone(&object) as Arc<dyn Object>, &config).unwrap();
    for work in [0, 1] {
        fails(Some(std::io::Error::from_raw_os_error(24)));
        let read = |row| match work {
            0 => table.pages(0, 0).map(|pages| pages.len()),
            _ => {
                let rows = table
                    .chunks
                    .caught(|chunks| table.rows(chunks, 0, 0, row, 1));
                rows.map(|rows| rows.len())
            }
        };
        let error = read(2).unwrap_err();
        assert!(error.is_unavailable(), "{error}");
        fails(None);
        assert!(read(2).unwrap() > 0);
    }
}

#[test]
fn a_name_with_a_dot_and_each_compression() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.parquet");
    let whole = batch(0, 9);
    let renamed = RecordBatch::try_from_iter([
        ("img.data", Arc::clone(whole.column(0))),
        ("caption", Arc::clone(whole.column(1))),
    ])
    .unwrap();
    let config = ParquetConfig {
        path: None,
        train: vec![path.clone()],
        image_column: "img.data".to_owned(),
        ..config(folder.path())
    };
    for compression in [
        Compression::UNCOMPRESSED,
        Compression::SNAPPY,
        Compression::ZSTD(Default::default()),
        Compression::GZIP(Default::default()),
    ] {
        let properties = WriterProperties::builder()
            .set_compression(compression)
            .build();
        let file = std::fs::File::create(&path).unwrap();
        let mut writer = ArrowWriter::try_new(file, renamed.schema(), Some(properties)).unwrap();
        writer.write(&renamed).unwrap();
        writer.close().unwrap();
        let source = open(&config).unwrap();
        assert_eq!(all(&source, Split::Train), numbers(0..9), "{compression}");
    }
    let mut strings = config;
    strings.image_column = "caption".to_owned();
    let message = open(&strings).err().unwrap().to_string();
    assert!(message.contains("neither binary nor"), "{message}");
}

#[test]
fn a_share_is_held_out_where_no_file_is() {
    let folder = tempfile::tempdir().unwrap();
    write(
        &folder.path().join("train-0.parquet"),
        &batch(0, 200),
        true,
        50,
    );
    let mut share = config(folder.path());
    share.val_fraction = 0.25;
    let source = open(&share).unwrap();
    // Five standard deviations of a binomial with n = 200 and p = 0.25.
    const TOLERANCE: usize = 31;
    assert!(source.len(Split::Val).abs_diff(50) < TOLERANCE);
    let mut rows = all(&source, Split::Train);
    rows.extend(all(&source, Split::Val));
    rows.sort_by_key(|(_, number)| *number);
    assert_eq!(rows, numbers(0..200));
}

#[test]
fn rows_of_a_picture_are_of_one_split() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["train-0.parquet", "train-1.parquet"] {
        write(&folder.path().join(name), &batch(0, 120), true, 50);
    }
    let mut share = config(folder.path());
    share.val_fraction = 0.25;
    let shades = |config: &ParquetConfig| {
        let source = open(config).unwrap();
        let of = |split| -> HashSet<u8> {
            all(&source, split)
                .into_iter()
                .map(|(_, shade)| shade)
                .collect()
        };
        let (train, val) = (of(Split::Train), of(Split::Val));
        assert!(!val.is_empty() && train.len() + val.len() >= 120);
        train.intersection(&val).count()
    };
    assert_eq!(shades(&share), 0);
    for (told_by, leaks) in [("content", false), ("id", false), ("row", true)] {
        share.picture_id = Some(told_by.to_owned());
        assert_eq!(shades(&share) > 0, leaks, "{told_by}");
    }
    // Rows of held-out files are grouped by image too: captions are retrieved for images, not for rows.
    std::fs::rename(
        folder.path().join("train-1.parquet"),
        folder.path().join("test-1.parquet"),
    )
    .unwrap();
    std::fs::copy(
        folder.path().join("test-1.parquet"),
        folder.path().join("test-2.parquet"),
    )
    .unwrap();
    let divided = open(&config(folder.path())).unwrap();
    assert_eq!(
        (divided.len(Split::Train), divided.len(Split::Test)),
        (120, 240)
    );
    assert!(divided.facts(Split::Test).repeats_pictures);
    let of = |index| divided.picture_id(Split::Test, index).unwrap();
    assert!(of(7) == of(127) && of(7) != of(8));
    std::fs::rename(
        folder.path().join("test-1.parquet"),
        folder.path().join("train-1.parquet"),
    )
    .unwrap();
    std::fs::remove_file(folder.path().join("test-2.parquet")).unwrap();
    let source = open(&config(folder.path())).unwrap();
    let id = |index| source.sample(Split::Train, index).unwrap().picture_id;
    assert!(id(7) == id(127) && id(7) != id(8));
    share.picture_id = Some("absent".to_owned());
    let message = open(&share).err().unwrap().to_string();
    assert!(message.contains("no column `absent`"), "{message}");
}

#[test]
fn files_and_folders_that_are_called_as_splits_are_splits() {
    let folder = tempfile::tempdir().unwrap();
    for (name, first, last) in [
        ("data/train-00000-of-00001.parquet", 0, 5),
        ("data/Validation-00000-of-00001.parquet", 5, 7),
        ("test/0000.parquet", 7, 9),
        ("odd/0000.parquet", 9, 12),
    ] {
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        write(&path, &batch(first, last), true, 20);
    }
    let source = open(&config(folder.path())).unwrap();
    assert_eq!(all(&source, Split::Train), numbers(0..5));
    assert_eq!(all(&source, Split::Val), numbers(5..7));
    assert_eq!(all(&source, Split::Test), numbers(7..9));
    let left = "1 files left out (1 called \"odd/0000.parquet\")";
    assert!(source.describe().contains(left), "{}", source.describe());
}

#[test]
fn what_cannot_be_read_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("train-0.parquet");
    let refused = |config: &ParquetConfig| open(config).err().unwrap().to_string();
    let message = refused(&config(folder.path()));
    assert!(message.contains("no .parquet file"), "{message}");
    std::fs::write(&path, b"PAR1 no parquet PAR1").unwrap();
    let message = refused(&config(folder.path()));
    assert!(message.contains("train-0.parquet"), "{message}");
    write(&path, &batch(0, 5), true, 50);
    type Change = fn(&mut ParquetConfig);
    let cases: [(&str, Change); 9] = [
        ("no column `picture`; there are image, caption, id", |c| {
            c.image_column = "picture".into();
        }),
        ("no column `text`", |c| c.text_columns = vec!["text".into()]),
        ("column `id` is Int32", |c| {
            c.text_columns = vec!["id".into()]
        }),
        ("`data.parquet.path`", |c| c.path = None),
        ("`data.parquet.path`", |c| c.train = vec!["x".into()]),
        ("`data.parquet.val`", |c| c.val = vec!["x".into()]),
        ("`data.parquet.text_columns`", |c| c.text_columns.clear()),
        ("`data.parquet.image_column`", |c| c.image_column.clear()),
        ("`data.parquet.val_fraction`", |c| c.val_fraction = 3.0),
    ];
    for (part, change) in cases {
        let mut config = config(folder.path());
        change(&mut config);
        let message = refused(&config);
        assert!(message.contains(part), "{message}");
    }
}

/// Reads everything that a damaged file still gives.
fn read_all(path: &Path) -> Result<(), DataError> {
    let rows = Rows::open(
        &ParquetConfig {
            path: None,
            train: vec![path.to_owned()],
            ..ParquetConfig::default()
        },
        &LIMITS,
    )?;
    for index in 0..rows.len(Split::Train) {
        // Broken rows are errors.
        let _ = rows.image(Split::Train, index);
    }
    Ok(())
}

/// Damage anywhere in a file is an error or costs single images. It never panics.
#[test]
fn damage_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("train-0.parquet");
    write(&path, &batch(0, 12), true, 5);
    let good = std::fs::read(&path).unwrap();
    let mut refused = 0;
    for at in (0..good.len()).step_by(23) {
        let mut damaged = good.clone();
        damaged[at] ^= 0x41;
        std::fs::write(&path, &damaged).unwrap();
        refused += usize::from(read_all(&path).is_err());
        std::fs::write(&path, &good[..at]).unwrap();
        assert!(read_all(&path).is_err(), "cut at {at}");
    }
    assert!(refused > 0);
}

/// pandas makes floats of whole numbers where some are absent, and narrow types where asked to.
#[test]
fn identifiers_of_any_type_of_number_tell_pictures() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("train-0.parquet");
    let numbers = 0..120u8;
    let columns: [(&str, ArrayRef); 3] = [
        (
            "narrow",
            Arc::new(UInt8Array::from_iter_values(numbers.clone())),
        ),
        (
            "float",
            Arc::new(Float64Array::from_iter_values(numbers.map(f64::from))),
        ),
        ("flag", Arc::new(BooleanArray::from(vec![true; 120]))),
    ];
    let rows = batch(0, 120);
    let own = rows.schema();
    let own = own.fields().iter().map(|field| field.name().clone());
    let own: Vec<(String, ArrayRef)> = own.zip(rows.columns().to_vec()).collect();
    let further = columns.map(|(name, column)| (name.to_owned(), column));
    let rows = RecordBatch::try_from_iter(own.into_iter().chain(further)).unwrap();
    write(&path, &rows, true, 50);
    let told = |column: &str| {
        let mut config = config(folder.path());
        config.val_fraction = 0.25;
        config.picture_id = Some(column.to_owned());
        let source = open(&config)?;
        let known = |row: &Row| row.picture.is_some();
        let parts = Split::ALL.map(|split| source.part(split).rows.iter().all(known));
        Ok::<_, DataError>(parts == [true; 3])
    };
    assert!(told("narrow").unwrap() && told("float").unwrap());
    let message = told("flag").unwrap_err().to_string();
    assert!(message.contains("`flag` is Boolean"), "{message}");
}

/// As some data sets on the hub: one file, whose rows say which split they are of.
#[test]
fn rows_may_say_which_split_they_are_of() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("test-0.parquet");
    let names = ["train", "Train", "restval", "val", "dev", "test", "extra"];
    let splits = names.map(Some).into_iter().chain([None]);
    let splits: ArrayRef = Arc::new(StringArray::from_iter(splits));
    let rows = batch(0, 8);
    let own = rows.schema();
    let own = own.fields().iter().map(|field| field.name().clone());
    let own: Vec<(String, ArrayRef)> = own.zip(rows.columns().to_vec()).collect();
    let all_columns = own.into_iter().chain([("Split".to_owned(), splits)]);
    let rows = RecordBatch::try_from_iter(all_columns).unwrap();
    write(&path, &rows, true, 50);
    // Without the setting the file's name counts, and a line says that the column does not.
    let source = open(&config(folder.path())).unwrap();
    assert_eq!(source.len(Split::Test), 8);
    let note = source.notes().pop().unwrap();
    assert!(note.contains("`Split` is not read"), "{note}");
    let mut told = config(folder.path());
    told.split_column = Some("Split".to_owned());
    told.val_fraction = 0.05;
    let source = open(&told).unwrap();
    assert_eq!(all(&source, Split::Train), numbers(0..3));
    assert_eq!(all(&source, Split::Val), numbers(3..5));
    let tested = [numbers(5..6), numbers(7..8)].concat();
    assert_eq!(all(&source, Split::Test), tested);
    let about = source.describe();
    assert!(
        about.contains("1 rows left out (1 of the split \"extra\")"),
        "{about}"
    );
    assert_eq!(source.left_out().into_values().sum::<u64>(), 1);
    told.split_column = Some("set".to_owned());
    let message = open(&told).err().unwrap().to_string();
    assert!(message.contains("no column `set`"), "{message}");
}

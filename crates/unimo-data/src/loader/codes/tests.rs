use std::fs;
use std::path::Path;

use npyz::WriterBuilder;

use super::*;
use crate::config::DataConfig;

fn table(folder: &Path, rows: u64, values: &[i32], index: &str) -> PathBuf {
    let path = folder.join("codes.npy");
    let mut bytes = Vec::new();
    let mut writer = npyz::WriteOptions::new()
        .default_dtype()
        .shape(&[rows, values.len() as u64 / rows])
        .writer(&mut bytes)
        .begin_nd()
        .unwrap();
    writer.extend(values.iter().copied()).unwrap();
    writer.finish().unwrap();
    fs::write(&path, bytes).unwrap();
    fs::write(path.with_extension("jsonl"), index).unwrap();
    path
}

fn opened(path: &Path, codes: usize) -> Result<PatchCodes, DataError> {
    let config = CodesConfig::Files {
        path: path.to_owned(),
        codes,
    };
    let spec = DataConfig {
        image_size: 16,
        ..DataConfig::default()
    };
    Ok(PatchCodes::open(&config, &spec.image_spec())?.unwrap())
}

const INDEX: &str = "{\"image\": \"a.png\"}\n{\"image\": \"in/b.png\"}\n";

#[test]
fn a_table_gives_an_image_its_row_and_a_hole_names_file_and_row() {
    let folder = tempfile::tempdir().unwrap();
    let path = table(folder.path(), 2, &[3, 1, 4, 1, 5, -1, 2, 6], INDEX);
    let codes = opened(&path, 8).unwrap();
    assert_eq!((codes.count(), codes.side(16)), (8, 2));
    let of = |name: &str| codes.of_image(&[], 16, &|| Ok(Some(name.to_owned())));
    assert_eq!(of("a.png").unwrap(), [3, 1, 4, 1]);
    let hole = of("in/b.png").unwrap_err().reason;
    assert!(
        hole.contains("row 1") && hole.contains("codes.npy"),
        "{hole}"
    );
    assert!(hole.contains("patch 1"), "{hole}");
    let absent = of("c.png").unwrap_err().reason;
    assert!(absent.contains("no row for \"c.png\""), "{absent}");
    assert!(codes.describe().contains("1 of them have holes"));
}

#[test]
fn a_table_that_does_not_fit_is_one_clear_error() {
    let folder = tempfile::tempdir().unwrap();
    let square = [3, 1, 4, 1, 5, 0, 2, 6];
    for (values, index, codes, parts) in [
        (&square[..], INDEX, 6, ["row 1 (in/b.png)", "allows 0 to 5"]),
        (&square[..6], INDEX, 8, ["3 codes", "no square grid"]),
        (
            &square,
            "{\"image\": \"a.png\"}\n",
            8,
            ["1 images", "2 rows"],
        ),
        (
            &square,
            "{\"image\": \"a\"}\n{\"image\": \"a\"}\n",
            8,
            ["\"a\"", "lines 1 and 2"],
        ),
        (
            &square,
            "{\"picture\": \"a\"}\n{\"image\": \"a\"}\n",
            8,
            ["line 1", "\"image\""],
        ),
    ] {
        let path = table(folder.path(), 2, values, index);
        let error = opened(&path, codes).unwrap_err().to_string();
        for part in parts {
            assert!(error.contains(part), "{part}: {error}");
        }
    }
}

#[test]
fn codes_of_whole_images_do_not_go_with_moved_ones() {
    let with = |more: &str| -> Result<(), String> {
        let text = format!(
            "image_size = 32\n[codes]\nkind = \"files\"\npath = \"c.npy\"\ncodes = 8\n{more}"
        );
        let config: DataConfig = toml::from_str(&text).unwrap();
        config.validate().map_err(|error| error.to_string())
    };
    with("").unwrap();
    with("[augment]\nscale = [1.0, 1.0]\nratio = [1.0, 1.0]\nflip = 0.0\n").unwrap();
    let error =
        with("[augment]\nscale = [0.5, 1.0]\nratio = [1.0, 1.0]\nflip = 0.0\n").unwrap_err();
    assert!(
        error.contains("data.augment") && error.contains("k_means"),
        "{error}"
    );
}

#[test]
fn settings_out_of_range_are_named() {
    let with = |codes: &str| {
        let text = format!("image_size = 32\n[codes]\nkind = \"k_means\"\n{codes}");
        let config: DataConfig = toml::from_str(&text).unwrap();
        config.validate().unwrap_err().to_string()
    };
    for (codes, key) in [
        ("patch_size = 8\ncodes = 1", "data.codes.codes"),
        ("patch_size = 8\ncodes = 65537", "data.codes.codes"),
        ("patch_size = 5\ncodes = 8", "data.codes.patch_size"),
        ("patch_size = 8\ncodes = 8\ncells = 3", "data.codes.cells"),
        ("patch_size = 8\ncodes = 8\nimages = 0", "data.codes.images"),
        (
            "patch_size = 8\ncodes = 8\naligned = false",
            "data.codes.aligned",
        ),
        ("patch_size = 8\ncodes = 8\npath = \"\"", "data.codes.path"),
    ] {
        assert!(with(codes).contains(key), "{}", with(codes));
    }
}

#[test]
fn a_codebook_is_made_of_scenes_and_must_fit_the_settings() {
    let config: DataConfig = toml::from_str(
        "image_size = 32\nresize = \"squash\"\n[scenes]\nseed = 1\ntrain = 40\nval = 0\nsize = 32\n\
         [codes]\nkind = \"k_means\"\npatch_size = 8\ncodes = 12\ncells = 1\nimages = 30",
    )
    .unwrap();
    let source = crate::config::open(&config).unwrap();
    let codes = config.codes.as_ref().unwrap();
    let spec = config.image_spec();
    let mut told = Vec::new();
    let book =
        PatchCodes::make(codes, &spec, &*source, 3, &mut |making| told.push(making)).unwrap();
    assert!(told.contains(&Making::Reading { done: 30, of: 30 }));
    assert_eq!(book.about()["images"], "30");
    assert_eq!(book.about()["patches"], (30 * 16).to_string());
    let path = Path::new("codes.safetensors");
    let made = PatchCodes::of_book(book.clone(), codes, path).unwrap();
    let shown = levels(&spec, &*source, 0).unwrap();
    let found = made.of_image(&shown, 32, &|| Ok(None)).unwrap();
    assert_eq!(found.len(), 16);
    assert!(found.iter().all(|code| *code < 12));
    let CodesConfig::KMeans {
        patch_size, images, ..
    } = *codes
    else {
        panic!("a k-means")
    };
    let other = CodesConfig::KMeans {
        patch_size,
        codes: 13,
        cells: 1,
        images,
        aligned: true,
        path: None,
    };
    let error = PatchCodes::of_book(book, &other, path)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("data.codes.codes") && error.contains("12"),
        "{error}"
    );
}

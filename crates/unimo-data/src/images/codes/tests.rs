use std::path::Path;

use super::*;

const SHAPE: CodebookShape = CodebookShape {
    patch_size: 8,
    cells: 2,
    codes: 4,
};

/// Images of 16 x 16 pixels whose four patches are near one of four colours each.
fn levels(colours: [usize; 4], noise: u64) -> Vec<u8> {
    const COLOURS: [[u8; 3]; 4] = [[200, 20, 20], [20, 200, 20], [20, 20, 200], [120, 120, 120]];
    let value = |channel: usize, y: usize, x: usize| {
        let patch = y / 8 * 2 + x / 8;
        let draw = hash(Stream::Codes, &[noise, y as u64, x as u64, channel as u64]) % 9;
        COLOURS[colours[patch]][channel] + draw as u8
    };
    let pixels = |channel| (0..256).map(move |at| (channel, at / 16, at % 16));
    let all = (0..3).flat_map(pixels);
    all.map(|(channel, y, x)| value(channel, y, x)).collect()
}

fn patches(images: u64) -> Vec<f32> {
    let mut all = Vec::new();
    for image in 0..images {
        let first = image as usize;
        let colours = [first % 4, 3, (first + 1) % 4, 3];
        describe(SHAPE, &levels(colours, image), 16, &mut all);
    }
    all
}

fn book(seed: u64) -> Codebook {
    Codebook::train(
        SHAPE,
        &patches(20),
        seed,
        BTreeMap::new(),
        &mut |_, _, _| {},
    )
    .unwrap()
}

#[test]
fn patches_of_one_colour_have_one_code_and_the_most_frequent_is_0() {
    let book = book(7);
    let codes = book.codes(&levels([0, 1, 2, 3], 99), 16);
    let again = book.codes(&levels([1, 0, 3, 2], 100), 16);
    assert_eq!(codes[3], 0, "half of all patches are grey: {codes:?}");
    assert_eq!([codes[1], codes[0], codes[3], codes[2]], again[..]);
    let mut different = codes.clone();
    different.sort_unstable();
    assert_eq!(different, [0, 1, 2, 3]);
}

#[test]
fn the_seed_decides_and_the_file_is_the_same_to_the_byte() {
    let (one, same) = (book(7), book(7));
    assert_eq!(one, same);
    let bytes = one.to_bytes().unwrap();
    assert_eq!(bytes, same.to_bytes().unwrap());
    let read = Codebook::parse(&bytes, Path::new("codes.safetensors")).unwrap();
    assert_eq!(read, one);
    assert_eq!(read.about()["patches"], "80");
    assert!(read.about()["made_by"].contains("k-means"));
}

#[test]
fn cells_are_means_of_their_pixels() {
    let shape = CodebookShape {
        patch_size: 2,
        cells: 1,
        codes: 2,
    };
    // Two rows of four pixels in a 4 x 4 image: the first patch of the first channel has levels 0, 1, 4, 5.
    let levels: Vec<u8> = (0..48).collect();
    let mut found = Vec::new();
    describe(shape, &levels, 4, &mut found);
    assert_eq!(found[..6], [2.5, 18.5, 34.5, 4.5, 20.5, 36.5]);
    assert_eq!(found.len(), 12);
}

#[test]
fn fewer_patches_than_codes_are_an_error() {
    let mut all = Vec::new();
    describe(SHAPE, &[9; 3 * 16 * 16], 16, &mut all);
    let error = Codebook::train(SHAPE, &all, 0, BTreeMap::new(), &mut |_, _, _| {}).unwrap_err();
    assert!(
        error.contains("4 codes") && error.contains("only 1"),
        "{error}"
    );
}

#[test]
fn a_file_that_is_no_codebook_is_named() {
    let path = Path::new("some/codes.safetensors");
    let good = book(1).to_bytes().unwrap();
    for bytes in [b"nothing".to_vec(), good[..good.len() - 4].to_vec()] {
        let error = Codebook::parse(&bytes, path).unwrap_err().to_string();
        assert!(error.contains("some/codes.safetensors"), "{error}");
        assert!(error.contains("no codebook"), "{error}");
    }
}

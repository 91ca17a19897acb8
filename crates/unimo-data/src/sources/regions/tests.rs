use crate::images::regions::{PictureRegions, RegionShape, pad};
use crate::store::paths::name_within;
use npyz::WriterBuilder;
use safetensors::tensor::Dtype;
use safetensors::tensor::TensorView;
use safetensors::tensor::serialize;

use super::*;
use crate::config::{DataConfig, open};

/// Pairs whose image files do not exist, with features of them.
struct Set {
    folder: tempfile::TempDir,
}

impl Set {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let names = ["in/a.jpg", "b.png", "c.jpg", "../d.jpg", "e.jpg"];
        let rows = names.map(|name| format!("{{\"image\": {name:?}, \"caption\": \"{name}\"}}\n"));
        std::fs::write(folder.path().join("pairs.jsonl"), rows.concat()).unwrap();
        std::fs::create_dir_all(folder.path().join("features/in")).unwrap();
        Self { folder }
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        let path = self.folder.path().join("features").join(name);
        std::fs::write(path, bytes).unwrap();
    }

    fn open(&self, regions: &str) -> Result<Arc<dyn Source>, DataError> {
        let text = format!(
            "source = \"pairs\"\n[pairs]\npath = \"pairs.jsonl\"\nimage_column = \"image\"\n\
             text_columns = [\"caption\"]\nval_fraction = 0.0\n[regions]\n{regions}"
        );
        let mut config: DataConfig = toml::from_str(&text).unwrap();
        config.rebase(self.folder.path());
        open(&config)
    }

    fn files(&self) -> Arc<dyn Source> {
        let text = "kind = \"files\"\npath = \"features\"\nfeatures = 8\nlimit = 2\n";
        self.open(text).unwrap()
    }
}

fn npy<T: npyz::AutoSerialize + Copy>(shape: &[u64], values: &[T]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut writer = npyz::WriteOptions::new()
        .default_dtype()
        .shape(shape)
        .writer(&mut bytes)
        .begin_nd()
        .unwrap();
    writer.extend(values.iter().copied()).unwrap();
    writer.finish().unwrap();
    bytes
}

/// A file whose header may be false.
fn raw(order: &str, shape: &str) -> Vec<u8> {
    let header = format!("{{'descr': '<f4', 'fortran_order': {order}, 'shape': {shape}, }}\n");
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend((header.len() as u16).to_le_bytes());
    bytes.extend(header.as_bytes());
    bytes.extend(f32_bytes(&numbers()));
    bytes
}

/// Three regions, each of two numbers and the box.
fn numbers() -> Vec<f32> {
    let region = |i: usize| {
        let x = 0.25 * i as f32;
        [i as f32, -1.0, x, 0.0, x + 0.25, 0.5, 0.25, 0.5]
    };
    (0..3).flat_map(region).collect()
}

fn f32_bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

fn reason(source: &Arc<dyn Source>, index: usize) -> String {
    source.sample(Split::Train, index).unwrap_err().to_string()
}

#[test]
fn every_kind_of_file_gives_the_same_regions() {
    let set = Set::new();
    let all = numbers();
    let halves: Vec<half::f16> = all.iter().map(|v| half::f16::from_f32(*v)).collect();
    let doubles: Vec<f64> = all.iter().map(|v| f64::from(*v)).collect();
    let view = |shape: [usize; 2], bytes| TensorView::new(Dtype::F32, shape.to_vec(), bytes);
    let whole = f32_bytes(&all);
    let whole = serialize([("features", view([3, 8], &whole).unwrap())], None).unwrap();
    let parts = |from: usize, to: usize| -> Vec<f32> {
        all.chunks(8).flat_map(|r| r[from..to].to_vec()).collect()
    };
    let (own, boxes) = (f32_bytes(&parts(0, 2)), f32_bytes(&parts(2, 6)));
    let tensors = [
        ("features", view([3, 2], &own).unwrap()),
        ("boxes", view([3, 4], &boxes).unwrap()),
    ];
    let apart = serialize(tensors, None).unwrap();
    for (name, bytes) in [
        ("in/a.npy", npy(&[3, 8], &all)),
        ("in/a.npy", npy(&[3, 8], &halves)),
        ("in/a.npy", npy(&[3, 8], &doubles)),
        ("in/a.safetensors", whole),
        ("in/a.safetensors", apart),
    ] {
        set.write(name, &bytes);
        let source = set.files();
        let sample = source.sample(Split::Train, 0).unwrap();
        let regions = sample.regions.unwrap();
        assert_eq!(regions.features, all[..16], "{name}");
        assert_eq!(
            regions.boxes,
            [[0.0, 0.0, 0.25, 0.5], [0.25, 0.0, 0.5, 0.5]]
        );
        assert_eq!((sample.image, sample.captions.len()), (None, 1));
        assert_eq!(source.image(Split::Train, 0).unwrap(), None);
        std::fs::remove_file(set.folder.path().join("features").join(name)).unwrap();
    }
}

#[test]
fn what_is_wrong_with_features_is_said() {
    let set = Set::new();
    let source = set.files();
    assert!(reason(&source, 0).contains("no features: there is neither"));
    assert!(reason(&source, 3).contains("no path inside of a folder"));
    let mut wild = numbers();
    wild[9] = f32::NAN;
    let mut pixels = numbers();
    pixels[8 + 4] = 417.0;
    let whole = npy(&[3, 8], &numbers());
    for (bytes, said) in [
        (npy(&[24], &numbers()), "not [regions, numbers]"),
        (
            npy(&[4, 6], &numbers()),
            "6 numbers for a region, `data.regions.features` is 8",
        ),
        (npy(&[0, 8], &[0.0f32; 0]), "no region"),
        (npy(&[3, 8], &wild), "number 1 of region 1 is NaN"),
        (
            npy(&[3, 8], &pixels),
            "the box of region 1 is [0.25, 0, 417, 0.5]",
        ),
        (b"\x93NUMPY\x02\x00\xff\xff\xff\xff".to_vec(), "cut short"),
        (npy(&[3, 8], &[1i32; 24]), "not of f16, f32 or f64"),
        (raw("False", "(3, 800000)"), "cut short"),
        (
            raw("False", "(18446744073709551615, 8)"),
            "too many numbers",
        ),
        (raw("True", "(3, 8)"), "Fortran's order"),
        (raw("False", "(9, 8)"), "features"),
        (whole[..whole.len() - 5].to_vec(), "features"),
        (b"no npy".to_vec(), "features"),
    ] {
        set.write("b.npy", &bytes);
        let found = reason(&source, 1);
        assert!(found.contains(said), "{said}: {found}");
    }
    let bytes = f32_bytes(&numbers());
    let view = TensorView::new(Dtype::F32, vec![3, 8], &bytes).unwrap();
    set.write("c.safetensors", &serialize([("x", view)], None).unwrap());
    assert!(reason(&source, 2).contains("no tensor \"features\", only: x"));
    let boxes = TensorView::new(Dtype::F32, vec![3, 4], &bytes[..48]).unwrap();
    let all = TensorView::new(Dtype::F32, vec![3, 8], &bytes).unwrap();
    let both = serialize([("features", all), ("boxes", boxes)], None).unwrap();
    set.write("c.safetensors", &both);
    assert!(
        reason(&source, 2).contains("8 \"features\" of a region beside \"boxes\", 2 are needed")
    );
    set.write("c.safetensors", &[255; 40]);
    assert!(reason(&source, 2).contains("c.safetensors"));
}

#[test]
fn boxes_are_cut_out_of_scenes() {
    let text = "source = \"scenes\"\n[scenes]\ntrain = 4\nval = 2\nsize = 32\n\
                [regions]\nkind = \"boxes\"\nside = 4\nlimit = 2";
    let config: DataConfig = toml::from_str(text).unwrap();
    let plain = open(&DataConfig {
        regions: None,
        ..config.clone()
    });
    let (source, plain) = (open(&config).unwrap(), plain.unwrap());
    let shape = source.region_shape().unwrap();
    assert_eq!((shape.most, shape.features), (2, 3 * 16 + 6));
    for index in 0..4 {
        let whole = plain.sample(Split::Train, index).unwrap();
        let sample = source.sample(Split::Train, index).unwrap();
        let regions = sample.regions.unwrap();
        assert_eq!(regions.boxes, whole.boxes[..whole.boxes.len().min(2)]);
        assert_eq!(regions.features.len(), regions.boxes.len() * shape.features);
        assert_eq!((sample.image, &sample.tags), (None, &whole.tags));
        let [x1, _, x2, _] = regions.boxes[0];
        assert_eq!(regions.features[48], x1);
        assert_eq!(regions.features[52], x2 - x1);
    }
}

#[test]
fn pictures_of_a_mixture_keep_their_boxes() {
    let text = "source = \"mixture\"\n[mixture]\nbatches = \"single\"\nparts = [\
                { source = \"scenes\", train = 3, val = 0, size = 32, keep = \"images\" },\
                { source = \"scenes\", train = 2, val = 2, size = 32, keep = \"texts\" }]\n\
                [regions]\nkind = \"boxes\"\nside = 4\nlimit = 8";
    let source = open(&toml::from_str(text).unwrap()).unwrap();
    for index in 0..5 {
        let sample = source.sample(Split::Train, index).unwrap();
        let regions = sample.regions.map_or(0, |regions| regions.boxes.len());
        assert_eq!(regions > 0, index < 3);
        assert_eq!(regions, sample.boxes.len());
        assert_eq!(sample.captions.is_empty(), index < 3);
    }
}

#[test]
fn names_tell_folders_apart() {
    let (a, b) = (Path::new("/d/a"), Path::new("/d/b"));
    let name = |path, folders: &[&'static Path]| {
        name_within(Path::new(path), folders.iter().copied()).unwrap()
    };
    assert_eq!(name("/d/a/x/1.jpg", &[a]), "x/1.jpg");
    assert_eq!(name("/d/a/x/1.jpg", &[a, a]), "x/1.jpg");
    assert_eq!(name("/d/b/1.jpg", &[a, b]), "b/1.jpg");
}

#[test]
fn batches_are_padded() {
    let of = |rows: usize| PictureRegions {
        features: vec![rows as f32; rows * 2],
        boxes: vec![[0.5; 4]; rows],
        ..PictureRegions::default()
    };
    let shape = RegionShape {
        most: 3,
        features: 2,
    };
    let batch = pad(&[&of(2), &of(3)], shape);
    assert_eq!((batch.count, &batch.counts[..]), (3, &[2, 3][..]));
    let features = [2.0, 2.0, 2.0, 2.0, 0.0, 0.0, 3.0, 3.0, 3.0, 3.0, 3.0, 3.0];
    assert_eq!(batch.features, features);
    assert_eq!(batch.boxes.len(), 24);
    assert_eq!(batch.boxes[8..12], [0.0; 4]);
}

#[test]
fn bad_values_are_named() {
    let set = Set::new();
    for (text, said) in [
        ("kind = \"files\"\npath = \"\"", "data.regions.path"),
        ("kind = \"files\"\npath = \"nowhere\"", "nowhere"),
        (
            "kind = \"files\"\npath = \"features\"\nfeatures = 6",
            "data.regions.features",
        ),
        ("kind = \"boxes\"\nside = 0", "data.regions.side"),
        ("kind = \"boxes\"\nside = 3000000000", "data.regions.side"),
        (
            "kind = \"boxes\"\nside = 4\nlimit = 0",
            "data.regions.limit",
        ),
    ] {
        let message = set.open(text).err().unwrap().to_string();
        assert!(message.contains(said), "{said}: {message}");
    }
}

/// A file of three regions with further tensors.
fn labelled(further: &[(&str, Dtype, &[usize], Vec<u8>)]) -> Vec<u8> {
    let features = f32_bytes(&numbers());
    let mut all = vec![("features", Dtype::F32, vec![3, 8], features)];
    for (name, dtype, shape, bytes) in further {
        all.push((name, *dtype, shape.to_vec(), bytes.clone()));
    }
    let views = all.iter().map(|(name, dtype, shape, bytes)| {
        (
            *name,
            TensorView::new(*dtype, shape.clone(), bytes).unwrap(),
        )
    });
    serialize(views, None).unwrap()
}

fn i64_bytes(values: &[i64]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

#[test]
fn classes_and_probabilities_are_read_and_what_lacks_them_is_listed() {
    let set = Set::new();
    let classes = |of: &[i64]| labelled(&[("classes", Dtype::I64, &[of.len()], i64_bytes(of))]);
    set.write("in/a.safetensors", &classes(&[1, 0, 2]));
    let likely = [0.2, 0.5, 0.3, 0.6, 0.4, 0.0, 0.0, 0.0, 1.0];
    let likely = ("probabilities", Dtype::F32, &[3, 3][..], f32_bytes(&likely));
    set.write("b.safetensors", &labelled(&[likely]));
    set.write("c.safetensors", &labelled(&[]));
    set.write("e.safetensors", &classes(&[1, 3, 2]));
    let path = set.folder.path();
    std::fs::write(path.join("en.txt"), "ring\nstar\n\n").unwrap();
    std::fs::write(path.join("de.txt"), "Ring\nStern\n \n").unwrap();
    let text = "kind = \"files\"\npath = \"features\"\nfeatures = 8\nlimit = 2\nlabels = true\n\
                names = { en = \"en.txt\", de = \"de.txt\" }\n";
    let source = set.open(text).unwrap();
    let known = source.region_classes().unwrap();
    assert_eq!(known.count(), Some(3));
    assert_eq!(
        [known.of("Stern"), known.of("ring"), known.of("")],
        [1, 0, NO_CLASS]
    );
    // The last one has no name.
    let objects = [NO_CLASS, 0, 1, 2, 3].map(|class| known.is_object(class));
    assert_eq!(objects, [false, true, true, false, false]);
    let of = |index: usize| source.regions(Split::Train, index).map(Option::unwrap);
    assert_eq!(of(0).unwrap().classes, [1, 0]);
    let b = of(1).unwrap();
    assert_eq!(b.classes, [1, 0]);
    assert_eq!(b.probabilities, [0.2, 0.5, 0.3, 0.6, 0.4, 0.0]);
    let without = of(2).unwrap_err();
    assert!(
        without.reason.to_string().contains("neither \"classes\""),
        "{}",
        without.reason
    );
    assert_eq!(without.place.line, 3);
    set.write("c.npy", &npy(&[3, 8], &numbers()));
    let without = of(2).unwrap_err().reason.to_string();
    assert!(without.contains(".npy file holds no classes"), "{without}");
    // The class of the second region, which is read.
    let beyond = of(4).unwrap_err().reason.to_string();
    assert!(
        beyond.contains("region 1 is 3") && beyond.contains("3 names"),
        "{beyond}"
    );
    // Without labels nothing of this is read.
    let plain = set.files();
    assert!(plain.region_classes().is_none());
    assert!(
        plain
            .regions(Split::Train, 4)
            .unwrap()
            .unwrap()
            .classes
            .is_empty()
    );

    for (change, said) in [
        (("labels = true", "labels = false"), "data.regions.names"),
        (("en.txt", "none.txt"), "none.txt"),
        (("en = ", "english = "), "data.regions.names"),
        (
            ("labels = true", "labels = false\nbackground = 0"),
            "data.regions",
        ),
    ] {
        let message = set.open(&text.replace(change.0, change.1)).err().unwrap();
        let message = message.to_string();
        assert!(message.contains(said), "{said}: {message}");
    }
    std::fs::write(path.join("de.txt"), "Ring\nStern\n").unwrap();
    let message = set.open(text).err().unwrap().to_string();
    assert!(
        message.contains("names.en") && message.contains("as many as in de"),
        "{message}"
    );
}

#[test]
fn boxes_of_scenes_have_the_class_of_their_name_in_both_languages() {
    let config: DataConfig = toml::from_str(
        "[scenes]\nlanguage = \"both\"\nval = 0\n[regions]\nkind = \"boxes\"\nside = 2\n",
    )
    .unwrap();
    let source = open(&config).unwrap();
    let classes = source.region_classes().unwrap();
    assert_eq!(classes.count(), Some(64));
    let (english, invented) = (&classes.names()["en"], &classes.names()["qaa"]);
    for index in 0..50 {
        let sample = source.sample(Split::Train, index).unwrap();
        let regions = sample.regions.unwrap();
        assert_eq!(regions.classes.len(), regions.boxes.len());
        for (class, tag) in regions.classes.iter().zip(&sample.tags) {
            assert_eq!(&english[*class as usize], tag);
            assert_eq!(classes.of(&invented[*class as usize]), *class);
        }
    }
}

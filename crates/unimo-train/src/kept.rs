//! `train.cache`: features of frozen encoders on the disk, beside the run, in the folder `features`.
//!
//! They are on the disk and not in memory because those of a real data set do not fit there (a ViT-B/16 gives 0.6 MB for an image of 224
//! pixels), and because a run that is stopped and goes on finds them again. Where they fit, the system keeps the files in memory anyway.
//!
//! A file holds some 64 MB of features and is written whole or not at all, so a kill loses what was not written yet, which is then
//! computed again. It begins with 16 bytes that say what it is. Then come the features of one input after the other: the number of the
//! input, a checksum, the number of values, and the values as f32, all little-endian. Files are named by the encoders that gave the
//! features: a digest of their weights, of the device and of this version. Files of other encoders are removed.
//!
//! What cannot be read is computed, and what cannot be written is not kept. Neither changes a loss; both are said.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use burn::tensor::TensorData;
use unimo_core::parameters;
use unimo_data::atomic;
use unimo_data::digest::{Digest, hex};
use unimo_encoders::backbone::Backbone;
use unimo_objectives::kept::{FeatureCache, FeatureKey, KeptOf};
use unimo_report::numbers::grouped;

use crate::error::TrainError;

/// The folder in a run's folder.
pub const FOLDER: &str = "features";

/// Gigabytes that features take at most, if the recipe does not say it.
pub const GIGABYTES: f64 = 20.0;

/// The beginning of every file.
const MAGIC: &[u8; 16] = b"unimo features 1";

/// The ending of the files' names.
const END: &str = ".features";

/// Bytes of features in a file.
const BLOCK: usize = 64 << 20;

/// Bytes before the values of an input: its number, their checksum, their number.
const HEAD: usize = 16 + 4 + 4;

/// Bytes of a gigabyte, as disks are sold.
const GIGABYTE: f64 = 1e9;

/// Characters of a digest in a name.
const NAMED: usize = 16;

/// Which encoders are kept, and how they compute.
pub struct KeptEncoders<'a> {
    /// The encoders.
    pub backbone: &'a Backbone,
    /// Those that are kept.
    pub of: &'a [KeptOf],
    /// The device and the dtype, which change the last bits.
    pub computed: String,
}

/// The features of a run's frozen encoders.
pub struct Features {
    folder: PathBuf,
    of: Vec<KeptOf>,
    encoders: String,
    most: u64,
    state: RefCell<State>,
}

#[derive(Default)]
struct State {
    places: HashMap<FeatureKey, Place>,
    files: Vec<(PathBuf, Option<File>)>,
    /// What is not written yet.
    waiting: BTreeMap<FeatureKey, Vec<f32>>,
    waiting_bytes: usize,
    bytes: u64,
    found: u64,
    computed: u64,
    /// Nothing more is kept: it was said why.
    full: bool,
    lines: Vec<String>,
}

/// Where the features of an input are.
#[derive(Clone, Copy)]
struct Place {
    file: usize,
    /// Of the values.
    offset: u64,
    count: u32,
    checksum: u32,
}

impl Features {
    /// Opens the features of a run; `gigabytes` is the most that they may take.
    ///
    /// # Errors
    ///
    /// The folder cannot be made or listed.
    pub fn open(
        run: &Path,
        encoders: &KeptEncoders<'_>,
        gigabytes: f64,
    ) -> Result<Self, TrainError> {
        let folder = run.join(FOLDER);
        std::fs::create_dir_all(&folder).map_err(TrainError::file("create", &folder))?;
        let own = digest_of(encoders);
        let mut state = State::default();
        let mut others = 0;
        for path in listed(&folder)? {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if !name.ends_with(END) {
                continue;
            }
            if name.starts_with(&own) {
                state.read(&path);
            } else {
                match std::fs::remove_file(&path) {
                    Ok(()) => others += 1,
                    // Another rank was faster.
                    Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                    Err(error) => return Err(TrainError::file("remove", &path)(error)),
                }
            }
        }
        if others > 0 {
            state.lines.push(format!(
                "{others} files of features that other weights, another device or another version had given were removed from {}",
                folder.display()
            ));
        }
        let words: Vec<&str> = encoders.of.iter().map(|of| word(*of)).collect();
        let before = match state.places.len() {
            0 => String::new(),
            count => format!("; those of {} inputs are there", grouped(count as f64)),
        };
        state.lines.push(format!(
            "features of the frozen {} encoder{} are kept in {}, at most {gigabytes} GB (train.cache_gb){before}",
            words.join(" and "),
            if words.len() == 1 { "" } else { "s" },
            folder.display()
        ));
        Ok(Self {
            folder,
            of: encoders.of.to_vec(),
            encoders: own,
            most: (gigabytes * GIGABYTE) as u64,
            state: RefCell::new(state),
        })
    }

    /// What a user should know since this was last asked.
    pub fn lines(&self) -> Vec<String> {
        std::mem::take(&mut self.state.borrow_mut().lines)
    }

    /// Writes what waits to be written.
    pub fn write(&self) {
        let state = &mut *self.state.borrow_mut();
        if let Err(error) = self.write_block(state) {
            self.give_up(state, &error);
        }
    }

    /// Writes the rest and says what was spared.
    pub fn close(&self) {
        self.write();
        let state = &mut *self.state.borrow_mut();
        let line = format!(
            "features: {} computed, {} found again; {:.1} MB in {}, which may be removed",
            grouped(state.computed as f64),
            grouped(state.found as f64),
            state.bytes as f64 / 1e6,
            self.folder.display()
        );
        state.lines.push(line);
    }

    fn write_block(&self, state: &mut State) -> std::io::Result<()> {
        let waiting = std::mem::take(&mut state.waiting);
        state.waiting_bytes = 0;
        let Some(first) = waiting.keys().next() else {
            return Ok(());
        };
        // No two blocks have the same first input: it is in one of them alone.
        let name = format!("{}-{}{END}", self.encoders, hex(first));
        let path = self.folder.join(name);
        let mut bytes = MAGIC.to_vec();
        let mut places = Vec::with_capacity(waiting.len());
        for (key, values) in &waiting {
            let values: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
            let place = Place {
                file: state.files.len(),
                offset: (bytes.len() + HEAD) as u64,
                count: (values.len() / size_of::<f32>()) as u32,
                checksum: crc32c::crc32c(&values),
            };
            bytes.extend_from_slice(key);
            bytes.extend_from_slice(&place.checksum.to_le_bytes());
            bytes.extend_from_slice(&place.count.to_le_bytes());
            bytes.extend_from_slice(&values);
            places.push((*key, place));
        }
        atomic::write(&path, &bytes)?;
        state.files.push((path, None));
        state.places.extend(places);
        Ok(())
    }

    /// Keeps nothing more, and says why.
    fn give_up(&self, state: &mut State, why: &dyn std::fmt::Display) {
        if !state.full {
            state.full = true;
            state.lines.push(format!(
                "no more features are kept in {}: {why}. What is not there is computed in each step; losses are the same",
                self.folder.display()
            ));
        }
    }
}

impl FeatureCache for Features {
    fn keeps(&self, encoder: KeptOf) -> bool {
        self.of.contains(&encoder)
    }

    fn key(&self, encoder: KeptOf, input: &[&[u8]]) -> FeatureKey {
        let mut digest = Digest::default();
        digest.add(self.encoders.as_bytes());
        digest.add(word(encoder).as_bytes());
        for part in input {
            digest.add_sized(part);
        }
        let mut key = FeatureKey::default();
        let whole = digest.finish();
        for (own, byte) in key.iter_mut().zip(whole) {
            *own = byte;
        }
        key
    }

    fn find(&self, key: &FeatureKey) -> Option<Vec<f32>> {
        let state = &mut *self.state.borrow_mut();
        let found = match state.waiting.get(key) {
            Some(values) => Some(values.clone()),
            None => state.fetch(key),
        };
        state.found += u64::from(found.is_some());
        found
    }

    fn keep(&self, key: FeatureKey, features: &[f32]) {
        let state = &mut *self.state.borrow_mut();
        state.computed += 1;
        let known = state.waiting.contains_key(&key) || state.places.contains_key(&key);
        if state.full || known {
            return;
        }
        let bytes = size_of_val(features) + HEAD;
        if state.bytes + bytes as u64 > self.most {
            self.give_up(state, &"they would take more than train.cache_gb");
            return;
        }
        state.waiting.insert(key, features.to_vec());
        state.waiting_bytes += bytes;
        state.bytes += bytes as u64;
        if state.waiting_bytes >= BLOCK
            && let Err(error) = self.write_block(state)
        {
            self.give_up(state, &error);
        }
    }
}

impl State {
    /// Takes up a file that is there.
    fn read(&mut self, path: &Path) {
        let file = self.files.len();
        match index(path) {
            Ok(found) => {
                for (key, offset, count, checksum) in found {
                    self.bytes += u64::from(count) * size_of::<f32>() as u64 + HEAD as u64;
                    let place = Place {
                        file,
                        offset,
                        count,
                        checksum,
                    };
                    self.places.insert(key, place);
                }
                self.files.push((path.to_owned(), None));
            }
            Err(error) => self.lines.push(format!(
                "{}: {error}; its features are computed again",
                path.display()
            )),
        }
    }

    /// Features from a file. If they are damaged, they are forgotten.
    fn fetch(&mut self, key: &FeatureKey) -> Option<Vec<f32>> {
        let place = *self.places.get(key)?;
        let (path, file) = &mut self.files[place.file];
        match values(path, file, place) {
            Ok(values) => Some(values),
            Err(error) => {
                let line = format!(
                    "{}: {error}; these features are computed again",
                    path.display()
                );
                self.places.remove(key);
                self.lines.push(line);
                None
            }
        }
    }
}

/// The values at a place; `open` keeps the file open.
fn values(path: &Path, open: &mut Option<File>, place: Place) -> std::io::Result<Vec<f32>> {
    let file = match open {
        Some(file) => file,
        None => open.insert(File::open(path)?),
    };
    let mut bytes = vec![0; place.count as usize * size_of::<f32>()];
    file.seek(SeekFrom::Start(place.offset))?;
    file.read_exact(&mut bytes)?;
    if crc32c::crc32c(&bytes) != place.checksum {
        return Err(damaged("a checksum differs"));
    }
    let (values, _) = bytes.as_chunks();
    Ok(values
        .iter()
        .map(|value| f32::from_le_bytes(*value))
        .collect())
}

/// An input with the place, the number and the checksum of its values.
type Entry = (FeatureKey, u64, u32, u32);

/// The inputs of a file.
fn index(path: &Path) -> std::io::Result<Vec<Entry>> {
    let file = File::open(path)?;
    let length = file.metadata()?.len();
    let mut file = BufReader::new(file);
    let mut magic = [0; MAGIC.len()];
    file.read_exact(&mut magic)?;
    if magic != *MAGIC {
        return Err(damaged("is no file of features"));
    }
    let mut entries = Vec::new();
    let mut at = MAGIC.len() as u64;
    while at < length {
        let (mut key, mut checksum, mut count) = (FeatureKey::default(), [0; 4], [0; 4]);
        file.read_exact(&mut key)?;
        file.read_exact(&mut checksum)?;
        file.read_exact(&mut count)?;
        let count = u32::from_le_bytes(count);
        let bytes = i64::from(count) * size_of::<f32>() as i64;
        at += HEAD as u64;
        entries.push((key, at, count, u32::from_le_bytes(checksum)));
        at += bytes as u64;
        if at > length {
            return Err(damaged("breaks off"));
        }
        file.seek_relative(bytes)?;
    }
    Ok(entries)
}

fn damaged(why: &'static str) -> std::io::Error {
    std::io::Error::new(std::io::ErrorKind::InvalidData, why)
}

fn listed(folder: &Path) -> Result<Vec<PathBuf>, TrainError> {
    let list = || TrainError::file("list", folder);
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(list())? {
        paths.push(entry.map_err(list())?.path());
    }
    paths.sort();
    Ok(paths)
}

fn word(encoder: KeptOf) -> &'static str {
    match encoder {
        KeptOf::Text => "text",
        KeptOf::Image => "image",
    }
}

/// The digest that names the encoders' files.
fn digest_of(encoders: &KeptEncoders<'_>) -> String {
    let mut digest = Digest::default();
    let mut add = |values: Vec<(String, TensorData)>| {
        for (name, data) in values {
            digest.add(name.as_bytes());
            digest.add(format!("{:?}", data.shape()).as_bytes());
            digest.add(data.as_bytes());
        }
    };
    if encoders.of.contains(&KeptOf::Text) {
        add(parameters::values(&encoders.backbone.text));
    }
    if let Some(image) = &encoders.backbone.image
        && encoders.of.contains(&KeptOf::Image)
    {
        add(parameters::values(image));
    }
    digest.add(encoders.computed.as_bytes());
    digest.add(env!("CARGO_PKG_VERSION").as_bytes());
    hex(&digest.finish())[..NAMED].to_owned()
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;
    use crate::model::Model;
    use crate::recipe::{Overrides, Recipe};

    fn model() -> Model {
        let recipe = Recipe::load("unimo3-tiny", &Overrides::default()).unwrap();
        Model::new(&recipe, &Device::flex())
    }

    fn open(folder: &Path, model: &Model, computed: &str, gigabytes: f64) -> Features {
        let encoders = KeptEncoders {
            backbone: &model.backbone,
            of: &[KeptOf::Image],
            computed: computed.to_owned(),
        };
        Features::open(folder, &encoders, gigabytes).unwrap()
    }

    #[test]
    fn what_is_kept_is_found_again_and_what_is_damaged_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let model = model();
        let features = open(folder.path(), &model, "flex", 1.0);
        let key = |features: &Features, n: u8| features.key(KeptOf::Image, &[b"how", &[n]]);
        let of = |n: u8| vec![f32::from(n), f32::NAN, -0.0, 1e-40];
        let bits = |values: Option<Vec<f32>>| -> Option<Vec<u32>> {
            Some(values?.into_iter().map(f32::to_bits).collect())
        };
        for n in 0..5 {
            assert_eq!(features.find(&key(&features, n)), None);
            features.keep(key(&features, n), &of(n));
            assert_eq!(bits(features.find(&key(&features, n))), bits(Some(of(n))));
        }
        features.close();
        for n in 0..5 {
            assert_eq!(bits(features.find(&key(&features, n))), bits(Some(of(n))));
        }
        let again = open(folder.path(), &model, "flex", 1.0);
        assert_eq!(bits(again.find(&key(&again, 3))), bits(Some(of(3))));
        // The parts of an input are told apart.
        assert_ne!(
            again.key(KeptOf::Image, &[b"ab", b"c"]),
            again.key(KeptOf::Image, &[b"a", b"bc"])
        );

        let file = listed(&folder.path().join(FOLDER)).unwrap().remove(0);
        let mut bytes = std::fs::read(&file).unwrap();
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        std::fs::write(&file, &bytes).unwrap();
        let again = open(folder.path(), &model, "flex", 1.0);
        let found = (0..5).filter(|n| again.find(&key(&again, *n)).is_some());
        assert_eq!(found.count(), 4);
        assert!(again.lines().concat().contains("checksum"));

        std::fs::write(&file, &bytes[..last]).unwrap();
        let again = open(folder.path(), &model, "flex", 1.0);
        assert_eq!(again.find(&key(&again, 0)), None);
        assert!(again.lines().concat().contains("breaks off"));
    }

    #[test]
    fn features_of_other_encoders_are_removed_and_the_bound_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let model = model();
        // Room for two inputs of four values.
        let features = open(folder.path(), &model, "flex", 80e-9);
        for n in 0..5u8 {
            features.keep(features.key(KeptOf::Image, &[&[n]]), &[0.0; 4]);
        }
        features.close();
        assert!(features.lines().concat().contains("train.cache_gb"));
        let kept = (0..5u8).filter(|n| {
            let key = features.key(KeptOf::Image, &[&[*n]]);
            features.find(&key).is_some()
        });
        assert_eq!(kept.count(), 2);
        let others = open(folder.path(), &model, "cuda", 1.0);
        assert!(others.lines().concat().contains("were removed"));
        assert!(listed(&folder.path().join(FOLDER)).unwrap().is_empty());
    }
}

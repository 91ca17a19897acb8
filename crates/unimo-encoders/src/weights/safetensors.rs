//! Reading a safetensors file one tensor at a time, its header checked before anything is allocated by it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use safetensors::tensor::Metadata;

use super::writing::{CHECKSUMS, header_sum};
use super::{Dtype, TensorInfo, WeightsError, keys_are_distinct};

/// Largest header that is read. A checkpoint with a thousand tensors has a header of some 100 kB. Parsing takes 14 times its size
/// in memory.
const MAX_HEADER: u64 = 16 << 20;
/// Hexadecimal digits of a checksum in a note.
const SUM_DIGITS: usize = 8;
/// Bytes before the header: its length.
const LENGTH_BYTES: u64 = 8;

/// An opened safetensors file.
pub struct SafetensorsFile {
    path: PathBuf,
    file: File,
    metadata: Metadata,
    data_start: u64,
    /// The checksum of each tensor, where the file has them.
    checksums: BTreeMap<String, u32>,
    /// Memory of [`rows_into`](Self::rows_into).
    buffer: Vec<u8>,
}

impl SafetensorsFile {
    /// Whether a file is named like safetensors, or begins like it: a length, then a JSON object.
    ///
    /// # Errors
    ///
    /// The file cannot be read.
    pub fn looks_like(path: &Path) -> Result<bool, WeightsError> {
        if path.extension().is_some_and(|e| e == "safetensors") {
            return Ok(true);
        }
        let mut start = Vec::new();
        File::open(path)
            .map_err(WeightsError::file("open", path))?
            .take(LENGTH_BYTES + 1)
            .read_to_end(&mut start)
            .map_err(WeightsError::file("read", path))?;
        Ok(start.get(LENGTH_BYTES as usize) == Some(&b'{'))
    }

    /// Reads and checks the header: every tensor lies within the file, none overlaps another, no name occurs twice.
    ///
    /// # Errors
    ///
    /// The file cannot be read or is not such a file.
    pub fn open(path: &Path) -> Result<Self, WeightsError> {
        let wrong = |reason: String| WeightsError::content(path, reason);
        let mut file = File::open(path).map_err(WeightsError::file("open", path))?;
        let about = file.metadata().map_err(WeightsError::file("read", path))?;
        if !about.is_file() {
            return Err(wrong("is not a regular file".to_owned()));
        }
        let length = about.len();
        let mut size = [0; LENGTH_BYTES as usize];
        file.read_exact(&mut size)
            .map_err(|_| wrong("is shorter than a safetensors header".to_owned()))?;
        let header = u64::from_le_bytes(size);
        if header > length.saturating_sub(LENGTH_BYTES) {
            return Err(wrong(format!(
                "is truncated or no safetensors file: its header claims {header} bytes, the file has {length}"
            )));
        }
        if header > MAX_HEADER {
            return Err(wrong(format!(
                "has a header of {header} bytes; at most {MAX_HEADER} are read"
            )));
        }
        let mut text = vec![0; header as usize];
        file.read_exact(&mut text)
            .map_err(WeightsError::file("read", path))?;
        let damaged = |e: serde_json::Error| wrong(format!("has a damaged header: {e}"));
        // The format's own reader keeps the last of two tensors with one name.
        keys_are_distinct(&text).map_err(damaged)?;
        let metadata: Metadata = serde_json::from_slice(&text).map_err(damaged)?;
        let data_start = LENGTH_BYTES + header;
        let expected = data_start + metadata.data_len() as u64;
        if expected != length {
            return Err(wrong(format!(
                "is truncated or too long: the header describes {expected} bytes, the file has {length}"
            )));
        }
        let mut opened = Self {
            path: path.to_owned(),
            file,
            metadata,
            data_start,
            checksums: BTreeMap::new(),
            buffer: Vec::new(),
        };
        opened.checksums = opened.read_checksums()?;
        Ok(opened)
    }

    /// The checksums that [`write_checked`](super::writing::write_checked) or [`write_noted`](super::writing::write_noted) has put into the
    /// file; none in a file without.
    fn read_checksums(&mut self) -> Result<BTreeMap<String, u32>, WeightsError> {
        if self.metadata.info(CHECKSUMS).is_none() {
            return self.noted_checksums();
        }
        let bytes = self.bytes(CHECKSUMS)?;
        let names: BTreeSet<String> = self.infos().into_iter().map(|(name, _)| name).collect();
        let (sums, rest) = bytes.as_chunks();
        if sums.len() != names.len() || !rest.is_empty() {
            return Err(WeightsError::content(
                &self.path,
                format!(
                    "is damaged: it has {} bytes of checksums for {} tensors, four each",
                    bytes.len(),
                    names.len()
                ),
            ));
        }
        let sums = sums.iter().map(|sum| u32::from_le_bytes(*sum));
        Ok(names.into_iter().zip(sums).collect())
    }

    /// The checksums in a note, that of the header compared.
    fn noted_checksums(&self) -> Result<BTreeMap<String, u32>, WeightsError> {
        let Some(text) = self.note(CHECKSUMS) else {
            return Ok(BTreeMap::new());
        };
        let changed = |what: &str| {
            WeightsError::content(
                &self.path,
                format!(
                    "is damaged, or another program has changed it and left the note `{CHECKSUMS}` as it was: {what}"
                ),
            )
        };
        let offsets = self.metadata.offset_keys();
        let infos: BTreeMap<&str, _> = offsets
            .iter()
            .filter_map(|name| {
                let info = self.metadata.info(name)?;
                Some((name.as_str(), (info.dtype, info.shape.clone())))
            })
            .collect();
        let sums: Option<Vec<u32>> = text
            .as_bytes()
            .chunks(SUM_DIGITS)
            .map(|digits| {
                let digits = std::str::from_utf8(digits).ok()?;
                u32::from_str_radix(digits, 16).ok()
            })
            .collect();
        // As they are written: a capital would be another byte.
        let plain = text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        let sums = sums.filter(|sums| plain && text.len() == sums.len() * SUM_DIGITS);
        let sums = sums.filter(|sums| sums.len() == infos.len() + 1);
        let Some((header, sums)) = sums.as_deref().and_then(<[u32]>::split_last) else {
            return Err(changed(&format!(
                "the note is not that of {} tensors",
                infos.len()
            )));
        };
        let notes = self.metadata.metadata().iter().flatten();
        let notes = notes.map(|(name, note)| (name.clone(), note.clone()));
        if header_sum(&notes.collect(), &infos).ok() != Some(*header) {
            return Err(changed("the header is not the one that was written"));
        }
        let names = infos.into_keys().map(str::to_owned);
        Ok(names.zip(sums.iter().copied()).collect())
    }

    /// An entry of the file's own notes (`__metadata__`).
    pub fn note(&self, key: &str) -> Option<&str> {
        let notes = self.metadata.metadata().as_ref()?;
        notes.get(key).map(String::as_str)
    }

    /// Tensors that share their numbers with another: their names, and the names under which they are stored.
    /// `safetensors.torch.save_model` stores such numbers once and lists the names in the file's own notes.
    pub fn aliases(&self) -> Vec<(String, String)> {
        let notes = self.metadata.metadata().iter().flatten();
        let stored = |name: &str| self.metadata.info(name).is_some();
        notes
            .filter(|(name, other)| !stored(name) && stored(other))
            .map(|(name, other)| (name.clone(), other.clone()))
            .collect()
    }

    /// The checksum of each tensor, by name; none in a file without.
    pub fn checksums(&self) -> &BTreeMap<String, u32> {
        &self.checksums
    }

    /// Every tensor, without the checksums.
    pub fn infos(&self) -> Vec<(String, TensorInfo)> {
        let info = |name: &String| Some((name.clone(), self.info(name)?));
        self.metadata
            .offset_keys()
            .iter()
            .filter(|name| *name != CHECKSUMS)
            .filter_map(info)
            .collect()
    }

    /// A tensor's dtype and shape.
    pub fn info(&self, name: &str) -> Option<TensorInfo> {
        let info = self.metadata.info(name)?;
        let dtype = match info.dtype {
            safetensors::Dtype::F64 => Dtype::F64,
            safetensors::Dtype::F32 => Dtype::F32,
            safetensors::Dtype::F16 => Dtype::F16,
            safetensors::Dtype::BF16 => Dtype::Bf16,
            _ => Dtype::Other,
        };
        Some(TensorInfo {
            dtype,
            shape: info.shape.clone(),
        })
    }

    /// A tensor's bytes, little-endian.
    ///
    /// # Errors
    ///
    /// There is no such tensor, it cannot be read, or it is not what was written, where the file has checksums.
    pub fn bytes(&mut self, name: &str) -> Result<Vec<u8>, WeightsError> {
        let mut bytes = Vec::new();
        self.bytes_into(name, &mut bytes)?;
        Ok(bytes)
    }

    /// As [`bytes`](Self::bytes), into existing memory: fresh memory for every tensor costs as much as reading it.
    ///
    /// # Errors
    ///
    /// There is no such tensor or it cannot be read.
    pub fn bytes_into(&mut self, name: &str, bytes: &mut Vec<u8>) -> Result<(), WeightsError> {
        let Some(info) = self.metadata.info(name) else {
            return Err(WeightsError::content(
                &self.path,
                format!("holds no tensor `{name}`"),
            ));
        };
        let (start, end) = info.data_offsets;
        bytes.resize(end - start, 0);
        self.file
            .seek(SeekFrom::Start(self.data_start + start as u64))
            .and_then(|_| self.file.read_exact(bytes))
            .map_err(WeightsError::file("read", &self.path))?;
        match self.checksums.get(name) {
            Some(sum) if *sum != crc32c::crc32c(bytes) => Err(WeightsError::content(
                &self.path,
                format!("is damaged: the bytes of `{name}` are not those that were written"),
            )),
            _ => Ok(()),
        }
    }

    /// Some rows of a matrix of f32, in place of what `rows` holds.
    ///
    /// # Errors
    ///
    /// There is no such matrix or it has fewer rows, or it cannot be read.
    pub fn rows_into(
        &mut self,
        name: &str,
        first: usize,
        count: usize,
        rows: &mut Vec<f32>,
    ) -> Result<(), WeightsError> {
        let wrong = |what: &str| {
            WeightsError::content(
                &self.path,
                format!(
                    "`{name}` {what}, and rows {first} to {} of it are asked for",
                    first + count
                ),
            )
        };
        let Some(info) = self.metadata.info(name) else {
            return Err(wrong("is not in it"));
        };
        let &[all, width] = info.shape.as_slice() else {
            return Err(wrong("is no matrix"));
        };
        if info.dtype != safetensors::Dtype::F32 {
            return Err(wrong("does not hold f32"));
        }
        if first + count > all {
            return Err(wrong(&format!("has {all} rows")));
        }
        let (start, row) = (info.data_offsets.0, width * size_of::<f32>());
        let mut bytes = std::mem::take(&mut self.buffer);
        bytes.resize(count * row, 0);
        let at = self.data_start + (start + first * row) as u64;
        self.file
            .seek(SeekFrom::Start(at))
            .and_then(|_| self.file.read_exact(&mut bytes))
            .map_err(WeightsError::file("read", &self.path))?;
        rows.clear();
        let (numbers, _) = bytes.as_chunks();
        rows.extend(numbers.iter().map(|bytes| f32::from_le_bytes(*bytes)));
        self.buffer = bytes;
        Ok(())
    }

    /// A tensor's values as f32, if it holds floats of at most 32 bits.
    ///
    /// # Errors
    ///
    /// There is no such tensor, it holds something else, or it cannot be read.
    pub fn values(&mut self, name: &str) -> Result<Vec<f32>, WeightsError> {
        let bytes = self.bytes(name)?;
        self.info(name)
            .and_then(|info| info.dtype.decode(&bytes))
            .ok_or_else(|| {
                WeightsError::content(&self.path, format!("`{name}` does not hold floats"))
            })
    }
}

impl SafetensorsFile {
    /// The values and the shape of a tensor of whole numbers; whole floats count too.
    ///
    /// # Errors
    ///
    /// There is no such tensor, it holds something else, or it cannot be read.
    pub fn integers(&mut self, name: &str) -> Result<(Vec<i64>, Vec<usize>), WeightsError> {
        fn each<const N: usize>(bytes: &[u8], one: impl Fn([u8; N]) -> i64) -> Vec<i64> {
            let (numbers, _) = bytes.as_chunks::<N>();
            numbers.iter().map(|number| one(*number)).collect()
        }
        let bytes = self.bytes(name)?;
        let info = self.metadata.info(name);
        let values = match info.map(|info| info.dtype) {
            Some(safetensors::Dtype::I64) => each(&bytes, i64::from_le_bytes),
            Some(safetensors::Dtype::I32) => each(&bytes, |b| i64::from(i32::from_le_bytes(b))),
            Some(safetensors::Dtype::U8 | safetensors::Dtype::BOOL) => {
                bytes.iter().map(|b| i64::from(*b)).collect()
            }
            Some(safetensors::Dtype::F32) => each(&bytes, |b| f32::from_le_bytes(b) as i64),
            _ => {
                return Err(WeightsError::content(
                    &self.path,
                    format!("`{name}` does not hold whole numbers"),
                ));
            }
        };
        let shape = info.map(|info| info.shape.clone()).unwrap_or_default();
        Ok((values, shape))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file of two tensors, `a` [2] and `b` [1, 3], with the header given instead of the right one.
    fn file(header: &str, data: usize) -> tempfile::NamedTempFile {
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header.as_bytes());
        bytes.extend((0..data).map(|i| i as u8));
        let file = tempfile::Builder::new()
            .suffix(".safetensors")
            .tempfile()
            .unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        file
    }

    const A: &str = r#""a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}"#;

    #[test]
    fn reads_what_is_there() {
        let good = file(&format!("{{{A},\"__metadata__\":{{\"x\":\"y\"}}}}"), 8);
        let mut opened = SafetensorsFile::open(good.path()).unwrap();
        assert_eq!(opened.note("x"), Some("y"));
        assert_eq!(opened.infos().len(), 1);
        assert_eq!(opened.bytes("a").unwrap(), [0, 1, 2, 3, 4, 5, 6, 7]);
        assert!(opened.bytes("b").is_err());
        assert!(SafetensorsFile::looks_like(good.path()).unwrap());
    }

    #[test]
    fn rows_of_a_matrix_are_read_alone() {
        let header = r#"{"m":{"dtype":"F32","shape":[3,2],"data_offsets":[0,24]},"v":{"dtype":"F32","shape":[2],"data_offsets":[24,32]}}"#;
        let file = file(header, 32);
        let mut opened = SafetensorsFile::open(file.path()).unwrap();
        let whole = opened.values("m").unwrap();
        let mut rows = vec![1.0; 9];
        for (first, count) in [(0, 3), (1, 2), (2, 1), (1, 0)] {
            opened.rows_into("m", first, count, &mut rows).unwrap();
            assert_eq!(rows, whole[2 * first..2 * (first + count)]);
        }
        for (name, first, count, says) in [
            ("m", 2, 2, "has 3 rows"),
            ("v", 0, 1, "is no matrix"),
            ("w", 0, 1, "is not in it"),
        ] {
            let error = opened.rows_into(name, first, count, &mut rows).unwrap_err();
            assert!(error.to_string().contains(says), "{error}");
        }
    }

    #[test]
    fn damage_is_named() {
        let overlapping = r#""b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}"#;
        let beyond = r#""b":{"dtype":"F32","shape":[2],"data_offsets":[8,16]}"#;
        let overflow = r#""b":{"dtype":"F32","shape":[4294967296,4294967296,4294967296],"data_offsets":[8,16]}"#;
        for (header, data, says) in [
            (format!("{{{A}}}"), 7, "truncated"),
            (format!("{{{A}}}"), 9, "too long"),
            (format!("{{{A},{overlapping}}}"), 12, "damaged"),
            (format!("{{{A},{beyond}}}"), 8, "truncated"),
            (format!("{{{A},{overflow}}}"), 16, "damaged"),
            (format!("{{{A},{A}}}"), 8, "`a` occurs twice"),
            ("{".to_owned(), 8, "damaged"),
            ("[]".to_owned(), 8, "damaged"),
        ] {
            let bad = file(&header, data);
            let error = SafetensorsFile::open(bad.path()).err().unwrap().to_string();
            assert!(error.contains(says), "{header}: {error}");
        }
    }

    #[test]
    fn a_header_length_allocates_nothing() {
        let file = tempfile::NamedTempFile::new().unwrap();
        for length in [u64::MAX, 1 << 40, 3] {
            std::fs::write(file.path(), length.to_le_bytes()).unwrap();
            assert!(SafetensorsFile::open(file.path()).is_err());
        }
    }
}

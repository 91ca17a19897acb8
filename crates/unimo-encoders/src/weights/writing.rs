//! Writing a safetensors file, one tensor at a time.
//!
//! The crate `safetensors` writes whole files under a temporary name of its own. Here the caller decides where the bytes go, and
//! equal tensors with equal notes give equal bytes.
//!
//! A checked file ([`write_checked`]) has one tensor more, [`CHECKSUMS`], with the CRC-32C of each of the others, so that a byte that a disk
//! or a copy has changed is noticed. It stands last, so that each tensor is fetched once. A file for other programs, which expect no such
//! tensor, has the checksums in a note of that name ([`write_noted`]); so has its header.

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};

use safetensors::Dtype;
use safetensors::tensor::View;
use serde_json::{Map, Value, json};

/// The header's length is a multiple of this, so that the tensors after it are aligned.
const ALIGNMENT: usize = 8;

/// Writes tensors with their names, and `notes` as the file's metadata. A tensor's values are fetched when its turn comes.
///
/// # Errors
///
/// Two tensors have one name, a tensor gives another number of bytes than it said, or `out` cannot be written.
pub fn write<N: AsRef<str>, V: View>(
    out: &mut dyn Write,
    mut tensors: Vec<(N, V)>,
    notes: &BTreeMap<String, String>,
) -> io::Result<()> {
    // Writing wide types first keeps every tensor aligned.
    tensors.sort_by(|(a, left), (b, right)| {
        let wide_first = right.dtype().cmp(&left.dtype());
        wide_first.then_with(|| a.as_ref().cmp(b.as_ref()))
    });
    let mut header = Map::new();
    if !notes.is_empty() {
        header.insert("__metadata__".to_owned(), json!(notes));
    }
    let mut names = BTreeSet::new();
    let mut offset = 0;
    for (name, tensor) in &tensors {
        let name = name.as_ref();
        if !names.insert(name) || name == "__metadata__" {
            return Err(io::Error::other(format!("two tensors are called `{name}`")));
        }
        let end = offset + tensor.data_len();
        let about: Value = json!({
            "dtype": tensor.dtype(),
            "shape": tensor.shape(),
            "data_offsets": [offset, end],
        });
        header.insert(name.to_owned(), about);
        offset = end;
    }
    let mut header = serde_json::to_vec(&header)?;
    header.resize(header.len().next_multiple_of(ALIGNMENT), b' ');
    out.write_all(&(header.len() as u64).to_le_bytes())?;
    out.write_all(&header)?;
    for (name, tensor) in &tensors {
        let bytes = tensor.data();
        if bytes.len() != tensor.data_len() {
            return Err(io::Error::other(format!(
                "`{}` has {} bytes instead of {}",
                name.as_ref(),
                bytes.len(),
                tensor.data_len()
            )));
        }
        out.write_all(&bytes)?;
    }
    Ok(())
}

/// The tensor of a checked file that has the checksums of all others: four bytes each, little-endian, in the order of the names.
pub(super) const CHECKSUMS: &str = "unimo.checksums";

/// A tensor of a checked file.
enum Checked<'a, V> {
    /// One of the caller's. Its checksum is noted when its bytes are fetched.
    Given(&'a str, &'a V, &'a RefCell<BTreeMap<String, u32>>),
    /// The checksums.
    Sums([usize; 1], &'a RefCell<BTreeMap<String, u32>>),
}

impl<V: View> View for Checked<'_, V> {
    fn dtype(&self) -> Dtype {
        match self {
            Self::Given(_, tensor, _) => tensor.dtype(),
            Self::Sums(..) => Dtype::U8,
        }
    }

    fn shape(&self) -> &[usize] {
        match self {
            Self::Given(_, tensor, _) => tensor.shape(),
            Self::Sums(shape, _) => shape,
        }
    }

    fn data(&self) -> Cow<'_, [u8]> {
        match self {
            Self::Given(name, tensor, sums) => {
                let bytes = tensor.data();
                let sum = crc32c::crc32c(&bytes);
                sums.borrow_mut().insert((*name).to_owned(), sum);
                bytes
            }
            Self::Sums(_, sums) => {
                let sums = sums.borrow();
                Cow::Owned(sums.values().flat_map(|sum| sum.to_le_bytes()).collect())
            }
        }
    }

    fn data_len(&self) -> usize {
        match self {
            Self::Given(_, tensor, _) => tensor.data_len(),
            Self::Sums([bytes], _) => *bytes,
        }
    }
}

/// As [`write()`], with a checksum of each tensor, which [`SafetensorsFile`](super::SafetensorsFile) compares as it reads.
///
/// # Errors
///
/// Those of [`write()`]; and a tensor is of bytes, which would have to stand behind the checksums.
pub fn write_checked<N: AsRef<str>, V: View>(
    out: &mut dyn Write,
    tensors: Vec<(N, V)>,
    notes: &BTreeMap<String, String>,
) -> io::Result<()> {
    let sums = RefCell::new(BTreeMap::new());
    if let Some((name, _)) = tensors.iter().find(|(_, t)| t.dtype() <= Dtype::U8) {
        let name = name.as_ref();
        return Err(io::Error::other(format!(
            "`{name}` holds bytes; a checked file holds wider numbers alone"
        )));
    }
    let bytes = tensors.len() * size_of::<u32>();
    let given = tensors.iter().map(|(name, tensor)| {
        let name = name.as_ref();
        (name, Checked::Given(name, tensor, &sums))
    });
    let all = given.chain([(CHECKSUMS, Checked::Sums([bytes], &sums))]);
    write(out, all.collect(), notes)
}

/// As [`write()`], with a checksum of each tensor and one of the header in a note, which [`SafetensorsFile`](super::SafetensorsFile) compares.
/// Each tensor is fetched twice: notes stand before what they are about.
///
/// # Errors
///
/// Those of [`write()`].
pub fn write_noted<N: AsRef<str>, V: View>(
    out: &mut dyn Write,
    tensors: Vec<(N, V)>,
    notes: &BTreeMap<String, String>,
) -> io::Result<()> {
    let mut sums: BTreeMap<&str, u32> = BTreeMap::new();
    let mut infos = BTreeMap::new();
    for (name, tensor) in &tensors {
        sums.insert(name.as_ref(), crc32c::crc32c(&tensor.data()));
        infos.insert(name.as_ref(), (tensor.dtype(), tensor.shape().to_vec()));
    }
    let all = sums.into_values().chain([header_sum(notes, &infos)?]);
    let all: Vec<String> = all.map(|sum| format!("{sum:08x}")).collect();
    let mut notes = notes.clone();
    notes.insert(CHECKSUMS.to_owned(), all.concat());
    write(out, tensors, &notes)
}

/// The checksum of a header: its notes without the checksums, and name, type and shape of each tensor.
pub(super) fn header_sum(
    notes: &BTreeMap<String, String>,
    infos: &BTreeMap<&str, (Dtype, Vec<usize>)>,
) -> serde_json::Result<u32> {
    let notes = notes.iter().filter(|(name, _)| *name != CHECKSUMS);
    let notes: BTreeMap<_, _> = notes.collect();
    Ok(crc32c::crc32c(&serde_json::to_vec(&(notes, infos))?))
}

#[cfg(test)]
mod tests {
    use safetensors::SafeTensors;
    use safetensors::tensor::TensorView;

    use super::*;

    fn written(order: &[usize]) -> Vec<u8> {
        let all = [
            ("b", Dtype::F32, vec![2, 1], vec![1, 2, 3, 4, 5, 6, 7, 8]),
            ("half", Dtype::F16, vec![1], vec![9, 8]),
            ("a", Dtype::F32, vec![1], vec![4, 3, 2, 1]),
        ];
        let tensors = order
            .iter()
            .map(|at| &all[*at])
            .map(|(name, dtype, shape, bytes)| {
                let view = TensorView::new(*dtype, shape.clone(), bytes).unwrap();
                (*name, view)
            })
            .collect();
        let notes = ["x", "y", "z"].map(|key| (key.to_owned(), format!("\"{key}\"")));
        let mut out = Vec::new();
        write(&mut out, tensors, &BTreeMap::from(notes)).unwrap();
        out
    }

    #[test]
    fn what_is_written_is_read_and_does_not_depend_on_the_order() {
        let bytes = written(&[0, 1, 2]);
        assert_eq!(bytes, written(&[2, 1, 0]));
        let read = SafeTensors::deserialize(&bytes).unwrap();
        assert_eq!(read.len(), 3);
        let b = read.tensor("b").unwrap();
        assert_eq!(
            (b.shape(), b.data()),
            (&[2, 1][..], &[1, 2, 3, 4, 5, 6, 7, 8][..])
        );
        assert_eq!(read.tensor("half").unwrap().data(), [9, 8]);
        let (_, about) = SafeTensors::read_metadata(&bytes).unwrap();
        assert_eq!(about.metadata().as_ref().unwrap()["y"], "\"y\"");
    }

    #[test]
    fn two_tensors_of_one_name_are_an_error() {
        let view = || TensorView::new(Dtype::F32, vec![1], &[0; 4]).unwrap();
        let twice = vec![("a", view()), ("a", view())];
        let error = write(&mut Vec::new(), twice, &BTreeMap::new()).unwrap_err();
        assert!(error.to_string().contains("`a`"), "{error}");
    }

    #[test]
    fn a_file_with_noted_checksums_notices_each_changed_byte() {
        use super::super::SafetensorsFile;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.safetensors");
        let view = |bytes| TensorView::new(Dtype::F32, vec![1], bytes).unwrap();
        let tensors = || vec![("b", view(&[1, 2, 3, 4])), ("a", view(&[5, 6, 7, 8]))];
        let notes = BTreeMap::from([("format".to_owned(), "pt".to_owned())]);
        let mut whole = Vec::new();
        write_noted(&mut whole, tensors(), &notes).unwrap();
        let read = |bytes: &[u8]| {
            std::fs::write(&path, bytes).unwrap();
            let mut file = SafetensorsFile::open(&path)?;
            Ok::<_, super::super::WeightsError>([file.bytes("a")?, file.bytes("b")?])
        };
        let values = [vec![5, 6, 7, 8], vec![1, 2, 3, 4]];
        assert_eq!(read(&whole).unwrap(), values);
        // Other programs find two tensors and notes of text.
        assert_eq!(SafeTensors::deserialize(&whole).unwrap().len(), 2);
        let blanks = whole.iter().rev().skip(8).take_while(|b| **b == b' ');
        let blank = whole.len() - 8 - blanks.count()..whole.len() - 8;
        let mut noticed = 0;
        for at in (0..whole.len()).filter(|at| !blank.contains(at)) {
            for bit in 0..8 {
                let mut damaged = whole.clone();
                damaged[at] ^= 1 << bit;
                // The name of the note itself may be hit: then nothing is checked, and nothing else is damaged.
                match read(&damaged) {
                    Err(_) => noticed += 1,
                    Ok(found) => assert_eq!(found, values, "bit {bit} of byte {at}"),
                }
            }
        }
        let name = CHECKSUMS.len();
        assert!(
            noticed >= 8 * (whole.len() - blank.len() - name),
            "{noticed}"
        );
        // What an earlier version wrote is read.
        let mut without = Vec::new();
        write(&mut without, tensors(), &notes).unwrap();
        assert_eq!(read(&without).unwrap(), values);
    }

    #[test]
    fn a_checked_file_notices_each_changed_byte() {
        use super::super::SafetensorsFile;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.safetensors");
        let view = |bytes| TensorView::new(Dtype::F32, vec![1], bytes).unwrap();
        let tensors = vec![("b", view(&[1, 2, 3, 4])), ("a", view(&[5, 6, 7, 8]))];
        let mut whole = Vec::new();
        write_checked(&mut whole, tensors, &BTreeMap::new()).unwrap();
        let read = |bytes: &[u8], name: &str| {
            std::fs::write(&path, bytes).unwrap();
            SafetensorsFile::open(&path).and_then(|mut file| file.values(name))
        };
        assert!(read(&whole, "a").is_ok() && read(&whole, "b").is_ok());
        std::fs::write(&path, &whole).unwrap();
        assert_eq!(SafetensorsFile::open(&path).unwrap().infos().len(), 2);
        let sums = 8;
        let data = whole.len() - sums - 8;
        for at in data..data + 8 {
            let mut damaged = whole.clone();
            damaged[at] ^= 0x10;
            let (hit, other) = if at < data + 4 {
                ("a", "b")
            } else {
                ("b", "a")
            };
            let error = read(&damaged, hit).unwrap_err().to_string();
            assert!(error.contains(&format!("`{hit}`")), "{error}");
            assert!(read(&damaged, other).is_ok());
        }
    }
}

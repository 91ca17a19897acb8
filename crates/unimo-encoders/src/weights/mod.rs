//! Tensors by name, from whatever file a public checkpoint comes in.
//!
//! | given | read |
//! |---|---|
//! | a Hugging Face folder | `model.safetensors`, its sharded index, or `pytorch_model.bin` and its index |
//! | `*.safetensors` | one safetensors file |
//! | `*.index.json` | the shards that it names, which must lie in its own folder |
//! | anything else | a PyTorch file: zip, legacy or tar, a Lightning checkpoint's `state_dict` inside |
//!
//! Opening reads names, dtypes and shapes; values are read one tensor at a time and come as f32. PyTorch files are parsed
//! as data: nothing in them is ever executed.
//!
//! Two spellings of old checkpoints are brought to today's when a file is opened, before anybody asks for a name:
//! `gamma` and `beta` of layer norms, and the `module.` that data-parallel training puts before every name.

mod pytorch;
mod safetensors;
mod shards;

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

pub use safetensors::SafetensorsFile;

/// A file of weights that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum WeightsError {
    /// The operating system said no.
    #[error("cannot {action} {}: {source}", path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The file is not what it should be.
    #[error("{} {reason}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong, as the end of a sentence that begins with the file.
        reason: String,
    },
}

impl WeightsError {
    pub(crate) fn file(
        action: &'static str,
        path: &Path,
    ) -> impl FnOnce(std::io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |source| Self::File {
            action,
            path,
            source,
        }
    }

    pub(crate) fn content(path: &Path, reason: impl Into<String>) -> Self {
        Self::Content {
            path: path.to_owned(),
            reason: reason.into(),
        }
    }
}

/// How the numbers of a tensor are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dtype {
    /// 64-bit floats.
    F64,
    /// 32-bit floats.
    F32,
    /// IEEE half precision.
    F16,
    /// The upper half of an f32.
    Bf16,
    /// Whole numbers, truth values and quantised formats: never weights.
    Other,
}

impl Dtype {
    /// Bytes per number.
    fn size(self) -> Option<usize> {
        match self {
            Self::F64 => Some(8),
            Self::F32 => Some(4),
            Self::F16 | Self::Bf16 => Some(2),
            Self::Other => None,
        }
    }

    /// Little-endian bytes as f32.
    fn decode(self, bytes: &[u8]) -> Option<Vec<f32>> {
        fn each<const N: usize>(bytes: &[u8], one: impl Fn([u8; N]) -> f32) -> Vec<f32> {
            let (numbers, _) = bytes.as_chunks::<N>();
            numbers.iter().map(|number| one(*number)).collect()
        }
        match self {
            Self::F64 => Some(each(bytes, |b| f64::from_le_bytes(b) as f32)),
            Self::F32 => Some(each(bytes, f32::from_le_bytes)),
            Self::F16 => Some(each(bytes, |b| half::f16::from_le_bytes(b).to_f32())),
            Self::Bf16 => Some(each(bytes, |b| half::bf16::from_le_bytes(b).to_f32())),
            Self::Other => None,
        }
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F64 => "f64",
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
            Self::Other => "no float",
        })
    }
}

/// A tensor without its values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// How it is stored.
    pub dtype: Dtype,
    /// Its shape, as PyTorch has it.
    pub shape: Vec<usize>,
}

/// One opened file.
enum Container {
    Safetensors(SafetensorsFile),
    PyTorch(pytorch::PyTorchFile),
}

impl Container {
    fn open(path: &Path) -> Result<Self, WeightsError> {
        match SafetensorsFile::looks_like(path)? {
            true => SafetensorsFile::open(path).map(Self::Safetensors),
            false => pytorch::PyTorchFile::open(path).map(Self::PyTorch),
        }
    }

    fn infos(&self) -> Vec<(String, TensorInfo)> {
        match self {
            Self::Safetensors(file) => file.infos(),
            Self::PyTorch(file) => file.infos(),
        }
    }

    fn bytes_into(&mut self, name: &str, bytes: &mut Vec<u8>) -> Result<(), WeightsError> {
        match self {
            Self::Safetensors(file) => file.bytes_into(name, bytes),
            Self::PyTorch(file) => {
                *bytes = file.bytes(name)?;
                Ok(())
            }
        }
    }
}

/// Where a tensor is and what it is called there.
struct Entry {
    container: usize,
    own_name: String,
    info: TensorInfo,
}

/// An opened checkpoint.
pub struct Weights {
    path: PathBuf,
    containers: Vec<Container>,
    entries: BTreeMap<String, Entry>,
    /// The bytes of the tensor that was read last.
    buffer: Vec<u8>,
}

impl fmt::Debug for Weights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} tensors of {}",
            self.entries.len(),
            self.path.display()
        )
    }
}

impl Weights {
    /// Opens a folder or a file; see the [module](self) for what can be given.
    ///
    /// # Errors
    ///
    /// A missing, unreadable or damaged file; a folder without weights; a name that occurs twice.
    pub fn open(path: &Path) -> Result<Self, WeightsError> {
        let mut entries = BTreeMap::new();
        let mut containers = Vec::new();
        for file in shards::files(path)? {
            let container = Container::open(&file.path)?;
            let infos = container.infos();
            if let Some(expected) = &file.expected {
                let found: std::collections::BTreeSet<&str> =
                    infos.iter().map(|(name, _)| name.as_str()).collect();
                if let Some(lacking) = expected.iter().find(|name| !found.contains(name.as_str())) {
                    return Err(WeightsError::content(
                        &file.path,
                        format!("lacks `{lacking}`, which the index says is in it"),
                    ));
                }
            }
            let parallel = infos.iter().all(|(name, _)| name.starts_with(PARALLEL));
            for (own_name, info) in infos {
                let name = today(&own_name, parallel);
                let entry = Entry {
                    container: containers.len(),
                    own_name,
                    info,
                };
                if let Some(other) = entries.insert(name.clone(), entry) {
                    return Err(WeightsError::content(
                        &file.path,
                        format!("holds `{name}` twice (once as `{}`)", other.own_name),
                    ));
                }
            }
            containers.push(container);
        }
        if entries.is_empty() {
            return Err(WeightsError::content(path, "holds no tensor"));
        }
        Ok(Self {
            path: path.to_owned(),
            containers,
            entries,
            buffer: Vec::new(),
        })
    }

    /// What was given to [`Weights::open`].
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Every tensor, by name.
    pub fn infos(&self) -> impl Iterator<Item = (&str, &TensorInfo)> {
        self.entries
            .iter()
            .map(|(name, entry)| (name.as_str(), &entry.info))
    }

    /// A tensor's dtype and shape.
    pub fn info(&self, name: &str) -> Option<&TensorInfo> {
        self.entries.get(name).map(|entry| &entry.info)
    }

    /// A tensor's values, row-major.
    ///
    /// # Errors
    ///
    /// There is no such tensor, it does not hold floats, or it cannot be read.
    pub fn read(&mut self, name: &str) -> Result<Vec<f32>, WeightsError> {
        let (dtype, bytes) = self.bytes(name)?;
        dtype.decode(bytes).ok_or_else(|| self.no_floats(name))
    }

    fn no_floats(&self, name: &str) -> WeightsError {
        WeightsError::content(&self.path, format!("`{name}` does not hold floats"))
    }

    /// A tensor's dtype and bytes, as many as its shape says.
    ///
    /// # Errors
    ///
    /// There is no such tensor, it does not hold floats, or it cannot be read.
    pub fn bytes(&mut self, name: &str) -> Result<(Dtype, &[u8]), WeightsError> {
        let Some(entry) = self.entries.get(name) else {
            return Err(WeightsError::content(
                &self.path,
                format!("holds no tensor `{name}`"),
            ));
        };
        let TensorInfo { dtype, shape } = &entry.info;
        let Some(size) = dtype.size() else {
            return Err(self.no_floats(name));
        };
        let (dtype, expected) = (*dtype, shape.iter().product::<usize>() * size);
        self.containers[entry.container].bytes_into(&entry.own_name, &mut self.buffer)?;
        if self.buffer.len() != expected {
            return Err(WeightsError::content(
                &self.path,
                format!("`{name}` has another size than its shape {shape:?} says"),
            ));
        }
        Ok((dtype, &self.buffer))
    }
}

/// What data-parallel training puts before every name.
const PARALLEL: &str = "module.";

/// A name as it is spelt today.
fn today(name: &str, parallel: bool) -> String {
    let name = match parallel {
        true => &name[PARALLEL.len()..],
        false => name,
    };
    match name.rsplit_once('.') {
        Some((layer, "gamma")) => format!("{layer}.weight"),
        Some((layer, "beta")) => format!("{layer}.bias"),
        _ => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_spellings_are_todays() {
        assert_eq!(today("a.LayerNorm.gamma", false), "a.LayerNorm.weight");
        assert_eq!(today("module.a.LayerNorm.beta", true), "a.LayerNorm.bias");
        assert_eq!(today("module.a.gamma_x", false), "module.a.gamma_x");
    }

    #[test]
    fn half_precision_is_read_exactly() {
        let values = [0.0f32, -1.5, 0.333_251_95, 65504.0];
        let f16: Vec<u8> = values
            .iter()
            .flat_map(|v| half::f16::from_f32(*v).to_le_bytes())
            .collect();
        assert_eq!(Dtype::F16.decode(&f16).unwrap(), values);
        let bf16: Vec<u8> = [1.0f32, -3.140625]
            .iter()
            .flat_map(|v| half::bf16::from_f32(*v).to_le_bytes())
            .collect();
        assert_eq!(Dtype::Bf16.decode(&bf16).unwrap(), [1.0, -3.140625]);
        assert_eq!(Dtype::Other.decode(&bf16), None);
    }
}

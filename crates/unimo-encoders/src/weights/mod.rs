//! Tensors by name, from whatever file a public checkpoint comes in.
//!
//! | given | read |
//! |---|---|
//! | a Hugging Face folder | `model.safetensors`, its sharded index, or `pytorch_model.bin` and its index |
//! | `*.safetensors` | one safetensors file |
//! | `*.index.json` | the shards that it names, which must lie in its own folder |
//! | anything else | a PyTorch file: zip, legacy or tar, or TorchScript |
//!
//! Opening reads names, dtypes and shapes; values are read one tensor at a time and come as f32. PyTorch files are parsed
//! as data: nothing in them is ever executed.
//!
//! When a file is opened, its names become those that the model itself uses. Parts that wrappers, training scripts and old
//! releases added are stripped (`spelling`). Tensors that a file says are stored under another name are found there.
//! [`Weights::notes`] says what was done.

mod distinct;
mod pytorch;
mod safetensors;
mod shards;
mod spelling;
mod torchscript;
mod writing;

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

pub(crate) use distinct::keys_are_distinct;
pub use safetensors::SafetensorsFile;
pub use writing::{
    write as write_safetensors, write_checked as write_checked_safetensors,
    write_noted as write_noted_safetensors,
};

/// A file of weights that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum WeightsError {
    /// The operating system refused.
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
    TorchScript(torchscript::TorchScriptFile),
}

/// How often the bytes of a file may occur in its tensors: tied weights occur twice.
const SHARED_AT_MOST: u128 = 4;

impl Container {
    fn open(path: &Path) -> Result<Self, WeightsError> {
        if path.is_file()
            && let Some(what) = shards::in_place_of_weights(path)?
        {
            return Err(WeightsError::content(path, what));
        }
        if SafetensorsFile::looks_like(path)? {
            return SafetensorsFile::open(path).map(Self::Safetensors);
        }
        match torchscript::TorchScriptFile::open(path)? {
            Some(file) => Ok(Self::TorchScript(file)),
            None => pytorch::PyTorchFile::open(path).map(Self::PyTorch),
        }
    }

    /// Names of tensors that are stored under another name of the same file.
    fn aliases(&self) -> Vec<(String, String)> {
        match self {
            Self::Safetensors(file) => file.aliases(),
            Self::PyTorch(_) | Self::TorchScript(_) => Vec::new(),
        }
    }

    fn infos(&self) -> Vec<(String, TensorInfo)> {
        match self {
            Self::Safetensors(file) => file.infos(),
            Self::PyTorch(file) => file.infos(),
            Self::TorchScript(file) => file.infos(),
        }
    }

    fn bytes_into(&mut self, name: &str, bytes: &mut Vec<u8>) -> Result<(), WeightsError> {
        match self {
            Self::Safetensors(file) => file.bytes_into(name, bytes),
            Self::PyTorch(file) => {
                *bytes = file.bytes(name)?;
                Ok(())
            }
            Self::TorchScript(file) => {
                *bytes = file.bytes(name)?;
                Ok(())
            }
        }
    }
}

/// Where a tensor is, and its name there.
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
    /// Further names of tensors, and the names under which they are stored.
    aliases: BTreeMap<String, String>,
    notes: Vec<String>,
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
        let mut containers = Vec::new();
        let mut all = Vec::new();
        let mut tied = Vec::new();
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
            let number = containers.len();
            all.extend(infos.into_iter().map(|(name, info)| (number, name, info)));
            tied.extend(container.aliases());
            containers.push(container);
        }
        let spelling = spelling::Spelling::of(all.iter().map(|(_, name, _)| name.as_str()));
        let mut entries: BTreeMap<String, Entry> = BTreeMap::new();
        for (container, own_name, info) in all {
            let Some(name) = spelling.today(&own_name) else {
                continue;
            };
            let entry = Entry {
                container,
                own_name,
                info,
            };
            if let Some(other) = entries.get(&name) {
                return Err(WeightsError::content(
                    path,
                    format!(
                        "holds `{name}` twice: as `{}` and as `{}`",
                        other.own_name, entry.own_name
                    ),
                ));
            }
            entries.insert(name, entry);
        }
        if entries.is_empty() {
            return Err(WeightsError::content(path, "holds no tensor"));
        }
        let mut aliases = BTreeMap::new();
        for (name, stored) in tied {
            let names = (spelling.today(&name), spelling.today(&stored));
            if let (Some(name), Some(stored)) = names
                && !entries.contains_key(&name)
                && entries.contains_key(&stored)
            {
                aliases.insert(name, stored);
            }
        }
        Ok(Self {
            path: path.to_owned(),
            containers,
            entries,
            aliases,
            notes: spelling.notes(),
            buffer: Vec::new(),
        })
    }

    /// The same with the tensors of one section of a further file, which are none of these.
    ///
    /// # Errors
    ///
    /// The file cannot be read or has no such section, or one of its tensors is in both.
    pub fn and_section(mut self, path: &Path, section: &str) -> Result<Self, WeightsError> {
        let further = Self::open_section(path, section)?;
        let before = self.containers.len();
        for (name, entry) in further.entries {
            if self.entries.contains_key(&name) {
                let reason = format!("holds `{name}`, as {} does", self.path.display());
                return Err(WeightsError::content(path, reason));
            }
            let container = before + entry.container;
            self.entries.insert(name, Entry { container, ..entry });
        }
        self.containers.extend(further.containers);
        Ok(self)
    }

    /// Opens one section of a safetensors file: tensors whose names begin with `section` and a dot, by the rest of their names.
    ///
    /// # Errors
    ///
    /// The file cannot be read, or has no such section.
    pub fn open_section(path: &Path, section: &str) -> Result<Self, WeightsError> {
        let container = Container::open(path)?;
        let entry = |(own_name, info): (String, TensorInfo)| {
            let name = own_name
                .strip_prefix(section)?
                .strip_prefix('.')?
                .to_owned();
            let entry = Entry {
                container: 0,
                own_name,
                info,
            };
            Some((name, entry))
        };
        let entries: BTreeMap<String, Entry> =
            container.infos().into_iter().filter_map(entry).collect();
        if entries.is_empty() {
            return Err(WeightsError::content(
                path,
                format!("holds no tensor under `{section}`"),
            ));
        }
        Ok(Self {
            path: path.to_owned(),
            containers: vec![container],
            entries,
            aliases: BTreeMap::new(),
            notes: Vec::new(),
            buffer: Vec::new(),
        })
    }

    /// What was given to [`Weights::open`].
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What was stripped from names and which tensors were set aside, one line each.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// The name under which a tensor is stored: its own, or that of a tensor that the file says is the same.
    pub fn stored_as<'a>(&'a self, name: &'a str) -> Option<&'a str> {
        if self.entries.contains_key(name) {
            return Some(name);
        }
        self.aliases.get(name).map(String::as_str)
    }

    /// Every tensor, by the name under which it is stored.
    pub fn infos(&self) -> impl Iterator<Item = (&str, &TensorInfo)> {
        self.entries
            .iter()
            .map(|(name, entry)| (name.as_str(), &entry.info))
    }

    /// A tensor's dtype and shape.
    pub fn info(&self, name: &str) -> Option<&TensorInfo> {
        let stored = self.stored_as(name)?;
        self.entries.get(stored).map(|entry| &entry.info)
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
        let stored = self.aliases.get(name).map_or(name, String::as_str);
        let Some(entry) = self.entries.get(stored) else {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_downloaded_in_place_of_weights_is_named() {
        let folder = tempfile::tempdir().unwrap();
        for (text, says) in [
            ("", "is empty"),
            (
                "version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
                "Git LFS",
            ),
            ("\n<html><body>404</body></html>", "a web page"),
            ("<!DOCTYPE html><html></html>", "a web page"),
        ] {
            for name in ["model.safetensors", "pytorch_model.bin"] {
                let path = folder.path().join(name);
                std::fs::write(&path, text).unwrap();
                let error = Weights::open(&path).unwrap_err().to_string();
                assert!(error.contains(says), "{error}");
            }
        }
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

//! Reading what `torch.save` wrote, as data: the pickle is parsed, none of it is executed.
//!
//! Nested dictionaries give names with dots: `state_dict.encoder.weight`. [`super::spelling`] decides which part of such a name is
//! the tensor's own.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use pytorch_reader::{DType, PytorchError, PytorchReader, Tensor};

use super::{Dtype, SHARED_AT_MOST, TensorInfo, WeightsError};

/// An opened PyTorch file.
pub(super) struct PyTorchFile {
    path: PathBuf,
    tensors: HashMap<String, Tensor>,
}

impl PyTorchFile {
    pub(super) fn open(path: &Path) -> Result<Self, WeightsError> {
        let about = std::fs::metadata(path).map_err(WeightsError::file("open", path))?;
        if !about.is_file() {
            return Err(WeightsError::content(path, "is not a regular file"));
        }
        let reader = PytorchReader::new(path).map_err(|error| match error {
            PytorchError::Io(source) => WeightsError::File {
                action: "read",
                path: path.to_owned(),
                source,
            },
            other => WeightsError::content(
                path,
                format!(
                    "is neither a safetensors nor a PyTorch file that can be read: {other}. Where PyTorch reads it, \
                     safetensors.torch.save_file(model.state_dict(), \"model.safetensors\") writes what is read here"
                ),
            ),
        })?;
        let tensors = reader.into_tensors();
        // Views may repeat one number without limit; a checkpoint's tensors share storage only now and then.
        let claimed: u128 = tensors.values().map(|t| t.byte_len() as u128).sum();
        let allowed = u128::from(about.len()) * SHARED_AT_MOST;
        if claimed > allowed {
            return Err(WeightsError::content(
                path,
                format!(
                    "has tensors of {claimed} bytes in a file of {}: it is damaged or hostile",
                    about.len()
                ),
            ));
        }
        Ok(Self {
            path: path.to_owned(),
            tensors,
        })
    }

    pub(super) fn infos(&self) -> Vec<(String, TensorInfo)> {
        let info = |(name, tensor): (&String, &Tensor)| {
            let dtype = match tensor.dtype() {
                DType::F64 => Dtype::F64,
                DType::F32 => Dtype::F32,
                DType::F16 => Dtype::F16,
                DType::BF16 => Dtype::Bf16,
                _ => Dtype::Other,
            };
            let shape = tensor.shape().to_vec();
            (name.clone(), TensorInfo { dtype, shape })
        };
        self.tensors.iter().map(info).collect()
    }

    /// A tensor's bytes, little-endian as on every machine that this runs on.
    pub(super) fn bytes(&self, name: &str) -> Result<Vec<u8>, WeightsError> {
        let tensor = self.tensors.get(name).ok_or_else(|| {
            WeightsError::content(&self.path, format!("holds no tensor `{name}`"))
        })?;
        tensor
            .read()
            .map_err(WeightsError::file("read", &self.path))
    }
}

//! `--device`: the backend that computes, chosen at run time among those that are built in.

use std::fmt;
use std::str::FromStr;

use burn::tensor::Device;

use crate::error::TrainError;

/// A value of `--device`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DeviceChoice {
    /// The CPU.
    #[default]
    Flex,
    /// A GPU through Vulkan, Metal, DirectX or WebGPU.
    Wgpu(Option<usize>),
    /// An NVIDIA GPU.
    Cuda(Option<usize>),
    /// CUDA if it is built in and available, else WGPU, else the CPU.
    Auto,
}

/// The allowed values of `--device`, for messages and help.
pub const ALLOWED: &str = "cpu (or flex), wgpu, wgpu:N, cuda, cuda:N or auto";

impl FromStr for DeviceChoice {
    type Err = String;

    fn from_str(given: &str) -> Result<Self, String> {
        let (name, index) = match given.split_once(':') {
            None => (given, None),
            Some((name, index)) => match index.parse() {
                Ok(index) => (name, Some(index)),
                Err(_) => return Err(format!("`{index}` is no device number; allowed: {ALLOWED}")),
            },
        };
        match (name, index) {
            // What others call it; `flex` is the name of burn's backend.
            ("cpu" | "flex", None) => Ok(Self::Flex),
            ("auto", None) => Ok(Self::Auto),
            ("wgpu", index) => Ok(Self::Wgpu(index)),
            ("cuda", index) => Ok(Self::Cuda(index)),
            _ => Err(format!("allowed: {ALLOWED}")),
        }
    }
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, index) = match self {
            Self::Flex => ("flex", None),
            Self::Auto => ("auto", None),
            Self::Wgpu(index) => ("wgpu", *index),
            Self::Cuda(index) => ("cuda", *index),
        };
        match index {
            None => f.write_str(name),
            Some(index) => write!(f, "{name}:{index}"),
        }
    }
}

impl DeviceChoice {
    /// Opens the device, without autodiff, and returns which one it is.
    pub fn open(self) -> Result<(Device, Self), TrainError> {
        match self {
            Self::Flex => Ok((flex()?, self)),
            Self::Wgpu(index) => Ok((wgpu(index)?, self)),
            Self::Cuda(index) => Ok((cuda(index)?, self)),
            Self::Auto => Self::Cuda(None)
                .open()
                .or_else(|_| Self::Wgpu(None).open())
                .or_else(|_| Self::Flex.open()),
        }
    }

    /// The device of one of several ranks on a machine: each has a GPU of its own, by its number among them.
    #[must_use]
    pub fn of_rank(self, local_rank: usize) -> Self {
        match self {
            Self::Cuda(None) => Self::Cuda(Some(local_rank)),
            Self::Wgpu(None) => Self::Wgpu(Some(local_rank)),
            other => other,
        }
    }

    /// The same kind of device, whichever of them.
    #[must_use]
    pub fn of_any(self) -> Self {
        match self {
            Self::Cuda(_) => Self::Cuda(None),
            Self::Wgpu(_) => Self::Wgpu(None),
            other => other,
        }
    }

    /// The feature that builds in the backend.
    pub fn feature(self) -> &'static str {
        match self {
            Self::Flex | Self::Auto => "flex",
            Self::Wgpu(_) => "wgpu",
            Self::Cuda(_) => "cuda",
        }
    }

    #[allow(dead_code)]
    fn not_built_in(self) -> TrainError {
        TrainError::Device {
            given: self.to_string(),
            reason: format!(
                "this binary was built without it; build with `--features {}`",
                self.feature()
            ),
        }
    }

    #[allow(dead_code)]
    fn not_there(self, reason: impl fmt::Display) -> TrainError {
        TrainError::Device {
            given: self.to_string(),
            reason: reason.to_string(),
        }
    }
}

fn flex() -> Result<Device, TrainError> {
    #[cfg(feature = "flex")]
    return Ok(Device::flex());
    #[cfg(not(feature = "flex"))]
    Err(DeviceChoice::Flex.not_built_in())
}

fn wgpu(index: Option<usize>) -> Result<Device, TrainError> {
    let choice = DeviceChoice::Wgpu(index);
    #[cfg(feature = "wgpu")]
    {
        use burn::tensor::{DeviceKind, DeviceType};
        let found = quietly(|| Device::enumerate(DeviceType::Wgpu))
            .map_err(|why| choice.not_there(format_args!("no WGPU adapter: {why}")))?;
        let count = found.iter().count();
        if count == 0 {
            return Err(choice.not_there(
                "no WGPU adapter found; a GPU driver for Vulkan, Metal or DirectX is needed",
            ));
        }
        // The number counts adapters of every kind, in burn's order: discrete, integrated, others.
        let listed = match index {
            None => None,
            Some(index) => Some(found.iter().nth(index).cloned().ok_or_else(|| {
                choice.not_there(format_args!("there are {count} WGPU adapters, from 0 on"))
            })?),
        };
        quietly(|| {
            let device = listed.unwrap_or_else(|| Device::wgpu(DeviceKind::DefaultDevice));
            touch(&device);
            device
        })
        .map_err(|why| choice.not_there(why))
    }
    #[cfg(not(feature = "wgpu"))]
    Err(choice.not_built_in())
}

fn cuda(index: Option<usize>) -> Result<Device, TrainError> {
    let choice = DeviceChoice::Cuda(index);
    #[cfg(feature = "cuda")]
    {
        use burn::tensor::DeviceType;
        let found = quietly(|| Device::enumerate(DeviceType::Cuda).iter().count());
        match found {
            Ok(count) if count > index.unwrap_or(0) => {}
            Ok(0) | Err(_) => {
                return Err(choice.not_there(
                    "no CUDA device: the NVIDIA driver (libcuda) was not found or names no GPU",
                ));
            }
            Ok(count) => {
                return Err(
                    choice.not_there(format_args!("there are {count} CUDA devices, from 0 on"))
                );
            }
        }
        quietly(|| {
            let device = Device::cuda(index.unwrap_or(0));
            touch(&device);
            device
        })
        .map_err(|why| choice.not_there(why))
    }
    #[cfg(not(feature = "cuda"))]
    Err(choice.not_built_in())
}

/// Makes the device compute something, so that a missing part shows now and not in the middle of a run.
#[cfg(any(feature = "wgpu", feature = "cuda"))]
fn touch(device: &Device) {
    let one = burn::tensor::Tensor::<1>::ones([1], device);
    let _ = one.add_scalar(1.0).into_data();
}

/// Drivers panic if a library is missing: gives one line with the reason instead.
#[cfg(any(feature = "wgpu", feature = "cuda"))]
fn quietly<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
    std::panic::set_hook(hook);
    result.map_err(|payload| {
        let text = payload
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| payload.downcast_ref::<&str>().copied())
            .unwrap_or("the driver gave up");
        text.lines().next().unwrap_or_default().to_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip() {
        for name in ["flex", "wgpu", "wgpu:1", "cuda", "cuda:3", "auto"] {
            assert_eq!(name.parse::<DeviceChoice>().unwrap().to_string(), name);
        }
        assert_eq!("cpu".parse(), Ok(DeviceChoice::Flex));
        for wrong in ["", "gpu", "cuda:", "cuda:x", "flex:0", "cpu:0"] {
            let error = wrong.parse::<DeviceChoice>().unwrap_err();
            assert!(error.contains(ALLOWED), "{error}");
        }
    }

    #[cfg(not(feature = "cuda"))]
    #[test]
    fn what_is_not_built_in_says_how_to_build_it() {
        let error = DeviceChoice::Cuda(None).open().unwrap_err().to_string();
        assert!(error.contains("--features cuda"), "{error}");
    }
}

//! The keys of a file: each is read or reported, none is ignored silently.

use serde_json::{Map, Value};

/// Notes about one file.
#[derive(Debug, Default)]
pub(super) struct Notes {
    /// Missing keys, with the defaults taken.
    pub(super) absent: Vec<String>,
    /// Keys that are ignored.
    pub(super) ignored: Vec<String>,
    /// Whole lines.
    other: Vec<String>,
}

impl Notes {
    pub(super) fn lines(self, file: &str) -> Vec<String> {
        let mut lines = Vec::new();
        if !self.absent.is_empty() {
            lines.push(format!(
                "{file} does not say {}: the default is taken",
                self.absent.join(", ")
            ));
        }
        if !self.ignored.is_empty() {
            lines.push(format!(
                "{file}: not followed here: {}",
                self.ignored.join(", ")
            ));
        }
        lines.extend(self.other.into_iter().map(|line| format!("{file} {line}")));
        lines
    }
}

/// Defaults of missing keys.
pub(super) struct Defaults {
    pub(super) size: Size,
    /// Whether a size given as one number holds for both sides.
    pub(super) square: bool,
    pub(super) crop: Option<usize>,
    pub(super) filter: u64,
    pub(super) mean: [f32; 3],
    pub(super) std: [f32; 3],
}

/// A size, in one of the forms found in files.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Size {
    /// The shorter side is resized to it.
    Shorter(usize),
    /// Both sides are resized to it.
    Both(usize),
    /// One number, whose meaning depends on the processor.
    Side(usize),
}

impl Size {
    pub(super) fn side(self) -> usize {
        match self {
            Self::Shorter(side) | Self::Both(side) | Self::Side(side) => side,
        }
    }

    pub(super) fn parse(key: &str, value: &Value) -> Result<Self, String> {
        let unsupported = || {
            format!(
                "{key} = {value} is not supported, only one number, {{\"shortest_edge\": N}} and {{\"height\": N, \"width\": N}}"
            )
        };
        let side = |value: &Value| {
            let whole = value.as_u64().and_then(|side| usize::try_from(side).ok());
            whole.filter(|side| *side > 0).ok_or_else(unsupported)
        };
        let Value::Object(sides) = value else {
            let list = value.as_array().map(Vec::as_slice);
            return match list {
                Some([height, width]) if height == width => Ok(Self::Both(side(height)?)),
                Some(_) => Err(unsupported()),
                None => Ok(Self::Side(side(value)?)),
            };
        };
        let given: Vec<(&str, &Value)> = sides
            .iter()
            .filter(|(_, value)| !value.is_null())
            .map(|(key, value)| (key.as_str(), value))
            .collect();
        match given.as_slice() {
            [("shortest_edge", edge)] => Ok(Self::Shorter(side(edge)?)),
            [("height", height), ("width", width)] | [("width", width), ("height", height)] => {
                let (height, width) = (side(height)?, side(width)?);
                if height == width {
                    return Ok(Self::Both(height));
                }
                Err(format!(
                    "{key} of {height} x {width} is not supported, only squares"
                ))
            }
            _ => Err(unsupported()),
        }
    }
}

/// The keys of a file that are not yet read.
pub(super) struct Keys {
    pub(super) json: Map<String, Value>,
    pub(super) seen: Vec<String>,
}

impl Keys {
    pub(super) fn take(&mut self, key: &str) -> Option<Value> {
        self.json.remove(key)
    }

    /// The keys that were never read.
    pub(super) fn rest(self) -> Vec<String> {
        let known = |key: &str| self.seen.iter().any(|seen| seen == key);
        let rest = self.json.iter().filter(|(key, _)| !known(key));
        rest.map(|(key, value)| format!("{key} = {value}"))
            .collect()
    }
}

/// Mean and standard deviation of values in 0..1, whatever the file's scale.
pub(super) fn pixels(
    keys: &mut Keys,
    defaults: &Defaults,
    notes: &mut Notes,
) -> Result<([f32; 3], [f32; 3]), String> {
    let flag = |keys: &mut Keys, key: &str| match keys.take(key) {
        None | Some(Value::Bool(true)) => Ok(true),
        Some(Value::Bool(false)) => Ok(false),
        Some(other) => Err(format!("{key} = {other}: must be true, false or null")),
    };
    let (rescale, normalise) = (flag(keys, "do_rescale")?, flag(keys, "do_normalize")?);
    let factor = keys.take("rescale_factor");
    let factor = match &factor {
        _ if !rescale => 1.0,
        None => 1.0 / 255.0,
        Some(value) => value
            .as_f64()
            .filter(|factor| *factor > 0.0)
            .ok_or_else(|| format!("rescale_factor = {value}: must be a number above 0"))?,
    };
    let mut three = |key: &str, default: [f32; 3]| -> Result<[f32; 3], String> {
        match keys.take(key) {
            Some(value) => channels(key, &value),
            None => {
                if normalise {
                    notes.absent.push(format!("{key} ({default:?})"));
                }
                Ok(default)
            }
        }
    };
    let (mean, std) = (
        three("image_mean", defaults.mean)?,
        three("image_std", defaults.std)?,
    );
    let (mean, std) = if normalise {
        (mean, std)
    } else {
        ([0.0; 3], [1.0; 3])
    };
    // (level * factor - mean) / std = (level / 255 - mean / scale) / (std / scale)
    let scale = factor * 255.0;
    /// Rounding error of a file's decimal digits of 1 / 255.
    const ROUNDING: f64 = 1e-6;
    if (scale - 1.0).abs() < ROUNDING {
        return Ok((mean, std));
    }
    let scaled = |values: [f32; 3]| values.map(|value| (f64::from(value) / scale) as f32);
    Ok((scaled(mean), scaled(std)))
}

/// One number per channel; a single number holds for all.
pub(super) fn channels(key: &str, value: &Value) -> Result<[f32; 3], String> {
    let wrong = || format!("{key} = {value}: must be three numbers");
    let number = |value: &Value| value.as_f64().map(|number| number as f32);
    let values: Option<Vec<f32>> = match value {
        Value::Array(values) => values.iter().map(number).collect(),
        one => number(one).map(|one| vec![one; 3]),
    };
    let values = values.ok_or_else(wrong)?;
    let values: [f32; 3] = values.try_into().map_err(|_| wrong())?;
    if key.ends_with("std") && values.iter().any(|value| *value <= 0.0) {
        return Err(format!("{key} = {value}: must be above 0"));
    }
    Ok(values)
}

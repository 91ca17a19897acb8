//! Event files for TensorBoard, written directly: scalars and texts, without a protobuf or TensorFlow dependency.
//!
//! An event file is a sequence of TFRecords (`tensorflow/core/lib/io/record_writer.h`), each
//!
//! | bytes | content |
//! |---|---|
//! | 8 | length of the data, little-endian |
//! | 4 | masked CRC-32C of those eight bytes |
//! | length | data: one `tensorflow.Event` message |
//! | 4 | masked CRC-32C of the data |
//!
//! where `masked(crc) = rotate_right(crc, 15) + 0xa282ead8`. The fields used, with their numbers in `event.proto`,
//! `summary.proto` and `tensor.proto`:
//!
//! | message | fields |
//! |---|---|
//! | `Event` | `wall_time` = 1 (double), `step` = 2 (int64), `file_version` = 3 (string), `summary` = 5, `session_log` = 7 |
//! | `Summary` | `value` = 1, repeated |
//! | `Summary.Value` | `tag` = 1 (string), `simple_value` = 2 (float), `tensor` = 8, `metadata` = 9 |
//! | `SummaryMetadata` | `plugin_data` = 1 (`PluginData`: `plugin_name` = 1, string; `content` = 2, bytes) |
//! | `HParamsPluginData` | `session_start_info` = 3 (`hparams` = 1, a map; `start_time_secs` = 5), `session_end_info` = 4 (`status` = 1, 1: success; `end_time_secs` = 2) |
//! | `TensorProto` | `dtype` = 1 (enum, `DT_STRING` = 7), `tensor_shape` = 2, `string_val` = 8 |
//! | `TensorShapeProto` | `dim` = 2 (`Dim`: `size` = 1, int64) |
//! | `SessionLog` | `status` = 1 (enum, `START` = 1) |

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use unimo_report::record::EvalRecord;

use crate::curves;

/// The format that readers look for in a file's first event.
const FILE_VERSION: &str = "brain.Event:2";

/// Largest number of files of one host that may start within the same second.
const SAME_SECOND: u32 = 1000;

/// Writes scalars and texts to one event file.
///
/// Events are buffered; [`flush`](Self::flush) makes them visible to a running TensorBoard, and dropping the writer flushes.
#[derive(Debug)]
pub struct EventWriter {
    file: BufWriter<File>,
    path: PathBuf,
}

impl EventWriter {
    /// Creates the folder `dir` if necessary and a new file `events.out.tfevents.<seconds>.<host>` in it. It never writes to an
    /// existing file: a second file within the same second gets a number at its end.
    ///
    /// # Errors
    /// If the folder or the file cannot be created or written.
    pub fn create(dir: &Path) -> io::Result<Self> {
        fs::create_dir_all(dir)?;
        let name = format!("events.out.tfevents.{:010}.{}", now() as u64, host());
        let names = std::iter::once(name.clone())
            .chain((1..SAME_SECOND).map(|number| format!("{name}.{number}")));
        for name in names {
            let path = dir.join(name);
            match OpenOptions::new().write(true).create_new(true).open(&path) {
                Ok(file) => {
                    let mut writer = Self {
                        file: BufWriter::new(file),
                        path,
                    };
                    writer.event(None, |event| text_field(event, 3, FILE_VERSION))?;
                    writer.flush()?;
                    return Ok(writer);
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
        Err(io::Error::new(
            io::ErrorKind::AlreadyExists,
            format!(
                "{SAME_SECOND} event files of this second in {}",
                dir.display()
            ),
        ))
    }

    /// As [`create`](Self::create), for a resumed run that will write `step` next. Tells TensorBoard to drop what earlier files in
    /// the folder hold from that step on, because those weights are lost.
    ///
    /// # Errors
    /// If the folder or the file cannot be created or written.
    pub fn resume(dir: &Path, step: u64) -> io::Result<Self> {
        let mut writer = Self::create(dir)?;
        writer.event(Some(step), |event| {
            message_field(event, 7, |log| varint_field(log, 1, 1))
        })?;
        writer.flush()?;
        Ok(writer)
    }

    /// The file written to.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Adds a value to the curve `tag`; tags with a common part before `/` are shown together.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn scalar(&mut self, step: u64, tag: &str, value: f32) -> io::Result<()> {
        self.summary(step, tag, |entry| {
            entry.push(2 << 3 | 5);
            entry.extend_from_slice(&value.to_le_bytes());
        })
    }

    /// Adds a text (Markdown) to the entries of `tag`, such as the resolved recipe.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn text(&mut self, step: u64, tag: &str, text: &str) -> io::Result<()> {
        self.summary(step, tag, |entry| {
            message_field(entry, 8, |tensor| {
                varint_field(tensor, 1, 7);
                message_field(tensor, 2, |shape| {
                    message_field(shape, 2, |dim| varint_field(dim, 1, 1))
                });
                text_field(tensor, 8, text);
            });
            message_field(entry, 9, |metadata| {
                message_field(metadata, 1, |plugin| text_field(plugin, 1, "text"))
            });
        })
    }

    /// Tells the page of hyperparameters (plugin `hparams`) that a session with these settings starts.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn hyperparameters(&mut self, settings: &[(String, toml::Value)]) -> io::Result<()> {
        let mut session = Vec::new();
        for (key, value) in settings {
            message_field(&mut session, 1, |entry| {
                text_field(entry, 1, key);
                message_field(entry, 2, |field| setting(field, value));
            });
        }
        double_field(&mut session, 5, now());
        self.hparams("_hparams_/session_start_info", 3, &session)
    }

    /// Tells the page of hyperparameters that the session has ended well. Flushes.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn session_ends(&mut self) -> io::Result<()> {
        let mut session = Vec::new();
        varint_field(&mut session, 1, 1);
        double_field(&mut session, 2, now());
        self.hparams("_hparams_/session_end_info", 4, &session)?;
        self.flush()
    }

    /// Adds a message of the plugin `hparams`, which is metadata without a value.
    fn hparams(&mut self, tag: &str, kind: u64, message: &[u8]) -> io::Result<()> {
        self.summary(0, tag, |entry| {
            message_field(entry, 9, |metadata| {
                message_field(metadata, 1, |plugin| {
                    text_field(plugin, 1, "hparams");
                    message_field(plugin, 2, |data| bytes_field(data, kind, message));
                });
            });
        })
    }

    /// Adds an evaluation: as `eval/score` the number that selects the best weights, and every other number. Flushes.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn evaluation(&mut self, record: &EvalRecord) -> io::Result<()> {
        for (tag, value) in curves::of_evaluation(record) {
            self.scalar(record.step, &tag, value as f32)?;
        }
        self.flush()
    }

    /// Hands everything written so far to the operating system.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }

    fn summary(&mut self, step: u64, tag: &str, fill: impl FnOnce(&mut Vec<u8>)) -> io::Result<()> {
        self.event(Some(step), |event| {
            message_field(event, 5, |summary| {
                message_field(summary, 1, |entry| {
                    text_field(entry, 1, tag);
                    fill(entry);
                });
            });
        })
    }

    fn event(&mut self, step: Option<u64>, fill: impl FnOnce(&mut Vec<u8>)) -> io::Result<()> {
        let mut event = vec![1 << 3 | 1];
        event.extend_from_slice(&now().to_le_bytes());
        if let Some(step) = step {
            varint_field(&mut event, 2, step);
        }
        fill(&mut event);
        let length = (event.len() as u64).to_le_bytes();
        self.file.write_all(&length)?;
        self.file.write_all(&masked_crc(&length).to_le_bytes())?;
        self.file.write_all(&event)?;
        self.file.write_all(&masked_crc(&event).to_le_bytes())
    }
}

/// Seconds since 1970; zero if the clock is set before 1970.
fn now() -> f64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0.0, |time| time.as_secs_f64())
}

/// The host's name, in characters that are valid in any file system.
pub(crate) fn host() -> String {
    let safe =
        |character: char| character.is_ascii_alphanumeric() || character == '-' || character == '.';
    let name: String = gethostname::gethostname()
        .to_string_lossy()
        .chars()
        .map(|character| if safe(character) { character } else { '_' })
        .take(64)
        .collect();
    if name.is_empty() {
        "localhost".to_owned()
    } else {
        name
    }
}

fn masked_crc(data: &[u8]) -> u32 {
    crc32c::crc32c(data)
        .rotate_right(15)
        .wrapping_add(0xa282_ead8)
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn varint_field(out: &mut Vec<u8>, field: u64, value: u64) {
    varint(out, field << 3);
    varint(out, value);
}

fn bytes_field(out: &mut Vec<u8>, field: u64, bytes: &[u8]) {
    varint(out, field << 3 | 2);
    varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

fn text_field(out: &mut Vec<u8>, field: u64, text: &str) {
    bytes_field(out, field, text.as_bytes());
}

fn double_field(out: &mut Vec<u8>, field: u64, value: f64) {
    varint(out, field << 3 | 1);
    out.extend_from_slice(&value.to_le_bytes());
}

/// A setting as a `google.protobuf.Value`.
fn setting(out: &mut Vec<u8>, value: &toml::Value) {
    match value {
        toml::Value::Integer(number) => double_field(out, 2, *number as f64),
        toml::Value::Float(number) => double_field(out, 2, *number),
        toml::Value::Boolean(truth) => varint_field(out, 4, u64::from(*truth)),
        toml::Value::String(text) => text_field(out, 3, text),
        other => text_field(out, 3, &other.to_string()),
    }
}

fn message_field(out: &mut Vec<u8>, field: u64, fill: impl FnOnce(&mut Vec<u8>)) {
    let mut message = Vec::new();
    fill(&mut message);
    bytes_field(out, field, &message);
}

#[cfg(test)]
mod tests;

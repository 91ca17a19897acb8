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
mod tests {
    use super::*;

    /// A field of a message: its number and its value.
    #[derive(Debug, Clone, PartialEq)]
    enum Field {
        Varint(u64, u64),
        Double(u64, f64),
        Float(u64, f32),
        Bytes(u64, Vec<u8>),
    }

    /// A protobuf reader written from the description of the encoding, independent of the writer above.
    fn fields(mut data: &[u8]) -> Vec<Field> {
        fn read_varint(data: &mut &[u8]) -> u64 {
            let mut value = 0;
            for shift in (0..).step_by(7) {
                let (byte, rest) = data.split_first().unwrap();
                *data = rest;
                value |= u64::from(byte & 0x7f) << shift;
                if byte & 0x80 == 0 {
                    break;
                }
            }
            value
        }
        let mut found = Vec::new();
        while !data.is_empty() {
            let key = read_varint(&mut data);
            found.push(match key & 7 {
                0 => Field::Varint(key >> 3, read_varint(&mut data)),
                1 => {
                    let (value, rest) = data.split_at(8);
                    data = rest;
                    Field::Double(key >> 3, f64::from_le_bytes(value.try_into().unwrap()))
                }
                2 => {
                    let length = read_varint(&mut data) as usize;
                    let (value, rest) = data.split_at(length);
                    data = rest;
                    Field::Bytes(key >> 3, value.to_vec())
                }
                5 => {
                    let (value, rest) = data.split_at(4);
                    data = rest;
                    Field::Float(key >> 3, f32::from_le_bytes(value.try_into().unwrap()))
                }
                wire => panic!("wire type {wire}"),
            });
        }
        found
    }

    fn message(fields: &[Field], number: u64) -> Vec<u8> {
        let mut found = fields.iter().filter_map(|field| match field {
            Field::Bytes(field, bytes) if *field == number => Some(bytes.clone()),
            _ => None,
        });
        found
            .next()
            .unwrap_or_else(|| panic!("no field {number} in {fields:?}"))
    }

    /// CRC-32C bit by bit (Castagnoli, reflected), to compare with the crate's table or instruction.
    fn slow_masked_crc(data: &[u8]) -> u32 {
        let mut crc = u32::MAX;
        for byte in data {
            crc ^= u32::from(*byte);
            for _ in 0..8 {
                crc = crc >> 1 ^ if crc & 1 == 1 { 0x82f6_3b78 } else { 0 };
            }
        }
        let crc = !crc;
        crc.rotate_right(15).wrapping_add(0xa282_ead8)
    }

    /// The events of a file; checks both checksums of each.
    fn events(path: &Path) -> Vec<Vec<Field>> {
        let file = fs::read(path).unwrap();
        let mut data = &file[..];
        let mut found = Vec::new();
        while !data.is_empty() {
            let length = u64::from_le_bytes(data[..8].try_into().unwrap()) as usize;
            assert_eq!(
                u32::from_le_bytes(data[8..12].try_into().unwrap()),
                slow_masked_crc(&data[..8])
            );
            let event = &data[12..12 + length];
            assert_eq!(
                u32::from_le_bytes(data[12 + length..16 + length].try_into().unwrap()),
                slow_masked_crc(event)
            );
            found.push(fields(event));
            data = &data[16 + length..];
        }
        found
    }

    #[test]
    fn events_decode_to_what_was_written() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = EventWriter::create(&dir.path().join("tb")).unwrap();
        writer.scalar(0, "loss/total", 7.25).unwrap();
        writer.scalar(300_000_000_000, "loss/é", f32::NAN).unwrap();
        writer.text(5, "recipe", "a = 1\n").unwrap();
        writer.flush().unwrap();
        let events = events(writer.path());
        assert_eq!(events.len(), 4);
        for event in &events {
            assert!(
                matches!(event[0], Field::Double(1, time) if time > 1.6e9),
                "{event:?}"
            );
        }
        assert_eq!(events[0][1], Field::Bytes(3, b"brain.Event:2".to_vec()));

        assert_eq!(events[1][1], Field::Varint(2, 0));
        let entry = fields(&message(&fields(&message(&events[1], 5)), 1));
        assert_eq!(
            entry,
            [
                Field::Bytes(1, b"loss/total".to_vec()),
                Field::Float(2, 7.25)
            ]
        );

        assert_eq!(events[2][1], Field::Varint(2, 300_000_000_000));
        let entry = fields(&message(&fields(&message(&events[2], 5)), 1));
        assert!(matches!(entry[1], Field::Float(2, value) if value.is_nan()));

        let entry = fields(&message(&fields(&message(&events[3], 5)), 1));
        let tensor = fields(&message(&entry, 8));
        assert_eq!(
            (&tensor[0], message(&tensor, 8)),
            (&Field::Varint(1, 7), b"a = 1\n".to_vec())
        );
        assert_eq!(
            fields(&message(&fields(&message(&tensor, 2)), 2)),
            [Field::Varint(1, 1)]
        );
        assert_eq!(
            message(&fields(&message(&fields(&message(&entry, 9)), 1)), 1),
            b"text"
        );
    }

    /// The check value of CRC-32C, masked by hand: 0xe3069283 rotated by 15 is 0x2507c60d.
    #[test]
    fn the_checksum_is_the_masked_castagnoli_one() {
        assert_eq!(
            slow_masked_crc(b"123456789"),
            0x2507_c60d_u32.wrapping_add(0xa282_ead8)
        );
        assert_eq!(masked_crc(b"123456789"), slow_masked_crc(b"123456789"));
        assert_eq!(masked_crc(b""), 0xa282_ead8);
    }

    #[test]
    fn files_are_named_for_tensorboard_and_never_shared() {
        let dir = tempfile::tempdir().unwrap();
        let writers: Vec<EventWriter> = (0..3)
            .map(|_| EventWriter::create(dir.path()).unwrap())
            .collect();
        for (index, writer) in writers.iter().enumerate() {
            let name = writer.path().file_name().unwrap().to_str().unwrap();
            let (seconds, host) = name
                .strip_prefix("events.out.tfevents.")
                .and_then(|rest| rest.split_once('.'))
                .unwrap();
            assert!(
                seconds.len() == 10 && seconds.bytes().all(|byte| byte.is_ascii_digit()),
                "{name}"
            );
            assert!(
                !host.is_empty() && !host.contains(['/', ' ', '\n']),
                "{name}"
            );
            assert!(
                writers[..index]
                    .iter()
                    .all(|other| other.path() != writer.path())
            );
        }
    }

    #[test]
    fn a_resumed_run_drops_the_steps_it_repeats() {
        let dir = tempfile::tempdir().unwrap();
        let writer = EventWriter::resume(dir.path(), 501).unwrap();
        let events = events(writer.path());
        assert_eq!(events[1][1], Field::Varint(2, 501));
        assert_eq!(fields(&message(&events[1], 7)), [Field::Varint(1, 1)]);
    }

    #[test]
    fn evaluations_are_curves() {
        let recall =
            |r1: f64| format!("{{\"r1\":{r1},\"r5\":0.5,\"r10\":0.75,\"median_rank\":null}}");
        let record = format!(
            "{{\"step\":40,\"retrieval\":[{{\"method\":\"itc\",\"text_to_image\":{},\"image_to_text\":{}}}]}}",
            recall(0.25),
            recall(0.5)
        );
        let record: EvalRecord = serde_json::from_str(&record).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let mut writer = EventWriter::create(dir.path()).unwrap();
        writer.evaluation(&record).unwrap();
        let mut found = Vec::new();
        for event in &events(writer.path())[1..] {
            assert_eq!(event[1], Field::Varint(2, 40));
            let entry = fields(&message(&fields(&message(event, 5)), 1));
            let Field::Float(2, value) = entry[1] else {
                panic!("{entry:?}");
            };
            found.push((String::from_utf8(message(&entry, 1)).unwrap(), value));
        }
        assert_eq!(
            found.len(),
            7,
            "a rank that is not known is left out: {found:?}"
        );
        let value = |tag: &str| found.iter().find(|(name, _)| name == tag).unwrap().1;
        assert_eq!(value("eval_itc/text_to_image_r1"), 0.25);
        assert_eq!(value("eval_itc/image_to_text_r10"), 0.75);
        let mean = (0.25 + 0.5 + 0.75 + 0.5 + 0.5 + 0.75) / 6.0;
        assert!((value("eval/score") - mean).abs() < 1e-6);
    }

    #[test]
    fn settings_are_hyperparameters() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = EventWriter::create(dir.path()).unwrap();
        let settings = [
            ("train.steps", toml::Value::Integer(600)),
            ("train.ema", toml::Value::Boolean(true)),
            ("model.fusion.gate", toml::Value::String("cls".to_owned())),
        ];
        let settings = settings.map(|(key, value)| (key.to_owned(), value));
        writer.hyperparameters(&settings).unwrap();
        writer.session_ends().unwrap();
        let events = events(writer.path());
        let session = |event: &[Field], kind: u64| {
            let entry = fields(&message(&fields(&message(event, 5)), 1));
            let plugin = fields(&message(&fields(&message(&entry, 9)), 1));
            assert_eq!(message(&plugin, 1), b"hparams");
            fields(&message(&fields(&message(&plugin, 2)), kind))
        };
        let start = session(&events[1], 3);
        let entry = |at: usize| match &start[at] {
            Field::Bytes(1, entry) => {
                let entry = fields(entry);
                let key = String::from_utf8(message(&entry, 1)).unwrap();
                (key, fields(&message(&entry, 2)))
            }
            other => panic!("{other:?}"),
        };
        assert_eq!(
            entry(0),
            ("train.steps".to_owned(), vec![Field::Double(2, 600.0)])
        );
        assert_eq!(
            entry(1),
            ("train.ema".to_owned(), vec![Field::Varint(4, 1)])
        );
        let gate = vec![Field::Bytes(3, b"cls".to_vec())];
        assert_eq!(entry(2), ("model.fusion.gate".to_owned(), gate));
        assert!(matches!(start[3], Field::Double(5, time) if time > 1.6e9));
        assert_eq!(session(&events[2], 4)[0], Field::Varint(1, 1));
    }

    #[test]
    fn dropping_the_writer_flushes() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = EventWriter::create(dir.path()).unwrap();
        let path = writer.path().to_owned();
        writer.scalar(1, "a", 1.0).unwrap();
        assert_eq!(events(&path).len(), 1);
        drop(writer);
        assert_eq!(events(&path).len(), 2);
    }
}

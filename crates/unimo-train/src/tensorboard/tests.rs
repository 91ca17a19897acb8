//! Event files, read back by a reader of their own.

use super::*;
use crate::observers::{Observer, StepEvent, TensorBoard};
use crate::recipe::{Overrides, Recipe};

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
    let recall = |r1: f64| format!("{{\"r1\":{r1},\"r5\":0.5,\"r10\":0.75,\"median_rank\":null}}");
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

/// A value with its tag and step.
type Told<T> = (String, u64, T);

/// The numbers of a file, and its texts.
fn told(path: &Path) -> (Vec<Told<f32>>, Vec<Told<String>>) {
    let (mut numbers, mut texts) = (Vec::new(), Vec::new());
    for event in events(path) {
        let Some(Field::Varint(2, step)) = event.get(1) else {
            continue;
        };
        let entry = fields(&message(&fields(&message(&event, 5)), 1));
        let tag = String::from_utf8(message(&entry, 1)).unwrap();
        let tensor = entry
            .iter()
            .any(|field| matches!(field, Field::Bytes(8, _)));
        if let Field::Float(2, value) = entry[1] {
            numbers.push((tag, *step, value));
        } else if tensor {
            let text = message(&fields(&message(&entry, 8)), 8);
            texts.push((tag, *step, String::from_utf8(text).unwrap()));
        }
    }
    (numbers, texts)
}

/// A curve of the stage's number, and a text where a stage begins.
#[test]
fn stages_are_a_curve_and_texts() {
    let overrides = Overrides {
        data: None,
        set: vec![
            "stage=[{ name = \"first\", share = 0.5 }, { name = \"then\", share = 0.5 }]"
                .to_owned(),
        ],
    };
    let recipe = Recipe::load("unimo3-tiny", &overrides).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let writer = EventWriter::create(dir.path()).unwrap();
    let path = writer.path().to_owned();
    let mut board = TensorBoard::new(writer, &recipe).unwrap();
    for (step, stage) in [(1, "first"), (2, "first"), (3, "then"), (4, "then")] {
        let record = format!("{{\"step\":{step},\"stage\":\"{stage}\",\"loss\":1.5}}");
        let record = serde_json::from_str(&record).unwrap();
        let event = StepEvent {
            record: &record,
            logged: step != 2,
        };
        board.step(&event).unwrap();
    }
    Box::new(board).finish().unwrap();
    let (numbers, texts) = told(&path);
    let stages: Vec<(u64, f32)> = numbers
        .iter()
        .filter(|(tag, _, _)| tag == "train/stage")
        .map(|(_, step, value)| (*step, *value))
        .collect();
    assert_eq!(stages, [(1, 1.0), (3, 2.0), (4, 2.0)]);
    let texts: Vec<(u64, &str)> = texts
        .iter()
        .map(|(_, step, text)| (*step, &**text))
        .collect();
    assert_eq!(
        texts,
        [(1, "stage 1 of 2: first"), (3, "stage 2 of 2: then")]
    );
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

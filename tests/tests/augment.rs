//! Operations on training images give what Pillow and torchvision give.

use std::collections::BTreeMap;
use std::path::PathBuf;

use unimo_data::augment::operations::Operation;
use unimo_data::augment::rand_augment::OperationList;
use unimo_data::images::{self, Limits};
use unimo_encoders::weights::SafetensorsFile;
use unimo_tests::fixture;

/// The list of torchvision is in single precision, ours of METER in double.
const STRENGTH: f64 = 1e-6;

const LIMITS: Limits = Limits::full_size(1 << 20);

fn folder() -> PathBuf {
    fixture::folder().join("augment")
}

fn operation(name: &str, strength: f64) -> Option<Operation> {
    Some(match name {
        "auto_contrast" => Operation::AutoContrast,
        "equalize" => Operation::Equalize,
        "posterize" => Operation::Posterize(strength as u32),
        "solarize" => Operation::Solarize(strength),
        "solarize_add" => Operation::SolarizeAdd(strength),
        "brightness" => Operation::Brightness(strength),
        "contrast" => Operation::Contrast(strength),
        "saturation" => Operation::Saturation(strength),
        "sharpness" => Operation::Sharpness(strength),
        "hue" => Operation::Hue(strength),
        "shear_x" => Operation::ShearX(strength),
        "shear_y" => Operation::ShearY(strength),
        "translate_x" => Operation::TranslateX(strength),
        "translate_y" => Operation::TranslateY(strength),
        "rotate" => Operation::Rotate(strength),
        _ => return None,
    })
}

#[test]
fn every_operation_equals_pillows_to_the_bit() {
    const OPERATIONS: usize = 15;
    let mut expected = SafetensorsFile::open(&folder().join("expected.safetensors")).unwrap();
    let picture = images::read(&folder().join("picture.png"), LIMITS).unwrap();
    let mut worst = BTreeMap::new();
    for (key, _) in expected.infos() {
        let (name, strength) = key.split_once('.').unwrap();
        if name == "list" {
            continue;
        }
        let operation = operation(name, strength.parse().unwrap()).unwrap();
        let mut ours = picture.clone();
        operation.apply(&mut ours);
        let (theirs, shape) = expected.integers(&key).unwrap();
        assert_eq!(
            shape,
            [picture.height() as usize, picture.width() as usize, 3]
        );
        let off: Vec<u64> = ours
            .as_raw()
            .iter()
            .zip(&theirs)
            .map(|(ours, theirs)| i64::from(*ours).abs_diff(*theirs))
            .collect();
        let largest = off.iter().copied().max().unwrap_or(0);
        let differ = off.iter().filter(|off| **off > 0).count();
        if largest > 0 {
            println!(
                "{operation:?}: {differ} of {} bytes differ, by up to {largest}",
                off.len()
            );
        }
        let entry: &mut u64 = worst.entry(name.to_owned()).or_default();
        *entry = largest.max(*entry);
    }
    for (name, largest) in &worst {
        println!("{name:<14} worst error {largest} of 255");
    }
    assert_eq!(worst.len(), OPERATIONS);
    assert!(worst.values().all(|largest| *largest == 0), "{worst:?}");
}

#[test]
fn magnitudes_mean_what_they_mean_there() {
    let mut expected = SafetensorsFile::open(&folder().join("expected.safetensors")).unwrap();
    for (list, name) in [
        (OperationList::Meter, "meter"),
        (OperationList::Torchvision, "torchvision"),
    ] {
        for magnitude in 0..=30 {
            let theirs = expected
                .values(&format!("list.{name}.{magnitude}"))
                .unwrap();
            let ours = list.operations(magnitude, (500, 375));
            assert_eq!(ours.len(), theirs.len());
            for (operation, &theirs) in ours.into_iter().zip(&theirs) {
                let theirs = f64::from(theirs);
                let torchvision = list == OperationList::Torchvision;
                let (ours, theirs) = match operation {
                    Operation::Identity | Operation::AutoContrast | Operation::Equalize => continue,
                    // METER: int(v), at least 1.
                    Operation::Posterize(bits) => (f64::from(bits), theirs.trunc().max(1.0)),
                    // torchvision: 1.0 + v, or 1.0 - v.
                    Operation::Brightness(factor)
                    | Operation::Contrast(factor)
                    | Operation::Saturation(factor)
                    | Operation::Sharpness(factor)
                        if torchvision =>
                    {
                        (factor, 1.0 + theirs)
                    }
                    // torchvision: int(v).
                    Operation::TranslateX(by) | Operation::TranslateY(by) if torchvision => {
                        (by, theirs.trunc())
                    }
                    Operation::Brightness(by)
                    | Operation::Contrast(by)
                    | Operation::Saturation(by)
                    | Operation::Sharpness(by)
                    | Operation::Hue(by)
                    | Operation::Solarize(by)
                    | Operation::SolarizeAdd(by)
                    | Operation::ShearX(by)
                    | Operation::ShearY(by)
                    | Operation::TranslateX(by)
                    | Operation::TranslateY(by)
                    | Operation::Rotate(by) => (by, theirs),
                };
                assert!(
                    (ours - theirs).abs() <= STRENGTH * theirs.abs(),
                    "{name}, {magnitude}: {operation:?} for {theirs}"
                );
            }
        }
    }
}

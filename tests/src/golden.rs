//! Golden files: what was computed once, to the bit, and how to tell that it is computed still.
//!
//! A file is lines of `PLACE: NAME VALUE, NAME VALUE`, so that a change shows in a diff where it is:
//!
//! ```text
//! step 7 mlm: loss 6.25 0x4019000000000000, accuracy 0.5 0x3fe0000000000000, count 12
//! weights model: tensors 132, sha256 8f2a...
//! ```
//!
//! Numbers that are computed stand as a decimal fraction, for the reader, and as bits, which are compared.
//!
//! Bits hold on machines that compute with the same instructions: kernels and matrix products add up in an order that follows from
//! the width of a vector, fused multiplication rounds once instead of twice, and logarithms are those of the system's C library. The
//! first line says what a file was written with. On another machine what has a tolerance is compared within it, and a line on
//! stderr says so.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use safetensors::SafeTensors;
use sha2::{Digest, Sha256};

/// Set to 1, golden files are written instead of compared; the test fails in any case, so that no CI passes with it.
pub const RENEW: &str = "UNIMO_RENEW_GOLDEN";

/// On other vector units: how far a loss may be off, as a share of itself, or of 1 where it is smaller. AVX2 is off from AVX-512 by
/// 5e-6 after 20 steps; beyond that rounding can draw another hard negative or choose another code, and a batch of four has few.
const LOSSES: f64 = 0.01;
/// On other vector units: how far a recall may be off. A model of 20 steps gives images scores that lie close together, and of
/// 20 queries each is worth 0.05: three may change places.
const RECALLS: f64 = 0.15;

/// Differences of a file that are listed.
const SHOWN: usize = 12;

/// The place of the line that says what a file was written with.
const MACHINE: &str = "written on";

/// How far a number may be off on other vector units; none where it cannot be compared there.
fn tolerance(name: &str, recorded: f64) -> Option<f64> {
    match name {
        "loss" => Some(LOSSES * recorded.abs().max(1.0)),
        "r1" | "r5" | "r10" => Some(RECALLS),
        _ => None,
    }
}

/// What decides how numbers round on this machine.
pub fn machine() -> String {
    let mut units: Vec<&str> = Vec::new();
    #[cfg(target_arch = "x86_64")]
    for (unit, there) in [
        ("avx512f", is_x86_feature_detected!("avx512f")),
        ("avx2", is_x86_feature_detected!("avx2")),
        ("fma", is_x86_feature_detected!("fma")),
        ("f16c", is_x86_feature_detected!("f16c")),
    ] {
        units.extend(there.then_some(unit));
    }
    #[cfg(target_arch = "aarch64")]
    for (unit, there) in [
        ("neon", std::arch::is_aarch64_feature_detected!("neon")),
        ("fp16", std::arch::is_aarch64_feature_detected!("fp16")),
    ] {
        units.extend(there.then_some(unit));
    }
    if units.is_empty() {
        units.push("no vector unit that is known here");
    }
    let (architecture, system) = (std::env::consts::ARCH, std::env::consts::OS);
    format!("{architecture} {system}, {}", units.join(" "))
}

/// A number as a golden file has it.
pub fn number(value: f64) -> String {
    format!("{value:?} {:#018x}", value.to_bits())
}

/// How many tensors of a file have a name that begins with `prefix`, and the hash of their names, types, shapes and bytes, whatever
/// order the file has them in.
pub fn tensors(file: &Path, prefix: &str) -> Vec<(String, String)> {
    let bytes = fs::read(file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
    let tensors = SafeTensors::deserialize(&bytes).expect("a file of tensors");
    let mut all: Vec<_> = tensors.iter().collect();
    all.retain(|(name, _)| name.starts_with(prefix));
    all.sort_by_key(|(name, _)| name.to_owned());
    let mut hash = Sha256::new();
    for (name, tensor) in &all {
        hash.update(format!(
            "{name} {:?} {:?}\n",
            tensor.dtype(),
            tensor.shape()
        ));
        hash.update(tensor.data());
    }
    vec![
        ("tensors".to_owned(), all.len().to_string()),
        ("sha256".to_owned(), format!("{:x}", hash.finalize())),
    ]
}

/// The hash of a whole file.
pub fn bytes(file: &Path) -> Vec<(String, String)> {
    let bytes = fs::read(file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
    vec![("sha256".to_owned(), format!("{:x}", Sha256::digest(&bytes)))]
}

/// What was computed: places with their names and values.
#[derive(Debug, Clone, Default)]
pub struct Golden(Vec<(String, Vec<(String, String)>)>);

impl Golden {
    /// Adds a line, of a place that has none yet.
    pub fn add(&mut self, place: impl Into<String>, values: Vec<(String, String)>) {
        let place = place.into();
        assert!(
            self.0.iter().all(|(other, _)| *other != place),
            "{place} comes twice"
        );
        self.0.push((place, values));
    }

    /// As a file that was written on a machine.
    pub fn text(&self, machine: &str) -> String {
        let mut text = format!("{MACHINE}: {machine}\n");
        for (place, values) in &self.0 {
            let values: Vec<String> = values
                .iter()
                .map(|(name, value)| format!("{name} {value}"))
                .collect();
            text.push_str(&format!("{place}: {}\n", values.join(", ")));
        }
        text
    }

    /// The machine and the values of a file.
    fn parse(text: &str) -> Option<(String, Self)> {
        let mut lines = text.lines();
        let machine = lines.next()?.strip_prefix(MACHINE)?.strip_prefix(": ")?;
        let mut golden = Self::default();
        for line in lines {
            let (place, values) = line.split_once(": ")?;
            let values: Option<Vec<(String, String)>> = values
                .split(", ")
                .map(|value| {
                    let (name, value) = value.split_once(' ')?;
                    Some((name.to_owned(), value.to_owned()))
                })
                .collect();
            golden.add(place, values?);
        }
        Some((machine.to_owned(), golden))
    }

    /// Place, name and value of everything, in order.
    fn all(&self) -> impl Iterator<Item = ((&str, &str), &str)> {
        self.0.iter().flat_map(|(place, values)| {
            let values = values.iter();
            values.map(move |(name, value)| ((place.as_str(), name.as_str()), value.as_str()))
        })
    }

    /// Compares with a file's text, or says that there is none: a line for every difference, and whether the machine is another.
    pub fn differences(
        &self,
        file: &str,
        recorded: Option<&str>,
        machine: &str,
    ) -> (Vec<String>, bool) {
        let Some((written_on, recorded)) = recorded.and_then(Self::parse) else {
            let line = format!("{file}: no golden file; {RENEW}=1 writes it");
            return (vec![line], false);
        };
        let other = written_on != machine;
        let found: HashMap<_, _> = self.all().collect();
        let mut lines = Vec::new();
        // In the file's order: what comes first is nearest to the reason.
        for (key @ (place, name), was) in recorded.all() {
            match found.get(&key) {
                None => lines.push(format!(
                    "{file}: {place}, {name}: recorded {was}, now absent"
                )),
                Some(is) if !equal(name, was, is, other) => {
                    lines.push(format!(
                        "{file}: {place}, {name}: recorded {was}, found {is}"
                    ));
                }
                Some(_) => {}
            }
        }
        let recorded: HashMap<_, _> = recorded.all().collect();
        for (key @ (place, name), is) in self.all() {
            if !recorded.contains_key(&key) {
                lines.push(format!("{file}: {place}, {name}: not recorded, found {is}"));
            }
        }
        (lines, other)
    }
}

/// Compares with the golden files of a folder below `tests/golden`, or writes them where [`RENEW`] says so; a line for every
/// difference, and for every file that nothing is compared with.
pub fn check(part: &str, tables: &[(String, Golden)]) -> Vec<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("golden")
        .join(part);
    let file = |name: &str| folder.join(format!("{name}.txt"));
    let here = machine();
    if std::env::var_os(RENEW).is_some_and(|value| value == "1") {
        // With what was there of recipes and fixtures that are gone.
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).expect("the folder of golden files");
        for (name, golden) in tables {
            fs::write(file(name), golden.text(&here)).expect("a golden file");
        }
        return vec![format!(
            "{} was renewed, since {RENEW} is set",
            folder.display()
        )];
    }
    let mut lines = Vec::new();
    let mut elsewhere = Vec::new();
    for (name, golden) in tables {
        let recorded = fs::read_to_string(file(name)).ok();
        let (mut differences, other) = golden.differences(name, recorded.as_deref(), &here);
        let more = differences.len().saturating_sub(SHOWN);
        differences.truncate(SHOWN);
        lines.extend(differences);
        lines.extend((more > 0).then(|| format!("{name}: and {more} more")));
        elsewhere.extend(other.then_some(name.as_str()));
    }
    let entries = fs::read_dir(&folder).into_iter().flatten().flatten();
    for path in entries.map(|entry| entry.path()) {
        if tables.iter().all(|(name, _)| file(name) != path) {
            lines.push(format!("{}: nothing is compared with it", path.display()));
        }
    }
    if !elsewhere.is_empty() {
        say(&format!(
            "NOT COMPARED: bits and hashes in tests/golden/{part}, of {}: written with other vector units than {here}; losses and \
             recalls are compared within tolerances\n",
            elsewhere.join(", ")
        ));
    }
    lines
}

/// Past the harness, which hides what passing tests print.
fn say(line: &str) {
    use std::io::Write;

    // Where stderr is closed nobody could read it anyway.
    let _ = std::io::stderr().write_all(line.as_bytes());
}

/// Whether two values are the same, on another machine as far as they can be.
fn equal(name: &str, was: &str, is: &str, other: bool) -> bool {
    if !other {
        return was == is;
    }
    let decimal = |value: &str| value.split(' ').next()?.parse::<f64>().ok();
    match (decimal(was), decimal(is)) {
        (Some(was), Some(is)) => {
            // Two that are no numbers are the same.
            let both = was.is_nan() && is.is_nan();
            tolerance(name, was).is_none_or(|most| both || (was - is).abs() <= most)
        }
        // A hash.
        _ => true,
    }
}

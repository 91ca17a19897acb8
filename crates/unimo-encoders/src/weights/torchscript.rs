//! Reading what `torch.jit.save` wrote, as OpenAI published CLIP. The pickle is parsed as data; the code beside it is never read.
//!
//! Such an archive holds `data.pkl`, `constants.pkl`, `code/` and one entry per storage under `data/`. The pickle is a tree of
//! objects whose attributes are other objects and tensors; a tensor's name is the path to it, as in the module's `state_dict`.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use zip::{ZipArchive, ZipReadOptions};

use super::{Dtype, SHARED_AT_MOST, TensorInfo, WeightsError};
use crate::names::join;

/// Largest pickle that is read: that of ViT-L/14 has 200 kB.
const MAX_PICKLE: u64 = 64 << 20;
/// Deepest nesting of modules that is followed; an object that holds itself ends here.
const MAX_DEPTH: usize = 64;
/// Longest name of a tensor, in bytes.
const LONGEST_NAME: usize = 4096;
/// Most attributes that are read: an object may be in many places at once.
const MAX_NODES: usize = 1 << 20;

/// An opened archive.
pub(super) struct TorchScriptFile {
    path: PathBuf,
    archive: ZipArchive<BufReader<File>>,
    /// Prefix of every name in the archive.
    root: String,
    tensors: BTreeMap<String, Stored>,
}

/// Where a tensor's numbers are.
#[derive(Debug, Clone)]
struct Stored {
    storage: Storage,
    /// Numbers in the storage before the tensor's first.
    offset: usize,
    shape: Vec<usize>,
    /// Numbers from one index to the next, per dimension.
    strides: Vec<usize>,
}

/// An entry under `data/`.
#[derive(Debug, Clone)]
struct Storage {
    key: String,
    dtype: Dtype,
    /// Numbers in it.
    count: usize,
}

impl TorchScriptFile {
    /// Opens a file; `None` if it is not a TorchScript archive.
    pub(super) fn open(path: &Path) -> Result<Option<Self>, WeightsError> {
        let file = File::open(path).map_err(WeightsError::file("open", path))?;
        let length = file
            .metadata()
            .map_err(WeightsError::file("read", path))?
            .len();
        let mut reader = BufReader::new(file);
        let mut magic = [0; 4];
        if reader.read_exact(&mut magic).is_err() || &magic != b"PK\x03\x04" {
            return Ok(None);
        }
        // An unsound archive is refused, with a reason, by the reader of `torch.save`'s files.
        let Ok(mut archive) = ZipArchive::new(reader) else {
            return Ok(None);
        };
        let root = archive.file_names().find_map(|name| {
            let name = name.ok()?;
            name.strip_suffix("constants.pkl").map(str::to_owned)
        });
        let Some(root) = root else {
            return Ok(None);
        };
        let wrong =
            |reason: String| WeightsError::content(path, format!("is TorchScript and {reason}"));
        if let Ok(order) = entry(&mut archive, &format!("{root}byteorder"), MAX_PICKLE)
            && order != b"little"
        {
            return Err(wrong(
                "was written on a machine of another byte order".to_owned(),
            ));
        }
        let pickle = entry(&mut archive, &format!("{root}data.pkl"), MAX_PICKLE).map_err(wrong)?;
        let damaged = |reason: String| wrong(format!("its data.pkl {reason}"));
        let value = Machine::run(&pickle).map_err(damaged)?;
        let mut tensors = BTreeMap::new();
        let mut nodes = 0;
        flatten(&value, String::new(), 0, &mut nodes, &mut tensors).map_err(damaged)?;
        let size = |tensor: &Stored| tensor.storage.dtype.size().unwrap_or(0) as u128;
        let own = |tensor: &Stored| {
            let numbers: u128 = tensor.shape.iter().map(|n| *n as u128).product();
            numbers * size(tensor)
        };
        let whole = |tensor: &Stored| tensor.storage.count as u128 * size(tensor);
        let claimed: u128 = tensors.values().map(own).sum();
        let claimed = claimed.max(tensors.values().map(whole).max().unwrap_or(0));
        if claimed > u128::from(length) * SHARED_AT_MOST {
            return Err(wrong(format!(
                "has tensors of {claimed} bytes in a file of {length}: it is damaged or hostile"
            )));
        }
        Ok(Some(Self {
            path: path.to_owned(),
            archive,
            root,
            tensors,
        }))
    }

    pub(super) fn infos(&self) -> Vec<(String, TensorInfo)> {
        let info = |(name, tensor): (&String, &Stored)| {
            let dtype = tensor.storage.dtype;
            let shape = tensor.shape.clone();
            (name.clone(), TensorInfo { dtype, shape })
        };
        self.tensors.iter().map(info).collect()
    }

    /// A tensor's bytes, little-endian, row-major.
    pub(super) fn bytes(&mut self, name: &str) -> Result<Vec<u8>, WeightsError> {
        let wrong = |reason: String| WeightsError::content(&self.path, reason);
        let tensor = self
            .tensors
            .get(name)
            .ok_or_else(|| wrong(format!("holds no tensor `{name}`")))?;
        let Storage { key, dtype, count } = &tensor.storage;
        let size = dtype
            .size()
            .ok_or_else(|| wrong(format!("`{name}` does not hold floats")))?;
        let stored = format!("{}data/{key}", self.root);
        let whole = (*count as u64).saturating_mul(size as u64);
        let bytes = entry(&mut self.archive, &stored, whole).map_err(|reason| {
            WeightsError::content(&self.path, format!("`{name}` cannot be read: it {reason}"))
        })?;
        if bytes.len() as u64 != whole {
            return Err(WeightsError::content(
                &self.path,
                format!(
                    "is damaged: the numbers of `{name}` have {} bytes instead of {whole}",
                    bytes.len()
                ),
            ));
        }
        Ok(gathered(&bytes, tensor, size))
    }
}

/// An entry's bytes, `limit` at most.
fn entry(
    archive: &mut ZipArchive<BufReader<File>>,
    name: &str,
    limit: u64,
) -> Result<Vec<u8>, String> {
    let lacks = || format!("lacks the entry {name}");
    let index = archive.index_for_name(name).ok_or_else(lacks)?;
    let damaged = |e: &dyn std::fmt::Display| format!("has a damaged entry {name}: {e}");
    // A checksum of 0 means that there is none: files may be written without.
    let unchecked = archive
        .by_index_raw(index)
        .map_err(|e| damaged(&e))?
        .crc32()
        == 0;
    let options = ZipReadOptions::new().ignore_crc32(unchecked);
    let mut found = archive
        .by_index_with_options(index, options)
        .map_err(|e| damaged(&e))?;
    let size = found.size();
    if size > limit {
        return Err(format!(
            "has an entry {name} of {size} bytes, and at most {limit} belong there"
        ));
    }
    let mut bytes = Vec::new();
    // One byte more, so that the end is reached and the checksum compared.
    (&mut found)
        .take(size.saturating_add(1))
        .read_to_end(&mut bytes)
        .map_err(|e| damaged(&e))?;
    Ok(bytes)
}

/// A tensor's numbers one after the other.
fn gathered(bytes: &[u8], tensor: &Stored, size: usize) -> Vec<u8> {
    let count: usize = tensor.shape.iter().product();
    let mut dense = 1;
    let contiguous = tensor
        .shape
        .iter()
        .zip(&tensor.strides)
        .rev()
        .all(|(n, stride)| {
            let fits = *n == 1 || *stride == dense;
            dense *= n;
            fits
        });
    let first = tensor.offset * size;
    if contiguous {
        return bytes[first..first + count * size].to_vec();
    }
    let mut out = Vec::with_capacity(count * size);
    for number in 0..count {
        let (mut rest, mut at) = (number, tensor.offset);
        for (n, stride) in tensor.shape.iter().zip(&tensor.strides).rev() {
            at += rest % n * stride;
            rest /= n;
        }
        out.extend_from_slice(&bytes[at * size..(at + 1) * size]);
    }
    out
}

/// Every tensor under its path.
fn flatten(
    value: &Value,
    path: String,
    depth: usize,
    nodes: &mut usize,
    tensors: &mut BTreeMap<String, Stored>,
) -> Result<(), String> {
    *nodes += 1;
    if depth > MAX_DEPTH || *nodes > MAX_NODES || path.len() > LONGEST_NAME {
        return Err("nests objects without end: it is damaged or hostile".to_owned());
    }
    let below = |name: &str| join(&path, name);
    match value {
        Value::Tensor(tensor) => {
            tensors.insert(path, (**tensor).clone());
        }
        Value::Table(table) => {
            for (name, value) in table.borrow().iter() {
                flatten(value, below(name), depth + 1, nodes, tensors)?;
            }
        }
        Value::Items(items) => {
            for (at, value) in items.borrow().iter().enumerate() {
                flatten(value, below(&at.to_string()), depth + 1, nodes, tensors)?;
            }
        }
        _ => {}
    }
    Ok(())
}

/// Keys with their values, in the order of the file.
type Entries = Vec<(Rc<str>, Value)>;

/// A value that a pickle makes.
#[derive(Debug, Clone)]
enum Value {
    Int(i64),
    Text(Rc<str>),
    /// Module and name.
    Class(Rc<str>),
    /// A tuple or list.
    Items(Rc<RefCell<Vec<Value>>>),
    /// A dictionary, or an object with its attributes.
    Table(Rc<RefCell<Entries>>),
    Storage(Rc<Storage>),
    Tensor(Rc<Stored>),
    /// Truth values, floats, bytes and results of unknown functions: no weights.
    Other,
    Mark,
}

impl Value {
    fn items(values: Vec<Value>) -> Self {
        Self::Items(Rc::new(RefCell::new(values)))
    }

    fn table() -> Self {
        Self::Table(Rc::default())
    }

    /// Whether it is a tensor or a storage, or a list that holds one, directly or in an inner list.
    fn holds_numbers(&self) -> bool {
        let is_number = |value: &Self| matches!(value, Self::Tensor(_) | Self::Storage(_));
        let Self::Items(items) = self else {
            return is_number(self);
        };
        items.borrow().iter().any(|value| match value {
            Self::Items(inner) => inner.borrow().iter().any(is_number),
            other => is_number(other),
        })
    }
}

/// The machine that runs pickles, as far as TorchScript needs it. It calls nothing that they name.
#[derive(Default)]
struct Machine<'a> {
    rest: &'a [u8],
    stack: Vec<Value>,
    memo: HashMap<u32, Value>,
}

impl<'a> Machine<'a> {
    fn run(pickle: &'a [u8]) -> Result<Value, String> {
        let mut machine = Self {
            rest: pickle,
            ..Self::default()
        };
        loop {
            let code = machine.byte()?;
            if code == b'.' {
                return machine.pop();
            }
            machine.step(code)?;
        }
    }

    fn step(&mut self, code: u8) -> Result<(), String> {
        match code {
            // The protocol's number.
            0x80 => {
                self.byte()?;
            }
            b'(' => self.stack.push(Value::Mark),
            b'N' | 0x88 | 0x89 => self.stack.push(Value::Other),
            b'G' => {
                self.bytes(8)?;
                self.stack.push(Value::Other);
            }
            b'K' => {
                let number = self.byte()?;
                self.stack.push(Value::Int(number.into()));
            }
            b'M' => {
                let number = u16::from_le_bytes(self.array()?);
                self.stack.push(Value::Int(number.into()));
            }
            b'J' => {
                let number = i32::from_le_bytes(self.array()?);
                self.stack.push(Value::Int(number.into()));
            }
            0x8a => {
                let length = usize::from(self.byte()?);
                let bytes = self.bytes(length)?;
                self.stack.push(long(bytes));
            }
            b'X' | b'T' => {
                let length = u32::from_le_bytes(self.array()?);
                self.text(length as usize)?;
            }
            0x8c | b'U' => {
                let length = self.byte()?;
                self.text(length.into())?;
            }
            b'B' => {
                let length = u32::from_le_bytes(self.array()?);
                self.bytes(length as usize)?;
                self.stack.push(Value::Other);
            }
            b'C' => {
                let length = self.byte()?;
                self.bytes(length.into())?;
                self.stack.push(Value::Other);
            }
            b'c' => {
                let class = format!("{} {}", self.line()?, self.line()?);
                self.stack.push(Value::Class(class.into()));
            }
            b')' | b']' => self.stack.push(Value::items(Vec::new())),
            b'}' => self.stack.push(Value::table()),
            b't' => {
                let items = self.since_mark()?;
                self.stack.push(Value::items(items));
            }
            0x85..=0x87 => {
                let from = self.stack.len().checked_sub(usize::from(code - 0x84));
                let items = self.stack.split_off(from.ok_or_else(ends_early)?);
                self.stack.push(Value::items(items));
            }
            b'a' => {
                let item = self.pop()?;
                self.append(vec![item])?;
            }
            b'e' => {
                let items = self.since_mark()?;
                self.append(items)?;
            }
            b's' => {
                let value = self.pop()?;
                let key = self.pop()?;
                self.insert(vec![key, value])?;
            }
            b'u' => {
                let pairs = self.since_mark()?;
                self.insert(pairs)?;
            }
            b'q' => {
                let at = self.byte()?;
                self.keep(at.into())?;
            }
            b'r' => {
                let at = u32::from_le_bytes(self.array()?);
                self.keep(at)?;
            }
            b'h' => {
                let at = self.byte()?;
                self.recall(at.into())?;
            }
            b'j' => {
                let at = u32::from_le_bytes(self.array()?);
                self.recall(at)?;
            }
            b'Q' => {
                let id = self.pop()?;
                self.stack.push(storage(&id)?);
            }
            b'R' => {
                let arguments = self.pop()?;
                let function = self.pop()?;
                self.stack.push(called(&function, &arguments)?);
            }
            0x81 => {
                self.pop()?;
                self.pop()?;
                self.stack.push(Value::table());
            }
            b'b' => {
                let state = self.pop()?;
                self.build(state)?;
            }
            other => {
                return Err(format!(
                    "holds the instruction 0x{other:02x}, which TorchScript does not write: it is damaged"
                ));
            }
        }
        Ok(())
    }

    fn bytes(&mut self, count: usize) -> Result<&'a [u8], String> {
        let (bytes, rest) = self.rest.split_at_checked(count).ok_or_else(ends_early)?;
        self.rest = rest;
        Ok(bytes)
    }

    fn byte(&mut self) -> Result<u8, String> {
        let [byte] = self.array()?;
        Ok(byte)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let (bytes, rest) = self.rest.split_first_chunk().ok_or_else(ends_early)?;
        self.rest = rest;
        Ok(*bytes)
    }

    fn line(&mut self) -> Result<String, String> {
        let end = self.rest.iter().position(|byte| *byte == b'\n');
        let line = self.bytes(end.ok_or_else(ends_early)?)?;
        self.byte()?;
        Ok(String::from_utf8_lossy(line).into_owned())
    }

    fn text(&mut self, length: usize) -> Result<(), String> {
        let text = String::from_utf8_lossy(self.bytes(length)?);
        self.stack.push(Value::Text(text.into()));
        Ok(())
    }

    fn pop(&mut self) -> Result<Value, String> {
        match self.stack.pop() {
            Some(Value::Mark) | None => Err(ends_early()),
            Some(value) => Ok(value),
        }
    }

    fn since_mark(&mut self) -> Result<Vec<Value>, String> {
        let is_mark = |value: &Value| matches!(value, Value::Mark);
        let at = self.stack.iter().rposition(is_mark);
        let items = self.stack.split_off(at.ok_or_else(ends_early)? + 1);
        self.stack.pop();
        Ok(items)
    }

    fn keep(&mut self, at: u32) -> Result<(), String> {
        let top = self.stack.last().ok_or_else(ends_early)?.clone();
        self.memo.insert(at, top);
        Ok(())
    }

    fn recall(&mut self, at: u32) -> Result<(), String> {
        let value = self.memo.get(&at).ok_or_else(ends_early)?.clone();
        self.stack.push(value);
        Ok(())
    }

    fn append(&mut self, values: Vec<Value>) -> Result<(), String> {
        if let Some(Value::Items(items)) = self.stack.last() {
            items.borrow_mut().extend(values);
        }
        Ok(())
    }

    /// Keys and values, in turn, into the dictionary on top.
    fn insert(&mut self, pairs: Vec<Value>) -> Result<(), String> {
        let Some(Value::Table(table)) = self.stack.last() else {
            return Err(ends_early());
        };
        let mut pairs = pairs.into_iter();
        while let (Some(key), Some(value)) = (pairs.next(), pairs.next()) {
            let key = match key {
                Value::Text(text) => text,
                Value::Int(number) => number.to_string().into(),
                _ => "?".into(),
            };
            table.borrow_mut().push((key, value));
        }
        Ok(())
    }

    /// Attributes into the object on top.
    fn build(&mut self, state: Value) -> Result<(), String> {
        let Some(Value::Table(object)) = self.stack.last() else {
            return Err(ends_early());
        };
        match state {
            Value::Table(state) if !Rc::ptr_eq(object, &state) => {
                object.borrow_mut().extend(state.borrow().iter().cloned());
            }
            // An object's own code would read such a state. That code is not run, but the state's tensors are still seen.
            other => object.borrow_mut().push(("state".into(), other)),
        }
        Ok(())
    }
}

fn ends_early() -> String {
    "ends early or is damaged".to_owned()
}

/// A whole number of up to 8 bytes.
fn long(bytes: &[u8]) -> Value {
    if bytes.len() > 8 {
        return Value::Other;
    }
    let negative = bytes.last().is_some_and(|last| last & 0x80 != 0);
    let mut all = [if negative { 0xff } else { 0 }; 8];
    all[..bytes.len()].copy_from_slice(bytes);
    Value::Int(i64::from_le_bytes(all))
}

/// `('storage', class, key, device, count)`.
fn storage(id: &Value) -> Result<Value, String> {
    let wrong = || "refers to numbers in a way that is not known".to_owned();
    let Value::Items(fields) = id else {
        return Err(wrong());
    };
    let fields = fields.borrow();
    let [
        _,
        Value::Class(class),
        Value::Text(key),
        _,
        Value::Int(count),
        ..,
    ] = fields.as_slice()
    else {
        return Err(wrong());
    };
    let dtype = match class.rsplit(' ').next() {
        Some("DoubleStorage") => Dtype::F64,
        Some("FloatStorage") => Dtype::F32,
        Some("HalfStorage") => Dtype::F16,
        Some("BFloat16Storage") => Dtype::Bf16,
        _ => Dtype::Other,
    };
    Ok(Value::Storage(Rc::new(Storage {
        key: key.to_string(),
        dtype,
        count: usize::try_from(*count).map_err(|_| wrong())?,
    })))
}

/// What a function would return, for the few functions that make tensors.
fn called(function: &Value, arguments: &Value) -> Result<Value, String> {
    let (Value::Class(function), Value::Items(arguments)) = (function, arguments) else {
        return Ok(Value::Other);
    };
    let fields = arguments.borrow();
    match function.as_ref() {
        "torch._utils _rebuild_tensor_v2" => {
            let [
                Value::Storage(storage),
                Value::Int(offset),
                Value::Items(shape),
                Value::Items(strides),
                ..,
            ] = fields.as_slice()
            else {
                return Err("holds a tensor without its parts".to_owned());
            };
            tensor(storage, *offset, &shape.borrow(), &strides.borrow())
        }
        // A value with the name of its type.
        "torch.jit._pickle restore_type_tag" => Ok(fields.first().cloned().unwrap_or(Value::Other)),
        "collections OrderedDict" => Ok(Value::table()),
        other if fields.iter().any(Value::holds_numbers) => Err(format!(
            "holds a tensor made by {other}, which is not supported"
        )),
        _ => Ok(Value::Other),
    }
}

/// A tensor whose numbers all lie in its storage.
fn tensor(
    storage: &Storage,
    offset: i64,
    shape: &[Value],
    strides: &[Value],
) -> Result<Value, String> {
    let beyond = || "holds a tensor that is larger than its storage".to_owned();
    let sizes = |values: &[Value]| -> Option<Vec<usize>> {
        let size = |value: &Value| match value {
            Value::Int(number) => usize::try_from(*number).ok(),
            _ => None,
        };
        values.iter().map(size).collect()
    };
    let (Some(shape), Some(strides), Ok(offset)) =
        (sizes(shape), sizes(strides), usize::try_from(offset))
    else {
        return Err(beyond());
    };
    let numbers = shape.iter().try_fold(1usize, |all, n| all.checked_mul(*n));
    let last = shape
        .iter()
        .zip(&strides)
        .try_fold(offset, |at, (n, stride)| {
            at.checked_add(n.checked_sub(1)?.checked_mul(*stride)?)
        });
    let empty = numbers == Some(0);
    let within = last.is_some_and(|last| last < storage.count);
    let sound = shape.len() == strides.len() && numbers.is_some();
    if !sound || !(empty || within) || offset > storage.count {
        return Err(beyond());
    }
    Ok(Value::Tensor(Rc::new(Stored {
        storage: storage.clone(),
        offset,
        shape,
        strides,
    })))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `Module` with a transposed `w` [2, 3] from the second of 7 stored numbers on, and a module `sub` with a flag.
    fn pickle() -> Vec<u8> {
        let mut pickle =
            b"\x80\x02c__torch__\nM\nq\x00)\x81}(X\x01\0\0\0wctorch._utils\n_rebuild_tensor_v2\n(("
                .to_vec();
        pickle
            .extend(b"X\x07\0\0\0storagectorch\nHalfStorage\nX\x01\0\0\x000X\x03\0\0\0cpuK\x07tQ");
        pickle.extend(b"K\x01(K\x02K\x03t(K\x01K\x02t\x89ccollections\nOrderedDict\n)RtR");
        pickle.extend(b"X\x03\0\0\0subh\x00)\x81}(X\x08\0\0\0training\x88ubub.");
        pickle
    }

    #[test]
    fn a_tree_of_objects_is_names_and_tensors() {
        let value = Machine::run(&pickle()).unwrap();
        let mut tensors = BTreeMap::new();
        flatten(&value, String::new(), 0, &mut 0, &mut tensors).unwrap();
        let names: Vec<&String> = tensors.keys().collect();
        assert_eq!(names, ["w"]);
        let w = &tensors["w"];
        assert_eq!((w.shape.as_slice(), w.offset), (&[2, 3][..], 1));
        let numbers: Vec<u8> = (0..7u8).flat_map(|i| [i, 10 + i]).collect();
        let rows = gathered(&numbers, w, 2);
        let firsts: Vec<u8> = rows.chunks(2).map(|number| number[0]).collect();
        assert_eq!(firsts, [1, 3, 5, 2, 4, 6]);
    }

    #[test]
    fn damage_is_an_error() {
        let good = pickle();
        for end in 0..good.len() {
            assert!(Machine::run(&good[..end]).is_err(), "{end}");
        }
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 0x15;
            if let Ok(value) = Machine::run(&bad) {
                let _ = flatten(&value, String::new(), 0, &mut 0, &mut BTreeMap::new());
            }
        }
        // An object that is its own attribute.
        let endless = b"c__torch__\nM\n)\x81q\x01}(X\x01\0\0\0ah\x01ub.";
        let value = Machine::run(endless).unwrap();
        let found = flatten(&value, String::new(), 0, &mut 0, &mut BTreeMap::new());
        assert!(found.unwrap_err().contains("without end"));
        // A storage of three numbers has no row of six.
        let bad = String::from_utf8_lossy(&good).into_owned();
        assert!(bad.contains("K\u{7}t"));
        let mut short = good;
        let at = short.windows(3).position(|w| w == b"K\x07t").unwrap();
        short[at + 1] = 3;
        assert!(Machine::run(&short).unwrap_err().contains("larger"));
    }
}

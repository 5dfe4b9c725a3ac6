//! PyTorch's old weight files (`torch.save` before 1.6), read without executing anything: pickles that describe the tensors,
//! then their numbers.
//!
//! A pickle is a program. This runs the few instructions that a dictionary of tensors is made of, and refuses all others by name,
//! so that a file can hold nothing but data.

use std::collections::HashMap;

use anyhow::{Context, Result, bail, ensure};

/// The number every such file begins with.
const MAGIC: [u8; 10] = [0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];

/// A dense tensor of f32.
#[derive(Clone, Debug, PartialEq)]
pub struct Stored {
    /// Its name in the dictionary.
    pub name: String,
    /// Its shape.
    pub shape: Vec<usize>,
    /// Its numbers, little-endian, in the order of the shape.
    pub values: Vec<u8>,
}

/// What a pickle's program works on.
#[derive(Clone, Debug, PartialEq)]
enum Value {
    Mark,
    None,
    Integer(i64),
    Long(Vec<u8>),
    Bool,
    Text(String),
    Global(String),
    Tuple(Vec<Value>),
    Dict(Vec<(Value, Value)>),
    List(Vec<Value>),
    Storage { float: bool, key: String },
    Tensor { float: bool, key: String, offset: i64, shape: Vec<i64>, strides: Vec<i64> },
}

/// The f32 tensors of such a file, in its order; others (counters) are left out.
///
/// # Errors
/// If it is no such file, is torn, or wants more done than tensors need.
pub fn tensors(content: &[u8]) -> Result<Vec<Stored>> {
    let mut reader = Reader { content, at: 0 };
    ensure!(
        matches!(reader.load(), Ok(Value::Long(bytes)) if bytes == MAGIC),
        "not a file of torch.save in the form used before PyTorch 1.6"
    );
    ensure!(reader.load()? == Value::Integer(1001), "an unknown version of torch.save's old form");
    reader.load().context("what it says of its system")?;
    let Value::Dict(named) = reader.load().context("the dictionary of tensors")? else {
        bail!("it does not hold a dictionary of tensors");
    };
    let Value::List(keys) = reader.load().context("the list of its parts")? else {
        bail!("it has no list of its parts");
    };
    let storages = reader.storages(&keys, &named)?;
    let mut found = Vec::new();
    for (name, value) in named {
        let (Value::Text(name), Value::Tensor { float: true, key, offset, shape, strides }) = (name, value) else {
            continue;
        };
        let values = storages.get(&key).with_context(|| format!("{name} lies in a part that is not there"))?;
        found.push(dense(name, values, offset, &shape, &strides)?);
    }
    Ok(found)
}

/// The numbers in the order of the shape, whatever their order in the file.
fn dense(name: String, storage: &[u8], offset: i64, shape: &[i64], strides: &[i64]) -> Result<Stored> {
    let torn = || format!("{name} reaches beyond its part of the file");
    ensure!(shape.len() == strides.len(), "{name} has {} sizes and {} strides", shape.len(), strides.len());
    let unsigned = |values: &[i64]| values.iter().map(|&value| usize::try_from(value).ok()).collect::<Option<Vec<_>>>();
    let (shape, strides) = unsigned(shape).zip(unsigned(strides)).with_context(torn)?;
    let count = shape.iter().try_fold(1usize, |count, &size| count.checked_mul(size)).with_context(torn)?;
    // No tensor of a network has numbers that stand for several others.
    ensure!(count <= storage.len() / 4, "{}", torn());
    let mut values = Vec::with_capacity(4 * count);
    for number in 0..count {
        let (mut left, mut at) = (number, usize::try_from(offset).ok());
        for (&size, &stride) in shape.iter().zip(&strides).rev() {
            at = at.and_then(|at| at.checked_add((left % size).checked_mul(stride)?));
            left /= size;
        }
        let place = at.and_then(|at| at.checked_mul(4));
        values.extend_from_slice(place.and_then(|at| storage.get(at..at.checked_add(4)?)).with_context(torn)?);
    }
    Ok(Stored { name, shape, values })
}

struct Reader<'a> {
    content: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8]> {
        let end = self.at.checked_add(count);
        let part = end.and_then(|end| self.content.get(self.at..end)).context("it ends in the middle")?;
        self.at += count;
        Ok(part)
    }

    fn whole(&mut self, bytes: usize) -> Result<usize> {
        Ok(self.take(bytes)?.iter().rev().fold(0, |sum, &byte| sum << 8 | usize::from(byte)))
    }

    fn line(&mut self) -> Result<String> {
        let rest = self.content.get(self.at..).unwrap_or_default();
        let length = rest.iter().position(|&byte| byte == b'\n').context("it ends in the middle")?;
        let line = self.take(length + 1)?;
        Ok(String::from_utf8_lossy(&line[..length]).into_owned())
    }

    /// The raw numbers behind the pickles, each part with its length before it.
    fn storages(&mut self, keys: &[Value], named: &[(Value, Value)]) -> Result<HashMap<String, &'a [u8]>> {
        let floats: HashMap<&String, bool> = named
            .iter()
            .filter_map(|(_, value)| match value {
                Value::Tensor { float, key, .. } => Some((key, *float)),
                _ => None,
            })
            .collect();
        let mut found = HashMap::new();
        for key in keys {
            let Value::Text(key) = key else { bail!("a part has no name") };
            let count = self.whole(8)?;
            // Counters are of 8 bytes; of other kinds there are none.
            let width = if floats.get(key).copied().unwrap_or(true) { 4 } else { 8 };
            found.insert(key.clone(), self.take(count.checked_mul(width).context("it is torn")?)?);
        }
        Ok(found)
    }

    /// Runs one pickle.
    fn load(&mut self) -> Result<Value> {
        let mut stack: Vec<Value> = Vec::new();
        let mut memo: HashMap<usize, Value> = HashMap::new();
        let empty = || anyhow::anyhow!("it takes from where nothing is");
        loop {
            let code = self.take(1)?[0];
            match code {
                0x80 => {
                    self.take(1)?;
                }
                b'.' => return stack.pop().ok_or_else(empty),
                b'(' => stack.push(Value::Mark),
                b'N' => stack.push(Value::None),
                0x88 | 0x89 => stack.push(Value::Bool),
                b'K' => stack.push(Value::Integer(self.whole(1)? as i64)),
                b'M' => stack.push(Value::Integer(self.whole(2)? as i64)),
                b'J' => stack.push(Value::Integer(i64::from(self.whole(4)? as u32 as i32))),
                0x8a => {
                    let count = self.whole(1)?;
                    let bytes = self.take(count)?.to_vec();
                    stack.push(Value::Long(bytes));
                }
                b'X' => {
                    let count = self.whole(4)?;
                    stack.push(Value::Text(String::from_utf8_lossy(self.take(count)?).into_owned()));
                }
                b'c' => {
                    let (module, name) = (self.line()?, self.line()?);
                    stack.push(Value::Global(format!("{module}.{name}")));
                }
                b')' => stack.push(Value::Tuple(Vec::new())),
                b'}' => stack.push(Value::Dict(Vec::new())),
                b']' => stack.push(Value::List(Vec::new())),
                0x85..=0x87 => {
                    let count = usize::from(code - 0x84);
                    let start = stack.len().checked_sub(count).ok_or_else(empty)?;
                    let items = stack.split_off(start);
                    stack.push(Value::Tuple(items));
                }
                b't' => {
                    let items = since_mark(&mut stack)?;
                    stack.push(Value::Tuple(items));
                }
                b'q' | b'r' => {
                    let place = self.whole(if code == b'q' { 1 } else { 4 })?;
                    memo.insert(place, stack.last().ok_or_else(empty)?.clone());
                }
                b'h' | b'j' => {
                    let place = self.whole(if code == b'h' { 1 } else { 4 })?;
                    stack.push(memo.get(&place).context("it names what it has not kept")?.clone());
                }
                b'Q' => {
                    let id = stack.pop().ok_or_else(empty)?;
                    stack.push(storage(id)?);
                }
                b'R' => {
                    let (arguments, function) = (stack.pop().ok_or_else(empty)?, stack.pop().ok_or_else(empty)?);
                    stack.push(called(function, arguments)?);
                }
                b's' | b'u' | b'e' | b'a' => {
                    let items = match code {
                        b's' => {
                            let start = stack.len().checked_sub(2).ok_or_else(empty)?;
                            stack.split_off(start)
                        }
                        b'a' => vec![stack.pop().ok_or_else(empty)?],
                        _ => since_mark(&mut stack)?,
                    };
                    fill(stack.last_mut().ok_or_else(empty)?, items)?;
                }
                // Attributes of the dictionary, which are not tensors.
                b'b' => {
                    stack.pop();
                }
                other => bail!("it wants instruction {other:#04x} carried out, which no tensor needs"),
            }
        }
    }
}

fn since_mark(stack: &mut Vec<Value>) -> Result<Vec<Value>> {
    let mark = stack.iter().rposition(|value| *value == Value::Mark).context("it closes what it has not opened")?;
    let items = stack.split_off(mark + 1);
    stack.pop();
    Ok(items)
}

fn fill(target: &mut Value, items: Vec<Value>) -> Result<()> {
    match target {
        Value::Dict(entries) => {
            let mut items = items.into_iter();
            while let (Some(key), Some(value)) = (items.next(), items.next()) {
                entries.push((key, value));
            }
        }
        Value::List(list) => list.extend(items),
        _ => bail!("it fills what is no dictionary and no list"),
    }
    Ok(())
}

/// A part of the file: ("storage", its kind, its key, the device, how many numbers, a view).
fn storage(id: Value) -> Result<Value> {
    if let Value::Tuple(items) = &id
        && let [Value::Text(what), Value::Global(kind), Value::Text(key), ..] = items.as_slice()
        && what == "storage"
        && matches!(kind.as_str(), "torch.FloatStorage" | "torch.LongStorage")
    {
        return Ok(Value::Storage { float: kind == "torch.FloatStorage", key: key.clone() });
    }
    bail!("it refers to something that is no part with f32 or counters")
}

fn called(function: Value, arguments: Value) -> Result<Value> {
    let (Value::Global(name), Value::Tuple(arguments)) = (function, arguments) else {
        bail!("it calls something that is no function");
    };
    match (name.as_str(), arguments.as_slice()) {
        ("collections.OrderedDict", []) => Ok(Value::Dict(Vec::new())),
        (
            "torch._utils._rebuild_tensor_v2",
            [Value::Storage { float, key }, Value::Integer(offset), Value::Tuple(shape), Value::Tuple(strides), ..],
        ) => Ok(Value::Tensor {
            float: *float,
            key: key.clone(),
            offset: *offset,
            shape: integers(shape)?,
            strides: integers(strides)?,
        }),
        _ => bail!("it wants {name} called, which no tensor needs"),
    }
}

fn integers(values: &[Value]) -> Result<Vec<i64>> {
    let integer = |value: &Value| match value {
        Value::Integer(value) => Ok(*value),
        other => bail!("a shape of {other:?}"),
    };
    values.iter().map(integer).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `torch.save({"w": tensor([[1, 2]])}, ..., _use_new_zipfile_serialization=False)` writes, put together by hand.
    fn file() -> Vec<u8> {
        let mut file = vec![0x80, 2, 0x8a, 10];
        file.extend(MAGIC);
        file.extend(b".\x80\x02M\xe9\x03.\x80\x02}.\x80\x02}(X\x01\0\0\0w");
        file.extend(b"ctorch._utils\n_rebuild_tensor_v2\n((X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x007");
        file.extend(b"X\x03\0\0\0cpuK\x02NtQK\0K\x01K\x02\x86K\x02K\x01\x86\x89ccollections\nOrderedDict\n)RtRu.");
        file.extend(b"\x80\x02]X\x01\0\0\x007a.");
        file.extend(2u64.to_le_bytes());
        file.extend([1f32, 2f32].iter().flat_map(|value| value.to_le_bytes()));
        file
    }

    #[test]
    fn a_tensor_is_read_and_a_file_cut_anywhere_is_refused() -> Result<()> {
        let found = tensors(&file())?;
        assert_eq!((found.len(), found[0].name.as_str(), found[0].shape.as_slice()), (1, "w", [1, 2].as_slice()));
        assert_eq!(found[0].values[4..], 2f32.to_le_bytes());
        for end in 0..file().len() {
            assert!(tensors(&file()[..end]).is_err(), "cut at {end}");
        }
        Ok(())
    }

    #[test]
    fn numbers_that_lie_in_another_order_are_brought_into_that_of_the_shape() -> Result<()> {
        let storage: Vec<u8> = (0..7).flat_map(|n| (n as f32).to_le_bytes()).collect();
        let across = dense("t".into(), &storage, 1, &[2, 3], &[1, 2])?;
        let expected: Vec<u8> = [1f32, 3., 5., 2., 4., 6.].iter().flat_map(|value| value.to_le_bytes()).collect();
        assert_eq!(across.values, expected);
        assert!(dense("t".into(), &storage, 2, &[2, 3], &[1, 2]).is_err());
        assert!(dense("t".into(), &storage, -1, &[1], &[1]).is_err());
        assert!(dense("t".into(), &storage, 0, &[i64::MAX, i64::MAX], &[0, 0]).is_err());
        Ok(())
    }

    #[test]
    fn what_would_execute_something_is_refused_by_name() {
        let mut file = vec![0x80, 2, 0x8a, 10];
        file.extend(MAGIC);
        file.extend(b".\x80\x02M\xe9\x03.\x80\x02}.\x80\x02cos\nsystem\nX\x02\0\0\0ls\x85R.");
        let text = format!("{:#}", tensors(&file).map(|_| ()).unwrap_err());
        assert!(text.contains("os.system"), "{text}");
    }
}

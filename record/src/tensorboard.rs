//! TensorBoard event files: TFRecord framing (length, masked CRC-32C, payload, masked CRC-32C) around `Event` messages.

use std::fs::{File, OpenOptions};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use prost::Message;

use crate::RecordError;

/// `tensorflow.Event`, the fields that are used.
#[derive(Clone, PartialEq, Message)]
struct Event {
    #[prost(double, tag = "1")]
    wall_time: f64,
    #[prost(int64, tag = "2")]
    step: i64,
    #[prost(string, optional, tag = "3")]
    file_version: Option<String>,
    #[prost(message, optional, tag = "5")]
    summary: Option<Summary>,
}

#[derive(Clone, PartialEq, Message)]
struct Summary {
    #[prost(message, repeated, tag = "1")]
    value: Vec<Value>,
}

#[derive(Clone, PartialEq, Message)]
struct Value {
    #[prost(string, tag = "1")]
    tag: String,
    #[prost(float, optional, tag = "2")]
    simple_value: Option<f32>,
    #[prost(message, optional, tag = "4")]
    image: Option<Image>,
}

#[derive(Clone, PartialEq, Message)]
struct Image {
    #[prost(int32, tag = "1")]
    height: i32,
    #[prost(int32, tag = "2")]
    width: i32,
    #[prost(int32, tag = "3")]
    colorspace: i32,
    #[prost(bytes = "vec", tag = "4")]
    encoded: Vec<u8>,
}

/// Writes one event file.
#[derive(Debug)]
pub struct Writer {
    path: PathBuf,
    file: BufWriter<File>,
}

impl Writer {
    /// A new event file in `folder`. `time` is seconds since 1970.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn create(folder: &Path, time: f64) -> Result<Self, RecordError> {
        let path = folder.join(format!("events.out.tfevents.{:010}.began.{}", time as u64, std::process::id()));
        let file =
            OpenOptions::new().create_new(true).write(true).open(&path).map_err(RecordError::io("write", &path))?;
        let mut writer = Self { path, file: BufWriter::new(file) };
        let version = Event { wall_time: time, step: 0, file_version: Some("brain.Event:2".into()), summary: None };
        writer.append(&version)?;
        writer.flush()?;
        Ok(writer)
    }

    /// Scalars of one step.
    ///
    /// # Errors
    /// If they cannot be written.
    pub fn scalars(&mut self, time: f64, step: u64, scalars: &[(&str, f64)]) -> Result<(), RecordError> {
        let value =
            |&(tag, value): &(&str, f64)| Value { tag: tag.into(), simple_value: Some(value as f32), image: None };
        self.summary(time, step, scalars.iter().map(value).collect())
    }

    /// One PNG.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn image(
        &mut self,
        time: f64,
        step: u64,
        tag: &str,
        width: u32,
        height: u32,
        png: Vec<u8>,
    ) -> Result<(), RecordError> {
        let image = Image { height: height as i32, width: width as i32, colorspace: 3, encoded: png };
        self.summary(time, step, vec![Value { tag: tag.into(), simple_value: None, image: Some(image) }])
    }

    fn summary(&mut self, time: f64, step: u64, value: Vec<Value>) -> Result<(), RecordError> {
        self.append(&Event { wall_time: time, step: step as i64, file_version: None, summary: Some(Summary { value }) })
    }

    fn append(&mut self, event: &Event) -> Result<(), RecordError> {
        let payload = event.encode_to_vec();
        let length = (payload.len() as u64).to_le_bytes();
        let mut record = Vec::with_capacity(payload.len() + 16);
        record.extend_from_slice(&length);
        record.extend_from_slice(&masked_crc(&length).to_le_bytes());
        record.extend_from_slice(&payload);
        record.extend_from_slice(&masked_crc(&payload).to_le_bytes());
        self.file.write_all(&record).map_err(RecordError::io("write", &self.path))
    }

    /// Hands everything to the operating system.
    ///
    /// # Errors
    /// If that fails.
    pub fn flush(&mut self) -> Result<(), RecordError> {
        self.file.flush().map_err(RecordError::io("write", &self.path))
    }
}

fn masked_crc(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_record_is_framed_and_decodes() -> Result<(), Box<dyn std::error::Error>> {
        let folder = tempfile::tempdir()?;
        let mut writer = Writer::create(folder.path(), 1.5)?;
        writer.scalars(2.0, 7, &[("loss/real", 0.25), ("equilibrium/k", 0.5)])?;
        writer.flush()?;
        let file = std::fs::read_dir(folder.path())?.next().ok_or("no file")??.path();
        let bytes = std::fs::read(file)?;
        let mut rest = bytes.as_slice();
        let mut events = Vec::new();
        while !rest.is_empty() {
            let length = u64::from_le_bytes(rest[..8].try_into()?) as usize;
            assert_eq!(u32::from_le_bytes(rest[8..12].try_into()?), masked_crc(&rest[..8]));
            let payload = &rest[12..12 + length];
            assert_eq!(u32::from_le_bytes(rest[12 + length..16 + length].try_into()?), masked_crc(payload));
            events.push(Event::decode(payload)?);
            rest = &rest[16 + length..];
        }
        assert_eq!(events[0].file_version.as_deref(), Some("brain.Event:2"));
        let summary = events[1].summary.as_ref().ok_or("no summary")?;
        assert_eq!((events[1].step, summary.value[1].simple_value), (7, Some(0.5)));
        Ok(())
    }
}

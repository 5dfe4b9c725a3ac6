//! What travels between two ranks, and reading and writing that can be called off.

use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// How long a read or write sits in the system before it is asked again whether anybody still wants it.
pub const SLICE: Duration = Duration::from_millis(10);

/// No message is longer: what claims to be is no message.
const LONGEST: u64 = 1 << 33;

/// Which series of messages between two ranks one belongs to; each is numbered for itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Series {
    /// The sender is finalising and sends nothing more.
    Goodbye = 0,
    Collective = 1,
    PointToPoint = 2,
}

/// What an operation is, as both sides must agree on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Signature {
    pub kind: u8,
    pub of: u8,
    pub reduction: u8,
    pub root: u32,
}

#[derive(Debug)]
pub struct Message {
    pub series: Series,
    pub number: u64,
    pub signature: Signature,
    pub body: Vec<u8>,
}

const HEADER: usize = 24;

impl Message {
    fn header(&self) -> [u8; HEADER] {
        let mut header = [0; HEADER];
        header[0] = self.series as u8;
        header[1] = self.signature.kind;
        header[2] = self.signature.of;
        header[3] = self.signature.reduction;
        header[4..8].copy_from_slice(&self.signature.root.to_le_bytes());
        header[8..16].copy_from_slice(&self.number.to_le_bytes());
        header[16..24].copy_from_slice(&(self.body.len() as u64).to_le_bytes());
        header
    }

    pub fn write(&self, stream: &mut TcpStream, called_off: &dyn Fn() -> bool) -> io::Result<()> {
        write_all(stream, &self.header(), called_off)?;
        write_all(stream, &self.body, called_off)
    }

    /// Blocks until a message has come, or the connection ends.
    pub fn read(stream: &mut TcpStream) -> io::Result<Self> {
        let mut header = [0; HEADER];
        stream.read_exact(&mut header)?;
        let series = match header[0] {
            0 => Series::Goodbye,
            1 => Series::Collective,
            2 => Series::PointToPoint,
            other => return Err(io::Error::other(format!("a message of the unknown series {other}"))),
        };
        let signature = Signature { kind: header[1], of: header[2], reduction: header[3], root: u32_at(&header, 4) };
        let (number, length) = (u64_at(&header, 8), u64_at(&header, 16));
        if length > LONGEST {
            return Err(io::Error::other(format!("a message of {length} bytes")));
        }
        // Memory grows with what comes, not with what is claimed.
        let mut body = Vec::new();
        Read::by_ref(stream).take(length).read_to_end(&mut body)?;
        if body.len() as u64 != length {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        Ok(Self { series, number, signature, body })
    }
}

pub fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_le_bytes)
}

pub fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 8).and_then(|b| b.try_into().ok()).map_or(0, u64::from_le_bytes)
}

pub fn u16_at(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..at + 2).and_then(|b| b.try_into().ok()).map_or(0, u16::from_le_bytes)
}

/// Whether an error only says that the slice is over.
pub fn is_pause(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted)
}

fn given_up() -> io::Error {
    io::Error::new(ErrorKind::ConnectionAborted, "called off")
}

/// Writes everything, unless called off. The stream has a write timeout of a [`SLICE`].
pub fn write_all(stream: &mut TcpStream, mut bytes: &[u8], called_off: &dyn Fn() -> bool) -> io::Result<()> {
    while !bytes.is_empty() {
        match stream.write(bytes) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(count) => bytes = &bytes[count..],
            Err(error) if is_pause(&error) && called_off() => return Err(given_up()),
            Err(error) if is_pause(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Fills the buffer, unless called off. The stream has a read timeout of a [`SLICE`].
pub fn read_all(stream: &mut TcpStream, mut buffer: &mut [u8], called_off: &dyn Fn() -> bool) -> io::Result<()> {
    while !buffer.is_empty() {
        match stream.read(buffer) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(count) => buffer = &mut buffer[count..],
            Err(error) if is_pause(&error) && called_off() => return Err(given_up()),
            Err(error) if is_pause(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

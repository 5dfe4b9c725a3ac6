//! How the ranks of a communicator find each other: one serves the addresses of all, as NCCL's bootstrap does, and then
//! every two are connected.

use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::wire::{SLICE, read_all, u16_at, u32_at, u64_at, write_all};

const MAGIC: &[u8; 8] = b"NCCLDBL1";
/// nonce, size, rank, port
const HELLO: usize = 18;
/// How long somebody who connects may take to say what they want.
const PATIENCE: Duration = Duration::from_secs(5);

/// Where a communicator to be is served.
#[derive(Debug, Clone, Copy)]
pub struct Address {
    pub port: u16,
    pub nonce: u64,
}

impl Address {
    pub fn to_bytes(self) -> [u8; 128] {
        let mut bytes = [0; 128];
        bytes[..8].copy_from_slice(MAGIC);
        bytes[8..10].copy_from_slice(&self.port.to_le_bytes());
        bytes[10..18].copy_from_slice(&self.nonce.to_le_bytes());
        bytes
    }

    pub fn from_bytes(bytes: &[u8; 128]) -> Option<Self> {
        (&bytes[..8] == MAGIC).then(|| Self { port: u16_at(bytes, 8), nonce: u64_at(bytes, 10) })
    }
}

/// A place to serve from, not yet served.
#[derive(Debug)]
pub struct Root {
    listener: TcpListener,
    pub address: Address,
}

impl Root {
    pub fn open() -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let port = listener.local_addr()?.port();
        let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let nonce = time.as_nanos() as u64 ^ u64::from(std::process::id()) << 40 ^ u64::from(port);
        Ok(Self { listener, address: Address { port, nonce } })
    }

    /// Serves one communicator from a thread of its own, which ends when all its ranks have come, or with the process.
    pub fn serve(self) -> io::Result<()> {
        thread::Builder::new().name("bootstrap root".to_owned()).spawn(move || self.work()).map(drop)
    }

    fn work(self) {
        let mut ranks: Vec<Option<(TcpStream, u16)>> = Vec::new();
        for stream in self.listener.incoming() {
            let Ok(mut stream) = stream else { continue };
            let mut hello = [0; HELLO];
            let configured = stream.set_read_timeout(Some(PATIENCE));
            // A timeout is no pause here: whoever connects and says nothing is not one of ours.
            if configured.is_err() || read_all(&mut stream, &mut hello, &|| true).is_err() {
                continue;
            }
            let (size, rank) = (u32_at(&hello, 8) as usize, u32_at(&hello, 12) as usize);
            if u64_at(&hello, 0) != self.address.nonce || rank >= size {
                continue;
            }
            if ranks.is_empty() {
                ranks.resize_with(size, || None);
            }
            let seat = ranks.get(rank).map(Option::is_none);
            if seat != Some(true) || ranks.len() != size {
                let why = if ranks.len() == size { 1 } else { 2 };
                let _ = write_all(&mut stream, &[why], &|| true);
                continue;
            }
            ranks[rank] = Some((stream, u16_at(&hello, 16)));
            if ranks.iter().all(Option::is_some) {
                break;
            }
        }
        let ports: Vec<u8> = ranks.iter().flatten().flat_map(|(_, port)| port.to_le_bytes()).collect();
        for (stream, _) in ranks.iter_mut().flatten() {
            let _ = write_all(stream, &[&[0], &ports[..]].concat(), &|| true);
        }
    }
}

fn connect(port: u16) -> io::Result<TcpStream> {
    let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    ready(&stream)?;
    Ok(stream)
}

fn ready(stream: &TcpStream) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(SLICE))?;
    stream.set_write_timeout(Some(SLICE))
}

/// Joins as a rank, and returns a connection to every other. Waits until all have come, or it is called off.
pub fn join(
    address: Address,
    rank: usize,
    size: usize,
    called_off: &dyn Fn() -> bool,
) -> Result<Vec<Option<TcpStream>>, String> {
    let said = |what: &'static str| move |error: io::Error| format!("rank {rank} of {size}: {what}: {error}");
    let mesh = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(said("listening"))?;
    let port = mesh.local_addr().map_err(said("listening"))?.port();
    let mut root = connect(address.port).map_err(said("nobody serves this unique id"))?;
    let mut hello = Vec::with_capacity(HELLO);
    hello.extend_from_slice(&address.nonce.to_le_bytes());
    hello.extend_from_slice(&(size as u32).to_le_bytes());
    hello.extend_from_slice(&(rank as u32).to_le_bytes());
    hello.extend_from_slice(&port.to_le_bytes());
    write_all(&mut root, &hello, called_off).map_err(said("the root"))?;
    let mut verdict = [0];
    read_all(&mut root, &mut verdict, called_off).map_err(said("the root is gone, or refused"))?;
    match verdict[0] {
        0 => {}
        1 => return Err(format!("rank {rank} of {size}: another rank {rank} came before")),
        _ => return Err(format!("rank {rank} of {size}: another rank came with another number of ranks")),
    }
    let mut ports = vec![0; 2 * size];
    read_all(&mut root, &mut ports, called_off).map_err(said("the root"))?;

    let mut links: Vec<Option<TcpStream>> = Vec::new();
    links.resize_with(size, || None);
    for (peer, link) in links.iter_mut().enumerate().take(rank) {
        let mut stream = connect(u16_at(&ports, 2 * peer)).map_err(said("a peer is gone"))?;
        let mut greeting = address.nonce.to_le_bytes().to_vec();
        greeting.extend_from_slice(&(rank as u32).to_le_bytes());
        write_all(&mut stream, &greeting, called_off).map_err(said("a peer is gone"))?;
        *link = Some(stream);
    }
    mesh.set_nonblocking(true).map_err(said("listening"))?;
    while links.iter().flatten().count() < size - 1 {
        match mesh.accept() {
            Ok((mut stream, _)) => {
                ready(&stream).map_err(said("a connection"))?;
                let mut greeting = [0; 12];
                read_all(&mut stream, &mut greeting, called_off).map_err(said("a peer is gone"))?;
                let peer = u32_at(&greeting, 8) as usize;
                if u64_at(&greeting, 0) == address.nonce && peer > rank && peer < size {
                    links[peer] = Some(stream);
                }
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                if called_off() {
                    return Err(format!("rank {rank} of {size}: called off"));
                }
                thread::sleep(Duration::from_micros(500));
            }
            Err(error) => return Err(said("listening")(error)),
        }
    }
    Ok(links)
}

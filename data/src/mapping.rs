//! Mapping a shard into memory: the one `unsafe` call of this crate. It must never map a file that is still written.

use std::fs::File;
use std::io;

use memmap2::Mmap;

/// The whole file, read-only.
#[allow(unsafe_code)]
pub(crate) fn map(file: &File) -> io::Result<Mmap> {
    // SAFETY: the map is sound as long as nobody changes the file beneath it. A shard is written under another name,
    // synced, renamed into place and never written again by this program; replacing a set (`--force`) renames new
    // files over old ones, and the map keeps the old one alive. Whoever edits a shard in place, against this, changes
    // bytes that are plain numbers here: no reference to anything but `u8` is ever made into the map.
    unsafe { Mmap::map(file) }
}

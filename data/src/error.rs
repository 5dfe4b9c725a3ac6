//! What can go wrong with data, in sentences for people.
//!
//! Every message names the file or the flag, what was expected and what was found. It must never swallow the cause:
//! an error of the system stands at its end.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// An error of the prepared data or of its making.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DataError {
    /// The system refused something on a file.
    #[error("cannot {action} {}: {cause}", path.display())]
    Io {
        /// What was tried: "open", "write", …
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
    /// The folder holds no manifest.
    #[error(
        "{} is not a prepared data set: it has no manifest.json. Make one with `trainer prepare SOURCE --out {}`",
        dir.display(), dir.display()
    )]
    NotPrepared {
        /// The folder.
        dir: PathBuf,
    },
    /// The manifest is of another format.
    #[error(
        "{} is of format {found}, and this program reads format {expected}; prepare the data again with this program, \
         or use the program that made it", path.display()
    )]
    Format {
        /// The manifest.
        path: PathBuf,
        /// The format this program reads.
        expected: u32,
        /// The format it is of.
        found: String,
    },
    /// The manifest cannot be what `prepare` wrote.
    #[error("{} is not a usable manifest: {reason}", path.display())]
    Manifest {
        /// The manifest.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// The manifest was changed after it was written.
    #[error(
        "{} does not match its own digest: it says {expected}, its contents give {found}; it was changed after \
         `prepare` wrote it", path.display()
    )]
    Digest {
        /// The manifest.
        path: PathBuf,
        /// The digest it carries.
        expected: String,
        /// The digest of what it says.
        found: String,
    },
    /// A shard's length is not what its header announces.
    #[error("{} holds {found} bytes where {expected} were expected; copy it or prepare the data again", path.display())]
    ShardLength {
        /// The shard.
        path: PathBuf,
        /// Bytes it should hold.
        expected: u64,
        /// Bytes it holds.
        found: u64,
    },
    /// A shard's header is wrong.
    #[error("{} is not a usable shard: {reason}", path.display())]
    Shard {
        /// The shard.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// A shard's bytes are not those that were prepared.
    #[error(
        "{} is damaged: its BLAKE3 hash should be {expected} and is {found}; copy it or prepare the data again",
        path.display()
    )]
    ShardHash {
        /// The shard.
        path: PathBuf,
        /// The hash in the manifest.
        expected: String,
        /// The hash of the file.
        found: String,
    },
    /// A shard was asked for that the set does not have.
    #[error("shard {shard} was asked for, and {} has {shards} (the first is 0)", dir.display())]
    NoSuchShard {
        /// The set.
        dir: PathBuf,
        /// The shard asked for.
        shard: u32,
        /// How many there are.
        shards: usize,
    },
    /// An image was asked for that the shard does not have.
    #[error("image {index} was asked for, and {} has {samples} (the first is 0)", path.display())]
    NoSuchImage {
        /// The shard.
        path: PathBuf,
        /// The image asked for.
        index: u64,
        /// How many there are.
        samples: u64,
    },
    /// The loader did not deliver in time.
    #[error("no batch came within {:.1} s: the loader was {doing}", waited.as_secs_f64())]
    Late {
        /// How long was waited.
        waited: Duration,
        /// What the loader was doing.
        doing: String,
    },
    /// There are no more batches.
    #[error("the loader has ended after {delivered} batches: {reason}")]
    LoaderEnded {
        /// Batches handed out before.
        delivered: u64,
        /// Why it ended.
        reason: String,
    },
    /// An option that cannot be.
    #[error("{flag} {found}: {expected}")]
    Flag {
        /// The flag, as typed.
        flag: &'static str,
        /// Its value.
        found: String,
        /// What would do.
        expected: String,
    },
    /// The source cannot be used.
    #[error("cannot prepare {source_name}: {reason}")]
    Source {
        /// The source, as given.
        source_name: String,
        /// Why not.
        reason: String,
    },
    /// An image file cannot be used.
    #[error("{} cannot be used as an image: {reason}", path.display())]
    Picture {
        /// The file.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// With `--strict`, an image that would have been skipped.
    #[error("{name} in {source_name} cannot be used: {reason} (without --strict it would be skipped)")]
    Strict {
        /// The source, as given.
        source_name: String,
        /// The image within the source.
        name: String,
        /// Why not.
        reason: String,
    },
    /// The folder to write into holds a finished set.
    #[error(
        "{} already holds a finished data set ({samples} images, digest {digest}); choose another folder, or replace \
         it with --force", dir.display()
    )]
    Finished {
        /// The folder.
        dir: PathBuf,
        /// How many images are in it.
        samples: u64,
        /// Its digest.
        digest: String,
    },
    /// The folder to write into holds something else.
    #[error(
        "{} is not empty and not a prepared data set: it holds {found}. Nothing was touched; choose another folder",
        dir.display()
    )]
    Foreign {
        /// The folder.
        dir: PathBuf,
        /// One thing found there.
        found: String,
    },
    /// Another process writes into the folder.
    #[error("another `prepare` is writing into {}; wait for it, or choose another folder", dir.display())]
    Busy {
        /// The folder.
        dir: PathBuf,
    },
}

impl DataError {
    /// For `map_err`: the system refused `action` on `path`.
    pub(crate) fn io(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> DataError {
        let path = path.into();
        move |cause| DataError::Io { action, path, cause }
    }
}

//! The layout of a shard file: safetensors with one uint8 tensor `images` of shape `[N,3,size,size]`.
//!
//! The header is written by hand, so that it is the same bytes for ever and the pixels go to the disk without a
//! second copy. It must never depend on anything but the number of samples and the size.

use std::path::Path;

use safetensors::{Dtype, SafeTensorError, SafeTensors};

use crate::error::DataError;

/// Channels of every image.
pub const CHANNELS: u32 = 3;

/// About how many bytes of pixels a shard holds unless told otherwise.
const SHARD_BYTES: u64 = 64 << 20;

/// The name of the tensor.
const TENSOR: &str = "images";

/// The name of the shard at this index.
#[must_use]
pub fn file_name(index: usize) -> String {
    format!("shard-{index:05}.safetensors")
}

/// Whether `prepare` could have written a shard of this name.
pub(crate) fn is_file_name(name: &str) -> bool {
    name.strip_prefix("shard-")
        .and_then(|rest| rest.strip_suffix(".safetensors"))
        .is_some_and(|digits| digits.len() >= 5 && digits.bytes().all(|b| b.is_ascii_digit()))
}

/// Bytes of one image, `3 * size * size`.
#[must_use]
pub fn image_bytes(size: u32) -> usize {
    (CHANNELS * size * size) as usize
}

/// Samples of a shard of about 64 MiB, at least one.
#[must_use]
pub fn default_samples(size: u32) -> u64 {
    (SHARD_BYTES / image_bytes(size) as u64).max(1)
}

/// What stands before the pixels: the header's length, and the header, padded so that the pixels are aligned to 8.
#[must_use]
pub fn header(samples: u64, size: u32) -> Vec<u8> {
    let bytes = samples * image_bytes(size) as u64;
    let mut text = format!(
        r#"{{"{TENSOR}":{{"dtype":"U8","shape":[{samples},{CHANNELS},{size},{size}],"data_offsets":[0,{bytes}]}}}}"#
    );
    while !text.len().is_multiple_of(8) {
        text.push(' ');
    }
    let mut header = (text.len() as u64).to_le_bytes().to_vec();
    header.extend_from_slice(text.as_bytes());
    header
}

/// Checks a shard's header and length, and says at which byte the pixels start.
///
/// # Errors
/// If the file is cut short, is no safetensors file, or holds anything but `samples` images of `size`.
pub fn check(path: &Path, bytes: &[u8], samples: u64, size: u32) -> Result<usize, DataError> {
    let broken = |reason: String| DataError::Shard { path: path.to_owned(), reason };
    let length = |expected: u64| DataError::ShardLength { path: path.to_owned(), expected, found: bytes.len() as u64 };
    let pixels = samples * image_bytes(size) as u64;
    let (header, metadata) = match SafeTensors::read_metadata(bytes) {
        Ok(read) => read,
        Err(
            SafeTensorError::MetadataIncompleteBuffer
            | SafeTensorError::InvalidHeaderLength
            | SafeTensorError::HeaderTooSmall,
        ) => {
            let announced = bytes.first_chunk::<8>().map(|length| u64::from_le_bytes(*length));
            let header = announced.filter(|&n| n < 1 << 20).unwrap_or(self::header(samples, size).len() as u64 - 8);
            return Err(length(8 + header + pixels));
        }
        Err(error) => return Err(broken(format!("its header cannot be read ({error})"))),
    };
    let Some(images) = metadata.info(TENSOR) else {
        return Err(broken(format!("it has no tensor `{TENSOR}`, but {:?}", metadata.offset_keys())));
    };
    if images.dtype != Dtype::U8 {
        return Err(broken(format!("`{TENSOR}` should be U8 and is {:?}", images.dtype)));
    }
    let shape = [samples as usize, CHANNELS as usize, size as usize, size as usize];
    if images.shape != shape {
        return Err(broken(format!("`{TENSOR}` should have shape {shape:?} and has {:?}", images.shape)));
    }
    let start = 8 + header + images.data_offsets.0;
    if (bytes.len() - start) as u64 != pixels {
        return Err(length(start as u64 + pixels));
    }
    Ok(start)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(samples: u64, size: u32) -> Vec<u8> {
        let mut file = header(samples, size);
        file.resize(file.len() + samples as usize * image_bytes(size), 7);
        file
    }

    #[test]
    fn a_shard_is_a_safetensors_file() -> Result<(), SafeTensorError> {
        let file = file(3, 16);
        let tensors = SafeTensors::deserialize(&file)?;
        let images = tensors.tensor("images")?;
        assert_eq!((images.dtype(), images.shape()), (Dtype::U8, [3, 3, 16, 16].as_slice()));
        assert!(images.data().iter().all(|&byte| byte == 7));
        Ok(())
    }

    #[test]
    fn a_shard_cut_anywhere_is_refused_by_name() {
        let file = file(2, 16);
        for end in 0..file.len() {
            let error = check(Path::new("d/shard-00007.safetensors"), &file[..end], 2, 16);
            assert!(error.is_err_and(|e| e.to_string().contains("shard-00007.safetensors")), "{end}");
        }
        assert!(check(Path::new("whole"), &file, 2, 16).is_ok());
    }

    #[test]
    fn a_shard_of_another_shape_is_refused_with_both_shapes() {
        let Err(error) = check(Path::new("s"), &file(2, 16), 3, 16) else { panic!("accepted") };
        let text = error.to_string();
        assert!(text.contains("[3, 3, 16, 16]") && text.contains("[2, 3, 16, 16]"), "{text}");
    }
}

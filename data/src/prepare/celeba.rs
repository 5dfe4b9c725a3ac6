//! CelebA's layout: `img_align_celeba/` with 178x218 images, and the partition into train, valid and test beside it.
//!
//! Recognised in a folder, in that folder itself, and in a zip archive; the partition as its authors give it
//! (`list_eval_partition.txt`, also in `Eval/`) or as Kaggle does (`.csv`). A split that is asked for must never be
//! guessed: without the partition it is an error.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use super::archive::ZipSource;
use super::folder::Folder;
use super::options::{Crop, Options, Split};
use super::source::{Opened, Source, refuse};
use crate::error::DataError;

const IMAGES: &str = "img_align_celeba";
const PARTITIONS: [&str; 4] = [
    "list_eval_partition.txt",
    "Eval/list_eval_partition.txt",
    "list_eval_partition.csv",
    "Eval/list_eval_partition.csv",
];

/// Longer than any partition: CelebA's is 2.8 MB.
const LONGEST_PARTITION: u64 = 1 << 28;

/// Which part each image belongs to, by its file name.
struct Partition(HashMap<String, Split>);

impl Partition {
    /// Reads lines of `000001.jpg 0`, or of `000001.jpg,0` after a heading.
    fn parse(text: &str, name: &str) -> Result<Self, String> {
        let mut parts = HashMap::new();
        for (line, text) in text.lines().enumerate() {
            let mut fields = text.split([',', ' ', '\t']).filter(|field| !field.is_empty());
            let (image, part) = (fields.next(), fields.next());
            let split = match part {
                None if image.is_none() => continue,
                Some("0") => Split::Train,
                Some("1") => Split::Valid,
                Some("2") => Split::Test,
                Some("partition") if line == 0 => continue,
                _ => {
                    return Err(format!("{name}, line {}: expected `000001.jpg 0` and found {text:?}", line + 1));
                }
            };
            parts.insert(image.unwrap_or_default().to_owned(), split);
        }
        Ok(Self(parts))
    }

    fn is_in(&self, split: Split, path: &Path) -> bool {
        let name = path.file_name().and_then(|name| name.to_str());
        name.and_then(|name| self.0.get(name)).is_some_and(|&found| found == split)
    }
}

/// Opens a folder, if it is CelebA's.
pub(super) fn open_folder(options: &Options, root: &Path) -> Result<Option<Opened>, DataError> {
    let within = root.join(IMAGES);
    let (images, around) = if within.is_dir() {
        // Kaggle's archive unpacks to a folder in a folder of the same name.
        let twice = within.join(IMAGES);
        (if twice.is_dir() { twice } else { within }, root.to_owned())
    } else if root.file_name().is_some_and(|name| name == IMAGES) {
        (root.to_owned(), root.join(".."))
    } else {
        return Ok(None);
    };
    let mut source = Folder::list(&images)?;
    if let Some(partition) = partition(options, &[around, root.to_owned()], None)? {
        source.retain(|path| partition.is_in(options.split, path));
    }
    opened(options, Box::new(source), "celeba").map(Some)
}

/// Opens an archive, if it is CelebA's.
pub(super) fn open_archive(options: &Options, path: &Path, archive: &ZipSource) -> Result<Option<Opened>, DataError> {
    let is_ours = |path: &Path| path.iter().any(|part| part == IMAGES);
    if !archive.names().any(|name| is_ours(Path::new(name))) {
        return Ok(None);
    }
    let mut source = archive.clone();
    source.retain(is_ours);
    let beside = path.parent().unwrap_or(Path::new("")).to_owned();
    if let Some(partition) = partition(options, &[beside], Some(archive))? {
        source.retain(|path| partition.is_in(options.split, path));
    }
    opened(options, Box::new(source), "celeba zip").map(Some)
}

fn opened(options: &Options, source: Box<dyn Source>, kind: &'static str) -> Result<Opened, DataError> {
    if source.len() == 0 {
        return Err(refuse(options, format!("no image of {IMAGES} belongs to --split {}", options.split)));
    }
    let crop = if options.crop == Crop::Auto { Crop::Began } else { options.crop };
    let found = format!("CelebA's layout, {} images; --split {}, --crop {crop}", source.len(), options.split);
    Ok(Opened { source, kind, crop, shuffled: true, found })
}

/// The partition, where the split needs one.
fn partition(
    options: &Options,
    folders: &[PathBuf],
    archive: Option<&ZipSource>,
) -> Result<Option<Partition>, DataError> {
    if options.split == Split::All {
        return Ok(None);
    }
    for path in folders.iter().flat_map(|folder| PARTITIONS.iter().map(move |name| folder.join(name))) {
        if path.is_file() {
            let text = fs::read_to_string(&path).map_err(DataError::io("read", &path))?;
            let partition = Partition::parse(&text, &path.display().to_string());
            return partition.map(Some).map_err(|reason| refuse(options, reason));
        }
    }
    for name in ["list_eval_partition.txt", "list_eval_partition.csv"] {
        if let Some(text) = archive.and_then(|archive| archive.text(name, LONGEST_PARTITION)) {
            let text = text.map_err(|unusable| refuse(options, format!("{name}: {}", unusable.reason)))?;
            return Partition::parse(&text, name).map(Some).map_err(|reason| refuse(options, reason));
        }
    }
    Err(refuse(
        options,
        format!(
            "--split {} needs list_eval_partition.txt (or .csv) beside {IMAGES}, and it is not there; get it, or take \
             all images with --split all",
            options.split
        ),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_of_the_partition_are_read() -> Result<(), String> {
        for text in [
            "000001.jpg 0\n000002.jpg 1\r\n000003.jpg 2\n\n",
            "image_id,partition\n000001.jpg,0\n000002.jpg,1\n000003.jpg,2",
        ] {
            let partition = Partition::parse(text, "list")?;
            assert_eq!(partition.0.len(), 3);
            assert!(partition.is_in(Split::Valid, Path::new("img_align_celeba/000002.jpg")));
            assert!(!partition.is_in(Split::Train, Path::new("000002.jpg")));
            assert!(!partition.is_in(Split::Train, Path::new("000009.jpg")));
        }
        Ok(())
    }

    #[test]
    fn a_line_that_is_none_is_named() {
        let error = Partition::parse("000001.jpg 0\n000002.jpg 7\n", "list.txt").err().unwrap_or_default();
        assert!(error.contains("list.txt, line 2") && error.contains("000002.jpg 7"), "{error}");
    }
}

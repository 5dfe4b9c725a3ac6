//! What `prepare` makes of folders, archives, CelebA's layout, IDX files and nothing at all, and what it refuses.

mod made;

use std::fs;
use std::io::Write;
use std::path::Path;

use began_data::prepare::{Crop, Options, Report, Split, prepare};
use began_data::{DataError, DataSet, Manifest, faces};
use image::{Rgb, RgbImage};
use made::{TestResult, flat, folder_of, jpeg, options, png, refusal};

fn colours(data: &DataSet) -> Result<Vec<[u8; 3]>, DataError> {
    let plane = (data.size() * data.size()) as usize;
    let mut colours = Vec::new();
    for (shard, samples) in (0..).zip(data.manifest().shard_samples()) {
        for index in 0..samples {
            let image = data.image(shard, index)?;
            colours.push([image[plane / 2], image[plane + plane / 2], image[2 * plane + plane / 2]]);
        }
    }
    Ok(colours)
}

fn files(dir: &Path) -> TestResult<Vec<(String, Vec<u8>)>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        files.push((entry.file_name().to_string_lossy().into_owned(), fs::read(entry.path())?));
    }
    files.sort();
    Ok(files)
}

#[test]
fn the_same_source_and_options_give_the_same_bytes() -> TestResult {
    let dir = tempfile::tempdir()?;
    let source = folder_of(dir.path(), 50)?;
    let mut reports: Vec<Report> = Vec::new();
    for out in ["one", "two"] {
        let options = Options { samples_per_shard: 16, seed: 3, ..options(&source, dir.path().join(out)) };
        reports.push(prepare(&options)?);
    }
    let one = files(&dir.path().join("one"))?;
    assert_eq!(one, files(&dir.path().join("two"))?);
    let names: Vec<_> = one.iter().map(|(name, _)| name.as_str()).collect();
    let shards = ["shard-00000", "shard-00001", "shard-00002", "shard-00003"].map(|n| format!("{n}.safetensors"));
    assert_eq!(names, [vec!["manifest.json"], shards.iter().map(String::as_str).collect()].concat());
    assert_eq!((reports[0].samples, reports[0].shards), (50, 4));
    assert_eq!(reports[0].digest, reports[1].digest);
    let manifest = String::from_utf8(one[0].1.clone())?;
    assert!(!manifest.contains(&dir.path().display().to_string()), "a path in {manifest}");

    let other = Options { samples_per_shard: 16, seed: 4, ..options(&source, dir.path().join("three")) };
    assert_ne!(prepare(&other)?.digest, reports[0].digest);
    Ok(())
}

#[test]
fn every_image_comes_once_and_in_a_drawn_order() -> TestResult {
    let dir = tempfile::tempdir()?;
    let source = folder_of(dir.path(), 60)?;
    prepare(&Options { samples_per_shard: 7, ..options(&source, dir.path().join("out")) })?;
    let found = colours(&DataSet::open(&dir.path().join("out"))?)?;
    let mut sorted = found.clone();
    sorted.sort_unstable();
    assert_eq!(sorted, (0..60).map(made::colour).collect::<Vec<_>>());
    assert_ne!(sorted, found);
    Ok(())
}

#[test]
fn a_count_takes_that_many_of_the_drawn_order() -> TestResult {
    let dir = tempfile::tempdir()?;
    let source = folder_of(dir.path(), 40)?;
    // Something to skip must not make the set smaller than was asked for.
    fs::write(dir.path().join("source/broken.png"), b"nothing")?;
    let report = prepare(&Options { count: 10, ..options(&source, dir.path().join("ten")) })?;
    assert_eq!(report.samples, 10);
    prepare(&options(&source, dir.path().join("all")))?;
    let ten = colours(&DataSet::open(&dir.path().join("ten"))?)?;
    assert_eq!(ten, colours(&DataSet::open(&dir.path().join("all"))?)?[..10]);
    Ok(())
}

#[test]
fn torn_small_and_foreign_files_are_skipped_by_name_and_strict_makes_them_errors() -> TestResult {
    let dir = tempfile::tempdir()?;
    let source = folder_of(dir.path(), 5)?;
    let whole = jpeg(&flat([9, 9, 9], 64, 64))?;
    fs::write(dir.path().join("source/torn.JPG"), &whole[..whole.len() / 2])?;
    fs::write(dir.path().join("source/tiny.png"), png(&flat([9, 9, 9], 5, 5))?)?;
    fs::write(dir.path().join("source/text.webp"), "not an image")?;
    fs::write(dir.path().join("source/empty.png"), "")?;
    fs::write(dir.path().join("source/notes.txt"), "ignored")?;
    fs::write(dir.path().join("source/.hidden.png"), "ignored")?;
    let report = prepare(&options(&source, dir.path().join("out")))?;
    let mut names: Vec<_> = report.skipped.iter().map(|skipped| skipped.name.as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, ["empty.png", "text.webp", "tiny.png", "torn.JPG"]);
    let torn = report.skipped.iter().find(|skipped| skipped.name == "torn.JPG").ok_or("not named")?;
    assert!(torn.reason.contains("ends before"), "{}", torn.reason);
    let manifest = Manifest::load(&dir.path().join("out"))?;
    assert_eq!((manifest.samples, manifest.skipped.broken, manifest.skipped.too_small), (5, 3, 1));

    let strict = Options { strict: true, ..options(&source, dir.path().join("strict")) };
    let text = refusal(&strict)?;
    assert!(text.contains("cannot be used") && text.contains("--strict"), "{text}");
    assert!(!dir.path().join("strict").exists());
    Ok(())
}

#[test]
fn extensions_select_and_contents_decide() -> TestResult {
    let dir = tempfile::tempdir()?;
    let source = dir.path().join("source/deep/er");
    fs::create_dir_all(&source)?;
    fs::write(source.join("a.jpg"), png(&flat([10, 20, 30], 40, 40))?)?;
    let report = prepare(&options(&dir.path().join("source"), dir.path().join("out")))?;
    assert_eq!((report.samples, report.skipped.len()), (1, 0));
    assert_eq!(colours(&DataSet::open(&dir.path().join("out"))?)?, [[10, 20, 30]]);
    Ok(())
}

#[cfg(unix)]
#[test]
fn a_loop_of_links_ends_and_a_dangling_link_is_named() -> TestResult {
    let dir = tempfile::tempdir()?;
    let source = folder_of(dir.path(), 3)?;
    std::os::unix::fs::symlink(&source, source.join("loop"))?;
    std::os::unix::fs::symlink(dir.path().join("gone.png"), source.join("dangling.png"))?;
    let report = prepare(&options(&source, dir.path().join("out")))?;
    assert_eq!(report.samples, 3);
    assert_eq!(report.skipped[0].name, "dangling.png");
    Ok(())
}

/// CelebA's layout in small: red tells the column, green the row, blue the image.
fn celeba(root: &Path) -> TestResult {
    fs::create_dir_all(root.join("img_align_celeba"))?;
    let mut list = String::new();
    for image in 1..=6u8 {
        let pixels = RgbImage::from_fn(178, 218, |x, y| Rgb([x as u8, y as u8, 10 * image]));
        fs::write(root.join(format!("img_align_celeba/{image:06}.jpg")), png(&pixels)?)?;
        list += &format!("{image:06}.jpg {}\n", (image - 1) / 2);
    }
    fs::write(root.join("list_eval_partition.txt"), list)?;
    Ok(())
}

#[test]
fn celebas_layout_is_recognised_cropped_and_split() -> TestResult {
    let dir = tempfile::tempdir()?;
    let root = dir.path().join("celeba");
    celeba(&root)?;
    for (crop, split, first_row, blues) in [
        (Crop::Auto, Split::All, 50, vec![10, 20, 30, 40, 50, 60]),
        (Crop::Began, Split::Train, 50, vec![10, 20]),
        (Crop::Progan, Split::Valid, 57, vec![30, 40]),
        (Crop::Auto, Split::Test, 50, vec![50, 60]),
    ] {
        let out = dir.path().join(format!("{crop}-{split}"));
        let report = prepare(&Options { size: 128, crop, split, ..options(&root, &out) })?;
        assert_eq!((report.source.kind.as_str(), report.source.split), ("celeba", split));
        let data = DataSet::open(&out)?;
        let mut found = Vec::new();
        for index in 0..data.len() {
            let image = data.image(0, index)?;
            let (first, last, plane) = (0, 128 * 128 - 1, 128 * 128);
            assert_eq!((image[first], image[last]), (25, 152), "columns");
            assert_eq!((image[plane + first], image[plane + last]), (first_row, first_row + 127), "rows");
            found.push(image[2 * plane]);
        }
        found.sort_unstable();
        assert_eq!(found, blues);
    }
    Ok(())
}

#[test]
fn a_split_without_its_partition_is_an_error_that_names_the_file() -> TestResult {
    let dir = tempfile::tempdir()?;
    let root = dir.path().join("celeba");
    celeba(&root)?;
    fs::remove_file(root.join("list_eval_partition.txt"))?;
    let text = refusal(&Options { split: Split::Train, ..options(&root, dir.path().join("out")) })?;
    assert!(text.contains("list_eval_partition.txt") && text.contains("--split train"), "{text}");
    assert_eq!(prepare(&options(&root, dir.path().join("out")))?.samples, 6);
    let source = folder_of(dir.path(), 2)?;
    let text = refusal(&Options { split: Split::Test, ..options(&source, dir.path().join("no")) })?;
    assert!(text.contains("--split test"), "{text}");
    Ok(())
}

fn zip(path: &Path, members: &[(&str, Vec<u8>)]) -> TestResult {
    let mut archive = zip::ZipWriter::new(fs::File::create(path)?);
    for (index, (name, bytes)) in members.iter().enumerate() {
        let method = if index % 2 == 0 { zip::CompressionMethod::Stored } else { zip::CompressionMethod::Deflated };
        archive.start_file(*name, zip::write::SimpleFileOptions::default().compression_method(method))?;
        archive.write_all(bytes)?;
    }
    archive.finish()?;
    Ok(())
}

#[test]
fn an_archive_gives_what_its_unpacked_folder_gives() -> TestResult {
    let dir = tempfile::tempdir()?;
    let source = dir.path().join("source/00000");
    fs::create_dir_all(&source)?;
    let mut members =
        vec![("dataset.json", b"{\"labels\": null}".to_vec()), ("__MACOSX/00000/x.png", b"junk".to_vec())];
    let names: Vec<_> = (0..12).map(|image| format!("00000/img{image:08}.png")).collect();
    for (image, name) in names.iter().enumerate() {
        let bytes = png(&flat(made::colour(image), 40, 40))?;
        fs::write(dir.path().join("source").join(name), &bytes)?;
        members.push((name, bytes));
    }
    // The order within the archive does not matter.
    members.reverse();
    let archive = dir.path().join("images.zip");
    zip(&archive, &members)?;
    let folder = prepare(&options(&dir.path().join("source"), dir.path().join("a")))?;
    let zipped = prepare(&options(&archive, dir.path().join("b")))?;
    assert_eq!((folder.digest, zipped.samples), (zipped.digest, 12));
    assert_eq!(zipped.source.kind, "zip");

    let whole = fs::read(&archive)?;
    fs::write(&archive, &whole[..whole.len() - 40])?;
    let text = refusal(&options(&archive, dir.path().join("c")))?;
    assert!(text.contains("images.zip") && text.contains("zip archive"), "{text}");
    Ok(())
}

#[test]
fn a_damaged_member_is_skipped_by_name() -> TestResult {
    let dir = tempfile::tempdir()?;
    let archive = dir.path().join("images.zip");
    let good = png(&flat([1, 2, 3], 40, 40))?;
    zip(&archive, &[("good.png", good.clone()), ("torn.png", good[..good.len() / 2].to_vec())])?;
    let report = prepare(&options(&archive, dir.path().join("out")))?;
    assert_eq!((report.samples, report.skipped[0].name.as_str()), (1, "torn.png"));
    Ok(())
}

#[test]
fn celeba_in_an_archive_with_its_partition_is_recognised() -> TestResult {
    let dir = tempfile::tempdir()?;
    let image = |value| png(&flat([value, 0, 0], 178, 218));
    let archive = dir.path().join("archive.zip");
    zip(
        &archive,
        &[
            ("img_align_celeba/img_align_celeba/000001.jpg", image(50)?),
            ("img_align_celeba/img_align_celeba/000002.jpg", image(90)?),
            ("list_eval_partition.csv", b"image_id,partition\n000001.jpg,0\n000002.jpg,2\n".to_vec()),
        ],
    )?;
    let out = dir.path().join("out");
    let report = prepare(&Options { split: Split::Test, ..options(&archive, &out) })?;
    assert_eq!((report.samples, report.source.crop), (1, Crop::Began));
    assert_eq!(colours(&DataSet::open(&out)?)?, [[90, 0, 0]]);
    Ok(())
}

/// An IDX file of `count` images, each of one grey that tells its index.
fn idx(count: u32, side: u32) -> Vec<u8> {
    let mut bytes = vec![0, 0, 8, 3];
    for number in [count, side, side] {
        bytes.extend(number.to_be_bytes());
    }
    for image in 0..count {
        bytes.extend(vec![(image * 3) as u8; (side * side) as usize]);
    }
    bytes
}

fn gzip(bytes: &[u8]) -> TestResult<Vec<u8>> {
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packed.write_all(bytes)?;
    Ok(packed.finish()?)
}

#[test]
fn idx_files_plain_and_packed_give_grey_images() -> TestResult {
    let dir = tempfile::tempdir()?;
    let folder = dir.path().join("mnist");
    fs::create_dir_all(&folder)?;
    fs::write(folder.join("train-images-idx3-ubyte.gz"), gzip(&idx(20, 28))?)?;
    fs::write(folder.join("train-labels-idx1-ubyte.gz"), gzip(&[0, 0, 8, 1, 0, 0, 0, 0])?)?;
    fs::write(folder.join("t10k-images-idx3-ubyte"), idx(5, 28))?;
    let samples = |split, out: &str| -> TestResult<u64> {
        Ok(prepare(&Options { split, ..options(&folder, dir.path().join(out)) })?.samples)
    };
    assert_eq!(samples(Split::All, "all")?, 25);
    assert_eq!(samples(Split::Train, "train")?, 20);
    assert_eq!(samples(Split::Test, "test")?, 5);
    let mut found = colours(&DataSet::open(&dir.path().join("train"))?)?;
    found.sort_unstable();
    assert_eq!(found, (0..20).map(|image| [image * 3; 3]).collect::<Vec<_>>());
    let text = refusal(&Options { split: Split::Valid, ..options(&folder, dir.path().join("valid")) })?;
    assert!(text.contains("--split valid") && text.contains("t10k-images-idx3-ubyte"), "{text}");

    let one = folder.join("train-images-idx3-ubyte.gz");
    assert_eq!(prepare(&options(&one, dir.path().join("one")))?.samples, 20);
    let packed = fs::read(&one)?;
    fs::write(&one, &packed[..packed.len() - 30])?;
    assert!(refusal(&options(&one, dir.path().join("torn")))?.contains("cut short"));
    let plain = folder.join("t10k-images-idx3-ubyte");
    fs::write(&plain, &idx(5, 28)[..1000])?;
    let text = refusal(&options(&plain, dir.path().join("short")))?;
    assert!(text.contains("take 3920 bytes") && text.contains("984 are there"), "{text}");
    Ok(())
}

#[test]
fn made_up_faces_are_those_of_their_seed_in_order() -> TestResult {
    let dir = tempfile::tempdir()?;
    let faces_of = |out: &str, count| -> TestResult<DataSet> {
        let path = dir.path().join(out);
        let source = Path::new("synthetic:faces");
        prepare(&Options { size: 16, seed: 5, count, samples_per_shard: 30, ..options(source, &path) })?;
        Ok(DataSet::open(&path)?)
    };
    let (many, few) = (faces_of("many", 70)?, faces_of("few", 20)?);
    assert_eq!((many.len(), few.len()), (70, 20));
    for index in 0..20u64 {
        let image = faces::face(5, index, 16);
        let red: Vec<u8> = image.pixels().map(|pixel| pixel.0[0]).collect();
        assert_eq!(many.image(0, index)?, few.image(0, index)?);
        assert_eq!(many.image(0, index)?[..256], red);
    }
    let text = refusal(&options(Path::new("synthetic:faces"), dir.path().join("none")))?;
    assert!(text.contains("--count"), "{text}");
    Ok(())
}

#[test]
fn what_cannot_be_a_source_is_told_what_can() -> TestResult {
    let dir = tempfile::tempdir()?;
    let empty = dir.path().join("empty");
    fs::create_dir(&empty)?;
    let text_file = dir.path().join("notes.txt");
    fs::write(&text_file, "hello, this is text and nothing else")?;
    for source in [dir.path().join("missing"), empty, text_file, "synthetic:cats".into()] {
        let text = refusal(&options(&source, dir.path().join("out")))?;
        assert!(text.contains(&source.display().to_string()) && text.contains("synthetic:faces"), "{text}");
        assert!(!dir.path().join("out").exists());
    }
    let broken = dir.path().join("broken");
    fs::create_dir(&broken)?;
    fs::write(broken.join("a.png"), "no")?;
    let text = refusal(&options(&broken, dir.path().join("out")))?;
    assert!(text.contains("none of its 1 images") && text.contains("a.png"), "{text}");
    let text = refusal(&Options { size: 48, ..options(&broken, dir.path().join("out")) })?;
    assert!(text.contains("--size 48"), "{text}");
    Ok(())
}

#[test]
fn an_interrupted_preparation_is_started_over() -> TestResult {
    let dir = tempfile::tempdir()?;
    let source = folder_of(dir.path(), 3)?;
    let out = dir.path().join("out");
    fs::create_dir(&out)?;
    fs::write(out.join("shard-00000.safetensors"), "old")?;
    fs::write(out.join("shard-00007.safetensors"), "old")?;
    fs::write(out.join("shard-00008.safetensors.unfinished"), "ol")?;
    prepare(&options(&source, &out))?;
    assert_eq!(files(&out)?.len(), 2);
    DataSet::open(&out)?.verify_shard(0)?;
    Ok(())
}

#[test]
fn a_finished_set_is_replaced_only_by_force() -> TestResult {
    let dir = tempfile::tempdir()?;
    let source = folder_of(dir.path(), 9)?;
    let out = dir.path().join("out");
    let first = prepare(&Options { samples_per_shard: 2, ..options(&source, &out) })?;
    let before = files(&out)?;
    let text = refusal(&options(&source, &out))?;
    assert!(text.contains("--force") && text.contains(&first.digest) && text.contains("9 images"), "{text}");
    // A failure before the first new shard leaves the old set whole.
    let missing = Options { force: true, ..options(&dir.path().join("missing"), &out) };
    refusal(&missing)?;
    let broken = dir.path().join("broken");
    fs::create_dir(&broken)?;
    fs::write(broken.join("a.png"), "no")?;
    refusal(&Options { force: true, ..options(&broken, &out) })?;
    assert_eq!(files(&out)?, before);
    prepare(&Options { force: true, ..options(&source, &out) })?;
    assert_eq!(files(&out)?.len(), 2);
    Ok(())
}

#[test]
fn a_folder_with_something_else_in_it_is_left_alone() -> TestResult {
    let dir = tempfile::tempdir()?;
    let source = folder_of(dir.path(), 3)?;
    let out = dir.path().join("home");
    fs::create_dir(&out)?;
    fs::write(out.join("thesis.txt"), "years of work")?;
    for force in [false, true] {
        let text = refusal(&Options { force, ..options(&source, &out) })?;
        assert!(text.contains("thesis.txt") && text.contains("Nothing was touched"), "{text}");
    }
    fs::rename(out.join("thesis.txt"), out.join("manifest.json"))?;
    for force in [false, true] {
        assert!(refusal(&Options { force, ..options(&source, &out) })?.contains("manifest.json"));
    }
    assert_eq!(files(&out)?, [("manifest.json".into(), b"years of work".to_vec())]);
    Ok(())
}

#[test]
fn a_folder_that_cannot_be_written_is_named() -> TestResult {
    let dir = tempfile::tempdir()?;
    let source = folder_of(dir.path(), 3)?;
    let file = dir.path().join("file");
    fs::write(&file, "text")?;
    for out in [file.clone(), file.join("below")] {
        let text = refusal(&options(&source, &out))?;
        assert!(text.contains(&out.display().to_string()), "{text}");
    }
    // A folder where a shard's unfinished file would be: the writing itself fails, and what was written goes.
    let out = dir.path().join("out");
    fs::create_dir_all(out.join("shard-00000.safetensors.unfinished"))?;
    let text = refusal(&options(&source, &out))?;
    assert!(text.contains("shard-00000.safetensors"), "{text}");
    assert!(!out.join("manifest.json").exists() && !out.join("shard-00000.safetensors").exists());
    Ok(())
}

#[test]
fn two_preparations_do_not_share_a_folder() -> TestResult {
    let dir = tempfile::tempdir()?;
    let source = folder_of(dir.path(), 3)?;
    let out = dir.path().join("out");
    fs::create_dir(&out)?;
    let held = fs::File::open(&out)?;
    held.lock()?;
    let text = refusal(&options(&source, &out))?;
    assert!(text.contains("another `prepare`"), "{text}");
    drop(held);
    prepare(&options(&source, &out))?;
    Ok(())
}

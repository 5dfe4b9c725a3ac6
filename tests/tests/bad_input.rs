//! What people type by mistake, and files that are not what they should be: each is refused in a sentence that names the
//! thing, and nothing is left behind.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use began_record::RunDir;
use began_tests::{Desk, SMALL, fail, finish, program, said, succeed, wait_for};
use nix::sys::signal::Signal;
use safetensors::{SafeTensors, tensor::TensorView};

/// Long enough that no test sees its end.
const FOREVER: u64 = 1_000_000;

/// Every file and folder below a folder, with its content; without what SQLite and the lock leave beside a run.
fn everything(folder: &Path) -> Result<BTreeMap<String, Vec<u8>>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).with_context(|| folder.display().to_string())? {
            let path = entry?.path();
            let name = path.display().to_string();
            if path.is_dir() {
                found.insert(name, Vec::new());
                folders.push(path);
            } else if !["run.db-shm", "run.db-wal", "/.lock"].iter().any(|beside| name.ends_with(beside)) {
                found.insert(name, fs::read(&path)?);
            }
        }
    }
    Ok(found)
}

/// Runs a command that must fail in a sentence with these words, within a few seconds, and change no file of the desk.
/// A word with a `|` is a choice of words.
fn refused(desk: &Desk, name: &str, args: &[&str], words: &[&str]) -> Result<String> {
    let before = everything(&desk.path(""))?;
    let began = Instant::now();
    let (code, text) = fail(name, args)?;
    let shown = format!("{name} {}\nended with {code} and said\n{text}", args.join(" "));
    ensure!(code == 1 || code == 2, "{shown}");
    ensure!(began.elapsed() < Duration::from_secs(20), "it took {:?}: {shown}", began.elapsed());
    for word in words {
        ensure!(word.split('|').any(|word| text.contains(word)), "it does not say {word:?}: {shown}");
    }
    for inner in ["Err(", "Some(", "Os {", "RUST_BACKTRACE"] {
        ensure!(!text.contains(inner), "that is no sentence for people: {shown}");
    }
    let after = everything(&desk.path(""))?;
    let names = before.keys().chain(after.keys());
    let changed: Vec<_> = names.filter(|name| before.get(*name) != after.get(*name)).collect();
    ensure!(changed.is_empty(), "{changed:?} came, went or changed: {shown}");
    Ok(text)
}

/// As [`refused`], for `trainer prepare SOURCE --out DESK/out --size 16`.
fn not_prepared(desk: &Desk, source: &str, more: &[&str], words: &[&str]) -> Result<String> {
    let (source, out) = (desk.arg(source), desk.arg("out"));
    let source = source.rsplit_once('/').filter(|(_, s)| s.starts_with("synthetic:")).map_or(&*source, |(_, s)| s);
    let size: &[&str] = if more.contains(&"--size") { &[] } else { &["--size", "16"] };
    refused(desk, "trainer", &[&["prepare", source, "--out", &out], size, more].concat(), words)
}

/// As [`refused`], for a training of DATA into DESK/run.
fn not_trained(desk: &Desk, data: &str, more: &[&str], words: &[&str]) -> Result<String> {
    let (data, run) = (desk.arg(data), desk.arg("run"));
    // A flag may be said only once.
    let small = if more.contains(&"--device") { &SMALL[2..] } else { &SMALL[..] };
    let text = refused(desk, "launcher", &[&["--data", &data, "--run", &run], small, more].concat(), words)?;
    desk.nothing_left("run")?;
    Ok(text)
}

/// A copy of a folder of the desk, to be spoilt.
fn copy(desk: &Desk, from: &str, to: &str) -> Result<()> {
    fn copy(from: &Path, to: &Path) -> Result<()> {
        fs::create_dir(to)?;
        for entry in fs::read_dir(from)? {
            let entry = entry?;
            let place = to.join(entry.file_name());
            if entry.path().is_dir() {
                copy(&entry.path(), &place)?
            } else {
                fs::copy(entry.path(), place).map(drop)?
            }
        }
        Ok(())
    }
    let _ = fs::remove_dir_all(desk.path(to));
    copy(&desk.path(from), &desk.path(to))
}

/// A copy of the desk's data with one file changed.
fn spoilt_data(desk: &Desk, file: &str, change: impl FnOnce(&mut Vec<u8>)) -> Result<()> {
    copy(desk, "data", "spoilt")?;
    spoil(desk, &format!("spoilt/{file}"), change)
}

fn spoil(desk: &Desk, file: &str, change: impl FnOnce(&mut Vec<u8>)) -> Result<()> {
    let mut bytes = fs::read(desk.path(file))?;
    change(&mut bytes);
    Ok(fs::write(desk.path(file), bytes)?)
}

/// Replaces a piece of a text file that must be there.
fn reword(desk: &Desk, file: &str, from: &str, to: &str) -> Result<()> {
    let text = fs::read_to_string(desk.path(file))?;
    ensure!(text.contains(from), "{file} has no {from:?}: {text}");
    Ok(fs::write(desk.path(file), text.replacen(from, to, 1))?)
}

/// A run of `steps` steps with a checkpoint every three, finished.
fn finished_run(desk: &Desk, name: &str, steps: u64, more: &[&str]) -> Result<()> {
    let more = [more, &["--set", "run.checkpoint_every=3"]].concat();
    desk.train(name, 1, 1, steps, &more).map(drop)
}

/// A picture with something on it, as a JPEG.
fn jpeg() -> Result<Vec<u8>> {
    let picture = image::RgbImage::from_fn(64, 64, |x, y| image::Rgb([(x * 4) as u8, (y * 4) as u8, (x * y) as u8]));
    let mut bytes = std::io::Cursor::new(Vec::new());
    picture.write_to(&mut bytes, image::ImageFormat::Jpeg)?;
    Ok(bytes.into_inner())
}

fn fixture() -> Result<Vec<u8>> {
    Ok(fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/plain-32.safetensors"))?)
}

/// `fixture.safetensors` on the desk: the fixture after a change to its tensors and settings.
fn spoilt_fixture(
    desk: &Desk,
    change: impl for<'a> FnOnce(&mut BTreeMap<String, TensorView<'a>>, &mut std::collections::HashMap<String, String>),
) -> Result<String> {
    let bytes = fixture()?;
    let (_, header) = SafeTensors::read_metadata(&bytes)?;
    let mut metadata = header.metadata().clone().unwrap_or_default();
    let mut tensors: BTreeMap<_, _> = SafeTensors::deserialize(&bytes)?.tensors().into_iter().collect();
    change(&mut tensors, &mut metadata);
    let place = desk.path("fixture.safetensors");
    safetensors::serialize_to_file(tensors, Some(metadata), &place)?;
    Ok(place.display().to_string())
}

#[test]
fn a_source_that_cannot_be_prepared_is_named_and_nothing_is_written() -> Result<()> {
    let desk = Desk::new()?;
    fs::create_dir(desk.path("empty"))?;
    fs::write(desk.path("text.zip"), "this is not a zip")?;
    fs::write(desk.path("torn.zip"), b"PK\x03\x04 and then nothing of the kind")?;
    let idx = [0, 0, 8, 3, 0, 0, 0, 10, 0, 0, 0, 28, 0, 0, 0, 28, 1, 2, 3];
    fs::write(desk.path("train-images-idx3-ubyte"), idx)?;
    fs::write(desk.path("one.jpg"), jpeg()?)?;

    not_prepared(&desk, "nowhere", &[], &["nowhere", "No such file", "accepted are a folder"])?;
    not_prepared(&desk, "empty", &[], &["empty", "no image"])?;
    not_prepared(&desk, "text.zip", &[], &["text.zip", "accepted are"])?;
    not_prepared(&desk, "torn.zip", &[], &["torn.zip", "no whole zip archive"])?;
    not_prepared(&desk, "train-images-idx3-ubyte", &[], &["train-images-idx3-ubyte", "7840 bytes", "3 are there"])?;
    not_prepared(&desk, "one.jpg", &[], &["one.jpg", "single image"])?;
    not_prepared(&desk, "data", &[], &["data", "prepared data set already", "--data"])?;
    not_prepared(&desk, "synthetic:cats", &["--count", "3"], &["synthetic:cats", "synthetic:faces"])?;
    not_prepared(&desk, "synthetic:faces", &[], &["--count", "10000"])?;
    not_prepared(&desk, "synthetic:faces", &["--count", "3", "--size", "100"], &["--size 100", "64, 128"])?;
    not_prepared(&desk, "synthetic:faces", &["--count", "-3"], &["-3"])?;
    not_prepared(&desk, "synthetic:faces", &["--count", "3", "--crop", "centre"], &["--crop", "centre", "center"])?;
    not_prepared(&desk, "synthetic:faces", &["--count", "3", "--colour"], &["--colour"])?;
    Ok(())
}

#[test]
fn a_torn_image_is_skipped_by_name_and_an_error_only_if_strict() -> Result<()> {
    let desk = Desk::new()?;
    fs::create_dir(desk.path("pictures"))?;
    let whole = jpeg()?;
    for name in ["a.jpg", "b.jpg", "d.jpg"] {
        fs::write(desk.path("pictures").join(name), &whole)?;
    }
    fs::write(desk.path("pictures/c.jpg"), &whole[..whole.len() / 2])?;
    fs::write(desk.path("pictures/e.png"), "this is no PNG")?;

    not_prepared(&desk, "pictures", &["--strict"], &["c.jpg|e.png", "pictures", "--strict"])?;
    let mut lenient = program("trainer");
    lenient.args(["prepare", &desk.arg("pictures"), "--out", &desk.arg("three"), "--size", "16"]);
    let output = finish(lenient)?;
    let text = said(&output);
    ensure!(output.status.success() && text.contains("3 images") && text.contains("2 skipped"), "{text}");
    ensure!(text.contains("skipped c.jpg: ") && text.contains("skipped e.png: "), "{text}");

    for name in ["a.jpg", "b.jpg", "d.jpg"] {
        fs::remove_file(desk.path("pictures").join(name))?;
    }
    not_prepared(&desk, "pictures", &[], &["pictures", "none of its 2 images can be used", "c.jpg|e.png"])?;
    Ok(())
}

#[test]
fn a_folder_that_must_not_be_written_into_is_left_as_it_is() -> Result<()> {
    let desk = Desk::new()?;
    fs::create_dir(desk.path("thesis"))?;
    fs::write(desk.path("thesis/chapter-1.tex"), "words")?;
    fs::write(desk.path("file"), "words")?;
    let faces = |out: &str, words: &[&str]| {
        let args = ["prepare", "synthetic:faces", "--count", "3", "--size", "16", "--out", out];
        refused(&desk, "trainer", &args, words).map(drop)
    };
    faces(&desk.arg("data"), &["data", "finished data set (120 images", "--force"])?;
    faces(&desk.arg("thesis"), &["thesis", "chapter-1.tex", "Nothing was touched"])?;
    faces(&desk.arg("file"), &["file", "a folder is needed"])?;
    faces(&desk.arg("file/data"), &["file/data", "Not a directory"])?;
    faces("/proc/data", &["/proc/data"])?;
    // --force replaces a data set, never anything else.
    let thesis =
        ["prepare", "synthetic:faces", "--count", "3", "--size", "16", "--force", "--out", &desk.arg("thesis")];
    refused(&desk, "trainer", &thesis, &["chapter-1.tex"])?;

    finished_run(&desk, "old", 2, &[])?;
    let data = desk.arg("data");
    let into = |run: &str, words: &[&str]| {
        let args = [&["--data", &data, "--run", run], &SMALL[..]].concat();
        refused(&desk, "launcher", &args, words).map(drop)
    };
    into(&desk.arg("old"), &["old exists already", "launcher resume", "another --run"])?;
    into(&desk.arg("thesis"), &["thesis exists already", "another --run"])?;
    into(&desk.arg("file"), &["file exists already", "another --run"])?;
    into(&desk.arg("file/run"), &["file/run", "Not a directory"])?;
    into("/proc/run", &["/proc/run"])?;
    Ok(())
}

#[test]
fn what_is_not_a_run_is_never_said_to_be_resumable() -> Result<()> {
    let desk = Desk::new()?;
    fs::write(desk.path("file"), "words")?;
    let data = desk.arg("data");
    for place in ["file", "data"] {
        let run = desk.arg(place);
        let text = refused(&desk, "launcher", &[&["--data", &data, "--run", &run], &SMALL[..]].concat(), &[place])?;
        ensure!(!text.contains("launcher resume"), "{text}");
    }
    Ok(())
}

#[test]
fn a_wrong_configuration_is_refused_by_key_before_anything_is_written() -> Result<()> {
    let desk = Desk::new()?;
    for (name, text) in [
        ("words.toml", "this is not toml"),
        ("key.toml", "[run]\nstepz = 3\n"),
        ("kind.toml", "[run]\nsteps = \"three\"\n"),
        ("value.toml", "[objective]\ngamma = -0.5\n"),
    ] {
        fs::write(desk.path(name), text)?;
    }
    fs::write(desk.path("bytes.toml"), [0xff, 0xfe, 0])?;
    for (file, words) in [
        ("words.toml", &["words.toml", "not TOML", "line 1"][..]),
        ("key.toml", &["key.toml", "run.stepz", "run.steps"]),
        ("kind.toml", &["kind.toml", "run.steps", "whole number", "three"]),
        ("value.toml", &["objective.gamma", "above 0", "-0.5"]),
        ("bytes.toml", &["bytes.toml", "UTF-8"]),
        ("nowhere.toml", &["--config", "nowhere.toml", "No such file"]),
        ("data", &["--config", "Is a directory"]),
    ] {
        not_trained(&desk, "data", &["--config", &desk.arg(file)], words)?;
    }
    for (assignment, words) in [
        ("model.size=100", &["model.size", "100"][..]),
        ("model.size=32", &["model.size is 32", "16 pixels", "trainer prepare --size 32"]),
        ("run.stepz=3", &["run.stepz", "run.steps"]),
        ("objective.gamma=-0.5", &["objective.gamma", "above 0", "-0.5"]),
        ("run.steps=many", &["run.steps", "whole number", "many"]),
        ("run.steps=0", &["run.steps", "at least 1"]),
        ("run.steps", &["run.steps", "key=value"]),
        ("data.flip=perhaps", &["data.flip", "true or false", "perhaps"]),
        ("run.precision=f16", &["run.precision", "f32", "bf16", "f16"]),
        ("optimizer.rate=nan", &["optimizer.rate", "NaN"]),
        ("data.path=/nowhere", &["/nowhere", "trainer prepare"]),
    ] {
        not_trained(&desk, "data", &["--set", assignment], words)?;
    }
    not_trained(&desk, "data", &["--preset", "paper-63"], &["--preset", "paper-63", "paper-64"])?;
    refused(&desk, "launcher", &["--run", &desk.arg("run")], &["no data", "--data DIR"])?;
    refused(&desk, "trainer", &["describe", "--set", "model.size=100"], &["model.size", "power of two", "100"])?;
    Ok(())
}

#[test]
fn a_size_that_no_model_has_is_not_advised() -> Result<()> {
    let desk = Desk::new()?;
    let text = not_trained(&desk, "data", &["--set", "model.size=100"], &["model.size", "power of two", "100"])?;
    ensure!(!text.contains("--size 100"), "{text}");
    Ok(())
}

#[test]
fn a_number_too_large_for_its_key_is_named_with_the_key() -> Result<()> {
    let desk = Desk::new()?;
    fs::write(desk.path("huge.toml"), "[model]\nfilters = 99999999999\n")?;
    let words = ["model.filters", "99999999999"];
    let said = [
        not_trained(&desk, "data", &["--config", &desk.arg("huge.toml")], &words)?,
        not_trained(&desk, "data", &["--set", "model.filters=99999999999"], &words)?,
    ];
    ensure!(!said.iter().any(|said| said.contains("not TOML")), "{said:?}");
    Ok(())
}

#[test]
fn more_trainers_demanded_than_lanes_are_refused() -> Result<()> {
    let desk = Desk::new()?;
    let set = ["--set", "run.min_trainers=9", "--set", "run.steps=2"];
    not_trained(&desk, "data", &set, &["run.min_trainers", "9", "run.lanes"]).map(drop)
}

#[test]
fn a_wrong_flag_is_refused_by_name_before_anything_is_written() -> Result<()> {
    let desk = Desk::new()?;
    for (flags, words) in [
        (&["--gpus", "0"][..], &["--gpus", "0", "1..=1024"][..]),
        (&["--gpus", "many"], &["--gpus", "many"]),
        (&["--nodes", "0"], &["--nodes", "1..="]),
        (&["--gpus", "9"], &["--gpus 9", "9 trainers", "4 lanes", "run.lanes"]),
        (&["--nodes", "2", "--gpus", "3"], &["--nodes 2", "6 trainers", "4 lanes"]),
        (&["--device", "tpu"], &["--device", "tpu", "cuda"]),
        (&["--on", "slurm"], &["--on slurm"]),
        (&["--grace", "-1"], &["--grace", "-1"]),
        (&["--frobnicate"], &["--frobnicate"]),
    ] {
        not_trained(&desk, "data", flags, words)?;
    }
    for (name, words) in [("launcher", "frobnicate"), ("trainer", "frobnicate"), ("coordinator", "frobnicate")] {
        refused(&desk, name, &["frobnicate"], &[words])?;
    }
    refused(&desk, "launcher", &["verify", &desk.arg("data")], &["<OTHER>"])?;
    if Path::new("/dev/nvidia0").exists() {
        println!("skipped: --device cuda without a GPU, since this machine has one");
    } else {
        not_trained(&desk, "data", &["--device", "cuda"], &["--device cuda", "0 GPUs were found", "--device cpu"])?;
    }
    Ok(())
}

#[test]
fn data_that_is_not_as_it_was_prepared_is_refused_by_its_file() -> Result<()> {
    let desk = Desk::new()?;
    fs::create_dir(desk.path("empty"))?;
    for data in ["nowhere", "empty"] {
        not_trained(&desk, data, &[], &[data, "manifest.json", "trainer prepare"])?;
    }
    let digest = began_data::Manifest::load(&desk.path("data"))?.digest;
    copy(&desk, "data", "spoilt")?;
    reword(&desk, "spoilt/manifest.json", &digest, &"0".repeat(64))?;
    not_trained(&desk, "spoilt", &[], &["spoilt/manifest.json", &digest, "changed after"])?;
    copy(&desk, "data", "spoilt")?;
    reword(&desk, "spoilt/manifest.json", "\"format\": 1", "\"format\": 9")?;
    not_trained(&desk, "spoilt", &[], &["spoilt/manifest.json", "format 9", "format 1", "prepare the data again"])?;
    copy(&desk, "data", "spoilt")?;
    reword(&desk, "spoilt/manifest.json", "\"samples\": 25", "\"samples\": 24")?;
    not_trained(&desk, "spoilt", &[], &["spoilt/manifest.json", "119", "120"])?;
    spoilt_data(&desk, "manifest.json", |bytes| bytes.truncate(bytes.len() / 2))?;
    not_trained(&desk, "spoilt", &[], &["spoilt/manifest.json", "EOF"])?;

    // The manifest is good, and a shard is not.
    let shard = "shard-00002.safetensors";
    let named = format!("spoilt/{shard}");
    let two = ["--gpus", "2", "--set", "run.steps=30"];
    spoilt_data(&desk, shard, |bytes| bytes.truncate(5000))?;
    not_trained(&desk, "spoilt", &two, &[&named, "5000 bytes", "prepare the data again"])?;
    spoilt_data(&desk, shard, |bytes| bytes[..8].fill(0xff))?;
    not_trained(&desk, "spoilt", &two, &[&named, "header"])?;
    fs::remove_file(desk.path(&named))?;
    not_trained(&desk, "spoilt", &two, &[&named, "No such file"])?;
    spoilt_data(&desk, shard, |bytes| bytes[9000] ^= 1)?;
    let text = not_trained(&desk, "spoilt", &two, &[&named, "damaged", "BLAKE3", "prepare the data again"])?;
    ensure!(!text.contains("finished"), "{text}");
    Ok(())
}

#[test]
fn a_shard_that_is_damaged_only_later_stops_the_run_and_the_advice_is_true() -> Result<()> {
    // One lane of one image a step: the last shard of the epoch is touched long after the first.
    let desk = Desk::new()?;
    let steps = ["--set", "run.lanes=1", "--set", "run.batch=1", "--set", "run.checkpoint_every=10"];
    let mut later = 0;
    for shard in 0..5 {
        let file = format!("spoilt/shard-{shard:05}.safetensors");
        spoilt_data(&desk, &format!("shard-{shard:05}.safetensors"), |bytes| bytes[9000] ^= 1)?;
        let mut args = desk.training("run", 1, 1, 110, &steps);
        let at = args.iter().position(|arg| *arg == desk.arg("data")).context("no --data")?;
        args[at] = desk.arg("spoilt");
        let (code, text) = fail("launcher", &args)?;
        ensure!(code == 1 && text.contains(&file) && !text.contains("finished"), "{code}: {text}");
        desk.nothing_left("run")?;
        if !desk.path("run").exists() {
            continue;
        }
        later += 1;
        // What it says can be gone on from is there, and it does go on once the shard is whole again.
        let checkpoint = RunDir::open(&desk.path("run"))?.latest_checkpoint()?;
        let advice = match &checkpoint {
            Some(checkpoint) => format!("go on from the checkpoint of step {} with `launcher resume", checkpoint.step),
            None => "there is no checkpoint; `launcher resume".to_owned(),
        };
        ensure!(text.contains(&advice), "it does not say {advice:?}: {text}");
        if later == 1 {
            fs::copy(desk.path(&file.replace("spoilt", "data")), desk.path(&file))?;
            succeed("launcher", ["resume", &desk.arg("run"), "--device", "cpu"])?;
            let undisturbed = desk.train("undisturbed", 1, 1, 110, &steps)?;
            ensure!(desk.digest("run")? == undisturbed, "{} is not {undisturbed}", desk.digest("run")?);
        }
        fs::remove_dir_all(desk.path("run"))?;
    }
    ensure!(later >= 2, "only {later} of 5 shards were touched after the first step");
    Ok(())
}

#[test]
fn a_run_that_was_removed_again_is_not_said_to_be_resumable() -> Result<()> {
    let desk = Desk::new()?;
    spoilt_data(&desk, "shard-00002.safetensors", |bytes| bytes.truncate(5000))?;
    let text = not_trained(&desk, "spoilt", &["--set", "run.steps=30"], &["was removed again"])?;
    ensure!(!text.contains("launcher resume"), "{text}");
    Ok(())
}

#[test]
fn a_trainer_that_comes_too_late_is_not_blamed_for_the_end() -> Result<()> {
    let desk = Desk::new()?;
    spoilt_data(&desk, "shard-00002.safetensors", |bytes| bytes.truncate(5000))?;
    // Which trainer comes last is left to chance.
    for _ in 0..3 {
        let text = not_trained(&desk, "spoilt", &["--gpus", "4", "--set", "run.steps=30"], &["5000 bytes"])?;
        ensure!(!text.contains("neither a welcome nor a refusal"), "{text}");
    }
    Ok(())
}

#[test]
fn a_file_given_as_data_is_told_what_data_is() -> Result<()> {
    let desk = Desk::new()?;
    not_trained(&desk, "data/shard-00000.safetensors", &[], &["shard-00000.safetensors", "trainer prepare"]).map(drop)
}

#[test]
fn what_is_not_a_run_is_named_by_every_command() -> Result<()> {
    let desk = Desk::new()?;
    fs::create_dir(desk.path("empty"))?;
    fs::write(desk.path("file"), "words")?;
    finished_run(&desk, "run", 2, &[])?;
    for name in ["empty", "file", "nowhere", "data"] {
        let path = desk.arg(name);
        for command in ["resume", "digest", "stop"] {
            refused(&desk, "launcher", &[command, &path], &[&path, "is not a run"])?;
        }
        refused(&desk, "launcher", &["status", &path], &[&path, "is not a run|neither the folder of a run nor"])?;
        refused(&desk, "launcher", &["verify", &path, &desk.arg("run")], &[&path, "is not a run"])?;
        refused(&desk, "launcher", &["verify", &desk.arg("run"), &path], &[&path, "is not a run"])?;
        refused(&desk, "coordinator", &["--run", &path, "--world", "1"], &[&path, "is not a run"])?;
        refused(&desk, "trainer", &["sample", &path, "--out", &desk.arg("s.png")], &[&path, "neither a checkpoint"])?;
    }
    refused(&desk, "launcher", &["stop", &desk.arg("run")], &["run is not running"])?;
    let nobody = TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string();
    refused(&desk, "launcher", &["status", &nobody], &["no coordinator answers", &nobody])?;
    // A coordinator that cannot listen where it is told says so, and announces nothing.
    let taken = TcpListener::bind("127.0.0.1:0")?;
    let address = taken.local_addr()?.to_string();
    let run = desk.arg("run");
    let listen = |address: &str, words: &[&str]| {
        refused(&desk, "coordinator", &["--run", &run, "--world", "1", "--listen", address], words).map(drop)
    };
    listen(&address, &[&address, "in use", "another --listen"])?;
    listen("nonsense", &["cannot listen on nonsense"])?;
    listen("127.0.0.1:99999", &["127.0.0.1:99999"])?;
    refused(&desk, "coordinator", &["--run", &run, "--world", "9"], &["4 lanes", "--world 9"])?;
    refused(&desk, "coordinator", &["--run", &run, "--world", "0"], &["--world", "0"])?;
    Ok(())
}

#[test]
fn an_address_that_is_none_is_told_the_form_of_one() -> Result<()> {
    let desk = Desk::new()?;
    finished_run(&desk, "run", 2, &[])?;
    for address in ["127.0.0.1:99999", "127.0.0.1:port"] {
        let text = refused(&desk, "launcher", &["status", address], &[address, "host:port"])?;
        ensure!(!text.contains("Connection refused"), "{text}");
    }
    let listen = ["--run", &desk.arg("run"), "--world", "1", "--listen", "nonsense"];
    refused(&desk, "coordinator", &listen, &["nonsense", "HOST:PORT|host:port"]).map(drop)
}

#[test]
fn the_status_of_a_run_with_a_damaged_journal_says_that_it_is() -> Result<()> {
    let desk = Desk::new()?;
    finished_run(&desk, "run", 2, &[])?;
    for beside in ["run/run.db-wal", "run/run.db-shm"] {
        let _ = fs::remove_file(desk.path(beside));
    }
    fs::write(desk.path("run/run.db"), "this is no database")?;
    let mut status = program("launcher");
    status.args(["status", &desk.arg("run")]);
    let text = said(&finish(status)?);
    ensure!(text.contains("run.db") && !text.contains("0 of 2 steps"), "{text}");
    Ok(())
}

#[test]
fn a_resume_that_would_be_another_run_is_refused() -> Result<()> {
    let desk = Desk::new()?;
    finished_run(&desk, "run", 4, &[])?;
    copy(&desk, "data", "other")?;
    succeed(
        "trainer",
        ["prepare", "synthetic:faces", "--count", "9", "--size", "16", "--force", "-q", "--out", &desk.arg("other")],
    )?;
    let run = desk.arg("run");
    let resume = |set: &[&str], words: &[&str]| {
        let sets = set.iter().flat_map(|set| ["--set", set]);
        refused(
            &desk,
            "launcher",
            &["resume", &run, "--device", "cpu"].into_iter().chain(sets).collect::<Vec<_>>(),
            words,
        )
        .map(drop)
    };
    resume(&["run.seed=9"], &["--set run.seed=9", "run.seed = 1", "start a new run"])?;
    resume(&["model.size=32"], &["--set model.size=32", "start a new run"])?;
    resume(&["run.stepz=9"], &["run.stepz", "run.steps"])?;
    resume(
        &["run.steps=9", &format!("data.path={}", desk.arg("other"))],
        &["other", "not the data this run began with"],
    )?;
    resume(&["run.steps=9", "data.path=/nowhere"], &["/nowhere", "trainer prepare"])?;
    let many = ["resume", &run, "--device", "cpu", "--gpus", "7", "--set", "run.steps=9"];
    refused(&desk, "launcher", &many, &["7 trainers", "4 lanes"])?;
    Ok(())
}

#[test]
fn a_run_whose_configuration_was_edited_by_hand_is_not_resumed_as_the_same_run() -> Result<()> {
    let desk = Desk::new()?;
    finished_run(&desk, "run", 4, &[])?;
    for (from, to) in
        [("\nseed = 1\n", "\nseed = 9\n"), ("\nlanes = 4\n", "\nlanes = 2\n"), ("\nbatch = 3\n", "\nbatch = 4\n")]
    {
        copy(&desk, "run", "edited")?;
        reword(&desk, "edited/run.toml", from, to)?;
        let key = from.trim().split(' ').next().unwrap_or_default();
        let args = ["resume", &desk.arg("edited"), "--device", "cpu", "--set", "run.steps=6"];
        refused(&desk, "launcher", &args, &["run.toml", key])?;
    }
    Ok(())
}

/// A copy of DESK/run as DESK/spoilt, changed, and resumed to step 9.
fn resumed(desk: &Desk, change: impl FnOnce() -> Result<()>) -> Result<(i32, String)> {
    copy(desk, "run", "spoilt")?;
    change()?;
    let mut command = program("launcher");
    command.args(["resume", &desk.arg("spoilt"), "--device", "cpu", "--set", "run.steps=9"]);
    let output = finish(command)?;
    let text = said(&output);
    ensure!(!text.contains("panicked at"), "{text}");
    desk.nothing_left("spoilt")?;
    ensure!(!desk.path("spoilt/coordinator.json").exists(), "a coordinator is still announced: {text}");
    Ok((output.status.code().with_context(|| format!("killed: {text}"))?, text))
}

fn says(text: &str, words: &[&str]) -> Result<()> {
    for word in words {
        ensure!(text.contains(word), "it does not say {word:?}: {text}");
    }
    Ok(())
}

const LAST: &str = "spoilt/checkpoints/step-00000006";

#[test]
fn a_file_that_the_run_cannot_do_without_is_refused_by_its_name() -> Result<()> {
    let desk = Desk::new()?;
    finished_run(&desk, "run", 6, &[])?;
    finished_run(&desk, "other", 6, &["--set", "run.seed=5"])?;
    // Each is tried on a fresh copy, and must end with an error that names the file and no step taken.
    let refused = |words: &[&str], change: &dyn Fn() -> Result<()>| -> Result<()> {
        let (code, text) = resumed(&desk, change)?;
        ensure!(code == 1 || code == 2, "{code}: {text}");
        says(&text, words)?;
        ensure!(!desk.path("spoilt/checkpoints/step-00000009").exists(), "it went on: {text}");
        Ok(())
    };
    refused(&["step-00000006", "is of run", "this is run"], &|| {
        fs::remove_dir_all(desk.path(LAST))?;
        copy(&desk, "other/checkpoints/step-00000006", LAST)
    })?;
    refused(&["spoilt/manifest.json", "damaged"], &|| {
        spoil(&desk, "spoilt/manifest.json", |bytes| bytes.truncate(20))
    })?;
    refused(&["spoilt/run.toml", "run.batch", "-3"], &|| {
        reword(&desk, "spoilt/run.toml", "\nbatch = 3\n", "\nbatch = -3\n")
    })?;
    refused(&["step-00000006/weights.safetensors", "--accept-changed-checkpoint"], &|| {
        for step in ["step-00000003", "step-00000006"] {
            fs::remove_file(desk.path(&format!("spoilt/checkpoints/{step}/weights.safetensors")))?;
        }
        Ok(())
    })?;
    // Where none is sound, none is renamed.
    ensure!(desk.path(LAST).exists(), "the last checkpoint is gone");
    // What a coordinator left behind that was killed is no obstacle.
    let (code, text) = resumed(&desk, || {
        Ok(fs::write(desk.path("spoilt/coordinator.json"), "{\"address\": \"127.0.0.1:1\", \"pid\": 1}")?)
    })?;
    ensure!(code == 0, "{code}: {text}");
    Ok(())
}

#[test]
fn a_damaged_checkpoint_is_passed_over_by_name_and_the_run_comes_to_the_same_end() -> Result<()> {
    let desk = Desk::new()?;
    finished_run(&desk, "run", 6, &[])?;
    finished_run(&desk, "undisturbed", 9, &[])?;
    let undisturbed = desk.digest("undisturbed")?;
    let passed = |words: &[&str], aside: &str, change: &dyn Fn() -> Result<()>| -> Result<()> {
        let (code, text) = resumed(&desk, change)?;
        ensure!(code == 0, "{code}: {text}");
        says(&text, words)?;
        ensure!(desk.path(&format!("spoilt/checkpoints/{aside}")).is_dir(), "{aside} is not kept: {text}");
        let digest = desk.digest("spoilt")?;
        ensure!(digest == undisturbed, "{digest} is not {undisturbed}: {text}");
        Ok(())
    };
    let six = "damaged-step-00000006";
    let remove = |file: &str| Ok(fs::remove_file(desk.path(file))?);
    for file in ["weights.safetensors", "optimizer.safetensors", "state.json"] {
        let named = format!("step-00000006/{file}");
        passed(&[&named, "No such file", six, "goes on from the one of step 3", "at step 3"], six, &|| {
            remove(&format!("{LAST}/{file}"))
        })?;
    }
    passed(&["step-00000006/weights.safetensors", "damaged", six], six, &|| {
        spoil(&desk, &format!("{LAST}/weights.safetensors"), |bytes| bytes.truncate(500))
    })?;
    passed(&["step-00000006/state.json", "EOF", six], six, &|| {
        spoil(&desk, &format!("{LAST}/state.json"), |bytes| bytes.truncate(50))
    })?;
    // One whose name is another's.
    passed(&["step-00000007/state.json", "step 6", "goes on from the one of step 6"], "damaged-step-00000007", &|| {
        copy(&desk, LAST, "spoilt/checkpoints/step-00000007")
    })
}

#[test]
fn a_damaged_journal_is_kept_aside_and_the_run_goes_on() -> Result<()> {
    let desk = Desk::new()?;
    finished_run(&desk, "run", 6, &[])?;
    finished_run(&desk, "undisturbed", 9, &[])?;
    let (code, text) = resumed(&desk, || {
        for beside in ["spoilt/run.db-wal", "spoilt/run.db-shm"] {
            let _ = fs::remove_file(desk.path(beside));
        }
        Ok(fs::write(desk.path("spoilt/run.db"), "this is no database")?)
    })?;
    ensure!(code == 0, "{code}: {text}");
    says(&text, &["run.db", "not a database", "keeps it aside"])?;
    ensure!(desk.digest("spoilt")? == desk.digest("undisturbed")?, "{text}");
    let aside = fs::read_dir(desk.path("spoilt"))?.flatten().any(|entry| {
        let name = entry.file_name().to_string_lossy().into_owned();
        name.contains("damaged") && fs::read(entry.path()).is_ok_and(|bytes| bytes == b"this is no database")
    });
    ensure!(aside, "the damaged journal is gone");
    Ok(())
}

#[test]
fn a_resume_that_cannot_start_leaves_the_configuration_as_it_was() -> Result<()> {
    let desk = Desk::new()?;
    finished_run(&desk, "run", 3, &[])?;
    fs::remove_file(desk.path("run/checkpoints/step-00000003/weights.safetensors"))?;
    let args = ["resume", &desk.arg("run"), "--device", "cpu", "--set", "run.steps=9"];
    refused(&desk, "launcher", &args, &["step-00000003/weights.safetensors", "--accept-changed-checkpoint"]).map(drop)
}

#[test]
fn a_checkpoint_that_cannot_be_sampled_is_refused_by_its_file() -> Result<()> {
    let desk = Desk::new()?;
    finished_run(&desk, "run", 3, &[])?;
    let out = desk.arg("samples.png");
    let checkpoint = "spoilt/checkpoints/step-00000003";
    let (weights, state) = (format!("{checkpoint}/weights.safetensors"), format!("{checkpoint}/state.json"));
    let path = desk.arg(checkpoint);
    let sample = |words: &[&str]| refused(&desk, "trainer", &["sample", &path, "--out", &out], words).map(drop);
    copy(&desk, "run", "spoilt")?;
    fs::remove_file(desk.path(&weights))?;
    sample(&[&weights, "No such file"])?;
    fs::copy(desk.path("run/checkpoints/step-00000003/optimizer.safetensors"), desk.path(&weights))?;
    sample(&[&weights, "damaged", "--accept-changed-checkpoint"])?;
    let all_the_same = ["sample", &path, "--out", &out, "--accept-changed-checkpoint"];
    refused(&desk, "trainer", &all_the_same, &[&weights, "discriminator."])?;
    fs::write(desk.path(&weights), "this is no safetensors file")?;
    sample(&[&weights])?;
    fs::write(desk.path(&state), "{}")?;
    sample(&[&state, "format"])?;
    fs::remove_file(desk.path(&state))?;
    sample(&[checkpoint, "no state.json"])?;
    let run = desk.arg("run");
    refused(&desk, "trainer", &["sample", &run, "--out", &out, "--count", "0"], &["--count", "0"])?;
    let nowhere = desk.arg("nowhere/samples.png");
    refused(&desk, "trainer", &["sample", &run, "--count", "1", "--out", &nowhere], &[&nowhere, "there is no folder"])?;
    refused(
        &desk,
        "trainer",
        &["sample", &run, "--count", "1", "--out", &desk.arg("data")],
        &["data", "it is a folder"],
    )?;
    Ok(())
}

#[test]
fn a_grid_too_wide_to_draw_is_refused() -> Result<()> {
    let desk = Desk::new()?;
    finished_run(&desk, "run", 3, &[])?;
    for columns in ["99999999999", "10000000"] {
        let args = ["sample", &desk.arg("run"), "--count", "1", "--columns", columns, "--out", &desk.arg("s.png")];
        refused(&desk, "trainer", &args, &["--columns", columns])?;
    }
    Ok(())
}

#[test]
fn a_checkpoint_of_an_impossible_model_is_refused() -> Result<()> {
    let desk = Desk::new()?;
    finished_run(&desk, "run", 3, &[])?;
    let state = "run/checkpoints/step-00000003/state.json";
    reword(&desk, state, "\"size\": 16", "\"size\": 0")?;
    let args = ["sample", &desk.arg("run"), "--out", &desk.arg("s.png")];
    refused(&desk, "trainer", &args, &["state.json", "size"]).map(drop)
}

#[test]
fn samples_are_not_drawn_from_damaged_weights_without_a_word() -> Result<()> {
    let desk = Desk::new()?;
    finished_run(&desk, "run", 3, &[])?;
    spoil(&desk, "run/checkpoints/step-00000003/weights.safetensors", |bytes| {
        let at = bytes.len() - 9;
        bytes[at] ^= 0x40;
    })?;
    let mut sample = program("trainer");
    sample.args(["sample", &desk.arg("run"), "--count", "1", "--out", &desk.arg("s.png")]);
    let text = said(&finish(sample)?);
    ensure!(text.contains("weights.safetensors") && text.contains("damaged"), "{text}");
    Ok(())
}

#[test]
fn a_fixture_that_does_not_conform_is_named_down_to_the_tensor() -> Result<()> {
    let desk = Desk::new()?;
    fs::write(desk.path("words.safetensors"), "this is no safetensors file, though it is long enough")?;
    fs::write(desk.path("nothing.safetensors"), "")?;
    let conform = |path: &str, words: &[&str]| refused(&desk, "trainer", &["conform", "--quiet", path], words);
    for name in ["nowhere.safetensors", "words.safetensors", "nothing.safetensors"] {
        conform(&desk.arg(name), &[name, "fixture"])?;
    }
    conform(&desk.arg("data/shard-00000.safetensors"), &["shard-00000.safetensors", "metadata", "size"])?;
    let bias = "step1/grad/discriminator.encoder.input.bias";
    let path = spoilt_fixture(&desk, |tensors, _| drop(tensors.remove(bias)))?;
    conform(&path, &["no tensor", bias])?;
    let path = spoilt_fixture(&desk, |tensors, _| {
        if let Some(view) = tensors.get_mut(bias)
            && let Ok(misshapen) = TensorView::new(view.dtype(), vec![2, view.shape()[0] / 2], view.data())
        {
            *view = misshapen;
        }
    })?;
    conform(&path, &[bias, "[2, 3]", "[6]"])?;
    let path = spoilt_fixture(&desk, |_, settings| drop(settings.insert("size".into(), "100".into())))?;
    conform(&path, &["model.size", "100"])?;
    let path = spoilt_fixture(&desk, |_, settings| drop(settings.insert("lr".into(), "fast".into())))?;
    conform(&path, &["lr", "fast"])?;
    let path = spoilt_fixture(&desk, |_, settings| drop(settings.remove("gamma")))?;
    conform(&path, &["gamma"])?;

    // One number, wrong by a little and then by everything, is the one line that is over.
    for (place, found) in [(6, "OVER"), (7, "OVER")] {
        let mut bytes = fixture()?;
        let at = SafeTensors::deserialize(&bytes)?.tensor(bias)?.data().as_ptr() as usize - bytes.as_ptr() as usize;
        bytes[at + place] ^= 0x10;
        fs::write(desk.path("perturbed.safetensors"), &bytes)?;
        let text = conform(&desk.arg("perturbed.safetensors"), &[bias, found, "1e-9"])?;
        let over: Vec<_> = text.lines().filter(|line| line.contains("OVER")).collect();
        ensure!(over.len() == 1 && over[0].contains(bias), "{text}");
    }
    let mut bytes = fixture()?;
    let at = SafeTensors::deserialize(&bytes)?.tensor(bias)?.data().as_ptr() as usize - bytes.as_ptr() as usize;
    bytes[at..at + 8].copy_from_slice(&f64::NAN.to_le_bytes());
    fs::write(desk.path("nan.safetensors"), &bytes)?;
    conform(&desk.arg("nan.safetensors"), &[bias, "OVER"])?;
    Ok(())
}

#[test]
fn a_run_in_use_is_refused_to_everyone_else_and_goes_on() -> Result<()> {
    let desk = Desk::new()?;
    let running = desk.start("run", 1, 2, FOREVER, &[])?;
    desk.reach("run", 3)?;
    let run = desk.arg("run");
    let toml = fs::read_to_string(desk.path("run/run.toml"))?;
    let holder = desk.processes("run", "coordinator")[0].to_string();
    for (name, args) in [
        ("coordinator", &["--run", &run, "--world", "2"][..]),
        ("launcher", &["resume", &run, "--device", "cpu", "--set", "run.steps=7"]),
    ] {
        let (_, text) = fail(name, args)?;
        ensure!(text.contains(&run) && text.contains("in use") && text.contains(&holder), "{name}: {text}");
    }
    let (_, text) = fail("launcher", desk.training("run", 1, 1, 9, &[]))?;
    ensure!(text.contains("exists already"), "{text}");
    ensure!(fs::read_to_string(desk.path("run/run.toml"))? == toml, "run.toml was changed");

    let steps = desk.steps("run")?;
    desk.reach("run", steps + 3)?;
    running.signal(Signal::SIGTERM)?;
    let output = running.finish()?;
    ensure!(output.status.success(), "{}", said(&output));
    desk.nothing_left("run")
}

#[test]
fn strangers_who_knock_at_the_coordinators_port_change_nothing() -> Result<()> {
    let desk = Desk::new()?;
    let steps = 100;
    let undisturbed = desk.train("undisturbed", 1, 2, steps, &[])?;
    let running = desk.start("run", 1, 2, steps, &[])?;
    let run = wait_for("the run to be made", || RunDir::open(&desk.path("run")).ok())?;
    let address = wait_for("the coordinator to listen", || run.announcement().ok().flatten())?.address;
    let mut preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    preface.extend([0, 0, 0, 4, 0, 0, 0, 0, 0]);
    let mut frames = preface.clone();
    frames.extend((0..4000u32).map(|i| ((i * 7919) >> 3) as u8));
    // A frame that announces the longest there is and never comes.
    let mut promised = preface.clone();
    promised.extend([0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 1, 1, 2, 3]);
    let knocks: [&[u8]; 6] = [
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"POST /began.v1.Coordinator/Session HTTP/1.1\r\nContent-Length: 99999999\r\n\r\nnothing",
        &[0xff; 5000],
        &frames,
        &promised,
        b"",
    ];
    let mut open = Vec::new();
    let mut refused = 0;
    while RunDir::open(&desk.path("run"))?.announcement()?.is_some() {
        for knock in knocks {
            let Ok(mut stream) = TcpStream::connect(&address) else { break };
            stream.set_read_timeout(Some(Duration::from_millis(5)))?;
            // That the other side hangs up in the middle is its right.
            let _ = stream.write_all(knock);
            refused += usize::from(stream.read(&mut [0; 64]).is_ok());
            open.push(stream);
        }
        if open.len() > 300 {
            open.clear();
        }
    }
    let output = running.finish()?;
    ensure!(output.status.success(), "{}", said(&output));
    ensure!(refused > 5, "only {refused} strangers were heard");
    let digest = desk.digest("run")?;
    ensure!(digest == undisturbed, "{digest} is not {undisturbed}");
    desk.nothing_left("run")
}

#[test]
#[ignore = "takes a minute, the patience of a trainer"]
fn a_trainer_without_a_coordinator_gives_up_and_says_why() -> Result<()> {
    let desk = Desk::new()?;
    let nobody = TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string();
    let args = [
        "run",
        "--coordinator",
        &nobody,
        "--run",
        &desk.arg("run"),
        "--node",
        "0",
        "--local-rank",
        "0",
        "--device",
        "cpu",
    ];
    let began = Instant::now();
    let (code, text) = fail("trainer", args)?;
    ensure!(code == 1 && began.elapsed() < Duration::from_secs(70), "{code} after {:?}: {text}", began.elapsed());
    ensure!(text.contains(&nobody) && text.contains("60 s") && text.contains("refused"), "{text}");
    ensure!(!desk.path("run").exists(), "a run was made");
    Ok(())
}

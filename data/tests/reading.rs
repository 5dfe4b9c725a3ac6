//! Reading a prepared set: opening, verifying, and the loader's thread.

mod made;

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use began_data::prepare::{Options, prepare};
use began_data::{BatchPlan, DataError, DataSet, Loader, shard};
use made::{TestResult, options};

const SIZE: u32 = 16;
const SOON: Duration = Duration::from_secs(20);

/// Forty faces in four shards.
fn set(dir: &Path) -> TestResult<DataSet> {
    let out = dir.join("out");
    let faces = Options { size: SIZE, count: 40, samples_per_shard: 10, ..options(Path::new("synthetic:faces"), &out) };
    prepare(&faces)?;
    Ok(DataSet::open(&out)?)
}

fn plan(step: u64, samples: Vec<(u32, u64, bool)>) -> BatchPlan {
    BatchPlan { step, lane: 2, samples }
}

/// Changes the byte `from_end` bytes before a file's end.
fn damage(path: &Path, from_end: usize) -> TestResult {
    let mut bytes = fs::read(path)?;
    let at = bytes.len() - from_end;
    bytes[at] ^= 1;
    // Replaced, not written into: the file may be mapped.
    fs::remove_file(path)?;
    fs::write(path, bytes)?;
    Ok(())
}

#[test]
fn a_set_is_shared_between_threads() {
    fn shared<T: Send + Sync>() {}
    shared::<DataSet>();
}

#[test]
fn images_and_shards_outside_the_set_are_errors() -> TestResult {
    let dir = tempfile::tempdir()?;
    let data = set(dir.path())?;
    assert_eq!((data.len(), data.size(), data.manifest().shard_samples()), (40, SIZE, vec![10; 4]));
    assert_eq!(data.image(3, 9)?.len(), shard::image_bytes(SIZE));
    let text = data.image(3, 10).err().ok_or("accepted")?.to_string();
    assert!(text.contains("image 10") && text.contains("shard-00003"), "{text}");
    let text = data.image(4, 0).err().ok_or("accepted")?.to_string();
    assert!(text.contains("shard 4") && text.contains("has 4"), "{text}");
    assert!(data.verify_shard(4).is_err() && data.image(0, u64::MAX).is_err());
    Ok(())
}

#[test]
fn a_truncated_or_missing_shard_is_named_on_opening() -> TestResult {
    let dir = tempfile::tempdir()?;
    drop(set(dir.path())?);
    let out = dir.path().join("out");
    let path = out.join("shard-00002.safetensors");
    let whole = fs::read(&path)?;
    for length in [whole.len() - 1, 20, 0] {
        fs::write(&path, &whole[..length])?;
        let text = DataSet::open(&out).err().ok_or("opened")?.to_string();
        let (expected, found) = (format!("{} were expected", whole.len()), format!("{length} bytes"));
        assert!(text.contains("shard-00002") && text.contains(&expected) && text.contains(&found), "{text}");
    }
    fs::remove_file(&path)?;
    let text = DataSet::open(&out).err().ok_or("opened")?.to_string();
    assert!(text.contains("cannot open") && text.contains("shard-00002"), "{text}");
    Ok(())
}

#[test]
fn a_flipped_bit_is_found_and_the_file_named() -> TestResult {
    let dir = tempfile::tempdir()?;
    drop(set(dir.path())?);
    let out = dir.path().join("out");
    damage(&out.join("shard-00001.safetensors"), 100)?;
    let data = DataSet::open(&out)?;
    data.verify_shard(0)?;
    let Err(DataError::ShardHash { path, expected, found }) = data.verify_shard(1) else {
        return Err("not found".into());
    };
    assert!(path.ends_with("shard-00001.safetensors") && expected != found);
    assert_eq!(expected, data.manifest().shards[1].blake3);
    Ok(())
}

#[test]
fn batches_come_in_the_order_of_their_plans_with_flips_applied() -> TestResult {
    let dir = tempfile::tempdir()?;
    let data = Arc::new(set(dir.path())?);
    let plans: Vec<_> = (0..30u64)
        .map(|step| plan(step, (0..5).map(|n| ((step + n) as u32 % 4, (7 * n + step) % 10, n % 2 == 1)).collect()))
        .collect();
    let mut loader = Loader::start(Arc::clone(&data), plans.clone().into_iter(), 3)?;
    for plan in &plans {
        let batch = loader.next(SOON)?;
        assert_eq!((batch.step, batch.lane), (plan.step, 2));
        let images: Vec<_> = batch.pixels.chunks_exact(shard::image_bytes(SIZE)).collect();
        assert_eq!(images.len(), 5);
        for (image, &(shard, index, mirrored)) in images.iter().zip(&plan.samples) {
            let side = SIZE as usize;
            for (row, original) in image.chunks_exact(side).zip(data.image(shard, index)?.chunks_exact(side)) {
                let same = if mirrored { row.iter().rev().eq(original) } else { row == original };
                assert!(same, "step {} image {shard}/{index} mirrored {mirrored}", plan.step);
            }
        }
        loader.recycle(batch.pixels);
    }
    let text = loader.next(SOON).err().ok_or("more than was planned")?.to_string();
    assert!(text.contains("after 30 batches") && text.contains("no more plans"), "{text}");
    Ok(())
}

#[test]
fn damage_surfaces_where_the_damaged_shard_is_first_needed() -> TestResult {
    let dir = tempfile::tempdir()?;
    drop(set(dir.path())?);
    damage(&dir.path().join("out/shard-00003.safetensors"), 1)?;
    let data = Arc::new(DataSet::open(&dir.path().join("out"))?);
    let plans = vec![plan(0, vec![(0, 0, false)]), plan(1, vec![(0, 1, false), (3, 0, true)]), plan(2, vec![])];
    let mut loader = Loader::start(data, plans.into_iter(), 4)?;
    assert_eq!(loader.next(SOON)?.step, 0);
    let text = loader.next(SOON).err().ok_or("delivered")?.to_string();
    assert!(text.contains("shard-00003.safetensors is damaged"), "{text}");
    assert!(matches!(loader.next(SOON), Err(DataError::LoaderEnded { delivered: 1, .. })));
    Ok(())
}

#[test]
fn a_plan_for_what_is_not_there_is_an_error_and_no_panic() -> TestResult {
    let dir = tempfile::tempdir()?;
    let data = Arc::new(set(dir.path())?);
    for sample in [(9, 0, false), (0, 99, false)] {
        let mut loader = Loader::start(Arc::clone(&data), std::iter::once(plan(0, vec![sample])), 1)?;
        assert!(matches!(
            loader.next(SOON),
            Err(DataError::NoSuchShard { shard: 9, .. } | DataError::NoSuchImage { index: 99, .. })
        ));
    }
    Ok(())
}

#[test]
fn waiting_is_bounded_counted_and_says_for_what() -> TestResult {
    let dir = tempfile::tempdir()?;
    let data = Arc::new(set(dir.path())?);
    let release = Arc::new(AtomicBool::new(false));
    let gate = Arc::clone(&release);
    let plans = (0..2u64).map(move |step| {
        while step == 1 && !gate.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(1));
        }
        plan(step, vec![(0, 0, false)])
    });
    let mut loader = Loader::start(data, plans, 2)?;
    loader.next(SOON)?;
    let before = loader.waited();
    let text = loader.next(Duration::from_millis(60)).err().ok_or("delivered")?.to_string();
    assert!(text.contains("waiting for the plan that follows step 0, lane 2"), "{text}");
    assert!(loader.waited() - before >= Duration::from_millis(60));
    release.store(true, Ordering::Relaxed);
    assert_eq!(loader.next(SOON)?.step, 1);
    Ok(())
}

#[test]
fn no_more_than_depth_batches_are_made_ahead() -> TestResult {
    let dir = tempfile::tempdir()?;
    let data = Arc::new(set(dir.path())?);
    let asked = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&asked);
    let plans = (0..100u64).map(move |step| {
        counter.fetch_add(1, Ordering::Relaxed);
        plan(step, vec![(0, 0, false)])
    });
    let mut loader = Loader::start(data, plans, 3)?;
    loader.next(SOON)?;
    std::thread::sleep(Duration::from_millis(50));
    // One delivered, three ready, one in the hands of the thread.
    assert!(asked.load(Ordering::Relaxed) <= 5, "{asked:?}");
    Ok(())
}

#[test]
fn dropping_the_loader_ends_its_thread() -> TestResult {
    let dir = tempfile::tempdir()?;
    let data = Arc::new(set(dir.path())?);
    let endless = (0u64..).map(|step| plan(step, vec![(0, 0, false); 4]));
    let mut loader = Loader::start(Arc::clone(&data), endless, 2)?;
    loader.next(SOON)?;
    assert_eq!(Arc::strong_count(&data), 2);
    drop(loader);
    let start = Instant::now();
    while Arc::strong_count(&data) > 1 {
        assert!(start.elapsed() < SOON, "the thread still holds the set");
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

//! Groups of processes, one of whose members leaves, dies or never comes: the others are free at once, and nothing is left.

use std::fs;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use tch::{Device, Kind, Tensor};
use tempfile::tempdir;
use torch_ext::TorchError;
use torch_ext::gloo::{Attempt, Connecting, Group, Member, Operation, Rendezvous};

const SOON: Duration = Duration::from_secs(1);
const WORLD: u32 = 3;

/// A store that processes share: a folder with a file a key.
struct Folder(PathBuf);

impl Folder {
    fn file(&self, key: &str) -> PathBuf {
        self.0.join(key.replace('/', "~"))
    }
}

impl Rendezvous for Folder {
    fn set(&self, key: &str, value: &[u8]) -> Result<(), String> {
        let aside = self.0.join(format!(".{}-{}", std::process::id(), key.replace('/', "~")));
        fs::write(&aside, value).and_then(|()| fs::rename(&aside, self.file(key))).map_err(|e| e.to_string())
    }

    fn get(&self, keys: &[&str], timeout: Duration) -> Result<Vec<Vec<u8>>, String> {
        let started = Instant::now();
        loop {
            let found: Result<Vec<_>, _> = keys.iter().map(|key| fs::read(self.file(key))).collect();
            match found {
                Ok(found) => return Ok(found),
                Err(_) if started.elapsed() >= timeout => return Err(format!("one of {keys:?} did not come")),
                Err(_) => thread::sleep(Duration::from_millis(2)),
            }
        }
    }

    fn add(&self, _: &str, _: i64) -> Result<i64, String> {
        Err("this store does not count".into())
    }

    fn append(&self, _: &str, _: &[u8]) -> Result<(), String> {
        Err("this store does not append".into())
    }

    fn delete(&self, key: &str) -> Result<bool, String> {
        Ok(fs::remove_file(self.file(key)).is_ok())
    }

    fn compare_set(&self, key: &str, _: &[u8], desired: &[u8]) -> Result<Vec<u8>, String> {
        self.set(key, desired)?;
        Ok(desired.into())
    }
}

fn member(rank: u32, world: u32) -> Member {
    let (connect, operation) = (Duration::from_secs(20), Duration::from_secs(60));
    Member { rank, world, address: "127.0.0.1".into(), connect, operation }
}

fn join(folder: &Path, generation: u32, rank: u32) -> Result<Group, TorchError> {
    let folder = folder.join(generation.to_string());
    fs::create_dir_all(&folder).map_err(|e| TorchError(e.to_string()))?;
    Group::connect(Arc::new(Folder(folder)), &member(rank, WORLD), &Attempt::default())
}

/// Connects, unless a member is known to have left meanwhile: as a trainer does, whom the coordinator tells. Gloo itself may
/// wait in vain for one that comes and goes.
fn join_unless_over(folder: &Path, generation: u32, rank: u32) -> Option<Group> {
    let folder = folder.join(generation.to_string());
    fs::create_dir_all(&folder).unwrap();
    let (deliver, delivered) = channel();
    let deliver = move |group| drop(deliver.send(group));
    let connecting = Connecting::start(Arc::new(Folder(folder.clone())), member(rank, WORLD), deliver).unwrap();
    loop {
        if let Ok(group) = delivered.recv_timeout(Duration::from_millis(5)) {
            return group.ok();
        }
        if folder.join("over").exists() {
            connecting.call_off();
            return None;
        }
    }
}

/// Enough that no socket's buffer holds it: an operation without its last member cannot be done.
fn begin(group: &mut Group) -> Result<Operation, TorchError> {
    exchange(group, 2_500_000)
}

fn exchange(group: &mut Group, each: i64) -> Result<Operation, TorchError> {
    let input = Tensor::ones([each * i64::from(WORLD)], (Kind::Float, Device::Cpu));
    let output = input.zeros_like();
    group.all_to_all(&output, &input, &[each; WORLD as usize], &[each; WORLD as usize])
}

fn finish(mut operation: Operation) -> Result<(), TorchError> {
    while !operation.wait(Duration::from_millis(20))? {}
    Ok(())
}

/// Threads and sockets of this process.
fn open() -> (usize, usize) {
    let count = |folder: &str| fs::read_dir(folder).map(|entries| entries.flatten().collect()).unwrap_or_default();
    let (tasks, files): (Vec<_>, Vec<_>) = (count("/proc/self/task"), count("/proc/self/fd"));
    let socket = |f: &fs::DirEntry| fs::read_link(f.path()).is_ok_and(|to| to.to_string_lossy().starts_with("socket:"));
    (tasks.len(), files.iter().filter(|f| socket(f)).count())
}

/// This test again, as the members of a group, each in a process of its own.
fn members(scenario: &str, folder: &Path) -> Vec<Child> {
    let start = |rank: u32| {
        Command::new(std::env::current_exe().unwrap())
            .args([scenario, "--exact", "--nocapture", "--test-threads=1"])
            .env("LEAVING_RANK", rank.to_string())
            .env("LEAVING_FOLDER", folder)
            .spawn()
            .unwrap()
    };
    (0..WORLD).map(start).collect()
}

fn as_member() -> Option<(u32, PathBuf)> {
    let rank = std::env::var("LEAVING_RANK").ok()?.parse().ok()?;
    Some((rank, std::env::var_os("LEAVING_FOLDER")?.into()))
}

/// All but `leaver` have begun an operation that will not be done without it.
fn await_others(folder: &Path, generation: u32, leaver: u32) {
    let folder = Folder(folder.join(generation.to_string()));
    let keys: Vec<_> = (0..WORLD).filter(|&rank| rank != leaver).map(|rank| format!("begun/{rank}")).collect();
    folder.get(&keys.iter().map(String::as_str).collect::<Vec<_>>(), Duration::from_secs(20)).unwrap();
    thread::sleep(Duration::from_millis(30));
}

/// Begins an operation and counts how long it takes from the leaver's going to its failing.
fn left_behind(mut group: Group, folder: &Path, generation: u32, rank: u32) -> Group {
    let operation = begin(&mut group).unwrap();
    let folder = Folder(folder.join(generation.to_string()));
    folder.set(&format!("begun/{rank}"), b"").unwrap();
    folder.get(&["going"], Duration::from_secs(20)).unwrap();
    let started = Instant::now();
    let error = finish(operation).expect_err("an operation without a member was done");
    assert!(started.elapsed() < SOON, "failed after {:?}: {error}", started.elapsed());
    group
}

fn go(folder: &Path, generation: u32) {
    Folder(folder.join(generation.to_string())).set("going", b"").unwrap();
}

#[test]
fn who_leaves_frees_the_others_at_once_and_thirty_generations_leave_nothing_behind() {
    let scenario = "who_leaves_frees_the_others_at_once_and_thirty_generations_leave_nothing_behind";
    let Some((rank, folder)) = as_member() else {
        let folder = tempdir().unwrap();
        for mut child in members(scenario, folder.path()) {
            assert!(child.wait().unwrap().success());
        }
        return;
    };
    let bystander = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let near = std::net::TcpStream::connect(bystander.local_addr().unwrap()).unwrap();
    let (mut far, _) = bystander.accept().unwrap();
    let mut before = None;
    for generation in 0..30 {
        let mut group = join(&folder, generation, rank).unwrap();
        finish(begin(&mut group).unwrap()).unwrap();
        let leaver = generation % WORLD;
        let mut pending = None;
        if rank == leaver {
            await_others(&folder, generation, rank);
            // Every other time in the middle of the operation itself.
            if generation % 2 == 0 {
                pending = begin(&mut group).ok();
            } else {
                go(&folder, generation);
            }
        } else if generation % 2 == 1 {
            group = left_behind(group, &folder, generation, rank);
        } else {
            // Another may be gone already.
            pending = begin(&mut group).ok();
            Folder(folder.join(generation.to_string())).set(&format!("begun/{rank}"), b"").unwrap();
        }
        let started = Instant::now();
        drop(pending);
        drop(group);
        assert!(started.elapsed() < SOON, "left in {:?}", started.elapsed());
        // Gloo's own pool of threads stays from the first generation on.
        before = before.or_else(|| (generation == 1).then(open));
    }
    assert_eq!(Some(open()), before);
    // A socket that is not the group's was left alone.
    use std::io::{Read as _, Write as _};
    (&near).write_all(b"?").unwrap();
    far.read_exact(&mut [0]).unwrap();
}

#[test]
fn a_killed_member_frees_the_others_at_once() {
    let scenario = "a_killed_member_frees_the_others_at_once";
    let Some((rank, folder)) = as_member() else {
        let folder = tempdir().unwrap();
        let ended: Vec<_> =
            members(scenario, folder.path()).into_iter().map(|mut child| child.wait().unwrap()).collect();
        assert_eq!(ended[2].signal(), Some(9));
        assert!(ended[..2].iter().all(std::process::ExitStatus::success));
        return;
    };
    let group = join(&folder, 0, rank).unwrap();
    if rank == 2 {
        await_others(&folder, 0, rank);
        go(&folder, 0);
        let pid = std::process::id().to_string();
        Command::new("kill").args(["-9", &pid]).status().unwrap();
        thread::sleep(Duration::from_secs(20));
    }
    let group = left_behind(group, &folder, 0, rank);
    let started = Instant::now();
    drop(group);
    assert!(started.elapsed() < SOON);
}

#[test]
fn waiting_for_a_member_that_never_comes_is_called_off_at_once() {
    let folder = tempdir().unwrap();
    let before = open();
    let (deliver, delivered) = channel();
    let store = Arc::new(Folder(folder.path().into()));
    let connecting = Connecting::start(store, member(0, 2), move |group| deliver.send(group.err()).unwrap()).unwrap();
    assert!(delivered.recv_timeout(Duration::from_millis(300)).is_err());
    let started = Instant::now();
    drop(connecting);
    assert!(started.elapsed() < Duration::from_millis(100));
    // Nothing is delivered: the thread ends and lets go of its end of the channel.
    assert_eq!(delivered.recv_timeout(SOON), Err(std::sync::mpsc::RecvTimeoutError::Disconnected));
    ends_as_it_began(before);
}

#[test]
fn a_member_that_comes_and_then_says_nothing_is_called_off_at_once() {
    let folder = tempdir().unwrap();
    let before = open();
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let store = Arc::new(Folder(folder.path().into()));
    store.set("listener/1", silent.local_addr().unwrap().to_string().as_bytes()).unwrap();
    let (deliver, delivered) = channel();
    let connecting = Connecting::start(store, member(0, 2), move |group| deliver.send(group.err()).unwrap()).unwrap();
    assert!(delivered.recv_timeout(Duration::from_millis(500)).is_err());
    let started = Instant::now();
    connecting.call_off();
    assert!(started.elapsed() < Duration::from_millis(100));
    assert_eq!(delivered.recv_timeout(SOON), Err(std::sync::mpsc::RecvTimeoutError::Disconnected));
    drop(silent);
    ends_as_it_began(before);
}

#[test]
fn operations_have_a_time_limit_of_their_own() {
    let scenario = "operations_have_a_time_limit_of_their_own";
    let Some((rank, folder)) = as_member() else {
        let folder = tempdir().unwrap();
        for mut child in members(scenario, folder.path()) {
            assert!(child.wait().unwrap().success());
        }
        return;
    };
    let limits = Member { operation: Duration::from_secs(1), ..member(rank, WORLD) };
    let mut group = Group::connect(Arc::new(Folder(folder.clone())), &limits, &Attempt::default()).unwrap();
    if rank == 0 {
        Folder(folder).get(&["late/1", "late/2"], Duration::from_secs(20)).unwrap();
        return;
    }
    let started = Instant::now();
    finish(begin(&mut group).unwrap()).expect_err("an operation without a member was done");
    let took = started.elapsed();
    assert!(took > Duration::from_millis(800) && took < Duration::from_secs(3), "{took:?}");
    Folder(folder).set(&format!("late/{rank}"), b"").unwrap();
}

/// Other tests of this file run beside this one, so that there may be fewer threads and sockets than at its beginning.
fn ends_as_it_began(before: (usize, usize)) {
    let started = Instant::now();
    while started.elapsed() < Duration::from_secs(5) {
        let now = open();
        if now.0 <= before.0 + 1 && now.1 <= before.1 {
            return;
        }
        thread::sleep(Duration::from_millis(20));
    }
    panic!("threads and sockets were {before:?} and are {:?}", open());
}

#[test]
fn one_that_leaves_at_any_moment_of_an_operation_frees_the_others_at_once() {
    let scenario = "one_that_leaves_at_any_moment_of_an_operation_frees_the_others_at_once";
    let Some((rank, folder)) = as_member() else {
        let folder = tempdir().unwrap();
        for mut child in members(scenario, folder.path()) {
            assert!(child.wait().unwrap().success());
        }
        return;
    };
    for generation in 0..100 {
        let started = Instant::now();
        let over = Folder(folder.join(generation.to_string()));
        let group = join_unless_over(&folder, generation, rank);
        let joined = Instant::now();
        assert!(joined - started < 5 * SOON, "joined in {:?}", joined - started);
        let Some(mut group) = group else { continue };
        let stay = Duration::from_micros(u64::from(generation * 7919 % 4000));
        let leaves = rank == generation % WORLD;
        loop {
            let started = Instant::now();
            let Ok(operation) = exchange(&mut group, 50_000) else { break };
            if leaves && joined.elapsed() > stay {
                break;
            }
            let failed = finish(operation).is_err();
            // On a machine that is busy with other things; the limit of operations is a minute.
            assert!(started.elapsed() < 5 * SOON, "an operation took {:?}", started.elapsed());
            if failed {
                break;
            }
        }
        over.set("over", b"").unwrap();
        let started = Instant::now();
        drop(group);
        assert!(started.elapsed() < 5 * SOON, "left in {:?}", started.elapsed());
    }
}

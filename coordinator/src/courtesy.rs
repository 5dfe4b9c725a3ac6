//! Threads that give way: what the page shows, what is written down and what is summed up can wait for a few milliseconds, an
//! equilibrium that a thousand trainers wait for cannot.

/// The page and the diagnosis take what is left over.
pub const LEFT_OVER: i32 = 19;
/// The record goes before them: what is not written yet is lost with the coordinator.
pub const RECORD: i32 = 10;

/// Lowers the calling thread's priority. Where the system does not let it, nothing changes but a few milliseconds.
pub fn give_way(niceness: i32) {
    if let Err(error) = rustix::process::nice(niceness) {
        tracing::debug!("a thread keeps its priority: {error}");
    }
}

//! What a child process writes: whole into its log, the last lines into memory, each line handed on where asked for.
//!
//! It must never hold a child up: a log that cannot be written (a full disk) is noted once and the output read on; once it can
//! be written again, it says that lines are missing.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::io::{AsyncRead, AsyncReadExt};

/// Lines kept in memory, to be shown when the child fails.
pub const LAST_LINES: usize = 15;

/// A line is cut here: a child that never ends its line must not fill the memory.
const LONGEST_LINE: usize = 8 << 10;

type LineSink = Box<dyn Fn(&str) + Send>;

/// The log of one child, shared between those who read its streams and those who report on it.
#[derive(Clone)]
pub struct Log {
    inner: Arc<Mutex<Inner>>,
}

struct Inner {
    path: PathBuf,
    file: Option<File>,
    /// Lines that could not be written since the last that was.
    lost: u64,
    last: VecDeque<String>,
    sink: Option<LineSink>,
}

impl Log {
    /// A log that is appended to the file at `path`; `sink` is called with every line.
    #[must_use]
    pub fn append_to(path: &Path, sink: Option<LineSink>) -> Self {
        let mut last = VecDeque::new();
        let file = match OpenOptions::new().create(true).append(true).open(path) {
            Ok(file) => Some(file),
            Err(error) => {
                last.push_back(format!("(the log {} cannot be written: {error})", path.display()));
                None
            }
        };
        Self { inner: Arc::new(Mutex::new(Inner { path: path.into(), file, lost: 0, last, sink })) }
    }

    /// The last lines, oldest first.
    #[must_use]
    pub fn last_lines(&self) -> Vec<String> {
        self.inner().last.iter().cloned().collect()
    }

    /// Writes one line of the launcher's own.
    pub fn note(&self, line: &str) {
        self.inner().take(line.as_bytes());
    }

    /// Reads a stream to its end, or until it cannot be read.
    pub async fn follow(self, mut stream: impl AsyncRead + Unpin) {
        let mut chunk = vec![0; 8 << 10];
        let mut pending = Vec::new();
        while let Ok(length @ 1..) = stream.read(&mut chunk).await {
            pending.extend_from_slice(&chunk[..length]);
            while let Some(end) = pending.iter().position(|byte| *byte == b'\n') {
                let rest = pending.split_off(end + 1);
                self.inner().take(&pending[..end]);
                pending = rest;
            }
            if pending.len() > LONGEST_LINE {
                self.inner().take(&pending);
                pending.clear();
            }
        }
        if !pending.is_empty() {
            self.inner().take(&pending);
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn take(&mut self, line: &[u8]) {
        if let Some(file) = &mut self.file {
            let mut whole = Vec::new();
            if self.lost > 0 {
                whole.extend(format!("({} lines are missing here: they could not be written)\n", self.lost).bytes());
            }
            whole.extend_from_slice(line);
            whole.push(b'\n');
            let before = file.metadata().map(|metadata| metadata.len());
            match file.write_all(&whole) {
                Ok(()) => self.lost = 0,
                Err(error) => {
                    // Half a line is none.
                    if let Ok(length) = before {
                        let _ = file.set_len(length);
                    }
                    if self.lost == 0 {
                        self.keep(format!(
                            "(the log {} cannot be written at the moment: {error})",
                            self.path.display()
                        ));
                    }
                    self.lost += 1;
                }
            }
        }
        // What redraws its line shows on a terminal only what stands behind the last carriage return.
        let text = String::from_utf8_lossy(line);
        let shown = text.trim_end_matches('\r').rsplit('\r').next().unwrap_or_default().to_owned();
        if let Some(sink) = &self.sink {
            sink(&shown);
        }
        if !is_backtrace(&shown) {
            self.keep(shown);
        }
    }

    fn keep(&mut self, line: String) {
        if self.last.len() == LAST_LINES {
            self.last.pop_front();
        }
        self.last.push_back(line);
    }
}

/// Whether a line is a frame of a backtrace. Those would push out of the last lines the sentence they belong to.
fn is_backtrace(line: &str) -> bool {
    let text = line.trim_start();
    let numbered = text.split_once(": ").is_some_and(|(number, _)| number.parse::<u32>().is_ok());
    text.len() < line.len() && (numbered || text.starts_with("at "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_log_has_all_lines_and_the_memory_the_last() -> std::io::Result<()> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("child.log");
        let log = Log::append_to(&path, None);
        let text: String = (0..40).map(|i| format!("line {i}\n")).collect::<String>() + "10%\r20%\nno end";
        log.clone().follow(text.as_bytes()).await;
        assert_eq!(std::fs::read_to_string(&path)?, text + "\n");
        let last = log.last_lines();
        assert_eq!(last.len(), LAST_LINES);
        assert_eq!(last[LAST_LINES - 3..], ["line 39", "20%", "no end"]);
        Ok(())
    }

    #[test]
    fn a_backtrace_does_not_push_out_the_sentence_it_belongs_to() {
        assert!(is_backtrace("  12: core::panicking::panic_fmt"));
        assert!(is_backtrace("             at ./src/main.rs:3:5"));
        assert!(!is_backtrace("error: at the end"));
        assert!(!is_backtrace("  step 12: lost"));
    }

    #[test]
    fn a_log_that_can_be_written_again_says_what_is_missing() -> std::io::Result<()> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("child.log");
        let log = Log::append_to(&path, None);
        log.note("before");
        // A handle that cannot be written to stands for the full disk.
        let whole = log.inner().file.replace(File::open(&path)?);
        log.note("lost");
        log.note("lost, too");
        assert_eq!(log.last_lines().iter().filter(|line| line.contains("cannot be written")).count(), 1);
        log.inner().file = whole;
        log.note("after");
        let text = std::fs::read_to_string(&path)?;
        assert_eq!(text, "before\n(2 lines are missing here: they could not be written)\nafter\n");
        Ok(())
    }

    #[tokio::test]
    async fn a_log_that_cannot_be_written_and_an_endless_line_hold_nobody_up() {
        let log = Log::append_to(Path::new("/proc/no/such/place"), None);
        log.clone().follow(&[b'x'; 100_000][..]).await;
        assert!(log.last_lines()[0].contains("cannot be written"));
        assert!(log.last_lines().iter().all(|line| line.len() < 20_000));
    }
}

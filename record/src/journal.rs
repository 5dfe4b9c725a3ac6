//! `run.db`: every step, event, digest and lease of a run, in SQLite. Open it with anything.
//!
//! Floating-point values are stored as SQLite's 8-byte reals, so they read back to the bit.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use began::score::{Metric, Weights};
use began::{Step, StepRecord};
use rusqlite::{Connection, OpenFlags, OptionalExtension, params};

use crate::{RecordError, RunDir};

/// Bytes of a journal up to which a start reads all of it to find damage.
const CHECKED: u64 = 64 << 20;

const SCHEMA: &str = "
    CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
    INSERT OR IGNORE INTO meta VALUES ('format', '1');
    CREATE TABLE IF NOT EXISTS steps (
        step INTEGER PRIMARY KEY, generation INTEGER NOT NULL,
        real REAL NOT NULL, fake REAL NOT NULL, k REAL NOT NULL, rate REAL NOT NULL, m_global REAL NOT NULL,
        seconds REAL NOT NULL, time REAL NOT NULL);
    CREATE TABLE IF NOT EXISTS events (
        id INTEGER PRIMARY KEY, time REAL NOT NULL, kind TEXT NOT NULL, text TEXT NOT NULL,
        step INTEGER NOT NULL, generation INTEGER NOT NULL, rank INTEGER, node INTEGER);
    CREATE TABLE IF NOT EXISTS digests (
        step INTEGER NOT NULL, launch INTEGER NOT NULL, digest TEXT NOT NULL, PRIMARY KEY (step, launch)) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS tensor_digests (
        step INTEGER NOT NULL, launch INTEGER NOT NULL, name TEXT NOT NULL, digest TEXT NOT NULL,
        PRIMARY KEY (step, launch, name)) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS leases (
        generation INTEGER NOT NULL, epoch INTEGER NOT NULL, rank INTEGER NOT NULL,
        first_step INTEGER NOT NULL, end_step INTEGER NOT NULL, shards TEXT NOT NULL,
        PRIMARY KEY (generation, epoch, rank)) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS draws (step INTEGER PRIMARY KEY, drawn INTEGER NOT NULL);
    CREATE TABLE IF NOT EXISTS starts (id INTEGER PRIMARY KEY, time REAL NOT NULL, plan BLOB NOT NULL);
    CREATE TABLE IF NOT EXISTS inputs (
        id INTEGER PRIMARY KEY, start INTEGER NOT NULL, first INTEGER NOT NULL, count INTEGER NOT NULL,
        data BLOB NOT NULL);
    CREATE TABLE IF NOT EXISTS diagnosis (step INTEGER PRIMARY KEY, lineage INTEGER NOT NULL, window TEXT NOT NULL);
    CREATE TABLE IF NOT EXISTS evaluations (
        step INTEGER NOT NULL, weights TEXT NOT NULL, metric TEXT NOT NULL, value REAL NOT NULL,
        PRIMARY KEY (step, weights, metric)) WITHOUT ROWID;
";

/// The tables, for salvage: those that people read first.
const TABLES: [&str; 10] =
    ["steps", "draws", "events", "digests", "tensor_digests", "leases", "starts", "diagnosis", "evaluations", "inputs"];

/// Something to be kept.
#[derive(Clone, Debug, PartialEq)]
pub enum Entry {
    /// A finished step.
    Step(StepRow),
    /// Something that happened, with its reason.
    Event(EventRow),
    /// The digest of the whole state.
    Digest(DigestRow),
    /// Shards given to a trainer.
    Lease(LeaseRow),
    /// Steps, digests and draws from this step on are forgotten: they are computed again.
    Rewind(Step),
    /// What single images say about a window of steps.
    Diagnosis(DiagnosisRow),
    /// What the model was scored at in a step.
    Evaluation(EvaluationRow),
    /// What the coordinator's machine was told: a part of what it takes to replay it.
    Inputs(InputsRow),
}

/// A row of `starts`: the coordinator was started.
#[derive(Clone, Debug, PartialEq)]
pub struct StartRow {
    /// Counts the coordinator's starts.
    pub id: u64,
    /// Seconds since 1970.
    pub time: f64,
    /// What its machine started from, in the coordinator's own form.
    pub plan: Vec<u8>,
}

/// A row of `diagnosis`: a window of steps, summed up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiagnosisRow {
    /// The first step behind the window.
    pub step: u64,
    /// How often the run had gone back before.
    pub lineage: u64,
    /// [`began::diagnosis::Window`] as JSON.
    pub window: String,
}

/// The rows of `evaluations` of one step and one kind of weights.
#[derive(Clone, Debug, PartialEq)]
pub struct EvaluationRow {
    /// The step whose state was scored.
    pub step: Step,
    /// Which of its weights.
    pub weights: Weights,
    /// The scores.
    pub scores: BTreeMap<Metric, f64>,
}

/// A row of `inputs`: consecutive events of the coordinator's machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InputsRow {
    /// Which start of the coordinator they belong to.
    pub start: u64,
    /// Place of the first of them among all of that start.
    pub first: u64,
    /// How many.
    pub count: u64,
    /// Themselves, in the coordinator's own form.
    pub data: Vec<u8>,
}

/// One row of `steps`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepRow {
    /// Losses, k, rate and M_global.
    pub record: StepRecord,
    /// The generation that computed it.
    pub generation: u64,
    /// How long it took.
    pub seconds: f64,
    /// Seconds since 1970.
    pub time: f64,
    /// What tells which samples all lanes drew, as the trainers say; 0 where nobody said.
    pub drawn: u64,
}

/// Consecutive steps, summed up for a curve.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CurveRow {
    /// The first step, or the one that the bucket would begin with.
    pub first: u64,
    /// How many steps.
    pub count: u64,
    /// Of L(x), L(G(z)), k, M_global, the rate and the seconds of a step.
    pub spans: [Span; 6],
}

impl CurveRow {
    /// Takes more steps in.
    pub fn add(&mut self, count: u64, spans: &[Span; 6]) {
        self.count += count;
        for (own, other) in self.spans.iter_mut().zip(spans) {
            // The extremes leave out what is no number; the sum does not, so that a curve cannot hide it.
            own.sum += other.sum;
            own.min = own.min.min(other.min);
            own.max = own.max.max(other.max);
        }
    }
}

/// The least, the sum and the most of one quantity.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Span {
    /// The least.
    pub min: f64,
    /// All of them together.
    pub sum: f64,
    /// The most.
    pub max: f64,
}

impl Span {
    /// Of one step.
    #[must_use]
    pub fn of(value: f64) -> Self {
        Self { min: value, sum: value, max: value }
    }
}

/// One row of `events`.
#[derive(Clone, Debug, PartialEq)]
pub struct EventRow {
    /// Seconds since 1970.
    pub time: f64,
    /// "joined", "generation", "lost", "checkpoint", ...
    pub kind: String,
    /// A sentence.
    pub text: String,
    /// The step the run was in.
    pub step: u64,
    /// The generation.
    pub generation: u64,
    /// Whom it is about.
    pub rank: Option<u32>,
    /// Which node it is about.
    pub node: Option<u32>,
}

/// A row of `digests` with its rows of `tensor_digests`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DigestRow {
    /// The state's step.
    pub step: u64,
    /// Which launch of the run (index in the manifest) computed it.
    pub launch: u32,
    /// BLAKE3 over the whole state.
    pub digest: String,
    /// BLAKE3 over each tensor.
    pub tensors: Vec<TensorDigest>,
}

/// One tensor's digest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorDigest {
    /// As in the weights file; Adam's moments with `.m` and `.v` behind.
    pub name: String,
    /// BLAKE3 over its values.
    pub digest: String,
}

/// One row of `leases`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseRow {
    /// In which generation.
    pub generation: u64,
    /// For which epoch.
    pub epoch: u64,
    /// To whom.
    pub rank: u32,
    /// First step that may need the shards.
    pub first_step: u64,
    /// First step that does not any more.
    pub end_step: u64,
    /// Indices of the shards.
    pub shards: Vec<u32>,
}

/// The journal of one run.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    db: Connection,
}

impl Journal {
    /// Opens the journal for writing, made if it is not there.
    ///
    /// # Errors
    /// If it cannot be opened, or is of another form.
    pub fn create_or_open(run: &RunDir) -> Result<Self, RecordError> {
        let journal = Self::connect(run, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE)?;
        // WAL with NORMAL: a killed process loses nothing that was committed, and no step waits for the disk.
        let set_up = journal
            .db
            .pragma_update(None, "journal_mode", "wal")
            .and_then(|()| journal.db.pragma_update(None, "synchronous", "normal"))
            .and_then(|()| journal.db.execute_batch(SCHEMA));
        journal.checked(set_up)?;
        journal.check_format()?;
        Ok(journal)
    }

    /// Opens the journal for reading only; a run may be writing it meanwhile.
    ///
    /// # Errors
    /// If it is not there, or is of another form.
    pub fn read(run: &RunDir) -> Result<Self, RecordError> {
        if !run.journal().is_file() {
            return Err(RecordError::NotARun { path: run.path().into(), missing: "run.db" });
        }
        let journal = Self::connect(run, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        journal.check_format()?;
        Ok(journal)
    }

    fn connect(run: &RunDir, flags: OpenFlags) -> Result<Self, RecordError> {
        let path = run.journal();
        let connected = Connection::open_with_flags(&path, flags | OpenFlags::SQLITE_OPEN_NO_MUTEX)
            .and_then(|db| db.busy_timeout(Duration::from_secs(5)).map(|()| db));
        match connected {
            Ok(db) => Ok(Self { path, db }),
            Err(error) => Err(RecordError::Journal { path, error }),
        }
    }

    fn checked<T>(&self, result: rusqlite::Result<T>) -> Result<T, RecordError> {
        result.map_err(|error| RecordError::Journal { path: self.path.clone(), error })
    }

    fn check_format(&self) -> Result<(), RecordError> {
        let found: String =
            self.checked(self.db.query_row("SELECT value FROM meta WHERE key = 'format'", [], |row| row.get(0)))?;
        if found == "1" {
            return Ok(());
        }
        let reason = format!("its format is {found}, this version reads 1");
        Err(RecordError::Damaged { path: self.path.clone(), reason })
    }

    /// Writes entries in one transaction: all of them or none.
    ///
    /// # Errors
    /// If the transaction cannot be committed.
    pub fn write(&mut self, entries: &[Entry]) -> Result<(), RecordError> {
        let path = self.path.clone();
        write_all(&mut self.db, entries).map_err(|error| RecordError::Journal { path, error })
    }

    /// Forgets steps, digests and leases from `step` on: a resumed run computes them again.
    ///
    /// # Errors
    /// If they cannot be removed.
    pub fn rewind(&mut self, step: Step) -> Result<(), RecordError> {
        let step = step.0 as i64;
        let removed = (|| {
            let transaction = self.db.transaction()?;
            forget_from(&transaction, step)?;
            transaction.commit()
        })();
        self.checked(removed)
    }

    /// Notes a start of the coordinator; its number.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn start(&mut self, time: f64, plan: &[u8]) -> Result<u64, RecordError> {
        let written = self.db.execute("INSERT INTO starts (time, plan) VALUES (?1, ?2)", params![time, plan]);
        self.checked(written)?;
        Ok(self.db.last_insert_rowid() as u64)
    }

    /// Every start of the coordinator, oldest first.
    ///
    /// # Errors
    /// If the journal cannot be read.
    pub fn starts(&self) -> Result<Vec<StartRow>, RecordError> {
        if !self.has_table("starts")? {
            return Ok(Vec::new());
        }
        self.rows("SELECT id, time, plan FROM starts ORDER BY id", |row| {
            Ok(StartRow { id: row.get::<_, i64>(0)? as u64, time: row.get(1)?, plan: row.get(2)? })
        })
    }

    /// What the machine of a start was told, in order; each row is handed over and dropped, since all of them may not fit memory.
    ///
    /// # Errors
    /// If the journal cannot be read, or `take` fails.
    pub fn inputs<E: From<RecordError>>(
        &self,
        start: u64,
        mut take: impl FnMut(InputsRow) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut query = self.checked(
            self.db.prepare("SELECT start, first, count, data FROM inputs WHERE start = ?1 ORDER BY first, id"),
        )?;
        let mut rows = self.checked(query.query([start as i64]))?;
        while let Some(row) = self.checked(rows.next())? {
            let read = (|| {
                Ok(InputsRow {
                    start: row.get::<_, i64>(0)? as u64,
                    first: row.get::<_, i64>(1)? as u64,
                    count: row.get::<_, i64>(2)? as u64,
                    data: row.get(3)?,
                })
            })();
            take(self.checked(read)?)?;
        }
        Ok(())
    }

    fn has_table(&self, name: &str) -> Result<bool, RecordError> {
        let found =
            self.db.query_row("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?1", [name], |_| Ok(()));
        Ok(self.checked(found.optional())?.is_some())
    }

    /// Opens the journal for writing. One that is damaged is put aside, and what can still be read of it is taken over into
    /// a new one; the sentence says so.
    ///
    /// # Errors
    /// If there is no journal that could be written.
    pub fn open_or_salvage(run: &RunDir) -> Result<(Self, Option<String>), RecordError> {
        let damage = match Self::create_or_open(run) {
            // A large journal is not read through: damage in it shows when the damaged page is read.
            Ok(journal) if std::fs::metadata(run.journal()).is_ok_and(|file| file.len() > CHECKED) => {
                return Ok((journal, None));
            }
            Ok(journal) => match journal.db.query_row("PRAGMA quick_check(1)", [], |row| row.get::<_, String>(0)) {
                Ok(verdict) if verdict == "ok" => return Ok((journal, None)),
                Ok(verdict) => verdict,
                Err(error) if is_damage(&error) => error.to_string(),
                Err(error) => return Err(RecordError::Journal { path: run.journal(), error }),
            },
            Err(RecordError::Journal { error, .. }) if is_damage(&error) => error.to_string(),
            Err(error) => return Err(error),
        };
        let path = run.journal();
        let aside = (1..).map(|n| path.with_extension(format!("damaged-{n}.db"))).find(|place| !place.exists());
        let aside = aside.unwrap_or_else(|| path.with_extension("damaged.db"));
        for (from, to) in [("", ""), ("-wal", "-wal"), ("-shm", "-shm")] {
            let name = |base: &std::path::Path, suffix: &str| PathBuf::from(format!("{}{suffix}", base.display()));
            let (from, to) = (name(&path, from), name(&aside, to));
            if from.exists() {
                std::fs::rename(&from, &to).map_err(RecordError::io("put aside", &from))?;
            }
        }
        let mut journal = Self::create_or_open(run)?;
        let kept = journal.take_over(&aside);
        let said = format!(
            "the journal {} is damaged ({damage}): it is kept as {}, and {kept} rows that could still be read went into a new one",
            path.display(),
            aside.display()
        );
        Ok((journal, Some(said)))
    }

    /// Copies every row that can be read; how many.
    fn take_over(&mut self, from: &std::path::Path) -> usize {
        let Ok(old) = Connection::open_with_flags(from, OpenFlags::SQLITE_OPEN_READ_WRITE) else { return 0 };
        let mut kept = 0;
        for table in TABLES {
            kept += copy_table(&old, &mut self.db, table).unwrap_or(0);
        }
        kept
    }

    /// All steps, in order.
    ///
    /// # Errors
    /// If the journal cannot be read.
    pub fn steps(&self) -> Result<Vec<StepRow>, RecordError> {
        self.rows(
            if self.has_table("draws")? {
                "SELECT step, real, fake, k, rate, m_global, generation, seconds, time, coalesce(drawn, 0) \
                 FROM steps LEFT JOIN draws USING (step) ORDER BY step"
            } else {
                "SELECT step, real, fake, k, rate, m_global, generation, seconds, time, 0 FROM steps ORDER BY step"
            },
            |row| {
                Ok(StepRow {
                    record: StepRecord {
                        step: Step(row.get::<_, i64>(0)? as u64),
                        real: row.get(1)?,
                        fake: row.get(2)?,
                        k: row.get(3)?,
                        rate: row.get(4)?,
                        m_global: row.get(5)?,
                    },
                    generation: row.get::<_, i64>(6)? as u64,
                    seconds: row.get(7)?,
                    time: row.get(8)?,
                    drawn: row.get::<_, i64>(9)? as u64,
                })
            },
        )
    }

    /// Steps `[from, to)` for curves, each multiple of `width` summed up.
    ///
    /// # Errors
    /// If the journal cannot be read.
    pub fn curves(&self, from: Step, to: Step, width: u64) -> Result<Vec<CurveRow>, RecordError> {
        const COLUMNS: [&str; 6] = ["real", "fake", "k", "m_global", "rate", "seconds"];
        let spans: Vec<String> = COLUMNS.iter().map(|of| format!("min({of}), total({of}), max({of})")).collect();
        let query = format!(
            "SELECT min(step), count(*), {} FROM steps WHERE step >= {} AND step < {} GROUP BY step / {} ORDER BY 1",
            spans.join(", "),
            from.0 as i64,
            to.0 as i64,
            width.max(1) as i64
        );
        self.rows(&query, |row| {
            let mut spans = [Span::of(f64::NAN); 6];
            for (which, span) in spans.iter_mut().enumerate() {
                // SQLite keeps what is no number as NULL.
                let number = |at: usize| Ok::<f64, rusqlite::Error>(row.get::<_, Option<f64>>(at)?.unwrap_or(f64::NAN));
                let at = 2 + 3 * which;
                *span = Span { min: number(at)?, sum: number(at + 1)?, max: number(at + 2)? };
            }
            Ok(CurveRow { first: row.get::<_, i64>(0)? as u64, count: row.get::<_, i64>(1)? as u64, spans })
        })
    }

    /// The window of the diagnosis that ends before `step`.
    ///
    /// # Errors
    /// If the journal cannot be read.
    pub fn window(&self, step: Step) -> Result<Option<DiagnosisRow>, RecordError> {
        Ok(self.windows(&format!("WHERE step = {}", step.0 as i64))?.pop())
    }

    /// Windows of the diagnosis, in order; none in a journal from before there were any.
    ///
    /// # Errors
    /// If the journal cannot be read.
    pub fn diagnosis(&self) -> Result<Vec<DiagnosisRow>, RecordError> {
        self.windows("")
    }

    fn windows(&self, condition: &str) -> Result<Vec<DiagnosisRow>, RecordError> {
        if !self.has_table("diagnosis")? {
            return Ok(Vec::new());
        }
        self.rows(&format!("SELECT step, lineage, window FROM diagnosis {condition} ORDER BY step"), |row| {
            Ok(DiagnosisRow {
                step: row.get::<_, i64>(0)? as u64,
                lineage: row.get::<_, i64>(1)? as u64,
                window: row.get(2)?,
            })
        })
    }

    /// Scores of the model during the run, by step, live weights first; none in a journal from before there were any. Names that
    /// this version does not know are passed over.
    ///
    /// # Errors
    /// If the journal cannot be read.
    pub fn evaluations(&self) -> Result<Vec<EvaluationRow>, RecordError> {
        if !self.has_table("evaluations")? {
            return Ok(Vec::new());
        }
        let query = "SELECT step, weights, metric, value FROM evaluations ORDER BY step, weights DESC, metric";
        let rows: Vec<(i64, String, String, f64)> =
            self.rows(query, |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)))?;
        let mut found: Vec<EvaluationRow> = Vec::new();
        for (step, weights, metric, value) in rows {
            let (Ok(weights), Ok(metric)) = (weights.parse(), metric.parse()) else { continue };
            let step = Step(step as u64);
            match found.last_mut().filter(|last| (last.step, last.weights) == (step, weights)) {
                Some(last) => drop(last.scores.insert(metric, value)),
                None => found.push(EvaluationRow { step, weights, scores: BTreeMap::from([(metric, value)]) }),
            }
        }
        Ok(found)
    }

    /// All events, oldest first.
    ///
    /// # Errors
    /// If the journal cannot be read.
    pub fn events(&self) -> Result<Vec<EventRow>, RecordError> {
        self.rows("SELECT time, kind, text, step, generation, rank, node FROM events ORDER BY id", |row| {
            Ok(EventRow {
                time: row.get(0)?,
                kind: row.get(1)?,
                text: row.get(2)?,
                step: row.get::<_, i64>(3)? as u64,
                generation: row.get::<_, i64>(4)? as u64,
                rank: row.get(5)?,
                node: row.get(6)?,
            })
        })
    }

    /// All digests without their tensors, by step and launch.
    ///
    /// # Errors
    /// If the journal cannot be read.
    pub fn digests(&self) -> Result<Vec<DigestRow>, RecordError> {
        self.rows("SELECT step, launch, digest FROM digests ORDER BY step, launch", |row| {
            Ok(DigestRow {
                step: row.get::<_, i64>(0)? as u64,
                launch: row.get(1)?,
                digest: row.get(2)?,
                tensors: Vec::new(),
            })
        })
    }

    /// The digest with the highest step, of the last launch that took one there.
    ///
    /// # Errors
    /// If the journal cannot be read.
    pub fn last_digest(&self) -> Result<Option<(Step, String)>, RecordError> {
        let last = self
            .db
            .query_row("SELECT step, digest FROM digests ORDER BY step DESC, launch DESC LIMIT 1", [], |row| {
                Ok((Step(row.get::<_, i64>(0)? as u64), row.get(1)?))
            })
            .optional();
        self.checked(last)
    }

    /// The tensors' digests at a step in a launch, by name.
    ///
    /// # Errors
    /// If the journal cannot be read.
    pub fn tensor_digests(&self, step: Step, launch: u32) -> Result<Vec<TensorDigest>, RecordError> {
        let found = (|| {
            let mut query = self
                .db
                .prepare("SELECT name, digest FROM tensor_digests WHERE step = ?1 AND launch = ?2 ORDER BY name")?;
            let rows = query.query_map(params![step.0 as i64, launch], |row| {
                Ok(TensorDigest { name: row.get(0)?, digest: row.get(1)? })
            })?;
            rows.collect()
        })();
        self.checked(found)
    }

    /// All leases.
    ///
    /// # Errors
    /// If the journal cannot be read.
    pub fn leases(&self) -> Result<Vec<LeaseRow>, RecordError> {
        self.rows(
            "SELECT generation, epoch, rank, first_step, end_step, shards FROM leases ORDER BY generation, epoch, rank",
            |row| {
                let shards: String = row.get(5)?;
                Ok(LeaseRow {
                    generation: row.get::<_, i64>(0)? as u64,
                    epoch: row.get::<_, i64>(1)? as u64,
                    rank: row.get(2)?,
                    first_step: row.get::<_, i64>(3)? as u64,
                    end_step: row.get::<_, i64>(4)? as u64,
                    shards: shards.split_whitespace().filter_map(|shard| shard.parse().ok()).collect(),
                })
            },
        )
    }

    fn rows<T>(
        &self,
        query: &str,
        row: impl FnMut(&rusqlite::Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Vec<T>, RecordError> {
        let found = (|| self.db.prepare(query)?.query_map([], row)?.collect())();
        self.checked(found)
    }
}

/// Of the state at `step` itself digest and scores stay: it is where the steps begin again.
fn forget_from(transaction: &rusqlite::Transaction<'_>, step: i64) -> rusqlite::Result<usize> {
    transaction.execute("DELETE FROM draws WHERE step >= ?1", [step])?;
    transaction.execute("DELETE FROM diagnosis WHERE step > ?1", [step])?;
    transaction.execute("DELETE FROM evaluations WHERE step > ?1", [step])?;
    transaction.execute("DELETE FROM digests WHERE step > ?1", [step])?;
    transaction.execute("DELETE FROM tensor_digests WHERE step > ?1", [step])?;
    transaction.execute("DELETE FROM steps WHERE step >= ?1", [step])
}

fn is_damage(error: &rusqlite::Error) -> bool {
    use rusqlite::ErrorCode::{DatabaseCorrupt, NotADatabase};
    matches!(error.sqlite_error_code(), Some(DatabaseCorrupt | NotADatabase))
}

/// Copies the rows of a table until one cannot be read; how many.
fn copy_table(old: &Connection, new: &mut Connection, table: &str) -> rusqlite::Result<usize> {
    let mut query = old.prepare(&format!("SELECT * FROM {table}"))?;
    let columns = query.column_count();
    let places: Vec<String> = (1..=columns).map(|n| format!("?{n}")).collect();
    let insert = format!("INSERT OR REPLACE INTO {table} VALUES ({})", places.join(", "));
    let transaction = new.transaction()?;
    let mut copied = 0;
    {
        let mut rows = query.query([])?;
        while let Ok(Some(row)) = rows.next() {
            let values: rusqlite::Result<Vec<rusqlite::types::Value>> = (0..columns).map(|n| row.get(n)).collect();
            let Ok(values) = values else { break };
            copied += transaction.execute(&insert, rusqlite::params_from_iter(values))?;
        }
    }
    transaction.commit()?;
    Ok(copied)
}

fn write_all(db: &mut Connection, entries: &[Entry]) -> rusqlite::Result<()> {
    let transaction = db.transaction()?;
    for entry in entries {
        match entry {
            Entry::Step(StepRow { record, generation, seconds, time, drawn }) => {
                transaction
                    .prepare_cached("INSERT OR REPLACE INTO draws VALUES (?1, ?2)")?
                    .execute(params![record.step.0 as i64, *drawn as i64])?;
                transaction
                .prepare_cached("INSERT OR REPLACE INTO steps VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)")?
                .execute(params![
                    record.step.0 as i64,
                    *generation as i64,
                    record.real,
                    record.fake,
                    record.k,
                    record.rate,
                    record.m_global,
                    seconds,
                    time
                ])?
            }
            Entry::Rewind(step) => forget_from(&transaction, step.0 as i64)?,
            Entry::Diagnosis(row) => transaction
                .prepare_cached("INSERT OR REPLACE INTO diagnosis VALUES (?1, ?2, ?3)")?
                .execute(params![row.step as i64, row.lineage as i64, row.window])?,
            Entry::Evaluation(row) => {
                let mut insert =
                    transaction.prepare_cached("INSERT OR REPLACE INTO evaluations VALUES (?1, ?2, ?3, ?4)")?;
                for (metric, value) in &row.scores {
                    let (step, weights, metric) = (row.step.0 as i64, row.weights.to_string(), metric.to_string());
                    insert.execute(params![step, weights, metric, value])?;
                }
                row.scores.len()
            }
            Entry::Inputs(row) => transaction
                .prepare_cached("INSERT INTO inputs (start, first, count, data) VALUES (?1, ?2, ?3, ?4)")?
                .execute(params![row.start as i64, row.first as i64, row.count as i64, row.data])?,
            Entry::Event(event) => transaction
                .prepare_cached(
                    "INSERT INTO events (time, kind, text, step, generation, rank, node) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
                )?
                .execute(params![
                    event.time,
                    event.kind,
                    event.text,
                    event.step as i64,
                    event.generation as i64,
                    event.rank,
                    event.node
                ])?,
            Entry::Digest(row) => {
                for tensor in &row.tensors {
                    transaction
                        .prepare_cached("INSERT OR REPLACE INTO tensor_digests VALUES (?1, ?2, ?3, ?4)")?
                        .execute(params![row.step as i64, row.launch, tensor.name, tensor.digest])?;
                }
                transaction
                    .prepare_cached("INSERT OR REPLACE INTO digests VALUES (?1, ?2, ?3)")?
                    .execute(params![row.step as i64, row.launch, row.digest])?
            }
            Entry::Lease(lease) => {
                let shards: Vec<String> = lease.shards.iter().map(u32::to_string).collect();
                transaction
                    .prepare_cached("INSERT OR REPLACE INTO leases VALUES (?1, ?2, ?3, ?4, ?5, ?6)")?
                    .execute(params![
                        lease.generation as i64,
                        lease.epoch as i64,
                        lease.rank,
                        lease.first_step as i64,
                        lease.end_step as i64,
                        shards.join(" ")
                    ])?
            }
        };
    }
    transaction.commit()
}

#[cfg(test)]
mod tests {
    use super::*;
    use began::RunConfig;

    #[test]
    fn what_is_written_reads_back_to_the_bit() -> Result<(), Box<dyn std::error::Error>> {
        let folder = tempfile::tempdir()?;
        let manifest = crate::RunManifest::new(&RunConfig::default(), String::new());
        let run = RunDir::create(&folder.path().join("run"), &RunConfig::default(), &manifest)?;
        assert!(Journal::read(&run).unwrap_err().to_string().contains("run.db"));
        let record =
            StepRecord { step: Step(3), real: 0.1 + 0.2, fake: 1.0 / 3.0, k: 1e-300, rate: 1e-4, m_global: 0.5 };
        let step = StepRow { record, generation: 1, seconds: 0.25, time: 1.0, drawn: u64::MAX - 5 };
        let digest = |step, launch, digest: &str| DigestRow {
            step,
            launch,
            digest: digest.into(),
            tensors: vec![TensorDigest { name: "generator.cube.weight".into(), digest: "t".into() }],
        };
        let lease = LeaseRow { generation: 1, epoch: 0, rank: 2, first_step: 0, end_step: 9, shards: vec![1, 5] };
        let mut journal = Journal::create_or_open(&run)?;
        journal.write(&[
            Entry::Step(step),
            Entry::Digest(digest(4, 0, "a")),
            Entry::Digest(digest(4, 1, "b")),
            Entry::Digest(digest(9, 1, "c")),
            Entry::Lease(lease.clone()),
        ])?;
        let read = Journal::read(&run)?;
        assert_eq!(read.steps()?, [step]);
        assert_eq!(read.leases()?, [lease]);
        assert_eq!(read.last_digest()?, Some((Step(9), "c".into())));
        assert_eq!(read.tensor_digests(Step(4), 1)?.len(), 1);
        journal.rewind(Step(4))?;
        assert_eq!(read.last_digest()?, Some((Step(4), "b".into())));
        assert_eq!(read.digests()?.len(), 2);
        Ok(())
    }

    fn step(step: u64, generation: u64) -> Entry {
        let record = StepRecord { step: Step(step), real: 1.0, fake: 0.5, k: 0.0, rate: 1e-4, m_global: 1.0 };
        Entry::Step(StepRow { record, generation, seconds: 0.0, time: 0.0, drawn: step })
    }

    fn digest(step: u64, digest: &str) -> Entry {
        let tensors = vec![TensorDigest { name: "k".into(), digest: digest.into() }];
        Entry::Digest(DigestRow { step, launch: 0, digest: digest.into(), tensors })
    }

    #[test]
    fn steps_after_a_rewind_take_the_place_of_those_before_it_and_the_state_it_goes_back_to_keeps_its_digest()
    -> Result<(), Box<dyn std::error::Error>> {
        let folder = tempfile::tempdir()?;
        let manifest = crate::RunManifest::new(&RunConfig::default(), String::new());
        let run = RunDir::create(&folder.path().join("run"), &RunConfig::default(), &manifest)?;
        let mut journal = Journal::create_or_open(&run)?;
        let mut entries: Vec<Entry> = (0..8).map(|at| step(at, 1)).collect();
        entries.extend([digest(4, "sound"), digest(6, "unsound"), digest(8, "unsound")]);
        // In one transaction, as a coordinator that decides fast hands it over: the order of the entries is what counts.
        entries.extend([Entry::Rewind(Step(4)), step(4, 2), step(5, 2), digest(6, "sound")]);
        journal.write(&entries)?;
        let generations: Vec<(u64, u64)> =
            journal.steps()?.iter().map(|row| (row.record.step.0, row.generation)).collect();
        assert_eq!(generations, [(0, 1), (1, 1), (2, 1), (3, 1), (4, 2), (5, 2)]);
        assert!(journal.steps()?.iter().all(|row| row.drawn == row.record.step.0), "what was drawn goes along");
        let digests: Vec<(u64, String)> = journal.digests()?.into_iter().map(|row| (row.step, row.digest)).collect();
        assert_eq!(digests, [(4, "sound".to_owned()), (6, "sound".to_owned())]);
        assert_eq!(journal.tensor_digests(Step(8), 0)?, []);
        // One beyond the end forgets nothing, one to the beginning everything but the first state's digest.
        journal.write(&[Entry::Rewind(Step(99))])?;
        assert_eq!(journal.steps()?.len(), 6);
        journal.write(&[digest(0, "origin"), Entry::Rewind(Step(0))])?;
        assert_eq!((journal.steps()?.len(), journal.last_digest()?), (0, Some((Step(0), "origin".into()))));
        Ok(())
    }

    #[test]
    fn scores_read_back_to_the_bit_by_step_and_weights_and_a_rewind_forgets_those_that_are_computed_again()
    -> Result<(), Box<dyn std::error::Error>> {
        let folder = tempfile::tempdir()?;
        let manifest = crate::RunManifest::new(&RunConfig::default(), String::new());
        let run = RunDir::create(&folder.path().join("run"), &RunConfig::default(), &manifest)?;
        let row = |step, weights, value: f64| {
            let scores = [(Metric::MsSsim, 0.1 + 0.2), (Metric::SlicedWassersteinAt(16), value)];
            EvaluationRow { step: Step(step), weights, scores: BTreeMap::from(scores) }
        };
        let mut journal = Journal::create_or_open(&run)?;
        let rows = [row(4, Weights::Live, 1.0), row(4, Weights::Average, 2.0), row(8, Weights::Live, 3.0)];
        // In any order, and said twice.
        for row in rows.iter().rev().chain(&rows) {
            journal.write(&[Entry::Evaluation(row.clone())])?;
        }
        journal.db.execute("INSERT INTO evaluations VALUES (4, 'live', 'from a later version', 1.0)", [])?;
        assert_eq!(journal.evaluations()?, rows);
        journal.write(&[Entry::Rewind(Step(4))])?;
        assert_eq!(journal.evaluations()?, rows[..2]);
        journal.db.execute("DROP TABLE evaluations", [])?;
        assert_eq!(Journal::read(&run)?.evaluations()?, []);
        Ok(())
    }

    #[test]
    fn inputs_and_starts_are_kept_in_order_and_outlive_a_rewind() -> Result<(), Box<dyn std::error::Error>> {
        let folder = tempfile::tempdir()?;
        let manifest = crate::RunManifest::new(&RunConfig::default(), String::new());
        let run = RunDir::create(&folder.path().join("run"), &RunConfig::default(), &manifest)?;
        let mut journal = Journal::create_or_open(&run)?;
        let (first, second) = (journal.start(1.0, b"one")?, journal.start(2.0, b"two")?);
        let row = |start, first, data: &[u8]| InputsRow { start, first, count: 1, data: data.into() };
        let later = Entry::Inputs(row(first, 1, b"later"));
        journal.write(&[Entry::Inputs(row(second, 0, b"other")), later, Entry::Inputs(row(first, 0, b"earlier"))])?;
        journal.write(&[Entry::Rewind(Step(0))])?;
        let mut found = Vec::new();
        journal.inputs(first, |row| {
            found.push(row);
            Ok::<(), RecordError>(())
        })?;
        assert_eq!(found, [row(first, 0, b"earlier"), row(first, 1, b"later")]);
        let plans: Vec<Vec<u8>> = journal.starts()?.into_iter().map(|start| start.plan).collect();
        assert_eq!(plans, [b"one".to_vec(), b"two".to_vec()]);
        Ok(())
    }

    #[test]
    fn a_damaged_journal_is_put_aside_and_what_can_be_read_is_kept() -> Result<(), Box<dyn std::error::Error>> {
        let folder = tempfile::tempdir()?;
        let manifest = crate::RunManifest::new(&RunConfig::default(), String::new());
        let run = RunDir::create(&folder.path().join("run"), &RunConfig::default(), &manifest)?;
        let row = |step| {
            let record = StepRecord { step: Step(step), real: 1.0, fake: 0.5, k: 0.0, rate: 1e-4, m_global: 1.0 };
            Entry::Step(StepRow { record, generation: 1, seconds: 0.0, time: 0.0, drawn: step })
        };
        let mut journal = Journal::create_or_open(&run)?;
        journal.write(&(0..5_000).map(row).collect::<Vec<_>>())?;
        drop(journal);
        assert!(Journal::open_or_salvage(&run)?.1.is_none());
        // Cut in the middle of a write.
        let whole = std::fs::metadata(run.journal())?.len();
        std::fs::OpenOptions::new().write(true).open(run.journal())?.set_len(whole / 2)?;
        let (journal, said) = Journal::open_or_salvage(&run)?;
        let said = said.ok_or("nothing was said")?;
        assert!(said.contains("damaged") && said.contains("run.damaged-1.db"), "{said}");
        let kept = journal.steps()?;
        assert!(kept.len() < 5_000 && kept.iter().zip(0..).all(|(row, step)| row.record.step == Step(step)));
        drop(journal);
        std::fs::write(run.journal(), [b'x'; 8192])?;
        assert!(Journal::open_or_salvage(&run)?.1.is_some_and(|said| said.contains("damaged-2")));
        Ok(())
    }
}

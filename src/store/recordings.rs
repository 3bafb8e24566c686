//! Recordings: one row for each call that was recorded. The rows are also the list of jobs: what is to be mixed,
//! and what is to be removed from the disk. A job that a crash cut off is still due at the next start.
//!
//! `pending → ready | failed → deleted → removed`. A deletion is written before the first file goes, so what is
//! half removed is removed again, and never shown.

use std::collections::HashSet;
use std::time::Duration;

use jiff::Timestamp;
use uuid::Uuid;

use super::conditions::Conditions;
use super::hours::{List, Page, Shape};
use super::outbox::{RecordingReport, report_recording};
use super::row::{Columns, micros};
use super::sql::{Connection, Row, query};
use super::writer::Write;
use super::{Store, StoreError, TimeRange};
use crate::callbacks::event::RecordingFacts;
use crate::clock;
use crate::masking::session::RecordFormat;
use crate::number::{Did, E164};

/// Recordings that one step of the retention marks.
const EXPIRY_STEP: i64 = 100;

/// What is known of a recording and its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecordingState {
    /// Still to be mixed.
    Pending,
    /// Its file can be fetched.
    Ready,
    /// It could not be mixed. What there is of the legs' files stays.
    Failed,
    /// Nobody sees it any more; its files are being removed.
    Deleted,
    /// Its files are gone.
    Removed,
}

impl RecordingState {
    fn name(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Ready => "ready",
            Self::Failed => "failed",
            Self::Deleted => "deleted",
            Self::Removed => "removed",
        }
    }

    fn parse(name: &str) -> Option<Self> {
        [Self::Pending, Self::Ready, Self::Failed, Self::Deleted, Self::Removed]
            .into_iter()
            .find(|state| state.name() == name)
    }
}

/// A recording whose two files are closed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewRecording {
    /// The call; it names the recording too.
    pub interaction: Uuid,
    /// Whose it is.
    pub account: Option<String>,
    /// The session that wanted it.
    pub session: Option<Uuid>,
    /// The caller's leg.
    pub call: Option<Uuid>,
    /// The recordings directory's id.
    pub place: String,
    /// Relative to that directory.
    pub directory: String,
    /// What is to be delivered.
    pub format: RecordFormat,
    /// When it was closed; its age counts from here.
    pub added_at: Timestamp,
    /// Sample 0.
    pub started_at: Option<Timestamp>,
    /// Length of each file.
    pub samples: u64,
    /// Samples per second.
    pub sample_rate_hz: u32,
    /// False when something of it was lost.
    pub complete: bool,
}

/// A recording as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recording {
    /// What it began with. `format`, `samples` and `complete` are those of the delivered file once there is one.
    pub new: NewRecording,
    /// The session's sub-account.
    pub subaccount: Option<String>,
    /// What has become of it.
    pub state: RecordingState,
    /// Jobs that failed so far.
    pub attempts: u32,
    /// Length of the delivered file.
    pub bytes: Option<u64>,
    /// SHA-256 of the delivered file, in lower-case hex.
    pub sha256: Option<String>,
    /// Who called.
    pub caller: Option<E164>,
    /// What was dialled.
    pub virtual_number: Option<Did>,
}

impl Recording {
    /// Milliseconds of sound.
    #[must_use]
    pub fn duration_ms(&self) -> u64 {
        self.new.samples.saturating_mul(1000) / u64::from(self.new.sample_rate_hz.max(1))
    }
}

/// The end of a recording's way: its file can be fetched, or never will be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordingDone {
    /// Which one.
    pub interaction: Uuid,
    /// What was made; `None`: it is given up.
    pub delivered: Option<Delivered>,
    /// When.
    pub at: Timestamp,
    /// What stands before the paths in the URLs of its event.
    pub base: String,
}

/// A file that can be fetched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivered {
    /// Of the file; another than the session's when this build cannot make that one.
    pub format: RecordFormat,
    /// Length of the sound.
    pub samples: u64,
    /// False when something of it was lost.
    pub complete: bool,
    /// Length of the file.
    pub bytes: u64,
    /// In lower-case hex.
    pub sha256: String,
}

/// Which recordings are listed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RecordingFilter {
    /// Those of this sub-account only.
    pub subaccount: Option<String>,
    /// Those of this session.
    pub session: Option<Uuid>,
    /// The one of this leg's call.
    pub call: Option<Uuid>,
    /// By the caller.
    pub from_number: Option<String>,
    /// By what was dialled.
    pub to_number: Option<String>,
    /// When they were added.
    pub added: TimeRange,
}

/// What the rows of a call know, for a recording that nobody has filed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordedCall {
    /// Whose call it was.
    pub account: Option<String>,
    /// Its session.
    pub session: Option<Uuid>,
    /// What the session wants delivered.
    pub format: Option<RecordFormat>,
    /// The A-leg.
    pub a: Option<Uuid>,
    /// The B-leg that was answered.
    pub b: Option<Uuid>,
    /// When both were answered.
    pub bridged_at: Option<Timestamp>,
}

macro_rules! recording_columns {
    () => {
        "SELECT r.uuid, r.account, r.session, r.subaccount, r.call_uuid, r.place, r.directory, r.format, \
         r.added_at, r.started_at, r.samples, r.sample_rate, r.complete, r.state, r.attempts, r.bytes, \
         r.sha256, l.party, l.virtual_number \
         FROM recordings r LEFT JOIN legs l ON l.uuid = r.call_uuid"
    };
}

/// Numbers are those of the caller's leg.
const SHAPE: Shape = Shape {
    rows: recording_columns!(),
    table: "recordings r",
    uuid: "r.uuid",
    time: "r.added_at",
    order: "r.added_at DESC, r.uuid",
};

impl Store {
    /// Adds a recording that is to be mixed at once. One that is known already stays as it is.
    ///
    /// # Errors
    /// [`StoreError`] when the database fails.
    pub async fn add_recording(&self, recording: NewRecording) -> Result<(), StoreError> {
        self.write(Add(recording)).await
    }

    /// Ends the way of a pending recording. Returns it as it is stored now; `None` when it was not pending.
    ///
    /// # Errors
    /// [`StoreError`] when the database fails.
    pub async fn recording_done(&self, done: RecordingDone) -> Result<Option<Recording>, StoreError> {
        self.write(done).await
    }

    /// A job failed: it is due again at `due_at`.
    ///
    /// # Errors
    /// [`StoreError`] when the database fails.
    pub async fn postpone_recording(
        &self,
        recording: Uuid,
        attempts: u32,
        due_at: Timestamp,
    ) -> Result<(), StoreError> {
        self.write(Postpone { recording, attempts, due_at }).await
    }

    /// What must be done about recordings of this place, the longest due first.
    ///
    /// # Errors
    /// [`StoreError`] when the database fails.
    pub async fn due_recordings(
        &self,
        place: &str,
        now: Timestamp,
        limit: u32,
    ) -> Result<Vec<Recording>, StoreError> {
        const DUE: &str = concat!(
            recording_columns!(),
            " WHERE r.place = $1 AND r.due_at <= $2 ORDER BY r.due_at, r.uuid LIMIT $3"
        );
        let rows =
            query(DUE).bind(place).bind(micros(now)).bind(i64::from(limit)).fetch_all(self.readers()).await?;
        rows.iter().map(recording).collect()
    }

    /// The account's recording (of the sub-account, when one is given), whatever has become of it.
    ///
    /// # Errors
    /// [`StoreError`] when the database fails.
    pub async fn find_recording(
        &self,
        account: &str,
        subaccount: Option<&str>,
        uuid: Uuid,
    ) -> Result<Option<Recording>, StoreError> {
        const FIND: &str = concat!(
            recording_columns!(),
            " WHERE r.uuid = $1 AND r.account = $2 AND ($3 IS NULL OR r.subaccount = $3)"
        );
        let row =
            query(FIND).bind(uuid).bind(account).bind(subaccount).fetch_optional(self.readers()).await?;
        row.as_ref().map(recording).transpose()
    }

    /// The account's recordings that can be fetched, newest first, and how many there are.
    ///
    /// # Errors
    /// [`StoreError`] when the database fails.
    pub async fn list_recordings(
        &self,
        account: &str,
        filter: &RecordingFilter,
        limit: u32,
        offset: u64,
    ) -> Result<(Vec<Recording>, u64), StoreError> {
        self.list_recordings_at(account, filter, limit, offset, clock::wall_now()).await
    }

    pub(super) async fn list_recordings_at(
        &self,
        account: &str,
        filter: &RecordingFilter,
        limit: u32,
        offset: u64,
        now: Timestamp,
    ) -> Result<(Vec<Recording>, u64), StoreError> {
        let page = Page { limit: limit.into(), offset };
        let (rows, total) = if filter.session.is_some() || filter.call.is_some() {
            self.short_list(SHAPE, recordings_of_call(account, filter), page).await?
        } else {
            self.long_list(&recordings_of_account(account, filter), page, micros(now)).await?
        };
        Ok((rows.iter().map(recording).collect::<Result<_, _>>()?, total))
    }

    /// Marks a recording as deleted, so that its files are removed. False when there is none to delete.
    ///
    /// # Errors
    /// [`StoreError`] when the database fails.
    pub async fn delete_recording(
        &self,
        account: &str,
        subaccount: Option<&str>,
        uuid: Uuid,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let (account, subaccount) = (account.to_owned(), subaccount.map(str::to_owned));
        let deleted = self.write(Delete { account, subaccount, uuid, now }).await?;
        self.inner.hours.forget(SHAPE.table);
        Ok(deleted)
    }

    /// Marks recordings of this place that were added before `before` as deleted; a bounded number, which is
    /// returned: as long as it is not 0 there may be more.
    ///
    /// # Errors
    /// [`StoreError`] when the database fails.
    pub async fn expire_recordings(
        &self,
        place: &str,
        before: Timestamp,
        now: Timestamp,
    ) -> Result<u64, StoreError> {
        let expired = self.write(Expire { place: place.to_owned(), before, now }).await?;
        if expired > 0 {
            self.inner.hours.forget(SHAPE.table);
        }
        Ok(expired)
    }

    /// The files of a deleted recording are gone.
    ///
    /// # Errors
    /// [`StoreError`] when the database fails.
    pub async fn recording_removed(&self, uuid: Uuid) -> Result<(), StoreError> {
        self.write(Removed(uuid)).await
    }

    /// The recordings of a day (`YYYY/MM/DD`) that have a row, whatever has become of them.
    ///
    /// # Errors
    /// [`StoreError`] when the database fails.
    pub async fn recordings_of_day(&self, place: &str, day: &str) -> Result<HashSet<Uuid>, StoreError> {
        let rows = query("SELECT uuid FROM recordings WHERE place = $1 AND SUBSTR(directory, 1, 10) = $2")
            .bind(place)
            .bind(day)
            .fetch_all(self.lists())
            .await?;
        rows.iter().map(|row| row.uuid("uuid")).collect()
    }

    /// What is known of a call that was recorded.
    ///
    /// # Errors
    /// [`StoreError`] when the database fails.
    pub async fn recorded_call(&self, interaction: Uuid) -> Result<Option<RecordedCall>, StoreError> {
        let rows = query(
            "SELECT l.uuid, l.side, l.answered_at, COALESCE(i.account, l.account) AS account, \
             COALESCE(i.session, l.session) AS session, s.record_file_format \
             FROM interactions i JOIN legs l ON l.interaction = i.uuid \
             LEFT JOIN sessions s ON s.uuid = COALESCE(i.session, l.session) \
             WHERE i.uuid = $1 ORDER BY l.attempt, l.started_at, l.uuid",
        )
        .bind(interaction)
        .fetch_all(self.readers())
        .await?;
        let (mut call, mut answers) = (None, [None, None]);
        for row in &rows {
            let known = call.get_or_insert(RecordedCall {
                account: None,
                session: None,
                format: None,
                a: None,
                b: None,
                bridged_at: None,
            });
            known.account = row.text_opt("account")?.or(known.account.take());
            known.session = row.uuid_opt("session")?.or(known.session);
            known.format =
                row.text_opt("record_file_format")?.as_deref().and_then(RecordFormat::parse).or(known.format);
            let (leg, answered) = (row.uuid("uuid")?, row.time_opt("answered_at")?);
            let [a, b] = &mut answers;
            if row.text("side")? == "A" {
                (known.a, *a) = (Some(leg), answered);
            } else if answered.is_some() || known.b.is_none() {
                // Of several attempts the one that was answered.
                (known.b, *b) = (Some(leg), answered);
            }
        }
        if let (Some(call), [Some(a), Some(b)]) = (&mut call, answers) {
            call.bridged_at = Some(a.max(b));
        }
        Ok(call)
    }

    /// Notes where a recordings directory is, so that every process of this database finds its files.
    ///
    /// # Errors
    /// [`StoreError`] when the database fails.
    pub async fn keep_place(&self, id: &str, root: &str) -> Result<(), StoreError> {
        self.write(KeepPlace { id: id.to_owned(), root: root.to_owned() }).await
    }

    /// Where a recordings directory was at the last start of its process.
    ///
    /// # Errors
    /// [`StoreError`] when the database fails.
    pub async fn place(&self, id: &str) -> Result<Option<String>, StoreError> {
        let row = query("SELECT root FROM recording_places WHERE id = $1")
            .bind(id)
            .fetch_optional(self.readers())
            .await?;
        row.map(|row| row.text("root")).transpose()
    }
}

/// Recordings of one session or call: a handful, whatever else is asked.
pub(super) fn recordings_of_call<'q>(account: &'q str, filter: &'q RecordingFilter) -> Conditions<'q> {
    let mut all = Conditions::default();
    all.and("r.account || '' = ?", Some(account));
    all.also("r.state = 'ready'");
    all.and("r.session = ?", filter.session);
    all.and("r.uuid IN (SELECT c.interaction FROM legs c WHERE c.uuid = ?)", filter.call);
    all.within("+r.added_at", filter.added.into());
    fit(all, filter)
}

/// All others, in the order of their time.
pub(super) fn recordings_of_account<'q>(account: &'q str, filter: &'q RecordingFilter) -> List<'q> {
    let mut whole = Conditions::default();
    whole.and("r.account = ?", Some(account));
    whole.also("r.state = 'ready'");
    List { shape: SHAPE, fit: fit(whole.clone(), filter), whole, within: filter.added.into() }
}

fn fit<'q>(mut all: Conditions<'q>, filter: &'q RecordingFilter) -> Conditions<'q> {
    all.and("r.subaccount = ?", filter.subaccount.as_deref());
    all.and(
        "EXISTS (SELECT 1 FROM legs c WHERE c.uuid = r.call_uuid AND c.party = ?)",
        filter.from_number.as_deref(),
    );
    all.and(
        "EXISTS (SELECT 1 FROM legs c WHERE c.uuid = r.call_uuid AND c.virtual_number = ?)",
        filter.to_number.as_deref(),
    );
    all
}

fn recording(row: &Row) -> Result<Recording, StoreError> {
    let new = NewRecording {
        interaction: row.uuid("uuid")?,
        account: row.text_opt("account")?,
        session: row.uuid_opt("session")?,
        call: row.uuid_opt("call_uuid")?,
        place: row.text("place")?,
        directory: row.text("directory")?,
        format: RecordFormat::parse(&row.text("format")?).ok_or(StoreError::Corrupt("format"))?,
        added_at: row.time("added_at")?,
        started_at: row.time_opt("started_at")?,
        samples: row.unsigned("samples")?,
        sample_rate_hz: row.unsigned("sample_rate")?,
        complete: row.flag("complete")?,
    };
    Ok(Recording {
        new,
        subaccount: row.text_opt("subaccount")?,
        state: RecordingState::parse(&row.text("state")?).ok_or(StoreError::Corrupt("state"))?,
        attempts: row.unsigned("attempts")?,
        bytes: row.unsigned_opt("bytes")?,
        sha256: row.text_opt("sha256")?,
        caller: row.party("party")?,
        virtual_number: row.did_opt("virtual_number")?,
    })
}

struct Add(NewRecording);

impl Write for Add {
    type Done = ();
    const MAY_WAIT: bool = true;

    async fn apply(&mut self, connection: &mut Connection) -> Result<(), StoreError> {
        let new = &self.0;
        query(
            "INSERT INTO recordings (uuid, account, session, call_uuid, place, directory, format, added_at,
                 started_at, samples, sample_rate, complete, state, attempts, due_at, subaccount)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, 'pending', 0, $8,
                 (SELECT s.subaccount FROM sessions s WHERE s.uuid = $3))
             ON CONFLICT (uuid) DO NOTHING",
        )
        .bind(new.interaction)
        .bind(&new.account)
        .bind(new.session)
        .bind(new.call)
        .bind(&new.place)
        .bind(&new.directory)
        .bind(new.format.as_str())
        .bind(micros(new.added_at))
        .bind(new.started_at.map(micros))
        .bind(count(new.samples))
        .bind(i64::from(new.sample_rate_hz))
        .bind(i64::from(new.complete))
        .execute(connection)
        .await?;
        Ok(())
    }
}

impl Write for RecordingDone {
    type Done = Option<Recording>;

    /// Finds a recording pending once, so its event is written once, in the same transaction.
    async fn apply(&mut self, connection: &mut Connection) -> Result<Self::Done, StoreError> {
        const READ: &str = concat!(recording_columns!(), " WHERE r.uuid = $1");
        let delivered = self.delivered.as_ref();
        let state = if delivered.is_some() { RecordingState::Ready } else { RecordingState::Failed };
        let changed = query(
            "UPDATE recordings SET state = $2, due_at = NULL, format = COALESCE($3, format),
                 samples = COALESCE($4, samples), complete = COALESCE($5, complete), bytes = $6, sha256 = $7
             WHERE uuid = $1 AND state = 'pending'",
        )
        .bind(self.interaction)
        .bind(state.name())
        .bind(delivered.map(|file| file.format.as_str()))
        .bind(delivered.map(|file| count(file.samples)))
        .bind(delivered.map(|file| i64::from(file.complete)))
        .bind(delivered.map(|file| count(file.bytes)))
        .bind(delivered.map(|file| file.sha256.as_str()))
        .execute(&mut *connection)
        .await?;
        if changed == 0 {
            return Ok(None);
        }
        let row = query(READ).bind(self.interaction).fetch_one(&mut *connection).await?;
        let stored = recording(&row)?;
        let facts = delivered.map(|_| facts(&stored, &self.base));
        let report = RecordingReport { interaction: self.interaction, at: self.at, facts };
        report_recording(connection, &report).await?;
        Ok(Some(stored))
    }
}

fn facts(stored: &Recording, base: &str) -> RecordingFacts {
    let new = &stored.new;
    let account = new.account.as_deref().unwrap_or_default();
    let resource = format!("{base}/v1/Account/{account}/Recording/{}", new.interaction);
    RecordingFacts {
        interaction: new.interaction,
        url: format!("{resource}.{}", new.format.as_str()),
        resource_url: format!("{resource}/"),
        duration: Duration::from_millis(stored.duration_ms()),
        started_at: new.started_at.unwrap_or(new.added_at),
        format: new.format,
    }
}

struct Postpone {
    recording: Uuid,
    attempts: u32,
    due_at: Timestamp,
}

impl Write for Postpone {
    type Done = ();
    const MAY_WAIT: bool = true;

    async fn apply(&mut self, connection: &mut Connection) -> Result<(), StoreError> {
        query("UPDATE recordings SET attempts = $2, due_at = $3 WHERE uuid = $1 AND due_at IS NOT NULL")
            .bind(self.recording)
            .bind(i64::from(self.attempts))
            .bind(micros(self.due_at))
            .execute(connection)
            .await?;
        Ok(())
    }
}

struct Delete {
    account: String,
    subaccount: Option<String>,
    uuid: Uuid,
    now: Timestamp,
}

impl Write for Delete {
    type Done = bool;

    async fn apply(&mut self, connection: &mut Connection) -> Result<bool, StoreError> {
        let changed = query(
            "UPDATE recordings SET state = 'deleted', attempts = 0, due_at = $4
             WHERE uuid = $1 AND account = $2 AND ($3 IS NULL OR subaccount = $3)
                 AND state IN ('ready', 'failed')",
        )
        .bind(self.uuid)
        .bind(&self.account)
        .bind(&self.subaccount)
        .bind(micros(self.now))
        .execute(connection)
        .await?;
        Ok(changed > 0)
    }
}

struct Expire {
    place: String,
    before: Timestamp,
    now: Timestamp,
}

impl Write for Expire {
    type Done = u64;
    const MAY_WAIT: bool = true;

    async fn apply(&mut self, connection: &mut Connection) -> Result<u64, StoreError> {
        query(
            "UPDATE recordings SET state = 'deleted', attempts = 0, due_at = $3
             WHERE uuid IN (SELECT r.uuid FROM recordings r WHERE r.place = $1
                 AND r.state IN ('pending', 'ready', 'failed') AND r.added_at < $2 LIMIT $4)",
        )
        .bind(&self.place)
        .bind(micros(self.before))
        .bind(micros(self.now))
        .bind(EXPIRY_STEP)
        .execute(connection)
        .await
    }
}

struct Removed(Uuid);

impl Write for Removed {
    type Done = ();
    const MAY_WAIT: bool = true;

    async fn apply(&mut self, connection: &mut Connection) -> Result<(), StoreError> {
        query("UPDATE recordings SET state = 'removed', due_at = NULL WHERE uuid = $1 AND state = 'deleted'")
            .bind(self.0)
            .execute(connection)
            .await?;
        Ok(())
    }
}

struct KeepPlace {
    id: String,
    root: String,
}

impl Write for KeepPlace {
    type Done = ();

    async fn apply(&mut self, connection: &mut Connection) -> Result<(), StoreError> {
        query(
            "INSERT INTO recording_places (id, root) VALUES ($1, $2)
             ON CONFLICT (id) DO UPDATE SET root = excluded.root",
        )
        .bind(&self.id)
        .bind(&self.root)
        .execute(connection)
        .await?;
        Ok(())
    }
}

fn count(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

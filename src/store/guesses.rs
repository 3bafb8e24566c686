//! Wrong PINs, counted over calls, restarts and processes.
//!
//! What the counts mean is decided in [`crate::masking::guessing`]; here they are read and written in one
//! transaction, so that entries that come at once do not slip through together. A lock-out is told to the application
//! in that transaction, too: by an event that names neither a party nor a PIN.
//!
//! A caller's number lies here as a mark of the store's key only: it is counted, and nobody reads it back.

use jiff::Timestamp;
use sha2::{Digest, Sha256};

use super::outbox;
use super::row::{Columns, duration_micros, micros, stored};
use super::sql::{Connection, query};
use super::writer::Write;
use super::{Store, StoreError};
use crate::callbacks::event::{CallEvent, Happening, Subject};
use crate::masking::guessing::{Bucket, LockOut, Tally, WINDOW, count_in_all};
use crate::number::Did;

/// What other processes lock before they count: PINs are typed seldom enough.
const LOCK: &str = "guesses";

/// Whether an entry may be judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It may. It is counted as wrong until [`Store::forgive_guess`].
    Judge,
    /// One of its buckets is full or pauses; it is not counted.
    Locked,
}

impl Store {
    /// Counts an entry in all of `buckets` and says whether it may be judged. The first one that may not is told to
    /// the application.
    ///
    /// # Errors
    /// [`StoreError`] when the database fails; then nobody may judge it.
    pub async fn count_guess(&self, buckets: Vec<Bucket>, now: Timestamp) -> Result<Verdict, StoreError> {
        self.write(Count { rows: self.rows_of(buckets), now: stored(now) }).await
    }

    /// The entry that was counted last in `buckets` was right.
    ///
    /// # Errors
    /// [`StoreError`] when the database fails.
    pub async fn forgive_guess(&self, buckets: Vec<Bucket>) -> Result<(), StoreError> {
        self.write(Forgive { rows: self.rows_of(buckets) }).await
    }

    /// Forgets what no longer counts. Returns how many buckets that were.
    ///
    /// # Errors
    /// [`StoreError`] when the database fails.
    pub async fn forget_guesses(&self, now: Timestamp) -> Result<u64, StoreError> {
        self.write(Forget { now: stored(now) }).await
    }

    fn rows_of(&self, buckets: Vec<Bucket>) -> Vec<BucketRow> {
        let row = |bucket: Bucket| {
            let key = match bucket {
                Bucket::Caller(_) => format!("caller#{}", self.inner.secrets.mark(&bucket.key())),
                _ => bucket.key(),
            };
            BucketRow { key, bucket }
        };
        buckets.into_iter().map(row).collect()
    }
}

/// A bucket and what it is called in the database.
struct BucketRow {
    key: String,
    bucket: Bucket,
}

struct Count {
    rows: Vec<BucketRow>,
    now: Timestamp,
}

impl Write for Count {
    type Done = Verdict;

    fn locks(&self) -> Option<&str> {
        Some(LOCK)
    }

    async fn apply(&mut self, connection: &mut Connection) -> Result<Verdict, StoreError> {
        let mut tallies = Vec::with_capacity(self.rows.len());
        for row in &self.rows {
            tallies.push(read(connection, row).await?.unwrap_or_else(|| Tally::empty(self.now)));
        }
        let buckets = self.rows.iter().map(|row| &row.bucket).zip(tallies);
        let tallies = match count_in_all(buckets, self.now) {
            Ok(tallies) => tallies,
            Err((place, tally, lock_out)) => {
                if let Some(row) = self.rows.get(place) {
                    self.tell(connection, row, tally, lock_out).await?;
                }
                return Ok(Verdict::Locked);
            }
        };
        for (row, tally) in self.rows.iter().zip(tallies) {
            save(connection, row, tally).await?;
        }
        Ok(Verdict::Judge)
    }
}

/// Whom a guess may have been meant for.
struct Victim {
    subject: Subject,
    virtual_number: Did,
}

impl Count {
    /// Puts the event of a lock-out into the outbox, once: a pause of this bucket is told once in its window, and that
    /// it is full once.
    async fn tell(
        &self,
        connection: &mut Connection,
        row: &BucketRow,
        tally: Tally,
        lock_out: LockOut,
    ) -> Result<(), StoreError> {
        let Some(Victim { subject, virtual_number }) = self.victim(connection).await? else { return Ok(()) };
        let mut hash = Sha256::new();
        hash.update(&row.key);
        hash.update(micros(tally.since).to_be_bytes());
        // One who guesses with two accounts is told to both.
        hash.update(&subject.account);
        let bytes = hash.finalize().first_chunk::<16>().copied().unwrap_or_default();
        let anchor = uuid::Builder::from_custom_bytes(bytes).into_uuid();
        let happening = Happening::PinLockedOut(lock_out);
        let event = CallEvent {
            virtual_number: Some(virtual_number),
            ..CallEvent::new(anchor, usize::from(lock_out.is_full), &subject, happening, self.now)
        };
        outbox::insert(connection, &[&event]).await
    }

    /// The session, when only one can be meant and it wants to know; else the account. `None`: nobody is left whose
    /// PIN it could have been.
    async fn victim(&self, connection: &mut Connection) -> Result<Option<Victim>, StoreError> {
        const OF_PARTY: &str = "SELECT uuid, account, virtual_number, callback_url FROM sessions WHERE uuid = $1 AND ends_at > $2";
        const ON_NUMBER: &str = "SELECT uuid, account, virtual_number, callback_url FROM sessions \
             WHERE virtual_number = $1 AND ends_at > $2 AND takes_strangers = 1 \
             AND first_party_pin IS NOT NULL ORDER BY created_at, uuid LIMIT 2";
        let find = self.rows.iter().find_map(|row| match &row.bucket {
            Bucket::Forced(session, _) => Some((OF_PARTY, session.to_string())),
            Bucket::Number { did, .. } => Some((ON_NUMBER, did.digits().to_owned())),
            Bucket::Caller(_) | Bucket::Anonymous(_) => None,
        });
        let Some((find, key)) = find else { return Ok(None) };
        let found = query(find).bind(key).bind(micros(self.now)).fetch_all(connection).await?;
        let Some(first) = found.first() else { return Ok(None) };
        let subject = Subject::account(first.text("account")?);
        let is_told = found.len() == 1 && !first.text("callback_url")?.is_empty();
        let session = if is_told { Some(first.uuid("uuid")?) } else { None };
        let virtual_number = first.did("virtual_number")?;
        Ok(Some(Victim { subject: Subject { session, ..subject }, virtual_number }))
    }
}

struct Forgive {
    rows: Vec<BucketRow>,
}

impl Write for Forgive {
    type Done = ();
    const MAY_WAIT: bool = true;

    fn locks(&self) -> Option<&str> {
        Some(LOCK)
    }

    async fn apply(&mut self, connection: &mut Connection) -> Result<(), StoreError> {
        for row in &self.rows {
            if let Some(tally) = read(connection, row).await? {
                save(connection, row, tally.forgive()).await?;
            }
        }
        Ok(())
    }
}

struct Forget {
    now: Timestamp,
}

impl Write for Forget {
    type Done = u64;
    const MAY_WAIT: bool = true;

    async fn apply(&mut self, connection: &mut Connection) -> Result<u64, StoreError> {
        query("DELETE FROM guesses WHERE since < $1")
            .bind(micros(self.now).saturating_sub(duration_micros(WINDOW)))
            .execute(connection)
            .await
    }
}

async fn read(connection: &mut Connection, row: &BucketRow) -> Result<Option<Tally>, StoreError> {
    let found = query("SELECT since, latest_at, wrong FROM guesses WHERE bucket = $1")
        .bind(&row.key)
        .fetch_optional(connection)
        .await?;
    found
        .map(|found| {
            Ok(Tally {
                since: found.time("since")?,
                latest: found.time("latest_at")?,
                wrong: found.unsigned("wrong")?,
            })
        })
        .transpose()
}

async fn save(connection: &mut Connection, row: &BucketRow, tally: Tally) -> Result<(), StoreError> {
    query(
        "INSERT INTO guesses (bucket, since, latest_at, wrong) VALUES ($1, $2, $3, $4)
         ON CONFLICT (bucket) DO UPDATE SET since = excluded.since, latest_at = excluded.latest_at,
             wrong = excluded.wrong",
    )
    .bind(&row.key)
    .bind(micros(tally.since))
    .bind(micros(tally.latest))
    .bind(i64::from(tally.wrong))
    .execute(connection)
    .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::number::{Did, E164};
    use jiff::SignedDuration;

    struct Scratch(std::path::PathBuf);

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    async fn store() -> (Store, Scratch) {
        let directory = std::env::temp_dir().join(format!("maskline-guesses-{}", uuid::Uuid::new_v4()));
        let store = Store::open(&format!("sqlite://{}/test.db", directory.display())).await.unwrap();
        (store, Scratch(directory))
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::UNIX_EPOCH + SignedDuration::from_secs(second)
    }

    fn buckets(caller: &str) -> Vec<Bucket> {
        let did = Did::parse("12025550100").unwrap();
        vec![Bucket::Caller(E164::parse(caller).unwrap()), Bucket::Number { did, pin_sessions: 1 }]
    }

    #[tokio::test]
    async fn calls_at_one_time_get_no_more_tries_than_one_after_the_other() {
        let (store, _scratch) = store().await;
        let guesses = (0..64).map(|_| {
            let store = store.clone();
            tokio::spawn(async move { store.count_guess(buckets("12025550177"), at(0)).await.unwrap() })
        });
        let mut judged = 0;
        for guess in guesses.collect::<Vec<_>>() {
            judged += usize::from(guess.await.unwrap() == Verdict::Judge);
        }
        assert_eq!(judged, 10);
    }

    #[tokio::test]
    async fn counts_survive_a_restart_and_end_after_a_day() {
        let (store, scratch) = store().await;
        for second in 0..10 {
            let verdict = store.count_guess(buckets("12025550177"), at(second)).await.unwrap();
            assert_eq!(verdict, Verdict::Judge);
        }
        store.close().await;
        let store = Store::open(&format!("sqlite://{}/test.db", scratch.0.display())).await.unwrap();
        assert_eq!(store.count_guess(buckets("12025550177"), at(11)).await.unwrap(), Verdict::Locked);
        let other = store.count_guess(buckets("12025550178"), at(11)).await.unwrap();
        assert_eq!(other, Verdict::Judge, "another caller, and the number is not full");
        assert_eq!(store.forget_guesses(at(24 * 3600)).await.unwrap(), 0);
        assert_eq!(store.count_guess(buckets("12025550177"), at(24 * 3600)).await.unwrap(), Verdict::Judge);
        assert_eq!(store.forget_guesses(at(48 * 3600 + 60)).await.unwrap(), 3);
    }

    #[tokio::test]
    async fn no_callers_number_is_in_the_database() {
        let (store, scratch) = store().await;
        store.count_guess(buckets("12025550177"), at(0)).await.unwrap();
        store.close().await;
        let mut found = vec![];
        for entry in std::fs::read_dir(&scratch.0).unwrap() {
            let bytes = std::fs::read(entry.unwrap().path()).unwrap();
            let has = |text: &[u8]| bytes.windows(text.len()).any(|window| window == text);
            assert!(!has(b"2025550177"));
            found.push(has(b"caller#"));
        }
        assert!(found.contains(&true), "it is counted");
    }

    #[tokio::test]
    async fn a_locked_entry_counts_in_no_bucket_and_a_right_one_is_given_back() {
        let (store, _scratch) = store().await;
        for _ in 0..100 {
            let all = buckets("12025550177");
            assert_eq!(store.count_guess(all.clone(), at(0)).await.unwrap(), Verdict::Judge);
            store.forgive_guess(all).await.unwrap();
        }
        for _ in 0..100 {
            let _ = store.count_guess(buckets("12025550177"), at(0)).await.unwrap();
        }
        // Ten of these counted on the number; with twenty it would pause.
        assert_eq!(store.count_guess(buckets("12025550178"), at(1)).await.unwrap(), Verdict::Judge);
    }
}

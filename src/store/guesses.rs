//! Wrong PINs, counted over calls, restarts and processes.
//!
//! What the counts mean is decided in [`crate::masking::guessing`]; here they are read and written in one
//! transaction, so that entries that come at once do not slip through together.

use jiff::Timestamp;

use super::row::{Columns, duration_micros, micros, stored};
use super::sql::{Connection, query};
use super::writer::Write;
use super::{Store, StoreError};
use crate::masking::guessing::{Bucket, Tally, WINDOW, count_in_all};

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
    /// Counts an entry in all of `buckets` and says whether it may be judged.
    ///
    /// # Errors
    /// [`StoreError`] when the database fails; then nobody may judge it.
    pub async fn count_guess(&self, buckets: Vec<Bucket>, now: Timestamp) -> Result<Verdict, StoreError> {
        self.write(Count { buckets, now: stored(now) }).await
    }

    /// The entry that was counted last in `buckets` was right.
    ///
    /// # Errors
    /// [`StoreError`] when the database fails.
    pub async fn forgive_guess(&self, buckets: Vec<Bucket>) -> Result<(), StoreError> {
        self.write(Forgive { buckets }).await
    }

    /// Forgets what no longer counts. Returns how many buckets that were.
    ///
    /// # Errors
    /// [`StoreError`] when the database fails.
    pub async fn forget_guesses(&self, now: Timestamp) -> Result<u64, StoreError> {
        self.write(Forget { now: stored(now) }).await
    }
}

struct Count {
    buckets: Vec<Bucket>,
    now: Timestamp,
}

impl Write for Count {
    type Done = Verdict;

    fn locks(&self) -> Option<&str> {
        Some(LOCK)
    }

    async fn apply(&mut self, connection: &mut Connection) -> Result<Verdict, StoreError> {
        let mut tallies = Vec::with_capacity(self.buckets.len());
        for bucket in &self.buckets {
            tallies.push(read(connection, bucket).await?.unwrap_or_else(|| Tally::empty(self.now)));
        }
        let Some(tallies) = count_in_all(self.buckets.iter().zip(tallies), self.now) else {
            return Ok(Verdict::Locked);
        };
        for (bucket, tally) in self.buckets.iter().zip(tallies) {
            save(connection, bucket, tally).await?;
        }
        Ok(Verdict::Judge)
    }
}

struct Forgive {
    buckets: Vec<Bucket>,
}

impl Write for Forgive {
    type Done = ();
    const MAY_WAIT: bool = true;

    fn locks(&self) -> Option<&str> {
        Some(LOCK)
    }

    async fn apply(&mut self, connection: &mut Connection) -> Result<(), StoreError> {
        for bucket in &self.buckets {
            if let Some(tally) = read(connection, bucket).await? {
                save(connection, bucket, tally.forgive()).await?;
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

async fn read(connection: &mut Connection, bucket: &Bucket) -> Result<Option<Tally>, StoreError> {
    let row = query("SELECT since, latest_at, wrong FROM guesses WHERE bucket = $1")
        .bind(bucket.key())
        .fetch_optional(connection)
        .await?;
    row.map(|row| {
        Ok(Tally { since: row.time("since")?, latest: row.time("latest_at")?, wrong: row.unsigned("wrong")? })
    })
    .transpose()
}

async fn save(connection: &mut Connection, bucket: &Bucket, tally: Tally) -> Result<(), StoreError> {
    query(
        "INSERT INTO guesses (bucket, since, latest_at, wrong) VALUES ($1, $2, $3, $4)
         ON CONFLICT (bucket) DO UPDATE SET since = excluded.since, latest_at = excluded.latest_at,
             wrong = excluded.wrong",
    )
    .bind(bucket.key())
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

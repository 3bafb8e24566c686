//! Virtual numbers, and what a call to one finds on it.

use std::sync::Arc;

use jiff::Timestamp;

use super::row::Columns;
use super::sql::{Connection, Pool, query};
use super::writer::Write;
use super::{Store, StoreError, sessions};
use crate::masking::allocate::Country;
use crate::masking::session::MaskingSession;
use crate::number::{Did, E164};

/// What a call gets that no session takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NoSession {
    /// 404, as for a number that is not ours.
    Reject,
    /// The message at this URL, then BYE.
    Play(String),
    /// A B-leg to this SIP URI.
    Sip(String),
}

impl NoSession {
    fn encode(&self) -> String {
        match self {
            Self::Reject => "reject".to_owned(),
            Self::Play(url) => format!("play:{url}"),
            Self::Sip(uri) => format!("to:{uri}"),
        }
    }

    fn decode(stored: &str) -> Option<Self> {
        match stored.split_once(':') {
            None => (stored == "reject").then_some(Self::Reject),
            Some(("play", url)) => Some(Self::Play(url.to_owned())),
            Some(("to", uri)) => Some(Self::Sip(uri.to_owned())),
            Some(_) => None,
        }
    }
}

/// A virtual number as the configuration has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VirtualNumberConfig {
    /// The number.
    pub did: Did,
    /// The trunk that its B-legs leave by.
    pub trunk: String,
    /// Auth id of the account that may use it; `None`: the first account.
    pub account: Option<String>,
    /// What a call gets that no session takes.
    pub no_session: NoSession,
}

/// A virtual number of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VirtualNumber {
    /// The number.
    pub did: Did,
    /// The trunk that its B-legs leave by.
    pub trunk: String,
    /// Auth id of the account that uses it.
    pub account: String,
    /// What a call gets that no session takes.
    pub no_session: NoSession,
}

/// What a call to one of our numbers finds there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// The dialled number.
    pub number: VirtualNumber,
    /// The active sessions on it in which the caller is a party (one, by allocation). When there is none: all
    /// that take strangers, and the latest other one with `unknown_caller_play`.
    pub sessions: Vec<MaskingSession>,
}

/// A number of the pool, with what allocation wants to know of it.
pub(super) struct PoolNumber {
    pub(super) number: VirtualNumber,
    pub(super) country: Option<Country>,
}

impl Store {
    /// Makes the pool equal to `numbers`; their order is the order of first fit. A number that is no longer
    /// among them keeps its sessions readable, takes no new ones and is not ours for a call. Call it after
    /// [`Store::ensure_account`], whose first account owns the numbers that name none.
    ///
    /// # Errors
    /// [`StoreError`] when the database fails.
    pub async fn sync_numbers(&self, numbers: &[VirtualNumberConfig]) -> Result<(), StoreError> {
        self.change_directory(SyncNumbers(numbers.to_vec())).await
    }

    /// Our number with these digits, if it is one.
    #[must_use]
    pub fn virtual_number(&self, number: &E164) -> Option<VirtualNumber> {
        let directory = self.directory();
        let place = directory.places.get(number.digits())?;
        directory.numbers.get(*place).map(|pooled| pooled.number.clone())
    }

    /// What a call to `dialled` finds at `now`. `None`: the number is not ours.
    ///
    /// # Errors
    /// [`StoreError`] when the database fails.
    pub async fn find_route(
        &self,
        dialled: &Did,
        caller: Option<&E164>,
        now: Timestamp,
    ) -> Result<Option<Route>, StoreError> {
        let Some(number) = self.virtual_number(dialled.as_number()) else { return Ok(None) };
        let generation = self.inner.routes.generation(dialled);
        let mut found = match caller {
            Some(caller) => self.sessions_of_party(dialled, caller, generation, now).await?,
            None => vec![],
        };
        if found.is_empty() {
            found = self.sessions_for_strangers(dialled, generation, now).await?;
        }
        Ok(Some(Route { number, sessions: found }))
    }

    async fn sessions_of_party(
        &self,
        dialled: &Did,
        caller: &E164,
        generation: u64,
        now: Timestamp,
    ) -> Result<Vec<MaskingSession>, StoreError> {
        let routes = &self.inner.routes;
        let known = match routes.of_party(dialled, caller, generation) {
            Some(known) => known,
            None => {
                let found = Arc::new(sessions::of_party(self.readers(), dialled, caller, now).await?);
                routes.keep_party(dialled, caller, generation, &found);
                found
            }
        };
        Ok(known.iter().filter(|session| session.is_active(now)).cloned().collect())
    }

    async fn sessions_for_strangers(
        &self,
        dialled: &Did,
        generation: u64,
        now: Timestamp,
    ) -> Result<Vec<MaskingSession>, StoreError> {
        let routes = &self.inner.routes;
        let known = routes.for_strangers(dialled, generation);
        // When one has expired, another message may have become the latest.
        if let Some(known) = known.filter(|known| known.iter().all(|session| session.is_active(now))) {
            return Ok(known.to_vec());
        }
        let found = Arc::new(sessions::for_strangers(self.readers(), dialled, now).await?);
        routes.keep_strangers(dialled, generation, &found);
        Ok(found.to_vec())
    }
}

/// The active numbers, in order.
pub(super) async fn load(readers: &Pool, first_account: Option<&str>) -> Result<Vec<PoolNumber>, StoreError> {
    let rows =
        query("SELECT did, trunk, account, no_session FROM numbers WHERE active = 1 ORDER BY position")
            .fetch_all(readers)
            .await?;
    rows.iter()
        .map(|row| {
            let did = row.did("did")?;
            let account =
                row.text_opt("account")?.or_else(|| first_account.map(str::to_owned)).unwrap_or_default();
            let no_session =
                NoSession::decode(&row.text("no_session")?).ok_or(StoreError::Corrupt("no_session"))?;
            let country = Country::of(did.as_number());
            Ok(PoolNumber {
                number: VirtualNumber { did, trunk: row.text("trunk")?, account, no_session },
                country,
            })
        })
        .collect()
}

struct SyncNumbers(Vec<VirtualNumberConfig>);

impl Write for SyncNumbers {
    type Done = ();

    async fn apply(&mut self, connection: &mut Connection) -> Result<(), StoreError> {
        query("UPDATE numbers SET active = 0").execute(&mut *connection).await?;
        for (position, number) in self.0.iter().enumerate() {
            query(
                "INSERT INTO numbers (did, trunk, account, no_session, position, active)
                 VALUES ($1, $2, $3, $4, $5, 1)
                 ON CONFLICT (did) DO UPDATE SET trunk = excluded.trunk, account = excluded.account,
                     no_session = excluded.no_session, position = excluded.position, active = 1",
            )
            .bind(number.did.digits())
            .bind(&number.trunk)
            .bind(&number.account)
            .bind(number.no_session.encode())
            .bind(i64::try_from(position).unwrap_or(i64::MAX))
            .execute(&mut *connection)
            .await?;
        }
        Ok(())
    }
}

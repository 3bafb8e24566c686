//! Virtual numbers, and what a call to one finds on it.
//!
//! The configured ones come first in the order of first fit, then those that the API added; how the API changes
//! them is in `number_writes`. A number without sub-account serves the sessions of its account that name none,
//! and one with a sub-account only this one's: so no sub-account can use up what another one was given.

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
    /// As it is written in the configuration and in the API.
    #[must_use]
    pub fn to_written(&self) -> String {
        match self {
            Self::Reject => "reject".to_owned(),
            Self::Play(url) => format!("play:{url}"),
            Self::Sip(uri) => uri.clone(),
        }
    }

    pub(super) fn encode(&self) -> String {
        match self {
            Self::Reject => "reject".to_owned(),
            Self::Play(url) => format!("play:{url}"),
            Self::Sip(uri) => format!("to:{uri}"),
        }
    }

    pub(super) fn decode(stored: &str) -> Option<Self> {
        match stored.split_once(':') {
            None => (stored == "reject").then_some(Self::Reject),
            Some(("play", url)) => Some(Self::Play(url.to_owned())),
            Some(("to", uri)) => Some(Self::Sip(uri.to_owned())),
            Some(_) => None,
        }
    }
}

impl From<&crate::config::NoSession> for NoSession {
    fn from(checked: &crate::config::NoSession) -> Self {
        use crate::config::NoSession as Checked;
        match checked {
            Checked::Reject => Self::Reject,
            Checked::Play(url) => Self::Play(url.clone()),
            Checked::Sip(uri) => Self::Sip(uri.clone()),
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
    pub sessions: Vec<Arc<MaskingSession>>,
}

/// A number of the pool, with what allocation wants to know of it.
pub(super) struct PoolNumber {
    pub(super) number: VirtualNumber,
    pub(super) country: Option<Country>,
    pub(super) subaccount: Option<String>,
    pub(super) draining: bool,
    by_api: bool,
}

impl PoolNumber {
    /// Whether new sessions of this account and sub-account may be put on it.
    pub(super) fn takes_sessions_of(&self, account: &str, subaccount: Option<&str>) -> bool {
        self.number.account == account && self.subaccount.as_deref() == subaccount && !self.draining
    }

    fn entry(&self) -> NumberEntry {
        NumberEntry {
            number: self.number.clone(),
            country: self.country.map(|country| country.iso2()),
            subaccount: self.subaccount.clone(),
            draining: self.draining,
            configured: !self.by_api,
        }
    }
}

/// A virtual number with all that its owner may know of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NumberEntry {
    /// The number itself.
    pub number: VirtualNumber,
    /// Two letters of ISO 3166; `None`: no country has its calling code.
    pub country: Option<String>,
    /// Auth id of the sub-account whose sessions it takes; `None`: those of the account itself.
    pub subaccount: Option<String>,
    /// It takes no new session, and serves those that it has.
    pub draining: bool,
    /// It stands in the configuration, which owns all of it but `draining`.
    pub configured: bool,
}

impl Store {
    /// Makes the pool equal to `numbers`; their order is the order of first fit. A number that is no longer
    /// among them keeps its sessions readable, takes no new ones and is not ours for a call. Call it after
    /// [`Store::ensure_account`], whose first account owns the numbers that name none.
    ///
    /// # Errors
    /// [`StoreError`] when the database fails.
    pub async fn sync_numbers(&self, numbers: &[VirtualNumberConfig]) -> Result<(), StoreError> {
        self.sync_assigned_numbers(numbers.iter().map(|number| (number.clone(), None)).collect()).await
    }

    /// As [`Self::sync_numbers`], each number with the auth id of the sub-account that it is for. What the API
    /// added stays, unless it stands in `numbers` as well: then the configuration owns it from now on.
    ///
    /// # Errors
    /// [`StoreError`] when the database fails.
    pub async fn sync_assigned_numbers(
        &self,
        numbers: Vec<(VirtualNumberConfig, Option<String>)>,
    ) -> Result<(), StoreError> {
        self.change_directory(SyncNumbers(numbers)).await
    }

    /// All numbers of all accounts, in the order of first fit.
    #[must_use]
    pub fn all_numbers(&self) -> Vec<NumberEntry> {
        self.directory().numbers.iter().map(PoolNumber::entry).collect()
    }

    /// The account's numbers, in the order of first fit.
    #[must_use]
    pub fn numbers(&self, account: &str) -> Vec<NumberEntry> {
        let directory = self.directory();
        let own = directory.numbers.iter().filter(|pooled| pooled.number.account == account);
        own.map(PoolNumber::entry).collect()
    }

    /// The account's number with these digits.
    #[must_use]
    pub fn number(&self, account: &str, did: &Did) -> Option<NumberEntry> {
        let directory = self.directory();
        let pooled = directory.numbers.get(*directory.places.get(did.digits())?)?;
        (pooled.number.account == account).then(|| pooled.entry())
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
    ) -> Result<Vec<Arc<MaskingSession>>, StoreError> {
        let routes = &self.inner.routes;
        let known = match routes.of_party(dialled, caller, generation) {
            Some(known) => known,
            None => {
                let found = sessions::of_party(self.readers(), dialled, caller, now).await?;
                let found = Arc::new(found.into_iter().map(Arc::new).collect());
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
    ) -> Result<Vec<Arc<MaskingSession>>, StoreError> {
        let routes = &self.inner.routes;
        let known = routes.for_strangers(dialled, generation);
        // When one has expired, another message may have become the latest.
        if let Some(known) = known.filter(|known| known.iter().all(|session| session.is_active(now))) {
            return Ok(known.to_vec());
        }
        let found = sessions::for_strangers(self.readers(), dialled, now).await?;
        let found = Arc::new(found.into_iter().map(Arc::new).collect());
        routes.keep_strangers(dialled, generation, &found);
        Ok(found.to_vec())
    }
}

/// The active numbers, in order.
pub(super) async fn load(readers: &Pool, first_account: Option<&str>) -> Result<Vec<PoolNumber>, StoreError> {
    let rows = query(
        "SELECT did, trunk, account, no_session, subaccount, draining, by_api FROM numbers
         WHERE active = 1 ORDER BY by_api, position, did",
    )
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
                subaccount: row.text_opt("subaccount")?,
                draining: row.flag("draining")?,
                by_api: row.flag("by_api")?,
            })
        })
        .collect()
}

struct SyncNumbers(Vec<(VirtualNumberConfig, Option<String>)>);

impl Write for SyncNumbers {
    type Done = ();

    async fn apply(&mut self, connection: &mut Connection) -> Result<(), StoreError> {
        query("UPDATE numbers SET active = 0 WHERE by_api = 0").execute(&mut *connection).await?;
        for (position, (number, subaccount)) in self.0.iter().enumerate() {
            // Whether it drains was said to the API and stays.
            query(
                "INSERT INTO numbers (did, trunk, account, no_session, position, active, subaccount)
                 VALUES ($1, $2, $3, $4, $5, 1, $6)
                 ON CONFLICT (did) DO UPDATE SET trunk = excluded.trunk, account = excluded.account,
                     no_session = excluded.no_session, position = excluded.position, active = 1,
                     subaccount = excluded.subaccount, by_api = 0",
            )
            .bind(number.did.digits())
            .bind(&number.trunk)
            .bind(&number.account)
            .bind(number.no_session.encode())
            .bind(i64::try_from(position).unwrap_or(i64::MAX))
            .bind(subaccount)
            .execute(&mut *connection)
            .await?;
        }
        Ok(())
    }
}

//! With whom the known party of a single-party session talked last.

use uuid::Uuid;

use super::row::Columns;
use super::sql::query;
use super::{Store, StoreError};
use crate::number::E164;

impl Store {
    /// The other end of the session's latest call in which both legs were answered. `None`: there was no such
    /// call, or its other end had no number: whoever talked before that one is not asked for.
    ///
    /// # Errors
    /// [`StoreError`] when the database fails.
    pub async fn last_partner(&self, session: Uuid, known: &E164) -> Result<Option<E164>, StoreError> {
        let row = query(
            "SELECT a.party AS caller, b.party AS callee FROM interactions i
             JOIN legs a ON a.interaction = i.uuid AND a.side = 'A' AND a.answered_at IS NOT NULL
             JOIN legs b ON b.interaction = i.uuid AND b.side = 'B' AND b.answered_at IS NOT NULL
             WHERE i.session = $1 ORDER BY i.started_at DESC, i.uuid LIMIT 1",
        )
        .bind(session)
        .fetch_optional(self.readers())
        .await?;
        let Some(row) = row else { return Ok(None) };
        let (caller, callee) = (row.party("caller")?, row.party("callee")?);
        Ok(if caller.as_ref() == Some(known) { callee } else { caller })
    }
}

//! A call at a phone: what can be done with it and waited for.

use std::ops::Deref;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::log::Log;
use super::{Phone, WaitError};
use crate::agent::{Agent, CallNumber, End, OnCancel, Reply};
use crate::message::Message;
use crate::sdp::{LocalMedia, SdpOptions};
use crate::stream::MediaSession;

/// A call at a phone, whoever began it.
#[derive(Debug)]
pub struct Call {
    pub(super) phone: Phone,
    pub(super) number: CallNumber,
    pub(super) log: Arc<Log>,
    pub(super) media: MediaSession,
}

/// A call that this phone made.
#[derive(Debug)]
pub struct OutgoingCall(pub(super) Call);

/// A call that came in.
#[derive(Debug)]
pub struct IncomingCall {
    pub(super) call: Call,
    pub(super) request: Message,
}

impl Deref for OutgoingCall {
    type Target = Call;
    fn deref(&self) -> &Call {
        &self.0
    }
}

impl Deref for IncomingCall {
    type Target = Call;
    fn deref(&self) -> &Call {
        &self.call
    }
}

impl Call {
    async fn ask<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Agent, CallNumber, Instant) -> T + Send + 'static,
    ) -> Result<T, WaitError> {
        let number = self.number;
        self.phone.shared.ask(move |agent, now| job(agent, number, now)).await
    }

    async fn wait<T>(
        &self,
        what: &str,
        timeout: Duration,
        find: impl Fn(&[Message], Option<End>) -> Option<T>,
    ) -> Result<T, WaitError> {
        self.log.wait(&self.phone.shared.name, what, timeout, find).await
    }

    /// Its audio.
    #[must_use]
    pub fn media(&self) -> &MediaSession {
        &self.media
    }

    /// Every request and response that came in this call, repeated ones too.
    #[must_use]
    pub fn received(&self) -> Vec<Message> {
        self.log.look(|seen, _| seen.to_vec())
    }

    /// Statuses of all responses to INVITE so far, repeated ones too.
    #[must_use]
    pub fn statuses(&self) -> Vec<u16> {
        self.received().iter().filter(|m| m.cseq().1 == "INVITE").filter_map(Message::status).collect()
    }

    /// How it ended, once it has.
    #[must_use]
    pub fn end(&self) -> Option<End> {
        self.log.look(|_, end| end)
    }

    /// Waits for a response that fits, from the beginning of the call on.
    ///
    /// # Errors
    /// [`WaitError`] when none comes in time.
    pub async fn wait_response(
        &self,
        what: &str,
        timeout: Duration,
        is: impl Fn(&Message) -> bool,
    ) -> Result<Message, WaitError> {
        self.wait(what, timeout, |seen, _| seen.iter().find(|m| m.status().is_some() && is(m)).cloned()).await
    }

    /// Waits for a request of that method, from the beginning of the call on.
    ///
    /// # Errors
    /// [`WaitError`] when none comes in time.
    pub async fn wait_request(&self, method: &str, timeout: Duration) -> Result<Message, WaitError> {
        self.wait(method, timeout, |seen, _| seen.iter().find(|m| m.is(method)).cloned()).await
    }

    /// Waits for the far side's BYE.
    ///
    /// # Errors
    /// [`WaitError`] when none comes in time.
    pub async fn wait_bye(&self, timeout: Duration) -> Result<Message, WaitError> {
        self.wait_request("BYE", timeout).await
    }

    /// Waits until the call is over, however.
    ///
    /// # Errors
    /// [`WaitError`] when it goes on.
    pub async fn wait_end(&self, timeout: Duration) -> Result<End, WaitError> {
        self.wait("the end of the call", timeout, |_, end| end).await
    }

    /// Sends BYE and stops the audio.
    ///
    /// # Errors
    /// [`WaitError::Closed`].
    pub async fn bye(&self) -> Result<(), WaitError> {
        self.bye_with(&[]).await
    }

    /// Sends BYE with further headers.
    ///
    /// # Errors
    /// [`WaitError::Closed`].
    pub async fn bye_with(&self, headers: &[(String, String)]) -> Result<(), WaitError> {
        self.media.stop();
        let headers = headers.to_vec();
        self.ask(move |agent, call, now| agent.bye(call, &headers, now)).await
    }

    /// Sends BYE and waits for its response.
    ///
    /// # Errors
    /// [`WaitError`] when none comes in 5 s.
    pub async fn hang_up(&self) -> Result<Message, WaitError> {
        self.bye().await?;
        self.wait_response("200 to BYE", Duration::from_secs(5), |m| m.cseq().1 == "BYE").await
    }

    async fn final_response(
        &self,
        what: &str,
        cseq: Option<u32>,
        timeout: Duration,
    ) -> Result<Message, WaitError> {
        let cseq = cseq.ok_or(WaitError::Closed)?;
        self.wait_response(what, timeout, |m| m.cseq().0 == cseq && m.status().is_some_and(|s| s >= 200))
            .await
    }

    /// Sends a re-INVITE with an offer in that direction (`sendonly`: hold), or without SDP, and returns its final
    /// response.
    ///
    /// # Errors
    /// [`WaitError`] when none comes in time.
    pub async fn reinvite(
        &self,
        direction: Option<&'static str>,
        timeout: Duration,
    ) -> Result<Message, WaitError> {
        let cseq = self.ask(move |agent, call, now| agent.reinvite(call, direction, now)).await?;
        self.final_response("a response to re-INVITE", cseq, timeout).await
    }

    /// The same as UPDATE.
    ///
    /// # Errors
    /// [`WaitError`] when no response comes in time.
    pub async fn update(
        &self,
        direction: Option<&'static str>,
        timeout: Duration,
    ) -> Result<Message, WaitError> {
        let cseq = self.ask(move |agent, call, now| agent.update(call, direction, now)).await?;
        self.final_response("a response to UPDATE", cseq, timeout).await
    }

    /// Sends any other request within the call and returns its final response.
    ///
    /// # Errors
    /// [`WaitError`] when none comes in time.
    pub async fn request(
        &self,
        method: &str,
        headers: &[(String, String)],
        body: Option<(&str, &[u8])>,
        timeout: Duration,
    ) -> Result<Message, WaitError> {
        let (verb, headers) = (method.to_owned(), headers.to_vec());
        let body = body.map(|(kind, content)| (kind.to_owned(), content.to_vec()));
        let cseq = self.ask(move |agent, call, now| agent.request(call, &verb, &headers, body, now)).await?;
        self.final_response(&format!("a response to {method}"), cseq, timeout).await
    }

    /// A key as INFO with `application/dtmf-relay`.
    ///
    /// # Errors
    /// [`WaitError`] when no response comes in time.
    pub async fn info_dtmf(
        &self,
        key: char,
        duration_ms: u32,
        timeout: Duration,
    ) -> Result<Message, WaitError> {
        let body = format!("Signal={key}\r\nDuration={duration_ms}\r\n");
        self.request("INFO", &[], Some(("application/dtmf-relay", body.as_bytes())), timeout).await
    }

    /// What later offers of this phone say: changes the description that [`Self::reinvite`] and
    /// [`Self::update`] render.
    ///
    /// # Errors
    /// [`WaitError::Closed`].
    pub async fn change_sdp(
        &self,
        change: impl FnOnce(&mut SdpOptions) + Send + 'static,
    ) -> Result<(), WaitError> {
        self.ask(move |agent, call, _| {
            if let Some(media) = agent.media_mut(call) {
                change(&mut media.options);
            }
        })
        .await
    }

    /// Re-INVITEs get this status from now on instead of an answer.
    ///
    /// # Errors
    /// [`WaitError::Closed`].
    pub async fn refuse_reinvites(&self, status: Option<u16>) -> Result<(), WaitError> {
        self.ask(move |agent, call, _| agent.refuse_reinvites(call, status)).await
    }
}

fn answers_invite(message: &Message, status: u16) -> bool {
    message.cseq().1 == "INVITE" && message.status() == Some(status)
}

impl OutgoingCall {
    /// Waits for a response to the INVITE with a status that fits.
    ///
    /// # Errors
    /// [`WaitError`] when none comes in time.
    pub async fn wait_for(&self, is: impl Fn(u16) -> bool, timeout: Duration) -> Result<Message, WaitError> {
        self.wait_response("a response to INVITE", timeout, |m| {
            m.cseq().1 == "INVITE" && m.status().is_some_and(&is)
        })
        .await
    }

    /// Waits for 180.
    ///
    /// # Errors
    /// [`WaitError`] when none comes in time.
    pub async fn ringing(&self, timeout: Duration) -> Result<Message, WaitError> {
        self.wait_response("180", timeout, |m| answers_invite(m, 180)).await
    }

    /// Waits for the 200.
    ///
    /// # Errors
    /// [`WaitError::Refused`] when another final response comes, [`WaitError::TimedOut`] when none does.
    pub async fn answered(&self, timeout: Duration) -> Result<Message, WaitError> {
        let last = self.final_status(timeout).await?;
        match last.status() {
            Some(200..=299) => Ok(last),
            status => Err(WaitError::Refused { status: status.unwrap_or(0), what: "an answer".into() }),
        }
    }

    /// Waits for the final response to the INVITE, whatever it is.
    ///
    /// # Errors
    /// [`WaitError`] when none comes in time.
    pub async fn final_status(&self, timeout: Duration) -> Result<Message, WaitError> {
        self.wait_for(|status| status >= 200, timeout).await
    }

    /// Sends CANCEL, as soon as a provisional response allows it.
    ///
    /// # Errors
    /// [`WaitError::Closed`].
    pub async fn cancel(&self) -> Result<(), WaitError> {
        self.media.stop();
        self.ask(|agent, call, now| agent.cancel(call, now)).await
    }

    /// Sends the INVITE once more, byte for byte.
    ///
    /// # Errors
    /// [`WaitError::Closed`].
    pub async fn repeat_invite(&self) -> Result<(), WaitError> {
        self.ask(|agent, call, _| agent.repeat_invite(call)).await
    }
}

impl IncomingCall {
    /// The INVITE.
    #[must_use]
    pub fn request(&self) -> &Message {
        &self.request
    }

    /// Sends any response to the INVITE.
    ///
    /// # Errors
    /// [`WaitError::Closed`].
    pub async fn respond(&self, reply: Reply) -> Result<(), WaitError> {
        self.ask(move |agent, call, now| agent.respond(call, &reply, now)).await
    }

    /// 180 without SDP.
    ///
    /// # Errors
    /// [`WaitError::Closed`].
    pub async fn ring(&self) -> Result<(), WaitError> {
        self.respond(Reply::status(180)).await
    }

    /// 180 with a To tag of its own, as from a branch of a fork.
    ///
    /// # Errors
    /// [`WaitError::Closed`].
    pub async fn ring_as(&self, tag: &str) -> Result<(), WaitError> {
        self.respond(Reply::status(180).tagged(tag)).await
    }

    /// Sets the description and begins to send audio.
    async fn describe(&self, sdp: SdpOptions) -> Result<(), WaitError> {
        self.media.set_local(sdp.telephone_event_pt, sdp.ptime_ms);
        self.media.set_codecs(&sdp.codecs);
        self.media.set_key(sdp.key.as_ref());
        let address = self.media.address();
        self.ask(move |agent, call, _| {
            let id = agent.session_id();
            agent.set_media(call, LocalMedia::new(address, sdp, id));
        })
        .await?;
        self.media.start();
        Ok(())
    }

    /// 183 with SDP; early audio may be played from now on.
    ///
    /// # Errors
    /// [`WaitError::Closed`].
    pub async fn progress_with_sdp(&self, sdp: SdpOptions) -> Result<(), WaitError> {
        self.respond_with_sdp(sdp, Reply::with_sdp(183)).await
    }

    /// Any response with SDP; `reply.sdp` is set.
    ///
    /// # Errors
    /// [`WaitError::Closed`].
    pub async fn respond_with_sdp(&self, sdp: SdpOptions, reply: Reply) -> Result<(), WaitError> {
        self.describe(sdp).await?;
        self.respond(Reply { sdp: true, ..reply }).await
    }

    /// 200 with SDP. After [`Self::progress_with_sdp`] the same description is repeated, whatever `sdp` says.
    ///
    /// # Errors
    /// [`WaitError::Closed`].
    pub async fn answer(&self, sdp: SdpOptions) -> Result<(), WaitError> {
        self.respond_with_sdp(sdp, Reply::with_sdp(200)).await
    }

    /// A final failure; `body` is content type and content.
    ///
    /// # Errors
    /// [`WaitError::Closed`].
    pub async fn reject(
        &self,
        status: u16,
        phrase: Option<&str>,
        headers: &[(String, String)],
        body: Option<(&str, &[u8])>,
    ) -> Result<(), WaitError> {
        let body = body.map(|(kind, content)| (kind.to_owned(), content.to_vec()));
        let reply = Reply {
            phrase: phrase.map(str::to_owned),
            headers: headers.to_vec(),
            body,
            ..Reply::status(status)
        };
        self.respond(reply).await
    }

    /// A CANCEL gets its 200 but no 487 to the INVITE, so that this phone can still answer.
    ///
    /// # Errors
    /// [`WaitError::Closed`].
    pub async fn keep_when_cancelled(&self) -> Result<(), WaitError> {
        self.ask(|agent, call, _| agent.on_cancel(call, OnCancel::Keep)).await
    }

    /// The race: waits for the CANCEL, answers it with 200, and then the INVITE with 200 all the same.
    ///
    /// # Errors
    /// [`WaitError`] when no CANCEL comes in time.
    pub async fn answer_after_cancel(&self, sdp: SdpOptions, timeout: Duration) -> Result<(), WaitError> {
        self.keep_when_cancelled().await?;
        self.wait_cancel(timeout).await?;
        self.answer(sdp).await
    }

    /// Waits for CANCEL.
    ///
    /// # Errors
    /// [`WaitError`] when none comes in time.
    pub async fn wait_cancel(&self, timeout: Duration) -> Result<Message, WaitError> {
        self.wait_request("CANCEL", timeout).await
    }

    /// Waits for ACK.
    ///
    /// # Errors
    /// [`WaitError`] when none comes in time.
    pub async fn wait_ack(&self, timeout: Duration) -> Result<Message, WaitError> {
        self.wait_request("ACK", timeout).await
    }
}

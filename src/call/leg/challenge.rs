//! A gateway asks who we are (RFC 3261 §22): the request goes out once more, with the trunk's credentials.
//!
//! Credentials go to the gateway that the leg's INVITE went to and to nobody else: not to a Contact or Route with
//! another address, and not to a callee whose challenge the carrier lets pass, which comes after a ringing or from
//! another realm. A leg whose INVITE came in has none.

use super::{Client, Leg, Output, SetUp};
use crate::call::{Action, Hop, Place};
use crate::sip::digest::{self, Unanswered};
use crate::sip::encode::RequestOut;
use crate::sip::message::{Method, Response};
use crate::sip::transport::Flow;
use std::net::IpAddr;

impl Leg {
    /// Whether a request by `hop` goes to the gateway.
    pub(super) fn is_gateway(&self, hop: &Hop) -> bool {
        match &hop.place {
            Place::Address(address) => self.is_gateway_address(address.ip()),
            Place::Name(host, _) => self.route.name.as_deref() == Some(host.as_str()),
        }
    }

    fn is_gateway_address(&self, ip: IpAddr) -> bool {
        self.route.peer.is_some_and(|peer| peer.ip().to_canonical() == ip.to_canonical())
    }

    /// Gives a request of the dialog what the gateway asked for earlier, so that it need not ask again.
    pub(super) fn authorize(&mut self, request: &mut RequestOut, hop: &Hop, out: &mut Output<'_>) {
        if self.credentials.is_none() || !self.is_gateway(hop) {
            return;
        }
        if let Some(credentials) = &mut self.credentials {
            credentials.authorize(request, &out.ids.tag());
        }
    }

    /// Puts what `response` asks for into `request`, which went by `hop` and was answered `answered` times.
    ///
    /// # Errors
    /// Why it is left as it is; that has been reported.
    pub(super) fn answer_challenge(
        &mut self,
        request: &mut RequestOut,
        hop: &Hop,
        answered: u8,
        (response, flow): (&Response, &Flow),
        out: &mut Output<'_>,
    ) -> Result<(), Unanswered> {
        let by_gateway = self.is_gateway(hop) && self.is_gateway_address(flow.peer.ip());
        let rings = matches!(&self.set_up, SetUp::Outgoing(outgoing) if outgoing.rings());
        let outcome = match &mut self.credentials {
            None => Err(Unanswered::NoCredentials),
            Some(_) if !by_gateway => Err(Unanswered::NotTheGateway),
            Some(_) if rings && request.method == Method::INVITE && request.to.tag.is_none() => {
                Err(Unanswered::TooLate)
            }
            Some(credentials) => credentials.answer(request, response, answered, &out.ids.tag()),
        };
        if let (Err(why), SetUp::Outgoing(outgoing)) = (outcome, &self.set_up) {
            out.actions.push(Action::Unauthorized { trunk: outgoing.trunk().name.clone(), why });
        }
        outcome
    }

    /// A request of the dialog was challenged: sends it again with the next CSeq and a new branch. False when its
    /// response is final.
    pub(super) fn repeat_with_credentials(
        &mut self,
        client: &Client,
        response: &Response,
        flow: &Flow,
        out: &mut Output<'_>,
    ) -> bool {
        if !matches!(response.status, 401 | 407)
            || !self.is_outgoing()
            || !digest::may_be_challenged(&client.request.method)
        {
            return false;
        }
        let mut request = client.request.clone();
        if self.answer_challenge(&mut request, &client.hop, client.answered, (response, flow), out).is_err() {
            return false;
        }
        request.cseq = match &mut self.dialog {
            Some(dialog) => dialog.cseq_after(&request),
            None => self.early_cseq_after(&request),
        };
        request.via.branch = out.ids.branch();
        let hop = Self::choose_transport(self.dialog_key(), &mut request, client.hop.clone());
        self.start_client_as_is(request, hop, client.answered.saturating_add(1), out);
        true
    }
}

#[cfg(test)]
mod tests;

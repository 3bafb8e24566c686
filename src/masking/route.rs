//! What becomes of a call to a virtual number: the table of the product, first row that fits.
//!
//! Pure: the sessions that could matter were found beforehand; time is an argument.

use super::session::{MaskingSession, PartyRole, Pin};
use crate::number::{Did, E164};
use crate::store::{NoSession, Route};
use std::sync::Arc;

/// Who calls what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Query {
    /// The dialled number.
    pub dialled: Did,
    /// The caller's number; `None` when the trunk gave none that can be trusted.
    pub caller: Option<E164>,
}

/// What is done with a call.
#[derive(Debug, Clone, PartialEq)]
pub enum Decision {
    /// A final answer of this status; nobody is rung.
    Refuse(u16),
    /// The B-leg goes to the plan's callee.
    Dial(DialPlan),
    /// The PIN stage comes first.
    AskPin(PinPlan),
    /// A message, then BYE. Empty: the built-in one.
    Play {
        /// Where the message is.
        url: String,
        /// Whose session it is, for the CDR.
        session: Option<Arc<MaskingSession>>,
    },
    /// To a fixed SIP URI, as the number's configuration says for calls without a session.
    Forward(String),
    /// The known party of a single-party session calls, and there is nobody whom it could be connected to: it is
    /// told so, then BYE.
    Nobody(Arc<MaskingSession>),
}

/// Whom to dial, on whose terms.
#[derive(Debug, Clone, PartialEq)]
pub struct DialPlan {
    /// The session that allows it.
    pub session: Arc<MaskingSession>,
    /// The other party.
    pub callee: E164,
    /// Which party the callee is; the caller is the other one, or a stranger in its stead.
    pub callee_role: PartyRole,
}

impl DialPlan {
    /// The message that the caller hears before the callee is dialled; empty: none.
    #[must_use]
    pub fn caller_play_url(&self) -> &str {
        match self.callee_role {
            PartyRole::First => &self.session.second_party_play_url,
            PartyRole::Second => &self.session.first_party_play_url,
        }
    }

    /// The message that the callee hears after answering; empty: none.
    #[must_use]
    pub fn callee_play_url(&self) -> &str {
        match self.callee_role {
            PartyRole::First => &self.session.first_party_play_url,
            PartyRole::Second => &self.session.second_party_play_url,
        }
    }
}

/// The PIN stage: what opens which door. All sessions of one number ask strangers alike.
#[derive(Debug, Clone, PartialEq)]
pub struct PinPlan {
    /// Every PIN that counts, with where it leads; `None`: it would ring the caller himself and is wrong.
    pub doors: Vec<(Pin, Option<DialPlan>)>,
    /// Whose own PIN it is that is asked for; `None`: a stranger's.
    pub forced: Option<PartyRole>,
    /// Entries after the first.
    pub retry: u8,
    /// Pause after a wrong entry.
    pub retry_wait: std::time::Duration,
    /// The prompt's URL; empty: the built-in one.
    pub prompt_url: String,
    /// The wrong-PIN message's URL; empty: the built-in one.
    pub incorrect_url: String,
}

/// Decides. `route` is `None` when the number is not ours; its sessions are active ones that have the
/// caller as party or take strangers. `partner` is whoever talked last with the caller through his
/// single-party session.
#[must_use]
pub fn decide(
    query: &Query,
    route: Option<&Route>,
    partner: Option<&E164>,
    now: jiff::Timestamp,
) -> Decision {
    let Some(route) = route else { return Decision::Refuse(404) };
    let mut active = route.sessions.iter().filter(|session| session.is_active(now));
    let own = query.caller.as_ref().and_then(|caller| {
        active.clone().find_map(|session| session.role_of(caller).map(|role| (session, role)))
    });
    if let Some((session, role)) = own {
        return for_party(session, role, partner);
    }
    let strangers_pin: Vec<_> = active.clone().filter(|session| session.pin.is_some()).cloned().collect();
    if let Some(plan) = active.clone().find(|session| session.takes_anyone()).and_then(known_party) {
        return Decision::Dial(plan);
    }
    if let Some(plan) = pin_plan(&strangers_pin, query.caller.as_ref()) {
        return Decision::AskPin(plan);
    }
    if let Some(session) = active.find(|session| !session.unknown_caller_play.is_empty()) {
        let url = session.unknown_caller_play.clone();
        return Decision::Play { url, session: Some(Arc::clone(session)) };
    }
    match &route.number.no_session {
        NoSession::Reject => Decision::Refuse(404),
        NoSession::Play(url) => Decision::Play { url: url.clone(), session: None },
        NoSession::Sip(uri) => Decision::Forward(uri.clone()),
    }
}

/// What becomes of a call that we place ourselves to the first party, once he has answered: the same as if he had
/// dialled the number.
#[must_use]
pub fn initiated(session: &Arc<MaskingSession>) -> Decision {
    for_party(session, PartyRole::First, None)
}

/// A registered caller: to the other party, after his own PIN if the session forces it. The known party of a
/// single-party session reaches the one that it talked with last, until the other party is filled in.
fn for_party(session: &Arc<MaskingSession>, role: PartyRole, partner: Option<&E164>) -> Decision {
    let callee = session.party(role.other()).or(partner).filter(|callee| session.party(role) != Some(callee));
    let Some(callee) = callee.cloned() else { return Decision::Nobody(Arc::clone(session)) };
    let plan = DialPlan { session: Arc::clone(session), callee, callee_role: role.other() };
    match &session.pin {
        Some(pin) if pin.force => {
            let own = pin.of(role);
            Decision::AskPin(PinPlan {
                doors: vec![(own.clone(), Some(plan))],
                forced: Some(role),
                retry: pin.retry,
                retry_wait: pin.retry_wait,
                prompt_url: pin.prompt_play.clone(),
                incorrect_url: pin.incorrect_play.clone(),
            })
        }
        _ => Decision::Dial(plan),
    }
}

fn plan_to(session: &Arc<MaskingSession>, callee_role: PartyRole) -> Option<DialPlan> {
    let callee = session.party(callee_role)?.clone();
    Some(DialPlan { session: Arc::clone(session), callee, callee_role })
}

fn known_party(session: &Arc<MaskingSession>) -> Option<DialPlan> {
    plan_to(session, PartyRole::First).or_else(|| plan_to(session, PartyRole::Second))
}

/// The first party's PIN leads to the second party and the other way round; in a session with one known
/// party either PIN leads to it.
fn pin_plan(sessions: &[Arc<MaskingSession>], caller: Option<&E164>) -> Option<PinPlan> {
    let first = sessions.first()?.pin.as_ref()?;
    let mut plan = PinPlan {
        doors: Vec::with_capacity(sessions.len() * 2),
        forced: None,
        retry: first.retry,
        retry_wait: first.retry_wait,
        prompt_url: first.prompt_play.clone(),
        incorrect_url: first.incorrect_play.clone(),
    };
    for session in sessions {
        let Some(pin) = &session.pin else { continue };
        for (own, leads_to) in
            [(&pin.first_party_pin, PartyRole::Second), (&pin.second_party_pin, PartyRole::First)]
        {
            let door = plan_to(session, leads_to).or_else(|| plan_to(session, leads_to.other()));
            plan.doors.push((own.clone(), door.filter(|door| Some(&door.callee) != caller)));
        }
    }
    Some(plan)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::masking::session::{HttpMethod, PinSettings, RecordFormat};
    use crate::store::VirtualNumber;
    use jiff::{SignedDuration, Timestamp};
    use std::time::Duration;
    use uuid::Uuid;

    const FIRST: &str = "12025550142";
    const SECOND: &str = "12025550143";
    const STRANGER: &str = "12025550177";
    const PARTNER: &str = "12025550188";
    const NOW: Timestamp = Timestamp::UNIX_EPOCH;

    fn session(first: Option<&str>, second: Option<&str>) -> MaskingSession {
        MaskingSession {
            uuid: Uuid::nil(),
            account: "MA".to_owned(),
            subaccount: None,
            virtual_number: Did::parse("12025550100").unwrap(),
            first_party: first.and_then(E164::parse),
            second_party: second.and_then(E164::parse),
            created_at: NOW,
            modified_at: NOW,
            expires_at: NOW + SignedDuration::from_secs(60),
            ended_at: None,
            call_time_limit: Duration::from_secs(60),
            ring_timeout: Duration::from_secs(45),
            record: true,
            record_file_format: RecordFormat::Mp3,
            recording_callback_url: String::new(),
            recording_callback_method: HttpMethod::Post,
            callback_url: String::new(),
            callback_method: HttpMethod::Post,
            initiate_call_to_first_party: false,
            first_party_play_url: "first.wav".to_owned(),
            second_party_play_url: "second.wav".to_owned(),
            pin: None,
            unknown_caller_play: String::new(),
            geomatch: true,
            single_party: None,
            cooloff: Duration::ZERO,
        }
    }

    fn with_pins(mut session: MaskingSession, force: bool) -> MaskingSession {
        session.pin = Some(PinSettings {
            first_party_pin: Pin::parse("1111").unwrap(),
            second_party_pin: Pin::parse("2222").unwrap(),
            prompt_play: String::new(),
            retry: 1,
            retry_wait: Duration::from_secs(5),
            incorrect_play: String::new(),
            force,
            generated: false,
            generate_length: 4,
        });
        session
    }

    fn call(caller: Option<&str>, sessions: Vec<MaskingSession>, no_session: NoSession) -> Decision {
        call_after(false, caller, sessions, no_session)
    }

    /// The same, `talked`: somebody has talked through the session before.
    fn call_after(
        talked: bool,
        caller: Option<&str>,
        sessions: Vec<MaskingSession>,
        no_session: NoSession,
    ) -> Decision {
        let did = Did::parse("12025550100").unwrap();
        let number =
            VirtualNumber { did: did.clone(), trunk: "t".to_owned(), account: "MA".to_owned(), no_session };
        let sessions = sessions.into_iter().map(Arc::new).collect();
        let query = Query { dialled: did, caller: caller.and_then(E164::parse) };
        let partner = E164::parse(PARTNER);
        decide(&query, Some(&Route { number, sessions }), partner.as_ref().filter(|_| talked), NOW)
    }

    /// A short word for a decision: whom it rings, or what else happens.
    fn word(decision: &Decision) -> String {
        match decision {
            Decision::Refuse(status) => status.to_string(),
            Decision::Dial(plan) => format!("dial {}", plan.callee.digits()),
            Decision::Play { url, .. } => format!("play {url}"),
            Decision::Forward(uri) => format!("to {uri}"),
            Decision::Nobody(_) => "nobody".to_owned(),
            Decision::AskPin(plan) => {
                let door = |(pin, to): &(Pin, Option<DialPlan>)| {
                    let to = to.as_ref().map_or("nobody", |plan| plan.callee.digits());
                    format!("{}→{to}", pin.digits())
                };
                format!("pin {}", plan.doors.iter().map(door).collect::<Vec<_>>().join(" "))
            }
        }
    }

    #[test]
    fn the_first_row_that_fits_decides() {
        use NoSession::{Play, Reject, Sip};
        let both = || session(Some(FIRST), Some(SECOND));
        let single = || MaskingSession { single_party: Some(true), ..session(Some(FIRST), None) };
        let told = || MaskingSession { unknown_caller_play: "sorry.wav".to_owned(), ..both() };
        let ended = || MaskingSession { ended_at: Some(NOW), ..both() };
        let expired = || MaskingSession { expires_at: NOW, ..both() };
        let strangers_pin = "pin 1111→12025550143 2222→12025550142";
        let table = [
            ("party: the other party", Some(FIRST), vec![both()], Reject, "dial 12025550143"),
            ("and the other way round", Some(SECOND), vec![both()], Reject, "dial 12025550142"),
            (
                "PINs are for strangers",
                Some(FIRST),
                vec![with_pins(both(), false)],
                Reject,
                "dial 12025550143",
            ),
            (
                "forced: only his own",
                Some(FIRST),
                vec![with_pins(both(), true)],
                Reject,
                "pin 1111→12025550143",
            ),
            ("the other's own", Some(SECOND), vec![with_pins(both(), true)], Reject, "pin 2222→12025550142"),
            ("single party: anybody", Some(STRANGER), vec![single()], Reject, "dial 12025550142"),
            ("single party: no number", None, vec![single()], Reject, "dial 12025550142"),
            ("its party has nobody to call", Some(FIRST), vec![single()], Reject, "nobody"),
            ("stranger with PIN", Some(STRANGER), vec![with_pins(both(), false)], Reject, strangers_pin),
            ("no number, with PIN", None, vec![with_pins(both(), true)], Reject, strangers_pin),
            ("stranger, message", Some(STRANGER), vec![told()], Sip("sip:a@b".into()), "play sorry.wav"),
            (
                "PIN before message",
                Some(STRANGER),
                vec![told(), with_pins(both(), false)],
                Reject,
                strangers_pin,
            ),
            ("stranger", Some(STRANGER), vec![both()], Reject, "404"),
            ("nobody", Some(STRANGER), vec![], Reject, "404"),
            ("no_session message", Some(STRANGER), vec![], Play("bye.wav".into()), "play bye.wav"),
            ("no_session URI", None, vec![both()], Sip("sip:desk@pbx".into()), "to sip:desk@pbx"),
            ("deleted", Some(FIRST), vec![ended()], Reject, "404"),
            ("expired at this moment", Some(FIRST), vec![expired()], Reject, "404"),
        ];
        for (requirement, caller, sessions, no_session, expected) in table {
            assert_eq!(word(&call(caller, sessions, no_session)), expected, "{requirement}");
        }
    }

    #[test]
    fn a_number_that_is_not_ours_is_404() {
        let query = Query { dialled: Did::parse("12025550100").unwrap(), caller: E164::parse(FIRST) };
        assert_eq!(decide(&query, None, None, NOW), Decision::Refuse(404));
    }

    #[test]
    fn the_known_party_reaches_whoever_it_talked_with_last() {
        let single = || MaskingSession { single_party: Some(true), ..session(Some(FIRST), None) };
        let of_second = || MaskingSession { single_party: Some(true), ..session(None, Some(SECOND)) };
        let filled_in = || MaskingSession { single_party: Some(true), ..session(Some(FIRST), Some(SECOND)) };
        let table = [
            ("its party", Some(FIRST), vec![single()], "dial 12025550188"),
            ("its party, being the second", Some(SECOND), vec![of_second()], "dial 12025550188"),
            ("with PIN, for strangers", Some(FIRST), vec![with_pins(single(), false)], "dial 12025550188"),
            ("with forced PIN", Some(FIRST), vec![with_pins(single(), true)], "pin 1111→12025550188"),
            ("the other party is known by now", Some(FIRST), vec![filled_in()], "dial 12025550143"),
            ("a stranger still reaches the party", Some(STRANGER), vec![single()], "dial 12025550142"),
        ];
        for (requirement, caller, sessions, expected) in table {
            let decision = call_after(true, caller, sessions, NoSession::Reject);
            assert_eq!(word(&decision), expected, "{requirement}");
        }
        let himself = MaskingSession { single_party: Some(true), ..session(Some(PARTNER), None) };
        let decision = call_after(true, Some(PARTNER), vec![himself], NoSession::Reject);
        assert_eq!(word(&decision), "nobody", "nobody is rung by himself");
    }

    #[test]
    fn a_call_that_we_place_goes_on_like_one_of_the_first_party() {
        let both = || session(Some(FIRST), Some(SECOND));
        let table = [
            (both(), "dial 12025550143"),
            (with_pins(both(), false), "dial 12025550143"),
            (with_pins(both(), true), "pin 1111→12025550143"),
            (session(Some(FIRST), None), "nobody"),
        ];
        for (session, expected) in table {
            assert_eq!(word(&initiated(&Arc::new(session))), expected);
        }
    }

    #[test]
    fn a_pin_that_would_ring_the_caller_himself_leads_nowhere() {
        let other = with_pins(session(Some(FIRST), Some(SECOND)), false);
        let plan = pin_plan(&[Arc::new(other)], E164::parse(SECOND).as_ref()).unwrap();
        assert_eq!(word(&Decision::AskPin(plan)), "pin 1111→nobody 2222→12025550142");
    }

    #[test]
    fn each_party_hears_its_own_message() {
        let session = Arc::new(session(Some(FIRST), Some(SECOND)));
        let to_second = plan_to(&session, PartyRole::Second).unwrap();
        assert_eq!((to_second.caller_play_url(), to_second.callee_play_url()), ("first.wav", "second.wav"));
        let to_first = plan_to(&session, PartyRole::First).unwrap();
        assert_eq!((to_first.caller_play_url(), to_first.callee_play_url()), ("second.wav", "first.wav"));
    }
}

//! The shell of a call: the only async code that it has. Waits for one event, feeds the machine, does what it says.

use super::cdr::HangupCause;
use super::dispatch::{CallHandle, KeyGuard};
use super::identity;
use super::leg::response_hop;
use super::registry::{Permit, Shell, TrunkLeg, Unsettled};
use super::{Action, Call, Event, NoPort, sound};
use crate::clock;
use crate::ids::IdSource;
use crate::sip::message::{Message, Method, Request};
use crate::sip::transport::Flow;
use crate::store::{Cdr, Note};
use media::engine::MediaHandle;
use media::{MediaEvent, Side};
use std::net::IpAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tracing::{debug, error};
use uuid::Uuid;

/// How much the timers of calls that are over may be late.
const LINGER_STEP: Duration = Duration::from_millis(100);

/// One call's task. When it ends, its keys, sockets and transactions are gone.
pub(super) struct CallTask {
    pub(super) call: Call,
    pub(super) handle: CallHandle,
    pub(super) inbox: mpsc::Receiver<Event>,
    pub(super) shell: Arc<Shell>,
    /// Given back when the call stops counting as one; what lingers afterwards is tiny.
    pub(super) permit: Option<Permit>,
    /// The place of the B-leg on its trunk, where that takes only so many.
    pub(super) callee_leg: Option<TrunkLeg>,
    /// Goes with the record, and is given back when that is stored: a drain waits for it.
    pub(super) unsettled: Option<Unsettled>,
    pub(super) keys: KeyGuard,
    /// What the registry knows of it.
    pub(super) known_session: Option<Uuid>,
}

/// So many bugs that one call meets are too many: it is dropped instead of ended in order.
const MAX_FAULTS: u32 = 3;

/// What a running task has beside the call.
struct Hands {
    /// What nobody needs any more once the call is over.
    jobs: JoinSet<Event>,
    media: Option<MediaHandle>,
    /// Not bounded: the engine tells one event per key press or step of a call's media, at most some fifty a second.
    media_events: mpsc::UnboundedSender<Box<MediaEvent>>,
    /// Events that an action brought about at once.
    immediate: Vec<Event>,
    /// When the call wants to be woken.
    deadline: Option<Instant>,
    /// Bugs that the call has met.
    faults: u32,
}

impl CallTask {
    /// Runs the call to its end. `first` is what the machine wanted when it was made. Boxed, like what happens rarely: a
    /// future has room for whatever it holds at any time, and lives on while the call's transactions do.
    pub(super) async fn run(mut self: Box<Self>, first: Vec<Action>) {
        let (media_events, mut from_media) = mpsc::unbounded_channel();
        let mut hands = Hands {
            jobs: JoinSet::new(),
            media: None,
            media_events,
            immediate: Vec::new(),
            deadline: None,
            faults: 0,
        };
        debug!("call started");
        let mut goes_on = self.guarded(&mut hands, |_, _| first) || self.end_after_fault(&mut hands);
        while goes_on && !self.call.is_finished() {
            let event = match hands.immediate.pop() {
                Some(event) => event,
                None => {
                    let deadline = hands.deadline.map(|at| self.wake_up_at(at));
                    next(deadline, &mut hands.jobs, &mut from_media, &mut self.inbox).await
                }
            };
            match &event {
                Event::Media(event) => sound::observe(event, self.handle.id),
                Event::Message(received) if self.refuses(&received.0, &received.1) => continue,
                _ => {}
            }
            goes_on = self.guarded(&mut hands, |call, now| call.handle(event, now))
                || self.end_after_fault(&mut hands);
        }
        if !goes_on {
            self.drop_call(hands);
        }
        debug!("call ended");
    }

    /// Is it a request from an address that is none of its leg's trunk? Such a one gets 481, as if there were no dialog:
    /// who has learned the tags of a call must still be its peer to end it.
    fn refuses(&self, message: &Message, flow: &Flow) -> bool {
        let Message::Request(request) = message else { return false };
        let source = flow.peer.ip();
        let trunk = self.call.trunk_to_ask(message, source);
        let refuses = trunk.is_some_and(|trunk| !self.shell.speaks_for(trunk, source));
        if refuses {
            self.refuse(request, flow);
        }
        refuses
    }

    fn refuse(&self, request: &Request, flow: &Flow) {
        self.shell.counters.refused_source.increment(1);
        if request.method != Method::ACK {
            let tag = IdSource::from_system().tag();
            let response = identity::response(&request.response_head(flow.peer), 481, Some(&tag));
            self.shell.send(response.encode(), &response_hop(request, flow));
        }
    }

    /// When to wake up for a deadline. Once a call is over only transactions linger, and thousands of calls do so at
    /// one time: their timers, of half a second and more, fire together, up to 100 ms late.
    fn wake_up_at(&self, deadline: Instant) -> Instant {
        if self.call.is_live() {
            return deadline;
        }
        let since_start = deadline.saturating_duration_since(self.shell.started);
        let step = LINGER_STEP.as_nanos();
        let steps = since_start.as_nanos().div_ceil(step);
        self.shell.started + LINGER_STEP * u32::try_from(steps).unwrap_or(u32::MAX)
    }

    /// Lets the machine do something, and does what it says. False: that met a bug, which must not be the end of
    /// anything but this call.
    fn guarded(&mut self, hands: &mut Hands, work: impl FnOnce(&mut Call, Instant) -> Vec<Action>) -> bool {
        let doing = AssertUnwindSafe(|| {
            #[cfg(debug_assertions)]
            self.shell.faults.strike(self.handle.id);
            let now = clock::now();
            let actions = work(&mut self.call, now);
            self.perform(actions, hands, now);
            hands.deadline = self.call.deadline();
        });
        let whole = catch_unwind(doing).is_ok();
        if !whole {
            hands.faults += 1;
            self.shell.counters.internal_errors.increment(1);
            error!(interaction = %self.handle.id, "internal error: the call is ended");
        }
        whole
    }

    /// After a bug: both legs are hung up in order, once that can be done. False: it cannot.
    fn end_after_fault(&mut self, hands: &mut Hands) -> bool {
        let hang_up = Event::HangUp(HangupCause::InternalError);
        hands.faults < MAX_FAULTS && self.guarded(hands, |call, now| call.handle(hang_up, now))
    }

    /// The call cannot even be ended in order: its keys, ports and places are given back, and it leaves its record.
    fn drop_call(&mut self, mut hands: Hands) {
        hands.media = None;
        self.permit = None;
        self.callee_leg = None;
        let call = &mut self.call;
        // An account of it that would be the next bug is left out.
        let record = catch_unwind(AssertUnwindSafe(|| call.give_up(clock::now()))).ok().flatten();
        if let Some(record) = record {
            self.close(record);
        }
    }

    /// Stores the record, however long that takes and whatever becomes of the call meanwhile.
    fn close(&mut self, cdr: Box<Cdr>) {
        let (shell, inbox) = (Arc::clone(&self.shell), self.handle.inbox.clone());
        let unsettled = self.unsettled.take();
        self.shell.outlive(async move {
            shell.close_call(*cdr).await;
            drop(unsettled);
            // The call may have ended without waiting for it.
            let _ = inbox.send(Event::CdrStored).await;
        });
    }

    /// Never awaits: a CANCEL must reach the machine while a look-up is still running.
    fn perform(&mut self, actions: Vec<Action>, hands: &mut Hands, now: Instant) {
        let mut notes = Vec::new();
        for action in actions {
            let shell = Arc::clone(&self.shell);
            match action {
                Action::Send { wire, to } => shell.send(wire, &to),
                Action::FindSession(look_up, query, buckets) => {
                    hands.start(async move {
                        Event::Found(look_up, shell.find_and_count(&query, buckets).await.map(Box::new))
                    });
                }
                Action::ForgiveGuess(buckets) => shell.forgive_guess(buckets),
                Action::Index(key) => self.keys.add_dialog(key, &self.handle),
                Action::OpenMedia { a, b } => hands.open_media(&shell, a, b),
                Action::Media(command) => {
                    if let Some(media) = &hands.media {
                        media.command_of(command, now);
                    }
                }
                Action::LegOpened(leg) => notes.push(Note::Leg(leg)),
                Action::LegAnswered(leg, at) => notes.push(Note::Answer(leg, at)),
                Action::Happened(event) => notes.push(Note::Event(event)),
                Action::FileRecording(names, report) => {
                    let (inbox, unsettled) = (self.handle.inbox.clone(), shell.unsettled());
                    self.shell.outlive(async move {
                        shell.file_recording(names, *report).await;
                        drop(unsettled);
                        let _ = inbox.send(Event::RecordingFiled).await;
                    });
                }
                Action::CloseCall(cdr) => self.close(cdr),
                Action::Bridged => shell.counters.bridged.increment(1),
                Action::Unauthorized { trunk, why } => shell.unauthorized(&trunk, why),
                Action::Pace(side, trunk) => {
                    let wait = match side {
                        // Its place is the permit's.
                        Side::A => shell.turn(&trunk),
                        Side::B => {
                            // The attempt before this one is over.
                            self.callee_leg = None;
                            let place = shell.leave_by(&trunk);
                            let wait = place.as_ref().map(|(_, wait)| *wait);
                            self.callee_leg = place.map(|(leg, _)| leg);
                            wait
                        }
                    };
                    match wait {
                        Some(wait) if !wait.is_zero() => {
                            hands.jobs.spawn(async move {
                                clock::sleep(wait).await;
                                Event::Paced(true)
                            });
                        }
                        wait => hands.immediate.push(Event::Paced(wait.is_some())),
                    }
                }
                Action::Learned(news) => shell.gateways.learn(&news.trunk, news.target, news.outcome),
            }
        }
        if !notes.is_empty() {
            self.shell.noted(self.shell.store.note(notes));
        }
        if self.known_session != self.call.session() {
            self.known_session = self.call.session();
            self.shell.registry_entry(&self.handle, self.known_session);
        }
        if !self.call.may_have_callee() {
            self.callee_leg = None;
        }
        if !self.call.is_live() {
            self.permit = None;
        } else if let Some(permit) = self.permit.as_mut().filter(|permit| permit.is_half_open())
            && self.call.is_set_up()
        {
            permit.set_up();
        }
    }
}

/// The next event of a call. What a peer may send as often as it likes comes last, so that it keeps nothing else waiting:
/// a timer that has fired moves on, and of jobs and media there are few.
async fn next(
    deadline: Option<Instant>,
    jobs: &mut JoinSet<Event>,
    from_media: &mut mpsc::UnboundedReceiver<Box<MediaEvent>>,
    inbox: &mut mpsc::Receiver<Event>,
) -> Event {
    // A sleep is told of by the runtime's clock, which stands still while there is always something else to do.
    if deadline.is_some_and(|deadline| deadline <= clock::now()) {
        return Event::Timeout;
    }
    tokio::select! {
        biased;
        // A job that panics yields no event; the machine's own deadline covers it.
        Some(Ok(event)) = jobs.join_next() => event,
        Some(event) = from_media.recv() => Event::Media(event),
        Some(event) = inbox.recv() => event,
        () = clock::sleep_until(deadline) => Event::Timeout,
    }
}

impl Hands {
    /// Does a job beside the call. One that need not wait, as a look-up whose answer is known, costs no task.
    fn start(&mut self, job: impl Future<Output = Event> + Send + 'static) {
        let mut job = Box::pin(job);
        match job.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(event) => self.immediate.push(event),
            Poll::Pending => drop(self.jobs.spawn(job)),
        }
    }

    fn open_media(&mut self, shell: &Shell, a: IpAddr, b: IpAddr) {
        let events = self.media_events.clone();
        let sink = Box::new(move |event| {
            // The call is over: nobody wants to know any more.
            let _ = events.send(Box::new(event));
        });
        let opened = match shell.engine.open(a, b, sink) {
            Ok(media) => {
                let ports = (media.port(Side::A), media.port(Side::B));
                self.media = Some(media);
                Ok(ports)
            }
            Err(error) => {
                shell.counters.no_media.increment(1);
                shell.complain("media", &error);
                Err(NoPort)
            }
        };
        self.immediate.push(Event::MediaOpened(opened));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sixty-four messages wait, and a peer sends more than one for each that is taken.
    #[tokio::test(start_paused = true)]
    async fn a_full_inbox_keeps_no_timer_job_or_media_waiting() {
        let (peer, mut inbox) = mpsc::channel(64);
        let (media, mut from_media) = mpsc::unbounded_channel();
        let mut jobs = JoinSet::new();
        jobs.spawn(async { Event::Paced(true) });
        while peer.capacity() > 0 {
            peer.send(Event::HangUp(HangupCause::Normal)).await.unwrap();
        }
        media.send(Box::new(MediaEvent::Silence)).unwrap();
        let due = Some(clock::now());
        tokio::time::advance(Duration::from_secs(1)).await;
        let timer = next(due, &mut jobs, &mut from_media, &mut inbox).await;
        let job = next(None, &mut jobs, &mut from_media, &mut inbox).await;
        let silence = next(None, &mut jobs, &mut from_media, &mut inbox).await;
        let message = next(None, &mut jobs, &mut from_media, &mut inbox).await;
        assert!(matches!(timer, Event::Timeout), "{timer:?}");
        assert!(matches!(job, Event::Paced(true)), "{job:?}");
        assert!(matches!(silence, Event::Media(_)), "{silence:?}");
        assert!(matches!(message, Event::HangUp(_)), "{message:?}");
    }
}

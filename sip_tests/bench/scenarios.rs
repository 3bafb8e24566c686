//! The measurements, each on a service that has just been started.

use std::time::Duration;

use serde_json::{Value, json};
use sip_tests::clock;

use crate::bare::BareLoop;
use crate::many::{self, BATCH, Crowd};
use crate::phones::{Counts, Phones};
use crate::process::{Holdings, Process};
use crate::server::Server;
use crate::stats::{count, round, spread};
use crate::traffic::{End, Totals, Traffic};
use crate::{Failure, Options, process, recordings};

/// How long the idle load is watched before a scenario.
const IDLE: Duration = Duration::from_secs(2);
/// Media runs for so long before the window begins.
const WARM_UP: Duration = Duration::from_secs(2);
/// Set-up rate of calls that are then held.
const HELD_CALLS_PER_SECOND: u32 = 50;
/// Descriptors of the service besides those of calls.
const OTHER_DESCRIPTORS: u64 = 200;
/// RTP and RTCP for each leg.
const DESCRIPTORS_PER_CALL: u64 = 4;

/// The service, or nothing when the phones call each other.
struct Target {
    server: Option<Server>,
    idle: f64,
    before: Holdings,
}

impl Target {
    fn start(options: &Options, phones: &mut Phones, record: bool) -> Result<Self, Failure> {
        if options.direct {
            return Ok(Self { server: None, idle: 0.0, before: Holdings::default() });
        }
        let program = options.server_program()?;
        let (scratch, cores) = (options.scratch(), options.cores());
        let server = Server::start(&program, &scratch, phones.callee_address(), &options.engine, cores)?;
        let number = server.session(record)?;
        phones.dial_to(server.sip, &number);
        // What the start leaves to do is done before the idle load is taken.
        std::thread::sleep(Duration::from_millis(500));
        let idle = server.process.idle_load(IDLE)?;
        let before = server.process.holdings()?;
        Ok(Self { server: Some(server), idle, before })
    }

    fn process(&self) -> Option<&Process> {
        self.server.as_ref().map(|server| &server.process)
    }

    fn holdings(&self) -> Result<Holdings, Failure> {
        self.process().map_or(Ok(Holdings::default()), Process::holdings)
    }

    /// The service's last words when calls failed.
    fn explain(&self, failed: u64) {
        if let Some(server) = &self.server
            && failed > 0
        {
            eprintln!("{failed} calls failed; the service said:\n{}", server.log());
        }
    }
}

fn failed(counts: Counts) -> u64 {
    counts.dialled - counts.completed.min(counts.ended_at_callee).min(counts.dialled)
}

/// Calls at a fixed rate, without media.
pub(crate) fn signalling(options: &Options) -> Result<Value, Failure> {
    let mut phones = Phones::new()?;
    let target = Target::start(options, &mut phones, false)?;
    phones.hold_for(Some(Duration::from_millis(options.hold_ms)));
    let calls = u64::from(options.rate) * options.seconds;
    let media = phones.callee_address();
    let before = target.process().map(Process::usage).transpose()?;
    let begin = clock::now();
    let limit = Duration::from_secs(options.seconds + 30) + Duration::from_millis(options.hold_ms);
    let mut busy = None;
    phones.run(limit, |phones, now| {
        let due = Duration::as_secs_f64(&(now - begin)) * f64::from(options.rate);
        while phones.counts().dialled < calls && count(phones.counts().dialled) <= due {
            phones.dial(media, now);
        }
        if busy.is_none() && phones.counts().dialled * 10 >= calls * 9 {
            busy = target.holdings().ok();
        }
        phones.counts().dialled == calls && phones.is_quiet()
    })?;
    let spent = match (target.process(), before) {
        (Some(process), Some(before)) => Some(process.since(before)?),
        _ => None,
    };
    let counts = phones.counts();
    target.explain(failed(counts));
    let per_call = |seconds: f64| round(seconds * 1000.0 / count(counts.dialled.max(1)), 4);
    Ok(json!({
        "scenario": "signalling",
        "calls_per_second": options.rate,
        "seconds": options.seconds,
        "hold_ms": options.hold_ms,
        "calls": counts.dialled,
        "failed": failed(counts),
        "retransmissions": { "by_load": counts.repeated, "by_service": counts.repeats_received },
        "unexpected_messages": counts.unexpected,
        "setup_ms": spread(&mut phones.take_setup_times(), 1000.0),
        "cpu_ms_per_call": spent.map(|spent| per_call(spent.net(target.idle))),
        "cpu_system_share": spent.map(|spent| round(spent.system_share(), 2)),
        "cpu_percent": spent.map(|spent| round(spent.load() * 100.0, 1)),
        "idle_cpu_percent": round(target.idle * 100.0, 2),
        "rss_kb_before": target.before.rss_kb,
        "rss_kb_busy": busy.map(|busy| busy.rss_kb),
        "rss_kb_after": target.holdings()?.rss_kb,
        "load_average": process::load_average(),
    }))
}

/// Sets up calls one after another, without hanging up; `aside` sees each millisecond.
fn set_up(phones: &mut Phones, traffic: Option<&mut Traffic>, calls: usize) -> Result<(), Failure> {
    phones.hold_for(None);
    let already = phones.counts().dialled;
    let wanted = already + u64::try_from(calls)?;
    let media = match &traffic {
        Some(traffic) => traffic.ports(End::Caller)?,
        None => vec![phones.callee_address()],
    };
    let begin = clock::now();
    let limit = Duration::from_secs(15 + u64::try_from(calls)? / u64::from(HELD_CALLS_PER_SECOND));
    phones.run(limit, |phones, now| {
        let due = (now - begin).as_secs_f64() * f64::from(HELD_CALLS_PER_SECOND);
        while phones.counts().dialled < wanted && count(phones.counts().dialled - already) <= due {
            let turn = usize::try_from(phones.counts().dialled).unwrap_or_default();
            let own = media.get(turn % media.len().max(1)).copied();
            phones.dial(own.unwrap_or_else(|| phones.callee_address()), now);
        }
        phones.counts().dialled == wanted && phones.is_settled()
    })?;
    if let Some(traffic) = traffic {
        for path in phones.take_media_paths() {
            traffic.aim(path.own, path.destination);
        }
    }
    Ok(())
}

/// What the window of a media run showed.
struct Window {
    /// µs of CPU per packet that arrived at the far end.
    cpu_us: Option<f64>,
    report: Value,
}

/// Warm-up, window, and the count after what was on its way has arrived. `aside` keeps the calls alive.
fn measure(
    traffic: &mut Traffic,
    process: Option<&Process>,
    idle: f64,
    seconds: u64,
    mut aside: impl FnMut() -> Result<(), Failure>,
) -> Result<Window, Failure> {
    traffic.run(WARM_UP, &mut aside)?;
    traffic.start_sampling();
    let (before, start) = (process.map(Process::usage).transpose()?, traffic.totals());
    traffic.run(Duration::from_secs(seconds), &mut aside)?;
    let end = traffic.totals();
    let spent = match (process, before) {
        (Some(process), Some(before)) => Some(process.since(before)?),
        _ => None,
    };
    let mut delays = traffic.take_delays();
    traffic.drain(Duration::from_millis(500))?;
    let packets = end.received() - start.received();
    let cpu_us = spent.map(|spent| round(spent.net(idle) * 1e6 / count(packets.max(1)), 3));
    let Totals { sent_by_callers, sent_by_callees, received_from_callers, received_from_callees, .. } =
        traffic.totals();
    let lost =
        (sent_by_callers + sent_by_callees).saturating_sub(received_from_callers + received_from_callees);
    let report = json!({
        "seconds": seconds,
        "packets_per_second": round(count(packets) / count(seconds.max(1)), 0),
        "cpu_us_per_packet": cpu_us,
        "cpu_system_share": spent.map(|spent| round(spent.system_share(), 2)),
        "cpu_percent": spent.map(|spent| round(spent.load() * 100.0, 1)),
        "idle_cpu_percent": round(idle * 100.0, 2),
        "packets_in_window": packets,
        "sent": { "by_callers": sent_by_callers, "by_callees": sent_by_callees },
        "arrived": { "from_callers": received_from_callers, "from_callees": received_from_callees },
        "lost": lost,
        "lost_percent": round(100.0 * count(lost) / count(traffic.totals().sent().max(1)), 4),
        "late": traffic.totals().late,
        "foreign": traffic.totals().foreign,
        "deaf_ends": traffic.deaf(),
        "delay_us": spread(&mut delays, 1.0),
        "load_late_ticks": traffic.totals().load_late,
        "load_average": process::load_average(),
    });
    Ok(Window { cpu_us, report })
}

/// A scenario's line and the figure that the summary takes from it.
pub(crate) struct Measured {
    pub(crate) line: Value,
    pub(crate) cpu_us: Option<f64>,
}

/// Calls with two-way media, recorded or not.
pub(crate) fn relay(options: &Options, record: bool) -> Result<Measured, Failure> {
    let mut phones = Phones::new()?;
    let calls = options.calls_possible();
    let mut traffic = Traffic::new(calls)?;
    phones.answer_with(traffic.ports(End::Callee)?);
    let target = Target::start(options, &mut phones, record)?;
    set_up(&mut phones, Some(&mut traffic), calls)?;
    let up = phones.counts().answered;
    let aimed = traffic.aimed();
    let window = measure(&mut traffic, target.process(), target.idle, options.media_seconds, || {
        phones.poll(Duration::ZERO)
    })?;
    let busy = target.holdings()?;
    let begin = clock::now();
    let mut next = 0;
    // Spread over a second: a hundred BYEs at once would be another measurement.
    phones.run(Duration::from_secs(15), |phones, now| {
        let due = (now - begin).as_secs_f64() * count(up);
        while next < calls && f64::from(u32::try_from(next).unwrap_or(u32::MAX)) <= due {
            phones.end_call(next, now);
            next += 1;
        }
        next == calls && phones.is_quiet()
    })?;
    let counts = phones.counts();
    target.explain(failed(counts));
    let mut line = json!({
        "scenario": if record { "record" } else { "relay" },
        "calls": counts.dialled,
        "answered": up,
        "failed": failed(counts),
        "ends_with_media": aimed,
    });
    let grown = busy.rss_kb.saturating_sub(target.before.rss_kb);
    extend(&mut line, window.report);
    extend(
        &mut line,
        json!({
            "rss_kb": busy.rss_kb,
            "rss_kb_per_call": round(count(grown) / count(up.max(1)), 1),
            "threads": busy.threads,
            "descriptors": busy.descriptors,
        }),
    );
    if let Some(server) = target.server.as_ref().filter(|_| record) {
        let lengths =
            phones.talks().iter().filter_map(|talk| Some(talk.hung_up? - talk.answered)).collect::<Vec<_>>();
        let lengths: Vec<u32> =
            lengths.iter().map(|length| u32::try_from(length.as_millis()).unwrap_or(u32::MAX)).collect();
        // Every packet that was sent is 20 ms of sound in one of the files: packets_recorded equals what was sent.
        let report = recordings::check(&server.recordings(), &lengths, Duration::from_secs(20))?;
        extend(&mut line, json!({ "recordings": report }));
    }
    Ok(Measured { line, cpu_us: window.cpu_us })
}

/// The same packets through the bare loop.
pub(crate) fn bare(options: &Options, when: &str) -> Result<Measured, Failure> {
    let calls = options.calls_possible();
    let mut traffic = Traffic::new(calls)?;
    let (callers, callees) = (traffic.ports(End::Caller)?, traffic.ports(End::Callee)?);
    let peers: Vec<_> =
        callers.iter().zip(&callees).flat_map(|(caller, callee)| [*caller, *callee]).collect();
    let bare = BareLoop::start(&peers, options.cores())?;
    for (peer, leg) in peers.iter().zip(&bare.legs) {
        traffic.aim(*peer, *leg);
    }
    // Its tick is part of its work: nothing is taken off. The service stops ticking without calls.
    let window = measure(&mut traffic, Some(&bare.process), 0.0, options.bare_seconds, || Ok(()))?;
    let mut line = json!({ "scenario": "bare", "when": when, "calls": calls });
    extend(&mut line, window.report);
    Ok(Measured { line, cpu_us: window.cpu_us })
}

/// Memory while so many calls are held.
pub(crate) fn memory(options: &Options) -> Result<Value, Failure> {
    let mut phones = Phones::new()?;
    let target = Target::start(options, &mut phones, false)?;
    let most = process::descriptor_limit().saturating_sub(OTHER_DESCRIPTORS) / DESCRIPTORS_PER_CALL;
    let mut steps = vec![];
    for held in options.held.iter().map(|held| u64::from(*held)) {
        let up = phones.counts().answered;
        let wanted = held.min(most);
        if wanted <= up {
            continue;
        }
        set_up(&mut phones, None, usize::try_from(wanted - up)?)?;
        let now = target.holdings()?;
        let up = phones.counts().answered;
        let grown = now.rss_kb.saturating_sub(target.before.rss_kb);
        steps.push(json!({
            "calls": up,
            "rss_kb": now.rss_kb,
            "rss_kb_per_call": round(count(grown) / count(up.max(1)), 1),
            "descriptors": now.descriptors,
            "threads": now.threads,
        }));
    }
    phones.hang_up(clock::now());
    phones.run(Duration::from_secs(15), |phones, _| phones.is_quiet())?;
    let counts = phones.counts();
    target.explain(failed(counts));
    Ok(json!({
        "scenario": "memory",
        "rss_kb_before": target.before.rss_kb,
        "held": steps,
        "calls": counts.dialled,
        "failed": failed(counts),
        "rss_kb_after": target.holdings()?.rss_kb,
    }))
}

/// Many recorded calls that talk at one time.
pub(crate) fn recordings(options: &Options) -> Result<Value, Failure> {
    let most = process::descriptor_limit().saturating_sub(OTHER_DESCRIPTORS) / DESCRIPTORS_PER_CALL;
    let calls = options.recorded.min(usize::try_from(most)?).max(1);
    let mut phones = Phones::new()?;
    let mut crowd = Crowd::new(calls, options.packet_ms)?;
    phones.answer_with(crowd.ports(true)?);
    let target = Target::start(options, &mut phones, true)?;
    let Some(server) = &target.server else { return Err("recordings need the service".into()) };
    phones.hold_for(None);
    let callers = crowd.ports(false)?;
    let mut next = callers.iter();
    let begin = clock::now();
    let before = server.process.usage()?;
    // A leg talks when its whole batch is up: all that it says is part of the recording then.
    phones.run(Duration::from_secs(300), |phones, now| {
        crowd.tick(now);
        if !phones.is_settled() {
            return false;
        }
        phones.take_media_paths().into_iter().for_each(|path| crowd.aim(path.own, path.destination));
        let batch = next.by_ref().take(BATCH);
        batch.map(|media| phones.dial(*media, now)).count() == 0
    })?;
    let set_up = clock::now() - begin;
    let sent = crowd.sent();
    phones.run(Duration::from_secs(options.talk_seconds), |_, now| {
        crowd.tick(now);
        false
    })?;
    let (busy, talked) = (server.process.holdings()?, crowd.sent() - sent);
    crowd.hush();
    // What is on its way arrives before anybody hangs up.
    phones.run(Duration::from_secs(1), |_, _| false)?;
    let (begin, mut ended) = (clock::now(), 0);
    phones.run(Duration::from_secs(120), |phones, now| {
        let due = (now - begin).as_secs_f64() * f64::from(HELD_CALLS_PER_SECOND) * 4.0;
        while ended < calls && count(u64::try_from(ended).unwrap_or(u64::MAX)) <= due {
            phones.end_call(ended, now);
            ended += 1;
        }
        ended == calls && phones.is_quiet()
    })?;
    let counts = phones.counts();
    target.explain(failed(counts));
    let talks = phones.talks();
    let lengths = talks.iter().map(|talk| talk.hung_up.map_or(0, |end| (end - talk.answered).as_millis()));
    let lengths: Vec<u32> = lengths.map(|length| u32::try_from(length).unwrap_or(u32::MAX)).collect();
    let report = many::check(&server.recordings(), &crowd, &lengths, Duration::from_secs(180))?;
    let spent = server.process.since(before)?;
    let mut line = json!({
        "scenario": "recordings",
        "calls": counts.dialled,
        "answered": counts.answered,
        "failed": failed(counts),
        "packet_ms": options.packet_ms,
        "set_up_seconds": round(set_up.as_secs_f64(), 1),
        "talk_seconds": options.talk_seconds,
        "packets_per_second": round(count(talked) / count(options.talk_seconds), 0),
        "load_late_ticks": crowd.late(),
        "rss_kb": busy.rss_kb,
        "rss_kb_per_call": round(count(busy.rss_kb.saturating_sub(target.before.rss_kb)) / count(counts.answered.max(1)), 1),
        "threads": busy.threads,
        "descriptors": busy.descriptors,
        "cpu_seconds": round(spent.cpu.as_secs_f64(), 1),
        "load_average": process::load_average(),
    });
    extend(&mut line, report);
    Ok(line)
}

impl Options {
    /// As many calls as are asked for and the descriptors of either side allow.
    fn calls_possible(&self) -> usize {
        let most = process::descriptor_limit().saturating_sub(OTHER_DESCRIPTORS) / DESCRIPTORS_PER_CALL;
        self.calls.min(usize::try_from(most).unwrap_or(self.calls)).max(1)
    }
}

fn extend(line: &mut Value, more: Value) {
    if let (Some(line), Value::Object(more)) = (line.as_object_mut(), more) {
        line.extend(more);
    }
}

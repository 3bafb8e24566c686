//! What a call and a packet cost: one JSON line per scenario.
//!
//! | scenario | what is measured |
//! | --- | --- |
//! | `signalling` | CPU per call of INVITE, 100, 180, 200, ACK, hold, BYE at a fixed rate; time to the 200 |
//! | `relay` | CPU per relayed packet of two-way PCMU, delay at the far end, packets counted at both ends |
//! | `record` | the same with recording; the WAV files are opened and measured |
//! | `bare` | the same packets through a loop that only receives, checks, rewrites and sends: the floor, before and after |
//! | `memory` | resident memory while calls are held |
//! | `recordings` | thousands of recorded calls at one time, only when named: is each packet of each leg in its file? |
//! | `summary` | the figures and their ratio to the floor |
//!
//! The service runs on a core of its own, the load on another. CPU is the time of the whole process, what it uses
//! without calls taken off. Loopback delivery is charged to whoever sends, here as in the bare loop. Times depend on the
//! machine and on what else it does; ratios to the bare loop of the same run are what can be compared.
//! `delay_us` is from just before the send call to the kernel's receive time at the far end.
//!
//! ```text
//! callers ── SIP ──► service ── SIP ──► callees        phones    both sides of all calls
//! streams ── RTP ──► service ── RTP ──► streams        traffic   stamped packets and their count
//! ```

#![forbid(unsafe_code)]

mod bare;
mod epoll;
mod many;
mod phones;
mod process;
mod recordings;
mod scenarios;
mod server;
mod stats;
mod text;
mod traffic;

use std::error::Error;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand, ValueEnum};
use serde_json::{Value, json};

use crate::scenarios::Measured;
use crate::stats::round;

/// A measurement that fails ends the run with a sentence; nobody handles its kinds apart.
pub(crate) type Failure = Box<dyn Error>;

/// Measures what a call and a packet cost and prints one JSON line per scenario.
#[derive(Debug, Parser)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Options {
    #[command(subcommand)]
    command: Option<Internal>,
    /// What to run; everything when none is named.
    scenarios: Vec<Scenario>,
    /// signalling: calls per second.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=5000))]
    rate: u32,
    /// signalling: how long calls are made, in seconds.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds: u64,
    /// signalling: from ACK to BYE, in milliseconds.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u64).range(..=60_000))]
    hold_ms: u64,
    /// relay, record, bare: simultaneous calls, each with 100 packets per second.
    #[arg(long, default_value_t = 100)]
    calls: usize,
    /// relay, record: length of the window, in seconds.
    #[arg(long, default_value_t = 15, value_parser = clap::value_parser!(u64).range(1..=600))]
    media_seconds: u64,
    /// bare: length of the window, in seconds.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u64).range(1..=600))]
    bare_seconds: u64,
    /// memory: how many calls are held, one step after another.
    #[arg(long, value_delimiter = ',', default_value = "1,100,500")]
    held: Vec<u32>,
    /// recordings: simultaneous calls.
    #[arg(long, default_value_t = 2000)]
    recorded: usize,
    /// recordings: length of each packet, in milliseconds.
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u16).range(10..=60))]
    packet_ms: u16,
    /// recordings: how long all of them talk at one time, in seconds.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=600))]
    talk_seconds: u64,
    /// `media.engine` of the service: `auto`, `io_uring` or `epoll`. The bare loop is epoll's all the same.
    #[arg(long, default_value = "auto")]
    engine: String,
    /// The service's program; the one beside this program when not given.
    #[arg(long)]
    server: Option<PathBuf>,
    /// Where the service's files go for the time of a scenario; the system's directory for temporary files when not given.
    #[arg(long)]
    directory: Option<PathBuf>,
    /// The core of the service and of the bare loop.
    #[arg(long, default_value_t = 1)]
    server_core: usize,
    /// The core of the load.
    #[arg(long, default_value_t = 0)]
    load_core: usize,
    /// Callers call callees without a service between them: what the load itself can do.
    #[arg(long)]
    direct: bool,
}

/// Parts of a run that are processes of their own.
#[derive(Debug, Subcommand)]
enum Internal {
    /// The bare relay loop; started by the scenarios.
    #[command(hide = true)]
    BareLoop {
        /// Calls, each with two legs.
        calls: usize,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Scenario {
    Signalling,
    Relay,
    Record,
    Bare,
    Memory,
    Recordings,
}

/// Who runs where.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cores {
    pub(crate) server: usize,
    pub(crate) load: usize,
}

impl Options {
    pub(crate) fn cores(&self) -> Cores {
        Cores { server: self.server_core, load: self.load_core }
    }

    pub(crate) fn server_program(&self) -> Result<PathBuf, Failure> {
        match &self.server {
            Some(program) => Ok(std::path::absolute(program)?),
            None => Ok(std::env::current_exe()?.with_file_name("maskline")),
        }
    }

    pub(crate) fn scratch(&self) -> PathBuf {
        self.directory.clone().unwrap_or_else(std::env::temp_dir)
    }

    fn wants(&self, scenario: Scenario) -> bool {
        self.scenarios.contains(&scenario) || self.scenarios.is_empty() && scenario != Scenario::Recordings
    }
}

fn main() -> ExitCode {
    let options = Options::parse();
    let result = match options.command {
        Some(Internal::BareLoop { calls }) => bare::run_loop(calls),
        None => run(&options),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The bare loop runs before and after the media scenarios: what the machine does meanwhile shows as their difference.
fn run(options: &Options) -> Result<(), Failure> {
    process::run_on(options.load_core)?;
    let mut summary = Summary::default();
    if options.wants(Scenario::Signalling) {
        let line = scenarios::signalling(options)?;
        summary.signalling = line.get("cpu_ms_per_call").and_then(Value::as_f64);
        print(&line)?;
    }
    let media = options.wants(Scenario::Relay) || options.wants(Scenario::Record);
    let with_bare = !options.direct && (media || options.wants(Scenario::Bare));
    if with_bare {
        summary.bare.extend(take(&scenarios::bare(options, "before")?)?);
    }
    if options.wants(Scenario::Relay) {
        summary.relay = take(&scenarios::relay(options, false)?)?;
    }
    if options.wants(Scenario::Record) {
        summary.record = take(&scenarios::relay(options, true)?)?;
    }
    if with_bare && media {
        summary.bare.extend(take(&scenarios::bare(options, "after")?)?);
    }
    if options.wants(Scenario::Memory) {
        let line = scenarios::memory(options)?;
        let last = line.get("held").and_then(Value::as_array).and_then(|steps| steps.last());
        summary.memory = last.and_then(|step| step.get("rss_kb_per_call")).and_then(Value::as_f64);
        print(&line)?;
    }
    if options.wants(Scenario::Recordings) {
        print(&scenarios::recordings(options)?)?;
    }
    print(&summary.line())
}

fn take(measured: &Measured) -> Result<Option<f64>, Failure> {
    print(&measured.line)?;
    Ok(measured.cpu_us)
}

fn print(line: &Value) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")?;
    Ok(out.flush()?)
}

/// The figures that are compared from run to run.
#[derive(Debug, Default)]
struct Summary {
    signalling: Option<f64>,
    bare: Vec<f64>,
    relay: Option<f64>,
    record: Option<f64>,
    memory: Option<f64>,
}

impl Summary {
    fn line(&self) -> Value {
        let runs = f64::from(u32::try_from(self.bare.len()).unwrap_or_default());
        let floor = (runs > 0.0).then(|| self.bare.iter().sum::<f64>() / runs);
        let ratio = |figure: Option<f64>| Some(round(figure? / floor.filter(|floor| *floor > 0.0)?, 2));
        json!({
            "scenario": "summary",
            "signalling_cpu_ms_per_call": self.signalling,
            "bare_cpu_us_per_packet": floor.map(|floor| round(floor, 3)),
            "relay_cpu_us_per_packet": self.relay,
            "relay_to_bare": ratio(self.relay),
            "record_cpu_us_per_packet": self.record,
            "record_to_bare": ratio(self.record),
            "rss_kb_per_held_call": self.memory,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_scenario_means_all_and_the_inner_command_is_apart() {
        let all = Options::try_parse_from(["bench"]).unwrap();
        assert!(all.wants(Scenario::Memory) && all.wants(Scenario::Signalling));
        assert!(!all.wants(Scenario::Recordings));
        let one = Options::try_parse_from(["bench", "relay", "--calls", "10"]).unwrap();
        assert!(one.wants(Scenario::Relay) && !one.wants(Scenario::Memory) && one.calls == 10);
        let inner = Options::try_parse_from(["bench", "bare-loop", "3"]).unwrap();
        assert!(matches!(inner.command, Some(Internal::BareLoop { calls: 3 })));
        assert!(Options::try_parse_from(["bench", "--rate", "0"]).is_err());
    }

    #[test]
    fn ratios_are_to_the_mean_of_the_bare_runs() {
        let summary = Summary { bare: vec![6.0, 8.0], relay: Some(8.4), ..Summary::default() };
        let line = summary.line();
        assert_eq!((&line["bare_cpu_us_per_packet"], &line["relay_to_bare"]), (&json!(7.0), &json!(1.2)));
        assert_eq!(line["record_to_bare"], Value::Null);
        assert_eq!(Summary::default().line()["relay_to_bare"], Value::Null);
    }
}

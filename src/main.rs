//! The command line of Maskline.

use clap::{Parser, Subcommand};
use maskline::config::{self, Config};
use std::path::PathBuf;
use std::process::ExitCode;

/// A call's many small values are often made by one thread and freed by another, and thousands of ended calls
/// linger: glibc's arenas answer that with several system calls per call. Without huge pages, because clearing
/// one to use a part of it costs more than it saves.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Number masking on your own SIP trunks: two parties share a virtual number, and neither sees the other's.
#[derive(Parser)]
#[command(version, about)]
struct CommandLine {
    #[command(subcommand)]
    command: Option<Command>,
    /// TOML file; without one the built-in defaults hold. MASKLINE__SIP__LISTEN-style variables override both.
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
}

#[derive(Subcommand)]
enum Command {
    /// Runs the service (the default).
    Serve,
    /// Makes a whole masked call on loopback, shows what each side saw, and checks it.
    Demo,
    /// Checks the configuration; exit status 2 when it has faults.
    Check,
    /// Looks a trunk's gateways up, connects, checks certificates and asks by OPTIONS whether calls are taken; exit status
    /// 1 when something does not work.
    TrunkCheck {
        /// The trunk's name in the configuration.
        name: String,
        /// Also places a call to this number, from the trunk's first virtual number, and hangs up soon after its answer.
        #[arg(long, value_name = "NUMBER")]
        call: Option<String>,
    },
    /// Tells the running service to take no new call, and waits until its live calls have ended.
    Drain,
}

fn main() -> ExitCode {
    let CommandLine { command, config: path } = CommandLine::parse();
    let command = command.unwrap_or(Command::Serve);
    match command {
        Command::Demo => return maskline::demo(),
        Command::Check => return maskline::check(path.as_deref()),
        Command::Serve | Command::Drain | Command::TrunkCheck { .. } => {}
    }
    let checked = match Config::load(path.as_deref(), config::environment()) {
        Ok(checked) => checked,
        Err(faults) => {
            eprintln!("{faults}");
            return ExitCode::from(maskline::FAULTY_CONFIGURATION);
        }
    };
    match command {
        Command::Drain => maskline::drain(&checked),
        Command::TrunkCheck { name, call } => maskline::trunk_check(&checked, &name, call.as_deref()),
        _ => maskline::serve(&checked),
    }
}

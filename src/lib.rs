//! Maskline: number masking on a company's own SIP trunks.

pub mod call;
pub mod clock;
mod command;
pub mod config;
pub mod ids;
pub mod masking;
pub mod number;
pub mod prompts;
pub mod recording;
pub mod sip;
pub mod store;
pub mod trunk;

pub use command::{FAULTY_CONFIGURATION, PidFile, PidFileError, check, drain};

/// Runs the service until it has drained.
#[must_use]
pub fn serve(config: &config::Checked) -> std::process::ExitCode {
    eprintln!("serving is not part of this build; the configuration is\n{}", config.summary());
    std::process::ExitCode::FAILURE
}

/// Makes a whole masked call on loopback and checks what each side saw.
#[must_use]
pub fn demo() -> std::process::ExitCode {
    eprintln!("the demo is not part of this build");
    std::process::ExitCode::FAILURE
}

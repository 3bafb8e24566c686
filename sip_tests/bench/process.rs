//! What a process costs: its CPU time to the nanosecond, its memory, and which core it runs on (Linux's `/proc`).

use std::fs;
use std::time::{Duration, Instant};

use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::resource::{Resource, getrlimit};
use nix::time::{ClockId, clock_getcpuclockid};
use nix::unistd::Pid;
use sip_tests::clock;

use crate::Failure;

/// A process whose use of the machine is read from outside.
pub(crate) struct Process {
    pid: Pid,
    clock: ClockId,
}

/// CPU time up to one moment, with all threads, those that ended included.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Usage {
    at: Instant,
    cpu: Duration,
    /// Of `cpu`, inside the kernel; the kernel counts it in steps of 10 ms.
    system: Duration,
}

/// The difference of two [`Usage`]s.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Spent {
    pub(crate) wall: Duration,
    pub(crate) cpu: Duration,
    pub(crate) system: Duration,
}

impl Spent {
    /// CPU seconds per second, 1.0 is one core.
    pub(crate) fn load(self) -> f64 {
        self.cpu.as_secs_f64() / self.wall.as_secs_f64().max(1e-9)
    }

    /// CPU seconds without what the process uses when nothing happens.
    pub(crate) fn net(self, idle_load: f64) -> f64 {
        (self.cpu.as_secs_f64() - idle_load * self.wall.as_secs_f64()).max(0.0)
    }

    /// Share of the CPU time that the kernel took, 0 to 1.
    pub(crate) fn system_share(self) -> f64 {
        self.system.as_secs_f64() / self.cpu.as_secs_f64().max(1e-9)
    }
}

/// What a process holds.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Holdings {
    pub(crate) rss_kb: u64,
    pub(crate) threads: u64,
    pub(crate) descriptors: u64,
}

impl Process {
    pub(crate) fn of(pid: u32) -> Result<Self, Failure> {
        let pid = Pid::from_raw(i32::try_from(pid)?);
        Ok(Self { pid, clock: clock_getcpuclockid(pid)? })
    }

    pub(crate) fn usage(&self) -> Result<Usage, Failure> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid))?;
        // The name in parentheses may hold anything; utime and stime are words 14 and 15, counted from 1.
        let (_, rest) = stat.rsplit_once(") ").ok_or("/proc/PID/stat without a name")?;
        let ticks: u64 = rest.split(' ').nth(12).ok_or("/proc/PID/stat is short")?.parse()?;
        let cpu = Duration::from(self.clock.now()?);
        Ok(Usage { at: clock::now(), cpu, system: Duration::from_millis(ticks * 10) })
    }

    pub(crate) fn since(&self, before: Usage) -> Result<Spent, Failure> {
        let now = self.usage()?;
        Ok(Spent {
            wall: now.at - before.at,
            cpu: now.cpu.saturating_sub(before.cpu),
            system: now.system.saturating_sub(before.system),
        })
    }

    /// The load while nothing happens, over `span`.
    pub(crate) fn idle_load(&self, span: Duration) -> Result<f64, Failure> {
        let before = self.usage()?;
        std::thread::sleep(span);
        Ok(self.since(before)?.load())
    }

    pub(crate) fn holdings(&self) -> Result<Holdings, Failure> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid))?;
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
            line.split_whitespace().next().and_then(|word| word.parse().ok()).unwrap_or(0)
        };
        let descriptors = fs::read_dir(format!("/proc/{}/fd", self.pid))?.count();
        Ok(Holdings {
            rss_kb: field("VmRSS:"),
            threads: field("Threads:"),
            descriptors: u64::try_from(descriptors)?,
        })
    }
}

/// Puts this process on one core; children that are started afterwards inherit it. On a machine that does not
/// have the core nothing happens.
pub(crate) fn run_on(core: usize) -> Result<(), Failure> {
    if core < cores() {
        let mut set = CpuSet::new();
        set.set(core)?;
        sched_setaffinity(Pid::from_raw(0), &set)?;
    }
    Ok(())
}

/// Cores of the machine, whatever core this process is on.
pub(crate) fn cores() -> usize {
    let info = fs::read_to_string("/proc/stat").unwrap_or_default();
    let is_core = |line: &&str| line.strip_prefix("cpu").is_some_and(|rest| !rest.starts_with(' '));
    info.lines().filter(is_core).count().max(1)
}

/// Open files that a process may have here.
pub(crate) fn descriptor_limit() -> u64 {
    getrlimit(Resource::RLIMIT_NOFILE).map_or(1024, |(soft, _)| soft)
}

/// How busy the machine is with other things: the load average of the last minute.
pub(crate) fn load_average() -> f64 {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().and_then(|word| word.parse().ok()).unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_shows_in_the_cpu_time_and_sleep_does_not() {
        let process = Process::of(std::process::id()).unwrap();
        let before = process.usage().unwrap();
        let until = clock::now() + Duration::from_millis(60);
        while clock::now() < until {}
        let spent = process.since(before).unwrap();
        assert!(spent.cpu > Duration::from_millis(5), "{spent:?}");
        assert!(spent.net(1000.0) == 0.0 && spent.net(0.0) > 0.0);
        assert!(process.holdings().unwrap().rss_kb > 100);
        assert!(cores() >= 1 && descriptor_limit() > 2);
    }
}

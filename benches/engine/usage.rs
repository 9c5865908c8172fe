//! What a process has used so far, as the kernel counts it.

use std::fs;
use std::process::Command;
use std::sync::OnceLock;

use anyhow::Context as _;

/// CPU time and memory of one process since it began.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Usage {
    /// User and system time of all threads in seconds, in steps of a clock tick (10 ms).
    pub(crate) cpu_seconds: f64,
    /// The most memory that was resident at once, in bytes.
    pub(crate) peak_memory: u64,
}

impl Usage {
    /// Of a process by its id, or of `self`.
    pub(crate) fn of(process: &str) -> anyhow::Result<Self> {
        let stat = fs::read_to_string(format!("/proc/{process}/stat"))?;
        // The name in parentheses may hold anything; what follows are numbers.
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let ticks =
            |index: usize| -> anyhow::Result<u64> { Ok(fields.get(index).context("a field of stat")?.parse()?) };
        let cpu_seconds = (ticks(11)? + ticks(12)?) as f64 / ticks_per_second() as f64;
        let status = fs::read_to_string(format!("/proc/{process}/status"))?;
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("VmHWM in status")?;
        let peak: u64 = peak.trim().trim_end_matches(" kB").parse()?;
        Ok(Self { cpu_seconds, peak_memory: peak << 10 })
    }

    pub(crate) fn own() -> anyhow::Result<Self> {
        Self::of("self")
    }
}

/// CPU time of the calling thread in seconds, to the nanosecond.
pub(crate) fn thread_cpu_seconds() -> anyhow::Result<f64> {
    let text = fs::read_to_string("/proc/thread-self/schedstat")?;
    Ok(text.split(' ').next().context("a field of schedstat")?.parse::<f64>()? / 1e9)
}

/// The machine, for whoever reads the figures later.
pub(crate) fn machine() -> String {
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let field = |name: &str| cpu.lines().find(|line| line.starts_with(name))?.split(':').nth(1).map(str::trim);
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kilobytes = memory.lines().next().and_then(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok());
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    format!(
        "{} x {}, {} GiB of memory, Linux {}",
        cores,
        field("model name").unwrap_or("unknown processor"),
        kilobytes.unwrap_or(0) >> 20,
        release.trim()
    )
}

fn ticks_per_second() -> u64 {
    static TICKS: OnceLock<u64> = OnceLock::new();
    *TICKS.get_or_init(|| {
        let output = Command::new("getconf").arg("CLK_TCK").output().ok();
        output.and_then(|output| String::from_utf8(output.stdout).ok()?.trim().parse().ok()).unwrap_or(100)
    })
}

//! What a process took: wall time, CPU time and peak memory, of the kernel's own count.

use std::fmt;
use std::fs::{self, File};
use std::io::{Read, Seek};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

/// How often a running process is looked at; wall times are this coarse.
const LOOK: Duration = Duration::from_millis(5);

/// The unit of CPU times in `/proc` (`USER_HZ`, 100 on every Linux).
const TICK: Duration = Duration::from_millis(10);

/// What one run took.
#[derive(Clone, Copy, Debug)]
pub(super) struct Usage {
    /// From start to end.
    pub(super) wall: Duration,
    /// User and system, of all threads.
    pub(super) cpu: Duration,
    /// The most memory resident at once.
    pub(super) peak_bytes: u64,
}

impl Usage {
    /// The median of each figure for itself.
    pub(super) fn median(runs: &[Self]) -> Self {
        fn median<T: Ord + Copy>(runs: &[Usage], figure: impl Fn(&Usage) -> T) -> T {
            let mut figures: Vec<T> = runs.iter().map(figure).collect();
            figures.sort();
            figures[figures.len() / 2]
        }
        Self {
            wall: median(runs, |run| run.wall),
            cpu: median(runs, |run| run.cpu),
            peak_bytes: median(runs, |run| run.peak_bytes),
        }
    }
}

impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (cpu, wall) = (self.cpu.as_secs_f64(), self.wall.as_secs_f64());
        write!(f, "{cpu:.2} s of CPU in {wall:.2} s, peak {} MB", self.peak_bytes / 1_000_000)
    }
}

/// A run that ended well.
pub(super) struct Run {
    pub(super) usage: Usage,
    pub(super) stdout: String,
    pub(super) stderr: String,
}

/// Runs a program to its end.
///
/// `wait4` would tell the peak memory too, but of the larger of the program and us: the kernel counts from the fork.
///
/// # Errors
/// When it cannot be started or fails, with what it said on stderr.
pub(super) fn measure(command: &mut Command) -> Result<Run> {
    let (mut stdout, mut stderr) = (tempfile::tempfile()?, tempfile::tempfile()?);
    let start = Instant::now();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(stdout.try_clone()?)
        .stderr(stderr.try_clone()?)
        .spawn()
        .with_context(|| format!("cannot run {command:?}"))?;
    let usage = watch(&child, start)?;
    let status = child.wait()?;
    let (stdout, stderr) = (text(&mut stdout)?, text(&mut stderr)?);
    ensure!(status.success(), "{command:?} ended with {status}:\n{stderr}");
    Ok(Run { usage, stdout, stderr })
}

fn text(file: &mut File) -> Result<String> {
    file.rewind()?;
    let mut text = String::new();
    file.read_to_string(&mut text)?;
    Ok(text)
}

/// Whether a process has ended and was not waited for, and the CPU time that it has taken.
pub(super) fn cpu(process: u32) -> Result<(bool, Duration)> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat"))?;
    // The program's name, in parentheses, may hold spaces; state is the third field, the times are 14 and 15.
    let (_, fields) = stat.rsplit_once(") ").context("`stat` has another form")?;
    let fields: Vec<&str> = fields.split(' ').collect();
    let ticks: u32 = fields[11].parse::<u32>()? + fields[12].parse::<u32>()?;
    Ok((fields[0] == "Z", TICK * ticks))
}

/// The most memory that a process had resident at once; 0 once it has ended.
pub(super) fn peak_bytes(process: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{process}/status"))?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.strip_suffix("kB")?.trim().parse().ok());
    Ok(peak.unwrap_or(0) * 1_024)
}

/// Has the kernel count the peak from what is resident now.
pub(super) fn forget_peak(process: u32) -> Result<()> {
    Ok(fs::write(format!("/proc/{process}/clear_refs"), "5")?)
}

/// Looks at a child until it has ended; until it is waited for, the kernel keeps its times.
fn watch(child: &Child, start: Instant) -> Result<Usage> {
    let mut peak_bytes = 0;
    loop {
        let (has_ended, cpu) = cpu(child.id())?;
        if has_ended {
            return Ok(Usage { wall: start.elapsed(), cpu, peak_bytes });
        }
        peak_bytes = peak_bytes.max(self::peak_bytes(child.id())?);
        thread::sleep(LOOK);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_busy_process_is_seen_to_be_busy() {
        let busy = "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done; echo done";
        let run = measure(Command::new("sh").args(["-c", busy])).unwrap();
        assert_eq!(run.stdout, "done\n");
        assert!(run.usage.cpu >= TICK && run.usage.cpu <= run.usage.wall + 2 * TICK, "{}", run.usage);
        assert!((100_000..50_000_000).contains(&run.usage.peak_bytes), "{}", run.usage);
    }

    #[test]
    fn a_failed_run_is_an_error_with_its_text() {
        let error = measure(Command::new("sh").args(["-c", "echo no >&2; exit 3"])).err().unwrap();
        assert!(error.to_string().ends_with(":\nno\n"), "{error}");
    }
}

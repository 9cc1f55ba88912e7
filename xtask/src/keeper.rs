//! A server in a process of its own that ends with its owner, however that ends.

use std::{
    io::{BufRead, BufReader},
    net::{Ipv4Addr, TcpListener},
    os::unix::process::CommandExt,
    path::Path,
    process::{Child, ChildStdin, Command, Stdio},
};

use anyhow::{Context, Result};

/// Runs the server, prints its process id, and ends with it. When stdin closes, which the kernel sees to however our
/// process ends, it kills the server and removes its directory, `$1`. (`PR_SET_PDEATHSIG` would do it at the end of the
/// *thread* that started the server: for a shared one, that of the first test.) `true`, not `:`, which ends the shell where the directory
/// is gone already, and so leaves the server running.
const KEEPER: &str = r#"
dir=$1; log=$2; shift 2
exec 3<&0
"$@" >>"$dir/$log" 2>&1 </dev/null 3<&- & server=$!
echo $server
{ cat >/dev/null; true >"$dir/orphaned"; kill -KILL $server; } <&3 & watch=$!
wait $server
kill $watch
[ ! -e "$dir/orphaned" ] || rm -rf "$dir"
"#;

/// The keeper and the server it runs.
#[derive(Debug)]
pub(crate) struct Kept {
    pub(crate) keeper: Child,
    /// Open as long as the server shall live; not left in `keeper`, whose `wait` would close it.
    lifeline: Option<ChildStdin>,
    /// Process id of the server.
    pub(crate) server: u32,
}

impl Kept {
    /// Starts the program of `command` with its arguments in `dir`, where it writes `log`.
    pub(crate) fn start(dir: &Path, command: &Command, log: &str) -> Result<Self> {
        let mut keeper = Command::new("sh")
            .args(["-c", KEEPER, "keeper"])
            .arg(dir)
            .arg(log)
            .arg(command.get_program())
            .args(command.get_args())
            .current_dir(dir)
            // Not in the terminal's group: a Ctrl-C is for our process, which then takes the server along.
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let mut server = String::new();
        BufReader::new(keeper.stdout.take().expect("stdout is piped")).read_line(&mut server)?;
        let server = server.trim().parse().context("the keeper printed no process id")?;
        Ok(Self { lifeline: keeper.stdin.take(), keeper, server })
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        drop(self.lifeline.take());
        // It has ended or does now; there is nobody to tell otherwise.
        let _ = self.keeper.wait();
    }
}

/// Ports that were free a moment ago; held together, so that they differ.
pub(crate) fn free_ports<const N: usize>() -> Result<[u16; N]> {
    let mut held = Vec::with_capacity(N);
    let mut ports = [0; N];
    for port in &mut ports {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        *port = listener.local_addr()?.port();
        held.push(listener);
    }
    Ok(ports)
}

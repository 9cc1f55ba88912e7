//! A TCP proxy before a broker that can cut connections in the middle of what the broker says.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::thread;

use anyhow::Result;

/// Bytes that are passed on at once.
const CHUNK: usize = 16 << 10;

/// Passes on until it is dropped.
#[derive(Debug)]
pub struct Proxy {
    port: u16,
    state: Arc<State>,
}

#[derive(Debug, Default)]
struct State {
    ended: AtomicBool,
    /// How many bytes of answers each connection lives, at least and at most; 0: for ever.
    least: AtomicU64,
    most: AtomicU64,
    cuts: AtomicU64,
}

impl Proxy {
    /// Listens on a free port for a broker at `target`, which need not be there yet.
    ///
    /// # Errors
    /// When there is no port or no thread.
    pub fn start(target: String) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let (port, state) = (listener.local_addr()?.port(), Arc::<State>::default());
        let shared = Arc::clone(&state);
        thread::Builder::new().name("proxy".to_owned()).spawn(move || {
            for client in listener.incoming().flatten() {
                if shared.ended.load(SeqCst) {
                    return;
                }
                if let Ok(broker) = TcpStream::connect(&target) {
                    // Without a thread the connection is closed, which is what a proxy is there for.
                    let _ = pass(client, broker, &shared);
                }
            }
        })?;
        Ok(Self { port, state })
    }

    /// `host:port` of the proxy.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// From now on each connection is cut after so many bytes of answers: some number from `least` to `most`, another one each
    /// time. Zero for both: none is.
    pub fn cut_after(&self, least: u64, most: u64) {
        self.state.least.store(least, SeqCst);
        self.state.most.store(most, SeqCst);
    }

    /// How many connections were cut.
    pub fn cuts(&self) -> u64 {
        self.state.cuts.load(SeqCst)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.state.ended.store(true, SeqCst);
        let _ = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)); // wakes the listener
    }
}

/// Passes on both ways, a thread each.
fn pass(client: TcpStream, broker: TcpStream, state: &Arc<State>) -> Result<()> {
    for socket in [&client, &broker] {
        socket.set_nodelay(true)?;
    }
    let (questions, answers) = ((client.try_clone()?, broker.try_clone()?), (broker, client));
    thread::Builder::new().spawn(move || copy(questions.0, questions.1, |bytes| bytes))?;
    let state = Arc::clone(state);
    let mut said = 0;
    let answer = move |bytes: usize| {
        let left = state.limit().map_or(u64::MAX, |limit| limit.saturating_sub(said));
        said += bytes as u64;
        let passed = bytes.min(usize::try_from(left).unwrap_or(usize::MAX));
        state.cuts.fetch_add(u64::from(passed < bytes), SeqCst);
        passed
    };
    thread::Builder::new().spawn(move || copy(answers.0, answers.1, answer))?;
    Ok(())
}

impl State {
    /// Bytes of answers until a connection is cut; never that, if nothing is.
    fn limit(&self) -> Option<u64> {
        let (least, most) = (self.least.load(SeqCst), self.most.load(SeqCst));
        // Any sequence does that leaves no length out for long.
        let spread = self.cuts.load(SeqCst).wrapping_mul(7_368_787) % (most.saturating_sub(least) + 1);
        (most > 0).then_some(least + spread)
    }
}

/// Copies until one side ends or `passed` says fewer bytes than there were; then both are closed.
fn copy(mut from: TcpStream, mut to: TcpStream, mut passed: impl FnMut(usize) -> usize) {
    let mut buffer = vec![0; CHUNK];
    while let Ok(read @ 1..) = from.read(&mut buffer) {
        let pass = passed(read);
        if to.write_all(&buffer[..pass]).is_err() || pass < read {
            break;
        }
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}

//! stderr and stdout as a person sees them. The status line stands in the line of the cursor and is drawn anew several
//! times a second, so whatever else is written only has to clear that line first.

use std::io::{self, IsTerminal, Write};

/// To the line's beginning, and its text away.
const CLEAR_LINE: &str = "\r\x1b[K";
/// The terminal cuts what is longer than a line, and goes on wrapping afterwards.
const NO_WRAP: [&str; 2] = ["\x1b[?7l", "\x1b[?7h"];

/// Whether a person looks at stderr.
pub(crate) fn is_watched() -> bool {
    io::stderr().is_terminal()
}

/// Draws the status line in the place of the last one.
pub(crate) fn draw_status(text: &str) {
    let [off, on] = NO_WRAP;
    let line = format!("{CLEAR_LINE}{off}{text}{on}");
    let _ = io::stderr().write_all(line.as_bytes()); // nobody is left to tell that stderr is closed
}

/// Writes lines on stderr, in the place of the status line.
pub(crate) fn say(text: &str) {
    let _ = OverStatus.write_all(format!("{text}\n").as_bytes());
}

/// stderr for a log: what is written, whole lines at a time, takes the place of the status line.
pub(crate) struct OverStatus;

impl Write for OverStatus {
    fn write(&mut self, lines: &[u8]) -> io::Result<usize> {
        let mut stderr = io::stderr().lock();
        if is_watched() {
            stderr.write_all(CLEAR_LINE.as_bytes())?;
        }
        stderr.write_all(lines)?;
        Ok(lines.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

/// Writes to stdout. A reader that has left is no failure.
///
/// # Errors
/// Any other.
pub(crate) fn print(data: &[u8]) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(data).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result,
    }
}

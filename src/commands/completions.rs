//! `tidemill completions SHELL`.

use clap::CommandFactory;
use clap_complete::Shell;

use super::print;
use crate::{cli::Cli, failure::Failure};

pub(super) fn completions(shell: Shell) -> Result<(), Failure> {
    let mut script = Vec::new(); // not stdout: the generator panics when it is closed
    clap_complete::generate(shell, &mut Cli::command(), "tidemill", &mut script);
    print(&script)
}

//! The repository this program was built from, and the cargo that built it.

use std::ffi::OsStr;
use std::path::Path;
use std::process::{Command, Stdio};

/// The root of the repository.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the repository")
}

/// Cargo on the whole repository. It hears nothing of the cargo that runs us: the build script of ring asks for the names of
/// packages in the environment, and all that stands on it, DataFusion among it, would be built anew for each other answer.
pub(crate) fn cargo(args: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    for name in std::env::vars_os().map(|(name, _)| name).filter(|name| is_of_a_package(name)) {
        command.env_remove(name);
    }
    command.args(args).current_dir(root()).stdin(Stdio::null());
    command
}

fn is_of_a_package(variable: &OsStr) -> bool {
    let name = variable.as_encoded_bytes();
    name.starts_with(b"CARGO_PKG_") || name.starts_with(b"CARGO_MANIFEST_")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cargo_does_not_hear_for_which_package_it_was_run() {
        let cargo = cargo(&["build"]);
        let gone: Vec<_> = cargo.get_envs().filter(|(_, value)| value.is_none()).map(|(name, _)| name).collect();
        assert!(gone.contains(&OsStr::new("CARGO_MANIFEST_DIR")), "{gone:?}"); // which every test has
    }
}

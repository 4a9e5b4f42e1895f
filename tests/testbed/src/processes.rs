//! Children: this test binary run again in a role of its own, as another user, stopped, killed.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command};
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions};

use crate::scratch::Scratch;
use crate::{Missing, root};

/// User and group id of nobody in particular, on every Linux.
pub const NOBODY: u32 = 65_534;

const ROLE: &str = "STEADFAST_CHILD_ROLE";

/// A different number for every call in this process.
pub(crate) fn next_number() -> usize {
    static NUMBER: AtomicUsize = AtomicUsize::new(0);
    NUMBER.fetch_add(1, Ordering::Relaxed)
}

/// A command that runs one test of this binary, by its full name, as a child. The test finds `argument` with
/// [`child_arg`], and does nothing when it is run as an ordinary test.
///
/// # Errors
/// [`Missing`] if this binary does not know where it is.
pub fn child_test(name: &str, argument: impl AsRef<OsStr>) -> Result<Command, Missing> {
    let this = std::env::current_exe().map_err(|e| Missing::new(format!("no path of this binary: {e}")))?;
    let mut command = Command::new(this);
    command.args([name, "--exact", "--nocapture", "--test-threads=1"]);
    let mut role = OsString::from(name);
    role.push("=");
    role.push(argument);
    command.env(ROLE, role);
    Ok(command)
}

/// In the child: what [`child_test`] was given for the test of this name. `None` in every other process.
#[must_use]
pub fn child_arg(name: &str) -> Option<OsString> {
    use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
    let role = std::env::var_os(ROLE)?;
    let argument = role.as_bytes().strip_prefix(name.as_bytes())?.strip_prefix(b"=")?;
    Some(OsString::from_vec(argument.to_vec()))
}

/// Makes `command` run as nobody, without further groups and from the root directory. Its program is copied
/// into `scratch`, because the build directory may be closed to others.
///
/// # Errors
/// [`Missing`] without root.
pub fn as_nobody(command: &Command, scratch: &Scratch) -> Result<Command, Missing> {
    root()?;
    let copy = scratch.beside(&format!("program-{}", next_number()));
    // By a process of its own: a descriptor open for writing here would leak into what other threads start, and
    // a program that is open for writing does not run.
    crate::run("cp", &[command.get_program(), copy.as_os_str()])?;
    std::fs::set_permissions(&copy, PermissionsExt::from_mode(0o755))
        .map_err(|e| Missing::new(format!("no copy of the program: {e}")))?;
    let mut other = Command::new(copy);
    // With an id set, a root process drops its supplementary groups as well.
    other.args(command.get_args()).uid(NOBODY).gid(NOBODY).current_dir("/");
    for (key, value) in command.get_envs() {
        match value {
            Some(value) => other.env(key, value),
            None => other.env_remove(key),
        };
    }
    Ok(other)
}

/// Kills `child` where it stands, as a crash would, and waits for its end.
///
/// # Errors
/// Of the system.
pub fn kill_hard(child: &mut Child) -> io::Result<()> {
    child.kill()?;
    child.wait().map(drop)
}

/// Stops `child` and returns when it has stopped.
///
/// # Errors
/// Of the system.
pub fn stop(child: &Child) -> io::Result<()> {
    rustix::process::kill_process(pid(child)?, Signal::STOP)?;
    let options = WaitIdOptions::STOPPED | WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
    rustix::process::waitid(WaitId::Pid(pid(child)?), options)?;
    Ok(())
}

/// Lets a stopped `child` go on.
///
/// # Errors
/// Of the system.
pub fn resume(child: &Child) -> io::Result<()> {
    Ok(rustix::process::kill_process(pid(child)?, Signal::CONT)?)
}

fn pid(child: &Child) -> io::Result<Pid> {
    let raw = i32::try_from(child.id()).map_err(io::Error::other)?;
    Pid::from_raw(raw).ok_or_else(|| io::Error::other("a child has no pid 0"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read as _;
    use std::process::Stdio;

    const ROLE_NAME: &str = "processes::tests::child_says_who_it_is";

    #[test]
    fn child_says_who_it_is() {
        let Some(argument) = child_arg(ROLE_NAME) else { return };
        println!("{} {}", argument.display(), rustix::process::geteuid().as_raw());
        // Stays until it is killed, or its parent is gone.
        std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
    }

    #[test]
    fn a_child_runs_as_nobody_is_stopped_resumed_and_killed() {
        crate::need!(root());
        let scratch = Scratch::new().unwrap();
        let command = child_test(ROLE_NAME, "an argument").unwrap();
        let mut child = as_nobody(&command, &scratch)
            .unwrap()
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = String::new();
        let mut out = child.stdout.take().unwrap();
        while !said.contains("an argument 65534") {
            let mut byte = [0];
            assert_eq!(out.read(&mut byte).unwrap(), 1, "{said}");
            said.push(char::from(byte[0]));
        }
        stop(&child).unwrap();
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap();
        assert!(stat.contains(") T "), "{stat}");
        resume(&child).unwrap();
        kill_hard(&mut child).unwrap();
    }
}

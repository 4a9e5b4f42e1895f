//! Who a process is, precisely enough that its death can be proved.

use std::fmt;
use std::io;
#[cfg(target_os = "linux")]
use std::sync::{Mutex, PoisonError};

/// Names one process for good: a pid alone is reused, and means something else in another container, after a
/// reboot and on another machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessIdentity {
    /// Process id, in its pid namespace.
    pub pid: u32,
    /// When it started, in the system's own unit (clock ticks since boot on Linux); 0 where not known.
    pub start_time: u64,
    /// The boot it runs in; empty where not known.
    pub boot_id: String,
    /// The pid namespace it runs in (containers share a boot id); 0 where not known.
    pub pid_namespace: u64,
    /// The machine; empty where not known.
    pub host: String,
}

/// What is known about another process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Liveness {
    /// It runs, or may yet run again (stopped, suspended).
    Alive,
    /// Proved: it can never run again.
    Dead,
    /// Nothing can be said from here.
    Unknown,
}

/// Tells who this process is and whether another one is dead.
pub trait HostIdentity: Send + Sync + fmt::Debug {
    /// This process. After a fork the child is another one.
    ///
    /// # Errors
    /// Where the system does not tell.
    fn this_process(&self) -> io::Result<ProcessIdentity>;

    /// Whether the process of that pid in **our** pid namespace, started at that time, still exists.
    /// A `start_time` of 0 matches any.
    fn running(&self, pid: u32, start_time: u64) -> Liveness;

    /// Whether `other` is dead, by proof only: on this machine, either of an earlier boot, or of this boot and
    /// pid namespace with its pid free or taken by a younger process. Everything else is not proof.
    fn liveness(&self, other: &ProcessIdentity) -> Liveness {
        let Ok(me) = self.this_process() else { return Liveness::Unknown };
        if me.boot_id.is_empty() || other.boot_id.is_empty() || me.host != other.host {
            return Liveness::Unknown;
        }
        if me.boot_id != other.boot_id {
            // Two machines that share a directory and have no name differ in this too.
            return if me.host.is_empty() { Liveness::Unknown } else { Liveness::Dead };
        }
        if me.pid_namespace == 0 || me.pid_namespace != other.pid_namespace {
            return Liveness::Unknown;
        }
        self.running(other.pid, other.start_time)
    }
}

/// The operating system's answers. On Linux from `/proc`; elsewhere there is no boot id, so that only this
/// process itself is ever recognised and no other is ever proved dead.
#[derive(Debug, Default)]
pub struct OsHost {
    #[cfg(target_os = "linux")]
    known: Mutex<Option<ProcessIdentity>>,
}

#[cfg(target_os = "linux")]
impl HostIdentity for OsHost {
    fn this_process(&self) -> io::Result<ProcessIdentity> {
        let pid = std::process::id();
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(identity) = known.as_ref().filter(|identity| identity.pid == pid) {
            return Ok(identity.clone());
        }
        let stat =
            linux::Stat::of(pid).ok_or_else(|| io::Error::other("/proc does not show this process"))?;
        let identity = ProcessIdentity {
            pid,
            start_time: if linux::start_times_compare() { stat.start_time } else { 0 },
            boot_id: std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned(),
            pid_namespace: linux::pid_namespace()?,
            host: linux::host(),
        };
        *known = Some(identity.clone());
        Ok(identity)
    }

    fn running(&self, pid: u32, start_time: u64) -> Liveness {
        linux::running(pid, start_time)
    }
}

#[cfg(not(target_os = "linux"))]
impl HostIdentity for OsHost {
    fn this_process(&self) -> io::Result<ProcessIdentity> {
        Ok(ProcessIdentity {
            pid: std::process::id(),
            start_time: 0,
            boot_id: String::new(),
            pid_namespace: 0,
            host: String::new(),
        })
    }

    fn running(&self, pid: u32, _start_time: u64) -> Liveness {
        if pid == std::process::id() { Liveness::Alive } else { Liveness::Unknown }
    }
}

#[cfg(target_os = "linux")]
mod linux {
    use super::Liveness;
    use rustix::io::Errno;
    use std::io;

    /// The inode of the initial time namespace (`TIME_NS_INIT_INO`), the same on every machine.
    const INITIAL_TIME_NAMESPACE: u64 = 0xEFFF_FFFA;

    /// The three fields of `/proc/<pid>/stat` that matter here.
    #[derive(Debug)]
    pub(super) struct Stat {
        state: char,
        threads: u64,
        pub(super) start_time: u64,
    }

    impl Stat {
        pub(super) fn of(pid: u32) -> Option<Self> {
            Self::parse(pid, &std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
        }

        /// `pid (command) state …`; the command may hold spaces and parentheses, so fields are counted from
        /// the last `)`. A `/proc` of another pid namespace shows another pid and proves nothing.
        pub(super) fn parse(pid: u32, text: &str) -> Option<Self> {
            let (shown_pid, rest) = text.split_once(' ')?;
            if shown_pid.parse() != Ok(pid) {
                return None;
            }
            let (_, fields) = rest.rsplit_once(')')?;
            let mut fields = fields.split_ascii_whitespace();
            let state = fields.next()?.chars().next()?;
            // The iterator has consumed up to field 3; threads are field 20, start time is field 22.
            let threads = fields.nth(16)?.parse().ok()?;
            let start_time = fields.nth(1)?.parse().ok()?;
            Some(Self { state, threads, start_time })
        }
    }

    /// A pid is free only if `kill` says so: `/proc` may hide the processes of others (`hidepid`).
    pub(super) fn running(pid: u32, start_time: u64) -> Liveness {
        let Some(target) = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw) else {
            return Liveness::Unknown;
        };
        match rustix::process::test_kill_process(target) {
            Err(Errno::SRCH) => return Liveness::Dead,
            Ok(()) | Err(Errno::PERM) => {}
            Err(_) => return Liveness::Unknown,
        }
        match Stat::of(pid) {
            None => Liveness::Unknown,
            Some(stat) if start_time != 0 && stat.start_time != start_time && start_times_compare() => {
                Liveness::Dead
            }
            // A zombie leader may have threads that still run, and one of them may take over its pid with
            // execve: the count, in the same look, must say that the zombie is all there is.
            Some(stat) if matches!(stat.state, 'Z' | 'X') && stat.threads == 1 => Liveness::Dead,
            Some(_) => Liveness::Alive,
        }
    }

    /// `/proc` shows start times shifted by the offset of the *reader's* time namespace, so two readers see
    /// two numbers for one process. Only the initial namespace is sure to have no offset.
    pub(super) fn start_times_compare() -> bool {
        match rustix::fs::stat("/proc/self/ns/time") {
            Ok(namespace) => namespace.st_ino == INITIAL_TIME_NAMESPACE,
            // A kernel without time namespaces (before Linux 5.6).
            Err(error) => error == Errno::NOENT,
        }
    }

    pub(super) fn pid_namespace() -> io::Result<u64> {
        Ok(rustix::fs::stat("/proc/self/ns/pid")?.st_ino)
    }

    /// Machine id and node name: the id alone is shared by images cloned without care, the name alone by
    /// anything called `localhost`. Empty without a machine id (most containers, images not yet started): a
    /// container of the same name may run on two machines at once.
    pub(super) fn host() -> String {
        let id = std::fs::read_to_string("/etc/machine-id");
        let id = id.as_deref().map_or("", str::trim);
        let uname = rustix::system::uname();
        host_of(&uname.nodename().to_string_lossy(), id)
    }

    fn host_of(node_name: &str, machine_id: &str) -> String {
        // `uninitialized` is what systemd writes into an image.
        let is_id = machine_id.len() == 32 && machine_id.bytes().all(|byte| byte.is_ascii_hexdigit());
        if is_id { format!("{node_name}/{machine_id}") } else { String::new() }
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn stat_of_a_command_with_parentheses_is_read() {
            let text = "7 (a) b (c)) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 3 18 4711 20";
            let stat = Stat::parse(7, text).unwrap();
            assert_eq!((stat.state, stat.threads, stat.start_time), ('S', 3, 4711));
            assert!(Stat::parse(8, text).is_none(), "another namespace's /proc");
            assert!(Stat::parse(7, "7 (x) S 1").is_none());
        }

        #[test]
        fn this_process_and_init_run_and_a_wrong_start_time_is_another_process() {
            let me = std::process::id();
            let start = Stat::of(me).unwrap().start_time;
            assert_eq!(running(me, start), Liveness::Alive);
            assert_eq!(running(me, start + 1), Liveness::Dead);
            assert_eq!(running(1, Stat::of(1).unwrap().start_time), Liveness::Alive);
            assert_eq!(running(0, 0), Liveness::Unknown);
            assert_eq!(running(u32::MAX, 0), Liveness::Unknown);
        }

        #[test]
        fn a_machine_without_an_id_has_no_name() {
            assert_eq!(
                host_of("db-0", "0123456789abcdef0123456789abcdef"),
                "db-0/0123456789abcdef0123456789abcdef"
            );
            for id in ["", "uninitialized", "0123456789abcdef0123456789abcde"] {
                assert_eq!(host_of("db-0", id), "", "{id:?}");
            }
        }

        /// The leader leaves, a thread stays: the process holds its locks and must not be called dead.
        #[test]
        fn a_zombie_leader_with_a_thread_is_alive() {
            let script = "import ctypes, threading, time\n\
                threading.Thread(target=time.sleep, args=(60,)).start()\n\
                ctypes.CDLL(None).pthread_exit(None)";
            let Ok(mut child) = std::process::Command::new("python3").args(["-c", script]).spawn() else {
                return; // No Python here.
            };
            while Stat::of(child.id()).is_some_and(|stat| stat.state != 'Z') {
                std::thread::yield_now();
            }
            let stat = Stat::of(child.id()).unwrap();
            let seen = running(child.id(), stat.start_time);
            child.kill().unwrap();
            child.wait().unwrap();
            if stat.threads > 1 {
                assert_eq!(seen, Liveness::Alive);
            }
        }

        #[test]
        fn a_killed_child_is_dead_before_and_after_it_is_reaped() {
            let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
            let start = Stat::of(child.id()).unwrap().start_time;
            assert_eq!(running(child.id(), start), Liveness::Alive);
            child.kill().unwrap();
            while Stat::of(child.id()).is_some_and(|stat| stat.state != 'Z') {
                std::thread::yield_now();
            }
            assert_eq!(running(child.id(), start), Liveness::Dead);
            child.wait().unwrap();
            assert_eq!(running(child.id(), start), Liveness::Dead);
        }
    }
}

#[cfg(all(test, feature = "testing"))]
mod tests {
    use super::*;
    use crate::doubles::FakeHost;

    #[test]
    fn death_needs_proof() {
        let me = FakeHost::with_pid(1);
        let same = |change: &dyn Fn(&mut ProcessIdentity)| {
            let mut other = FakeHost::with_pid(2).me;
            change(&mut other);
            me.liveness(&other)
        };
        assert_eq!(me.liveness(&me.me), Liveness::Alive);
        assert_eq!(same(&|_| {}), Liveness::Dead, "same boot, pid free");
        assert_eq!(same(&|other| other.boot_id = "another".to_owned()), Liveness::Dead);
        assert_eq!(same(&|other| other.boot_id.clear()), Liveness::Unknown);
        assert_eq!(same(&|other| other.host = "elsewhere/0".to_owned()), Liveness::Unknown);
        assert_eq!(same(&|other| other.pid_namespace = 7), Liveness::Unknown);
    }

    #[test]
    fn a_machine_without_a_name_proves_nothing_by_its_boot_and_something_within_it() {
        let mut me = FakeHost::with_pid(1);
        me.me.host.clear();
        let mut other = FakeHost::with_pid(2).me;
        other.host.clear();
        assert_eq!(me.liveness(&other), Liveness::Dead, "same boot, same pid namespace, pid free");
        other.boot_id = "another".to_owned();
        assert_eq!(
            me.liveness(&other),
            Liveness::Unknown,
            "another container of no name, on another machine"
        );
    }
}

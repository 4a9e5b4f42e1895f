//! Names: what callers may ask for, and what our own temporary files are called.

use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;
use std::path::{Component, Path, PathBuf};

use media::{Entropy, Env, HostIdentity, Liveness, NAME_LEN_MAX, ProcessIdentity};
use sha2::{Digest as _, Sha256};

use crate::error::{Error, Invalid, Result};

/// What every file of ours that is not the caller's begins with.
const PREFIX: &str = ".steadfast-";
/// What the staged files of a transaction's journal begin with. They are the journal's to rename and to remove: every
/// name that begins so is refused here, and no sweep of this crate touches one.
pub const TXN_PREFIX: &str = ".steadfast-txn-";
/// A file on its way to a name; removed by `sweep` once its owner is proved dead.
const TEMP_SUFFIX: &str = ".tmp";
/// The old content of a file that is being overwritten in place; never removed by `sweep`.
const BACKUP_SUFFIX: &str = ".bak";

/// A checked relative path: parents (possibly none) and a last component.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RelativeName {
    pub(crate) parents: PathBuf,
    pub(crate) name: OsString,
}

impl RelativeName {
    /// Checks, in this order: not empty after trimming, no NUL, relative and below, not one of ours.
    pub(crate) fn parse(path: &Path) -> Result<Self> {
        let refuse = |why| Err(Error::invalid(path, why));
        let bytes = path.as_os_str().as_encoded_bytes();
        if bytes.trim_ascii().is_empty() {
            return refuse(Invalid::EmptyPath);
        }
        if bytes.contains(&0) {
            return refuse(Invalid::NulInPath);
        }
        if bytes.ends_with(b"/") || bytes.ends_with(b"/.") {
            return refuse(Invalid::NotBelowDirectory);
        }
        let mut parts: Vec<&OsStr> = Vec::new();
        for component in path.components() {
            match component {
                Component::Normal(part) => parts.push(part),
                Component::CurDir => {}
                Component::ParentDir | Component::RootDir | Component::Prefix(_) => {
                    return refuse(Invalid::NotBelowDirectory);
                }
            }
        }
        let Some(name) = parts.pop() else { return refuse(Invalid::NotBelowDirectory) };
        if is_reserved(name) {
            return refuse(Invalid::ReservedName);
        }
        Ok(Self { parents: parts.iter().collect(), name: name.to_owned() })
    }
}

/// Whether the name is one of ours, or a journal's.
pub(crate) fn is_reserved(name: &OsStr) -> bool {
    name.as_encoded_bytes().starts_with(TXN_PREFIX.as_bytes()) || Own::parse(name).is_some()
}

/// What one of our own files is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    Temp,
    Backup,
}

/// The name of one of our own files. It tells who made it, so that anybody can find out whether that process
/// is dead, and its length does not depend on the target's.
///
/// `.steadfast-<pid>-<start time>-<pid namespace>-<boot>-<host>-<random>.tmp`, all in hexadecimal; boot and host
/// are the first 8 bytes of the SHA-256 of the boot id and the host name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Own {
    pub(crate) purpose: Purpose,
    pid: u32,
    start_time: u64,
    pid_namespace: u64,
    boot: u64,
    host: u64,
}

impl Own {
    /// A fresh name for a file of this process.
    pub(crate) fn fresh(purpose: Purpose, env: &Env) -> std::io::Result<OsString> {
        let me = env.host.this_process()?;
        let random = random_u64(&*env.entropy)?;
        let stem = format!(
            "{PREFIX}{:x}-{:x}-{:x}-{:016x}-{:016x}-",
            me.pid,
            me.start_time,
            me.pid_namespace,
            short_digest(&me.boot_id),
            short_digest(&me.host),
        );
        Ok(Self::join(&stem, random, purpose))
    }

    /// A name from what the names of one process have in common, and what sets one apart.
    pub(crate) fn join(stem: &str, random: u64, purpose: Purpose) -> OsString {
        let suffix = match purpose {
            Purpose::Temp => TEMP_SUFFIX,
            Purpose::Backup => BACKUP_SUFFIX,
        };
        OsString::from(format!("{stem}{random:016x}{suffix}"))
    }

    /// The reverse of [`Own::join`] for a temporary file, so that a hundred thousand names fit in little memory.
    pub(crate) fn split_temp(name: &OsStr) -> Option<(&str, u64)> {
        let rest = name.to_str()?.strip_suffix(TEMP_SUFFIX)?;
        let (stem, random) = rest.split_at_checked(rest.len().checked_sub(16)?)?;
        Some((stem, u64::from_str_radix(random, 16).ok()?))
    }

    /// Reads such a name; `None` for every other name.
    pub(crate) fn parse(name: &OsStr) -> Option<Self> {
        let rest = name.to_str()?.strip_prefix(PREFIX)?;
        let (fields, purpose) = match rest.strip_suffix(TEMP_SUFFIX) {
            Some(fields) => (fields, Purpose::Temp),
            None => (rest.strip_suffix(BACKUP_SUFFIX)?, Purpose::Backup),
        };
        let mut fields = fields.split('-');
        let mut next = || u64::from_str_radix(fields.next()?, 16).ok();
        let pid = u32::try_from(next()?).ok()?;
        let (start_time, pid_namespace, boot, host) = (next()?, next()?, next()?, next()?);
        next()?;
        match fields.next() {
            Some(_) => None,
            None => Some(Self { purpose, pid, start_time, pid_namespace, boot, host }),
        }
    }

    /// Whether the process that made it can ever come back to it.
    pub(crate) fn owner_liveness(&self, host: &dyn HostIdentity) -> Liveness {
        let Ok(me) = host.this_process() else { return Liveness::Unknown };
        // The name holds digests: what equals ours is ours, anything else is another boot or another machine.
        let same_host = short_digest(&me.host) == self.host;
        let same_boot = short_digest(&me.boot_id) == self.boot;
        host.liveness(&ProcessIdentity {
            pid: self.pid,
            start_time: self.start_time,
            boot_id: if same_boot { me.boot_id } else { format!("{:016x}", self.boot) },
            pid_namespace: self.pid_namespace,
            host: if same_host { me.host } else { format!("{:016x}", self.host) },
        })
    }
}

/// `<name><suffix>`, or, where that would be longer than a name may be, a name made of its digest.
pub(crate) fn side_name(name: &OsStr, suffix: &str) -> OsString {
    if name.len() + suffix.len() <= NAME_LEN_MAX {
        let mut side = name.to_owned();
        side.push(suffix);
        return side;
    }
    let mut side = PREFIX.to_owned();
    for byte in Sha256::digest(name.as_encoded_bytes()).iter().take(16) {
        // Writing to a string cannot fail.
        if write!(side, "{byte:02x}").is_err() {
            break;
        }
    }
    side.push_str(suffix);
    OsString::from(side)
}

pub(crate) fn random_u64(entropy: &dyn Entropy) -> std::io::Result<u64> {
    let mut bytes = [0_u8; 8];
    entropy.fill(&mut bytes)?;
    Ok(u64::from_le_bytes(bytes))
}

fn short_digest(text: &str) -> u64 {
    let digest = Sha256::digest(text.as_bytes());
    digest.iter().take(8).fold(0, |value, byte| (value << 8) | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;
    use media::doubles::{FakeHost, fixed_env};
    use std::sync::Arc;

    fn invalid(path: &str) -> Invalid {
        match RelativeName::parse(Path::new(path)).unwrap_err().cause() {
            crate::Cause::Invalid(why) => *why,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn paths_are_checked_in_the_promised_order() {
        assert_eq!(invalid(""), Invalid::EmptyPath);
        assert_eq!(invalid(" \t\n"), Invalid::EmptyPath);
        assert_eq!(invalid("a\0b"), Invalid::NulInPath);
        assert_eq!(invalid("\0/../x"), Invalid::NulInPath);
        for path in ["/etc/x", "..", "a/../b", "a/", ".", "./", "a/."] {
            assert_eq!(invalid(path), Invalid::NotBelowDirectory, "{path}");
        }
        let name = RelativeName::parse(Path::new("./a//b/ c ")).unwrap();
        assert_eq!((name.parents, name.name), (PathBuf::from("a/b"), OsString::from(" c ")));
    }

    #[test]
    fn own_names_round_trip_are_short_and_are_refused_as_targets() {
        let env = fixed_env(7);
        for purpose in [Purpose::Temp, Purpose::Backup] {
            let name = Own::fresh(purpose, &env).unwrap();
            assert!(name.len() < 120, "{name:?}");
            assert_eq!(Own::parse(&name).unwrap().purpose, purpose);
            let split = Own::split_temp(&name);
            assert_eq!(split.is_some(), purpose == Purpose::Temp);
            assert!(split.is_none_or(|(stem, random)| Own::join(stem, random, purpose) == name));
            assert_eq!(invalid(name.to_str().unwrap()), Invalid::ReservedName);
        }
        for foreign in [
            "x",
            ".steadfast-",
            ".steadfast-.tmp",
            ".steadfast-1-2-3-4-5.tmp",
            ".steadfast-1-2-3-4-5-6-7.tmp",
        ] {
            assert!(Own::parse(OsStr::new(foreign)).is_none(), "{foreign}");
        }
    }

    #[test]
    fn names_of_a_journal_are_refused_as_targets_and_are_none_of_our_own() {
        for name in [".steadfast-txn-", ".steadfast-txn-1f-0.nxpart", ".steadfast-txn-1-2-3-4-5-6.tmp"] {
            assert!(Own::parse(OsStr::new(name)).is_none(), "{name}");
            assert_eq!(invalid(name), Invalid::ReservedName);
            assert_eq!(invalid(&format!("sub/{name}")), Invalid::ReservedName);
        }
        for name in [".steadfast-txn", ".steadfast-tx-1", "x.steadfast-txn-1"] {
            assert!(RelativeName::parse(Path::new(name)).is_ok(), "{name}");
        }
    }

    #[test]
    fn the_owner_of_a_temp_is_dead_only_by_proof() {
        let mut env = fixed_env(7);
        let of = |env: &Env| Own::parse(&Own::fresh(Purpose::Temp, env).unwrap()).unwrap();
        let own = of(&env);
        let elsewhere = |change: fn(&mut FakeHost)| {
            let mut host = FakeHost::with_pid(5);
            host.alive.lock().unwrap().clear();
            change(&mut host);
            host
        };
        assert_eq!(own.owner_liveness(&*env.host), Liveness::Alive);
        assert_eq!(own.owner_liveness(&elsewhere(|_| {})), Liveness::Dead);
        assert_eq!(own.owner_liveness(&elsewhere(|h| h.me.boot_id = "later".into())), Liveness::Dead);
        assert_eq!(own.owner_liveness(&elsewhere(|h| h.me.host = "other".into())), Liveness::Unknown);
        assert_eq!(own.owner_liveness(&elsewhere(|h| h.me.pid_namespace = 1)), Liveness::Unknown);
        let mut nowhere = FakeHost::with_pid(4242);
        nowhere.me.host = String::new();
        env.host = Arc::new(nowhere);
        assert_eq!(of(&env).owner_liveness(&elsewhere(|_| {})), Liveness::Unknown);
    }

    #[test]
    fn side_names_fit_at_every_length() {
        for len in [1, 249, 250, 251, 255] {
            let name = OsString::from("n".repeat(len));
            let side = side_name(&name, ".lock");
            assert!(side.len() <= NAME_LEN_MAX);
            assert_eq!(side.to_str().unwrap().starts_with("nn"), (2..=250).contains(&len), "{len}");
        }
        assert_ne!(
            side_name(OsStr::new(&"a".repeat(255)), ".lock"),
            side_name(OsStr::new(&"b".repeat(255)), ".lock")
        );
    }
}

//! What kind of file system a path is on, and what its mount options take away from our promises.

use std::path::Path;

/// Facts about the mount that holds a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountFacts {
    /// The type as the system names it (`ext4`, `xfs`, `nfs4`, `fuse.sshfs`); empty where it does not say.
    pub fs_type: String,
    /// What is mounted (`/dev/vda1`).
    pub source: String,
    /// Where it is mounted.
    pub mount_point: String,
    /// Mount options of the mount and of the file system.
    pub options: Vec<String>,
    /// Whether the file system keeps a journal; `None` where that is not known.
    pub journal: Option<bool>,
}

impl MountFacts {
    /// Whether the bytes are behind a network, so that another machine decides what survives.
    #[must_use]
    pub fn is_network(&self) -> bool {
        const NETWORK: [&str; 14] = [
            "nfs",
            "nfs4",
            "cifs",
            "smb3",
            "smbfs",
            "9p",
            "virtiofs",
            "ceph",
            "afs",
            "lustre",
            "glusterfs",
            "fuse.sshfs",
            "fuse.glusterfs",
            "fuse.ceph-fuse",
        ];
        NETWORK.contains(&self.fs_type.as_str())
    }

    /// Whether a user-space program decides what a barrier means.
    #[must_use]
    pub fn is_fuse(&self) -> bool {
        self.fs_type.starts_with("fuse")
    }

    /// Whether nothing at all survives a power cut, because it is memory.
    #[must_use]
    pub fn is_memory(&self) -> bool {
        matches!(self.fs_type.as_str(), "tmpfs" | "ramfs")
    }

    /// Whether the mount has `option`, alone or with a value.
    #[must_use]
    pub fn has_option(&self, option: &str) -> bool {
        self.options
            .iter()
            .any(|have| have == option || have.strip_prefix(option).is_some_and(|rest| rest.starts_with('=')))
    }
}

/// Looks up the mount that holds `path`; `None` where the platform does not say (anywhere but Linux).
#[must_use]
pub fn describe_mount(path: &Path) -> Option<MountFacts> {
    #[cfg(target_os = "linux")]
    return linux::describe(path);
    #[cfg(not(target_os = "linux"))]
    {
        let _: &Path = path;
        None
    }
}

#[cfg(target_os = "linux")]
mod linux {
    use super::MountFacts;
    use rustix::fs::{CWD, Mode, OFlags};
    use std::os::fd::AsRawFd as _;
    use std::path::Path;

    /// One line of the table.
    #[derive(Debug)]
    pub(super) struct Mount {
        pub(super) id: u64,
        /// `major:minor`, as in `/sys/dev/block`.
        device: String,
        pub(super) facts: MountFacts,
    }

    pub(super) fn describe(path: &Path) -> Option<MountFacts> {
        // Bytes: a mount point is whatever its owner called it, and one odd name must not hide the others.
        let table = std::fs::read("/proc/self/mountinfo").ok()?;
        let table = String::from_utf8_lossy(&table);
        let mounts = table.lines().filter_map(parse_line);
        let mount = match mount_id(path) {
            Some(id) => mounts.into_iter().find(|mount| mount.id == id)?,
            None => {
                // The longest mount point wins; among equals the last, which hides the others.
                let path = std::fs::canonicalize(path).ok()?;
                let above = mounts.filter(|mount| path.starts_with(&mount.facts.mount_point));
                above.max_by_key(|mount| mount.facts.mount_point.len())?
            }
        };
        Some(MountFacts { journal: journal(&mount), ..mount.facts })
    }

    /// The kernel's own word on which mount a path is on. No comparison of names can tell: a mount may hide
    /// one with a longer name, and bind mounts and subvolumes share their device.
    fn mount_id(path: &Path) -> Option<u64> {
        let fd = rustix::fs::openat(CWD, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).ok()?;
        let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", fd.as_raw_fd())).ok()?;
        info.lines().find_map(|line| line.strip_prefix("mnt_id:"))?.trim().parse().ok()
    }

    /// One line of `proc(5)` mountinfo: `36 35 98:0 /root /mount rw,noatime shared:1 - ext4 /dev/x rw,errors=…`.
    pub(super) fn parse_line(line: &str) -> Option<Mount> {
        let (mount, fs) = line.split_once(" - ")?;
        let mut mount = mount.split(' ');
        let id = mount.next()?.parse().ok()?;
        let device = mount.nth(1)?.to_owned();
        let mount_point = unescape(mount.nth(1)?);
        let mount_options = mount.next()?;
        let mut fs = fs.split(' ');
        let fs_type = fs.next()?.to_owned();
        let source = unescape(fs.next()?);
        let mut options: Vec<String> = mount_options.split(',').map(str::to_owned).collect();
        for option in fs.next().unwrap_or("").split(',') {
            if !options.iter().any(|have| have == option) {
                options.push(option.to_owned());
            }
        }
        let facts = MountFacts { fs_type, source, mount_point, options, journal: None };
        Some(Mount { id, device, facts })
    }

    /// Space, tab, newline, hash and backslash are written as three octal digits.
    fn unescape(field: &str) -> String {
        let plain = field.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n");
        plain.replace("\\043", "#").replace("\\134", "\\")
    }

    fn journal(mount: &Mount) -> Option<bool> {
        match mount.facts.fs_type.as_str() {
            "xfs" | "btrfs" | "ext3" => Some(true),
            "ext2" | "vfat" | "exfat" => Some(false),
            "ext4" => ext4_journal(&mount.device),
            _ => None,
        }
    }

    /// The source (`/dev/root`, `/dev/mapper/x`, a link by UUID) need not be what the kernel calls the device,
    /// and a journal may be on another one: so by device number, and the file system itself is asked.
    fn ext4_journal(device: &str) -> Option<bool> {
        let link = std::fs::read_link(format!("/sys/dev/block/{device}")).ok()?;
        let name = link.file_name()?.to_str()?;
        if let Ok(task) = std::fs::read_to_string(format!("/sys/fs/ext4/{name}/journal_task")) {
            return Some(task.trim() != "<none>");
        }
        // Before Linux 4.18 only jbd2's own list: `vda1-8`, with the journal's inode. What is not on it may
        // still have a journal, on a device of its own.
        let found = std::fs::read_dir("/proc/fs/jbd2").ok()?.any(|entry| {
            entry.is_ok_and(|entry| {
                let listed = entry.file_name();
                let listed = listed.to_string_lossy();
                listed.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
            })
        });
        found.then_some(true)
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::describe_mount;
    use super::linux::parse_line;
    use std::path::Path;

    #[test]
    fn mountinfo_line_with_escapes_and_optional_fields_is_read() {
        let line =
            r"36 35 98:0 / /mnt/a\040b rw,noatime shared:1 master:2 - ext4 /dev/loop\0430 rw,nobarrier";
        let mount = parse_line(line).unwrap();
        assert_eq!(mount.id, 36);
        let facts = mount.facts;
        assert_eq!((facts.mount_point.as_str(), facts.source.as_str()), ("/mnt/a b", "/dev/loop#0"));
        assert_eq!(facts.fs_type, "ext4");
        assert!(facts.has_option("nobarrier") && facts.has_option("noatime"));
        assert!(!facts.has_option("bar"));
    }

    #[test]
    fn garbage_is_no_mount() {
        for line in ["", " - ", "a b c - ext4", "36 35 98:0 / - ext4 x", "x 35 98:0 / /mnt rw - ext4 x rw"] {
            assert!(parse_line(line).is_none(), "{line:?}");
        }
    }

    #[test]
    fn proc_is_on_proc_and_what_is_not_there_is_on_nothing() {
        let facts = describe_mount(Path::new("/proc/self")).unwrap();
        assert_eq!((facts.fs_type.as_str(), facts.mount_point.as_str()), ("proc", "/proc"));
        assert_eq!(facts.journal, None);
        assert_eq!(describe_mount(Path::new("/proc/no such directory")), None);
    }
}

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
        const NETWORK: [&str; 10] =
            ["nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "ceph", "afs", "lustre", "glusterfs"];
        NETWORK.contains(&self.fs_type.as_str()) || self.fs_type == "fuse.sshfs"
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
        self.options.iter().any(|have| {
            have == option || have.strip_prefix(option).is_some_and(|rest| rest.starts_with('='))
        })
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
    use std::path::Path;

    pub(super) fn describe(path: &Path) -> Option<MountFacts> {
        let path = std::fs::canonicalize(path).ok()?;
        let table = std::fs::read_to_string("/proc/self/mountinfo").ok()?;
        // The longest mount point wins; among equals the last, which hides the others.
        let mut facts = table
            .lines()
            .filter_map(parse_line)
            .filter(|facts| path.starts_with(&facts.mount_point))
            .max_by_key(|facts| facts.mount_point.len())?;
        facts.journal = journal(&facts);
        Some(facts)
    }

    /// One line of `proc(5)` mountinfo: `36 35 98:0 /root /mount rw,noatime shared:1 - ext4 /dev/x rw,errors=…`.
    pub(super) fn parse_line(line: &str) -> Option<MountFacts> {
        let (mount, fs) = line.split_once(" - ")?;
        let mut mount = mount.split(' ');
        let mount_point = unescape(mount.nth(4)?);
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
        Some(MountFacts { fs_type, source, mount_point, options, journal: None })
    }

    /// Space, tab, newline and backslash are written as three octal digits.
    fn unescape(field: &str) -> String {
        field.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\")
    }

    fn journal(facts: &MountFacts) -> Option<bool> {
        match facts.fs_type.as_str() {
            "xfs" | "btrfs" | "ext3" => Some(true),
            "ext2" | "vfat" | "exfat" => Some(false),
            "ext4" => {
                // jbd2 shows one directory per journalled device: `vda1-8` (journal inode 8) or `sdb` (external).
                let device = Path::new(&facts.source).file_name()?.to_str()?;
                let journals = std::fs::read_dir("/proc/fs/jbd2").ok();
                Some(journals.is_some_and(|mut entries| {
                    entries.any(|entry| {
                        entry.is_ok_and(|entry| {
                            let name = entry.file_name();
                            let name = name.to_string_lossy();
                            name == device
                                || name.strip_prefix(device).is_some_and(|rest| rest.starts_with('-'))
                        })
                    })
                }))
            }
            _ => None,
        }
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::linux::parse_line;

    #[test]
    fn mountinfo_line_with_escapes_and_optional_fields_is_read() {
        let line = r"36 35 98:0 / /mnt/a\040b rw,noatime shared:1 master:2 - ext4 /dev/loop\0400 rw,nobarrier";
        let facts = parse_line(line).unwrap();
        assert_eq!(facts.mount_point, "/mnt/a b");
        assert_eq!(facts.fs_type, "ext4");
        assert!(facts.has_option("nobarrier") && facts.has_option("noatime"));
        assert!(!facts.has_option("bar"));
    }

    #[test]
    fn garbage_is_no_mount() {
        for line in ["", " - ", "a b c - ext4", "36 35 98:0 / - ext4 x"] {
            assert!(parse_line(line).is_none(), "{line:?}");
        }
    }
}

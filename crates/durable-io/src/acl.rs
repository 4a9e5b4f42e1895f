//! POSIX ACLs, as far as permission bits are not the whole truth about who may read a file.
//!
//! Linux keeps an ACL in the extended attribute [`ACL`]: a version (2, four bytes), then entries of eight bytes,
//! `tag u16 | permissions u16 | id u32`, all little-endian. In a file that has one, the group bits of the mode are
//! the *mask*, the most that its group and all named users and groups may do; what the group itself may is in
//! the entry `GROUP_OBJ`.

use std::ffi::OsStr;
use std::io;

use media::{Mode, Reason};

/// The extended attribute that holds a POSIX ACL on Linux.
pub(crate) const ACL: &str = "system.posix_acl_access";

const VERSION: [u8; 4] = 2_u32.to_le_bytes();
const ENTRY_LEN: usize = 8;
/// The id of entries that name nobody.
const NO_ID: [u8; 4] = u32::MAX.to_le_bytes();

const USER_OBJ: u16 = 0x01;
const GROUP_OBJ: u16 = 0x04;
const MASK: u16 = 0x10;
const OTHER: u16 = 0x20;

/// The ACL of a file; `None` where it has none beyond its mode, or where the file system has none at all.
pub(crate) fn of(file: &dyn media::File) -> io::Result<Option<Vec<u8>>> {
    match file.xattr_names() {
        Ok(names) if names.iter().any(|name| name == ACL) => file.xattr(OsStr::new(ACL)).map(Some),
        Ok(_) => Ok(None),
        Err(e) if Reason::of(&e) == Reason::Unsupported => Ok(None),
        Err(e) => Err(e),
    }
}

/// `mode` with the group bits replaced by what the ACL grants the file's own group.
pub(crate) fn without_named_entries(mode: Mode, acl: &[u8]) -> Mode {
    let mask = permissions(acl, MASK).unwrap_or(0o7);
    // An ACL without the entry, or in a form we do not know, grants the group nothing.
    let group = permissions(acl, GROUP_OBJ).unwrap_or(0) & mask;
    Mode::new((mode.bits() & !0o070) | u32::from(group & 0o7) << 3)
}

/// The ACL that says nothing but `mode`. Setting it removes every other entry and sets the mode, in one step.
pub(crate) fn minimal(mode: Mode) -> Vec<u8> {
    let mut acl = VERSION.to_vec();
    for tag in [USER_OBJ, GROUP_OBJ, OTHER] {
        acl.extend(tag.to_le_bytes());
        acl.extend(bits(mode, tag).to_le_bytes());
        acl.extend(NO_ID);
    }
    acl
}

/// The ACL with its own entries changed as `chmod` would: owner, others, and the mask (the group, where there is no
/// mask). Named entries stay, and get no more than the mask.
pub(crate) fn with_mode(acl: &[u8], mode: Mode) -> Vec<u8> {
    let has_mask = permissions(acl, MASK).is_some();
    let mut changed = acl.to_vec();
    for entry in changed.get_mut(VERSION.len()..).unwrap_or_default().chunks_exact_mut(ENTRY_LEN) {
        let [tag_low, tag_high, permissions @ .., _, _, _, _] = entry else { continue };
        match u16::from_le_bytes([*tag_low, *tag_high]) {
            GROUP_OBJ if has_mask => {}
            tag @ (USER_OBJ | GROUP_OBJ | MASK | OTHER) => {
                permissions.copy_from_slice(&bits(mode, tag).to_le_bytes());
            }
            _ => {}
        }
    }
    changed
}

/// The three bits of `mode` that an entry of this kind stands for.
fn bits(mode: Mode, tag: u16) -> u16 {
    let shift = match tag {
        USER_OBJ => 6,
        OTHER => 0,
        _ => 3,
    };
    u16::try_from((mode.bits() >> shift) & 0o7).unwrap_or(0)
}

/// The permissions of the first entry of this kind.
fn permissions(acl: &[u8], wanted: u16) -> Option<u16> {
    let entries = acl.strip_prefix(&VERSION)?.chunks_exact(ENTRY_LEN);
    entries.filter_map(|entry| entry.first_chunk::<4>()).find_map(|&[t0, t1, p0, p1]| {
        (u16::from_le_bytes([t0, t1]) == wanted).then_some(u16::from_le_bytes([p0, p1]))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `u::rw-, u:1234:rw-, g::r-x, mask::<mask>, o::---`
    fn acl(mask: u16) -> Vec<u8> {
        let mut bytes = VERSION.to_vec();
        for (tag, permissions, id) in [
            (USER_OBJ, 6, u32::MAX),
            (0x02, 6, 1234),
            (GROUP_OBJ, 5, u32::MAX),
            (MASK, mask, u32::MAX),
            (OTHER, 0, u32::MAX),
        ] {
            bytes.extend(u16::to_le_bytes(tag));
            bytes.extend(u16::to_le_bytes(permissions));
            bytes.extend(u32::to_le_bytes(id));
        }
        bytes
    }

    #[test]
    fn without_its_named_entries_a_file_grants_the_group_what_it_had() {
        for (mask, expected) in [(6, 0o640), (7, 0o650), (2, 0o600), (0, 0o600)] {
            let shown = Mode::new(0o600 | u32::from(mask) << 3);
            assert_eq!(without_named_entries(shown, &acl(mask)), Mode::new(expected), "mask {mask}");
        }
        for unknown in [&b""[..], b"\x01\0\0\0", &acl(7)[..9]] {
            assert_eq!(without_named_entries(Mode::new(0o4664), unknown), Mode::new(0o4604));
        }
    }

    #[test]
    fn the_minimal_acl_is_the_mode_to_the_byte() {
        let golden =
            b"\x02\0\0\0\x01\0\x06\0\xff\xff\xff\xff\x04\0\x04\0\xff\xff\xff\xff\x20\0\0\0\xff\xff\xff\xff";
        assert_eq!(minimal(Mode::new(0o4640)), golden);
    }

    #[test]
    fn a_mode_changes_an_acl_as_chmod_does() {
        let changed = with_mode(&acl(6), Mode::new(0o604));
        let of = |tag| permissions(&changed, tag).unwrap();
        assert_eq!((of(USER_OBJ), of(GROUP_OBJ), of(MASK), of(OTHER)), (6, 5, 0, 4));
        assert_eq!(permissions(&changed, 0x02), Some(6), "named entries stay, below the mask");
        assert_eq!(with_mode(&minimal(Mode::new(0o640)), Mode::new(0o604)), minimal(Mode::new(0o604)));
        assert_eq!(with_mode(b"\x02\0\0", Mode::PRIVATE), b"\x02\0\0");
    }
}

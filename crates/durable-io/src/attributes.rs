//! Owner, mode, extended attributes and ACL: what a new file gets before its barrier.

use std::ffi::{OsStr, OsString};
use std::io;

use media::{Access, FileKind, Fs, Metadata, Mode, Owner, Reason};

use crate::dir::Place;
use crate::error::{Error, Result, Stage};
use crate::options::WriteOptions;

/// The extended attribute that holds a POSIX ACL on Linux.
const ACL: &str = "system.posix_acl_access";

/// What the staged file is to become, decided before it is written.
#[derive(Debug)]
pub(crate) struct Attributes {
    owner: Option<Owner>,
    mode: Mode,
    /// The owner of the file that the mode was taken from; `None` for a mode of the caller's own.
    inherited_from: Option<Owner>,
    xattrs: Vec<(OsString, Vec<u8>)>,
}

impl Attributes {
    pub(crate) fn gather(fs: &dyn Fs, place: &Place, options: &WriteOptions) -> Result<Self> {
        // The mode of a link says 0777 and means nothing: a link that is replaced hands on nothing.
        let old = place.existing.filter(|found| found.kind == FileKind::File);
        let owner = old.filter(|_| options.keep.owner).map(|found| found.owner);
        let fail = |e| Error::os(Stage::Metadata, &place.path, e);
        let mode = match (options.mode, old) {
            (Some(mode), _) => mode,
            (None, Some(found)) => found.mode,
            (None, None) => Mode::FILE.without(fs.umask().map_err(fail)?),
        };
        let xattrs = match old {
            Some(_) if options.keep.xattrs || options.keep.acl => {
                read_xattrs(place, options).map_err(fail)?
            }
            _ => Vec::new(),
        };
        let inherited_from = old.filter(|_| options.mode.is_none()).map(|found| found.owner);
        Ok(Self { owner, mode, inherited_from, xattrs })
    }

    /// In this order: changing the owner clears set-id bits; attributes need the right to write, which the mode
    /// may take away; and an ACL brings a mode of its own, which must not be the last word.
    pub(crate) fn apply(&self, file: &dyn media::File) -> io::Result<()> {
        if let Some(owner) = self.owner {
            file.set_owner(owner)?;
        }
        for (name, value) in &self.xattrs {
            file.set_xattr(name, value)?;
        }
        // Set-id bits speak for an owner: what belongs to somebody else must not inherit them.
        let speaks_for_another = match self.inherited_from {
            Some(owner) if self.mode != self.mode.without_set_id() => file.metadata()?.owner != owner,
            _ => false,
        };
        file.set_mode(if speaks_for_another { self.mode.without_set_id() } else { self.mode })
    }
}

/// The attributes of the existing file that the options keep. A file system without attributes has none to keep.
fn read_xattrs(place: &Place, options: &WriteOptions) -> io::Result<Vec<(OsString, Vec<u8>)>> {
    let file = place.dir.open(&place.name, Access::Read)?;
    let names = match file.xattr_names() {
        Err(e) if Reason::of(&e) == Reason::Unsupported => return Ok(Vec::new()),
        names => names?,
    };
    let wanted = |name: &OsStr| {
        let is_acl = name == OsStr::new(ACL);
        let namespace = |prefix: &str| name.as_encoded_bytes().starts_with(prefix.as_bytes());
        (is_acl && options.keep.acl)
            || (!is_acl && options.keep.xattrs && (namespace("user.") || namespace("security.")))
    };
    let mut kept = Vec::new();
    for name in names.into_iter().filter(|name| wanted(name)) {
        let mut value = file.xattr(&name)?;
        if name == OsStr::new(ACL)
            && let Some(mode) = options.mode
        {
            narrow_acl(&mut value, mode);
        }
        kept.push((name, value));
    }
    Ok(kept)
}

/// Gives an ACL the permission bits of `mode`, as changing the mode afterwards would: with those of the old file
/// it would open the new one to the old readers for a moment. What is no ACL is left to the system to refuse.
fn narrow_acl(acl: &mut [u8], mode: Mode) {
    // Version (4 bytes), then entries of tag (2), permissions (2), id (4), little-endian.
    const OWNER: u8 = 0x01;
    const GROUP: u8 = 0x04;
    const MASK: u8 = 0x10;
    const OTHER: u8 = 0x20;
    let entries = acl.get_mut(4..).unwrap_or(&mut []);
    let has_mask = entries.chunks_exact(8).any(|entry| entry.starts_with(&[MASK, 0]));
    let class = if has_mask { MASK } else { GROUP };
    for entry in entries.chunks_exact_mut(8) {
        let [tag, 0, permissions, ..] = entry else { continue };
        let shift = match *tag {
            OWNER => 6,
            tag if tag == class => 3,
            OTHER => 0,
            _ => continue,
        };
        *permissions = u8::try_from(mode.bits() >> shift & 0o7).unwrap_or(0);
    }
}

/// Whether the file found already has the length and the mode asked for, so that comparing bytes is worth it.
pub(crate) fn may_be_unchanged(found: &Metadata, len: u64, options: &WriteOptions) -> bool {
    found.kind == FileKind::File && found.len == len && options.mode.is_none_or(|mode| mode == found.mode)
}

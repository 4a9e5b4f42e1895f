//! Owner, mode, extended attributes and ACL: what a new file gets before its barrier.

use std::ffi::{OsStr, OsString};
use std::io;

use media::{Access, FileKind, Metadata, Mode, Owner, Reason};

use crate::acl::{self, ACL};
use crate::dir::Place;
use crate::error::{Error, Result, Stage};
use crate::options::WriteOptions;

/// What the staged file is to become, decided before it is written.
#[derive(Debug)]
pub(crate) struct Attributes {
    owner: Option<Owner>,
    mode: Mode,
    /// The owner of the file that the mode was taken from; `None` for a mode of the caller's own.
    inherited_from: Option<Owner>,
    acl: Acl,
    xattrs: Vec<(OsString, Vec<u8>)>,
}

/// What becomes of the ACL that a new file may have got from its directory.
#[derive(Debug)]
enum Acl {
    /// A new file like any other: the directory decides.
    OfDirectory,
    /// The mode says it all.
    None,
    /// This one, of the file that is replaced.
    Kept(Vec<u8>),
}

/// What was read from the file that is replaced.
#[derive(Debug, Default)]
struct Old {
    acl: Option<Vec<u8>>,
    xattrs: Vec<(OsString, Vec<u8>)>,
}

impl Attributes {
    /// `umask` is asked only for a file that is new.
    pub(crate) fn gather(
        umask: &mut dyn FnMut() -> io::Result<Mode>,
        place: &Place,
        options: &WriteOptions,
    ) -> Result<Self> {
        // The mode of a link says 0777 and means nothing: a link that is replaced hands on nothing.
        let found = place.existing.filter(|found| found.kind == FileKind::File);
        let fail = |e| Error::os(Stage::Metadata, &place.path, e);
        let old =
            found.map_or(Ok(Old::default()), |found| Old::read(place, &found, options)).map_err(fail)?;
        let mode = match (options.mode, found) {
            (Some(mode), _) => mode,
            (None, Some(found)) => match &old.acl {
                Some(acl) if !options.keep.acl => acl::without_named_entries(found.mode, acl),
                _ => found.mode,
            },
            (None, None) => match umask() {
                Ok(umask) => Mode::FILE.without(umask),
                // Where the umask cannot be known, a new file is private: too narrow harms less than too wide.
                Err(e) if Reason::of(&e) == Reason::Unsupported => Mode::PRIVATE,
                Err(e) => return Err(fail(e)),
            },
        };
        let acl = match (old.acl, found) {
            (Some(acl), _) if options.keep.acl => {
                Acl::Kept(options.mode.map_or_else(|| acl.clone(), |mode| acl::with_mode(&acl, mode)))
            }
            (None, None) if options.mode.is_none() => Acl::OfDirectory,
            _ => Acl::None,
        };
        Ok(Self {
            owner: found.filter(|_| options.keep.owner).map(|found| found.owner),
            mode,
            inherited_from: found.filter(|_| options.mode.is_none()).map(|found| found.owner),
            acl,
            xattrs: old.xattrs,
        })
    }

    /// The owner first, because changing it clears set-id bits; then attributes, which need a right to write that the
    /// mode may take away; then who may read it, in steps of which none grants more than the last one: the ACL, and the
    /// mode that agrees with it.
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
        match &self.acl {
            Acl::Kept(acl) => file.set_xattr(OsStr::new(ACL), acl)?,
            Acl::None if acl::of(file)?.is_some() => {
                file.set_xattr(OsStr::new(ACL), &acl::minimal(self.mode))?;
            }
            Acl::None | Acl::OfDirectory => {}
        }
        file.set_mode(if speaks_for_another { self.mode.without_set_id() } else { self.mode })
    }
}

impl Old {
    /// What the options keep; and the ACL also where only the mode is kept, because then the group bits of the
    /// mode are not what the group may.
    fn read(place: &Place, found: &Metadata, options: &WriteOptions) -> io::Result<Self> {
        let asked = options.keep.xattrs || options.keep.acl;
        let needs_group = options.mode.is_none() && found.mode.bits() & 0o070 != 0;
        if !asked && !needs_group {
            return Ok(Self::default());
        }
        let file = match place.dir.open(&place.name, Access::Read) {
            Err(e) if Reason::of(&e) == Reason::PermissionDenied && !asked => {
                match place.dir.open(&place.name, Access::Write) {
                    // The mode that everybody sees is all there is to go by.
                    Err(e) if Reason::of(&e) == Reason::PermissionDenied => return Ok(Self::default()),
                    outcome => outcome?,
                }
            }
            outcome => outcome?,
        };
        let mut names = match file.xattr_names() {
            Err(e) if Reason::of(&e) == Reason::Unsupported => return Ok(Self::default()),
            names => names?,
        };
        // File systems list them in any order; ours is the same everywhere.
        names.sort();
        let mut old = Self::default();
        for name in names {
            let namespace = |prefix: &str| name.as_encoded_bytes().starts_with(prefix.as_bytes());
            if name == ACL {
                old.acl = Some(file.xattr(&name)?);
            } else if options.keep.xattrs && (namespace("user.") || namespace("security.")) {
                let value = file.xattr(&name)?;
                old.xattrs.push((name, value));
            }
        }
        Ok(old)
    }
}

/// Whether the file found already has the length and the mode asked for, so that comparing bytes is worth it.
pub(crate) fn may_be_unchanged(found: &Metadata, len: u64, options: &WriteOptions) -> bool {
    found.kind == FileKind::File && found.len == len && options.mode.is_none_or(|mode| mode == found.mode)
}

//! Owner, mode, extended attributes and ACL: what a new file gets before its barrier.

use std::ffi::{OsStr, OsString};
use std::io;

use media::{Access, FileKind, Metadata, Mode, Owner, Reason};

use crate::acl::{self, ACL};
use crate::dir::Place;
use crate::error::{Error, Result, Stage};
use crate::options::WriteOptions;

/// What the staged file is to become, decided before it is created.
#[derive(Debug)]
pub(crate) struct Attributes {
    rights: Rights,
    owner: Option<Owner>,
    /// The owner of the file that the mode was taken from; `None` for a mode of the caller's own.
    inherited_from: Option<Owner>,
    xattrs: Vec<(OsString, Vec<u8>)>,
}

/// How the file comes to who may read it. In none of these ways is it ever wider than in the end.
#[derive(Debug)]
enum Rights {
    /// A new file like any other: the system takes the umask off, or applies the default ACL of the directory. No
    /// reading of the umask could be as exact, and none is as cheap.
    OfDirectory,
    /// Nothing but the mode gives rights here: it is created with it, and given back what the umask took.
    FromBirth(Mode),
    /// Something else does, or will: it is created for its owner alone, and widened when everything else is set.
    AtTheEnd {
        mode: Mode,
        /// The ACL of the file that is replaced, where it is kept.
        acl: Option<Vec<u8>>,
    },
}

/// What was read from the file that is replaced.
#[derive(Debug, Default)]
struct Old {
    acl: Option<Vec<u8>>,
    xattrs: Vec<(OsString, Vec<u8>)>,
}

impl Attributes {
    pub(crate) fn gather(place: &Place, options: &WriteOptions) -> Result<Self> {
        // The mode of a link says 0777 and means nothing: a link that is replaced hands on nothing.
        let found = place.existing.filter(|found| found.kind == FileKind::File);
        let fail = |e| Error::os(Stage::Metadata, &place.path, e);
        let old =
            found.map_or(Ok(Old::default()), |found| Old::read(place, &found, options)).map_err(fail)?;
        let owner = found.filter(|_| options.keep.owner).map(|found| found.owner);
        let mode = match (options.mode, found) {
            (Some(mode), _) => Some(mode),
            (None, Some(found)) => Some(match &old.acl {
                Some(acl) if !options.keep.acl => acl::without_named_entries(found.mode, acl),
                _ => found.mode,
            }),
            (None, None) => None,
        };
        let acl = old.acl.filter(|_| options.keep.acl);
        let acl = acl.map(|acl| options.mode.map_or_else(|| acl.clone(), |mode| acl::with_mode(&acl, mode)));
        let only_mode = owner.is_none() && acl.is_none() && old.xattrs.is_empty();
        let rights = match mode {
            None => Rights::OfDirectory,
            Some(mode) if only_mode && !hands_on_rights(place).map_err(fail)? => Rights::FromBirth(mode),
            Some(mode) => Rights::AtTheEnd { mode, acl },
        };
        let inherited_from = found.filter(|_| options.mode.is_none()).map(|found| found.owner);
        Ok(Self { rights, owner, inherited_from, xattrs: old.xattrs })
    }

    /// The mode to create the file with.
    pub(crate) fn at_birth(&self) -> Mode {
        match &self.rights {
            Rights::OfDirectory => Mode::FILE,
            Rights::FromBirth(mode) => mode.without_set_id(),
            Rights::AtTheEnd { .. } => Mode::PRIVATE,
        }
    }

    pub(crate) fn apply(&self, file: &dyn media::File) -> io::Result<()> {
        match &self.rights {
            Rights::OfDirectory => Ok(()),
            Rights::FromBirth(mode) => {
                let found = file.metadata()?;
                let mode = self.without_foreign_set_id(*mode, found.owner);
                if found.mode == mode { Ok(()) } else { file.set_mode(mode) }
            }
            Rights::AtTheEnd { mode, acl } => self.widen(*mode, acl.as_deref(), file),
        }
    }

    /// The owner first, because changing it clears set-id bits; then attributes, which need a right to write that the
    /// mode may take away; then who may read it, in steps of which none grants more than the last one: the ACL, and the
    /// mode that agrees with it.
    fn widen(&self, mode: Mode, acl: Option<&[u8]>, file: &dyn media::File) -> io::Result<()> {
        if let Some(owner) = self.owner {
            file.set_owner(owner)?;
        }
        for (name, value) in &self.xattrs {
            file.set_xattr(name, value)?;
        }
        match acl {
            Some(acl) => file.set_xattr(OsStr::new(ACL), acl)?,
            None if acl::of(file)?.is_some() => file.set_xattr(OsStr::new(ACL), &acl::minimal(mode))?,
            None => {}
        }
        let has_set_id = mode != mode.without_set_id();
        let mode = if has_set_id { self.without_foreign_set_id(mode, file.metadata()?.owner) } else { mode };
        file.set_mode(mode)
    }

    /// Set-id bits speak for an owner: what belongs to somebody else must not inherit them.
    fn without_foreign_set_id(&self, mode: Mode, owner: Owner) -> Mode {
        match self.inherited_from {
            Some(from) if from != owner => mode.without_set_id(),
            _ => mode,
        }
    }
}

/// Whether the directory gives what is created in it rights that no mode tells.
fn hands_on_rights(place: &Place) -> io::Result<bool> {
    match place.dir.has_default_acl() {
        Err(e) if Reason::of(&e) == Reason::Unsupported => Ok(true),
        outcome => outcome,
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

//! Operating-system error codes, classified once.

use std::fmt;
use std::io;

/// Why a call failed, independent of platform.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Reason {
    /// `EACCES`, `EPERM`: the system refuses this process.
    PermissionDenied,
    /// `EROFS`: the file system is mounted read-only.
    ReadOnly,
    /// `ENOSPC`: no space (or no inodes) left.
    DiskFull,
    /// `EDQUOT`: this user's quota is used up.
    QuotaExceeded,
    /// `EIO`: the medium failed.
    IoError,
    /// `ENOENT`.
    NotFound,
    /// `EEXIST`.
    AlreadyExists,
    /// `EXDEV`: the two names are on different file systems.
    CrossDevice,
    /// `EISDIR`: a file was expected.
    IsDirectory,
    /// `ENOTDIR`: a directory was expected.
    NotDirectory,
    /// `ENOTEMPTY`.
    NotEmpty,
    /// `ENAMETOOLONG`.
    NameTooLong,
    /// `ELOOP`: too many symbolic links, or one where none is followed.
    SymlinkLoop,
    /// `EBUSY`: in use, as a mount point for example.
    Busy,
    /// `EMFILE`, `ENFILE`: no descriptors left.
    TooManyOpenFiles,
    /// `EAGAIN` of a lock that another holds.
    WouldBlock,
    /// `EINTR` where it cannot be retried.
    Interrupted,
    /// `ENOTSUP`, `ENOSYS`: this file system or platform does not offer the call.
    Unsupported,
    /// `EINVAL`: the arguments, or (for some calls) not offered.
    InvalidArgument,
    /// Any other code.
    Other(i32),
    /// An error that carries no code of the system.
    Unknown,
}

impl Reason {
    /// Classifies an error by its operating-system code, and by its [`io::ErrorKind`] where it has none.
    #[must_use]
    pub fn of(error: &io::Error) -> Self {
        match error.raw_os_error() {
            Some(code) => Self::of_code(code, error.kind()),
            None => Self::of_kind(error.kind()).unwrap_or(Self::Unknown),
        }
    }

    #[cfg(unix)]
    fn of_code(code: i32, _kind: io::ErrorKind) -> Self {
        use rustix::io::Errno;
        // 0 is no error, and above these there are none: `Errno` holds no other numbers.
        if !(1..=4095).contains(&code) {
            return Self::Other(code);
        }
        match Errno::from_raw_os_error(code) {
            Errno::ACCESS | Errno::PERM => Self::PermissionDenied,
            Errno::ROFS => Self::ReadOnly,
            Errno::NOSPC => Self::DiskFull,
            Errno::DQUOT => Self::QuotaExceeded,
            Errno::IO => Self::IoError,
            Errno::NOENT => Self::NotFound,
            Errno::EXIST => Self::AlreadyExists,
            Errno::XDEV => Self::CrossDevice,
            Errno::ISDIR => Self::IsDirectory,
            Errno::NOTDIR => Self::NotDirectory,
            Errno::NOTEMPTY => Self::NotEmpty,
            Errno::NAMETOOLONG => Self::NameTooLong,
            Errno::LOOP => Self::SymlinkLoop,
            Errno::BUSY => Self::Busy,
            Errno::MFILE | Errno::NFILE => Self::TooManyOpenFiles,
            Errno::AGAIN => Self::WouldBlock,
            Errno::INTR => Self::Interrupted,
            Errno::NOTSUP | Errno::NOSYS => Self::Unsupported,
            // A second name for ENOTSUP on some systems.
            e if e == Errno::OPNOTSUPP => Self::Unsupported,
            Errno::INVAL => Self::InvalidArgument,
            _ => Self::Other(code),
        }
    }

    #[cfg(not(unix))]
    fn of_code(code: i32, kind: io::ErrorKind) -> Self {
        // What `std` gives no kind, or one that means something else here.
        match code {
            // ERROR_TOO_MANY_OPEN_FILES
            4 => Self::TooManyOpenFiles,
            // ERROR_CRC, ERROR_WRITE_FAULT, ERROR_READ_FAULT, ERROR_IO_DEVICE
            23 | 29 | 30 | 1117 => Self::IoError,
            // ERROR_SHARING_VIOLATION
            32 => Self::Busy,
            // ERROR_LOCK_VIOLATION
            33 => Self::WouldBlock,
            // ERROR_INVALID_FUNCTION, ERROR_NOT_SUPPORTED
            1 | 50 => Self::Unsupported,
            // ERROR_INVALID_NAME (forbidden characters), ERROR_NOT_A_REPARSE_POINT
            123 | 4390 => Self::InvalidArgument,
            // ERROR_CANT_RESOLVE_FILENAME
            1921 => Self::SymlinkLoop,
            _ => Self::of_kind(kind).unwrap_or(Self::Other(code)),
        }
    }

    fn of_kind(kind: io::ErrorKind) -> Option<Self> {
        use io::ErrorKind as K;
        Some(match kind {
            K::PermissionDenied => Self::PermissionDenied,
            K::ReadOnlyFilesystem => Self::ReadOnly,
            K::StorageFull => Self::DiskFull,
            K::QuotaExceeded => Self::QuotaExceeded,
            K::NotFound => Self::NotFound,
            K::AlreadyExists => Self::AlreadyExists,
            K::CrossesDevices => Self::CrossDevice,
            K::IsADirectory => Self::IsDirectory,
            K::NotADirectory => Self::NotDirectory,
            K::DirectoryNotEmpty => Self::NotEmpty,
            K::InvalidFilename => Self::NameTooLong,
            K::ResourceBusy => Self::Busy,
            K::WouldBlock => Self::WouldBlock,
            K::Interrupted => Self::Interrupted,
            K::Unsupported => Self::Unsupported,
            K::InvalidInput => Self::InvalidArgument,
            _ => return None,
        })
    }

    /// Whether a *directory barrier* that failed for this reason is one that the file system does not offer
    /// (`EINVAL`, `ENOTSUP`, `ENOSYS`), as opposed to one that was tried and failed.
    #[must_use]
    pub fn means_barrier_unsupported(self) -> bool {
        matches!(self, Self::Unsupported | Self::InvalidArgument)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self {
            Self::PermissionDenied => "permission denied",
            Self::ReadOnly => "the file system is read-only",
            Self::DiskFull => "no space left on the device",
            Self::QuotaExceeded => "disk quota exceeded",
            Self::IoError => "the medium reported an I/O error",
            Self::NotFound => "no such file or directory",
            Self::AlreadyExists => "it exists already",
            Self::CrossDevice => "the names are on different file systems",
            Self::IsDirectory => "it is a directory",
            Self::NotDirectory => "not a directory",
            Self::NotEmpty => "the directory is not empty",
            Self::NameTooLong => "the name is too long",
            Self::SymlinkLoop => "too many symbolic links",
            Self::Busy => "it is in use (a mount point, perhaps)",
            Self::TooManyOpenFiles => "too many open files",
            Self::WouldBlock => "another holds it",
            Self::Interrupted => "interrupted by a signal",
            Self::Unsupported => "this file system does not support it",
            Self::InvalidArgument => "invalid argument",
            Self::Other(code) => return write!(f, "operating-system error {code}"),
            Self::Unknown => "an unclassified error",
        };
        f.write_str(text)
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use rustix::io::Errno;

    #[test]
    fn a_number_that_is_no_code_is_told_and_no_panic() {
        for code in [0, -1, -5, 4096, 65_535, i32::MIN, i32::MAX] {
            assert_eq!(Reason::of(&io::Error::from_raw_os_error(code)), Reason::Other(code));
        }
    }

    #[test]
    fn every_code_named_in_the_docs_has_its_reason() {
        let table = [
            (Errno::ACCESS, Reason::PermissionDenied),
            (Errno::PERM, Reason::PermissionDenied),
            (Errno::ROFS, Reason::ReadOnly),
            (Errno::NOSPC, Reason::DiskFull),
            (Errno::DQUOT, Reason::QuotaExceeded),
            (Errno::IO, Reason::IoError),
            (Errno::NOENT, Reason::NotFound),
            (Errno::EXIST, Reason::AlreadyExists),
            (Errno::XDEV, Reason::CrossDevice),
            (Errno::ISDIR, Reason::IsDirectory),
            (Errno::NOTDIR, Reason::NotDirectory),
            (Errno::NOTEMPTY, Reason::NotEmpty),
            (Errno::NAMETOOLONG, Reason::NameTooLong),
            (Errno::LOOP, Reason::SymlinkLoop),
            (Errno::BUSY, Reason::Busy),
            (Errno::MFILE, Reason::TooManyOpenFiles),
            (Errno::NFILE, Reason::TooManyOpenFiles),
            (Errno::AGAIN, Reason::WouldBlock),
            (Errno::WOULDBLOCK, Reason::WouldBlock),
            (Errno::INTR, Reason::Interrupted),
            (Errno::NOTSUP, Reason::Unsupported),
            (Errno::OPNOTSUPP, Reason::Unsupported),
            (Errno::NOSYS, Reason::Unsupported),
            (Errno::INVAL, Reason::InvalidArgument),
            (Errno::FBIG, Reason::Other(Errno::FBIG.raw_os_error())),
        ];
        for (code, reason) in table {
            assert_eq!(Reason::of(&code.into()), reason, "{code:?}");
        }
    }

    #[test]
    fn an_error_without_a_code_is_classified_by_its_kind() {
        use io::ErrorKind as K;
        let table = [
            (K::PermissionDenied, Reason::PermissionDenied),
            (K::ReadOnlyFilesystem, Reason::ReadOnly),
            (K::StorageFull, Reason::DiskFull),
            (K::QuotaExceeded, Reason::QuotaExceeded),
            (K::NotFound, Reason::NotFound),
            (K::AlreadyExists, Reason::AlreadyExists),
            (K::CrossesDevices, Reason::CrossDevice),
            (K::IsADirectory, Reason::IsDirectory),
            (K::NotADirectory, Reason::NotDirectory),
            (K::DirectoryNotEmpty, Reason::NotEmpty),
            (K::InvalidFilename, Reason::NameTooLong),
            (K::ResourceBusy, Reason::Busy),
            (K::WouldBlock, Reason::WouldBlock),
            (K::Interrupted, Reason::Interrupted),
            (K::Unsupported, Reason::Unsupported),
            (K::InvalidInput, Reason::InvalidArgument),
            (K::Other, Reason::Unknown),
            (K::UnexpectedEof, Reason::Unknown),
        ];
        for (kind, reason) in table {
            assert_eq!(Reason::of(&kind.into()), reason, "{kind:?}");
            assert_eq!(Reason::of(&io::Error::new(kind, "with a text")), reason, "{kind:?}");
        }
    }

    #[test]
    fn only_a_missing_offer_means_that_a_barrier_is_unsupported() {
        for code in [Errno::INVAL, Errno::NOTSUP, Errno::NOSYS] {
            assert!(Reason::of(&code.into()).means_barrier_unsupported(), "{code:?}");
        }
        for code in [Errno::IO, Errno::NOSPC, Errno::DQUOT, Errno::INTR, Errno::ROFS, Errno::BADF] {
            assert!(!Reason::of(&code.into()).means_barrier_unsupported(), "{code:?}");
        }
    }
}

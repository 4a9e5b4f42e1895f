//! [`Medium`]: what the explorer needs from a simulated medium. There are two: files and blocks.

use std::fmt;

use media::doubles::Op;

use crate::fault::Fault;
use crate::files::{FileOp, FilePiece, FileProfile, points};
use crate::image::FsImage;
use crate::names::Names;
use crate::sim_fs::SimFs;
use crate::space::Point;
use crate::trace::{Record, Recording, Trace};
use crate::witness::Witness;

/// A simulated medium. Clones are handles of the same one.
pub trait Medium: Witness + Clone + Send + Sync + 'static {
    /// Its content at one moment.
    type Image: Clone + Send + Sync;
    /// A request to it.
    type Op: Clone + Send + Sync + fmt::Display;
    /// A part of a request that survives or not by itself.
    type Piece: Clone + Send + Sync + fmt::Display;
    /// What it may do between two barriers.
    type Profile: Copy + Send + Sync + PartialEq + fmt::Debug + 'static;

    /// What it is, in a word or two.
    const NAME: &'static str;
    /// Every profile, but for those that must be named.
    const PROFILES: &'static [Self::Profile];
    /// Of these, the ones looked at where nothing else is asked for.
    const PROFILES_DEFAULT: &'static [Self::Profile];
    /// Profiles of no medium at all: only where they are named.
    const PROFILES_BESIDE: &'static [Self::Profile];

    /// The medium with this content, everything durable.
    fn mount(image: Self::Image, recording: Recording) -> Self;

    /// The medium as the next process finds it after one died at the end of `trace`, with nothing lost.
    fn resume(start: &Self::Image, trace: Trace<Self::Op>) -> Self;

    /// What was recorded.
    fn trace(&self) -> Trace<Self::Op>;

    /// What a reader sees.
    fn image(&self) -> Self::Image;

    /// Lets calls go wrong, counted from now on.
    fn set_faults(&self, faults: &[(u64, Fault)]);

    /// For each call since then, what may go wrong with it.
    fn possible_faults(&self) -> Vec<Vec<Fault>>;

    /// The crash points of a trace.
    fn points(
        start: &Self::Image,
        trace: &Trace<Self::Op>,
        profile: Self::Profile,
    ) -> Vec<Point<Self::Image, Self::Piece>>;

    /// Puts a piece into an image.
    fn apply(image: &mut Self::Image, piece: &Self::Piece);

    /// Takes away what nobody can see.
    fn settle(image: &mut Self::Image);

    /// A number that is the same for images that look the same.
    fn digest(image: &Self::Image) -> u128;

    /// Whether the request makes others durable.
    fn is_barrier(op: &Self::Op) -> bool;

    /// The requests of a trace in words, in order, with their subjects called as they are at that moment.
    fn requests_in_words(_start: &Self::Image, trace: &Trace<Self::Op>) -> Vec<String> {
        trace.records().iter().filter_map(Record::op).map(ToString::to_string).collect()
    }

    /// The name of a profile, as in ids.
    fn profile_name(profile: Self::Profile) -> &'static str;

    /// What a profile is based on.
    fn profile_evidence(profile: Self::Profile) -> &'static str;

    /// The profile of that name.
    fn profile_named(name: &str) -> Option<Self::Profile>;
}

impl Medium for SimFs {
    type Image = FsImage;
    type Op = FileOp;
    type Piece = FilePiece;
    type Profile = FileProfile;

    const NAME: &'static str = "file system";
    const PROFILES: &'static [FileProfile] = &FileProfile::ALL;
    const PROFILES_DEFAULT: &'static [FileProfile] = &FileProfile::DEFAULT;
    const PROFILES_BESIDE: &'static [FileProfile] = &[FileProfile::PREFIX];

    fn mount(image: FsImage, recording: Recording) -> Self {
        Self::mount(image, recording)
    }

    fn resume(start: &FsImage, trace: Trace<FileOp>) -> Self {
        Self::resume(start, trace)
    }

    fn trace(&self) -> Trace<FileOp> {
        self.trace()
    }

    fn image(&self) -> FsImage {
        self.image()
    }

    fn set_faults(&self, faults: &[(u64, Fault)]) {
        self.set_faults(faults.iter().copied());
    }

    fn possible_faults(&self) -> Vec<Vec<Fault>> {
        self.calls().into_iter().map(file_faults).collect()
    }

    fn points(
        start: &FsImage,
        trace: &Trace<FileOp>,
        profile: FileProfile,
    ) -> Vec<Point<FsImage, FilePiece>> {
        points(start, trace, profile)
    }

    fn apply(image: &mut FsImage, piece: &FilePiece) {
        piece.apply(image);
    }

    fn settle(image: &mut FsImage) {
        image.settle();
    }

    fn digest(image: &FsImage) -> u128 {
        image.digest()
    }

    fn is_barrier(op: &FileOp) -> bool {
        op.is_barrier()
    }

    fn requests_in_words(start: &FsImage, trace: &Trace<FileOp>) -> Vec<String> {
        let mut names = Names::of(start);
        trace.records().iter().filter_map(Record::op).map(|op| names.tell(op)).collect()
    }

    fn profile_name(profile: FileProfile) -> &'static str {
        profile.name()
    }

    fn profile_evidence(profile: FileProfile) -> &'static str {
        profile.evidence()
    }

    fn profile_named(name: &str) -> Option<FileProfile> {
        FileProfile::named(name)
    }
}

/// What may go wrong with a call of the file seam: a full disk where space is needed, a failing medium anywhere, and
/// answers that come after the deed.
fn file_faults(op: Op) -> Vec<Fault> {
    const EIO: Fault = Fault::Fail(5);
    const FULL: Fault = Fault::Fail(28);
    match op {
        Op::WriteAt | Op::WriteAtDurable | Op::Append => {
            vec![EIO, FULL, Fault::Short(1), Fault::Short(600), Fault::FailAfter(5)]
        }
        Op::CreateExclusive | Op::CreateDir | Op::Link | Op::Rename | Op::SetXattr => {
            vec![EIO, FULL, Fault::FailAfter(5)]
        }
        Op::Allocate => vec![FULL],
        Op::Unlink | Op::SetLen => vec![EIO, Fault::FailAfter(5)],
        // Hints; their failure is nobody's concern.
        Op::StartWriteback | Op::ForgetCached => Vec::new(),
        Op::OpenDir
        | Op::Umask
        | Op::Open
        | Op::OpenDisk
        | Op::AsDisk
        | Op::DiskAlias
        | Op::ReadLink
        | Op::List
        | Op::DirMetadata
        | Op::HasDefaultAcl
        | Op::SetDirMode
        | Op::DirSync
        | Op::SyncFilesystem
        | Op::Metadata
        | Op::Modified
        | Op::ReadAt
        | Op::SetMode
        | Op::SetOwner
        | Op::XattrNames
        | Op::Xattr
        | Op::SyncAll
        | Op::SyncData
        | Op::Lock
        | Op::Unlock => vec![EIO],
    }
}

//! Backup and restore: a store, or a snapshot of it, as a stream of bytes that describes itself.
//!
//! A backup is a header, pieces with records, and an end. All integers are little-endian.
//!
//! | header | size | field | |
//! |---|---|---|---|
//! | 0 | 8 | magic | `SFBACKUP` |
//! | 8 | 2 | version | 1 |
//! | 10 | 1 | what it is | 0: everything that the store had, snapshots too; 1: what a snapshot shows |
//! | 11 | 1 | reserved | 0 |
//! | 12 | 4 | block size | of the device it comes from |
//! | 16 | 16 | store id | of the store it comes from |
//! | 32 | 8 | revision | the last one of the store, or that of the snapshot |
//! | 40 | 8 | sequence | no revision in the backup has a greater sequence number |
//! | 48 | 8 | records | how many there are, what is past included |
//! | 56 | 8 | bytes | of their keys and values |
//! | 64 | 8 | room | bytes that a region must have room for: the records, and 8 for each current one where there are snapshots |
//! | 72 | 4 | value length | of the longest value, the store's own included |
//! | 76 | 2 | frame blocks | limit of the journal |
//! | 78 | 4 | in-flight blocks | limit of the journal |
//! | 82 | 26 | limits | as in the superblock (`limits.rs`); what the device limited is at its greatest |
//! | 108 | 4 | checksum | CRC32C of the 108 bytes before |
//!
//! | piece | size | field | |
//! |---|---|---|---|
//! | 0 | 4 | length *n* | of the records, from 1 to [`PIECE_LEN_MAX`]; 0 in the end |
//! | 4 | 4 | number | from 0 |
//! | 8 | 4 | checksum | CRC32C, continued from the checksum of the piece before (of the header, for the first), of the 8 bytes before and everything behind |
//! | 12 | *n* | records | a body of a copied frame (`record.rs`) |
//!
//! The end is a piece of length 0, with this in place of records:
//!
//! | end | size | field | |
//! |---|---|---|---|
//! | 12 | 8 | records | as in the header |
//! | 20 | 8 | bytes | as in the header |
//! | 28 | 8 | digest | CRC-64/XZ of everything before the end |
//!
//! A backup is **valid if and only if**
//! 1. magic and version are these, reserved is 0, what it is is 0 or 1, the limits are valid, and the checksum is right;
//! 2. each piece has the length, the number and the checksum that it must have;
//! 3. each body is valid, as in a copied frame;
//! 4. keys ascend; of a key what is past comes first, in order, without overlap, and what is current began later than all that;
//! 5. no revision has a greater sequence number than the header says; with 1 in the header nothing is past and no record is
//!    of a snapshot;
//! 6. the header, the end, and what was read agree about records, bytes, room and the longest value, and the digest is right;
//! 7. nothing follows the end.
//!
//! So no bit can be flipped, and no piece left out, doubled or moved, that is not noticed at the latest at the end, before a
//! restore makes a store of it.

use alloc::string::String;
use alloc::vec::Vec;
use core::ops::Bound;

use crc::{CRC_64_XZ, Crc, Digest, Table};
use journal::{Layout, StoreId, crc32c};
use media::{BlockDevice, Geometry};

use crate::contents::Contents;
use crate::error::{Error, ErrorKind};
use crate::form::{Forming, Load, admit};
use crate::history::{Cursor, gather};
use crate::key;
use crate::limits::{self, Limits};
use crate::record::{BadRecord, Record, Records, Revision, SEQ_END};
use crate::sealed::OWN_VALUE_LEN_MAX;
use crate::snapshot::{self, SnapshotName, SnapshotView};
use crate::store::{Options, Store};

const MAGIC: [u8; 8] = *b"SFBACKUP";
const VERSION: u16 = 1;
const HEADER_LEN: usize = 112;
const LIMITS_AT: usize = 82;
const CHECKSUM_AT: usize = 108;
const PIECE_HEADER_LEN: usize = 12;
const END_LEN: usize = 24;

/// The most bytes of records in a piece: what a backup and a restore hold in memory is little more.
pub const PIECE_LEN_MAX: usize = 1 << 17;

const _: () = assert!(LIMITS_AT + limits::LEN == CHECKSUM_AT && CHECKSUM_AT + 4 == HEADER_LEN, "no gap");
const _: () = assert!(
    crate::record::RECORD_LEN_MAX_WITHOUT_VALUE + 65_536 <= PIECE_LEN_MAX,
    "the longest record must fit into a piece"
);

static CRC64: Crc<u64, Table<16>> = Crc::<u64, Table<16>>::new(&CRC_64_XZ);

/// What is backed up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source<'n> {
    /// The store as it is now, with all its snapshots. What is buffered is in it, durable or not.
    Now,
    /// The store as it was when the snapshot was taken, without any snapshot.
    Snapshot(&'n SnapshotName),
}

/// What a backup is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Extent {
    /// A store with its snapshots.
    Whole,
    /// What one snapshot shows.
    OneSnapshot,
}

/// What the header of a backup says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BackupInfo {
    /// What it is of.
    pub extent: Extent,
    /// The store it comes from.
    pub store_id: StoreId,
    /// The last revision of the store, or that of the snapshot.
    pub revision: Revision,
    /// Records, what is past and what the store keeps for itself included.
    pub records: u64,
    /// Bytes of their keys and values.
    pub bytes: u64,
    /// Bytes of a block of the device it comes from.
    pub block_size: u32,
    /// The limits that were asked for when the store was formatted.
    pub limits: Limits,
    /// Those of its journal.
    pub journal: journal::Limits,
    seq: u64,
    room: u64,
    value_len: u32,
}

/// How far a backup or a restore is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Records so far.
    pub records: u64,
    /// Of how many.
    pub records_total: u64,
    /// Bytes of keys and values so far.
    pub bytes: u64,
    /// Of how many.
    pub bytes_total: u64,
}

/// Why a stream is no backup, or not the one that was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadBackup {
    /// It does not begin like one.
    #[error("it does not begin like a backup")]
    Foreign,
    /// It is of a version that this one cannot read.
    #[error("it is of version {0}")]
    Version(u16),
    /// The header is not as it was written.
    #[error("its header is not as it was written")]
    Header,
    /// It ends before its end.
    #[error("it is cut off")]
    CutOff,
    /// A piece is longer than one may be.
    #[error("a piece of {0} bytes is longer than one may be")]
    TooLong(u32),
    /// A piece is missing, doubled, or in another place.
    #[error("piece {found} stands where {wanted} must be")]
    Number {
        /// The one that must be here.
        wanted: u32,
        /// The one that is.
        found: u32,
    },
    /// A piece is not as it was written, or not of this backup.
    #[error("piece {0} is not as it was written")]
    Checksum(u32),
    /// A record is not what it may be.
    #[error("a record is not valid")]
    Record(#[source] BadRecord),
    /// Records are not in order, or have no place in this backup.
    #[error("a record is out of order or has no place here")]
    Order,
    /// Header, records and end do not agree.
    #[error("it does not have what its header says")]
    Counts,
    /// The digest of everything is wrong.
    #[error("the digest of everything is wrong")]
    Digest,
    /// Something follows the end.
    #[error("something follows its end")]
    Behind,
}

/// Why a backup or a restore did not come to its end. `E` is how the stream fails.
#[derive(Debug, thiserror::Error)]
pub enum BackupError<E: core::error::Error + 'static> {
    /// The store, or the device it is to be restored to.
    #[error(transparent)]
    Store(#[from] Error),
    /// The stream could not be read or written.
    #[error("the stream of the backup failed at byte {offset}")]
    Stream {
        /// Where.
        offset: u64,
        /// How.
        #[source]
        source: E,
    },
    /// What was read is not a backup, or not the one that was written.
    #[error("the backup is refused at byte {offset}")]
    Refused {
        /// Where the header, piece or end begins that is refused.
        offset: u64,
        /// Why.
        #[source]
        what: BadBackup,
    },
}

impl<E: core::error::Error + 'static> BackupError<E> {
    /// What to do about it.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Store(error) => error.kind(),
            Self::Stream { .. } => ErrorKind::Io,
            Self::Refused { .. } => ErrorKind::Corrupt,
        }
    }
}

impl BackupInfo {
    fn encode(&self) -> [u8; HEADER_LEN] {
        let mut bytes = [0; HEADER_LEN];
        let mut put = |at: usize, field: &[u8]| {
            if let Some(to) = bytes.get_mut(at..at + field.len()) {
                to.copy_from_slice(field);
            }
        };
        put(0, &MAGIC);
        put(8, &VERSION.to_le_bytes());
        put(10, &[u8::from(self.extent == Extent::OneSnapshot), 0]);
        put(12, &self.block_size.to_le_bytes());
        put(16, &self.store_id.0);
        put(32, &self.revision.get().to_le_bytes());
        put(40, &self.seq.to_le_bytes());
        put(48, &self.records.to_le_bytes());
        put(56, &self.bytes.to_le_bytes());
        put(64, &self.room.to_le_bytes());
        put(72, &self.value_len.to_le_bytes());
        put(76, &self.journal.frame_blocks_max.to_le_bytes());
        put(78, &self.journal.in_flight_blocks_max.to_le_bytes());
        put(LIMITS_AT, &self.limits.encode());
        let checksum = crc32c(0, bytes.get(..CHECKSUM_AT).unwrap_or(&[]));
        if let Some(to) = bytes.last_chunk_mut() {
            *to = checksum.to_le_bytes();
        }
        bytes
    }

    fn decode(bytes: &[u8; HEADER_LEN]) -> Result<Self, BadBackup> {
        if !bytes.starts_with(&MAGIC) {
            return Err(BadBackup::Foreign);
        }
        let checksum = crc32c(0, bytes.get(..CHECKSUM_AT).unwrap_or(&[]));
        if bytes.last_chunk() != Some(&checksum.to_le_bytes()) {
            return Err(BadBackup::Header);
        }
        let version = chunk(bytes, 8).map_or(0, u16::from_le_bytes);
        if version != VERSION {
            return Err(BadBackup::Version(version));
        }
        Self::fields(bytes).filter(|info| info.seq < SEQ_END).ok_or(BadBackup::Header)
    }

    fn fields(bytes: &[u8]) -> Option<Self> {
        Some(Self {
            extent: match chunk(bytes, 10)? {
                [0, 0] => Extent::Whole,
                [1, 0] => Extent::OneSnapshot,
                [_, _] => return None,
            },
            block_size: u32::from_le_bytes(chunk(bytes, 12)?),
            store_id: StoreId(chunk(bytes, 16)?),
            revision: Revision::from_u64(u64::from_le_bytes(chunk(bytes, 32)?)),
            seq: u64::from_le_bytes(chunk(bytes, 40)?),
            records: u64::from_le_bytes(chunk(bytes, 48)?),
            bytes: u64::from_le_bytes(chunk(bytes, 56)?),
            room: u64::from_le_bytes(chunk(bytes, 64)?),
            value_len: u32::from_le_bytes(chunk(bytes, 72)?),
            journal: journal::Limits {
                frame_blocks_max: u16::from_le_bytes(chunk(bytes, 76)?),
                in_flight_blocks_max: u32::from_le_bytes(chunk(bytes, 78)?),
            },
            limits: Limits::decode(bytes.get(LIMITS_AT..CHECKSUM_AT)?)?,
        })
    }

    /// The fewest blocks of a device that this can be restored to; [`None`] where no number of them will do, because a limit
    /// forbids it.
    #[must_use]
    pub fn device_blocks_min(&self, block_size: u32, options: &RestoreOptions) -> Option<u64> {
        let options = options.over(self);
        let fits = |blocks: u64| {
            let geometry = Geometry::new(block_size, blocks);
            geometry.is_ok_and(|geometry| self.admit(geometry, &options).is_ok())
        };
        let mut high = (0..u64::BITS).map(|shift| 1_u64 << shift).find(|blocks| fits(*blocks))?;
        let mut low = high / 2;
        while low + 1 < high {
            let middle = low + (high - low) / 2;
            *(if fits(middle) { &mut high } else { &mut low }) = middle;
        }
        Some(high)
    }

    fn admit(&self, geometry: Geometry, options: &Options) -> Result<(), Error> {
        admit(geometry, options, self.totals(), self.limited_len()).map(drop)
    }

    /// Bytes of the longest value that the limit of values is about, as far as the header tells: it may be one of the
    /// store's own that is as long as this, and not a user's. Then each record is looked at when it is restored.
    fn limited_len(&self) -> u64 {
        match usize::try_from(self.value_len) {
            Ok(len) if len <= OWN_VALUE_LEN_MAX => 0,
            Ok(_) | Err(_) => u64::from(self.value_len),
        }
    }

    fn totals(&self) -> crate::index::Totals {
        crate::index::Totals { keys: self.records, bytes: self.bytes, record_bytes: self.room }
    }

    /// Whether this is what the header said there is.
    fn is_of(&self, load: &Load) -> bool {
        self.totals() == load.charged() && usize::try_from(self.value_len) == Ok(load.value_len)
    }

    fn progress(&self, load: &Load) -> Progress {
        let all = load.charged();
        Progress { records: all.keys, records_total: self.records, bytes: all.bytes, bytes_total: self.bytes }
    }
}

fn chunk<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

/// A backup that is being written, in steps between which a store may be used.
pub struct Backup {
    name: Option<SnapshotName>,
    info: BackupInfo,
    next: Next,
    after: Option<Cursor>,
    number: u32,
    checksum: u32,
    digest: Digest<'static, u64, Table<16>>,
    offset: u64,
    load: Load,
    piece: Vec<u8>,
}

impl core::fmt::Debug for Backup {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Backup").field("info", &self.info).field("next", &self.next).finish_non_exhaustive()
    }
}

/// What is written next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    Header,
    Piece,
    End,
    Nothing,
}

impl<D: BlockDevice> Store<D> {
    /// Begins a backup: counts what there is. [`Backup::step`] writes it.
    ///
    /// A backup of a snapshot goes on while the store is written to, as long as the snapshot is there. One of
    /// [`Source::Now`] is of this moment, and a step refuses to go on when something has been written since.
    ///
    /// # Errors
    /// [`Error::NoSnapshot`]. [`Error::Damaged`]: something of what would be backed up is suspect, and a backup could not
    /// say so; a snapshot that is from before the loss can be backed up, and [`crate::salvage()`] takes the rest.
    pub fn begin_backup(&self, source: Source<'_>) -> Result<Backup, Error> {
        Backup::begin(self, source)
    }

    /// Writes a backup to a stream, in order, and tells how far it is. See [`Store::begin_backup`].
    ///
    /// The store is only read. This makes nothing durable: the caller that takes the bytes does.
    ///
    /// # Errors
    /// As [`Store::begin_backup`], and [`BackupError::Stream`]: what was written is no backup, and a restore refuses it.
    pub fn backup<E: core::error::Error + 'static>(
        &self,
        source: Source<'_>,
        to: impl FnMut(&[u8]) -> Result<(), E>,
        progress: impl FnMut(Progress),
    ) -> Result<BackupInfo, BackupError<E>> {
        Backup::write(self, source, to, progress)
    }
}

/// What a backup reads: a store, or a view of one.
#[derive(Clone, Copy)]
pub struct BackupFrom<'s> {
    contents: &'s Contents,
    last: Revision,
    next_seq: u64,
    layout: &'s Layout,
    limits: &'s Limits,
    store_id: StoreId,
}

impl core::fmt::Debug for BackupFrom<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("BackupFrom")
            .field("store_id", &self.store_id)
            .field("last", &self.last)
            .finish_non_exhaustive()
    }
}

impl<'s> BackupFrom<'s> {
    pub(crate) fn new(
        contents: &'s Contents,
        last: Revision,
        next_seq: u64,
        layout: &'s Layout,
        limits: &'s Limits,
        store_id: StoreId,
    ) -> Self {
        Self { contents, last, next_seq, layout, limits, store_id }
    }

    fn at(&self, name: &SnapshotName) -> Option<SnapshotView<'s>> {
        self.contents.at(name, self.limits)
    }
}

impl<'s, D: BlockDevice> From<&'s Store<D>> for BackupFrom<'s> {
    fn from(store: &'s Store<D>) -> Self {
        let (next_seq, layout) = (store.journal.next_seq(), store.journal.layout());
        Self::new(&store.index, store.last, next_seq, layout, &store.limits, store.store_id())
    }
}

impl Backup {
    /// Begins a backup of a store or of a view. See [`Store::begin_backup`].
    pub(crate) fn begin<'s>(from: impl Into<BackupFrom<'s>>, source: Source<'_>) -> Result<Self, Error> {
        let from = from.into();
        let (name, view) = match source {
            Source::Now => (None, None),
            Source::Snapshot(name) => {
                let view = from.at(name).ok_or_else(|| Error::NoSnapshot { name: name.clone() })?;
                (Some(name.clone()), Some(view))
            }
        };
        let contents = from.contents;
        let is_certain = view.map_or(!contents.is_anything_suspect(), |view| view.is_whole());
        if !is_certain {
            return Err(Error::Damaged);
        }
        let mut load = Load::default();
        match &view {
            None => contents.versions(Bound::Unbounded).for_each(|versions| {
                versions.past_records(contents.arena()).for_each(|record| load.add(&record));
                versions.live_record().iter().for_each(|record| load.add(record));
            }),
            Some(view) => view.stored(Bound::Unbounded).for_each(|kept| load.add(&kept.record())),
        }
        let (layout, all) = (from.layout, load.charged());
        let info = BackupInfo {
            extent: if view.is_some() { Extent::OneSnapshot } else { Extent::Whole },
            store_id: from.store_id,
            revision: view.map_or(from.last, |view| view.revision()),
            records: all.keys,
            bytes: all.bytes,
            block_size: u32::try_from(layout.block_size()).unwrap_or(u32::MAX),
            limits: from.limits.asked_on(layout),
            journal: layout.limits(),
            seq: view.map_or_else(|| from.next_seq.max(from.last.seq()), |view| view.revision().seq()),
            room: all.record_bytes,
            value_len: u32::try_from(load.value_len).unwrap_or(u32::MAX),
        };
        Ok(Backup {
            name,
            info,
            next: Next::Header,
            after: None,
            number: 0,
            checksum: 0,
            digest: CRC64.digest(),
            offset: 0,
            load: Load::default(),
            piece: Vec::new(),
        })
    }

    /// Writes a backup of a store or of a view. See [`Store::backup`].
    pub(crate) fn write<'s, E: core::error::Error + 'static>(
        from: impl Into<BackupFrom<'s>>,
        source: Source<'_>,
        mut to: impl FnMut(&[u8]) -> Result<(), E>,
        mut progress: impl FnMut(Progress),
    ) -> Result<BackupInfo, BackupError<E>> {
        let from = from.into();
        let mut backup = Self::begin(from, source)?;
        while let Some(so_far) = backup.step(from, &mut to)? {
            progress(so_far);
        }
        Ok(backup.info)
    }

    /// What its header says.
    #[must_use]
    pub fn info(&self) -> &BackupInfo {
        &self.info
    }

    /// Writes the header, a piece, or the end, and says how far it is; [`None`] when all of it was written. `from` is the
    /// store or the view that the backup was begun on, or a view of that store at the same moment.
    ///
    /// # Errors
    /// [`Error::BackupOvertaken`]: the store has been written to since, or the snapshot was dropped, or it is another store.
    /// [`BackupError::Stream`]. What was written is no backup then, and no more is.
    pub fn step<'s, E: core::error::Error + 'static>(
        &mut self,
        from: impl Into<BackupFrom<'s>>,
        to: &mut impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<Option<Progress>, BackupError<E>> {
        let next = core::mem::replace(&mut self.next, Next::Nothing);
        let mut piece = core::mem::take(&mut self.piece);
        piece.clear();
        let then = match next {
            Next::Nothing => return Ok(None),
            Next::Header => {
                let header = self.info.encode();
                self.checksum = chunk(&header, CHECKSUM_AT).map_or(0, u32::from_le_bytes);
                piece.extend_from_slice(&header);
                if self.info.records == 0 { Next::End } else { Next::Piece }
            }
            Next::Piece => {
                piece.extend_from_slice(&[0; PIECE_HEADER_LEN]);
                let is_last = self.gather(from.into(), &mut piece)?;
                self.seal(&mut piece, true);
                if is_last { Next::End } else { Next::Piece }
            }
            Next::End => {
                let all = self.load.charged();
                piece.extend_from_slice(&[0; PIECE_HEADER_LEN]);
                piece.extend_from_slice(&all.keys.to_le_bytes());
                piece.extend_from_slice(&all.bytes.to_le_bytes());
                piece.extend_from_slice(&self.digest.clone().finalize().to_le_bytes());
                self.seal(&mut piece, false);
                Next::Nothing
            }
        };
        self.digest.update(&piece);
        to(&piece).map_err(|source| BackupError::Stream { offset: self.offset, source })?;
        self.offset = self.offset.saturating_add(u64::try_from(piece.len()).unwrap_or(u64::MAX));
        self.piece = piece;
        self.next = then;
        Ok(Some(self.info.progress(&self.load)))
    }

    /// Adds the records of a piece behind its header; whether they are the last ones.
    fn gather(&mut self, from: BackupFrom<'_>, piece: &mut Vec<u8>) -> Result<bool, Error> {
        if from.store_id != self.info.store_id {
            return Err(Error::BackupOvertaken);
        }
        let contents = from.contents;
        let mut body = Vec::new();
        let (after, start) = (self.after.as_ref(), Cursor::start(self.after.as_ref()));
        let (after, is_whole) = match &self.name {
            None if from.last != self.info.revision => return Err(Error::BackupOvertaken),
            None => gather(contents.versions(start), contents.arena(), after, PIECE_LEN_MAX, &mut body)?,
            Some(name) => {
                let view = from.at(name).filter(|view| view.revision() == self.info.revision);
                let all = view.ok_or(Error::BackupOvertaken)?.current_versions(start);
                gather(all, contents.arena(), after, PIECE_LEN_MAX, &mut body)?
            }
        };
        for record in Records::of(journal::Kind::Copied, &body) {
            let record = record.map_err(|what| Error::Corrupt { seq: self.info.seq, index: 0, what })?;
            self.load.add(&record);
        }
        piece.try_reserve(body.len()).map_err(|_| Error::NoMemory { len: body.len() })?;
        piece.extend_from_slice(&body);
        self.after = after;
        Ok(is_whole)
    }

    /// Writes the header of a piece that is complete but for that.
    fn seal(&mut self, piece: &mut [u8], has_records: bool) {
        let len = if has_records { piece.len().saturating_sub(PIECE_HEADER_LEN) } else { 0 };
        let len = u32::try_from(len).unwrap_or(u32::MAX).to_le_bytes();
        let number = self.number.to_le_bytes();
        self.number = self.number.saturating_add(1);
        let body = piece.get(PIECE_HEADER_LEN..).unwrap_or(&[]);
        self.checksum = checksum_of(self.checksum, len, number, body);
        let header = [len, number, self.checksum.to_le_bytes()];
        if let Some(to) = piece.first_chunk_mut::<PIECE_HEADER_LEN>() {
            to.copy_from_slice(header.as_flattened());
        }
    }
}

fn checksum_of(before: u32, len: [u8; 4], number: [u8; 4], body: &[u8]) -> u32 {
    crc32c(crc32c(crc32c(before, &len), &number), body)
}

/// What a restored store is made with.
#[derive(Debug, Clone, Copy)]
pub struct RestoreOptions {
    /// Who the store is: 16 random bytes, different for every store that is ever made, restored ones too.
    pub store_id: StoreId,
    /// Limits; [`None`]: those of the store that the backup is of.
    pub limits: Option<Limits>,
    /// Limits of the journal; [`None`]: those of the store that the backup is of.
    pub journal: Option<journal::Limits>,
}

impl RestoreOptions {
    /// The limits of the store that the backup is of.
    #[must_use]
    pub fn new(store_id: StoreId) -> Self {
        Self { store_id, limits: None, journal: None }
    }

    fn over(&self, info: &BackupInfo) -> Options {
        Options {
            store_id: self.store_id,
            limits: self.limits.unwrap_or(info.limits),
            journal: self.journal.unwrap_or(info.journal),
        }
    }
}

/// Reads a backup from the beginning to its end, and says what it is of. Nothing is written.
///
/// `from` fills a part of what it is given and says how much; 0 at the end, as [`std::io::Read`] does.
///
/// # Errors
/// [`BackupError::Refused`]: it is not the backup that was written. [`BackupError::Stream`]. [`Error::NoMemory`].
pub fn check_backup<E: core::error::Error + 'static>(
    from: impl FnMut(&mut [u8]) -> Result<usize, E>,
    mut progress: impl FnMut(Progress),
) -> Result<BackupInfo, BackupError<E>> {
    let (mut reading, info) = Reading::begin(from)?;
    while reading.piece(&mut |_| Ok(()))? {
        progress(info.progress(&reading.load));
    }
    Ok(info)
}

/// Makes a store of a backup, on a device of any size that has room for it. Whatever was on it is gone.
///
/// The store is a new one: it has the id that it is given. Values keep their revisions, because snapshots, and readers who
/// kept one, compare them; new ones begin so far behind (2^32 commits, or half of what is left where that is less) that those
/// which the old store gave out after the backup are not given out again. Sealed values stay sealed, and no key is needed.
/// A backup is read once, so one that is not valid is found out when the device has been wiped: [`check_backup`] before, where
/// it can be read twice.
///
/// # Durability
/// `Ok`: the store is there, durable and closed. Cut short, there is what was there before, or no store, or the new one whole;
/// never a part.
///
/// # Errors
/// By kind, of [`BackupError::Store`]: `NoSpace` and `Invalid`: it does not fit, or the limits do not allow it
/// ([`BackupInfo::device_blocks_min`] says what would); nothing was written. What a store of some geometry and limits wrote
/// fits one of the same geometry and limits. Any other error after the header: there is no store on the device. This is also
/// so for [`Error::ValueTooLong`] where no value has more than 90 bytes, because values that short may be the store's own, and
/// the header does not tell.
pub fn restore<D: BlockDevice, E: core::error::Error + 'static>(
    from: impl FnMut(&mut [u8]) -> Result<usize, E>,
    device: D,
    options: &RestoreOptions,
    mut progress: impl FnMut(Progress),
) -> Result<BackupInfo, BackupError<E>> {
    let (mut reading, info) = Reading::begin(from)?;
    let options = options.over(&info);
    let mut forming = Forming::begin(device, &options, info.totals(), info.limited_len(), info.seq)?;
    while reading.piece(&mut |record| forming.add(record))? {
        progress(info.progress(&reading.load));
    }
    forming.finish()?;
    Ok(info)
}

/// A backup that is being read.
struct Reading<F> {
    from: F,
    info: BackupInfo,
    /// Where the header, piece or end begins that is read, and how much of it has been.
    at: u64,
    read: usize,
    number: u32,
    checksum: u32,
    digest: Digest<'static, u64, Table<16>>,
    body: Vec<u8>,
    load: Load,
    order: Order,
}

impl<F, E: core::error::Error + 'static> Reading<F>
where
    F: FnMut(&mut [u8]) -> Result<usize, E>,
{
    fn begin(mut from: F) -> Result<(Self, BackupInfo), BackupError<E>> {
        let mut header = [0; HEADER_LEN];
        let refused = |what| BackupError::Refused { offset: 0, what };
        let read = fill(&mut from, &mut header, 0)?;
        if read < HEADER_LEN {
            let is_one = read > 0 && header.iter().zip(&MAGIC).take(read).all(|(a, b)| a == b);
            return Err(refused(if is_one { BadBackup::CutOff } else { BadBackup::Foreign }));
        }
        let info = BackupInfo::decode(&header).map_err(refused)?;
        let mut digest = CRC64.digest();
        digest.update(&header);
        let reading = Self {
            from,
            info,
            at: u64::try_from(HEADER_LEN).unwrap_or(u64::MAX),
            read: 0,
            number: 0,
            checksum: chunk(&header, CHECKSUM_AT).map_or(0, u32::from_le_bytes),
            digest,
            body: Vec::new(),
            load: Load::default(),
            order: Order::default(),
        };
        Ok((reading, info))
    }

    fn refused(&self, what: BadBackup) -> BackupError<E> {
        BackupError::Refused { offset: self.at, what }
    }

    /// Reads exactly as much.
    fn exactly(&mut self, into: &mut [u8]) -> Result<(), BackupError<E>> {
        let at = self.at.saturating_add(u64::try_from(self.read).unwrap_or(u64::MAX));
        let read = fill(&mut self.from, into, at)?;
        self.read += read;
        if read < into.len() { Err(self.refused(BadBackup::CutOff)) } else { Ok(()) }
    }

    /// Reads a piece and hands over its records, after all of them were looked at; false if it was the end.
    fn piece(
        &mut self,
        each: &mut dyn FnMut(&Record<'_>) -> Result<(), Error>,
    ) -> Result<bool, BackupError<E>> {
        self.read = 0;
        let mut header = [[0; 4]; 3];
        self.exactly(header.as_flattened_mut())?;
        let [len, number, checksum] = header;
        let body_len = u32::from_le_bytes(len);
        let is_end = body_len == 0;
        let body_len = match usize::try_from(body_len) {
            Ok(0) => END_LEN,
            Ok(len) if len <= PIECE_LEN_MAX => len,
            Ok(_) | Err(_) => return Err(self.refused(BadBackup::TooLong(body_len))),
        };
        let mut body = core::mem::take(&mut self.body);
        body.clear();
        body.try_reserve_exact(body_len).map_err(|_| Error::NoMemory { len: body_len })?;
        body.resize(body_len, 0);
        self.exactly(&mut body)?;
        let found = u32::from_le_bytes(number);
        if found != self.number {
            return Err(self.refused(BadBackup::Number { wanted: self.number, found }));
        }
        self.checksum = checksum_of(self.checksum, len, number, &body);
        if self.checksum.to_le_bytes() != checksum {
            return Err(self.refused(BadBackup::Checksum(found)));
        }
        self.number = self.number.checked_add(1).ok_or_else(|| self.refused(BadBackup::Counts))?;
        if is_end {
            return self.end(&body).map(|()| false);
        }
        self.digest.update(header.as_flattened());
        self.digest.update(&body);
        self.records(&body).map_err(|what| self.refused(what))?;
        for record in Records::of(journal::Kind::Copied, &body).map_while(Result::ok) {
            each(&record)?;
        }
        self.at = self.at.saturating_add(u64::try_from(self.read).unwrap_or(u64::MAX));
        self.body = body;
        Ok(true)
    }

    fn records(&mut self, body: &[u8]) -> Result<(), BadBackup> {
        for record in Records::of(journal::Kind::Copied, body) {
            let record = record.and_then(snapshot::checked).map_err(BadBackup::Record)?;
            self.order.follows(&record, &self.info)?;
            self.load.add(&record);
        }
        // More than the header says would not fit where room was made for that.
        let (all, said) = (self.load.charged(), self.info.totals());
        if all.keys > said.keys || all.bytes > said.bytes || all.record_bytes > said.record_bytes {
            return Err(BadBackup::Counts);
        }
        Ok(())
    }

    fn end(&mut self, body: &[u8]) -> Result<(), BackupError<E>> {
        let said = [0, 8, 16].map(|at| chunk(body, at).map_or(0, u64::from_le_bytes));
        let [records, bytes, digest] = said;
        let all = self.load.charged();
        if !self.info.is_of(&self.load) || (records, bytes) != (all.keys, all.bytes) {
            return Err(self.refused(BadBackup::Counts));
        }
        if self.digest.clone().finalize() != digest {
            return Err(self.refused(BadBackup::Digest));
        }
        self.at = self.at.saturating_add(u64::try_from(self.read).unwrap_or(u64::MAX));
        match fill(&mut self.from, &mut [0], self.at)? {
            0 => Ok(()),
            _ => Err(self.refused(BadBackup::Behind)),
        }
    }
}

/// Reads until it is full or there is no more; how much that was.
fn fill<E: core::error::Error + 'static>(
    from: &mut impl FnMut(&mut [u8]) -> Result<usize, E>,
    into: &mut [u8],
    at: u64,
) -> Result<usize, BackupError<E>> {
    let mut read = 0;
    while let Some(rest) = into.get_mut(read..).filter(|rest| !rest.is_empty()) {
        let offset = at.saturating_add(u64::try_from(read).unwrap_or(u64::MAX));
        match from(rest).map_err(|source| BackupError::Stream { offset, source })? {
            0 => break,
            more => read += more.min(rest.len()),
        }
    }
    Ok(read)
}

/// The last record that was read.
#[derive(Default)]
struct Order {
    key: String,
    /// Until when it was past; [`None`] if it was current.
    until: Option<Revision>,
}

impl Order {
    /// Takes note of a record, if it may come next.
    fn follows(&mut self, record: &Record<'_>, info: &BackupInfo) -> Result<(), BadBackup> {
        let (revision, until) = match *record {
            Record::Kept { revision, .. } => (revision, None),
            Record::Past { revision, until, .. } => (revision, Some(until)),
            Record::Put { .. } | Record::Delete { .. } => return Err(BadBackup::Order),
        };
        let key = record.key();
        let in_order = match key.cmp(self.key.as_str()) {
            core::cmp::Ordering::Greater => true,
            core::cmp::Ordering::Equal => self.until.is_some_and(|until| until <= revision),
            core::cmp::Ordering::Less => false,
        };
        let belongs = match info.extent {
            Extent::Whole => true,
            Extent::OneSnapshot => until.is_none() && key::snapshot_of(key).is_none(),
        };
        if !in_order || !belongs || until.unwrap_or(revision).seq() > info.seq {
            return Err(BadBackup::Order);
        }
        if key != self.key {
            self.key.clear();
            self.key.push_str(key);
        }
        self.until = until;
        Ok(())
    }
}

/// Where a backup is written to: a file, or a pipe. The caller makes it durable.
#[cfg(feature = "std")]
pub fn writing_to<W: std::io::Write>(mut to: W) -> impl FnMut(&[u8]) -> std::io::Result<()> {
    move |bytes| to.write_all(bytes)
}

/// Where a backup is read from.
#[cfg(feature = "std")]
pub fn reading_from<R: std::io::Read>(mut from: R) -> impl FnMut(&mut [u8]) -> std::io::Result<usize> {
    move |into| {
        loop {
            match from.read(into) {
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                read => return read,
            }
        }
    }
}

#[cfg(all(test, feature = "std"))]
mod tests {
    use super::*;

    /// The page for people says what the code does.
    #[test]
    fn the_overview_of_the_format_has_the_numbers_of_the_code() {
        let page = include_str!("../../../docs/format.md");
        let magic = core::str::from_utf8(&MAGIC).unwrap();
        let rows = [
            alloc::format!("| magic, version of a backup | `{magic}`, {VERSION} |"),
            alloc::format!(
                "| bytes of its header, of a piece before its records, of its end | {HEADER_LEN}, {PIECE_HEADER_LEN}, {} |",
                PIECE_HEADER_LEN + END_LEN
            ),
            alloc::format!("| most bytes of records in a piece | {PIECE_LEN_MAX} |"),
        ];
        for row in rows {
            assert!(page.contains(&row), "{row}");
        }
    }
}

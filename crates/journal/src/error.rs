//! [`JournalError`].

use media::{BlockIndex, DeviceError, DeviceErrorKind};

use crate::frame::StoreId;
use crate::layout::LayoutError;

/// Why the journal did not do what it was asked to.
#[derive(Debug, Clone, thiserror::Error)]
pub enum JournalError {
    /// The device cannot hold a store.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// The device failed. Where its kind is `NoSpace`, a write found no space on the medium: nothing has changed, and the
    /// journal takes nothing more until it is opened again.
    #[error("the device failed")]
    Device(#[from] DeviceError),
    /// An earlier write or flush failed; nothing is written any more. Open the store again.
    #[error("the journal takes nothing more since a write or flush failed; open the store again")]
    Poisoned {
        /// What failed **first**.
        #[source]
        cause: DeviceError,
    },
    /// There is no store on the device.
    #[error("there is no store on this device: none of its superblocks is valid")]
    NoStore,
    /// No superblock is valid, but there are blocks that look like a store's.
    #[error(
        "every superblock is lost, but there are blocks of a store: do not format; salvage it, if it is of format 2"
    )]
    SuperblocksLost,
    /// The superblocks are of several stores.
    #[error("the superblocks are of different stores: {first} and {second}")]
    SeveralStores {
        /// One.
        first: StoreId,
        /// The other.
        second: StoreId,
    },
    /// A writer was at work while the store was opened to be read, and what was read at different times does not fit
    /// together. Nothing is wrong with the store: open it again.
    #[error("a writer overtook this reader; open the store again")]
    Overtaken,
    /// A superblock describes another device than this one.
    #[error("the superblock describes another device: region_blocks={region_blocks} block_size={block_size}")]
    WrongDevice {
        /// Blocks of a region, as it says.
        region_blocks: u64,
        /// Bytes of a block, as it says.
        block_size: u32,
    },
    /// The store was opened to be read, or is damaged and may only be read.
    #[error("the store is read-only: {why}")]
    ReadOnly {
        /// Why.
        why: &'static str,
    },
    /// The region in force has no room for the frame: copy what is alive and switch. Nothing was written.
    #[error("the region is full: the frame needs {needed} blocks, {room} are left")]
    Full {
        /// Blocks of the frame.
        needed: u64,
        /// Blocks that are left for it.
        room: u64,
    },
    /// The body is longer than a frame may be. Nothing was written.
    #[error("the frame is too long: len={len} len_max={len_max}")]
    FrameTooLong {
        /// Bytes of body.
        len: usize,
        /// The most there may be.
        len_max: usize,
    },
    /// Frames that were begun have to end first. Nothing was written.
    #[error("{count} frame(s) are still on their way to the device")]
    Outgoing {
        /// How many.
        count: usize,
    },
    /// The frame is written, but an earlier frame is still in flight. Whether both survive power loss is decided when the
    /// earlier one ends.
    #[error("frame {seq} is written, but frames after {durable_seq} are still on their way to the device")]
    NotInOrder {
        /// The frame that was written.
        seq: u64,
        /// Every frame up to this one is durable.
        durable_seq: u64,
    },
    /// The other region cannot be wiped while it is copied into: finish the copy. Nothing was written.
    #[error("a copy into the other region runs")]
    CopyRuns,
    /// Commits that came since the copy began are being copied, and nothing else may follow them. Nothing was written.
    #[error("the copy is whole: only later commits may follow")]
    CopyIsWhole,
    /// A block that was just written does not read back. Nothing refers to it yet.
    #[error("block {at} does not read back as it was written")]
    NotReadBack {
        /// Which.
        at: BlockIndex,
    },
    /// Sequence numbers, epochs or incarnations are used up. (After 2^64, or 2^32, of them.)
    #[error("the numbers of the store are used up")]
    NumbersUsedUp,
    /// Memory could not be had.
    #[error("no memory for {len} bytes")]
    NoMemory {
        /// How much was asked for.
        len: usize,
    },
}

/// What to do about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum JournalErrorKind {
    /// Ask for something else.
    Invalid,
    /// Make room.
    NoSpace,
    /// The device failed: open the store again, and look at the device.
    Io,
    /// Open the store again.
    Poisoned,
    /// Salvage.
    Corrupt,
    /// There is no store.
    NotFound,
    /// Open it for writing, if it is not damaged.
    ReadOnly,
    /// Memory.
    NoMemory,
    /// End what was begun, then ask again.
    Busy,
}

impl JournalError {
    /// What to do about it.
    #[must_use]
    pub fn kind(&self) -> JournalErrorKind {
        match self {
            Self::Layout(_) | Self::FrameTooLong { .. } | Self::CopyRuns | Self::CopyIsWhole => {
                JournalErrorKind::Invalid
            }
            Self::Device(error) if error.kind() == DeviceErrorKind::NoSpace => JournalErrorKind::NoSpace,
            Self::Device(_) | Self::NotReadBack { .. } => JournalErrorKind::Io,
            Self::Poisoned { .. } => JournalErrorKind::Poisoned,
            Self::NoStore => JournalErrorKind::NotFound,
            Self::SuperblocksLost | Self::SeveralStores { .. } | Self::WrongDevice { .. } => {
                JournalErrorKind::Corrupt
            }
            Self::ReadOnly { .. } => JournalErrorKind::ReadOnly,
            Self::Full { .. } | Self::NumbersUsedUp => JournalErrorKind::NoSpace,
            Self::NoMemory { .. } => JournalErrorKind::NoMemory,
            Self::Outgoing { .. } | Self::NotInOrder { .. } | Self::Overtaken => JournalErrorKind::Busy,
        }
    }
}

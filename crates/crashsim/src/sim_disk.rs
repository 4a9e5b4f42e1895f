//! [`SimDisk`]: a block device in memory behind the block seam, which writes down everything that is asked of it.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use media::{BlockDevice, BlockIndex, DeviceCause, DeviceError, DeviceOp, Geometry};

use crate::blocks::{BlockOp, DiskPiece, DiskPoint, DiskProfile, block_points};
use crate::disk_image::DiskImage;
use crate::fault::Fault;
use crate::files::Outcome;
use crate::image::SECTOR_LEN;
use crate::medium::Medium;
use crate::trace::{Event, Recording, Trace};
use crate::witness::{Mark, Witness};

/// A simulated block device: [`media::BlockDevice`] over a [`DiskImage`]. Clones are handles of the same device.
///
/// While the power stays on it does what the seam says, and passes its conformance suite. Every write and every flush goes
/// into a [`Trace`]; what a power cut may leave of them is not decided here but by [`block_points`]. Calls are carried out one
/// at a time, so in its traces no two overlap; traces in which they do come from elsewhere.
///
/// After a flush that failed it does **not** latch: real devices go on as if nothing had happened, and an engine must stop by
/// itself. What the failed flush should have covered stays uncovered for ever.
///
/// Faults count calls that reach the device; a request that the geometry refuses does not. [`Fault::Fail`]: nothing was
/// done. [`Fault::FailAfter`]: all of it was, and of a durable write nothing is known to be durable. [`Fault::Short`]: of a
/// write, so many bytes were (whole sectors), and it answers `EIO`, because the seam has no short writes; other calls are
/// as always.
#[derive(Clone)]
pub struct SimDisk {
    geometry: Geometry,
    state: Arc<Mutex<State>>,
}

struct State {
    visible: DiskImage,
    trace: Trace<BlockOp>,
    recording: Recording,
    calls: Vec<(DeviceOp, usize)>,
    call_count: u64,
    faults: BTreeMap<u64, Fault>,
    next_flush_fails: bool,
    listener: Option<Listener>,
}

/// Hears of every flush, before it is carried out.
type Listener = Arc<dyn Fn() + Send + Sync>;

/// What Linux reports of a failing medium.
const EIO: i32 = 5;

impl fmt::Debug for SimDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimDisk").field("geometry", &self.geometry).finish_non_exhaustive()
    }
}

impl SimDisk {
    /// A device of zeros, recording.
    #[must_use]
    pub fn new(geometry: Geometry) -> Self {
        Self::mount(DiskImage::new(geometry), Recording::On)
    }

    /// A device with this content, all of it durable.
    #[must_use]
    pub fn mount(image: DiskImage, recording: Recording) -> Self {
        Self::with(image, Trace::default(), recording)
    }

    /// The device as a process finds it that starts after another one died in the middle of `trace`: nothing is lost, and
    /// nothing is more durable than it was. Recording goes on in the same trace.
    #[must_use]
    pub fn resume(start: &DiskImage, trace: Trace<BlockOp>) -> Self {
        let mut visible = start.clone();
        for op in trace.records().iter().filter_map(|record| record.op()) {
            if let BlockOp::Write { at, bytes, .. } = op {
                visible.put(*at, bytes);
            }
        }
        Self::with(visible, trace, Recording::On)
    }

    fn with(visible: DiskImage, trace: Trace<BlockOp>, recording: Recording) -> Self {
        let geometry = visible.geometry();
        let state = State {
            visible,
            trace,
            recording,
            calls: Vec::new(),
            call_count: 0,
            faults: BTreeMap::new(),
            next_flush_fails: false,
            listener: None,
        };
        Self { geometry, state: Arc::new(Mutex::new(state)) }
    }

    /// Lets the calls with these numbers (from 0, from now on) go wrong.
    pub fn set_faults(&self, faults: impl IntoIterator<Item = (u64, Fault)>) {
        let mut state = self.state();
        let base = state.call_count;
        state.faults = faults.into_iter().map(|(call, fault)| (base.saturating_add(call), fault)).collect();
        state.calls.clear();
    }

    /// Lets the next flush fail, whatever else was asked for: for a workload that is about what comes after that.
    pub fn fail_next_flush(&self) {
        self.state().next_flush_fails = true;
    }

    /// Calls `listener` at every flush, on the stack of who asks for it.
    pub fn listen_for_flushes(&self, listener: impl Fn() + Send + Sync + 'static) {
        self.state().listener = Some(Arc::new(listener));
    }

    /// What a reader sees now.
    #[must_use]
    pub fn image(&self) -> DiskImage {
        self.state().visible.clone()
    }

    /// What was recorded so far.
    #[must_use]
    pub fn trace(&self) -> Trace<BlockOp> {
        self.state().trace.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic elsewhere cannot leave it half-way in a way that matters: each sector is changed by itself.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a call; gives the fault that is planned for it.
    fn enter(&self, op: DeviceOp, len: usize) -> (MutexGuard<'_, State>, Option<Fault>) {
        let mut state = self.state();
        let number = state.call_count;
        state.call_count += 1;
        if state.recording == Recording::On {
            state.calls.push((op, len));
        }
        let fault = state.faults.get(&number).copied();
        (state, fault)
    }

    fn put(&self, operation: DeviceOp, at: BlockIndex, from: &[u8]) -> Result<(), DeviceError> {
        self.geometry.locate(at, from.len())?;
        if from.is_empty() {
            return Ok(());
        }
        let (mut state, fault) = self.enter(operation, from.len());
        let failed = |code| Err(DeviceError::Io { operation, at, len: from.len(), cause: cause(code) });
        let durable = operation == DeviceOp::WriteDurable;
        match fault {
            None => state.carry_out(at, from.into(), durable),
            Some(Fault::Fail(code)) => failed(code),
            Some(Fault::FailAfter(code)) => {
                state.carry_out(at, from.into(), false)?;
                failed(code)
            }
            Some(Fault::Short(len)) => {
                let mut torn = vec![0; from.len()];
                state.visible.read(at, &mut torn)?;
                let taken = usize::try_from(len).unwrap_or(usize::MAX).min(from.len());
                let taken = taken - taken % SECTOR_LEN;
                if let (Some(to), Some(from)) = (torn.get_mut(..taken), from.get(..taken)) {
                    to.copy_from_slice(from);
                }
                state.carry_out(at, torn.into(), false)?;
                failed(EIO)
            }
        }
    }
}

impl State {
    /// Makes a write visible and writes it down.
    fn carry_out(&mut self, at: BlockIndex, bytes: Arc<[u8]>, durable: bool) -> Result<(), DeviceError> {
        self.visible.write(at, &bytes)?;
        self.note(Event::Op(BlockOp::Write { at, bytes, durable }));
        Ok(())
    }

    fn note(&mut self, event: Event<BlockOp>) {
        if event.is_kept(self.recording) {
            self.trace.push(event);
        }
    }
}

fn cause(code: i32) -> DeviceCause {
    io::Error::from_raw_os_error(code).into()
}

impl BlockDevice for SimDisk {
    fn geometry(&self) -> Geometry {
        self.geometry
    }

    fn read(&self, at: BlockIndex, into: &mut [u8]) -> Result<(), DeviceError> {
        self.geometry.locate(at, into.len())?;
        if into.is_empty() {
            return Ok(());
        }
        let (state, fault) = self.enter(DeviceOp::Read, into.len());
        if !matches!(fault, Some(Fault::Fail(_))) {
            state.visible.read(at, into)?;
        }
        match fault {
            Some(Fault::Fail(code) | Fault::FailAfter(code)) => {
                let (operation, len) = (DeviceOp::Read, into.len());
                Err(DeviceError::Io { operation, at, len, cause: cause(code) })
            }
            Some(Fault::Short(_)) | None => Ok(()),
        }
    }

    fn write(&self, at: BlockIndex, from: &[u8]) -> Result<(), DeviceError> {
        self.put(DeviceOp::Write, at, from)
    }

    fn flush(&self) -> Result<(), DeviceError> {
        let listener = self.state().listener.clone();
        if let Some(listener) = listener {
            listener();
        }
        let (mut state, planned) = self.enter(DeviceOp::Flush, 0);
        let fault =
            if std::mem::take(&mut state.next_flush_fails) { Some(Fault::Fail(EIO)) } else { planned };
        let outcome = match fault {
            Some(Fault::Fail(_)) => Outcome::Failed,
            Some(Fault::FailAfter(_) | Fault::Short(_)) | None => Outcome::Done,
        };
        state.note(Event::Op(BlockOp::Flush { outcome }));
        match fault {
            Some(Fault::Fail(code) | Fault::FailAfter(code)) => {
                Err(DeviceError::FlushFailed { cause: cause(code) })
            }
            Some(Fault::Short(_)) | None => Ok(()),
        }
    }

    fn write_durable(&self, at: BlockIndex, from: &[u8]) -> Result<(), DeviceError> {
        if !self.geometry.write_durable() {
            return Err(DeviceError::Unsupported { operation: DeviceOp::WriteDurable });
        }
        self.put(DeviceOp::WriteDurable, at, from)
    }

    fn mark(&self, point: &'static str) {
        self.tell(Mark::Point(point));
    }
}

impl Witness for SimDisk {
    fn tell(&self, mark: Mark) {
        self.state().note(Event::Mark(mark));
    }
}

impl Medium for SimDisk {
    type Image = DiskImage;
    type Op = BlockOp;
    type Piece = DiskPiece;
    type Profile = DiskProfile;

    const NAME: &'static str = "disk";
    const PROFILES: &'static [DiskProfile] = &DiskProfile::ALL;
    const PROFILES_DEFAULT: &'static [DiskProfile] = &[DiskProfile::DEFAULT];
    const PROFILES_BESIDE: &'static [DiskProfile] = &[];

    fn mount(image: DiskImage, recording: Recording) -> Self {
        Self::mount(image, recording)
    }

    fn resume(start: &DiskImage, trace: Trace<BlockOp>) -> Self {
        Self::resume(start, trace)
    }

    fn trace(&self) -> Trace<BlockOp> {
        self.trace()
    }

    fn image(&self) -> DiskImage {
        self.image()
    }

    fn set_faults(&self, faults: &[(u64, Fault)]) {
        self.set_faults(faults.iter().copied());
    }

    fn possible_faults(&self) -> Vec<Vec<Fault>> {
        self.state().calls.iter().map(|&(op, len)| block_faults(op, len)).collect()
    }

    fn points(start: &DiskImage, trace: &Trace<BlockOp>, profile: DiskProfile) -> Vec<DiskPoint> {
        block_points(start, trace, profile)
    }

    fn apply(image: &mut DiskImage, piece: &DiskPiece) {
        piece.apply(image);
    }

    /// Every byte of a device can be read.
    fn settle(_: &mut DiskImage) {}

    fn digest(image: &DiskImage) -> u128 {
        image.digest()
    }

    fn is_barrier(op: &BlockOp) -> bool {
        op.is_barrier()
    }

    fn profile_name(profile: DiskProfile) -> &'static str {
        profile.name()
    }

    fn profile_evidence(profile: DiskProfile) -> &'static str {
        profile.evidence()
    }

    fn profile_named(name: &str) -> Option<DiskProfile> {
        DiskProfile::named(name)
    }
}

/// What may go wrong with a call: it fails, it fails though all was done, and a write of several sectors fails half-way.
fn block_faults(op: DeviceOp, len: usize) -> Vec<Fault> {
    match op {
        DeviceOp::Read => vec![Fault::Fail(EIO)],
        DeviceOp::Flush => vec![Fault::Fail(EIO), Fault::FailAfter(EIO)],
        DeviceOp::Write | DeviceOp::WriteDurable => {
            let mut faults = vec![Fault::Fail(EIO), Fault::FailAfter(EIO)];
            if let Ok(half) = u32::try_from(len / 2)
                && len > SECTOR_LEN
            {
                faults.push(Fault::Short(half));
            }
            faults
        }
    }
}

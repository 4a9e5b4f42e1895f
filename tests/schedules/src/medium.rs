//! [`RecordingDisk`]: a medium that knows which bytes a power cut would leave at every moment of a run, and [`Power`], which
//! keeps each distinct pair of those bytes and what callers had been told.
//!
//! Scheduling points: one before each call, and one inside a flush, between its submission and its completion. None follows a
//! call: whatever a thread does next that others can see has a point before it.

use std::collections::HashMap;
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher as _};
use std::io;
use std::panic::resume_unwind;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use media::sync::atomic::{AtomicU64, Ordering};
use media::{BlockDevice, BlockIndex, DeviceError, DeviceOp, Geometry};

use crate::explore::{Broken, Judged, chosen, complain};

/// A call of the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Call {
    /// [`BlockDevice::read`].
    Read,
    /// [`BlockDevice::write`].
    Write,
    /// [`BlockDevice::flush`].
    Flush,
    /// [`BlockDevice::write_durable`].
    WriteDurable,
}

/// How a call goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// It fails, and nothing of it was done. A flush that fails forgets the writes it should have covered, as kernels do.
    Fails,
    /// It fails, although it was done.
    FailsAfter,
    /// It panics, and nothing of it was done. The panic hook is not called, so that runs stay silent.
    Panics,
}

/// One call that goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    /// Which calls are counted.
    pub on: &'static [Call],
    /// The call of those that goes wrong, from 0.
    pub nth: usize,
    /// What happens.
    pub how: How,
}

/// Calls that change the medium.
pub const CHANGES: &[Call] = &[Call::Write, Call::Flush, Call::WriteDurable];

/// Barriers.
pub const BARRIERS: &[Call] = &[Call::Flush, Call::WriteDurable];

/// The panic of a [`RecordingDisk`] that was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlannedPanic;

/// Bytes, and a hash that is kept up to date block by block.
#[derive(Clone)]
struct Image {
    bytes: Vec<u8>,
    block_size: usize,
    hash: u64,
}

fn block_hash(index: usize, bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    (index, bytes).hash(&mut hasher);
    hasher.finish()
}

impl Image {
    fn new(bytes: Vec<u8>, block_size: usize) -> Self {
        let hash = bytes
            .chunks(block_size)
            .enumerate()
            .fold(0, |hash, (index, block)| hash ^ block_hash(index, block));
        Self { bytes, block_size, hash }
    }

    fn write(&mut self, offset: usize, from: &[u8]) {
        let first = offset / self.block_size;
        let Some(to) = self.bytes.get_mut(offset..offset + from.len()) else { return };
        for (at, (old, new)) in to.chunks_mut(self.block_size).zip(from.chunks(self.block_size)).enumerate() {
            self.hash ^= block_hash(first + at, old);
            old.copy_from_slice(new);
            self.hash ^= block_hash(first + at, old);
        }
    }
}

/// A moment of some run at which power may fail.
#[derive(Debug, Clone)]
pub struct Moment<T> {
    /// The bytes of the medium.
    pub bytes: Arc<[u8]>,
    /// What callers had been told, in the order in which they were.
    pub told: Vec<T>,
    tasks: Vec<usize>,
}

/// The distinct moments of all runs of a scenario: pairs of the bytes of the medium and what callers had been told.
///
/// Of each moment there are two media: what a barrier has covered, and that with every other completed write.
#[derive(Debug)]
pub struct Power<T> {
    seen: Mutex<Seen<T>>,
}

#[derive(Debug)]
struct Seen<T> {
    images: HashMap<u64, Arc<[u8]>>,
    moments: HashMap<u64, Moment<T>>,
}

/// More distinct moments than a scenario should have: each is judged.
const MOMENTS_MAX: usize = 200_000;

impl<T> Default for Power<T> {
    fn default() -> Self {
        Self { seen: Mutex::new(Seen { images: HashMap::new(), moments: HashMap::new() }) }
    }
}

impl<T: Clone + Hash> Power<T> {
    /// For one scenario; its runs share it.
    #[must_use]
    pub fn shared() -> Arc<Self> {
        Arc::default()
    }

    fn note(&self, image: &Image, told: &[T]) {
        let mut hasher = DefaultHasher::new();
        (image.hash, told).hash(&mut hasher);
        let key = hasher.finish();
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.moments.contains_key(&key) {
            return;
        }
        assert!(seen.moments.len() < MOMENTS_MAX, "the scenario has too many distinct moments");
        let bytes = seen.images.entry(image.hash).or_insert_with(|| image.bytes.as_slice().into());
        let moment = Moment { bytes: Arc::clone(bytes), told: told.to_vec(), tasks: chosen() };
        seen.moments.insert(key, moment);
    }

    /// Hands each distinct moment once to `judge`, and stops at the first one that it refuses.
    ///
    /// To be called after the runs: `scenario.judged(move || power.judge(|moment| …))`.
    pub fn judge(&self, judge: impl Fn(&Moment<T>) -> Result<(), String>) -> Judged {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        // The one with the shortest schedule is the easiest to understand.
        let mut moments: Vec<&Moment<T>> = seen.moments.values().collect();
        moments.sort_by_key(|moment| (moment.tasks.len(), moment.tasks.clone()));
        let broken = moments.iter().find_map(|moment| {
            let message = judge(moment).err()?;
            Some(Broken { message: format!("after a power cut: {message}"), tasks: moment.tasks.clone() })
        });
        Judged { moments: moments.len(), broken }
    }
}

/// A block device in memory that knows which bytes are durable, and fails the run if its caller holds a lock. Build it inside
/// the run; share it in an `Arc`.
///
/// A flush covers the writes that had **completed before it was submitted**, and nothing else; a durable write covers itself.
/// `T` is what callers are told.
pub struct RecordingDisk<T = ()> {
    geometry: Geometry,
    state: Mutex<State<T>>,
    /// Loading it is the scheduling point. (A `yield_now` would make PCT change priorities at every call.)
    point: AtomicU64,
    is_slow: bool,
    forbids_locks: bool,
    power: Option<Arc<Power<T>>>,
}

struct State<T> {
    /// What reads see.
    visible: Image,
    durable: Image,
    /// Writes that no barrier has covered, in the order in which they completed.
    uncovered: Vec<Write>,
    writes: u64,
    barriers: u64,
    calls: usize,
    fault: Option<Fault>,
    told: Vec<T>,
}

struct Write {
    number: u64,
    offset: usize,
    bytes: Vec<u8>,
}

impl<T> fmt::Debug for RecordingDisk<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RecordingDisk").field("geometry", &self.geometry).finish_non_exhaustive()
    }
}

impl<T> State<T> {
    fn complete(&mut self, offset: usize, bytes: &[u8]) -> u64 {
        self.writes += 1;
        self.visible.write(offset, bytes);
        self.uncovered.push(Write { number: self.writes, offset, bytes: bytes.to_vec() });
        self.writes
    }

    /// Makes the uncovered writes durable that `is_covered` selects by their numbers.
    fn cover(&mut self, is_covered: impl Fn(u64) -> bool) {
        self.barriers += 1;
        let Self { durable, uncovered, .. } = self;
        uncovered.retain(|write| {
            let covered = is_covered(write.number);
            if covered {
                durable.write(write.offset, &write.bytes);
            }
            !covered
        });
    }
}

impl<T: Clone + Hash> RecordingDisk<T> {
    /// A disk that holds these bytes durably, with or without durable writes as the geometry says.
    ///
    /// # Panics
    /// The bytes do not fit the geometry.
    #[must_use]
    pub fn holding(geometry: Geometry, bytes: &[u8]) -> Self {
        assert_eq!(u64::try_from(bytes.len()).ok(), Some(geometry.byte_len()), "the length of the image");
        let image = Image::new(bytes.to_vec(), geometry.block_size());
        let state = State {
            visible: image.clone(),
            durable: image,
            uncovered: Vec::new(),
            writes: 0,
            barriers: 0,
            calls: 0,
            fault: None,
            told: Vec::new(),
        };
        Self {
            geometry,
            state: Mutex::new(state),
            point: AtomicU64::new(0),
            is_slow: false,
            forbids_locks: false,
            power: None,
        }
    }

    /// The same disk, which keeps its moments.
    #[must_use]
    pub fn with_power(self, power: &Arc<Power<T>>) -> Self {
        Self { power: Some(Arc::clone(power)), ..self }
    }

    /// The same disk, whose calls let all other threads go on first, as a slow medium does: threads gather at it.
    #[must_use]
    pub fn slow(self) -> Self {
        Self { is_slow: true, ..self }
    }

    /// The same disk, which fails the run if a call is made by a thread that holds a lock of `media::sync`.
    #[must_use]
    pub fn forbidding_locks(self) -> Self {
        Self { forbids_locks: true, ..self }
    }

    /// From now on a call goes wrong.
    pub fn arm(&self, fault: Fault) {
        self.state().fault = Some(fault);
    }

    /// From now on no call goes wrong.
    pub fn disarm(&self) {
        self.state().fault = None;
    }

    /// Writes down that a caller was told this. Call it as soon as the caller knows.
    pub fn tell(&self, what: T) {
        self.state().told.push(what);
        self.note();
    }

    /// What callers were told so far.
    #[must_use]
    pub fn told(&self) -> Vec<T> {
        self.state().told.clone()
    }

    /// The bytes that a power cut would leave now if nothing else had reached the medium.
    #[must_use]
    pub fn durable(&self) -> Vec<u8> {
        self.state().durable.bytes.clone()
    }

    /// Barriers that have succeeded.
    #[must_use]
    pub fn barriers(&self) -> u64 {
        self.state().barriers
    }

    /// Calls so far, reads included.
    #[must_use]
    pub fn calls(&self) -> usize {
        self.state().calls
    }

    fn state(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self) {
        if let Some(power) = &self.power {
            let state = self.state();
            power.note(&state.durable, &state.told);
            if !state.uncovered.is_empty() {
                power.note(&state.visible, &state.told);
            }
        }
    }

    fn point(&self) {
        if self.is_slow {
            media::sync::thread::yield_now();
        } else {
            self.point.load(Ordering::SeqCst);
        }
    }

    /// Begins a call. How it goes wrong, if it does.
    fn begin(&self, call: Call) -> Option<How> {
        let locks = media::sync::locks_held();
        if self.forbids_locks && locks > 0 {
            complain(format!("{call:?} of the device while its caller holds {locks} locks"));
        }
        self.point();
        let mut state = self.state();
        state.calls += 1;
        let fault = state.fault.as_mut().filter(|fault| fault.on.contains(&call))?;
        if fault.nth > 0 {
            fault.nth -= 1;
            return None;
        }
        let how = fault.how;
        state.fault = None;
        if how == How::Panics {
            drop(state);
            resume_unwind(Box::new(PlannedPanic));
        }
        Some(how)
    }

    fn offset(&self, at: BlockIndex, len: usize) -> Result<usize, DeviceError> {
        let block_size = self.geometry.block_size();
        let offset = usize::try_from(at.get()).unwrap_or(usize::MAX).saturating_mul(block_size);
        let end = offset.saturating_add(len);
        if len.is_multiple_of(block_size)
            && u64::try_from(end).is_ok_and(|end| end <= self.geometry.byte_len())
        {
            return Ok(offset);
        }
        complain(format!("a call outside of the device: {len} bytes at block {at}"));
        Err(DeviceError::NoBlocks)
    }
}

fn failed(operation: DeviceOp, at: BlockIndex, len: usize) -> DeviceError {
    DeviceError::Io { operation, at, len, cause: io::Error::other("planned").into() }
}

impl<T: Clone + Hash> BlockDevice for RecordingDisk<T> {
    fn geometry(&self) -> Geometry {
        self.geometry
    }

    fn read(&self, at: BlockIndex, into: &mut [u8]) -> Result<(), DeviceError> {
        let offset = self.offset(at, into.len())?;
        if self.begin(Call::Read).is_some() {
            return Err(failed(DeviceOp::Read, at, into.len()));
        }
        if let Some(from) = self.state().visible.bytes.get(offset..offset + into.len()) {
            into.copy_from_slice(from);
        }
        Ok(())
    }

    fn write(&self, at: BlockIndex, from: &[u8]) -> Result<(), DeviceError> {
        let offset = self.offset(at, from.len())?;
        let how = self.begin(Call::Write);
        if how != Some(How::Fails) {
            self.state().complete(offset, from);
            self.note();
        }
        how.map_or(Ok(()), |_| Err(failed(DeviceOp::Write, at, from.len())))
    }

    fn flush(&self) -> Result<(), DeviceError> {
        let how = self.begin(Call::Flush);
        let submitted = self.state().writes;
        self.point();
        let mut state = self.state();
        if how == Some(How::Fails) {
            state.uncovered.retain(|write| write.number > submitted);
        } else {
            state.cover(|number| number <= submitted);
        }
        drop(state);
        self.note();
        how.map_or(Ok(()), |_| Err(DeviceError::FlushFailed { cause: io::Error::other("planned").into() }))
    }

    fn write_durable(&self, at: BlockIndex, from: &[u8]) -> Result<(), DeviceError> {
        if !self.geometry.write_durable() {
            return Err(DeviceError::Unsupported { operation: DeviceOp::WriteDurable });
        }
        let offset = self.offset(at, from.len())?;
        let how = self.begin(Call::WriteDurable);
        if how != Some(How::Fails) {
            let mut state = self.state();
            let own = state.complete(offset, from);
            state.cover(|number| number == own);
            drop(state);
            self.note();
        }
        how.map_or(Ok(()), |_| Err(failed(DeviceOp::WriteDurable, at, from.len())))
    }
}

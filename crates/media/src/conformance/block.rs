//! What every [`BlockDevice`] does while the power stays on. What it may leave behind when the power goes is
//! for simulators to act out and for engines to survive.

use alloc::vec;
use alloc::vec::Vec;

use crate::{BlockDevice, BlockIndex, DeviceError, DeviceErrorKind, DeviceOp, Geometry};

/// Few blocks, so that every boundary is near; the smallest, the usual and the greatest size.
const SHAPES: [(u32, u64); 3] = [(512, 8), (4096, 5), (Geometry::BLOCK_SIZE_MAX, 4)];

/// The fewest blocks that the checks can do with.
const BLOCKS_MIN: u64 = 4;

/// The most bytes that one check holds in memory for a request that must be refused.
const REQUEST_LEN_MAX: u64 = 4 << 20;

/// Runs every check on devices from `make` and returns how many checks there are. The caller prints it, after
/// this function has returned: `conformance: block_device 17/17 ok`.
///
/// `make` is called once for each check and shape. The geometry it gets is a wish: a device that has its own,
/// as a real disk does, ignores it (and may be the same device each time). Blocks are overwritten; nothing is
/// assumed about what they hold at first, see [`born_zeroed`].
///
/// # Panics
/// At the first check that fails, with its name.
pub fn block_device<D: BlockDevice>(make: impl Fn(Geometry) -> D) -> usize {
    for (name, check) in checks::<D>() {
        for shape in shapes() {
            let device = make(shape);
            let geometry = device.geometry();
            assert!(
                geometry.block_count() >= BLOCKS_MIN,
                "{name}: the suite needs {BLOCKS_MIN} blocks, the device has {}",
                geometry.block_count()
            );
            check(&Case { name, device: &device, geometry });
        }
    }
    checks::<D>().len()
}

/// Checks a promise that only some devices make: every byte of a new one reads as zero. Returns the number of
/// checks, as [`block_device`] does.
///
/// # Panics
/// At the first block that holds something else.
pub fn born_zeroed<D: BlockDevice>(make: impl Fn(Geometry) -> D) -> usize {
    for shape in shapes() {
        let device = make(shape);
        let case = Case { name: "a_new_device_is_zero", device: &device, geometry: device.geometry() };
        let zeros = vec![0; case.geometry.block_size()];
        for index in 0..case.geometry.block_count() {
            case.expect(index, &zeros, "at birth");
        }
    }
    1
}

fn shapes() -> impl Iterator<Item = Geometry> {
    SHAPES.into_iter().map(|(block_size, block_count)| match Geometry::new(block_size, block_count) {
        Ok(geometry) => geometry,
        Err(error) => panic!("a shape of the suite is refused: {error}"),
    })
}

/// A name, and the check that bears it.
type Check<D> = (&'static str, fn(&Case<'_, D>));

fn checks<D: BlockDevice>() -> [Check<D>; 17] {
    [
        ("geometry_is_within_its_bounds_and_stable", geometry_is_within_its_bounds_and_stable),
        ("a_completed_write_is_visible", a_completed_write_is_visible),
        ("an_overwrite_replaces_the_whole_block", an_overwrite_replaces_the_whole_block),
        ("neighbours_are_untouched", neighbours_are_untouched),
        ("a_request_spans_blocks_in_order", a_request_spans_blocks_in_order),
        ("the_last_block_is_usable", the_last_block_is_usable),
        ("one_past_the_end_is_refused", one_past_the_end_is_refused),
        ("a_request_across_the_end_is_refused_whole", a_request_across_the_end_is_refused_whole),
        ("an_index_near_the_greatest_number_is_refused", an_index_near_the_greatest_number_is_refused),
        ("a_misaligned_write_changes_nothing", a_misaligned_write_changes_nothing),
        ("a_refused_read_leaves_the_buffer", a_refused_read_leaves_the_buffer),
        ("an_empty_request_does_nothing", an_empty_request_does_nothing),
        ("reading_changes_nothing", reading_changes_nothing),
        ("flush_succeeds_and_keeps_the_bytes", flush_succeeds_and_keeps_the_bytes),
        ("write_durable_is_what_the_geometry_says", write_durable_is_what_the_geometry_says),
        ("forgetting_the_cache_loses_nothing", forgetting_the_cache_loses_nothing),
        ("a_mark_changes_nothing", a_mark_changes_nothing),
    ]
}

/// One device under one check.
struct Case<'a, D> {
    name: &'static str,
    device: &'a D,
    geometry: Geometry,
}

impl<D: BlockDevice> Case<'_, D> {
    fn block_size(&self) -> usize {
        self.geometry.block_size()
    }

    fn last(&self) -> u64 {
        self.geometry.block_count() - 1
    }

    /// `count` blocks of bytes that depend on `seed`, on the block and on the place in the block: a block that
    /// is shifted, repeated or cut short does not pass for another.
    fn pattern(&self, seed: u8, count: usize) -> Vec<u8> {
        let mut state = 0x9E37_79B9_u32.wrapping_mul(u32::from(seed) + 1) | 1;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            state.to_le_bytes()[1]
        };
        core::iter::repeat_with(&mut next).take(self.block_size() * count).collect()
    }

    fn write(&self, index: u64, from: &[u8]) {
        if let Err(error) = self.device.write(BlockIndex::new(index), from) {
            panic!("{}: writing {} bytes at block {index}: {error}", self.name, from.len());
        }
    }

    fn flush(&self) {
        if let Err(error) = self.device.flush() {
            panic!("{}: flushing: {error}", self.name);
        }
    }

    fn read(&self, index: u64, count: usize) -> Vec<u8> {
        // Not zeros: a read that does nothing must not look like one of a blank block.
        let mut bytes = vec![0xA5; self.block_size() * count];
        if let Err(error) = self.device.read(BlockIndex::new(index), &mut bytes) {
            panic!("{}: reading {count} blocks at block {index}: {error}", self.name);
        }
        bytes
    }

    fn expect(&self, index: u64, wanted: &[u8], when: &str) {
        let found = self.read(index, wanted.len() / self.block_size());
        let differs = found.iter().zip(wanted).position(|(found, wanted)| found != wanted);
        assert!(
            differs.is_none() && found.len() == wanted.len(),
            "{}: {when}: the bytes at block {index} differ, first at offset {differs:?}",
            self.name
        );
    }

    fn refused<T>(&self, outcome: Result<T, DeviceError>, what: &str) -> DeviceError {
        match outcome {
            Ok(_) => panic!("{}: {what} was accepted", self.name),
            Err(error) => error,
        }
    }

    fn out_of_range<T>(&self, outcome: Result<T, DeviceError>, what: &str) {
        let error = self.refused(outcome, what);
        assert!(matches!(error, DeviceError::OutOfRange { .. }), "{}: {what}: {error:?}", self.name);
        assert_eq!(error.kind(), DeviceErrorKind::Invalid, "{}: {what}", self.name);
    }
}

fn geometry_is_within_its_bounds_and_stable<D: BlockDevice>(case: &Case<'_, D>) {
    let geometry = case.geometry;
    let block_size = u32::try_from(geometry.block_size()).unwrap_or(u32::MAX);
    if let Err(error) = Geometry::new(block_size, geometry.block_count()) {
        panic!("{}: {error}", case.name);
    }
    case.write(0, &case.pattern(1, 1));
    assert_eq!(case.device.geometry(), geometry, "{}: after a write", case.name);
    case.flush();
    assert_eq!(case.device.geometry(), geometry, "{}: after a flush", case.name);
}

fn a_completed_write_is_visible<D: BlockDevice>(case: &Case<'_, D>) {
    for (seed, index) in [(1, 0), (2, 2), (3, 1)] {
        let bytes = case.pattern(seed, 1);
        case.write(index, &bytes);
        case.expect(index, &bytes, "before any flush");
    }
}

fn an_overwrite_replaces_the_whole_block<D: BlockDevice>(case: &Case<'_, D>) {
    case.write(1, &case.pattern(4, 1));
    for seed in [5, 6] {
        let newer = case.pattern(seed, 1);
        case.write(1, &newer);
        case.expect(1, &newer, "after an overwrite");
    }
    case.flush();
    case.expect(1, &case.pattern(6, 1), "after the flush");
}

fn neighbours_are_untouched<D: BlockDevice>(case: &Case<'_, D>) {
    let (before, after) = (case.pattern(7, 1), case.pattern(8, 1));
    case.write(0, &before);
    case.write(2, &after);
    case.write(1, &case.pattern(9, 1));
    case.expect(0, &before, "the block before");
    case.expect(2, &after, "the block after");
}

fn a_request_spans_blocks_in_order<D: BlockDevice>(case: &Case<'_, D>) {
    let bytes = case.pattern(10, 3);
    case.write(1, &bytes);
    case.expect(1, &bytes, "read at once");
    for (index, block) in (1..).zip(bytes.chunks(case.block_size())) {
        case.expect(index, block, "read one by one");
    }
    let first = case.pattern(11, 1);
    case.write(0, &first);
    let joined: Vec<u8> = [first, bytes].concat();
    case.expect(0, &joined, "written by two requests, read by one");
}

fn the_last_block_is_usable<D: BlockDevice>(case: &Case<'_, D>) {
    let bytes = case.pattern(12, 2);
    case.write(case.last() - 1, &bytes);
    case.expect(case.last() - 1, &bytes, "the last two");
    let bytes = case.pattern(13, 1);
    case.write(case.last(), &bytes);
    case.expect(case.last(), &bytes, "the last");
}

fn one_past_the_end_is_refused<D: BlockDevice>(case: &Case<'_, D>) {
    let last = case.pattern(14, 1);
    case.write(case.last(), &last);
    let past = BlockIndex::new(case.geometry.block_count());
    let mut bytes = case.pattern(15, 1);
    case.out_of_range(case.device.write(past, &bytes), "a write one past the end");
    case.out_of_range(case.device.read(past, &mut bytes), "a read one past the end");
    case.expect(case.last(), &last, "after the refused write");
}

fn a_request_across_the_end_is_refused_whole<D: BlockDevice>(case: &Case<'_, D>) {
    let last = case.pattern(16, 1);
    case.write(case.last(), &last);
    let mut bytes = case.pattern(17, 2);
    let at = BlockIndex::new(case.last());
    case.out_of_range(case.device.write(at, &bytes), "a write across the end");
    case.out_of_range(case.device.read(at, &mut bytes), "a read across the end");
    assert_eq!(bytes, case.pattern(17, 2), "{}: the buffer of the refused read", case.name);
    case.expect(case.last(), &last, "the part that would have fitted");

    // The whole device and one block more, where that is not too much for a buffer.
    let too_many = case.geometry.block_count() + 1;
    if let Ok(count) = usize::try_from(too_many)
        && case.geometry.byte_len() < REQUEST_LEN_MAX
    {
        let all = case.pattern(18, count);
        case.out_of_range(case.device.write(BlockIndex::ZERO, &all), "a write longer than the device");
        case.expect(case.last(), &last, "after a write longer than the device");
    }
}

fn an_index_near_the_greatest_number_is_refused<D: BlockDevice>(case: &Case<'_, D>) {
    let first = case.pattern(19, 1);
    case.write(0, &first);
    // Numbers whose end, or whose offset in bytes, comes out small if the arithmetic wraps around.
    let wraps = u64::MAX / u64::try_from(case.block_size()).unwrap_or(1) + 1;
    for index in [u64::MAX, u64::MAX - 1, u64::MAX - 3, wraps, wraps + 1] {
        let mut bytes = case.pattern(20, 2);
        case.out_of_range(case.device.write(BlockIndex::new(index), &bytes), "a write far past the end");
        case.out_of_range(case.device.read(BlockIndex::new(index), &mut bytes), "a read far past the end");
    }
    case.expect(0, &first, "after the refused writes");
}

fn a_misaligned_write_changes_nothing<D: BlockDevice>(case: &Case<'_, D>) {
    let block_size = case.block_size();
    let old = case.pattern(21, 3);
    case.write(0, &old);
    let new = case.pattern(22, 3);
    for len in [1, block_size / 2, block_size - 1, block_size + 1, 2 * block_size - 1, 2 * block_size + 1] {
        let error = case.refused(case.device.write(BlockIndex::ZERO, &new[..len]), "a misaligned write");
        assert!(matches!(error, DeviceError::Misaligned { .. }), "{}: len={len}: {error:?}", case.name);
        assert_eq!(error.kind(), DeviceErrorKind::Invalid, "{}: len={len}", case.name);
        case.expect(0, &old, "after a misaligned write");
    }
}

fn a_refused_read_leaves_the_buffer<D: BlockDevice>(case: &Case<'_, D>) {
    let block_size = case.block_size();
    case.write(0, &case.pattern(23, 2));
    for len in [1, block_size - 1, block_size + 1] {
        let mut bytes = vec![0xC3; len];
        let error = case.refused(case.device.read(BlockIndex::ZERO, &mut bytes), "a misaligned read");
        assert!(matches!(error, DeviceError::Misaligned { .. }), "{}: len={len}: {error:?}", case.name);
        assert!(bytes.iter().all(|&byte| byte == 0xC3), "{}: len={len}: the buffer", case.name);
    }
    let mut bytes = vec![0xC3; block_size];
    case.out_of_range(case.device.read(BlockIndex::new(case.last() + 1), &mut bytes), "a read past the end");
    assert!(bytes.iter().all(|&byte| byte == 0xC3), "{}: the buffer of a read past the end", case.name);
}

fn an_empty_request_does_nothing<D: BlockDevice>(case: &Case<'_, D>) {
    let old = case.pattern(24, 1);
    case.write(0, &old);
    for index in [0, case.last(), case.last() + 1] {
        let at = BlockIndex::new(index);
        if let Err(error) = case.device.write(at, &[]).and_then(|()| case.device.read(at, &mut [])) {
            panic!("{}: an empty request at block {index}: {error}", case.name);
        }
    }
    case.out_of_range(
        case.device.write(BlockIndex::new(case.last() + 2), &[]),
        "an empty write two past the end",
    );
    case.expect(0, &old, "after the empty requests");
}

fn reading_changes_nothing<D: BlockDevice>(case: &Case<'_, D>) {
    let bytes = case.pattern(25, 3);
    case.write(0, &bytes);
    for index in [1, 0, 2, 1] {
        case.read(index, 1);
    }
    case.expect(0, &bytes, "after many reads");
    case.expect(0, &bytes, "read a second time");
}

fn flush_succeeds_and_keeps_the_bytes<D: BlockDevice>(case: &Case<'_, D>) {
    let bytes = case.pattern(26, 2);
    case.flush();
    case.write(0, &bytes);
    case.flush();
    case.flush();
    case.expect(0, &bytes, "after the flush");
    let newer = case.pattern(27, 1);
    case.write(0, &newer);
    case.expect(0, &newer, "written after the flush");
    case.expect(1, &bytes[case.block_size()..], "the other block");
}

fn write_durable_is_what_the_geometry_says<D: BlockDevice>(case: &Case<'_, D>) {
    let old = case.pattern(28, 3);
    case.write(0, &old);
    let new = case.pattern(29, 1);
    let outcome = case.device.write_durable(BlockIndex::new(1), &new);
    if !case.geometry.write_durable() {
        let error = case.refused(outcome, "a durable write that the geometry denies");
        let operation = DeviceOp::WriteDurable;
        assert!(
            matches!(error, DeviceError::Unsupported { operation: found } if found == operation),
            "{}: {error:?}",
            case.name
        );
        assert_eq!(error.kind(), DeviceErrorKind::Unsupported, "{}", case.name);
        case.expect(0, &old, "after the refused durable write");
        return;
    }
    if let Err(error) = outcome {
        panic!("{}: the geometry offers it: {error}", case.name);
    }
    case.expect(1, &new, "after the durable write");
    case.expect(0, &old[..case.block_size()], "the block before");
    case.expect(2, &old[2 * case.block_size()..], "the block after");
    let past = BlockIndex::new(case.geometry.block_count());
    case.out_of_range(case.device.write_durable(past, &new), "a durable write one past the end");
    let error = case.refused(case.device.write_durable(BlockIndex::ZERO, &new[1..]), "a misaligned one");
    assert!(matches!(error, DeviceError::Misaligned { .. }), "{}: {error:?}", case.name);
}

fn forgetting_the_cache_loses_nothing<D: BlockDevice>(case: &Case<'_, D>) {
    let (flushed, newer) = (case.pattern(40, 2), case.pattern(41, 1));
    case.write(0, &flushed);
    case.flush();
    case.device.forget_cached();
    case.expect(0, &flushed, "after the flush");
    // What no flush has covered is visible all the same.
    case.write(1, &newer);
    case.device.forget_cached();
    case.expect(1, &newer, "before a flush");
    case.expect(0, &flushed[..case.block_size()], "the other block");
}

fn a_mark_changes_nothing<D: BlockDevice>(case: &Case<'_, D>) {
    let bytes = case.pattern(30, 1);
    case.write(0, &bytes);
    case.device.mark("conformance");
    case.expect(0, &bytes, "after a mark");
    assert_eq!(case.device.geometry(), case.geometry, "{}", case.name);
}

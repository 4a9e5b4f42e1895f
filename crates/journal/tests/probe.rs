//! Finding a store whose block size is not known, and refusing two.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use journal::probe::{BLOCK_SIZES, SeveralStores, Sighting, probe, the_one};
use journal::{Journal, Limits, StoreId};
use media::{Geometry, MemDisk};

const LEN: usize = 4 << 20;

/// An image with a store of that block size in it, at the generation given.
fn image(store: u8, block_size: u32, generation: u64) -> Vec<u8> {
    over(vec![0; LEN], store, block_size, generation)
}

/// Makes a store in what is there.
fn over(image: Vec<u8>, store: u8, block_size: u32, generation: u64) -> Vec<u8> {
    let blocks = u64::try_from(image.len()).unwrap() / u64::from(block_size);
    let disk = MemDisk::from_image(Geometry::new(block_size, blocks).unwrap(), image).unwrap();
    let limits = Limits { frame_blocks_max: 1, in_flight_blocks_max: 4 };
    let mut journal = Journal::format(&disk, StoreId([store; 16]), limits, b"engine").unwrap();
    for _ in 1..generation {
        journal.begin_copy().unwrap();
        let _switched = journal.finish_copy().unwrap();
    }
    drop(journal);
    disk.image().unwrap()
}

fn found(image: &[u8]) -> Vec<Sighting> {
    let read = |offset: u64, into: &mut [u8]| {
        let offset = usize::try_from(offset).unwrap();
        assert!(into.len() == 512 && offset.is_multiple_of(512), "{} bytes at {offset}", into.len());
        into.copy_from_slice(&image[offset..offset + into.len()]);
        Ok::<_, ()>(())
    };
    probe(u64::try_from(image.len()).unwrap(), read).unwrap()
}

fn one(image: &[u8]) -> Result<Option<(u8, u32, u64)>, SeveralStores> {
    the_one(&found(image)).map(|one| one.map(|one| (one.store.0[0], one.block_size, one.generation)))
}

#[test]
fn every_block_size_is_found_by_every_slot_alone() {
    for block_size in BLOCK_SIZES {
        for generation in [1, 2] {
            let image = image(7, block_size, generation);
            assert_eq!(one(&image).unwrap(), Some((7, block_size, generation)), "{block_size}");
            let slots: Vec<u8> = found(&image).iter().map(|found| found.slot).collect();
            let wanted = if generation == 1 { &[1, 3][..] } else { &[0, 1, 2, 3] };
            assert_eq!(slots, wanted, "blocks of {block_size}, generation {generation}");
            let all = found(&image);
            for kept in all.iter().map(|found| found.slot) {
                let mut image = image.clone();
                for other in all.iter().filter(|other| other.slot != kept) {
                    let at = usize::try_from(other.offset).unwrap();
                    image[at..at + 512].fill(0);
                }
                let generation = if kept % 2 == 1 { 1 } else { 2 };
                assert_eq!(one(&image).unwrap(), Some((7, block_size, generation)), "slot {kept} alone");
            }
        }
    }
}

/// A device may be larger than its store: then a front slot tells where the others are.
#[test]
fn the_end_slots_are_where_a_front_slot_says() {
    let mut image = image(7, 1024, 1);
    image.extend_from_slice(&[0xEE; 1 << 20]);
    let slots: Vec<u8> = found(&image).iter().map(|found| found.slot).collect();
    assert_eq!(slots, [1, 3]);
}

#[test]
fn nothing_is_found_in_nothing_and_in_what_is_too_short() {
    for len in [0, 1, 511, 512, 2048, 4096, LEN] {
        for fill in [0, 0xFF] {
            assert_eq!(one(&vec![fill; len]).unwrap(), None, "{len} bytes of {fill}");
        }
    }
    // Cut to any length, it is found as soon as there is one whole block with a superblock in it.
    let image = image(7, 2048, 2);
    for len in [2047, 2048, 2560, 8192, 65_536, LEN - 1] {
        let found = one(&image[..len]).unwrap();
        assert_eq!(
            found.map(|(store, block_size, _)| (store, block_size)),
            (len >= 2048).then_some((7, 2048))
        );
    }
}

/// Row F1: a store is made with larger blocks over one with smaller ones, and the other way round. Nothing of the older one
/// is left that could be opened.
#[test]
fn store_f1_format_wipes_the_slots_of_every_block_size() {
    for (before, after) in BLOCK_SIZES.iter().flat_map(|a| BLOCK_SIZES.iter().map(move |b| (*a, *b))) {
        let both = over(image(1, before, 2), 2, after, 1);
        assert_eq!(one(&both).unwrap(), Some((2, after, 1)), "{before} -> {after}");
        assert!(found(&both).iter().all(|found| found.store == StoreId([2; 16])), "{before} -> {after}");
    }
}

/// As a version that wiped only its own slots left it: slots of the older store that the new one has not overwritten.
#[test]
fn two_stores_are_refused_and_both_are_named_with_their_block_sizes() {
    let mut refused = 0;
    for (before, after) in BLOCK_SIZES.iter().flat_map(|a| BLOCK_SIZES.iter().map(move |b| (*a, *b))) {
        let older = image(1, before, 2);
        let mut both = over(older.clone(), 2, after, 1);
        let new: Vec<u64> = found(&both).iter().map(|found| found.offset).collect();
        for offset in found(&older).iter().map(|found| found.offset) {
            let at = usize::try_from(offset).unwrap();
            // Where blocks are larger, the slot of the new store covers it.
            let size = u64::from(after);
            if new.iter().all(|slot| !(*slot..*slot + size).contains(&offset)) && offset / size > 1 {
                both[at..at + 512].copy_from_slice(&older[at..at + 512]);
            }
        }
        let old: Vec<Sighting> =
            found(&both).into_iter().filter(|found| found.store == StoreId([1; 16])).collect();
        match the_one(&found(&both)) {
            Ok(one) => {
                assert!(old.is_empty(), "{before} -> {after}: {old:?}");
                assert_eq!(one.map(|one| (one.store, one.block_size)), Some((StoreId([2; 16]), after)));
            }
            Err(SeveralStores { first, second }) => {
                refused += 1;
                let sizes = [first, second].map(|one| (one.store.0[0], one.block_size));
                assert!(sizes.contains(&(1, before)) && sizes.contains(&(2, after)), "{sizes:?}");
            }
        }
    }
    assert!(refused > 20, "{refused}: the case that this is about");
}

/// A store with the greater generation is not the newer store.
#[test]
fn generations_are_compared_within_a_store_only() {
    let sighting = |store, block_size, generation| Sighting {
        store: StoreId([store; 16]),
        block_size,
        generation,
        slot: 1,
        offset: 0,
    };
    let same = [sighting(1, 4096, 3), sighting(1, 4096, 5), sighting(1, 4096, 4)];
    assert_eq!(the_one(&same).unwrap(), Some(same[1]));
    let other = [sighting(1, 4096, 3), sighting(2, 4096, 9), sighting(1, 4096, 5), sighting(2, 4096, 8)];
    assert_eq!(the_one(&other), Err(SeveralStores { first: other[2], second: other[1] }));
    // One store whose slots name two block sizes is two as well: they cannot both be right.
    let sizes = [sighting(1, 512, 3), sighting(1, 4096, 3)];
    let words = the_one(&sizes).unwrap_err().to_string();
    assert!(words.contains("blocks of 512 bytes") && words.contains("blocks of 4096 bytes"), "{words}");
    assert_eq!(the_one(&[]).unwrap(), None);
}

#[test]
fn what_cannot_be_read_is_an_error_only_if_nothing_was_found() {
    let image = image(7, 4096, 1);
    let len = u64::try_from(LEN).unwrap();
    let look = |readable: &dyn Fn(u64) -> bool| {
        probe(len, |offset, into: &mut [u8]| {
            let from = usize::try_from(offset).unwrap();
            into.copy_from_slice(&image[from..from + into.len()]);
            readable(offset).then_some(()).ok_or(offset)
        })
    };
    assert_eq!(look(&|_| false), Err(0), "the first error");
    // The front cannot be read: slot 3 tells.
    let found = look(&|offset| offset >= 1 << 20).unwrap();
    assert_eq!(found.iter().map(|found| found.slot).collect::<Vec<_>>(), [3]);
    let far_from_any_slot = |offset: u64| offset == 2048;
    assert_eq!(look(&far_from_any_slot), Err(0));
}

/// No byte of a value can pass for a superblock: a block of a region begins with a header of its own.
#[test]
fn a_value_that_looks_like_a_superblock_is_not_one() {
    let copy = image(1, 512, 1);
    let (size, blocks) = (4096, u64::try_from(LEN / 4096).unwrap());
    let disk = MemDisk::new(Geometry::new(size, blocks).unwrap()).unwrap();
    let limits = Limits { frame_blocks_max: 4, in_flight_blocks_max: 4 };
    let mut journal = Journal::format(&disk, StoreId([2; 16]), limits, b"").unwrap();
    let body: Vec<u8> = copy[512..1024].iter().copied().cycle().take(3 * 4000).collect();
    while journal.room() > 3 {
        let _durable = journal.commit(&body).unwrap();
    }
    drop(journal);
    assert_eq!(one(&disk.image().unwrap()).unwrap(), Some((2, 4096, 1)));
}

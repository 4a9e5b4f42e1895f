//! The scripts, one a line of the table.

use std::time::Duration;

use crashsim::{BlockOp, DiskImage, Mark, Recording, SimDisk, Trace, Value};
use media::{BlockDevice as _, BlockIndex, Geometry};
use statefs::{Key, Store};

use super::{Before, Ended, Outcome, Script, options};

pub(super) const SCRIPTS: [Script; 19] = [
    Script::new("state-put", "put a new key and an old one", 32, |told| {
        told.put("/state/a", b"1")?;
        told.put("/state/b", &[2; 500])?;
        told.put("/state/b", &[3; 30])
    }),
    Script::new(
        "state-delete",
        "delete a key, and compact until the region that held it is used again",
        36,
        |told| {
            told.put("/state/b", &[2; 500])?;
            told.delete("/state/a")?;
            told.compact(|_, _| Ok(()))?;
            told.compact(|_, _| Ok(()))?;
            told.put("/state/b", b"3")
        },
    ),
    Script::new("state-batch", "change three keys together", 32, |told| {
        told.batch(&[("/state/a", None), ("/state/b", Some(&[1; 300])), ("/state/c", Some(&[2; 300]))])?;
        told.batch(&[("/state/a", Some(b"2")), ("/state/b", Some(b"2")), ("/state/c", None)])
    }),
    Script::new(
        "state-swap",
        "compare-and-swap of keys that are there, and of one that is not",
        32,
        |told| {
            told.swap("/state/a", b"1")?;
            told.swap("/state/b", b"1")?;
            told.swap("/state/b", b"2")
        },
    ),
    Script::new(
        "state-buffered",
        "buffer puts, sync them, and let a durable put take others along",
        32,
        |told| {
            told.put_buffered("/state/a", b"1")?;
            told.put_buffered("/state/b", &[1; 600])?;
            told.put_buffered("/state/a", &[2; 400])?;
            told.sync()?;
            told.put_buffered("/state/c", b"3")?;
            told.put("/state/b", b"4")
        },
    ),
    Script::new("state-compact", "compact, and go on", 36, |told| {
        told.put("/state/b", &[1; 500])?;
        told.delete("/state/a")?;
        told.compact(|_, _| Ok(()))?;
        told.put("/state/a", b"2")
    }),
    Script::new("state-compact-between", "change keys between the steps of a compaction", 44, |told| {
        told.put("/state/b", &[1; 600])?;
        told.put("/state/c", &[1; 600])?;
        told.compact(|told, nth| match nth {
            0 => told.put("/state/a", b"2"),
            1 => told.delete("/state/b"),
            2 => told.put("/state/d", b"3"),
            3 => told.put_buffered("/state/c", b"4"),
            _ => told.put("/state/a", &[nth]),
        })?;
        told.put("/state/b", b"5")
    }),
    Script::new("state-compact-twice", "compact twice, with buffered puts between the steps", 36, |told| {
        for value in [b"1", b"2"] {
            told.put_buffered("/state/a", value)?;
            told.compact(|told, _| told.put_buffered("/state/b", value))?;
            told.put_buffered("/state/c", value)?;
        }
        told.sync()
    }),
    Script::new(
        "state-compact-interrupted",
        "a process that dies after one step of a compaction, one after two, and so on; then a whole one",
        44,
        |told| {
            told.put("/state/b", &[1; 600])?;
            for steps in 1..=3 {
                for _ in 0..steps {
                    let _progress = told.store.compact_step()?;
                }
                told.put("/state/a", &[steps])?;
                told.reopen()?;
            }
            told.compact(|_, _| Ok(()))?;
            told.put("/state/a", b"end")
        },
    ),
    Script::new(
        "state-switch",
        "switch three times, so that every slot of a superblock is written again",
        32,
        |told| {
            for value in 1..=3 {
                told.put("/state/a", &[value])?;
                told.compact(|_, _| Ok(()))?;
            }
            told.put("/state/a", b"end")
        },
    ),
    Script::new("state-seal", "seals after nothing was written for a while, twice", 32, |told| {
        told.put("/state/a", b"1")?;
        for ms in [0, 100, 200] {
            told.store.tick(Duration::from_millis(ms))?;
        }
        told.put("/state/a", b"2")?;
        told.put_buffered("/state/b", b"3")?;
        for ms in [300, 400, 500] {
            told.store.tick(Duration::from_millis(ms))?;
        }
        told.sync()
    }),
    Script::new("state-close", "close the store, open it, and close it with nothing done", 32, |told| {
        told.put("/state/a", b"1")?;
        told.put_buffered("/state/b", b"2")?;
        told.close_and_reopen()?;
        told.close_and_reopen()?;
        told.put("/state/a", b"3")
    }),
    Script::new("state-reopen", "open the store again and again without closing it", 26, |told| {
        for value in 0..12 {
            told.reopen()?;
            if value % 4 == 3 {
                told.put("/state/a", &[value])?;
            }
        }
        told.delete("/state/a")
    }),
    Script::new(
        "state-full-around",
        "put one key until the regions have been used several times",
        26,
        |told| {
            for value in 1..9 {
                told.put("/state/a", &[value])?;
            }
            Ok(())
        },
    ),
    Script::new("state-full", "fill the device with what is alive, delete, and put again", 30, |told| {
        told.put("/state/fill", &[1; 600])?;
        told.put("/state/b", &[1; 600])?;
        is_full(told.put("/state/d", &[2; 600]))?;
        told.delete("/state/a")?;
        told.delete("/state/fill")?;
        told.put("/state/a", b"after")
    }),
    Script::new(
        "state-full-starts",
        "start again and again on a device that is full, then delete",
        30,
        |told| {
            told.put("/state/fill", &[1; 600])?;
            told.put("/state/b", &[1; 600])?;
            for _ in 0..6 {
                told.reopen()?;
                is_full(told.put("/state/d", &[2; 600]))?;
            }
            told.delete("/state/b")?;
            told.delete("/state/fill")
        },
    ),
    Script::new(
        "state-recover-torn",
        "start on a torn end with one superblock lost, and go on",
        32,
        |told| told.put("/state/a", b"1"),
    )
    .beginning(torn),
    Script::new(
        "state-recover-switch",
        "start where a switch was cut short before its root, and go on",
        32,
        |told| told.put("/state/a", b"1"),
    )
    .beginning(switch_cut_short),
    Script::new(
        "state-failed-flush",
        "a flush that fails; then the process dies, another one starts, and the power fails",
        32,
        |told| {
            told.put("/state/b", b"1")?;
            told.disk.fail_next_flush();
            match told.put("/state/a", b"2") {
                Ok(()) => Err(Ended::Unplanned("unplanned: a put whose flush failed is called durable")),
                Err(_) => Ok(()),
            }
        },
    )
    .with_a_cache_that_lies(),
];

pub(super) fn is_full(outcome: Outcome) -> Outcome {
    match outcome {
        Err(ended) if ended.is_no_space() => Ok(()),
        Err(ended) => Err(ended),
        Ok(()) => Err(Ended::Unplanned("unplanned: the device is not full")),
    }
}

/// Makes a store, works with it, and gives everything that was written.
fn worked(
    geometry: Geometry,
    work: impl FnOnce(&mut Store<SimDisk>) -> Result<(), Ended>,
) -> Result<Trace<BlockOp>, Ended> {
    let disk = SimDisk::mount(DiskImage::new(geometry), Recording::On);
    let mut store = Store::format(disk.clone(), &options())?;
    let _revision = store.put(&Key::parse("/state/a")?, b"zero")?;
    work(&mut store)?;
    Ok(disk.trace())
}

/// A frame of two blocks of which the first never arrived, and one superblock gone.
fn torn(geometry: Geometry) -> Before {
    let trace = worked(geometry, |store| {
        let _revision = store.put(&Key::parse("/state/b")?, &[7; 600])?;
        Ok(())
    })?;
    let write = |op: &BlockOp| match op {
        BlockOp::Write { at, .. } => Some(*at),
        BlockOp::Flush { .. } => None,
    };
    let last = trace.records().iter().rev().find_map(|record| record.op().and_then(write));
    let last = last.ok_or(Ended::Unplanned("unplanned: nothing was written"))?;
    let disk = SimDisk::resume(&DiskImage::new(geometry), trace);
    for at in [last, BlockIndex::new(1)] {
        disk.write(at, &[0; 512]).map_err(|_| Ended::Unplanned("unplanned: there is no such block"))?;
    }
    Ok((disk.image(), vec![("/state/a".into(), Some(Value::bytes(b"zero")))]))
}

/// The other region is whole, and no superblock names it.
fn switch_cut_short(geometry: Geometry) -> Before {
    let trace = worked(geometry, |store| {
        while store.compact_step()? != statefs::Compaction::Finished {}
        Ok(())
    })?;
    let is_whole = |mark: Option<&Mark>| mark == Some(&Mark::Point("after_commit_record"));
    let whole = trace.records().iter().position(|record| is_whole(record.mark()));
    let whole = whole.ok_or(Ended::Unplanned("unplanned: no switch"))?;
    let disk = SimDisk::resume(&DiskImage::new(geometry), trace.until(whole));
    Ok((disk.image(), vec![("/state/a".into(), Some(Value::bytes(b"zero")))]))
}

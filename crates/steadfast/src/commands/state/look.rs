//! What looks at a store without changing it: `ls`, `dump`, `stats`, `fsck`, `salvage`.

use std::path::Path;

use media::Access;
use serde_json::{Value, json};
use statefs::{Check, Evidence, Health, Lost, Recovery, Salvaged, Suspects, Verdict};

use super::{entry, image, prefix_of};
use crate::cli::{StateLs, StateSalvage};
use crate::commands::bytes_words;
use crate::failure::{Exit, Failure, Outcome, shown};
use crate::medium::Medium;
use crate::output::Output;

pub(super) fn ls(args: &StateLs, medium: &Medium, output: &Output) -> Outcome {
    let prefix = prefix_of(&args.prefix)?;
    let (store, recovery) = image::reader(medium, &args.image)?;
    let exit = warn_if_damaged(&recovery, output)?;
    let mut after = None;
    loop {
        let page = store.list(&prefix, after.as_ref(), usize::MAX);
        let page = page.map_err(|error| Failure::state(&args.image, error))?;
        for listed in &page.entries {
            let (key, revision, bytes) = (listed.key, listed.revision.get(), listed.value_len);
            if output.is_json() {
                output.object(true, json!({ "key": key, "revision": revision, "bytes": bytes }))?;
            } else if args.long {
                output.line(format_args!("{revision:>12} {bytes:>6} {key}"))?;
            } else {
                output.line(key)?;
            }
        }
        after = page.next;
        if after.is_none() {
            return Ok(exit);
        }
    }
}

pub(super) fn dump(path: &Path, medium: &Medium, output: &Output) -> Outcome {
    let (store, recovery) = image::reader(medium, path)?;
    let exit = warn_if_damaged(&recovery, output)?;
    for (key, value) in store.iter() {
        output.object(true, entry(key.as_str(), &value))?;
    }
    Ok(exit)
}

/// In a damaged store there may have been other keys, so a listing is never certain.
fn warn_if_damaged(recovery: &Recovery, output: &Output) -> Outcome<Exit> {
    match recovery.tail {
        Verdict::Damaged { .. } => {
            output.warn("the store is damaged: keys may be missing, and values older than they should be")?;
            Ok(Exit::Corrupt)
        }
        Verdict::Clean | Verdict::TornTail { .. } => Ok(Exit::Ok),
    }
}

pub(super) fn stats(path: &Path, medium: &Medium, output: &Output) -> Outcome {
    let (store, recovery) = image::reader(medium, path)?;
    let (stats, limits) = (store.stats(), *store.limits());
    let exit = warn_if_damaged(&recovery, output)?;
    let block_size = image::block_size_of(&store)?;
    if output.is_json() {
        let fields = json!({
            "store_id": store.store_id().to_string(), "block_size": block_size,
            "keys": stats.live_keys, "keys_max": limits.keys_max,
            "bytes": stats.live_bytes, "bytes_max": limits.live_bytes_max,
            "blocks": stats.live_blocks, "blocks_max": stats.capacity_blocks,
            "value_bytes_max": limits.value_len_max, "batch_ops_max": limits.batch_ops_max,
            "suspect_keys": recovery.suspect_keys, "frames": recovery.frames_replayed,
            "incarnation": recovery.incarnation, "was_sealed": recovery.was_sealed,
            "durable_revision": store.durable_revision().get(),
        });
        output.object(true, fields)?;
        return Ok(exit);
    }
    output.line(format_args!("store id    {}", store.store_id()))?;
    output.line(format_args!("keys        {} of {}", stats.live_keys, limits.keys_max))?;
    let (bytes, bytes_max) = (bytes_words(stats.live_bytes), bytes_words(limits.live_bytes_max));
    output.line(format_args!("bytes       {bytes} of {bytes_max} (keys and values)"))?;
    let (blocks, blocks_max) = (stats.live_blocks, stats.capacity_blocks);
    output.line(format_args!(
        "blocks      {blocks} of {blocks_max} (of {block_size} bytes, for what is alive)"
    ))?;
    output.line(format_args!("revision    {} (of the newest write)", store.durable_revision().get()))?;
    output.line(format_args!("replayed    {} frames", recovery.frames_replayed))?;
    output.line(format_args!("opened      {} times to be written", recovery.incarnation))?;
    output.line(format_args!("closed      {}", if recovery.was_sealed { "yes" } else { "no" }))?;
    Ok(exit)
}

pub(super) fn fsck(path: &Path, medium: &Medium, output: &Output) -> Outcome {
    let check = image::check(medium, path)?;
    let (exit, word) = match check.health {
        Health::Clean => (Exit::Ok, "clean"),
        Health::TornTail => (Exit::NotSo, "torn_tail"),
        Health::Damaged => (Exit::Corrupt, "damaged"),
    };
    if output.is_json() {
        output.object(check.health != Health::Damaged, check_json(word, &check))?;
        return Ok(exit);
    }
    for line in check_words(&check) {
        output.line(line)?;
    }
    let (keys, suspect) = (check.recovery.live_keys, check.recovery.suspect_keys);
    output.line(format_args!("{keys} key(s) with a value, {suspect} of them suspect"))?;
    if check.health == Health::Damaged {
        output
            .say(format_args!("hint: `steadfast state salvage {} NEW` saves what is left", path.display()))?;
    }
    Ok(exit)
}

/// What a check found, in sentences.
fn check_words(check: &Check) -> Vec<String> {
    let Some(lost) = check.lost else {
        let words = match check.health {
            Health::Clean => "clean: everything is as it should be",
            Health::TornTail | Health::Damaged => {
                "a crash cut short the making of a superblock; nothing is lost, the next write puts it right"
            }
        };
        return vec![words.to_owned()];
    };
    let Lost { offset, first_seq, .. } = lost;
    match (lost.evidence, lost.last_seq) {
        (Some(evidence), Some(last)) => vec![
            format!("damaged at offset {offset}: {} lost, at least in part", range_words(first_seq, last)),
            format!("how that is known: {}", evidence_words(evidence)),
        ],
        _ => vec![format!(
            "torn tail at offset {offset}: commit {first_seq} was cut short and never acknowledged; the next write \
             puts it right"
        )],
    }
}

fn range_words(first: u64, last: u64) -> String {
    if first == last { format!("commit {first} is") } else { format!("commits {first} to {last} are") }
}

fn evidence_words(evidence: Evidence) -> &'static str {
    match evidence {
        Evidence::Copied => {
            "what is missing was copied and flushed before this part of the image came into use"
        }
        Evidence::PromisedDurable => "a later block says that this had been flushed",
        Evidence::BeyondInFlight => "a later block lies further on than anything not flushed may be",
        Evidence::Unreadable => "the device does not give the block back",
    }
}

fn evidence_code(evidence: Evidence) -> &'static str {
    match evidence {
        Evidence::Copied => "copied",
        Evidence::PromisedDurable => "promised_durable",
        Evidence::BeyondInFlight => "beyond_in_flight",
        Evidence::Unreadable => "unreadable",
    }
}

fn check_json(word: &str, check: &Check) -> Value {
    let (blocks, recovery) = (&check.blocks, &check.recovery);
    let lost = check.lost.map(|lost| {
        json!({
            "block": lost.at.get(), "offset": lost.offset, "first_seq": lost.first_seq,
            "last_seq": lost.last_seq, "evidence": lost.evidence.map(evidence_code),
        })
    });
    json!({
        "health": word,
        "words": check_words(check),
        "lost": lost,
        "keys": recovery.live_keys,
        "suspect_keys": recovery.suspect_keys,
        "roots_valid": recovery.roots_valid,
        "compaction_to_finish": recovery.switch_finished,
        "blocks": {
            "roots": blocks.roots, "no_roots": blocks.no_roots, "current": blocks.current,
            "stale": blocks.stale, "foreign": blocks.foreign, "invalid": blocks.invalid,
            "unreadable": blocks.unreadable,
        },
    })
}

pub(super) fn salvage(args: &StateSalvage, medium: &Medium, output: &Output) -> Outcome {
    let image = image::open(medium, &args.image, Access::Read)?;
    let (block_size, size) = {
        let (store, _) = image::reader(medium, &args.image)?;
        (image::block_size_of(&store)?, media::BlockDevice::geometry(store.device()).byte_len())
    };
    let geometry = image::geometry(args.size.unwrap_or(size), block_size)?;
    let suspects = if args.suspects { Suspects::Take } else { Suspects::Leave };
    let from = image.disk(block_size)?;
    let saved = image::create(medium, output, &args.new, geometry, |to, options| {
        statefs::salvage(from, to, options, suspects)
    })?;
    let Salvaged { certain, suspect_taken, suspect_left } = saved;
    if suspect_left > 0 {
        output.warn(format_args!("{suspect_left} suspect key(s) were left behind; --suspects takes them"))?;
    }
    output.done(
        format_args!("saved {} key(s) into `{}`, durable", certain + suspect_taken, args.new.display()),
        json!({
            "image": shown(&args.new), "certain": certain, "suspect_taken": suspect_taken,
            "suspect_left": suspect_left, "durability": "durable",
        }),
    )?;
    Ok(Exit::Ok)
}

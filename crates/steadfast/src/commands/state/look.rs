//! What looks at a store without changing it: `ls`, `dump`, `stats`, `fsck`, `salvage`.

use std::path::Path;

use serde_json::{Value, json};
use statefs::{
    Check, Error, Evidence, Health, Key, Lost, Page, Prefix, Recovery, Salvaged, Suspects, Verdict, Verified,
};

use super::{entry, image, prefix_of, seal};
use crate::cli::{StateLs, StateSalvage};
use crate::commands::bytes_words;
use crate::failure::{Exit, Failure, Outcome, shown};
use crate::medium::Medium;
use crate::output::Output;

pub(super) fn ls(args: &StateLs, medium: &Medium, output: &Output) -> Outcome {
    let prefix = prefix_of(&args.prefix)?;
    let (store, recovery) = image::reader(medium, &args.image)?;
    let exit = warn_if_damaged(&recovery, output)?;
    let length = if args.long { Length::Long } else { Length::Short };
    list(|after| store.list(&prefix, after, usize::MAX), &args.image, length, output)?;
    Ok(exit)
}

/// How much is said of each key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Length {
    Short,
    Long,
}

/// Prints all pages of a listing.
pub(super) fn list<'s>(
    next: impl Fn(Option<&Key>) -> Result<Page<'s>, Error>,
    image: &Path,
    length: Length,
    output: &Output,
) -> Outcome<()> {
    let mut after = None;
    loop {
        let page = next(after.as_ref()).map_err(|error| Failure::state(image, error))?;
        for listed in &page.entries {
            let (key, revision, bytes) = (listed.key, listed.revision.get(), listed.value_len);
            match (output.is_json(), length) {
                (true, _) => {
                    output.object(true, json!({ "key": key, "revision": revision, "bytes": bytes }))?;
                }
                (false, Length::Long) => output.line(format_args!("{revision:>12} {bytes:>6} {key}"))?,
                (false, Length::Short) => output.line(key)?,
            }
        }
        after = page.next;
        if after.is_none() {
            return Ok(());
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
pub(super) fn warn_if_damaged(recovery: &Recovery, output: &Output) -> Outcome<Exit> {
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
            "snapshots": stats.snapshots, "past_values": stats.past_values, "past_bytes": stats.past_bytes,
            "quotas": store.quotas().count(), "sealed_prefixes": store.sealed_prefixes().count(),
            "lost_prefixes": store.lost_prefixes().count(),
            "has_holes": store.device().has_holes(),
        });
        output.object(true, fields)?;
        return Ok(exit);
    }
    output.line(format_args!("store id    {}", store.store_id()))?;
    output.line(format_args!("keys        {} of {}", stats.live_keys, limits.keys_max))?;
    let (bytes, bytes_max) = (bytes_words(stats.live_bytes), bytes_words(limits.live_bytes_max));
    output.line(format_args!("bytes       {bytes} of {bytes_max} (keys and values)"))?;
    if stats.snapshots > 0 {
        let (values, bytes) = (stats.past_values, bytes_words(stats.past_bytes));
        output.line(format_args!(
            "snapshots   {}, which alone keep {values} value(s), {bytes}",
            stats.snapshots
        ))?;
    }
    let quotas = store.quotas().count();
    if quotas > 0 {
        output.line(format_args!("quotas      {quotas}"))?;
    }
    let sealed = store.sealed_prefixes().count();
    if sealed > 0 {
        output.line(format_args!("sealed      {sealed} prefix(es)"))?;
    }
    let lost = store.lost_prefixes().count();
    if lost > 0 {
        output.line(format_args!("lost        the record of {lost} sealed prefix(es)"))?;
    }
    let (blocks, blocks_max) = (stats.live_blocks, stats.capacity_blocks);
    output.line(format_args!(
        "blocks      {blocks} of {blocks_max} (of {block_size} bytes, for what is alive)"
    ))?;
    if store.device().has_holes() == Some(true) {
        output.line("space       the image has holes: a write can fail if its file system is full")?;
    }
    output.line(format_args!("revision    {} (of the newest write)", store.durable_revision().get()))?;
    output.line(format_args!("replayed    {} frames", recovery.frames_replayed))?;
    output.line(format_args!("opened      {} times to be written", recovery.incarnation))?;
    output.line(format_args!("closed      {}", if recovery.was_sealed { "yes" } else { "no" }))?;
    Ok(exit)
}

pub(super) fn fsck(path: &Path, verify: bool, medium: &Medium, output: &Output) -> Outcome {
    let (check, verified) = if verify {
        let (check, verified) = image::check_twice(medium, path)?;
        (check, Some(verified))
    } else {
        (image::check(medium, path)?, None)
    };
    let (exit, word) = match check.health {
        Health::Damaged => (Exit::Corrupt, "damaged"),
        _ if verified.as_ref().is_some_and(|verified| !verified.is_sound()) => (Exit::Corrupt, "unsteady"),
        Health::Clean => (Exit::Ok, "clean"),
        Health::TornTail => (Exit::NotSo, "torn_tail"),
    };
    if output.is_json() {
        output.object(exit != Exit::Corrupt, check_json(word, &check, verified.as_ref()))?;
        return Ok(exit);
    }
    for line in check_words(&check) {
        output.line(line)?;
    }
    let (keys, suspect) = (check.recovery.live_keys, check.recovery.suspect_keys);
    output.line(format_args!("{keys} key(s) with a value, {suspect} of them suspect"))?;
    for prefix in &check.lost_prefixes {
        output.line(seal::lost_words(prefix))?;
    }
    if let Some(verified) = &verified {
        output.line(verified_words(verified))?;
    }
    if exit == Exit::Corrupt {
        output
            .say(format_args!("hint: `steadfast state salvage {} NEW` saves what is left", path.display()))?;
    }
    Ok(exit)
}

/// Whether reading twice gave the same twice.
fn verified_words(verified: &Verified) -> String {
    let (same, different) = (verified.same_keys, verified.different_keys);
    match &verified.first_different {
        _ if different == 0 && verified.is_whole => {
            format!("read twice: {} frame(s), {same} record(s) the same both times", verified.frames)
        }
        Some(key) => format!(
            "read twice: {different} record(s) were different the second time, the first of them `{key}`: look at the device"
        ),
        None => "read twice: the journal did not end at the same place: look at the device".to_owned(),
    }
}

/// What a check found, in sentences.
fn check_words(check: &Check) -> Vec<String> {
    let Some(lost) = check.lost else {
        let words = match check.health {
            Health::Clean if !check.lost_prefixes.is_empty() => {
                "clean, but the record of a sealed prefix is lost"
            }
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
        Evidence::NoSuperblock => "every superblock is lost",
    }
}

fn evidence_code(evidence: Evidence) -> &'static str {
    match evidence {
        Evidence::Copied => "copied",
        Evidence::PromisedDurable => "promised_durable",
        Evidence::BeyondInFlight => "beyond_in_flight",
        Evidence::Unreadable => "unreadable",
        Evidence::NoSuperblock => "no_superblock",
    }
}

fn check_json(word: &str, check: &Check, verified: Option<&Verified>) -> Value {
    let (blocks, recovery) = (&check.blocks, &check.recovery);
    let lost = check.lost.map(|lost| {
        json!({
            "block": lost.at.get(), "offset": lost.offset, "first_seq": lost.first_seq,
            "last_seq": lost.last_seq, "evidence": lost.evidence.map(evidence_code),
        })
    });
    let verified = verified.map(|verified| {
        json!({
            "is_sound": verified.is_sound(), "frames": verified.frames, "same_records": verified.same_keys,
            "different_records": verified.different_keys, "first_different": verified.first_different,
        })
    });
    json!({
        "health": word,
        "verified": verified,
        "words": check_words(check),
        "lost": lost,
        "keys": recovery.live_keys,
        "suspect_keys": recovery.suspect_keys,
        "lost_prefixes": check.lost_prefixes.iter().map(Prefix::as_str).collect::<Vec<_>>(),
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
    let store = image::salvager(medium, &args.image)?;
    let (block_size, size) =
        (image::block_size_of(&store)?, media::BlockDevice::geometry(store.device()).byte_len());
    let geometry = image::geometry(args.size.unwrap_or(size), block_size)?;
    let suspects = if args.suspects { Suspects::Take } else { Suspects::Leave };
    let saved = image::create(medium, output, &args.new, geometry, |to, options| {
        statefs::salvage(store.device(), to, options, suspects)
            .map_err(|error| Failure::state(&args.new, error))
    })?;
    let Salvaged { certain, suspect_taken, suspect_left, sealed_without_prefix } = saved;
    if suspect_left > 0 {
        output.warn(format_args!("{suspect_left} suspect key(s) were left behind; --suspects takes them"))?;
    }
    if sealed_without_prefix > 0 {
        output.warn(format_args!(
            "{sealed_without_prefix} sealed value(s) have lost the record of their prefix; `steadfast state seal restore` \
             puts it back, with the key"
        ))?;
    }
    output.done(
        format_args!("saved {} key(s) into `{}`, durable", certain + suspect_taken, args.new.display()),
        json!({
            "image": shown(&args.new), "certain": certain, "suspect_taken": suspect_taken,
            "suspect_left": suspect_left, "sealed_without_prefix": sealed_without_prefix, "durability": "durable",
        }),
    )?;
    Ok(Exit::Ok)
}

//! Rotation: a record leaves a log only for an older file of it, in order, and goes only where `keep` lets it go.

use std::collections::VecDeque;

use crashsim::{Atom, Operation};
use durable_io::{Log, LogOptions};

use super::case::{Ended, boxed};
use super::log::{
    self, Found, LOG, LogCase, atom, cell, of_records, open, plain, record, seen_cell, two_records,
};
use crate::site::{FileCase, Site};

/// Two records of 14 bytes and their newlines fit.
const BYTES_MAX: u64 = 36;

pub(super) fn cases() -> Vec<Box<dyn FileCase>> {
    boxed([
        LogCase::new(
            "rotate",
            "a log of two records is rotated once",
            keep_two,
            two_records,
            |site, options| appends(site, options, 3..=3),
        ),
        LogCase::new(
            "rotate-out",
            "a log is rotated until its oldest records go",
            keep_two,
            full,
            |site, options| appends(site, options, 7..=7),
        ),
        LogCase::new(
            "rotate-shift",
            "a log of three files is rotated, and each moves on by one name",
            keep_three,
            full,
            |site, options| appends(site, options, 7..=7),
        ),
        LogCase::new(
            "rotate-none",
            "a log keeps no rotated files",
            keep_none,
            two_records,
            |site, options| appends(site, options, 3..=3),
        ),
        LogCase::new(
            "rotate-group",
            "a log is rotated under records that wait for a barrier",
            grouped,
            two_records,
            |site, options| {
                let mut log = open(site, options)?;
                append(site, &mut log, options, 3)?;
                append(site, &mut log, options, 4)?;
                append(site, &mut log, options, 5)?;
                site.perform(of_records("close", &[3, 4, 5]), || log.close())?;
                Ok(())
            },
        ),
        LogCase::new(
            "rotate-after-death",
            "another process died while it rotated the log that is open here",
            keep_two,
            three_files,
            after_death,
        ),
    ])
}

fn keep_two() -> LogOptions {
    LogOptions { bytes_max: Some(BYTES_MAX), keep: 2, mode: Some(log::WIDE), ..plain() }
}

fn keep_three() -> LogOptions {
    LogOptions { keep: 3, ..keep_two() }
}

fn grouped() -> LogOptions {
    LogOptions { sync: log::grouped().sync, ..keep_two() }
}

fn keep_none() -> LogOptions {
    LogOptions { keep: 0, ..keep_two() }
}

/// Which records are in which file, the log first, and how many bytes the log has.
struct Shelf {
    files: VecDeque<Vec<u32>>,
    len: u64,
}

impl Shelf {
    /// As it is on the medium. The files are those that a rotation shifts: up to the first gap.
    fn found(found: &Found, keep: u32) -> Self {
        let mut files = VecDeque::from([found.numbers(LOG)]);
        for index in 1..=keep {
            let name = format!("{LOG}.{index}");
            if !found.has(&name) {
                break;
            }
            files.push_back(found.numbers(&name));
        }
        Self { files, len: u64::try_from(found.len()).unwrap_or(u64::MAX) }
    }

    /// Which records an append lets go.
    fn lets_go(&self, number: u32, options: &LogOptions) -> Vec<u32> {
        let len = u64::try_from(record(number).len()).unwrap_or(u64::MAX).saturating_add(1);
        let is_full = self.len > 0 && options.bytes_max.is_some_and(|max| self.len.saturating_add(len) > max);
        let keep = usize::try_from(options.keep).unwrap_or(usize::MAX);
        match self.files.back() {
            Some(oldest) if is_full && self.files.len() > keep => oldest.clone(),
            _ => Vec::new(),
        }
    }
}

/// Appends a record, and says which ones go for it.
pub(super) fn append(site: &Site<'_>, log: &mut Log, options: &LogOptions, number: u32) -> Result<(), Ended> {
    let shelf = Shelf::found(&Found::read(site)?, options.keep);
    let gone = shelf.lets_go(number, options);
    let cells = |number| [(cell(number), None), (seen_cell(number), None)];
    let together: Atom = gone.into_iter().flat_map(cells).collect();
    if !together.is_empty() {
        // They go with a rotation, which may be done where the append after it fails.
        site.announce(Operation::new("the oldest records may go", vec![together.clone()]));
    }
    let mut atoms = vec![atom(number)];
    if !together.is_empty() {
        atoms.push(together);
    }
    let operation = Operation::new(format_args!("append {number}"), atoms);
    drop(site.perform(operation, || log.append(&record(number)))?);
    Ok(())
}

fn appends(
    site: &Site<'_>,
    options: &LogOptions,
    numbers: std::ops::RangeInclusive<u32>,
) -> Result<(), Ended> {
    let mut log = open(site, options)?;
    for number in numbers {
        append(site, &mut log, options, number)?;
    }
    Ok(())
}

/// Records 1 to `last`, acknowledged.
fn filled(site: &Site<'_>, options: &LogOptions, last: u32) -> super::case::Before {
    let mut cells = two_records(site, options)?;
    let mut log = site.dir()?.log_with(LOG, options.clone())?;
    for number in 3..=last {
        drop(log.append(&record(number))?);
        cells.extend(atom(number));
    }
    Ok(cells)
}

/// Three files of two records each.
fn full(site: &Site<'_>, options: &LogOptions) -> super::case::Before {
    filled(site, options, 6)
}

/// Two files of two records each.
fn three_files(site: &Site<'_>, options: &LogOptions) -> super::case::Before {
    filled(site, options, 4)
}

/// Its first rename is visible and not durable; ours would overwrite what it has yet to save.
fn after_death(site: &Site<'_>, options: &LogOptions) -> Result<(), Ended> {
    let mut log = open(site, options)?;
    site.move_file("log.1", "log.2")?;
    drop(site.perform(of_records("append 5", &[5]), || log.append(&record(5)))?);
    Ok(())
}

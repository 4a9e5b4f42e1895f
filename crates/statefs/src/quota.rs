//! Quotas: how much may lie below a prefix.
//!
//! A quota is a record under the key `/quota` + prefix. Its value, little-endian:
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 1 | version, 1 |
//! | 1 | 8 | soft limit of bytes |
//! | 9 | 8 | hard limit of bytes |
//! | 17 | 8 | hard limit of keys |
//!
//! It is valid **if and only if** it is these 25 bytes, the version is 1, and the soft limit is not above the hard one, where
//! both are there. A limit of 2^64 - 1 is none.
//!
//! Invariants
//! - the use of a quota is what a recount of the index would give, buffered puts included.
//! - what would leave more than a hard limit, and more than before, is refused before anything is written.

use core::ops::Bound;
use core::time::Duration;

use alloc::vec::Vec;

use media::BlockDevice;

use crate::error::Error;
use crate::index::{Index, Totals};
use crate::key::{Prefix, QUOTA_ROOT};
use crate::record::{Form, Record, Revision};
use crate::settings::{own_key, own_records_within};
use crate::store::Store;

/// How many quotas there may be. Each write looks at every one.
pub const QUOTAS_MAX: usize = 64;

/// After this long a use that is still above its soft limit is warned about again.
pub const QUOTA_WINDOW: Duration = Duration::from_secs(60);

const VERSION: u8 = 1;
const LEN: usize = 25;
const NONE: u64 = u64::MAX;

/// How much may lie below a prefix: keys and values, as they are stored (what is sealed is 45 bytes longer).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Quota {
    /// Above so many bytes there is a warning ([`Store::take_warnings`]).
    pub soft: Option<u64>,
    /// More bytes there may not be. Set below what is there, only shrinking works.
    pub hard: Option<u64>,
    /// More keys there may not be.
    pub keys: Option<u64>,
}

/// A quota and what is used of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QuotaUse {
    /// Of what.
    pub prefix: Prefix,
    /// What it is limited to.
    pub quota: Quota,
    /// Bytes of keys and values, buffered ones included.
    pub used_bytes: u64,
    /// Keys, buffered ones included.
    pub used_keys: u64,
}

/// There is more than a soft limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    /// Of what.
    pub prefix: Prefix,
    /// The soft limit.
    pub limit: u64,
    /// Bytes there were when the warning was made.
    pub used: u64,
}

/// Whether a use above the soft limit is news.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Alarm {
    Armed,
    /// There was a warning at this time; [`None`] as long as nobody has told the time.
    Raised(Option<Duration>),
}

#[derive(Debug)]
struct Entry {
    prefix: Prefix,
    quota: Quota,
    used: Totals,
    alarm: Alarm,
    /// The warning that nobody has taken yet: its use. One for each quota, so they are bounded.
    warning: Option<u64>,
}

/// All quotas, in the order of their prefixes.
#[derive(Debug, Default)]
pub(crate) struct Quotas {
    entries: Vec<Entry>,
    now: Option<Duration>,
    /// How often everything was counted again.
    #[cfg(test)]
    pub(crate) recounts: u64,
}

impl Quota {
    fn encode(&self) -> [u8; LEN] {
        let mut bytes = [VERSION; LEN];
        let limits = [self.soft, self.hard, self.keys];
        for (to, limit) in bytes
            .iter_mut()
            .skip(1)
            .zip(limits.map(|limit| limit.unwrap_or(NONE).to_le_bytes()).iter().flatten())
        {
            *to = *limit;
        }
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let limit = |at: usize| {
            let number = u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?);
            Some((number != NONE).then_some(number))
        };
        let quota = Self { soft: limit(1)?, hard: limit(9)?, keys: limit(17)? };
        (bytes.len() == LEN && bytes.first() == Some(&VERSION) && quota.is_in_order()).then_some(quota)
    }

    fn is_in_order(&self) -> bool {
        self.soft.zip(self.hard).is_none_or(|(soft, hard)| soft <= hard)
    }
}

impl Entry {
    fn count(prefix: Prefix, quota: Quota, index: &Index) -> Self {
        // What it covers does not stand together, but all of it begins with its text.
        let used = index
            .from(Bound::Included(prefix.as_str()))
            .take_while(|kept| kept.key().starts_with(prefix.as_str()))
            .filter(|kept| prefix.covers_text(kept.key()))
            .fold(Totals::default(), |sum, kept| sum.plus(kept.totals()));
        Self { prefix, quota, used, alarm: Alarm::Armed, warning: None }
    }

    /// Compares the use with the soft limit.
    fn watch(&mut self, now: Option<Duration>) {
        let is_over = self.quota.soft.is_some_and(|soft| self.used.bytes > soft);
        let is_news = match self.alarm {
            Alarm::Armed => true,
            Alarm::Raised(Some(then)) => now.is_some_and(|now| now.saturating_sub(then) >= QUOTA_WINDOW),
            // The window begins when the time is told for the first time.
            Alarm::Raised(None) => {
                self.alarm = Alarm::Raised(now);
                false
            }
        };
        match (is_over, is_news) {
            (false, _) => self.alarm = Alarm::Armed,
            (true, true) => {
                self.alarm = Alarm::Raised(now);
                self.warning = Some(self.used.bytes);
            }
            (true, false) => {}
        }
    }

    /// Withdraws a warning about a write that failed; one that still holds says the use that is left.
    fn withdraw_warning(&mut self, now: Option<Duration>) {
        let used = self.used.bytes;
        self.warning = self.warning.filter(|_| self.quota.soft.is_some_and(|soft| used > soft)).map(|_| used);
        self.watch(now);
    }

    /// Refuses what would leave more than a hard limit, and more than there is.
    fn check<'b>(
        &self,
        old: &impl Fn(&str) -> Totals,
        records: impl Iterator<Item = Record<'b>>,
    ) -> Result<(), Error> {
        if self.quota.hard.is_none() && self.quota.keys.is_none() {
            return Ok(());
        }
        let (mut more, mut less) = (Totals::default(), Totals::default());
        for record in records.filter(|record| self.prefix.covers_text(record.key())) {
            less = less.plus(old(record.key()));
            more = more.plus(totals_of(&record));
        }
        let (used, next) = (self.used, self.used.plus(more).less(less));
        if let Some(limit) = self.quota.hard.filter(|limit| next.bytes > *limit && next.bytes > used.bytes) {
            let prefix = self.prefix.clone();
            return Err(Error::QuotaExceeded { prefix, limit, used: used.bytes, requested: next.bytes });
        }
        if let Some(limit) = self.quota.keys.filter(|limit| next.keys > *limit && next.keys > used.keys) {
            let prefix = self.prefix.clone();
            return Err(Error::QuotaKeysExceeded { prefix, limit, used: used.keys, requested: next.keys });
        }
        Ok(())
    }
}

/// What a record leaves.
fn totals_of(record: &Record<'_>) -> Totals {
    match record {
        Record::Put { key, value, .. } | Record::Kept { key, value, .. } => {
            Totals::of(key.len(), value.len())
        }
        Record::Delete { .. } | Record::Past { .. } => Totals::default(),
    }
}

impl Quotas {
    /// Loads the quotas from the index, and counts what is used of each.
    ///
    /// # Errors
    /// [`Error::BadSetting`]; [`Error::OverLimit`]; [`Error::NoMemory`].
    pub(crate) fn load(index: &Index) -> Result<Self, Error> {
        let mut quotas = Self::default();
        for kept in own_records_within(index, QUOTA_ROOT, "quotas", QUOTAS_MAX)? {
            let bad = || Error::BadSetting { key: kept.key().into() };
            let prefix =
                Prefix::parse(kept.key().strip_prefix(QUOTA_ROOT).unwrap_or("")).map_err(|_| bad())?;
            let quota = Quota::decode(kept.value()).ok_or_else(bad)?;
            quotas.reserve()?;
            let mut entry = Entry::count(prefix, quota, index);
            entry.watch(None);
            quotas.entries.push(entry);
        }
        Ok(quotas)
    }

    fn reserve(&mut self) -> Result<(), Error> {
        self.entries.try_reserve(1).map_err(|_| Error::NoMemory { len: size_of::<Entry>() })
    }

    fn find(&self, prefix: &Prefix) -> Result<usize, usize> {
        self.entries.binary_search_by(|entry| entry.prefix.cmp(prefix))
    }

    /// Whether a prefix has a quota.
    pub(crate) fn has(&self, prefix: &str) -> bool {
        self.entries.iter().any(|entry| entry.prefix.as_str() == prefix)
    }

    pub(crate) fn are_none(&self) -> bool {
        self.entries.is_empty()
    }

    /// Refuses records that would break a hard limit. `old` is what a key has before them.
    pub(crate) fn check<'b, I>(
        &self,
        old: impl Fn(&str) -> Totals,
        records: impl Fn() -> I,
    ) -> Result<(), Error>
    where
        I: Iterator<Item = Record<'b>>,
    {
        self.entries.iter().try_for_each(|entry| entry.check(&old, records()))
    }

    /// A record has been taken in, whose key had `old` before.
    pub(crate) fn note(&mut self, record: &Record<'_>, old: Totals) {
        let now = self.now;
        for entry in self.entries.iter_mut().filter(|entry| entry.prefix.covers_text(record.key())) {
            entry.used = entry.used.plus(totals_of(record)).less(old);
            entry.watch(now);
        }
    }

    /// Takes back records that had been noted, each with what its key had before.
    pub(crate) fn take_back<'b, I>(&mut self, charges: impl Fn() -> I)
    where
        I: Iterator<Item = (Record<'b>, Totals)>,
    {
        let now = self.now;
        for entry in &mut self.entries {
            let (mut more, mut less) = (Totals::default(), Totals::default());
            for (record, old) in charges().filter(|(record, _)| entry.prefix.covers_text(record.key())) {
                more = more.plus(old);
                less = less.plus(totals_of(&record));
            }
            entry.used = entry.used.plus(more).less(less);
            entry.withdraw_warning(now);
        }
    }

    /// Counts what is in the index, and what keys will have that are not shown yet.
    pub(crate) fn recount<'k>(
        &mut self,
        index: &Index,
        unshown: impl Iterator<Item = (&'k str, Totals)> + Clone,
    ) {
        #[cfg(test)]
        {
            self.recounts += 1;
        }
        for entry in &mut self.entries {
            entry.used = Entry::count(entry.prefix.clone(), entry.quota, index).used;
            for (key, totals) in unshown.clone().filter(|(key, _)| entry.prefix.covers_text(key)) {
                let old = index.get(key).map(|old| old.totals()).unwrap_or_default();
                entry.used = entry.used.plus(totals).less(old);
            }
            entry.withdraw_warning(self.now);
        }
    }

    /// It is so late.
    pub(crate) fn tick(&mut self, now: Duration) {
        self.now = Some(now);
        for entry in &mut self.entries {
            entry.watch(Some(now));
        }
    }
}

impl<D: BlockDevice> Store<D> {
    /// Limits what may lie below a prefix, or changes the limit. Quotas of prefixes in each other all apply.
    ///
    /// # Durability
    /// As [`Store::put`].
    ///
    /// # Errors
    /// [`Error::QuotaOrder`], [`Error::PrefixTooLong`], [`Error::TooManyQuotas`]: nothing was written. Otherwise as
    /// [`Store::put`].
    pub fn set_quota(&mut self, prefix: &Prefix, quota: Quota) -> Result<Revision, Error> {
        if !quota.is_in_order() {
            return Err(Error::QuotaOrder);
        }
        let found = self.quotas.find(prefix);
        if found.is_err() && self.quotas.entries.len() >= QUOTAS_MAX {
            return Err(Error::TooManyQuotas { limit: QUOTAS_MAX });
        }
        let key = own_key(QUOTA_ROOT, prefix)?;
        self.quotas.reserve()?;
        let record = Record::Put { key: &key, value: &quota.encode(), form: Form::Plain };
        let revision = self.commit_records(&[record])?;
        let mut entry = Entry::count(prefix.clone(), quota, &self.index);
        entry.watch(self.quotas.now);
        match found {
            Ok(at) => {
                if let Some(old) = self.quotas.entries.get_mut(at) {
                    *old = entry;
                }
            }
            Err(at) => self.quotas.entries.insert(at, entry),
        }
        Ok(revision)
    }

    /// Takes a quota away; [`None`] if there was none.
    ///
    /// # Durability
    /// As [`Store::delete`].
    ///
    /// # Errors
    /// As [`Store::delete`].
    pub fn remove_quota(&mut self, prefix: &Prefix) -> Result<Option<Revision>, Error> {
        let Ok(at) = self.quotas.find(prefix) else { return Ok(None) };
        let key = own_key(QUOTA_ROOT, prefix)?;
        let revision = self.commit_records(&[Record::Delete { key: &key }])?;
        self.quotas.entries.remove(at);
        Ok(Some(revision))
    }

    /// All quotas and what is used of them, in the order of their prefixes.
    pub fn quotas(&self) -> impl Iterator<Item = QuotaUse> {
        self.quotas.entries.iter().map(|entry| QuotaUse {
            prefix: entry.prefix.clone(),
            quota: entry.quota,
            used_bytes: entry.used.bytes,
            used_keys: entry.used.keys,
        })
    }

    /// The soft limits that were exceeded since this was asked for the last time, each once. There is a warning when a
    /// limit is crossed (or set below what is there, or found exceeded at open), and again when [`QUOTA_WINDOW`] has passed,
    /// as [`Store::tick`] tells the time, and it still is.
    pub fn take_warnings(&mut self) -> Vec<Warning> {
        let taken = self.quotas.entries.iter_mut().filter_map(|entry| {
            let (used, limit) = entry.warning.take().zip(entry.quota.soft)?;
            Some(Warning { prefix: entry.prefix.clone(), limit, used })
        });
        taken.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quota_reads_back_and_nothing_else_is_taken_for_one() {
        let quota = Quota { soft: Some(1), hard: Some(0x0201), keys: None };
        let bytes = quota.encode();
        assert_eq!(&bytes, b"\x01\x01\0\0\0\0\0\0\0\x01\x02\0\0\0\0\0\0\xff\xff\xff\xff\xff\xff\xff\xff");
        assert_eq!(Quota::decode(&bytes), Some(quota));
        for len in 0..LEN {
            assert_eq!(Quota::decode(&bytes[..len]), None, "{len}");
        }
        assert_eq!(Quota::decode(&[&bytes[..], &[0]].concat()), None);
        assert_eq!(Quota::decode(&[&[2][..], &bytes[1..]].concat()), None, "a later version");
        assert_eq!(Quota::decode(&Quota { soft: Some(2), hard: Some(1), keys: None }.encode()), None);
        assert!(Quota::decode(&Quota { soft: Some(2), hard: Some(2), keys: None }.encode()).is_some());
        assert_eq!(Quota::decode(&Quota::default().encode()), Some(Quota::default()));
    }
}

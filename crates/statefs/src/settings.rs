//! What the store keeps for itself about prefixes, and where it is asked: quotas, sealed prefixes, and the changes that are
//! remembered have their modules; what calls them from the way of a write is here.

use core::ops::Bound;

use alloc::string::String;
use alloc::vec::Vec;

use media::BlockDevice;

use crate::error::Error;
use crate::index::{Index, Kept, Totals};
use crate::key::{Prefix, QUOTA_ROOT, SEALED_ROOT, SNAPSHOT_ROOT};
use crate::limits::KEY_LEN_MAX;
use crate::quota::Quotas;
use crate::record::{Form, Record};
use crate::sealed::{SEALED_OVERHEAD, Sealing};
use crate::snapshot::SNAPSHOTS_MAX;
use crate::store::Store;
use crate::write::records;

/// The key of what the store keeps about a prefix.
pub(crate) fn own_key(root: &str, prefix: &Prefix) -> Result<String, Error> {
    let limit = KEY_LEN_MAX - root.len();
    let requested = prefix.as_str().len();
    if requested > limit {
        return Err(Error::PrefixTooLong { limit, requested });
    }
    Ok(alloc::format!("{root}{prefix}"))
}

/// What the store keeps under one of its roots.
pub(crate) fn own_records<'i>(index: &'i Index, root: &'static str) -> impl Iterator<Item = Kept<'i>> {
    index.from(Bound::Included(root)).take_while(move |kept| kept.key().starts_with(root))
}

/// Returns the records under one of the store's roots, `limit` of them at most.
///
/// In a damaged store a record may be back because its deletion was lost. Such a record is suspect, and is left out where
/// there are too many. The records that are certain were all there at the same time, so a store that has too many of those
/// was not written by this crate.
///
/// # Errors
/// [`Error::OverLimit`]: more than `limit` records are certain.
pub(crate) fn own_records_within<'i>(
    index: &'i Index,
    root: &'static str,
    what: &'static str,
    limit: usize,
) -> Result<impl Iterator<Item = Kept<'i>>, Error> {
    let found = own_records(index, root).filter(|kept| !index.is_suspect_value(kept)).count();
    let mut suspects_max = limit.checked_sub(found).ok_or(Error::OverLimit { what, limit, found })?;
    Ok(own_records(index, root).filter(move |kept| {
        if !index.is_suspect_value(kept) {
            return true;
        }
        let has_room = suspects_max > 0;
        suspects_max = suspects_max.saturating_sub(1);
        has_room
    }))
}

impl<D: BlockDevice> Store<D> {
    /// Loads quotas and sealed prefixes from the index, and checks how many snapshots there are.
    ///
    /// # Errors
    /// [`Error::BadSetting`]; [`Error::OverLimit`]; [`Error::NoMemory`].
    pub(crate) fn load_settings(&mut self) -> Result<(), Error> {
        drop(own_records_within(&self.index, SNAPSHOT_ROOT, "snapshots", SNAPSHOTS_MAX)?);
        self.quotas = Quotas::load(&self.index)?;
        self.sealing = Sealing::load(&self.index)?;
        Ok(())
    }

    /// Whether a record of the store's own is one of a quota or of a sealed prefix that is in force.
    pub(crate) fn has_setting(&self, key: &str) -> bool {
        key.strip_prefix(QUOTA_ROOT).is_some_and(|prefix| self.quotas.has(prefix))
            || key.strip_prefix(SEALED_ROOT).is_some_and(|prefix| self.sealing.has(prefix))
    }

    /// The most bytes that the value of a key may have.
    pub(crate) fn value_len_max(&self, key: &str) -> u64 {
        let overhead = if self.sealing.covers(key) { SEALED_OVERHEAD } else { 0 };
        u64::from(self.limits.value_len_max.saturating_sub(overhead))
    }

    /// Appends a record as it is stored: a value below a sealed prefix is sealed here, before it is anywhere but in the
    /// caller's memory.
    pub(crate) fn encode(&mut self, record: &Record<'_>, into: &mut Vec<u8>) -> Result<(), Error> {
        match *record {
            Record::Put { key, value, form: Form::Plain } if self.sealing.covers(key) => {
                self.refuse_unless_writable()?;
                let value = self.sealing.seal(key, value)?;
                Record::Put { key, value: &value, form: Form::Sealed }.encode(into)
            }
            Record::Put { .. } | Record::Delete { .. } | Record::Kept { .. } | Record::Past { .. } => {
                record.encode(into)
            }
        }
    }

    /// A body whose plain values below sealed prefixes are sealed; [`None`] where there are none.
    pub(crate) fn sealed_body(&mut self, body: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        if self.sealing.are_none() || !records(body).any(|record| self.sealing.would_be_plain(&record)) {
            return Ok(None);
        }
        let mut sealed = Vec::new();
        records(body).try_for_each(|record| self.encode(&record, &mut sealed))?;
        Ok(Some(sealed))
    }

    /// Refuses what a prefix does not allow, before anything is written: every body comes by here.
    pub(crate) fn admit<'r>(
        &mut self,
        all: &(impl Iterator<Item = Record<'r>> + Clone),
    ) -> Result<(), Error> {
        self.sealing.admit(all.clone(), &self.index)?;
        self.quotas.check(|key| self.totals_ahead_of(key), || all.clone())
    }

    /// Records have been taken in: from now on they count, though they are not shown yet.
    pub(crate) fn charge<'r>(&mut self, all: impl Iterator<Item = Record<'r>>) {
        if self.quotas.are_none() {
            return;
        }
        for record in all {
            let old = self.totals_ahead_of(record.key());
            self.quotas.note(&record, old);
            // There is memory for it since the record was taken into the frame.
            self.pending.charged.push(old);
        }
    }

    /// Takes back the charges of records that were taken into the frame that is gathered and will not be shown.
    pub(crate) fn take_charges_back(&mut self) {
        let (quotas, pending) = (&mut self.quotas, &self.pending);
        quotas.take_back(|| pending.charges());
    }

    /// Counts everything again after the store was poisoned: what counts is what readers see. It walks through the index.
    pub(crate) fn charge_anew(&mut self) {
        self.quotas.recount(&self.index, self.unshown.newest());
    }

    fn totals_ahead_of(&self, key: &str) -> Totals {
        self.ahead(key).map(|(_, totals)| totals).unwrap_or_default()
    }
}

#[cfg(all(test, feature = "std"))]
mod tests {
    use super::*;
    use crate::changes::{CHANGES_LEN_MAX, CHANGES_MAX};
    use crate::limits::VALUE_LEN_MAX;
    use crate::quota::{QUOTA_WINDOW, QUOTAS_MAX};
    use crate::sealed::SEALED_PREFIXES_MAX;

    /// The pages for people say what the code does.
    #[test]
    fn the_pages_have_the_numbers_of_the_code() {
        let format = include_str!("../../../docs/format.md");
        let rows = [
            alloc::format!("| 25, {QUOTAS_MAX} |"),
            alloc::format!("runs; {SEALED_PREFIXES_MAX} |"),
            alloc::format!("| {}, {} |", KEY_LEN_MAX - QUOTA_ROOT.len(), KEY_LEN_MAX - SEALED_ROOT.len()),
            alloc::format!("| {SEALED_OVERHEAD}: version 1,"),
        ];
        let longest = VALUE_LEN_MAX - SEALED_OVERHEAD;
        let longest = alloc::format!("{},{:03}", longest / 1000, longest % 1000);
        assert!(format.contains(&alloc::format!("| {longest} |")));
        for row in rows {
            assert!(format.contains(&row), "{row}");
        }
        let page = include_str!("../../../docs/storage/statefs.md").replace('\n', " ");
        let changes = alloc::format!("last {},{:03} changes", CHANGES_MAX / 1000, CHANGES_MAX % 1000);
        for words in [
            alloc::format!("There may be {QUOTAS_MAX}."),
            alloc::format!("again after {} seconds", QUOTA_WINDOW.as_secs()),
            alloc::format!("at most {longest} bytes"),
            alloc::format!("{} KiB of keys", CHANGES_LEN_MAX >> 10),
            changes,
        ] {
            assert!(page.contains(&words), "{words}");
        }
    }

    /// Every way of writing seals; were there one that does not, this is what stops it.
    #[test]
    fn a_body_with_something_plain_below_a_sealed_prefix_is_not_written() {
        struct Zeros;
        impl crate::Nonces for Zeros {
            fn fill(&mut self, bytes: &mut [u8]) -> Result<(), crate::NoRandom> {
                bytes.fill(0);
                Ok(())
            }
        }
        let disk = media::MemDisk::new(media::Geometry::new(512, 64).unwrap()).unwrap();
        let mut store = Store::format(disk.clone(), &crate::Options::new(crate::StoreId([1; 16]))).unwrap();
        store.set_nonces(alloc::boxed::Box::new(Zeros));
        let key = crate::SealKey::new(1, zeroize::Zeroizing::new([1; 32]));
        store.seal_prefix(&Prefix::parse("/state/s").unwrap(), key).unwrap();
        let before = disk.image().unwrap();
        let mut body = Vec::new();
        Record::Delete { key: "/state/a" }.encode(&mut body).unwrap();
        Record::Put { key: "/state/s/a", value: b"plain", form: Form::Plain }.encode(&mut body).unwrap();
        let outcome = store.commit_body(&body, 2);
        assert!(matches!(outcome, Err(Error::Locked { key_id: 1, .. })), "{outcome:?}");
        let plain = Record::Put { key: "/state/s", value: b"plain", form: Form::Plain };
        assert!(matches!(store.admit(&records(&body)), Err(Error::Locked { .. })));
        store.encode(&plain, &mut body).unwrap();
        assert!(disk.image().unwrap() == before);
    }
}

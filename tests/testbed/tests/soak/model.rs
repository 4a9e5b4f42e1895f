//! The model: what a thread knows about its own keys, and how a store is compared with that.

use std::collections::BTreeMap;
use std::sync::Arc;

use media::doubles::SeededEntropy;
use media::{BlockDevice, MemDisk};
use statefs::{
    Access, Form, Key, Page, Prefix, Quota, QuotaUse, Recovery, Revision, SealKey, SnapshotName,
    SnapshotView, Store, Value, Verdict, View, Zeroizing,
};

/// Threads of a soak.
pub(crate) const THREADS: usize = 12;

/// Keys of a thread's group. A batch changes all of them, so every reader finds them alike.
pub(crate) const GROUP: usize = 4;

/// Bytes of a value that say which thread wrote it, and its number.
pub(crate) const STAMP_LEN: usize = 9;

/// The owner of keys: a thread, by its index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Owner(pub(crate) usize);

impl Owner {
    /// Lists the owners.
    pub(crate) fn all() -> impl Iterator<Item = Self> {
        (0..THREADS).map(Self)
    }

    /// Returns the prefix of the keys that are stored as they are.
    pub(crate) fn prefix(self) -> Prefix {
        Prefix::parse(&format!("/state/t{:02}", self.0)).unwrap()
    }

    /// Returns the prefix with a small quota.
    pub(crate) fn narrow(self) -> Prefix {
        Prefix::parse(&format!("/state/t{:02}/narrow", self.0)).unwrap()
    }

    /// Returns the prefix of the keys whose values are encrypted.
    fn sealed(self) -> Prefix {
        Prefix::parse(&format!("/state/sealed/t{:02}", self.0)).unwrap()
    }

    pub(crate) fn plain_key(self, nth: u32) -> Key {
        self.key(&format!("plain/{nth}"))
    }

    pub(crate) fn narrow_key(self, nth: u32) -> Key {
        self.key(&format!("narrow/{nth}"))
    }

    /// Returns the key whose value is the number of puts that it has had.
    pub(crate) fn puts_key(self) -> Key {
        self.key("puts")
    }

    pub(crate) fn group_keys(self) -> [Key; GROUP] {
        std::array::from_fn(|nth| self.key(&format!("group/{nth}")))
    }

    pub(crate) fn sealed_key(self, nth: u32) -> Key {
        Key::parse(&format!("{}/{nth}", self.sealed())).unwrap()
    }

    pub(crate) fn snapshot_name(self) -> SnapshotName {
        SnapshotName::parse(&format!("of t{:02}", self.0)).unwrap()
    }

    fn key(self, name: &str) -> Key {
        Key::parse(&format!("{}/{name}", self.prefix())).unwrap()
    }

    /// Makes a value that a reader can check without knowing it.
    pub(crate) fn value(self, number: u64, len: usize) -> Vec<u8> {
        let mut value = number.to_le_bytes().to_vec();
        value.push(u8::try_from(self.0).unwrap());
        let filler = number.to_le_bytes()[0];
        value.resize(len.max(STAMP_LEN), filler);
        value
    }

    /// Returns the number of a value; [`None`] if this owner never made such a value.
    pub(crate) fn number(self, value: &[u8]) -> Option<u64> {
        let number = u64::from_le_bytes(*value.first_chunk()?);
        (value == self.value(number, value.len())).then_some(number)
    }
}

/// Returns the counter that all threads share.
pub(crate) fn counter_key() -> Key {
    Key::parse("/state/counter").unwrap()
}

/// Returns the number that the counter has.
pub(crate) fn number_of(value: &[u8]) -> u64 {
    u64::from_le_bytes(value.try_into().unwrap())
}

/// Returns the encrypted prefix. It lies in no thread's own prefix.
fn sealed_prefix() -> Prefix {
    Prefix::parse("/state/sealed").unwrap()
}

fn seal_key() -> SealKey {
    SealKey::new(1, Zeroizing::new([7; 32]))
}

/// Encrypts the prefix and gives every thread its quotas.
pub(crate) fn prepare<D: BlockDevice>(store: &mut Store<D>, seed: u64) {
    store.set_nonces(Box::new(Arc::new(SeededEntropy::new(seed))));
    store.seal_prefix(&sealed_prefix(), seal_key()).unwrap();
    store.set_quota(&Prefix::root(), Quota::default()).unwrap();
    for owner in Owner::all() {
        let quotas = Quotas::default();
        store.set_quota(&owner.prefix(), quotas.own).unwrap();
        store.set_quota(&owner.narrow(), quotas.narrow()).unwrap();
    }
}

/// A value that a thread wrote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Owned {
    pub(crate) value: Vec<u8>,
    pub(crate) revision: Revision,
}

/// The quotas of a thread.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Quotas {
    pub(crate) own: Quota,
    /// Bytes that the small prefix may hold.
    pub(crate) narrow_hard: u64,
}

impl Default for Quotas {
    fn default() -> Self {
        Self { own: Quota::default(), narrow_hard: 200 }
    }
}

impl Quotas {
    pub(crate) fn narrow(&self) -> Quota {
        Quota { hard: Some(self.narrow_hard), ..Quota::default() }
    }
}

/// What a thread knows: its keys, its snapshot, its quotas. Nothing else changes them.
#[derive(Debug)]
pub(crate) struct Model {
    pub(crate) owner: Owner,
    pub(crate) keys: BTreeMap<Key, Owned>,
    pub(crate) snapshot: Option<(Revision, BTreeMap<Key, Owned>)>,
    pub(crate) quotas: Quotas,
}

impl Model {
    pub(crate) fn new(owner: Owner) -> Self {
        Self { owner, keys: BTreeMap::new(), snapshot: None, quotas: Quotas::default() }
    }

    /// Returns the bytes that the keys below a prefix take of its quota.
    pub(crate) fn used(&self, prefix: &Prefix) -> u64 {
        let below = self.keys.iter().filter(|(key, _)| prefix.covers(key));
        below.map(|(key, owned)| charge(key, owned.value.len())).sum()
    }

    /// Compares a store with everything that the thread knows.
    pub(crate) fn check(&self, store: &impl Reader) -> Result<(), String> {
        let mut found = BTreeMap::new();
        for prefix in [self.owner.prefix(), self.owner.sealed()] {
            let page = store.page(&prefix)?;
            for listed in page.entries {
                let key = Key::parse(listed.key).map_err(said)?;
                let stored = store.value(&key).ok_or("a listed key has no value")?;
                let value = match stored.form {
                    Form::Plain => stored.bytes.to_vec(),
                    Form::Sealed => match store.revealed(&key)? {
                        Some(value) => value,
                        // A view has no keys to decrypt with; its revision says which value it is.
                        None => self.keys.get(&key).map(|known| known.value.clone()).unwrap_or_default(),
                    },
                };
                found.insert(key, Owned { value, revision: listed.revision });
            }
        }
        same("the store", &self.keys, &found)?;
        self.check_snapshot(store)?;
        let wanted = [(self.owner.prefix(), self.quotas.own), (self.owner.narrow(), self.quotas.narrow())];
        for (prefix, quota) in wanted {
            let Some(quotas) = store.all_quotas() else { continue };
            let found = quotas.iter().find(|used| used.prefix == prefix).map(|used| used.quota);
            if found != Some(quota) {
                return Err(format!("the quota of {prefix}: known {quota:?}, found {found:?}"));
            }
        }
        Ok(())
    }

    /// Compares the thread's snapshot with what the thread knew when it took it.
    fn check_snapshot(&self, store: &impl Reader) -> Result<(), String> {
        let view = store.snapshot_of(&self.owner.snapshot_name());
        let revision = view.map(|view| view.revision());
        if revision != self.snapshot.as_ref().map(|(revision, _)| *revision) {
            return Err(format!("the snapshot: known {:?}, found {revision:?}", self.snapshot));
        }
        let Some((view, (_, keys))) = view.zip(self.snapshot.as_ref()) else { return Ok(()) };
        let mut found = BTreeMap::new();
        for listed in view.list(&self.owner.prefix(), None, usize::MAX).map_err(said)?.entries {
            let key = Key::parse(listed.key).map_err(said)?;
            let value = view.get(&key).ok_or("a listed key of a snapshot has no value")?;
            found.insert(key, Owned { value: value.bytes.to_vec(), revision: value.revision });
        }
        same("the snapshot", keys, &found)
    }
}

/// What a thread compares its model with: a store, or a view of one.
pub(crate) trait Reader {
    fn value(&self, key: &Key) -> Option<Value<'_>>;
    fn page(&self, prefix: &Prefix) -> Result<Page<'_>, String>;
    fn snapshot_of(&self, name: &SnapshotName) -> Option<SnapshotView<'_>>;
    /// The decrypted value; [`None`] where it cannot be had.
    fn revealed(&self, key: &Key) -> Result<Option<Vec<u8>>, String>;
    fn all_quotas(&self) -> Option<Vec<QuotaUse>>;
}

impl<D: BlockDevice> Reader for Store<D> {
    fn value(&self, key: &Key) -> Option<Value<'_>> {
        self.get(key)
    }
    fn page(&self, prefix: &Prefix) -> Result<Page<'_>, String> {
        self.list(prefix, None, usize::MAX).map_err(said)
    }
    fn snapshot_of(&self, name: &SnapshotName) -> Option<SnapshotView<'_>> {
        self.at(name)
    }
    fn revealed(&self, key: &Key) -> Result<Option<Vec<u8>>, String> {
        Ok(Some(self.reveal(key).map_err(said)?.ok_or("a sealed key has no value")?.to_vec()))
    }
    fn all_quotas(&self) -> Option<Vec<QuotaUse>> {
        Some(self.quotas().collect())
    }
}

impl Reader for View {
    fn value(&self, key: &Key) -> Option<Value<'_>> {
        self.get(key)
    }
    fn page(&self, prefix: &Prefix) -> Result<Page<'_>, String> {
        self.list(prefix, None, usize::MAX).map_err(said)
    }
    fn snapshot_of(&self, name: &SnapshotName) -> Option<SnapshotView<'_>> {
        self.at(name)
    }
    fn revealed(&self, _key: &Key) -> Result<Option<Vec<u8>>, String> {
        Ok(None)
    }
    fn all_quotas(&self) -> Option<Vec<QuotaUse>> {
        None
    }
}

fn said(error: impl std::fmt::Display) -> String {
    error.to_string()
}

/// Names the first key in which two states differ.
fn same(what: &str, known: &BTreeMap<Key, Owned>, found: &BTreeMap<Key, Owned>) -> Result<(), String> {
    let Some(key) = known.keys().chain(found.keys()).find(|key| known.get(key) != found.get(key)) else {
        return Ok(());
    };
    Err(format!("{what} at {key}: known {:?}, found {:?}", known.get(key), found.get(key)))
}

/// Returns the bytes that a key and its value take of a quota.
pub(crate) fn charge(key: &Key, value_len: usize) -> u64 {
    u64::try_from(key.as_str().len() + value_len).unwrap()
}

/// Compares every quota's use with a count of what is below its prefix. Nothing may be in flight.
pub(crate) fn check_quotas<D: BlockDevice>(store: &Store<D>) -> Result<(), String> {
    for used in store.quotas() {
        let (mut bytes, mut keys, mut after) = (0, 0, None);
        loop {
            let page = store.list(&used.prefix, after.as_ref(), usize::MAX).map_err(said)?;
            keys += page.entries.len();
            bytes += page.entries.iter().map(|listed| listed.key.len() + listed.value_len).sum::<usize>();
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        let counted = (u64::try_from(bytes).unwrap(), u64::try_from(keys).unwrap());
        if (used.used_bytes, used.used_keys) != counted {
            return Err(format!("{used:?}, but a recount gives {counted:?} (bytes, keys)"));
        }
    }
    Ok(())
}

/// Checks that a reader finds each thread's group whole: the values of one batch, or none.
pub(crate) fn check_groups(store: &impl Reader) -> Result<(), String> {
    for owner in Owner::all() {
        let numbers = owner.group_keys().map(|key| {
            let value = store.value(&key)?;
            // A value that is not the owner's has a number that no batch has.
            Some(owner.number(value.bytes).unwrap_or(u64::MAX))
        });
        if numbers.iter().any(|number| *number != numbers[0] || *number == Some(u64::MAX)) {
            return Err(format!("the group of {owner:?} is not whole: {numbers:?}"));
        }
    }
    Ok(())
}

/// Opens the bytes that a power cut would have left, with the encrypted prefix unlocked.
pub(crate) fn open_image(
    geometry: media::Geometry,
    bytes: Vec<u8>,
) -> Result<(Store<MemDisk>, Recovery), String> {
    let image = MemDisk::from_image(geometry, bytes).map_err(said)?;
    let (mut store, recovery) = Store::open(image, Access::Read).map_err(said)?;
    unlock(&mut store)?;
    if matches!(recovery.tail, Verdict::Damaged { .. }) || recovery.suspect_keys > 0 {
        return Err(format!("what is durable is damaged: {recovery:?}"));
    }
    Ok((store, recovery))
}

/// Unlocks the encrypted prefix.
pub(crate) fn unlock<D: BlockDevice>(store: &mut Store<D>) -> Result<(), String> {
    store.unlock(&sealed_prefix(), seal_key()).map_err(said)
}

/// Returns the counter's number in a store; 0 before the first swap.
pub(crate) fn counter_in(store: &impl Reader) -> u64 {
    store.value(&counter_key()).map_or(0, |value| number_of(value.bytes))
}

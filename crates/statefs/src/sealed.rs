//! Sealed prefixes: values that only who has the key can read, or change unnoticed.
//!
//! A sealed value, little-endian:
//!
//! | offset | size | field | |
//! |---|---|---|---|
//! | 0 | 1 | version | 1 |
//! | 1 | 4 | key id | of the key it is sealed with |
//! | 5 | 24 | nonce | random, of this value alone |
//! | 29 | *v* | ciphertext | of the value |
//! | 29 + *v* | 16 | tag | XChaCha20-Poly1305 |
//!
//! Associated data are `steadfast value` and a zero byte, version, key id, and the whole path of the key: what is moved to
//! another key does not authenticate. They do not name the store, so backup, restore and compaction keep what is sealed as it
//! is.
//!
//! That a prefix is sealed is a record under the key `/sealed` + prefix. Its value is the version, 1, the number of keys, 1
//! or 2, and for each key 44 bytes: key id (4), nonce (24) and tag (16) of nothing at all, sealed with it and `steadfast
//! prefix`, a zero byte, version, key id and prefix as associated data. So a wrong key is noticed before it is used. New
//! values are sealed with the first key; the second is there while a rotation runs.
//!
//! Where damage took the record of a prefix, its values are there, and it is not known which prefix they belong to: it is an
//! ancestor of each of them (or the key itself), below which nothing is plain. The widest such ancestors are the **lost
//! prefixes**. What would be plain below one of them is refused until the record is put back ([`Store::restore_prefix`]), or
//! the sealed values are deleted.
//!
//! Invariants
//! - nothing plain is ever written below a sealed prefix: [`Sealing::admit`] sees every body.
//! - no value is sealed with a key that is not in the record of its prefix; the record is durable first.
//! - sealed prefixes do not lie in each other. Of two records that say otherwise the newer is right: the other one's deletion
//!   was lost.
//! - every sealed value lies below a sealed prefix or a lost one.
//! - a nonce comes fresh from the passed-in source for every value that is sealed, and is never derived from anything that
//!   could return.
//!
//! What it does not promise: who can write to the device can put back older sealed values of the same key, or take a prefix
//! and its values away. Lengths and names of keys are not hidden.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::ops::Bound;

use chacha20poly1305::aead::inout::InOutBuf;
use chacha20poly1305::{AeadInOut, KeyInit, XChaCha20Poly1305};
use media::BlockDevice;
use zeroize::{ZeroizeOnDrop, Zeroizing};

use crate::contents::Contents;
use crate::error::Error;
use crate::heads::common_len;
use crate::history::charged;
use crate::index::{Kept, Totals};
use crate::key::{self, Key, Prefix, SEALED_ROOT};
use crate::nonces::{NONCE_LEN, NonceSupply, Nonces};
use crate::record::{Form, Record, Revision};
use crate::settings::{own_key, own_records_within};
use crate::store::Store;

/// How many sealed prefixes there may be.
pub const SEALED_PREFIXES_MAX: usize = 64;

/// How much longer a value is when it is sealed. Below a sealed prefix a value has at most 65,536 - 45 = 65,491 bytes.
pub const SEALED_OVERHEAD: u32 = 45;

const VERSION: u8 = 1;
const NONCE_AT: usize = 5;
const HEADER_LEN: usize = 29;
const TAG_LEN: usize = 16;
const CHECK_LEN: usize = 44;

/// Bytes of an empty value when it is sealed.
pub(crate) const SEALED_EMPTY_LEN: usize = HEADER_LEN + TAG_LEN;

/// Bytes of the record of a prefix while a rotation runs: the longest value that the store keeps for itself.
pub(crate) const OWN_VALUE_LEN_MAX: usize = 2 + 2 * CHECK_LEN;
const _: () = assert!(NONCE_LEN == HEADER_LEN - NONCE_AT, "a nonce fills the rest of the header");

const _: () = assert!(HEADER_LEN + TAG_LEN == 45, "what SEALED_OVERHEAD says");

/// Bytes of records that a step of a rotation writes at most, where one record has no more.
const STEP_LEN: usize = 64 << 10;

/// A key to seal with, and its name. It is zeroed when it is let go.
#[derive(Clone)]
pub struct SealKey {
    id: u32,
    bytes: Zeroizing<[u8; 32]>,
}

impl SealKey {
    /// The key with these random bytes. `id` says which one it is; the keys of a prefix differ in it.
    #[must_use]
    pub fn new(id: u32, bytes: Zeroizing<[u8; 32]>) -> Self {
        Self { id, bytes }
    }

    /// Which one it is.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.id
    }

    fn cipher(&self) -> XChaCha20Poly1305 {
        XChaCha20Poly1305::new((&*self.bytes).into())
    }

    /// Encrypts in place; the tag.
    fn lock(&self, nonce: &[u8; NONCE_LEN], about: &[u8], bytes: &mut [u8]) -> Result<[u8; TAG_LEN], Error> {
        let sealed = self.cipher().encrypt_inout_detached(nonce.into(), about, InOutBuf::from(bytes));
        sealed.map(Into::into).map_err(|_| Error::NoRandom)
    }

    /// Decrypts in place, if it is what was encrypted.
    fn open(&self, nonce: &[u8; NONCE_LEN], about: &[u8], bytes: &mut [u8], tag: &[u8; TAG_LEN]) -> bool {
        let tag = tag.into();
        self.cipher().decrypt_inout_detached(nonce.into(), about, InOutBuf::from(bytes), tag).is_ok()
    }
}

impl fmt::Debug for SealKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SealKey").field("id", &self.id).finish_non_exhaustive()
    }
}

impl ZeroizeOnDrop for SealKey {}

/// What a step of a rotation came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rotation {
    /// There is more to do.
    Running,
    /// Every current value is sealed with the new key. Only a snapshot from before, and a backup, still need the old one.
    Finished,
}

/// What tells the right key from a wrong one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Check {
    id: u32,
    nonce: [u8; NONCE_LEN],
    tag: [u8; TAG_LEN],
}

impl Check {
    fn fits(&self, key: &SealKey, prefix: &Prefix) -> bool {
        self.id == key.id
            && key.open(&self.nonce, &about("steadfast prefix", key.id, prefix.as_str()), &mut [], &self.tag)
    }
}

/// A prefix below which nothing is plain.
#[derive(Debug)]
struct Sealed {
    prefix: Prefix,
    current: Check,
    /// Of the key that a rotation replaces.
    retiring: Option<Check>,
    unlocked: Vec<SealKey>,
    /// The last key that the rotation has looked at.
    rotated_to: Option<Box<str>>,
    /// Bytes of the longest record that the rotation writes.
    rotated_len: usize,
}

/// All sealed prefixes, in order.
#[derive(Default)]
pub(crate) struct Sealing {
    prefixes: Vec<Sealed>,
    /// Lost prefixes: they do not lie in each other, nor in sealed ones.
    lost: Vec<Prefix>,
    pub(crate) nonces: NonceSupply,
}

impl fmt::Debug for Sealing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sealing")
            .field("prefixes", &self.prefixes)
            .field("lost", &self.lost)
            .finish_non_exhaustive()
    }
}

/// Associated data.
fn about(what: &str, id: u32, path: &str) -> Vec<u8> {
    [what.as_bytes(), &[0, VERSION], &id.to_le_bytes(), path.as_bytes()].concat()
}

impl Sealed {
    fn encode(current: &Check, retiring: Option<&Check>) -> Vec<u8> {
        let mut bytes = alloc::vec![VERSION, if retiring.is_some() { 2 } else { 1 }];
        for check in [Some(current), retiring].into_iter().flatten() {
            bytes.extend_from_slice(&check.id.to_le_bytes());
            bytes.extend_from_slice(&check.nonce);
            bytes.extend_from_slice(&check.tag);
        }
        bytes
    }

    /// What a record says of the keys of a prefix.
    fn decode(bytes: &[u8]) -> Option<(Check, Option<Check>)> {
        let (head, checks) = bytes.split_first_chunk()?;
        let (checks, rest) = checks.as_chunks::<CHECK_LEN>();
        let mut checks = checks.iter().map(|bytes| {
            let (id, rest) = bytes.split_first_chunk()?;
            let (nonce, rest) = rest.split_first_chunk()?;
            Some(Check { id: u32::from_le_bytes(*id), nonce: *nonce, tag: *rest.first_chunk()? })
        });
        let (current, retiring) = (checks.next()??, checks.next());
        let is_valid = match (head, retiring.flatten()) {
            ([VERSION, 1], None) => true,
            ([VERSION, 2], Some(retiring)) => retiring.id != current.id,
            ([_, _], _) => false,
        };
        (is_valid && rest.is_empty() && checks.next().is_none()).then_some((current, retiring.flatten()))
    }

    fn key(&self, id: u32) -> Result<&SealKey, Error> {
        let found = self.unlocked.iter().find(|key| key.id == id);
        found.ok_or_else(|| Error::Locked { prefix: self.prefix.clone(), key_id: id })
    }

    fn knows(&self, id: u32) -> bool {
        self.current.id == id || self.retiring.is_some_and(|check| check.id == id)
    }

    /// Takes a key in, if it is one of the prefix.
    fn unlock(&mut self, key: SealKey) -> Result<(), Error> {
        let fits =
            [Some(self.current), self.retiring].iter().flatten().any(|check| check.fits(&key, &self.prefix));
        if !fits {
            return Err(Error::WrongKey { prefix: self.prefix.clone(), key_id: key.id });
        }
        if self.key(key.id).is_err() {
            self.unlocked.try_reserve(1).map_err(|_| Error::NoMemory { len: size_of::<SealKey>() })?;
            self.unlocked.push(key);
        }
        Ok(())
    }

    /// Decrypts a value.
    fn reveal(&self, key: &str, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, Error> {
        let parts = SealedValue::of(sealed).filter(|parts| self.knows(parts.id));
        let parts = parts.ok_or_else(|| Error::NotAuthentic { key: Key::trusted(key) })?;
        parts.open(key, self.key(parts.id)?)
    }
}

/// The parts of a sealed value.
#[derive(Clone, Copy)]
struct SealedValue<'v> {
    id: u32,
    nonce: [u8; NONCE_LEN],
    text: &'v [u8],
    tag: [u8; TAG_LEN],
}

impl<'v> SealedValue<'v> {
    /// Returns the parts; [`None`] where the bytes are not a sealed value.
    fn of(sealed: &'v [u8]) -> Option<Self> {
        let (header, rest) = sealed.split_first_chunk::<HEADER_LEN>()?;
        let (text, tag) = rest.split_last_chunk::<TAG_LEN>()?;
        let (id, nonce) = (*header.get(1..)?.first_chunk()?, *header.last_chunk()?);
        (header.first() == Some(&VERSION)).then_some(Self {
            id: u32::from_le_bytes(id),
            nonce,
            text,
            tag: *tag,
        })
    }

    /// Decrypts it with the key that it names.
    ///
    /// # Errors
    /// [`Error::NotAuthentic`]; [`Error::NoMemory`].
    fn open(&self, key: &str, with: &SealKey) -> Result<Zeroizing<Vec<u8>>, Error> {
        let (mut value, len) = (Zeroizing::new(Vec::new()), self.text.len());
        value.try_reserve_exact(len).map_err(|_| Error::NoMemory { len })?;
        value.extend_from_slice(self.text);
        if with.open(&self.nonce, &about("steadfast value", self.id, key), &mut value, &self.tag) {
            Ok(value)
        } else {
            Err(Error::NotAuthentic { key: Key::trusted(key) })
        }
    }
}

/// Whether one of two prefixes lies in the other.
fn overlap(one: &Prefix, other: &Prefix) -> bool {
    one.covers_text(other.as_str()) || other.covers_text(one.as_str())
}

/// The current values below a prefix.
fn below<'i>(index: &'i Contents, prefix: &Prefix) -> impl Iterator<Item = Kept<'i>> {
    let all = index.from(Bound::Included(prefix.as_str()));
    let starts = all.take_while(|kept| kept.key().starts_with(prefix.as_str()));
    starts.filter(|kept| prefix.covers_text(kept.key()))
}

/// The values below a prefix that are sealed with the key of this id.
fn sealed_with<'i>(index: &'i Contents, prefix: &Prefix, id: u32) -> impl Iterator<Item = Kept<'i>> {
    below(index, prefix).filter(move |kept| {
        kept.form() == Form::Sealed && SealedValue::of(kept.value()).is_some_and(|parts| parts.id == id)
    })
}

/// Bytes of the longest record among the values that are sealed with this key.
fn longest_old(index: &Contents, prefix: &Prefix, id: u32) -> usize {
    sealed_with(index, prefix, id).map(|kept| kept.record_len()).max().unwrap_or(0)
}

/// Room that is set aside because of a record: that of a prefix with one key may become one with two.
pub(crate) fn set_aside_for(key: &str, record: Totals) -> Totals {
    let key_len = u64::try_from(key.len()).unwrap_or(u64::MAX);
    let value_len = usize::try_from(record.bytes.saturating_sub(key_len)).unwrap_or(usize::MAX);
    let len = if key.starts_with(SEALED_ROOT) { OWN_VALUE_LEN_MAX.saturating_sub(value_len) } else { 0 };
    let len = u64::try_from(len).unwrap_or(0);
    Totals { keys: 0, bytes: len, record_bytes: len }
}

/// Bytes of the longest ancestor of `key`, itself included, in which `other` lies.
fn shared_len(key: &str, other: &str) -> usize {
    let (key, other) = (key.as_bytes(), other.as_bytes());
    let len = common_len(key, other);
    match (key.get(len), other.get(len)) {
        (None | Some(b'/'), None | Some(b'/')) => len,
        (_, _) => key.iter().take(len).rposition(|byte| *byte == b'/').unwrap_or(0),
    }
}

/// Bytes of the ancestor of `key` that has one component more than the one of `len` bytes.
fn next_len(key: &str, len: usize) -> usize {
    let rest = key.as_bytes().iter().skip(len + 1);
    rest.take_while(|byte| **byte != b'/').count() + (len + 1).min(key.len())
}

/// Returns the widest prefix in which a sealed value lies, and nothing plain and no sealed prefix; the key itself where
/// there is no such prefix.
///
/// What is found plain makes the prefix narrower, and the search goes on from there: it passes over the index once at most.
fn widest(index: &Contents, prefixes: &[Sealed], key: &str) -> Prefix {
    let narrower = |len: usize, other: &str| len.max(next_len(key, shared_len(key, other)));
    let root_len = Prefix::root().as_str().len();
    let mut len = prefixes.iter().fold(root_len, |len, sealed| narrower(len, sealed.prefix.as_str()));
    let mut from = "";
    loop {
        let prefix = Prefix::from(Key::trusted(key.get(..len).unwrap_or(key)));
        let start = Bound::Included(from.max(prefix.as_str()));
        let mut all = index.from(start).take_while(|kept| kept.key().starts_with(prefix.as_str()));
        let plain = all.find(|kept| kept.form() == Form::Plain && prefix.covers_text(kept.key()));
        match plain.filter(|_| len < key.len()) {
            Some(kept) => (len, from) = (narrower(len, kept.key()), kept.key()),
            None => return prefix,
        }
    }
}

/// Returns the lost prefixes: the root, where there would be too many.
fn find_lost(index: &Contents, prefixes: &[Sealed]) -> Vec<Prefix> {
    let mut lost: Vec<Prefix> = Vec::new();
    if !index.has_sealed() {
        return lost;
    }
    for kept in index.from(key::first_of_users()).filter(|kept| kept.form() == Form::Sealed) {
        let key = kept.key();
        let is_below = |prefix: &Prefix| prefix.covers_text(key);
        if prefixes.iter().any(|sealed| is_below(&sealed.prefix)) || lost.iter().any(is_below) {
            continue;
        }
        if lost.len() >= SEALED_PREFIXES_MAX {
            return alloc::vec![Prefix::root()];
        }
        lost.push(widest(index, prefixes, key));
    }
    lost
}

impl Sealing {
    /// Loads the sealed prefixes from the index. None of them is unlocked.
    ///
    /// # Errors
    /// [`Error::BadSetting`]; [`Error::OverLimit`]; [`Error::NoMemory`].
    pub(crate) fn load(index: &Contents) -> Result<Self, Error> {
        let mut sealing = Self::default();
        let mut revisions: Vec<Revision> = Vec::new();
        for kept in own_records_within(index, SEALED_ROOT, "sealed prefixes", SEALED_PREFIXES_MAX)? {
            let bad = || Error::BadSetting { key: kept.key().into() };
            let prefix =
                Prefix::parse(kept.key().strip_prefix(SEALED_ROOT).unwrap_or("")).map_err(|_| bad())?;
            let (current, retiring) = Sealed::decode(kept.value()).ok_or_else(bad)?;
            sealing.reserve()?;
            let rotated_len = retiring.map_or(0, |old| longest_old(index, &prefix, old.id));
            let unlocked = Vec::new();
            let sealed = Sealed { prefix, current, retiring, unlocked, rotated_to: None, rotated_len };
            sealing.prefixes.push(sealed);
            revisions.push(kept.revision());
        }
        let is_newest = |nth: usize| {
            let all = sealing.prefixes.iter().zip(&revisions);
            let mut newer =
                all.filter(|(_, revision)| revisions.get(nth).is_some_and(|this| this < revision));
            let prefix = sealing.prefixes.get(nth).map(|sealed| &sealed.prefix);
            prefix.is_some_and(|prefix| newer.all(|(other, _)| !overlap(prefix, &other.prefix)))
        };
        let newest: Vec<bool> = (0..sealing.prefixes.len()).map(is_newest).collect();
        let mut newest = newest.into_iter();
        sealing.prefixes.retain(|_| newest.next().unwrap_or(true));
        sealing.lost = find_lost(index, &sealing.prefixes);
        Ok(sealing)
    }

    fn reserve(&mut self) -> Result<(), Error> {
        self.prefixes.try_reserve(1).map_err(|_| Error::NoMemory { len: size_of::<Sealed>() })
    }

    /// The sealed prefix that a key lies in.
    fn of(&self, key: &str) -> Option<&Sealed> {
        self.prefixes.iter().find(|sealed| sealed.prefix.covers_text(key))
    }

    /// Room that is set aside for records of prefixes that may become longer.
    pub(crate) fn set_aside(&self) -> Totals {
        let count = self.prefixes.iter().filter(|sealed| sealed.retiring.is_none()).count();
        let len = u64::try_from(count.saturating_mul(CHECK_LEN)).unwrap_or(u64::MAX);
        Totals { keys: 0, bytes: len, record_bytes: len }
    }

    /// Bytes of the longest record that a rotation that has begun writes.
    pub(crate) fn rotated_len_max(&self) -> usize {
        self.prefixes.iter().map(|sealed| sealed.rotated_len).max().unwrap_or(0)
    }

    /// Whether exactly this prefix is sealed.
    pub(crate) fn has(&self, prefix: &str) -> bool {
        self.prefixes.iter().any(|sealed| sealed.prefix.as_str() == prefix)
    }

    pub(crate) fn are_none(&self) -> bool {
        self.prefixes.is_empty()
    }

    /// Whether values of this key are sealed.
    pub(crate) fn covers(&self, key: &str) -> bool {
        self.of(key).is_some()
    }

    /// How many records of a body have values that are sealed when they are admitted, each with a nonce.
    #[cfg(feature = "std")]
    pub(crate) fn nonces_for<'b>(&self, records: impl Iterator<Item = Record<'b>>) -> usize {
        if self.are_none() { 0 } else { records.filter(|record| self.would_be_plain(record)).count() }
    }

    /// Whether a record would put something plain where nothing is.
    pub(crate) fn would_be_plain(&self, record: &Record<'_>) -> bool {
        match record {
            Record::Put { key, form: Form::Plain, .. } | Record::Kept { key, form: Form::Plain, .. } => {
                self.covers(key)
            }
            Record::Put { .. } | Record::Kept { .. } | Record::Past { .. } | Record::Delete { .. } => false,
        }
    }

    /// Refuses a body with a plain value below a sealed prefix or a lost one.
    ///
    /// Whatever builds a body seals values below a sealed prefix; this keeps one that was left plain off the medium. A lost
    /// prefix is forgotten when a value is put there after all its sealed values have been deleted.
    ///
    /// # Errors
    /// [`Error::Locked`]; [`Error::PrefixRecordLost`].
    pub(crate) fn admit<'b>(
        &mut self,
        records: impl Iterator<Item = Record<'b>> + Clone,
        index: &Contents,
    ) -> Result<(), Error> {
        if !self.prefixes.is_empty() {
            let plain = records.clone().find(|record| self.would_be_plain(record));
            if let Some(sealed) = plain.and_then(|record| self.of(record.key())) {
                return Err(Error::Locked { prefix: sealed.prefix.clone(), key_id: sealed.current.id });
            }
        }
        if self.lost.is_empty() {
            return Ok(());
        }
        let plain = records.filter_map(|record| match record {
            Record::Put { key, form: Form::Plain, .. } => Some(key),
            Record::Put { .. } | Record::Delete { .. } | Record::Kept { .. } | Record::Past { .. } => None,
        });
        for key in plain {
            self.refuse_lost(index, |lost| lost.covers_text(key))?;
        }
        Ok(())
    }

    /// Refuses what concerns a lost prefix, and forgets such a prefix if it has no sealed value any more.
    fn refuse_lost(&mut self, index: &Contents, concerns: impl Fn(&Prefix) -> bool) -> Result<(), Error> {
        while let Some(at) = self.lost.iter().position(&concerns) {
            let prefix = self.lost.remove(at);
            let is_lost = |kept: Kept<'_>| kept.form() == Form::Sealed && !self.covers(kept.key());
            if below(index, &prefix).any(is_lost) {
                self.lost.insert(at, prefix.clone());
                return Err(Error::PrefixRecordLost { prefix });
            }
        }
        Ok(())
    }

    /// A value as it is stored.
    pub(crate) fn seal(&mut self, key: &str, value: &[u8]) -> Result<Vec<u8>, Error> {
        let sealed = self.of(key).ok_or(Error::NotSealed)?;
        let seal_key = sealed.key(sealed.current.id)?.clone();
        let nonce = self.nonces.next()?;
        // All of it at once: growing would leave a copy of the plain value behind.
        let len = HEADER_LEN + value.len() + TAG_LEN;
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(len).map_err(|_| Error::NoMemory { len })?;
        bytes.push(VERSION);
        bytes.extend_from_slice(&seal_key.id.to_le_bytes());
        bytes.extend_from_slice(&nonce);
        bytes.extend_from_slice(value);
        let text = bytes.get_mut(HEADER_LEN..).unwrap_or(&mut []);
        let tag = seal_key.lock(&nonce, &about("steadfast value", seal_key.id, key), text)?;
        bytes.extend_from_slice(&tag);
        Ok(bytes)
    }

    fn check_of(&mut self, key: &SealKey, prefix: &Prefix) -> Result<Check, Error> {
        let nonce = self.nonces.next()?;
        let tag = key.lock(&nonce, &about("steadfast prefix", key.id, prefix.as_str()), &mut [])?;
        Ok(Check { id: key.id, nonce, tag })
    }

    /// Adds a prefix, or replaces it. Room for it has been reserved.
    fn insert(&mut self, sealed: Sealed) {
        match self.prefixes.binary_search_by(|other| other.prefix.cmp(&sealed.prefix)) {
            Ok(at) => {
                if let Some(old) = self.prefixes.get_mut(at) {
                    *old = sealed;
                }
            }
            Err(at) => self.prefixes.insert(at, sealed),
        }
    }

    fn exactly(&mut self, prefix: &Prefix) -> Result<&mut Sealed, Error> {
        self.prefixes.iter_mut().find(|sealed| sealed.prefix == *prefix).ok_or(Error::NotSealed)
    }
}

impl<D: BlockDevice> Store<D> {
    /// Says where nonces come from. Without it nothing can be put below a sealed prefix; reading needs none.
    pub fn set_nonces(&mut self, nonces: Box<dyn Nonces>) {
        self.sealing.nonces.set_source(nonces);
    }

    /// Seals a prefix: from now on what is put below it is encrypted, and it is unlocked with this key.
    ///
    /// Nothing may be there yet, in a snapshot neither. Values that were plain would stay on the medium for as long as they
    /// are not overwritten, and a compaction copies what a snapshot has, so sealing them afterwards would promise too much:
    /// seal the prefix first, or move them, delete the old ones, drop the snapshots that have them, and [`Store::scrub`].
    ///
    /// # Durability
    /// As [`Store::put`].
    ///
    /// # Errors
    /// [`Error::SealedAlready`]: it lies in a sealed prefix, or one in it. [`Error::PrefixInUse`]: there are keys below it.
    /// [`Error::PrefixInSnapshot`]: a snapshot has a plain value below it. [`Error::PrefixRecordLost`]: it overlaps a lost
    /// prefix ([`Store::lost_prefixes`]). [`Error::PrefixTooLong`], [`Error::TooManySealed`], [`Error::NoRandom`]. Otherwise as [`Store::put`].
    pub fn seal_prefix(&mut self, prefix: &Prefix, key: SealKey) -> Result<Revision, Error> {
        if self.sealing.prefixes.iter().any(|other| overlap(prefix, &other.prefix)) {
            return Err(Error::SealedAlready);
        }
        self.sealing.refuse_lost(&self.index, |lost| overlap(prefix, lost))?;
        if self.sealing.prefixes.len() >= SEALED_PREFIXES_MAX {
            return Err(Error::TooManySealed { limit: SEALED_PREFIXES_MAX });
        }
        self.check_unused(prefix)?;
        self.check_no_plain_past(prefix)?;
        let name = own_key(SEALED_ROOT, prefix)?;
        let current = self.sealing.check_of(&key, prefix)?;
        self.sealing.reserve()?;
        let revision = self.commit_sealed(&name, &current, None)?;
        let prefix = prefix.clone();
        let unlocked = alloc::vec![key];
        self.sealing.insert(Sealed {
            prefix,
            current,
            retiring: None,
            unlocked,
            rotated_to: None,
            rotated_len: 0,
        });
        Ok(revision)
    }

    /// Makes a sealed prefix an ordinary one again, below which nothing may be. A snapshot may have sealed values below it:
    /// a snapshot has the record of the prefix as well, and a backup of it, restored, has both.
    ///
    /// # Durability
    /// As [`Store::put`].
    ///
    /// # Errors
    /// [`Error::NotSealed`], [`Error::PrefixInUse`]. Otherwise as [`Store::delete`].
    pub fn unseal_prefix(&mut self, prefix: &Prefix) -> Result<Revision, Error> {
        self.sealing.exactly(prefix)?;
        self.check_unused(prefix)?;
        let name = own_key(SEALED_ROOT, prefix)?;
        let revision = self.commit_records(&[Record::Delete { key: &name }])?;
        self.sealing.prefixes.retain(|sealed| sealed.prefix != *prefix);
        Ok(revision)
    }

    /// Whether a value is plain and older than the record of the sealed prefix it lies in.
    pub(crate) fn is_from_before_sealing(&self, kept: &Kept<'_>) -> bool {
        let sealed = self.sealing.of(kept.key()).filter(|_| kept.form() == Form::Plain);
        let record = sealed.and_then(|sealed| own_key(SEALED_ROOT, &sealed.prefix).ok());
        let record = record.and_then(|name| self.index.get(&name).map(|record| record.revision()));
        record.is_some_and(|sealed| kept.revision() < sealed)
    }

    fn check_unused(&self, prefix: &Prefix) -> Result<(), Error> {
        match below(&self.index, prefix).next() {
            Some(_) => Err(Error::PrefixInUse),
            None => Ok(()),
        }
    }

    /// Refuses a prefix below which a snapshot has a plain value.
    fn check_no_plain_past(&self, prefix: &Prefix) -> Result<(), Error> {
        let all = self.index.versions(Bound::Included(prefix.as_str()));
        let below = all.take_while(|versions| versions.key.starts_with(prefix.as_str()));
        let mut past = below
            .filter(|versions| prefix.covers_text(versions.key))
            .flat_map(|versions| versions.past_records(self.index.arena()));
        match past.find(|record| matches!(record, Record::Past { form: Form::Plain, .. })) {
            Some(record) => Err(Error::PrefixInSnapshot { key: Key::trusted(record.key()) }),
            None => Ok(()),
        }
    }

    /// Lets values below a sealed prefix be read and put. While a rotation runs there are two keys: the new one is needed
    /// to put, and each to read what is sealed with it.
    ///
    /// # Errors
    /// [`Error::NotSealed`]; [`Error::WrongKey`]: it is not a key of this prefix.
    pub fn unlock(&mut self, prefix: &Prefix, key: SealKey) -> Result<(), Error> {
        self.sealing.exactly(prefix)?.unlock(key)
    }

    /// Forgets the keys of a prefix, and zeroes them.
    ///
    /// # Errors
    /// [`Error::NotSealed`].
    pub fn lock(&mut self, prefix: &Prefix) -> Result<(), Error> {
        self.sealing.exactly(prefix)?.unlocked.clear();
        Ok(())
    }

    /// The sealed prefixes, and the id of the key that each needs to be written to.
    pub fn sealed_prefixes(&self) -> impl Iterator<Item = (&Prefix, u32)> {
        self.sealing.prefixes.iter().map(|sealed| (&sealed.prefix, sealed.current.id))
    }

    /// Decrypts the value of a key; [`None`] if the key has none. Only for keys below a sealed prefix: [`Store::get`] is
    /// for the others.
    ///
    /// What this returns was put by a caller that had the key of the prefix. That is why a plain value is refused where no
    /// prefix is sealed: whoever can write to the device can take the record of a prefix away and put a plain value in
    /// place of a sealed one.
    ///
    /// # Errors
    /// [`Error::Locked`]: the prefix is not unlocked with the key that the value is sealed with. [`Error::NotAuthentic`]:
    /// the value is not what was put under this key; a plain value below a sealed prefix never is. [`Error::NotSealed`]: the
    /// key lies below no sealed prefix. [`Error::NoMemory`].
    pub fn reveal(&self, key: &Key) -> Result<Option<Zeroizing<Vec<u8>>>, Error> {
        let Some(kept) = self.index.get(key.as_str()) else { return Ok(None) };
        match (self.sealing.of(key.as_str()), kept.form()) {
            (Some(sealed), Form::Sealed) => sealed.reveal(key.as_str(), kept.value()).map(Some),
            (Some(_), Form::Plain) => Err(Error::NotAuthentic { key: key.clone() }),
            (None, Form::Sealed | Form::Plain) => Err(Error::NotSealed),
        }
    }

    /// Decrypts the value of a key with a key that is given, whatever the store knows of sealed prefixes; [`None`] if the key
    /// has no value. This reads values whose prefix is lost ([`Store::lost_prefixes`]).
    ///
    /// # Errors
    /// [`Error::NotSealed`]: the value is plain. [`Error::Locked`]: it names another key than the one that is given.
    /// [`Error::NotAuthentic`]: it is not what was sealed with this key and put under this name. [`Error::NoMemory`].
    pub fn reveal_with(&self, key: &Key, with: &SealKey) -> Result<Option<Zeroizing<Vec<u8>>>, Error> {
        let Some(kept) = self.index.get(key.as_str()) else { return Ok(None) };
        if kept.form() == Form::Plain {
            return Err(Error::NotSealed);
        }
        let parts = SealedValue::of(kept.value()).ok_or_else(|| Error::NotAuthentic { key: key.clone() })?;
        if parts.id != with.id {
            return Err(Error::Locked { prefix: key.clone().into(), key_id: parts.id });
        }
        parts.open(key.as_str(), with).map(Some)
    }

    /// Lists the prefixes with sealed values of which no record says that they are sealed: damage took it. Where that is in
    /// another store than this one, [`crate::salvage()`] has passed on the values without it.
    ///
    /// The prefix that was sealed is one of these, or lies in one of these: they are the widest prefixes with sealed values
    /// in which nothing is plain. Beyond [`SEALED_PREFIXES_MAX`] of them it is the root. A value cannot be put there
    /// ([`Error::PrefixRecordLost`]), because it would be plain on the medium; reading and deleting work. When all sealed
    /// values below one are deleted, the next put below it works, and it is not listed any more.
    /// [`Store::restore_prefix`] puts the record back, with the key.
    pub fn lost_prefixes(&self) -> impl Iterator<Item = &Prefix> {
        self.sealing.lost.iter()
    }

    /// Puts back the record of a sealed prefix that damage took, with the key of the prefix, and unlocks it. Afterwards
    /// everything works as before. If a rotation was running, give its old key as `retiring`, and go on with
    /// [`Store::rotate_step`].
    ///
    /// A record that is there is replaced if a value below the prefix names a key that the record does not: damage took the
    /// record of a rotation, and the older one is in force.
    ///
    /// Every sealed value below the prefix is decrypted once, as a proof that the keys are the right ones. A prefix that is
    /// narrower than the one that was sealed leaves the values beside it without one.
    ///
    /// # Durability
    /// As [`Store::put`].
    ///
    /// # Errors
    /// Nothing is written. [`Error::SealedAlready`]: it overlaps a sealed prefix. [`Error::PrefixInUse`]: there is a plain
    /// value below it; [`Error::PrefixInSnapshot`]: a snapshot has one. [`Error::Locked`]: a value names a key that is
    /// not given. [`Error::WrongKey`]: a key opens none of the values that name it, or both have the same id.
    /// [`Error::NotAuthentic`]: a value cannot be opened, and others can; delete it. [`Error::PrefixTooLong`],
    /// [`Error::TooManySealed`], [`Error::NoRandom`]. Otherwise as [`Store::put`].
    pub fn restore_prefix(
        &mut self,
        prefix: &Prefix,
        current: SealKey,
        retiring: Option<SealKey>,
    ) -> Result<Revision, Error> {
        self.refuse_unless_writable()?;
        if let Some(key) = retiring.as_ref().filter(|key| key.id == current.id) {
            return Err(Error::WrongKey { prefix: prefix.clone(), key_id: key.id });
        }
        let is_unknown_to = |sealed: &Sealed| {
            let mut values = below(&self.index, prefix);
            values.any(|kept| SealedValue::of(kept.value()).is_some_and(|parts| !sealed.knows(parts.id)))
        };
        let is_in_the_way = |other: &Sealed| {
            overlap(prefix, &other.prefix) && !(other.prefix == *prefix && is_unknown_to(other))
        };
        if self.sealing.prefixes.iter().any(is_in_the_way) {
            return Err(Error::SealedAlready);
        }
        if !self.sealing.has(prefix.as_str()) && self.sealing.prefixes.len() >= SEALED_PREFIXES_MAX {
            return Err(Error::TooManySealed { limit: SEALED_PREFIXES_MAX });
        }
        if below(&self.index, prefix).any(|kept| kept.form() == Form::Plain) {
            return Err(Error::PrefixInUse);
        }
        self.check_no_plain_past(prefix)?;
        self.check_opens(prefix, &current)?;
        if let Some(key) = &retiring {
            self.check_opens(prefix, key)?;
        }
        let given = |id: u32| id == current.id || retiring.as_ref().is_some_and(|key| key.id == id);
        for kept in below(&self.index, prefix) {
            let parts = SealedValue::of(kept.value());
            let parts = parts.ok_or_else(|| Error::NotAuthentic { key: Key::trusted(kept.key()) })?;
            if !given(parts.id) {
                return Err(Error::Locked { prefix: prefix.clone(), key_id: parts.id });
            }
        }
        let name = own_key(SEALED_ROOT, prefix)?;
        let (current, current_key) = (self.sealing.check_of(&current, prefix)?, current);
        let retiring_check = retiring.as_ref().map(|key| self.sealing.check_of(key, prefix)).transpose()?;
        self.sealing.reserve()?;
        let revision = self.commit_sealed(&name, &current, retiring_check.as_ref())?;
        let unlocked: Vec<SealKey> = [Some(current_key), retiring].into_iter().flatten().collect();
        let prefix = prefix.clone();
        let rotated_len = retiring_check.map_or(0, |old| longest_old(&self.index, &prefix, old.id));
        let sealed =
            Sealed { prefix, current, retiring: retiring_check, unlocked, rotated_to: None, rotated_len };
        self.sealing.insert(sealed);
        self.sealing.lost = find_lost(&self.index, &self.sealing.prefixes);
        Ok(revision)
    }

    /// Refuses a key that does not open the values below a prefix that name it.
    fn check_opens(&self, prefix: &Prefix, with: &SealKey) -> Result<(), Error> {
        let (mut opened, mut bad) = (0_usize, None);
        for kept in below(&self.index, prefix) {
            let parts = SealedValue::of(kept.value()).filter(|parts| parts.id == with.id);
            match parts.map(|parts| parts.open(kept.key(), with)) {
                Some(Ok(_)) => opened += 1,
                Some(Err(error @ Error::NotAuthentic { .. })) => bad = bad.or(Some(error)),
                Some(Err(error)) => return Err(error),
                None => {}
            }
        }
        match bad {
            Some(_) if opened == 0 => Err(Error::WrongKey { prefix: prefix.clone(), key_id: with.id }),
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    /// Replaces the key of a prefix, and seals every value anew: all of [`Store::begin_rotation`] and
    /// [`Store::rotate_step`].
    ///
    /// # Errors
    /// As these. What was done stays: begin again with the same new key.
    pub fn rotate(&mut self, prefix: &Prefix, new: SealKey) -> Result<(), Error> {
        self.begin_rotation(prefix, new)?;
        while self.rotate_step(prefix)? == Rotation::Running {}
        Ok(())
    }

    /// Gives a prefix a new key; what is put from now on is sealed with it. The old one stays until every value is sealed
    /// anew. Where this rotation had begun before, it goes on.
    ///
    /// A rotation that has begun can be brought to its end on a full store as well: values do not grow by it, and until
    /// it ends no put takes the room that it needs. While a snapshot has the old values, both are kept; keep the old key for
    /// as long as there is such a snapshot or a backup of it.
    ///
    /// # Durability
    /// As [`Store::put`]. After a crash, unlock the prefix with both keys and go on.
    ///
    /// # Errors
    /// [`Error::NotSealed`]; [`Error::RotationRuns`], to another key; [`Error::Locked`]: the prefix is not unlocked;
    /// [`Error::WrongKey`]: the new key has the id of the old one and other bytes. By [`Error::kind`], `NoSpace`: there is no
    /// room for the longest value beside all that is alive, or for what snapshots keep; nothing was written. Otherwise as
    /// [`Store::put`].
    pub fn begin_rotation(&mut self, prefix: &Prefix, new: SealKey) -> Result<(), Error> {
        let sealed = self.sealing.exactly(prefix)?;
        if sealed.current.id == new.id {
            return sealed.unlock(new);
        }
        if sealed.retiring.is_some() {
            return Err(Error::RotationRuns);
        }
        let retiring = sealed.current;
        sealed.key(retiring.id)?;
        sealed.unlocked.try_reserve(1).map_err(|_| Error::NoMemory { len: size_of::<SealKey>() })?;
        let name = own_key(SEALED_ROOT, prefix)?;
        self.check_rotation_fits(prefix, &name, retiring.id)?;
        let current = self.sealing.check_of(&new, prefix)?;
        self.commit_sealed(&name, &current, Some(&retiring))?;
        let rotated_len = longest_old(&self.index, prefix, retiring.id);
        let sealed = self.sealing.exactly(prefix)?;
        sealed.current = current;
        sealed.retiring = Some(retiring);
        sealed.rotated_to = None;
        sealed.rotated_len = rotated_len;
        sealed.unlocked.push(new);
        Ok(())
    }

    /// Refuses a rotation that could not come to its end.
    ///
    /// A value that is sealed anew is as long as before. So it needs no more room than its frame, unless a snapshot has the
    /// old one: then both are kept.
    fn check_rotation_fits(&self, prefix: &Prefix, name: &str, id: u32) -> Result<(), Error> {
        let (live, past) = self.totals_ahead();
        let history = self.index.history();
        let has_snapshots = !history.has_no_snapshots();
        let used = charged(live, past, has_snapshots);
        let replaced = sealed_with(&self.index, prefix, id).chain(self.index.get(name));
        let kept = replaced.filter(|kept| history.keeps(kept.key(), kept.revision()));
        let past = kept.fold(past, |past, kept| past.plus(kept.totals().as_past()));
        let next = charged(live, past, has_snapshots).plus(self.sealing.set_aside());
        let limit = u64::from(self.limits.keys_max);
        if next.keys > limit && next.keys > used.keys {
            return Err(Error::TooManyKeys { limit, used: used.keys, requested: next.keys - used.keys });
        }
        let limit = self.limits.live_bytes_max;
        if next.bytes > limit && has_snapshots {
            return Err(Error::TooManyBytes { limit, used: used.bytes, requested: next.bytes });
        }
        let frame_blocks = self.journal.layout().blocks_of(longest_old(&self.index, prefix, id));
        let limit = self.space.capacity_blocks.min(self.space.capacity_before(frame_blocks));
        let (used, next) = (self.space.blocks_of(used.record_bytes), self.space.blocks_of(next.record_bytes));
        if next > limit {
            return Err(Error::NoSpace { limit, used, requested: next });
        }
        Ok(())
    }

    /// Seals some values anew. Each gets a new revision.
    ///
    /// # Durability
    /// As [`Store::put`].
    ///
    /// # Errors
    /// [`Error::NotSealed`]; [`Error::Locked`]: both keys are needed; [`Error::NotAuthentic`]: a value cannot be read, and
    /// stands in the way until it is deleted or put anew. Otherwise as [`Store::put`].
    pub fn rotate_step(&mut self, prefix: &Prefix) -> Result<Rotation, Error> {
        let sealed = self.sealing.exactly(prefix)?;
        let Some(retiring) = sealed.retiring else { return Ok(Rotation::Finished) };
        let (current, after) = (sealed.current, sealed.rotated_to.take());
        sealed.key(retiring.id)?;
        sealed.key(current.id)?;
        let (keys, last) = self.gather_old(prefix, retiring.id, after.as_deref());
        if keys.is_empty() {
            let name = own_key(SEALED_ROOT, prefix)?;
            self.commit_sealed(&name, &current, None)?;
            let sealed = self.sealing.exactly(prefix)?;
            sealed.retiring = None;
            sealed.rotated_len = 0;
            sealed.unlocked.retain(|key| key.id == current.id);
            return Ok(Rotation::Finished);
        }
        let mut body = Vec::new();
        for key in &keys {
            let Some(value) = self.reveal(key)? else { continue };
            self.encode(&Record::Put { key: key.as_str(), value: &value, form: Form::Plain }, &mut body)?;
        }
        self.commit_body(&body, keys.len())?;
        self.sealing.exactly(prefix)?.rotated_to = last;
        Ok(Rotation::Running)
    }

    /// The next keys whose values are sealed with an old key, as many as go into a step.
    fn gather_old(&self, prefix: &Prefix, id: u32, after: Option<&str>) -> (Vec<Key>, Option<Box<str>>) {
        let (live, past) = self.totals_ahead();
        let used = charged(live, past, !self.index.history().has_no_snapshots());
        let len_max = STEP_LEN.min(self.journal.layout().body_len_max() / 4);
        let len_max = len_max.min(self.space.len_after(used.record_bytes));
        let (mut keys, mut len, mut last) = (Vec::new(), 0, None);
        let start = after.map_or(Bound::Included(prefix.as_str()), Bound::Excluded);
        let below = self.index.from(start).take_while(|kept| kept.key().starts_with(prefix.as_str()));
        for kept in below.filter(|kept| prefix.covers_text(kept.key()) && kept.form() == Form::Sealed) {
            let is_old = kept.value().get(1..NONCE_AT) == Some(&id.to_le_bytes());
            if is_old && len + kept.record_len() > len_max && len > 0 {
                break;
            }
            if is_old {
                len += kept.record_len();
                keys.push(Key::trusted(kept.key()));
                last = Some(kept.key());
            }
        }
        (keys, last.map(Box::from))
    }

    fn commit_sealed(
        &mut self,
        name: &String,
        current: &Check,
        retiring: Option<&Check>,
    ) -> Result<Revision, Error> {
        let value = Sealed::encode(current, retiring);
        self.commit_records(&[Record::Put { key: name, value: &value, form: Form::Plain }])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn zeroes_itself<T: ZeroizeOnDrop>() {}

    #[test]
    fn keys_and_what_is_made_of_them_are_zeroed_when_they_are_let_go() {
        zeroes_itself::<SealKey>();
        zeroes_itself::<XChaCha20Poly1305>();
        zeroes_itself::<Zeroizing<Vec<u8>>>();
    }

    #[test]
    fn a_key_does_not_show_itself() {
        let key = SealKey::new(7, Zeroizing::new([0xab; 32]));
        assert_eq!(alloc::format!("{key:?}"), "SealKey { id: 7, .. }");
    }

    #[test]
    fn the_record_of_a_prefix_reads_back_and_nothing_else_is_taken_for_one() {
        let check = |id| Check { id, nonce: [2; NONCE_LEN], tag: [3; TAG_LEN] };
        let one = Sealed::encode(&check(0x0605_0403), None);
        assert_eq!(one, [&[1, 1, 3, 4, 5, 6][..], &[2; 24], &[3; 16]].concat());
        assert_eq!(Sealed::decode(&one), Some((check(0x0605_0403), None)));
        let two = Sealed::encode(&check(1), Some(&check(2)));
        assert_eq!(Sealed::decode(&two), Some((check(1), Some(check(2)))));
        assert_eq!(Sealed::decode(&Sealed::encode(&check(1), Some(&check(1)))), None);
        for bytes in [&one, &two] {
            for len in 0..bytes.len() {
                assert_eq!(Sealed::decode(&bytes[..len]), None, "{len}");
            }
            assert_eq!(Sealed::decode(&[bytes.as_slice(), &[0]].concat()), None);
            assert_eq!(Sealed::decode(&[&[2][..], &bytes[1..]].concat()), None, "a later version");
        }
        assert_eq!(Sealed::decode(&[&[1, 1][..], &two[2..]].concat()), None);
    }

    /// Key `00 01 .. 1f`, nonce `40 41 .. 57`; the bytes are those of another implementation, which was checked with the
    /// vector of draft-irtf-cfrg-xchacha, A.3.1.
    #[test]
    fn golden_bytes() {
        struct Forty;
        impl Nonces for Forty {
            fn fill(&mut self, bytes: &mut [u8]) -> Result<(), crate::NoRandom> {
                bytes.iter_mut().zip(0x40..).for_each(|(to, from)| *to = from);
                Ok(())
            }
        }
        let mut bytes = [0; 32];
        bytes.iter_mut().zip(0..).for_each(|(to, from)| *to = from);
        let key = SealKey::new(0x0403_0201, Zeroizing::new(bytes));
        let prefix = Prefix::parse("/state/s").unwrap();
        let mut sealing = Sealing::default();
        sealing.nonces.set_source(Box::new(Forty));
        let current = sealing.check_of(&key, &prefix).unwrap();
        assert!(current.fits(&key, &prefix) && !current.fits(&key, &Prefix::root()));
        let unlocked = alloc::vec![key];
        sealing.prefixes.push(Sealed {
            prefix,
            current,
            retiring: None,
            unlocked,
            rotated_to: None,
            rotated_len: 0,
        });
        let sealed = sealing.seal("/state/s/a", b"hello").unwrap();
        assert_eq!(sealed.len(), 5 + usize::try_from(SEALED_OVERHEAD).unwrap());
        assert_eq!(sealed[..NONCE_AT], [1, 1, 2, 3, 4]);
        assert_eq!(sealed[NONCE_AT..HEADER_LEN].first_chunk(), Some(&[0x40, 0x41, 0x42]));
        let hex: String = sealed[HEADER_LEN..].iter().map(|byte| alloc::format!("{byte:02x}")).collect();
        assert_eq!(hex, "bc5c691cbf7e989fd010e80d43976d321b12707d68");
        let of = &sealing.prefixes[0];
        assert_eq!(of.reveal("/state/s/a", &sealed).unwrap().as_slice(), b"hello");
        assert!(matches!(of.reveal("/state/s/b", &sealed), Err(Error::NotAuthentic { .. })));
        for len in 0..sealed.len() {
            assert!(
                matches!(of.reveal("/state/s/a", &sealed[..len]), Err(Error::NotAuthentic { .. })),
                "{len}"
            );
        }
        for bit in 0..sealed.len() * 8 {
            let mut bad = sealed.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(matches!(of.reveal("/state/s/a", &bad), Err(Error::NotAuthentic { .. })), "{bit}");
        }
    }
}

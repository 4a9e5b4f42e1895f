//! [`Ledger`]: how much each app has, and the one place that says whether it may have more.
//!
//! Whoever is about to write asks for a [`Reservation`] first. It is a value: dropped, it gives back what it holds; settled,
//! it becomes what the app has.
//!
//! Invariants
//! - an app uses what its objects are long and what its reservations hold; neither bytes, files nor staged bytes are ever
//!   reserved beyond their limits, not by one, whatever the number of threads.
//! - staged bytes are what reservations hold, and nothing else: whatever is written is staged before it is an object.
//! - a replace holds the new object on top of the old one until it is settled.
//! - memory is for each app that uses something, at most [`APPS_MAX`] of them; none for each object.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::config::Quota;
use crate::error::{Error, Result};

/// How many apps may use something at a time.
pub const APPS_MAX: usize = 1024;

/// What is counted in a quota.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Counted {
    /// Lengths, holes included.
    Bytes,
    /// Objects and staged objects.
    Files,
}

impl std::fmt::Display for Counted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Bytes => "bytes",
            Self::Files => "files",
        })
    }
}

/// Bytes and files.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Amount {
    pub(crate) bytes: u64,
    pub(crate) files: u64,
}

impl Amount {
    /// One object of this length.
    pub(crate) fn object(len: u64) -> Self {
        Self { bytes: len, files: 1 }
    }

    /// [`None`]: more than can be counted.
    pub(crate) fn plus(self, more: Self) -> Option<Self> {
        Some(Self { bytes: self.bytes.checked_add(more.bytes)?, files: self.files.checked_add(more.files)? })
    }
}

/// What a sum of amounts is, some of them taken away.
///
/// It may be less than nothing for a moment: of two replaces of one object, the later may be settled first, and takes away
/// what the earlier one has not added yet. With what is reserved it never is. 2^64 amounts of 2^63 do not overflow it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Balance {
    bytes: i128,
    files: i128,
}

impl Balance {
    fn plus(self, more: Amount) -> Self {
        Self { bytes: self.bytes + i128::from(more.bytes), files: self.files + i128::from(more.files) }
    }

    fn less(self, less: Amount) -> Self {
        Self { bytes: self.bytes - i128::from(less.bytes), files: self.files - i128::from(less.files) }
    }

    /// It is less than nothing only if somebody else has changed what only the store may; the next open counts again.
    fn amount(self) -> Amount {
        let count = |number: i128| u64::try_from(number.max(0)).unwrap_or(u64::MAX);
        Amount { bytes: count(self.bytes), files: count(self.files) }
    }
}

/// How much an app uses, and how much it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// Lengths of objects and staged objects.
    pub bytes: u64,
    /// Objects and staged objects.
    pub files: u64,
    /// Lengths of staged objects alone.
    pub staged_bytes: u64,
    /// Staged objects alone.
    pub staged_files: u64,
    /// The most that `bytes` may be.
    pub bytes_max: u64,
    /// The most that `files` may be.
    pub files_max: u64,
    /// The most that `staged_bytes` may be.
    pub staged_bytes_max: u64,
}

/// What one app has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Account {
    objects: Balance,
    reserved: Balance,
}

impl Account {
    fn used(&self) -> Amount {
        let Self { objects, reserved } = *self;
        Balance { bytes: objects.bytes + reserved.bytes, files: objects.files + reserved.files }.amount()
    }
}

/// The accounts of all apps.
#[derive(Debug)]
pub(crate) struct Ledger {
    bytes_max: u64,
    files_max: u64,
    staged_bytes_max: u64,
    accounts: Mutex<BTreeMap<Box<str>, Account>>,
}

/// What was promised to one writer and is not an object yet.
#[derive(Debug)]
#[must_use = "dropped, it gives back what it holds"]
pub(crate) struct Reservation {
    ledger: Arc<Ledger>,
    app: Box<str>,
    held: Amount,
}

impl Ledger {
    pub(crate) fn new(quota: &Quota) -> Arc<Self> {
        Arc::new(Self {
            bytes_max: quota.per_app_bytes.get(),
            files_max: quota.per_app_files.get(),
            staged_bytes_max: quota.staged_bytes_max(),
            accounts: Mutex::new(BTreeMap::new()),
        })
    }

    /// What was counted at open. It may be more than a limit, which somebody has lowered: then there is no more until enough
    /// is removed.
    pub(crate) fn load(&self, app: &str, objects: Amount) {
        self.change(app, |account| account.objects = Balance::default().plus(objects));
    }

    /// Promises that much more, or says why not.
    pub(crate) fn reserve(self: &Arc<Self>, app: &str, wanted: Amount) -> Result<Reservation> {
        self.hold(app, wanted)?;
        Ok(Reservation { ledger: Arc::clone(self), app: app.into(), held: wanted })
    }

    /// Objects are gone.
    pub(crate) fn forget(&self, app: &str, gone: Amount) {
        self.change(app, |account| account.objects = account.objects.less(gone));
    }

    pub(crate) fn usage(&self, app: &str) -> Usage {
        let account = self.lock().get(app).copied().unwrap_or_default();
        let (used, staged) = (account.used(), account.reserved.amount());
        Usage {
            bytes: used.bytes,
            files: used.files,
            staged_bytes: staged.bytes,
            staged_files: staged.files,
            bytes_max: self.bytes_max,
            files_max: self.files_max,
            staged_bytes_max: self.staged_bytes_max,
        }
    }

    /// Nothing in here panics with the lock held, and were it so, every account is whole between two of its statements.
    fn lock(&self) -> MutexGuard<'_, BTreeMap<Box<str>, Account>> {
        self.accounts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The check and the charge, under one lock.
    fn hold(&self, app: &str, wanted: Amount) -> Result<()> {
        let mut accounts = self.lock();
        let account = accounts.get(app).copied();
        if account.is_none() && accounts.len() >= APPS_MAX {
            return Err(Error::TooManyApps { limit: APPS_MAX });
        }
        let mut account = account.unwrap_or_default();
        let (used, staged) = (account.used(), account.reserved.amount());
        let exceeded = |what, limit, used, requested| {
            Err(Error::QuotaExceeded { app: app.to_owned(), what, limit, used, requested })
        };
        if !fits(used.bytes, wanted.bytes, self.bytes_max) {
            return exceeded(Counted::Bytes, self.bytes_max, used.bytes, wanted.bytes);
        }
        if !fits(used.files, wanted.files, self.files_max) {
            return exceeded(Counted::Files, self.files_max, used.files, wanted.files);
        }
        let (limit, used, requested) = (self.staged_bytes_max, staged.bytes, wanted.bytes);
        if !fits(used, requested, limit) {
            return Err(Error::TempBudgetExceeded { app: app.to_owned(), limit, used, requested });
        }
        account.reserved = account.reserved.plus(wanted);
        keep(&mut accounts, app, account);
        Ok(())
    }

    fn change(&self, app: &str, change: impl FnOnce(&mut Account)) {
        let mut accounts = self.lock();
        let mut account = accounts.get(app).copied().unwrap_or_default();
        change(&mut account);
        keep(&mut accounts, app, account);
    }
}

/// An app that has nothing needs no account.
fn keep(accounts: &mut BTreeMap<Box<str>, Account>, app: &str, account: Account) {
    if account == Account::default() {
        accounts.remove(app);
    } else if let Some(old) = accounts.get_mut(app) {
        *old = account;
    } else {
        accounts.insert(app.into(), account);
    }
}

/// Whether so much more stays within the limit. Nothing more always does.
fn fits(used: u64, requested: u64, limit: u64) -> bool {
    requested == 0 || used.checked_add(requested).is_some_and(|sum| sum <= limit)
}

impl Reservation {
    /// The bytes it holds.
    pub(crate) fn bytes(&self) -> u64 {
        self.held.bytes
    }

    /// Holds so many bytes more, or says why not and holds what it held.
    pub(crate) fn grow(&mut self, bytes: u64) -> Result<()> {
        self.ledger.hold(&self.app, Amount { bytes, files: 0 })?;
        // What the ledger has promised is below its limits, and they are below 2^53.
        self.held.bytes = self.held.bytes.saturating_add(bytes);
        Ok(())
    }

    /// It is an object now, in the place of what was `replaced`.
    pub(crate) fn settle(mut self, replaced: Amount) {
        let held = std::mem::take(&mut self.held);
        self.ledger.change(&self.app, |account| {
            account.reserved = account.reserved.less(held);
            account.objects = account.objects.plus(held).less(replaced);
        });
    }

    /// Nobody knows whether it is an object. It is counted as one, and what it would have replaced is counted too: never
    /// less than there is. The next open counts what there is.
    pub(crate) fn settle_unknown(self) {
        self.settle(Amount::default());
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let held = self.held;
        if held != Amount::default() {
            self.ledger.change(&self.app, |account| account.reserved = account.reserved.less(held));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use proptest::prelude::*;

    use super::*;

    fn ledger(bytes: u64, files: u64, pct: u64) -> Arc<Ledger> {
        Ledger::new(&Quota {
            per_app_bytes: bytes.try_into().unwrap(),
            per_app_files: files.try_into().unwrap(),
            temp_ratio_pct: pct.try_into().unwrap(),
        })
    }

    fn amount(bytes: u64, files: u64) -> Amount {
        Amount { bytes, files }
    }

    fn used(ledger: &Ledger, app: &str) -> (u64, u64, u64, u64) {
        let Usage { bytes, files, staged_bytes, staged_files, .. } = ledger.usage(app);
        (bytes, files, staged_bytes, staged_files)
    }

    #[test]
    fn a_reservation_dropped_gives_back_and_one_settled_stays() {
        let ledger = ledger(100, 10, 100);
        let dropped = ledger.reserve("a", amount(40, 1)).unwrap();
        let mut settled = ledger.reserve("a", amount(10, 1)).unwrap();
        assert_eq!(used(&ledger, "a"), (50, 2, 50, 2));
        drop(dropped);
        assert_eq!(used(&ledger, "a"), (10, 1, 10, 1));
        settled.grow(20).unwrap();
        assert_eq!((settled.bytes(), used(&ledger, "a")), (30, (30, 1, 30, 1)));
        settled.settle(Amount::default());
        assert_eq!(used(&ledger, "a"), (30, 1, 0, 0));
        assert_eq!(used(&ledger, "b"), (0, 0, 0, 0));
        ledger.forget("a", Amount::object(30));
        assert_eq!(used(&ledger, "a"), (0, 0, 0, 0));
        assert!(ledger.lock().is_empty(), "no memory for an app that has nothing");
    }

    #[test]
    fn a_replace_is_charged_on_top_until_it_is_settled() {
        let ledger = ledger(100, 2, 100);
        ledger.load("a", amount(60, 1));
        assert!(ledger.reserve("a", Amount::object(41)).is_err());
        let new = ledger.reserve("a", Amount::object(40)).unwrap();
        assert_eq!(used(&ledger, "a"), (100, 2, 40, 1));
        new.settle(Amount::object(60));
        assert_eq!(used(&ledger, "a"), (40, 1, 0, 0));
        let unknown = ledger.reserve("a", Amount::object(5)).unwrap();
        unknown.settle_unknown();
        assert_eq!(used(&ledger, "a"), (45, 2, 0, 0));
    }

    #[test]
    fn replaces_of_one_object_may_be_settled_in_any_order() {
        let ledger = ledger(100, 5, 100);
        let first = ledger.reserve("a", Amount::object(30)).unwrap();
        let second = ledger.reserve("a", Amount::object(5)).unwrap();
        // The second has replaced the first, which is not settled yet.
        second.settle(Amount::object(30));
        assert_eq!(used(&ledger, "a"), (5, 1, 30, 1));
        first.settle(Amount::default());
        assert_eq!(used(&ledger, "a"), (5, 1, 0, 0));
    }

    #[test]
    fn each_limit_holds_at_its_last_unit_and_the_error_says_all_three_numbers() {
        let ledger = ledger(100, 3, 50);
        ledger.load("a", amount(60, 1));
        for (bytes, is_ok) in [(39, true), (40, true), (41, false)] {
            assert_eq!(ledger.reserve("a", amount(bytes, 1)).is_ok(), is_ok, "{bytes}");
        }
        let refused = |app: &str, wanted| ledger.reserve(app, wanted).unwrap_err().to_string();
        let text = "quota of bytes exceeded for `a`: limit=100 used=60 requested=41";
        assert_eq!(refused("a", amount(41, 1)), text);
        for (files, is_ok) in [(1, true), (2, true), (3, false)] {
            assert_eq!(ledger.reserve("a", amount(0, files)).is_ok(), is_ok, "{files}");
        }
        assert_eq!(refused("a", amount(0, 3)), "quota of files exceeded for `a`: limit=3 used=1 requested=3");
        for (bytes, is_ok) in [(49, true), (50, true), (51, false)] {
            assert_eq!(ledger.reserve("b", amount(bytes, 1)).is_ok(), is_ok, "{bytes}");
        }
        let held = ledger.reserve("b", amount(50, 1)).unwrap();
        assert_eq!(refused("b", amount(1, 1)), "temp budget exceeded for `b`: limit=50 used=50 requested=1");
        // What is beyond both is beyond the quota: the temp budget would not help.
        assert!(matches!(ledger.reserve("b", amount(51, 0)), Err(Error::QuotaExceeded { .. })));
        held.settle(Amount::default());
        assert!(ledger.reserve("b", amount(50, 1)).is_ok());
        assert!(matches!(ledger.reserve("b", amount(u64::MAX, 1)), Err(Error::QuotaExceeded { .. })));
        assert!(matches!(ledger.reserve("b", amount(1, u64::MAX)), Err(Error::QuotaExceeded { .. })));
    }

    #[test]
    fn an_app_above_a_lowered_limit_can_only_shrink() {
        let ledger = ledger(100, 1, 100);
        ledger.load("a", amount(150, 3));
        assert!(ledger.reserve("a", amount(1, 0)).is_err());
        assert!(ledger.reserve("a", amount(0, 1)).is_err());
        assert!(ledger.reserve("a", amount(0, 0)).is_ok(), "nothing more is no more");
        ledger.forget("a", Amount::object(150));
        ledger.forget("a", amount(0, 2));
        assert!(ledger.reserve("a", amount(100, 1)).is_ok());
    }

    #[test]
    fn there_are_at_most_so_many_apps_and_one_that_has_nothing_is_none() {
        let ledger = ledger(10, 10, 100);
        for app in 0..APPS_MAX - 1 {
            ledger.load(&app.to_string(), amount(1, 1));
        }
        let last = ledger.reserve("last", amount(0, 1)).unwrap();
        assert!(matches!(ledger.reserve("more", amount(0, 1)), Err(Error::TooManyApps { limit: APPS_MAX })));
        assert!(ledger.reserve("last", amount(1, 1)).is_ok());
        drop(last);
        assert!(ledger.reserve("more", amount(0, 1)).is_ok());
    }

    #[test]
    fn threads_racing_at_the_limit_never_exceed_it_by_a_byte() {
        const THREADS: u64 = 8;
        const ROUNDS: u64 = 4_000;
        // So near that most requests meet the limit, by bytes, by files and by staged bytes.
        let ledger = ledger(64, 12, 75);
        let refused = AtomicU64::new(0);
        let taken = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for thread in 0..THREADS {
                let (ledger, refused, taken) = (&ledger, &refused, &taken);
                scope.spawn(move || {
                    let mut state = thread + 1;
                    let mut next = |below: u64| {
                        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                        (state >> 33) % below
                    };
                    let mut mine: Vec<u64> = Vec::new();
                    for _ in 0..ROUNDS {
                        let len = next(20);
                        let replaced = if next(2) == 0 { mine.pop() } else { None };
                        match ledger.reserve("a", Amount::object(len)) {
                            Ok(mut reservation) => {
                                taken.fetch_add(1, Ordering::Relaxed);
                                let more = next(8);
                                let len = if reservation.grow(more).is_ok() { len + more } else { len };
                                reservation.settle(replaced.map(Amount::object).unwrap_or_default());
                                mine.push(len);
                            }
                            Err(_) => {
                                refused.fetch_add(1, Ordering::Relaxed);
                                mine.extend(replaced);
                            }
                        }
                        let now = ledger.usage("a");
                        assert!(now.bytes <= 64 && now.files <= 12 && now.staged_bytes <= 48, "{now:?}");
                        if next(3) == 0
                            && let Some(gone) = mine.pop()
                        {
                            ledger.forget("a", Amount::object(gone));
                        }
                    }
                    for gone in mine {
                        ledger.forget("a", Amount::object(gone));
                    }
                });
            }
        });
        assert_eq!(used(&ledger, "a"), (0, 0, 0, 0), "all that was taken was given back");
        assert!(refused.into_inner() > 1_000 && taken.into_inner() > 1_000, "there was a race");
    }

    #[derive(Debug, Clone)]
    enum Step {
        Reserve { app: usize, bytes: u64, files: u64 },
        Grow { at: usize, bytes: u64 },
        Drop { at: usize },
        Settle { at: usize, replaced: usize },
        Unknown { at: usize },
        Forget { at: usize },
    }

    fn step() -> impl Strategy<Value = Step> {
        let at = 0..8_usize;
        prop_oneof![
            3 => (0..2_usize, 0..70_u64, 0..3_u64).prop_map(|(app, bytes, files)| Step::Reserve { app, bytes, files }),
            2 => (at.clone(), 0..40_u64).prop_map(|(at, bytes)| Step::Grow { at, bytes }),
            1 => at.clone().prop_map(|at| Step::Drop { at }),
            2 => (at.clone(), 0..4_usize).prop_map(|(at, replaced)| Step::Settle { at, replaced }),
            1 => at.clone().prop_map(|at| Step::Unknown { at }),
            1 => at.prop_map(|at| Step::Forget { at }),
        ]
    }

    /// The dumb one: a list of what there is, summed up each time.
    #[derive(Debug, Default)]
    struct Model {
        objects: Vec<(usize, Amount)>,
        reserved: Vec<(usize, Amount)>,
    }

    impl Model {
        fn sums(&self, app: usize) -> (u64, u64, u64, u64) {
            let sum = |list: &[(usize, Amount)]| {
                let mine = list.iter().filter(|(of, _)| *of == app);
                mine.fold((0, 0), |sum, (_, amount)| (sum.0 + amount.bytes, sum.1 + amount.files))
            };
            let (objects, reserved) = (sum(&self.objects), sum(&self.reserved));
            (objects.0 + reserved.0, objects.1 + reserved.1, reserved.0, reserved.1)
        }

        fn may(&self, app: usize, bytes: u64, files: u64) -> bool {
            let (used_bytes, used_files, staged, _) = self.sums(app);
            (bytes == 0 || (used_bytes + bytes <= 200 && staged + bytes <= 100))
                && (files == 0 || used_files + files <= 6)
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1000))]

        #[test]
        fn the_ledger_is_the_dumb_model(steps in prop::collection::vec(step(), 1..60)) {
            const APPS: [&str; 2] = ["a", "b"];
            let ledger = ledger(200, 6, 50);
            let mut model = Model::default();
            let mut live: Vec<Reservation> = Vec::new();
            for step in steps {
                match step {
                    Step::Reserve { app, bytes, files } => {
                        let may = model.may(app, bytes, files);
                        match ledger.reserve(APPS[app], amount(bytes, files)) {
                            Ok(reservation) => {
                                live.push(reservation);
                                model.reserved.push((app, amount(bytes, files)));
                                prop_assert!(may);
                            }
                            Err(_) => prop_assert!(!may),
                        }
                    }
                    Step::Grow { at, bytes } if at < live.len() => {
                        let may = model.may(model.reserved[at].0, bytes, 0);
                        prop_assert_eq!(live[at].grow(bytes).is_ok(), may);
                        if may {
                            model.reserved[at].1.bytes += bytes;
                        }
                    }
                    Step::Drop { at } if at < live.len() => {
                        drop(live.remove(at));
                        model.reserved.remove(at);
                    }
                    Step::Settle { at, replaced } if at < live.len() => {
                        let (app, held) = model.reserved.remove(at);
                        let old = model.objects.iter().position(|(of, _)| *of == app).filter(|_| replaced > 0);
                        let old = old.map(|old| model.objects.remove(old).1);
                        live.remove(at).settle(old.unwrap_or_default());
                        model.objects.push((app, held));
                    }
                    Step::Unknown { at } if at < live.len() => {
                        live.remove(at).settle_unknown();
                        let kept = model.reserved.remove(at);
                        model.objects.push(kept);
                    }
                    Step::Forget { at } if at < model.objects.len() => {
                        let (app, gone) = model.objects.remove(at);
                        ledger.forget(APPS[app], gone);
                    }
                    // It is about something that is not there.
                    Step::Grow { .. }
                    | Step::Drop { .. }
                    | Step::Settle { .. }
                    | Step::Unknown { .. }
                    | Step::Forget { .. } => {}
                }
                for (app, name) in APPS.iter().enumerate() {
                    prop_assert_eq!(used(&ledger, name), model.sums(app));
                }
            }
        }
    }
}
